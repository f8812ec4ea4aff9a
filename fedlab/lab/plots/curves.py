"""Curves over time and over a setting, and differences between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from fedlab.core import Result
from fedlab.lab.plots.labels import LineEnd, label_ends
from fedlab.lab.plots.picture import Picture
from fedlab.lab.plots.style import (
    AXIS_LABELS,
    LINE_SAMPLES,
    caption,
    method_styles,
    span,
    style_axes,
)
from fedlab.study import cumulative_cost, text_labels

Rounds = Result | pd.DataFrame | Sequence[Mapping]  # a result, its table of rounds, or its rows


def curves(
    result: Rounds,
    x: str = "round",
    y: str = "accuracy",
    hue: str | None = None,
    target: float | None = None,
    x_max: float | None = None,
    earlier: Mapping[str, Rounds] | None = None,
    expected: Mapping[float, float] | None = None,
) -> Picture:
    """Plot a curve per value of ``hue``: the mean over seeds, in a band of their range.

    Args:
        result: A result, its table of rounds, or one row per round.
        x: "round", "megabytes", "hours" or a column to add up, such as "examples".
        y: A column that was measured, such as "accuracy" or "loss".
        hue: Column whose values have a curve each; None: one curve.
        target: Height of a dotted line.
        x_max: Right end of the x axis, for a picture that is still growing.
        earlier: Earlier runs by name, drawn pale.
        expected: Points of the curve that were predicted, y by x.

    Returns:
        The picture; its table has the points of the curves.

    Example:
        >>> rows = [{"seed": 0, "round": t, "accuracy": 0.4 * t} for t in range(3)]
        >>> curves(rows).alt
        'accuracy against round, 1 seed: accuracy ends at 0.800 (0.800 to 0.800)'
    """
    table = _rounds(result, x, y)
    lines = {name: _over_seeds(group, x, y) for name, group in _groups(table, hue)}
    seeds = table["seed"].nunique()
    picture = Picture(_describe(lines, x, y, seeds), table=_as_table(lines, x, y, hue))
    axes = style_axes(picture.subplots(), AXIS_LABELS.get(x, x), AXIS_LABELS.get(y, y))
    ends = _draw_earlier(axes, earlier or {}, x, y, hue)
    faint = 0.18 * min(1, 4 / len(lines))  # many bands lie over each other
    for (name, by_x), style in zip(lines.items(), method_styles(list(lines)), strict=True):
        label = name or ("now" if earlier else "")
        ends.append(_draw_line(axes, by_x, label, style, faint, dots=len(by_x) == 1))
    if expected:
        ends.append(_draw_expected(axes, expected))
    if target is not None:
        _draw_target(axes, target)
    axes.set_xlim(0, x_max or max(end[0] for end in ends) or 1)
    if y == "accuracy":
        axes.set_ylim(0, 1)
    elif y == "off":
        axes.set_ylim(bottom=0)
    label_ends(axes, ends)
    if seeds > 1:
        caption(axes, f"line: mean of {seeds} seeds; band: lowest to highest")
    return picture


def _draw_line(
    axes: Axes, by_x: pd.DataFrame, name: object, style: tuple, faint: float, dots: bool
) -> LineEnd:
    """Draw a curve in its band, and return its end; a single point is a dot."""
    colour, line = style
    axes.plot(
        by_x.index,
        by_x["mean"],
        color=colour,
        linestyle=line,
        marker="o" if dots else "",
        linewidth=1.8,
        clip_on=not dots,
    )
    axes.fill_between(by_x.index, by_x["min"], by_x["max"], color=colour, alpha=faint, linewidth=0)
    return _end(by_x["mean"], LINE_SAMPLES[line] + str(name), colour)


def _end(line: pd.Series, name: str, colour: str) -> LineEnd:
    return float(line.index[-1]), float(line.iloc[-1]), name, colour


def _draw_earlier(
    axes: Axes, earlier: Mapping[str, Rounds], x: str, y: str, hue: str | None
) -> list[LineEnd]:
    """Draw the curves of earlier runs, and return the end of each run's last curve."""
    ends = []
    for run, frame in earlier.items():
        groups = _groups(_rounds(frame, x, y), hue)
        lines = {name: _over_seeds(group, x, y)["mean"] for name, group in groups}
        for by_x, (colour, line) in zip(lines.values(), method_styles(list(lines)), strict=True):
            axes.plot(by_x.index, by_x, color=colour, linestyle=line, linewidth=1.2, alpha=0.3)
        ends.append(_end(by_x, run, "#7F7F7F"))
    return ends


