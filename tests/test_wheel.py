"""A built wheel works where only the core's dependencies are installed."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys

import fedlab as fl

digits = fl.load("digits", 10)
print(len(fl.run(fl.experiment(digits, fl.mlp(digits), fl.Local(0.1), rounds=2)).rounds))
from fedlab.system.devices import devices, links

print(len(devices()) > 0, len(links()) > 0)
print(fl.__file__.startswith(sys.prefix))
from fedlab.data.cache import folder

print("site-packages" not in str(folder("mnist")))
for name in ("matplotlib", "ipywidgets", "transformers"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} should not be here")
"""


def closure(names: list[str]) -> set[str]:
    """Return the distributions that these need, with their own needs."""
    needed, waiting = set(), list(names)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = requirement.name.lower().replace("_", "-")
        if name in needed or (
            requirement.marker and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        try:
            waiting += metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # needed on other systems
            continue
        needed.add(name)
    return needed


def link(names: set[str], folder: Path) -> None:
    """Link the files of these distributions, and nothing else, into a folder."""
    folder.mkdir()
    for name in names:
        for file in metadata.files(name) or []:
            top = file.parts[0]
            source = Path(file.locate()).parents[len(file.parts) - 1] / top
            if top not in ("..", "__pycache__") and source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)


@pytest.mark.slow
def test_in_a_clean_environment(tmp_path):
    source = tmp_path / "source"  # a build leaves folders behind
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "fedlab", source / "fedlab")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path]
    subprocess.run([*build, source], check=True)
    (wheel,) = tmp_path.glob("fedlab_workbench-*.whl")

    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-index", wheel], check=True)
    (site,) = environment.rglob("site-packages")
    (installed,) = metadata.distributions(name="fedlab-workbench", path=[str(site)])
    core = [r for r in installed.requires if "extra ==" not in r]
    link(closure(core), tmp_path / "core")
    (site / "core.pth").write_text(f"{tmp_path / 'core'}\n")

    run = [python, "-I", "-c", PROGRAM]  # isolated: neither PYTHONPATH nor this folder
    out = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["3", "True", "True", "True", "True"]
    listed = subprocess.run(
        [python.with_name("fedlab"), "--help"], capture_output=True, text=True, check=True
    )
    assert "fedlab report" in listed.stdout
