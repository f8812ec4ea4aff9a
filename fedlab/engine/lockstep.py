"""Runs in lockstep: several seeds or variants train as rows of one matrix.

A product of one large matrix is faster than many small ones. Runs that share a task, examples and
an optimizer therefore train together. ``stack_work`` puts the work of their cohorts into one
``Work``, the backend trains all rows at once, and ``split_updates`` gives each run its rows::

    run A: [m_A, d] --+                               +--> updates [m_A, d]
                      stack_work -> train -> split_updates
    run B: [m_B, d] --+                               +--> updates [m_B, d]
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedlab.client import stack_plans
from fedlab.core import Updates, Work, params, split_rows
from fedlab.engine.run_state import Run, local_settings
from fedlab.server.aggregate import LINEAR_AGGREGATES


def group_compatible(runs: list[Run]) -> list[list[Run]]:
    """Group runs that can train as rows of one matrix; a rounding-sensitive run is alone.

    Args:
        runs: Runs, whose order within a group is kept.

    Returns:
        Groups of runs that share a task, examples and an optimizer.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        kind = (
            id(run.experiment.task),
            id(run.data.x),
            id(run.data.y),
            local_settings(run, [0])[0].optimizer,
        )
        groups.setdefault((*kind, id(run) if _is_rounding_sensitive(run) else None), []).append(run)
    return list(groups.values())


def _is_rounding_sensitive(run: Run) -> bool:
    """Return True if a rounding error may grow to the size of a step.

    The last bit of a product depends on how many rows it has. Transforms such as top_k and random
    levels choose by such bits, and so do votes and robust aggregates. AdamW's first step has the
    size lr, however small the gradient is.
    """
    experiment = run.experiment
    is_lossy = not (experiment.upload.is_identity and experiment.download.is_identity)
    return (
        is_lossy
        or experiment.aggregate not in LINEAR_AGGREGATES
        or local_settings(run, [0])[0].optimizer == "adamw"
    )


def stack_work(works: list[Work]) -> Work:
    """Stack the work of several runs into one, row below row.

    Args:
        works: Work of each run's cohort, of one task and one optimizer.

    Returns:
        The work of all clients. A term that only some runs have is neutral in the rows of the
        others; a term that no run has stays None, and nothing is allocated for it.
    """
    if len(works) == 1:
        return works[0]
    settings = ("num_examples", "lr", "mu", "momentum", "weight_decay")
    before = np.cumsum([0] + [len(work.start) for work in works])
    return works[0]._replace(
        start=params.as_matrix([work.start for work in works]),
        origin=np.concatenate([work.origin + i for work, i in zip(works, before, strict=False)]),
        batches=stack_plans([work.batches for work in works]),
        h=_stack_linear(works),
        centre=_stack_centres(works),
        mask=_stack_masks(works),
        fixed=_stack_fixed(works),
        cohorts=tuple(cohort for work in works for cohort in work.cohorts),
        **{name: np.concatenate([getattr(work, name) for work in works]) for name in settings},
    )


def _stack_linear(works: list[Work]) -> Tensor | None:
    """Stack the linear terms; zeros have no effect."""
    if all(work.h is None for work in works):
        return None
    return torch.cat(
        [work.start.expand(len(work.lr), -1) * 0 if work.h is None else work.h for work in works]
    )


def _stack_centres(works: list[Work]) -> Tensor | None:
    """Stack the centres of the proximal terms; by default a client is pulled to its start."""
    if all(work.centre is None for work in works):
        return None
    return torch.cat(
        [work.start[work.origin] if work.centre is None else work.centre for work in works]
    )


def _stack_masks(works: list[Work]) -> Tensor | None:
    """Stack the masks; ones have no effect."""
    if all(work.mask is None for work in works):
        return None
    return torch.cat(
        [torch.ones_like(work.start) if work.mask is None else work.mask for work in works]
    )


def _stack_fixed(works: list[Work]) -> np.ndarray | None:
    """Stack the flags of fixed tensors; False has no effect."""
    width = next((work.fixed.shape[1] for work in works if work.fixed is not None), None)
    if width is None:
        return None
    return np.concatenate(
        [
            np.zeros((len(work.start), width), bool) if work.fixed is None else work.fixed
            for work in works
        ]
    )


def split_updates(updates: Updates, sizes: list[int]) -> list[Updates]:
    """Split updates of several runs into those of each run, of ``sizes`` clients."""
    if len(sizes) == 1:
        return [updates]
    columns = (
        [None] * len(sizes) if column is None else split_rows(column, sizes) for column in updates
    )
    return [Updates(*columns_of_run) for columns_of_run in zip(*columns, strict=True)]
