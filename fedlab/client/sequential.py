"""The readable engine: one client after another, one step after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Task, Updates, Work, params

Train = Callable[[Task, Tensor, Tensor, Work], Updates]

Gradient = Callable[
    [Task, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]
]  # (task, w, x, y): of a batch, with its loss

BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's, as everyone has them

PROBED_AT_ONCE = 1000  # examples, which bounds the memory that a client's full batch takes


def sequential(
    task: Task, x: Tensor, y: Tensor, work: Work, *, gradient: Gradient | None = None
) -> Updates:
    """One client after another, one step after another: the readable engine, and the oracle of the others.

    ClientUpdate of McMahan et al. 2017, Algorithm 1, for ``F_i(w) + <h_i, w> + mu/2 ||w - z_i||^2``.  ``gradient(task, w, x,
    y)`` gives a batch's loss and gradient, where they are found otherwise than by ``loss_and_gradient``.
    """
    gradient = gradient or loss_and_gradient
    m, start = len(work.origin), work.start
    step = {"sgd": _sgd, "adamw": _adamw}[work.optimizer]
    delta, steps, losses = start.new_zeros(m, start.shape[1]), np.zeros(m), np.full(m, np.nan)
    moving = None if work.fixed is None else moves(work, task.shapes)
    for i in range(m):
        w_t = start[work.origin[i]]
        w, state = w_t.clone(), None
        h, z = 0 if work.h is None else work.h[i], w_t if work.centre is None else work.centre[i]
        seen = []
        for batch in torch.from_numpy(work.batches[i]).to(x.device):
            batch = batch[batch >= 0]
            if len(batch) == 0:
                break
            loss, g = gradient(task, w, x[batch], y[batch])
            g = g + h + work.mu[i] * (w - z)
            w, state = step(w, g, state, work.lr[i], work.momentum[i], work.weight_decay[i])
            w = w if work.mask is None else w * work.mask[work.origin[i]]
            w = w if moving is None else torch.where(moving[work.origin[i]], w, w_t)
            seen.append(loss)
        if seen:
            delta[i], steps[i], losses[i] = w - w_t, len(seen), torch.stack(seen).mean().item()
    return updates(work, delta, steps, losses)


def loss_and_gradient(task: Task, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch at ``w [d]`` and its gradient ``[d]``, added up over the pieces of texts."""
    at, loss, g = w.detach().requires_grad_(), 0, 0
    for piece in task.length_groups(x):
        mine = task.loss(task.forward(at, params.as_numbers(x[piece], at)), y[piece]).sum() / len(x)
        if not mine.requires_grad:
            name = type(task.template(w)).__name__
            told = (
                f"the loss of {name} does not depend on anything that trains: there is no gradient"
            )
            raise ValueError(f"{told}. Try forward without detach, no_grad, argmax or NumPy")
        g = g + torch.autograd.grad(mine, at)[0]
        loss = loss + mine.detach()
    return loss, g


def moves(work: Work, shapes: Mapping[str, torch.Size]) -> Tensor:
    """Which numbers of the models move, ``[v, d]``: those whose tensors are not fixed."""
    sizes = torch.tensor([shape.numel() for shape in shapes.values()])
    return torch.from_numpy(~work.fixed).repeat_interleave(sizes, 1).to(work.start.device)


def _sgd(w, g, v, lr, momentum, weight_decay):
    g = g + weight_decay * w
    v = g if v is None else momentum * v + g
    return w - lr * v, v


def _adamw(w, g, state, lr, momentum, weight_decay):
    """Loshchilov & Hutter 2019, Algorithm 2."""
    (b1, b2), (k, m, v) = BETAS, state or (0, torch.zeros_like(w), torch.zeros_like(w))
    k, m, v = k + 1, b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    m_hat, v_hat = m / (1 - b1**k), v / (1 - b2**k)
    return w - lr * (m_hat / (v_hat.sqrt() + EPSILON) + weight_decay * w), (k, m, v)


def updates(work: Work, delta: Tensor, steps: np.ndarray, loss: np.ndarray) -> Updates:
    """What came of the work: the rows ``delta [m, d]``, the ``steps [m]`` taken and their mean ``loss [m]``."""
    columns = np.array((work.num_examples, steps, lr_sum(work, steps), loss))
    return Updates(delta, *torch.from_numpy(columns).to(work.start).unbind())


def lr_sum(work: Work, steps: np.ndarray) -> np.ndarray:
    """How much of each gradient is in a client's update, summed over its ``steps [m]``: the weight of a constant gradient.

    ``lr * ||a_i||_1`` of FedNova (Wang et al. 2020, section 4.1): for plain SGD lr times steps; with momentum rho and tau
    steps ``lr (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)``; mu lets early gradients fade.  Weight decay does not: it
    is part of the gradient, as in the authors' code.  For AdamW, which has no such weights, lr times steps.
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
    """The loss ``[m]`` and gradient ``[m, d]`` of every client at the model ``w [d]``, over all that it holds.

    Who holds nothing has the loss NaN and the gradient 0.
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
