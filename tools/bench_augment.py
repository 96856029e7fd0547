"""What augmentation costs: by operation, beside OpenCV, and as a share of a ResNet-50's training step.

    python tools/bench_augment.py
    python tools/bench_augment.py --batch_size=16 --against=opencv
    python tools/bench_augment.py --batch_size=256 --step

Pictures are noise of twice the views' side, as canvases are by default. Timed are SimCLR's two views (jitter, grey
and blur at 224 px), SwAV's eight crops, and each operation alone on a batch of one view, as it stands in the
first. All of them take turns in --blocks blocks of --steps calls; figures are milliseconds of the clock a picture
with all its views, medians, and the range beside them.

--against=opencv does jitter, grey and blur of both of SimCLR's views by hand with OpenCV in uint8, one picture after
the other in as many threads as OpenCV takes, and skips what a picture is spared, as a loader would.

The share of a step is that of the FLOPs of a ResNet-50 on these views, forward and backward, and with --step also
that of its time. FLOPs are those of matrix products and convolutions, and of a blur those of the two products that
accelerators do.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import timing

from vitjax import augment, cli, devices, flops, models, policies
from vitjax.augment import blur, colour, crop, draws
from vitjax.config import base_config
from vitjax.errors import UserError

TWO, EIGHT = "SimCLR's two views", "SwAV's eight crops"
CHANNELS_LAST, PLANES = (0, 2, 3, 1), (0, 3, 1, 2)


def main(argv: Sequence[str]) -> int:
    """Prints a table of times, and the shares."""
    options = cli.parser("bench_augment", __doc__)
    options.prog = "python tools/bench_augment.py"
    options.add_argument("--batch_size", type=int, default=16)
    options.add_argument("--size_px", type=int, default=224, help="the side of the large views")
    options.add_argument("--steps", type=int, default=2, help="calls in a block")
    options.add_argument("--blocks", type=int, default=5, help="blocks of each side")
    options.add_argument("--against", choices=("opencv",), help="do the same by hand on the host, too")
    options.add_argument("--step", action="store_true", help="time the step of a ResNet-50, too")
    options.add_argument("--allow_cpu", action="store_true", help="although an accelerator is there")
    values, _ = cli.parse(options, argv)
    for name in ("batch_size", "size_px", "steps", "blocks"):
        if getattr(values, name) < 1:
            raise UserError(f"--{name}={getattr(values, name)} must be at least 1")
    devices.keep_freed_memory()
    devices.check(values.allow_cpu)
    device = jax.devices()[0].device_kind
    print(
        f"  {device}, {timing.cores()} cores, jax {jax.__version__}, batches of {values.batch_size}, "
        f"views of {values.size_px} px",
        flush=True,
    )
    compiled = {name: _compiled(*program) for name, program in programs(values).items()}
    sides = {name: _calls(program, args) for name, (program, args) in compiled.items()}
    if values.against:
        sides["OpenCV: jitter, grey, blur"] = by_hand(values)
    if values.step:
        for name, sizes_px in steps(values).items():
            sides[f"a step on {name}"] = _calls(*_compiled(*step(values, sizes_px)))
    seconds = timing.interleave(sides, values.steps, values.blocks)
    print(table(seconds, values.batch_size), flush=True)
    print(shares(values, seconds), flush=True)
    return 0


def programs(values: Any) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """{what: (function, arguments)} of all that is timed."""
    batch, size_px = pictures(values), values.size_px
    key = jax.random.key(0)
    units = draws.units(augment.row_keys(key, batch["row"]))
    settings = policies.simclr()["view"]
    jitter = jitter_of(settings)
    one = jnp.asarray(
        np.random.default_rng(1).uniform(size=(values.batch_size, 3, size_px, size_px)), jnp.float32
    )
    two = jnp.concatenate([one, one[::-1]])
    twice = draws.units(augment.row_keys(key, jnp.arange(2 * values.batch_size)))
    kernel_px = blur.published_kernel_px(size_px)
    sigma = settings.blur_sigma

    def blurred(units: Any, images: Any) -> Any:
        return blur.random_blur(units, images, settings.blur, sigma, kernel_px, settings.blur_edge)

    def recoloured(units: Any, images: Any) -> Any:
        images = colour.random_jitter(units, images.transpose(PLANES), jitter)
        return blurred(units, colour.random_grey(units, images, settings.grey)).transpose(CHANNELS_LAST)

    def cut(key: Any, batch: Any) -> Any:
        keys = augment.row_keys(key, batch["row"])
        area, aspect, flip = settings.crop_area, settings.crop_aspect, settings.flip
        return crop.random_resized_crop(
            keys, batch["image"], batch["size"], size_px, area, aspect, "bicubic", flip
        )

    return {
        TWO: (views_by(policies.simclr(), size_px), (batch, key)),
        EIGHT: (views_by(policies.swav(local_px=local_px(values)), size_px), (batch, key)),
        "SimCLR: jitter, grey, blur": (recoloured, (twice, two.transpose(CHANNELS_LAST))),
        "one crop": (cut, (key, batch)),
        "one jitter": (lambda units, x: colour.random_jitter(units, x, jitter), (units, one)),
        "one grey": (lambda units, x: colour.random_grey(units, x, settings.grey), (units, one)),
        "one blur": (blurred, (units, one)),
    }


def pictures(values: Any) -> dict[str, Any]:
    """A batch as the loader gives it."""
    side, count = 2 * values.size_px, values.batch_size
    image = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    size = np.full((count, 2), side, np.int32)
    return jax.device_put({"image": image, "size": size, "row": np.arange(count, dtype=np.int32)})


def views_by(views: Any, size_px: int) -> Callable[..., Any]:
    """(batch, key) -> the views of a policy."""
    config = base_config()
    config.data.size_px, config.augment.views = size_px, views
    made = augment.multi_view(config)
    return lambda batch, key: made(batch, key)["views"]


def jitter_of(settings: Any) -> colour.Jitter:
    """The jitter of a view's settings."""
    strengths = (settings[name] for name in ("brightness", "contrast", "saturation", "hue"))
    return colour.Jitter(settings.jitter, *strengths, form=settings.jitter_form)


