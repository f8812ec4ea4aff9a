"""Messages as bytes: what a client really sends, and what a server makes of whatever arrives.

A message is a frame (``FL``, version, kind, CRC-32 of the rest) and a body.  Whole rows are one safetensors file, with
names, shapes and numbers.  Anything else is an outline (which floats, shapes, a line a form with its parameters) and then
sections of whole bytes: what the forms hold beside the numbers, in their order, and last the numbers.  Places are gaps in a
Rice code, codes have their bits, all is little-endian.  Nothing is executed, and nothing is allocated that the receiver's
own model does not warrant.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Message
from fedlab.core.bits import (
    pack_bits,
    rice_decode,
    rice_encode,
    rice_low_bits,
    rice_sizes,
    unpack_bits,
)
from fedlab.upload.encodings import (
    Cast,
    Codebook,
    Drawn,
    Grid,
    Kept,
    Lossless,
    LowRank,
    Masked,
    Rotated,
    Sketched,
    Sparse,
    buckets,
)

VERSION = 1
PARTS = ("header", "indices", "values")  # what a message's bytes are for
MOST_FORMS = 8
LONGEST = 300  # characters of an error

_FRAME = struct.Struct("<2sBBI")
EMPTY_SIZE = _FRAME.size  # bytes of who has nothing to send
_OUTLINE = struct.Struct("<BBH")  # floats, forms, tensors
_WHOLE, _FORMS, _NOTHING = range(3)  # kinds of body
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_KINDS = (Sparse, Drawn, LowRank, Rotated, Sketched, Cast, Grid, Codebook, Lossless, Masked)
_LINES = {  # a form's parameters, behind its kind
    Sparse: struct.Struct("<IB"),  # numbers; low bits of a gap
    Drawn: struct.Struct("<qI"),  # key; numbers
    LowRank: struct.Struct("<I"),  # rank
    Rotated: struct.Struct("<q"),  # key
    Sketched: struct.Struct("<qII"),  # key; depth; columns
    Cast: struct.Struct("<B"),  # which floats it makes
    Grid: struct.Struct("<BHIB"),  # bits; zero; bucket; whether there is a low
    Codebook: struct.Struct("<BI"),  # bits; bucket
    Lossless: struct.Struct("<I"),  # bytes of the compressed numbers; 0 where they are as they were
    Masked: struct.Struct("<II"),  # numbers; CRC-32 of their places, which the receiver knows
}


class WireError(ValueError):
    """A message that is cut, damaged, hostile, of another version or for another model."""

    def __init__(self, told: str):
        line = " ".join(told.split())  # names in it may be the sender's
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}...")


def pack(message: Message, i: int = 0) -> bytes:
    """Row ``i`` of a message as the bytes that travel."""
    message, place = _of_senders(message)
    i = int(place[i])
    if i < 0:
        return _framed(_NOTHING)
    if not message.encodings:
        return _framed(_WHOLE, _as_safetensors(message, i))
    counts = [int(each[i]) for each in _counts(message)]
    if not counts[-1]:
        return _framed(_NOTHING)
    numbers, compressed = _numbers(message, i, counts[-1]), 0
    if isinstance(message.encodings[-1], Lossless):
        numbers, compressed = _compressed(numbers)
    lines, sides = [_outline(message)], []
    for form, before, count in zip(message.encodings, counts[:-1], counts[1:], strict=True):
        kind = _KINDS.index(type(form))
        lines.append(
            bytes([kind])
            + _LINES[type(form)].pack(*_parameters(form, message, i, before, count, compressed))
        )
        sides += _sides(form, i, before, count)
    return _framed(_FORMS, *lines, *sides, numbers)


def unpack(
    data: bytes,
    shapes: Mapping[str, torch.Size],
    sketch: tuple[int, int] | None = None,
    indices: Tensor | None = None,
) -> Tensor | None:
    """The row ``[d]`` that the server has of the bytes; None where the client had nothing to send.

    ``shapes`` are those of the receiver's own model; with ``sketch``, its depth and columns, a table of these is asked for.
    ``places [k]`` of a row, ascending, are those of the sender's mask.  Raises WireError for anything else, and for numbers
    that are not finite in single precision, to which a server may bring them.
    """
    if len(data) < _FRAME.size:
        raise WireError(
            f"{len(data)} bytes are no message, whose frame takes {_FRAME.size}: ask for it again"
        )
    magic, version, kind, checksum = _FRAME.unpack_from(data)
    if magic != b"FL":
        raise WireError(
            f"the message begins with {bytes(magic)!r} and not with b'FL': it is something else"
        )
    if version != VERSION:
        raise WireError(
            f"the message has version {version}, and this is version {VERSION}: update the older side"
        )
    body = memoryview(data)[_FRAME.size :]
    if zlib.crc32(body) != checksum:
        raise WireError(
            f"the checksum does not fit the {len(data)} bytes, cut or damaged on the way: ask for it again"
        )
    if kind == _NOTHING and not len(body):
        return None
    if kind not in (_WHOLE, _FORMS):
        raise WireError(
            f"the message is of kind {kind} with {len(body)} bytes: no program like this one sends that"
        )
    row = (
        _from_safetensors(body, shapes, sketch)
        if kind == _WHOLE
        else _from_forms(_Reader(body), shapes, sketch, indices)
    )
    if not (row.abs() <= torch.finfo(torch.float32).max).all():
        raise WireError(
            "the message has numbers that are not finite, or are not in 32 bits: leave its client out of this round"
        )
    return row


def sizes(message: Message) -> np.ndarray:
    """Bytes of header, indices and values of each row, ``[m, 3]``, as ``PARTS`` has them; their sum is ``len(pack(...))``.

    Counted without packing, but for compressed numbers, whose length nobody knows before.
    """
    message, place = _of_senders(message)
    parts = np.zeros((len(place), 3), dtype=np.int64)
    parts[:, 0] = EMPTY_SIZE
    sent = place >= 0
    parts[sent] = _sizes(message)[place[sent]]
    return parts


@lru_cache(maxsize=64)
def dense_sizes(shapes: tuple[tuple[str, torch.Size], ...], dtype: torch.dtype) -> np.ndarray:
    """The parts ``[3]`` of a whole row's bytes; ``shapes`` are the items of the mapping."""
    from safetensors.torch import save

    width = sum(shape.numel() for _, shape in shapes) * dtype.itemsize
    file = len(save({name: torch.empty(shape, dtype=dtype) for name, shape in shapes}))
    return np.array([_FRAME.size + file - width, 0, width])


