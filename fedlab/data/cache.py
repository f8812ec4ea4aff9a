"""The download cache: published files, fetched by name and only on request, and checked.

``python -m fedlab data mnist``, or ``fetch("mnist")``, puts files into the folder ``mnist`` of the
cache. The cache is ``$FEDLAB_DATA`` if that is set. In a checkout it is ``data/cache``. For an
installed package it is the user's cache folder, such as ``~/.cache/fedlab``.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fedlab.data.download import Remote, download, unpack

PACKAGE = Path(__file__).parents[1]

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
_CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_BANKING77 = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data"
)
_AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"
_SHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
_FEMNIST = "https://storage.googleapis.com/tff-datasets-public/emnist_all.sqlite.lzma"

TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_X, TEST_Y = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"

TEXTS = ("banking77", "ag_news", "shakespeare")

# data/README.md says where each checksum comes from.
FILES: dict[str, dict[str, Remote]] = {
    "mnist": {
        TRAIN_X: Remote(f"{_MNIST}/{TRAIN_X}", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
        TRAIN_Y: Remote(f"{_MNIST}/{TRAIN_Y}", "md5:d53e105ee54ea40749a09fcbcd1e9432", 28_881),
        TEST_X: Remote(f"{_MNIST}/{TEST_X}", "md5:9fb629c4189551a2d022fa330f9573f3", 1_648_877),
        TEST_Y: Remote(f"{_MNIST}/{TEST_Y}", "md5:ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    },
    "fashion_mnist": {
        TRAIN_X: Remote(
            f"{_FASHION}/{TRAIN_X}", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880
        ),
        TRAIN_Y: Remote(f"{_FASHION}/{TRAIN_Y}", "md5:25c81989df183df01b3e8a0aad5dffbe", 29_515),
        TEST_X: Remote(f"{_FASHION}/{TEST_X}", "md5:bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        TEST_Y: Remote(f"{_FASHION}/{TEST_Y}", "md5:bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    },
    "cifar10": {
        "cifar-10-python.tar.gz": Remote(
            _CIFAR10, "md5:c58f30108f718f92721af3b95e74349a", 170_498_071
        )
    },
    "femnist": {
        "emnist_all.sqlite.lzma": Remote(
            _FEMNIST,
            "sha256:c3aaf91b4cf4e69d53d81627ad119eccdc878ff906f68e66063ff10f67faad48",
            170_507_172,
            4_708_990_976,
        )
    },
    "banking77": {
        "train.csv": Remote(
            f"{_BANKING77}/train.csv",
            "sha256:b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
            839_073,
        ),
        "test.csv": Remote(
            f"{_BANKING77}/test.csv",
            "sha256:d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
            239_961,
        ),
    },
    "ag_news": {
        "train.csv": Remote(
            f"{_AG_NEWS}/train.csv", "md5:b1a00f826fdfbd249f79597b59e1dc12", 29_470_338
        ),
        "test.csv": Remote(
            f"{_AG_NEWS}/test.csv", "md5:d52ea96a97a2d943681189a97654912d", 1_857_427
        ),
    },
    "shakespeare": {
        "input.txt": Remote(
            _SHAKESPEARE,
            "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            1_115_394,
        )
    },
}


def cache_root() -> Path:
    """Return the cache's folder: ``$FEDLAB_DATA``, or that of the checkout or of the user.

    A checkout has the folders ``notebooks`` and ``data`` beside ``fedlab``; an installed package
    has not.
    """
    if chosen := os.environ.get("FEDLAB_DATA"):
        return Path(chosen)
    checkout = PACKAGE.parent
    if (checkout / "notebooks").is_dir() and (checkout / "data").is_dir():
        return checkout / "data" / "cache"
    from platformdirs import user_cache_path

    return user_cache_path("fedlab")


def folder(name: str) -> Path:
    """Return the folder of a data set's files.

    Example:
        >>> folder("mnist").name
        'mnist'
    """
    return cache_root() / name


def missing(name: str) -> dict[str, Remote]:
    """Return the files of a set that are not in the cache.

    A packed file is not missing if it was unpacked.
    """
    root = folder(name)
    return {
        file: remote
        for file, remote in FILES[name].items()
        if not (root / file).exists()
        and not (remote.unpacked and (root / file).with_suffix("").exists())
    }


def locate(name: str, file: str) -> Path:
    """Return the path of a file in the cache.

    Its checksum is verified once per process; that of an unpacked file when it was fetched.

    Raises:
        FileNotFoundError: If the file is not there; the message says how to fetch it, and its size.
        ValueError: If the checksum differs.
    """
    path = folder(name) / file
    if not path.exists():
        offline = "load_texts('docs')" if name in TEXTS else "load('digits')"
        raise FileNotFoundError(
            f"{name} must be fetched first ({path} is not there). "
            f"Try `python -m fedlab data {name}`, which fetches {_size(missing(name))}, or "
            f"{offline}, which needs no network"
        )
    if file in FILES[name]:
        verify(path, FILES[name][file])
    return path


def fetch(name: str) -> Path:
    """Download the missing files of a data set.

    A second call downloads nothing. An interrupted download (Ctrl-C, a lost connection) leaves its
    part in a ``.part`` file, which the next call resumes. A file gets its own name only when its
    checksum is right. An existing file is never overwritten.

    Args:
        name: The name of the set, such as ``"mnist"``.

    Returns:
        The folder of the set.

    Raises:
        ConnectionError: If a download breaks, or is refused.
        OSError: If the folder cannot be written.
        ValueError: If a checksum differs, or the name is unknown.
    """
    if name not in FILES:
        raise ValueError(
            f"name={name!r} must be one of {', '.join(FILES)} (there is nothing else to fetch). "
            f"Try fetch({next(iter(FILES), '')!r})"
        )
    target, absent = folder(name), missing(name)
    for file, remote in FILES[name].items():
        if (target / file).exists():
            verify(target / file, remote)
    if absent:
        _make_writable(target)
    for file, remote in absent.items():
        download(name, target / file, remote)
    for file, remote in FILES[name].items():
        if remote.unpacked:
            unpack(target / file, remote.unpacked)
    return target


def main(names: Sequence[str]) -> int:
    """Run ``python -m fedlab data NAME ...``: fetch the sets, or list all sets.

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C.
    """
    for name, files in FILES.items() if not names else ():
        present = len(files) - len(missing(name))
        print(f"{name:14} {present} of {len(files)} files, {_size(files)}, in {folder(name)}")
    try:
        for name in names:
            print(f"{name}: {fetch(name)}")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes the download", file=sys.stderr)
        return 130
    return 0


def verify(path: Path, remote: Remote) -> None:
    """Raise ValueError unless a file has its published checksum; verified once per process."""
    algorithm, published = remote.checksum.split(":")
    status = path.stat()
    digest = _digest(path, algorithm, status.st_size, status.st_mtime_ns)
    if digest != published:
        raise ValueError(
            f"{path} must have the {algorithm} {published}, and it has {digest} (it is damaged, or "
            "another file). Try moving it away and fetching it again"
        )


def _size(files: dict[str, Remote]) -> str:
    """Return the size of a download in words."""
    packed = sum(remote.size for remote in files.values())
    unpacked = sum(remote.unpacked for remote in files.values())
    return f"{packed / 1e6:.1f} MB" + f" ({unpacked / 1e9:.1f} GB unpacked)" * (unpacked > 0)


def _make_writable(path: Path) -> None:
    """Create a folder; raise OSError if no file can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            f"{path} must be writable ({error.strerror}). Try setting FEDLAB_DATA to another folder"
        ) from error


@cache
def _digest(path: Path, algorithm: str, size: int, changed: int) -> str:
    """Return the checksum of a file with this size and time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
