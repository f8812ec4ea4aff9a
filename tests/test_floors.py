"""Imports run downwards only, and importing the package stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedlab

ROOT = Path(fedlab.__file__).parent
README = (ROOT.parent / "README.md").read_text()
# One room per line, from the top floor to the bottom: "  core/  what it holds".
ROOMS = re.findall(
    r"^  (\w+)/ ", README.partition("```\nfedlab/\n")[2].partition("```")[0], re.MULTILINE
)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fedlab":
            names += [f"fedlab.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith("fedlab.")]


def test_the_readme_lists_every_room():
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert set(ROOMS) == rooms
    assert len(ROOMS) == len(rooms)


@pytest.mark.slow
def test_imports_run_downwards():
    wrong = []
    for path in ROOT.rglob("*.py"):
        module = ".".join(("fedlab", *path.relative_to(ROOT).with_suffix("").parts))
        if room(module) not in ROOMS:  # __init__.py and __main__.py stand above all rooms
            continue
        wrong += [
            f"{module} imports {name}"
            for name in imports(path)
            if room(name) not in ROOMS or ROOMS.index(room(name)) > ROOMS.index(room(module))
        ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_import_is_light():
    heavy = [
        "transformers",
        "matplotlib",
        "ipywidgets",
        "papermill",
        "nbconvert",
        "pandas",
        "sklearn",
        "pooch",
        "scipy",
    ]
    code = f"import sys, fedlab, fedlab.engine.run; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


@pytest.mark.slow
def test_the_first_run_imports_no_compiler():
    """Some innocent calls make PyTorch import its compiler, or sympy, which takes seconds."""
    code = """
import sys
from fedlab.data import load
from fedlab.models import mlp
from fedlab.core import Experiment, Local
from fedlab.engine import run
from fedlab.server import fedavg, uniform, weighted_mean

data = load("digits")
local = Local(lr=0.1, batch_size=5, epochs=1)
run(Experiment(data, mlp(data), local, fedavg(), weighted_mean, uniform(2), rounds=1))
print([m for m in ("torch._dynamo", "sympy") if m in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


def test_old_python_is_refused_clearly():
    code = (
        "import sys; sys.version_info = (3, 10, 0); sys.version = '3.10.0 (old)'\n"
        "try:\n import fedlab\nexcept ImportError as e: print(e)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "Python 3.11 or later" in out
    assert "3.10.0" in out


def test_the_top_level_lists_what_a_newcomer_needs():
    import fedlab as fl

    names = [name for name in dir(fl) if name not in ROOMS and not name.startswith("_")]
    assert 50 <= len(names) <= 70
    for name in dir(fl):
        assert getattr(fl, name) is not None, name
    digits = fl.load("digits", 10)
    rounds = fl.run(fl.experiment(digits, fl.mlp(digits), fl.Local(0.1), rounds=2)).rounds
    assert rounds["clients"].tolist() == [0, 10, 10]


def test_the_other_fedlab_is_told_apart(monkeypatch, tmp_path):
    (tmp_path / "fedlab-1.3.0.dist-info").mkdir()
    (tmp_path / "fedlab-1.3.0.dist-info" / "METADATA").write_text("Name: fedlab\nVersion: 1.3.0\n")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import fedlab"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fedlab 1.3.0 of PyPI (SMILELab)" in out.stderr
    assert "pip uninstall fedlab" in out.stderr


def test_every_dependency_is_pinned():
    import tomllib

    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras.pop("all") == [f"fedlab-workbench[{','.join(extras)}]"]
    asked = {*project["dependencies"], *(name for names in extras.values() for name in names)}
    lines = (ROOT.parent / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[-1] == "-e ."
    assert all("==" in pin for pin in pins[:-1])
    assert {pin.split("==")[0] for pin in pins[:-1]} == asked
