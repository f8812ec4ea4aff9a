"""From rows to one vector."""

from torch import Tensor


def weighted_mean(delta: Tensor, weights: Tensor) -> Tensor:
    """``sum_i p_i delta_i`` with ``p_i = weights_i / sum(weights)``; zeros when nobody weighs anything.

    ``delta [m, d]``, ``weights [m]`` (not negative) -> ``[d]``.
    """
    total = weights.sum()
    if total == 0:  # an empty cohort, or one of empty clients
        return delta.new_zeros(delta.shape[1])
    return (weights / total) @ delta
