"""Pages of results that need no network: styles and formulas inside, code folded, dark and light."""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fedlab.lab.course import HEADING, Lesson, cell_tags, read_parameters
from fedlab.lab.report import metrics
from fedlab.lab.report.jobs import Report, Sources, is_run, read
from fedlab.lab.report.validate import PANEL

if TYPE_CHECKING:
    from nbformat import NotebookNode


TEMPLATES = Path(__file__).resolve().parent / "templates"

PRINTED = 200_000  # characters that a page shows of what a cell prints

WEIGHT = 20_000_000  # characters of all outputs of a page


def render(
    report: Report, executed: NotebookNode, run: dict[str, Any], recorded: list[dict[str, Any]]
) -> str:
    """The plain page of nbconvert in the project's own frame: styles and formulas inside, nothing from the web.

    The browser is told to run the page's own script and no other, and to load nothing.
    """
    from jinja2 import FileSystemLoader, pass_context
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        template_file="report.html.j2",
        extra_loaders=[FileSystemLoader(TEMPLATES)],
    )
    exporter.register_filter("markdown2html", pass_context(_prose))
    exporter.register_filter("sha256", _sha256)
    page = {
        "title": report.lesson.title,
        "default": f"../{report.lesson.name}/report.html" if _default_made(report) else "",
        "run": run,
        "took": duration(run["seconds"]),
        "metrics": [_row(metric) for metric in recorded],
        "code_style": _code_style(),
        "defaults": _defaults(report),
        "panels": _panels(executed) if report.changed else [],
    }
    where = {"path": str(report.lesson.path.parent)}
    page, _ = exporter.from_notebook_node(_shown(executed), {"report": page, "metadata": where})
    head, body, rest = page.partition("<body>")
    return head + body + _ELSEWHERE.sub("&lt;", rest)


# Tags that lead a page elsewhere, and that a content security policy says nothing about or comes too late for.
_ELSEWHERE = re.compile(r"<(?=(?:meta|base|link)\b)", re.IGNORECASE)


def _sha256(text: str) -> str:
    """Return a script's hash as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def _default_made(report: Report) -> bool:
    return (report.root / "reports" / report.lesson.name / "report.html").is_file()


def _defaults(report: Report) -> dict[str, Any]:
    """Return what the changed parameters are by default."""
    declared = read_parameters(report.lesson.path) if report.changed else {}
    return {name: declared[name].default for name in report.changed if name in declared}


def _panels(executed: NotebookNode) -> list[str]:
    """Return the numbers that each panel tells of its last frame at this setting."""
    outputs = (output for cell in executed.cells for output in cell.get("outputs", ()))
    states = (
        output["data"][PANEL]["states"] for output in outputs if PANEL in output.get("data", ())
    )
    return [numbers for each in states if each and (numbers := _numbers(each[-1]))]


def _numbers(state: Mapping[str, Any]) -> str:
    """Return what a status line, ``done  alpha=1  accuracy=0.9  (2 s)``, has beside the setting: ``accuracy 0.9``."""
    parts = [part.partition("=") for part in state["status"].split("  ")]
    return ", ".join(
        f"{name} {value}"
        for name, equals, value in parts
        if equals and name not in state["settings"]
    )


def _row(metric: Mapping[str, Any]) -> dict[str, str]:
    spread = f"{metrics.number(metric['low'])} to {metrics.number(metric['high'])}, {metric['seeds']} seeds"
    return {
        "name": metric["name"],
        "unit": metric["unit"],
        "mean": metrics.number(metric["mean"]),
        "range": spread if metric["seeds"] > 1 else "",
        "expected": metrics.limits(metric["expected"]) if metric["expected"] else "",
        "verdict": {True: "holds" if metric["expected"] else "", False: "does not hold", None: ""}[
            metric["pass"]
        ],
    }


def _shown(executed: NotebookNode) -> NotebookNode:
    """A copy without hidden cells and without the title, which the page's head has; every picture has words."""
    shown = copy.deepcopy(executed)
    shown.cells = [cell for cell in shown.cells if "hide" not in cell_tags(cell)]
    titled = [
        cell for cell in shown.cells if cell.cell_type == "markdown" and HEADING.search(cell.source)
    ]
    for cell in titled[:1]:
        cell.source = HEADING.sub("", cell.source, count=1)
    for cell in shown.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                about = output.metadata.setdefault("image/png", {})
                about.setdefault("alt", f"picture made by cell [{cell.execution_count}]")
    _cut(shown)
    return shown


