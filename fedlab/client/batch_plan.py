"""The order in which clients visit their examples, and the work of a cohort."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Local, Terms, Work, generator


def batches(part: np.ndarray, shuffle_keys: Iterable[np.ndarray], local: Local) -> list[np.ndarray]:
    """Return the batches of one client in a round.

    In each epoch the client visits its examples in the order of their shuffle keys.

    Args:
        part: Numbers of the client's examples, ``[n_i]``.
        shuffle_keys: A key for each example, for one epoch after the other (see
            ``shuffle_keys``).
        local: Local training: batch size, and steps if they are fixed.

    Returns:
        Example numbers, one array per step.

    Example:
        >>> keys = [np.array([0.9, 0.1, 0.5])]
        >>> batches(np.arange(3), keys, Local(0.1, batch_size=2))
        [array([1, 2]), array([0])]
    """
    size = local.batch_size or max(1, len(part))
    steps: list[np.ndarray] = []
    for keys in shuffle_keys:
        order = part[np.argsort(keys[part], kind="stable")]
        steps += [order[k : k + size] for k in range(0, len(order), size)]
    return steps[: local.steps]


def shuffle_keys(num_examples: int, epochs: int, seed: int, round: int) -> Iterator[np.ndarray]:
    """Draw a random number for each example, for one epoch of a round after the other.

    All clients share a draw.  So a client's order depends on the seed, the round and its own
    examples, and not on the rest of the cohort.

    Args:
        num_examples: Examples of all clients, n.
        epochs: Epochs of the round.
        seed: Seed of the run.
        round: Round, from 1.

    Returns:
        An iterator of ``epochs`` arrays ``[n]``.

    Example:
        >>> first, second = shuffle_keys(4, epochs=2, seed=0, round=1)
        >>> first.shape, bool((first == second).any())
        ((4,), False)
    """
    draw = generator(seed, "batches", round)
    return (draw.random(num_examples, dtype=np.float32) for _ in range(epochs))


def epochs_needed(sizes: np.ndarray, local: Local) -> int:
    """Return the passes over the data that ``local`` asks of clients with these ``sizes``.

    Example:
        >>> epochs_needed(np.array([10, 40]), Local(0.1, batch_size=5, steps=6))
        3
    """
    if local.steps is None or not (sizes > 0).any():
        return local.epochs
    smallest = int(sizes[sizes > 0].min())
    return -(-local.steps // -(-smallest // (local.batch_size or smallest)))


def plan(
    parts: list[np.ndarray], seed: int | Sequence[int], round: int, local: Local, num_examples: int
) -> np.ndarray:
    """Return the batches of a whole cohort at once.

    Args:
        parts: Numbers of the examples of each client.
        seed: Seed of the run; or one per client, for runs that train in lockstep.
        round: Round, from 1.
        local: Local training.
        num_examples: Examples of all clients, n.

    Returns:
        Example numbers ``[m, K, B]``, padded with -1.  Row i holds ``batches(parts[i], ...)``.

    Example:
        >>> parts = [np.array([0, 1, 2]), np.array([3])]
        >>> batches = plan(parts, seed=0, round=1, local=Local(0.1, batch_size=2), num_examples=4)
        >>> batches.shape, batches[1].tolist()
        ((2, 2, 2), [[3, -1], [-1, -1]])
    """
    sizes = np.array([len(part) for part in parts])
    longest = sizes.max(initial=0)
    if longest == 0:
        return np.full((len(parts), 0, 1), -1)
    size = min(local.batch_size or longest, longest)
    steps_per_epoch = -(-sizes // size)  # [m]
    width = -(-longest // size) * size  # n_max, rounded up to whole batches
    padded = np.full((len(parts), width), -1)
    padded[np.arange(width) < sizes[:, None]] = np.concatenate(parts)
    seeds = seed if isinstance(seed, Sequence) else [seed]
    place = {value: k for k, value in enumerate(dict.fromkeys(seeds))}
    needed = epochs_needed(sizes, local)
    draws = [shuffle_keys(num_examples, needed, value, round) for value in place]
    # The keys of all seeds follow each other: each client's begin at the offset of its seed.
    offset = num_examples * np.array([place[value] for value in seeds])[:, None]
    rows = np.arange(len(parts))[:, None]
    epochs: list[np.ndarray] = []
    for keys in zip(*draws, strict=True):
        if local.steps is not None:  # clients with enough steps need no further epoch
            width = steps_per_epoch[len(epochs) * steps_per_epoch < local.steps].max() * size
        order = _shuffle(padded[:, :width], np.concatenate(keys), offset)
        epochs.append(padded[:, :width][rows, order])
    steps = np.concatenate(epochs, axis=1).reshape(len(parts), -1, size)  # [m, K, B]
    if len(epochs) > 1:  # shorter clients leave gaps between their epochs: close them
        steps = steps[rows, np.argsort(steps[:, :, 0] < 0, axis=1, kind="stable")]
    return steps[:, : local.steps]


def _shuffle(padded: np.ndarray, keys: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the order of each row by its keys, pads last."""
    return np.argsort(np.where(padded < 0, np.inf, keys[padded + offset]), axis=1, kind="stable")


