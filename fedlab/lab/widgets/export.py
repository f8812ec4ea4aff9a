"""Export from a panel: code and command of a setting, its report, its table, its picture."""

from __future__ import annotations

import base64
import contextlib
import html
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import ipywidgets as widgets
from IPython import get_ipython

from fedlab.lab.course import (
    ROOT,
    Parameter,
    check_value,
    find_lesson,
    format_argument,
    read_parameters,
)
from fedlab.lab.report.jobs import Report
from fedlab.lab.widgets.controls import button

if TYPE_CHECKING:
    from fedlab.lab.widgets.panel import Panel

_LINK = "color: var(--jp-content-link-color, #0b5cad); text-decoration: underline"


def declare_controls(lesson: str, controls: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the controls of a panel with their limits.

    Args:
        lesson: Number of the notebook, or empty.
        controls: A ``slider``, a ``choice``, or a plain value, by name. A plain value gets its
            limits from the notebook's parameter of that name.

    Raises:
        ValueError: If a control has no limits, or the notebook has no such parameter.

    Example:
        >>> declare_controls("00", {"alpha": 0.1})["alpha"].limits
        (0.01, 100.0)
    """
    parameters = read_parameters(find_lesson(lesson).path) if lesson else {}
    declared = {}
    for name, value in controls.items():
        if isinstance(value, Parameter) and (name in parameters or not lesson):
            declared[name] = value._replace(name=name)
        elif name in parameters:
            default = check_value(parameters[name], value, f"lesson {lesson}")
            declared[name] = parameters[name]._replace(default=default)
        elif lesson:
            raise ValueError(
                f"{name}: lesson {lesson} has no parameter of that name; declare it there, or "
                "give no lesson"
            )
        else:
            raise ValueError(
                f"{name}={value!r}: give a slider or a choice; no lesson is given to look it up in"
            )
        if not declared[name].limits and not declared[name].choices:
            raise ValueError(
                f"{name}: a control needs limits; declare them as [1 to 10] or [a | b] in the "
                "parameter's comment"
            )
    return declared


def changed_parameters(lesson: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that differ from the defaults of a notebook.

    They are those of the controls, and other parameters of the notebook as this kernel has them.

    Args:
        lesson: Number of the notebook.
        settings: The values of the controls.

    Example:
        >>> changed_parameters("00", {"alpha": 0.25})
        {'alpha': 0.25}
    """
    parameters = read_parameters(find_lesson(lesson).path)
    variables = get_ipython().user_ns if get_ipython() else {}
    values = {}
    for name in parameters.keys() & variables.keys():
        with contextlib.suppress(ValueError):  # the kernel may have another use for a name
            values[name] = check_value(parameters[name], variables[name], "")
    values |= settings
    return {name: value for name, value in values.items() if value != parameters[name].default}


def report_command(lesson: str, settings: Mapping[str, Any]) -> str:
    """Return the command that makes the report of a setting; empty without a lesson.

    Args:
        lesson: Number of the notebook, or empty.
        settings: The values of the controls.

    Example:
        >>> report_command("00", {"alpha": 0.25})
        'python -m fedlab report 00 --set alpha=0.25'
    """
    if not lesson:
        return ""
    arguments = [
        f"--set {shlex.quote(f'{name}={format_argument(value)}')}"
        for name, value in changed_parameters(lesson, settings).items()
    ]
    return " ".join(["python -m fedlab report", lesson, *arguments])


class ExportButtons:
    """The buttons of a panel that export something.

    Args:
        panel: The panel whose setting and picture are exported.

    Attributes:
        widget: The line where code, files and links appear.
        buttons: Code, Save, and Make report if the panel has a lesson.
        making: The thread that makes the last report, if any.
    """

    def __init__(self, panel: Panel):
        self._panel = panel
        self.widget = widgets.HTML()
        acts = {
            "Code": (
                "the call and the command that do the same again",
                self._show_code,
            ),
            "Save": ("the numbers as CSV, the picture as PNG and SVG", self._show_files),
            "Make report": (
                "run the whole notebook at this setting and link its page",
                self.report,
            ),
        }
        code, save, self._report = (
            button(name, words, partial(self._try, act)) for name, (words, act) in acts.items()
        )
        self.buttons = [code, save, *([self._report] if panel.lesson else [])]
        self._process: subprocess.Popen | None = None
        self._given_up = False
        self.making: threading.Thread | None = None

    def _try(self, act: Callable[[], None]) -> None:
        refused = self._panel.refused
        if refused and act != self._show_files:  # the files are those of the picture shown
            self._say(refused, "alert")
            return
        try:
            act()
        except Exception as error:  # an error of a callback would be nowhere on the page
            self._say(f"{type(error).__name__}: {error}", "alert")

    def refresh(self) -> None:
        """Show the code of the present setting, if code is what is shown."""
        if "data-copy" in self.widget.value:
            self._try(self._show_code)

    def _show_code(self) -> None:
        texts = {
            "in Python": self._panel.call,
            "the report, on a command line": self._panel.command,
        }
        self.widget.value = "".join(_copy_line(name, text) for name, text in texts.items() if text)

    def _show_files(self) -> None:
        picture = self._panel.picture
        if picture is None:
            self.widget.value = "nothing is drawn yet"
            return
        links = []
        if picture.table is not None:
            table = picture.table.to_csv(index=False).encode()
            links.append(_file_link("numbers.csv", "text/csv", table))
        links.append(_file_link("picture.png", "image/png", picture.png()))
        links.append(_file_link("picture.svg", "image/svg+xml", picture.svg()))
        self.widget.value = " &nbsp; ".join(links)

    def report(self) -> None:
        """Make the report of the present setting in the background; a second call gives it up."""
        if self._process:
            # A report is written whole or not at all, and a kernel ends with its starter.
            self._given_up = True
            self._process.terminate()
            return
        lesson = self._panel.lesson
        changed = changed_parameters(lesson, self._panel.settings)
        # The process gets a folder of its own for temporary files, because it may be given up.
        scratch = TemporaryDirectory(prefix="fedlab-", ignore_cleanup_errors=True)
        try:
            self._process = _start_report(lesson, changed, Path(scratch.name))
        except OSError as error:
            scratch.cleanup()
            self._say(f"no report: {error}", "alert")
            return
        self._given_up, self._report.description = False, "Cancel report"
        self._say("making the report")
        report = Report(find_lesson(lesson), changed, ROOT)
        self.making = threading.Thread(target=self._follow, args=(self._process, report, scratch))
        self.making.daemon = True
        self.making.start()

    def _follow(
        self, process: subprocess.Popen, report: Report, scratch: TemporaryDirectory
    ) -> None:
        with scratch, process:
            for line in process.stdout:
                self._say(f"making the report: {line.strip()}")
            process.wait()
            errors = (Path(scratch.name) / "errors").read_text()
        self._process, self._report.description = None, "Make report"
        if process.returncode == 0:
            self._link(report)
        elif self._given_up:
            self._say("the report was given up")
        else:
            reason = errors.strip() or f"it ended with {process.returncode}"
            self._say(f"no report: {reason}", "alert")

    def _say(self, words: str, role: str = "status") -> None:
        self.widget.value = f'<span role="{role}">{html.escape(words)}</span>'

    def _link(self, report: Report) -> None:
        """Link the page of a report.

        JupyterLab serves the files below the folder that it was started in, so the link leads
        there. The link passes a token on: the server asks for it, because the page is kept apart
        from JupyterLab.
        """
        page = (report.folder / "report.html").relative_to(ROOT).as_posix()
        config = "document.getElementById('jupyter-config-data')?.textContent"
        base = f"JSON.parse({config} || '{{}}').baseUrl || '/'"
        token = "(document.cookie.match(/\\b_xsrf=[^;]*/) || [''])[0].replace(/[|]/g, '%7C')"
        go = html.escape(f"this.href = ({base}) + 'files/{quote(page)}?' + {token}")
        title = html.escape(f"{report.lesson.title}, its report")
        link = f'<a style="{_LINK}" target="_blank" href="#" onclick="{go}">{title}</a>'
        self.widget.value = (
            f'<span role="status">made: {link}</span> <code>{html.escape(page)}</code>'
        )


def _start_report(lesson: str, changed: Mapping[str, Any], scratch: Path) -> subprocess.Popen:
    """Start the process that makes a report; it writes ``errors`` in the folder ``scratch``."""
    arguments = [f"--set={name}={format_argument(value)}" for name, value in changed.items()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JPY_")}
    environment["TMPDIR"] = str(scratch)
    with (scratch / "errors").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "fedlab", "report", lesson, *arguments],
            cwd=ROOT,
            env=environment,
            text=True,
            start_new_session=True,  # an interrupt of the kernel is not meant for it
            stdout=subprocess.PIPE,
            stderr=errors,
        )


def _copy_line(name: str, text: str) -> str:
    """Return a line with a text and a button, by which the page's script copies it."""
    name, text = html.escape(name), html.escape(text)
    press = f'<button type="button" data-copy="{text}" aria-label="copy: {name}">copy</button>'
    copied = '<span class="fedlab-said" role="status"></span>'
    look = "white-space: pre-wrap; display: inline-block; vertical-align: top; line-height: 1.5"
    return f'<div>{press} {copied} {name}: <code style="{look}">{text}</code></div>'


def _file_link(name: str, kind: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f'<a style="{_LINK}" download="{name}" href="data:{kind};base64,{data}">{name}</a>'
