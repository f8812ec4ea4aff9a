"""Files that are written completely or not at all, and read with errors of one line."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import fedlab

# First characters of the names of unfinished files; they end in the number of the process.
TEMPORARY = ".fedlab."


def one_line(reason: Any) -> str:
    """Return a text, or the message of an error, as one line of at most 120 characters.

    Example:
        >>> one_line("  two   words ")
        'two words'
        >>> one_line(ValueError())  # without a message
        'ValueError'
    """
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def read_bytes(path: Path, max_size: int | None = None) -> bytes:
    """Return the bytes of a file.

    Raises:
        ValueError: If it is no file, or larger than ``max_size`` bytes or the free memory.
        OSError: If it cannot be read.
    """
    if not path.is_file():  # a folder, or a device that never ends
        raise ValueError("it is no file" if path.exists() else "it is gone")
    try:
        size = path.stat().st_size
        if max_size is not None and size > max_size:
            raise ValueError(f"it has {size:,} bytes, and may have {max_size:,} at most")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError:
        raise ValueError(f"its {size:,} bytes are more than the free memory") from None


def unreadable(path: Path, error: OSError) -> OSError:
    """Return the error for a file that cannot be read, of the same type."""
    reason = error.strerror or error
    return type(error)(f"{path} cannot be read ({reason}). Try to make it readable for you")


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into one that names the folder and a remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"{folder} cannot be written ({reason}). Try a folder that can be"
        ) from error


def write_atomically(path: Path, fill: Callable[[Path], Any]) -> None:
    """Write a file completely or not at all, even if the process is killed.

    Args:
        path: Path of the file.
        fill: Function that writes the file at the path that it receives, in a folder beside.
            The file is then moved into place.

    Raises:
        OSError: If the folder cannot be written.
    """
    beside = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    fresh = beside / path.name
    try:
        with write_errors(path.parent):
            beside.mkdir(exist_ok=True)
            fill(fresh)
            with fresh.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(fresh, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file completely or not at all."""
    write_atomically(path, lambda fresh: fresh.write_bytes(to_json(values)))


def to_json(values: Any) -> bytes:
    """Return values as indented JSON in UTF-8, with a final newline."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def environment() -> dict[str, Any]:
    """Return the versions, the processor and the threads, on which the last bit may depend."""
    versions = {
        "fedlab": fedlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    processor = {"machine": platform.machine(), "vectors": torch.backends.cpu.get_cpu_capability()}
    return versions | processor | {"threads": torch.get_num_threads()}
