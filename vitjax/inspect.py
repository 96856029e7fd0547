"""Shows what a run or an export holds: checkpoints and their health, parameters, config, progress.

    python -m vitjax.inspect DIR
    python -m vitjax.inspect DIR --verify

Only names and metadata are read, so that it can run beside a live training. With --verify every array is read
on the host, a few at a time, and compared with the checksum that was saved with it. Exit code 1: something is
damaged.
"""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from vitjax import alarms, cli, retention, stored
from vitjax.errors import RunError, UserError
from vitjax.stored import Damaged, Incomplete, Meta

CONFIG, WEIGHTS, METRICS = "config.json", "model.safetensors", "metrics.jsonl"
# What is counted of a run, and the file that has a line for each.
COUNTED = {"bad records": "bad_records.jsonl", "refused updates": "nonfinite.jsonl", "starts": "history.jsonl"}
# Of the many numbers of a step, those that say how a run stands.
_HEADLINE = re.compile(r"train/loss|eval/[^/]+/accuracy")
TAIL_BYTES = 2**20
BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "uint32": 4, "bfloat16": 2, "float16": 2}


class Leaf(NamedTuple):
    """An array as metadata know it."""

    path: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * BYTES.get(self.dtype, 2 if self.dtype.endswith("16") else 1)


class Step(NamedTuple):
    """A checkpoint: its metadata, or what is wrong with it."""

    step: int
    folder: epath.Path
    meta: Meta | None
    health: str
    damaged: bool


def inspect(
    workdir: str | epath.Path, *, step: int | None = None, verify: bool = False, parameters: bool = False
) -> tuple[str, bool]:
    """What to show of the run or the export in `workdir`, and whether anything is damaged.

    Args:
      step: the one checkpoint to look at; all of them, and the parameters of the newest, by default.
      verify: reads every array.
      parameters: lists every array, not only sums.

    Raises:
      UserError: there is neither a run nor an export, or no such checkpoint.
    """
    workdir = epath.Path(workdir)
    if (workdir / WEIGHTS).exists():
        return _export(workdir, verify, parameters)
    directory = workdir / stored.FOLDER
    if not directory.is_dir() and not (workdir / CONFIG).exists():
        raise UserError(f"{workdir} holds neither a run nor an export; give the --workdir of one")
    config = _config(workdir)
    looked = [_look(directory, number) for number in stored.numbered(directory) if step in (None, number)]
    # A live run may have removed one meanwhile.
    steps = [found for found in looked if found.folder.exists()]
    if step is not None and not steps:
        have = ", ".join(map(str, stored.numbered(directory))) or "none"
        raise UserError(f"--step={step}: {directory} holds the steps {have}")
    if verify:
        steps = [found for found in map(_verified, steps) if found.folder.exists()]
    shown = next((found for found in reversed(steps) if found.meta), None)
    blocks = [
        _table([("run", str(workdir)), *_facts(config), *_progress(workdir), *_left_out(shown)]),
        _checkpoints(workdir, directory, steps, config),
    ]
    if shown:
        leaves = [
            Leaf(f"{item}/{path}", tuple(shape), dtype)
            for item, flat in shown.meta.shapes.items()
            for path, (shape, dtype) in flat.items()
        ]
        blocks.append(f"Arrays of step {shown.step:,}\n{_arrays(leaves, parameters)}")
    return "\n\n".join(blocks), any(found.damaged for found in steps)


def _look(directory: epath.Path, step: int) -> Step:
    """A checkpoint as its metadata describe it."""
    folder = stored.at(directory, step)
    try:
        return Step(step, folder, stored.read_meta(folder), "complete", False)
    except Incomplete as error:
        return Step(step, folder, None, f"INCOMPLETE: {error.cause}", True)
    except Damaged as error:
        return Step(step, folder, None, f"DAMAGED: {error.cause}", True)
    except UserError as error:
        return Step(step, folder, None, str(error), False)


