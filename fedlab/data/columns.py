"""Columns of a table as numbers, or as levels of a category."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.data.convert import is_missing_mark

if TYPE_CHECKING:
    import pandas as pd

EXACT = 2**53  # up to which float64 holds every whole number
MANY_LEVELS = 50  # more different texts may be the names of rows


def is_category(frame: pd.DataFrame, column: str, named: bool) -> bool:
    """Return whether a column is categorical: texts, pandas' categories, or named by the user.

    Args:
        frame: The table.
        column: The column's name.
        named: Whether the user says that it is categorical.

    Raises:
        ValueError: If the column holds times, numbers as texts, or names of rows.
    """
    import pandas as pd

    kind = frame[column].dtype
    if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        days = f"(frame[{column!r}] - frame[{column!r}].min()) / pd.Timedelta('1D')"
        raise ValueError(
            f"column {column!r} must hold numbers or categories, and it holds times. Try {days}"
        )
    if named or isinstance(kind, pd.CategoricalDtype):
        return True
    if _is_numeric(frame, column):
        return False
    texts = [cell for cell in _cells(frame, column) if isinstance(cell, str)]
    if all(map(_is_number, texts)):
        return False
    _check_texts(column, texts, len(frame))
    return True


def read_numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as float64 ``[n]``, NaN where a cell is missing."""
    if _is_numeric(frame, column):
        values = _reals(frame, column)
        wrong = np.isinf(values)
    else:
        cells = _cells(frame, column)
        wrong = np.array([cell is not None and not _is_number(cell) for cell in cells], dtype=bool)
        pairs = zip(cells, wrong, strict=True)
        values = np.array([np.nan if cell is None or bad else float(cell) for cell, bad in pairs])
        wrong |= np.isinf(values)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = frame[column].tolist()[row]
        remedy = f"frame.replace({value!r}, None), or categorical=[{column!r}]"
        if isinstance(value, bytes):
            remedy = f"frame[{column!r}] = frame[{column!r}].str.decode('utf-8')"
        elif not np.isscalar(value):
            remedy = f"frame.drop(columns=[{column!r}])"
        raise ValueError(
            f"column {column!r} must hold finite numbers, and it has {value!r} at row {row}. "
            f"Try {remedy}"
        )
    return values


def read_levels(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return the level of each row, ``[n]``: numbers, or texts if any cell is one.

    Numbers in writing count as numbers. A missing value is NaN among numbers, None among texts.
    """
    if _is_numeric(frame, column):
        values = _reals(frame, column)
    else:
        cells = _cells(frame, column)
        if not all(cell is None or _is_number(cell) for cell in cells):
            return np.array([None if cell is None else str(cell) for cell in cells], dtype=object)
        values = np.array([np.nan if cell is None else float(cell) for cell in cells])
    if (np.abs(values[np.isfinite(values)]) > EXACT).any():
        full = f"frame[{column!r}]"
        raise ValueError(
            f"column {column!r} must have categories up to {EXACT:,} (beyond it, float64 takes "
            f"different ones for equal). Try {full} = 'n' + {full}.astype(str)"
        )
    return values


def level_numbers(values: np.ndarray, levels: tuple) -> np.ndarray:
    """Return the number of each row's level, ``[n]``; -1 if it is missing or not among them.

    Example:
        >>> level_numbers(np.array(["m", None, "x"], dtype=object), ("f", "m")).tolist()
        [1, -1, -1]
    """
    import pandas as pd

    has_texts = isinstance(levels[0], str)
    if values.dtype.kind == "f" and has_texts:  # only the training rows had texts, too
        values = np.array(
            [None if np.isnan(value) else f"{value:g}" for value in values], dtype=object
        )
    if values.dtype.kind == "O" and not has_texts:
        values = np.array([float(value) if _is_number(value) else np.nan for value in values])
    return pd.Index(np.array(levels, dtype=values.dtype)).get_indexer(values)


def find_levels(frame: pd.DataFrame, column: str) -> tuple:
    """Return a column's levels in the training rows, in the order of categories or sorted.

    Raises:
        ValueError: If no row has a value.

    Example:
        >>> import pandas as pd
        >>> find_levels(pd.DataFrame({"sex": ["m", "f", "?"]}), "sex")
        ('f', 'm')
    """
    import pandas as pd

    values = read_levels(frame, column)
    if values.dtype.kind == "f":
        numbers = np.unique(values[np.isfinite(values)]).tolist()
        present = [int(value) if value == int(value) else value for value in numbers]
    else:
        present = sorted({value for value in values if value is not None})
    if not present:
        raise ValueError(no_value(column))
    kind = frame[column].dtype
    if isinstance(kind, pd.CategoricalDtype) and values.dtype.kind == "O":
        return tuple(level for level in map(str, kind.categories) if level in set(present))
    return tuple(present)


def no_value(column: str) -> str:
    """Return the message for a column that is empty in all training rows."""
    return (
        f"column {column!r} must have a value in a training row. "
        f"Try frame.drop(columns=[{column!r}])"
    )


def is_column(frame: pd.DataFrame, name: Any) -> bool:
    """Return whether a value is the name of a column."""
    return isinstance(name, Hashable) and name in frame.columns


def owner_column(frame: pd.DataFrame, owner: Any) -> Any:
    """Return the owner of each row, from a column's name or as it is.

    Raises:
        ValueError: If ``owner`` is a name, and no column has it.
    """
    if is_column(frame, owner):
        return frame[owner]
    if isinstance(owner, str | int):
        remedy = "frame.reset_index()" if owner in frame.index.names else "owner=None"
        raise ValueError(
            f"owner={owner!r} must be a column of the table (there are {list(frame.columns)}). "
            f"Try {remedy}"
        )
    return owner


def check_table(frame: Any, label: str) -> None:
    """Raise ValueError unless the table is a frame with rows and with the label's column."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            f"the table must be a DataFrame, and it is a {type(frame).__name__}. "
            "Try pd.DataFrame(rows)"
        )
    if not frame.columns.is_unique:
        name = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(
            f"the columns of the table must differ, and several are named {name!r}. "
            "Try frame.columns = [...]"
        )
    if not isinstance(label, Hashable):
        several = f"federate(frame.drop(columns={label!r}), frame[{label!r}]) for several targets"
        raise ValueError(
            f"label={label!r} must be the name of one column. "
            f"Try label={[*label, 'name'][0]!r}, or {several}"
        )
    if label not in frame.columns:
        raise ValueError(
            f"label={label!r} must be a column of the table. Try one of {list(frame.columns)}"
        )
    if len(frame) == 0:
        raise ValueError("the table must have a row (there is nothing to train on). Try more rows")


