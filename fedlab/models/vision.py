"""Models for pictures ``[B, channels, height, width]``; squares in a row, like those of ``digits``, go as well."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from fedlab.core import FederatedDataset, Task
from fedlab.models.tabular import classification, num_classes


def cnn(data: FederatedDataset) -> Task:
    """The CNN of McMahan et al. 2017: 1,663,370 parameters on MNIST."""
    return classification(partial(convolutional, tuple(data.x.shape[1:]), num_classes(data)))


def resnet(data: FederatedDataset, width: int = 16, blocks: int = 1) -> Task:
    """A small residual network with GroupNorm: three stages of ``blocks``, ``width`` channels, doubled twice.

    ``blocks=1`` is a ResNet-8, 3 a ResNet-20 (He et al. 2016, section 4.2, with projections in the shortcuts).
    GroupNorm for BatchNorm, whose statistics differ from client to client (Hsieh et al. 2020), in two groups as in
    Reddi et al. 2021.
    """
    if width < 2 or width % 2 or blocks < 1:
        raise ValueError(
            f"width={width}, blocks={blocks}: an even width, for two groups, and a block or more; try 16 and 1"
        )
    return classification(
        partial(residual, tuple(data.x.shape[1:]), num_classes(data), width, blocks)
    )


def convolutional(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Two 5 x 5 convolutions of 32 and 64 channels, each with ReLU and 2 x 2 max pooling, 512 units with ReLU, logits."""
    start, (channels, height, width) = _pictures(shape)
    if min(height, width) < 4:
        raise ValueError(
            f"pictures of {height} x {width} pixels: two poolings leave nothing of them; use mlp"
        )
    return nn.Sequential(
        *start,
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )


def residual(shape: tuple[int, ...], classes: int, width: int, blocks: int) -> nn.Sequential:
    """A convolution, three stages of residual blocks, each but the first at half the resolution, mean pooling, logits."""
    start, (channels, _, _) = _pictures(shape)
    layers, before = [*start, _conv(channels, width), _norm(width), nn.ReLU()], width
    for stage in range(3):
        for block in range(blocks):
            layers.append(
                Residual(before, width * 2**stage, stride=2 if stage and not block else 1)
            )
            before = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.path = nn.Sequential(
            _conv(before, after, stride=stride),
            _norm(after),
            nn.ReLU(),
            _conv(after, after),
            _norm(after),
        )
        same = before == after and stride == 1
        self.around = (
            nn.Identity()
            if same
            else nn.Sequential(_conv(before, after, size=1, stride=stride), _norm(after))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.path(x) + self.around(x))


def _conv(before: int, after: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Keeps the resolution at stride 1; no bias, since a norm follows."""
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(2, channels)


def _pictures(shape: tuple[int, ...]) -> tuple[list[nn.Module], tuple[int, int, int]]:
    """What makes pictures of examples of this shape, nothing where they are some, and the pictures' shape."""
    if len(shape) == 3:
        return [], shape
    side = math.isqrt(shape[0])
    if len(shape) != 1 or side**2 != shape[0]:
        raise ValueError(
            f"examples of the shape {list(shape)} are no pictures [channels, height, width], nor squares in a row: use mlp"
        )
    return [nn.Unflatten(1, (1, side, side))], (1, side, side)
