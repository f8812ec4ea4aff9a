"""How rows became fewer or smaller numbers, as data: what a receiver needs, beside the numbers, to have rows again.

A form's ``open(values [m, k]) -> [m, k']`` undoes its step; ``Message.delta`` opens all of them, last to first.  ``left`` is
how many numbers it left, of all rows or of each ``[m]``, where it changed that.  What a form holds beside the numbers
travels, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.core.rng import keyed

HADAMARD = 32  # rotations go by blocks of its square: large enough to mix, small enough to waste little at the end


class Sparse(NamedTuple):
    """The numbers that stand at ``index [m, k]``, ascending and padded with -1, of rows ``[m, width]``; the rest is 0."""

    index: Tensor
    width: int

    def decode(self, values: Tensor) -> Tensor:
        rows = values.new_zeros(len(values), self.width + 1)  # pads are put beyond the end
        rows.scatter_(1, torch.where(self.index < 0, self.width, self.index), values)
        return rows[:, : self.width]

    @property
    def num_values(self) -> np.ndarray:
        return (self.index >= 0).sum(1).numpy(force=True)


class Masked(NamedTuple):
    """The numbers that stand at ``index [m, k]``, ascending, of rows ``[m, width]``; the rest is 0, as both sides know."""

    index: Tensor
    width: int

    def decode(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(values), self.width).scatter_(1, self.index, values)

    @property
    def num_values(self) -> int:
        return self.index.shape[1]


class Drawn(NamedTuple):
    """The numbers at places of ``width`` that both sides draw from ``keys [m]``; the rest is 0."""

    keys: np.ndarray
    num_values: int
    width: int

    def decode(self, values: Tensor) -> Tensor:
        return Sparse(self.index.to(values.device), self.width).decode(values)

    @property
    def index(self) -> Tensor:
        """The places, ``[m, left]``."""
        rows = [
            np.sort(keyed(key).choice(self.width, self.num_values, replace=False, shuffle=False))
            for key in self.keys
        ]
        return torch.from_numpy(np.array(rows, dtype=np.int64).reshape(len(rows), self.num_values))


class LowRank(NamedTuple):
    """Factors P ``[n, r]`` and Q ``[p, r]`` of each matrix for which they are the smaller ones, and the other tensors
    whole.
    """

    shapes: tuple[torch.Size, ...]
    rank: int

    def decode(self, values: Tensor) -> Tensor:
        rows, pieces = [], values.split_with_sizes([sum(sizes) for sizes in self.sizes], 1)
        for shape, sizes, piece in zip(self.shapes, self.sizes, pieces, strict=True):
            if len(sizes) == 2:
                r = self.rank
                left, right = piece.split_with_sizes(sizes, 1)
                piece = (
                    left.reshape(-1, shape[0], r) @ right.reshape(len(right), -1, r).mT
                ).flatten(1)
            rows.append(piece)
        return torch.cat(rows, 1)

    @property
    def num_values(self) -> int:
        return sum(map(sum, self.sizes))

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Of each tensor: the numbers in P and Q, or in itself."""
        return [self._sizes(shape) for shape in self.shapes]

    def _sizes(self, shape: torch.Size) -> tuple[int, ...]:
        whole = shape.numel()
        if len(shape) >= 2 and whole:
            factors = shape[0] * self.rank, whole // shape[0] * self.rank
            if sum(factors) < whole:
                return factors
        return (whole,)


