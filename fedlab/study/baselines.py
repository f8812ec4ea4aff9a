"""Baselines of federated learning: all examples in one place, and each client by itself."""

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
from fedlab.engine import Diverged, Run, collect_result, evaluate_models, initial
from fedlab.engine.dispatch import draw_cohort, with_epochs
from fedlab.engine.rounds import record_round, train_from_models
from fedlab.engine.run import run_to_end
from fedlab.engine.run_state import dataset, find_device
from fedlab.engine.start import start_runs
from fedlab.server import fedavg, uniform, weighted_mean


def centralised(experiment: Experiment) -> Experiment:
    """Return the same study with all examples in one place, to be run like any other.

    The work is equal: a round visits as many examples as the cohort does on average over 50 draws,
    to within half a batch. Batches have the size of ``local``, or a client's mean number of
    examples if that is smaller or ``batch_size`` is None. If all clients take part with all their
    examples in one batch, so does the pool: both are gradient descent.

    The task, the rounds and the local training stay; an algorithm's phases count as epochs. The
    algorithm, the aggregate, the sampler, the upload, the download and the budget are dropped.

    Args:
        experiment: The federated study; ``local`` must be the same for all clients.

    Returns:
        A study of one client with FedAvg, which is plain training.

    Raises:
        ValueError: If ``local`` differs between clients.

    Example:
        >>> import fedlab as fl
        >>> digits = fl.load("digits", 6)
        >>> study = fl.experiment(digits, fl.mlp(digits), fl.Local(0.1), rounds=2)
        >>> centralised(study).data(0).num_clients
        1
    """

    def pooled(seed: int) -> FederatedDataset:
        data = dataset(experiment, seed)
        return replace(data, parts=[np.sort(np.concatenate(data.parts))], test_parts=None)

    data = dataset(experiment, 0)
    single = _without_federation(experiment, data)
    local = _common_local(single.local)
    cohorts = [
        data.sizes[experiment.sample(data.sizes, t, generator(0, "cohort", t))]
        for t in range(1, 51)
    ]
    drawn = np.concatenate(cohorts)
    visited = sum(_visited(n, local) for n in drawn.tolist()) / len(cohorts)
    batch_size = _pool_batch(cohorts, local, data)
    total = int(data.sizes.sum())  # not len(data.y): held-out examples belong to no client
    epochs, rest = divmod(visited, total)
    size = batch_size or total
    steps = epochs * math.ceil(total / size) + rest / size
    once = replace(local, batch_size=batch_size, steps=max(1, round(steps)), epochs=1)
    return replace(single, data=pooled, local=once)


def _visited(n: int, local: Local) -> int:
    """Return the number of examples that a client with ``n`` of them visits in a round."""
    if local.steps is None or n == 0:
        return n * local.epochs
    size = min(local.batch_size or n, n)
    epochs, rest = divmod(local.steps, math.ceil(n / size))
    return epochs * n + min(rest * size, n)


def _pool_batch(cohorts: Sequence[np.ndarray], local: Local, data: FederatedDataset) -> int | None:
    """Return the batch size of the pool, for cohorts whose clients have these sizes."""
    if local.batch_size is None and all(sizes.sum() == data.sizes.sum() for sizes in cohorts):
        return None
    drawn = np.concatenate(cohorts)
    mean = max(1, round(float(drawn[drawn > 0].mean()))) if drawn.any() else 1
    return min(local.batch_size or mean, mean)


