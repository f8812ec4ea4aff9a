"""How different the clients are: in their labels, and in where they pull a model."""

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


HELD = 2**26  # numbers of gradients held at a time: 256 MB


class Drift(NamedTuple):
    """How far the clients' gradients at one model lie apart; ``p_i`` are the clients' shares of the examples.

    ``clients`` has a row a client: ``client, num_examples, loss, gradient_norm, distance`` (from the mean gradient) and
    ``cosine`` (to it); NaN for who holds nothing.
    """

    g_squared: float  # sum p_i ||grad F_i - grad F||^2
    b_squared: float  # sum p_i ||grad F_i||^2 / ||grad F||^2, at least 1; infinite where F is flat and its parts are not
    clients: pd.DataFrame


def label_skew(data: FederatedDataset) -> pd.DataFrame:
    """What each client holds, and how far its mix of labels is from that of all clients together: a row a client.

    ``client, num_examples, classes`` (held at all), ``effective_classes`` (exp of the entropy: 1 to ``classes``), and three
    distances from 0 to 1: ``total_variation``, half the sum of ``|p - q|``; ``jensen_shannon``, the divergence in bits, not
    its root; ``earth_mover``, how far labels must move until the mixes agree, where first and last class are 1 apart, which
    means something for ordered classes only.  NaN for who holds nothing.
    What Zhao et al. 2018 call earth mover's distance is twice the total variation.
    """
    import pandas as pd

    counts = _counts(data)  # [N, classes]
    sizes, gaps = counts.sum(1), max(1, counts.shape[1] - 1)
    with np.errstate(invalid="ignore"):  # who holds nothing has no mix
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
    """How many examples of each class each client holds: a row a client, a column a class, by its name."""
    import pandas as pd

    return pd.DataFrame(_counts(data), columns=list(data.classes)).rename_axis("client")


def accuracy_by_group(task: Task, w: Tensor, data: FederatedDataset, groups: Sequence) -> pd.Series:
    """What the model ``w [d]`` is worth to each group of clients ``[N]``: its test accuracy on the classes that they hold.

    The accuracy on each class of the test set, weighted by how many examples of it the group has; NaN where it has none.
    For data that say whose each test example is, see ``evaluation.evaluate_clients``.
    """
    import pandas as pd

    y = data.test[1].numpy(force=True)
    classes = range(len(data.classes))  # as clients with the test examples of one class each
    tests = replace(
        data,
        parts=[np.empty(0, int) for _ in classes],
        test_parts=[np.flatnonzero(y == k) for k in classes],
    )
    each = evaluate_clients(task, w, tests)["accuracy"].fillna(0).to_numpy()
    held = pd.DataFrame(data.counts()).groupby(np.asarray(groups), sort=False).sum()
    return (held @ each / held.sum(axis=1)).rename("accuracy")


def drift(task: Task, w: Tensor, data: FederatedDataset) -> Drift:
    """How much the clients disagree about the way from the model ``w [d]``, by their gradients over all that they hold.

    B is the local dissimilarity of Li et al. 2020 (FedProx), definition 3; G is that of Karimireddy et al. 2020 (SCAFFOLD),
    (A1), for B = 1.  So ``B^2 = 1 + G^2 / ||grad F||^2``.  Both are of this model only; near an optimum B is boundless.
    """
    import pandas as pd

    if w.dim() != 1:
        raise ValueError(f"w has shape {list(w.shape)}: drift is measured at one model, a row [d]")
    ids = np.flatnonzero(data.sizes)
    if len(ids) == 0:
        raise ValueError(
            f"none of the {data.num_clients} clients holds an example: there is no gradient to compare"
        )
    at_once = max(1, HELD // len(w))
    groups = [ids[k : k + at_once] for k in range(0, len(ids), at_once)]
    share = w.new_tensor(data.sizes / data.sizes.sum())  # p_i

    @lru_cache(maxsize=1)  # one group needs no second pass, and several only for all but the last
    def gradients(k: int) -> tuple[Tensor, Tensor]:
        return full_gradients(task, data.x, data.y, w, [data.parts[i] for i in groups[k]])

    mean = sum(share[group] @ gradients(k)[1] for k, group in enumerate(groups))  # grad F, [d]
    rows = w.new_full((data.num_clients, 4), torch.nan)
    for k in reversed(range(len(groups))):
        loss, g = gradients(k)
        rows[groups[k]] = torch.stack(
            [loss, g.norm(dim=1), (g - mean).norm(dim=1), g @ mean], dim=1
        )
    loss, norm, distance, along = rows.T
    columns = {
        "loss": loss,
        "gradient_norm": norm,
        "distance": distance,
        "cosine": along / (norm * mean.norm()),
    }
    clients = {"client": np.arange(data.num_clients), "num_examples": data.sizes}
    return Drift(
        g_squared=(share[ids] @ distance[ids] ** 2).item(),
        b_squared=(share[ids] @ norm[ids] ** 2 / mean.norm() ** 2).item(),
        clients=pd.DataFrame(
            clients | {name: column.cpu().numpy() for name, column in columns.items()}
        ),
    )


def _counts(data: FederatedDataset) -> np.ndarray:
    class_numbers(data.y.numpy(), len(data.classes))
    return data.counts()


def _entropy(p: np.ndarray) -> np.ndarray:
    """In bits, over the last axis; 0 log 0 is 0."""
    return -(p * np.log2(np.where(p > 0, p, 1))).sum(-1)
