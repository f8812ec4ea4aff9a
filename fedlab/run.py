"""The loop: sample, train, upload, aggregate, step, record."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab import params
from fedlab.client import Train, assign, batched, plan, probe, stack
from fedlab.records import Cohort, Experiment, FederatedDataset, Local, Message, Result, Task, Updates, Work
from fedlab.rng import generator, seeded

Variants = Sequence[tuple[dict[str, Any], Experiment]]


class Diverged(ArithmeticError):  # noqa: N818 - the field's word
    """Training gave numbers that are not finite; ``result`` holds the history until then."""

    result: Result


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; ``result`` holds the history until then (in a notebook: ``sys.last_value.result``)."""

    result: Result


def run(experiment: Experiment, backend: Train = batched, seeds: int | Sequence[int] = 1, *, device: str = "auto") -> Result:
    """Run one experiment for seeds 0..seeds-1, or those listed, in lockstep.

    The seed determines everything: initial weights, cohorts, batches, and the split where ``data`` is a function.
    ``device="auto"`` takes a GPU where PyTorch has one, else the CPU.
    Raises Diverged when numbers are no longer finite, ValueError when the cohort does not fit the data.
    """
    return finish([({}, experiment)], backend, seeds, device=device)


def variants(base: Experiment, **fields: Mapping[Any, Any]) -> Variants:
    """The experiments that ``comparison.compare`` runs, each with its labels."""
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


def stream(
    what: Experiment | Variants, backend: Train = batched, seeds: int | Sequence[int] = 1, *, device: str = "auto"
) -> Iterator[list[Run]]:
    """``run`` or ``compare`` a round at a time: yields the runs after each round, from round 0, before any training.

    For whoever wants to look, draw or stop in between; ``tables(runs)`` makes a Result of them at any time.
    """
    pairs = [({}, what)] if isinstance(what, Experiment) else what
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    if len(pairs) == 0 or len(seeds) == 0:
        raise ValueError(f"nothing to run: {len(pairs)} experiments with {len(seeds)} seeds; give at least one of each")
    where = _device(device)
    runs = [_begin(labels, experiment, seed, where) for labels, experiment in pairs for seed in seeds]
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
    if x is None:
        return w
    return w.to(x.device, x.dtype) if x.is_floating_point() else w.to(x.device)


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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}: PyTorch sees no GPU here; take device='auto' or 'cpu'")
    return torch.device(name)


def _begin(labels: dict, experiment: Experiment, seed: int, device: torch.device) -> Run:
    data = dataset(experiment, seed)
    _cohort(experiment, data, seed, 1)  # a cohort that does not fit is refused before anything is trained
    _check_locals(experiment, data)
    data = _moved(data, device)
    w = initial(experiment.task, seed, data.x)
    run = Run(labels, experiment, seed, data, w, experiment.algorithm.init(w, data.num_clients))
    nobody = {"train_loss": np.nan, "clients": 0, "examples": 0, "bytes_up": 0, "bytes_down": 0}
    run.rounds.append({**labels, "seed": seed, "round": 0, **evaluate(experiment.task, w, data), **nobody})
    return run


@lru_cache(maxsize=8)
def _moved(data: FederatedDataset, device: torch.device) -> FederatedDataset:
    """The data on the device; the same copy for every run, so that they can train together."""
    return data.to(device)


def _check_locals(experiment: Experiment, data: FederatedDataset) -> None:
    local = experiment.local
    if not isinstance(local, Local) and len(local) != data.num_clients:
        raise ValueError(
            f"local has {len(local)} entries for {data.num_clients} clients: give one for everyone, or one a client"
        )