def local_only(
    experiment: Experiment,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    num_clients: int | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Train clients by themselves, and test each on the common test set.

    Clients start from the model that the federation starts from. A client trains in every round
    as its ``local`` says, since it waits for no cohort: this is more local work than in the
    federation. The algorithm, the aggregate, the sampler, the upload, the download and the budget
    are dropped.

    Args:
        experiment: The federated study.
        backend: Engine that trains.
        seeds: Number of seeds, or a list of them.
        num_clients: Number of clients that train, drawn by the seed among those with examples;
            None: all of them.
        device: PyTorch's name of a device, or "auto".

    Returns:
        One row per seed and client: ``seed, client, num_examples, loss`` and the metrics.

    Raises:
        Diverged: If numbers are no longer finite; its ``result`` holds the rounds so far.
        Interrupted: On Ctrl-C, likewise.

    Example:
        >>> import fedlab as fl
        >>> digits = fl.load("digits", 6)
        >>> study = fl.experiment(digits, fl.mlp(digits), fl.Local(0.1), rounds=2)
        >>> local_only(study, seeds=2, num_clients=3)["seed"].tolist()
        [0, 0, 0, 1, 1, 1]
    """
    if num_clients is not None:
        check_whole(1, num_clients=num_clients)
    rows: list[dict] = []
    rounds = _train_each(experiment, backend, check_seeds(seeds), num_clients, device, rows)
    run_to_end(rounds, count=sum)
    return pd.DataFrame(rows)


def _train_each(
    experiment: Experiment,
    backend: Train,
    seeds: Sequence[int],
    num_clients: int | None,
    device: str,
    rows: list[dict],
) -> Iterator[list[Run]]:
    """Yield the runs after each round, and append each client's scores to ``rows``.

    Seeds train one after another: each may have hundreds of clients, with a model per client.
    """
    study = _without_federation(experiment, dataset(experiment, seeds[0]))
    runs = start_runs([({}, study, seed) for seed in seeds], find_device(device))
    yield runs
    try:
        for run in runs:
            ids = np.flatnonzero(run.data.sizes)
            if num_clients is not None and num_clients < len(ids):
                ids = np.sort(generator(run.seed, "alone").choice(ids, num_clients, replace=False))
            models = run.w.repeat(len(ids), 1)
            for t in range(1, experiment.rounds + 1):
                cohort = Cohort(ids, t, run.seed, run.data.num_clients)
                models = _train_round(run, cohort, models, backend)
                yield runs
            scores = evaluate_models(experiment.task, models, run.data)
            for i, values in zip(ids, scores, strict=True):
                size = len(run.data.parts[i])
                rows.append({"seed": run.seed, "client": i, "num_examples": size, **values})
    except Diverged as error:
        error.result = collect_result(runs)
        raise


def _train_round(run: Run, cohort: Cohort, models: Tensor, backend: Train) -> Tensor:
    """Return the clients' models ``[m, d]`` after a round, which is recorded with 0 bytes."""
    ((dispatched, updates),) = train_from_models([run], [cohort], [models], backend)
    no_bytes = np.zeros_like(dispatched.bytes_down)
    row, columns = record_round(dispatched._replace(bytes_down=no_bytes), updates, no_bytes)
    run.rounds.append(row)
    run.clients.append(columns)
    return updates.delta.add_(models)  # in place: there may be hundreds of models


def _without_federation(experiment: Experiment, data: FederatedDataset) -> Experiment:
    """Return the same training without messages; an algorithm's phases become epochs."""
    algorithm, local = experiment.algorithm, experiment.local
    state = algorithm.init(initial(experiment.task, 0, data.x), data.num_clients)
    phases = algorithm.local_objective(state, draw_cohort(experiment, data, 0, 1)).phases
    per_client = with_epochs([local] if isinstance(local, Local) else local, phases)
    parts: dict[str, Any] = {"local": per_client[0] if isinstance(local, Local) else per_client}
    parts |= {"algorithm": fedavg(), "aggregate": weighted_mean, "sample": uniform(1)}
    return replace(experiment, **parts, upload=identity(), download=identity(), budget=None)


def _common_local(local: Local | Sequence[Local]) -> Local:
    """Return the local training that all clients share; raise ValueError if they differ."""
    if isinstance(local, Local):
        return local
    if len(set(local)) == 1:
        return local[0]
    raise ValueError(
        f"local is a list of {len(local)} and must be the same for all clients (all examples are "
        "in one place). Try replace(experiment, local=Local(...))"
    )
