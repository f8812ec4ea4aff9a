"""Training that goes on after the data have changed: from a given model, and without forgetting what that one knew."""

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
    """The same task, begun at the model ``w [d]`` by every seed."""
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
    """Begun at ``w [d]``, and held to what that model says of the new examples: learning without forgetting.

    The loss has ``weight T^2 KL(softmax(old / T) || softmax(new / T))`` in addition, over the ``classes`` that the old model
    knows (all, if none are said).  Nothing of the old data is needed, and nothing more travels: clients have the old model,
    which was sent to them.  Li & Hoiem 2016, equation 3, with T = 2.
    """
    if not (is_number(weight) and weight >= 0):
        raise ValueError(f"weight={weight!r}: it is at least 0; the paper's is 1")
    if not (is_number(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature!r}: it is above 0; the paper's is 2")
    known = None if classes is None else torch.tensor(list(classes), dtype=torch.long)

    def loss(output: Tensor, y: Tensor) -> Tensor:
        new, old = output.chunk(2, 1)
        told = [
            logits if known is None else logits[:, known.to(logits.device)] for logits in (new, old)
        ]
        now, then = (F.log_softmax(logits / temperature, 1) for logits in told)
        held = F.kl_div(now, then, reduction="none", log_target=True).sum(1)  # [B]
        return task.loss(new, y) + weight * temperature**2 * held

    def of_new(metric):
        return lambda output, y: metric(output.chunk(2, 1)[0], y)

    metrics = {name: of_new(metric) for name, metric in task.metrics.items()}
    return replace(
        task, model=lambda: _Beside(task.module(w), task.module(w)), loss=loss, metrics=metrics
    )


class _Beside(nn.Module):
    """A model that learns and one that does not, which says what it always said: outputs ``[B, 2 classes]``."""

    def __init__(self, new: nn.Module, old: nn.Module):
        super().__init__()
        self.new, self.old = new, old.requires_grad_(False)

    def forward(self, x):
        return torch.cat([self.new(x), self.old(x)], 1)