def masked_sizes(
    shapes: Mapping[str, torch.Size], dtype: torch.dtype, count: np.ndarray
) -> np.ndarray:
    """The parts ``[m, 3]`` of rows of which both sides know all but ``count [m]`` numbers to be 0."""
    none = torch.empty(0, 0, dtype=dtype)
    message = Message(none, shapes, (Masked(torch.empty(0, 0, dtype=torch.long), 0),))
    header, values = _header(message), np.asarray(count) * dtype.itemsize
    return np.stack([np.full_like(values, header), np.zeros_like(values), values], -1)


def round_trip(message: Message) -> Tensor:
    """The rows as they come out of real bytes, each packed and unpacked: they equal ``message.delta``."""
    sketch = next(
        ((form.depth, form.columns) for form in message.encodings if isinstance(form, Sketched)),
        None,
    )
    senders, place = _of_senders(message)
    known = next((form.index for form in senders.encodings if isinstance(form, Masked)), None)
    places = [None if known is None or i < 0 else known[i].cpu() for i in place]
    rows = [unpack(pack(message, i), message.shapes, sketch, mine) for i, mine in enumerate(places)]
    return torch.stack(
        [
            kept if row is None else row.to(kept.device)
            for row, kept in zip(rows, message.delta, strict=True)
        ]
    )


# Sending


