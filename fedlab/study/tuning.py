"""Tuning of every compared method on examples held out."""

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
import torch
from tqdm.auto import tqdm

from fedlab.core import Algorithm, Experiment, FederatedDataset, Local, Result, generator
from fedlab.engine import Diverged, Variants, dataset
from fedlab.study.statistics import _low_is_good

TUNABLE = (
    "lr",
    "momentum",
    "weight_decay",
    "optimizer",
)  # of Local; the rest of it is work, which is compared at

TUNING_SEEDS = 3


def hold_out_examples(
    data: FederatedDataset, share: float = 0.2, *, seed: int = 0
) -> FederatedDataset:
    """The same clients, with a ``share`` of what each of them held, drawn by ``seed``, as test set; the real one is gone.

    ``test_parts`` say whose each of these is, so that ``evaluate_clients`` can tell how well each client is served.
    A client keeps at least one example.  What is held out stays in ``x`` and ``y``, where nobody holds it: datasets that
    share their tensors can train in lockstep.
    """
    if not 0 < share < 1:
        raise ValueError(
            f"share={share}: a share of the clients' examples is above 0 and below 1; try 0.2"
        )
    draw, sizes = generator(seed, "validation"), data.sizes
    away = np.floor(share * sizes + draw.random(len(sizes))).astype(
        int
    )  # share * sizes on average, of small clients too
    away = np.minimum(away, np.maximum(sizes - 1, 0))
    if not away.any():
        told = f"share={share} of clients with {sizes.min()} to {sizes.max(initial=0)} examples"
        raise ValueError(f"{told} is nothing: take a larger one, or fewer clients")
    orders = [draw.permutation(part) for part in data.parts]
    tests = [np.sort(order[:k]) for order, k in zip(orders, away, strict=True)]
    held = np.sort(np.concatenate(tests))
    parts = [np.sort(order[k:]) for order, k in zip(orders, away, strict=True)]
    test_parts = [np.searchsorted(held, ids) for ids in tests]
    return replace(data, parts=parts, test=(data.x[held], data.y[held]), test_parts=test_parts)


def hold_out_clients(
    data: FederatedDataset, share: float = 0.2, *, seed: int = 0
) -> FederatedDataset:
    """Keep a share of the clients out of training: all that they hold becomes their test examples.

    A federation is worth something to a client that comes later, or it is not: ``evaluate_clients`` tells.

    Args:
        data: Clients that hold examples; their own test examples stay, where there are any.
        share: Share of the clients that hold examples, above 0 and below 1.  They are drawn by ``seed``, one at least.
        seed: Seed of the draw.

    Returns:
        The same N clients, of which the drawn ones hold no training examples.  ``test`` has the examples of these clients
        behind the test examples that belong to someone; test examples that are nobody's are left out.  Draw cohorts by
        ``holders(uniform(10))``, so that none of their places is taken by a client that never trains.

    Raises:
        ValueError: If ``share`` is out of range, or no client would be left to train.

    Example:
        >>> from fedlab.data import load
        >>> digits = hold_out_clients(load("digits", clients=10), share=0.3)
        >>> int((digits.sizes == 0).sum()), sum(len(part) > 0 for part in digits.test_parts)
        (3, 3)
    """
    if not 0 < share < 1:
        raise ValueError(
            f"share={share} must be above 0 and below 1 (it is a share of the clients). Try 0.2"
        )
    present = np.flatnonzero(data.sizes)
    many = max(1, round(share * len(present)))
    if many >= len(present):
        raise ValueError(
            f"share={share} of {len(present)} clients leaves none to train. Try more clients, or a smaller share"
        )
    away = set(generator(seed, "held-out clients").choice(present, many, replace=False).tolist())
    parts = [
        np.empty(0, dtype=np.int64) if i in away else part for i, part in enumerate(data.parts)
    ]
    of_clients = (
        [np.empty(0, dtype=np.int64)] * data.num_clients
        if data.test_parts is None
        else data.test_parts
    )
    before = np.concatenate(
        [np.empty(0, dtype=np.int64), *of_clients]
    )  # test examples that are someone's
    moved = np.concatenate([data.parts[i] for i in sorted(away)])
    x = torch.cat([data.test[0][before], data.x[moved]])
    y = torch.cat([data.test[1][before], data.y[moved]])
    sizes = [len(part) for part in of_clients]
    ends = np.split(np.arange(len(before)), np.cumsum(sizes)[:-1])
    added = iter(
        np.split(
            np.arange(len(before), len(y)),
            np.cumsum([len(data.parts[i]) for i in sorted(away)])[:-1],
        )
    )
    tests = [
        np.concatenate([ends[i], next(added)]) if i in away else ends[i]
        for i in range(data.num_clients)
    ]
    return replace(data, parts=parts, test=(x, y), test_parts=tests)


