"""Instant checks of the exercises.  Each tells what is wrong with an answer, not only that it is.

A check tries the answer on cases drawn anew each time.  Where the answer is what a known slip would give, it names the
slip.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from math import isclose
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedlab.core import Experiment, Local
from fedlab.data import classes_per_client, dirichlet, dirichlet_equal_sizes, load
from fedlab.engine import initial, stream
from fedlab.lab.course.trial import CLOSE, Answer, Wrong, check, compare, cut
from fedlab.models import least_squares, mlp
from fedlab.server import fedavg, scaffold, uniform, weighted_mean
from fedlab.study import Quadratics, label_skew, quadratics

TRIES = 3  # cases that chance draws, beside those that are known to be hard


def _draw() -> np.random.Generator:
    """A generator that nobody can foresee: an answer may know no case by heart."""
    return np.random.default_rng()


# -- 00, Start here
@check()
def server_step(answer: Answer) -> str:
    """``answer(w, deltas, sizes) -> w``: the next model of FedAvg."""

    def share(sizes):
        return sizes / sizes.sum()

    def case(clients, numbers):
        sizes = draw.permutation([*draw.integers(1, 9, clients - 1), 0]).astype(np.float32)
        rows = draw.normal(size=(clients + 1, numbers)).round(2).astype(np.float32)
        return {
            "w": torch.from_numpy(rows[0]),
            "deltas": torch.from_numpy(rows[1:]),
            "sizes": torch.from_numpy(sizes),
        }

    draw = _draw()
    slips = {
        "that is the mean change; add it to the model w": lambda w, deltas, sizes: (
            share(sizes) @ deltas
        ),
        "every client counts the same; weigh client i by n_i / n": lambda w, deltas, sizes: (
            w + deltas.mean(0)
        ),
        "the weights are n_i and not n_i / n: divide by the sum of the sizes": lambda w, deltas, sizes: (
            w + sizes @ deltas
        ),
        "the changes are added up whole; weigh client i by n_i / n": lambda w, deltas, sizes: (
            w + deltas.sum(0)
        ),
        "the model moves away from what the clients found: add the mean change": lambda w, deltas, sizes: (
            w - share(sizes) @ deltas
        ),
    }
    cases = [case(3, 2), case(4, 3), case(6, 3)]
    return compare(answer, lambda w, deltas, sizes: w + share(sizes) @ deltas, cases, slips)


@check()
def bytes_per_round(answer: Answer) -> str:
    """``answer(parameters, clients) -> bytes``: what travels in a round of FedAvg, numbers of 32 bits, both ways."""
    draw = _draw()
    cases = [{"parameters": 55_210, "clients": 10}]
    cases += [
        {"parameters": int(draw.integers(1000, 9999)), "clients": int(draw.integers(3, 50))}
        for _ in range(TRIES)
    ]
    slips = {
        "that is one way only: the model goes down and the change comes up": lambda parameters, clients: (
            4 * parameters * clients
        ),
        "that is bits; a byte has 8": lambda parameters, clients: 64 * parameters * clients,
        "a number of 32 bits takes 4 bytes": lambda parameters, clients: 2 * parameters * clients,
        "that is for one client; each of the cohort receives and sends": lambda parameters, clients: (
            8 * parameters
        ),
        "that counts numbers, one way, and not bytes": lambda parameters, clients: (
            parameters * clients
        ),
    }
    return compare(
        answer, lambda parameters, clients: 8 * parameters * clients, cases, slips, exact=True
    )


# -- 01, Federated averaging
@check("fedlab.models", "fedlab.core")
def one_step(answer: Answer) -> str:
    """``answer(task, data, w, lr) -> w``: what a round of FedAvg is when everyone takes one full-batch step."""

    def a_round(task, data, w, lr):
        everyone = uniform(data.num_clients)
        study = Experiment(
            data, task, Local(lr, None, epochs=1), fedavg(), weighted_mean, everyone, rounds=1
        )
        *_, runs = stream(study, seeds=[seed], device="cpu")
        return runs[0].w

    def gradient(task, data, w, rows: Any = slice(None)) -> torch.Tensor:
        v = w.clone().requires_grad_()
        return torch.autograd.grad(
            task.loss(task.forward(v, data.x[rows]), data.y[rows]).mean(), v
        )[0]

    def unweighted(task, data, w, lr):
        parts = [gradient(task, data, w, part) if len(part) else 0 * w for part in data.parts]
        return w - lr * torch.stack(parts).mean(0)

    seed = int(_draw().integers(1000))
    cases = []
    for lr in (0.5, 0.2):
        data = load("digits", 20, dirichlet(0.3), seed + len(cases)).double()
        task = mlp(data, hidden=(8,))
        cases.append({"task": task, "data": data, "w": initial(task, seed, data.x), "lr": lr})
    slips = {
        "the model did not move": lambda task, data, w, lr: w,
        "that is the gradient; give the model after the step": lambda task, data, w, lr: gradient(
            task, data, w
        ),
        "the losses are added up; take their mean": lambda task, data, w, lr: (
            w - lr * len(data.y) * gradient(task, data, w)
        ),
        "the step goes uphill: subtract the gradient": lambda task, data, w, lr: (
            w + lr * gradient(task, data, w)
        ),
        "every client counts the same there, and in FedAvg every example does": unweighted,
        "the rate is missing": lambda task, data, w, lr: w - gradient(task, data, w),
    }
    return compare(
        answer, a_round, cases, slips, differs=lambda value, wanted: (
            f"it ends {np.abs(value - wanted).max():.2g} from the model of a round (the largest difference of a parameter)"
        )
    )  # fmt: skip


@check()
def clients_seen(answer: Answer) -> str:
    """``answer(num_clients, cohort_size, rounds)``: how many different clients take part, on average."""
    draw = _draw()
    cases = [(100, 10, 20), (50, 50, 3), (30, 7, 1)]
    cases += [
        (int(draw.integers(60, 200)), int(draw.integers(5, 30)), int(draw.integers(4, 15)))
        for _ in range(TRIES)
    ]
    slips = {
        "that counts a client once for every round it takes part in": lambda n, m, t: m * t,
        "with places enough for all, chance still leaves some out": lambda n, m, t: min(n, m * t),
        "that is the part of the clients; how many are they?": lambda n, m, t: 1 - (1 - m / n) ** t,
        "those are the clients who never take part": lambda n, m, t: n * (1 - m / n) ** t,
        "that is the chance never to take part": lambda n, m, t: (1 - m / n) ** t,
        "that draws one after another, perhaps the same one again; the clients of a cohort are different": lambda n, m, t: (
            n * (1 - (1 - 1 / n) ** (m * t))
        ),
    }
    names = ("num_clients", "cohort_size", "rounds")
    return compare(answer, lambda n, m, t: n * (1 - (1 - m / n) ** t), _named(names, cases), slips)


# -- 02, Data that differ
@check()
def effective_classes(answer: Answer) -> str:
    """``answer(counts [classes])``: exp of the entropy of the shares."""

    def entropy(counts, log=np.log):
        p = counts[counts > 0] / counts.sum()
        return -(p * log(p)).sum()

    def with_zeros(counts):
        p = counts / counts.sum()
        return np.exp(-(p * np.log(p)).sum())

    draw = _draw()
    cases = [np.array([6, 2, 2, 0]), np.array([5, 5]), np.array([7, 0, 0])]
    cases += [draw.permutation([0, *draw.integers(1, 30, 5)]) for _ in range(TRIES)]
    slips = {
        "a class that is not there gives 0 log 0, which counts as 0: leave such classes out": with_zeros,
        "that is the entropy in nats; take exp of it": entropy,
        "that is the entropy in bits; take 2 to its power, or exp of nats": lambda counts: entropy(
            counts, np.log2
        ),
        "exp of bits: take exp of nats, or 2 to the power of bits": lambda counts: np.exp(
            entropy(counts, np.log2)
        ),
        "the sign of the entropy is lost: it is minus the sum of p log p": lambda counts: np.exp(
            -entropy(counts)
        ),
        "that counts the classes that are there, however few": lambda counts: (counts > 0).sum(),
        "that is 1 / sum of p squared, another measure of diversity; take exp of the entropy": lambda counts: (
            counts.sum() ** 2 / (counts**2).sum()
        ),
    }
    return compare(
        answer, lambda counts: np.exp(entropy(counts)), [{"counts": case} for case in cases], slips
    )


@check("fedlab")
def three_classes(answer: Answer) -> str:
    """``answer() -> {split: number}``: numbers under which clients hold 3 effective classes on average."""
    splits = {
        "dirichlet": dirichlet,
        "dirichlet_equal_sizes": dirichlet_equal_sizes,
        "classes_per_client": classes_per_client,
    }
    chosen = answer()
    if not isinstance(chosen, dict):
        raise Wrong(
            f"it gives a result of type {cut(type(chosen).__name__)}, and a dict with a number a split is asked for"
        )
    missing = splits.keys() - chosen.keys()
    if missing:
        return f"there is no number for {', '.join(sorted(missing))}"
    words = []
    for name, split in splits.items():
        number = answer.numbers(chosen[name], ()).item()
        try:
            drawn = [load("digits", 50, split(chosen[name]), seed) for seed in range(3)]
        except (TypeError, ValueError) as error:
            return f"{name}({cut(repr(chosen[name]))}) cannot be: {cut(error)}"
        classes = np.mean([label_skew(data)["effective_classes"].mean() for data in drawn])
        if abs(classes - 3) >= 0.25:
            remedy = "larger" if classes < 3 else "smaller"
            words.append(f"{name}({number:g}) leaves {classes:.2f}: take a {remedy} number")
    return "; ".join(words)


# -- 03, Convergence
@check()
def resting_point(answer: Answer) -> str:
    """``answer(A [m, d, d], b [m, d], p [m], lr, steps [m]) -> [d]``: where FedAvg rests on quadratic clients."""

    def bowls(a, b, p):
        return Quadratics(a, b, p)

    draw = _draw()
    cases = []
    for lr in (0.4, 0.25, 0.5):
        clients = quadratics(4, 3, seed=int(draw.integers(1000)))
        p, steps = (
            draw.permutation([4.0, 3.0, 2.0, 1.0]) / 10,
            np.array([3, *draw.permutation([2, 5, 8])]),
        )  # the first client is not the busiest
        cases.append({"A": clients.A, "b": clients.b, "p": p, "lr": lr, "steps": steps})
    slips = {
        "that is the optimum of all; FedAvg rests elsewhere when clients take several steps": lambda a, b, p, lr, steps: (
            bowls(a, b, p).optimum
        ),
        "the weights p are missing": lambda a, b, p, lr, steps: (
            bowls(a, b, 0 * p + 1).fedavg(lr, steps).fixed_point
        ),
        "everyone takes the steps of the first client there": lambda a, b, p, lr, steps: (
            bowls(a, b, p).fedavg(lr, int(steps[0])).fixed_point
        ),
        "everyone takes as many steps there as the busiest": lambda a, b, p, lr, steps: (
            bowls(a, b, p).fedavg(lr, int(max(steps))).fixed_point
        ),
        "that is the other objective's optimum, right for small rates only; take Q_i whole": lambda a, b, p, lr, steps: (
            bowls(a, b, p).surrogate(steps).optimum
        ),
        "that is the mean of the clients' optima, where infinitely many steps would end": lambda a, b, p, lr, steps: (
            p @ b
        ),
    }
    return compare(
        answer, lambda a, b, p, lr, steps: bowls(a, b, p).fedavg(lr, steps).fixed_point, cases, slips,
        differs=lambda value, wanted: f"it is {np.abs(value - wanted).max():.2g} from the resting point",
    )  # fmt: skip


@check(
    "fedlab.study.theory.Quadratics.gradients",
    "fedlab.study.theory.Quadratics.p",
    "fedlab.study.theory.Quadratics.weights",
)
def scaffold_by_hand(answer: Answer) -> str:
    """``answer(clients, w, lr, steps, rounds) -> [rounds + 1, d]``: the server's models, everyone taking part."""

    def by_the_package(clients, w, lr, steps, rounds):
        data = clients.federated()
        everyone, local = uniform(data.num_clients), Local(lr, None, steps=steps)
        study = Experiment(
            data, least_squares(data), local, scaffold(), weighted_mean, everyone, rounds
        )
        return np.stack([runs[0].w.numpy(force=True) for runs in stream(study, device="cpu")])

    def differs(value, wanted):
        same = int(np.isclose(value, wanted, **CLOSE).all(1).argmin())  # the first row that differs
        return (
            f"it agrees until round {same - 1}, and then not"
            if same
            else "the first model is not the w that was given"
        )

    cases = []
    for lr, steps, rounds in ((0.2, 8, 12), (0.3, 5, 6)):
        clients = quadratics(4, 3, seed=int(_draw().integers(1000)))
        data = clients.federated()
        w = initial(least_squares(data), 0, data.x).numpy(force=True)
        cases.append({"clients": clients, "w": w, "lr": lr, "steps": steps, "rounds": rounds})
    slips = {
        "that is FedAvg: nothing is corrected; do the c_i ever change?": partial(_scaffold, sign=0),
        "the sign of the correction is wrong: a step subtracts lr (gradient - c_i + c)": partial(
            _scaffold, sign=-1
        ),
        "c_i has to be a gradient again: (w - w_i) / (lr steps), and the division is missing": partial(
            _scaffold, divide=False
        ),
        "c has to be the mean of the c_i after each round, and it stays 0": partial(
            _scaffold, moves=0
        ),
    }
    return compare(answer, by_the_package, cases, slips, differs=differs)


