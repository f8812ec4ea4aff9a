"""Simulate only the clock: the order and the times of events, without training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedlab.core.validate import check_whole
from fedlab.system.clock import Clock
from fedlab.system.clock_checks import check_hours
from fedlab.system.fleet import Fleet
from fedlab.system.policies import Policy
from fedlab.system.work import Workload

if TYPE_CHECKING:
    import pandas as pd


class _ModelledWork:
    """Work of which only the costs are known."""

    def __init__(self, workload: Workload):
        self.workload, self.flops = workload, workload.flops.tolist()

    def expected(self):
        return self.workload

    def send_out(self, ids, version):
        return [self.workload.bytes_down] * len(ids), [self.flops[i] for i in ids]

    def shorten(self, client, flops):
        return min(flops, self.flops[client])

    def lose(self, client):
        pass

    def is_done(self, client):
        return True

    def sends(self, client):
        return self.workload.bytes_up, math.nan

    def end(self, assignment):
        return None

    def step(self, used):
        return {}


def timetable(
    fleet: Fleet,
    policy: Policy,
    workload: Workload,
    rounds: int,
    seed: int = 0,
    *,
    hours: float = math.inf,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of ``simulate`` without scores, as if each client had this workload.

    Nothing is trained, so that a million assignments take seconds.

    Args:
        fleet: The clients' devices and links.
        policy: When models go out and steps are taken.
        workload: Costs of one round of each client.
        rounds: Number of the server's steps.
        seed: Seed of cohorts and of random draws.
        hours: Hours after which the clock stops, above 0.

    Returns:
        The tables ``rounds`` and ``clients``.

    Raises:
        ValueError: If the workload has another number of clients, or the policy does not fit the
            fleet.

    Example:
        >>> from fedlab.system import draw_fleet, synchronous
        >>> fleet = draw_fleet(10, dropout=0.2)
        >>> workload = Workload(1_000_000, np.full(10, 1e12), 1_000_000)
        >>> rounds, clients = timetable(fleet, synchronous(3), workload, rounds=5)
        >>> len(rounds), len(clients)
        (5, 15)
        >>> int(rounds["used"].sum() + rounds["lost"].sum())
        15
    """
    import pandas as pd

    check_whole(1, rounds=rounds)
    check_hours(hours)
    n = fleet.num_clients
    if np.shape(workload.flops) != (n,):
        raise ValueError(
            f"workload has operations of shape {list(np.shape(workload.flops))} and must have "
            f"[{n}], one per client of the fleet. Try np.full({n}, 1e9)"
        )
    clock = Clock(fleet, policy, _ModelledWork(workload), np.ones(n), seed)
    for _ in clock.events(rounds, hours * 3600):
        pass
    clock.finish()
    names = list(clock.assignments[0])
    # Each column is popped, so that no column of a million assignments is held twice.
    assignments = {
        name: np.concatenate([columns.pop(name) for columns in clock.assignments]) for name in names
    }
    return pd.DataFrame(clock.rounds), pd.DataFrame(assignments)
