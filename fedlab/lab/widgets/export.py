"""What leaves a panel: the call and the command that do the same again, a report, a table, a picture."""

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
    Lesson,
    check_value,
    format_argument,
    list_lessons,
    list_options,
    read_parameters,
)
from fedlab.lab.course.parameters import Parameter
from fedlab.lab.report.jobs import Report
from fedlab.lab.widgets.controls import button

if TYPE_CHECKING:
    from fedlab.lab.widgets.panel import Panel


LINK = "color: var(--jp-content-link-color, #0b5cad); text-decoration: underline"


def declare_controls(number: str, controls: Mapping[str, Any]) -> dict[str, Parameter]:
    """The controls with all that is known of them; a plain value has its limits from the notebook's parameter."""
    parameters = read_parameters(find_lesson(number).path) if number else {}
    found = {}
    for name, value in controls.items():
        if isinstance(value, Parameter) and (name in parameters or not number):
            found[name] = value._replace(name=name)
        elif name in parameters:
            found[name] = parameters[name]._replace(
                default=check_value(parameters[name], value, f"lesson {number}")
            )
        else:
            if number:
                told = f"{name}: lesson {number} has no parameter of that name; declare it there, or give no lesson"
            else:
                told = f"{name}={value!r}: give a slider or a choice; no lesson is given to look it up in"
            raise ValueError(told)
        if not found[name].limits and not found[name].choices:
            raise ValueError(
                f"{name}: a control needs limits; declare them as [1 to 10] or [a | b] in the parameter's comment"
            )
    return found


def find_lesson(number: str) -> Lesson:
    """The notebook with that number or name."""
    lessons = list_lessons()
    found = [one for one in lessons if number in (one.number, one.name)]
    if not found:
        raise ValueError(
            f"no lesson {number!r}; there are {list_options(number, [one.number for one in lessons])}"
        )
    return found[0]


