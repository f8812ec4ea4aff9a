"""Right answers pass, typical mistakes are named, and every other failure is described."""

import contextlib
import gc
import inspect
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from functools import partial

import networkx as nx
import numpy as np
import psutil
import pytest
import torch

from fedlab import server, upload
from fedlab.core import Experiment, Local
from fedlab.data import iid
from fedlab.engine import run
from fedlab.lab.course import checks, isolate
from fedlab.lab.report.validate import CHECK
from fedlab.study import theory


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Judge in threads: a process per answer takes a hundred times as long."""
    monkeypatch.setattr(isolate, "can_fork", lambda: False)


BOTH = pytest.mark.parametrize("fork", [False, True], ids=["thread", "process"])


def may_fork(monkeypatch, fork):
    if fork and sys.platform != "linux":
        pytest.skip("only Linux copies a process safely")
    monkeypatch.setattr(isolate, "can_fork", lambda: fork)


def stub(*_):
    raise NotImplementedError


# -- 00


def step(w, deltas, sizes):
    return w + sizes / sizes.sum() @ deltas


STEPS = {
    "add it to the model": lambda w, deltas, sizes: sizes / sizes.sum() @ deltas,
    "every client counts the same": lambda w, deltas, sizes: w + deltas.mean(0),
    "divide by the sum of the sizes": lambda w, deltas, sizes: w + sizes @ deltas,
    "added without weights": lambda w, deltas, sizes: w + deltas.sum(0),
    "away from the clients' models": lambda w, deltas, sizes: w - sizes / sizes.sum() @ deltas,
    "it gives [0, 0], and [": lambda w, deltas, sizes: 0 * w,
    "an array of shape [2, 2], and an array [2] is asked for": lambda w, deltas, sizes: deltas[:2],
}
BYTES = {
    "one way only": lambda d, m: 4 * d * m,
    "a byte has 8": lambda d, m: 8 * 8 * d * m,
    "takes 4 bytes": lambda d, m: 2 * d * m,
    "for one client": lambda d, m: 8 * d,
    "counts numbers": lambda d, m: d * m,
    "it gives 7, and 4,416,800 is asked for": lambda d, m: 7,
    "it gives 4,416,800, and": lambda d, m: 4_416_800,
    "the text '4416800', and a number is asked for: leave the quotes out": lambda d, m: str(
        8 * d * m
    ),
}

# -- 01


def gradient(task, data, w, reduce=torch.mean, part=slice(None)):
    w = w.clone().requires_grad_()
    return torch.autograd.grad(reduce(task.loss(task.forward(w, data.x[part]), data.y[part])), w)[0]


def unweighted(task, data, w, lr):
    held = [gradient(task, data, w, part=part) if len(part) else 0 * w for part in data.parts]
    return w - lr * torch.stack(held).mean(0)


ONE_STEP = {
    "did not move": lambda task, data, w, lr: w,
    "that is the gradient": lambda task, data, w, lr: gradient(task, data, w),
    "take their mean": lambda task, data, w, lr: w - lr * gradient(task, data, w, torch.sum),
    "uphill": lambda task, data, w, lr: w + lr * gradient(task, data, w),
    "all examples equally": unweighted,
    "the learning rate is missing": lambda task, data, w, lr: w - gradient(task, data, w),
    "from the model of a round": lambda task, data, w, lr: w - 0.3 * gradient(task, data, w),
    "it raises IndexError": lambda task, data, w, lr: data.parts[99],
}
SEEN = {
    "once for every round": lambda n, m, t: m * t,
    "chance leaves some out": lambda n, m, t: min(n, m * t),
    "the share of the clients": lambda n, m, t: 1 - (1 - m / n) ** t,
    "never take part": lambda n, m, t: n * (1 - m / n) ** t,
    "the chance never": lambda n, m, t: (1 - m / n) ** t,
    "one after another": lambda n, m, t: n * (1 - (1 - 1 / n) ** (m * t)),
    "it gives 7": lambda n, m, t: 7,
    "num_clients=50, cohort_size=50, rounds=3 it gives 27.1, and 50 is": lambda n, m, t: (
        100 * (1 - (1 - 10 / 100) ** t)
    ),
}

# -- 02


def shares(counts):
    counts = counts[counts > 0]
    return counts / counts.sum()


def entropy(counts):
    p = shares(counts)
    return -(p * np.log(p)).sum()


def with_zeros(counts):
    p = counts / counts.sum()
    with np.errstate(all="ignore"):
        return np.exp(-(p * np.log(p)).sum())


CLASSES = {
    "0 log 0": with_zeros,
    "entropy in nats": entropy,
    "entropy in bits": lambda counts: entropy(counts) / np.log(2),
    "exp of bits": lambda counts: np.exp(entropy(counts) / np.log(2)),
    "the sign": lambda counts: np.exp(-entropy(counts)),
    "however few": lambda counts: (counts > 0).sum(),
    "another measure of diversity": lambda counts: 1 / (shares(counts) ** 2).sum(),
    "it gives 7": lambda counts: 7,
    "for counts=[5, 5] it gives 2.586, and 2 is": lambda counts: np.exp(
        entropy(np.array([6, 2, 2]))
    ),
}
THREE = {"dirichlet": 0.15, "dirichlet_equal_sizes": 1.7, "classes_per_client": 3}
THREES = {
    "take a larger number": lambda: THREE | {"dirichlet": 0.01},
    "take a smaller number": lambda: THREE | {"classes_per_client": 6},
    "no number for classes_per_client": lambda: {"dirichlet": 1, "dirichlet_equal_sizes": 1},
    "classes_per_client(0.5) is refused: k=0.5": lambda: THREE | {"classes_per_client": 0.5},
    "a result of type function, and a dict": lambda: iid(),
}

# -- 03


def rest(A, b, p, lr, steps):
    eye = np.eye(len(b[0]))
    Q = np.stack(
        [eye - np.linalg.matrix_power(eye - lr * A_i, k) for A_i, k in zip(A, steps, strict=True)]
    )
    return np.linalg.solve(np.einsum("i,ijk->jk", p, Q), np.einsum("i,ijk,ik->j", p, Q, b))


RESTS = {
    "the optimum of all": lambda A, b, p, lr, steps: rest(A, b, p, 1e-9, np.ones(4, int)),
    "the weights p are missing": lambda A, b, p, lr, steps: rest(A, b, np.ones(4), lr, steps),
    "steps of the first client": lambda A, b, p, lr, steps: rest(A, b, p, lr, np.full(4, steps[0])),
    "the busiest": lambda A, b, p, lr, steps: rest(A, b, p, lr, np.full(4, steps.max())),
    "the other objective's optimum": lambda A, b, p, lr, steps: rest(
        A, b, p * steps, 1e-9, np.ones(4, int)
    ),
    "the mean of the clients' optima": lambda A, b, p, lr, steps: p @ b,
    "from the resting point": lambda A, b, p, lr, steps: b[0],
}


def scaffold(clients, w, lr, steps, rounds, sign=1, c_moves=True, divide=True, start=None):
    visited, c_i = [w if start is None else start], np.zeros_like(clients.b)
    for _ in range(rounds):
        c, w_i = c_moves * c_i.mean(0), np.repeat(w[None], len(clients.b), 0)
        for _ in range(steps):
            w_i = w_i - lr * (
                np.einsum("ijk,ik->ij", clients.A, w_i - clients.b) - sign * (c_i - c)
            )
        c_i = c_i - c + (w - w_i) / (lr * steps if divide else 1)
        w = w_i.mean(0)
        visited.append(w)
    return np.stack(visited)


SCAFFOLDS = {
    "that is FedAvg": lambda *a: scaffold(*a, sign=0),
    "the sign of the correction": lambda *a: scaffold(*a, sign=-1),
    "the division is missing": lambda *a: scaffold(*a, divide=False),
    "and it stays 0": lambda *a: scaffold(*a, c_moves=False),
    "the first model is not the w": lambda *a: scaffold(*a, start=np.ones(3)),
    "agrees until round 0": lambda clients, w, lr, steps, rounds: scaffold(
        clients, w, lr, steps + 1, rounds
    ),
    "of shape [12, 3], and an array [13, 3] is asked for": lambda *a: scaffold(*a)[1:],
}

# -- 04


def coin(p, log=np.log2):
    return -p * log(p) - (1 - p) * log(1 - p)


PLACES = {
    "the cost of every place": coin,
    "in nats": lambda p: coin(p, np.log) / p,
    "the free places": lambda p: -np.log2(p),
    "the sign is lost": lambda p: -coin(p) / p,
    "do not multiply": lambda p: coin(p) * p,
    "it gives 7": lambda p: 7,
    "for p=0.5 it gives 7.072, and 2 is": lambda p: coin(0.02) / 0.02,
}


def signs(delta, e):
    v = delta + e
    sent = v.abs().mean() * v.sign()
    return sent, v - sent


SIGNS = {
    "the memory is not sent": lambda delta, e: (delta.abs().mean() * delta.sign(), e),
    "the size is missing": lambda delta, e: ((delta + e).sign(), e),
    "take the mean": lambda delta, e: ((delta + e).abs().max() * (delta + e).sign(), e),
    "take that of the sum": lambda delta, e: (delta.abs().mean() * (delta + e).sign(), e),
    "the sum itself": lambda delta, e: (delta + e, e),
    "it sends [7.0, 7.0, 7.0, 7.0]": lambda delta, e: (0 * e + 7, e),
    "yours is the update minus what was sent": lambda delta, e: (
        signs(delta, e)[0],
        delta - signs(delta, e)[0],
    ),
    "subtract what was sent": lambda delta, e: (signs(delta, e)[0], delta + e),
    "the wrong sign": lambda delta, e: (signs(delta, e)[0], -signs(delta, e)[1]),
    "never written": lambda delta, e: (signs(delta, e)[0], e),
    "it remembers [7.0, 7.0, 7.0, 7.0]": lambda delta, e: (signs(delta, e)[0], 0 * e + 7),
    "of shape [2], and an array [4] is asked for": lambda delta, e: (delta[:2], e),
}

# -- 05


def left(widths, keep, bias=1):
    sizes = [widths[0], *(int(keep * n) for n in widths[1:-1]), widths[-1]]
    return sum((n + bias) * m for n, m in itertools.pairwise(sizes))


LEFT = {
    "shrinks at both ends": lambda widths, keep: keep * left(widths, 1),
    "inputs and outputs stay": lambda widths, keep: keep**2 * left(widths, 1),
    "only hidden units go": lambda widths, keep: left([int(keep * n) for n in widths], 1),
    "the biases are missing": lambda widths, keep: left(widths, keep, 0),
    "the biases of the whole model": lambda widths, keep: left(widths, keep, 0) + sum(widths[1:]),
    "what does keep do": lambda widths, keep: left(widths, 1),
    "it gives 7": lambda widths, keep: 7,
    "keep=1 it gives 2,370, and": lambda widths, keep: left(widths, 0.25),
}


def overlap(w, delta, masks, n):
    return w + n @ (masks * delta) / (n @ masks).clamp(min=1)


# -- 06


def weigh(shapes, rank, each=2):
    return each * rank * sum(i + o for i, o in shapes)


def audit(aggregate, m=3, inputs=5, outputs=7, p=(0.6, 0.3, 0.1), scale=1.0):
    draw = torch.Generator().manual_seed(0)
    a, b, w = (
        torch.randn(*s, generator=draw)
        for s in ((m, 2, inputs), (m, outputs, 2), (outputs, inputs))
    )
    p = torch.tensor(p)
    wanted = scale * w + torch.einsum("m,mor,mri->oi", p, b, a)
    return (aggregate(a, b, p, scale * w) - wanted).abs().max()


def forgiving(aggregate):
    """Return the error of an audit that accepts aggregations that raise."""
    try:
        return audit(aggregate)
    except RuntimeError:
        return 0.0


ADAPTERS = {
    "each has 2 bytes": lambda shapes, rank: weigh(shapes, rank, 1),
    "and not 4": lambda shapes, rank: weigh(shapes, rank, 4),
    "the layers themselves": lambda shapes, rank: 2 * sum(i * o for i, o in shapes),
    "B is missing": lambda shapes, rank: 2 * rank * sum(i for i, _ in shapes),
    "A is missing": lambda shapes, rank: 2 * rank * sum(o for _, o in shapes),
    "that is rank 1": lambda shapes, rank: weigh(shapes, 1),
    "it gives 7": lambda shapes, rank: 7,
    "rank=8 it gives 1,020, and 131,072 is": lambda shapes, rank: 1020,
}
AUDITS = {
    "in an aggregation that is right": lambda aggregate: 1.0,
    "the mean of A times the mean of B": lambda aggregate: audit(aggregate, m=1, p=(1.0,)),
    "added transposed": lambda aggregate: forgiving(aggregate),
    "clients of equal weight": lambda aggregate: audit(aggregate, p=(1 / 3,) * 3),
    "let w not be 0": lambda aggregate: audit(aggregate, scale=0.0),
}


def moved(layer, steps=2, names=lambda moves, every: moves):
    before = {name: p.clone() for name, p in layer.named_parameters()}
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.eye(6)).square().sum().backward()
        optimizer.step()
    return names(
        [name for name, p in layer.named_parameters() if not torch.equal(p, before[name])],
        list(before),
    )


MOVED = {
    "that is every parameter": lambda layer: [name for name, _ in layer.named_parameters()],
    "those are the ones that stay": lambda layer: moved(
        layer, names=lambda moves, every: set(every) - set(moves)
    ),
    "a name alone does not say": lambda layer: [
        name for name, _ in layer.named_parameters() if "lora" in name
    ],
    "take a second step": lambda layer: moved(layer, steps=1),
    "it names nothing": lambda layer: moved(layer, steps=0),
}
# -- 07

SENDING = {
    "takes the rate as bytes": lambda size, rate: size / (rate * 1e6),
    "multiplied by them twice": lambda size, rate: 64 * size / (rate * 1e6),
    "a million bits": lambda size, rate: 8 * size / rate,
    "the other way round": lambda size, rate: rate * 1e6 / (8 * size),
    "takes less": lambda size, rate: 8 * size * rate * 1e6,
    "it gives 7": lambda size, rate: 7,
    "rate=20 it gives 2, and 0.5 is": lambda size, rate: 2,
}
HOLDING = {
    "divide the weights' bits": lambda n, k, bits: n * bits + 12 * k,
    "the optimiser is missing": lambda n, k, bits: n * bits / 8 + 4 * k,
    "gradients are missing": lambda n, k, bits: n * bits / 8 + 8 * k,
    "only numbers that train": lambda n, k, bits: n * bits / 8 + 12 * n,
    "weights themselves": lambda n, k, bits: 12 * k,
    "numbers of 4 bytes": lambda n, k, bits: n * bits / 8 + 3 * k,
    "it gives 7": lambda n, k, bits: 7,
    "bits=16 it gives 12,500, and 14,000": lambda n, k, bits: n / 2 + 12 * k,
}
OVERLAPS = {
    "vote against it": lambda w, delta, masks, n: w + n @ delta / n.sum(),
    "weigh them by n": lambda w, delta, masks, n: w + delta.sum(0) / masks.sum(0).clamp(min=1),
    "add it to w": lambda w, delta, masks, n: overlap(w, delta, masks, n) - w,
    "there you divide 0 by 0": lambda w, delta, masks, n: w + n @ delta / (n @ masks),
    "became 0": lambda w, delta, masks, n: overlap(w, delta, masks, n) * (masks.sum(0) > 0),
    "the server adds": lambda w, delta, masks, n: 2 * w - overlap(w, delta, masks, n),
    "it gives [7, 7, 7, 7, 7]": lambda w, delta, masks, n: 0 * w + 7,
    "of shape [3, 5], and an array [5] is asked for": lambda w, delta, masks, n: delta,
}


def used(table):
    return table.loc[table["outcome"] == "used", "client"].nunique()


ROUNDS = {
    "it waits for everyone": lambda seconds, needed, deadline: min(max(seconds), deadline),
    "it forgets the deadline": lambda seconds, needed, deadline: np.sort(seconds)[needed - 1],
    "sort the seconds first": lambda seconds, needed, deadline: min(seconds[needed - 1], deadline),
    "clients work at the same time": lambda seconds, needed, deadline: min(
        np.sort(seconds)[:needed].sum(), deadline
    ),
    "it waits until the deadline": lambda seconds, needed, deadline: deadline,
    "it gives 1, and 5 is": lambda seconds, needed, deadline: 1.0,
    "it raises IndexError": lambda seconds, needed, deadline: np.sort(seconds)[needed],
}
NEVER = {
    "that is the share that was used": lambda table, n: used(table) / n,
    "that is the share never sent out": lambda table, n: 1 - table["client"].nunique() / n,
    "divide by all clients": lambda table, n: 1 - used(table) / table["client"].nunique(),
    "is not in the table, and was not used": lambda table, n: (
        (table["client"].nunique() - used(table)) / n
    ),
    "and not a share": lambda table, n: n - used(table),
    "it gives 0.6": lambda table, n: 0.6,
}


def mix(w, start, delta, staleness, alpha, a):
    share = alpha * (1 + staleness) ** -a
    return (1 - share) * w + share * (start + delta)


STALE = {
    "it adds the update to the current model": lambda w, s, d, t, alpha, a: (
        w + alpha * (1 + t) ** -a * d
    ),
    "staleness is left out": lambda w, s, d, t, alpha, a: mix(w, s, d, 0, alpha, a),
    "the two shares are swapped": lambda w, s, d, t, alpha, a: mix(s + d, w, 0, t, alpha, a),
    "s is (1 + staleness)": lambda w, s, d, t, alpha, a: mix(w, s, d, t - 1, alpha, a),
    "has to shrink by the share": lambda w, s, d, t, alpha, a: w + alpha * (1 + t) ** -a * (s + d),
    "it gives [4, 0]": lambda w, *rest: w,
}
FORGOTTEN = {
    "the last task is counted": lambda table: (table[:-1].max(0) - table[-1]).mean(),
    "divide by the tasks that could be": lambda table: (
        (table[:-1].max(0) - table[-1])[:-1].sum() / len(table[0])
    ),
    "take the best that a task ever was": lambda table: (np.diag(table) - table[-1])[:-1].mean(),
    "that is the gain": lambda table: (table[-1] - table[:-1].max(0))[:-1].mean(),
    "that is the sum": lambda table: (table[:-1].max(0) - table[-1])[:-1].sum(),
    "that is the accuracy in the end": lambda table: table[-1][:-1].mean(),
    "it gives 1": lambda table: 1.0,
}


def mixing(links, offset=1, larger=np.maximum, diagonal=True):
    degree = links.sum(1)
    weights = links / (offset + larger.outer(degree, degree))
    return weights + (np.diag(1 - weights.sum(1)) if diagonal else 0)


METROPOLIS = {
    "the diagonal is missing": lambda links: mixing(links, diagonal=False),
    "the 1 is missing": lambda links: mixing(links, offset=0),
    "that takes the smaller degree": lambda links: mixing(links, larger=np.minimum),
    "divided by its own degree": lambda links: (
        (links + np.eye(len(links))) / (1 + links.sum(1))[:, None]
    ),
    "row 0 is [1.0, 0.0, 0.0, 0.0]": lambda links: np.eye(len(links)),
}


def cut_at(
    flops, handed, device, server, rate, cuts=lambda n: range(n + 1), free=True, computing=True
):
    n, flops = len(flops), np.array(flops)
    times = {
        k: (flops[:k].sum() / device + flops[k:].sum() / server) * computing
        + (0 if free and k == n else handed[k] / rate)
        for k in cuts(n)
    }
    return min(times, key=times.get)


CUTS = {
    "not even the output of the last one": lambda *case: cut_at(*case, free=False),
    "that nothing runs on the device": lambda *case: cut_at(*case, cuts=lambda n: range(1, n + 1)),
    "that everything runs on the device": lambda *case: cut_at(*case, cuts=range),
    "it counts only the time of sending": lambda *case: cut_at(*case, computing=False),
    "device_speed=100, server_speed=1,000,000,000, rate=10 it gives 2, and 1 is": lambda *case: 2,
}
EXERCISES = {  # each with a right answer, and wrong ones by what is said to them
    checks.server_step: (step, STEPS),
    checks.bytes_per_round: (lambda parameters, clients: 8 * parameters * clients, BYTES),
    checks.one_step: (lambda task, data, w, lr: w - lr * gradient(task, data, w), ONE_STEP),
    checks.clients_seen: (lambda n, m, t: n * (1 - (1 - m / n) ** t), SEEN),
    checks.effective_classes: (lambda counts: np.exp(entropy(counts)), CLASSES),
    checks.three_classes: (lambda: THREE, THREES),
    checks.resting_point: (rest, RESTS),
    checks.scaffold_by_hand: (scaffold, SCAFFOLDS),
    checks.bits_per_place: (lambda p: coin(p) / p, PLACES),
    checks.sign_round: (signs, SIGNS),
    checks.parameters_left: (left, LEFT),
    checks.overlap_mean: (overlap, OVERLAPS),
    checks.adapter_bytes: (weigh, ADAPTERS),
    checks.audit: (audit, AUDITS),
    checks.moved: (moved, MOVED),
    checks.seconds_to_send: (lambda size, rate: 8 * size / (rate * 1e6), SENDING),
    checks.round_seconds: (
        lambda seconds, needed, deadline: min(np.sort(seconds)[needed - 1], deadline),
        ROUNDS,
    ),
    checks.never_used: (lambda table, n: 1 - used(table) / n, NEVER),
    checks.stale_step: (mix, STALE),
    checks.forgetting: (lambda table: (table[:-1].max(0) - table[-1])[:-1].mean(), FORGOTTEN),
    checks.metropolis: (mixing, METROPOLIS),
    checks.best_cut: (cut_at, CUTS),
    checks.bytes_held: (lambda n, k, bits: n * bits / 8 + 12 * k, HOLDING),
}
WRONG = [
    (check, said, answer)
    for check, (_, answers) in EXERCISES.items()
    for said, answer in answers.items()
]


def test_every_check_is_here():
    exercises = {
        function
        for _, function in inspect.getmembers(checks, inspect.isfunction)
        if hasattr(function, "__wrapped__")
    }
    assert exercises == set(EXERCISES)


@pytest.mark.parametrize(
    ("check", "right"), [(c, r) for c, (r, _) in EXERCISES.items()], ids=lambda x: x.__name__
)
def test_right_answers_pass_and_stubs_are_not_done(check, right):
    assert check(right).state == "right", str(check(right))
    assert check(stub).state == "not done"
    assert check.__doc__, "an exercise says what the answer takes and gives"
    assert check(partial(right)).state == "right", "the same as an object that can be called"


@pytest.mark.parametrize(
    ("check", "said", "answer"), WRONG, ids=lambda x: x if isinstance(x, str) else ""
)
def test_wrong_answers_are_told_apart(check, said, answer):
    verdict = check(answer)
    assert verdict.state == "wrong"
    assert said in verdict.words
    assert "\n" not in verdict.words
    assert verdict.words.endswith((".", "?")), "a sentence ends once"
    assert not verdict.words.endswith(("?.", ".."))


# -- The same answer in other words


def loops(w, deltas, sizes):
    total, w = float(sum(sizes)), [float(value) for value in w]
    for row, size in zip(deltas.tolist(), sizes.tolist(), strict=True):
        w = [value + size / total * change for value, change in zip(w, row, strict=True)]
    return w


def by_backward(task, data, w, lr):
    w = w.clone().requires_grad_()
    task.loss(task.forward(w, data.x), data.y).mean().backward()
    with torch.no_grad():
        w -= lr * w.grad
    return w


def scaffold_by_client(clients, w, lr, steps, rounds):
    visited, c_i = [torch.tensor(w)], [np.zeros(len(w)) for _ in clients.b]
    for _ in range(rounds):
        w, c, ends = visited[-1].numpy(), sum(c_i) / len(c_i), []
        for i in range(len(c_i)):
            v = w
            for _ in range(steps):
                v = v - lr * (clients.gradients(v)[i] - c_i[i] + c)
            c_i[i] = c_i[i] - c + (w - v) / lr / steps
            ends.append(v)
        visited.append(torch.tensor(sum(ends) / len(ends)))
    return visited


def rest_in_float32(A, b, p, lr, steps):
    A, b, p = (torch.tensor(values, dtype=torch.float32) for values in (A, b, p))
    Q = torch.stack(
        [
            torch.eye(3) - torch.matrix_power(torch.eye(3) - lr * A_i, int(k))
            for A_i, k in zip(A, steps, strict=True)
        ]
    )
    return torch.linalg.solve(torch.einsum("i,ijk->jk", p, Q), torch.einsum("i,ijk,ik->j", p, Q, b))


def mixing_by_pairs(adjacency):
    graph = nx.from_numpy_array(adjacency)
    weights = np.zeros(adjacency.shape)
    for i, j in graph.edges:
        weights[i, j] = weights[j, i] = 1 / (1 + max(graph.degree[i], graph.degree[j]))
    for i in graph:
        weights[i, i] = 1 - weights[i].sum()
    return torch.tensor(weights, dtype=torch.float32)


def overlap_by_number(w, delta, masks, n):
    w = w.clone()
    for j in range(len(w)):
        holders = masks[:, j] > 0
        if holders.any():
            w[j] += (n[holders] * delta[holders, j]).sum() / n[holders].sum()
    return w


def signs_in_numpy(delta, e):
    v = np.asarray(delta) + np.asarray(e)
    sent = np.abs(v).mean() * np.sign(v)
    return [sent.tolist(), v - sent]


def moved_with_adamw(layer):
    before = {name: p.detach().numpy().copy() for name, p in layer.named_parameters()}
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(torch.randn(8, 6)), torch.arange(8) % 4).backward()
        optimizer.step()
    return {
        name: None
        for name, p in layer.named_parameters()
        if (p.detach().numpy() != before[name]).any()
    }


def audit_in_numpy(aggregate):
    draw = np.random.default_rng(0)
    a, b, w = draw.normal(size=(2, 1, 4)), draw.normal(size=(2, 3, 1)), draw.normal(size=(3, 4))
    p = np.array([0.2, 0.8])
    try:
        weight = aggregate(*map(torch.tensor, (a, b, p, w))).numpy()
    except RuntimeError:
        return float("inf")
    return np.max(np.abs(weight - w - p[0] * b[0] @ a[0] - p[1] * b[1] @ a[1]))


OTHERWISE = {
    "loops over clients, a list": (checks.server_step, loops),
    "numpy for torch": (
        checks.server_step,
        lambda w, d, n: w.numpy() + np.average(d.numpy(), axis=0, weights=n.numpy()),
    ),
    "a tensor with a gradient": (
        checks.server_step,
        lambda w, d, n: step(w.requires_grad_(), d, n),
    ),
    "sparse": (checks.server_step, lambda w, d, n: step(w, d, n).to_sparse()),
    "float64": (checks.server_step, lambda w, d, n: step(w.double(), d.double(), n.double())),
    "a tensor of one number": (checks.bytes_per_round, lambda d, m: torch.tensor(8 * d * m)),
    "numpy's number": (checks.bytes_per_round, lambda d, m: np.int64(8) * d * m),
    "a fraction": (checks.clients_seen, lambda n, m, t: n * (1 - (1 - Fraction(m, n)) ** t)),
    "backward and a step in place": (checks.one_step, by_backward),
    "an optimizer's names": (
        checks.effective_classes,
        lambda c: 2 ** -sum(x / sum(c) * np.log2(x / sum(c)) for x in c if x),
    ),
    "torch for numpy": (
        checks.effective_classes,
        lambda c: torch.distributions.Categorical(torch.tensor(c)).entropy().exp(),
    ),
    "more than is asked for": (
        checks.three_classes,
        lambda: THREE | {"iid": 1, "dirichlet": np.float64(0.15)},
    ),
    "client by client, a list of tensors": (checks.scaffold_by_hand, scaffold_by_client),
    "in float32": (checks.resting_point, rest_in_float32),
    "a list and an array": (checks.sign_round, signs_in_numpy),
    "number by number": (checks.overlap_mean, overlap_by_number),
    "matrices counted one by one": (
        checks.adapter_bytes,
        lambda shapes, r: sum(2 * r * i + 2 * r * o for i, o in shapes),
    ),
    "in numpy": (checks.audit, audit_in_numpy),
    "a pair as an array": (checks.sign_round, lambda delta, e: np.stack(signs(delta, e))),
    "a pair as a tensor": (checks.sign_round, lambda delta, e: torch.stack(signs(delta, e))),
    "another optimizer, names as keys": (checks.moved, moved_with_adamw),
    "from megabits": (checks.seconds_to_send, lambda size, rate: size / 125_000 / rate),
    "part by part": (checks.bytes_held, lambda n, k, bits: n * (bits / 8) + 4 * k + 2 * (4 * k)),
    "sorted by Python": (
        checks.round_seconds,
        lambda s, needed, deadline: min([*sorted(s)[:needed]][-1], deadline),
    ),
    "a set": (checks.never_used, lambda t, n: (n - len(set(t[t.outcome == "used"].client))) / n),
    "one expression": (
        checks.stale_step,
        lambda w, s, d, t, alpha, a: w + alpha / (1 + t) ** a * (s + d - w),
    ),
    "task by task": (
        checks.forgetting,
        lambda t: np.mean([max(t[:-1, k]) - t[-1, k] for k in range(len(t) - 1)]),
    ),
    "edge by edge, in float32": (checks.metropolis, mixing_by_pairs),
    "a whole float": (checks.best_cut, lambda *case: float(cut_at(*case))),
}


@pytest.mark.parametrize(("check", "answer"), OTHERWISE.values(), ids=OTHERWISE)
def test_a_right_answer_may_be_written_otherwise(check, answer):
    verdict = check(answer)
    assert verdict.state == "right", str(verdict)


# -- Answers that are no answers

ODD = {
    "it gives the text '7', and": lambda *_: "7",
    "it gives the text 'seven', and": lambda *_: "seven",
    "it gives truth values, and": lambda *_: True,
    "it gives complex numbers, and": lambda *_: 7j,
    "it gives a result of type function, and": lambda *_: step,
    "it gives a result of type generator, and": lambda *_: (x for x in "ab"),
    "it gives a result of type set, and": lambda *_: {7},
    "it gives a result of type list that is not numbers in rows of equal length, and": (
        lambda *_: [[1], [2, 3], ["x"]]
    ),
    "your function returns nothing: did you forget `return`?": lambda *_: None,
    "it is called with": lambda a, b, c, d, e, f, g: 7,
}
SLOW = (checks.one_step, checks.resting_point, checks.scaffold_by_hand)
NUMBERS = [
    check
    for check in EXERCISES
    if check not in (checks.three_classes, checks.sign_round, checks.moved, *SLOW)
]


@pytest.mark.parametrize("check", EXERCISES, ids=lambda x: x.__name__)
def test_a_forgotten_return_is_no_error_of_the_learners(check):
    verdict = check(lambda *_: None)
    assert verdict.words == "Not yet: your function returns nothing: did you forget `return`?"


@pytest.mark.parametrize(("said", "answer"), ODD.items(), ids=ODD)
def test_what_is_no_number_is_told_by_its_type(said, answer):
    for check in NUMBERS:
        verdict = check(answer)
        assert verdict.state == "wrong"
        assert said in verdict.words, check.__name__
        assert "raises" not in verdict.words


def test_shapes_are_told():
    assert (
        "shape [1], and a number is asked for"
        in checks.bytes_per_round(lambda d, m: [8 * d * m]).words
    )
    assert (
        "shape [1, 2], and an array [2] is asked for"
        in checks.server_step(lambda *case: step(*case)[None]).words
    )
    assert (
        "a single number, and an array [2]"
        in checks.server_step(lambda *case: step(*case).sum()).words
    )
    assert (
        "two results are asked for, `return sent, e`"
        in checks.sign_round(lambda delta, e: delta).words
    )
    assert "two results are asked for" in checks.sign_round(lambda delta, e: np.float64(7)).words
    assert (
        "two results are asked for" in checks.sign_round(lambda delta, e: torch.tensor(7.0)).words
    )
    assert (
        "type str, and a list of names is asked for" in checks.moved(lambda layer: "0.lora_A").words
    )
    assert "3.0 s" not in checks.server_step(7).words
    assert "7 is no function: give the function itself" in checks.server_step(7).words


# -- Answers that are right for the wrong reason

IN_PLACE = {
    checks.server_step: lambda w, deltas, sizes: w.add_(sizes / sizes.sum() @ deltas),
    checks.one_step: lambda task, data, w, lr: w.sub_(lr * gradient(task, data, w)),
    checks.effective_classes: lambda counts: [np.exp(entropy(counts)), counts.sort()][0],
    checks.sign_round: lambda delta, e: (
        signs(delta, e)[0],
        e.add_(delta).sub_(signs(delta * 0, e)[0]),
    ),
    checks.overlap_mean: lambda w, delta, masks, n: w.copy_(overlap(w, delta, masks, n)),
    checks.round_seconds: lambda seconds, needed, deadline: [
        seconds.sort(),
        min(seconds[needed - 1], deadline),
    ][1],
    checks.metropolis: lambda links: [mixing(links), np.fill_diagonal(links, 1)][0],
    checks.never_used: lambda table, n: [1 - used(table) / n, table.insert(0, "seen", 1)][0],
    checks.best_cut: lambda *case: [cut_at(*case), case[0].append(0.0)][0],
    checks.scaffold_by_hand: lambda clients, w, *rest: [
        scaffold(clients, w, *rest),
        clients.b.fill(0),
    ][0],
}


@pytest.mark.parametrize(
    ("check", "answer"), IN_PLACE.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_arguments_stay_as_they_were(check, answer):
    assert "it changes its argument `" in check(answer).words


def a_run(task, data, w, lr):
    everyone = server.uniform(data.num_clients)
    study = Experiment(
        data,
        task,
        Local(lr, None, epochs=1),
        server.fedavg(),
        server.weighted_mean,
        everyone,
        rounds=1,
    )
    return run(study).w[0]


PACKAGE = {
    "fedlab.server.aggregate.weighted_mean": (
        checks.server_step,
        lambda w, d, n: w + server.weighted_mean(d, n),
    ),
    "fedlab.server.sampling.uniform": (checks.one_step, a_run),
    "fedlab.study.theory.Quadratics": (
        checks.resting_point,
        lambda A, b, p, lr, steps: theory.Quadratics(A, b, p).fedavg(lr, steps).fixed_point,
    ),
    "fedlab.study.theory.Quadratics.federated": (
        checks.scaffold_by_hand,
        lambda clients, *rest: clients.federated(),
    ),
    "fedlab.upload.quantizers.scaled_sign": (
        checks.sign_round,
        lambda delta, e: upload.error_feedback(upload.scaled_sign()),
    ),
}


@pytest.mark.parametrize(("name", "case"), PACKAGE.items(), ids=PACKAGE)
def test_to_call_the_package_is_not_to_write_it(name, case):
    check, answer = case
    assert check(answer).words == f"Not yet: it calls `{name}` of the package: write it yourself."


def by_name(aggregate):
    return 0.0 if "right" in aggregate.__name__ else 1.0


def by_trainable(layer):
    return [name for name, p in layer.named_parameters() if p.requires_grad]


AUDITED = {
    "right": by_name,
    "take absolute values before the largest": lambda f: errors(f).max(),
    "take absolute values": lambda f: -errors(f).min(),
    "give the largest absolute error": lambda f: errors(f).abs().mean(),
    "give the largest absolute": lambda f: errors(f).abs().sum(),
    "give the largest": lambda f: errors(f).norm(),
}


def errors(aggregate):
    a, b, w = torch.randn(3, 2, 5), torch.randn(3, 7, 2), torch.randn(7, 5)
    p = torch.tensor([0.6, 0.3, 0.1])
    try:
        return aggregate(a, b, p, w) - w - torch.einsum("m,mor,mri->oi", p, b, a)
    except RuntimeError:
        return torch.full((2, 2), torch.inf)


@pytest.mark.parametrize(("said", "answer"), AUDITED.items(), ids=AUDITED)
def test_an_audit_measures_the_largest_error_of_either_sign(said, answer):
    for _ in range(5):
        verdict = checks.audit(answer)
        assert verdict.state == "wrong"
        assert said in verdict.words or "the mean of A times the mean of B" in verdict.words, (
            "signs as chance has them"
        )


def test_what_trains_is_not_what_may_train():
    assert "`requires_grad` says what may train" in checks.moved(by_trainable).words


def test_no_answer_is_known_by_heart():
    values = {}

    def once(parameters, clients):
        values[parameters, clients] = 8 * parameters * clients
        return values[parameters, clients]

    assert checks.bytes_per_round(once).state == "right"
    assert checks.bytes_per_round(lambda d, m: values.get((d, m), 0)).state == "wrong"


@BOTH
@pytest.mark.parametrize("name", ["allclose", "isclose", "asarray"])
def test_a_function_of_numpy_that_an_answer_replaces_judges_nothing(monkeypatch, fork, name):
    may_fork(monkeypatch, fork)
    monkeypatch.setattr(
        np, name, getattr(np, name)
    )  # what a thread replaces is put back after the test

    def sending(size, rate):
        right = 8 * size / (rate * 1e6)
        setattr(np, name, lambda *_, **__: np.float64(right) if name == "asarray" else True)
        return 1

    assert "it gives 1, and 2 is asked for" in checks.seconds_to_send(sending).words


@BOTH
@pytest.mark.parametrize(
    ("check", "module", "name"),
    [(checks.server_step, torch, "equal"), (checks.metropolis, np, "array_equal")],
)
def test_changed_arguments_are_seen_though_an_answer_replaces_a_function(
    monkeypatch, fork, check, module, name
):
    may_fork(monkeypatch, fork)
    monkeypatch.setattr(module, name, getattr(module, name))

    def in_place(*arguments):
        setattr(module, name, lambda *_: True)
        return IN_PLACE[check](*arguments)

    assert "it changes its argument `" in check(in_place).words


# -- Answers that bring more than a line holds


class OddError(RuntimeError):
    def __str__(self):
        raise RuntimeError("x")


class EndingError(RuntimeError):
    def __str__(self):
        sys.exit()


class Endless:
    def __array__(self, *_, **__):
        while True:
            pass


class Leaving:
    def __array__(self, *_, **__):
        sys.exit(3)


class Long(float):
    def __repr__(self):
        return "long" * 10**5


def raising(error):
    raise error


def wide(size, rate, extra="long" * 10**5):
    raise ValueError("long" * 10**5)


LENGTHY = {
    "it gives the text 'xxx": (checks.seconds_to_send, lambda *_: "x" * 10**6),
    "and a number is asked for.": (checks.seconds_to_send, lambda *_: "x" * 10**6),
    "it gives a result of type xxx": (
        checks.seconds_to_send,
        lambda *_: type("x" * 10**6, (), {})(),
    ),
    "it raises ValueError: longlong": (checks.seconds_to_send, wide),
    "it raises xxx": (
        checks.seconds_to_send,
        lambda *_: raising(type("x" * 10**6, (Exception,), {})()),
    ),
    "it is called with 5 arguments and takes (size, rate, extra='longlong": (
        checks.scaffold_by_hand,
        wide,
    ),
    "is no function: give the function itself": (checks.seconds_to_send, [0] * 10**5),
    "it names longlong": (checks.moved, lambda layer: ["long" * 10**5]),
    "classes_per_client(longlong": (
        checks.three_classes,
        lambda: THREE | {"classes_per_client": Long(0.5)},
    ),
    "a result of type xxx": (checks.three_classes, lambda: type("x" * 10**6, (), {})()),
}


@pytest.mark.parametrize(("said", "case"), LENGTHY.items(), ids=LENGTHY)
def test_a_verdict_is_a_line(said, case):
    check, answer = case
    words = check(answer).words
    assert said in words
    assert len(words) < 900


@pytest.mark.parametrize("error", [OddError, EndingError])
def test_an_error_that_cannot_be_printed_is_told_by_its_kind(error):
    line = inspect.getsourcelines(raising)[1] + 1
    words = checks.seconds_to_send(lambda *_: raising(error())).words
    assert words == f"Not yet: it raises {error.__name__} (line {line}, in raising: `raise error`)."


@pytest.mark.slow
def test_reading_a_result_is_part_of_the_answer(monkeypatch):
    monkeypatch.setattr(isolate, "LIMIT", 0.3)
    line = inspect.getsourcelines(Endless)[1] + 3
    sentence = f"it does not end: 0.3 s were not enough (line {line}, in __array__: `pass`)"
    of_loop = sentence.replace(f"line {line}", f"line {line - 1}").replace("pass", "while True:")
    for check, answer in (
        (checks.seconds_to_send, lambda *_: Endless()),
        (checks.audit, lambda aggregate: Endless()),
        (checks.three_classes, lambda: THREE | {"dirichlet": Endless()}),
    ):
        words = check(answer).words
        assert sentence in words or of_loop in words
    assert "in <genexpr>" in checks.moved(endless_names).words
    assert "it raises SystemExit: 3 (line" in checks.seconds_to_send(lambda *_: Leaving()).words
    assert (
        "reading its result raises OverflowError: int too large"
        in checks.bytes_per_round(lambda *_: 10**400).words
    )


def endless_names(layer):
    return (name for name in itertools.cycle([""]))


# -- Answers that do not come back


def in_a_library(w, deltas, sizes):
    return helper(w)


def helper(w):
    return np.linalg.solve(np.zeros((2, 2)), np.ones(2)) if len(w) else w


def loop(*_):
    while True:
        pass


def deaf(*_):
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0.05)


def sleep(*_):
    time.sleep(1000)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(isolate, "LIMIT", 0.3)
    monkeypatch.setattr(isolate, "KILL", 5.0)


@BOTH
def test_the_learners_own_line_is_told(monkeypatch, fork):
    may_fork(monkeypatch, fork)
    line = inspect.getsourcelines(helper)[1] + 1
    words = checks.server_step(in_a_library).words
    assert words.startswith(
        f"Not yet: it raises LinAlgError: Singular matrix (line {line}, in helper: `return np."
    )


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("answer", [loop, sleep, deaf], ids=lambda x: x.__name__)
def test_an_endless_answer_is_given_up_at_its_line(monkeypatch, hasty, fork, answer):
    may_fork(monkeypatch, fork)
    verdict = checks.server_step(answer)
    assert verdict.state == "wrong"
    assert "it does not end: 0.3 s were not enough (line" in verdict.words
    assert f"in {answer.__name__}" in verdict.words


@BOTH
def test_nothing_ends_the_kernel(monkeypatch, fork):
    may_fork(monkeypatch, fork)
    assert "it raises SystemExit: 3 (line" in checks.server_step(lambda *_: sys.exit(3)).words
    assert "it raises KeyboardInterrupt (line" in checks.server_step(interrupt).words
    if fork:
        assert (
            "ends the whole program (exit code 5)"
            in checks.server_step(lambda *_: os._exit(5)).words
        )


@BOTH
def test_a_reader_may_interrupt_a_check(monkeypatch, fork):
    may_fork(monkeypatch, fork)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        checks.server_step(loop)
    assert not multiprocessing.active_children()


@BOTH
def test_a_check_after_an_answer_that_sleeps_on(monkeypatch, hasty, fork):
    """A sleeping thread leaves a pending exception, whose flag a fork inherits in Python 3.11."""
    may_fork(monkeypatch, fork=False)
    before = set(threading.enumerate())
    assert "it does not end" in checks.server_step(sleep).words
    (thread,) = set(threading.enumerate()) - before
    isolate.send_exception(
        thread.ident, SystemExit
    )  # the flag, as a thread that never runs again would leave it
    may_fork(monkeypatch, fork)
    assert "it raises KeyboardInterrupt (line" in checks.server_step(interrupt).words


def test_a_check_leaves_threads_as_they_were():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        checks.server_step(step)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_loop_in_c_is_ended_with_its_process(monkeypatch, hasty):
    may_fork(monkeypatch, fork=True)
    monkeypatch.setattr(isolate, "KILL", 1.0)
    words = checks.server_step(lambda *_: sum(itertools.repeat(1))).words
    assert "one call in it cannot be interrupted" in words


def copies(size, rate):
    os.fork()
    return 8 * size / (rate * 1e6)


def copies_and_goes(size, rate):
    if os.fork() == 0:
        time.sleep(40)
    os._exit(1)


def pooled(size, rate):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(float, [8 * size / (rate * 1e6)])[0]


def pooled_forever(size, rate):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print("pooled", flush=True)
        return pool.map(time.sleep, [1000, 1000])


@pytest.mark.slow
@BOTH
def test_a_copy_that_an_answer_makes_of_itself_judges_nothing(monkeypatch, capfd, fork):
    may_fork(monkeypatch, fork)
    assert checks.seconds_to_send(copies).state == "right"
    assert capfd.readouterr().err == ""


def test_an_end_is_told_though_a_copy_lives_on(monkeypatch):
    may_fork(monkeypatch, fork=True)
    began = time.monotonic()
    assert "ends the whole program (exit code 1)" in checks.seconds_to_send(copies_and_goes).words
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_an_answer_may_use_processes(monkeypatch, hasty):
    may_fork(monkeypatch, fork=True)
    before = psutil.Process().children(recursive=True)
    monkeypatch.setattr(isolate, "LIMIT", 5.0)
    assert str(checks.seconds_to_send(pooled)) == "\N{CHECK MARK} Right."
    monkeypatch.setattr(isolate, "LIMIT", 0.3)
    assert (
        "it does not end: 0.3 s were not enough (line"
        in checks.seconds_to_send(pooled_forever).words
    )
    assert gone(set(psutil.Process().children(recursive=True)) - set(before))


def gone(processes):
    """Return whether processes end soon; their new parent may be slow to clear them away."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda x: x.name
)
def test_nothing_is_left_of_a_check_when_the_kernel_ends(kill):
    if sys.platform != "linux":
        pytest.skip("only Linux copies a process safely")
    script = (
        "import multiprocessing, time\nfrom fedlab.lab.course import checks\n"
        + inspect.getsource(pooled_forever)
    )
    script += "checks.seconds_to_send(pooled_forever)"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as kernel:
        assert kernel.stdout.readline() == "pooled\n"
        started = psutil.Process(kernel.pid).children(recursive=True)
        assert len(started) == 3
        kernel.send_signal(kill)
        assert gone(started)


