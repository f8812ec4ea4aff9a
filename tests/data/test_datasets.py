import gzip
import hashlib
import io
import logging
import pickle
import sqlite3
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch

from fedlab.data import cache, dirichlet, federate, iid, load, natural, shards
from fedlab.data.cache import TEST_X, TEST_Y, TRAIN_X, TRAIN_Y, Remote
from fedlab.data.sources.cifar10 import read_batch
from fedlab.data.sources.femnist import read_features, read_fields, read_varint
from fedlab.data.sources.idx import read_idx

ROOT = Path(__file__).parents[2]
real_mnist = pytest.mark.skipif(
    not (cache.folder("mnist") / TEST_X).exists(),
    reason=f"no MNIST in {cache.folder('mnist')}: see data/README.md",
)


@pytest.mark.parametrize(
    ("name", "train", "test", "shape", "classes"),
    [("digits", 1437, 360, (64,), 10), ("breast_cancer", 455, 114, (30,), 2)],
)
def test_bundled_sets(name, train, test, shape, classes):
    data = load(name)
    assert data.x.shape == (train, *shape)
    assert data.x.dtype == torch.float32
    assert data.test[0].shape == (test, *shape)
    assert len(data.classes) == classes
    assert set(data.y.tolist()) == set(data.test[1].tolist()) == set(range(classes))


def test_the_test_set_is_fixed_and_stratified():
    first, second = load("digits", 5, seed=0), load("digits", 50, dirichlet(0.1), seed=9)
    assert first.x is second.x
    counts = torch.bincount(first.test[1])
    assert counts.min() >= 35
    assert counts.max() <= 37
    # The split is part of every published number: it may not drift with a library's version.
    digest = hashlib.sha256(
        first.test[0].numpy().tobytes() + first.test[1].numpy().tobytes()
    ).hexdigest()
    assert digest == "32d30dcf98ebce5636217b31aa2ffa7001e184b34133b7a690f0f41fa97b9bfd"


def test_values_are_scaled():
    digits, cancer = load("digits"), load("breast_cancer")
    assert digits.x.min() == 0
    assert digits.x.max() == 1
    torch.testing.assert_close(cancer.x.mean(0), torch.zeros(30), atol=1e-5, rtol=0)
    torch.testing.assert_close(cancer.x.std(0, correction=0), torch.ones(30), atol=1e-4, rtol=0)


def test_an_unknown_name_is_answered_with_the_known_ones():
    known = "digits, breast_cancer, mnist, fashion_mnist, cifar10, femnist"
    with pytest.raises(
        ValueError,
        match=rf"name='digts' must be one of {known} \(load_texts loads texts; .*\)\. Try 'digits'",
    ):
        load("digts")


def test_a_split_is_called_first():
    with pytest.raises(
        ValueError, match=r"split=shards must be the result of a call. Try dirichlet\(0\.1\)"
    ):
        load("digits", 5, shards)


def test_clients_of_its_own():
    with pytest.raises(
        ValueError,
        match=(
            r"clients=None must be a number \(digits has no clients of its own\)\. Try "
            r"clients=10"
        ),
    ):
        load("digits", None)


def test_counts_and_sizes_agree():
    data = load("digits", 40, dirichlet(0.05), seed=1)
    assert (data.counts().sum(1) == data.sizes).all()
    assert data.counts().sum() == len(data.y)
    assert (data.sizes == 0).any(), "this split is meant to leave somebody empty"


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_the_bundled_files_are_those_of_the_readme(name):
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    content = bunch.data.astype("float64").tobytes() + bunch.target.astype("int64").tobytes()
    assert (
        f"| `{name}` | `{hashlib.sha256(content).hexdigest()}` |"
        in (ROOT / "data" / "README.md").read_text()
    )


# MNIST and what has its form


