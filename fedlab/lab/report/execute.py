"""Running of notebooks through papermill, several at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlab.lab.course import Lesson, cell_tags, load_notebook, read_parameters, usable_cores
from fedlab.lab.report import validate
from fedlab.lab.report.files import ReportError, require_writable
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.live import VARIABLE, count_panels, kernel_arguments
from fedlab.lab.report.progress import Progress, expected_seconds
from fedlab.lab.report.sources import Sources
from fedlab.lab.report.write import REASON_LENGTH, write_report

if TYPE_CHECKING:
    from nbformat import NotebookNode


def run_reports(reports: list[Report], sources: Sources, jobs: int, limit: float) -> None:
    """Run each report and go on after a failure.

    An interrupt stops the kernels, and leaves the reports on disk as they were before.

    Args:
        reports: Reports to run.
        sources: Sources of today.
        jobs: Number of notebooks that run at a time.
        limit: Seconds that a notebook may take.
    """
    if not reports:
        return
    # the longest first, so that all cores have work until the end
    reports = sorted(reports, key=expected_seconds, reverse=True)
    defaults = [_default_parameters(report.lesson) for report in reports]
    _require_kernel()
    for folder in (reports[0].root / "reports" / "metrics", *(report.folder for report in reports)):
        require_writable(folder)
    stopping = threading.Event()
    with (
        _kernel_environment(min(jobs, len(reports))),
        Progress(reports, jobs) as progress,
        ThreadPoolExecutor(jobs) as pool,
    ):
        runs = [
            pool.submit(
                _run, report, parameters | report.changed, sources, progress, stopping, limit
            )
            for report, parameters in zip(reports, defaults, strict=True)
        ]
        try:
            for run in as_completed(runs):
                run.result()
        except BaseException:
            stopping.set()
            stop_kernels(runs)
            raise


@contextlib.contextmanager
def _kernel_environment(together: int) -> Iterator[None]:
    """Set the environment of kernels, of which ``together`` run at a time."""
    before = dict(os.environ)
    os.environ["FEDLAB_HEADLESS"] = "1"  # panels show their states as pictures
    os.environ.pop(VARIABLE, None)  # each kernel of a live report gets a budget of its own
    if together > 1:  # kernels that each take all cores are 5 times slower than one after another
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // together)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _default_parameters(lesson: Lesson) -> dict[str, Any]:
    try:
        return {name: parameter.default for name, parameter in read_parameters(lesson.path).items()}
    except ValueError as error:
        raise ReportError(error) from None


def _require_kernel() -> None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        raise ReportError(
            "no Jupyter kernel named python3; install it: python -m pip install ipykernel", code=1
        ) from None


def stop_kernels(runs: list[Future]) -> None:
    """Kill kernels until no run is left.

    Kernels do not hear Ctrl-C, and one may just be starting.
    """
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
    sources: Sources,
    progress: Progress,
    stopping: threading.Event,
    limit: float,
) -> None:
    """Run one notebook, look for faults, and write its report."""
    # taken before the run: the notebook may be edited meanwhile
    keys = {"key": report.key(sources), "page_key": report.page_key(sources)}
    began = time.perf_counter()
    executed, error = execute_notebook(report, progress, limit)
    if stopping.is_set():
        return
    validate.drop_progress_bars(executed)
    if report.changed:
        validate.drop_expectations(executed)
    faults = validate.find_faults(executed)
    validate.drop_widgets(executed)
    run = keys | {
        "notebook": report.lesson.name,
        "parameters": parameters,
        "changed": report.changed,
        "status": "error" if error else "fail" if faults else "pass",
        "reason": (error or "; ".join(dict.fromkeys(faults)))[:REASON_LENGTH],
        "seconds": round(time.perf_counter() - began, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": sources.versions,
        "live": report.live,
        "panels": validate.panel_costs(executed),
    }
    write_report(report, executed, run)
    progress.end(report, run)


def execute_notebook(report: Report, progress: Progress, limit: float) -> tuple[NotebookNode, str]:
    """Run a notebook in a kernel of its own, in its folder.

    Args:
        report: The notebook and its changed parameters.
        progress: Told of each cell that starts.
        limit: Seconds that the whole notebook may take.

    Returns:
        The executed notebook, up to the cell where it stopped; and the error that stopped it, in
        a line, "" if it ran to its end.
    """
    import nbformat

    notebook = nbformat.from_dict(load_notebook(report.lesson.path))
    error = ""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # its messages are in the report
    with tempfile.TemporaryDirectory(prefix="fedlab-", ignore_cleanup_errors=True) as scratch:
        path = Path(scratch) / "executed.ipynb"
        try:
            _through_papermill(notebook, path, report, progress, limit)
        except Exception as raised:  # a cell's error, a timeout or a dead kernel go into the report
            error = f"{type(raised).__name__}: {raised}".strip()
        executed = nbformat.read(path, as_version=4) if path.exists() else notebook
    executed.cells = [
        cell for cell in executed.cells if "papermill-error-cell-tag" not in cell_tags(cell)
    ]
    return executed, error and _error_reason(executed, error, limit)


def _through_papermill(
    notebook: NotebookNode, path: Path, report: Report, progress: Progress, limit: float
) -> None:
    import papermill
    from jupyter_core.utils import ensure_event_loop

    end = time.monotonic() + limit
    with contextlib.closing(ensure_event_loop()):  # nbclient leaves its thread's loop open
        papermill.execute_notebook(
            notebook,
            path,
            report.changed,
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=[
                "--log-level=CRITICAL",  # no warnings of loopback sockets
                *kernel_arguments(report.live, count_panels(notebook)),
            ],
            timeout_func=lambda cell: max(0.01, end - time.monotonic()),
            # papermill's cwd is not for threads
            resources={"metadata": {"path": str(report.lesson.path.parent)}},
            on_cell_start=lambda cell, cell_index: progress.start_cell(report, cell_index),
        )


def _error_reason(executed: NotebookNode, error: str, limit: float) -> str:
    """Return the place and the error in a line.

    A cell that was stopped from outside gets the error as its output.
    """
    from nbformat.v4 import new_output

    name, _, message = error.partition(": ")
    if name == "PapermillExecutionError":
        for cell in executed.cells:
            for output in validate.outputs_of(cell, "error"):
                return f"cell [{cell.execution_count}]: {validate.error_line(output)}"
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    started = [cell for cell in code if cell.metadata.get("papermill", {}).get("start_time")]
    for cell in started[-1:]:
        if name == "CellTimeoutError":
            first_line = next(iter(cell.source.strip().splitlines()), "")[:80]
            where = f"cell [{len(started)}], `{first_line}`"
            message = f"{where}, ran when the {limit:g} s of the notebook were over"
            error = f"{name}: {message}; mend it, or give it more with --timeout"
        # without the interrupt that ended the cell
        outputs = [output for output in cell.outputs if output.output_type != "error"]
        trace = error.splitlines()
        cell.outputs = [*outputs, new_output("error", ename=name, evalue=message, traceback=trace)]
    return error.splitlines()[0]
