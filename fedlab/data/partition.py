"""Divisions of examples over clients.

Each function here returns a ``Split``, ``split(y, num_clients, generator) -> parts``, where
``parts[i]`` are the example numbers of client ``i``, ascending. Every example goes to exactly one
client.

Two splits are called Dirichlet, and one number means different things in them.
``dirichlet(alpha)`` divides each class over the clients by ``Dir(alpha, ..., alpha)``, with one
entry per client: sizes differ. ``dirichlet_equal_sizes(alpha)`` draws a mix of classes for each
client from ``Dir(alpha * prior)``, whose entries sum to ``alpha``: sizes are equal. With ten
classes its 1 is the 0.1 of papers that draw such a mix from ``Dir(alpha, ..., alpha)``.

Example:
    >>> y = np.repeat([0, 1], 4)  # the labels of eight examples
    >>> parts = shards(per_client=1)(y, 2, np.random.default_rng(0))
    >>> sorted(part.tolist() for part in parts)
    [[0, 1, 2, 3], [4, 5, 6, 7]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedlab.core.validate import check_whole, is_number
from fedlab.data.dealing import (
    check_clients,
    check_per_client,
    even_sizes,
    hand_out,
    parts_of,
    proportional_sizes,
    top_up,
)

Split = Callable[[np.ndarray, int, np.random.Generator], list[np.ndarray]]

MAX_STRENGTH = 1e9  # of alpha or sigma: splits stop changing far below it, and draws overflow above


def iid() -> Split:
    """Shuffle the examples and deal them out evenly; sizes differ by one at most.

    Example:
        >>> [len(part) for part in iid()(np.zeros(10, int), 3, np.random.default_rng(0))]
        [4, 3, 3]
    """

    def split(y, num_clients, generator):
        check_clients(len(y), num_clients)
        pieces = np.array_split(generator.permutation(len(y)), num_clients)
        return [np.sort(piece) for piece in pieces]

    return split


def dirichlet(alpha: float | Sequence[float], min_examples: int = 0) -> Split:
    """Divide each class over the clients in proportions drawn from ``Dir(alpha, ..., alpha)``.

    A small ``alpha`` gives a class to few clients (0.1: strong label skew), a large one approaches
    iid. Sizes differ, and a client may be left empty.

    With one alpha per client the proportions are drawn from ``Dir(alpha_1, ..., alpha_N)``, as in
    Flower: client i expects the share ``alpha_i / sum(alpha)`` of every class. A small alpha then
    makes a client smaller and more skewed. Equal alphas give the same split as one number. For
    skews that leave the sizes equal use ``dirichlet_equal_sizes``.

    Yurochkin et al. 2019; NIID-Bench (Li et al. 2022) and Flower call this split "Dirichlet".
    Differs: for ``min_examples`` both draw again until it holds, which never ends with many
    clients and a small alpha. NIID-Bench's code, and Flower's if asked, give no more examples to a
    client that already holds ``n / N``.

    Args:
        alpha: The concentration, above 0: one number, or one per client ``[N]``.
        min_examples: Smaller clients are topped up to this size, one example at a time from the
            largest client.

    Example:
        >>> from fedlab.data import load
        >>> skewed = load("digits", clients=10, split=dirichlet(0.1))
        >>> even = load("digits", clients=10, split=dirichlet(100))
        >>> (skewed.counts() > 0).sum(1).tolist()  # the number of classes of each client
        [5, 2, 3, 2, 6, 3, 2, 5, 4, 10]
        >>> (even.counts() > 0).sum(1).tolist()
        [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    """
    _check_alpha(alpha)
    check_whole(0, min_examples=min_examples)

    def split(y, num_clients, generator):
        check_clients(len(y), num_clients, min_examples)
        y = class_numbers(y)
        owner = np.empty(len(y), dtype=np.int64)
        for c in np.unique(y):
            members = generator.permutation(np.flatnonzero(y == c))
            p = generator.dirichlet(_alphas(alpha, num_clients))  # [N], sums to 1
            owner[members] = np.repeat(np.arange(num_clients), proportional_sizes(len(members), p))
        top_up(owner, num_clients, min_examples, generator)
        return parts_of(owner, num_clients)

    return split


def dirichlet_equal_sizes(alpha: float | Sequence[float]) -> Split:
    """Draw each client's mix of classes from ``Dir(alpha * prior)``, with equal sizes.

    ``prior`` are the class shares of the whole set, so the concentrations sum to ``alpha``: 0.1
    gives nearly every client one class, 100 approaches iid. Sizes differ by one at most.

    Hsu et al. 2019. Examples are drawn without replacement: a client that finds a class used up
    draws again, by its mix over the classes that are left. The mixes of the last clients, in a
    random order, are therefore distorted.

    With one alpha per client, client i draws its mix from ``Dir(alpha_i * prior)`` and so has its
    own skew. Equal alphas give the same split as one number.

    Args:
        alpha: The sum of the concentrations, above 0: one number, or one per client ``[N]``.

    Example:
        >>> y = np.repeat([0, 1], 50)
        >>> parts = dirichlet_equal_sizes(0.1)(y, 4, np.random.default_rng(0))
        >>> [len(part) for part in parts]
        [25, 25, 25, 25]
    """
    _check_alpha(alpha)

    def split(y, num_clients, generator):
        check_clients(len(y), num_clients)
        _, y, left = np.unique(class_numbers(y), return_inverse=True, return_counts=True)
        each, prior = _alphas(alpha, num_clients), left / len(y)
        order = None if (each == each[0]).all() else generator.permutation(num_clients)
        if order is None:  # mixes are [N, classes], rows sum to 1
            mixes = generator.dirichlet(each[0] * left / len(y), num_clients)
        else:
            mixes = np.array([generator.dirichlet(each[i] * prior) for i in np.argsort(order)])
        counts = _fill_by_mixes(mixes, left, even_sizes(len(y), num_clients), generator)
        order = generator.permutation(num_clients) if order is None else order
        return hand_out(y, counts[order], generator)

    return split


def shards(per_client: int = 2) -> Split:
    """Sort examples by class, cut them into equal shards, and deal the shards out.

    McMahan et al. 2017, section 3, with two: most clients then hold two classes. A shard may reach
    over the border of two classes or more. Shard sizes differ by one at most.

    Args:
        per_client: The number of shards of each client.

    Example:
        >>> parts = shards(per_client=2)(np.arange(6) // 2, 3, np.random.default_rng(0))
        >>> [len(part) for part in parts]
        [2, 2, 2]
    """
    check_whole(1, per_client=per_client)

    def split(y, num_clients, generator):
        check_clients(len(y), num_clients)
        check_per_client("per_client", per_client, len(y), num_clients)
        order = generator.permutation(len(y))
        by_class = np.argsort(class_numbers(y)[order], kind="stable")
        order = order[by_class]  # shuffled within each class
        client = generator.permutation(num_clients * per_client) // per_client  # of each shard
        owner = np.empty(len(y), dtype=np.int64)
        owner[order] = np.repeat(client, even_sizes(len(y), len(client)))
        return parts_of(owner, num_clients)

    return split


def classes_per_client(k: int) -> Split:
    """Give every client exactly ``k`` classes.

    The clients of a class share its examples evenly. Sizes differ with their number.

    NIID-Bench's "#C = k" (Li et al. 2022): the first class of each client goes round, so that each
    class finds a client; the others are drawn. With fewer clients than classes, clients take
    several classes in turn first.

    Args:
        k: The number of classes of each client. A ``k`` that leaves a class without a client, or a
            client of a class without an example of it, is refused.

    Example:
        >>> y = np.arange(40) % 4
        >>> parts = classes_per_client(2)(y, 6, np.random.default_rng(0))
        >>> [len(np.unique(y[part])) for part in parts]
        [2, 2, 2, 2, 2, 2]
    """
    check_whole(1, k=k)

    def split(y, num_clients, generator):
        check_clients(len(y), num_clients)
        names, y, total = np.unique(class_numbers(y), return_inverse=True, return_counts=True)
        if not len(names) / num_clients <= k <= len(names):
            lowest = -(-len(names) // num_clients)
            raise ValueError(
                f"k={k} must be from {lowest} to {len(names)} (otherwise {num_clients} clients "
                f"cannot hold k of {len(names)} classes each so that every class has a client). "
                f"Try k={min(max(k, lowest), len(names))}"
            )
        chosen = _choose_classes(k, num_clients, len(names), generator)
        counts = np.zeros((num_clients, len(names)), dtype=np.int64)
        for c, holders in enumerate(chosen.T):
            if holders.sum() > total[c]:
                raise ValueError(
                    f"class {names[c]} must have an example for each of its {holders.sum()} "
                    f"clients, and it has {total[c]}. Try fewer clients than {num_clients}, or a "
                    f"k below {k}"
                )
            counts[holders, c] = even_sizes(total[c], holders.sum())
        return hand_out(y, counts, generator)

    return split


def quantity_lognormal(sigma: float, min_examples: int = 1) -> Split:
    """Skew the sizes, not the labels, by a log-normal draw ``exp(N(0, sigma^2))``.

    Args:
        sigma: The standard deviation of log sizes. 0 gives equal sizes; at 1, one client in six
            holds over 2.7 times the median.
        min_examples: The size of the smallest client, as in ``dirichlet``.

    Example:
        >>> parts = quantity_lognormal(0.0)(np.zeros(12, int), 4, np.random.default_rng(0))
        >>> [len(part) for part in parts]
        [3, 3, 3, 3]
    """
    if not (is_number(sigma) and 0 <= sigma <= MAX_STRENGTH):
        raise ValueError(
            f"sigma={sigma!r} must be one number from 0 to {MAX_STRENGTH:g} (it is a standard "
            "deviation of log sizes). Try sigma=1"
        )

    def weights(num_clients, generator):
        z = sigma * generator.standard_normal(num_clients)
        return np.exp(z - z.max())  # no overflow; the proportions are the same

    return _quantity(weights, min_examples)


def quantity_dirichlet(alpha: float, min_examples: int = 1) -> Split:
    """Skew the sizes, not the labels, by a draw from ``Dir(alpha, ..., alpha)``.

    NIID-Bench's quantity skew (Li et al. 2022).

    Args:
        alpha: The concentration, above 0.
        min_examples: The size of the smallest client, as in ``dirichlet``.
    """
    _check_alpha(alpha)
    if np.ndim(alpha):
        raise ValueError(
            f"alpha={alpha!r} must be one number for all clients. "
            "Try dirichlet, which takes one per client"
        )
    return _quantity(
        lambda num_clients, generator: generator.dirichlet(np.full(num_clients, alpha)),
        min_examples,
    )


def natural(owner: np.ndarray) -> Split:
    """Make a client of each owner: the person or place that its examples are from.

    There are as many clients as owners, in the order of the sorted names. For fewer clients, owners
    are merged whole, in a random order, equally many into each. More clients are refused.

    Args:
        owner: The owner of each example ``[n]``, by name or number.

    Example:
        >>> split = natural(np.array(["bob", "ann", "bob"]))
        >>> [part.tolist() for part in split(np.zeros(3, int), 2, np.random.default_rng(0))]
        [[1], [0, 2]]
    """
    owner = np.asarray(owner)
    if owner.ndim != 1:
        raise ValueError(
            f"owner of shape {owner.shape} must be [n], one name or number per example. "
            "Try one column of it"
        )
    names, number = np.unique(owner, return_inverse=True)

    def split(y, num_clients, generator):
        check_clients(len(y), num_clients)
        if len(owner) != len(y):
            raise ValueError(
                f"owner must hold one name per example ({len(owner)} names for {len(y)} training "
                "examples). Try federate(x, y, owner=owner), which holds out a test set"
            )
        if num_clients > len(names):
            raise ValueError(
                f"clients={num_clients} must be at most {len(names)} (there are no more owners). "
                f"Try clients={len(names)}, or another split"
            )
        if num_clients == len(names):
            return parts_of(number, num_clients)
        client = np.empty(len(names), dtype=np.int64)
        sizes = even_sizes(len(names), num_clients)
        client[generator.permutation(len(names))] = np.repeat(np.arange(num_clients), sizes)
        return parts_of(client[number], num_clients)

    return split


def class_numbers(y: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """Return labels unchanged; raise ValueError unless they are class numbers ``[n]`` from 0.

    Args:
        y: The labels.
        num_classes: The number of classes, which all labels must be below; None if it is not known.

    Example:
        >>> class_numbers(np.array([0, 2, 1]), num_classes=3).tolist()
        [0, 2, 1]
    """
    y = np.asarray(y)
    numbering = "np.unique(y, return_inverse=True)[1], which numbers any labels"
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be whole class numbers [n] (they have the shape {y.shape} and type "
            f"{y.dtype}). Try {numbering}"
        )
    if y.min(initial=0) < 0:
        raise ValueError(f"label {y.min()} must be at least 0 (the first class). Try {numbering}")
    if num_classes is not None and y.max(initial=0) >= num_classes:
        raise ValueError(
            f"label {y.max()} must be below {num_classes} (there are {num_classes} classes, "
            f"numbered from 0). Try {numbering}"
        )
    return y


def _quantity(
    weights: Callable[[int, np.random.Generator], np.ndarray], min_examples: int
) -> Split:
    """Deal out shuffled examples in sizes by ``weights(num_clients, generator) -> [N]``."""
    check_whole(0, min_examples=min_examples)

    def split(y, num_clients, generator):
        check_clients(len(y), num_clients, min_examples)
        p = weights(num_clients, generator)
        owner = np.empty(len(y), dtype=np.int64)
        sizes = proportional_sizes(len(y), p / p.sum())
        owner[generator.permutation(len(y))] = np.repeat(np.arange(num_clients), sizes)
        top_up(owner, num_clients, min_examples, generator)
        return parts_of(owner, num_clients)

    return split


def _fill_by_mixes(
    mixes: np.ndarray, left: np.ndarray, need: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return how many examples of each class each client gets, ``[N, classes]``.

    Clients draw by their ``mixes [N, classes]`` until they have ``need [N]`` examples, out of
    ``left [classes]``.
    """
    counts = np.zeros(mixes.shape, dtype=np.int64)
    while need.any():  # in each pass a class runs out, or all examples are dealt out
        q = mixes * (left > 0)
        q = np.where(q.sum(1, keepdims=True) > 0, q, left)  # a client without a class left
        asked = generator.multinomial(need, q / q.sum(1, keepdims=True))  # [N, classes]
        granted = np.clip(left - (asked.cumsum(0) - asked), 0, asked)  # first come, first served
        counts = counts + granted
        need, left = need - granted.sum(1), left - granted.sum(0)
    return counts


def _choose_classes(
    k: int, num_clients: int, num_classes: int, generator: np.random.Generator
) -> np.ndarray:
    """Return a mask ``[N, classes]``: k classes per client, and every class at least once."""
    rank = generator.random((num_clients, num_classes))
    turn = generator.permutation(num_classes)
    for i in range(num_clients):
        rank[i, turn[i % num_classes :: num_clients]] = -1  # before the classes that it draws
    chosen = np.zeros(rank.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(rank, axis=1)[:, :k], True, axis=1)
    return chosen


def _check_alpha(alpha: float | Sequence[float]) -> None:
    values = np.asarray(alpha, dtype=object)
    if values.ndim == 1 and len(values):
        named = {f"alpha[{k}]": value for k, value in enumerate(values.tolist())}
    else:
        named = {"alpha": alpha}
    for name, value in named.items():
        if not (is_number(value) and 0 < value <= MAX_STRENGTH):
            raise ValueError(
                f"{name}={value!r} must be one number above 0 and up to {MAX_STRENGTH:g} (it is a "
                "Dirichlet concentration). Try 0.1 (strong skew) to 100 (nearly iid)"
            )


def _alphas(alpha: float | Sequence[float], num_clients: int) -> np.ndarray:
    """Return the concentration of each client, ``[N]``."""
    each = np.asarray(alpha, dtype=float)
    if each.ndim and len(each) != num_clients:
        raise ValueError(
            f"alpha must be one number for all clients, or one per client ({len(each)} numbers for "
            f"{num_clients} clients). Try alpha={each[0]:g}"
        )
    return np.broadcast_to(each, num_clients)
