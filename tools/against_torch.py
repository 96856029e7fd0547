"""vitjax's step beside PyTorch's: the same weights, the same loss at step 0, then turns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
import torch_forms
from jaxtyping import Array, Float
from torch_forms import Form
from torch_reference import Reference

from vitjax import augment, experiment, latent, loop, sharding, trees
from vitjax.models import patches
from vitjax.objectives.mae import KEY_MASK

# Relative, of the losses at step 0. Matrix products that are not in float32 differ by their rounding alone.
TOLERANCE, LOW_TOLERANCE = 1e-4, 1e-2
TRIAL_STEPS = 3


class Start(NamedTuple):
    """What both sides start from, and vitjax's loss there.

    Attributes:
      variables: flat, under unstacked names, numpy.
      batch: as the host has it.
      noise: what is drawn in that step and handed on: [B, N], which orders the patches of a MAE, or the latents of
        a game, [2, B, Z]; or None.
      loss: before the first update.
    """

    variables: dict[str, np.ndarray]
    batch: dict[str, np.ndarray]
    noise: np.ndarray | None
    loss: float


def compare(bench: Any, steps: int, blocks: int) -> dict[str, str]:
    """The times of both, their ratio, and the settings of PyTorch.

    Args:
      bench: a `bench_step.Bench` on one device, in use with its mesh.

    Raises:
      UserError: the config asks for something that is not written in PyTorch here.
      RuntimeError: the losses at step 0 differ.
    """
    cpu = jax.default_backend() == "cpu"
    torch.set_num_threads(timing.cores())
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as in XLA
    begin = start(bench)

    def make(form: Form) -> Reference:
        return Reference(bench.built, begin.variables, form, "cpu" if cpu else "cuda")

    exact = cpu and np.dtype(bench.built.run.dtype) == np.float32
    theirs = check_loss(begin, make(Form()), TOLERANCE if exact else LOW_TOLERANCE)
    form, tried = fastest_form(torch_forms.choices(bench.config, cpu), make, begin)
    reference = make(form)
    times = timing.interleave({"vitjax": bench.bare, "torch": runner(reference, begin)}, steps, blocks)
    return {
        "vitjax": timing.spread(times["vitjax"]),
        "PyTorch": timing.spread(times["torch"]),
        "ratio": f"{timing.ratio(times['vitjax'], times['torch'])} vitjax / PyTorch, {blocks} blocks of "
        f"{steps} steps in turns",
        "loss": f"at step 0 {begin.loss:.6f} and {theirs:.6f}",
        "settings": f"torch {torch.__version__}, {'eager' if cpu else 'torch.compile'}, "
        f"{torch.get_num_threads()} threads, {torch_forms.describe(bench.config, form)}",
        "tried": tried or "no other form",
    }


def start(bench: Any) -> Start:
    """The start of a run, moved a little, from which `bench` then takes its first step.

    At the true start a classifier's head and the last norm of each residual branch are zero. They would hide
    all that lies behind them from the loss, and two different networks would agree.
    """
    abstract, built = bench.abstract, bench.built
    bench.state = None  # two states may not fit
    state = experiment.fresh_state(built, abstract, {})
    params = _moved(state.params)
    variables = {k: np.array(x) for k, x in trees.flatten({"params": params, **state.extra}).items()}
    # A copy, because the step overwrites the state that it is given.
    where = jax.tree.map(lambda x: x.sharding, abstract.params)
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=where)
    state = state._replace(params=copy(params))
    batch = bench.batches[0]
    noise = drawn(bench.config, batch["row"], step=0)
    bench.state, metrics = bench.step_fn(state, sharding.put_batch(batch, bench.mesh))
    return Start(trees.unstack(variables), batch, noise, float(metrics["loss"]))


def _moved(params: Any) -> Any:
    """Every weight plus a little noise, on the host."""
    rng = np.random.default_rng(0)

    def move(x: Array) -> np.ndarray:
        scale = 0.02 if x.ndim >= 2 else 0.1
        return np.asarray(x) + np.float32(scale) * rng.standard_normal(x.shape, np.float32)

    return jax.tree.map(move, params)


def drawn(config: Any, rows: Array, step: int) -> np.ndarray | None:
    """What a step draws beside its views, as `Start.noise`; None where that is nothing."""
    if config.objective.name not in DRAWS:
        return None
    return np.array(DRAWS[config.objective.name](config, rows, loop.step_key(config.seed, step)))


def mask_noise(config: Any, rows: Array, key: Array) -> Float[Array, "B N"]:
    """The noise that MAE's masks come from, drawn as in `from_loss` and the objective."""
    _, key_loss = jax.random.split(key)
    h, w = patches.grid(config.data.size_px, config.data.size_px, config.model.patch_px)
    keys = jax.vmap(lambda k: jax.random.fold_in(k, KEY_MASK))(augment.row_keys(key_loss, rows))
    return jax.vmap(lambda k: jax.random.uniform(k, (h * w,)))(keys)


def latents(config: Any, rows: Array, key: Array) -> Float[Array, "2 B Z"]:
    """What both players' pictures are made from, drawn as in `from_players` and `vitjax.adversarial`."""
    out = []
    for player, uses in enumerate((3, 2)):  # how many keys the discriminator's and the generator's loss split
        _, key_loss = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, player), 0))
        key_made = jax.random.split(key_loss, uses)[0]
        out.append(latent.draw(key_made, rows, config.objective.z_dim))
    return jnp.stack(out)


DRAWS = {"mae": mask_noise, "dcgan": latents}


def check_loss(begin: Start, reference: Reference, tolerance: float) -> float:
    """PyTorch's loss at step 0.

    Raises:
      RuntimeError: it is not vitjax's, so that the times would be those of two different things.
    """
    noise = None if begin.noise is None else torch.from_numpy(begin.noise).to(reference.device)
    theirs = float(reference.step(reference.put(begin.batch), noise))
    if not abs(theirs - begin.loss) <= tolerance * abs(begin.loss):
        raise RuntimeError(
            f"the losses at step 0 differ by more than {tolerance:g}: {begin.loss} in vitjax, {theirs} in "
            "PyTorch; times of different models are no comparison"
        )
    return theirs


def runner(reference: Reference, begin: Start) -> Callable[[int], None]:
    """Runs so many steps on a batch that is on the device already, and waits for them."""
    batch = reference.put(begin.batch)

    def run(steps: int) -> None:
        for _ in range(steps):
            reference.step(batch)
        reference.wait()

    return run


def fastest_form(
    choices: list[list[dict[str, str]]], make: Callable[[Form], Reference], begin: Start
) -> tuple[Form, str]:
    """The form that is best in one choice after the other, and what was found."""
    form, tried = Form(), []
    for choice in choices:
        forms = [form._replace(**values) for values in choice]
        sides = {str(i): runner(make(f), begin) for i, f in enumerate(forms)}
        for run in sides.values():
            run(1)  # compiles, or allocates
        times = timing.interleave(sides, TRIAL_STEPS, blocks=2)
        seconds = [min(times[name]) for name in sides]
        form = forms[int(np.argmin(seconds))]
        tried += [f"{v} {1000 * s:.4g} ms" for c, s in zip(choice, seconds) for v in c.values()]
    return form, ", ".join(tried)
