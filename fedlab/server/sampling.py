"""Who takes part in a round."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Sampler = Callable[[int, np.random.Generator], np.ndarray]


def uniform(cohort_size: int) -> Sampler:
    """``cohort_size`` different clients, all equally likely; gives their numbers, ascending."""
    if cohort_size < 1:
        raise ValueError(f"cohort_size={cohort_size}: a cohort has at least one client")

    def sample(num_clients, generator):
        if cohort_size > num_clients:
            raise ValueError(f"cohort_size={cohort_size} is more than the {num_clients} clients: take at most {num_clients}")
        return np.sort(generator.choice(num_clients, cohort_size, replace=False))

    return sample