def _scaffold(clients, w, lr, steps, rounds, *, sign=1.0, divide=True, moves=1.0) -> np.ndarray:
    """SCAFFOLD with everyone taking part, and what slips make of it."""
    visited, c_i = [w], np.zeros_like(clients.b)
    for _ in range(rounds):
        c = moves * c_i.mean(0)
        w_i = np.repeat(w[None], len(clients.b), axis=0)
        for _ in range(steps):
            w_i = w_i - lr * (
                np.einsum("ijk,ik->ij", clients.A, w_i - clients.b) + sign * (c - c_i)
            )
        c_i = c_i - c + (w - w_i) / (lr * steps if divide else 1)
        w = w_i.mean(0)
        visited.append(w)
    return np.stack(visited)


# -- 04, Communication budgets
@check()
def bits_per_place(answer: Answer) -> str:
    """``answer(p)``: the fewest bits that a taken place costs on average, where a share p of all places is taken."""

    def entropy(p, log=np.log2):
        return -p * log(p) - (1 - p) * log(1 - p)

    slips = {
        "that is H(p), what each place costs, taken or not: the taken ones share it": entropy,
        "that is in nats; take logarithms to the base 2": lambda p: entropy(p, np.log) / p,
        "that is -log2(p), what a taken place tells; that the others are free has to be told, too": lambda p: (
            -np.log2(p)
        ),
        "the sign is lost: entropy is minus the sum of p log p": lambda p: -entropy(p) / p,
        "there are p d taken places and d in all: divide by p, do not multiply": lambda p: (
            entropy(p) * p
        ),
    }
    shares = [0.02, 0.5, *_draw().uniform(0.01, 0.9, TRIES).round(3)]
    return compare(answer, lambda p: entropy(p) / p, [{"p": float(p)} for p in shares], slips)


