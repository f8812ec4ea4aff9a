"""The difference between two runs of a panel, B minus A, over paired seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import pandas as pd

from fedlab.study.statistics import MIN_SEEDS, mean_interval

Numbers = Mapping[str, Any]


class Gaps(NamedTuple):
    """The differences between two runs, B minus A.

    Attributes:
        by_name: By the name of a number: one difference per paired seed, or a single one.
        round: The last round that both runs have; None if they have no rounds.
        seeds: Number of paired seeds; 0 if the frames name no seeds.
        missing: What the runs do not share, if nothing can be compared.
    """

    by_name: dict[str, list[float]]
    round: int | None
    seeds: int
    missing: str = "number"


def find_gaps(
    b: Any, a: Any, tell: Callable[[Any], Numbers], history: Sequence[Numbers] = ()
) -> Gaps:
    """Compare two frames by the numbers of the panel's ``tell``.

    If frames are tables with a column ``seed``, ``tell`` is called for each seed, and equal seeds
    are paired. Both runs are cut to the rounds that both have. Other frames are compared at the
    round of B if ``tell`` returns a round, else with the last frame of A.

    Args:
        b: A frame of the run B.
        a: The last frame of the run A.
        tell: ``tell(frame)`` returns numbers by name.
        history: The numbers of each frame of A, to look up the round of B.

    Example:
        >>> a = [{"seed": s, "round": t, "accuracy": 0.5} for s in (0, 1) for t in range(9)]
        >>> b = [{"seed": s, "round": t, "accuracy": 0.75} for s in (1, 2) for t in range(5)]
        >>> find_gaps(b, a, lambda rows: {"accuracy": rows[-1]["accuracy"]})
        Gaps(by_name={'accuracy': [0.25]}, round=4, seeds=1, missing='number')
    """
    tables_b, tables_a = _split_seeds(b), _split_seeds(a)
    if not tables_b or not tables_a:
        last, before = tell(b), tell(a)
        t = last.get("round")
        if before.get("round") != t:
            before = next((row for row in history if row["round"] == t), {})
        return Gaps(_subtract([(last, before)]), t, 0)
    rounds = _rounds(tables_b) & _rounds(tables_a)
    if bool(rounds) != bool(_rounds(tables_b) | _rounds(tables_a)):
        return Gaps({}, None, 0, "round")
    pairs = [
        (tell(_cut(rows, rounds)), tell(_cut(tables_a[seed], rounds)))
        for seed, rows in tables_b.items()
        if seed in tables_a
    ]
    if not pairs:
        return Gaps({}, None, 0, "seed")
    return Gaps(_subtract(pairs), max(rounds, default=None), len(pairs))


def gaps_in_words(gaps: Gaps, seeds_control: str = "") -> str:
    """Return differences as a line, with their 95 % intervals if there are enough seeds.

    Args:
        gaps: Differences.
        seeds_control: Name of the control that sets the number of seeds; empty if there is none.

    Example:
        >>> print(gaps_in_words(Gaps({"accuracy": [0.03, 0.01, 0.05]}, 60, 3)))
        B − A at round 60: accuracy +0.030 (95 % interval −0.020 to +0.080, 3 paired seeds)
    """
    place = "" if gaps.round is None else f" at round {gaps.round}"
    if not gaps.by_name:
        return f"B − A{place}: A and B have no {gaps.missing} in common"
    paired = f"{gaps.seeds} paired seed{'s' * (gaps.seeds > 1)}"
    if gaps.seeds >= MIN_SEEDS:
        ends = [mean_interval(values) for values in gaps.by_name.values()]
        words = [
            f"{name} {mean} (95 % interval {low} to {high}"
            for name, (mean, low, high) in zip(gaps.by_name, map(_signed, ends), strict=True)
        ]
        return f"B − A{place}: {'), '.join(words)}, {paired})"
    means = [f"{name} {_signed([sum(v) / len(v)])[0]}" for name, v in gaps.by_name.items()]
    remedy = f"an interval needs {MIN_SEEDS}"
    if seeds_control:
        remedy += f": set {seeds_control} to {MIN_SEEDS} or more, for A and for B"
    reason = f" ({paired}; {remedy})" if gaps.seeds else ""
    return f"B − A{place}: {', '.join(means)}{reason}"


def _split_seeds(frame: Any) -> dict[Any, list | pd.DataFrame]:
    """Return the rows of each seed; nothing if the frame is no table with seeds."""
    if isinstance(frame, pd.DataFrame):
        return dict(iter(frame.groupby("seed", sort=False))) if "seed" in frame else {}
    tables: dict[Any, list] = {}
    for row in frame if isinstance(frame, list) else ():
        if not isinstance(row, Mapping) or "seed" not in row:
            return {}
        tables.setdefault(row["seed"], []).append(row)
    return tables


def _rounds(tables: Mapping[Any, list | pd.DataFrame]) -> set[int]:
    rounds: set[int] = set()
    for rows in tables.values():
        column = rows.get("round", ()) if isinstance(rows, pd.DataFrame) else _column(rows)
        rounds.update(column)
    return rounds


def _column(rows: list[Mapping]) -> list[int]:
    return [row["round"] for row in rows if "round" in row]


def _cut(rows: list | pd.DataFrame, rounds: set[int]) -> list | pd.DataFrame:
    """Return the rows of these rounds; all rows if there are no rounds."""
    if not rounds:
        return rows
    if isinstance(rows, pd.DataFrame):
        return rows[rows["round"].isin(rounds)]
    return [row for row in rows if row["round"] in rounds]


def _subtract(pairs: Sequence[tuple[Numbers, Numbers]]) -> dict[str, list[float]]:
    """Return b - a of each pair, for the numbers that all have and that are finite."""
    by_name = {}
    for name in pairs[0][0] if pairs else ():
        values = [(b.get(name), a.get(name)) for b, a in pairs]
        if name != "round" and all(_is_number(value) for pair in values for value in pair):
            by_name[name] = [float(b) - float(a) for b, a in values]
    return by_name


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _signed(numbers: Sequence[float]) -> list[str]:
    """Return numbers with their signs and a true minus.

    An interval has two digits of its half width, more mean nothing; a single number has three.

    Example:
        >>> _signed([-0.03125]), _signed([0.0]), _signed([0.03125, 0.0125, 0.05])
        (['−0.0312'], ['0'], ['+0.031', '+0.013', '+0.050'])
    """
    half = (max(numbers) - min(numbers)) / 2
    if half < 1e-9 * max(map(abs, numbers)):  # equal but for rounding
        half = 0.0
    form = f"+.{max(0, 1 - math.floor(math.log10(half)))}f" if half else "+.3g"
    texts = [f"{number:{form}}".replace("-", "−") for number in numbers]
    return [text if text.strip("+−0.") else "0" for text in texts]  # no "−0.000"
