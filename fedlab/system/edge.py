"""Between clients and a cloud: edge servers, no server at all, and models cut in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn

from fedlab import params
from fedlab.checks import check_seeds, check_whole
from fedlab.client import Train, batched, sequential
from fedlab.evaluation import evaluate, evaluate_each
from fedlab.records import Cohort, Experiment, FederatedDataset, Message, Result, Task, Transform, Updates, whole
from fedlab.rounds import (
    Begun,
    Diverged,
    Run,
    absorb,
    alike,
    begin_all,
    begin_rounds,
    check_model,
    commit,
    draw_cohort,
    due,
    find_device,
    fold,
    is_paid,
    mean_loss,
    receive,
    record,
    tables,
    train,
    train_apart,
    unknown,
)
from fedlab.run import drive
from fedlab.server import fedavg, weighted_mean
from fedlab.system.devices import Fleet, Link, fleet_of, training_flops
from fedlab.upload import ledger, wire
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
        >>> from fedlab.records import Local
        >>> from fedlab.server import poisson
        >>> digits = load("digits", 6)
        >>> parts = Local(0.1), fedavg(), weighted_mean, poisson(1.0)
        >>> study = Experiment(digits, mlp(digits), *parts, rounds=2)
        >>> hierarchical(study, edge_of=[0, 0, 0, 1, 1, 1], period=2).rounds["steps"].tolist()
        [0, 96, 96]
    """
    return drive(_hierarchical(experiment, edge_of, period, uplink, fleet, hop, backend, seeds, device))


def _hierarchical(experiment, edge_of, period, uplink, fleet, hop, backend, seeds, device) -> Iterator[list[Run]]:
    """Yield the runs before any training, and after each round of the cloud."""
    check_whole(1, period=period)
    _check_hops(experiment, uplink, hop)
    runs = begin_all([({}, experiment, seed) for seed in check_seeds(seeds)], find_device(device))
    clouds = [_Cloud(run, np.asarray(edge_of), uplink or whole(), _clock(fleet, run, backend), hop) for run in runs]
    yield runs
    try:
        for t in range(1, experiment.rounds + 1):
            active = [cloud for cloud in clouds if not cloud.run.links["over"]]
            for k in range((t - 1) * period + 1, t * period + 1):
                edges = {id(edge.run): edge for cloud in active for edge in cloud.edges if not cloud.run.links["over"]}
                for group in alike([edge.run for edge in edges.values()]):
                    _edge_round([edges[id(run)] for run in group], k, backend)
            for cloud in active:
                if not cloud.run.links["over"]:
                    cloud.step(t)
            if active:
                yield runs
    except Diverged as error:
        error.result = tables(runs)
        raise


