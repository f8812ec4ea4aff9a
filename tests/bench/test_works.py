"""The works of the benchmark: every system ends with the same weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import works


def final(system, work):
    """The accuracy and the weights' norms after two rounds in order."""
    *_, (accuracy, w) = works.SYSTEMS[system](works.given(work, 2), in_order=True)
    return works.norms(w) | {"acc": accuracy}


@pytest.mark.parametrize("work", ["W1", "W2"])
def test_in_order_all_systems_end_alike(work):
    ours = final("fedlab", work)
    assert ours == pytest.approx(final("floor", work), rel=1e-5)
    assert ours == pytest.approx(final("plain", work), rel=1e-5)


@pytest.mark.slow
def test_the_command_prints_a_line():
    script = Path(__file__).with_name("works.py")
    command = [
        sys.executable,
        script,
        "--work",
        "W1",
        "--system",
        "floor",
        "--rounds",
        "2",
        "--in-order",
    ]
    line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert line["rounds"] == 2
    *_, (_, w) = works.SYSTEMS["floor"](works.given("W1", 2), in_order=True)
    assert {name: line[name] for name in ("l1", "l2")} == pytest.approx(works.norms(w), rel=1e-5)
