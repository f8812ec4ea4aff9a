"""Training that starts at a model, and stays close to its predictions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know

from fedlab.client import sequential
from fedlab.engine import evaluate, initial, run
from fedlab.models import starting_at, without_forgetting


def test_every_seed_begins_there(study):
    w = torch.arange(len(initial(study.task, 0)), dtype=torch.float32) / 1e4
    task = starting_at(study.task, w)
    assert torch.equal(initial(task, 0), w)
    assert torch.equal(initial(task, 5), w)
    first = run(replace(study, task=task, rounds=1)).rounds.iloc[0]
    assert first["loss"] == pytest.approx(evaluate(study.task, w, study.data(0))["loss"])


def test_two_short_runs_are_one_long_one_where_nothing_is_kept(study):
    half = run(replace(study, rounds=5))
    again = run(replace(study, task=starting_at(study.task, half.w[0]), rounds=5))
    assert not torch.equal(again.w[0], half.w[0])
    assert again.rounds["loss"].iloc[0] == pytest.approx(half.rounds["loss"].iloc[-1], rel=1e-6)


def test_the_loss_is_the_formula(study):
    data, w = study.data(0), initial(study.task, 0)
    old = w * 1.5
    task = without_forgetting(study.task, old, weight=0.7, temperature=3.0, classes=[1, 4, 5])
    x, y = data.x[:6], data.y[:6]
    new = study.task.forward(w, x)
    before = study.task.forward(old, x)[:, [1, 4, 5]] / 3
    p, q = F.softmax(before, 1), F.softmax(new[:, [1, 4, 5]] / 3, 1)
    want = study.task.loss(new, y) + 0.7 * 9 * (p * (p.log() - q.log())).sum(1)
    assert torch.allclose(task.loss(task.forward(w, x), y), want, atol=1e-5)
    assert evaluate(task, w, data)["accuracy"] == evaluate(study.task, w, data)["accuracy"]


def test_where_it_stands_it_is_held_to_nothing(study):
    data, w = study.data(0), initial(study.task, 3)
    task = without_forgetting(study.task, w, weight=5.0)
    assert torch.equal(initial(task, 0), w)
    x, y = data.x[:6], data.y[:6]
    assert torch.allclose(
        task.loss(task.forward(w, x), y), study.task.loss(study.task.forward(w, x), y), atol=1e-6
    )


def test_only_the_new_one_learns_and_both_engines_agree(study):
    w = initial(study.task, 1)
    held = replace(study, task=without_forgetting(study.task, w), rounds=3)
    assert len(initial(held.task, 0)) == len(w)
    fast, slow = run(held), run(held, sequential)
    assert torch.allclose(fast.w[0], slow.w[0], atol=1e-5)
    free = run(replace(study, task=starting_at(study.task, w), rounds=3))
    stays = (fast.w[0] - w).norm() < (free.w[0] - w).norm()
    assert stays, "who is held to the old model moves less"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"weight": -1},
            "weight=-1 must be a number of at least 0 (it multiplies a loss). Try 1, as in the "
            "paper",
        ),
        (
            {"temperature": 0},
            "temperature=0 must be a number above 0 (logits are divided by it). Try 2, as in the "
            "paper",
        ),
    ],
)
def test_what_cannot_be_is_refused(study, wrong, message):
    with pytest.raises(ValueError, match=r".") as error:
        without_forgetting(study.task, initial(study.task, 0), **wrong)
    assert str(error.value) == message
