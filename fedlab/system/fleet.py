"""Fleets: a device and a link per client, and the hours in which it is online."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedlab.core import generator
from fedlab.core.names import join_names
from fedlab.core.repeats import check_repeatable
from fedlab.core.validate import check_whole, is_number
from fedlab.system.devices import RADIO_WATTS, devices, links
from fedlab.system.fleet_columns import COLUMNS
from fedlab.system.trace import DAY, Trace

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.engine import Run

PHONES = {"phone, flagship": 0.2, "phone, mid-range": 0.5, "phone, entry level": 0.3}
CELLS = {"home fibre": 0.5, "5G, world median": 0.3, "phone, pessimistic": 0.2}


class Fleet(NamedTuple):
    """The clients' devices and links: one row per client, in SI units and bytes.

    ``draw_fleet`` draws a fleet, ``read_fleet`` reads one from a file. Every column is ``[N]``.

    Attributes:
        device: Names of the devices.
        link: Names of the links.
        flops: FLOP/s that training reaches.
        memory: Bytes that training may use.
        watts: Power while a device computes.
        battery: Joules; infinite on the mains.
        down: Download rate in bytes/s.
        up: Upload rate in bytes/s.
        latency: Delay in one direction, in seconds.
        jitter: Mean of the additional delay of a transfer, in seconds.
        loss: Share of the bytes that has to be sent again.
        dropout: Probability that a client drops out before it begins to send.
        online_from: Seconds after midnight from which a client is online (charging, on Wi-Fi,
            idle).
        online_for: Seconds of the day for which it is online; 86,400 is always.
        joins: Time of the clock from which the client exists.
        leaves: Time of the clock at which it leaves.
        trace: Windows in which clients are online, in place of the four columns before.
    """

    device: np.ndarray
    link: np.ndarray
    flops: np.ndarray
    memory: np.ndarray
    watts: np.ndarray
    battery: np.ndarray
    down: np.ndarray
    up: np.ndarray
    latency: np.ndarray
    jitter: np.ndarray
    loss: np.ndarray
    dropout: np.ndarray
    online_from: np.ndarray
    online_for: np.ndarray
    joins: np.ndarray
    leaves: np.ndarray
    trace: Trace | None = None

    @property
    def num_clients(self) -> int:
        """Return the number of clients."""
        return len(self.flops)

    def fetching(
        self, ids: np.ndarray, bytes_down: np.ndarray, jitter_factor: float | np.ndarray = 0
    ) -> np.ndarray:
        """Return the seconds of a download to each client, ``[m]``.

        Args:
            ids: Numbers of the clients, ``[m]``.
            bytes_down: Size of each download.
            jitter_factor: Multiple of the mean jitter; 1 on average, 0 for no jitter.

        Returns:
            Seconds, ``[m]``.

        Example:
            >>> fleet = draw_fleet(2, {"laptop": 1}, {"3G": 1}, spread=False)
            >>> fleet.fetching(np.arange(2), 1e6).round(3).tolist()
            [2.141, 2.141]
        """
        return (
            self.latency[ids]
            + jitter_factor * self.jitter[ids]
            + bytes_down / (self.down[ids] * (1 - self.loss[ids]))
        )

    def sending(
        self, ids: np.ndarray, bytes_up: np.ndarray, jitter_factor: float | np.ndarray = 0
    ) -> np.ndarray:
        """Return the seconds of an upload from each client, ``[m]``.

        Args:
            ids: Numbers of the clients, ``[m]``.
            bytes_up: Size of each upload.
            jitter_factor: Multiple of the mean jitter; 1 on average, 0 for no jitter.

        Returns:
            Seconds, ``[m]``.
        """
        return (
            self.latency[ids]
            + jitter_factor * self.jitter[ids]
            + bytes_up / (self.up[ids] * (1 - self.loss[ids]))
        )

    def computing(self, ids: np.ndarray, flops: np.ndarray) -> np.ndarray:
        """Return the seconds that each client needs for ``flops`` operations, ``[m]``."""
        return flops / self.flops[ids]

    def joules(self, ids: np.ndarray, computing: np.ndarray, radio: np.ndarray) -> np.ndarray:
        """Return the energy of each client, ``[m]``.

        Args:
            ids: Numbers of the clients, ``[m]``.
            computing: Seconds of computing.
            radio: Seconds of sending and receiving.

        Returns:
            Joules, ``[m]``.
        """
        return self.watts[ids] * computing + RADIO_WATTS * radio

    def round_costs(
        self, ids: np.ndarray, bytes_down: np.ndarray, flops: np.ndarray, bytes_up: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the time and energy of a round without jitter.

        Args:
            ids: Numbers of the clients, ``[m]``.
            bytes_down: Size of each download.
            flops: Operations of each client.
            bytes_up: Size of each upload.

        Returns:
            Seconds of ``fetching``, ``computing`` and ``sending``, and the ``joules``, each
            ``[m]``.
        """
        costs = {
            "fetching": self.fetching(ids, bytes_down),
            "computing": self.computing(ids, flops),
            "sending": self.sending(ids, bytes_up),
        }
        radio = costs["fetching"] + costs["sending"]
        return costs | {"joules": self.joules(ids, costs["computing"], radio)}

    def subset(self, ids: np.ndarray) -> Fleet:
        """Return the fleet of the clients ``ids``, in this order."""
        *columns, trace = self
        return Fleet(
            *(column[ids] for column in columns), None if trace is None else trace.subset(ids)
        )

    def with_trace(self, trace: Trace) -> Fleet:
        """Return the fleet whose clients are online within the windows of ``trace`` only.

        Args:
            trace: Windows of as many clients as the fleet has, from ``read_trace``.

        Returns:
            The fleet with the trace.

        Raises:
            ValueError: If the trace has another number of clients, or the fleet already has hours,
                arrivals or departures.

        Example:
            >>> windows = Trace(np.zeros((2, 1)), np.full((2, 1), 60.0))
            >>> fleet = draw_fleet(2).with_trace(windows)
            >>> fleet.is_online(np.arange(2), 90.0).tolist()
            [False, False]
        """
        if not isinstance(trace, Trace):
            raise ValueError(
                f"trace={trace!r:.80} must be a Trace, as read_trace gives it. "
                f'Try read_trace("trace.csv", {self.num_clients})'
            )
        if trace.num_clients != self.num_clients:
            raise ValueError(
                f"the trace has {trace.num_clients} clients and the fleet {self.num_clients}, and "
                f"both must have the same. Try read_trace(path, {self.num_clients}), or a fleet "
                f"of {trace.num_clients}"
            )
        if self.has_absences:
            reason = "a trace takes the place of hours of the day, arrivals and departures"
            raise ValueError(
                f"the fleet must have no hours of its own ({reason}). Try draw_fleet with hours=24"
            )
        return self._replace(trace=trace)

    @property
    def has_absences(self) -> bool:
        """Return whether any client is offline at any time."""
        absences = [(self.online_for < DAY).any(), (self.joins > 0).any()]
        absences += [(self.leaves < np.inf).any(), self.trace is not None]
        return any(map(bool, absences))

    def is_online(self, ids: np.ndarray, time: float) -> np.ndarray:
        """Return whether each client may work at ``time``, ``[m]``.

        Example:
            >>> draw_fleet(1, {"laptop": 1}, hours=8).is_online(np.array([0]), 15 * 3600.0).tolist()
            [False]
        """
        if self.trace is not None:
            return self.trace.is_online(ids, time)
        in_window = (time - self.online_from[ids]) % DAY < self.online_for[ids]
        return in_window & (self.joins[ids] <= time) & (time < self.leaves[ids])

    def offline_at(self, ids: np.ndarray, time: float) -> np.ndarray:
        """Return the time at which each client goes offline, ``[m]``; clients must be online."""
        if self.trace is not None:
            return self.trace.offline_at(ids, time)
        opened = time - (time - self.online_from[ids]) % DAY
        window = np.where(self.online_for[ids] >= DAY, np.inf, opened + self.online_for[ids])
        return np.minimum(window, self.leaves[ids])

    def next_online(self, ids: np.ndarray, time: float) -> np.ndarray:
        """Return the earliest time from ``time`` on at which each client is online, ``[m]``.

        It is infinite for clients that have left.
        """
        if self.trace is not None:
            return self.trace.next_online(ids, time)
        earliest = np.maximum(time, self.joins[ids])
        since = (earliest - self.online_from[ids]) % DAY
        # A microsecond later, as times are rounded.
        start = np.where(since < self.online_for[ids], earliest, earliest + DAY - since + 1e-6)
        return np.where(start < self.leaves[ids], start, np.inf)

    def slower(self, sent: float, computed: float | None = None) -> Fleet:
        """Return a fleet on which a small model takes as long as a larger one.

        Args:
            sent: Factor by which the larger model sends more bytes, above 0.
            computed: Factor by which it computes more; ``sent`` if left out.

        Returns:
            The fleet with lower rates and speed.

        Raises:
            ValueError: If a factor is not above 0.

        Example:
            >>> fleet = draw_fleet(1)
            >>> bool(fleet.slower(10).up[0] == fleet.up[0] / 10)
            True
        """
        computed = sent if computed is None else computed
        for name, factor in {"sent": sent, "computed": computed}.items():
            if not (is_number(factor) and factor > 0):
                raise ValueError(
                    f"{name}={factor!r} must be a number above 0. "
                    "Try 1000, which makes 50 million parameters of 50 thousand"
                )
        return self._replace(flops=self.flops / computed, down=self.down / sent, up=self.up / sent)

    def table(self) -> pd.DataFrame:
        """Return the fleet in the columns and units of a file for ``read_fleet``, without trace.

        Example:
            >>> list(draw_fleet(3).table())[:4]
            ['device', 'link', 'gigaflops', 'watts']
        """
        import pandas as pd

        columns = {
            name: getattr(self, column.field) / column.unit for name, column in COLUMNS.items()
        }
        return pd.DataFrame({"device": self.device, "link": self.link} | columns)


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
    """Draw clients with devices and links of the tables, in given shares.

    Counts follow the shares as exactly as whole clients allow; the order is random. Devices with
    a battery are online ``hours`` of the day, around half past two at night. The middle of these
    hours varies with a standard deviation of two hours. Devices on the mains are always online.

    Args:
        num_clients: Number of clients.
        device_shares: Share of each device of ``devices()``; they need not sum to 1.
        link_shares: Share of each link of ``links()``, likewise.
        seed: Seed of the draw.
        spread: Draw each client's speed and rates between its row's low and high, evenly on a
            logarithmic scale (a guess). Otherwise all clients of a kind are alike.
        dropout: Probability that a client drops out before it sends, from 0 to below 1.
        hours: Hours a day that a device with a battery is online, above 0 and at most 24.

    Returns:
        The fleet.

    Raises:
        ValueError: If an argument is out of range, or a device or link is not in the tables.

    Example:
        >>> fleet = draw_fleet(4, {"laptop": 1, "phone, flagship": 3}, seed=1)
        >>> int((fleet.device == "laptop").sum())
        1
    """
    check_whole(1, num_clients=num_clients)
    if not (is_number(dropout) and 0 <= dropout < 1):
        raise ValueError(
            f"dropout={dropout!r} must be a probability from 0 to below 1. Try dropout=0.1"
        )
    if not (is_number(hours) and 0 < hours <= 24):
        raise ValueError(f"hours={hours!r} must be above 0 and at most 24 (of a day). Try hours=8")
    draw = generator(seed, "fleet")
    device_rows = _deal("device", device_shares, devices(), num_clients, draw)
    link_rows = _deal("link", link_shares, links(), num_clients, draw)
    # One factor for both directions of a link: far from the mast, both are slow.
    speed = _scatter(device_rows, draw, spread)
    rate = _scatter(link_rows, draw, spread)
    battery = _column(device_rows, "battery", 3600.0)
    middle_of_night = draw.normal(2.5, 2.0, num_clients)  # hours
    zeros = np.zeros(num_clients)
    return Fleet(
        device=np.array([row.device for row in device_rows]),
        link=np.array([row.link for row in link_rows]),
        flops=speed * _column(device_rows, "teraflops", 1e12),
        memory=_column(device_rows, "memory", 1e9),
        watts=_column(device_rows, "watts"),
        battery=np.where(battery == 0, np.inf, battery),
        down=rate * _column(link_rows, "down", 1e6 / 8),
        up=rate * _column(link_rows, "up", 1e6 / 8),
        latency=_column(link_rows, "latency", 1e-3),
        jitter=_column(link_rows, "jitter", 1e-3),
        loss=_column(link_rows, "loss"),
        dropout=zeros + dropout,
        online_from=np.where(battery == 0, 0, (middle_of_night - hours / 2) % 24 * 3600),
        online_for=np.where(battery == 0, DAY, hours * 3600),
        joins=zeros,
        leaves=zeros + np.inf,
    )


