"""The rules of plain words that a program can check: see .github/CONTRIBUTING.md."""

import ast
import doctest
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedlab

ROOT = Path(fedlab.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TESTS = Path(__file__).parent
# Tests and notebooks: only their names of variables are held to the rules.
SCRIPTS = sorted([*TESTS.rglob("*.py"), *(TESTS.parent / "notebooks").glob("*.ipynb")])
# Pronouns that begin no docstring, and words that are no names of variables.
PRONOUNS = "what who whom whose whether those of where which how whoever"
BANNED = "told mine some own its here there then now what found kept given one other most least"
NOT_FIRST, NOT_NAMES = set(PRONOUNS.split()), set(BANNED.split())
MOST_LINES, MOST_FUNCTION_LINES, FEWEST_EXAMPLES = 450, 40, 150

# Functions that may be longer than 40 lines without their docstring, and why.
LONG_FUNCTIONS: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with ``path`` per file of the package, with ``script`` per test or notebook."""
    for name, files, root in (("path", FILES, ROOT), ("script", SCRIPTS, TESTS.parent)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, files, ids=[str(file.relative_to(root)) for file in files])


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef | ast.Module) and (
            text := ast.get_docstring(node)
        ):
            yield getattr(node, "name", "module"), text


def functions(path: Path) -> Iterator[tuple[str, Function, bool]]:
    """Yield the dotted name of each function, the function, and whether it is public."""

    def walk(
        node: ast.AST, prefix: str, public: bool, inside: bool
    ) -> Iterator[tuple[str, Function, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                name = f"{prefix}{child.name}"
                is_public = public and not inside and not child.name.startswith("_")
                yield name, child, is_public
                yield from walk(child, f"{name}.", False, True)
            elif isinstance(child, ast.ClassDef):
                yield from walk(
                    child,
                    f"{prefix}{child.name}.",
                    public and not child.name.startswith("_"),
                    inside,
                )
            else:
                yield from walk(child, prefix, public, inside)

    yield from walk(ast.parse(path.read_text()), "", True, False)


def test_docstrings_begin_with_no_pronoun(path):
    wrong = [
        f"{name}: {text[:60]}"
        for name, text in docstrings(path)
        if re.split(r"\W", text)[0].lower() in NOT_FIRST
    ]
    assert not wrong, "\n".join(wrong)


def banned_names(nodes: list[ast.AST]) -> list[str]:
    """List the variables and parameters that have a banned name, with their lines."""
    names = [
        (n.lineno, n.id) for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
    names += [(n.lineno, n.arg) for n in nodes if isinstance(n, ast.arg)]
    return [f"line {line}: {name}" for line, name in names if name in NOT_NAMES]


def code(path: Path) -> str:
    """Return the source of a module, or that of all code cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_variables_are_nouns(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    wrong = banned_names(nodes)
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            targets = [len(t.elts) for t in node.targets if isinstance(t, ast.Tuple)]
            wrong += [f"line {node.lineno}: {n} names in one assignment" for n in targets if n > 2]
    assert not wrong, "\n".join(wrong)


def test_variables_of_tests_and_notebooks_are_nouns(script):
    wrong = banned_names(list(ast.walk(ast.parse(code(script)))))
    assert not wrong, "\n".join(wrong)


def test_public_functions_with_several_parameters_have_args(path):
    wrong = []
    for name, node, public in functions(path):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments = [a.arg for a in arguments if a.arg not in ("self", "cls")]
        documented = ast.get_docstring(node) or ""
        if public and len(arguments) > 2 and "Args:" not in documented:
            wrong.append(name)
    assert not wrong, f"no Args: {', '.join(wrong)}"


def test_args_are_the_parameters(path):
    wrong = []
    for name, node, _ in functions(path):
        match = re.search(
            r"^Args:\n((?:(?: {4}.*)?\n)+)",
            inspect.cleandoc(ast.get_docstring(node) or "") + "\n",
            re.MULTILINE,
        )
        if not match:
            continue
        named = re.findall(r"^ {4}(\*{0,2}\w+)(?: \([^)]*\))?:", match[1], re.MULTILINE)
        parameters = {
            a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        }
        parameters |= {a.arg for a in (node.args.vararg, node.args.kwarg) if a}
        wrong += [f"{name}: {n}" for n in named if n.lstrip("*") not in parameters]
    assert not wrong, f"Args that are no parameters: {', '.join(wrong)}"


def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) < MOST_LINES
    wrong = []
    for name, node, _ in functions(path):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        full = f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}.{name}"
        if lines >= MOST_FUNCTION_LINES and full not in LONG_FUNCTIONS:
            wrong.append(f"{full}: {lines} lines")
    assert not wrong, "\n".join(wrong)


def test_examples_are_many(path):
    if path == FILES[0]:
        count = sum(
            not example.options.get(doctest.SKIP)
            for file in FILES
            for _, text in docstrings(file)
            for example in doctest.DocTestParser().get_examples(text)
        )
        assert count >= FEWEST_EXAMPLES
