"""The second half of a round: clients train, the server receives, aggregates and records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.client import Train, full_gradients
from fedlab.core import (
    Cohort,
    Updates,
    Work,
    label_column,
)
from fedlab.core.repeats import call_repeatable
from fedlab.engine.dispatch import Dispatch, dispatch
from fedlab.engine.evaluation import evaluate
from fedlab.engine.lockstep import missing_scores, split_updates, stack_work
from fedlab.engine.run_state import Diverged, Run, local_settings
from fedlab.upload.traffic import COLUMNS, charge_budget, upload_updates

_GENERATOR = 'cohort.generator("noise")'

Aggregate = Callable[[Tensor, Tensor, Cohort], Tensor]


def train(begun: Sequence[Dispatch], backend: Train) -> list[Updates]:
    """Local training of runs that share a task, examples and an optimizer, as rows of one matrix; what each has of it."""
    apart: list[Updates] = [None] * len(begun)  # type: ignore[list-item]
    for phased in (False, True):
        group = [k for k, one in enumerate(begun) if (one.phases is not None) == phased]
        train_group = _train_phases if phased else _train_together
        for k, updates in zip(
            group, train_group([begun[k] for k in group], backend) if group else [], strict=True
        ):
            apart[k] = updates
    for k, (run, cohort, work, _, _, w, *_) in enumerate(begun):
        apart[k] = apart[k]._replace(h=work.h)
        if run.experiment.algorithm.needs_full_gradient:
            parts = [run.data.parts[i] for i in cohort.ids]
            loss, gradient = full_gradients(run.experiment.task, run.data.x, run.data.y, w, parts)
            apart[k] = apart[k]._replace(start_loss=loss, gradient=gradient)
    return apart


def _train_together(begun: Sequence[Dispatch], backend: Train) -> list[Updates]:
    first = begun[0].run
    together = backend(
        first.experiment.task, first.data.x, first.data.y, stack_work([one.work for one in begun])
    )
    return split_updates(together, [len(one.cohort.ids) for one in begun])


def _train_phases(begun: Sequence[Dispatch], backend: Train) -> list[Updates]:
    """Train phase after phase, each from where the one before ended; ``loss`` is the mean over the steps of all."""
    works = [one.work for one in begun]
    sums = [
        Updates(
            torch.zeros_like(work.start[work.origin]), *torch.zeros(4, len(work.lr)).to(work.start)
        )
        for work in works
    ]
    for p in range(max(one.phases.ends.shape[1] for one in begun)):
        group = [k for k, one in enumerate(begun) if p < one.phases.ends.shape[1]]
        stage = [begun[k]._replace(work=_phase(begun[k], p, sums[k].delta)) for k in group]
        for k, updates in zip(group, _train_together(stage, backend), strict=True):
            before, steps = sums[k], updates.steps
            sums[k] = Updates(
                before.delta + updates.delta,
                updates.num_examples,
                before.steps + steps,
                before.lr_sum + updates.lr_sum,
                before.loss + torch.where(steps > 0, updates.loss * steps, 0),
            )
    return [
        updates._replace(loss=updates.loss / updates.steps) for updates in sums
    ]  # NaN where there were no steps


def _phase(begun: Dispatch, p: int, moved: Tensor) -> Work:
    """Return the work of phase ``p``, for clients that have ``moved [m, d]`` from their start in those before."""
    work, (ends, fixed) = begun.work, begun.phases
    low = ends[:, p - 1] if p else np.zeros(len(ends), int)
    step = low[:, None] + np.arange((ends[:, p] - low).max(initial=0))  # [m, K of this phase]
    inside = step < np.minimum(ends[:, p], work.batches.shape[1])[:, None]
    batches = (
        work.batches[np.arange(len(ends))[:, None], np.where(inside, step, 0)]
        if step.size
        else work.batches[:, :0]
    )
    start = work.start[work.origin]
    return work._replace(
        start=start + moved,
        origin=np.arange(len(ends)),
        batches=np.where(inside[:, :, None], batches, -1),
        centre=start
        if work.centre is None and work.mu.any()
        else work.centre,  # of the round, and not of the phase
        mask=None if work.mask is None else work.mask[work.origin],
        fixed=np.tile(fixed[p], (len(ends), 1)),
    )


def receive_updates(begun: Dispatch, updates: Updates) -> tuple[Updates, np.ndarray]:
    """The updates as the server has them, who sees nothing else, and what came up the wire, ``[m, 3]``.

    What is a client's own is still in them, for the step to put by until that client takes part again.
    """
    run, cohort, _, sent, own, *_ = begun
    trained = updates.steps.numpy(force=True) > 0
    _check_finite(
        np.isfinite(updates.loss.numpy(force=True)) | ~trained, run, cohort, "the training loss"
    )
    if not run.experiment.upload.is_identity:  # which may hide it
        _check_finite(_is_finite(updates.delta) | ~trained, run, cohort, "the update")
    shared = updates.delta if own is None else updates.delta * own
    delta, up = upload_updates(run.experiment, run.traffic, shared, cohort, trained, sent)
    if not run.experiment.upload.is_identity:  # which may overflow
        _check_finite(_is_finite(delta), run, cohort, "what the upload makes of the update")
    if own is not None:
        delta = torch.where(own > 0, delta, updates.delta)
    return updates._replace(delta=delta), up


def train_from_models(
    runs: Sequence[Run], cohorts: Sequence[Cohort], rows: Sequence[Tensor], backend: Train
) -> list[tuple[Dispatch, Updates]]:
    """Train the clients of each cohort from models of their own, ``rows [m, d]``, where no server has one for all."""
    begun = []
    for one, start in zip(dispatch(runs, cohorts), rows, strict=True):
        if len(one.work.start) > 1:
            told = "the algorithm says where clients start, and here each must start from its own model"
            raise ValueError(f"{told}. Try fedavg()")
        begun.append(
            one._replace(work=one.work._replace(start=start, origin=np.arange(len(start))))
        )
    return [
        (one, receive_updates(one, updates)[0])
        for one, updates in zip(begun, train(begun, backend), strict=True)
    ]


def charge_round(begun: Dispatch, up: np.ndarray) -> bool:
    """Whether the budget has room for the round; else the run is over, and what was its last round has to be evaluated."""
    run = begun.run
    if charge_budget(run.experiment, run.traffic, begun.cohort, up, begun.bytes_down):
        return True
    if np.isnan(run.rounds[-1]["loss"]):
        run.rounds[-1].update(evaluate(run.experiment.task, run.w, run.data))
    return False


def aggregate_and_step(
    run: Run, cohort: Cohort, updates: Updates, aggregate: Aggregate | None = None
) -> tuple[Tensor, Any]:
    """Aggregate, step: the model ``[d]`` and the state that a cohort's rows lead to.

    By the experiment's aggregate, if no other is given.
    """
    algorithm = run.experiment.algorithm
    delta, weights = call_repeatable(
        "the algorithm's contributions", _GENERATOR, algorithm.contributions, updates, cohort
    )
    _check_shape("the algorithm's contributions", delta, tuple(updates.delta.shape), run.w)
    _check_shape("the algorithm's weights", weights, (len(cohort.ids),), run.w)
    if (weights < 0).any():
        client, weight = cohort.ids[int(weights.argmin())], weights.min().item()
        raise ValueError(
            f"client {client} has the weight {weight:g} in the algorithm's contributions, which must be at least 0"
        )
    mean = aggregate_updates(run, delta, weights, cohort, aggregate)
    w, state = call_repeatable(
        "the algorithm's step", _GENERATOR, algorithm.step, run.w, run.state, cohort, updates, mean
    )
    _check_shape("the algorithm's step", w, (len(run.w),), run.w)
    if not math.isfinite(w.sum().item()):  # a sum is not where one of its terms is not
        _check_finite(delta.isfinite().all(1).numpy(force=True), run, cohort, "the update")
        check_model(w, run, cohort.round)
    return w, state


def aggregate_updates(
    run: Run, delta: Tensor, weights: Tensor, cohort: Cohort, aggregate: Aggregate | None = None
) -> Tensor:
    """Return the aggregate ``[d]`` of rows ``[m, d]``, checked: by the experiment's, if no other is given."""
    user_function = run.experiment.aggregate
    name = f"aggregate={_name(user_function)}"
    combine = aggregate or run.experiment.apply_aggregate
    mean = call_repeatable(
        name, _GENERATOR, combine, delta, weights, cohort, user_function=user_function
    )
    _check_shape(name, mean, (delta.shape[1],), run.w)
    return mean


