"""Notebooks in, a page of results out: ``python -m fedlab.lab.report``.

Each notebook runs through papermill, its outputs are judged, and a page is written that needs no network, with an index of
all pages.  What has not changed since its last good run is not run again.

A report is a folder: ``report.html``, ``executed.ipynb``, ``metrics.json``, ``thumbnail.png``, and ``run.json``, which is
written last and holds the checksums of the others: a folder left half-replaced is noticed and made anew.

papermill and nbconvert take seconds to import, so they are imported where they are needed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import errno
import hashlib
import html
import json
import logging
import os
import platform
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from fedlab.lab import course, metrics
from fedlab.lab.course import ROOT, Lesson

if TYPE_CHECKING:
    from nbformat import NotebookNode

TIMEOUT = 1800  # seconds a cell may take
PANEL = "application/vnd.fedlab.panel+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
HERE = Path(__file__).resolve().parent
PAGE_SOURCES = [HERE / "report.py", HERE / "report.html.j2", HERE / "index.html.j2"]


class ReportError(Exception):
    """What the user can mend, in one line.  ``code`` is the exit status: 2 if asked for wrongly, 1 for all else."""

    def __init__(self, told: object, code: int = 2):
        super().__init__(" ".join(str(told).split()))
        self.code = code


# -- the command


def main(argv: list[str] | None = None, *, root: Path = ROOT) -> int:
    """Exit status: 0 all is well, 1 some report is not or cannot be written, 2 asked for wrongly, 130 interrupted."""
    try:
        return _make(_arguments(argv), Path(root).resolve())
    except ReportError as refused:
        print(f"report: {refused}", file=sys.stderr)
        return refused.code
    except OSError as error:
        print(f"report: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("report: interrupted; the reports made before are whole", file=sys.stderr)
        return 130


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m fedlab.lab.report", description="Run notebooks and write their reports.")
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="a notebook, its number, or a piece of its name; all if left out")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="change a parameter of the notebooks")
    add("--scale", help="short for --set scale=…: fast or full")
    add("--force", action="store_true", help="run also what is up to date")
    add("--check", action="store_true", help="compare with the committed numbers and leave them as they are")
    add("--jobs", type=int, default=1, metavar="N", help="how many notebooks run at once; 1 if left out")
    parser.error = _refuse
    asked = parser.parse_intermixed_args(argv)
    if asked.jobs < 1:
        raise ReportError(f"--jobs {asked.jobs}: at least 1 notebook runs at once")
    if asked.scale:
        asked.set.append(f"scale={asked.scale}")
    if asked.check and asked.set:
        raise ReportError("--check compares numbers of the default parameters: leave out --set and --scale")
    return asked


def _refuse(message: str) -> None:
    raise ReportError(f"{message}; --help says what there is")


def _make(asked: argparse.Namespace, root: Path) -> int:
    try:
        lessons = course.notebooks(root / "notebooks")
        reports = _planned(asked, _chosen(asked.names, lessons), root)
    except ValueError as error:
        raise ReportError(error) from None
    now = _Sources.of(root)
    _sweep(root / "reports")
    stale = [report for report in reports if asked.force or not report.stands(now)]
    _run_all(stale, now, asked.jobs)
    for report in reports:
        if report not in stale and report.last_run["page_key"] != report.page_key(now):
            _render_again(report, now)
    bad = {report: report.last_run for report in reports if report.last_run["status"] != "pass"}
    trouble = [f"{report.slug}: {run['status']}, {run['reason']}" for report, run in bad.items()]
    trouble += _settled([report for report in reports if not report.changed and report not in bad], asked.check)
    _write_index(root, lessons, now)
    for line in trouble:
        print(f"report: {line}", file=sys.stderr)
    kept = len(reports) - len(stale)
    print(f"{len(stale)} run, {kept} up to date, {len(bad)} failed: {root / 'reports' / 'index.html'}")
    return 1 if trouble else 0


# -- what is asked for


def _chosen(names: list[str], lessons: list[Lesson]) -> list[Lesson]:
    wanted = {_named(name, lessons) for name in names}
    return [lesson for lesson in lessons if lesson.name in wanted or not names]


def _named(text: str, lessons: list[Lesson]) -> str:
    """The one notebook that is called so, has this number, or has this piece in its name."""
    piece = Path(text).stem if text.endswith(".ipynb") else text
    names = [lesson.name for lesson in lessons]
    whole = [name for name in names if name == piece]
    numbered = [lesson.name for lesson in lessons if piece.isdecimal() and int(lesson.number) == int(piece)]
    found = whole or numbered or [name for name in names if piece in name]
    if len(found) > 1:
        raise ReportError(f"{text!r} fits {', '.join(found)}: say which")
    if not found:
        raise ReportError(f"no notebook fits {text!r}; there are {course.known(piece, names)}")
    return found[0]


def _planned(asked: argparse.Namespace, lessons: list[Lesson], root: Path) -> list[Report]:
    """A report a lesson, at the setting asked for, which is checked in full before anything runs."""
    wanted = {}
    for text in asked.set:
        name, equals, value = text.partition("=")
        if not name or not equals or name in wanted:
            raise ReportError(f"--set {text}: name each parameter once, as NAME=VALUE")
        wanted[name] = value
    if not wanted:
        return [Report(lesson, {}, root) for lesson in lessons]
    declared = {lesson: course.parameters(lesson.path) for lesson in lessons}
    able = [lesson for lesson in lessons if wanted.keys() <= declared[lesson].keys()]
    if not able or (asked.names and len(able) < len(lessons)):
        unable = [lesson for lesson in lessons if lesson not in able]
        raise ReportError(_unknown_parameter(wanted, {lesson.name: declared[lesson] for lesson in unable}))
    if len(able) < len(lessons):
        print(f"{', '.join(wanted)}: only in {', '.join(lesson.name for lesson in able)}; the others are left alone")
    return [Report(lesson, _changes(lesson, declared[lesson], wanted), root) for lesson in able]


def _unknown_parameter(wanted: Iterable[str], declared: Mapping[str, Mapping]) -> str:
    everywhere = {parameter for parameters in declared.values() for parameter in parameters}
    # a name that no notebook knows is the likelier slip
    name = next((name for name in wanted if name not in everywhere), None)
    if name:
        return f"{' and '.join(declared)}: no parameter {name!r}; there are {course.known(name, sorted(everywhere))}"
    lesson, parameters = next(iter(declared.items()))
    name = next(name for name in wanted if name not in parameters)
    return f"{lesson}: no parameter {name!r}; there are {course.known(name, parameters)}"


def _changes(lesson: Lesson, declared: Mapping[str, course.Parameter], wanted: Mapping[str, str]) -> dict[str, Any]:
    values = {name: course.parse(declared[name], text, lesson.name) for name, text in sorted(wanted.items())}
    return {name: value for name, value in values.items() if value != declared[name].default}


# -- what a report depends on


@dataclass(frozen=True, eq=False)
class Report:
    """A notebook at a setting.  ``changed`` holds the parameters that differ from the notebook's defaults."""

    lesson: Lesson
    changed: dict[str, Any]
    root: Path

    @property
    def slug(self) -> str:
        """The folder's name, which no file system objects to."""
        if not self.changed:
            return self.lesson.name
        exact = f"{self.lesson.name}--" + ",".join(f"{name}={value}" for name, value in sorted(self.changed.items()))
        safe = re.sub(r"[^\w.=,+-]", "_", exact, flags=re.ASCII)
        return safe if safe == exact and len(safe) <= 80 else f"{safe[:71]}-{_digest(exact)[:8]}"

    @property
    def folder(self) -> Path:
        return self.root / "reports" / self.slug

    @property
    def last_run(self) -> dict[str, Any]:
        """What ``run.json`` says, if there is one."""
        return _read(self.folder / "run.json") or {}

    def key(self, now: _Sources) -> str:
        """Changes when the numbers may."""
        cells = course.load(self.lesson.path)["cells"]
        code = [("parameters" in _tags(cell), cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return _digest([code, self.changed, now.key])

    def page_key(self, now: _Sources) -> str:
        """Changes when the page does, though the numbers need not."""
        cells = course.load(self.lesson.path)["cells"]
        shown = [(cell["cell_type"], cell["source"], _tags(cell), cell.get("attachments")) for cell in cells]
        return _digest([shown, self.lesson.title, self.lesson.question, now.page_key])

    def current(self, now: _Sources) -> bool:
        """Whether the report is whole and of today's sources."""
        run = self.last_run
        whole = all(_sha256(self.folder / name) == sum_ for name, sum_ in run.get("files", {}).items())
        return whole and run.get("key") == self.key(now)

    def stands(self, now: _Sources) -> bool:
        """Whether the report is current and good, so that nothing needs to run."""
        return self.current(now) and self.last_run["status"] == "pass"


class _Sources(NamedTuple):
    """What every report depends on beside its notebook: the package, the data, and what is installed."""

    key: str
    page_key: str
    versions: dict[str, str]

    @classmethod
    def of(cls, root: Path) -> _Sources:
        versions = _versions(root / "requirements.txt")
        code = [path for path in (root / "fedlab").rglob("*.py") if path.relative_to(root) != Path("fedlab/lab/report.py")]
        data = [
            path for path in (root / "data").rglob("*") if path.is_file() and root / "data" / "cache" not in path.parents
        ]
        return cls(_digest([versions, _hashes(code + data, root)]), _digest(_hashes(PAGE_SOURCES, HERE)), versions)


def _versions(requirements: Path) -> dict[str, str]:
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    names = [line.split("==")[0].strip() for line in lines if "==" in line]
    return {"python": platform.python_version()} | {name: course.version(name) for name in ["fedlab-workbench", *names]}


def _hashes(paths: Iterable[Path], root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): _sha256(path) for path in sorted(paths)}


def _sha256(path: Path) -> str:
    """Of the file's contents; of nothing if it is not there."""
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


# -- running


def _run_all(reports: list[Report], now: _Sources, jobs: int) -> None:
    """Run each and go on after a failure.  An interrupt stops the kernels and leaves the reports before it as they are."""
    if not reports:
        return
    defaults = [_defaults(report.lesson) for report in reports]
    _need_kernel()
    for folder in (reports[0].root / "reports" / "metrics", *(report.folder for report in reports)):
        _need_writable(folder)
    os.environ["FEDLAB_HEADLESS"] = "1"  # panels show their states as pictures
    stopping = threading.Event()
    with Progress(reports, jobs) as progress, ThreadPoolExecutor(jobs) as pool:
        runs = [
            pool.submit(_run, report, parameters | report.changed, now, progress, stopping)
            for report, parameters in zip(reports, defaults, strict=True)
        ]
        try:
            for run in as_completed(runs):
                run.result()
        except BaseException:
            stopping.set()
            _stop(runs)
            raise


def _defaults(lesson: Lesson) -> dict[str, Any]:
    try:
        return {name: parameter.default for name, parameter in course.parameters(lesson.path).items()}
    except ValueError as error:
        raise ReportError(error) from None


def _need_kernel() -> None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        raise ReportError("no Jupyter kernel named python3; install it: python -m pip install ipykernel", code=1) from None


def _stop(runs: list[Future]) -> None:
    """Kernels do not hear Ctrl-C themselves, and one may just be starting: kill until no run is left."""
    import psutil

    for run in runs:
        run.cancel()
    while wait(runs, timeout=0.2).not_done:
        for child in psutil.Process().children(recursive=True):
            child.kill()


def _run(report: Report, parameters: dict[str, Any], now: _Sources, progress: Progress, stopping: threading.Event) -> None:
    keys = {"key": report.key(now), "page_key": report.page_key(now)}  # of what runs, though it be edited meanwhile
    began = time.perf_counter()
    executed, error = _execute(report, progress)
    if stopping.is_set():
        return
    _drop_progress_bars(executed)
    if report.changed:
        _unjudge(executed)
    faults = _faults(executed)
    _without_widgets(executed)
    run = keys | {
        "notebook": report.lesson.name,
        "parameters": parameters,
        "changed": report.changed,
        "status": "error" if error else "fail" if faults else "pass",
        "reason": error or "; ".join(dict.fromkeys(faults)),
        "seconds": round(time.perf_counter() - began, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": now.versions,
    }
    _write_report(report, executed, run)
    progress.end(report, run)


def _execute(report: Report, progress: Progress) -> tuple[NotebookNode, str]:
    """The executed notebook, as far as it came, and what stopped it."""
    import nbformat
    import papermill
    from jupyter_core.utils import ensure_event_loop

    notebook = nbformat.from_dict(course.load(report.lesson.path))
    error = ""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it has to say is in the report
    with tempfile.TemporaryDirectory(prefix="fedlab-", ignore_cleanup_errors=True) as scratch:
        path = Path(scratch) / "executed.ipynb"
        try:
            with contextlib.closing(ensure_event_loop()):  # nbclient leaves its loop of this thread open
                papermill.execute_notebook(
                    notebook,
                    path,
                    report.changed,
                    kernel_name="python3",
                    progress_bar=False,
                    extra_arguments=["--log-level=CRITICAL"],  # else it warns of its loopback sockets
                    execution_timeout=TIMEOUT,
                    resources={"metadata": {"path": str(report.lesson.path.parent)}},  # papermill's cwd is not for threads
                    on_cell_start=lambda cell, cell_index: progress.reach(report, cell_index),
                )
        except Exception as raised:  # a cell's error, a timeout, a kernel that died: all become part of the report
            error = f"{type(raised).__name__}: {raised}".strip()
        executed = nbformat.read(path, as_version=4) if path.exists() else notebook
    executed.cells = [cell for cell in executed.cells if "papermill-error-cell-tag" not in _tags(cell)]
    return executed, error and _blamed(executed, error)


def _blamed(executed: NotebookNode, error: str) -> str:
    """Where and what went wrong, in a line; a cell that was stopped from outside gets the error as its output."""
    from nbformat.v4 import new_output

    name, _, words = error.partition(": ")
    if name == "PapermillExecutionError":
        for cell in executed.cells:
            for output in _outputs(cell, "error"):
                return f"cell [{cell.execution_count}]: {_said(output)}"
    started = [cell for cell in executed.cells if cell.metadata.get("papermill", {}).get("start_time")]
    for cell in started[-1:]:
        kept = [output for output in cell.outputs if output.output_type != "error"]  # not the interrupt that ended it
        cell.outputs = [*kept, new_output("error", ename=name, evalue=words, traceback=error.splitlines())]
    return error.splitlines()[0]


def _said(output: Mapping[str, Any]) -> str:
    """An error in one line."""
    return f"{output['ename']}: {output['evalue']}".strip().splitlines()[0]


# -- judging


def _drop_progress_bars(executed: NotebookNode) -> None:
    """The bars of tqdm are widgets too, with nothing to move; what is left of one is a line like ``20%|##``."""
    models = _widget_models(executed)
    bars = {
        name
        for name, model in models.items()
        for child in model.get("state", {}).get("children", ())
        if models.get(child.removeprefix("IPY_MODEL_"), {}).get("model_name", "").endswith("ProgressModel")
    }
    for cell in executed.cells:
        if "outputs" in cell:
            cell.outputs = [one for one in cell.outputs if one.get("data", {}).get(WIDGET, {}).get("model_id") not in bars]


def _widget_models(executed: NotebookNode) -> dict[str, Any]:
    return executed.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})


