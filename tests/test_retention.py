import pytest

from vitjax import retention
from vitjax.errors import UserError
from vitjax.retention import best_step, kept

STEPS = [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    "settings, stay",
    [
        (dict(keep=2), {10, 12}),
        (dict(keep=9), set(STEPS)),
        (dict(keep=0), set(STEPS)),
        (dict(keep=1, every_steps=4), {4, 8, 12}),
        (dict(keep=1, every_steps=6), {6, 12}),
        (dict(keep=1, scores={4: 0.9, 8: 0.3, 12: 0.1}), {4, 12}),
        (dict(keep=1, scores={4: 0.9, 8: 0.3, 12: 0.1}, mode="min"), {12}),
        (dict(keep=1, scores={4: 0.5, 8: 0.5}), {8, 12}),  # of equal ones the newest
        (dict(keep=1, scores={3: 0.9, 6: 0.2}), {6, 12}),  # the best step of all was never saved
        (dict(keep=1, scores={}), {12}),
        (dict(keep=2, every_steps=8, scores={2: -1.0, 4: -2.0}), {2, 8, 10, 12}),
    ],
)
def test_what_stays(settings, stay):
    assert kept(STEPS, **settings) == stay
    assert kept(STEPS[::-1], **settings) == stay


def test_the_newest_always_stays_and_nothing_is_invented():
    for keep in range(1, 4):
        for every in range(4):
            stay = kept(STEPS, keep, every, {2: 1.0})
            assert 12 in stay <= set(STEPS)
    assert kept([], 2) == set() and best_step([], {1: 2.0}) is None


def test_scores_come_from_the_lines_that_have_them(tmp_path):
    lines = [
        '{"step": 1, "train/loss": 0.5}',
        '{"step": 2, "eval/linear/accuracy": 0.25, "eval/linear/n": 9}',
        '{"step": 3, "eval/linear/accuracy": null}',
        '{"step": 4, "eval/linear/accuracy_top5": 0.9}',
        '{"step": 5, "eval/linear/accuracy": 1}',
        '{"step": 6, "eval/linear/accu',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert retention.scores(tmp_path, "eval/linear/accuracy") == {2: 0.25, 5: 1.0}
    assert retention.scores(tmp_path, "") == {} == retention.scores(tmp_path / "none", "train/loss")


def test_another_mode_is_refused():
    with pytest.raises(UserError, match=r"config\.checkpoint\.keep_best_mode='best' must be 'max' or 'min'"):
        retention.check("best")
