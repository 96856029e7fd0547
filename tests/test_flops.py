from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from vitjax import flops
from vitjax.models.classifier import Classifier
from vitjax.models.resnet import ResNet
from vitjax.models.vgg import VGG, stages
from vitjax.models.vit import VARIANTS, ViT


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def forward_macs(module, images):
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    return flops.count(module.apply, variables, images) / 2


# MACs of one forward pass, as counted on the originals in PyTorch (timm, torchvision).
@pytest.mark.parametrize("scan", [False, True])
def test_vit_ti_16_has_the_published_macs(scan):
    model = Classifier(ViT(**VARIANTS["Ti"], patch_px=16, scan=scan), 1000)
    assert forward_macs(model, shape(1, 224, 224, 3)) == 1_253_683_200


@pytest.mark.parametrize(
    "blocks, bottleneck, stem, size, classes, macs",
    [
        ((2, 2, 2, 2), False, "imagenet", 224, 1000, 1_814_073_344),
        ((3, 4, 6, 3), True, "imagenet", 224, 1000, 4_089_184_256),
        ((2, 2, 2, 2), False, "cifar", 32, 10, 555_422_720),
    ],
)
def test_resnet_has_the_published_macs(blocks, bottleneck, stem, size, classes, macs):
    model = Classifier(ResNet(blocks=blocks, bottleneck=bottleneck, stem=stem), classes)
    assert forward_macs(model, shape(1, size, size, 3)) == macs


def test_vgg_16_has_the_published_macs():
    model = Classifier(VGG(stages=stages(16), norm=False, head_widths=(4096, 4096)), 1000)
    assert forward_macs(model, shape(1, 224, 224, 3)) == 15_470_264_320


def test_matrix_product_is_two_flops_a_mac():
    assert flops.count(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(3, 4, 5), shape(3, 5, 6)) == 720


def test_what_no_result_comes_from_is_not_counted():
    assert flops.count(lambda a, b: (a @ b, a @ a)[0], shape(4, 4), shape(4, 5)) == 2 * 4 * 4 * 5


def test_pictures_need_no_gradient():
    model = Classifier(ResNet(blocks=(1,), bottleneck=False, stem="cifar"), 10)
    images = shape(2, 8, 8, 3)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, variables, images):
        return jnp.sum(model.apply({**variables, "params": params}, images)["logits"])

    stem, forward = 2 * 2 * 8 * 8 * 64 * 27, 2 * forward_macs(model, images)
    assert flops.count(jax.value_and_grad(loss), variables["params"], variables, images) == 3 * forward - stem


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (2, 4)])
def test_gradient_of_a_convolution_costs_two_forward_passes(stride, groups):
    conv = nn.Conv(8, (3, 3), strides=stride, feature_group_count=groups, use_bias=False)
    images = shape(2, 16, 16, 4)
    variables = jax.eval_shape(conv.init, jax.random.key(0), images)
    forward = flops.count(conv.apply, variables, images)
    assert forward == 2 * (2 * (16 // stride) ** 2 * 8 * 9 * 4 // groups)
    both = flops.count(jax.grad(lambda v, x: conv.apply(v, x).sum(), argnums=(0, 1)), variables, images)
    assert both in (2 * forward, 3 * forward)  # a sum's gradient does not need the forward pass


def test_scan_counts_every_turn():
    def loop(x, w):
        return jax.lax.scan(lambda c, _: (c @ w, None), x, length=7)[0]

    assert flops.count(loop, shape(2, 4), shape(4, 4)) == 7 * 2 * 2 * 4 * 4


def test_longest_branch_stands_for_all():
    def branch(p, x):
        return jax.lax.cond(p, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert flops.count(branch, jax.ShapeDtypeStruct((), bool), shape(4, 4)) == 2 * 2 * 4**3


def test_jit_remat_and_custom_gradients_are_looked_into():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))
    product = 2 * 4**3
    assert flops.count(jax.jit(square), shape(4, 4)) == product
    assert flops.count(jax.value_and_grad(lambda x: square(x).sum()), shape(4, 4)) == 3 * product
    forward = flops.count(jax.checkpoint(lambda x: jnp.tanh(x @ x) @ x), shape(4, 4))
    assert forward == 2 * product


def test_work_of_all_devices_is_counted_inside_shard_map():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    spread = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    assert flops.count(spread, shape(8, 4), shape(4, 4)) == 2 * 8 * 4 * 4


def test_fused_attention_counts_as_its_products():
    aval = SimpleNamespace(shape=(2, 10, 3, 8), size=480)
    for name, products in (("fwd", 2), ("bwd", 5)):
        primitive = SimpleNamespace(name=f"dot_product_attention_{name}_wrapper")
        eqn = SimpleNamespace(
            primitive=primitive,
            invars=[SimpleNamespace(aval=aval)] * 2,
            outvars=[aval],
            effects=(),
            params={"layout": 0},
        )
        jaxpr = SimpleNamespace(eqns=[eqn], outvars=[aval])
        assert flops.count_jaxpr(jaxpr) == products * 2 * (2 * 3 * 10 * 10 * 8)


def test_peak_is_that_of_all_devices_or_unknown():
    a100, unknown = SimpleNamespace(device_kind="NVIDIA A100-SXM4-80GB"), SimpleNamespace(device_kind="cpu")
    assert flops.peak([a100] * 8) == 8 * 312e12
    assert flops.peak(np.array([a100, unknown])) is None


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GH200 480GB", 989.4e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_device_kinds_are_told_apart(kind, peak):
    assert flops.peak([SimpleNamespace(device_kind=kind)]) == peak
