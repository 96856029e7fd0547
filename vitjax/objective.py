"""An objective is what to learn, as a small tuple of pure functions.

A method writes a loss; `from_loss` (one loss) and `from_players` (a game) own the rest of the step once:
gradients (`vitjax.gradients`), the optimiser, norms and the refusal of an update that is not finite. The loop
sees `update` alone and so needs to know no method; evaluators, exports and later stages see `export` and
`predict` alone and so need not know how a network was trained.

Randomness is a function of (seed, step, row): `update` gets a key made from seed and step, and whatever is
drawn for one picture must come from `augment.row_keys(key, batch['row'])`. Then accumulation, the number
of devices and the number of hosts change nothing about what is drawn. The micro-batches of one step share
their key; a draw that is made for a batch as a whole (drop path) folds in `batch['row'][0]`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from vitjax import gradients, health, sharding, trees
from vitjax.errors import UserError
from vitjax.gradients import Batch, Metrics, Output, Tree
from vitjax.probe import NAME as PROBE
from vitjax.probe import Probe, without

GRADIENT = "gradient/"  # what the names of gradients in a traced step begin with


class State(NamedTuple):
    """All that a step changes.

    Attributes:
      step: global batches consumed, skipped updates included; the only field that the loop reads.
      params: what receives gradients.
      opt: optimiser slots.
      extra: batch statistics, EMA teachers, queues, centres, frozen networks, the online probe.
    """

    step: Int[Array, ""]
    params: Tree
    opt: Tree
    extra: Tree


class Objective(NamedTuple):
    """What to learn.

    Attributes:
      init: (key, batch, given={}) -> State. `batch` gives shapes only; `given` maps paths such as
        'params/backbone/...' to arrays that replace fresh ones before slots and EMA copies are made.
      update: (state, batch, key) -> (State, {name: scalar}); the whole training step, pure.
      export: (state) -> variables, the weights to evaluate or to hand on.
      predict: name -> (variables, batch, key) -> tree; `batch` holds pictures as the loader gives them.
        A deterministic entry ignores the key.
      prepare: (variables, key) -> variables, once after `export` and before any `predict`: statistics that a
        sampler has to measure with its final weights. It compiles what it does itself, and so is not for use inside
        of jit. None: they are ready.
      needs: the parts of the weights that `config.init` must bring to a new run, since nothing here would train them.
    """

    init: Callable[..., State]
    update: Callable[[State, Batch, Array], tuple[State, Metrics]]
    export: Callable[[State], Tree]
    predict: Mapping[str, Callable[[Tree, Batch, Array], Tree]]
    prepare: Callable[[Tree, Array], Tree] | None = None
    needs: Sequence[str] = ()


class Tokens(NamedTuple):
    """What texts are to a model; see `vitjax.data.tokenize.Tokenizer`."""

    vocab_size: int
    text_length: int
    pad: int
    begin: int | None
    end: int | None
    digest: str = ""


class Run(NamedTuple):
    """What a method may know of its surroundings.

    Attributes:
      total_steps: the horizon of every schedule.
      steps_per_epoch: training pictures / batch size; not a whole number in general.
      batch_size: global batch.
      batch_spec: name -> jax.ShapeDtypeStruct of the global batch on the device.
      class_names: label field -> names.
      dtype: of the computation; parameters and reductions stay float32.
      tokens: of the texts in the batch; None where it has none.
    """

    total_steps: int
    steps_per_epoch: float
    batch_size: int
    batch_spec: Mapping[str, jax.ShapeDtypeStruct]
    class_names: Mapping[str, Sequence[str]]
    dtype: Any
    tokens: Tokens | None = None


class Player(NamedTuple):
    """One side of a game: `name` is its subtree of the parameters, `steps` its updates a round."""

    name: str
    loss: Callable[..., tuple[Float[Array, ""], Output]]
    tx: optax.GradientTransformation
    steps: int = 1


def from_loss(
    *,
    init: Callable[[Array, Batch], dict[str, Tree]],
    loss: Callable[..., tuple[Float[Array, ""], Output]],
    tx: optax.GradientTransformation,
    export: Callable[[State], Tree],
    predict: Mapping[str, Callable[..., Tree]],
    views: Callable[[Batch, Array], Batch] | None = None,
    embed: Callable[..., tuple[Tree, Tree]] | None = None,
    start: Callable[[Tree], dict[str, Tree]] | None = None,
    after: Callable[[Tree, Tree, Array], tuple[Tree, Tree]] | None = None,
    rate: Callable[[Array], Array] | None = None,
    accum: int = 1,
    embed_chunks: int = 1,
    couples_examples: bool = False,
    probe: Probe | None = None,
    needs: Sequence[str] = (),
) -> Objective:
    """The objective that minimises one loss.

    Args:
      init: (key, batch) -> {'params': ..., **collections}.
      loss: (params, extra, batch, key, step) -> (scalar, Output); with `embed` it is (params, extra, embedded,
        batch, key, step) -> (scalar, Output), of the whole batch's embeddings, and of the batch without its pictures.
      tx: the optimiser; one that takes extra arguments is told `step`, so that schedules need no count.
      views: (batch, key) -> batch; augmentation, inside the accumulation loop, so that the views of a
        micro-batch exist only while it is worked on.
      embed: (params, extra, batch, key, step) -> (embedded, extra), for losses that compare pictures with each other:
        what is computed of each picture alone (batch norm apart), as a tree of arrays [B, ...].
      start: (variables) -> extra; EMA copies and empty queues, made once the weights are there.
      after: (params, extra, step) -> (params, extra); EMA, unit-norm prototypes, a bounded scale.
      rate: step -> learning rate, to be logged.
      accum: micro-batches a step.
      embed_chunks: pieces that are embedded one after the other; the loss still sees the whole batch.
      couples_examples: the loss compares pictures of a batch with each other, or normalises over them
        (batch norm), so that the mean over micro-batches is another loss. One with `embed` always does.
      probe: the online probe, from `vitjax.probe.make`; it learns from the features that the loss gives.
      needs: see `Objective`.

    Raises:
      UserError: accum > 1 with a loss that couples examples, or embed_chunks > 1 with one that has no `embed`.
    """
    _refuse_pieces(accum, embed_chunks, couples_examples, embed is not None)
    if embed is None:
        gradient = gradients.accumulated(loss, views, accum)
    else:
        gradient = gradients.of_embeddings(embed, loss, views, embed_chunks)

    def begin(key: Array, batch: Batch, given: Mapping[str, Array] | None = None) -> State:
        params, extra = _begin(init, start, key, batch, given)
        zero = jnp.zeros((), jnp.int32)
        if probe is not None:
            features = jax.eval_shape(gradient, params, extra, batch, key, zero)[3]
            extra[PROBE] = probe.init(_shape(features))
        return State(zero, params, tx.init(params), extra)

    def update(state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        grads, extra, metrics, features = gradient(state.params, without(state.extra), batch, key, state.step)
        params, opt, metrics = _descend(tx, grads, state.params, state.opt, metrics, state.step)
        if rate is not None:
            metrics["learning_rate"] = rate(state.step)
        if after is not None:
            params, extra = after(params, extra, state.step)
        seen = {}
        if probe is not None:
            learned, seen = probe.update(state.extra[PROBE], features, batch)
            extra = {**extra, PROBE: learned}
        # What only looks on has no say in whether the update is accepted.
        state, metrics = _accept(metrics, State(state.step, params, opt, extra), state)
        return state, {**metrics, **seen, **_health(features, state.step - 1)}

    def exported(state: State) -> Tree:
        return export(state._replace(extra=without(state.extra)))

    return Objective(begin, update, exported, predict, needs=needs)


def _shape(features: Any) -> tuple[int, ...]:
    """The shape of what a probe looks at."""
    if features is None:
        raise UserError("config.probe.field: this objective gives no features to look at; use config.probe.field=''")
    return features.shape


def _health(features: Float[Array, "B D"] | None, step: Int[Array, ""]) -> Metrics:
    return {} if features is None else health.of_features(features, step)


def _refuse_pieces(accum: int, embed_chunks: int, couples_examples: bool, embeds: bool) -> None:
    """Nothing, if the loss allows for the pieces that the config cuts the batch into."""
    if embed_chunks > 1 and not embeds:
        raise UserError(
            f"config.embed_chunks={embed_chunks}: this loss does not compare pictures by their embeddings; use "
            f"config.embed_chunks=1, and config.accum={embed_chunks} where memory is short"
        )
    if accum > 1 and (couples_examples or embeds):
        instead = f"config.accum=1 config.embed_chunks={accum}" if embeds else "config.accum=1"
        raise UserError(
            f"config.accum={accum}: this loss compares the pictures of a batch with each other, or normalises over "
            f"them, so that accumulating gradients would change it; use {instead}"
        )


def from_players(
    *,
    init: Callable[[Array, Batch], dict[str, Tree]],
    players: Sequence[Player],
    export: Callable[[State], Tree],
    predict: Mapping[str, Callable[..., Tree]],
    views: Callable[[Batch, Array], Batch] | None = None,
    start: Callable[[Tree], dict[str, Tree]] | None = None,
    after: Callable[[Tree, Tree, Array], tuple[Tree, Tree]] | None = None,
    report: Callable[[Metrics, Tree, Array], Metrics] | None = None,
    prepare: Callable[[Tree, Array], Tree] | None = None,
    accum: int = 1,
) -> Objective:
    """The objective of a game: one update is one round, in which the players move in their order.

    A batch holds as many real pictures as a round uses: it is cut into as many parts as the busiest player
    has moves, and move i of any player sees part i. So two discriminator steps and one generator
    step learn from two different sets of real pictures. A player's loss gets all parameters and is
    differentiated in those under its own name. `after` runs once, at the end of the round.

    Args:
      players: in the order of their moves; see `from_loss` for the rest. A player's metrics are logged
        as '<name>/<metric>', averaged over its moves; 'loss' is that of the first player.
      report: (metrics, extra, step) -> metrics; what is to be logged of the round as a whole.
      prepare: see `Objective`.

    Raises:
      UserError: the batch does not divide into the round's parts.
    """
    parts = max(player.steps for player in players)
    moves = [gradients.accumulated(_of_player(player), views, accum) for player in players]

    def begin(key: Array, batch: Batch, given: Mapping[str, Array] | None = None) -> State:
        params, extra = _begin(init, start, key, batch, given)
        opt = {player.name: player.tx.init(params[player.name]) for player in players}
        return State(jnp.zeros((), jnp.int32), params, opt, extra)

    def move(player: Player, gradient: Callable, batches: list[Batch], state: State, key: Array):
        """All updates of one player in a round; the moves' metrics are averaged."""
        logged: list[Metrics] = []
        for i in range(player.steps):
            others = {name: tree for name, tree in state.params.items() if name != player.name}
            mine = state.params[player.name]
            grads, extra, metrics, features = gradient(
                mine, (others, state.extra), batches[i], jax.random.fold_in(key, i), state.step
            )
            metrics |= _health(features, state.step)
            mine, opt, metrics = _descend(
                player.tx, grads, mine, state.opt[player.name], metrics, state.step, f"{player.name}/"
            )
            state = State(
                state.step, {**others, player.name: mine}, {**state.opt, player.name: opt}, extra[1]
            )
            logged.append(metrics)
        mean = jax.tree.map(lambda *values: sum(values) / player.steps, *logged)
        return state, {f"{player.name}/{name}": value for name, value in mean.items()}

    def update(state: State, batch: Batch, key: Array) -> tuple[State, Metrics]:
        batches = _moves(batch, parts, accum)
        new, metrics = state, {}
        for i, (player, gradient) in enumerate(zip(players, moves)):
            new, more = move(player, gradient, batches, new, jax.random.fold_in(key, i))
            metrics |= more
        if after is not None:
            params, extra = after(new.params, new.extra, state.step)
            new = new._replace(params=params, extra=extra)
        metrics["loss"] = metrics[f"{players[0].name}/loss"]
        if report is not None:
            metrics = report(metrics, new.extra, state.step)
        return _accept(metrics, new, state)

    return Objective(begin, update, export, predict, prepare)


