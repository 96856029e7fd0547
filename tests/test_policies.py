"""Published sets of views: how many of which size, and what tells them apart."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from vitjax import augment, policies
from vitjax.config import base_config, form

ALL = {
    name: make
    for name, make in inspect.getmembers(policies, inspect.isfunction)
    if make.__module__ == "vitjax.policies"
}
ALL = {name: make for name, make in ALL.items() if not name.startswith("_")}
SIZES = {"swav": (224,) * 2 + (96,) * 6, "dino": (224,) * 2 + (96,) * 8}


def config_of(name):
    config = base_config()
    config.model.name = "none"
    config.augment.views = ALL[name]()
    return config


@pytest.mark.parametrize("name", ALL)
def test_each_set_has_its_published_sizes_and_a_tiny_form(name):
    config = config_of(name)
    sizes = SIZES.get(name, (224, 224))
    batch = {"image": ((3, 64, 64, 3), jnp.uint8), "size": ((3, 2), jnp.int32), "row": ((3,), jnp.int32)}
    batch = {key: jax.ShapeDtypeStruct(*spec) for key, spec in batch.items()}
    for wanted in (sizes, tuple({224: 32, 96: 16}[size_px] for size_px in sizes)):
        views = jax.eval_shape(augment.multi_view(config), batch, jax.random.key(0))["views"]
        assert augment.view_sizes(config) == wanted == tuple(v.shape[1] for v in views)
        config = form(config, "tiny")


def test_the_asymmetric_pairs_differ_in_blur_and_solarise_alone():
    for name in ("byol", "barlow", "vicreg", "moco_v3", "solo_asymmetric"):
        first, second = (config_of(name).augment.views[view] for view in ("view1", "view2"))
        assert (first.solarise, second.solarise) == (0.0, 0.2)
        assert (first.blur, second.blur) == ((0.0, 0.0) if name == "solo_asymmetric" else (1.0, 0.1))
        differing = {key for key in first if first[key] != second[key]}
        assert differing <= {"blur", "solarise"}
        assert (first.brightness, first.contrast, first.saturation, first.hue) == (0.4, 0.4, 0.2, 0.1)


def test_simclr_on_cifar_has_half_the_strength_and_no_blur():
    view = policies.simclr(strength=0.5, blur=0.0).view
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (view.jitter, view.grey, view.blur, view.jitter_form) == (0.8, 0.2, 0.0, "simclr")


def test_small_crops_are_cut_from_small_parts():
    swav, dino = policies.swav(), policies.dino()
    assert (swav["global"].crop_area, swav.local.crop_area) == ((0.14, 1.0), (0.05, 0.14))
    assert (dino.global1.crop_area, dino.local.crop_area) == ((0.4, 1.0), (0.05, 0.4))
    assert [dino[name].blur for name in dino] == [1.0, 0.1, 0.5]
    assert [dino[name].solarise for name in dino] == [0.0, 0.2, 0.0]
