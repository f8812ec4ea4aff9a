"""Notebooks are written once and have two editions; no edition needs a cell that it lacks."""

import ast
import json
from pathlib import Path

import pytest

from fedlab.lab.course import cell_tags, editions, load_notebook

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def code(notebook, *tags):
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [cell for cell in cells if set(tags) & set(cell_tags(cell))] if tags else cells


def test_both_editions_of_every_notebook_are_written(tmp_path, capsys):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    assert editions.main(root=tmp_path) == 0
    said = capsys.readouterr().out
    for name in ("student", "solutions"):
        folder = tmp_path / "reports" / "course" / name
        assert str(folder) in said
        written = sorted(path.name for path in folder.glob("*.ipynb"))
        assert written == [path.name for path in NOTEBOOKS]
        for path in folder.glob("*.ipynb"):
            assert json.loads(path.read_text(encoding="utf-8"))["nbformat"] == 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_students_see_no_solution_and_need_none(path, names):
    def all_names(cells):
        return [
            set().union(*both)
            for both in zip(*(names(cell["source"]) for cell in cells), strict=True)
        ]

    whole = load_notebook(path)
    student, solutions = editions.edition(whole, "student"), editions.edition(whole, "solutions")
    exercises = code(whole, "exercise")
    assert 2 <= len(exercises) <= 4
    assert len(code(whole, "check")) == len(code(whole, "solution")) == len(exercises)
    assert code(student, "solution") == []
    assert len(code(student, "exercise")) == len(exercises)
    assert not all_names(code(whole, "solution"))[0] & all_names(code(student))[1]
    assert code(solutions, "exercise", "check") == []
    assert not all_names(exercises)[0] & all_names(code(solutions))[1]
    assert all(
        "source_hidden" in cell["metadata"]["jupyter"] for cell in code(whole, "solution")
    ), "folded"
    assert all("jupyter" not in cell["metadata"] for cell in code(solutions, "solution")), (
        "unfolded"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stub_does_nothing_but_ask(path):
    for cell in code(load_notebook(path), "exercise"):
        (function,) = ast.parse(cell["source"]).body
        assert ast.unparse(function.body[0]) == "raise NotImplementedError"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_has_all_its_parts(path):
    prose = "\n".join(
        cell["source"] for cell in load_notebook(path)["cells"] if cell["cell_type"] == "markdown"
    )
    head = prose[: prose.index("\n## ")]
    for part in ("*Time:* ", "*Before:* ", "**You will be able to**"):
        assert part in head
    recall = prose[prose.index("## Recall") : prose.index("## Limits")]
    assert recall.count("<details>") == 3
    assert prose.count("<summary>Hint</summary>") == len(code(load_notebook(path), "exercise"))
    assert "**Paper" in prose


def test_a_notebook_that_is_not_well_is_said(tmp_path, capsys):
    assert editions.main(root=tmp_path) == 1
    assert "course:" in capsys.readouterr().err
