"""Data sets drawn from a formula, with clients of their own."""

from __future__ import annotations

import numpy as np
import torch

from fedlab.core import FederatedDataset, generator
from fedlab.core.validate import check_whole, is_number

MOST = 1e6  # single precision tells a client's examples apart no longer


def synthetic(
    alpha: float, beta: float, *, iid: bool = False, clients: int = 30, seed: int = 0
) -> FederatedDataset:
    """``synthetic(alpha, beta)`` of FedProx: 60 features, 10 classes, a logistic model and a place in space for each client.

    Client k has the labels ``argmax(W_k x + b_k)``, W_k and b_k ~ N(u_k, 1), u_k ~ N(0, alpha), and features around
    v_k ~ N(B_k, 1), B_k ~ N(0, beta), whose variances are ``j^-1.2``.  Sizes are ``floor(lognormal(4, 2)) + 50``: few hold
    much.  With ``iid`` everybody has the same W and b ~ N(0, 1), and features around 0.  A tenth of what each client holds
    goes into the common test set.

    Li et al. 2020, section 5.1 and its code.  The paper calls alpha and beta variances; its code, and this, draws with them
    as standard deviations (for 0 and 1 there is no difference).  u_k adds the same to every logit, so alpha changes no
    label: models differ as much at 0 as at 1, and ``beta`` alone sets the skew.
    """
    for name, value in {"alpha": alpha, "beta": beta}.items():
        if not (is_number(value) and 0 <= value <= MOST):
            told = f"{name}={value!r}: a standard deviation is at least 0 and here at most {MOST:g}"
            raise ValueError(f"{told}; the paper takes 0, 0.5 and 1")
    if iid and (alpha or beta):
        raise ValueError(
            f"iid with alpha={alpha}, beta={beta}: everybody has one model then; give 0 and 0"
        )
    check_whole(1, clients=clients)
    held = [_client(alpha, beta, iid, seed, k) for k in range(clients)]
    cut = [int(0.9 * len(y)) for _, y in held]
    x, y = (
        np.concatenate([pair[i][:n] for pair, n in zip(held, cut, strict=True)]) for i in (0, 1)
    )
    test = tuple(
        np.concatenate([pair[i][n:] for pair, n in zip(held, cut, strict=True)]) for i in (0, 1)
    )
    name = f"synthetic({alpha:g}, {beta:g}){', iid' * iid}"
    return _federated(x, y, np.split(np.arange(len(y)), np.cumsum(cut)[:-1]), test, name, 10)


def _client(
    alpha: float, beta: float, iid: bool, seed: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """What client k holds, ``x [n, 60]`` and ``y [n]``; the same however many others there are."""
    draw = generator(seed, "synthetic", k)
    n = int(draw.lognormal(4, 2)) + 50
    model = generator(seed, "synthetic", "iid") if iid else draw
    u, b_k = alpha * draw.standard_normal(), beta * draw.standard_normal()
    v = 0 if iid else b_k + draw.standard_normal(60)
    weight, bias = u + model.standard_normal((60, 10)), u + model.standard_normal(10)
    x = v + draw.standard_normal((n, 60)) * np.arange(1, 61) ** -0.6  # variance j^-1.2
    return x, (x @ weight + bias).argmax(1)


def fcube(clients: int = 4, seed: int = 0) -> FederatedDataset:
    """FCUBE: points in the cube [-1, 1]³, class 0 where the first coordinate is above 0, else 1: skew of features alone.

    The eight octants make four pairs that lie opposite each other, so each pair has both classes; every client holds one
    pair, 4,000 points in all, half of them on either side.  1,000 points all over the cube are the test set.

    Li et al. 2022 (NIID-Bench), section IV-B, where there are four clients; here also a multiple of 4, who share pairs.
    """
    check_whole(4, clients=clients)
    if clients % 4 or clients > 2000:
        raise ValueError(
            f"clients={clients}: four pairs of octants are dealt out, so a multiple of 4, up to 2000; the paper has 4"
        )
    draw = generator(seed, "fcube")
    pair, side = np.arange(4000) // 1000, np.tile([1, -1], 2000)  # of each point
    signs = np.stack([np.ones(4000), np.where(pair > 1, -1, 1), np.where(pair % 2, -1, 1)], axis=1)
    x = draw.random((4000, 3)) * signs * side[:, None]
    x_test = draw.uniform(-1, 1, (1000, 3))
    parts = np.array_split(np.arange(4000), clients)
    return _federated(x, x[:, 0] <= 0, parts, (x_test, x_test[:, 0] <= 0), "fcube", 2)


def _federated(x, y, parts, test, name: str, classes: int) -> FederatedDataset:
    x, x_test = (torch.from_numpy(a.astype(np.float32)) for a in (x, test[0]))
    y, y_test = (torch.from_numpy(a.astype(np.int64)) for a in (y, test[1]))
    return FederatedDataset(x, y, parts, (x_test, y_test), name, tuple(map(str, range(classes))))
