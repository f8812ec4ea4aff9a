"""Training in a worker thread, drawn while it runs: the newest setting wins.

A callback of a widget never trains. It only starts a run at the new setting, which makes the run
under way stale. A stale run ends at its next frame.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import torch

from fedlab.lab.plots import DRAWING, Picture
from fedlab.lab.widgets.blame import find_control
from fedlab.lab.widgets.compare import find_gaps, gaps_in_words
from fedlab.lab.widgets.page import Page
from fedlab.lab.widgets.pictures import traceback_html
from fedlab.lab.widgets.predict import PredictionControls
from fedlab.lab.widgets.scene import Scene, readout_in_words, settings_in_words

GHOSTS = 5  # earlier runs that stay in the picture

PINNED = "A: "  # begins the name of the pinned run

Settings = dict[str, Any]


class PanelFunctions(NamedTuple):
    """The functions of a panel.

    Attributes:
        train: ``train(**settings)`` yields frames.
        draw: ``draw(scene, **settings)`` makes a ``Picture`` of a ``Scene``.
        tell: ``tell(frame)`` returns a few numbers by name.
    """

    train: Callable[..., Iterable]
    draw: Callable[..., Picture]
    tell: Callable[[Any], Mapping[str, Any]]


class FinishedRun(NamedTuple):
    """A run that came to its end.

    Attributes:
        frame: Its last frame.
        readouts: The numbers that ``tell`` gave of each frame.
    """

    frame: Any
    readouts: list[dict[str, Any]]


class Runner:
    """Runs of a panel, one after another, in a thread of their own.

    Args:
        functions: Train, draw and tell.
        page: The widgets that show pictures, status and errors.
        prediction: The controls of a prediction, if the panel has one.
        settled: Called when the picture is done, stopped or drawn again.

    Attributes:
        shown: The settings and the frame of the picture, if there is one.
        finished: Finished runs by their settings, without controls that do nothing.
        running: The newest run, if any.
        pinned: The key of the run that others are compared with, if any.
    """

    def __init__(
        self,
        functions: PanelFunctions,
        page: Page,
        prediction: PredictionControls | None,
        settled: Callable[[], None],
    ):
        self.functions, self._page = functions, page
        self._prediction, self._settled = prediction, settled
        # One thread: cells have as many threads as there are cores. With more threads than cores,
        # OpenMP puts threads to sleep between operations, and training takes three times as long.
        # Sums are split otherwise than in a cell, so the numbers of a panel agree with those of a
        # cell to rounding, not to the bit. Asking for the number fixes it for this thread: else
        # PyTorch would give it the worker's.
        torch.get_num_threads()
        self.worker = ThreadPoolExecutor(
            1, "panel", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._lock = threading.RLock()
        self._generation = 0
        self.running: Future | None = None
        self.finished: dict[tuple, FinishedRun] = {}
        self._earlier: list[tuple] = []  # settings whose runs stay in the picture, newest last
        self.shown: tuple[Settings, Any] | None = None
        self.pinned: tuple | None = None

    def start(self, settings: Settings) -> None:
        """Run at a setting; a run under way becomes stale and ends at its next frame."""
        with self._lock:
            self._generation += 1
            self.running = self.worker.submit(self._run, self._generation, settings)
            self._report(self._generation, f"running  {self._page.describe(settings)}", "", gap="")

    def stop(self) -> None:
        """End the run under way at its next frame; its last picture stays."""
        with self._lock:
            if self._page.status.startswith("running"):
                self._generation += 1
                self.say("stopped" + self._page.status.removeprefix("running"))
                self._settled()

    def say(self, text: str) -> None:
        """Write the status line."""
        self._report(self._generation, text)

    def clear(self) -> None:
        """Take earlier runs out of the picture; ``redraw`` then shows it without them."""
        self._earlier = []

    def pin(self) -> None:
        """Keep the run that is shown as A, and compare later runs with it.

        Raises:
            ValueError: If that run has not come to its end.
        """
        shown = self.shown  # the worker may replace it
        if not shown or not self.is_finished(shown[0]):
            raise ValueError(
                "A must be a run that came to its end (its curve is compared whole). Try again "
                "when the line says done"
            )
        self.pinned = self._key(shown[0])
        self._report(self._generation, gap="A is pinned: move a control, and see B − A")

    def unpin(self) -> None:
        """Let A be an earlier run like others; ``redraw`` then shows it so."""
        self.pinned = None
        self._report(self._generation, gap="")

    def redraw(self) -> None:
        """Draw the same frame again, with other earlier runs or other expected values."""
        if self.shown:
            self.worker.submit(self._redraw)

    def wait(self) -> None:
        """Wait until the newest run has ended; raise what it raised."""
        running = None
        while running is not self.running:
            running = self.running
            wait([running])
        if running:
            running.result()

    def is_finished(self, settings: Settings) -> bool:
        """Return whether a run at this setting has come to its end."""
        return self._key(settings) in self.finished

    # -- in the worker's thread

    def _run(self, generation: int, settings: Settings) -> None:
        if generation != self._generation:
            return
        words, key = self._page.describe(settings), self._key(settings)
        run, ending = self.finished.get(key), "seen before"
        try:
            if not run:
                run, ending = self._train(generation, settings, words)
            if run is None or generation != self._generation:
                return
            self._show(run.frame, settings)
            self.finished[key] = run
            self._earlier = [*(earlier for earlier in self._earlier if earlier != key), key]
            text = f"done  {words}  {readout_in_words(run.readouts)}  ({ending})"
            gap = self._compare(run, settings)
            self._report(generation, text, readouts=run.readouts, gap=gap)
            self._settled()
        except Exception as error:
            self._fail(generation, words, error)
            raise

    def _train(
        self, generation: int, settings: Settings, words: str
    ) -> tuple[FinishedRun | None, str]:
        """Train and draw; return the run and its seconds in words, or None if it became stale."""
        began = next_drawing = time.perf_counter()
        frame, readouts = None, []
        for frame in self.functions.train(**settings):
            if generation != self._generation:
                return None, ""
            readouts.append(dict(self.functions.tell(frame)))
            if time.perf_counter() >= next_drawing:  # pictures take a sixth of the time at most
                drawing = time.perf_counter()
                self._show(frame, settings, growing=len(readouts) > 1)
                gap = self._compare(FinishedRun(frame, readouts), settings)
                text = f"running  {words}  {settings_in_words(readouts[-1])}"
                self._report(generation, text, gap=gap)
                next_drawing = time.perf_counter() + 5 * (time.perf_counter() - drawing)
        if not readouts:
            raise ValueError(f"{words}: the training gave nothing to draw")
        return FinishedRun(frame, readouts), f"{time.perf_counter() - began:.1f} s"

    def _report(
        self,
        generation: int,
        text: str = "",
        errors: str | None = None,
        readouts: list[dict[str, Any]] | None = None,
        gap: str | None = None,
    ) -> bool:
        """Write the lines of a run that are given and return True, unless the run is stale."""
        with self._lock:
            if generation != self._generation:
                return False
            if gap is not None and (self.pinned or not gap):  # A may be let go meanwhile
                self._page.say_gap(gap)
            if text:
                self._page.say(text)
            if errors is not None:
                self._page.show_errors(errors)
            if readouts and self._prediction:
                self._prediction.compare(readouts)
            return True

    def _fail(self, generation: int, words: str, error: Exception) -> None:
        """Show an error beside the control that it is about, else with its traceback."""
        row = None
        if isinstance(error, ValueError):
            row = find_control(str(error), self._page.rows)
        trace = "" if row else traceback_html()
        text = f"failed  {words}  {type(error).__name__}: {error}"
        if self._report(generation, text, errors=trace) and row:
            row.complain(str(error))

    def _compare(self, run: FinishedRun, settings: Settings) -> str:
        """Return B - A as a line; empty if nothing is pinned, or A itself is shown.

        The line also shows an error of the comparison, because the run itself has not failed.
        """
        pinned = self.pinned  # the reader may let it go
        if pinned in (None, self._key(settings)):
            return ""
        a = self.finished[pinned]
        try:
            gaps = find_gaps(run.frame, a.frame, self.functions.tell, a.readouts)
            return gaps_in_words(gaps, self._page.seeds_control)
        except Exception as error:
            return f"B − A could not be computed: {type(error).__name__}: {error}"

    def _show(self, frame: Any, settings: Settings, growing: bool = False) -> None:
        """Draw a frame and send the picture.

        A growing picture keeps its layout, which takes half of the time.
        """
        expected = self._prediction.expected if self._prediction else {}
        with DRAWING:
            before = self._page.picture
            scene = Scene(frame, self._earlier_frames(settings), expected)
            picture = self.functions.draw(scene, **settings)
            if growing and before.is_laid_out_like(picture):
                picture.set_layout_engine("none")
                for axes, old_axes in zip(picture.axes, before.axes, strict=True):
                    axes.set_position(old_axes.get_position())
            self._page.show(picture)
            self.shown = settings, frame
        self._page.show_numbers()

    def _earlier_frames(self, settings: Settings) -> dict[str, Any]:
        """Return the last frames of A and of earlier runs, by the settings that differ."""
        present, pinned = self._key(settings), self.pinned
        earlier = [key for key in self._earlier if key not in (present, pinned)][-GHOSTS:]
        before = [pinned] if pinned and pinned != present else []
        frames = {}
        for key in [*before, *earlier]:
            differing = {name: value for name, value in key if settings[name] != value}
            words = settings_in_words(differing, ", ")
            frames[f"{PINNED}{words}" if key == pinned else words] = self.finished[key].frame
        return frames

    def _redraw(self) -> None:
        try:
            settings, frame = self.shown
            self._show(frame, settings)
            self._settled()
        except Exception:
            self._page.errors.value = traceback_html()

    def _key(self, settings: Settings) -> tuple:
        """Return the name of a run: equal settings, but for controls that do nothing, are one."""
        return tuple(self._page.effective(settings).items())
