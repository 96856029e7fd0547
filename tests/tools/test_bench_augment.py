"""The augmentation bench: every line is there, and OpenCV's side does to a picture what ours does."""

from types import SimpleNamespace

import bench_augment
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import policies
from vitjax.augment import colour
from vitjax.errors import UserError


def test_each_operation_and_both_sides_have_their_line(capsys):
    small = ["--batch_size=2", "--size_px=28", "--steps=1", "--blocks=1", "--against=opencv", "--allow_cpu"]
    assert bench_augment.main(small) == 0
    printed = capsys.readouterr().out
    for line in ("SimCLR's two views", "SwAV's eight crops", "one crop", "one jitter", "one grey", "one blur"):
        assert f"  {line} " in printed, printed
    assert "times what OpenCV takes" in printed and "GFLOP a picture" in printed


def test_two_products_a_blur_are_half_a_percent_of_a_step():
    values = SimpleNamespace(batch_size=1, size_px=224)
    assert 0.004 < flops_of(bench_augment.programs(values)["SimCLR: jitter, grey, blur"]) / on_views(values) < 0.007


def test_a_step_on_small_crops_is_cheaper_by_their_area():
    values = SimpleNamespace(batch_size=1, size_px=224)
    eight = flops_of(bench_augment.step(values, bench_augment.steps(values)["SwAV's eight crops"]))
    assert eight / on_views(values) == pytest.approx(1 + 6 / 2 * (96 / 224) ** 2, rel=0.01)


def on_views(values):
    return flops_of(bench_augment.step(values, [values.size_px] * 2))


def flops_of(program):
    function, args = program
    return bench_augment.flops.count(function, *args)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_opencvs_adjustments_are_ours_but_for_rounding(name):
    y, x = np.mgrid[:16, :16] * 8
    image = np.stack([x + y, 255 - y, (x + 100) % 256], -1).astype(np.uint8)
    factor = 0.15 if name == "hue" else 1.3
    fixed = SimpleNamespace(uniform=lambda low, high: factor)
    settings = policies.simclr()["view"]
    by_hand = getattr(bench_augment, f"_{name}")(image, settings, fixed)
    adjustment = getattr(colour, name)(jnp.asarray([factor], jnp.float32))
    ours = colour.adjusted(jnp.asarray(image.transpose(2, 0, 1)[None] / 255, jnp.float32), adjustment)
    off = np.abs(np.asarray(ours[0]).transpose(1, 2, 0) * 255 - by_hand)
    assert np.median(off) < 2 and np.quantile(off, 0.95) < 8


def test_a_bench_of_nothing_is_refused():
    with pytest.raises(UserError, match="--blocks=0 must be at least 1"):
        bench_augment.main(["--blocks=0"])
