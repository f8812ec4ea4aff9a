from dataclasses import replace

import numpy as np
import torch

from fedlab.baselines import alone, centralised
from fedlab.client import sequential
from fedlab.records import Local
from fedlab.run import run
from fedlab.server import uniform


def test_centralised_does_the_cohorts_work_on_all_data(study):
    federated, central = run(study, seeds=3), run(centralised(study), seeds=3)
    assert (central.rounds["clients"].iloc[1:4] == 1).all()
    visits = federated.clients.groupby("seed")["num_examples"].sum().mean() * study.local.epochs
    assert abs(central.clients["steps"].sum() / 3 * study.local.batch_size / visits - 1) < 0.35
    assert central.final()["accuracy"].mean() > federated.final()["accuracy"].mean()


def test_centralised_with_full_batches_is_gradient_descent(study):
    data = study.data(0)
    whole = replace(study, data=data, local=Local(0.3, batch_size=None), sample=uniform(30), rounds=3)
    torch.testing.assert_close(run(centralised(whole)).w[0], run(whole).w[0], atol=1e-5, rtol=0)


def test_centralised_with_steps(study):
    central = centralised(replace(study, local=Local(0.1, 8, steps=4)))
    assert central.local.steps == 20


def test_centralised_counts_the_examples_that_are_held(study):
    """5 of 30 clients, 2 epochs, batches of 8; half of the examples are nobody's."""
    data = study.data(0)
    half = replace(data, parts=[part[::2] for part in data.parts])
    assert centralised(replace(study, data=half)).local.steps == round(half.sizes.sum() * 2 * 5 / 30 / 8)


def test_alone_is_a_federation_of_one(study):
    """A client that trains alone for 3 rounds of 2 epochs is a run of 6 epochs whose only client it is."""
    short = replace(study, data=study.data(0), rounds=3)
    table = alone(short).set_index("client")
    assert list(table.index) == list(np.flatnonzero(short.data.sizes))
    i = int(short.data.sizes.argmax())
    single = replace(
        short,
        data=replace(short.data, parts=[short.data.parts[i]]),
        sample=uniform(1),
        rounds=1,
        local=Local(0.1, 8, epochs=6),
    )
    assert abs(table.loc[i, "accuracy"] - run(single, sequential).final()["accuracy"][0]) < 1e-6


def test_alone_in_double_precision_is_the_same_to_rounding(study):
    short = replace(study, data=study.data(0), rounds=1)
    once, exact = alone(short), alone(replace(short, data=short.data.double()))
    assert (once["num_examples"] == exact["num_examples"]).all()
    np.testing.assert_allclose(once["loss"], exact["loss"], atol=1e-4)
    assert (once["loss"] != exact["loss"]).any(), "really computed with more digits"


def test_alone_can_be_a_sample(study):
    table = alone(replace(study, rounds=1), seeds=2, num_clients=4)
    assert table.groupby("seed")["client"].nunique().tolist() == [4, 4]
    assert (table["num_examples"] > 0).all()
