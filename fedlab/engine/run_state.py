"""State of a run: its model, the algorithm's state, the traffic and the recorded tables."""

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
    """Training produced non-finite numbers; ``result`` holds the rounds until then."""

    result: Result


@dataclass(eq=False)
class Run:
    """One experiment under one seed, while it runs.

    Attributes:
        labels: Labels of the experiment among its ``variants``; they become columns of the tables.
        experiment: The settings.
        seed: Seed of all random numbers.
        data: Examples of all clients under this seed.
        w: Model ``[d]`` of the server.
        state: State of the algorithm.
        traffic: Bytes and memory of the messages so far.
        rounds: Rows of the table ``rounds``.
        clients: Columns of the table ``clients``, one dict per round.
    """

    labels: dict[str, Any]
    experiment: Experiment
    seed: int
    data: FederatedDataset
    w: Tensor
    state: Any
    traffic: Traffic
    rounds: list[dict] = field(default_factory=list)
    clients: list[dict] = field(default_factory=list)


def initial(task: Task, seed: int, x: Tensor | None = None) -> Tensor:
    """Return the initial model of a seed as one row ``[d]``.

    Args:
        task: Task whose model is built.
        seed: Seed of the random weights.
        x: Examples. If they are floats of at least 32 bits, the model takes their precision;
            its device is theirs in any case.

    Returns:
        The parameters in one row, of at least 32 bits: steps would be lost in rounding below.

    Raises:
        ValueError: If the model has layers that federated averaging cannot train.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=10)
        >>> initial(mlp(digits, hidden=(20,)), seed=0).shape  # 64 * 20 + 20 + 20 * 10 + 10
        torch.Size([1510])
    """
    with seeded(seed, "init"):
        model = task.model()
    check_layers(model)
    w = params.flatten(model)
    w = w.float() if w.dtype.itemsize < 4 else w
    if x is None:
        return w
    is_precise = x.is_floating_point() and x.dtype.itemsize >= 4
    return w.to(x.device, x.dtype) if is_precise else w.to(x.device)


def dataset(experiment: Experiment, seed: int) -> FederatedDataset:
    """Return the experiment's data under a seed."""
    return for_seed(experiment.data, seed)


def collect_result(runs: Sequence[Run]) -> Result:
    """Collect the models and tables of runs, finished or not.

    Args:
        runs: Runs as ``stream`` yields them; none give empty tables.

    Returns:
        The result; its tables hold the rounds so far.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.engine import stream
        >>> from fedlab.engine.factory import experiment
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=10)
        >>> steps = stream(experiment(digits, mlp(digits, ()), Local(0.1)))  # 100 rounds
        >>> runs = [next(steps) for _ in range(3)][-1]  # after two rounds
        >>> collect_result(runs).rounds["round"].tolist()
        [0, 1, 2]
    """
    import pandas as pd

    names = runs[0].labels if runs else ()  # none if a run was stopped before it began
    labels = {
        name: [label_column(run.labels[name], len(run.rounds)) for run in runs] for name in names
    }
    rounds = pd.DataFrame([row for run in runs for row in run.rounds]).assign(
        **{name: _concatenate(labels[name]) for name in labels}
    )
    rows = [row for run in runs for row in run.clients]
    clients = pd.DataFrame(
        {name: _concatenate([row[name] for row in rows]) for name in rows[0]} if rows else None
    )
    # A view would keep the matrix of all runs that trained together.
    models = [run.w.clone() if run.w._is_view() else run.w for run in runs]
    return Result(models, rounds, clients)


def _concatenate(columns: list[np.ndarray]) -> Any:
    """Concatenate columns; values of several kinds, such as labels, keep their types."""
    import pandas as pd

    if len({column.dtype.kind for column in columns}) == 1 and columns[0].dtype != object:
        return np.concatenate(columns)
    return pd.Series(np.concatenate([column.astype(object) for column in columns]), dtype=object)


def find_device(name: str) -> torch.device:
    """Return PyTorch's device of this name; "auto" prefers a GPU.

    Raises:
        ValueError: If PyTorch has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except Exception as error:  # every backend raises its own kind
        raise ValueError(
            f"device={name!r} must be a device that PyTorch has on this machine. "
            "Try device='auto' or 'cpu'"
        ) from error


def local_settings(run: Run, ids: Sequence[int], t: int = 1) -> list[Local]:
    """Return the local settings of clients in a round.

    Args:
        run: Run with the experiment's settings.
        ids: Client numbers.
        t: Round, from 1, for learning rates that depend on it.

    Returns:
        One ``Local`` per client; clients with the same settings share one object.
    """
    local = run.experiment.local
    if isinstance(local, Local):
        return [local.at(t)] * len(ids)
    at_round = {id(local[i]): local[i].at(t) for i in ids}
    return [at_round[id(local[i])] for i in ids]