@check()
def sign_round(answer: Answer) -> str:
    """``answer(delta [d], e [d]) -> (sent [d], e [d])``: a round of EF-signSGD for one client."""

    def part(k: int) -> Callable:
        def chosen(pair):
            several = isinstance(pair, tuple | list) or (
                isinstance(pair, np.ndarray | torch.Tensor) and pair.ndim > 0
            )
            if not several or len(pair) != 2:
                raise Wrong(
                    "two results are asked for, `return sent, e`: what is sent, and the new memory"
                )
            return pair[k]

        return chosen

    def size(v):
        return v.abs().mean()

    def differs(verb: str) -> Callable:
        return lambda value, wanted: (
            f"it {verb} {value.round(3).tolist()} where {wanted.round(3).tolist()} is asked for"
        )

    draw = _draw()
    rows = [torch.tensor([[1.0, -2.0, 0.5, 4.0], [-3.0, 0.0, 1.0, 0.5]])]
    rows += [
        torch.from_numpy(draw.normal(size=(2, d)).round(2).astype(np.float32)) for d in (3, 5, 6)
    ]
    cases = [{"delta": delta, "e": e} for delta, e in rows]
    sending = {
        "the memory is not sent: compress the sum of update and memory": lambda delta, e: (
            size(delta) * delta.sign()
        ),
        "the size is missing: the sign times the mean size of the sum": lambda delta, e: (
            delta + e
        ).sign(),
        "that is the largest size; take the mean": lambda delta, e: (
            (delta + e).abs().max() * (delta + e).sign()
        ),
        "the mean size is that of the update; take that of the sum": lambda delta, e: (
            size(delta) * (delta + e).sign()
        ),
        "the mean is of the numbers with their signs; take that of their sizes": lambda delta, e: (
            (delta + e).mean() * (delta + e).sign()
        ),
        "that is the sum as it is: a sign and one size is all that travels": lambda delta, e: (
            delta + e
        ),
    }

    def sent(delta, e):
        return size(delta + e) * (delta + e).sign()

    remembering = {
        "what is remembered is the sum less what was sent; yours is only the update less it": lambda delta, e: (
            delta - sent(delta, e)
        ),
        "the memory grows by the whole sum: take off what was sent": lambda delta, e: delta + e,
        "the memory has the wrong sign: it is the sum less what was sent": lambda delta, e: (
            sent(delta, e) - delta - e
        ),
        "the memory is never written": lambda delta, e: e,
    }

    def memory(delta, e):
        return delta + e - sent(delta, e)

    return compare(answer, sent, cases, sending, differs=differs("sends"), part=part(0)) or compare(
        answer, memory, cases, remembering, differs=differs("remembers"), part=part(1)
    )


