"""Every algorithm against numbers by hand, its paper's loop written out, and laws."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fedlab.core import Cohort, Experiment, FederatedDataset, Local, Task, Terms, Updates, generator
from fedlab.data import dirichlet, iid, load
from fedlab.engine import run, stream
from fedlab.models import least_squares
from fedlab.server import (
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    feddyn,
    fedexp,
    fednova,
    fedprox,
    fedsgd,
    fedyogi,
    mean,
    mimelite,
    qfedavg,
    scaffold,
    uniform,
    weighted_mean,
)
from fedlab.study import compare, quadratics

CLIENTS = quadratics(6, 3, curvature=(0.3, 1.0), seed=1)
ADAPTIVE = {fedadagrad: {}, fedadam: {"beta2": 0.5}, fedyogi: {"beta2": 0.5}}


def updates(delta, n=None, steps=None, lr_sum=None, start_loss=None, gradient=None):
    delta = torch.tensor(delta, dtype=torch.double)

    def column(values, default):
        values = values if values is not None else [default] * len(delta)
        return torch.tensor(values, dtype=torch.double)

    more = [
        None if value is None else torch.tensor(value, dtype=torch.double)
        for value in (start_loss, gradient)
    ]
    return Updates(delta, column(n, 1), column(steps, 1), column(lr_sum, 1), column(None, 0), *more)


def served(method, rounds, *, d=None, ids=None, num_clients=4, aggregate=weighted_mean):
    """Take the server's part for the updates of some rounds, from w = 0; return w and the state."""
    w = torch.zeros(d or rounds[0].delta.shape[1], dtype=torch.double)
    state, seen = method.init(w, num_clients), []
    for t, update in enumerate(rounds):
        chosen = ids[t] if ids else range(len(update.delta))
        cohort = Cohort(np.array(chosen), t + 1, 0, num_clients)
        w, state = method.step(
            w, state, cohort, update, aggregate(*method.contributions(update, cohort))
        )
        seen.append(w.tolist())
    return seen, state


# By hand


@pytest.mark.parametrize("server_lr", [1.0, 0.5])
def test_fedavg(server_lr):
    (w,), _ = served(fedavg(server_lr), [updates([[1, 0], [0, 1]], n=[1, 3])])
    assert w == [server_lr * 0.25, server_lr * 0.75]


def test_fedavgm():
    """By hand: v = 1, then 0.5 + 1, then 0.75 + 0."""
    ws, v = served(fedavgm(0.5, server_lr=2), [updates([[1]]), updates([[1]]), updates([[0]])])
    assert ws == [[2], [5], [6.5]]
    assert v.tolist() == [0.75]


@pytest.mark.parametrize(
    ("make", "v"),
    [
        (fedadagrad, [2, 11]),  # 1 + 1, + 9
        (fedadam, [1, 5]),  # 0.5 * 1 + 0.5 * 1, 0.5 * 1 + 0.5 * 9
        (fedyogi, [1, 5.5]),  # 1 - 0.5 * 1 * sign(0), 1 - 0.5 * 9 * sign(1 - 9)
    ],
)
def test_adaptive_servers_without_bias_correction(make, v):
    """D = 1, then 3 = (1 * 0 + 3 * 4) / 4; m = 0.5, then 1.75.

    v starts at tau^2 = 1, and w moves by 2 m / (sqrt(v) + 1).
    """
    method = make(2.0, beta1=0.5, tau=1.0, **ADAPTIVE[make])
    ws, (m, second) = served(method, [updates([[1]]), updates([[0], [4]], n=[1, 3])])
    first = 2 * 0.5 / (v[0] ** 0.5 + 1)
    np.testing.assert_allclose(ws, [[first], [first + 2 * 1.75 / (v[1] ** 0.5 + 1)]])
    assert (m.tolist(), second.tolist()) == ([1.75], [v[1]])


def test_yogi_comes_down_more_slowly_than_adam():
    _, (_, v) = served(fedyogi(beta2=0.5, tau=2.0), [updates([[1]])])
    assert v.tolist() == [3.5], "4 - 0.5 * 1 * sign(4 - 1)"


