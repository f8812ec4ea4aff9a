"""The widgets of a panel: controls, buttons, status line, picture, numbers, errors."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from fedlab.lab.plots import Picture
from fedlab.lab.widgets.controls import FITTING, ControlRow, button, text_of
from fedlab.lab.widgets.idle import Conditions
from fedlab.lab.widgets.pictures import numbers_html
from fedlab.lab.widgets.scene import settings_in_words
from fedlab.lab.widgets.view import PictureView
from fedlab.lab.widgets.waiting import with_waiting_line

FEW = 7  # up to so many controls stand in one column, and the status line names all of them

_WRAP = {"flex_flow": "row wrap"}


class Page:
    """The widgets of a panel.

    Args:
        rows: The controls by name.
        conditions: The conditions under which controls do something.
        stop: Called when the reader presses Stop, or Run again.

    Attributes:
        rows: The controls by name.
        picture: The picture that is shown, if any.
        image: The picture on the page.
        numbers: The picture as a table, while the reader wants it.
        errors: A traceback, or nothing.
        stop: The button Stop, which becomes Run again after a stop.
        table: The button Numbers.
    """

    def __init__(
        self, rows: Mapping[str, ControlRow], conditions: Conditions, stop: Callable[[], None]
    ):
        self.rows, self._conditions = rows, conditions
        self.grey_out()
        self.picture: Picture | None = None
        self.image, self._status = PictureView(), widgets.HTML()
        self.errors, self.numbers = widgets.HTML(), widgets.HTML()
        self._gap = widgets.HTML()
        self.stop = button("Stop", "stop this run, what it drew stays; then run it again", stop)
        self.stop.disabled = True
        self.table = widgets.ToggleButton(
            description="Numbers", tooltip="the picture as a table", layout=FITTING
        )
        self.table.observe(lambda _: self.show_numbers(), "value")

    def arrange(
        self,
        prediction: Sequence[widgets.Widget],
        buttons: Sequence[widgets.Widget],
        results: Sequence[widgets.Widget],
    ) -> widgets.Widget:
        """Return all widgets of the panel in one column.

        Results of buttons are shown above the picture: below it, nobody would see them.

        Args:
            prediction: The controls of a prediction, if there are any.
            buttons: All buttons, from left to right.
            results: The lines where settings, files and reports are offered.
        """
        rows = [row.widget for row in self.rows.values()]
        if len(rows) > FEW:
            for row in self.rows.values():
                row.narrow()
            rows = [widgets.HBox(rows, layout=_WRAP)]
        bar = widgets.HBox(list(buttons), layout=_WRAP)
        picture = widgets.HBox([self.image, self.numbers], layout=_WRAP)
        return with_waiting_line(
            [*rows, *prediction, bar, *results, self._status, self._gap, picture, self.errors]
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The present values of the controls."""
        return {name: row.value for name, row in self.rows.items()}

    def grey_out(self) -> None:
        """Grey out the controls that do nothing at this setting."""
        reasons = self._conditions.reasons(self.settings)
        for name, row in self.rows.items():
            if row.idle != reasons.get(name, ""):
                row.set_idle(reasons.get(name, ""))

    def effective(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a setting without the controls that do nothing there.

        Args:
            settings: Values by name.
        """
        return self._conditions.effective(settings)

    @property
    def refused(self) -> str:
        """The complaint about the first field that holds no value; empty if there is none."""
        return next((row.complaint for row in self.rows.values() if not row.is_read), "")

    @property
    def status(self) -> str:
        """The status line as text."""
        return text_of(self._status)

    @property
    def gap(self) -> str:
        """The line that compares with the pinned run, as text."""
        return text_of(self._gap)

    @property
    def seeds_control(self) -> str:
        """The name of the control that sets the number of seeds; empty if there is none."""
        return next((name for name in self.rows if name.endswith("seeds")), "")

    def describe(self, settings: Mapping[str, Any]) -> str:
        """Return settings in words, without controls that do nothing.

        Among many controls, those at their defaults are left out.

        Args:
            settings: Values by name.
        """
        changed = {
            name: value
            for name, value in self.effective(settings).items()
            if len(self.rows) <= FEW or value != self.rows[name].parameter.default
        }
        return settings_in_words(changed) or "all defaults"

    def say(self, text: str) -> None:
        """Write the status line, and let the button Stop fit it."""
        stopped = text.startswith("stopped")
        self.stop.description = "Run again" if stopped else "Stop"
        self.stop.disabled = not stopped and not text.startswith("running")
        # The line comes last, so that a reader of the line finds the button as it says.
        style = 'class="fedlab-status" style="white-space: pre-wrap"'
        self._status.value = f'<span role="status" {style}>{html.escape(text)}</span>'

    def say_gap(self, text: str) -> None:
        """Write the line that compares with the pinned run."""
        style = 'class="fedlab-gap" style="white-space: pre-wrap; font-weight: 600"'
        self._gap.value = f'<span role="status" {style}>{html.escape(text)}</span>' if text else ""

    def show_errors(self, errors: str) -> None:
        """Show a traceback as HTML, or nothing; complaints about controls go away."""
        self.errors.value = errors
        for row in self.rows.values():
            row.forgive()

    def show(self, picture: Picture) -> None:
        """Show a picture; ``show_numbers`` then brings its table up to date."""
        self.image.show(picture)
        self.picture = picture

    def show_numbers(self) -> None:
        """Show the numbers of the picture, if the reader wants them."""
        wanted = self.table.value and self.picture
        self.numbers.value = numbers_html(self.picture) if wanted else ""