class Rotated(NamedTuple):
    """Rows ``[m, width]``, filled up with zeros to whole blocks, times a random orthogonal matrix from ``keys [m]``.

    Each block of ``HADAMARD**2`` (a smaller row: one block, the next power of 4) is multiplied by H D: random signs, then
    the Walsh-Hadamard matrix over the root of its side.  Suresh et al. 2017, section 3.
    """

    keys: np.ndarray
    width: int

    def rotate(self, values: Tensor) -> Tensor:
        return _hadamard(
            torch.nn.functional.pad(values, (0, self.num_values - self.width))
            * self._signs(values),
            self.side,
        )

    def decode(self, values: Tensor) -> Tensor:
        return (_hadamard(values, self.side) * self._signs(values))[:, : self.width]

    @property
    def side(self) -> int:
        return min(HADAMARD, 1 << (max(1, self.width - 1).bit_length() + 1) // 2)

    @property
    def num_values(self) -> int:
        return -(-self.width // self.side**2) * self.side**2

    def _signs(self, like: Tensor) -> Tensor:
        bits = [
            np.unpackbits(np.frombuffer(keyed(key).bytes(-(-self.num_values // 8)), np.uint8))
            for key in self.keys
        ]
        signs = np.array(bits, dtype=np.int8).reshape(len(bits), -1)[:, : self.num_values]
        return torch.from_numpy(signs).to(like) * 2 - 1


def _hadamard(values: Tensor, side: int) -> Tensor:
    """Blocks of ``side**2`` numbers times the orthonormal Hadamard matrix, which is its own inverse: H X H of each as a
    square.
    """
    h = _sylvester(side).to(values) / side**0.5
    return (h @ (values.reshape(len(values), -1, side, side) @ h)).flatten(1)


@lru_cache
def _sylvester(side: int) -> Tensor:
    """The matrix of +1 and -1 with orthogonal rows: H_2n = [[H_n, H_n], [H_n, -H_n]]."""
    h = torch.ones(1, 1)
    while len(h) < side:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


class Cast(NamedTuple):
    """Floats of fewer bits; ``wide`` is what they were."""

    wide: torch.dtype

    def decode(self, values: Tensor) -> Tensor:
        return values.to(self.wide)


class Grid(NamedTuple):
    """Codes of ``bits``: a number is ``low + step * (code - zero)``, with a ``step [m, b]`` a bucket and, perhaps, a
    ``low``.

    A bucket is that many numbers in a row; 0 makes one of each tensor in ``sizes``.
    """

    bits: int
    zero: int
    bucket: int
    sizes: tuple[int, ...]  # of the buckets
    step: Tensor
    low: Tensor | None = None

    def decode(self, values: Tensor) -> Tensor:
        numbers = in_buckets(
            values.to(self.step.dtype).sub_(self.zero), self.step, self.sizes, Tensor.mul_
        )
        return (
            numbers if self.low is None else in_buckets(numbers, self.low, self.sizes, Tensor.add_)
        )


class Codebook(NamedTuple):
    """Codes of ``bits``: a number is what ``table [m, 2**bits]`` has in that place, times the ``scale [m, b]`` of its
    bucket.
    """

    bits: int
    bucket: int
    sizes: tuple[int, ...]  # of the buckets
    table: Tensor
    scale: Tensor

    def decode(self, values: Tensor) -> Tensor:
        return self.table.gather(1, values.long()) * spread(self.scale, self.sizes)


class Lossless(NamedTuple):
    """The same numbers; on the wire their bytes are compressed without loss."""

    def decode(self, values: Tensor) -> Tensor:
        return values


class Kept(NamedTuple):
    """Only those of ``sent [m]`` have a row in the message; of the others the server takes ``last [m, d]``, or 0."""

    sent: np.ndarray
    last: Tensor | None = None

    def decode(self, values: Tensor) -> Tensor:
        rows = (
            values.new_zeros(len(self.sent), values.shape[1])
            if self.last is None
            else self.last.clone()
        )
        rows[torch.from_numpy(self.sent).to(rows.device)] = values
        return rows


class Sketched(NamedTuple):
    """Count sketches of rows ``[m, width]``, which stay as they are: tables ``[m, depth * columns]`` can be added first."""

    key: int
    depth: int
    columns: int

    def decode(self, values: Tensor) -> Tensor:
        return values

    @property
    def num_values(self) -> int:
        return self.depth * self.columns


def buckets(width: int, bucket: int) -> tuple[int, ...]:
    """The sizes of buckets of that many numbers, the last one perhaps smaller."""
    whole, rest = divmod(width, bucket)
    return (bucket,) * whole + ((rest,) if rest else ())


def in_buckets(
    x: Tensor, each: Tensor, sizes: tuple[int, ...], change: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``x [m, k]`` changed in place by its buckets' numbers, ``each [m, b]``; ``change``: ``Tensor.mul_`` or the like."""
    if not sizes or len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:  # a bucket a tensor
        return change(x, spread(each, sizes))
    whole = len(sizes) - (sizes[-1] < sizes[0])
    change(x[:, : whole * sizes[0]].unflatten(1, (whole, sizes[0])), each[:, :whole, None])
    if whole < len(sizes):
        change(x[:, whole * sizes[0] :], each[:, whole:])
    return x


def spread(each: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """A number a bucket, ``[m, b]``, for every number in it: ``[m, k]``, or ``[m, 1]`` for a single bucket."""
    if each.shape[1] == 1:
        return each
    return each.repeat_interleave(
        torch.tensor(sizes, dtype=torch.long, device=each.device), 1, output_size=sum(sizes)
    )
