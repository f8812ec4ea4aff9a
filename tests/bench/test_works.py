"""The works of the benchmark: every system ends with the same weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("work", ["W1", "W2"])
def test_in_order_all_systems_end_alike(work):
    norms = []
    for system in ("fedlab", "floor", "plain"):
        script = Path(__file__).parent / "works.py"
        command = [sys.executable, script, "--work", work, "--system", system, "--rounds", "2", "--in-order"]
        line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert line["rounds"] == 2
        norms.append((line["l1"], line["l2"], line["acc"]))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[2], rel=1e-5)
