"""Local training of a round: cohorts of several runs at once, in one phase or in several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedlab.client import Train, full_gradients
from fedlab.core import Updates, Work
from fedlab.engine.dispatch import Dispatch
from fedlab.engine.lockstep import split_updates, stack_work


def train(dispatches: Sequence[Dispatch], backend: Train) -> list[Updates]:
    """Train the cohorts of runs that share a task, examples and an optimizer.

    Args:
        dispatches: Work of each run.
        backend: Engine that trains, such as ``batched`` or ``sequential``.

    Returns:
        The updates of each run's cohort, one row per client. They hold the full gradient and the
        loss at the start if the algorithm needs them.
    """
    results: list[Updates] = [None] * len(dispatches)  # type: ignore[list-item]
    for has_phases in (False, True):
        group = [k for k, sent in enumerate(dispatches) if (sent.phases is not None) == has_phases]
        if not group:
            continue
        train_group = _train_phases if has_phases else _train_together
        trained = train_group([dispatches[k] for k in group], backend)
        for k, updates in zip(group, trained, strict=True):
            results[k] = updates
    for k, sent in enumerate(dispatches):
        results[k] = results[k]._replace(h=sent.work.h)
        run = sent.run
        if run.experiment.algorithm.needs_full_gradient:
            parts = [run.data.parts[i] for i in sent.cohort.ids]
            loss, gradient = full_gradients(
                run.experiment.task, run.data.x, run.data.y, sent.model, parts
            )
            results[k] = results[k]._replace(start_loss=loss, gradient=gradient)
    return results


def _train_together(dispatches: Sequence[Dispatch], backend: Train) -> list[Updates]:
    """Train all cohorts as rows of one matrix."""
    run = dispatches[0].run
    work = stack_work([sent.work for sent in dispatches])
    updates = backend(run.experiment.task, run.data.x, run.data.y, work)
    return split_updates(updates, [len(sent.cohort.ids) for sent in dispatches])


def _train_phases(dispatches: Sequence[Dispatch], backend: Train) -> list[Updates]:
    """Train phase after phase, each from the end of the previous one.

    The loss of a client is its mean over the steps of all phases; NaN without steps.
    """
    sums = []
    for sent in dispatches:
        work = sent.work
        delta = torch.zeros_like(work.start[work.origin])
        sums.append(Updates(delta, *torch.zeros(4, len(work.lr)).to(work.start)))
    for p in range(max(sent.phases.ends.shape[1] for sent in dispatches)):
        group = [k for k, sent in enumerate(dispatches) if p < sent.phases.ends.shape[1]]
        phase = [
            dispatches[k]._replace(work=_phase_work(dispatches[k], p, sums[k].delta)) for k in group
        ]
        for k, updates in zip(group, _train_together(phase, backend), strict=True):
            before, steps = sums[k], updates.steps
            sums[k] = Updates(
                before.delta + updates.delta,
                updates.num_examples,
                before.steps + steps,
                before.lr_sum + updates.lr_sum,
                before.loss + torch.where(steps > 0, updates.loss * steps, 0),
            )
    return [updates._replace(loss=updates.loss / updates.steps) for updates in sums]


def _phase_work(sent: Dispatch, p: int, delta: Tensor) -> Work:
    """Return the work of phase ``p`` after earlier phases moved clients by ``delta [m, d]``."""
    work, (ends, fixed) = sent.work, sent.phases
    low = ends[:, p - 1] if p else np.zeros(len(ends), int)
    step = low[:, None] + np.arange((ends[:, p] - low).max(initial=0))  # [m, K of this phase]
    is_inside = step < np.minimum(ends[:, p], work.batches.shape[1])[:, None]
    batches = (
        work.batches[np.arange(len(ends))[:, None], np.where(is_inside, step, 0)]
        if step.size
        else work.batches[:, :0]
    )
    start = work.start[work.origin]
    # A proximal term pulls to the start of the round, not of the phase.
    centre = start if work.centre is None and work.mu.any() else work.centre
    return work._replace(
        start=start + delta,
        origin=np.arange(len(ends)),
        batches=np.where(is_inside[:, :, None], batches, -1),
        centre=centre,
        mask=None if work.mask is None else work.mask[work.origin],
        fixed=np.tile(fixed[p], (len(ends), 1)),
    )
