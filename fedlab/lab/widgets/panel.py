"""Controls around a live picture: move one, and the training really runs again.

Pictures are drawn without pyplot and shown as SVG. A saved notebook keeps the last one as PNG.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import wait
from typing import Any

from IPython.display import DisplayHandle, display

import fedlab
from fedlab.lab.course.parameters import Parameter, check_value
from fedlab.lab.plots import Picture
from fedlab.lab.report.validate import WIDGET
from fedlab.lab.widgets import export
from fedlab.lab.widgets.controls import ControlRow, button
from fedlab.lab.widgets.idle import Conditions
from fedlab.lab.widgets.link import LinkRow
from fedlab.lab.widgets.output import is_headless, saved_output, still_output
from fedlab.lab.widgets.page import Page
from fedlab.lab.widgets.permalink import read_setting, write_setting
from fedlab.lab.widgets.predict import Prediction, PredictionControls
from fedlab.lab.widgets.runner import PanelFunctions, Runner
from fedlab.lab.widgets.waiting import answer_while_cells_run

PATIENCE = 3  # seconds that the cells after a panel leave the processor to its first run


class Panel:
    """Controls, a picture that grows while training runs, and a status line.

    As the last line of a cell a panel shows itself. Where no reader can move it (papermill, a
    script), showing it waits for two runs, shows their pictures, and raises what the training
    raised.

    Frames are kept for as long as the panel is, so they should be small. A later frame must not
    change the numbers of an earlier one.

    Args:
        train: ``train(**settings)`` yields frames.
        draw: ``draw(scene, **settings)`` makes a ``Picture`` of a ``Scene``.
        tell: ``tell(frame)`` returns a few numbers by name, for the status line.
        compare_with: The setting that a page without a reader shows beside the default. It names
            only the controls that differ.
        lesson: Number of the notebook. A control may then be a plain value, whose limits come from
            the notebook's parameter of that name, and any setting can be made a report.
        predict: A question to the reader before anything is trained.
        hold: Name of a button that a run waits for. Default: a run starts when a control moves.
        code: ``code(**settings)`` returns the program that is copied. Default: a call of ``train``.
        only_if: Controls that do nothing at certain settings. By name: the control that each
            depends on, with the values at which it does something. It is greyed out elsewhere.
        states: Values by control among which the reader of a live report moves. Default: a grid
            over the first two controls.
        controls: A ``slider``, a ``choice``, or a plain value, by name.

    Attributes:
        lesson: As given.
        states: As given, and checked; None for a grid over the first two controls.
        widget: The panel as a widget.

    Raises:
        ValueError: If a control has no limits, ``compare_with`` is not another possible setting,
            ``only_if`` names something else than controls and their values, or ``states`` has an
            impossible value.

    Example:
        >>> from fedlab.lab import plots
        >>> def train(lr):
        ...     yield [{"round": t, "accuracy": 1 - (1 - lr) ** t} for t in range(5)]
        >>> def draw(scene, lr):
        ...     return plots.curves(scene.frame, earlier=scene.earlier)
        >>> def tell(frame):
        ...     return {"accuracy": frame[-1]["accuracy"]}
        >>> from fedlab.lab.widgets import slider
        >>> panel = Panel(train, draw, tell, compare_with={"lr": 0.1}, lr=slider(0.5, 0.01, 1.0))
        >>> panel.call
        '*_, last = train(lr=0.5)'
    """

    def __init__(
        self,
        train: Callable[..., Iterable],
        draw: Callable[..., Picture],
        tell: Callable[[Any], Mapping[str, Any]],
        *,
        compare_with: Mapping[str, Any],
        lesson: str = "",
        predict: Prediction | None = None,
        hold: str = "",
        code: Callable[..., str] | None = None,
        only_if: Mapping[str, Mapping[str, Collection]] | None = None,
        states: Mapping[str, Iterable] | None = None,
        **controls: Any,
    ):
        declared = export.declare_controls(lesson, controls)
        conditions = Conditions(only_if or {}, declared)
        self._compare_with = _check_comparison(compare_with, declared, conditions)
        self.states = _check_states(states, declared)
        self.lesson = lesson
        self._hold, self._code = hold, code
        self._moving = False  # True while several controls move at once
        self._rows = {
            name: ControlRow(parameter, self._moved) for name, parameter in declared.items()
        }
        self._prediction = (
            PredictionControls(predict, self.redraw, self._press, self._toggled)
            if predict
            else None
        )
        self._pin = button(
            "Pin A", "keep this run as A, and see later runs B against it", self.toggle_pin
        )
        self._page = Page(self._rows, conditions, self._stop_or_run)
        self._link = LinkRow(self.paste)
        self._export = export.ExportButtons(self)
        self._runner = Runner(
            PanelFunctions(train, draw, tell), self._page, self._prediction, self._save_output
        )
        self._saved: DisplayHandle | None = None  # what a saved notebook shows
        self.widget = self._page.arrange(
            [self._prediction.widget] if self._prediction else [],
            self._buttons(),
            [self._link.widget, self._export.widget],
        )
        self._link.show(self.link)

    def _buttons(self) -> list:
        run = [button(self._hold, "run at this setting", self._press)] if self._hold else []
        clear = button(
            "Clear earlier runs",
            "take the curves of earlier runs out of the picture",
            self.clear,
        )
        predict = [self._prediction.toggle] if self._prediction else []
        page = self._page
        return [*run, page.stop, self._pin, clear, *predict, page.table, *self._export.buttons]

    # -- what a reader sees

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The controls by name, each with its default."""
        return {name: row.parameter for name, row in self._rows.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """The present values of the controls."""
        return self._page.settings

    @property
    def idle(self) -> dict[str, str]:
        """The controls that do nothing at the present setting, each with the reason."""
        return {name: row.idle for name, row in self._rows.items() if row.idle}

    @property
    def status(self) -> str:
        """The line under the controls, as text."""
        return self._page.status

    @property
    def gap(self) -> str:
        """The difference between the run that is shown and the pinned one, as text."""
        return self._page.gap

    @property
    def picture(self) -> Picture | None:
        """The picture that is shown."""
        return self._page.picture

    @property
    def shown_settings(self) -> dict[str, Any]:
        """The settings of the picture that is shown; empty if there is none."""
        return self._runner.shown[0] if self._runner.shown else {}

    @property
    def refused(self) -> str:
        """The complaint about the first field that holds no value; empty if there is none."""
        return self._page.refused or (self._prediction.refused if self._prediction else "")

    @property
    def command(self) -> str:
        """The command that makes the report of this setting; empty without a lesson."""
        return export.report_command(self.lesson, self.settings)

    @property
    def call(self) -> str:
        """The code that runs this setting again: the panel's program, or a call for a cell."""
        if self._code:
            return self._code(**self.settings)
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"*_, last = {self._train_name}({arguments})"

    @property
    def _train_name(self) -> str:
        name = getattr(self._runner.functions.train, "__name__", "")
        return name if name.isidentifier() else "train"

    @property
    def place(self) -> str:
        """The lesson and the panel, as a line of a setting names them."""
        return " ".join(filter(None, (self.lesson, self._train_name)))

    @property
    def link(self) -> str:
        """The present setting as one line, which can be pasted into this panel elsewhere."""
        return write_setting(fedlab.__version__, self.place, self.settings)

    @property
    def waits_for_button(self) -> bool:
        """True if a run waits for a button."""
        return bool(self._hold)

    # -- what a reader does

    def move(self, **settings: Any) -> None:
        """Move controls as a reader would, all at once: one run begins, and not one for each."""
        before, self._moving = self.settings, True
        try:
            for name, value in settings.items():
                self._rows[name].move(value)
        finally:
            self._moving = False
        if self.settings != before:
            self._moved()

    def paste(self, line: str) -> str:
        """Move all controls to the setting of a line.

        Args:
            line: As ``link`` returns it, from this version of the package or from another.

        Returns:
            A remark if another version made the line, else nothing.

        Raises:
            ValueError: If the line is no setting of this panel; nothing is moved then.
        """
        setting = read_setting(line, self.place, self.parameters)
        self.move(**setting.values)
        self._link.show(self.link)
        if setting.version == fedlab.__version__:
            return ""
        return f"taken as it is: fedlab {setting.version} made it, and this is {fedlab.__version__}"

    def restart(self) -> None:
        """Run at the present setting; a run under way becomes stale and ends at its next frame."""
        self._runner.start(self.settings)

    def stop(self) -> None:
        """End the run under way at its next frame; its last picture stays."""
        self._runner.stop()

    def clear(self) -> None:
        """Take earlier runs out of the picture; a setting seen before still appears at once."""
        self.forget_earlier_runs()
        self.redraw()

    def forget_earlier_runs(self) -> None:
        """Leave earlier runs out of the next picture."""
        self._runner.clear()

    def toggle_pin(self) -> None:
        """Pin the run that is shown as A, or let A go; later runs are compared with it."""
        if self._runner.pinned:
            self._runner.unpin()
            self.redraw()
        else:
            try:
                self._runner.pin()
            except ValueError as error:
                self._page.say_gap(str(error))
        self._pin.description = "Unpin A" if self._runner.pinned else "Pin A"

    def redraw(self) -> None:
        """Draw the same frame again, with other earlier runs or other expected values."""
        self._runner.redraw()

    def wait(self) -> None:
        """Wait until the newest run has ended; raise what it raised."""
        self._runner.wait()

    def _press(self) -> None:
        """Run at the present setting, or say which field holds no value."""
        if refused := self.refused:
            self.stop()
            self._runner.say(f"not run  {refused}")
        else:
            self.restart()

    def _stop_or_run(self) -> None:
        if self.status.startswith("running"):
            self.stop()
        else:
            self._press()

    def _moved(self) -> None:
        if self._moving:
            return
        self._page.grey_out()
        self._link.show(self.link)
        self._export.refresh()
        predicting = self._prediction and self._prediction.asked
        if not (predicting or self._hold) or self._runner.is_finished(self.settings):
            self.restart()
            return
        self.stop()
        words = "what do you expect? Then press Train." if predicting else f"press {self._hold}"
        self._runner.say(f"waiting  {self._page.describe(self.settings)}  {words}")

    def _toggled(self) -> None:
        """Begin or end a prediction; at its end, train at the setting that was waited for."""
        if self.status.startswith("waiting") and not self._prediction.asked:
            self.restart()
        else:
            self.redraw()

    # -- in a notebook

    def _ipython_display_(self) -> None:
        view = {
            WIDGET: {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id},
            "text/plain": "a panel: open the notebook in JupyterLab to move its controls",
        }
        if is_headless():
            display(view | still_output(self, self._compare_with), raw=True)
            return
        answer_while_cells_run(self.widget)
        display(view, raw=True)
        self._saved = display(saved_output(self._page), raw=True, display_id=True)
        self.restart()
        try:
            wait([self._runner.running], PATIENCE)
        except KeyboardInterrupt:
            self.stop()
            raise

    def _save_output(self) -> None:
        if self._saved:
            self._saved.update(saved_output(self._page), raw=True)


def _check_comparison(
    compare_with: Mapping[str, Any], declared: Mapping[str, Parameter], conditions: Conditions
) -> dict[str, Any]:
    """Return the setting to compare with; raise ValueError if it is the default, or impossible."""
    wording = f"compare_with={dict(compare_with)}"
    if set(compare_with) - set(declared) or not compare_with:
        raise ValueError(f"{wording}: set at least one of {', '.join(declared)}, and nothing else")
    values = {
        name: check_value(declared[name], value, "compare_with")
        for name, value in compare_with.items()
    }
    defaults = {name: parameter.default for name, parameter in declared.items()}
    if conditions.effective(defaults) == conditions.effective(defaults | values):
        raise ValueError(
            f"{wording}: this is the default, or differs from it only in controls that do nothing; "
            "give a setting to compare with"
        )
    return values


def _check_states(
    states: Mapping[str, Iterable] | None, declared: Mapping[str, Parameter]
) -> dict[str, list] | None:
    """Return the values that a live report computes; raise ValueError for an impossible one."""
    if states is None:
        return None
    if set(states) - set(declared) or not states:
        raise ValueError(
            f"states={dict(states)}: name at least one of {', '.join(declared)}, and nothing else"
        )
    checked = {
        name: [check_value(declared[name], value, "states") for value in values]
        for name, values in states.items()
    }
    if empty := [name for name, values in checked.items() if not values]:
        raise ValueError(f"states: {empty[0]} must have a value. Try leaving {empty[0]} out")
    return checked
