"""Who holds what: ways of dividing examples over clients.

Each function here gives a ``Split``, ``split(y, num_clients, generator) -> parts``, where ``parts[i]`` are the example
numbers of client ``i``, ascending.  Every example goes to exactly one client.

Two splits go by the name of Dirichlet, and one number means different things in them.  ``dirichlet(alpha)`` divides each
class over the clients by ``Dir(alpha, ..., alpha)``, an entry a client: sizes differ.  ``dirichlet_equal_sizes(alpha)``
draws a mix of classes for each client from ``Dir(alpha * prior)``, whose entries sum to ``alpha``: sizes are equal, and
with ten classes its 1 is the 0.1 of papers that draw such a mix from ``Dir(alpha, ..., alpha)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedlab.core.validate import check_whole, is_number

Split = Callable[[np.ndarray, int, np.random.Generator], list[np.ndarray]]

MOST = 1e9  # of alpha or sigma: splits have long ceased to change, and far beyond it draws overflow


def iid() -> Split:
    """Examples shuffled and dealt out evenly: sizes differ by one at most."""

    def split(y, num_clients, generator):
        _check(len(y), num_clients)
        return [
            np.sort(part) for part in np.array_split(generator.permutation(len(y)), num_clients)
        ]

    return split


def dirichlet(alpha: float | Sequence[float], min_examples: int = 0) -> Split:
    """Class-wise Dirichlet: each class is divided over the clients in proportions drawn from ``Dir(alpha, ..., alpha)``.

    Small ``alpha`` gives a class to few clients (0.1: strong label skew), large ``alpha`` approaches iid.  Sizes differ,
    and a client may be left empty.  ``min_examples`` tops small clients up, one example at a time from whoever holds most.

    With one alpha per client the proportions are drawn from ``Dir(alpha_1, ..., alpha_N)``, as in Flower: client i expects
    the share ``alpha_i / sum(alpha)`` of every class, so a small alpha makes a client smaller and more skewed.  Equal
    alphas give the very split of the one number.  For skews that leave the sizes equal take ``dirichlet_equal_sizes``.

    Yurochkin et al. 2019; NIID-Bench (Li et al. 2022) and Flower call this split "Dirichlet".
    Differs: for ``min_examples`` those draw again until it holds, which with many clients and a small alpha never ends;
    NIID-Bench's code, and Flower's where asked, give no more to a client that already holds ``n / N``.
    """
    _check_alpha(alpha)
    check_whole(0, min_examples=min_examples)

    def split(y, num_clients, generator):
        _check(len(y), num_clients, min_examples)
        y = class_numbers(y)
        owner = np.empty(len(y), dtype=np.int64)
        for c in np.unique(y):
            members = generator.permutation(np.flatnonzero(y == c))
            p = generator.dirichlet(_alphas(alpha, num_clients))  # [N], sums to 1
            owner[members] = np.repeat(np.arange(num_clients), _cut(len(members), p))
        _top_up(owner, num_clients, min_examples, generator)
        return _parts(owner, num_clients)

    return split


def dirichlet_equal_sizes(alpha: float | Sequence[float]) -> Split:
    """Client-wise Dirichlet: every client draws its mix of classes from ``Dir(alpha * prior)``, and all are of one size.

    ``prior`` are the class shares of the whole, so the entries of the concentration sum to ``alpha``: 0.1 gives nearly every
    client one class, 100 approaches iid.  Sizes differ by one at most.

    Hsu et al. 2019.  Examples are drawn without replacement; whoever finds a class used up draws again by its mix over the
    classes that are left.  So the mixes of whoever comes last, by chance, are bent.

    With one alpha per client, client i draws its mix from ``Dir(alpha_i * prior)``: each has a skew of its own.  Equal
    alphas give the very split of the one number.
    """
    _check_alpha(alpha)

    def split(y, num_clients, generator):
        _check(len(y), num_clients)
        _, y, left = np.unique(class_numbers(y), return_inverse=True, return_counts=True)
        each, prior = _alphas(alpha, num_clients), left / len(y)
        turn = (
            None if (each == each[0]).all() else generator.permutation(num_clients)
        )  # of each client
        if turn is None:
            mixes = generator.dirichlet(
                each[0] * left / len(y), num_clients
            )  # [N, classes], rows sum to 1
        else:
            mixes = np.array([generator.dirichlet(each[i] * prior) for i in np.argsort(turn)])
        need, held = _even(len(y), num_clients), np.zeros((num_clients, len(left)), dtype=np.int64)
        while need.any():  # each time round, a class runs out or all is given
            q = mixes * (left > 0)
            q = np.where(
                q.sum(1, keepdims=True) > 0, q, left
            )  # whose classes are all gone takes from what there is
            asked = generator.multinomial(need, q / q.sum(1, keepdims=True))  # [N, classes]
            given = np.clip(left - (asked.cumsum(0) - asked), 0, asked)  # first come, first served
            need, left, held = need - given.sum(1), left - given.sum(0), held + given
        turn = generator.permutation(num_clients) if turn is None else turn
        return _hand_out(y, held[turn], generator)

    return split


def shards(per_client: int = 2) -> Split:
    """Examples sorted by class and cut into ``N * per_client`` equal shards; every client gets ``per_client`` of them.

    McMahan et al. 2017, section 3, with two: most clients then hold two classes.  A shard may reach over the border of two
    classes or more.  Shard sizes differ by one at most.
    """
    check_whole(1, per_client=per_client)

    def split(y, num_clients, generator):
        _check(len(y), num_clients)
        _check_room(
            per_client * num_clients,
            f"per_client={per_client} for {num_clients} clients",
            len(y),
            num_clients,
        )
        order = generator.permutation(len(y))
        order = order[
            np.argsort(class_numbers(y)[order], kind="stable")
        ]  # sorted by class, shuffled within
        holder = generator.permutation(num_clients * per_client) // per_client  # of each shard
        owner = np.empty(len(y), dtype=np.int64)
        owner[order] = np.repeat(holder, _even(len(y), len(holder)))
        return _parts(owner, num_clients)

    return split


def classes_per_client(k: int) -> Split:
    """Every client holds exactly ``k`` classes, and the clients that hold a class share its examples evenly.

    NIID-Bench's "#C = k" (Li et al. 2022): client by client, the first class goes round, so that each finds a holder; the
    others are drawn.  Fewer clients than classes take several in turn first.  Sizes differ with the number of holders.
    Refuses a ``k`` that leaves a class without a holder, or holders of a class without an example of it.
    """
    check_whole(1, k=k)

    def split(y, num_clients, generator):
        _check(len(y), num_clients)
        names, y, total = np.unique(class_numbers(y), return_inverse=True, return_counts=True)
        if not len(names) / num_clients <= k <= len(names):
            least = -(-len(names) // num_clients)
            raise ValueError(
                f"k={k}: {num_clients} clients cannot hold k of {len(names)} classes each so that every class has a holder: "
                f"take k from {least} to {len(names)}"
            )
        chosen = _choose_classes(k, num_clients, len(names), generator)
        held = np.zeros((num_clients, len(names)), dtype=np.int64)
        for c, holders in enumerate(chosen.T):
            if holders.sum() > total[c]:
                raise ValueError(
                    f"class {names[c]} has {total[c]} examples for the {holders.sum()} clients that are to hold it: "
                    f"take fewer clients than {num_clients} or a k below {k}"
                )
            held[holders, c] = _even(total[c], holders.sum())
        return _hand_out(y, held, generator)

    return split


def quantity_lognormal(sigma: float, min_examples: int = 1) -> Split:
    """Sizes skewed, labels iid: sizes are in the proportions of a log-normal draw, ``exp(N(0, sigma^2))``.

    0 gives equal sizes; at 1, one client in six holds over 2.7 times the median.  ``min_examples`` as in ``dirichlet``.
    """
    if not (is_number(sigma) and 0 <= sigma <= MOST):
        told = f"sigma={sigma!r}: a standard deviation of log sizes is one number, up to {MOST:g} and at least 0"
        raise ValueError(f"{told}; try 1")

    def weights(num_clients, generator):
        z = sigma * generator.standard_normal(num_clients)
        return np.exp(z - z.max())  # no overflow; the proportions are the same

    return _quantity(weights, min_examples)


def quantity_dirichlet(alpha: float, min_examples: int = 1) -> Split:
    """Sizes skewed, labels iid: sizes are in proportions drawn from ``Dir(alpha, ..., alpha)``.

    NIID-Bench's quantity skew (Li et al. 2022).  ``min_examples`` as in ``dirichlet``.
    """
    _check_alpha(alpha)
    if np.ndim(alpha):
        raise ValueError(
            f"alpha={alpha!r}: it is one number for all clients here; dirichlet takes one per client"
        )
    return _quantity(
        lambda num_clients, generator: generator.dirichlet(np.full(num_clients, alpha)),
        min_examples,
    )


def natural(owner: np.ndarray) -> Split:
    """Clients as they come with the data: ``owner [n]`` names, for each example, the person or place it is from.

    As many clients as owners, in the order of the sorted names.  Fewer clients: owners are merged whole, in a random order,
    equally many to each.  More are refused.
    """
    owner = np.asarray(owner)
    if owner.ndim != 1:
        raise ValueError(f"owner has shape {owner.shape}: it is [n], one name or number an example")
    names, who = np.unique(owner, return_inverse=True)

    def split(y, num_clients, generator):
        _check(len(y), num_clients)
        if len(owner) != len(y):
            raise ValueError(
                f"owner names who holds {len(owner)} examples and there are {len(y)}: give one name an example"
            )
        if num_clients > len(names):
            raise ValueError(
                f"clients={num_clients} is more than the {len(names)} owners: take fewer, or another split"
            )
        if num_clients == len(names):
            return _parts(who, num_clients)
        client = np.empty(len(names), dtype=np.int64)
        client[generator.permutation(len(names))] = np.repeat(
            np.arange(num_clients), _even(len(names), num_clients)
        )
        return _parts(client[who], num_clients)

    return split


def class_numbers(y: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """Labels as they are, once it is sure that they are class numbers ``[n]`` from 0, below ``num_classes`` if given.

    Raises ValueError where they are not.
    """
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be whole class numbers [n], and these have the shape {y.shape} and type {y.dtype}"
        )
    if y.min(initial=0) < 0:
        numbered = "np.unique(y, return_inverse=True)[1] numbers any labels"
        raise ValueError(
            f"label {y.min()} is out of range: classes are numbered from 0; {numbered}"
        )
    if num_classes is not None and y.max(initial=0) >= num_classes:
        raise ValueError(
            f"label {y.max()} is out of range: there are {num_classes} classes, numbered from 0"
        )
    return y


def _quantity(
    weights: Callable[[int, np.random.Generator], np.ndarray], min_examples: int
) -> Split:
    """Shuffled examples in pieces whose sizes follow ``weights(num_clients, generator) -> [N]``."""
    check_whole(0, min_examples=min_examples)

    def split(y, num_clients, generator):
        _check(len(y), num_clients, min_examples)
        p = weights(num_clients, generator)
        owner = np.empty(len(y), dtype=np.int64)
        owner[generator.permutation(len(y))] = np.repeat(
            np.arange(num_clients), _cut(len(y), p / p.sum())
        )
        _top_up(owner, num_clients, min_examples, generator)
        return _parts(owner, num_clients)

    return split


def _choose_classes(
    k: int, num_clients: int, num_classes: int, generator: np.random.Generator
) -> np.ndarray:
    """Which client holds which class, ``[N, classes]``: k a client, and every class at least once."""
    rank = generator.random((num_clients, num_classes))
    turn = generator.permutation(num_classes)
    for i in range(num_clients):
        rank[i, turn[i % num_classes :: num_clients]] = -1  # its turn comes before what it draws
    chosen = np.zeros(rank.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(rank, axis=1)[:, :k], True, axis=1)
    return chosen


def _hand_out(y: np.ndarray, held: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Random examples of each class, as many as ``held [N, classes]`` says; its columns sum to the classes' totals."""
    owner = np.empty(len(y), dtype=np.int64)
    for c, sizes in enumerate(held.T):
        owner[generator.permutation(np.flatnonzero(y == c))] = np.repeat(
            np.arange(len(held)), sizes
        )
    return _parts(owner, len(held))


