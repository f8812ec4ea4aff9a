"""Updates and models on their way: messages, and the transforms that compress them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedlab.core.algorithm import Cohort


@dataclass(frozen=True, eq=False)
class Message:
    """A cohort's rows on their way: the numbers that are left to send, and the encodings that make rows of them again.

    ``values [m, k]`` are whole rows ``[m, d]`` as long as there are no ``encodings``.  ``shapes`` are those of the row's
    tensors.  A ``mask`` of 0 and 1, equally many in each row, says outside of which the rows are 0, as both sides know.
    """

    values: Tensor
    shapes: Mapping[str, torch.Size]
    encodings: tuple[Any, ...] = ()  # of fedlab.upload.encodings, first to last
    mask: Tensor | None = None  # [1, d] or [m, d]

    @cached_property
    def delta(self) -> Tensor:
        """The rows as the receiver has them, ``[m, d]``."""
        rows = self.values
        for encoding in reversed(self.encodings):
            rows = encoding.decode(rows)
        return rows

    def allowed(self, rows: Tensor) -> Tensor:
        """Rows ``[m, d]``, such as what a client remembers, as far as they may be sent: 0 outside the mask."""
        return rows if self.mask is None else rows * self.mask

    def encoded(self, values: Tensor, *encodings: Any) -> Message:
        """Return the message after one more step: the values left to send, and how to decode them."""
        return replace(self, values=values, encodings=(*self.encodings, *encodings))


class Stage(IntEnum):
    """The stages of a message, in the order in which a chain of transforms may reach them.

    A transform names the stage at which its first step begins and the stage that its last step leaves.
    """

    DENSE = 0  # all numbers of an update
    REDUCED = 1  # fewer numbers, equally many for each client
    RAGGED = 2  # fewer numbers, of each client another number of them
    CODED = 3  # codes of a few bits, or shorter floats
    PACKED = 4  # bytes compressed without loss
    SELECTED = 5  # the messages of those clients only that send; this ends a chain


class Transform(NamedTuple):
    """What becomes of rows between a client and the server, as a pair of functions.

    ``init(w [d], shapes, num_clients) -> state``;
    ``apply(message, state, cohort) -> (message, state)``, of a row a client of the cohort, at least one.

    A chain begins it at ``first_stage`` and continues from ``last_stage`` (see ``fedlab.upload.chains``).
    ``update_format`` names the result on the server: rows, or the format of an algorithm that decodes it.
    ``no_feedback_reason`` and ``no_download_reason`` say why it must not stand inside ``error_feedback``, or
    compress the model on its way down; both are empty where it may.
    """

    init: Callable[[Tensor, Mapping[str, torch.Size], int], Any]
    apply: Callable[[Message, Any, Cohort], tuple[Message, Any]]
    first_stage: Stage
    last_stage: Stage
    update_format: str = "rows"
    no_feedback_reason: str = ""
    no_download_reason: str = ""

    @property
    def is_identity(self) -> bool:
        """Say whether it is ``identity()``, which changes nothing."""
        return self.apply.__qualname__ == _IDENTITY


def identity() -> Transform:
    """Send updates unchanged, in full precision."""

    def apply(message, state, cohort):
        return message, state

    return Transform(lambda w, shapes, num_clients: None, apply, Stage.DENSE, Stage.DENSE)


_IDENTITY = identity().apply.__qualname__
