"""What is asked for: which notebooks at which setting, checked before anything runs, and what their numbers depend on."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedlab.lab.course import (
    Lesson,
    Parameter,
    cell_tags,
    installed_version,
    list_options,
    load_notebook,
    parse_value,
    read_parameters,
)

HERE = Path(__file__).resolve().parent

FILES = (
    "report.html",
    "executed.ipynb",
    "metrics.json",
    "thumbnail.png",
)  # of a report, beside run.json

PAGE_SOURCES = [
    HERE / "render.py",
    *sorted((HERE / "templates").glob("*.j2")),
]  # how a report looks, not what it says


# Names in a cell that shows the whole course: its report depends on every notebook's title and question.
SHOWS_THE_COURSE = ("course_map", "course_table")


class ReportError(Exception):
    """What the user can mend, in one line.  ``code`` is the exit status: 2 if asked for wrongly, 1 for all else."""

    def __init__(self, told: object, code: int = 2):
        super().__init__(" ".join(str(told).split()))
        self.code = code


def planned(
    names: list[str], settings: list[str], lessons: list[Lesson], root: Path
) -> list[Report]:
    """A report for each lesson named (all if none is) at the ``settings``, written ``name=value``; all of it checked.

    Without names, the lessons that have the parameters.  Raises ReportError, and ValueError of a notebook that is not well.
    """
    lessons = _chosen(names, lessons)
    wanted = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not name or not equals or name in wanted:
            raise ReportError(f"--set {text}: name each parameter once, as NAME=VALUE")
        wanted[name] = value
    if not wanted:
        return [Report(lesson, {}, root) for lesson in lessons]
    declared = {lesson: read_parameters(lesson.path) for lesson in lessons}
    able = [lesson for lesson in lessons if wanted.keys() <= declared[lesson].keys()]
    if not able or (names and len(able) < len(lessons)):
        unable = [lesson for lesson in lessons if lesson not in able]
        raise ReportError(
            _unknown_parameter(wanted, {lesson.name: declared[lesson] for lesson in unable})
        )
    if len(able) < len(lessons):
        print(
            f"{', '.join(wanted)}: only in {', '.join(lesson.name for lesson in able)}; the others are left alone"
        )
    return [Report(lesson, _changes(lesson, declared[lesson], wanted), root) for lesson in able]


def _chosen(names: list[str], lessons: list[Lesson]) -> list[Lesson]:
    wanted = {_named(name, lessons) for name in names}
    return [lesson for lesson in lessons if lesson.name in wanted or not names]


def _named(text: str, lessons: list[Lesson]) -> str:
    """The one notebook that is called so, has this number, or has this piece in its name."""
    piece = Path(text).stem if text.endswith(".ipynb") else text
    names = [lesson.name for lesson in lessons]
    whole = [name for name in names if name == piece]
    numbered = [
        lesson.name for lesson in lessons if piece.isdecimal() and int(lesson.number) == int(piece)
    ]
    found = whole or numbered or [name for name in names if piece in name]
    if len(found) > 1:
        raise ReportError(f"{text!r} fits {', '.join(found)}: say which")
    if not found:
        raise ReportError(f"no notebook fits {text!r}; there are {list_options(piece, names)}")
    return found[0]


def _unknown_parameter(wanted: Iterable[str], declared: Mapping[str, Mapping]) -> str:
    everywhere = {parameter for parameters in declared.values() for parameter in parameters}
    # a name that no notebook knows is the likelier slip
    name = next((name for name in wanted if name not in everywhere), None)
    if name:
        return f"{' and '.join(declared)}: no parameter {name!r}; there are {list_options(name, sorted(everywhere))}"
    lesson, parameters = next(iter(declared.items()))
    name = next(name for name in wanted if name not in parameters)
    return f"{lesson}: no parameter {name!r}; there are {list_options(name, parameters)}"


def _changes(
    lesson: Lesson, declared: Mapping[str, Parameter], wanted: Mapping[str, str]
) -> dict[str, Any]:
    values = {
        name: parse_value(declared[name], text, lesson.name)
        for name, text in sorted(wanted.items())
    }
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
        exact = f"{self.lesson.name}--" + ",".join(
            f"{name}={value}" for name, value in sorted(self.changed.items())
        )
        safe = re.sub(r"[^\w.=,+-]", "_", exact, flags=re.ASCII)
        return safe if safe == exact and len(safe) <= 80 else f"{safe[:71]}-{_digest(exact)[:8]}"

    @property
    def folder(self) -> Path:
        return self.root / "reports" / self.slug

    @property
    def last_run(self) -> dict[str, Any]:
        """What ``run.json`` says, if there is one and it can be understood."""
        run = read(self.folder / "run.json")
        return run if is_run(run) else {}

    def key(self, now: Sources) -> str:
        """Changes when the numbers may."""
        cells = load_notebook(self.lesson.path)["cells"]
        code = [
            ("parameters" in cell_tags(cell), cell["source"])
            for cell in cells
            if cell["cell_type"] == "code"
        ]
        shows_the_course = any(name in source for _, source in code for name in SHOWS_THE_COURSE)
        return _digest([code, self.changed, now.key, now.course_key if shows_the_course else None])

    def page_key(self, now: Sources) -> str:
        """Changes when the page does, though the numbers need not."""
        cells = load_notebook(self.lesson.path)["cells"]
        shown = [
            (cell["cell_type"], cell["source"], cell_tags(cell), cell.get("attachments"))
            for cell in cells
        ]
        return _digest([shown, self.lesson.title, self.lesson.question, now.page_key])

    def current(self, now: Sources) -> bool:
        """Whether the report is whole and of today's sources."""
        run = self.last_run
        whole = all(
            _sha256(self.folder / name) == sum_ for name, sum_ in run.get("files", {}).items()
        )
        return whole and run.get("key") == self.key(now)

    def stands(self, now: Sources) -> bool:
        """Whether the report is current and good, so that nothing needs to run."""
        return self.current(now) and self.last_run["status"] == "pass"


