"""Costs: what a score costs, bytes by part, planned figures against measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from fedlab.lab.plots.labels import name_parts
from fedlab.lab.plots.picture import NAMES, Picture, Trace
from fedlab.lab.plots.style import AXIS_LABELS, caption, method_styles, span, style_axes
from fedlab.study import text_labels

# Colour of a planned figure by its basis.
BASES = {"measured": "#009E73", "cited": "#0072B2", "assumed": "#D55E00"}

_SCALES = {"memory": (1e9, "GB"), "bytes of a round": (1e6, "MB"), "seconds of a round": (1, "s")}


def frontier(table: pd.DataFrame, x: str, y: str, hue: str, each: str, xlabel: str = "") -> Picture:
    """Plot a score against its cost, one point per value of ``each``, joined along ``hue``.

    Points are means over seeds; a thin line goes from the lowest to the highest seed. The grey
    step is the Pareto frontier: the best score at this cost or less.

    Args:
        table: One row per run, with a column ``seed``.
        x: Column of the cost, on a logarithmic axis.
        y: Column of the score.
        hue: Column whose values have a line each.
        each: Column whose values have a point each.
        xlabel: Label of the x axis; default: the column's name.

    Returns:
        The picture; its table has the points.

    Example:
        >>> runs = {"upload": ["all", "top 1 %"], "kB": [100, 2], "accuracy": [0.9, 0.8], "seed": 0}
        >>> table = pd.DataFrame(runs).assign(family="top-k")
        >>> frontier(table, "kB", "accuracy", "family", "upload").alt
        'accuracy against kB. all: 0.900 for 100; top 1 %: 0.800 for 2'
    """
    table = table.assign(**{name: text_labels(table[name]) for name in (hue, each)})
    points = table.groupby([hue, each], sort=False).agg(
        x=(x, "mean"), y=(y, "mean"), low=(y, "min"), high=(y, "max")
    )
    alt = "; ".join(
        f"{name}: {point.y:.3f} for {point.x:.3g}" for (_, name), point in points.iterrows()
    )
    named = points.rename(columns={"x": x, "y": y, "low": "lowest", "high": "highest"})
    size = (6.0 + NAMES, 4.4)
    picture = Picture(f"{y} against {x}. {alt}", size, named.reset_index(), names=NAMES)
    axes = style_axes(picture.subplots(), xlabel or x, AXIS_LABELS.get(y, y))
    _draw_frontier(picture, points)
    names = list(dict.fromkeys(points.index.get_level_values(0)))
    for name, style in zip(names, method_styles(names), strict=True):
        _draw_method(picture, name, points.loc[name].sort_values("x"), style, (x, y))
    axes.set(xscale="log")
    wide = points["x"].max() > 1000 * points["x"].min()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    name_parts(picture, axes)
    seeds = span(table.groupby([hue, each])["seed"].nunique())
    caption(axes, f"points: mean of {seeds} seeds; thin lines: lowest to highest")
    return picture


def _draw_method(
    picture: Picture, name: str, points: pd.DataFrame, style: tuple, words: tuple[str, str]
) -> None:
    """Draw a method's points with their ranges, joined by a line."""
    (colour, line), axes = style, picture.axes[0]
    dots = {"linewidth": 1.4, "marker": "o", "markersize": 4}
    artists = axes.plot(points["x"], points["y"], color=colour, linestyle=line, **dots)
    bars = {"color": colour, "linewidth": 1, "alpha": 0.6}
    artists.append(axes.vlines(points["x"], points["low"], points["high"], **bars))
    texts = [
        f"{each}\n{words[0]} {point.x:.4g}\n{words[1]} {point.y:.4g}"
        for each, point in points.iterrows()
    ]
    picture.traces.append(Trace(name, axes, artists, points["x"], points["y"], texts, colour, line))


def _draw_frontier(picture: Picture, points: pd.DataFrame) -> None:
    by_cost, axes = points.sort_values("x"), picture.axes[0]
    style = {"where": "post", "color": "#BBBBBB", "linewidth": 5, "alpha": 0.5}
    step = axes.step(by_cost["x"], by_cost["y"].cummax(), **style)
    picture.traces.append(Trace("Pareto frontier", axes, step, [], [], [], "#BBBBBB"))


def bytes_by_part(parts: pd.DataFrame, title: str = "") -> Picture:
    """Plot the bytes of messages as bars of their header, indices and values.

    Args:
        parts: One row per message, with columns ``header, indices, values``.
        title: Line above the picture.

    Returns:
        The picture.

    Example:
        >>> dense = pd.DataFrame({"header": [40], "indices": [0], "values": [1000]}, ["dense"])
        >>> bytes_by_part(dense).alt
        'dense 1,040 bytes'
    """
    colours = {"header": "#7F7F7F", "indices": "#E69F00", "values": "#0072B2"}
    parts = parts.rename_axis("upload")
    return stacked(parts, colours, "bytes of one message", title, "{:,.0f}", "bytes")


