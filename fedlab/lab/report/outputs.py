"""Outputs of an executed notebook, as far as a page shows them."""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedlab.lab.course import HEADING, cell_tags
from fedlab.lab.report.panels import panel_html
from fedlab.lab.report.validate import PANEL, PICTURE

if TYPE_CHECKING:
    from nbformat import NotebookNode


MAX_PRINTED = 200_000  # characters that a page shows of one cell's prints

MAX_PAGE = 20_000_000  # characters of all outputs of a page

_QUESTION = re.compile(r"\A\s*\*\*[^*]+\?\*\*[ \t]*$", re.MULTILINE)  # the title's next paragraph


def page_cells(executed: NotebookNode) -> NotebookNode:
    """Return a copy of the notebook as its page shows it.

    Hidden cells are left out, and the title and the question, which stand in the page's head.
    Panels and pictures become figures that answer the pointer. Every other picture gets a
    description, and outputs that are too long are cut.
    """
    shown = copy.deepcopy(executed)
    shown.cells = [cell for cell in shown.cells if "hide" not in cell_tags(cell)]
    titled = [
        cell for cell in shown.cells if cell.cell_type == "markdown" and HEADING.search(cell.source)
    ]
    for cell in titled[:1]:
        cell.source = _QUESTION.sub("", HEADING.sub("", cell.source, count=1))
    for cell in shown.cells:
        for output in cell.get("outputs", ()):
            if body := _figure(output.get("data", {})):
                output.data = type(output.data)({"text/html": body})
            if "image/png" in output.get("data", {}):
                about = output.metadata.setdefault("image/png", {})
                about.setdefault("alt", f"picture made by cell [{cell.execution_count}]")
    _cut(shown)
    return shown


def _figure(data: NotebookNode) -> str:
    """Return a panel or a picture as HTML of the page; "" for other outputs."""
    if PANEL in data:
        return panel_html(data[PANEL])
    return data[PICTURE]["figure"] if PICTURE in data else ""


def has_figures(executed: NotebookNode) -> bool:
    """Return whether the page of a notebook shows figures that answer the pointer."""
    return any(
        _figure(output.get("data", {}))
        for cell in executed.cells
        for output in cell.get("outputs", ())
    )


def panel_records(executed: NotebookNode) -> Iterator[NotebookNode]:
    """Yield the record of each panel: its states, and in a live report its live states."""
    for cell in executed.cells:
        for output in cell.get("outputs", ()):
            if PANEL in output.get("data", ()):
                yield output.data[PANEL]


def _cut(shown: NotebookNode) -> None:
    """Shorten prints, and leave out outputs that are too heavy for the page, with a note."""
    room = MAX_PAGE
    for cell in shown.cells:
        printed, outputs = 0, []
        for output in cell.get("outputs", ()):
            size = _size(output)
            if "text" in output:
                pieces, shown_size = _cut_print(output, max(0, min(MAX_PRINTED - printed, room)))
                printed += size
            elif size > room:
                text = f"an output of {size:,} characters is left out: the page would be too heavy"
                pieces, shown_size = [_note(text)], 0
            else:
                pieces, shown_size = [output], size
            outputs += pieces
            room -= shown_size
        if "outputs" in cell:
            cell.outputs = outputs


def _cut_print(output: NotebookNode, room: int) -> tuple[list[NotebookNode], int]:
    """Return the print and a note if it is longer than the room; and the shown characters."""
    size = _size(output)
    if size <= room:
        return [output], size
    output.text = output.text[:room]
    note = _note(f"{size:,} characters are printed here, and {room:,} shown")
    return [output] * bool(room) + [note], room


def _size(output: NotebookNode) -> int:
    """Return the characters that an output adds to a page, about."""
    if output.output_type == "error":
        return sum(len(line) for line in output.traceback)
    if "text" in output:
        return len(output.text)
    return sum(len(str(data)) for data in output.data.values())


def _note(text: str) -> NotebookNode:
    from nbformat.v4 import new_output

    where = "<code>executed.ipynb</code> beside this page has all of it."
    note = f'<p class="cut">{html.escape(text)}; {where}</p>'
    return new_output("display_data", {"text/html": note})
