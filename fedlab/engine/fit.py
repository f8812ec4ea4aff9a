"""What must hold between a task and data before anything is trained: each pair is tried once, on a few examples."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from fedlab.core import FederatedDataset, Task, params
from fedlab.core.modules import (
    LookupsDone,
    OutOfTable,
    TableLookups,
    check_forward,
    same_outputs,
    state,
)
from fedlab.core.repeats import is_ours
from fedlab.core.rng import seeded
from fedlab.engine.evaluation import EVALUATED_AT_ONCE
from fedlab.models.language import check_targets, token_loss
from fedlab.models.tabular import cross_entropy

_FITTING: WeakKeyDictionary[Task, WeakSet[FederatedDataset]] = WeakKeyDictionary()


@torch.no_grad()
def check_fit(task: Task, w: Tensor, data: FederatedDataset) -> None:
    """Model, loss and metrics on a few examples: ValueError where they do not go together, or could not be repeated.

    Each pair is looked at once, however many seeds and variants have it.
    """
    if data in _FITTING.setdefault(task, WeakSet()):
        return
    x, y = params.as_numbers(data.x[:2], w).clone(), data.y[:2].clone()
    name, before = type(task.template(w)).__name__, state(task.template(w))
    try:
        with seeded(0, "fit"), TableLookups() as tables:
            output = task.forward(w, x)
    except OutOfTable:
        _check_tables(task, w, data, None)  # which finds the example
    except Exception as error:
        shape = f"examples of shape {list(x.shape[1:])} and type {x.dtype}"
        told, why = f"the model {name} does not take {shape}", f": {_first_line(error)}"
        if not x.is_floating_point() and "dtype" in why:
            why = " (whole numbers are for models that look tokens up). Try x.astype(float), for features"
        elif x.is_floating_point() and "scalar types: Long, Int" in why:
            why = " (it looks tokens up, and they are whole numbers). Try x.astype(int), for tokens"
        raise ValueError(f"{told}{why}") from error
    _check_single(task, w, x, output, name)
    if x._version:
        raise ValueError(
            f"the forward pass of {name} writes to its examples, which are the data themselves. "
            "Try x = x - ... in place of x -= ..., and inplace=False in its first layer"
        )
    if last := tables.early if task.lengths else tables.number:
        _check_tables(task, w, data, last)
    _check_repeats(task, w, before, x, params.as_numbers(data.test[0][:2], w).clone())
    if (
        task.loss is cross_entropy
        and isinstance(output, Tensor)
        and output.dim() == 2
        and not y.is_floating_point()
    ):
        _check_labels(output.shape[1], name, data)
    if task.loss is token_loss:
        check_targets(data)
    _check_scores(task, output, y, name)
    _check_metrics(task, w, data)
    _FITTING[task].add(data)


def _check_single(task: Task, w: Tensor, x: Tensor, output: Any, name: str) -> None:
    """Raise ValueError for a model that has no place for the examples in its output where it sees one: a last batch may."""
    if not isinstance(output, Tensor) or len(x) < 2:
        return
    try:
        with seeded(0, "fit"):
            shape = list(task.forward(w, x[:1]).shape)
        told = f"gives outputs of shape {shape}"
    except Exception as error:
        shape, told = None, f"fails: {_first_line(error)}"
    lost = (
        shape is None or len(shape) != output.dim() or (output.shape[0] == len(x) and shape[0] != 1)
    )
    if lost:  # the other sizes may depend on the longest text, and the first may be time
        many = f"the model {name} gives outputs of shape {list(output.shape)} for {len(x)} examples"
        raise ValueError(
            f"{many}, and for a single one it {told}. Try flatten(1), or squeeze(-1) in place of squeeze()"
        )


def _check_repeats(task: Task, w: Tensor, before: dict[str, Any], x: Tensor, other: Tensor) -> None:
    """Raise ValueError for a model whose outputs are no function of weights and example alone."""
    forward, written = partial(task.forward, w), w._version
    model = task.template(w)
    kept = check_forward(forward, model, before, x, other)
    if w._version != written:
        told = f"the forward pass of {type(model).__name__} writes to its parameters"
        raise ValueError(
            f"{told}, which are the server's. Try to compute what it needs from them without in-place functions"
        )
    if not kept and not task.builds.differ:
        return
    fresh = partial(
        task.with_fresh_templates().forward, w
    )  # what is kept, or drawn elsewhere, may matter or not: another one will tell
    fresh(other)
    if not same_outputs(forward(x), fresh(x)):
        told = f"two builds of {type(model).__name__} with the same weights give other outputs for the same examples"
        raise ValueError(
            f"{told}. Try torch's functions in place of NumPy's or Python's random, and no state in forward"
        )


def _check_scores(task: Task, output: Any, y: Tensor, name: str) -> None:
    """Raise ValueError for a loss or a metric that does not go with the model's ``output``, or draws."""
    shapes = f"outputs {_shape(output)} of {name} and labels {list(y.shape)} of type {y.dtype}"
    if isinstance(task.loss, nn.Module) and any(p.requires_grad for p in task.loss.parameters()):
        raise ValueError(
            "the loss has parameters, which would not be trained. Try to make them parameters of the model"
        )
    if task.measures and not isinstance(output, Tensor):
        measure, given = next(iter(task.measures)), type(output).__name__
        raise ValueError(
            f"measure {measure!r} takes outputs as one array, and {name} gives {given}. Try a model of logits"
        )
    written = [t._version for t in (output, y) if isinstance(t, Tensor)]
    for what, score in {"loss": task.loss, **task.metrics}.items():
        try:
            with seeded(0, "score") as draws:
                each = score(output, y)
            again = score(output, y)
        except Exception as error:
            raise ValueError(f"the {what} does not take {shapes}: {_first_line(error)}") from error
        told = f"the {what} of {shapes}"
        if not isinstance(each, Tensor):
            raise ValueError(
                f"{told} gave {type(each).__name__} and must give a tensor, one number per example [B]. "
                "Try Task(measures={...}) for one number over all examples, from NumPy arrays"
            )
        if each.shape != y.shape[:1]:
            gave = f"{told} has the shape {list(each.shape)}"
            raise ValueError(
                f"{gave}: it gives one number an example, [B], with reduction='none' where PyTorch has that"
            )
        if [t._version for t in (output, y) if isinstance(t, Tensor)] != written:
            raise ValueError(
                f"{told} writes to its outputs or labels, which others read. Try it without in-place functions"
            )
        if draws.drawn or not same_outputs(each, again):
            raise ValueError(
                f"{told} is another one when it is asked again: no run could be repeated. Try it without state"
            )


