"""Messages between server and clients, and their bytes: header, indices and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Budget, Cohort, Experiment, Message
from fedlab.core.rng import key
from fedlab.upload import wire
from fedlab.upload.chains import select_rows, send, sparsify, within_mask

# Byte columns of both tables of a result.
COLUMNS = tuple(f"{way}_{part}" for way in ("up", "down") for part in wire.PARTS)


@dataclass(eq=False)
class Traffic:
    """Messages of one run so far, as plain values that a checkpoint can keep.

    Attributes:
        upload_state: State of the upload transform.
        download_state: State of the download transform.
        client_model: Model ``[d]`` of a client that missed no broadcast; None if the download
            is not compressed.
        bytes_broadcast: Bytes of all broadcasts so far ``[3]``, as ``wire.PARTS`` names them.
        bytes_seen: Value of ``bytes_broadcast`` when each client last took part ``[N, 3]``; -1
            before its first round.
        mask: Mask ``[d]`` that all clients share, if the algorithm has one.
        mask_known: True for clients ``[N]`` that have received ``mask``.
        bytes_spent: Bytes up and down of each client ``[N, 2]``.
        budget_exhausted: True once the budget has ended the run.
    """

    upload_state: Any
    download_state: Any
    client_model: Tensor | None
    bytes_broadcast: np.ndarray
    bytes_seen: np.ndarray
    mask: Tensor | None
    mask_known: np.ndarray
    bytes_spent: np.ndarray
    budget_exhausted: bool = False


def start_traffic(experiment: Experiment, w: Tensor, num_clients: int) -> Traffic:
    """Return the traffic before the first round, when no client has received anything.

    Args:
        experiment: Experiment whose transforms compress the messages.
        w: First model ``[d]``.
        num_clients: Number of clients N.

    Returns:
        Traffic without any bytes.
    """
    shapes = experiment.task.shapes
    return Traffic(
        upload_state=experiment.upload.init(w, shapes, num_clients),
        download_state=experiment.download.init(w, shapes, 1),
        client_model=None if experiment.download.is_identity else w,
        bytes_broadcast=np.zeros(3, dtype=np.int64),
        bytes_seen=np.full((num_clients, 3), -1, dtype=np.int64),
        mask=None,
        mask_known=np.zeros(num_clients, dtype=bool),
        bytes_spent=np.zeros((num_clients, 2), dtype=np.int64),
    )


def broadcast(
    experiment: Experiment,
    traffic: Traffic,
    w: Tensor,
    cohort: Cohort,
    mask: Tensor | None = None,
    count: np.ndarray | None = None,
) -> tuple[Tensor, np.ndarray]:
    """Send the model to a cohort, compressed by the download transform.

    The server sends ``C(w - m)`` and keeps ``m <- m + C(w - m)``, where m is the model that an
    up-to-date client has. An error of one broadcast is part of the next difference, which acts
    as error feedback. A client that missed rounds fetches the missed differences or the whole
    model, whichever is smaller.

    Args:
        experiment: Experiment with the download transform.
        traffic: Traffic so far; it is updated in place.
        w: The server's model ``[d]``.
        cohort: Clients that fetch the model.
        mask: Mask ``[d]`` or ``[m, d]`` of 0 and 1; only the numbers within it are sent.
        count: Number of values that each client fetches ``[m]``, in place of a mask.

    Returns:
        The model ``[d]`` that the clients start from, and the bytes that each fetches ``[m, 3]``.
    """
    shapes = experiment.task.shapes
    if count is not None:
        return w, experiment.algorithm.vectors_down * wire.masked_sizes(shapes, w.dtype, count)
    if mask is not None:
        return w, _masked_download(experiment, traffic, w, cohort, mask)
    full_model = wire.dense_sizes(tuple(shapes.items()), w.dtype)
    more_vectors = (experiment.algorithm.vectors_down - 1) * full_model
    if experiment.download.is_identity:
        return w, (full_model + more_vectors)[None].repeat(len(cohort.ids), 0)
    server = Cohort(np.zeros(1, dtype=np.int64), cohort.round, key(cohort.seed, "download"), 1)
    assert traffic.client_model is not None, "a compressed download keeps the clients' model"
    difference = Message((w - traffic.client_model)[None], shapes)
    message, traffic.download_state = experiment.download.apply(
        difference, traffic.download_state, server
    )
    traffic.client_model = traffic.client_model + message.delta[0]
    traffic.bytes_broadcast = traffic.bytes_broadcast + wire.sizes(message)[0]
    seen = traffic.bytes_seen[cohort.ids]
    missed = traffic.bytes_broadcast - seen
    is_cheaper = (seen[:, 0] >= 0) & (missed.sum(1) < full_model.sum())
    traffic.bytes_seen[cohort.ids] = traffic.bytes_broadcast
    return traffic.client_model, np.where(is_cheaper[:, None], missed, full_model) + more_vectors


def _masked_download(
    experiment: Experiment, traffic: Traffic, w: Tensor, cohort: Cohort, mask: Tensor
) -> np.ndarray:
    """Return the bytes ``[m, 3]`` of a masked model; a new shared mask adds its positions."""
    shapes = experiment.task.shapes
    values = wire.masked_sizes(shapes, w.dtype, _count(mask, len(cohort.ids)))
    fetched = experiment.algorithm.vectors_down * values
    if mask.dim() > 1:
        return fetched
    if traffic.mask is None or not torch.equal(traffic.mask, mask):
        traffic.mask = mask
        traffic.mask_known = np.zeros_like(traffic.mask_known)
    is_new = ~traffic.mask_known[cohort.ids]
    if is_new.any():
        with_positions = wire.sizes(sparsify(Message(w[None], shapes), mask.nonzero().T))
        fetched[is_new] += with_positions - values[is_new]
        received = np.isin(np.arange(cohort.num_clients), cohort.ids)
        traffic.mask_known = traffic.mask_known | received
    return fetched


def upload_updates(
    experiment: Experiment,
    traffic: Traffic,
    delta: Tensor,
    cohort: Cohort,
    trained: np.ndarray,
    mask: Tensor | None = None,
) -> tuple[Tensor, np.ndarray]:
    """Send the clients' updates to the server, compressed by the upload transform.

    Args:
        experiment: Experiment with the upload transform.
        traffic: Traffic so far; the transform's state in it is updated.
        delta: Updates ``[m, d]``, one row per client.
        cohort: Clients of the rows.
        trained: True for clients ``[m]`` that took at least one step; the others send nothing.
        mask: Mask ``[1 or m, d]`` of the numbers that are sent (None: all).

    Returns:
        The rows ``[m, d]`` that the server receives, and the bytes of each client ``[m, 3]``.
    """
    shapes, m = experiment.task.shapes, len(trained)
    full_row = wire.dense_sizes(tuple(shapes.items()), delta.dtype)
    if mask is not None:
        full_row = wire.masked_sizes(shapes, delta.dtype, _count(mask, m))
    if experiment.upload.is_identity:
        return delta, trained[:, None] * (experiment.algorithm.vectors_up * full_row)
    full_row, sizes = np.broadcast_to(full_row, (m, 3)), np.zeros((m, 3), dtype=np.int64)
    everyone = Message(delta, shapes, mask=mask if mask is None else torch.atleast_2d(mask))
    rows, senders = [], []
    for which in _equal_counts(everyone.mask, np.flatnonzero(trained)):
        message, traffic.upload_state = send(
            experiment.upload,
            select_rows(everyone, which),
            traffic.upload_state,
            cohort.subset(which),
        )
        message = within_mask(message)
        sizes[which] = wire.sizes(message) + (experiment.algorithm.vectors_up - 1) * full_row[which]
        rows.append(message.delta)
        senders.append(which)
    if not rows or len(senders[0]) == m:
        return rows[0] if rows else delta, sizes
    received = rows[0].new_zeros(m, rows[0].shape[1])
    received[torch.from_numpy(np.concatenate(senders))] = torch.cat(rows)
    return received, sizes


def _count(mask: Tensor, m: int) -> np.ndarray:
    """Return how many numbers each of ``m`` clients has within the mask, ``[m]``."""
    return np.broadcast_to(torch.count_nonzero(mask, -1).numpy(force=True), m)


def _equal_counts(mask: Tensor | None, which: np.ndarray) -> list[np.ndarray]:
    """Group clients by the size of their masks: rows of one message have equal sizes."""
    if mask is None or len(mask) == 1 or not len(which):
        return [which] if len(which) else []
    count = mask.sum(1).numpy(force=True)[which]
    return [which[count == n] for n in np.unique(count)]


def charge_budget(
    experiment: Experiment, traffic: Traffic, cohort: Cohort, up: np.ndarray, down: np.ndarray
) -> bool:
    """Charge the bytes of a round, unless the budget has no room for them.

    Args:
        experiment: Experiment with the budget (None: no limit).
        traffic: Traffic so far; the bytes are added, or ``budget_exhausted`` becomes True.
        cohort: Clients of the round.
        up: Bytes that each client sends ``[m, 3]``.
        down: Bytes that each client fetches ``[m, 3]``.

    Returns:
        True if the round fits the budget.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.server import fedavg, uniform, weighted_mean
        >>> digits = load("digits", clients=10)
        >>> parts = Local(0.1), fedavg(), weighted_mean, uniform(2)
        >>> study = Experiment(digits, mlp(digits, ()), *parts, budget="3 kB up per client")
        >>> traffic = start_traffic(study, torch.zeros(650), num_clients=10)
        >>> cohort = Cohort(np.array([3, 7]), round=1, seed=0, num_clients=10)
        >>> sizes = np.array([[152, 0, 2600], [152, 0, 2600]])  # header, indices, values
        >>> charge_budget(study, traffic, cohort, up=sizes, down=sizes)
        True
        >>> charge_budget(study, traffic, cohort, up=sizes, down=sizes)  # 5.5 kB would be too much
        False
        >>> traffic.budget_exhausted, int(traffic.bytes_spent[3, 0])
        (True, 2752)
    """
    spent = traffic.bytes_spent.copy()
    for way, sizes in enumerate((up, down)):
        spent[cohort.ids, way] += sizes.sum(1)
    if experiment.budget is not None:
        budget = Budget.parse(experiment.budget)
        counted = spent[:, {"up": [0], "down": [1], "": [0, 1]}[budget.direction]].sum(1)
        if (counted.max(initial=0) if budget.per_client else counted.sum()) > budget.bytes:
            traffic.budget_exhausted = True
            return False
    traffic.bytes_spent = spent
    return True