def test_fednova():
    """2 and 6 steps at 0.1: -1 and -2 a rate, weights 1/4 and 3/4, tau = 0.05 + 0.45."""
    update = updates([[-0.2, 0], [0, -1.2]], n=[1, 3], steps=[2, 6], lr_sum=[0.2, 0.6])
    (w,), _ = served(fednova(), [update])
    np.testing.assert_allclose(w, [0.5 * 0.25 * -1, 0.5 * 0.75 * -2])


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0, [-0.1 / 2, -0.2 / 2]),  # the plain mean
        (1, [-1 / 55, -8 / 55]),  # D = -1 and -4 * 2; h = 1 + 10 and 4 + 40
        (2, [-1 / 204, -32 / 204]),  # D = -1 and -16 * 2; h = 2 + 10 and 2 * 4 * 4 + 160
    ],
)
def test_qfedavg(q, expected):
    """L = 10, losses 1 and 4, L delta = -1 and -2; sizes and idle clients do not count."""
    columns = {
        "n": [1, 9, 0],
        "steps": [2, 2, 0],
        "lr_sum": [0.2, 0.2, 0],
        "start_loss": [1, 4, np.nan],
    }
    update = updates([[-0.1, 0], [0, -0.2], [0, 0]], **columns)
    (w,), _ = served(qfedavg(q), [update])
    np.testing.assert_allclose(w, expected)


def test_qfedavg_where_powers_vanish_and_where_a_client_has_no_loss_left():
    update = updates([[-0.1], [0.0]], steps=[1, 1], lr_sum=[0.1, 0.1], start_loss=[1e-40, 0])
    for q in (0.5, 1, 15):
        (w,), _ = served(qfedavg(q), [update])
        assert np.isfinite(w).all()
        assert w[0] < 0


def test_fedexp():
    """|delta|^2 = 10, |mean|^2 = 1: 10 / (2 (1 + 0.25)) = 4; where clients agree the rate is 1."""
    (w,), _ = served(fedexp(0.25), [updates([[3, 1], [-3, 1]])])
    assert w == [0, 4]
    (w,), _ = served(fedexp(0.25), [updates([[3, 1], [3, 1]])])
    assert w == [3, 1]
    (w,), _ = served(fedexp(0), [updates([[2, 0], [-2, 2]], n=[1, 3])])
    np.testing.assert_allclose(
        w, np.array([-1, 1.5]) * 7 / (2 * 3.25), err_msg="weights 1/4, 3/4: 1 + 6 = 7 over 2 * 3.25"
    )


def test_mimelite():
    """By hand: m = 1.5, then 0.5 * 2 + 0.75; local steps are 0.5 lr (g + m)."""
    method = mimelite(0.5)
    rounds = [
        updates([[1], [3]], n=[1, 9], gradient=[[2], [4]]),
        updates([[1], [5]], steps=[1, 0], gradient=[[2], [9]]),
    ]
    ws, m = served(method, rounds)
    assert ws == [[2], [3]], "the cohort counts alike, and who took no step does not count"
    assert m.tolist() == [1.75]
    terms = method.local_objective(m, Cohort(np.array([0, 3]), 3, 0, 4))
    assert (terms.h.tolist(), terms.lr, terms.mu) == ([[1.75], [1.75]], 0.5, 0)


def test_scaffold():
    """4 clients take 2 steps at 0.1.

    Round 1: c_1 = 1, c_3 = -2, c = -1/4.  Round 2: c_1 = 1 + 1/4 - 1.5, c = -1/4 - 1.25/4.
    """
    method = scaffold(2.0)
    columns = {"steps": [2, 2], "lr_sum": [0.2, 0.2]}
    rounds = [
        updates([[-0.2], [0.4]], n=[1, 9], **columns),
        updates([[0.3], [7.0]], steps=[2, 0], lr_sum=[0.2, 0]),
    ]
    ws, (c, c_i) = served(method, rounds, ids=[[1, 3], [0 + 1, 2]])
    np.testing.assert_allclose(ws, [[0.2], [0.8]])
    np.testing.assert_allclose(c_i[np.arange(4)].squeeze(1), [0, -0.25, 0, -2])
    np.testing.assert_allclose(c, [-0.5625])
    np.testing.assert_allclose(
        method.local_objective((c, c_i), Cohort(np.array([2, 3]), 3, 0, 4)).h, [[-0.5625], [1.4375]]
    )


