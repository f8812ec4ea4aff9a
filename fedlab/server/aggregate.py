"""From rows to one vector: ``aggregate(delta [m, d], weights [m]) -> [d]``, the weights not negative."""

from torch import Tensor


def weighted_mean(delta: Tensor, weights: Tensor) -> Tensor:
    """``sum_i p_i delta_i`` with ``p_i = weights_i / sum(weights)``; zeros when nobody weighs anything."""
    total = weights.sum()
    if total == 0:  # an empty cohort, or one of empty clients
        return delta.new_zeros(delta.shape[1])
    return (weights / total) @ delta


def mean(delta: Tensor, weights: Tensor) -> Tensor:
    """Everyone who weighs anything counts alike, whatever the algorithm's weights: for a cohort drawn ``by_size``."""
    return weighted_mean(delta, (weights > 0).to(delta.dtype))
