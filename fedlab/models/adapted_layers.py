"""Layers with adapters in a task's row: the names, sizes and scale of their factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from fedlab.core import Task, once_per_task


class AdaptedLayer(NamedTuple):
    """A layer with an adapter: the weight is W + scale B A.

    Attributes:
        layer: Name of the layer.
        a: Name of A ``[rank, in]`` in the row; None: it is frozen.
        b: Name of B ``[out, rank]`` in the row.
        base: Name of W in the row, ``[out, in]``, or ``[in, out]`` if transposed; None: it is
            frozen.
        scale: alpha / rank.
        transposed: W is stored as ``[in, out]``, as in GPT-2.
        rank: Rank of the adapter.
        inputs: Number of inputs of the layer.
        outputs: Number of outputs of the layer.
    """

    layer: str
    a: str | None
    b: str
    base: str | None
    scale: float
    transposed: bool
    rank: int
    inputs: int
    outputs: int


@once_per_task
def adapted_layers(task: Task) -> tuple[AdaptedLayer, ...]:
    """Return the layers whose B, and usually A, are part of the row.

    Raises:
        ValueError: If there is none.
    """
    layers = []
    for name, layer in task.template(torch.empty(0)).named_modules():
        a, b = f"{name}.lora_A.default.weight", f"{name}.lora_B.default.weight"
        if b in task.shapes:
            base = f"{name}.base_layer.weight"
            rank, inputs = layer.lora_A["default"].weight.shape
            layers.append(
                AdaptedLayer(
                    layer=name,
                    a=a if a in task.shapes else None,
                    b=b,
                    base=base if base in task.shapes else None,
                    scale=layer.scaling["default"],
                    transposed=layer.fan_in_fan_out,
                    rank=rank,
                    inputs=inputs,
                    outputs=task.shapes[b][0],
                )
            )
    if not layers:
        raise ValueError(
            "the task must have adapters B A in its row (this one has none). Try "
            "classifier(model, classes, lora(8))"
        )
    return tuple(layers)


def lora_layers(task: Task) -> tuple[AdaptedLayer, ...]:
    """Return the adapted layers of plain LoRA, whose A and B both train.

    Raises:
        ValueError: If A is frozen, or there is no adapter.
    """
    if any(layer.a is None for layer in adapted_layers(task)):
        raise ValueError(
            "the task must train both A and B (its A is frozen, and averaging B alone is exact). "
            "Try fedavg() as the algorithm, or lora(8) in the task"
        )
    return adapted_layers(task)


@once_per_task
def base_weights(task: Task) -> tuple[str, ...]:
    """Return the names of the adapted layers' own weights in the row, of ``lora(base=True)``."""
    names = (
        f"{name}.base_layer.weight"
        for name, layer in task.template(torch.empty(0)).named_modules()
        if hasattr(layer, "lora_B")
    )
    return tuple(name for name in names if name in task.shapes)


def check_base_weights(task: Task, fixed: Sequence[str]) -> None:
    """Check that clients do not move the weights beside adapters.

    Args:
        task: The task.
        fixed: Names of the tensors that clients leave as they are.

    Raises:
        ValueError: If such a weight is not ``fixed``.
    """
    moved = sorted(set(base_weights(task)) - set(fixed))
    if moved:
        raise ValueError(
            "lora(base=True) must go with flora or fedex (only their servers move "
            f"{moved[0]} and the like; under another algorithm clients would train and send "
            "them). Try lora() without base"
        )
