"""Encodings of fewer or other numbers: sparse, masked, factored, rotated, sketched.

An encoding is the data that a receiver needs, besides the numbers, to have the row again. Its
``decode(values [m, k]) -> [m, k']`` undoes one step, and ``Message.delta`` undoes all, last to
first. Its other methods write it to the wire and read it back. Codes are in
``fedlab.upload.codes``.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedlab.core.bits import rice_decode, rice_encode, rice_low_bits, rice_sizes
from fedlab.core.rng import keyed
from fedlab.upload.codec import Encoding, Incoming, Outgoing, PerRow, WireError

# Rotations mix blocks of its square: large enough to mix well, small enough to waste little at
# the end.
HADAMARD_SIDE = 32


@dataclass(frozen=True, eq=False)
class Sparse(Encoding, kind=0):
    """The numbers at ``index [m, k]`` of rows ``[m, width]``; the others are 0.

    Indices ascend, and -1 pads rows with fewer numbers. On the wire they are gaps in a Rice code.
    """

    index: Tensor
    width: int
    layout = struct.Struct("<IB")  # numbers; low bits of a gap
    may_repeat = True  # it costs the sender bytes, so that a message cannot have many

    def decode(self, values: Tensor) -> Tensor:
        rows = values.new_zeros(len(values), self.width + 1)  # padding goes beyond the end
        rows.scatter_(1, torch.where(self.index < 0, self.width, self.index), values)
        return rows[:, : self.width]

    @property
    def num_values(self) -> np.ndarray:
        return (self.index >= 0).sum(1).numpy(force=True)

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return out.after, rice_low_bits(out.before, out.after)

    def side_information(self, out: Outgoing) -> bytes:
        return rice_encode(self.index[out.row, : out.after].numpy(force=True), out.before)

    def side_sizes(self, before: np.ndarray, after: np.ndarray) -> tuple[PerRow, PerRow]:
        return rice_sizes(self.index.numpy(force=True), before, after), 0

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Sparse:
        count, low = parameters
        cls.require(count <= incoming.width, parameters, incoming)
        try:
            index, size = rice_decode(incoming.rest, count, low, incoming.width)
        except ValueError as error:
            raise WireError(
                f"the message has indices that cannot be read ({error}). Try asking for it again"
            ) from error
        incoming.take(size)
        encoding = cls(torch.from_numpy(index)[None], incoming.width)
        incoming.width = count
        return encoding


@dataclass(frozen=True, eq=False)
class Masked(Encoding, kind=9):
    """The numbers at ``index [m, k]``, ascending, of rows ``[m, width]``; the others are 0.

    Both sides know the mask, so the indices do not travel; their checksum does.
    """

    index: Tensor
    width: int
    layout = struct.Struct("<II")  # numbers; CRC-32 of their indices
    is_first = True

    def decode(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(values), self.width).scatter_(1, self.index, values)

    @property
    def num_values(self) -> int:
        return self.index.shape[1]

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return out.after, index_checksum(self.index[out.row])

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Masked:
        index = incoming.indices
        if index is None or parameters != (len(index), index_checksum(index)):
            raise cls.refusal(parameters, incoming)
        encoding = cls(index[None], incoming.width)
        incoming.width = encoding.num_values
        return encoding


@dataclass(frozen=True, eq=False)
class RandomMask(Encoding, kind=1):
    """``count`` numbers at random positions of rows of ``width``; the others are 0.

    Both sides draw the positions from ``keys [m]``, so only the key travels.
    """

    keys: np.ndarray
    count: int
    width: int
    layout = struct.Struct("<qI")  # key; numbers

    def decode(self, values: Tensor) -> Tensor:
        return Sparse(self.index.to(values.device), self.width).decode(values)

    @property
    def num_values(self) -> int:
        return self.count

    @property
    def index(self) -> Tensor:
        """Positions, ``[m, count]``, ascending."""
        rows = [
            np.sort(keyed(key).choice(self.width, self.count, replace=False, shuffle=False))
            for key in self.keys
        ]
        return torch.from_numpy(np.array(rows, dtype=np.int64).reshape(len(rows), self.count))

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return int(self.keys[out.row]), out.after

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> RandomMask:
        key, count = parameters
        cls.require(key >= 0 and count <= incoming.width, parameters, incoming)
        encoding = cls(np.array([key]), count, incoming.width)
        incoming.width = count
        return encoding


@dataclass(frozen=True, eq=False)
class LowRankFactors(Encoding, kind=2):
    """Factors P ``[n, r]`` and Q ``[p, r]`` of each matrix that they make smaller.

    The other tensors travel whole.
    """

    shapes: tuple[torch.Size, ...]
    rank: int
    layout = struct.Struct("<I")  # rank
    is_first = True

    def decode(self, values: Tensor) -> Tensor:
        rows, pieces = [], values.split_with_sizes([sum(sizes) for sizes in self.sizes], 1)
        for shape, sizes, piece in zip(self.shapes, self.sizes, pieces, strict=True):
            if len(sizes) == 2:
                left, right = piece.split_with_sizes(sizes, 1)
                p = left.reshape(-1, shape[0], self.rank)
                q = right.reshape(len(right), -1, self.rank)
                piece = (p @ q.mT).flatten(1)
            rows.append(piece)
        return torch.cat(rows, 1)

    @property
    def num_values(self) -> int:
        return sum(map(sum, self.sizes))

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """Numbers in P and Q of each tensor, or in the tensor where it travels whole."""
        return [self._sizes(shape) for shape in self.shapes]

    def _sizes(self, shape: torch.Size) -> tuple[int, ...]:
        size = shape.numel()
        if len(shape) >= 2 and size:
            factors = shape[0] * self.rank, size // shape[0] * self.rank
            if sum(factors) < size:
                return factors
        return (size,)

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return (self.rank,)

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> LowRankFactors:
        (rank,) = parameters
        cls.require(0 < rank < 2**16, parameters, incoming)
        encoding = cls(tuple(incoming.shapes.values()), rank)
        incoming.width = encoding.num_values
        return encoding


@dataclass(frozen=True, eq=False)
class Rotated(Encoding, kind=3):
    """Rows ``[m, width]`` times a random orthogonal matrix from ``keys [m]``.

    Rows are padded with zeros to whole blocks of ``HADAMARD_SIDE**2`` numbers; a smaller row is one
    block of the next power of 4. Each block is multiplied by H D: D flips random signs, H is the
    orthonormal Walsh-Hadamard matrix. Suresh et al. 2017, section 3.
    """

    keys: np.ndarray
    width: int
    layout = struct.Struct("<q")  # key

    def rotate(self, values: Tensor) -> Tensor:
        """Rotate rows ``[m, width]`` into ``[m, num_values]``."""
        padded = torch.nn.functional.pad(values, (0, self.num_values - self.width))
        return _hadamard(padded * self._signs(values), self.side)

    def decode(self, values: Tensor) -> Tensor:
        return (_hadamard(values, self.side) * self._signs(values))[:, : self.width]

    @property
    def side(self) -> int:
        """Side of a block that is written as a square."""
        return min(HADAMARD_SIDE, 1 << (max(1, self.width - 1).bit_length() + 1) // 2)

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

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return (int(self.keys[out.row]),)

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Rotated:
        cls.require(parameters[0] >= 0 and incoming.width > 0, parameters, incoming)
        encoding = cls(np.array(parameters), incoming.width)
        incoming.width = encoding.num_values
        return encoding


@dataclass(frozen=True, eq=False)
class Sketched(Encoding, kind=4):
    """Count sketches: tables ``[m, depth * columns]`` that the server adds up.

    The algorithm decodes their sum, so ``decode`` leaves them as they are.
    """

    key: int
    depth: int
    columns: int
    layout = struct.Struct("<qII")  # key; depth; columns
    is_first = True

    def decode(self, values: Tensor) -> Tensor:
        return values

    @property
    def num_values(self) -> int:
        return self.depth * self.columns

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        return self.key, self.depth, self.columns

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Sketched:
        key, depth, columns = parameters
        is_wanted = key >= 0 and (depth, columns) == incoming.sketch
        cls.require(is_wanted, parameters, incoming)
        incoming.width = depth * columns
        return cls(key, depth, columns)


@dataclass(frozen=True, eq=False)
class Senders(Encoding):
    """Rows of the clients that sent something; the server has ``last [m, d]`` of the others.

    ``sent [m]`` is True for the former. ``last`` is 0 by default. It never travels: a client that
    has nothing to send sends an empty message.
    """

    sent: np.ndarray
    last: Tensor | None = None

    def decode(self, values: Tensor) -> Tensor:
        if self.last is None:
            rows = values.new_zeros(len(self.sent), values.shape[1])
        else:
            rows = self.last.clone()
        rows[torch.from_numpy(self.sent).to(rows.device)] = values
        return rows


def index_checksum(index: Tensor) -> int:
    """Return the CRC-32 of indices ``[k]``."""
    return zlib.crc32(index.numpy(force=True).astype("<i8").tobytes())


def _hadamard(values: Tensor, side: int) -> Tensor:
    """Multiply blocks of ``side**2`` numbers by the orthonormal Hadamard matrix.

    It is its own inverse. A block X is written as a square: H X H.
    """
    h = _sylvester(side).to(values) / side**0.5
    return (h @ (values.reshape(len(values), -1, side, side) @ h)).flatten(1)


@lru_cache
def _sylvester(side: int) -> Tensor:
    """Build the matrix of +1 and -1 with orthogonal rows: H_2n = [[H_n, H_n], [H_n, -H_n]]."""
    h = torch.ones(1, 1)
    while len(h) < side:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h
