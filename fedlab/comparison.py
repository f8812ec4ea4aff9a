"""Methods side by side: equal budgets, each with its own tuned rate, paired seeds, and the interval of the difference."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from fedlab.checks import check_seeds
from fedlab.client import Train, batched
from fedlab.records import Algorithm, Experiment, FederatedDataset, Local, Result
from fedlab.rng import generator
from fedlab.rounds import Diverged, dataset
from fedlab.run import Variants, finish, variants
from fedlab.storage.files import folder_at

TUNABLE = ("lr", "momentum", "weight_decay", "optimizer")  # of Local; the rest of it is work, which is compared at
TUNING_SEEDS = 3
LEAST_SEEDS = 3  # for an interval

_WORDS = {"accuracy": "test accuracy of the global model", "loss": "test loss of the global model"}


def compare(
    base: Experiment,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    *,
    tune: Mapping[str, Sequence] | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    **fields: Mapping[Any, Any],
) -> Result:
    """Run variants of one experiment side by side, in lockstep and with the same seeds.

    ``compare(base, algorithm={"FedAvg": fedavg(), "half steps": fedavg(server_lr=0.5)})`` puts each value in that field and
    adds a column ``algorithm`` with the labels to both tables.  Several fields give every combination.

    ``tune={"lr": (0.03, 0.1, 0.3)}`` first finds the best values for each variant by itself, out of every combination: lr,
    momentum, weight_decay or optimizer of ``Local``, and arguments of an algorithm given as a function (``fedadam`` instead
    of ``fedadam()``), such as ``server_lr``.  They become columns, with "" for a variant that has no such argument, and the
    column ``note`` says where a value lies at the end of its grid.  Chosen is the highest mean accuracy, of those alike the
    lowest loss (without an accuracy, the lowest loss), after the last round, over 3 seeds from 1000 on that are none of
    ``seeds``, on a fifth of the clients' examples (see ``validation``): the test set takes no part.  A candidate that
    diverges is out.  All of them come back as ``trials``.

    ``checkpoint`` and ``device`` are those of ``run``; the candidates are kept beside it, in ``<checkpoint>.tuning``.
    """
    seeds = check_seeds(seeds)
    recipes, fields = _recipes(fields)
    pairs, trials = variants(base, **fields), None
    if tune is not None:
        folder = None if checkpoint is None else Path(f"{folder_at(checkpoint=checkpoint)}.tuning")
        train = partial(finish, backend=backend, seeds=_apart_from(seeds), device=device)
        pairs, trials = _tuned(pairs, recipes, tune, train, folder)
    result = finish(pairs, backend, seeds, checkpoint=checkpoint, device=device)
    return replace(result, trials=trials)


def validation(data: FederatedDataset, share: float = 0.2, *, seed: int = 0) -> FederatedDataset:
    """The same clients, with a ``share`` of what each of them held, drawn by ``seed``, as test set; the real one is gone.

    ``test_parts`` say whose each of these is, so that ``evaluate_clients`` can tell how well each client is served.
    A client keeps at least one example.  What is held out stays in ``x`` and ``y``, where nobody holds it: datasets that
    share their tensors can train in lockstep.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share}: a share of the clients' examples is above 0 and below 1; try 0.2")
    draw, sizes = generator(seed, "validation"), data.sizes
    away = np.floor(share * sizes + draw.random(len(sizes))).astype(int)  # share * sizes on average, of small clients too
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


