"""What several tests need: a small study with ragged clients."""

import dis
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import CodeType

import pytest

from fedlab.core import Experiment, Local
from fedlab.data import dirichlet, load
from fedlab.models import mlp
from fedlab.server import fedavg, uniform, weighted_mean

# A background job and its children ignore Ctrl-C, so tests of interrupts would wait forever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def study() -> Experiment:
    """30 clients, Dirichlet 0.05 (some are empty), 5 per round, one hidden layer, 10 rounds."""
    split = partial(load, "digits", 30, dirichlet(0.05))
    task = mlp(split(0), hidden=(32,))
    local = Local(lr=0.1, batch_size=8, epochs=2)
    return Experiment(split, task, local, fedavg(), weighted_mean, uniform(5), rounds=10)


@pytest.fixture(scope="session")
def short(study) -> Experiment:
    """The same, over after 3 rounds."""
    return replace(study, rounds=3)


def pytest_addoption(parser):
    parser.addoption(
        "--take-picture",
        action="store_true",
        help="let the browser test of the panel take the README's picture",
    )


def pytest_collection_modifyitems(config, items):
    """Mark tests by what they drive, so that `make check` can leave them out."""
    if not config.getoption("--take-picture"):
        items[:] = [item for item in items if not item.get_closest_marker("picture")]
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker("browser")
        elif {"reports", "built"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("notebooks")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep tests together that share a browser or the reports; lessons fill one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            if nodeid.startswith(("tests/test_notebooks.py", "tests/browser/test_reports.py")):
                return "reports"
            if nodeid.startswith("tests/browser/"):
                return "lessons" if "test_lessons" in nodeid else "browser"
            return nodeid

    return Together(config, log)


@pytest.fixture(scope="session")
def reports() -> Path:
    """The folder of all reports; only notebooks that changed since `make report` run again."""
    from fedlab.lab.report import make as report

    assert report.main(["--check", "--jobs", "1"]) == 0  # beside other workers
    return Path(__file__).parents[1] / "reports"


@pytest.fixture(scope="session")
def names() -> Callable[[str], tuple[set[str], set[str]]]:
    """Of a cell's source: the names that it defines, and those that it uses anywhere."""

    def of(source: str) -> tuple[set[str], set[str]]:
        code = compile(source, "cell", "exec")
        defined = {
            i.argval
            for i in dis.get_instructions(code)
            if i.opname in ("STORE_NAME", "STORE_GLOBAL")
        }
        return defined, _used(code)

    return of


def _used(code: CodeType) -> set[str]:
    inner = [_used(part) for part in code.co_consts if isinstance(part, CodeType)]
    return {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_NAME", "LOAD_GLOBAL")
    }.union(*inner)
