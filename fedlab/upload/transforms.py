"""Fewer numbers: what is left out of the rows, what stands for them, and what is remembered of the rest.

Each is a ``Transform`` from rows to rows; in the formulas ``x [d]`` is a client's row, C(x) what the server has of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import ClientTable, Cohort, Message, Stage, Transform, generator, identity, params
from fedlab.core.repeats import call_repeatable
from fedlab.core.rng import key
from fedlab.core.validate import check_whole, is_number
from fedlab.upload.encodings import Cast, Drawn, Kept, Lossless, LowRank, Masked, Rotated, Sparse

_NEEDS_DENSE = "needs whole updates"
_NEEDS_EQUAL_COUNTS = "needs equally many numbers per client, and a threshold sends more for some"
_NEEDS_NUMBERS = "needs numbers, and codes are only the names of levels"
_ONCE = "compresses bytes, and once is enough"
_UNKNOWN_SENDERS = "cannot tell which clients send; put it inside"

# Why a step must not follow: by the stage of the message so far, then by the stage at which the step begins.
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


def chain(*transforms: Transform) -> Transform:
    """One after the other: rows to rows first, then fewer numbers, then codes for them, then ``lossless``.

    Raises ValueError for another order, with the reason.
    """
    if not transforms:
        raise ValueError("chain() of nothing: identity() sends rows as they are")
    for one, other in itertools.pairwise(transforms):
        reason = REFUSALS[one.last_stage].get(other.first_stage)
        if reason:
            raise ValueError(
                f"{_name(other)} after {_name(one)}: it {reason}; the order is error_feedback or "
                "momentum, top_k, quantize, lossless, each where wanted"
            )

    names = [_name(transform) for transform in transforms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is in this chain {names.count(name)} times: once is enough")

    def init(w, shapes, num_clients):
        return [transform.init(w, shapes, num_clients) for transform in transforms]

    def apply(message, states, cohort):
        after = []
        for transform, state in zip(transforms, states, strict=True):
            message, state = send(transform, message, state, cohort)
            after.append(state)
        return message, after

    first = lambda field: next((found for t in transforms if (found := getattr(t, field))), "")  # noqa: E731
    return Transform(
        init,
        apply,
        transforms[0].first_stage,
        transforms[-1].last_stage,
        next((t.update_format for t in transforms if t.update_format != "rows"), "rows"),
        first("no_feedback_reason"),
        first("no_download_reason"),
    )


def error_feedback(transform: Transform) -> Transform:
    """Send C(x + e), and remember what was lost: ``e <- x + e - C(x + e)``.  Seide et al. 2014; Karimireddy et al. 2019,
    Alg. 1.

    A client's ``e`` starts at 0 and waits for it between the rounds in which it takes part.
    """
    if transform.no_feedback_reason:
        raise ValueError(f"error_feedback({_name(transform)}): {transform.no_feedback_reason}")

    def init(w, shapes, num_clients):
        return ClientTable(w, num_clients), transform.init(w, shapes, num_clients)

    def apply(message, state, cohort):
        residual, inner = state
        wanted = message.values + residual[cohort.ids]  # [m, d]
        sent, inner = send(transform, message.encoded(message.allowed(wanted)), inner, cohort)
        residual[cohort.ids] = wanted - message.allowed(sent.delta)
        return sent, (residual, inner)

    return Transform(
        init,
        apply,
        Stage.DENSE,
        transform.last_stage,
        transform.update_format,
        "it has one already",
        _DOWN,
    )


_DOWN = "the server sends what clients lack of its model, in which all that was lost before is still wanted"


def momentum(beta: float = 0.9) -> Transform:
    """Send a running mean of one's own updates, ``v <- beta v + (1 - beta) x``.  Before ``sign``: Signum, Bernstein et al.
    2018.

    Differs: there a worker takes part in every step; here v waits, as the residual of ``error_feedback`` does.
    """
    _share(beta=beta, least=0)

    def init(w, shapes, num_clients):
        return ClientTable(w, num_clients)

    def apply(message, v, cohort):
        mean = beta * v[cohort.ids] + (1 - beta) * message.values
        v[cohort.ids] = mean
        return message.encoded(message.allowed(mean)), v

    return Transform(
        init,
        apply,
        Stage.DENSE,
        Stage.DENSE,
        no_feedback_reason="put it outside: chain(momentum(), error_feedback(...))",
        no_download_reason=_DOWN,
    )


def lazy(transform: Transform | None = None, *, threshold: float = 0.3) -> Transform:
    """Who has little news sends nothing, and the server takes its last row again: ``|x - last|^2 <= threshold |x|^2``.

    Lazily aggregated gradients, Chen et al. 2018.  Differs: there the news are compared with how far the model moved lately.
    """
    transform = _of_rows(transform or identity(), "lazy")
    if not (is_number(threshold) and 0 <= threshold < 1):
        raise ValueError(
            f"threshold={threshold!r}: it is at least 0 and below 1, where nobody would ever send; try 0.3"
        )

    def init(w, shapes, num_clients):
        return ClientTable(w, num_clients), transform.init(w, shapes, num_clients)

    def apply(message, state, cohort):
        (last, inner), x = state, message.values
        before = last[cohort.ids]
        sent = ((x - before).square().sum(1) > threshold * x.square().sum(1)).numpy(force=True)
        message, inner = send_subset(sent, transform, message, inner, cohort, before)
        last[cohort.ids] = message.delta
        return message, (last, inner)

    why = "the row that the server takes again would count as lost; put it inside: lazy(error_feedback(...))"
    return Transform(
        init, apply, Stage.DENSE, Stage.SELECTED, no_feedback_reason=why, no_download_reason=_DOWN
    )


def accumulate(every: int, transform: Transform | None = None) -> Transform:
    """Send the sum of one's updates in every ``every``-th round that one takes part in, and nothing in between."""
    check_whole(1, every=every)
    transform = _of_rows(transform or identity(), "accumulate")

    def init(w, shapes, num_clients):
        return (
            ClientTable(w, num_clients),
            np.zeros(num_clients),
            transform.init(w, shapes, num_clients),
        )

    def apply(message, state, cohort):
        kept, times, inner = state
        so_far = message.values + kept[cohort.ids]
        times = times + np.isin(np.arange(len(times)), cohort.ids)
        sent, now = times[cohort.ids] % every == 0, message.allowed(so_far)
        kept[cohort.ids] = so_far - now.where(torch.from_numpy(sent).to(now.device)[:, None], 0)
        message, inner = send_subset(sent, transform, message.encoded(now), inner, cohort)
        return message, (kept, times, inner)

    why = "what is not sent is kept here already; put it inside: accumulate(2, error_feedback(...))"
    return Transform(
        init, apply, Stage.DENSE, Stage.SELECTED, no_feedback_reason=why, no_download_reason=_DOWN
    )


