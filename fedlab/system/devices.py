"""Devices and network links, as cited or assumed figures with an interval.

Their rows stand in ``tables/devices.csv`` and ``tables/networks.csv`` beside this file.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import NamedTuple, get_type_hints

TABLES = resources.files("fedlab.system") / "tables"
BASES = ("measured", "cited", "assumed")  # the strongest first
RADIO_WATTS = 2.0  # of a radio that sends or receives, assumed; the interval is half to twice that


class Estimate(NamedTuple):
    """A figure with an interval and the basis that it rests on.

    Products, quotients and sums of estimates have an interval too, and the weakest basis.

    Attributes:
        value: The figure itself.
        low: Lower end of the interval.
        high: Upper end of the interval.
        basis: One of "measured", "cited" and "assumed".

    Example:
        >>> Estimate(4, 2, 8, "measured") * Estimate(2, 1, 4, "assumed")
        Estimate(value=8, low=2, high=32, basis='assumed')
        >>> Estimate(4, 2, 8, "measured") + exact(1)
        Estimate(value=5, low=3, high=9, basis='cited')
    """

    value: float
    low: float
    high: float
    basis: str

    def __mul__(self, factor: float | Estimate) -> Estimate:
        factor = factor if isinstance(factor, Estimate) else exact(factor)
        ends = self.low * factor.low, self.high * factor.high
        return Estimate(self.value * factor.value, *ends, weakest_basis(self, factor))

    def __truediv__(self, divisor: Estimate) -> Estimate:
        inverse = Estimate(1 / divisor.value, 1 / divisor.high, 1 / divisor.low, divisor.basis)
        return self * inverse

    def __add__(self, term: Estimate) -> Estimate:
        ends = self.low + term.low, self.high + term.high
        return Estimate(self.value + term.value, *ends, weakest_basis(self, term))


def exact(value: float, basis: str = "cited") -> Estimate:
    """Return an estimate whose interval is a single point.

    Example:
        >>> exact(5)
        Estimate(value=5, low=5, high=5, basis='cited')
    """
    return Estimate(value, value, value, basis)


def weakest_basis(*estimates: Estimate) -> str:
    """Return the weakest basis of several estimates."""
    return max((estimate.basis for estimate in estimates), key=BASES.index)


class Device(NamedTuple):
    """A device that trains: a row of ``tables/devices.csv``.

    Attributes:
        device: Name of the device.
        teraflops: Speed that training reaches, in TFLOP/s.
        low: Lower end of the speed, as a share of ``teraflops``.
        high: Upper end of the speed, as a share of ``teraflops``.
        memory: Memory that training may use, in GB.
        watts: Power while it computes.
        watts_low: Lower end of the power.
        watts_high: Upper end of the power.
        battery: Capacity in Wh; 0 for devices on the mains.
        basis: One of "measured", "cited" and "assumed".
        source: Reference of the figures.
    """

    device: str
    teraflops: float
    low: float
    high: float
    memory: float
    watts: float
    watts_low: float
    watts_high: float
    battery: float
    basis: str
    source: str

    @property
    def speed(self) -> Estimate:
        """Return the speed in FLOP/s."""
        flops = self.teraflops * 1e12
        return Estimate(flops, flops * self.low, flops * self.high, self.basis)

    @property
    def power(self) -> Estimate:
        """Return the power in watts."""
        return Estimate(self.watts, self.watts_low, self.watts_high, self.basis)


class Link(NamedTuple):
    """A network link to the server: a row of ``tables/networks.csv``.

    Attributes:
        link: Name of the link.
        down: Download rate in Mbit/s.
        up: Upload rate in Mbit/s.
        low: Lower end of both rates, as a share of them.
        high: Upper end of both rates, as a share of them.
        latency: Delay in one direction, in ms.
        jitter: Mean of the additional, random delay, in ms.
        loss: Share of the bytes that has to be sent again.
        basis: One of "measured", "cited" and "assumed".
        source: Reference of the figures.
    """

    link: str
    down: float
    up: float
    low: float
    high: float
    latency: float
    jitter: float
    loss: float
    basis: str
    source: str

    def rate(self, way: str) -> Estimate:
        """Return the rate in bytes/s; ``way`` is "up" or "down".

        Example:
            >>> Link("4G", 40, 8, 0.5, 2, 50, 10, 0.0, "assumed", "").rate("up")
            Estimate(value=1000000.0, low=500000.0, high=2000000.0, basis='assumed')
        """
        value = getattr(self, way) * 1e6 / 8
        return Estimate(value, value * self.low, value * self.high, self.basis)

    def seconds(self, way: str, size: float) -> float:
        """Return the seconds until ``size`` bytes have arrived, without jitter.

        Example:
            >>> Link("4G", 40, 8, 0.5, 2, 50, 10, 0.5, "assumed", "").seconds("up", 1e6)
            2.05
        """
        return self.latency / 1e3 + size / (self.rate(way).value * (1 - self.loss))


@cache
def devices() -> dict[str, Device]:
    """Return the devices of ``tables/devices.csv`` by name, in its order.

    Example:
        >>> devices()["laptop"].basis in BASES
        True
    """
    return {row["device"]: Device(**row) for row in read_table("devices.csv", Device)}


def client_devices() -> dict[str, Device]:
    """Return the devices that people carry: those with a battery, the slowest first.

    Example:
        >>> list(client_devices())[:2]
        ['wearable or hub', 'phone, entry level']
    """
    return {name: device for name, device in devices().items() if device.battery > 0}


@cache
def links() -> dict[str, Link]:
    """Return the links of ``tables/networks.csv`` by name.

    Example:
        >>> links()["3G"].up < links()["home fibre"].up
        True
    """
    return {row["link"]: Link(**row) for row in read_table("networks.csv", Link)}


def read_table(file: str, record: type) -> list[dict]:
    """Return the rows of a CSV in ``tables/``, converted to the types of ``record``."""
    convert = {
        int: lambda text: int(text or 0),
        float: float,
        bool: lambda text: text == "yes",
        str: str,
    }
    with (TABLES / file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    types = get_type_hints(record)
    return [{name: convert[kind](row[name]) for name, kind in types.items()} for row in rows]
