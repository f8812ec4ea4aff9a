"""What clients compute and send with, when they are there, and what a piece of work takes them: seconds and joules.

Devices and links are rows of ``tables/devices.csv`` and ``tables/networks.csv`` beside this file, whose figures are cited
or assumed; a ``Fleet`` has a device and a link for each client, drawn from such rows under a seed, or read from a file of
one's own measurements.
"""

from __future__ import annotations

import csv
import inspect
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fedlab.client import Train, batched, zeroth_order
from fedlab.core import Task, generator, params
from fedlab.core.repeats import check_repeatable
from fedlab.core.validate import check_whole, is_number

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.engine import Run

TABLES = resources.files("fedlab.system") / "tables"
BASES = ("measured", "cited", "assumed")  # the strongest first
RADIO_WATTS = 2.0  # watts of a radio that sends or receives, assumed; from half to twice that
DAY = 86400.0  # seconds


class Estimate(NamedTuple):
    """A number between ``low`` and ``high``, and what it rests on."""

    value: float
    low: float
    high: float
    basis: str

    def __mul__(self, other: float | Estimate) -> Estimate:
        other = other if isinstance(other, Estimate) else exact(other)
        ends = self.low * other.low, self.high * other.high
        return Estimate(self.value * other.value, *ends, weakest(self, other))

    def __truediv__(self, other: Estimate) -> Estimate:
        return self * Estimate(1 / other.value, 1 / other.high, 1 / other.low, other.basis)

    def __add__(self, other: Estimate) -> Estimate:
        ends = self.low + other.low, self.high + other.high
        return Estimate(self.value + other.value, *ends, weakest(self, other))


def exact(value: float, basis: str = "cited") -> Estimate:
    return Estimate(value, value, value, basis)


def weakest(*figures: Estimate) -> str:
    return max((figure.basis for figure in figures), key=BASES.index)


class Device(NamedTuple):
    """What trains; a row of ``tables/devices.csv``, of which low and high are shares of its speed."""

    device: str
    teraflops: float
    low: float
    high: float
    memory: float  # GB that training may use
    watts: float
    watts_low: float
    watts_high: float
    battery: float  # Wh, 0 for what hangs on the mains
    basis: str
    source: str

    @property
    def speed(self) -> Estimate:
        """FLOP/s."""
        flops = self.teraflops * 1e12
        return Estimate(flops, flops * self.low, flops * self.high, self.basis)

    @property
    def power(self) -> Estimate:
        return Estimate(self.watts, self.watts_low, self.watts_high, self.basis)


class Link(NamedTuple):
    """A way to the server, in Mbit/s; a row of ``tables/networks.csv``, of which low and high are shares of the rates."""

    link: str
    down: float
    up: float
    low: float
    high: float
    latency: float  # ms, one way
    jitter: float  # ms that come on top, on average
    loss: float  # share of what is sent that has to be sent again
    basis: str
    source: str

    def rate(self, way: str) -> Estimate:
        """Bytes a second, "up" or "down"."""
        value = getattr(self, way) * 1e6 / 8
        return Estimate(value, value * self.low, value * self.high, self.basis)

    def seconds(self, way: str, size: float) -> float:
        """Until so many bytes are there, without jitter."""
        return self.latency / 1e3 + size / (self.rate(way).value * (1 - self.loss))


@cache
def devices() -> dict[str, Device]:
    """Those of fedlab/system/tables/devices.csv, by name."""
    return {row["device"]: Device(**row) for row in rows_of("devices.csv", Device)}


@cache
def links() -> dict[str, Link]:
    """Those of fedlab/system/tables/networks.csv, by name."""
    return {row["link"]: Link(**row) for row in rows_of("networks.csv", Link)}


def rows_of(file: str, kind: type) -> list[dict]:
    """The rows of a table in data/, in the types of a record."""
    made = {
        int: lambda text: int(text or 0),
        float: float,
        bool: lambda text: text == "yes",
        str: str,
    }
    with (TABLES / file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        {name: made[of](row[name]) for name, of in get_type_hints(kind).items()} for row in rows
    ]


# -- a fleet


