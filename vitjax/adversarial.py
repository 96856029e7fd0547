"""A generator and a discriminator as an objective: what DCGAN and BigGAN share.

A round is `discriminator_steps` updates of the discriminator, each on real pictures of its own and as many new made
ones, and one of the generator. Real and made pictures pass the discriminator in batches of their own, so that batch
norm does not give them away. Its running statistics are those of real pictures alone: they serve its features, which
are of real pictures. Both players' spectral vectors move once with every pass, also where only the other one learns.

A row that is not valid, or has no label where one is needed, counts neither as a real picture nor as a made one in the
discriminator's loss; batch norm sees it all the same. The generator's loss has no real pictures, and counts all rows.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from vitjax import augment, diff_augment, latent, models, optim, sampling
from vitjax.errors import UserError
from vitjax.losses import adversarial as losses
from vitjax.models import spectral
from vitjax.objective import Objective, Output, Player, Run, State, ema, from_players

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
STATE = ("batch_stats", "spectral")  # the collections that a pass in training moves
ALIKE_AMONG, ALIKE_PX = 256, 8  # pictures that are compared with each other, and their side then
MAX_RATIO = 1000.0  # of two norms, so that one that is 0 leaves curves readable

Tree = Any


class Game(NamedTuple):
    """Who plays, and by which rules.

    Attributes:
      generator: (latents, classes, train) -> pictures in -1..1.
      discriminator: (pictures, classes, train) -> logits.
      label: the field of the classes; None: the players know none.
      num_classes: 1 where they know none.
      loss: of both players.
      r1: the weight of the penalty on the discriminator's slope at real pictures.
      augment: what both real and made pictures go through before the discriminator.
      z_dim, truncation: of the latent; training does not truncate.
    """

    generator: nn.Module
    discriminator: nn.Module
    label: str | None
    num_classes: int
    loss: losses.Adversarial
    r1: float
    augment: diff_augment.Augment
    z_dim: int
    truncation: float


def objective(
    config: Any,
    run: Run,
    generator: nn.Module,
    discriminator: nn.Module,
    label: str | None = None,
    generator_gradients: optax.GradientTransformation | None = None,
) -> Objective:
    """The objective of a game between the two modules; `config.objective` holds its rules.

    `config.optim` is the generator's optimiser; the discriminator's is the same with `discriminator_rate` times its
    rate.

    Args:
      label: the field of the classes that both players know.
      generator_gradients: applied to the generator's gradients before its optimiser.

    Raises:
      UserError: a setting makes no sense, or the data has no such label.
    """
    game, settings = _game(config, run, generator, discriminator, label), config.objective
    tx, rate = optim.make(config, run)
    discriminator_tx = optax.chain(
        tx, optax.scale(_positive("discriminator_rate", settings.discriminator_rate))
    )
    generator_tx = tx if generator_gradients is None else optax.chain(generator_gradients, tx)
    average = Average(settings.ema_decay, settings.ema_start, settings.ema_buffers)
    sampler = sampling.Sampler(
        generator,
        game.z_dim,
        game.num_classes,
        game.truncation,
        settings.standing_passes,
        settings.standing_batch,
    ).checked()
    backbone, eval_view = models.build(config.model, run.dtype), augment.eval_view(config)

    def features(variables: Tree, batch: Any, key: Array) -> Float[Array, "B D"]:
        own = models.part(models.part(variables, DISCRIMINATOR), "backbone")
        return backbone.apply(own, eval_view(batch))["features"]

    def sample(variables: Tree, batch: Any, key: Array) -> dict[str, Array]:
        real = augment.to_uint8(eval_view(batch), config.data.mean, config.data.std)
        return {"real": real} | sampler.lines(models.part(variables, GENERATOR), batch["row"], key)

    standing = sampler.standing_statistics()

    def prepare(variables: Tree, key: Array) -> Tree:
        return _with(variables, GENERATOR, standing(models.part(variables, GENERATOR), key))

    def report(metrics: dict, extra: Tree, step: Array) -> dict:
        return _report(metrics, extra) | {"learning_rate": rate(step)}

    return from_players(
        init=lambda key, batch: _init(game, config.data.size_px, key),
        players=[
            Player(DISCRIMINATOR, _discriminator_loss(game), discriminator_tx, _steps(settings)),
            Player(GENERATOR, _generator_loss(game), generator_tx),
        ],
        start=average.start,
        after=average.after,
        views=augment.train_view(config),
        export=average.export,
        predict={
            "features": features,
            "sample": sample,
            "generate": lambda variables, batch, key: sampler.generate(
                models.part(variables, GENERATOR), batch, key
            ),
        },
        prepare=prepare if settings.standing_passes else None,
        report=report,
        accum=config.accum,
    )


def _game(config: Any, run: Run, generator: nn.Module, discriminator: nn.Module, label: str | None) -> Game:
    """The rules of `config.objective`."""
    c = config.objective
    if c.loss not in losses.LOSSES:
        raise UserError(f"config.objective.loss={c.loss!r} must be one of {', '.join(losses.LOSSES)}")
    if tuple(config.data.mean) != (0.5,) * 3 or tuple(config.data.std) != (0.5,) * 3:
        raise UserError(
            f"config.data.mean={tuple(config.data.mean)}, config.data.std={tuple(config.data.std)}: generators make "
            "pictures in -1..1, and real ones must lie there too; set both to (0.5, 0.5, 0.5)"
        )
    return Game(
        generator,
        discriminator,
        label,
        1 if label is None else len(run.class_names[label]),
        losses.LOSSES[c.loss],
        _positive("r1", c.r1, or_zero=True),
        diff_augment.make(c.diff_augment),
        c.z_dim,
        latent.checked_truncation(c.truncation),
    )


def _init(game: Game, size_px: int, key: Array) -> dict[str, Tree]:
    """Both players' variables, by collection and then by player."""
    key_generator, key_discriminator = jax.random.split(key)
    y = jnp.zeros(1, jnp.int32)
    made = {
        GENERATOR: game.generator.init(key_generator, jnp.zeros((1, game.z_dim)), y),
        DISCRIMINATOR: game.discriminator.init(key_discriminator, jnp.zeros((1, size_px, size_px, 3)), y),
    }
    out: dict[str, Tree] = {}
    for name, variables in made.items():
        for collection, tree in variables.items():
            out.setdefault(collection, {})[name] = tree
    return out