def _edge_round(edges: list[_Edge], t: int, backend: Train) -> None:
    """A round of edges whose clients train together; where one diverges, none has gone on."""
    begun = begin_rounds([edge.run for edge in edges], [edge.draw(t) for edge in edges])
    came = [receive(*one) for one in zip(begun, train(begun, backend), strict=True)]
    done = []
    for edge, one, (updates, up) in zip(edges, begun, came, strict=True):
        cloud = edge.cloud.run
        if cloud.links["over"] or not is_paid(one._replace(run=cloud), up):
            continue  # the cloud's round will not be whole, so that nothing of it counts
        done.append((one.run, absorb(one.run, one.cohort, updates), record(one, updates, up)))
    for run, after, told in done:
        commit(run, after, told)


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

    def __init__(self, run: Run, edge_of: np.ndarray, uplink: Transform, clock: Takes | None, hop: Link | None):
        self.run, self.uplink, self.clock, self.hop = run, uplink, clock, hop
        _check_edges(edge_of, run.data)
        self.edges = [self._edge(e, np.flatnonzero(edge_of == e)) for e in range(int(edge_of.max()) + 1)]
        self.state = uplink.init(run.w, run.experiment.task.shapes, len(self.edges))
        run.rounds[0] |= dict.fromkeys(("edge_bytes_up", "edge_bytes_down", *(("seconds", "joules") if clock else ())), 0)

    def _edge(self, number: int, ids: np.ndarray) -> _Edge:
        run, n = self.run, self.run.data.num_clients
        state, links = run.experiment.algorithm.init(run.w, n), ledger.begin(run.experiment, run.w, n)
        data = replace(run.data, parts=[run.data.parts[i] for i in ids])
        edge = _Edge(self, number, ids, replace(run, state=state, links=links, rounds=[], clients=[]), data)
        edge.draw(1)  # a cohort that does not fit is refused before anything is trained
        return edge

    def step(self, t: int) -> None:
        run, edges, shapes = self.run, self.edges, self.run.experiment.task.shapes
        n = torch.tensor([edge.examples for edge in edges]).to(run.w)
        rows = Message(torch.stack([edge.run.w - run.w for edge in edges]), shapes)
        cohort = Cohort(np.arange(len(edges)), t, run.seed, len(edges))
        up = down = len(edges) * int(wire.dense(tuple(shapes.items()), run.w.dtype).sum())
        if not self.uplink.is_whole:
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
        names = [name for name in rounds[0] if name in run.rounds[0] and name not in ("seed", "round", "train_loss")]
        told = {name: sum(row[name] for row in rounds) for name in names if name not in unknown(run.experiment.task)}
        loss, many = (np.array([row[name] for row in rounds], dtype=float) for name in ("train_loss", "clients"))
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
        beyond = 0.0 if self.hop is None else self.hop.seconds("up", up / among) + self.hop.seconds("down", down / among)
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
    return evaluate(task, w, run.data) if due(run.experiment, t) else unknown(task)


def _check_hops(experiment: Experiment, uplink: Transform | None, hop: Link | None) -> None:
    """Raise ValueError for what edges or the cloud do not know."""
    _check_whole_models(experiment)
    if uplink is not None and not isinstance(uplink, Transform):
        told = getattr(uplink, "__name__", repr(uplink))
        raise ValueError(f"uplink={told} must be the result of a call. Try uplink=whole() or uplink=top_k(0.01)")
    if uplink is not None and uplink.gives != "rows":
        raise ValueError(f"uplink gives {uplink.gives} and must give rows (the cloud averages rows). Try uplink=top_k(0.01)")
    if not (hop is None or isinstance(hop, Link)):
        raise ValueError(f"hop={hop!r} must be a Link, or None for one that takes no time. Try links()['edge to cloud']")


def _check_whole_models(experiment: Experiment) -> None:
    if experiment.algorithm.has_masks:
        why = "edges and gossip average whole models, and such algorithms know the parts of one server's"
        raise ValueError(f"algorithm has masks or private parts ({why}). Try fedavg() here, or this algorithm in run")


def _clock(fleet: Fleet | Callable[[int], Fleet] | None, run: Run, backend: Train) -> Takes | None:
    """How long clients take, and the energy, for what a table says that they did in a round."""
    if fleet is None:
        return None
    mine, flops = fleet_of(fleet, run), training_flops(run.experiment.task, run.data.x, run.data.y, backend)
    if mine.sleeps or mine.dropout.any():
        why = "edges and gossip wait for everyone"
        raise ValueError(f"fleet has hours, a trace or dropout, and must have none ({why}). Try draw_fleet(N), or simulate")
    return lambda ids, each: mine.round(ids, each["bytes_down"], flops * each["examples"], each["bytes_up"])


