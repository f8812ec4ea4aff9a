"""Files of reports: read with care, and replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlab.lab.report.answer import is_answer

# Files of a report, beside run.json.
REPORT_FILES = ("report.html", "executed.ipynb", "metrics.json", "thumbnail.png")

_REMEDIES = {
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "free some space and run again",
    errno.EEXIST: "a file stands where this folder belongs; move it away",
    errno.ENOTDIR: "a file stands where a folder belongs; move it away",
}


class ReportError(Exception):
    """A mistake that the user can mend, in one line.

    Attributes:
        code: Exit status of the command: 2 for wrong arguments, 1 for everything else.
    """

    def __init__(self, message: object, code: int = 2):
        super().__init__(" ".join(str(message).split()))
        self.code = code


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, None if it is missing or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


def to_json(value: Any) -> bytes:
    """Return a value as the text of a JSON file."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content; a missing file counts as an empty one."""
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a value that JSON can hold.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def is_run(run: Any) -> bool:
    """Return whether a value has all parts of a report's ``run.json``."""
    kinds = {
        **dict.fromkeys(("key", "page_key", "status", "reason", "finished"), str),
        **dict.fromkeys(("parameters", "changed", "versions", "files"), dict),
        "seconds": (int, float),
        "headline": (str, type(None)),
    }
    if not isinstance(run, dict) or not all(
        isinstance(run.get(name, ...), kind) for name, kind in kinds.items()
    ):
        return False
    if "answer" in run and run["answer"] != [] and not is_answer(run["answer"]):
        return False  # reports of before have none
    live, panels = run.get("live", 0.0), run.get("panels", [])  # older runs have neither
    if not isinstance(live, int | float) or not 0 <= live < math.inf or not _are_costs(panels):
        return False
    hashed = all(isinstance(checksum, str) for checksum in run["files"].values())
    return hashed and run["files"].keys() <= set(REPORT_FILES) and math.isfinite(run["seconds"])


def _are_costs(panels: Any) -> bool:
    return isinstance(panels, list) and all(
        isinstance(panel, dict) and isinstance(panel.get("seconds"), int | float)
        for panel in panels
    )


def is_numbers(numbers: Any) -> bool:
    """Return whether a value has all parts of a report's ``metrics.json``."""
    if not isinstance(numbers, dict) or not isinstance(numbers.get("parameters"), dict):
        return False
    rows, mean = numbers.get("metrics"), (int, float, type(None))
    names = {"name", "unit", "expected", "tolerance", "headline", "seeds", "mean"}
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and names <= row.keys()
        and isinstance(row["name"], str)
        and isinstance(row["mean"], mean)
        for row in rows
    )


def publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of a folder in order, the last one last.

    All are first written under other names, so a full disk changes nothing.

    Raises:
        ReportError: If the folder cannot be written.
    """
    drafts = {folder / f".{name}.{os.getpid()}.tmp": name for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for draft, name in drafts.items():
            draft.write_bytes(files[name])
        for draft, name in drafts.items():
            os.replace(draft, folder / name)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    finally:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.unlink()


def require_writable(folder: Path) -> None:
    """Raise ReportError unless files can be written: before an hour is spent on a run."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"?")
        probe.unlink()
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _cannot_write(folder: Path, error: OSError) -> ReportError:
    remedy = _REMEDIES.get(error.errno, "make it writable for you, or work on a copy")
    return ReportError(f"cannot write to {folder}: {error.strerror or error}; {remedy}", code=1)


def remove_drafts(folder: Path) -> None:
    """Remove half-written files of processes that were killed, in all folders below."""
    import psutil

    for draft in folder.glob("**/.*.tmp"):
        owner = draft.name.split(".")[-2]
        if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
            with contextlib.suppress(OSError):
                draft.unlink()
