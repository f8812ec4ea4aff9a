"""Messages as bytes: packed by clients, and read by a server that trusts nothing.

A message is a frame (``FL``, version, kind, CRC-32 of the rest) and a body. A dense update is one
safetensors file, with names, shapes and numbers. Everything else begins with an outline: the type
of the floats, the shapes, and one line of parameters per encoding. Sections of whole bytes follow:
the side information of the encodings, in their order, and last the numbers. All is little-endian.

Reading executes nothing, and allocates no more than the receiver's own model warrants. How an
encoding is written and read stands in its class; see ``fedlab.upload.codec``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Message, Stage
from fedlab.core.bits import pack_bits, unpack_bits
from fedlab.upload.codec import (
    FLOATS,
    Encoding,
    Incoming,
    Outgoing,
    WireError,
    as_floats,
    raw_bytes,
)
from fedlab.upload.codes import Lossless, compress, decompress
from fedlab.upload.dense import check_shapes, file_sizes, read_dense, write_dense
from fedlab.upload.encodings import Masked, Senders, Sketched

VERSION = 1
PARTS = ("header", "indices", "values")  # the parts of a message's bytes
MAX_ENCODINGS = 8

_FRAME = struct.Struct("<2sBBI")
EMPTY_SIZE = _FRAME.size  # bytes of a message from a client that has nothing to send
_OUTLINE = struct.Struct("<BBH")  # type of the floats, encodings, tensors
_DENSE, _ENCODED, _EMPTY = range(3)  # kinds of body


def pack(message: Message, row: int = 0) -> bytes:
    """Pack one client's row of a message into the bytes that travel.

    Example:
        >>> update = torch.tensor([[0.0, 3.0, 0.0, -1.0]])
        >>> message = Message(update, {"w": torch.Size((4,))})
        >>> unpack(pack(message), message.shapes).tolist()
        [0.0, 3.0, 0.0, -1.0]
    """
    message, index = _of_senders(message)
    row = int(index[row])
    if row < 0:
        return _framed(_EMPTY)
    if not message.encodings:
        return _framed(_DENSE, write_dense(message.values[row], message.shapes))
    counts = [int(count[row]) for count in _counts(message)]
    if not counts[-1]:
        return _framed(_EMPTY)
    numbers, compressed = _numbers(message, row, counts[-1]), 0
    if isinstance(message.encodings[-1], Lossless):
        numbers, compressed = compress(numbers)
    lines, sides = [_outline(message)], []
    for encoding, before, count in zip(message.encodings, counts[:-1], counts[1:], strict=True):
        out = Outgoing(row, before, count, message.values.dtype, compressed)
        lines.append(bytes([encoding.kind]) + encoding.layout.pack(*encoding.parameters(out)))
        sides.append(encoding.side_information(out))
    return _framed(_ENCODED, *lines, *sides, numbers)


def unpack(
    data: bytes,
    shapes: Mapping[str, torch.Size],
    sketch: tuple[int, int] | None = None,
    indices: Tensor | None = None,
) -> Tensor | None:
    """Read the row that a client packed.

    Args:
        data: Bytes as they arrived; they may be anything.
        shapes: Shapes of the tensors of the receiver's own model.
        sketch: Depth and columns of the count sketch that is asked for; None asks for an update.
        indices: Positions ``[k]`` of the mask that both sides know, ascending.

    Returns:
        The row ``[d]``, or a sketch ``[depth * columns]``; None from a client that had nothing to
        send.

    Raises:
        WireError: If the bytes are no such message, or a number is non-finite in single precision,
            in which a server may compute.
    """
    kind, body = _unframed(data)
    if kind == _EMPTY:
        return None
    if kind == _DENSE:
        row = read_dense(body, shapes, sketch)
    else:
        row = _read_encoded(Incoming(body, shapes, sketch, indices))
    if not (row.abs() <= torch.finfo(torch.float32).max).all():
        raise WireError(
            "the message has numbers that are not finite, or are not in 32 bits. "
            "Try leaving its client out of this round"
        )
    return row


def sizes(message: Message) -> np.ndarray:
    """Count the bytes of header, indices and values of each client's message, ``[m, 3]``.

    They add up to ``len(pack(...))``. Nothing is packed for it, except numbers that are compressed
    without loss, whose size cannot be known before.

    Example:
        >>> message = Message(torch.ones(2, 4), {"w": torch.Size((4,))})
        >>> sizes(message).tolist()
        [[72, 0, 16], [72, 0, 16]]
    """
    message, index = _of_senders(message)
    parts = np.zeros((len(index), 3), dtype=np.int64)
    parts[:, 0] = EMPTY_SIZE
    sent = index >= 0
    parts[sent] = _sizes(message)[index[sent]]
    return parts


def dense_sizes(shapes: tuple[tuple[str, torch.Size], ...], dtype: torch.dtype) -> np.ndarray:
    """Count the bytes of an uncompressed update or model: header, indices and values, ``[3]``.

    ``shapes`` are the items of the mapping of names to shapes.

    Example:
        >>> dense_sizes((("w", torch.Size((4,))),), torch.float32).tolist()
        [72, 0, 16]
    """
    header, values = file_sizes(shapes, dtype)
    return np.array([_FRAME.size + header, 0, values])


def masked_sizes(
    shapes: Mapping[str, torch.Size], dtype: torch.dtype, count: np.ndarray
) -> np.ndarray:
    """Count the bytes of updates within masks that both sides know.

    Args:
        shapes: Shapes of the model's tensors.
        dtype: Type of the numbers.
        count: Numbers within each client's mask, ``[m]``.

    Returns:
        Bytes of header, indices and values, ``[m, 3]``.
    """
    none = torch.empty(0, 0, dtype=dtype)
    message = Message(none, shapes, (Masked(torch.empty(0, 0, dtype=torch.long), 0),))
    header, values = _header_size(message), np.asarray(count) * dtype.itemsize
    return np.stack([np.full_like(values, header), np.zeros_like(values), values], -1)


def round_trip(message: Message) -> Tensor:
    """Pack and unpack each client's message, and return the rows ``[m, d]``.

    They equal ``message.delta`` to the bit.
    """
    sketches = [each for each in message.encodings if isinstance(each, Sketched)]
    sketch = (sketches[0].depth, sketches[0].columns) if sketches else None
    senders, index = _of_senders(message)
    masks = [encoding.index for encoding in senders.encodings if isinstance(encoding, Masked)]
    rows = []
    for client, (row, delta) in enumerate(zip(index, message.delta, strict=True)):
        indices = masks[0][row].cpu() if masks and row >= 0 else None
        received = unpack(pack(message, client), message.shapes, sketch, indices)
        rows.append(delta if received is None else received.to(delta.device))
    return torch.stack(rows)


# Sending


def _of_senders(message: Message) -> tuple[Message, np.ndarray]:
    """Return the rows of those that send, and the row of each client ``[m]``, -1 for none."""
    encodings, index = message.encodings, None
    while encodings and isinstance(encodings[0], Senders):
        sent = encodings[0].sent
        rows = np.where(sent, np.cumsum(sent) - 1, -1)
        if index is not None:
            rows = np.array([-1 if i < 0 else rows[i] for i in index], dtype=int)
        encodings, index = encodings[1:], rows
    if index is None:
        index = np.arange(len(message.values))
    return Message(message.values, message.shapes, encodings), index


def _sizes(message: Message) -> np.ndarray:
    parts = np.zeros((len(message.values), 3), dtype=np.int64)
    if not message.encodings:
        return parts + dense_sizes(tuple(message.shapes.items()), message.values.dtype)
    counts = _counts(message)
    parts[:, 0] = _header_size(message)
    for encoding, before, after in zip(message.encodings, counts[:-1], counts[1:], strict=True):
        indices, values = encoding.side_sizes(before, after)
        parts[:, 1] += indices
        parts[:, 2] += values
    if isinstance(message.encodings[-1], Lossless):
        packed = (compress(_numbers(message, i, n))[0] for i, n in enumerate(counts[-1]))
        parts[:, 2] += [len(numbers) for numbers in packed]
    else:
        _, bits = _coding(message)
        parts[:, 2] += -(-counts[-1] * (bits or 8 * message.values.element_size()) // 8)
    parts[counts[-1] == 0] = EMPTY_SIZE, 0, 0
    return parts


def _header_size(message: Message) -> int:
    lines = sum(1 + encoding.layout.size for encoding in message.encodings)
    return _FRAME.size + len(_outline(message)) + lines


def _counts(message: Message) -> list[np.ndarray]:
    """Count the numbers of each row before the first encoding and after each of them, ``[m]``."""
    width = sum(shape.numel() for shape in message.shapes.values())
    counts = [np.full(len(message.values), width)]
    for encoding in message.encodings:
        number = encoding.num_values
        counts.append(counts[-1] if number is None else counts[-1] * 0 + number)
    return counts


def _coding(message: Message) -> tuple[torch.dtype, int]:
    """Return the floats of the numbers before any codes, and the bits per code (0: floats)."""
    codings = (encoding.coding for encoding in message.encodings)
    return next((coding for coding in codings if coding), (message.values.dtype, 0))


def _framed(kind: int, *body: bytes) -> bytes:
    checksum = 0
    for content in body:
        checksum = zlib.crc32(content, checksum)
    return b"".join([_FRAME.pack(b"FL", VERSION, kind, checksum), *body])


def _outline(message: Message) -> bytes:
    dtype, _ = _coding(message)
    shapes = (
        struct.pack(f"<B{len(shape)}I", len(shape), *shape) for shape in message.shapes.values()
    )
    counts = len(message.encodings), len(message.shapes)
    return _OUTLINE.pack(FLOATS.index(dtype), *counts) + b"".join(shapes)


def _numbers(message: Message, row: int, count: int) -> bytes:
    values, (_, bits) = message.values[row, :count], _coding(message)
    return pack_bits(values.numpy(force=True), bits) if bits else raw_bytes(values)


# Receiving


def _unframed(data: bytes) -> tuple[int, memoryview]:
    """Return the kind and the body of a message, whose checksum fits."""
    if len(data) < _FRAME.size:
        raise WireError(
            f"the message has {len(data)} bytes and must have {_FRAME.size} or more. "
            "Try asking for it again"
        )
    magic, version, kind, checksum = _FRAME.unpack_from(data)
    if magic != b"FL":
        raise WireError(
            f"the message begins with {bytes(magic)!r} and must begin with b'FL' "
            "(it is something else). Try asking for it again"
        )
    if version != VERSION:
        raise WireError(
            f"the message has version {version} and must have version {VERSION}. "
            "Try updating the older side"
        )
    body = memoryview(data)[_FRAME.size :]
    if zlib.crc32(body) != checksum:
        raise WireError(
            f"the message of {len(data)} bytes does not fit its checksum "
            "(it was cut or damaged on the way). Try asking for it again"
        )
    if kind not in (_DENSE, _ENCODED) and (kind != _EMPTY or len(body)):
        raise WireError(
            f"the message is of kind {kind} with {len(body)} bytes, which fedlab never sends. "
            "Try asking for it again"
        )
    return kind, body


def _read_encoded(incoming: Incoming) -> Tensor:
    num_encodings = _read_outline(incoming)
    lines = []
    for _ in range(num_encodings):
        kind = incoming.take(1)[0]
        if kind not in Encoding.kinds:
            raise WireError(
                f"the message has an encoding of kind {kind}, and this version knows "
                f"{len(Encoding.kinds)}. Try updating the older side"
            )
        lines.append((Encoding.kinds[kind], incoming.fields(Encoding.kinds[kind].layout)))
    _check_order([encoding for encoding, _ in lines], incoming.sketch)
    encodings = tuple(encoding.read(parameters, incoming) for encoding, parameters in lines)
    values = _read_numbers(incoming)
    if len(incoming.rest):
        raise WireError(
            f"the message goes on for {len(incoming.rest)} bytes after its end. "
            "Try asking for it again"
        )
    return Message(values[None], incoming.shapes, encodings).delta[0]


def _read_outline(incoming: Incoming) -> int:
    """Read the outline, check that it is this model's, and return the number of encodings."""
    floats, num_encodings, num_tensors = incoming.fields(_OUTLINE)
    shapes = incoming.shapes
    if num_tensors != len(shapes):
        raise WireError(
            f"the message is for another model: it has {num_tensors} tensors and must have "
            f"{len(shapes)}. Try sending it from the same model"
        )
    read: list[tuple[int, ...]] = []
    for shape in shapes.values():
        if incoming.take(1)[0] != len(shape):
            raise WireError(
                f"the message is for another model: tensor {len(read)} must have {len(shape)} "
                "dimensions. Try sending it from the same model"
            )
        read.append(incoming.fields(struct.Struct(f"<{len(shape)}I")))
    check_shapes(dict(enumerate(read)), dict(enumerate(map(tuple, shapes.values()))))
    if floats > 1 or not 1 <= num_encodings <= MAX_ENCODINGS:
        raise WireError(
            f"the message has floats of kind {floats} and {num_encodings} encodings, which fedlab "
            "never sends. Try asking for it again"
        )
    incoming.dtype = FLOATS[floats]
    incoming.width = sum(shape.numel() for shape in shapes.values())
    return num_encodings