def _parts(owner: np.ndarray, num_clients: int) -> list[np.ndarray]:
    """The example numbers of each client, ascending, from who owns each."""
    ends = np.cumsum(np.bincount(owner, minlength=num_clients))
    return np.split(np.argsort(owner, kind="stable"), ends[:-1])


def _even(total: int, pieces: int) -> np.ndarray:
    """Sizes of so many pieces that differ by one at most, ``[pieces]``."""
    return total // pieces + (np.arange(pieces) < total % pieces)


def _cut(total: int, p: np.ndarray) -> np.ndarray:
    """Sizes in the proportions ``p``, which sum to 1; rounded so that they sum to ``total``."""
    cuts = (np.cumsum(p)[:-1] * total).astype(int)
    return np.diff(cuts, prepend=0, append=total)


def _top_up(
    owner: np.ndarray, num_clients: int, least: int, generator: np.random.Generator
) -> None:
    """Move examples, in place, from the largest client to the smallest until everyone has ``least``."""
    sizes = np.bincount(owner, minlength=num_clients)
    while sizes.min() < least:
        giver, taker = sizes.argmax(), sizes.argmin()
        owner[generator.choice(np.flatnonzero(owner == giver))] = taker
        sizes[giver] -= 1
        sizes[taker] += 1


def _check(num_examples: int, num_clients: int, min_examples: int = 0) -> None:
    check_whole(1, clients=num_clients)
    if num_clients > num_examples:
        raise ValueError(
            f"clients={num_clients} is more than the {num_examples} training examples: take fewer clients"
        )
    told = f"min_examples={min_examples} for {num_clients} clients"
    _check_room(min_examples * num_clients, told, num_examples, num_clients)


def _check_room(wanted: int, told: str, num_examples: int, num_clients: int) -> None:
    if wanted > num_examples:
        most = num_examples // num_clients
        raise ValueError(
            f"{told} asks for {wanted} of {num_examples} training examples: take at most {most}"
        )


def _check_alpha(alpha: float | Sequence[float]) -> None:
    values = np.asarray(alpha, dtype=object)
    if values.ndim == 1 and len(values):
        named = {f"alpha[{k}]": value for k, value in enumerate(values.tolist())}
    else:
        named = {"alpha": alpha}
    for name, value in named.items():
        if not (is_number(value) and 0 < value <= MOST):
            told = f"{name}={value!r}: a Dirichlet concentration is one number, up to {MOST:g} and above 0"
            raise ValueError(f"{told}; try 0.1 (strong skew) to 100 (nearly iid)")


def _alphas(alpha: float | Sequence[float], num_clients: int) -> np.ndarray:
    """The concentration of each client, ``[N]``."""
    each = np.asarray(alpha, dtype=float)
    if each.ndim and len(each) != num_clients:
        raise ValueError(
            f"alpha has {len(each)} numbers for {num_clients} clients: give one for all, or one per client"
        )
    return np.broadcast_to(each, num_clients)
