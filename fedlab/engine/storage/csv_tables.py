"""Tables as CSV files that load bit for bit; a column of mixed types holds JSON."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.engine.storage.files import one_line

if TYPE_CHECKING:
    import pandas as pd

_JSON_TYPES = ("object", "str or none")

_TYPES = re.compile(r"(?:int|uint|float)(?:8|16|32|64)|bool|str|object|str or none")


def to_csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV.

    Raises:
        ValueError: If a column has a type, or a cell a value, that a CSV cannot hold.
    """
    mixed = {
        name: table[name].map(_cell_to_json)
        for name in table
        if _column_type(table[name]) in _JSON_TYPES
    }
    return table.assign(**mixed).to_csv(index=False, lineterminator="\n").encode()


def column_types(table: pd.DataFrame) -> dict[str, str]:
    """Return the type of each column, with which ``from_csv`` reads it."""
    return {name: _column_type(table[name]) for name in table}


def _column_type(column: pd.Series) -> str:
    kind = str(column.dtype)
    if kind == "str" and column.isna().any():
        return "str or none"
    if not _TYPES.fullmatch(kind):
        raise ValueError(
            f"the column {column.name!r} of type {kind} has no place in a CSV. Try numbers or texts"
        )
    return kind


def from_csv(content: bytes, types: dict[str, str]) -> pd.DataFrame:
    """Return the table that ``to_csv`` wrote, of these columns and types.

    Raises:
        ValueError: If there is no such type.
    """
    import pandas as pd

    if not types:
        return pd.DataFrame()
    texts = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, lineterminator="\n")
    return pd.DataFrame({name: _read_column(texts[name], kind) for name, kind in types.items()})


def _read_column(texts: pd.Series, kind: str) -> Any:
    """Return the values of a column from their texts."""
    import pandas as pd

    if not _TYPES.fullmatch(kind):
        raise ValueError(f"no column has the type {kind!r}")
    if kind in _JSON_TYPES:
        values = [_from_json(json.loads(text)) for text in texts]
        return pd.Series(values, dtype="str" if kind == "str or none" else object)
    if kind in ("str", "bool"):
        return texts if kind == "str" else texts == "True"
    # NumPy reads a float to the nearest one, pandas does not always.
    return np.array(texts.replace("", "nan"), dtype=str).astype(kind)


def _cell_to_json(value: Any) -> str:
    return json.dumps(_to_json(value, value))


def _to_json(value: Any, label: Any) -> Any:
    """Return a part of a label by values that JSON can hold."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (tuple, list):
        return {type(value).__name__: [_to_json(part, label) for part in value]}
    raise ValueError(
        f"the label {one_line(repr(label))} has no place in a CSV. "
        "Try numbers, texts, None or tuples"
    )


def _from_json(packed: Any) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((kind, parts),) = packed.items()
    return {"tuple": tuple, "list": list}[kind](map(_from_json, parts))
