"""The fast engine: the models of a cohort stand side by side and take their steps together.

::

    batched(task, x, y, work)
        |
        |   choose_method: the first that is right for the task (method.py, trial.py)
        v
    FactoredModels    few examples, Linear layers: updates stay factors    (lowrank.py)
    FullModels        layer_by_layer   a sequence of known layers          (steps.py)
                      swapped_layers   known layers in any structure       (steps.py)
                      mapped           torch.func.vmap                     (steps.py)
    sequential        one client after another, with a warning             (sequential.py)
        |
        v
    Updates.delta [m, d]
        |   engine: split_rows(delta, sizes)
        v
    rows of each run
        |   server: weighted_sum(p, rows)
        v
    one vector [d] per run

Clients are sorted by their number of steps, so that the clients still at work stand first; they
are trained in chunks that fit in the processor's cache (side_by_side.py).

``delta`` of FactoredModels is a ``FactoredRows``: the two calls in the drawing work on the
factors, and any other reader of the matrix writes it out first (``fedlab.core.lazy_rows``).  With
a mean as the aggregate it is never written, which is why W2 and W4 of ``tests/bench/speed.py``
take less time than a plain loop of the same matrix products.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from weakref import WeakSet

import torch
from torch import Tensor

from fedlab.client import lowrank
from fedlab.client.method import FACTORED, choose_method, is_right
from fedlab.client.sequential import sequential
from fedlab.client.side_by_side import train_side_by_side
from fedlab.client.trial import LARGE_MODEL
from fedlab.core import FederatedDataset, Task, Updates, Work


def batched(task: Task, x: Tensor, y: Tensor, work: Work, *, chunk: int | None = None) -> Updates:
    """Train a whole cohort at once, to the numbers of ``sequential`` up to rounding.

    A model of Linear, Conv2d, Embedding, LayerNorm, GroupNorm and layers without parameters is
    stacked.  Other models are tried with ``vmap``; if that fails, ``sequential`` trains them, with
    a warning.  On a processor, ``sequential`` also trains large language models: a step on one
    client's texts keeps it busy.

    Args:
        task: Model and loss.
        x: Examples of all clients, ``[n, ...]``.
        y: Their labels, ``[n]``.
        work: The work of the cohort, from ``assign``.
        chunk: Clients trained at a time (default: as many as the processor's cache holds).

    Returns:
        The updates, one row per client.
    """
    method = None
    if len(work.origin) and not _fills_processor(task, work.start):
        method = choose_method(task, x, y, work)
    if method is None:
        _warn_once(task, work)
        return sequential(task, x, y, work)
    return train_side_by_side(method, task, x, y, work, chunk)


def batched_forward(
    task: Task, w: Tensor, data: FederatedDataset
) -> Callable[[Tensor], Tensor] | None:
    """Return the forward pass of small models side by side, without gradients.

    Args:
        task: Model and loss.
        w: The models, ``[v, d]``.
        data: Data to try the method with.

    Returns:
        A function from inputs ``[v * n, ...]`` to outputs ``[v * n, ...]``; None for models that
        are no sequence of Linear layers.
    """
    if not lowrank.is_linear(task.template(w), data.x):
        return None
    if not is_right(FACTORED, task, data.x, data.y, w):
        return None
    models = lowrank.factored_sequence(task, w, 1)

    def outputs(x):
        with torch.inference_mode(models.manual_backward):
            return models.forward(x)[0]

    return outputs


def _fills_processor(task: Task, like: Tensor) -> bool:
    """Return whether the texts of one client keep a processor busy: side by side gains nothing."""
    if task.lengths is None or like.is_cuda:
        return False
    return sum(p.numel() for p in task.template(like).parameters()) > LARGE_MODEL


def _warn_once(task: Task, work: Work) -> None:
    """Warn that clients train one after another, unless it is meant: large models of text."""
    if len(work.origin) and task.lengths is None and task not in _WARNED:
        _WARNED.add(task)
        name = type(task.template(work.start)).__name__
        warnings.warn(
            f"{name} cannot train many clients at once: they train one after another, more slowly. "
            "Try a model of layers such as nn.Linear and nn.Conv2d, or ignore this warning",
            stacklevel=3,
        )


_WARNED: WeakSet[Task] = WeakSet()