def _of_rows(transform: Transform, name: str) -> Transform:
    if transform.update_format != "rows":
        raise ValueError(
            f"{name}({_name(transform)}): whose row is not sent has a row that counts, and this gives {transform.update_format}"
        )
    return transform


def send_subset(
    sent: np.ndarray,
    transform: Transform,
    message: Message,
    state: Any,
    cohort: Cohort,
    last: Tensor | None = None,
):
    """The transform of those who ``sent [m]``; for the others the server has ``last [m, d]``, or 0.  Gives (message,
    state).
    """
    kept = Kept(sent, last)
    if not sent.any():
        return Message(message.values[:0], message.shapes, (kept,)), state
    fresh, state = send(
        transform, select_rows(message, np.flatnonzero(sent)), state, cohort.subset(sent)
    )
    fresh = within_mask(fresh)
    return replace(fresh, encodings=(kept, *fresh.encodings)), state


def select_rows(message: Message, which: np.ndarray) -> Message:
    """Those rows, by number and ascending, of a message without forms."""
    if len(which) == len(message.values):
        return message
    rows, mask = torch.from_numpy(which), message.mask
    return replace(
        message,
        values=message.values[rows],
        mask=mask[rows] if mask is not None and len(mask) > 1 else mask,
    )


def send(transform: Transform, message: Message, state: Any, cohort: Cohort) -> tuple[Message, Any]:
    """``apply``, and of a mask's numbers alone where the transform does not take whole rows.

    Raises ValueError for a user's transform that draws from a global generator.
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


def within_mask(message: Message) -> Message:
    """Of whole rows, the numbers within their mask; anything else as it is."""
    if message.encodings or message.mask is None:
        return message
    m, width = message.values.shape
    index = message.mask.nonzero()[:, 1].reshape(len(message.mask), -1).expand(m, -1)
    return message.encoded(message.values.gather(1, index), Masked(index, width))


def top_k(fraction: float) -> Transform:
    """The ``fraction`` of a row's numbers that are largest in size.  Aji & Heafield 2017; Stich et al. 2018, Definition 2.1.

    ``|x - C(x)|^2 <= (1 - k/d) |x|^2``, and biased: it goes with ``error_feedback``.  At least one number is sent.
    """
    _share(fraction=fraction)

    def apply(message, state, cohort):
        return sparsify(message, _largest(message.values, fraction)), state

    return stateless(apply, Stage.REDUCED)


def top_k_per_layer(fraction: float) -> Transform:
    """``top_k`` of each of the model's tensors by itself, so that no layer goes without.  Lin et al. 2018, Algorithm 1."""
    _share(fraction=fraction)

    def apply(message, state, cohort):
        sizes = [shape.numel() for shape in message.shapes.values()]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        layers = message.values.split_with_sizes(sizes, 1)
        index = [start + _largest(x, fraction) for start, x in zip(starts, layers, strict=True)]
        return sparsify(message, torch.cat(index, 1)), state

    return stateless(apply, Stage.DENSE, Stage.REDUCED)


