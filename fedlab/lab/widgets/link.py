"""The field that shows the setting of a panel as one line, and takes a line from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets

from fedlab.lab.widgets.controls import FITTING, RED, text_of

# The page's script copies the field, and writes here that it did.
_COPIED = '<span class="fedlab-said" role="status"></span>'


class LinkRow:
    """The present setting as a line, a button that copies it, and room for a complaint.

    Args:
        take: Moves the controls to the setting of a line and returns a remark, which may be empty.
            Raises ValueError if the line cannot be taken.

    Attributes:
        widget: The row, to be displayed.
        copy: The button Copy, which the page's script serves.
    """

    def __init__(self, take: Callable[[str], str]):
        self._take, self._line = take, ""
        self._field = widgets.Text(
            description="setting",
            tooltip="the setting as a line: copy it, or paste one and press Enter",
            continuous_update=False,
            style={"description_width": "11em"},
            layout={"flex": "1 1 30em", "width": "auto"},
        )
        self._field.add_class("fedlab-link")
        self._field.observe(lambda change: self._pasted(change["new"]), "value")
        self.copy = widgets.Button(description="Copy", tooltip="copy this line", layout=FITTING)
        self.copy.add_class("fedlab-copy")
        self._remark = widgets.HTML()
        parts = [self._field, self.copy, widgets.HTML(_COPIED), self._remark]
        layout = {"flex_flow": "row wrap", "align_items": "center", "max_width": "62em"}
        self.widget = widgets.HBox(parts, layout=layout)

    @property
    def remark(self) -> str:
        """The words beside the field; empty if there are none."""
        return text_of(self._remark)

    def show(self, line: str) -> None:
        """Show the present setting; a complaint about a line goes away."""
        self._line = self._field.value = line
        self._remark.value = ""

    def _pasted(self, text: str) -> None:
        self._remark.value = ""
        if text == self._line:
            return
        try:
            words, kind = self._take(text), 'role="status"'
        except ValueError as error:
            words, kind = str(error), f'role="alert" style="{RED}"'
        self._remark.value = f"<span {kind}>{html.escape(words)}</span>" if words else ""
