"""Predictions before the last block."""

from dataclasses import replace

import pytest
import torch

from fedlab.client import sequential
from fedlab.engine import initial, run
from fedlab.models import exit_early, with_exits
from fedlab.models.tabular import cross_entropy


def test_the_loss_is_that_of_the_exits_weighted(study):
    data = study.data(0)
    task = with_exits(data, (8, 16), weights=(1, 3))
    w = initial(task, 0)
    output = task.forward(w, data.x[:5])
    assert output.shape == (5, 20)
    first, last = (
        cross_entropy(output[:, :10], data.y[:5]),
        cross_entropy(output[:, 10:], data.y[:5]),
    )
    assert torch.allclose(task.loss(output, data.y[:5]), (first + 3 * last) / 4)
    assert (
        task.metrics["accuracy"](output, data.y[:5]) == (output[:, 10:].argmax(1) == data.y[:5])
    ).all()


@pytest.mark.slow
def test_both_engines_agree(study):
    short = replace(study, task=with_exits(study.data(0), (16, 32)), rounds=3)
    fast, slow = run(short), run(short, sequential)
    assert torch.allclose(fast.w[0], slow.w[0], atol=1e-5)


def test_who_is_sure_leaves_first():
    p = torch.tensor(
        [[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.2, 0.8]], [[0.5, 0.5], [0.45, 0.55]]]
    )  # [B, exits, classes]
    output = p.log().flatten(1)
    left, said = exit_early(output, 2, 0.8)
    assert left.tolist() == [0, 1, 1]
    assert said.tolist() == [0, 1, 1]
    assert exit_early(output, 2, 0.0)[0].tolist() == [0, 0, 0]
    assert exit_early(output, 2, 1.1)[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"hidden": ()},
            "hidden=() must have a layer (an exit follows each hidden layer). Try hidden=(32, 64)",
        ),
        (
            {"weights": [1.0]},
            "weights=[1.0] must be one number of at least 0 per exit, not all 0 (there are 3 "
            "exits). Try weights=[1.0, 1.0, 1.0]",
        ),
        (
            {"weights": [0.0] * 3},
            "weights=[0.0, 0.0, 0.0] must be one number of at least 0 per exit, not all 0 "
            "(there are 3 exits). Try weights=[1.0, 1.0, 1.0]",
        ),
    ],
)
def test_what_cannot_be_is_refused(study, wrong, message):
    with pytest.raises(ValueError, match=r".") as error:
        with_exits(study.data(0), **wrong)
    assert str(error.value) == message
