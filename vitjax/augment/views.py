"""Views by a config: for training one or several of each picture, for evaluation the middle."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from vitjax import config as defaults
from vitjax.augment import blur, colour, crop, draws
from vitjax.errors import UserError

Batch = Mapping[str, Any]
# (V keys of each row, canvases, sizes) -> V normalised pictures of each
View = Callable[[Key[Array, " B*V"], UInt8[Array, "B H W 3"], Int[Array, "B 2"]], Float[Array, "B*V S S 3"]]


def normalize(
    images: Float[Array, "B H W 3"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "B H W 3"]:
    """(images - mean) / std of pictures in 0..1, a mean and a deviation for each channel."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return (images - mean) * (1 / std)


def to_uint8(
    images: Float[Array, "B H W 3"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[Array, "B H W 3"]:
    """Normalised pictures as they can be shown."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    shown = jnp.round((images.astype(jnp.float32) * std + mean) * 255)
    return jnp.clip(shown, 0, 255).astype(jnp.uint8)


def train_view(config: Any) -> Callable[[Batch, Key[Array, ""]], dict[str, Any]]:
    """(batch, key) -> batch, whose `image` is a random crop, perhaps mirrored, normalised, float32.

    It is what methods with one view of each picture train on: that of `config.augment.views` where one stands there.
    With `config.data.crop = 'host'` the canvas is the crop already.

    Raises:
      UserError: a range is empty or a probability is none, or `config.augment.views` makes several views, or one of
        another size than `config.data.size_px`.
    """
    if config.augment.views:
        _check_single(config)
        views = multi_view(config)
        return lambda batch, key: {**batch, "image": views(batch, key)["views"][0]}
    view = _only_view(config)

    def with_view(batch: Batch, key: Key[Array, ""]) -> dict[str, Any]:
        keys = draws.row_keys(key, batch["row"])
        return {**batch, "image": view(keys, batch["image"], batch["size"])}

    return with_view


def multi_view(config: Any) -> Callable[[Batch, Key[Array, ""]], dict[str, Any]]:
    """(batch, key) -> batch, in which `views`, a tuple of float32 [B, S, S, 3], are in place of `image` and `size`.

    The views are those of `config.augment.views`, in the order of their names, each as often as its `count`
    says; without any it is the one of `train_view`.

    Raises:
      UserError: a setting of a view is unknown or out of range, or the host has cut the crops already.
    """
    entries = config.augment.views
    if not entries:
        one = train_view(config)
        return lambda batch, key: _replaced(batch, (one(batch, key)["image"],))
    if config.data.crop != "device":
        raise UserError(
            f"config.data.crop={config.data.crop!r}: the host cuts one crop of each picture, of which the views of "
            f"config.augment.views ({', '.join(entries)}) cannot be made; set config.data.crop='device'"
        )
    _check_number(config)
    made = [
        (settings.count, _view(*_named(name, settings), config.data)) for name, settings in entries.items()
    ]

    def with_views(batch: Batch, key: Key[Array, ""]) -> dict[str, Any]:
        rows, views = draws.row_keys(key, batch["row"]), []
        for count, view in made:
            # All of one kind at once, so that SwAV's eight crops compile as two.
            keys = draws.view_keys(rows, len(views) + jnp.arange(count))
            pictures = view(keys, batch["image"], batch["size"])
            by_row = pictures.reshape(len(rows), count, *pictures.shape[1:])
            views.extend(by_row[:, k] for k in range(count))
        return _replaced(batch, tuple(views))

    return with_views


def view_sizes(config: Any) -> tuple[int, ...]:
    """The side in pixels of each view that `multi_view` makes."""
    entries = config.augment.views
    if not entries:
        return (config.data.size_px,)
    sizes = [(settings.count, settings.size_px or config.data.size_px) for settings in entries.values()]
    return tuple(size_px for count, size_px in sizes for _ in range(count))


def view_names(config: Any) -> tuple[str, ...]:
    """What each view is called: its name in the config, and which it is where there are several; '' is the only one."""
    counts = {name: settings.count for name, settings in config.augment.views.items()} or {"": 1}
    return tuple(
        f"{name} {k + 1}" if count > 1 else name for name, count in counts.items() for k in range(count)
    )


def eval_view(config: Any) -> Callable[[Batch], Float[Array, "B S S 3"]]:
    """batch -> the middle of each picture, normalised, float32.

    Raises:
      UserError: a setting is not among the choices, or the crop fraction not above 0 and at most 1.
    """
    data = config.data
    mean, std = _statistics(data)
    middle = eval_pictures(data, data.size_px)
    return lambda batch: normalize(middle(batch), mean, std)


def eval_pictures(data: Any, size_px: int) -> Callable[[Batch], Float[Array, "B S S 3"]]:
    """batch -> the middle of each picture in 0..1, float32, cut as for evaluation but of `size_px` pixels.

    Args:
      data: the config's section.

    Raises:
      UserError: a setting is not among the choices, or the crop fraction not above 0 and at most 1.
    """
    method = _choice("config.data.resize", data.resize, crop.METHODS)
    aspect = _choice("config.data.eval_aspect", data.eval_aspect, crop.ASPECTS)
    fraction = data.eval_crop_fraction
    if not 0 < fraction <= 1:
        raise UserError(f"config.data.eval_crop_fraction={fraction} must be above 0 and at most 1; try 0.875")
    return lambda batch: crop.center_crop(batch["image"], batch["size"], size_px, fraction, method, aspect)


def _only_view(config: Any) -> View:
    """The view of methods that have one, whose settings stand in `config.augment` itself."""
    data, settings = config.data, config.augment
    crop_settings = dict(crop_area=settings.crop_area, crop_aspect=settings.crop_aspect, flip=settings.flip)
    on_host = _choice("config.data.crop", data.crop, ("device", "host")) == "host"
    view = _view("config.augment", {**defaults.view(), **crop_settings}, data)
    if not on_host:
        return view
    mean, std = _statistics(data)

    def flipped(keys: Array, images: Array, sizes: Array) -> Float[Array, "B S S 3"]:
        return normalize(crop.random_flip(keys, images.astype(jnp.float32) / 255, settings.flip), mean, std)

    return flipped


def _view(path: str, settings: Mapping[str, Any], data: Any) -> View:
    """The view by the settings of `config.view`, which stand at `path` in the config."""
    mean, std = _statistics(data)
    size_px = _at_least(path, settings, "size_px", 0) or data.size_px
    method = _choice("config.data.resize", data.resize, crop.METHODS)
    area = _range(f"{path}.crop_area", settings["crop_area"], highest=1.0)
    aspect = _range(f"{path}.crop_aspect", settings["crop_aspect"])
    flip, recolour = _probability(path, settings, "flip"), _recolouring(path, settings, size_px)

    def view(keys: Array, images: Array, sizes: Array) -> Float[Array, "B S S 3"]:
        cut = crop.random_resized_crop(keys, images, sizes, size_px, area, aspect, method, flip)
        return normalize(recolour(keys, cut), mean, std)

    return view


def _recolouring(
    path: str, settings: Mapping[str, Any], size_px: int
) -> Callable[[Key[Array, " B"], Float[Array, "B S S 3"]], Float[Array, "B S S 3"]]:
    """(row keys, pictures in 0..1) -> pictures, jittered, made grey, blurred, solarised; what is off costs nothing."""
    jitter = _jitter(path, settings)
    grey, blurred, solarise = (_probability(path, settings, name) for name in ("grey", "blur", "solarise"))
    sigma = _range(f"{path}.blur_sigma", settings["blur_sigma"])
    edge = _choice(f"{path}.blur_edge", settings["blur_edge"], blur.EDGES)
    kernel_px = _at_least(path, settings, "blur_px", 0) or blur.published_kernel_px(size_px)
    if kernel_px % 2 == 0:
        raise UserError(f"{path}.blur_px={kernel_px} must be odd, to have a middle; try {kernel_px + 1}")
    threshold = settings["solarise_threshold"]
    steps = [
        (jitter.probability, lambda units, x: colour.random_jitter(units, x, jitter)),
        (grey, lambda units, x: colour.random_grey(units, x, grey)),
        (blurred, lambda units, x: blur.random_blur(units, x, blurred, sigma, kernel_px, edge)),
        (solarise, lambda units, x: colour.random_solarise(units, x, solarise, threshold)),
    ]
    steps = [step for probability, step in steps if probability > 0]

    def recolour(keys: Array, images: Float[Array, "B S S 3"]) -> Float[Array, "B S S 3"]:
        if not steps:
            return images
        units, planes = draws.units(keys), images.transpose(0, 3, 1, 2)
        for step in steps:
            planes = step(units, planes)
        return planes.transpose(0, 2, 3, 1)

    return recolour


def _jitter(path: str, settings: Mapping[str, Any]) -> colour.Jitter:
    strengths = {
        name: _at_least(path, settings, name, 0) for name in ("brightness", "contrast", "saturation", "hue")
    }
    if strengths["hue"] > 0.5:
        raise UserError(f"{path}.hue={strengths['hue']} is in turns: it must be at most 0.5")
    probability, form = _probability(path, settings, "jitter"), settings["jitter_form"]
    if probability > 0 and not any(strengths.values()):
        raise UserError(
            f"{path}.jitter={probability} has no effect without a strength; set brightness, contrast, saturation or hue"
        )
    return colour.Jitter(probability, **strengths, form=_choice(f"{path}.jitter_form", form, colour.FORMS))


def _replaced(batch: Batch, views: tuple[Array, ...]) -> dict[str, Any]:
    return {**{name: batch[name] for name in batch if name not in ("image", "size")}, "views": views}


def _named(name: str, settings: Any) -> tuple[str, Mapping[str, Any]]:
    """Where a view stands in the config, and its settings, if they are those of a view."""
    path, known = f"config.augment.views.{name}", set(defaults.view())
    wrong = sorted(set(settings) ^ known)
    if wrong:
        raise UserError(
            f"{path}.{wrong[0]} is {'missing' if wrong[0] in known else 'no setting of a view'}; "
            f"make it with vitjax.config.view(), which has {', '.join(sorted(known))}"
        )
    return path, dict(settings)


def _check_number(config: Any) -> None:
    for name, settings in config.augment.views.items():
        _at_least(f"config.augment.views.{name}", settings, "count", 1)
    total = len(view_sizes(config))
    if total > draws.MOST_VIEWS:
        raise UserError(f"config.augment.views are {total} views of a picture; at most {draws.MOST_VIEWS}")


def _check_single(config: Any) -> None:
    sizes = view_sizes(config)
    if len(sizes) != 1:
        raise UserError(
            f"config.augment.views makes {len(sizes)} views of a picture, and this method trains on one; leave one of "
            f"{', '.join(config.augment.views)}, with count=1"
        )
    if sizes[0] != config.data.size_px:
        name = next(iter(config.augment.views))
        raise UserError(
            f"config.augment.views.{name}.size_px={sizes[0]} must be config.data.size_px={config.data.size_px} where a "
            "method trains on one view; 0 is the same"
        )


def _statistics(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation of the config, one number a channel."""
    mean, std = np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise UserError(
            f"config.data.mean={tuple(data.mean)} and config.data.std={tuple(data.std)} must be three "
            "numbers each, of colours in 0..1, and std above 0"
        )
    return mean, std


def _range(setting: str, value: Sequence[float], highest: float = math.inf) -> tuple[float, float]:
    """`value`, if it is an increasing pair of positive numbers."""
    if len(value) != 2 or not 0 < value[0] <= value[1] <= highest:
        upper = "" if math.isinf(highest) else f" <= {highest:g}"
        raise UserError(f"{setting}={tuple(value)} must be (low, high) with 0 < low <= high{upper}")
    return float(value[0]), float(value[1])


def _probability(path: str, settings: Mapping[str, Any], name: str) -> float:
    value = settings[name]
    if not 0 <= value <= 1:
        raise UserError(f"{path}.{name}={value} is a probability: it must be between 0 and 1")
    return value


def _at_least(path: str, settings: Mapping[str, Any], name: str, lowest: int) -> Any:
    value = settings[name]
    if value < lowest:
        raise UserError(f"{path}.{name}={value} must be at least {lowest}")
    return value


def _choice(setting: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise UserError(f"{setting}={value!r} must be one of {', '.join(choices)}")
    return value
