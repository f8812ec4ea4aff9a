"""Labels of any kind as class numbers, or as targets of a regression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.data.convert.cells import (
    exact_array,
    is_boolean,
    is_frame,
    is_series,
    missing_mask,
    plain_type,
    to_float32,
    writeable,
)
from fedlab.data.convert.classes import (
    are_class_numbers,
    check_flat,
    is_whole,
    number_names,
    number_values,
)
from fedlab.data.convert.frames import frame_numbers


def to_labels(
    labels: Sequence[Any], classes: Sequence[str] | None = None, name: str = "y"
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return the labels of the training and test examples as tensors, and the class names.

    Texts, booleans and categories become class numbers in the order of the sorted names (of the
    categories). Whole numbers are class numbers from 0; 1 to K are renumbered, and a log line says
    so. Reals ``0.0, 1.0, ...`` without a gap are class numbers, too; other reals are targets of a
    regression. ``classes=()`` makes targets of any numbers. A log line names classes without an
    example.

    Args:
        labels: One or more of: array, tensor, list, Series, frame of one column.
        classes: The names of the classes, by their numbers; or empty for a regression.
        name: The argument's name, for errors.

    Returns:
        A tensor for each of ``labels``, int64 for classes or float32 for targets; and the names,
        empty for targets.

    Raises:
        ValueError: If a label is missing, out of range or no label at all; the message names the
            remedy.

    Example:
        >>> (y,), names = to_labels([[0.5, 1.5]])
        >>> y.dtype, names
        (torch.float32, ())
    """
    names = None if classes is None else _class_names(classes)
    columns = [_label_column(column, name) for column in labels]
    if names == ():
        columns = [(a.astype(float) if is_boolean(a) else a, order) for a, order in columns]
    if all(array.dtype.kind in "OU" for array, _ in columns):
        return number_names(columns, names, name)
    for array, _ in columns:
        if array.dtype.kind in "OU":
            raise ValueError(
                f"{name} must hold labels of one kind (there are texts, such as "
                f"{array.flat[0]!r}, and numbers). Try {name}.astype(str) for both"
            )
    arrays = [array for array, _ in columns]
    if names == ():
        return [torch.from_numpy(to_float32(array, name)) for array in arrays], ()
    for array in arrays:
        check_flat(array, name)
    if all(map(is_whole, arrays)) and (names or are_class_numbers(arrays, name)):
        return number_values(arrays, names, name)
    if names:
        raise ValueError(
            f"{name}: label {_first_fraction(arrays)} must be a class number, because "
            f"{len(names)} classes are named. Try classes=()"
        )
    return [torch.from_numpy(_target_array(array, name)) for array in arrays], ()


def _first_fraction(arrays: list[np.ndarray]) -> Any:
    """Return the first label that is not whole."""
    array = next(array for array in arrays if not is_whole(array))
    if array.dtype.kind != "f":
        return array.flat[0]
    return array.flat[np.flatnonzero(array != np.round(array))[0]]


def _target_array(array: np.ndarray, name: str) -> np.ndarray:
    return to_float32(array, name) if array.dtype.kind == "f" else writeable(array, np.int64)


def _class_names(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, Mapping):
        raise ValueError(
            f"classes must list names by number, and it is a dict of {len(classes)}. "
            "Try list(classes.values())"
        )
    if not isinstance(classes, Iterable):
        raise ValueError(
            f"classes={classes!r} must be the names of the classes. Try classes=range({classes})"
        )
    names = tuple(map(str, classes))
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise ValueError(
            f"classes must differ ({twice[0]!r} is listed twice). Try a name of its own for each"
        )
    return names


def _label_column(y: Any, name: str) -> tuple[np.ndarray, list | None]:
    """Return labels as an array of numbers or objects, and the order of categories or None."""
    if isinstance(y, str):
        raise ValueError(
            f"{name}={y!r} must be one label per example, not one text. Try {name}=frame[{y!r}]"
        )
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        y = (y.float() if y.dtype in (torch.bfloat16, torch.float16) else y).numpy()
    if is_frame(y):
        y = _one_column(y, name)
    if is_series(y):
        y, categories = _from_series(y, name)
        if categories is not None:
            return y, categories
    array = y.filled(np.nan) if isinstance(y, np.ma.MaskedArray) and y.dtype.kind == "f" else y
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        _check_present(np.ma.getmaskarray(array), np.full(array.shape, "masked"), name)
    try:
        array = exact_array(array)
    except ValueError as error:
        raise ValueError(
            f"{name} must hold one label per example (they have different lengths). "
            "Try [label[0] for label in y]"
        ) from error
    if array.ndim == 0:
        raise ValueError(
            f"{name} must be [n], one label per example, and it is a {type(y).__name__}. "
            f"Try a list of labels"
        )
    return _typed_labels(array, name), None


