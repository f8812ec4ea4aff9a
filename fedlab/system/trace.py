"""Windows of time in which clients are online."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedlab.core.validate import check_whole

DAY = 86400.0  # seconds


class Trace(NamedTuple):
    """Windows in which each client is online, in seconds after the clock's start.

    ``read_trace`` reads a trace from a file. A fleet follows it with ``Fleet.with_trace``. A
    sampler of rounds follows it with ``by_availability(10, trace.in_rounds(rounds_per_day=24))``.

    Attributes:
        begins: Starts of the windows ``[N, W]``, ascending; infinite after a client's last window.
        ends: Ends of the windows ``[N, W]``, likewise.

    Example:
        >>> trace = Trace(np.array([[0.0], [50.0]]), np.array([[100.0], [np.inf]]))
        >>> trace.is_online(np.arange(2), 20.0).tolist()
        [True, False]
        >>> trace.next_online(np.arange(2), 20.0).tolist()
        [20.0, 50.0]
    """

    begins: np.ndarray
    ends: np.ndarray

    @property
    def num_clients(self) -> int:
        """Return the number of clients."""
        return len(self.begins)

    def is_online(self, ids: np.ndarray, time: float) -> np.ndarray:
        """Return whether each client is within one of its windows, ``[m]``."""
        return ((self.begins[ids] <= time) & (time < self.ends[ids])).any(-1)

    def offline_at(self, ids: np.ndarray, time: float) -> np.ndarray:
        """Return the end of the current window of each client, ``[m]``; clients must be online."""
        within = (self.begins[ids] <= time) & (time < self.ends[ids])
        return np.where(within, self.ends[ids], np.inf).min(-1)

    def next_online(self, ids: np.ndarray, time: float) -> np.ndarray:
        """Return the earliest time from ``time`` on at which each client is online, ``[m]``.

        It is infinite after a client's last window.
        """
        return np.where(time < self.ends[ids], np.maximum(self.begins[ids], time), np.inf).min(-1)

    def subset(self, ids: np.ndarray) -> Trace:
        """Return the trace of the clients ``ids``, in this order."""
        return Trace(self.begins[ids], self.ends[ids])

    def in_rounds(self, *, rounds_per_day: int = 24) -> Callable[[int], np.ndarray]:
        """Return the trace as a rhythm for ``by_availability``, which draws cohorts of ``run``.

        A round has no clock. Round t stands for the moment ``(t - 1) / rounds_per_day`` days after
        the trace's start.

        Args:
            rounds_per_day: Number of rounds that share a day evenly.

        Returns:
            ``present(round) -> [N]``: 1 for clients that are online, else 0.

        Example:
            >>> trace = Trace(np.array([[0.0], [3600.0]]), np.array([[3600.0], [7200.0]]))
            >>> [trace.in_rounds()(t).tolist() for t in (1, 2, 3)]
            [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
        """
        check_whole(1, rounds_per_day=rounds_per_day)

        def present(round):
            time = (round - 1) * DAY / rounds_per_day
            return self.is_online(np.arange(self.num_clients), time).astype(float)

        return present
