"""The line of a pass over pictures."""

import io

from vitjax.counting import Counting


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line_says_how_far_how_fast_and_how_long():
    clock = Clock()
    counting = Counting("train", 2000, io.StringIO(), clock)
    clock.now = 5.0
    counting(500)
    assert counting.line() == "train  500/2,000 (25%)  100 pictures/s  15 s to go"


def test_a_file_gets_a_line_now_and_then_and_a_last_one():
    clock, stream = Clock(), io.StringIO()
    with Counting("train", 1000, stream, clock) as counting:
        for done in range(1, 1001):
            clock.now = done / 10
            counting(done)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and lines[-1] == "train  1,000/1,000 (100%)  10 pictures/s"


def test_a_terminal_has_its_line_redrawn():
    clock, stream = Clock(), Terminal()
    with Counting("train", 10, stream, clock) as counting:
        clock.now = 1.0
        counting(5)
    assert stream.getvalue().startswith("\r[##########..........] train  5/10")
    assert stream.getvalue().endswith("\n")
