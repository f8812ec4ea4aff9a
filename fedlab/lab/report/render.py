"""Page of a report: styles and formulas inside, code folded, dark and light, no network."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedlab.lab.report import metrics
from fedlab.lab.report.frame import FIGURES, TEMPLATES, format_duration, script_hash
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.live import MAX_FILE, with_fewer_states
from fedlab.lab.report.markdown import markdown_to_html
from fedlab.lab.report.outputs import has_figures, page_cells, panel_records

if TYPE_CHECKING:
    from nbformat import NotebookNode


# Tags that lead a page elsewhere. A content security policy does not cover them, or comes too late.
_LEADING_ELSEWHERE = re.compile(r"<(?=(?:meta|base|link)\b)", re.IGNORECASE)


def render_page(
    report: Report, executed: NotebookNode, run: dict[str, Any], recorded: list[dict[str, Any]]
) -> str:
    """Return a report's page: the basic page of nbconvert in the project's own frame.

    The page's security policy allows its own scripts only, and no loading of other files. A live
    page loses the states farthest from the default if it would be too heavy.

    Args:
        report: The report.
        executed: The executed notebook.
        run: Content of its ``run.json``.
        recorded: Metrics of the notebook.

    Returns:
        The page as HTML.
    """
    from jinja2 import FileSystemLoader, pass_context
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        template_file="report.html.j2",
        extra_loaders=[FileSystemLoader(TEMPLATES)],
    )
    exporter.register_filter("markdown2html", pass_context(markdown_to_html))
    exporter.register_filter("sha256", script_hash)
    panels = list(panel_records(executed))
    values = {
        "title": report.lesson.title,
        "question": report.lesson.question,
        "default": f"../{report.lesson.name}/report.html" if _has_default(report) else "",
        "run": run,
        "took": format_duration(run["seconds"]),
        "metrics": [_metric_row(metric) for metric in recorded],
        "code_style": _code_style(),
        "defaults": report.defaults,
        "panels": _panel_numbers(panels) if report.changed else [],
        "figure_style": (FIGURES / "figure.css").read_text(encoding="utf-8"),
        "scripts": _scripts(executed, panels),
    }
    resources = {"report": values, "metadata": {"path": str(report.lesson.path.parent)}}
    page, _ = exporter.from_notebook_node(page_cells(executed), resources)
    head, body, rest = page.partition("<body>")
    page = head + body + _LEADING_ELSEWHERE.sub("&lt;", rest)
    excess = len(page.encode()) - MAX_FILE
    if excess > 0 and (lighter := _with_fewer_states(executed, excess)):
        return render_page(report, lighter, run, recorded)
    return page


def _with_fewer_states(executed: NotebookNode, excess: int) -> NotebookNode | None:
    """Return a live report's notebook with lighter panels; None if none can be lighter."""
    lighter = copy.deepcopy(executed)
    panels = [record for record in panel_records(lighter) if "live" in record]
    size = sum(len(record["live"]["packed"]) for record in panels)
    thinner = [record for record in panels if record["live"]["states"] > 2]
    for record in thinner:
        record["live"] = with_fewer_states(record["live"], 0.9 * (1 - min(1, excess / size)))
    return lighter if thinner else None


def _scripts(executed: NotebookNode, panels: list[Mapping[str, Any]]) -> list[str]:
    """Return the scripts that the figures and the live panels of a page need."""
    paths = [FIGURES / "figure.js"] if has_figures(executed) else []
    paths += [TEMPLATES / "live.js"] if any("live" in record for record in panels) else []
    return [path.read_text(encoding="utf-8") for path in paths]


def _has_default(report: Report) -> bool:
    return (report.root / "reports" / report.lesson.name / "report.html").is_file()


def _panel_numbers(panels: list[Mapping[str, Any]]) -> list[str]:
    """Return the numbers in the status line of each panel's last state."""
    last = [record["states"][-1] for record in panels if record["states"]]
    return [numbers for state in last if (numbers := _status_numbers(state))]


def _status_numbers(state: Mapping[str, Any]) -> str:
    """Return ``accuracy 0.9`` for a status ``done  alpha=1  accuracy=0.9  (2 s)``.

    The numbers of a mean are one part: ``mean of last ten: accuracy=0.9, loss=0.3``.
    """
    parts = [part.partition("=") for part in state["status"].split("  ")]
    return ", ".join(
        f"{name} {value}".replace("=", " ")
        for name, equals, value in parts
        if equals and name not in state["settings"]
    )


def _metric_row(metric: Mapping[str, Any]) -> dict[str, str]:
    """Return a metric as texts of a table's row."""
    mean, low, high = metrics.format_range(metric)
    expected = metric["expected"]
    verdicts = {True: "holds" if expected else "", False: "does not hold", None: ""}
    return {
        "name": metric["name"],
        "unit": metric["unit"],
        "mean": mean,
        "range": f"{low} to {high}, {metric['seeds']} seeds" if metric["seeds"] > 1 else "",
        "expected": metrics.format_limits(expected) if expected else "",
        "verdict": verdicts[metric["pass"]],
    }


def _code_style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight")
        for style in ("xcode", "github-dark")
    )
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"
