"""The course: its notebooks, the question that each asks, and the notebooks that it builds on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedlab.lab.course.options import list_options

if TYPE_CHECKING:
    import pandas as pd

CHECKOUT = Path(__file__).resolve().parents[3]

# An installed wheel has no notebooks: they are looked for in the working directory instead.
ROOT = CHECKOUT if (CHECKOUT / "notebooks").is_dir() else Path.cwd()

HEADING = re.compile(r"^#[ \t]+([^\s#].*?)[ \t]*#*[ \t]*$", re.MULTILINE)


class Lesson(NamedTuple):
    """A notebook of the course.

    Attributes:
        name: File name without its suffix, such as ``00_start_here``.
        path: The notebook file.
        title: The first heading of the notebook.
        question: The question that the notebook answers.
        minutes: Time that the notebook takes to run.
        after: Names of the notebooks that this one builds on.
    """

    name: str
    path: Path
    title: str
    question: str
    minutes: float
    after: tuple[str, ...]

    @property
    def number(self) -> str:
        """The number that the name begins with, such as ``00``."""
        return self.name.split("_")[0]


def list_lessons(folder: Path | None = None) -> list[Lesson]:
    """Return the lessons of a folder in the order of their numbers.

    Args:
        folder: Folder of notebooks named like ``01_topic.ipynb``. Default: the notebooks of the
            course.

    Raises:
        ValueError: If there is none, if a notebook lacks metadata, or if it builds on a notebook
            that does not come before it.

    Example:
        >>> [lesson.number for lesson in list_lessons()][:3]
        ['00', '01', '02']
    """
    folder = Path(folder or ROOT / "notebooks")
    lessons = [_read_lesson(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    if not lessons:
        raise ValueError(
            f"folder={folder} must hold notebooks, and no notebook there is named like "
            "01_topic.ipynb. Try the folder notebooks of a checkout"
        )
    names = [lesson.name for lesson in lessons]
    for position, lesson in enumerate(lessons):
        for name in set(lesson.after) - set(names[:position]):
            raise ValueError(
                f"{lesson.path}: fedlab.after must name earlier notebooks, and {name!r} is none. "
                f"Try one of {', '.join(names[:position]) or 'no names at all'}"
            )
    return lessons


def find_lesson(number: str) -> Lesson:
    """Return the notebook with a number or a name.

    Args:
        number: For example ``00`` or ``00_start_here``.

    Raises:
        ValueError: If no notebook is called so.

    Example:
        >>> find_lesson("00").name
        '00_start_here'
    """
    lessons = list_lessons()
    for lesson in lessons:
        if number in (lesson.number, lesson.name):
            return lesson
    numbers = [lesson.number for lesson in lessons]
    raise ValueError(f"no lesson {number!r}; there are {list_options(number, numbers)}")


def _read_lesson(path: Path) -> Lesson:
    notebook = load_notebook(path)
    about = notebook.get("metadata", {}).get("fedlab", {})
    for key, kind in (("question", str), ("minutes", (int, float)), ("after", list)):
        if not isinstance(about.get(key), kind):
            raise ValueError(
                f"{path}: the notebook's metadata must hold fedlab.{key}, and lacks it or holds "
                'another type. Try {"question": "Why?", "minutes": 2, "after": []}'
            )
    prose = "\n".join(
        cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"
    )
    title = HEADING.search(prose)
    if not title:
        raise ValueError(f"{path}: no title; begin the first text cell with a line `# Title`")
    minutes, after = float(about["minutes"]), tuple(about["after"])
    return Lesson(path.stem, path, title[1], about["question"], minutes, after)


def load_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook as plain JSON, the source of each cell joined into one string.

    nbformat would do the same and takes two seconds to import.

    Args:
        path: The notebook file.

    Raises:
        ValueError: If the file is no notebook.

    Example:
        >>> load_notebook(find_lesson("00").path)["nbformat"]
        4
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a notebook ({type(error).__name__}: {error})") from error
    return notebook


def cell_tags(cell: Mapping[str, Any]) -> list[str]:
    """Return the tags of a cell.

    Example:
        >>> cell_tags({"metadata": {"tags": ["exercise"]}})
        ['exercise']
    """
    return cell["metadata"].get("tags", [])


def course_table(folder: Path | None = None) -> pd.DataFrame:
    """Return a table of the course, one row per notebook.

    Args:
        folder: As for ``list_lessons``.

    Example:
        >>> course_table().loc["01", "after"]
        '00_start_here'
    """
    import pandas as pd

    rows = [
        (
            lesson.number,
            lesson.title,
            lesson.question,
            f"{lesson.minutes:g}",
            ", ".join(lesson.after),
        )
        for lesson in list_lessons(folder)
    ]
    columns = ["number", "title", "question", "minutes to run", "after"]
    return pd.DataFrame(rows, columns=columns).set_index("number")
