"""The notebooks run through papermill, record what they are known for, and are committed clean."""

import json
from pathlib import Path

import pytest

from fedlab.lab.course import read_parameters
from fedlab.lab.report import make as report
from fedlab.lab.report.validate import CHECK, PANEL

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def code_cells(path: Path) -> list[dict]:
    return [
        cell
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]


def test_every_notebook_passes_and_its_committed_numbers_hold(reports):
    for path in NOTEBOOKS:
        run = json.loads((reports / path.stem / "run.json").read_text())
        assert run["status"] == "pass", run


def test_a_second_time_nothing_runs(reports, capsys):
    assert report.main([]) == 0
    assert f"{len(NOTEBOOKS)} up to date" in capsys.readouterr().out


def test_panels_were_driven_to_two_settings(reports):
    for path in NOTEBOOKS:
        cells = code_cells(reports / path.stem / "executed.ipynb")
        outputs = [output for cell in cells for output in cell["outputs"]]
        panels = [o["data"][PANEL]["states"] for o in outputs if PANEL in o.get("data", {})]
        assert panels
        for states in panels:
            assert len({json.dumps(state["settings"]) for state in states}) == 2


def test_stubs_are_not_done_and_solutions_are_right(reports):
    for path in NOTEBOOKS:
        states = {}
        for cell in code_cells(reports / path.stem / "executed.ipynb"):
            for output in cell["outputs"]:
                if CHECK in output.get("data", {}):
                    verdict = output["data"][CHECK]
                    states.setdefault(verdict["exercise"], []).append(verdict["state"])
        assert len(states) >= 2
        assert set(map(tuple, states.values())) == {("not done", "right")}, states


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_keep_their_values(path, names):
    """A panel that copies its setting reads the notebook's parameters in the kernel."""
    declared = read_parameters(path).keys()
    for cell in code_cells(path):
        if "parameters" not in cell["metadata"].get("tags", []):
            defined, _ = names("".join(cell["source"]))
            assert not defined & declared


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs_and_with_parameters(path):
    cells = code_cells(path)
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1
    assert "widgets" not in json.loads(path.read_text(encoding="utf-8"))["metadata"]


def test_fedavg_from_scratch_is_short():
    sources = [
        "".join(cell["source"])
        for cell in code_cells(ROOT / "notebooks" / "01_federated_averaging.ipynb")
    ]
    cells = [
        source
        for source in sources
        if "def client_update" in source or "def fedavg_from_scratch" in source
    ]
    lines = [
        line
        for source in cells
        for line in source.splitlines()
        if line.strip() and not line.startswith("from")
    ]
    assert len(cells) == 2
    assert len(lines) == 17, "the prose says 17"