class Trace(NamedTuple):
    """When each client is there: windows in seconds after the clock's start, a row per client, ascending.

    ``read_trace`` reads one from a file.  A fleet follows it by ``Fleet.with_trace``, and a sampler of rounds by
    ``by_availability(10, trace.in_rounds(rounds_per_day=24))``.
    """

    begins: np.ndarray  # [N, W]; infinite after a client's last window
    ends: np.ndarray  # [N, W], likewise

    @property
    def num_clients(self) -> int:
        return len(self.begins)

    def is_online(self, ids: np.ndarray, now: float) -> np.ndarray:
        """Whether each is within one of its windows, ``[m]``."""
        return ((self.begins[ids] <= now) & (now < self.ends[ids])).any(-1)

    def offline_at(self, ids: np.ndarray, now: float) -> np.ndarray:
        """The end of the window that each of those that are there is in, ``[m]``."""
        within = (self.begins[ids] <= now) & (now < self.ends[ids])
        return np.where(within, self.ends[ids], np.inf).min(-1)

    def next_online(self, ids: np.ndarray, now: float) -> np.ndarray:
        """The earliest time from now on at which each is there, ``[m]``; infinite after its last window."""
        return np.where(now < self.ends[ids], np.maximum(self.begins[ids], now), np.inf).min(-1)

    def subset(self, ids: np.ndarray) -> Trace:
        """Those of these numbers, in this order."""
        return Trace(self.begins[ids], self.ends[ids])

    def in_rounds(self, *, rounds_per_day: int = 24) -> Callable[[int], np.ndarray]:
        """Make the trace a rhythm for ``by_availability``, which draws cohorts of ``run``.

        A round has no clock, so round t stands for the moment ``(t - 1) / rounds_per_day`` days after the trace's start.

        Args:
            rounds_per_day: How many rounds share a day evenly.

        Returns:
            ``present(round) -> [N]``: 1 for clients that are there, else 0.

        Example:
            >>> trace = Trace(np.array([[0.0], [3600.0]]), np.array([[3600.0], [7200.0]]))
            >>> [trace.in_rounds()(t).tolist() for t in (1, 2, 3)]
            [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
        """
        check_whole(1, rounds_per_day=rounds_per_day)

        def present(round):
            return self.is_online(
                np.arange(self.num_clients), (round - 1) * DAY / rounds_per_day
            ).astype(float)

        return present


