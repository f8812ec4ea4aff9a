"""Who takes part in a round.

Each function here gives a ``Sampler``, ``sample(sizes [N], round, generator) -> ids``: the numbers of different clients,
ascending; ``sizes`` are the examples that the clients hold, ``round`` counts from 1.  A cohort may be empty.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedlab.core.validate import check_function, check_whole, is_number

Sampler = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def uniform(cohort_size: int) -> Sampler:
    """``cohort_size`` different clients, all equally likely."""
    check_whole(1, cohort_size=cohort_size)

    def sample(sizes, round, generator):
        _check_fits(cohort_size, len(sizes), "clients")
        return np.sort(generator.choice(len(sizes), cohort_size, replace=False))

    return sample


def with_examples(sample: Sampler) -> Sampler:
    """Draw among the clients that hold training examples, and leave those out that never train.

    Args:
        sample: Sampler that sees these clients only, such as ``uniform(10)``.

    Returns:
        A sampler of client numbers among all clients.

    Raises:
        ValueError: If ``sample`` is not the result of a call, or asks for more clients than hold examples.

    Example:
        >>> draw = with_examples(uniform(2))
        >>> draw(np.array([5, 0, 3, 0]), 1, np.random.default_rng(0)).tolist()
        [0, 2]
    """
    check_function("Sampler", "uniform(10)", sample=sample)

    def draw(sizes, round, generator):
        ids = np.flatnonzero(sizes)
        return ids[sample(sizes[ids], round, generator)]

    draw.by_size = getattr(sample, "by_size", False)
    return draw


def poisson(rate: float) -> Sampler:
    """Each client with probability ``rate``, independently of the others: cohorts differ in size, and may be empty.

    What the privacy accounting of DP-SGD assumes (Abadi et al. 2016; McMahan et al. 2018 for clients).
    """
    if not (is_number(rate) and 0 < rate <= 1):
        raise ValueError(
            f"rate={rate!r}: each client takes part with a probability above 0 and at most 1; try 0.1"
        )

    def sample(sizes, round, generator):
        return np.flatnonzero(generator.random(len(sizes)) < rate)

    return sample


def by_size(cohort_size: int) -> Sampler:
    """``cohort_size`` different clients, client i with probability K n_i / n; who would pass 1 is always taken.

    Give ``aggregate=mean`` with it: the mean of the cohort's updates is then, on average, the mean by size of everyone's
    (Li et al. 2020, FedProx, Algorithm 2), where ``weighted_mean`` would count the sizes twice.

    Exact probabilities without replacement by Madow 1949: clients in random order lie along a line, each as long as its
    probability, and points at distance 1, shifted at random, pick them.
    """
    check_whole(1, cohort_size=cohort_size)

    def sample(sizes, round, generator):
        ids = generator.permutation(np.flatnonzero(sizes))
        _check_fits(cohort_size, len(ids), "clients that hold something")
        p = _inclusion(sizes[ids].astype(float), cohort_size)
        sure, ids, p = ids[p >= 1], ids[p < 1], p[p < 1]
        points = generator.random() + np.arange(cohort_size - len(sure))
        picked = np.searchsorted(np.cumsum(p), points, side="right")
        return np.sort(
            np.concatenate([sure, ids[np.minimum(picked, len(ids) - 1)]])
        )  # rounding may pass the line's end

    sample.by_size = True  # for algorithms that weigh by size themselves
    return sample


def by_availability(
    cohort_size: int, present: float | np.ndarray | Callable[[int], float | np.ndarray]
) -> Sampler:
    """Clients are there with probability ``present``; of those, ``cohort_size`` equally likely, or all when they are fewer.

    ``present`` is one number, one a client ``[N]``, or a function of the round that gives either, such as ``day_and_night``.
    """
    check_whole(1, cohort_size=cohort_size)
    if not callable(present):
        _check_present(present)

    def sample(sizes, round, generator):
        now = present(round) if callable(present) else present
        _check_present(now)
        if np.ndim(now) and len(now) != len(sizes):
            raise ValueError(
                f"present has {len(now)} probabilities and there are {len(sizes)} clients: give one a client"
            )
        there = np.flatnonzero(generator.random(len(sizes)) < now)
        return np.sort(generator.choice(there, min(cohort_size, len(there)), replace=False))

    return sample


def day_and_night(
    num_clients: int, *, rounds_per_day: int = 24, awake: float = 1.0, asleep: float = 0.0
):
    """A rhythm for ``by_availability``: the first half of the clients by day, the others by night (Eichner et al. 2019).

    Gives ``present(round) -> [N]``: ``awake`` for those whose half of the day it is, ``asleep`` for the others.
    """
    check_whole(1, num_clients=num_clients)
    check_whole(2, rounds_per_day=rounds_per_day)  # a day and a night
    _check_present([awake, asleep])
    by_day = np.arange(num_clients) < num_clients / 2

    def present(round):
        day = (round - 1) % rounds_per_day < rounds_per_day / 2
        return np.where(by_day == day, awake, asleep)

    return present


def _inclusion(sizes: np.ndarray, k: int) -> np.ndarray:
    """Probabilities proportional to ``sizes`` (all above 0) that sum to ``k``, none above 1."""
    sure = np.zeros(len(sizes), bool)
    while True:
        p = np.where(sure, 1.0, (k - sure.sum()) * sizes / max(sizes[~sure].sum(), 1))
        over = (p > 1 - 1e-9) & ~sure
        if not over.any():
            return p
        sure |= over


def _check_fits(cohort_size: int, limit: int, what: str) -> None:
    if cohort_size > limit:
        raise ValueError(
            f"cohort_size={cohort_size} is more than the {limit} {what}: take at most {limit}"
        )


def _check_present(present: float | np.ndarray) -> None:
    wrong = [p for p in np.ravel(present) if not (is_number(p) and 0 <= p <= 1)]
    if wrong:
        raise ValueError(f"present={wrong[0]}: a client is there with a probability from 0 to 1")
