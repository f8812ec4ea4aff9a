"""What federated learning is measured against: everything in one place, and everyone alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fedlab.client import Train, assign, batched, plan
from fedlab.records import Experiment, FederatedDataset, Local
from fedlab.rng import generator
from fedlab.rounds import dataset, evaluate_each, initial
from fedlab.server import fedavg, uniform, weighted_mean


def centralised(experiment: Experiment) -> Experiment:
    """The same study with all examples in one place, to be run like any other: plain SGD, no federation.

    Equal work: a round visits as many examples as the cohort does on average, in batches of the same size.
    """

    def pooled(seed: int) -> FederatedDataset:
        data = dataset(experiment, seed)
        return replace(data, parts=[np.sort(np.concatenate(data.parts))])

    local, data = _the_same(experiment.local), dataset(experiment, 0)
    cohorts = [experiment.sample(data.sizes, t, generator(0, "cohort", t)) for t in range(1, 51)]
    share = np.mean([len(ids) for ids in cohorts]) / data.num_clients
    if local.steps is None:
        visited = share * local.epochs * data.sizes.sum()  # of y, some may be nobody's
        steps = visited / local.batch_size if local.batch_size else share * local.epochs
    else:
        steps = share * data.num_clients * local.steps
    once = replace(local, steps=max(1, round(steps)), epochs=1)
    return replace(experiment, data=pooled, local=once, algorithm=fedavg(), sample=uniform(1), aggregate=weighted_mean)


def alone(
    experiment: Experiment, backend: Train = batched, seeds: int | Sequence[int] = 1, num_clients: int | None = None
) -> pd.DataFrame:
    """Clients train by themselves, from the model the federation starts from, and are tested on the common test set.

    It trains in every round (``rounds`` times its local epochs or steps), since alone it waits for nobody: more local work
    than a client of the federation does.  All clients that hold something do, or ``num_clients`` of them, drawn by the seed.
    Gives a row a client: ``seed, client, num_examples, loss`` and the metrics.
    """
    rows = []
    for seed in tqdm(range(seeds) if isinstance(seeds, int) else seeds, desc="alone", delay=2, leave=False):
        data, local, rounds = dataset(experiment, seed), _the_same(experiment.local), experiment.rounds
        ids = np.flatnonzero(data.sizes)
        if num_clients is not None and num_clients < len(ids):
            ids = np.sort(generator(seed, "alone").choice(ids, num_clients, replace=False))
        longer = replace(local, epochs=local.epochs * rounds, steps=local.steps and local.steps * rounds)
        w = initial(experiment.task, seed, data.x)
        parts = [data.parts[i] for i in ids]
        work = assign(w, parts, [longer] * len(ids), plan(parts, seed, 1, longer, len(data.y)))
        updates = backend(experiment.task, data.x, data.y, work)
        models = updates.delta.add_(w)  # in place: there may be hundreds
        for i, scores in zip(ids, evaluate_each(experiment.task, models, data), strict=True):
            rows.append({"seed": seed, "client": i, "num_examples": len(data.parts[i]), **scores})
    return pd.DataFrame(rows)


def _the_same(local: Local | Sequence[Local]) -> Local:
    if not isinstance(local, Local):
        raise TypeError(
            f"local is a sequence of {len(local)}, one a client: a baseline has one for everyone, local=Local(...)"
        )
    return local
