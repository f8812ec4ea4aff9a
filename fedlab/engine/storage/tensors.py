"""Files of tensors and JSON with a checksum: the states of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedlab.engine.storage.checksums import checksum
from fedlab.engine.storage.files import one_line, unreadable, write_atomically

MAX_HEADER = 2**24  # bytes of a header: some 160,000 tensors, more than any state has

JSON = "json"  # name of the tensor that holds the JSON


def write_tensors(
    path: Path, values: dict[str, Any], tensors: dict[str, Tensor], experiment: str
) -> None:
    """Write tensors and JSON as one safetensors file, completely or not at all.

    Args:
        path: Path of the file.
        values: Values that JSON can hold.
        tensors: Tensors by name.
        experiment: Digest of the experiment that they belong to. It stands in the file's header,
            with a checksum of everything.

    Raises:
        OSError: If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    text = json.dumps(values, default=lambda number: number.item()).encode()
    tensors = tensors | {JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    header = {"checksum": tensors_checksum(tensors, experiment), "experiment": experiment}

    def fill(fresh: Path) -> None:
        fresh.touch()
        mode = fresh.stat().st_mode
        save_file(tensors, fresh, header)
        fresh.chmod(mode)  # safetensors makes it readable for its owner only

    try:
        write_atomically(path, fill)
    except SafetensorError as error:
        raise OSError(
            f"{path} cannot be written ({one_line(error)}). Try a folder that can be"
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Read a file of ``write_tensors``.

    Returns:
        The tensors, the JSON values, and the digest of the experiment.

    Raises:
        ValueError: If a bit of the file has changed, or it is another kind of file.
        OSError: If it cannot be read.
    """
    from safetensors import safe_open

    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            check_header(file.read(8), path.stat().st_size)
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            # Copies lie where PyTorch puts them, on which the last bit of a sum may depend.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            header = file.metadata() or {}
        if tensors_checksum(tensors, header.get("experiment", "")) != header.get("checksum"):
            raise ValueError("its checksum is another")
        return tensors, json.loads(tensors.pop(JSON).numpy().tobytes()), header["experiment"]
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # a damaged file may raise any kind
        raise damaged_state(path, error) from error


def damaged_state(path: Path, error: Exception) -> ValueError:
    """Return the error for a state that is not as it was written."""
    reason = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
    return ValueError(
        f"{path} is damaged ({reason}). Try to move {path.parent} away, which starts anew"
    )


def tensors_checksum(tensors: dict[str, Tensor], experiment: str) -> str:
    """Return the checksum of tensors, their names, and the experiment's digest."""
    return checksum(
        experiment, *(part for name in sorted(tensors) for part in (f" {name} ", tensors[name]))
    )


def check_header(first: bytes, size: int) -> None:
    """Raise ValueError if the header of a safetensors file does not fit its size.

    A header that is larger than any state's is refused, too: reading it could take forever.
    """
    header = int.from_bytes(first, "little")
    if not 8 <= 8 + header <= size:
        raise ValueError(f"its header has {header:,} bytes, and the file {size:,}")
    if header > MAX_HEADER:
        raise ValueError(f"its header has {header:,} bytes, and may have {MAX_HEADER:,} at most")
