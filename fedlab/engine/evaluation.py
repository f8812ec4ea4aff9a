"""How good models are: on the whole test set, and on each client's own test examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedlab.client import batched_forward
from fedlab.core import FederatedDataset, Task, params
from fedlab.core.repeats import Unrepeatable, call_repeatable
from fedlab.core.validate import check_test_parts
from fedlab.models.measures import check_measured

if TYPE_CHECKING:
    import pandas as pd


_GENERATOR = "np.random.default_rng(0) within it"

EVALUATED_AT_ONCE = 2000  # examples, which bounds the memory that their activations take

Place = slice | np.ndarray

Models = Callable[[Tensor], Tensor]  # v models side by side: x [v * n, ...] -> outputs [v * n, ...]


def evaluate(task: Task, w: Tensor, data: FederatedDataset) -> dict[str, float]:
    """Return the loss, metrics and measures of the model ``w [d]`` on the test set."""
    return evaluate_models(task, w[None], data)[0]


@torch.no_grad()
def evaluate_models(task: Task, rows: Tensor, data: FederatedDataset) -> list[dict[str, float]]:
    """Return those of each of the models ``rows [v, d]``; small models are evaluated side by side."""
    scores, rows = [], _as_precise(rows, data.test[0])
    for w in rows.split(max(1, EVALUATED_AT_ONCE // max(1, len(data.test[1])))):
        if (together := batched_forward(task, w, data)) is not None:
            scores += _evaluate(task, together, w.shape[0], data)
        else:
            scores += [
                score for row in w for score in _evaluate(task, task.template_with(row), 1, data)
            ]
    return scores


@torch.no_grad()
def evaluate_clients(task: Task, w: Tensor, data: FederatedDataset) -> pd.DataFrame:
    """Evaluate a model, or each client's own, on each client's own test examples.

    Args:
        task: What was learned, with its loss, metrics and measures.
        w: One model ``[d]`` for everyone, or a row per client ``[N, d]``.
        data: Data whose ``test_parts`` say whose each test example is.

    Returns:
        A row per client: ``client``, ``num_examples`` (for training), ``test_examples``, then the loss, metrics and
        measures.  Those are NaN for a client without test examples.

    Raises:
        ValueError: If the data do not say whose the test examples are, or ``w`` is no model and no row per client.

    Example:
        >>> from fedlab.study import hold_out_examples
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> digits = hold_out_examples(load("digits", clients=4), share=0.25)  # a quarter of each client's examples
        >>> task = mlp(digits, hidden=())
        >>> table = evaluate_clients(task, torch.zeros(650), digits)
        >>> table["test_examples"].sum() == len(digits.test[1])
        np.True_
    """
    import pandas as pd

    if not isinstance(w, Tensor):
        told = f"w is {type(w).__name__} and must be a tensor, [d] or [N, d]"
        raise ValueError(
            f"{told}. Try result.w[0] for a run's model, or torch.stack(models) for one of each client's own"
        )
    if not isinstance(data, FederatedDataset):
        raise ValueError(
            f"data is {type(data).__name__} and must be a FederatedDataset. Try data(0), for a function of the seed"
        )
    parts, w = _test_parts(data), _as_precise(w, data.test[0])
    if w.dim() == 1:
        scores, outputs = example_scores(task, w, data)
        rows = [
            _client_scores(task, scores, outputs, data.test[1], part, i)
            for i, part in enumerate(parts)
        ]
    else:
        if w.dim() != 2 or len(w) != data.num_clients:
            shape = f"w has the shape {list(w.shape)}"
            raise ValueError(
                f"{shape} and must be one model [d] or a row per client [{data.num_clients}, d]. Try w[0]"
            )
        rows = []
        for i, part in enumerate(parts):
            place = torch.as_tensor(part, dtype=torch.long, device=data.test[1].device)
            tests = replace(data, test=(data.test[0][place], data.test[1][place]))
            scores, outputs = example_scores(task, w[i], tests)
            rows.append(
                _client_scores(task, scores, outputs, tests.test[1], np.arange(len(part)), i)
            )
    sizes = {"num_examples": data.sizes, "test_examples": [len(part) for part in parts]}
    return pd.DataFrame({"client": np.arange(len(parts)), **sizes}).join(pd.DataFrame(rows))


def summarise_clients(
    table: pd.DataFrame,
    column: str = "accuracy",
    *,
    reference: float | np.ndarray | pd.Series | None = None,
) -> pd.Series:
    """Summarise a column of ``evaluate_clients`` over the clients that have test examples.

    Args:
        table: What ``evaluate_clients`` returned.
        column: Which score.  Of a column that ends in "loss" or "cost", low is good.
        reference: A number, or one per client ``[N]``, such as each client's accuracy after training alone.

    Returns:
        ``clients`` (that have a score), ``mean_over_clients``, ``mean_over_examples``, ``percentile_10`` (a tenth of the
        clients do worse) and ``worst``; with a ``reference`` also ``share_below``, the share of clients that do worse.

    Raises:
        ValueError: If there is no such column, or the reference is neither a number nor one per client.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"test_examples": [1, 3], "accuracy": [0.0, 1.0]})
        >>> summarise_clients(table, reference=0.5)[["mean_over_clients", "mean_over_examples", "share_below"]].tolist()
        [0.5, 0.75, 0.5]
    """
    import pandas as pd

    if column not in table:
        raise ValueError(
            f"column={column!r} must be a column of the table. Try one of {', '.join(table.columns)}"
        )
    scores, n = table[column].to_numpy(float), table["test_examples"].to_numpy(float)
    known = ~np.isnan(scores)
    low_is_good = column.endswith(("loss", "cost"))
    good = -scores[known] if low_is_good else scores[known]
    sign = -1 if low_is_good else 1
    some = known.any()
    summary = {
        "clients": int(known.sum()),
        "mean_over_clients": scores[known].mean() if some else np.nan,
        "mean_over_examples": scores[known] @ n[known] / n[known].sum() if some else np.nan,
        "percentile_10": sign * np.percentile(good, 10) if some else np.nan,
        "worst": sign * good.min() if some else np.nan,
    }
    if reference is not None:
        wanted = np.asarray(reference, dtype=float)
        if wanted.shape not in ((), scores.shape):
            raise ValueError(
                f"reference has the shape {list(wanted.shape)} and must be a number or one per client "
                f"[{len(scores)}]. Try the same column of another table"
            )
        compared = known & ~np.isnan(np.broadcast_to(wanted, scores.shape))
        gaps = sign * (scores - wanted)[compared]
        summary["share_below"] = float((gaps < 0).mean()) if compared.any() else np.nan
    return pd.Series(summary, name=column)


@torch.no_grad()
def example_scores(
    task: Task, w: Tensor, data: FederatedDataset
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return loss and metrics of each test example ``[n]``, and the outputs ``[n, ...]`` where measures need them."""
    n, outputs = len(data.test[1]), None
    functions = {"loss": task.loss, **task.metrics}
    scores = {name: np.empty(n) for name in functions}
    for place, output, labels in _passes(task, task.template_with(w), 1, data):
        for name, score in functions.items():
            scores[name][place] = score(output, labels).numpy(force=True)
        if task.measures:
            outputs = _collect(outputs, place, output[None], n)
    return scores, None if outputs is None else outputs[0]


