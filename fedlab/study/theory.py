"""Quadratic clients: federated learning in closed form, to check the real thing against.

``F_i(w) = 1/2 (w - b_i)ᵀ A_i (w - b_i)`` with weights ``p_i``. Full-batch local training moves a
client by ``delta_i = -Q_i (w - b_i)`` with a fixed matrix ``Q_i``. So a round in which all clients
take part is a linear map of w. All of it is NumPy, and takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from fedlab.core import FederatedDataset, generator
from fedlab.core.validate import check_whole, is_number


@dataclass(frozen=True, eq=False)
class Quadratics:
    """N clients with quadratic losses in d dimensions.

    Attributes:
        A: Curvatures ``[N, d, d]``, symmetric, without negative eigenvalues.
        b: Optima of the clients ``[N, d]``.
        weights: Weights ``[N]`` above 0, such as numbers of examples.

    Example:
        >>> pair = Quadratics(np.array([[[1.0]], [[3.0]]]), np.array([[0.0], [4.0]]), np.ones(2))
        >>> pair.optimum.tolist()
        [3.0]
        >>> pair.fedavg(lr=0.1, steps=1).fixed_point.round(2).tolist()  # one step: no drift
        [3.0]
        >>> pair.fedavg(lr=0.1, steps=10).fixed_point.round(2).tolist()  # ten: beside the optimum
        [2.39]
    """

    A: np.ndarray
    b: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        n, d = self.b.shape
        if self.A.shape != (n, d, d) or self.weights.shape != (n,):
            shapes = f"A {self.A.shape}, b {self.b.shape}, weights {self.weights.shape}"
            raise ValueError(
                f"{shapes} must be [N, d, d], [N, d] and [N] (N clients in d dimensions). "
                "Try quadratics(N, d)"
            )
        symmetric = np.allclose(self.A, self.A.transpose(0, 2, 1))
        if not symmetric or np.linalg.eigvalsh(self.A).min() < -1e-9:
            raise ValueError(
                "A must not have a matrix that is not symmetric or has a negative eigenvalue "
                "(clients are convex). Try X.T @ X"
            )
        if not (self.weights > 0).all():
            raise ValueError(f"weights={self.weights} must all be above 0. Try np.ones(N)")

    @property
    def p(self) -> np.ndarray:
        """Weights as shares that add up to 1, ``[N]``."""
        return self.weights / self.weights.sum()

    @property
    def optimum(self) -> np.ndarray:
        """Minimiser ``w*`` of ``F = sum_i p_i F_i``, ``[d]``: the clients' gradients cancel."""
        return _balance(self.p, self.A, self.b)

    @property
    def smoothness(self) -> float:
        """Largest curvature L of any client."""
        return float(np.linalg.eigvalsh(self.A).max())

    @property
    def convexity(self) -> float:
        """Smallest curvature mu of any client."""
        return max(float(np.linalg.eigvalsh(self.A).min()), 0.0)

    @property
    def dissent(self) -> float:
        """Spread of the gradients at the optimum, ``sqrt(sum_i p_i |grad F_i(w*)|^2)``.

        It is 0 if all clients agree on the optimum.
        """
        return float(np.sqrt(self.p @ (self.gradients(self.optimum) ** 2).sum(1)))

    def value(self, w: np.ndarray) -> np.ndarray:
        """Return ``F`` at points ``w [..., d]``."""
        away = w[..., None, :] - self.b  # [..., N, d]
        return np.einsum("i,...ij,ijk,...ik->...", self.p, away, self.A, away) / 2

    def gradients(self, w: np.ndarray) -> np.ndarray:
        """Return each client's gradient at ``w [d]``: ``[N, d]``."""
        return np.einsum("ijk,ik->ij", self.A, w - self.b)

    def progress(self, lr: float, steps: int | Sequence[int], *, mu: float = 0.0) -> np.ndarray:
        """Return the matrices ``Q [N, d, d]`` of local training: ``delta_i = -Q_i (w - b_i)``.

        For mu = 0, ``Q_i = I - (I - lr A_i)^K``. Otherwise it is
        ``(I - (I - lr (A_i + mu I))^K) (A_i + mu I)^-1 A_i``.

        Args:
            lr: Learning rate.
            steps: Full-batch steps K: one number, or one per client.
            mu: Weight of FedProx's proximal term.

        Returns:
            One matrix per client.
        """
        k = self._steps_per_client(steps, 0)[:, None]
        return self._matrix(lambda a: (1 - (1 - lr * (a + mu)) ** k) * _share(a, mu))

    def fedavg(self, lr: float, steps: int | Sequence[int], *, mu: float = 0.0) -> Round:
        """Return a round of FedAvg, or of FedProx: ``w <- w - sum_i p_i Q_i (w - b_i)``.

        Args:
            lr: Learning rate.
            steps: Full-batch steps: one number, or one per client.
            mu: Weight of FedProx's proximal term.

        Returns:
            The round as a linear map.
        """
        return self._round(self.p, self.progress(lr, steps, mu=mu))

    def fedprox(self, mu: float) -> Round:
        """Return a round of FedProx with exact minimisation: ``Q_i = (A_i + mu I)^-1 A_i``."""
        return self._round(self.p, self._matrix(lambda a: _share(a, mu)))

    def fednova(self, lr: float, steps: int | Sequence[int]) -> Round:
        """Return a round of FedNova: client i counts ``p_i / K_i`` times ``sum_j p_j K_j``."""
        k = self._steps_per_client(steps, 1)
        return self._round(self.p / k * (self.p @ k), self.progress(lr, steps))

    def surrogate(self, steps: Sequence[int]) -> Quadratics:
        """Return the objective that FedAvg with ``steps [N]`` minimises for small ``lr``.

        Its weights are ``p_i K_i``. Wang et al. 2020.
        """
        return replace(self, weights=self.p * self._steps_per_client(steps, 1))

    def paths(self, w: np.ndarray, lr: float, steps: int, *, mu: float = 0.0) -> np.ndarray:
        """Return the drift of each client: its models after 0, 1, ... ``steps`` local steps.

        Args:
            w: Model ``[d]`` from which all clients start.
            lr: Learning rate.
            steps: Full-batch steps.
            mu: Weight of FedProx's proximal term.

        Returns:
            Models ``[N, steps + 1, d]``.
        """
        moves = [self.progress(lr, k, mu=mu) for k in range(steps + 1)]
        return w - np.einsum("kijl,il->ikj", moves, w - self.b)

    def averages(self, w: np.ndarray, lr: float, steps: int, rounds: int) -> np.ndarray:
        """Return the average of the clients' models after each local step of FedAvg.

        Args:
            w: Model ``[d]`` before the first round.
            lr: Learning rate.
            steps: Full-batch steps per round.
            rounds: Number of rounds.

        Returns:
            Averages ``[rounds * steps + 1, d]``, of which the first is ``w``.
        """
        ends = self.fedavg(lr, steps).trajectory(w, rounds)
        moves = np.stack([self.progress(lr, k) for k in range(steps)])  # [steps, N, d, d]
        pull = np.einsum("i,kijl->kjl", self.p, moves)
        inner = ends[:-1, None] - np.einsum("kjl,tl->tkj", pull, ends[:-1])  # [rounds, steps, d]
        inner += np.einsum("i,kijl,il->kj", self.p, moves, self.b)
        return np.concatenate([inner.reshape(-1, len(w)), ends[-1:]])

    def federated(self) -> FederatedDataset:
        """Return the same clients as data, with ``d weights_i`` examples each.

        All examples form the test set, so the test loss is F. It needs a linear model without
        bias, the loss ``(output - y)^2 / 2`` and full batches.

        Raises:
            ValueError: If a weight is no whole number.
        """
        copies = self.weights.round().astype(int)
        if (copies != self.weights).any():
            raise ValueError(
                f"weights={self.weights} must be whole numbers (of examples). Try np.ones(N)"
            )
        d = self.b.shape[1]
        root = np.sqrt(d) * self._matrix(lambda a: np.sqrt(np.maximum(a, 0)))  # xᵀ x / d = A
        x = np.concatenate([np.tile(rows, (k, 1)) for rows, k in zip(root, copies, strict=True)])
        owner = np.repeat(np.arange(len(copies)), d * copies)
        x, y = torch.from_numpy(x), torch.from_numpy((x * self.b[owner]).sum(1))
        parts = [np.flatnonzero(owner == i) for i in range(len(copies))]
        return FederatedDataset(x, y, parts, (x, y), "quadratics")

    def _steps_per_client(self, steps: int | Sequence[int], lowest: int) -> np.ndarray:
        k, n = np.asarray(steps), len(self.p)
        if k.shape not in ((), (n,)) or k.dtype.kind not in "iu" or k.min() < lowest:
            raise ValueError(
                f"steps={steps!r:.60} must be a whole number of at least {lowest}, or a list of "
                f"{n}, one per client. Try steps=5"
            )
        return np.broadcast_to(k, n)

    def _matrix(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return a function of each ``A_i``, taken of its eigenvalues ``[N, d]``: ``[N, d, d]``."""
        a, v = np.linalg.eigh(self.A)
        return (v * function(a)[:, None, :]) @ v.transpose(0, 2, 1)

    def _round(self, weights: np.ndarray, moves: np.ndarray) -> Round:
        return Round(np.einsum("i,ijk->jk", weights, moves), _balance(weights, moves, self.b))


class Round(NamedTuple):
    """A round in which all clients take part: ``w <- w - pull (w - fixed_point)``.

    Attributes:
        pull: Symmetric matrix ``[d, d]``.
        fixed_point: Model ``[d]`` that the round leaves unchanged.
    """

    pull: np.ndarray
    fixed_point: np.ndarray

    def apply(self, w: np.ndarray) -> np.ndarray:
        """Return the next model for each of ``w [..., d]``."""
        return w - (w - self.fixed_point) @ self.pull

    @property
    def contraction(self) -> float:
        """Share of the distance to the fixed point that a round leaves at worst.

        Rounds converge if it is below 1.
        """
        return float(np.abs(1 - np.linalg.eigvalsh(self.pull)).max())

    def trajectory(self, w: np.ndarray, rounds: int) -> np.ndarray:
        """Return the models of rounds 0 to ``rounds`` from ``w [d]``: ``[rounds + 1, d]``."""
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
    """Draw random clients of equal weight.

    With equal curvatures, or ``spread=0``, local steps do no harm: drift takes a difference in
    both.

    Args:
        num_clients: Number of clients.
        d: Dimensions.
        curvature: Lowest and highest eigenvalue, above 0; drawn evenly in the logarithm.
        spread: Standard deviation of the optima, drawn from ``N(0, spread^2)``.
        seed: Seed of the draw.

    Returns:
        The clients.

    Raises:
        ValueError: For numbers out of range.

    Example:
        >>> clients = quadratics(10, 5, seed=0)
        >>> clients.A.shape, clients.b.shape
        ((10, 5, 5), (10, 5))
        >>> quadratics(10, spread=0).dissent < 1e-9
        True
    """
    check_whole(1, num_clients=num_clients, d=d)
    if not (is_number(spread) and spread >= 0):
        raise ValueError(
            f"spread={spread!r} must be a number of at least 0 (deviation of the optima). "
            "Try spread=1"
        )
    low, high = curvature
    if not (is_number(low) and is_number(high) and 0 < low <= high):
        raise ValueError(
            f"curvature={curvature} must be the lowest and the highest eigenvalue, above 0 and in "
            "this order. Try (0.1, 1.0)"
        )
    draw = generator(seed, "quadratics")
    axes = np.linalg.qr(draw.normal(size=(num_clients, d, d)))[0]
    eigenvalues = np.exp(draw.uniform(np.log(low), np.log(high), size=(num_clients, 1, d)))
    matrices = (axes * eigenvalues) @ axes.transpose(0, 2, 1)
    return Quadratics(matrices, spread * draw.normal(size=(num_clients, d)), np.ones(num_clients))


def distance_bound(
    clients: Quadratics, w: np.ndarray, lr: float, steps: int, rounds: int
) -> np.ndarray:
    """Bound FedAvg's distance ``|w_t - w*|`` to the optimum after each round.

    K steps shrink each client's distances to a share of at most ``s = (1 - lr mu)^K``. So does a
    round (Malinovskiy et al. 2020). From w* a round moves by at most
    ``r = lr^2 L K (K - 1) / 2`` times the dissent. The reason: the clients' gradients cancel at
    w*; after k steps a client has moved at most k lr times its gradient at w*; and gradients
    change L times as much as models. So
    ``|w_t - w*| <= s^t |w_0 - w*| + (1 + s + ... + s^(t-1)) r dissent``.

    Args:
        clients: Clients that all take part.
        w: Model ``[d]`` before the first round.
        lr: Learning rate, at most ``1 / L``.
        steps: Full-batch steps K per round.
        rounds: Number of rounds.

    Returns:
        Bounds for rounds 0 to ``rounds``, ``[rounds + 1]``.

    Raises:
        ValueError: If ``lr`` is out of range.

    Example:
        >>> clients, start = quadratics(10, 5), np.ones(5)
        >>> models = clients.fedavg(0.5, 4).trajectory(start, 20)
        >>> distance = np.linalg.norm(models - clients.optimum, axis=1)
        >>> bool((distance <= distance_bound(clients, start, 0.5, 4, 20) + 1e-9).all())
        True
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
    """Bound the mean of ``F(averages) - F(w*)`` over all local steps so far.

    For convex and smooth clients and exact gradients (Khaled, Mishchenko & Richtárik 2019, Local
    GD), after T = t K steps: ``2 |w_0 - w*|^2 / (lr T) + 6 lr^2 L K (K - 1) dissent^2``, if
    ``lr <= 1 / (4 L)`` and ``lr^2 L^2 K (K - 1) <= 1 / 12``.
    Differs: constants followed through for exact gradients, weights p_i and T a multiple of K;
    the paper's are larger.

    Args:
        clients: Clients that all take part.
        w: Model ``[d]`` before the first round.
        lr: Learning rate, within the limits above.
        steps: Full-batch steps K per round.
        rounds: Number of rounds.

    Returns:
        Bounds after rounds 1 to ``rounds``, ``[rounds]``.

    Raises:
        ValueError: If ``lr`` is out of range.
    """
    # With r = |x - w*|^2 for the average x, D = F(x) - F* and V = sum p |x_i - x|^2, a step gives
    # r+ <= r - lr D + 3/2 lr L V, and a round gives
    # sum V <= lr^2 K (K - 1) / 2 sum (3 L^2 V + 6 L D + 3 dissent^2).
    # Insert the second into the sum of the first.
    smooth, pairs = clients.smoothness, steps * (steps - 1)
    limit = min(1 / 4, (12 * pairs) ** -0.5 if pairs else 1 / 4) / smooth
    _check_rate(lr, limit, "1 / (4 L) and 1 / (L sqrt(12 K (K - 1)))")
    distance_squared = ((w - clients.optimum) ** 2).sum()
    return (
        2 * distance_squared / (lr * steps * np.arange(1, rounds + 1))
        + 6 * lr**2 * smooth * pairs * clients.dissent**2
    )


def _balance(weights: np.ndarray, moves: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the solution w of ``sum_i weights_i moves_i (w - b_i) = 0``."""
    return np.linalg.solve(
        np.einsum("i,ijk->jk", weights, moves), np.einsum("i,ijk,ik->j", weights, moves, b)
    )


def _share(a: np.ndarray, mu: float) -> np.ndarray:
    """Return ``a / (a + mu)``, the move that a proximal term allows; 1 if both are 0."""
    return np.divide(a, a + mu, out=np.ones_like(a), where=a + mu > 0)


def _check_rate(lr: float, limit: float, formula: str) -> None:
    if not 0 < lr <= limit:
        raise ValueError(
            f"lr={lr:g} must be above 0 and at most {formula} = {limit:.3g} (beyond, the bound "
            f"does not hold). Try lr={limit / 2:.2g}"
        )
