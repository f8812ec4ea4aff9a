"""Outputs of a panel: in a saved notebook, and on a page that nobody can move."""

from __future__ import annotations

import hashlib
import html
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedlab.lab.report.validate import PANEL
from fedlab.lab.widgets.pictures import picture_html, state_html
from fedlab.lab.widgets.scene import settings_in_words
from fedlab.lab.widgets.states import live_states, visit

if TYPE_CHECKING:
    from fedlab.lab.widgets.page import Page
    from fedlab.lab.widgets.panel import Panel

LEFT = (
    "This is the panel as it stood last. To move its controls again, run the notebook: Run, Run "
    "All Cells."
)

# The saved picture is hidden where the panel is, and takes the place of JupyterLab's error where
# the panel is missing. The bars of tqdm leave such errors, too, and have nothing to show.
_LEFT_STYLE = """
.jp-OutputArea:has(.fedlab-panel) .jp-OutputArea-child:has(.fedlab-left),
.jp-OutputArea-output.jupyter-widgets:not(:has(*)) { display: none }
"""


def is_headless() -> bool:
    """Return whether no reader can move a panel.

    A report is being made, or neither JupyterLab nor voila started the kernel.
    """
    is_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    is_served = "JPY_SESSION_NAME" in os.environ or is_voila
    return "FEDLAB_HEADLESS" in os.environ or not is_served


def saved_output(page: Page) -> dict[str, Any]:
    """Return the output that stands for a panel in a saved notebook.

    The output holds the last picture, and tells how to move the panel again.

    Args:
        page: The widgets of the panel.
    """
    picture = ""
    if page.picture:
        picture = f"{picture_html(page.picture)}<p><code>{html.escape(page.status)}</code></p>"
    style = f"<style>{_LEFT_STYLE}</style>"
    body = f'<div class="fedlab-left">{picture}<p>{LEFT}</p></div>{style}'
    return {"text/html": body, "text/plain": LEFT}


def still_output(panel: Panel, compare_with: Mapping[str, Any]) -> dict[str, Any]:
    """Return two states of a panel as pictures; and in a live report, all that a reader may reach.

    Args:
        panel: The panel, which runs all states.
        compare_with: The setting that is shown beside the present one.
    """
    settings = panel.settings
    second, default = states = [visit(panel, compare_with), visit(panel, settings)]
    caption = html.escape(settings_in_words(compare_with, ", "))
    moved = f"<p>The same panel, moved to {caption}:</p>"
    pictures = [state.pop("picture") for state in states]
    images = [picture.png() for picture in pictures]
    for state, image in zip(states, images, strict=True):
        state["image"] = hashlib.sha256(image).hexdigest()
    record: dict[str, Any] = {"states": states}
    output = {
        "text/html": f"{state_html(default, pictures[1])}{moved}{state_html(second, pictures[0])}",
        "text/plain": "\n".join(state["status"] for state in states),
        "image/png": images[1],
        PANEL: record,
    }
    if live := live_states(panel, second, default):
        record["live"] = live
    return output