def hold_out_clients(data: FederatedDataset, share: float = 0.2, *, seed: int = 0) -> FederatedDataset:
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
        raise ValueError(f"share={share} must be above 0 and below 1 (it is a share of the clients). Try 0.2")
    present = np.flatnonzero(data.sizes)
    many = max(1, round(share * len(present)))
    if many >= len(present):
        raise ValueError(
            f"share={share} of {len(present)} clients leaves none to train. Try more clients, or a smaller share"
        )
    away = set(generator(seed, "held-out clients").choice(present, many, replace=False).tolist())
    parts = [np.empty(0, dtype=np.int64) if i in away else part for i, part in enumerate(data.parts)]
    of_clients = [np.empty(0, dtype=np.int64)] * data.num_clients if data.test_parts is None else data.test_parts
    before = np.concatenate([np.empty(0, dtype=np.int64), *of_clients])  # test examples that are someone's
    moved = np.concatenate([data.parts[i] for i in sorted(away)])
    x = torch.cat([data.test[0][before], data.x[moved]])
    y = torch.cat([data.test[1][before], data.y[moved]])
    sizes = [len(part) for part in of_clients]
    ends = np.split(np.arange(len(before)), np.cumsum(sizes)[:-1])
    added = iter(np.split(np.arange(len(before), len(y)), np.cumsum([len(data.parts[i]) for i in sorted(away)])[:-1]))
    tests = [np.concatenate([ends[i], next(added)]) if i in away else ends[i] for i in range(data.num_clients)]
    return replace(data, parts=parts, test=(x, y), test_parts=tests)


class Difference(NamedTuple):
    """``one`` minus ``other``, paired over seeds: the mean, and its interval by Student's t."""

    one: Any
    other: Any
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        told = f"{self.one} minus {self.other} is {self.mean:.3g}"
        return f"{told} ({self.low:.3g} to {self.high:.3g}) over {self.seeds} seeds"


class Verdict(NamedTuple):
    """The label of the winner, None where there is none, and a sentence that says why."""

    winner: Any
    why: str

    def __str__(self) -> str:
        return self.why


def difference(
    result: Result | pd.DataFrame,
    one: Any,
    other: Any,
    *,
    column: str = "accuracy",
    at: str = "round",
    confidence: float = 0.95,
) -> Difference:
    """How far the variant ``one`` ends above ``other`` in ``column``, and how sure that is.  Needs 3 seeds.

    ``at`` is the budget that both may spend: ``round``; for equal work ``examples`` (visited, every epoch anew) or local
    ``steps``, over all clients; for equal traffic ``megabytes`` (up and down), ``bytes_up`` or ``bytes_down``.  All runs of
    the table are cut where the shortest one ends by that measure, and the last evaluated round up to there counts.
    """
    return _difference(_scores(_within(result, column, at), column), one, other, confidence)


def winner(
    result: Result | pd.DataFrame, column: str = "accuracy", *, at: str = "round", confidence: float = 0.95
) -> Verdict:
    """The variant that ends best in ``column``, if its paired interval against every other one excludes 0; else None.

    Of a loss, low is good.  The budget ``at`` is that of ``difference``.  There is no correction for the number of variants,
    and none is needed: a winner must beat all others, and the chance to name a wrong one, at most ``1 - confidence``, is
    largest where two tie and the rest is far behind (Gutmann & Maymin 1987).
    """
    inside = _within(result, column, at)
    scores = _scores(inside, column)
    first, *rest = scores.mean().sort_values(ascending=_low_is_good(column), kind="stable").index
    if not rest:
        raise ValueError(f"{first} is the only variant: a winner takes two; give compare another one")
    gaps = [_difference(scores, first, name, confidence) for name in rest]
    unclear = [gap for gap in gaps if not gap.clear]
    closest = unclear[0] if unclear else min(gaps, key=lambda gap: min(abs(gap.low), abs(gap.high)))
    told = "no winner" if unclear else f"{first} wins"
    when = f"after round {inside['round'].max()}" if at == "round" else f"at {inside['spent'].max():.4g} {at}"
    return Verdict(None if unclear else first, f"{told}: {closest} in {_WORDS.get(column, column)} {when}")


