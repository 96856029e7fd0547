import jax
import numpy as np
import pytest
from fake_batches import clusters, host_batches
from ml_collections import ConfigDict

from vitjax import multihost, sharding
from vitjax.errors import UserError
from vitjax.evals import features


def mesh(devices=8):
    return sharding.make_mesh(ConfigDict(dict(data=1, fsdp=-1, tensor=1)), jax.devices()[:devices])


@jax.jit
def double(batch):
    return 2 * batch["x"]


@pytest.mark.parametrize("devices, size", [(1, 7), (8, 8), (8, 104), (8, 1024)])
def test_every_picture_comes_once_in_order_whatever_the_batches(devices, size):
    x, y = clusters(1003)
    out = features.extract(double, host_batches(x, {"label": y}, size), ("label",), mesh(devices))
    np.testing.assert_array_equal(out.x, 2 * x)
    np.testing.assert_array_equal(out.labels["label"], y)
    assert (out.n, out.n_bad, out.x.dtype) == (1003, 0, np.float32)


def test_pictures_that_cannot_be_decoded_are_left_out_and_counted():
    x, y = clusters(100)
    bad = [0, 41, 99]
    out = features.extract(double, host_batches(x, {"label": y}, 16, bad), ("label",), mesh())
    np.testing.assert_array_equal(out.x, np.delete(2 * x, bad, 0))
    np.testing.assert_array_equal(out.labels["label"], np.delete(y, bad))
    assert (out.n, out.n_bad) == (97, 3)


def test_next_batch_is_dispatched_before_the_last_one_is_fetched(monkeypatch):
    order, fetch = [], multihost.fetch
    monkeypatch.setattr(multihost, "fetch", lambda out: order.append("fetch") or fetch(out))
    x, y = clusters(32)

    def features_of(batch):
        order.append("dispatch")
        return double(batch)

    features.extract(features_of, host_batches(x, {"label": y}, 16), ("label",), mesh())
    assert order == ["dispatch", "dispatch", "fetch", "fetch"]


def test_split_without_a_good_picture_is_refused():
    x, y = clusters(8)
    with pytest.raises(UserError, match="no picture.*8"):
        features.extract(double, host_batches(x, {"label": y}, 8, np.arange(8)), ("label",), mesh())


def test_label_that_the_split_lacks_is_refused():
    x, y = clusters(8)
    with pytest.raises(UserError, match="'label/hue'.*label/shape"):
        features.extract(double, host_batches(x, {"label/shape": y}, 8), ("label/hue",), mesh())


def test_features_that_are_not_finite_are_refused_and_padding_may_be_anything():
    x, y = clusters(9)

    def only(row):
        return lambda batch: batch["x"].at[row].set(np.nan)

    features.extract(only(3), host_batches(x[:2], {"label": y}, 8), ("label",), mesh())
    with pytest.raises(UserError, match="not finite"):
        features.extract(only(0), host_batches(x, {"label": y}, 8), ("label",), mesh())


@pytest.mark.parametrize("n, rows", [(1, 4), (31, 4), (32, 4), (33, 4), (5, 1000)])
def test_tiles_hold_the_rows_in_order_and_zeros_after_them(n, rows):
    x = np.arange(1, 3 * n + 1, dtype=np.float32).reshape(n, 3)
    tiles = features.tiled(x, mesh(), rows)
    assert tiles.shape[1] % 8 == 0 and tiles.shape[1] <= 8 * rows
    flat = np.asarray(tiles).reshape(-1, 3)
    np.testing.assert_array_equal(flat[:n], x)
    assert not flat[n:].any()
    assert {s.data.shape[1] for s in tiles.addressable_shards} == {tiles.shape[1] // 8}


def test_raw_pixels_are_the_middle_of_the_picture_at_most_32_px_wide():
    image = np.zeros((2, 64, 64, 3), np.uint8)
    image[0, :48, :48] = np.arange(48)[:, None, None] * 5  # 48 x 48 inside its canvas
    image[1] = 255
    batch = {"image": image, "size": np.array([[48, 48], [64, 64]], np.int32)}
    large = ConfigDict(dict(size_px=48, eval_crop_fraction=1.0, eval_aspect="keep", resize="bilinear"))
    out = np.asarray(features.raw_pixels(large)(batch))
    assert out.shape == (2, 32 * 32 * 3) and out.dtype == np.float32
    np.testing.assert_allclose(out[1], 1, atol=1e-6)
    rows = out[0].reshape(32, 32, 3)[:, 0, 0]
    np.testing.assert_allclose(rows[2:-2], ((np.arange(32) + 0.5) * 1.5 - 0.5)[2:-2] * 5 / 255, atol=1e-3)
    small = ConfigDict(dict(size_px=16, eval_crop_fraction=1.0, eval_aspect="keep", resize="bilinear"))
    assert features.raw_pixels(small)(batch).shape == (2, 16 * 16 * 3)
