"""Models for images ``[B, channels, height, width]``, or flattened squares like ``digits``."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from fedlab.core import FederatedDataset, Task
from fedlab.models.tabular import classification, num_classes


def cnn(data: FederatedDataset) -> Task:
    """Return the task of the CNN of McMahan et al. 2017: 1,663,370 parameters on MNIST.

    Raises:
        ValueError: If the examples are no images of at least 4 x 4 pixels.

    Example:
        >>> from fedlab.data import load
        >>> sum(shape.numel() for shape in cnn(load("digits")).shapes.values())
        188810
    """
    return classification(partial(convolutional, tuple(data.x.shape[1:]), num_classes(data)))


def resnet(data: FederatedDataset, width: int = 16, blocks: int = 1) -> Task:
    """Return the task of a small residual network with GroupNorm.

    ``blocks=1`` is a ResNet-8, 3 a ResNet-20 (He et al. 2016, section 4.2, with projections in the
    shortcuts). GroupNorm replaces BatchNorm, whose statistics differ between clients (Hsieh et al.
    2020), in two groups as in Reddi et al. 2021.

    Args:
        data: Images, with classes.
        width: Channels of the first of three stages, an even number; doubled twice.
        blocks: Residual blocks per stage.

    Raises:
        ValueError: If the examples are no images, or ``width`` or ``blocks`` is not possible.

    Example:
        >>> from fedlab.data import load
        >>> data = load("digits")
        >>> resnet(data, width=4).model()(data.x[:2]).shape
        torch.Size([2, 10])
    """
    if width < 2 or width % 2 or blocks < 1:
        raise ValueError(
            f"width={width}, blocks={blocks} must be an even width, for two groups, and at least "
            "one block. Try width=16, blocks=1"
        )
    return classification(
        partial(residual, tuple(data.x.shape[1:]), num_classes(data), width, blocks)
    )


def convolutional(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return two convolutions, a hidden layer of 512 units and logits.

    The convolutions are 5 x 5 with 32 and 64 channels, each with ReLU and 2 x 2 max pooling.
    """
    start, (channels, height, width) = _to_images(shape)
    if min(height, width) < 4:
        raise ValueError(
            f"images must have at least 4 x 4 pixels (two poolings leave nothing of {height} x "
            f"{width}). Try mlp"
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
    """Return a convolution, three stages of residual blocks, mean pooling and logits.

    The second and the third stage halve the resolution.

    Args:
        shape: Shape of an example.
        classes: Number of classes.
        width: Channels of the first stage.
        blocks: Residual blocks per stage.
    """
    start, (channels, _, _) = _to_images(shape)
    layers, before = [*start, _conv(channels, width), _norm(width), nn.ReLU()], width
    for stage in range(3):
        for block in range(blocks):
            layers.append(
                Residual(before, width * 2**stage, stride=2 if stage and not block else 1)
            )
            before = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a shortcut around them."""

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
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(_conv(before, after, size=1, stride=stride), _norm(after))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.path(x) + self.shortcut(x))


def _conv(before: int, after: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the resolution at stride 1; a norm follows, so no bias."""
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(2, channels)


def _to_images(shape: tuple[int, ...]) -> tuple[list[nn.Module], tuple[int, int, int]]:
    """Return layers that turn examples of a shape into images, and the shape of an image."""
    if len(shape) == 3:
        return [], shape
    side = math.isqrt(shape[0])
    if len(shape) != 1 or side**2 != shape[0]:
        raise ValueError(
            f"examples must be images [channels, height, width] or flattened squares (their shape "
            f"is {list(shape)}). Try mlp"
        )
    return [nn.Unflatten(1, (1, side, side))], (1, side, side)
