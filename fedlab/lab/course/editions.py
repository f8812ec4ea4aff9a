"""The course for students, and its solutions, out of the one source: ``python -m fedlab course``.

Tags of cells tell: an ``exercise`` is a stub to fill in, a ``check`` tries it, a ``solution`` is folded away.  The student's
edition leaves the solutions out, the solutions' edition shows them in place of the stubs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlab.lab.course import ROOT, cell_tags, list_lessons, load_notebook

LEFT_OUT = {"student": {"solution"}, "solutions": {"exercise", "check"}}


def edition(notebook: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The notebook as ``student`` or as ``solutions``; it stays as it is."""
    cells = [dict(cell) for cell in notebook["cells"] if not LEFT_OUT[name] & set(cell_tags(cell))]
    for cell in cells:
        if "solution" in cell_tags(cell):
            cell["metadata"] = {
                key: value for key, value in cell["metadata"].items() if key != "jupyter"
            }  # unfolded
    return {**notebook, "cells": cells}


def main(argv: list[str] | None = None, *, root: Path = ROOT) -> int:
    """Write both editions of every notebook below ``reports/course``."""
    try:
        for name in LEFT_OUT:
            folder = root / "reports" / "course" / name
            folder.mkdir(parents=True, exist_ok=True)
            for lesson in list_lessons(root / "notebooks"):
                text = json.dumps(
                    edition(load_notebook(lesson.path), name), indent=1, ensure_ascii=False
                )
                (folder / lesson.path.name).write_text(text + "\n", encoding="utf-8")
            print(folder)
    except (ValueError, OSError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
