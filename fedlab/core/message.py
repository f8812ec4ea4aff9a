"""Updates and models on their way: messages, and the transforms that compress them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedlab.core.algorithm import Cohort


@dataclass(frozen=True, eq=False)
class Message:
    """A cohort's rows on their way: the numbers that are left to send, and the forms that make rows of them again.

    ``values [m, k]`` are whole rows ``[m, d]`` as long as there are no ``forms``.  ``shapes`` are those of the row's
    tensors.  A ``mask`` of 0 and 1, equally many in each row, says outside of which the rows are 0, as both sides know.
    """

    values: Tensor
    shapes: Mapping[str, torch.Size]
    forms: tuple[Any, ...] = ()  # of fedlab.upload.encodings, first to last
    mask: Tensor | None = None  # [1, d] or [m, d]

    @cached_property
    def delta(self) -> Tensor:
        """The rows as the receiver has them, ``[m, d]``."""
        rows = self.values
        for form in reversed(self.forms):
            rows = form.open(rows)
        return rows

    def allowed(self, rows: Tensor) -> Tensor:
        """Rows ``[m, d]``, such as what a client remembers, as far as they may be sent: 0 outside the mask."""
        return rows if self.mask is None else rows * self.mask

    def now(self, values: Tensor, *form: Any) -> Message:
        """After one more step: what it left to send, and the form that undoes it."""
        return replace(self, values=values, forms=(*self.forms, *form))


class Transform(NamedTuple):
    """What becomes of rows between a client and the server, as a pair of functions.

    ``init(w [d], shapes, num_clients) -> state``;
    ``apply(message, state, cohort) -> (message, state)``, of a row a client of the cohort, at least one.

    ``place`` says where in a chain its first and last step belong (see ``fedlab.upload.chain``).  ``gives`` is what the
    server gets: rows, or what an algorithm of the same ``takes`` can open.  ``no_feedback`` and ``no_download`` are reasons,
    if there are any, why it must not stand inside ``error_feedback`` or on the way down.
    """

    init: Callable[[Tensor, Mapping[str, torch.Size], int], Any]
    apply: Callable[[Message, Any, Cohort], tuple[Message, Any]]
    place: tuple[int, int]
    gives: str = "rows"
    no_feedback: str = ""
    no_download: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is ``whole()``, with which nothing has to be done."""
        return self.apply.__qualname__ == _WHOLE


def whole() -> Transform:
    """Rows as they are, in full precision."""

    def apply(message, state, cohort):
        return message, state

    return Transform(lambda w, shapes, num_clients: None, apply, (0, 0))


_WHOLE = whole().apply.__qualname__
