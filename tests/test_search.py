"""Search by a description: the right pictures come first, from a fresh index and from one that was kept."""

import numpy as np
import pytest
from own_methods import towers_run
from PIL import Image

from vitjax import drawing, experiment, search
from vitjax.errors import UserError

COLOURS = {
    "train/red": (250, 0, 0, ["R"]),
    "train/dark_red": (120, 9, 0, ["R"]),
    "train/green": (0, 250, 0, ["G"]),
    "test/blue": (0, 0, 250, ["B"]),
    "test/purple": (200, 0, 200, ["R and B"]),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("search")
    folder = towers_run.pictures(home / "pictures", COLOURS)
    (folder / "train" / "broken.png").write_bytes(b"<html>")
    towers_run.run_of(home / "run", towers_run.config_of(folder))
    return home


@pytest.fixture
def found(home, tmp_path, capsys, monkeypatch):
    """Runs the command in the folder of the test: (names, scores), best first, and what tiles the sheet has."""
    tiles = []
    made = drawing.sheet
    monkeypatch.setattr(
        drawing, "sheet", lambda title, rows, legend: tiles.extend(rows) or made(title, rows, legend)
    )

    def run(query, *more):
        tiles.clear()
        flags = [
            f"--workdir={home / 'run'}",
            f"--images={home / 'pictures'}",
            f"--out={tmp_path / 'out.png'}",
        ]
        assert search.main([*flags, query, *more]) == 0
        lines = [
            line.split() for line in capsys.readouterr().out.splitlines() if ".png" in line and " " in line
        ]
        return [line[-1].split("/")[-1] for line in lines], [float(line[0]) for line in lines], sum(tiles, [])

    return run


def test_the_best_matches_come_first_with_their_scores_on_a_sheet(found, tmp_path):
    names, scores, tiles = found("B", "--n=3")
    assert names == ["blue.png", "purple.png", "dark_red.png"] and scores == [1.0, 0.707, 0.0]
    assert [tile.lines[0][0] for tile in tiles] == ["1.000", "0.707", "0.000"]
    assert tiles[0].picture[5, 5].tolist() == [0, 0, 250]
    assert Image.open(tmp_path / "out.png").size[0] > 3 * 256


def test_an_index_that_was_kept_gives_the_same_without_embedding(found, tmp_path, monkeypatch):
    file = f"--index={tmp_path / 'kept.npz'}"
    first = found("R", file)
    assert first[0][:2] == ["red.png", "dark_red.png"] and len(first[0]) == 5
    monkeypatch.setattr(search, "embed", None)
    assert found("R", file)[:2] == first[:2]
    assert found("G", file)[0][0] == "green.png"


def test_an_index_of_other_pictures_is_refused(found, home, tmp_path):
    file = tmp_path / "kept.npz"
    found("R", f"--index={file}")
    other = towers_run.pictures(tmp_path / "others", {"a": (1, 2, 3, ["R"])})
    with pytest.raises(UserError, match="kept.npz is of other pictures, or of other weights"):
        found("R", f"--index={file}", f"--images={other}")


@pytest.mark.parametrize("flag", ["weights", "settings"])
def test_an_index_of_another_model_at_the_same_place_is_refused(found, home, tmp_path, monkeypatch, flag):
    file = f"--index={tmp_path / 'kept.npz'}"
    found("R", file)
    if flag == "settings":
        with pytest.raises(UserError, match="kept.npz is of other pictures, or of other weights or settings"):
            found("R", file, "--config.data.mean=(0.1, 0.2, 0.3)")
        return
    variables = experiment.variables

    def others(built):
        params = variables(built)["params"]
        return {"params": {**params, "image": params["image"] + 1e-3}}

    monkeypatch.setattr(experiment, "variables", others)
    with pytest.raises(UserError, match="kept.npz is of other pictures, or of other weights or settings"):
        found("R", file)


@pytest.mark.parametrize("damage", ["garbage", "half", "flipped", "empty", "array", "shapes"])
def test_a_damaged_index_is_named(found, tmp_path, damage):
    file = tmp_path / "kept.npz"
    found("R", f"--index={file}")
    whole = file.read_bytes()
    place = whole.index(b"NUMPY") + 130  # among the numbers
    flipped = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
    written = {"garbage": b"no index", "half": whole[: len(whole) // 2], "flipped": flipped, "empty": b""}
    if damage in written:
        file.write_bytes(written[damage])
    elif damage == "array":
        with open(file, "wb") as opened:
            np.save(opened, np.ones(3))
    else:
        with np.load(file) as kept:
            np.savez(file, x=kept["x"], records=kept["records"][:2], of=kept["of"])
    with pytest.raises(UserError, match="kept.npz cannot be read.*remove it"):
        found("R", f"--index={file}")


def test_folders_of_what_is_written_are_made_before_pictures_are_embedded(found, tmp_path, monkeypatch):
    found("R", f"--out={tmp_path / 'a' / 'b' / 'out.png'}", f"--index={tmp_path / 'c' / 'd' / 'kept.npz'}")
    assert (tmp_path / "a" / "b" / "out.png").is_file() and (tmp_path / "c" / "d" / "kept.npz").is_file()
    monkeypatch.setattr(search, "embed", None)
    (tmp_path / "file").write_text("")
    for flag in ("--out", "--index"):
        with pytest.raises(UserError, match=rf"{flag}=.*x\.npz: .*file cannot be made .*name another file"):
            found("R", f"{flag}={tmp_path / 'file' / 'x.npz'}")
    with pytest.raises(UserError, match="--out=.* is a folder; name another file"):
        found("R", f"--out={tmp_path}")


def test_what_cannot_be_searched_is_refused(found, tmp_path):
    with pytest.raises(UserError, match="--n=0 must be 1 or more"):
        found("R", "--n=0")
    with pytest.raises(UserError, match="must end in .npz"):
        found("R", f"--index={tmp_path / 'kept.txt'}")


def test_equal_scores_keep_their_order():
    x = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], np.float32)
    scores, rows = search.nearest(x, np.array([1, 0], np.float32), 9)
    assert rows.tolist() == [1, 3, 0, 2] and scores.tolist() == [1, 1, 0, 0]


def test_faiss_finds_the_same(monkeypatch):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    x, query = rng.normal(size=(500, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    plain = search.nearest(x, query, 7)
    monkeypatch.setattr(search, "MANY", 100)
    scores, rows = search.nearest(x, query, 7)
    np.testing.assert_array_equal(rows, plain[1])
    np.testing.assert_allclose(scores, plain[0], rtol=1e-5)
