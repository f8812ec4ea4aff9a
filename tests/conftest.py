"""What several tests need: a small study with ragged clients."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fedlab.data import dirichlet, load
from fedlab.models import mlp
from fedlab.records import Experiment, Local
from fedlab.server import fedavg, uniform, weighted_mean


@pytest.fixture(scope="session")
def study() -> Experiment:
    """30 clients, Dirichlet 0.05, so that some hold nothing, 5 a round, one narrow hidden layer, 10 rounds."""
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
        "--take-picture", action="store_true", help="let the browser test of the panel take the README's picture"
    )


@pytest.fixture(scope="session")
def reports() -> Path:
    """All reports, made where they belong: what has not changed since `make report` is not run again."""
    from fedlab.lab import report

    assert report.main(["--check"]) == 0
    return Path(__file__).parents[1] / "reports"