@real_mnist
def test_real_mnist():
    images, labels = (
        read_idx(cache.locate("mnist", TEST_X)),
        read_idx(cache.locate("mnist", TEST_Y)),
    )
    assert labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert images.shape == (10_000, 28, 28)
    data = load("mnist", 20)
    assert data.x.dtype == torch.float32
    assert (data.x.min(), data.x.max()) == (0, 1)
    if (cache.folder("mnist") / TRAIN_X).exists():
        assert data.x.shape == (60_000, 1, 28, 28)
    else:
        assert data.x.shape == (8_000, 1, 28, 28)
        assert (
            torch.bincount(data.test[1]) - torch.from_numpy(np.bincount(labels)) / 5
        ).abs().max() < 1
        together = torch.cat([data.x, data.test[0]]).mean().item()
        assert together == pytest.approx(images.mean() / 255, abs=1e-6)


def write_idx(path: Path, values: np.ndarray) -> Remote:
    """Write an IDX file, and return its entry in the cache's catalogue."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), mtime=0))
    return Remote(
        "http://127.0.0.1:9/nowhere",
        f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}",
        path.stat().st_size,
    )


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """30 pictures of 4 x 4 to train, 20 to test."""
    draw, folder = np.random.default_rng(0), tmp_path / "mnist"
    folder.mkdir()
    shapes = {TRAIN_X: (30, 4, 4), TRAIN_Y: (30,), TEST_X: (20, 4, 4), TEST_Y: (20,)}
    values = {
        file: draw.integers(0, 256 if len(shape) > 1 else 10, shape)
        for file, shape in shapes.items()
    }
    monkeypatch.setitem(
        cache.FILES, "mnist", {file: write_idx(folder / file, a) for file, a in values.items()}
    )
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    return folder, values


def test_the_whole_of_mnist_keeps_its_own_test_set(tiny_mnist, caplog):
    _, values = tiny_mnist
    data = load("mnist", 3)
    assert data.name == "mnist"
    np.testing.assert_array_equal(data.x, values[TRAIN_X][:, None].astype(np.float32) / 255)
    np.testing.assert_array_equal(data.test[0], values[TEST_X][:, None].astype(np.float32) / 255)
    np.testing.assert_array_equal(data.y, values[TRAIN_Y])
    np.testing.assert_array_equal(data.test[1], values[TEST_Y])
    assert data.classes == tuple("0123456789")
    assert not caplog.records


@pytest.mark.parametrize(
    ("gone", "present", "absent", "counts", "left"),
    [
        (TRAIN_X, "test", "training", (16, 4), (TEST_X, TEST_Y)),
        (TEST_X, "training", "test", (24, 6), (TRAIN_X, TRAIN_Y)),
        (TEST_Y, "training", "test", (24, 6), (TRAIN_X, TRAIN_Y)),
    ],
)
def test_what_pictures_there_are_are_used_and_it_says_so_once(
    tiny_mnist, caplog, gone, present, absent, counts, left
):
    folder, values = tiny_mnist
    (folder / gone).unlink()
    data = load("mnist", 3)
    assert load("mnist", 4).x is data.x
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"mnist: only its {present} pictures are in {folder}, so {counts[0]} of them train "
        f"and {counts[1]} test; "
        f"`python -m fedlab data mnist` fetches the {absent} pictures"
    )
    assert data.name == f"mnist, {present} pictures only"
    x, y = (values[name] for name in left)
    together = np.concatenate([data.x, data.test[0]])[:, 0] * 255
    np.testing.assert_array_equal(np.unique(together.round(), axis=0), np.unique(x, axis=0))
    share = np.bincount(y, minlength=10) / 5
    assert (abs(np.bincount(data.test[1], minlength=10) - share) < 1).all(), "stratified"


@pytest.mark.parametrize("gone", [(TRAIN_X, TEST_X), (TRAIN_Y, TEST_Y), (TRAIN_X, TEST_Y)])
def test_with_no_whole_half_there_is_nothing_to_load(tiny_mnist, gone):
    folder, _ = tiny_mnist
    for file in gone:
        (folder / file).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=rf"{gone[1]} is not there\)\. Try `python -m fedlab data mnist`, which fetches",
    ):
        load("mnist")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x0d\x01\0\0\0\x01\x05",
        b"\0\0\x08\x01\0\0\0\x02\x05",
        b"\0\0\x08\x01\0\0\0\x01\x05\x05",
        b"\0\0\x08\x01\xff\xff\xff\xff\x05",
        b"not IDX",
    ],
)
def test_what_is_no_idx_file_is_told_in_a_line(tmp_path, content):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(
        ValueError,
        match=(
            r"x\.gz must be a complete IDX file of bytes \(it is damaged, or another "
            r"file\)\. Try moving it away and fetching it again"
        ),
    ) as error:
        read_idx(path)
    assert "\n" not in str(error.value)


def test_labels_and_pictures_that_do_not_match(tiny_mnist, monkeypatch):
    folder, values = tiny_mnist
    for file, wrong, message in [
        (TRAIN_Y, values[TRAIN_Y][:-1], "30 training examples and 29 labels"),
        (
            TRAIN_Y,
            values[TRAIN_Y] + 1,
            (
                r"label 10 must be below 10 \(there are 10 classes, numbered from 0\)\. Try "
                r"np\.unique\(y, return_inverse=True\)\[1\], which numbers any labels"
            ),
        ),
        (
            TEST_X,
            values[TEST_X][:, :3],
            r"training examples have the shape \[1, 4, 4\] and test ones \[1, 3, 4\]",
        ),
    ]:
        remote = write_idx(folder / file, wrong)
        monkeypatch.setitem(cache.FILES, "mnist", cache.FILES["mnist"] | {file: remote})
        with pytest.raises(ValueError, match=message):
            load("mnist")
        monkeypatch.setitem(
            cache.FILES,
            "mnist",
            cache.FILES["mnist"] | {file: write_idx(folder / file, values[file])},
        )


# CIFAR-10


class Python2(pickle._Pickler):
    """Pickler that writes text and bytes alike, as Python 2 did for the published batches."""

    def string(self, text):
        raw = text if isinstance(text, bytes) else text.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch = {**pickle._Pickler.dispatch, str: string, bytes: string}  # noqa: RUF012


def python2(batch: dict) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(batch)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_cifar10_as_it_is_published(tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    path, draw, batches = (
        tmp_path / "cifar10" / "cifar-10-python.tar.gz",
        np.random.default_rng(0),
        [],
    )
    with tarfile.open(path, "w:gz") as archive:
        for file in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
            x, y = (
                draw.integers(0, 256, (10, 3072), dtype=np.uint8),
                draw.integers(0, 10, 10).tolist(),
            )
            batches.append((x, y))
            content = python2(
                {"batch_label": file, "labels": y, "data": x, "filenames": ["a.png"] * 10}
            )
            member = tarfile.TarInfo(f"cifar-10-batches-py/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    checksum = f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"
    monkeypatch.setitem(
        cache.FILES, "cifar10", {path.name: Remote("http://127.0.0.1:9/", checksum, 1)}
    )
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    data = load("cifar10", 5)
    assert data.x.shape == (50, 3, 32, 32)
    np.testing.assert_array_equal(
        data.x.flatten(1), np.concatenate([x for x, _ in batches[:5]]).astype(np.float32) / 255
    )
    np.testing.assert_array_equal(data.test[1], batches[5][1])
    assert data.classes[3] == "cat"


def test_a_pickle_that_asks_for_more_than_arrays_is_not_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    for content in (pickle.dumps({"data": Evil()}), b"cos\nsystem\n(S'true'\ntR."):
        with pytest.raises(
            pickle.UnpicklingError, match=r"asks for [\w.]+, which pictures do not need"
        ):
            read_batch(content)
    assert not (tmp_path / "touched").exists()


# FEMNIST


def whole(value: int) -> bytes:
    """A whole number as protocol buffers write it."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + whole(value >> 7)


