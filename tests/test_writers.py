import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vitjax import writers
from vitjax.writers import MetricsWriter


def lines(folder, name=writers.METRICS):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_metrics_of_one_step_are_one_line_with_step_first(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"train/loss": jnp.float32(0.5)})
        writer.write(1, {"eval/knn/accuracy": 0.25, "eval/knn/n": 1003})
        writer.write(2, {"train/loss": 0.25})
        assert len(lines(tmp_path)) == 1, "a line is complete when a later step is written"
    assert lines(tmp_path) == [
        {"step": 1, "train/loss": 0.5, "eval/knn/accuracy": 0.25, "eval/knn/n": 1003},
        {"step": 2, "train/loss": 0.25},
    ]
    assert (tmp_path / writers.METRICS).read_text().startswith('{"step": 1,')


def test_resumed_run_has_each_step_once_and_later_lines_move_aside(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"train/loss": float(step)})
    with MetricsWriter(tmp_path, first_step=3) as writer:
        for step in range(4, 7):
            writer.write(step, {"train/loss": 10.0 * step})
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert lines(tmp_path)[4]["train/loss"] == 50.0
    assert lines(tmp_path, writers.DISCARDED) == [
        {"step": 4, "train/loss": 4.0},
        {"step": 5, "train/loss": 5.0},
    ]


def test_step_that_was_flushed_or_resumed_from_is_still_one_line(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"a": 1.0})
        writer.write(2, {"a": 2.0})
        writer.flush()
        assert lines(tmp_path)[-1] == {"step": 2, "a": 2.0}
        writer.write(2, {"eval/b": 3.0})
    with MetricsWriter(tmp_path, first_step=2) as writer:
        writer.write(2, {"eval/c": 4.0})
        writer.write(3, {"a": 5.0})
    assert lines(tmp_path) == [
        {"step": 1, "a": 1.0},
        {"step": 2, "a": 2.0, "eval/b": 3.0, "eval/c": 4.0},
        {"step": 3, "a": 5.0},
    ]


def test_torn_last_line_is_dropped(tmp_path):
    (tmp_path / writers.METRICS).write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a": 0.1234')
    with MetricsWriter(tmp_path, first_step=1) as writer:
        writer.write(2, {"a": 2.0})
    assert lines(tmp_path) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}]
    assert writers.read_metrics(tmp_path) == lines(tmp_path)


def test_number_that_is_not_finite_is_null_and_the_line_stays_json(tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": float("nan"), "norm": np.float32("inf"), "ok": 1.0})
    text = (tmp_path / writers.METRICS).read_text()
    assert json.loads(text, parse_constant=refuse) == {"step": 1, "loss": None, "norm": None, "ok": 1.0}


def test_earlier_step_is_refused(tmp_path):
    with MetricsWriter(tmp_path, first_step=5) as writer:
        with pytest.raises(ValueError, match="step 4 come after those of step 5"):
            writer.write(4, {"a": 1.0})


def test_picture_is_written_as_png_and_as_event(tmp_path):
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    with MetricsWriter(tmp_path) as writer:
        writer.picture(7, "reconstruction", picture)
    saved = np.asarray(Image.open(tmp_path / "pictures" / "reconstruction_00000007.png"))
    np.testing.assert_array_equal(saved, picture)
    tags = [value.tag for event in events(tmp_path) for value in event.summary.value]
    assert tags == ["reconstruction"]


def test_tensorboard_forgets_what_was_discarded(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"train/loss": float(step)})
    with MetricsWriter(tmp_path, first_step=3) as writer:
        writer.write(4, {"train/loss": 40.0})
    assert loss_curve(tmp_path) == {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0}


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(writers.jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(1, {"a": 1.0})
        writer.picture(1, "p", np.zeros((2, 2, 3), np.uint8))
    assert not (tmp_path / "run").exists()


def events(folder):
    """The events in `folder`, in the order of their files."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted((folder / writers.EVENTS).iterdir(), key=lambda f: f.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def loss_curve(folder):
    """What TensorBoard shows: a session that starts at a step deletes everything from that step on."""
    from tensorboardX.proto.event_pb2 import SessionLog

    curve = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            curve = {step: value for step, value in curve.items() if step < event.step}
        for value in event.summary.value:
            curve[event.step] = value.simple_value
    return curve
