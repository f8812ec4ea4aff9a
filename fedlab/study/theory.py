"""Quadratic clients: federated learning in closed form, to hold the real thing against.

``F_i(w) = 1/2 (w - b_i)ᵀ A_i (w - b_i)`` with weights ``p_i``.  Full-batch local training moves a client by
``delta_i = -Q_i (w - b_i)`` with a fixed matrix ``Q_i``, so a round in which everyone takes part is a linear map of w.
All of it is NumPy, and takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from fedlab.core import FederatedDataset, generator
from fedlab.core.validate import check_whole, is_number


@dataclass(frozen=True, eq=False)
class Quadratics:
    """Clients with curvatures ``A [N, d, d]`` (symmetric, no negative eigenvalue), optima ``b [N, d]``, ``weights [N]``."""

    A: np.ndarray
    b: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        n, d = self.b.shape
        if self.A.shape != (n, d, d) or self.weights.shape != (n,):
            shapes = f"A {self.A.shape}, b {self.b.shape}, weights {self.weights.shape}"
            raise ValueError(
                f"{shapes}: for N clients in d dimensions they are [N, d, d], [N, d] and [N]"
            )
        if (
            not np.allclose(self.A, self.A.transpose(0, 2, 1))
            or np.linalg.eigvalsh(self.A).min() < -1e-9
        ):
            raise ValueError(
                "A has a matrix that is not symmetric or has a negative eigenvalue: clients are convex"
            )
        if not (self.weights > 0).all():
            raise ValueError(f"weights={self.weights}: each is above 0")

    @property
    def p(self) -> np.ndarray:
        """The weights as shares, ``[N]``."""
        return self.weights / self.weights.sum()

    @property
    def optimum(self) -> np.ndarray:
        """Where ``F = sum_i p_i F_i`` is least, ``[d]``: the balance of the clients' pulls."""
        return _balance(self.p, self.A, self.b)

    @property
    def smoothness(self) -> float:
        """L: no client's curvature is larger anywhere."""
        return float(np.linalg.eigvalsh(self.A).max())

    @property
    def convexity(self) -> float:
        """mu: no client's curvature is smaller anywhere."""
        return max(float(np.linalg.eigvalsh(self.A).min()), 0.0)

    @property
    def dissent(self) -> float:
        """``sqrt(sum_i p_i |grad F_i(w*)|^2)``: how strongly clients pull apart at the optimum; 0 where they agree."""
        return float(np.sqrt(self.p @ (self.gradients(self.optimum) ** 2).sum(1)))

    def value(self, w: np.ndarray) -> np.ndarray:
        """``F`` at points ``w [..., d]``."""
        away = w[..., None, :] - self.b  # [..., N, d]
        return np.einsum("i,...ij,ijk,...ik->...", self.p, away, self.A, away) / 2

    def gradients(self, w: np.ndarray) -> np.ndarray:
        """Every client's gradient at ``w [d]``: ``[N, d]``."""
        return np.einsum("ijk,ik->ij", self.A, w - self.b)

    def progress(self, lr: float, steps: int | Sequence[int], *, mu: float = 0.0) -> np.ndarray:
        """``Q [N, d, d]`` of ``steps`` full-batch steps at rate ``lr`` (one number, or one a client), with FedProx's ``mu``.

        For mu = 0, ``Q_i = I - (I - lr A_i)^K``; otherwise ``(I - (I - lr (A_i + mu I))^K) (A_i + mu I)^-1 A_i``.
        """
        k = self._each(steps, 0)[:, None]
        return self._matrix(lambda a: (1 - (1 - lr * (a + mu)) ** k) * _share(a, mu))

    def fedavg(self, lr: float, steps: int | Sequence[int], *, mu: float = 0.0) -> Round:
        """A round of FedAvg, or of FedProx with ``mu``: ``w <- w - sum_i p_i Q_i (w - b_i)``."""
        return self._round(self.p, self.progress(lr, steps, mu=mu))

    def fedprox(self, mu: float) -> Round:
        """A round of FedProx whose clients minimise exactly: ``Q_i = (A_i + mu I)^-1 A_i``."""
        return self._round(self.p, self._matrix(lambda a: _share(a, mu)))

    def fednova(self, lr: float, steps: int | Sequence[int]) -> Round:
        """A round of FedNova: client i counts ``p_i / K_i`` times ``sum_j p_j K_j``."""
        k = self._each(steps, 1)
        return self._round(self.p / k * (self.p @ k), self.progress(lr, steps))

    def surrogate(self, steps: Sequence[int]) -> Quadratics:
        """What FedAvg with ``steps [N]`` really minimises where ``lr`` is small: weights ``p_i K_i``.  Wang et al. 2020."""
        return replace(self, weights=self.p * self._each(steps, 1))

    def paths(self, w: np.ndarray, lr: float, steps: int, *, mu: float = 0.0) -> np.ndarray:
        """Where every client is after 0, 1, ... ``steps`` local steps from ``w [d]``: ``[N, steps + 1, d]``, its drift."""
        moves = [self.progress(lr, k, mu=mu) for k in range(steps + 1)]
        return w - np.einsum("kijl,il->ikj", moves, w - self.b)

    def averages(self, w: np.ndarray, lr: float, steps: int, rounds: int) -> np.ndarray:
        """The average of the clients' models after each local step of FedAvg from ``w [d]``: ``[rounds * steps + 1, d]``."""
        ends = self.fedavg(lr, steps).trajectory(w, rounds)
        moves = np.stack([self.progress(lr, k) for k in range(steps)])  # [steps, N, d, d]
        pull = np.einsum("i,kijl->kjl", self.p, moves)
        inner = ends[:-1, None] - np.einsum("kjl,tl->tkj", pull, ends[:-1])  # [rounds, steps, d]
        inner += np.einsum("i,kijl,il->kj", self.p, moves, self.b)
        return np.concatenate([inner.reshape(-1, len(w)), ends[-1:]])

    def federated(self) -> FederatedDataset:
        """The same clients as data, ``d weights_i`` examples each, the test set all of them: the test loss is F.

        For a linear model without bias, the loss ``(output - y)^2 / 2`` and full batches.
        """
        copies = self.weights.round().astype(int)
        if (copies != self.weights).any():
            raise ValueError(
                f"weights={self.weights}: a client holds a whole number of examples, so give whole numbers"
            )
        d = self.b.shape[1]
        root = np.sqrt(d) * self._matrix(lambda a: np.sqrt(np.maximum(a, 0)))  # xᵀ x / d = A
        x = np.concatenate([np.tile(rows, (k, 1)) for rows, k in zip(root, copies, strict=True)])
        owner = np.repeat(np.arange(len(copies)), d * copies)
        x, y = torch.from_numpy(x), torch.from_numpy((x * self.b[owner]).sum(1))
        return FederatedDataset(
            x, y, [np.flatnonzero(owner == i) for i in range(len(copies))], (x, y), "quadratics"
        )

    def _each(self, steps: int | Sequence[int], least: int) -> np.ndarray:
        """The local steps of each client, ``[N]``, checked."""
        k, n = np.asarray(steps), len(self.p)
        if k.shape not in ((), (n,)) or k.dtype.kind not in "iu" or k.min() < least:
            told = f"steps={steps!r:.60} must be a whole number of at least {least}, or a list of {n}, one per client"
            raise ValueError(f"{told}. Try steps=5")
        return np.broadcast_to(k, n)

    def _matrix(self, of) -> np.ndarray:
        """A function of every ``A_i``, by its eigenvalues ``[N, d]``: ``[N, d, d]``."""
        a, v = np.linalg.eigh(self.A)
        return (v * of(a)[:, None, :]) @ v.transpose(0, 2, 1)

    def _round(self, weights: np.ndarray, moves: np.ndarray) -> Round:
        return Round(np.einsum("i,ijk->jk", weights, moves), _balance(weights, moves, self.b))


