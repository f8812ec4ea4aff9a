"""The error of an adapter average: its distance from an exact mean of the clients' models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlab.core import Algorithm, Task, params
from fedlab.models.adapted_layers import AdaptedLayer, adapted_layers
from fedlab.server.building_blocks import size_shares, trained_models
from fedlab.server.factors import Factors


def with_aggregation_error(algorithm: Algorithm, task: Task) -> Algorithm:
    """Record how far the server's step of each round is from an exact mean.

    Args:
        algorithm: Algorithm on adapters, such as ``fedit()``.
        task: Task with adapters.

    Returns:
        The same algorithm; ``state[0]`` is its state, and ``state[1]`` the ``aggregation_error`` of
        the last round, 0 before the first.

    Raises:
        ValueError: If the task has no adapters; when it runs, if the algorithm keeps a part of the
            model on the clients.
    """
    adapted_layers(task)

    def init(w, num_clients):
        return algorithm.init(w, num_clients), w.new_zeros(())

    def local_objective(state, cohort):
        terms = algorithm.local_objective(state[0], cohort)
        if terms.private:
            raise ValueError(
                "algorithm must have no private tensors (with_aggregation_error sees the server's "
                "model only). Try fedit()"
            )
        return terms

    def step(w, state, cohort, updates, mean):
        if not updates.steps.any():
            return w, state
        terms = algorithm.local_objective(state[0], cohort)
        after, inner = algorithm.step(w, state[0], cohort, updates, mean)
        models = trained_models(w, terms, updates)
        return after, (inner, aggregation_error(task, w, models, size_shares(updates), after))

    return algorithm._replace(init=init, local_objective=local_objective, step=step)


def aggregation_error(
    task: Task, before: Tensor, models: Tensor, p: Tensor, after: Tensor
) -> Tensor:
    """Return ``||change - wanted|| / ||wanted||`` over the adapted layers; 0 if exact.

    The weight of a layer is ``W + s B A``. Wanted is the mean of the clients' weights minus the
    weight before; the change is the weight after minus the weight before.

    Args:
        task: Task with adapters.
        before: The server's model before the round, ``[d]``.
        models: The clients' models after training, ``[m, d]``.
        p: Weights of the clients, ``[m]``, 1 in sum.
        after: The server's model after the round, ``[d]``.

    Returns:
        A tensor of one number.
    """
    old, trained, new = (effective_weights(task, w) for w in (before, models, after))
    wanted = {name: torch.tensordot(p, trained[name], 1) - old[name] for name in old}
    errors = (new[name] - old[name] - wanted[name] for name in old)
    error = sum((each.square().sum() for each in errors), start=before.new_zeros(()))
    return (error / sum(w.square().sum() for w in wanted.values())).sqrt() if error > 0 else error


def effective_weights(task: Task, w: Tensor) -> dict[str, Tensor]:
    """Return the weight of each adapted layer, ``s B A`` and W where it is in the row.

    Args:
        task: Task with adapters.
        w: Rows ``[..., d]``.

    Returns:
        Weights ``[..., out, in]`` by the names of the layers.
    """
    views, template = params.views(w, task.shapes), task.template(w)
    weights = {}
    for adapted in adapted_layers(task):
        frozen = f"{adapted.layer}.lora_A.default.weight"
        a = template.get_parameter(frozen) if adapted.a is None else views[adapted.a]
        weights[adapted.layer] = adapted.scale * views[adapted.b] @ a
        if adapted.base is not None:
            weights[adapted.layer] += base_weight(views, adapted)
    return weights


def base_weight(views: Mapping[str, Tensor], adapted: AdaptedLayer) -> Tensor:
    """Return the weight W ``[..., out, in]`` of a layer, as a view; it must be in the row."""
    assert adapted.base is not None
    base = views[adapted.base]
    return base.mT if adapted.transposed else base


def factor_views(views: Mapping[str, Tensor], adapted: AdaptedLayer) -> Factors:
    """Return A ``[..., r, in]`` and B ``[..., out, r]`` of a layer, as views; both must train."""
    assert adapted.a is not None
    return views[adapted.a], views[adapted.b]
