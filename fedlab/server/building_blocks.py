"""Parts that several algorithms share: weights of updates, and checks of settings.

Example:
    >>> from fedlab.core import Algorithm
    >>> def step(w, state, cohort, updates, mean):
    ...     return w + 0.5 * mean, state  # half a step of FedAvg
    >>> cautious = Algorithm(no_state, plain_objective, weigh_by_size, step)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedlab.core import Cohort, Experiment, Local, Terms, Updates
from fedlab.server.aggregate import weighted_mean


def no_state(w: Tensor, num_clients: int) -> None:
    """Start without a state."""


def plain_objective(state: Any, cohort: Cohort) -> Terms:
    """Let clients minimise their own loss, without further terms."""
    return Terms()


def weigh_by_size(updates: Updates, cohort: Cohort) -> tuple[Tensor, Tensor]:
    """Weigh each client by its number of examples."""
    return updates.delta, updates.num_examples


def weigh_equally(updates: Updates, cohort: Cohort) -> tuple[Tensor, Tensor]:
    """Weigh all clients alike, except those that took no step."""
    return updates.delta, has_trained(updates)


def has_trained(updates: Updates) -> Tensor:
    """Return 1 for clients that took a step and 0 for the others, ``[m]``."""
    return (updates.steps > 0).to(updates.delta.dtype)


def negative_mean_gradient(updates: Updates) -> Tensor:
    """Return minus the mean gradient of each client's steps, ``[m, d]``; 0 without steps."""
    return updates.delta / torch.where(updates.steps > 0, updates.lr_sum, 1)[:, None]


def size_shares(updates: Updates) -> Tensor:
    """Return each client's share of the examples of the cohort, ``[m]``; 0 without steps."""
    n = updates.num_examples * (updates.steps > 0)
    return n / n.sum().clamp(min=1)


def trained_models(w: Tensor, terms: Terms, updates: Updates) -> Tensor:
    """Return the models of the clients after training, ``[m, d]``.

    Args:
        w: The server's model before the round, ``[d]``.
        terms: Terms that the clients trained with.
        updates: Their updates.
    """
    start = w if terms.mask is None else w * terms.mask.to(w)
    return start + updates.delta


def require_weighted_mean(experiment: Experiment, reason: str) -> None:
    """Raise ValueError unless the aggregate of an experiment is ``weighted_mean``."""
    if experiment.aggregate is not weighted_mean:
        name = getattr(experiment.aggregate, "__name__", experiment.aggregate)
        raise ValueError(
            f"aggregate={name} must be weighted_mean ({reason}). Try aggregate=weighted_mean"
        )


def refuse_double_weighting(
    local: Local, experiment: Experiment, remedy: str = "aggregate=mean"
) -> None:
    """Raise ValueError if sizes count twice: when clients are drawn, and when weighed.

    Args:
        local: Local training, which does not matter here.
        experiment: Experiment with a sampler and an aggregate.
        remedy: Setting to try instead.
    """
    if getattr(experiment.sample, "by_size", False) and experiment.aggregate is weighted_mean:
        raise ValueError(
            "sample=by_size must not go with aggregate=weighted_mean (sizes would count twice, "
            f"when clients are drawn and when they are weighed). Try {remedy}"
        )


def refuse_adamw(local: Local, reason: str) -> None:
    """Raise ValueError if clients train with AdamW."""
    if local.optimizer == "adamw":
        raise ValueError(f"optimizer='adamw' must be 'sgd' ({reason}). Try optimizer='sgd'")


def check_above_0(**values: float) -> None:
    """Raise ValueError unless each value is above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(
                f"{name}={value} must be above 0. Try the paper's value, in the docstring"
            )


def check_below_1(**values: float) -> None:
    """Raise ValueError unless each value is at least 0 and below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(
                f"{name}={value} must be at least 0 and below 1. "
                "Try the paper's value, in the docstring"
            )
