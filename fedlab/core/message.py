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
    """The rows of a cohort on their way: the values left to send, and how to decode them.

    Attributes:
        values: Values left to send, ``[m, k]``; whole rows ``[m, d]`` without ``encodings``.
        shapes: Names and shapes of the tensors of a row.
        encodings: Encodings of ``fedlab.upload.encodings``, in the order in which they were made.
        mask: Places that may differ from 0, known to both sides, ``[1, d]`` or ``[m, d]``.  Each
            row has equally many.

    Example:
        >>> message = Message(torch.tensor([[1.0, 2.0]]), {"w": torch.Size([2])})
        >>> message.delta
        tensor([[1., 2.]])
    """

    values: Tensor
    shapes: Mapping[str, torch.Size]
    encodings: tuple[Any, ...] = ()
    mask: Tensor | None = None

    @cached_property
    def delta(self) -> Tensor:
        """Return the rows as the receiver decodes them, ``[m, d]``."""
        rows = self.values
        for encoding in reversed(self.encodings):
            rows = encoding.decode(rows)
        return rows

    def allowed(self, rows: Tensor) -> Tensor:
        """Return rows ``[m, d]``, such as a client's memory, with 0 outside the mask."""
        return rows if self.mask is None else rows * self.mask

    def encoded(self, values: Tensor, *encodings: Any) -> Message:
        """Return the message after one more step: the values left to send, and their encodings."""
        return replace(self, values=values, encodings=(*self.encodings, *encodings))


class Stage(IntEnum):
    """The stages of a message, in the order in which a chain of transforms may reach them.

    A transform names the stage at which its first step begins, and the stage after its last step.
    """

    DENSE = 0  # all numbers of an update
    REDUCED = 1  # fewer numbers, equally many for each client
    RAGGED = 2  # fewer numbers, a different count for each client
    CODED = 3  # codes of a few bits, or shorter floats
    PACKED = 4  # bytes compressed without loss
    SELECTED = 5  # messages of a subset of the clients; this ends a chain


class Transform(NamedTuple):
    """A compressor of rows between a client and the server, as a pair of functions.

    Attributes:
        init: ``(w [d], shapes, num_clients) -> state``.
        apply: ``(message, state, cohort) -> (message, state)``, for one or more clients.
        first_stage: Stage at which a chain begins it (see ``fedlab.upload.chain``).
        last_stage: Stage from which a chain continues.
        update_format: Format of the result on the server: rows, or the format of an algorithm
            that decodes it.
        no_feedback_reason: Why ``error_feedback`` must not contain it; empty if it may.
        no_download_reason: Why it must not compress the model on its way down; empty if it may.
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
        """Return whether it is ``identity()``, which changes nothing."""
        return self.apply.__qualname__ == _IDENTITY


def identity() -> Transform:
    """Send updates unchanged, in full precision.

    Example:
        >>> identity().is_identity
        True
    """

    def apply(message, state, cohort):
        return message, state

    return Transform(lambda w, shapes, num_clients: None, apply, Stage.DENSE, Stage.DENSE)


_IDENTITY = identity().apply.__qualname__
