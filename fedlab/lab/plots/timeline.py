"""Time lines of clients in a simulation by the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fedlab.lab.plots.picture import Picture, Trace
from fedlab.lab.plots.style import caption, style_axes

PHASES = {"fetching": "#56B4E9", "computing": "#E69F00", "sending": "#0072B2"}

_OUTCOMES = {"late": "late", "lost": "lost", "flying": "under way"}


def gantt(
    clients: pd.DataFrame,
    ends: Sequence[float] = (),
    title: str = "",
    names: Sequence[str] | None = None,
) -> Picture:
    """Plot the phases of each client's work over time, one line per client.

    Work that was not used is pale, with its outcome beside it.

    Args:
        clients: Table ``clients`` of a simulation, or a part of it: one row per model sent out,
            with its times in seconds and its outcome.
        ends: Times of the server's steps in seconds, drawn as dotted lines.
        title: Line above the picture.
        names: Name of each client ``[N]``; default: its number.

    Returns:
        The picture; its table has the drawn rows.
    """
    clients = clients.sort_values(["began", "ended"], kind="stable")
    lines = {client: at for at, client in enumerate(dict.fromkeys(clients["client"]))}
    unit, unit_name = _time_unit(clients["ended"].max())
    table = clients[["client", "began", *PHASES, "ended", "outcome"]]
    picture = Picture(_describe(clients), (8.2, 1.4 + 0.18 * len(lines)), table)
    axes = style_axes(picture.subplots(), f"{unit_name} by the clock (modelled)", "")
    _draw_phases(axes, clients, lines, unit)
    _draw_waiting(axes, clients, lines, unit, ends)
    middles = (clients["began"] + clients["ended"]) / 2 / unit
    heights = [lines[client] for client in clients["client"]]
    texts = [_describe_work(row) for row in clients.itertuples()]
    picture.traces.append(Trace("", axes, [], middles, heights, texts))
    for row in clients[clients["outcome"] != "used"].itertuples():
        at = row.ended / unit, lines[row.client]
        axes.annotate(_OUTCOMES[row.outcome], at, (3, -3), textcoords="offset points", fontsize=7)
    for end in ends:
        axes.axvline(end / unit, color="black", linewidth=1, linestyle=":")
    labels = [str(client) if names is None else f"{names[client]}  {client}" for client in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=7)
    axes.set(ylim=(len(lines) - 0.4, -0.6), xlim=(0, None))
    axes.grid(axis="y", visible=False)
    marks = [
        Line2D([], [], color=colour, linewidth=6, label=name) for name, colour in PHASES.items()
    ]
    marks += [Line2D([], [], color="#BBBBBB", linewidth=2, label="waiting")]
    marks += [Line2D([], [], color="black", linestyle=":", linewidth=1, label="the server's step")]
    picture.legend(handles=marks, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    caption(axes, title)
    return picture


def _describe_work(row: NamedTuple) -> str:
    phases = "\n".join(f"{phase} {getattr(row, phase):.3g} s" for phase in PHASES)
    return f"client {row.client}: {row.outcome}\n{phases}"


def _time_unit(seconds: float) -> tuple[int, str]:
    """Return the unit in which so long a time line is read easily, in seconds, and its name."""
    if seconds > 7200:
        return 3600, "hours"
    return (60, "minutes") if seconds > 180 else (1, "seconds")


def _describe(clients: pd.DataFrame) -> str:
    total = {phase: clients[phase].sum() for phase in PHASES}
    seconds = max(sum(total.values()), 1e-12)
    shares = ", ".join(f"{100 * value / seconds:.0f} % {phase}" for phase, value in total.items())
    outcomes = ", ".join(f"{n} {name}" for name, n in clients["outcome"].value_counts().items())
    return f"{len(clients)} models sent: {outcomes}; of the clients' time {shares}"


def _draw_phases(axes: Axes, clients: pd.DataFrame, lines: Mapping[int, int], unit: int) -> None:
    """Draw each phase as a bar behind the phases before it; unused work is pale."""
    phases = list(PHASES)
    for k, phase in enumerate(phases):
        for useful in (True, False):
            rows = clients[clients["outcome"].eq("used") == useful]
            start = sum((rows[earlier] for earlier in phases[:k]), rows["began"])
            at = [lines[client] for client in rows["client"]]
            style = {"height": 0.7, "color": PHASES[phase], "alpha": 1 if useful else 0.3}
            axes.barh(at, rows[phase] / unit, left=start / unit, **style)


def _draw_waiting(
    axes: Axes,
    clients: pd.DataFrame,
    lines: Mapping[int, int],
    unit: int,
    ends: Sequence[float],
) -> None:
    """Draw a thin bar from each used update's arrival to the server's step that uses it."""
    steps = np.sort(np.asarray(ends, dtype=float))
    waits = clients[clients["outcome"].eq("used") & (clients["ended"] <= steps.max(initial=-1))]
    until = steps[np.searchsorted(steps + 1e-9, waits["ended"])]
    at = [lines[client] for client in waits["client"]]
    arrived = waits["ended"]
    axes.barh(at, (until - arrived) / unit, left=arrived / unit, height=0.2, color="#BBBBBB")