def _verified(found: Step) -> Step:
    """The same, after every array was read."""
    if found.meta is None:
        return found
    # Here, because jax and orbax take a second.
    from vitjax import loading

    try:
        wrong = list(loading.damaged_leaves(found.folder))
    except (Damaged, RunError) as error:
        return found._replace(health=f"DAMAGED: {getattr(error, 'cause', error)}", damaged=True)
    if wrong:
        return found._replace(health=f"DAMAGED: {', '.join(wrong)}", damaged=True)
    return found._replace(health=f"verified, {len(found.meta.sums)} arrays")


def _checkpoints(
    workdir: epath.Path, directory: epath.Path, steps: Sequence[Step], config: Mapping[str, Any]
) -> str:
    """A line for each folder of checkpoints."""
    saving = config.get("checkpoint", {})
    metric, mode = saving.get("keep_best", ""), saving.get("keep_best_mode", "max")
    scores = retention.scores(workdir, metric)
    best = retention.best_step([found.step for found in steps if found.meta], scores, mode)
    rows = []
    for found in steps:
        health = found.health
        if found.step == best:
            health += f"; best, {metric} = {scores[best]:.4g}"
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.meta.written_s)) if found.meta else "-"
        rows.append((f"{found.step:,}", in_bytes(stored.size_bytes(found.folder)), written, health))
    marks = {stored.DAMAGED: "damaged, set aside", stored.REMOVED: "left over from a removal"}
    for mark, health in marks.items():
        rows += [(path.name, in_bytes(stored.size_bytes(path)), "-", health) for path in stored.marked(directory, mark)]
    for path in stored.unfinished(directory):
        rows.append((path.name, "-", "-", "a save that is going on, or was never finished"))
    return _table([("step", "size", "written", "health"), *rows]) if rows else "no checkpoints"


def _facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The config in a few lines."""
    if not config:
        return [("config", f"there is no {CONFIG}")]
    data, length = config["data"], config["run"]["total_steps"]
    source = data["path"] or data["builtin"] or data["source"]
    return [
        ("objective", f"{config['objective'].get('name')} with {config['model'].get('name')}"),
        ("data", f"{source}, {data['size_px']} px, batches of {config['batch_size']:,}"),
        ("length", f"{length:,} steps = {length / config['run']['steps_per_epoch']:,.1f} epochs"),
        ("seed", str(config["seed"])),
    ]


def _progress(workdir: epath.Path) -> list[tuple[str, str]]:
    """How far a run is, and what happened on the way."""
    row = _last_row(workdir / METRICS)
    shown = [
        f"{name} {value:.4g}"
        for name, value in row.items()
        if isinstance(value, int | float) and _HEADLINE.fullmatch(name)
    ]
    facts = [("progress", ", ".join([f"step {row['step']:,}", *shown]) if row else "nothing is logged")]
    facts += [(name, f"{_lines(workdir / file):,}") for name, file in COUNTED.items() if (workdir / file).exists()]
    return facts + [("alarm", _alarm(row)) for row in alarms.read(workdir)]


def _alarm(row: Mapping[str, Any]) -> str:
    """'collapse from step 40 to 120: health/feature_std is 0.01, below 0.05'."""
    until = f"to {row['over_at']:,}" if row["over_at"] is not None else "on"
    return f"{row['alarm']} from step {row['step']:,} {until}: {row['metric']} {row['said']}"


def _left_out(shown: Step | None) -> list[tuple[str, str]]:
    """The batches that the run goes without, if there are any."""
    batches = shown.meta.left_out if shown else ()
    return [("left out", f"batches {', '.join(map(str, batches))}")] if batches else []


def _arrays(leaves: Sequence[Leaf], every: bool) -> str:
    """Numbers and bytes by part, or of every array."""
    if every:
        rows = [(x.path, f"{x.dtype}[{','.join(map(str, x.shape))}]", f"{x.size:,}", in_bytes(x.bytes)) for x in leaves]
        return _table(rows)
    parts: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        # Slots belong to an optimiser whose own names say nothing here.
        depth = 1 if leaf.path.startswith("opt/") else 2
        parts.setdefault("/".join(leaf.path.split("/")[:depth]), []).append(leaf)
    rows = [
        (part, f"{len(group):,} arrays", f"{sum(x.size for x in group):,}", in_bytes(sum(x.bytes for x in group)))
        for part, group in parts.items()
    ]
    total = sum(x.size for x in leaves if x.path.startswith("params/"))
    return _table([*rows, ("all parameters", "", f"{total:,}", "")])


def _export(workdir: epath.Path, verify: bool, parameters: bool) -> tuple[str, bool]:
    """The same of an export, which is one file of weights."""
    file, config = workdir / WEIGHTS, _config(workdir)
    health, leaves, damaged = "complete", [], False
    try:
        leaves = list(_tensors(file))
        if verify:
            health = f"every array read, {len(leaves)} of them; an export holds no checksums"
            _read_tensors(file)
    except Exception as error:
        health, damaged = f"DAMAGED: {type(error).__name__}: {error}", True
    step = config.get("step")
    facts = [("export", str(workdir)), *_facts(config), ("step", "-" if step is None else f"{step:,}")]
    facts += [("weights", f"{in_bytes(file.stat().length)}, {health}")]
    return f"{_table(facts)}\n\n{_arrays(leaves, parameters)}", damaged


def _tensors(file: epath.Path) -> Iterator[Leaf]:
    """What the head of a safetensors file says; its length must be that of the file."""
    types = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "I64": "int64", "U8": "uint8"}
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        head = json.loads(stream.read(min(length, file.stat().length)))
    head.pop("__metadata__", None)
    end = 8 + length + max((x["data_offsets"][1] for x in head.values()), default=0)
    if end != file.stat().length:
        raise ValueError(f"the file has {file.stat().length:,} bytes and should have {end:,}")
    for path, x in sorted(head.items()):
        yield Leaf(path, tuple(x["shape"]), types.get(x["dtype"], x["dtype"]))


def _read_tensors(file: epath.Path) -> None:
    """Reads every array, one at a time."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        for name in tensors.keys():
            tensors.get_tensor(name)


