"""Differences between clients: in their labels, and in the gradients they would send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.client import full_gradients
from fedlab.core import FederatedDataset, Task
from fedlab.data.partition import class_numbers
from fedlab.engine import evaluate_clients

if TYPE_CHECKING:
    import pandas as pd


GRADIENT_NUMBERS = 2**26  # numbers of gradients in memory at a time: 256 MB


class Drift(NamedTuple):
    """Distances between clients' gradients at one model; ``p_i`` are shares of examples.

    Attributes:
        g_squared: ``sum p_i ||grad F_i - grad F||^2``.
        b_squared: ``sum p_i ||grad F_i||^2 / ||grad F||^2``, at least 1; infinite where F
            has gradient 0 and the clients' gradients are not 0.
        clients: One row per client: ``client, num_examples, loss, gradient_norm, distance`` (from
            the mean gradient) and ``cosine`` (to it); NaN for clients without examples.
    """

    g_squared: float
    b_squared: float
    clients: pd.DataFrame


def label_skew(data: FederatedDataset) -> pd.DataFrame:
    """Measure how far each client's mix of labels is from that of all clients together.

    The earth mover's distance of Zhao et al. 2018 is twice the total variation.

    Args:
        data: Clients with class labels.

    Returns:
        One row per client; NaN for clients without examples. ``client, num_examples, classes``
        (that the client holds), ``effective_classes`` (exp of the entropy: 1 to ``classes``), and
        three distances from 0 to 1: ``total_variation``, half the sum of ``|p - q|``;
        ``jensen_shannon``, the divergence in bits, not its root; ``earth_mover``, the distance
        that labels must move until the mixes agree, with 1 from the first class to the last. The
        latter only means something for ordered classes.

    Raises:
        ValueError: For labels that are no class numbers.

    Example:
        >>> from fedlab.data import dirichlet, iid, load
        >>> even, skewed = (load("digits", 10, split) for split in (iid(), dirichlet(0.1)))
        >>> [float(label_skew(d)["total_variation"].mean().round(2)) for d in (even, skewed)]
        [0.09, 0.71]
    """
    import pandas as pd

    counts = _checked_counts(data)  # [N, classes]
    sizes, gaps = counts.sum(1), max(1, counts.shape[1] - 1)
    with np.errstate(invalid="ignore"):  # clients without examples have no mix
        p, q = counts / sizes[:, None], counts.sum(0) / sizes.sum()
    bits = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return pd.DataFrame(
        {
            "client": np.arange(len(counts)),
            "num_examples": sizes,
            "classes": (counts > 0).sum(1),
            "effective_classes": 2 ** _entropy(p),
            "total_variation": abs(p - q).sum(1) / 2,
            "jensen_shannon": bits.clip(0, 1),  # rounding may leave the range
            "earth_mover": abs((p - q).cumsum(1)).sum(1) / gaps,
        }
    )


def class_counts(data: FederatedDataset) -> pd.DataFrame:
    """Count each client's examples of each class: one row per client, one column per class.

    Example:
        >>> from fedlab.data import load
        >>> class_counts(load("digits", clients=10)).shape
        (10, 10)
    """
    import pandas as pd

    return pd.DataFrame(_checked_counts(data), columns=list(data.classes)).rename_axis("client")


def accuracy_by_group(task: Task, w: Tensor, data: FederatedDataset, groups: Sequence) -> pd.Series:
    """Measure the test accuracy of a model on the classes that each group of clients holds.

    It is the accuracy on each class of the test set, weighted by the group's examples of the
    class. For data whose test examples belong to clients, use ``evaluate_clients``.

    Args:
        task: Task of the model, with the metric ``accuracy``.
        w: Model ``[d]``.
        data: Clients, and a common test set.
        groups: Group of each client ``[N]``, such as its device.

    Returns:
        The accuracy by group, NaN for a group without examples.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.engine import initial
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=4)
        >>> task = mlp(digits)
        >>> w = initial(task, 0, digits.x)
        >>> accuracy_by_group(task, w, digits, ["phone"] * 3 + ["laptop"]).index.tolist()
        ['phone', 'laptop']
    """
    import pandas as pd

    y = data.test[1].numpy(force=True)
    classes = range(len(data.classes))  # as clients with the test examples of one class each
    tests = replace(
        data,
        parts=[np.empty(0, int) for _ in classes],
        test_parts=[np.flatnonzero(y == k) for k in classes],
    )
    by_class = evaluate_clients(task, w, tests)["accuracy"].fillna(0).to_numpy()
    counts = pd.DataFrame(data.counts()).groupby(np.asarray(groups), sort=False).sum()
    return (counts @ by_class / counts.sum(axis=1)).rename("accuracy")


def drift(task: Task, w: Tensor, data: FederatedDataset) -> Drift:
    """Measure how much the clients' gradients at a model disagree, over all their examples.

    B is the local dissimilarity of Li et al. 2020 (FedProx), definition 3. G is that of Karimireddy
    et al. 2020 (SCAFFOLD), (A1), for B = 1. So ``B^2 = 1 + G^2 / ||grad F||^2``. Both hold for this
    model only; near an optimum B has no bound.

    Args:
        task: Task of the model.
        w: Model ``[d]``.
        data: Clients, of which at least one holds examples.

    Returns:
        G squared, B squared, and one row per client.

    Raises:
        ValueError: If ``w`` is not one row, or no client holds an example.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.engine import initial
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=4)
        >>> task = mlp(digits)
        >>> drift(task, initial(task, 0, digits.x), digits).b_squared > 1
        True
    """
    if w.dim() != 1:
        raise ValueError(f"w has shape {list(w.shape)} and must be one model [d]. Try w[0]")
    ids = np.flatnonzero(data.sizes)
    if len(ids) == 0:
        raise ValueError(
            f"none of the {data.num_clients} clients holds an example (gradients need one). "
            "Try data with training examples"
        )
    share = w.new_tensor(data.sizes / data.sizes.sum())  # p_i
    loss, norm, distance, cosine, mean_norm = _gradient_measures(task, w, data, ids, share)
    return Drift(
        g_squared=(share[ids] @ distance[ids] ** 2).item(),
        b_squared=(share[ids] @ norm[ids] ** 2 / mean_norm**2).item(),
        clients=_client_rows(data, loss=loss, gradient_norm=norm, distance=distance, cosine=cosine),
    )


def _client_rows(data: FederatedDataset, **columns: Tensor) -> pd.DataFrame:
    import pandas as pd

    clients = {"client": np.arange(data.num_clients), "num_examples": data.sizes}
    measures = {name: column.cpu().numpy() for name, column in columns.items()}
    return pd.DataFrame(clients | measures)


def _gradient_measures(
    task: Task, w: Tensor, data: FederatedDataset, ids: np.ndarray, share: Tensor
) -> tuple[Tensor, ...]:
    """Return loss, gradient norm, distance and cosine per client ``[N]``, and the mean's norm."""
    at_once = max(1, GRADIENT_NUMBERS // len(w))
    groups = [ids[k : k + at_once] for k in range(0, len(ids), at_once)]

    @lru_cache(maxsize=1)  # the second pass begins with the last group: one group is computed once
    def gradients(k: int) -> tuple[Tensor, Tensor]:
        return full_gradients(task, data.x, data.y, w, [data.parts[i] for i in groups[k]])

    mean = sum(share[group] @ gradients(k)[1] for k, group in enumerate(groups))  # grad F, [d]
    rows = w.new_full((data.num_clients, 4), torch.nan)
    for k in reversed(range(len(groups))):
        loss, g = gradients(k)
        measures = [loss, g.norm(dim=1), (g - mean).norm(dim=1), g @ mean]
        rows[groups[k]] = torch.stack(measures, dim=1)
    loss, norm, distance, product = rows.T
    return loss, norm, distance, product / (norm * mean.norm()), mean.norm()


def _checked_counts(data: FederatedDataset) -> np.ndarray:
    class_numbers(data.y.numpy(), len(data.classes))
    return data.counts()


def _entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy in bits over the last axis, with 0 log 0 = 0."""
    return -(p * np.log2(np.where(p > 0, p, 1))).sum(-1)
