"""Between a model and a vector: the trainable parameters of a module are one row ``w [d]``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Name and shape of every parameter that trains, in the order of the row."""
    return {name: p.shape for name, p in module.named_parameters() if p.requires_grad}


def flatten(module: nn.Module) -> Tensor:
    """A copy of what trains, as one row ``[d]``."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad])


def views(w: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Named views into rows: ``w [..., d]`` gives ``{name: [..., *shape]}``, without a copy."""
    sizes = [shape.numel() for shape in shapes.values()]
    if w.shape[-1] != sum(sizes):
        raise ValueError(
            f"the row has {w.shape[-1]} values and the model {sum(sizes)} trainable parameters: they must be equal"
        )
    pieces, rows = w.split_with_sizes(sizes, -1), w.shape[:-1]
    return {name: piece.view(rows + shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def over(rows: Tensor, p: Tensor) -> Tensor:
    """One number a row, ``[m]``, shaped to multiply ``p [m, ...]``."""
    return rows.view(-1, *[1] * (p.dim() - 1))