def changed_parameters(number: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the notebook's defaults: in the controls, and in its other parameters as this kernel has them."""
    parameters = read_parameters(find_lesson(number).path)
    names = get_ipython().user_ns if get_ipython() else {}
    here = {}
    for name in parameters.keys() & names.keys():
        with contextlib.suppress(ValueError):  # the kernel may have another use for a name
            here[name] = check_value(parameters[name], names[name], "")
    return {
        name: value
        for name, value in {**here, **settings}.items()
        if value != parameters[name].default
    }


def report_command(number: str, settings: Mapping[str, Any]) -> str:
    """What makes the report of a setting; nothing where there is no lesson."""
    if not number:
        return ""
    given = [
        f"--set {shlex.quote(f'{name}={format_argument(value)}')}"
        for name, value in changed_parameters(number, settings).items()
    ]
    return " ".join(["python -m fedlab report", number, *given])


class ExportButtons:
    """The buttons of a panel that give something away, and where they put it."""

    def __init__(self, panel: Panel):
        self._panel = panel
        self.widget = widgets.HTML()
        acts = {
            "Copy this setting": (
                "the call and the command that do the same again",
                self._show_code,
            ),
            "Save": ("the numbers as CSV, the picture as PNG and SVG", self._show_files),
            "Make report": (
                "run the whole notebook at this setting and link its page",
                self.report,
            ),
        }
        copy, save, self._report = (
            button(name, words, partial(self._try, act)) for name, (words, act) in acts.items()
        )
        self.buttons = [copy, save, *([self._report] if panel.lesson else [])]
        self._going: subprocess.Popen | None = None
        self._given_up = False
        self.making: threading.Thread | None = None

    def _try(self, act: Callable[[], None]) -> None:
        refused = self._panel.refused
        if refused and act != self._show_files:  # the files are of what is shown
            self._say(refused, "alert")
            return
        try:
            act()
        except Exception as error:  # what a callback raises would be nowhere on the page
            self._say(f"{type(error).__name__}: {error}", "alert")

    def _show_code(self) -> None:
        told = {"in Python": self._panel.call, "the report, on a command line": self._panel.command}
        self.widget.value = "".join(_copied(name, text) for name, text in told.items() if text)

    def _show_files(self) -> None:
        picture = self._panel.picture
        if picture is None:
            self.widget.value = "nothing is drawn yet"
            return
        files = {
            "picture.png": ("image/png", picture.png()),
            "picture.svg": ("image/svg+xml", picture.svg()),
        }
        if picture.table is not None:
            files = {
                "numbers.csv": ("text/csv", picture.table.to_csv(index=False).encode()),
                **files,
            }
        self.widget.value = " &nbsp; ".join(_file(name, *what) for name, what in files.items())

    def report(self) -> None:
        """Make the report of the present setting in the background; while one is being made, give it up."""
        if self._going:
            self._given_up = True
            self._going.terminate()  # a report is there whole or not at all, and a kernel ends with what started it
            return
        settings, number = self._panel.settings, self._panel.lesson
        changed = changed_parameters(number, settings)
        given = [f"--set={name}={format_argument(value)}" for name, value in changed.items()]
        scratch = TemporaryDirectory(
            prefix="fedlab-", ignore_cleanup_errors=True
        )  # of the process: it may be given up
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("JPY_")
        } | {"TMPDIR": scratch.name}
        try:
            with (Path(scratch.name) / "errors").open("w") as errors:
                # A session of its own: an interrupt of the kernel is not meant for it.
                self._going = subprocess.Popen(
                    [sys.executable, "-m", "fedlab", "report", number, *given],
                    cwd=ROOT, env=kept, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=errors,
                )  # fmt: skip
        except OSError as error:
            scratch.cleanup()
            self._say(f"no report: {error}", "alert")
            return
        self._given_up, self._report.description = False, "Cancel report"
        self._say("making the report")
        self.making = threading.Thread(
            target=self._follow,
            args=(self._going, Report(find_lesson(number), changed, ROOT), scratch),
        )
        self.making.daemon = True
        self.making.start()

    def _follow(self, going: subprocess.Popen, report: Report, scratch: TemporaryDirectory) -> None:
        with scratch, going:
            for line in going.stdout:
                self._say(f"making the report: {line.strip()}")
            going.wait()
            said = (Path(scratch.name) / "errors").read_text()
        self._going, self._report.description = None, "Make report"
        if going.returncode == 0:
            self._link(report)
        elif self._given_up:
            self._say("the report was given up")
        else:
            self._say(f"no report: {said.strip() or f'it ended with {going.returncode}'}", "alert")

    def _say(self, words: str, role: str = "status") -> None:
        self.widget.value = f'<span role="{role}">{html.escape(words)}</span>'

    def _link(self, report: Report) -> None:
        """JupyterLab gives out the files below the folder that it was started in; there the link leads.

        Links of the page pass the token on: the server asks for it, as the page is kept apart from JupyterLab.
        """
        page = (report.folder / "report.html").relative_to(ROOT).as_posix()
        base = "JSON.parse(document.getElementById('jupyter-config-data')?.textContent || '{}').baseUrl || '/'"
        token = "(document.cookie.match(/\\b_xsrf=[^;]*/) || [''])[0].replace(/[|]/g, '%7C')"
        go = html.escape(f"this.href = ({base}) + 'files/{quote(page)}?' + {token}")
        title = html.escape(f"{report.lesson.title}, its report")
        link = f'<a style="{LINK}" target="_blank" href="#" onclick="{go}">{title}</a>'
        self.widget.value = (
            f'<span role="status">made: {link}</span> <code>{html.escape(page)}</code>'
        )


def _copied(name: str, text: str) -> str:
    copy = "navigator.clipboard.writeText(this.parentElement.querySelector('code').textContent); this.textContent = 'copied'"
    press = f'<button type="button" onclick="{html.escape(copy)}" aria-label="copy: {html.escape(name)}">copy</button>'
    look = "white-space: pre-wrap; display: inline-block; vertical-align: top; line-height: 1.5"
    return (
        f'<div>{press} {html.escape(name)}: <code style="{look}">{html.escape(text)}</code></div>'
    )


def _file(name: str, kind: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f'<a style="{LINK}" download="{name}" href="data:{kind};base64,{data}">{name}</a>'
