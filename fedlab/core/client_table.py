"""One row of numbers per client, kept on the server between rounds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ClientTable:
    """A row ``[d]`` for each of ``num_clients`` clients: zeros until it is written, and no memory before that.

    ``table[ids]`` reads rows ``[m, d]`` (a copy), ``table[ids] = rows`` writes them.  Where ``journal`` is a list, each
    write first notes there what it replaces, and ``undo(journal)`` takes them back.
    """

    def __init__(self, like: Tensor, num_clients: int):
        self._place = torch.full((num_clients,), -1)  # [N], where a client's row lies
        self._rows = like.new_zeros(0, len(like))  # [capacity, d], doubled when full
        self.journal: list[tuple[Tensor, Tensor, Tensor]] | None = None

    @classmethod
    def from_contents(cls, place: Tensor, rows: Tensor) -> ClientTable:
        """The table whose ``contents`` these are."""
        table = cls(rows.new_empty(rows.shape[1]), 0)
        table._place, table._rows = place, rows
        return table

    @property
    def contents(self) -> tuple[Tensor, Tensor]:
        """Where each client's row lies ``[N]``, -1 for none, and the rows that were written: no copies."""
        return self._place, self._rows[: self._used()]

    def __getitem__(self, ids: np.ndarray) -> Tensor:
        place = self._place[ids]
        if not len(self._rows):
            return self._rows.new_zeros(len(place), self._rows.shape[1])
        rows = self._rows[place.clamp(min=0)]
        rows[place < 0] = 0
        return rows

    def __setitem__(self, ids: np.ndarray, rows: Tensor) -> None:
        ids = torch.as_tensor(ids)
        if self.journal is not None:
            self.journal.append((ids, self._place[ids], self[ids]))
        new = ids[self._place[ids] < 0]
        used = self._used()
        self._place[new] = torch.arange(used, used + len(new))
        if used + len(new) > len(self._rows):
            larger = self._rows.new_zeros(
                min(2 * (used + len(new)), len(self._place)), self._rows.shape[1]
            )
            larger[:used] = self._rows[:used]
            self._rows = larger
        self._rows[self._place[ids]] = rows

    def undo(self, journal: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        for ids, place, rows in reversed(journal):
            held = place >= 0
            self._rows[place[held]] = rows[held]
            self._place[ids] = place

    def _used(self) -> int:
        return int(self._place.max()) + 1 if len(self._place) else 0
