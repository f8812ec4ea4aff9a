"""Pictures, tables and errors as HTML."""

from __future__ import annotations

import base64
import html
import traceback
from collections.abc import Mapping
from typing import Any

from fedlab.lab.plots import Picture
from fedlab.lab.widgets.controls import RED

_TABLE_STYLE = (
    ".fedlab-numbers :is(td, th) "
    "{ padding: 0 .5em; line-height: 1.6; text-align: right; height: auto }"
)


def picture_html(picture: Picture, dpi: int = 120) -> str:
    """Return an image with its description.

    The image is decoded at once, so that one picture replaces another without a flicker.

    Args:
        picture: The picture.
        dpi: Dots per inch of the image; its size on the page does not depend on it.
    """
    data, alt = base64.b64encode(picture.png(dpi)).decode(), html.escape(picture.alt)
    width, height = (round(90 * inches) for inches in picture.get_size_inches())
    style = (
        f"width: {width}px; max-width: 100%; height: auto; "
        f"aspect-ratio: {width} / {height}; background: white"
    )
    source = f"data:image/png;base64,{data}"
    return f'<img alt="{alt}" style="{style}" decoding="sync" src="{source}">'


def numbers_html(picture: Picture, rows: int = 12) -> str:
    """Return the numbers of a picture as a table, with one column per run.

    Args:
        picture: A picture, with a table if it shows numbers.
        rows: Number of rows shown, evenly spaced from the first to the last.
    """
    table = picture.numbers
    if table is None:
        return f"<p>{html.escape(picture.alt)}</p>"
    if len(table) > rows:
        table = table.iloc[sorted({round(k * (len(table) - 1) / (rows - 1)) for k in range(rows)})]
    numbers = table.to_html(
        index=False,
        border=0,
        classes="fedlab-numbers",
        na_rep="–",
        float_format=lambda x: f"{x:.4g}",
    )
    return f"<style>{_TABLE_STYLE}</style>{numbers}"


def state_html(state: Mapping[str, Any], picture: Picture) -> str:
    """Return one state of a panel for a page without scripts: status, picture, numbers.

    Args:
        state: With ``status`` and ``numbers``.
        picture: The picture of the state.
    """
    numbers = f"<details><summary>numbers</summary>{state['numbers']}</details>"
    status = html.escape(state["status"])
    return f"<p><code>{status}</code></p>{picture_html(picture, 144)}{numbers}"


def traceback_html() -> str:
    """Return the traceback of the exception that is being handled."""
    return f'<pre role="alert" style="{RED}">{html.escape(traceback.format_exc())}</pre>'