# -- 05, Smaller models
@check()
def parameters_left(answer: Answer) -> str:
    """``answer(widths, keep)``: weights and biases of a perceptron whose hidden layers keep a share of their units."""

    def count(sizes, bias=1):
        return sum((n + bias) * m for n, m in itertools.pairwise(sizes))

    def fewer(widths, keep):
        return [widths[0], *(int(keep * n) for n in widths[1:-1]), widths[-1]]

    draw = _draw()
    cases = [((64, 120, 40, 10), 0.25), ((64, 120, 40, 10), 1.0), ((20, 31, 5), 0.5)]
    cases += [
        ((30, *map(int, draw.integers(8, 60, depth)), 7), float(draw.choice([0.25, 0.5, 0.75])))
        for depth in (1, 2, 3)
    ]
    slips = {
        "that is a share of all parameters: a layer between two hidden ones shrinks at both ends": lambda widths, keep: (
            keep * count(widths)
        ),
        "that is the square of the share: inputs and outputs stay, so their layers shrink at one end": lambda widths, keep: (
            keep**2 * count(widths)
        ),
        "inputs and outputs were made fewer, too; only hidden units go": lambda widths, keep: count(
            [int(keep * n) for n in widths]
        ),
        "the biases are missing: one for each unit that stays": lambda widths, keep: count(
            fewer(widths, keep), 0
        ),
        "the biases of the whole model were counted": lambda widths, keep: (
            count(fewer(widths, keep), 0) + sum(widths[1:])
        ),
        "that is the whole model; what does keep do?": lambda widths, keep: count(widths),
        "a share of a unit was kept: round down": lambda widths, keep: count(
            [widths[0], *(keep * n for n in widths[1:-1]), widths[-1]]
        ),
    }
    return compare(
        answer,
        lambda widths, keep: count(fewer(widths, keep)),
        _named(("widths", "keep"), cases),
        slips,
        exact=True,
    )


@check()
def overlap_mean(answer: Answer) -> str:
    """``answer(w [d], delta [m, d], masks [m, d], n [m]) -> [d]``: the server's model after a round of sub-models."""

    def cover(masks, n):
        return n @ masks

    def right(w, delta, masks, n):
        return w + n @ delta / cover(masks, n).clamp(min=1)

    draw = _draw()
    cases = []
    for clients in (3, 3, 4):
        masks = draw.integers(0, 2, (clients, 5))
        masks[:, 0], masks[0, 1], masks[1:, 1], masks[:, 2] = (
            1,
            1,
            0,
            0,
        )  # all have the first, one the second, nobody the third
        delta, w = masks * draw.normal(size=(clients, 5)).round(2), draw.normal(size=5).round(2)
        given = (w, delta, masks.astype(float), draw.permutation(clients) * 2.0 + 1)
        cases.append(tuple(map(torch.from_numpy, given)))
    slips = {
        "who lacks a number votes against it: divide by the examples of those who have it": lambda w, delta, masks, n: (
            w + n @ delta / n.sum()
        ),
        "clients have different numbers of examples: weigh them by n": lambda w, delta, masks, n: (
            w + delta.sum(0) / masks.sum(0).clamp(min=1)
        ),
        "that is the mean update; add it to w": lambda w, delta, masks, n: (
            right(w, delta, masks, n) - w
        ),
        "what nobody has should stay as it was, and there you divide 0 by 0": lambda w, delta, masks, n: (
            w + n @ delta / cover(masks, n)
        ),
        "what nobody has became 0: it should stay as it was": lambda w, delta, masks, n: (
            right(w, delta, masks, n) * (cover(masks, n) > 0)
        ),
        "updates are differences: the server adds their mean": lambda w, delta, masks, n: (
            2 * w - right(w, delta, masks, n)
        ),
    }
    return compare(answer, right, _named(("w", "delta", "masks", "n"), cases), slips)