def field(number: int, content: bytes) -> bytes:
    return whole(number << 3 | 2) + whole(len(content)) + content


def serialised(pixels: np.ndarray, label: int) -> bytes:
    kinds = {
        b"pixels": field(2, field(1, pixels.astype("<f4").tobytes())),
        b"label": field(3, field(1, whole(label))),
    }
    return field(
        1, b"".join(field(1, field(1, name) + field(2, feature)) for name, feature in kinds.items())
    )


@pytest.fixture
def writers(tmp_path, monkeypatch):
    """Five writers with 3 to 7 training characters and a test one, as TFF publishes them."""
    (tmp_path / "femnist").mkdir()
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    base, draw, held = (
        sqlite3.connect(tmp_path / "femnist" / "emnist_all.sqlite"),
        np.random.default_rng(0),
        {},
    )
    base.execute(
        "CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)"
    )
    base.execute(
        "CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)"
    )
    for k, writer in enumerate(["f0003_10", "f0000_14", "f0001_41", "f0004_16", "f0002_01"]):
        for split, n in [("all_train", 3 + k), ("all_test", 1), ("digits_only_train", 1)]:
            x, y = draw.random((n, 784), np.float32), draw.integers(0, 62, n)
            held[writer, split] = x, y
            rows = [(split, writer, serialised(*pair)) for pair in zip(x, y.tolist(), strict=True)]
            base.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)
            base.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", [writer, split, n])
    base.commit()
    base.close()
    return held


