"""Names and shapes of the state dicts of other libraries' tiny generators and discriminators, in their order."""

N = ("running_mean", "running_var")


def dcgan_generator(z=4, width=2, layers=4):
    channels = [width * 2**i for i in reversed(range(layers))] + [3]
    out = {}
    for i, (a, b) in enumerate(zip([z, *channels], channels)):
        out[f"{3 * i}.weight"] = (a, b, 4, 4)
        out |= batch_norm(3 * i + 1, b) if i < layers else {}
    return out


def dcgan_discriminator(width=2, layers=4):
    out = {"0.weight": (width, 3, 4, 4)}
    for i in range(1, layers):
        out[f"{3 * i - 1}.weight"] = (width * 2**i, width * 2 ** (i - 1), 4, 4)
        out |= batch_norm(3 * i, width * 2**i)
    return out | {f"{3 * layers - 1}.weight": (1, width * 2 ** (layers - 1), 4, 4)}


def batch_norm(index, width):
    shapes = {name: (width,) for name in ("weight", "bias", *N)} | {"num_batches_tracked": ()}
    return {f"{index}.{name}": shape for name, shape in shapes.items()}


def biggan_generator(width=16, chunk=3, shared=6, classes=5):
    out = {"shared.weight": (classes, shared)} | layer("linear", (width * 16, chunk))
    for i in range(3):
        for conv, kernel in (("conv1", 3), ("conv2", 3), ("conv_sc", 1)):
            out |= layer(f"blocks.{i}.0.{conv}", (width, width, kernel, kernel))
        for n in (1, 2):
            out |= {f"blocks.{i}.0.bn{n}.stored_{x}": (width,) for x in ("mean", "var")}
            for x in ("gain", "bias"):
                out |= layer(f"blocks.{i}.0.bn{n}.{x}", (width, shared + chunk), bias=False)
        out |= attention("blocks.1.1", width) if i == 1 else {}
    out |= {f"output_layer.0.{x}": (width,) for x in ("gain", "bias", "stored_mean", "stored_var")}
    return out | layer("output_layer.2", (3, width, 3, 3))


def biggan_discriminator(width=16, classes=5):
    out = {}
    for i in range(4):
        inputs = 3 if i == 0 else width
        out |= layer(f"blocks.{i}.0.conv1", (width, inputs, 3, 3))
        out |= layer(f"blocks.{i}.0.conv2", (width, width, 3, 3))
        out |= layer(f"blocks.{i}.0.conv_sc", (width, inputs, 1, 1)) if i < 2 else {}
        out |= attention(f"blocks.{i}.1", width)
    return out | layer("linear", (1, width)) | layer("embed", (classes, width), bias=False)


def attention(name, width):
    out = {f"{name}.gamma": ()}
    for part, a, b in (("theta", width // 8, width), ("phi", width // 8, width), ("g", width // 2, width)):
        out |= layer(f"{name}.{part}", (a, b, 1, 1), bias=False)
    return out | layer(f"{name}.o", (width, width // 2, 1, 1), bias=False)


def layer(name, shape, bias=True):
    """A layer with spectral normalisation."""
    biases = {f"{name}.bias": shape[:1]} if bias else {}
    return {f"{name}.weight": shape, **biases, f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)}
