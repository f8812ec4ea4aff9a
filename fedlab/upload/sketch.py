"""Tables that can be added before they are opened: count sketches, and the algorithm that lives on them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fedlab.core import Algorithm, Stage, Terms, Transform
from fedlab.core.rng import key, keyed
from fedlab.core.validate import check_whole, is_number
from fedlab.upload.chains import stateless
from fedlab.upload.encodings import Sketched


def count_sketch(columns: int, *, depth: int = 5) -> Transform:
    """``depth`` rows of ``columns`` sums: number j goes into one column of each row, with a sign.  Charikar et al. 2002.

    All clients of a run have the same places and signs, so the mean of their tables is the table of their mean, which
    ``fetchsgd`` opens.
    """
    _check(columns, depth)

    def apply(message, state, cohort):
        x, hashed = message.values, key(cohort.seed, "sketch")
        if depth * columns > x.shape[1]:
            told = f"count_sketch({columns}, depth={depth}) has {depth * columns:,} numbers, and the row {x.shape[1]:,}"
            raise ValueError(f"{told}: take at most {x.shape[1] // depth:,} columns")
        return message.encoded(
            sketch(x, hashed, depth, columns), Sketched(hashed, depth, columns)
        ), state

    why = "fetchsgd remembers at the server what was lost, in a table"
    return stateless(
        apply,
        Stage.DENSE,
        Stage.REDUCED,
        update_format=_kind(columns, depth),
        no_feedback_reason=why,
        no_download_reason=why,
    )


def fetchsgd(
    k: int, *, columns: int, depth: int = 5, momentum: float = 0.9, server_lr: float = 1.0
) -> Algorithm:
    """Momentum and error feedback in the space of sketches, at the server.  Rothchild et al. 2020, Algorithm 1.

    ``S = mean of the tables``, ``S_u <- momentum S_u + S``, ``S_e <- S_e + server_lr S_u``; the k largest numbers D that S_e
    holds, each the median of what its places say, move the model: ``w <- w + D``, and ``S_e <- S_e - sketch(D)``. Where D
    moved, S_u starts anew (their momentum factor masking, section 5.1).  With ``upload=count_sketch(columns)``.
    """
    _check(columns, depth)
    check_whole(1, k=k)
    if not (is_number(momentum) and 0 <= momentum < 1):
        raise ValueError(f"momentum={momentum!r}: it is at least 0 and below 1; the paper has 0.9")
    if not (is_number(server_lr) and server_lr > 0):
        raise ValueError(
            f"server_lr={server_lr!r}: it is above 0; where clients train locally, try 1 - momentum"
        )

    def init(w, num_clients):
        return w.new_zeros(depth * columns), w.new_zeros(depth * columns)

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        hashed, (s_u, s_e) = key(cohort.seed, "sketch"), state
        s_u = momentum * s_u + mean
        s_e = s_e + server_lr * s_u
        found = unsketch(s_e, hashed, depth, columns, len(w))
        heavy = found.abs().topk(min(k, len(w))).indices
        moved = torch.zeros_like(w)
        moved[heavy] = found[heavy]
        s_e = s_e - sketch(moved[None], hashed, depth, columns)[0]
        there = moved.new_zeros(len(w)).index_fill(0, heavy, 1)
        s_u = (
            s_u
            - sketch(
                (unsketch(s_u, hashed, depth, columns, len(w)) * there)[None],
                hashed,
                depth,
                columns,
            )[0]
        )
        return w + moved, (s_u, s_e)

    def contributions(updates, cohort):
        return updates.delta, updates.num_examples

    return Algorithm(
        init,
        lambda state, cohort: Terms(),
        contributions,
        step,
        update_format=_kind(columns, depth),
    )


def sketch(x: Tensor, key: int, depth: int, columns: int) -> Tensor:
    """The tables ``[m, depth * columns]`` of rows ``x [m, d]``."""
    place, signs = _hashes(key, depth, columns, x.shape[1])
    table = x.new_zeros(len(x), depth * columns)
    for there, sign in zip(place, signs, strict=True):
        table.index_add_(1, there.to(x.device), x * sign.to(x))
    return table


def unsketch(table: Tensor, key: int, depth: int, columns: int, width: int) -> Tensor:
    """What a table ``[depth * columns]`` says of each number, ``[width]``: the median of its ``depth`` places."""
    place, signs = _hashes(key, depth, columns, width)
    return (table[place.to(table.device)] * signs.to(table)).median(0).values


@lru_cache(maxsize=5)
def _hashes(key: int, depth: int, columns: int, width: int) -> tuple[Tensor, Tensor]:
    """Place in the table and sign of every number in every row of it, ``[depth, width]``."""
    draw = keyed(key)
    place = (
        draw.integers(columns, size=(depth, width)) + columns * torch.arange(depth)[:, None].numpy()
    )
    return torch.from_numpy(place), torch.from_numpy(
        draw.integers(2, size=(depth, width), dtype="int8") * 2 - 1
    )


def _check(columns: int, depth: int) -> None:
    check_whole(1, columns=columns, depth=depth)
    if depth % 2 == 0:
        raise ValueError(
            f"depth={depth}: it is odd, so that the median is one of its rows; take {depth + 1}"
        )


def _kind(columns: int, depth: int) -> str:
    return f"sketches of {depth} x {columns}"
