"""Between clients and a cloud: edge servers, no server at all, and models cut in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedlab.client import Train, batched
from fedlab.core import Cohort, Experiment, FederatedDataset, Message, Result, Transform, identity
from fedlab.core.validate import check_seeds, check_whole
from fedlab.engine import Diverged, Run, collect_result, evaluate
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
from fedlab.engine.scores import is_evaluation_round, missing_scores
from fedlab.engine.start import start_runs
from fedlab.engine.training import train
from fedlab.server import fedavg
from fedlab.system.devices import Link
from fedlab.system.fleet import Fleet, resolve_fleet
from fedlab.system.operations import training_flops
from fedlab.upload import wire
from fedlab.upload.traffic import start_traffic
from fedlab.upload.chains import send

Takes = Callable[[np.ndarray, dict[str, np.ndarray]], dict[str, np.ndarray]]


# -- client, edge, cloud
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

    HierFAVG, Liu et al. 2020, Algorithm 1: ``w <- w + sum_e n_e / n (w_e - w)``, and the edges begin anew from w.  The
    experiment's settings mean what they mean in ``run``, at each edge: ``sample`` draws from the clients of an edge, and an
    algorithm's state belongs to an edge.  ``rounds`` and ``eval_every`` are those of the cloud, and a schedule of
    ``Local`` counts rounds at the edges.  A ``budget`` counts what travels between clients and edges.

    The table ``rounds`` has a row per round of the cloud.  ``bytes_up`` and ``bytes_down`` are between clients and edges,
    ``edge_bytes_up`` and ``edge_bytes_down`` between edges and cloud.  ``clients`` has a column ``edge``.

    With a ``fleet`` there are ``seconds`` and ``joules``, too: an edge waits for the last of its clients, the cloud for the
    last edge.  Jitter counts with its mean.

    Args:
        experiment: The study; its algorithm must have no masks.
        edge_of: Number of the edge of each client, ``[N]``, from 0.
        period: Rounds at the edges for one of the cloud.
        uplink: How edges send what they have learned (None: whole).
        fleet: Devices and links to the edges, or a function of the seed for them.
        hop: Link between an edge and the cloud (None: takes no time).
        backend: Engine that trains.
        seeds: Their number, or a list of them.
        device: PyTorch's name of a device, or "auto".

    Returns:
        The tables, and the cloud's final models.

    Raises:
        ValueError: If the settings do not fit each other, or an edge does not know one of them.
        Diverged: If numbers are no longer finite; its ``result`` holds the rounds so far.
        Interrupted: On Ctrl-C, likewise.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.core.experiment import Local
        >>> from fedlab.server import poisson
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
    clouds = [
        _Cloud(run, np.asarray(edge_of), uplink or identity(), _clock(fleet, run, backend), hop)
        for run in runs
    ]
    yield runs
    try:
        for t in range(1, experiment.rounds + 1):
            active = [cloud for cloud in clouds if not cloud.run.traffic.budget_exhausted]
            for k in range((t - 1) * period + 1, t * period + 1):
                edges = {
                    id(edge.run): edge
                    for cloud in active
                    for edge in cloud.edges
                    if not cloud.run.traffic.budget_exhausted
                }
                for group in group_compatible([edge.run for edge in edges.values()]):
                    _edge_round([edges[id(run)] for run in group], k, backend)
            for cloud in active:
                if not cloud.run.traffic.budget_exhausted:
                    cloud.step(t)
            if active:
                yield runs
    except Diverged as error:
        error.result = collect_result(runs)
        raise


def _edge_round(edges: list[_Edge], t: int, backend: Train) -> None:
    """A round of edges whose clients train together; where one diverges, none has gone on."""
    dispatched = dispatch([edge.run for edge in edges], [edge.draw(t) for edge in edges])
    came = [
        receive_updates(*one) for one in zip(dispatched, train(dispatched, backend), strict=True)
    ]
    done = []
    for edge, one, (updates, up) in zip(edges, dispatched, came, strict=True):
        cloud = edge.cloud.run
        if cloud.traffic.budget_exhausted or not charge_round(one._replace(run=cloud), up):
            continue  # the cloud's round will not be whole, so that nothing of it counts
        done.append(
            (
                one.run,
                aggregate_and_step(one.run, one.cohort, updates),
                record_round(one, updates, up),
            )
        )
    for run, after, told in done:
        apply_round(run, after, told)


@dataclass(eq=False)
class _Edge:
    """An edge server: a run of the cloud's data in which only the clients ``ids`` take part."""

    cloud: _Cloud
    number: int
    ids: np.ndarray
    run: Run
    data: FederatedDataset  # of its clients alone

    @property
    def examples(self) -> int:
        return int(self.data.sizes.sum())

    def draw(self, t: int) -> Cohort:
        """Draw who takes part in round ``t``, by the numbers that the clients have everywhere."""
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
        clock: Takes | None,
        hop: Link | None,
    ):
        self.run, self.uplink, self.clock, self.hop = run, uplink, clock, hop
        _check_edges(edge_of, run.data)
        self.edges = [
            self._edge(e, np.flatnonzero(edge_of == e)) for e in range(int(edge_of.max()) + 1)
        ]
        self.state = uplink.init(run.w, run.experiment.task.shapes, len(self.edges))
        run.rounds[0] |= dict.fromkeys(
            ("edge_bytes_up", "edge_bytes_down", *(("seconds", "joules") if clock else ())), 0
        )

    def _edge(self, number: int, ids: np.ndarray) -> _Edge:
        run, n = self.run, self.run.data.num_clients
        state = run.experiment.algorithm.init(run.w, n)
        traffic = start_traffic(run.experiment, run.w, n)
        data = replace(run.data, parts=[run.data.parts[i] for i in ids])
        edge = _Edge(
            self,
            number,
            ids,
            replace(run, state=state, traffic=traffic, rounds=[], clients=[]),
            data,
        )
        edge.draw(1)  # a cohort that does not fit is refused before anything is trained
        return edge

    def step(self, t: int) -> None:
        run, edges, shapes = self.run, self.edges, self.run.experiment.task.shapes
        n = torch.tensor([edge.examples for edge in edges]).to(run.w)
        rows = Message(torch.stack([edge.run.w - run.w for edge in edges]), shapes)
        cohort = Cohort(np.arange(len(edges)), t, run.seed, len(edges))
        up = down = len(edges) * int(wire.dense_sizes(tuple(shapes.items()), run.w.dtype).sum())
        if not self.uplink.is_identity:
            rows, self.state = send(self.uplink, rows, self.state, cohort)
            up = int(wire.sizes(rows).sum())
        w = run.w + (n / n.sum()) @ rows.delta
        check_model(w, run, t)
        took = self._took(up, down)
        rounds, clients = [row for edge in edges for row in edge.run.rounds], []
        for e, edge in enumerate(edges):
            for each in edge.run.clients:
                same = np.ones(len(each["client"]), dtype=int)
                clients.append(each | {"round": t * same, "edge": e * same})
        names = [
            name
            for name in rounds[0]
            if name in run.rounds[0] and name not in ("seed", "round", "train_loss")
        ]
        told = {
            name: sum(row[name] for row in rounds)
            for name in names
            if name not in missing_scores(run.experiment.task)
        }
        loss, many = (
            np.array([row[name] for row in rounds], dtype=float)
            for name in ("train_loss", "clients")
        )
        told |= {"edge_bytes_up": up, "edge_bytes_down": down} | took
        scores = _scores(run, w, t)
        told = {"train_loss": mean_loss(loss[many > 0], many[many > 0])} | told
        run.w = w
        run.rounds.append({"seed": run.seed, "round": t} | scores | told)
        run.clients += clients
        for edge in edges:
            edge.run.rounds, edge.run.clients, edge.run.w = [], [], run.w

    def _took(self, up: int, down: int) -> dict[str, float]:
        """Seconds and joules of the rounds since the cloud's last step; each client's are noted with it."""
        if self.clock is None:
            return {}
        among = len(self.edges)
        beyond = (
            0.0
            if self.hop is None
            else self.hop.seconds("up", up / among) + self.hop.seconds("down", down / among)
        )
        spans, joules = [], 0.0
        for edge in self.edges:
            spans.append(beyond)
            for each in edge.run.clients:
                each |= self.clock(each["client"], each)
                spans[-1] += (each["fetching"] + each["computing"] + each["sending"]).max(initial=0)
                joules += each["joules"].sum()
        return {"seconds": float(max(spans)), "joules": float(joules)}


