"""How fast the training step of a config is, what it costs, and how it compares with PyTorch.

    python tools/bench_step.py --config=configs/quickstart.py
    python tools/bench_step.py --config=configs/mae_vitb.py --config.batch_size=64 --steps=5
    python tools/bench_step.py --config=configs/quickstart.py --against=torch

Any config works, without its data and its tokenizer's files: pictures, labels and the tokens of captions are random
numbers in memory. Reported are the time to compile (without any cache) and to the first step, ms a step, pictures/s,
FLOPs, MFU where the peak of the device is known, peak memory, and what the real loop (host batches, log) adds to the
bare jitted step.

Times are those of blocks of --steps steps, of which --blocks of each kind take turns, so that whatever else
the machine does meets both. Each block starts with a step that is not counted. A ratio is that of the
medians; the smallest and largest ratio of two neighbouring blocks stand beside it.

--against=torch times the same model, loss and optimiser in PyTorch (tools/torch_reference.py) on one device.
Both sides get the same uint8 crops and normalise them; random crops and flips are left out. SimCLR's two views
are the crop and its mirror image, there is no online probe, and LARS, which PyTorch has not, is SGD on both sides.
CLIP is open_clip's model and loss, on the same tokens. They start from the same weights, and their losses must agree
at step 0. PyTorch gets every core, and whatever is fastest here of its attention kernels, memory formats and
optimisers; on a GPU it is compiled. All of it is printed.
"""

import os
import time

START = time.perf_counter()  # before the imports, which the time to the first step includes
# On a GPU two frameworks must share the memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import contextlib  # noqa: E402
import io  # noqa: E402
import itertools  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import ml_collections  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from jaxtyping import Int32  # noqa: E402

from vitjax import cli, devices, experiment, flops, hooks, loop, sharding  # noqa: E402
from vitjax.config import Tracked, view  # noqa: E402
from vitjax.data import pipeline, tokenize, vocabulary_files  # noqa: E402
from vitjax.errors import UserError  # noqa: E402
from vitjax.objective import Run, Tokens  # noqa: E402
from vitjax.progress import Progress, start_table  # noqa: E402
from vitjax.writers import MetricsWriter  # noqa: E402

EXAMPLES = 1_281_167  # of ImageNet-1k; what a schedule in epochs counts with
NUM_BATCHES = 4
CAPTION_TOKENS = 12  # the median; captions from the web have about ten words


def main(argv: Sequence[str]) -> int:
    """Prints the figures of the config on the command line."""
    options = cli.parser("bench_step", __doc__)
    options.prog = "python tools/bench_step.py"
    options.add_argument("--steps", type=int, default=20, help="steps in a block")
    options.add_argument("--blocks", type=int, default=5, help="blocks of each kind")
    options.add_argument("--classes", type=int, default=1000, help="classes of the made-up labels")
    options.add_argument("--against", choices=("torch",), help="time the same in another framework, too")
    options.add_argument("--allow_cpu", action="store_true", help="although an accelerator is there")
    values, flags = cli.parse(options, argv)
    if min(values.steps, values.blocks, values.classes) < 1:
        raise UserError(
            f"--steps={values.steps} --blocks={values.blocks} --classes={values.classes}: "
            "each must be at least 1"
        )
    config = cli.load_config(flags)
    devices.keep_freed_memory()
    devices.check(values.allow_cpu)
    jax.config.update("jax_enable_compilation_cache", False)
    against = values.against == "torch"
    replaced = comparable(config) if against else {}
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1] if against else None)
    with sharding.use(mesh), tempfile.TemporaryDirectory() as workdir:
        bench = Bench(config, mesh, values.classes, workdir)
        print(start_table(bench.facts() | replaced | bench.measure(values.steps, values.blocks)), flush=True)
        if against:
            # After the memory was read, and only where it is asked for: torch is no part of vitjax.
            print(start_table(_against_torch().compare(bench, values.steps, values.blocks)), flush=True)
    return 0


