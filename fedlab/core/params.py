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
    """Return the name and shape of every trainable parameter, in the order of the row.

    Example:
        >>> {name: tuple(shape) for name, shape in shapes(nn.Linear(3, 2)).items()}
        {'weight': (2, 3), 'bias': (2,)}
    """
    return {name: p.shape for name, p in module.named_parameters() if p.requires_grad}


def flatten(module: nn.Module) -> Tensor:
    """Return a copy of the trainable parameters, as one row ``[d]``.

    Raises:
        ValueError: If no parameter trains.

    Example:
        >>> flatten(nn.Linear(3, 2)).shape
        torch.Size([8])
    """
    trained = [p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]
    if not trained:
        raise ValueError(
            f"{type(module).__name__} must have a parameter that trains, and none has "
            "requires_grad. Try net.head.requires_grad_(True), for the part that should train"
        )
    return torch.cat(trained)


def views(w: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return named views into rows: ``w [..., d]`` gives ``{name: [..., *shape]}``, no copies.

    Raises:
        ValueError: If the row and the shapes have different numbers of values.

    Example:
        >>> views(torch.arange(3.0), {"a": torch.Size([2]), "b": torch.Size([])})
        {'a': tensor([0., 1.]), 'b': tensor(2.)}
    """
    sizes = [shape.numel() for shape in shapes.values()]
    if w.shape[-1] != sum(sizes):
        raise ValueError(
            f"the row has {w.shape[-1]} values and the model {sum(sizes)} trainable parameters: "
            "they must be equal. Try the row of a run of the same model"
        )
    parts, rows = w.split_with_sizes(sizes, -1), w.shape[:-1]
    # PyTorch reads a plain tuple much faster than a torch.Size
    return {
        name: part.view((*rows, *shape))
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def call(module: nn.Module, values: Mapping[str, Tensor], x: Tensor) -> Any:
    """Return the output of a module with other values of its trainable parameters.

    Differs: PyTorch's own functional_call leaves the values for good in a module with two names
    for a parameter.

    Args:
        module: The module, which stays unchanged.
        values: Values by the names of ``shapes``.
        x: Inputs.
    """
    return functional_call(
        module, {name: values[first] for name, first in _names(module)}, (x,), tie_weights=False
    )


def _names(module: nn.Module) -> list[tuple[str, str]]:
    """Return each name of a trainable parameter, with the first of its parameter's names."""
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
    """Return bytes as real numbers in the precision of ``like`` (float32); other types unchanged.

    Images are stored as bytes: only the batch that a model reads takes four times as much.

    Example:
        >>> as_numbers(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([  0., 255.])
    """
    if x.dtype != torch.uint8:
        return x
    return x.to(torch.float32 if like is None else like.dtype)


def per_row(values: Tensor, p: Tensor) -> Tensor:
    """Return one number per row, ``[m]``, shaped to multiply ``p [m, ...]``.

    Example:
        >>> per_row(torch.zeros(5), torch.zeros(5, 3, 2)).shape
        torch.Size([5, 1, 1])
    """
    return values.view(-1, *[1] * (p.dim() - 1))


def as_matrix(rows: Sequence[Tensor]) -> Tensor:
    """Return rows, ``[d]`` or ``[.., d]``, as one matrix ``[m, d]``.

    Rows that already are all the rows of a matrix are not copied.
    """
    d, base = rows[0].shape[-1], rows[0]._base
    if (
        base is not None
        and base.shape == (len(rows), d)
        and all(row.data_ptr() == at.data_ptr() for row, at in zip(rows, base, strict=True))
    ):
        return base
    return rows[0].view(-1, d) if len(rows) == 1 else torch.cat([row.view(-1, d) for row in rows])


def empty_rows(m: int, like: Tensor) -> Tensor:
    """Return memory for ``m`` rows like ``like [..., d]``."""
    if like.is_cuda:
        return like.new_empty(m, like.shape[-1])
    # NumPy asks Linux for large pages, PyTorch for small ones, whose first touch costs more than
    # training small models.
    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
    return torch.from_numpy(np.empty((m, like.shape[-1]), dtype=dtype))


def as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Return consecutive row numbers as a slice, which is faster; others unchanged.

    Example:
        >>> as_slice(np.array([3, 4, 5])), as_slice(np.array([3, 5]))
        (slice(3, 6, None), array([3, 5]))
    """
    return slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows
