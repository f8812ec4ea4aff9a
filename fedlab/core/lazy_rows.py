"""Rows that are not written out yet, and the two operations that never need them written.

The fast engine can hold the updates of a cohort as factors (see ``fedlab.client.lowrank``).  Two
places of a round work on the factors, by the explicit calls below::

    engine   split_rows(rows, sizes)    one matrix of all runs  ->  the rows of each run
    server   weighted_sum(p, rows)      rows [m, d]             ->  one vector [d]

The operator ``p @ rows`` is ``weighted_sum``, too.  Any other function of PyTorch receives
``rows.dense()``, so other code sees an ordinary matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils._pytree import tree_map


class LazyRows(Tensor):
    """A matrix ``[m, d]`` whose shape and type are known before its numbers are written."""

    def weighted_sum(self, p: Tensor) -> Tensor:
        """Return ``sum_i p_i rows_i [d]`` for weights ``p [m]``."""
        raise NotImplementedError

    def split_rows(self, sizes: Sequence[int]) -> Sequence[Tensor]:
        """Return consecutive blocks of rows with these sizes."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """Write the rows out once, and return them as an ordinary matrix ``[m, d]``."""
        raise NotImplementedError

    def __rmatmul__(self, p: Tensor) -> Tensor:
        """Return ``p @ rows``, as in a user's own mean: Python asks the subclass first."""
        return self.weighted_sum(p) if type(p) is Tensor and p.dim() == 1 else p @ self.dense()

    @classmethod
    def __torch_function__(cls, func: Callable, types, args=(), kwargs=None):
        if func in _METADATA:
            return super().__torch_function__(func, types, args, kwargs)
        return cls.__torch_dispatch__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types, args=(), kwargs=None):  # type: ignore[override]
        args, kwargs = tree_map(
            lambda a: a.dense() if isinstance(a, LazyRows) else a, (args, kwargs or {})
        )
        return func(*args, **kwargs)


# Reading these writes nothing.
_METADATA: set[Callable] = {Tensor.__len__} | {
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "is_cuda")
}


def weighted_sum(p: Tensor, rows: Tensor) -> Tensor:
    """Return ``sum_i p_i rows_i [d]``, from the factors if the rows are not written out.

    Example:
        >>> import torch
        >>> weighted_sum(torch.tensor([0.5, 0.25]), torch.tensor([[2.0, 0.0], [4.0, 8.0]]))
        tensor([2., 2.])
    """
    return rows.weighted_sum(p) if isinstance(rows, LazyRows) else p @ rows


def split_rows(rows: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Return consecutive blocks of rows with these sizes, without a copy.

    Example:
        >>> import torch
        >>> [block.tolist() for block in split_rows(torch.tensor([[1], [2], [3]]), [1, 2])]
        [[[1]], [[2], [3]]]
    """
    if isinstance(rows, LazyRows):
        return rows.split_rows(sizes)
    return rows.split_with_sizes(list(sizes))
