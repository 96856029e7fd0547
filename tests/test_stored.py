import json

import pytest
from etils import epath

from vitjax import stored
from vitjax.errors import UserError
from vitjax.stored import Damaged, Incomplete

SHAPES = {"params": {"backbone/w": [[3, 4], "float32"]}, "extra": {}, "opt": {"0/mu/w": [[3, 4], "bfloat16"]}}
SUMS = {"params/backbone/w": 4000000001, "opt/0/mu/w": 17}


def write(folder, facts):
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"item_handlers": {}, "commit_timestamp_nsecs": 1795483855463560300, "custom_metadata": facts}
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(whole))
    return epath.Path(folder)


@pytest.fixture
def folder(tmp_path):
    """The folder of step 12, with nothing but its metadata."""
    return write(tmp_path / "12", stored.sealed(12, SHAPES, SUMS, (5, 9)))


def test_metadata_come_back_as_they_were_written(folder):
    meta = stored.read_meta(folder)
    assert (meta.step, meta.shapes, meta.sums, meta.left_out) == (12, SHAPES, SUMS, (5, 9))
    assert meta.written_s == pytest.approx(1795483855.46)


def test_any_flipped_bit_of_the_metadata_is_damage_or_means_nothing(folder):
    file = folder / "_CHECKPOINT_METADATA"
    whole, meta, caught = file.read_bytes(), stored.read_meta(folder), 0
    for bit in range(0, 8 * len(whole), 9):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        try:
            assert stored.read_meta(folder)[:4] == meta[:4]
        except Damaged:
            caught += 1
    assert caught > 0.8 * 8 / 9 * len(whole)


@pytest.mark.parametrize("number", [1, 3])
def test_other_formats_are_refused_and_not_taken_for_damage(tmp_path, number):
    facts = {"format": number, "step": 12, "shapes": SHAPES}
    with pytest.raises(UserError, match=f"12 has format {number} .*reads format 2") as refused:
        stored.read_meta(write(tmp_path / "12", facts))
    assert not isinstance(refused.value, Damaged)
    assert stored.complete_steps(tmp_path) == []


def test_a_folder_that_nobody_finished_is_incomplete(tmp_path):
    (tmp_path / "3").mkdir()
    for folder in (tmp_path / "3", tmp_path / "none", write(tmp_path / "4", None), write(tmp_path / "5", {})):
        with pytest.raises(Incomplete):
            stored.read_meta(epath.Path(folder))


def test_a_folder_under_another_steps_name_is_damaged(folder):
    folder.rename(folder.parent / "13")
    with pytest.raises(Damaged, match="not those of this step"):
        stored.read_meta(folder.parent / "13")


def test_a_folder_that_may_not_be_read_is_not_damaged(folder, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder), "read_text", refuse)
    with pytest.raises(UserError, match="Permission denied") as refused:
        stored.read_meta(folder)
    assert not isinstance(refused.value, Damaged)


def test_names_say_what_a_folder_is(tmp_path, folder):
    for name in ("2", "11", "12.damaged", "9.damaged.2", "8.removed", "14.orbax-checkpoint-tmp", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "20").write_text("a file")
    assert stored.numbered(tmp_path) == [2, 11, 12]
    assert stored.complete_steps(tmp_path) == [12] and stored.latest_step(tmp_path) == 12
    assert [path.name for path in stored.marked(tmp_path, stored.DAMAGED)] == ["12.damaged", "9.damaged.2"]
    assert [path.name for path in stored.marked(tmp_path, stored.REMOVED)] == ["8.removed"]
    assert [path.name for path in stored.unfinished(tmp_path)] == ["14.orbax-checkpoint-tmp"]
    assert stored.numbered(tmp_path / "none") == [] and stored.latest_step(tmp_path / "none") is None


def test_the_newest_that_can_be_read_is_read(tmp_path, capsys):
    for step in (1, 2, 3):
        write(tmp_path / str(step), stored.sealed(step, SHAPES, SUMS))

    def read(folder):
        if folder.name == "3":
            write(tmp_path / "4", stored.sealed(4, SHAPES, SUMS))  # a live run goes on
            raise Damaged(folder, "torn")
        if folder.name == "4":
            raise Damaged(folder, "torn, too")
        return folder.name

    assert stored.newest(tmp_path, read) == "2"
    err = capsys.readouterr().err
    assert "3 is passed over: torn\n" in err and "4 is passed over: torn, too\n" in err
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        stored.newest(tmp_path / "none", read)
