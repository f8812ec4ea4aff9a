"""Checks and first evaluations of a run before its first round."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch

from fedlab.core import (
    Cohort,
    Experiment,
    FederatedDataset,
    Local,
    generator,
)
from fedlab.core.validate import (
    check_examples,
    check_same_format,
    check_test_pair,
    check_test_parts,
)
from fedlab.engine.fit import check_fit
from fedlab.engine.lockstep import evaluate_runs, group_compatible, missing_scores
from fedlab.engine.run_state import Run, dataset, initial
from fedlab.models.adapters import base_weights, check_base_weights
from fedlab.upload.traffic import COLUMNS, start_traffic


def start_run(labels: dict, experiment: Experiment, seed: int, device: torch.device) -> Run:
    """A run before its first round."""
    return start_runs([(labels, experiment, seed)], device)[0]


def start_runs(what: Iterable[tuple[dict, Experiment, int]], device: torch.device) -> list[Run]:
    """Runs of these labels, experiments and seeds before their first round, models of one task evaluated side by side."""
    runs = [_new(*one, device) for one in what]
    for group in group_compatible(runs):
        for run, scores in zip(group, evaluate_runs(group, 0), strict=True):
            run.rounds[0].update(scores)
    return runs


def _new(labels: dict, experiment: Experiment, seed: int, device: torch.device) -> Run:
    data = dataset(experiment, seed)
    _check_data(data)
    cohort = draw_cohort(
        experiment, data, seed, 1
    )  # that does not fit is refused before anything is trained
    if not np.array_equal(cohort.ids, draw_cohort(experiment, data, seed, 1).ids):
        told = "sample gives another cohort when it is asked again for round 1, so no run could be repeated"
        raise ValueError(
            f"{told}. Try the generator that it is given for all draws, and keep nothing between rounds"
        )
    _check_locals(experiment, data)
    data = _moved(data, device)
    w = initial(experiment.task, seed, data.x)
    check_fit(experiment.task, w, data)
    traffic = start_traffic(experiment, w, data.num_clients)
    run = Run(
        labels, experiment, seed, data, w, experiment.algorithm.init(w, data.num_clients), traffic
    )
    if base_weights(experiment.task):
        check_base_weights(
            experiment.task, experiment.algorithm.local_objective(run.state, cohort).fixed
        )
    none = dict.fromkeys(("clients", "examples", "steps", "bytes_up", "bytes_down", *COLUMNS), 0)
    nobody = {"train_loss": np.nan, **none}
    run.rounds.append(
        {**labels, "seed": seed, "round": 0, **missing_scores(experiment.task), **nobody}
    )
    return run


_SOUND: WeakSet[FederatedDataset] = WeakSet()


def _check_data(data: FederatedDataset) -> None:
    """ValueError for data that cannot be trained on; each is looked at once, however many seeds and variants have it."""
    if not isinstance(data, FederatedDataset):
        raise ValueError(
            f"data is {type(data).__name__}: give a FederatedDataset, or a function of the seed for one"
        )
    if data in _SOUND:
        return
    check_test_pair(data.test)
    check_examples("training", data.x, data.y, data.parts)
    check_examples("test", *data.test)
    check_same_format(data.x, data.y, data.test)
    if data.test_parts is not None:
        check_test_parts(data.test_parts, data.num_clients, len(data.test[1]))
    _SOUND.add(data)


_MOVED: WeakKeyDictionary[FederatedDataset, dict[torch.device, FederatedDataset]] = (
    WeakKeyDictionary()
)


def _moved(data: FederatedDataset, device: torch.device) -> FederatedDataset:
    """The data on the device; the same copy for every run, so that they can train together."""
    if data.x.device == device:
        return data
    copies = _MOVED.setdefault(data, {})
    if device not in copies:
        copies[device] = data.to(device)
    return copies[device]


def _check_locals(experiment: Experiment, data: FederatedDataset) -> None:
    local = experiment.local
    if not isinstance(local, Local) and len(local) != data.num_clients:
        raise ValueError(
            f"local has {len(local)} entries for {data.num_clients} clients: give one for everyone, or one a client"
        )


def draw_cohort(
    experiment: Experiment, data: FederatedDataset, seed: int, t: int, edge: int = 0
) -> Cohort:
    """Who takes part in round ``t``, at each ``edge`` by draws of its own; ValueError where the sampler gives no cohort."""
    path = (t, edge) if edge else (t,)
    ids = np.asarray(experiment.sample(data.sizes, t, generator(seed, "cohort", *path)))
    ids = np.sort(ids) if ids.dtype.kind in "iu" else ids
    if wrong := _what_is_wrong(ids, data.num_clients):
        told = f"sample gave {wrong} in round {t}"
        raise ValueError(
            f"{told}: a cohort are different clients [m], by whole numbers from 0 to {data.num_clients - 1}"
        )
    return Cohort(ids.astype(np.int64), t, seed, data.num_clients)


def _what_is_wrong(ids: np.ndarray, num_clients: int) -> str:
    """Of a cohort, sorted; nothing where all is well."""
    if ids.shape == (0,):
        return ""
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        return f"numbers of shape {list(ids.shape)} and type {ids.dtype}"
    if ids[0] < 0 or ids[-1] >= num_clients:
        return f"client {ids[0] if ids[0] < 0 else ids[-1]}"
    twice = ids[1:] == ids[:-1]
    return f"client {ids[1:][twice][0]} twice" if twice.any() else ""
