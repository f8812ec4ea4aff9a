"""Differences between clients in their features, and in the meaning of their labels.

Each function takes a dataset that is divided already and returns another one. ``parts`` and the
test set stay as they are: the model is tested on clean examples whose labels have their common
meaning. The strength of a skew is one number, which is spread over the clients as the function
says, or a sequence ``[N]`` with one number per client.

Example:
    >>> from fedlab.data import load
    >>> data = load("digits", clients=5)
    >>> darker = scale(data, [1.0, 0.8, 0.6, 0.4, 0.2])
    >>> round(float(darker.x[darker.parts[4]].max()), 6)  # pixels were in 0..1
    0.2
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

CHUNK = 4096  # pictures turned at once: a sampling grid is larger than its picture


def noise(
    data: FederatedDataset, variance: float | Sequence[float], *, seed: int = 0
) -> FederatedDataset:
    """Add Gaussian noise to every number of an example.

    One ``variance`` is spread as ``variance * i / N`` over clients 1 to N. This is the noise-based
    feature imbalance of NIID-Bench (Li et al. 2022).
    Differs: its code uses these numbers as standard deviations, begins with 0, and draws anew at
    every reading.

    Args:
        data: The divided data, of real numbers.
        variance: The variance of the noise, at least 0: one number, or one per client.
        seed: The seed of the draw.

    Example:
        >>> from fedlab.data import load
        >>> data = load("digits", clients=5)
        >>> noisy = noise(data, variance=[0, 0, 0, 0, 1])
        >>> torch.equal(noisy.x[data.parts[0]], data.x[data.parts[0]])
        True
    """
    _check_real(data.x)
    n = data.num_clients
    each = _strengths(
        data, "variance", variance, lowest=0, spread=lambda v: v * np.arange(1, n + 1) / n
    )
    if (each < 0).any():
        raise ValueError(f"variance={each.min():g} must be at least 0. Try variance=0.1")
    z = torch.from_numpy(generator(seed, "noise").standard_normal(data.x.shape, dtype=np.float32))
    x = data.x + _by_example(data, np.sqrt(each), neutral=0) * z.to(data.x)
    return _with_examples(data, x, variance=variance)


def rotate(
    data: FederatedDataset, degrees: float | Sequence[float], *, seed: int = 0
) -> FederatedDataset:
    """Turn pictures counter-clockwise.

    One number of ``degrees`` draws each client's angle uniformly from minus to plus that number.
    Values between pixels are interpolated linearly. Pixels that turn in from outside are 0.

    Args:
        data: The divided data. Pictures are ``[n, H, W]``, ``[n, C, H, W]`` or squares in rows
            ``[n, side * side]``, of real numbers.
        degrees: The angle: one number of at least 0, or one per client.
        seed: The seed of the draw.

    Example:
        >>> from fedlab.data import load
        >>> data = load("digits", clients=2)
        >>> upside_down = rotate(data, [180, 180])
        >>> torch.allclose(upside_down.x, data.x.flip(1), atol=1e-5)
        True
    """
    _check_real(data.x)
    pictures = _as_pictures(data.x)  # [n, C, H, W]
    draw = generator(seed, "rotate").uniform
    each = _strengths(
        data, "degrees", degrees, lowest=0, spread=lambda v: draw(-v, v, data.num_clients)
    )
    angles = _by_example(data, np.deg2rad(each), neutral=0).flatten()
    chunks = zip(pictures.split(CHUNK), angles.split(CHUNK), strict=True)
    x = torch.cat([_turn(*chunk) for chunk in chunks]).view_as(data.x)
    return _with_examples(data, x, degrees=degrees)


def scale(
    data: FederatedDataset, gain: float | Sequence[float], *, seed: int = 0
) -> FederatedDataset:
    """Multiply every number by its client's gain.

    One ``gain`` draws each client's gain from ``1 / gain`` to ``gain``, log-uniformly.

    Args:
        data: The divided data, of real numbers.
        gain: The gain: one number of at least 1, or one per client.
        seed: The seed of the draw.
    """
    _check_real(data.x)
    each = _strengths(data, "gain", gain, lowest=1, spread=_ratios(data, generator(seed, "scale")))
    return _with_examples(data, data.x * _by_example(data, each, neutral=1), gain=gain)


def contrast(
    data: FederatedDataset, gain: float | Sequence[float], *, seed: int = 0
) -> FederatedDataset:
    """Multiply each example's distance from its own mean by its client's gain.

    Args:
        data: The divided data, of real numbers.
        gain: The gain: one number of at least 1, spread as in ``scale``, or one per client.
        seed: The seed of the draw.

    Example:
        >>> from fedlab.data import load
        >>> data = load("digits", clients=2)
        >>> grey = contrast(data, [0.0, 0.0])  # each picture is its mean
        >>> float(grey.x.std(1).max()) < 1e-6
        True
    """
    _check_real(data.x)
    spread = _ratios(data, generator(seed, "contrast"))
    each = _strengths(data, "gain", gain, lowest=1, spread=spread)
    mean = data.x.flatten(1).mean(1).view(-1, *[1] * (data.x.dim() - 1))
    x = mean + (data.x - mean) * _by_example(data, each, neutral=1)
    return _with_examples(data, x, gain=gain)


def permute_labels(
    data: FederatedDataset, share: float, *, concepts: int = 1, seed: int = 0
) -> FederatedDataset:
    """Give every class the number of another one, at a share of the clients: concept shift.

    Args:
        data: The divided data, with class labels.
        share: The share of clients whose labels are permuted, from 0 to 1.
        concepts: The number of permutations. With 1 these clients share one, as in clustered
            learning (Sattler et al. 2020). With more they take turns. With as many as clients, each
            has its own. A permutation is a random cycle: no class keeps its number.
        seed: The seed of the draws of clients and permutations.

    Example:
        >>> from fedlab.data import load
        >>> data = load("digits", clients=4)
        >>> shifted = permute_labels(data, share=0.5)
        >>> sum(torch.equal(shifted.y[part], data.y[part]) for part in data.parts)
        2
    """
    classes, n = len(data.classes), data.num_clients
    y = class_numbers(data.y.numpy(), classes)
    if not (is_number(share) and 0 <= share <= 1):
        raise ValueError(
            f"share={share!r} must be between 0 and 1 (it is a share of the clients). Try share=0.5"
        )
    check_whole(1, concepts=concepts)
    if classes < 2:
        raise ValueError(
            f"data must have at least 2 classes to permute ({classes} are named). "
            "Try data with class labels"
        )
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
    data: FederatedDataset,
    name: str,
    strength: float | Sequence[float],
    *,
    lowest: float,
    spread: Callable[[float], np.ndarray],
) -> np.ndarray:
    """Return each client's strength ``[N]``: ``spread`` of one number, or a sequence as it is."""
    values, n = np.asarray(strength), data.num_clients
    finite = np.isfinite(values) if values.dtype.kind in "fiu" else np.array(False)
    if not finite.all():
        wrong = values[~finite][0] if finite.ndim else repr(strength)
        raise ValueError(
            f"{name}={wrong} must be finite, one number for all clients or one per client. "
            f"Try {name}={max(lowest, 1) * 2:g}"
        )
    values = values.astype(float)
    if values.ndim == 0:
        if values < lowest:
            raise ValueError(
                f"{name}={strength} must be at least {lowest} (one number for all clients). "
                f"Try {name}={lowest}, or one number per client"
            )
        return spread(float(values))
    if values.shape != (n,):
        raise ValueError(
            f"{name} of shape {values.shape} must be one number, or one per client ({n}). "
            f"Try {name}={values.flat[0] if values.size else lowest:g}"
        )
    return values


