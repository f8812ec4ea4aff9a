"""Distillation on the server: models learn from what the clients' models predict together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from fedlab.core import Algorithm, Task, Terms, generator, params
from fedlab.core.validate import check_whole, is_number
from fedlab.models import model_masks
from fedlab.models.subnetworks import SummedModels
from fedlab.server.overlap import averaging_overlap, check_one_per_client, stack_masks


def feddf(
    task: Task,
    x: Tensor,
    models: Sequence[int] | None = None,
    *,
    steps: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
) -> Algorithm:
    """Average, then distill the clients' models into the server's, on examples without labels.

    The server takes ``steps`` of Adam on ``KL(softmax(mean_i f(x; w_i)) || f(x; w))``, with a rate
    that falls as a cosine. Where clients have different models (Algorithm 3), each is averaged over
    the clients that have it, and all learn from all clients. Ensemble distillation, Lin et al.
    2020, Algorithm 1. Differs: a fixed number of steps, where the paper stops early on examples
    with labels.

    Args:
        task: Task of the model, or of several models ``side_by_side``.
        x: Examples without labels on the server, ``[n, ...]``.
        models: Number of each client's model, ``[N]``, where there are several.
        steps: Steps of Adam per round.
        batch_size: Examples per step.
        lr: First rate of Adam.

    Raises:
        ValueError: If a value is out of range, or ``models`` does not fit the task.

    Example:
        >>> import fedlab as fl
        >>> digits = fl.load("digits", 10)
        >>> algorithm = feddf(fl.mlp(digits), digits.test[0], steps=20)
    """
    check_whole(1, steps=steps, batch_size=batch_size)
    if not (is_number(lr) and lr > 0):
        raise ValueError(f"lr={lr!r} must be above 0. Try 1e-3, as in the paper with Adam")
    if not isinstance(x, Tensor) or not len(x):
        raise ValueError(
            f"x must be a tensor [n, ...] of one or more examples, and is {type(x).__name__} of "
            f"{len(x)}. Try torch.as_tensor(x)"
        )
    masks = model_masks(task)
    _check_models(models, len(masks))

    def mask_of(cohort, client):
        if models is None:
            return masks[0]
        check_one_per_client("models", models, cohort.num_clients)
        return masks[models[client]]

    overlap = averaging_overlap(task, mask_of)

    def local_objective(state, cohort):
        return Terms() if models is None else overlap.local_objective(state, cohort)

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        inputs = x.to(w) if x.is_floating_point() else params.as_numbers(x, w).to(w.device)
        trained = w * stack_masks(task, mask_of, cohort).to(w) + updates.delta
        with torch.no_grad():
            logits = [task.forward(teacher, inputs) for teacher in trained[updates.steps > 0]]
            target = torch.stack(logits).mean(0).softmax(-1)
        draw = generator(cohort.seed, "feddf", cohort.round)
        batches = torch.from_numpy(draw.integers(len(x), size=(steps, batch_size))).to(w.device)
        return distill(task, w + mean, inputs, target, batches, lr=lr), state

    return overlap._replace(
        local_objective=local_objective, step=step, partial_updates=models is not None
    )


def distill(
    task: Task, w: Tensor, x: Tensor, target: Tensor, batches: Tensor, *, lr: float
) -> Tensor:
    """Train a model towards probabilities, by one step of Adam per batch.

    Each model of a task ``side_by_side`` learns for itself. Hinton et al. 2015, at temperature 1.

    Args:
        task: Task of the model, or of several models ``side_by_side``.
        w: Model, ``[d]``.
        x: Examples ``[n, ...]``.
        target: Probabilities ``[n, classes]``.
        batches: Example numbers, ``[steps, B]``.
        lr: First rate of Adam; it falls as a cosine.

    Returns:
        The model afterwards, ``[d]``.
    """
    model = task.module(w)
    students = model.models if isinstance(model, SummedModels) else [model]
    adam = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, len(batches))
    for batch in batches:
        predictions = [student(x[batch]).log_softmax(-1) for student in students]
        losses = [kl_div(each, target[batch], reduction="batchmean") for each in predictions]
        adam.zero_grad()
        sum(losses, start=w.new_zeros(())).backward()
        adam.step()
        schedule.step()
    return params.flatten(model)


def _check_models(models: Sequence[int] | None, number: int) -> None:
    if models is None:
        if number > 1:
            raise ValueError(
                f"models=None must name the model of each client (the task has {number} side by "
                "side). Try models=[i % 2 for i in range(num_clients)]"
            )
        return
    wrong = sorted(set(models) - set(range(number)))
    if wrong:
        raise ValueError(
            f"models={models!r:.80} must be from 0 to {number - 1}, the models of the task side by "
            f"side (one is {wrong[0]!r}). Try 0"
        )