def _of_player(player: Player) -> Callable:
    """A player's loss as a function of its own parameters, the others' riding in `extra`."""

    def loss(mine: Tree, carried: tuple[Tree, Tree], batch: Batch, key: Array, step: Array):
        others, extra = carried
        value, out = player.loss({**others, player.name: mine}, extra, batch, key, step)
        return value, out._replace(extra=(others, out.extra))

    return loss


def _begin(init: Callable, start: Callable | None, key: Array, batch: Batch, given: Mapping | None):
    """Fresh variables with `given` laid over them, as (params, extra)."""
    variables = overlay(init(key, batch), given or {})
    extra = {name: tree for name, tree in variables.items() if name != "params"}
    return variables["params"], extra | (start(variables) if start is not None else {})


def ema(old: Tree, new: Tree, momentum: Float[Array, ""] | float) -> Tree:
    """The moving average momentum * old + (1 - momentum) * new, leaf by leaf, in the dtypes of `old`.

    It is computed in float32. A momentum of 1 leaves `old` to the bit, as do equal trees. Whole numbers, such as
    counts, are not averaged but taken from `new`.
    """

    def average(a: Array, b: Array) -> Array:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return b.astype(a.dtype)
        a32, b32 = a.astype(jnp.float32), b.astype(jnp.float32)
        return (a32 + (1 - momentum) * (b32 - a32)).astype(a.dtype)

    return jax.tree.map(average, old, new)


