"""What clients compute and send with, when they are there, and what a piece of work takes them: seconds and joules.

Devices and links are rows of data/devices.csv and data/networks.csv, whose figures are cited or assumed; a ``Fleet`` has a
device and a link for each client, drawn from such rows under a seed, or read from a file of one's own measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import numpy as np
import torch
from torch import Tensor

from fedlab.checks import check_whole, is_number
from fedlab.records import Task
from fedlab.rng import generator

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.rounds import Run

TABLES = Path(__file__).parents[2] / "data"
BASES = ("measured", "cited", "assumed")  # the strongest first
RADIO = 2.0  # watts of a radio that sends or receives, assumed; from half to twice that
DAY = 86400.0  # seconds


class Figure(NamedTuple):
    """A number between ``low`` and ``high``, and what it rests on."""

    value: float
    low: float
    high: float
    basis: str

    def __mul__(self, other: float | Figure) -> Figure:
        other = other if isinstance(other, Figure) else exactly(other)
        ends = self.low * other.low, self.high * other.high
        return Figure(self.value * other.value, *ends, weakest(self, other))

    def __truediv__(self, other: Figure) -> Figure:
        return self * Figure(1 / other.value, 1 / other.high, 1 / other.low, other.basis)

    def __add__(self, other: Figure) -> Figure:
        ends = self.low + other.low, self.high + other.high
        return Figure(self.value + other.value, *ends, weakest(self, other))


def exactly(value: float, basis: str = "cited") -> Figure:
    return Figure(value, value, value, basis)


def weakest(*figures: Figure) -> str:
    return max((figure.basis for figure in figures), key=BASES.index)


class Device(NamedTuple):
    """What trains; a row of data/devices.csv, of which low and high are shares of its speed."""

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
    def speed(self) -> Figure:
        """FLOP/s."""
        flops = self.teraflops * 1e12
        return Figure(flops, flops * self.low, flops * self.high, self.basis)

    @property
    def power(self) -> Figure:
        return Figure(self.watts, self.watts_low, self.watts_high, self.basis)


class Link(NamedTuple):
    """A way to the server, in Mbit/s; a row of data/networks.csv, of which low and high are shares of the rates."""

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

    def rate(self, way: str) -> Figure:
        """Bytes a second, "up" or "down"."""
        value = getattr(self, way) * 1e6 / 8
        return Figure(value, value * self.low, value * self.high, self.basis)

    def seconds(self, way: str, size: float) -> float:
        """Until so many bytes are there, without jitter."""
        return self.latency / 1e3 + size / (self.rate(way).value * (1 - self.loss))


@cache
def devices() -> dict[str, Device]:
    """Those of data/devices.csv, by name."""
    return {row["device"]: Device(**row) for row in rows_of("devices.csv", Device)}


@cache
def links() -> dict[str, Link]:
    """Those of data/networks.csv, by name."""
    return {row["link"]: Link(**row) for row in rows_of("networks.csv", Link)}


def rows_of(file: str, kind: type) -> list[dict]:
    """The rows of a table in data/, in the types of a record."""
    import csv

    made = {int: lambda text: int(text or 0), float: float, bool: lambda text: text == "yes", str: str}
    with (TABLES / file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [{name: made[of](row[name]) for name, of in get_type_hints(kind).items()} for row in rows]


# -- a fleet


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
    opens: np.ndarray  # seconds after midnight from which it is there: charging, on Wi-Fi, idle
    stays: np.ndarray  # seconds of the day that it is; 86,400 is always
    joins: np.ndarray  # seconds of the clock from which it exists
    leaves: np.ndarray  # and until when

    @property
    def num_clients(self) -> int:
        return len(self.flops)

    def fetching(self, ids: np.ndarray, bytes_down: np.ndarray, late: float | np.ndarray = 0) -> np.ndarray:
        """Seconds until so many bytes are there, ``[m]``; ``late`` is the luck of the jitter, 1 on average."""
        return self.latency[ids] + late * self.jitter[ids] + bytes_down / (self.down[ids] * (1 - self.loss[ids]))

    def sending(self, ids: np.ndarray, bytes_up: np.ndarray, late: float | np.ndarray = 0) -> np.ndarray:
        """Likewise on the way up."""
        return self.latency[ids] + late * self.jitter[ids] + bytes_up / (self.up[ids] * (1 - self.loss[ids]))

    def computing(self, ids: np.ndarray, flops: np.ndarray) -> np.ndarray:
        """Seconds of so many operations, ``[m]``."""
        return flops / self.flops[ids]

    def joules(self, ids: np.ndarray, computing: np.ndarray, radio: np.ndarray) -> np.ndarray:
        """The energy of so many seconds of either, ``[m]``."""
        return self.watts[ids] * computing + RADIO * radio

    def round(
        self, ids: np.ndarray, bytes_down: np.ndarray, flops: np.ndarray, bytes_up: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Seconds of ``fetching``, ``computing`` and ``sending``, and the ``joules``, each ``[m]``: without jitter."""
        took = {"fetching": self.fetching(ids, bytes_down), "computing": self.computing(ids, flops)}
        took["sending"] = self.sending(ids, bytes_up)
        return took | {"joules": self.joules(ids, took["computing"], took["fetching"] + took["sending"])}

    def some(self, ids: np.ndarray) -> Fleet:
        """Those of these numbers, in this order."""
        return Fleet(*(column[ids] for column in self))

    def there(self, ids: np.ndarray, now: float) -> np.ndarray:
        """Whether each may work now, ``[m]``."""
        open_now = (now - self.opens[ids]) % DAY < self.stays[ids]
        return open_now & (self.joins[ids] <= now) & (now < self.leaves[ids])

    def closes(self, ids: np.ndarray, now: float) -> np.ndarray:
        """The time at which each of those that are there will not be, ``[m]``."""
        window = np.where(self.stays[ids] >= DAY, np.inf, now - (now - self.opens[ids]) % DAY + self.stays[ids])
        return np.minimum(window, self.leaves[ids])

    def next_there(self, ids: np.ndarray, now: float) -> np.ndarray:
        """The earliest time from now on at which each is there, ``[m]``; infinite for who has left."""
        from_now = np.maximum(now, self.joins[ids])
        since = (from_now - self.opens[ids]) % DAY
        at = np.where(since < self.stays[ids], from_now, from_now + DAY - since + 1e-6)  # a moment later: times are rounded
        return np.where(at < self.leaves[ids], at, np.inf)

    def slower(self, sent: float, computed: float | None = None) -> Fleet:
        """As if what is sent were so many times as large, and what is computed (if nothing is said, as many): the clock of
        a larger model than is trained.
        """
        computed = sent if computed is None else computed
        for name, times in {"sent": sent, "computed": computed}.items():
            if not (is_number(times) and times > 0):
                raise ValueError(f"{name}={times!r}: above 0; 1000 makes of 50 thousand parameters 50 million")
        return self._replace(flops=self.flops / computed, down=self.down / sent, up=self.up / sent)

    def table(self) -> pd.DataFrame:
        """In the units of a file that ``read_fleet`` reads, which are those that people measure in."""
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


