"""Several views of each picture: their shapes and order, draws that hang on the row alone, and refused settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import augment, sharding
from vitjax.augment import blur, colour, crop, draws
from vitjax.config import Tracked, base_config, view
from vitjax.errors import UserError

ALL = dict(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2)
ALL |= dict(blur=0.5, blur_px=5, solarise=0.3)


def config_of(**views):
    config = base_config()
    config.data.update(size_px=12, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    config.augment.views.update(views)
    return config


def batch_of(rows, side=20):
    """The same picture in the same row, whatever else is in the batch."""
    images = [np.random.default_rng(row).integers(0, 256, (side, side, 3), np.uint8) for row in rows]
    sizes = np.tile(np.asarray([[side, side - 4]], np.int32), (len(images), 1))
    return {
        "image": jnp.asarray(np.stack(images)),
        "size": jnp.asarray(sizes),
        "row": jnp.asarray(rows, jnp.int32),
    }


def views_of(config, rows, seed=0):
    return jax.jit(augment.multi_view(config))(batch_of(rows), jax.random.key(seed))["views"]


def test_views_take_the_place_of_the_picture_in_the_order_of_their_names():
    config = config_of(small=view(count=3, size_px=8), large=view(count=2))
    batch = batch_of(range(4)) | {"label": jnp.arange(4)}
    out = jax.eval_shape(augment.multi_view(config), batch, jax.random.key(0))
    assert set(out) == {"views", "row", "label"} and isinstance(out["views"], tuple)
    assert [v.shape for v in out["views"]] == [(4, s, s, 3) for s in (12, 12, 8, 8, 8)]
    assert {v.dtype for v in out["views"]} == {jnp.dtype("float32")}
    assert augment.view_sizes(config) == (12, 12, 8, 8, 8)
    assert augment.view_names(config) == ("large 1", "large 2", "small 1", "small 2", "small 3")


def test_a_view_is_its_operations_in_the_published_order():
    config = config_of(view=view(count=2, **ALL))
    batch, key = batch_of(range(8)), jax.random.key(5)
    views = jax.jit(augment.multi_view(config))(batch, key)["views"]
    jitter = colour.Jitter(0.8, 0.4, 0.4, 0.2, 0.1, "torchvision")
    for number, got in enumerate(views):
        keys = draws.view_keys(augment.row_keys(key, batch["row"]), jnp.asarray([number]))
        x = crop.random_resized_crop(
            keys, batch["image"], batch["size"], 12, (0.08, 1.0), (3 / 4, 4 / 3), "bicubic", 0.5
        ).transpose(0, 3, 1, 2)
        units = draws.units(keys)
        x = colour.random_grey(units, colour.random_jitter(units, x, jitter), 0.2)
        x = colour.random_solarise(units, blur.random_blur(units, x, 0.5, (0.1, 2.0), 5, "zero"), 0.3, 0.5)
        wanted = augment.normalize(x.transpose(0, 2, 3, 1), config.data.mean, config.data.std)
        # A value at the threshold of solarise may fall to either side of it.
        assert np.mean(np.abs(got - wanted) > 1e-4) < 1e-3


def test_views_of_a_row_do_not_depend_on_its_batch():
    config = config_of(view1=view(**ALL), view2=view(count=2, size_px=8, **ALL))
    whole, part = views_of(config, range(6)), views_of(config, [4, 2])
    for a, b in zip(whole, part):
        assert np.mean(np.abs(a[jnp.asarray([4, 2])] - b) > 1e-4) < 1e-3
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(whole, views_of(config, range(6), seed=1)))


def test_eight_devices_make_the_views_of_one_without_a_word_between_them():
    config, key = config_of(view=view(count=2, size_px=8, **ALL)), jax.random.key(0)
    batch, step = batch_of(range(16)), jax.jit(augment.multi_view(config))
    alone = step(batch, key)["views"]
    mesh = sharding.make_mesh(config.mesh)
    assert mesh.size == 8
    with sharding.use(mesh):
        batch = sharding.put_batch({name: np.asarray(x) for name, x in batch.items()}, mesh)
        compiled = step.lower(batch, key).compile()
        together = compiled(batch, key)["views"]
    for name in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert name not in compiled.as_text()
    for a, b in zip(alone, together):
        assert np.mean(np.abs(np.asarray(a) - np.asarray(b)) > 1e-4) < 1e-3


def test_views_of_one_kind_have_draws_of_their_own():
    first, second = views_of(config_of(view=view(count=2)), range(4))
    assert (np.abs(first - second).max((1, 2, 3)) > 0.1).all()


def test_numbers_of_operations_and_views_are_used_once():
    numbers = [*draws.ORDER, draws.FIRST_VIEW]
    numbers += [
        n for name, n in vars(draws).items() if name.isupper() and isinstance(n, int) and n < draws.COUNT
    ]
    assert sorted(numbers) == [*range(draws.COUNT), draws.FIRST_VIEW]
    assert draws.FIRST_VIEW + draws.MOST_VIEWS <= 100  # from which the objectives count


def test_without_entries_there_is_the_one_view_of_train_view():
    config, batch, key = config_of(), batch_of(range(3)), jax.random.key(1)
    assert augment.view_sizes(config) == (12,) and augment.view_names(config) == ("",)
    (only,) = augment.multi_view(config)(batch, key)["views"]
    np.testing.assert_array_equal(only, augment.train_view(config)(batch, key)["image"])


def test_every_setting_of_a_view_is_read():
    config = config_of(view=view())
    tracked = Tracked(config)
    augment.multi_view(tracked)
    assert not [key for key in tracked.unread() if "augment.views" in key]


def test_several_views_of_a_crop_of_the_host_are_refused():
    config = config_of(view=view(count=2))
    config.data.crop = "host"
    with pytest.raises(
        UserError, match=r"config\.data\.crop='host': the host cuts one crop.*\(view\).*'device'"
    ):
        augment.multi_view(config)


@pytest.mark.parametrize(
    "setting, value",
    [
        ("count", 0),
        ("count", 81),
        ("size_px", -1),
        ("crop_area", (0.5, 0.2)),
        ("crop_aspect", (1.0,)),
        ("flip", -0.5),
        ("jitter", 1.5),
        ("jitter", 0.8),
        ("jitter_form", "simclr_v2"),
        ("brightness", -0.1),
        ("hue", 0.6),
        ("grey", 2.0),
        ("blur", 1.1),
        ("blur_sigma", (0.0, 2.0)),
        ("blur_px", 4),
        ("blur_edge", "mirror"),
        ("solarise", -1.0),
        ("bluur", 1.0),
    ],
)
def test_bad_settings_of_a_view_are_refused_by_name(setting, value):
    match = r"config\.augment\.views" if value == 81 else rf"config\.augment\.views\.some\.{setting}"
    with pytest.raises(UserError, match=match):
        augment.multi_view(config_of(some=view(**{setting: value})))
