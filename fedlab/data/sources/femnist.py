"""Federated EMNIST: characters by writer, in the SQLite database of TensorFlow Federated."""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from fedlab.core import FederatedDataset, generator
from fedlab.data.arrays import divide, to_arrays
from fedlab.data.cache import locate
from fedlab.data.partition import Split

_WRITERS = (
    "SELECT client_id, num_examples FROM client_metadata WHERE split_name = ? ORDER BY client_id"
)
_ROWS = (
    "SELECT serialized_example_proto FROM examples "
    "WHERE split_name = ? AND client_id = ? ORDER BY rowid"
)


def femnist(clients: int | None, split: Split | None, seed: int) -> FederatedDataset:
    """Return the characters of ``clients`` writers, or of all writers divided by ``split``.

    Args:
        clients: The number of writers, drawn under ``seed``; None for all 3,400.
        split: A division of all writers' characters, in place of writers as clients.
        seed: The seed of the draw or of the split.

    Raises:
        ValueError: If there are fewer writers than ``clients``.
    """
    import sqlite3

    path = locate("femnist", "emnist_all.sqlite")
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
        writers = [writer for writer, _ in base.execute(_WRITERS, ["all_train"])]
        if split is None and clients is not None:
            if not 1 <= clients <= len(writers):
                raise ValueError(
                    f"clients={clients} must be from 1 to {len(writers)} (femnist has so many "
                    "writers). Try clients=None for all"
                )
            drawn = generator(seed, "writers").choice(len(writers), clients, replace=False)
            writers = [writers[i] for i in sorted(drawn)]
        x, y, owner = _read_examples(base, "all_train", writers)
        x_test, y_test, test_owner = _read_examples(base, "all_test", writers)
    classes = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
    data = to_arrays(x, y, (x_test, y_test), classes, "femnist")
    if split is None:
        return divide(data, len(writers), None, seed, (owner, test_owner))
    return divide(data, clients, split, seed)


def _read_examples(
    base, split: str, writers: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pictures ``[n, 1, 28, 28]``, labels ``[n]``, and the index of each one's writer.

    Ink is 1 on 0; in the database it is 0 on 1.
    """
    counts = dict(base.execute(_WRITERS, [split]))
    sizes = [counts.get(writer, 0) for writer in writers]
    x, y = np.empty((sum(sizes), 1, 28, 28), np.float32), np.empty(sum(sizes), np.int64)
    rows = (row[0] for writer in writers for row in base.execute(_ROWS, [split, writer]))
    for k, message in zip(range(len(y)), rows, strict=True):
        example = read_features(message)
        np.subtract(1, np.frombuffer(example[b"pixels"], "<f4").reshape(1, 28, 28), out=x[k])
        y[k], _ = read_varint(example[b"label"], 0)
    return x, y, np.repeat(np.arange(len(writers)), sizes)


def read_features(message: bytes) -> dict[bytes, bytes]:
    """Return the features of a serialised ``tf.train.Example`` by name.

    Each value holds the packed numbers of the feature's list.
    """
    features = {}
    for _, entries in read_fields(message):
        for _, entry in read_fields(entries):
            name, feature = (value for _, value in read_fields(entry))
            features[name] = b"".join(
                value for _, values in read_fields(feature) for _, value in read_fields(values)
            )
    return features


def read_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and content of each field of a protocol buffer message.

    Raises:
        ValueError: If a field has a wire type that federated EMNIST does not use.

    Example:
        >>> list(read_fields(bytes([0b00001_010, 2]) + b"hi"))  # field 1, of 2 bytes
        [(1, b'hi')]
    """
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        wire_type = key & 7
        if wire_type not in (0, 2, 5):
            raise ValueError(
                f"wire type {wire_type} must be 0, 2 or 5 (this is no example of federated "
                "EMNIST). Try fetching femnist again"
            )
        if wire_type == 2:
            size, at = read_varint(message, at)
        else:
            size = 4 if wire_type == 5 else read_varint(message, at)[1] - at
        yield key >> 3, message[at : at + size]
        at += size


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the whole number at a position, seven bits per byte, and the position after it.

    Example:
        >>> read_varint(bytes([0b1_0101100, 0b0_0000010]), 0)  # lowest bits first
        (300, 2)
    """
    value = shift = 0
    while True:
        byte = message[at]
        value, shift = value | (byte & 127) << shift, shift + 7
        at += 1
        if byte < 128:
            return value, at