def test_feddyn():
    """By hand, alpha 1/2, 4 clients.  g = -1/2, -3/2; h = -1/2 * 4 / 4; w = 0 + 2 + 1/2 / (1/2)."""
    method = feddyn(0.5)
    ws, (h, g) = served(
        method, [updates([[1], [3], [8]], n=[1, 9, 0], steps=[1, 1, 0])], ids=[[0, 2, 3]]
    )
    assert ws == [[3]]
    assert h.tolist() == [-0.5]
    assert g[np.arange(4)].squeeze(1).tolist() == [-0.5, 0, -1.5, 0]
    terms = method.local_objective((h, g), Cohort(np.array([0, 1]), 2, 0, 4))
    assert (terms.h.tolist(), terms.mu) == ([[0.5], [0]], 0.5)


def test_fedprox_has_the_term_and_nothing_else():
    cohort = Cohort(np.arange(2), 1, 0, 4)
    assert fedprox(0.3).local_objective(None, cohort) == Terms(mu=0.3)
    assert served(fedprox(0.3), [updates([[1, 0], [0, 1]], n=[1, 3])])[0] == [[0.25, 0.75]]


# The paper's loop, written out on quadratic clients, a few of them a round


def study(clients, local, algorithm, rounds, cohort_size=None):
    data = clients.federated()
    sample = uniform(cohort_size or data.num_clients)
    return Experiment(
        data,
        least_squares(data),
        local,
        algorithm,
        weighted_mean,
        sample,
        rounds,
        eval_every=rounds,
    )


def measured(experiment):
    return np.stack([runs[0].w.numpy(force=True) for runs in stream(experiment)])


def cohorts(rounds, size):
    return [
        np.sort(generator(0, "cohort", t + 1).choice(6, size, replace=False)) for t in range(rounds)
    ]


def slope(i, w):
    return CLIENTS.A[i] @ (w - CLIENTS.b[i])


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_scaffold_is_its_paper(decay):
    """Weight decay is part of the gradient, and K lr stays K lr."""
    local = Local(0.4, None, steps=3, weight_decay=decay)
    w, c, c_i = (
        measured(experiment := study(CLIENTS, local, scaffold(0.7), 12, 2)),
        0,
        np.zeros((6, 3)),
    )
    x = w[0]
    for t, cohort in enumerate(cohorts(experiment.rounds, 2)):
        ends, news = [], []
        for i in cohort:
            y = x
            for _ in range(3):
                y = y - 0.4 * (slope(i, y) + decay * y - c_i[i] + c)
            ends.append(y)
            news.append(c_i[i] - c + (x - y) / (3 * 0.4))
        x = x + 0.7 * np.mean([y - x for y in ends], axis=0)
        c = c + np.sum(news - c_i[cohort], axis=0) / 6
        c_i[cohort] = news
        np.testing.assert_allclose(w[t + 1], x, atol=1e-12)


@pytest.mark.slow
def test_feddyn_is_its_paper():
    """Clients minimise exactly: 400 steps here, a linear system there."""
    w, alpha = measured(study(CLIENTS, Local(0.5, None, steps=400), feddyn(0.3), 6, 2)), 0.3
    theta, h, slopes = w[0], 0, np.zeros((6, 3))
    for t, cohort in enumerate(cohorts(6, 2)):
        ends = []
        for i in cohort:  # grad L_i(end) - slopes_i + alpha (end - theta) = 0
            system = CLIENTS.A[i] + alpha * np.eye(3)
            end = np.linalg.solve(system, CLIENTS.A[i] @ CLIENTS.b[i] + slopes[i] + alpha * theta)
            slopes[i] -= alpha * (end - theta)
            np.testing.assert_allclose(
                slopes[i], slope(i, end), atol=1e-12, err_msg="the gradient where it ended"
            )
            ends.append(end)
        h = h - alpha / 6 * np.sum([end - theta for end in ends], axis=0)
        theta = np.mean(ends, axis=0) - h / alpha
        np.testing.assert_allclose(w[t + 1], theta, atol=1e-9)


