"""Quantizers: transforms that write numbers in fewer bits, as codes.

Each function returns a ``Transform``. In the formulas ``x [k]`` are the numbers that are left of a
client's update, C(x) the numbers that the server decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from fedlab.core import Message, Stage, Transform, identity
from fedlab.core.validate import check_whole
from fedlab.upload.chains import chain, stateless, uniform_noise
from fedlab.upload.codes import Codebook, Grid, buckets, in_buckets, spread, tensor_sizes
from fedlab.upload.encodings import HADAMARD_SIDE
from fedlab.upload.transforms import rotate

KMEANS_SAMPLE = 10_000  # numbers of an update from which k-means finds its levels
KMEANS_ITERATIONS = 10


def qsgd(bits: int, *, bucket: int | None = 512, norm: str = "max") -> Transform:
    """Round numbers up or down at random, so that the result is unbiased.

    ``x_j = norm / s * l_j`` with ``E l_j = s x_j / norm`` and s = 2^(bits - 1) - 1 levels. Each
    bucket sends one norm in 32 bits. Alistarh et al. 2017. ``E|C(x) - x|^2 <= min(n / s^2, sqrt(n)
    / s) |x|^2`` for buckets of n. Being unbiased, it needs no ``error_feedback``; where that bound
    is above 1 it must not have it, since the errors may grow.

    Args:
        bits: Bits per number, its sign among them, 2 to 16; at 32 the floats themselves travel.
        bucket: Numbers that share a norm; None: all of a client.
        norm: "l2" as in the paper's theorem, or "max" as in its experiments.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> import numpy as np
        >>> from fedlab.core import Cohort, Message
        >>> update = Message(torch.tensor([[1.0, -0.5, 0.0]]), {"w": torch.Size((3,))})
        >>> sent, _ = qsgd(2).apply(update, None, Cohort(np.array([0]), 1, 0, 1))
        >>> set(sent.delta[0].tolist()) <= {-1.0, 0.0, 1.0}  # one level up, one down
        True
    """
    _check(bits, bucket, lowest=2)
    if norm not in ("l2", "max"):
        raise ValueError(f"norm={norm!r} must be 'l2' or 'max'. Try 'max'")
    if bits == 32:
        return _floats()
    s = 2 ** (bits - 1) - 1

    def apply(message, state, cohort):
        x = message.values
        length, sizes = _length(x, bucket), _sizes(x, bucket)
        norms = _per_bucket(x, length, lambda part: _norm(part, norm))
        step = norms / s
        levels = in_buckets(x.clone(), _above_0(step), sizes, Tensor.div_)
        levels.add_(uniform_noise(cohort, "qsgd", x)).floor_().clamp_(-s, s)
        codes = _codes(levels.add_(s), bits)
        return message.encoded(codes, Grid(bits, s, length, sizes, step)), state

    return stateless(apply, Stage.CODED)


def quantize(bits: int, *, bucket: int | None = None) -> Transform:
    """Round numbers to the nearest of 2^bits evenly spaced levels.

    The levels go from the smallest to the largest number of each bucket. Jacob et al. 2018,
    equation 1.
    Differs: there 0 is always one of the levels.

    Args:
        bits: Bits per number, 1 to 16; at 32 the floats themselves travel.
        bucket: Numbers that share their levels; None: all of a client.

    Example:
        >>> import numpy as np
        >>> from fedlab.core import Cohort, Message
        >>> update = Message(torch.tensor([[0.0, 0.2, 0.9, 3.0]]), {"w": torch.Size((4,))})
        >>> sent, _ = quantize(2).apply(update, None, Cohort(np.array([0]), 1, 0, 1))
        >>> sent.delta.tolist()
        [[0.0, 0.0, 1.0, 3.0]]
    """
    _check(bits, bucket)
    if bits == 32:
        return _floats()

    def apply(message, state, cohort):
        x = message.values
        length, sizes = _length(x, bucket), _sizes(x, bucket)
        low = _per_bucket(x, length, lambda part: part.amin(2))
        step = (_per_bucket(x, length, lambda part: part.amax(2)) - low) / (2**bits - 1)
        above_low = in_buckets(x.clone(), low, sizes, Tensor.sub_)
        levels = in_buckets(above_low, _above_0(step), sizes, Tensor.div_)
        levels.round_().clamp_(0, 2**bits - 1)
        return message.encoded(_codes(levels, bits), Grid(bits, 0, length, sizes, step, low)), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def sign() -> Transform:
    """Send +1 or -1 for each number, one bit; use it with ``aggregate=majority_vote``.

    The server then moves every parameter by its ``server_lr``, however large the updates are.
    signSGD, Bernstein et al. 2018.

    Example:
        >>> import numpy as np
        >>> from fedlab.core import Cohort, Message
        >>> update = Message(torch.tensor([[0.3, -2.0, 0.0]]), {"w": torch.Size((3,))})
        >>> sign().apply(update, None, Cohort(np.array([0]), 1, 0, 1))[0].delta.tolist()
        [[1.0, -1.0, 1.0]]
    """

    def apply(message, state, cohort):
        ones = message.values.new_ones(len(message.values), 1)
        return _two_levels(message, -ones, 2 * ones, None), state

    return stateless(
        apply,
        Stage.CODED,
        no_download_reason="every number of the model would move by 1, whatever clients lack of "
        "it. Try scaled_sign()",
    )


def scaled_sign(bucket: int | None = None) -> Transform:
    """Send the signs times the mean size, ``|x|_1 / n sign(x)``, one bit per number.

    With ``error_feedback`` it is EF-signSGD, Karimireddy et al. 2019, Algorithm 1.

    Args:
        bucket: Numbers that share a mean size; None: all of a client.
    """
    _check(1, bucket)

    def apply(message, state, cohort):
        length = _length(message.values, bucket)
        mean = _per_bucket(message.values, length, lambda part: part.abs().mean(2))
        return _two_levels(message, -mean, 2 * mean, bucket), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def one_bit(bucket: int | None = 512) -> Transform:
    """Send the mean of the negative numbers or the mean of the others, one bit per number.

    Use it with ``error_feedback``. The paper's columns of a weight matrix are buckets here. Seide
    et al. 2014. With momentum, as in 1-bit Adam (Tang et al. 2021), it is ``chain(momentum(),
    error_feedback(one_bit()))``.

    Args:
        bucket: Numbers that share two means; None: all of a client.

    Example:
        >>> import numpy as np
        >>> from fedlab.core import Cohort, Message
        >>> update = Message(torch.tensor([[1.0, 3.0, -4.0]]), {"w": torch.Size((3,))})
        >>> one_bit().apply(update, None, Cohort(np.array([0]), 1, 0, 1))[0].delta.tolist()
        [[2.0, 2.0, -4.0]]
    """
    _check(1, bucket)

    def apply(message, state, cohort):
        x = message.values
        length, is_upper = _length(x, bucket), (x >= 0).to(x.dtype)
        high = _bucket_mean(x.clamp(min=0), is_upper, length)
        low = _bucket_mean(x.clamp(max=0), 1 - is_upper, length)
        return _two_levels(message, low, high - low, bucket), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def terngrad(clip: float = 2.5) -> Transform:
    """Send -s, 0 or s at random, unbiased, with s the largest number of each tensor.

    Wen et al. 2017, equations 1 to 5. A number takes 2 bits; ``lossless`` behind it makes use of
    the many zeros. Differs: a deviation is the root of the mean square, since a tensor of one
    number has no standard deviation.

    Args:
        clip: Each tensor is clipped at so many deviations from 0 first, which does bias; above 0.
            math.inf does not clip.

    Example:
        >>> from fedlab.upload import chain, lossless
        >>> upload = chain(terngrad(), lossless())
    """
    if not clip > 0:
        raise ValueError(f"clip={clip!r} must be above 0 (it counts deviations). Try 2.5")

    def apply(message, state, cohort):
        sizes = tensor_sizes(message.shapes)
        layers = message.values.split_with_sizes(sizes, 1)
        if clip < torch.inf:
            layers = [_clipped(layer, clip) for layer in layers]
        s = torch.cat([_largest(layer.abs()) for layer in layers], 1)
        x = torch.cat(layers, 1)
        levels = (x / spread(_above_0(s), sizes)).add_(uniform_noise(cohort, "terngrad", x))
        levels.floor_().clamp_(-1, 1)
        return message.encoded(_codes(levels + 1, 2), Grid(2, 1, 0, sizes, s)), state

    return stateless(apply, Stage.DENSE, Stage.CODED)


def kmeans(bits: int) -> Transform:
    """Round numbers to the nearest of 2^bits levels that k-means finds for each client.

    The levels travel along. Lloyd's iterations begin from even levels, and use every n-th number
    where there are more than 10,000. Han et al. 2016, section 3.

    Args:
        bits: Bits per number, 1 to 8.
    """
    check_whole(1, bits=bits)
    if bits > 8:
        raise ValueError(
            f"bits={bits} must be at most 8 (k-means finds 2 to 256 levels). Try quantize({bits})"
        )

    def apply(message, state, cohort):
        x = message.values
        table = _kmeans_levels(x, bits)
        sizes = _sizes(x, None)
        scale = x.new_ones(len(x), len(sizes))
        codebook = Codebook(bits, _length(x, None), sizes, table, scale)
        return message.encoded(_codes(_nearest(table, x), bits), codebook), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def lloyd_max(bits: int) -> Transform:
    """Round numbers to the best levels for a normal distribution; for use after ``rotate``.

    Each bucket y has as many numbers as a rotation mixes, and is scaled by ``|y|^2 / <y, Q(y)>``.
    Max 1960; Lloyd 1982; Vargaftik et al. 2022, section 3.

    Args:
        bits: Bits per number, 1 to 8.
    """
    check_whole(1, bits=bits)
    if bits > 8:
        raise ValueError(
            f"bits={bits} must be at most 8 (it has 2 to 256 levels). Try qsgd({bits})"
        )

    def apply(message, state, cohort):
        y = message.values
        length = _length(y, HADAMARD_SIDE**2)
        sizes, levels = buckets(y.shape[1], length), _normal_levels(bits).to(y)
        energy = _per_bucket(y, length, lambda part: part.square().sum(2))
        deviation = (energy / energy.new_tensor(sizes)).sqrt()
        standard = (y / spread(_above_0(deviation), sizes)).reshape(1, -1)
        code = _nearest(levels[None], standard).view(y.shape)
        along = _per_bucket(y * levels[code], length, lambda part: part.sum(2))
        table = levels.expand(len(y), -1)
        codebook = Codebook(bits, length, sizes, table, energy / _above_0(along))
        return message.encoded(_codes(code, bits), codebook), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def eden(bits: int = 1) -> Transform:
    """Rotate, then round with ``lloyd_max``; with 1 bit it is DRIVE.

    The scale makes C unbiased, as far as signs and a Hadamard matrix are a uniform rotation.
    Vargaftik et al. 2022; DRIVE: Vargaftik et al. 2021.

    Args:
        bits: Bits per number, 1 to 8.

    Example:
        >>> upload = eden(bits=2)
    """
    return chain(rotate(), lloyd_max(bits))


def _floats() -> Transform:
    """Send the floats themselves, in the place of codes."""
    return identity()._replace(first_stage=Stage.CODED, last_stage=Stage.CODED)


@lru_cache
def _normal_levels(bits: int) -> Tensor:
    """Return the 2^bits levels with the least mean squared error for N(0, 1).

    Each is the mean of the numbers nearest to it (Lloyd, Max). The iteration begins where levels
    are as dense as the cubic root of the normal density, nearly right for many (Panter & Dite).
    """
    levels = 3**0.5 * torch.special.ndtri((torch.arange(2**bits).double() + 0.5) / 2**bits)
    ends = torch.tensor([torch.inf], dtype=torch.double)
    for _ in range(2000):
        edges = torch.cat([-ends, (levels[1:] + levels[:-1]) / 2, ends])
        density = torch.exp(-(edges**2) / 2) / (2 * torch.pi) ** 0.5
        levels = -density.diff() / torch.special.ndtr(edges).diff()
    return levels


def _kmeans_levels(x: Tensor, bits: int) -> Tensor:
    """Return the levels of each row of ``x [m, k]`` by Lloyd's iterations, ``[m, 2^bits]``."""
    sample = x[:, :: max(1, x.shape[1] // KMEANS_SAMPLE)].contiguous()
    even = torch.linspace(0, 1, 2**bits, device=x.device, dtype=x.dtype)
    low = -_largest(-x)
    table = low + (_largest(x) - low) * even
    for _ in range(KMEANS_ITERATIONS):
        code = _nearest(table, sample)
        count = torch.zeros_like(table).scatter_add_(1, code, torch.ones_like(sample))
        total = torch.zeros_like(table).scatter_add_(1, code, sample)
        table = torch.where(count > 0, total / count.clamp(min=1), table)
    return table


def _two_levels(message: Message, low: Tensor, step: Tensor, bucket: int | None) -> Message:
    """Code negative numbers as 0 and the others as 1."""
    x = message.values
    grid = Grid(1, 0, _length(x, bucket), _sizes(x, bucket), step, low)
    return message.encoded(_codes(x >= 0, 1), grid)


def _nearest(levels: Tensor, x: Tensor) -> Tensor:
    """Return the index of the level nearest to each number; ``levels [m, L]`` ascend."""
    return torch.searchsorted(((levels[:, 1:] + levels[:, :-1]) / 2).contiguous(), x.contiguous())


def _codes(levels: Tensor, bits: int) -> Tensor:
    return levels.to(torch.uint8 if bits <= 8 else torch.int32)


def _length(x: Tensor, bucket: int | None) -> int:
    return max(1, min(bucket or x.shape[1], x.shape[1]))


def _sizes(x: Tensor, bucket: int | None) -> tuple[int, ...]:
    return buckets(x.shape[1], _length(x, bucket))


def _norm(parts: Tensor, norm: str) -> Tensor:
    return parts.norm(dim=2) if norm == "l2" else parts.abs().amax(2)


def _per_bucket(x: Tensor, length: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce each bucket of ``x [m, k]`` to a number, ``[m, b]``.

    ``reduce`` works on the last of three dimensions.
    """
    even = x.shape[1] // length * length
    parts = [x[:, :even].unflatten(1, (even // length, length))]
    parts += [x[:, None, even:]] if even < x.shape[1] else []
    return torch.cat([reduce(part) for part in parts], 1)


def _bucket_mean(x: Tensor, is_counted: Tensor, length: int) -> Tensor:
    """Return the mean of each bucket's counted numbers, ``[m, b]``; 0 without any."""
    count = _per_bucket(is_counted, length, lambda part: part.sum(2))
    return _per_bucket(x, length, lambda part: part.sum(2)) / count.clamp(min=1)


def _clipped(x: Tensor, deviations: float) -> Tensor:
    bound = deviations * x.square().mean(1, keepdim=True).sqrt()
    return torch.minimum(torch.maximum(x, -bound), bound)


def _largest(x: Tensor) -> Tensor:
    """Return the largest number of each row, ``[m, 1]``; 0 of rows without numbers."""
    return x.amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)


def _above_0(x: Tensor) -> Tensor:
    """Replace 0 by 1, for division."""
    return torch.where(x > 0, x, 1)


def _check(bits: int, bucket: int | None, *, lowest: int = 1) -> None:
    check_whole(lowest, bits=bits)
    if not (bits <= 16 or bits == 32):
        raise ValueError(
            f"bits={bits} must be {lowest} to 16, or 32 (where the floats themselves travel). Try 8"
        )
    if bucket is not None:
        check_whole(1, bucket=bucket)
