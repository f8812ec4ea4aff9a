"""Files that are all there or not at all, in folders that hold nothing else."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fedlab
from fedlab.engine.storage.description import checksum

EXPERIMENT = "experiment.json"  # in every folder of ours; its "format" says of what kind

_log = logging.getLogger(__name__)

BESIDE = (
    ".fedlab."  # how the names of half-written things begin; they end in the number of the process
)

CLAIM = f"{BESIDE}claim"  # the file that a process holds locked while it writes

MOST_WORDS = 2**26  # bytes of JSON: more than any experiment has, and read in a second

MOST_NAME, MOST_PATH = (
    255,
    4000,
)  # bytes of a name and of a whole path, as Linux has them, with room for our own files

MOST_HEADER = 2**24  # bytes of a header: some 160,000 tensors, more than any state has


def folder_path(**named: Any) -> Path:
    """Return the one folder given by keyword as a path; ValueError where no folder can have such a name."""
    ((name, folder),) = named.items()
    path = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    told = f"{name}={short(repr(folder))}"
    if not isinstance(path, str):
        raise ValueError(
            f"{told} must be a text or a Path, the name of a folder. Try {name}='results/first'"
        )
    try:
        if "\0" in path:
            raise ValueError("it has a null character")
        sizes = [len(os.fsencode(part)) for part in Path(path).parts]
    except ValueError as error:  # or what no file system encodes
        raise ValueError(
            f"{told} cannot be the name of a folder ({short(error)}). Try letters and digits"
        ) from None
    if max(sizes, default=0) > MOST_NAME or sum(sizes) + len(sizes) > MOST_PATH:
        raise ValueError(
            f"{told} must have at most {MOST_NAME} bytes in a name and {MOST_PATH:,} in all (it has {max(sizes)} and "
            f"{sum(sizes):,}). Try a shorter name"
        )
    return Path(path)


def claimed(folder: Path, *formats: str, **fields: type) -> dict[str, Any] | None:
    """What the folder's ``experiment.json`` says; None for a folder that is not there or empty.

    Raises FileExistsError for one that holds something else, ValueError for another format or a damaged file, such as one
    without the ``fields`` of these types.
    """
    if not _entries(folder):
        return None
    path = folder / EXPERIMENT
    if not path.is_file():
        raise _foreign(folder)
    try:
        told = json.loads(read(path, MOST_WORDS))
    except (ValueError, RecursionError) as error:  # no JSON, no text, or nested too deeply
        raise _damaged_words(path, error) from None
    if not isinstance(told, dict) or "format" not in told:
        raise _foreign(folder)
    if told["format"] not in formats:
        raise ValueError(
            f"{folder} holds a {short(repr(told['format']))}, not a {formats[0]!r}: give another folder"
        )
    for name, kind in fields.items():
        if name not in told:
            raise _damaged_words(path, f"it has no {name!r}")
        if not isinstance(told[name], kind):
            raise _damaged_words(
                path, f"its {name!r} is a {type(told[name]).__name__}, not a {kind.__name__}"
            )
    return told


def _damaged_words(path: Path, reason: Any) -> ValueError:
    return ValueError(
        f"{path} is damaged ({short(reason)}): move {path.parent} away, or give another folder"
    )


def short(told: Any) -> str:
    """Return a text, or what an error says, in one line of at most 120 characters."""
    text = " ".join(str(told).split()) or type(told).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def read(path: Path, most: int | None = None) -> bytes:
    """Return a file's bytes; ValueError where it is no file, or has more than ``most`` bytes.

    OSError, in one line, for a file that cannot be read.
    """
    if not path.is_file():  # a folder, or a device that never ends
        raise ValueError("it is no file" if path.exists() else "it is gone")
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            raise ValueError(f"it has {size:,} bytes, and {most:,} are the most")
        return path.read_bytes()
    except OSError as error:
        raise type(error)(
            f"{path} cannot be read ({error.strerror}): make it readable for you"
        ) from error
    except MemoryError:
        raise ValueError(f"its {size:,} bytes are more than there is memory for") from None


@contextmanager
def claim(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold the folder for this block alone, and make it where it is not there.

    The operating system locks a file in the folder, and unlocks it when its process ends, however that ends.  So no claim
    outlives a kill, whoever has the process's number next, and two that come at once cannot both have it.  The file says
    who holds it: process, host and time.  Yields a function that raises OSError where the claim is lost, as when the
    folder was deleted and made anew.

    Raises BlockingIOError, which names the process, where the folder is held already; OSError where it cannot be written.
    """
    check_writable(folder)
    path, file = folder / CLAIM, None
    while file is None:
        with _writing(folder):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        place, is_free = _place(os.fstat(file)), _lock(file)
        if not (is_free and _is_at(path, place)):
            os.close(file)
            file = None
        if not is_free:
            raise _taken(folder, path)
    process = os.getpid()
    _HELD.add(file)

    def check() -> None:
        if not _is_at(path, place):
            raise FileNotFoundError(
                f"{folder} was moved or deleted while it was in use: nothing was written; start again"
            )

    try:
        words = {
            "process": process,
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with _writing(folder):
            os.ftruncate(file, 0)
            os.write(file, json.dumps(words).encode())
        yield check
    finally:
        if os.getpid() == process:  # and no fork of it
            _HELD.discard(file)
            _release(file, path, place)


_HELD: set[int] = (
    set()
)  # open files that are locked: a fork, which inherits them, must not go on holding them

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [os.close(_HELD.pop()) for _ in range(len(_HELD))])