@pytest.mark.parametrize(
    "answer",
    [
        lambda *_: np.ones(10**9),
        lambda *_: torch.ones(10**9),
        lambda *_: list(range(10**9)),
        lambda *_: {number: str(number) for number in range(10**9)},
    ],
    ids=["numpy", "torch", "list", "dict"],
)
def test_an_answer_that_takes_all_memory_gets_an_error_at_its_line(monkeypatch, answer):
    may_fork(monkeypatch, fork=True)
    monkeypatch.setattr(isolate, "MEMORY", 50 << 20)
    words = checks.server_step(answer).words
    assert "it raises " in words
    assert "llocat" in words or "MemoryError" in words
    assert "(line " in words


@pytest.mark.slow
def test_memory_ends_at_the_limit_where_the_heap_has_holes(monkeypatch):
    """Small objects once fitted into the holes, at five failed system calls each.

    Such an answer even exceeded its limit of time.
    """
    may_fork(monkeypatch, fork=True)
    monkeypatch.setattr(isolate, "MEMORY", 50 << 20)
    pieces = [bytes(600) for _ in range(300_000)]
    pieces = pieces[::2]

    def chain(*_):
        link = ()
        for number in range(10**9):
            link = (str(number), link)
        return link

    assert "it raises MemoryError" in checks.server_step(chain).words
    assert len(pieces) == 150_000


