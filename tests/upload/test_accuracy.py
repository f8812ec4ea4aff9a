"""Uploads on digits: 100 clients, Dirichlet 1.0, 10 per round, 300 rounds, mean of 5 seeds."""

from functools import partial

import pytest

from fedlab.core import Experiment, Local
from fedlab.data import dirichlet, load
from fedlab.models import mlp
from fedlab.server import fedavg, uniform, weighted_mean
from fedlab.study import compare
from fedlab.upload import error_feedback, identity, qsgd, top_k


@pytest.fixture(scope="module")
def outcome():
    """Of each upload: mean accuracy, and bytes sent up."""
    digits = partial(load, "digits", 100, dirichlet(1.0))
    parts = Local(0.1, batch_size=5), fedavg(), weighted_mean, uniform(10)
    study = Experiment(
        digits, mlp(digits(0), hidden=(200, 200)), *parts, rounds=300, eval_every=300
    )
    uploads = {"dense": identity(), "top 1 %": error_feedback(top_k(0.01)), "QSGD, 4 bits": qsgd(4)}
    result = compare(study, seeds=5, upload=uploads)
    accuracy = result.final().groupby("upload")["accuracy"].mean()
    return accuracy, result.rounds.groupby("upload")["bytes_up"].sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("upload", "points", "share"), [("top 1 %", 1.5, 60), ("QSGD, 4 bits", 1.0, 7)]
)
def test_a_small_share_of_the_bytes_is_nearly_as_good(outcome, upload, points, share):
    accuracy, sent = outcome
    assert accuracy["dense"] > 0.9
    assert accuracy[upload] > accuracy["dense"] - points / 100
    assert sent[upload] <= sent["dense"] / share
