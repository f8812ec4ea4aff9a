"""What travels in a round, each way, and what it costs: for each client bytes of header, indices and values.

The links of a run are a dict of plain values that the loop owns, as it does an algorithm's state: it can be saved and put
back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fedlab.records import Budget, Cohort, Experiment, Message
from fedlab.rng import key
from fedlab.upload import wire
from fedlab.upload.transforms import only

COLUMNS = tuple(f"{way}_{part}" for way in ("up", "down") for part in wire.PARTS)  # of both tables, in bytes


def begin(experiment: Experiment, w: Tensor, num_clients: int) -> dict[str, Any]:
    """The links before the first round: nobody has anything of the model ``w [d]``."""
    shapes = experiment.task.shapes
    return {
        "upload": experiment.upload.init(w, shapes, num_clients),
        "download": experiment.download.init(w, shapes, 1),
        "model": None if experiment.download.is_whole else w,  # what a client has that missed nothing
        "sent": np.zeros(3, dtype=np.int64),  # bytes of all broadcasts so far, as wire.PARTS has them
        "seen": np.full((num_clients, 3), -1, dtype=np.int64),  # what they were when a client last took part
        "spent": np.zeros((num_clients, 2), dtype=np.int64),  # bytes up and down
        "over": False,  # whether the budget ended the run
    }


def broadcast(experiment: Experiment, links: dict[str, Any], w: Tensor, cohort: Cohort) -> tuple[Tensor, np.ndarray]:
    """The model ``[d]`` that the cohort starts from, and what its clients fetch for it, ``[m, 3]``.

    The server sends ``C(w - model)`` and keeps ``model <- model + C(w - model)``, which is what clients have: what was lost
    is still in the next difference, which is its error feedback.  Who missed rounds fetches those differences too, or the
    model whole, whatever is less.
    """
    shapes = experiment.task.shapes
    whole = wire.dense(tuple(shapes.items()), w.dtype)
    more = (experiment.algorithm.receives - 1) * whole
    if experiment.download.is_whole:
        return w, np.tile(whole + more, (len(cohort.ids), 1))
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


def receive(
    experiment: Experiment, links: dict[str, Any], delta: Tensor, cohort: Cohort, trained: np.ndarray
) -> tuple[Tensor, np.ndarray]:
    """The cohort's rows as the server has them, and what came up for each, ``[m, 3]``; of who did not train, nothing."""
    shapes = experiment.task.shapes
    whole = wire.dense(tuple(shapes.items()), delta.dtype)
    if experiment.upload.is_whole:
        return delta, trained[:, None] * (experiment.algorithm.sends * whole)
    message = Message(delta, shapes)
    if not trained.any():
        return delta, np.zeros((len(delta), 3), dtype=np.int64)
    if trained.all():
        message, links["upload"] = experiment.upload.apply(message, links["upload"], cohort)
    else:
        message, links["upload"] = only(trained, experiment.upload, message, links["upload"], cohort)
    parts = wire.sizes(message) + (experiment.algorithm.sends - 1) * whole
    return message.delta, np.where(trained[:, None], parts, 0)


def spend(experiment: Experiment, links: dict[str, Any], cohort: Cohort, up: np.ndarray, down: np.ndarray) -> bool:
    """Whether the budget has room for a round's bytes ``[m, 3]`` up and down; then they are spent, else the run is over."""
    spent = links["spent"].copy()
    spent[cohort.ids] += np.stack([up.sum(1), down.sum(1)], 1)
    if experiment.budget is not None:
        budget = Budget.of(experiment.budget)
        counted = spent[:, {"up": [0], "down": [1], "": [0, 1]}[budget.way]].sum(1)
        if (counted.max(initial=0) if budget.each else counted.sum()) > budget.bytes:
            links["over"] = True
            return False
    links["spent"] = spent
    return True
