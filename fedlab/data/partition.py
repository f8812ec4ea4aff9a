"""Who holds what: ways of dividing examples over clients.

Each function here gives a ``Split``, ``split(y, num_clients, generator) -> parts``, where ``parts[i]`` are the example
numbers of client ``i``, ascending.  Every example goes to exactly one client.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Split = Callable[[np.ndarray, int, np.random.Generator], list[np.ndarray]]


def iid() -> Split:
    """Examples shuffled and dealt out evenly: sizes differ by one at most."""

    def split(y, num_clients, generator):
        _check(len(y), num_clients)
        return [np.sort(part) for part in np.array_split(generator.permutation(len(y)), num_clients)]

    return split


def dirichlet(alpha: float, min_examples: int = 0) -> Split:
    """Class-wise Dirichlet: each class is divided over the clients in proportions drawn from ``Dir(alpha, ..., alpha)``.

    Small ``alpha`` gives a class to few clients (0.1: strong label skew), large ``alpha`` approaches iid.  Sizes differ,
    and a client may be left empty.  ``min_examples`` tops small clients up, one example at a time from whoever holds most.

    Yurochkin et al. 2019; NIID-Bench (Li et al. 2022) and Flower call this split "Dirichlet".
    Differs: for ``min_examples`` those draw again until it holds, which with many clients and a small alpha never ends.
    """
    if not (np.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha={alpha}: a Dirichlet concentration is above 0; try 0.1 (strong skew) to 100 (nearly iid)")

    def split(y, num_clients, generator):
        _check(len(y), num_clients, min_examples)
        owner = np.empty(len(y), dtype=np.int64)
        for c in np.unique(y):
            members = generator.permutation(np.flatnonzero(y == c))
            p = generator.dirichlet(np.full(num_clients, alpha))  # [N], sums to 1
            cuts = (np.cumsum(p)[:-1] * len(members)).astype(int)
            for i, piece in enumerate(np.split(members, cuts)):
                owner[piece] = i
        _top_up(owner, num_clients, min_examples, generator)
        return [np.flatnonzero(owner == i) for i in range(num_clients)]

    return split


def _top_up(owner: np.ndarray, num_clients: int, least: int, generator: np.random.Generator) -> None:
    """Move examples, in place, from the largest client to the smallest until everyone has ``least``."""
    sizes = np.bincount(owner, minlength=num_clients)
    while sizes.min() < least:
        giver, taker = sizes.argmax(), sizes.argmin()
        owner[generator.choice(np.flatnonzero(owner == giver))] = taker
        sizes[giver] -= 1
        sizes[taker] += 1


def _check(num_examples: int, num_clients: int, min_examples: int = 0) -> None:
    if num_clients < 1:
        raise ValueError(f"clients={num_clients}: there is at least one client")
    if num_clients > num_examples:
        raise ValueError(f"clients={num_clients} is more than the {num_examples} training examples: take fewer clients")
    if min_examples * num_clients > num_examples:
        raise ValueError(
            f"min_examples={min_examples} for {num_clients} clients asks for {min_examples * num_clients} of "
            f"{num_examples} training examples: take at most {num_examples // num_clients}"
        )