def _check_order(kinds: list[type[Encoding]], sketch: tuple[int, int] | None) -> None:
    """Raise WireError unless encodings follow as chains of transforms make them.

    Codes come after all but their compression. Each encoding comes once, unless it may repeat.
    """
    for position, kind in enumerate(kinds):
        before = kinds[:position]
        again = kind in before and not kind.may_repeat
        late = any(earlier.stage >= max(kind.stage, Stage.CODED) for earlier in before)
        if again or late or (kind.is_first and before):
            raise WireError(
                f"the message has a {kind.__name__} where none can be. Try asking for it again"
            )
    if (kinds[0] is Sketched) != (sketch is not None):
        sent, wanted = ("a sketch", "an update") if sketch is None else ("an update", "a sketch")
        raise WireError(
            f"the message is {sent}, and {wanted} is asked for. "
            "Try the upload that goes with the algorithm"
        )


def _read_numbers(incoming: Incoming) -> Tensor:
    width, bits = incoming.width, incoming.bits
    size = -(-width * bits // 8) if bits else width * incoming.dtype.itemsize
    content = incoming.take(incoming.compressed or size)
    if incoming.compressed:
        content = memoryview(decompress(content, size))
    if not bits:
        return as_floats(content, incoming.dtype)
    codes = unpack_bits(content, bits, width)
    return torch.from_numpy(codes.astype(np.uint8 if bits <= 8 else np.int32))
