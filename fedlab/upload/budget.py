"""What a budget buys: the rate that keeps every client within it, and rates that spend it over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from fedlab.core import Budget, Cohort, Experiment, Message, Stage, Transform, generator
from fedlab.core.validate import check_whole, is_number
from fedlab.data.datasets import for_seed
from fedlab.upload import wire
from fedlab.upload.chains import sparsify

RATES = tuple(np.geomspace(1e-4, 1, 121))


def rate_within(
    budget: str,
    experiment: Experiment,
    make: Callable[[float], Transform],
    *,
    rates: Sequence[float] = RATES,
    seed: int = 0,
) -> float:
    """The largest of the ascending ``rates`` with which ``upload=make(rate)`` stays within the budget over all rounds.

    Who takes part how often is known beforehand, since a sampler is a function of the seed; how long a message is, is
    measured on a row of random numbers, whose places compress worse than those of a real update. Raises ValueError where not
    even the smallest rate fits, with what it would take, and for algorithms with masks, of which nobody knows how much they
    leave to send.
    """
    if experiment.algorithm.partial_updates:
        raise ValueError(
            "rate_within of an algorithm with masks: it counts whole rows; use budget=, which counts what travels"
        )
    allowed, data = Budget.parse(budget), for_seed(experiment.data, seed)
    times = np.zeros(data.num_clients, dtype=np.int64)  # that each client takes part
    for t in range(1, experiment.rounds + 1):
        times[experiment.sample(data.sizes, t, generator(seed, "cohort", t))] += 1
    times = int(times.max() if allowed.per_client else times.sum())
    whole = int(wire.dense_sizes(tuple(experiment.task.shapes.items()), torch.float32).sum())
    down = 0 if allowed.direction == "up" else experiment.algorithm.vectors_down * whole
    more = (experiment.algorithm.vectors_up - 1) * whole
    size = lambda rate: (
        down + (0 if allowed.direction == "down" else more + _size(make(rate), experiment))
    )  # noqa: E731
    low, high = -1, len(rates) - 1
    while low < high:  # the last one that fits lies in low..high
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if times * size(rates[middle]) <= allowed.bytes else (low, middle - 1)
        )
    if low < 0:
        least = times * size(rates[0])
        told = f"even at the rate {rates[0]:g} it takes {least / 1e6:,.3g} MB"
        raise ValueError(f"budget={budget!r}: {told}; give that, or take fewer rounds")
    return float(rates[low])


def _size(upload: Transform, experiment: Experiment) -> int:
    """The bytes of one client's largest message of random numbers, of four: some send nothing in some rounds."""
    shapes, largest = experiment.task.shapes, 0
    draw, d = generator(0, "rate"), sum(shape.numel() for shape in shapes.values())
    state = upload.init(torch.zeros(d), shapes, 1)
    for t in range(1, 5):
        row = torch.from_numpy(draw.standard_normal((1, d), dtype=np.float32))
        message, state = upload.apply(
            Message(row, shapes), state, Cohort(np.zeros(1, dtype=np.int64), t, 0, 1)
        )
        largest = max(largest, int(wire.sizes(message).sum()))
    return largest


def top_k_within(budget: str, *, rounds: int, growth: float = 1.0) -> Transform:
    """``top_k`` with as many numbers each time as what is left of a client's budget allows, over the rounds that are left.

    ``growth`` above 1 saves for the end, each round ``growth`` times the one before; below 1 it spends early.  Who is drawn
    more often than expected sends less each time.  ``budget`` is one of "up per client", for 32-bit numbers; with
    ``error_feedback`` around it, as with ``top_k``.
    """
    told = Budget.parse(budget)
    check_whole(1, rounds=rounds)
    if told.direction != "up" or not told.per_client:
        raise ValueError(
            f'budget={budget!r}: what one client sends is what this divides: say "... up per client"'
        )
    if not (is_number(growth) and growth > 0):
        raise ValueError(f"growth={growth!r}: it is above 0; 1 spends evenly")

    def init(w, shapes, num_clients):
        return np.zeros(num_clients)  # bytes spent

    def apply(message, spent, cohort):
        x, ahead = message.values, max(0, rounds - cohort.round)
        with np.errstate(over="ignore"):  # a growth that leaves nothing for now
            weight = 1 + cohort.share * (np.float64(growth) ** np.arange(1, ahead + 1)).sum()
        left = Budget.parse(budget).bytes - spent[cohort.ids]
        allowed = (left - wire.EMPTY_SIZE * ahead) / weight  # to say "nothing" is not free either
        header = 24 + sum(1 + 4 * len(shape) for shape in message.shapes.values())
        count = torch.from_numpy(_numbers_within(allowed - header, x.shape[1]))
        places = x.abs().topk(min(max(1, int(count.max())), x.shape[1]), 1).indices  # largest first
        beyond = torch.arange(places.shape[1]) >= count[:, None]
        message = sparsify(message, places.masked_fill(beyond.to(x.device), x.shape[1]))
        spent = spent.copy()
        spent[cohort.ids] += wire.sizes(message).sum(1)
        return message, spent

    return Transform(init, apply, Stage.REDUCED, Stage.RAGGED)


def _numbers_within(size: np.ndarray, width: int) -> np.ndarray:
    """How many of ``width`` numbers of 32 bits, with their places, surely fit in ``size [m]`` bytes."""
    counts = np.unique(np.geomspace(1, max(1, width), 2000).astype(np.int64))
    low = np.floor(np.log2(np.maximum(1, 0.69 * width / counts))).astype(np.int64)
    most = (
        4 * counts + (counts * (low + 1) + (width >> low)) // 8 + 2
    )  # of the Rice code, whatever the places
    return np.append(0, counts)[np.searchsorted(most, size, side="right")]
