"""Hidden units as places in a row, and models side by side."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from fedlab.core import views
from fedlab.data import load
from fedlab.engine import initial
from fedlab.models import (
    classification,
    cnn,
    first_units,
    hidden_units,
    logistic_regression,
    mlp,
    model_masks,
    resnet,
    shrink,
    side_by_side,
    unit_mask,
)

DIGITS = load("digits", 5)


def test_what_a_unit_owns_by_hand():
    task = mlp(DIGITS, hidden=(3, 2))
    mask = views(unit_mask(task, [[0, 2], [1]]), task.shapes)
    assert mask["1.weight"].sum(1).tolist() == [64, 0, 64]
    assert mask["1.bias"].tolist() == [1, 0, 1]
    assert mask["3.weight"].tolist() == [[0, 0, 0], [1, 0, 1]]
    assert mask["3.bias"].tolist() == [0, 1]
    assert mask["5.weight"].tolist() == [[0, 1]] * 10
    assert mask["5.bias"].tolist() == [1] * 10


def test_a_channel_owns_as_many_columns_of_the_next_layer_as_it_has_pixels():
    task = cnn(DIGITS)
    assert hidden_units(task) == (32, 64, 512)
    mask = views(unit_mask(task, [[3], [0, 5], range(512)]), task.shapes)
    first, second, third, _ = (p for p in mask.values() if p.dim() > 1)
    assert first.flatten(1).sum(1).nonzero().tolist() == [[3]]
    assert second.sum((2, 3)).nonzero().tolist() == [[0, 3], [5, 3]]
    pixels = third.shape[1] // 64
    assert third[0].nonzero().flatten().tolist() == [*range(pixels), *range(5 * pixels, 6 * pixels)]


def test_all_units_are_the_model():
    for task in (mlp(DIGITS), cnn(DIGITS), logistic_regression(DIGITS)):
        assert unit_mask(task, first_units(task, 1)).all()


@pytest.mark.parametrize("model", [mlp, cnn])
def test_smaller_models_are_parts_of_larger_ones(model):
    task = model(DIGITS)
    masks = [unit_mask(task, first_units(task, rate)) for rate in (0.01, 0.3, 0.5, 1)]
    for small, large in pairwise(masks):
        assert ((small == 1) <= (large == 1)).all()
        assert small.sum() < large.sum()
    assert [len(units) for units in first_units(task, 0.5)] == [
        units // 2 for units in hidden_units(task)
    ]
    assert all(len(units) >= 1 for units in first_units(task, 1e-9))


@pytest.mark.parametrize("model", [mlp, cnn])
def test_a_model_without_some_units_is_the_smaller_model(model):
    task = model(DIGITS)
    w = initial(task, 0) * unit_mask(task, first_units(task, 0.25))
    small, row = shrink(task, w)
    assert hidden_units(small) == tuple(-(-units // 4) for units in hidden_units(task))
    assert len(row) < 0.3 * len(w)
    assert sum(p.numel() for p in small.model().parameters()) == len(row)
    x = DIGITS.test[0][:30]
    torch.testing.assert_close(small.forward(row, x), task.forward(w, x), atol=1e-5, rtol=1e-5)
    again, same = shrink(small, row)
    assert hidden_units(again) == hidden_units(small)
    assert torch.equal(same, row)


def test_units_that_nothing_reads_go_too_and_biases_alone_stay():
    task = mlp(DIGITS, hidden=(4,))
    w = torch.ones(sum(shape.numel() for shape in task.shapes.values()))
    parts = views(w, task.shapes)
    parts["3.weight"][:, 1] = 0  # unit 1 is on, and nothing reads it
    parts["1.weight"][2] = 0  # unit 2 is its bias
    small, _ = shrink(task, w)
    assert hidden_units(small) == (3,)
    nothing, row = shrink(task, w * 0)
    assert hidden_units(nothing) == (1,)
    assert nothing.forward(row, DIGITS.x[:2]).tolist() == [[0] * 10] * 2


def test_a_unit_read_only_by_one_that_nothing_reads_goes_too():
    task = mlp(DIGITS, hidden=(4, 3))
    w = torch.ones(sum(shape.numel() for shape in task.shapes.values()))
    parts = views(w, task.shapes)
    parts["3.weight"][:2, 0] = 0  # unit 0 is read by unit 2 alone
    parts["5.weight"][:, 2] = 0  # which nothing reads
    small, row = shrink(task, w)
    assert hidden_units(small) == (3, 2)
    torch.testing.assert_close(small.forward(row, DIGITS.x[:3]), task.forward(w, DIGITS.x[:3]))


def test_as_many_units_as_a_rate_asks_for_rounded_up():
    assert [len(units) for units in first_units(mlp(DIGITS, hidden=(3, 10)), 0.5)] == [2, 5]
    assert [len(units) for units in first_units(mlp(DIGITS, hidden=(3, 10)), 1e-12)] == [1, 1]


def test_models_side_by_side_are_each_their_own_under_their_masks():
    tasks = [mlp(DIGITS, hidden=(8,)), cnn(DIGITS), resnet(DIGITS, width=4)]
    both, x = side_by_side(*tasks), DIGITS.x[:7]
    masks = model_masks(both)
    assert masks.sum(0).tolist() == [1] * masks.shape[1], "a partition"
    w = initial(both, 3)
    for task, mask in zip(tasks, masks, strict=True):
        torch.testing.assert_close(
            both.forward(w * mask, x), task.forward(w[mask == 1], x), atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(
        both.forward(w, x), sum(both.forward(w * mask, x) for mask in masks), atol=1e-5, rtol=1e-5
    )
    assert model_masks(tasks[0]).all()


def chain(*layers):
    return classification(lambda: copy.deepcopy(nn.Sequential(*layers)))


REFUSED = {
    "a residual network": (
        lambda: hidden_units(resnet(DIGITS)),
        r"GroupNorm at '\d' must be a linear layer, a convolution or",
    ),
    "a sigmoid": (
        lambda: hidden_units(
            classification(lambda: nn.Sequential(nn.Linear(64, 9), nn.Sigmoid(), nn.Linear(9, 10)))
        ),
        r"Sigmoid at '1' must be a linear layer, a convolution or",
    ),
    "pictures made of units": (
        lambda: hidden_units(
            chain(
                nn.Linear(64, 16),
                nn.Unflatten(1, (1, 4, 4)),
                nn.Conv2d(1, 2, 3),
                nn.Flatten(),
                nn.Linear(8, 10),
            )
        ),
        r"Unflatten at '1' must be a linear layer, a convolution or",
    ),
    "columns that are no channels": (
        lambda: hidden_units(
            chain(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3), nn.Linear(6, 9), nn.Flatten())
        ),
        r"Linear at '2' must follow .*\(convolutions come first, then nn.Flatten, then linear",
    ),
    "no chain": (
        lambda: hidden_units(side_by_side(mlp(DIGITS), mlp(DIGITS))),
        r"must be an nn.Sequential of layers \(.*, and this is a SummedModels\)",
    ),
    "a frozen layer": (
        lambda: hidden_units(
            classification(
                lambda: nn.Sequential(
                    nn.Linear(64, 9).requires_grad_(False), nn.ReLU(), nn.Linear(9, 10)
                )
            )
        ),
        "do not train",
    ),
    "no units": (lambda: first_units(mlp(DIGITS), 0), r"rate=0 must be above 0 and at most 1"),
    "too few lists": (
        lambda: unit_mask(mlp(DIGITS), [[0]]),
        r"one list per hidden layer \(it has 1, and the model 2 hidden layers\)",
    ),
    "no such unit": (
        lambda: unit_mask(mlp(DIGITS), [[0], [200]]),
        r"numbers from 0 to 199 for a layer \(it has unit 200\)",
    ),
    "one model": (
        lambda: side_by_side(mlp(DIGITS)),
        r"side_by_side must have two or more tasks \(it has 1\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        make()
