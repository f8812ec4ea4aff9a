"""Encodings in fewer bits: shorter floats, codes on a grid, codes of a codebook.

Their buckets are runs of numbers that share a norm, a step or a scale.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Stage
from fedlab.upload.codec import FLOATS, Encoding, Incoming, Outgoing, PerRow, WireError, raw_bytes


@dataclass(frozen=True, eq=False)
class Cast(Encoding, kind=5):
    """Floats of fewer bits; ``dtype`` is the type before."""

    dtype: torch.dtype
    layout = struct.Struct("<B")  # number of the shorter type
    stage = Stage.CODED

    def decode(self, values: Tensor) -> Tensor:
        return values.to(self.dtype)

    @property
    def coding(self) -> tuple[torch.dtype, int]:
        return self.dtype, 0

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return (FLOATS.index(out.dtype),)

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Cast:
        cls.require(parameters[0] in (2, 3), parameters, incoming)
        encoding = cls(incoming.dtype)
        incoming.dtype = FLOATS[parameters[0]]
        return encoding


@dataclass(frozen=True, eq=False)
class Grid(Encoding, kind=6):
    """Codes of ``bits`` on evenly spaced levels, a grid per bucket.

    Attributes:
        bits: Bits per code, 1 to 16.
        zero: Code of the number 0, where there is no ``low``.
        bucket: Numbers per bucket; 0 makes one bucket of each tensor in ``sizes``.
        sizes: Numbers of each bucket.
        step: Distance of two levels in each bucket, ``[m, b]``.
        low: Lowest level of each bucket, ``[m, b]``; None: 0.

    A number is ``low + step * (code - zero)``.
    """

    bits: int
    zero: int
    bucket: int
    sizes: tuple[int, ...]
    step: Tensor
    low: Tensor | None = None
    layout = struct.Struct("<BHIB")  # bits; zero; bucket; whether there is a low
    stage = Stage.CODED

    def decode(self, values: Tensor) -> Tensor:
        levels = values.to(self.step.dtype).sub_(self.zero)
        numbers = in_buckets(levels, self.step, self.sizes, Tensor.mul_)
        if self.low is None:
            return numbers
        return in_buckets(numbers, self.low, self.sizes, Tensor.add_)

    @property
    def coding(self) -> tuple[torch.dtype, int]:
        return self.step.dtype, self.bits

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return self.bits, self.zero, self.bucket, self.low is not None

    def side_information(self, out: Outgoing) -> bytes:
        number = num_buckets(self.bucket, self.sizes, out.after)
        tables = [self.step] if self.low is None else [self.step, self.low]
        return b"".join(raw_bytes(table[out.row, :number]) for table in tables)

    def side_sizes(self, before: np.ndarray, after: np.ndarray) -> tuple[PerRow, PerRow]:
        number = num_buckets(self.bucket, self.sizes, after)
        tables = 1 if self.low is None else 2
        return 0, number * tables * self.step.element_size()

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Grid:
        bits, zero, bucket, has_low = parameters
        cls.require(0 < bits <= 16 and has_low < 2, parameters, incoming)
        sizes = _bucket_sizes(bucket, incoming)
        step = incoming.floats(len(sizes))[None]
        low = incoming.floats(len(sizes))[None] if has_low else None
        incoming.bits = bits
        return cls(bits, zero, bucket, sizes, step, low)


@dataclass(frozen=True, eq=False)
class Codebook(Encoding, kind=7):
    """Codes of ``bits`` that stand for the numbers of a table, times a scale per bucket.

    Attributes:
        bits: Bits per code, 1 to 8.
        bucket: Numbers per bucket; 0 makes one bucket of each tensor in ``sizes``.
        sizes: Numbers of each bucket.
        table: Number that each code stands for, ``[m, 2**bits]``.
        scale: Factor of each bucket, ``[m, b]``.
    """

    bits: int
    bucket: int
    sizes: tuple[int, ...]
    table: Tensor
    scale: Tensor
    layout = struct.Struct("<BI")  # bits; bucket
    stage = Stage.CODED

    def decode(self, values: Tensor) -> Tensor:
        return self.table.gather(1, values.long()) * spread(self.scale, self.sizes)

    @property
    def coding(self) -> tuple[torch.dtype, int]:
        return self.scale.dtype, self.bits

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return self.bits, self.bucket

    def side_information(self, out: Outgoing) -> bytes:
        number = num_buckets(self.bucket, self.sizes, out.after)
        return raw_bytes(self.table[out.row]) + raw_bytes(self.scale[out.row, :number])

    def side_sizes(self, before: np.ndarray, after: np.ndarray) -> tuple[PerRow, PerRow]:
        number = num_buckets(self.bucket, self.sizes, after)
        return 0, (number + 2**self.bits) * self.scale.element_size()

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Codebook:
        bits, bucket = parameters
        cls.require(0 < bits <= 8, parameters, incoming)
        sizes = _bucket_sizes(bucket, incoming)
        table = incoming.floats(2**bits)[None]
        scale = incoming.floats(len(sizes))[None]
        incoming.bits = bits
        return cls(bits, bucket, sizes, table, scale)


@dataclass(frozen=True, eq=False)
class Lossless(Encoding, kind=8):
    """The same numbers, whose bytes are compressed without loss by Zstandard."""

    layout = struct.Struct("<I")  # bytes of the compressed numbers; 0 where they were not shorter
    stage = Stage.PACKED

    def decode(self, values: Tensor) -> Tensor:
        return values

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return (out.compressed,)

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Lossless:
        (incoming.compressed,) = parameters
        return cls()


def compress(content: bytes) -> tuple[bytes, int]:
    """Compress bytes; return them and their size, or unchanged and 0 where not shorter."""
    import zstandard

    shorter = zstandard.ZstdCompressor(level=3).compress(content)
    return (shorter, len(shorter)) if len(shorter) < len(content) else (content, 0)


def decompress(content: memoryview, size: int) -> bytes:
    """Decompress exactly ``size`` bytes; no message makes more, whatever it announces."""
    import zstandard

    try:
        announced = zstandard.frame_content_size(content)
        if announced != size:
            raise WireError(
                f"the message has {announced} bytes of numbers and must have {size}. "
                "Try asking for it again"
            )
        numbers = zstandard.ZstdDecompressor().decompress(
            content, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise WireError(
            f"the message has numbers that do not decompress ({error}). Try asking for it again"
        ) from error
    if len(numbers) != size:
        raise WireError(
            f"the message has {len(numbers)} bytes of numbers and must have {size}. "
            "Try asking for it again"
        )
    return numbers


def buckets(width: int, bucket: int) -> tuple[int, ...]:
    """Return the sizes of buckets that hold ``width`` numbers, the last one perhaps smaller.

    Example:
        >>> buckets(10, 4)
        (4, 4, 2)
    """
    full, rest = divmod(width, bucket)
    return (bucket,) * full + ((rest,) if rest else ())


def num_buckets(bucket: int, sizes: tuple[int, ...], count: PerRow) -> PerRow:
    """Count the buckets of rows with ``count`` numbers.

    Args:
        bucket: Numbers per bucket; 0: one bucket per tensor.
        sizes: Numbers of each bucket of a full row.
        count: Numbers of one row, or of each ``[m]``.
    """
    return -(-count // bucket) if bucket else len(sizes) + 0 * count


def in_buckets(
    x: Tensor, factors: Tensor, sizes: tuple[int, ...], change: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Change numbers in place by the factors of their buckets.

    Args:
        x: Numbers ``[m, k]``, which are changed.
        factors: One number per bucket, ``[m, b]``.
        sizes: Numbers of each bucket, ``k`` in sum.
        change: ``Tensor.mul_``, ``Tensor.add_`` or the like.

    Returns:
        ``x``.

    Example:
        >>> x = torch.ones(1, 5)
        >>> in_buckets(x, torch.tensor([[2.0, 3.0]]), (3, 2), Tensor.mul_).tolist()
        [[2.0, 2.0, 2.0, 3.0, 3.0]]
    """
    if not sizes or len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:  # one bucket per tensor
        return change(x, spread(factors, sizes))
    full = len(sizes) - (sizes[-1] < sizes[0])
    change(x[:, : full * sizes[0]].unflatten(1, (full, sizes[0])), factors[:, :full, None])
    if full < len(sizes):
        change(x[:, full * sizes[0] :], factors[:, full:])
    return x


def spread(factors: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Repeat one number per bucket, ``[m, b]``, for all its numbers: ``[m, k]``.

    A single bucket stays ``[m, 1]``, which broadcasts.
    """
    if factors.shape[1] == 1:
        return factors
    repeats = torch.tensor(sizes, dtype=torch.long, device=factors.device)
    return factors.repeat_interleave(repeats, 1, output_size=sum(sizes))


def _bucket_sizes(bucket: int, incoming: Incoming) -> tuple[int, ...]:
    if bucket:
        return buckets(incoming.width, bucket)
    sizes = tensor_sizes(incoming.shapes)
    if sum(sizes) != incoming.width:
        raise WireError(
            f"the message has a bucket per tensor for {incoming.width} numbers, and the tensors of "
            f"this model have {sum(sizes)}. Try asking for it again"
        )
    return sizes


def tensor_sizes(shapes: Mapping[str, torch.Size]) -> tuple[int, ...]:
    """Return how many numbers each tensor has."""
    return tuple(shape.numel() for shape in shapes.values())
