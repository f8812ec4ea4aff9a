"""Both ways of the benchmark give the same adapters, and a hundred clients fit in memory."""

import json
import subprocess
import sys
from pathlib import Path

import language
import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("last", [None, 2])
def test_a_loop_with_peft_gives_the_same(last):
    work = language.given(last, clients=2, each=16)
    ours, theirs = language.ours(work), language.plain(work)
    assert theirs.abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_hundred_clients_are_a_hundred_rows():
    """Not a hundred models: those would take 9 GB."""
    command = [sys.executable, HERE / "language.py", "--clients", "100"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["clients"] == 100
    assert figures["moved"]
    assert figures["peak_mb"] < 1500
