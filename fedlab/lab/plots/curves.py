"""Curves over time and over a setting, and differences between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fedlab.core import Result
from fedlab.lab.plots.labels import name_ends
from fedlab.lab.plots.picture import NAMES, Picture, Trace
from fedlab.lab.plots.style import (
    AXIS_LABELS,
    COLOURS,
    EARLIER,
    caption,
    method_styles,
    span,
    style_axes,
)
from fedlab.study import cumulative_cost, text_labels

PLOT, HEIGHT = 5.6, 3.8  # inches of a plot, without its column of names

_EFFECT = COLOURS["federated"]  # all rows alike: a row has its name beside it

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
        earlier: Earlier runs by name, each drawn thin in a colour of its own.
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
    before = {
        run: {name: _over_seeds(group, x, y) for name, group in _groups(_rounds(rows, x, y), hue)}
        for run, rows in (earlier or {}).items()
    }
    seeds = table["seed"].nunique()
    column = NAMES if hue or before or expected else 0.0  # the plot has the same width without
    picture = Picture(
        _describe(lines, x, y, seeds),
        (PLOT + column, HEIGHT),
        _as_table(lines, x, y, hue),
        numbers=_as_columns(lines, before, x, y),
        names=column,
    )
    axes = style_axes(picture.subplots(), AXIS_LABELS.get(x, x), AXIS_LABELS.get(y, y))
    _draw_earlier(picture, before, (x, y))
    faint = 0.18 * min(1, 4 / len(lines))  # many bands lie over each other
    for (name, by_x), style in zip(lines.items(), method_styles(list(lines)), strict=True):
        label = str(name) or ("now" if before else "")
        artists = _draw_line(axes, by_x, style, faint)
        _trace(picture, label, artists, by_x, style, (x, y))
    if expected:
        _draw_expected(picture, expected, (x, y))
    if target is not None:
        _draw_target(axes, target)
    ends = [trace.x[-1] for trace in picture.traces if len(trace.x)]
    axes.set_xlim(0, x_max or max(ends) or 1)
    if y == "accuracy":
        axes.set_ylim(0, 1)
    elif y == "off":
        axes.set_ylim(bottom=0)
    name_ends(picture, axes)
    if seeds > 1:
        caption(axes, f"line: mean of {seeds} seeds; band: lowest to highest")
    return picture


def _draw_line(axes: Axes, by_x: pd.DataFrame, style: tuple, faint: float) -> list[Artist]:
    """Draw a curve in its band; a single point is a dot."""
    (colour, line), is_dot = style, len(by_x) == 1
    drawn = axes.plot(
        by_x.index,
        by_x["mean"],
        color=colour,
        linestyle=line,
        marker="o" if is_dot else "",
        linewidth=1.8,
        clip_on=not is_dot,
    )
    band = {"color": colour, "alpha": faint, "linewidth": 0}
    return [*drawn, axes.fill_between(by_x.index, by_x["min"], by_x["max"], **band)]


def _trace(
    picture: Picture,
    name: str,
    artists: Sequence[Artist],
    by_x: pd.DataFrame,
    style: tuple,
    words: tuple[str, str],
    about: str = "",
) -> None:
    """Name a curve, whose points say their x and y in words, and the range over seeds."""
    x, y = words
    texts = [
        f"{about}{x} {at:.4g}\n{y} {mean:.4g}"
        + (f" ({low:.4g} to {high:.4g})" if low < high else "")
        for at, (mean, low, high) in zip(by_x.index, by_x.to_numpy(), strict=True)
    ]
    picture.traces.append(
        Trace(name, picture.axes[0], artists, by_x.index, by_x["mean"], texts, *style)
    )


def _draw_earlier(
    picture: Picture, before: Mapping[str, Mapping[str, pd.DataFrame]], words: tuple[str, str]
) -> None:
    """Draw each earlier run in a colour of its own; its curves differ by their dashes."""
    for (run, lines), (colour, dash) in zip(before.items(), cycle(EARLIER), strict=False):
        for k, (name, by_x) in enumerate(lines.items()):
            line = dash if len(lines) == 1 else EARLIER[k % len(EARLIER)][1]
            drawn = {"color": colour, "linestyle": line, "linewidth": 1.3, "alpha": 0.85}
            artists = picture.axes[0].plot(by_x.index, by_x["mean"], **drawn)
            about = f"{name}, " if name else ""
            _trace(picture, run, artists, by_x, (colour, line), words, about)


def _draw_expected(
    picture: Picture, expected: Mapping[float, float], words: tuple[str, str]
) -> None:
    x, y = zip(*sorted(expected.items()), strict=True)
    style = {"color": "#D55E00", "linestyle": "--", "marker": "D", "linewidth": 1.2}
    artists = picture.axes[0].plot(x, y, clip_on=False, **style)
    texts = [f"{words[0]} {at:.4g}\n{words[1]} {value:.4g}" for at, value in zip(x, y, strict=True)]
    picture.traces.append(Trace("expected", picture.axes[0], artists, x, y, texts, "#D55E00", "--"))


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


def _as_columns(
    lines: Mapping[str, pd.DataFrame],
    before: Mapping[str, Mapping[str, pd.DataFrame]],
    x: str,
    y: str,
) -> pd.DataFrame:
    """Return the curves as one row per x and one column per run: the means over seeds.

    Runs that are measured at x of their own, such as hours, have a column of it each.
    """
    runs = {str(name) or ("now" if before else y): by_x for name, by_x in lines.items()}
    for run, curves_of_run in before.items():
        for name, by_x in curves_of_run.items():
            runs[f"{name}, {run}" if name else run] = by_x
    if x == "round":
        columns = {name: by_x["mean"] for name, by_x in runs.items()}
        return pd.DataFrame(columns).rename_axis(x).reset_index()
    columns = {}
    for name, by_x in runs.items():
        columns[f"{name}: {x}"] = pd.Series(by_x.index)
        columns[name] = by_x["mean"].reset_index(drop=True)
    return pd.DataFrame(columns)


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
    picture = Picture(f"{y} against {x}. {alt}", (PLOT + NAMES, HEIGHT), names=NAMES)
    axes = style_axes(picture.subplots(), xlabel or x, ylabel or AXIS_LABELS.get(y, y))
    for (name, spread), style in zip(points.items(), method_styles(list(points)), strict=True):
        colour, line = style
        dots = {"marker": "o", "markersize": 4, "linewidth": 1.8}
        artists = axes.plot(spread.index, spread["mean"], color=colour, linestyle=line, **dots)
        band = {"color": colour, "alpha": 0.18, "linewidth": 0}
        artists.append(axes.fill_between(spread.index, spread["min"], spread["max"], **band))
        _trace(picture, str(name), artists, spread, style, (x, y))
    axes.set(xscale="log", ylim=(0, 1))
    ticks = sorted(table[x].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    name_ends(picture, axes)
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
    for y, (name, row) in enumerate(zip(names, rows, strict=True)):
        artists = _draw_effect(axes, y, row, texts[name], is_base=name == base)
        picture.traces.append(
            Trace(str(name), axes, artists, [row[0]], [y], [texts[name]], _EFFECT)
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    caption(axes, f"{about}; bar: 95 % interval of the paired difference; filled: excludes 0")
    return picture


def _draw_effect(
    axes: Axes, y: float, row: tuple[float, float, float], text: str, is_base: bool
) -> list[Artist]:
    """Draw an interval, its mean, and both as text to the right of the axes."""
    mean, low, high = row
    bar = axes.plot([low, high], [y, y], color=_EFFECT, linewidth=2, solid_capstyle="butt")
    inside = _EFFECT if is_base or low > 0 or high < 0 else "white"
    dot = axes.plot(mean, y, marker="o", markersize=7, color=_EFFECT, markerfacecolor=inside)
    axes.annotate(
        text.replace("-", "\N{MINUS SIGN}"),
        (1, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )
    return [*bar, *dot]