def test_femnists_clients_are_its_writers(writers):
    data = load("femnist", None)
    names = sorted({writer for writer, _ in writers})
    assert data.num_clients == 5
    assert len(data.classes) == 62
    assert (data.classes[10], data.classes[61]) == ("A", "z")
    for part, writer in zip(data.parts, names, strict=True):
        x, y = writers[writer, "all_train"]
        np.testing.assert_allclose(
            data.x[part].flatten(1), 1 - x, rtol=0, atol=1e-7
        )  # ink is 1, as in MNIST
        np.testing.assert_array_equal(data.y[part], y)
    np.testing.assert_array_equal(
        data.test[1], np.concatenate([writers[writer, "all_test"][1] for writer in names])
    )
    assert [part.tolist() for part in data.test_parts] == [[0], [1], [2], [3], [4]]


def test_some_writers_bring_only_their_own_examples(writers):
    sizes = {writer: len(y) for (writer, split), (_, y) in writers.items() if split == "all_train"}
    drawn = [load("femnist", 2, seed=seed) for seed in range(8)]
    for data in drawn:
        assert len(data.y) == data.sizes.sum()
        assert len(data.test[1]) == data.num_clients == 2
        assert set(data.sizes) <= set(sizes.values())
    assert len({tuple(data.sizes) for data in drawn}) > 1
    assert tuple(load("femnist", 2, seed=0).sizes) == tuple(drawn[0].sizes)


def test_a_split_pools_the_writers(writers):
    data = load("femnist", 4, iid())
    assert data.sizes.tolist() == [7, 6, 6, 6]
    assert data.test_parts is None
    for clients in (0, 6):
        with pytest.raises(
            ValueError,
            match=rf"clients={clients} must be from 1 to 5 \(femnist has so many writers\)\. "
            "Try clients=None for all",
        ):
            load("femnist", clients)


def test_without_its_database_femnist_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError,
        match=(
            r"femnist must be fetched first \(.*emnist_all\.sqlite is not there\)\. Try "
            r"`python -m fedlab data femnist`, which fetches 170\.5 MB \(4\.7 GB "
            r"unpacked\), or load\('digits'\), which needs no network"
        ),
    ):
        load("femnist")


def test_protocol_buffers():
    """The example of TensorFlow's tutorial on TFRecord, byte for byte."""
    message = (
        b"\nR\n\x11\n\x08feature0\x12\x05\x1a\x03\n\x01\x00\n\x11\n\x08feature1\x12\x05\x1a\x03\n\x01\x04"
        b"\n\x14\n\x08feature2\x12\x08\n\x06\n\x04goat\n\x14\n\x08feature3\x12\x08\x12\x06\n\x04[\xd3|?"
    )
    features = read_features(message)
    assert [read_varint(features[name], 0)[0] for name in (b"feature0", b"feature1")] == [0, 4]
    assert features[b"feature2"] == b"goat"
    assert np.frombuffer(features[b"feature3"], "<f4")[0] == np.float32(0.9876)
    assert read_varint(whole(300) + b"?", 0) == (300, 2)
    assert list(read_fields(b"\x08\xac\x02\x15abcd")) == [
        (1, b"\xac\x02"),
        (2, b"abcd"),
    ]  # as they are when not packed
    with pytest.raises(
        ValueError,
        match=(
            r"wire type 3 must be 0, 2 or 5 \(this is no example of federated EMNIST\)\. "
            r"Try fetching femnist again"
        ),
    ):
        list(read_fields(b"\x0b"))


