"""Columns of a fleet's CSV file: units, defaults and ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Column(NamedTuple):
    """A column of a fleet's file.

    Attributes:
        field: Field of ``Fleet`` that it fills.
        unit: Factor from the file's unit to SI units and bytes.
        default: Value of an empty cell; None for required columns.
        is_wrong: Function from values to a mask of those out of range.
        range: Range and unit, in words.
    """

    field: str
    unit: float
    default: float | None
    is_wrong: Callable[[np.ndarray], np.ndarray]
    range: str


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


_RATE = "above 0 Mbit/s and finite; leave out clients without a link"
COLUMNS = {
    "gigaflops": Column(
        "flops", 1e9, None, _no_speed, "above 0 GFLOP/s and finite, what training reaches"
    ),
    "watts": Column("watts", 1, None, _below_0, "at least 0, while it computes"),
    "down_mbit": Column("down", 1e6 / 8, None, _no_speed, _RATE),
    "up_mbit": Column("up", 1e6 / 8, None, _no_speed, _RATE),
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