def _scores(run: Run, w: Tensor, t: int) -> dict[str, float]:
    """The test scores of the model ``w [d]`` after round ``t``, or NaN where it is not evaluated."""
    task = run.experiment.task
    return (
        evaluate(task, w, run.data)
        if is_evaluation_round(run.experiment, t)
        else missing_scores(task)
    )


def _check_hops(experiment: Experiment, uplink: Transform | None, hop: Link | None) -> None:
    """Raise ValueError for what edges or the cloud do not know."""
    _check_whole_models(experiment)
    if uplink is not None and not isinstance(uplink, Transform):
        told = getattr(uplink, "__name__", repr(uplink))
        raise ValueError(
            f"uplink={told} must be the result of a call. Try uplink=identity() or uplink=top_k(0.01)"
        )
    if uplink is not None and uplink.update_format != "rows":
        raise ValueError(
            f"uplink gives {uplink.update_format} and must give rows (the cloud averages rows). Try uplink=top_k(0.01)"
        )
    if not (hop is None or isinstance(hop, Link)):
        raise ValueError(
            f"hop={hop!r} must be a Link, or None for one that takes no time. Try links()['edge to cloud']"
        )


def _check_whole_models(experiment: Experiment) -> None:
    if experiment.algorithm.partial_updates:
        why = "edges and gossip average whole models, and such algorithms know the parts of one server's"
        raise ValueError(
            f"algorithm has masks or private parts ({why}). Try fedavg() here, or this algorithm in run"
        )


