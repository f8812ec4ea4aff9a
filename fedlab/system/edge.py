"""Hierarchies: clients average at edge servers, edge servers at a cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedlab.client import Train, batched
from fedlab.core import Cohort, Experiment, FederatedDataset, Message, Result, Transform, identity
from fedlab.core.validate import check_seeds, check_whole
from fedlab.engine import Diverged, Run, collect_result
from fedlab.engine.dispatch import dispatch, draw_cohort
from fedlab.engine.lockstep import group_compatible
from fedlab.engine.rounds import (
    aggregate_and_step,
    apply_round,
    charge_round,
    check_model,
    mean_loss,
    receive_updates,
    record_round,
)
from fedlab.engine.run import run_to_end
from fedlab.engine.run_state import find_device
from fedlab.engine.scores import missing_scores
from fedlab.engine.start import start_runs
from fedlab.engine.training import train
from fedlab.system.averaging import CostModel, check_whole_models, cost_model, scores_of
from fedlab.system.devices import Link
from fedlab.system.fleet import Fleet
from fedlab.upload import wire
from fedlab.upload.chains import send
from fedlab.upload.traffic import start_traffic


def hierarchical(
    experiment: Experiment,
    edge_of: Sequence[int],
    *,
    period: int = 1,
    uplink: Transform | None = None,
    fleet: Fleet | Callable[[int], Fleet] | None = None,
    hop: Link | None = None,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    device: str = "auto",
) -> Result:
    """Average clients at edge servers, and every ``period`` rounds the edges at a cloud.

    HierFAVG, Liu et al. 2020, Algorithm 1: ``w <- w + sum_e n_e / n (w_e - w)``, and the edges
    begin anew from w. The experiment's settings mean the same as in ``run``, at each edge:
    ``sample`` draws from the clients of an edge, and each edge has a state of the algorithm.
    ``rounds`` and ``eval_every`` count rounds of the cloud, a schedule of ``Local`` counts rounds
    at the edges. A ``budget`` counts the bytes between clients and edges.

    The table ``rounds`` has one row per round of the cloud. ``bytes_up`` and ``bytes_down`` are
    between clients and edges, ``edge_bytes_up`` and ``edge_bytes_down`` between edges and cloud.
    ``clients`` has a column ``edge``.

    With a ``fleet`` there are columns ``seconds`` and ``joules``: an edge waits for the last of its
    clients, the cloud for the last edge. Jitter counts with its mean.

    Args:
        experiment: The study; its algorithm must have no masks.
        edge_of: Number of the edge of each client, ``[N]``, from 0.
        period: Rounds at the edges per round of the cloud.
        uplink: Compression of the edges' updates; None sends them whole.
        fleet: Devices and links to the edges, or a function of the seed that returns them.
        hop: Link between an edge and the cloud; None takes no time.
        backend: Engine that trains.
        seeds: Number of seeds, or a list of them.
        device: PyTorch's name of a device, or "auto".

    Returns:
        The tables, and the cloud's final models.

    Raises:
        ValueError: If the settings do not fit each other, or edges do not support one of them.
        Diverged: If numbers are no longer finite; its ``result`` holds the rounds so far.
        Interrupted: On Ctrl-C, likewise.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.server import fedavg, poisson, weighted_mean
        >>> digits = load("digits", 6)
        >>> parts = Local(0.1), fedavg(), weighted_mean, poisson(1.0)
        >>> study = Experiment(digits, mlp(digits), *parts, rounds=2)
        >>> hierarchical(study, edge_of=[0, 0, 0, 1, 1, 1], period=2).rounds["steps"].tolist()
        [0, 96, 96]
    """
    return run_to_end(
        _hierarchical(experiment, edge_of, period, uplink, fleet, hop, backend, seeds, device)
    )


def _hierarchical(
    experiment, edge_of, period, uplink, fleet, hop, backend, seeds, device
) -> Iterator[list[Run]]:
    """Yield the runs before any training, and after each round of the cloud."""
    check_whole(1, period=period)
    _check_hops(experiment, uplink, hop)
    runs = start_runs([({}, experiment, seed) for seed in check_seeds(seeds)], find_device(device))
    edge_of, uplink = np.asarray(edge_of), uplink or identity()
    clouds = [_Cloud(run, edge_of, uplink, cost_model(fleet, run, backend), hop) for run in runs]
    yield runs
    try:
        for t in range(1, experiment.rounds + 1):
            active = [cloud for cloud in clouds if not cloud.is_over]
            for k in range((t - 1) * period + 1, t * period + 1):
                edges = {
                    id(edge.run): edge
                    for cloud in active
                    for edge in cloud.edges
                    if not cloud.is_over
                }
                for group in group_compatible([edge.run for edge in edges.values()]):
                    _edge_round([edges[id(run)] for run in group], k, backend)
            for cloud in active:
                if not cloud.is_over:
                    cloud.step(t)
            if active:
                yield runs
    except Diverged as error:
        error.result = collect_result(runs)
        raise


def _edge_round(edges: list[_Edge], t: int, backend: Train) -> None:
    """Run a round of edges whose clients train together; if one diverges, none goes on."""
    dispatched = dispatch([edge.run for edge in edges], [edge.draw(t) for edge in edges])
    trained = train(dispatched, backend)
    received = [receive_updates(*pair) for pair in zip(dispatched, trained, strict=True)]
    done = []
    for edge, sent, (updates, up) in zip(edges, dispatched, received, strict=True):
        cloud = edge.cloud.run
        if edge.cloud.is_over or not charge_round(sent._replace(run=cloud), up):
            continue  # the cloud's round stays incomplete, so nothing of it counts
        after = aggregate_and_step(sent.run, sent.cohort, updates)
        done.append((sent.run, after, record_round(sent, updates, up)))
    for run, after, rows in done:
        apply_round(run, after, rows)


@dataclass(eq=False)
class _Edge:
    """An edge server: a run of the cloud's data in which only the clients ``ids`` take part.

    Its ``data`` has these clients alone.
    """

    cloud: _Cloud
    number: int
    ids: np.ndarray
    run: Run
    data: FederatedDataset

    @property
    def examples(self) -> int:
        return int(self.data.sizes.sum())

    def draw(self, t: int) -> Cohort:
        """Draw the cohort of round ``t``; clients keep their numbers."""
        try:
            cohort = draw_cohort(self.run.experiment, self.data, self.run.seed, t, self.number)
        except ValueError as error:
            raise ValueError(f"edge {self.number} with {len(self.ids)} clients: {error}") from error
        return cohort._replace(ids=self.ids[cohort.ids])


class _Cloud:
    """The cloud of one seed, and its edges."""

    def __init__(
        self,
        run: Run,
        edge_of: np.ndarray,
        uplink: Transform,
        costs: CostModel | None,
        hop: Link | None,
    ):
        self.run, self.uplink = run, uplink
        self.costs, self.hop = costs, hop
        _check_edges(edge_of, run.data)
        self.edges = [
            self._edge(e, np.flatnonzero(edge_of == e)) for e in range(int(edge_of.max()) + 1)
        ]
        self.state = uplink.init(run.w, run.experiment.task.shapes, len(self.edges))
        columns = ["edge_bytes_up", "edge_bytes_down", *(("seconds", "joules") if costs else ())]
        run.rounds[0] |= dict.fromkeys(columns, 0)

    @property
    def is_over(self) -> bool:
        return self.run.traffic.budget_exhausted

    def _edge(self, number: int, ids: np.ndarray) -> _Edge:
        run, n = self.run, self.run.data.num_clients
        state = run.experiment.algorithm.init(run.w, n)
        traffic = start_traffic(run.experiment, run.w, n)
        data = replace(run.data, parts=[run.data.parts[i] for i in ids])
        edge_run = replace(run, state=state, traffic=traffic, rounds=[], clients=[])
        edge = _Edge(self, number, ids, edge_run, data)
        edge.draw(1)  # a cohort that does not fit is refused before anything is trained
        return edge

    def step(self, t: int) -> None:
        """Average the edges, record the cloud's round, and send the model to the edges."""
        run, edges = self.run, self.edges
        w, up, down = self._average(t)
        check_model(w, run, t)
        costs = self._costs_of_round(up, down)
        rounds = [row for edge in edges for row in edge.run.rounds]
        clients = []
        for e, edge in enumerate(edges):
            for columns in edge.run.clients:
                ones = np.ones(len(columns["client"]), dtype=int)
                clients.append(columns | {"round": t * ones, "edge": e * ones})
        not_summed = {"seed", "round", "train_loss", *missing_scores(run.experiment.task)}
        names = [name for name in rounds[0] if name in run.rounds[0] and name not in not_summed]
        sums = {name: sum(row[name] for row in rounds) for name in names}
        sums |= {"edge_bytes_up": up, "edge_bytes_down": down} | costs
        loss, count = (
            np.array([row[name] for row in rounds], dtype=float)
            for name in ("train_loss", "clients")
        )
        scores = scores_of(run, w, t)
        train_loss = mean_loss(loss[count > 0], count[count > 0])
        run.w = w
        row = {"seed": run.seed, "round": t} | scores | {"train_loss": train_loss} | sums
        run.rounds.append(row)
        run.clients += clients
        for edge in edges:
            edge.run.w = run.w
            edge.run.rounds, edge.run.clients = [], []

    def _average(self, t: int) -> tuple[Tensor, int, int]:
        """Return the mean of the edges' models ``[d]``, and the bytes up and down."""
        run, edges = self.run, self.edges
        shapes = run.experiment.task.shapes
        n = torch.tensor([edge.examples for edge in edges]).to(run.w)
        rows = Message(torch.stack([edge.run.w - run.w for edge in edges]), shapes)
        up = down = len(edges) * int(wire.dense_sizes(tuple(shapes.items()), run.w.dtype).sum())
        if not self.uplink.is_identity:
            cohort = Cohort(np.arange(len(edges)), t, run.seed, len(edges))
            rows, self.state = send(self.uplink, rows, self.state, cohort)
            up = int(wire.sizes(rows).sum())
        return run.w + (n / n.sum()) @ rows.delta, up, down

    def _costs_of_round(self, up: int, down: int) -> dict[str, float]:
        """Return seconds and joules since the cloud's last step, and add those of each client."""
        if self.costs is None:
            return {}
        num_edges, hop_seconds = len(self.edges), 0.0
        if self.hop is not None:
            hop_seconds = self.hop.seconds("up", up / num_edges)
            hop_seconds += self.hop.seconds("down", down / num_edges)
        seconds, joules = [], 0.0
        for edge in self.edges:
            seconds.append(hop_seconds)
            for columns in edge.run.clients:
                columns |= self.costs(columns["client"], columns)
                took = columns["fetching"] + columns["computing"] + columns["sending"]
                seconds[-1] += took.max(initial=0)
                joules += columns["joules"].sum()
        return {"seconds": float(max(seconds)), "joules": float(joules)}


