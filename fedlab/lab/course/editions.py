"""Editions of the course for a class: ``python -m fedlab course``.

Every notebook is written once. Tags mark its cells: an ``exercise`` is a stub to fill in, a
``check`` tries the answer, a ``solution`` is folded away. The students' edition leaves the
solutions out. The solutions' edition shows them in place of the stubs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlab.lab.course.curriculum import ROOT, cell_tags, list_lessons, load_notebook

LEFT_OUT = {"student": {"solution"}, "solutions": {"exercise", "check"}}


def edition(notebook: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return one edition of a notebook; the notebook itself stays unchanged.

    Args:
        notebook: The notebook as ``load_notebook`` reads it.
        name: ``student`` or ``solutions``.

    Example:
        >>> cells = [{"metadata": {"tags": [tag]}} for tag in ("exercise", "check", "solution")]
        >>> [cell_tags(cell) for cell in edition({"cells": cells}, "student")["cells"]]
        [['exercise'], ['check']]
    """
    cells = [dict(cell) for cell in notebook["cells"] if not LEFT_OUT[name] & set(cell_tags(cell))]
    for cell in cells:
        if "solution" in cell_tags(cell):
            metadata = cell["metadata"].items()
            # The key "jupyter" folds the cell: without it the solution is shown.
            cell["metadata"] = {key: value for key, value in metadata if key != "jupyter"}
    return {**notebook, "cells": cells}


def main(argv: list[str] | None = None, *, root: Path = ROOT) -> int:
    """Write both editions of every notebook below ``reports/course``.

    Args:
        argv: Not used; every subcommand takes it.
        root: Folder that holds ``notebooks`` and ``reports``.

    Returns:
        The exit status: 0, or 1 if a notebook cannot be read or a file cannot be written.
    """
    try:
        for name in LEFT_OUT:
            folder = root / "reports" / "course" / name
            folder.mkdir(parents=True, exist_ok=True)
            for lesson in list_lessons(root / "notebooks"):
                notebook = edition(load_notebook(lesson.path), name)
                text = json.dumps(notebook, indent=1, ensure_ascii=False)
                (folder / lesson.path.name).write_text(text + "\n", encoding="utf-8")
            print(folder)
    except (ValueError, OSError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
