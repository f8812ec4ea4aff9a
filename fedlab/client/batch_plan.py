"""The order in which clients visit their examples, and the work of a cohort."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Local, Terms, Work, generator


def batches(part: np.ndarray, tickets: Iterable[np.ndarray], local: Local) -> list[np.ndarray]:
    """One client's batches in a round: in each epoch it visits its examples in the order of their tickets.

    ``part [n_i]`` are example numbers, ``tickets`` come from ``shuffle_keys()``; gives example numbers, a step each.
    """
    size = local.batch_size or max(1, len(part))
    steps = []
    for ticket in tickets:
        order = part[np.argsort(ticket[part], kind="stable")]
        steps += [order[k : k + size] for k in range(0, len(order), size)]
    return steps[: local.steps]


def shuffle_keys(num_examples: int, epochs: int, seed: int, round: int) -> Iterator[np.ndarray]:
    """A random number for each example ``[n]``, for one epoch of a round after the other.

    One draw for everybody: a client's order depends on seed, round and its own examples, not on who else takes part.
    """
    draw = generator(seed, "batches", round)
    return (draw.random(num_examples, dtype=np.float32) for _ in range(epochs))


def epochs_needed(sizes: np.ndarray, local: Local) -> int:
    """Passes over the data for what ``local`` asks of clients with these ``sizes``."""
    if local.steps is None or not (sizes > 0).any():
        return local.epochs
    smallest = sizes[sizes > 0].min()
    return -(-local.steps // -(-smallest // (local.batch_size or smallest)))


def plan(
    parts: list[np.ndarray], seed: int | Sequence[int], round: int, local: Local, num_examples: int
) -> np.ndarray:
    """The batches of a whole cohort at once, ``[m, K, B]``; -1 pads.  Row i holds ``batches(parts[i], ...)``.

    ``seed`` is everyone's, or each client's: of runs in lockstep, whose cohorts are planned as one.
    """
    sizes = np.array([len(part) for part in parts])
    longest = sizes.max(initial=0)
    if longest == 0:
        return np.full((len(parts), 0, 1), -1)
    size = min(local.batch_size or longest, longest)
    each = -(-sizes // size)  # [m], steps in an epoch
    width = -(-longest // size) * size  # n_max, rounded up to whole batches
    padded = np.full((len(parts), width), -1)
    padded[np.arange(width) < sizes[:, None]] = np.concatenate(parts)
    seeds = seed if isinstance(seed, Sequence) else [seed]
    each_seed, needed = (
        {one: k for k, one in enumerate(dict.fromkeys(seeds))},
        epochs_needed(sizes, local),
    )
    draws = [shuffle_keys(num_examples, needed, one, round) for one in each_seed]
    own = (
        num_examples * np.array([each_seed[one] for one in seeds])[:, None]
    )  # where a client's tickets begin
    rows = np.arange(len(parts))[:, None]
    epochs = []
    for drawn in zip(*draws, strict=True):
        if (
            local.steps is not None
        ):  # larger clients are done sooner: what they get from then on is cut in the end
            width = each[len(epochs) * each < local.steps].max() * size
        held = padded[:, :width]
        keys = np.where(held < 0, np.inf, np.concatenate(drawn)[held + own])  # pads go last
        epochs.append(held[rows, np.argsort(keys, axis=1, kind="stable")])
    steps = np.concatenate(epochs, axis=1).reshape(len(parts), -1, size)  # [m, K, B]
    if len(epochs) > 1:  # shorter clients leave gaps between their epochs: close them
        steps = steps[rows, np.argsort(steps[:, :, 0] < 0, axis=1, kind="stable")]
    return steps[:, : local.steps]


def stack_plans(plans: Sequence[np.ndarray]) -> np.ndarray:
    """Plans ``[m, K, B]`` one under the other, padded with -1 to the longest K and B."""
    if len(plans) == 1:
        return plans[0]
    m, k, b = (
        f(sizes)
        for f, sizes in zip(
            (sum, max, max), zip(*(p.shape for p in plans), strict=True), strict=True
        )
    )
    whole, row = np.full((m, k, b), -1), 0
    for p in plans:
        whole[row : row + len(p), : p.shape[1], : p.shape[2]] = p
        row += len(p)
    return whole


def assign(
    w: Tensor,
    parts: list[np.ndarray],
    local: Sequence[Local],
    plan: np.ndarray,
    terms: Terms | None = None,
    names: Sequence[str] = (),
) -> Work:
    """The work of clients that hold ``parts``, each with its own ``local``, and start from the model ``w [d]``.

    ``names`` are those of the row's tensors, some of which the ``terms`` may fix.
    """
    m, terms = len(parts), terms or Terms()
    rows = [
        (len(part), mine.lr * terms.lr, terms.mu, mine.momentum, mine.weight_decay)
        for part, mine in zip(parts, local, strict=True)
    ]
    columns = np.array(rows, dtype=float).reshape(m, 5).T
    optimizer = local[0].optimizer if local else "sgd"
    mask = None if terms.mask is None else torch.atleast_2d(terms.mask)
    start = w[None] if terms.start is None else terms.start(w)
    start = start if mask is None else start * mask
    mask = mask if mask is None else mask.expand(start.shape)
    fixed = (
        np.tile([name in terms.fixed for name in names], (len(start), 1)) if terms.fixed else None
    )
    origin = np.arange(m) if len(start) == m else np.zeros(m, dtype=int)
    return Work(
        start,
        origin,
        plan,
        *columns,
        terms.h,
        mask,
        fixed,
        optimizer=optimizer,
        centre=terms.centre,
    )
