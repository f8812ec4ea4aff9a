"""Requested reports: notebooks at a setting, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlab.lab.course import (
    Lesson,
    Parameter,
    cell_tags,
    list_options,
    load_notebook,
    parse_value,
    read_parameters,
)
from fedlab.lab.report.files import ReportError, digest, file_hash, is_run, read_json
from fedlab.lab.report.sources import Sources

# Names in a cell that shows the whole course: its report depends on every notebook's title.
SHOWS_THE_COURSE = ("course_map", "course_table")


@dataclass(frozen=True, eq=False)
class Report:
    """A notebook at a setting.

    Attributes:
        lesson: The notebook.
        changed: Parameters that differ from the notebook's defaults.
        root: Folder of the project, with ``notebooks`` and ``reports``.
        live: Seconds in which panels compute the states of a live report; 0 for a plain report.

    Example:
        >>> from fedlab.lab.course import list_lessons
        >>> Report(list_lessons()[0], {"alpha": 0.1}, Path(".")).slug
        '00_start_here--alpha=0.1'
        >>> Report(list_lessons()[0], {"alpha": 0.1}, Path("."), live=60.0).slug
        '00_start_here--alpha=0.1,live'
    """

    lesson: Lesson
    changed: dict[str, Any]
    root: Path
    live: float = 0.0

    @property
    def slug(self) -> str:
        """Name of the report's folder, safe in every file system."""
        words = [f"{name}={value}" for name, value in sorted(self.changed.items())]
        words += ["live"] if self.live else []
        if not words:
            return self.lesson.name
        exact = f"{self.lesson.name}--{','.join(words)}"
        safe = re.sub(r"[^\w.=,+-]", "_", exact, flags=re.ASCII)
        return safe if safe == exact and len(safe) <= 80 else f"{safe[:71]}-{digest(exact)[:8]}"

    @property
    def folder(self) -> Path:
        """Folder of the report's files."""
        return self.root / "reports" / self.slug

    @property
    def last_run(self) -> dict[str, Any]:
        """Content of ``run.json``, empty if it is missing or malformed."""
        run = read_json(self.folder / "run.json")
        return run if is_run(run) else {}

    @property
    def defaults(self) -> dict[str, Any]:
        """Default values of the changed parameters, as far as the notebook still has them."""
        try:
            declared = read_parameters(self.lesson.path) if self.changed else {}
        except ValueError:  # the notebook was broken since it ran
            declared = {}
        return {name: declared[name].default for name in self.changed if name in declared}

    def key(self, sources: Sources) -> str:
        """Return a hash that changes whenever the numbers may change."""
        cells = load_notebook(self.lesson.path)["cells"]
        code = [
            ("parameters" in cell_tags(cell), cell["source"])
            for cell in cells
            if cell["cell_type"] == "code"
        ]
        shows_the_course = any(name in source for _, source in code for name in SHOWS_THE_COURSE)
        course_key = sources.course_key if shows_the_course else None
        live = [self.live] if self.live else []
        return digest([code, self.changed, sources.key, course_key, *live])

    def page_key(self, sources: Sources) -> str:
        """Return a hash that changes whenever the page may change, even with equal numbers."""
        cells = load_notebook(self.lesson.path)["cells"]
        shown = [
            (cell["cell_type"], cell["source"], cell_tags(cell), cell.get("attachments"))
            for cell in cells
        ]
        return digest([shown, self.lesson.title, self.lesson.question, sources.page_key])

    def is_current(self, sources: Sources) -> bool:
        """Return whether the report's files are complete and made from today's sources."""
        run = self.last_run
        checksums = run.get("files", {}).items()
        complete = all(file_hash(self.folder / name) == checksum for name, checksum in checksums)
        return complete and run.get("key") == self.key(sources)

    def is_up_to_date(self, sources: Sources) -> bool:
        """Return whether the report is current and passed, so that nothing needs to run."""
        return self.is_current(sources) and self.last_run["status"] == "pass"


