"""The control that an error is about."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fedlab.lab.course.parameters import format_value
from fedlab.lab.widgets.controls import ControlRow

# Controls by the name that the package uses in its errors.
OTHER_NAMES = {
    "cohort_size": ("cohort", "clients_per_round"),
    "rate": ("cohort", "clients_per_round"),
    "per_client": ("pieces",),
    "k": ("pieces",),
}


def find_control(words: str, rows: Mapping[str, ControlRow]) -> ControlRow | None:
    """Return the control that an error is about, if that is plain.

    The error may begin with the control's name, hold ``name=value`` or ``...=value``, or hold its
    name. The first of these rules that fits exactly one control decides.

    Args:
        words: The message of the error.
        rows: The controls by name.
    """
    begins = re.match(r"(\w+)=", words)
    first = begins[1] if begins else ""
    tokens, values = re.findall(r"[\w.]+", words), re.findall(r"=([\w.]+)", words)
    settings = [(row, name, format_value(row.value)) for name, row in rows.items()]
    for candidates in (
        [row for row, name, _ in settings if name == first],
        [row for row, name, _ in settings if name in OTHER_NAMES.get(first, ())],
        [row for row, name, value in settings if f"{name}={value}" in words],
        [row for row, _, value in settings if value in values],
        [row for row, name, _ in settings if name in tokens],
    ):
        if len(candidates) == 1:
            return candidates[0]
    return None