def comparable(config: ml_collections.ConfigDict) -> dict[str, str]:
    """What the config now has in place of something that the other framework has not or draws otherwise."""
    replaced = {}
    if config.loss_chunks > 1:
        replaced["similarities"] = f"in one piece, in place of {config.loss_chunks}"
        config.loss_chunks = 1
    if sum(entry.count for entry in config.augment.views.values()) < 2:
        config.augment.views = ml_collections.ConfigDict()
        config.data.crop, config.augment.flip = "host", 0.0
        return replaced | {"views": "the crops of the loader"}
    whole = dict(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    config.data.canvas_px, config.probe.field = config.data.size_px, ""
    views = dict(mirrored=view(flip=1.0, **whole), plain=view(flip=0.0, **whole))
    config.augment.views = ml_collections.ConfigDict(views)
    replaced["views"] = "the crops of the loader and their mirror images"
    if config.optim.name == "lars":
        # A rate for LARS is far too large without its trust ratios.
        config.optim.name, config.optim.base_lr = "sgd", 0.03
        replaced["optimiser"] = "sgd, in place of lars"
    return replaced


def _against_torch() -> Any:
    try:
        import against_torch
    except ModuleNotFoundError as error:
        raise UserError("--against=torch needs PyTorch: pip install torch") from error
    return against_torch


def caption_form(config: Any) -> pipeline.Form | None:
    """The slots of captions in which tokens are as the text tower expects them, so that no tokenizer is needed.

    None where there are no captions, or the tokenizer must be asked: 'bytes' has no files, and a
    `config.text.vocab_size` of 0 is in those of the others.
    """
    data = config.data
    if "text" not in data.fields or "text" not in config or not config.text.vocab_size:
        return None
    if not vocabulary_files.kind_of(data.tokenizer):
        return None
    text = config.text
    end = text.vocab_size - 1 if text.pool == "argmax" else text.eos_id
    tokenizer = tokenize.of_bytes(data.text_length)._replace(
        name="random", vocab_size=text.vocab_size, pad=data.text_pad or 0, begin=None, end=end
    )
    return pipeline.Form(tokenizer, data.captions)


class Synthetic:
    """A source in name only: random pictures and captions, and labels in the field that is learned."""

    def __init__(self, config: Any, classes: int):
        objective, self._classes = config.objective, classes
        self._label = objective.label if "label" in objective else "label"
        self.class_names = {self._label: tuple(str(i) for i in range(classes))}

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.zeros((1, 1, 3), np.uint8), "text": (), self._label: index % self._classes}

    def name(self, index: int) -> str:
        return f"random picture {index}"

    def batch(self, run: Run, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A host batch."""
        spec = run.batch_spec
        size, edge = spec["image"].shape[:2]
        batch = {
            "image": rng.integers(0, 256, spec["image"].shape, np.uint8),
            "size": np.full((size, 2), edge, np.int32),
            "row": np.arange(size, dtype=np.int32),
            "valid": np.ones(size, bool),
            self._label: rng.integers(0, self._classes, size, np.int32),
        }
        if run.tokens is not None:
            batch["text"] = captions(spec["text"].shape, run.tokens, rng)
            batch["text_valid"] = np.ones(spec["text_valid"].shape, bool)
        return batch


def captions(
    shape: tuple[int, int, int], tokens: Tokens, rng: np.random.Generator
) -> Int32[np.ndarray, "B C L"]:
    """Random tokens, the end once after each text, and padding. Few texts are much longer than `CAPTION_TOKENS`."""
    end = tokens.vocab_size if tokens.end is None else tokens.end
    words = rng.integers(0, tokens.vocab_size - 1, shape, np.int32)
    words += words >= end  # none of them is the end
    lengths = rng.lognormal(np.log(CAPTION_TOKENS), 0.6, (*shape[:2], 1)).astype(int).clip(1, shape[2] - 1)
    place = np.arange(shape[2])
    after = tokens.pad if tokens.end is None else np.where(place == lengths, end, tokens.pad)
    return np.where(place < lengths, words, after).astype(np.int32)


class Bench:
    """The compiled training step of a config and all that it needs, in memory.

    To be made and used under `sharding.use(mesh)`. What runs steps returns when they are done.
    """

    def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh, classes: int, workdir: str):
        config.evals, config.init = ml_collections.ConfigDict(), ml_collections.ConfigDict()
        self.config, self.mesh = Tracked(config), mesh
        sharding.check_batch_size(config.batch_size, mesh, config.accum)
        source = Synthetic(config, classes)
        self.built = experiment.prepare(self.config, source, None, caption_form(self.config))
        rng = np.random.default_rng(config.seed)
        self.batches = [source.batch(self.built.run, rng) for _ in range(NUM_BATCHES)]
        self.abstract = sharding.abstract(experiment.abstract_state(self.built), mesh)
        before = time.perf_counter()
        self.state = jax.block_until_ready(experiment.fresh_state(self.built, self.abstract, {}))
        self.init_s = time.perf_counter() - before
        before = time.perf_counter()
        traced = loop.trace_step(self.built.objective, self.built.run, config.seed, mesh, self.abstract)
        self.step_fn, self.flops_per_step = traced.lower().compile(), flops.count_jaxpr(traced.jaxpr)
        self.compile_s = time.perf_counter() - before
        self.batch = sharding.put_batch(self.batches[0], mesh)
        self.bare(1)
        self.first_step_s = time.perf_counter() - START
        self._workdir, self._steps_done = workdir, 0

    def bare(self, steps: int) -> None:
        """Calls the compiled step on a batch that is on the device already."""
        for _ in range(steps):
            self.state, self.metrics = self.step_fn(self.state, self.batch)
        jax.block_until_ready(self.state)

    @contextlib.contextmanager
    def real_loop(self, log_every_steps: int) -> Iterator[Callable[..., None]]:
        """A function like `bare` that goes through `loop.train`, host batches and the log.

        It takes further hooks, and further arguments of `loop.train`.
        """
        batches = itertools.cycle(self.batches)
        total_steps = self.built.run.total_steps
        with MetricsWriter(self._workdir) as writer:
            progress = Progress(
                total_steps=total_steps, batch_size=self.built.run.batch_size, stream=io.StringIO()
            )
            log = hooks.log(writer, progress, log_every_steps)

            def run(steps: int, hooks: Sequence[loop.Hook] = (), **more: Any) -> None:
                # A block's last step is not the run's, which would be logged out of turn.
                all_hooks = [lambda event, hook=hook: hook(event._replace(last=False)) for hook in (log, *hooks)]
                self.state = loop.train(
                    self.step_fn,
                    self.state,
                    batches,
                    first_step=self._steps_done,
                    total_steps=self._steps_done + steps,
                    mesh=self.mesh,
                    hooks=all_hooks,
                    **more,
                )
                self._steps_done += steps
                jax.block_until_ready(self.state)

            yield run

    def facts(self) -> dict[str, str]:
        """What is measured, and what is known before any step is timed."""
        run, device = self.built.run, self.mesh.devices.flat[0].device_kind
        picture = run.batch_spec["image"]
        texts = "" if run.tokens is None else f" with texts of {run.tokens.text_length} tokens"
        params = sum(x.size for x in jax.tree.leaves(self.state.params))
        return {
            "step": f"{self.config.objective.name} with {self.config.model.name}, {params:,} parameters",
            "devices": f"{self.mesh.size} x {device}, {timing.cores()} cores, jax {jax.__version__}",
            "batch": f"uint8 {list(picture.shape)}{texts}, computing in {np.dtype(run.dtype).name}",
            "compile": f"{self.compile_s:.1f} s the step, {self.init_s:.1f} s the initial state",
            "first step": f"done {self.first_step_s:.1f} s after the start of the program",
        }

    def measure(self, steps: int, blocks: int) -> dict[str, str]:
        """The figures of the bare step, and of the loop beside it."""
        every = min(self.config.log.every_steps, steps)
        with self.real_loop(every) as run:
            times = timing.interleave({"bare": self.bare, "loop": run}, steps, blocks)
        seconds = statistics.median(times["bare"])
        rate = self.flops_per_step / seconds
        peak = flops.peak(self.mesh.devices.flat)
        mfu = "the device's peak is not known" if peak is None else f"MFU {rate / peak:.1%}"
        return {
            "time": f"{timing.spread(times['bare'])}, in {blocks} blocks of {steps} steps",
            "speed": f"{self.built.run.batch_size / seconds:,.0f} pictures/s",
            "compute": f"{self.flops_per_step / self.built.run.batch_size / 1e9:.4g} GFLOP a picture, "
            f"{rate / 1e12:.4g} TFLOP/s, {mfu}",
            "memory": self._memory(),
            "loop": f"{timing.ratio(times['loop'], times['bare'])} of the bare step, with a log line every "
            f"{every} steps",
        }

    def _memory(self) -> str:
        """The peak on one device, where it counts; else what the compiler planned, and the process's peak."""
        stats = self.mesh.devices.flat[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return f"{stats['peak_bytes_in_use'] / 1e9:.2f} GB at the peak of a device"
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        rss = f"{peak / 1e9:.2f} GB at the process's peak"
        plan = self.step_fn.memory_analysis()
        if plan is None:
            return rss
        held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
        temporary = plan.temp_size_in_bytes
        return f"{held / 1e9:.3f} GB of state and batch, {temporary / 1e9:.3f} GB within a step; {rss}"


if __name__ == "__main__":
    cli.run(main)
