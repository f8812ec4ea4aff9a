"""Panels on a page: a figure, its status and numbers; in a live report, with controls."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from fedlab.lab.course import format_value


def panel_html(record: Mapping[str, Any] | None) -> str:
    """Return a panel as a page shows it; "" without states that hold their figures.

    Without scripts, the page shows the default and the comparison. With its script, a live panel
    has controls in place of the comparison.

    Args:
        record: The states of the panel, the default last, and ``live`` in a live report.

    Example:
        >>> default = {"settings": {"n": 5}, "status": "done  n=5", "figure": "<p>", "numbers": ""}
        >>> "done  n=5" in panel_html({"states": [default]})
        True
    """
    states = record["states"] if record else []
    if not states or not all("figure" in state for state in states):
        return ""  # of a notebook that an earlier version ran
    default, live = states[-1], record.get("live")
    data = _data(live) if live else ""
    return (
        f'<div class="fedlab-panel{" fedlab-live" if live else ""}">'
        f"{_controls(live) if live else ''}"
        f'<div class="fedlab-shown">{_state_html(default, is_status=bool(live))}</div>'
        f"{''.join(_comparison(state, default) for state in states[:-1])}{data}</div>"
    )


def _state_html(state: Mapping[str, Any], is_status: bool = False) -> str:
    role = ' role="status"' if is_status else ""
    return (
        f'<p class="fedlab-status"{role}>{html.escape(state["status"])}</p>'
        f'<div class="fedlab-figure">{state["figure"]}</div>'
        '<details class="fedlab-table"><summary>numbers</summary>'
        f"<div>{state['numbers']}</div></details>"
    )


def _comparison(state: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    moved = ", ".join(
        f"{name} = {format_value(value)}"
        for name, value in state["settings"].items()
        if value != default["settings"].get(name)
    )
    return (
        f'<div class="fedlab-compared"><p>The same panel, moved to {html.escape(moved)}:</p>'
        f"{_state_html(state)}</div>"
    )


def _controls(live: Mapping[str, Any]) -> str:
    """Return the controls of a live panel, which its script shows and moves."""
    rows = "".join(_control(axis) for axis in live["axes"])
    fixed = ", ".join(f"{name} = {format_value(value)}" for name, value in live["fixed"].items())
    about = f"{live['states']} settings were computed when this report was made"
    if fixed:
        about += f", with {fixed}"
    if live["left_out"]:
        about += f"; {live['left_out']} more did not fit into its time or size"
    return (
        f'<div class="fedlab-moves" hidden>{rows}'
        '<p class="fedlab-note" role="status"></p>'
        f'<p class="fedlab-about">{html.escape(about)}.</p></div>'
    )


def _control(axis: Mapping[str, Any]) -> str:
    """Return a list for words, or a slider over the values of a number."""
    name, words = html.escape(axis["name"]), [html.escape(word) for word in axis["words"]]
    start = f'<label class="fedlab-move"><span>{name}</span>'
    end = '<small class="fedlab-why"></small></label>'
    if all(isinstance(value, str | bool) for value in axis["values"]):
        options = "".join(f'<option value="{k}">{word}</option>' for k, word in enumerate(words))
        return f'{start}<select aria-label="{name}">{options}</select>{end}'
    return (
        f'{start}<input type="range" aria-label="{name}" min="0" max="{len(words) - 1}" step="1" '
        f'value="0"><output></output>{end}'
    )


def _data(live: Mapping[str, Any]) -> str:
    """Return the states for the page's script: text that the browser does not run."""
    axes = json.dumps([axis["words"] for axis in live["axes"]]).replace("<", "\\u003c")
    return (
        f'<script type="application/json" class="fedlab-axes">{axes}</script>'
        f'<script type="text/plain" class="fedlab-states">{live["packed"]}</script>'
    )