class Sources(NamedTuple):
    """What every report depends on beside its notebook: the package, the data, and what is installed."""

    key: str
    page_key: str
    course_key: str
    versions: dict[str, str]

    @classmethod
    def of(cls, root: Path, lessons: list[Lesson]) -> Sources:
        versions = _versions(root / "requirements.txt")
        code = [
            path
            for path in (root / "fedlab").rglob("*.py")
            if path.relative_to(root) != Path("fedlab/lab/report/render.py")
        ]
        data = [
            path
            for path in (root / "data").rglob("*")
            if path.is_file() and root / "data" / "cache" not in path.parents
        ]
        course_shown = [lesson._replace(path=None) for lesson in lessons]
        keys = ([versions, _hashes(code + data, root)], _hashes(PAGE_SOURCES, HERE), course_shown)
        return cls(*map(_digest, keys), versions)


def _versions(requirements: Path) -> dict[str, str]:
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    names = [line.split("==")[0].strip() for line in lines if "==" in line]
    return {"python": platform.python_version()} | {
        name: installed_version(name) for name in ["fedlab-workbench", *names]
    }


def _hashes(paths: Iterable[Path], root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): _sha256(path) for path in sorted(paths)}


def _sha256(path: Path) -> str:
    """Of the file's contents; of nothing if it is not there."""
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def is_run(run: Any) -> bool:
    """Return whether this is what a report writes into its ``run.json``."""
    kinds = {
        **dict.fromkeys(("key", "page_key", "status", "reason", "finished"), str),
        **dict.fromkeys(("parameters", "changed", "versions", "files"), dict),
        "seconds": (int, float),
        "headline": (str, type(None)),
    }
    if not isinstance(run, dict) or not all(
        isinstance(run.get(name, ...), kind) for name, kind in kinds.items()
    ):
        return False
    sums = all(isinstance(checksum, str) for checksum in run["files"].values())
    return sums and run["files"].keys() <= set(FILES) and math.isfinite(run["seconds"])


def is_numbers(numbers: Any) -> bool:
    """Return whether this is what a report writes into its ``metrics.json``."""
    if not isinstance(numbers, dict) or not isinstance(numbers.get("parameters"), dict):
        return False
    found, mean = numbers.get("metrics"), (int, float, type(None))
    words = {"name", "unit", "expected", "tolerance", "headline", "seeds", "mean"}
    return isinstance(found, list) and all(
        isinstance(one, dict)
        and words <= one.keys()
        and isinstance(one["name"], str)
        and isinstance(one["mean"], mean)
        for one in found
    )


def read(path: Path) -> Any:
    """What a JSON file holds; nothing if it is not there or not readable."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
