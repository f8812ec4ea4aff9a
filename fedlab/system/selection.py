"""Choose clients by what the server knows of them: speed, loss, battery, past rounds.

A selection is a function ``select(available [k], wanted, stats, generator) -> ids``. It returns at
most ``wanted`` of the clients that are online and idle, in the order in which they are sent out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedlab.core.validate import check_whole, is_number


class ClientStats(NamedTuple):
    """Statistics of the clients, one number per client ``[N]``, and the current round.

    Attributes:
        sizes: Numbers of examples.
        expected_seconds: Duration of a round without bad luck, as a profiling run would measure it.
        battery: Capacity in joules; infinite on the mains.
        last_seconds: Duration of the client's last round; NaN before its first.
        last_loss: Mean loss of its local steps in that round; NaN before its first.
        times_used: Number of rounds in which its update was used.
        last_round: Round in which it last took part; 0 before its first.
        joules_spent: Energy that it has spent so far.
        round: Number of the current round, from 1.
    """

    sizes: np.ndarray
    expected_seconds: np.ndarray
    battery: np.ndarray
    last_seconds: np.ndarray
    last_loss: np.ndarray
    times_used: np.ndarray
    last_round: np.ndarray
    joules_spent: np.ndarray
    round: int


Select = Callable[[np.ndarray, int, ClientStats, np.random.Generator], np.ndarray]


def at_random(
    available: np.ndarray, wanted: int, stats: ClientStats, generator: np.random.Generator
) -> np.ndarray:
    """Choose uniformly among the available clients.

    The cohorts are those of ``uniform`` if all clients are available.

    Args:
        available: Numbers of the clients that are online and idle, ``[k]``, ascending.
        wanted: Largest number of clients to choose.
        stats: Knowledge about all clients, not used.
        generator: Source of randomness.

    Returns:
        Numbers of the chosen clients.

    Example:
        >>> len(at_random(np.arange(5), 3, None, np.random.default_rng(0)))
        3
    """
    return available[generator.choice(len(available), min(wanted, len(available)), replace=False)]


def fastest(share: float = 0.5) -> Select:
    """Choose at random among the fastest ``share`` of all clients.

    FedCS (Nishio & Yonetani 2019) amounts to this; slower clients never take part. Differs: the
    paper adds clients as long as they fit into a round of given length.

    Example:
        >>> stats = ClientStats(*[np.array([5.0, 80.0, 70.0, 6.0])] * 8, round=1)
        >>> sorted(fastest(0.5)(np.arange(4), 2, stats, np.random.default_rng(0)).tolist())
        [0, 3]
    """
    _check_share(share=share)

    def select(available, wanted, stats, generator):
        limit = np.quantile(stats.expected_seconds, share)
        fast = stats.expected_seconds[available] <= limit
        candidates = available[fast] if fast.any() else available
        return at_random(candidates, wanted, stats, generator)

    return select


def tifl(tiers: int = 5) -> Select:
    """Draw a tier of similarly fast clients, then clients of this tier at random.

    Chai et al. 2020, section 4.3: tiers of equally many clients by profiled time. Differs: the
    policy is the static, uniform one; the adaptive one would need the accuracy of each tier.

    Example:
        >>> stats = ClientStats(*[np.array([5.0, 80.0, 70.0, 6.0])] * 8, round=1)
        >>> sorted(tifl(2)(np.arange(4), 2, stats, np.random.default_rng(0)).tolist())
        [1, 2]
    """
    check_whole(2, tiers=tiers)

    def select(available, wanted, stats, generator):
        tier = tiers_of(stats.expected_seconds, tiers)[available]
        chosen = generator.choice(np.unique(tier))
        return at_random(available[tier == chosen], wanted, stats, generator)

    return select


def tiers_of(expected_seconds: np.ndarray, tiers: int) -> np.ndarray:
    """Return the tier of each client ``[N]``, 0 for the fastest.

    Tiers have equally many clients, as far as whole clients allow.

    Example:
        >>> tiers_of(np.array([5.0, 80.0, 70.0, 6.0]), 2).tolist()
        [0, 1, 1, 0]
    """
    tier = np.empty(len(expected_seconds), dtype=int)
    order = np.argsort(expected_seconds, kind="stable")
    for number, ids in enumerate(np.array_split(order, tiers)):
        tier[ids] = number
    return tier


def power_of_choice(candidates: int) -> Select:
    """Draw candidates by their number of examples, and choose those with the largest losses.

    Cho et al. 2020, the variant without extra messages, pi_rpow-d: a client's loss is the one of
    its last round. Clients that have not taken part yet come first.

    Args:
        candidates: Number of candidates, at least 1.

    Returns:
        The selection.
    """
    check_whole(1, candidates=candidates)

    def select(available, wanted, stats, generator):
        p = stats.sizes[available] / max(stats.sizes[available].sum(), 1)
        count = min(max(candidates, wanted), np.count_nonzero(p))
        drawn = generator.choice(available, count, replace=False, p=p) if count else available[:0]
        loss = np.nan_to_num(stats.last_loss[drawn], nan=np.inf)
        return drawn[np.argsort(-loss, kind="stable")][:wanted]

    return select


def oort(
    explore: float = 0.1, *, quantile: float = 0.5, penalty: float = 2.0, cutoff: float = 0.95
) -> Select:
    """Choose clients that are fast and have large losses, with some exploration.

    Lai et al. 2021, Algorithm 1. A client's utility is ``n_i loss_i + sqrt(0.1 ln R / R_i)``, with
    its last round R_i. It is multiplied by ``(T / t_i)^penalty`` if the client takes longer than T.
    A share ``explore`` goes to clients never seen, preferably fast ones. The others are drawn by
    utility among the clients that reach ``cutoff`` times the utility of the last client in.

    Differs: the loss is the mean over local steps (the paper: the root of the mean square over
    examples). It is divided by the largest one before the bonus for a long absence is added. T is
    the ``quantile`` of all expected times, where the paper's pacer raises T. Exploration does not
    decay.

    Args:
        explore: Share of clients that are new, from 0 to 1.
        quantile: Quantile of the expected times that is T, from 0 to 1.
        penalty: Exponent for slow clients, at least 0; the paper's is 2.
        cutoff: Share of the utility of the last client in, from 0 to 1.

    Returns:
        The selection.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> stats = ClientStats(*[np.array([5.0, 80.0, 70.0, 6.0])] * 8, round=6)
        >>> sorted(oort(explore=0.0)(np.arange(4), 4, stats, np.random.default_rng(0)).tolist())
        [0, 1, 2, 3]
    """
    _check_share(explore=explore, quantile=quantile, cutoff=cutoff)
    if not (is_number(penalty) and penalty >= 0):
        raise ValueError(
            f"penalty={penalty!r} must be an exponent of at least 0. Try 2, as the paper"
        )

    def select(available, wanted, stats, generator):
        seen = available[stats.last_round[available] > 0]
        unseen = np.setdiff1d(available, seen)
        num_new = min(len(unseen), max(int(np.ceil(explore * wanted)), wanted - len(seen)))
        new = _draw_weighted(unseen, 1 / stats.expected_seconds[unseen], num_new, generator)
        rest = min(wanted - len(new), len(seen))
        utility = _utility(stats, seen, quantile, penalty)
        if not rest:
            return new
        enough = utility >= cutoff * np.sort(utility)[::-1][rest - 1]
        old = _draw_weighted(seen[enough], utility[enough], rest, generator)
        return np.concatenate([new, old])

    return select


def _utility(stats: ClientStats, ids: np.ndarray, quantile: float, penalty: float) -> np.ndarray:
    """Return the utility of clients that have taken part."""
    utility = np.nan_to_num(stats.sizes[ids] * stats.last_loss[ids])
    bonus = np.sqrt(0.1 * np.log(stats.round) / stats.last_round[ids])
    utility = utility / max(utility.max(initial=0), 1e-12) + bonus
    limit = np.quantile(stats.expected_seconds, quantile)
    seconds = stats.last_seconds[ids]
    slowness = np.where(seconds > limit, (limit / np.maximum(seconds, 1e-12)) ** penalty, 1)
    return utility * slowness


def energy_aware(
    available: np.ndarray, wanted: int, stats: ClientStats, generator: np.random.Generator
) -> np.ndarray:
    """Choose the clients that have spent the smallest shares of their batteries.

    Args:
        available: Numbers of the clients that are online and idle, ``[k]``, ascending.
        wanted: Largest number of clients to choose.
        stats: Knowledge about all clients.
        generator: Source of randomness, which orders clients with equal shares.

    Returns:
        Numbers of the chosen clients.

    Example:
        >>> stats = ClientStats(*[np.ones(3)] * 7, np.array([0.9, 0.1, 0.5]), round=1)
        >>> energy_aware(np.arange(3), 2, stats, np.random.default_rng(0)).tolist()
        [1, 2]
    """
    spent = stats.joules_spent[available] / stats.battery[available]
    return available[np.lexsort((generator.random(len(available)), spent))][:wanted]


def fair(
    available: np.ndarray, wanted: int, stats: ClientStats, generator: np.random.Generator
) -> np.ndarray:
    """Choose the clients that were used least often.

    No client takes part twice before all others did.

    Args:
        available: Numbers of the clients that are online and idle, ``[k]``, ascending.
        wanted: Largest number of clients to choose.
        stats: Knowledge about all clients.
        generator: Source of randomness, which orders clients used equally often.

    Returns:
        Numbers of the chosen clients.

    Example:
        >>> stats = ClientStats(*[np.array([3.0, 0.0, 1.0])] * 8, round=1)
        >>> fair(np.arange(3), 2, stats, np.random.default_rng(0)).tolist()
        [1, 2]
    """
    order = np.lexsort((generator.random(len(available)), stats.times_used[available]))
    return available[order][:wanted]


def _draw_weighted(
    ids: np.ndarray, weights: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw different clients one after another, with probabilities in proportion to weights.

    Efraimidis & Spirakis 2006.
    """
    keys = generator.exponential(size=len(ids)) / np.maximum(weights, 1e-12)
    return ids[np.argsort(keys, kind="stable")][:count]


def _check_share(**shares: float) -> None:
    for name, value in shares.items():
        if not (is_number(value) and 0 <= value <= 1):
            raise ValueError(f"{name}={value!r} must be a share from 0 to 1. Try {name}=0.5")
