"""Audits a picture set: what it holds, what is wrong with it, what it holds twice, how fast it loads.

    python -m vitjax.check DATA
    python -m vitjax.check DATA --split=train --out=check.json
    python -m vitjax.check DATA --config.data.label_columns=species

Every record of every split is read and decoded once, and nothing is written but --out. DATA is what
config.data.path would be, and each setting of config.data can be given. About 40 bytes a picture stay in memory, and
some 200 while duplicates are searched. Exit code 0 also where bad records were found; 2 where there is no such set.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitjax import cli
from vitjax.config import base_config
from vitjax.counting import Counting
from vitjax.data import cache, contents, duplicates, pipeline
from vitjax.data.audit import Audit, audit
from vitjax.data.sources import Source
from vitjax.errors import UserError
from vitjax.inspect import in_bytes
from vitjax.progress import duration, start_table

MEASURED_S = 3.0  # of the loader, after the first batches
BATCH_SIZE = 64
SHOWN = 5  # classes at either end, and formats

Facts = dict[str, Any]  # as --out has them


def check(data: Any, split: str = "") -> Facts:
    """The numbers of all splits of `config.data`, or of one.

    Raises:
      UserError: there is no such set or split.
    """
    opened = contents.open_splits(data, split)
    audits = {}
    for name, (source, _) in opened.items():
        with Counting(name, len(source)) as counting:
            audits[name] = audit(source, data.max_pixels, counting)
    facts: Facts = {"source": {name: repr(source) for name, (source, _) in opened.items()}}
    facts["splits"] = {name: facts_of(found) for name, found in audits.items()}
    facts["duplicates"] = duplicates.held_twice({name: hashes_of(found) for name, found in audits.items()})
    first = next(iter(opened))
    facts["loader"] = {first: measure(data, *opened[first])}
    return facts


def settings(path: str | None, config_flags: Sequence[str] = ()) -> Any:
    """`config.data` as every experiment has it, with this path, and what the flags set."""
    config = cli.override(base_config(), config_flags)
    if path:
        config.data.path = path
    return config.data


def facts_of(found: Audit) -> Facts:
    """The numbers of one split."""
    good, names = found.good, found.source.class_names
    facts: Facts = {
        "records": len(good),
        "bad": found.bad.count,
        "bad_reasons": found.bad.reasons().splitlines(),
    }
    facts["bytes"] = int(found.bytes.sum())
    if not good.any():
        return facts
    sides = np.sort(np.stack([found.height[good], found.width[good]]), axis=0)
    facts["short_side_px"], facts["long_side_px"] = map(_percentiles, sides)
    facts["forms"] = dict(found.forms.most_common())
    facts["labels"] = {field: _named(counts, names[field]) for field, counts in found.labels.items()}
    if found.captions:
        facts["captions"] = _captions(found)
    if found.boxes:
        facts["boxes"] = {
            "count": found.box_labels.total(),
            "a_picture": _percentiles(_repeated(found.boxes)),
            "classes": _named(found.box_labels, names.get("box_label", ())),
            "sizes": {size: found.box_sizes[size] for size in ("small", "medium", "large")},
        }
    if found.masks:
        pixels = Counter({k: int(n) for k, n in enumerate(found.mask_pixels) if n})
        facts["masks"] = {"count": found.masks, "pixels": _named(pixels, names.get("mask", ()))}
    return facts


def hashes_of(found: Audit) -> duplicates.Hashes:
    """The hashes of the pictures that could be used."""
    index = np.flatnonzero(found.good)
    return duplicates.Hashes(
        found.content[index], found.likeness[index], lambda k: found.source.name(int(index[k]))
    )


def measure(data: Any, source: Source, fields: tuple[str, ...]) -> Facts:
    """Pictures a second of the loader as training would use it, and the seconds of an epoch; or what hinders it."""
    data = contents.with_fields(data, fields)
    config = base_config()
    try:
        batches = pipeline.train_batches(
            source,
            batch_size=BATCH_SIZE,
            rows=np.arange(BATCH_SIZE),
            seed=0,
            start_step=0,
            canvas_px=pipeline.canvas_px(data),
            crop=data.crop,
            size_px=data.size_px,
            crop_area=config.augment.crop_area,
            crop_aspect=config.augment.crop_aspect,
            resize=data.resize,
            workers=data.workers,
            fields=pipeline.fields(data, source),
            form=pipeline.form(data),
        )
        with batches:
            for _ in range(4):  # what was decoded ahead while nobody asked
                next(batches)
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < MEASURED_S:
                next(batches)
                count += BATCH_SIZE
            per_s = count / (time.perf_counter() - began)
    except UserError as error:
        return {"error": str(error)}
    return {"pictures_per_s": per_s, "epoch_s": len(source) / per_s, "canvas_px": pipeline.canvas_px(data)}


def text(facts: Facts) -> str:
    """The numbers as they are printed."""
    blocks = []
    for split, found in facts["splits"].items():
        bad = f", {found['bad']:,} bad" if found["bad"] else ""
        head = f"{split}: {found['records']:,} records, {in_bytes(found['bytes'])}{bad}  {facts['source'][split]}"
        blocks.append("\n".join([head, start_table(dict(_lines(found)))]).rstrip())
    lines = [line for title, kinds in facts["duplicates"].items() for line in _duplicate_lines(title, kinds)]
    blocks.append(f"Held twice, of the same bytes or nearly the same picture\n{start_table(dict(lines))}")
    for split, speed in facts["loader"].items():
        if "error" in speed:
            blocks.append(f"The loader cannot be measured: {speed['error']}")
            continue
        blocks.append(
            f"The loader: {speed['pictures_per_s']:,.0f} pictures/s on a canvas of {speed['canvas_px']} px, once the "
            f"files are in memory; an epoch of {split} takes {duration(speed['epoch_s'])} at least"
        )
    return "\n\n".join(blocks)


def _lines(found: Facts) -> Iterator[tuple[str, str]]:
    """(what, how much) of a split."""
    if "forms" in found:
        yield "short side", _spread(found["short_side_px"], " px")
        yield "long side", _spread(found["long_side_px"], " px")
        yield "files", ", ".join(f"{form} {n:,}" for form, n in list(found["forms"].items())[:SHOWN])
    for field, counts in found.get("labels", {}).items():
        yield field, _classes(counts)
    if "captions" in found:
        captions = found["captions"]
        a_picture, characters = _spread(captions["a_picture"]), _spread(captions["characters"])
        none = f"{captions['pictures_without']:,} pictures have none"
        yield "captions", f"{captions['count']:,}; a picture {a_picture}; characters {characters}; {none}"
    if "boxes" in found:
        boxes = found["boxes"]
        sizes = ", ".join(f"{n:,} {size}" for size, n in boxes["sizes"].items())
        yield "boxes", f"{boxes['count']:,}; a picture {_spread(boxes['a_picture'])}; {sizes}"
        yield "box classes", _classes(boxes["classes"])
    if "masks" in found:
        pixels = found["masks"]["pixels"]
        total = sum(pixels.values())
        shares = ", ".join(f"{name} {100 * n / total:.1f}%" for name, n in pixels.items())
        yield "masks", f"{found['masks']['count']:,}, of pixels {shares}"
    if found["bad_reasons"]:
        yield "bad", "\n".join(line.strip() for line in found["bad_reasons"])


def _duplicate_lines(title: str, kinds: Facts) -> Iterator[tuple[str, str]]:
    counts = ", ".join(f"{kinds[kind]['count']:,} {kind}" for kind in ("exact", "near"))
    examples = [
        f"{one} is {'' if kind == 'exact' else 'like '}{other}"
        for kind in kinds
        for one, other in kinds[kind]["examples"][:2]
    ]
    yield title, "\n".join([counts, *examples])


def _classes(counts: Mapping[str, int]) -> str:
    """The largest and the smallest, and how far apart they are."""
    known = {name: n for name, n in counts.items() if name != "none"}
    ends = list(known.items())
    if len(ends) > 2 * SHOWN:
        ends = [*ends[:SHOWN], None, *ends[-SHOWN:]]
    said = ", ".join("..." if end is None else f"{end[0]} {end[1]:,}" for end in ends)
    least, most = min(known.values(), default=0), max(known.values(), default=0)
    apart = f"; the largest has {most / least:.1f} times the smallest" if least and most > 2 * least else ""
    absent = sum(n == 0 for n in known.values())
    missing = f"; {absent:,} classes have no picture" if absent else ""
    unlabelled = f"; {counts['none']:,} without a label" if counts.get("none") else ""
    return f"{len(known):,} classes: {said}{apart}{missing}{unlabelled}"


def _named(counts: Counter, names: Sequence[str]) -> dict[str, int]:
    """The counts by the names of classes, the largest first; 'none' is no class."""
    every = {name: counts[k] for k, name in enumerate(names)}
    every |= {f"{k}": n for k, n in sorted(counts.items()) if k >= len(names)}
    if counts[-1]:
        every["none"] = counts[-1]
    return dict(sorted(every.items(), key=lambda item: -item[1]))


def _captions(found: Audit) -> Facts:
    """Of the captions: how many, how long, and how many pictures lack one."""
    return {
        "count": found.caption_characters.total(),
        "a_picture": _percentiles(_repeated(found.captions)),
        "characters": _percentiles(_repeated(found.caption_characters)),
        "pictures_without": found.captions[0],
    }


def _repeated(counts: Counter) -> np.ndarray:
    """The values as often as they were counted."""
    return np.repeat(np.array(list(counts), np.int32), list(counts.values()))


def _percentiles(values: np.ndarray) -> Facts:
    """The smallest, the 5th, 50th and 95th of a hundred, and the largest."""
    if not len(values):
        return {}
    numbers = np.percentile(values, [0, 5, 50, 95, 100]).tolist()
    return dict(zip(("min", "p5", "p50", "p95", "max"), numbers))


def _spread(numbers: Mapping[str, float], unit: str = "") -> str:
    if not numbers:
        return "none"
    if numbers["min"] == numbers["max"]:
        return f"{numbers['min']:,.0f}{unit}"
    least, low, middle, high, most = (f"{number:,.0f}" for number in numbers.values())
    return f"{least} to {most}{unit}, median {middle}, 90% from {low} to {high}"


def main(argv: Sequence[str]) -> int:
    """Prints the audit; 0 whatever was found."""
    options = cli.parser("vitjax.check", __doc__)
    options.add_argument("path", nargs="?", metavar="DATA", help="a folder, file, pattern or URL of pictures")
    options.add_argument(
        "--split", default="", help="train, validation or test; all that there are by default"
    )
    options.add_argument("--out", metavar="FILE", help="write the numbers as JSON, too")
    values, given = cli.parse(options, argv)
    facts = check(settings(values.path, given), values.split)
    print(text(facts))
    if values.out:
        cache.put(Path(values.out), json.dumps(facts, indent=1, ensure_ascii=False).encode())
    return 0


if __name__ == "__main__":
    cli.run(main)
