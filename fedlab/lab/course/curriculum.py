"""The course: its notebooks, what each asks, needs and lets you change, and the computer that they run on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


CHECKOUT = Path(__file__).resolve().parents[3]

ROOT = (
    CHECKOUT if (CHECKOUT / "notebooks").is_dir() else Path.cwd()
)  # an installed wheel has no notebooks

HEADING = re.compile(r"^#[ \t]+([^\s#].*?)[ \t]*#*[ \t]*$", re.MULTILINE)


class Lesson(NamedTuple):
    """A notebook; ``after`` names those that it builds on."""

    name: str
    path: Path
    title: str
    question: str
    minutes: float
    after: tuple[str, ...]

    @property
    def number(self) -> str:
        return self.name.split("_")[0]


def list_lessons(folder: Path | None = None) -> list[Lesson]:
    """The lessons in ``folder``, in the order of their numbers."""
    folder = Path(folder or ROOT / "notebooks")
    lessons = [_lesson(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    if not lessons:
        raise ValueError(f"{folder}: no notebook there is named like 01_topic.ipynb")
    names = [lesson.name for lesson in lessons]
    for at, lesson in enumerate(lessons):
        for name in set(lesson.after) - set(names[:at]):
            raise ValueError(
                f"{lesson.path}: fedlab.after names {name!r}, and no earlier notebook is called that"
            )
    return lessons


def _lesson(path: Path) -> Lesson:
    nb = load_notebook(path)
    about = nb.get("metadata", {}).get("fedlab", {})
    for key, kind in (("question", str), ("minutes", (int, float)), ("after", list)):
        if not isinstance(about.get(key), kind):
            raise ValueError(
                f"{path}: the notebook's metadata lacks fedlab.{key}, or it has the wrong type"
            )
    prose = "\n".join(cell["source"] for cell in nb["cells"] if cell["cell_type"] == "markdown")
    title = HEADING.search(prose)
    if not title:
        raise ValueError(f"{path}: no title; begin the first text cell with a line `# Title`")
    return Lesson(
        path.stem, path, title[1], about["question"], float(about["minutes"]), tuple(about["after"])
    )


def load_notebook(path: Path) -> dict[str, Any]:
    """The notebook as plain JSON with its sources joined: nbformat takes two seconds to import."""
    try:
        nb = json.loads(path.read_text(encoding="utf-8"))
        for cell in nb["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a notebook ({type(error).__name__}: {error})") from error
    return nb


def cell_tags(cell: Mapping[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def course_table(folder: Path | None = None) -> pd.DataFrame:
    """A row a notebook."""
    import pandas as pd

    rows = [
        (one.number, one.title, one.question, f"{one.minutes:g}", ", ".join(one.after))
        for one in list_lessons(folder)
    ]
    return pd.DataFrame(
        rows, columns=["number", "title", "question", "minutes to run", "after"]
    ).set_index("number")
