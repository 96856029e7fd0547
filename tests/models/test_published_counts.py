"""Every published depth and width has the published number of parameters; nothing is computed."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from vitjax import models
from vitjax.models import vit
from vitjax.models.classifier import Classifier


def resnet(depth, width=64, stem="imagenet"):
    return dict(name="resnet", depth=depth, width=width, stem=stem, zero_init_residual=True)


def vgg(depth, norm, head_widths=(4096, 4096)):
    return dict(name="vgg", depth=depth, width=64, norm=norm, head_widths=head_widths, dropout=0.5)


def of_vit(variant, patch_px, **changes):
    settings = dict(name="vit", **vit.VARIANTS[variant], patch_px=patch_px, class_token=True, pool="cls")
    settings |= dict(
        posemb="learned", norm_eps=1e-6, activation="gelu", drop_path=0.0, scan=True, remat=False
    )
    return settings | dict(attention="xla") | changes


def wide_resnet(width, blocks, bottleneck):
    """The count of a ResNet of any width without classifier, in closed form: convolutions, then two a channel."""
    total, channels = 3 * 7 * 7 * width + 2 * width, width
    for stage, depth in enumerate(blocks):
        mid = width * 2**stage
        out = 4 * mid if bottleneck else mid
        for i in range(depth):
            total += (
                channels * mid + 9 * mid**2 + mid * out if bottleneck else 9 * channels * mid + 9 * mid**2
            )
            total += 4 * mid + 2 * out if bottleneck else 4 * mid
            if i == 0 and channels != out:
                total += channels * out + 2 * out
            channels = out
    return total


R50, R101, R152, R200 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3), (3, 24, 36, 3)

# Of torchvision and timm, with a classifier of so many classes; 0 is without.
COUNTS = [
    (resnet(18), 224, 1000, 11_689_512),
    (resnet(34), 224, 1000, 21_797_672),
    (resnet(50), 224, 1000, 25_557_032),
    (resnet(101), 224, 1000, 44_549_160),
    (resnet(152), 224, 1000, 60_192_808),
    (resnet(18, stem="cifar"), 32, 10, 11_173_962),
    (resnet(18, stem="cifar"), 32, 0, 11_168_832),
    (resnet(18, stem="cifar_half"), 32, 10, 11_173_962),
    (resnet(50, stem="cifar"), 32, 10, 23_520_842),
    (resnet(50), 224, 0, wide_resnet(64, R50, True)),
    (resnet(50, 128), 224, 0, wide_resnet(128, R50, True)),
    (resnet(50, 256), 224, 0, wide_resnet(256, R50, True)),
    (resnet(101, 128), 224, 0, wide_resnet(128, R101, True)),
    (resnet(152, 128), 224, 0, wide_resnet(128, R152, True)),
    (resnet(18, 128), 224, 0, wide_resnet(128, (2, 2, 2, 2), False)),
    (resnet(34, 256), 224, 0, wide_resnet(256, R50, False)),
    (vgg(11, False), 224, 1000, 132_863_336),
    (vgg(11, True), 224, 1000, 132_868_840),
    (vgg(13, False), 224, 1000, 133_047_848),
    (vgg(13, True), 224, 1000, 133_053_736),
    (vgg(16, False), 224, 1000, 138_357_544),
    (vgg(16, True), 224, 1000, 138_365_992),
    (vgg(19, False), 224, 1000, 143_667_240),
    (vgg(19, True), 224, 1000, 143_678_248),
    (vgg(16, True, ()), 32, 10, 14_728_266),
    (of_vit("Ti", 16), 224, 1000, 5_717_416),
    (of_vit("S", 16), 224, 1000, 22_050_664),
    (of_vit("S", 16, heads=12), 224, 1000, 22_050_664),  # MoCo v3's
    (of_vit("B", 16), 224, 1000, 86_567_656),
    (of_vit("B", 32), 224, 1000, 88_224_232),
    (of_vit("L", 16), 224, 1000, 304_326_632),
    (of_vit("H", 14), 224, 1000, 632_045_800),
    (of_vit("H", 14), 224, 0, 630_764_800),
    (of_vit("B", 16), 224, 0, 85_798_656),
    (of_vit("Ti", 4), 32, 10, 5_362_762),
    (of_vit("S", 4), 32, 10, 21_342_346),
    (of_vit("B", 16, class_token=False, pool="gap"), 224, 1000, 86_566_120),
    (of_vit("B", 16, class_token=False, pool="map"), 224, 0, 92_884_224),
]


def said(settings):
    return "-".join(str(settings[key]) for key in ("name", "depth", "width"))


@pytest.mark.parametrize(
    "settings, size_px, classes, wanted", COUNTS, ids=[f"{said(s)}-{px}-{k}" for s, px, k, _ in COUNTS]
)
def test_parameter_count_is_the_published_one(settings, size_px, classes, wanted):
    backbone = models.build(ConfigDict(settings))
    module = Classifier(backbone, classes) if classes else backbone
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == wanted


def test_the_closed_form_is_that_of_published_networks():
    assert wide_resnet(64, R50, True) == 23_508_032 and wide_resnet(64, (2, 2, 2, 2), False) == 11_176_512
    assert wide_resnet(128, R50, True) == 93_907_072
