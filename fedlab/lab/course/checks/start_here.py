"""Checks of notebook 00, Start here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import TRIES, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.trial import check


def _shares(sizes: Tensor) -> Tensor:
    return sizes / sizes.sum()


SERVER_STEP_SLIPS = {
    "that is the mean update; add it to the model w": (
        lambda w, deltas, sizes: _shares(sizes) @ deltas
    ),
    "every client counts the same; weigh client i by n_i / n": (
        lambda w, deltas, sizes: w + deltas.mean(0)
    ),
    "the weights are n_i and not n_i / n: divide by the sum of the sizes": (
        lambda w, deltas, sizes: w + sizes @ deltas
    ),
    "the updates are added without weights; weigh client i by n_i / n": (
        lambda w, deltas, sizes: w + deltas.sum(0)
    ),
    "the model moves away from the clients' models: add the mean update": (
        lambda w, deltas, sizes: w - _shares(sizes) @ deltas
    ),
}


@check()
def server_step(answer: Answer) -> str:
    """Check ``answer(w, deltas, sizes) -> w``, the next model of FedAvg."""

    def case(clients: int, parameters: int) -> dict[str, Tensor]:
        sizes = draw.permutation([*draw.integers(1, 9, clients - 1), 0]).astype(np.float32)
        rows = draw.normal(size=(clients + 1, parameters)).round(2).astype(np.float32)
        return {
            "w": torch.from_numpy(rows[0]),
            "deltas": torch.from_numpy(rows[1:]),
            "sizes": torch.from_numpy(sizes),
        }

    def right(w: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
        return w + _shares(sizes) @ deltas

    draw = random_generator()
    cases = [case(3, 2), case(4, 3), case(6, 3)]
    return compare(answer, right, cases, SERVER_STEP_SLIPS)


BYTES_SLIPS = {
    "that is one way only: the model goes down and the update comes up": (
        lambda parameters, clients: 4 * parameters * clients
    ),
    "that is bits; a byte has 8": lambda parameters, clients: 64 * parameters * clients,
    "a number of 32 bits takes 4 bytes": lambda parameters, clients: 2 * parameters * clients,
    "that is for one client; each client of the cohort receives and sends": (
        lambda parameters, clients: 8 * parameters
    ),
    "that counts numbers, one way, and not bytes": (
        lambda parameters, clients: parameters * clients
    ),
}


@check()
def bytes_per_round(answer: Answer) -> str:
    """Check ``answer(parameters, clients) -> bytes``, sent both ways in a round of FedAvg.

    Numbers have 32 bits.
    """
    draw = random_generator()
    cases: list[dict[str, Any]] = [{"parameters": 55_210, "clients": 10}]
    cases += [
        {"parameters": int(draw.integers(1000, 9999)), "clients": int(draw.integers(3, 50))}
        for _ in range(TRIES)
    ]

    def right(parameters: int, clients: int) -> int:
        return 8 * parameters * clients

    return compare(answer, right, cases, BYTES_SLIPS, exact=True)
