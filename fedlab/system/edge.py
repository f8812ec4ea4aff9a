"""Between clients and a cloud: edge servers, no server at all, and models cut in two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn

from fedlab import params
from fedlab.checks import check_whole
from fedlab.client import Train, assign, batched, plan, sequential
from fedlab.records import Cohort, Experiment, FederatedDataset, Message, Result, Task, Terms, Transform, whole
from fedlab.rounds import (
    Run,
    absorb,
    alike,
    begin,
    begin_rounds,
    commit,
    draw_cohort,
    due,
    evaluate,
    evaluate_each,
    find_device,
    local_of,
    mean_loss,
    receive,
    record,
    scores_after,
    tables,
    train,
    unknown,
)
from fedlab.server.sampling import poisson
from fedlab.system.devices import Fleet, Link, fleet_of, training_flops
from fedlab.upload import wire
from fedlab.upload.transforms import send

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
    """Each edge averages its own clients; every ``period`` rounds the cloud averages the edges.

    HierFAVG, Liu et al. 2020, Algorithm 1: ``w <- w + sum_e n_e / n (w_e - w)``, and the edges begin anew from w.
    ``edge_of [N]`` numbers each client's edge from 0.  ``experiment.rounds`` are those of the cloud, ``sample`` draws from
    the clients of an edge, and ``uplink`` is how edges send what they have learned (default: whole).

    ``rounds`` has a row a round of the cloud; ``bytes_up`` and ``bytes_down`` are between clients and edges,
    ``edge_bytes_up`` and ``edge_bytes_down`` between edges and cloud.  ``clients`` has a column ``edge``.

    With a ``fleet`` (or a function of the seed), whose links lead to the edges, there are ``seconds`` and ``joules``, too:
    an edge waits for the last of its clients, the cloud for the last edge, and ``hop`` is the link between them (None: no
    time).  Nobody drops out, sleeps or has bad luck in that.
    """
    check_whole(1, period=period)
    uplink, where = whole() if uplink is None else uplink, find_device(device)
    runs = [begin({}, experiment, seed, where) for seed in (range(seeds) if isinstance(seeds, int) else seeds)]
    clouds = [_Cloud(run, np.asarray(edge_of), period, uplink, _clock(fleet, run), hop) for run in runs]
    for t in range(1, experiment.rounds + 1):
        for k in range(period):
            edges = [edge for cloud in clouds for edge in cloud.edges]
            for group in alike(edges):
                cohorts = [draw_cohort(e.experiment, e.data, e.seed, (t - 1) * period + k + 1) for e in group]
                begun = begin_rounds(group, cohorts)
                for one, updates in zip(begun, train(begun, backend), strict=True):
                    updates, up = receive(one, updates)
                    commit(one.run, absorb(one.run, one.cohort, updates), record(one, updates, up))
        for cloud in clouds:
            cloud.step(t)
    return tables([cloud.run for cloud in clouds])


class _Cloud:
    """The cloud of one seed, and its edges, each a run on its own clients."""

    def __init__(self, run: Run, edge_of: np.ndarray, period: int, uplink: Transform, clock: Takes | None, hop: Link | None):
        self.run, self.uplink, self.clock, self.hop, experiment = run, uplink, clock, hop, run.experiment
        _check_edges(edge_of, run.data)
        self.members = [np.flatnonzero(edge_of == e) for e in range(int(edge_of.max()) + 1)]
        never = replace(experiment, rounds=experiment.rounds * period + 1, eval_every=experiment.rounds * period + 1)
        own = [replace(run.data, parts=[run.data.parts[i] for i in ids]) for ids in self.members]
        self.edges = [begin({}, replace(never, data=data), run.seed, run.w.device) for data in own]
        self.state = uplink.init(run.w, experiment.task.shapes, len(own))
        run.rounds[0] |= dict.fromkeys(("edge_bytes_up", "edge_bytes_down", *(("seconds", "joules") if clock else ())), 0)

    def step(self, t: int) -> None:
        run, shapes = self.run, self.run.experiment.task.shapes
        n = torch.tensor([edge.data.sizes.sum() for edge in self.edges]).to(run.w)
        rows = Message(torch.stack([edge.w - run.w for edge in self.edges]), shapes)
        cohort = Cohort(np.arange(len(self.edges)), t, run.seed, len(self.edges))
        up = down = len(self.edges) * int(wire.dense(tuple(shapes.items()), run.w.dtype).sum())
        if not self.uplink.is_whole:
            rows, self.state = send(self.uplink, rows, self.state, cohort)
            up = int(wire.sizes(rows).sum())
        run.w = run.w + (n / n.sum()) @ rows.delta
        scores, took = scores_after([run], t)[0], self._took(up, down)
        rounds = [row for edge in self.edges for row in edge.rounds[1 if t == 1 else 0 :]]
        kept = ("seed", "round", "train_loss", *scores)
        summed = [name for name in run.rounds[0] if name not in kept and name in rounds[0]]
        told = {name: sum(row[name] for row in rounds) for name in summed}
        loss, many = (np.array([row[name] for row in rounds], dtype=float) for name in ("train_loss", "clients"))
        seen = {"seed": run.seed, "round": t, **scores, "train_loss": mean_loss(loss[many > 0], many[many > 0]), **told}
        run.rounds.append(seen | {"edge_bytes_up": up, "edge_bytes_down": down} | took)
        for e, edge in enumerate(self.edges):
            for each in edge.clients:
                each["client"] = self.members[e][each["client"]]
                each["round"] = np.full(len(each["client"]), t)
                run.clients.append(each | {"edge": np.full(len(each["client"]), e)})
            edge.rounds, edge.clients, edge.w = [], [], run.w

    def _took(self, up: int, down: int) -> dict[str, float]:
        """Seconds and joules of the rounds since the cloud's last step; each client's are noted with it."""
        if self.clock is None:
            return {}
        among = len(self.edges)
        beyond = 0.0 if self.hop is None else self.hop.seconds("up", up / among) + self.hop.seconds("down", down / among)
        spans, joules = [], 0.0
        for ids, edge in zip(self.members, self.edges, strict=True):
            spans.append(beyond)
            for each in edge.clients:
                each |= self.clock(ids[each["client"]], each)
                spans[-1] += (each["fetching"] + each["computing"] + each["sending"]).max(initial=0)
                joules += each["joules"].sum()
        return {"seconds": float(max(spans)), "joules": float(joules)}


def _clock(fleet: Fleet | Callable[[int], Fleet] | None, run: Run) -> Takes | None:
    """How long clients take, and the energy, for what a table says that they did in a round."""
    if fleet is None:
        return None
    mine, flops = fleet_of(fleet, run), training_flops(run.experiment.task, run.data.x, run.data.y)
    return lambda ids, each: mine.round(ids, each["bytes_down"], flops * each["examples"], each["bytes_up"])


def _check_edges(edge_of: np.ndarray, data: FederatedDataset) -> None:
    if edge_of.shape != (data.num_clients,) or edge_of.dtype.kind not in "iu":
        raise ValueError(f"edge_of has the shape {list(edge_of.shape)}: it is the number of an edge for each client, [N]")
    missing = np.setdiff1d(np.arange(edge_of.max() + 1), edge_of)
    if edge_of.min() < 0 or len(missing):
        told = f"edge {missing[0]} has no clients" if len(missing) else f"edge_of has {edge_of.min()}"
        raise ValueError(f"{told}: number the edges from 0, each with one client at least")
    examples = np.bincount(edge_of, data.sizes)
    if not examples.all():
        empty = int(examples.argmin())
        raise ValueError(f"edge {empty}: none of its {(edge_of == empty).sum()} clients holds an example: leave it out")


# -- no server


def mixing_matrix(graph: nx.Graph) -> np.ndarray:
    """Metropolis-Hastings weights ``[N, N]``: ``1 / (1 + max(deg_i, deg_j))`` for neighbours, the rest for oneself.

    Symmetric, and rows sum to 1, so that the mean stays what it is.  Xiao & Boyd 2004, section 4.  ValueError for a graph
    whose nodes are not 0 to N - 1, or that is in pieces: those would never hear of each other.
    """
    n = graph.number_of_nodes()
    if n == 0 or set(graph.nodes) != set(range(n)):
        raise ValueError(f"the graph has the nodes {list(graph.nodes)[:5]}...: number them from 0 to N - 1")
    if not nx.is_connected(graph):
        pieces = sorted((sorted(piece) for piece in nx.connected_components(graph)), key=len)
        told = f"the graph is in {len(pieces)} pieces, one of them {pieces[0][:5]}{'...' if len(pieces[0]) > 5 else ''}"
        raise ValueError(f"{told}: add an edge, such as ({pieces[0][0]}, {pieces[-1][0]})")
    mixing = np.zeros((n, n))
    for i, j in graph.edges:
        if i != j:
            mixing[i, j] = mixing[j, i] = 1 / (1 + max(graph.degree[i], graph.degree[j]))
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
    """No server: every client trains its own model, then averages with its neighbours in the ``graph``.

    D-PSGD with local steps, Lian et al. 2017, Algorithm 1, and Koloskova et al. 2020: ``w_i <- sum_j M_ij (w_j + delta_j)``
    with the ``mixing_matrix`` M.  All take part; neither ``sample`` nor ``algorithm`` nor ``aggregate`` is asked.

    Scores are those of the mean of all models, which nobody has; ``own_accuracy`` is the mean over ten clients' own models.
    ``disagreement`` is the root mean square of ``|w_i - mean|``, over the norm of the mean.  A message goes to each
    neighbour.  ``w`` are the mean models.

    With a ``fleet`` (or a function of the seed) there are ``seconds`` and ``joules``: a client that has trained sends to its
    neighbours and fetches what they sent; it begins anew when it and all of them are that far, and waits for nobody else.
    """
    mixing, where = mixing_matrix(graph), find_device(device)
    degree = np.array([graph.degree[i] - 2 * graph.has_edge(i, i) for i in range(len(mixing))])
    if not experiment.upload.is_whole:
        raise ValueError("upload is compressed: neighbours average whole models here: use whole()")
    runs = []
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        run = begin({}, replace(experiment, sample=poisson(1.0)), seed, where)
        if run.data.num_clients != len(mixing):
            raise ValueError(f"the graph has {len(mixing)} nodes and the data {run.data.num_clients} clients: one for each")
        own, clock = run.rounds[0].get("accuracy", np.nan), _clock(fleet, run)
        run.rounds[0] |= {"own_accuracy": own, "disagreement": 0.0} | ({"seconds": 0.0, "joules": 0.0} if clock else {})
        ready = np.zeros(len(mixing))  # when each begins
        rows = run.w.repeat(len(mixing), 1)  # [N, d]
        mix = torch.from_numpy(mixing).to(rows)
        for t in range(1, experiment.rounds + 1):
            rows = mix @ _trained(run, rows, t, degree, backend)
            run.w = rows.mean(0)
            _judge(run, rows, t)
            if clock:
                ready = _next(run, clock, ready, mixing > 0)
        runs.append(run)
    return tables(runs)


def _trained(run: Run, rows: Tensor, t: int, degree: np.ndarray, backend: Train) -> Tensor:
    """What each client has after local training from its own row, ``[N, d]``; it is recorded."""
    data, everyone = run.data, np.arange(run.data.num_clients)
    local = local_of(run, everyone)
    batches = plan(data.parts, run.seed, t, local[0], len(data.y))
    work = assign(run.w, data.parts, local, batches, Terms(start=lambda w: rows))
    cohort = Cohort(everyone, t, run.seed, len(everyone))
    updates = backend(run.experiment.task, data.x, data.y, work._replace(cohorts=(cohort,)))
    size = int(wire.dense(tuple(run.experiment.task.shapes.items()), rows.dtype).sum())
    n, steps, loss = (column.numpy(force=True) for column in (updates.num_examples, updates.steps, updates.loss))
    each = {"examples": (batches >= 0).sum((1, 2)), "steps": steps.astype(int)}
    each |= {"bytes_up": size * degree, "bytes_down": size * degree}
    some = steps > 0
    same = {"seed": run.seed, "round": t}
    told = mean_loss(loss[some], n[some])
    totals = {name: int(column.sum()) for name, column in each.items()}
    run.rounds.append(same | unknown(run.experiment.task) | {"train_loss": told, "clients": int(some.sum()), **totals})
    named = {name: np.full(len(n), value) for name, value in same.items()}
    run.clients.append(named | {"client": everyone, "num_examples": n.astype(int), "loss": loss} | each)
    return rows + updates.delta


def _next(run: Run, clock: Takes, ready: np.ndarray, near: np.ndarray) -> np.ndarray:
    """When each client begins its next round ``[N]``, who waits for those that are ``near [N, N]``."""
    row, each = run.rounds[-1], run.clients[-1]
    each |= clock(each["client"], each)
    sent = ready + each["computing"] + each["sending"]
    then = np.where(near, sent, 0).max(1) + each["fetching"]
    run.rounds[-1] = row | {"seconds": float(then.max() - ready.max()), "joules": float(each["joules"].sum())}
    return then


def _judge(run: Run, rows: Tensor, t: int) -> None:
    away = (rows - run.w).square().sum(1).mean().sqrt() / run.w.norm()
    told: dict[str, Any] = {"own_accuracy": np.nan, "disagreement": away.item()}
    if due(run.experiment, t):
        task, data = run.experiment.task, run.data
        told |= evaluate(task, run.w, data)
        if "accuracy" in task.metrics:
            some = np.unique(np.linspace(0, len(rows) - 1, 10).round().astype(int))
            told["own_accuracy"] = float(np.mean([each["accuracy"] for each in evaluate_each(task, rows[some], data)]))
    run.rounds[-1] |= told


# -- a model cut in two


@dataclass
class Crossing:
    """What has crossed the cut, in bytes: activations and labels up, gradients of the activations down."""

    up: int = 0
    down: int = 0
    steps: int = 0


def split_learning(cut: int, crossing: Crossing | None = None, *, dtype: torch.dtype = torch.float32) -> Train:
    """Local training with the layers before ``cut`` on the client and the others on a server: an engine for ``run``.

    SplitFed, Thapa et al. 2022, the first version: clients and server-side models are both averaged after a round, so that
    with ``dtype=torch.float32`` everything is as in training whole models.  In every step the client sends what comes out of
    its last layer, and the labels, and gets the gradient back, packed as ``dtype``; ``crossing`` counts these bytes.

    For models that are layers one after another; ``cut`` is from 1 to their number less 1.
    """
    crossing = Crossing() if crossing is None else crossing
    return lambda task, x, y, work: sequential(task, x, y, work, gradient=_across(cut, crossing, dtype))


def _across(cut: int, crossing: Crossing, dtype: torch.dtype) -> Callable:
    def gradient(task: Task, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        layers = list(cut_layers(task, cut, w))
        views = {name: p.detach().requires_grad_() for name, p in params.views(w, task.shapes).items()}
        mine = [name for name in views if int(name.split(".")[0]) < cut]
        theirs = [name for name in views if name not in mine]
        sent = _forward(layers[:cut], views, x, 0)  # on the client
        packed = _pack(sent, dtype)
        got = _unpack(packed, sent, dtype).requires_grad_()  # on the server
        loss = task.loss(_forward(layers[cut:], views, got, cut), y).mean()
        back, *up = torch.autograd.grad(loss, [got, *(views[name] for name in theirs)], materialize_grads=True)
        returned = _pack(back, dtype)
        down = torch.autograd.grad(sent, [views[name] for name in mine], _unpack(returned, back, dtype)) if mine else ()
        crossing.up += len(packed) + y.numel() * y.element_size()
        crossing.down += len(returned)
        crossing.steps += 1
        found = dict(zip([*theirs, *mine], [*up, *down], strict=True))
        return loss.detach(), torch.cat([found[name].flatten() for name in views])

    return gradient


def cut_layers(task: Task, cut: int, w: Tensor) -> nn.Sequential:
    """The layers of a task's model; ValueError for a cut that is not between two of them."""
    model = task.template(w)
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"{type(model).__name__} is not a line of layers: split learning here needs an nn.Sequential")
    held = [p for layer in model for p in {id(p): p for p in layer.parameters()}]
    if len(set(held)) < len(held):
        told = "two layers of the model are the same, or share a parameter, which client and server would both train"
        raise ValueError(f"{told}. Try sequential, or layers of their own")
    if not (isinstance(cut, int) and 1 <= cut < len(model)):
        raise ValueError(f"cut={cut!r}: the model has {len(model)} layers, so it is from 1 to {len(model) - 1}")
    return model


def _forward(layers: Sequence[nn.Module], views: dict[str, Tensor], x: Tensor, first: int) -> Tensor:
    for k, layer in enumerate(layers, first):
        prefix = f"{k}."
        own = {name.removeprefix(prefix): p for name, p in views.items() if name.startswith(prefix)}
        x = params.call(layer, own, x) if own else layer(x)
    return x


def _pack(values: Tensor, dtype: torch.dtype) -> bytes:
    return values.detach().to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _unpack(packed: bytes, like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(packed), dtype=dtype).view(like.shape).to(like)
