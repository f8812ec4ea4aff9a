"""Policies: when the server sends its model out, and when it takes a step.

Rounds are ``synchronous``, updates one at a time ``fedasync``. Between the two lie ``fedbuff``,
with a buffer of updates, and ``tiered``, with rounds within tiers of similar speed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fedlab.core.validate import check_function, check_whole, is_number
from fedlab.system.selection import Select, at_random

Staleness = Callable[[np.ndarray], np.ndarray]  # factor by staleness: 1 for a fresh update
Blend = Callable[[Tensor, Tensor, Tensor, int, int, dict], Tensor]


def constant(staleness: np.ndarray) -> np.ndarray:
    """Return 1 for every staleness: a stale update counts like a fresh one.

    Example:
        >>> constant(np.array([0, 3])).tolist()
        [1.0, 1.0]
    """
    return np.ones(len(staleness))


class Policy(NamedTuple):
    """A plan of when clients are sent out and when the server takes a step.

    There are ``slots``. Each slot sends the model to ``size`` clients and waits until ``needed`` of
    their updates have arrived. It also ends when no more can arrive, or after ``deadline`` seconds.
    Then it delivers its updates and begins anew. The server takes a step per ``buffer``
    deliveries. One slot with a cohort is a synchronous round; slots of one client are asynchronous.

    Attributes:
        size: Number of clients that a slot sends the model to.
        needed: Number of updates that it waits for.
        slots: Number of slots.
        buffer: Number of deliveries per step of the server.
        deadline: Seconds after which a slot ends.
        partial: Clients take as many local steps as the deadline leaves time for.
        select: Function that chooses the clients.
        tiers: Each slot has clients of similar speed, the first slot the fastest.
        discount: Factor of an update, as a function of its staleness in steps.
        blend: ``blend(mean, start, w, staleness, slot, memory)`` replaces the aggregate ``mean``;
            ``start`` is the model that the clients began with. None: the aggregate is used as it
            is.
    """

    size: int
    needed: int
    slots: int = 1
    buffer: int = 1
    deadline: float = math.inf
    partial: bool = False
    select: Select = at_random
    tiers: bool = False
    discount: Staleness = constant
    blend: Blend | None = None


def staleness_factors(name: str, discount: Staleness, staleness: np.ndarray) -> np.ndarray:
    """Return the factors of updates by their staleness, each from 0 to 1.

    Args:
        name: Name of the argument, for the error.
        discount: Function of the staleness.
        staleness: Steps that the server took since each client was sent out, ``[m]``.

    Returns:
        Factors of the updates, ``[m]``.

    Raises:
        ValueError: If the function gives another number of values, or one outside 0 to 1.

    Example:
        >>> staleness_factors("discount", polynomial(1.0), np.array([0, 1])).tolist()
        [1.0, 0.5]
    """
    factors = np.asarray(discount(staleness), dtype=float)
    if factors.shape != staleness.shape or not ((factors >= 0) & (factors <= 1)).all():
        raise ValueError(
            f"{name} gave {factors.tolist()!r:.60} for the staleness {staleness.tolist()!r:.60} "
            "and must give a number from 0 to 1 for each. Try polynomial(0.5)"
        )
    return factors


def _check_select(select: Select) -> None:
    """Raise ValueError for anything that is no selection, such as ``oort`` for ``oort()``."""
    name = getattr(select, "__name__", repr(select))
    remedy = "Try select=oort(), or at_random"
    if not callable(select):
        raise ValueError(f"select={name} must be a function that chooses clients. {remedy}")
    try:
        inspect.signature(select).bind(None, None, None, None)
    except TypeError as error:
        signature = "select(available, wanted, stats, generator)"
        raise ValueError(
            f"select={name} must be the result of a call (it is called as {signature}). {remedy}"
        ) from error
    except ValueError:  # a function in C has no signature
        return


def synchronous(
    cohort_size: int,
    *,
    over_selection: float = 0.0,
    deadline: float = math.inf,
    partial: bool = False,
    select: Select = at_random,
) -> Policy:
    """Take a step per round of ``cohort_size`` updates.

    McMahan et al. 2017; over-selection and deadline as in Bonawitz et al. 2019. With over-selection
    more clients are asked than needed. The first ``cohort_size`` updates count; the others arrive
    too late, and their work is lost.

    Args:
        cohort_size: Number of updates per step.
        over_selection: Share of additional clients, at least 0; the paper's is 0.3.
        deadline: Seconds after which a round ends with the updates that have arrived.
        partial: Clients take as many local steps as the deadline leaves time for.
        select: Function that chooses the clients.

    Returns:
        The policy.

    Raises:
        ValueError: If an argument is out of range, or work is partial without a deadline.

    Example:
        >>> synchronous(10, over_selection=0.3).size
        13
    """
    check_whole(1, cohort_size=cohort_size)
    if not (is_number(over_selection) and over_selection >= 0):
        raise ValueError(
            f"over_selection={over_selection!r} must be at least 0 (the share of clients asked in "
            "addition). Try 0.3, as the paper"
        )
    if not (isinstance(deadline, Real) and not isinstance(deadline, bool) and deadline > 0):
        raise ValueError(
            f"deadline={deadline!r} must be a number of seconds above 0. "
            "Try 600, or leave it out for none"
        )
    if partial and math.isinf(deadline):
        raise ValueError(
            "partial=True must have a deadline (at which partial work ends). Try deadline=600"
        )
    _check_select(select)
    return Policy(
        math.ceil(cohort_size * (1 + over_selection)), cohort_size, 1, 1, deadline, partial, select
    )


def fedbuff(
    concurrency: int, buffer: int, *, discount: Staleness | None = None, select: Select = at_random
) -> Policy:
    """Keep ``concurrency`` clients at work, and take a step per ``buffer`` updates.

    Nguyen et al. 2022, Algorithm 1. Differs: weights are the algorithm's, by examples in FedAvg.
    The paper's updates count equally, which is ``aggregate=mean``.

    Args:
        concurrency: Number of clients at work.
        buffer: Number of updates per step.
        discount: Factor of an update by its staleness; None for ``1 / sqrt(1 + s)``.
        select: Function that chooses the clients.

    Returns:
        The policy.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> fedbuff(10, 5).slots, fedbuff(10, 5).buffer
        (10, 5)
    """
    check_whole(1, concurrency=concurrency, buffer=buffer)
    _check_select(select)
    if discount is not None:
        check_function("Staleness", "polynomial(0.5)", discount=discount)
    discount = polynomial(0.5) if discount is None else discount
    return Policy(1, 1, concurrency, buffer, select=select, discount=discount)


def fedasync(
    concurrency: int,
    alpha: float = 0.6,
    *,
    staleness: Staleness = constant,
    select: Select = at_random,
) -> Policy:
    """Move the server's model towards each arriving model.

    Xie et al. 2019, Algorithm 1: every update is a step ``w <- (1 - a) w + a w_i`` with ``a = alpha
    s(t - tau)``. The paper's functions s are ``constant``, ``polynomial`` and ``hinge``.

    Args:
        concurrency: Number of clients at work.
        alpha: Share of the client's model, above 0 and at most 1; the paper's is 0.6.
        staleness: Factor of ``alpha`` by staleness.
        select: Function that chooses the clients.

    Returns:
        The policy.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_whole(1, concurrency=concurrency)
    _check_select(select)
    check_function("Staleness", "polynomial(0.5)", staleness=staleness)
    if not (is_number(alpha) and 0 < alpha <= 1):
        raise ValueError(
            f"alpha={alpha!r} must be above 0 and at most 1 (the share of the client's model). "
            "Try 0.6, as the paper"
        )

    def blend(mean, start, w, steps_late, slot, memory):
        factor = float(staleness_factors("staleness", staleness, np.array([steps_late]))[0])
        return alpha * factor * (start + mean - w)

    return Policy(1, 1, concurrency, 1, select=select, blend=blend)


