"""Uncompressed updates and models: one safetensors file, with names, shapes and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fedlab.core import params
from fedlab.upload.codec import FLOATS, WireError

LENGTH_BYTES = 8  # a file begins with the length of its header


@lru_cache(maxsize=64)
def file_sizes(shapes: tuple[tuple[str, torch.Size], ...], dtype: torch.dtype) -> tuple[int, int]:
    """Count the bytes of a file's header (and its length) and of its numbers.

    ``shapes`` are the items of the mapping of names to shapes.
    """
    from safetensors.torch import save

    values = sum(shape.numel() for _, shape in shapes) * dtype.itemsize
    file = len(save({name: torch.empty(shape, dtype=dtype) for name, shape in shapes}))
    return file - values, values


def write_dense(row: Tensor, shapes: Mapping[str, torch.Size]) -> bytes:
    """Write one row ``[d]`` as a file of the model's tensors."""
    from safetensors.torch import save

    tensors = params.views(row.cpu(), dict(shapes))
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def read_dense(
    body: memoryview, shapes: Mapping[str, torch.Size], sketch: tuple[int, int] | None = None
) -> Tensor:
    """Read a row ``[d]`` from a file that may be anything.

    Args:
        body: Bytes of the file.
        shapes: Shapes of the tensors of the receiver's own model.
        sketch: Depth and columns of a sketch that is asked for instead; then no file will do.

    Raises:
        WireError: If it is no file of this model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    _check_size(body, shapes, sketch)
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
            f"the message is no safetensors file ({error}). Try asking for it again"
        ) from error
    read = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(read, {name: tuple(shape) for name, shape in shapes.items()})
    rows = [tensors[name].reshape(-1) for name in shapes]
    if len({row.dtype for row in rows}) != 1 or rows[0].dtype not in FLOATS[:2]:
        raise WireError(
            "the message has tensors that must be all float32, or all float64 (a model has no "
            "others). Try asking for it again"
        )
    return torch.cat(rows)


def check_shapes(read: Mapping[Any, tuple], wanted: Mapping[Any, tuple]) -> None:
    """Raise WireError unless the shapes in a message are those of the receiver's model."""
    if read == wanted:
        return
    names = [name for name in {**wanted, **read} if read.get(name) != wanted.get(name)]
    first = names[0]
    raise WireError(
        f"the message is for another model: tensor {first} is {read.get(first, 'missing')} there "
        f"and must be {wanted.get(first, 'missing')} ({len(names)} tensors differ). "
        "Try sending it from the same model"
    )


def _check_size(
    body: memoryview, shapes: Mapping[str, torch.Size], sketch: tuple[int, int] | None
) -> None:
    """Raise WireError unless the file and its header have the sizes of this model's.

    The safetensors library reads a header of any length, such as a million empty tensors.
    """
    sizes = [file_sizes(tuple(shapes.items()), dtype) for dtype in FLOATS[:2]]
    files = [header + values for header, values in sizes]
    if sketch is not None or len(body) not in files:
        wanted = (
            "a sketch is asked for"
            if sketch
            else f"one of this model has {files[0]:,} or, in double precision, {files[1]:,}"
        )
        raise WireError(
            f"the message is a dense update of {len(body):,} bytes, and {wanted}. "
            "Try sending it from the same model"
        )
    header = sizes[files.index(len(body))][0] - LENGTH_BYTES
    if int.from_bytes(body[:LENGTH_BYTES], "little") != header:
        raise WireError(
            f"the message's header does not have the {header:,} bytes that this model's has. "
            "Try asking for it again"
        )
