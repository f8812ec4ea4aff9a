"""Tables of runs: their labels, what a run has cost by each round, and rounds to a target."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedlab.core import Result

# Measure of cost: column of the table, and how many of its units make one of the measure's.
_CONVERTED = {"hours": ("seconds", 3600), "kilojoules": ("joules", 1000)}


def rounds_to(
    result: Result | pd.DataFrame, target: float, column: str = "accuracy", *, at: str = "round"
) -> pd.DataFrame:
    """Return how many rounds each run needs to reach a target.

    McMahan et al. 2017 count in the same way: on the curve of the best value so far, interpolated
    between evaluated rounds.

    Args:
        result: Result of ``compare`` or ``run``, or its table of rounds.
        target: Value of ``column`` to reach.
        column: A column of the table. Low values are good if its name ends with "loss".
        at: Measure of cost, such as "round", "megabytes" or "hours": see ``cumulative_cost``.

    Returns:
        One row per run: its labels, its seed, and ``rounds``, NaN if it never reaches the target.
        With another measure, the column bears the measure's name.

    Example:
        >>> curve = {"seed": [0] * 3, "round": [0, 1, 2], "accuracy": [0.1, 0.5, 0.7]}
        >>> float(rounds_to(pd.DataFrame(curve), target=0.6)["rounds"][0].round(3))
        1.5
    """
    rounds = rounds_of(result)
    table = evaluated_rounds(rounds.assign(cost=cumulative_cost(rounds, at)), column)
    labels, sign = columns_before(table, "round"), -1 if lower_is_better(column) else 1
    rows = []
    for run, curve in table.groupby([text_labels(table[name]) for name in labels], sort=False):
        best = np.maximum.accumulate(sign * curve[column].to_numpy())
        rows.append((*run, _first_reach(best, curve["cost"].to_numpy(), sign * target)))
    return pd.DataFrame(rows, columns=[*labels, "rounds" if at == "round" else at])


def _first_reach(best: np.ndarray, cost: np.ndarray, target: float) -> float:
    """Return the cost at which an ascending curve reaches the target, NaN if it never does."""
    k = int(np.searchsorted(best, target))  # the first evaluated round that is good enough
    if k == len(best):
        return np.nan
    if k == 0:
        return float(cost[0])
    return float(np.interp(target, best[k - 1 : k + 1], cost[k - 1 : k + 1]))


def cumulative_cost(rounds: pd.DataFrame, at: str) -> pd.Series:
    """Return what each run has spent by each of its rounds.

    Args:
        rounds: Table of rounds, with one row per run and round.
        at: "round"; "megabytes", up and down; "hours" and "kilojoules" of a simulation by the
            clock; or a column to add up, such as "steps", "examples" or "bytes_up".

    Returns:
        The cost, with the index of ``rounds``.

    Raises:
        ValueError: If the table has no such column.

    Example:
        >>> table = pd.DataFrame({"seed": [0, 0], "round": [0, 1], "steps": [0, 5]})
        >>> cumulative_cost(table, "steps").tolist()
        [0.0, 5.0]
    """
    if at == "round":
        return rounds["round"]
    column, unit = _CONVERTED.get(at, (at, 1))
    if at != "megabytes" and column not in rounds.columns:
        raise ValueError(
            f"at={at!r} must be a cost of runs. Try round, examples, steps, megabytes, bytes_up or "
            "bytes_down, and by the clock hours or kilojoules"
        )
    cost = (
        (rounds["bytes_up"] + rounds["bytes_down"]) / 1e6
        if at == "megabytes"
        else rounds[column] / unit
    )
    return cost.groupby(run_columns(rounds), sort=False, dropna=False).cumsum()


def rounds_of(result: Result | pd.DataFrame) -> pd.DataFrame:
    """Return the table of rounds of a result, or the table itself."""
    return result if isinstance(result, pd.DataFrame) else result.rounds


def evaluated_rounds(result: Result | pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows in which ``column`` was measured; raise ValueError without the column."""
    rounds = rounds_of(result)
    if column not in rounds.columns:
        numeric = ", ".join(rounds.select_dtypes("number"))
        raise ValueError(f"column={column!r} must be in the table of rounds. Try one of {numeric}")
    return rounds[rounds[column].notna()]


def lower_is_better(column: str) -> bool:
    """Return whether low values are good, as in columns named "loss" or ending with it."""
    return column.endswith("loss")


def columns_before(rounds: pd.DataFrame, name: str) -> list[str]:
    """Return the columns to the left of ``name``: labels and, before "round", the seed."""
    return list(rounds.columns[: rounds.columns.get_loc(name)])


def run_columns(rounds: pd.DataFrame) -> list[pd.Series]:
    """Return the columns that tell runs apart, to group by."""
    return [rounds[name] for name in columns_before(rounds, "round")]


def text_labels(labels: pd.Series) -> pd.Series:
    """Return labels as texts, unless all of them are numbers.

    pandas drops None from groups, and does not sort values that it cannot compare.

    Example:
        >>> text_labels(pd.Series([None, "twice"], dtype=object)).tolist()
        ['None', 'twice']
        >>> text_labels(pd.Series([1, 5])).tolist()
        [1, 5]
    """
    return labels if labels.dtype.kind in "biuf" and labels.notna().all() else labels.map(str)
