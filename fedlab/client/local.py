"""Local training: the order in which clients see their examples, and the readable engine."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedlab import params
from fedlab.records import Local, Task, Updates, Work
from fedlab.rng import generator


def batches(part: np.ndarray, tickets: np.ndarray, local: Local) -> list[np.ndarray]:
    """One client's batches in a round: in each epoch it visits its examples in the order of their tickets.

    ``part [n_i]`` are example numbers, ``tickets [epochs, n]`` come from ``tickets()``; gives example numbers, a step each.
    """
    size = local.batch_size or max(1, len(part))
    steps = []
    for ticket in tickets:
        order = part[np.argsort(ticket[part], kind="stable")]
        steps += [order[k : k + size] for k in range(0, len(order), size)]
    return steps[: local.steps]


def tickets(num_examples: int, epochs: int, seed: int, round: int) -> np.ndarray:
    """A random number for each example and epoch of a round, ``[epochs, n]``.

    One draw for everybody: a client's order depends on seed, round and its own examples, not on who else takes part.
    """
    return generator(seed, "batches", round).random((epochs, num_examples), dtype=np.float32)


def epochs_needed(sizes: np.ndarray, local: Local) -> int:
    """Passes over the data for what ``local`` asks of clients with these ``sizes``."""
    if local.steps is None or not (sizes > 0).any():
        return local.epochs
    smallest = sizes[sizes > 0].min()
    return -(-local.steps // -(-smallest // (local.batch_size or smallest)))


def plan(parts: list[np.ndarray], seed: int, round: int, local: Local, num_examples: int) -> np.ndarray:
    """The batches of a whole cohort at once, ``[m, K, B]``; -1 pads.  Row i holds ``batches(parts[i], ...)``."""
    sizes = np.array([len(part) for part in parts])
    longest = sizes.max(initial=0)
    if longest == 0:
        return np.full((len(parts), 0, 1), -1)
    size = min(local.batch_size or longest, longest)
    draws = tickets(num_examples, epochs_needed(sizes, local), seed, round)
    padded = np.full((len(parts), -(-longest // size) * size), -1)  # [m, n_max rounded up to whole batches]
    real = np.arange(padded.shape[1]) < sizes[:, None]
    padded[real] = np.concatenate(parts)
    rows = np.arange(len(parts))[:, None]
    epochs = []
    for ticket in draws:
        keys = np.where(real, ticket[padded], np.inf)  # pads go last
        epochs.append(padded[rows, np.argsort(keys, axis=1, kind="stable")])
    steps = np.concatenate(epochs, axis=1).reshape(len(parts), -1, size)  # [m, K, B]
    if len(epochs) > 1:  # shorter clients leave gaps between their epochs: close them
        steps = steps[rows, np.argsort(steps[:, :, 0] < 0, axis=1, kind="stable")]
    longest_row = int((steps[:, :, 0] >= 0).sum(1).max())
    return steps[:, : min(longest_row, local.steps or longest_row)]


def sequential(task: Task, x: Tensor, y: Tensor, work: Work) -> Updates:
    """One client after another, one step after another: the readable engine, and the oracle of the others.

    ClientUpdate of McMahan et al. 2017, Algorithm 1, for ``F_i(w) + <h_i, w> + mu/2 ||w - w_t||^2``.
    """
    m, start = len(work.origin), work.start
    delta, steps, losses = start.new_zeros(m, start.shape[1]), start.new_zeros(m), start.new_full((m,), torch.nan)
    for i in range(m):
        w_t = start[work.origin[i]]
        w = w_t.clone()
        h = 0 if work.h is None else work.h[i]
        seen = []
        for batch in work.batches[i]:
            batch = batch[batch >= 0]
            if len(batch) == 0:
                break
            w.requires_grad_()
            loss = task.loss(params.forward(task.template, w, x[batch]), y[batch]).mean()
            (g,) = torch.autograd.grad(loss, w)
            w = w.detach()
            w = w - work.lr[i] * (g + h + work.mu[i] * (w - w_t))
            seen.append(loss.detach())
        if seen:
            delta[i], steps[i], losses[i] = w - w_t, len(seen), torch.stack(seen).mean()
    return Updates(delta, work.num_examples, steps, work.lr * steps, losses)
