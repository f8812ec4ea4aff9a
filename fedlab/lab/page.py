"""Pages of results that need no network: styles and formulas inside, code folded, dark and light."""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fedlab.lab import course, metrics
from fedlab.lab.course import Lesson
from fedlab.lab.plan import Report, Sources, read

if TYPE_CHECKING:
    from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent


def render(report: Report, executed: NotebookNode, run: dict[str, Any], recorded: list[dict[str, Any]]) -> str:
    """The plain page of nbconvert in the project's own frame: styles and formulas inside, nothing from the web."""
    from jinja2 import FileSystemLoader, pass_context
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", template_file="report.html.j2", extra_loaders=[FileSystemLoader(HERE)])
    exporter.register_filter("markdown2html", pass_context(_prose))
    page = {
        "title": report.lesson.title,
        "run": run,
        "took": duration(run["seconds"]),
        "metrics": [_row(metric) for metric in recorded],
        "code_style": _code_style(),
    }
    where = {"path": str(report.lesson.path.parent)}
    page, _ = exporter.from_notebook_node(_shown(executed), {"report": page, "metadata": where})
    return page


def _row(metric: Mapping[str, Any]) -> dict[str, str]:
    spread = f"{metrics.number(metric['low'])} to {metrics.number(metric['high'])}, {metric['seeds']} seeds"
    return {
        "name": metric["name"],
        "unit": metric["unit"],
        "mean": metrics.number(metric["mean"]),
        "range": spread if metric["seeds"] > 1 else "",
        "expected": metrics.limits(metric["expected"]) if metric["expected"] else "",
        "verdict": {True: "holds" if metric["expected"] else "", False: "does not hold", None: ""}[metric["pass"]],
    }


def _shown(executed: NotebookNode) -> NotebookNode:
    """A copy without hidden cells and without the title, which the page's head has; every picture has words."""
    shown = copy.deepcopy(executed)
    shown.cells = [cell for cell in shown.cells if "hide" not in course.tags(cell)]
    titled = [cell for cell in shown.cells if cell.cell_type == "markdown" and course.HEADING.search(cell.source)]
    for cell in titled[:1]:
        cell.source = course.HEADING.sub("", cell.source, count=1)
    for cell in shown.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                about = output.metadata.setdefault("image/png", {})
                about.setdefault("alt", f"picture made by cell [{cell.execution_count}]")
    return shown


def _code_style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("xcode", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _prose(context: Mapping[str, Any], source: str) -> str:
    """Markdown to HTML, formulas to MathML, pictures into the page, links between notebooks to links between reports."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    renderer = IPythonRenderer(
        escape=False,
        exclude_anchor_links=True,
        embed_images=True,
        attachments=context["cell"].get("attachments", {}),
        path=context["resources"]["metadata"]["path"],
    )
    link = renderer.link
    renderer.inline_math = lambda tex: _formula(tex, "inline")
    renderer.block_math = lambda tex: _formula(tex, "block")
    renderer.latex_environment = lambda name, body: _formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")
    renderer.link = lambda text, url, title=None: link(text, _to_report(url), title)
    return MarkdownWithMath(renderer=renderer).render(source)


def _to_report(url: str) -> str:
    """From a notebook's folder to a report's: another notebook becomes its report, a file is found where it is."""
    if re.match(r"[a-z]+:|[/#]", url):
        return url
    report = re.sub(r"^(?:\./)?(\d\d_\w+)\.ipynb(?=#|$)", r"../\1/report.html", url)
    return report if report != url else f"../../notebooks/{url}"


def _formula(tex: str, display: str) -> str:
    from latex2mathml.converter import convert

    # latex2mathml knows the starred environments and not the inner ones
    tex = re.sub(r"\\(begin|end)\{(?:aligned|align|split)\}", r"\\\1{align*}", tex)
    try:
        return convert(tex, display=display)
    except Exception:  # it raises whatever its parser meets; the reader still gets the source
        return f'<code class="tex">{html.escape(tex)}</code>'


def index(root: Path, lessons: list[Lesson], now: Sources) -> str:
    """A card for every report that there is or should be."""
    from jinja2 import Environment, FileSystemLoader

    cards = [card for lesson in lessons for card in _cards(root, lesson, now)]
    template = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True).get_template("index.html.j2")
    return template.render(cards=cards)


def _cards(root: Path, lesson: Lesson, now: Sources) -> list[dict[str, Any]]:
    """The default report, run or not, and every other setting that was ever run."""
    settings = [read(path) for path in sorted((root / "reports").glob(f"{lesson.name}--*/run.json"))]
    reports = [Report(lesson, changed, root) for changed in [{}, *(run["changed"] for run in settings if run)]]
    return [_card(report, now) for report in reports]


def _card(report: Report, now: Sources) -> dict[str, Any]:
    run = report.last_run
    status = "never run" if not run else run["status"] if report.current(now) else "out of date"
    return {
        "lesson": report.lesson,
        "run": run,
        "status": status,
        "folder": quote(report.slug),
        "took": duration(run.get("seconds", 0)),
        "thumbnail": "thumbnail.png" in run.get("files", ()),
    }


def duration(seconds: float) -> str:
    """``35 s``, ``4 min``, ``1 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
