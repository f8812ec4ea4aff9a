"""Results in folders: models as safetensors, tables as CSV, to be loaded bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from fedlab.core import Experiment, Result
from fedlab.engine.storage.checksums import checksum
from fedlab.engine.storage.csv_tables import column_types, from_csv, to_csv
from fedlab.engine.storage.description import describe, plain_value
from fedlab.engine.storage.files import (
    environment,
    one_line,
    read_bytes,
    to_json,
    write_atomically,
)
from fedlab.engine.storage.folders import (
    EXPERIMENT,
    check_contents,
    folder_path,
    read_description,
)
from fedlab.engine.storage.locks import lock_folder
from fedlab.engine.storage.tensors import check_header

FORMAT = "fedlab result 2"
OLDER_FORMAT = "fedlab result 1"  # without a checksum of the description
MODELS = "w.safetensors"


def save_result(
    result: Result,
    folder: str | Path,
    experiment: Experiment | Sequence[tuple[dict, Experiment]] | None = None,
) -> None:
    """Save a result to a folder.

    The folder holds the models as ``w.safetensors``, each table as CSV, and ``experiment.json``
    with checksums and a description of what was run.

    Args:
        result: The result. Labels may be numbers, texts, truth values, None, and tuples and lists
            of these.
        folder: New or empty folder, or one that holds this very result.
        experiment: Experiment, or ``variants`` of one, to be described; None leaves it out.

    Raises:
        FileExistsError: If the folder holds anything else.
        BlockingIOError: If another process writes to it.
        ValueError: If a CSV cannot hold a table.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.engine import run
        >>> from fedlab.engine.factory import experiment
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=10)
        >>> study = experiment(digits, mlp(digits, ()), Local(0.1), rounds=2)
        >>> result = run(study)
        >>> with TemporaryDirectory() as folder:
        ...     save_result(result, folder, study)
        ...     print(sorted(path.name for path in Path(folder).iterdir()))
        ...     loaded = load_result(folder)
        ['clients.csv', 'experiment.json', 'rounds.csv', 'w.safetensors']
        >>> loaded.rounds.equals(result.rounds)
        True
    """
    import pandas as pd

    folder = folder_path(folder=folder)
    pairs = [({}, experiment)] if isinstance(experiment, Experiment) else experiment or []
    seeds = list(dict.fromkeys(result.rounds["seed"].tolist()))
    described = [
        {"labels": plain_value(labels), "seeds": seeds, **describe(variant, seeds[0])}
        for labels, variant in pairs
    ]
    tables = {
        name: value for name, value in vars(result).items() if isinstance(value, pd.DataFrame)
    }
    files = {MODELS: _models_to_bytes(result.w)}
    files |= {f"{name}.csv": to_csv(table) for name, table in tables.items()}
    words = {
        "format": FORMAT,
        "made_by": environment(),
        "experiments": described,
        "columns": {name: column_types(table) for name, table in tables.items()},
        "checksums": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    # It is written last, and makes the other files a result.
    files[EXPERIMENT] = to_json(words | {"checksum": description_checksum(words)})
    check_contents(folder, files)
    with lock_folder(folder):
        check_contents(folder, files)  # another process may have written since
        for name, content in files.items():
            write_atomically(
                folder / name, lambda fresh, content=content: fresh.write_bytes(content)
            )


def load_result(folder: str | Path) -> Result:
    """Load a result that ``save_result`` saved, bit for bit.

    Args:
        folder: Folder of the result.

    Returns:
        The result, its models on the CPU.

    Raises:
        FileNotFoundError: If the folder does not exist or is empty.
        ValueError: If a file is not as it was saved.
    """
    folder = folder_path(folder=folder)
    words = read_description(folder, FORMAT, OLDER_FORMAT, columns=dict, checksums=dict)
    if words is None:
        raise FileNotFoundError(
            f"{folder} holds no result. Try save_result(result, folder), which makes one"
        )
    path = folder / EXPERIMENT
    if words["format"] == FORMAT and words.get("checksum") != description_checksum(words):
        raise _damaged(path, "its checksum is another")
    names = [MODELS, *(f"{name}.csv" for name in words["columns"])]
    if set(words["checksums"]) != set(names):
        raise _damaged(path, f"it has checksums of {one_line(sorted(words['checksums']))}")
    files = {name: _checked_bytes(folder / name, words["checksums"][name]) for name in names}
    # The checksums fit, but another program may have changed them with the files.
    try:
        tables = words["columns"].keys()
        if unknown := tables - {field.name for field in fields(Result)} | {"w"} & tables:
            raise ValueError(f"a result has no table {min(unknown)!r}")
        loaded = {}
        for table, types in words["columns"].items():
            path = folder / f"{table}.csv"
            loaded[table] = from_csv(files[path.name], types)
        path = folder / MODELS
        return Result(_models_from_bytes(files[MODELS]), **loaded)
    except Exception as error:
        raise _damaged(path, error) from error


def _checked_bytes(path: Path, expected: Any) -> bytes:
    """Read a file, and compare its checksum."""
    try:
        content = read_bytes(path)
    except ValueError:
        content = b""
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(
            f"{path} is not as it was saved: damaged, changed or gone. Try to save the result again"
        )
    return content


def description_checksum(words: dict[str, Any]) -> str:
    """Return the checksum of everything that an ``experiment.json`` says beside it."""
    return checksum(json.dumps(words | {"checksum": ""}, sort_keys=True))


def _damaged(path: Path, reason: Any) -> ValueError:
    return ValueError(f"{path} is damaged ({one_line(reason)}). Try to save the result again")


def _models_to_bytes(rows: Sequence[Tensor]) -> bytes:
    from safetensors.torch import save

    return save({str(j): w.detach().cpu().clone() for j, w in enumerate(rows)})


def _models_from_bytes(content: bytes) -> list[Tensor]:
    from safetensors.torch import load

    check_header(content[:8], len(content))
    tensors = load(content)
    # Copies lie where PyTorch puts them, on which the last bit of a sum may depend.
    return [tensors[str(j)].clone() for j in range(len(tensors))]
