"""The second half of a round: updates are received, aggregated and recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.client import Train
from fedlab.core import Cohort, Updates, label_column
from fedlab.core.repeats import call_repeatable
from fedlab.engine.dispatch import Dispatch, dispatch
from fedlab.engine.evaluation import evaluate
from fedlab.engine.run_state import Diverged, Run, local_settings
from fedlab.engine.scores import missing_scores
from fedlab.engine.training import train
from fedlab.upload.traffic import COLUMNS, charge_budget, upload_updates

_GENERATOR = 'cohort.generator("noise")'

Aggregate = Callable[[Tensor, Tensor, Cohort], Tensor]


def receive_updates(dispatched: Dispatch, updates: Updates) -> tuple[Updates, np.ndarray]:
    """Receive the updates of a cohort as the upload transform delivers them.

    The server learns nothing else of a client. Private numbers stay in the rows all the same, for
    the algorithm's step, which stores them until that client takes part again.

    Args:
        dispatched: Model and work that went out.
        updates: Updates as the clients computed them.

    Returns:
        The updates as the server has them, and the bytes that each client sent ``[m, 3]``.

    Raises:
        Diverged: If a loss or an update is non-finite.
    """
    run, cohort = dispatched.run, dispatched.cohort
    shared_mask = dispatched.shared_mask
    is_compressed = not run.experiment.upload.is_identity
    trained = updates.steps.numpy(force=True) > 0
    is_finite = np.isfinite(updates.loss.numpy(force=True))
    _check_finite(is_finite | ~trained, run, cohort, "the training loss")
    if is_compressed:  # compression may hide a non-finite number
        _check_finite(_finite_rows(updates.delta) | ~trained, run, cohort, "the update")
    shared = updates.delta if shared_mask is None else updates.delta * shared_mask
    delta, bytes_up = upload_updates(
        run.experiment, run.traffic, shared, cohort, trained, dispatched.upload_mask
    )
    if is_compressed:  # decoding may overflow
        _check_finite(_finite_rows(delta), run, cohort, "the decoded upload")
    if shared_mask is not None:
        delta = torch.where(shared_mask > 0, delta, updates.delta)
    return updates._replace(delta=delta), bytes_up


def train_from_models(
    runs: Sequence[Run], cohorts: Sequence[Cohort], rows: Sequence[Tensor], backend: Train
) -> list[tuple[Dispatch, Updates]]:
    """Train cohorts whose clients each start from a model of their own, without a server.

    Args:
        runs: Runs that train together.
        cohorts: Cohort of each run.
        rows: Models ``[m, d]`` of each run's cohort, one row per client.
        backend: Engine that trains.

    Returns:
        The dispatch and the updates of each run.

    Raises:
        ValueError: If the algorithm itself says where clients start.
    """
    dispatches = []
    for dispatched, start in zip(dispatch(runs, cohorts), rows, strict=True):
        work = dispatched.work
        if len(work.start) > 1:
            raise ValueError(
                "the algorithm says where clients start, and must not (each has its own model "
                "here). Try fedavg()"
            )
        work = work._replace(start=start, origin=np.arange(len(start)))
        dispatches.append(dispatched._replace(work=work))
    return [
        (dispatched, receive_updates(dispatched, updates)[0])
        for dispatched, updates in zip(dispatches, train(dispatches, backend), strict=True)
    ]


def charge_round(dispatched: Dispatch, bytes_up: np.ndarray) -> bool:
    """Charge the bytes of a round to the budget, or end the run if they do not fit.

    A run that ends here is evaluated after its last complete round.

    Args:
        dispatched: Model and work that went out, with ``bytes_down``.
        bytes_up: Bytes that each client sent ``[m, 3]``.

    Returns:
        True if the round fits the budget.
    """
    run = dispatched.run
    if charge_budget(
        run.experiment, run.traffic, dispatched.cohort, bytes_up, dispatched.bytes_down
    ):
        return True
    if np.isnan(run.rounds[-1]["loss"]):
        run.rounds[-1].update(evaluate(run.experiment.task, run.w, run.data))
    return False


def aggregate_and_step(
    run: Run, cohort: Cohort, updates: Updates, aggregate: Aggregate | None = None
) -> tuple[Tensor, Any]:
    """Aggregate the updates of a cohort, and let the algorithm take its step.

    Args:
        run: Run with the model and the algorithm's state; it is not changed.
        cohort: Clients of the updates.
        updates: Updates as the server has them.
        aggregate: Aggregate in place of the experiment's.

    Returns:
        The next model ``[d]`` and the next state.

    Raises:
        ValueError: If a function of the algorithm returns a wrong type, shape or weight.
        Diverged: If the next model is non-finite.
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
            f"client {client} has the weight {weight:g} in the algorithm's contributions, which "
            "must be at least 0. Try weights.clamp(min=0)"
        )
    mean = aggregate_updates(run, delta, weights, cohort, aggregate)
    step = "the algorithm's step"
    result = call_repeatable(
        step, _GENERATOR, algorithm.step, run.w, run.state, cohort, updates, mean
    )
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ValueError(
            f"{step} returned {type(result).__name__} and must return two values, the next model "
            "and the next state. Try return w, state"
        )
    w, state = result
    _check_shape(step, w, (len(run.w),), run.w)
    if not _all_finite(w):
        _check_finite(delta.isfinite().all(1).numpy(force=True), run, cohort, "the update")
        check_model(w, run, cohort.round)
    return w, state