def stacked(
    parts: pd.DataFrame,
    colours: Mapping[str, str],
    xlabel: str,
    title: str = "",
    written: str = "{:.3g}",
    unit: str = "",
) -> Picture:
    """Plot a bar per row, stacked from columns, with the sum beside it.

    Args:
        parts: One row per bar.
        colours: Colour by column, in the order of stacking.
        xlabel: Label of the x axis.
        title: Line above the picture.
        written: Format of the sums.
        unit: Unit of the sums, for the description.

    Returns:
        The picture.
    """
    total = parts[list(colours)].sum(axis=1)
    alt = "; ".join(f"{name} {written.format(n)} {unit}".rstrip() for name, n in total.items())
    picture = Picture(alt, (7.6, 1.2 + 0.34 * len(parts)), parts.reset_index())
    axes = style_axes(picture.subplots(), xlabel, "")
    places, start = np.arange(len(parts)), np.zeros(len(parts))
    for name, colour in colours.items():
        lengths = parts[name].to_numpy()
        style = {"color": colour, "height": 0.62, "label": name}
        artists = axes.barh(places, lengths, left=start, **style)
        texts = [f"{row}\n{xlabel}: {written.format(n)}" for row, n in parts[name].items()]
        middles = start + lengths / 2
        picture.traces.append(Trace(name, axes, artists, middles, places, texts, colour))
        start += lengths
    for at, n in enumerate(total):
        _write_beside(axes, written.format(n), n, at)
    axes.set_yticks(places, list(parts.index))
    axes.set(xlim=(0, 1.14 * total.max()))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    _legend_below(picture, *axes.get_legend_handles_labels(), ncols=4, fontsize=9)
    caption(axes, title)
    return picture


