"""The loop: sample, train, upload, aggregate, step, record."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab import params
from fedlab.client import batched, plan
from fedlab.records import Cohort, Experiment, FederatedDataset, Message, Result, Task, Terms, Updates, Work
from fedlab.rng import generator, seeded

Train = Callable[[Task, Tensor, Tensor, Work], Updates]
Variants = Sequence[tuple[dict[str, Any], Experiment]]


class Diverged(ArithmeticError):  # noqa: N818 - the field's word
    """Training gave numbers that are not finite; ``result`` holds the history until then."""

    result: Result


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; ``result`` holds the history until then (in a notebook: ``sys.last_value.result``)."""

    result: Result


def run(experiment: Experiment, backend: Train = batched, seeds: int | Sequence[int] = 1) -> Result:
    """Run one experiment for seeds 0..seeds-1, or those listed, in lockstep.

    The seed determines everything: initial weights, cohorts, batches, and the split where ``data`` is a function.
    Raises Diverged when numbers are no longer finite, ValueError when the cohort does not fit the data.
    """
    return _drain([({}, experiment)], backend, seeds)


def compare(
    base: Experiment, backend: Train = batched, seeds: int | Sequence[int] = 1, **fields: Mapping[Any, Any]
) -> Result:
    """Run variants of one experiment side by side, in lockstep and with the same seeds.

    ``compare(base, algorithm={"FedAvg": fedavg(), "half steps": fedavg(0.5)})`` puts each value in that field and adds
    a column ``algorithm`` with the labels to both tables.  Several fields give every combination.
    """
    return _drain(variants(base, **fields), backend, seeds)


def variants(base: Experiment, **fields: Mapping[Any, Any]) -> Variants:
    """The experiments that ``compare`` runs, each with its labels."""
    for name, values in fields.items():
        if not isinstance(values, Mapping) or not values:
            raise TypeError(f"{name}={values!r}: give a dict of label: value, for example {name}={{'as is': base.{name}}}")
    pairs = [[(name, label, value) for label, value in values.items()] for name, values in fields.items()]
    return [
        ({name: label for name, label, _ in chosen}, replace(base, **{name: value for name, _, value in chosen}))
        for chosen in itertools.product(*pairs)
    ]


@dataclass(eq=False)
class Run:
    """One experiment under one seed, on its way."""

    labels: dict[str, Any]
    experiment: Experiment
    seed: int
    data: FederatedDataset
    w: Tensor  # [d]
    state: Any
    rounds: list[dict] = field(default_factory=list)
    clients: list[dict] = field(default_factory=list)


def stream(what: Experiment | Variants, backend: Train = batched, seeds: int | Sequence[int] = 1) -> Iterator[list[Run]]:
    """``run`` or ``compare`` a round at a time: yields the runs after each round, from round 0, before any training.

    For whoever wants to look, draw or stop in between; ``tables(runs)`` makes a Result of them at any time.
    """
    pairs = [({}, what)] if isinstance(what, Experiment) else what
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    if len(pairs) == 0 or len(seeds) == 0:
        raise ValueError(f"nothing to run: {len(pairs)} experiments with {len(seeds)} seeds; give at least one of each")
    runs = [_begin(labels, experiment, seed) for labels, experiment in pairs for seed in seeds]
    yield runs
    try:
        for t in range(1, max(run.experiment.rounds for run in runs) + 1):
            active = [run for run in runs if t <= run.experiment.rounds]
            for group in _alike(active):
                _round(group, t, backend)
            yield runs
    except Diverged as error:
        error.result = tables(runs)
        raise


def initial(task: Task, seed: int, x: Tensor | None = None) -> Tensor:
    """The model that a seed starts from, ``[d]``; in the precision of the examples ``x``, where those are not integers."""
    with seeded(seed, "init"):
        w = params.flatten(task.model())
    return w.to(x.dtype) if x is not None and x.is_floating_point() else w


def dataset(experiment: Experiment, seed: int) -> FederatedDataset:
    """The experiment's data under a seed."""
    return experiment.data(seed) if callable(experiment.data) else experiment.data


