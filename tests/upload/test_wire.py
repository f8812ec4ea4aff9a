"""Messages come back to the bit, their size is counted right, and others are refused."""

import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlab.core import Cohort, Message, generator
from fedlab.core.bits import rice_encode
from fedlab.upload import (
    cast,
    chain,
    count_sketch,
    eden,
    identity,
    kmeans,
    lossless,
    power_sgd,
    qsgd,
    quantize,
    random_k,
    rotate,
    terngrad,
    threshold,
    top_k,
    wire,
)
from fedlab.upload.chains import send, within_mask
from fedlab.upload.codec import Encoding

SHAPES = {
    "a": torch.Size((8, 12)),
    "b": torch.Size((8,)),
    "c": torch.Size((3, 8)),
    "d": torch.Size((3,)),
}
D = sum(shape.numel() for shape in SHAPES.values())
UPLOADS = {
    "whole": identity(),
    "sparse": top_k(0.1),
    "sparse, few bits": chain(top_k(0.2), qsgd(3), lossless()),
    "ragged": chain(threshold(0.8), qsgd(5, bucket=7)),
    "drawn": chain(random_k(0.2), qsgd(6)),
    "low rank": chain(power_sgd(2), quantize(8, bucket=50)),
    "rotated": eden(2),
    "rotated, cast": chain(rotate(), cast("bfloat16"), lossless()),
    "sketch": count_sketch(8),
    "codebook": chain(kmeans(3), lossless()),
    "a tensor a bucket": chain(terngrad(), lossless()),
}


def message(name="sparse", m=1, dtype=torch.float32):
    x = torch.from_numpy(generator(0, "wire").standard_normal((m, D))).to(dtype)
    transform = UPLOADS[name]
    return transform.apply(
        Message(x, SHAPES), transform.init(x[0], SHAPES, 9), Cohort(np.arange(m), 1, 0, 9)
    )[0]


PLACES = torch.arange(1, D, 3)


def of_mask(transform=None):
    """A row of which both sides know all but ``PLACES`` to be 0."""
    mask = torch.zeros(1, D).index_fill_(1, PLACES, 1)
    x = torch.from_numpy(generator(0, "wire").standard_normal((1, D))).float()
    who = Cohort(np.arange(1), 1, 0, 9)
    transform = transform or identity()
    return within_mask(
        send(transform, Message(x * mask, SHAPES, mask=mask), transform.init(x[0], SHAPES, 9), who)[
            0
        ]
    )


def framed(body, kind=1, version=wire.VERSION, magic=b"FL"):
    return struct.pack("<2sBBI", magic, version, kind, zlib.crc32(body)) + body


# There and back


def test_whole_rows_are_a_safetensors_file_that_others_read():
    from safetensors.torch import load

    sent = message("whole")
    tensors = load(wire.pack(sent)[8:])
    assert {name: p.shape for name, p in tensors.items()} == SHAPES
    assert torch.equal(torch.cat([tensors[name].flatten() for name in SHAPES]), sent.delta[0])


def test_the_parts_are_where_they_are_said_to_be():
    sent = message("sparse")
    header, indices, values = wire.sizes(sent)[0]
    data = wire.pack(sent)
    assert len(data) == header + indices + values
    assert np.frombuffer(data[-values:], np.float32).tolist() == sent.values[0].tolist()
    assert data[header : header + indices] == rice_encode(sent.encodings[0].index[0].numpy(), D)


def test_a_new_encoding_is_written_in_one_place():
    """A subclass is packed, sized and read without any other change."""

    class Scaled(Encoding, kind=77):
        layout = struct.Struct("<H")

        def __init__(self, factor):
            self.factor = factor

        def decode(self, values):
            return values * self.factor

        def parameters(self, out):
            return (self.factor,)

        @classmethod
        def read(cls, parameters, incoming):
            return cls(*parameters)

    try:
        x = torch.from_numpy(generator(0, "wire").standard_normal((2, D))).float()
        sent = Message(x, SHAPES).encoded(x / 4, Scaled(4))
        assert torch.equal(wire.round_trip(sent), x)
        assert wire.sizes(sent).sum(1).tolist() == [len(wire.pack(sent, i)) for i in range(2)]
        with pytest.raises(ValueError, match=r"kind=77 must be new .Scaled has it.. Try 78"):
            type("Other", (Encoding,), {}, kind=77)
    finally:
        Encoding.kinds.pop(77)


