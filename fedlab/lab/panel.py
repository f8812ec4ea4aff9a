"""Sliders around a live picture: move one, and the training really runs again.

Training runs in a worker thread and never in a widget's callback: a callback only notes the new setting, which makes the
run under way stale.  The newest setting wins.  Pictures are drawn without pyplot and shown as PNG.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import ipywidgets as widgets
import torch
from IPython.display import display

from fedlab.lab.judge import PANEL, WIDGET
from fedlab.lab.plots import Picture

PATIENCE = 3  # seconds that the cells after a panel leave the processor to its first run
_DRAWING = threading.Lock()  # Matplotlib's fonts and text layout are shared between threads


class Control(NamedTuple):
    """What the reader may change: a number within limits, or one of several options."""

    value: Any
    low: float | None = None
    high: float | None = None
    log: bool = False
    options: tuple = ()
    help: str = ""


def slider(value: float, low: float, high: float, *, log: bool = False, help: str = "") -> Control:
    """A slider from ``low`` to ``high`` with a number field beside it; whole numbers if all three are."""
    if not low <= value <= high:
        raise ValueError(f"value={value} lies outside its limits {low} to {high}")
    if log and low <= 0:
        raise ValueError(f"low={low}: a logarithmic slider starts above 0")
    return Control(value, low, high, log, help=help)


def choice(value: Any, options: Iterable, *, help: str = "") -> Control:
    """A list to choose from."""
    options = tuple(options)
    if value not in options:
        raise ValueError(f"value={value!r} is none of {options}")
    return Control(value, options=options, help=help)


class Panel:
    """Controls, a picture that grows while training runs, and a line that says how it stands.

    ``train(**settings)`` yields frames, ``draw(frame, **settings)`` makes a ``Picture`` of one and ``tell(frame)`` a few
    words; ``other`` is the setting that a page without a reader shows beside the default, reached through the controls.

    In a notebook the last line of a cell shows it.  Where nobody can move anything (papermill, a script) showing it waits
    for both runs, shows their pictures, and raises what the training raised.
    """

    def __init__(
        self,
        train: Callable[..., Iterable],
        draw: Callable[..., Picture],
        tell: Callable[[Any], str],
        other: Mapping[str, Any],
        **controls: Control,
    ):
        unknown = set(other) - set(controls)
        if unknown or not other:
            raise ValueError(f"other={dict(other)}: set at least one of {', '.join(controls)}, and nothing else")
        if all(value == controls[name].value for name, value in other.items()):
            raise ValueError(f"other={dict(other)}: the panel stands there already; give a setting to compare with")
        self._train, self._draw, self._tell, self._other = train, draw, tell, dict(other)
        self._inputs = {name: _input(name, control) for name, control in controls.items()}
        self._image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", width="640px", min_height="300px"))
        self._status = widgets.HTML()
        self._errors = widgets.HTML()
        self._stop = widgets.Button(description="Stop", tooltip="stop this run; what it drew stays", disabled=True)
        self._stop.on_click(lambda _: self.stop())
        rows = [_row(name, self._inputs[name], control) for name, control in controls.items()]
        line = widgets.HBox([self._stop, self._status])
        self.widget = widgets.VBox([*rows, line, self._image, self._errors])
        # The page needs a core, too: on two cores a run is then twice as fast.  Sums are split otherwise than in a cell, so
        # the panel's numbers agree with a cell's to rounding, not to the bit.  To ask for the count also fixes it for this
        # thread: else PyTorch would give it the worker's.
        spare = max(1, torch.get_num_threads() - 1)
        self._worker = ThreadPoolExecutor(1, "panel", initializer=torch.set_num_threads, initargs=(spare,))
        self._lock = threading.Lock()
        self._generation = 0
        self._running: Future | None = None
        self._picture: Picture | None = None
        for widget in self._inputs.values():
            widget.observe(lambda _: self.restart(), "value")

    @property
    def settings(self) -> dict[str, Any]:
        """The controls' values now."""
        return {name: widget.value for name, widget in self._inputs.items()}

    @property
    def status(self) -> str:
        """The line under the controls, as text."""
        return html.unescape(self._status.value.split(">", 1)[-1].rsplit("<", 1)[0])

    def move(self, **settings: Any) -> None:
        """Move controls as a reader would."""
        for name, value in settings.items():
            self._inputs[name].value = value

    def restart(self) -> None:
        """Run at the present setting; a run under way becomes stale and ends at its next frame."""
        with self._lock:
            self._generation += 1
            self._running = self._worker.submit(self._run, self._generation, self.settings)

    def stop(self) -> None:
        """End the run under way at its next frame; its last picture stays."""
        with self._lock:
            self._generation += 1
            self._stop.disabled = True
            self._say("stopped" + self.status.removeprefix("running"))

    def wait(self) -> None:
        """Until the newest run has ended; raises what it raised."""
        running = None
        while running is not self._running:
            running = self._running
            running.result()

    def _run(self, generation: int, settings: dict[str, Any]) -> None:
        said = "  ".join(f"{name}={_short(value)}" for name, value in settings.items())
        began = next_drawing = time.perf_counter()
        frame = None
        if not self._now(generation, f"running  {said}", errors=""):
            return
        try:
            for frame in self._train(**settings):
                if generation != self._generation:
                    return
                if time.perf_counter() >= next_drawing:  # a quarter of the time goes into pictures, at most
                    drawing = self._show(frame, settings)
                    self._now(generation, f"running  {said}  {self._tell(frame)}")
                    next_drawing = time.perf_counter() + 3 * drawing
            self._show(frame, settings)
            self._now(generation, f"done  {said}  {self._tell(frame)}  ({time.perf_counter() - began:.1f} s)")
        except Exception as error:
            trace = f'<pre role="alert" style="color:#b00">{html.escape(traceback.format_exc())}</pre>'
            self._now(generation, f"failed  {said}  {type(error).__name__}: {error}", errors=trace)
            raise

    def _now(self, generation: int, text: str, errors: str | None = None) -> bool:
        """Say how the run stands, unless it has become stale."""
        with self._lock:
            current = generation == self._generation
            if current:
                self._say(text)
                self._stop.disabled = not text.startswith("running")
                self._errors.value = self._errors.value if errors is None else errors
            return current

    def _show(self, frame: Any, settings: dict[str, Any]) -> float:
        """Draw and send; gives the seconds it took."""
        began = time.perf_counter()
        with _DRAWING:
            self._picture = self._draw(frame, **settings)
            self._image.value = self._picture.png(dpi=120)
        return time.perf_counter() - began

    def _say(self, text: str) -> None:
        self._status.value = f'<span role="status">{html.escape(text)}</span>'

    def _ipython_display_(self):
        view = {
            WIDGET: {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.widget.model_id,
            },
            "text/plain": "a panel: open the notebook in JupyterLab to move its controls",
        }
        if _nobody_there():
            display(view | self._still(), raw=True)
        else:
            display(view, raw=True)
            self.restart()
            wait([self._running], PATIENCE)

    def _still(self) -> dict[str, Any]:
        """Both states as pictures, each reached through the controls, for a page that nobody can move."""
        here = self.settings
        other, default = states = [self._visit(self._other), self._visit(here)]
        caption = ", ".join(f"{name} = {_short(value)}" for name, value in self._other.items())
        page = f"{_img(default)}<p>The same panel, moved to {html.escape(caption)}:</p>{_img(other)}"
        record = [{key: state[key] for key in ("settings", "status", "image")} for state in states]
        return {
            "text/html": page,
            "text/plain": "\n".join(state["status"] for state in states),
            "image/png": default["png"],
            PANEL: {"states": record},
        }

    def _visit(self, settings: dict[str, Any]) -> dict[str, Any]:
        self.move(**settings)
        self.wait()
        png = self._picture.png()
        seen = {"settings": self.settings, "status": self.status, "image": hashlib.sha256(png).hexdigest()}
        return seen | {"png": png, "alt": self._picture.alt}