def local_px(values: Any) -> int:
    """The side of SwAV's small crops: 96 beside 224."""
    return values.size_px * 3 // 7


def steps(values: Any) -> dict[str, Sequence[int]]:
    """{whose views: the side of each}, of a picture."""
    return {TWO: [values.size_px] * 2, EIGHT: [values.size_px] * 2 + [local_px(values)] * 6}


def step(values: Any, sizes_px: Sequence[int]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function that takes the gradient of a ResNet-50 on such views of a batch, one pass a size; its arguments."""
    model = resnet50()
    views = [
        jnp.zeros((sizes_px.count(side) * values.batch_size, side, side, 3)) for side in sorted(set(sizes_px))
    ]
    variables = jax.eval_shape(model.init, jax.random.key(0), views[0][:1])
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), variables)

    others = [name for name in variables if name != "params"]

    def loss(params: Any, views: Any) -> Any:
        trained = {**variables, "params": params}
        outs = [model.apply(trained, images, train=True, mutable=others)[0] for images in views]
        return sum(jnp.mean(out["features"] ** 2) for out in outs)

    return jax.grad(loss), (variables["params"], views)


def resnet50() -> Any:
    """A ResNet-50 as in configs/supervised_resnet50.py."""
    config = base_config()
    config.model.update(
        dict(name="resnet", depth=50, width=64, stem="imagenet", zero_init_residual=True)
    )
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return models.build(config.model, dtype)


def by_hand(values: Any) -> Callable[[int], None]:
    """Both views' jitter, grey and blur of every picture, by OpenCV."""
    settings, rng = policies.simclr()["view"], np.random.default_rng(0)
    shape = (2 * values.batch_size, values.size_px, values.size_px, 3)
    images = rng.integers(0, 256, shape, np.uint8)
    kernel_px = blur.published_kernel_px(values.size_px)

    def run(steps: int) -> None:
        for _ in range(steps):
            for image in images:
                recoloured_by_hand(image, settings, kernel_px, rng)

    return run


def recoloured_by_hand(
    image: np.ndarray, settings: Any, kernel_px: int, rng: np.random.Generator
) -> np.ndarray:
    """uint8 [H, W, 3], jittered, perhaps grey, perhaps blurred: the fastest that OpenCV has for each."""
    if rng.random() < settings.jitter:
        for kind in rng.permutation(4):
            image = ADJUSTMENTS[kind](image, settings, rng)
    if rng.random() < settings.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < settings.blur:
        image = cv2.GaussianBlur(
            image, (kernel_px, kernel_px), rng.uniform(*settings.blur_sigma), borderType=cv2.BORDER_CONSTANT
        )
    return image


def _factor(strength: float, rng: np.random.Generator) -> float:
    return rng.uniform(max(0.0, 1 - strength), 1 + strength)


def _brightness(image: np.ndarray, settings: Any, rng: np.random.Generator) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=_factor(settings.brightness, rng))


