"""Tables in, pictures out.  No pyplot: a figure belongs to whoever asked for it, in whatever thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import cycle, product

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator
from PIL import Image
from torch import Tensor

from fedlab.core import FederatedDataset, Result
from fedlab.study import cumulative_cost, text_labels
from fedlab.system import Fleet

# A method keeps its colour and line in every picture (Okabe and Ito's palette, told apart by colour-blind readers).
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

DRAWING = threading.RLock()  # Matplotlib's fonts and text layout are shared between threads

_OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")

_SAMPLES = {
    "-": "",
    "--": "– – ",
    ":": "· · ",
    "-.": "– · ",
}  # before a name: several methods may share a colour

_CLIENTS = ("#0072B2", "#D55E00", *_OTHERS)

_HALO = withStroke(linewidth=2.5, foreground="white")

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
    "examples": "examples visited, all clients",
    "steps": "local steps, all clients",
    "hours": "hours by the clock (modelled)",
    "kilojoules": "kilojoules, all clients (modelled)",
    "accuracy": "test accuracy of the global model",
    "loss": "test loss of the global model (nats)",
    "off": "off, as a share of what is wanted",
    "done": "rounds done",
}


class Picture(Figure):
    """A figure that shows itself in a notebook, with a sentence and a table for those who cannot see it."""

    def __init__(
        self, alt: str, size: tuple[float, float] = (7.2, 3.8), table: pd.DataFrame | None = None
    ):
        super().__init__(figsize=size, layout="constrained")
        FigureCanvasAgg(self)
        self.alt, self.table = alt, table

    def png(self, dpi: int = 144) -> bytes:
        """The picture as PNG, with more pixels than it is shown with, for sharp text on dense screens."""
        buffer = BytesIO()
        with DRAWING:
            self.set_dpi(dpi)
            self.canvas.draw()  # savefig draws twice: once only for the layout
            Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(
                buffer, "png", compress_level=1
            )
        return buffer.getvalue()

    def svg(self) -> bytes:
        """The picture as SVG, with its text as text."""
        buffer = BytesIO()
        with DRAWING, rc_context({"svg.fonttype": "none", "svg.hashsalt": "fedlab"}):
            self.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        width = int(self.get_figwidth() * 90)
        return {"image/png": self.png(), "text/plain": self.alt}, {
            "image/png": {"alt": self.alt, "width": width}
        }


def style_axes(axes: Axes, x: str, y: str) -> Axes:
    """Labels, a faint grid, and no box around."""
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return axes


Frame = Result | pd.DataFrame | Sequence[Mapping]  # rounds: of a result, as a table, or a row each


def curves(
    result: Frame,
    x: str = "round",
    y: str = "accuracy",
    hue: str | None = None,
    target: float | None = None,
    x_max: float | None = None,
    earlier: Mapping[str, Frame] | None = None,
    expected: Mapping[float, float] | None = None,
) -> Picture:
    """A line for each value of ``hue``, the mean over seeds, in a band from the lowest to the highest seed.

    ``x`` is ``round``, ``megabytes`` or a column that adds up, such as ``examples``; ``target`` draws a dotted line;
    ``x_max`` fixes the axis for a picture that is still growing.  ``earlier`` runs are pale, by their names; ``expected``
    are points of the curve that somebody predicted.
    """
    table = _rounds(result, x, y)
    groups = _groups(table, hue)
    seeds = table["seed"].nunique()
    lines = {name: _over_seeds(group, x, y) for name, group in groups}
    picture = Picture(_tell(lines, x, y, seeds), table=_as_table(lines, x, y, hue))
    axes = style_axes(picture.subplots(), _AXES.get(x, x), _AXES.get(y, y))
    ends = _pale(axes, earlier or {}, x, y, hue)
    for (name, by_x), (colour, line) in zip(lines.items(), _looks(list(lines)), strict=True):
        name = name or ("now" if earlier else "")
        dot = "o" if len(by_x) == 1 else ""  # of one point there is no line
        axes.plot(
            by_x.index,
            by_x["mean"],
            color=colour,
            linestyle=line,
            marker=dot,
            linewidth=1.8,
            clip_on=not dot,
        )
        faint = 0.18 * min(1, 4 / len(groups))  # many bands lie over each other
        axes.fill_between(
            by_x.index, by_x["min"], by_x["max"], color=colour, alpha=faint, linewidth=0
        )
        ends.append(
            (
                float(by_x.index[-1]),
                float(by_x["mean"].iloc[-1]),
                _SAMPLES[line] + str(name),
                colour,
            )
        )
    if expected:
        axes.plot(
            *zip(*sorted(expected.items()), strict=True),
            color="#D55E00",
            linestyle="--",
            marker="D",
            linewidth=1.2,
            clip_on=False,
        )
        ends.append((*max(expected.items()), "expected", "#D55E00"))
    if target is not None:
        axes.axhline(target, color="#555555", linewidth=1, linestyle=":")
        axes.annotate(
            f"{target:g}", (0, target), xytext=(2, 3), textcoords="offset points", color="#555555"
        )
    axes.set_xlim(0, x_max or max(end[0] for end in ends) or 1)
    if y == "accuracy":
        axes.set_ylim(0, 1)
    elif y == "off":
        axes.set_ylim(bottom=0)
    _label_ends(axes, ends)
    if seeds > 1:
        axes.set_title(
            f"line: mean of {seeds} seeds; band: lowest to highest",
            loc="left",
            fontsize=9,
            color="#555555",
        )
    return picture


def _rounds(frame: Frame, x: str, y: str) -> pd.DataFrame:
    table = (
        frame.rounds
        if isinstance(frame, Result)
        else frame
        if isinstance(frame, pd.DataFrame)
        else pd.DataFrame(frame)
    )
    return table.assign(**{x: cumulative_cost(table, x)}).dropna(subset=[y])


def _groups(table: pd.DataFrame, hue: str | None) -> list[tuple[str, pd.DataFrame]]:
    return (
        [("", table)] if hue is None else list(table.groupby(text_labels(table[hue]), sort=False))
    )


def _as_table(lines: Mapping[str, pd.DataFrame], x: str, y: str, hue: str | None) -> pd.DataFrame:
    """The lines of a picture, a row a point; lowest and highest where there are several seeds."""
    tables = []
    for name, by_x in lines.items():
        table = by_x.reset_index().rename(
            columns={"x": x, "mean": y, "min": "lowest", "max": "highest"}
        )
        table = table if (table["lowest"] != table["highest"]).any() else table[[x, y]]
        tables.append(table if hue is None else table.assign(**{hue: name}))
    return pd.concat(tables, ignore_index=True)


def _pale(axes: Axes, earlier: Mapping[str, Frame], x: str, y: str, hue: str | None) -> list[tuple]:
    """Draw the lines of earlier runs; gives the end of each run's last line, to be named."""
    ends = []
    for words, frame in earlier.items():
        groups = _groups(_rounds(frame, x, y), hue)
        lines = {name: _over_seeds(group, x, y)["mean"] for name, group in groups}
        for (_, by_x), (colour, line) in zip(lines.items(), _looks(list(lines)), strict=True):
            axes.plot(by_x.index, by_x, color=colour, linestyle=line, linewidth=1.2, alpha=0.3)
        ends.append((float(by_x.index[-1]), float(by_x.iloc[-1]), words, "#7F7F7F"))
    return ends


