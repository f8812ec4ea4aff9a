"""Check that a clock can run: policy, deadline, chosen clients, hours."""

from __future__ import annotations

from numbers import Real

import numpy as np

from fedlab.system.policies import Policy


def check_policy(policy: Policy, n: int) -> None:
    """Raise ValueError if ``n`` clients are too few."""
    at_work = policy.size * (policy.slots if not policy.tiers else 1)
    room = n // policy.slots if policy.tiers else n
    if at_work > room:
        place = f"in a tier of {n} clients" if policy.tiers else "in the fleet"
        raise ValueError(
            f"{at_work} clients must be at work, and there are {room} {place}. "
            "Try fewer clients, or a larger fleet"
        )
    if policy.slots > 1 and not policy.tiers and policy.buffer > n:
        raise ValueError(
            f"buffer={policy.buffer} must be at most the {n} clients (it would never be full). "
            f"Try buffer={max(1, n // 2)}"
        )


def check_deadline(
    policy: Policy, sizes: np.ndarray, expected: np.ndarray, on_the_way: np.ndarray
) -> None:
    """Raise ValueError if no client can meet the deadline.

    Args:
        policy: The policy with its deadline.
        sizes: Numbers of examples, ``[N]``; clients without any do not count.
        expected: Seconds of a usual round of each client, ``[N]``.
        on_the_way: Seconds of them for download and upload, which partial work needs.
    """
    seconds = np.where(sizes > 0, on_the_way if policy.partial else expected, np.inf)
    if policy.deadline < seconds.min():
        i = int(seconds.argmin())
        raise ValueError(
            f"deadline={policy.deadline:g} must be longer (client {i}, the fastest, takes "
            f"{expected[i]:.3g} s). Try a longer one, a smaller model or fewer local steps"
        )


def check_chosen(chosen: np.ndarray, available: np.ndarray) -> None:
    """Raise ValueError for clients that a selection must not choose."""
    if chosen.shape == (0,):
        return
    if chosen.ndim == 1 and chosen.dtype.kind in "iu" and len(chosen) == len(np.unique(chosen)):
        at = np.searchsorted(available, chosen)  # ``available`` ascends
        if (at < len(available)).all() and (available[at] == chosen).all():
            return
    raise ValueError(
        f"select gave {chosen[::-1].tolist()!r:.80} and must give different clients of those that "
        "are online and idle. Try available[...] of its first argument"
    )


def check_hours(hours: float) -> None:
    """Raise ValueError for hours after which no clock can stop."""
    if not (isinstance(hours, Real) and not isinstance(hours, bool) and hours > 0):
        raise ValueError(
            f"hours={hours!r} must be a number above 0, after which the clock stops. "
            "Try hours=24, or leave it out for no end"
        )
