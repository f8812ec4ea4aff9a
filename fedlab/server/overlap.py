"""Averages of different parts of a model, where they overlap.

In the formulas ``M_i [d]`` is client i's mask, and ``n_i`` its number of examples; ``sum_i`` goes
over the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedlab.core import Algorithm, Cohort, Task, Terms
from fedlab.models.subnetworks import check_same_task
from fedlab.server.building_blocks import (
    no_state,
    refuse_double_weighting,
    require_weighted_mean,
)

MaskOf = Callable[[Cohort, int], Tensor]  # the mask [d] of a client of the cohort


def averaging_overlap(task: Task, mask_of: MaskOf) -> Algorithm:
    """Average each parameter over the clients that have it; the others stay unchanged.

    ``w <- w + sum_i n_i M_i delta_i / sum_i n_i M_i``, Diao et al. 2021, equation 1.

    Args:
        task: Task whose parameters are masked.
        mask_of: Function from a cohort and one of its clients to the client's mask ``[d]``.
    """

    def local_objective(state, cohort):
        return Terms(mask=stack_masks(task, mask_of, cohort))

    def contributions(updates, cohort):
        masks = stack_masks(task, mask_of, cohort).to(updates.delta)
        n = updates.num_examples * (updates.steps > 0)
        # The weighted mean also divides by clients that do not have a parameter: undo that.
        factor = n.sum() / (n @ masks).clamp(min=1)
        return updates.delta * masks * factor, n

    def step(w, state, cohort, updates, mean):
        return w + mean, state

    def validate(local, experiment):
        require_weighted_mean(experiment, "parts are weighed parameter by parameter")
        refuse_double_weighting(local, experiment, "sample=uniform(K)")
        check_same_task(task, experiment)

    return Algorithm(no_state, local_objective, contributions, step, validate, partial_updates=True)


def stack_masks(task: Task, mask_of: MaskOf, cohort: Cohort) -> Tensor:
    """Return the masks of a cohort, ``[m, d]``.

    Args:
        task: Task whose parameters are masked.
        mask_of: Function from a cohort and one of its clients to the client's mask ``[d]``.
        cohort: Clients of the round.
    """
    if not len(cohort.ids):
        return torch.empty(0, sum(shape.numel() for shape in task.shapes.values()))
    return torch.stack([mask_of(cohort, int(client)) for client in cohort.ids])


def check_one_per_client(name: str, values: Sequence, num_clients: int) -> None:
    """Raise ValueError unless there is one value per client.

    Args:
        name: Name of the values in the error.
        values: The values.
        num_clients: Number N of clients.
    """
    if len(values) != num_clients:
        raise ValueError(
            f"{name}={values!r:.80} must have {num_clients} entries, one per client "
            f"(it has {len(values)}). Try as many"
        )
