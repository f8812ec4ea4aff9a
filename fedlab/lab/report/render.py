"""Page of a report: styles and formulas inside, code folded, dark and light, no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedlab.lab.report import metrics
from fedlab.lab.report.frame import TEMPLATES, format_duration, script_hash
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.markdown import markdown_to_html
from fedlab.lab.report.outputs import page_cells
from fedlab.lab.report.validate import PANEL

if TYPE_CHECKING:
    from nbformat import NotebookNode


# Tags that lead a page elsewhere. A content security policy does not cover them, or comes too late.
_LEADING_ELSEWHERE = re.compile(r"<(?=(?:meta|base|link)\b)", re.IGNORECASE)


def render_page(
    report: Report, executed: NotebookNode, run: dict[str, Any], recorded: list[dict[str, Any]]
) -> str:
    """Return a report's page: the basic page of nbconvert in the project's own frame.

    The page's security policy allows its own script only, and no loading of other files.

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
    values = {
        "title": report.lesson.title,
        "question": report.lesson.question,
        "default": f"../{report.lesson.name}/report.html" if _has_default(report) else "",
        "run": run,
        "took": format_duration(run["seconds"]),
        "metrics": [_metric_row(metric) for metric in recorded],
        "code_style": _code_style(),
        "defaults": report.defaults,
        "panels": _panel_numbers(executed) if report.changed else [],
    }
    resources = {"report": values, "metadata": {"path": str(report.lesson.path.parent)}}
    page, _ = exporter.from_notebook_node(page_cells(executed), resources)
    head, body, rest = page.partition("<body>")
    return head + body + _LEADING_ELSEWHERE.sub("&lt;", rest)


def _has_default(report: Report) -> bool:
    return (report.root / "reports" / report.lesson.name / "report.html").is_file()


def _panel_numbers(executed: NotebookNode) -> list[str]:
    """Return the numbers in the status line of each panel's last state."""
    outputs = (output for cell in executed.cells for output in cell.get("outputs", ()))
    panels = (
        output["data"][PANEL]["states"] for output in outputs if PANEL in output.get("data", ())
    )
    return [numbers for states in panels if states and (numbers := _status_numbers(states[-1]))]


def _status_numbers(state: Mapping[str, Any]) -> str:
    """Return ``accuracy 0.9`` for a status ``done  alpha=1  accuracy=0.9  (2 s)``.

    Numbers of a mean stand in one part, as in ``mean of last ten: accuracy=0.9, loss=0.3``.
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