def threshold(tau: float) -> Transform:
    """The numbers of at least ``tau`` in size, few or many.  Strom 2015; with ``error_feedback``, Dutta et al. 2020."""
    if not (is_number(tau) and tau > 0):
        raise ValueError(f"tau={tau!r}: it is above 0, in the units of the updates; try 0.01")

    def apply(message, state, cohort):
        large = message.values.abs() >= tau
        most = min(max(1, int(large.sum(1).max())), large.shape[1])
        order = torch.arange(large.shape[1], device=large.device).expand(len(large), -1)
        return sparsify(
            message, torch.where(large, order, large.shape[1]).topk(most, 1, largest=False).values
        ), state

    return stateless(apply, Stage.REDUCED, Stage.RAGGED)


def random_k(fraction: float, *, scale: float | None = None) -> Transform:
    """A ``fraction`` of a row's numbers, at places that both sides draw: no place travels.  Konecny et al. 2016, random
    mask.

    Times ``scale``: d/k by default, so that C is unbiased; 1 for ``error_feedback``, which takes care of what is missing.
    """
    _share(fraction=fraction)
    if scale is not None and not (is_number(scale) and scale > 0):
        raise ValueError(f"scale={scale!r}: it is above 0, or None for d/k")

    def apply(message, state, cohort):
        x = message.values
        width, count = x.shape[1], _count(x.shape[1], fraction)
        form = Drawn(keys(cohort, "random_k"), count, width)
        picked = x.gather(1, form.index.to(x.device))
        return message.encoded(
            picked * (width / max(1, count) if scale is None else scale), form
        ), state

    large = scale or 1 / fraction
    why = f"its numbers are {large:g} times too large, to be unbiased, and what is fed back would grow: use scale=1"
    return stateless(
        apply,
        Stage.REDUCED,
        no_feedback_reason=why if large > 1 else "",
        no_download_reason=why if large > 1 else "",
    )


def power_sgd(rank: int) -> Transform:
    """Of each matrix M its projection ``P P^T M`` on ``rank`` directions, by one power iteration.  Vogels et al. 2019, Alg.
    1.

    ``P = orthonormal(M Q)``, then ``Q <- M^T P``, which the client keeps for the next time.  It goes with
    ``error_feedback``, as in the paper.  Convolutions are matrices [out, in * height * width]; biases, and matrices that P
    and Q do not make smaller, travel whole.  Differs: the paper's workers share the mean of their P and of their Q; here
    each has its own.
    """
    check_whole(1, rank=rank)

    def init(w, shapes, num_clients):
        form = LowRank(tuple(shapes.values()), rank)
        first = [sizes[1] for sizes in form.sizes if len(sizes) == 2]
        return ClientTable(w[: sum(first)], num_clients)

    def apply(message, memory, cohort):
        form, m = LowRank(tuple(message.shapes.values()), rank), len(message.values)
        known = memory[cohort.ids]  # [m, all of Q]
        draw = generator(cohort.seed, "power_sgd").standard_normal(known.shape[1])
        draw = torch.from_numpy(draw).to(known)
        factors, kept, start = [], [], 0
        for x, sizes in zip(
            params.views(message.values, message.shapes).values(), form.sizes, strict=True
        ):
            if len(sizes) == 1:
                factors.append(x.reshape(m, -1))
                continue
            here = slice(start, start + sizes[1])
            q = torch.where(known[:, here].any(1)[:, None], known[:, here], draw[here]).reshape(
                m, -1, rank
            )
            x = x.reshape(m, x.shape[1], -1)
            p = torch.linalg.qr(x @ q).Q
            q = x.mT @ p
            factors += [p.flatten(1), q.flatten(1)]
            kept.append(q.flatten(1))
            start += sizes[1]
        if kept:
            memory[cohort.ids] = torch.cat(kept, 1)
        return message.encoded(torch.cat(factors, 1), form), memory

    return Transform(init, apply, Stage.DENSE, Stage.REDUCED)


