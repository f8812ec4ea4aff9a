"""Instant checks of the exercises.  Each tells what is wrong with an answer, not only that it is.

A check tries the answer on small cases of its own.  Where the answer is what a known slip would give, it names the slip.
"""

from __future__ import annotations

import html
import itertools
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import numpy as np
import torch

from fedlab.data import classes_per_client, dirichlet, dirichlet_equal_sizes, load
from fedlab.heterogeneity import describe
from fedlab.lab.judge import CHECK
from fedlab.models import least_squares, mlp
from fedlab.records import Experiment, Local
from fedlab.rounds import initial
from fedlab.run import run, stream
from fedlab.server import fedavg, scaffold, uniform, weighted_mean
from fedlab.theory import quadratics

_SIGNS = {"right": "\N{CHECK MARK}", "wrong": "\N{BALLOT X}", "not done": "\N{BLACK RIGHT-POINTING TRIANGLE}"}


@dataclass(frozen=True)
class Verdict:
    """What a check found; as a cell's last line it shows itself."""

    exercise: str
    state: str  # right, wrong, or not done
    words: str

    def __str__(self) -> str:
        return f"{_SIGNS[self.state]} {self.words}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        page = f'<p class="fedlab-check" role="status">{html.escape(str(self))}</p>'
        return {CHECK: vars(self), "text/plain": str(self), "text/html": page}


def _check(judge: Callable[[Any], str]) -> Callable[[Any], Verdict]:
    """Of a function that gives what is wrong with an answer, or nothing: one that gives a verdict, whatever happens."""

    @wraps(judge)
    def checked(answer: Any) -> Verdict:
        try:
            wrong = judge(answer)
        except Exception as error:
            if isinstance(error, NotImplementedError) and not error.args:  # with words it is PyTorch's, on the answer
                words = "Not done yet. Replace `raise NotImplementedError` by your answer."
                return Verdict(judge.__name__, "not done", words)
            where = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"it raises {type(error).__name__}: {error} (at `{where.line}`)"
        return Verdict(judge.__name__, "wrong" if wrong else "right", f"Not yet: {wrong}." if wrong else "Right.")

    return checked


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"the answer is {value!r}, and a number is asked for") from None


def _row(value: Any, like: Any) -> np.ndarray:
    row = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, dtype=float)
    if row.shape != np.shape(like):
        raise ValueError(f"the answer has the shape {list(row.shape)}, and {list(np.shape(like))} is asked for")
    return row


def _slip(found: np.ndarray | float, slips: dict[str, Any], otherwise: str) -> str:
    """The first slip that would give what was found."""
    return next((words for words, value in slips.items() if np.allclose(found, value, rtol=1e-5, atol=1e-8)), otherwise)


# -- 00, Start here


@_check
def server_step(answer: Callable) -> str:
    """``answer(w, deltas, sizes) -> w``: the next model of FedAvg."""
    w, sizes = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([1.0, 3.0, 0.0])
    deltas = torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, -2.0], [9.0, 9.0, 9.0]])
    share = sizes / sizes.sum()
    right = w + share @ deltas
    found = _row(answer(w.clone(), deltas.clone(), sizes.clone()), right)
    if np.allclose(found, right):
        return ""
    slips = {
        "that is the mean change; add it to the model w": share @ deltas,
        "every client counts the same; weigh client i by n_i / n": w + deltas.mean(0),
        "the weights are n_i and not n_i / n: divide by the sum of the sizes": w + sizes @ deltas,
        "the changes are added up whole; weigh client i by n_i / n": w + deltas.sum(0),
        "the model moves away from what the clients found: add the mean change": w - share @ deltas,
    }
    return _slip(
        found, slips, f"for w = {w.tolist()} it gives {found.round(3).tolist()} where {right.tolist()} is asked for"
    )


@_check
def bytes_per_round(answer: Callable) -> str:
    """``answer(parameters, clients) -> bytes``: what travels in a round of FedAvg, numbers of 32 bits, both ways."""
    found = _number(answer(55_210, 10))
    right = 2 * 10 * 4 * 55_210
    if found == right:
        return "" if _number(answer(1000, 3)) == 24_000 else "it is right for one model and cohort, and not for another"
    slips = {
        "that is one way only: the model goes down and the change comes up": right / 2,
        "that is bits; a byte has 8": right * 8,
        "a number of 32 bits takes 4 bytes": right / 4,
        "that is for one client; each of the cohort receives and sends": right / 10,
        "that counts numbers, one way, and not bytes": right / 8,
    }
    return _slip(found, slips, f"for 55,210 parameters and 10 clients it gives {found:,.0f}, and {right:,} travel")


