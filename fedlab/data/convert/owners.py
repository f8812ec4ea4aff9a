"""Owners of examples: the person or place that each example is from."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fedlab.data.convert.cells import (
    INT64_END,
    exact_array,
    is_frame,
    is_series,
    missing_mask,
    plain_type,
)


def to_owners(owner: Any, n: int) -> np.ndarray:
    """Return the owner of each of ``n`` examples, ``[n]``, as names or numbers of one type.

    Raises:
        ValueError: If a name is missing, or if there are more or fewer names than examples.

    Example:
        >>> to_owners(["ann", "ann", "bob"], 3).tolist()
        ['ann', 'ann', 'bob']
    """
    values = _owner_array(owner)
    if len(values) != n:
        raise ValueError(
            f"owner must hold one name per example ({len(values)} names for {n} examples). "
            "Try one name for each row of x"
        )
    missing = missing_mask(values)
    if missing.any():
        first, count = np.flatnonzero(missing)[0], missing.sum()
        raise ValueError(
            f"owner[{first}]={values[first]} must be a name ({count} of {n} examples have none). "
            "Try leaving these rows out, or a name for them such as 'unknown'"
        )
    if values.dtype == np.uint64:
        values = values.astype(object)  # beside int64, NumPy would compare them as reals
    if values.dtype.kind != "O":
        return values
    kinds = sorted({plain_type(value) for value in values})
    if len(kinds) > 1:
        raise ValueError(
            f"owner must hold names of one type (there are several: {', '.join(kinds)}). "
            "Try owner=[str(name) for name in owner]"
        )
    if kinds == ["int"] and any(abs(value) >= INT64_END for value in values):
        return np.array([int(value) for value in values], dtype=object)
    if kinds[0] in ("str", "int", "float", "bool"):
        return np.array(values.tolist())
    return np.array([str(value) for value in values])


def _owner_array(owner: Any) -> np.ndarray:
    """Return the owners as an array ``[n]`` of any type."""
    if isinstance(owner, str):
        raise ValueError(
            f"owner={owner!r} must be one name per example, not one text. "
            f"Try owner=frame[{owner!r}], or tabular(frame, label=..., owner={owner!r})"
        )
    if is_frame(owner) and owner.shape[1] == 1:
        owner = owner.iloc[:, 0]
    values = owner.numpy(force=True) if isinstance(owner, Tensor) else owner
    values = exact_array(values.astype(object) if is_series(values) else values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(
            f"owner of shape {values.shape} must be [n], one name or number per example. "
            "Try one column of it"
        )
    return values
