"""Tables in, pictures out.  No pyplot: a figure belongs to whoever asked for it, in whatever thread."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedlab.records import FederatedDataset, Result

# A method keeps its colour in every picture (Okabe and Ito's palette, told apart by colour-blind readers).
COLOURS = {"FedAvg": "#0072B2", "federated": "#0072B2", "centralised": "#000000", "alone": "#D55E00"}
_OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")

# Classes: Paul Tol's muted scheme; beyond ten of them, a ramp.
_CLASSES = (
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

_AXES = {
    "round": "round",
    "megabytes": "megabytes sent, up and down, all clients",
    "accuracy": "test accuracy of the global model",
    "loss": "test loss of the global model (nats)",
}


class Picture(Figure):
    """A figure that shows itself in a notebook, with a sentence for those who cannot see it."""

    def __init__(self, alt: str, size: tuple[float, float] = (7.2, 3.8)):
        super().__init__(figsize=size, layout="constrained")
        FigureCanvasAgg(self)
        self.alt = alt

    def png(self, dpi: int = 144) -> bytes:
        """The picture as PNG, twice the size it is shown at, for sharp text on dense screens."""
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        width = int(self.get_figwidth() * 90)
        return {"image/png": self.png(), "text/plain": self.alt}, {"image/png": {"alt": self.alt, "width": width}}


def plain(axes: Axes, x: str, y: str) -> Axes:
    """Labels, a faint grid, and no box around."""
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return axes


def curves(
    result: Result | pd.DataFrame,
    x: str = "round",
    y: str = "accuracy",
    hue: str | None = None,
    target: float | None = None,
    x_max: float | None = None,
) -> Picture:
    """A line for each value of ``hue``, the mean over seeds, in a band from the lowest to the highest seed.

    ``x`` is ``round`` or ``megabytes``; ``target`` draws a dotted line; ``x_max`` fixes the axis for a picture
    that is still growing.  The table is that of ``Result.rounds``.
    """
    table = _with_megabytes(result if isinstance(result, pd.DataFrame) else result.rounds).dropna(subset=[y])
    groups = [("", table)] if hue is None else list(table.groupby(hue, sort=False))
    seeds = table["seed"].nunique()
    picture = Picture(_tell(groups, x, y, seeds))
    axes = plain(picture.subplots(), _AXES.get(x, x), _AXES.get(y, y))
    ends = []
    for (name, group), colour in zip(groups, _colours([name for name, _ in groups]), strict=True):
        by_x = _over_seeds(group, x, y)
        axes.plot(by_x.index, by_x["mean"], color=colour, linewidth=1.8)
        axes.fill_between(by_x.index, by_x["min"], by_x["max"], color=colour, alpha=0.18, linewidth=0)
        ends.append((float(by_x.index[-1]), float(by_x["mean"].iloc[-1]), str(name), colour))
    if target is not None:
        axes.axhline(target, color="#555555", linewidth=1, linestyle=":")
        axes.annotate(f"{target:g}", (0, target), xytext=(2, 3), textcoords="offset points", color="#555555")
    axes.set_xlim(0, x_max or max(end[0] for end in ends) or 1)
    if y == "accuracy":
        axes.set_ylim(0, 1)
    _label_ends(axes, ends)
    if seeds > 1:
        axes.set_title(f"line: mean of {seeds} seeds; band: lowest to highest", loc="left", fontsize=9, color="#555555")
    return picture


def against(table: pd.DataFrame, x: str, y: str, hue: str, xlabel: str = "", ylabel: str = "") -> Picture:
    """Like ``curves`` for a setting instead of time: ``y`` against the numbers in ``x``, on a logarithmic axis."""
    groups = list(table.groupby(hue, sort=False))
    alt = "; ".join(
        f"{name}: " + ", ".join(f"{at:g} gives {value:.3f}" for at, value in group.groupby(x)[y].mean().items())
        for name, group in groups
    )
    picture = Picture(f"{y} against {x}. {alt}")
    axes = plain(picture.subplots(), xlabel or x, ylabel or _AXES.get(y, y))
    ends = []
    for (name, group), colour in zip(groups, _colours([name for name, _ in groups]), strict=True):
        spread = group.groupby(x)[y].agg(["mean", "min", "max"])
        axes.plot(spread.index, spread["mean"], color=colour, linewidth=1.8, marker="o", markersize=4)
        axes.fill_between(spread.index, spread["min"], spread["max"], color=colour, alpha=0.18, linewidth=0)
        ends.append((float(spread.index[-1]), float(spread["mean"].iloc[-1]), str(name), colour))
    axes.set(xscale="log", ylim=(0, 1))
    ticks = sorted(table[x].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    _label_ends(axes, ends)
    seeds = table["seed"].nunique()
    axes.set_title(f"points: mean of {seeds} seeds; band: lowest to highest", loc="left", fontsize=9, color="#555555")
    return picture


def partition(data: FederatedDataset, title: str = "") -> Picture:
    """A stacked bar a client: how many examples of each class it holds."""
    counts = data.counts()  # [N, classes]
    empty = int((data.sizes == 0).sum())
    alt = f"{data.num_clients} clients hold {data.sizes.min()} to {data.sizes.max()} examples each"
    alt += f"; {empty} of them hold none" if empty else ""
    picture = Picture(alt, (7.2, 3.2))
    axes = plain(picture.subplots(), "client", "training examples")
    many = counts.shape[1] > len(_CLASSES)
    shades = colormaps["viridis"](np.linspace(0, 1, counts.shape[1])) if many else _CLASSES
    floor = np.zeros(data.num_clients)
    for c, name in enumerate(data.classes):
        axes.bar(np.arange(data.num_clients), counts[:, c], bottom=floor, color=shades[c], width=0.9, label=name)
        floor += counts[:, c]
    axes.margins(x=0.01)
    axes.legend(title="class", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, reverse=True)
    axes.set_title(title or alt, loc="left", fontsize=9, color="#555555")
    return picture


def _with_megabytes(table: pd.DataFrame) -> pd.DataFrame:
    """The table with what each run had sent by then."""
    runs = table.groupby(list(table.columns[: table.columns.get_loc("round")]), sort=False)
    return table.assign(megabytes=(runs["bytes_up"].cumsum() + runs["bytes_down"].cumsum()) / 1e6)


def _over_seeds(group: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Mean, lowest and highest over seeds, a row a round, placed at the seeds' mean x."""
    by_round = group.groupby("round").agg(x=(x, "mean"), mean=(y, "mean"), min=(y, "min"), max=(y, "max"))
    return by_round.set_index("x")


