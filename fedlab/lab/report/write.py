"""Writing of a report: page, executed notebook, numbers, thumbnail, and ``run.json``."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from fedlab.lab.course import cell_tags, load_notebook
from fedlab.lab.report import metrics
from fedlab.lab.report.answer import read_answer
from fedlab.lab.report.files import publish, to_json
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.render import render_page
from fedlab.lab.report.sources import Sources

if TYPE_CHECKING:
    from nbformat import NotebookNode


REASON_LENGTH = 400  # characters of a fault in run.json; the page has the rest


def write_report(report: Report, executed: NotebookNode, run: dict[str, Any]) -> None:
    """Write all files of a report; ``run.json``, with their checksums, is written last.

    Args:
        report: The report.
        executed: The executed notebook.
        run: Facts of the run. The answer, the headline and the checksums are added to it.
    """
    import nbformat

    recorded = _recorded(executed)
    run["answer"], run["headline"] = _answer(executed), _headline(recorded)
    numbers = {
        "notebook": report.lesson.name,
        "parameters": run["parameters"],
        "metrics": recorded,
    }
    contents = {
        "report.html": render_page(report, executed, run, recorded).encode(),
        "executed.ipynb": nbformat.writes(executed).encode(),
        "metrics.json": to_json(numbers),
        "thumbnail.png": _thumbnail(executed),
    }
    files = {name: content for name, content in contents.items() if content}
    run["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    publish(report.folder, files | {"run.json": to_json(run)})
    if "thumbnail.png" not in files:
        (report.folder / "thumbnail.png").unlink(missing_ok=True)


def _answer(executed: NotebookNode) -> list[str]:
    try:
        return read_answer(executed)
    except ValueError:  # two answers, which the reason of the run mentions
        return []


def _headline(recorded: list[dict[str, Any]]) -> str | None:
    """Return the notebook's main number as text: the one marked as headline, else the first."""
    if not recorded:
        return None
    headline = next((metric for metric in recorded if metric["headline"]), recorded[0])
    return metrics.describe_metric(headline | {"expected": None})


def _recorded(executed: NotebookNode) -> list[dict[str, Any]]:
    try:
        return metrics.read_metrics(executed)
    except ValueError:  # two metrics of one name, which the reason of the run mentions
        return []


def render_again(report: Report, sources: Sources) -> None:
    """Write a report's page anew, with new text around the outputs of its last run."""
    import nbformat

    executed = nbformat.read(report.folder / "executed.ipynb", as_version=4)
    injected = [cell for cell in executed.cells if _is_injected(cell)]
    ran = [cell for cell in executed.cells if cell.cell_type == "code" and not _is_injected(cell)]
    fresh = nbformat.from_dict(load_notebook(report.lesson.path))
    code = [cell for cell in fresh.cells if cell.cell_type == "code"]
    for cell, previous in zip(code, ran, strict=True):
        cell.outputs, cell.execution_count = previous.outputs, previous.execution_count
    after = next(
        (at for at, cell in enumerate(fresh.cells, 1) if "parameters" in cell_tags(cell)), 0
    )
    executed.cells = fresh.cells[:after] + injected + fresh.cells[after:]
    write_report(report, executed, report.last_run | {"page_key": report.page_key(sources)})
    print(f"{report.slug}: text changed, page written anew")


def _is_injected(cell: NotebookNode) -> bool:
    """Return whether papermill added the cell, with the changed parameters."""
    return "injected-parameters" in cell_tags(cell)


def _thumbnail(executed: NotebookNode) -> bytes | None:
    """Return the first picture of the cell tagged ``thumbnail``, else of any cell."""
    cells = sorted(executed.cells, key=lambda cell: "thumbnail" not in cell_tags(cell))
    pictures = (
        output.data["image/png"]
        for cell in cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", ())
    )
    picture = next(pictures, None)
    return picture and base64.b64decode(picture)
