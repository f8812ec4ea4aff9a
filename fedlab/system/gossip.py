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
from fedlab.engine.dispatch import Dispatch
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
from fedlab.server import weighted_mean
from fedlab.system.edge import _FEDAVG, Takes, _check_everyone, _check_whole_models, _clock, _scores
from fedlab.system.fleet import Fleet
from fedlab.upload import wire


# -- no server
def mixing_matrix(graph: nx.Graph) -> np.ndarray:
    """Metropolis-Hastings weights ``[N, N]``: ``1 / (1 + max(deg_i, deg_j))`` for neighbours, the rest for oneself.

    Symmetric, and rows sum to 1, so that the mean stays what it is.  Xiao & Boyd 2004, section 4.  An edge from a node to
    itself says nothing and is left out.  ValueError for a graph whose nodes are not 0 to N - 1, or that is in pieces, which
    would never hear of each other, and for directed, multiple or weighted edges.
    """
    if not isinstance(graph, nx.Graph):
        told = f"graph is a {type(graph).__name__} and must be a networkx.Graph"
        raise ValueError(f"{told}. Try nx.cycle_graph(10), or nx.from_numpy_array(adjacency)")
    if graph.is_directed() or graph.is_multigraph():
        why = "neighbours hear each other, once a round"
        remedy = (
            "graph.to_undirected()"
            if graph.is_directed() and not graph.is_multigraph()
            else "nx.Graph(graph)"
        )
        raise ValueError(
            f"graph is a {type(graph).__name__} and must be a networkx.Graph ({why}). Try {remedy}"
        )
    weighted = next(
        ((i, j, weight) for i, j, weight in graph.edges(data="weight") if weight not in (None, 1)),
        None,
    )
    if weighted:
        i, j, weight = weighted
        told = f"edge ({i}, {j}) has weight={weight} and must have none (the mixing goes by the number of neighbours)"
        raise ValueError(f"{told}. Try nx.Graph(list(graph.edges))")
    n = graph.number_of_nodes()
    wrong = next(
        (node for node in graph.nodes if isinstance(node, bool) or not isinstance(node, Integral)),
        None,
    )
    if wrong is not None and n and set(graph.nodes) == set(range(n)):
        told = f"the graph has the node {wrong!r}, and nodes must be whole numbers from 0 to N - 1"
        raise ValueError(f"{told}. Try nx.convert_node_labels_to_integers(graph)")
    if n == 0 or set(graph.nodes) != set(range(n)):
        raise ValueError(
            f"the graph has the nodes {list(graph.nodes)[:5]}...: number them from 0 to N - 1"
        )
    if not nx.is_connected(graph):
        pieces = sorted((sorted(piece) for piece in nx.connected_components(graph)), key=len)
        told = f"the graph is in {len(pieces)} pieces, one of them {pieces[0][:5]}{'...' if len(pieces[0]) > 5 else ''}"
        raise ValueError(f"{told}: add an edge, such as ({pieces[0][0]}, {pieces[-1][0]})")
    mixing = np.zeros((n, n))
    pairs = [(i, j) for i, j in graph.edges if i != j]
    degree = np.bincount(np.array(pairs, dtype=int).ravel(), minlength=n)
    for i, j in pairs:
        mixing[i, j] = mixing[j, i] = 1 / (1 + max(degree[i], degree[j]))
    return mixing + np.diag(1 - mixing.sum(1))


