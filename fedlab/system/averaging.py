"""Parts that hierarchies and gossip share: costs of rounds, scores, and a check."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from fedlab.client import Train
from fedlab.core import Experiment
from fedlab.engine import Run, evaluate
from fedlab.engine.scores import is_evaluation_round, missing_scores
from fedlab.system.fleet import Fleet, resolve_fleet
from fedlab.system.operations import training_flops

# From client numbers and the columns of their rounds to seconds and joules, each [m].
CostModel = Callable[[np.ndarray, dict[str, np.ndarray]], dict[str, np.ndarray]]


def cost_model(
    fleet: Fleet | Callable[[int], Fleet] | None, run: Run, backend: Train
) -> CostModel | None:
    """Return a function from the rows of a round to their seconds and joules.

    Args:
        fleet: The clients' devices, or a function of the seed; None for no costs.
        run: The run, whose clients the fleet has.
        backend: Engine that trains.

    Returns:
        The function, or None without a fleet.

    Raises:
        ValueError: If clients are offline at times or drop out.
    """
    if fleet is None:
        return None
    devices = resolve_fleet(fleet, run)
    flops = training_flops(run.experiment.task, run.data.x, run.data.y, backend)
    if devices.has_absences or devices.dropout.any():
        raise ValueError(
            "fleet has hours, a trace or dropout, and must have none (edges and gossip wait for "
            "all clients). Try draw_fleet(N), or simulate"
        )
    return lambda ids, columns: devices.round_costs(
        ids, columns["bytes_down"], flops * columns["examples"], columns["bytes_up"]
    )


def scores_of(run: Run, w: Tensor, t: int) -> dict[str, float]:
    """Return the test scores of a model after a round, NaN in rounds without evaluation.

    Args:
        run: The run.
        w: The model ``[d]``.
        t: Number of the round.
    """
    task = run.experiment.task
    if is_evaluation_round(run.experiment, t):
        return evaluate(task, w, run.data)
    return missing_scores(task)


def check_whole_models(experiment: Experiment) -> None:
    """Raise ValueError for algorithms that train parts of models."""
    if experiment.algorithm.partial_updates:
        raise ValueError(
            "algorithm has masks or private parts (edges and gossip average whole models, and such "
            "algorithms know the parts of one server's). Try fedavg() here, or this algorithm in "
            "run"
        )
