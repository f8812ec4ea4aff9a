from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.client import sequential
from fedlab.core import Experiment, Local, Phase, Terms
from fedlab.data import load
from fedlab.engine import Diverged, run
from fedlab.engine.run import Interrupted
from fedlab.models import mlp
from fedlab.server import by_size, fedavg, majority_vote, mean, scaffold, uniform, weighted_mean
from fedlab.study import centralised, local_only
from fedlab.upload import quantize, top_k


def test_centralised_does_the_cohorts_work_on_all_data(study):
    federated, central = run(study, seeds=3), run(centralised(study), seeds=3)
    assert (central.rounds["clients"].iloc[1:4] == 1).all()
    visits = federated.clients.groupby("seed")["num_examples"].sum().mean() * study.local.epochs
    assert abs(central.clients["steps"].sum() / 3 * study.local.batch_size / visits - 1) < 0.35
    assert central.final()["accuracy"].mean() > federated.final()["accuracy"].mean()


def test_centralised_with_full_batches_is_gradient_descent(study):
    data = study.data(0)
    whole = replace(
        study, data=data, local=Local(0.3, batch_size=None), sample=uniform(30), rounds=3
    )
    torch.testing.assert_close(run(centralised(whole)).w[0], run(whole).w[0], atol=1e-5, rtol=0)


