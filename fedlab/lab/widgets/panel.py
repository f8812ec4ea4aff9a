"""Controls around a live picture: move one, and the training really runs again.

Training runs in a worker thread and never in a widget's callback: a callback only notes the new setting, which makes the
run under way stale.  The newest setting wins.  Pictures are drawn without pyplot and shown as PNG.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from statistics import fmean
from typing import Any, NamedTuple

import ipywidgets as widgets
import torch
from IPython.display import DisplayHandle, display

from fedlab.engine import Run
from fedlab.lab.course.parameters import check_value
from fedlab.lab.plots import DRAWING, Picture
from fedlab.lab.report.validate import PANEL, WIDGET
from fedlab.lab.widgets import export
from fedlab.lab.widgets.controls import (
    RED,
    WIDE,
    Row,
    button,
    format_value,
    serve_at_once,
    with_waiting,
    words_of,
)
from fedlab.lab.widgets.predict import Prediction, PredictionControls

PATIENCE = 3  # seconds that the cells after a panel leave the processor to its first run

FEW = 7  # controls stand one below the other, and the status line tells them all; more, in columns, and those changed

GHOSTS = 5  # earlier runs that stay in the picture

LEFT = "This is the panel as it stood last. To move its controls again, run the notebook: Run, Run All Cells."

# The picture that is left stands aside where the panel is, and takes the place of JupyterLab's error where it is not.
# The bars of tqdm leave such errors, too, and have nothing to show.
_LEFT_STYLE = """
.jp-OutputArea:has(.fedlab-panel) .jp-OutputArea-child:has(.fedlab-left),
.jp-OutputArea-output.jupyter-widgets:not(:has(*)) { display: none }
"""

CALLED = {  # controls by what the package calls them in its errors
    "cohort_size": ("cohort", "clients_per_round"),
    "rate": ("cohort", "clients_per_round"),
    "per_client": ("pieces",),
    "k": ("pieces",),
}


class Scene(NamedTuple):
    """What a picture is drawn from: the newest frame, the last frames of earlier runs by their settings, and the curve that
    the reader expected, by its points.
    """

    frame: Any
    earlier: Mapping[str, Any] = {}
    expected: Mapping[float, float] = {}


class FinishedRun(NamedTuple):
    """A run that came to its end: its last frame, and what was told of each."""

    frame: Any
    told: list[dict[str, Any]]


class Panel:
    """Controls, a picture that grows while training runs, and a line that says how it stands.

    ``train(**settings)`` yields frames, ``draw(shown, **settings)`` makes a ``Picture`` of a ``Scene``, and ``tell(frame)``
    gives a few numbers by name.  Frames are kept for as long as the panel is: let them be small, and let a later one not
    change an earlier one's numbers.  ``other`` is the setting that a page without a reader shows beside the default.

    A control is a ``slider`` or a ``choice``; or a plain value, and then the parameter of that name in the notebook called
    ``lesson`` says what it may be.  With a ``lesson`` any setting can be made a report.  ``guess`` lets the reader say first
    what to expect.  ``hold`` names a button that a run waits for; ``code(**settings)`` is what is copied, if not the call.

    In a notebook the last line of a cell shows it.  Where nobody can move anything (papermill, a script) showing it waits
    for both runs, shows their pictures, and raises what the training raised.
    """

    def __init__(
        self,
        train: Callable[..., Iterable],
        draw: Callable[..., Picture],
        tell: Callable[[Any], Mapping[str, Any]],
        *,
        other: Mapping[str, Any],
        lesson: str = "",
        predict: Prediction | None = None,
        hold: str = "",
        code: Callable[..., str] | None = None,
        **controls: Any,
    ):
        declared = export.declare_controls(lesson, controls)
        unknown = set(other) - set(declared)
        if unknown or not other:
            raise ValueError(
                f"other={dict(other)}: set at least one of {', '.join(declared)}, and nothing else"
            )
        other = {name: check_value(declared[name], value, "other") for name, value in other.items()}
        if all(value == declared[name].default for name, value in other.items()):
            raise ValueError(
                f"other={dict(other)}: the panel stands there already; give a setting to compare with"
            )
        self._train, self._draw, self._tell, self._other, self.lesson = (
            train,
            draw,
            tell,
            other,
            lesson,
        )
        self._hold, self._code = hold, code
        self._rows = {name: Row(parameter, self._moved) for name, parameter in declared.items()}
        self._prediction = (
            PredictionControls(predict, self.redraw, self._press, self._turned) if predict else None
        )
        self._make_widgets()
        # One thread: the cells have as many as there are cores, and where there are more in all than cores, OpenMP puts its
        # threads to sleep between operations; training then takes three times as long.  Sums are split otherwise than in a
        # cell, so the panel's numbers agree with a cell's to rounding, not to the bit.  To ask for the count fixes it for
        # this thread: else PyTorch would give it the worker's.
        torch.get_num_threads()
        self._worker = ThreadPoolExecutor(
            1, "panel", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._lock = threading.RLock()
        self._generation = 0
        self._running: Future | None = None
        self._seen: dict[tuple, FinishedRun] = {}  # by setting
        self._earlier: list[tuple] = []  # settings whose runs stay in the picture, the newest last
        self._shown: tuple[dict[str, Any], Any] | None = (
            None  # the setting and the frame that the picture shows
        )
        self._picture: Picture | None = None
        self._last: DisplayHandle | None = None  # what a saved notebook shows

    def _make_widgets(self) -> None:
        self._image, self._status, self._errors, self._numbers = (widgets.HTML() for _ in range(4))
        self._stop = button(
            "Stop", "stop this run, what it drew stays; then run it again", self._stop_or_run
        )
        self._stop.disabled = True
        self._clear = button(
            "Clear earlier runs",
            "take the pale curves of earlier runs out of the picture",
            self.clear,
        )
        self._table = widgets.ToggleButton(
            description="Numbers", tooltip="the picture as a table", layout=WIDE
        )
        self._table.observe(lambda _: self._show_numbers(), "value")
        self._export = export.ExportButtons(self)
        go = [button(self._hold, "run at this setting", self._press)] if self._hold else []
        buttons = [
            *go,
            self._stop,
            self._clear,
            *([self._prediction.toggle] if self._prediction else []),
        ]
        bar = widgets.HBox(
            [*buttons, self._table, *self._export.buttons], layout={"flex_flow": "row wrap"}
        )
        guess = [self._prediction.widget] if self._prediction else []
        rows = [row.widget for row in self._rows.values()]
        if len(rows) > FEW:
            for row in self._rows.values():
                row.narrow()
            rows = [widgets.HBox(rows, layout={"flex_flow": "row wrap"})]
        picture = widgets.HBox([self._image, self._numbers], layout={"flex_flow": "row wrap"})
        below = [self._status, picture, self._export.widget, self._errors]
        self.widget = with_waiting([*rows, *guess, bar, *below])

    # -- what a reader does

    @property
    def settings(self) -> dict[str, Any]:
        """The controls' values now."""
        return {name: row.value for name, row in self._rows.items()}

    @property
    def status(self) -> str:
        """The line under the controls, as text."""
        return words_of(self._status)

    @property
    def picture(self) -> Picture | None:
        """What is shown."""
        return self._picture

    @property
    def refused(self) -> str:
        """The complaint about the first field that holds no value; nothing where all do."""
        fields = next((row.complaint for row in self._rows.values() if not row.is_read), "")
        return fields or (self._prediction.refused if self._prediction else "")

    @property
    def command(self) -> str:
        """What makes the report of this setting; nothing where there is no lesson."""
        return export.report_command(self.lesson, self.settings)

    @property
    def call(self) -> str:
        """What runs this setting again; in a cell of the same notebook, where the panel has no code of its own."""
        if self._code:
            return self._code(**self.settings)
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        name = getattr(self._train, "__name__", "")
        return f"*_, last = {name if name.isidentifier() else 'train'}({given})"

    def move(self, **settings: Any) -> None:
        """Move controls as a reader would."""
        for name, value in settings.items():
            self._rows[name].move(value)

    def restart(self) -> None:
        """Run at the present setting; a run under way becomes stale and ends at its next frame."""
        with self._lock:
            self._generation += 1
            self._running = self._worker.submit(self._run, self._generation, self.settings)
            self._set(self._generation, f"running  {self._named(self.settings)}", errors="")

    def stop(self) -> None:
        """End the run under way at its next frame; its last picture stays."""
        with self._lock:
            if self.status.startswith("running"):
                self._generation += 1
                self._set(self._generation, "stopped" + self.status.removeprefix("running"))
                self._leave()

    def _press(self) -> None:
        """Run at the present setting, or say which field holds none."""
        if refused := self.refused:
            self.stop()
            self._set(self._generation, f"not run  {refused}")
        else:
            self.restart()

    def _stop_or_run(self) -> None:
        if self.status.startswith("running"):
            self.stop()
        else:
            self._press()

    def clear(self) -> None:
        """Take earlier runs out of the picture; a setting seen before still appears at once."""
        self._earlier = []
        self.redraw()

    def wait(self) -> None:
        """Until the newest run has ended; raises what it raised."""
        running = None
        while running is not self._running:
            running = self._running
            wait([running])
        if running:
            running.result()

    def _moved(self) -> None:
        guessing = self._prediction and self._prediction.asked
        if (guessing or self._hold) and _key(self.settings) not in self._seen:
            self.stop()
            asked = "what do you expect? Then press Train." if guessing else f"press {self._hold}"
            self._set(self._generation, f"waiting  {self._named(self.settings)}  {asked}")
        else:
            self.restart()

    def _turned(self) -> None:
        """The reader begins to guess, or has had enough of it: then what was waited for is trained."""
        if self.status.startswith("waiting") and not self._prediction.asked:
            self.restart()
        else:
            self.redraw()

    def _named(self, settings: Mapping[str, Any]) -> str:
        """The settings in words: all, or where there are many those that are not as they were at first."""
        rows = self._rows
        told = {
            name: value
            for name, value in settings.items()
            if len(rows) <= FEW or value != rows[name].parameter.default
        }
        return _words(told) or "as at first"

    # -- what the worker does

    def _run(self, generation: int, settings: dict[str, Any]) -> None:
        said, key = self._named(settings), _key(settings)
        if generation != self._generation:
            return
        seen = self._seen.get(key)
        try:
            seen, ended = (seen, "seen before") if seen else self._watch(generation, settings, said)
            if seen is None or generation != self._generation:
                return
            self._show(seen.frame, settings)
            self._seen[key] = seen
            self._earlier = [*(one for one in self._earlier if one != key), key]
            self._set(
                generation, f"done  {said}  {_words(seen.told[-1])}  ({ended})", told=seen.told
            )
            self._leave()
        except Exception as error:
            self._fail(generation, said, error)
            raise

    def _watch(
        self, generation: int, settings: dict[str, Any], said: str
    ) -> tuple[FinishedRun | None, str]:
        """Train, and draw what there is of it so far; nothing where the run became stale."""
        began = next_drawing = time.perf_counter()
        frame, told = None, []
        for frame in self._train(**settings):
            if generation != self._generation:
                return None, ""
            told.append(dict(self._tell(frame)))
            if (
                time.perf_counter() >= next_drawing
            ):  # a sixth of the time goes into pictures, at most
                drawing = self._show(frame, settings, growing=len(told) > 1)
                self._set(generation, f"running  {said}  {_words(told[-1])}")
                next_drawing = time.perf_counter() + 5 * drawing
        if not told:
            raise ValueError(f"{said}: the training gave nothing to draw")
        return FinishedRun(frame, told), f"{time.perf_counter() - began:.1f} s"

    def _set(
        self, generation: int, text: str, errors: str | None = None, told: list | None = None
    ) -> bool:
        """Say how the run stands, unless it has become stale."""
        with self._lock:
            current = generation == self._generation
            if current:
                stopped = text.startswith("stopped")
                self._stop.description = "Run again" if stopped else "Stop"
                self._stop.disabled = not stopped and not text.startswith("running")
                self._say(
                    text
                )  # after the button, so that whoever reads it finds the button as it says
                if errors is not None:
                    self._errors.value = errors
                    for row in self._rows.values():
                        row.forgive()
                if told and self._prediction:
                    self._prediction.compare(told)
            return current

    def _fail(self, generation: int, said: str, error: Exception) -> None:
        """A setting that cannot run is said beside its control; all else comes with its traceback."""
        row = self._blamed(str(error)) if isinstance(error, ValueError) else None
        trace = "" if row else _trace()
        if (
            self._set(generation, f"failed  {said}  {type(error).__name__}: {error}", errors=trace)
            and row
        ):
            row.complain(str(error))

    def _blamed(self, words: str) -> Row | None:
        """The control that an error speaks of, if that is plain: it begins with it, or has ``name=value``, ``...=value``,
        or its name.
        """
        begins = re.match(r"(\w+)=", words)
        first = begins[1] if begins else ""
        tokens, given = re.findall(r"[\w.]+", words), re.findall(r"=([\w.]+)", words)
        rows = {row: (name, format_value(row.value)) for name, row in self._rows.items()}
        for meant in (
            [row for row, (name, _) in rows.items() if name == first],
            [row for row, (name, _) in rows.items() if name in CALLED.get(first, ())],
            [row for row, (name, value) in rows.items() if f"{name}={value}" in words],
            [row for row, (_, value) in rows.items() if value in given],
            [row for row, (name, _) in rows.items() if name in tokens],
        ):
            if len(meant) == 1:
                return meant[0]
        return None

    def _show(self, frame: Any, settings: dict[str, Any], growing: bool = False) -> float:
        """Draw and send; gives the seconds it took.  A growing picture keeps its layout, which takes half of them."""
        began = time.perf_counter()
        expected = self._prediction.expected if self._prediction else {}
        with DRAWING:
            before, picture = (
                self._picture,
                self._draw(Scene(frame, self._ghosts(settings), expected), **settings),
            )
            if growing and len(before.axes) == len(picture.axes):
                picture.set_layout_engine("none")
                for axes, other in zip(picture.axes, before.axes, strict=True):
                    axes.set_position(other.get_position())
            self._image.value = _img(picture)
            self._shown, self._picture = (settings, frame), picture
        self._show_numbers()
        return time.perf_counter() - began

    def _ghosts(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Earlier runs, each named by what was set otherwise."""
        others = [key for key in self._earlier if key != _key(settings)][-GHOSTS:]
        apart = [{name: value for name, value in key if settings[name] != value} for key in others]
        return {
            _words(one, ", "): self._seen[key].frame for one, key in zip(apart, others, strict=True)
        }

    def redraw(self) -> None:
        """The same frame in another company."""
        if self._shown:
            self._worker.submit(self._redraw)

    def _redraw(self) -> None:
        try:
            self._show(*reversed(self._shown))
            self._leave()
        except Exception:
            self._errors.value = _trace()

    def _show_numbers(self) -> None:
        self._numbers.value = (
            _html_table(self._picture) if self._table.value and self._picture else ""
        )

    def _say(self, text: str) -> None:
        self._status.value = f'<span role="status" class="fedlab-status" style="white-space: pre-wrap">{html.escape(text)}</span>'

    # -- on the page

    def _ipython_display_(self):
        view = {
            WIDGET: {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id},
            "text/plain": "a panel: open the notebook in JupyterLab to move its controls",
        }
        if _nobody_there():
            display(view | self._still(), raw=True)
            return
        serve_at_once(self.widget)
        display(view, raw=True)
        self._last = display(self._left(), raw=True, display_id=True)
        self.restart()
        try:
            wait([self._running], PATIENCE)
        except KeyboardInterrupt:
            self.stop()
            raise

    def _left(self) -> dict[str, Any]:
        """Return what a saved notebook shows in place of the panel: the last picture, and how to move it again."""
        picture = (
            f"{self._image.value}<p><code>{html.escape(self.status)}</code></p>"
            if self._picture
            else ""
        )
        page = f'<div class="fedlab-left">{picture}<p>{LEFT}</p></div><style>{_LEFT_STYLE}</style>'
        return {"text/html": page, "text/plain": LEFT}

    def _leave(self) -> None:
        if self._last:
            self._last.update(self._left(), raw=True)

    def _still(self) -> dict[str, Any]:
        """Both states as pictures, each reached through the controls, for a page that nobody can move."""
        here = self.settings
        other, default = states = [self._visit(self._other), self._visit(here)]
        caption = _words(self._other, ", ")
        page = f"{_still(default)}<p>The same panel, moved to {html.escape(caption)}:</p>{_still(other)}"
        record = [{key: state[key] for key in ("settings", "status", "image")} for state in states]
        return {
            "text/html": page,
            "text/plain": "\n".join(state["status"] for state in states),
            "image/png": default["picture"].png(),
            PANEL: {"states": record},
        }

    def _visit(self, settings: dict[str, Any]) -> dict[str, Any]:
        self._earlier = []  # this picture is by itself
        self.move(**settings)
        if self._hold:
            self.restart()
        self.wait()
        image = hashlib.sha256(self._picture.png()).hexdigest()
        return {
            "settings": self.settings,
            "status": self.status,
            "image": image,
            "picture": self._picture,
        }


def rounds_of(stream: Iterable[list[Run]]) -> Iterator[list[dict[str, Any]]]:
    """What ``run.stream`` yields as frames that ``plots.curves`` draws: the rounds until then, of all runs."""
    for runs in stream:
        yield [row for run in runs for row in run.rounds]


def latest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For ``tell``: the last round of such a frame, and the accuracy then, over all seeds."""
    t = rows[-1]["round"]
    return {"round": t, "accuracy": fmean(row["accuracy"] for row in rows if row["round"] == t)}


def _nobody_there() -> bool:
    """Whether no front end will answer: a report is being made, or neither JupyterLab nor voila started the kernel."""
    served = "JPY_SESSION_NAME" in os.environ or os.environ.get("SERVER_SOFTWARE", "").startswith(
        "voila"
    )
    return "FEDLAB_HEADLESS" in os.environ or not served


def _trace() -> str:
    """The traceback of the error at hand, to be shown."""
    return f'<pre role="alert" style="{RED}">{html.escape(traceback.format_exc())}</pre>'


def _key(settings: Mapping[str, Any]) -> tuple:
    return tuple(settings.items())


def _words(values: Mapping[str, Any], between: str = "  ") -> str:
    return between.join(f"{name}={_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _img(picture: Picture, dpi: int = 120) -> str:
    """The picture with its words; decoded at once, so that one replaces the other without a flicker."""
    data, alt = base64.b64encode(picture.png(dpi)).decode(), html.escape(picture.alt)
    width, height = (round(90 * inches) for inches in picture.get_size_inches())
    style = f"width: {width}px; max-width: 100%; height: auto; aspect-ratio: {width} / {height}; background: white"
    return f'<img alt="{alt}" style="{style}" decoding="sync" src="data:image/png;base64,{data}">'


def _still(state: Mapping[str, Any]) -> str:
    picture = state["picture"]
    numbers = f"<details><summary>numbers</summary>{_html_table(picture)}</details>"
    return f"<p><code>{html.escape(state['status'])}</code></p>{_img(picture, 144)}{numbers}"


def _html_table(picture: Picture, rows: int = 12) -> str:
    """What the picture shows, in numbers: about ``rows`` of them, from the first to the last."""
    table = picture.table
    if table is None:
        return f"<p>{html.escape(picture.alt)}</p>"
    chosen = (
        sorted({round(k * (len(table) - 1) / (rows - 1)) for k in range(rows)})
        if len(table) > rows
        else slice(None)
    )
    style = ".fedlab-numbers :is(td, th) { padding: 0 .5em; line-height: 1.6; text-align: right; height: auto }"
    numbers = {
        "index": False,
        "border": 0,
        "classes": "fedlab-numbers",
        "float_format": lambda x: f"{x:.4g}",
    }
    return f"<style>{style}</style>{table.iloc[chosen].to_html(**numbers)}"