def summary(
    result: Result | pd.DataFrame,
    column: str = "accuracy",
    *,
    against: Any = None,
    at: str = "round",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """A row a variant: ``column`` of the global model on the test set, in the last evaluated round within the budget ``at``.

    ``column`` (mean over seeds), ``low`` and ``high`` (lowest and highest seed); ``difference`` to the variant ``against``
    (default: the first) and its interval, each on its own; ``round``, the latest; ``best`` of the mean curve and its
    ``best_round``, to look at and not to compare; ``seeds``; what was tuned, and the ``note`` on it.
    """
    inside = _within(result, column, at)
    scores = _scores(inside, column)
    base = scores.columns[0] if against is None else _column(scores, against)
    gaps = pd.DataFrame([_difference(scores, name, base, confidence)[2:5] for name in scores.columns], index=scores.columns)
    gaps.columns = ["difference", "difference_low", "difference_high"]
    gaps.loc[base] = np.nan
    means = inside.pivot_table(index="round", columns="variant", values=column, aggfunc=["mean", "count"])
    means = means["mean"].where(means["count"] == len(scores))  # of rounds that all seeds have reached
    best, at_round = (means.min(), means.idxmin()) if _low_is_good(column) else (means.max(), means.idxmax())
    table = pd.DataFrame({column: scores.mean(), "low": scores.min(), "high": scores.max()}).join(gaps)
    last = inside.groupby("variant")["round"].max()
    table = table.assign(round=last, best=best, best_round=at_round, seeds=len(scores))
    naming, others = _labels(inside)
    return table.join(inside.groupby("variant")[others].first()).rename_axis(", ".join(naming))


def rounds_to(result: Result | pd.DataFrame, target: float, column: str = "accuracy", *, at: str = "round") -> pd.DataFrame:
    """Rounds until each run reaches ``target``: its labels and seed, and ``rounds``, NaN where it never does.

    Counted as McMahan et al. 2017 do: on the curve of the best values so far, straight between evaluated rounds.  With
    another ``at``, such as ``hours``, it is what the run has spent by then, under that name.
    """
    whole = _rounds(result)
    table = _evaluated(whole.assign(spent=spent(whole, at)), column)
    labels, sign = _columns_before(table, "round"), -1 if _low_is_good(column) else 1
    rows = []
    for run, curve in table.groupby([plain_labels(table[name]) for name in labels], sort=False):
        best, rounds = np.maximum.accumulate(sign * curve[column].to_numpy()), curve["spent"].to_numpy()
        k = int(np.searchsorted(best, sign * target))  # the first evaluated round that is good enough
        if k == len(best):
            reached = np.nan
        else:
            reached = np.interp(sign * target, best[k - 1 : k + 1], rounds[k - 1 : k + 1]) if k else rounds[0]
        rows.append((*run, float(reached)))
    return pd.DataFrame(rows, columns=[*labels, "rounds" if at == "round" else at])


def spent(rounds: pd.DataFrame, at: str) -> pd.Series:
    """What each run had spent by each round: ``round``, ``megabytes`` up and down, ``hours`` and ``kilojoules`` of a
    simulation by the clock, or a column added up, such as ``steps``.
    """
    if at == "round":
        return rounds["round"]
    of, unit = {"hours": ("seconds", 3600), "kilojoules": ("joules", 1000)}.get(at, (at, 1))
    if at != "megabytes" and of not in rounds.columns:
        told = "there are round, examples, steps, megabytes, bytes_up, bytes_down, and by the clock hours and kilojoules"
        raise ValueError(f"{at!r} is nothing that runs spend: {told}")
    each = (rounds["bytes_up"] + rounds["bytes_down"]) / 1e6 if at == "megabytes" else rounds[of] / unit
    return each.groupby([rounds[name] for name in _columns_before(rounds, "round")], sort=False, dropna=False).cumsum()


# -- tuning


def _recipes(fields: Mapping[str, Any]) -> tuple[dict[Any, Callable[..., Algorithm]], dict[str, Any]]:
    """The algorithms given as functions, by label; and the fields with what these functions give by default."""
    given = fields.get("algorithm")
    if not isinstance(given, Mapping):
        return {}, dict(fields)
    recipes = {label: value for label, value in given.items() if callable(value)}
    return recipes, {**fields, "algorithm": {**given, **{label: recipe() for label, recipe in recipes.items()}}}


def _apart_from(seeds: Sequence[int]) -> list[int]:
    return list(itertools.islice((seed for seed in itertools.count(1000) if seed not in seeds), TUNING_SEEDS))


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
        todo.append((labels, settings, [_with(experiment, setting, recipe) for setting in settings]))
    best, tables = [], []
    for i, (labels, settings, candidates) in enumerate(tqdm(todo, desc="tuning", unit="variant", delay=2, leave=False)):
        named = [{**labels, **dict.fromkeys(grid, ""), **setting} for setting in settings]
        trials = _tried(pd.DataFrame(named), candidates, train, folder and folder / str(i))
        k = _best(trials)
        tables.append(trials.assign(chosen=trials.index == k))
        best.append(({**named[k], "note": _at_an_end(settings[k], grid)}, candidates[k]))
    return best, pd.concat(tables, ignore_index=True)


def _settings(grid: Mapping[str, Sequence], recipe: Callable[..., Algorithm] | None) -> list[dict[str, Any]]:
    """Every combination of what can be set in a variant."""
    names = [name for name in grid if name in (*TUNABLE, *_arguments(recipe))]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(grid[name] for name in names))]


