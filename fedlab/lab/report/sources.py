"""Sources of reports: numbers depend on the package, pages on their templates."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fedlab.lab.course import Lesson, installed_version
from fedlab.lab.report.files import digest, file_hash

HERE = Path(__file__).resolve().parent

# Modules that decide how a report looks, not what it says: a change writes pages, and runs nothing.
PAGE_MODULES = ("render.py", "frame.py", "outputs.py", "panels.py", "markdown.py", "index.py")

PAGE_SOURCES = [
    *(HERE / name for name in PAGE_MODULES),
    *sorted((HERE / "templates").glob("*.*")),
    *(HERE.parent / "plots" / name for name in ("figure.css", "figure.js")),
]


class Sources(NamedTuple):
    """Everything that a report depends on beside its notebook.

    Attributes:
        key: Hash of the package's code and tables, of ``data/`` without its cache, and of the
            installed versions. The numbers depend on it.
        page_key: Hash of the modules and templates that draw pages.
        course_key: Hash of all lessons' titles, questions, minutes and order.
        versions: Installed version of each pinned package, and of Python.
    """

    key: str
    page_key: str
    course_key: str
    versions: dict[str, str]

    @classmethod
    def of(cls, root: Path, lessons: list[Lesson]) -> Sources:
        """Return the sources of today, of a checkout and its lessons."""
        versions = _versions(root / "requirements.txt")
        files = [*_number_sources(root / "fedlab"), *_data_files(root / "data")]
        lesson_facts = [lesson._replace(path=None) for lesson in lessons]
        keys = ([versions, _hashes(files, root)], _hashes(PAGE_SOURCES, HERE.parent), lesson_facts)
        return cls(*map(digest, keys), versions)


def _number_sources(package: Path) -> list[Path]:
    """Return the package's modules and tables on which numbers may depend."""
    pages = {package / "lab" / "report" / name for name in PAGE_MODULES}
    modules = [path for path in package.rglob("*.py") if path not in pages]
    return [*modules, *(path for path in package.rglob("tables/*") if path.is_file())]


def _data_files(data: Path) -> list[Path]:
    """Return the committed data files; downloads in the cache have checksums of their own."""
    cache = data / "cache"
    return [path for path in data.rglob("*") if path.is_file() and cache not in path.parents]


def _versions(requirements: Path) -> dict[str, str]:
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    names = [line.split("==")[0].strip() for line in lines if "==" in line]
    return {"python": platform.python_version()} | {
        name: installed_version(name) for name in ["fedlab-workbench", *names]
    }


def _hashes(paths: Iterable[Path], root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): file_hash(path) for path in sorted(paths)}
