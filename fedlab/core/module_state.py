"""Comparison of modules and their outputs, to find a forward pass that changes its module."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

MAX_DEPTH = 5  # levels of containers and objects in which a module may keep a value


def equal(a: Tensor, b: Tensor) -> bool:
    """Compare tensors bit for bit; NaN equals NaN.

    Example:
        >>> equal(torch.tensor([torch.nan, 1.0]), torch.tensor([torch.nan, 1.0]))
        True
    """
    if a is b or (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return a is b
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def same_outputs(first: Any, second: Any) -> bool:
    """Compare the tensors in two outputs, to rounding.

    Example:
        >>> same_outputs({"y": torch.ones(2)}, {"y": torch.ones(2) * (1 + 1e-7)})
        True
    """
    tensors, others = (
        [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        for output in (first, second)
    )
    if [leaf.shape for leaf in tensors] != [leaf.shape for leaf in others]:
        return False
    for a, b in zip(tensors, others, strict=True):
        near = 1e-6 * a.abs().max().item() if a.is_floating_point() and a.numel() else 0
        if not (equal(a, b) or (near and torch.allclose(a, b, rtol=0, atol=near, equal_nan=True))):
            return False
    return True


def state(model: nn.Module) -> dict[str, Any]:
    """Return every value of a module by its path: buffers, attributes, parameters.

    A tensor is noted with its version, which each write raises, so that nothing is copied.
    """
    leaves: dict[str, Any] = {}
    seen: set[int] = set()
    for name, layer in model.named_modules():
        prefix = f"{name}." if name else ""
        for key, value in vars(layer).items():
            if key in ("_parameters", "_buffers"):
                for tensor_name, tensor in value.items():
                    _visit(leaves, seen, prefix + tensor_name, tensor, 0)
            elif key not in _INNER:
                _visit(leaves, seen, prefix + key, value, 0)
    return leaves


_INNER = set(vars(nn.Module())) - {"training"}


def _visit(leaves: dict[str, Any], seen: set[int], path: str, value: Any, depth: int) -> None:
    """Note a value, or the values within it."""
    if isinstance(value, Tensor):
        leaves[path] = value, None if value.is_inference() else value._version
    elif isinstance(value, np.ndarray):
        leaves[path] = value.copy()
    elif value is None or isinstance(
        value, bool | int | float | complex | str | bytes | np.generic
    ):
        leaves[path] = value
    elif isinstance(value, Mapping | list | tuple | set | frozenset | deque):
        if id(value) in seen or depth == MAX_DEPTH:
            return
        seen.add(id(value))
        leaves[f"{path} (length)"] = len(value)
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            _visit(leaves, seen, f"{path}.{key}", item, depth + 1)
    elif type(value).__module__.partition(".")[0] not in _FOREIGN and isinstance(
        attributes := _attributes(value), dict
    ):
        if id(value) in seen or depth == MAX_DEPTH:
            return
        seen.add(id(value))
        for key, item in attributes.items():
            _visit(leaves, seen, f"{path}.{key}", item, depth + 1)


_FOREIGN = {
    "builtins",
    "functools",
    "threading",
    "torch",
    "transformers",
    "peft",
    "fedlab",
    "numpy",
    "types",
}


def _attributes(value: Any) -> Any:
    """Return the attributes of an object; None for classes and modules, visited elsewhere."""
    return None if isinstance(value, type | nn.Module) else getattr(value, "__dict__", None)


def changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield the paths at which two states differ.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = state(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> layer.calls = 1
        >>> sorted(changes(before, state(layer)))
        ['bias', 'calls']
    """
    for path, value in after.items():
        if path not in before or not _same_value(before[path], value):
            yield path.removesuffix(" (length)")


def _same_value(first: Any, second: Any) -> bool:
    if isinstance(first, tuple) and isinstance(second, tuple):
        (a, version), (b, later) = first, second
        return version == later if a is b else equal(a.detach(), b.detach())
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.array_equal(
            first, second, equal_nan=first.dtype.kind in "fc" and second.dtype.kind in "fc"
        )
    return type(first) is type(second) and (first == second or first != first)
