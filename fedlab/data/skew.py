"""How clients differ beside who holds what: in their instruments, and in what their labels mean.

Each function takes a dataset that is split already and gives another one.  ``parts`` and the test set stay as they are, so
what is tested is the model on clean examples whose labels have their common meaning.  Where a function asks for the strength
of a skew, one number is spread over the clients, as the function says, and a sequence ``[N]`` says it client by client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor

from fedlab.core import FederatedDataset, generator
from fedlab.core.validate import check_whole, is_number
from fedlab.data.partition import class_numbers


def noise(
    data: FederatedDataset, variance: float | Sequence[float], *, seed: int = 0
) -> FederatedDataset:
    """Gaussian noise on every number of an example; one ``variance`` is spread as ``variance * i / N`` over clients 1 to N.

    The noise-based feature imbalance of NIID-Bench (Li et al. 2022).
    Differs: its code takes these numbers for standard deviations, begins with 0, and draws anew at every reading.
    """
    _check_real(data.x)
    n = data.num_clients
    each = _strengths(
        data, "variance", variance, least=0, spread=lambda most: most * np.arange(1, n + 1) / n
    )
    if (each < 0).any():
        raise ValueError(f"variance={each.min():g}: a variance is at least 0")
    z = torch.from_numpy(generator(seed, "noise").standard_normal(data.x.shape, dtype=np.float32))
    return _changed(
        data, data.x + _by_example(data, np.sqrt(each), idle=0) * z.to(data.x), variance=variance
    )


def rotate(
    data: FederatedDataset, degrees: float | Sequence[float], *, seed: int = 0
) -> FederatedDataset:
    """Pictures turned counter-clockwise; one number of ``degrees`` draws each client's angle evenly from plus or minus it.

    Pictures are ``[n, H, W]``, ``[n, C, H, W]`` or squares in rows ``[n, side * side]``.  Values between pixels are
    interpolated linearly, and what turns in from outside is 0.
    """
    _check_real(data.x)
    pictures = _pictures(data.x)  # [n, C, H, W]
    draw = generator(seed, "rotate").uniform
    each = _strengths(
        data, "degrees", degrees, least=0, spread=lambda most: draw(-most, most, data.num_clients)
    )
    angles = _by_example(data, np.deg2rad(each), idle=0).flatten()
    few = zip(
        pictures.split(4096), angles.split(4096), strict=True
    )  # a sampling grid is larger than its picture
    return _changed(
        data, torch.cat([_turn(*chunk) for chunk in few]).view_as(data.x), degrees=degrees
    )


def scale(
    data: FederatedDataset, gain: float | Sequence[float], *, seed: int = 0
) -> FederatedDataset:
    """Every number multiplied by its client's gain; one ``gain`` draws them from ``1 / gain`` to ``gain``, log-uniformly."""
    _check_real(data.x)
    each = _strengths(data, "gain", gain, least=1, spread=_ratios(data, generator(seed, "scale")))
    return _changed(data, data.x * _by_example(data, each, idle=1), gain=gain)


def contrast(
    data: FederatedDataset, gain: float | Sequence[float], *, seed: int = 0
) -> FederatedDataset:
    """Every example's distance from its own mean multiplied by its client's gain; one ``gain`` is spread as in ``scale``."""
    _check_real(data.x)
    each = _strengths(
        data, "gain", gain, least=1, spread=_ratios(data, generator(seed, "contrast"))
    )
    mean = data.x.flatten(1).mean(1).view(-1, *[1] * (data.x.dim() - 1))
    return _changed(data, mean + (data.x - mean) * _by_example(data, each, idle=1), gain=gain)


