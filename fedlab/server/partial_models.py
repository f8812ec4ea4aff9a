"""Algorithms whose clients train different parts of the server's model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlab.core import Algorithm, Task, generator
from fedlab.models import first_units, hidden_units, unit_mask
from fedlab.models.subnetworks import first_units_mask
from fedlab.server.overlap import averaging_overlap, check_one_per_client

WIDTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


def federated_dropout(task: Task, rate: float) -> Algorithm:
    """Give each client a random share of each hidden layer's units, drawn anew in every round.

    All parts have the same size. Caldas et al. 2018.
    Differs: a weight is averaged over the clients that have it, and not over the whole cohort.

    Args:
        task: Task whose model is a chain of linear layers and convolutions.
        rate: Share of the units, above 0 and at most 1.

    Example:
        >>> import fedlab as fl
        >>> from fedlab.core import Cohort
        >>> task = fl.mlp(fl.load("digits", 10), (20,))
        >>> algorithm = federated_dropout(task, 0.5)
        >>> masks = algorithm.local_objective(None, Cohort(np.array([3, 5]), 1, 0, 10)).mask
        >>> masks.shape, round(masks.mean().item(), 2)
        (torch.Size([2, 1510]), 0.5)
    """
    first_units(task, rate)

    def mask_of(cohort, client):
        draw = generator(cohort.seed, "federated_dropout", cohort.round, client)
        sizes = zip(hidden_units(task), first_units(task, rate), strict=True)
        units = [np.sort(draw.choice(n, len(part), replace=False)) for n, part in sizes]
        return unit_mask(task, units)

    return averaging_overlap(task, mask_of)


def heterofl(task: Task, rates: Sequence[float]) -> Algorithm:
    """Give each client the first units of each hidden layer, as many as it can train.

    Diao et al. 2021, Algorithm 1.
    Differs: clients weigh by their examples, where the paper weighs them alike; no Scaler, no
    masked cross-entropy, and models without normalisation.

    Args:
        task: Task whose model is a chain of linear layers and convolutions.
        rates: Share of the units for each client, ``[N]``, above 0 and at most 1.

    Example:
        >>> import fedlab as fl
        >>> from fedlab.core import Cohort
        >>> task = fl.mlp(fl.load("digits", 10), (20,))
        >>> algorithm = heterofl(task, [1.0, 0.5] * 5)
        >>> masks = algorithm.local_objective(None, Cohort(np.array([0, 1]), 1, 0, 10)).mask
        >>> masks.sum(1).tolist()  # parameters that each client has
        [1510.0, 760.0]
    """
    _check_rates(task, rates=rates)

    def mask_of(cohort, client):
        check_one_per_client("rates", rates, cohort.num_clients)
        return first_units_mask(task, rates[client])

    return averaging_overlap(task, mask_of)


def fjord(task: Task, rates: Sequence[float], *, widths: Sequence[float] = WIDTHS) -> Algorithm:
    """Train the first units of a random width, at most as wide as each client can train.

    The model can then be cut at any of the widths. Ordered dropout, Horvath et al. 2021,
    Algorithm 1.
    Differs: a width is drawn per round, and not per step; without their distillation from the wider
    to the narrower.

    Args:
        task: Task whose model is a chain of linear layers and convolutions.
        rates: Largest share of the units for each client, ``[N]``, above 0 and at most 1.
        widths: Shares to draw from; for a client, those up to its rate.

    Raises:
        ValueError: If a rate is below all widths.
    """
    _check_rates(task, rates=rates, widths=widths)
    if min(rates) < min(widths):
        raise ValueError(
            f"rates={rates!r:.80} must be at least {min(widths):g}, the smallest of the widths "
            f"(one is {min(rates):g}). Try widths={(*widths, min(rates))!r:.80}"
        )

    def mask_of(cohort, client):
        check_one_per_client("rates", rates, cohort.num_clients)
        possible = [width for width in sorted(widths) if width <= rates[client]]
        drawn = generator(cohort.seed, "fjord", cohort.round, client).integers(len(possible))
        return first_units_mask(task, possible[drawn])

    return averaging_overlap(task, mask_of)


def _check_rates(task: Task, **shares: Sequence[float]) -> None:
    for name, rates in shares.items():
        if np.ndim(rates) != 1 or not len(rates):
            raise ValueError(
                f"{name}={rates!r} must be a list of shares of the units, above 0 and at most 1. "
                "Try [0.5, 1.0]"
            )
        for rate in set(rates):
            first_units(task, rate)