# -- 01, Federated averaging


@_check
def one_step(answer: Callable) -> str:
    """``answer(task, data, w, lr) -> w``: what a round of FedAvg is when everyone takes one full-batch step."""
    data = load("digits", 20, dirichlet(0.3)).double()
    task, lr = mlp(data, hidden=(8,)), 0.5
    everyone = uniform(data.num_clients)
    right = run(Experiment(data, task, Local(lr, None, epochs=1), fedavg(), weighted_mean, everyone, rounds=1)).w[0].numpy()
    w = initial(task, 0, data.x)
    found = _row(answer(task, data, w.clone(), lr), right)
    if np.allclose(found, right, atol=1e-9):
        return ""

    def gradient(rows: Any = slice(None)) -> torch.Tensor:
        v = w.clone().requires_grad_()
        return torch.autograd.grad(task.loss(task.forward(v, data.x[rows]), data.y[rows]).mean(), v)[0]

    each = torch.stack([gradient(part) if len(part) else torch.zeros_like(w) for part in data.parts])
    slips = {
        "the model did not move": w,
        "that is the gradient; give the model after the step": gradient(),
        "the losses are added up; take their mean": w - lr * len(data.y) * gradient(),
        "the step goes uphill: subtract the gradient": w + lr * gradient(),
        "every client counts the same there, and in FedAvg every example does": w - lr * each.mean(0),
        "the rate is missing": w - gradient(),
    }
    away = np.abs(found - right).max()
    return _slip(found, slips, f"it ends {away:.2g} from the model of a round (the largest difference of a parameter)")


@_check
def clients_seen(answer: Callable) -> str:
    """``answer(num_clients, cohort_size, rounds)``: how many different clients take part, on average."""
    found = _number(answer(100, 10, 20))
    right = 100 * (1 - 0.9**20)
    if np.isclose(found, right):
        edge = _number(answer(50, 50, 3))
        return "" if np.isclose(edge, 50) else f"when everyone takes part in every round it gives {edge:.3g} of 50"
    slips = {
        "that counts a client once for every round it takes part in": 200,
        "with 200 places for 100 clients chance still leaves some out": 100,
        "that is the part of the clients; how many are they?": right / 100,
        "those are the clients who never take part": 100 - right,
        "that is the chance never to take part": 0.9**20,
        "that draws one after another, the same one again perhaps; a cohort are different clients": 100 * (1 - 0.99**200),
    }
    return _slip(found, slips, f"for 100 clients, 10 a round, 20 rounds it gives {found:.4g}")


# -- 02, Data that differ


@_check
def effective_classes(answer: Callable) -> str:
    """``answer(counts [classes])``: exp of the entropy of the shares."""
    found = _number(answer(np.array([6, 2, 2, 0])))
    p = np.array([0.6, 0.2, 0.2])
    entropy = -(p * np.log(p)).sum()
    if np.isnan(found):
        return "a class that is not there gives 0 log 0, which counts as 0: leave such classes out"
    if np.isclose(found, np.exp(entropy)):
        return "" if np.isclose(_number(answer(np.array([5, 5]))), 2) else "two classes held evenly are 2 effective classes"
    slips = {
        "that is the entropy in nats; take exp of it": entropy,
        "that is the entropy in bits; take 2 to its power, or exp of nats": entropy / np.log(2),
        "exp of bits: take exp of nats, or 2 to the power of bits": np.exp(entropy / np.log(2)),
        "the sign of the entropy is lost: it is minus the sum of p log p": np.exp(-entropy),
        "that counts the classes that are there, however few": 3,
        "that is 1 / sum of p squared, another measure of diversity; take exp of the entropy": 1 / (p**2).sum(),
    }
    return _slip(found, slips, f"for 6, 2, 2 and 0 examples it gives {found:.4g}")


