"""Check that a task fits its data, before anything is trained.

Model, loss and metrics are called on a few examples. A misfit is refused in one line, before it
fails in the middle of a run. So is a function that does not give the same output twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from fedlab.core import FederatedDataset, Task, params
from fedlab.core.module_state import same_outputs, state
from fedlab.core.modules import check_forward
from fedlab.core.repeats import is_ours
from fedlab.core.rng import seeded
from fedlab.core.table_lookups import LookupsDone, OutOfTable, TableLookups
from fedlab.engine.evaluation import EVALUATED_AT_ONCE
from fedlab.models.language import check_targets, token_loss
from fedlab.models.tabular import cross_entropy

# Pairs that passed: seeds and variants share them, and each pair is checked once.
_CHECKED: WeakKeyDictionary[Task, WeakSet[FederatedDataset]] = WeakKeyDictionary()


@torch.no_grad()
def check_fit(task: Task, w: Tensor, data: FederatedDataset) -> None:
    """Check a task on a few examples of its data.

    Args:
        task: Task with model, loss, metrics and measures.
        w: Initial model ``[d]``.
        data: Examples of all clients and the test set.

    Raises:
        ValueError: If model, loss, metrics and data do not fit each other, or a function does not
            give the same output twice.
    """
    if data in _CHECKED.setdefault(task, WeakSet()):
        return
    x, y = params.as_numbers(data.x[:2], w).clone(), data.y[:2].clone()
    name, before = type(task.template(w)).__name__, state(task.template(w))
    output, tables = _first_outputs(task, w, data, x, name)
    _check_single(task, w, x, output, name)
    if x._version:
        raise ValueError(
            f"the forward pass of {name} writes to its examples, which are the data themselves. "
            "Try x = x - ... in place of x -= ..., and inplace=False in its first layer"
        )
    if last := tables.early if task.lengths else tables.number:
        _check_tables(task, w, data, last)
    _check_repeats(task, w, before, x, params.as_numbers(data.test[0][:2], w).clone())
    is_matrix = isinstance(output, Tensor) and output.dim() == 2
    if task.loss is cross_entropy and is_matrix and not y.is_floating_point():
        _check_labels(output.shape[1], name, data)
    if task.loss is token_loss:
        check_targets(data)
    _check_scores(task, output, y, name)
    _check_metrics(task, w, data)
    _CHECKED[task].add(data)


def _first_outputs(
    task: Task, w: Tensor, data: FederatedDataset, x: Tensor, name: str
) -> tuple[Any, TableLookups]:
    """Return the outputs for the first examples, and the table look-ups that they took."""
    try:
        with seeded(0, "fit"), TableLookups() as tables:
            return task.forward(w, x), tables
    except OutOfTable:
        _check_tables(task, w, data, None)  # raises with the number of the example
        raise
    except Exception as error:
        reason = f": {_first_line(error)}"
        if not x.is_floating_point() and "dtype" in reason:
            reason = (
                " (whole numbers are for models that look tokens up). "
                "Try x.astype(float), for features"
            )
        elif x.is_floating_point() and "scalar types: Long, Int" in reason:
            reason = " (it looks up tokens, which are whole numbers). Try x.astype(int), for tokens"
        raise ValueError(
            f"the model {name} does not take examples of shape {list(x.shape[1:])} and type "
            f"{x.dtype}{reason}"
        ) from error


def _check_single(task: Task, w: Tensor, x: Tensor, output: Any, name: str) -> None:
    """Raise ValueError if a batch of one example, as a last batch may be, loses its dimension."""
    if not isinstance(output, Tensor) or len(x) < 2:
        return
    try:
        with seeded(0, "fit"):
            shape = list(task.forward(w, x[:1]).shape)
        outcome = f"gives outputs of shape {shape}"
    except Exception as error:
        shape, outcome = None, f"fails: {_first_line(error)}"
    # Other dimensions may depend on the longest text, and the first one may be time.
    is_lost = (
        shape is None or len(shape) != output.dim() or (output.shape[0] == len(x) and shape[0] != 1)
    )
    if is_lost:
        raise ValueError(
            f"the model {name} gives outputs of shape {list(output.shape)} for {len(x)} examples, "
            f"and for a single one it {outcome}. Try flatten(1), or squeeze(-1) in place of "
            "squeeze()"
        )


def _check_repeats(
    task: Task, w: Tensor, before: dict[str, Any], x: Tensor, other_x: Tensor
) -> None:
    """Raise ValueError if outputs depend on anything but the weights and the example."""
    forward, version = partial(task.forward, w), w._version
    model = task.template(w)
    keeps_state = check_forward(forward, model, before, x, other_x)
    if w._version != version:
        raise ValueError(
            f"the forward pass of {type(model).__name__} writes to its parameters, which are the "
            "server's. Try to compute what it needs from them without in-place functions"
        )
    if not keeps_state and not task.builds.differ:
        return
    # State, or random numbers of a build, may be harmless: a fresh build shows whether they are.
    fresh = partial(task.with_fresh_templates().forward, w)
    fresh(other_x)
    if not same_outputs(forward(x), fresh(x)):
        raise ValueError(
            f"two builds of {type(model).__name__} with the same weights give other outputs for "
            "the same examples. Try torch's functions in place of NumPy's or Python's random, and "
            "no state in forward"
        )


def _check_scores(task: Task, output: Any, y: Tensor, name: str) -> None:
    """Raise ValueError if the loss or a metric does not fit the outputs, or is random."""
    if isinstance(task.loss, nn.Module) and any(p.requires_grad for p in task.loss.parameters()):
        raise ValueError(
            "the loss has parameters, which would not be trained. Try to make them parameters of "
            "the model"
        )
    if task.measures and not isinstance(output, Tensor):
        raise ValueError(
            f"measure {next(iter(task.measures))!r} takes outputs as one array, and {name} gives "
            f"{type(output).__name__}. Try a model of logits"
        )
    shapes = f"outputs {_shape(output)} of {name} and labels {list(y.shape)} of type {y.dtype}"
    for role, score in {"loss": task.loss, **task.metrics}.items():
        _check_score(role, score, output, y, shapes)


def _check_score(
    role: str, score: Callable[[Any, Tensor], Any], output: Any, y: Tensor, shapes: str
) -> None:
    """Raise ValueError unless a loss or metric gives one number per example, twice the same."""
    versions = [t._version for t in (output, y) if isinstance(t, Tensor)]
    try:
        with seeded(0, "score") as draws:
            values = score(output, y)
        again = score(output, y)
    except Exception as error:
        raise ValueError(f"the {role} does not take {shapes}: {_first_line(error)}") from error
    subject = f"the {role} of {shapes}"
    if not isinstance(values, Tensor):
        raise ValueError(
            f"{subject} gave {type(values).__name__} and must give a tensor, one number per "
            "example [B]. Try Task(measures={...}) for one number over all examples, "
            "from NumPy arrays"
        )
    if values.shape != y.shape[:1]:
        raise ValueError(
            f"{subject} has the shape {list(values.shape)} and must have one number per example "
            "[B]. Try reduction='none', if it is PyTorch's"
        )
    if [t._version for t in (output, y) if isinstance(t, Tensor)] != versions:
        raise ValueError(
            f"{subject} writes to its outputs or labels, which others read. "
            "Try it without in-place functions"
        )
    if draws.drawn or not same_outputs(values, again):
        raise ValueError(
            f"{subject} is another one when it is asked again: no run could be repeated. "
            "Try it without state"
        )


def _check_metrics(task: Task, w: Tensor, data: FederatedDataset) -> None:
    """Raise ValueError if a user's metric depends on the other examples of a batch."""
    metrics = {name: metric for name, metric in task.metrics.items() if not is_ours(metric)}
    x, y = (column[:32] for column in data.test)
    output, half = task.forward(w, params.as_numbers(x, w)) if metrics else None, len(y) // 2
    if not isinstance(output, Tensor) or not half:
        return
    for name, metric in metrics.items():
        halves = [metric(output[:half], y[:half]), metric(output[half:], y[half:])]
        if not same_outputs(metric(output, y), torch.cat(halves)):
            raise ValueError(
                f"the metric {name!r} gives an example another number beside other examples, and "
                "which ones are evaluated together depends on how many runs there are. "
                "Try Task(measures={...}), which sees all outputs at once"
            )


