"""Downloads, asked for by name: checksummed, resumable, and never made by themselves.

``python -m fedlab data mnist`` puts files into ``data/cache/mnist/``, or into ``$FEDLAB_DATA/mnist/`` where that is set.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

SECONDS = 30  # of silence after which a connection is given up
SLOWEST = 100  # bytes a second, below which a download would never end


class Remote(NamedTuple):
    """A published file: its address, its checksum as ``algorithm:digest``, its bytes as they are sent and unpacked."""

    url: str
    checksum: str
    size: int
    unpacked: int = 0  # 0: it is read as it is


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


def folder(name: str) -> Path:
    """Where the files of a set lie."""
    root = os.environ.get("FEDLAB_DATA")
    return (Path(root) if root else Path(__file__).parents[2] / "data" / "cache") / name


def missing(name: str) -> dict[str, Remote]:
    """The files of a set that are not there; one that was unpacked is no longer needed."""
    here = folder(name)
    return {
        file: remote
        for file, remote in FILES[name].items()
        if not (here / file).exists()
        and not (remote.unpacked and (here / file).with_suffix("").exists())
    }


def locate(name: str, file: str) -> Path:
    """A file of the cache, its checksum verified once a process (of what ``fetch`` unpacks: when it was fetched).

    Raises FileNotFoundError, which says what to fetch and how large it is, and ValueError for another checksum.
    """
    path = folder(name) / file
    if not path.exists():
        raise FileNotFoundError(
            f"{name}: {path} is not there; `python -m fedlab data {name}` fetches {_size(missing(name))}, "
            f"and '{'docs' if name in TEXTS else 'digits'}' works without a network"
        )
    if file in FILES[name]:
        verify(path, FILES[name][file])
    return path


def fetch(name: str) -> Path:
    """Download what is missing of a set; gives its folder.  A second call downloads nothing.

    An interrupted download (Ctrl-C, a lost connection) leaves what has arrived in a ``.part`` file: the next call goes on
    from there.  A file bears its own name only once its checksum was found right; one that lies there is never overwritten.
    Raises ConnectionError, OSError for a folder that cannot be written, ValueError for a wrong checksum or an unknown name.
    """
    if name not in FILES:
        raise ValueError(f"nothing to fetch for {name!r}: there are {', '.join(FILES)}")
    target, absent = folder(name), missing(name)
    for file, remote in FILES[name].items():
        if (target / file).exists():
            verify(target / file, remote)
    if absent:
        _writable(target)
    for file, remote in absent.items():
        _download(name, target / file, remote)
    for file, remote in FILES[name].items():
        if remote.unpacked:
            _unpack(target / file, remote.unpacked)
    return target


def main(names: Sequence[str]) -> int:
    """``python -m fedlab data NAME ...`` fetches; without names it lists what there is."""
    for name, files in FILES.items() if not names else ():
        print(
            f"{name:14} {len(files) - len(missing(name))} of {len(files)} files, {_size(files)}, in {folder(name)}"
        )
    try:
        for name in names:
            print(f"{name}: {fetch(name)}")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nstopped; what has arrived is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    return 0


def _size(files: dict[str, Remote]) -> str:
    """What a download weighs, in words."""
    unpacked = sum(remote.unpacked for remote in files.values())
    return (
        f"{sum(remote.size for remote in files.values()) / 1e6:.1f} MB"
        + f" ({unpacked / 1e9:.1f} GB unpacked)" * (unpacked > 0)
    )


def _download(name: str, path: Path, remote: Remote) -> None:
    """One file, under its own name only with the right checksum: pooch sees to that."""
    import pooch

    part = path.with_name(f"{path.name}.part")
    again = f"`python -m fedlab data {name}` goes on from there"
    try:
        pooch.retrieve(
            remote.url,
            remote.checksum,
            fname=path.name,
            path=path.parent,
            downloader=_resuming(part, remote.size),
        )
    except _Refused as error:
        part.unlink(missing_ok=True)
        raise ConnectionError(
            f"{remote.url}: {error}; nothing of it was kept. Try again later, or another network"
        ) from error
    except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
        told = getattr(error, "reason", error)
        raise ConnectionError(
            f"{remote.url}: {told}; what has arrived is kept, and {again}"
        ) from error
    except ValueError as error:  # pooch's word for another checksum
        raise ValueError(
            f"{remote.url}: what arrived has not the checksum {remote.checksum} and was removed; "
            "fetch again, and if that does not help, the publisher has changed the file"
        ) from error


class _Refused(Exception):  # noqa: N818 - the download is refused, and whatever has arrived is not kept
    """An answer that is not the file that was asked for."""


def _resuming(part: Path, size: int) -> Callable[[str, str, object], None]:
    """A downloader for pooch: it goes on from ``part`` with an HTTP range, and hands over only ``size`` bytes."""

    def download(url: str, output_file: str, _pooch: object) -> None:
        from tqdm import tqdm

        have = part.stat().st_size if part.exists() else 0
        have = have if have <= size else 0
        request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with build_opener(_SameScheme).open(request, timeout=SECONDS) as answer:
                have = (
                    have if answer.status == 206 else 0
                )  # a server that knows no ranges sends everything again
                _check_answer(answer, have, size)
                bar = tqdm(desc=part.stem, total=size, initial=have, unit="B", unit_scale=True)
                with bar, part.open("ab" if have else "wb") as file:
                    for piece in _pieces(answer):
                        have += len(piece)
                        if have > size:
                            raise _Refused(
                                f"the server sends more than the {size:,} bytes that the file has"
                            )
                        file.write(piece)
                        bar.update(len(piece))
        except HTTPError as error:
            error.close()
            if (
                error.code != 416
            ):  # 416: nothing lies beyond what is here, and the checksum will tell whether that is all
                raise
        if part.stat().st_size < size:
            raise ConnectionError(
                f"the connection broke after {part.stat().st_size:,} of {size:,} bytes"
            )
        os.replace(part, output_file)

    return download


class _SameScheme(HTTPRedirectHandler):
    """Follows redirects within a scheme, and from http to https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in (before, "https"):
            fp.close()
            raise _Refused(
                f"the server redirects from {before} to {after} ({newurl}), which is not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req, fp, code, msg, headers):
        target = urlsplit(headers.get("location", ""))
        if target.scheme not in (
            "",
            "http",
            "https",
        ):  # which urllib itself would refuse in other words
            self.redirect_request(req, fp, code, msg, headers, target.geturl())
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _check_answer(answer: HTTPResponse, have: int, size: int) -> None:
    """Raise _Refused for an answer whose headers say that it is not the rest of the file."""
    if answer.status not in (200, 206):
        raise _Refused(f"the server answers with the status {answer.status} and no file")
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise _Refused(
            f"the server sends the file in the encoding {coding!r}, which was not asked for"
        )
    span = answer.headers.get("Content-Range")
    if answer.status == 206 and span is not None:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", span.strip())
        if not found or int(found[1]) != have:
            raise _Refused(
                f"the server sends the range {span!r} in place of the bytes from {have:,} on"
            )
    length = answer.headers.get("Content-Length")
    if length is None:
        return
    if not length.strip().isdecimal():
        raise _Refused(f"the server says Content-Length: {length!r}, which is no number of bytes")
    if have + int(length) != size:
        raise _Refused(
            f"the server has a file of {have + int(length):,} bytes, and {size:,} are known: it is another file"
        )


def _pieces(answer: HTTPResponse) -> Iterator[bytes]:
    """The content as it arrives; TimeoutError where that is too slow to come to an end."""
    began, arrived = time.monotonic(), 0
    while piece := answer.read1(2**16):
        yield piece
        arrived += len(piece)
        if (passed := time.monotonic() - began) > SECONDS:
            if arrived < SLOWEST * passed:
                raise TimeoutError(f"only {arrived:,} bytes came in {passed:.0f} seconds")
            began, arrived = time.monotonic(), 0


def _unpack(packed: Path, size: int) -> None:
    """Decompress a file of ``size`` bytes beside itself, without its last suffix; under that name only when whole."""
    import lzma

    path = packed.with_suffix("")
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    written = 0
    with lzma.open(packed) as source, part.open("wb") as goal:
        while (piece := source.read(2**20)) and written <= size:
            written += goal.write(piece)
    if written > size:
        part.unlink()
        raise ValueError(
            f"{packed} unpacks to more than the {size:,} bytes that are known: move it away, then fetch again"
        )
    os.replace(part, path)


def _writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror}): set FEDLAB_DATA to a folder that can"
        ) from error


def verify(path: Path, remote: Remote) -> None:
    algorithm, wanted = remote.checksum.split(":")
    status = path.stat()
    found = _digest(path, algorithm, status.st_size, status.st_mtime_ns)
    if found != wanted:
        raise ValueError(
            f"{path} has the {algorithm} {found} and not {wanted}: damaged, or another file; move it away, then fetch again"
        )


@cache
def _digest(path: Path, algorithm: str, size: int, changed: int) -> str:
    """The checksum of a file as it was at that time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
