"""Live reports: states of panels, computed within a budget, and packed into the page.

The command hands the budget to the notebook's kernel. Its panels share the budget: the last ones
get what the first ones leave.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

BUDGET = 60.0  # seconds of extra training that a notebook gets by default

MAX_FILE = 6_000_000  # bytes of a live report's page

STATES_SIZE = 4_000_000  # bytes of all packed states: the rest of a page takes 2 MB at most

VARIABLE = "FEDLAB_LIVE"  # environment variable of a live report's kernel


class Allowance(NamedTuple):
    """Time and room that the panels of a notebook share.

    Attributes:
        seconds: Seconds that all panels may still take.
        panels: Number of panels that are still to come.
        size: Bytes that their packed states may still take.

    Example:
        >>> allowance = Allowance(60.0, 2, 4_000_000)
        >>> str(allowance)
        '60 2 4000000'
        >>> str(allowance.after(10.0, 500_000))
        '50 1 3500000'
    """

    seconds: float
    panels: int
    size: int

    def __str__(self) -> str:
        return f"{self.seconds:g} {self.panels} {self.size}"

    @property
    def share(self) -> tuple[float, int]:
        """Seconds and bytes of the next panel."""
        return self.seconds / self.panels, self.size // self.panels

    def after(self, seconds: float, size: int) -> Allowance:
        """Return what a panel leaves to the panels that follow."""
        return Allowance(
            max(0.0, self.seconds - seconds), max(1, self.panels - 1), max(0, self.size - size)
        )


def read_allowance() -> Allowance | None:
    """Return the allowance of this kernel; None if its report is not a live one."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        seconds, panels, size = text.split()
        return Allowance(float(seconds), int(panels), int(size))
    except ValueError:
        raise ValueError(
            f"{VARIABLE}={text!r} must be seconds, panels and bytes. Try unsetting it: the "
            "command of a live report sets it in its kernels"
        ) from None


def kernel_arguments(budget: float, panels: int) -> list[str]:
    """Return arguments that hand the budget of a notebook to its kernel.

    Notebooks run at the same time in one process, so its environment cannot differ by notebook.

    Args:
        budget: Seconds of extra training; 0 for a report that is not live.
        panels: Number of panels.

    Example:
        >>> kernel_arguments(0.0, 2)
        []
    """
    if not budget:
        return []
    allowance = Allowance(budget, max(1, panels), STATES_SIZE)
    line = f"__import__('os').environ.update({VARIABLE}='{allowance}')"
    return [f"--IPKernelApp.exec_lines={line}"]


def count_panels(notebook: Mapping[str, Any]) -> int:
    """Return the number of panels that the cells of a notebook make.

    Example:
        >>> cells = [{"cell_type": "code", "source": "Panel(train, draw, tell)"}]
        >>> count_panels({"cells": cells})
        1
    """
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return len(re.findall(r"(?<![\w.])Panel\(", "\n".join(sources)))


def parse_budget(text: str) -> float:
    """Read the seconds after ``--live``.

    Args:
        text: A number above 0. A leading zero is refused: it is the number of a notebook.

    Raises:
        ValueError: For anything else.

    Example:
        >>> parse_budget("90")
        90.0
        >>> parse_budget("02")
        Traceback (most recent call last):
        ValueError: --live 02 must be a number of seconds above 0. Try report 02 --live
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if re.match(r"0\d", text) or not 0 < seconds < math.inf:
        is_name = re.match(r"0\d|[A-Za-z_]", text) and text.lower() not in ("nan", "inf")
        remedy = f"report {text} --live" if is_name else f"--live {BUDGET:g}"
        raise ValueError(f"--live {text} must be a number of seconds above 0. Try {remedy}")
    return seconds


def pack(states: Sequence[Mapping[str, Any]]) -> str:
    """Return states as compressed text that a browser can unpack; equal pictures are stored once.

    Args:
        states: With ``at`` (positions on the controls), ``status``, and ``idle`` (the controls that
            do nothing there, with the reason); then with ``figure`` and ``numbers`` as HTML, or
            with ``error``.

    Example:
        >>> states = [{"at": [k], "status": "done", "figure": "<p>", "numbers": ""} for k in (0, 1)]
        >>> unpack(pack(states)) == states
        True
    """
    parts: dict[str, int] = {}
    rows = [
        {
            name: parts.setdefault(value, len(parts)) if name in ("figure", "numbers") else value
            for name, value in state.items()
        }
        for state in states
    ]
    content = json.dumps({"parts": list(parts), "states": rows}, ensure_ascii=False)
    return base64.b64encode(gzip.compress(content.encode(), 9, mtime=0)).decode()


def unpack(packed: str) -> list[dict[str, Any]]:
    """Return the states that ``pack`` made into text."""
    content = json.loads(gzip.decompress(base64.b64decode(packed)))
    return [
        {
            name: content["parts"][value] if name in ("figure", "numbers") else value
            for name, value in state.items()
        }
        for state in content["states"]
    ]


def packed_size(*parts: str) -> int:
    """Return the bytes that HTML takes when it is packed by itself."""
    return 4 * len(gzip.compress("".join(parts).encode(), 9)) // 3


def with_fewer_states(live: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return a panel's states without the last ones, which lie farthest from the default.

    Args:
        live: The states of a panel, as its output holds them.
        share: Share of the states that stay. The default and the comparison always do.
    """
    states = unpack(live["packed"])
    fewer = states[: max(2, int(share * len(states)))]
    left_out = live["left_out"] + len(states) - len(fewer)
    axes, fewer, fixed = drop_unused_values(live["axes"], fewer)
    changes = {"axes": axes, "packed": pack(fewer), "states": len(fewer), "left_out": left_out}
    return {**live, **changes, "fixed": {**live["fixed"], **fixed}}


def drop_unused_values(
    axes: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Return controls without unused values, the states at their new places, and fixed controls.

    A control that is left with one value is fixed, because nobody can move it.

    Args:
        axes: With ``name``, ``values`` and ``words``, per control.
        states: With ``at``: positions on the controls.

    Example:
        >>> n = {"name": "n", "values": [1, 5, 9], "words": ["1", "5", "9"]}
        >>> k = {"name": "k", "values": [2, 3], "words": ["2", "3"]}
        >>> axes, states, fixed = drop_unused_values([n, k], [{"at": [2, 0]}, {"at": [0, 0]}])
        >>> axes[0]["values"], states, fixed
        ([1, 9], [{'at': [1]}, {'at': [0]}], {'k': 2})
    """
    used = [sorted(set(places)) for places in zip(*(s["at"] for s in states), strict=True)]
    movable = [k for k, places in enumerate(used) if len(places) > 1]
    shorter = [
        {**axes[k]} | {part: [axes[k][part][at] for at in used[k]] for part in ("values", "words")}
        for k in movable
    ]
    moved = [{**state, "at": [used[k].index(state["at"][k]) for k in movable]} for state in states]
    fixed = {
        axis["name"]: axis["values"][places[0]]
        for axis, places in zip(axes, used, strict=True)
        if len(places) == 1
    }
    return shorter, moved, fixed
