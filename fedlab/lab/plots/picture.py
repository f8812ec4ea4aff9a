"""A picture that shows itself in a notebook, and describes itself in a sentence."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

DRAWING = threading.RLock()  # Matplotlib's fonts and text layout are shared between threads

PICTURE = "application/vnd.fedlab.picture+json"  # a picture that answers the pointer

NAMES = 2.6  # inches of a picture that its column of names takes


class Trace(NamedTuple):
    """A part of a picture that answers the pointer, such as the curve of a run.

    Attributes:
        name: Its name, empty if it has no line in the column of names.
        axes: The axes that it is drawn in.
        artists: Everything that is drawn of it.
        x: Horizontal places of its points, in the axes' units ``[n]``.
        y: Vertical places ``[n]``.
        texts: Words of each point ``[n]``, shown under the name.
        colour: Colour of its sample, before its name.
        line: Line style of its sample; "" draws a dot.
    """

    name: str
    axes: Axes
    artists: Sequence[Artist]
    x: Sequence[float]
    y: Sequence[float]
    texts: Sequence[str]
    colour: Any = "black"
    line: Any = "-"


class Picture(Figure):
    """A figure with a description, its numbers, and named parts that answer the pointer.

    It does not use pyplot, so it belongs to its caller only, in every thread.

    Args:
        alt: The picture in a sentence.
        size: Width and height in inches.
        table: The numbers of the picture, one row per point.
        numbers: The same numbers for a reader, one column per run; default: ``table``.
        names: Width in inches of a column of names, at the right of the plot.

    Attributes:
        traces: The parts that answer the pointer.

    Example:
        >>> picture = Picture("a line that rises from 0 to 1", size=(3, 2))
        >>> axes = picture.subplots()
        >>> line = axes.plot([0, 1])
        >>> picture.traces.append(Trace("rise", axes, line, [0, 1], [0, 1], ["low", "high"]))
        >>> picture.png()[1:4]
        b'PNG'
    """

    def __init__(
        self,
        alt: str,
        size: tuple[float, float] = (7.2, 3.8),
        table: pd.DataFrame | None = None,
        *,
        numbers: pd.DataFrame | None = None,
        names: float = 0.0,
    ):
        super().__init__(figsize=size, layout="constrained")
        FigureCanvasAgg(self)
        self.alt, self.table = alt, table
        self.numbers = table if numbers is None else numbers
        self.traces: list[Trace] = []
        self.names_share = names / size[0]
        self.name_places: list[tuple[Trace, float]] = []  # height of each name in its axes
        self.name_artists: list[Artist] = []
        if names:  # the plot keeps its width, whatever the names are
            self.get_layout_engine().set(rect=(0, 0, 1 - self.names_share, 1))

    def is_laid_out_like(self, picture: Picture) -> bool:
        """Return whether another picture has the same size and as many axes."""
        sizes = self.get_size_inches(), picture.get_size_inches()
        return len(self.axes) == len(picture.axes) and bool(np.array_equal(*sizes))

    def trace_labels(self) -> None:
        """Trace everything that has a label for a legend, unless there are traces already."""
        if self.traces:
            return
        for axes in self.axes:
            words = [axis.get_label_text() for axis in (axes.xaxis, axes.yaxis)]
            for drawn, label in zip(*axes.get_legend_handles_labels(), strict=True):
                places, values = _places(drawn, axes)
                texts = [_words(point, words) for point in values.tolist()]
                artists = drawn.get_children() if isinstance(drawn, Container) else [drawn]
                self.traces.append(Trace(label, axes, artists, *places.T, texts))

    def png(self, dpi: int = 144) -> bytes:
        """Return the picture as PNG, by default with 1.6 pixels per displayed pixel."""
        buffer = BytesIO()
        with DRAWING:
            self.set_dpi(dpi)
            self.canvas.draw()  # savefig would draw twice, the first time only for the layout
            pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]
            Image.fromarray(pixels).save(buffer, "png", compress_level=1)
        return buffer.getvalue()

    def svg(self) -> bytes:
        """Return the picture as SVG, with its text as text."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        buffer = BytesIO()
        with DRAWING, rc_context({"svg.fonttype": "none", "svg.hashsalt": "fedlab"}):
            canvas = self.canvas
            self.set_dpi(72)  # an SVG's unit is the point
            try:
                FigureCanvasSVG(self).print_svg(buffer, metadata={"Date": None, "Creator": None})
            finally:
                self.set_canvas(canvas)
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        width = int(self.get_figwidth() * 90)
        bundle = {"image/png": self.png(), "text/plain": self.alt}
        if "FEDLAB_HEADLESS" in os.environ:  # the page of a report shows the live picture
            from fedlab.lab.plots.figure import figure_html

            bundle[PICTURE] = {"figure": figure_html(self)}
        about = {"alt": self.alt, "width": width, "needs_background": "light"}
        return bundle, {"image/png": about}


def _places(drawn: Any, axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a line, of dots or of bars, and their values, both ``[n, 2]``.

    The point of a bar is its middle, and its value is its length. Lines that are not drawn in the
    units of both axes, such as those of ``axhline``, have no points.
    """
    if isinstance(drawn, BarContainer):
        boxes = [(patch.get_bbox().p0, patch.get_bbox().p1) for patch in drawn]
        ends = np.array(boxes, dtype=float).reshape(-1, 2, 2)
        middles, across = ends.mean(1), 0 if drawn.orientation == "horizontal" else 1
        values = middles.copy()
        values[:, across] = np.diff(ends[:, :, across], axis=1)[:, 0]
        return middles, values
    if isinstance(drawn, Container):  # error bars and stems: a line, and what belongs to it
        drawn = next((part for part in drawn if isinstance(part, Line2D)), None)
    points = np.empty((0, 2))
    if isinstance(drawn, Line2D) and drawn.get_transform() == axes.transData:
        points = drawn.get_xydata()
    elif isinstance(drawn, PathCollection):
        points = np.asarray(drawn.get_offsets(), dtype=float)
    return points, points


def _words(point: Sequence[float], labels: Sequence[str]) -> str:
    """Return a point in words: a line for each axis that has a label."""
    return "\n".join(f"{label}: {at:.4g}" for label, at in zip(labels, point, strict=True) if label)