def _below_0(value):
    return ~((value >= 0) & (value < np.inf))


def _no_share(value):
    return ~((value >= 0) & (value < 1))


def _no_hour(value):
    return ~((value >= 0) & (value < 24))


def _no_span(value):
    return ~((value > 0) & (value <= 24))


COLUMNS = {
    "gigaflops": Column("flops", 1e9, None, _not_above_0, "above 0, what training reaches in GFLOP/s"),
    "watts": Column("watts", 1, None, _below_0, "at least 0, while it computes"),
    "down_mbit": Column("down", 1e6 / 8, None, _not_above_0, "above 0 Mbit/s; leave out clients without a link"),
    "up_mbit": Column("up", 1e6 / 8, None, _not_above_0, "above 0 Mbit/s; leave out clients without a link"),
    "memory_gb": Column("memory", 1e9, math.inf, _not_above_0, "above 0 GB; leave it empty if it does not matter"),
    "battery_wh": Column("battery", 3600, math.inf, _not_above_0, "above 0 Wh; leave it empty on the mains"),
    "latency_ms": Column("latency", 1e-3, 0, _below_0, "at least 0 ms, one way"),
    "jitter_ms": Column("jitter", 1e-3, 0, _below_0, "at least 0 ms on average"),
    "loss": Column("loss", 1, 0, _no_share, "a share from 0 to below 1"),
    "dropout": Column("dropout", 1, 0, _no_share, "a probability from 0 to below 1"),
    "from_hour": Column("opens", 3600, 0, _no_hour, "an hour of the day, from 0 to below 24"),
    "hours": Column("stays", 3600, 24, _no_span, "hours a day, above 0 and at most 24"),
    "joins_hour": Column("joins", 3600, 0, _below_0, "at least 0 hours after the start"),
    "leaves_hour": Column("leaves", 3600, math.inf, _not_above_0, "above 0 hours after the start; empty for never"),
}


