"""The choice of the method by which a cohort trains side by side."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import Tensor

from fedlab.client import lowrank
from fedlab.client.independence import examples_are_independent
from fedlab.client.side_by_side import Method
from fedlab.client.steps import REQUIREMENTS, layer_by_layer
from fedlab.client.trial import WorkKind, passes_trial
from fedlab.core import Task, Work

FACTORED = Method(layer_by_layer, factored=True)


def choose_method(task: Task, x: Tensor, y: Tensor, work: Work) -> Method | None:
    """Return the fastest method that passes its trial for this work.

    Args:
        task: Model and loss.
        x: Examples of all clients, ``[n, ...]``.
        y: Their labels, ``[n]``.
        work: The work of the cohort.

    Returns:
        The method; None if only ``sequential`` can do the work.
    """
    kind = WorkKind.of(work)
    is_factored = kind == WorkKind() and lowrank.suits(task, x, work)
    if is_factored and is_right(FACTORED, task, x, y, work.start):
        return FACTORED
    return full_method(task, x, y, work.start, kind)


def full_method(
    task: Task, x: Tensor, y: Tensor, like: Tensor, kind: WorkKind | None = None
) -> Method | None:
    """Return the fastest method for models that keep all their parameters.

    Args:
        task: Model and loss.
        x: Examples to try methods with, ``[n, ...]``.
        y: Their labels, ``[n]``.
        like: A model, or several, whose device and precision count, ``[..., d]``.
        kind: Kind of work (default: plain SGD).
    """
    methods = map(Method, REQUIREMENTS)
    return next((m for m in methods if is_right(m, task, x, y, like, kind)), None)


def is_right(
    method: Method, task: Task, x: Tensor, y: Tensor, like: Tensor, kind: WorkKind | None = None
) -> bool:
    """Return whether a method is right for a task and a kind of work.  It is tried once.

    Args:
        method: The method.
        task: Model and loss.
        x: Examples to try it with, ``[n, ...]``.
        y: Their labels, ``[n]``.
        like: A model, or several, whose device and precision count, ``[..., d]``.
        kind: Kind of work (default: plain SGD).
    """
    if not examples_are_independent(task, x, y, like):
        return False
    tried = _TRIED.setdefault(task, {})
    kind = kind or WorkKind()
    key = method, kind, like.device
    if key not in tried:
        tried[key] = passes_trial(method, task, x, y, like, kind)
    return tried[key]


_TRIED: WeakKeyDictionary[Task, dict[tuple, bool]] = WeakKeyDictionary()
