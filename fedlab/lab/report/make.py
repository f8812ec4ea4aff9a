"""The command ``fedlab report``: notebooks in, pages of results out.

Each notebook runs through papermill, and its outputs are checked for faults. Its page needs no
network, and an index lists all pages. A report runs again only if its code, its data or the
package changed since its last good run.

A report is a folder: ``report.html``, ``executed.ipynb``, ``metrics.json``, ``thumbnail.png`` and
``run.json``. The last one is written last, with the checksums of the others: a folder left
half-replaced is noticed and made anew.

papermill and nbconvert take seconds to import, so they are imported where they are needed.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from fedlab.lab.course import ROOT, list_lessons, usable_cores
from fedlab.lab.report.committed import settle_numbers
from fedlab.lab.report.execute import run_reports
from fedlab.lab.report.files import ReportError, publish, remove_drafts
from fedlab.lab.report.index import render_index
from fedlab.lab.report.jobs import Report, select_reports
from fedlab.lab.report.live import BUDGET, parse_budget
from fedlab.lab.report.progress import live_estimate
from fedlab.lab.report.sources import Sources
from fedlab.lab.report.write import render_again

TIMEOUT = 3600  # seconds that a notebook may take by default

JOBS = 4  # notebooks at a time, given as many cores: a kernel takes a gigabyte of memory


def main(argv: list[str] | None = None, *, root: Path = ROOT) -> int:
    """Make reports.

    Args:
        argv: Arguments of the command line. Default: those of the process.
        root: Folder of the project, with ``notebooks`` and ``reports``.

    Returns:
        The exit status: 0 if all is well, 1 if a report failed or cannot be written, 2 for wrong
        arguments, 130 after an interrupt.
    """
    try:
        return _make(_parse_arguments(argv), Path(root).resolve())
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"report: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("report: interrupted; the reports made before are whole", file=sys.stderr)
        return 130


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    options = _parser().parse_intermixed_args(argv)
    if isinstance(options.live, str):
        try:
            options.live = parse_budget(options.live)
        except ValueError as error:
            raise ReportError(error) from None
    if options.jobs < 1:
        raise ReportError(
            f"--jobs {options.jobs} must be at least 1 (notebooks at a time). Try --jobs 2"
        )
    if not 0 < options.timeout < math.inf:
        raise ReportError(
            f"--timeout {options.timeout:g} must be above 0 and finite (seconds of a notebook). "
            f"Try --timeout {TIMEOUT}"
        )
    if options.scale:
        options.set.append(f"scale={options.scale}")
    if options.check and options.live:
        raise ReportError("--check compares numbers of plain reports. Try it without --live")
    if options.check and options.set:
        raise ReportError(
            "--check compares numbers of the default parameters. Try it without --set and --scale"
        )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m fedlab report", description="Run notebooks and write their reports."
    )
    add = parser.add_argument
    names = "a notebook, its number, or a piece of its name (default: all)"
    add("names", nargs="*", metavar="NAME", help=names)
    change = "change a parameter of the notebooks"
    add("--set", action="append", default=[], metavar="NAME=VALUE", help=change)
    add("--scale", help="short for --set scale=…: fast or full")
    live = (
        "make live reports, whose readers move the panels without Python, among states that are "
        f"computed in SECONDS more per notebook, shared by its panels (default: {BUDGET:g})"
    )
    add("--live", nargs="?", const=BUDGET, default=0.0, metavar="SECONDS", help=live)
    add("--force", action="store_true", help="run also reports that are up to date")
    check = "compare with the committed numbers and leave them as they are"
    add("--check", action="store_true", help=check)
    at_once = min(usable_cores(), JOBS)
    jobs = f"number of notebooks that run at a time (default: {at_once})"
    add("--jobs", type=int, default=at_once, metavar="N", help=jobs)
    limit = f"time that a notebook may take (default: {TIMEOUT})"
    add("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help=limit)
    parser.error = _refuse
    return parser


def _refuse(message: str) -> None:
    raise ReportError(f"{message}. Try --help")


def _make(options: argparse.Namespace, root: Path) -> int:
    """Run stale reports, write pages and the index, and return the exit status."""
    try:
        lessons = list_lessons(root / "notebooks")
        reports = select_reports(options.names, options.set, lessons, root, options.live)
    except ValueError as error:
        raise ReportError(error) from None
    sources = Sources.of(root, lessons)
    remove_drafts(root / "reports")
    stale = [report for report in reports if options.force or not report.is_up_to_date(sources)]
    for report in stale:
        if report.live:
            print(live_estimate(report), flush=True)
    run_reports(stale, sources, options.jobs, options.timeout)
    for report in reports:
        if report not in stale and report.last_run["page_key"] != report.page_key(sources):
            render_again(report, sources)
    failed = {report: report.last_run for report in reports if report.last_run["status"] != "pass"}
    trouble = [f"{report.slug}: {run['status']}, {run['reason']}" for report, run in failed.items()]
    trouble += settle_numbers(_good_defaults(reports, failed), options.check)
    page, left_out = render_index(root, lessons, sources)
    _write_index(root, page.encode())
    for line in left_out + trouble:
        print(f"report: {line}", file=sys.stderr)
    counts = f"{len(stale)} run, {len(reports) - len(stale)} up to date, {len(failed)} failed"
    print(f"{counts}: {root / 'reports' / 'index.html'}")
    return 1 if trouble else 0


def _good_defaults(reports: list[Report], failed: dict[Report, dict]) -> list[Report]:
    """Return the reports at default settings that passed."""
    return [report for report in reports if not (report.changed or report.live or report in failed)]


def _write_index(root: Path, content: bytes) -> None:
    path = root / "reports" / "index.html"
    if not path.is_file() or path.read_bytes() != content:
        publish(path.parent, {path.name: content})


if __name__ == "__main__":
    sys.exit(main())
