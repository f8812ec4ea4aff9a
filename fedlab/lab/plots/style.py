"""Colours, lines and axes that all pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, product

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Colour of each method in every picture, of Okabe and Ito's palette for colour-blind readers.
COLOURS = {
    "FedAvg": "#0072B2",
    "federated": "#0072B2",
    "centralised": "#000000",
    "alone": "#D55E00",
    "FedProx": "#009E73",
    "SCAFFOLD": "#CC79A7",
    "FedDyn": "#E69F00",
    "FedNova": "#56B4E9",
    "FedSGD": "#7F7F7F",
    "FedAvgM": "#0072B2",
    "FedAdam": "#D55E00",
    "FedYogi": "#D55E00",
    "FedAdagrad": "#D55E00",
    "q-FedAvg": "#009E73",
    "MimeLite": "#CC79A7",
    "FedExP": "#E69F00",
    "whole": "#000000",
    "top-k": "#0072B2",
    "top-k, 5 bits": "#0072B2",
    "random-k": "#7F7F7F",
    "QSGD": "#D55E00",
    "EDEN": "#009E73",
    "PowerSGD": "#CC79A7",
    "sign": "#E69F00",
    "TernGrad": "#56B4E9",
    "weights": "#0072B2",
    "weights of each layer": "#56B4E9",
    "units": "#D55E00",
    "pruned": "#0072B2",
    "after training": "#D55E00",
    "while training": "#0072B2",
    "HeteroFL": "#009E73",
    "FjORD": "#CC79A7",
    "federated dropout": "#E69F00",
    "strong devices only": "#D55E00",
    "everyone small": "#7F7F7F",
    "FedIT": "#0072B2",
    "FFA-LoRA": "#009E73",
    "RoLoRA": "#56B4E9",
    "FLoRA": "#D55E00",
    "FedEx-LoRA": "#CC79A7",
    "FlexLoRA": "#E69F00",
    "HetLoRA": "#7F7F7F",
    "pretrained": "#0072B2",
    "at random": "#D55E00",
    "head only": "#7F7F7F",
    "LoRA, last two blocks": "#0072B2",
    "rounds": "#0072B2",
    "over-selection": "#56B4E9",
    "deadline": "#E69F00",
    "partial work": "#5D3A9B",
    "fastest half": "#D55E00",
    "TiFL": "#009E73",
    "Oort": "#CC79A7",
    "power of choice": "#7F7F7F",
    "fair": "#000000",
    "energy-aware": "#8C6D31",
    "FedBuff": "#009E73",
    "FedAsync": "#D55E00",
    "tiers": "#CC79A7",
}

LINES = {
    "FedAvgM": "--",
    "FedAdam": "--",
    "FedYogi": ":",
    "FedAdagrad": "-.",
    "q-FedAvg": "--",
    "MimeLite": "--",
    "FedExP": "--",
    "top-k, 5 bits": "--",
}

_FREE_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")

CLIENT_COLOURS = ("#0072B2", "#D55E00", *_FREE_COLOURS)

# Colour and dashes of earlier runs: no method has these colours, and no present curve the dashes.
EARLIER = (
    ("#CC6677", (0, (6, 2))),
    ("#117733", (0, (2, 1.5))),
    ("#AA4499", (0, (6, 2, 1.5, 2))),
    ("#999933", (0, (1, 1.5))),
    ("#332288", (0, (9, 2, 2, 2, 2, 2))),
    ("#882255", (0, (4, 1))),
)

# Paul Tol's muted scheme for classes; for more than ten of them, a ramp.
_CLASS_COLOURS = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#BBBBBB",
)

COUNTED = (
    "round",
    "rounds",
    "client",
    "clients",
    "examples",
    "steps",
    "training examples",
    "layer",
)

AXIS_LABELS = {
    "round": "round",
    "megabytes": "megabytes sent, up and down, all clients",
    "examples": "examples visited, all clients",
    "steps": "local steps, all clients",
    "hours": "hours by the clock (modelled)",
    "kilojoules": "kilojoules, all clients (modelled)",
    "accuracy": "test accuracy of the global model",
    "loss": "test loss of the global model (nats)",
    "off": "aggregation error, as a share of the exact mean",
    "done": "rounds done",
}


def style_axes(axes: Axes, x: str, y: str) -> Axes:
    """Set the labels of axes, draw a faint grid, and remove the box.

    Ticks of counted things, such as rounds, are whole.

    Args:
        axes: Axes of a picture.
        x: Label of the x axis.
        y: Label of the y axis.

    Returns:
        The same axes.

    Example:
        >>> from fedlab.lab.plots import Picture
        >>> style_axes(Picture("empty").subplots(), "round", "accuracy").get_xlabel()
        'round'
    """
    axes.set(xlabel=x, ylabel=y)
    for axis, label in ((axes.xaxis, x), (axes.yaxis, y)):
        if label.split(",")[0] in COUNTED or label.startswith(("local steps", "examples visited")):
            axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return axes


def caption(axes: Axes, text: str) -> None:
    """Write a grey line of text above axes, from their left end."""
    axes.set_title(text, loc="left", fontsize=9, color="#555555")


def method_styles(names: Sequence) -> list[tuple]:
    """Return the colour and the line style of each name.

    Known methods have their own. Numbers go from dark to light. Other names get what is left.

    Example:
        >>> method_styles(["FedAvg", "FedAvgM"])
        [('#0072B2', '-'), ('#0072B2', '--')]
    """
    if len(names) > 1 and all(isinstance(name, int | float | np.number) for name in names):
        shades = colormaps["viridis"](np.linspace(0, 0.85, len(names)))
        return [(tuple(shade), "-") for shade in shades]
    known = {name: (COLOURS[name], LINES.get(name, "-")) for name in names if name in COLOURS}
    if len(names) == 1:
        return [known.get(names[0], (COLOURS["federated"], "-"))]
    styles = [(colour, line) for line, colour in product(("-", "--", ":", "-."), _FREE_COLOURS)]
    free = cycle([style for style in styles if style not in known.values()])
    return [known.get(name) or next(free) for name in names]


def class_colours(classes: int) -> np.ndarray:
    """Return one colour per class."""
    if classes > len(_CLASS_COLOURS):
        return colormaps["viridis"](np.linspace(0, 1, classes))
    return np.array(_CLASS_COLOURS)


def span(values: np.ndarray | pd.Series) -> str:
    """Return the lowest and the highest value as text, or the one that they share.

    Example:
        >>> span(np.array([3, 5, 4])), span(np.array([3, 3]))
        ('3 to 5', '3')
    """
    low, high = values.min(), values.max()
    return f"{low} to {high}" if low < high else str(low)