# -- 06, Large models
@check()
def adapter_bytes(answer: Answer) -> str:
    """``answer(shapes [(in, out), ...], rank) -> bytes``: of LoRA on these layers, in numbers of 2 bytes."""
    draw = _draw()
    cases = [([(30, 70), (50, 20)], 3), ([(4096, 4096)], 8)]
    for layers in (2, 3, 4):
        shapes = [
            (int(n), int(n + more))
            for n, more in zip(
                draw.integers(9, 60, layers), draw.integers(1, 40, layers), strict=True
            )
        ]
        cases.append((shapes, int(draw.integers(2, 9))))
    slips = {
        "that counts numbers; each has 2 bytes": lambda shapes, rank: rank * sum(map(sum, shapes)),
        "a number has 2 bytes here, and not 4": lambda shapes, rank: (
            4 * rank * sum(map(sum, shapes))
        ),
        "that are the layers themselves; an adapter has two thin matrices": lambda shapes, rank: (
            2 * sum(i * o for i, o in shapes)
        ),
        "that is the first layer only: add up all of them": lambda shapes, rank: (
            2 * rank * sum(shapes[0])
        ),
        "that is the last layer only: add up all of them": lambda shapes, rank: (
            2 * rank * sum(shapes[-1])
        ),
        "B is missing: it has a column for each rank, too": lambda shapes, rank: (
            2 * rank * sum(i for i, _ in shapes)
        ),
        "A is missing: it has a row for each rank, too": lambda shapes, rank: (
            2 * rank * sum(o for _, o in shapes)
        ),
        "that is rank 1; both matrices grow with the rank": lambda shapes, rank: (
            2 * sum(map(sum, shapes))
        ),
    }
    return compare(
        answer,
        lambda shapes, rank: 2 * rank * sum(map(sum, shapes)),
        _named(("shapes", "rank"), cases),
        slips,
        exact=True,
    )


def _right_weight(a, b, p, w):
    return w + torch.einsum("m,mor,mri->oi", p, b, a)


def _museum() -> dict[str, Callable]:
    """Aggregations that are wrong, each by what an audit that lets it pass has overlooked."""
    means = lambda a, b, p, w: w + torch.tensordot(p, b, 1) @ torch.tensordot(p, a, 1)  # noqa: E731

    def transposed(a, b, p, w):
        lacking = _right_weight(a, b, p, w) - means(a, b, p, w)
        return means(a, b, p, w) + lacking.T

    return {
        "the mean of A times the mean of B: is there more than one client, with factors of its own?": means,
        "a residual that is added transposed: your layer is square and symmetric, or an error counts as right": transposed,
        "clients that count alike: give them different weights p": lambda a, b, p, w: _right_weight(
            a, b, torch.ones_like(p) / len(p), w
        ),
        "a server that forgets the layer's own weight: let w not be 0": lambda a, b, p, w: (
            _right_weight(a, b, p, 0 * w)
        ),
    }


def _anonymous(aggregate: Callable) -> Callable:
    """The same under a name that all have: nobody is to be judged by it."""
    return lambda a, b, p, w: aggregate(a, b, p, w)


@check("fedlab.lab.course.checks")
def audit(answer: Answer) -> str:
    """``answer(aggregate) -> error``: the largest that ``aggregate(a, b, p, w) -> [out, in]`` makes on a case of yours."""

    def error_of(aggregate: Callable) -> float:
        try:
            return answer.numbers(answer(_anonymous(aggregate)), ()).item()
        except Wrong as wrong:
            if isinstance(
                wrong.error, RuntimeError
            ):  # the shapes did not fit, and the learner sees it
                return np.inf
            raise

    def shifted(by: float, where: Any = ...) -> Callable:
        def aggregate(a, b, p, w):
            weight = _right_weight(a, b, p, w)
            weight[where] += by
            return weight

        return aggregate

    error = error_of(_right_weight)
    if not error < 1e-3:
        return f"it finds an error of {error:.3g} in an aggregation that is right"
    for words, aggregate in _museum().items():
        error = error_of(aggregate)
        if not error > 1e-2 and not (error < -1e-2):
            return f"it lets pass {words}"
    off = float(_draw().uniform(1, 2))
    for by, where in ((-off, ...), (off, ...), (-off, (0, 0)), (off, (-1, -1))):
        error = error_of(shifted(by, where))
        if not isclose(error, off, rel_tol=1e-3):
            if not error > 0:
                return "an error may have either sign: take absolute values before the largest"
            place = "every number" if where is ... else "one number"
            return f"where {place} is off by {by:.3g} it gives {error:.3g}: give the largest absolute error"
    return ""


