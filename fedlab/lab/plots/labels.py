"""Names in pictures, placed so that they do not touch."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

HALO = withStroke(linewidth=2.5, foreground="white")

LineEnd = tuple[float, float, str, str]  # x, y, name, colour


def label_ends(axes: Axes, ends: list[LineEnd]) -> None:
    """Write names at the right ends of lines, moved apart where they would touch."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ends = sorted(end for end in ends if end[2])
    # lines that end at different x have columns of names of their own
    steps = np.diff([x for x, *_ in ends], prepend=-np.inf)
    columns = np.cumsum(steps > 0.15 * (right - left))
    for number in np.unique(columns):
        column = sorted(
            (end for end, k in zip(ends, columns, strict=True) if k == number),
            key=lambda end: end[1],
        )
        places = move_apart(np.array([y for _, y, *_ in column]), 0.065 * (high - low), low, high)
        for (x, _, name, colour), place in zip(column, places, strict=True):
            style = {"va": "center", "color": colour, "clip_on": False, "path_effects": [HALO]}
            axes.annotate(name, (x, place), xytext=(6, 0), textcoords="offset points", **style)


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
