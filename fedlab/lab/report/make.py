"""Notebooks in, a page of results out: ``python -m fedlab report``.

Each notebook runs through papermill, its outputs are judged, and a page is written that needs no network, with an index of
all pages.  What has not changed since its last good run is not run again.

A report is a folder: ``report.html``, ``executed.ipynb``, ``metrics.json``, ``thumbnail.png``, and ``run.json``, which is
written last and holds the checksums of the others: a folder left half-replaced is noticed and made anew.

papermill and nbconvert take seconds to import, so they are imported where they are needed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlab.lab.course import (
    ROOT,
    Lesson,
    cell_tags,
    list_lessons,
    load_notebook,
    read_parameters,
    usable_cores,
)
from fedlab.lab.report import metrics
from fedlab.lab.report import render as page
from fedlab.lab.report import validate as judge
from fedlab.lab.report.jobs import Report, ReportError, Sources, is_numbers, planned, read

if TYPE_CHECKING:
    from nbformat import NotebookNode


TIMEOUT = 3600  # seconds that a notebook may take, if nothing else is asked for

REASON = 400  # characters of what stopped a run; the page has the rest

JOBS = 4  # notebooks at once, where there are as many cores: a kernel takes a gigabyte of memory


# -- the command
def main(argv: list[str] | None = None, *, root: Path = ROOT) -> int:
    """Exit status: 0 all is well, 1 some report is not or cannot be written, 2 asked for wrongly, 130 interrupted."""
    try:
        return _make(_arguments(argv), Path(root).resolve())
    except ReportError as refused:
        print(f"report: {refused}", file=sys.stderr)
        return refused.code
    except OSError as error:
        print(f"report: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("report: interrupted; the reports made before are whole", file=sys.stderr)
        return 130


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m fedlab report", description="Run notebooks and write their reports."
    )
    add = parser.add_argument
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help="a notebook, its number, or a piece of its name; all if left out",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a parameter of the notebooks",
    )
    add("--scale", help="short for --set scale=…: fast or full")
    add("--force", action="store_true", help="run also what is up to date")
    add(
        "--check",
        action="store_true",
        help="compare with the committed numbers and leave them as they are",
    )
    at_once = min(usable_cores(), JOBS)
    add(
        "--jobs",
        type=int,
        default=at_once,
        metavar="N",
        help=f"how many notebooks run at once; {at_once} if left out",
    )
    limit = f"how long a notebook may take; {TIMEOUT} if left out"
    add("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help=limit)
    parser.error = _refuse
    asked = parser.parse_intermixed_args(argv)
    if asked.jobs < 1:
        raise ReportError(f"--jobs {asked.jobs}: at least 1 notebook runs at once")
    if not 0 < asked.timeout < math.inf:
        raise ReportError(
            f"--timeout {asked.timeout:g}: a notebook takes some seconds; give more than 0, and no infinity"
        )
    if asked.scale:
        asked.set.append(f"scale={asked.scale}")
    if asked.check and asked.set:
        raise ReportError(
            "--check compares numbers of the default parameters: leave out --set and --scale"
        )
    return asked


def _refuse(message: str) -> None:
    raise ReportError(f"{message}; --help says what there is")


def _make(asked: argparse.Namespace, root: Path) -> int:
    try:
        lessons = list_lessons(root / "notebooks")
        reports = planned(asked.names, asked.set, lessons, root)
    except ValueError as error:
        raise ReportError(error) from None
    now = Sources.of(root, lessons)
    _sweep(root / "reports")
    stale = [report for report in reports if asked.force or not report.stands(now)]
    _run_all(stale, now, asked.jobs, asked.timeout)
    for report in reports:
        if report not in stale and report.last_run["page_key"] != report.page_key(now):
            _render_again(report, now)
    bad = {report: report.last_run for report in reports if report.last_run["status"] != "pass"}
    trouble = [f"{report.slug}: {run['status']}, {run['reason']}" for report, run in bad.items()]
    trouble += _settled(
        [report for report in reports if not report.changed and report not in bad], asked.check
    )
    index, left_out = page.index(root, lessons, now)
    _write_index(root, index.encode())
    for line in left_out + trouble:
        print(f"report: {line}", file=sys.stderr)
    kept = len(reports) - len(stale)
    print(
        f"{len(stale)} run, {kept} up to date, {len(bad)} failed: {root / 'reports' / 'index.html'}"
    )
    return 1 if trouble else 0


# -- running
def _run_all(reports: list[Report], now: Sources, jobs: int, limit: float) -> None:
    """Run each and go on after a failure.  An interrupt stops the kernels and leaves the reports before it as they are."""
    if not reports:
        return
    reports = sorted(
        reports, key=_expected, reverse=True
    )  # the longest first: then all cores have work until the end
    defaults = [_defaults(report.lesson) for report in reports]
    _need_kernel()
    for folder in (reports[0].root / "reports" / "metrics", *(report.folder for report in reports)):
        _need_writable(folder)
    stopping = threading.Event()
    with (
        _kernels(min(jobs, len(reports))),
        Progress(reports, jobs) as progress,
        ThreadPoolExecutor(jobs) as pool,
    ):
        runs = [
            pool.submit(_run, report, parameters | report.changed, now, progress, stopping, limit)
            for report, parameters in zip(reports, defaults, strict=True)
        ]
        try:
            for run in as_completed(runs):
                run.result()
        except BaseException:
            stopping.set()
            _stop(runs)
            raise


@contextlib.contextmanager
def _kernels(together: int) -> Iterator[None]:
    """The environment of kernels of which so many run at once."""
    before = dict(os.environ)
    os.environ["FEDLAB_HEADLESS"] = "1"  # panels show their states as pictures
    if (
        together > 1
    ):  # kernels that each take every core hinder each other: measured, 5 times slower than one by one
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // together)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _expected(report: Report) -> float:
    """The seconds that a report is likely to take: those of its last run, else what its notebook says."""
    return report.last_run.get("seconds", 60 * report.lesson.minutes)


def _defaults(lesson: Lesson) -> dict[str, Any]:
    try:
        return {name: parameter.default for name, parameter in read_parameters(lesson.path).items()}
    except ValueError as error:
        raise ReportError(error) from None


def _need_kernel() -> None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        raise ReportError(
            "no Jupyter kernel named python3; install it: python -m pip install ipykernel", code=1
        ) from None


def _stop(runs: list[Future]) -> None:
    """Kernels do not hear Ctrl-C themselves, and one may just be starting: kill until no run is left."""
    import psutil

    for run in runs:
        run.cancel()
    while wait(runs, timeout=0.2).not_done:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended since it was listed
                child.kill()


def _run(
    report: Report,
    parameters: dict[str, Any],
    now: Sources,
    progress: Progress,
    stopping: threading.Event,
    limit: float,
) -> None:
    keys = {
        "key": report.key(now),
        "page_key": report.page_key(now),
    }  # of what runs, though it be edited meanwhile
    began = time.perf_counter()
    executed, error = _execute(report, progress, limit)
    if stopping.is_set():
        return
    judge.drop_progress_bars(executed)
    if report.changed:
        judge.unjudge(executed)
    faults = judge.faults(executed)
    judge.without_widgets(executed)
    run = keys | {
        "notebook": report.lesson.name,
        "parameters": parameters,
        "changed": report.changed,
        "status": "error" if error else "fail" if faults else "pass",
        "reason": (error or "; ".join(dict.fromkeys(faults)))[:REASON],
        "seconds": round(time.perf_counter() - began, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": now.versions,
    }
    _write_report(report, executed, run)
    progress.end(report, run)


def _execute(report: Report, progress: Progress, limit: float) -> tuple[NotebookNode, str]:
    """The executed notebook, as far as it came within ``limit`` seconds, and what stopped it."""
    import nbformat
    import papermill
    from jupyter_core.utils import ensure_event_loop

    notebook = nbformat.from_dict(load_notebook(report.lesson.path))
    error, end = "", time.monotonic() + limit
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it has to say is in the report
    with tempfile.TemporaryDirectory(prefix="fedlab-", ignore_cleanup_errors=True) as scratch:
        path = Path(scratch) / "executed.ipynb"
        try:
            with contextlib.closing(
                ensure_event_loop()
            ):  # nbclient leaves its loop of this thread open
                papermill.execute_notebook(
                    notebook,
                    path,
                    report.changed,
                    kernel_name="python3",
                    progress_bar=False,
                    extra_arguments=[
                        "--log-level=CRITICAL"
                    ],  # else it warns of its loopback sockets
                    timeout_func=lambda cell: max(0.01, end - time.monotonic()),
                    resources={
                        "metadata": {"path": str(report.lesson.path.parent)}
                    },  # papermill's cwd is not for threads
                    on_cell_start=lambda cell, cell_index: progress.reach(report, cell_index),
                )
        except (
            Exception
        ) as raised:  # a cell's error, a timeout, a kernel that died: all become part of the report
            error = f"{type(raised).__name__}: {raised}".strip()
        executed = nbformat.read(path, as_version=4) if path.exists() else notebook
    executed.cells = [
        cell for cell in executed.cells if "papermill-error-cell-tag" not in cell_tags(cell)
    ]
    return executed, error and _blamed(executed, error, limit)


def _blamed(executed: NotebookNode, error: str, limit: float) -> str:
    """Where and what went wrong, in a line; a cell that was stopped from outside gets the error as its output."""
    from nbformat.v4 import new_output

    name, _, words = error.partition(": ")
    if name == "PapermillExecutionError":
        for cell in executed.cells:
            for output in judge.outputs(cell, "error"):
                return f"cell [{cell.execution_count}]: {judge.said(output)}"
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    started = [cell for cell in code if cell.metadata.get("papermill", {}).get("start_time")]
    for cell in started[-1:]:
        if name == "CellTimeoutError":
            first = next(iter(cell.source.strip().splitlines()), "")[:80]
            words = f"cell [{len(started)}], `{first}`, ran when the {limit:g} s of the notebook were over"
            error = f"{name}: {words}; mend it, or give it more with --timeout"
        kept = [
            output for output in cell.outputs if output.output_type != "error"
        ]  # not the interrupt that ended it
        cell.outputs = [
            *kept,
            new_output("error", ename=name, evalue=words, traceback=error.splitlines()),
        ]
    return error.splitlines()[0]


# -- writing a report
def _write_report(report: Report, executed: NotebookNode, run: dict[str, Any]) -> None:
    import nbformat

    recorded = _recorded(executed)
    files = {
        "report.html": page.render(report, executed, run, recorded).encode(),
        "executed.ipynb": nbformat.writes(executed).encode(),
        "metrics.json": _json(
            {"notebook": report.lesson.name, "parameters": run["parameters"], "metrics": recorded}
        ),
        "thumbnail.png": _thumbnail(executed),
    }
    files = {name: content for name, content in files.items() if content}
    headline = next(
        (metric for metric in recorded if metric["headline"]), recorded[0] if recorded else None
    )
    run["headline"] = headline and metrics.in_words(headline | {"expected": None})
    run["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    _publish(report.folder, files | {"run.json": _json(run)})
    if "thumbnail.png" not in files:
        (report.folder / "thumbnail.png").unlink(missing_ok=True)


def _recorded(executed: NotebookNode) -> list[dict[str, Any]]:
    try:
        return metrics.read(executed)
    except ValueError:  # two of one name: the run's reason says so
        return []


def _render_again(report: Report, now: Sources) -> None:
    """New text around the outputs of the last run."""
    import nbformat

    executed = nbformat.read(report.folder / "executed.ipynb", as_version=4)
    ran = [
        cell
        for cell in executed.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell_tags(cell)
    ]
    injected = [cell for cell in executed.cells if "injected-parameters" in cell_tags(cell)]
    fresh = nbformat.from_dict(load_notebook(report.lesson.path))
    code = [cell for cell in fresh.cells if cell.cell_type == "code"]
    for cell, done in zip(code, ran, strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    after = next(
        (at for at, cell in enumerate(fresh.cells, 1) if "parameters" in cell_tags(cell)), 0
    )
    executed.cells = fresh.cells[:after] + injected + fresh.cells[after:]
    _write_report(report, executed, report.last_run | {"page_key": report.page_key(now)})
    print(f"{report.slug}: text changed, page written anew")


def _thumbnail(executed: NotebookNode) -> bytes | None:
    """The first picture of the cell tagged ``thumbnail``, else of any."""
    cells = sorted(executed.cells, key=lambda cell: "thumbnail" not in cell_tags(cell))
    pictures = (
        output.data["image/png"]
        for cell in cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", ())
    )
    picture = next(pictures, None)
    return picture and base64.b64decode(picture)


def _json(what: Any) -> bytes:
    return (json.dumps(what, indent=1, ensure_ascii=False) + "\n").encode()


def _publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace the files, the last one last.  All are first written under other names: a full disk changes nothing."""
    drafts = {folder / f".{name}.{os.getpid()}.tmp": name for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for draft, name in drafts.items():
            draft.write_bytes(files[name])
        for draft, name in drafts.items():
            os.replace(draft, folder / name)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    finally:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.unlink()


def _need_writable(folder: Path) -> None:
    """Before an hour is spent on numbers that cannot be kept."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"?")
        probe.unlink()
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _cannot_write(folder: Path, error: OSError) -> ReportError:
    remedies = {
        errno.ENOSPC: "free some space and run again",
        errno.EDQUOT: "free some space and run again",
        errno.EEXIST: "a file stands where this folder belongs; move it away",
        errno.ENOTDIR: "a file stands where a folder belongs; move it away",
    }
    remedy = remedies.get(error.errno, "make it writable for you, or work on a copy")
    return ReportError(f"cannot write to {folder}: {error.strerror or error}; {remedy}", code=1)


def _sweep(reports: Path) -> None:
    """Remove what processes that were killed left half-written."""
    import psutil

    for draft in reports.glob("**/.*.tmp"):
        owner = draft.name.split(".")[-2]
        if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
            with contextlib.suppress(OSError):
                draft.unlink()


def _write_index(root: Path, content: bytes) -> None:
    path = root / "reports" / "index.html"
    if not path.is_file() or path.read_bytes() != content:
        _publish(path.parent, {path.name: content})


# -- the committed numbers
def _settled(reports: Iterable[Report], check: bool) -> list[str]:
    """Commit the numbers of good reports where they have really changed; with ``check``, say instead where they have."""
    trouble = []
    for report in reports:
        path = report.root / "reports" / "metrics" / f"{report.lesson.name}.json"
        before, now = read(path), read(report.folder / "metrics.json")
        damaged = before is not None and not is_numbers(before)
        if check and damaged:
            trouble.append(
                f"{report.slug}: its numbers are malformed; run without --check and commit reports/metrics"
            )
        elif check:
            trouble += [f"{report.slug}: {line}" for line in _differences(before, now)]
        elif (
            before is None or damaged or _frame(before) != _frame(now) or _differences(before, now)
        ):
            _publish(path.parent, {path.name: _json(now)})
    return trouble


def _differences(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    if before is None:
        return ["its numbers are not committed; run without --check and commit reports/metrics"]
    return metrics.moved(before["metrics"], now["metrics"])


def _frame(committed: dict[str, Any]) -> list:
    """All that is not measured."""
    words = ("name", "unit", "expected", "tolerance", "headline", "seeds")
    return [
        committed["parameters"],
        [[metric[word] for word in words] for metric in committed["metrics"]],
    ]


class Progress:
    """A bar over cells with the time left, judged by the last run; where nobody watches, a line a notebook."""

    def __init__(self, reports: list[Report], jobs: int):
        from tqdm import tqdm

        self._lock = threading.Lock()
        self._jobs = jobs
        self._seconds = {r.slug: _expected(r) for r in reports}
        self._cells = {r.slug: len(load_notebook(r.lesson.path)["cells"]) for r in reports}
        self._done = dict.fromkeys(self._cells, 0)
        print(f"{len(reports)} to run, about {self._left()}", flush=True)
        self._bar = tqdm(
            total=sum(self._cells.values()),
            disable=not sys.stdout.isatty(),
            file=sys.stdout,
            leave=False,
            bar_format="{desc}{bar}| {n_fmt}/{total_fmt} cells{postfix}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def reach(self, report: Report, cell_index: int) -> None:
        with self._lock:
            self._done[report.slug] = min(cell_index, self._cells[report.slug])
            self._show(report.slug)

    def end(self, report: Report, run: Mapping[str, Any]) -> None:
        with self._lock:
            self._done[report.slug] = self._cells[report.slug]
            self._bar.write(
                f"{report.slug}: {run['status']}, {page.duration(run['seconds'])}", file=sys.stdout
            )
            self._show(report.slug)

    def _show(self, slug: str) -> None:
        self._bar.set_description_str(f"{slug} ", refresh=False)
        self._bar.set_postfix_str(f"about {self._left()} left", refresh=False)
        self._bar.update(sum(self._done.values()) - self._bar.n)

    def _left(self) -> str:
        shares = (
            seconds * (1 - self._done[slug] / self._cells[slug])
            for slug, seconds in self._seconds.items()
        )
        return page.duration(sum(shares) / min(self._jobs, len(self._seconds)))


if __name__ == "__main__":
    sys.exit(main())