@_check
def three_classes(answer: Callable) -> str:
    """``answer() -> {split: number}``: numbers under which clients hold 3 effective classes on average."""
    splits = {
        "dirichlet": dirichlet,
        "dirichlet_equal_sizes": dirichlet_equal_sizes,
        "classes_per_client": classes_per_client,
    }
    given = dict(answer())
    missing = splits.keys() - given.keys()
    if missing:
        return f"there is no number for {', '.join(sorted(missing))}"
    told = []
    for name, split in splits.items():
        found = np.mean([describe(load("digits", 50, split(given[name]), s))["effective_classes"].mean() for s in range(3)])
        if abs(found - 3) >= 0.25:
            told.append(f"{name}({given[name]}) leaves {found:.2f}: take a {'larger' if found < 3 else 'smaller'} number")
    return "; ".join(told)


# -- 03, Convergence


@_check
def resting_point(answer: Callable) -> str:
    """``answer(A [m, d, d], b [m, d], p [m], lr, steps [m]) -> [d]``: where FedAvg rests on quadratic clients."""
    bowls, lr, steps = replace(quadratics(4, 3, seed=1), weights=np.array([4.0, 3.0, 2.0, 1.0])), 0.4, [2, 4, 8, 3]
    right = bowls.fedavg(lr, steps).fixed_point
    found = _row(answer(bowls.A.copy(), bowls.b.copy(), bowls.p.copy(), lr, np.array(steps)), right)
    if np.allclose(found, right, atol=1e-9):
        return ""
    slips = {
        "that is the optimum of all; FedAvg rests elsewhere when clients take several steps": bowls.optimum,
        "the weights p are missing": replace(bowls, weights=np.ones(4)).fedavg(lr, steps).fixed_point,
        "everyone takes the steps of the first client there": bowls.fedavg(lr, steps[0]).fixed_point,
        "everyone takes as many steps there as the busiest": bowls.fedavg(lr, max(steps)).fixed_point,
        "that is the other objective's optimum, right for small rates only; take Q_i whole": bowls.surrogate(steps).optimum,
        "that is the mean of the clients' optima, where infinitely many steps would end": bowls.p @ bowls.b,
    }
    return _slip(found, slips, f"it is {np.abs(found - right).max():.2g} from the resting point")


@_check
def scaffold_by_hand(answer: Callable) -> str:
    """``answer(clients, w, lr, steps, rounds) -> [rounds + 1, d]``: the server's models, everyone taking part."""
    bowls, lr, steps, rounds = quadratics(4, 3, seed=1), 0.2, 8, 12
    data = bowls.federated()
    everyone = uniform(data.num_clients)
    study = Experiment(data, least_squares(data), Local(lr, None, steps=steps), scaffold(), weighted_mean, everyone, rounds)
    right = np.stack([runs[0].w.numpy(force=True) for runs in stream(study)])
    found = _row(answer(bowls, right[0].copy(), lr, steps, rounds), right)
    if np.allclose(found, right, atol=1e-9):
        return ""
    by_hand = partial(_scaffold, bowls, right[0], lr, steps, rounds)
    slips = {
        "that is FedAvg: nothing is corrected; do the c_i ever change?": by_hand(sign=0),
        "the sign of the correction is wrong: a step subtracts lr (gradient - c_i + c)": by_hand(sign=-1),
        "c_i has to be a gradient again: (w - w_i) / (lr steps), and the division is missing": by_hand(scale=lr * steps),
        "c has to be the mean of the c_i after each round, and it stays 0": by_hand(moves=0),
    }
    same = int(np.isclose(found, right, atol=1e-9).all(1).argmin())  # the first row that differs
    when = f"it agrees until round {same - 1}, and then not" if same else "the first model is not the w that was given"
    return _slip(found, slips, when)


# -- 04, Communication budgets


@_check
def bits_per_place(answer: Callable) -> str:
    """``answer(p)``: the fewest bits that a taken place costs on average, where a share p of all places is taken."""
    p = 0.02
    found, other = _number(answer(p)), _number(answer(0.5))
    entropy = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    if np.isclose(found, entropy / p):
        return "" if np.isclose(other, 2) else f"of half of all places each taken one costs 2 bits, and it gives {other:.4g}"
    slips = {
        "that is H(p), what each place costs, taken or not: the taken ones share it": entropy,
        "that is in nats; take logarithms to the base 2": entropy * np.log(2) / p,
        "that is -log2(p), what a taken place tells; that the others are free has to be told, too": -np.log2(p),
        "the sign is lost: entropy is minus the sum of p log p": -entropy / p,
        "there are p d taken places and d in all: divide by p, do not multiply": entropy * p,
    }
    return _slip(found, slips, f"for a share of {p} it gives {found:.4g}")