def _arguments(recipe: Callable[..., Algorithm] | None) -> list[str]:
    return [] if recipe is None else list(inspect.signature(recipe).parameters)


def _with(experiment: Experiment, setting: Mapping[str, Any], recipe: Callable[..., Algorithm] | None) -> Experiment:
    mine = {name: value for name, value in setting.items() if name in TUNABLE}
    own = {name: value for name, value in setting.items() if name not in TUNABLE}
    local = experiment.local
    local = replace(local, **mine) if isinstance(local, Local) else [replace(one, **mine) for one in local]
    return replace(experiment, local=local, algorithm=recipe(**own) if own else experiment.algorithm)


def _tried(
    trials: pd.DataFrame, candidates: Sequence[Experiment], train: Callable[..., Result], folder: Path | None
) -> pd.DataFrame:
    """The candidates and their scores on examples held out.

    One after another: in lockstep, one that diverges would end all (and they were no faster, on two cores).
    """
    experiment = candidates[0]
    names = [name for name in ("accuracy", "loss") if name == "loss" or name in experiment.task.metrics]

    @cache  # candidates share their data, which each would divide anew
    def held_out(seed: int) -> FederatedDataset:
        return validation(dataset(experiment, seed), seed=seed)

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
        raise ValueError(f"every candidate diverged: tune over smaller values\n{trials.to_string(index=False)}")
    return finite.sort_values(goals, ascending=[_low_is_good(name) for name in goals], kind="stable").index[0]


def _at_an_end(setting: Mapping[str, Any], grid: Mapping[str, Sequence]) -> str:
    """Which values are the last ones of their grid, so that a better one may lie beyond; beyond 0 there is none."""
    told = []
    for name, value in setting.items():
        if isinstance(value, int | float | np.number) and value != 0 and value in (min(grid[name]), max(grid[name])):
            told.append(f"{name}={value:g} is the {'lowest' if value == min(grid[name]) else 'highest'} tried")
    return "; ".join(told)


def _check_grid(grid: Mapping[str, Sequence], recipes: Mapping[Any, Callable[..., Algorithm]]) -> None:
    if not isinstance(grid, Mapping) or not grid:
        raise TypeError(f"tune={grid!r}: give a dict of name: values, for example {{'lr': (0.03, 0.1, 0.3)}}")
    known = [*TUNABLE, *dict.fromkeys(name for recipe in recipes.values() for name in _arguments(recipe))]
    for name, values in grid.items():
        if name not in known:
            raise ValueError(
                f"tune={name!r}: there are {', '.join(known)}, and the arguments of an algorithm given as a function, "
                f"such as fedadam instead of fedadam(); epochs, steps and batch_size are the work, which is equal for all"
            )
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or len(set(values)) < 2:
            raise ValueError(f"tune: {name}={values!r} leaves nothing to choose; give two values or more")