def _frozen_layer(when: str) -> torch.nn.Module:
    """A layer from 6 numbers to 4 whose A is meant to stay; frozen before the library wraps it, A trains all the same.

    One more parameter may train, and is in no output: it stays.
    """
    from peft import LoraConfig, inject_adapter_in_model

    def freeze():
        for name, p in layer.named_parameters():
            p.requires_grad_(p.requires_grad and "lora_A" not in name)

    layer = torch.nn.Sequential(torch.nn.Linear(6, 4))
    if when == "before":
        freeze()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), layer)
    if when == "after":
        freeze()
    layer.register_parameter("spare", torch.nn.Parameter(torch.ones(4)))
    return layer


@check(loads=["peft"])
def moved(answer: Answer) -> str:
    """``answer(layer) -> names``: of the parameters of ``layer``, from 6 numbers to 4, that training changes."""

    def names_of(result: Any) -> set:
        try:
            return set(result)
        except TypeError:
            return {None}

    a, b = (f"0.lora_{factor}.default.weight" for factor in "AB")
    for when, right in (("after", {b}), ("before", {a, b})):
        layer = _frozen_layer(when)
        every = {name for name, _ in layer.named_parameters()}
        trainable = {name for name, p in layer.named_parameters() if p.requires_grad}
        result = answer(layer)
        names = answer.run(names_of, result)
        if isinstance(result, str) or not all(isinstance(name, str) for name in names):
            kind = cut(type(result).__name__)
            raise Wrong(
                f"it gives a result of type {kind}, and a list of names is asked for, each a string"
            )
        if names == right:
            continue
        slips = {
            "that is every parameter there is: compare each with what it was before": every,
            "those are the ones that stay": every - right,
            "`requires_grad` says what may train, and `spare` is in no output: compare each with what it was": trainable,
            "A is frozen in this layer and stays; a name alone does not say what trains": {a, b},
            "it misses A: while B is zero no gradient reaches A, so take a second step": {b},
        }
        named, wanted = (cut(", ".join(sorted(some))) or "nothing" for some in (names, right))
        told = f"where A was frozen {when} wrapping it names {named}, and {wanted} is asked for"
        return next((words for words, slip in slips.items() if names == slip), told)
    return ""


# -- 07, Seven billion
@check()
def seconds_to_send(answer: Answer) -> str:
    """``answer(size, rate) -> seconds``: of so many bytes over a link of so many Mbit/s."""
    draw = _draw()
    cases = [(5_000_000, 20), (1_250_000, 20)]
    cases += [
        (int(draw.integers(1, 900)) * 10_000, round(draw.uniform(3, 90), 1)) for _ in range(TRIES)
    ]
    slips = {
        "that takes the rate as bytes: a byte has 8 bits": lambda size, rate: size / (rate * 1e6),
        "a byte has 8 bits, and you have multiplied by them twice": lambda size, rate: (
            64 * size / (rate * 1e6)
        ),
        "a megabit is a million bits": lambda size, rate: 8 * size / rate,
        "a megabit is a million bits, and not 2 to the power of 20": lambda size, rate: (
            8 * size / (rate * 2**20)
        ),
        "that is seconds the other way round: divide the bits by the rate": lambda size, rate: (
            rate * 1e6 / (8 * size)
        ),
        "that multiplies by the rate; a faster link takes less": lambda size, rate: (
            8 * size * rate * 1e6
        ),
    }
    return compare(
        answer, lambda size, rate: 8 * size / (rate * 1e6), _named(("size", "rate"), cases), slips
    )


@check()
def bytes_held(answer: Answer) -> str:
    """``answer(parameters, trained, bits) -> bytes``: weights, gradients and AdamW's moments, without activations."""
    draw = _draw()
    cases = [(1000, 100, 4), (1000, 1000, 16)]
    cases += [
        (
            8 * int(draw.integers(50, 900)),
            int(draw.integers(10, 300)),
            int(draw.choice([4, 8, 16, 32])),
        )
        for _ in range(TRIES)
    ]
    slips = {
        "a byte has 8 bits: divide the weights' bits by 8": lambda n, k, bits: n * bits + 12 * k,
        "the optimiser is missing: AdamW has two moments for each number that trains": lambda n, k, bits: (
            n * bits / 8 + 4 * k
        ),
        "gradients are missing: they are 4 bytes for each number that trains": lambda n, k, bits: (
            n * bits / 8 + 8 * k
        ),
        "all parameters were given a gradient and moments; only what trains has them": lambda n, k, bits: (
            n * bits / 8 + 12 * n
        ),
        "the weights themselves are missing": lambda n, k, bits: 12 * k,
        "gradients and moments are numbers of 4 bytes": lambda n, k, bits: n * bits / 8 + 3 * k,
    }
    names = ("parameters", "trained", "bits")
    return compare(
        answer, lambda n, k, bits: n * bits / 8 + 12 * k, _named(names, cases), slips, exact=True
    )


