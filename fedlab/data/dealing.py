"""Parts of a split: sizes, and the examples that fill them."""

from __future__ import annotations

import numpy as np

from fedlab.core.validate import check_whole


def hand_out(y: np.ndarray, counts: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Deal out random examples of each class.

    Args:
        y: The classes of the examples ``[n]``, from 0.
        counts: The number of each client's examples by class, ``[N, classes]``; its columns sum to
            the classes' totals.
        generator: Draws the examples.

    Returns:
        The example numbers of each client, ascending.
    """
    owner = np.empty(len(y), dtype=np.int64)
    for c, sizes in enumerate(counts.T):
        members = generator.permutation(np.flatnonzero(y == c))
        owner[members] = np.repeat(np.arange(len(counts)), sizes)
    return parts_of(owner, len(counts))


def parts_of(owner: np.ndarray, num_clients: int) -> list[np.ndarray]:
    """Return the example numbers of each client, ascending, from the client of each example.

    Example:
        >>> [part.tolist() for part in parts_of(np.array([0, 2, 0]), 3)]
        [[0, 2], [], [1]]
    """
    ends = np.cumsum(np.bincount(owner, minlength=num_clients))
    return np.split(np.argsort(owner, kind="stable"), ends[:-1])


def even_sizes(total: int, pieces: int) -> np.ndarray:
    """Return sizes ``[pieces]`` that sum to ``total`` and differ by one at most.

    Example:
        >>> even_sizes(8, 3).tolist()
        [3, 3, 2]
    """
    return total // pieces + (np.arange(pieces) < total % pieces)


def proportional_sizes(total: int, p: np.ndarray) -> np.ndarray:
    """Return sizes that sum to ``total``, in the proportions ``p``, which sum to 1.

    Example:
        >>> proportional_sizes(10, np.array([0.25, 0.75])).tolist()
        [2, 8]
    """
    cuts = (np.cumsum(p)[:-1] * total).astype(int)
    return np.diff(cuts, prepend=0, append=total)


def top_up(
    owner: np.ndarray, num_clients: int, min_examples: int, generator: np.random.Generator
) -> None:
    """Move examples, in place, from the largest client to the smallest until all have enough.

    Args:
        owner: The client of each example ``[n]``, which is changed.
        num_clients: The number of clients.
        min_examples: The size that every client reaches.
        generator: Draws the examples that move.
    """
    sizes = np.bincount(owner, minlength=num_clients)
    while sizes.min() < min_examples:
        giver, taker = sizes.argmax(), sizes.argmin()
        owner[generator.choice(np.flatnonzero(owner == giver))] = taker
        sizes[giver] -= 1
        sizes[taker] += 1


def check_clients(num_examples: int, num_clients: int, min_examples: int = 0) -> None:
    """Raise ValueError if there are too few examples for the clients.

    Args:
        num_examples: The number of training examples.
        num_clients: The number of clients.
        min_examples: The number of examples that every client needs.
    """
    check_whole(1, clients=num_clients)
    if num_clients > num_examples:
        raise ValueError(
            f"clients={num_clients} must be at most {num_examples} (there are no more training "
            f"examples). Try clients={num_examples}"
        )
    check_per_client("min_examples", min_examples, num_examples, num_clients)


def check_per_client(name: str, value: int, num_examples: int, num_clients: int) -> None:
    """Raise ValueError if ``value`` examples per client are more than there are.

    Args:
        name: The argument's name, for errors.
        value: The number of examples that every client needs.
        num_examples: The number of training examples.
        num_clients: The number of clients.
    """
    if value * num_clients > num_examples:
        highest = num_examples // num_clients
        raise ValueError(
            f"{name}={value} must be at most {highest} ({num_clients} clients would need "
            f"{value * num_clients} of {num_examples} training examples). Try {name}={highest}"
        )