def stack_plans(plans: Sequence[np.ndarray]) -> np.ndarray:
    """Return plans ``[m, K, B]`` one under the other, padded with -1 to the longest K and B.

    Example:
        >>> stack_plans([np.zeros((1, 2, 1), int), np.ones((1, 1, 2), int)]).tolist()
        [[[0, -1], [0, -1]], [[1, 1], [-1, -1]]]
    """
    if len(plans) == 1:
        return plans[0]
    clients, steps, sizes = zip(*(p.shape for p in plans), strict=True)
    stacked, row = np.full((sum(clients), max(steps), max(sizes)), -1), 0
    for p in plans:
        stacked[row : row + len(p), : p.shape[1], : p.shape[2]] = p
        row += len(p)
    return stacked


def assign(
    w: Tensor,
    parts: list[np.ndarray],
    local: Sequence[Local],
    plan: np.ndarray,
    terms: Terms | None = None,
    names: Sequence[str] = (),
) -> Work:
    """Return the work of clients that start from one model.

    Args:
        w: The server's model, ``[d]``.
        parts: Numbers of the examples of each client.
        local: Local training of each client.
        plan: Their batches, ``[m, K, B]``, from ``plan``.
        terms: Linear and proximal terms, masks and starts of the algorithm (default: none).
        names: Names of the tensors of the row, some of which the terms may fix.

    Example:
        >>> parts, local = [np.array([0, 1]), np.array([2])], Local(0.1, batch_size=None)
        >>> work = assign(torch.zeros(3), parts, [local] * 2, plan(parts, 0, 1, local, 3))
        >>> work.start.shape, work.origin, work.num_examples
        (torch.Size([1, 3]), array([0, 0]), array([2., 1.]))
    """
    m, terms = len(parts), terms or Terms()
    rows = [
        (len(part), each.lr * terms.lr, terms.mu, each.momentum, each.weight_decay)
        for part, each in zip(parts, local, strict=True)
    ]
    settings = ("num_examples", "lr", "mu", "momentum", "weight_decay")
    columns: dict[str, Any] = {}
    columns.update(zip(settings, np.array(rows, dtype=float).reshape(m, 5).T, strict=True))
    optimizer = local[0].optimizer if local else "sgd"
    mask = None if terms.mask is None else torch.atleast_2d(terms.mask)
    start = w[None] if terms.start is None else terms.start(w)
    start = start if mask is None else start * mask
    mask = mask if mask is None else mask.expand(start.shape)
    fixed = None
    if terms.fixed:
        fixed = np.tile([name in terms.fixed for name in names], (len(start), 1))
    origin = np.arange(m) if len(start) == m else np.zeros(m, dtype=int)
    return Work(
        start,
        origin,
        plan,
        **columns,
        h=terms.h,
        mask=mask,
        fixed=fixed,
        optimizer=optimizer,
        centre=terms.centre,
    )
