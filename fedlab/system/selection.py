"""Whom the server chooses when it knows its clients: how long they take, what they lose, how much they have left.

Each function gives a ``Select``, ``select(here [k], wanted, known, generator) -> ids``: at most ``wanted`` of the clients
that are here and idle, in the order in which they go out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedlab.core.validate import check_whole, is_number


class ClientStats(NamedTuple):
    """What the server knows of its clients, a number a client ``[N]``, and of the time."""

    sizes: np.ndarray  # examples
    expected: (
        np.ndarray
    )  # seconds that a round of it takes, without bad luck, as a profiling run would tell
    battery: np.ndarray  # joules when full
    seconds: np.ndarray  # that it took last; NaN before it has taken part
    loss: np.ndarray  # of its local steps, the last time; NaN before
    used: np.ndarray  # how often its update was used
    last: np.ndarray  # the round in which it was last; 0 before
    joules: np.ndarray  # that it has spent
    round: int  # from 1


Select = Callable[[np.ndarray, int, ClientStats, np.random.Generator], np.ndarray]


def at_random(
    here: np.ndarray, wanted: int, known: ClientStats, generator: np.random.Generator
) -> np.ndarray:
    """Everyone here equally likely: the cohorts of ``uniform``, where everyone is here."""
    return here[generator.choice(len(here), min(wanted, len(here)), replace=False)]


def fastest(share: float = 0.5) -> Select:
    """At random among the fastest ``share`` of all clients: what FedCS comes to, and what leaves the others out for good.

    Nishio & Yonetani 2019.  Differs: the paper adds clients as long as they fit into a round of given length.
    """
    _check_share(share=share)

    def select(here, wanted, known, generator):
        quick = known.expected[here] <= np.quantile(known.expected, share)
        return at_random(here[quick] if quick.any() else here, wanted, known, generator)

    return select


def tifl(tiers: int = 5) -> Select:
    """A tier a round, drawn evenly, then clients of it at random, who take about as long as each other.

    Chai et al. 2020, section 4.3: tiers of equally many clients by profiled time.  Differs: the policy is the static,
    uniform one; the adaptive one would need the accuracy of each tier.
    """
    check_whole(2, tiers=tiers)

    def select(here, wanted, known, generator):
        tier = tiers_of(known.expected, tiers)[here]
        chosen = generator.choice(np.unique(tier))
        return at_random(here[tier == chosen], wanted, known, generator)

    return select


def tiers_of(expected: np.ndarray, tiers: int) -> np.ndarray:
    """The tier of each client ``[N]``, 0 the fastest: equally many in each, as far as whole clients allow."""
    tier = np.empty(len(expected), dtype=int)
    for number, ids in enumerate(np.array_split(np.argsort(expected, kind="stable"), tiers)):
        tier[ids] = number
    return tier


def power_of_choice(candidates: int) -> Select:
    """Of so many candidates, drawn by their number of examples, those with the largest losses.

    Cho et al. 2020, the variant that needs no extra message, pi_rpow-d: a client's loss is that of its last round, and who
    has not taken part comes first.
    """
    check_whole(1, candidates=candidates)

    def select(here, wanted, known, generator):
        p = known.sizes[here] / max(known.sizes[here].sum(), 1)
        some = min(max(candidates, wanted), np.count_nonzero(p))
        drawn = generator.choice(here, some, replace=False, p=p) if some else here[:0]
        loss = np.nan_to_num(known.loss[drawn], nan=np.inf)
        return drawn[np.argsort(-loss, kind="stable")][:wanted]

    return select


def oort(
    explore: float = 0.1, *, quantile: float = 0.5, penalty: float = 2.0, cutoff: float = 0.95
) -> Select:
    """Who has much to learn and is quick: by utility ``n_i loss_i + sqrt(0.1 ln R / R_i)``, times ``(T / t_i)^penalty`` for
    who takes longer than T.  Lai et al. 2021, Algorithm 1.

    A share ``explore`` goes to clients never seen, quick ones sooner.  The others are drawn by utility among those that
    reach ``cutoff`` of the last one who would be in.  Differs: the loss is the mean over local steps (the paper: the root of
    the mean square over examples), and relative to the largest utility when the bonus for not having been asked for long is
    added; T is the ``quantile`` of all expected times, where the paper's pacer raises it; exploration does not decay.
    """
    _check_share(explore=explore, quantile=quantile, cutoff=cutoff)
    if not (is_number(penalty) and penalty >= 0):
        raise ValueError(f"penalty={penalty!r}: an exponent of at least 0; the paper's is 2")

    def select(here, wanted, known, generator):
        seen = here[known.last[here] > 0]
        new = np.setdiff1d(here, seen)
        many = min(len(new), max(int(np.ceil(explore * wanted)), wanted - len(seen)))
        fresh = _drawn(new, 1 / known.expected[new], many, generator)
        value = np.nan_to_num(known.sizes[seen] * known.loss[seen])
        value = value / max(value.max(initial=0), 1e-12) + np.sqrt(
            0.1 * np.log(known.round) / known.last[seen]
        )
        limit = np.quantile(known.expected, quantile)
        took = known.seconds[seen]
        value = value * np.where(took > limit, (limit / np.maximum(took, 1e-12)) ** penalty, 1)
        rest = min(wanted - len(fresh), len(seen))
        if not rest:
            return fresh
        enough = value >= cutoff * np.sort(value)[::-1][rest - 1]
        return np.concatenate([fresh, _drawn(seen[enough], value[enough], rest, generator)])

    return select


def energy_aware(
    here: np.ndarray, wanted: int, known: ClientStats, generator: np.random.Generator
) -> np.ndarray:
    """Whoever has spent the smallest share of its battery on us, in random order where they are alike."""
    spent = known.joules[here] / known.battery[here]
    return here[np.lexsort((generator.random(len(here)), spent))][:wanted]


def fair(
    here: np.ndarray, wanted: int, known: ClientStats, generator: np.random.Generator
) -> np.ndarray:
    """Whoever was used least often, in random order where they are alike: nobody takes part twice before all others did."""
    return here[np.lexsort((generator.random(len(here)), known.used[here]))][:wanted]


def _drawn(
    ids: np.ndarray, weights: np.ndarray, many: int, generator: np.random.Generator
) -> np.ndarray:
    """So many different ones, one after another, each with a probability in proportion to its weight."""
    keys = generator.exponential(size=len(ids)) / np.maximum(
        weights, 1e-12
    )  # Efraimidis & Spirakis 2006
    return ids[np.argsort(keys, kind="stable")][:many]


def _check_share(**named: float) -> None:
    for name, value in named.items():
        if not (is_number(value) and 0 <= value <= 1):
            raise ValueError(f"{name}={value!r}: a share from 0 to 1")
