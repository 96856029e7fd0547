"""How fast pictures come from files to batches, and how that compares with PyTorch's DataLoader and Pillow.

    python tools/bench_input.py --path=pictures/train
    python tools/bench_input.py --path=pictures/train --batches=40 --rounds=9 --workers=4
    python tools/bench_input.py --path=pictures/train --captions=captions.txt --tokenizers=bytes,hf:tokenizer.json

The pictures are those of a folder (JPEG files). The same bytes are written to a temporary folder ($TMPDIR) as
parquet, tar and array_record, and a list that names the files; 'prepared' are those at a short side of 256 px with
quality 90 and 4:2:0. What is compared is, from the same files in the same run:

  one thread  decoding and one random crop, nothing else;
  one view    batches of random crops, `data.crop='host'`;
  two views   PyTorch cuts both crops on the host; vitjax gives whole pictures on a canvas of twice the crop's side,
              from which the device cuts as many as a method wants;
  captions    (instead of the others, with --captions, a file with one a line) decoding a picture, and what each of
              --tokenizers takes for a caption, in one thread: a speed-up of 20 is a twentieth of decoding.

PyTorch's side is DataLoader with --workers processes, Pillow, and torchvision's RandomResizedCrop and flip; what
else its examples do on the host (ToTensor, Normalize) is left out. Sides take turns in --rounds blocks of
--batches batches, after some that are not counted. Figures are medians, a ratio with the smallest and largest of a
round beside it. Seconds of the processor are those of all processes of a side (Linux only): on a machine that does
other things too, they are what can be trusted.
"""

import contextlib
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import decoders
import forms
import numpy as np
import timing

from vitjax import cli, devices
from vitjax.config import base_config
from vitjax.data import captions as caption_files
from vitjax.data import pipeline, sources, tokenize
from vitjax.data.decode import decode, random_crop
from vitjax.errors import UserError

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
NOT_COUNTED = 12  # batches: what was decoded ahead while other sides had their turn
Side = Iterator[Any]  # of batches


class Times(NamedTuple):
    """Seconds a picture, one number a round: on the clock, and of the processor."""

    clock: list[float]
    cpu: list[float]