def _apart_from(seeds: Sequence[int]) -> list[int]:
    return list(
        itertools.islice(
            (seed for seed in itertools.count(1000) if seed not in seeds), TUNING_SEEDS
        )
    )


def _tuned(
    pairs: Variants,
    recipes: Mapping[Any, Callable[..., Algorithm]],
    grid: Mapping[str, Sequence],
    train: Callable[..., Result],
    folder: Path | None,
) -> tuple[Variants, pd.DataFrame]:
    """The variants, each with the best of its candidates, and how all candidates did."""
    _check_grid(grid, recipes)
    todo = []  # all candidates before any training: what does not go together is refused at once
    for labels, experiment in pairs:
        recipe = recipes.get(labels.get("algorithm"))
        settings = _settings(grid, recipe)
        todo.append(
            (labels, settings, [_with(experiment, setting, recipe) for setting in settings])
        )
    best, tables = [], []
    for i, (labels, settings, candidates) in enumerate(
        tqdm(todo, desc="tuning", unit="variant", delay=2, leave=False)
    ):
        named = [{**labels, **dict.fromkeys(grid, ""), **setting} for setting in settings]
        trials = _tried(pd.DataFrame(named), candidates, train, folder and folder / str(i))
        k = _best(trials)
        tables.append(trials.assign(chosen=trials.index == k))
        best.append(({**named[k], "note": _at_an_end(settings[k], grid)}, candidates[k]))
    return best, pd.concat(tables, ignore_index=True)


def _settings(
    grid: Mapping[str, Sequence], recipe: Callable[..., Algorithm] | None
) -> list[dict[str, Any]]:
    """Every combination of what can be set in a variant."""
    names = [name for name in grid if name in (*TUNABLE, *_arguments(recipe))]
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(grid[name] for name in names))
    ]


def _arguments(recipe: Callable[..., Algorithm] | None) -> list[str]:
    return [] if recipe is None else list(inspect.signature(recipe).parameters)


def _with(
    experiment: Experiment, setting: Mapping[str, Any], recipe: Callable[..., Algorithm] | None
) -> Experiment:
    mine = {name: value for name, value in setting.items() if name in TUNABLE}
    own = {name: value for name, value in setting.items() if name not in TUNABLE}
    local = experiment.local
    local = (
        replace(local, **mine)
        if isinstance(local, Local)
        else [replace(one, **mine) for one in local]
    )
    return replace(
        experiment, local=local, algorithm=recipe(**own) if own else experiment.algorithm
    )


def _tried(
    trials: pd.DataFrame,
    candidates: Sequence[Experiment],
    train: Callable[..., Result],
    folder: Path | None,
) -> pd.DataFrame:
    """The candidates and their scores on examples held out.

    One after another: in lockstep, one that diverges would end all (and they were no faster, on two cores).
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
    """The row of the highest accuracy, of those alike the lowest loss; without an accuracy, of the lowest loss."""
    goals = [name for name in ("accuracy", "loss") if name in trials]
    finite = trials[np.isfinite(trials[goals[0]])]
    if finite.empty:
        raise ValueError(
            f"every candidate diverged: tune over smaller values\n{trials.to_string(index=False)}"
        )
    return finite.sort_values(
        goals, ascending=[_low_is_good(name) for name in goals], kind="stable"
    ).index[0]


def _at_an_end(setting: Mapping[str, Any], grid: Mapping[str, Sequence]) -> str:
    """Which values are the last ones of their grid, so that a better one may lie beyond; beyond 0 there is none."""
    told = []
    for name, value in setting.items():
        if (
            isinstance(value, int | float | np.number)
            and value != 0
            and value in (min(grid[name]), max(grid[name]))
        ):
            told.append(
                f"{name}={value:g} is the {'lowest' if value == min(grid[name]) else 'highest'} tried"
            )
    return "; ".join(told)


def _check_grid(
    grid: Mapping[str, Sequence], recipes: Mapping[Any, Callable[..., Algorithm]]
) -> None:
    if not isinstance(grid, Mapping) or not grid:
        raise TypeError(
            f"tune={grid!r}: give a dict of name: values, for example {{'lr': (0.03, 0.1, 0.3)}}"
        )
    known = [
        *TUNABLE,
        *dict.fromkeys(name for recipe in recipes.values() for name in _arguments(recipe)),
    ]
    for name, values in grid.items():
        if name not in known:
            raise ValueError(
                f"tune={name!r}: there are {', '.join(known)}, and the arguments of an algorithm given as a function, "
                f"such as fedadam instead of fedadam(); epochs, steps and batch_size are the work, which is equal for all"
            )
        if (
            isinstance(values, str)
            or not isinstance(values, Sequence | np.ndarray)
            or len(set(values)) < 2
        ):
            raise ValueError(
                f"tune: {name}={values!r} leaves nothing to choose; give two values or more"
            )
