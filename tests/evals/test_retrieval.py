"""Recall of pictures and captions equals a plain loop's, ties and repeated captions included."""

import jax
import numpy as np
import pytest
from golden import wave
from ml_collections import ConfigDict
from own_methods import towers_run

from vitjax import evaluate, experiment, sharding
from vitjax.config import Tracked, retrieval_eval, zero_shot_eval
from vitjax.data import sources
from vitjax.errors import UserError
from vitjax.evals import retrieval

# Similarities wave(1, (5, 5)), picture i with text i.
TO_TEXT, TO_IMAGE = [1, 1, 2, 1, 2], [0, 1, 1, 2, 2]


def mesh(devices=8):
    shape = dict(data=2 if devices > 1 else 1, fsdp=-1, tensor=1)
    return sharding.make_mesh(ConfigDict(shape), jax.devices()[:devices])


def loop(queries, gallery, right):
    """The definition, query by query: wrong items that score at least as high as the best right one."""
    found = []
    for query, mine in zip(queries, right):
        scores = [float(np.dot(query, item)) for item in gallery]
        best = max(scores[i] for i in mine)
        found.append(sum(score >= best for i, score in enumerate(scores) if i not in mine))
    return found


def test_ranks_equal_the_golden_ones():
    scores, each, same = wave(1, (5, 5)), np.arange(5), np.eye(5)
    assert retrieval.ranks(scores, same, each, each).tolist() == TO_TEXT
    assert retrieval.ranks(same, scores, each, each).tolist() == [
        loop([same[i]], scores, [{i}])[0] for i in range(5)
    ]
    assert retrieval.ranks(scores.T, same, each, each).tolist() == TO_IMAGE


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("scores, most", [(2**25, 4096), (200, 3)])
def test_equals_a_numpy_loop_with_ties_however_the_work_is_cut(devices, scores, most, monkeypatch):
    monkeypatch.setattr(retrieval, "SCORES", scores)
    monkeypatch.setattr(retrieval, "MOST_ROWS", most)
    rng = np.random.default_rng(0)
    x, y = (
        rng.integers(-2, 3, (n, 4)).astype(np.float32) for n in (41, 67)
    )  # whole numbers: many exact ties
    right = [set(rng.choice(67, rng.integers(1, 6), replace=False).tolist()) for _ in range(41)]
    queries, matches = zip(*[(q, m) for q in rng.permutation(41).tolist() for m in right[q]])
    found = retrieval.ranks(x, y, np.array(queries), np.array(matches), mesh(devices))
    expected = loop(x, y, right)
    np.testing.assert_array_equal(found, expected)
    assert 0 < np.mean(found == 0) < 1


def test_a_model_that_says_the_same_of_all_finds_nothing():
    each = np.arange(30)
    assert retrieval.ranks(np.ones((30, 3)), np.ones((30, 3)), each, each).tolist() == [29] * 30


def test_captions_of_equal_tokens_are_one_text_of_several_pictures():
    text = np.array([[[1, 5], [1, 6]], [[1, 6], [0, 0]], [[1, 7], [1, 7]]])
    pairs = retrieval.pairs_of(text, np.array([[True, True], [True, False], [True, True]]))
    assert pairs.texts.tolist() == [[1, 5], [1, 6], [1, 7]] and pairs.of_caption.tolist() == [0, 1, 1, 2, 2]
    assert list(zip(pairs.pictures.tolist(), pairs.matches.tolist())) == [(0, 0), (0, 1), (1, 1), (2, 2)]


def test_the_matrix_of_similarities_is_never_whole():
    """40,000 pictures with 200,000 texts: what is alive is a block."""
    one = mesh(1)
    rows = retrieval._rows(40_000, 200_001, one)
    shapes = [((rows, 512), np.float32), ((200_001, 512), np.float32), ((rows, 8), np.int32)]
    shapes = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    with sharding.use(one):
        used = retrieval._block_ranks.lower(*shapes, one).compile().memory_analysis().temp_size_in_bytes
    assert 1 <= rows < 1000 and used < 4 * 4 * retrieval.SCORES


COLOURS = {
    "a": (250, 0, 0, ["R", "R 1", "G"]),  # the third says what b and d show
    "b": (0, 250, 0, ["G"]),
    "c": (0, 0, 250, ["B", "B 2", "G 9"]),
    "d": (0, 200, 0, ["G"]),
    "e": (90, 90, 0, []),
    "f": (60, 0, 60, ["RB", "B R", "R-B", "r RB"]),
}


