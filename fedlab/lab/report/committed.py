"""Committed numbers: ``reports/metrics`` follows real changes only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedlab.lab.report import metrics
from fedlab.lab.report.files import is_numbers, publish, read_json, to_json
from fedlab.lab.report.jobs import Report

_REMEDY = "run without --check and commit reports/metrics"


def settle_numbers(reports: Iterable[Report], check: bool) -> list[str]:
    """Write the numbers of good reports to ``reports/metrics`` if they really changed.

    Args:
        reports: Reports that passed, at their default settings.
        check: If True, write nothing, and describe the changes.

    Returns:
        A line per change, or none.
    """
    changes = []
    for report in reports:
        path = report.root / "reports" / "metrics" / f"{report.lesson.name}.json"
        committed, current = read_json(path), read_json(report.folder / "metrics.json")
        damaged = committed is not None and not is_numbers(committed)
        if check and damaged:
            changes.append(f"{report.slug}: its numbers are malformed; {_REMEDY}")
        elif check:
            changes += [f"{report.slug}: {line}" for line in _changes(committed, current)]
        elif (
            committed is None
            or damaged
            or _not_measured(committed) != _not_measured(current)
            or _changes(committed, current)
        ):
            publish(path.parent, {path.name: to_json(current)})
    return changes


def _changes(committed: dict[str, Any] | None, current: dict[str, Any]) -> list[str]:
    if committed is None:
        return [f"its numbers are not committed; {_REMEDY}"]
    return metrics.find_changes(committed["metrics"], current["metrics"])


def _not_measured(numbers: dict[str, Any]) -> list:
    """Return everything in a file of numbers that is declared and not measured."""
    names = ("name", "unit", "expected", "tolerance", "headline", "seeds")
    rows = [[metric[name] for name in names] for metric in numbers["metrics"]]
    return [numbers["parameters"], rows]