def _discriminator_loss(game: Game) -> Callable:
    def loss(params: Tree, extra: Tree, batch: Any, key: Array, step: Array):
        key_made, key_real, key_fake = jax.random.split(key, 3)
        counts, y = _judged(game, batch)
        fake, fake_y, extra = _made(game, params, extra, batch["row"], key_made)
        real = game.augment(batch["image"], augment.row_keys(key_real, batch["row"]))
        seen = game.augment(fake, augment.row_keys(key_fake, batch["row"]))
        real_logits, slopes, extra = _judge_real(game, params, extra, real, y)
        fake_logits, extra = _judge_made(game, params, extra, seen, fake_y)

        def mean(terms: Float[Array, " B"]) -> Float[Array, ""]:
            return jnp.sum(terms * counts) / jnp.maximum(jnp.sum(counts), 1)

        undecided = 0.0 if game.loss.zero else (mean(real_logits) + mean(fake_logits)) / 2
        metrics = {
            "accuracy_real": mean(real_logits > undecided),
            "accuracy_fake": mean(fake_logits < undecided),
            "diversity": _apart(fake, counts) / jnp.maximum(_apart(batch["image"], counts), 1e-6),
        }
        value = mean(game.loss.real(real_logits)) + mean(game.loss.fake(fake_logits))
        if slopes is not None:
            metrics["r1"] = mean(losses.r1_penalty(slopes))
            value += game.r1 * metrics["r1"]
        return value, Output(extra, metrics, weight=jnp.sum(counts))

    return loss


