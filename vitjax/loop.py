"""The one training loop. It knows no method, no data set and no log: it steps, and calls hooks that are due.

Randomness of a step is `fold_in(run_key, state.step)`, so that a run that stopped anywhere and goes on draws what
an unbroken run draws.
"""

import collections
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax import sharding
from vitjax.objective import Metrics, Objective, Run, State
from vitjax.supervisor import LOGGING, STEPPING, WAITING, Interrupted

# Steps that may be on their way to the device at once: enough to hide the host, few enough to bound memory.
IN_FLIGHT = 2


class Event(NamedTuple):
    """What a hook sees after a step.

    Attributes:
      step: the number of steps done, this one included.
      state: after the step; a hook must copy what it keeps, because the next step donates it.
      metrics: the step's scalars, still on the device.
      batch: as the host delivered it.
      waited_s: how long the loop stood waiting for that batch.
      last: no step follows.
    """

    step: int
    state: State
    metrics: Metrics
    batch: Mapping[str, np.ndarray]
    waited_s: float
    last: bool


Hook = Callable[[Event], None]


def step_key(seed: int, step: Any) -> jax.Array:
    """The key of the step that follows `step` steps."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)


def make_step(objective: Objective, seed: int) -> Callable:
    """The training step (state, batch) -> (state, metrics), to be traced."""

    def step(state: State, batch: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
        return objective.update(state, batch, step_key(seed, state.step))

    return step


def trace_step(objective: Objective, run: Run, seed: int, mesh: Mesh, abstract: State) -> Any:
    """The traced training step (state, batch) -> (state, metrics): `.jaxpr` to look at, `.lower().compile()`.

    The step donates its state. To be called, as the compiled step, under `sharding.use(mesh)`.

    Args:
      abstract: the state's shapes and shardings, from `sharding.abstract`.
    """
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in run.batch_spec.items()
    }

    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    step = jax.jit(make_step(objective, seed), donate_argnums=0, out_shardings=(shardings, whole))
    return step.trace(abstract, batch)


def train(
    step_fn: Callable,
    state: State,
    batches: Iterator[Mapping[str, np.ndarray]],
    *,
    first_step: int,
    total_steps: int,
    mesh: Mesh,
    hooks: Sequence[Hook],
    stop: Callable[[], bool] = lambda: False,
    enter: Callable[[str], None] = lambda phase: None,
) -> State:
    """The state after `total_steps`, or earlier if `stop()` says so after a step.

    The batch of the next step is fetched before the hooks of this one: while the device works, and so that
    a wait for data that is broken off leaves a step whose hooks learn that it was the last.

    Args:
      step_fn: from `trace_step`, compiled; called under `sharding.use(mesh)`.
      batches: starting with the batch of step `first_step`.
      first_step: steps done so far.
      hooks: called in their order after every step; each decides for itself whether it is due.
      stop: asked once after every step.
      enter: told what the loop does from now on; may raise `Interrupted` instead of waiting for data.
    """
    in_flight: collections.deque[Any] = collections.deque()
    fetch = _fetcher(batches, enter)
    upcoming = fetch() if first_step < total_steps else None
    for number in range(first_step + 1, total_steps + 1):
        if upcoming is None:
            break
        host_batch, waited_s = upcoming
        enter(STEPPING)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            state, metrics = step_fn(state, sharding.put_batch(host_batch, mesh))
        in_flight.append(metrics["loss"] if "loss" in metrics else next(iter(metrics.values())))
        if len(in_flight) > IN_FLIGHT:
            jax.block_until_ready(in_flight.popleft())
        upcoming = None if stop() or number == total_steps else fetch()
        if upcoming is None:
            enter(LOGGING)
        event = Event(number, state, metrics, host_batch, waited_s, upcoming is None)
        for hook in hooks:
            hook(event)
    return state


def _fetcher(batches: Iterator[Any], enter: Callable[[str], None]) -> Callable[[], tuple[Any, float] | None]:
    """() -> the next batch and how long it was waited for, or None if the wait was broken off."""

    def fetch() -> tuple[Any, float] | None:
        before = time.perf_counter()
        try:
            enter(WAITING)
            batch = next(batches)
            enter(LOGGING)
        except Interrupted:
            enter(LOGGING)
            return None
        return batch, time.perf_counter() - before

    return fetch
