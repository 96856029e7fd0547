"""Zero-shot accuracy equals a plain loop's, and the result says with which prompts."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_retrieval import mesh

from vitjax.config import Tracked, zero_shot_eval
from vitjax.data import tokenize
from vitjax.errors import UserError
from vitjax.evals import features, prompts, zero_shot
from vitjax.objective import Run

NAMES = ("dog", "cat", "fire_truck", "cow", "hen", "owl", "bee")
TABLE = np.random.default_rng(5).normal(size=(259, 6)).astype(np.float32)
TOKENIZER = tokenize.of_bytes(40)


def embedded(tokens):
    """A direction for each text, from its bytes in their order."""
    weights = np.cos(np.arange(tokens.shape[-1], dtype=np.float32))
    return (TABLE[tokens] * weights[:, None]).sum(-2)


def evaluator(names=NAMES, **settings):
    config = Tracked(ConfigDict(zero_shot_eval(**settings).to_dict()))
    run = Run(1, 1.0, 8, {"label": None}, {"label": names}, np.float32)
    return zero_shot.make(config, run)


def extract_of(x, y, size=16, over=None):
    """What an evaluator is given: pictures that are their own embeddings."""
    from fake_batches import host_batches

    text_embed = jax.jit(lambda batch: embedded_on_device(batch["text"]))
    functions = {"image_embed": lambda batch: batch["x"], "text_embed": text_embed}
    over = over or mesh()
    return features.Extract(
        functions, lambda split, limit: host_batches(x, {"label": y}, 16), ("label",), over,
        tokenizer=TOKENIZER, batch_size=size,
    )  # fmt: skip


def embedded_on_device(tokens):
    weights = np.cos(np.arange(tokens.shape[-1], dtype=np.float32))
    return (jax.numpy.asarray(TABLE)[tokens] * weights[:, None]).sum(-2)


def columns(sentences):
    """The direction of each class in float64."""
    found = []
    for name in NAMES:
        total = np.zeros(TABLE.shape[1])
        for sentence in sentences:
            text = sentence.replace("{}", name.replace("_", " "))
            vector = embedded(TOKENIZER.encode(text)).astype(float)
            total += vector / np.linalg.norm(vector)
        found.append(total / np.linalg.norm(total))
    return found


def loop(x, y, sentences):
    """Top-1 and top-5, picture by picture."""
    classes = columns(sentences)
    places = []
    for picture, label in zip(x, y):
        scores = [np.dot(picture, column) for column in classes]
        places.append(sum(score >= scores[label] for score in scores) - 1)
    return np.mean(np.array(places) < 1), np.mean(np.array(places) < 5)


@pytest.mark.parametrize("size, devices", [(16, 8), (5, 1), (64, 2)])
def test_equals_a_numpy_loop(size, devices):
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(NAMES), 203)
    x = (np.stack(columns(prompts.SEVEN))[y] + 0.3 * rng.normal(size=(203, 6))).astype(np.float32)
    y[7] = -1  # no label: not counted
    numbers = evaluator().evaluate(extract_of(x, y, size, mesh(devices)), mesh(devices))
    top1, top5 = loop(x[y >= 0], y[y >= 0], prompts.SEVEN)
    assert abs(numbers["accuracy"] - top1) < 1e-6 and abs(numbers["top5_accuracy"] - top5) < 1e-6
    assert 0.2 < top1 < top5 < 1 and (numbers["n"], numbers["n_bad"]) == (202, 0)


def test_the_result_names_and_hashes_its_prompts(tmp_path):
    (tmp_path / "plain.txt").write_text("a {}\n\nthe {} itself\n")
    x, y = np.eye(6, dtype=np.float32), np.arange(6)
    numbers = evaluator(templates=str(tmp_path / "plain.txt")).evaluate(extract_of(x, y), mesh())
    texts = [s.replace("{}", name.replace("_", " ")) for name in NAMES for s in ("a {}", "the {} itself")]
    assert numbers[f"prompts/plain-{prompts.digest(texts)}"] == len(texts)
    assert prompts.digest(texts) != prompts.digest(texts[::-1])
    assert evaluator(templates=str(tmp_path / "plain.txt")).needs == ("image_embed", "text_embed")


def test_prompts_may_stand_in_the_config(tmp_path):
    x, y = np.eye(6, dtype=np.float32), np.arange(6)
    sentences = ("a {}", "the {} itself")
    found = evaluator(sentences=sentences).evaluate(extract_of(x, y), mesh())
    (tmp_path / "same.txt").write_text("\n".join(sentences))
    file = evaluator(templates=str(tmp_path / "same.txt")).evaluate(extract_of(x, y), mesh())
    assert {name.replace("config-", "same-"): value for name, value in found.items()} == file != found
    one, listed = (evaluator(sentences=s).evaluate(extract_of(x, y), mesh()) for s in ("a {}", ("a {}",)))
    assert one == listed
    with pytest.raises(UserError, match=r"zero_shot.sentences: sentence 2 is 'dog'.*has {}"):
        evaluator(sentences=("a {}", "dog"))
    with pytest.raises(UserError, match=r"templates='a.txt' and .*sentences are both given"):
        evaluator(sentences=sentences, templates="a.txt")


def test_names_may_come_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(reversed(NAMES)))
    x = embedded(np.stack([TOKENIZER.encode(f"a {name.replace('_', ' ')}") for name in NAMES]))
    (tmp_path / "a.txt").write_text("a {}")
    files = dict(templates=str(tmp_path / "a.txt"), classes=str(tmp_path / "names.txt"))
    last = len(NAMES) - 1
    right = evaluator(**files).evaluate(extract_of(x, last - np.arange(len(NAMES))), mesh())
    assert right["accuracy"] == 1 and "top5_accuracy" in right
    few = evaluator(("a", "b", "c")).evaluate(extract_of(x, np.arange(len(NAMES)) % 3), mesh())
    assert "top5_accuracy" not in few


def test_a_class_that_scores_as_high_as_the_right_one_stands_before_it():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    x = np.array([[3, 0], [0, 2], [1, 1]], np.float32)
    assert zero_shot.places(x, vectors, np.array([0, 2, 2])).tolist() == [1, 0, 2]


def test_pictures_are_worked_on_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    x, vectors, y = rng.normal(size=(31, 4)), rng.normal(size=(5, 4)), rng.integers(0, 5, 31)
    whole = zero_shot.places(x, vectors, y)
    monkeypatch.setattr(zero_shot, "SCORES", 7)
    np.testing.assert_array_equal(zero_shot.places(x, vectors, y), whole)


def test_files_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "few.txt").write_text("dog\ncat\n")
    with pytest.raises(UserError, match=r"zero_shot.classes=.*few.txt' has 2 names, and the data 7 classes"):
        evaluator(classes=str(tmp_path / "few.txt"))
    with pytest.raises(UserError, match=r"zero_shot.templates=.*few.txt': sentence 1 is 'dog'.*has {}"):
        evaluator(templates=str(tmp_path / "few.txt"))
    with pytest.raises(UserError, match=r"gone.txt' cannot be read"):
        evaluator(templates=str(tmp_path / "gone.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty.txt' is empty"):
        evaluator(templates=str(tmp_path / "empty.txt"))