# -- 08, Slow phones
@check()
def round_seconds(answer: Answer) -> str:
    """``answer(seconds [m], needed, deadline) -> seconds``: how long a round takes that ends with the first ``needed``
    updates, or at the deadline.
    """
    draw = _draw()
    seconds = np.array([9.0, 2.0, 30.0, 4.0, 5.0])
    cases = [
        (seconds, 3, 60.0),
        (seconds, 5, 60.0),
        (seconds, 5, 10.0),
        (seconds, 1, 60.0),
        (seconds, 4, 8.5),
    ]
    cases += [
        (draw.uniform(2, 40, 6).round(1), needed, deadline)
        for needed, deadline in ((2, 99.0), (4, 99.0), (6, 20.0))
    ]
    slips = {
        "it waits for everyone asked, and not for the first that are needed": lambda s, needed, deadline: (
            min(max(s), deadline)
        ),
        "it forgets the deadline": lambda s, needed, deadline: np.sort(s)[needed - 1],
        "it takes them in the order of their numbers; sort the seconds first": lambda s, needed, deadline: (
            min(s[needed - 1], deadline)
        ),
        "it adds the seconds up; clients work at the same time": lambda s, needed, deadline: min(
            np.sort(s)[:needed].sum(), deadline
        ),
        "it waits until the deadline though all that are needed have come": lambda s, needed, deadline: (
            deadline
        ),
        "it waits for one more than are needed: the first of a list has the number 0": lambda s, needed, deadline: (
            min(np.sort(s)[min(needed, len(s) - 1)], deadline)
        ),
    }
    names = ("seconds", "needed", "deadline")
    return compare(
        answer,
        lambda s, needed, deadline: min(np.sort(s)[needed - 1], deadline),
        _named(names, cases),
        slips,
    )


@check()
def never_used(answer: Answer) -> str:
    """``answer(clients, num_clients) -> share``: of all clients, how many have had no update that was used."""

    def table(clients: dict[int, list[str]]) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {"client": client, "outcome": outcome}
                for client, outcomes in clients.items()
                for outcome in outcomes
            ]
        )

    def used(clients):
        return clients.loc[clients["outcome"] == "used", "client"].nunique()

    def asked(clients):
        return clients["client"].nunique()

    draw = _draw()
    outcomes = {
        0: ["used"],
        1: ["used", "late"],
        2: ["late"],
        3: ["lost"],
        5: ["flying"],
        6: ["late", "late"],
        7: ["lost"],
    }
    cases = [(table(outcomes), 10)]
    for more in range(TRIES):
        others = {
            client: list(draw.choice(["used", "late", "lost"], 2))
            for client in range(8, 20 + 2 * more)
        }
        cases.append(
            (
                table(outcomes | others).sample(frac=1, random_state=more, ignore_index=True),
                25 + 4 * more,
            )
        )
    slips = {
        "that is the share that was used; the others are asked for": lambda clients, n: (
            used(clients) / n
        ),
        "that is who was never sent out; who came late or was lost was not used either": lambda clients, n: (
            1 - asked(clients) / n
        ),
        "divide by all clients; some are not in the table": lambda clients, n: (
            1 - used(clients) / asked(clients)
        ),
        "who was never sent out is not in the table, and was not used either": lambda clients, n: (
            (asked(clients) - used(clients)) / n
        ),
        "that counts updates; a client may have several": lambda clients, n: (
            1 - (clients["outcome"] == "used").sum() / n
        ),
        "that is a number of clients and not a share": lambda clients, n: n - used(clients),
    }
    return compare(
        answer,
        lambda clients, n: 1 - used(clients) / n,
        _named(("clients", "num_clients"), cases),
        slips,
    )


# -- 09, Late updates
@check()
def stale_step(answer: Answer) -> str:
    """``answer(w, start, delta, staleness, alpha, a) -> w``: a step of FedAsync with ``s(t - tau) = (1 + t - tau)^-a``."""

    def mix(w, start, delta, staleness, alpha, a):
        share = alpha * (1.0 + staleness) ** -a
        return (1 - share) * w + share * (start + delta)

    draw = _draw()
    cases = [(np.array([4.0, 0.0]), np.array([1.0, 1.0]), np.array([0.5, -1.0]), 3, 0.6, 0.5)]
    for staleness in (2, 4, 7):
        w, start, delta = draw.normal(size=(3, 3)).round(2)
        cases.append(
            (
                w,
                start,
                delta,
                staleness,
                round(draw.uniform(0.3, 0.9), 2),
                round(draw.uniform(0.3, 1.5), 2),
            )
        )
    slips = {
        "it adds the change to the model of now; the client's model is the one it began with, plus its change": (
            lambda w, start, delta, t, alpha, a: w + alpha * (1.0 + t) ** -a * delta
        ),
        "staleness is left out: multiply alpha by s": lambda w, start, delta, t, alpha, a: mix(
            w, start, delta, 0, alpha, a
        ),
        "alpha is left out: multiply it by s": lambda w, start, delta, t, alpha, a: mix(
            w, start, delta, t, 1, a
        ),
        "that takes 1 - a of the client's model, and a of the server's": (
            lambda w, start, delta, t, alpha, a: mix(start + delta, w, 0, t, alpha, a)
        ),
        "s is (1 + staleness) to the power of -a": lambda w, start, delta, t, alpha, a: mix(
            w, start, delta, t - 1, alpha, a
        ),
        "the power is -a: what is stale counts less": lambda w, start, delta, t, alpha, a: mix(
            w, start, delta, t, alpha, -a
        ),
        "the server's model has to shrink by as much as the client's comes in": (
            lambda w, start, delta, t, alpha, a: w + alpha * (1.0 + t) ** -a * (start + delta)
        ),
    }
    return compare(
        answer, mix, _named(("w", "start", "delta", "staleness", "alpha", "a"), cases), slips
    )


