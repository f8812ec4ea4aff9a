"""The README's code runs and prints what is shown, and its figures are those that were measured."""

import io
import re
import runpy
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "reports" / "README.md"]
README = PAGES[0].read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+\.?\d*")


def numbers_of(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


@pytest.mark.slow
def test_programs_print_what_is_shown_and_diloco_without_momentum_is_fedavg():
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL)
    assert len(blocks) == 2
    for program, shown in blocks:
        with redirect_stdout(io.StringIO()) as printed:
            exec(program, names)
        assert NUMBER.sub("", printed.getvalue()).split() == NUMBER.sub("", shown).split()
        # Processors round differently: some of 360 test pictures may change sides.
        assert numbers_of(printed.getvalue()) == pytest.approx(numbers_of(shown), abs=0.03)
    fl, study = names["fl"], names["study"]
    free = fl.run(replace(study, algorithm=names["diloco"](0.0, 1.0)), seeds=5)
    pd.testing.assert_frame_equal(free.rounds, names["result"].rounds)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=["README", "reports"])
def test_the_figures_are_those_measured(page):
    text = page.read_text(encoding="utf-8")
    recorded = runpy.run_path(str(ROOT / "tests" / "readme.py"))["as_recorded"](text)
    assert recorded == text, "run `make readme` and `make bench`"


@pytest.mark.parametrize("page", PAGES, ids=["README", "reports"])
def test_every_path_it_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:fedlab|notebooks|tests|data)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (page.parent / path).exists(), path
