import io
import re

import pytest

from vitjax.progress import Progress, duration, start_table


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(progress, clock, total, step_s=0.1, waited_s=0.02, eval_every=0, eval_s=0.0, until=None):
    """Steps through a run as the loop and its hooks do; yields (step, time)."""
    clock.now += 7.0  # compilation
    for step in range(1, (until or total) + 1):
        clock.now += step_s
        progress.step(step, waited_s)
        if step % 10 == 0:
            progress.report(step, {"loss": 1 / step})
        if eval_every and step % eval_every == 0:
            with progress.paused("evaluating"):
                clock.now += eval_s
        yield step, clock.now


def test_time_to_go_is_right_after_a_twentieth_of_the_run_evaluations_included():
    clock = Clock()
    progress = Progress(total_steps=1000, batch_size=8, stream=io.StringIO(), clock=clock)
    told = {}
    for step, now in run(progress, clock, 1000, eval_every=25, eval_s=4.0):
        told[step] = (now, progress.eta_s())
    end = clock.now
    for step in (50, 120, 500, 990):
        now, eta = told[step]
        assert eta == pytest.approx(end - now, rel=0.1), step
    assert told[1000][1] == 0


def test_time_to_go_says_that_it_lacks_an_evaluation_that_was_never_timed():
    clock = Clock()
    progress = Progress(total_steps=100, batch_size=8, evaluates=True, stream=io.StringIO(), clock=clock)
    shown = {step: progress.line() for step, _ in run(progress, clock, 100, eval_every=60, eval_s=4.0, until=80)}
    assert shown[59].endswith("to go + evaluation") and shown[61].endswith("to go")


def test_time_to_go_follows_the_recent_rate_and_not_the_mean():
    clock = Clock()
    progress = Progress(total_steps=2000, batch_size=8, stream=io.StringIO(), clock=clock)
    for step in range(1, 1001):
        clock.now += 0.1 if step <= 600 else 1.0
        progress.step(step, 0.0)
    assert progress.eta_s() == pytest.approx(1000.0, rel=0.01)


def test_rates_count_neither_compilation_nor_evaluations():
    clock = Clock()
    progress = Progress(
        total_steps=100, batch_size=64, flops_per_step=2e9, peak_flops=1e11, stream=io.StringIO(), clock=clock
    )
    assert progress.report(0, {"loss": 1.0}) == {}
    for _ in run(progress, clock, 100, eval_every=15, eval_s=3.0, until=45):
        pass
    clock.now += 0.5
    progress.step(50, 0.1)
    numbers = progress.report(50, {"loss": 0.1})
    assert numbers["ms_per_step"] == pytest.approx(100.0)
    assert numbers["pictures_per_s"] == pytest.approx(640.0)
    assert numbers["mfu"] == pytest.approx(0.2)
    assert numbers["data_wait"] == pytest.approx((5 * 0.02 + 0.1) / 1.0)


def test_unknown_peak_gives_no_mfu():
    clock = Clock()
    progress = Progress(total_steps=20, batch_size=4, flops_per_step=1e9, stream=io.StringIO(), clock=clock)
    for _ in run(progress, clock, 20):
        pass
    assert "mfu" not in progress.report(20, {"loss": 0.1}) and "MFU" not in progress.line()


def test_plain_lines_where_there_is_no_terminal():
    clock, stream = Clock(), io.StringIO()
    with Progress(total_steps=1000, batch_size=256, stream=stream, clock=clock) as progress:
        progress.bad_records = 3
        for _ in run(progress, clock, 1000, until=40):
            pass
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and "\r" not in stream.getvalue()
    assert lines[-1] == (
        "step 40/1,000 (4%)  loss 0.025  2,560 pictures/s  100 ms/step  waiting for data 20%  "
        "3 bad records  1 min 36 s to go"
    )


def test_what_is_done_beside_the_steps_is_said_now_and_then():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(total_steps=1000, batch_size=8, stream=stream, clock=clock)
    for _ in range(2):
        with progress.paused("evaluating"):
            for second in range(70):
                progress.doing(f"evaluating linear {second}")
                clock.now += 1
    said = ["evaluating ...", "evaluating linear 30", "evaluating linear 60"] * 2
    assert stream.getvalue().splitlines() == [f"step 0: {text}" for text in said]


def test_terminal_line_is_redrawn_and_never_wraps(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    clock, stream = Clock(), Terminal()
    with Progress(total_steps=100, batch_size=256, stream=stream, clock=clock) as progress:
        for step, _ in run(progress, clock, 100):
            if step == 50:
                progress.say("a table")
    text = stream.getvalue()
    assert text.endswith("\n") and "a table\n" in text
    drawn = [re.sub(r"\x1b\[K|\n.*", "", part) for part in text.split("\r")[1:]]
    assert len(drawn) > 20 and max(map(len, drawn)) == 59
    assert drawn[-1].startswith("[####################] step 100/100 (100%)  loss 0.01")


def test_start_table_is_aligned():
    assert start_table({"a": 1, "long name": "x\ny"}) == "  a          1\n  long name  x\n             y"


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (18420, "5 h 07 min"), (183600, "2 d 03 h")],
)
def test_duration_has_two_units(seconds, text):
    assert duration(seconds) == text