def _check_metrics(task: Task, w: Tensor, data: FederatedDataset) -> None:
    """Raise ValueError for a metric of the user's in which an example's number depends on the others beside it."""
    metrics = {name: metric for name, metric in task.metrics.items() if not is_ours(metric)}
    x, y = (column[:32] for column in data.test)
    output, half = task.forward(w, params.as_numbers(x, w)) if metrics else None, len(y) // 2
    if not isinstance(output, Tensor) or not half:
        return
    for name, metric in metrics.items():
        if not same_outputs(
            metric(output, y),
            torch.cat([metric(output[:half], y[:half]), metric(output[half:], y[half:])]),
        ):
            raise ValueError(
                f"the metric {name!r} gives an example another number beside other examples, and which ones are evaluated "
                "together depends on how many runs there are. Try Task(measures={...}), which sees all outputs at once"
            )


def _shape(output: Any) -> str:
    """Describe an output by its shape, or by its type."""
    return str(list(output.shape)) if isinstance(output, Tensor) else f"({type(output).__name__})"


def _check_tables(task: Task, w: Tensor, data: FederatedDataset, last: int | None) -> None:
    """Raise ValueError where an example holds a token, or a pad, that a table of the model does not have.

    Every example passes through the model up to the last look-up.
    """
    for where, x in {"training": data.x, "test": data.test[0]}.items():
        for k in range(0, len(x), EVALUATED_AT_ONCE):
            for piece in task.length_groups(x[k : k + EVALUATED_AT_ONCE]):
                at = torch.arange(k, min(k + EVALUATED_AT_ONCE, len(x)))[piece]
                if _outside(task, w, x[at], last) is not None:
                    _refuse_token(task, w, data, where, x, at, last)


def _outside(task: Task, w: Tensor, x: Tensor, last: int | None) -> OutOfTable | None:
    """Return the first look-up of some examples that fails."""
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
    where: str,
    x: Tensor,
    at: Tensor,
    last: int | None,
) -> None:
    """Raise the ValueError for the first of the examples ``at`` whose look-up fails."""
    model = task.template(w)
    i, error = next(
        (i, error)
        for i in at.tolist()
        if (error := _outside(task, w, x[i : i + 1], last)) is not None
    )
    token, size = error.rows[error.outside][0].item(), error.size
    names = [
        name
        for name, layer in model.named_modules()
        if getattr(layer, "num_embeddings", None) == size
    ]
    table = (
        f"the table {names[0]!r} of {type(model).__name__}"
        if len(names) == 1
        else f"a table of {type(model).__name__}"
    )
    holder = next(
        (f", which client {c} holds," for c, part in enumerate(data.parts) if i in part), ""
    )
    larger = f"nn.Embedding({token + 1}, ...)" if names else f"a table of {token + 1} rows"
    remedy = larger if token >= 0 else "x + 1 with padding_idx=0, so that pads are token 0"
    raise ValueError(
        f"{where} example {i}{holder if where == 'training' else ''} has the token {token}, and {table} has rows 0 to "
        f"{size - 1}. Try {remedy}"
    )


def _check_labels(outputs: int, name: str, data: FederatedDataset) -> None:
    for where, y in {"training": data.y, "test": data.test[1]}.items():
        low, high = y.min().item(), y.max().item()
        if low < 0 or high >= outputs:
            told = f"the {where} label {low if low < 0 else high} is out of range: the model {name} has {outputs} outputs"
            raise ValueError(
                f"{told}, for classes numbered from 0 to {outputs - 1}; give it more, or number them so"
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
