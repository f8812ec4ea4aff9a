"""A picture as part of a page: SVG, its names as buttons, its points for the pointer.

``figure.css`` and ``figure.js`` belong to it. Without the script the picture is there, too; in a
dark theme it is dark.
"""

from __future__ import annotations

import colorsys
import html
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle

from fedlab.lab.plots.labels import LETTERS
from fedlab.lab.plots.picture import DRAWING, Picture, Trace

SCRIPT = Path(__file__).with_name("figure.js")

STYLE = Path(__file__).with_name("figure.css")

PIXELS = 90  # of a page, per inch of a picture

DARK_PAPER = (0.08, 0.09, 0.11)

LONG = 400  # characters of a path from which on tenths of a point are fine enough


def figure_html(picture: Picture) -> str:
    """Return a picture as HTML that answers the pointer.

    Args:
        picture: The picture.

    Example:
        >>> picture = Picture("nothing")
        >>> figure_html(picture)[:30]
        '<figure class="fedlab-picture"'
    """
    picture.trace_labels()
    width, height = picture.get_size_inches()
    width *= 1 - picture.names_share
    with DRAWING:
        drawing = _draw(picture)
        runs = [_run(trace, height) for trace in picture.traces]
    alt = html.escape(picture.alt)
    column = PIXELS * picture.names_share * picture.get_figwidth()
    size = f"--width: {PIXELS * width:.0f}px; --names: {column:.0f}px"
    box = f'viewBox="0 0 {72 * width:.1f} {72 * height:.1f}"'
    svg = f'<svg role="img" aria-label="{alt}" {box}>{drawing}</svg>'
    names = "".join(_name(picture, *named) for named in picture.name_places)
    names = f'<div class="fedlab-names">{names}</div>' if names else ""
    points = json.dumps(runs, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    points = f'<script type="application/json">{points}</script>'
    return f'<figure class="fedlab-picture" style="{size}"><div>{svg}{names}</div>{points}</figure>'


def _draw(picture: Picture) -> str:
    """Return what is inside the SVG, without background and names."""
    hidden = [picture.patch, *picture.name_artists, *(axes.patch for axes in picture.axes)]
    for artist in hidden:
        artist.set_visible(False)
    for k, trace in enumerate(picture.traces):
        for artist in trace.artists:
            artist.set_gid(f"run-{k}")
    try:
        text = picture.svg().decode()
    finally:
        for artist in hidden:
            artist.set_visible(True)
    text = text[text.index("</metadata>") + 11 : text.rindex("</svg>")]
    text = re.sub(r'id="run-(\d+)"', r'data-run="\1"', text)
    text = re.sub(r'id="(?:figure|axes|matplotlib|patch|line2d|text|xtick|ytick)[^"]*"', "", text)
    text = re.sub(r' d="([^"]*)"', _shorten, text)
    text = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", _both_themes, text)
    return re.sub(r"\s*\n\s*", "\n", text)


def _shorten(path: re.Match) -> str:
    """Return the points of a path with fewer digits: half of a picture's bytes are digits."""
    digits = r"(\.\d)\d+" if len(path[1]) > LONG else r"(\.\d\d)\d+"
    short = re.sub(digits, r"\1", path[1]).replace("\n", "")
    return f' d="{short}"'


def _both_themes(colour: re.Match) -> str:
    name, light = colour.groups()
    return f"{name}: {light}; {name}: light-dark({light}, {dark_colour(light)})"


@lru_cache(maxsize=1024)
def dark_colour(colour: str) -> str:
    """Return a colour as it is drawn on dark paper: greys are reversed, others light enough.

    Args:
        colour: A colour, as ``#rrggbb``.

    Example:
        >>> dark_colour("#ffffff"), dark_colour("#000000"), dark_colour("#e69f00")
        ('#14171c', '#e6e6e6', '#e69f00')
    """
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    if saturation < 0.1 or lightness in (0, 1):
        if lightness > 0.99:
            return to_hex(DARK_PAPER)
        return to_hex((0.9 - 0.75 * lightness,) * 3)
    rgb = to_rgb(colour)
    while _contrast(rgb) < 4.5 and lightness < 0.9:
        lightness += 0.03
        rgb = colorsys.hls_to_rgb(hue, lightness, saturation)
    return to_hex(rgb)


def _contrast(rgb: tuple[float, float, float]) -> float:
    """Return the contrast of a colour with dark paper, as WCAG defines it."""

    def luminance(colour: tuple[float, float, float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    return (luminance(rgb) + 0.05) / (luminance(DARK_PAPER) + 0.05)


def _run(trace: Trace, height: float) -> dict[str, Any]:
    """Return a part for the script: its name, and its points ``[x, y, words]`` in SVG units.

    Each bar has a point of its own, in the same order.
    """
    places = trace.axes.transData.transform(np.column_stack([trace.x, trace.y]))
    shown = np.isfinite(places).all(1)
    points = [
        [round(x, 1), round(72 * height - y, 1), words]
        for (x, y), words, is_shown in zip(places.tolist(), trace.texts, shown, strict=True)
        if is_shown
    ]
    bars = [artist for artist in trace.artists if isinstance(artist, Rectangle)]
    return {"name": trace.name, "points": points} | ({"bars": True} if bars else {})


def _name(picture: Picture, trace: Trace, place: float) -> str:
    """Return a name as a button with a sample of its line, at the height of its line's end."""
    k = next(k for k, each in enumerate(picture.traces) if each is trace)
    box, light = trace.axes.get_position(), to_hex(trace.colour)
    top = 100 * (1 - box.y0 - place * box.height)
    stroke = f"stroke: {light}; stroke: light-dark({light}, {dark_colour(light)})"
    if trace.line == "":
        mark = f'<line x1="11" x2="11" y1="4" y2="4" style="{stroke}" class="dot"/>'
    else:
        dashes = f' stroke-dasharray="{_dashes(trace.line)}"' if trace.line != "-" else ""
        mark = f'<line x2="22" y1="4" y2="4" style="{stroke}"{dashes}/>'
    name, look = html.escape(trace.name), "long" if len(trace.name) > LETTERS else ""
    about = f"{name} (click: take out, or bring back)"
    return (
        f'<button type="button" class="{look}" data-run="{k}" aria-pressed="true" title="{about}" '
        f'style="--place: {top:.1f}%"><svg viewBox="0 0 22 8" aria-hidden="true">'
        f"{mark}</svg><span>{name}</span></button>"
    )


def _dashes(line: Any) -> str:
    """Return a line style as lengths of dashes and gaps, in pixels."""
    lengths = {"--": (5, 2), ":": (1.5, 2), "-.": (6, 2, 1.5, 2)}.get(line) or line[1]
    return " ".join(f"{1.3 * length:g}" for length in lengths)