def _check_texts(column: str, texts: Sequence[str], n: int) -> None:
    """Raise ValueError if the texts of ``n`` rows are numbers in writing, or row names."""
    full, otherwise = f"frame[{column!r}]", f"or categorical=[{column!r}] if it is a category"
    text = next(text for text in texts if not _is_number(text))
    if all(_is_number(re.sub(r"[,%\s]", "", text)) for text in texts):
        # points between thousands, before a decimal comma
        points = any(re.search(r"\..*,", text) for text in texts)
        comma = points or any(re.search(r"^\D*0|,(\d{1,2}|\d{4,})\D*$", text) for text in texts)
        marks = f"[%\\s{'.' if points else ''}{'' if comma else ','}]"
        clean = f"{full}.str.replace(r'{marks}', '', regex=True)"
        clean += ".str.replace(',', '.')" if comma else ""
        raise ValueError(
            f"column {column!r} must hold numbers, and it holds numbers as texts, such as "
            f"{text!r}. Try {full} = pd.to_numeric({clean}), {otherwise}"
        )
    levels = len(set(texts))
    if levels > MANY_LEVELS and levels > n / 2:
        raise ValueError(
            f"column {column!r} must hold repeated categories, and it has {levels:,} different "
            f"texts in {n:,} rows, such as {text!r}, as names of rows have. "
            f"Try frame.drop(columns=[{column!r}]), {otherwise}"
        )


def _is_numeric(frame: pd.DataFrame, column: str) -> bool:
    import pandas as pd

    kind = frame[column].dtype
    return pd.api.types.is_bool_dtype(kind) or pd.api.types.is_numeric_dtype(kind)


def _reals(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column of numbers as float64, NaN where one is missing."""
    import pandas as pd

    if pd.api.types.is_complex_dtype(frame[column].dtype):
        full = f"frame[{column!r}]"
        raise ValueError(
            f"column {column!r} must hold real numbers, and it holds complex numbers. "
            f"Try {full} = np.abs({full}), or np.real and np.imag of it in two columns"
        )
    return frame[column].to_numpy(dtype=np.float64, na_value=np.nan)


def _cells(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as objects, None where a cell is missing or a mark such as ``?``."""
    cells = frame[column].to_numpy(dtype=object)
    return np.array([None if is_missing_mark(cell) else cell for cell in cells], dtype=object)


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
