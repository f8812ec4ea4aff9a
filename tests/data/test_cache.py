import hashlib
import io
import lzma
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import platformdirs
import pooch  # noqa: F401 - imported before a test gives up the right to read it
import pytest
import tqdm  # noqa: F401 - likewise

from fedlab.data import cache, download, fetch
from fedlab.data.cache import Remote, locate, main

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Server of ``CONTENT`` on its own port.

    It can break off or stall after ``stop`` bytes, and ignore ranges.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.sent, self.ranges, self.stop, self.go_on = [], CONTENT, True, None, None
        self.headers, self.endless, self.redirect, self.drip = {}, False, None, None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/toy.bin"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if self.path != "/toy.bin" or start >= len(server.sent):
            self.send_error(416 if start else 404)
            return
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        body = server.sent[start:]
        self.send_response(206 if wanted and server.ranges else 200)
        headers = {"Content-Length": str(len(body))}
        if wanted and server.ranges:
            headers["Content-Range"] = f"bytes {start}-{len(server.sent) - 1}/{len(server.sent)}"
        for name, value in (headers | server.headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            while server.endless:
                self.wfile.write(body)
            for byte in body[:20] if server.drip else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(server.drip)
            self.wfile.write(body[: server.stop])
        if server.go_on:
            self.wfile.flush()
            server.go_on.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Server()
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    checksum = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    monkeypatch.setattr(
        cache, "FILES", {"toy": {"toy.bin": Remote(server.url, checksum, len(CONTENT))}}
    )
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    yield server
    server.shutdown()
    server.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_call_downloads_nothing(server, tmp_path):
    assert fetch("toy") == tmp_path / "toy"
    assert locate("toy", "toy.bin").read_bytes() == CONTENT
    assert fetch("toy") == tmp_path / "toy"
    assert server.asked == [None]
    assert names(tmp_path / "toy") == ["toy.bin"]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.stop = 100_000
    with pytest.raises(
        ConnectionError,
        match=(
            r"toy\.bin must send the whole file \(the connection broke after 100,000 of "
            r"300,000 bytes\)\. The part that has arrived stays in place\. Try `python -m "
            r"fedlab data toy` again, which resumes the download"
        ),
    ):
        fetch("toy")
    assert names(tmp_path / "toy") == ["toy.bin.part"]
    with pytest.raises(FileNotFoundError):
        locate("toy", "toy.bin")
    with pytest.raises(ConnectionError, match=r"after 200,000 of 300,000"):
        fetch("toy")
    server.stop = None
    assert (fetch("toy") / "toy.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]
    assert names(tmp_path / "toy") == ["toy.bin"]


@pytest.mark.slow
def test_ctrl_c_keeps_what_has_arrived(server, tmp_path):
    server.stop, server.go_on = 200_000, threading.Event()
    code = (
        "import sys; from fedlab.data import cache\n"
        f"cache.FILES = {{'toy': {{'toy.bin': cache.{cache.FILES['toy']['toy.bin']!r}}}}}\n"
        "sys.exit(cache.main(['toy']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    part, patience = tmp_path / "toy" / "toy.bin.part", time.monotonic() + 60
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < patience
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    server.go_on.set()
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("stopped; the same command resumes the download")
    assert names(tmp_path / "toy") == ["toy.bin.part"]
    have = part.stat().st_size
    server.stop, server.go_on = None, None
    assert (fetch("toy") / "toy.bin").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={have}-"]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("have", [1, 299_999, 300_000])
def test_any_part_becomes_the_whole(server, tmp_path, have, ranges):
    server.ranges = ranges
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.bin.part").write_bytes(CONTENT[:have])
    assert (fetch("toy") / "toy.bin").read_bytes() == CONTENT
    assert names(tmp_path / "toy") == ["toy.bin"]


@pytest.mark.parametrize("part", [b"", b"not the beginning of it"])
def test_a_wrong_checksum_removes_what_arrived(server, tmp_path, part):
    if not part:
        server.sent = CONTENT[:-1] + b"?"
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.bin.part").write_bytes(part)
    with pytest.raises(
        ValueError,
        match=(
            r"toy\.bin must have the checksum md5:\w+ \(the file that arrived has another "
            r"one, and was removed\)\. Try again; if that does not help, the publisher "
            r"has changed the file"
        ),
    ) as error:
        fetch("toy")
    assert "\n" not in str(error.value)
    assert names(tmp_path / "toy") == []
    server.sent = CONTENT
    assert (fetch("toy") / "toy.bin").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_fetched_anew(server, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.bin.part").write_bytes(CONTENT + b"and more")
    assert (fetch("toy") / "toy.bin").read_bytes() == CONTENT
    assert server.asked == [None]


REFUSED = {
    "an endless answer": (
        {"endless": True, "headers": {"Content-Length": None}},
        "the server sends more than the 300,000 bytes that the file has",
    ),
    "a length that is no number": (
        {"headers": {"Content-Length": "abc"}},
        "the server sends Content-Length: 'abc', which is no number of bytes",
    ),
    "a negative length": (
        {"headers": {"Content-Length": "-5"}},
        "the server sends Content-Length: '-5', which is no number",
    ),
    "a longer file": (
        {"headers": {"Content-Length": "300001"}},
        "the server has a file of 300,001 bytes, and 300,000 are known: it is another file",
    ),
    "a shorter file": (
        {"sent": CONTENT[:-1]},
        "the server has a file of 299,999 bytes, and 300,000 are known",
    ),
    "an empty file": ({"headers": {"Content-Length": "0"}}, "the server has a file of 0 bytes"),
    "a packed answer": (
        {"headers": {"Content-Encoding": "gzip"}},
        "the server sends the encoding 'gzip', which was not requested",
    ),
    "a redirect to a file": (
        {"redirect": "file:///etc/passwd"},
        r"the server redirects from http to file \(file:///etc",
    ),
    "a redirect to FTP": (
        {"redirect": "ftp://127.0.0.1/toy.bin"},
        "the server redirects from http to ftp",
    ),
    "a redirect to data": ({"redirect": "data:,x"}, "the server redirects from http to data"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_that_is_not_the_file_is_refused(server, tmp_path, name):
    settings, reason = REFUSED[name]
    for setting, value in settings.items():
        setattr(server, setting, value)
    with pytest.raises(
        ConnectionError, match=rf"must send the file \({reason}.*\); the answer was removed\. Try"
    ) as caught:
        fetch("toy")
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "toy") == []
    server.headers, server.endless, server.redirect, server.sent = {}, False, None, CONTENT
    assert (fetch("toy") / "toy.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "span", ["bytes 0-299999/300000", "bytes 99-299999/300000", "furlongs 1-2/3", "bytes */300000"]
)
def test_another_range_than_was_asked_for_is_refused(server, tmp_path, span):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.bin.part").write_bytes(CONTENT[:100])
    server.headers = {"Content-Range": span}
    with pytest.raises(
        ConnectionError, match=r"the server sends the range '.*' in place of the bytes from 100 on"
    ):
        fetch("toy")
    server.headers = {}
    assert (fetch("toy") / "toy.bin").read_bytes() == CONTENT


def test_a_redirect_within_the_scheme_is_followed_and_a_circle_ends(server):
    second_server = Server()
    threading.Thread(
        target=second_server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    second_server.redirect = server.url
    remote = cache.FILES["toy"]["toy.bin"]
    cache.FILES["toy"]["toy.bin"] = remote._replace(url=second_server.url)
    server.redirect = second_server.url
    with pytest.raises(ConnectionError, match="redirect"):
        fetch("toy")
    server.redirect = None
    assert (fetch("toy") / "toy.bin").read_bytes() == CONTENT
    second_server.shutdown()
    second_server.server_close()


def test_https_never_becomes_http():
    with pytest.raises(download.Refused, match="redirects from https to http"):
        download.SafeRedirects().redirect_request(
            download.Request("https://a/b"), io.BytesIO(), 302, "", {}, "http://a/b"
        )
    secure = download.SafeRedirects().redirect_request(
        download.Request("http://a/b"), None, 302, "", {}, "https://a/b"
    )
    assert secure.full_url == "https://a/b"


@pytest.mark.slow
def test_a_server_that_drips_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 2)  # also the time to connect, with busy cores
    monkeypatch.setattr(download, "MIN_BYTES_PER_SECOND", 10_000)
    server.drip = 0.3
    with pytest.raises(
        ConnectionError,
        match=(
            r"toy\.bin must send the whole file \(only \d+ bytes came in [2-9] "
            r"seconds\)\. The part that has arrived stays in place\. Try `python -m "
            r"fedlab data toy` again, which resumes the download"
        ),
    ):
        fetch("toy")


@pytest.mark.slow
def test_a_server_that_says_nothing_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 2)  # also the time to connect, with busy cores
    server.stop, server.go_on = 1000, threading.Event()
    with pytest.raises(
        ConnectionError,
        match=(
            r"toy\.bin must send the whole file \(timed out\)\. The part that has arrived "
            r"stays in place\. Try `python -m fedlab data toy` again, which resumes the "
            r"download"
        ),
    ):
        fetch("toy")
    server.go_on.set()
    assert names(tmp_path / "toy") == ["toy.bin.part"]


def test_a_bomb_is_not_unpacked(server, tmp_path, monkeypatch):
    server.sent = packed = lzma.compress(bytes(10**7))
    remote = Remote(server.url, f"sha256:{hashlib.sha256(packed).hexdigest()}", len(packed), 1000)
    monkeypatch.setattr(cache, "FILES", {"toy": {"toy.sqlite.lzma": remote}})
    with pytest.raises(
        ValueError,
        match=(
            r"toy\.sqlite\.lzma must unpack to 1,000 bytes, and it has more\. Try moving "
            r"it away and fetching it again"
        ),
    ):
        fetch("toy")
    assert names(tmp_path / "toy") == ["toy.sqlite.lzma"]


def test_another_file_of_that_name_is_neither_read_nor_overwritten(server, tmp_path):
    (tmp_path / "toy").mkdir()
    file = tmp_path / "toy" / "toy.bin"
    file.write_bytes(b"mine")
    for call in (fetch, lambda name: locate(name, "toy.bin")):
        with pytest.raises(
            ValueError,
            match=(
                r"toy\.bin must have the md5 \w+, and it has \w+ \(it is damaged, or another "
                r"file\)\. Try moving it away and fetching it again"
            ),
        ):
            call("toy")
    assert file.read_bytes() == b"mine"
    assert server.asked == []
    file.write_bytes(CONTENT)  # a file that has changed is looked at again
    assert locate("toy", "toy.bin") == file


def test_a_folder_that_cannot_be_written_is_told_in_a_line(server, monkeypatch, capfd):
    with tempfile.TemporaryDirectory() as root:
        closed = Path(root) / "closed"
        closed.mkdir(mode=0o555)
        Path(root).chmod(0o755)
        monkeypatch.setenv("FEDLAB_DATA", str(closed))
        is_root = os.geteuid() == 0
        if is_root:  # who may write everywhere
            os.seteuid(65534)
        try:
            assert main(["toy"]) == 1
        finally:
            if is_root:
                os.seteuid(0)
    errors = capfd.readouterr().err.splitlines()
    assert errors == [
        f"{closed / 'toy'} must be writable (Permission denied). "
        "Try setting FEDLAB_DATA to another folder"
    ]
    assert server.asked == []


def test_a_file_where_the_folder_should_be(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "file"))
    with pytest.raises(
        OSError,
        match=(
            r"toy must be writable \(Not a directory\)\. Try setting FEDLAB_DATA to "
            r"another folder"
        ),
    ):
        fetch("toy")


def test_what_is_packed_is_unpacked_once_and_then_not_needed(server, tmp_path, monkeypatch):
    server.sent = packed = lzma.compress(CONTENT)
    remote = Remote(
        server.url, f"sha256:{hashlib.sha256(packed).hexdigest()}", len(packed), len(CONTENT)
    )
    monkeypatch.setattr(cache, "FILES", {"toy": {"toy.sqlite.lzma": remote}})
    with pytest.raises(
        FileNotFoundError,
        match=(
            r"toy must be fetched first \(.*toy\.sqlite is not there\)\. Try `python -m "
            r"fedlab data toy`, which fetches 0\.3 MB \(0\.0 GB unpacked\), or "
            r"load\('digits'\), which needs no network"
        ),
    ):
        locate("toy", "toy.sqlite")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.sqlite.part").write_bytes(b"a start that was broken off")
    assert (fetch("toy") / "toy.sqlite").read_bytes() == CONTENT
    assert names(tmp_path / "toy") == ["toy.sqlite", "toy.sqlite.lzma"]
    (tmp_path / "toy" / "toy.sqlite.lzma").unlink()
    assert locate("toy", "toy.sqlite") == fetch("toy") / "toy.sqlite"
    assert server.asked == [None]


def test_the_command(server, tmp_path, monkeypatch, capsys):
    assert main([]) == 0
    assert (
        capsys.readouterr().out.split()
        == f"toy 0 of 1 files, 0.3 MB, in {tmp_path / 'toy'}".split()
    )
    assert main(["toy"]) == 0
    assert capsys.readouterr().out == f"toy: {tmp_path / 'toy'}\n"
    assert main(["tyo"]) == 1
    assert (
        capsys.readouterr().err
        == "name='tyo' must be one of toy (there is nothing else to fetch). Try fetch('toy')\n"
    )
    gone = Remote(server.url.replace("toy", "gone"), "md5:0", 1)
    monkeypatch.setattr(cache, "FILES", {"toy": {"gone.bin": gone}})
    assert main(["toy"]) == 1
    assert f"{gone.url} must send the whole file (Not Found). The part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "size"), [("mnist", "11.6"), ("fashion_mnist", "30.9"), ("cifar10", "170.5")]
)
def test_a_missing_file_says_what_to_fetch(name, size, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    file = next(iter(cache.FILES[name]))
    with pytest.raises(
        FileNotFoundError,
        match=rf"{name} must be fetched first \(.*{file} is not there\)\. "
        rf"Try `python -m fedlab data {name}`, which fetches {size} MB",
    ) as e:
        locate(name, file)
    assert "load('digits'), which needs no network" in str(e.value)
    assert "\n" not in str(e.value)


def test_the_cache_lies_in_the_repository_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("FEDLAB_DATA", raising=False)
    assert cache.folder("mnist") == Path(__file__).parents[2] / "data" / "cache" / "mnist"


def test_the_cache_of_an_installed_package_is_the_users(tmp_path, monkeypatch):
    """A wheel has no ``notebooks`` and ``data`` beside ``fedlab``; FEDLAB_DATA wins over both."""
    monkeypatch.delenv("FEDLAB_DATA", raising=False)
    monkeypatch.setattr(cache, "PACKAGE", tmp_path / "site-packages" / "fedlab")
    assert cache.folder("mnist") == platformdirs.user_cache_path("fedlab") / "mnist"
    (tmp_path / "site-packages" / "data").mkdir(parents=True)
    assert cache.cache_root() == platformdirs.user_cache_path("fedlab")
    (tmp_path / "site-packages" / "notebooks").mkdir()
    assert cache.cache_root() == tmp_path / "site-packages" / "data" / "cache"
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    assert cache.folder("mnist") == tmp_path / "mnist"


def test_the_readme_knows_every_checksum():
    readme = (Path(__file__).parents[2] / "data" / "README.md").read_text()
    for name, files in cache.FILES.items():
        for file, remote in files.items():
            assert f"| `{file}` | {remote.size:,} | `{remote.checksum}` |" in readme, (name, file)


@pytest.mark.slow
def test_importing_the_data_fetches_no_downloader():
    code = (
        "import sys, fedlab.data; "
        "print([m for m in ('pooch', 'requests', 'sqlite3', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"
