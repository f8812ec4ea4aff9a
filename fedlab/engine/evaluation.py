"""Scores of models: on the whole test set, and on the test examples of each client."""

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

# Examples per forward pass, which bounds the memory of their activations.
EVALUATED_AT_ONCE = 2000

Place = slice | np.ndarray  # numbers of the examples of one pass

# Forward pass of v models side by side: x [v * n, ...] -> outputs [v * n, ...].
Models = Callable[[Tensor], Tensor]


def evaluate(task: Task, w: Tensor, data: FederatedDataset) -> dict[str, float]:
    """Evaluate a model on the whole test set.

    Args:
        task: Task with its loss, metrics and measures.
        w: Model ``[d]``.
        data: Data with the test set.

    Returns:
        The mean loss, the mean of each metric, and each measure.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=4)
        >>> zeros = torch.zeros(650)  # 64 * 10 weights and 10 biases
        >>> scores = evaluate(mlp(digits, hidden=()), zeros, digits)
        >>> round(scores["loss"], 4)  # log(10), since all ten digits are equally likely
        2.3026
    """
    return evaluate_models(task, w[None], data)[0]


@torch.no_grad()
def evaluate_models(task: Task, rows: Tensor, data: FederatedDataset) -> list[dict[str, float]]:
    """Evaluate several models on the whole test set; small ones side by side.

    Args:
        task: Task with its loss, metrics and measures.
        rows: Models ``[v, d]``, one per row.
        data: Data with the test set.

    Returns:
        The scores of each model, as ``evaluate`` returns them.
    """
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
    """Evaluate one model, or one per client, on each client's own test examples.

    Args:
        task: Task with its loss, metrics and measures.
        w: One model ``[d]``, or one row per client ``[N, d]``.
        data: Data whose ``test_parts`` assign the test examples to clients.

    Returns:
        One row per client: ``client``, ``num_examples`` (for training), ``test_examples``, then
        the loss, metrics and measures, which are NaN for a client without test examples.

    Raises:
        ValueError: If the data have no ``test_parts``, or ``w`` has neither of these shapes.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.study import hold_out_examples
        >>> digits = load("digits", clients=4)
        >>> held = hold_out_examples(digits, share=0.25)  # a quarter of each client's examples
        >>> zeros = torch.zeros(650)  # a model; after a run, result.w[0]
        >>> table = evaluate_clients(mlp(held, hidden=()), zeros, held)
        >>> table.columns.tolist()
        ['client', 'num_examples', 'test_examples', 'loss', 'accuracy']
        >>> bool(table["test_examples"].sum() == len(held.test[1]))
        True
    """
    import pandas as pd

    if not isinstance(w, Tensor):
        raise ValueError(
            f"w is {type(w).__name__} and must be a tensor, [d] or [N, d]. Try result.w[0] for "
            "a run's model, or torch.stack(models) for one model per client"
        )
    if not isinstance(data, FederatedDataset):
        raise ValueError(
            f"data is {type(data).__name__} and must be a FederatedDataset. Try data(0), for a "
            "function of the seed"
        )
    parts, w = _test_parts(data), _as_precise(w, data.test[0])
    scores_of = _scores_of_one if w.dim() == 1 else _scores_of_each
    rows = scores_of(task, w, data, parts)
    sizes = {"num_examples": data.sizes, "test_examples": [len(part) for part in parts]}
    return pd.DataFrame({"client": np.arange(len(parts)), **sizes}).join(pd.DataFrame(rows))


def _scores_of_one(
    task: Task, w: Tensor, data: FederatedDataset, parts: list[np.ndarray]
) -> list[dict[str, float]]:
    """Return the scores of one model on each client's test examples."""
    scores, outputs = example_scores(task, w, data)
    return [
        _client_scores(task, scores, outputs, data.test[1], part, i) for i, part in enumerate(parts)
    ]


def _scores_of_each(
    task: Task, w: Tensor, data: FederatedDataset, parts: list[np.ndarray]
) -> list[dict[str, float]]:
    """Return the scores of each client's model ``w [N, d]`` on its own test examples."""
    if w.dim() != 2 or len(w) != data.num_clients:
        raise ValueError(
            f"w has the shape {list(w.shape)} and must be one model [d] or a row per client "
            f"[{data.num_clients}, d]. Try w[0]"
        )
    rows = []
    for i, part in enumerate(parts):
        place = torch.as_tensor(part, dtype=torch.long, device=data.test[1].device)
        tests = replace(data, test=(data.test[0][place], data.test[1][place]))
        scores, outputs = example_scores(task, w[i], tests)
        rows.append(_client_scores(task, scores, outputs, tests.test[1], np.arange(len(part)), i))
    return rows