def _column(rows: list[Any], name: str, unit: float = 1.0) -> np.ndarray:
    """Return a field of all rows in SI units."""
    return np.array([getattr(row, name) for row in rows]) * unit


def _scatter(rows: list[Any], draw: np.random.Generator, spread: bool) -> np.ndarray:
    """Return a factor between low and high per row; 1 without spread, after the same draws."""
    low, high = np.log(_column(rows, "low")), np.log(_column(rows, "high"))
    position = draw.random(len(rows))
    return np.exp(low + position * (high - low)) if spread else np.ones(len(rows))


def _deal(
    kind: str,
    shares: Mapping[str, float],
    table: Mapping[str, Any],
    num_clients: int,
    draw: np.random.Generator,
) -> list[Any]:
    """Return a row of the table per client, in these shares and in random order."""
    if unknown := [name for name in shares if name not in table]:
        raise ValueError(f"{kind} {unknown[0]!r} must be in the table. Try {join_names(table)}")
    wrong = [
        (name, share) for name, share in shares.items() if not (is_number(share) and share >= 0)
    ]
    if wrong or not sum(shares.values()) > 0:
        name, share = wrong[0] if wrong else (kind, 0)
        raise ValueError(
            f"{name!r} has the share {share!r}, and shares must be at least 0, one of them above "
            f"0. Try {{{next(iter(table))!r}: 1}}"
        )
    wanted = np.array(list(shares.values())) / sum(shares.values()) * num_clients
    count = np.floor(wanted).astype(int)
    largest_remainders = np.argsort(count - wanted, kind="stable")[: num_clients - count.sum()]
    count[largest_remainders] += 1
    return [table[name] for name in draw.permutation(np.repeat(list(shares), count)).tolist()]