def _as_precise(w: Tensor, x: Tensor) -> Tensor:
    """Return models in the precision of the examples, as training has them."""
    return w.to(x.dtype) if x.is_floating_point() and x.itemsize >= 4 else w


def _test_parts(data: FederatedDataset) -> list[np.ndarray]:
    if data.test_parts is None:
        raise ValueError(
            "data.test_parts must say whose each test example is, and it is None. Try fedlab.study.hold_out_examples, "
            "which holds out a share of each client's examples, or federate with owner= and test=0.2"
        )
    check_test_parts(data.test_parts, data.num_clients, len(data.test[1]))
    return list(data.test_parts)


def _client_scores(task, scores, outputs, y, part, client) -> dict[str, float]:
    """Return the means over ``part``, and the measures on it; NaN without examples."""
    names = (*scores, *task.measures)
    if len(part) == 0:
        return dict.fromkeys(names, np.nan)
    means = {name: float(values[part].mean()) for name, values in scores.items()}
    if outputs is not None:
        means |= _measured(
            task, outputs[part], y.numpy(force=True)[part], f"the test examples of client {client}"
        )
    return means


def _measured(task: Task, outputs: np.ndarray, y: np.ndarray, where: str) -> dict[str, float]:
    values = {}
    for array in (outputs, y):
        array.setflags(
            write=False
        )  # a measure that writes would change the next one's numbers, and the data themselves
    for name, measure in task.measures.items():
        try:
            value = call_repeatable(
                f"measure {name!r}", _GENERATOR, measure, outputs, y, tensors=_as_tensor
            )
        except Unrepeatable:
            raise
        except Exception as error:  # each library has its own
            shapes = f"outputs {list(outputs.shape)} and labels {list(y.shape)}"
            raise ValueError(
                f"measure {name!r} does not take {shapes} of {where}: {error}"
            ) from error
        values[name] = check_measured(name, value, where)
    return values


