"""Progress of running notebooks on the command line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any

from fedlab.lab.course import load_notebook
from fedlab.lab.report.frame import format_duration
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.live import MAX_FILE, count_panels


def expected_seconds(report: Report) -> float:
    """Return the seconds of a report's last run, else those that its notebook declares."""
    return report.last_run.get("seconds", 60 * report.lesson.minutes + report.live)


def live_estimate(report: Report) -> str:
    """Return the time and the size that a live report adds, in a line.

    They come from its last run with this budget, else from the bounds. Figures of a run with
    another budget are added, together with that budget.
    """
    panels = count_panels(load_notebook(report.lesson.path))
    if not panels:
        return f"{report.slug}: no panel, so nothing is live in it"
    begins = f"{report.slug}: {panels} panel{'s' * (panels > 1)}, at most {report.live:g} s more"
    last = [panel["seconds"] for panel in report.last_run.get("panels", ())]
    page = report.folder / "report.html"
    if not last or not page.is_file():
        return f"{begins}; at most {MAX_FILE / 1e6:.0f} MB"
    size, budget = page.stat().st_size / 1e6, report.last_run["live"]
    if budget == report.live:
        return f"{begins} (last time {sum(last):.0f} s); about {size:.1f} MB"
    measured = f"with {budget:g} s: {sum(last):.0f} s and {size:.1f} MB"
    return f"{begins}; at most {MAX_FILE / 1e6:.0f} MB ({measured})"


class Progress:
    """Bar over cells with the time left, estimated from the last run.

    Without a terminal, it prints one line per notebook.
    """

    def __init__(self, reports: list[Report], jobs: int):
        from tqdm import tqdm

        self._lock = threading.Lock()
        self._jobs = jobs
        self._seconds = {report.slug: expected_seconds(report) for report in reports}
        self._cells = {
            report.slug: len(load_notebook(report.lesson.path)["cells"]) for report in reports
        }
        self._done = dict.fromkeys(self._cells, 0)
        print(f"{len(reports)} to run, about {self._time_left()}", flush=True)
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

    def start_cell(self, report: Report, cell_index: int) -> None:
        """Move the bar to a cell of a report."""
        with self._lock:
            self._done[report.slug] = min(cell_index, self._cells[report.slug])
            self._show(report.slug)

    def end(self, report: Report, run: Mapping[str, Any]) -> None:
        """Print the status of a report, and count all its cells."""
        with self._lock:
            self._done[report.slug] = self._cells[report.slug]
            took = format_duration(run["seconds"])
            self._bar.write(f"{report.slug}: {run['status']}, {took}", file=sys.stdout)
            self._show(report.slug)

    def _show(self, slug: str) -> None:
        self._bar.set_description_str(f"{slug} ", refresh=False)
        self._bar.set_postfix_str(f"about {self._time_left()} left", refresh=False)
        self._bar.update(sum(self._done.values()) - self._bar.n)

    def _time_left(self) -> str:
        seconds_left = (
            seconds * (1 - self._done[slug] / self._cells[slug])
            for slug, seconds in self._seconds.items()
        )
        return format_duration(sum(seconds_left) / min(self._jobs, len(self._seconds)))
