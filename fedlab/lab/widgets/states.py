"""States of a panel on a page without a kernel, each reached through the panel's controls."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fedlab.lab.course.parameters import format_value
from fedlab.lab.plots.figure import figure_html
from fedlab.lab.report.live import (
    VARIABLE,
    Allowance,
    drop_unused_values,
    pack,
    packed_size,
    read_allowance,
)
from fedlab.lab.widgets.grid import Grid, choose_grid
from fedlab.lab.widgets.pictures import numbers_html

if TYPE_CHECKING:
    from fedlab.lab.widgets.panel import Panel

State = dict[str, Any]

PROBE = 0.25  # part of a panel's time in which the dearest state must end


class Clock:
    """Time that is left of some seconds."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 when they are over."""
        return self._end - time.monotonic()


def visit(panel: Panel, settings: Mapping[str, Any]) -> State:
    """Move a panel to a setting, and return its state when the run has ended.

    The state of a run that was stopped has no picture.

    Args:
        panel: The panel. Its earlier runs are not in the picture.
        settings: Values of the controls that move.
    """
    began = time.perf_counter()
    panel.forget_earlier_runs()
    panel.move(**settings)
    if panel.waits_for_button:
        panel.restart()
    panel.wait()
    if not panel.status.startswith("done"):
        return {"settings": panel.settings, "status": panel.status}
    picture = panel.picture
    return {
        "settings": panel.settings,
        "status": panel.status,
        "figure": figure_html(picture),
        "numbers": numbers_html(picture),
        "idle": panel.idle,
        "picture": picture,
        "seconds": round(time.perf_counter() - began, 3),
    }


def live_states(panel: Panel, second: State, default: State) -> dict[str, Any] | None:
    """Compute the states among which a reader without Python moves; None in a plain report.

    A state that fails keeps its error, and the panel goes on. A run is stopped when the time is
    used up.

    Args:
        panel: The panel at its default setting.
        second: The state of the comparison.
        default: The state of the default setting.
    """
    allowance = read_allowance()
    if not allowance:
        return None
    began = time.perf_counter()
    seconds, room = allowance.share
    compare_with = {
        name: value
        for name, value in second["settings"].items()
        if value != default["settings"][name]
    }
    # The default is drawn again at the end, and a run that is stopped ends at its next frame.
    clock = Clock(seconds - 2 * default["seconds"])
    stored: set[str] = set()  # pictures and numbers: equal ones are stored once
    room -= _size(second, stored) + _size(default, stored)
    dearest = None if panel.states else _dearest(panel, default["settings"], clock)
    costs = [second["seconds"], default["seconds"], time.perf_counter() - began]
    largest = max(_size(second, set()), _size(default, set()))
    affordable = int(min(0.8 * clock.left / max(1e-3, fmean(costs)), room / largest))
    grid = choose_grid(panel.parameters, compare_with, max(0, affordable), panel.states)
    start, *_ = grid.points
    states = [_entry(start, default), _entry(grid.points[1], second)]
    computed = [dearest] if dearest else []
    for point, state in _compute(panel, grid, default["settings"], computed, clock):
        room -= _size(state, stored)
        if room < 0:
            break
        states.append(_entry(point, state))
    with contextlib.suppress(Exception):  # cells that follow find the panel as it was
        visit(panel, default["settings"])
    live = _describe(grid, default["settings"], states)
    live["seconds"] = round(time.perf_counter() - began, 1)
    _leave(allowance, live)
    return live


def _dearest(panel: Panel, default: Mapping[str, Any], clock: Clock) -> State | None:
    """Return the state at the upper limits of the first two controls, which often costs most.

    Its cost decides how fine the grid is: a cohort of 100 trains ten times as long as one of 10.
    None is returned if it takes too large a part of the time.
    """
    first = list(panel.parameters.items())[:2]
    upper = {name: parameter.limits[1] for name, parameter in first if parameter.limits}
    return _visit_in_time(panel, {**default, **upper}, PROBE * clock.left)


def _compute(
    panel: Panel,
    grid: Grid,
    default: Mapping[str, Any],
    computed: list[State],
    clock: Clock,
) -> Iterator[tuple[tuple[int, ...], State]]:
    """Yield the states beside the default and the comparison, each with its point, in time."""
    for point in grid.points[2:]:
        settings = {**default, **grid.settings(point)}
        state = next((state for state in computed if state["settings"] == settings), None)
        if state is None:
            state = _visit_in_time(panel, settings, clock.left)
        if state is None:
            return
        yield point, state


def _visit_in_time(panel: Panel, settings: Mapping[str, Any], seconds: float) -> State | None:
    """Return the state, with its error if it failed; None if it did not end in time."""
    if seconds <= 0:
        return None
    ended = threading.Event()
    watch = threading.Thread(target=_stop_when_over, args=(panel, seconds, ended), daemon=True)
    watch.start()
    try:
        state = visit(panel, settings)
    except Exception as error:  # a state that fails is a line on the page
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return {
            "settings": dict(settings),
            "status": panel.status,
            "error": words,
            "idle": panel.idle,
        }
    finally:
        ended.set()
        watch.join()
    return state if state["status"].startswith("done") else None


def _stop_when_over(panel: Panel, seconds: float, ended: threading.Event) -> None:
    """Stop the panel's run after some seconds, again and again: it may not have begun by then."""
    while not ended.wait(seconds):
        panel.stop()
        seconds = 0.05


def _entry(point: tuple[int, ...], state: State) -> State:
    """Return the parts of a state that the page shows."""
    names = ("status", "error", "figure", "numbers", "idle")
    return {"at": list(point)} | {name: state[name] for name in names if name in state}


def _size(state: State, stored: set[str]) -> int:
    """Return the bytes that a state adds to those that are stored, and note its parts there."""
    parts = {state["status"], state.get("figure", ""), state.get("numbers", "")} - stored
    stored |= parts
    return packed_size(*parts)


def _describe(grid: Grid, default: Mapping[str, Any], states: list[State]) -> dict[str, Any]:
    """Return controls, counts and packed states, as the output holds them."""
    axes = [
        {"name": name, "values": values, "words": [format_value(value) for value in values]}
        for name, values in grid.axes.items()
    ]
    axes, states, unmoved = drop_unused_values(axes, states)
    fixed = {name: value for name, value in default.items() if name not in grid.axes} | unmoved
    packed = pack(states)
    return {
        "axes": axes,
        "fixed": fixed,
        "packed": packed,
        "states": len(states),
        "failed": sum("error" in state for state in states),
        "left_out": len(grid.points) - len(states),
        "size": len(packed),
    }


def _leave(allowance: Allowance, live: Mapping[str, Any]) -> None:
    """Leave to the panels that follow what this one did not use."""
    os.environ[VARIABLE] = str(allowance.after(live["seconds"], live["size"]))