def _check_hops(experiment: Experiment, uplink: Transform | None, hop: Link | None) -> None:
    """Raise ValueError for settings that edges or the cloud do not support."""
    check_whole_models(experiment)
    if uplink is not None and not isinstance(uplink, Transform):
        name = getattr(uplink, "__name__", repr(uplink))
        raise ValueError(
            f"uplink={name} must be the result of a call. "
            "Try uplink=identity() or uplink=top_k(0.01)"
        )
    if uplink is not None and uplink.update_format != "rows":
        raise ValueError(
            f"uplink gives {uplink.update_format} and must give rows (the cloud averages rows). "
            "Try uplink=top_k(0.01)"
        )
    if not (hop is None or isinstance(hop, Link)):
        raise ValueError(
            f"hop={hop!r} must be a Link, or None for one that takes no time. "
            "Try links()['edge to cloud']"
        )


def _check_edges(edge_of: np.ndarray, data: FederatedDataset) -> None:
    if edge_of.shape != (data.num_clients,):
        raise ValueError(
            f"edge_of has the shape {list(edge_of.shape)} and must have [{data.num_clients}], the "
            f"number of an edge per client. Try edge_of=[0] * {data.num_clients}"
        )
    if edge_of.dtype.kind not in "iu":
        raise ValueError(
            f"edge_of is of type {edge_of.dtype} and must be whole numbers. "
            "Try edge_of=[int(e) for e in ...]"
        )
    missing = np.setdiff1d(np.arange(edge_of.max() + 1), edge_of)
    if edge_of.min() < 0 or len(missing):
        fault = (
            f"edge {missing[0]} has no clients" if len(missing) else f"edge_of has {edge_of.min()}"
        )
        raise ValueError(
            f"{fault}, and edges must be numbered from 0, each with a client at least. "
            "Try np.unique(edge_of, return_inverse=True)[1]"
        )
    examples = np.bincount(edge_of, data.sizes)
    if not examples.all():
        empty = int(examples.argmin())
        raise ValueError(
            f"edge {empty} must have a client with examples, and its {(edge_of == empty).sum()} "
            "clients have none. Try to join it with another edge"
        )
