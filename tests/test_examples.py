"""The examples in docstrings run, and give what they show."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import fedlab

ROOT = Path(fedlab.__file__).parent
RUNS = re.compile(r">>> (?!.*doctest: \+SKIP)")
WITH_EXAMPLES = [path for path in sorted(ROOT.rglob("*.py")) if RUNS.search(path.read_text())]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples(path):
    module = importlib.import_module(
        ".".join(("fedlab", *path.relative_to(ROOT).with_suffix("").parts))
    )
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0