# One's own data

X, Y = np.random.default_rng(0).normal(size=(100, 3)), np.arange(100) % 4


@pytest.mark.parametrize("as_tensor", [False, True])
def test_ones_own_arrays(as_tensor):
    x, y = (torch.from_numpy(X), torch.from_numpy(Y)) if as_tensor else (X, Y)
    before = X.copy()
    data = federate(x, y, clients=7, split=dirichlet(0.5), seed=3, name="mine")
    assert (data.name, data.num_clients, data.classes) == ("mine", 7, ("0", "1", "2", "3"))
    assert (data.x.dtype, data.y.dtype) == (torch.float32, torch.int64)
    assert torch.bincount(data.test[1]).tolist() == [5, 5, 5, 5]
    assert torch.cat([data.x, data.test[0]]).sort(0)[0].numpy() == pytest.approx(
        np.sort(X, axis=0), abs=1e-6
    )
    assert (data.test[0] == federate(x, y, seed=4).test[0]).all()
    data.x.zero_()
    assert (before == X).all()


def test_a_test_set_of_ones_own_and_named_classes():
    x = X.astype(np.float32)
    x.flags.writeable = False
    data = federate(x, Y, clients=1, test=(x[:5], Y[:5]), classes="abcde")
    assert len(data.y) == 100
    assert len(data.test[1]) == 5
    assert data.classes == tuple("abcde")


def test_targets_of_a_regression_and_token_numbers():
    data = federate(np.arange(2000).reshape(1000, 2), np.arange(1000) / 1000)
    assert (data.x.dtype, data.y.dtype, data.classes) == (torch.int64, torch.float32, ())
    assert data.num_clients == 10
    assert len(data.test[1]) == 200
    assert (
        abs(data.test[1].mean() - 0.5) < 3 / (12 * 200) ** 0.5
    )  # three standard errors: not the largest ones


def test_owners_are_the_clients_and_each_gives_to_the_test_set():
    owner = np.repeat(["ann", "bob", "cy"], [20, 30, 50])
    data = federate(X, Y, owner=owner)
    assert data.sizes.tolist() == [16, 24, 40]
    fixed = federate(X, Y, owner=list(owner), test=(X, Y), clients=2)
    assert fixed.num_clients == 2
    whole = federate(X, Y, split=natural(owner), clients=3, test=(X, Y))
    assert whole.sizes.tolist() == [20, 30, 50]


