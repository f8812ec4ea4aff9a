"""Files that are all there or not at all, in folders that hold nothing else."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fedlab
from fedlab.storage.description import checksum

EXPERIMENT = "experiment.json"  # in every folder of ours; its "format" says of what kind
BESIDE = ".fedlab."  # how the names of half-written things begin; they end in the number of the process


def claimed(folder: Path, format: str, *fields: str) -> dict[str, Any] | None:
    """What the folder's ``experiment.json`` says; None for a folder that is not there or empty.

    Raises FileExistsError for one that holds something else, ValueError for another format or a damaged file, such as one
    without the ``fields``.
    """
    if not _entries(folder):
        return None
    path = folder / EXPERIMENT
    if not path.is_file():
        raise _foreign(folder)
    try:
        told = json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is damaged ({error}): move {folder} away, or give another folder") from None
    if not isinstance(told, dict) or "format" not in told:
        raise _foreign(folder)
    if told["format"] != format:
        raise ValueError(f"{folder} holds a {told['format']!r}, not a {format!r}: give another folder")
    for name in fields:
        if name not in told:
            raise ValueError(f"{path} is damaged (it has no {name!r}): move {folder} away, or give another folder")
    return told


def check_free(folder: Path, files: dict[str, bytes]) -> None:
    """FileExistsError where anything lies in the folder but these very files."""
    for name in _entries(folder):
        if name not in files or not (folder / name).is_file() or (folder / name).read_bytes() != files[name]:
            raise _foreign(folder)


def check_writable(folder: Path) -> None:
    """Make the folder, and clear away what processes that were killed left half written; OSError where one cannot."""
    import psutil

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for part in folder.glob(f"{BESIDE}*"):
            process = part.name.rpartition(".")[2]
            if process.isdigit() and not psutil.pid_exists(int(process)):
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise type(error)(f"{folder} cannot be written ({error.strerror}): give a folder that can") from error


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """All or nothing: ``fill(path)`` writes into a folder beside, then the file is moved over, so that a kill leaves the
    older one or the newer.
    """
    beside = path.with_name(f"{BESIDE}{path.name}.{os.getpid()}")
    fresh = beside / path.name
    try:
        beside.mkdir(exist_ok=True)
        fill(fresh)
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_json(path: Path, told: dict[str, Any]) -> None:
    write(path, lambda fresh: fresh.write_bytes(as_json(told)))


def as_json(told: Any) -> bytes:
    return (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()


def write_tensors(path: Path, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Tensors and JSON in one file, with a checksum of all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    text = json.dumps(told, default=lambda number: number.item()).encode()
    tensors = tensors | {"told": torch.frombuffer(bytearray(text), dtype=torch.uint8)}

    def fill(fresh: Path) -> None:
        fresh.touch()
        mode = fresh.stat().st_mode
        save_file(tensors, fresh, {"checksum": checksum(*(tensors[name] for name in sorted(tensors)))})
        fresh.chmod(mode)  # safetensors lets nobody else read it

    try:
        write(path, fill)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write_tensors`` wrote; ValueError where a bit of it is another."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            # Copies, which lie where PyTorch would have put them: the last bit of a sum may depend on it.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            wanted = (file.metadata() or {}).get("checksum")
        if checksum(*tensors.values()) != wanted:
            raise ValueError("its checksum is another")
        return tensors, json.loads(tensors.pop("told").numpy().tobytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): move {path.parent} away to begin anew") from error


def maker() -> dict[str, Any]:
    """What else a bit may depend on."""
    versions = {"fedlab": fedlab.__version__, "python": platform.python_version(), "torch": torch.__version__}
    return versions | {"machine": platform.machine(), "threads": torch.get_num_threads()}


def _entries(folder: Path) -> set[str]:
    """What lies there, but for hidden files: nothing of ours is one, except what a kill has left half written."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give a folder")
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()


def _foreign(folder: Path) -> FileExistsError:
    names = sorted(_entries(folder))
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return FileExistsError(f"{folder} holds something else ({listed}): nothing was written; give a new or an empty folder")
