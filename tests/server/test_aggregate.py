import pytest
import torch

from fedlab.server import majority_vote, mean, weighted_mean

DELTA = torch.tensor([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]])


def test_weighted_mean():
    assert weighted_mean(DELTA, torch.tensor([1.0, 3.0, 0.0])).tolist() == [2.5, 3.5]


def test_mean_counts_alike_whoever_weighs_anything():
    assert mean(DELTA, torch.tensor([1.0, 3.0, 0.0])).tolist() == [2, 3]


def test_in_a_majority_vote_everyone_has_one_voice():
    delta = torch.tensor(
        [
            [9.0, -1.0, 0.0, 2.0],
            [-0.1, -5.0, 1.0, -2.0],
            [-0.2, 7.0, 0.0, 0.0],
            [1.0, 1.0, -9.0, -9.0],
        ]
    )
    assert majority_vote(delta, torch.tensor([100.0, 1.0, 2.0, 0.0])).tolist() == [-1, -1, 1, 0]


@pytest.mark.parametrize("aggregate", [weighted_mean, mean, majority_vote])
def test_nothing_is_no_change(aggregate):
    assert aggregate(torch.ones(2, 3), torch.zeros(2)).tolist() == [0, 0, 0]
    assert aggregate(torch.ones(0, 3), torch.zeros(0)).tolist() == [0, 0, 0]
