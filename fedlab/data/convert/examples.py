"""Examples of any kind as one tensor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.data.convert.cells import (
    INT64_END,
    MISSING_MARKS,
    beyond_int64,
    cell_number,
    complex_numbers,
    exact_array,
    is_frame,
    is_nested,
    is_number_text,
    is_picture,
    is_series,
    to_float32,
    writeable,
)
from fedlab.data.convert.frames import frame_numbers

MAX_SHARE_OF_MEMORY = 0.5  # of the free memory, for the dense copy of a sparse matrix
CHANNELS = (1, 3, 4)  # numbers of channels that pictures have
# Modes of Pillow whose numbers are light, or alpha.
MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def to_examples(values: Any, name: str = "x") -> Tensor:
    """Return examples as a CPU tensor ``[n, ...]``, contiguous and writeable.

    Real numbers and booleans become float32, and so does every number of a frame or of a sparse
    matrix. Whole numbers of arrays, tensors and lists become int64, for models that look tokens up.
    uint8 stays uint8, as in pictures of 8 bits; pictures of other depths become float32.

    Args:
        values: Array, tensor, nested list, DataFrame of numbers, scipy sparse matrix, or list of
            pictures.
        name: The argument's name, for errors.

    Returns:
        The examples; they may share memory with ``values``.

    Raises:
        ValueError: If a value is missing or is no number, or if examples differ in shape; the
            message names the remedy.

    Example:
        >>> to_examples([[1.5, 2.0]]).dtype, to_examples([[3, 7]]).dtype
        (torch.float32, torch.int64)
    """
    if isinstance(values, Tensor):
        return _from_tensor(values, name)
    if is_frame(values):
        return torch.from_numpy(to_float32(frame_numbers(values, name), name))
    if is_series(values):
        remedy = "list" if is_nested(next(iter(values), None)) else "pd.DataFrame"
        raise ValueError(
            f"{name} must be an array [n, ...], and it is a {type(values).__name__} of "
            f"{len(values)} values. Try {remedy}({name})"
        )
    if callable(getattr(values, "toarray", None)):  # scipy's sparse matrices and arrays
        return torch.from_numpy(writeable(_to_dense(values, name), np.float32))
    if isinstance(values, torch.utils.data.Dataset):
        raise ValueError(
            f"{name} must be an array of examples, and it is a {type(values).__name__}. "
            f"Try torch.stack([x for x, _ in {name}]), [y for _, y in {name}]"
        )
    array = _to_array(values, name)
    if array.dtype.kind == "O":
        array = _from_objects(array, name)
    if array.dtype.names is not None:
        raise ValueError(
            f"{name} must be an array of numbers, and it has the fields {array.dtype.names}. "
            f"Try pd.DataFrame({name})"
        )
    return _from_array(array, name)


def warn_of_channels(x: Tensor) -> None:
    """Log a line for pictures that seem to have their channels last.

    A convolution would read their rows as channels.
    """
    if x.dim() == 4 and x.shape[3] in CHANNELS and x.shape[1] not in CHANNELS:
        logging.getLogger(__name__).warning(
            f"examples of the shape {list(x.shape[1:])} look like pictures with their channels "
            "last; models of pictures take [channels, height, width]. "
            "Try x.transpose(0, 3, 1, 2) of the array"
        )


def _from_tensor(values: Tensor, name: str) -> Tensor:
    if values.dim() == 0:
        raise ValueError(f"{name} must be [n, ...], and it is a single number. Try {name}[None]")
    if values.layout != torch.strided:
        _check_memory(values.shape, name)
        values = values.to_dense()
    if values.is_complex():
        raise ValueError(complex_numbers(name))
    if values.dtype == torch.uint64:
        return to_examples(values.numpy(force=True), f"{name}.numpy()")
    if values.is_floating_point() or values.dtype == torch.bool:
        kind = torch.float32
    else:
        kind = torch.uint8 if values.dtype == torch.uint8 else torch.int64
    return values.detach().to("cpu", kind).contiguous()


def _from_array(array: np.ndarray, name: str) -> Tensor:
    """Return an array as a tensor of uint8 (of bytes), int64 (of whole numbers) or float32."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return torch.from_numpy(writeable(array, np.uint8))
    if kind == "u" and array.max(initial=0) >= INT64_END:
        raise ValueError(beyond_int64(array.max(), name))
    if kind == "f":
        return torch.from_numpy(to_float32(array, name))
    if kind in "iu":
        return torch.from_numpy(writeable(array, np.int64))
    if kind == "b":
        return torch.from_numpy(writeable(array, np.float32))
    raise ValueError(_no_numbers(array, name))


def _no_numbers(array: np.ndarray, name: str) -> str:
    """Return the message for an array of complex numbers, times, texts or others."""
    if array.dtype.kind == "c":
        return complex_numbers(name)
    if array.dtype.kind in "mM":
        since = f"({name} - {name}.min())" if array.dtype.kind == "M" else name
        return (
            f"{name} must hold numbers, and it holds times ({array.dtype}). "
            f"Try {since} / np.timedelta64(1, 'D')"
        )
    value = str(array.flat[0]) if array.size else ""
    return (
        f"{name} must hold numbers, and its examples are of type {array.dtype}, such as {value!r}. "
        f"{_remedy(value, name)}"
    )


