"""The loop: sample, train, upload, aggregate, step, record."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedlab.client import Train, batched
from fedlab.core import Experiment, Result
from fedlab.core.validate import check_seeds
from fedlab.engine.dispatch import dispatch
from fedlab.engine.lockstep import evaluate_runs, group_compatible, reconcile_evaluations
from fedlab.engine.rounds import (
    aggregate_and_step,
    apply_round,
    charge_round,
    receive_updates,
    record_round,
    train,
)
from fedlab.engine.run_state import Diverged, Run, collect_result, find_device
from fedlab.engine.start import draw_cohort, start_runs
from fedlab.engine.storage.checkpoint import Checkpoint, client_tables

Variants = Sequence[tuple[dict[str, Any], Experiment]]

LEAST_CHECKED = (
    2**28
)  # bytes: below that nobody runs short, and a check would cost more than it is worth


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; ``result`` holds the whole rounds until then (in a notebook: ``sys.last_value.result``)."""

    result: Result


def run(
    experiment: Experiment,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Result:
    """Run one experiment for seeds 0..seeds-1, or those listed, in lockstep.

    The seed determines everything: initial weights, cohorts, batches, and the split where ``data`` is a function.
    ``device="auto"`` takes a GPU where PyTorch has one, else the CPU.

    ``checkpoint`` names a folder that the run is kept in, at most about a second old: killed at any moment and started
    again, it goes on from there, to the same numbers bit for bit on the same machine.  ``rounds`` may then be larger than
    before (the result is that of a long run from the start); nothing else may differ, but for the backend and the device.

    Raises Diverged when numbers are no longer finite; before any training ValueError when cohort, model and data do not fit
    each other or the checkpoint is of something else, OSError for its folder, MemoryError when a round is too large.
    """
    return run_all([({}, experiment)], backend, seeds, checkpoint=checkpoint, device=device)


def variants(base: Experiment, **fields: Mapping[Any, Any]) -> Variants:
    """The experiments that ``comparison.compare`` runs, each with its labels."""
    for name, values in fields.items():
        if name in base.task.metrics or name in base.task.measures:
            raise ValueError(
                f"the metric or measure {name!r} must have another name (compare has a column of it). Try another"
            )
        if not isinstance(values, Mapping) or not values:
            raise TypeError(
                f"{name}={values!r}: give a dict of label: value, for example {name}={{'as is': base.{name}}}"
            )
        if len({str(label) for label in values}) < len(values):
            told = f"the labels {', '.join(map(repr, values))} of {name} must differ as texts, too"
            raise ValueError(f"{told} (tables and pictures name runs by them). Try other labels")
    pairs = [
        [(name, label, value) for label, value in values.items()] for name, values in fields.items()
    ]
    return [
        (
            {name: label for name, label, _ in chosen},
            replace(base, **{name: value for name, _, value in chosen}),
        )
        for chosen in itertools.product(*pairs)
    ]


def stream(
    what: Experiment | Variants,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Iterator[list[Run]]:
    """``run`` or ``compare`` a round at a time: yields the runs after each round, from round 0, before any training.

    For whoever wants to look, draw or stop in between; ``collect_result(runs)`` makes a Result of them at any time.
    With a ``checkpoint`` that has been under way it begins with the runs as they stood there.
    """
    pairs = [({}, what)] if isinstance(what, Experiment) else what
    seeds = check_seeds(seeds)
    if len(pairs) == 0:
        raise ValueError(
            "variants must hold at least one experiment (there is nothing to run). Try a single Experiment"
        )
    where = find_device(device)
    runs = start_runs(
        ((labels, experiment, seed) for labels, experiment in pairs for seed in seeds), where
    )
    _check_memory(runs)
    with Checkpoint(checkpoint, runs) as keeper:
        for run in runs:
            reconcile_evaluations(run)
        yield runs
        try:
            for t in range(keeper.round + 1, max(run.experiment.rounds for run in runs) + 1):
                active = [
                    run
                    for run in runs
                    if t <= run.experiment.rounds and not run.traffic.budget_exhausted
                ]
                if not active:
                    return
                for group in group_compatible(active):
                    _round(group, t, backend)
                keeper.mark_round(t)
                yield runs
        except Diverged as error:
            error.result = collect_result(runs)
            raise


def _check_memory(runs: list[Run]) -> None:
    """MemoryError where the rows of a round, and those kept for every client, are more than there is room for."""
    groups = [[_needs(run) for run in group] for group in group_compatible(runs)]
    most = max(groups, key=lambda group: sum(passing for _, passing, _ in group))
    need = sum(passing for _, passing, _ in most) + sum(
        kept for group in groups for _, _, kept in group
    )
    if need > LEAST_CHECKED and need > (free := _free(runs[0].w.device)):
        clients, d = sum(m for m, _, _ in most), max(len(run.w) for run in runs)
        raise MemoryError(
            f"{clients:,} clients at a time with {d:,} parameters take about {need / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB "
            "are free: take a smaller cohort, fewer seeds or variants at once, or a smaller model"
        )


def _needs(run: Run) -> tuple[int, int, int]:
    """The clients of a cohort; the bytes that their rows take at most in a round, as measured; those of rows that stay."""
    algorithm, row = run.experiment.algorithm, run.w.nbytes
    m = len(draw_cohort(run.experiment, run.data, run.seed, 1).ids)
    tables = len(list(client_tables((run.state, run.traffic))))
    side_by_side = m if run.w.is_cuda else min(m, 4)  # with their gradients
    passing = m * (4 if tables else 3 if algorithm.needs_full_gradient else 2) + 2 * side_by_side
    passing += (
        4 * m if algorithm.partial_updates else 0
    )  # the masks, where each starts, and what is folded by them
    passing += (
        0 if run.experiment.upload.is_identity else 3 * m
    )  # what is wanted, its sizes or noise, what comes out again
    kept = tables * min(
        run.data.num_clients, 2 * m * run.experiment.rounds
    )  # tables double when they are full
    return m, row * passing, row * kept


def _free(device: torch.device) -> int:
    """Bytes that may still be had there."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    import psutil

    return psutil.virtual_memory().available


def _round(runs: list[Run], t: int, backend: Train) -> None:
    """One round of runs that are trained together and otherwise do not touch."""
    cohorts = [draw_cohort(run.experiment, run.data, run.seed, t) for run in runs]
    begun = dispatch(runs, cohorts)
    # Each step for everyone before the next, and large products apart: a processor does again in a fraction of the time what
    # it has just done.  And where one run diverges, none has gone on.
    received = [receive_updates(*one) for one in zip(begun, train(begun, backend), strict=True)]
    arrived = [
        (one, *two) for one, two in zip(begun, received, strict=True) if charge_round(one, two[1])
    ]
    told = [record_round(*one) for one in arrived]
    after = [aggregate_and_step(one.run, one.cohort, updates) for one, updates, _ in arrived]
    gone_on = [one.run for one, _, _ in arrived]
    for run, whole, row in zip(gone_on, after, told, strict=True):
        apply_round(run, whole, row)
    for run, scores in zip(gone_on, evaluate_runs(gone_on, t), strict=True):
        run.rounds[-1].update(scores)


def run_all(
    pairs: Variants,
    backend: Train,
    seeds: int | Sequence[int],
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Result:
    """Run to the end, with a progress bar if it takes more than two seconds."""
    again = "the same again goes on from there, and " if checkpoint is not None else ""
    return run_to_end(
        stream(pairs, backend, seeds, checkpoint=checkpoint, device=device), again=again
    )


def run_to_end(
    steps: Iterator[list[Run]], *, unit: str = "round", again: str = "", count: Callable = max
) -> Result:
    """Take a loop to its end, with a progress bar if that takes more than two seconds.

    Args:
        steps: Yields the runs before any training, and again whenever some have gone on, as ``stream`` does.
        unit: Name of a step in the progress bar.
        again: Start of the message's second half, where the same call would go on from a checkpoint.
        count: Function of the rounds of all runs for the progress bar: ``max`` of runs in lockstep, else ``sum``.

    Returns:
        The tables and models of all runs.

    Raises:
        Interrupted: On Ctrl-C, with the rounds so far in ``result``.
    """
    from tqdm.auto import tqdm

    runs: list[Run] = []
    try:
        runs = next(steps)
        total = count(run.experiment.rounds for run in runs)
        with tqdm(total=total, initial=_done(runs, count), unit=unit, delay=2, leave=False) as bar:
            for runs in steps:
                bar.update(_done(runs, count) - bar.n)
    except KeyboardInterrupt:
        steps.close()  # puts the runs back to their last whole round, and saves them
        told = f"stopped after {unit} {_done(runs, max)}; {again}"
        told = f"{told}.result of this error holds the {unit}s so far"
        if not runs:
            told = f"stopped before the first {unit}; .result of this error is empty"
        error = Interrupted(told)
        error.result = collect_result(runs)
        raise error from None
    return collect_result(runs)


def _done(runs: list[Run], count: Callable) -> int:
    return count([run.rounds[-1]["round"] for run in runs] or [0])