class Round(NamedTuple):
    """A round with everyone: ``w <- w - pull (w - fixed_point)``, where ``pull [d, d]`` is symmetric."""

    pull: np.ndarray
    fixed_point: np.ndarray  # [d]

    def apply(self, w: np.ndarray) -> np.ndarray:
        """The next model for each of ``w [..., d]``."""
        return w - (w - self.fixed_point) @ self.pull

    @property
    def contraction(self) -> float:
        """How much of the distance to the fixed point a round leaves, at worst: below 1 it converges."""
        return float(np.abs(1 - np.linalg.eigvalsh(self.pull)).max())

    def trajectory(self, w: np.ndarray, rounds: int) -> np.ndarray:
        """The models of rounds 0 to ``rounds`` from ``w [d]``: ``[rounds + 1, d]``, by one eigendecomposition."""
        a, v = np.linalg.eigh(self.pull)
        left = (1 - a) ** np.arange(rounds + 1)[:, None]  # [rounds + 1, d]
        return self.fixed_point + (left * ((w - self.fixed_point) @ v)) @ v.T


def quadratics(
    num_clients: int,
    d: int = 2,
    *,
    curvature: tuple[float, float] = (0.1, 1.0),
    spread: float = 1.0,
    seed: int = 0,
) -> Quadratics:
    """Random clients of equal weight: eigenvalues in ``curvature``, evenly in the logarithm; optima from ``N(0, spread^2)``.

    Where all have the same curvature, or ``spread=0``, local steps do no harm: it takes a difference in both.
    """
    check_whole(1, num_clients=num_clients, d=d)
    if not (is_number(spread) and spread >= 0):
        raise ValueError(
            f"spread={spread!r} must be a number of at least 0, the deviation of the optima. Try spread=1"
        )
    low, high = curvature
    if not (is_number(low) and is_number(high) and 0 < low <= high):
        raise ValueError(
            f"curvature={curvature}: the lowest and the highest eigenvalue, above 0 and in this order"
        )
    draw = generator(seed, "quadratics")
    axes = np.linalg.qr(draw.normal(size=(num_clients, d, d)))[0]
    eigenvalues = np.exp(draw.uniform(np.log(low), np.log(high), size=(num_clients, 1, d)))
    curved = (axes * eigenvalues) @ axes.transpose(0, 2, 1)
    return Quadratics(curved, spread * draw.normal(size=(num_clients, d)), np.ones(num_clients))


