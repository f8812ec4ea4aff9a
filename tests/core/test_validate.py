"""Bad input is refused in one line, before anything is trained."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fedlab.client import batched
from fedlab.core import Experiment, FederatedDataset, Local
from fedlab.core import validate as checks
from fedlab.core.validate import check_examples, is_number
from fedlab.data import dirichlet
from fedlab.engine import run
from fedlab.models import classification, cnn, least_squares, logistic_regression, mlp, resnet
from fedlab.server import fedavg, fedprox, poisson, uniform, weighted_mean
from fedlab.study import compare, hold_out_examples


@pytest.mark.parametrize("value", [0, -1.5, np.float32(0.1), np.int64(3), Fraction(1, 3), 10**400])
def test_a_number(value):
    assert is_number(value)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("-inf"),
        np.float32("inf"),
        "0.1",
        None,
        [0.1],
        np.ones(1),
        1j,
        Decimal(1),
        torch.ones(()),
    ],
)
def test_no_number(value):
    assert not is_number(value)


# Datasets that nobody checked before

X = torch.arange(64.0).reshape(16, 4) / 64
Y = torch.arange(16) % 4
DATA = FederatedDataset(X, Y, np.split(np.arange(16), 4), (X[:6], Y[:6]), "four", tuple("abcd"))


def at(values, place, value):
    values = values.clone()
    values[place] = value
    return values


def parts(*lists, dtype=int):
    return [np.array(part, dtype=dtype) for part in lists]


BROKEN = {
    "a missing label": (
        {"y": Y[:-1]},
        "16 training examples and 15 labels must be equally many",
    ),
    "no test set": (
        {"test": (X[:0], Y[:0])},
        "0 test examples and 0 labels must be equally many, and at least one",
    ),
    "a missing test label": ({"test": (X[:6], Y[:5])}, "6 test examples and 5 labels"),
    "half a test set": (
        {"test": (X,)},
        r"test is a tuple of 1 and must be a pair \(x, y\). Try a share",
    ),
    "arrays": (
        {"x": X.numpy()},
        r"training x is a ndarray and must be a tensor \[n, \.\.\.\]. Try federate, which takes ",
    ),
    "one number for x": ({"test": (X[0, 0], Y)}, "test x is a single number and must be a tensor"),
    "NaN": (
        {"x": at(X, ([5, 9], [0, 0]), torch.nan)},
        r"training example 5, which client 1 holds, has non-finite features \(2 of 16 have\): "
        r"x\[5, 0\] is nan and must be finite. Try to fill them in, or to drop it",
    ),
    "infinity at nobody's": (
        {"x": at(X, 0, torch.inf), "parts": parts([1, 2])},
        r"training example 0 has non-finite features \(1 of 16",
    ),
    "NaN in the test set": (
        {"test": (at(X, 7, torch.nan), Y)},
        r"test example 7 has non-finite features \(1 of 16 have\)",
    ),
    "a target NaN": (
        {"y": at(Y.float(), 3, torch.nan)},
        "training example 3, which client 0 holds, has a non-finite label",
    ),
    "another shape": (
        {"test": (X[:, :3], Y)},
        r"training examples have the shape \[4\] and test ones \[3\]: they must be equal",
    ),
    "another precision": (
        {"test": (X.double(), Y)},
        r"training examples are of type torch\.float32 and test ones torch\.float64: "
        r"they must be equal",
    ),
    "another kind of label": (
        {"test": (X, Y.float())},
        r"training labels are of type torch\.int64 and test ones torch\.float32: "
        r"they must be equal",
    ),
    "no clients": ({"parts": []}, "none of the 0 clients holds an example"),
    "empty clients": (
        {"parts": parts([], [])},
        "none of the 2 clients holds an example, and one must .there is nothing to train on",
    ),
    "too far": (
        {"parts": parts([0], [3, 16])},
        "client 1 holds example 16, and there are 16: parts must be numbers from 0",
    ),
    "below 0": ({"parts": parts([-1, 2])}, "client 0 holds example -1, and there are 16"),
    "shared": (
        {"parts": parts([0], [1, 5], [5])},
        "example 5 is held by the clients 1 and 2: parts must be disjoint",
    ),
    "twice": ({"parts": parts([0], [5, 1, 5])}, "example 5 is held by client 1 twice"),
    "reals": (
        {"parts": parts([0, 1], dtype=float)},
        r"parts\[0\] is of shape \(2,\) and type float64 and must be an array \[n_i\]",
    ),
    "a mask": (
        {"parts": [np.arange(2), X[:, 0].numpy() > 0.5]},
        r"parts\[1\] is of shape \(16,\) and type bool",
    ),
    "bytes, which PyTorch takes for a mask": (
        {"parts": parts([0, 1], dtype=np.uint8)},
        r"parts\[0\] .* uint8",
    ),
    "lists": (
        {"parts": [[0, 1]]},
        r"parts\[0\] is list and must be an array \[n_i\] of numbers. "
        r"Try np\.array\(\.\.\., dtype=int\)",
    ),
    "a label below 0": (
        {"y": at(Y, 9, -1)},
        "the training label -1 is out of range: the model Sequential has 4 outputs",
    ),
    "a label too many": (
        {"y": at(Y, 9, 12)},
        "the training label 12 is out of range: the model Sequential has 4 outputs, for classes "
        "numbered from 0 to 3. Try more",
    ),
    "a test label too many": (
        {"test": (X, at(Y, 9, 11))},
        "the test label 11 is out of range: the model Sequential has 4",
    ),
}


def study(data, **fields):
    data_of = data(0) if callable(data) else data
    parts = Local(0.1, 4), fedavg(), weighted_mean, poisson(1.0)
    return replace(Experiment(data, mlp(replace(data_of, x=X), (5,)), *parts, rounds=2), **fields)


def nobody_trains(*args):
    raise AssertionError("it was to be refused before")


@pytest.mark.parametrize("name", BROKEN)
def test_a_dataset_that_cannot_be_trained_on_is_refused_in_a_line(name):
    change, message = BROKEN[name]
    with pytest.raises(ValueError, match=message) as caught:
        run(study(replace(DATA, **change)), nobody_trains)
    assert "\n" not in str(caught.value)


def test_a_model_with_fewer_outputs_than_classes_is_refused():
    small = classification(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    with pytest.raises(
        ValueError, match="the training label 3 is out of range: the model Sequential has 3 outputs"
    ):
        run(study(DATA, task=small), nobody_trains)


def test_what_is_no_dataset_is_refused():
    for data in ((X, Y), lambda seed: None):
        with pytest.raises(
            ValueError,
            match=r"data is (tuple|NoneType) and must be a FederatedDataset, or a function",
        ):
            run(replace(study(DATA), data=data), nobody_trains)


@pytest.mark.parametrize(
    "data",
    [
        replace(DATA, parts=parts([1, 2], [], [15])),  # some are nobody's
        replace(DATA, parts=np.arange(16).reshape(4, 4)),
        replace(DATA, parts=parts([1, 2], [3], dtype=np.int32)),
        replace(
            DATA, x=at(X, 0, 3e38).expand(16, 4).clone(), test=(X, Y)
        ),  # finite, though their sum is not
        hold_out_examples(DATA, 0.5),
    ],
)
def test_what_is_legal_trains(data):
    backend = batched if data.x.max() < 2 else lambda task, x, y, work: batched(task, X, y, work)
    assert run(study(data), backend).w[0].isfinite().all()


def test_real_targets_need_no_classes():
    data = replace(DATA, y=-X[:, 0], test=(X, -X[:, 0]), classes=())
    assert run(replace(study(DATA), data=data, task=least_squares(data))).w[0].isfinite().all()


def test_a_dataset_is_looked_at_once(monkeypatch):
    """By five seeds and two methods; a copy is another one."""
    seen = []
    monkeypatch.setattr(
        "fedlab.engine.start.check_examples",
        lambda name, *rest: (seen.append(name), check_examples(name, *rest)),
    )
    data = replace(DATA)
    compare(study(data), seeds=5, algorithm={"FedAvg": fedavg(), "FedProx": fedprox()})
    assert seen == ["training", "test"]
    run(study(replace(data)))
    assert len(seen) == 4


# Functions that were not called, and settings that are no numbers

SETTINGS = {
    "lr infinite": (
        lambda: Local(float("inf")),
        "lr=inf must be finite and above 0. Try 0.1",
    ),
    "lr as text": (lambda: Local("0.1"), "lr='0.1' must be finite and above 0"),
    "no lr": (lambda: Local(None), "lr=None must be"),
    "decay infinite": (
        lambda: Local(0.1, weight_decay=float("inf")),
        "weight_decay=inf must be finite and at least 0. Try",
    ),
    "momentum as text": (
        lambda: Local(0.1, momentum="0.9"),
        "momentum='0.9' must be at least 0 and below 1",
    ),
    "rounds": (lambda: study(DATA, rounds=2.5), "rounds=2.5 must be a whole number of at least 1"),
    "eval_every": (
        lambda: study(DATA, eval_every=1.5),
        "eval_every=1.5 must be a whole number of at least 1",
    ),
    "algorithm": (
        lambda: study(DATA, algorithm=fedavg),
        r"algorithm=fedavg must be the result of a call. Try fedavg\(\)",
    ),
    "sample": (
        lambda: study(DATA, sample=uniform),
        r"sample=uniform must be the result of a call. Try uniform\(10\)",
    ),
    "a number for a sampler": (
        lambda: study(DATA, sample=10),
        "sample=10 must be the result of a call",
    ),
    "device": (
        lambda: run(study(DATA), nobody_trains, device="tpu"),
        "device='tpu' must be a device that PyTorch has on this machine. "
        "Try device='auto' or 'cpu'",
    ),
    "device by number": (
        lambda: run(study(DATA), nobody_trains, device=77),
        "device=77 must be a device that PyTorch has on this machine",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_refused_in_a_line(name):
    act, message = SETTINGS[name]
    with pytest.raises(ValueError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            [2, 0, 2],
            "sample gave client 2 twice in round 1, and must give different clients .* from 0 to 3",
        ),
        ([0, 4], "sample gave client 4 in round 1"),
        (np.array([-1, 2]), "sample gave client -1 in round 1"),
        (np.array([0.0, 2.0]), r"sample gave numbers of shape \[2\] and type float64 in round 1"),
        (np.array([True, False, True, False]), r"sample gave numbers of shape \[4\] and type bool"),
        (np.zeros((2, 1), int), r"sample gave numbers of shape \[2, 1\] and type int64"),
        (None, r"sample gave numbers of shape \[\] and type object"),
        ([1, None], r"sample gave numbers of shape \[2\] and type object"),
    ],
)
def test_a_cohort_that_is_none_is_refused(ids, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(study(DATA, sample=lambda sizes, t, generator: ids), nobody_trains)
    assert "\n" not in str(caught.value)


def test_a_cohort_may_come_in_any_order_and_be_empty():
    def sample(sizes, t, generator):
        return [3, 1] if t == 1 else []

    clients = run(study(DATA, sample=sample)).clients
    assert clients["client"].tolist() == [1, 3]
    same = run(
        study(DATA, sample=lambda sizes, t, generator: np.array([1, 3][: 4 - 2 * t]))
    ).clients
    assert clients.equals(same)


@pytest.mark.parametrize("model", [mlp, logistic_regression, cnn, resnet])
def test_a_classifier_wants_classes(model):
    data = replace(DATA, x=X.repeat(1, 4), y=X[:, 0], test=(X.repeat(1, 4), X[:, 0]), classes=())
    message = (
        r"the data must have classes \(labels have the type torch\.float32, .*\). "
        r"Try to name them in classes=, or least_squares"
    )
    with pytest.raises(ValueError, match=message):
        model(data)


def test_makers_are_known_by_what_they_say_they_return():
    """Of the split that is not called; partial and lambda are functions like any other."""
    with pytest.raises(
        ValueError, match=r"split=dirichlet must be the result of a call. Try iid\(\)"
    ):
        checks.check_function("Split", "iid()", split=dirichlet)
    checks.check_function(
        "Split", "iid()", split=dirichlet(0.1), other=partial(min, 0), third=lambda y, n, g: []
    )
