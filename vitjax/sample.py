"""Draws pictures of a trained generator, of a run or an export, as one PNG.

    python -m vitjax.sample --workdir=DIR --out=FILE.png --n=64
    python -m vitjax.sample --workdir=DIR --out=FILE.png --label=dog --truncation=0.5
    python -m vitjax.sample --workdir=DIR --out=FILE.png --interpolate

The same command draws the same pictures, and --seed others. With --interpolate each line is a way from one picture
to another, in the latent. --truncation keeps latents near the middle: below 1, pictures are better and more alike.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from vitjax import cli, devices, experiment, latent, names, picture
from vitjax.config import Tracked
from vitjax.errors import UserError
from vitjax.experiment import Experiment

BATCH = 64
WAY = 8  # pictures from one end to the other


def sample(
    workdir: str,
    n: int,
    label: str = "",
    truncation: float | None = None,
    seed: int = 0,
    interpolate: bool = False,
) -> list[UInt8[np.ndarray, "B S S 3"]]:
    """n pictures of the generator in `workdir`, in lines; with `interpolate` whole ways, and so up to 7 more.

    Args:
      label: the name or the number of a class; '' draws classes.
      truncation: None is that of the run's config, 0 none.

    Raises:
      UserError: there is no generator, no such class, or a number makes no sense.
    """
    if n < 1:
        raise UserError(f"--n={n} must be 1 or more")
    if truncation is not None:
        latent.checked_truncation(truncation, "--truncation")
    built = _read(workdir, truncation)
    columns, key = WAY if interpolate else math.ceil(math.sqrt(n)), jax.random.key(seed)
    z, y = _ways(built, math.ceil(n / columns), key) if interpolate else _draws(built, n, key)
    if label:
        y = jnp.full_like(y, _class_number(built, label))
    images = _generated(built, z, y)
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def _read(workdir: str, truncation: float | None) -> Experiment:
    """The experiment there, with this truncation: of its latents and of the statistics it is sampled with."""
    config = experiment.read_config(workdir)
    known = "objective" in config and "z_dim" in config.objective
    if known and truncation is not None:
        config.objective.truncation = truncation
    built = experiment.read(workdir, Tracked(config))
    if not known or "generate" not in built.objective.predict:
        raise UserError(
            f"--workdir={workdir}: config.objective.name={config.objective.name!r} has no generator; give a run of "
            "'dcgan' or 'biggan'"
        )
    return built


def _draws(built: Experiment, n: int, key: Array) -> tuple[Float[Array, "n Z"], Int[Array, " n"]]:
    """Latents and classes."""
    c, rows = built.config.objective, jnp.arange(n)
    return latent.draw(key, rows, c.z_dim, c.truncation), latent.draw_classes(key, rows, _num_classes(built))


def _ways(built: Experiment, lines: int, key: Array) -> tuple[Float[Array, "n Z"], Int[Array, " n"]]:
    """`lines` ways of WAY pictures, each from one draw to another and in one class."""
    z, y = _draws(built, 2 * lines, key)
    at = jnp.broadcast_to(jnp.linspace(0, 1, WAY), (lines, WAY))
    way = latent.between(z[:lines, None], z[lines:, None], at)
    return way.reshape(lines * WAY, -1), jnp.repeat(y[:lines], WAY)


def _classes(built: Experiment) -> tuple[str, ...]:
    """The names of the classes that the generator knows; none, if it knows none."""
    c = built.config.objective
    return tuple(built.run.class_names[c.label]) if "label" in tuple(c) else ()


def _num_classes(built: Experiment) -> int:
    return max(1, len(_classes(built)))


def _class_number(built: Experiment, label: str) -> int:
    classes = _classes(built)
    if not classes:
        raise UserError(f"--label={label}: this generator knows no classes; leave the label out")
    if label in classes:
        return classes.index(label)
    if label.isdecimal() and int(label) < len(classes):
        return int(label)
    shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    raise UserError(
        f"--label={label}: there is no such class{names.nearest(label, classes)}; give a number below {len(classes)}, "
        f"or one of {shown}"
    )


def _generated(
    built: Experiment, z: Float[Array, "n Z"], y: Int[Array, " n"]
) -> UInt8[np.ndarray, "n S S 3"]:
    """Pictures of these latents and classes, a batch at a time."""
    objective, key = built.objective, jax.random.key(experiment.KEY_PREPARE)
    variables, _ = experiment.variables_and_step(built, prepared=False)
    if objective.prepare is not None:
        variables = objective.prepare(variables, key)
    generate, made = jax.jit(objective.predict["generate"]), []
    for i in range(0, len(z), BATCH):
        # The last batch is as large as the others: the generator is compiled once.
        chosen = jnp.minimum(jnp.arange(i, i + BATCH), len(z) - 1)
        part = {"row": chosen, "latent": z[chosen], "latent_class": y[chosen]}
        made.append(np.asarray(generate(variables, part, key)))
    return np.concatenate(made)[: len(z)]


def main(argv: Sequence[str]) -> Any:
    """Draws what the command line asks for."""
    options = cli.parser("vitjax.sample", __doc__)
    cli.add_workdir(options, "a run or an export")
    cli.add_allow_cpu(options)
    options.add_argument("--out", required=True, metavar="FILE.png", help="where the picture is written")
    options.add_argument("--n", type=int, default=64, help="how many pictures")
    options.add_argument(
        "--label", default="", metavar="NAME", help="the class, by name or number; drawn by default"
    )
    options.add_argument(
        "--truncation", type=float, help="the bound of latents; that of the config by default"
    )
    options.add_argument("--seed", type=int, default=0, help="of the draws")
    options.add_argument(
        "--interpolate", action=argparse.BooleanOptionalAction, default=False, help="lines are ways"
    )
    values, given = cli.parse(options, argv)
    if given:
        raise UserError(f"{given[0]}: samples are of the run's config; --truncation alone can be changed")
    if not values.out.lower().endswith(".png"):
        raise UserError(f"--out={values.out} must end in .png, which is what is written")
    devices.check(values.allow_cpu)
    devices.use_compilation_cache()
    lines = sample(
        values.workdir, values.n, values.label, values.truncation, values.seed, interpolate=values.interpolate
    )
    print(f"Wrote {picture.save_png(values.out, picture.grid(lines))}")


if __name__ == "__main__":
    cli.run(main)