def test_centralised_counts_the_examples_that_are_held(study):
    """All 30 clients, 2 epochs, batches of 8; half of the examples belong to no client."""
    data = study.data(0)
    half = replace(data, parts=[part[::2] for part in data.parts])
    total = int(half.sizes.sum())
    central = centralised(replace(study, data=half, sample=uniform(30)))
    assert central.local.steps == 2 * -(-total // 8)


EQUAL = {
    "whole batches": Local(0.1, None),
    "whole batches and steps": Local(0.1, None, steps=2),
    "batches larger than a client": Local(0.1, 64, steps=2),
    "small batches": Local(0.1, 8, epochs=3),
    "small batches and steps": Local(0.1, 8, steps=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [uniform(4), by_size(4)], ids=["uniform", "by size"])
@pytest.mark.parametrize("sizes", [[32] * 6, [2, 90, 5, 64, 30, 1]], ids=["even", "uneven"])
@pytest.mark.parametrize("local", EQUAL.values(), ids=EQUAL)
def test_centralised_visits_as_many_examples_as_the_cohorts(local, sizes, sampler):
    digits = load("digits", 6)
    ends = np.cumsum(sizes)
    data = replace(
        digits, parts=[np.arange(end - n, end) for n, end in zip(sizes, ends, strict=True)]
    )
    task = mlp(data, hidden=())
    federated = Experiment(data, task, local, fedavg(), mean, sampler, rounds=50, eval_every=50)
    central = centralised(federated)
    wanted = run(federated).rounds["examples"][1:].mean()
    visited = run(replace(central, rounds=1)).rounds["examples"][1]
    assert abs(visited - wanted) <= central.local.batch_size / 2 + 1
    if local.batch_size is None:
        assert central.local.batch_size <= max(sizes)


def test_batches_below_the_clients_sizes_stay():
    data = load("digits", 100)
    study = Experiment(
        data, mlp(data), Local(0.1, 5, epochs=1), fedavg(), weighted_mean, uniform(10)
    )
    assert centralised(study).local == Local(0.1, 5, epochs=1, steps=29)


LOCALS = {
    "momentum": Local(0.1, 8, epochs=2, momentum=0.9, weight_decay=0.01),
    "AdamW": Local(0.01, 8, steps=7, optimizer="adamw"),
}


@pytest.mark.parametrize("local", LOCALS.values(), ids=LOCALS)
def test_alone_is_a_run_of_one_client(study, local):
    """Each client trains as in a run of which it is the only client."""
    short = replace(study, data=study.data(0), local=local, rounds=3)
    table = local_only(short).set_index("client")
    assert list(table.index) == list(np.flatnonzero(short.data.sizes))
    for i in (int(short.data.sizes.argmax()), int(table.index[0])):
        single = replace(
            short, data=replace(short.data, parts=[short.data.parts[i]]), sample=uniform(1)
        )
        want = run(single, sequential).final("loss")["loss"][0]
        assert table.loc[i, "loss"] == pytest.approx(want, rel=1e-4)


def test_alone_each_trains_as_its_own_settings_say(study):
    each = [Local(0.1, 8, epochs=1 + i % 3) for i in range(30)]
    short = replace(study, data=study.data(0), rounds=2)
    mixed, third = local_only(replace(short, local=each)), local_only(replace(short, local=each[2]))
    same = mixed["client"] % 3 == 2
    assert same.any()
    np.testing.assert_allclose(mixed.loc[same, "loss"], third.loc[same, "loss"], rtol=1e-5)
    assert (mixed.loc[~same, "loss"] != third.loc[~same, "loss"]).all()


FEDERATION = {
    "algorithm": scaffold(),
    "aggregate": majority_vote,
    "sample": uniform(30),
    "upload": top_k(0.01),
    "download": quantize(4),
    "budget": "1 kB in all",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FEDERATION if name != "sample"])
def test_the_federation_falls_away_in_a_baseline(study, name):
    plain = replace(study, data=study.data(0), rounds=2)
    federated = replace(plain, **{name: FEDERATION[name]})
    pd.testing.assert_frame_equal(local_only(federated), local_only(plain))
    assert torch.equal(run(centralised(federated)).w[0], run(centralised(plain)).w[0])


def test_a_central_study_has_one_local_training(study):
    each = [Local(0.1), Local(0.2)] * 15
    with pytest.raises(
        ValueError,
        match=r"^local is a list of 30 and must be the same for all clients .* Try replace\(",
    ):
        centralised(replace(study, local=each))
    assert centralised(replace(study, local=[study.local] * 30)).local == centralised(study).local


def test_alone_keeps_what_there_is_when_it_diverges_or_is_stopped(study):
    with pytest.raises(
        Diverged, match=r"client \d+ is not finite in round \d+ .* kept in \.result$"
    ) as error:
        local_only(replace(study, local=Local(1e30, steps=5)))
    assert len(error.value.result.rounds) >= 1
    calls = []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sequential(*args)

    with pytest.raises(
        Interrupted, match=r"^stopped after round 2; \.result of this error holds"
    ) as error:
        local_only(replace(study, rounds=5), stopped)
    assert error.value.result.rounds["round"].tolist() == [0, 1, 2]


def test_alone_in_double_precision_is_the_same_to_rounding(study):
    short = replace(study, data=study.data(0), rounds=1)
    once, exact = local_only(short), local_only(replace(short, data=short.data.double()))
    assert (once["num_examples"] == exact["num_examples"]).all()
    np.testing.assert_allclose(once["loss"], exact["loss"], atol=1e-4)
    assert (once["loss"] != exact["loss"]).any(), "really computed with more digits"


def test_alone_can_be_a_sample(study):
    table = local_only(replace(study, rounds=1), seeds=2, num_clients=4)
    assert table.groupby("seed")["client"].nunique().tolist() == [4, 4]
    assert (table["num_examples"] > 0).all()


def test_phases_count_as_the_epochs_that_they_are(short):
    """An algorithm trains the body for 2 epochs and the head for 1: the pool trains for 3."""
    *body, weight, bias = short.task.shapes
    phases = Phase((weight, bias), 2), Phase(tuple(body), 1)
    two = replace(
        short,
        algorithm=fedavg()._replace(local_objective=lambda state, cohort: Terms(phases=phases)),
    )
    three = replace(short, local=replace(short.local, epochs=3))
    assert centralised(two).local == centralised(three).local != centralised(short).local
    pd.testing.assert_frame_equal(local_only(two, num_clients=2), local_only(three, num_clients=2))
