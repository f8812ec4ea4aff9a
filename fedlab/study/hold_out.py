"""Examples and clients held out of training: validation sets, and clients that come later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedlab.core import FederatedDataset, generator


def hold_out_examples(
    data: FederatedDataset, share: float = 0.2, *, seed: int = 0
) -> FederatedDataset:
    """Turn a share of each client's training examples into the test set.

    The former test set is dropped. The held-out examples stay in ``x`` and ``y``, where no client
    holds them: datasets that share their tensors can train in lockstep.

    Args:
        data: Clients that hold examples.
        share: Share of each client's examples, above 0 and below 1. It is reached on average:
            whether a small client gives one more is drawn. A client keeps at least one example.
        seed: Seed of the draw.

    Returns:
        The same clients. ``test_parts`` says which client each test example is from, so that
        ``evaluate_clients`` can measure how well each client is served.

    Raises:
        ValueError: If ``share`` is out of range, or no client has an example to spare.

    Example:
        >>> from fedlab.data import load
        >>> digits = load("digits", clients=10)
        >>> held_out = hold_out_examples(digits, share=0.25)
        >>> len(held_out.test[1]) + int(held_out.sizes.sum()) == len(digits.y)
        True
    """
    if not 0 < share < 1:
        raise ValueError(
            f"share={share} must be above 0 and below 1 (it is a share of each client's examples). "
            "Try 0.2"
        )
    draw, sizes = generator(seed, "validation"), data.sizes
    # rounded up or down at random, so that small clients give their share on average, too
    counts = np.floor(share * sizes + draw.random(len(sizes))).astype(int)
    counts = np.minimum(counts, np.maximum(sizes - 1, 0))
    if not counts.any():
        raise ValueError(
            f"share={share} of clients with {sizes.min()} to {sizes.max(initial=0)} examples is "
            "nothing. Try a larger share, or fewer clients"
        )
    orders = [draw.permutation(part) for part in data.parts]
    held_out = [np.sort(order[:k]) for order, k in zip(orders, counts, strict=True)]
    test_ids = np.sort(np.concatenate(held_out))
    return replace(
        data,
        parts=[np.sort(order[k:]) for order, k in zip(orders, counts, strict=True)],
        test=(data.x[test_ids], data.y[test_ids]),
        test_parts=[np.searchsorted(test_ids, ids) for ids in held_out],
    )


def hold_out_clients(
    data: FederatedDataset, share: float = 0.2, *, seed: int = 0
) -> FederatedDataset:
    """Keep a share of the clients out of training: their examples become test examples.

    A federation should also serve clients that come later, and ``evaluate_clients`` measures it.

    Args:
        data: Clients that hold examples. Test examples that belong to a client stay.
        share: Share of the clients that hold examples, above 0 and below 1; at least one client.
        seed: Seed of the draw.

    Returns:
        The same N clients, of which the drawn ones hold no training examples. ``test`` has the
        examples of these clients behind the test examples that belong to a client; test examples
        without an owner are dropped. Draw cohorts by ``with_examples(uniform(10))``, so that no
        place in them goes to a client that never trains.

    Raises:
        ValueError: If ``share`` is out of range, or no client would be left to train.

    Example:
        >>> from fedlab.data import load
        >>> digits = hold_out_clients(load("digits", clients=10), share=0.3)
        >>> int((digits.sizes == 0).sum()), sum(len(part) > 0 for part in digits.test_parts)
        (3, 3)
    """
    drawn = _draw_clients(data, share, seed)
    no_ids = np.empty(0, dtype=np.int64)
    test_parts = [no_ids] * data.num_clients if data.test_parts is None else data.test_parts
    owned = np.concatenate([no_ids, *test_parts])
    moved = np.concatenate([data.parts[i] for i in drawn])
    # rows of the new test set: first the owned test examples, then the drawn clients' examples
    parts, tests = list(data.parts), _consecutive(0, [len(part) for part in test_parts])
    added = _consecutive(len(owned), [len(data.parts[i]) for i in drawn])
    for i, ids in zip(drawn, added, strict=True):
        tests[i], parts[i] = np.concatenate([tests[i], ids]), no_ids
    x = torch.cat([data.test[0][owned], data.x[moved]])
    y = torch.cat([data.test[1][owned], data.y[moved]])
    return replace(data, parts=parts, test=(x, y), test_parts=tests)


def _draw_clients(data: FederatedDataset, share: float, seed: int) -> list[int]:
    """Return the clients to hold out, in ascending order."""
    if not 0 < share < 1:
        raise ValueError(
            f"share={share} must be above 0 and below 1 (it is a share of the clients). Try 0.2"
        )
    present = np.flatnonzero(data.sizes)
    count = max(1, round(share * len(present)))
    if count >= len(present):
        raise ValueError(
            f"share={share} of {len(present)} clients leaves none to train. "
            "Try more clients, or a smaller share"
        )
    draw = generator(seed, "held-out clients")
    return sorted(draw.choice(present, count, replace=False).tolist())


def _consecutive(start: int, sizes: Sequence[int]) -> list[np.ndarray]:
    """Return consecutive ranges of these sizes, from ``start`` on."""
    ends = np.cumsum(sizes)
    return np.split(np.arange(start, start + int(ends[-1])), ends[:-1])
