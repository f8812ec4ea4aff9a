"""What federated learning is measured against: everything in one place, and everyone alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from fedlab.client import Train, batched
from fedlab.core import Cohort, Experiment, FederatedDataset, Local, generator, identity
from fedlab.core.validate import check_seeds, check_whole
from fedlab.engine import (
    Diverged,
    Run,
    begin_all,
    dataset,
    draw_cohort,
    drive,
    evaluate_each,
    find_device,
    initial,
    record,
    tables,
    train_apart,
    with_epochs,
)
from fedlab.server import fedavg, uniform, weighted_mean


def centralised(experiment: Experiment) -> Experiment:
    """Return the same study with all examples in one place, to be run like any other.

    Equal work: a round visits as many examples as the cohort does on average over 50 draws, to within half a batch.
    Batches have the size of ``local``, or a client's usual number of examples where that is smaller or ``batch_size`` is
    None.  Where everyone takes part with all examples at once, so does the pool: either is gradient descent.  The task,
    the rounds and the local training stay; an algorithm's phases count as epochs.  The federation falls away: the
    algorithm, the aggregate, the sampler, the upload, the download and the budget.

    Args:
        experiment: The federated study; ``local`` must be one for everyone.

    Returns:
        A study of one client with FedAvg, which is plain training.

    Raises:
        ValueError: If ``local`` differs between clients.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> digits = load("digits", 6)
        >>> parts = Local(0.1), fedavg(), weighted_mean, uniform(6)
        >>> study = Experiment(digits, mlp(digits), *parts, rounds=2)
        >>> centralised(study).data(0).num_clients
        1
    """

    def pooled(seed: int) -> FederatedDataset:
        data = dataset(experiment, seed)
        return replace(data, parts=[np.sort(np.concatenate(data.parts))], test_parts=None)

    data = dataset(experiment, 0)
    single = _without_federation(experiment, data)
    local = _the_same(single.local)
    cohorts = [
        data.sizes[experiment.sample(data.sizes, t, generator(0, "cohort", t))]
        for t in range(1, 51)
    ]
    drawn = np.concatenate(cohorts)
    visited = sum(_visited(n, local) for n in drawn.tolist()) / len(cohorts)
    batch_size, total = (
        _pool_batch(cohorts, local, data),
        int(data.sizes.sum()),
    )  # of y, some may be nobody's
    epochs, rest = divmod(visited, total)
    size = batch_size or total
    steps = epochs * math.ceil(total / size) + rest / size
    once = replace(local, batch_size=batch_size, steps=max(1, round(steps)), epochs=1)
    return replace(single, data=pooled, local=once)


def _visited(n: int, local: Local) -> int:
    """Return how many examples a client that holds ``n`` of them goes over in a round."""
    if local.steps is None or n == 0:
        return n * local.epochs
    size = min(local.batch_size or n, n)
    epochs, rest = divmod(local.steps, math.ceil(n / size))
    return epochs * n + min(rest * size, n)


def _pool_batch(cohorts: Sequence[np.ndarray], local: Local, data: FederatedDataset) -> int | None:
    """Return the batch size of all examples in one place, where the ``cohorts`` have clients of these sizes."""
    if local.batch_size is None and all(sizes.sum() == data.sizes.sum() for sizes in cohorts):
        return None
    drawn = np.concatenate(cohorts)
    usual = max(1, round(float(drawn[drawn > 0].mean()))) if drawn.any() else 1
    return min(local.batch_size or usual, usual)


def local_only(
    experiment: Experiment,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    num_clients: int | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Train clients by themselves, from the model that the federation starts from, and test them on the common test set.

    A client trains in every round as its ``local`` says, since alone it waits for nobody: more local work than a client of
    the federation does.  The federation falls away: the algorithm, the aggregate, the sampler, the upload, the download and
    the budget.

    Args:
        experiment: The federated study.
        backend: Engine that trains.
        seeds: Their number, or a list of them.
        num_clients: How many clients train, drawn by the seed among those with examples (None: all of these).
        device: PyTorch's name of a device, or "auto".

    Returns:
        A row per client: ``seed, client, num_examples, loss`` and the metrics.

    Raises:
        Diverged: If numbers are no longer finite; its ``result`` holds the rounds so far.
        Interrupted: On Ctrl-C, likewise.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> digits = load("digits", 6)
        >>> parts = Local(0.1), fedavg(), weighted_mean, uniform(6)
        >>> study = Experiment(digits, mlp(digits), *parts, rounds=2)
        >>> local_only(study, seeds=2, num_clients=3)["seed"].tolist()
        [0, 0, 0, 1, 1, 1]
    """
    if num_clients is not None:
        check_whole(1, num_clients=num_clients)
    rows: list[dict] = []
    drive(
        _train_each(experiment, backend, check_seeds(seeds), num_clients, device, rows), count=sum
    )
    return pd.DataFrame(rows)


