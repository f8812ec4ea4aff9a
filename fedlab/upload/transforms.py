"""Transforms that leave fewer numbers, or others: sparse, factored and rotated updates.

Each function returns a ``Transform``. In the formulas ``x [d]`` is a client's update, C(x) the
update that the server decodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlab.core import ClientTable, Stage, Transform, generator, params
from fedlab.core.validate import check_whole, is_number
from fedlab.upload.chains import check_fraction, client_keys, sparsify, stateless
from fedlab.upload.codes import Cast, Lossless, tensor_sizes
from fedlab.upload.encodings import LowRankFactors, RandomMask, Rotated


def top_k(fraction: float) -> Transform:
    """Send the largest numbers of an update, at least one.

    ``|x - C(x)|^2 <= (1 - k/d) |x|^2``, and biased: use it with ``error_feedback``.
    Aji & Heafield 2017; Stich et al. 2018, Definition 2.1.

    Args:
        fraction: Share k/d of the numbers, above 0 and at most 1.

    Example:
        >>> import numpy as np
        >>> from fedlab.core import Cohort, Message
        >>> update = Message(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), {"w": torch.Size((4,))})
        >>> sent, _ = top_k(0.5).apply(update, None, Cohort(np.array([0]), 1, 0, 1))
        >>> sent.delta.tolist()
        [[0.0, -3.0, 2.0, 0.0]]
    """
    check_fraction(fraction=fraction)

    def apply(message, state, cohort):
        return sparsify(message, _largest(message.values, fraction)), state

    return stateless(apply, Stage.REDUCED)


def top_k_per_layer(fraction: float) -> Transform:
    """Send the largest numbers of each of the model's tensors, so that no layer goes without.

    Lin et al. 2018, Algorithm 1.

    Args:
        fraction: Share of the numbers of each tensor, above 0 and at most 1; at least one is sent.
    """
    check_fraction(fraction=fraction)

    def apply(message, state, cohort):
        sizes = tensor_sizes(message.shapes)
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        layers = message.values.split_with_sizes(sizes, 1)
        index = [start + _largest(x, fraction) for start, x in zip(starts, layers, strict=True)]
        return sparsify(message, torch.cat(index, 1)), state

    return stateless(apply, Stage.DENSE, Stage.REDUCED)


def threshold(tau: float) -> Transform:
    """Send the numbers of at least ``tau`` in size, few or many.

    Strom 2015; with ``error_feedback``, Dutta et al. 2020.

    Args:
        tau: Smallest size that is sent, above 0, in the units of the updates.

    Example:
        >>> import numpy as np
        >>> from fedlab.core import Cohort, Message
        >>> update = Message(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), {"w": torch.Size((4,))})
        >>> sent, _ = threshold(1.0).apply(update, None, Cohort(np.array([0]), 1, 0, 1))
        >>> sent.delta.tolist()
        [[1.0, -3.0, 2.0, 0.0]]
    """
    if not (is_number(tau) and tau > 0):
        raise ValueError(
            f"tau={tau!r} must be above 0 (it is in the units of the updates). Try 0.01"
        )

    def apply(message, state, cohort):
        is_large = message.values.abs() >= tau
        width = is_large.shape[1]
        count = min(max(1, int(is_large.sum(1).max())), width)
        order = torch.arange(width, device=is_large.device).expand(len(is_large), -1)
        index = torch.where(is_large, order, width).topk(count, 1, largest=False).values
        return sparsify(message, index), state

    return stateless(apply, Stage.REDUCED, Stage.RAGGED)


def random_k(fraction: float, *, scale: float | None = None) -> Transform:
    """Send a random share of the numbers, at positions that both sides draw.

    No index travels. Konecny et al. 2016, random mask.

    Args:
        fraction: Share k/d of the numbers, above 0 and at most 1.
        scale: Factor of what is sent. None: d/k, so that C is unbiased. Use 1 inside
            ``error_feedback``, which takes care of what is missing.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> unbiased = random_k(0.1)
        >>> from fedlab.upload import error_feedback
        >>> fed_back = error_feedback(random_k(0.1, scale=1))
    """
    check_fraction(fraction=fraction)
    if scale is not None and not (is_number(scale) and scale > 0):
        raise ValueError(f"scale={scale!r} must be above 0, or None (for d/k). Try scale=1")

    def apply(message, state, cohort):
        x = message.values
        width, count = x.shape[1], _count(x.shape[1], fraction)
        mask = RandomMask(client_keys(cohort, "random_k"), count, width)
        values = x.gather(1, mask.index.to(x.device))
        factor = width / max(1, count) if scale is None else scale
        return message.encoded(values * factor, mask), state

    factor = scale or 1 / fraction
    reason = (
        f"its numbers are {factor:g} times too large, to be unbiased, and the errors would grow. "
        "Try random_k(..., scale=1)"
        if factor > 1
        else ""
    )
    return stateless(apply, Stage.REDUCED, no_feedback_reason=reason, no_download_reason=reason)


def power_sgd(rank: int) -> Transform:
    """Send a low-rank approximation ``P P^T M`` of each matrix M, by one power iteration.

    ``P = orthonormal(M Q)``, then ``Q <- M^T P``, which the client keeps for its next round. Use it
    with ``error_feedback``, as the paper does. A convolution is a matrix
    ``[out, in * height * width]``. Biases, and matrices that P and Q do not make smaller, travel
    whole. Vogels et al. 2019, Algorithm 1.
    Differs: the paper's workers share the mean of their P and of their Q; here each has its own.

    Args:
        rank: Columns of P and Q, at least 1.

    Returns:
        A transform whose state is the Q of each client.

    Example:
        >>> from fedlab.upload import error_feedback
        >>> upload = error_feedback(power_sgd(2))
    """
    check_whole(1, rank=rank)

    def init(w, shapes, num_clients):
        factors = LowRankFactors(tuple(shapes.values()), rank)
        sizes = [size[1] for size in factors.sizes if len(size) == 2]
        return ClientTable(w[: sum(sizes)], num_clients)

    def apply(message, memory, cohort):
        factors = LowRankFactors(tuple(message.shapes.values()), rank)
        queries = memory[cohort.ids]  # [m, numbers of all Q]
        draw = generator(cohort.seed, "power_sgd").standard_normal(queries.shape[1])
        # A client begins with random directions, and begins again where its Q is 0.
        draw = torch.from_numpy(draw).to(queries)
        values, updated = [], []
        start = 0
        tensors = params.views(message.values, message.shapes).values()
        for x, sizes in zip(tensors, factors.sizes, strict=True):
            if len(sizes) == 1:
                values.append(x.reshape(len(x), -1))
                continue
            part = slice(start, start + sizes[1])
            has_query = queries[:, part].any(1)[:, None]
            q = torch.where(has_query, queries[:, part], draw[part]).reshape(len(x), -1, rank)
            p, q = _power_iteration(x.reshape(len(x), x.shape[1], -1), q)
            values += [p.flatten(1), q.flatten(1)]
            updated.append(q.flatten(1))
            start += sizes[1]
        if updated:
            memory[cohort.ids] = torch.cat(updated, 1)
        return message.encoded(torch.cat(values, 1), factors), memory

    return Transform(init, apply, Stage.DENSE, Stage.REDUCED)


def rotate() -> Transform:
    """Rotate updates at random, so that no number stands out; for a quantizer behind it.

    The error of a quantizer grows with the largest number; after rotation all are about
    |x| / sqrt(d). Konecny et al. 2016; Suresh et al. 2017, section 3.

    Example:
        >>> from fedlab.upload import chain, quantize
        >>> upload = chain(rotate(), quantize(2))
    """

    def apply(message, state, cohort):
        rotated = Rotated(client_keys(cohort, "rotate"), message.values.shape[1])
        return message.encoded(rotated.rotate(message.values), rotated), state

    return stateless(apply, Stage.REDUCED)


def cast(dtype: str = "float16") -> Transform:
    """Send floats of 16 bits.

    Args:
        dtype: "float16" has 11 bits for the digits and overflows at 65504; "bfloat16" has 8 bits
            for the digits and the range of 32-bit floats.

    Raises:
        ValueError: If ``dtype`` is another type.
    """
    if dtype not in ("float16", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} must be 'float16' or 'bfloat16'. Try 'float16'")

    def apply(message, state, cohort):
        short = message.values.to(getattr(torch, dtype))
        return message.encoded(short, Cast(message.values.dtype)), state

    return stateless(apply, Stage.CODED)


def lossless() -> Transform:
    """Compress the bytes of numbers or codes without loss, by Zstandard.

    They travel as they are where that is not shorter.

    Example:
        >>> from fedlab.upload import chain, terngrad
        >>> upload = chain(terngrad(), lossless())  # most codes of TernGrad are 0
    """

    def apply(message, state, cohort):
        return message.encoded(message.values, Lossless()), state

    return stateless(apply, Stage.PACKED)


def _largest(x: Tensor, fraction: float) -> Tensor:
    return x.abs().topk(_count(x.shape[1], fraction), 1, sorted=False).indices


def _count(width: int, fraction: float) -> int:
    return max(1, round(fraction * width)) if width else 0


def _power_iteration(matrices: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``P = orthonormal(M Q)`` and ``M^T P`` for matrices ``[m, out, in]``."""
    p = torch.linalg.qr(matrices @ q).Q
    return p, matrices.mT @ p
