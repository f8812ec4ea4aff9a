"""A watch over lookups in tables: indices outside a table, and the order of lookups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class OutOfTable(Exception):  # noqa: N818 - never leaves fedlab
    """A lookup of rows that a table does not have."""

    def __init__(self, rows: Tensor, outside: Tensor, size: int):
        super().__init__()
        self.rows, self.outside = rows, outside
        self.size = size


class LookupsDone(Exception):  # noqa: N818 - never leaves fedlab
    """The last lookup of interest is done."""


class TableLookups(TorchDispatchMode):
    """Check every lookup in a table inside the block.

    A row outside a table raises OutOfTable, in place of an obscure error or of none.

    Args:
        last: Number of the lookup after which LookupsDone is raised, since the rest of the pass
            need not be computed (default: the pass runs to its end).

    Attributes:
        number: Lookups so far.
        early: Lookups before the first product of matrices.
        unmapped: Whether a lookup has a gradient of its own, by padding or by frequency, which
            ``vmap`` silently leaves out.

    Example:
        >>> with TableLookups() as lookups:
        ...     _ = torch.nn.Embedding(4, 2)(torch.tensor([0, 3]))
        >>> lookups.number
        1
    """

    def __init__(self, last: int | None = None):
        super().__init__()
        self.last = last
        self.number, self.early = 0, 0
        self.unmapped, self._products = False, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if lookups := list(self._lookups(func._overloadpacket, args)):
            for size, rows, lowest in lookups:
                outside = (rows < lowest) | (rows >= size)
                if outside.any():
                    raise OutOfTable(rows, outside, size)
            names = (argument.name for argument in func._schema.arguments)
            options = dict(zip(names, args, strict=False)) | (kwargs or {})
            self.unmapped |= options.get("padding_idx", -1) >= 0 or bool(
                options.get("scale_grad_by_freq")
            )
            self.number += 1
            self.early += not self._products
            if self.number == self.last:
                raise LookupsDone
        self._products += func._overloadpacket in _PRODUCTS
        return func(*args, **(kwargs or {}))

    def _lookups(self, op: Any, args: tuple) -> Iterator[tuple[int, Tensor, int]]:
        """Yield the size of each table, the rows read, and the lowest row that the table has.

        Indexing counts before the first product only: later it rarely reads a table.
        """
        if op in _TABLES:
            yield len(args[0]), args[1], 0
        elif op in _BY_AXIS and not self._products and args[0].dim():
            yield args[0].shape[args[1]], args[2], 0
        elif op is torch.ops.aten.index and not self._products:
            for size, rows in zip(args[0].shape, args[1], strict=False):
                if rows is not None and rows.dtype in (torch.int64, torch.int32):
                    yield size, rows, -size
                elif rows is not None and rows.dtype is torch.bool:
                    return  # a mask takes as many axes as it has


_TABLES = {
    torch.ops.aten.embedding,
    torch.ops.aten._embedding_bag,
    torch.ops.aten._embedding_bag_forward_only,
}

_BY_AXIS = {torch.ops.aten.index_select, torch.ops.aten.gather}

_PRODUCTS = {
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
    torch.ops.aten.bmm,
    torch.ops.aten.convolution,
}
