"""The procedural world: the same picture always, and words, boxes and masks that are true of it."""

import numpy as np
import pytest

from vitjax.data import scenes, scenes_draw, scenes_text

MANY = np.arange(4000)
PINNED = [[0.32369569165259815, 0.07048458745338348], [0.8905497098598188, 0.9014692160319612]]


@pytest.fixture(scope="module")
def many() -> scenes.Scenes:
    return scenes.sample(0, "train", MANY)


def test_picture_has_the_same_bytes_alone_and_in_any_batch():
    indices = np.arange(300)
    batch = scenes_draw.draw(scenes.sample(3, "train", indices), 32)
    shuffled = np.random.default_rng(0).permutation(indices)
    np.testing.assert_array_equal(scenes_draw.draw(scenes.sample(3, "train", shuffled), 32), batch[shuffled])
    for i in range(0, 300, 7):
        np.testing.assert_array_equal(
            scenes_draw.draw(scenes.sample(3, "train", np.array([i])), 32)[0], batch[i]
        )


def test_generator_is_pinned():
    """Numbers that must never change: caches of other versions of this program rest on them."""
    u = scenes.uniforms(0, "train", np.array([0, 49_999]), 192, stream=0)
    np.testing.assert_allclose(u[:, [0, 191]], PINNED, rtol=0, atol=1e-15)


def test_seeds_splits_streams_and_indices_differ():
    def row(seed=0, split="train", index=5, stream=0):
        return scenes.uniforms(seed, split, np.array([index]), 8, stream)[0]

    others = [row(seed=1), row(split="test"), row(split="validation"), row(index=6), row(stream=1)]
    assert len({tuple(u) for u in [row(), *others]}) == 6


def test_uniforms_are_uniform_and_unrelated():
    u = scenes.uniforms(0, "test", np.arange(20_000), 16, stream=0)
    assert 0 <= u.min() and u.max() < 1
    np.testing.assert_allclose(u.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(u.var(0), 1 / 12, atol=0.002)
    between = np.corrcoef(np.concatenate([u[:-1], u[1:]], axis=1).T) - np.eye(32)
    assert np.abs(between).max() < 0.035


def test_no_picture_of_the_train_split_is_in_the_test_split():
    small = [scenes_draw.draw(scenes.sample(0, split, MANY[:1000]), 16) for split in ("train", "test")]
    train, test = ({picture.tobytes() for picture in pictures} for pictures in small)
    assert len(train) == len(test) == 1000 and not train & test


@pytest.mark.parametrize("field", list(scenes.class_names()))
def test_every_label_is_uniform_over_its_classes(many, field):
    values, names = scenes.labels(many)[field], scenes.class_names()[field]
    counts = np.bincount(values, minlength=len(names))
    assert len(counts) == len(names) == len(set(names))
    expected = len(MANY) / len(names)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_numbers_of_objects_are_spread_over_one_to_five(many):
    counts = np.bincount(many.present.sum(1), minlength=6) / len(MANY)
    assert counts[0] == 0 and counts[1:].min() > 0.15
    assert many.present[:, 0].all()


def test_place_and_size_are_those_of_the_main_circle(many):
    thirds = np.digitize(many.centre[:, 0], [0.375, 0.625])
    np.testing.assert_array_equal(3 * thirds[:, 0] + thirds[:, 1], many.place)
    np.testing.assert_array_equal(np.digitize(2 * many.radius[:, 0], [0.43, 0.565]), many.size)


def test_hue_labels_agree_with_the_colours(many):
    import colorsys

    for row in range(500):
        red, green, blue = many.colours[row, 0, 0]
        hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
        centres = {"red": 0, "orange": 29, "yellow": 54, "green": 118, "cyan": 182}
        centres |= {"blue": 222, "purple": 275, "pink": 322}
        nearest = min(centres, key=lambda name: abs((360 * hue - centres[name] + 180) % 360 - 180))
        assert nearest == scenes.HUES[many.hue[row, 0]] and saturation > 0.7


def test_main_object_is_the_largest_visible_one_and_every_object_is_seen(many):
    sizes = []
    for row in range(400):
        seen = scenes_draw.instances(many, row, 32)
        assert seen.objects.tolist() == np.flatnonzero(many.present[row]).tolist()
        sizes.append(seen.masks.sum((1, 2)))
    main = np.array([s[0] for s in sizes])
    others = np.array([max(s[1:], default=0) for s in sizes])
    assert (main > others).mean() > 0.99
    assert main.min() > 25


def test_masks_hold_the_colours_of_their_objects():
    """Without an object the picture differs where its mask says, but for soft edges and sharp tips."""
    one = scenes.sample(0, "test", MANY[:60])
    for row in range(60):
        scene = scenes.take(one, slice(row, row + 1))
        seen = scenes_draw.instances(scene, 0, 64)
        for m, mask in zip(seen.objects, seen.masks):
            without = scene._replace(present=scene.present & (np.arange(scenes.MAX_OBJECTS) != m))
            apart = scenes_draw.draw(scene, 64)[0].astype(int) - scenes_draw.draw(without, 64)[0]
            changed = np.abs(apart).max(-1) > 0
            assert changed[mask].mean() > 0.95
            grown = mask.copy()
            for axis in (0, 1, 0, 1, 0, 1):
                grown |= np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
            assert not (changed & ~grown).any()


def test_boxes_are_the_bounds_of_the_masks(many):
    for row in range(50):
        seen = scenes_draw.instances(many, row, 48)
        for box, mask in zip(seen.boxes, seen.masks):
            y0, x0, y1, x1 = np.rint(box * 48).astype(int)
            inside = mask[y0:y1, x0:x1]
            assert inside.sum() == mask.sum() > 0
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_content_does_not_depend_on_size(many):
    some = scenes.take(many, slice(0, 64))
    small, large = (scenes_draw.draw(some, size).astype(float) for size in (32, 128))
    reduced = large.reshape(64, 32, 4, 32, 4, 3).mean((2, 4))
    assert np.abs(reduced - small).mean() < 6
    boxes = [[scenes_draw.instances(some, row, size).boxes for row in range(64)] for size in (64, 256)]
    apart = np.abs(np.concatenate(boxes[0]) - np.concatenate(boxes[1]))
    assert (apart < 0.05).mean() > 0.98  # the rest are tips that only the larger picture shows


def test_odd_sizes_and_those_beyond_the_grain_tile_are_drawn():
    few = scenes.sample(0, "train", MANY[:2])
    assert scenes_draw.draw(few, 33).shape == (2, 33, 33, 3)
    assert scenes_draw.draw(few, 300).shape == (2, 300, 300, 3)
    assert scenes_draw.draw(scenes.take(few, slice(0, 0)), 32).shape == (0, 32, 32, 3)


def test_captions_name_the_main_object(many):
    for row in range(300):
        main, *others = scenes_text.things(many, row)
        captions = scenes_text.captions(many, row)
        assert len(set(captions)) == 5
        for caption in captions:
            assert f"{main.hue} {main.shape}" in caption
            assert "  " not in caption and " a orange" not in f" {caption}"
        assert captions[0].startswith(f"a {main.size} {main.pattern} {main.hue} {main.shape}")
        assert f"{scenes.TEXTURES[many.texture[row]]} background" in captions[0]
        for other in others:
            assert f"{other.hue} {other.shape}" in captions[0]


def test_questions_have_one_of_each_type_and_answers_of_the_closed_list(many):
    for row in range(300):
        asked = _questions(many, row)
        assert len(asked) == len(scenes_text.QUESTION_TYPES)
        assert {answer for _, answer in asked} <= set(scenes_text.ANSWERS)
        assert all(question.endswith("?") for question, _ in asked)
    assert len(set(scenes_text.ANSWERS)) == len(scenes_text.ANSWERS)


def test_answers_are_true(many):
    """Each question is read again as a sentence and answered from the objects alone."""
    for row in range(1000):
        for question, answer in _questions(many, row):
            assert answer == _answer(question, scenes_text.things(many, row), many, row), question


@pytest.mark.parametrize("kind", ["existence", "comparison", "relation"])
def test_yes_and_no_are_both_common(many, kind):
    place = scenes_text.QUESTION_TYPES.index(kind)
    answers = [_questions(many, row)[place][1] for row in range(1000)]
    assert 0.35 < answers.count("yes") / 1000 < 0.65


def _questions(many: scenes.Scenes, row: int) -> list[tuple[str, str]]:
    u = scenes.uniforms(0, "train", np.array([row]), scenes_text.SLOTS, stream=2)
    return scenes_text.questions(many, row, u[0])


def _answer(question: str, seen: list, many: scenes.Scenes, row: int) -> str:
    """What a person would answer who knows the objects and reads the question's words."""
    words = question.rstrip("?").split()
    yes = {True: "yes", False: "no"}
    if question.startswith("how many"):
        return str(sum(_is(thing, words[2:-2]) for thing in seen))
    if question.startswith("is there"):
        return yes[any(_is(thing, words[3:]) for thing in seen)]
    if question.startswith("are there more"):
        one, two = (sum(thing.hue == name for thing in seen) for name in (words[3], words[6]))
        return yes[one > two]
    if question.startswith("is the centre"):
        return yes[(seen[0].x < 0.5) == ("left" in words)]
    if question.startswith("is the"):
        one, two = _only(seen, words[2:4]), _only(seen, words[-2:])
        dy, dx = one.y - two.y, one.x - two.x
        return yes[{"above": dy < 0, "below": dy > 0, "left": dx < 0, "right": dx > 0}[words[4]]]
    if "background" in words:
        return scenes.TEXTURES[many.texture[row]]
    if question.startswith("where"):
        return scenes.PLACES[many.place[row]]
    thing = seen[0] if "largest" in words else _only(seen, words[words.index("the") + 1 :])
    field = {"large": "size", "colour": "hue", "shape": "shape", "pattern": "pattern"}[words[1]]
    return getattr(thing, field)


def _is(thing, words: list[str]) -> bool:
    """Whether the words (hues, shapes in either number, 'object') fit the object."""
    return all(
        word.startswith("object") or thing.hue == word or word.startswith(thing.shape) for word in words
    )


def _only(seen: list, words: list[str]):
    (thing,) = [thing for thing in seen if _is(thing, words)]
    return thing