def _as_tensor(value: Any) -> Tensor:
    return torch.as_tensor(float(value))


def _evaluate(task: Task, models: Models, v: int, data: FederatedDataset) -> list[dict[str, float]]:
    """Return the scores of ``v`` models side by side."""
    functions, n = {"loss": task.loss, **task.metrics}, len(data.test[1])
    totals, outputs = {name: np.zeros(v) for name in functions}, None
    for place, output, labels in _passes(task, models, v, data):
        for name, score in functions.items():
            totals[name] += score(output, labels).reshape(v, -1).sum(1).numpy(force=True)
        if task.measures:
            outputs = _collect(outputs, place, output.reshape(v, -1, *output.shape[1:]), n)
    means = (totals[name] / n for name in functions)
    scores = [
        dict(zip(functions, each, strict=True))
        for each in zip(*(mean.tolist() for mean in means), strict=True)
    ]
    if outputs is not None:
        y = data.test[1].numpy(force=True)
        scores = [
            each | _measured(task, output, y, "the test set")
            for each, output in zip(scores, outputs, strict=True)
        ]
    return scores


def _passes(
    task: Task, models: Models, v: int, data: FederatedDataset
) -> Iterator[tuple[Place, Tensor, Tensor]]:
    """Yield test examples in turn: which ones ``[b]``, outputs ``[v * b, ...]`` and labels ``[v * b, ...]``."""
    for k in range(0, len(data.test[1]), EVALUATED_AT_ONCE):
        x, y = (column[k : k + EVALUATED_AT_ONCE] for column in data.test)
        for piece in task.length_groups(x):
            examples, labels = (
                column.expand(v, *column.shape).flatten(0, 1) for column in (x[piece], y[piece])
            )
            place = (
                slice(k, k + len(y)) if isinstance(piece, slice) else piece.numpy(force=True) + k
            )
            yield place, models(params.as_numbers(examples)), labels


def _collect(outputs: np.ndarray | None, place: Place, output: Tensor, n: int) -> np.ndarray:
    """Write the outputs ``[v, b, ...]`` of one pass where they belong among ``n`` examples, ``[v, n, ...]``."""
    values = (
        output.float().numpy(force=True)
        if output.is_floating_point() and output.itemsize < 4
        else output.numpy(force=True)
    )
    if outputs is None:
        outputs = np.empty((len(values), n, *values.shape[2:]), values.dtype)
    outputs[:, place] = values
    return outputs