# What is refused


@pytest.mark.parametrize("name", UPLOADS)
def test_every_cut_and_every_flipped_bit_is_noticed(name):
    data = wire.pack(message(name))
    sketch = (5, 8) if name == "sketch" else None
    assert wire.unpack(data, SHAPES, sketch) is not None
    for length in range(len(data)):
        with pytest.raises(wire.WireError):
            wire.unpack(data[:length], SHAPES, sketch)
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        with pytest.raises(wire.WireError):
            wire.unpack(bytes(broken), SHAPES, sketch)
    with pytest.raises(wire.WireError):
        wire.unpack(data + b"\0", SHAPES, sketch)


def outline(forms, floats=0, shapes=None):
    shapes = list(SHAPES.values()) if shapes is None else shapes
    return struct.pack("<BBH", floats, forms, len(shapes)) + b"".join(
        struct.pack(f"<B{len(s)}I", len(s), *s) for s in shapes
    )


HOSTILE = {
    "of another version": (
        framed(b"", version=2),
        r"version 2 and must have version 1\. Try updating the older side",
    ),
    "something else": (b"PK\x03\x04 a zip file", r"begins with b'PK' and must begin with b'FL'"),
    "a pickle": (
        framed(b"\x80\x04\x95", kind=0),
        r"a dense update of 3 bytes, and one of this model has [\d,]+ or, .*, [\d,]+\. Try",
    ),
    "of an unknown kind": (framed(b"", kind=9), r"of kind 9"),
    "for another model": (
        framed(outline(1, shapes=[(8, 12), (8,), (3, 9), (3,)])),
        r"for another model.* 2 is \(3, 9\) there",
    ),
    "for a larger one": (
        framed(outline(1, shapes=[(2**32 - 1, 2**32 - 1)])),
        r"for another model: it has 1 tensors and must have 4",
    ),
    "of many forms": (framed(outline(200)), r"200 encodings"),
    "of unknown floats": (framed(outline(1, floats=2)), r"floats of kind 2"),
    "with a form that nobody knows": (
        framed(outline(1) + b"\x63"),
        r"an encoding of kind 99, and this version knows 10",
    ),
    "with more numbers than there are": (
        framed(outline(1) + b"\0" + struct.pack("<IB", 2**32 - 1, 3)),
        r"a Sparse with .4294967295, 3., which cannot be for 131 numbers",
    ),
    "with places beyond the end": (
        framed(outline(1) + b"\0" + struct.pack("<IB", 1, 7) + bytes([0x7F, 0b10]) + bytes(4)),
        r"a number at place 255, and there are 131",
    ),
    "with too few places": (
        framed(outline(1) + b"\0" + struct.pack("<IB", 2, 0) + bytes([1])),
        r"1 of its 2 places",
    ),
    "with gaps of many bits": (
        framed(outline(1) + b"\0" + struct.pack("<IB", 2, 60)),
        r"60 low bits",
    ),
    "of rank 0": (
        framed(outline(1) + b"\2" + struct.pack("<I", 0)),
        r"a LowRankFactors with .0,., which cannot be",
    ),
    "of a giant rank": (
        framed(outline(1) + b"\2" + struct.pack("<I", 2**31)),
        r"a LowRankFactors with .2147483648,.",
    ),
    "with a giant sketch": (
        framed(outline(1) + b"\4" + struct.pack("<qII", 5, 2**31, 2**31)),
        r"is a sketch, and an update is asked for",
    ),
    "coded twice": (
        framed(outline(2) + b"\5\2" + b"\5\2"),
        r"a Cast where none can be",
    ),
    "with codes of no bits": (
        framed(outline(1) + b"\6" + struct.pack("<BHIB", 0, 0, 9, 0)),
        r"a Grid with .0, 0, 9, 0.",
    ),
    "with more bytes than it says": (
        framed(outline(1) + b"\5\2" + bytes(2 * D + 1)),
        r"goes on for 1 bytes after its end",
    ),
    "with fewer bytes than it says": (
        framed(outline(1) + b"\5\2" + bytes(2 * D - 3)),
        r"ends 3 bytes too early",
    ),
    "of more dimensions": (
        framed(struct.pack("<BBH", 0, 1, 4) + b"\xff" + bytes(1020)),
        r"tensor 0 must have 2 dimensions",
    ),
    "that draws again and again": (
        framed(outline(2) + (b"\1" + struct.pack("<qI", 5, D)) * 2 + bytes(4 * D)),
        r"a RandomMask where none can be",
    ),
    "with a mask behind something else": (
        framed(outline(2) + b"\0" + struct.pack("<IB", 0, 0) + b"\x09" + bytes(8)),
        "a Masked where none",
    ),
    "with numbers that are none": (framed(outline(1) + b"\5\2" + b"\xff" * 2 * D), r"not finite"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message(name):
    data, reason = HOSTILE[name]
    with pytest.raises(wire.WireError, match=reason):
        wire.unpack(data, SHAPES)


def test_a_row_with_a_mask_is_read_by_who_has_the_same_mask():
    for transform in (None, chain(top_k(0.2), qsgd(4), lossless()), rotate()):
        row = of_mask(transform)
        data = wire.pack(row)
        assert torch.equal(wire.unpack(data, SHAPES, indices=PLACES), row.delta[0])
        for wrong in (None, PLACES[:-1], PLACES + 1, torch.arange(2, D, 3)):
            with pytest.raises(
                wire.WireError, match=r"a Masked with .*, which cannot be for 131 numbers"
            ):
                wire.unpack(data, SHAPES, indices=wrong)
    dense = of_mask()
    assert (
        wire.masked_sizes(SHAPES, torch.float32, np.array([len(PLACES)])).tolist()
        == wire.sizes(dense).tolist()
    )
    plain = wire.pack(message("whole"))
    assert wire.unpack(plain, SHAPES, indices=PLACES).shape == (D,), (
        "a whole row is read, whatever the mask"
    )


def test_a_sketch_is_taken_by_who_asks_for_it_and_by_no_other():
    table = wire.pack(message("sketch"))
    assert wire.unpack(table, SHAPES, (5, 8)).shape == (40,)
    for sketch, reason in (
        (None, "is a sketch, and an update is asked for"),
        ((5, 9), r"a Sketched with"),
        ((1, 1), "a Sketched with"),
    ):
        with pytest.raises(wire.WireError, match=reason):
            wire.unpack(table, SHAPES, sketch)
    for name, reason in (
        ("whole", "a dense update .* and a sketch is asked for"),
        ("sparse", "is an update, and a sketch is asked for"),
    ):
        with pytest.raises(wire.WireError, match=reason):
            wire.unpack(wire.pack(message(name)), SHAPES, (5, 8))


def test_a_safetensors_header_of_a_million_names_is_not_read():
    body = b'"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 10**6
    with pytest.raises(
        wire.WireError, match=r"a dense update of 53,000,000 bytes, and one of this model has"
    ):
        wire.unpack(framed(body, kind=0), SHAPES)


def test_a_safetensors_header_of_another_length_is_not_read(monkeypatch):
    """A file of the right length that is almost only header, with 3,000 empty tensors.

    A larger model would have 338,982.
    """
    shapes = {"w": torch.Size((60_000,))}
    length = len(wire.pack(Message(torch.zeros(1, 60_000), shapes))) - 8
    header = (
        b"{"
        + b",".join(
            b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(3000)
        )
        + b"}"
    )
    body = struct.pack("<Q", length - 8) + header.ljust(length - 8)
    monkeypatch.setattr("safetensors.torch.load", None)
    with pytest.raises(
        wire.WireError, match=r"header does not have the \d+ bytes that this model's has"
    ):
        wire.unpack(framed(body, kind=0), shapes)
    for few in (body[:4], struct.pack("<Q", 2**64 - 1) + body[8:]):
        with pytest.raises(wire.WireError):
            wire.unpack(framed(few, kind=0), shapes)


@pytest.mark.parametrize("value", [1e39, -1e300, 3.5e38])
@pytest.mark.parametrize("name", ["whole", "sparse", "rotated, cast", "low rank"])
def test_numbers_that_no_float_of_32_bits_holds_are_refused(name, value):
    sent = message(name, dtype=torch.float64)
    sent.values[0, :] = value if sent.values.is_floating_point() else sent.values[0, :]
    if name == "low rank":
        sent.encodings[1].low[:] = value
    with pytest.raises(wire.WireError, match="not finite, or are not in 32 bits"):
        wire.unpack(wire.pack(sent), SHAPES)


def test_errors_are_short_lines():
    name = "a\nname " * 100
    message = wire.pack(Message(torch.zeros(1, D), {name: torch.Size((D,))}))
    with pytest.raises(wire.WireError) as caught:
        wire.unpack(message, {name + "x": torch.Size((D - 0,))})
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_no_numbers_left_are_nothing_to_send():
    none, _ = chain(threshold(1e9), qsgd(4)).apply(
        Message(torch.ones(2, D), SHAPES), [None, None], Cohort(np.arange(2), 1, 0, 9)
    )
    assert wire.unpack(wire.pack(none), SHAPES) is None
    assert wire.sizes(none).tolist() == [[8, 0, 0]] * 2
    assert (none.delta == 0).all()


def test_a_bomb_is_not_unpacked():
    """A gigabyte of zeros compressed to some kilobytes, in a message that is otherwise right."""
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(10**9))
    body = (
        outline(2)
        + b"\6"
        + struct.pack("<BHIB", 8, 0, D, 0)
        + b"\x08"
        + struct.pack("<I", len(bomb))
        + bytes(4)
        + bomb
    )
    with pytest.raises(wire.WireError, match=r"has 1000000000 bytes of numbers and must have 131"):
        wire.unpack(framed(body), SHAPES)


SEEDS = [
    wire.pack(message(name, dtype=dtype))
    for name in UPLOADS
    for dtype in (torch.float32, torch.float64)
]
SEEDS += [
    wire.pack(of_mask(transform))
    for transform in (None, top_k(0.2), chain(rotate(), qsgd(3)), lossless())
]


@st.composite
def nearly(draw):
    """Draw real messages with bytes changed, cut or put in, and a checksum that fits."""
    body = bytearray(draw(st.sampled_from(SEEDS))[8:])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, min(len(body), 120) - 1)))
        match draw(st.sampled_from(("change", "change", "cut", "insert", "end"))):
            case "change" if body:
                body[place] = draw(
                    st.sampled_from((0, 1, 2, 3, 7, 8, 127, 128, 255)) | st.integers(0, 255)
                )
            case "cut":
                del body[place : place + draw(st.integers(1, 9))]
            case "insert":
                body[place:place] = draw(st.binary(max_size=9))
            case "end":
                body += draw(st.binary(max_size=9))
    return framed(bytes(body), kind=draw(st.sampled_from((0, 1, 1, 1, 2))))


FUZZ = settings(max_examples=6000, deadline=None, suppress_health_check=list(HealthCheck))


def is_read_or_refused(data):
    """A row or a table no larger than the model, nothing, or the declared error in a line."""
    fine = True
    for places in (None, PLACES):
        try:
            row = wire.unpack(data, SHAPES, indices=places)
        except wire.WireError as error:
            fine &= "\n" not in str(error)
        else:
            fine &= row is None or row.numel() <= D
    return fine


@pytest.mark.slow
@FUZZ
@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(framed)
    | st.binary(max_size=99).map(lambda b: framed(outline(1) + b))
)
def test_noise_is_read_or_refused(data):
    """6,000 inputs."""
    assert is_read_or_refused(data)


@pytest.mark.slow
@FUZZ
@given(nearly())
def test_messages_that_are_nearly_right_are_read_or_refused(data):
    """6,000 more, whose checksum fits."""
    assert is_read_or_refused(data)