def test_mimelite_is_its_paper():
    w, beta, m = measured(study(CLIENTS, Local(0.4, None, steps=3), mimelite(0.8), 12, 2)), 0.8, 0
    x = w[0]
    for t, cohort in enumerate(cohorts(12, 2)):
        ends = []
        for i in cohort:
            y = x
            for _ in range(3):
                y = y - 0.4 * ((1 - beta) * slope(i, y) + beta * m)
            ends.append(y)
        m = (1 - beta) * np.mean([slope(i, x) for i in cohort], axis=0) + beta * m
        x = np.mean(ends, axis=0)
        np.testing.assert_allclose(w[t + 1], x, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_qfedavg_is_its_paper(decay):
    local = Local(0.2, None, steps=2, weight_decay=decay)
    w, q, smooth = measured(study(CLIENTS, local, qfedavg(1.5), 8, 3)), 1.5, 5
    x = w[0]
    for t, cohort in enumerate(cohorts(8, 3)):
        tops, h = [], []
        for i in cohort:
            y = x - 0.2 * (slope(i, x) + decay * x)
            y = y - 0.2 * (slope(i, y) + decay * y)
            loss, g = (x - CLIENTS.b[i]) @ slope(i, x) / 2, smooth * (x - y)
            tops.append(loss**q * g)
            h.append(q * loss ** (q - 1) * g @ g + smooth * loss**q)
        x = x - np.sum(tops, axis=0) / np.sum(h)
        np.testing.assert_allclose(w[t + 1], x, atol=1e-12)


# Where they lead


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "cohort_size"),
    [(scaffold, 6), (scaffold, 2), (lambda: feddyn(0.3), 6)],
    ids=["SCAFFOLD", "SCAFFOLD, 2 of 6", "FedDyn"],
)
def test_scaffold_and_feddyn_reach_the_optimum_where_fedavg_ends_beside_it(make, cohort_size):
    """Heterogeneous quadratics, 5 local steps; FedAvg's end is the closed form for all clients."""
    local, rounds = Local(0.4, None, steps=5), 150 if cohort_size == 2 else 60
    beside = CLIENTS.fedavg(0.4, 5).fixed_point
    assert np.linalg.norm(beside - CLIENTS.optimum) > 0.05
    np.testing.assert_allclose(run(study(CLIENTS, local, fedavg(), 60)).w[0], beside, atol=1e-9)
    result = run(study(CLIENTS, local, make(), rounds, cohort_size))
    np.testing.assert_allclose(result.w[0], CLIENTS.optimum, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("cohort_size", [6, 2])
def test_scaffold_with_weight_decay_reaches_the_optimum_of_the_decayed_objective(cohort_size):
    local, decay = Local(0.4, None, steps=5, weight_decay=0.5), 0.5 * np.eye(3)
    result = run(study(CLIENTS, local, scaffold(), 150 if cohort_size == 2 else 60, cohort_size))
    pulls = np.einsum("ijk,ik->j", CLIENTS.A, CLIENTS.b) / 6
    np.testing.assert_allclose(
        result.w[0], np.linalg.solve(CLIENTS.A.mean(0) + decay, pulls), atol=1e-9
    )


@pytest.mark.slow
def test_feddyn_with_few_clients_a_round_reaches_the_optimum():
    result = run(study(CLIENTS, Local(0.4, None, steps=5), feddyn(0.3), 120, 4))
    np.testing.assert_allclose(result.w[0], CLIENTS.optimum, atol=1e-5)


@pytest.mark.parametrize("everyone", [True, False])
def test_control_variates_average_to_the_servers(everyone):
    """That is c = mean_i c_i over all clients, whoever took part; FedDyn's h = mean_i g_i."""
    for method in (scaffold(), feddyn(0.3)):
        for runs in stream(
            study(CLIENTS, Local(0.3, None, steps=3), method, 10, None if everyone else 2)
        ):
            c, c_i = runs[0].state
            torch.testing.assert_close(c, c_i[np.arange(6)].mean(0), atol=1e-12, rtol=0)


@pytest.mark.slow
def test_qfedavg_evens_the_losses():
    """Clients' losses at the end: the larger q, the smaller the largest."""
    methods = {q: qfedavg(q) for q in (0, 1, 5)}
    result = compare(study(CLIENTS, Local(0.5, None, steps=1), fedavg(), 60), algorithm=methods)
    away = [w.numpy(force=True) - CLIENTS.b for w in result.w]
    worst = [max(np.einsum("ij,ijk,ik->i", a, CLIENTS.A, a) / 2) for a in away]
    assert worst[0] > 1.05 * worst[1]
    assert worst[1] > 1.05 * worst[2]


def test_fednova_with_momentum_divides_by_what_the_steps_add_up_to():
    """For constant gradients, delta_i = -lr a_i g_i, a = (K - r (1 - r^K) / (1 - r)) / (1 - r)."""
    x = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.double)
    data = FederatedDataset(x, x[:, 0], [np.array([0]), np.array([1, 2])], (x, x[:, 0]))
    task = Task(
        lambda: nn.Linear(1, 1, bias=False), lambda output, y: output[:, 0], {}
    )  # gradients 1 and 3
    r, lr, steps = 0.9, 0.1, np.array([3, 7])
    local = [Local(lr, None, steps=k, momentum=r) for k in (3, 7)]
    w = measured(Experiment(data, task, local, fednova(), weighted_mean, uniform(2), 1))
    a = (steps - r * (1 - r**steps) / (1 - r)) / (1 - r)
    p = np.array([1, 2]) / 3
    assert w[1] - w[0] == pytest.approx(-lr * (p @ a) * (p @ [1, 3]))