def sweep(
    table: pd.DataFrame, x: str, y: str, hue: str, xlabel: str = "", ylabel: str = ""
) -> Picture:
    """Like ``curves`` for a setting instead of time: ``y`` against the numbers in ``x``, on a logarithmic axis."""
    groups = _groups(table, hue)
    alt = "; ".join(
        f"{name}: "
        + ", ".join(f"{at:g} gives {value:.3f}" for at, value in group.groupby(x)[y].mean().items())
        for name, group in groups
    )
    picture = Picture(f"{y} against {x}. {alt}")
    axes = style_axes(picture.subplots(), xlabel or x, ylabel or _AXES.get(y, y))
    ends = []
    for (name, group), (colour, line) in zip(
        groups, _looks([name for name, _ in groups]), strict=True
    ):
        spread = group.groupby(x)[y].agg(["mean", "min", "max"])
        axes.plot(
            spread.index,
            spread["mean"],
            color=colour,
            linestyle=line,
            linewidth=1.8,
            marker="o",
            markersize=4,
        )
        axes.fill_between(
            spread.index, spread["min"], spread["max"], color=colour, alpha=0.18, linewidth=0
        )
        ends.append(
            (
                float(spread.index[-1]),
                float(spread["mean"].iloc[-1]),
                _SAMPLES[line] + str(name),
                colour,
            )
        )
    axes.set(xscale="log", ylim=(0, 1))
    ticks = sorted(table[x].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    _label_ends(axes, ends)
    seeds = table["seed"].nunique()
    axes.set_title(
        f"points: mean of {seeds} seeds; band: lowest to highest",
        loc="left",
        fontsize=9,
        color="#555555",
    )
    return picture


def frontier(table: pd.DataFrame, x: str, y: str, hue: str, each: str, xlabel: str = "") -> Picture:
    """What is had for what is paid: a point for every value of ``each``, its mean over seeds, joined along ``hue``.

    ``x``, what is paid, is on a logarithmic axis; a thin line goes from the lowest to the highest seed.  The step is what
    nothing cheaper reaches.
    """
    table = table.assign(**{name: text_labels(table[name]) for name in (hue, each)})
    points = table.groupby([hue, each], sort=False).agg(
        x=(x, "mean"), y=(y, "mean"), low=(y, "min"), high=(y, "max")
    )
    told = "; ".join(
        f"{name}: {point.y:.3f} for {point.x:.3g}" for (_, name), point in points.iterrows()
    )
    shown = points.rename(
        columns={"x": x, "y": y, "low": "lowest", "high": "highest"}
    ).reset_index()
    picture = Picture(f"{y} against {x}. {told}", (8.6, 4.4), shown)
    axes = style_axes(picture.subplots(), xlabel or x, _AXES.get(y, y))
    best = points.sort_values("x")
    step = best["y"].cummax()
    axes.step(
        best["x"],
        step,
        where="post",
        color="#BBBBBB",
        linewidth=5,
        alpha=0.5,
        label="nothing cheaper reaches",
    )
    names = list(dict.fromkeys(points.index.get_level_values(0)))
    for name, (colour, line) in zip(names, _looks(names), strict=True):
        mine = points.loc[name].sort_values("x")
        axes.plot(
            mine["x"],
            mine["y"],
            color=colour,
            linestyle=line,
            linewidth=1.4,
            marker="o",
            markersize=4,
            label=name,
        )
        axes.vlines(mine["x"], mine["low"], mine["high"], color=colour, linewidth=1, alpha=0.6)
    axes.set(xscale="log")
    wide = points["x"].max() > 1000 * points["x"].min()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    seeds = _span(table.groupby([hue, each])["seed"].nunique())
    axes.set_title(
        f"points: mean of {seeds} seeds; thin lines: lowest to highest",
        loc="left",
        fontsize=9,
        color="#555555",
    )
    return picture


def bytes_by_part(parts: pd.DataFrame, title: str = "") -> Picture:
    """A bar a row: bytes of ``header``, ``indices`` and ``values``, with their sum beside it, on a common axis."""
    colours = {"header": "#7F7F7F", "indices": "#E69F00", "values": "#0072B2"}
    return stacked(
        parts.rename_axis("upload"), colours, "bytes of one message", title, "{:,.0f}", "bytes"
    )


def stacked(
    parts: pd.DataFrame,
    colours: Mapping[str, str],
    xlabel: str,
    title: str = "",
    written: str = "{:.3g}",
    unit: str = "",
) -> Picture:
    """A bar a row, made of the columns that have ``colours``, with their sum beside it."""
    total = parts[list(colours)].sum(axis=1)
    told = "; ".join(f"{name} {written.format(n)} {unit}".rstrip() for name, n in total.items())
    picture = Picture(told, (7.6, 1.2 + 0.34 * len(parts)), parts.reset_index())
    axes = style_axes(picture.subplots(), xlabel, "")
    start = np.zeros(len(parts))
    for name, colour in colours.items():
        axes.barh(
            np.arange(len(parts)), parts[name], left=start, color=colour, height=0.62, label=name
        )
        start += parts[name].to_numpy()
    for at, n in enumerate(total):
        axes.annotate(
            written.format(n),
            (n, at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(np.arange(len(parts)), list(parts.index))
    axes.set(xlim=(0, 1.14 * total.max()))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    picture.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    axes.set_title(title, loc="left", fontsize=9, color="#555555")
    return picture


def bars(table: pd.DataFrame, title: str = "") -> Picture:
    """A column of bars for each column of the table, each on an axis of its own, with its number at the end."""
    written = table.map(lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
    told = "; ".join(
        f"{name}: " + ", ".join(f"{c} {v}" for c, v in row.items())
        for name, row in written.iterrows()
    )
    picture = Picture(told, (8.6, 1.0 + 0.3 * len(table)), table.rename_axis("of").reset_index())
    places, columns = (
        np.arange(len(table)),
        picture.subplots(1, table.shape[1], sharey=True, squeeze=False)[0],
    )
    for axes, (name, column) in zip(columns, table.items(), strict=True):
        style_axes(axes, str(name), "").barh(places, column, color="#0072B2", height=0.62)
        for at, value in enumerate(column):
            axes.annotate(
                written[name].iloc[at],
                (value, at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        axes.set(xlim=(0, 1.25 * (column.max() or 1)))
        axes.grid(axis="y", visible=False)
    axes.set_yticks(places, [str(name) for name in table.index])
    axes.invert_yaxis()
    picture.suptitle(title, x=0.01, ha="left", fontsize=9, color="#555555")
    return picture


PHASES = {"fetching": "#56B4E9", "computing": "#E69F00", "sending": "#0072B2"}

_OUTCOMES = {"late": "late", "lost": "lost", "flying": "under way"}


def gantt(
    clients: pd.DataFrame,
    ends: Sequence[float] = (),
    title: str = "",
    names: Sequence[str] | None = None,
) -> Picture:
    """Who did what when: the table ``clients`` of ``system.simulation`` or a part of it, a line a client.

    ``ends`` are the times of the server's steps, dotted.  What came to nothing is pale, with its outcome beside it; ``names``
    is what to call each client ``[N]``.
    """
    clients = clients.sort_values(["began", "ended"], kind="stable")
    last, place = (
        clients["ended"],
        {client: at for at, client in enumerate(dict.fromkeys(clients["client"]))},
    )
    unit, word = (
        (3600, "hours")
        if last.max() > 7200
        else (60, "minutes")
        if last.max() > 180
        else (1, "seconds")
    )
    total = {phase: clients[phase].sum() for phase in PHASES}
    told = ", ".join(
        f"{100 * value / max(sum(total.values()), 1e-12):.0f} % {phase}"
        for phase, value in total.items()
    )
    outcomes = ", ".join(f"{n} {name}" for name, n in clients["outcome"].value_counts().items())
    shown = clients[["client", "began", *PHASES, "ended", "outcome"]]
    alt = f"{len(clients)} models out: {outcomes}; of the clients' time {told}"
    picture = Picture(alt, (8.2, 1.4 + 0.18 * len(place)), shown)
    axes = style_axes(picture.subplots(), f"{word} by the clock (modelled)", "")
    for phase, colour in PHASES.items():
        for useful in (True, False):
            mine = clients[clients["outcome"].eq("used") == useful]
            before = sum(
                (mine[other] for other in list(PHASES)[: list(PHASES).index(phase)]), mine["began"]
            )
            at = [place[client] for client in mine["client"]]
            alpha = 1 if useful else 0.3
            axes.barh(
                at, mine[phase] / unit, left=before / unit, height=0.7, color=colour, alpha=alpha
            )
    steps = np.sort(np.asarray(ends, dtype=float))
    waits = clients[clients["outcome"].eq("used") & (clients["ended"] <= steps.max(initial=-1))]
    until = steps[np.searchsorted(steps + 1e-9, waits["ended"])]
    at = [place[client] for client in waits["client"]]
    axes.barh(
        at, (until - waits["ended"]) / unit, left=waits["ended"] / unit, height=0.2, color="#BBBBBB"
    )
    for row in clients[clients["outcome"] != "used"].itertuples():
        at = row.ended / unit, place[row.client]
        axes.annotate(_OUTCOMES[row.outcome], at, (3, -3), textcoords="offset points", fontsize=7)
    for end in ends:
        axes.axvline(end / unit, color="black", linewidth=1, linestyle=":")
    words = [str(client) if names is None else f"{names[client]}  {client}" for client in place]
    axes.set_yticks(range(len(place)), words, fontsize=7)
    axes.set(ylim=(len(place) - 0.4, -0.6), xlim=(0, None))
    axes.grid(axis="y", visible=False)
    marks = [
        Line2D([], [], color=colour, linewidth=6, label=name) for name, colour in PHASES.items()
    ]
    marks += [Line2D([], [], color="#BBBBBB", linewidth=2, label="waiting")]
    marks += [Line2D([], [], color="black", linestyle=":", linewidth=1, label="the server's step")]
    picture.legend(handles=marks, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    axes.set_title(title, loc="left", fontsize=9, color="#555555")
    return picture


def fleet(devices: Fleet, title: str = "") -> Picture:
    """A dot a client: how fast it computes against how fast it sends, in the colour of its device."""
    table = devices.table()
    counts = table["device"].value_counts()
    told = ", ".join(f"{n} {name or 'devices'}" for name, n in counts.items())
    slow = {name: table[name].quantile([0, 1]) for name in ("gigaflops", "up_mbit")}
    spread = "; ".join(f"{name} from {q[0]:.3g} to {q[1]:.3g}" for name, q in slow.items())
    picture = Picture(
        f"{told}; {spread}", (7.2, 3.8), table[["device", "link", "gigaflops", "up_mbit", "watts"]]
    )
    axes = style_axes(picture.subplots(), "GFLOP/s that training reaches", "Mbit/s up")
    axes.set(xscale="log", yscale="log")
    for name, colour, marker in zip(counts.index, cycle(_CLIENTS), cycle("os^Dv")):
        mine = table[table["device"] == name]
        axes.plot(
            mine["gigaflops"],
            mine["up_mbit"],
            marker,
            color=colour,
            markersize=5,
            alpha=0.75,
            label=name or "client",
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    axes.set_title(title, loc="left", fontsize=9, color="#555555")
    return picture


BASES = {
    "measured": "#009E73",
    "cited": "#0072B2",
    "assumed": "#D55E00",
}  # what a planned figure rests on

_SCALES = {"memory": (1e9, "GB"), "bytes of a round": (1e6, "MB"), "seconds of a round": (1, "s")}


def cost_estimates(
    frame: pd.DataFrame,
    room: float | None = None,
    title: str = "",
    earlier: Mapping[str, pd.DataFrame] | None = None,
) -> Picture:
    """A client's round as ``system.planner.estimate`` has it: each figure with its interval, in the colour of its basis.

    ``room`` is the device's memory in GB, a dotted line.  The newest of ``earlier`` plans is drawn as pale rings.
    """
    kept = frame[frame["part"].isin(_SCALES)]
    told = "; ".join(
        f"{row.part}, {row.figure} {row.value:.3g} {row.unit}" for row in kept.itertuples()
    )
    picture = Picture(f"{title}: {told}", (8.6, 3.4), kept)
    before = list((earlier or {}).items())[-1:]
    for axes, (part, (scale, unit)) in zip(picture.subplots(1, 3), _SCALES.items(), strict=True):
        rows = kept[(kept["part"] == part) & (kept["high"] > 0)]
        style_axes(axes, f"{part}, {unit}", "").set_xscale("log")
        for at, row in enumerate(rows.itertuples()):
            colour = BASES[row.basis]
            axes.plot(
                [row.low / scale, row.high / scale], [at, at], color=colour, linewidth=5, alpha=0.35
            )
            axes.plot(row.value / scale, at, marker="o", color=colour, label=row.basis)
            number = row.value / scale
            words = f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
            axes.annotate(words, (number, at), (0, 7), textcoords="offset points", fontsize=8)
        for _, other in before:
            was = other[other["part"] == part].set_index("figure")["value"].reindex(rows["figure"])
            axes.plot(was / scale, range(len(rows)), "o", markerfacecolor="none", color="#999999")
        if part == "memory" and room is not None:
            axes.axvline(room, color="black", linewidth=1, linestyle=":")
            axes.set_title(f"there are {room:g}", fontsize=8, color="black")
        axes.set_yticks(range(len(rows)), rows["figure"])
        axes.set_ylim(len(rows) - 0.5, -0.8)
        axes.margins(x=0.25)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    marks = [
        Line2D([], [], color=colour, marker="o", linewidth=4, label=name)
        for name, colour in BASES.items()
    ]
    picture.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    rings = "".join(f"; rings: {words}" for words, _ in before)
    picture.suptitle(title + rings, x=0.01, ha="left", fontsize=9, color="#555555")
    return picture


def planned_vs_measured(table: pd.DataFrame, hue: str, title: str = "") -> Picture:
    """``planned`` against ``measured``, a point a row, on logarithmic axes; one picture for each ``what``.

    On the line they agree; between the thin ones they do to a factor of two.
    """
    kinds = list(table.groupby("what", sort=False))
    worst = {what: (rows["planned"] / rows["measured"] - 1).abs().max() for what, rows in kinds}
    told = "; ".join(f"{what}: off by {100 * value:.0f} % at most" for what, value in worst.items())
    picture = Picture(f"planned against measured; {told}", (8.6, 3.3), table)
    columns, names = (
        picture.subplots(1, len(kinds), squeeze=False)[0],
        list(dict.fromkeys(table[hue])),
    )
    for axes, (what, rows) in zip(columns, kinds, strict=True):
        style_axes(axes, f"{what}, measured", f"{what}, planned").set(xscale="log", yscale="log")
        ends = np.array(
            [
                rows[["planned", "measured"]].min().min() / 2,
                rows[["planned", "measured"]].max().max() * 2,
            ]
        )
        for factor, width in ((1, 1.2), (2, 0.5), (0.5, 0.5)):
            axes.plot(ends, ends * factor, color="#999999", linewidth=width, zorder=0)
        for name, (colour, _), marker in zip(names, _looks(names), cycle("os^D")):
            mine = rows[rows[hue] == name]
            axes.plot(
                mine["measured"],
                mine["planned"],
                marker,
                color=colour,
                markersize=5,
                alpha=0.8,
                label=name,
            )
        axes.set(xlim=ends, ylim=ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(numticks=5))
            axis.set_major_formatter("{x:.0e}")
        axes.minorticks_off()
        axes.set_title(
            f"off by {100 * worst[what]:.0f} % at most", loc="left", fontsize=9, color="#555555"
        )
    picture.legend(
        *columns[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    picture.suptitle(title, x=0.01, ha="left", fontsize=9, color="#555555")
    return picture


def weights(
    matrices: Mapping[str, Tensor],
    title: str = "",
    earlier: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Picture:
    """The weights of layers ``[out, in, ...]`` by their size, a row a unit; what is 0 is white.

    The last two of ``earlier`` models stand below, pale, by their names.
    """
    shown = {"": matrices} | dict(list((earlier or {}).items())[:-3:-1])
    rows = [
        {"model": name or title, "of": of, "weights": p.numel(), "left": int((p != 0).sum())}
        for name, layers in shown.items()
        for of, p in layers.items()
    ]
    table = pd.DataFrame(rows).assign(share=lambda t: t["left"] / t["weights"])
    told = ", ".join(
        f"{100 * row.share:.0f} % of {row.of}" for row in table.head(len(matrices)).itertuples()
    )
    picture = Picture(f"{title}; left: {told}", (7.6, 3.1 + 2.5 * (len(shown) - 1)), table)
    heights = [1.0] + [0.75] * (len(shown) - 1)
    for line, (name, layers) in zip(
        picture.subplots(len(shown), len(matrices), squeeze=False, height_ratios=heights),
        shown.items(),
        strict=True,
    ):
        for axes, (of, p) in zip(line, layers.items(), strict=True):
            _matrix(axes, p.detach().abs().flatten(1).numpy(force=True), of, pale=bool(name))
        line[0].annotate(
            name, (0, 1), (0, 16), "axes fraction", "offset points", fontsize=9, color="#555555"
        )
    picture.suptitle(title, x=0.01, ha="left", fontsize=9, color="#555555")
    return picture


def _matrix(axes: Axes, size: np.ndarray, name: str, *, pale: bool) -> None:
    """Sizes ``[units, inputs]`` as shades."""
    kept, most = np.ma.masked_equal(size, 0), np.quantile(size[size > 0], 0.99) if size.any() else 1
    axes.imshow(
        kept,
        cmap="viridis_r",
        vmin=0,
        vmax=most,
        aspect="auto",
        interpolation="nearest",
        alpha=0.5 if pale else 1,
    )
    axes.set(
        xlabel=f"{name}: inputs",
        ylabel="units",
        xticks=[0, size.shape[1] - 1],
        yticks=[0, size.shape[0] - 1],
    )
    axes.set_title(f"{100 * (size != 0).mean():.0f} % left", fontsize=9, color="#555555")


def partition(data: FederatedDataset, title: str = "") -> Picture:
    """A stacked bar a client: how many examples of each class it holds."""
    counts = data.counts()  # [N, classes]
    empty = int((data.sizes == 0).sum())
    alt = f"{data.num_clients} clients hold {data.sizes.min()} to {data.sizes.max()} examples each"
    alt += f"; {empty} of them hold none" if empty else ""
    picture = Picture(alt, (7.2, 3.2))
    axes = style_axes(picture.subplots(), "client", "training examples")
    shades, floor = _shades(counts.shape[1]), np.zeros(data.num_clients)
    for c, name in enumerate(data.classes):
        axes.bar(
            np.arange(data.num_clients),
            counts[:, c],
            bottom=floor,
            color=shades[c],
            width=0.9,
            label=name,
        )
        floor += counts[:, c]
    axes.margins(x=0.01)
    axes.legend(
        title="class",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        fontsize=8,
        reverse=True,
    )
    axes.set_title(title or alt, loc="left", fontsize=9, color="#555555")
    return picture


def client_bubbles(
    data: FederatedDataset, title: str = "", earlier: Mapping[str, FederatedDataset] | None = None
) -> Picture:
    """Who holds what: a bubble a client and class, its area the number of examples; above it, how many in all.

    The first 100 clients, where there are more.  The newest of ``earlier`` splits is drawn as pale rings.
    """
    counts = data.counts()[:100]  # [N, classes]
    n, classes = counts.shape
    held = (counts > 0).sum(1)
    alt = f"{n} clients hold {_span(held)} of {classes} classes and {_span(counts.sum(1))} examples each"
    alt += f"; they are the first of {data.num_clients}" if n < data.num_clients else ""
    table = pd.DataFrame(counts, columns=list(data.classes)).rename_axis("client").reset_index()
    picture = Picture(alt, (7.2, min(7.0, 2.2 + 0.2 * classes)), table)
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=[1, 1 + 0.2 * classes])
    style_axes(above, "", "examples").bar(np.arange(n), counts.sum(1), color="#7F7F7F", width=0.8)
    style_axes(below, "client", "class").set_axisbelow(True)
    widest = 72 * np.clip(6.2 / n, 0.14, 0.22)  # points: a cell, or more where cells are narrow
    most = max([counts.max(), *(other.counts()[:n].max() for other in (earlier or {}).values())])
    client, c = counts.nonzero()
    below.scatter(
        client, c, s=widest**2 * counts[client, c] / most, c=_shades(classes)[c], linewidths=0
    )
    for words, other in list((earlier or {}).items())[-1:]:
        before = other.counts()[:n]
        client, c = before.nonzero()
        rings = {"facecolors": "none", "edgecolors": "#999999", "linewidths": 0.8}
        below.scatter(client, c, s=widest**2 * before[client, c] / most, **rings)
        above.step(
            np.arange(len(before)), before.sum(1), where="mid", color="#999999", linewidth=0.8
        )
        below.set_title(f"rings and thin line: {words}", loc="left", fontsize=8, color="#555555")
    below.set(xlim=(-0.7, n - 0.3), ylim=(classes - 0.4, -0.6))
    below.xaxis.get_major_locator().set_params(integer=True)
    below.set_yticks(np.arange(classes), data.classes, fontsize=8 if classes <= 12 else 6)
    above.set_title(title or alt, loc="left", fontsize=9, color="#555555")
    return picture


def sample_images(
    data: FederatedDataset, clients: Sequence[int] = (0, 1, 2, 3), *, each: int = 8, title: str = ""
) -> Picture:
    """Some of what ``clients`` hold, if that is pictures: a row a client, its first ``each``, the class above it.

    Examples are ``[H, W]``, ``[C, H, W]``, or squares in a row; all are shown in the same shades.
    """
    rows = [data.parts[i][:each] for i in clients]
    shown = np.concatenate(rows) if rows else np.array([], dtype=int)
    if len(shown) == 0:
        raise ValueError(f"clients={list(clients)} hold no example: name others")
    images = dict(zip(shown, _images(data.x[shown].numpy(force=True)), strict=True))
    sizes = ", ".join(f"client {i} holds {data.sizes[i]}" for i in clients)
    alt = f"The first {max(map(len, rows))} pictures of {len(rows)} clients; {sizes}"
    picture = Picture(alt, (7.2, 0.35 + 7.2 * 1.25 * len(rows) / (each + 1)))
    axes = picture.subplots()
    for down, (i, row) in enumerate(zip(clients, rows, strict=True)):
        axes.text(-0.1, 1.25 * down + 0.5, f"client {i}", ha="right", va="center")
        for right, k in enumerate(row):
            axes.imshow(
                images[k],
                extent=(right, right + 0.94, 1.25 * down + 0.97, 1.25 * down + 0.03),
                cmap="gray_r",
                vmin=0,
                vmax=1,
            )
            name = data.classes[int(data.y[k])] if data.classes else f"{float(data.y[k]):.3g}"
            axes.text(
                right + 0.47,
                1.25 * down,
                name,
                ha="center",
                va="bottom",
                fontsize=7,
                color="#555555",
            )
    axes.set(xlim=(0, each), ylim=(1.25 * len(rows) - 0.25, -0.2))
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=9, color="#555555")
    return picture


def effect_sizes(table: pd.DataFrame, xlabel: str = "") -> Picture:
    """The table of ``comparison.summary`` as a picture: how far each variant ends from one of them, with the interval."""
    if "difference" not in table.columns or not table["difference"].isna().any():
        raise ValueError(
            f"a table of {', '.join(map(str, table.columns))}: give one that comparison.summary makes"
        )
    what, names = str(table.columns[0]), list(table.index)
    base = table.index[table["difference"].isna()][0]
    rows = list(
        table[["difference", "difference_low", "difference_high"]].fillna(0).itertuples(index=False)
    )
    words = {
        name: f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
        for name, (mean, low, high) in zip(names, rows, strict=True)
    }
    words[base] = f"reference: {table.loc[base, what]:.3f}"
    about = f"after round {_span(table['round'])}; {table['seeds'].iloc[0]} paired seeds"
    told = "; ".join(f"{name} {said}" for name, said in words.items())
    picture = Picture(
        f"{what}, difference to {base}, {about}: {told}", (7.2, 1.1 + 0.34 * len(names))
    )
    axes = style_axes(
        picture.subplots(), xlabel or f"{_AXES.get(what, what)}: difference to {base}", ""
    )
    axes.axvline(0, color="#555555", linewidth=1, linestyle=":")
    axes.locator_params(axis="x", nbins=6)  # beside the words there is no room for more
    for y, (name, (mean, low, high), (colour, _)) in enumerate(
        zip(names, rows, _looks(names), strict=True)
    ):
        axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        inside = colour if name == base or low > 0 or high < 0 else "white"
        axes.plot(mean, y, marker="o", markersize=7, color=colour, markerfacecolor=inside)
        right, said = axes.get_yaxis_transform(), words[name].replace("-", "\N{MINUS SIGN}")
        axes.annotate(
            said,
            (1, y),
            xycoords=right,
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_title(
        f"{about}; bar: interval; filled: it excludes 0", loc="left", fontsize=9, color="#555555"
    )
    return picture


def paths(
    tracks: np.ndarray,
    *,
    loss: Callable[[np.ndarray], np.ndarray] | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Picture:
    """Where local steps take clients: ``tracks [m, K + 1, d]`` from a common start, a dot a step.

    ``loss(points [n, d]) -> [n]`` is drawn as contours; ``marks`` are more models ``[d]``, such as the optimum.  Beyond two
    dimensions all is seen in the plane through the start that holds most of the clients' ways; marks are dropped onto it.
    """
    tracks = np.asarray(tracks, dtype=float)
    if (
        tracks.ndim != 3
        or min(tracks.shape[1:]) < 2
        or not np.allclose(tracks[:, 0], tracks[:1, 0])
    ):
        raise ValueError(
            f"tracks {list(tracks.shape)}: they are [clients, steps + 1, d] from one start, with steps and d - 1 at least 1"
        )
    start, d, names = (
        tracks[0, 0],
        tracks.shape[2],
        names or [f"client {i}" for i in range(len(tracks))],
    )
    plane, kept = _plane(tracks - start)
    origin = start if d == 2 else np.zeros(2)  # of the picture's coordinates
    flat = origin + (tracks - start) @ plane.T  # [m, K + 1, 2]
    spots = {
        name: origin + plane @ (np.asarray(mark, dtype=float) - start)
        for name, mark in (marks or {}).items()
    }
    far = ", ".join(
        f"{name} {np.linalg.norm(way[-1] - start):.2g}"
        for name, way in zip(names, tracks, strict=True)
    )
    picture = Picture(
        f"{tracks.shape[1] - 1} local steps of {len(tracks)} clients; how far each comes: {far}",
        (6.4, 4.8),
    )
    axes = style_axes(
        picture.subplots(), *(f"{'coordinate' if d == 2 else 'main direction'} {k}" for k in (1, 2))
    )
    axes.grid(visible=False)
    _frame(axes, np.concatenate([flat.reshape(-1, 2), *([spot] for spot in spots.values())]))
    if loss is not None:
        _contours(axes, lambda at: loss(start + (at - origin) @ plane))
    named = []
    for way, name, colour in zip(flat, names, cycle(_CLIENTS)):
        axes.plot(*way.T, color=colour, linewidth=1.3, marker="o", markersize=2.5)
        axes.plot(*way[-1], color=colour, marker="o", markersize=6)
        named.append((way[-1], way[-1] - way[0], name, colour))
    for name, spot in {"start": flat[0, 0], **spots}.items():
        axes.plot(
            *spot,
            color="black",
            marker="s" if name == "start" else "X",
            markersize=7,
            markeredgecolor="white",
        )
        named.append((spot, flat[0, 0] - flat[:, -1].mean(0), name, "black"))
    _name(axes, named)
    told = (
        "a dot a local step"
        if d == 2
        else f"a dot a local step; the plane holds {kept:.0%} of the clients' ways"
    )
    axes.set_title(title or told, loc="left", fontsize=9, color="#555555")
    return picture


def _plane(away: np.ndarray) -> tuple[np.ndarray, float]:
    """The two directions ``[2, d]`` in which ``away [..., d]`` reaches farthest, and the share of its squares they hold."""
    if away.shape[-1] == 2:
        return np.eye(2), 1.0
    _, s, directions = np.linalg.svd(away.reshape(-1, away.shape[-1]), full_matrices=False)
    return directions[:2], float((s[:2] ** 2).sum() / max((s**2).sum(), 1e-300))


def _frame(axes: Axes, points: np.ndarray) -> None:
    """Limits around ``points [n, 2]``, with room for names, one scale for both directions."""
    middle, half = (points.max(0) + points.min(0)) / 2, (points.max(0) - points.min(0)) / 2
    height = max(1.25 * half[1], 1.5 * half[0] / 1.35, 1e-12)
    axes.set(
        xlim=middle[0] + np.array([-1.35, 1.35]) * height,
        ylim=middle[1] + np.array([-1, 1]) * height,
    )
    axes.set_aspect("equal")


def _contours(axes: Axes, value: Callable[[np.ndarray], np.ndarray]) -> None:
    """Level lines of ``value(points [n, 2]) -> [n]``, closer together near the lowest."""
    x, y = np.meshgrid(np.linspace(*axes.get_xlim(), 61), np.linspace(*axes.get_ylim(), 61))
    z = np.asarray(value(np.stack([x.ravel(), y.ravel()], 1))).reshape(x.shape)
    levels = z.min() + np.ptp(z) * np.linspace(0.05, 1, 12) ** 2
    axes.contourf(
        x,
        y,
        z,
        levels=[z.min() - 1, *levels],
        cmap="Greys",
        vmin=z.min(),
        vmax=z.min() + 2.5 * np.ptp(z),
    )
    axes.contour(x, y, z, levels=levels, colors="#999999", linewidths=0.6)


def _name(axes: Axes, named: list[tuple[np.ndarray, np.ndarray, str, str]]) -> None:
    """Names beside points: on the side that the second entry points to, or the next one that is free."""
    points = 370 / np.ptp(axes.get_xlim())  # a unit of the picture in points, about
    places = np.array([place for place, *_ in named]) * points
    taken = [(*place, 5.0, 5.0) for place in places]  # middle, half width, half height
    for place, (_, toward, name, colour) in zip(places, named, strict=True):
        width, first = 2.8 * len(name), np.arctan2(toward[1], toward[0])
        for turn in np.pi / 4 * np.array([0, 1, -1, 2, -2, 3, -3, 4]):
            side = np.array([np.cos(first + turn), np.sin(first + turn)])
            x, y = place + side * (7 + width, 12)
            if all(abs(x - u) > width + w or abs(y - v) > 6 + h for u, v, w, h in taken):
                break
        taken.append((x, y, width, 6.0))
        style = {
            "color": colour,
            "fontsize": 9,
            "ha": "center",
            "va": "center",
            "path_effects": [_HALO],
        }
        axes.annotate(
            name, place / points, xytext=(x, y) - place, textcoords="offset points", **style
        )


def _images(x: np.ndarray) -> np.ndarray:
    """Examples as pictures from 0 to 1, ``[n, H, W]`` or ``[n, H, W, 3]``, in the same shades."""
    side = round(x[0].size ** 0.5)
    if x.ndim == 2 and side * side == x.shape[1]:
        x = x.reshape(-1, side, side)
    if x.ndim == 4 and x.shape[1] in (1, 3):
        x = x[:, 0] if x.shape[1] == 1 else x.transpose(0, 2, 3, 1)
    elif x.ndim != 3:
        raise ValueError(
            f"examples of shape {list(x.shape[1:])} are no pictures: those are [H, W], [1 or 3, H, W] or a square"
        )
    low, high = np.percentile(x, [0.1, 99.9])  # a few wild numbers do not dim the rest
    return np.clip((x - low) / max(high - low, 1e-12), 0, 1)


def _over_seeds(group: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Mean, lowest and highest over seeds, a row a round, placed at the seeds' mean x."""
    by_round = group.groupby("round")
    spread = {
        "mean": by_round[y].mean(),
        "min": by_round[y].min(),
        "max": by_round[y].max(),
    }  # agg takes five times as long
    return pd.DataFrame(spread).set_index(by_round[x].mean().rename("x"))


def _looks(names: list) -> list[tuple]:
    """Colour and line of each: known methods have theirs; numbers go from dark to light; the rest take what is left."""
    if len(names) > 1 and all(isinstance(name, int | float | np.number) for name in names):
        return [
            (tuple(shade), "-") for shade in colormaps["viridis"](np.linspace(0, 0.85, len(names)))
        ]
    known = {name: (COLOURS[name], LINES.get(name, "-")) for name in names if name in COLOURS}
    if len(names) == 1:
        return [known.get(names[0], (COLOURS["federated"], "-"))]
    free = [(colour, line) for line, colour in product(("-", "--", ":", "-."), _OTHERS)]
    free = cycle([look for look in free if look not in known.values()])
    return [known.get(name) or next(free) for name in names]


def _span(values: np.ndarray | pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low} to {high}" if low < high else str(low)


def _shades(classes: int) -> np.ndarray:
    """A colour a class."""
    return (
        colormaps["viridis"](np.linspace(0, 1, classes))
        if classes > len(_CLASSES)
        else np.array(_CLASSES)
    )


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names at the right ends of the lines, moved apart where they would touch."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ends = sorted(end for end in ends if end[2])
    together = np.cumsum(
        np.diff([x for x, *_ in ends], prepend=-np.inf) > 0.15 * (right - left)
    )  # lines may end elsewhere
    for group in np.unique(together):
        column = sorted(
            (end for end, one in zip(ends, together, strict=True) if one == group),
            key=lambda end: end[1],
        )
        places = _apart(np.array([y for _, y, *_ in column]), 0.065 * (high - low), low, high)
        for (x, _, name, colour), place in zip(column, places, strict=True):
            style = {"va": "center", "color": colour, "clip_on": False, "path_effects": [_HALO]}
            axes.annotate(name, (x, place), xytext=(6, 0), textcoords="offset points", **style)


def _apart(y: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Ascending heights moved as little as it takes, by squares, to be ``gap`` apart and stay within the limits."""
    n = len(y)
    gap = min(gap, (high - low) / max(n - 1, 1))
    z = y - gap * np.arange(
        n
    )  # these only have to ascend: isotonic regression, by its min-max formula
    z = [max(min(z[j : k + 1].mean() for k in range(i, n)) for j in range(i + 1)) for i in range(n)]
    return np.clip(z, low, high - gap * (n - 1)) + gap * np.arange(n)


def _tell(lines: Mapping[str, pd.DataFrame], x: str, y: str, seeds: int) -> str:
    """The picture in words."""
    told = []
    for name, by_x in lines.items():
        last = by_x.iloc[-1]
        told.append(
            f"{name or y} ends at {last['mean']:.3f} ({last['min']:.3f} to {last['max']:.3f})"
        )
    return f"{y} against {x}, {seeds} seed{'s' * (seeds > 1)}: " + "; ".join(told)
