"""Methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.client import Train, batched
from fedlab.records import Experiment, Result
from fedlab.run import finish, variants


def compare(
    base: Experiment, backend: Train = batched, seeds: int | Sequence[int] = 1, **fields: Mapping[Any, Any]
) -> Result:
    """Run variants of one experiment side by side, in lockstep and with the same seeds.

    ``compare(base, algorithm={"FedAvg": fedavg(), "half steps": fedavg(server_lr=0.5)})`` puts each value in that field and
    adds a column ``algorithm`` with the labels to both tables.  Several fields give every combination.
    """
    return finish(variants(base, **fields), backend, seeds)