def _shape(output: Any) -> str:
    """Describe an output by its shape, or by its type."""
    return str(list(output.shape)) if isinstance(output, Tensor) else f"({type(output).__name__})"


def _check_tables(task: Task, w: Tensor, data: FederatedDataset, last: int | None) -> None:
    """Raise ValueError if an example has a token, or a pad, that a table of the model lacks.

    Every example passes through the model up to the last look-up.
    """
    for split, x in {"training": data.x, "test": data.test[0]}.items():
        for k in range(0, len(x), EVALUATED_AT_ONCE):
            for piece in task.length_groups(x[k : k + EVALUATED_AT_ONCE]):
                numbers = torch.arange(k, min(k + EVALUATED_AT_ONCE, len(x)))[piece]
                if _failed_lookup(task, w, x[numbers], last) is not None:
                    _refuse_token(task, w, data, split, numbers, last)


def _failed_lookup(task: Task, w: Tensor, x: Tensor, last: int | None) -> OutOfTable | None:
    """Return the first look-up of these examples that fails."""
    try:
        with seeded(0, "fit"), TableLookups(last):
            task.forward(w, params.as_numbers(x, w))
    except OutOfTable as error:
        return error
    except LookupsDone:
        pass
    return None


def _refuse_token(
    task: Task,
    w: Tensor,
    data: FederatedDataset,
    split: str,
    numbers: Tensor,
    last: int | None,
) -> None:
    """Raise ValueError for the first of the examples ``numbers`` whose look-up fails."""
    model, x = task.template(w), data.x if split == "training" else data.test[0]
    i, error = next(
        (i, error)
        for i in numbers.tolist()
        if (error := _failed_lookup(task, w, x[i : i + 1], last)) is not None
    )
    token, size = error.rows[error.outside][0].item(), error.size
    names = [
        name
        for name, layer in model.named_modules()
        if getattr(layer, "num_embeddings", None) == size
    ]
    model_name = type(model).__name__
    table = (
        f"the table {names[0]!r} of {model_name}" if len(names) == 1 else f"a table of {model_name}"
    )
    holder = next(
        (f", which client {c} holds," for c, part in enumerate(data.parts) if i in part), ""
    )
    larger = f"nn.Embedding({token + 1}, ...)" if names else f"a table of {token + 1} rows"
    remedy = larger if token >= 0 else "x + 1 with padding_idx=0, so that pads are token 0"
    raise ValueError(
        f"{split} example {i}{holder if split == 'training' else ''} has the token {token}, and "
        f"{table} has rows 0 to {size - 1}. Try {remedy}"
    )


def _check_labels(outputs: int, name: str, data: FederatedDataset) -> None:
    """Raise ValueError for a label that the model has no output for."""
    for split, y in {"training": data.y, "test": data.test[1]}.items():
        low, high = y.min().item(), y.max().item()
        if low < 0 or high >= outputs:
            raise ValueError(
                f"the {split} label {low if low < 0 else high} is out of range: the model {name} "
                f"has {outputs} outputs, for classes numbered from 0 to {outputs - 1}. Try more "
                "outputs, or other class numbers"
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