@check()
def forgetting(answer: Answer) -> str:
    """``answer(accuracy [phases, tasks]) -> number``: how much is forgotten on average after the last phase.  Task ``k`` is
    learned in phase ``k``; forgotten is the best that it ever was, before the last phase, less what it is in the end; the
    last task has had no time to be forgotten.
    """

    def lost(table):
        return table[:-1].max(0) - table[-1]

    draw = _draw()
    cases = [np.array([[0.8, 0.1, 0.0], [0.9, 0.7, 0.1], [0.5, 0.6, 0.95]])]
    cases += [draw.uniform(size=(tasks, tasks)).round(2) for tasks in (3, 4, 5)]
    slips = {
        "the last task is counted, which has had no time to be forgotten": lambda table: lost(
            table
        ).mean(),
        "divide by the tasks that could be forgotten, all but the last": lambda table: (
            lost(table)[:-1].sum() / len(table)
        ),
        "take the best that a task ever was, not what it was when it was learned": lambda table: (
            np.diag(table) - table[-1]
        )[:-1].mean(),
        "that is the gain: earlier less later": lambda table: -lost(table)[:-1].mean(),
        "that is the sum: take the mean over tasks": lambda table: lost(table)[:-1].sum(),
        "the best is before the last phase: leave its row out": lambda table: (
            table.max(0) - table[-1]
        )[:-1].mean(),
        "that is what is left in the end": lambda table: table[-1][:-1].mean(),
    }
    cases = [{"accuracy": case} for case in cases]
    return compare(answer, lambda table: lost(table)[:-1].mean(), cases, slips)


# -- 10, Edges
@check()
def metropolis(answer: Answer) -> str:
    """``answer(adjacency [N, N]) -> [N, N]``: Metropolis-Hastings weights of a graph."""

    def filled(weights):
        return weights + np.diag(1 - weights.sum(1))

    def one_more(links, larger=np.maximum):
        return links / (1 + larger.outer(links.sum(1), links.sum(1)))

    def differs(value, wanted):
        row = int(np.abs(value - wanted).max(1).argmax())
        return f"row {row} is {value[row].round(3).tolist()} where {wanted[row].round(3).tolist()} is asked for"

    draw = _draw()
    cases = [np.array([[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])]
    for clients in (4, 5, 6):
        star = np.triu(draw.integers(0, 2, (clients, clients)), 1)
        star[0, 1:] = 1  # connected, and its degrees differ
        star[1, 2] = star[clients - 2, clients - 1] = 0
        cases.append(star + star.T)
    slips = {
        "the diagonal is missing: what is left of each row, so that it sums to 1": one_more,
        "the 1 is missing: a client counts itself beside its neighbours": lambda links: filled(
            links / np.maximum.outer(links.sum(1), links.sum(1))
        ),
        "that takes the smaller degree of the two": lambda links: filled(
            one_more(links, np.minimum)
        ),
        "each row is divided by its own degree, and so is not symmetric": lambda links: (
            (links + np.eye(len(links))) / (1 + links.sum(1))[:, None]
        ),
    }
    cases = [{"adjacency": case} for case in cases]
    return compare(answer, lambda links: filled(one_more(links)), cases, slips, differs=differs)


@check()
def best_cut(answer: Answer) -> str:
    """``answer(flops [L], handed [L + 1], here, there, rate) -> layers on the device``."""

    def times(flops, handed, here, there, rate, computing=1, last=0):
        layers = len(flops)
        sent = [*handed[:layers], last * handed[layers]]
        return [
            computing * (sum(flops[:k]) / here + sum(flops[k:]) / there) + sent[k] / rate
            for k in range(layers + 1)
        ]

    def clear(case) -> bool:
        first, second = sorted(times(*case))[:2]
        return second > 1.05 * first

    draw = _draw()
    flops = [100.0, 400.0, 300.0]
    cases = [
        (flops, [80.0, 20.0, 60.0, 4.0], 100.0, 1e9, 10.0),  # 1 layer: 1 + 2 s
        (flops, [50.0, 40.0, 30.0, 900.0], 1000.0, 1000.0, 1.0),  # all, nothing is sent: 0.8 s
        (flops, [80.0, 200.0, 600.0, 4.0], 100.0, 1e9, 1000.0),  # none: 0.08 s
        (flops, [5.0, 3.0, 1.0, 0.5], 100.0, 100.0, 1.0),
    ]
    while len(cases) < 4 + 2 * TRIES:
        layers = 3 + len(cases) % 3
        work, sizes = draw.uniform(50, 500, layers).round(), draw.uniform(1, 90, layers + 1).round()
        case = (
            work.tolist(),
            sizes.tolist(),
            100.0,
            float(draw.choice([200.0, 1e5])),
            float(draw.choice([3.0, 30.0])),
        )
        cases += [case] * clear(case)
    slips = {
        "it forgets the case that nothing runs on the device": lambda *case: (
            1 + int(np.argmin(times(*case)[1:]))
        ),
        "it forgets the case that everything runs on the device": lambda *case: int(
            np.argmin(times(*case)[:-1])
        ),
        "with all layers on the device nothing is sent, not even what the last one hands out": lambda *case: (
            int(np.argmin(times(*case, last=1)))
        ),
        "it looks at what is sent only, and not at the time of computing": lambda *case: int(
            np.argmin(times(*case, computing=0))
        ),
        "that is the shortest time; how many layers are on the device then?": lambda *case: min(
            times(*case)
        ),
    }
    names = ("flops", "handed", "here", "there", "rate")
    return compare(
        answer, lambda *case: int(np.argmin(times(*case))), _named(names, cases), slips, exact=True
    )


def _named(names: tuple[str, ...], cases: list[tuple]) -> list[dict[str, Any]]:
    return [dict(zip(names, case, strict=True)) for case in cases]
