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
from functools import cache, partial
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.core import FederatedDataset, generator
from fedlab.core.repeats import check_repeatable
from fedlab.core.validate import (
    as_parts,
    check_examples,
    check_function,
    check_parts,
    check_same_format,
    check_test_pair,
)
from fedlab.data.cache import TEST_X, TEST_Y, TRAIN_X, TRAIN_Y, folder, locate, missing
from fedlab.data.convert import (
    check_columns,
    check_index,
    to_examples,
    to_labels,
    to_owners,
    warn_of_channels,
)
from fedlab.data.partition import Split, class_numbers, iid, natural

FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
PACKED_MOST = 1032  # bytes that gzip can make of one: a header that asks for more is damaged
CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"


class Arrays(NamedTuple):
    """A data set before it is divided."""

    x: Tensor
    y: Tensor
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    name: str


def load(
    name: str, clients: int | None = 10, split: Split | None = None, seed: int = 0
) -> FederatedDataset:
    """A data set, divided over ``clients`` by ``split`` (default ``iid()``) under ``seed``.

    ``digits``: 1,797 handwritten digits of 8 x 8 pixels in 0..1, 10 classes.  ``breast_cancer``: 569 tumours with 30
    measurements, standardised by the training set, 2 classes.  A fifth, stratified, is the test set: always the same one.

    Out of the download cache come pictures ``[n, channels, height, width]`` in 0..1, not standardised: no client knows the
    mean of all.  ``mnist`` and ``fashion_mnist`` have 60,000 and 10,000 to test; where only the one or the other are there,
    a line says so, and a stratified fifth of them is the test set.  ``cifar10`` has 50,000 and 10,000.  ``femnist`` has 62
    characters, and its writers are the clients: as many as ``clients``, drawn under ``seed`` (None: all 3,400), and only
    what they wrote, of which a tenth is the test set.  A ``split`` pools all writers first.

    A function of the seed, as an Experiment takes it, is ``functools.partial(load, name, clients, split)``.
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
    """Check your own examples and labels, and divide them over clients.

    Real numbers, booleans, sparse matrices and every number of a frame become float32 features (``.double()`` gives
    double).  Whole numbers of arrays, tensors and lists stay whole, int64, for models that look tokens up: features
    of that kind are ``x.astype(float)``.  uint8 stays uint8; a batch becomes real numbers of the same values (0 to 255)
    when a model reads it.  Nothing is shared with ``x`` and ``y``.

    Texts, booleans, categories, whole numbers from 0 or from 1, and reals 0.0, 1.0, ... without a gap are classes; all
    other numbers are targets of a regression, and with ``classes=()`` so are those.  A function of the seed, as an
    Experiment takes it, is ``functools.partial(federate, x, y)``.

    Args:
        x: Examples ``[n, ...]``: array, tensor, list, DataFrame of numbers, sparse matrix, list of pictures.
        y: Labels ``[n]``: array, tensor, list, Series, frame of one column; of any numbers or texts.
        clients: How many clients (default 10); with ``owner``, as many as owners, or fewer, that are merged.
        split: Who holds what (default ``iid()``).
        owner: The holder of each example ``[n]``, by name or number, in place of a split.
        test: A pair ``(x, y)``, or the share that is held out: always the same one, stratified by label.  With
            ``owner`` it is this share of each owner's, drawn at random, and ``test_parts`` says whose; or a triple
            ``(x, y, owner)``.  Owners in it without training examples are clients with test examples only, or no
            clients where ``clients`` says how many; a log line names them.
        classes: The names of the classes by number; of texts, their order; empty for a regression.
        seed: The seed of the split.
        name: The name of the data, for tables and reports.

    Returns:
        The dataset.

    Raises:
        ValueError: In one line that names the remedy, for whatever does not fit.

    Example:
        >>> data = federate([[0.0], [1.0], [2.0], [3.0]], ["no", "yes", "no", "yes"], clients=2, test=0.5)
        >>> data.classes
        ('no', 'yes')
    """
    check_index(x=x, y=y, owner=owner)
    is_share, test_owner = isinstance(test, Real), None
    if not is_share:
        if owner is not None and isinstance(test, tuple | list) and len(test) == 3:
            *test, test_owner = test
        check_test_pair(test)
        check_columns(x, test[0])
        check_index(**{"test[0]": test[0], "test[1]": test[1]})
    examples = [to_examples(x), *([] if is_share else [to_examples(test[0], "test[0]")])]
    warn_of_channels(examples[0])
    _check_lengths(examples[0], y, "training")
    labels, names = to_labels([y] if is_share else [y, test[1]], classes)
    x, y = examples[0], labels[0]
    _check("training", x, y)
    if owner is not None:
        if split is not None:
            raise ValueError(
                f"owner: {len(owner)} names for {len(y)} examples; give one an example, and no split beside it"
            )
        owner = to_owners(owner, len(y))
    owners = None
    if is_share:
        held = (
            hold_out(y.numpy(), test)
            if owner is None
            else torch.from_numpy(hold_out_each(owner, None, test))
        )
        pair, x, y = (x[held], y[held]), x[~held], y[~held]
        if owner is not None:
            owners = owner[~held.numpy()], owner[held.numpy()]
    else:
        x, y, pair = x.clone(), y.clone(), (examples[1].clone(), labels[1].clone())
        if owner is not None:
            owners = owner, None if test_owner is None else to_owners(test_owner, len(pair[1]))
    data = checked(Arrays(x, y, pair, names, name or ""))
    return divide(data, clients, split, seed, owners)


def arrays(x, y, test: tuple, classes: tuple[str, ...], name: str) -> Arrays:
    """Return a data set before it is divided, as tensors, once it is sure that everything fits."""
    (y, test_y), _ = to_labels([y, test[1]], classes)
    return checked(
        Arrays(to_examples(x), y, (to_examples(test[0], "test[0]"), test_y), classes, name)
    )


def checked(data: Arrays) -> Arrays:
    """Return the same data, once it is sure that examples and labels of both sets fit each other."""
    _check("training", data.x, data.y, data.classes)
    _check("test", *data.test, data.classes)
    check_same_format(data.x, data.y, data.test)
    return data


def divide(
    data: Arrays,
    clients: int | None,
    split: Split | None,
    seed: int,
    owners: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> FederatedDataset:
    """Return the data divided over clients by ``split``, or by their ``owners``: those of the training and test examples."""
    parts, test_parts = who_holds(data.y.numpy(), clients, split, seed, owners)
    return FederatedDataset(data.x, data.y, parts, data.test, data.name, data.classes, test_parts)


def who_holds(
    y: np.ndarray,
    clients: int | None,
    split: Split | None,
    seed: int,
    owners: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Return the numbers of each client's training and test examples; of the latter None where there are no owners.

    ``clients=None``: 10, or as many as there are owners, those of test examples among them.
    """
    if not isinstance(seed, Real) or seed != int(seed):
        raise ValueError(f"seed={seed!r} must be a whole number. Try seed=0")
    if owners is not None:
        split = natural(owners[0])
    more = clients is None
    if more:
        clients = 10 if owners is None else len(np.unique(owners[0]))
    split = iid() if split is None else split
    if isinstance(split, Integral):
        told = (
            f"split={split!r} is a number: it must say who holds what, and the seed comes after it"
        )
        raise ValueError(f"{told}. Try split=iid(), or seed={split!r} by name")
    check_function("Split", "dirichlet(0.1)", split=split)
    parts = as_parts(split(y, clients, generator(seed, "split")))
    check_parts(parts, len(y))
    known = owners is not None and owners[1] is not None
    return parts_alike(parts, *owners, more) if known else (parts, None)