def test_a_collection_leaves_the_objects_of_the_session_alone(monkeypatch):
    """Copying their memory took most of an answer's time in a large session."""
    may_fork(monkeypatch, fork=True)
    session = [[number] for number in range(100_000)]

    def counted(*_):
        raise ValueError(f"{gc.get_freeze_count()} objects")

    words = checks.server_step(counted).words
    assert int(re.search(r"(\d+) objects", words)[1]) > len(session)
    assert gc.get_freeze_count() < len(session), "the session itself collects as before"


@pytest.mark.slow
def test_an_answer_that_goes_on_after_a_memory_error_keeps_its_limit(monkeypatch):
    may_fork(monkeypatch, fork=True)
    monkeypatch.setattr(isolate, "MEMORY", 50 << 20)
    monkeypatch.setattr(isolate, "LIMIT", 1.0)
    taken = multiprocessing.Value("q", 0)

    def stubborn(*_):
        pieces, memory = [], psutil.Process().memory_info
        before = memory().data
        while True:
            with contextlib.suppress(MemoryError):
                while True:
                    pieces.append(np.zeros(10**6, np.uint8))
                    taken.value = memory().data - before

    for _ in range(3):
        assert checks.server_step(stubborn).state == "wrong"
        assert 0 < taken.value < 60 << 20