def _unjudge(executed: NotebookNode) -> None:
    """Expected ranges speak of the default parameters: under others a metric neither passes nor fails."""
    for cell in executed.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if metrics.MIME in data:
                data.update(metrics.bundle(data[metrics.MIME] | {"pass": None}))


def _faults(executed: NotebookNode) -> list[str]:
    """What is wrong with a notebook, though it ran to its end."""
    faults = []
    for cell in executed.cells:
        at = f"cell [{cell.get('execution_count')}]: "
        faults += [at + _said(output) for output in _outputs(cell, "error")]
        faults += [at + "wrote a warning" for output in _outputs(cell, "stream") if _warns(output)]
        faults += [at + fault for output in cell.get("outputs", ()) if (fault := _panel_fault(output.get("data", {})))]
    faults += _widget_errors(executed)
    try:
        recorded = metrics.read(executed)
    except ValueError as error:
        return [*faults, str(error)]
    return faults + [metrics.in_words(metric) for metric in recorded if metric["pass"] is False]


def _outputs(cell: NotebookNode, kind: str) -> list[NotebookNode]:
    return [output for output in cell.get("outputs", ()) if output.output_type == kind]


def _warns(output: NotebookNode) -> bool:
    return output.name == "stderr" and "Warning" in output.text


def _panel_fault(data: Mapping[str, Any]) -> str:
    """A widget must have been moved: two states or more, each done, each with a picture of its own."""
    if PANEL not in data:
        return "a widget was never driven; wrap it in a Panel" if WIDGET in data else ""
    states = data[PANEL]["states"]
    undone = [state["status"] for state in states if not state["status"].startswith("done")]
    if undone:
        return f"a panel says {undone[0]!r}"
    if len(states) < 2 or len({state["image"] for state in states}) < len(states):
        return "a panel shows the same picture in every state, or has only one"
    return ""


