"""Index of all reports: a card for each."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedlab.lab.course import Lesson
from fedlab.lab.report.files import is_run, read_json
from fedlab.lab.report.frame import TEMPLATES, format_duration, script_hash
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.sources import Sources


def render_index(root: Path, lessons: list[Lesson], sources: Sources) -> tuple[str, list[str]]:
    """Return the index page, with a card for every report that exists or should exist.

    Args:
        root: Folder of the project.
        lessons: All lessons.
        sources: Sources of today, to tell which reports are out of date.

    Returns:
        The page as HTML, and a line for each report that is left out because it is malformed.
    """
    from jinja2 import Environment, FileSystemLoader

    left_out: list[str] = []
    cards = [card for lesson in lessons for card in _cards(root, lesson, sources, left_out)]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    environment.filters["sha256"] = script_hash
    return environment.get_template("index.html.j2").render(cards=cards), left_out


def _cards(
    root: Path, lesson: Lesson, sources: Sources, left_out: list[str]
) -> list[dict[str, Any]]:
    """Return a card for the default report, run or not, and for every other setting that ran."""
    reports = [Report(lesson, {}, root)]
    for path in sorted((root / "reports").glob(f"{lesson.name}--*/run.json")):
        run = read_json(path)
        report = None
        if is_run(run):
            report = Report(lesson, run["changed"], root, run.get("live", 0.0))
        if report and report.slug == path.parent.name:
            reports.append(report)
        else:
            left_out.append(
                f"{path.relative_to(root).as_posix()}: malformed, so its report is left out; "
                "make it again or delete its folder"
            )
    return [_card(report, sources) for report in reports]


def _card(report: Report, sources: Sources) -> dict[str, Any]:
    run = report.last_run
    status = "never run"
    if run:
        status = run["status"] if report.is_current(sources) else "out of date"
    if report.changed and status == "pass":
        status = "not judged"  # expected limits hold for the default setting only
    has_picture = "thumbnail.png" in run.get("files", ())
    return {
        "lesson": report.lesson,
        "defaults": report.defaults,
        "run": run,
        "status": status,
        "folder": quote(report.slug),
        "took": format_duration(run.get("seconds", 0)),
        "thumbnail": _data_url(report.folder / "thumbnail.png") if has_picture else "",
    }


def _data_url(path: Path) -> str:
    """Return a picture as a URL that holds it: JupyterLab serves files to its own pages only."""
    if not path.is_file():
        return ""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
