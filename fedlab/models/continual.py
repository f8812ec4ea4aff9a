"""Training that continues after the data have changed, from a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor, nn

from fedlab.core import Task
from fedlab.core.validate import is_number
from fedlab.models.language import ModelFactory


def starting_at(task: Task, w: Tensor) -> Task:
    """Return the same task with the initial row ``w [d]`` for every seed.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.core import params
        >>> from fedlab.models import logistic_regression
        >>> task = logistic_regression(load("digits"))
        >>> again = starting_at(task, torch.ones(650))
        >>> params.flatten(again.model()).unique()
        tensor([1.])
    """
    if isinstance(task.model, ModelFactory):
        return replace(task, model=replace(task.model, row=w))
    return replace(task, model=lambda: task.module(w))


def without_forgetting(
    task: Task,
    w: Tensor,
    *,
    weight: float = 1.0,
    temperature: float = 2.0,
    classes: Sequence[int] | None = None,
) -> Task:
    """Start at a trained model, and keep predictions on the new examples close to its own.

    Learning without forgetting: the loss gets the additional term
    ``weight T^2 KL(softmax(old / T) || softmax(new / T))``. No old data are needed, and nothing
    more is sent: clients have the old model already. Li & Hoiem 2016, equation 3, with T = 2.

    Args:
        task: A task of classification.
        w: Row ``[d]`` of the old model.
        weight: Weight of the additional term, at least 0. The paper's is 1.
        temperature: The temperature T, above 0. The paper's is 2.
        classes: Classes that the old model knows. Default: all.

    Returns:
        The task; its model's output is the new logits beside the old ones.

    Raises:
        ValueError: If ``weight`` or ``temperature`` is out of range.
    """
    if not (is_number(weight) and weight >= 0):
        raise ValueError(
            f"weight={weight!r} must be a number of at least 0 (it multiplies a loss). Try 1, as "
            "in the paper"
        )
    if not (is_number(temperature) and temperature > 0):
        raise ValueError(
            f"temperature={temperature!r} must be a number above 0 (logits are divided by it). "
            "Try 2, as in the paper"
        )
    known = None if classes is None else torch.tensor(list(classes), dtype=torch.long)

    def loss(output: Tensor, y: Tensor) -> Tensor:
        new, old = output.chunk(2, 1)
        of_known = [
            logits if known is None else logits[:, known.to(logits.device)] for logits in (new, old)
        ]
        new_log, old_log = (F.log_softmax(logits / temperature, 1) for logits in of_known)
        distance = F.kl_div(new_log, old_log, reduction="none", log_target=True).sum(1)  # [B]
        return task.loss(new, y) + weight * temperature**2 * distance

    def of_new(metric):
        return lambda output, y: metric(output.chunk(2, 1)[0], y)

    metrics = {name: of_new(metric) for name, metric in task.metrics.items()}
    return replace(
        task, model=lambda: _Beside(task.module(w), task.module(w)), loss=loss, metrics=metrics
    )


class _Beside(nn.Module):
    """A model that trains beside a frozen one: outputs ``[B, 2 classes]``."""

    def __init__(self, new: nn.Module, old: nn.Module):
        super().__init__()
        self.new, self.old = new, old.requires_grad_(False)

    def forward(self, x):
        return torch.cat([self.new(x), self.old(x)], 1)
