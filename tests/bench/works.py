"""Four pieces of work for a federated simulator, by three systems that start from the same numbers.

``python tests/bench/works.py --work W1 --system fedlab`` prints one line of JSON: seconds per round
after the first (which warms up), seconds to start, the peak of memory, the accuracy. ``--in-order``
turns shuffling off and adds the L1 and L2 norms of the final weights, equal over the systems up to
rounding. ``PEERS_CHECK=1`` does the same.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

STARTED = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402


class Size(NamedTuple):
    data: str
    clients: int
    cohort: int
    batch_size: int
    rounds: int
    widths: tuple[int, ...]


WORKS = {
    "W1": Size("digits", 100, 10, 5, 100, (64, 200, 200, 10)),
    "W2": Size("digits", 100, 100, 5, 20, (64, 200, 200, 10)),
    "W3": Size("wide", 100, 10, 10, 10, (784, 200, 200, 10)),
    "W4": Size("many", 10_000, 100, 5, 20, (64, 200, 200, 10)),
}
LR = 0.1


class Given(NamedTuple):
    """What every system starts from."""

    size: Size
    x: torch.Tensor  # [n, inputs]
    y: torch.Tensor  # [n]
    test: tuple[torch.Tensor, torch.Tensor]
    parts: np.ndarray  # [clients, examples of each]
    cohorts: list[np.ndarray]
    start: list[tuple[torch.Tensor, torch.Tensor]]  # weight [in, out] and bias [out] of each layer


def given(name: str, rounds: int | None) -> Given:
    size = WORKS[name]
    size = size._replace(rounds=rounds or size.rounds)
    x, y, x_test, y_test = map(torch.from_numpy, DATA[size.data]())
    parts = np.random.default_rng(1).permutation(len(x)).reshape(size.clients, -1)
    draw = np.random.default_rng(2)
    cohorts = [
        np.sort(draw.choice(size.clients, size.cohort, replace=False)) for _ in range(size.rounds)
    ]
    draw, start = np.random.default_rng(3), []
    for i, o in pairwise(size.widths):
        k = 1 / np.sqrt(i)
        start.append(
            tuple(
                torch.from_numpy(draw.uniform(-k, k, s).astype(np.float32)) for s in ((i, o), (o,))
            )
        )
    return Given(size, x, y, (x_test, y_test), parts, cohorts, start)


def digits():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = (bunch.data / 16).astype(np.float32), bunch.target.astype(np.int64)
    return x[:1500], y[:1500], x[1500:], y[1500:]


def teacher(train: int, test: int, inputs: int, scale: float, seed: int):
    """Gaussian inputs, labelled by the largest of ten random linear functions."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((train + test, inputs), dtype=np.float32)
    y = (x @ draw.standard_normal((inputs, 10), dtype=np.float32)).argmax(1)
    x *= np.float32(scale)
    return x[:train], y[:train], x[train:], y[train:]


DATA = {
    "digits": digits,
    "wide": lambda: teacher(60_000, 10_000, 784, 0.35, 11),
    "many": lambda: teacher(200_000, 2_000, 64, 0.5, 12),
}


def perceptron(setup: Given) -> nn.Sequential:
    """The model of the work with its starting weights."""
    layers: list[nn.Module] = []
    for weight, bias in setup.start:
        layers += [nn.utils.skip_init(nn.Linear, *weight.shape), nn.ReLU()]
        layers[-2].weight.data, layers[-2].bias.data = weight.T.contiguous(), bias.clone()
    return nn.Sequential(*layers[:-1])


def fedlab(setup: Given, in_order: bool):
    """The public interface, with the split, the cohorts and the weights of the work."""
    from fedlab.client import batched
    from fedlab.core import Experiment, FederatedDataset, Local
    from fedlab.engine import stream
    from fedlab.models import classification
    from fedlab.server import fedavg, weighted_mean

    size = setup.size
    classes = tuple(str(c) for c in range(size.widths[-1]))
    data = FederatedDataset(setup.x, setup.y, list(setup.parts), setup.test, "work", classes)
    local = Local(LR, batch_size=size.batch_size)

    def as_drawn(sizes, round, generator):
        return setup.cohorts[round - 1]

    def stored_order(task, x, y, work):
        ids = setup.cohorts[stored_order.round]
        stored_order.round += 1
        batches = setup.parts[ids].reshape(len(ids), -1, size.batch_size)
        return batched(task, x, y, work._replace(batches=batches))

    stored_order.round = 0
    task = classification(lambda: perceptron(setup))
    study = Experiment(data, task, local, fedavg(), weighted_mean, as_drawn, rounds=size.rounds)
    rounds = stream(study, backend=stored_order if in_order else batched)
    next(rounds)
    for (run,) in rounds:
        yield run.rounds[-1]["accuracy"], [run.w]


