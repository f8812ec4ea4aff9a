"""The works of the benchmark: every system ends with the same weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import works


def norms(system, work):
    """Of the final weights after two rounds in order: L1, L2, and the accuracy."""
    *_, (accuracy, w) = works.SYSTEMS[system](works.given(work, 2), in_order=True)
    flat = works.torch.cat([part.flatten().double() for part in w])
    return flat.abs().sum().item(), flat.norm().item(), accuracy


@pytest.mark.parametrize("work", ["W1", "W2"])
def test_in_order_all_systems_end_alike(work):
    ours = norms("fedlab", work)
    assert ours == pytest.approx(norms("floor", work), rel=1e-5)
    assert ours == pytest.approx(norms("plain", work), rel=1e-5)


def test_the_command_tells_a_line():
    script = Path(__file__).with_name("works.py")
    command = [sys.executable, script, "--work", "W1", "--system", "floor", "--rounds", "2", "--in-order"]
    line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert line["rounds"] == 2
    assert (line["l1"], line["l2"]) == pytest.approx(norms("floor", "W1")[:2], rel=1e-5)