@_check
def sign_round(answer: Callable) -> str:
    """``answer(delta [d], e [d]) -> (sent [d], e [d])``: a round of EF-signSGD for one client."""
    delta, e = torch.tensor([1.0, -2.0, 0.5, 4.0]), torch.tensor([-3.0, 0.0, 1.0, 0.5])
    sent, kept = answer(delta.clone(), e.clone())
    delta, e = delta.numpy(), e.numpy()
    v = delta + e
    sent, kept = _row(sent, v), _row(kept, v)
    right = np.abs(v).mean() * np.sign(v)
    if np.allclose(sent, right):
        slips = {
            "what is remembered is the sum less what was sent; yours is only the update less it": delta - right,
            "the memory grows by the whole sum: take off what was sent": v,
            "the memory has the wrong sign: it is the sum less what was sent": right - v,
            "the memory is never written": e,
        }
        told = f"it remembers {kept.round(3).tolist()} where {(v - right).round(3).tolist()} is asked for"
        return "" if np.allclose(kept, v - right) else _slip(kept, slips, told)
    slips = {
        "the memory is not sent: compress the sum of update and memory": np.abs(delta).mean() * np.sign(delta),
        "the size is missing: the sign times the mean size of the sum": np.sign(v),
        "that is the largest size; take the mean": np.abs(v).max() * np.sign(v),
        "the mean size is that of the update; take that of the sum": np.abs(delta).mean() * np.sign(v),
        "that is the sum as it is: a sign and one size is all that travels": v,
    }
    return _slip(sent, slips, f"it sends {sent.round(3).tolist()} where {right.round(3).tolist()} is asked for")


# -- 05, Smaller models


@_check
def parameters_left(answer: Callable) -> str:
    """``answer(widths, keep)``: weights and biases of a perceptron whose hidden layers keep a share of their units."""
    widths, keep = (64, 120, 40, 10), 0.25
    found, all_of_them = _number(answer(widths, keep)), _number(answer(widths, 1.0))
    count = lambda sizes: sum((n + 1) * m for n, m in itertools.pairwise(sizes))  # noqa: E731
    right, whole = count((64, 30, 10, 10)), count(widths)
    if np.isclose(found, right):
        return "" if np.isclose(all_of_them, whole) else f"of all units there are {whole}, and it gives {all_of_them:.6g}"
    slips = {
        "that is a share of all parameters: a layer between two hidden ones shrinks at both of its ends": keep * whole,
        "that is the square of the share: inputs and outputs stay, so their layers shrink at one end": keep**2 * whole,
        "inputs and outputs were made fewer, too; only hidden units go": count((16, 30, 10, 2.5)),
        "the biases are missing: one for each unit that stays": 64 * 30 + 30 * 10 + 10 * 10,
        "the biases of the whole model were counted": 64 * 30 + 30 * 10 + 10 * 10 + 120 + 40 + 10,
        "that is the whole model; what does keep do?": whole,
    }
    return _slip(found, slips, f"for widths {widths} and keep={keep} it gives {found:.6g}")