# Laws on digits, with ragged and empty clients


@pytest.fixture(scope="module")
def ragged():
    data = load("digits", 20, dirichlet(0.1), seed=3).double()
    return digits(data)


@pytest.fixture(scope="module")
def even():
    data = load("digits", 20, iid(), seed=3).double()
    return digits(replace(data, parts=[part[:71] for part in data.parts]))


def digits(data):
    from fedlab.models import mlp

    task = mlp(data, hidden=(10,))
    return Experiment(
        data, task, Local(0.2, 8), fedavg(), weighted_mean, uniform(6), rounds=4, eval_every=4
    )


def models(base, **fields):
    return compare(base, **fields).w


@pytest.mark.parametrize(
    ("method", "local"),
    [
        (fedprox(0.0), Local(0.2, 8)),
        (fedavgm(0.0), Local(0.2, 8)),
        (fedexp(eps=1e9), Local(0.2, 8)),
        (fednova(), Local(0.2, 8, steps=4)),
    ],
    ids=["fedprox", "fedavgm", "fedexp", "fednova with equal steps"],
)
def test_is_fedavg_without_its_own_part(ragged, method, local):
    plain, same = models(
        replace(ragged, local=local), algorithm={"FedAvg": fedavg(), "other": method}
    )
    torch.testing.assert_close(same, plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", [mimelite(0.0), qfedavg(0.0)], ids=["mimelite", "qfedavg"])
def test_is_fedavg_of_equal_sizes_without_its_own_part(even, method):
    plain, same = models(even, algorithm={"FedAvg": fedavg(), "other": method})
    torch.testing.assert_close(same, plain, atol=1e-12, rtol=0)


def test_methods_that_count_alike_are_fedavg_with_the_plain_mean(ragged):
    base = replace(ragged, rounds=1)
    plain = run(replace(base, aggregate=mean)).w[0]
    for method in (scaffold(), mimelite(0.0), qfedavg(0.0)):
        torch.testing.assert_close(
            run(replace(base, algorithm=method)).w[0], plain, atol=1e-12, rtol=0
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [fedavg(), fedsgd(), fedprox(0.5), fednova(), scaffold(), mimelite(0.0), qfedavg(0.0)],
    ids=range(7),
)
def test_one_full_batch_step_with_everyone_is_gradient_descent(even, method):
    """FedProx's term is 0 in a first step; SCAFFOLD's control variates cancel over all clients."""
    whole = replace(even, local=Local(0.3, None, steps=1), sample=uniform(20), algorithm=method)
    pooled = replace(whole.data, parts=[np.concatenate(whole.data.parts)])
    central = replace(whole, data=pooled, sample=uniform(1), algorithm=fedavg())
    torch.testing.assert_close(run(whole).w[0], run(central).w[0], atol=1e-12, rtol=0)


def test_fedsgd_is_fedavg_with_one_full_batch_step(ragged):
    for local in (Local(0.2, None, steps=1), Local(0.2, None, weight_decay=0.1)):
        a, b = models(
            replace(ragged, local=local), algorithm={"FedAvg": fedavg(0.5), "FedSGD": fedsgd(0.5)}
        )
        assert torch.equal(a, b)


def test_bytes_count_the_rows_that_travel(even):
    d = len(run(replace(even, rounds=1)).w[0])
    sent = {
        "FedAvg": (fedavg(), 1, 1),
        "SCAFFOLD": (scaffold(), 1, 2),
        "MimeLite": (mimelite(), 2, 2),
    }
    for method, up, down in sent.values():
        last = run(replace(even, rounds=1, algorithm=method)).rounds.iloc[-1]
        assert (last["up_values"], last["down_values"]) == (6 * 8 * d * up, 6 * 8 * d * down)


# Refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(fedavg, 0), "server_lr=0"),
        (partial(fedsgd, -1), "server_lr=-1"),
        (partial(scaffold, float("nan")), "server_lr=nan"),
        (partial(fedavgm, 1), "beta=1"),
        (partial(fedavgm, -0.1), "beta=-0.1"),
        (partial(fedavgm, server_lr=0), "server_lr=0"),
        (partial(fedadagrad, 0), "server_lr=0"),
        (partial(fedadagrad, beta1=1), "beta1=1"),
        (partial(fedadam, beta2=1), "beta2=1"),
        (partial(fedadam, tau=0), "tau=0"),
        (partial(fedyogi, beta2=-1), "beta2=-1"),
        (partial(fedprox, -0.1), "mu=-0.1"),
        (partial(fedprox, float("nan")), "mu=nan"),
        (partial(feddyn, 0), "alpha=0"),
        (partial(mimelite, 1.0), "beta=1.0"),
        (partial(fedexp, -1), "eps=-1"),
        (partial(qfedavg, -1), "q=-1"),
    ],
)
def test_hyper_parameters_out_of_range(make, message):
    with pytest.raises(ValueError, match=f"^{message} must be [^\n]*$"):
        make()