def _ratios(data: FederatedDataset, draw: np.random.Generator) -> Callable[[float], np.ndarray]:
    """Return a function that draws a ratio per client from ``1 / gain`` to ``gain``."""
    return lambda gain: gain ** draw.uniform(-1, 1, data.num_clients)


def _by_example(data: FederatedDataset, values: np.ndarray, *, neutral: float) -> Tensor:
    """Return each client's value at its examples, shaped to multiply ``x``.

    Examples of no client get the ``neutral`` value.
    """
    each = np.full(len(data.y), neutral, dtype=float)
    each[np.concatenate(data.parts)] = np.repeat(values, data.sizes)
    return torch.from_numpy(each).to(data.x).view(-1, *[1] * (data.x.dim() - 1))


def _with_examples(
    data: FederatedDataset, x: Tensor, **strength: float | Sequence[float]
) -> FederatedDataset:
    """Return the data with the examples ``x``; raise ValueError if they overflow."""
    if data.x.isfinite().all() and not x.isfinite().all():
        ((name, value),) = strength.items()
        raise ValueError(
            f"{name}={np.abs(value).max():g} must be smaller (examples go beyond "
            f"{torch.finfo(x.dtype).max:.2g}, where {x.dtype} ends). Try {name}=2"
        )
    return replace(data, x=x)


def _turn(pictures: Tensor, angles: Tensor) -> Tensor:
    """Turn pictures ``[k, C, H, W]`` counter-clockwise by ``angles [k]``, in radians."""
    height, width = pictures.shape[-2:]
    sin, cos = angles.sin(), angles.cos()
    zero = torch.zeros_like(angles)
    # The source of each pixel, in coordinates from -1 to 1 along either side, y downwards.
    rows = [cos, -sin * height / width, zero, sin * width / height, cos, zero]
    grid = F.affine_grid(
        torch.stack(rows, 1).view(-1, 2, 3), list(pictures.shape), align_corners=False
    )
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _as_pictures(x: Tensor) -> Tensor:
    """Return examples as ``[n, C, H, W]``."""
    side = round(x[0].numel() ** 0.5)
    if x.dim() == 2 and side * side == x.shape[1]:
        return x.reshape(-1, 1, side, side)
    if x.dim() not in (3, 4):
        raise ValueError(
            f"examples of shape {list(x.shape[1:])} must be pictures to be turned: [H, W], "
            "[C, H, W], or a square in a row, such as 64 = 8 x 8 numbers. Try x.reshape(n, H, W)"
        )
    return x[:, None] if x.dim() == 3 else x


def _check_real(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(
            f"examples of type {x.dtype} must be real numbers for this skew, such as pixels or "
            "measurements. Try federate(x / 255, ...) for pictures in bytes"
        )
