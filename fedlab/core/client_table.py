"""One row of numbers per client, kept on the server between rounds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ClientTable:
    """A row ``[d]`` for each client: zeros until it is written, and no memory before that.

    ``table[ids]`` returns a copy of rows ``[m, d]``, and ``table[ids] = rows`` writes them.

    Args:
        like: A row ``[d]`` whose type and device the table has.
        num_clients: Number N of clients.

    Attributes:
        journal: If it is a list, each write first appends what it replaces; ``undo(journal)``
            takes the writes back.

    Example:
        >>> table = ClientTable(torch.zeros(2), num_clients=1000)
        >>> table[np.array([7])] = torch.tensor([[1.0, 2.0]])
        >>> table[np.array([7, 8])]
        tensor([[1., 2.],
                [0., 0.]])
        >>> table.contents[1].shape
        torch.Size([1, 2])
    """

    def __init__(self, like: Tensor, num_clients: int):
        self._place = torch.full((num_clients,), -1)  # [N], where a client's row lies
        self._rows = like.new_zeros(0, len(like))  # [capacity, d], doubled when full
        self.journal: list[tuple[Tensor, Tensor, Tensor]] | None = None

    @classmethod
    def from_contents(cls, place: Tensor, rows: Tensor) -> ClientTable:
        """Return the table with these ``contents``."""
        table = cls(rows.new_empty(rows.shape[1]), 0)
        table._place, table._rows = place, rows
        return table

    @property
    def contents(self) -> tuple[Tensor, Tensor]:
        """Return the place of each client's row ``[N]``, -1 for none, and the rows; no copies."""
        return self._place, self._rows[: self._used()]

    def __getitem__(self, ids: np.ndarray | Tensor) -> Tensor:
        place = self._place[ids]
        if not len(self._rows):
            return self._rows.new_zeros(len(place), self._rows.shape[1])
        rows = self._rows[place.clamp(min=0)]
        rows[place < 0] = 0
        return rows

    def __setitem__(self, ids: np.ndarray, rows: Tensor) -> None:
        clients = torch.as_tensor(ids)
        if self.journal is not None:
            self.journal.append((clients, self._place[clients], self[clients]))
        new = clients[self._place[clients] < 0]
        used = self._used()
        self._place[new] = torch.arange(used, used + len(new))
        if used + len(new) > len(self._rows):
            capacity = min(2 * (used + len(new)), len(self._place))
            larger = self._rows.new_zeros(capacity, self._rows.shape[1])
            larger[:used] = self._rows[:used]
            self._rows = larger
        self._rows[self._place[clients]] = rows

    def undo(self, journal: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Take back the writes of a journal, the last one first."""
        for ids, place, rows in reversed(journal):
            is_written = place >= 0
            self._rows[place[is_written]] = rows[is_written]
            self._place[ids] = place

    def _used(self) -> int:
        return int(self._place.max()) + 1 if len(self._place) else 0
