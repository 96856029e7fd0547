"""config -> optax chain: learning rates, decay by path and rank, layer-wise rates, clipping, LARS.

Whether blocks are scanned must not change the optimisation. A stacked leaf holds one weight of every block,
depth first: here its rank is counted without that axis, its norms are taken a block at a time, and what
depends on a block's name or place becomes a vector along depth. `by_layer` and `layer_norm` are the two
places that know.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vitjax import trees
from vitjax.errors import UserError

Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]

CLIPS = ("global", "per_tensor")
LARS_FORMS = ("simclr", "byol")
SCHEDULES = ("cosine", "constant", "rsqrt")

_BLOCK = re.compile(r"^backbone/(?:.*/)?block_(\d+)/")
_EMBEDDING = re.compile(r"^backbone/(patch|position|cls|cls_position|mask_token)(/|$)")


def make(config: Any, run: Any) -> tuple[optax.GradientTransformationExtraArgs, Schedule]:
    """The optimiser of `config.optim`, and step -> learning rate.

    `update` must be told the step: `tx.update(grads, opt, params, step=state.step)`. The peak rate is
    base_lr * batch_size / base_batch, or base_lr itself where base_batch is 0.

    Raises:
      UserError: a name is not known or a number makes no sense.
    """
    settings = config.optim
    rate = _schedule(settings, run)
    excluded = _patterns(settings.no_decay)

    def adapts(name: str, rank: int) -> float:
        """1 for what is decayed and adapted, 0 for vectors and what no_decay names."""
        return float(rank >= 2 and not any(p.search(name) for p in excluded))

    rules = {"adamw": _adamw, "lars": _lars, "sgd": _sgd}
    rule = rules[_choice("config.optim.name", settings.name, tuple(rules))]
    parts = [*_clip(settings), *rule(settings, adapts, [*_layer_rates(settings), scale_by_rate(rate)])]
    return optax.chain(*parts), rate


def describe(config: Any, run: Any) -> dict[str, float]:
    """base_lr, peak_lr, end_lr and warmup_steps, for the table at the start of a run."""
    settings = config.optim
    return {
        "base_lr": settings.base_lr,
        "peak_lr": _peak(settings, run),
        "end_lr": settings.end_lr,
        "warmup_steps": round(_warmup_steps(settings, run)),
    }


def by_layer(fn: Callable[[str, int], float], path: str, leaf: Any) -> float | np.ndarray:
    """fn(name, rank) of a leaf: a number or, where it differs between stacked blocks, an array along depth.

    Names are those of single blocks, '.../block_03/...', and the rank is a block's.
    """
    shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    rank = leaf.ndim - trees.is_stacked(path)
    values = [fn(name, rank) for name in trees.unstack({path: shape})]
    if len(set(values)) == 1:
        return values[0]
    return np.asarray(values, np.float32).reshape(-1, *(1,) * rank)


def layer_norm(path: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The Euclidean norm of a leaf, of each block where it is stacked; broadcasts against the leaf."""
    axes = tuple(range(int(trees.is_stacked(path)), x.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=axes, keepdims=True))


def layer_scales(params: Any, decay: float) -> Any:
    """A tree like `params` with the factor of layer-wise rate decay for each leaf.

    decay ** (depth + 1 - id): embeddings of the backbone have id 0, block i has i + 1, and the final norm,
    heads and whatever else lies outside the backbone have depth + 1, so that their rate is unchanged.

    Raises:
      UserError: the backbone has no blocks to count.

    Source: Clark et al., 2020, ELECTRA, appendix; as in BEiT and MAE.
    """
    names = trees.unstack(trees.flatten(params))
    blocks = [int(match.group(1)) for match in map(_BLOCK.match, names) if match]
    if not blocks:
        raise UserError(
            f"config.optim.layer_decay={decay:g} needs a backbone made of blocks, such as "
            "config.model.name='vit'; use config.optim.layer_decay=1.0"
        )
    last = max(blocks) + 2

    def scale(name: str, rank: int) -> float:
        block = _BLOCK.match(name)
        layer = int(block.group(1)) + 1 if block else 0 if _EMBEDDING.match(name) else last
        return decay ** (last - layer)

    return trees.map_with_path(lambda path, leaf: by_layer(scale, path, leaf), params)


