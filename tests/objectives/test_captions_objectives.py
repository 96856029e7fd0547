"""What the objectives on pictures with texts promise, on tiny towers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import steps
from objective_of import PX, config_of

from vitjax import experiment, image_text, trees
from vitjax.checkpoint import Checkpointer
from vitjax.config import Tracked
from vitjax.errors import UserError
from vitjax.layerwise import Patterns
from vitjax.objective import Run, Tokens

B, E, LENGTH, END = 8, 16, 6, 2
TOKENS = Tokens(vocab_size=20, text_length=LENGTH, pad=0, begin=1, end=END)
CONFIGS = dict(clip="clip_vitb32", siglip="siglip_vitb16", lit="lit_b16")
SMALL = dict(width=16, depth=1, heads=2, mlp_dim=32, scan=False)


def config_with(method):
    """The tiny form of the method's published config, smaller still, with a rate that moves from the start."""
    config = config_of(CONFIGS[method])
    config.batch_size, config.embed_chunks, config.loss_chunks, config.data.text_length = B, 1, 1, LENGTH
    config.text.update(SMALL)
    config.model.update(SMALL)
    config.towers.embed_dim = E
    config.optim.update(dict(name="sgd", base_lr=0.1, base_batch=0, warmup_steps=0, schedule="constant"))
    config.optim.update(dict(clip_norm=0.0, no_decay=()))
    return config


def build(config, tokens=TOKENS):
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch_of().items()}
    return experiment.build(Tracked(config), Run(10, 10.0, B, shapes, {}, np.float32, tokens))


def batch_of(seed=0):
    """Captions 0 and 3 are equal."""
    rng = np.random.default_rng(seed)
    text = rng.integers(3, 20, (B, 1, LENGTH), np.int32)
    text[:, :, 0], text[:, :, -1], text[3] = 1, END, text[0]
    return {
        "image": rng.integers(0, 256, (B, PX, PX, 3), np.uint8),
        "size": np.full((B, 2), PX, np.int32),
        "row": np.arange(B, dtype=np.int32),
        "valid": np.ones(B, bool),
        "text": text,
        "text_valid": np.ones((B, 1), bool),
    }


@functools.cache
def made(method, chunks=1, multi_positive=True):
    """(built, the state of step 0, the compiled step)."""
    config = config_with(method)
    config.embed_chunks = config.loss_chunks = chunks
    config.objective.multi_positive = multi_positive
    built = build(config)
    return built, jax.jit(lambda: experiment.fresh(built, 0))(), jax.jit(built.objective.update)


def updated(method, *batches, state=None, **settings):
    """(state, what was logged) after a step for each batch."""
    _, before, update = made(method, **settings)
    state, logged = before if state is None else state, []
    for step, batch in enumerate(batches):
        state, metrics = update(state, batch, jax.random.key(step))
        logged.append({name: float(x) for name, x in metrics.items()})
    return state, logged


