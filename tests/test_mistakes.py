"""Mistakes seen in public code, switched on one by one: a test that our code passes must fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.client import batched, plan, sequential
from fedlab.core import Cohort, Experiment, Local, Message, Result, Updates, generator
from fedlab.data import dirichlet, dirichlet_equal_sizes, load
from fedlab.engine import evaluate, run, stream
from fedlab.models import least_squares, mlp
from fedlab.server import fedadam, fedavg, fedprox, mean, scaffold, uniform, weighted_mean
from fedlab.study import quadratics
from fedlab.upload import chain, error_feedback, identity, qsgd, top_k, wire

CLIENTS = replace(
    quadratics(6, 3, curvature=(0.3, 1.0), seed=1), weights=np.array([1.0, 2, 1, 5, 1, 1])
)
EQUAL = replace(CLIENTS, weights=np.ones(6))


def study(clients, local, algorithm, cohort_size=6, rounds=10, **fields):
    data = clients.federated()
    parts = local, algorithm, weighted_mean, uniform(cohort_size)
    return replace(
        Experiment(data, least_squares(data), *parts, rounds, eval_every=rounds), **fields
    )


# Oracles: each passes for what it is given, or raises AssertionError


def proximal_term_is_that_of_the_objective(backend):
    """FedProx on quadratic clients, 5 local steps, against its closed form."""
    w = np.stack(
        [
            runs[0].w.numpy(force=True)
            for runs in stream(study(CLIENTS, Local(0.4, None, steps=5), fedprox(0.5)), backend)
        ]
    )
    np.testing.assert_allclose(w, CLIENTS.fedavg(0.4, 5, mu=0.5).trajectory(w[0], 10), atol=1e-10)


def one_step_with_everyone_is_a_gradient_step(algorithm, clients=EQUAL, aggregate=weighted_mean):
    experiment = study(clients, Local(0.4, None, steps=1), algorithm, rounds=1, aggregate=aggregate)
    before, after = (runs[0].w.numpy(force=True) for runs in stream(experiment))
    np.testing.assert_allclose(
        after, before - 0.4 * clients.p @ clients.gradients(before), atol=1e-12
    )


def control_variates_average_to_the_servers(algorithm):
    for runs in stream(study(EQUAL, Local(0.4, None, steps=3), algorithm, cohort_size=2)):
        c, c_i = runs[0].state
        torch.testing.assert_close(c, c_i[np.arange(6)].mean(0), atol=1e-12, rtol=0)


def an_epoch_visits_every_example_once(planner):
    parts = [np.arange(0, 23), np.arange(23, 30), np.arange(30, 31)]
    batches = planner(parts, 0, 1, Local(0.1, batch_size=5, epochs=2), 31)
    for part, row in zip(parts, batches, strict=True):
        assert np.sort(row[row >= 0]).tolist() == np.repeat(part, 2).tolist()


def clients_are_shuffled_each_for_itself(planner):
    """Ten clients with nine examples each: positions are visited in ten different orders."""
    parts = [np.arange(9 * i, 9 * i + 9) for i in range(10)]
    batches = planner(parts, 0, 1, Local(0.1, batch_size=9), 90)
    orders = {tuple(row[row >= 0] - part[0]) for part, row in zip(parts, batches, strict=True)}
    assert len(orders) == 10


def a_twentieth_of_the_numbers_is_enough(sending):
    """Top 5 % on digits, IID, 20 rounds."""
    data, (backend, upload) = load("digits", 20), sending(0.05)
    parts = Local(0.1, 8), fedavg(), weighted_mean, uniform(10)
    result = run(
        Experiment(data, mlp(data, (32,)), *parts, rounds=20, eval_every=20, upload=upload), backend
    )
    assert last(result) > 0.7


def what_is_counted_is_what_is_packed(sizes):
    x, shapes = (
        torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)),
        {"x": torch.Size((1000,))},
    )
    message, _ = chain(top_k(0.1), qsgd(8)).apply(
        Message(x, shapes), [None, None], Cohort(np.arange(3), 1, 0, 9)
    )
    assert sizes(message).sum(1).tolist() == [len(wire.pack(message, i)) for i in range(3)]


def a_client_shuffles_alike_whoever_else_takes_part(planner):
    parts = [np.arange(9 * i, 9 * i + 9) for i in range(3)]
    local = Local(0.1, batch_size=9)
    assert (planner(parts, 0, 1, local, 27)[2] == planner(parts[1:], 0, 1, local, 27)[1]).all()


def fedadam_is_reddis(algorithm):
    """Deltas 1 and 3 by hand, tau 0.1, server_lr 1: m = 0.1 and 0.39, v = 0.99 tau^2 + 0.01 ..."""
    w, state = (
        torch.zeros(1, dtype=torch.double),
        algorithm.init(torch.zeros(1, dtype=torch.double), 1),
    )
    for delta in (1.0, 3.0):
        ones = torch.ones(1, dtype=torch.double)
        updates = Updates(torch.tensor([[delta]]).double(), ones, ones, ones, ones)
        w, state = algorithm.step(
            w, state, Cohort(np.arange(1), 1, 0, 1), updates, updates.delta[0]
        )
    v = [0.99 * 0.01 + 0.01 * 1, 0.99 * (0.99 * 0.01 + 0.01 * 1) + 0.01 * 9]
    np.testing.assert_allclose(w, [0.1 / (v[0] ** 0.5 + 0.1) + 0.39 / (v[1] ** 0.5 + 0.1)])


def class_shares_are_dirichlet_over_clients(split):
    """Alpha 0.5, 10 clients: mean 1/10, variance 1/10 * 9/10 / (10 * 0.5 + 1), and sizes differ."""
    shares = class_shares(split, by="class")
    assert shares.mean() == pytest.approx(0.1)
    assert shares.var() == pytest.approx(0.1 * 0.9 / 6, rel=0.15)


def client_mixes_are_dirichlet_over_classes(split):
    """Alpha 0.5 in all, 10 classes: variance 1/10 * 9/10 / (0.5 + 1), or a little less.

    It is less as classes run out; sizes are equal.
    """
    shares = class_shares(split, by="client")
    np.testing.assert_allclose(shares.sum(-1), 1)
    assert shares.var() == pytest.approx(0.1 * 0.9 / 1.5, rel=0.25)


def class_shares(split, by):
    """Shares of a class per client over 60 draws, or shares of a client's examples per class."""
    y = np.repeat(np.arange(10), 200)
    counts = np.array(
        [[np.bincount(y[p], minlength=10) for p in split(y, 10, generator(t))] for t in range(60)]
    )
    assert by == "class" or len(set(counts.sum(2).ravel())) == 1, "sizes are equal"
    return counts / counts.sum({"class": 1, "client": 2}[by], keepdims=True)


