"""Closed forms of quadratic clients agree with each other and with the real engine."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlab.client import assign, batched, plan
from fedlab.core import Experiment, Local
from fedlab.engine import run, stream
from fedlab.models import least_squares
from fedlab.server import fedavg, fednova, fedprox, uniform, weighted_mean
from fedlab.study import Quadratics, average_bound, distance_bound, quadratics

CLIENTS = replace(quadratics(5, 3, seed=1), weights=np.array([1.0, 2, 1, 3, 1]))
START = np.array([2.0, -1.0, 1.0])


def study(clients, local, algorithm, rounds=15):
    data = clients.federated()
    return Experiment(
        data,
        least_squares(data),
        local,
        algorithm,
        weighted_mean,
        uniform(data.num_clients),
        rounds,
    )


def measured(experiment):
    """Return the real engine's models of rounds 0, 1, ...: ``[rounds + 1, d]``."""
    return np.stack([runs[0].w.numpy(force=True) for runs in stream(experiment)])


RAGGED = [2, 9, 1, 4, 6]
CASES = {
    "one step": (Local(0.5, None, steps=1), fedavg(), CLIENTS.fedavg(0.5, 1)),
    "steps": (Local(0.5, None, steps=7), fedavg(), CLIENTS.fedavg(0.5, 7)),
    "ragged": ([Local(0.5, None, steps=k) for k in RAGGED], fedavg(), CLIENTS.fedavg(0.5, RAGGED)),
    "FedProx": (Local(0.5, None, steps=7), fedprox(0.3), CLIENTS.fedavg(0.5, 7, mu=0.3)),
    "FedProx, exactly": (Local(0.5, None, steps=200), fedprox(0.5), CLIENTS.fedprox(0.5)),
    "FedNova": (
        [Local(0.5, None, steps=k) for k in RAGGED],
        fednova(),
        CLIENTS.fednova(0.5, RAGGED),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_engine_walks_the_closed_form(case):
    local, algorithm, closed = CASES[case]
    w = measured(study(CLIENTS, local, algorithm, rounds=2 if "exactly" in case else 8))
    np.testing.assert_allclose(w, closed.trajectory(w[0], len(w) - 1), atol=1e-12)
    np.testing.assert_allclose(closed.apply(w[:-1]), w[1:], atol=1e-12)


def test_the_test_loss_is_the_objective():
    result = run(study(CLIENTS, Local(0.5, None, steps=3), fedavg(), rounds=1))
    assert result.rounds["loss"].iloc[-1] == pytest.approx(
        CLIENTS.value(result.w[0].numpy(force=True)), abs=1e-12
    )
    assert result.clients["num_examples"].tolist() == [3, 6, 3, 9, 3]


def test_the_optimum_is_where_the_pulls_cancel():
    w = CLIENTS.optimum
    np.testing.assert_allclose(CLIENTS.p @ CLIENTS.gradients(w), 0, atol=1e-12)
    around = w + 0.1 * np.random.default_rng(0).normal(size=(50, 3))
    assert (CLIENTS.value(around) > CLIENTS.value(w)).all()
    eps = 1e-6 * np.eye(3)
    slope = (CLIENTS.value(START + eps) - CLIENTS.value(START - eps)) / 2e-6
    np.testing.assert_allclose(slope, CLIENTS.p @ CLIENTS.gradients(START), atol=1e-8)


@pytest.mark.parametrize("mu", [0.0, 0.4])
def test_paths_are_the_steps_written_out(mu):
    paths = CLIENTS.paths(START, 0.3, 6, mu=mu)
    for i, path in enumerate(paths):
        w = START
        for point in path:
            np.testing.assert_allclose(point, w, atol=1e-12)
            w = w - 0.3 * (CLIENTS.A[i] @ (w - CLIENTS.b[i]) + mu * (w - START))
    np.testing.assert_allclose(
        CLIENTS.p @ paths[:, -1], CLIENTS.fedavg(0.3, 6, mu=mu).apply(START), atol=1e-12
    )


def test_averages_after_every_local_step():
    averages = CLIENTS.averages(START, 0.3, 4, 3)
    np.testing.assert_allclose(
        averages[::4], CLIENTS.fedavg(0.3, 4).trajectory(START, 3), atol=1e-12
    )
    np.testing.assert_allclose(
        averages[4:9],
        np.einsum("i,ikj->kj", CLIENTS.p, CLIENTS.paths(averages[4], 0.3, 4)),
        atol=1e-12,
    )


@pytest.mark.parametrize("case", CASES)
def test_rounds_lead_to_the_fixed_point_at_least_as_fast_as_the_contraction(case):
    closed = CASES[case][2]
    np.testing.assert_allclose(closed.apply(closed.fixed_point), closed.fixed_point, atol=1e-12)
    away = np.linalg.norm(closed.trajectory(START, 40) - closed.fixed_point, axis=1)
    assert closed.contraction < 1
    assert (away[1:] <= closed.contraction * away[:-1] + 1e-12).all()


def test_several_local_steps_end_beside_the_optimum_and_only_where_clients_differ_in_both():
    def miss(clients, lr=0.5, steps=7, **more):
        return np.linalg.norm(clients.fedavg(lr, steps, **more).fixed_point - clients.optimum)

    assert miss(CLIENTS) > 0.1
    assert miss(CLIENTS, steps=1) < 1e-12, "one step is gradient descent"
    assert miss(replace(CLIENTS, A=np.broadcast_to(CLIENTS.A[0], CLIENTS.A.shape))) < 1e-12, (
        "one curvature for all"
    )
    assert miss(quadratics(5, 3, spread=0)) < 1e-12, "one optimum for all"
    misses = [miss(CLIENTS, steps=k) for k in (1, 2, 4, 8, 16)]
    assert misses == sorted(misses)
    assert miss(CLIENTS, mu=0.3) < miss(CLIENTS), "a proximal term pulls it back a little"


def test_unequal_steps_minimise_another_objective_and_fednova_does_not():
    """Wang et al. 2020, Theorem 1: for small rates FedAvg minimises with weights p_i K_i."""
    surrogate = CLIENTS.surrogate(RAGGED).optimum
    assert np.linalg.norm(surrogate - CLIENTS.optimum) > 0.1
    np.testing.assert_allclose(CLIENTS.fedavg(1e-7, RAGGED).fixed_point, surrogate, atol=1e-5)
    np.testing.assert_allclose(
        CLIENTS.fednova(1e-7, RAGGED).fixed_point, CLIENTS.optimum, atol=1e-5
    )


BOUNDED = [(1.0, 1), (0.4, 3), (0.1, 20), (0.02, 50)]


@pytest.mark.parametrize(("lr", "steps"), BOUNDED, ids=str)
def test_the_distance_never_exceeds_its_bound(lr, steps):
    """The real engine measures it; one client that takes one step reaches the bound."""
    lr = lr / CLIENTS.smoothness
    w = measured(study(CLIENTS, Local(lr, None, steps=steps), fedavg()))
    away, bound = (
        np.linalg.norm(w - CLIENTS.optimum, axis=1),
        distance_bound(CLIENTS, w[0], lr, steps, len(w) - 1),
    )
    assert (away <= bound + 1e-12).all()
    assert bound[0] == pytest.approx(away[0])
    assert np.linalg.norm(CLIENTS.fedavg(lr, steps).fixed_point - CLIENTS.optimum) <= bound[-1]
    alone = Quadratics(np.full((1, 1, 1), 0.5), np.ones((1, 1)), np.ones(1))
    path = alone.fedavg(lr, steps).trajectory(np.zeros(1), 5)[:, 0]
    np.testing.assert_allclose(
        1 - path, distance_bound(alone, np.zeros(1), lr, steps, 5), atol=1e-12
    )


@pytest.mark.parametrize(("lr", "steps"), [(0.25, 1), (0.08, 4), (0.02, 12)], ids=str)
def test_the_mean_gap_never_exceeds_its_bound(lr, steps):
    """The real engine measures it, and the averages within rounds."""
    lr = lr / CLIENTS.smoothness
    experiment = study(CLIENTS, Local(lr, None, steps=steps), fedavg(), rounds=6)
    ends = measured(experiment)
    gap = []
    for w in ends[:-1]:
        for k in range(steps):
            gap.append(
                CLIENTS.value(averaged(experiment, w, lr, k)) - CLIENTS.value(CLIENTS.optimum)
            )
    np.testing.assert_allclose(
        gap,
        CLIENTS.value(CLIENTS.averages(ends[0], lr, steps, 6)[:-1])
        - CLIENTS.value(CLIENTS.optimum),
        atol=1e-12,
    )
    mean = np.cumsum(gap)[steps - 1 :: steps] / (steps * np.arange(1, 7))
    assert (mean <= average_bound(CLIENTS, ends[0], lr, steps, 6)).all()


def averaged(experiment, w, lr, steps):
    """Return the average of the clients' models after full-batch steps of the engine."""
    if steps == 0:
        return w
    data, local = experiment.data, Local(lr, None, steps=steps)
    batches = plan(data.parts, 0, 1, local, len(data.y))
    work = assign(torch.from_numpy(w), data.parts, [local] * data.num_clients, batches)
    return w + CLIENTS.p @ batched(experiment.task, data.x, data.y, work).delta.numpy(force=True)


def test_bounds_by_hand():
    """Curvatures 1 and 3, optima 0 and 4: w* = 3, gradients 3 and -3; 3 steps at 0.02 from 0."""
    pair = Quadratics(np.array([[[1.0]], [[3.0]]]), np.array([[0.0], [4.0]]), np.ones(2))
    assert (pair.optimum, pair.dissent, pair.smoothness, pair.convexity) == pytest.approx(
        (3, 3, 3, 1)
    )
    moved = 0.02**2 * 3 * 3 * 3  # lr^2 L K (K - 1) / 2 dissent
    expected = [3, 0.98**3 * 3 + moved, 0.98**6 * 3 + (1 + 0.98**3) * moved]
    np.testing.assert_allclose(distance_bound(pair, np.zeros(1), 0.02, 3, 2), expected)
    offset = 6 * 0.02**2 * 3 * 6 * 9
    np.testing.assert_allclose(
        average_bound(pair, np.zeros(1), 0.02, 3, 2), [300 + offset, 150 + offset]
    )


def test_bounds_hold_over_many_federations():
    for seed in range(30):
        clients = quadratics(4, 2, curvature=(0.05, 2.0), spread=3.0, seed=seed)
        for steps in (1, 3, 10, 40):
            lr = 1 / clients.smoothness
            w = clients.fedavg(lr, steps).trajectory(np.zeros(2), 30)
            away = np.linalg.norm(w - clients.optimum, axis=1)
            assert (away <= distance_bound(clients, w[0], lr, steps, 30) + 1e-12).all()
            lr = min(0.25, (12 * steps * max(steps - 1, 1)) ** -0.5) / clients.smoothness
            gap = clients.value(clients.averages(w[0], lr, steps, 30)[:-1]) - clients.value(
                clients.optimum
            )
            mean = np.cumsum(gap)[steps - 1 :: steps] / (steps * np.arange(1, 31))
            assert (mean <= average_bound(clients, w[0], lr, steps, 30)).all()


def test_random_clients_have_the_curvatures_asked_for():
    clients = quadratics(50, 4, curvature=(0.2, 3.0), seed=3)
    assert 0.2 <= clients.convexity < 0.25
    assert 2.5 < clients.smoothness <= 3.0 + 1e-9
    assert (quadratics(50, 4, curvature=(0.2, 3.0), seed=3).A == clients.A).all()
    assert (quadratics(50, 4, curvature=(0.2, 3.0), seed=4).A != clients.A).any()
    assert quadratics(5, 2, spread=0).dissent < 1e-12 < quadratics(5, 2).dissent


def test_a_direction_without_curvature_stays_where_it_is():
    flat = Quadratics(
        np.stack([np.diag([1.0, 0.0]), np.diag([0.5, 2.0])]), np.ones((2, 2)), np.ones(2)
    )
    np.testing.assert_allclose(flat.progress(0.1, 5)[0], np.diag([1 - 0.9**5, 0]), atol=1e-15)
    assert flat.convexity == 0
    away = distance_bound(flat, np.zeros(2), 0.1, 5, 10)
    assert (
        np.linalg.norm(flat.fedavg(0.1, 5).trajectory(np.zeros(2), 10) - 1, axis=1) <= away
    ).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Quadratics(np.ones((2, 2, 2)), np.ones((3, 2)), np.ones(3)),
            r"A \(2, 2, 2\), b \(3, 2\)",
        ),
        (
            lambda: Quadratics(np.array([[[1.0, 1], [0, 1]]]), np.ones((1, 2)), np.ones(1)),
            "not symmetric",
        ),
        (lambda: Quadratics(-np.eye(2)[None], np.ones((1, 2)), np.ones(1)), "negative eigenvalue"),
        (lambda: replace(CLIENTS, weights=np.zeros(5)), "above 0"),
        (lambda: replace(CLIENTS, weights=np.full(5, 0.5)).federated(), "whole number"),
        (
            lambda: CLIENTS.fedavg(0.1, [1, 2]),
            r"^steps=\[1, 2\] must be a whole number of at least 0, or a list of 5",
        ),
        (
            lambda: CLIENTS.fednova(0.1, 0),
            r"^steps=0 must be a whole number of at least 1, or a list of 5",
        ),
        (lambda: CLIENTS.surrogate([1.5] * 5), r"^steps=\[1\.5, .* must be a whole number"),
        (lambda: quadratics(0), r"^num_clients=0 must be a whole number of at least 1"),
        (lambda: quadratics(3, spread=-1), r"^spread=-1 must be a number of at least 0"),
        (lambda: quadratics(3, curvature=(2.0, 1.0)), r"curvature=\(2.0, 1.0\)"),
        (lambda: distance_bound(CLIENTS, START, 9.0, 3, 5), r"lr=9 must be .*1 / L"),
        (lambda: average_bound(CLIENTS, START, 0.25, 30, 5), r"lr=0.25 must be .*sqrt"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