def rotate() -> Transform:
    """Rows in another basis, drawn at random, in which no number stands out; for a quantiser behind it.

    A quantiser's error grows with the largest number; rotated, all are about |x| / sqrt(d).  Konecny et al. 2016; Suresh et
    al. 2017, section 3.
    """

    def apply(message, state, cohort):
        form = Rotated(keys(cohort, "rotate"), message.values.shape[1])
        return message.encoded(form.rotate(message.values), form), state

    return stateless(apply, Stage.REDUCED)


def cast(dtype: str = "float16") -> Transform:
    """Floats of 16 bits; "float16" has 11 of them for the digits and overflows at 65504, "bfloat16" has 8 and does not."""
    if dtype not in ("float16", "bfloat16"):
        raise ValueError(f"dtype={dtype!r}: there are 'float16' and 'bfloat16'")

    def apply(message, state, cohort):
        return message.encoded(
            message.values.to(getattr(torch, dtype)), Cast(message.values.dtype)
        ), state

    return stateless(apply, Stage.CODED)


def lossless() -> Transform:
    """The bytes of numbers or codes compressed without loss, by Zstandard; as they are, where that is not shorter."""
    return stateless(
        lambda message, state, cohort: (message.encoded(message.values, Lossless()), state),
        Stage.PACKED,
    )


def stateless(
    apply: Callable, first_stage: Stage, last_stage: Stage | None = None, **fields: str
) -> Transform:
    """Return a transform without state, from its ``apply`` and its stages (one stage: both)."""
    last_stage = first_stage if last_stage is None else last_stage
    return Transform(lambda w, shapes, num_clients: None, apply, first_stage, last_stage, **fields)


def keys(cohort: Cohort, purpose: str) -> np.ndarray:
    """A key for each client, which travels with its row so that the server can make the same draws, ``[m]``."""
    return np.array(
        [key(cohort.seed, purpose, cohort.round, int(i)) for i in cohort.ids], dtype=np.int64
    )


def noise(cohort: Cohort, purpose: str, like: Tensor) -> Tensor:
    """Uniform numbers from 0 to 1 in the shape of ``like [m, k]``; a client's do not depend on who else takes part."""
    rows = np.empty(like.shape, dtype=np.float32)
    for i, row in zip(cohort.ids, rows, strict=True):
        generator(cohort.seed, purpose, cohort.round, int(i)).random(dtype=np.float32, out=row)
    return torch.from_numpy(rows).to(like.device)


def sparsify(message: Message, index: Tensor) -> Message:
    """Only what stands at ``index [m, k]``, in any order; a place beyond the end is none."""
    x = message.values
    index = index.sort(1).values
    there = index < x.shape[1]
    values = x.gather(1, index.where(there, 0))
    return message.encoded(values.where(there, 0), Sparse(index.where(there, -1), x.shape[1]))


def _largest(x: Tensor, fraction: float) -> Tensor:
    return x.abs().topk(_count(x.shape[1], fraction), 1, sorted=False).indices


def _count(width: int, fraction: float) -> int:
    return max(1, round(fraction * width)) if width else 0


def _share(least: float | None = None, **values: float) -> None:
    for name, value in values.items():
        if least is None and not (is_number(value) and 0 < value <= 1):
            raise ValueError(
                f"{name}={value!r}: it is above 0 and at most 1, where everything is sent; try 0.01"
            )
        if least is not None and not (is_number(value) and least <= value < 1):
            raise ValueError(
                f"{name}={value!r}: it is at least {least} and below 1; the usual one is 0.9"
            )


def _name(transform: Transform) -> str:
    """What the function is called that made it."""
    return transform.apply.__qualname__.split(".")[0]
