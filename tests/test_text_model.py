"""Models with texts in a notebook, from a run and from an export."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from own_methods import towers_run

import vitjax
from vitjax import evaluate, experiment, export
from vitjax.config import EVALS, Tracked, knn_eval
from vitjax.errors import UserError
from vitjax.evals import prompts
from vitjax.objective import Tokens

COLOURS = {"red": (250, 0, 0, ["R"]), "green": (0, 250, 0, ["G", "a G"]), "blue": (0, 0, 250, ["B"])}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    config = towers_run.config_of(towers_run.pictures(folder / "pictures", COLOURS))
    return towers_run.run_of(folder / "run", config)


@pytest.fixture(scope="module")
def model(run):
    return vitjax.load(run)


def plain(*colours):
    return np.stack([np.full((5, 4, 3), colour, np.uint8) for colour in colours])


def test_pictures_and_texts_meet(model):
    pictures = plain((9, 0, 0), (0, 9, 9), (0, 0, 1))
    cosines = model.image_embed(pictures) @ model.text_embed(["B", "R and R", "GB"]).T
    np.testing.assert_allclose(cosines, [[0, 1, 0], [0.5**0.5, 0, 1], [1, 0, 0.5**0.5]], atol=1e-6)


def test_texts_come_in_their_order_however_many_there_are(model, monkeypatch):
    texts = ["R" * (i % 3) + "G" * (i % 2) + "B" for i in range(23)]
    whole = model.text_embed(texts)
    monkeypatch.setattr("vitjax.model.MAX_TEXTS", 8)
    np.testing.assert_array_equal(model.text_embed(texts), whole)
    assert model.text_embed([]).shape == (0, 3)


def test_zero_shot_names_what_pictures_show(model):
    scores = model.zero_shot(plain((0, 200, 10), (9, 0, 0)), ["R", "G", "B_B"])
    assert scores.shape == (2, 3) and scores.argmax(1).tolist() == [1, 0]
    # Mean of unit vectors, at length one again: R and the diagonal of R and G.
    mean = np.array([1, 0, 0]) + np.array([1, 1, 0]) / 2**0.5
    scores = model.zero_shot(plain((9, 0, 0)), ["R"], ["{}", "a {} on G"])
    np.testing.assert_allclose(scores, [[mean[0] / np.linalg.norm(mean)]], atol=1e-6)


def test_what_is_no_text_or_no_name_is_refused(model):
    for wrong in ("one", [1], [b"x"]):
        with pytest.raises(UserError, match="texts must be a list of str"):
            model.text_embed(wrong)
    with pytest.raises(UserError, match="takes a list of names"):
        model.zero_shot(plain((0, 0, 0)), "cat")
    with pytest.raises(UserError, match=r"a place for them \({}\).*no place"):
        model.zero_shot(plain((0, 0, 0)), ["cat"], ["no place"])
    with pytest.raises(UserError, match="predicts image_embed, text_embed; it has no 'features'"):
        model.features(plain((0, 0, 0)))


def test_what_texts_are_is_told_to_the_method_and_written_down(run):
    built = experiment.read(run)
    assert built.run.tokens == Tokens(259, 32, 0, 1, 2, "")


def words(path, end="</s>"):
    """A tokenizer.json of the bytes that `own_methods.towers` knows."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<pad>": 0, "<s>": 1, end: 2, "R": ord("R") + 3, "G": ord("G") + 3, "B": ord("B") + 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    around = [("<s>", 1), (end, 2)]
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"<s> $A {end}", special_tokens=around
    )
    made.save(str(path))
    return path


def test_an_export_reads_texts_when_the_vocabulary_and_the_run_are_gone(tmp_path):
    file = words(tmp_path / "words.json")
    folder = towers_run.pictures(tmp_path / "pictures", COLOURS)
    run = towers_run.run_of(tmp_path / "run", towers_run.config_of(folder, tokenizer=f"hf:{file}"))
    exported = export.export(run, tmp_path / "export")
    file.unlink()
    run.rename(tmp_path / "elsewhere")
    model = vitjax.load(exported)
    assert model.tokenizer.name == f"hf:{exported}/tokenizer/words.json" and model.tokenizer.vocab_size == 86
    assert "library tokenizers, in `tokenizer/words.json`" in (exported / "README.md").read_text()
    np.testing.assert_allclose(model.text_embed(["R G"]), [[0.5**0.5, 0.5**0.5, 0]], atol=1e-6)


def test_an_export_of_other_texts_leaves_nothing(run, tmp_path, monkeypatch):
    # Red is R in a text no more, and pictures stay what they were.
    monkeypatch.setattr(export, "_stored", lambda x: np.roll(x, 1, 0) if len(x) == 259 else x)
    with pytest.raises(RuntimeError, match="exported model's text_embed differ from the run's"):
        export.export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_with_its_vocabulary_anywhere_and_with_no_other(tmp_path):
    file = words(tmp_path / "words.json")
    folder = towers_run.pictures(tmp_path / "pictures", COLOURS)
    config = towers_run.config_of(folder, tokenizer=f"hf:{file}")
    run = towers_run.run_of(tmp_path / "run", config)

    def changes(path):
        config.data.tokenizer = f"hf:{path}"
        source = vitjax.data.sources.open_source(config.data, "train")
        return experiment.changes(experiment.prepare(Tracked(config), source, run))

    (tmp_path / "moved.json").write_bytes(file.read_bytes())
    assert list(changes(tmp_path / "moved.json")) == ["config.data.tokenizer"]
    with pytest.raises(UserError, match=r"began with tokens=.*--changed=tokens"):
        changes(words(tmp_path / "other.json", end="</e>"))


def test_a_run_with_captions_names_the_classes_of_pictures_without_them(tmp_path, capsys):
    config = towers_run.config_of(towers_run.pictures(tmp_path / "pictures", COLOURS))
    run = towers_run.run_of(tmp_path / "run", config)
    labelled = {f"test/{name}/{k}": (*colour, []) for name, colour, k in (
        ("R", (9, 0, 0), 0), ("G", (0, 9, 0), 0), ("B", (0, 0, 9), 0), ("B", (8, 1, 1), 1),
    )}  # fmt: skip
    towers_run.pictures(tmp_path / "labelled", labelled)
    flags = [f"--config.data.path={tmp_path / 'labelled'}", "--config.data.fields=()"]
    evaluate.main([f"--workdir={run}", *flags, "--evals=zero_shot"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("zero_shot")]
    assert line.split() == ["zero_shot", "75.0%", "-", "-", "4"]
    (row,) = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    (told,) = [name for name in row if name.startswith("eval/zero_shot/prompts/seven-")]
    assert row[told] == 3 * len(prompts.SEVEN)


def test_evaluators_are_chosen_by_name():
    own = ConfigDict(dict(mine=knn_eval(k=7), knn=knn_eval(k=9)))
    assert evaluate.chosen(own, None) is own
    assert list(evaluate.chosen(ConfigDict(), None)) == ["knn", "linear"]
    both = evaluate.chosen(own, "knn,retrieval")
    assert sorted(both) == ["knn", "retrieval"] and both.knn.k == 9
    assert all(list(evaluate.chosen(own, name)) == [name] for name in EVALS)
    with pytest.raises(UserError, match="--evals=zeroshot: 'zeroshot' is not known; did you mean 'zero_shot'"):
        evaluate.chosen(own, "zeroshot")
