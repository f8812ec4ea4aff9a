"""Aggregates: functions from the updates of a cohort to one row.

``aggregate(delta [m, d], weights [m]) -> [d]``, with weights of at least 0. An aggregate with a
third parameter named ``cohort`` also receives the round, the seed and the client numbers. Take
noise from ``cohort.generator("noise")``, so that it is the same whenever the round is run again.

Every aggregate returns zeros for an empty cohort. It ignores clients of weight 0 and the order of
the others, and leaves its inputs unchanged. A mean is also linear in the rows. A robust rule is
also bounded: a minority of clients moves the result by no more than the others' rows allow, however
large its own rows are. ``tests/test_contracts.py`` holds each aggregate to these laws.
"""

from torch import Tensor

from fedlab.core import weighted_sum


def weighted_mean(delta: Tensor, weights: Tensor) -> Tensor:
    """Average updates by weight: ``sum_i p_i delta_i``.

    ``p_i = weights_i / sum(weights)``; the result is zeros if all weights are 0.

    Example:
        >>> import torch
        >>> updates = torch.tensor([[1.0, 0.0], [4.0, 3.0]])
        >>> weighted_mean(updates, torch.tensor([200.0, 100.0])).tolist()
        [2.0, 1.0]
    """
    total = weights.sum()
    if total == 0:  # an empty cohort, or clients without examples
        return delta.new_zeros(delta.shape[1])
    return weighted_sum(weights / total, delta)


def mean(delta: Tensor, weights: Tensor) -> Tensor:
    """Average all updates of positive weight equally; for a cohort drawn ``by_size``.

    Example:
        >>> import torch
        >>> updates = torch.tensor([[1.0, 0.0], [4.0, 3.0]])
        >>> mean(updates, torch.tensor([200.0, 100.0])).tolist()
        [2.5, 1.5]
    """
    return weighted_mean(delta, (weights > 0).to(delta.dtype))


LINEAR_AGGREGATES = (weighted_mean, mean)  # rounding of updates stays rounding in their results


def majority_vote(delta: Tensor, weights: Tensor) -> Tensor:
    """Return the sign that most clients have, for each parameter: +1, -1, or 0 in a tie.

    Every client of positive weight has one vote. The algorithm's ``server_lr`` is then the distance
    that every parameter moves. Bernstein et al. 2018, Algorithm 3.

    Example:
        >>> import torch
        >>> votes = torch.tensor([[0.1, -5.0], [2.0, 1.0], [0.3, 1.0]])
        >>> majority_vote(votes, torch.ones(3)).tolist()
        [1.0, 1.0]
    """
    return ((weights > 0).to(delta.dtype) @ delta.sign()).sign()
