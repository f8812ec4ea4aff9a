"""Clients that train different parts of the server's model, or different models, folded where they overlap.

In the formulas ``M_i [d]`` is client i's mask, ``n_i`` its examples; ``sum_i`` goes over the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Algorithm, Cohort, Task, Terms, generator
from fedlab.models import first_units, hidden_units, unit_mask
from fedlab.models.subnetworks import check_same_task, first_units_mask
from fedlab.server.algorithms import only_weighted_mean, sizes_once

MaskOf = Callable[[Cohort, int], Tensor]  # the mask [d] of a client of the cohort

WIDTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


def federated_dropout(task: Task, rate: float) -> Algorithm:
    """Each client gets a ``rate`` of each hidden layer's units, drawn anew for it in every round.  Caldas et al. 2018.

    Every sub-model has the same size.
    Differs: where not everyone has a weight, its mean is theirs who have it, and not the cohort's.
    """
    first_units(task, rate)

    def mask_of(cohort, i):
        draw, units = (
            generator(cohort.seed, "federated_dropout", cohort.round, i),
            hidden_units(task),
        )
        sizes = zip(units, first_units(task, rate), strict=True)
        return unit_mask(
            task, [np.sort(draw.choice(n, len(some), replace=False)) for n, some in sizes]
        )

    return _by_overlap(task, mask_of)


def heterofl(task: Task, rates: Sequence[float]) -> Algorithm:
    """Client i has the first ``rates[i]`` of each hidden layer's units, as many as it can bear.  Diao et al. 2021, Alg. 1.

    Differs: clients weigh by their examples, where the paper has them count alike; no Scaler, no masked cross-entropy, and
    models without normalisation.
    """
    _check_rates(task, rates=rates)

    def mask_of(cohort, i):
        _one_each("rates", rates, cohort.num_clients)
        return first_units_mask(task, rates[i])

    return _by_overlap(task, mask_of)


def fjord(task: Task, rates: Sequence[float], *, widths: Sequence[float] = WIDTHS) -> Algorithm:
    """Client i trains the first units of a width that is drawn among the ``widths`` up to its ``rates[i]``.

    Ordered dropout, Horvath et al. 2021, Algorithm 1: the model can then be cut at any of the widths.
    Differs: a width is drawn a round, and not a step; without their distillation from the wider to the narrower.
    """
    _check_rates(task, rates=rates, widths=widths)
    if min(rates) < min(widths):
        raise ValueError(
            f"rates has {min(rates):g}, below the least of widths={tuple(widths)}: give a width as small"
        )

    def mask_of(cohort, i):
        _one_each("rates", rates, cohort.num_clients)
        possible = [width for width in sorted(widths) if width <= rates[i]]
        drawn = generator(cohort.seed, "fjord", cohort.round, i).integers(len(possible))
        return first_units_mask(task, possible[drawn])

    return _by_overlap(task, mask_of)


def _by_overlap(task: Task, mask_of: MaskOf) -> Algorithm:
    """FedAvg of parts: ``w <- w + sum_i n_i M_i delta_i / sum_i n_i M_i``, number by number; what nobody had stays.

    Diao et al. 2021, equation 1.
    """

    def local_objective(state, cohort):
        return Terms(mask=_masks(task, mask_of, cohort))

    def contributions(updates, cohort):
        here = _masks(task, mask_of, cohort).to(updates.delta)
        n = updates.num_examples * (updates.steps > 0)
        times = n.sum() / (n @ here).clamp(
            min=1
        )  # undoes that the mean divides by those, too, who do not have a number
        return updates.delta * here * times, n

    def step(w, state, cohort, updates, mean):
        return w + mean, state

    def validate(local, experiment):
        only_weighted_mean(experiment, "parts are weighed number by number")
        sizes_once(local, experiment, "sample=uniform(K)")
        check_same_task(task, experiment)

    return Algorithm(
        lambda w, num_clients: None,
        local_objective,
        contributions,
        step,
        validate,
        partial_updates=True,
    )


def _masks(task: Task, mask_of: MaskOf, cohort: Cohort) -> Tensor:
    """Of the whole cohort, ``[m, d]``."""
    none = torch.empty(0, sum(shape.numel() for shape in task.shapes.values()))
    return torch.stack([mask_of(cohort, int(i)) for i in cohort.ids]) if len(cohort.ids) else none


def _check_rates(task: Task, **given: Sequence[float]) -> None:
    for name, rates in given.items():
        if np.ndim(rates) != 1 or not len(rates):
            raise ValueError(
                f"{name}={rates!r}: it is a list of shares of the units, above 0 and at most 1"
            )
        for rate in set(rates):
            first_units(task, rate)


def _one_each(name: str, values: Sequence, num_clients: int) -> None:
    if len(values) != num_clients:
        raise ValueError(
            f"{name} has {len(values)} entries for {num_clients} clients: give one a client"
        )
