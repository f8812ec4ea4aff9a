"""Models with early exits: easy examples get a prediction after the first blocks."""

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
    """Return the task of a multilayer perceptron with a head after each hidden layer.

    The loss is the weighted mean of the heads' losses. ``accuracy`` is that of the last exit.
    BranchyNet, Teerapittayanon et al. 2016, equation 2.

    Args:
        data: The data, with classes.
        hidden: Width of each hidden layer.
        weights: Weight of each exit's loss. Default: equal weights.

    Returns:
        A task whose output is the logits of all exits ``[B, exits * classes]``, the first exit
        first: see ``exit_early``.

    Raises:
        ValueError: If there is no hidden layer, or the weights do not fit.

    Example:
        >>> from fedlab.data import load
        >>> data = load("digits")
        >>> task = with_exits(data, hidden=(32, 64))
        >>> task.model()(data.x[:3]).shape
        torch.Size([3, 20])
    """
    exits, classes = len(hidden), num_classes(data)
    if not exits:
        raise ValueError(
            "hidden=() must have a layer (an exit follows each hidden layer). Try hidden=(32, 64)"
        )
    weights = [1.0] * exits if weights is None else list(weights)
    if len(weights) != exits or min(weights) < 0 or not sum(weights):
        raise ValueError(
            f"weights={weights} must be one number of at least 0 per exit, not all 0 (there are "
            f"{exits} exits). Try weights={[1.0] * exits}"
        )

    def loss(output: Tensor, y: Tensor) -> Tensor:
        logits_per_exit = output.unflatten(1, (exits, classes)).unbind(1)
        return sum(
            w * cross_entropy(logits, y) for w, logits in zip(weights, logits_per_exit, strict=True)
        ) / sum(weights)

    def accuracy(output: Tensor, y: Tensor) -> Tensor:
        return (output[:, -classes:].argmax(1) == y).to(output.dtype)

    widths = (data.x[0].numel(), *hidden)
    return Task(partial(Exits, widths, classes), loss, {"accuracy": accuracy})


class Exits(nn.Module):
    """Hidden layers with a head each: logits of all heads ``[B, exits * classes]``."""

    def __init__(self, widths: Sequence[int], classes: int):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in widths[1:])

    def forward(self, x):
        x, outputs = x.flatten(1), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = torch.relu(block(x))
            outputs.append(head(x))
        return torch.cat(outputs, 1)


def exit_early(output: Tensor, exits: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the exit that each example takes, and its predicted class.

    An example takes the first exit whose largest probability reaches the threshold, or the last.

    Args:
        output: Logits of all exits ``[B, exits * classes]``.
        exits: Number of exits.
        threshold: Smallest probability that is sure enough.

    Returns:
        Exit numbers ``[B]``, from 0, and classes ``[B]``.

    Example:
        >>> output = torch.tensor([[5.0, 0.0, 0.0, 9.0], [0.1, 0.0, 0.0, 9.0]])
        >>> exit_early(output, exits=2, threshold=0.9)  # 2 exits of 2 classes each
        (tensor([0, 1]), tensor([0, 1]))
    """
    p, classes = output.unflatten(1, (exits, -1)).softmax(2).max(2)  # [B, exits]
    is_sure = p >= threshold
    is_sure[:, -1] = True
    taken = is_sure.to(torch.int8).argmax(1)  # the first sure exit
    return taken, classes.gather(1, taken[:, None])[:, 0]