def clip_by_layer_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales each tensor's gradient down to `max_norm`; each block of a stack alone."""

    def clip(path: str, g: Array) -> Array:
        return g * jnp.minimum(1.0, max_norm / jnp.maximum(layer_norm(path, g), 1e-16))

    return optax.stateless(lambda updates, params: trees.map_with_path(clip, updates))


def scale_by_rate(rate: Schedule) -> optax.GradientTransformationExtraArgs:
    """Scales the updates by -rate(step), the step being told to `update`.

    optax counts for itself in `scale_by_schedule`, and counts the accepted updates only: after a refused one
    its rate would lag behind the one that is logged, and behind the run's length.
    """

    def update(updates: Any, state: Any, params: Any = None, *, step: Array, **_: Any) -> tuple[Any, Any]:
        factor = -rate(step)
        return jax.tree.map(lambda u: factor.astype(u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def add_weight_decay(
    weight_decay: float, adapts: Callable[[str, int], float]
) -> optax.GradientTransformation:
    """Adds weight_decay * adapts(name, rank) * parameter to the update."""

    def add(path: str, update: Array, param: Array) -> Array:
        factor = by_layer(adapts, path, param)
        return update if np.all(factor == 0) else update + weight_decay * factor * param

    return optax.stateless(lambda updates, params: trees.map_with_path(add, updates, params))


def scale_by_layer_trust(
    trust_coefficient: float, adapts: Callable[[str, int], float]
) -> optax.GradientTransformation:
    """Scales each tensor's update to trust_coefficient * |w| / |update|; unchanged where either norm is 0.

    Source: You et al., 2017, Large batch training of convolutional networks, equation 6.
    """

    def scale(path: str, update: Array, param: Array) -> Array:
        factor = by_layer(adapts, path, param)
        if np.all(factor == 0):
            return update
        of_param, of_update = layer_norm(path, param), layer_norm(path, update)
        known = (of_param > 0) & (of_update > 0) & (np.asarray(factor) > 0)
        return update * jnp.where(known, trust_coefficient * of_param / jnp.where(known, of_update, 1.0), 1.0)

    return optax.stateless(lambda updates, params: trees.map_with_path(scale, updates, params))


Chain = Sequence[optax.GradientTransformation]


def _adamw(settings: Any, adapts: Callable, rates: Chain) -> Chain:
    """AdamW: decay is decoupled, and multiplied by the rate (Loshchilov and Hutter, 2019)."""
    b1, b2 = _fraction("b1", settings.b1), _fraction("b2", settings.b2)
    decay = _positive("weight_decay", settings.weight_decay, or_zero=True)
    return [
        optax.scale_by_adam(b1, b2, _positive("eps", settings.eps, or_zero=True)),
        add_weight_decay(decay, adapts),
        *rates,
    ]


def _sgd(settings: Any, adapts: Callable, rates: Chain) -> Chain:
    """SGD with momentum, as torch has it: decay enters the velocity, the rate does not."""
    decay = _positive("weight_decay", settings.weight_decay, or_zero=True)
    return [
        add_weight_decay(decay, adapts),
        optax.trace(_fraction("momentum", settings.momentum), nesterov=settings.nesterov),
        *rates,
    ]


def _lars(settings: Any, adapts: Callable, rates: Chain) -> Chain:
    """LARS in SimCLR's form, rate inside the velocity, or in BYOL's, MAE's and Barlow Twins's, outside.

    They differ as soon as the rate changes: inside, a new rate acts on what is added from then on.
    """
    form = _choice("config.optim.form", settings.form, LARS_FORMS)
    momentum = optax.trace(_fraction("momentum", settings.momentum))
    return [
        add_weight_decay(_positive("weight_decay", settings.weight_decay, or_zero=True), adapts),
        scale_by_layer_trust(_positive("trust_coefficient", settings.trust_coefficient), adapts),
        *([*rates, momentum] if form == "simclr" else [momentum, *rates]),
    ]


def _clip(settings: Any) -> Chain:
    """The clipping of gradients, which comes before everything else."""
    kind = _choice("config.optim.clip", settings.clip, CLIPS)
    norm = _positive("clip_norm", settings.clip_norm, or_zero=True)
    if norm == 0:
        return []
    return [optax.clip_by_global_norm(norm) if kind == "global" else clip_by_layer_norm(norm)]


def _layer_rates(settings: Any) -> Chain:
    """The scaling of updates by layer, if there is one."""
    decay = settings.layer_decay
    if not 0 < decay <= 1:
        raise UserError(f"config.optim.layer_decay={decay} must be above 0 and at most 1 (1.0 is off)")
    if decay == 1:
        return []

    def scale(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda u, s: u * s, updates, layer_scales(params, decay))

    return [optax.stateless(scale)]


def _schedule(settings: Any, run: Any) -> Schedule:
    """step -> rate: linear from 0 at step 0 to the peak at the end of the warm-up, then as configured.

    Source: Loshchilov and Hutter, 2017, SGDR, equation 5 (cosine); Zhai et al., 2022, Scaling vision
    transformers, section 3.5 (reciprocal square root with a linear cooldown).
    """
    peak, end, warmup, total = (
        _peak(settings, run),
        _positive("end_lr", settings.end_lr, or_zero=True),
        _warmup_steps(settings, run),
        run.total_steps,
    )
    kind = _choice("config.optim.schedule", settings.schedule, SCHEDULES)
    if kind == "constant" and end:
        raise UserError(f"config.optim.end_lr={end:g} has no effect with schedule='constant'; set it to 0.0")
    if kind == "rsqrt":
        timescale = _positive("timescale_steps", settings.timescale_steps)
        cooldown = _positive("cooldown_steps", settings.cooldown_steps, or_zero=True)

    def decayed(step: Float[Array, ""]) -> Float[Array, ""]:
        if kind == "constant":
            return jnp.asarray(peak, jnp.float32)
        if kind == "cosine":
            done = jnp.clip((step - warmup) / max(total - warmup, 1e-9), 0, 1)
            return end + (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        value = peak / jnp.sqrt(1 + jnp.maximum(step - warmup, 0) / timescale)
        return end + (value - end) * jnp.clip((total - step) / max(cooldown, 1e-9), 0, 1)

    def rate(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        warm = peak * step / max(warmup, 1e-9)
        return jnp.where(step < warmup, warm, decayed(step)).astype(jnp.float32)

    return rate


def _peak(settings: Any, run: Any) -> float:
    """The highest rate."""
    base_lr = _positive("base_lr", settings.base_lr)
    base_batch = _positive("base_batch", settings.base_batch, or_zero=True)
    return base_lr * run.batch_size / base_batch if base_batch else base_lr


def _warmup_steps(settings: Any, run: Any) -> float:
    """The length of the warm-up; a fraction of a step counts, as in MAE's fractional epochs.

    It may be longer than the run: a few steps of a long recipe are the recipe's first steps.
    """
    steps, epochs = settings.warmup_steps, settings.warmup_epochs
    if steps is not None:
        warmup, setting = steps, f"config.optim.warmup_steps={steps}"
    else:
        warmup = (epochs or 0.0) * run.steps_per_epoch
        setting = f"config.optim.warmup_epochs={epochs}"
    if warmup < 0:
        raise UserError(f"{setting} must be at least 0")
    return float(warmup)


def _patterns(no_decay: Sequence[str]) -> list[re.Pattern]:
    """The compiled `config.optim.no_decay`."""
    if isinstance(no_decay, str):
        no_decay = (no_decay,)
    try:
        return [re.compile(pattern) for pattern in no_decay]
    except re.error as error:
        raise UserError(
            f"config.optim.no_decay={tuple(no_decay)}: {error.pattern!r} is no regular expression: {error}"
        ) from error


def _positive(name: str, value: float, or_zero: bool = False) -> float:
    if value > 0 or (or_zero and value == 0):
        return value
    raise UserError(f"config.optim.{name}={value} must be {'at least' if or_zero else 'above'} 0")


def _fraction(name: str, value: float) -> float:
    if 0 <= value < 1:
        return value
    raise UserError(f"config.optim.{name}={value} must be at least 0 and below 1")


def _choice(setting: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise UserError(f"{setting}={value!r} must be one of {', '.join(choices)}")
    return value
