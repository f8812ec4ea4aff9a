"""Read fleets and traces from CSV files of your own measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedlab.core.validate import check_whole
from fedlab.system.csv_sheet import Sheet
from fedlab.system.fleet import Fleet
from fedlab.system.fleet_columns import COLUMNS
from fedlab.system.trace import Trace


def read_fleet(path: str | Path) -> Fleet:
    """Read a fleet from a CSV with one line per client, in the order of their numbers.

    Required columns are ``gigaflops, watts, down_mbit, up_mbit``. Optional ones are ``memory_gb,
    battery_wh, latency_ms, jitter_ms, loss, dropout, from_hour, hours, joins_hour, leaves_hour``,
    and the free labels ``device, link``. Commas, semicolons or tabs separate the cells. Capitals
    and spaces in names do not matter. Between semicolons or tabs a number may have a decimal comma.

    Args:
        path: The file, in UTF-8.

    Returns:
        The fleet.

    Raises:
        ValueError: If a value is out of range; the message names line, column, value and remedy.

    Example:
        >>> fleet = read_fleet("mine.csv")  # doctest: +SKIP
    """
    sheet = Sheet(
        path,
        [*COLUMNS, "device", "link"],
        [name for name, column in COLUMNS.items() if column.default is None],
    )
    fields = {}
    for name, column in COLUMNS.items():
        numbers, empty = sheet.numbers(name)
        if column.default is not None:
            numbers = np.where(empty, column.default, numbers)
        wrong = np.isnan(numbers) | column.is_wrong(numbers)
        if wrong.any():
            row = int(wrong.argmax())
            raise sheet.error(row, name, f"must be {column.range}", client=row)
        fields[column.field] = numbers * column.unit
    early = fields["leaves"] <= fields["joins"]
    if early.any():
        row = int(early.argmax())
        joins = fields["joins"][row] / 3600
        message = f"must be more than joins_hour={joins:g} (a client joins before it leaves)"
        raise sheet.error(row, "leaves_hour", message, client=row)
    return Fleet(**{name: np.array(sheet.texts(name)) for name in ("device", "link")}, **fields)


def read_trace(path: str | Path, num_clients: int) -> Trace:
    """Read a trace from a CSV with the columns ``client, from, to``, one line per window.

    Times are seconds after midnight of the clock's first day, like ``began`` and ``ended`` in the
    tables of ``simulate``. A client may have several windows, which must not overlap; ``to`` may be
    ``inf``. Every client needs a line. A client whose ``from`` and ``to`` are empty is never
    online. Separators and decimal commas work as in ``read_fleet``.

    Args:
        path: The file, in UTF-8.
        num_clients: Number of clients, which are numbered from 0.

    Returns:
        The trace, for ``Fleet.with_trace`` or ``by_availability``.

    Raises:
        ValueError: If windows are reversed or overlap, a client is unknown or has no line.

    Example:
        >>> trace = read_trace("trace.csv", num_clients=30)  # doctest: +SKIP
    """
    check_whole(1, num_clients=num_clients)
    sheet = Sheet(path, ("client", "from", "to"), ("client", "from", "to"))
    merged = [_merge(sheet, sorted(windows)) for windows in _windows(sheet, num_clients)]
    times = np.full((2, num_clients, max(1, *map(len, merged))), np.inf)
    for i, windows in enumerate(merged):
        times[:, i, : len(windows)] = np.array(windows).reshape(-1, 2).T
    return Trace(*times)


def _windows(sheet: Sheet, num_clients: int) -> list[list[tuple[float, float, int]]]:
    """Return the windows of each client as (begin, end, row of the sheet)."""
    clients, _ = sheet.numbers("client")
    (begins, no_begin), (ends, no_end) = (sheet.numbers(name) for name in ("from", "to"))
    windows: list[list[tuple[float, float, int]]] = [[] for _ in range(num_clients)]
    seen = np.zeros(num_clients, dtype=bool)
    for row, i in enumerate(clients):
        if not (0 <= i < num_clients and i == int(i)):
            limits = f"must be a whole number from 0 to {num_clients - 1}, the number of a client"
            raise sheet.error(row, "client", limits)
        seen[int(i)] = True
        if no_begin[row] and no_end[row]:
            continue
        begin, end = begins[row], ends[row]
        if not 0 <= begin < np.inf:
            limits = "must be at least 0 seconds after the start; leave from and to empty for never"
            raise sheet.error(row, "from", limits)
        if not end > begin:
            limits = f"must be more than from={begin:g}, in seconds; add 86400 after midnight"
            raise sheet.error(row, "to", limits)
        windows[int(i)].append((begin, end, row))
    if not seen.all():
        missing = int(seen.argmin())
        line = sheet.separator.join((str(missing), "", ""))
        raise ValueError(
            f"{sheet.name} has no line for client {missing}, and must have one for each of "
            f"{num_clients} clients. Try the line {line} if it is never online"
        )
    return windows


def _merge(sheet: Sheet, windows: Sequence[tuple[float, float, int]]) -> list[list[float]]:
    """Join the windows of one client that touch; windows are ascending."""
    merged: list[list[float]] = []
    for k, (begin, end, row) in enumerate(windows):
        if merged and begin < merged[-1][1]:
            line = sheet.line(windows[k - 1][2])
            raise sheet.error(
                row,
                "from",
                f"must be at least {merged[-1][1]:g} (it overlaps the window of line {line}); "
                "make one window of both",
            )
        if merged and begin == merged[-1][1]:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return merged
