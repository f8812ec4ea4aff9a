"""Each lesson declares one answer, and the answer's numbers are computed, not typed."""

import ast
import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))

# Counts of what a lesson sets up, such as "100 clients" or "4 bits"; all other digits are computed.
COUNTED = re.compile(r"\b\d+ (clients|seeds|bits|rounds|places)\b")


def answer_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [source for source in sources if calls_of(source)]


def calls_of(source: str) -> list[ast.Call]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [node for node in nodes if getattr(node.func, "id", "") == "answer"]


def texts_of(source: str) -> list[str]:
    """Return the typed words of a cell: parts of f-strings, and arguments of calls."""
    nodes = list(ast.walk(ast.parse(source)))
    typed = [part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values]
    typed += [part for node in nodes if isinstance(node, ast.Call) for part in node.args]
    formats = {
        id(part)
        for node in nodes
        if isinstance(node, ast.FormattedValue) and node.format_spec
        for part in node.format_spec.values
    }
    words = [part for part in typed if isinstance(part, ast.Constant) and id(part) not in formats]
    return [part.value for part in words if isinstance(part.value, str)]


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request) -> Path:
    return request.param


def test_every_lesson_declares_one_answer(path):
    (source,) = answer_cells(path)
    (call,) = calls_of(source)
    assert 1 <= len(call.args) <= 3
    last_line = ast.parse(source).body[-1]  # a cell shows its value
    assert ast.unparse(last_line) == ast.unparse(call)


def test_answers_have_no_typed_measurement(path):
    (source,) = answer_cells(path)
    wrong = [text for text in texts_of(source) if re.search(r"\d", COUNTED.sub("", text))]
    assert not wrong, "\n".join(wrong)


def test_every_sentence_of_an_answer_has_a_computed_part(path):
    (source,) = answer_cells(path)
    (call,) = calls_of(source)
    for sentence in call.args:
        nodes = list(ast.walk(sentence))
        assert any(isinstance(node, ast.FormattedValue) for node in nodes), ast.unparse(sentence)


def test_answers_follow_their_numbers(path):
    """A verb that a number can turn round is chosen by a condition, not typed."""
    (source,) = answer_cells(path)
    nodes = list(ast.walk(ast.parse(source)))
    chosen = [
        node for node in nodes if getattr(getattr(node, "func", None), "id", "") == "direction"
    ]
    chosen += [node for node in nodes if isinstance(node, ast.IfExp)]
    assert chosen


def test_typed_measurements_are_recognised():
    typed = 'answer(f"It costs 11 points, at {rounds:.3g} rounds and 100 clients.")'
    assert [text for text in texts_of(typed) if re.search(r"\d", COUNTED.sub("", text))] == [
        "It costs 11 points, at "
    ]
    assert not calls_of('checks.answer("0")')
    assert len(calls_of(typed)) == 1
