"""Models with early exits: an answer after every block, so that easy examples need not go through all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedlab.core import FederatedDataset, Task
from fedlab.models.tabular import cross_entropy, num_classes


def with_exits(
    data: FederatedDataset,
    hidden: Sequence[int] = (32, 64, 128),
    *,
    weights: Sequence[float] | None = None,
) -> Task:
    """A perceptron with a head after each hidden layer; the loss is the heads' losses, weighted (default: alike).

    BranchyNet, Teerapittayanon et al. 2016, equation 2.  The output is the logits of all exits ``[B, exits * classes]``, the
    first first: see ``exit_early``.  ``accuracy`` is that of the last exit.
    """
    exits, classes = len(hidden), num_classes(data)
    if not exits:
        raise ValueError("hidden=() has no layer to exit after: give one width at least")
    weights = [1.0] * exits if weights is None else list(weights)
    if len(weights) != exits or min(weights) < 0 or not sum(weights):
        raise ValueError(
            f"weights={weights}: one for each of the {exits} exits, at least 0 and not all 0"
        )

    def loss(output: Tensor, y: Tensor) -> Tensor:
        each = output.unflatten(1, (exits, classes)).unbind(1)
        return sum(
            w * cross_entropy(logits, y) for w, logits in zip(weights, each, strict=True)
        ) / sum(weights)

    def accuracy(output: Tensor, y: Tensor) -> Tensor:
        return (output[:, -classes:].argmax(1) == y).to(output.dtype)

    widths = (data.x[0].numel(), *hidden)
    return Task(partial(Exits, widths, classes), loss, {"accuracy": accuracy})


class Exits(nn.Module):
    """Blocks one after another, each with a head: logits of all heads ``[B, exits * classes]``."""

    def __init__(self, widths: Sequence[int], classes: int):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in widths[1:])

    def forward(self, x):
        x, said = x.flatten(1), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = torch.relu(block(x))
            said.append(head(x))
        return torch.cat(said, 1)


def exit_early(output: Tensor, exits: int, threshold: float) -> tuple[Tensor, Tensor]:
    """At which exit each example leaves ``[B]``, from 0, and the class that it gets there ``[B]``.

    It leaves at the first exit whose largest probability is ``threshold`` or more, or at the last.
    """
    p, classes = output.unflatten(1, (exits, -1)).softmax(2).max(2)  # [B, exits]
    sure = p >= threshold
    sure[:, -1] = True
    left = sure.to(torch.int8).argmax(1)  # the first that is
    return left, classes.gather(1, left[:, None])[:, 0]
