"""Count sketches, tables that the server can add up, and FetchSGD on them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Algorithm, Stage, Terms, Transform
from fedlab.core.rng import key, keyed
from fedlab.core.validate import check_whole, is_number
from fedlab.upload.chains import stateless
from fedlab.upload.encodings import Sketched


def count_sketch(columns: int, *, depth: int = 5) -> Transform:
    """Send a table of sums.

    In each row of the table, every number goes into one column, with a sign. All clients of a run
    have the same columns and signs. The mean of their tables is therefore the table of their mean,
    which ``fetchsgd`` decodes. Charikar et al. 2002.

    Args:
        columns: Sums per row of the table, at least 1.
        depth: Rows of the table, odd.

    Returns:
        A transform whose ``update_format`` only ``fetchsgd(columns=columns, depth=depth)`` takes.

    Raises:
        ValueError: If ``depth`` is even; when it is used, if the table is larger than the update.

    Example:
        >>> upload = count_sketch(1000)
        >>> upload.update_format
        'sketches of 5 x 1000'
    """
    _check(columns, depth)

    def apply(message, state, cohort):
        x, seed_key = message.values, key(cohort.seed, "sketch")
        width = x.shape[1]
        if depth * columns > width:
            raise ValueError(
                f"count_sketch({columns}, depth={depth}) has {depth * columns:,} numbers and must "
                f"have at most the {width:,} of an update. Try columns={width // depth}"
            )
        table = sketch(x, seed_key, depth, columns)
        return message.encoded(table, Sketched(seed_key, depth, columns)), state

    reason = "fetchsgd remembers on the server what was lost, in a table. Try it alone"
    return stateless(
        apply,
        Stage.DENSE,
        Stage.REDUCED,
        update_format=_update_format(columns, depth),
        no_feedback_reason=reason,
        no_download_reason=reason,
    )


def fetchsgd(
    k: int, *, columns: int, depth: int = 5, momentum: float = 0.9, server_lr: float = 1.0
) -> Algorithm:
    """Keep momentum and error feedback on the server, in the space of sketches.

    S is the mean of the clients' tables: ``S_u <- momentum S_u + S`` and
    ``S_e <- S_e + server_lr S_u``. The k largest numbers D that S_e holds move the model:
    ``w <- w + D`` and ``S_e <- S_e - sketch(D)``. Where D moved, S_u starts anew (momentum factor
    masking, section 5.1). Rothchild et al. 2020, Algorithm 1.

    Args:
        k: Parameters that move per round, at least 1.
        columns: Columns of the table, as in ``count_sketch(columns)``.
        depth: Rows of the table, odd. Each number is the median of its ``depth`` sums.
        momentum: Share of S_u that stays, at least 0 and below 1; 0.9 in the paper.
        server_lr: Step on the server, above 0.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> algorithm, upload = fetchsgd(100, columns=450), count_sketch(450)
        >>> algorithm.update_format == upload.update_format
        True
    """
    _check(columns, depth)
    check_whole(1, k=k)
    if not (is_number(momentum) and 0 <= momentum < 1):
        raise ValueError(f"momentum={momentum!r} must be at least 0 and below 1. Try 0.9")
    if not (is_number(server_lr) and server_lr > 0):
        raise ValueError(
            f"server_lr={server_lr!r} must be above 0. Try 1 - momentum, where clients take many "
            "steps"
        )

    def init(w, num_clients):
        return w.new_zeros(depth * columns), w.new_zeros(depth * columns)

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        shape = key(cohort.seed, "sketch"), depth, columns
        s_u, s_e = state
        s_u = momentum * s_u + mean
        s_e = s_e + server_lr * s_u
        estimate = unsketch(s_e, *shape, len(w))
        heavy = estimate.abs().topk(min(k, len(w))).indices
        moved = torch.zeros_like(w)
        moved[heavy] = estimate[heavy]
        s_e = s_e - sketch(moved[None], *shape)[0]
        is_heavy = moved.new_zeros(len(w)).index_fill(0, heavy, 1)
        s_u = s_u - sketch((unsketch(s_u, *shape, len(w)) * is_heavy)[None], *shape)[0]
        return w + moved, (s_u, s_e)

    def contributions(updates, cohort):
        return updates.delta, updates.num_examples

    return Algorithm(
        init,
        lambda state, cohort: Terms(),
        contributions,
        step,
        update_format=_update_format(columns, depth),
    )


def sketch(x: Tensor, key: int, depth: int, columns: int) -> Tensor:
    """Return the tables of rows.

    Args:
        x: Rows ``[m, d]``.
        key: Key of the columns and signs.
        depth: Rows of a table.
        columns: Columns of a table.

    Returns:
        Tables ``[m, depth * columns]``.
    """
    index, signs = _hashes(key, depth, columns, x.shape[1])
    table = x.new_zeros(len(x), depth * columns)
    for cells, sign in zip(index, signs, strict=True):
        table.index_add_(1, cells.to(x.device), x * sign.to(x))
    return table


def unsketch(table: Tensor, key: int, depth: int, columns: int, width: int) -> Tensor:
    """Estimate each number of a row from its table, as the median of its ``depth`` sums.

    Args:
        table: A table ``[depth * columns]``.
        key: Key of the columns and signs.
        depth: Rows of the table, odd.
        columns: Columns of the table.
        width: Numbers of the row.

    Returns:
        Estimates ``[width]``.

    Example:
        >>> x = torch.zeros(1, 100)
        >>> x[0, 7] = 5.0
        >>> estimate = unsketch(sketch(x, 1, 5, 20)[0], 1, 5, 20, 100)
        >>> estimate[7].item(), estimate.abs().argmax().item()
        (5.0, 7)
    """
    index, signs = _hashes(key, depth, columns, width)
    return (table[index.to(table.device)] * signs.to(table)).median(0).values


@lru_cache(maxsize=5)
def _hashes(key: int, depth: int, columns: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw the cell and the sign of every number in every row of a table, ``[depth, width]``."""
    draw = keyed(key)
    index = draw.integers(columns, size=(depth, width)) + columns * np.arange(depth)[:, None]
    signs = draw.integers(2, size=(depth, width), dtype="int8") * 2 - 1
    return torch.from_numpy(index), torch.from_numpy(signs)


def _check(columns: int, depth: int) -> None:
    check_whole(1, columns=columns, depth=depth)
    if depth % 2 == 0:
        raise ValueError(
            f"depth={depth} must be odd (the median is one of the rows). Try {depth + 1}"
        )


def _update_format(columns: int, depth: int) -> str:
    return f"sketches of {depth} x {columns}"