def main(argv: Sequence[str]) -> int:
    """Prints a table for each of the comparisons."""
    options = cli.parser("bench_input", __doc__)
    options.prog = "python tools/bench_input.py"
    options.add_argument("--path", required=True, help="a folder of JPEG files")
    options.add_argument("--batch_size", type=int, default=64)
    options.add_argument("--size_px", type=int, default=224, help="the crop's side")
    options.add_argument("--batches", type=int, default=20, help="in a block")
    options.add_argument("--rounds", type=int, default=5, help="blocks of each side")
    options.add_argument("--workers", type=int, default=2, help="processes, where processes decode")
    options.add_argument("--captions", metavar="FILE", help="a text file with one caption a line")
    options.add_argument(
        "--tokenizers", default="bytes", help="what config.data.tokenizer may be, separated by commas"
    )
    values, _ = cli.parse(options, argv)
    for name in ("batch_size", "size_px", "batches", "rounds", "workers"):
        if getattr(values, name) < 1:
            raise UserError(f"--{name}={getattr(values, name)} must be at least 1")
    devices.keep_freed_memory()  # as vitjax.main does
    print(
        f"  {timing.cores()} cores, batches of {values.batch_size}, crops of {values.size_px} px", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        if values.captions:
            comparisons, paths = {"captions": captions}, {"folder": Path(values.path)}
        else:
            comparisons = {"one thread": one_thread, "one view": one_view, "two views": two_views}
            paths = forms.write(values.path, Path(folder))
        for title, compare in comparisons.items():
            with contextlib.ExitStack() as opened:
                sides = compare(paths, values, opened)
                print(table(title, take_turns(sides, values)), flush=True)
    return 0


def one_thread(paths: Mapping[str, Path], values: Any, opened: contextlib.ExitStack) -> dict[str, Side]:
    """Decoding and one crop."""
    torch_input = _torch()
    files, rng = itertools.cycle(forms.read(paths["folder"])), np.random.default_rng(0)
    transform = torch_input.Crop(values.size_px, AREA, ASPECT)

    def batches(one: Callable[[bytes], Any]) -> Side:
        while True:
            yield [one(data) for data in itertools.islice(files, values.batch_size)]

    def ours(data: bytes) -> np.ndarray:
        return random_crop(decode(data), rng, values.size_px, AREA, ASPECT, "bilinear")

    return {
        "Pillow as in torchvision": batches(lambda data: transform(torch_input.open_picture(data))),
        **{f"vitjax, {name}": _by(name, batches(ours)) for name in decoders.NAMES},
    }


def one_view(paths: Mapping[str, Path], values: Any, opened: contextlib.ExitStack) -> dict[str, Side]:
    """Each source with threads; the folder also with processes and with the other decoders."""

    def batches(name: str, workers: int = 0) -> Side:
        return opened.enter_context(loader(paths[name], values, crop="host", workers=workers))

    return {
        "PyTorch, Pillow": _torch().loader(paths["folder"], values, AREA, ASPECT, views=1),
        **{f"vitjax, {name}": batches(name) for name in paths},
        f"vitjax, folder, {values.workers} processes": batches("folder", values.workers),
        **{f"vitjax, folder, {name}": _by(name, batches("folder")) for name in decoders.NAMES[1:]},
    }


def two_views(paths: Mapping[str, Path], values: Any, opened: contextlib.ExitStack) -> dict[str, Side]:
    """Two crops cut by the host, and whole pictures."""
    return {
        "PyTorch, Pillow": _torch().loader(paths["folder"], values, AREA, ASPECT, views=2),
        **{
            f"vitjax, {name}": opened.enter_context(loader(paths[name], values, crop="device", workers=0))
            for name in ("folder", "prepared, array_record")
        },
    }


def captions(paths: Mapping[str, Path], values: Any, opened: contextlib.ExitStack) -> dict[str, Side]:
    """Decoding pictures, and tokenising as many captions."""
    texts = caption_files.lines(values.captions)
    if not texts:
        raise UserError(f"--captions={values.captions} holds no captions; one a line is wanted")

    def batches(one: Callable[[Any], Any], items: Sequence[Any]) -> Side:
        cycle = itertools.cycle(items)
        while True:
            yield [one(item) for item in itertools.islice(cycle, values.batch_size)]

    def encode(tokenizer: str) -> Callable[[str], Any]:
        data = base_config().data
        data.tokenizer = tokenizer
        return tokenize.make(data).encode

    tokenizers = values.tokenizers.split(",")
    return {
        "decoding a picture": batches(decode, forms.read(paths["folder"])),
        **{f"a caption, {name}": batches(encode(name), texts) for name in tokenizers},
    }


def loader(path: Path, values: Any, *, crop: str, workers: int) -> pipeline.Batches:
    """The training batches of the source at `path`."""
    data = base_config().data
    data.path = str(path)
    return pipeline.train_batches(
        sources.open_source(data, "train"),
        batch_size=values.batch_size,
        rows=np.arange(values.batch_size),
        seed=0,
        start_step=0,
        canvas_px=2 * values.size_px,
        crop=crop,
        size_px=values.size_px,
        crop_area=AREA,
        crop_aspect=ASPECT,
        resize="bilinear",
        workers=workers,
    )


def take_turns(sides: Mapping[str, Side], values: Any) -> dict[str, Times]:
    """The times of each side."""
    times = {name: Times([], []) for name in sides}
    for _ in range(values.rounds):
        for name, batches in sides.items():
            for _ in range(NOT_COUNTED):
                next(batches)
            clock, cpu = time.perf_counter(), cpu_seconds()
            for _ in range(values.batches):
                next(batches)
            pictures = values.batches * values.batch_size
            times[name].clock.append((time.perf_counter() - clock) / pictures)
            times[name].cpu.append((cpu_seconds() - cpu) / pictures)
    return times


def cpu_seconds() -> float:
    """The processor's time that this process and those that it has started have taken."""
    ticks = 0
    for child in multiprocessing.active_children():
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def table(title: str, times: Mapping[str, Times]) -> str:
    """A line for each side; its speed-up is over the first."""
    width = max(map(len, times))
    first = next(iter(times.values()))
    lines = [f"\n  {title:{width}}  pictures/s  a CPU-second  speed-up              of the CPU-seconds"]
    for name, (clock, cpu) in times.items():
        rates = [1 / max(statistics.median(seconds), 1e-9) for seconds in (clock, cpu)]
        ratios = (
            [timing.ratio(a, b) for a, b in zip(first, (clock, cpu))]
            if clock is not first.clock
            else ["", ""]
        )
        lines.append(
            f"  {name:{width}}  {rates[0]:10,.0f}  {rates[1]:12,.0f}  {ratios[0]:20}  {ratios[1]}".rstrip()
        )
    return "\n".join(lines)


def _by(decoder: str, batches: Side) -> Side:
    """The batches, decoded by this decoder, in threads of this process."""
    while True:
        with decoders.only(decoder):
            batch = next(batches)
        yield batch


def _torch() -> Any:
    try:
        import torch_input
    except ModuleNotFoundError as error:
        raise UserError("this compares with PyTorch: pip install torch") from error
    return torch_input


if __name__ == "__main__":
    cli.run(main)
