"""The README's code runs, and its figures are those that were measured."""

import re
import runpy
from dataclasses import replace
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_runs_and_diloco_without_momentum_is_fedavg():
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    assert names["result"].rounds["seed"].nunique() == 5
    assert names["methods"].final()["algorithm"].tolist() == ["FedAvg"] * 5 + ["SCAFFOLD"] * 5
    assert names["both"].final()["algorithm"].tolist() == ["FedAvg"] * 5 + ["DiLoCo"] * 5
    names["panel"].move(cohort=3)
    names["panel"].wait()
    assert names["panel"].status.startswith("done  lr=0.1  cohort=3  round=20  accuracy=")
    free = names["run"](replace(names["study"], algorithm=names["diloco"](0.0, 1.0)), seeds=5)
    pd.testing.assert_frame_equal(free.rounds, names["result"].rounds)


def test_the_figures_are_those_measured():
    readme = runpy.run_path(str(ROOT / "tests" / "readme.py"))
    assert readme["as_recorded"](README) == README, "run `make readme` and `make bench`"


def test_every_path_it_names_is_there():
    for path in re.findall(r"`((?:fedlab|notebooks|tests|data|reports)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
