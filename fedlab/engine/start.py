"""Start of a run: its settings and data are checked, and its initial model is evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch

from fedlab.core import Cohort, Experiment, FederatedDataset, Local
from fedlab.core.validate import (
    check_examples,
    check_same_format,
    check_test_pair,
    check_test_parts,
)
from fedlab.engine.dispatch import draw_cohort
from fedlab.engine.fit import check_fit
from fedlab.engine.lockstep import group_compatible
from fedlab.engine.run_state import Run, dataset, initial
from fedlab.engine.scores import evaluate_runs, missing_scores
from fedlab.models.adapted_layers import base_weights, check_base_weights
from fedlab.upload.traffic import COLUMNS, start_traffic


def start_run(labels: dict, experiment: Experiment, seed: int, device: torch.device) -> Run:
    """Start one run.

    Args:
        labels: Labels of the experiment among its variants.
        experiment: The settings.
        seed: Seed of all random numbers.
        device: Device on which the run computes.

    Returns:
        The run before its first round, with the scores of its initial model.

    Raises:
        ValueError: If data, cohort, local settings and model do not fit each other.
    """
    return start_runs([(labels, experiment, seed)], device)[0]


def start_runs(settings: Iterable[tuple[dict, Experiment, int]], device: torch.device) -> list[Run]:
    """Start several runs; models of one task are evaluated at once.

    Args:
        settings: Labels, experiment and seed of each run.
        device: Device on which the runs compute.

    Returns:
        The runs before their first round, with the scores of their initial models.

    Raises:
        ValueError: If data, cohort, local settings and model do not fit each other.
    """
    runs = [_start(*run_settings, device) for run_settings in settings]
    for group in group_compatible(runs):
        for run, scores in zip(group, evaluate_runs(group, 0), strict=True):
            run.rounds[0].update(scores)
    return runs


def _start(labels: dict, experiment: Experiment, seed: int, device: torch.device) -> Run:
    data = dataset(experiment, seed)
    _check_data(data)
    cohort = _first_cohort(experiment, data, seed)
    _check_local(experiment, data)
    data = _on_device(data, device)
    w = initial(experiment.task, seed, data.x)
    check_fit(experiment.task, w, data)
    traffic = start_traffic(experiment, w, data.num_clients)
    state = experiment.algorithm.init(w, data.num_clients)
    run = Run(labels, experiment, seed, data, w, state, traffic)
    if base_weights(experiment.task):
        check_base_weights(
            experiment.task, experiment.algorithm.local_objective(run.state, cohort).fixed
        )
    zeros = dict.fromkeys(("clients", "examples", "steps", "bytes_up", "bytes_down", *COLUMNS), 0)
    scores = missing_scores(experiment.task) | {"train_loss": np.nan}
    run.rounds.append({**labels, "seed": seed, "round": 0, **scores, **zeros})
    return run


def _first_cohort(experiment: Experiment, data: FederatedDataset, seed: int) -> Cohort:
    """Draw the cohort of round 1, so that a wrong one is refused before anything is trained."""
    cohort = draw_cohort(experiment, data, seed, 1)
    if not np.array_equal(cohort.ids, draw_cohort(experiment, data, seed, 1).ids):
        raise ValueError(
            "sample gives another cohort when it is asked again for round 1, so no run could be "
            "repeated. Try its generator for all draws, and keep nothing between rounds"
        )
    return cohort


# Data that passed the checks: seeds and variants share them, and each is checked once.
_CHECKED: WeakSet[FederatedDataset] = WeakSet()


def _check_data(data: FederatedDataset) -> None:
    """Raise ValueError for data that cannot be trained on."""
    if not isinstance(data, FederatedDataset):
        raise ValueError(
            f"data is {type(data).__name__} and must be a FederatedDataset, or a function of the "
            "seed that returns one. Try load('digits')"
        )
    if data in _CHECKED:
        return
    check_test_pair(data.test)
    check_examples("training", data.x, data.y, data.parts)
    check_examples("test", *data.test)
    check_same_format(data.x, data.y, data.test)
    if data.test_parts is not None:
        check_test_parts(data.test_parts, data.num_clients, len(data.test[1]))
    _CHECKED.add(data)


_COPIES: WeakKeyDictionary[FederatedDataset, dict[torch.device, FederatedDataset]] = (
    WeakKeyDictionary()
)


def _on_device(data: FederatedDataset, device: torch.device) -> FederatedDataset:
    """Move data to a device; runs that train together need the same copy."""
    if data.x.device == device:
        return data
    copies = _COPIES.setdefault(data, {})
    if device not in copies:
        copies[device] = data.to(device)
    return copies[device]


def _check_local(experiment: Experiment, data: FederatedDataset) -> None:
    local = experiment.local
    if not isinstance(local, Local) and len(local) != data.num_clients:
        raise ValueError(
            f"local has {len(local)} entries and must have one for each of the {data.num_clients} "
            "clients. Try a single Local for all of them"
        )
