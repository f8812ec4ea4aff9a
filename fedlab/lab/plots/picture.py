"""A picture that shows itself in a notebook, and describes itself in a sentence."""

from __future__ import annotations

import threading
from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DRAWING = threading.RLock()  # Matplotlib's fonts and text layout are shared between threads


class Picture(Figure):
    """A figure with a description and a table.

    It does not use pyplot, so it belongs to its caller only, in every thread.

    Args:
        alt: The picture in a sentence.
        size: Width and height in inches.
        table: The numbers of the picture, one row per point.

    Example:
        >>> picture = Picture("a line that rises from 0 to 1", size=(3, 2))
        >>> _ = picture.subplots().plot([0, 1])
        >>> picture.png()[1:4]
        b'PNG'
    """

    def __init__(
        self, alt: str, size: tuple[float, float] = (7.2, 3.8), table: pd.DataFrame | None = None
    ):
        super().__init__(figsize=size, layout="constrained")
        FigureCanvasAgg(self)
        self.alt, self.table = alt, table

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
        buffer = BytesIO()
        with DRAWING, rc_context({"svg.fonttype": "none", "svg.hashsalt": "fedlab"}):
            self.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        width = int(self.get_figwidth() * 90)
        return {"image/png": self.png(), "text/plain": self.alt}, {
            "image/png": {"alt": self.alt, "width": width}
        }
