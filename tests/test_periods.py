from vitjax.periods import due


def test_due_every_n_steps_and_at_the_last():
    assert [step for step in range(1, 12) if due(step, 4, last=step == 11)] == [4, 8, 11]


def test_first_step_is_due_only_if_asked():
    assert due(1, 50, last=False, first=True)
    assert not due(1, 50, last=False)


def test_period_zero_means_only_at_the_end():
    assert [step for step in range(1, 6) if due(step, 0, last=step == 5)] == [5]