def overlay(variables: Tree, given: Mapping[str, Array]) -> Tree:
    """`variables` with the leaves that `given` names replaced; dtypes stay those of `variables`.

    Raises:
      UserError: a given path is not there or has another shape.
    """
    flat = trees.flatten(variables)
    given = trees.stack(given, flat)
    wrong = [f"{path} (not in this model)" for path in given if path not in flat]
    wrong += [
        f"{path} {tuple(given[path].shape)} for {tuple(leaf.shape)}"
        for path, leaf in flat.items()
        if path in given and given[path].shape != leaf.shape
    ]
    if wrong:
        raise UserError(f"the weights of config.init are of another model: {'; '.join(wrong[:5])}")
    return trees.map_with_path(
        lambda path, leaf: jnp.asarray(given[path], leaf.dtype) if path in given else leaf, variables
    )


def _moves(batch: Batch, moves: int, accum: int) -> list[Batch]:
    """The batches of a round's moves, each of which every device has an equal share of.

    Raises:
      UserError: there are no such shares; jax would have every device compute the whole round.
    """
    size, shards = jax.tree.leaves(batch)[0].shape[0], sharding.shards_in_use()
    unit = moves * accum * shards
    if size % unit:
        near = " or ".join(str(n * unit) for n in (size // unit, size // unit + 1) if n)
        raise UserError(
            f"config.batch_size={size} must be a multiple of {unit} = {moves} moves of a round x config.accum={accum} "
            f"x {shards} shards (config.mesh.data x config.mesh.fsdp); try {near}"
        )
    whole = gradients.parts(dict(batch), moves, "the moves of a round")
    return [jax.tree.map(lambda x, i=i: x[:, i], whole) for i in range(moves)]


def _descend(
    tx: optax.GradientTransformation,
    grads: Tree,
    params: Tree,
    opt: Tree,
    metrics: Metrics,
    step: Array,
    prefix: str = "",
):
    """One optimiser step: (params, opt, metrics with 'grad_norm').

    Each gradient carries its name through the trace, at no cost in the compiled step, so that
    `vitjax.replay` can look at the gradients of any method.
    """
    named = trees.map_with_path(lambda path, g: checkpoint_name(g, f"{GRADIENT}{prefix}{path}"), grads)
    metrics = dict(metrics, grad_norm=optax.tree.norm(named))
    updates, opt = optax.with_extra_args_support(tx).update(named, opt, params, step=step)
    return optax.apply_updates(params, updates), opt, metrics


def _accept(metrics: Metrics, new: State, old: State) -> tuple[State, Metrics]:
    """The new state if loss and gradients are finite, else the old one; `step` advances either way.

    A norm over all leaves is finite only if each of them is, and an average over micro-batches or moves only
    if each of these is. What the step does not touch (a frozen network) is passed on without a choice.
    """
    watched = [value for name, value in metrics.items() if name.split("/")[-1] in ("loss", "grad_norm")]
    finite = jnp.all(jnp.isfinite(jnp.stack(watched)))
    kept = jax.tree.map(lambda a, b: b if a is b else jnp.where(finite, a, b), new, old)
    return kept._replace(step=old.step + 1), dict(metrics, skipped=1.0 - finite)