class Fleet(NamedTuple):
    """The clients' devices and links, a row a client: every column is ``[N]``, in SI units and bytes."""

    device: np.ndarray  # names
    link: np.ndarray
    flops: np.ndarray  # FLOP/s that training reaches
    memory: np.ndarray  # bytes that training may use
    watts: np.ndarray  # while it computes
    battery: np.ndarray  # joules; infinite on the mains
    down: np.ndarray  # bytes/s
    up: np.ndarray
    latency: np.ndarray  # seconds, one way
    jitter: np.ndarray  # seconds that a transfer takes longer, on average
    loss: np.ndarray  # share of what is sent that has to be sent again
    dropout: np.ndarray  # probability that it is gone before it begins to send
    online_from: (
        np.ndarray
    )  # seconds after midnight from which it is there: charging, on Wi-Fi, idle
    online_for: np.ndarray  # seconds of the day that it is; 86,400 is always
    joins: np.ndarray  # seconds of the clock from which it exists
    leaves: np.ndarray  # and until when
    trace: Trace | None = None  # when each is there, in place of the four columns before

    @property
    def num_clients(self) -> int:
        return len(self.flops)

    def fetching(
        self, ids: np.ndarray, bytes_down: np.ndarray, late: float | np.ndarray = 0
    ) -> np.ndarray:
        """Seconds until so many bytes are there, ``[m]``; ``late`` is the luck of the jitter, 1 on average."""
        return (
            self.latency[ids]
            + late * self.jitter[ids]
            + bytes_down / (self.down[ids] * (1 - self.loss[ids]))
        )

    def sending(
        self, ids: np.ndarray, bytes_up: np.ndarray, late: float | np.ndarray = 0
    ) -> np.ndarray:
        """Likewise on the way up."""
        return (
            self.latency[ids]
            + late * self.jitter[ids]
            + bytes_up / (self.up[ids] * (1 - self.loss[ids]))
        )

    def computing(self, ids: np.ndarray, flops: np.ndarray) -> np.ndarray:
        """Seconds of so many operations, ``[m]``."""
        return flops / self.flops[ids]

    def joules(self, ids: np.ndarray, computing: np.ndarray, radio: np.ndarray) -> np.ndarray:
        """The energy of so many seconds of either, ``[m]``."""
        return self.watts[ids] * computing + RADIO_WATTS * radio

    def round(
        self, ids: np.ndarray, bytes_down: np.ndarray, flops: np.ndarray, bytes_up: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Seconds of ``fetching``, ``computing`` and ``sending``, and the ``joules``, each ``[m]``: without jitter."""
        took = {"fetching": self.fetching(ids, bytes_down), "computing": self.computing(ids, flops)}
        took["sending"] = self.sending(ids, bytes_up)
        return took | {
            "joules": self.joules(ids, took["computing"], took["fetching"] + took["sending"])
        }

    def subset(self, ids: np.ndarray) -> Fleet:
        """Those of these numbers, in this order."""
        *columns, trace = self
        return Fleet(
            *(column[ids] for column in columns), None if trace is None else trace.subset(ids)
        )

    def with_trace(self, trace: Trace) -> Fleet:
        """Let each client be there within its windows of the ``trace``, and at no other time.

        Args:
            trace: Windows of as many clients as the fleet has, as ``read_trace`` gives them.

        Returns:
            The fleet with the trace.

        Raises:
            ValueError: If the trace has other clients, or the fleet has hours, arrivals or departures of its own.

        Example:
            >>> fleet = draw_fleet(30).with_trace(read_trace("trace.csv", 30))  # doctest: +SKIP
        """
        if not isinstance(trace, Trace):
            told = f"trace={trace!r:.80} must be a Trace, as read_trace gives it"
            raise ValueError(f'{told}. Try read_trace("trace.csv", {self.num_clients})')
        if trace.num_clients != self.num_clients:
            told = f"the trace has {trace.num_clients} clients and the fleet {self.num_clients}, and both must have the same"
            raise ValueError(
                f"{told}. Try read_trace(path, {self.num_clients}), or a fleet of {trace.num_clients}"
            )
        if self.has_absences:
            why = "a trace takes the place of hours of the day, arrivals and departures"
            raise ValueError(
                f"the fleet must have no hours of its own ({why}). Try draw_fleet with hours=24"
            )
        return self._replace(trace=trace)

    @property
    def has_absences(self) -> bool:
        """Whether there is a client that is not always there."""
        own = (
            (self.online_for < DAY).any() or (self.joins > 0).any() or (self.leaves < np.inf).any()
        )
        return bool(own) or self.trace is not None

    def is_online(self, ids: np.ndarray, now: float) -> np.ndarray:
        """Whether each may work now, ``[m]``."""
        if self.trace is not None:
            return self.trace.is_online(ids, now)
        open_now = (now - self.online_from[ids]) % DAY < self.online_for[ids]
        return open_now & (self.joins[ids] <= now) & (now < self.leaves[ids])

    def offline_at(self, ids: np.ndarray, now: float) -> np.ndarray:
        """The time at which each of those that are there will not be, ``[m]``."""
        if self.trace is not None:
            return self.trace.offline_at(ids, now)
        window = np.where(
            self.online_for[ids] >= DAY,
            np.inf,
            now - (now - self.online_from[ids]) % DAY + self.online_for[ids],
        )
        return np.minimum(window, self.leaves[ids])

    def next_online(self, ids: np.ndarray, now: float) -> np.ndarray:
        """The earliest time from now on at which each is there, ``[m]``; infinite for who has left."""
        if self.trace is not None:
            return self.trace.next_online(ids, now)
        from_now = np.maximum(now, self.joins[ids])
        since = (from_now - self.online_from[ids]) % DAY
        at = np.where(
            since < self.online_for[ids], from_now, from_now + DAY - since + 1e-6
        )  # a moment later: times are rounded
        return np.where(at < self.leaves[ids], at, np.inf)

    def slower(self, sent: float, computed: float | None = None) -> Fleet:
        """As if what is sent were so many times as large, and what is computed (if nothing is said, as many): the clock of
        a larger model than is trained.
        """
        computed = sent if computed is None else computed
        for name, times in {"sent": sent, "computed": computed}.items():
            if not (is_number(times) and times > 0):
                raise ValueError(
                    f"{name}={times!r}: above 0; 1000 makes of 50 thousand parameters 50 million"
                )
        return self._replace(flops=self.flops / computed, down=self.down / sent, up=self.up / sent)

    def table(self) -> pd.DataFrame:
        """In the units of a file that ``read_fleet`` reads, which are those that people measure in; without a trace."""
        import pandas as pd

        return pd.DataFrame(
            {name: getattr(self, column.field) / column.unit for name, column in COLUMNS.items()}
            | {"device": self.device, "link": self.link}
        )[["device", "link", *COLUMNS]]


class Column(NamedTuple):
    """A column of a fleet's file."""

    field: str  # of Fleet
    unit: float  # in SI units and bytes
    default: float | None  # None: it has to be there
    wrong: Any  # of a value that cannot be
    told: str  # what it must be


def _not_above_0(value):
    return ~(value > 0)


def _no_speed(value):
    return ~((value > 0) & (value < np.inf))


def _below_0(value):
    return ~((value >= 0) & (value < np.inf))


def _no_share(value):
    return ~((value >= 0) & (value < 1))


def _no_hour(value):
    return ~((value >= 0) & (value < 24))


def _no_span(value):
    return ~((value > 0) & (value <= 24))


COLUMNS = {
    "gigaflops": Column(
        "flops", 1e9, None, _no_speed, "above 0 GFLOP/s and finite, what training reaches"
    ),
    "watts": Column("watts", 1, None, _below_0, "at least 0, while it computes"),
    "down_mbit": Column(
        "down",
        1e6 / 8,
        None,
        _no_speed,
        "above 0 Mbit/s and finite; leave out clients without a link",
    ),
    "up_mbit": Column(
        "up",
        1e6 / 8,
        None,
        _no_speed,
        "above 0 Mbit/s and finite; leave out clients without a link",
    ),
    "memory_gb": Column(
        "memory", 1e9, math.inf, _not_above_0, "above 0 GB; leave it empty if it does not matter"
    ),
    "battery_wh": Column(
        "battery", 3600, math.inf, _not_above_0, "above 0 Wh; leave it empty on the mains"
    ),
    "latency_ms": Column("latency", 1e-3, 0, _below_0, "at least 0 ms, one way"),
    "jitter_ms": Column("jitter", 1e-3, 0, _below_0, "at least 0 ms on average"),
    "loss": Column("loss", 1, 0, _no_share, "a share from 0 to below 1"),
    "dropout": Column("dropout", 1, 0, _no_share, "a probability from 0 to below 1"),
    "from_hour": Column("online_from", 3600, 0, _no_hour, "an hour of the day, from 0 to below 24"),
    "hours": Column("online_for", 3600, 24, _no_span, "above 0 and at most 24 hours a day"),
    "joins_hour": Column("joins", 3600, 0, _below_0, "at least 0 hours after the start"),
    "leaves_hour": Column(
        "leaves", 3600, math.inf, _not_above_0, "above 0 hours after the start; empty for never"
    ),
}


def read_fleet(path: str | Path) -> Fleet:
    """Read a fleet of one's own measurements from a CSV with a line per client, in the order of their numbers.

    It must have the columns ``gigaflops, watts, down_mbit, up_mbit``.  It may have ``device, link`` (labels of one's own,
    which are looked up nowhere), ``memory_gb, battery_wh, latency_ms, jitter_ms, loss, dropout, from_hour, hours,
    joins_hour, leaves_hour``.  Commas, semicolons or tabs separate the cells; capitals and spaces in names do not matter.
    Between semicolons or tabs a number may have a decimal comma.

    Args:
        path: The file, in UTF-8.

    Returns:
        The fleet.

    Raises:
        ValueError: For what cannot be, with line, column, value and remedy.

    Example:
        >>> fleet = read_fleet("mine.csv")  # doctest: +SKIP
    """
    sheet = _Sheet(
        path,
        [*COLUMNS, "device", "link"],
        [name for name, column in COLUMNS.items() if column.default is None],
    )
    fields = {}
    for name, column in COLUMNS.items():
        numbers, empty = sheet.numbers(name)
        if column.default is not None:
            numbers = np.where(empty, column.default, numbers)
        wrong = np.isnan(numbers) | column.wrong(numbers)
        if wrong.any():
            at = int(wrong.argmax())
            raise sheet.error(at, name, f"must be {column.told}", client=at)
        fields[column.field] = numbers * column.unit
    early = fields["leaves"] <= fields["joins"]
    if early.any():
        at = int(early.argmax())
        told = f"must be more than joins_hour={fields['joins'][at] / 3600:g} (a client joins before it leaves)"
        raise sheet.error(at, "leaves_hour", told, client=at)
    return Fleet(**{name: np.array(sheet.texts(name)) for name in ("device", "link")}, **fields)


def read_trace(path: str | Path, num_clients: int) -> Trace:
    """Read when clients are there from a CSV with the columns ``client, from, to`` and a line per window.

    Times are seconds after midnight of the clock's first day, as ``began`` and ``ended`` in the tables of ``simulate``.  A
    client may have several windows, which touch at most; ``to`` may be ``inf``.  Every client needs a line.  One whose
    ``from`` and ``to`` are empty is never there.  Separators and decimal commas are those of ``read_fleet``.

    Args:
        path: The file, in UTF-8.
        num_clients: How many clients there are, numbered from 0.

    Returns:
        The trace, for ``Fleet.with_trace`` or ``by_availability``.

    Raises:
        ValueError: For windows that are reversed or overlap, unknown clients, and clients without a line.

    Example:
        >>> trace = read_trace("trace.csv", num_clients=30)  # doctest: +SKIP
    """
    check_whole(1, num_clients=num_clients)
    sheet = _Sheet(path, ("client", "from", "to"), ("client", "from", "to"))
    client, (begins, ends) = (
        sheet.numbers("client")[0],
        (sheet.numbers(name) for name in ("from", "to")),
    )
    windows: list[list[tuple[float, float, int]]] = [[] for _ in range(num_clients)]
    met = np.zeros(num_clients, dtype=bool)
    for at, i in enumerate(client):
        if not (0 <= i < num_clients and i == int(i)):
            raise sheet.error(
                at,
                "client",
                f"must be a whole number from 0 to {num_clients - 1}, the number of a client",
            )
        met[int(i)] = True
        if begins[1][at] and ends[1][at]:
            continue
        begin, end = begins[0][at], ends[0][at]
        if not 0 <= begin < np.inf:
            raise sheet.error(
                at,
                "from",
                "must be at least 0 seconds after the start; leave from and to empty for never",
            )
        if not end > begin:
            raise sheet.error(
                at, "to", f"must be more than from={begin:g}, in seconds; add 86400 after midnight"
            )
        windows[int(i)].append((begin, end, at))
    if not met.all():
        missing = int(met.argmin())
        told = f"{sheet.name} has no line for client {missing}, and must have one for each of {num_clients} clients"
        raise ValueError(
            f"{told}. Try the line {sheet.separator.join((str(missing), '', ''))} if it is never there"
        )
    merged = [_merged(sheet, sorted(each)) for each in windows]
    times = np.full((2, num_clients, max(1, *map(len, merged))), np.inf)
    for i, each in enumerate(merged):
        times[:, i, : len(each)] = np.array(each).reshape(-1, 2).T
    return Trace(*times)


def _merged(sheet: _Sheet, windows: Sequence[tuple[float, float, int]]) -> list[list[float]]:
    """Windows of one client, ascending, as one where they touch."""
    merged: list[list[float]] = []
    for k, (begin, end, at) in enumerate(windows):
        if merged and begin < merged[-1][1]:
            told = f"must be at least {merged[-1][1]:g} (it overlaps the window of line {sheet.line(windows[k - 1][2])})"
            raise sheet.error(at, "from", f"{told}; make one window of both")
        if merged and begin == merged[-1][1]:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return merged


class _Sheet:
    """A CSV as people write them; errors name the line and the column."""

    def __init__(self, path: str | Path, known: Sequence[str], needed: Sequence[str]):
        if not isinstance(path, str | Path):
            raise ValueError(f"path={path!r:.80} must be the path of a CSV file. Try 'mine.csv'")
        self.name = Path(path).name
        if Path(path).is_dir():
            raise ValueError(
                f"path={str(path)!r} must be a CSV file, and it is a folder. Try '{path}/mine.csv'"
            )
        if not Path(path).exists():
            told = f"path={str(path)!r} must be a file, and there is none"
            raise FileNotFoundError(
                f"{told}. Try the whole path: a relative one begins at {Path.cwd()}"
            )
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            told = f"{self.name} must be text in UTF-8, and its byte {error.start} is not"
            raise ValueError(f"{told}. Try saving it as CSV UTF-8") from error
        first = next((line for line in text.splitlines() if line.strip()), "")
        self.separator = max(",;\t", key=first.count)
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=self.separator, skipinitialspace=True
        )
        lines = [
            (reader.line_num, [cell.strip() for cell in row])
            for row in reader
            if any(cell.strip() for cell in row)
        ]
        if not lines:
            raise ValueError(
                f"{self.name} is empty, and its first line must name the columns. Try {','.join(needed)}"
            )
        (_, header), *self._lines = lines
        self._header = [re.sub(r"[\s-]+", "_", name.lower()) for name in header]
        while self._header and not self._header[-1]:
            self._header.pop()
        if self._is_numbered():
            self._header, self._lines = (
                self._header[1:],
                [(line, row[1:]) for line, row in self._lines],
            )
        self._check_header(known, needed)
        for line, row in self._lines:
            while len(row) > len(self._header) and not row[-1]:
                row.pop()
            if len(row) != len(self._header):
                told = f"{self.name}, line {line}: it has {len(row)} cells and must have {len(self._header)}, one per column"
                raise ValueError(
                    f"{told}. Try a point in numbers, and quotes around a text with {self.separator!r}"
                )
        self._decimal_comma = self._find_comma()

    def _is_numbered(self) -> bool:
        """Whether the first column is the index that pandas writes: it has no name and counts the rows from 0."""
        counts = all(row[0] == str(k) for k, (_, row) in enumerate(self._lines))
        return len(self._header) > 1 and not self._header[0] and counts

    def _check_header(self, known: Sequence[str], needed: Sequence[str]) -> None:
        if missing := [name for name in needed if name not in self._header]:
            told = f"{self.name} has no column {missing[0]} and must have {', '.join(needed)}"
            raise ValueError(
                f"{told}. Try a first line with these names; it has {', '.join(self._header)}"
            )
        if strange := [name for name in self._header if name not in known]:
            raise ValueError(
                f"{self.name} has a column {strange[0]!r}, and may have {', '.join(known)}. Try it without"
            )
        if twice := [name for name in self._header if self._header.count(name) > 1]:
            raise ValueError(
                f"{self.name} has the column {twice[0]} twice, and must have it once. Try it without one"
            )
        if not self._lines:
            raise ValueError(
                f"{self.name} has no rows under its first line, and must have some. Try a line per client"
            )

    def _find_comma(self) -> bool:
        """Whether numbers have a decimal comma; ValueError where some have a comma and some a point."""
        marks: dict[str, int] = {}
        if self.separator == ",":
            return False
        for at, (_, row) in enumerate(self._lines):
            for name, cell in zip(self._header, row, strict=True):
                if name not in ("device", "link") and re.fullmatch(
                    r"[-+]?\d*[.,]\d+([eE][-+]?\d+)?", cell
                ):
                    marks["," if "," in cell else "."] = at
                    if len(marks) == 2:
                        raise self.error(
                            at,
                            name,
                            f"must have the decimal mark of line {self.line(min(marks.values()))}. Try 1.5 in both",
                        )
        return "," in marks

    def line(self, at: int) -> int:
        """The number in the file of a line under the first, counted from 0."""
        return self._lines[at][0]

    def texts(self, name: str) -> list[str]:
        """The cells of a column; empty where there is none of this name."""
        if name not in self._header:
            return [""] * len(self._lines)
        k = self._header.index(name)
        return [row[k] for _, row in self._lines]

    def numbers(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of a column, NaN where a cell has none, and which cells are empty."""
        cells = self.texts(name)
        empty = np.array(
            [cell.lower() in ("", "na", "n/a", "nan", "null", "none") for cell in cells]
        )
        values = [
            math.nan if nothing else self._number(cell)
            for nothing, cell in zip(empty, cells, strict=True)
        ]
        return np.array(values, dtype=float), empty

    def _number(self, cell: str) -> float:
        try:
            return float(
                cell.replace(",", ".") if self._decimal_comma and cell.count(",") == 1 else cell
            )
        except ValueError:
            return math.nan

    def error(self, at: int, name: str, told: str, client: int | None = None) -> ValueError:
        """The error of a cell, to be raised."""
        where = (
            f"{self.name}, line {self.line(at)}{'' if client is None else f' (client {client})'}"
        )
        cell = self.texts(name)[at]
        return ValueError(f"{where}: {name}={cell or 'nothing'} {told}{_meant(cell)}")


def _meant(cell: str) -> str:
    """Return the remedy for a cell that is a number in another writing; empty for others."""
    if re.fullmatch(r"[-+]?\d{1,3}([, '\u00a0\u202f]\d{3})+(\.\d+)?", cell):
        return f". Try {re.sub(r'[^-+.0-9]', '', cell)} if {cell!r} has a mark between thousands"
    if re.fullmatch(r"[-+]?\d+,\d+", cell):
        return f". Try {cell.replace(',', '.')}, with a point"
    if match := re.fullmatch(r"(\d{1,2}):(\d\d)", cell):
        return f". Try {int(match[1]) + int(match[2]) / 60:.4g}, in hours"
    if match := re.fullmatch(r"(\d+([.,]\d+)?)\s*%", cell):
        return f". Try {float(match[1].replace(',', '.')) / 100:g}, a share"
    return ""


PHONES = {"phone, flagship": 0.2, "phone, mid-range": 0.5, "phone, entry level": 0.3}
CELLS = {"home fibre": 0.5, "5G, world median": 0.3, "phone, pessimistic": 0.2}


def draw_fleet(
    num_clients: int,
    device_shares: Mapping[str, float] = PHONES,
    link_shares: Mapping[str, float] = CELLS,
    *,
    seed: int = 0,
    spread: bool = True,
    dropout: float = 0.0,
    hours: float = 24.0,
) -> Fleet:
    """Clients with the devices and links of data/, in these shares: as exactly as whole clients allow, in random order.

    With ``spread`` a client's speed and rates lie anywhere between its row's low and high, evenly on a logarithmic scale,
    which is a guess; without it, all of a kind are alike.  Each client is gone before it sends with probability
    ``dropout``.  What has a battery is there ``hours`` of the day, around half past two at night, give or take two hours;
    the rest always.
    """
    check_whole(1, num_clients=num_clients)
    if not (is_number(dropout) and 0 <= dropout < 1):
        raise ValueError(f"dropout={dropout!r}: a probability from 0 to below 1; try 0.1")
    if not (is_number(hours) and 0 < hours <= 24):
        raise ValueError(f"hours={hours!r}: of a day, above 0 and at most 24; try 8")
    draw = generator(seed, "fleet")
    mine = [
        devices()[name] for name in _dealt("device", device_shares, devices(), num_clients, draw)
    ]
    near = [links()[name] for name in _dealt("link", link_shares, links(), num_clients, draw)]

    def column(rows, name, unit=1.0):
        return np.array([getattr(row, name) for row in rows]) * unit

    def scatter(
        rows,
    ):  # one number for both ways of a link: who is far from the mast is so up and down
        low, high = np.log(column(rows, "low")), np.log(column(rows, "high"))
        luck = draw.random(num_clients)
        return np.exp(low + luck * (high - low)) if spread else np.ones(num_clients)

    speed, rate, battery = scatter(mine), scatter(near), column(mine, "battery", 3600.0)
    night = draw.normal(2.5, 2.0, num_clients)  # its middle, in hours
    zeros = np.zeros(num_clients)
    return Fleet(
        device=np.array([one.device for one in mine]),
        link=np.array([one.link for one in near]),
        flops=speed * column(mine, "teraflops", 1e12),
        memory=column(mine, "memory", 1e9),
        watts=column(mine, "watts"),
        battery=np.where(battery == 0, np.inf, battery),
        down=rate * column(near, "down", 1e6 / 8),
        up=rate * column(near, "up", 1e6 / 8),
        latency=column(near, "latency", 1e-3),
        jitter=column(near, "jitter", 1e-3),
        loss=column(near, "loss"),
        dropout=zeros + dropout,
        online_from=np.where(battery == 0, 0, (night - hours / 2) % 24 * 3600),
        online_for=np.where(battery == 0, DAY, hours * 3600),
        joins=zeros,
        leaves=zeros + np.inf,
    )


def _dealt(
    what: str,
    shares: Mapping[str, float],
    known: Mapping[str, Any],
    num_clients: int,
    draw: np.random.Generator,
) -> list[str]:
    """A name for each client, in these shares: as many of each as whole clients allow, in random order."""
    unknown = [name for name in shares if name not in known]
    if unknown:
        raise ValueError(f"{what} {unknown[0]!r}: data/ has {', '.join(known)}")
    wrong = [
        (name, share) for name, share in shares.items() if not (is_number(share) and share >= 0)
    ]
    if wrong or not sum(shares.values()) > 0:
        name, share = wrong[0] if wrong else (what, 0)
        raise ValueError(
            f"{name!r} has the share {share!r}: shares are at least 0, and one is above 0"
        )
    wanted = np.array(list(shares.values())) / sum(shares.values()) * num_clients
    count = np.floor(wanted).astype(int)
    more = np.argsort(count - wanted, kind="stable")[
        : num_clients - count.sum()
    ]  # the largest remainders
    count[more] += 1
    return draw.permutation(np.repeat(list(shares), count)).tolist()


# -- a piece of work


def fleet_of(fleet: Fleet | Callable[[int], Fleet], run: Run) -> Fleet:
    """The devices of a run's clients; ValueError where there are more or fewer."""
    if callable(fleet):
        try:
            inspect.signature(fleet).bind(run.seed)
        except TypeError as error:
            told = getattr(fleet, "__name__", repr(fleet))
            raise ValueError(
                f"fleet={told} must be a function of the seed. Try lambda seed: draw_fleet(30, seed=seed)"
            ) from error
    mine = fleet(run.seed) if callable(fleet) else fleet
    if not isinstance(mine, Fleet):
        raise ValueError(
            f"fleet is a {type(mine).__name__} and must be a Fleet, or a function of the seed for one. Try draw_fleet(30)"
        )
    if callable(fleet):
        check_repeatable("fleet", fleet, mine, partial(fleet, run.seed), _columns)
    if mine.num_clients != run.data.num_clients:
        told = (
            f"the fleet has {mine.num_clients} devices and the data {run.data.num_clients} clients"
        )
        raise ValueError(f"{told}: give each client a device")
    return mine


def _columns(fleet: Fleet) -> list[np.ndarray]:
    return [column for column in fleet if isinstance(column, np.ndarray)]


class _Operations(TorchDispatchMode):
    """Counts the operations of matrix products, as PyTorch's FlopCounterMode does, whose first use imports a compiler."""

    total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled: no torch._dynamo, seconds in which Ctrl-C would leave it half imported

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        counted = flop_registry.get(func._overloadpacket)
        if counted is None:
            with self:  # some are made of others that count
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        out = func(*args, **kwargs)
        self.total += counted(*args, **kwargs, out_val=out)
        return out


def training_flops(task: Task, x: Tensor, y: Tensor, backend: Train = batched) -> float:
    """Return the operations of a training step an example, as PyTorch counts those of its matrix products.

    A step goes forward and backward, with ``zeroth_order`` twice forward.  Up to 32 of the examples are counted; of
    texts, as long as these are.

    Args:
        task: The model and its loss.
        x: Examples ``[n, ...]``.
        y: Their labels ``[n, ...]``.
        backend: Engine that trains.

    Returns:
        Operations (FLOP).

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> digits = load("digits", 6)
        >>> training_flops(mlp(digits, hidden=(32,)), digits.x, digits.y)
        10112.0
    """
    while isinstance(backend, partial):
        backend = backend.func
    x, y = params.as_numbers(x[:32]), y[:32]
    w = torch.cat([torch.zeros(shape.numel()) for shape in task.shapes.values()])
    w = (w.to(x.device, x.dtype) if x.is_floating_point() else w.to(x.device)).requires_grad_()
    with _Operations() as counter:
        if backend is zeroth_order:
            with torch.no_grad():
                task.loss(task.forward(w, x), y)
            return 2 * counter.total / len(x)
        torch.autograd.grad(task.loss(task.forward(w, x), y).mean(), w)
    return counter.total / len(x)
