"""A test that the output for an example does not depend on the other examples of its batch."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from fedlab.client.sequence import is_plain
from fedlab.core import Task, params
from fedlab.models.tabular import cross_entropy

HUGE_MODEL = 50_000_000  # parameters of a model that is not copied in double precision
SEARCHED = 4096  # examples searched for unusual ones, of 256 numbers each; fewer of larger ones


def examples_are_independent(task: Task, x: Tensor, y: Tensor, like: Tensor) -> bool:
    """Return whether examples are independent of the others in a batch.

    It is tested once for a task and its examples, whose values may hide or show a dependence.
    Texts with ``lengths`` are padded to the longest of a batch, and not tested.

    Args:
        task: Model and loss.
        x: Examples, ``[n, ...]``.
        y: Their labels, ``[n]``.
        like: A model, or several, to test with, ``[..., d]``.
    """
    if task.lengths is not None or (task.loss is cross_entropy and is_plain(task.template(like))):
        return True
    tested = _TESTED.setdefault(task, WeakTensorKeyDictionary())
    if x not in tested:
        tested[x] = _same_in_any_batch(task, x, y, like)
    return tested[x]


_TESTED: WeakKeyDictionary[Task, WeakTensorKeyDictionary] = WeakKeyDictionary()


@torch.no_grad()
def _same_in_any_batch(task: Task, x: Tensor, y: Tensor, like: Tensor) -> bool:
    """Return whether unlike examples have equal outputs and losses together, in halves, alone."""
    task, w = task.with_fresh_templates(), like.reshape(-1, like.shape[-1])[0]
    chosen = unlike_examples(x)
    n = len(chosen)
    batches = [[k] for k in range(n)] + [list(range(k, n, 2)) for k in range(2)]
    for exact in (True, False) if len(w) <= HUGE_MODEL else (False,):
        at = w.double() if exact else w
        inputs = params.as_numbers(x[chosen], at)
        inputs = inputs.to(at.dtype) if inputs.is_floating_point() else inputs

        def scores(rows, at=at, inputs=inputs):
            output = task.forward(at, inputs[rows])
            leaves = tree_leaves((output, task.loss(output, y[chosen[rows]])))
            return [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]

        try:
            full_batch = scores(list(range(n)))
        except Exception:  # whatever the model objects to: the trial will show it
            continue
        near = 1e-6 if exact else 1e-4  # some norms compute in single precision in any case
        return all(_is_same(full_batch, rows, n, scores, near) for rows in batches)
    return True


def _is_same(
    full_batch: list[Tensor], rows: list[int], n: int, scores: Callable, near: float
) -> bool:
    """Return whether ``rows`` of n examples have the scores that they have in the full batch."""
    try:
        alone = scores(rows)
    except Exception:  # such a batch could not train either
        return True
    if len(alone) != len(full_batch):
        return False
    for a, b in zip(full_batch, alone, strict=True):
        bound = near * a.double().abs().nan_to_num(0, 0, 0).max().item() if a.numel() else 0
        a = a[rows] if a.dim() and len(a) == n else a
        if a.numel() != b.numel():
            return False
        if not torch.allclose(
            a.double(), b.reshape(a.shape).double(), rtol=0, atol=bound, equal_nan=True
        ):
            return False
    return True


def unlike_examples(x: Tensor) -> Tensor:
    """Return the numbers of about 16 examples: usual ones, and those with extreme values."""
    count = min(len(x), max(64, SEARCHED * 256 // max(256, x[0].numel())))
    candidates = torch.linspace(0, len(x) - 1, count).long().to(x.device)
    rows = x[candidates].reshape(count, -1).float()
    offsets = rows - rows.mean(0)
    deviations = offsets / offsets.square().mean(0).sqrt().clamp(min=1e-9)
    chosen = [0, count // 3, 2 * count // 3, count - 1]
    for extremes in (rows.amax(1), rows.amin(1), deviations.abs().amax(1)):
        order = extremes.argsort(stable=True)
        chosen += [*order[:2].tolist(), *order[-2:].tolist()]
    return candidates[sorted(set(chosen))]
