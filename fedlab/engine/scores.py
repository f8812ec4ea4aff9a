"""Evaluation rounds of a run, and the scores of models that are evaluated together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlab.core import Experiment, Task, params
from fedlab.engine.evaluation import evaluate, evaluate_models
from fedlab.engine.run_state import Run


def is_evaluation_round(experiment: Experiment, t: int) -> bool:
    """Return True if the model is evaluated after round ``t``."""
    return t % experiment.eval_every == 0 or t == experiment.rounds


def missing_scores(task: Task) -> dict[str, float]:
    """Return NaN for each score of a task, for rounds that are not evaluated."""
    return dict.fromkeys(("loss", *task.metrics, *task.measures), np.nan)


def evaluate_runs(runs: Sequence[Run], t: int) -> list[dict[str, float]]:
    """Evaluate the models of runs of one task after round ``t``.

    Models of the same test set become rows of one matrix. They stay in it, which spares the next
    round a copy.

    Args:
        runs: Runs of one task.
        t: Round, from 0.

    Returns:
        The scores of each run; NaN if its model is not evaluated in this round.
    """
    scores = [missing_scores(run.experiment.task) for run in runs]
    groups: dict[int, list[int]] = {}
    for k, run in enumerate(runs):
        if is_evaluation_round(run.experiment, t):
            groups.setdefault(id(run.data.test[0]), []).append(k)
    for group in groups.values():
        first = runs[group[0]]
        rows = params.as_matrix([runs[k].w for k in group])
        evaluated = evaluate_models(first.experiment.task, rows, first.data)
        for k, row, row_scores in zip(group, rows, evaluated, strict=True):
            scores[k] = row_scores
            runs[k].w = row if len(group) > 1 else first.w
    return scores


def reconcile_evaluations(run: Run) -> None:
    """Make the evaluations of a continued run equal to those of a run of its new length.

    A shorter run was evaluated where it ended, which may be no evaluation round of a longer one.
    """
    last = run.rounds[-1]
    for row in run.rounds[:-1] if run.traffic.budget_exhausted else run.rounds:
        if not is_evaluation_round(run.experiment, row["round"]):
            row.update(missing_scores(run.experiment.task))
    if is_evaluation_round(run.experiment, last["round"]) and np.isnan(last["loss"]):
        last.update(evaluate(run.experiment.task, run.w, run.data))