def what_is_reported_is_the_model_that_is_kept(final):
    """At a rate where accuracy goes up and down, ``final`` scores the run's last model."""
    data = load("digits", 10, dirichlet(0.1))
    task = mlp(data, hidden=(16,))
    result = run(
        Experiment(
            data, task, Local(0.5, 8, epochs=2), fedavg(), weighted_mean, uniform(2), rounds=11
        )
    )
    accuracy = result.rounds["accuracy"]
    assert accuracy.iloc[-1] < accuracy.max(), "or this would not tell them apart"
    assert final(result) == pytest.approx(evaluate(task, result.w[0], data)["accuracy"])


# The mistakes


def unsquared(task, x, y, work):
    """Local training whose penalty is ``mu/2 ||w - w_t||``: the square forgotten."""
    delta = torch.zeros(len(work.lr), work.start.shape[1], dtype=x.dtype)
    for i, rows in enumerate(work.batches):
        w_t = work.start[work.origin[i]]
        w = w_t.clone()
        for batch in rows:
            w.requires_grad_()
            loss = task.loss(task.forward(w, x[batch[batch >= 0]]), y[batch[batch >= 0]]).mean()
            penalty = work.mu[i] / 2 * torch.sqrt(((w - w_t) ** 2).sum() + 1e-12)
            w = (w - work.lr[i] * torch.autograd.grad(loss + penalty, w)[0]).detach()
        delta[i] = w - w_t
    return sequential(task, x, y, work)._replace(delta=delta)


def from_random_control_variates():
    right = scaffold()

    def init(w, num_clients):
        c, c_i = right.init(w, num_clients)
        c_i[np.arange(num_clients)] = w.new_tensor(
            generator(0, "control").normal(size=(num_clients, len(w)))
        )
        return c, c_i

    return right._replace(init=init)


def averaged_over_the_cohort():
    right = scaffold()
    return right._replace(
        step=lambda w, s, cohort, *rest: right.step(
            w, s, cohort._replace(num_clients=len(cohort.ids)), *rest
        )
    )


def one_batch(parts, seed, round, local, num_examples):
    return plan(parts, seed, round, replace(local, steps=1), num_examples)


def one_seed_for_all(parts, seed, round, local, num_examples):
    """Every client seeds its own shuffling with the same number."""
    return np.stack(
        [part[generator(seed, "batches", round).permutation(len(part))][None] for part in parts]
    )


def one_stream_for_all(parts, seed, round, local, num_examples):
    """A generator that clients draw from one after the other, as a global one is."""
    draw = generator(seed, "batches", round)
    return np.stack([part[draw.permutation(len(part))][None] for part in parts])


