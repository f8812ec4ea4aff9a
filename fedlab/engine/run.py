"""The loop over rounds: run one experiment or several variants, at once or round by round."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlab.client import Train, batched
from fedlab.core import Experiment, Result
from fedlab.core.validate import check_seeds
from fedlab.engine.dispatch import dispatch, draw_cohort
from fedlab.engine.lockstep import group_compatible
from fedlab.engine.memory import check_memory
from fedlab.engine.rounds import (
    aggregate_and_step,
    apply_round,
    charge_round,
    receive_updates,
    record_round,
)
from fedlab.engine.run_state import Diverged, Run, collect_result, find_device
from fedlab.engine.scores import evaluate_runs, reconcile_evaluations
from fedlab.engine.start import start_runs
from fedlab.engine.storage.checkpoint import Checkpoint
from fedlab.engine.training import train

Variants = Sequence[tuple[dict[str, Any], Experiment]]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; ``result`` holds the complete rounds until then.

    In a notebook the error is ``sys.last_value``.
    """

    result: Result


def run(
    experiment: Experiment,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Result:
    """Run one experiment for one seed or for several in lockstep.

    A seed determines everything: initial weights, cohorts, batches, and the split of the data if
    ``data`` is a function of the seed.

    Args:
        experiment: Data, task, local training, algorithm and everything else that defines the run.
        backend: Engine that trains: ``batched`` (fast) or ``sequential`` (readable).
        seeds: Number of seeds (0 to seeds - 1), or a list of them.
        checkpoint: Folder that keeps the run, at most about a second old. The same call continues
            from it after a crash, to the same numbers bit for bit on the same machine. ``rounds``
            may then be larger than before; only backend and device may differ otherwise.
        device: Name of a PyTorch device; "auto" takes a GPU if there is one.

    Returns:
        The final models and the tables of rounds and clients.

    Raises:
        Diverged: If numbers become non-finite; its ``result`` holds the rounds until then.
        Interrupted: On Ctrl-C, likewise.
        ValueError: Before any training, if cohort, model and data do not fit each other, or the
            checkpoint belongs to another experiment.
        OSError: If the checkpoint's folder cannot be used.
        MemoryError: If a round is too large for the memory.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.engine.factory import experiment
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=10)
        >>> study = experiment(digits, mlp(digits, ()), Local(lr=0.1), rounds=3)
        >>> result = run(study, seeds=2)
        >>> result.rounds[["seed", "round"]].values.tolist()
        [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1], [1, 2], [1, 3]]
        >>> bool(result.final()["accuracy"].mean() > 0.5)
        True
    """
    return run_all([({}, experiment)], backend, seeds, checkpoint=checkpoint, device=device)


def variants(base: Experiment, **fields: Mapping[Any, Any]) -> Variants:
    """Make one experiment per combination of values, as ``fedlab.study.compare`` runs them.

    Args:
        base: Experiment whose fields are replaced.
        fields: For each field a dict of label: value.

    Returns:
        Pairs of labels and experiment, in the order of the values.

    Raises:
        ValueError: If labels are equal as texts, or a metric has the name of a field.
        TypeError: If the values of a field are no dict.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.engine.factory import experiment
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=10)
        >>> study = experiment(digits, mlp(digits), Local(lr=0.1))
        >>> pairs = variants(study, rounds={"short": 5, "long": 50}, eval_every={"always": 1})
        >>> [labels for labels, _ in pairs]
        [{'rounds': 'short', 'eval_every': 'always'}, {'rounds': 'long', 'eval_every': 'always'}]
    """
    for name, values in fields.items():
        if name in base.task.metrics or name in base.task.measures:
            raise ValueError(
                f"the metric or measure {name!r} must have another name (compare has a column of "
                "it). Try another"
            )
        if not isinstance(values, Mapping) or not values:
            raise TypeError(
                f"{name}={values!r} must be a dict of label: value. "
                f"Try {name}={{'as is': base.{name}}}"
            )
        if len({str(label) for label in values}) < len(values):
            raise ValueError(
                f"the labels {', '.join(map(repr, values))} of {name} must differ as texts, too "
                "(tables and pictures name runs by them). Try other labels"
            )
    choices = [
        [(name, label, value) for label, value in values.items()] for name, values in fields.items()
    ]
    return [
        (
            {name: label for name, label, _ in combination},
            replace(base, **{name: value for name, _, value in combination}),
        )
        for combination in itertools.product(*choices)
    ]


def stream(
    experiment: Experiment | Variants,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Iterator[list[Run]]:
    """Run round by round, to look, draw or stop between rounds.

    Args:
        experiment: One experiment, or several with labels from ``variants``.
        backend: Engine that trains.
        seeds: Number of seeds, or a list of them.
        checkpoint: Folder that keeps the runs; they continue from it.
        device: Name of a PyTorch device, or "auto".

    Yields:
        The runs after each round, first after round 0, before any training, or as the checkpoint
        has them. The list is the same object each time; ``collect_result(runs)`` makes a result.

    Raises:
        Diverged: If numbers become non-finite, as ``run`` does.
        ValueError: Before any training, as ``run`` does.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.engine.factory import experiment
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=10)
        >>> study = experiment(digits, mlp(digits, ()), Local(lr=0.1), rounds=2)
        >>> for (one_run,) in stream(study):
        ...     print(one_run.rounds[-1]["round"], one_run.rounds[-1]["clients"])
        0 0
        1 10
        2 10
    """
    pairs = [({}, experiment)] if isinstance(experiment, Experiment) else experiment
    seeds = check_seeds(seeds)
    if len(pairs) == 0:
        raise ValueError(
            "variants must hold at least one experiment (there is nothing to run). "
            "Try a single Experiment"
        )
    torch_device = find_device(device)
    runs = start_runs(
        ((labels, variant, seed) for labels, variant in pairs for seed in seeds), torch_device
    )
    check_memory(runs)
    with Checkpoint(checkpoint, runs) as keeper:
        for one_run in runs:
            reconcile_evaluations(one_run)
        yield runs
        try:
            for t in range(keeper.round + 1, max(run.experiment.rounds for run in runs) + 1):
                active = [run for run in runs if _is_active(run, t)]
                if not active:
                    return
                for group in group_compatible(active):
                    _run_round(group, t, backend)
                keeper.mark_round(t)
                yield runs
        except Diverged as error:
            error.result = collect_result(runs)
            raise


def _is_active(run: Run, t: int) -> bool:
    """Return True if a run takes part in round ``t``."""
    return t <= run.experiment.rounds and not run.traffic.budget_exhausted


def _run_round(runs: list[Run], t: int, backend: Train) -> None:
    """Run one round of runs that train together.

    Each step is taken for all runs before the next one: a processor repeats in a fraction of the
    time what it has just done. And if one run diverges, no run has advanced.
    """
    cohorts = [draw_cohort(run.experiment, run.data, run.seed, t) for run in runs]
    dispatches = dispatch(runs, cohorts)
    trained = train(dispatches, backend)
    received = [receive_updates(*pair) for pair in zip(dispatches, trained, strict=True)]
    arrived = [
        (dispatched, updates, bytes_up)
        for dispatched, (updates, bytes_up) in zip(dispatches, received, strict=True)
        if charge_round(dispatched, bytes_up)
    ]
    recorded = [record_round(*arrival) for arrival in arrived]
    after = [
        aggregate_and_step(dispatched.run, dispatched.cohort, updates)
        for dispatched, updates, _ in arrived
    ]
    advanced = [dispatched.run for dispatched, _, _ in arrived]
    for run, run_after, rows in zip(advanced, after, recorded, strict=True):
        apply_round(run, run_after, rows)
    for run, scores in zip(advanced, evaluate_runs(advanced, t), strict=True):
        run.rounds[-1].update(scores)


def run_all(
    pairs: Variants,
    backend: Train,
    seeds: int | Sequence[int],
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Result:
    """Run several experiments to the end; a progress bar appears after two seconds.

    Args:
        pairs: Labels and experiments, from ``variants``.
        backend: Engine that trains.
        seeds: Number of seeds, or a list of them.
        checkpoint: Folder that keeps the runs.
        device: Name of a PyTorch device, or "auto".

    Returns:
        The models and tables of all runs; the labels are columns of the tables.
    """
    hint = "the same call continues from there, and " if checkpoint is not None else ""
    steps = stream(pairs, backend, seeds, checkpoint=checkpoint, device=device)
    return run_to_end(steps, resume_hint=hint)


def run_to_end(
    steps: Iterator[list[Run]],
    *,
    unit: str = "round",
    resume_hint: str = "",
    count: Callable = max,
) -> Result:
    """Exhaust a loop of runs; a progress bar appears after two seconds.

    Args:
        steps: Yields the runs before any training, and after each step, as ``stream`` does.
        unit: Name of a step in the progress bar.
        resume_hint: Words of the error on Ctrl-C, if the same call continues from a checkpoint.
        count: Function of the rounds of all runs for the progress bar: ``max`` of runs in
            lockstep, else ``sum``.

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
        steps.close()  # returns the runs to their last complete round, and saves them
        message = f"stopped before the first {unit}; .result of this error is empty"
        if runs:
            message = (
                f"stopped after {unit} {_done(runs, max)}; {resume_hint}.result of this error "
                f"holds the {unit}s so far"
            )
        error = Interrupted(message)
        error.result = collect_result(runs)
        raise error from None
    return collect_result(runs)


def _done(runs: list[Run], count: Callable) -> int:
    """Count the rounds that are complete."""
    return count([run.rounds[-1]["round"] for run in runs] or [0])
