"""Work of clients: the protocol between the clock and whatever is computed and sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from fedlab.system.clock_state import Assignment


class Workload(NamedTuple):
    """The costs of one round of each client.

    Attributes:
        bytes_down: Size of the download.
        flops: Operations of each client, ``[N]``.
        bytes_up: Size of the upload.

    Example:
        >>> Workload(1_000_000, np.full(3, 1e9), 500_000).bytes_up
        500000
    """

    bytes_down: float
    flops: np.ndarray
    bytes_up: float


class ClientWork(Protocol):
    """The work that clients do, real or only by its sizes; a client has one piece at a time."""

    def expected(self) -> Workload:
        """Return the costs of a usual round."""

    def send_out(self, ids: list[int], version: int) -> tuple[list[int], list[float]]:
        """Send the model to clients (ascending); return bytes down and operations of each."""

    def shorten(self, client: int, flops: float) -> float:
        """Limit a client to the steps that fit into ``flops``; return the operations of these."""

    def lose(self, client: int) -> None:
        """Drop a client's work, which will never be sent."""

    def is_done(self, client: int) -> bool:
        """Return whether the client's update is known."""

    def sends(self, client: int) -> tuple[int, float]:
        """Return bytes up, and the loss that the client reports."""

    def end(self, assignment: Assignment) -> dict[str, float] | None:
        """End an assignment; return further columns of its row."""

    def step(self, used: list[Assignment]) -> dict[str, float]:
        """Take the server's step with these updates, ascending by client; return columns."""
