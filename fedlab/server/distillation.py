"""Distillation on the server: FedDF."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlab.core import Algorithm, Task, Terms, generator, params
from fedlab.core.validate import check_whole, is_number
from fedlab.models import model_masks
from fedlab.models.subnetworks import SummedModels
from fedlab.server.partial_models import _by_overlap, _masks, _one_each


def feddf(
    task: Task,
    x: Tensor,
    models: Sequence[int] | None = None,
    *,
    steps: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
) -> Algorithm:
    """Average, then let the server's models learn what the clients' models say together of examples without labels.

    Ensemble distillation, Lin et al. 2020, Algorithm 1: ``steps`` of Adam on ``KL(softmax(mean_i f(x; w_i)) || f(x; w))``
    with batches of ``x [n, ...]``, the rate falling as a cosine.  Where clients have different models (Algorithm 3), the
    ``task`` has them ``side_by_side``, and client i has number ``models[i]``: each is averaged over those who have it, and
    all learn from everybody.
    Differs: a fixed number of steps, where the paper stops early on examples with labels.
    """
    check_whole(1, steps=steps, batch_size=batch_size)
    if not (is_number(lr) and lr > 0):
        raise ValueError(f"lr={lr!r}: it is above 0; the paper takes 1e-3 with Adam")
    if not isinstance(x, Tensor) or not len(x):
        raise ValueError(
            f"x is {type(x).__name__} of {len(x)} examples: it is a tensor [n, ...] of one or more"
        )
    each = model_masks(task)
    wrong = [] if models is None else sorted(set(models) - set(range(len(each))))
    if wrong:
        raise ValueError(
            f"models has {wrong[0]!r}, and the task has models 0 to {len(each) - 1} side by side"
        )
    if models is None and len(each) > 1:
        raise ValueError(
            f"the task has {len(each)} models side by side: say in models= which one each client has"
        )

    def mask_of(cohort, i):
        if models is None:
            return each[0]
        _one_each("models", models, cohort.num_clients)
        return each[models[i]]

    overlap = _by_overlap(task, mask_of)

    def local_objective(state, cohort):
        return Terms() if models is None else overlap.local_objective(state, cohort)

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        shown = x.to(w) if x.is_floating_point() else params.as_numbers(x, w).to(w.device)
        teachers = (w * _masks(task, mask_of, cohort).to(w) + updates.delta)[updates.steps > 0]
        with torch.no_grad():
            logits = torch.stack([task.forward(teacher, shown) for teacher in teachers]).mean(0)
        draw = generator(cohort.seed, "feddf", cohort.round)
        batches = torch.from_numpy(draw.integers(len(x), size=(steps, batch_size))).to(w.device)
        return distill(task, w + mean, shown, logits.softmax(-1), batches, lr=lr), state

    return overlap._replace(
        local_objective=local_objective, step=step, partial_updates=models is not None
    )


def distill(
    task: Task, w: Tensor, x: Tensor, target: Tensor, batches: Tensor, *, lr: float
) -> Tensor:
    """``w [d]`` after a step of Adam for each of ``batches [steps, B]``, towards the probabilities ``target [n, classes]``.

    Every model of a task ``side_by_side`` learns for itself.  Hinton et al. 2015, at temperature 1.
    """
    model = task.module(w)
    students = model.models if isinstance(model, SummedModels) else [model]
    adam = torch.optim.Adam(model.parameters(), lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, len(batches))
    for batch in batches:
        told = [student(x[batch]).log_softmax(-1) for student in students]
        loss = sum(
            torch.nn.functional.kl_div(one, target[batch], reduction="batchmean") for one in told
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
    return params.flatten(model)
