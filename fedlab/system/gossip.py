"""Training without a server: clients average with their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from fedlab.client import Train, batched
from fedlab.core import Cohort, Experiment, Result, Updates
from fedlab.core.validate import check_seeds
from fedlab.engine import Diverged, Run, collect_result, evaluate_models
from fedlab.engine.dispatch import Dispatch, draw_cohort
from fedlab.engine.lockstep import group_compatible
from fedlab.engine.rounds import (
    aggregate_updates,
    apply_round,
    charge_round,
    check_model,
    record_round,
    train_from_models,
)
from fedlab.engine.run import run_to_end
from fedlab.engine.run_state import find_device
from fedlab.engine.scores import is_evaluation_round
from fedlab.engine.start import start_runs
from fedlab.server import fedavg, weighted_mean
from fedlab.system.averaging import CostModel, check_whole_models, cost_model, scores_of
from fedlab.system.fleet import Fleet
from fedlab.upload import wire

_FEDAVG = fedavg().step.__qualname__


def mixing_matrix(graph: nx.Graph) -> np.ndarray:
    """Return the Metropolis-Hastings weights of a graph, ``[N, N]``.

    Xiao & Boyd 2004, section 4: neighbours have ``1 / (1 + max(deg_i, deg_j))``, the diagonal has
    the rest. The matrix is symmetric and its rows sum to 1, so that the mean stays the same. Edges
    from a node to itself are ignored.

    Args:
        graph: Connected, undirected graph without weights, whose nodes are 0 to N - 1.

    Returns:
        The weights.

    Raises:
        ValueError: If the graph is no such graph.

    Example:
        >>> mixing_matrix(nx.path_graph(3)).round(2).tolist()
        [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]
    """
    _check_kind(graph)
    _check_nodes(graph)
    n = graph.number_of_nodes()
    mixing = np.zeros((n, n))
    pairs = [(i, j) for i, j in graph.edges if i != j]
    degree = np.bincount(np.array(pairs, dtype=int).ravel(), minlength=n)
    for i, j in pairs:
        mixing[i, j] = mixing[j, i] = 1 / (1 + max(degree[i], degree[j]))
    return mixing + np.diag(1 - mixing.sum(1))


def _check_kind(graph: nx.Graph) -> None:
    """Raise ValueError for directed, multiple or weighted edges, and for other objects."""
    if not isinstance(graph, nx.Graph):
        raise ValueError(
            f"graph is a {type(graph).__name__} and must be a networkx.Graph. "
            "Try nx.cycle_graph(10), or nx.from_numpy_array(adjacency)"
        )
    if graph.is_directed() or graph.is_multigraph():
        is_simple = graph.is_directed() and not graph.is_multigraph()
        remedy = "graph.to_undirected()" if is_simple else "nx.Graph(graph)"
        raise ValueError(
            f"graph is a {type(graph).__name__} and must be a networkx.Graph (neighbours exchange "
            f"models once a round). Try {remedy}"
        )
    for i, j, weight in graph.edges(data="weight"):
        if weight not in (None, 1):
            raise ValueError(
                f"edge ({i}, {j}) has weight={weight} and must have none (the mixing depends on "
                "the number of neighbours). Try nx.Graph(list(graph.edges))"
            )


def _check_nodes(graph: nx.Graph) -> None:
    """Raise ValueError if the nodes are not 0 to N - 1, or not connected."""
    n = graph.number_of_nodes()
    is_numbered = set(graph.nodes) == set(range(n))  # 1.0 and True are equal to 1
    for node in graph.nodes:
        is_whole = isinstance(node, Integral) and not isinstance(node, bool)
        if is_numbered and not is_whole:
            raise ValueError(
                f"the graph has the node {node!r}, and nodes must be whole numbers from 0 to "
                "N - 1. Try nx.convert_node_labels_to_integers(graph)"
            )
    if n == 0 or not is_numbered:
        raise ValueError(
            f"the graph has the nodes {list(graph.nodes)[:5]}..., and they must be 0 to N - 1. "
            "Try nx.convert_node_labels_to_integers(graph)"
        )
    if not nx.is_connected(graph):
        pieces = sorted((sorted(piece) for piece in nx.connected_components(graph)), key=len)
        smallest, largest = pieces[0], pieces[-1]
        more = "..." if len(smallest) > 5 else ""
        raise ValueError(
            f"the graph has {len(pieces)} parts and must be connected; one part is "
            f"{smallest[:5]}{more}. Try to add an edge, such as ({smallest[0]}, {largest[0]})"
        )


def spectral_gap(mixing: np.ndarray) -> float:
    """Return 1 less the second largest absolute eigenvalue of a mixing matrix.

    Disagreement shrinks by at least this share in each round.

    Example:
        >>> round(spectral_gap(mixing_matrix(nx.complete_graph(4))), 6)
        1.0
        >>> round(spectral_gap(mixing_matrix(nx.cycle_graph(10))), 3)
        0.127
    """
    size = np.sort(np.abs(np.linalg.eigvalsh(mixing)))
    return float(1 - (size[-2] if len(size) > 1 else 0))


def gossip(
    experiment: Experiment,
    graph: nx.Graph,
    *,
    fleet: Fleet | Callable[[int], Fleet] | None = None,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    device: str = "auto",
) -> Result:
    """Train without a server: clients average with their neighbours in the ``graph``.

    D-PSGD with local steps, Lian et al. 2017, Algorithm 1, and Koloskova et al. 2020:
    ``w_i <- sum_j M_ij (w_j + delta_j)`` with the ``mixing_matrix`` M. The experiment's settings
    mean the same as in ``run``. Each client aggregates its own update and its neighbours' with
    ``aggregate``, whose weights are its row of M. Gossip supports algorithms whose step is that of
    ``fedavg``, such as ``fedprox``; others need a server. All clients must take part, and messages
    travel whole. A ``budget`` counts a message to and from each neighbour.

    Scores are those of the mean of all models, which no client has. ``own_accuracy`` is the mean
    accuracy of ten clients' models. ``disagreement`` is the root mean square of ``|w_i - mean|``,
    divided by the norm of the mean. ``w`` are the mean models.

    With a ``fleet`` there are columns ``seconds`` and ``joules``. A client that has trained sends
    to its neighbours, and fetches their models. It begins anew when it and all its neighbours have
    done so, and waits for no other client.

    Args:
        experiment: The study; its sampler must draw all clients, such as ``uniform(N)``.
        graph: Connected graph of neighbours; nodes are the clients 0 to N - 1.
        fleet: Devices and links of the clients, or a function of the seed that returns them.
        backend: Engine that trains.
        seeds: Number of seeds, or a list of them.
        device: PyTorch's name of a device, or "auto".

    Returns:
        The tables, and the means of the final models.

    Raises:
        ValueError: If graph and data have different clients, or gossip does not support a setting.
        Diverged: If numbers are no longer finite; its ``result`` holds the rounds so far.
        Interrupted: On Ctrl-C, likewise.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.server import uniform
        >>> digits = load("digits", 6)
        >>> parts = Local(0.1), fedavg(), weighted_mean, uniform(6)
        >>> study = Experiment(digits, mlp(digits), *parts, rounds=2)
        >>> gossip(study, nx.cycle_graph(6)).rounds["steps"].tolist()
        [0, 48, 48]
    """
    return run_to_end(_gossip(experiment, graph, fleet, backend, seeds, device))


def _gossip(experiment, graph, fleet, backend, seeds, device) -> Iterator[list[Run]]:
    """Yield the runs before any training, and after each round."""
    mixing = mixing_matrix(graph)
    _check_gossip(experiment)
    runs = start_runs([({}, experiment, seed) for seed in check_seeds(seeds)], find_device(device))
    peers = {id(run): _Peers(run, mixing, cost_model(fleet, run, backend)) for run in runs}
    n = len(mixing)
    yield runs
    try:
        for t in range(1, experiment.rounds + 1):
            active = [run for run in runs if not run.traffic.budget_exhausted]
            for group in group_compatible(active):
                cohorts = [Cohort(np.arange(n), t, run.seed, n) for run in group]
                rows = [peers[id(run)].rows for run in group]
                trained = list(train_from_models(group, cohorts, rows, backend))
                for sent, updates in trained:
                    peers[id(sent.run)].step(sent, updates)
            if active:
                yield runs
    except Diverged as error:
        error.result = collect_result(runs)
        raise


class _Peers:
    """The clients of one seed, each with a model of its own: ``rows [N, d]``."""

    def __init__(self, run: Run, mixing: np.ndarray, costs: CostModel | None):
        n = len(mixing)
        self.run, self.costs = run, costs
        if run.data.num_clients != n:
            raise ValueError(
                f"the graph has {n} nodes and must have one per client of the data, "
                f"{run.data.num_clients}. Try nx.cycle_graph({run.data.num_clients})"
            )
        _check_everyone(run)
        accuracy = run.rounds[0].get("accuracy", np.nan)
        run.rounds[0] |= {"own_accuracy": accuracy, "disagreement": 0.0}
        if costs:
            run.rounds[0] |= {"seconds": 0.0, "joules": 0.0}
        self.rows = run.w.repeat(n, 1)
        self.mixing = torch.from_numpy(mixing).to(self.rows)
        self.is_near = mixing > 0  # [N, N]
        self.ready = np.zeros(n)  # seconds at which each client begins
        sizes = wire.dense_sizes(tuple(run.experiment.task.shapes.items()), self.rows.dtype)
        self.bytes = (self.is_near.sum(1) - 1)[:, None] * sizes  # [N, 3]

    def step(self, dispatched: Dispatch, updates: Updates) -> None:
        """Average with the neighbours, and record the round."""
        run, t = self.run, dispatched.cohort.round
        dispatched = dispatched._replace(bytes_down=self.bytes)
        if not charge_round(dispatched, self.bytes):
            return
        row, columns = record_round(dispatched, updates, self.bytes)
        rows = self._mix(dispatched.cohort, updates)
        w = rows.mean(0)
        check_model(w, run, t)
        row |= scores_of(run, w, t) | self._compare(rows, w, t)
        ready = self.ready
        if self.costs:
            columns |= self.costs(columns["client"], columns)
            sent = ready + columns["computing"] + columns["sending"]
            ready = np.where(self.is_near, sent, 0).max(1) + columns["fetching"]
            row |= {
                "seconds": float(ready.max() - self.ready.max()),
                "joules": float(columns["joules"].sum()),
            }
        self.rows, self.ready = rows, ready
        apply_round(run, (w, run.state), (row, columns))

    def _mix(self, cohort: Cohort, updates: Updates) -> Tensor:
        """Return the clients' models after the exchange, ``[N, d]``."""
        experiment = self.run.experiment
        rows, delta = self.rows, updates.delta
        if experiment.aggregate is weighted_mean:
            moves = self.mixing @ (rows + delta) - rows
        else:
            is_near = torch.from_numpy(self.is_near).to(rows.device)
            moves = [
                aggregate_updates(
                    self.run,
                    rows[near] - row + delta[near],
                    weights[near],
                    cohort.subset(near.numpy(force=True)),
                )
                for near, weights, row in zip(is_near, self.mixing, rows, strict=True)
            ]
            moves = torch.stack(moves)
        return experiment.algorithm.step(rows, self.run.state, cohort, updates, moves)[0]

    def _compare(self, rows: Tensor, w: Tensor, t: int) -> dict[str, float]:
        """Return the accuracy of ten models of ``rows [N, d]``, and their distance from ``w``."""
        task, accuracy = self.run.experiment.task, np.nan
        if is_evaluation_round(self.run.experiment, t) and "accuracy" in task.metrics:
            ten = np.unique(np.linspace(0, len(rows) - 1, 10).round().astype(int))
            scores = evaluate_models(task, rows[ten], self.run.data)
            accuracy = float(np.mean([score["accuracy"] for score in scores]))
        distance = (rows - w).square().sum(1).mean().sqrt() / w.norm()
        return {"own_accuracy": accuracy, "disagreement": distance.item()}


def _check_gossip(experiment: Experiment) -> None:
    """Raise ValueError for settings that need a server."""
    for name in ("upload", "download"):
        if not getattr(experiment, name).is_identity:
            raise ValueError(
                f"{name} is compressed, and neighbours average whole models in gossip. "
                f"Try {name}=identity()"
            )
    check_whole_models(experiment)
    algorithm = experiment.algorithm
    if algorithm.step.__qualname__ != _FEDAVG:
        name = algorithm.step.__qualname__.split(".")[0]
        raise ValueError(
            f"algorithm={name} must be one whose step is that of fedavg (its step is a server's, "
            "and gossip has none). Try fedavg() or fedprox(0.1)"
        )


def _check_everyone(run: Run) -> None:
    """Raise ValueError if the sampler leaves out a client with examples."""
    data = run.data
    for t in range(1, run.experiment.rounds + 1):
        cohort = draw_cohort(run.experiment, data, run.seed, t).ids
        if len(absent := np.setdiff1d(np.flatnonzero(data.sizes), cohort)):
            raise ValueError(
                f"sample takes {len(cohort)} of {data.num_clients} clients in round {t}, without "
                f"client {absent[0]}, and must take everyone in gossip. "
                f"Try sample=uniform({data.num_clients})"
            )
