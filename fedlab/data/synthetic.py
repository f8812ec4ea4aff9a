"""Data sets drawn from a formula, with clients of their own."""

from __future__ import annotations

import numpy as np
import torch

from fedlab.core import FederatedDataset, generator
from fedlab.core.validate import check_whole, is_number

MAX_DEVIATION = 1e6  # beyond it, single precision cannot separate a client's examples


def synthetic(
    alpha: float, beta: float, *, iid: bool = False, clients: int = 30, seed: int = 0
) -> FederatedDataset:
    """Draw ``synthetic(alpha, beta)`` of FedProx, with a logistic model per client.

    There are 60 features and 10 classes. Client k has the labels ``argmax(W_k x + b_k)``, with W_k
    and b_k ~ N(u_k, 1), u_k ~ N(0, alpha). Its features lie around v_k ~ N(B_k, 1), B_k ~ N(0,
    beta), with variances ``j^-1.2``. Sizes are ``floor(lognormal(4, 2)) + 50``: a few clients hold
    most examples. A tenth of each client's examples goes into the common test set.

    Li et al. 2020, section 5.1 and its code. The paper calls alpha and beta variances; its code
    uses them as standard deviations, and so does this (for 0 and 1 there is no difference). u_k
    adds the same to every logit, so alpha changes no label: models differ as much at 0 as at 1, and
    ``beta`` alone sets the skew.

    Args:
        alpha: The standard deviation of u_k, at least 0.
        beta: The standard deviation of B_k, at least 0.
        iid: Whether all clients have the same W and b ~ N(0, 1), and features around 0. Alpha and
            beta must then be 0.
        clients: The number of clients.
        seed: The seed of all draws. A client's examples are the same for any number of clients.

    Example:
        >>> data = synthetic(1, 1, clients=5)
        >>> data.num_clients, data.x.shape[1], len(data.classes)
        (5, 60, 10)
    """
    for name, value in {"alpha": alpha, "beta": beta}.items():
        if not (is_number(value) and 0 <= value <= MAX_DEVIATION):
            raise ValueError(
                f"{name}={value!r} must be a number from 0 to {MAX_DEVIATION:g} (it is a standard "
                f"deviation). Try {name}=0, 0.5 or 1, as in the paper"
            )
    if iid and (alpha or beta):
        raise ValueError(
            f"alpha={alpha} and beta={beta} must be 0 with iid=True (all clients have one model). "
            "Try alpha=0, beta=0"
        )
    check_whole(1, clients=clients)
    examples = [_client(alpha, beta, iid, seed, k) for k in range(clients)]
    cut = [int(0.9 * len(y)) for _, y in examples]
    x, y = (
        np.concatenate([pair[i][:n] for pair, n in zip(examples, cut, strict=True)]) for i in (0, 1)
    )
    test = tuple(
        np.concatenate([pair[i][n:] for pair, n in zip(examples, cut, strict=True)]) for i in (0, 1)
    )
    name = f"synthetic({alpha:g}, {beta:g}){', iid' * iid}"
    return _federated(x, y, np.split(np.arange(len(y)), np.cumsum(cut)[:-1]), test, name, 10)


def _client(
    alpha: float, beta: float, iid: bool, seed: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return examples ``x [n, 60]`` and labels ``y [n]`` of client k, by its own seed."""
    draw = generator(seed, "synthetic", k)
    n = int(draw.lognormal(4, 2)) + 50
    model = generator(seed, "synthetic", "iid") if iid else draw
    u, b_k = alpha * draw.standard_normal(), beta * draw.standard_normal()
    v = 0 if iid else b_k + draw.standard_normal(60)
    weight, bias = u + model.standard_normal((60, 10)), u + model.standard_normal(10)
    x = v + draw.standard_normal((n, 60)) * np.arange(1, 61) ** -0.6  # variance j^-1.2
    return x, (x @ weight + bias).argmax(1)


def fcube(clients: int = 4, seed: int = 0) -> FederatedDataset:
    """Draw FCUBE, points in the cube [-1, 1]³: a skew of features alone.

    The class is 0 if the first coordinate is above 0, else 1. The eight octants make four pairs
    that lie opposite each other, so each pair has both classes. Every client holds one pair, of
    4,000 points in all, half of them on either side. 1,000 points all over the cube are the test
    set.

    Li et al. 2022 (NIID-Bench), section IV-B, with four clients.

    Args:
        clients: The number of clients: a multiple of 4 up to 2000, who then share pairs.
        seed: The seed of the draw.

    Example:
        >>> fcube().sizes.tolist()
        [1000, 1000, 1000, 1000]
    """
    check_whole(4, clients=clients)
    if clients % 4 or clients > 2000:
        raise ValueError(
            f"clients={clients} must be a multiple of 4 up to 2000 (four pairs of octants are "
            "dealt out). Try clients=4, as in the paper"
        )
    draw = generator(seed, "fcube")
    pair, side = np.arange(4000) // 1000, np.tile([1, -1], 2000)  # of each point
    signs = np.stack([np.ones(4000), np.where(pair > 1, -1, 1), np.where(pair % 2, -1, 1)], axis=1)
    x = draw.random((4000, 3)) * signs * side[:, None]
    x_test = draw.uniform(-1, 1, (1000, 3))
    parts = np.array_split(np.arange(4000), clients)
    return _federated(x, x[:, 0] <= 0, parts, (x_test, x_test[:, 0] <= 0), "fcube", 2)


def _federated(
    x: np.ndarray, y: np.ndarray, parts: list, test: tuple, name: str, classes: int
) -> FederatedDataset:
    """Return the examples as a dataset whose classes are named by their numbers."""
    x, x_test = (torch.from_numpy(a.astype(np.float32)) for a in (x, test[0]))
    y, y_test = (torch.from_numpy(a.astype(np.int64)) for a in (y, test[1]))
    return FederatedDataset(x, y, parts, (x_test, y_test), name, tuple(map(str, range(classes))))
