"""Columns of texts out of a file, a frame or a list of dicts, with a remedy for bad cells."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from fedlab.data.text_files import read_frame


def read_columns(source: Any, columns: Mapping[str, str]) -> Any:
    """Return the named columns of a source as a DataFrame whose columns are their roles.

    Labels and owners lose the spaces around them, and categories of labels keep their order.

    Args:
        source: The path of a file, a DataFrame, a dict of columns, or a list of dicts.
        columns: The column of each role: "text", "prompt", "response", "label" or "owner".

    Raises:
        ValueError: If a column is absent, or a cell is empty; the message names the remedy.

    Example:
        >>> rows = [{"mail": "hi", "from": " ann "}]
        >>> read_columns(rows, {"text": "mail", "owner": "from"}).values.tolist()
        [['hi', 'ann']]
    """
    import pandas as pd

    place = str(source) if isinstance(source, str | Path) else "the table"
    if isinstance(source, str | Path):
        frame = read_frame(Path(source))
    else:
        frame = source if isinstance(source, pd.DataFrame) else _to_frame(source)
    for role, column in columns.items():
        _check_column(frame, role, column, place)
    table = pd.DataFrame(
        {role: frame[column].to_numpy(dtype=object) for role, column in columns.items()}
    )
    if len(table) == 0:
        raise ValueError(f"{place} must have a row (there is no text to read). Try another table")
    for role, column in columns.items():
        _check_cells(table, role, column, place)
    for role in table.columns.intersection(["label", "owner"]):
        table[role] = [cell.strip() if isinstance(cell, str) else cell for cell in table[role]]
    if "label" in columns and isinstance(frame[columns["label"]].dtype, pd.CategoricalDtype):
        table["label"] = frame[columns["label"]].array  # in the order of its categories
    return table


def as_numbers(columns: Sequence[Any]) -> list[Any]:
    """Return labels that are whole numbers in writing, as in a CSV file, as numbers.

    Other labels, such as ``007``, stay as they are.

    Example:
        >>> import pandas as pd
        >>> as_numbers([pd.Series(["1", "0"])])[0].tolist()
        [1, 0]
    """
    if any(hasattr(labels, "cat") for labels in columns):
        return list(columns)
    cells = (cell for labels in columns for cell in labels)
    if all(isinstance(cell, str) and re.fullmatch(r"0|[1-9]\d{0,8}", cell) for cell in cells):
        return [labels.map(int).to_numpy(dtype=np.int64) for labels in columns]
    return [labels.to_numpy(dtype=object) for labels in columns]


def joined_texts(table: Any) -> list[str]:
    """Return each row's text: its text, or its prompt and its response on two lines."""
    if "text" in table:
        return table["text"].tolist()
    pairs = zip(table["prompt"], table["response"], strict=True)
    return [f"{prompt}\n{response}" for prompt, response in pairs]


def _to_frame(source: Any) -> Any:
    """Return a list of dicts, or a dict of columns, as a frame."""
    import pandas as pd

    if isinstance(source, Mapping):
        return pd.DataFrame(source)
    if isinstance(source, pd.Series):
        raise ValueError(
            "the table must have named columns, and it is a Series. Try series.to_frame('text')"
        )
    if source is None or isinstance(source, Real) or not isinstance(source, Iterable):
        raise ValueError(
            "the table must be a path, a DataFrame or a list of dicts, and it is a "
            f"{type(source).__name__}. Try pd.DataFrame(rows)"
        )
    rows = list(source)
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            f"the table must be a list of dicts, and it is one of {type(rows[0]).__name__}. "
            "Try [{'text': text} for text in texts]"
        )
    return pd.DataFrame(rows)


def _check_column(frame: Any, role: str, column: Any, place: str) -> None:
    """Raise ValueError unless a role's column is one column of the frame."""
    import pandas as pd

    if not isinstance(column, Hashable):
        raise ValueError(
            f"{role}={column!r} must be the name of one column. Try {role}={[*column, role][0]!r}"
        )
    if column not in frame.columns:
        close = get_close_matches(str(column), [str(name) for name in frame.columns], n=1)
        name = close[0] if close else next(iter(frame.columns), role)
        raise ValueError(
            f"{role}={column!r} must be a column of {place} (there are {list(frame.columns)}). "
            f"Try {role}={name!r}"
        )
    if not isinstance(frame[column], pd.Series):
        raise ValueError(
            f"{place} must have one column {column!r}, and it has {frame[column].shape[1]}. "
            "Try frame.columns = [...] with a name for each"
        )


def _check_cells(table: Any, role: str, column: Any, place: str) -> None:
    """Raise ValueError if a cell of a role is empty, or is no text where texts must be."""
    empty = table[role].isna() if role in ("label", "owner") else ~table[role].map(_is_text)
    empty |= table[role].map(lambda cell: isinstance(cell, str) and not cell.strip())
    if empty.any():
        row = int(np.flatnonzero(empty)[0])
        cell = table[role][row]
        article = "an" if role == "owner" else "a"
        raise ValueError(
            f"column {column!r} of {place} must hold {article} {role} in row {row}, and it holds "
            f"{cell!r} "
            f"({empty.sum()} of {len(table)} rows have none). "
            f"Try {_remedy(cell, f'frame[{column!r}]')}"
        )


def _remedy(cell: Any, column: str) -> str:
    """Return code that makes a text of a cell that is none, or leaves its row out."""
    import pandas as pd

    if isinstance(cell, str):
        return f"frame[{column}.str.strip() != ''], or to fill it"
    if not isinstance(cell, tuple | list | np.ndarray):
        return (
            f"frame[{column}.notna()], or to fill it" if pd.isna(cell) else f"{column}.astype(str)"
        )
    if len(cell):
        if all(isinstance(turn, Mapping) and turn for turn in cell):  # a conversation
            key = "content" if "content" in cell[-1] else list(cell[-1])[-1]
            prompt, response = (
                f"{column}.map(lambda turns: turns[{k}][{key!r}])" for k in (-2, -1)
            )
            columns = f"prompt={prompt}, response={response}"
            return f"read_texts(frame.assign({columns}), prompt='prompt', response='response')"
        if all(map(_is_text, cell)):
            return f"{column}.map(' '.join)"
    return f"{column}.astype(str)"


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)