def _cut(shown: NotebookNode) -> None:
    """Shorten what cells print, and leave out outputs that would make the page too heavy; a note says so."""
    left = WEIGHT
    for cell in shown.cells:
        printed, kept = 0, []
        for output in cell.get("outputs", ()):
            size = _size(output)
            if "text" in output:
                room = max(0, min(PRINTED - printed, left))
                printed += size
                if size > room:
                    output.text = output.text[:room]
                    kept += [output] * bool(room) + [
                        _note(f"{size:,} characters are printed here, and {room:,} shown")
                    ]
                    size = room
                else:
                    kept.append(output)
            elif size > left:
                kept.append(
                    _note(
                        f"an output of {size:,} characters is left out: the page would be too heavy"
                    )
                )
                size = 0
            else:
                kept.append(output)
            left -= size
        if "outputs" in cell:
            cell.outputs = kept


def _size(output: NotebookNode) -> int:
    """Return the characters that an output adds to a page, about."""
    if output.output_type == "error":
        return sum(len(line) for line in output.traceback)
    return (
        len(output.text)
        if "text" in output
        else sum(len(str(data)) for data in output.data.values())
    )


def _note(words: str) -> NotebookNode:
    from nbformat.v4 import new_output

    note = f'<p class="cut">{html.escape(words)}; <code>executed.ipynb</code> beside this page has all of it.</p>'
    return new_output("display_data", {"text/html": note})


def _code_style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight")
        for style in ("xcode", "github-dark")
    )
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
    renderer.latex_environment = lambda name, body: _formula(
        f"\\begin{{{name}}}{body}\\end{{{name}}}", "block"
    )
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


def index(root: Path, lessons: list[Lesson], now: Sources) -> tuple[str, list[str]]:
    """A card for every report that there is or should be, and a line for each that cannot be understood."""
    from jinja2 import Environment, FileSystemLoader

    left_out: list[str] = []
    cards = [card for lesson in lessons for card in _cards(root, lesson, now, left_out)]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    environment.filters["sha256"] = _sha256
    return environment.get_template("index.html.j2").render(cards=cards), left_out


def _cards(root: Path, lesson: Lesson, now: Sources, left_out: list[str]) -> list[dict[str, Any]]:
    """The default report, run or not, and every other setting that was ever run."""
    reports = [Report(lesson, {}, root)]
    for path in sorted((root / "reports").glob(f"{lesson.name}--*/run.json")):
        run = read(path)
        report = Report(lesson, run["changed"], root) if is_run(run) else None
        if report and report.slug == path.parent.name:
            reports.append(report)
        else:
            where = path.relative_to(root).as_posix()
            left_out.append(
                f"{where}: malformed, so its report is left out; make it again or delete its folder"
            )
    return [_card(report, now) for report in reports]


def _card(report: Report, now: Sources) -> dict[str, Any]:
    run = report.last_run
    status = "never run" if not run else run["status"] if report.current(now) else "out of date"
    if report.changed and status == "pass":
        status = "not judged"  # what is expected is expected of the default setting
    return {
        "lesson": report.lesson,
        "run": run,
        "status": status,
        "folder": quote(report.slug),
        "took": duration(run.get("seconds", 0)),
        "thumbnail": _thumbnail(report.folder / "thumbnail.png")
        if "thumbnail.png" in run.get("files", ())
        else "",
    }


def _thumbnail(path: Path) -> str:
    """Return a picture as an address that holds it: JupyterLab gives out files to its own pages only."""
    return (
        f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        if path.is_file()
        else ""
    )


def duration(seconds: float) -> str:
    """``35 s``, ``4 min``, ``1 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
