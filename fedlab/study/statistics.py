"""Differences between methods over seeds, with intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedlab.core import Result

LEAST_SEEDS = 3  # for an interval

_WORDS = {"accuracy": "test accuracy of the global model", "loss": "test loss of the global model"}


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
    result: Result | pd.DataFrame,
    column: str = "accuracy",
    *,
    at: str = "round",
    confidence: float = 0.95,
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
        raise ValueError(
            f"{first} is the only variant: a winner takes two; give compare another one"
        )
    gaps = [_difference(scores, first, name, confidence) for name in rest]
    unclear = [gap for gap in gaps if not gap.clear]
    closest = unclear[0] if unclear else min(gaps, key=lambda gap: min(abs(gap.low), abs(gap.high)))
    told = "no winner" if unclear else f"{first} wins"
    when = (
        f"after round {inside['round'].max()}"
        if at == "round"
        else f"at {inside['spent'].max():.4g} {at}"
    )
    return Verdict(
        None if unclear else first, f"{told}: {closest} in {_WORDS.get(column, column)} {when}"
    )


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
    gaps = pd.DataFrame(
        [_difference(scores, name, base, confidence)[2:5] for name in scores.columns],
        index=scores.columns,
    )
    gaps.columns = ["difference", "difference_low", "difference_high"]
    gaps.loc[base] = np.nan
    means = inside.pivot_table(
        index="round", columns="variant", values=column, aggfunc=["mean", "count"]
    )
    means = means["mean"].where(
        means["count"] == len(scores)
    )  # of rounds that all seeds have reached
    best, at_round = (
        (means.min(), means.idxmin()) if _low_is_good(column) else (means.max(), means.idxmax())
    )
    table = pd.DataFrame({column: scores.mean(), "low": scores.min(), "high": scores.max()}).join(
        gaps
    )
    last = inside.groupby("variant")["round"].max()
    table = table.assign(round=last, best=best, best_round=at_round, seeds=len(scores))
    naming, others = _labels(inside)
    return table.join(inside.groupby("variant")[others].first()).rename_axis(", ".join(naming))


def rounds_to(
    result: Result | pd.DataFrame, target: float, column: str = "accuracy", *, at: str = "round"
) -> pd.DataFrame:
    """Rounds until each run reaches ``target``: its labels and seed, and ``rounds``, NaN where it never does.

    Counted as McMahan et al. 2017 do: on the curve of the best values so far, straight between evaluated rounds.  With
    another ``at``, such as ``hours``, it is what the run has spent by then, under that name.
    """
    whole = _rounds(result)
    table = _evaluated(whole.assign(spent=cumulative_cost(whole, at)), column)
    labels, sign = _columns_before(table, "round"), -1 if _low_is_good(column) else 1
    rows = []
    for run, curve in table.groupby([text_labels(table[name]) for name in labels], sort=False):
        best, rounds = (
            np.maximum.accumulate(sign * curve[column].to_numpy()),
            curve["spent"].to_numpy(),
        )
        k = int(
            np.searchsorted(best, sign * target)
        )  # the first evaluated round that is good enough
        if k == len(best):
            reached = np.nan
        else:
            reached = (
                np.interp(sign * target, best[k - 1 : k + 1], rounds[k - 1 : k + 1])
                if k
                else rounds[0]
            )
        rows.append((*run, float(reached)))
    return pd.DataFrame(rows, columns=[*labels, "rounds" if at == "round" else at])


def cumulative_cost(rounds: pd.DataFrame, at: str) -> pd.Series:
    """What each run had spent by each round: ``round``, ``megabytes`` up and down, ``hours`` and ``kilojoules`` of a
    simulation by the clock, or a column added up, such as ``steps``.
    """
    if at == "round":
        return rounds["round"]
    of, unit = {"hours": ("seconds", 3600), "kilojoules": ("joules", 1000)}.get(at, (at, 1))
    if at != "megabytes" and of not in rounds.columns:
        told = "there are round, examples, steps, megabytes, bytes_up, bytes_down, and by the clock hours and kilojoules"
        raise ValueError(f"{at!r} is nothing that runs spend: {told}")
    each = (
        (rounds["bytes_up"] + rounds["bytes_down"]) / 1e6
        if at == "megabytes"
        else rounds[of] / unit
    )
    return each.groupby(
        [rounds[name] for name in _columns_before(rounds, "round")], sort=False, dropna=False
    ).cumsum()


# -- scores
def _rounds(result: Result | pd.DataFrame) -> pd.DataFrame:
    return result if isinstance(result, pd.DataFrame) else result.rounds


def _evaluated(result: Result | pd.DataFrame, column: str) -> pd.DataFrame:
    rounds = _rounds(result)
    if column not in rounds.columns:
        raise ValueError(
            f"column={column!r}: there are {', '.join(rounds.select_dtypes('number'))}"
        )
    return rounds[rounds[column].notna()]


def _low_is_good(column: str) -> bool:
    return column.endswith("loss")


def _within(result: Result | pd.DataFrame, column: str, at: str) -> pd.DataFrame:
    """The evaluated rounds within the budget that all runs reach; with columns ``variant`` and ``spent``."""
    rounds, table = _rounds(result), _evaluated(result, column)
    used = cumulative_cost(rounds, at)
    budget = (
        used.groupby(
            [rounds[name] for name in _columns_before(rounds, "round")], sort=False, dropna=False
        )
        .max()
        .min()
    )
    if not budget > 0:
        raise ValueError(f"at={at!r}: one of the runs spends none of it; compare at 'round'")
    table = table.assign(variant=_variant(table), spent=used)
    return table[
        table["spent"] <= budget * (1 + 1e-9)
    ]  # sums of fractions differ in their last digits


def _columns_before(rounds: pd.DataFrame, name: str) -> list[str]:
    return list(rounds.columns[: rounds.columns.get_loc(name)])


def _labels(rounds: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The columns that name a variant, and those behind that tell no more of them apart, such as what was tuned."""
    labels = _columns_before(rounds, "seed")
    if not labels:
        raise ValueError(
            "nothing to compare: these runs bear no label; make them with compare(base, algorithm={...})"
        )
    kinds = rounds[labels].drop_duplicates()
    k = next(
        k
        for k in range(1, len(labels) + 1)
        if len(kinds[labels[:k]].drop_duplicates()) == len(kinds)
    )
    return labels[:k], labels[k:]


def _variant(rounds: pd.DataFrame) -> pd.Series:
    """What each row's variant is called: its label, or several with commas."""
    first, *more = (text_labels(rounds[name]) for name in _labels(rounds)[0])
    return (
        first.astype(str).str.cat([other.astype(str) for other in more], sep=", ")
        if more
        else first
    )


def text_labels(labels: pd.Series) -> pd.Series:
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
            raise ValueError(
                f"no variant {name!r}: there are {', '.join(map(str, scores.columns))}"
            )
    if n < LEAST_SEEDS:
        raise ValueError(
            f"seeds={n}: a difference without its noise says nothing; take at least {LEAST_SEEDS}, better 5"
        )
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence={confidence}: it is above 0 and below 1; the usual one is 0.95"
        )
    gap = scores[one] - scores[other]
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * gap.std() / n**0.5
    return Difference(
        one, other, float(gap.mean()), float(gap.mean() - half), float(gap.mean() + half), n
    )
