"""Experiments with defaults, for the smallest programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedlab.core import Algorithm, Experiment, FederatedDataset, Local, Task
from fedlab.server import fedavg, uniform, weighted_mean
from fedlab.server.sampling import Sampler

COHORT_SIZE = 10  # clients per round, as in McMahan et al. 2017: 10 of 100


def experiment(
    data: FederatedDataset | Callable[[int], FederatedDataset],
    task: Task,
    local: Local | Sequence[Local],
    algorithm: Algorithm | None = None,
    *,
    cohort_size: int | None = None,
    sample: Sampler | None = None,
    **settings: Any,
) -> Experiment:
    """Return an experiment in which everything that is left out has a usual value.

    Args:
        data: The clients' examples, or a function of the seed that returns them.
        task: Model, loss and metrics, such as ``mlp(data)``.
        local: Local training of every client, or one per client.
        algorithm: Federated algorithm. Default: ``fedavg()``.
        cohort_size: Number of clients per round, drawn uniformly. Default: 10, or all clients if
            there are fewer.
        sample: Sampler of cohorts, in place of ``cohort_size``.
        settings: Other fields of ``Experiment``: rounds, eval_every, aggregate, upload, download,
            budget.

    Returns:
        The experiment. Its aggregate is ``weighted_mean`` unless ``settings`` has another one.

    Raises:
        ValueError: If both ``cohort_size`` and ``sample`` are set, or a setting does not fit.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.engine import run
        >>> from fedlab.models import mlp
        >>> digits = load("digits", 10)
        >>> result = run(experiment(digits, mlp(digits), Local(0.1), rounds=2))
        >>> result.rounds[["round", "clients"]].values.tolist()
        [[0, 0], [1, 10], [2, 10]]
    """
    if sample is not None and cohort_size is not None:
        raise ValueError(
            f"cohort_size={cohort_size} must be left out beside sample (which draws the cohort). "
            f"Try sample=uniform({cohort_size})"
        )
    if sample is None:
        dataset = data(0) if callable(data) else data
        sample = uniform(cohort_size or min(COHORT_SIZE, dataset.num_clients))
    settings = {"aggregate": weighted_mean, **settings}
    return Experiment(data, task, local, algorithm or fedavg(), sample=sample, **settings)