def _train_each(
    experiment: Experiment,
    backend: Train,
    seeds: Sequence[int],
    num_clients: int | None,
    device: str,
    rows: list[dict],
) -> Iterator[list[Run]]:
    """Yield the runs after each round, one seed after another: there may be a model for each of hundreds of clients."""
    plain = _without_federation(experiment, dataset(experiment, seeds[0]))
    runs = begin_all([({}, plain, seed) for seed in seeds], find_device(device))
    yield runs
    try:
        for run in runs:
            ids = np.flatnonzero(run.data.sizes)
            if num_clients is not None and num_clients < len(ids):
                ids = np.sort(generator(run.seed, "alone").choice(ids, num_clients, replace=False))
            models = run.w.repeat(len(ids), 1)
            for t in range(1, experiment.rounds + 1):
                models = _trained(
                    run, Cohort(ids, t, run.seed, run.data.num_clients), models, backend
                )
                yield runs
            for i, scores in zip(
                ids, evaluate_each(experiment.task, models, run.data), strict=True
            ):
                rows.append(
                    {
                        "seed": run.seed,
                        "client": i,
                        "num_examples": len(run.data.parts[i]),
                        **scores,
                    }
                )
    except Diverged as error:
        error.result = tables(runs)
        raise


def _trained(run: Run, cohort: Cohort, models: Tensor, backend: Train) -> Tensor:
    """The clients' models ``[m, d]`` after a round, which is recorded: nothing travels in it."""
    ((begun, updates),) = train_apart([run], [cohort], [models], backend)
    nothing = np.zeros_like(begun.down)
    row, columns = record(begun._replace(down=nothing), updates, nothing)
    run.rounds.append(row)
    run.clients.append(columns)
    return updates.delta.add_(models)  # in place: there may be hundreds


def _without_federation(experiment: Experiment, data: FederatedDataset) -> Experiment:
    """Return the same training where nobody sends anything; of an algorithm with phases, as many epochs as those have."""
    algorithm, local = experiment.algorithm, experiment.local
    state = algorithm.init(initial(experiment.task, 0, data.x), data.num_clients)
    phases = algorithm.local_objective(state, draw_cohort(experiment, data, 0, 1)).phases
    several = with_epochs([local] if isinstance(local, Local) else local, phases)
    parts: dict[str, Any] = {"local": several[0] if isinstance(local, Local) else several}
    parts |= {"algorithm": fedavg(), "aggregate": weighted_mean, "sample": uniform(1)}
    return replace(experiment, **parts, upload=identity(), download=identity(), budget=None)


def _the_same(local: Local | Sequence[Local]) -> Local:
    if isinstance(local, Local):
        return local
    if len(set(local)) == 1:
        return local[0]
    told = f"local is a list of {len(local)} and must be one for everyone (all examples are in one place)"
    raise ValueError(f"{told}. Try replace(experiment, local=Local(...))")