@torch.no_grad()
def evaluate(task: Task, w: Tensor, data: FederatedDataset) -> dict[str, float]:
    """The mean loss and metrics of the model ``w [d]`` on the test set."""
    x, y = data.test
    output = params.forward(task.template, w, x)
    scores = {"loss": task.loss, **task.metrics}
    return {name: score(output, y).mean().item() for name, score in scores.items()}


def tables(runs: Sequence[Run]) -> Result:
    """What the runs have recorded so far."""
    import pandas as pd

    rounds = pd.DataFrame([row for run in runs for row in run.rounds])
    rows = [row for run in runs for row in run.clients]
    clients = pd.DataFrame({name: np.concatenate([row[name] for row in rows]) for name in rows[0]} if rows else None)
    return Result([run.w for run in runs], rounds, clients)


def _begin(labels: dict, experiment: Experiment, seed: int) -> Run:
    data = dataset(experiment, seed)
    _cohort(experiment, data, seed, 1)  # a cohort that does not fit is refused before anything is trained
    w = initial(experiment.task, seed, data.x)
    run = Run(labels, experiment, seed, data, w, experiment.algorithm.init(len(w), data.num_clients))
    nobody = {"train_loss": np.nan, "clients": 0, "examples": 0, "bytes_up": 0, "bytes_down": 0}
    run.rounds.append({**labels, "seed": seed, "round": 0, **evaluate(experiment.task, w, data), **nobody})
    return run


def _alike(runs: list[Run]) -> list[list[Run]]:
    """Runs that share a task and examples can train as rows of one matrix."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((id(run.experiment.task), id(run.data.x), id(run.data.y)), []).append(run)
    return list(groups.values())


def _cohort(experiment: Experiment, data: FederatedDataset, seed: int, t: int) -> Cohort:
    ids = experiment.sample(data.num_clients, generator(seed, "cohort", t))
    return Cohort(ids, t, seed, data.num_clients)


def _round(runs: list[Run], t: int, backend: Train) -> None:
    """One round of runs that are trained together and otherwise do not touch."""
    cohorts = [_cohort(run.experiment, run.data, run.seed, t) for run in runs]
    together = backend(runs[0].experiment.task, runs[0].data.x, runs[0].data.y, _work(runs, cohorts))
    ends = np.cumsum([len(cohort.ids) for cohort in cohorts])
    for run, cohort, end in zip(runs, cohorts, ends, strict=True):
        mine = Updates(*(column[end - len(cohort.ids) : end] for column in together))
        _absorb(run, cohort, mine)


def _work(runs: list[Run], cohorts: list[Cohort]) -> Work:
    """The cohorts of all runs, one under the other."""
    parts = [[run.data.parts[i] for i in cohort.ids] for run, cohort in zip(runs, cohorts, strict=True)]
    plans = [
        plan(mine, run.seed, cohort.round, run.experiment.local, len(run.data.y))
        for run, cohort, mine in zip(runs, cohorts, parts, strict=True)
    ]
    terms = [run.experiment.algorithm.terms(run.state, cohort) for run, cohort in zip(runs, cohorts, strict=True)]
    rows = torch.tensor([len(cohort.ids) for cohort in cohorts])
    start = torch.stack([run.w for run in runs])
    spread = lambda values: start.new_tensor(values).repeat_interleave(rows)  # noqa: E731
    return Work(
        start=start,
        origin=torch.arange(len(runs)).repeat_interleave(rows),
        batches=_stack(plans),
        num_examples=start.new_tensor([len(part) for mine in parts for part in mine]),
        lr=spread([run.experiment.local.lr for run in runs]),
        h=_linear(terms, runs, cohorts),
        mu=spread([term.mu for term in terms]),
    )


def _linear(terms: list[Terms], runs: list[Run], cohorts: list[Cohort]) -> Tensor | None:
    """The linear terms of all runs, zeros where a run has none; None, and nothing allocated, where no run has any."""
    if all(term.h is None for term in terms):
        return None
    together = zip(terms, runs, cohorts, strict=True)
    return torch.cat([run.w.new_zeros(len(c.ids), len(run.w)) if term.h is None else term.h for term, run, c in together])


def _stack(plans: list[np.ndarray]) -> Tensor:
    """Plans ``[m, K, B]`` of several runs as one, padded with -1 to the longest K and B."""
    m, k, b = (f(sizes) for f, sizes in zip((sum, max, max), zip(*(p.shape for p in plans), strict=True), strict=True))
    whole, row = np.full((m, k, b), -1), 0
    for p in plans:
        whole[row : row + len(p), : p.shape[1], : p.shape[2]] = p
        row += len(p)
    return torch.from_numpy(whole)


def _absorb(run: Run, cohort: Cohort, updates: Updates) -> None:
    """Upload, aggregate, step, record: what the server does with a cohort's rows."""
    experiment = run.experiment
    trained = updates.steps > 0
    _check_finite(updates.loss.isfinite() | ~trained, run, cohort, "the training loss")
    message = Message(updates.delta, 8 * run.w.nbytes * trained.long())  # the whole row; nothing of who did not train
    delta, weights = experiment.algorithm.rows(updates._replace(delta=message.delta), cohort)
    mean = experiment.aggregate(delta, weights)
    w, state = experiment.algorithm.step(run.w, run.state, cohort, updates, mean)
    if not w.isfinite().all():
        _check_finite(delta.isfinite().all(1), run, cohort, "the update")
        told = f"the server's model is not finite after round {cohort.round} (seed {run.seed})"
        raise Diverged(f"{told}: take a smaller server learning rate; the history is kept in .result")
    run.w, run.state = w, state
    _record(run, cohort, updates, message)


