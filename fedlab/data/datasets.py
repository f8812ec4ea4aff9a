"""Data sets by name, and a way to bring one's own.

Two come inside scikit-learn and need no network; the others lie in the download cache (``fedlab.data.cache``).
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import pickle
import string
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from difflib import get_close_matches
from functools import cache
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.checks import check_alike, check_examples, check_function, check_pair, check_parts
from fedlab.data.cache import TEST_X, TEST_Y, TRAIN_X, TRAIN_Y, folder, locate, missing
from fedlab.data.partition import Split, class_numbers, iid, natural
from fedlab.records import FederatedDataset
from fedlab.rng import generator

FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"


class Arrays(NamedTuple):
    """A data set before it is divided."""

    x: Tensor
    y: Tensor
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    name: str


def load(name: str, clients: int | None = 10, split: Split | None = None, seed: int = 0) -> FederatedDataset:
    """A data set, divided over ``clients`` by ``split`` (default ``iid()``) under ``seed``.

    ``digits``: 1,797 handwritten digits of 8 x 8 pixels in 0..1, 10 classes.  ``breast_cancer``: 569 tumours with 30
    measurements, standardised by the training set, 2 classes.  A fifth, stratified, is the test set: always the same one.

    Out of the download cache come pictures ``[n, channels, height, width]`` in 0..1, not standardised: no client knows the
    mean of all.  ``mnist`` and ``fashion_mnist`` have 60,000 and 10,000 to test; where only the one or the other are there,
    a line says so, and a stratified fifth of them is the test set.  ``cifar10`` has 50,000 and 10,000.  ``femnist`` has 62
    characters, and its writers are the clients: as many as ``clients``, drawn under ``seed`` (None: all 3,400), and only
    what they wrote, of which a tenth is the test set.  A ``split`` pools all writers first.

    Tensors of one data set are shared between calls (not femnist's): treat them as read-only.
    Raises FileNotFoundError, which says what to fetch and how large it is; ValueError for what does not fit.
    """
    if name == "femnist":
        return _femnist(clients, split, seed)
    if name not in _SOURCES:
        close = get_close_matches(name, _SOURCES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no data set {name!r}: there are {', '.join(_SOURCES)}, femnist{hint}")
    if clients is None:
        raise ValueError(f"clients=None: {name} has no clients of its own; say how many")
    return divide(_SOURCES[name](), clients, split, seed)


def federate(
    x,
    y,
    *,
    clients: int | None = None,
    split: Split | None = None,
    owner: Sequence | None = None,
    test: float | tuple = 0.2,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    name: str = "",
) -> FederatedDataset:
    """Your own examples ``x [n, ...]`` and labels ``y [n]``, NumPy arrays or tensors, checked and divided over clients.

    ``clients`` (default 10) by ``split`` (default ``iid()``), or natural ones: ``owner [n]`` names who holds each example.
    ``test`` is a pair of arrays, or the share that is held out: always the same, stratified by label, or, where there are
    owners, by owner.  Labels are class numbers from 0, which ``classes`` names; labels that are not whole are the targets of
    a regression, without classes.  Real features become float32 (``.double()`` gives double), whole ones int64.
    Raises ValueError, in one line, for wrong shapes, values that are not finite, labels out of range.
    """
    x, y = _tensor(x, "examples"), _tensor(y, "labels")
    _check("training", x, y)
    if owner is not None and (split is not None or len(owner) != len(y)):
        raise ValueError(f"owner: {len(owner)} names for {len(y)} examples; give one an example, and no split beside it")
    if isinstance(test, Real):
        held = hold_out(np.unique(owner, return_inverse=True)[1] if owner is not None else y.numpy(), test)
        pair, x, y = (x[held], y[held]), x[~held], y[~held]
        owner = None if owner is None else np.asarray(owner)[~held.numpy()]
    else:
        check_pair(test)
        pair = _tensor(test[0], "examples"), _tensor(test[1], "labels")
        _check("test", *pair)
    if classes is None and not y.is_floating_point():
        classes = map(str, range(1 + int(torch.maximum(y.max(), pair[1].max()))))
    if owner is not None:
        split, clients = natural(owner), len(np.unique(owner)) if clients is None else clients
    return divide(arrays(x, y, pair, tuple(classes or ()), name), 10 if clients is None else clients, split, seed)


def arrays(x, y, test: tuple, classes: tuple[str, ...], name: str) -> Arrays:
    """A data set before it is divided, as tensors, once it is sure that everything fits."""
    x, y, test = _tensor(x, "examples"), _tensor(y, "labels"), (_tensor(test[0], "examples"), _tensor(test[1], "labels"))
    _check("training", x, y, classes)
    _check("test", *test, classes)
    check_alike(x, y, test)
    return Arrays(x, y, test, classes, name)


def divide(data: Arrays, clients: int, split: Split | None, seed: int) -> FederatedDataset:
    split = split or iid()
    check_function("Split", "dirichlet(0.1)", split=split)
    parts = split(data.y.numpy(), clients, generator(seed, "split"))
    check_parts(parts, len(data.y))
    return FederatedDataset(data.x, data.y, parts, data.test, data.name, data.classes)


def _tensor(values, what: str) -> Tensor:
    """Reals as float32, whole numbers as int64."""
    values = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if values.dtype.kind not in "fiub":
        raise ValueError(
            f"{what} of type {values.dtype}: they must be numbers; np.unique(names, return_inverse=True) makes some"
        )
    kind = np.float32 if values.dtype.kind == "f" else np.int64
    return torch.from_numpy(values.astype(kind, copy=not values.flags.writeable))  # PyTorch warns of what is read-only


def _check(what: str, x: Tensor, y: Tensor, classes: tuple[str, ...] = ()) -> None:
    check_examples(what, x, y)
    if x.dim() < 2:
        raise ValueError(f"{what} examples have the shape {list(x.shape)}: it is [n, ...]; x[:, None] if each is one number")
    if not y.is_floating_point():
        class_numbers(y.numpy(), len(classes) or None)


def hold_out(groups: np.ndarray, share: float) -> Tensor:
    """Which examples are the test set, ``[n]``: ``share`` of each group, to within one, always the same."""
    n = len(groups)
    if not 0 < share < 1 or not 0 < math.floor(n * share) < n:
        raise ValueError(f"test={share}: a share between 0 and 1 that leaves some of {n} examples on either side; try 0.2")
    order = generator(0, "test").permutation(n)
    if groups.dtype.kind != "f":  # sorted real numbers would always give the largest of five
        order = order[np.argsort(groups[order], kind="stable")]  # by group, shuffled within
    steps = np.floor(np.arange(n + 1) * share)
    held = torch.zeros(n, dtype=torch.bool)
    held[order[np.diff(steps) > 0]] = True
    return held


@cache
def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, x_test, y, y_test = _fifth("digits", bunch.data / 16.0, bunch.target)
    return arrays(x, y, (x_test, y_test), tuple(map(str, bunch.target_names)), "digits")


@cache
def _breast_cancer() -> Arrays:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    x, x_test, y, y_test = _fifth("breast_cancer", bunch.data, bunch.target)
    mean, sd = x.mean(0), x.std(0)
    return arrays((x - mean) / sd, y, ((x_test - mean) / sd, y_test), tuple(map(str, bunch.target_names)), "breast_cancer")


def _fifth(name: str, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Training x, test x, training y, test y of a bundled set."""
    from sklearn.model_selection import train_test_split

    return train_test_split(x, y, test_size=0.2, stratify=y, random_state=int(generator(0, name, "test").integers(2**31)))


def _mnist(name: str, classes: tuple[str, ...]) -> Arrays:
    """MNIST and what has its form: the whole, or what there is of it."""
    absent = missing(name).keys()
    train, test = (not {x, y} & absent for x, y in ((TRAIN_X, TRAIN_Y), (TEST_X, TEST_Y)))
    return _idx_set(name, classes, folder(name), train, test)


@cache
def _idx_set(name: str, classes: tuple[str, ...], root: Path, train: bool, test: bool) -> Arrays:
    def pictures(x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
        return idx(locate(name, x))[:, None] / np.float32(255), idx(locate(name, y))

    if train and test:
        return arrays(*pictures(TRAIN_X, TRAIN_Y), pictures(TEST_X, TEST_Y), classes, name)
    x, y = pictures(TRAIN_X, TRAIN_Y) if train else pictures(TEST_X, TEST_Y)
    here, gone = ("training", "test") if train else ("test", "training")
    held = hold_out(y, 0.2).numpy()
    logging.getLogger(__name__).warning(
        f"{name}: only its {here} pictures are in {root}, so {(~held).sum():,} of them train and {held.sum():,} test; "
        f"`python -m fedlab.data {name}` fetches the {gone} pictures"
    )
    return arrays(x[~held], y[~held], (x[held], y[held]), classes, f"{name}, {here} pictures only")


def idx(path: Path) -> np.ndarray:
    """The bytes of a gzipped IDX file, in its shape: after two zeros a type, the rank and the sizes, all big-endian."""
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:start]) if rank and start <= len(content) else ()
    if not shape or len(content) != start + math.prod(shape):
        raise ValueError(f"{path} is not an IDX file of bytes, or not all of one: move it away and fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


@cache
def _cifar10(root: Path) -> Arrays:
    with tarfile.open(locate("cifar10", "cifar-10-python.tar.gz")) as archive:
        batches = [
            cifar_batch(archive.extractfile(f"cifar-10-batches-py/{file}").read())
            for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        ]
    x, y = (np.concatenate(pieces) for pieces in zip(*batches[:5], strict=True))
    return arrays(x, y, batches[5], tuple(CIFAR10.split(",")), "cifar10")


def cifar_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pictures ``[n, 3, 32, 32]`` in 0..1 and labels out of a batch, a pickle of Python 2."""
    batch = _Harmless(io.BytesIO(content), encoding="latin1").load()
    return batch["data"].reshape(-1, 3, 32, 32) / np.float32(255), np.array(batch["labels"])


class _Harmless(pickle.Unpickler):
    """Reads arrays and containers; whatever else a pickle may ask for, code among it, is refused."""

    def find_class(self, module: str, name: str):
        known = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which pictures do not need: it is not read")
        return known[f"{module}.{name}"]


def _femnist(clients: int | None, split: Split | None, seed: int) -> FederatedDataset:
    """Federated EMNIST as TensorFlow Federated publishes it: a database with an example a row."""
    import sqlite3

    path = locate("femnist", "emnist_all.sqlite")
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
        writers = [writer for writer, _ in base.execute(_WRITERS, ["all_train"])]
        if split is None and clients is not None:
            if not 1 <= clients <= len(writers):
                raise ValueError(
                    f"clients={clients}: femnist has {len(writers)} writers; take as many at most, or None for all"
                )
            drawn = generator(seed, "writers").choice(len(writers), clients, replace=False)
            writers = [writers[i] for i in sorted(drawn)]
        x, y, owner = _examples(base, "all_train", writers)
        x_test, y_test, _ = _examples(base, "all_test", writers)
    classes = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
    data = arrays(x, y, (x_test, y_test), classes, "femnist")
    return divide(data, len(writers) if split is None else clients, split or natural(owner), seed)


_WRITERS = "SELECT client_id, num_examples FROM client_metadata WHERE split_name = ? ORDER BY client_id"
_ROWS = "SELECT serialized_example_proto FROM examples WHERE split_name = ? AND client_id = ? ORDER BY rowid"


def _examples(base, split: str, writers: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures ``[n, 1, 28, 28]`` with ink 1 on 0 (there: 0 on 1), labels, and which of ``writers`` each is from."""
    held = dict(base.execute(_WRITERS, [split]))
    sizes = [held.get(writer, 0) for writer in writers]
    x, y = np.empty((sum(sizes), 1, 28, 28), np.float32), np.empty(sum(sizes), np.int64)
    rows = (row[0] for writer in writers for row in base.execute(_ROWS, [split, writer]))
    for k, message in zip(range(len(y)), rows, strict=True):
        found = features(message)
        np.subtract(1, np.frombuffer(found[b"pixels"], "<f4").reshape(1, 28, 28), out=x[k])
        y[k], _ = varint(found[b"label"], 0)
    return x, y, np.repeat(np.arange(len(writers)), sizes)


def features(message: bytes) -> dict[bytes, bytes]:
    """The features of a serialised ``tf.train.Example`` by name, each the packed values of its list."""
    found = {}
    for _, entries in fields(message):
        for _, entry in fields(entries):
            name, feature = (value for _, value in fields(entry))
            found[name] = b"".join(value for _, values in fields(feature) for _, value in fields(values))
    return found


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of the fields of a protocol buffer message, in their order."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        if key & 7 not in (0, 2, 5):
            raise ValueError(f"a field of wire type {key & 7}: this is no example of federated EMNIST")
        size, at = varint(message, at) if key & 7 == 2 else (4 if key & 7 == 5 else varint(message, at)[1] - at, at)
        yield key >> 3, message[at : at + size]
        at += size


def varint(message: bytes, at: int) -> tuple[int, int]:
    """A whole number written seven bits a byte, lowest first, and where what follows begins."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


_SOURCES: dict[str, Callable[[], Arrays]] = {
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "mnist": lambda: _mnist("mnist", tuple(string.digits)),
    "fashion_mnist": lambda: _mnist("fashion_mnist", tuple(FASHION.split(","))),
    "cifar10": lambda: _cifar10(folder("cifar10")),
}