def _widget_errors(executed: NotebookNode) -> list[str]:
    """Errors that a callback left in an Output widget, where no cell shows them."""
    models = _widget_models(executed).values()
    outputs = [output for model in models for output in model.get("state", {}).get("outputs", ())]
    return [f"in a widget: {_said(output)}" for output in outputs if output["output_type"] == "error"]


def _without_widgets(executed: NotebookNode) -> None:
    """With widget state nbconvert would leave out pictures and load scripts; papermill's notes name this machine."""
    executed.metadata.pop("widgets", None)
    executed.metadata.pop("papermill", None)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)


# -- writing a report


def _write_report(report: Report, executed: NotebookNode, run: dict[str, Any]) -> None:
    import nbformat

    recorded = _recorded(executed)
    files = {
        "report.html": _page(report, executed, run, recorded).encode(),
        "executed.ipynb": nbformat.writes(executed).encode(),
        "metrics.json": _json({"notebook": report.lesson.name, "parameters": run["parameters"], "metrics": recorded}),
        "thumbnail.png": _thumbnail(executed),
    }
    files = {name: content for name, content in files.items() if content}
    headline = next((metric for metric in recorded if metric["headline"]), recorded[0] if recorded else None)
    run["headline"] = headline and metrics.in_words(headline | {"expected": None})
    run["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    _publish(report.folder, files | {"run.json": _json(run)})
    if "thumbnail.png" not in files:
        (report.folder / "thumbnail.png").unlink(missing_ok=True)


def _recorded(executed: NotebookNode) -> list[dict[str, Any]]:
    try:
        return metrics.read(executed)
    except ValueError:  # two of one name: the run's reason says so
        return []


def _render_again(report: Report, now: _Sources) -> None:
    """New text around the outputs of the last run."""
    import nbformat

    executed = nbformat.read(report.folder / "executed.ipynb", as_version=4)
    ran = [cell for cell in executed.cells if cell.cell_type == "code" and "injected-parameters" not in _tags(cell)]
    injected = [cell for cell in executed.cells if "injected-parameters" in _tags(cell)]
    fresh = nbformat.from_dict(course.load(report.lesson.path))
    code = [cell for cell in fresh.cells if cell.cell_type == "code"]
    for cell, done in zip(code, ran, strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    after = next((at for at, cell in enumerate(fresh.cells, 1) if "parameters" in _tags(cell)), 0)
    executed.cells = fresh.cells[:after] + injected + fresh.cells[after:]
    _write_report(report, executed, report.last_run | {"page_key": report.page_key(now)})
    print(f"{report.slug}: text changed, page written anew")


def _thumbnail(executed: NotebookNode) -> bytes | None:
    """The first picture of the cell tagged ``thumbnail``, else of any."""
    cells = sorted(executed.cells, key=lambda cell: "thumbnail" not in _tags(cell))
    pictures = (
        output.data["image/png"]
        for cell in cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", ())
    )
    picture = next(pictures, None)
    return picture and base64.b64decode(picture)


def _read(path: Path) -> Any:
    """What a JSON file holds; nothing if it is not there or not readable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _json(what: Any) -> bytes:
    return (json.dumps(what, indent=1, ensure_ascii=False) + "\n").encode()


def _publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace the files, the last one last.  All are first written under other names: a full disk changes nothing."""
    drafts = {folder / f".{name}.{os.getpid()}.tmp": name for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for draft, name in drafts.items():
            draft.write_bytes(files[name])
        for draft, name in drafts.items():
            os.replace(draft, folder / name)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    finally:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.unlink()


def _need_writable(folder: Path) -> None:
    """Before an hour is spent on numbers that cannot be kept."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"?")
        probe.unlink()
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _cannot_write(folder: Path, error: OSError) -> ReportError:
    remedies = {
        errno.ENOSPC: "free some space and run again",
        errno.EDQUOT: "free some space and run again",
        errno.EEXIST: "a file stands where this folder belongs; move it away",
        errno.ENOTDIR: "a file stands where a folder belongs; move it away",
    }
    remedy = remedies.get(error.errno, "make it writable for you, or work on a copy")
    return ReportError(f"cannot write to {folder}: {error.strerror or error}; {remedy}", code=1)


def _sweep(reports: Path) -> None:
    """Remove what processes that were killed left half-written."""
    import psutil

    for draft in reports.glob("**/.*.tmp"):
        owner = draft.name.split(".")[-2]
        if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
            with contextlib.suppress(OSError):
                draft.unlink()


# -- the committed numbers


def _settled(reports: Iterable[Report], check: bool) -> list[str]:
    """Commit the numbers of good reports where they have really changed; with ``check``, say instead where they have."""
    trouble = []
    for report in reports:
        path = report.root / "reports" / "metrics" / f"{report.lesson.name}.json"
        before, now = _read(path), _read(report.folder / "metrics.json")
        if check:
            trouble += [f"{report.slug}: {line}" for line in _differences(before, now)]
        elif before is None or _frame(before) != _frame(now) or _differences(before, now):
            _publish(path.parent, {path.name: _json(now)})
    return trouble


def _differences(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    if before is None:
        return ["its numbers are not committed; run without --check and commit reports/metrics"]
    return metrics.moved(before["metrics"], now["metrics"])


def _frame(committed: dict[str, Any]) -> list:
    """All that is not measured."""
    words = ("name", "unit", "expected", "tolerance", "headline", "seeds")
    return [committed["parameters"], [[metric[word] for word in words] for metric in committed["metrics"]]]


# -- pages


def _page(report: Report, executed: NotebookNode, run: dict[str, Any], recorded: list[dict[str, Any]]) -> str:
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
    shown.cells = [cell for cell in shown.cells if "hide" not in _tags(cell)]
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


def _write_index(root: Path, lessons: list[Lesson], now: _Sources) -> None:
    from jinja2 import Environment, FileSystemLoader

    cards = [card for lesson in lessons for card in _cards(root, lesson, now)]
    template = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True).get_template("index.html.j2")
    page = template.render(cards=cards).encode()
    path = root / "reports" / "index.html"
    if not path.is_file() or path.read_bytes() != page:
        _publish(path.parent, {path.name: page})


def _cards(root: Path, lesson: Lesson, now: _Sources) -> list[dict[str, Any]]:
    """The default report, run or not, and every other setting that was ever run."""
    settings = [_read(path) for path in sorted((root / "reports").glob(f"{lesson.name}--*/run.json"))]
    reports = [Report(lesson, changed, root) for changed in [{}, *(run["changed"] for run in settings if run)]]
    return [_card(report, now) for report in reports]


def _card(report: Report, now: _Sources) -> dict[str, Any]:
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


class Progress:
    """A bar over cells with the time left, judged by the last run; where nobody watches, a line a notebook."""

    def __init__(self, reports: list[Report], jobs: int):
        from tqdm import tqdm

        self._lock = threading.Lock()
        self._jobs = jobs
        self._seconds = {r.slug: r.last_run.get("seconds", 60 * r.lesson.minutes) for r in reports}
        self._cells = {r.slug: len(course.load(r.lesson.path)["cells"]) for r in reports}
        self._done = dict.fromkeys(self._cells, 0)
        print(f"{len(reports)} to run, about {self._left()}", flush=True)
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

    def reach(self, report: Report, cell_index: int) -> None:
        with self._lock:
            self._done[report.slug] = min(cell_index, self._cells[report.slug])
            self._show(report.slug)

    def end(self, report: Report, run: Mapping[str, Any]) -> None:
        with self._lock:
            self._done[report.slug] = self._cells[report.slug]
            self._bar.write(f"{report.slug}: {run['status']}, {duration(run['seconds'])}", file=sys.stdout)
            self._show(report.slug)

    def _show(self, slug: str) -> None:
        self._bar.set_description_str(f"{slug} ", refresh=False)
        self._bar.set_postfix_str(f"about {self._left()} left", refresh=False)
        self._bar.update(sum(self._done.values()) - self._bar.n)

    def _left(self) -> str:
        shares = (seconds * (1 - self._done[slug] / self._cells[slug]) for slug, seconds in self._seconds.items())
        return duration(sum(shares) / min(self._jobs, len(self._seconds)))


if __name__ == "__main__":
    sys.exit(main())