def parts_alike(
    parts: Sequence[np.ndarray], owner: np.ndarray, test_owner: np.ndarray, more: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the numbers of each client's training and test examples, ascending: of the latter those of its owners.

    Owners without a training example are named in a log line.  With ``more``, where each client is one owner, each of
    them is a client more, which has test examples only, in the order of the names; else their examples are nobody's.
    """
    names, who = np.unique(owner, return_inverse=True)
    new = np.setdiff1d(test_owner, names)
    if len(new) and not np.isin(test_owner, names).any():
        raise ValueError(
            f"owners of test examples must also have training examples. The test set has {new.tolist()[0]!r}, and the "
            f"training set has {names.tolist()[0]!r}. Try names of one type and spelling in both, or a test set without "
            "owners, such as test=(x, y)"
        )
    if len(new):
        listed = ", ".join(map(repr, new[:5].tolist())) + (", ..." if len(new) > 5 else "")
        role = "clients that never train" if more else "no clients"
        cohort = f"sample=with_examples(uniform({min(10, len(names))})) if they are held out"
        remedy = cohort if more else "federate without clients= to have them"
        logging.getLogger(__name__).warning(
            f"owners with test examples only ({listed}) are {role}. Try the training owners' names if these are "
            f"misspelled, or {remedy}"
        )
    holder = np.full(len(names) + len(new), -1)
    for i, part in enumerate(parts):
        holder[who[part]] = i
    order = np.argsort(np.append(names, new), kind="stable")
    if more:
        parts = [*parts, *[np.empty(0, np.int64)] * len(new)]
        holder, parts = np.argsort(order), [parts[i] for i in order]
    client = holder[order][np.searchsorted(np.append(names, new)[order], test_owner)]
    ends = np.cumsum(np.bincount(client + 1, minlength=len(parts) + 1))
    return parts, np.split(np.argsort(client, kind="stable"), ends[:-1])[1:]


def _check_lengths(x: Tensor, y, what: str) -> None:
    if (
        hasattr(y, "__len__")
        and not isinstance(y, str)
        and np.ndim(x)
        and getattr(y, "ndim", 1)
        and len(x) != len(y)
    ):
        raise ValueError(
            f"{len(x)} {what} examples and {len(y)} labels: there must be equally many, and at least one"
        )


def _check(what: str, x: Tensor, y: Tensor, classes: tuple[str, ...] = ()) -> None:
    check_examples(what, x, y)
    if x.dim() < 2:
        raise ValueError(
            f"{what} examples have the shape {list(x.shape)}: it is [n, ...]; x[:, None] if each is one number"
        )
    if x[0].numel() == 0:
        raise ValueError(
            f"{what} examples have the shape {list(x.shape)}: there is no feature. Try x with a column or more"
        )
    if not y.is_floating_point():
        class_numbers(y.numpy(), len(classes) or None)


def for_seed(data, seed: int) -> FederatedDataset:
    """Return an experiment's data under a seed: a dataset as it is, or what a function of the seed makes.

    A ``functools.partial`` with a parameter ``seed`` is given it by name, so that it never lands in another one, as in
    ``partial(load, "digits", 10)``.  A function of the user's is called twice for its first seed.

    Raises:
        ValueError: If the seed is set already, or the function gives other data when it is called again.
    """
    if not callable(data):
        return data
    made = _made(data, seed)
    if isinstance(made, FederatedDataset):
        check_repeatable("data", data, made, lambda: _made(data, seed), _arrays)
    return made


def _made(data: Callable, seed: int) -> FederatedDataset:
    """Return what a function of the seed makes."""
    if isinstance(data, partial) and "seed" in data.keywords:
        told = (
            f"data is a function of the seed in which seed={data.keywords['seed']!r} is set already"
        )
        raise ValueError(
            f"{told}. Try leaving it out, or calling the function: data={data.func.__name__}(...)"
        )
    if isinstance(data, partial) and "seed" in signature(data).parameters:
        return data(seed=seed)
    return data(seed)


def _arrays(data: FederatedDataset) -> list[np.ndarray | Tensor]:
    return [*data.parts, *(data.test_parts or ()), data.x, data.y, *data.test]


def hold_out(groups: np.ndarray, share: float) -> Tensor:
    """Which examples are the test set, ``[n]``: ``share`` of each group, to within one, always the same."""
    n = len(groups)
    if not 0 < share < 1 or not 0 < math.floor(n * share) < n:
        fair = 0.2 if n >= 5 else 0.5
        remedy = f"try {fair}" if n > 1 else "give a test set of its own"
        raise ValueError(
            f"test={share}: a share between 0 and 1 that leaves some of {n} examples on either side; {remedy}"
        )
    order = generator(0, "test").permutation(n)
    if groups.dtype.kind != "f":  # sorted real numbers would always give the largest of five
        order = order[np.argsort(groups[order], kind="stable")]  # by group, shuffled within
    steps = np.floor(np.arange(n + 1) * share)
    held = torch.zeros(n, dtype=torch.bool)
    held[order[np.diff(steps) > 0]] = True
    return held


def hold_out_each(owner: np.ndarray, labels: np.ndarray | None, share: float) -> np.ndarray:
    """Return which examples are the test set, ``[n]``: ``share`` of each owner's, to within one, always the same.

    Class labels are stratified within an owner; without labels an owner's examples are drawn at random.  Every owner
    keeps an example to train on.
    """
    _, first, number = np.unique(owner, return_index=True, return_inverse=True)
    keys = [number]
    if labels is not None:
        keys.append(np.unique(labels, return_inverse=True)[1])
    groups = np.unique(np.stack(keys, 1), axis=0, return_inverse=True)[1].reshape(-1)
    held = hold_out(groups, share).numpy()
    trains = np.bincount(number, ~held) > 0
    held[first[~trains]] = False
    if not held.any():
        raise ValueError(
            f"test={share}: every owner has one example, which trains. Try test=(x, y), or fewer owners"
        )
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
    return arrays(
        (x - mean) / sd,
        y,
        ((x_test - mean) / sd, y_test),
        tuple(map(str, bunch.target_names)),
        "breast_cancer",
    )


def _fifth(name: str, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Training x, test x, training y, test y of a bundled set."""
    from sklearn.model_selection import train_test_split

    return train_test_split(
        x,
        y,
        test_size=0.2,
        stratify=y,
        random_state=int(generator(0, name, "test").integers(2**31)),
    )


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
        f"`python -m fedlab data {name}` fetches the {gone} pictures"
    )
    return arrays(x[~held], y[~held], (x[held], y[held]), classes, f"{name}, {here} pictures only")