def read_fleet(path: str | Path) -> Fleet:
    """A fleet of one's own measurements, a CSV with a client a row, in the order of their numbers.

    It must have ``gigaflops, watts, down_mbit, up_mbit``; it may have ``device, link`` (names), ``memory_gb, battery_wh,
    latency_ms, jitter_ms, loss, dropout, from_hour, hours, joins_hour, leaves_hour``.  Raises ValueError, with row, value
    and remedy, for what cannot be.
    """
    import pandas as pd

    path = Path(path)
    table = pd.read_csv(path, skipinitialspace=True)
    known = [*COLUMNS, "device", "link"]
    needed = [name for name, column in COLUMNS.items() if column.default is None]
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(f"{path.name} has no column {missing[0]}: it needs {', '.join(needed)}")
    strange = [name for name in table if name not in known]
    if strange:
        raise ValueError(f"{path.name} has a column {strange[0]!r}: there may be {', '.join(known)}")
    if table.empty:
        raise ValueError(f"{path.name} has no rows: give one a client")
    fields = {}
    for name, column in COLUMNS.items():
        values = table.get(name, pd.Series(np.nan, index=table.index))
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
        empty = values.isna().to_numpy()
        if column.default is not None:
            numbers = np.where(empty, column.default, numbers)
        wrong = np.isnan(numbers) | column.wrong(numbers)
        if wrong.any():
            at = int(wrong.argmax())
            told = "nothing" if empty[at] else values.iloc[at]
            raise ValueError(f"{path.name}, row {at + 2} (client {at}): {name}={told}: it is {column.told}")
        fields[column.field] = numbers * column.unit
    early = fields["leaves"] <= fields["joins"]
    if early.any():
        at = int(early.argmax())
        told = f"leaves_hour={fields['leaves'][at] / 3600:g} and joins_hour={fields['joins'][at] / 3600:g}"
        raise ValueError(f"{path.name}, row {at + 2} (client {at}): {told}: who leaves has joined before")
    names = {name: table.get(name, pd.Series("", index=table.index)).fillna("").to_numpy(str) for name in ("device", "link")}
    return Fleet(**names, **fields)


PHONES = {"phone, flagship": 0.2, "phone, mid-range": 0.5, "phone, entry level": 0.3}
CELLS = {"home fibre": 0.5, "5G, world median": 0.3, "phone, pessimistic": 0.2}


def draw_fleet(
    num_clients: int,
    kinds: Mapping[str, float] = PHONES,
    ways: Mapping[str, float] = CELLS,
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
    mine = [devices()[name] for name in _dealt("device", kinds, devices(), num_clients, draw)]
    near = [links()[name] for name in _dealt("link", ways, links(), num_clients, draw)]

    def column(rows, name, unit=1.0):
        return np.array([getattr(row, name) for row in rows]) * unit

    def scatter(rows):  # one number for both ways of a link: who is far from the mast is so up and down
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
        opens=np.where(battery == 0, 0, (night - hours / 2) % 24 * 3600),
        stays=np.where(battery == 0, DAY, hours * 3600),
        joins=zeros,
        leaves=zeros + np.inf,
    )


def _dealt(
    what: str, shares: Mapping[str, float], known: Mapping[str, Any], num_clients: int, draw: np.random.Generator
) -> list[str]:
    """A name for each client, in these shares: as many of each as whole clients allow, in random order."""
    unknown = [name for name in shares if name not in known]
    if unknown:
        raise ValueError(f"{what} {unknown[0]!r}: data/ has {', '.join(known)}")
    wrong = [(name, share) for name, share in shares.items() if not (is_number(share) and share >= 0)]
    if wrong or not sum(shares.values()) > 0:
        name, share = wrong[0] if wrong else (what, 0)
        raise ValueError(f"{name!r} has the share {share!r}: shares are at least 0, and one is above 0")
    wanted = np.array(list(shares.values())) / sum(shares.values()) * num_clients
    count = np.floor(wanted).astype(int)
    more = np.argsort(count - wanted, kind="stable")[: num_clients - count.sum()]  # the largest remainders
    count[more] += 1
    return draw.permutation(np.repeat(list(shares), count)).tolist()


# -- a piece of work


def fleet_of(fleet: Fleet | Callable[[int], Fleet], run: Run) -> Fleet:
    """The devices of a run's clients; ValueError where there are more or fewer."""
    mine = fleet(run.seed) if callable(fleet) else fleet
    if mine.num_clients != run.data.num_clients:
        told = f"the fleet has {mine.num_clients} devices and the data {run.data.num_clients} clients"
        raise ValueError(f"{told}: give each client a device")
    return mine


def training_flops(task: Task, x: Tensor, y: Tensor) -> float:
    """Operations of a training step an example, forward and backward, as PyTorch counts those of its matrix products.

    Counted on up to 32 of the examples; of texts, as long as these are.
    """
    from torch.utils.flop_counter import FlopCounterMode

    x, y = x[:32], y[:32]
    w = torch.cat([torch.zeros(shape.numel()) for shape in task.shapes.values()])
    w = (w.to(x.device, x.dtype) if x.is_floating_point() else w.to(x.device)).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(task.loss(task.forward(w, x), y).mean(), w)
    return counter.get_total_flops() / len(x)