def at(values: np.ndarray, place, value) -> np.ndarray:
    values = values.copy()
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("x", "y", "more", "message"),
    [
        (
            X,
            Y[:-1],
            {},
            (
                r"100 training examples and 99 labels must be equally many, and at least "
                r"one\. Try one label per example"
            ),
        ),
        (X[:0], Y[:0], {}, "0 training examples and 0 labels"),
        (
            X[:, 0],
            Y,
            {},
            (
                r"training examples of shape \[100\] must be \[n, \.\.\.\] \(of one number "
                r"each, \[n, 1\]\)\. Try x\[:, None\]"
            ),
        ),
        (
            at(X, (17, 1), np.nan),
            Y,
            {},
            r"training example 17 has non-finite features \(1 of 100 have\): .* "
            "Try to fill them in, or to drop",
        ),
        (
            at(X, [3, 5], np.inf),
            Y,
            {},
            r"training example 3 has non-finite features \(2 of 100 have\)",
        ),
        (X, at(X[:, 0], 9, np.nan), {}, "training example 9 has a non-finite label"),
        (
            X,
            Y - 1,
            {},
            (
                r"label -1 must be at least 0 \(the first class\)\. Try np\.unique\(y, "
                r"return_inverse=True\)\[1\], which numbers any labels"
            ),
        ),
        (
            X,
            Y,
            {"classes": "abc"},
            (
                r"label 3 must be below 3 \(there are 3 classes, numbered from 0\)\. Try "
                r"np\.unique\(y, return_inverse=True\)\[1\], which numbers any labels"
            ),
        ),
        (
            X.astype(str),
            Y,
            {},
            (
                r"x must hold numbers, and its examples are of type <U\d+, such as "
                r"'0\.1257.*'\. Try pd\.DataFrame\(x\)\.apply\(pd\.to_numeric, "
                r"errors='coerce'\), and fill missing values"
            ),
        ),
        (
            X,
            np.eye(4)[Y].astype(int),
            {},
            r"labels must be whole class numbers .* shape \(100, 4\) and type int64",
        ),
        (
            X,
            Y,
            {"test": 0.0},
            (
                r"test=0\.0 must be a share between 0 and 1 that leaves training and test "
                r"examples \(there are 100\)\. Try test=0\.2"
            ),
        ),
        (
            X,
            Y,
            {"test": 1},
            (
                r"test=1 must be a share between 0 and 1 that leaves training and test "
                r"examples \(there are 100\)\. Try test=0\.2"
            ),
        ),
        (
            X,
            Y,
            {"test": 0.001},
            (
                r"test=0\.001 must be a share between 0 and 1 that leaves training and test "
                r"examples \(there are 100\)\. Try test=0\.2"
            ),
        ),
        (
            X,
            Y,
            {"test": (X,)},
            (
                r"test is a tuple of 1 and must be a pair \(x, y\)\. "
                r"Try a share to hold out, such as 0\.2"
            ),
        ),
        (X, Y, {"test": None}, "test is a NoneType and must be a pair"),
        (X, Y, {"test": "0.2"}, "test is a str and must be a pair"),
        (
            X,
            Y,
            {"test": np.float32(1.5)},
            (
                r"test=1\.5 must be a share between 0 and 1 that leaves training and test "
                r"examples \(there are 100\)\. Try test=0\.2"
            ),
        ),
        (
            X,
            Y,
            {"test": (X, Y / 4)},
            r"training labels are of type torch\.int64 and test ones torch\.float32: "
            "they must be equal",
        ),
        (
            X,
            Y,
            {"split": dirichlet},
            r"split=dirichlet must be the result of a call. Try dirichlet\(0\.1\)",
        ),
        (X, Y, {"split": iid}, r"split=iid must be the result of a call"),
        (X, Y, {"split": "iid"}, r"split='iid' must be the result of a call"),
        (
            X,
            Y,
            {"split": lambda y, n, draw: [np.arange(5)] * n},
            "example 0 is held by the clients 0 and 1: parts",
        ),
        (
            X,
            Y,
            {"test": (X[:, :2], Y)},
            r"training examples have the shape \[3\] and test ones \[2\]",
        ),
        (X, Y, {"test": (at(X, 0, np.nan), Y)}, "test example 0 has non-finite features"),
        (X, Y, {"test": (X[:0], Y[:0])}, "0 test examples and 0 labels"),
        (
            X,
            Y,
            {"test": (X, Y + 1), "classes": "abcd"},
            (
                r"label 4 must be below 4 \(there are 4 classes, numbered from 0\)\. Try "
                r"np\.unique\(y, return_inverse=True\)\[1\], which numbers any labels"
            ),
        ),
        (
            X,
            Y,
            {"owner": Y[:-1]},
            (
                r"owner must hold one name per example \(99 names for 100 examples\)\. Try "
                r"one name for each row of x"
            ),
        ),
        (
            X,
            Y,
            {"owner": Y, "split": iid()},
            (
                r"split must be None beside owner \(the owner of an example is its client\)\. "
                r"Try split=None, or owner=None"
            ),
        ),
        (X, Y, {"clients": 0}, "clients=0"),
        (
            X,
            Y,
            {"clients": 81},
            (
                r"clients=81 must be at most 80 \(there are no more training examples\)\. Try "
                r"clients=80"
            ),
        ),
    ],
)
def test_wrong_data_are_told_in_a_line(x, y, more, message):
    with pytest.raises(ValueError, match=message) as error:
        federate(x, y, **more)
    assert "\n" not in str(error.value)


def test_a_data_set_tells_itself_in_one_line():
    assert repr(load("digits", 10, iid())) == (
        "<FederatedDataset 'digits': 1437 examples of shape [64], 10 clients with 143 to 144 of "
        "them, and 360 to test>"
    )
