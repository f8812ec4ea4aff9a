"""Chains of transforms: the order of their steps, and messages on their way through.

In the formulas of this room ``x [d]`` is a client's update, and C(x) the update that the server
decodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Cohort, Message, Stage, Transform, generator
from fedlab.core.repeats import call_repeatable
from fedlab.core.rng import key
from fedlab.core.validate import is_number
from fedlab.upload.encodings import Masked, Senders, Sparse

_NEEDS_DENSE = "needs whole updates"
_NEEDS_EQUAL_COUNTS = "needs equally many numbers per client, and a threshold sends more for some"
_NEEDS_NUMBERS = "needs numbers, and codes are only the names of levels"
_ONCE = "compresses bytes, and once is enough"
_UNKNOWN_SENDERS = "cannot tell which clients send"

# Why a step must not follow: by the stage of the message so far, then by the stage at which the
# step begins.
REFUSALS: dict[Stage, dict[Stage, str]] = {
    Stage.DENSE: {},
    Stage.REDUCED: {Stage.DENSE: _NEEDS_DENSE},
    Stage.RAGGED: {
        Stage.DENSE: _NEEDS_DENSE,
        Stage.REDUCED: _NEEDS_EQUAL_COUNTS,
        Stage.RAGGED: _NEEDS_EQUAL_COUNTS,
    },
    Stage.CODED: {
        Stage.DENSE: _NEEDS_NUMBERS,
        Stage.REDUCED: _NEEDS_NUMBERS,
        Stage.RAGGED: _NEEDS_NUMBERS,
        Stage.CODED: _NEEDS_NUMBERS,
    },
    Stage.PACKED: {
        Stage.DENSE: _NEEDS_NUMBERS,
        Stage.REDUCED: _NEEDS_NUMBERS,
        Stage.RAGGED: _NEEDS_NUMBERS,
        Stage.CODED: _NEEDS_NUMBERS,
        Stage.PACKED: _ONCE,
    },
    Stage.SELECTED: dict.fromkeys(Stage, _UNKNOWN_SENDERS),
}
_ORDER = "momentum, top_k, quantize, lossless, all of them in error_feedback(chain(...))"


def chain(*transforms: Transform) -> Transform:
    """Apply transforms one after another.

    Steps on whole updates come first, then fewer numbers, then codes for them, then ``lossless``.

    Args:
        *transforms: At least one; each at most once.

    Returns:
        A transform whose state is the list of their states.

    Raises:
        ValueError: If the order cannot work, with the reason, or a transform comes twice.

    Example:
        >>> from fedlab.upload import error_feedback, qsgd, top_k
        >>> upload = error_feedback(chain(top_k(0.01), qsgd(5)))
        >>> chain(qsgd(5), top_k(0.01))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: top_k must not follow qsgd (it needs numbers, and codes are only the ...
    """
    _check_order(transforms)

    def init(w, shapes, num_clients):
        return [transform.init(w, shapes, num_clients) for transform in transforms]

    def apply(message, states, cohort):
        after = []
        for transform, state in zip(transforms, states, strict=True):
            message, state = send(transform, message, state, cohort)
            after.append(state)
        return message, after

    formats = [transform.update_format for transform in transforms]
    return Transform(
        init,
        apply,
        transforms[0].first_stage,
        transforms[-1].last_stage,
        next((each for each in formats if each != "rows"), "rows"),
        next((t.no_feedback_reason for t in transforms if t.no_feedback_reason), ""),
        next((t.no_download_reason for t in transforms if t.no_download_reason), ""),
    )


def _check_order(transforms: tuple[Transform, ...]) -> None:
    if not transforms:
        raise ValueError("chain() must have a transform. Try identity(), which sends updates as is")
    for first, second in itertools.pairwise(transforms):
        reason = REFUSALS[first.last_stage].get(second.first_stage)
        if reason:
            inside = f"putting it inside {maker_name(first)}"
            remedy = inside if first.last_stage == Stage.SELECTED else f"the order {_ORDER}"
            raise ValueError(
                f"{maker_name(second)} must not follow {maker_name(first)} (it {reason}). "
                f"Try {remedy}"
            )
    names = [maker_name(transform) for transform in transforms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{name} must not be in a chain {names.count(name)} times (once is enough). "
                "Try one of them"
            )


def stateless(
    apply: Callable, first_stage: Stage, last_stage: Stage | None = None, **fields: str
) -> Transform:
    """Return a transform that remembers nothing.

    Args:
        apply: ``apply(message, state, cohort) -> (message, state)``; its state is always None.
        first_stage: Stage of a message that it takes.
        last_stage: Stage of a message that it makes; None: the same.
        **fields: Other fields of ``Transform``.

    Example:
        >>> def halve(message, state, cohort):
        ...     return message.encoded(message.values / 2), state
        >>> halved = stateless(halve, Stage.DENSE)
    """
    last_stage = first_stage if last_stage is None else last_stage
    return Transform(lambda w, shapes, num_clients: None, apply, first_stage, last_stage, **fields)


def send(transform: Transform, message: Message, state: Any, cohort: Cohort) -> tuple[Message, Any]:
    """Apply a transform, to the numbers within the mask unless it takes whole updates.

    Args:
        transform: Transform to apply.
        message: One row per client of the cohort.
        state: State of the transform before.
        cohort: Clients whose messages these are, at least one.

    Returns:
        The message and the state afterwards.

    Raises:
        ValueError: If a user's transform draws from a global generator.
    """
    message = within_mask(message) if transform.first_stage > Stage.DENSE else message
    remedy = 'cohort.generator("levels")'
    return call_repeatable(
        "a transform",
        remedy,
        transform.apply,
        message,
        state,
        cohort,
        tensors=lambda result: result[0].delta,
    )


def send_subset(
    sent: np.ndarray,
    transform: Transform,
    message: Message,
    state: Any,
    cohort: Cohort,
    last: Tensor | None = None,
) -> tuple[Message, Any]:
    """Apply a transform to the messages of some clients; the others send nothing.

    Args:
        sent: True for clients that send, ``[m]``.
        transform: Transform for their messages.
        message: One row per client.
        state: State of the transform before.
        cohort: All m clients.
        last: Updates ``[m, d]`` that the server takes of the others; None: 0.

    Returns:
        The message of the cohort, and the state afterwards.
    """
    senders = Senders(sent, last)
    if not sent.any():
        return Message(message.values[:0], message.shapes, (senders,)), state
    selected = select_rows(message, np.flatnonzero(sent))
    fresh, state = send(transform, selected, state, cohort.subset(sent))
    fresh = within_mask(fresh)
    return replace(fresh, encodings=(senders, *fresh.encodings)), state


def select_rows(message: Message, rows: np.ndarray) -> Message:
    """Return a message with these rows only, given as ascending indices.

    The message must not have encodings.
    """
    if len(rows) == len(message.values):
        return message
    index, mask = torch.from_numpy(rows), message.mask
    return replace(
        message,
        values=message.values[index],
        mask=mask[index] if mask is not None and len(mask) > 1 else mask,
    )


def within_mask(message: Message) -> Message:
    """Reduce whole updates to the numbers within their mask; return other messages unchanged."""
    if message.encodings or message.mask is None:
        return message
    m, width = message.values.shape
    index = message.mask.nonzero()[:, 1].reshape(len(message.mask), -1).expand(m, -1)
    return message.encoded(message.values.gather(1, index), Masked(index, width))


def sparsify(message: Message, index: Tensor) -> Message:
    """Send only the numbers at ``index [m, k]``; an index beyond the end is none."""
    x = message.values
    index = index.sort(1).values
    is_valid = index < x.shape[1]
    values = x.gather(1, index.where(is_valid, 0))
    return message.encoded(values.where(is_valid, 0), Sparse(index.where(is_valid, -1), x.shape[1]))


def client_keys(cohort: Cohort, purpose: str) -> np.ndarray:
    """Return a key per client, ``[m]``.

    It travels with the client's message, so that the server can make the same draws.
    """
    return np.array(
        [key(cohort.seed, purpose, cohort.round, int(i)) for i in cohort.ids], dtype=np.int64
    )


def uniform_noise(cohort: Cohort, purpose: str, like: Tensor) -> Tensor:
    """Draw numbers from 0 to 1 in the shape of ``like [m, k]``.

    A client's numbers do not depend on the other clients of the cohort.

    Args:
        cohort: The m clients, with round and seed.
        purpose: Name of the draw, such as ``"qsgd"``.
        like: Numbers whose shape and device are taken.
    """
    rows = np.empty(like.shape, dtype=np.float32)
    for i, row in zip(cohort.ids, rows, strict=True):
        generator(cohort.seed, purpose, cohort.round, int(i)).random(dtype=np.float32, out=row)
    return torch.from_numpy(rows).to(like.device)


def maker_name(transform: Transform) -> str:
    """Return the name of the function that made a transform, such as ``top_k``."""
    return transform.apply.__qualname__.split(".")[0]


def check_fraction(**values: float) -> None:
    """Raise ValueError unless each value is above 0 and at most 1."""
    for name, value in values.items():
        if not (is_number(value) and 0 < value <= 1):
            raise ValueError(
                f"{name}={value!r} must be above 0 and at most 1 (where everything is sent). "
                "Try 0.01"
            )