@_check
def overlap_mean(answer: Callable) -> str:
    """``answer(w [d], delta [m, d], masks [m, d], n [m]) -> [d]``: the server's model after a round of sub-models."""
    w, n = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 4.0])
    masks = np.array([[1.0, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
    delta = masks * np.array([[1.0, 2, 9, 9], [2, 6, 5, 9], [4, 9, 9, 9]])
    given = (torch.from_numpy(x.copy()) for x in (w, delta, masks, n))
    found = _row(answer(*given), w)
    cover = n @ masks
    right = w + n @ delta / np.maximum(cover, 1)
    if np.allclose(found, right):
        return ""
    with np.errstate(invalid="ignore"):
        slips = {
            "who lacks a number votes against it: divide by the examples of those who have it": w + n @ delta / n.sum(),
            "clients have different numbers of examples: weigh them by n": w + delta.sum(0) / np.maximum(masks.sum(0), 1),
            "that is the mean update; add it to w": right - w,
            "what nobody has should stay as it was, and there you divide 0 by 0": np.where(cover > 0, right, np.nan),
            "what nobody has became 0: it should stay as it was": np.where(cover > 0, right, 0),
            "updates are differences: the server adds their mean": w - n @ delta / np.maximum(cover, 1),
        }
    if not np.isfinite(found).all():
        return list(slips)[3]
    return _slip(found, slips, f"it gives {found.round(3).tolist()} where {right.round(3).tolist()} is asked for")


# -- 06, Large models


@_check
def adapter_bytes(answer: Callable) -> str:
    """``answer(shapes [(in, out), ...], rank) -> bytes``: of LoRA on these layers, in numbers of 2 bytes."""
    shapes, rank = [(30, 50), (50, 20)], 3
    found, right = _number(answer(shapes, rank)), 2 * 3 * (80 + 70)
    if found == right:
        return "" if _number(answer([(4096, 4096)], 8)) == 131_072 else "it is right for these layers, and not for others"
    slips = {
        "that counts numbers; each has 2 bytes": right / 2,
        "a number has 2 bytes here, and not 4": 2 * right,
        "that are the layers themselves; an adapter has two thin matrices": 2 * (30 * 50 + 50 * 20),
        "B is missing: it has a column for each rank, too": 2 * 3 * 80,
        "A is missing: it has a row for each rank, too": 2 * 3 * 70,
        "that is rank 1; both matrices grow with the rank": right / 3,
    }
    return _slip(found, slips, f"for {shapes} and rank {rank} it gives {found:.6g}")


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
        "a server that forgets the layer's own weight: let w not be 0": lambda a, b, p, w: _right_weight(a, b, p, 0 * w),
    }


@_check
def audit(answer: Callable) -> str:
    """``answer(aggregate) -> error``: the largest that ``aggregate(a, b, p, w) -> [out, in]`` makes on a case of yours."""
    found = _number(answer(_right_weight))
    if not found < 1e-3:
        return f"it finds an error of {found:.3g} in an aggregation that is right"
    for words, wrong in _museum().items():
        try:
            error = _number(answer(wrong))
        except RuntimeError:  # the shapes did not fit, and the learner sees it
            continue
        if not error > 1e-2:
            return f"it lets pass {words}"
    return ""


def _frozen_layer(when: str) -> torch.nn.Module:
    """A layer from 6 numbers to 4 whose A is meant to stay; frozen before the library wraps it, A trains all the same."""
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
    return layer


@_check
def moved(answer: Callable) -> str:
    """``answer(layer) -> names``: of the parameters of ``layer``, from 6 numbers to 4, that training changes."""
    a, b = (f"0.lora_{factor}.default.weight" for factor in "AB")
    for when, right in (("after", {b}), ("before", {a, b})):
        layer = _frozen_layer(when)
        every, found = {name for name, _ in layer.named_parameters()}, set(answer(layer))
        if found == right:
            continue
        slips = {
            "that is every parameter there is: compare each with what it was before": every,
            "those are the ones that stay": every - right,
            "A is frozen in this layer and stays; a name alone does not say what trains": {a, b},
            "it misses A: while B is zero no gradient reaches A, so take a second step": {b},
        }
        names = ", ".join(sorted(map(str, found))) or "nothing"
        told = f"where A was frozen {when} wrapping it names {names}, and {', '.join(sorted(right))} is asked for"
        return next((words for words, slip in slips.items() if found == slip), told)
    return ""


# -- 07, Seven billion


@_check
def seconds_to_send(answer: Callable) -> str:
    """``answer(size, rate) -> seconds``: of so many bytes over a link of so many Mbit/s."""
    found, right = _number(answer(5_000_000, 20)), 2.0
    if np.isclose(found, right):
        return (
            ""
            if np.isclose(_number(answer(1_250_000, 20)), 0.5)
            else "it is right for one message and link, and not for others"
        )
    slips = {
        "that takes the rate as bytes: a byte has 8 bits": right / 8,
        "a byte has 8 bits, and you have multiplied by them twice": 8 * right,
        "a megabit is a million bits": right * 1e6,
        "that is seconds the other way round: divide the bits by the rate": 1 / right,
        "that multiplies by the rate; a faster link takes less": 5e6 * 8 * 20e6,
    }
    return _slip(found, slips, f"for 5,000,000 bytes at 20 Mbit/s it gives {found:.6g}")


@_check
def bytes_held(answer: Callable) -> str:
    """``answer(parameters, trained, bits) -> bytes``: weights, gradients and AdamW's moments, without activations."""
    found, right = _number(answer(1000, 100, 4)), 500 + 1200
    if found == right:
        return "" if _number(answer(1000, 1000, 16)) == 14_000 else "it is right with weights of 4 bits, and not with 16"
    slips = {
        "a byte has 8 bits: divide the weights' bits by 8": 4000 + 1200,
        "the optimiser is missing: AdamW has two moments for each number that trains": 500 + 400,
        "gradients are missing: they are 4 bytes for each number that trains": 500 + 800,
        "all parameters were given a gradient and moments; only what trains has them": 500 + 12_000,
        "the weights themselves are missing": 1200,
        "gradients and moments are numbers of 4 bytes": 500 + 300,
    }
    return _slip(found, slips, f"for 1,000 parameters of 4 bits, 100 of which train, it gives {found:.6g}")


# -- 08, Slow phones


@_check
def round_seconds(answer: Callable) -> str:
    """``answer(seconds [m], needed, deadline) -> seconds``: how long a round takes that ends with the first ``needed``
    updates, or at the deadline.
    """
    seconds = np.array([9.0, 2.0, 30.0, 4.0, 5.0])
    right = {(3, 60.0): 5.0, (5, 60.0): 30.0, (5, 10.0): 10.0, (1, 60.0): 2.0, (4, 9.5): 9.0}
    found = {case: _number(answer(seconds.copy(), *case)) for case in right}
    wrong = [case for case in right if not np.isclose(found[case], right[case])]
    if not wrong:
        return ""
    slips = {
        "it waits for everyone asked, and not for the first that are needed": [30.0, 30.0, 10.0, 30.0, 9.5],
        "it forgets the deadline": [5.0, 30.0, 30.0, 2.0, 9.0],
        "it takes them in the order of their numbers; sort the seconds first": [30.0, 5.0, 5.0, 9.0, 4.0],
        "it adds the seconds up; clients work at the same time": [11.0, 50.0, 10.0, 2.0, 9.5],
        "it waits until the deadline though all that are needed have come": [60.0, 60.0, 10.0, 60.0, 9.5],
    }
    needed, deadline = wrong[0]
    told = f"for {seconds.tolist()}, {needed} needed and a deadline of {deadline:g}"
    return _slip(list(found.values()), slips, f"{told} it gives {found[wrong[0]]:g}, and it is {right[wrong[0]]:g}")


@_check
def never_used(answer: Callable) -> str:
    """``answer(clients, num_clients) -> share``: of all clients, how many have had no update that was used."""
    import pandas as pd

    fates = {0: ["used"], 1: ["used", "late"], 2: ["late"], 3: ["lost"], 5: ["flying"], 6: ["late", "late"], 7: ["lost"]}
    rows = [{"client": client, "fate": fate} for client, several in fates.items() for fate in several]
    found = _number(answer(pd.DataFrame(rows), 10))
    slips = {
        "that is the share that was used; the others are asked for": 2 / 10,
        "that is who was never sent out; who came late or was lost was not used either": 3 / 10,
        "divide by all clients; some are not in the table": 5 / 7,
        "who was never sent out is not in the table, and was not used either": 5 / 10,
        "that is a number of clients and not a share": 8.0,
    }
    return "" if np.isclose(found, 8 / 10) else _slip(found, slips, f"of 10 clients 0 and 1 were used; it gives {found:g}")


# -- 09, Late updates


@_check
def stale_step(answer: Callable) -> str:
    """``answer(w, start, delta, staleness, alpha, a) -> w``: a step of FedAsync with ``s(t - tau) = (1 + t - tau)^-a``."""
    w, start, delta = np.array([4.0, 0.0]), np.array([1.0, 1.0]), np.array([0.5, -1.0])
    share = 0.6 * 4.0**-0.5
    right = (1 - share) * w + share * (start + delta)
    found = _row(answer(w.copy(), start.copy(), delta.copy(), 3, 0.6, 0.5), right)
    if np.allclose(found, right):
        return ""
    slips = {
        "it adds the change to the model of now; the client's model is the one it began with, plus its change": w
        + share * delta,
        "staleness is left out: multiply alpha by s": 0.4 * w + 0.6 * (start + delta),
        "that takes 1 - a of the client's model, and a of the server's": share * w + (1 - share) * (start + delta),
        "s is (1 + staleness) to the power of -a": (1 - 0.6 * 3**-0.5) * w + 0.6 * 3**-0.5 * (start + delta),
        "the server's model has to shrink by as much as the client's comes in": w + share * (start + delta),
    }
    return _slip(found, slips, f"it gives {found.round(3).tolist()} where {right.round(3).tolist()} is asked for")


@_check
def forgetting(answer: Callable) -> str:
    """``answer(accuracy [phases, tasks]) -> number``: how much is forgotten on average after the last phase.  Task ``k`` is
    learned in phase ``k``; forgotten is the best that it ever was, before the last phase, less what it is in the end; the
    last task has had no time to be forgotten.
    """
    table = np.array([[0.8, 0.1, 0.0], [0.9, 0.7, 0.1], [0.5, 0.6, 0.95]])
    found, right = _number(answer(table.copy())), 0.25
    if np.isclose(found, right):
        return ""
    slips = {
        "the last task is counted, which has had no time to be forgotten": (0.4 + 0.1 + 0.1 - 0.95) / 3,
        "divide by the tasks that could be forgotten, all but the last": 0.5 / 3,
        "take the best that a task ever was, not what it was when it was learned": (0.3 + 0.1) / 2,
        "that is the gain: earlier less later": -0.25,
        "that is the sum: take the mean over tasks": 0.5,
        "that is what is left in the end": 0.55,
    }
    return _slip(found, slips, f"for {table.tolist()} it gives {found:g}, and it is {right:g}")


# -- 10, Edges


@_check
def metropolis(answer: Callable) -> str:
    """``answer(adjacency [N, N]) -> [N, N]``: Metropolis-Hastings weights of a graph."""
    links = np.array([[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    degree = links.sum(1)
    weights = links / (1 + np.maximum.outer(degree, degree))
    right = weights + np.diag(1 - weights.sum(1))
    found = _row(answer(links.copy()), right)
    if np.allclose(found, right):
        return ""
    late = links / np.maximum.outer(degree, degree)
    small = links / (1 + np.minimum.outer(degree, degree))
    slips = {
        "the diagonal is missing: what is left of each row, so that it sums to 1": weights,
        "the 1 is missing: a client counts itself beside its neighbours": late + np.diag(1 - late.sum(1)),
        "that takes the smaller degree of the two": small + np.diag(1 - small.sum(1)),
        "each row is divided by its own degree, and so is not symmetric": (links + np.eye(4)) / (1 + degree)[:, None],
    }
    return _slip(
        found, slips, f"its first row is {found[0].round(3).tolist()} where {right[0].round(3).tolist()} is asked for"
    )


@_check
def best_cut(answer: Callable) -> str:
    """``answer(flops [L], handed [L + 1], here, there, rate) -> layers on the device``."""
    flops = [100.0, 400.0, 300.0]
    cases = {
        (100.0, 1e9, 10.0): ([80.0, 20.0, 60.0, 4.0], 1),  # 8; 1 + 2; 5 + 6; 8
        (1000.0, 1000.0, 1.0): ([50.0, 40.0, 30.0, 900.0], 3),  # nothing is sent: 0.8 s
        (100.0, 1e9, 1000.0): ([80.0, 200.0, 600.0, 4.0], 0),  # 0.08 s
        (100.0, 100.0, 1.0): ([5.0, 3.0, 1.0, 0.5], 3),
    }
    found = [int(_number(answer(list(flops), list(handed), *speeds))) for speeds, (handed, _) in cases.items()]
    right = [best for _, best in cases.values()]
    if found == right:
        return ""
    slips = {
        "it forgets the case that nothing runs on the device": [1, 3, 1, 3],
        "it forgets the case that everything runs on the device": [1, 2, 0, 2],
        "it looks at what is sent only, and not at the time of computing": [3, 3, 3, 3],
    }
    if found == [1, 2, 0, 3]:
        return "with all layers on the device nothing is sent, not even what the last one hands out"
    return _slip(found, slips, f"for four cases it gives {found}, and {right} is asked for")


def _scaffold(clients, w, lr, steps, rounds, *, sign=1.0, scale=1.0, moves=1.0) -> np.ndarray:
    """SCAFFOLD with everyone taking part, and what slips make of it."""
    visited, c_i = [w], np.zeros_like(clients.b)
    for _ in range(rounds):
        c = moves * c_i.mean(0)
        w_i = np.repeat(w[None], len(clients.b), axis=0)
        for _ in range(steps):
            w_i = w_i - lr * (np.einsum("ijk,ik->ij", clients.A, w_i - clients.b) + sign * (c - c_i))
        c_i = c_i - c + scale * (w - w_i) / (lr * steps)
        w = w_i.mean(0)
        visited.append(w)
    return np.stack(visited)
