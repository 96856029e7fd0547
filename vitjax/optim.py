"""config -> optax chain: rates by step and path, decay by path and rank, clipping, the rules.

Whether blocks are scanned must not change the optimisation: `vitjax.layerwise` knows how.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from vitjax import lars, schedules, trees
from vitjax.errors import UserError
from vitjax.lars import Adapts
from vitjax.layerwise import Patterns, by_layer, layer_norm
from vitjax.rates import Rates, scale_by_rates
from vitjax.schedules import Schedule
from vitjax.still import Still, holding_still, scale_by_adam, without_slots

CLIPS = ("global", "per_tensor")
SCHEDULES = ("cosine", "constant", "rsqrt")

Chain = Sequence[optax.GradientTransformation]


class Parts(NamedTuple):
    """What the rules of descent are put together from."""

    adapts: Adapts
    decay: Schedule
    rates: Rates
    still: Still


def make(config: Any, run: Any) -> tuple[optax.GradientTransformationExtraArgs, Schedule]:
    """The optimiser of `config.optim`, and step -> learning rate.

    `update` must be told the step: `tx.update(grads, opt, params, step=state.step)`. The peak rate is
    base_lr * batch_size / base_batch, or base_lr itself where base_batch is 0; start_lr and end_lr are what
    they say, whatever the batch.

    Raises:
      UserError: a name is not known or a number makes no sense; from `init`, a pattern fits no parameter.
    """
    settings = config.optim
    rate = _schedule(settings, run)
    rules = {"adamw": _adamw, "lars": _lars, "sgd": _sgd}
    rule = rules[_choice("config.optim.name", settings.name, tuple(rules))]
    parts = Parts(
        _adapts(settings), _decay(settings, run), _rates(settings, run, rate), _still(settings, run)
    )
    tx = optax.chain(*_clip(settings), *rule(settings, parts))
    return _checked(holding_still(tx, parts.still), parts), rate


def describe(config: Any, run: Any) -> dict[str, float]:
    """base_lr, start_lr, peak_lr, end_lr, warmup_steps, weight_decay and the one at the end, and held_steps, for the
    table at the start of a run.
    """
    settings = config.optim
    end_decay = settings.end_weight_decay
    return {
        "base_lr": settings.base_lr,
        "start_lr": settings.start_lr,
        "peak_lr": _peak(settings, run),
        "end_lr": settings.end_lr,
        "warmup_steps": round(_warmup_steps(settings, run)),
        "weight_decay": settings.weight_decay,
        "end_weight_decay": settings.weight_decay if end_decay is None else end_decay,
        "held_steps": round(_held_steps(settings, run)),
    }


def clip_by_layer_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales each tensor's gradient down to `max_norm`; each block of a stack alone."""

    def clip(path: str, g: Array) -> Array:
        return g * jnp.minimum(1.0, max_norm / jnp.maximum(layer_norm(path, g), 1e-16))

    return optax.stateless(lambda updates, params: trees.map_with_path(clip, updates))