def built(tmp_path, batch_size=8, **evals):
    config = towers_run.config_of(towers_run.pictures(tmp_path / "pictures", COLOURS))
    config.batch_size = batch_size
    config.evals.update(evals)
    tracked = Tracked(config)
    return experiment.prepare(tracked, sources.open_source(config.data, "train"), None)


def measured(made, devices=8):
    over = mesh(devices)
    splits = evaluate.Splits(made.config, over)
    prepared = evaluate.prepare(made, splits)
    variables = made.objective.export(experiment.fresh(made, 0))
    return evaluate.evaluate(made, prepared, variables, splits, over)


@pytest.mark.parametrize("batch_size, devices", [(8, 8), (2, 1)])
def test_all_captions_of_a_picture_count_and_not_a_drawn_one(tmp_path, batch_size, devices):
    made = built(tmp_path, batch_size, retrieval=retrieval_eval(eval_split="train", captions=3))
    numbers = measured(made, devices)
    axes = {"R": [1, 0, 0], "G": [0, 1, 0], "B": [0, 0, 1]}
    texts = [(name, text) for name, (*_, captions) in COLOURS.items() for text in captions[:3]]
    vector = {text: sum(np.array(axes.get(letter, [0, 0, 0])) for letter in text) for _, text in texts}
    vector = {text: v / np.linalg.norm(v) for text, v in vector.items()}
    images = {name: np.array(c) / np.linalg.norm(c) for name, (*c, captions) in COLOURS.items() if captions}
    distinct = sorted(vector)
    mine = [{distinct.index(text) for text in COLOURS[name][3][:3]} for name in images]
    to_text = loop(images.values(), [vector[text] for text in distinct], mine)
    owners = [{i for i, name in enumerate(images) if text in COLOURS[name][3]} for _, text in texts]
    to_image = loop([vector[text] for _, text in texts], list(images.values()), owners)
    for k in (1, 5, 10):
        assert numbers[f"eval/retrieval/image_to_text/recall_at_{k}"] == np.mean(np.array(to_text) < k)
        assert numbers[f"eval/retrieval/text_to_image/recall_at_{k}"] == np.mean(np.array(to_image) < k)
    assert 0 < numbers["eval/retrieval/text_to_image/recall_at_1"] < 1
    names = ("n", "n_texts", "n_distinct", "n_bad", "n_without", "n_more")
    assert [numbers[f"eval/retrieval/{name}"] for name in names] == [5, 11, 9, 0, 1, 1]


def test_the_table_shows_recall_both_ways(tmp_path):
    numbers = measured(
        built(tmp_path, retrieval=retrieval_eval(eval_split="train", baselines=("random_init",)))
    )
    lines = [line.split()[:4] for line in evaluate.table(numbers).splitlines()[1:]]
    ways = ("image_to_text", "text_to_image")
    assert [line[:3] for line in lines] == [["retrieval", way, f"R@{k}"] for way in ways for k in (1, 5, 10)]
    assert all(line[3].endswith("%") for line in lines)


def test_what_cannot_be_measured_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r"evals.retrieval.captions=0 must be 1 or more"):
        measured(built(tmp_path, retrieval=retrieval_eval(eval_split="train", captions=0)))
    with pytest.raises(UserError, match=r"baselines=\('raw_pixels',\): pixels have no texts"):
        measured(built(tmp_path, retrieval=retrieval_eval(eval_split="train", baselines=("raw_pixels",))))
    with pytest.raises(UserError, match="the data set has no labels"):
        measured(built(tmp_path, zero_shot=zero_shot_eval(eval_split="train")))
    made = built(tmp_path, retrieval=retrieval_eval(eval_split="train"))
    made.config._config.data.fields = ()
    with pytest.raises(UserError, match=r"needs captions; ask for them with --config.data.fields"):
        measured(made)


def test_the_concepts_of_emoji_that_are_held_out_come_with_their_captions(picture_sets, tmp_path):
    config = towers_run.config_of(picture_sets / "emoji" / "*" / "000002.tar", cache_dir=str(tmp_path))
    config.batch_size, config.evals.retrieval = 64, retrieval_eval(eval_split="train")
    made = experiment.prepare(Tracked(config), sources.open_source(config.data, "train"), None)
    numbers = measured(made, 1)
    names = ("n", "n_texts", "n_distinct", "n_bad", "n_without", "n_more")
    assert [numbers[f"eval/retrieval/{name}"] for name in names] == [380, 380, 190, 0, 0, 0]
