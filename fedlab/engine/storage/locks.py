"""Locks: while a process writes to a folder, no other one does."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from fedlab.engine.storage.files import TEMPORARY, read_bytes, write_errors
from fedlab.engine.storage.folders import prepare_folder

LOCK_FILE = f"{TEMPORARY}claim"

_log = logging.getLogger(__name__)

# Open files that are locked: a fork, which inherits them, must not hold them, too.
_HELD: set[int] = set()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [os.close(_HELD.pop()) for _ in range(len(_HELD))])


@contextmanager
def lock_folder(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold a folder for this process alone while the block runs, and make it if necessary.

    The operating system locks a file in the folder, and unlocks it when the process ends, however
    that happens. So no lock outlives a killed process, and of two processes that come at once one
    gets it. The file names the holder: process, host and time.

    Args:
        folder: The folder.

    Yields:
        A function that raises OSError if the lock is lost, because the folder was deleted.

    Raises:
        BlockingIOError: If another process holds the folder; the error names it.
        OSError: If the folder cannot be written.
    """
    prepare_folder(folder)
    path, file = folder / LOCK_FILE, None
    while file is None:
        with write_errors(folder):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        inode, is_free = _inode(os.fstat(file)), _lock(file)
        if not (is_free and _is_at(path, inode)):
            os.close(file)
            file = None
        if not is_free:
            raise _in_use(folder, path)
    process = os.getpid()
    _HELD.add(file)

    def check() -> None:
        if not _is_at(path, inode):
            raise FileNotFoundError(
                f"{folder} was moved or deleted while it was in use, so that nothing was written. "
                "Try to start again"
            )

    try:
        _write_holder(file, folder)
        yield check
    finally:
        if os.getpid() == process:  # and no fork of it
            _HELD.discard(file)
            _release(file, path, inode)


def _write_holder(file: int, folder: Path) -> None:
    """Write into the lock file which process holds it."""
    words = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with write_errors(folder):
        os.ftruncate(file, 0)
        os.write(file, json.dumps(words).encode())


def _release(file: int, path: Path, inode: tuple[int, int]) -> None:
    """Unlock the file and delete it, in this order only on Windows: it deletes no open file."""
    if os.name == "nt":
        os.close(file)
    if _is_at(path, inode):
        with suppress(OSError):
            path.unlink()
    if os.name != "nt":
        os.close(file)


def _inode(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _is_at(path: Path, inode: tuple[int, int]) -> bool:
    """Return True if this very file lies at the path."""
    try:
        return _inode(path.stat()) == inode
    except OSError:
        return False


def _lock(file: int) -> bool:
    """Lock an open file; return False if another process holds it.

    A file system without locks gives a warning, and the file counts as locked.
    """
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.warning(
            "the file system of this folder has no locks (%s). Do not use it for two runs at once",
            error.strerror,
        )
    return True


def _lock_on_windows(file: int) -> bool:
    import msvcrt

    os.lseek(file, 2**30, os.SEEK_SET)  # beyond the words, which others may read
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    os.lseek(file, 0, os.SEEK_SET)
    return True


def _in_use(folder: Path, path: Path) -> BlockingIOError:
    """Return the error for a folder that another process holds."""
    try:
        words = json.loads(read_bytes(path, 1000))
        holder = f"process {words['process']} on {words['host']}, since {words['since']}"
    except (ValueError, OSError, KeyError, TypeError):  # it has just been locked, or unlocked
        holder = "another process"
    return BlockingIOError(
        f"{folder} is in use by {holder}. Try another folder, or wait for that process or stop it"
    )
