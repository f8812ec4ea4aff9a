"""Folders of checkpoints and results, which hold nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fedlab.engine.storage.files import TEMPORARY, one_line, read_bytes, write_errors

EXPERIMENT = "experiment.json"  # in each of these folders; its "format" names the kind of folder

MAX_DESCRIPTION = 2**26  # bytes of JSON: more than any experiment has, and read in a second

# Bytes of a name and of a whole path, as Linux has them, with room for the files within.
MAX_NAME, MAX_PATH = 255, 4000


def folder_path(**named: Any) -> Path:
    """Return the one folder given by keyword as a path.

    Raises:
        ValueError: If no folder can have such a name.

    Example:
        >>> folder_path(checkpoint="results/first").parts
        ('results', 'first')
        >>> folder_path(checkpoint=5)
        Traceback (most recent call last):
            ...
        ValueError: checkpoint=5 must be a text or a Path, the name of a folder. Try \
checkpoint='results/first'
    """
    ((name, folder),) = named.items()
    path = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    setting = f"{name}={one_line(repr(folder))}"
    if not isinstance(path, str):
        raise ValueError(
            f"{setting} must be a text or a Path, the name of a folder. Try {name}='results/first'"
        )
    try:
        if "\0" in path:
            raise ValueError("it has a null character")
        sizes = [len(os.fsencode(part)) for part in Path(path).parts]
    except ValueError as error:  # or characters that no file system encodes
        raise ValueError(
            f"{setting} cannot be the name of a folder ({one_line(error)}). Try letters and digits"
        ) from None
    if max(sizes, default=0) > MAX_NAME or sum(sizes) + len(sizes) > MAX_PATH:
        raise ValueError(
            f"{setting} must have at most {MAX_NAME} bytes in a name and {MAX_PATH:,} in all (it "
            f"has {max(sizes)} and {sum(sizes):,}). Try a shorter name"
        )
    return Path(path)


def read_description(folder: Path, *formats: str, **fields: type) -> dict[str, Any] | None:
    """Read the ``experiment.json`` of a folder.

    Args:
        folder: The folder.
        formats: Formats that are accepted, the newest one first.
        fields: Types of the fields that it must have.

    Returns:
        The description; None if the folder does not exist or is empty.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If the format is another one, or the file is damaged.
    """
    if not entries(folder):
        return None
    path = folder / EXPERIMENT
    if not path.is_file():
        raise foreign_folder(folder)
    try:
        words = json.loads(read_bytes(path, MAX_DESCRIPTION))
    except (ValueError, RecursionError) as error:  # no JSON, no text, or nested too deeply
        raise _damaged(path, error) from None
    if not isinstance(words, dict) or "format" not in words:
        raise foreign_folder(folder)
    if words["format"] not in formats:
        raise ValueError(
            f"{folder} holds a {one_line(repr(words['format']))}, not a {formats[0]!r}. "
            "Try another folder"
        )
    for name, kind in fields.items():
        if name not in words:
            raise _damaged(path, f"it has no {name!r}")
        if not isinstance(words[name], kind):
            actual = type(words[name]).__name__
            raise _damaged(path, f"its {name!r} is a {actual}, not a {kind.__name__}")
    return words


def _damaged(path: Path, reason: Any) -> ValueError:
    return ValueError(
        f"{path} is damaged ({one_line(reason)}). Try to move {path.parent} away, or another folder"
    )


def check_contents(folder: Path, files: dict[str, bytes]) -> None:
    """Raise FileExistsError if the folder holds anything but these very files."""
    for name in entries(folder):
        if (
            name not in files
            or not (folder / name).is_file()
            or (folder / name).read_bytes() != files[name]
        ):
            raise foreign_folder(folder)


def prepare_folder(folder: Path) -> None:
    """Make a folder, and remove the unfinished files of processes that were killed.

    Raises:
        OSError: If it cannot be written.
    """
    import psutil

    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for part in folder.glob(f"{TEMPORARY}*"):
            process = part.name.rpartition(".")[2]  # other names are not ours
            is_number = process.isdecimal() and len(process) < 10
            if is_number and not psutil.pid_exists(int(process)):
                shutil.rmtree(part, ignore_errors=True)


def entries(folder: Path) -> set[str]:
    """Return the names in a folder; empty if it does not exist.

    Hidden files do not count: ours are only those that a killed process left unfinished.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} must be a folder, and is a file. Try another name")
    if not folder.exists():
        return set()
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def foreign_folder(folder: Path) -> FileExistsError:
    """Return the error for a folder that holds something else."""
    names = sorted(entries(folder))
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return FileExistsError(
        f"{folder} holds something else ({listed}), and must be new or empty. Try another folder"
    )
