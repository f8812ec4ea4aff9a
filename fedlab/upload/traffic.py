"""What travels in a round, each way, and what it costs: for each client bytes of header, indices and values.

The links of a run are a dict of plain values that the loop owns, as it does an algorithm's state: it can be saved and put
back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Budget, Cohort, Experiment, Message
from fedlab.core.rng import key
from fedlab.upload import wire
from fedlab.upload.transforms import select_rows, send, sparsify, within_mask

COLUMNS = tuple(
    f"{way}_{part}" for way in ("up", "down") for part in wire.PARTS
)  # of both tables, in bytes


def begin(experiment: Experiment, w: Tensor, num_clients: int) -> dict[str, Any]:
    """The links before the first round: nobody has anything of the model ``w [d]``."""
    shapes = experiment.task.shapes
    return {
        "upload": experiment.upload.init(w, shapes, num_clients),
        "download": experiment.download.init(w, shapes, 1),
        "model": None
        if experiment.download.is_identity
        else w,  # what a client has that missed nothing
        "sent": np.zeros(
            3, dtype=np.int64
        ),  # bytes of all broadcasts so far, as wire.PARTS has them
        "seen": np.full(
            (num_clients, 3), -1, dtype=np.int64
        ),  # what they were when a client last took part
        "mask": None,  # of everyone's model, if the algorithm has one
        "told": np.zeros(num_clients, dtype=bool),  # to whom it has been sent
        "spent": np.zeros((num_clients, 2), dtype=np.int64),  # bytes up and down
        "over": False,  # whether the budget ended the run
    }


def broadcast(
    experiment: Experiment,
    links: dict[str, Any],
    w: Tensor,
    cohort: Cohort,
    mask: Tensor | None = None,
    count: np.ndarray | None = None,
) -> tuple[Tensor, np.ndarray]:
    """The model ``[d]`` that the cohort starts from, and what its clients fetch for it, ``[m, 3]``.

    The server sends ``C(w - model)`` and keeps ``model <- model + C(w - model)``, which is what clients have: what was lost
    is still in the next difference, which is its error feedback.  Who missed rounds fetches those differences too, or the
    model whole, whatever is less.  Of a model with a ``mask`` only the numbers within it are fetched, or ``count [m]``.
    """
    shapes = experiment.task.shapes
    if count is not None:
        return w, experiment.algorithm.vectors_down * wire.masked(shapes, w.dtype, count)
    if mask is not None:
        return w, _fetched(experiment, links, w, cohort, mask)
    whole = wire.dense(tuple(shapes.items()), w.dtype)
    more = (experiment.algorithm.vectors_down - 1) * whole
    if experiment.download.is_identity:
        return w, (whole + more)[None].repeat(len(cohort.ids), 0)
    server = Cohort(np.zeros(1, dtype=np.int64), cohort.round, key(cohort.seed, "download"), 1)
    lacking = Message((w - links["model"])[None], shapes)
    message, links["download"] = experiment.download.apply(lacking, links["download"], server)
    links["model"] = links["model"] + message.delta[0]
    links["sent"] = links["sent"] + wire.sizes(message)[0]
    seen = links["seen"][cohort.ids]
    missed = links["sent"] - seen
    cheap = (seen[:, 0] >= 0) & (missed.sum(1) < whole.sum())
    links["seen"][cohort.ids] = links["sent"]
    return links["model"], np.where(cheap[:, None], missed, whole) + more


def _fetched(
    experiment: Experiment, links: dict[str, Any], w: Tensor, cohort: Cohort, mask: Tensor
) -> np.ndarray:
    """Of masked models: numbers, and the places of one for everyone for whom it is new, ``[m, 3]``."""
    shapes = experiment.task.shapes
    each = wire.masked(shapes, w.dtype, _count(mask, len(cohort.ids)))
    fetched = experiment.algorithm.vectors_down * each
    if mask.dim() > 1:
        return fetched
    if links["mask"] is None or not torch.equal(links["mask"], mask):
        links["mask"], links["told"] = mask, np.zeros_like(links["told"])
    new = ~links["told"][cohort.ids]
    if new.any():
        fetched[new] += wire.sizes(sparsify(Message(w[None], shapes), mask.nonzero().T)) - each[new]
        links["told"] = links["told"] | np.isin(np.arange(cohort.num_clients), cohort.ids)
    return fetched


def receive(
    experiment: Experiment,
    links: dict[str, Any],
    delta: Tensor,
    cohort: Cohort,
    trained: np.ndarray,
    mask: Tensor | None = None,
) -> tuple[Tensor, np.ndarray]:
    """The cohort's rows as the server has them, and what came up for each, ``[m, 3]``; of who did not train, nothing."""
    shapes, m = experiment.task.shapes, len(trained)
    whole = wire.dense(tuple(shapes.items()), delta.dtype)
    beside = whole if mask is None else wire.masked(shapes, delta.dtype, _count(mask, m))
    if experiment.upload.is_identity:
        return delta, trained[:, None] * (experiment.algorithm.vectors_up * beside)
    beside, parts = np.broadcast_to(beside, (m, 3)), np.zeros((m, 3), dtype=np.int64)
    everyone, rows, came = (
        Message(delta, shapes, mask=mask if mask is None else torch.atleast_2d(mask)),
        [],
        [],
    )
    for which in _as_many(everyone.mask, np.flatnonzero(trained)):
        mine = cohort.subset(which)
        message, links["upload"] = send(
            experiment.upload, select_rows(everyone, which), links["upload"], mine
        )
        message = within_mask(message)
        parts[which] = wire.sizes(message) + (experiment.algorithm.vectors_up - 1) * beside[which]
        rows.append(message.delta)
        came.append(which)
    if not rows or len(came[0]) == m:
        return rows[0] if rows else delta, parts
    received = rows[0].new_zeros(m, rows[0].shape[1])
    received[torch.from_numpy(np.concatenate(came))] = torch.cat(rows)
    return received, parts


def _count(mask: Tensor, m: int) -> np.ndarray:
    """How many numbers each of ``m`` clients has, ``[m]``."""
    return np.broadcast_to(torch.count_nonzero(mask, -1).numpy(force=True), m)


def _as_many(mask: Tensor | None, which: np.ndarray) -> list[np.ndarray]:
    """Clients in groups whose masks have equally many numbers, as those of one message must."""
    if mask is None or len(mask) == 1 or not len(which):
        return [which] if len(which) else []
    count = mask.sum(1).numpy(force=True)[which]
    return [which[count == n] for n in np.unique(count)]


def spend(
    experiment: Experiment, links: dict[str, Any], cohort: Cohort, up: np.ndarray, down: np.ndarray
) -> bool:
    """Whether the budget has room for a round's bytes ``[m, 3]`` up and down; then they are spent, else the run is over."""
    spent = links["spent"].copy()
    for way, parts in enumerate((up, down)):
        spent[cohort.ids, way] += parts.sum(1)
    if experiment.budget is not None:
        budget = Budget.parse(experiment.budget)
        counted = spent[:, {"up": [0], "down": [1], "": [0, 1]}[budget.direction]].sum(1)
        if (counted.max(initial=0) if budget.per_client else counted.sum()) > budget.bytes:
            links["over"] = True
            return False
    links["spent"] = spent
    return True