def _alike(runs: list[Run]) -> list[list[Run]]:
    """Runs that share a task, examples and an optimizer can train as rows of one matrix."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        optimizer = _local(run, [0])[0].optimizer
        groups.setdefault((id(run.experiment.task), id(run.data.x), id(run.data.y), optimizer), []).append(run)
    return list(groups.values())


def _local(run: Run, ids: Sequence[int]) -> list[Local]:
    local = run.experiment.local
    return [local] * len(ids) if isinstance(local, Local) else [local[i] for i in ids]


def _cohort(experiment: Experiment, data: FederatedDataset, seed: int, t: int) -> Cohort:
    ids = experiment.sample(data.sizes, t, generator(seed, "cohort", t))
    return Cohort(ids, t, seed, data.num_clients)


def _round(runs: list[Run], t: int, backend: Train) -> None:
    """One round of runs that are trained together and otherwise do not touch."""
    cohorts = [_cohort(run.experiment, run.data, run.seed, t) for run in runs]
    first = runs[0]
    together = backend(first.experiment.task, first.data.x, first.data.y, _together(list(map(_work, runs, cohorts))))
    ends = np.cumsum([len(cohort.ids) for cohort in cohorts])
    for run, cohort, end in zip(runs, cohorts, ends, strict=True):
        mine = Updates(*(column if column is None else column[end - len(cohort.ids) : end] for column in together))
        if run.experiment.algorithm.probe:
            parts = [run.data.parts[i] for i in cohort.ids]
            loss, gradient = probe(run.experiment.task, run.data.x, run.data.y, run.w, parts)
            mine = mine._replace(start_loss=loss, gradient=gradient)
        _absorb(run, cohort, mine)


def _work(run: Run, cohort: Cohort) -> Work:
    """What the clients of one run are to do."""
    parts, local = [run.data.parts[i] for i in cohort.ids], _local(run, cohort.ids)
    batches = _plan(parts, run.seed, cohort.round, local, len(run.data.y))
    return assign(run.w, parts, local, batches, run.experiment.algorithm.terms(run.state, cohort))


def _plan(parts: list[np.ndarray], seed: int, t: int, local: Sequence[Local], n: int) -> np.ndarray:
    """The batches of clients that may differ in their batch sizes and epochs, ``[m, K, B]``."""
    kinds: dict[tuple, list[int]] = {}
    for row, mine in enumerate(local):
        kinds.setdefault((mine.batch_size, mine.epochs, mine.steps), []).append(row)
    if len(kinds) <= 1:
        return plan(parts, seed, t, local[0] if local else Local(1.0), n)
    plans = [plan([parts[i] for i in rows], seed, t, local[rows[0]], n) for rows in kinds.values()]
    return stack(plans)[np.argsort(np.concatenate(list(kinds.values())))]


def _together(works: list[Work]) -> Work:
    """The work of several runs as rows of one matrix, one under the other."""
    if len(works) == 1:
        return works[0]
    columns = {name: torch.cat([getattr(work, name) for work in works]) for name in ("num_examples", "lr", "mu", "momentum")}
    origin = torch.cat([work.origin + i for i, work in enumerate(works)])
    return works[0]._replace(
        **columns,
        start=torch.cat([work.start for work in works]),
        origin=origin,
        batches=torch.from_numpy(stack([work.batches.numpy() for work in works])),
        weight_decay=torch.cat([work.weight_decay for work in works]),
        h=_linear(works),
    )


def _linear(works: list[Work]) -> Tensor | None:
    """The linear terms of all runs, zeros where a run has none; None, and nothing allocated, where no run has any."""
    if all(work.h is None for work in works):
        return None
    return torch.cat([work.start.expand(len(work.lr), -1) * 0 if work.h is None else work.h for work in works])


def _absorb(run: Run, cohort: Cohort, updates: Updates) -> None:
    """Upload, aggregate, step, record: what the server does with a cohort's rows."""
    experiment = run.experiment
    trained = updates.steps > 0
    _check_finite(updates.loss.isfinite() | ~trained, run, cohort, "the training loss")
    bits = 8 * run.w.nbytes * experiment.algorithm.sends
    message = Message(updates.delta, bits * trained.long())  # whole rows; nothing of who did not train
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
            f"lr={_local(run, [client])[0].lr:g}): take a smaller learning rate; the history is kept in .result"
        )


def _record(run: Run, cohort: Cohort, updates: Updates, message: Message) -> None:
    experiment, t, m = run.experiment, cohort.round, len(cohort.ids)
    due = t % experiment.eval_every == 0 or t == experiment.rounds
    names = ("loss", *experiment.task.metrics)
    scores = evaluate(experiment.task, run.w, run.data) if due else dict.fromkeys(names, np.nan)
    trained = updates.steps > 0
    weights = updates.num_examples[trained]
    bytes_up, bytes_down = message.bits.numpy(force=True) // 8, np.full(m, run.w.nbytes * experiment.algorithm.receives)
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
        | {"client": cohort.ids, "num_examples": updates.num_examples.numpy(force=True).astype(int)}
        | {"steps": updates.steps.numpy(force=True).astype(int), "loss": updates.loss.numpy(force=True)}
        | {"bytes_up": bytes_up, "bytes_down": bytes_down}
    )


def finish(pairs: Variants, backend: Train, seeds: int | Sequence[int], *, device: str = "auto") -> Result:
    """Run to the end, with a progress bar if it takes more than two seconds."""
    from tqdm.auto import tqdm

    runs: list[Run] = []
    rounds = max((experiment.rounds for _, experiment in pairs), default=0)
    bar = tqdm(stream(pairs, backend, seeds, device=device), total=rounds + 1, unit="round", delay=2, leave=False)
    try:
        for so_far in bar:
            runs = so_far
    except KeyboardInterrupt:
        error = Interrupted("stopped; .result of this error holds the rounds until then")
        error.result = tables(runs)
        raise error from None
    return tables(runs)
