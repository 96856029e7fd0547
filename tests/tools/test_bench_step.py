"""The bench: it runs any config without data, counts what it says, and compares equal things."""

import json
from pathlib import Path
from types import SimpleNamespace

import bench_step
import jax
import numpy as np
import pytest
import reference_libraries
import timing

from vitjax import augment, cli, experiment, optim, sharding
from vitjax.config import Tracked
from vitjax.errors import UserError
from vitjax.models import resnet
from vitjax.models import text as text_model

CONFIGS = Path(__file__).parents[2] / "configs"


def flags(config, *more):
    return [f"--config={CONFIGS / config}.py:tiny", "--config.total_steps=10", *more]


def bench(tmp_path, config, *more, comparable=True):
    """A Bench on one device, to be used under its mesh."""
    config = cli.load_config(flags(config, *more))
    if comparable:
        bench_step.comparable(config)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    with sharding.use(mesh):
        return bench_step.Bench(config, mesh, classes=10, workdir=str(tmp_path))


@pytest.fixture
def torch():
    """On one thread: several would wait for each other wherever tests run side by side."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def compilation_cache():
    """Tests share a cache that the bench, whose subject is compilation, turns off."""
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def test_a_config_is_measured_without_its_data(capsys):
    more = ["--config.data.path=/nowhere", "--steps=2", "--blocks=1"]
    assert bench_step.main(flags("supervised_vits", *more)) == 0
    printed = capsys.readouterr().out
    for part in ("compile ", "first step ", "ms a step", "pictures/s", "GFLOP a picture", "of the bare step"):
        assert part in printed
    assert "peak is not known" in printed and "at the process's peak" in printed


def test_the_loop_that_is_timed_is_the_one_that_logs(tmp_path):
    b = bench(tmp_path, "quickstart", comparable=False)
    step = int(b.state.step)
    with sharding.use(b.mesh), b.real_loop(log_every_steps=2) as run:
        run(3)
        run(2)
    assert int(b.state.step) == step + 5
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 4]


def test_sides_take_turns_and_a_block_does_not_count_its_first_step(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def side(name, seconds):
        def run(steps):
            calls.append((name, steps))
            clock[0] += seconds * steps if steps > 1 else 100.0

        return run

    times = timing.interleave({"a": side("a", 2.0), "b": side("b", 4.0)}, steps=3, blocks=2)
    assert times == {"a": [2.0, 2.0], "b": [4.0, 4.0]}
    assert calls == [("a", 1), ("a", 3), ("b", 1), ("b", 3)] * 2


def test_a_ratio_is_of_the_medians_with_the_range_of_neighbours():
    assert timing.ratio([1.0, 2.0, 9.0], [1.0, 4.0, 3.0]) == "0.667 (0.500 to 3.000)"
    assert timing.spread([0.003, 0.001, 0.002]) == "2 ms a step (1 to 3)"


@pytest.mark.parametrize("config", ["clip_vitb32", "siglip_vitb16", "lit_b16"])
def test_captions_are_made_up_where_there_is_no_tokenizer(config):
    c = cli.load_config([f"--config={CONFIGS / config}.py", "--config.batch_size=64", "--config.loss_chunks=1"])
    source = bench_step.Synthetic(c, classes=10)
    built = experiment.prepare(Tracked(c), source, None, bench_step.caption_form(c))
    batch = source.batch(built.run, np.random.default_rng(0))
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (s.shape, s.dtype) for name, s in built.run.batch_spec.items()
    }
    text, tokens = batch["text"][:, 0], built.run.tokens
    assert text.min() >= 0 and text.max() < c.text.vocab_size
    lengths = np.argmax(text == tokens.end, axis=1)
    assert np.all(text[np.arange(64), lengths] == tokens.end) and lengths.min() < 8 <= np.median(lengths)
    after = np.arange(c.data.text_length) > lengths[:, None]
    assert np.all(text[after] == tokens.pad)
    if c.text.pool != "last":
        np.testing.assert_array_equal(text_model.pooled_at(text, c.text.pool, c.text.eos_id), lengths)


def test_a_vocabulary_of_unknown_size_needs_its_file():
    c = cli.load_config(flags("scenes_clip", "--config.data.tokenizer=hf:/nowhere", "--config.text.vocab_size=0"))
    assert bench_step.caption_form(c) is None
    with pytest.raises(UserError, match=r"config\.data\.tokenizer='hf:/nowhere': there is no"):
        experiment.prepare(Tracked(c), bench_step.Synthetic(c, classes=10), None, None)


@pytest.mark.parametrize("flag", ["--steps=0", "--blocks=0", "--classes=0"])
def test_a_bench_of_nothing_is_refused(flag):
    with pytest.raises(UserError, match=f"{flag}.* at least 1"):
        bench_step.main(flags("quickstart", flag))


# Small steps: batch norm over a few pictures magnifies the rounding in which two kernels differ.
SGD = "--config.optim.base_lr=0.002"
CASES = {
    "mae": ("quickstart",),
    "mae_scanned": ("mae_vitb", "--config.model.class_token=False", "--config.model.pool=gap"),
    "vit": ("supervised_vits", "--config.model.pool=gap_norm"),
    "vit_learned": ("supervised_vits", "--config.model.class_token=True", "--config.model.posemb=learned"),
    "resnet18": (
        "supervised_resnet50", SGD, "--config.model.depth=18", "--config.model.stem=cifar", "--config.data.size_px=16",
    ),
    "resnet50": ("supervised_resnet50", SGD, "--config.model.depth=50"),
    "simclr": ("cifar10_simclr", "--config.optim.name=sgd", SGD, "--config.data.size_px=16"),
    "simclr_with_norms": (
        "cifar10_simclr", "--config.optim.name=sgd", SGD, "--config.model.stem=cifar_half",
        "--config.objective.projector.hidden_norm=True", "--config.objective.projector.hidden_bias=False",
        "--config.objective.projector.out_norm=affine", "--config.objective.projector.out_bias=False",
    ),
    "dcgan": ("cifar10_dcgan", "--config.objective.discriminator_rate=2.0", "--config.optim.base_lr=0.002"),
    "clip": ("clip_vitb32", "--config.optim.clip_norm=0.5", "--config.objective.max_scale=14.3"),  # which binds
    "clip_gelu": (
        "clip_vitb32", "--config.model.activation=gelu", "--config.text.activation=gelu_tanh",
        "--config.text.pool=last", "--config.text.causal=False", "--config.model.norm_eps=0.1",
        "--config.model.mlp_dim=48",
    ),
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_pytorch_has_the_same_losses_for_three_steps(tmp_path, torch, case, monkeypatch):
    import against_torch
    from torch_forms import Form
    from torch_reference import Reference

    if case.startswith("clip"):
        reference_libraries.open_clip()
    if case.startswith("simclr"):
        monkeypatch.setitem(resnet.DEPTHS, 18, (1, 1, 1, 1))  # the case "resnet18" has them all
    monkeypatch.setitem(resnet.DEPTHS, 50, (2, 1, 1, 1))
    rates = ["--config.optim.warmup_steps=2", "--config.optim.base_lr=0.001", "--config.optim.base_batch=0"]
    config, *changes = CASES[case]
    b = bench(tmp_path, config, *rates, *changes)
    with sharding.use(b.mesh):
        begin = against_torch.start(b)
    rate = optim.make(b.config, b.built.run)[1]
    forms = [Form("math", "contiguous", "foreach"), Form("auto", "channels_last", "fused", "custom")]
    sides = [Reference(b.built, begin.variables, form, "cpu") for form in forms]
    ours, theirs = [begin.loss], [[], []]
    for step in range(3):
        if step:
            b.bare(1)
            ours.append(float(b.metrics["loss"]))
        noise = None
        if begin.noise is not None:
            noise = torch.from_numpy(against_torch.drawn(b.config, begin.batch["row"], step))
        for side, losses in zip(sides, theirs):
            side.learning_rate = float(rate(step))
            losses.append(float(side.step(side.put(begin.batch), noise)))
    print(ours, theirs)
    assert abs(ours[2] - ours[0]) > 1e-3 * ours[0], "nothing was learned, so nothing was compared"
    np.testing.assert_allclose(theirs, [ours, ours], rtol=1e-4)


@pytest.mark.parity
def test_another_network_is_refused(tmp_path, torch):
    import against_torch
    from torch_forms import Form
    from torch_reference import Reference

    b = bench(tmp_path, "supervised_resnet50")
    with sharding.use(b.mesh):
        begin = against_torch.start(b)
    changed = dict(begin.variables)
    changed["params/backbone/stage2_0/conv2/kernel"] = -changed["params/backbone/stage2_0/conv2/kernel"]
    with pytest.raises(RuntimeError, match="losses at step 0 differ"):
        against_torch.check_loss(begin, Reference(b.built, changed, Form(), "cpu"), against_torch.TOLERANCE)


def test_what_pytorch_would_draw_otherwise_is_left_out_and_said():
    config = cli.load_config(flags("cifar10_simclr"))
    said = bench_step.comparable(config)
    assert said == {"views": "the crops of the loader and their mirror images", "optimiser": "sgd, in place of lars"}
    assert config.optim.name == "sgd" and config.probe.field == ""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    batch = dict(image=pictures, size=np.full((2, 2), 32, np.int32), row=np.arange(2, dtype=np.int32))
    views = augment.multi_view(config)(batch, jax.random.key(0))["views"]
    shown = [np.asarray(augment.to_uint8(x, config.data.mean, config.data.std)) for x in views]
    np.testing.assert_array_equal(shown, [pictures[:, :, ::-1], pictures])


@pytest.mark.parity
def test_nt_xent_is_that_of_lightly():
    torch = reference_libraries.torch()
    loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.2)
    import torch_simclr

    z = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 5)))
    torch.testing.assert_close(torch_simclr.nt_xent(z, 0.2), loss(z[:6], z[6:]))


@pytest.mark.parity
@pytest.mark.parametrize(
    "config, more, message",
    [
        ("cifar10_byol", (), r"objective\.name='byol'.*mae, supervised, simclr, dcgan, clip"),
        ("siglip_vitb16", (), r"objective\.name='siglip'.*clip"),
        ("lit_b16", (), r"objective\.name='lit'.*clip"),
        ("clip_r50", (), r"model\.name='clip_resnet'.*'clip_vit'"),
        ("clip_vitb32", ("--config.embed_chunks=2",), r"--config\.embed_chunks=1"),
        ("clip_vitb32", ("--config.model.pool=gap",), r"--config\.model\.pool=cls"),
        ("clip_vitb32", ("--config.objective.multi_positive=True",), r"--config\.objective\.multi_positive=False"),
        ("clip_vitb32", ("--config.text.activation=gelu",), r"--config\.text\.activation=quick_gelu"),
        ("clip_vitb32", ("--config.optim.no_decay=()",), r"--config\.optim\.no_decay=\('backbone/cls\$',\)"),
        ("cifar10_simclr", ("--config.embed_chunks=2",), r"--config\.embed_chunks=1"),
        ("cifar10_simclr", ("--config.objective.projector.out_norm=no_centre",), r"out_norm='no_centre'.*affine"),
    ],
)
def test_a_joint_embedding_step_that_pytorch_does_not_have_is_refused(torch, config, more, message):
    from torch_forms import Form
    from torch_reference import Reference

    c = cli.load_config(flags(config, *more))
    bench_step.comparable(c)
    with pytest.raises(UserError, match=message):
        Reference(SimpleNamespace(config=c), {}, Form(), "cpu")


@pytest.mark.parity
@pytest.mark.parametrize(
    "config, more, message",
    [
        ("cifar10_biggan", (), r"objective\.name='biggan'.*dcgan"),
        ("cifar10_dcgan", ("--config.objective.loss=hinge",), r"--config\.objective\.loss=non_saturating"),
        ("cifar10_dcgan", ("--config.objective.r1=1.0",), r"r1=1\.0 .*--config\.objective\.r1=0\.0"),
        ("cifar10_dcgan", ("--config.objective.discriminator_steps=2",), r"discriminator_steps=2 .*steps=1"),
        ("cifar10_dcgan", ("--config.objective.diff_augment=('colour',)",), r"diff_augment=\('colour',\) "),
        ("cifar10_dcgan", ("--config.objective.ema_buffers=False",), r"--config\.objective\.ema_buffers=True"),
        ("cifar10_dcgan", ("--config.accum=2",), r"--config\.accum=1"),
    ],
)
def test_a_game_that_pytorch_does_not_have_is_refused(torch, config, more, message):
    from torch_forms import Form
    from torch_reference import Reference

    c = cli.load_config(flags(config, *more))
    bench_step.comparable(c)
    with pytest.raises(UserError, match=message):
        Reference(SimpleNamespace(config=c), {}, Form(), "cpu")


@pytest.mark.parity
def test_a_generators_average_is_a_copy_until_its_start(torch):
    import torch_gan

    settings = SimpleNamespace(z_dim=2, ema_decay=0.75, ema_start=1)
    game = torch_gan.DCGAN(width=1, layers=2, objective=settings)
    pairs = [(m[0].weight.data, m[1].running_mean) for m in (game.generator, game.ema)]
    for value, averaged in ((8.0, 8.0), (0.0, 6.0)):
        for x in pairs[0]:
            x.fill_(value)
        game.average()
        assert all(x.unique().tolist() == [averaged] for x in pairs[1])


@pytest.mark.parity
@pytest.mark.parametrize(
    "more",
    [
        "--config.model.drop_path=0.1",
        "--config.model.pool=map",
        "--config.accum=2",
        "--config.optim.name=lars",
        "--config.optim.clip=per_tensor",
    ],
)
def test_what_pytorch_does_not_have_is_refused(tmp_path, torch, more):
    from torch_forms import Form
    from torch_reference import Reference

    from vitjax import trees

    b = bench(tmp_path, "supervised_vits", more)
    flat = trees.flatten({"params": b.state.params})
    key, value = more.removeprefix("--").split("=")
    with pytest.raises(UserError, match=rf"{key}='?{value}"):
        Reference(b.built, {name: np.asarray(x) for name, x in flat.items()}, Form(), "cpu")
