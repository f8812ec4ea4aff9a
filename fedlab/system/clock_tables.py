"""Columns of the table of clients, from the assignments of a clock."""

from __future__ import annotations

from operator import attrgetter

import numpy as np

from fedlab.system.clock_state import Assignment
from fedlab.system.fleet import Fleet

SUMS = ("examples", "steps", "bytes_up", "bytes_down", "joules")  # columns that a round adds up
_FIELDS = (
    "client",
    "version",
    "outcome",
    "reason",
    "began",
    "ended",
    "fetching",
    "computing",
    "sending",
    "bytes_down",
    "bytes_up",
)


def columns_of(
    assignments: list[Assignment], labels: dict[str, object], fleet: Fleet, time: float
) -> dict[str, np.ndarray]:
    """Return columns with one entry per assignment, as far as each has come by ``time``.

    Args:
        assignments: At least one assignment.
        labels: Columns with the same value in every row, among them the round.
        fleet: The clients' devices and links.
        time: Seconds since the start.

    Returns:
        Columns by name.
    """
    rows = zip(*map(attrgetter(*_FIELDS), assignments), strict=True)
    planned = dict(zip(_FIELDS, rows, strict=True))
    columns = {name: np.full(len(assignments), value) for name, value in labels.items()}
    columns |= {name: np.array(planned[name], dtype=int) for name in ("client", "version")}
    columns["outcome"] = np.array(planned["outcome"])
    columns["reason"] = np.where(columns["outcome"] == "lost", np.array(planned["reason"]), "")
    columns["began"] = np.array(planned["began"], dtype=float)
    columns["ended"] = np.minimum(np.array(planned["ended"], dtype=float), time)
    left = columns["ended"] - columns["began"]
    is_whole = (columns["outcome"] == "used") | (columns["outcome"] == "late")
    left[is_whole] = np.inf
    shares = {}
    for phase in ("fetching", "computing", "sending"):  # one after another, as far as time reached
        seconds = np.array(planned[phase], dtype=float)
        columns[phase] = np.clip(seconds, 0, left)
        left = left - columns[phase]
        shares[phase] = np.divide(
            columns[phase], seconds, out=np.ones(len(assignments)), where=seconds > 0
        )
    for name, phase in (("bytes_down", "fetching"), ("bytes_up", "sending")):
        size = np.array(planned[name], dtype=float)
        columns[name] = np.floor(size * shares[phase] + 1e-6).astype(np.int64)
    radio = columns["fetching"] + columns["sending"]
    columns["joules"] = fleet.joules(columns["client"], columns["computing"], radio)
    return columns | {
        name: np.array([assignment.notes[name] for assignment in assignments])
        for name in assignments[0].notes or ()
    }