def resolve_fleet(fleet: Fleet | Callable[[int], Fleet], run: Run) -> Fleet:
    """Return the fleet of a run, which may be a function of the seed.

    Raises ValueError if the fleet and the data have different numbers of clients.
    """
    if callable(fleet):
        try:
            inspect.signature(fleet).bind(run.seed)
        except TypeError as error:
            name = getattr(fleet, "__name__", repr(fleet))
            raise ValueError(
                f"fleet={name} must be a function of the seed. "
                "Try lambda seed: draw_fleet(30, seed=seed)"
            ) from error
    made = fleet(run.seed) if callable(fleet) else fleet
    if not isinstance(made, Fleet):
        raise ValueError(
            f"fleet is a {type(made).__name__} and must be a Fleet, or a function of the seed for "
            "one. Try draw_fleet(30)"
        )
    if callable(fleet):
        check_repeatable("fleet", fleet, made, partial(fleet, run.seed), _arrays)
    if made.num_clients != run.data.num_clients:
        raise ValueError(
            f"the fleet has {made.num_clients} devices and must have one per client of the data, "
            f"{run.data.num_clients}. Try draw_fleet({run.data.num_clients})"
        )
    return made


def _arrays(fleet: Fleet) -> list[np.ndarray]:
    return [column for column in fleet if isinstance(column, np.ndarray)]