def _of_senders(message: Message) -> tuple[Message, np.ndarray]:
    """The message without those who send nothing, and where in it each of the cohort stands ``[m]``, -1 for nowhere."""
    forms, place = message.encodings, None
    while forms and isinstance(forms[0], Kept):
        there = np.where(forms[0].sent, np.cumsum(forms[0].sent) - 1, -1)
        place = (
            there
            if place is None
            else np.array([-1 if i < 0 else there[i] for i in place], dtype=int)
        )
        forms = forms[1:]
    place = np.arange(len(message.values)) if place is None else place
    return Message(message.values, message.shapes, forms), place


def _sizes(message: Message) -> np.ndarray:
    parts = np.zeros((len(message.values), 3), dtype=np.int64)
    if not message.encodings:
        return parts + dense_sizes(tuple(message.shapes.items()), message.values.dtype)
    counts = _counts(message)
    parts[:, 0] = _header(message)
    for form, before, after in zip(message.encodings, counts[:-1], counts[1:], strict=True):
        if isinstance(form, Sparse):
            parts[:, 1] += rice_sizes(form.index.numpy(force=True), before, after)
        elif isinstance(form, Grid):
            parts[:, 2] += (
                _num_buckets(form, after)
                * (1 if form.low is None else 2)
                * form.step.element_size()
            )
        elif isinstance(form, Codebook):
            parts[:, 2] += (_num_buckets(form, after) + 2**form.bits) * form.scale.element_size()
    if isinstance(message.encodings[-1], Lossless):
        parts[:, 2] += [
            len(_compressed(_numbers(message, i, n))[0]) for i, n in enumerate(counts[-1])
        ]
    else:
        parts[:, 2] += -(-counts[-1] * (_bits(message) or 8 * message.values.element_size()) // 8)
    parts[counts[-1] == 0] = EMPTY_SIZE, 0, 0
    return parts


def _header(message: Message) -> int:
    return (
        _FRAME.size
        + len(_outline(message))
        + sum(1 + _LINES[type(form)].size for form in message.encodings)
    )


def _counts(message: Message) -> list[np.ndarray]:
    """How many numbers each row has before the first form and after each of them, ``[m]`` each."""
    counts = [np.full(len(message.values), sum(shape.numel() for shape in message.shapes.values()))]
    for form in message.encodings:
        counts.append(
            counts[-1] * 0 + form.num_values if hasattr(form, "num_values") else counts[-1]
        )
    return counts


def _num_buckets(form: Grid | Codebook, count: Any) -> Any:
    return -(-count // form.bucket) if form.bucket else len(form.sizes) + 0 * count


def _coded(message: Message) -> Any:
    """The form that says what the numbers are written in, if one does."""
    return next(
        (form for form in message.encodings if isinstance(form, Cast | Grid | Codebook)), None
    )


def _bits(message: Message) -> int:
    """Of a code; 0 for floats."""
    return getattr(_coded(message), "bits", 0)


def _framed(kind: int, *body: bytes) -> bytes:
    checksum = 0
    for content in body:
        checksum = zlib.crc32(content, checksum)
    return b"".join([_FRAME.pack(b"FL", VERSION, kind, checksum), *body])


def _outline(message: Message) -> bytes:
    match coded := _coded(message):
        case Cast():
            dtype = coded.wide
        case Grid():
            dtype = coded.step.dtype
        case Codebook():
            dtype = coded.scale.dtype
        case None:
            dtype = message.values.dtype
    shapes = (
        struct.pack(f"<B{len(shape)}I", len(shape), *shape) for shape in message.shapes.values()
    )
    return _OUTLINE.pack(
        _FLOATS.index(dtype), len(message.encodings), len(message.shapes)
    ) + b"".join(shapes)


def _parameters(
    form: Any, message: Message, i: int, before: int, count: int, compressed: int
) -> tuple:
    match form:
        case Sparse():
            return count, rice_low_bits(before, count)
        case Masked():
            return count, _places_checksum(form.index[i])
        case Drawn():
            return int(form.keys[i]), count
        case LowRank():
            return (form.rank,)
        case Rotated():
            return (int(form.keys[i]),)
        case Sketched():
            return form.key, form.depth, form.columns
        case Cast():
            return (_FLOATS.index(message.values.dtype),)
        case Grid():
            return form.bits, form.zero, form.bucket, form.low is not None
        case Codebook():
            return form.bits, form.bucket
        case Lossless():
            return (compressed,)


def _sides(form: Any, i: int, before: int, count: int) -> list[bytes]:
    """What a form holds beside the numbers."""
    match form:
        case Sparse():
            return [rice_encode(form.index[i, :count].numpy(force=True), before)]
        case Grid():
            tables = (form.step, form.low)
        case Codebook():
            return [_raw(form.table[i]), _raw(form.scale[i, : _num_buckets(form, count)])]
        case _:
            return []
    return [_raw(table[i, : _num_buckets(form, count)]) for table in tables if table is not None]


def _places_checksum(places: Tensor) -> int:
    return zlib.crc32(places.numpy(force=True).astype("<i8").tobytes())


def _numbers(message: Message, i: int, count: int) -> bytes:
    values, bits = message.values[i, :count], _bits(message)
    return _raw(values) if not bits else pack_bits(values.numpy(force=True), bits)


def _raw(values: Tensor) -> bytes:
    return values.contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _compressed(numbers: bytes) -> tuple[bytes, int]:
    """By Zstandard, with its length; as they were, and 0, where that is not shorter."""
    import zstandard

    shorter = zstandard.ZstdCompressor(level=3).compress(numbers)
    return (shorter, len(shorter)) if len(shorter) < len(numbers) else (numbers, 0)


def _as_safetensors(message: Message, i: int) -> bytes:
    from safetensors.torch import save

    from fedlab.core import params

    return save(
        {
            name: p.contiguous()
            for name, p in params.views(message.values[i].cpu(), dict(message.shapes)).items()
        }
    )


# Receiving


class _Reader:
    """A body, read from its beginning to its end and never beyond it."""

    def __init__(self, body: memoryview):
        self.rest = body

    def take(self, n: int) -> memoryview:
        if n > len(self.rest):
            raise WireError(
                f"the message ends {n - len(self.rest)} bytes too early: ask for it again"
            )
        taken, self.rest = self.rest[:n], self.rest[n:]
        return taken

    def numbers(self, how: struct.Struct) -> tuple[int, ...]:
        return how.unpack(self.take(how.size))

    def floats(self, n: int, dtype: torch.dtype) -> Tensor:
        content = self.take(n * dtype.itemsize)
        return (
            torch.frombuffer(bytearray(content), dtype=dtype) if n else torch.empty(0, dtype=dtype)
        )


def _from_safetensors(
    body: memoryview, shapes: Mapping[str, torch.Size], sketch: tuple[int, int] | None
) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load

    parts = [dense_sizes(tuple(shapes.items()), dtype) for dtype in _FLOATS[:2]]
    sizes = [int(part.sum()) - _FRAME.size for part in parts]
    if sketch is not None or len(body) not in sizes:
        told = (
            "a sketch is asked for"
            if sketch
            else f"one of this model has {sizes[0]:,} or, in double precision, {sizes[1]:,}"
        )
        raise WireError(f"the message is a whole row of {len(body):,} bytes, and {told}")
    header = (
        int(parts[sizes.index(len(body))][0]) - _FRAME.size - 8
    )  # bytes, behind the 8 that tell them
    if int.from_bytes(body[:8], "little") != header:
        raise WireError(
            f"the message's header does not have the {header:,} bytes that this model's has: ask for it again"
        )
    try:
        tensors = load(bytes(body))
    except (
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        RuntimeError,
        AssertionError,
    ) as error:
        raise WireError(
            f"the message is no safetensors file ({error}): ask for it again"
        ) from error
    found = {name: tuple(p.shape) for name, p in tensors.items()}
    _check_shapes(found, {name: tuple(shape) for name, shape in shapes.items()})
    rows = [tensors[name].reshape(-1) for name in shapes]
    if len({row.dtype for row in rows}) != 1 or rows[0].dtype not in _FLOATS[:2]:
        raise WireError(
            "the message's tensors are not all of float32, or of float64: this model has no other"
        )
    return torch.cat(rows)


def _from_forms(
    reader: _Reader,
    shapes: Mapping[str, torch.Size],
    sketch: tuple[int, int] | None,
    places: Tensor | None,
) -> Tensor:
    floats, num_forms, num_tensors = reader.numbers(_OUTLINE)
    if num_tensors != len(shapes):
        raise WireError(
            f"the message is for another model: it has {num_tensors} tensors there and {len(shapes)} here"
        )
    found = []
    for shape in shapes.values():
        if reader.take(1)[0] != len(shape):
            raise WireError(
                f"the message is for another model: tensor {len(found)} is not of {len(shape)} dimensions there"
            )
        found.append(reader.numbers(struct.Struct(f"<{len(shape)}I")))
    _check_shapes(dict(enumerate(found)), dict(enumerate(map(tuple, shapes.values()))))
    if floats > 1 or not 1 <= num_forms <= MOST_FORMS:
        raise WireError(
            f"the message has floats of kind {floats} and {num_forms} forms: no program like this one does"
        )
    dtype, width = _FLOATS[floats], sum(shape.numel() for shape in shapes.values())
    lines = []
    for _ in range(num_forms):
        kind = reader.take(1)[0]
        if kind >= len(_KINDS):
            raise WireError(
                f"the message has a form of kind {kind}, and there are {len(_KINDS)}: update the older side"
            )
        lines.append((_KINDS[kind], reader.numbers(_LINES[_KINDS[kind]])))
    _check_order([kind for kind, _ in lines], sketch)
    forms, bits, compressed = [], 0, 0
    for kind, parameters in lines:
        form = _form(kind, parameters, reader, width, shapes, dtype, sketch, places)
        width = int(np.max(form.num_values)) if hasattr(form, "num_values") else width
        forms.append(form)
        if kind in (Grid, Codebook):
            bits = form.bits
        if kind is Cast:
            dtype = _FLOATS[parameters[0]]
        if kind is Lossless:
            (compressed,) = parameters
    values = _values(reader, width, bits, dtype, compressed)
    if len(reader.rest):
        raise WireError(f"{len(reader.rest)} bytes follow the end of the message: ask for it again")
    return Message(values[None], shapes, tuple(forms)).delta[0]


def _check_shapes(found: Mapping, wanted: Mapping) -> None:
    if found == wanted:
        return
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    one = f"{names[0]} is {found.get(names[0], 'missing')} there and {wanted.get(names[0], 'missing')} here"
    raise WireError(f"the message is for another model: of {len(names)} tensors that differ, {one}")


def _check_order(kinds: list[type], sketch: tuple[int, int] | None) -> None:
    """Each once but Sparse, which costs its sender bytes; codes behind all but their packing; a sketch if asked for."""
    for at, kind in enumerate(kinds):
        before = kinds[:at]
        again = kind in before and kind is not Sparse
        late = Lossless in before or (
            kind is not Lossless and any(one in before for one in (Cast, Grid, Codebook))
        )
        if again or late or (kind in (LowRank, Sketched, Masked) and before):
            raise WireError(
                f"the message has a {kind.__name__} where none can be: no program like this one sends that"
            )
    if (kinds[0] is Sketched) != (sketch is not None):
        there, here = ("a sketch", "a row") if sketch is None else ("none", "a sketch")
        raise WireError(f"the message is {there}, and {here} is asked for")


def _form(
    kind: type,
    parameters: tuple,
    reader: _Reader,
    width: int,
    shapes: Mapping,
    dtype: torch.dtype,
    sketch,
    places,
) -> Any:
    """A form for one row of ``width`` numbers, whose parameters are checked before anything is made of them."""
    fine = {
        Sparse: lambda count, low: count <= width,
        Drawn: lambda key, count: key >= 0 and count <= width,
        LowRank: lambda rank: 0 < rank < 2**16,
        Rotated: lambda key: key >= 0 and width > 0,
        Sketched: lambda key, depth, columns: key >= 0 and (depth, columns) == sketch,
        Cast: lambda floats: floats in (2, 3),
        Grid: lambda bits, zero, bucket, has_low: 0 < bits <= 16 and has_low < 2,
        Codebook: lambda bits, bucket: 0 < bits <= 8,
        Lossless: lambda compressed: True,
        Masked: lambda count, checksum: (
            places is not None and (count, checksum) == (len(places), _places_checksum(places))
        ),
    }[kind]
    if not fine(*parameters):
        raise WireError(
            f"the message has a {kind.__name__} with {parameters}, which cannot be for {width} numbers of this model"
        )
    if kind is Sparse:
        return Sparse(_from_rice(reader, *parameters, width), width)
    if kind is Masked:
        return Masked(places[None], width)
    if kind is Drawn:
        return Drawn(np.array(parameters[:1]), parameters[1], width)
    if kind is LowRank:
        return LowRank(tuple(shapes.values()), *parameters)
    if kind is Rotated:
        return Rotated(np.array(parameters), width)
    if kind is Sketched:
        return Sketched(*parameters)
    if kind is Cast:
        return Cast(dtype)
    if kind is Lossless:
        return Lossless()
    sizes = _bucket_sizes(parameters[2 if kind is Grid else 1], width, shapes)
    if kind is Codebook:
        table, scale = reader.floats(2 ** parameters[0], dtype), reader.floats(len(sizes), dtype)
        return Codebook(*parameters, sizes, table[None], scale[None])
    *parameters, has_low = parameters
    step, low = (
        reader.floats(len(sizes), dtype),
        reader.floats(len(sizes), dtype) if has_low else None,
    )
    return Grid(*parameters, sizes, step[None], None if low is None else low[None])


def _bucket_sizes(bucket: int, width: int, shapes: Mapping[str, torch.Size]) -> tuple[int, ...]:
    if bucket:
        return buckets(width, bucket)
    sizes = tuple(shape.numel() for shape in shapes.values())
    if sum(sizes) != width:
        raise WireError(
            f"the message has a bucket a tensor for {width} numbers, and the tensors have {sum(sizes)}"
        )
    return sizes


def _from_rice(reader: _Reader, count: int, low: int, width: int) -> Tensor:
    """Read the indices ``[1, count]``, ascending and below ``width``."""
    try:
        index, size = rice_decode(reader.rest, count, low, width)
    except ValueError as error:
        raise WireError(
            f"the message's indices are damaged (it {error}): ask for it again"
        ) from error
    reader.take(size)
    return torch.from_numpy(index)[None]


def _values(reader: _Reader, width: int, bits: int, dtype: torch.dtype, compressed: int) -> Tensor:
    n = -(-width * bits // 8) if bits else width * dtype.itemsize
    if compressed:
        reader = _Reader(memoryview(_decompressed(reader.take(compressed), n)))
    if not bits:
        return reader.floats(width, dtype)
    codes = unpack_bits(reader.take(n), bits, width)
    return torch.from_numpy(codes.astype(np.uint8 if bits <= 8 else np.int32))


def _decompressed(content: memoryview, n: int) -> bytes:
    """The ``n`` bytes that were compressed: not one more is ever made."""
    import zstandard

    try:
        told = zstandard.frame_content_size(content)
        if told != n:
            raise WireError(
                f"the message says that its numbers take {told} bytes, and they take {n}"
            )
        numbers = zstandard.ZstdDecompressor().decompress(
            content, max_output_size=n, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise WireError(
            f"the message's numbers do not decompress ({error}): ask for it again"
        ) from error
    if len(numbers) != n:
        raise WireError(f"the message's numbers take {len(numbers)} bytes, and there must be {n}")
    return numbers