def _colours(names: list) -> list[str]:
    """Known methods have theirs; numbers go from dark to light; the rest take what is left, in order."""
    if len(names) > 1 and all(isinstance(name, int | float | np.number) for name in names):
        return [tuple(shade) for shade in colormaps["viridis"](np.linspace(0, 0.85, len(names)))]
    others = iter(_OTHERS * (1 + len(names) // len(_OTHERS)))
    return [COLOURS.get(name, COLOURS["federated"] if len(names) == 1 else None) or next(others) for name in names]


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names at the right ends of the lines, moved apart where they would touch."""
    ends = sorted((end for end in ends if end[2]), key=lambda end: end[1])
    low, high = axes.get_ylim()
    places = []
    for _, y, _, _ in ends:
        places.append(max(y, places[-1] + (high - low) * 0.065) if places else y)
    shift = np.mean([y - place for (_, y, _, _), place in zip(ends, places, strict=True)]) if ends else 0
    for (x, _, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            name,
            (x, place + shift),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            clip_on=False,
        )


def _tell(groups: list, x: str, y: str, seeds: int) -> str:
    """The picture in words."""
    lines = []
    for name, group in groups:
        last = _over_seeds(group, x, y).iloc[-1]
        lines.append(f"{name or y} ends at {last['mean']:.3f} ({last['min']:.3f} to {last['max']:.3f})")
    return f"{y} against {x}, {seeds} seed{'s' * (seeds > 1)}: " + "; ".join(lines)