def plain(setup: Given, in_order: bool):
    """What a person would write: one model, one client after another, a fresh optimizer each."""
    size, model = setup.size, perceptron(setup)
    held = [(setup.x[part], setup.y[part]) for part in setup.parts]
    state = {name: p.clone() for name, p in model.state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    for ids in setup.cohorts:
        total, mean = (
            sum(len(held[i][1]) for i in ids),
            {name: torch.zeros_like(p) for name, p in state.items()},
        )
        for i in ids:
            model.load_state_dict(state)
            x, y = held[i]
            optimizer = torch.optim.SGD(model.parameters(), LR)
            order = torch.arange(len(x)) if in_order else torch.randperm(len(x), generator=draw)
            for batch in order.split(size.batch_size):
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
            for name, p in model.state_dict().items():
                mean[name] += p * (len(y) / total)
        state = mean
        model.load_state_dict(state)
        with torch.no_grad():
            right = model(setup.test[0]).argmax(1) == setup.test[1]
        yield right.float().mean().item(), list(state.values())


@torch.no_grad()
def floor(setup: Given, in_order: bool):
    """The floor: this network by hand, in batched matrix products, 20 clients at a time."""
    size, w = setup.size, setup.start
    x, y = setup.x[setup.parts], setup.y[setup.parts]  # [clients, n, inputs]
    share, draw = 1 / size.cohort, torch.Generator().manual_seed(0)
    for ids in setup.cohorts:
        new = [(torch.zeros_like(weight), torch.zeros_like(bias)) for weight, bias in w]
        for chunk in torch.from_numpy(ids).split(20):
            trained = _by_hand(w, x[chunk], y[chunk], size.batch_size, None if in_order else draw)
            for (sum_w, sum_b), (weight, bias) in zip(new, trained, strict=True):
                sum_w += weight.sum(0) * share
                sum_b += bias.sum((0, 1)) * share
        w = new
        h = setup.test[0]
        for k, (weight, bias) in enumerate(w):
            h = torch.addmm(bias, h, weight)
            if k < len(w) - 1:
                h.relu_()
        yield (
            (h.argmax(1) == setup.test[1]).float().mean().item(),
            [p for layer in w for p in layer],
        )


def _by_hand(start, x, y, batch_size: int, draw: torch.Generator | None):
    """Run an epoch of SGD on ``x [c, n, in]``; weights ``[c, in, out]``, biases ``[c, 1, out]``."""
    c, n = y.shape
    layers = [
        (weight.expand(c, -1, -1).clone(), bias.expand(c, 1, -1).clone()) for weight, bias in start
    ]
    order = (
        torch.arange(n).expand(c, n)
        if draw is None
        else torch.rand(c, n, generator=draw).argsort(1)
    )
    rows = torch.arange(c)[:, None]
    for batch in order.split(batch_size, dim=1):
        inputs, labels = [x[rows, batch]], y[rows, batch]
        for k, (weight, bias) in enumerate(layers):
            out = torch.baddbmm(bias, inputs[-1], weight)
            inputs.append(out.relu_() if k < len(layers) - 1 else out.softmax(2))
        g = inputs.pop()
        g.scatter_add_(2, labels[..., None], torch.full(labels.shape, -1.0)[..., None])
        g /= batch.shape[1]
        grads = [g]
        for (weight, _), h in zip(layers[:0:-1], inputs[:0:-1], strict=True):
            grads.append(torch.bmm(grads[-1], weight.transpose(1, 2)).mul_(h > 0))
        for (weight, bias), h, g in zip(layers[::-1], inputs[::-1], grads, strict=True):
            weight.baddbmm_(h.transpose(1, 2), g, alpha=-LR)
            bias.sub_(g.sum(1, keepdim=True), alpha=LR)
    return layers


def peak() -> float:
    """The most memory that this process held, in MB."""
    if sys.platform == "linux":  # where ru_maxrss also counts the process that started this one
        held = next(
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        return int(held.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def norms(w: list[torch.Tensor]) -> dict[str, float]:
    flat = torch.cat([p.flatten().double() for p in w])
    return {"l1": flat.abs().sum().item(), "l2": flat.norm().item()}


SYSTEMS = {"fedlab": fedlab, "plain": plain, "floor": floor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--system", choices=SYSTEMS, default="fedlab")
    parser.add_argument("--rounds", type=int, help="instead of the work's own number")
    parser.add_argument(
        "--in-order", action="store_true", default=os.environ.get("PEERS_CHECK") == "1"
    )
    asked = parser.parse_args()
    times, accuracy, w = [], 0.0, []
    for accuracy, w in SYSTEMS[asked.system](given(asked.work, asked.rounds), asked.in_order):  # noqa: B007 - the last count
        times.append(time.perf_counter())
    each = (times[-1] - times[0]) / max(1, len(times) - 1)
    line = {
        "system": asked.system,
        "work": asked.work,
        "rounds": len(times),
        "s_per_round": round(each, 6),
        "startup_s": round(times[0] - STARTED - each, 3),
        "total_s": round(times[-1] - STARTED, 3),
        "peak_mb": round(peak(), 1),
        "acc": round(accuracy, 4),
    }
    if asked.in_order:
        line |= norms(w)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
