"""Results that come back bit for bit, in files that other programs read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fedlab.records import Experiment, Result
from fedlab.storage.description import describe, plain
from fedlab.storage.files import EXPERIMENT, as_json, check_free, check_writable, claimed, maker, write

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "fedlab result 1"


def save(
    result: Result, folder: str | Path, experiment: Experiment | Sequence[tuple[dict, Experiment]] | None = None
) -> None:
    """Keep a result: the models as ``w.safetensors``, each table as CSV, what was run and checksums as ``experiment.json``.

    ``experiment`` is what was run, or the ``variants`` of it; without it, the JSON does not tell.
    Raises FileExistsError where the folder holds anything else, ValueError for a table that no CSV can hold.
    """
    import pandas as pd

    folder = Path(folder)
    pairs = [({}, experiment)] if isinstance(experiment, Experiment) else experiment or []
    seeds = list(dict.fromkeys(result.rounds["seed"].tolist()))
    told = [{"labels": plain(labels), "seeds": seeds, **describe(one, seeds[0])} for labels, one in pairs]
    tables = {name: value for name, value in vars(result).items() if isinstance(value, pd.DataFrame)}
    files = {"w.safetensors": _as_safetensors(result.w)} | {f"{name}.csv": _as_csv(table) for name, table in tables.items()}
    about = {
        "format": FORMAT,
        "made_by": maker(),
        "experiments": told,
        "columns": {name: {column: str(kind) for column, kind in table.dtypes.items()} for name, table in tables.items()},
        "checksums": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files[EXPERIMENT] = as_json(about)  # the last one written, which makes the others a result
    check_free(folder, files)
    check_writable(folder)
    for name, content in files.items():
        write(folder / name, lambda fresh, content=content: fresh.write_bytes(content))


def load(folder: str | Path) -> Result:
    """A result that ``save`` kept, every bit of it; models come on the CPU.

    Raises FileNotFoundError where there is none, ValueError for a file that is not as it was saved.
    """
    folder = Path(folder)
    told = claimed(folder, FORMAT, "columns", "checksums")
    if told is None:
        raise FileNotFoundError(f"{folder} holds no result: storage.save(result, folder) makes one")
    files = {}
    for name, checksum in told["checksums"].items():
        files[name] = (folder / name).read_bytes() if (folder / name).exists() else b""
        if hashlib.sha256(files[name]).hexdigest() != checksum:
            raise ValueError(f"{folder / name} is not as it was saved: damaged, changed or gone; save the result again")
    tables = {name: _from_csv(files[f"{name}.csv"], kinds) for name, kinds in told["columns"].items()}
    return Result(_from_safetensors(files["w.safetensors"]), **tables)


def _as_safetensors(rows: Sequence[Tensor]) -> bytes:
    from safetensors.torch import save

    return save({str(j): w.detach().cpu().clone() for j, w in enumerate(rows)})


def _from_safetensors(content: bytes) -> list[Tensor]:
    from safetensors.torch import load

    tensors = load(content)
    return [tensors[str(j)].clone() for j in range(len(tensors))]  # where PyTorch would have put them


def _as_csv(table: pd.DataFrame) -> bytes:
    """A column of mixed kinds, such as labels, becomes JSON."""
    mixed = {name: table[name].map(_cell) for name, kind in table.dtypes.items() if str(kind) == "object"}
    return table.assign(**mixed).to_csv(index=False, lineterminator="\n").encode()


def _from_csv(content: bytes, kinds: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    if not kinds:
        return pd.DataFrame()
    texts = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, lineterminator="\n")
    return pd.DataFrame({name: _column(texts[name], kind) for name, kind in kinds.items()})


def _column(texts: pd.Series, kind: str) -> Any:
    """The values of a column, from their texts."""
    if kind == "object":
        return texts.map(json.loads).astype(object)
    if kind in ("str", "bool"):
        return texts if kind == "str" else texts == "True"
    return np.array(texts.replace("", "nan"), dtype=str).astype(kind)  # parsed by NumPy, to the nearest


def _cell(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return json.dumps(value)
    raise ValueError(f"the label {value!r} has no place in a CSV: let labels be numbers or texts")