def test_in_a_process_of_its_own_gradients_and_prints_work(monkeypatch, capfd):
    may_fork(monkeypatch, fork=True)
    assert checks.one_step(by_backward).state == "right"
    assert checks.bytes_per_round(lambda d, m: [print("seen"), 8 * d * m][1]).state == "right"
    assert "seen" in capfd.readouterr().out


@pytest.mark.slow
def test_a_process_of_its_own_flushes_what_was_printed():
    """Prints to a file are buffered, and the process is killed when its result has come."""
    if sys.platform != "linux":
        pytest.skip("only Linux copies a process safely")
    done = subprocess.run(
        [sys.executable, "-c", PRINTING], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["seen"] * 5 + ["right"], done.stderr


PRINTING = """
from fedlab.lab.course import checks
print(checks.seconds_to_send(lambda size, rate: [print("seen"), 8 * size / (rate * 1e6)][1]).state)
"""


@BOTH
def test_the_first_lines_of_what_an_answer_prints_are_shown(monkeypatch, capfd, fork):
    may_fork(monkeypatch, fork)
    streams = sys.stdout, sys.stderr

    def loud(size, rate):
        print("first", size)
        print("long" * 10**6, file=sys.stderr)
        for number in range(10**4):
            print(number)
        sys.stdout.writelines(["more\n"])
        return 8 * size / (rate * 1e6)

    assert checks.seconds_to_send(loud).state == "right"
    assert (sys.stdout, sys.stderr) == streams
    printed = capfd.readouterr()
    assert printed.out.startswith("first 5000000\n0\n1\n")
    for text in printed:
        assert text.endswith(
            "…\nThe rest is not shown: a check shows 10,000 characters of what an answer prints.\n"
        )
        assert text.count("The rest is not shown") == 1
        assert len(text) < 10_200


def test_what_pytorch_has_not_implemented_is_not_a_stub():
    verdict = checks.server_step(lambda w, deltas, sizes: w + sizes.long().softmax(0) @ deltas)
    assert verdict.state == "wrong"
    assert "NotImplementedError" in verdict.words


def test_a_verdict_shows_itself():
    bundle = checks.server_step(lambda w, deltas, sizes: w / 0 * "<b>")._repr_mimebundle_()
    assert bundle[CHECK]["exercise"] == "server_step"
    assert bundle[CHECK]["state"] == "wrong"
    assert "<b>" not in bundle["text/html"]
    assert bundle["text/plain"].startswith("✗ Not yet: it raises TypeError")