def _check_edges(edge_of: np.ndarray, data: FederatedDataset) -> None:
    if edge_of.shape != (data.num_clients,):
        raise ValueError(f"edge_of has the shape {list(edge_of.shape)}: it is the number of an edge for each client, [N]")
    if edge_of.dtype.kind not in "iu":
        raise ValueError(f"edge_of is of type {edge_of.dtype} and must be whole numbers. Try edge_of=[int(e) for e in ...]")
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

    Symmetric, and rows sum to 1, so that the mean stays what it is.  Xiao & Boyd 2004, section 4.  An edge from a node to
    itself says nothing and is left out.  ValueError for a graph whose nodes are not 0 to N - 1, or that is in pieces, which
    would never hear of each other, and for directed, multiple or weighted edges.
    """
    if not isinstance(graph, nx.Graph):
        told = f"graph is a {type(graph).__name__} and must be a networkx.Graph"
        raise ValueError(f"{told}. Try nx.cycle_graph(10), or nx.from_numpy_array(adjacency)")
    if graph.is_directed() or graph.is_multigraph():
        why = "neighbours hear each other, once a round"
        remedy = "graph.to_undirected()" if graph.is_directed() and not graph.is_multigraph() else "nx.Graph(graph)"
        raise ValueError(f"graph is a {type(graph).__name__} and must be a networkx.Graph ({why}). Try {remedy}")
    weighted = next(((i, j, weight) for i, j, weight in graph.edges(data="weight") if weight not in (None, 1)), None)
    if weighted:
        i, j, weight = weighted
        told = f"edge ({i}, {j}) has weight={weight} and must have none (the mixing goes by the number of neighbours)"
        raise ValueError(f"{told}. Try nx.Graph(list(graph.edges))")
    n = graph.number_of_nodes()
    wrong = next((node for node in graph.nodes if isinstance(node, bool) or not isinstance(node, Integral)), None)
    if wrong is not None and n and set(graph.nodes) == set(range(n)):
        told = f"the graph has the node {wrong!r}, and nodes must be whole numbers from 0 to N - 1"
        raise ValueError(f"{told}. Try nx.convert_node_labels_to_integers(graph)")
    if n == 0 or set(graph.nodes) != set(range(n)):
        raise ValueError(f"the graph has the nodes {list(graph.nodes)[:5]}...: number them from 0 to N - 1")
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
        >>> from fedlab.records import Local
        >>> from fedlab.server import uniform
        >>> digits = load("digits", 6)
        >>> parts = Local(0.1), fedavg(), weighted_mean, uniform(6)
        >>> study = Experiment(digits, mlp(digits), *parts, rounds=2)
        >>> gossip(study, nx.cycle_graph(6)).rounds["steps"].tolist()
        [0, 48, 48]
    """
    return drive(_gossip(experiment, graph, fleet, backend, seeds, device))


def _gossip(experiment, graph, fleet, backend, seeds, device) -> Iterator[list[Run]]:
    """Yield the runs before any training, and after each round."""
    mixing = mixing_matrix(graph)
    _check_gossip(experiment)
    runs = begin_all([({}, experiment, seed) for seed in check_seeds(seeds)], find_device(device))
    peers = {id(run): _Peers(run, mixing, _clock(fleet, run, backend)) for run in runs}
    yield runs
    try:
        for t in range(1, experiment.rounds + 1):
            active = [run for run in runs if not run.links["over"]]
            for group in alike(active):
                cohorts = [Cohort(np.arange(len(mixing)), t, run.seed, len(mixing)) for run in group]
                rows = [peers[id(run)].rows for run in group]
                done = [(peers[id(one.run)], one, updates) for one, updates in train_apart(group, cohorts, rows, backend)]
                for each, one, updates in done:
                    each.step(one, updates)
            if active:
                yield runs
    except Diverged as error:
        error.result = tables(runs)
        raise


