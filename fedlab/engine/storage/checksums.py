"""Checksums of numbers and texts, and descriptions of arrays and data by checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import FederatedDataset

# Entries of a list or dict, or thousands of characters of a text, above which a checksum stands
# for the rest.
MAX_SHOWN = 50


def checksum(*values: Tensor | np.ndarray | str) -> str:
    """Return the first half of the SHA-256 of texts and of numbers, their types and shapes.

    Example:
        >>> checksum("a text")
        '734194ede5b063e654d63cb95a682ca1'
        >>> checksum(np.zeros(2)) == checksum(np.zeros(2, np.float32))  # another type
        False
    """
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, str):
            digest.update(value.encode(errors="surrogatepass"))
            continue
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(_tensor_bytes(value) if isinstance(value, Tensor) else _array_bytes(value))
    return digest.hexdigest()[:32]


def _tensor_bytes(value: Tensor) -> np.ndarray:
    value = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
    value = value.cpu().resolve_conj().resolve_neg().contiguous()
    return value.reshape(-1).view(torch.uint8).numpy()


def _array_bytes(value: np.ndarray) -> bytes | np.ndarray:
    if value.dtype.hasobject:
        return repr(value.tolist()).encode()
    value = np.ascontiguousarray(value)
    return value.tobytes() if value.dtype.kind in "mMUSV" else value


def bytes_checksum(content: bytes | bytearray) -> str:
    """Return the checksum of bytes."""
    return checksum(np.frombuffer(content, np.uint8))


def describe_array(value: Tensor | np.ndarray, describe: Callable[[Any], Any]) -> dict[str, Any]:
    """Describe a tensor or an array by its shape, type and checksum.

    ``describe`` describes the mask of a masked array, and the objects of an array of objects.
    """
    described = {"shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return described | {"values": describe(value.tolist())}
    if isinstance(value, np.ma.MaskedArray):
        described["mask"] = describe(np.ma.getmaskarray(value))
    with suppress(RuntimeError, NotImplementedError):  # a tensor without numbers, as on "meta"
        described["checksum"] = checksum(value)
    return described


def shorten_list(described: list) -> list | dict:
    """Replace a long list by its length, first entry and checksum."""
    if len(described) <= MAX_SHOWN:
        return described
    return {
        "length": len(described),
        "first": described[0],
        "checksum": checksum(json.dumps(described)),
    }


def shorten_dict(described: dict) -> dict:
    """Replace a long dict by its length and checksum."""
    if len(described) <= MAX_SHOWN:
        return described
    return {
        "length": len(described),
        "checksum": checksum(json.dumps(described, sort_keys=True)),
    }


def describe_dataset(data: FederatedDataset) -> dict[str, Any]:
    """Describe data by their sizes and one checksum of all examples, parts and classes."""
    sizes, parts = data.sizes, np.concatenate([np.empty(0, int), *data.parts])
    return {
        "name": data.name,
        "clients": data.num_clients,
        "examples": len(data.y),
        "test_examples": len(data.test[1]),
        "shape": list(data.x.shape[1:]),
        "classes": len(data.classes),
        "checksum": checksum(data.x, data.y, *data.test, sizes, parts, json.dumps(data.classes)),
    }
