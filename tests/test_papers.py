"""What papers say of their methods, in seconds: orderings and rough factors, on small data."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fedlab.core import Experiment, Local, generator
from fedlab.data import dirichlet, iid, load, shards
from fedlab.engine import run
from fedlab.models import least_squares, logistic_regression, mlp
from fedlab.server import (
    fedadagrad,
    fedavg,
    fedavgm,
    feddyn,
    fedexp,
    fedyogi,
    scaffold,
    uniform,
    weighted_mean,
)
from fedlab.study import Quadratics, compare


def losses(result, by):
    """Return the test loss, one row per round and one column per method."""
    return result.rounds.pivot(index="round", columns=by, values="loss").dropna()


@pytest.mark.slow
def test_more_local_work_needs_fewer_rounds():
    """McMahan et al. 2017, Table 2: FedAvg with E = 1 and 5, against FedSGD at its best rate."""
    data = load("digits", 30, iid())
    study = Experiment(
        data, mlp(data, hidden=(30,)), Local(0.1, 5), fedavg(), weighted_mean, uniform(5), rounds=32
    )
    work = {
        "FedSGD": Local(1.0, None, steps=1),
        "E = 1": Local(0.1, 5),
        "E = 5": Local(0.1, 5, epochs=5),
    }
    rounds = compare(study, local=work).rounds
    needed = rounds[rounds["accuracy"] >= 0.85].groupby("local")["round"].min()
    assert needed["FedSGD"] > 1.4 * needed["E = 1"] > 1.4 * 2 * needed["E = 5"]


@pytest.mark.slow
def test_servers_with_memory_are_steadier_under_label_skew():
    """Hsu et al. 2019 (momentum) and Reddi et al. 2021 (Yogi, Adagrad): last rounds, 2 seeds."""
    data = partial(load, "digits", 50, dirichlet(0.1))
    study = Experiment(
        data,
        mlp(data(0), hidden=(50,)),
        Local(0.05, 5),
        fedavg(),
        weighted_mean,
        uniform(5),
        rounds=40,
    )
    servers = {
        "FedAvg": fedavg(),
        "FedAvgM": fedavgm(server_lr=0.3),
        "FedYogi": fedyogi(),
        "FedAdagrad": fedadagrad(),
    }
    rounds = compare(study, seeds=2, algorithm=servers).rounds
    late = rounds[rounds["round"] > 25].groupby("algorithm")["accuracy"].mean()
    assert (late.drop("FedAvg") > late["FedAvg"] + 0.03).all(), late


@pytest.mark.slow
def test_without_drift_a_round_is_worth_its_steps():
    """Karimireddy et al. 2020 and Acar et al. 2021: two classes per client, 20 local steps.

    The training loss after 25 rounds: SCAFFOLD reaches what as many steps on the pooled examples
    reach; FedAvg is far from it.
    """
    data = load("digits", 10, shards(2))
    data = replace(data, test=(data.x, data.y))
    parts = Local(1.0, None, steps=20), fedavg(), weighted_mean, uniform(10)
    study = Experiment(data, logistic_regression(data), *parts, rounds=25, eval_every=25)
    methods = {"FedAvg": fedavg(), "SCAFFOLD": scaffold(), "FedDyn": feddyn(0.1)}
    end = losses(compare(study, algorithm=methods), "algorithm").iloc[-1]
    pooled = (
        run(replace(study, data=replace(data, parts=[np.arange(len(data.y))]), sample=uniform(1)))
        .rounds["loss"]
        .iloc[-1]
    )
    assert end["SCAFFOLD"] == pytest.approx(pooled, rel=0.1)
    assert end["FedAvg"] > 1.4 * end["FedDyn"] > pooled


@pytest.mark.slow
def test_extrapolating_is_several_times_faster_where_every_client_can_be_fitted():
    """Jhunjhunwala et al. 2023: linear regression with more unknowns than examples per client."""
    draw = generator(0, "examples")
    x = draw.normal(size=(20, 3, 100))
    clients = Quadratics(
        np.einsum("ijk,ijl->ikl", x, x) / 30, np.tile(draw.normal(size=100), (20, 1)), np.ones(20)
    )
    data = clients.federated()
    parts = Local(0.02, None, steps=20), fedavg(), weighted_mean, uniform(10)
    study = Experiment(data, least_squares(data), *parts, rounds=40)
    curves = losses(compare(study, algorithm={"FedAvg": fedavg(), "FedExP": fedexp()}), "algorithm")
    needed = (curves < 0.1 * curves.iloc[0]).idxmax()
    assert 0 < 3 * needed["FedExP"] < needed["FedAvg"]
