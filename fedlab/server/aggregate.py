"""From rows to one vector: ``aggregate(delta [m, d], weights [m]) -> [d]``, the weights not negative.

An aggregate with a third parameter, named ``cohort``, also receives the round, the seed and the clients' numbers.  Noise
comes from ``cohort.generator("noise")``, so that it is the same whenever the round is run again.

Every aggregate returns zeros for an empty cohort, ignores clients of weight 0 and the order of the others, and leaves its
inputs as they are.  A mean is also linear in the rows.  A robust rule is also bounded: a minority of clients moves the
result by no more than the others' rows allow, however large its own rows are.  ``tests/test_contracts.py`` holds each
aggregate to these laws.
"""

from torch import Tensor

from fedlab.core import weighted_sum


def weighted_mean(delta: Tensor, weights: Tensor) -> Tensor:
    """``sum_i p_i delta_i`` with ``p_i = weights_i / sum(weights)``; zeros when nobody weighs anything."""
    total = weights.sum()
    if total == 0:  # an empty cohort, or one of empty clients
        return delta.new_zeros(delta.shape[1])
    return weighted_sum(weights / total, delta)


def mean(delta: Tensor, weights: Tensor) -> Tensor:
    """Everyone who weighs anything counts alike, whatever the algorithm's weights: for a cohort drawn ``by_size``."""
    return weighted_mean(delta, (weights > 0).to(delta.dtype))


LINEAR_AGGREGATES = (weighted_mean, mean)  # through which rounding stays rounding


def majority_vote(delta: Tensor, weights: Tensor) -> Tensor:
    """The sign that most clients have, number by number: +1, -1, or 0 in a tie.  Bernstein et al. 2018, Algorithm 3.

    Everyone who weighs anything has one vote; the algorithm's ``server_lr`` is then how far every parameter moves.
    """
    return ((weights > 0).to(delta.dtype) @ delta.sign()).sign()
