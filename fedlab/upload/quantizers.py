"""Fewer bits a number: codes, and what they stand for.

Each is a ``Transform`` from rows to rows; ``x [k]`` is what is left of a client's row, C(x) what the server has of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from fedlab.core import Message, Stage, Transform, identity
from fedlab.core.validate import check_whole
from fedlab.upload.chains import chain, stateless, uniform_noise
from fedlab.upload.codes import Codebook, Grid, buckets, in_buckets, spread
from fedlab.upload.encodings import HADAMARD_SIDE
from fedlab.upload.transforms import rotate

SAMPLED, LLOYD = (
    10_000,
    10,
)  # numbers of a row from which k-means finds its levels, and its iterations


def qsgd(bits: int, *, bucket: int | None = 512, norm: str = "max") -> Transform:
    """Levels up or down at random: ``x_j = norm / s * l_j`` with ``E l_j = s x_j / norm``, so C is unbiased.  Alistarh et
    al. 2017.

    ``bits`` a number, its sign among them: s = 2^(bits - 1) - 1 levels; at 32 bits the floats themselves travel.  A norm in
    32 bits for each ``bucket`` of numbers, or for all (None): "l2" as in the paper's theorem, "max" as in its experiments.
    ``E|C(x) - x|^2 <= min(n / s^2, sqrt(n) / s) |x|^2`` for buckets of n: being unbiased it needs no ``error_feedback``, and
    where that bound is above 1 must not have it, as what is lost may grow.
    """
    _check(bits, bucket, least=2)
    if norm not in ("l2", "max"):
        raise ValueError(f"norm={norm!r}: there are 'l2' and 'max'")
    if bits == 32:
        return identity()._replace(first_stage=Stage.CODED, last_stage=Stage.CODED)
    s = 2 ** (bits - 1) - 1

    def apply(message, state, cohort):
        x = message.values
        length, sizes = _length(x, bucket), _sizes(x, bucket)
        step = (
            _each(x, length, lambda part: part.norm(dim=2) if norm == "l2" else part.abs().amax(2))
            / s
        )
        levels = in_buckets(x.clone(), _above_0(step), sizes, Tensor.div_)
        levels.add_(uniform_noise(cohort, "qsgd", x)).floor_().clamp_(-s, s)
        return message.encoded(
            _codes(levels.add_(s), bits), Grid(bits, s, length, sizes, step)
        ), state

    return stateless(apply, Stage.CODED)


def quantize(bits: int, *, bucket: int | None = None) -> Transform:
    """The nearest of 2^bits levels, evenly from the smallest to the largest of each ``bucket`` (None: of all numbers).

    Jacob et al. 2018, equation 1.  At 32 bits the floats themselves travel.
    Differs: there 0 is always one of the levels.
    """
    _check(bits, bucket)
    if bits == 32:
        return identity()._replace(first_stage=Stage.CODED, last_stage=Stage.CODED)

    def apply(message, state, cohort):
        x = message.values
        length, sizes = _length(x, bucket), _sizes(x, bucket)
        low = _each(x, length, lambda part: part.amin(2))
        step = (_each(x, length, lambda part: part.amax(2)) - low) / (2**bits - 1)
        levels = in_buckets(
            in_buckets(x.clone(), low, sizes, Tensor.sub_), _above_0(step), sizes, Tensor.div_
        )
        levels.round_().clamp_(0, 2**bits - 1)
        return message.encoded(_codes(levels, bits), Grid(bits, 0, length, sizes, step, low)), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def sign() -> Transform:
    """+1 or -1, a bit a number.  signSGD, Bernstein et al. 2018; with ``aggregate=majority_vote``.

    The server then moves every parameter by its ``server_lr``, whatever the updates were.
    """

    def apply(message, state, cohort):
        one = message.values.new_ones(len(message.values), 1)
        return _two_levels(message, -one, 2 * one, None), state

    return stateless(
        apply,
        Stage.CODED,
        no_download_reason="every number of the model would move by 1, whatever clients lack of it",
    )


def scaled_sign(bucket: int | None = None) -> Transform:
    """The sign times the mean size, ``|x|_1 / n sign(x)``.  EF-signSGD with ``error_feedback``, Karimireddy et al. 2019,
    Alg. 1.
    """
    _check(1, bucket)

    def apply(message, state, cohort):
        mean = _each(
            message.values, _length(message.values, bucket), lambda part: part.abs().mean(2)
        )
        return _two_levels(message, -mean, 2 * mean, bucket), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def one_bit(bucket: int | None = 512) -> Transform:
    """The mean of the numbers below 0, or that of the others: a bit a number.  Seide et al. 2014, with ``error_feedback``.

    Their columns of a weight matrix are buckets here.  With momentum, as in 1-bit Adam (Tang et al. 2021):
    ``chain(momentum(), error_feedback(one_bit()))``.
    """
    _check(1, bucket)

    def apply(message, state, cohort):
        x = message.values
        length, up = _length(x, bucket), (x >= 0).to(x.dtype)
        n = (
            _each(up, length, lambda part: part.sum(2)),
            _each(1 - up, length, lambda part: part.sum(2)),
        )
        high, low = (
            _each(part, length, lambda part: part.sum(2)) / count.clamp(min=1)
            for part, count in zip((x.clamp(min=0), x.clamp(max=0)), n, strict=True)
        )
        return _two_levels(message, low, high - low, bucket), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def terngrad(clip: float = 2.5) -> Transform:
    """-s, 0 or s with s the largest of each tensor, at random so that C is unbiased.  Wen et al. 2017, equations 1 to 5.

    First each tensor is clipped at ``clip`` deviations from 0, which does bias; math.inf leaves it be.  2 bits a number;
    ``lossless`` behind it makes use of the many zeros.
    Differs: a deviation is the root of the mean square, since a tensor of one number has no standard deviation.
    """
    if not clip > 0:
        raise ValueError(f"clip={clip!r}: it is above 0, in deviations; the paper has 2.5")

    def apply(message, state, cohort):
        sizes = tuple(shape.numel() for shape in message.shapes.values())
        layers = message.values.split_with_sizes(sizes, 1)
        if clip < torch.inf:
            bounds = [clip * layer.square().mean(1, keepdim=True).sqrt() for layer in layers]
            layers = [
                torch.minimum(torch.maximum(x, -bound), bound)
                for x, bound in zip(layers, bounds, strict=True)
            ]
        s = torch.cat([_most(layer.abs()) for layer in layers], 1)
        x = torch.cat(layers, 1)
        levels = (
            (x / spread(_above_0(s), sizes))
            .add_(uniform_noise(cohort, "terngrad", x))
            .floor_()
            .clamp_(-1, 1)
        )
        return message.encoded(_codes(levels + 1, 2), Grid(2, 1, 0, sizes, s)), state

    return stateless(apply, Stage.DENSE, Stage.CODED)


def kmeans(bits: int) -> Transform:
    """The nearest of 2^bits levels that k-means finds for each row, which travel along.  Han et al. 2016, section 3.

    Lloyd's iterations from even levels, on every n-th number where there are more than 10,000.
    """
    check_whole(1, bits=bits)
    if bits > 8:
        raise ValueError(
            f"bits={bits}: k-means finds 2 to 256 levels, in 1 to 8 bits; for more take quantize({bits})"
        )

    def apply(message, state, cohort):
        x = message.values
        sample = x[:, :: max(1, x.shape[1] // SAMPLED)].contiguous()
        even = torch.linspace(0, 1, 2**bits, device=x.device, dtype=x.dtype)
        low = -_most(-x)
        table = low + (_most(x) - low) * even
        for _ in range(LLOYD):
            code = _nearest(table, sample)
            count = torch.zeros_like(table).scatter_add_(1, code, torch.ones_like(sample))
            total = torch.zeros_like(table).scatter_add_(1, code, sample)
            table = torch.where(count > 0, total / count.clamp(min=1), table)
        sizes = _sizes(x, None)
        form = Codebook(bits, _length(x, None), sizes, table, x.new_ones(len(x), len(sizes)))
        return message.encoded(_codes(_nearest(table, x), bits), form), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def lloyd_max(bits: int) -> Transform:
    """The levels that are best for numbers of a normal distribution, as they are after ``rotate``.  Max 1960; Lloyd 1982.

    Scaled by ``|y|^2 / <y, Q(y)>`` in each bucket y of as many numbers as a rotation mixes: Vargaftik et al. 2022, section
    3.
    """
    check_whole(1, bits=bits)
    if bits > 8:
        raise ValueError(f"bits={bits}: a number takes 1 to 8; for more take qsgd({bits})")

    def apply(message, state, cohort):
        y = message.values
        length = _length(y, HADAMARD_SIDE**2)
        sizes, levels = buckets(y.shape[1], length), _normal_levels(bits).to(y)
        energy = _each(y, length, lambda part: part.square().sum(2))
        deviation = (energy / energy.new_tensor(sizes)).sqrt()
        code = _nearest(levels[None], (y / spread(_above_0(deviation), sizes)).reshape(1, -1)).view(
            y.shape
        )
        along = _each(y * levels[code], length, lambda part: part.sum(2))
        form = Codebook(bits, length, sizes, levels.expand(len(y), -1), energy / _above_0(along))
        return message.encoded(_codes(code, bits), form), state

    return stateless(apply, Stage.REDUCED, Stage.CODED)


def eden(bits: int = 1) -> Transform:
    """Rotate, then ``lloyd_max``.  Vargaftik et al. 2022; with 1 bit it is DRIVE, Vargaftik et al. 2021.

    The scale makes C unbiased, up to how much of a uniform rotation signs and a Hadamard matrix are.
    """
    return chain(rotate(), lloyd_max(bits))


@lru_cache
def _normal_levels(bits: int) -> Tensor:
    """The 2^bits levels with the least mean squared error for N(0, 1): each the mean of what is nearest to it (Lloyd, Max).
    They begin where levels are as dense as the cubic root of the normal density, nearly right for many (Panter & Dite).
    """
    levels = 3**0.5 * torch.special.ndtri((torch.arange(2**bits).double() + 0.5) / 2**bits)
    ends = torch.tensor([torch.inf], dtype=torch.double)
    for _ in range(2000):
        edges = torch.cat([-ends, (levels[1:] + levels[:-1]) / 2, ends])
        density, below = (
            torch.exp(-(edges**2) / 2) / (2 * torch.pi) ** 0.5,
            torch.special.ndtr(edges),
        )
        levels = -density.diff() / below.diff()
    return levels


def _two_levels(message: Message, low: Tensor, step: Tensor, bucket: int | None) -> Message:
    """0 below zero, else 1."""
    x = message.values
    return message.encoded(
        _codes(x >= 0, 1), Grid(1, 0, _length(x, bucket), _sizes(x, bucket), step, low)
    )


def _nearest(levels: Tensor, x: Tensor) -> Tensor:
    """Which of the ascending ``levels [m, L]`` is nearest to each of ``x [m, k]``."""
    return torch.searchsorted(((levels[:, 1:] + levels[:, :-1]) / 2).contiguous(), x.contiguous())


def _codes(levels: Tensor, bits: int) -> Tensor:
    return levels.to(torch.uint8 if bits <= 8 else torch.int32)


def _length(x: Tensor, bucket: int | None) -> int:
    return max(1, min(bucket or x.shape[1], x.shape[1]))


def _sizes(x: Tensor, bucket: int | None) -> tuple[int, ...]:
    return buckets(x.shape[1], _length(x, bucket))


def _each(x: Tensor, length: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """A number for each bucket of ``x [m, k]``, ``[m, b]``; ``reduce`` goes over the last of three dimensions."""
    even = x.shape[1] // length * length
    parts = [x[:, :even].unflatten(1, (even // length, length))]
    parts += [x[:, None, even:]] if even < x.shape[1] else []
    return torch.cat([reduce(part) for part in parts], 1)


def _most(x: Tensor) -> Tensor:
    """The largest number of each row, ``[m, 1]``; 0 of rows without any."""
    return x.amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)


def _above_0(x: Tensor) -> Tensor:
    """To divide by: what is 0 is 1."""
    return torch.where(x > 0, x, 1)


def _check(bits: int, bucket: int | None, *, least: int = 1) -> None:
    check_whole(least, bits=bits)
    if not (bits <= 16 or bits == 32):
        raise ValueError(
            f"bits={bits}: a number takes {least} to 16, or 32, where the floats themselves travel"
        )
    if bucket is not None:
        check_whole(1, bucket=bucket)
