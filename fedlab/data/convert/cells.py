"""Single values of tables and lists (numbers, texts, missing ones), and arrays of them."""

from __future__ import annotations

import sys
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

MISSING_MARKS = {  # texts that stand for a missing value
    *("?", "", "-", "NA", "N/A", "NaN", "nan", "None", "null")
}
INT64_END = 2**63  # a number from here on would wrap to a negative int64


def is_frame(values: Any) -> bool:
    """Return whether the values are a DataFrame of pandas, not importing it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(values, pandas.DataFrame)


def is_series(values: Any) -> bool:
    """Return whether the values are a Series, Index or array of pandas, not importing it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(
        values, pandas.Series | pandas.Index | pandas.api.extensions.ExtensionArray
    )


def is_nested(value: Any) -> bool:
    """Return whether a cell is an array, a list or a picture, and so an example by itself."""
    return isinstance(value, np.ndarray | list | tuple | Tensor) or is_picture(value)


def is_picture(value: Any) -> bool:
    """Return whether a value is an image of Pillow."""
    return hasattr(value, "getbands")


def is_missing_mark(cell: Any) -> bool:
    """Return whether a cell of a table stands for no value: missing, or a text such as ``?``.

    Example:
        >>> [is_missing_mark(cell) for cell in (None, float("nan"), " ? ", "0", 0)]
        [True, True, True, False, False]
    """
    return cell.strip() in MISSING_MARKS if isinstance(cell, str) else is_missing(cell)


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or pandas' NA or NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def missing_mask(values: np.ndarray) -> np.ndarray:
    """Return a mask, of the shape of the values, that is True where one is missing."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind != "O":
        return np.isnat(values) if values.dtype.kind in "mM" else np.zeros(values.shape, bool)
    return np.array([is_missing(value) for value in values.flat], bool).reshape(values.shape)


def plain_type(value: Any) -> str:
    """Return the name of a value's type, the same for numbers of NumPy and of Python."""
    kinds = {
        "bool": bool | np.bool_,
        "int": int | np.integer,
        "float": float | np.floating,
        "str": str,
    }
    return next((kind for kind, types in kinds.items() if isinstance(value, types)), None) or (
        type(value).__name__
    )


def is_boolean(array: np.ndarray) -> bool:
    """Return whether all values of an object array are booleans."""
    return array.dtype.kind == "O" and all(
        isinstance(value, bool | np.bool_) for value in array.flat
    )


def cell_number(value: Any) -> float | None:
    """Return a cell as a number, NaN if it is missing, or None if it is no number.

    Example:
        >>> cell_number(2), cell_number(None), cell_number("2")
        (2.0, nan, None)
    """
    if isinstance(value, Real | Decimal | np.bool_) and not isinstance(value, np.timedelta64):
        with suppress(OverflowError):
            return float(value)
        return None
    return np.nan if value is None or type(value).__name__ in ("NAType", "NaTType") else None


def is_number_text(text: str) -> bool:
    """Return whether a text is a number in writing."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def exact_array(values: Any) -> np.ndarray:
    """Return the values as an array that rounds no whole number.

    NumPy would make reals of a list with whole numbers beyond int64: such a list becomes an array
    of objects.
    """
    array = np.asarray(values)
    if not (isinstance(values, list | tuple) and array.dtype.kind == "f" and array.size):
        return array
    first = values
    while isinstance(first, list | tuple):
        first = first[0]
    if np.asarray(first).dtype.kind in "iu":
        size = np.abs(array)
        if ((size >= INT64_END) & np.isfinite(size)).any():
            return np.asarray(values, dtype=object)
    return array


def writeable(array: np.ndarray, kind: type) -> np.ndarray:
    """Return the array with this type, contiguous and writeable, so that PyTorch can share it."""
    return np.require(np.asarray(array), kind, ["C", "W"])


def to_float32(array: np.ndarray, name: str) -> np.ndarray:
    """Return the array as float32; raise ValueError for finite values beyond its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = writeable(array, np.float32)
        total = numbers.sum(dtype=np.float64)
    if array.dtype.itemsize > 4 and not np.isfinite(total):
        too_large = np.isinf(numbers) & np.isfinite(array)
        if too_large.any():
            place = tuple(np.argwhere(too_large)[0].tolist())
            raise ValueError(
                f"{name}{list(place)}={array[place]:g} must be below 3.4e+38 (where float32 ends). "
                f"Try standardising: ({name} - {name}.mean(0)) / {name}.std(0)"
            )
    return numbers


def beyond_int64(value: Any, name: str) -> str:
    """Return the message for a feature that no int64 holds."""
    return (
        f"{name} must hold whole numbers below 2**63 (int64), and it holds {value}. "
        f"Try np.array({name}, float), or (np.array({name}, object) % 2**20).astype(int) for "
        "hashed features with a table of 2**20 rows"
    )


def complex_numbers(name: str) -> str:
    """Return the message for complex features."""
    return (
        f"{name} must hold real numbers, and it holds complex numbers. "
        "Try np.concatenate([x.real, x.imag], 1), or np.abs(x)"
    )
