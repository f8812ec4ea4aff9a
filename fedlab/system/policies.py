"""When the server sends its model out, and when it takes a step: in rounds, one update at a time, or between the two."""

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

Staleness = Callable[[np.ndarray], np.ndarray]  # by steps that the server took since: 1 for none
Blend = Callable[[Tensor, Tensor, Tensor, int, int, dict], Tensor]


def constant(staleness: np.ndarray) -> np.ndarray:
    """A stale update counts like a fresh one."""
    return np.ones(len(staleness))


class Policy(NamedTuple):
    """How the clients at work are kept busy.

    There are ``slots``.  Each sends the model to ``size`` clients, waits until ``needed`` of their updates are in, or no
    more can come, or ``deadline`` seconds are over; it delivers what came, and begins anew.  The server takes a step for
    every ``buffer`` deliveries.  One slot with a cohort is a synchronous round; slots of one client are asynchronous.

    With ``partial`` work a client takes as many local steps as the deadline leaves it time for.  ``select`` chooses the
    clients; with ``tiers`` a slot has clients of about one speed, the first slot the fastest.  A row that is ``staleness``
    steps old is multiplied by ``discount`` of it.  ``blend(mean, start, w, staleness, slot, memory)`` may make something
    else of the aggregate, given the model ``start`` that the clients began with.
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


def shares_of(name: str, discount: Staleness, late: np.ndarray) -> np.ndarray:
    """Return what updates count that are so many steps ``late [m]``, each from 0 to 1.

    Args:
        name: The argument's name, for the error.
        discount: Function of the staleness.
        late: Steps that the server took since, ``[m]``.

    Returns:
        Factors of the updates, ``[m]``.

    Raises:
        ValueError: If the function gives another number of values, or one outside 0 to 1.

    Example:
        >>> shares_of("discount", polynomial(1.0), np.array([0, 1])).tolist()
        [1.0, 0.5]
    """
    shares = np.asarray(discount(late), dtype=float)
    if shares.shape != late.shape or not ((shares >= 0) & (shares <= 1)).all():
        told = f"{name} gave {shares.tolist()!r:.60} for the staleness {late.tolist()!r:.60}"
        raise ValueError(f"{told} and must give a number from 0 to 1 for each. Try polynomial(0.5)")
    return shares


def _check_select(select: Select) -> None:
    """Raise ValueError for what does not choose clients, such as ``oort`` for ``oort()``."""
    told = getattr(select, "__name__", repr(select))
    remedy = "Try select=oort(), or at_random"
    if not callable(select):
        raise ValueError(f"select={told} must be a function that chooses clients. {remedy}")
    try:
        inspect.signature(select).bind(None, None, None, None)
    except TypeError as error:
        takes = "select(here, wanted, known, generator)"
        raise ValueError(
            f"select={told} must be what a call gives, called as {takes}. {remedy}"
        ) from error
    except ValueError:  # a function in C tells nothing of itself
        return


def synchronous(
    cohort_size: int,
    *,
    over_selection: float = 0.0,
    deadline: float = math.inf,
    partial: bool = False,
    select: Select = at_random,
) -> Policy:
    """Rounds: ``cohort_size`` updates a step.  McMahan et al. 2017; over-selection and deadline as in Bonawitz et al. 2019.

    ``1 + over_selection`` times as many clients are asked, and the first ``cohort_size`` count; the others come too late,
    and have worked in vain.  After ``deadline`` seconds the round ends with what has come.
    """
    check_whole(1, cohort_size=cohort_size)
    if not (is_number(over_selection) and over_selection >= 0):
        raise ValueError(
            f"over_selection={over_selection!r}: how many more are asked, at least 0; the paper's is 0.3"
        )
    if not (isinstance(deadline, Real) and not isinstance(deadline, bool) and deadline > 0):
        raise ValueError(
            f"deadline={deadline!r} must be a number of seconds above 0. Try 600, or leave it out for none"
        )
    if partial and math.isinf(deadline):
        raise ValueError("partial work ends at a deadline: give one, in seconds")
    _check_select(select)
    return Policy(
        math.ceil(cohort_size * (1 + over_selection)), cohort_size, 1, 1, deadline, partial, select
    )


def fedbuff(
    concurrency: int, buffer: int, *, discount: Staleness | None = None, select: Select = at_random
) -> Policy:
    """``concurrency`` clients are always at work, and every ``buffer`` updates the server takes a step.

    Nguyen et al. 2022, Algorithm 1; an update ``s`` steps old is multiplied by ``1 / sqrt(1 + s)``.  Differs: weights are
    the algorithm's, by examples in FedAvg; the paper's count alike, which is ``aggregate=mean``.
    """
    check_whole(1, concurrency=concurrency, buffer=buffer)
    _check_select(select)
    if discount is not None:
        check_function("Staleness", "polynomial(0.5)", discount=discount)
    return Policy(
        1,
        1,
        concurrency,
        buffer,
        select=select,
        discount=polynomial(0.5) if discount is None else discount,
    )


def fedasync(
    concurrency: int,
    alpha: float = 0.6,
    *,
    staleness: Staleness = constant,
    select: Select = at_random,
) -> Policy:
    """Every update is a step, ``w <- (1 - a) w + a w_i`` with ``a = alpha s(t - tau)``: the server's model moves towards the
    client's.  Xie et al. 2019, Algorithm 1, with its functions ``constant`` (constant), ``polynomial`` and ``hinge``.
    """
    check_whole(1, concurrency=concurrency)
    _check_select(select)
    check_function("Staleness", "polynomial(0.5)", staleness=staleness)
    if not (is_number(alpha) and 0 < alpha <= 1):
        raise ValueError(
            f"alpha={alpha!r}: how far the model moves, above 0 and at most 1; the paper's is 0.6"
        )

    def blend(mean, start, w, late, slot, memory):
        return (
            alpha
            * float(shares_of("staleness", staleness, np.array([late]))[0])
            * (start + mean - w)
        )

    return Policy(1, 1, concurrency, 1, select=select, blend=blend)


def tiered(tiers: int, cohort_size: int, *, select: Select = at_random) -> Policy:
    """Rounds within tiers of about one speed, each tier in its own time: semi-synchronous, FedAT.  Chai et al. 2021.

    The server keeps a model a tier, and its own is their average, where the m-th fastest tier weighs as often as the m-th
    slowest has delivered: ``w = sum_m (T_(M+1-m) + 1) / sum(T + 1) w_m``.  Differs: the + 1, so that it is defined from the
    start, and no compression of its own.
    """
    check_whole(2, tiers=tiers)
    check_whole(1, cohort_size=cohort_size)
    _check_select(select)

    def blend(mean, start, w, late, slot, memory):
        models, times = memory.setdefault("models", {}), memory.setdefault("times", np.zeros(tiers))
        models[slot], times[slot] = start + mean, times[slot] + 1
        share = (times[::-1] + 1) / (times + 1).sum()
        return sum(float(share[m]) * (models.get(m, w) - w) for m in range(tiers))

    return Policy(cohort_size, cohort_size, tiers, 1, select=select, tiers=True, blend=blend)


def polynomial(a: float = 0.5) -> Staleness:
    """``(1 + s)^-a``.  Xie et al. 2019, section 5.2; a = 1/2 is FedBuff's."""
    if not (is_number(a) and a >= 0):
        raise ValueError(f"a={a!r}: an exponent of at least 0; the paper's is 0.5")
    return lambda staleness: (1.0 + staleness) ** -a


def hinge(a: float = 10.0, b: float = 4.0) -> Staleness:
    """1 up to b steps, then ``1 / (a (s - b) + 1)``.  Xie et al. 2019, section 5.2, with its values."""
    if not (is_number(a) and a > 0 and is_number(b) and b >= 0):
        raise ValueError(f"a={a!r}, b={b!r}: a is above 0 and b at least 0; the paper has 10 and 4")
    return lambda staleness: np.where(
        staleness <= b, 1.0, 1 / (a * np.maximum(staleness - b, 0) + 1)
    )