def _release(file: int, path: Path, place: tuple[int, int]) -> None:
    """Unlock the file and delete it: while it is still locked, except on Windows, which deletes no open file."""
    if os.name == "nt":
        os.close(file)
    if _is_at(path, place):
        with suppress(OSError):
            path.unlink()
    if os.name != "nt":
        os.close(file)


def _place(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _is_at(path: Path, place: tuple[int, int]) -> bool:
    try:
        return _place(path.stat()) == place
    except OSError:
        return False


def _lock(file: int) -> bool:
    """Whether the open file is locked now; True, with a warning, where the file system knows of no locks."""
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
            f"no two runs at once in one folder, please: its file system has no locks ({error.strerror})"
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


def _taken(folder: Path, path: Path) -> BlockingIOError:
    try:
        words = json.loads(read(path, 1000))
        who = f"process {words['process']} on {words['host']}, since {words['since']}"
    except (ValueError, OSError, KeyError, TypeError):  # it has just been locked, or unlocked
        who = "another process"
    return BlockingIOError(
        f"{folder} is in use by {who}: wait for it, stop it, or give another folder"
    )


def check_free(folder: Path, files: dict[str, bytes]) -> None:
    """FileExistsError where anything lies in the folder but these very files."""
    for name in _entries(folder):
        if (
            name not in files
            or not (folder / name).is_file()
            or (folder / name).read_bytes() != files[name]
        ):
            raise _foreign(folder)


def check_writable(folder: Path) -> None:
    """Make the folder, and clear away what processes that were killed left half written; OSError where one cannot."""
    import psutil

    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for part in folder.glob(f"{BESIDE}*"):
            process = part.name.rpartition(".")[2]
            if (
                process.isdecimal() and len(process) < 10 and not psutil.pid_exists(int(process))
            ):  # others are not ours
                shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"{folder} cannot be written ({error.strerror or error}): give a folder that can"
        ) from error


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """All or nothing: ``fill(path)`` writes into a folder beside, then the file is moved over, so that a kill leaves the
    older one or the newer.
    """
    beside = path.with_name(f"{BESIDE}{path.name}.{os.getpid()}")
    fresh = beside / path.name
    try:
        with _writing(path.parent):
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


def write_tensors(
    path: Path, told: dict[str, Any], tensors: dict[str, Tensor], experiment: str
) -> None:
    """Write tensors and JSON as one file, with a checksum of all and the digest of the ``experiment`` in its header."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    text = json.dumps(told, default=lambda number: number.item()).encode()
    tensors = tensors | {"told": torch.frombuffer(bytearray(text), dtype=torch.uint8)}

    def fill(fresh: Path) -> None:
        fresh.touch()
        mode = fresh.stat().st_mode
        save_file(
            tensors, fresh, {"checksum": _checksum(tensors, experiment), "experiment": experiment}
        )
        fresh.chmod(mode)  # safetensors lets nobody else read it

    try:
        write(path, fill)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Return the tensors, the JSON and the experiment's digest that ``write_tensors`` wrote.

    Raises ValueError where a bit of them is another, or the file is none of ours; OSError where it cannot be read.
    """
    from safetensors import safe_open

    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            check_header(file.read(8), path.stat().st_size)
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            # Copies, which lie where PyTorch would have put them: the last bit of a sum may depend on it.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            header = file.metadata() or {}
        if _checksum(tensors, header.get("experiment", "")) != header.get("checksum"):
            raise ValueError("its checksum is another")
        return tensors, json.loads(tensors.pop("told").numpy().tobytes()), header["experiment"]
    except OSError as error:
        raise type(error)(
            f"{path} cannot be read ({error.strerror or error}): make it readable for you"
        ) from error
    except (
        Exception
    ) as error:  # of whatever kind a library has for a file that is not what it should be
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ValueError:
    """The ValueError for a state that is not as it was written."""
    told = f"it has no {error}" if isinstance(error, KeyError) else short(error)
    return ValueError(f"{path} is damaged ({told}): move {path.parent} away to begin anew")


def _checksum(tensors: dict[str, Tensor], experiment: str) -> str:
    return checksum(
        experiment, *(part for name in sorted(tensors) for part in (f" {name} ", tensors[name]))
    )


def check_header(first: bytes, size: int) -> None:
    """Raise ValueError where a file of this ``size`` that begins so cannot be safetensors that are read soon."""
    header = int.from_bytes(first, "little")
    if not 8 <= 8 + header <= size:
        raise ValueError(f"its header has {header:,} bytes, and the file {size:,}")
    if header > MOST_HEADER:
        raise ValueError(f"its header has {header:,} bytes, and {MOST_HEADER:,} are the most")


def maker() -> dict[str, Any]:
    """What else a bit may depend on."""
    versions = {
        "fedlab": fedlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    processor = {"machine": platform.machine(), "vectors": torch.backends.cpu.get_cpu_capability()}
    return versions | processor | {"threads": torch.get_num_threads()}


def _entries(folder: Path) -> set[str]:
    """What lies there, but for hidden files: nothing of ours is one, except what a kill has left half written."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give a folder")
    return (
        {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        if folder.exists()
        else set()
    )


def _foreign(folder: Path) -> FileExistsError:
    names = sorted(_entries(folder))
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return FileExistsError(
        f"{folder} holds something else ({listed}): nothing was written; give a new or an empty folder"
    )
