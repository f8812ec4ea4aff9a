"""Pictures from tables: tables in, figures out, each with a description and its numbers.

- ``curves``: curves over rounds or bytes, ``sweep`` over a setting, ``effect_sizes`` of methods
- ``costs``: ``frontier`` of scores and costs, ``bars``, ``stacked``, planned against measured
- ``clients``: ``partition``, ``client_bubbles`` and ``sample_images`` of data; a ``fleet``
- ``models``: ``weights`` of layers, ``paths`` of local steps
- ``timeline``: ``gantt``, the work of clients over time
- ``picture``, ``style``, ``labels``: what they have in common
- ``figure``: a picture as part of a page, where it answers the pointer

A ``Picture`` shows itself in a notebook. Without pyplot, it belongs to its caller only. For a
picture of your own, begin with ``Picture("a description").subplots()`` and ``style_axes``.

Example:
    >>> rows = [{"seed": s, "round": t, "accuracy": 0.4 * t} for s in range(2) for t in range(3)]
    >>> picture = curves(rows, target=0.7)
    >>> picture.alt
    'accuracy against round, 2 seeds: accuracy ends at 0.800 (0.800 to 0.800)'
    >>> picture.table["accuracy"].tolist()
    [0.0, 0.4, 0.8]
"""

from fedlab.lab.plots.clients import client_bubbles, fleet, partition, sample_images
from fedlab.lab.plots.costs import (
    BASES,
    bars,
    bytes_by_part,
    cost_estimates,
    frontier,
    planned_vs_measured,
    stacked,
)
from fedlab.lab.plots.curves import Rounds, curves, effect_sizes, sweep
from fedlab.lab.plots.figure import figure_html
from fedlab.lab.plots.models import paths, weights
from fedlab.lab.plots.picture import DRAWING, Picture, Trace
from fedlab.lab.plots.style import COLOURS, LINES, style_axes
from fedlab.lab.plots.timeline import gantt

__all__ = [
    "BASES",
    "COLOURS",
    "DRAWING",
    "LINES",
    "Picture",
    "Rounds",
    "Trace",
    "bars",
    "bytes_by_part",
    "client_bubbles",
    "cost_estimates",
    "curves",
    "effect_sizes",
    "figure_html",
    "fleet",
    "frontier",
    "gantt",
    "partition",
    "paths",
    "planned_vs_measured",
    "sample_images",
    "stacked",
    "style_axes",
    "sweep",
    "weights",
]