def summarise_clients(
    table: pd.DataFrame,
    column: str = "accuracy",
    *,
    reference: float | np.ndarray | pd.Series | None = None,
) -> pd.Series:
    """Summarise a column of ``evaluate_clients`` over the clients that have test examples.

    Args:
        table: Table that ``evaluate_clients`` returned.
        column: Name of a score. In a column whose name ends in "loss" or "cost", low is good.
        reference: A number, or one per client ``[N]``, such as each client's accuracy after
            training alone.

    Returns:
        ``clients`` (with a score), ``mean_over_clients``, ``mean_over_examples``,
        ``percentile_10`` (a tenth of the clients do worse) and ``worst``. With a ``reference``
        also ``share_below``, the share of clients that do worse than it.

    Raises:
        ValueError: If there is no such column, or the reference is neither a number nor one per
            client.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"test_examples": [1, 3], "accuracy": [0.0, 1.0]})
        >>> summary = summarise_clients(table, reference=0.5)
        >>> summary[["mean_over_clients", "mean_over_examples", "share_below"]].tolist()
        [0.5, 0.75, 0.5]
        >>> float(summary["worst"])
        0.0
    """
    import pandas as pd

    if column not in table:
        raise ValueError(
            f"column={column!r} must be a column of the table. Try one of "
            f"{', '.join(table.columns)}"
        )
    scores, n = table[column].to_numpy(float), table["test_examples"].to_numpy(float)
    known = ~np.isnan(scores)
    sign = -1 if column.endswith(("loss", "cost")) else 1
    good, is_any = sign * scores[known], known.any()
    summary = {
        "clients": int(known.sum()),
        "mean_over_clients": scores[known].mean() if is_any else np.nan,
        "mean_over_examples": scores[known] @ n[known] / n[known].sum() if is_any else np.nan,
        "percentile_10": sign * np.percentile(good, 10) if is_any else np.nan,
        "worst": sign * good.min() if is_any else np.nan,
    }
    if reference is not None:
        summary["share_below"] = _share_below(scores, known, sign, reference)
    return pd.Series(summary, name=column)


def _share_below(
    scores: np.ndarray, known: np.ndarray, sign: int, reference: float | np.ndarray | pd.Series
) -> float:
    """Return the share of clients whose score is worse than the reference."""
    expected = np.asarray(reference, dtype=float)
    if expected.shape not in ((), scores.shape):
        raise ValueError(
            f"reference has the shape {list(expected.shape)} and must be a number or one per "
            f"client [{len(scores)}]. Try the same column of another table"
        )
    compared = known & ~np.isnan(np.broadcast_to(expected, scores.shape))
    gaps = sign * (scores - expected)[compared]
    return float((gaps < 0).mean()) if compared.any() else np.nan


@torch.no_grad()
def example_scores(
    task: Task, w: Tensor, data: FederatedDataset
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the loss and metrics of each test example, and the outputs for measures.

    Args:
        task: Task with its loss and metrics.
        w: Model ``[d]``.
        data: Data with the test set of n examples.

    Returns:
        Scores ``[n]`` by name, and the outputs ``[n, ...]`` if the task has measures, else None.
    """
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
    """Convert models to the precision of the examples, in which they were trained."""
    return w.to(x.dtype) if x.is_floating_point() and x.itemsize >= 4 else w


def _test_parts(data: FederatedDataset) -> list[np.ndarray]:
    if data.test_parts is None:
        raise ValueError(
            "data.test_parts must say whose each test example is, and it is None. Try "
            "fedlab.study.hold_out_examples, which holds out a share of each client's examples, "
            "or federate with owner= and test=0.2"
        )
    check_test_parts(data.test_parts, data.num_clients, len(data.test[1]))
    return list(data.test_parts)


def _client_scores(
    task: Task,
    scores: dict[str, np.ndarray],
    outputs: np.ndarray | None,
    y: Tensor,
    part: np.ndarray,
    client: int,
) -> dict[str, float]:
    """Average scores over the examples ``part``, and measure them; NaN without examples."""
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
    """Call the measures of a task on outputs and labels."""
    values = {}
    for array in (outputs, y):
        # A measure that writes would change the next one's numbers, and the data themselves.
        array.setflags(write=False)
    for name, measure in task.measures.items():
        try:
            value = call_repeatable(
                f"measure {name!r}", _GENERATOR, measure, outputs, y, tensors=_as_tensor
            )
        except Unrepeatable:
            raise
        except Exception as error:  # each library raises its own kind
            shapes = f"outputs {list(outputs.shape)} and labels {list(y.shape)}"
            raise ValueError(
                f"measure {name!r} does not take {shapes} of {where}: {error}"
            ) from error
        values[name] = check_measured(name, value, where)
    return values


def _as_tensor(value: Any) -> Tensor:
    return torch.as_tensor(float(value))


def _evaluate(task: Task, models: Models, v: int, data: FederatedDataset) -> list[dict[str, float]]:
    """Evaluate ``v`` models side by side on the whole test set."""
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
    """Yield, pass by pass, the numbers of the test examples ``[b]``, outputs and labels.

    Outputs and labels are ``[v * b, ...]``, one model after another.
    """
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
    """Write the outputs ``[v, b, ...]`` of one pass into the array of all ``[v, n, ...]``."""
    values = (
        output.float().numpy(force=True)
        if output.is_floating_point() and output.itemsize < 4
        else output.numpy(force=True)
    )
    if outputs is None:
        outputs = np.empty((len(values), n, *values.shape[2:]), values.dtype)
    outputs[:, place] = values
    return outputs