def _check_finite(fine: Tensor, run: Run, cohort: Cohort, what: str) -> None:
    if not fine.all():
        client = cohort.ids[int((~fine).nonzero()[0])]
        raise Diverged(
            f"{what} of client {client} is not finite in round {cohort.round} (seed {run.seed}, "
            f"lr={run.experiment.local.lr:g}): take a smaller learning rate; the history is kept in .result"
        )


def _record(run: Run, cohort: Cohort, updates: Updates, message: Message) -> None:
    experiment, t, m = run.experiment, cohort.round, len(cohort.ids)
    due = t % experiment.eval_every == 0 or t == experiment.rounds
    names = ("loss", *experiment.task.metrics)
    scores = evaluate(experiment.task, run.w, run.data) if due else dict.fromkeys(names, np.nan)
    trained = updates.steps > 0
    weights = updates.num_examples[trained]
    bytes_up, bytes_down = message.bits.numpy() // 8, np.full(m, run.w.nbytes)
    run.rounds.append(
        {
            **run.labels,
            "seed": run.seed,
            "round": t,
            **scores,
            "train_loss": (updates.loss[trained] @ weights / weights.sum()).item() if len(weights) else np.nan,
            "clients": len(weights),
            "examples": int(weights.sum()),
            "bytes_up": int(bytes_up.sum()),
            "bytes_down": int(bytes_down.sum()),
        }
    )
    same = {**run.labels, "seed": run.seed, "round": t}
    run.clients.append(
        {name: np.full(m, value) for name, value in same.items()}
        | {"client": cohort.ids, "num_examples": updates.num_examples.numpy().astype(int)}
        | {"steps": updates.steps.numpy().astype(int), "loss": updates.loss.numpy()}
        | {"bytes_up": bytes_up, "bytes_down": bytes_down}
    )


def _drain(pairs: Variants, backend: Train, seeds: int | Sequence[int]) -> Result:
    """Run to the end, with a progress bar if it takes more than two seconds."""
    from tqdm.auto import tqdm

    runs: list[Run] = []
    rounds = max((experiment.rounds for _, experiment in pairs), default=0)
    bar = tqdm(stream(pairs, backend, seeds), total=rounds + 1, unit="round", delay=2, leave=False)
    try:
        for so_far in bar:
            runs = so_far
    except KeyboardInterrupt:
        error = Interrupted("stopped; .result of this error holds the rounds until then")
        error.result = tables(runs)
        raise error from None
    return tables(runs)