def _generator_loss(game: Game) -> Callable:
    def loss(params: Tree, extra: Tree, batch: Any, key: Array, step: Array):
        key_made, key_seen = jax.random.split(key)
        fake, y, extra = _made(game, params, extra, batch["row"], key_made)
        seen = game.augment(fake, augment.row_keys(key_seen, batch["row"]))
        logits, extra = _judge_made(game, params, extra, seen, y)
        return jnp.mean(game.loss.generator(logits)), Output(extra, weight=logits.shape[0])

    return loss


def _judged(game: Game, batch: Any) -> tuple[Bool[Array, " B"], Int[Array, " B"]]:
    """Which rows count, and the classes of the real pictures."""
    if game.label is None:
        return batch["valid"], jnp.zeros_like(batch["row"])
    y = batch[game.label]
    return batch["valid"] & (y >= 0), jnp.maximum(y, 0)  # -1 is a picture without a label


def _made(
    game: Game, params: Tree, extra: Tree, rows: Int[Array, " B"], key: Array
) -> tuple[Array, Array, Tree]:
    """(pictures, their classes, extra), of the generator in training."""
    z = latent.draw(key, rows, game.z_dim)
    y = latent.draw_classes(key, rows, game.num_classes)
    images, extra = _play(game.generator, GENERATOR, params, extra, STATE, z, y)
    return images, y, extra


def _judge_real(
    game: Game, params: Tree, extra: Tree, images: Array, y: Array
) -> tuple[Array, Array | None, Tree]:
    """(logits, slopes of the logits in the pictures where r1 asks for them, extra)."""

    def judge(images: Array) -> tuple[Array, tuple[Array, Tree]]:
        logits, moved = _play(game.discriminator, DISCRIMINATOR, params, extra, STATE, images, y)
        return jnp.sum(logits), (logits, moved)

    if not game.r1:
        _, (logits, moved) = judge(images)
        return logits, None, moved
    slopes, (logits, moved) = jax.grad(judge, has_aux=True)(images)
    return logits, slopes, moved


def _judge_made(game: Game, params: Tree, extra: Tree, images: Array, y: Array) -> tuple[Array, Tree]:
    """(logits, extra): normalised by these pictures, of whose statistics nothing is kept."""
    return _play(game.discriminator, DISCRIMINATOR, params, extra, ("spectral",), images, y)


def _play(module: nn.Module, name: str, params: Tree, extra: Tree, kept: tuple[str, ...], *inputs: Array):
    """(output, extra) of a player in training; what it moves in the collections `kept` stays moved."""
    own = models.part({c: extra[c] for c in STATE if c in extra}, name)
    out, moved = module.apply({"params": params[name], **own}, *inputs, train=True, mutable=list(own))
    return out, _with(extra, name, {c: tree for c, tree in moved.items() if c in kept})


def _with(tree: Tree, name: str, part: Tree) -> Tree:
    """`tree` with the collections of one player replaced."""
    return {**tree, **{collection: {**tree[collection], name: x} for collection, x in part.items()}}