def bars(table: pd.DataFrame, title: str = "") -> Picture:
    """Plot a table as bars: one panel per column, one bar per row, with its number.

    Args:
        table: Numbers, whose index names the rows.
        title: Line above the picture.

    Returns:
        The picture.

    Example:
        >>> bars(pd.DataFrame({"kB": [4500.0, 528.0]}, index=["all", "top 10 %"])).alt
        'all: kB 4,500; top 10 %: kB 528'
    """
    texts = table.map(lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
    alt = "; ".join(
        f"{name}: " + ", ".join(f"{column} {text}" for column, text in row.items())
        for name, row in texts.iterrows()
    )
    picture = Picture(alt, (8.6, 1.0 + 0.3 * len(table)), table.rename_axis("of").reset_index())
    places = np.arange(len(table))
    panels = picture.subplots(1, table.shape[1], sharey=True, squeeze=False)[0]
    for axes, (name, column) in zip(panels, table.items(), strict=True):
        style = {"color": "#0072B2", "height": 0.62}
        artists = style_axes(axes, str(name), "").barh(places, column, **style)
        words = [f"{row}\n{text}" for row, text in texts[name].items()]
        picture.traces.append(Trace(str(name), axes, artists, column / 2, places, words))
        for at, value in enumerate(column):
            _write_beside(axes, texts[name].iloc[at], value, at)
        axes.set(xlim=(0, 1.25 * (column.max() or 1)))
        axes.grid(axis="y", visible=False)
    axes.set_yticks(places, [str(name) for name in table.index])
    axes.invert_yaxis()
    picture.suptitle(title, x=0.01, ha="left", fontsize=9, color="#555555")
    return picture


def _write_beside(axes: Axes, text: str, x: float, y: float) -> None:
    """Write a number to the right of a bar's end."""
    axes.annotate(
        text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
    )


def _legend_below(picture: Picture, handles: list, labels: list[str], **style) -> None:
    picture.legend(handles, labels, loc="outside lower center", frameon=False, **style)


def cost_estimates(
    frame: pd.DataFrame,
    room: float | None = None,
    title: str = "",
    earlier: Mapping[str, pd.DataFrame] | None = None,
) -> Picture:
    """Plot the planned costs of a client's round, with their intervals.

    The colour is the basis of a figure: measured, cited or assumed.

    Args:
        frame: Table of ``fedlab.system.planner.estimate``.
        room: Memory of the device in GB, a dotted line.
        title: Line above the picture.
        earlier: Earlier plans by name; the newest is drawn as pale rings.

    Returns:
        The picture; its table has the drawn rows.
    """
    figures = frame[frame["part"].isin(_SCALES)]
    alt = "; ".join(
        f"{row.part}, {row.figure} {row.value:.3g} {row.unit}" for row in figures.itertuples()
    )
    picture = Picture(f"{title}: {alt}", (8.6, 3.4), figures)
    before = list((earlier or {}).items())[-1:]
    for axes, (part, (scale, unit)) in zip(picture.subplots(1, 3), _SCALES.items(), strict=True):
        rows = figures[(figures["part"] == part) & (figures["high"] > 0)]
        style_axes(axes, f"{part}, {unit}", "").set_xscale("log")
        _draw_estimates(axes, rows, scale)
        for _, plan in before:
            values = plan[plan["part"] == part].set_index("figure")["value"]
            rings = values.reindex(rows["figure"]) / scale
            axes.plot(rings, range(len(rows)), "o", markerfacecolor="none", color="#999999")
        if part == "memory" and room is not None:
            axes.axvline(room, color="black", linewidth=1, linestyle=":")
            axes.set_title(f"the device has {room:g} GB", fontsize=8, color="black")
        axes.set_yticks(range(len(rows)), rows["figure"])
        axes.set_ylim(len(rows) - 0.5, -0.8)
        axes.margins(x=0.25)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    marks = [
        Line2D([], [], color=colour, marker="o", linewidth=4, label=name)
        for name, colour in BASES.items()
    ]
    _legend_below(picture, marks, list(BASES), ncols=3, fontsize=8)
    rings = "".join(f"; rings: {name}" for name, _ in before)
    picture.suptitle(title + rings, x=0.01, ha="left", fontsize=9, color="#555555")
    return picture


def _draw_estimates(axes: Axes, rows: pd.DataFrame, scale: float) -> None:
    """Draw each figure as a dot in its interval, with its number above."""
    for at, row in enumerate(rows.itertuples()):
        colour, interval = BASES[row.basis], [row.low / scale, row.high / scale]
        axes.plot(interval, [at, at], color=colour, linewidth=5, alpha=0.35)
        number = row.value / scale
        axes.plot(number, at, marker="o", color=colour, label=row.basis)
        text = f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
        axes.annotate(text, (number, at), (0, 7), textcoords="offset points", fontsize=8)


def planned_vs_measured(table: pd.DataFrame, hue: str, title: str = "") -> Picture:
    """Plot planned figures against measured ones, one panel per kind of figure.

    Points on the thick line agree exactly; points between the thin ones agree to a factor of two.

    Args:
        table: Columns ``what`` (the kind), ``planned``, ``measured``, one row per point.
        hue: Column whose values have a colour each.
        title: Line above the picture.

    Returns:
        The picture.

    Example:
        >>> sizes = {"method": ["a", "b"], "planned": [10, 30], "measured": [10, 20]}
        >>> planned_vs_measured(pd.DataFrame(sizes).assign(what="bytes"), "method").alt
        'planned against measured; bytes: off by 50 % at most'
    """
    kinds = list(table.groupby("what", sort=False))
    worst = {kind: (rows["planned"] / rows["measured"] - 1).abs().max() for kind, rows in kinds}
    alt = "; ".join(f"{kind}: off by {100 * value:.0f} % at most" for kind, value in worst.items())
    picture = Picture(f"planned against measured; {alt}", (8.6, 3.3), table)
    panels = picture.subplots(1, len(kinds), squeeze=False)[0]
    names = list(dict.fromkeys(table[hue]))
    for axes, (kind, rows) in zip(panels, kinds, strict=True):
        style_axes(axes, f"{kind}, measured", f"{kind}, planned").set(xscale="log", yscale="log")
        ends = _draw_agreement(axes, rows)
        for name, (colour, _), marker in zip(names, method_styles(names), cycle("os^D")):
            points = rows[rows[hue] == name]
            style = {"color": colour, "markersize": 5, "alpha": 0.8, "label": name}
            axes.plot(points["measured"], points["planned"], marker, **style)
        axes.set(xlim=ends, ylim=ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(numticks=5))
            axis.set_major_formatter("{x:.0e}")
        axes.minorticks_off()
        caption(axes, f"off by {100 * worst[kind]:.0f} % at most")
    _legend_below(picture, *panels[0].get_legend_handles_labels(), ncols=4, fontsize=8)
    picture.suptitle(title, x=0.01, ha="left", fontsize=9, color="#555555")
    return picture


def _draw_agreement(axes: Axes, rows: pd.DataFrame) -> np.ndarray:
    """Draw the line of agreement and those of a factor of two, and return the limits."""
    values = rows[["planned", "measured"]]
    ends = np.array([values.min().min() / 2, values.max().max() * 2])
    for factor, width in ((1, 1.2), (2, 0.5), (0.5, 0.5)):
        axes.plot(ends, ends * factor, color="#999999", linewidth=width, zorder=0)
    return ends
