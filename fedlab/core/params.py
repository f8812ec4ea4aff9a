"""Between a model and a vector: the trainable parameters of a module are one row ``w [d]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

torch.empty(2**22)


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Name and shape of every parameter that trains, in the order of the row."""
    return {name: p.shape for name, p in module.named_parameters() if p.requires_grad}


def flatten(module: nn.Module) -> Tensor:
    """A copy of what trains, as one row ``[d]``; ValueError where nothing does."""
    trained = [p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]
    if not trained:
        told = (
            f"nothing of {type(module).__name__} trains: none of its parameters has requires_grad"
        )
        raise ValueError(f"{told}. Try net.head.requires_grad_(True), for the part that should")
    return torch.cat(trained)


def views(w: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Named views into rows: ``w [..., d]`` gives ``{name: [..., *shape]}``, without a copy."""
    sizes = [shape.numel() for shape in shapes.values()]
    if w.shape[-1] != sum(sizes):
        raise ValueError(
            f"the row has {w.shape[-1]} values and the model {sum(sizes)} trainable parameters: they must be equal"
        )
    pieces, rows = w.split_with_sizes(sizes, -1), w.shape[:-1]
    # PyTorch reads a plain tuple much faster than a torch.Size
    return {
        name: piece.view((*rows, *shape))
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def call(module: nn.Module, values: Mapping[str, Tensor], x: Tensor) -> Any:
    """Return the output of a module with ``values``, by the names of ``shapes``, in place of what trains.

    Differs: PyTorch's own functional_call leaves a module that has two names with the values, for good.
    """
    return functional_call(
        module, {name: values[first] for name, first in _names(module)}, (x,), tie_weights=False
    )


def _names(module: nn.Module) -> list[tuple[str, str]]:
    """One name for each place of a parameter that trains, and the first of the names that the parameter has."""
    if module not in _NAMES:
        first = {p: name for name, p in module.named_parameters() if p.requires_grad}
        _NAMES[module] = [
            (f"{prefix}.{key}" if prefix else key, first[p])
            for prefix, layer in module.named_modules()
            for key, p in layer._parameters.items()
            if p in first
        ]
    return _NAMES[module]


_NAMES: WeakKeyDictionary[nn.Module, list[tuple[str, str]]] = WeakKeyDictionary()


def as_numbers(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Return bytes as real numbers of the same values, in the precision of the row ``like`` (float32); the rest as it is.

    Pictures are kept as bytes, and only what a model reads at a time takes four times as much.
    """
    if x.dtype != torch.uint8:
        return x
    return x.to(torch.float32 if like is None else like.dtype)


def per_row(rows: Tensor, p: Tensor) -> Tensor:
    """One number a row, ``[m]``, shaped to multiply ``p [m, ...]``."""
    return rows.view(-1, *[1] * (p.dim() - 1))


def as_matrix(rows: Sequence[Tensor]) -> Tensor:
    """Rows, ``[d]`` or ``[.., d]``, one under the other, ``[m, d]``; not copied where they already are those of a matrix."""
    d, whole = rows[0].shape[-1], rows[0]._base
    there = whole is not None and whole.shape == (len(rows), d)
    if there and all(
        row.data_ptr() == own.data_ptr() for row, own in zip(rows, whole, strict=True)
    ):
        return whole
    return rows[0].view(-1, d) if len(rows) == 1 else torch.cat([row.view(-1, d) for row in rows])


def empty_rows(m: int, like: Tensor) -> Tensor:
    """Memory for ``m`` rows like ``like [..., d]``."""
    if like.is_cuda:
        return like.new_empty(m, like.shape[-1])
    # NumPy asks Linux for large pages, PyTorch for small ones, whose first touch costs more than training small models.
    return torch.from_numpy(
        np.empty((m, like.shape[-1]), dtype=torch.empty(0, dtype=like.dtype).numpy().dtype)
    )


def as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Where ``rows`` lie: a slice, which is faster, where they follow each other."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows
