"""Rates that change with the round: the factors, and that every loop trains with them."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from fedlab.client import cosine, warm_up
from fedlab.client.schedules import step_decay
from fedlab.core import Local
from fedlab.engine import run, stream


def test_factors():
    assert [warm_up(4)(t) for t in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    schedule = warm_up(2, after=step_decay(2, 0.5))
    assert [schedule(t) for t in range(1, 7)] == [0.5, 1, 1, 1, 0.5, 0.5]
    assert [step_decay(3, 0.1)(t) for t in (1, 3, 4, 7)] == pytest.approx([1, 1, 0.1, 0.01])
    curve = [cosine(10, final=0.2)(t) for t in range(1, 14)]
    assert curve[0] == 1
    assert curve[5] == pytest.approx(0.6)  # half of the way
    assert (np.diff(curve[:10]) < 0).all()
    assert curve[9] == curve[12] > 0.2  # held after the last round
    assert cosine(1)(1) == 1
    assert cosine(5, final=0)(5) > 0  # no round without a step


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: warm_up(0), "rounds=0"),
        (lambda: warm_up(3, after=cosine), "after=cosine"),
        (lambda: cosine(2.5), "rounds=2.5"),
        (lambda: cosine(5, final=-0.1), "final=-0.1"),
        (lambda: step_decay(0), "every=0"),
        (lambda: step_decay(5, 0), "factor=0"),
        (lambda: step_decay(5, 1.5), "factor=1.5"),
        (lambda: Local(0.1, schedule=0.9), "schedule=0.9"),
        (lambda: Local(0.1, schedule=cosine), "schedule=cosine"),
        (lambda: Local(0.1, schedule=lambda t: 1.0 - t), r"schedule\(1\)=0.0 must be"),
        (lambda: Local(0.1, schedule=lambda t: None), r"schedule\(1\)=None must be"),
    ],
)
def test_what_is_no_schedule_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_a_bad_factor_later_names_its_round():
    with pytest.raises(ValueError, match=r"schedule\(3\)=-1 must be a finite number above 0"):
        Local(0.1, schedule=lambda t: 1 if t < 3 else -1).at(3)


def test_rounds_train_with_the_rate_of_the_round(short):
    """As three runs of a round each would, every one with its own constant rate."""
    halved = replace(short, local=replace(short.local, schedule=step_decay(1, 0.5)), rounds=3)
    seen = []
    for runs in stream(halved):
        seen.append(runs[0].w.clone())
    updates = stream(replace(short, rounds=3))
    for t, runs in enumerate(updates):
        assert (runs[0].w == seen[t]).all()
        rate = short.local.lr * 0.5**t  # of round t + 1
        runs[0].experiment = replace(runs[0].experiment, local=replace(short.local, lr=rate))


def test_clients_may_differ_in_their_schedules(short):
    data = short.data(0)
    decaying, two = (
        replace(short.local, schedule=warm_up(3)),
        replace(short.local, lr=short.local.lr / 3),
    )
    first_round = replace(short, data=data, rounds=1)
    mixed = run(
        replace(first_round, local=[decaying if i % 2 else two for i in range(data.num_clients)])
    )
    same = run(replace(first_round, local=two))
    assert (mixed.w[0] == same.w[0]).all()  # in round 1 a third of the rate either way


def test_a_checkpoint_goes_on_with_the_schedule(short, tmp_path):
    study = replace(short, local=replace(short.local, schedule=cosine(3)))
    whole = run(study)
    steps = stream(study, checkpoint=tmp_path / "run")
    next(steps), next(steps)
    steps.close()
    assert (run(study, checkpoint=tmp_path / "run").w[0] == whole.w[0]).all()
    with pytest.raises(ValueError, match="schedule"):
        run(
            replace(study, local=replace(short.local, schedule=cosine(4))),
            checkpoint=tmp_path / "run",
        )


COUNT = itertools.count(1)


@pytest.mark.parametrize("schedule", [lambda t: random.random(), lambda t: next(COUNT)])
def test_a_schedule_is_a_function_of_the_round(schedule):
    with pytest.raises(
        ValueError, match="schedule\\(1\\) must return the same factor when it is called again"
    ):
        Local(0.1, schedule=schedule)
