"""Downloads of published files: resumed after an interruption, and checked at the end."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

TIMEOUT_SECONDS = 30  # of silence, after which a connection is given up
MIN_BYTES_PER_SECOND = 100  # a slower download would never end


class Remote(NamedTuple):
    """A published file.

    Attributes:
        url: Its address.
        checksum: Its checksum as ``algorithm:digest``.
        size: Its number of bytes as they are sent.
        unpacked: Its number of bytes after unpacking; 0 if it is read as it is.
    """

    url: str
    checksum: str
    size: int
    unpacked: int = 0


class Refused(Exception):  # noqa: N818 - a server's answer is refused, which is no error of fedlab
    """An answer that is not the requested file: nothing of it is kept."""


def download(name: str, path: Path, remote: Remote) -> None:
    """Download a file; it gets its own name only with the right checksum (pooch sees to that).

    Args:
        name: The name of the data set, for errors.
        path: The path of the file.
        remote: Its address, checksum and size.

    Raises:
        ConnectionError: If the connection breaks, or if the answer is not the file.
        ValueError: If the checksum differs.
    """
    import pooch

    part = path.with_name(f"{path.name}.part")
    downloader = _resuming(part, remote.size)
    try:
        pooch.retrieve(
            remote.url, remote.checksum, fname=path.name, path=path.parent, downloader=downloader
        )
    except Refused as error:
        part.unlink(missing_ok=True)
        raise ConnectionError(
            f"{remote.url} must send the file ({error}); the answer was removed. "
            "Try again later, or another network"
        ) from error
    except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(
            f"{remote.url} must send the whole file ({reason}). The part that has arrived stays in "
            f"place. Try `python -m fedlab data {name}` again, which resumes the download"
        ) from error
    except ValueError as error:  # pooch found another checksum
        raise ValueError(
            f"{remote.url} must have the checksum {remote.checksum} (the file that arrived has "
            "another one, and was removed). Try again; if that does not help, the publisher has "
            "changed the file"
        ) from error


def unpack(packed: Path, size: int) -> None:
    """Decompress an LZMA file of ``size`` bytes beside itself, without its last suffix.

    The new file gets its name only when it is complete.

    Raises:
        ValueError: If there are more bytes than ``size``.
    """
    import lzma

    path = packed.with_suffix("")
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    written = 0
    with lzma.open(packed) as source, part.open("wb") as target:
        while (piece := source.read(2**20)) and written <= size:
            written += target.write(piece)
    if written > size:
        part.unlink()
        raise ValueError(
            f"{packed} must unpack to {size:,} bytes, and it has more. "
            "Try moving it away and fetching it again"
        )
    os.replace(part, path)


def _resuming(part: Path, size: int) -> Callable[[str, str, object], None]:
    """Return a downloader for pooch that resumes ``part`` with an HTTP range.

    It hands over only a file of ``size`` bytes.
    """

    def fetch(url: str, output_file: str, _pooch: object) -> None:
        start = part.stat().st_size if part.exists() else 0
        start = start if start <= size else 0
        request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            opener = build_opener(SafeRedirects)
            with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                # A server that knows no ranges sends everything again.
                start = start if answer.status == 206 else 0
                _check_answer(answer, start, size)
                _write(answer, part, start, size)
        except HTTPError as error:
            error.close()
            # 416: nothing lies beyond the part, and the checksum decides whether that is all.
            if error.code != 416:
                raise
        if part.stat().st_size < size:
            raise ConnectionError(
                f"the connection broke after {part.stat().st_size:,} of {size:,} bytes"
            )
        os.replace(part, output_file)

    return fetch


def _write(answer: HTTPResponse, part: Path, start: int, size: int) -> None:
    """Append an answer to ``part`` from byte ``start`` on, with a progress bar."""
    from tqdm import tqdm

    bar = tqdm(desc=part.stem, total=size, initial=start, unit="B", unit_scale=True)
    with bar, part.open("ab" if start else "wb") as file:
        for piece in _pieces(answer):
            start += len(piece)
            if start > size:
                raise Refused(f"the server sends more than the {size:,} bytes that the file has")
            file.write(piece)
            bar.update(len(piece))


class SafeRedirects(HTTPRedirectHandler):
    """Redirects within a scheme, and from http to https; others are refused."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Follow a redirect, or raise Refused.

        Args:
            req: The request that is redirected.
            fp: The answer.
            code: Its status.
            msg: Its reason.
            headers: Its headers.
            newurl: The new address.
        """
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in (before, "https"):
            fp.close()
            raise Refused(
                f"the server redirects from {before} to {after} ({newurl}), which is not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req, fp, code, msg, headers):
        """Refuse other schemes, which urllib would refuse with another message.

        Args:
            req: The request that is redirected.
            fp: The answer.
            code: Its status.
            msg: Its reason.
            headers: Its headers, with the new address.
        """
        target = urlsplit(headers.get("location", ""))
        if target.scheme not in ("", "http", "https"):
            self.redirect_request(req, fp, code, msg, headers, target.geturl())
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _check_answer(answer: HTTPResponse, start: int, size: int) -> None:
    """Raise Refused if an answer's headers say that it is not the rest of the file."""
    if answer.status not in (200, 206):
        raise Refused(f"the server answers with the status {answer.status} and no file")
    coding = answer.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise Refused(f"the server sends the encoding {coding!r}, which was not requested")
    span = answer.headers.get("Content-Range")
    if answer.status == 206 and span is not None:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", span.strip())
        if not match or int(match[1]) != start:
            raise Refused(
                f"the server sends the range {span!r} in place of the bytes from {start:,} on"
            )
    length = answer.headers.get("Content-Length")
    if length is None:
        return
    if not length.strip().isdecimal():
        raise Refused(f"the server sends Content-Length: {length!r}, which is no number of bytes")
    if start + int(length) != size:
        raise Refused(
            f"the server has a file of {start + int(length):,} bytes, and {size:,} are known: it "
            "is another file"
        )


def _pieces(answer: HTTPResponse) -> Iterator[bytes]:
    """Yield the content as it arrives; raise TimeoutError if it is too slow to come to an end."""
    began, arrived = time.monotonic(), 0
    while piece := answer.read1(2**16):
        yield piece
        arrived += len(piece)
        if (passed := time.monotonic() - began) > TIMEOUT_SECONDS:
            if arrived < MIN_BYTES_PER_SECOND * passed:
                raise TimeoutError(f"only {arrived:,} bytes came in {passed:.0f} seconds")
            began, arrived = time.monotonic(), 0
