"""Samplers: the clients that take part in a round.

Each function here returns a ``Sampler``, ``sample(sizes [N], round, generator) -> ids``: numbers of
different clients, ascending. ``sizes`` are the examples that each client holds, and ``round``
counts from 1. A cohort may be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedlab.core.validate import check_function, check_whole, is_number

Sampler = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
Probabilities = float | np.ndarray  # one for all clients, or one per client ``[N]``


def uniform(cohort_size: int) -> Sampler:
    """Draw different clients, all equally likely.

    Args:
        cohort_size: Clients per round, at least 1 and at most all.

    Example:
        >>> draw = uniform(3)
        >>> draw(np.ones(10), 1, np.random.default_rng(0)).tolist()
        [5, 6, 9]
    """
    check_whole(1, cohort_size=cohort_size)

    def sample(sizes, round, generator):
        _check_fits(cohort_size, len(sizes), "clients")
        return np.sort(generator.choice(len(sizes), cohort_size, replace=False))

    return sample


def with_examples(sample: Sampler) -> Sampler:
    """Draw among the clients that hold training examples.

    Args:
        sample: Sampler that sees these clients only, such as ``uniform(10)``.

    Returns:
        A sampler of client numbers among all clients.

    Raises:
        ValueError: If ``sample`` is not the result of a call, or asks for more clients than hold
            examples.

    Example:
        >>> draw = with_examples(uniform(2))
        >>> draw(np.array([5, 0, 3, 0]), 1, np.random.default_rng(0)).tolist()
        [0, 2]
    """
    check_function("Sampler", "uniform(10)", sample=sample)

    def draw(sizes, round, generator):
        ids = np.flatnonzero(sizes)
        return ids[sample(sizes[ids], round, generator)]

    return _marked(draw, by_size=getattr(sample, "by_size", False))


def poisson(rate: float) -> Sampler:
    """Draw each client with the same probability, independently of the others.

    Cohorts differ in size, and may be empty. The privacy accounting of DP-SGD assumes this (Abadi
    et al. 2016; McMahan et al. 2018 for clients).

    Args:
        rate: Probability above 0 and at most 1.

    Example:
        >>> draw = poisson(0.3)
        >>> draw(np.ones(10), 1, np.random.default_rng(0)).tolist()
        [1, 2, 3]
    """
    if not (is_number(rate) and 0 < rate <= 1):
        raise ValueError(f"rate={rate!r} must be above 0 and at most 1 (a probability). Try 0.1")

    def sample(sizes, round, generator):
        return np.flatnonzero(generator.random(len(sizes)) < rate)

    return sample


def by_size(cohort_size: int) -> Sampler:
    """Draw different clients with probability ``K n_i / n``.

    Clients whose probability would pass 1 always take part. Use it with ``aggregate=mean``: the
    mean of the cohort's updates is then, on average, the mean of all clients by size (Li et al.
    2020, FedProx, Algorithm 2); ``weighted_mean`` would count sizes twice.

    The probabilities are exact without replacement, by Madow 1949. Clients in random order lie
    along a line, each as long as its probability. Points at distance 1, shifted at random, select
    them.

    Args:
        cohort_size: Clients K per round, at least 1 and at most those that hold examples.

    Example:
        >>> draw = by_size(2)
        >>> draw(np.array([100, 1, 1, 1]), 1, np.random.default_rng(0)).tolist()
        [0, 2]
    """
    check_whole(1, cohort_size=cohort_size)

    def sample(sizes, round, generator):
        ids = generator.permutation(np.flatnonzero(sizes))
        _check_fits(cohort_size, len(ids), "clients that hold examples")
        p = _inclusion(sizes[ids].astype(float), cohort_size)
        certain, ids = ids[p >= 1], ids[p < 1]
        points = generator.random() + np.arange(cohort_size - len(certain))
        selected = np.searchsorted(np.cumsum(p[p < 1]), points, side="right")
        # Rounding may put a point behind the end of the line.
        return np.sort(np.concatenate([certain, ids[np.minimum(selected, len(ids) - 1)]]))

    return _marked(sample, by_size=True)


def by_availability(
    cohort_size: int, present: Probabilities | Callable[[int], Probabilities]
) -> Sampler:
    """Draw among the clients that are available, all equally likely.

    All available clients take part where they are fewer than ``cohort_size``.

    Args:
        cohort_size: Clients per round, at most.
        present: Probability that a client is available: one number, one per client ``[N]``, or a
            function of the round that returns either, such as ``day_and_night``.

    Raises:
        ValueError: If a probability is not from 0 to 1; when drawing, if there are too few or too
            many.

    Example:
        >>> draw = by_availability(2, day_and_night(4, rounds_per_day=2))
        >>> draw(np.ones(4), 1, np.random.default_rng(0)).tolist()  # day: the first half
        [0, 1]
        >>> draw(np.ones(4), 2, np.random.default_rng(0)).tolist()
        [2, 3]
    """
    check_whole(1, cohort_size=cohort_size)
    if not callable(present):
        _check_present(present)

    def sample(sizes, round, generator):
        probability = present(round) if callable(present) else present
        _check_present(probability)
        if np.ndim(probability) and len(probability) != len(sizes):
            raise ValueError(
                f"present must have {len(sizes)} probabilities, one per client (it has "
                f"{len(probability)}). Try one number for all"
            )
        available = np.flatnonzero(generator.random(len(sizes)) < probability)
        size = min(cohort_size, len(available))
        return np.sort(generator.choice(available, size, replace=False))

    return sample


def day_and_night(
    num_clients: int, *, rounds_per_day: int = 24, awake: float = 1.0, asleep: float = 0.0
) -> Callable[[int], np.ndarray]:
    """Make half of the clients available by day and the others by night.

    Eichner et al. 2019.

    Args:
        num_clients: Number N of clients; the first half is awake by day.
        rounds_per_day: Rounds of a day and a night, at least 2.
        awake: Probability that a client is available in its half of the day.
        asleep: Probability in the other half.

    Returns:
        ``present(round) -> [N]`` for ``by_availability``.

    Example:
        >>> present = day_and_night(4, rounds_per_day=2)
        >>> present(1).tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    check_whole(1, num_clients=num_clients)
    check_whole(2, rounds_per_day=rounds_per_day)
    _check_present([awake, asleep])
    is_day_client = np.arange(num_clients) < num_clients / 2

    def present(round):
        is_day = (round - 1) % rounds_per_day < rounds_per_day / 2
        return np.where(is_day_client == is_day, awake, asleep)

    return present


def _marked(sample: Sampler, *, by_size: bool) -> Sampler:
    """Mark samplers that weigh by size, for algorithms and aggregates that do so too."""
    sample.by_size = by_size  # type: ignore[attr-defined]
    return sample


def _inclusion(sizes: np.ndarray, k: int) -> np.ndarray:
    """Return probabilities that sum to ``k``, proportional to ``sizes``, at most 1."""
    certain = np.zeros(len(sizes), bool)
    while True:
        p = np.where(certain, 1.0, (k - certain.sum()) * sizes / max(sizes[~certain].sum(), 1))
        over = (p > 1 - 1e-9) & ~certain
        if not over.any():
            return p
        certain |= over


def _check_fits(cohort_size: int, limit: int, clients: str) -> None:
    if cohort_size > limit:
        raise ValueError(
            f"cohort_size={cohort_size} must be at most {limit} (there are {limit} {clients}). "
            f"Try {limit}"
        )


def _check_present(present: Probabilities | Sequence[float]) -> None:
    wrong = [p for p in np.ravel(present) if not (is_number(p) and 0 <= p <= 1)]
    if wrong:
        raise ValueError(f"present={wrong[0]} must be from 0 to 1 (a probability). Try 0.5")
