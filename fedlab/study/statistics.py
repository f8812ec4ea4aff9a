"""Differences between methods over paired seeds, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedlab.core import Result
from fedlab.core.names import join_names
from fedlab.study.run_table import (
    columns_before,
    cumulative_cost,
    evaluated_rounds,
    lower_is_better,
    rounds_of,
    run_columns,
    text_labels,
)

MIN_SEEDS = 3  # with two, the interval reaches 9 standard deviations to either side

_NAMES = {"accuracy": "test accuracy of the global model", "loss": "test loss of the global model"}


class Difference(NamedTuple):
    """Mean of ``method`` minus ``baseline`` over paired seeds, with Student's t interval.

    Attributes:
        method: Label of the variant that is compared.
        baseline: Label of the variant that is subtracted.
        mean: Mean difference over seeds.
        low: Lower end of the interval.
        high: Upper end of the interval.
        seeds: Number of pairs.
    """

    method: Any
    baseline: Any
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def clear(self) -> bool:
        """True if the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        interval = f"({self.low:.3g} to {self.high:.3g}) over {self.seeds} seeds"
        return f"{self.method} minus {self.baseline} is {self.mean:.3g} {interval}"


class Verdict(NamedTuple):
    """Answer of ``winner``.

    Attributes:
        winner: Label of the best variant, None if the seeds do not decide.
        why: The reason, in one sentence.
    """

    winner: Any
    why: str

    def __str__(self) -> str:
        return self.why


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of values and the ends of its interval by Student's t.

    Args:
        values: One value per seed, at least 2.
        confidence: Coverage of the interval, above 0 and below 1.

    Returns:
        The mean, the lower and the upper end.

    Raises:
        ValueError: With fewer than 2 values, or an impossible confidence.

    Example:
        >>> [round(end, 3) for end in mean_interval([0.80, 0.82, 0.81])]
        [0.81, 0.785, 0.835]
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        raise ValueError(f"values={n} must be at least 2 (an interval needs their noise). Try 5")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be above 0 and below 1. Try 0.95")
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def difference(
    result: Result | pd.DataFrame,
    method: Any,
    baseline: Any,
    *,
    column: str = "accuracy",
    at: str = "round",
    confidence: float = 0.95,
) -> Difference:
    """Return how far one variant ends above another, with a confidence interval.

    All runs are cut where the shortest one ends, measured by ``at``. The last evaluated round
    within that budget counts.

    Args:
        result: Result of ``compare``, or its table of rounds. At least 3 seeds per variant.
        method: Label of a variant.
        baseline: Label of the variant to subtract.
        column: A column of the table of rounds.
        at: The equal budget. "round"; for equal work "examples" (visited, each epoch counts) or
            local "steps", over all clients; for equal traffic "megabytes" (up and down),
            "bytes_up" or "bytes_down"; by the clock "hours" or "kilojoules".
        confidence: Coverage of the interval, above 0 and below 1.

    Returns:
        The paired difference: its mean over seeds and its interval by Student's t.

    Raises:
        ValueError: With fewer than 3 seeds, seeds that are not paired, or unknown labels.

    Example:
        >>> ends = {"FedAvg": [0.80, 0.81, 0.79], "FedProx": [0.83, 0.85, 0.83]}
        >>> rows = [(a, s, 1, y) for a in ends for s, y in enumerate(ends[a])]
        >>> table = pd.DataFrame(rows, columns=["algorithm", "seed", "round", "accuracy"])
        >>> print(difference(table, "FedProx", "FedAvg"))
        FedProx minus FedAvg is 0.0367 (0.0223 to 0.051) over 3 seeds
    """
    scores = _final_scores(_within_budget(result, column, at), column)
    return _paired_difference(scores, method, baseline, confidence)


def winner(
    result: Result | pd.DataFrame,
    column: str = "accuracy",
    *,
    at: str = "round",
    confidence: float = 0.95,
) -> Verdict:
    """Name the best variant, if its paired interval against every other variant excludes 0.

    No correction for the number of variants is needed: a winner must beat all others. The chance
    to name a wrong one is at most ``1 - confidence`` (Gutmann & Maymin 1987). It is largest if two
    variants tie and the rest is far behind.

    Args:
        result: Result of ``compare``, or its table of rounds. At least 3 seeds per variant.
        column: A column of the table of rounds. Low values win if its name ends with "loss".
        at: The equal budget, as in ``difference``.
        confidence: Coverage of each interval, above 0 and below 1.

    Returns:
        The label of the winner, or None, and the reason in a sentence.

    Raises:
        ValueError: With one variant only, or for the reasons of ``difference``.

    Example:
        >>> ends = {"FedAvg": [0.80, 0.81, 0.79], "FedProx": [0.83, 0.85, 0.83]}
        >>> rows = [(a, s, 1, y) for a in ends for s, y in enumerate(ends[a])]
        >>> table = pd.DataFrame(rows, columns=["algorithm", "seed", "round", "accuracy"])
        >>> winner(table).winner
        'FedProx'
    """
    table = _within_budget(result, column, at)
    scores = _final_scores(table, column)
    order = scores.mean().sort_values(ascending=lower_is_better(column), kind="stable")
    first, *rest = order.index
    if not rest:
        raise ValueError(f"{first} is the only variant, and a winner takes two. Try another label")
    gaps = [_paired_difference(scores, first, name, confidence) for name in rest]
    unclear = [gap for gap in gaps if not gap.clear]
    closest = unclear[0] if unclear else min(gaps, key=lambda gap: min(abs(gap.low), abs(gap.high)))
    answer = "no winner" if unclear else f"{first} wins"
    budget = (
        f"after round {table['round'].max()}"
        if at == "round"
        else f"at {table['cost'].max():.4g} {at}"
    )
    why = f"{answer}: {closest} in {_NAMES.get(column, column)} {budget}"
    return Verdict(None if unclear else first, why)


