"""Memory check: a round that does not fit is refused before anything is trained."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fedlab.engine.dispatch import draw_cohort
from fedlab.engine.lockstep import group_compatible
from fedlab.engine.run_state import Run
from fedlab.engine.storage.packing import client_tables

# Bytes below which nothing is checked: no machine runs short, and a check takes its time.
MIN_CHECKED = 2**28


class Need(NamedTuple):
    """Memory that a run needs, in bytes, for a cohort of ``clients``.

    Attributes:
        clients: Number of clients per round.
        round: Most that the rows of a round take, as measured.
        tables: Bytes of the rows that the server keeps for every client between rounds.
    """

    clients: int
    round: int
    tables: int


def check_memory(runs: list[Run]) -> None:
    """Raise MemoryError if the rows of a round, or those kept per client, do not fit."""
    groups = [[_need(run) for run in group] for group in group_compatible(runs)]
    largest = max(groups, key=lambda group: sum(need.round for need in group))
    total = sum(need.round for need in largest)
    total += sum(need.tables for group in groups for need in group)
    if total > MIN_CHECKED and total > (free := _free_bytes(runs[0].w.device)):
        clients, d = sum(need.clients for need in largest), max(len(run.w) for run in runs)
        raise MemoryError(
            f"{clients:,} clients at a time with {d:,} parameters take about {total / 1e9:,.1f} "
            f"GB, and {free / 1e9:,.1f} GB are free. Try a smaller cohort, fewer seeds or variants "
            "at once, or a smaller model"
        )


def _need(run: Run) -> Need:
    """Estimate the memory of a run from the number of rows that it holds at once."""
    experiment, algorithm = run.experiment, run.experiment.algorithm
    m = len(draw_cohort(experiment, run.data, run.seed, 1).ids)
    num_tables = len(list(client_tables((run.state, run.traffic))))
    side_by_side = m if run.w.is_cuda else min(m, 4)  # rows that have gradients at once
    per_client = 4 if num_tables else 3 if algorithm.needs_full_gradient else 2
    rows = m * per_client + 2 * side_by_side
    if algorithm.partial_updates:
        rows += 4 * m  # masks, starts, and masked rows in the aggregate
    if not experiment.upload.is_identity:
        rows += 3 * m  # input, sizes or noise, and decoded rows
    # A table doubles when it is full.
    kept_rows = num_tables * min(run.data.num_clients, 2 * m * experiment.rounds)
    return Need(m, run.w.nbytes * rows, run.w.nbytes * kept_rows)


def _free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    import psutil

    return psutil.virtual_memory().available
