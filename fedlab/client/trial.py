"""The trial of a method: a few steps of unlike clients must equal those of ``sequential``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fedlab.client.sequence import Unsupported, trainable_layers
from fedlab.client.sequential import sequential
from fedlab.client.side_by_side import Method, train_side_by_side
from fedlab.client.steps import REQUIREMENTS, mapped
from fedlab.core import Task, Updates, Work, generator, params
from fedlab.core.table_lookups import TableLookups

LARGE_MODEL = 3_000_000  # parameters of a model whose layers take longer than all around them


class WorkKind(NamedTuple):
    """The features of a cohort's work that a method must get right, whatever the numbers are."""

    optimizer: str = "sgd"
    momentum: bool = False
    weight_decay: bool = False
    mu: bool = False
    h: bool = False
    mask: bool = False
    fixed: bool = False

    @classmethod
    def of(cls, work: Work) -> WorkKind:
        numbers = (work.momentum.any(), work.weight_decay.any(), work.mu.any())
        terms = (work.h, work.mask, work.fixed)
        return cls(work.optimizer, *map(bool, numbers), *(term is not None for term in terms))


@torch.enable_grad()  # also from within an evaluation
def passes_trial(
    method: Method, task: Task, x: Tensor, y: Tensor, like: Tensor, kind: WorkKind
) -> bool:
    """Return whether a few steps of unlike clients come out as from ``sequential``.

    Some batches are short and some clients take fewer steps.  The trial has a template of its
    own.  It runs in double precision, in which a wrong step cannot be taken for rounding.  A large
    model is tried in its own precision, since copies would take too much memory.

    Args:
        method: The method to try.
        task: Model and loss.
        x: Examples, ``[n, ...]``.
        y: Their labels, ``[n]``.
        like: A model, or several, ``[..., d]``.
        kind: Kind of work.
    """
    model = task.template(like)
    try:
        REQUIREMENTS[method.build](model)
    except Unsupported:
        return False
    if method.build is mapped and _has_unmapped_tables(task, x, like):
        return False
    is_large = sum(p.numel() for p in model.parameters()) > LARGE_MODEL
    task = task.with_fresh_templates()  # a trial may leave traces in a template
    if method.build is not mapped and _reads_outside_layers(task.template(like), x, like):
        return False
    agrees = None if is_large else _agrees(method, task, x, y, like.double(), kind)
    return bool(_agrees(method, task, x, y, like, kind) if agrees is None else agrees)


def _has_unmapped_tables(task: Task, x: Tensor, like: Tensor) -> bool:
    """Return whether a table has a gradient that ``vmap`` ignores; the trial may not show it."""
    try:
        with TableLookups() as tables:
            inputs = params.as_numbers(x[_usual_examples(x, 2)], like)
            task.forward(like.reshape(-1, like.shape[-1])[0], inputs)
    except Exception:  # whatever the model objects to: the trial will show it
        return False
    return tables.unmapped


def _reads_outside_layers(model: nn.Module, x: Tensor, like: Tensor) -> bool:
    """Return whether a pass reads a weight outside its layer, where it would get no gradient."""
    reads = _Reads(model)
    for layer in reads.layers:
        layer.forward = partial(reads.within, layer.forward)
    try:
        with reads:
            model(params.as_numbers(x[_usual_examples(x, 2)], like))
    except Exception:  # whatever the model objects to: the trial will show it
        return False
    finally:
        for layer in reads.layers:
            del layer.forward
    return reads.outside


