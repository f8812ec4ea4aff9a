"""Transforms that remember: error feedback, momentum, and updates that wait on the client.

A memory is one row per client; it waits between the rounds in which the client takes part.
"""

from __future__ import annotations

import numpy as np
import torch

from fedlab.core import ClientTable, Stage, Transform, identity
from fedlab.core.validate import check_whole, is_number
from fedlab.upload.chains import maker_name, send, send_subset

_NO_DOWNLOAD = (
    "the server sends the differences that clients lack of its model, in which everything lost "
    "before is still wanted. Try the compressor without its memory"
)


def error_feedback(transform: Transform) -> Transform:
    """Compress with a memory of past compression error.

    Each client sends C(x + e) and keeps ``e <- x + e - C(x + e)``, where x is its update and C the
    inner transform. Without it, biased compressors such as ``top_k`` may not converge. The memory
    knows only the error of C: for a chain, write ``error_feedback(chain(...))``.

    Args:
        transform: Compressor with |C(x) - x| < |x|, for example ``top_k(0.01)``.

    Returns:
        A transform whose state is one error row per client, zero until the client first sends.

    Raises:
        ValueError: If ``transform`` already has a memory, or may enlarge x.

    Example:
        >>> from fedlab.core import Cohort, Message
        >>> from fedlab.upload import top_k
        >>> upload, shapes = error_feedback(top_k(0.5)), {"w": torch.Size((2,))}
        >>> x, client = torch.tensor([[3.0, 2.0]]), Cohort(np.array([0]), 1, 0, 1)
        >>> state = upload.init(x[0], shapes, 1)
        >>> sent, state = upload.apply(Message(x, shapes), state, client)
        >>> sent.delta.tolist()  # 2 is left over
        [[3.0, 0.0]]
        >>> sent, state = upload.apply(Message(x, shapes), state, client)
        >>> sent.delta.tolist()  # 2 + 2 is larger than 3
        [[0.0, 4.0]]

    References: Seide et al. 2014; Karimireddy et al. 2019, Algorithm 1.
    """
    if not isinstance(transform, Transform):
        name = getattr(transform, "__name__", repr(transform))
        raise ValueError(
            f"transform={name} must be the result of a call (a Transform). Try top_k(0.01)"
        )
    if transform.no_feedback_reason:
        raise ValueError(
            f"error_feedback must not contain {maker_name(transform)}: "
            f"{transform.no_feedback_reason}"
        )

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
        "it has a memory of errors already. Try one of them",
        _NO_DOWNLOAD,
    )


def momentum(beta: float = 0.9) -> Transform:
    """Send a running mean of a client's updates, ``v <- beta v + (1 - beta) x``.

    Before ``sign`` it is Signum, Bernstein et al. 2018.
    Differs: there a worker takes part in every step; here v waits, as in ``error_feedback``.

    Args:
        beta: Share of the mean that stays, at least 0 and below 1.

    Returns:
        A transform whose state is one mean per client, zero at first.

    Example:
        >>> from fedlab.upload import chain, error_feedback, one_bit, sign
        >>> signum = chain(momentum(0.9), sign())
        >>> one_bit_adam = chain(momentum(), error_feedback(one_bit()))
    """
    if not (is_number(beta) and 0 <= beta < 1):
        raise ValueError(
            f"beta={beta!r} must be at least 0 and below 1 (it is the share that stays). Try 0.9"
        )

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
        no_feedback_reason="numbers that wait in its mean would count as lost. "
        "Try chain(momentum(), error_feedback(...))",
        no_download_reason=_NO_DOWNLOAD,
    )


def lazy(transform: Transform | None = None, *, threshold: float = 0.3) -> Transform:
    """Send nothing while an update has changed little; the server reuses the previous one.

    A client stays silent where ``|x - last|^2 <= threshold |x|^2``, and ``last`` is the update that
    the server has of it. Lazily aggregated gradients, Chen et al. 2018.
    Differs: there the change is compared with the recent movement of the model.

    Args:
        transform: Compressor of the updates that are sent; None sends them as they are.
        threshold: Relative squared change up to which a client is silent, from 0 to below 1.

    Returns:
        A transform whose state is the last decoded update per client, and the inner state.

    Raises:
        ValueError: If ``threshold`` is out of range, or ``transform`` makes no rows.

    Example:
        >>> from fedlab.upload import error_feedback, top_k
        >>> upload = lazy(error_feedback(top_k(0.1)), threshold=0.2)
    """
    transform = _of_rows(transform or identity(), "lazy")
    if not (is_number(threshold) and 0 <= threshold < 1):
        raise ValueError(
            f"threshold={threshold!r} must be at least 0 and below 1 (where no client would ever "
            "send). Try 0.3"
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

    return Transform(
        init,
        apply,
        Stage.DENSE,
        Stage.SELECTED,
        no_feedback_reason="the update that the server reuses would count as lost. "
        "Try lazy(error_feedback(...))",
        no_download_reason=_NO_DOWNLOAD,
    )


def accumulate(every: int, transform: Transform | None = None) -> Transform:
    """Send the sum of a client's updates in every n-th of its rounds, and nothing in between.

    Args:
        every: Rounds, in which the client takes part, per message; at least 1.
        transform: Compressor of the sums; None sends them as they are.

    Returns:
        A transform whose state is one sum per client, how often each took part, and the inner
        state.

    Raises:
        ValueError: If ``every`` is no whole number of at least 1, or ``transform`` makes no rows.

    Example:
        >>> from fedlab.upload import qsgd
        >>> upload = accumulate(every=4, transform=qsgd(8))
    """
    check_whole(1, every=every)
    transform = _of_rows(transform or identity(), "accumulate")

    def init(w, shapes, num_clients):
        return (
            ClientTable(w, num_clients),
            np.zeros(num_clients),
            transform.init(w, shapes, num_clients),
        )

    def apply(message, state, cohort):
        waiting, times, inner = state
        total = message.values + waiting[cohort.ids]
        times = times + np.isin(np.arange(len(times)), cohort.ids)
        sent, allowed = times[cohort.ids] % every == 0, message.allowed(total)
        is_sent = torch.from_numpy(sent).to(allowed.device)[:, None]
        waiting[cohort.ids] = total - allowed.where(is_sent, 0)
        message, inner = send_subset(sent, transform, message.encoded(allowed), inner, cohort)
        return message, (waiting, times, inner)

    return Transform(
        init,
        apply,
        Stage.DENSE,
        Stage.SELECTED,
        no_feedback_reason="it keeps already what is not sent. "
        "Try accumulate(2, error_feedback(...))",
        no_download_reason=_NO_DOWNLOAD,
    )


def _of_rows(transform: Transform, name: str) -> Transform:
    if transform.update_format != "rows":
        raise ValueError(
            f"{name} must not contain {maker_name(transform)} (a silent client counts with a row, "
            f"and this makes {transform.update_format}). Try {name}(top_k(0.1))"
        )
    return transform