def _nobody_there() -> bool:
    """Whether no front end will answer: a report is being made, or the kernel was not started by a Jupyter server."""
    return "FEDLAB_HEADLESS" in os.environ or "JPY_SESSION_NAME" not in os.environ


def _input(name: str, control: Control) -> widgets.Widget:
    """The widget that holds a control's value; its description is its accessible name."""
    style = {"description_width": "9em"}
    if control.options:
        return widgets.Dropdown(options=control.options, value=control.value, description=name, style=style)
    whole = all(isinstance(number, int) for number in (control.value, control.low, control.high))
    field = widgets.BoundedIntText if whole else widgets.BoundedFloatText
    layout = widgets.Layout(width="16em")
    return field(control.value, min=control.low, max=control.high, description=name, style=style, layout=layout)


def _row(name: str, field: widgets.Widget, control: Control) -> widgets.HBox:
    """The field, a slider that follows it and leads it, and a word of help."""
    parts = [field]
    if not control.options:
        parts.append(_slider(field, control))
    return widgets.HBox([*parts, widgets.Label(control.help)])


def _slider(field: widgets.Widget, control: Control) -> widgets.Widget:
    common = {"readout": False, "continuous_update": False, "layout": widgets.Layout(width="18em")}
    if control.log:
        low, high = math.log10(control.low), math.log10(control.high)
        lead = widgets.FloatLogSlider(control.value, min=low, max=high, step=0.25, **common)
    elif isinstance(field, widgets.BoundedIntText):
        lead = widgets.IntSlider(control.value, min=control.low, max=control.high, **common)
    else:
        step = (control.high - control.low) / 100
        lead = widgets.FloatSlider(control.value, min=control.low, max=control.high, step=step, **common)
    widgets.link((lead, "value"), (field, "value"))
    return lead


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _img(state: dict[str, Any]) -> str:
    data, alt = base64.b64encode(state["png"]).decode(), html.escape(state["alt"])
    return (
        f'<p><code>{html.escape(state["status"])}</code></p><img alt="{alt}" width="640" src="data:image/png;base64,{data}">'
    )
