import numpy as np
import pytest
import torch

from fedlab.records import Cohort, Updates
from fedlab.rng import generator
from fedlab.server import fedavg, uniform, weighted_mean


def test_uniform_draws_different_clients_all_alike():
    draws = np.stack([uniform(3)(10, generator(0, t)) for t in range(4000)])
    assert all(len(set(row)) == 3 for row in draws.tolist())
    assert (np.diff(draws, axis=1) > 0).all()
    counts = np.bincount(draws.ravel(), minlength=10)
    assert abs(counts - 1200).max() < 4.5 * np.sqrt(4000 * 0.3 * 0.7), "each is drawn with probability 3/10"


def test_a_cohort_must_fit():
    with pytest.raises(ValueError, match=r"cohort_size=11 is more than the 10 clients: take at most 10"):
        uniform(11)(10, generator(0))
    with pytest.raises(ValueError, match=r"cohort_size=0"):
        uniform(0)
    assert uniform(10)(10, generator(0)).tolist() == list(range(10))


def test_weighted_mean():
    delta = torch.tensor([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]])
    mean = weighted_mean(delta, torch.tensor([1.0, 3.0, 0.0]))
    assert mean.tolist() == [2.5, 3.5]


def test_weighted_mean_of_nothing_is_no_change():
    assert weighted_mean(torch.ones(2, 3), torch.zeros(2)).tolist() == [0, 0, 0]
    assert weighted_mean(torch.ones(0, 3), torch.zeros(0)).tolist() == [0, 0, 0]


def test_fedavg_is_its_formula():
    delta, n = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 3.0])
    updates = Updates(delta, n, torch.ones(2), torch.ones(2), torch.ones(2))
    cohort = Cohort(np.array([4, 7]), 1, 0, 10)
    for server_lr in (1.0, 0.5):
        method = fedavg(server_lr)
        rows, weights = method.rows(updates, cohort)
        w, _ = method.step(torch.tensor([1.0, 1.0]), None, cohort, updates, weighted_mean(rows, weights))
        assert w.tolist() == [1 + server_lr * 0.25, 1 + server_lr * 0.75]
    with pytest.raises(ValueError, match="server_lr=0"):
        fedavg(0)