def add_weight_decay(decay: Schedule, adapts: Adapts) -> optax.GradientTransformationExtraArgs:
    """Adds decay(step) * adapts(name, rank) * parameter to the update."""

    def update(updates: Any, state: Any, params: Any, *, step: Array, **_: Any) -> tuple[Any, Any]:
        now = decay(step)

        def add(path: str, update: Array, param: Array) -> Array:
            factor = by_layer(adapts, path, param)
            return update if np.all(factor == 0) else update + now * factor * param

        return trees.map_with_path(add, updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _checked(
    tx: optax.GradientTransformationExtraArgs, parts: Parts
) -> optax.GradientTransformationExtraArgs:
    """`tx`, whose `init` refuses patterns that name no parameter and so would have no effect."""
    scales, constant, still = parts.rates.scales, parts.rates.constant, parts.still

    def init(params: Any) -> Any:
        for patterns in (*(patterns for patterns, _ in scales), constant, still.frozen, still.held):
            patterns.refuse_idle(params)
        return tx.init(params)

    return optax.GradientTransformationExtraArgs(init, tx.update)


def _adamw(settings: Any, parts: Parts) -> Chain:
    """AdamW: decay is decoupled, and multiplied by the rate (Loshchilov and Hutter, 2019)."""
    b1, b2 = _fraction("b1", settings.b1), _fraction("b2", settings.b2)
    adam = scale_by_adam(b1, b2, _positive("eps", settings.eps, or_zero=True), parts.still)
    return [
        without_slots(adam, parts.still.frozen),
        add_weight_decay(parts.decay, parts.adapts),
        scale_by_rates(parts.rates),
    ]


def _sgd(settings: Any, parts: Parts) -> Chain:
    """SGD with momentum, as torch has it: decay enters the velocity, the rate does not."""
    return [
        add_weight_decay(parts.decay, parts.adapts),
        _momentum(settings, parts, nesterov=settings.nesterov),
        scale_by_rates(parts.rates),
    ]


def _lars(settings: Any, parts: Parts) -> Chain:
    """LARS in one of the forms of `vitjax.lars`."""
    form = _choice("config.optim.form", settings.form, lars.FORMS)
    trust = _positive("trust_coefficient", settings.trust_coefficient)
    momentum = _momentum(settings, parts)
    rates = scale_by_rates(parts.rates)
    if form in ("larc", "solo"):
        bounds = parts.rates if form == "solo" else None
        return [lars.decay_and_scale_by_larc(trust, parts.decay, parts.adapts, bounds), momentum, rates]
    return [
        add_weight_decay(parts.decay, parts.adapts),
        lars.scale_by_layer_trust(trust, parts.adapts),
        *([rates, momentum] if form == "simclr" else [momentum, rates]),
    ]


def _momentum(settings: Any, parts: Parts, nesterov: bool = False) -> optax.GradientTransformation:
    """The velocity of what ever moves."""
    trace = optax.trace(_fraction("momentum", settings.momentum), nesterov=nesterov)
    return without_slots(trace, parts.still.frozen)


def _adapts(settings: Any) -> Adapts:
    """(name, rank) -> 1 for what is decayed and adapted, 0 for what no_decay names and, as a rule, for vectors."""
    excluded = Patterns("config.optim.no_decay", settings.no_decay)
    vectors = settings.decay_vectors or (settings.name == "lars" and settings.form == "larc")
    return lambda name, rank: float((vectors or rank >= 2) and not excluded(name))


def _decay(settings: Any, run: Any) -> Schedule:
    """step -> weight decay, a cosine where it ends as another than it began."""
    start = _positive("weight_decay", settings.weight_decay, or_zero=True)
    if settings.end_weight_decay is None:
        return schedules.constant(start)
    end = _positive("end_weight_decay", settings.end_weight_decay, or_zero=True)
    return schedules.cosine(start, end, run.total_steps)


def _rates(settings: Any, run: Any, schedule: Schedule) -> Rates:
    """The rate of each parameter."""
    decay = settings.layer_decay
    if not 0 < decay <= 1:
        raise UserError(f"config.optim.layer_decay={decay} must be above 0 and at most 1 (1.0 is off)")
    constant = Patterns("config.optim.constant_rate", settings.constant_rate)
    return Rates(schedule, _peak(settings, run), constant, _scales(settings.rate_scales), decay)


def _scales(rate_scales: Sequence[tuple[str, float]]) -> list[tuple[Patterns, float]]:
    """The compiled `config.optim.rate_scales`."""
    setting = "config.optim.rate_scales"
    for pair in rate_scales:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2 or not pair[1] > 0:
            raise UserError(
                f"{setting}={rate_scales}: {pair!r} must be a pattern and a factor above 0, such as "
                "(('(bias|scale)$', 0.024),); what shall not move at all belongs into config.optim.frozen"
            )
    return [(Patterns(setting, pattern), float(factor)) for pattern, factor in rate_scales]


def _still(settings: Any, run: Any) -> Still:
    """What does not move, never or not at first."""
    frozen, held = (Patterns(f"config.optim.{name}", settings[name]) for name in ("frozen", "held"))
    return Still(frozen, held, _held_steps(settings, run))


def _held_steps(settings: Any, run: Any) -> float:
    """How many steps `config.optim.held` holds for; 0 where it names nothing."""
    if not settings.held:
        return 0.0
    if settings.held_steps is None and settings.held_epochs is None:
        raise UserError(
            f"config.optim.held={tuple(settings.held)} must be told for how long: "
            "give config.optim.held_steps or config.optim.held_epochs"
        )
    return _steps(settings, run, "held")


def _clip(settings: Any) -> Chain:
    """The clipping of gradients, which comes before everything else."""
    kind = _choice("config.optim.clip", settings.clip, CLIPS)
    norm = _positive("clip_norm", settings.clip_norm, or_zero=True)
    if norm == 0:
        return []
    return [optax.clip_by_global_norm(norm) if kind == "global" else clip_by_layer_norm(norm)]


def _schedule(settings: Any, run: Any) -> Schedule:
    """step -> rate: linear from start_lr at step 0 to the peak at the end of the warm-up, then as configured."""
    kind = _choice("config.optim.schedule", settings.schedule, SCHEDULES)
    start, end = (_positive(name, settings[name], or_zero=True) for name in ("start_lr", "end_lr"))
    peak, warmup = _peak(settings, run), _warmup_steps(settings, run)
    rest = max(run.total_steps - warmup, 0)
    if start and not warmup:
        raise UserError(
            f"config.optim.start_lr={start:g} has no effect without a warm-up; give config.optim.warmup_steps"
        )
    if kind == "cosine":
        then = schedules.cosine(peak, end, rest)
    elif kind == "rsqrt":
        timescale = _positive("timescale_steps", settings.timescale_steps)
        cooldown = _positive("cooldown_steps", settings.cooldown_steps, or_zero=True)
        then = schedules.rsqrt(peak, end, rest, timescale, cooldown)
    elif end:
        raise UserError(f"config.optim.end_lr={end:g} has no effect with schedule='constant'; set it to 0.0")
    else:
        then = schedules.constant(peak)
    return schedules.after_warmup(start, peak, warmup, then)


def _peak(settings: Any, run: Any) -> float:
    """The highest rate."""
    base_lr = _positive("base_lr", settings.base_lr)
    base_batch = _positive("base_batch", settings.base_batch, or_zero=True)
    return base_lr * run.batch_size / base_batch if base_batch else base_lr


def _warmup_steps(settings: Any, run: Any) -> float:
    """The length of the warm-up. It may be longer than the run: a few steps of a long recipe are its first steps."""
    return _steps(settings, run, "warmup")


def _steps(settings: Any, run: Any, name: str) -> float:
    """The length `name`_steps or, where that is open, `name`_epochs; a fraction of a step counts, as in MAE."""
    steps, epochs = settings[f"{name}_steps"], settings[f"{name}_epochs"]
    if steps is not None:
        length, setting = steps, f"config.optim.{name}_steps={steps}"
    else:
        length = (epochs or 0.0) * run.steps_per_epoch
        setting = f"config.optim.{name}_epochs={epochs}"
    if length < 0:
        raise UserError(f"{setting} must be at least 0")
    return float(length)


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