def _apart(images: Float[Array, "B H W C"], counts: Bool[Array, " B"]) -> Float[Array, ""]:
    """How far a picture is from the one most like it, both about 8 px wide; the mean over the first ones that count.

    Where a generator makes a few pictures over and over, each has its like in the batch, and this is near 0. The
    deviation over the batch is not: of two pictures it is as large as of many.
    """
    images, counts = jax.lax.stop_gradient(images[:ALIKE_AMONG]), counts[:ALIKE_AMONG]
    side = max(1, images.shape[1] // ALIKE_PX)
    x = nn.avg_pool(images.astype(jnp.float32), (side, side), strides=(side, side)).reshape(len(images), -1)
    x = x - jnp.mean(x, axis=0)  # the squares below cancel less
    squares = jnp.sum(x * x, axis=1)
    products = jnp.matmul(x, x.T, precision="highest")
    others = counts[None] & ~jnp.eye(len(x), dtype=bool)
    distances = jnp.where(others, squares[:, None] + squares[None] - 2 * products, jnp.inf)
    nearest = jnp.sqrt(jnp.maximum(jnp.min(distances, axis=1), 0))
    counts = counts & jnp.isfinite(nearest)
    return jnp.sum(jnp.where(counts, nearest, 0)) / jnp.maximum(jnp.sum(counts), 1)


def _report(metrics: dict[str, Array], extra: Tree) -> dict[str, Array]:
    """The round's health beside its metrics.

    'health/diversity' is how far made pictures are from the one most like them, over the same of real ones: 1 is right,
    and near 0 there are a few that come again and again.
    'health/told_apart' is the share of pictures that the discriminator judges right, of real or of made ones, whichever
    is smaller. 'health/gradient_ratio' is the generator's gradient norm over the discriminator's, MAX_RATIO at
    most.
    """
    out = dict(metrics)
    out["health/diversity"] = out.pop(f"{DISCRIMINATOR}/diversity")
    accuracies = [metrics[f"{DISCRIMINATOR}/accuracy_{kind}"] for kind in ("real", "fake")]
    out["health/told_apart"] = jnp.minimum(*accuracies)
    norms = [metrics[f"{name}/grad_norm"] for name in (GENERATOR, DISCRIMINATOR)]
    # A discriminator that the hinge loss asks nothing of has no gradient at all.
    out["health/gradient_ratio"] = norms[0] / jnp.maximum(norms[1], norms[0] / MAX_RATIO + 1e-12)
    for name, tree in extra.get("spectral", {}).items():
        out[f"{name}/spectral_norm"] = spectral.largest(tree)
    return out


class Average(NamedTuple):
    """The generator's moving average, in `extra['ema']`; none with a decay of 0.

    Before round `start_step` it is a copy. Its batch statistics and spectral vectors are averaged too with
    `buffers`, else copied.
    """

    decay: float
    start_step: int
    buffers: bool

    def start(self, variables: Tree) -> Tree:
        if not 0 <= self.decay < 1:
            raise UserError(
                f"config.objective.ema_decay={self.decay} must be at least 0 (no average) and below 1"
            )
        if self.start_step < 0:
            raise UserError(f"config.objective.ema_start={self.start_step} must be at least 0, the first round")
        return {"ema": _only(variables, GENERATOR)} if self.decay else {}

    def after(self, params: Tree, extra: Tree, step: Array) -> tuple[Tree, Tree]:
        if not self.decay:
            return params, extra
        decay = jnp.where(step < self.start_step, 0.0, self.decay)
        new = _only({"params": params, **{c: extra[c] for c in STATE if c in extra}}, GENERATOR)
        mixed = ema(extra["ema"], new, decay)
        return params, {**extra, "ema": mixed if self.buffers else {**new, "params": mixed["params"]}}

    def export(self, state: State) -> Tree:
        extra = {c: tree for c, tree in state.extra.items() if c != "ema"}
        variables = {"params": state.params, **extra}
        return (
            _with(variables, GENERATOR, models.part(state.extra["ema"], GENERATOR))
            if self.decay
            else variables
        )


def _only(variables: Tree, name: str) -> Tree:
    """One player's variables, below its name in every collection."""
    return {collection: {name: tree} for collection, tree in models.part(variables, name).items()}


def _steps(settings: Any) -> int:
    if settings.discriminator_steps < 1:
        raise UserError(
            f"config.objective.discriminator_steps={settings.discriminator_steps} must be at least 1"
        )
    return settings.discriminator_steps


def _positive(name: str, value: float, or_zero: bool = False) -> float:
    if 0 < value < math.inf or (or_zero and value == 0):
        return value
    raise UserError(f"config.objective.{name}={value} must be {'at least' if or_zero else 'above'} 0")