def bias_corrected():
    right = fedadam(1.0, tau=0.1)

    def step(w, state, cohort, updates, mean):
        t, inner = state if isinstance(state[0], int) else (0, state)
        _, (m, v) = right.step(w, inner, cohort, updates, mean)
        t += 1
        return w + m / (1 - 0.9**t) / ((v / (1 - 0.99**t)).sqrt() + 0.1), (t, (m, v))

    return right._replace(step=step)


def unweighted():
    return fedavg()._replace(
        contributions=lambda updates, cohort: (updates.delta, torch.ones_like(updates.num_examples))
    )


def last(result: Result) -> float:
    return result.final()["accuracy"].item()


def best(result: Result) -> float:
    return result.rounds["accuracy"].max()


def top_k_of_updates(fraction):
    return batched, error_feedback(top_k(fraction))


def top_k_of_weights(fraction):
    """Send the largest weights, the others as 0, without a memory: the server averages these."""

    def backend(task, x, y, work):
        updates = batched(task, x, y, work)
        start = work.start[work.origin]
        sparse, _ = top_k(fraction).apply(Message(start + updates.delta, task.shapes), None, None)
        return updates._replace(delta=sparse.delta - start)

    return backend, identity()


def without_indices(message):
    return wire.sizes(message)[:, [0, 2]]


ORACLES = {
    "unsquared proximal norm": (proximal_term_is_that_of_the_objective, sequential, unsquared),
    "random control variates: first step": (
        one_step_with_everyone_is_a_gradient_step,
        scaffold(),
        from_random_control_variates(),
    ),
    "random control variates: sum": (
        control_variates_average_to_the_servers,
        scaffold(),
        from_random_control_variates(),
    ),
    "control variates over the cohort": (
        control_variates_average_to_the_servers,
        scaffold(),
        averaged_over_the_cohort(),
    ),
    "one batch for an epoch": (an_epoch_visits_every_example_once, plan, one_batch),
    "one seed for all clients": (clients_are_shuffled_each_for_itself, plan, one_seed_for_all),
    "one stream for all clients": (
        a_client_shuffles_alike_whoever_else_takes_part,
        plan,
        one_stream_for_all,
    ),
    "FedAdam with bias correction": (fedadam_is_reddis, fedadam(1.0, tau=0.1), bias_corrected()),
    "unweighted rows under FedAvg's name": (
        lambda algorithm: one_step_with_everyone_is_a_gradient_step(algorithm, CLIENTS),
        fedavg(),
        unweighted(),
    ),
    "unweighted mean under FedAvg's name": (
        lambda aggregate: one_step_with_everyone_is_a_gradient_step(fedavg(), CLIENTS, aggregate),
        weighted_mean,
        mean,
    ),
    "the other Dirichlet": (
        class_shares_are_dirichlet_over_clients,
        dirichlet(0.5),
        dirichlet_equal_sizes(0.5),
    ),
    "the one Dirichlet": (
        client_mixes_are_dirichlet_over_classes,
        dirichlet_equal_sizes(0.5),
        dirichlet(0.5),
    ),
    "weights compressed, not updates": (
        a_twentieth_of_the_numbers_is_enough,
        top_k_of_updates,
        top_k_of_weights,
    ),
    "indices forgotten": (what_is_counted_is_what_is_packed, wire.sizes, without_indices),
    "best round for the last": (what_is_reported_is_the_model_that_is_kept, last, best),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ORACLES)
def test_an_oracle_catches(mistake):
    oracle, right, wrong = ORACLES[mistake]
    oracle(right)
    with pytest.raises(AssertionError):
        oracle(wrong)


def test_random_control_variates_are_at_chance_even_on_iid_data():
    """As seen in public code; with the right start the same run learns."""
    data = load("digits", 10)
    base = Experiment(
        data,
        mlp(data, hidden=(16,)),
        Local(0.1, 8),
        scaffold(),
        weighted_mean,
        uniform(5),
        rounds=12,
    )
    assert last(run(base)) > 0.8
    assert last(run(replace(base, algorithm=from_random_control_variates()))) < 0.4


def test_one_batch_gives_clients_unequal_work():
    """What the wrong plan hides: with the right one, steps follow sizes."""
    data = load("digits", 10, dirichlet(0.3))
    table = run(
        Experiment(
            data, mlp(data, (8,)), Local(0.1, 8), fedavg(), weighted_mean, uniform(10), rounds=1
        )
    ).clients
    pd.testing.assert_series_equal(
        table["steps"], np.ceil(table["num_examples"] / 8).astype(int), check_names=False
    )