def select_reports(
    names: list[str], settings: list[str], lessons: list[Lesson], root: Path, live: float = 0.0
) -> list[Report]:
    """Return a report for each requested lesson, after checking the request.

    Args:
        names: Names, numbers or pieces of names; none: all lessons that have the parameters.
        settings: Changed parameters, each as ``name=value``.
        lessons: All lessons.
        root: Folder of the project.
        live: Seconds in which panels compute the states of live reports; 0 for plain reports.

    Returns:
        The reports, in the order of the lessons.

    Raises:
        ReportError: For unknown names, parameters or values.
        ValueError: For a notebook whose parameters cannot be read.
    """
    lessons = _select_lessons(names, lessons)
    values = _split_settings(settings)
    if not values:
        return [Report(lesson, {}, root, live) for lesson in lessons]
    declared = {lesson: read_parameters(lesson.path) for lesson in lessons}
    able = [lesson for lesson in lessons if values.keys() <= declared[lesson].keys()]
    if not able or (names and len(able) < len(lessons)):
        unable = {lesson.name: declared[lesson] for lesson in lessons if lesson not in able}
        raise ReportError(_unknown_parameter(values, unable))
    if len(able) < len(lessons):
        names_able = ", ".join(lesson.name for lesson in able)
        print(f"{', '.join(values)}: only in {names_able}; the other notebooks do not run")
    return [
        Report(lesson, _changes(lesson, declared[lesson], values), root, live) for lesson in able
    ]


def _split_settings(settings: list[str]) -> dict[str, str]:
    """Return the values by name of settings written as ``name=value``."""
    values: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not name or not equals or name in values:
            raise ReportError(
                f"--set {text} must be NAME=VALUE, once per name. Try --set alpha=0.1"
            )
        values[name] = value
    return values


def _select_lessons(names: list[str], lessons: list[Lesson]) -> list[Lesson]:
    requested = {_lesson_name(name, lessons) for name in names}
    return [lesson for lesson in lessons if lesson.name in requested or not names]


def _lesson_name(text: str, lessons: list[Lesson]) -> str:
    """Return the one lesson with this name, this number, or this piece of its name."""
    piece = Path(text).stem if text.endswith(".ipynb") else text
    names = [lesson.name for lesson in lessons]
    exact = [name for name in names if name == piece]
    numbered = [
        lesson.name for lesson in lessons if piece.isdecimal() and int(lesson.number) == int(piece)
    ]
    matches = exact or numbered or [name for name in names if piece in name]
    if len(matches) > 1:
        raise ReportError(
            f"{text!r} must name one notebook, and fits {', '.join(matches)}. Try a full name"
        )
    if not matches:
        raise ReportError(f"no notebook fits {text!r}; there are {list_options(piece, names)}")
    return matches[0]


def _unknown_parameter(values: Iterable[str], declared: Mapping[str, Mapping]) -> str:
    """Return a message that names the parameter, and the closest ones that exist."""
    everywhere = {parameter for parameters in declared.values() for parameter in parameters}
    # a name that no notebook has is the likelier slip
    name = next((name for name in values if name not in everywhere), None)
    if name:
        options = list_options(name, sorted(everywhere))
        return f"{' and '.join(declared)}: no parameter {name!r}; there are {options}"
    lesson, parameters = next(iter(declared.items()))
    name = next(name for name in values if name not in parameters)
    return f"{lesson}: no parameter {name!r}; there are {list_options(name, parameters)}"


def _changes(
    lesson: Lesson, declared: Mapping[str, Parameter], values: Mapping[str, str]
) -> dict[str, Any]:
    """Return the parsed values that differ from the defaults."""
    parsed = {
        name: parse_value(declared[name], text, lesson.name)
        for name, text in sorted(values.items())
    }
    return {name: value for name, value in parsed.items() if value != declared[name].default}
