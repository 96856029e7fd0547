"""The generators and discriminators of pytorch/examples (DCGAN) and of BigGAN-PyTorch."""

import numpy as np

from vitjax.interop import table
from vitjax.interop.table import Row
from vitjax.models.biggan import ARCHITECTURES, START


def dcgan_generator(layers: int) -> list[Row]:
    """The table of DCGAN's generator; `layers` is 4 for 64 px. Its convolutions are kept [in, out, h, w] there."""
    out = []
    for i in range(layers + 1):
        # The first one's places come from nothing but the latent: its kernel is read the same way.
        out.append(_kernel(f"params/generator/conv_{i}", f"{3 * i}.weight"))
        out += _batch_norm("generator", f"norm_{i}", f"{3 * i + 1}") if i < layers else []
    return out


def dcgan_discriminator(layers: int) -> list[Row]:
    """The table of DCGAN's discriminator."""
    ours = "discriminator/backbone"
    out = [_kernel(f"params/{ours}/conv_0", "0.weight")]
    for i in range(1, layers):
        out.append(_kernel(f"params/{ours}/conv_{i}", f"{3 * i - 1}.weight"))
        out += _batch_norm(ours, f"norm_{i}", f"{3 * i}")
    return [*out, _kernel("params/discriminator/head", f"{3 * layers - 1}.weight")]


def biggan_generator(size_px: int, attention_px: int, shared: bool) -> list[Row]:
    """The table of BigGAN's generator; `shared` is whether its blocks share a class embedding."""
    root = "generator"
    out = [table.same(f"params/{root}/shared/embedding", "shared.weight")] if shared else []
    out += _linear(f"{root}/linear", "linear")
    for i in range(len(ARCHITECTURES[size_px].generator) - 1):
        ours, theirs = f"{root}/block{i}", f"blocks.{i}.0"
        for name, their_name in (("conv1", "conv1"), ("conv2", "conv2"), ("shortcut", "conv_sc")):
            out += _conv(f"{ours}/{name}", f"{theirs}.{their_name}")
        for n in (1, 2):
            out += _conditional_norm(f"{ours}/norm{n}", f"{theirs}.bn{n}", shared)
        if START * 2 ** (i + 1) == attention_px:
            out += _attention(f"{root}/attention{i}", f"blocks.{i}.1")
    out += [
        table.same(f"params/{root}/norm/scale", "output_layer.0.gain"),
        table.same(f"params/{root}/norm/bias", "output_layer.0.bias"),
        *_stored(f"{root}/norm", "output_layer.0"),
    ]
    return out + _conv(f"{root}/conv", "output_layer.2")


def biggan_discriminator(size_px: int, attention_px: int) -> list[Row]:
    """The table of BigGAN's discriminator."""
    root, architecture, out = "discriminator", ARCHITECTURES[size_px], []
    inputs = (0, *architecture.discriminator)
    for i, (width, halves, name_px) in enumerate(
        zip(architecture.discriminator, architecture.halves, architecture.names)
    ):
        ours, theirs = f"{root}/backbone/block{i}", f"blocks.{i}.0"
        out += _conv(f"{ours}/conv1", f"{theirs}.conv1") + _conv(f"{ours}/conv2", f"{theirs}.conv2")
        if halves or inputs[i] != width:
            out += _conv(f"{ours}/shortcut", f"{theirs}.conv_sc")
        if name_px == attention_px:
            out += _attention(f"{root}/backbone/attention{i}", f"blocks.{i}.1")
    out += _linear(f"{root}/linear", "linear")
    return [
        *out,
        table.same(f"params/{root}/embed/embedding", "embed.weight"),
        *_spectral(f"{root}/embed", "embed"),
    ]


def _kernel(ours: str, theirs: str) -> Row:
    """A kernel [out, in, h, w] there and [h, w, in, out] here; transposed, `in` and `out` change places in both."""
    return table.one(ours, theirs, lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))


def _batch_norm(root: str, ours: str, theirs: str) -> list[Row]:
    return [
        *table.norm(f"params/{root}/{ours}", theirs),
        table.same(f"batch_stats/{root}/{ours}/mean", f"{theirs}.running_mean"),
        table.same(f"batch_stats/{root}/{ours}/var", f"{theirs}.running_var"),
        table.dropped(f"{theirs}.num_batches_tracked", np.zeros((), np.int64)),
    ]


def _stored(ours: str, theirs: str) -> list[Row]:
    names = {"mean": "stored_mean", "var": "stored_var"}
    return [table.same(f"batch_stats/{ours}/{name}", f"{theirs}.{their}") for name, their in names.items()]


def _conditional_norm(ours: str, theirs: str, shared: bool) -> list[Row]:
    out = _stored(f"{ours}/norm", theirs)
    for name in ("gain", "bias"):
        if shared:
            out += _linear(f"{ours}/{name}", f"{theirs}.{name}", bias=False)
        else:
            out.append(table.same(f"params/{ours}/{name}/embedding", f"{theirs}.{name}.weight"))
    return out


def _attention(ours: str, theirs: str) -> list[Row]:
    names = {"query": "theta", "key": "phi", "value": "g", "out": "o"}
    out = [table.same(f"params/{ours}/gamma", f"{theirs}.gamma")]
    for name, their in names.items():
        out += _conv(f"{ours}/{name}", f"{theirs}.{their}", bias=False)
    return out


def _conv(ours: str, theirs: str, bias: bool = True) -> list[Row]:
    biases = [table.bias(f"params/{ours}", theirs)] if bias else []
    return [table.conv(f"params/{ours}", theirs), *biases, *_spectral(ours, theirs)]


def _linear(ours: str, theirs: str, bias: bool = True) -> list[Row]:
    kernel = table.one(f"params/{ours}/kernel", f"{theirs}.weight", np.transpose, np.transpose)
    return [kernel, *([table.bias(f"params/{ours}", theirs)] if bias else []), *_spectral(ours, theirs)]


def _spectral(ours: str, theirs: str) -> list[Row]:
    """The vector [1, out] and the value [1] of the last power iteration there."""
    return [
        table.one(f"spectral/{ours}/u", f"{theirs}.u0", lambda x: x[0], lambda x: x[None]),
        table.one(f"spectral/{ours}/sigma", f"{theirs}.sv0", lambda x: x[0], lambda x: x[None]),
    ]