@pytest.mark.parametrize(
    ("method", "local", "reason"),
    [
        (
            scaffold(),
            Local(0.1, momentum=0.9),
            "momentum=0.9 must be 0 .SCAFFOLD's control variate is the mean gradient of plain SGD",
        ),
        (scaffold(), Local(0.1, optimizer="adamw"), "AdamW's steps are no multiple of gradients"),
        (
            fednova(),
            Local(0.1, optimizer="adamw"),
            "FedNova divides by the sum of a client's rates",
        ),
        (
            mimelite(),
            Local(0.1, momentum=0.9),
            "momentum=0.9 must be 0 .MimeLite's local steps have the server's momentum",
        ),
        (
            mimelite(),
            Local(0.1, weight_decay=0.1),
            "weight_decay=0.1 must be 0 .MimeLite's momentum is the mean of gradients of F_i",
        ),
        (
            mimelite(),
            Local(0.1, optimizer="adamw"),
            "MimeLite's local steps are the server's optimizer",
        ),
        (qfedavg(), Local(0.1, optimizer="adamw"), "q-FedAvg reads gradients off the updates"),
        (
            fedsgd(),
            Local(0.1, batch_size=8, steps=1),
            "must be one full-batch step .FedSGD takes one gradient",
        ),
        (fedsgd(), Local(0.1, None, steps=2), "steps=2"),
        (fedsgd(), Local(0.1, None, epochs=3), "epochs=3"),
        (fedsgd(), Local(0.1, None, steps=1, optimizer="adamw"), "optimizer='adamw'"),
        (fedsgd(), Local(0.1, None, steps=1, momentum=0.9), "momentum=0.9"),
    ],
)
def test_what_does_not_go_together_says_why(even, method, local, reason):
    with pytest.raises(ValueError, match=rf"{reason}.*\. Try [^\n]*$"):
        replace(even, algorithm=method, local=local)
