"""What the joint-embedding methods share: a network on several views, a teacher that follows it, and the objective.

A method says which heads stand on the backbone, and writes a loss of the embeddings of the whole batch. The rest is
here once: the passes over views of several sizes, the batch statistics, the teacher's moving average, and the pieces
in which a large batch is embedded.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import augment, health, models, optim, probe, schedules
from vitjax.errors import UserError
from vitjax.objective import Objective, Output, Run, State, ema, from_loss

Tree = Any
Views = Sequence[Float[Array, "B S S 3"]]


class Network(nn.Module):
    """{'features': [B, V, D], 'projected': [B, V, E], 'predicted': [B, V, P]} of V views, each [B, S, S, 3].

    'predicted' is there with a predictor only. What batch norm takes its statistics over differs between the published
    methods and changes what they learn: with `joint` all views of one size go through the backbone together, and all
    views together through the heads (SimCLR, SwAV, DINO); without, each view goes alone (BYOL, MoCo v3, SimSiam,
    Barlow Twins, VICReg).
    """

    backbone: nn.Module
    projector: nn.Module
    predictor: nn.Module | None = None
    joint: bool = False

    def __call__(self, views: Views, train: bool = False) -> dict[str, Float[Array, "B V _"]]:
        if not self.joint:
            outputs = [self._heads(self._features([view], train), train) for view in views]
            return jax.tree.map(lambda *each: jnp.concatenate(each, axis=1), *outputs)
        sizes = [list(group) for _, group in groupby(views, key=lambda view: view.shape[1])]
        return self._heads(jnp.concatenate([self._features(group, train) for group in sizes], axis=1), train)

    def _features(self, views: Views, train: bool) -> Float[Array, "B V D"]:
        """Of views of one size, in one pass."""
        # Pictures first, so that the rows of one device stay there.
        images = jnp.stack(views, axis=1)
        features = self.backbone(images.reshape(-1, *images.shape[2:]), train)["features"]
        return features.reshape(-1, len(views), features.shape[-1])

    def _heads(self, features: Float[Array, "B V D"], train: bool) -> dict[str, Float[Array, "B V _"]]:
        out = {"features": features}
        x = out["projected"] = self._each(self.projector, features, train)
        if self.predictor is not None:
            out["predicted"] = self._each(self.predictor, x, train)
        return out

    @staticmethod
    def _each(head: nn.Module, x: Float[Array, "B V D"], train: bool) -> Float[Array, "B V E"]:
        out = head(x.reshape(-1, x.shape[-1]), train)
        return out.reshape(*x.shape[:2], out.shape[-1])


def forward(
    network: Network, variables: Tree, batch: Mapping[str, Any], key: Array, views: int | None = None
) -> tuple[dict[str, Array], Tree]:
    """(embeddings of the batch's views, or of the first `views` of them, as in training; new batch statistics)."""
    # One draw for the batch as a whole (drop path): the chunks of a step must not share it.
    rngs = {"dropout": jax.random.fold_in(key, batch["row"][0])}
    mutable = [name for name in variables if name != "params"]
    return network.apply(variables, batch["views"][:views], train=True, mutable=mutable, rngs=rngs)


def pair(x: Float[Array, "B V E"]) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
    """The first view's and the second view's."""
    return x[:, 0], x[:, 1]


def swapped(x: Float[Array, "B 2 E"]) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
    """The second view's and the first view's, constants to the gradient: what each is to be compared with."""
    return jax.lax.stop_gradient(x[:, 1]), jax.lax.stop_gradient(x[:, 0])


def output(
    extra: Tree,
    embedded: Mapping[str, Array],
    batch: Mapping[str, Array],
    chance: float | None = None,
    metrics: Mapping[str, Array] = {},
) -> Output:
    """What a joint-embedding loss says beside its value: its own metrics, and whether the embeddings spread out."""
    z1, z2 = pair(embedded["projected"])
    return Output(
        extra,
        health.panel(z1, z2) | dict(metrics),
        weight=jnp.sum(batch["valid"]),
        features=embedded["features"][:, 0],
        chance=chance,
    )


class Teacher:
    """A network that follows the trained one by a moving average and gets no gradient.

    Its variables live in `extra['teacher']`. Only parameters are averaged: batch statistics are the
    teacher's own, of what it sees in training.
    """

    def __init__(self, network: Network, initial_momentum: float, run: Run, ahead: bool = False):
        """`ahead`: the average moves before the step's targets are made, not after the step (MoCo v3)."""
        share("momentum", initial_momentum, 0.99)
        # The teacher has no predictor, and drops no paths.
        still = {"drop_path": 0.0} if hasattr(network.backbone, "drop_path") else {}
        self._network = network.clone(predictor=None, backbone=network.backbone.clone(**still))
        self._momentum = schedules.ema_momentum(initial_momentum, run.total_steps)
        self._ahead = ahead

    def start(self, variables: Tree) -> Tree:
        """A copy of the parts that the teacher has."""
        return jax.tree.map(jnp.copy, _parts(variables, ("backbone", "projector")))

    def forward(
        self, extra: Tree, batch: Mapping[str, Any], key: Array, views: int | None = None
    ) -> tuple[dict[str, Array], Tree]:
        """(embeddings, constants to the gradient; extra with the teacher's new batch statistics)."""
        out, new = forward(self._network, extra["teacher"], batch, key, views)
        return jax.lax.stop_gradient(out), {**extra, "teacher": {**extra["teacher"], **new}}

    def follow(self, params: Tree, extra: Tree, step: Array) -> Tree:
        """`extra` with the teacher moved towards `params`; to be called after the step.

        With `ahead` the momentum is the next step's, whose targets are the first that the moved teacher makes: there
        the published order, move and then embed, is the same thing.
        """
        mine = extra["teacher"]
        followed = {name: params[name] for name in mine["params"]}
        moved = ema(mine["params"], followed, self._momentum(step + self._ahead))
        return {**extra, "teacher": {**mine, "params": moved}}


def objective(
    config: Any,
    run: Run,
    network: Network,
    loss: Callable[..., tuple[Float[Array, ""], Output]],
    *,
    embed: Callable[..., tuple[Tree, Tree]] | None = None,
    own: Callable[[Array, int], Tree] = lambda key, width: {},
    start: Callable[[Tree], dict[str, Tree]] | None = None,
    after: Callable[[Tree, Tree, Array], tuple[Tree, Tree]] | None = None,
    exported: Callable[[State], Tree] | None = None,
) -> Objective:
    """The objective of a joint-embedding method.

    Args:
      loss: (params, extra, embedded, batch, key, step) -> (scalar, Output), of the whole batch.
      embed: (params, extra, batch, key, step) -> (embedded, extra); by default all views' outputs of `network`.
      own: (key, E) -> parameters beside the network's, such as prototypes of embeddings of E numbers.
      exported: (state) -> variables; by default those that are trained, not a teacher's.
    """
    tx, rate = optim.make(config, run)
    eval_view = augment.eval_view(config)
    size_px = augment.view_sizes(config)[0]

    def begin(key: Array, batch: Any) -> dict:
        views = [jnp.zeros((1, size_px, size_px, 3), run.dtype)]
        out, variables = network.init_with_output(key, views)
        more = own(jax.random.fold_in(key, 1), out["projected"].shape[-1])
        return {**variables, "params": {**variables["params"], **more}}

    def embed_all(params: Tree, extra: Tree, batch: Any, key: Array, step: Array) -> tuple[Tree, Tree]:
        out, new = forward(network, trained(params, extra), batch, key)
        return out, {**extra, **new}

    def export(state: State) -> Tree:
        statistics = {name: state.extra[name] for name in ("batch_stats",) if name in state.extra}
        return {"params": state.params, **statistics}

    def features(variables: Tree, batch: Any, key: Array) -> Float[Array, "B D"]:
        return network.backbone.apply(models.part(variables, "backbone"), eval_view(batch))["features"]

    return from_loss(
        init=begin,
        loss=loss,
        embed=embed_all if embed is None else embed,
        views=augment.multi_view(config),
        start=start,
        after=after,
        tx=tx,
        rate=rate,
        export=export if exported is None else exported,
        predict={"features": features},
        probe=probe.make(config, run),
        accum=config.accum,
        embed_chunks=config.embed_chunks,
    )


def with_teacher(
    config: Any, run: Run, network: Network, loss: Callable[..., tuple[Float[Array, ""], Output]], teacher: Teacher
) -> Objective:
    """The objective of a method whose `embedded` has 'target' too: the teacher's [B, V, E] of the same views."""

    def embed(params: Tree, extra: Tree, batch: Any, key: Array, step: Array) -> tuple[Tree, Tree]:
        out, new = forward(network, trained(params, extra), batch, key)
        target, extra = teacher.forward({**extra, **new}, batch, key)
        return {**out, "target": target["projected"]}, extra

    return objective(
        config,
        run,
        network,
        loss,
        embed=embed,
        start=lambda variables: {"teacher": teacher.start(variables)},
        after=lambda params, extra, step: (params, teacher.follow(params, extra, step)),
    )


def count_views(config: Any, at_least: int = 2, at_most: int | None = None) -> int:
    """How many views the config makes of a picture.

    Raises:
      UserError: the method needs another number.
    """
    count = len(augment.view_sizes(config))
    if count < at_least or (at_most is not None and count > at_most):
        needed = f"{at_least}" if at_least == at_most else f"at least {at_least}"
        raise UserError(
            f"config.augment.views makes {count} views of a picture; {config.objective.name} compares {needed}: start "
            "from one of the sets in vitjax.policies"
        )
    return count


def positive(name: str, value: float) -> float:
    """`value` of config.objective.<name>, if it is above 0."""
    if not value > 0:
        raise UserError(f"config.objective.{name}={value} must be above 0")
    return value


def at_least(name: str, value: float, least: float) -> float:
    """`value` of config.objective.<name>, if it is no less than `least`."""
    if value < least:
        raise UserError(f"config.objective.{name}={value} must be at least {least}")
    return value


def share(name: str, value: float, such_as: float) -> float:
    """`value` of config.objective.<name>, if it is a share, such as that which a moving average keeps."""
    if not 0 <= value <= 1:
        raise UserError(f"config.objective.{name}={value} must be between 0 and 1; try {such_as}")
    return value


def trained(params: Tree, extra: Tree) -> Tree:
    """The variables of the network that gets the gradient."""
    return _parts({"params": params, **extra}, ("backbone", "projector", "predictor"))


def _parts(variables: Tree, names: Sequence[str]) -> Tree:
    """What the network's collections hold of these parts; without batch norm there are no statistics."""
    kept = {
        collection: {name: tree for name, tree in variables[collection].items() if name in names}
        for collection in ("params", "batch_stats")
        if collection in variables
    }
    return {collection: parts for collection, parts in kept.items() if parts}
