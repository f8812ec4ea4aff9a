"""Reading and writing of single encodings: their base class, and both ends of a message.

An encoding writes three things besides the numbers: its parameters (one line of the header), its
side information (such as indices or bucket norms), and their size. It also reads them back. The
frame around all encodings is in ``fedlab.upload.wire``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Stage

# Types of floats, by their number on the wire.
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MAX_ERROR_LENGTH = 300  # characters

PerRow = np.ndarray | int  # one number per row ``[m]``, or one for all rows


class WireError(ValueError):
    """A message that is cut, damaged, hostile, of another version or for another model."""

    def __init__(self, reason: str):
        line = " ".join(reason.split())  # names in it may come from the sender
        fits = len(line) <= MAX_ERROR_LENGTH
        super().__init__(line if fits else f"{line[: MAX_ERROR_LENGTH - 3]}...")


class Outgoing(NamedTuple):
    """One row of a message that is being packed, as one of its encodings sees it.

    Attributes:
        row: Index of the row in the message.
        before: Numbers of the row before the encoding.
        after: Numbers of the row after the encoding.
        dtype: Type of the message's values.
        compressed: Bytes of the numbers after lossless compression; 0 without it.
    """

    row: int
    before: int
    after: int
    dtype: torch.dtype
    compressed: int


@dataclass
class Incoming:
    """A message that is being read, from its beginning to its end and never beyond it.

    The last four attributes describe the numbers, which come last; each encoding updates them.

    Attributes:
        rest: Bytes that are still to be read.
        shapes: Shapes of the tensors of the receiver's own model.
        sketch: Depth and columns of the count sketch that the receiver asks for; None for a row.
        indices: Positions ``[k]`` of the mask that both sides know; None without a mask.
        dtype: Floats of the numbers.
        width: Numbers of the row.
        bits: Bits per code; 0 for floats.
        compressed: Bytes of the compressed numbers; 0 where they are not compressed.
    """

    rest: memoryview
    shapes: Mapping[str, torch.Size]
    sketch: tuple[int, int] | None = None
    indices: Tensor | None = None
    dtype: torch.dtype = torch.float32
    width: int = 0
    bits: int = 0
    compressed: int = 0

    def take(self, size: int) -> memoryview:
        """Read the next ``size`` bytes; raise WireError if fewer are left."""
        if size > len(self.rest):
            raise WireError(
                f"the message ends {size - len(self.rest)} bytes too early. Try asking for it again"
            )
        taken = self.rest[:size]
        self.rest = self.rest[size:]
        return taken

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        """Read the fields of a struct."""
        return layout.unpack(self.take(layout.size))

    def floats(self, count: int) -> Tensor:
        """Read ``count`` numbers of the current type, ``[count]``."""
        return as_floats(self.take(count * self.dtype.itemsize), self.dtype)


class Encoding:
    """One step of compression, as the data that a receiver needs to undo it.

    A new encoding is a subclass with a number of its own, ``class Sparse(Encoding, kind=0)``. It
    decodes, writes its side information and reads it again. Nothing else lists the encodings.

    Attributes:
        kind: Number of the encoding on the wire.
        layout: Struct of its parameters in the header.
        stage: Stage of a message after it.
        is_first: Whether it takes whole updates, and so is the first encoding of a message.
        may_repeat: Whether a message may have it more than once.
    """

    kinds: ClassVar[dict[int, type[Encoding]]] = {}
    kind: ClassVar[int]
    layout: ClassVar[struct.Struct]
    stage: ClassVar[Stage] = Stage.REDUCED
    is_first: ClassVar[bool] = False
    may_repeat: ClassVar[bool] = False

    def __init_subclass__(cls, kind: int | None = None, **options: Any):
        super().__init_subclass__(**options)
        if kind is None:  # never on the wire, such as the list of senders
            return
        known = Encoding.kinds.get(kind)
        if known is not None and known.__qualname__ != cls.__qualname__:  # not the same cell again
            raise ValueError(
                f"kind={kind} must be new ({known.__name__} has it). Try {max(Encoding.kinds) + 1}"
            )
        cls.kind = kind
        Encoding.kinds[kind] = cls

    def decode(self, values: Tensor) -> Tensor:
        """Undo the step: from the numbers after it ``[m, k]`` to the numbers before it."""
        raise NotImplementedError

    @property
    def num_values(self) -> PerRow | None:
        """Count of the numbers that it leaves, per row ``[m]`` or for all; None: unchanged."""
        return None

    @property
    def coding(self) -> tuple[torch.dtype, int] | None:
        """Floats that it codes, and bits per code (0: shorter floats); None: the numbers stay."""
        return None

    def parameters(self, out: Outgoing) -> tuple[int, ...]:
        """Return the fields of ``layout`` for one row."""
        raise NotImplementedError

    def side_information(self, out: Outgoing) -> bytes:
        """Return the bytes of one row that travel besides parameters and numbers."""
        return b""

    def side_sizes(self, before: np.ndarray, after: np.ndarray) -> tuple[PerRow, PerRow]:
        """Count the side information: bytes of indices and of values, for every row ``[m]``.

        Args:
            before: Numbers of each row before the encoding, ``[m]``.
            after: Numbers of each row after it, ``[m]``.
        """
        return 0, 0

    @classmethod
    def read(cls, parameters: tuple[int, ...], incoming: Incoming) -> Encoding:
        """Read the encoding of one row; raise WireError for parameters that cannot be.

        Args:
            parameters: Fields of ``layout``, which may be anything.
            incoming: Message from which the side information is read.
        """
        raise NotImplementedError

    @classmethod
    def require(cls, is_valid: bool, parameters: tuple[int, ...], incoming: Incoming) -> None:
        """Raise WireError unless the parameters are valid.

        Args:
            is_valid: Result of the check.
            parameters: Fields of ``layout``, for the error.
            incoming: Message that is being read.
        """
        if not is_valid:
            raise cls.refusal(parameters, incoming)

    @classmethod
    def refusal(cls, parameters: tuple[int, ...], incoming: Incoming) -> WireError:
        """Return the error for parameters that cannot be."""
        return WireError(
            f"the message has a {cls.__name__} with {parameters}, which cannot be for "
            f"{incoming.width} numbers of this model. Try asking for it again"
        )


def raw_bytes(values: Tensor) -> bytes:
    """Return the bytes of a tensor as they are in memory."""
    return values.contiguous().cpu().view(torch.uint8).numpy().tobytes()


def as_floats(content: bytes | memoryview, dtype: torch.dtype) -> Tensor:
    """Return the floats that these bytes are, in memory of their own."""
    if not len(content):
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype)