def summary(
    result: Result | pd.DataFrame,
    column: str = "accuracy",
    *,
    against: Any = None,
    at: str = "round",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return one row per variant: its final score, and the difference to a reference variant.

    Args:
        result: Result of ``compare``, or its table of rounds. At least 3 seeds per variant.
        column: A column of the table of rounds, measured on the test set.
        against: Label of the reference variant; default: the first.
        at: The equal budget, as in ``difference``. The last evaluated round within it counts.
        confidence: Coverage of each interval, above 0 and below 1.

    Returns:
        Columns ``column`` (mean over seeds), ``low`` and ``high`` (lowest and highest seed);
        ``difference, difference_low, difference_high`` to the reference, each interval by itself;
        ``round``, the latest; ``best`` and ``best_round`` of the mean curve, to look at and not to
        compare; ``seeds``; tuned values and the ``note`` on them.

    Raises:
        ValueError: For the reasons of ``difference``.

    Example:
        >>> ends = {"FedAvg": [0.80, 0.81, 0.79], "FedProx": [0.83, 0.85, 0.83]}
        >>> rows = [(a, s, 1, y) for a in ends for s, y in enumerate(ends[a])]
        >>> table = pd.DataFrame(rows, columns=["algorithm", "seed", "round", "accuracy"])
        >>> float(summary(table).loc["FedProx", "difference"].round(4))
        0.0367
    """
    table = _within_budget(result, column, at)
    scores = _final_scores(table, column)
    base = scores.columns[0] if against is None else _column_of(scores, against)
    gaps = pd.DataFrame(
        [_paired_difference(scores, name, base, confidence)[2:5] for name in scores.columns],
        index=scores.columns,
        columns=["difference", "difference_low", "difference_high"],
    )
    gaps.loc[base] = np.nan
    spread = {column: scores.mean(), "low": scores.min(), "high": scores.max()}
    rows = pd.DataFrame(spread).join(gaps)
    latest = table.groupby("variant")["round"].max()
    best, best_round = _best_of_means(table, column, seeds=len(scores))
    rows = rows.assign(round=latest, best=best, best_round=best_round, seeds=len(scores))
    naming, details = _label_columns(table)
    return rows.join(table.groupby("variant")[details].first()).rename_axis(", ".join(naming))


def _best_of_means(table: pd.DataFrame, column: str, seeds: int) -> tuple[pd.Series, pd.Series]:
    """Return the best of each variant's mean curve and its round, where all seeds have been."""
    by_round = table.pivot_table(
        index="round", columns="variant", values=column, aggfunc=["mean", "count"]
    )
    means = by_round["mean"].where(by_round["count"] == seeds)
    if lower_is_better(column):
        return means.min(), means.idxmin()
    return means.max(), means.idxmax()


def _within_budget(result: Result | pd.DataFrame, column: str, at: str) -> pd.DataFrame:
    """Return the evaluated rounds that all runs can afford, with ``variant`` and ``cost``."""
    rounds, table = rounds_of(result), evaluated_rounds(result, column)
    cost = cumulative_cost(rounds, at)
    budget = cost.groupby(run_columns(rounds), sort=False, dropna=False).max().min()
    if not budget > 0:
        raise ValueError(f"at={at!r} must cost every run something, and one spends 0. Try 'round'")
    table = table.assign(variant=_variant(table), cost=cost)
    # sums of fractions differ in their last digits
    return table[table["cost"] <= budget * (1 + 1e-9)]


def _label_columns(rounds: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the columns that name a variant, and those that add nothing to it."""
    labels = columns_before(rounds, "seed")
    if not labels:
        raise ValueError(
            "result has one variant, and nothing to compare (its runs bear no label). "
            "Try compare(base, algorithm={...})"
        )
    kinds = rounds[labels].drop_duplicates()
    k = next(
        k
        for k in range(1, len(labels) + 1)
        if len(kinds[labels[:k]].drop_duplicates()) == len(kinds)
    )
    return labels[:k], labels[k:]


def _variant(rounds: pd.DataFrame) -> pd.Series:
    """Return each row's variant: its label, or several labels joined by commas."""
    first, *more = (text_labels(rounds[name]) for name in _label_columns(rounds)[0])
    if not more:
        return first
    return first.astype(str).str.cat([labels.astype(str) for labels in more], sep=", ")


def _column_of(scores: pd.DataFrame, label: Any) -> Any:
    """Return the name of a label's column: the label itself, or its text."""
    return label if label in scores.columns else str(label)


def _final_scores(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the last value of each run: one row per seed, one column per variant."""
    ends = table.groupby(["variant", "seed"])[column].last().unstack("variant")
    for name in ends.columns[ends.isna().any()]:
        missing = ends.index[ends[name].isna()].tolist()
        raise ValueError(
            f"{name} lacks the seeds {missing} (differences are paired). "
            "Try the same seeds for all variants"
        )
    return ends[list(dict.fromkeys(table["variant"]))]


def _paired_difference(
    scores: pd.DataFrame, method: Any, baseline: Any, confidence: float
) -> Difference:
    n = len(scores)
    method, baseline = _column_of(scores, method), _column_of(scores, baseline)
    for name in (method, baseline):
        if name not in scores.columns:
            labels = join_names(scores.columns)
            raise ValueError(f"no variant {name!r} was run. Try one of {labels}")
    if n < MIN_SEEDS:
        raise ValueError(
            f"seeds={n} must be at least {MIN_SEEDS} (a difference needs its noise). Try seeds=5"
        )
    ends = mean_interval(scores[method] - scores[baseline], confidence)
    return Difference(method, baseline, *ends, n)
