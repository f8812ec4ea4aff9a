"""Checks of notebook 07, Seven billion."""

from __future__ import annotations

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import TRIES, named_cases, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.trial import check

SECONDS_SLIPS = {
    "that takes the rate as bytes: a byte has 8 bits": lambda size, rate: size / (rate * 1e6),
    "a byte has 8 bits, and you have multiplied by them twice": (
        lambda size, rate: 64 * size / (rate * 1e6)
    ),
    "a megabit is a million bits": lambda size, rate: 8 * size / rate,
    "a megabit is a million bits, and not 2 to the power of 20": (
        lambda size, rate: 8 * size / (rate * 2**20)
    ),
    "that is the other way round: divide the bits by the rate": (
        lambda size, rate: rate * 1e6 / (8 * size)
    ),
    "that multiplies by the rate; a faster link takes less": (
        lambda size, rate: 8 * size * rate * 1e6
    ),
}


@check()
def seconds_to_send(answer: Answer) -> str:
    """Check ``answer(size, rate) -> seconds``, the time for ``size`` bytes at ``rate`` Mbit/s."""
    draw = random_generator()
    cases = [(5_000_000, 20), (1_250_000, 20)]
    cases += [
        (int(draw.integers(1, 900)) * 10_000, round(draw.uniform(3, 90), 1)) for _ in range(TRIES)
    ]
    cases = named_cases(("size", "rate"), cases)
    return compare(answer, lambda size, rate: 8 * size / (rate * 1e6), cases, SECONDS_SLIPS)


# n parameters of some bits each, k of which train.
BYTES_HELD_SLIPS = {
    "a byte has 8 bits: divide the weights' bits by 8": lambda n, k, bits: n * bits + 12 * k,
    "the optimiser is missing: AdamW has two moments for each number that trains": (
        lambda n, k, bits: n * bits / 8 + 4 * k
    ),
    "gradients are missing: they are 4 bytes for each number that trains": (
        lambda n, k, bits: n * bits / 8 + 8 * k
    ),
    "that gives every parameter a gradient and moments; only numbers that train have them": (
        lambda n, k, bits: n * bits / 8 + 12 * n
    ),
    "the weights themselves are missing": lambda n, k, bits: 12 * k,
    "gradients and moments are numbers of 4 bytes": lambda n, k, bits: n * bits / 8 + 3 * k,
}


@check()
def bytes_held(answer: Answer) -> str:
    """Check ``answer(parameters, trained, bits) -> bytes``, the memory that training takes.

    The device holds weights, gradients and the moments of AdamW; activations are left out.
    """
    draw = random_generator()
    cases = [(1000, 100, 4), (1000, 1000, 16)]
    for _ in range(TRIES):
        parameters, trained = 8 * int(draw.integers(50, 900)), int(draw.integers(10, 300))
        cases.append((parameters, trained, int(draw.choice([4, 8, 16, 32]))))
    cases = named_cases(("parameters", "trained", "bits"), cases)
    return compare(
        answer, lambda n, k, bits: n * bits / 8 + 12 * k, cases, BYTES_HELD_SLIPS, exact=True
    )
