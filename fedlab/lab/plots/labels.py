"""Names in pictures, placed so that they do not touch."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import blended_transform_factory

if TYPE_CHECKING:
    from fedlab.lab.plots.picture import Picture, Trace

HALO = withStroke(linewidth=2.5, foreground="white")

LETTERS = 32  # of a line in the column beside a plot; a name has two lines at most

LINE = 0.24  # inches between the names of two curves; more if a name has two lines


def name_ends(picture: Picture, axes: Axes) -> None:
    """Name the curves of axes in the column of names, at the heights where they end.

    Args:
        picture: A picture with room for names.
        axes: Axes with their final limits.
    """
    # the last of several curves with one name gets the name
    by_name = {trace.name: trace for trace in picture.traces if trace.axes is axes}
    named = [trace for name, trace in by_name.items() if name]
    heights = [_height(trace, axes) for trace in named]
    order = np.argsort(heights, kind="stable")
    gap = _gap(picture, named)
    places = move_apart(np.array(heights)[order], gap, 0.0, 1.0)
    _write_names(picture, axes, [(named[k], p) for k, p in zip(order, places, strict=True)])


def name_parts(picture: Picture, axes: Axes) -> None:
    """Name the parts of axes in the column of names, as a list from the top.

    Args:
        picture: A picture with room for names.
        axes: The axes beside the list.
    """
    named = [trace for trace in picture.traces if trace.name]
    gap = min(_gap(picture, named), 1 / max(len(named) - 1, 1))
    _write_names(picture, axes, [(trace, 1 - gap * k) for k, trace in enumerate(named)])


def _gap(picture: Picture, named: list[Trace]) -> float:
    """Return the distance of two names, as a share of the axes' height."""
    long = any(len(trace.name) > LETTERS for trace in named)
    return (1.35 if long else 1) * LINE / (0.78 * picture.get_figheight())


def _height(trace: Trace, axes: Axes) -> float:
    """Return where a curve ends, from 0 at the bottom of its axes to 1 at their top."""
    x, y = np.asarray(trace.x, dtype=float), np.asarray(trace.y, dtype=float)
    finite = np.isfinite(y)
    if not finite.any():
        return 0.5
    place = axes.transData.transform((x[finite][-1], y[finite][-1]))
    return float(np.clip(axes.transAxes.inverted().transform(place)[1], 0, 1))


def _write_names(picture: Picture, axes: Axes, named: list[tuple[Trace, float]]) -> None:
    """Write names, each behind a sample of its line, and note their places."""
    left, width = 1 - picture.names_share, picture.get_figwidth()
    across = blended_transform_factory(picture.transFigure, axes.transAxes)
    for trace, place in named:
        is_dot = trace.line == ""
        ends = [0.23] if is_dot else [0.1, 0.36]  # inches from the column's left side
        sample = Line2D(
            [left + end / width for end in ends],
            [place] * len(ends),
            color=trace.colour,
            linewidth=1.8,
            linestyle="-" if is_dot else trace.line,
            marker="o" if is_dot else "",
            markersize=5,
            transform=across,
        )
        lines = wrap(trace.name, LETTERS, max_lines=2, placeholder=" …")
        size = 9 if len(lines) == 1 else 7.5
        style = {"va": "center", "fontsize": size, "linespacing": 1.0, "transform": across}
        name = "\n".join(lines)
        text = picture.text(left + 0.44 / width, place, name, **style)
        picture.name_artists += [picture.add_artist(sample), text]
        picture.name_places.append((trace, place))
    for artist in picture.name_artists:
        artist.set_in_layout(False)


def move_apart(y: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Move ascending heights as little as possible, so that they are a gap apart.

    Args:
        y: Ascending heights ``[n]``.
        gap: Distance between neighbours; less if the limits leave no room.
        low: Lower limit.
        high: Upper limit.

    Returns:
        Heights ``[n]`` within the limits, with the least sum of squared moves.

    Example:
        >>> move_apart(np.array([0.5, 0.5]), 0.1, 0, 1).round(2).tolist()
        [0.45, 0.55]
    """
    n = len(y)
    gap = min(gap, (high - low) / max(n - 1, 1))
    # without the gaps, heights only have to ascend: isotonic regression, by its min-max formula
    z = y - gap * np.arange(n)
    z = [max(min(z[j : k + 1].mean() for k in range(i, n)) for j in range(i + 1)) for i in range(n)]
    return np.clip(z, low, high - gap * (n - 1)) + gap * np.arange(n)


def label_points(axes: Axes, named: list[tuple[np.ndarray, np.ndarray, str, str]]) -> None:
    """Write names beside points, on the side where the picture is free.

    Args:
        axes: Axes with their final limits.
        named: Point ``[2]``, preferred direction ``[2]``, name and colour of each.
    """
    points = 370 / np.ptp(axes.get_xlim())  # one unit of the axes in points, about
    places = np.array([place for place, *_ in named]) * points
    taken = [(*place, 5.0, 5.0) for place in places]  # middle, half width, half height
    for place, (_, toward, name, colour) in zip(places, named, strict=True):
        width, preferred = 2.8 * len(name), np.arctan2(toward[1], toward[0])
        for turn in np.pi / 4 * np.array([0, 1, -1, 2, -2, 3, -3, 4]):
            side = np.array([np.cos(preferred + turn), np.sin(preferred + turn)])
            x, y = place + side * (7 + width, 12)
            if all(abs(x - u) > width + w or abs(y - v) > 6 + h for u, v, w, h in taken):
                break
        taken.append((x, y, width, 6.0))
        style = {"fontsize": 9, "ha": "center", "va": "center", "path_effects": [HALO]}
        axes.annotate(
            name,
            place / points,
            xytext=(x, y) - place,
            textcoords="offset points",
            color=colour,
            **style,
        )