def _typed_labels(array: np.ndarray, name: str) -> np.ndarray:
    """Return labels as numbers, or as objects if they are texts or booleans."""
    kind = array.dtype.kind
    if array.ndim == 2 and array.shape[1] == 1 and (kind != "f" or is_whole(array)):
        array = array[:, 0]
    if kind in "SU":
        return (np.char.decode(array, "utf-8") if kind == "S" else array).astype(object)
    if kind == "b":
        return array.astype(object)
    if kind == "O":
        return _object_labels(array, name)
    if kind not in "iuf":
        raise ValueError(
            f"{name} must hold class numbers or names, and its labels are of type {array.dtype}. "
            f"Try {name}.astype(str)"
        )
    return array


def _from_series(y: Any, name: str) -> tuple[np.ndarray, list | None]:
    """Return the labels of a Series as an array, and the order of categories or None."""
    import pandas as pd

    y = pd.Series(y)
    types = pd.api.types
    if isinstance(y.dtype, pd.CategoricalDtype):
        _check_present(y.isna().to_numpy(), y.to_numpy(dtype=object), name)
        return y.to_numpy(dtype=object), list(y.cat.categories)
    is_numeric = types.is_numeric_dtype(y.dtype) and not types.is_bool_dtype(y.dtype)
    if not is_numeric or y.isna().any():
        _check_present(y.isna().to_numpy(), y.to_numpy(dtype=object), name)
        return y.to_numpy(dtype=object), None
    whole = np.uint64 if types.is_unsigned_integer_dtype(y.dtype) else np.int64
    return y.to_numpy(dtype=whole if types.is_integer_dtype(y.dtype) else np.float64), None


def _one_column(frame: Any, name: str) -> Any:
    """Return the labels of a frame: its one column, or rows of several targets."""
    if frame.shape[1] == 1:
        return frame.iloc[:, 0]
    values = frame_numbers(frame, name)
    if frame.shape[1] and ((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all():
        raise ValueError(
            f"{name} must be one column of labels, and it has {frame.shape[1]} columns of 0 and 1, "
            f"one for each class. Try {name}.idxmax(axis=1)"
        )
    return values


def _object_labels(array: np.ndarray, name: str) -> np.ndarray:
    """Return an object array's labels as numbers if all are numbers, else unchanged."""
    _check_present(missing_mask(array), array, name)
    kinds = sorted({plain_type(value) for value in array.flat})
    if set(kinds) <= {"int", "float"}:
        with suppress(OverflowError):
            return array.astype(np.float64 if "float" in kinds else np.int64)
        raise ValueError(
            f"{name} must hold labels below 2**63 (int64), and it holds {max(array.flat, key=abs)}."
            f" Try np.unique(np.array({name}, dtype=object), return_inverse=True)[1] for classes, "
            f"or np.array({name}, float) for numbers to predict"
        )
    remedy = f"Try [str(label) for label in {name}]"
    if len(kinds) > 1:
        raise ValueError(
            f"{name} must hold labels of one type (there are several: {', '.join(kinds)}). {remedy}"
        )
    if kinds and kinds[0] not in ("str", "bool"):
        raise ValueError(
            f"{name} must hold numbers or texts, and its labels are of type {kinds[0]}. {remedy}"
        )
    return array


def _check_present(missing: np.ndarray, values: Any, name: str) -> None:
    """Raise ValueError if a label is missing."""
    if missing.any():
        first, count = np.flatnonzero(missing)[0], missing.sum()
        value = np.asarray(values, dtype=object).flat[first]
        raise ValueError(
            f"{name}[{first}]={value} must be a label ({count} of {missing.size} examples have "
            "none). Try leaving these rows out"
        )