def _to_array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            return values.astype(np.float64).filled(np.nan)
        return np.asarray(values)
    if isinstance(values, list | tuple) and len(values):
        if all(map(is_picture, values)):
            return _from_pictures(values, name)
        if all(isinstance(value, Tensor) for value in values):
            values = [value.detach().cpu() for value in values]
            values = [value.float() if value.dtype == torch.bfloat16 else value for value in values]
        try:
            return exact_array(values)
        except ValueError as error:  # rows of different lengths
            shapes = [np.shape(value) for value in values]
            raise ValueError(_unequal_shapes(shapes, name)) from error
    array = np.asarray(values)
    if array.ndim == 0:
        raise ValueError(
            f"{name} must be an array [n, ...], a tensor or a frame, and it is a "
            f"{type(values).__name__}. Try np.array(...) of the examples"
        )
    return array


def _unequal_shapes(shapes: Sequence[tuple[int, ...]], name: str) -> str:
    """Return the message for examples of several shapes."""
    k = next((k for k, shape in enumerate(shapes) if shape != shapes[0]), 0)
    return (
        f"{name} must hold examples of one shape (example 0 has {list(shapes[0])}, and example {k} "
        f"{list(shapes[k])}). Try resizing pictures, or padding rows to the longest"
    )


def _from_pictures(images: Sequence[Any], name: str) -> np.ndarray:
    """Return Pillow's images as ``[n, channels, height, width]`` of bytes or real numbers."""
    kinds = {(image.mode, image.size) for image in images}
    if len(kinds) > 1:
        raise ValueError(
            f"{name} must hold pictures of one mode and size (there are "
            f"{' and '.join(map(str, sorted(kinds)[:2]))}). "
            f"Try [image.convert('RGB').resize((32, 32)) for image in {name}]"
        )
    mode = images[0].mode
    if mode not in MODES:
        is_palette = mode in ("P", "PA")
        content = "numbers of a palette's colours" if is_palette else "other numbers"
        raise ValueError(
            f"{name} must hold pictures of grey, or of red, green and blue (mode {mode!r} holds "
            f"{content}). Try [image.convert('RGB') for image in {name}]"
        )
    array = np.stack([np.asarray(image) for image in images])
    array = array if array.dtype == np.uint8 else array.astype(np.float32)
    return array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)


def _from_objects(array: np.ndarray, name: str) -> np.ndarray:
    """Return the numbers of an object array of cells, of pictures, or of arrays of one shape."""
    if array.ndim == 1 and len(array) and all(map(is_picture, array)):
        return _from_pictures(array, name)
    if array.ndim == 1 and len(array) and all(map(is_nested, array)):
        shapes = [np.shape(value) for value in array]
        if len(set(shapes)) > 1:
            raise ValueError(_unequal_shapes(shapes, name))
        return np.stack([np.asarray(value) for value in array])
    flat = array.ravel()
    numbers = np.empty(len(flat))
    for k, value in enumerate(flat):
        number = cell_number(value)
        if number is None:
            place = ", ".join(map(str, np.unravel_index(k, array.shape)))
            raise ValueError(
                f"{name}[{place}]={value!r} must be a number (all features are). "
                f"{_remedy(value, name)}"
            )
        if isinstance(value, int | np.integer) and abs(number) >= INT64_END:
            raise ValueError(beyond_int64(value, name))
        numbers[k] = number
    return numbers.reshape(array.shape)


def _remedy(value: Any, name: str) -> str:
    if isinstance(value, Mapping):
        return f"Try pd.DataFrame({name})"
    if isinstance(value, int):
        return "Try smaller numbers"
    if not isinstance(value, str):
        return f"Try numbers in place of {type(value).__name__}"
    if is_number_text(value) or value.strip() in MISSING_MARKS:
        numbers = f"pd.DataFrame({name}).apply(pd.to_numeric, errors='coerce')"
        return f"Try {numbers}, and fill missing values"
    dummies = f"pd.get_dummies(pd.DataFrame({name}), dtype=float)"
    return f"Try tabular(frame, label=...), which encodes texts, or {dummies}"


def _to_dense(matrix: Any, name: str) -> np.ndarray:
    _check_memory(matrix.shape, name)
    return matrix.astype(np.float32).toarray()


def _check_memory(shape: Sequence[int], name: str) -> None:
    """Raise ValueError for a sparse matrix whose dense copy does not fit into memory."""
    import psutil

    size = 4 * int(np.prod([int(side) for side in shape], dtype=object))
    free = psutil.virtual_memory().available
    if size > MAX_SHARE_OF_MEMORY * free:
        raise ValueError(
            f"{name} must fit into memory (it is sparse of the shape {list(shape)}: dense it takes "
            f"{size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free). "
            "Try fewer columns (max_features= of a vectorizer), or "
            f"sklearn.decomposition.TruncatedSVD(100).fit_transform({name})"
        )