def distance_bound(
    clients: Quadratics, w: np.ndarray, lr: float, steps: int, rounds: int
) -> np.ndarray:
    """What FedAvg's distance ``|w_t - w*|`` cannot exceed, for rounds 0 to ``rounds`` from ``w [d]``; needs ``lr <= 1 / L``.

    K steps shrink every client's distances to ``s = (1 - lr mu)^K`` at least, hence so does a round (Malinovskiy et al.
    2020).  From w* a round moves by at most ``r = lr^2 L K (K - 1) / 2`` times the dissent: the pulls cancel at w*, after k
    steps a client has gone at most k lr times its gradient there, and gradients change L times as much.  So
    ``|w_t - w*| <= s^t |w_0 - w*| + (1 + s + ... + s^(t-1)) r dissent``.
    """
    smooth = clients.smoothness
    _check_rate(lr, 1 / smooth, "1 / L")
    s = (1 - lr * clients.convexity) ** steps
    moved = lr**2 * smooth * steps * (steps - 1) / 2 * clients.dissent
    shrunk = s ** np.arange(rounds + 1)
    return shrunk * np.linalg.norm(w - clients.optimum) + moved * (np.cumsum(shrunk) - shrunk)


def average_bound(
    clients: Quadratics, w: np.ndarray, lr: float, steps: int, rounds: int
) -> np.ndarray:
    """What the mean of ``F(averages) - F(w*)`` over all local steps so far cannot exceed, after rounds 1 to ``rounds``.

    For convex and smooth clients and exact gradients (Khaled, Mishchenko & Richtárik 2019, Local GD): after T = t K steps
    ``2 |w_0 - w*|^2 / (lr T) + 6 lr^2 L K (K - 1) dissent^2``, if ``lr <= 1 / (4 L)`` and ``lr^2 L^2 K (K - 1) <= 1 / 12``.
    Differs: constants followed through for exact gradients, weights p_i and T a multiple of K; theirs are larger.
    """
    # r = |x - w*|^2 for the average x, D = F(x) - F*, V = sum p |x_i - x|^2: a step gives r+ <= r - lr D + 3/2 lr L V, and a
    # round sum V <= lr^2 K (K - 1) / 2 sum (3 L^2 V + 6 L D + 3 dissent^2).  Put the second into the sum of the first.
    smooth, spans = clients.smoothness, steps * (steps - 1)
    limit = min(1 / 4, (12 * spans) ** -0.5 if spans else 1 / 4) / smooth
    _check_rate(lr, limit, "1 / (4 L) and 1 / (L sqrt(12 K (K - 1)))")
    far = ((w - clients.optimum) ** 2).sum()
    return (
        2 * far / (lr * steps * np.arange(1, rounds + 1))
        + 6 * lr**2 * smooth * spans * clients.dissent**2
    )


def _balance(weights: np.ndarray, moves: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where ``sum_i weights_i moves_i (w - b_i) = 0``."""
    return np.linalg.solve(
        np.einsum("i,ijk->jk", weights, moves), np.einsum("i,ijk,ik->j", weights, moves, b)
    )


def _share(a: np.ndarray, mu: float) -> np.ndarray:
    """``a / (a + mu)``, how far a proximal term lets a client go; 1 where neither pulls."""
    return np.divide(a, a + mu, out=np.ones_like(a), where=a + mu > 0)


def _check_rate(lr: float, limit: float, what: str) -> None:
    if not 0 < lr <= limit:
        raise ValueError(f"lr={lr:g}: the bound holds above 0 and up to {what}, here {limit:.3g}")
