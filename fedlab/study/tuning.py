"""Tuning of each compared method, on examples held out of training."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fedlab.core import Algorithm, Experiment, FederatedDataset, Local, Result
from fedlab.engine import Diverged, Variants
from fedlab.engine.run_state import dataset
from fedlab.study.hold_out import hold_out_examples
from fedlab.study.run_table import lower_is_better

# Fields of Local that can be tuned. The others are the amount of work, equal for all methods.
TUNABLE = ("lr", "momentum", "weight_decay", "optimizer")

TUNING_SEEDS = 3

Factory = Callable[..., Algorithm]  # such as fedadam, whose arguments can be tuned


def tuning_seeds(seeds: Sequence[int]) -> list[int]:
    """Return seeds from 1000 on that are none of ``seeds``, the seeds of the comparison."""
    others = (seed for seed in itertools.count(1000) if seed not in seeds)
    return list(itertools.islice(others, TUNING_SEEDS))


def tune_variants(
    pairs: Variants,
    factories: Mapping[Any, Factory],
    grid: Mapping[str, Sequence],
    train: Callable[..., Result],
    folder: Path | None,
) -> tuple[Variants, pd.DataFrame]:
    """Return the variants, each with its best candidate, and the scores of all candidates.

    Args:
        pairs: Labels and experiment of each variant.
        factories: Functions that build an algorithm, by its label.
        grid: Values to try, by name: fields of ``Local``, and arguments of the factories.
        train: Trains pairs, with a folder of checkpoints as ``checkpoint``.
        folder: Folder of checkpoints, with one folder per candidate; None: no checkpoints.

    Returns:
        The variants with a column for each name of the grid, and ``note``; and the trials, of
        which the column ``chosen`` marks the best of each variant.

    Raises:
        ValueError: For a grid that cannot be tuned, or if all candidates of a variant diverge.
    """
    _check_grid(grid, factories)
    jobs = []  # all candidates before any training, so that impossible ones are refused at once
    for labels, experiment in pairs:
        factory = factories.get(labels.get("algorithm"))
        settings = _settings(grid, factory)
        candidates = [_with_setting(experiment, setting, factory) for setting in settings]
        jobs.append((labels, settings, candidates))
    best, tables = [], []
    for i, (labels, settings, candidates) in enumerate(
        tqdm(jobs, desc="tuning", unit="variant", delay=2, leave=False)
    ):
        named = [{**labels, **dict.fromkeys(grid, ""), **setting} for setting in settings]
        trials = _score(pd.DataFrame(named), candidates, train, folder and folder / str(i))
        k = _best(trials)
        tables.append(trials.assign(chosen=trials.index == k))
        best.append(({**named[k], "note": _note_on_ends(settings[k], grid)}, candidates[k]))
    return best, pd.concat(tables, ignore_index=True)


def _settings(grid: Mapping[str, Sequence], factory: Factory | None) -> list[dict[str, Any]]:
    """Return every combination of the values that a variant can take."""
    names = [name for name in grid if name in (*TUNABLE, *_arguments(factory))]
    combinations = itertools.product(*(grid[name] for name in names))
    return [dict(zip(names, values, strict=True)) for values in combinations]


def _arguments(factory: Factory | None) -> list[str]:
    return [] if factory is None else list(inspect.signature(factory).parameters)


def _with_setting(
    experiment: Experiment, setting: Mapping[str, Any], factory: Factory | None
) -> Experiment:
    """Return the experiment with the setting in its ``local`` and its algorithm."""
    training = {name: value for name, value in setting.items() if name in TUNABLE}
    arguments = {name: value for name, value in setting.items() if name not in TUNABLE}
    local = (
        replace(experiment.local, **training)
        if isinstance(experiment.local, Local)
        else [replace(client, **training) for client in experiment.local]
    )
    algorithm = factory(**arguments) if arguments else experiment.algorithm
    return replace(experiment, local=local, algorithm=algorithm)


def _score(
    trials: pd.DataFrame,
    candidates: Sequence[Experiment],
    train: Callable[..., Result],
    folder: Path | None,
) -> pd.DataFrame:
    """Return the trials with the candidates' scores on held-out examples, NaN if they diverge.

    Candidates train one after another: in lockstep, one that diverges would end all of them.
    Lockstep was no faster on two cores.
    """
    experiment = candidates[0]
    names = [
        name for name in ("accuracy", "loss") if name == "loss" or name in experiment.task.metrics
    ]

    @cache  # candidates share their data, which each would divide anew
    def held_out(seed: int) -> FederatedDataset:
        return hold_out_examples(dataset(experiment, seed), seed=seed)

    scores = np.full((len(candidates), len(names)), np.nan)
    for k, candidate in enumerate(candidates):
        pair = {}, replace(candidate, data=held_out, eval_every=candidate.rounds)
        with suppress(Diverged):
            rounds = train([pair], checkpoint=folder and folder / str(k)).rounds
            scores[k] = rounds.loc[rounds["round"] == candidate.rounds, names].mean(skipna=False)
    return trials.assign(**dict(zip(names, scores.T, strict=True)))


def _best(trials: pd.DataFrame) -> int:
    """Return the row of the highest accuracy, then of the lowest loss among equals."""
    goals = [name for name in ("accuracy", "loss") if name in trials]
    finite = trials[np.isfinite(trials[goals[0]])]
    if finite.empty:
        raise ValueError(
            f"every candidate diverged. Try smaller values\n{trials.to_string(index=False)}"
        )
    ascending = [lower_is_better(name) for name in goals]
    return finite.sort_values(goals, ascending=ascending, kind="stable").index[0]


def _note_on_ends(setting: Mapping[str, Any], grid: Mapping[str, Sequence]) -> str:
    """Name the values at an end of their grid: a better one may lie beyond, except beyond 0."""
    notes = []
    for name, value in setting.items():
        if not isinstance(value, int | float | np.number) or value == 0:
            continue
        if value in (min(grid[name]), max(grid[name])):
            end = "lowest" if value == min(grid[name]) else "highest"
            notes.append(f"{name}={value:g} is the {end} tried")
    return "; ".join(notes)


def _check_grid(grid: Mapping[str, Sequence], factories: Mapping[Any, Factory]) -> None:
    if not isinstance(grid, Mapping) or not grid:
        raise TypeError(
            f"tune={grid!r} must be a dict of values by name. Try tune={{'lr': (0.03, 0.1, 0.3)}}"
        )
    arguments = dict.fromkeys(name for each in factories.values() for name in _arguments(each))
    known = [*TUNABLE, *arguments]
    for name, values in grid.items():
        if name not in known:
            raise ValueError(
                f"tune={name!r} must be one of {', '.join(known)}, or an argument of an algorithm "
                "given as a function, such as fedadam instead of fedadam() (epochs, steps and "
                "batch_size are the work, which is equal for all). Try tune={'lr': (0.03, 0.1)}"
            )
        listed = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str)
        if not listed or len(set(values)) < 2:
            raise ValueError(
                f"tune: {name}={values!r} must be a list of two values or more (to choose from). "
                "Try tune={'lr': (0.03, 0.1)}"
            )