# -- scores


def _rounds(result: Result | pd.DataFrame) -> pd.DataFrame:
    return result if isinstance(result, pd.DataFrame) else result.rounds


def _evaluated(result: Result | pd.DataFrame, column: str) -> pd.DataFrame:
    rounds = _rounds(result)
    if column not in rounds.columns:
        raise ValueError(f"column={column!r}: there are {', '.join(rounds.select_dtypes('number'))}")
    return rounds[rounds[column].notna()]


def _low_is_good(column: str) -> bool:
    return column.endswith("loss")


def _within(result: Result | pd.DataFrame, column: str, at: str) -> pd.DataFrame:
    """The evaluated rounds within the budget that all runs reach; with columns ``variant`` and ``spent``."""
    rounds, table = _rounds(result), _evaluated(result, column)
    used = spent(rounds, at)
    budget = used.groupby([rounds[name] for name in _columns_before(rounds, "round")], sort=False, dropna=False).max().min()
    if not budget > 0:
        raise ValueError(f"at={at!r}: one of the runs spends none of it; compare at 'round'")
    table = table.assign(variant=_variant(table), spent=used)
    return table[table["spent"] <= budget * (1 + 1e-9)]  # sums of fractions differ in their last digits


def _columns_before(rounds: pd.DataFrame, name: str) -> list[str]:
    return list(rounds.columns[: rounds.columns.get_loc(name)])


def _labels(rounds: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The columns that name a variant, and those behind that tell no more of them apart, such as what was tuned."""
    labels = _columns_before(rounds, "seed")
    if not labels:
        raise ValueError("nothing to compare: these runs bear no label; make them with compare(base, algorithm={...})")
    kinds = rounds[labels].drop_duplicates()
    k = next(k for k in range(1, len(labels) + 1) if len(kinds[labels[:k]].drop_duplicates()) == len(kinds))
    return labels[:k], labels[k:]


def _variant(rounds: pd.DataFrame) -> pd.Series:
    """What each row's variant is called: its label, or several with commas."""
    first, *more = (plain_labels(rounds[name]) for name in _labels(rounds)[0])
    return first.astype(str).str.cat([other.astype(str) for other in more], sep=", ") if more else first


def plain_labels(labels: pd.Series) -> pd.Series:
    """Return labels as texts, unless all are numbers: pandas groups by no None, and does not sort what it cannot compare."""
    return labels if labels.dtype.kind in "biuf" and labels.notna().all() else labels.map(str)


def _column(scores: pd.DataFrame, label: Any) -> Any:
    """Return the name of a label's column: the label itself, or its text."""
    return label if label in scores.columns else str(label)


def _scores(inside: pd.DataFrame, column: str) -> pd.DataFrame:
    """Where each run ends: a row a seed, a column a variant, in the order of the table."""
    ends = inside.groupby(["variant", "seed"])[column].last().unstack("variant")
    for name in ends.columns[ends.isna().any()]:
        missing = ends.index[ends[name].isna()].tolist()
        raise ValueError(
            f"{name} lacks the seeds {missing}: differences are paired, so run all variants with the same seeds"
        )
    return ends[list(dict.fromkeys(inside["variant"]))]


def _difference(scores: pd.DataFrame, one: Any, other: Any, confidence: float) -> Difference:
    from scipy import stats

    n = len(scores)
    one, other = _column(scores, one), _column(scores, other)
    for name in (one, other):
        if name not in scores.columns:
            raise ValueError(f"no variant {name!r}: there are {', '.join(map(str, scores.columns))}")
    if n < LEAST_SEEDS:
        raise ValueError(f"seeds={n}: a difference without its noise says nothing; take at least {LEAST_SEEDS}, better 5")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: it is above 0 and below 1; the usual one is 0.95")
    gap = scores[one] - scores[other]
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * gap.std() / n**0.5
    return Difference(one, other, float(gap.mean()), float(gap.mean() - half), float(gap.mean() + half), n)
