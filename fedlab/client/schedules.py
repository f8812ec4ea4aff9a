"""Learning rates that change with the round, for ``Local(schedule=...)``.

Each function returns a ``Schedule``: ``schedule(round)`` is a factor of ``Local.lr``, with rounds
counted from 1.  A constant rate needs no schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from fedlab.core.validate import check_function, check_whole, is_number

Schedule = Callable[[int], float]


def warm_up(rounds: int, after: Schedule | None = None) -> Schedule:
    """Raise the rate linearly to its full value, reached in round ``rounds``.

    Args:
        rounds: Length of the warm-up; round t has the factor t / rounds.
        after: Schedule that follows, whose round 1 is round ``rounds + 1``; None keeps the full
            rate.

    Returns:
        A schedule for ``Local(schedule=...)``.

    Raises:
        ValueError: If ``rounds`` is below 1, or ``after`` is no schedule.

    Example:
        >>> [warm_up(4)(t) for t in (1, 2, 4, 9)]
        [0.25, 0.5, 1.0, 1.0]
        >>> from fedlab.core import Local
        >>> Local(0.1, schedule=warm_up(5, after=cosine(95))).at(5).lr
        0.1

    References: Goyal et al. 2017, section 2.2.
    """
    check_whole(1, rounds=rounds)
    if after is not None:
        check_function("Schedule", "cosine(95)", after=after)

    def schedule(round):
        if round <= rounds:
            return round / rounds
        return 1.0 if after is None else after(round - rounds)

    return schedule


def cosine(rounds: int, *, final: float = 0.0) -> Schedule:
    """Lower the rate along half a cosine, from its full value to ``final`` of it.

    Args:
        rounds: Length of the schedule: round t has the factor
            ``final + (1 - final) (1 + cos(pi (t - 1) / rounds)) / 2``.  Later rounds keep the
            factor of the last one.
        final: Share of the rate that the curve ends at, from 0 to 1.  No round has the factor 0.

    Returns:
        A schedule for ``Local(schedule=...)``.

    Raises:
        ValueError: If ``rounds`` is below 1, or ``final`` outside 0 to 1.

    Example:
        >>> [round(cosine(4)(t), 3) for t in (1, 2, 3, 4, 5)]
        [1.0, 0.854, 0.5, 0.146, 0.146]

    References: Loshchilov & Hutter 2017, equation 5, without restarts.
    """
    check_whole(1, rounds=rounds)
    if not (is_number(final) and 0 <= final <= 1):
        raise ValueError(f"final={final!r} must be a share of the rate, from 0 to 1. Try 0")

    def schedule(round):
        progress = (min(round, rounds) - 1) / rounds
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return schedule


def step_decay(every: int, factor: float = 0.1) -> Schedule:
    """Multiply the rate by ``factor`` after every ``every`` rounds.

    Args:
        every: Rounds between two drops.
        factor: Above 0, at most 1.

    Returns:
        A schedule for ``Local(schedule=...)``.

    Raises:
        ValueError: If ``every`` is below 1, or ``factor`` not in that range.

    Example:
        >>> [step_decay(10, 0.5)(t) for t in (1, 10, 11, 21)]
        [1.0, 1.0, 0.5, 0.25]
    """
    check_whole(1, every=every)
    if not (is_number(factor) and 0 < factor <= 1):
        raise ValueError(
            f"factor={factor!r} must be above 0 and at most 1 (the rate falls). Try 0.1"
        )

    def schedule(round):
        return float(factor) ** ((round - 1) // every)

    return schedule