def idx(path: Path) -> np.ndarray:
    """The bytes of a gzipped IDX file, in its shape: after two zeros a type, the rank and the sizes, all big-endian."""
    with gzip.open(path) as file:
        head = file.read(4)
        rank = head[3] if head[:3] == b"\0\0\x08" and len(head) > 3 else 0
        sides = file.read(4 * rank)
        shape = struct.unpack(f">{rank}I", sides) if rank and len(sides) == 4 * rank else ()
        size = math.prod(shape) if shape else 0
        packed = path.stat().st_size
        content = file.read(size + 1) if size <= PACKED_MOST * packed else b""
    if not shape or len(content) != size:
        raise ValueError(
            f"{path} is not an IDX file of bytes, or not all of one: move it away and fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


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
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}, which pictures do not need: it is not read"
            )
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
        x_test, y_test, test_owner = _examples(base, "all_test", writers)
    classes = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
    data = arrays(x, y, (x_test, y_test), classes, "femnist")
    if split is None:
        return divide(data, len(writers), None, seed, (owner, test_owner))
    return divide(data, clients, split, seed)


_WRITERS = (
    "SELECT client_id, num_examples FROM client_metadata WHERE split_name = ? ORDER BY client_id"
)
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
            found[name] = b"".join(
                value for _, values in fields(feature) for _, value in fields(values)
            )
    return found


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of the fields of a protocol buffer message, in their order."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        if key & 7 not in (0, 2, 5):
            raise ValueError(
                f"a field of wire type {key & 7}: this is no example of federated EMNIST"
            )
        size, at = (
            varint(message, at)
            if key & 7 == 2
            else (4 if key & 7 == 5 else varint(message, at)[1] - at, at)
        )
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