def _contrast(image: np.ndarray, settings: Any, rng: np.random.Generator) -> np.ndarray:
    factor = _factor(settings.contrast, rng)
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    table = np.clip(np.arange(256) * factor + (1 - factor) * mean, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def _saturation(image: np.ndarray, settings: Any, rng: np.random.Generator) -> np.ndarray:
    factor = _factor(settings.saturation, rng)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def _hue(image: np.ndarray, settings: Any, rng: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    turned = (np.arange(256) + rng.uniform(-settings.hue, settings.hue) * 180) % 180
    hsv[..., 0] = cv2.LUT(hsv[..., 0], turned.astype(np.uint8))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


ADJUSTMENTS = (_brightness, _contrast, _saturation, _hue)


def table(seconds: Mapping[str, Sequence[float]], batch_size: int) -> str:
    """A line for each side: milliseconds a picture."""
    width = max(map(len, seconds))
    lines = []
    for name, each in seconds.items():
        middle, low, high = (1000 * f(each) / batch_size for f in (statistics.median, min, max))
        lines.append(f"  {name:{width}}  {middle:8.3f} ms a picture ({low:.3f} to {high:.3f})")
    ours, theirs = (seconds.get(f"{name}: jitter, grey, blur") for name in ("SimCLR", "OpenCV"))
    if theirs:
        lines.append(f"  jitter, grey and blur take {timing.ratio(ours, theirs)} times what OpenCV takes")
    return "\n".join(lines)


def shares(values: Any, seconds: Mapping[str, Sequence[float]]) -> str:
    """What part of a ResNet-50's step on them views are, by FLOPs and, where it was timed, by time."""
    lines, made = [], programs(values)
    for name, sizes_px in steps(values).items():
        whole, views = _flops(step(values, sizes_px)), _flops(made[name])
        share = f"{views / whole:.2%} of the step on them, {whole / values.batch_size / 1e9:.4g} GFLOP a picture"
        if f"a step on {name}" in seconds:
            share += f"; {timing.ratio(seconds[name], seconds[f'a step on {name}'])} of its time"
        lines.append(f"  {name}: {share}")
    return "\n".join(lines)


def _flops(program: tuple[Callable[..., Any], tuple[Any, ...]]) -> float:
    function, args = program
    return flops.count(function, *args)


def _compiled(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    return jax.jit(function).lower(*args).compile(), args


def _calls(program: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[int], None]:
    """Runs a compiled program so many times."""

    def run(steps: int) -> None:
        for _ in range(steps):
            out = program(*args)
        jax.block_until_ready(out)

    return run


if __name__ == "__main__":
    cli.run(main)