def permute_labels(
    data: FederatedDataset, share: float, *, concepts: int = 1, seed: int = 0
) -> FederatedDataset:
    """Concept shift: in a ``share`` of the clients, drawn by ``seed``, every class bears the number of another one.

    With one of ``concepts`` these clients share a permutation, as in clustered learning (Sattler et al. 2020); with more
    they take turns; with as many as clients, each has its own.  It is a random cycle: no class keeps its number.
    """
    y, classes, n = (
        class_numbers(data.y.numpy(), len(data.classes)),
        len(data.classes),
        data.num_clients,
    )
    if not (is_number(share) and 0 <= share <= 1):
        raise ValueError(f"share={share!r}: a share of the clients is between 0 and 1")
    check_whole(1, concepts=concepts)
    if classes < 2:
        raise ValueError(f"there are {classes} classes: to permute labels takes at least 2")
    draw = generator(seed, "permute labels")
    affected = draw.permutation(n)[: max(round(share * n), share > 0)]
    cycles = draw.permuted(np.tile(np.arange(classes), (concepts, 1)), axis=1)
    maps = np.empty_like(cycles)  # [concepts, classes]
    np.put_along_axis(maps, cycles, np.roll(cycles, 1, axis=1), axis=1)
    new = y.copy()
    for turn, i in enumerate(affected):
        new[data.parts[i]] = maps[turn % concepts, y[data.parts[i]]]
    return replace(data, y=torch.from_numpy(new))


def _strengths(
    data: FederatedDataset, name: str, given: float | Sequence[float], *, least: float, spread
) -> np.ndarray:
    """What each client gets, ``[N]``: one number, of at least ``least``, by ``spread(number)``, a sequence as it is."""
    values, n = np.asarray(given), data.num_clients
    finite = np.isfinite(values) if values.dtype.kind in "fiu" else np.array(False)
    if not finite.all():
        wrong = values[~finite][0] if finite.ndim else repr(given)
        raise ValueError(
            f"{name}={wrong}: it must be finite, one number for all clients or one a client"
        )
    values = values.astype(float)
    if values.ndim == 0:
        if values < least:
            raise ValueError(f"{name}={given}: one number for all clients is at least {least}")
        return spread(float(values))
    if values.shape != (n,):
        raise ValueError(
            f"{name} has shape {values.shape} and there are {n} clients: give one number, or one a client"
        )
    return values


def _ratios(data: FederatedDataset, draw: np.random.Generator) -> Callable[[float], np.ndarray]:
    return lambda most: most ** draw.uniform(-1, 1, data.num_clients)


def _by_example(data: FederatedDataset, values: np.ndarray, *, idle: float) -> Tensor:
    """Each client's value at its examples, shaped to multiply ``x``; ``idle`` at those that nobody holds."""
    each = np.full(len(data.y), idle, dtype=float)
    each[np.concatenate(data.parts)] = np.repeat(values, data.sizes)
    return torch.from_numpy(each).to(data.x).view(-1, *[1] * (data.x.dim() - 1))


def _changed(
    data: FederatedDataset, x: Tensor, **strength: float | Sequence[float]
) -> FederatedDataset:
    """The data with the examples ``x``; ValueError where the strength took them beyond what their type can hold."""
    if data.x.isfinite().all() and not x.isfinite().all():
        ((name, given),), most = strength.items(), torch.finfo(x.dtype).max
        raise ValueError(
            f"{name}={np.abs(given).max():g}: examples go beyond {most:.2g}, where {x.dtype} ends; take less"
        )
    return replace(data, x=x)


def _turn(pictures: Tensor, angles: Tensor) -> Tensor:
    """Pictures ``[k, C, H, W]`` turned by ``angles [k]``, in radians, counter-clockwise."""
    height, width = pictures.shape[-2:]
    sin, cos, none = angles.sin(), angles.cos(), torch.zeros_like(angles)
    # Where a pixel comes from, in coordinates that run from -1 to 1 along either side, y downwards.
    rows = [cos, -sin * height / width, none, sin * width / height, cos, none]
    grid = F.affine_grid(
        torch.stack(rows, 1).view(-1, 2, 3), list(pictures.shape), align_corners=False
    )
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _pictures(x: Tensor) -> Tensor:
    """As ``[n, C, H, W]``."""
    side = round(x[0].numel() ** 0.5)
    if x.dim() == 2 and side * side == x.shape[1]:
        return x.reshape(-1, 1, side, side)
    if x.dim() not in (3, 4):
        raise ValueError(
            f"examples of shape {list(x.shape[1:])} are no pictures: to turn them, they must be [H, W], [C, H, W] or a "
            "square in a row, such as 64 = 8 x 8 numbers"
        )
    return x[:, None] if x.dim() == 3 else x


def _check_real(x: Tensor) -> None:
    if not x.is_floating_point():
        told = f"examples are of type {x.dtype}: this skew needs real numbers, such as pixels or measurements"
        raise ValueError(f"{told}. Try federate(x / 255, ...) for pictures in bytes")