def close(one, two, atol=1e-6):
    for path, x in trees.flatten(one.params).items():
        np.testing.assert_allclose(x, trees.flatten(two.params)[path], atol=atol, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("method", ["clip", "siglip", "lit"])
def test_two_steps_move_every_parameter_but_those_that_are_locked_to_the_bit(method):
    built, before, _ = made(method)
    state, logged = updated(method, batch_of(0), batch_of(1))
    assert int(state.step) == 2 and all(m["skipped"] == 0 and np.isfinite(m["loss"]) for m in logged)
    assert ("chance" in logged[0]) == (method != "siglip") and ("bias" in logged[0]) == (method == "siglip")
    frozen = Patterns("config.optim.frozen", built.config.optim.frozen)
    locked, now = 0, trees.flatten(state.params)
    for path, x in trees.flatten(before.params).items():
        locked += frozen(path)
        assert (np.asarray(x).tobytes() == np.asarray(now[path]).tobytes()) == frozen(path), path
    assert (locked > 10) == (method == "lit")


def test_a_locked_tower_has_no_slots_in_the_optimiser():
    """Two numbers a parameter of the rest, by AdamW with decay and clipping, as configured; two steps go well."""
    config = config_of(CONFIGS["lit"])
    config.text.update(SMALL)
    built = experiment.build(Tracked(config), made("lit")[0].run)
    state = jax.eval_shape(lambda: experiment.fresh(built, 0))
    slots = {path: x for path, x in trees.flatten(state.opt).items() if x.ndim or "logit_scale" in path}
    learned = {path: x for path, x in trees.flatten(state.params).items() if not path.startswith("backbone/")}
    assert not [path for path in slots if "backbone/" in path]
    assert sum(x.size for x in slots.values()) == 2 * sum(x.size for x in learned.values())


def test_the_tower_that_is_to_be_locked_must_be_named():
    with pytest.raises(UserError, match=r"config\.init\.backbone='': .*name='lit' does not train the backbone"):
        experiment.given_weights(made("lit")[0])
    assert experiment.given_weights(made("clip")[0]) == {}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose tower can be locked, with a checkpoint of step 0."""
    folder = tmp_path_factory.mktemp("trained")
    built, state, _ = made("lit")
    experiment.write_config(built._replace(path=folder))
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(0, state)
    return folder


def test_the_locked_tower_is_the_one_that_was_named(trained):
    config = config_with("lit")
    config.init.backbone, config.seed = str(trained), 5
    built = build(config)
    given = experiment.given_weights(built)
    state = jax.jit(lambda: experiment.fresh(built, 5, given))()
    source, found = (trees.flatten(x.params) for x in (made("lit")[1], state))
    for path, x in found.items():
        same = path.startswith("backbone/") or x.ndim == 0 or not np.ptp(x)
        assert np.array_equal(x, source[path]) == same, path


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("model", "activation"), "gelu_tanh", r"model\.activation=gelu, not gelu_tanh; give --config\.model\.act"),
        (("model", "norm_eps"), 1e-5, r"model\.norm_eps=1e-06, not 1e-05; give --config\.model\.norm_eps=1e-06$"),
        (("model", "heads"), 4, r"config\.model\.heads=2, not 4"),
        (("data", "mean"), (0.5, 0.5, 0.5), r"data\.mean=\(0\.485.*\), not \(0\.5.*; give --config\.data\.mean='\(0"),
        (("data", "std"), (0.5, 0.5, 0.5), r"config\.data\.std=\(0\.229, 0\.224, 0\.225\), not \(0\.5, 0\.5, 0\.5\)"),
    ],
)
def test_weights_that_would_compute_something_else_here_are_refused(trained, path, value, message):
    """Their names and shapes are those of this model; only what was done with them tells."""
    config = changed("lit", *path, value=value)
    config.init.backbone = str(trained)
    with pytest.raises(UserError, match=rf"init\.backbone='.*were trained with .*{message}"):
        experiment.given_weights(build(config))


@pytest.mark.parametrize("method", ["clip", "siglip", "lit"])
def test_pictures_and_texts_are_embedded_apart_and_features_are_the_backbones(method):
    built, state, _ = made(method)
    variables, predict = jax.eval_shape(built.objective.export, state), built.objective.predict
    asked = dict(features=batch_of(), image_embed=batch_of(), text_embed={"text": batch_of()["text"][:3, 0]})
    shapes = {name: jax.eval_shape(predict[name], variables, batch, None).shape for name, batch in asked.items()}
    assert shapes == {"features": (B, 16), "image_embed": (B, E), "text_embed": (3, E)}


@pytest.mark.parametrize("method", ["clip", "siglip", "lit"])
def test_chunks_give_the_gradient_of_the_whole_batch(method):
    """Of plain descent at a rate of 0.1: a tenth of the gradient is what moves."""
    (one, logged), (two, logged_too) = updated(method, batch_of()), updated(method, batch_of(), chunks=2)
    np.testing.assert_allclose(logged[0]["loss"], logged_too[0]["loss"], rtol=1e-5)
    close(one, two)


@pytest.mark.parametrize("method", ["clip", "siglip", "lit"])
def test_pictures_without_a_caption_change_nothing(method):
    """Neither what they show, nor what stands where their caption would be."""
    batch, other, without = (batch_of() for _ in range(3))
    batch["text_valid"][5] = other["text_valid"][5] = without["valid"][5] = False
    other["image"][5], other["text"][5] = 255 - other["image"][5], other["text"][0]
    one, two, three = (updated(method, b)[0] for b in (batch, other, without))
    close(one, two)
    close(one, three)


def test_equal_captions_are_numbered_alike_and_others_apart():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (2000, 7), np.int32)
    _, expected = np.unique(ids, axis=0, return_inverse=True)
    found = np.asarray(jax.jit(image_text.caption_numbers)(ids))
    pairs = set(zip(expected.reshape(-1).tolist(), found.tolist()))
    assert len(pairs) == len(set(found.tolist())) == expected.max() + 1 and 500 < len(pairs) < 1500


def test_captions_of_the_same_tokens_in_another_order_differ():
    base = np.arange(4, dtype=np.int32) * 1000
    orders = np.stack([np.roll(base, k) for k in range(4)] + [base[::-1]])
    assert len(set(np.asarray(image_text.caption_numbers(orders)).tolist())) == 5


def test_multi_positive_matters_to_siglip_where_captions_repeat_and_nowhere_else():
    """Each of the two pictures of a caption matches it twice, among 64 pairs; a logit of -10 makes that dear."""
    repeated, distinct = batch_of(), batch_of()
    distinct["text"][3, 0, 1] = (distinct["text"][3, 0, 1] - 2) % 17 + 3
    (_, strict), (_, lenient) = (updated("siglip", distinct, multi_positive=m) for m in (False, True))
    np.testing.assert_allclose(strict[0]["loss"], lenient[0]["loss"], rtol=1e-5)
    (_, strict), (_, lenient) = (updated("siglip", repeated, multi_positive=m) for m in (False, True))
    np.testing.assert_allclose(lenient[0]["loss"] - strict[0]["loss"], 2 * 10 / B, atol=1.5)


def test_multi_positive_changes_nothing_for_clip():
    """A softmax gives equal texts equal shares whichever of them it is told to find."""
    (one, strict), (two, lenient) = (updated("clip", batch_of(), multi_positive=m) for m in (False, True))
    np.testing.assert_allclose(strict[0]["loss"], lenient[0]["loss"], rtol=1e-5)
    close(one, two)


def test_the_scale_is_bounded_after_the_step_and_not_within_the_loss():
    """Of a batch without captions, which moves nothing else."""
    state, batch = made("clip")[1], batch_of()
    batch["text_valid"][:] = False
    beyond = state._replace(params={**state.params, "logit_scale": jnp.log(200.0)})
    after, logged = updated("clip", batch, state=beyond)
    np.testing.assert_allclose(logged[0]["scale"], 200, rtol=1e-5)
    np.testing.assert_allclose(np.exp(after.params["logit_scale"]), 100, rtol=1e-5)


@pytest.mark.parametrize("method, chunks", [("clip", 1), ("siglip", 2)])
def test_eight_devices_give_the_step_of_one(method, chunks):
    """Two captions are equal, of pictures that lie on different devices."""
    config = config_with(method)
    config.objective.multi_positive, config.loss_chunks, config.towers.embed_dim = True, chunks, 128
    for section in (config.model, config.text):
        section.update(dict(width=128, mlp_dim=256))  # matrices that are really split
    built = build(config)
    one, losses = steps.trained(built, steps.mesh_of((1, 1, 1)), 2, lambda _, step: batch_of(step))
    many, found = steps.trained(built, steps.mesh_of((2, 4, 1)), 2, lambda _, step: batch_of(step))
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    close(one, many, atol=1e-5)
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(many.params))


def changed(method, *path, value):
    config = config_with(method)
    section = config
    for name in path[:-1]:
        section = section[name]
    with config.unlocked():
        section[path[-1]] = value
    return config


@pytest.mark.parametrize(
    "method, path, value, message",
    [
        ("clip", ("data", "captions"), 2, r"config\.data\.captions=2: .*use 1"),
        ("clip", ("objective", "max_scale"), 5.0, r"max_scale=5\.0 must be at least config\.towers\.scale=14"),
        ("clip", ("objective", "max_scale"), -1.0, r"objective\.max_scale=-1\.0.*or 0 for no bound"),
        ("clip", ("text", "vocab_size"), 10, r"text\.vocab_size=10 is less than the 20 tokens.*0 is the tokenizer's"),
        ("clip", ("text", "eos_id"), 5, r"text\.eos_id=5: texts of.*end with 2; use config\.text\.eos_id=2"),
        ("clip", ("text", "pool"), "argmax", r"'argmax' takes the token with the largest id, 19.*'eos' and .*eos_id=2"),
        ("siglip", ("towers", "bias"), None, r"towers\.bias=None.*use -10\.0"),
        ("lit", ("optim", "frozen"), (), r"optim\.frozen=\(\): LiT locks the image tower; add '\^backbone/'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(method, path, value, message):
    with pytest.raises(UserError, match=message):
        build(changed(method, *path, value=value))


@pytest.mark.parametrize("method", ["clip", "siglip", "lit"])
def test_pictures_without_texts_are_refused(method):
    with pytest.raises(UserError, match=rf"name='{method}' learns from captions: set config\.data\.fields=\('text',\)"):
        build(config_with(method), tokens=None)