class _Peers:
    """The clients of one seed, each with a model of its own."""

    def __init__(self, run: Run, mixing: np.ndarray, clock: Takes | None):
        n, self.run, self.clock = len(mixing), run, clock
        if run.data.num_clients != n:
            raise ValueError(f"the graph has {n} nodes and the data {run.data.num_clients} clients: one for each")
        _check_everyone(run)
        own = run.rounds[0].get("accuracy", np.nan)
        run.rounds[0] |= {"own_accuracy": own, "disagreement": 0.0} | ({"seconds": 0.0, "joules": 0.0} if clock else {})
        self.rows = run.w.repeat(n, 1)  # [N, d]
        self.mix, self.near = torch.from_numpy(mixing).to(self.rows), mixing > 0
        self.ready = np.zeros(n)  # seconds at which each begins
        neighbours = self.near.sum(1) - 1
        self.bytes = neighbours[:, None] * wire.dense(tuple(run.experiment.task.shapes.items()), self.rows.dtype)  # [N, 3]

    def step(self, begun: Begun, updates: Updates) -> None:
        """Average with the neighbours, and record the round."""
        run, t = self.run, begun.cohort.round
        begun = begun._replace(down=self.bytes)
        if not is_paid(begun, self.bytes):
            return
        row, each = record(begun, updates, self.bytes)
        rows = self._mixed(begun.cohort, updates)
        w = rows.mean(0)
        check_model(w, run, t)
        row |= _scores(run, w, t) | self._judge(rows, w, t)
        ready = self.ready
        if self.clock:
            each |= self.clock(each["client"], each)
            sent = ready + each["computing"] + each["sending"]
            ready = np.where(self.near, sent, 0).max(1) + each["fetching"]
            row |= {"seconds": float(ready.max() - self.ready.max()), "joules": float(each["joules"].sum())}
        self.rows, self.ready = rows, ready
        commit(run, (w, run.state), (row, each))

    def _mixed(self, cohort: Cohort, updates: Updates) -> Tensor:
        """What each client has after it heard of its neighbours, ``[N, d]``."""
        experiment, rows, delta = self.run.experiment, self.rows, updates.delta
        if experiment.aggregate is weighted_mean:
            moves = self.mix @ (rows + delta) - rows
        else:
            near = torch.from_numpy(self.near).to(rows.device)
            moves = [
                fold(self.run, rows[heard] - row + delta[heard], share[heard], cohort.some(heard.numpy(force=True)))
                for heard, share, row in zip(near, self.mix, rows, strict=True)
            ]
            moves = torch.stack(moves)
        return experiment.algorithm.step(rows, self.run.state, cohort, updates, moves)[0]

    def _judge(self, rows: Tensor, w: Tensor, t: int) -> dict[str, float]:
        """How far the models ``rows [N, d]`` are apart, and how good they are by themselves."""
        task, own = self.run.experiment.task, np.nan
        if due(self.run.experiment, t) and "accuracy" in task.metrics:
            ten = np.unique(np.linspace(0, len(rows) - 1, 10).round().astype(int))
            own = float(np.mean([each["accuracy"] for each in evaluate_each(task, rows[ten], self.run.data)]))
        away = (rows - w).square().sum(1).mean().sqrt() / w.norm()
        return {"own_accuracy": own, "disagreement": away.item()}


def _check_gossip(experiment: Experiment) -> None:
    """Raise ValueError for settings that mean nothing where there is no server."""
    for way in ("upload", "download"):
        if not getattr(experiment, way).is_whole:
            raise ValueError(f"{way} is compressed, and neighbours average whole models in gossip. Try {way}=whole()")
    _check_whole_models(experiment)
    algorithm = experiment.algorithm
    if algorithm.step.__qualname__ != _FEDAVG:
        told = algorithm.step.__qualname__.split(".")[0]
        why = "its step is a server's, and gossip has none"
        raise ValueError(f"algorithm={told} must be one whose step is that of fedavg ({why}). Try fedavg() or fedprox(0.1)")


_FEDAVG = fedavg().step.__qualname__


def _check_everyone(run: Run) -> None:
    """Raise ValueError if the sampler leaves somebody out who holds an example."""
    data = run.data
    for t in range(1, run.experiment.rounds + 1):
        cohort = draw_cohort(run.experiment, data, run.seed, t).ids
        if len(absent := np.setdiff1d(np.flatnonzero(data.sizes), cohort)):
            told = f"sample takes {len(cohort)} of {data.num_clients} clients in round {t}, without client {absent[0]}"
            raise ValueError(f"{told}, and must take everyone in gossip. Try sample=uniform({data.num_clients})")


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
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f"dtype={dtype!r} must be a floating type of PyTorch (activations are no integers). Try torch.float16"
        )
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
    if isinstance(cut, bool) or not (isinstance(cut, int | np.integer) and 1 <= cut < len(model)):
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