def _check_shape(what: str, value: Any, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise ValueError unless ``what`` gave a tensor of this shape and of the type of ``like``."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{what} gave {type(value).__name__} and must give a tensor {list(shape)}. Try torch.as_tensor"
        )
    if value.shape != shape:
        raise ValueError(f"{what} gave the shape {list(value.shape)} and must give {list(shape)}")
    if value.dtype != like.dtype:
        raise ValueError(
            f"{what} gave {value.dtype} and must give {like.dtype}, as the model has. Try .to(delta)"
        )


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)


def _is_finite(rows: Tensor) -> np.ndarray:
    """Return which rows are finite, ``[m]``."""
    fine = rows.sum(1).isfinite()  # a sum is not where one of its terms is not, and is sooner had
    return (fine if fine.all() else rows.isfinite().all(1)).numpy(force=True)


def check_model(w: Tensor, run: Run, t: int) -> None:
    """Raise Diverged if the server's model ``w [d]`` is not finite after round ``t``."""
    if not math.isfinite(w.sum().item()):  # a sum is not where one of its terms is not
        told = f"the server's model is not finite after round {t} (seed {run.seed})"
        raise Diverged(
            f"{told}: take a smaller server learning rate; the history is kept in .result"
        )


def _check_finite(fine: np.ndarray, run: Run, cohort: Cohort, what: str) -> None:
    if not fine.all():
        client = cohort.ids[fine.argmin()]
        raise Diverged(
            f"{what} of client {client} is not finite in round {cohort.round} (seed {run.seed}, lr="
            f"{local_settings(run, [client], cohort.round)[0].lr:g}): take a smaller learning rate; the history is kept in .result"
        )


