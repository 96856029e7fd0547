"""What happens beside the steps."""

import io
from types import SimpleNamespace

import pytest

from vitjax import evaluate, hooks
from vitjax.data.bad_records import BadRecords
from vitjax.data.decode import decode
from vitjax.data.sources.folder import FolderSource
from vitjax.errors import RunError
from vitjax.loop import Event
from vitjax.progress import Progress
from vitjax.supervisor import EVALUATING


class Writer:
    """Keeps what is written."""

    def __init__(self):
        self.rows = {}

    def has(self, step, name):
        return False

    def write(self, step, metrics):
        self.rows[step] = metrics


def test_an_evaluator_that_tells_what_it_does_shows_life_and_a_line(monkeypatch, tmp_path):
    entered, stream = [], io.StringIO()

    def evaluated(built, asked, variables, splits, mesh, baselines, tell):
        del entered[:]
        for number in range(3):
            tell(f"linear: solving, pass {number}")
        return {}

    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    built = SimpleNamespace(
        objective=SimpleNamespace(export=lambda state: state, prepare=None),
        run=SimpleNamespace(total_steps=5),
        path=tmp_path,
    )
    progress = Progress(total_steps=5, batch_size=8, stream=stream)
    asked = {"linear": SimpleNamespace(every_steps=1)}
    splits = SimpleNamespace(list_bad=lambda path: None)
    hook = hooks.evaluation(built, asked, splits, None, Writer(), progress, entered.append)
    hook(Event(2, {}, {}, {}, 0.0, last=False))
    assert entered[:3] == [EVALUATING] * 3
    assert stream.getvalue().startswith("step 0: evaluating ...\n")


@pytest.mark.parametrize("every_steps", [0, 7])
def test_refused_updates_are_counted_without_keeping_a_number_for_each_step(monkeypatch, every_steps):
    monkeypatch.setattr(hooks, "UNREAD", 5)
    monkeypatch.setattr(hooks, "IN_FLIGHT", 2)
    most, get = [], hooks.jax.device_get
    monkeypatch.setattr(hooks.jax, "device_get", lambda x: most.append(len(x)) or get(x))
    writer, progress = Writer(), Progress(total_steps=40, batch_size=8, stream=io.StringIO())
    hook = hooks.log(writer, progress, every_steps)
    for step in range(1, 41):
        refused = step in (2, 3, 6, 21, 40)
        hook(Event(step, {}, {"loss": 1.0, "skipped": float(refused)}, {}, 0.0, last=step == 40))
    assert sum(row["train/skipped"] for row in writer.rows.values()) == 5
    assert max(most) <= 6 and list(writer.rows) == ([1, 40] if not every_steps else [1, *range(7, 40, 7), 40])


def test_too_many_bad_records_end_the_run_with_their_reasons(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"" if number else b"<html>")
    source = FolderSource(str(tmp_path), "train")
    records = BadRecords(None, source, lambda index: decode(source[index]["image"]))
    evaluate.list_bad(records, [0], met=3, max_fraction=0.5)
    with pytest.raises(RunError, match=r"(?s)max_bad_fraction=0\.5: 3 records.* 2  the file is empty: 1\.png"):
        evaluate.list_bad(records, [1, 2], met=3, max_fraction=0.5)