def _draw_expected(axes: Axes, expected: Mapping[float, float]) -> LineEnd:
    axes.plot(
        *zip(*sorted(expected.items()), strict=True),
        color="#D55E00",
        linestyle="--",
        marker="D",
        linewidth=1.2,
        clip_on=False,
    )
    return (*max(expected.items()), "expected", "#D55E00")


def _draw_target(axes: Axes, target: float) -> None:
    axes.axhline(target, color="#555555", linewidth=1, linestyle=":")
    axes.annotate(
        f"{target:g}", (0, target), xytext=(2, 3), textcoords="offset points", color="#555555"
    )


def _rounds(result: Rounds, x: str, y: str) -> pd.DataFrame:
    """Return the rounds in which ``y`` was measured, with the cost by each as column ``x``."""
    table = result.rounds if isinstance(result, Result) else pd.DataFrame(result)
    return table.assign(**{x: cumulative_cost(table, x)}).dropna(subset=[y])


def _groups(table: pd.DataFrame, hue: str | None) -> list[tuple[str, pd.DataFrame]]:
    if hue is None:
        return [("", table)]
    return list(table.groupby(text_labels(table[hue]), sort=False))


def _over_seeds(group: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return mean, lowest and highest over seeds, one row per round, at the seeds' mean x."""
    by_round = group.groupby("round")
    spread = {  # agg takes five times as long
        "mean": by_round[y].mean(),
        "min": by_round[y].min(),
        "max": by_round[y].max(),
    }
    return pd.DataFrame(spread).set_index(by_round[x].mean().rename("x"))


def _as_table(lines: Mapping[str, pd.DataFrame], x: str, y: str, hue: str | None) -> pd.DataFrame:
    """Return the curves as one row per point, with the range if there are several seeds."""
    tables = []
    for name, by_x in lines.items():
        table = by_x.reset_index().rename(
            columns={"x": x, "mean": y, "min": "lowest", "max": "highest"}
        )
        table = table if (table["lowest"] != table["highest"]).any() else table[[x, y]]
        tables.append(table if hue is None else table.assign(**{hue: name}))
    return pd.concat(tables, ignore_index=True)


def _describe(lines: Mapping[str, pd.DataFrame], x: str, y: str, seeds: int) -> str:
    ends = []
    for name, by_x in lines.items():
        last = by_x.iloc[-1]
        spread = f"({last['min']:.3f} to {last['max']:.3f})"
        ends.append(f"{name or y} ends at {last['mean']:.3f} {spread}")
    return f"{y} against {x}, {seeds} seed{'s' * (seeds > 1)}: " + "; ".join(ends)


def sweep(
    table: pd.DataFrame, x: str, y: str, hue: str, xlabel: str = "", ylabel: str = ""
) -> Picture:
    """Plot a score against a setting, on a logarithmic axis.

    Points are means over seeds, in a band from the lowest to the highest seed.

    Args:
        table: One row per run, with a column ``seed``.
        x: Column of the setting, with numbers above 0.
        y: Column of the score, from 0 to 1.
        hue: Column whose values have a curve each.
        xlabel: Label of the x axis; default: the column's name.
        ylabel: Label of the y axis.

    Returns:
        The picture.

    Example:
        >>> ends = pd.DataFrame({"alpha": [0.1, 10], "accuracy": [0.3, 0.9], "seed": 0})
        >>> sweep(ends.assign(method="FedAvg"), "alpha", "accuracy", "method").alt
        'accuracy against alpha. FedAvg: 0.1 gives 0.300, 10 gives 0.900'
    """
    groups = _groups(table, hue)
    points = {name: group.groupby(x)[y].agg(["mean", "min", "max"]) for name, group in groups}
    alt = "; ".join(
        f"{name}: " + ", ".join(f"{at:g} gives {value:.3f}" for at, value in line["mean"].items())
        for name, line in points.items()
    )
    picture = Picture(f"{y} against {x}. {alt}")
    axes = style_axes(picture.subplots(), xlabel or x, ylabel or AXIS_LABELS.get(y, y))
    ends = []
    for (name, spread), (colour, line) in zip(
        points.items(), method_styles(list(points)), strict=True
    ):
        dots = {"marker": "o", "markersize": 4, "linewidth": 1.8}
        axes.plot(spread.index, spread["mean"], color=colour, linestyle=line, **dots)
        axes.fill_between(
            spread.index, spread["min"], spread["max"], color=colour, alpha=0.18, linewidth=0
        )
        ends.append(_end(spread["mean"], LINE_SAMPLES[line] + str(name), colour))
    axes.set(xscale="log", ylim=(0, 1))
    ticks = sorted(table[x].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    label_ends(axes, ends)
    caption(axes, f"points: mean of {table['seed'].nunique()} seeds; band: lowest to highest")
    return picture


def effect_sizes(table: pd.DataFrame, xlabel: str = "") -> Picture:
    """Plot how far each variant ends from the reference, with its interval.

    A filled dot means that the interval of the paired difference excludes 0.

    Args:
        table: Table of ``fedlab.study.summary``.
        xlabel: Label of the x axis.

    Returns:
        The picture.

    Raises:
        ValueError: For another table.

    Example:
        >>> from fedlab.study import summary
        >>> ends = {"FedAvg": [0.80, 0.81, 0.79], "FedProx": [0.83, 0.85, 0.83]}
        >>> rows = [(a, s, 1, y) for a in ends for s, y in enumerate(ends[a])]
        >>> table = pd.DataFrame(rows, columns=["algorithm", "seed", "round", "accuracy"])
        >>> effect_sizes(summary(table)).alt.split("; ")[-1]
        'FedProx +0.037 (+0.022 to +0.051)'
    """
    if "difference" not in table.columns or not table["difference"].isna().any():
        columns = ", ".join(map(str, table.columns))
        raise ValueError(
            f"table with columns {columns} must have the difference to a reference. "
            "Try fedlab.study.summary(result)"
        )
    score, names = str(table.columns[0]), list(table.index)
    base = table.index[table["difference"].isna()][0]
    columns = ["difference", "difference_low", "difference_high"]
    rows = list(table[columns].fillna(0).itertuples(index=False))
    texts = {
        name: f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
        for name, (mean, low, high) in zip(names, rows, strict=True)
    }
    texts[base] = f"reference: {table.loc[base, score]:.3f}"
    about = f"after round {span(table['round'])}; {table['seeds'].iloc[0]} paired seeds"
    described = "; ".join(f"{name} {text}" for name, text in texts.items())
    alt = f"{score}, difference to {base}, {about}: {described}"
    picture = Picture(alt, (7.2, 1.1 + 0.34 * len(names)))
    label = xlabel or f"{AXIS_LABELS.get(score, score)}: difference to {base}"
    axes = style_axes(picture.subplots(), label, "")
    axes.axvline(0, color="#555555", linewidth=1, linestyle=":")
    axes.locator_params(axis="x", nbins=6)  # beside the texts there is no room for more
    for y, (name, row, (colour, _)) in enumerate(
        zip(names, rows, method_styles(names), strict=True)
    ):
        _draw_effect(axes, y, row, texts[name], colour, is_base=name == base)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    caption(axes, f"{about}; bar: interval of the difference; filled: excludes 0")
    return picture


def _draw_effect(
    axes: Axes, y: float, row: tuple[float, float, float], text: str, colour: str, is_base: bool
) -> None:
    """Draw an interval, its mean, and both as text to the right of the axes."""
    mean, low, high = row
    axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    inside = colour if is_base or low > 0 or high < 0 else "white"
    axes.plot(mean, y, marker="o", markersize=7, color=colour, markerfacecolor=inside)
    axes.annotate(
        text.replace("-", "\N{MINUS SIGN}"),
        (1, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )
