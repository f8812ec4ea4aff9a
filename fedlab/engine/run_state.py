"""A run on its way: its model, its state and its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import (
    Experiment,
    FederatedDataset,
    Local,
    Result,
    Task,
    label_column,
    params,
)
from fedlab.core.modules import check_layers
from fedlab.core.rng import seeded
from fedlab.data.datasets import for_seed
from fedlab.upload.traffic import Traffic


class Diverged(ArithmeticError):  # noqa: N818 - the field's word
    """Training gave numbers that are not finite; ``result`` holds the history until then."""

    result: Result


@dataclass(eq=False)
class Run:
    """One experiment under one seed, on its way."""

    labels: dict[str, Any]
    experiment: Experiment
    seed: int
    data: FederatedDataset
    w: Tensor  # [d]
    state: Any  # the algorithm's
    traffic: Traffic
    rounds: list[dict] = field(default_factory=list)
    clients: list[dict] = field(default_factory=list)


def initial(task: Task, seed: int, x: Tensor | None = None) -> Tensor:
    """The model that a seed starts from, ``[d]``; in the precision of the examples ``x``, where those are not integers, nor
    halved to be kept.
    """
    with seeded(seed, "init"):
        model = task.model()
    check_layers(model)
    w = params.flatten(model)
    w = w.float() if w.dtype.itemsize < 4 else w  # whose steps would be lost in rounding
    if x is None:
        return w
    whole = x.is_floating_point() and x.dtype.itemsize >= 4
    return w.to(x.device, x.dtype) if whole else w.to(x.device)


def dataset(experiment: Experiment, seed: int) -> FederatedDataset:
    """The experiment's data under a seed."""
    return for_seed(experiment.data, seed)


def collect_result(runs: Sequence[Run]) -> Result:
    """What the runs have recorded so far."""
    import pandas as pd

    names = runs[0].labels if runs else ()  # none where a run was stopped before it began
    labels = {
        name: [label_column(run.labels[name], len(run.rounds)) for run in runs] for name in names
    }
    rounds = pd.DataFrame([row for run in runs for row in run.rounds]).assign(
        **{n: _joined(labels[n]) for n in labels}
    )
    rows = [row for run in runs for row in run.clients]
    clients = pd.DataFrame(
        {name: _joined([row[name] for row in rows]) for name in rows[0]} if rows else None
    )
    own = [
        run.w.clone() if run.w._is_view() else run.w for run in runs
    ]  # and not the matrix of all that run together
    return Result(own, rounds, clients)


def _joined(columns: list[np.ndarray]) -> Any:
    """Return columns one under the other; values of several kinds, such as labels, stay what they are."""
    import pandas as pd

    if len({column.dtype.kind for column in columns}) == 1 and columns[0].dtype != object:
        return np.concatenate(columns)
    return pd.Series(np.concatenate([column.astype(object) for column in columns]), dtype=object)


def find_device(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except Exception as error:  # every backend has its own
        raise ValueError(
            f"device={name!r}: PyTorch has no such device here; take device='auto' or 'cpu'"
        ) from error


def local_settings(run: Run, ids: Sequence[int], t: int = 1) -> list[Local]:
    """Return the settings of each of these clients in round ``t``, from 1: those of one object stay one object."""
    local = run.experiment.local
    if isinstance(local, Local):
        return [local.at(t)] * len(ids)
    at_round = {id(local[i]): local[i].at(t) for i in ids}
    return [at_round[id(local[i])] for i in ids]