def _clock(fleet: Fleet | Callable[[int], Fleet] | None, run: Run, backend: Train) -> Takes | None:
    """How long clients take, and the energy, for what a table says that they did in a round."""
    if fleet is None:
        return None
    mine, flops = (
        resolve_fleet(fleet, run),
        training_flops(run.experiment.task, run.data.x, run.data.y, backend),
    )
    if mine.has_absences or mine.dropout.any():
        why = "edges and gossip wait for everyone"
        raise ValueError(
            f"fleet has hours, a trace or dropout, and must have none ({why}). Try draw_fleet(N), or simulate"
        )
    return lambda ids, each: mine.round_costs(
        ids, each["bytes_down"], flops * each["examples"], each["bytes_up"]
    )


def _check_edges(edge_of: np.ndarray, data: FederatedDataset) -> None:
    if edge_of.shape != (data.num_clients,):
        raise ValueError(
            f"edge_of has the shape {list(edge_of.shape)}: it is the number of an edge for each client, [N]"
        )
    if edge_of.dtype.kind not in "iu":
        raise ValueError(
            f"edge_of is of type {edge_of.dtype} and must be whole numbers. Try edge_of=[int(e) for e in ...]"
        )
    missing = np.setdiff1d(np.arange(edge_of.max() + 1), edge_of)
    if edge_of.min() < 0 or len(missing):
        told = (
            f"edge {missing[0]} has no clients" if len(missing) else f"edge_of has {edge_of.min()}"
        )
        raise ValueError(f"{told}: number the edges from 0, each with one client at least")
    examples = np.bincount(edge_of, data.sizes)
    if not examples.all():
        empty = int(examples.argmin())
        raise ValueError(
            f"edge {empty}: none of its {(edge_of == empty).sum()} clients holds an example: leave it out"
        )


_FEDAVG = fedavg().step.__qualname__


def _check_everyone(run: Run) -> None:
    """Raise ValueError if the sampler leaves somebody out who holds an example."""
    data = run.data
    for t in range(1, run.experiment.rounds + 1):
        cohort = draw_cohort(run.experiment, data, run.seed, t).ids
        if len(absent := np.setdiff1d(np.flatnonzero(data.sizes), cohort)):
            told = f"sample takes {len(cohort)} of {data.num_clients} clients in round {t}, without client {absent[0]}"
            raise ValueError(
                f"{told}, and must take everyone in gossip. Try sample=uniform({data.num_clients})"
            )