class _Reads(TorchFunctionMode):
    """A record of whether a function outside the trainable layers reads a trainable parameter."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = list(dict.fromkeys(layer for layer, _ in trainable_layers(model)))
        self.trained = {id(p) for p in model.parameters() if p.requires_grad}
        self.inside, self.outside = 0, False

    def within(self, forward: Callable, *args, **kwargs) -> Tensor:
        """Call the forward of a layer, in which reads are expected."""
        self.inside += 1
        try:
            return forward(*args, **kwargs)
        finally:
            self.inside -= 1

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        arguments = tree_leaves((args, kwargs))
        if not self.inside and any(id(leaf) in self.trained for leaf in arguments):
            has_values = name in _READ_VALUES or any(
                isinstance(leaf, Tensor) for leaf in tree_leaves(result)
            )
            only_type = name.startswith("new_") or name.endswith("_like") or name == "type_as"
            is_target = name == "to" and id(args[0]) not in self.trained
            self.outside |= has_values and not only_type and not is_target
        return result


_READ_VALUES = {
    "item",
    "tolist",
    "numpy",
    "__array__",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
}


def _agrees(
    method: Method, task: Task, x: Tensor, y: Tensor, like: Tensor, kind: WorkKind
) -> bool | None:
    """Return whether the method agrees with ``sequential`` in the precision of ``like``.

    None if ``sequential`` cannot compute in that precision.
    """
    exact = like.dtype == torch.double
    work, chosen = _small_work(task, like, kind, exact), _usual_examples(x, 7)
    x, y = params.as_numbers(x[chosen], like), y[chosen]
    x = x.to(like.dtype) if exact and x.is_floating_point() else x
    try:
        expected = sequential(task, x, y, work)
    except Exception:  # whatever the model objects to
        return None
    if not expected.delta.isfinite().all():
        return None
    try:
        with warnings.catch_warnings():
            # vmap would loop over the clients, too.
            warnings.filterwarnings("error", message="There is a performance drop")
            updates = train_side_by_side(method, task, x, y, work)
    except Exception:  # whatever PyTorch or the model objects to
        return False
    if any(_is_wrapped(v) for layer in task.template(like).modules() for v in vars(layer).values()):
        return False  # the model stores its activations: vmap's tensors have escaped
    return _are_close(updates, expected, exact)


def _are_close(updates: Updates, expected: Updates, exact: bool) -> bool:
    # Norms of language models compute in single precision in any case, and AdamW makes whole steps
    # of the rounding in a gradient of 0.
    near, smallest = (1e-6, 1e-12) if exact else (1e-3, 1e-6)
    return all(
        torch.allclose(a, b, rtol=0, atol=near * b.abs().max().item() + smallest)
        for a, b in ((updates.delta + 0, expected.delta), (updates.loss, expected.loss))
    )


def _is_wrapped(value: object) -> bool:
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)


def _usual_examples(x: Tensor, k: int) -> Tensor:
    """Return the numbers of k examples of middling size: neither empty nor much the largest."""
    candidates = torch.linspace(0, len(x) - 1, min(len(x), 64)).long().to(x.device)
    count = len(candidates)
    largest = x[candidates].reshape(count, -1).double().abs().amax(1).nan_to_num(torch.inf)
    middle = torch.linspace(count // 4, 3 * count // 4, k).long().clamp(max=count - 1)
    return candidates[largest.argsort(stable=True)[middle.to(x.device)]]


def _small_work(task: Task, like: Tensor, kind: WorkKind, exact: bool) -> Work:
    """Return the work of four clients with two models near ``like [.., d]``, on seven examples."""
    d, ones = like.shape[-1], np.ones(4)
    draw = generator(0, "trial")

    def normal(*shape):
        return torch.from_numpy(draw.standard_normal(shape, dtype="float32")).to(like)

    start = like.reshape(-1, d)[0] + 0.02 * normal(2, d)
    none = [-1, -1, -1]  # a pad among three shows whether a model mixes the examples of a batch
    batches = [
        [[0, 1, 2], [3, 4, -1], [5, 6, -1]],
        [[5, 6, -1], [1, 3, 4], none],
        [[3, 2, 6], [0, 5, -1], none],
        [[4, 0, -1], none, none],
    ]
    # Else AdamW would make whole steps of the rounding in a gradient of 0.
    is_adamw = kind.optimizer == "adamw" and exact
    momentum = kind.momentum or (kind.optimizer == "adamw" and not exact)
    mask = torch.from_numpy(draw.random((2, d)) < 0.7).to(like) if kind.mask else None
    fixed = draw.random((2, len(task.shapes))) < 0.4 if kind.fixed else None
    lr = np.array([1.0, 0.7, 0.4, 0.9]) * (0.01 if is_adamw else 0.1 if exact else 1.0)
    return Work(
        start if mask is None else start * mask,
        np.array([0, 1, 0, 1]),
        np.array(batches),
        2 * ones,
        lr,
        0.3 * kind.mu * ones,
        0.9 * momentum * ones,
        0.2 * kind.weight_decay * ones,
        0.01 * normal(4, d) if kind.h else None,
        mask,
        fixed,
        optimizer="adamw" if is_adamw else "sgd",
    )
