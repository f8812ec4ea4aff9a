"""Runs that train together, as rows of one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedlab.client import stack_plans
from fedlab.core import (
    Experiment,
    Task,
    Updates,
    Work,
    params,
)
from fedlab.engine.evaluation import evaluate, evaluate_models
from fedlab.engine.run_state import Run, local_settings
from fedlab.server.aggregate import LINEAR_AGGREGATES


def group_compatible(runs: list[Run]) -> list[list[Run]]:
    """Runs that share a task, examples and an optimizer can train as rows of one matrix; fragile ones are by themselves."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        kind = (
            id(run.experiment.task),
            id(run.data.x),
            id(run.data.y),
            local_settings(run, [0])[0].optimizer,
        )
        groups.setdefault((*kind, id(run) if _is_fragile(run) else None), []).append(run)
    return list(groups.values())


def _is_fragile(run: Run) -> bool:
    """Return whether a last bit, which depends on how many rows a product has, may become a whole step.

    Transforms choose by such numbers, as top_k does and random levels do, and so do votes and robust aggregates.  AdamW's
    first step has the size lr, however small the gradient is.
    """
    experiment = run.experiment
    is_lossy = not (experiment.upload.is_identity and experiment.download.is_identity)
    return (
        is_lossy
        or experiment.aggregate not in LINEAR_AGGREGATES
        or local_settings(run, [0])[0].optimizer == "adamw"
    )


def stack_work(works: list[Work]) -> Work:
    """The work of several runs as rows of one matrix, one under the other."""
    if len(works) == 1:
        return works[0]
    settings = ("num_examples", "lr", "mu", "momentum", "weight_decay")
    before = np.cumsum([0] + [len(work.start) for work in works])
    return works[0]._replace(
        start=params.as_matrix([work.start for work in works]),
        origin=np.concatenate([work.origin + i for work, i in zip(works, before, strict=False)]),
        batches=stack_plans([work.batches for work in works]),
        h=_linear(works),
        centre=_centres(works),
        mask=_masks(works),
        fixed=_fixed(works),
        cohorts=tuple(cohort for work in works for cohort in work.cohorts),
        **{name: np.concatenate([getattr(work, name) for work in works]) for name in settings},
    )


def _linear(works: list[Work]) -> Tensor | None:
    """The linear terms of all runs, zeros where a run has none; None, and nothing allocated, where no run has any."""
    if all(work.h is None for work in works):
        return None
    return torch.cat(
        [work.start.expand(len(work.lr), -1) * 0 if work.h is None else work.h for work in works]
    )


def _centres(works: list[Work]) -> Tensor | None:
    """Likewise of what the proximal terms pull to: where a run has no such points, its starts."""
    if all(work.centre is None for work in works):
        return None
    return torch.cat(
        [work.start[work.origin] if work.centre is None else work.centre for work in works]
    )


def _masks(works: list[Work]) -> Tensor | None:
    """Likewise of the masks, where ones have no effect."""
    if all(work.mask is None for work in works):
        return None
    return torch.cat(
        [torch.ones_like(work.start) if work.mask is None else work.mask for work in works]
    )


def _fixed(works: list[Work]) -> np.ndarray | None:
    """Likewise of the tensors that stay."""
    fixed = [work.fixed for work in works]
    width = next((one.shape[1] for one in fixed if one is not None), None)
    if width is None:
        return None
    return np.concatenate(
        [
            np.zeros((len(work.start), width), bool) if work.fixed is None else work.fixed
            for work in works
        ]
    )


def split_updates(updates: Updates, sizes: list[int]) -> list[Updates]:
    """Those of runs with so many clients each."""
    if len(sizes) == 1:
        return [updates]
    columns = (
        [None] * len(sizes) if column is None else column.split_with_sizes(sizes)
        for column in updates
    )
    return [Updates(*own) for own in zip(*columns, strict=True)]


def reconcile_evaluations(run: Run) -> None:
    """Evaluations as they are in a run of this length: one that was shorter evaluated where it ended."""
    last = run.rounds[-1]
    for row in run.rounds[:-1] if run.traffic.budget_exhausted else run.rounds:
        if not is_evaluation_round(run.experiment, row["round"]):
            row.update(missing_scores(run.experiment.task))
    if is_evaluation_round(run.experiment, last["round"]) and np.isnan(last["loss"]):
        last.update(evaluate(run.experiment.task, run.w, run.data))


def is_evaluation_round(experiment: Experiment, t: int) -> bool:
    """Whether the model is evaluated after round ``t``."""
    return t % experiment.eval_every == 0 or t == experiment.rounds


def missing_scores(task: Task) -> dict[str, float]:
    """In place of scores where nothing was evaluated."""
    return dict.fromkeys(("loss", *task.metrics, *task.measures), np.nan)


def evaluate_runs(runs: Sequence[Run], t: int) -> list[dict[str, float]]:
    """Those of the models after round ``t``, or NaN where they are not evaluated; of runs of one task.

    What is evaluated side by side stays there: the next round need not put it together again.
    """
    scores, tests = [missing_scores(run.experiment.task) for run in runs], {}
    for k, run in enumerate(runs):
        if is_evaluation_round(run.experiment, t):
            tests.setdefault(id(run.data.test[0]), []).append(k)
    for some in tests.values():
        first = runs[some[0]]
        rows = params.as_matrix([runs[k].w for k in some])
        for k, row, told in zip(
            some, rows, evaluate_models(first.experiment.task, rows, first.data), strict=True
        ):
            runs[k].w, scores[k] = row if len(some) > 1 else first.w, told
    return scores