def spectral_gap(mixing: np.ndarray) -> float:
    """1 less the second largest absolute eigenvalue: disagreement shrinks by that share at least in a round, or faster."""
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
    """Train without a server: every client trains its own model, then averages with its neighbours in the ``graph``.

    D-PSGD with local steps, Lian et al. 2017, Algorithm 1, and Koloskova et al. 2020: ``w_i <- sum_j M_ij (w_j + delta_j)``
    with the ``mixing_matrix`` M.  The experiment's settings mean what they mean in ``run``.  Each client folds what it and
    its neighbours have with ``aggregate``, whose weights are its row of M.  Of algorithms, gossip knows those whose step is
    that of ``fedavg``, such as ``fedprox``: others need a server.  All clients must take part, and messages travel whole.
    A ``budget`` counts a message to and from each neighbour.

    Scores are those of the mean of all models, which nobody has; ``own_accuracy`` is the mean over ten clients' own models.
    ``disagreement`` is the root mean square of ``|w_i - mean|``, over the norm of the mean.  ``w`` are the mean models.

    With a ``fleet`` there are ``seconds`` and ``joules``: a client that has trained sends to its neighbours and fetches what
    they sent; it begins anew when it and all of them are that far, and waits for nobody else.

    Args:
        experiment: The study; its sampler must take everyone, such as ``uniform(N)``.
        graph: Who talks to whom: nodes are the clients 0 to N - 1, in one piece.
        fleet: Devices and links of the clients, or a function of the seed for them.
        backend: Engine that trains.
        seeds: Their number, or a list of them.
        device: PyTorch's name of a device, or "auto".

    Returns:
        The tables, and the means of the final models.

    Raises:
        ValueError: If graph and data have different clients, or gossip does not know a setting.
        Diverged: If numbers are no longer finite; its ``result`` holds the rounds so far.
        Interrupted: On Ctrl-C, likewise.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.core.experiment import Local
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
    peers = {id(run): _Peers(run, mixing, _clock(fleet, run, backend)) for run in runs}
    yield runs
    try:
        for t in range(1, experiment.rounds + 1):
            active = [run for run in runs if not run.traffic.budget_exhausted]
            for group in group_compatible(active):
                cohorts = [
                    Cohort(np.arange(len(mixing)), t, run.seed, len(mixing)) for run in group
                ]
                rows = [peers[id(run)].rows for run in group]
                done = [
                    (peers[id(one.run)], one, updates)
                    for one, updates in train_from_models(group, cohorts, rows, backend)
                ]
                for each, one, updates in done:
                    each.step(one, updates)
            if active:
                yield runs
    except Diverged as error:
        error.result = collect_result(runs)
        raise


class _Peers:
    """The clients of one seed, each with a model of its own."""

    def __init__(self, run: Run, mixing: np.ndarray, clock: Takes | None):
        n, self.run, self.clock = len(mixing), run, clock
        if run.data.num_clients != n:
            raise ValueError(
                f"the graph has {n} nodes and the data {run.data.num_clients} clients: one for each"
            )
        _check_everyone(run)
        own = run.rounds[0].get("accuracy", np.nan)
        run.rounds[0] |= {"own_accuracy": own, "disagreement": 0.0} | (
            {"seconds": 0.0, "joules": 0.0} if clock else {}
        )
        self.rows = run.w.repeat(n, 1)  # [N, d]
        self.mix, self.near = torch.from_numpy(mixing).to(self.rows), mixing > 0
        self.ready = np.zeros(n)  # seconds at which each begins
        neighbours = self.near.sum(1) - 1
        self.bytes = neighbours[:, None] * wire.dense_sizes(
            tuple(run.experiment.task.shapes.items()), self.rows.dtype
        )  # [N, 3]

    def step(self, dispatched: Dispatch, updates: Updates) -> None:
        """Average with the neighbours, and record the round."""
        run, t = self.run, dispatched.cohort.round
        dispatched = dispatched._replace(bytes_down=self.bytes)
        if not charge_round(dispatched, self.bytes):
            return
        row, each = record_round(dispatched, updates, self.bytes)
        rows = self._mixed(dispatched.cohort, updates)
        w = rows.mean(0)
        check_model(w, run, t)
        row |= _scores(run, w, t) | self._judge(rows, w, t)
        ready = self.ready
        if self.clock:
            each |= self.clock(each["client"], each)
            sent = ready + each["computing"] + each["sending"]
            ready = np.where(self.near, sent, 0).max(1) + each["fetching"]
            row |= {
                "seconds": float(ready.max() - self.ready.max()),
                "joules": float(each["joules"].sum()),
            }
        self.rows, self.ready = rows, ready
        apply_round(run, (w, run.state), (row, each))

    def _mixed(self, cohort: Cohort, updates: Updates) -> Tensor:
        """What each client has after it heard of its neighbours, ``[N, d]``."""
        experiment, rows, delta = self.run.experiment, self.rows, updates.delta
        if experiment.aggregate is weighted_mean:
            moves = self.mix @ (rows + delta) - rows
        else:
            near = torch.from_numpy(self.near).to(rows.device)
            moves = [
                aggregate_updates(
                    self.run,
                    rows[heard] - row + delta[heard],
                    share[heard],
                    cohort.subset(heard.numpy(force=True)),
                )
                for heard, share, row in zip(near, self.mix, rows, strict=True)
            ]
            moves = torch.stack(moves)
        return experiment.algorithm.step(rows, self.run.state, cohort, updates, moves)[0]

    def _judge(self, rows: Tensor, w: Tensor, t: int) -> dict[str, float]:
        """How far the models ``rows [N, d]`` are apart, and how good they are by themselves."""
        task, own = self.run.experiment.task, np.nan
        if is_evaluation_round(self.run.experiment, t) and "accuracy" in task.metrics:
            ten = np.unique(np.linspace(0, len(rows) - 1, 10).round().astype(int))
            own = float(
                np.mean(
                    [each["accuracy"] for each in evaluate_models(task, rows[ten], self.run.data)]
                )
            )
        away = (rows - w).square().sum(1).mean().sqrt() / w.norm()
        return {"own_accuracy": own, "disagreement": away.item()}


def _check_gossip(experiment: Experiment) -> None:
    """Raise ValueError for settings that mean nothing where there is no server."""
    for way in ("upload", "download"):
        if not getattr(experiment, way).is_identity:
            raise ValueError(
                f"{way} is compressed, and neighbours average whole models in gossip. Try {way}=identity()"
            )
    _check_whole_models(experiment)
    algorithm = experiment.algorithm
    if algorithm.step.__qualname__ != _FEDAVG:
        told = algorithm.step.__qualname__.split(".")[0]
        why = "its step is a server's, and gossip has none"
        raise ValueError(
            f"algorithm={told} must be one whose step is that of fedavg ({why}). Try fedavg() or fedprox(0.1)"
        )
