"""Columns of pandas frames as numbers, and checks of frames that go together."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from fedlab.data.convert.cells import (
    MISSING_MARKS,
    cell_number,
    complex_numbers,
    is_frame,
    is_number_text,
    is_series,
)


def frame_numbers(frame: Any, name: str = "x") -> np.ndarray:
    """Return a frame of numbers and booleans as float64 ``[n, columns]``.

    Args:
        frame: The DataFrame.
        name: The argument's name, for errors.

    Raises:
        ValueError: If a value is missing or is no number; the message names column, row and remedy.

    Example:
        >>> import pandas as pd
        >>> frame_numbers(pd.DataFrame({"age": [40, 50], "ill": [True, False]})).tolist()
        [[40.0, 1.0], [50.0, 0.0]]
    """
    numbers = np.empty((len(frame), frame.shape[1]))
    for k, label in enumerate(frame.columns):
        numbers[:, k] = _column_numbers(frame.iloc[:, k], label, name)
    missing = np.isnan(numbers)
    if missing.any():
        row, k = np.argwhere(missing)[0]
        filled = f"{name}.astype(float).fillna({name}.astype(float).mean())"
        raise ValueError(
            f"column {frame.columns[k]!r} of {name} must have a value at row {row} "
            f"({missing[:, k].sum()} of {len(frame)} have none). "
            f"Try tabular(frame, label=...), which fills missing values, or {filled}"
        )
    return numbers


def check_index(**columns: Any) -> None:
    """Raise ValueError if frames or Series that go together have different indexes.

    Their rows would be mixed up.
    """
    tables = {
        name: values for name, values in columns.items() if is_frame(values) or is_series(values)
    }
    for first, second in pairwise(tables):
        a, b = tables[first], tables[second]
        if not (hasattr(a, "index") and hasattr(b, "index")):
            continue  # a bare categorical or nullable array has no index
        if len(a) == len(b) and not a.index.equals(b.index):
            raise ValueError(
                f"{second} must have the index of {first} (their indexes differ, so their rows do "
                f"not belong together). Try {second}.loc[{first}.index], or {second}.to_numpy() if "
                "the order is right"
            )


def check_columns(x: Any, test: Any) -> None:
    """Raise ValueError unless a test frame has the training frame's columns, in its order."""
    if is_frame(x) and is_frame(test) and list(x.columns) != list(test.columns):
        absent = [column for column in x.columns if column not in set(test.columns)]
        if absent:
            raise ValueError(
                f"the test frame must have the columns of x (it lacks {absent[0]!r}). "
                "Try the same table for both"
            )
        raise ValueError(
            "the columns of the test frame must be in the order of x. "
            "Try test=(x_test[x.columns], y_test)"
        )


def _column_numbers(column: Any, label: Any, name: str) -> np.ndarray:
    """Return a column of a frame as float64 ``[n]``, NaN where a value is missing."""
    import pandas as pd

    kind, types = column.dtype, pd.api.types
    full = f"{name}[{label!r}]"
    if types.is_datetime64_any_dtype(kind) or types.is_timedelta64_dtype(kind):
        start = "" if types.is_timedelta64_dtype(kind) else f" - {full}.min()"
        raise ValueError(
            f"column {label!r} of {name} must hold numbers, and it holds times. "
            f"Try {full} = ({full}{start}) / pd.Timedelta('1D')"
        )
    if types.is_complex_dtype(kind):
        raise ValueError(complex_numbers(f"column {label!r} of {name}"))
    if types.is_bool_dtype(kind) or types.is_numeric_dtype(kind):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if isinstance(kind, pd.CategoricalDtype):
        value = column.iloc[0] if len(column) else None
        raise ValueError(
            f"column {label!r} of {name} must hold numbers, and it is categorical, such as "
            f"{value!r}. Try tabular(frame, label=...), which encodes it, or "
            f"pd.get_dummies({name}, dtype=float)"
        )
    return _object_numbers(column.to_numpy(dtype=object), label, name)


def _object_numbers(cells: np.ndarray, label: Any, name: str) -> np.ndarray:
    """Return the cells of a column of mixed types as float64, NaN where one is missing."""
    numbers, texts = np.empty(len(cells)), []
    for k, cell in enumerate(cells):
        number = cell_number(cell)
        if number is None and not isinstance(cell, str):
            raise ValueError(
                f"{name}[{label!r}][{k}]={cell!r} must be a number (all features are). "
                f"Try {name}.drop(columns=[{label!r}]), or numbers in its place"
            )
        if number is None:
            texts.append(k)
        numbers[k] = np.nan if number is None else number
    if texts:
        raise ValueError(_text_message(cells, texts, label, name))
    return numbers


def _text_message(cells: np.ndarray, texts: list[int], label: Any, name: str) -> str:
    """Return the message for a column with texts at some rows, with a remedy that suits them."""
    others = [k for k in texts if not is_number_text(cells[k])]
    first = (others or texts)[0]
    full = f"{name}[{label!r}]"
    problem = f"{full}[{first}]={cells[first]!r} must be a number (all features are)"
    if not others:
        return f"{problem}. Try {full} = pd.to_numeric({full})"
    if {cells[k].strip() for k in others} <= MISSING_MARKS:
        remedy = f"{full} = pd.to_numeric({full}, errors='coerce') and fill it"
        return f"{problem}. Try tabular(frame, label=...), which fills missing values, or {remedy}"
    dummies = f"pd.get_dummies({name}, dtype=float)"
    return f"{problem}. Try tabular(frame, label=...), which encodes texts, or {dummies}"