def mean_loss(loss: np.ndarray, weights: np.ndarray) -> float:
    """The mean training loss of clients ``[m]``, by their weights; NaN of nobody."""
    return float(loss @ weights / weights.sum()) if len(weights) else np.nan


def record_round(begun: Dispatch, updates: Updates, up: np.ndarray) -> tuple[dict, dict]:
    """The row of a round, its scores still unknown, and columns for each client in it; ``up [m, 3]`` came up."""
    run, cohort, work, *_ = begun
    t, m = cohort.round, len(cohort.ids)
    n, steps, loss = (
        column.numpy(force=True) for column in (updates.num_examples, updates.steps, updates.loss)
    )
    trained = steps > 0
    names = ("examples", "steps", "bytes_up", "bytes_down", *COLUMNS)
    counted = np.empty((len(names), m), dtype=int)
    counted[0], counted[1], counted[2], counted[3] = (
        (work.batches >= 0).sum((1, 2)),
        steps,
        up.sum(1),
        begun.bytes_down.sum(1),
    )
    counted[4:7], counted[7:] = up.T, begun.bytes_down.T
    same = {**run.labels, "seed": run.seed, "round": t}
    row = (
        same
        | missing_scores(run.experiment.task)
        | {"train_loss": mean_loss(loss[trained], n[trained]), "clients": int(trained.sum())}
        | dict(zip(names, counted.sum(1).tolist(), strict=True))
    )
    columns = (
        {name: label_column(value, m) for name, value in same.items()}
        | {"client": cohort.ids, "num_examples": n.astype(int), "loss": loss}
        | dict(zip(names, counted, strict=True))
    )
    return row, columns


def apply_round(run: Run, after: tuple[Tensor, Any], told: tuple[dict, dict]) -> None:
    """What a round made of a run: ``absorb`` says what it has ``after`` it, ``record`` what is ``told`` of it."""
    run.w, run.state = after
    run.rounds.append(told[0])
    run.clients.append(told[1])