def _config(workdir: epath.Path) -> dict[str, Any]:
    """The config, with what the run was told of its data under 'run' and the step of an export; {} if there is none."""
    file = workdir / CONFIG
    if not file.exists():
        return {}
    found = json.loads(file.read_text())
    return found["config"] | {"run": found["run"], "step": found.get("step")}


def _last_row(file: epath.Path) -> dict[str, Any]:
    """The last whole line of a file of JSON lines; {} if there is none."""
    if not file.exists():
        return {}
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().length - TAIL_BYTES))
        lines = stream.read().splitlines()
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            return row
    return {}


def _lines(file: epath.Path) -> int:
    with file.open("rb") as stream:
        return sum(1 for _ in stream)


def in_bytes(number: float) -> str:
    """Bytes as people say them."""
    power = min(4, int(math.log10(max(number, 1))) // 3)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns; the last one is as long as it likes."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)) - 1)]
    lines = ("  ".join([*(text.ljust(w) for text, w in zip(row, widths)), row[-1]]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def main(argv: Sequence[str]) -> int:
    """Prints what is there; 1 if something is damaged."""
    options = cli.parser("vitjax.inspect", __doc__)
    cli.add_run(options, "a run or an export")
    options.add_argument("--verify", action="store_true", help="read every array and compare its checksum")
    options.add_argument("--parameters", action="store_true", help="list every array with its shape and type")
    options.add_argument("--step", type=int, metavar="N", help="look at this checkpoint alone")
    values, given = cli.parse(options, argv)
    if given:
        raise UserError(f"{given[0]}: a look at a run takes no settings")
    # Before jax is imported, and never on an accelerator: a training may be using it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    text, damaged = inspect(
        cli.run_directory(values), step=values.step, verify=values.verify, parameters=values.parameters
    )
    print(text)
    return int(damaged)


if __name__ == "__main__":
    cli.run(main)
