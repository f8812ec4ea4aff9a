"""Results that come back bit for bit, in files that other programs read."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fedlab.core import Experiment, Result
from fedlab.engine.storage.description import checksum, describe, plain_value
from fedlab.engine.storage.files import (
    EXPERIMENT,
    as_json,
    check_free,
    check_header,
    claim,
    claimed,
    folder_path,
    maker,
    read,
    short,
    write,
)

if TYPE_CHECKING:
    import pandas as pd


FORMAT, OLDER, MODELS = (
    "fedlab result 2",
    "fedlab result 1",
    "w.safetensors",
)  # the older one has no checksum of its words


def save_result(
    result: Result,
    folder: str | Path,
    experiment: Experiment | Sequence[tuple[dict, Experiment]] | None = None,
) -> None:
    """Keep a result: the models as ``w.safetensors``, each table as CSV, what was run and checksums as ``experiment.json``.

    ``experiment`` is what was run, or the ``variants`` of it; without it, the JSON does not tell.
    Labels may be numbers, texts, truth values, None, and tuples and lists of these.

    Raises FileExistsError where the folder holds anything else, BlockingIOError where another process writes to it,
    ValueError for a table that no CSV can hold.
    """
    import pandas as pd

    folder = folder_path(folder=folder)
    pairs = [({}, experiment)] if isinstance(experiment, Experiment) else experiment or []
    seeds = list(dict.fromkeys(result.rounds["seed"].tolist()))
    told = [
        {"labels": plain_value(labels), "seeds": seeds, **describe(one, seeds[0])}
        for labels, one in pairs
    ]
    tables = {
        name: value for name, value in vars(result).items() if isinstance(value, pd.DataFrame)
    }
    files = {MODELS: _as_safetensors(result.w)} | {
        f"{name}.csv": _as_csv(table) for name, table in tables.items()
    }
    about = {
        "format": FORMAT,
        "made_by": maker(),
        "experiments": told,
        "columns": {
            name: {column: _kind(table[column]) for column in table}
            for name, table in tables.items()
        },
        "checksums": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files[EXPERIMENT] = as_json(
        about | {"checksum": _of_words(about)}
    )  # the last one written, which makes the others a result
    check_free(folder, files)
    with claim(folder):
        check_free(folder, files)  # still, and from now on
        for name, content in files.items():
            write(folder / name, lambda fresh, content=content: fresh.write_bytes(content))


def load_result(folder: str | Path) -> Result:
    """A result that ``save_result`` kept, every bit of it; models come on the CPU.

    Raises FileNotFoundError where there is none, ValueError for a file that is not as it was saved.
    """
    folder = folder_path(folder=folder)
    told = claimed(folder, FORMAT, OLDER, columns=dict, checksums=dict)
    if told is None:
        raise FileNotFoundError(f"{folder} holds no result: save_result(result, folder) makes one")
    if told["format"] == FORMAT and told.get("checksum") != _of_words(told):
        raise _damaged(folder / EXPERIMENT, "its checksum is another")
    names = [MODELS, *(f"{name}.csv" for name in told["columns"])]
    if set(told["checksums"]) != set(names):
        raise _damaged(
            folder / EXPERIMENT, f"it has checksums of {short(sorted(told['checksums']))}"
        )
    files = {}
    for name in names:
        wanted = told["checksums"][name]
        try:
            files[name] = read(folder / name)
        except ValueError:
            files[name] = b""
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise ValueError(
                f"{folder / name} is not as it was saved: damaged, changed or gone; save the result again"
            )
    name = EXPERIMENT
    try:
        if (
            unknown := told["columns"].keys() - {field.name for field in fields(Result)}
            | {"w"} & told["columns"].keys()
        ):
            raise ValueError(f"a result has no table {min(unknown)!r}")
        tables = {}
        for table, kinds in told["columns"].items():
            name = f"{table}.csv"
            tables[table] = _from_csv(files[name], kinds)
        name = MODELS
        return Result(_from_safetensors(files[name]), **tables)
    except (
        Exception
    ) as error:  # of whatever kind: the checksums fit, but the words may have been changed, too
        raise _damaged(folder / name, error) from error


def _of_words(told: dict[str, Any]) -> str:
    """The checksum of all that an ``experiment.json`` says beside it."""
    return checksum(json.dumps(told | {"checksum": ""}, sort_keys=True))


def _damaged(path: Path, reason: Any) -> ValueError:
    return ValueError(f"{path} is damaged ({short(reason)}); save the result again")


def _as_safetensors(rows: Sequence[Tensor]) -> bytes:
    from safetensors.torch import save

    return save({str(j): w.detach().cpu().clone() for j, w in enumerate(rows)})


def _from_safetensors(content: bytes) -> list[Tensor]:
    from safetensors.torch import load

    check_header(content[:8], len(content))
    tensors = load(content)
    return [
        tensors[str(j)].clone() for j in range(len(tensors))
    ]  # where PyTorch would have put them


def _as_csv(table: pd.DataFrame) -> bytes:
    """A column of mixed kinds, such as labels, becomes JSON."""
    mixed = {name: table[name].map(_cell) for name in table if _kind(table[name]) in _IN_JSON}
    return table.assign(**mixed).to_csv(index=False, lineterminator="\n").encode()


_IN_JSON = ("object", "str or none")

_KINDS = re.compile(r"(?:int|uint|float)(?:8|16|32|64)|bool|str|object|str or none")


def _kind(column: pd.Series) -> str:
    kind = str(column.dtype)
    if kind == "str" and column.isna().any():
        return "str or none"
    if not _KINDS.fullmatch(kind):
        raise ValueError(
            f"the column {column.name!r} of type {kind} has no place in a CSV: make it numbers or texts"
        )
    return kind


def _from_csv(content: bytes, kinds: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    if not kinds:
        return pd.DataFrame()
    texts = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, lineterminator="\n")
    return pd.DataFrame({name: _column(texts[name], kind) for name, kind in kinds.items()})


def _column(texts: pd.Series, kind: str) -> Any:
    """The values of a column, from their texts."""
    import pandas as pd

    if not _KINDS.fullmatch(kind):
        raise ValueError(f"no column has the type {kind!r}")
    if kind in _IN_JSON:
        values = [_value(json.loads(text)) for text in texts]
        return pd.Series(values, dtype="str" if kind == "str or none" else object)
    if kind in ("str", "bool"):
        return texts if kind == "str" else texts == "True"
    return np.array(texts.replace("", "nan"), dtype=str).astype(
        kind
    )  # parsed by NumPy, to the nearest


def _cell(value: Any) -> str:
    return json.dumps(_packed(value, value))


def _packed(value: Any, label: Any) -> Any:
    """The value as JSON knows it; ``label`` is what it is a part of."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (tuple, list):
        return {type(value).__name__: [_packed(part, label) for part in value]}
    raise ValueError(
        f"the label {short(repr(label))} has no place in a CSV: let labels be numbers, texts, None or tuples"
    )


def _value(packed: Any) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((kind, parts),) = packed.items()
    return {"tuple": tuple, "list": list}[kind](map(_value, parts))