def tiered(tiers: int, cohort_size: int, *, select: Select = at_random) -> Policy:
    """Run rounds within tiers of similar speed, each tier in its own time (FedAT).

    Chai et al. 2021. The server keeps one model per tier. Its own model is their average, in which
    the m-th fastest tier weighs as much as the m-th slowest has delivered:
    ``w = sum_m (T_(M+1-m) + 1) / sum(T + 1) w_m``. Differs: the + 1, so that the average is defined
    from the start, and no compression.

    Args:
        tiers: Number of tiers, at least 2.
        cohort_size: Number of clients of a tier's round.
        select: Function that chooses the clients.

    Returns:
        The policy.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_whole(2, tiers=tiers)
    check_whole(1, cohort_size=cohort_size)
    _check_select(select)

    def blend(mean, start, w, steps_late, slot, memory):
        models = memory.setdefault("models", {})
        deliveries = memory.setdefault("times", np.zeros(tiers))
        models[slot], deliveries[slot] = start + mean, deliveries[slot] + 1
        share = (deliveries[::-1] + 1) / (deliveries + 1).sum()
        return sum(float(share[m]) * (models.get(m, w) - w) for m in range(tiers))

    return Policy(cohort_size, cohort_size, tiers, 1, select=select, tiers=True, blend=blend)


def polynomial(a: float = 0.5) -> Staleness:
    """Return the discount ``(1 + s)^-a`` of updates that are s steps old.

    Xie et al. 2019, section 5.2; a = 1/2 is FedBuff's.

    Example:
        >>> polynomial(0.5)(np.array([0, 3])).tolist()
        [1.0, 0.5]
    """
    if not (is_number(a) and a >= 0):
        raise ValueError(f"a={a!r} must be an exponent of at least 0. Try 0.5, as the paper")
    return lambda staleness: (1.0 + staleness) ** -a


def hinge(a: float = 10.0, b: float = 4.0) -> Staleness:
    """Return the discount that is 1 up to b steps, then ``1 / (a (s - b) + 1)``.

    Xie et al. 2019, section 5.2, with its values.

    Example:
        >>> hinge(1, 4)(np.array([0, 4, 5])).tolist()
        [1.0, 1.0, 0.5]
    """
    if not (is_number(a) and a > 0 and is_number(b) and b >= 0):
        raise ValueError(
            f"a={a!r}, b={b!r}: a must be above 0 and b at least 0. Try 10 and 4, as the paper"
        )
    return lambda staleness: np.where(
        staleness <= b, 1.0, 1 / (a * np.maximum(staleness - b, 0) + 1)
    )