def aggregate_updates(
    run: Run, delta: Tensor, weights: Tensor, cohort: Cohort, aggregate: Aggregate | None = None
) -> Tensor:
    """Aggregate rows, and check the result.

    Args:
        run: Run with the experiment's aggregate.
        delta: Rows ``[m, d]``.
        weights: Weight of each row ``[m]``.
        cohort: Clients of the rows.
        aggregate: Aggregate in place of the experiment's.

    Returns:
        The aggregate ``[d]``.

    Raises:
        ValueError: If the aggregate returns a wrong type or shape, or draws from a global
            generator.
    """
    user_function = run.experiment.aggregate
    name = f"aggregate={_name(user_function)}"
    combine = aggregate or run.experiment.apply_aggregate
    mean = call_repeatable(
        name, _GENERATOR, combine, delta, weights, cohort, user_function=user_function
    )
    _check_shape(name, mean, (delta.shape[1],), run.w)
    return mean


def _check_shape(name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise ValueError unless a function gave a tensor of this shape, of the type of ``like``."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} gave {type(value).__name__} and must give a tensor {list(shape)}. "
            "Try torch.as_tensor"
        )
    if value.shape != shape:
        raise ValueError(f"{name} gave the shape {list(value.shape)} and must give {list(shape)}")
    if value.dtype != like.dtype:
        raise ValueError(
            f"{name} gave {value.dtype} and must give {like.dtype}, as the model has. "
            "Try .to(delta)"
        )


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)


def _all_finite(w: Tensor) -> bool:
    """Check a sum: it is non-finite if any element is, and is cheaper than all elements."""
    return math.isfinite(w.sum().item())


def _finite_rows(rows: Tensor) -> np.ndarray:
    """Return which rows are finite ``[m]``; single elements only if the cheaper sums are not."""
    is_finite = rows.sum(1).isfinite()
    return (is_finite if is_finite.all() else rows.isfinite().all(1)).numpy(force=True)


def check_model(w: Tensor, run: Run, t: int) -> None:
    """Check that the server's model is finite.

    Args:
        w: Model ``[d]``.
        run: Run, for its seed.
        t: Round after which the server has the model.

    Raises:
        Diverged: If a parameter is non-finite.
    """
    if not _all_finite(w):
        raise Diverged(
            f"the server's model is not finite after round {t} (seed {run.seed}). Try a smaller "
            "server learning rate; the history is kept in .result"
        )


def _check_finite(is_finite: np.ndarray, run: Run, cohort: Cohort, name: str) -> None:
    """Raise Diverged for the first client whose flag ``[m]`` is False."""
    if not is_finite.all():
        client = cohort.ids[is_finite.argmin()]
        lr = local_settings(run, [client], cohort.round)[0].lr
        raise Diverged(
            f"{name} of client {client} is not finite in round {cohort.round} (seed {run.seed}, "
            f"lr={lr:g}). Try a smaller learning rate; the history is kept in .result"
        )


def mean_loss(loss: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean of the clients' training losses; NaN without clients."""
    return float(loss @ weights / weights.sum()) if len(weights) else np.nan


def record_round(dispatched: Dispatch, updates: Updates, bytes_up: np.ndarray) -> tuple[dict, dict]:
    """Make the rows of a round for both tables of the result.

    Args:
        dispatched: Model and work that went out.
        updates: Updates of the cohort.
        bytes_up: Bytes that each client sent ``[m, 3]``.

    Returns:
        The row of the table ``rounds``, without scores yet, and the columns of the table
        ``clients``, one entry per client of the cohort.
    """
    run, cohort = dispatched.run, dispatched.cohort
    bytes_down = dispatched.bytes_down
    t, m = cohort.round, len(cohort.ids)
    n, steps, loss = (
        column.numpy(force=True) for column in (updates.num_examples, updates.steps, updates.loss)
    )
    has_trained = steps > 0
    names = ("examples", "steps", "bytes_up", "bytes_down", *COLUMNS)
    counted = np.empty((len(names), m), dtype=int)
    counted[0] = (dispatched.work.batches >= 0).sum((1, 2))
    counted[1] = steps
    counted[2], counted[3] = bytes_up.sum(1), bytes_down.sum(1)
    counted[4:7], counted[7:] = bytes_up.T, bytes_down.T
    same = {**run.labels, "seed": run.seed, "round": t}
    train_loss = mean_loss(loss[has_trained], n[has_trained])
    row = (
        same
        | missing_scores(run.experiment.task)
        | {"train_loss": train_loss, "clients": int(has_trained.sum())}
        | dict(zip(names, counted.sum(1).tolist(), strict=True))
    )
    columns = (
        {name: label_column(value, m) for name, value in same.items()}
        | {"client": cohort.ids, "num_examples": n.astype(int), "loss": loss}
        | dict(zip(names, counted, strict=True))
    )
    return row, columns


def apply_round(run: Run, after: tuple[Tensor, Any], recorded: tuple[dict, dict]) -> None:
    """Complete a round: set the next model and state, and append its rows to the tables.

    Args:
        run: Run, changed in place.
        after: Next model ``[d]`` and state, from ``aggregate_and_step``.
        recorded: Row and columns, from ``record_round``.
    """
    run.w, run.state = after
    run.rounds.append(recorded[0])
    run.clients.append(recorded[1])
