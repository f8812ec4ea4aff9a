"""The readable engine: one client after another, one step after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Task, Updates, Work, params

Train = Callable[[Task, Tensor, Tensor, Work], Updates]

# (task, w [d], x, y) -> the mean loss of a batch and its gradient [d]
Gradient = Callable[[Task, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

BETAS, EPSILON = (0.9, 0.999), 1e-8  # the usual ones of AdamW

PROBED_AT_ONCE = 1000  # examples, which bounds the memory that a client's full batch takes


def sequential(
    task: Task, x: Tensor, y: Tensor, work: Work, *, gradient: Gradient | None = None
) -> Updates:
    """Train one client after another, one step after another: the reference for other engines.

    A client minimises ``F_i(w) + <h_i, w> + mu/2 ||w - z_i||^2``.

    Args:
        task: Model and loss.
        x: Examples of all clients, ``[n, ...]``.
        y: Their labels, ``[n]``.
        work: The work of the cohort, from ``assign``.
        gradient: Function ``(task, w, x, y)`` to a batch's loss and gradient (default:
            ``loss_and_gradient``).

    Returns:
        The updates, one row per client.

    References: ClientUpdate of McMahan et al. 2017, Algorithm 1.

    Example:
        >>> from fedlab.client import assign, plan
        >>> from fedlab.core import Local
        >>> def squared_error(output, y):
        ...     return (output - y)[:, 0] ** 2
        >>> task = Task(lambda: torch.nn.Linear(1, 1, bias=False), squared_error, {})
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
        >>> parts, local = [np.array([0]), np.array([1])], Local(0.1)
        >>> batches = plan(parts, seed=0, round=1, local=local, num_examples=2)
        >>> work = assign(torch.zeros(1), parts, [local, local], batches)
        >>> sequential(task, x, y, work).delta
        tensor([[0.4000],
                [1.6000]])
    """
    gradient = gradient or loss_and_gradient
    m, start = len(work.origin), work.start
    take_step = {"sgd": _sgd, "adamw": _adamw}[work.optimizer]
    delta = start.new_zeros(m, start.shape[1])
    steps, losses = np.zeros(m), np.full(m, np.nan)
    trained = None if work.fixed is None else _trained_numbers(work, work.fixed, task.shapes)
    for i in range(m):
        w_t = start[work.origin[i]]
        w, state = w_t.clone(), None
        h, z = 0 if work.h is None else work.h[i], w_t if work.centre is None else work.centre[i]
        client_losses = []
        for batch in torch.from_numpy(work.batches[i]).to(x.device):
            batch = batch[batch >= 0]
            if len(batch) == 0:
                break
            loss, g = gradient(task, w, x[batch], y[batch])
            g = g + h + work.mu[i] * (w - z)
            w, state = take_step(w, g, state, work.lr[i], work.momentum[i], work.weight_decay[i])
            w = w if work.mask is None else w * work.mask[work.origin[i]]
            w = w if trained is None else torch.where(trained[work.origin[i]], w, w_t)
            client_losses.append(loss)
        if client_losses:
            delta[i], steps[i] = w - w_t, len(client_losses)
            losses[i] = torch.stack(client_losses).mean().item()
    return make_updates(work, delta, steps, losses)


def loss_and_gradient(task: Task, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss of a batch and its gradient, summed over groups of texts.

    Args:
        task: Model and loss.
        w: The model, ``[d]``.
        x: Examples, ``[B, ...]``.
        y: Their labels, ``[B]``.

    Raises:
        ValueError: If the loss depends on nothing that trains.
    """
    at = w.detach().requires_grad_()
    loss: Any = 0
    g: Any = 0
    for group in task.length_groups(x):
        output = task.forward(at, params.as_numbers(x[group], at))
        part = task.loss(output, y[group]).sum() / len(x)
        if not part.requires_grad:
            name = type(task.template(w)).__name__
            raise ValueError(
                f"the loss of {name} does not depend on anything that trains, so there is no "
                "gradient. Try forward without detach, no_grad, argmax or NumPy"
            )
        g = g + torch.autograd.grad(part, at)[0]
        loss = loss + part.detach()
    return loss, g


def _trained_numbers(work: Work, fixed: np.ndarray, shapes: Mapping[str, torch.Size]) -> Tensor:
    """Return a mask ``[v, d]`` of the numbers of each model that are not fixed."""
    sizes = torch.tensor([shape.numel() for shape in shapes.values()])
    return torch.from_numpy(~fixed).repeat_interleave(sizes, 1).to(work.start.device)


def _sgd(w, g, v, lr, momentum, weight_decay):
    g = g + weight_decay * w
    v = g if v is None else momentum * v + g
    return w - lr * v, v


def _adamw(w, g, state, lr, momentum, weight_decay):
    """Take a step of Loshchilov & Hutter 2019, Algorithm 2."""
    (b1, b2), (k, m, v) = BETAS, state or (0, torch.zeros_like(w), torch.zeros_like(w))
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    k = k + 1
    m_hat, v_hat = m / (1 - b1**k), v / (1 - b2**k)
    return w - lr * (m_hat / (v_hat.sqrt() + EPSILON) + weight_decay * w), (k, m, v)


def make_updates(work: Work, delta: Tensor, steps: np.ndarray, loss: np.ndarray) -> Updates:
    """Return the updates that came of the work.

    Args:
        work: The work of the cohort.
        delta: Rows ``[m, d]``.
        steps: Steps that each client took, ``[m]``.
        loss: Mean loss over the steps of each client, ``[m]``.
    """
    columns = np.array((work.num_examples, steps, lr_sum(work, steps), loss))
    return Updates(delta, *torch.from_numpy(columns).to(work.start).unbind())


def lr_sum(work: Work, steps: np.ndarray) -> np.ndarray:
    """Return the weight of a constant gradient in each client's update, ``[m]``.

    It is ``lr * ||a_i||_1`` of FedNova (Wang et al. 2020, section 4.1): for plain SGD lr times
    steps; with momentum rho and tau steps ``lr (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)``;
    mu lets early gradients fade.  Weight decay does not: it is part of the gradient, as in the
    authors' code.  AdamW has no such weights, and gets lr times steps.

    Args:
        work: The work of the cohort.
        steps: Steps that each client took, ``[m]``.
    """
    if work.optimizer == "adamw" or not (work.momentum.any() or work.mu.any()):
        return work.lr * steps
    moved, v = np.zeros_like(work.lr), np.zeros_like(work.lr)
    for k in range(int(steps.max(initial=0))):
        v = work.momentum * v + 1 - work.mu * moved
        moved = np.where(k < steps, moved + work.lr * v, moved)
    return moved


def full_gradients(
    task: Task, x: Tensor, y: Tensor, w: Tensor, parts: list[np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Return the loss and gradient of every client at one model, over all its examples.

    Args:
        task: Model and loss.
        x: Examples of all clients, ``[n, ...]``.
        y: Their labels, ``[n]``.
        w: The model, ``[d]``.
        parts: Numbers of the examples of each client.

    Returns:
        Losses ``[m]`` and gradients ``[m, d]``.  A client without examples has the loss NaN and
        the gradient 0.
    """
    losses, gradients = w.new_full((len(parts),), torch.nan), w.new_zeros(len(parts), len(w))
    for i, part in enumerate(parts):
        if len(part) == 0:
            continue
        losses[i] = 0
        for block in torch.from_numpy(part).to(x.device).split(PROBED_AT_ONCE):
            loss, g = loss_and_gradient(task, w, x[block], y[block])
            gradients[i] += g * (len(block) / len(part))
            losses[i] += loss * (len(block) / len(part))
    return losses, gradients
