"""Pictures that are the same, nearly the same, and not the same."""

import cv2
import numpy as np
import simplejpeg

from vitjax.data import duplicates
from vitjax.data.decode import decode, resize


def picture(seed, edge_px=96):
    """A random picture of large forms with smaller and weaker ones on them, as photographs are."""
    rng, whole = np.random.default_rng(seed), np.zeros((edge_px, edge_px, 3), np.float32)
    for forms in (4, 8, 16, 32):
        layer = rng.uniform(0, 64, (forms, forms, 3)).astype(np.float32)
        whole += cv2.resize(layer, (edge_px, edge_px), interpolation=cv2.INTER_CUBIC)
    return whole.clip(0, 255).astype(np.uint8)


def apart(one, other):
    return int(np.bitwise_count(duplicates.perceptual_hash(one) ^ duplicates.perceptual_hash(other)))


def test_another_quality_and_size_leave_the_hash_near():
    for seed in range(8):
        whole = picture(seed)
        worse = decode(simplejpeg.encode_jpeg(resize(whole, 60, 60), 75))
        assert apart(whole, worse) <= duplicates.NEAR_BITS


def test_other_pictures_are_far():
    hashes = np.array([duplicates.perceptual_hash(picture(seed)) for seed in range(50)])
    between = np.bitwise_count(hashes[:, None] ^ hashes)[np.triu_indices(50, 1)]
    assert between.min() > 3 * duplicates.NEAR_BITS


def test_pictures_of_one_colour_are_alike_whatever_their_noise():
    noisy = np.random.default_rng(0).integers(250, 253, (40, 40, 3), np.uint8)
    assert (
        duplicates.perceptual_hash(noisy) == duplicates.perceptual_hash(np.full((9, 9, 3), 8, np.uint8)) == 0
    )


def test_near_ones_are_those_of_an_exhaustive_search():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 400, np.uint64)
    for k in range(0, 200, 2):  # neighbours that differ in 0 to 5 bits anywhere
        hashes[k + 1] = hashes[k]
        for bit in rng.choice(64, k % 6, replace=False).tolist():
            hashes[k + 1] ^= np.uint64(1 << bit)
    close = np.bitwise_count(hashes[:, None] ^ hashes) <= duplicates.NEAR_BITS
    np.testing.assert_array_equal(duplicates.near(hashes), close.argmax(1))


def test_a_group_reaches_over_its_members_and_has_the_first_of_them():
    chain = np.array([0b111111, 2**64 - 1, 0, 0b111], np.uint64)  # 2 and 0 are apart, and both near 3
    np.testing.assert_array_equal(duplicates.near(chain), [0, 1, 0, 0])


def test_a_crowd_of_equal_hashes_is_one_group():
    hashes = np.zeros(10_000, np.uint64)
    assert not duplicates.near(hashes).any()


def test_the_same_content_is_the_first_of_it():
    data = [b"a", b"b", b"a", np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)]
    hashes = np.stack([duplicates.content_hash(each) for each in data])
    np.testing.assert_array_equal(duplicates.same(hashes), [0, 1, 0, 3, 4])


def test_what_is_held_twice_is_counted_within_splits_and_between_them():
    train, test = [b"a", b"b", b"a", b"a"], [b"c", b"b"]
    content = [np.stack([duplicates.content_hash(data) for data in split]) for split in (train, test)]
    likeness = [np.array([0, 255 << 8, 0, 0], np.uint64), np.array([1, 255 << 8], np.uint64)]
    splits = {
        title: duplicates.Hashes(content[k], likeness[k], lambda place, title=title: f"{title} {place}")
        for k, title in enumerate(("train", "test"))
    }
    found = duplicates.held_twice(splits)
    assert list(found) == ["train", "test in train", "test"]
    assert found["train"]["exact"] == {
        "count": 2,
        "examples": [["train 2", "train 0"], ["train 3", "train 0"]],
    }
    assert found["test in train"]["exact"] == {"count": 1, "examples": [["test 1", "train 1"]]}
    assert found["test in train"]["near"]["examples"] == [["test 0", "train 0"], ["test 1", "train 1"]]
    assert found["test"]["exact"] == found["test"]["near"] == {"count": 0, "examples": []}
