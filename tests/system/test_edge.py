"""Edge servers, gossip and split learning, against cases whose result is known."""

import itertools
import re
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from fedlab.client import batched, sequential
from fedlab.core import Local
from fedlab.engine import initial, run
from fedlab.models import classification, cnn
from fedlab.server import fedavg, scaffold, uniform
from fedlab.system import (
    CutTraffic,
    draw_fleet,
    gossip,
    hierarchical,
    mixing_matrix,
    spectral_gap,
    split_learning,
    training_flops,
)
from fedlab.system.devices import RADIO_WATTS, links
from fedlab.upload import count_sketch, error_feedback, quantize, top_k, wire

N = 30
PIECES = (
    "the graph has 2 parts and must be connected; one part is [25, 26, 27, 28, 29]. "
    "Try to add an edge, such as (25, 0)"
)


class Around(nn.Module):
    """A model whose layers are no sequence."""

    def __init__(self):
        super().__init__()
        self.within = nn.Linear(64, 10)

    def forward(self, x):
        return self.within(x)


@pytest.mark.parametrize("algorithm", [fedavg(), scaffold()], ids=["FedAvg", "SCAFFOLD"])
def test_one_edge_is_none(study, algorithm):
    varied = replace(study, algorithm=algorithm)
    want, got = run(varied, seeds=2), hierarchical(varied, np.zeros(N, int), seeds=2)
    for row, expected in zip(got.w, want.w, strict=True):
        assert torch.allclose(row, expected, atol=1e-6)
    for name in (
        "accuracy",
        "train_loss",
        "bytes_up",
        "bytes_down",
        "examples",
        "steps",
        "clients",
    ):
        assert got.rounds[name].tolist() == pytest.approx(
            want.rounds[name].tolist(), nan_ok=True
        ), name


def test_edges_that_meet_every_round_are_a_mean_of_means(study):
    edges = np.arange(N) % 3
    single_round = replace(study, sample=uniform(10), rounds=1)
    got = hierarchical(single_round, edges)
    data = study.data(0)
    w, total = initial(study.task, 0), 0
    for e in range(3):
        ids = np.flatnonzero(edges == e)
        of_edge = replace(data, parts=[data.parts[i] for i in ids])
        alone = run(replace(single_round, data=of_edge))
        total = total + of_edge.sizes.sum() / data.sizes.sum() * (alone.w[0] - w)
    assert torch.allclose(got.w[0], w + total, atol=1e-6)


def test_a_longer_period_sends_less_to_the_cloud_and_the_tables_add_up(study):
    edges = np.arange(N) // 10
    often = hierarchical(replace(study, rounds=6), edges)
    seldom = hierarchical(replace(study, rounds=2), edges, period=3)
    assert often.rounds["examples"].sum() == seldom.rounds["examples"].sum()
    assert often.rounds["edge_bytes_up"].sum() == 3 * seldom.rounds["edge_bytes_up"].sum()
    for got in (often, seldom):
        for name in ("bytes_up", "bytes_down", "examples", "steps"):
            assert got.rounds[name].sum() == got.clients[name].sum()
        assert (edges[got.clients["client"]] == got.clients["edge"]).all()
    assert not torch.allclose(often.w[0], seldom.w[0], atol=1e-6)


@pytest.mark.slow
def test_every_hop_has_its_own_compression(study):
    edges = np.arange(N) // 10
    dense = hierarchical(study, edges)
    both = hierarchical(
        replace(study, upload=error_feedback(top_k(0.05))), edges, uplink=quantize(8)
    )
    assert both.rounds["bytes_up"].sum() < dense.rounds["bytes_up"].sum() / 8
    assert both.rounds["edge_bytes_up"].sum() < dense.rounds["edge_bytes_up"].sum() / 3
    assert both.rounds["edge_bytes_down"].tolist() == dense.rounds["edge_bytes_down"].tolist()


def test_edges_draw_their_cohorts_by_themselves(study):
    got = hierarchical(replace(study, sample=uniform(2), rounds=20), np.arange(N) // 10).clients
    places = [
        set(zip(each["round"], each["client"] % 10, strict=True)) for _, each in got.groupby("edge")
    ]
    assert (
        max(len(first & second) for first, second in itertools.combinations(places, 2)) < 20
    )  # of 40, by chance 8
    assert set(got["client"]) > set(range(5, 25))


def test_an_edge_of_whom_nobody_trains_in_a_round_changes_nothing_then(study):
    data = study.data(0)
    partly_empty = replace(
        data, parts=[part if i <= 20 else part[:0] for i, part in enumerate(data.parts)]
    )  # one of the last ten
    got = hierarchical(
        replace(study, data=partly_empty, sample=uniform(2), rounds=4), np.arange(N) // 10
    )
    last = got.clients[got.clients["edge"] == 2].groupby("round")["steps"].sum()
    assert 0 in set(last)
    assert np.isfinite(got.rounds["train_loss"][1:]).all()
    assert torch.isfinite(got.w[0]).all()
    nothing = replace(
        data, parts=[part if i < 20 else part[:0] for i, part in enumerate(data.parts)]
    )
    with pytest.raises(
        ValueError,
        match=re.escape(
            "edge 2 must have a client with examples, and its 10 clients have none. Try to join it"
        ),
    ):
        hierarchical(replace(study, data=nothing), np.arange(N) // 10)


def test_the_clock_of_a_hierarchy_by_hand(study):
    """Two edges have two clients each, whose epochs take 1, 3, 2 and 5 s.

    After two rounds at the edges, 0.25 s pass in each direction.
    """
    whole = study.data(0)
    data = replace(whole, parts=[np.arange(10 * i, 10 * i + 10) for i in range(4)])
    short = replace(study, data=data, sample=uniform(2), local=Local(0.1, batch_size=5), rounds=2)
    each = 10 * training_flops(short.task, data.x, data.y)
    size = int(wire.dense_sizes(tuple(short.task.shapes.items()), torch.float32).sum())
    fleet = draw_fleet(4)._replace(
        latency=np.full(4, 0.5), jitter=np.ones(4), loss=np.zeros(4), watts=np.full(4, 3.0)
    )
    fleet = fleet._replace(
        down=np.full(4, size / 0.5), up=np.full(4, size / 1.0), flops=each / np.array([1, 3, 2, 5])
    )
    hop = links()["edge to cloud"]._replace(
        down=size * 8e-6 / 0.15, up=size * 8e-6 / 0.15, latency=100, loss=0.0
    )
    got = hierarchical(short, [0, 0, 1, 1], period=2, fleet=fleet, hop=hop)
    ways = 0.5 + 0.5 + 0.5 + 1.0
    assert got.rounds["seconds"].tolist() == pytest.approx(
        [0] + 2 * [2 * (ways + 5) + 2 * 0.25], abs=1e-9
    )
    joules = 2 * (
        4 * ways * RADIO_WATTS + (1 + 3 + 2 + 5) * 3.0
    )  # RADIO_WATTS watts while it sends or fetches, 3 W while it computes
    assert got.rounds["joules"].tolist() == pytest.approx([0] + 2 * [joules], abs=1e-9)
    assert got.clients["joules"].sum() == pytest.approx(got.rounds["joules"].sum())
    at_the_cloud = hierarchical(short, [0, 0, 1, 1], period=2, fleet=lambda seed: fleet)
    assert at_the_cloud.rounds["seconds"].tolist() == pytest.approx(
        [0] + 2 * [2 * (ways + 5)], abs=1e-9
    )
    assert "seconds" not in hierarchical(short, [0, 0, 1, 1]).rounds
    with pytest.raises(
        ValueError,
        match="the fleet has 3 devices and must have one per client of the data, 4",
    ):
        hierarchical(short, [0, 0, 1, 1], fleet=draw_fleet(3))


def test_the_clock_of_a_gossip_by_hand(study):
    """On a line of clients that take 1, 1 and 4 s, the first is delayed one round later."""
    whole = study.data(0)
    data = replace(whole, parts=[np.arange(10 * i, 10 * i + 10) for i in range(3)])
    short = replace(study, data=data, local=Local(0.1, batch_size=5), sample=uniform(3), rounds=2)
    each = 10 * training_flops(short.task, data.x, data.y)
    fleet = draw_fleet(3)._replace(latency=np.full(3, 0.25), jitter=np.ones(3), loss=np.zeros(3))
    fleet = fleet._replace(
        down=np.full(3, np.inf), up=np.full(3, np.inf), flops=each / np.array([1, 1, 4])
    )
    got = gossip(short, nx.path_graph(3), fleet=fleet)
    # after a round 1.5, 4.5 and 4.5 s; after two 4.5 + 1 + 0.5 = 6, then 4.5 + 4 + 0.5 = 9 and 9
    assert got.rounds["seconds"].tolist() == pytest.approx([0, 4.5, 4.5], abs=1e-9)
    assert got.clients["computing"].tolist() == pytest.approx([1, 1, 4] * 2, abs=1e-9)
    apart = gossip(short, nx.path_graph(3), fleet=fleet._replace(flops=each / np.array([4, 1, 1])))
    assert apart.rounds["joules"].sum() == pytest.approx(apart.clients["joules"].sum())


def test_gossip_on_a_complete_graph_is_the_mean(study):
    data = study.data(0)
    even = [
        np.sort(part)[:40] for part in np.array_split(np.arange(len(data.y)), N)
    ]  # equal weights in FedAvg
    alike = replace(study, data=replace(data, parts=even), sample=uniform(N), rounds=4)
    want, got = run(alike), gossip(alike, nx.complete_graph(N))
    assert torch.allclose(got.w[0], want.w[0], atol=1e-5)
    assert got.rounds["disagreement"].max() < 1e-5
    assert got.rounds["own_accuracy"].tolist() == pytest.approx(
        got.rounds["accuracy"].tolist(), abs=1e-6
    )
    size = int(wire.dense_sizes(tuple(study.task.shapes.items()), torch.float32).sum())
    assert got.rounds["bytes_up"].tolist() == [0, *[size * N * (N - 1)] * 4]


@pytest.mark.parametrize(
    "graph",
    [nx.cycle_graph(8), nx.star_graph(7), nx.path_graph(5), nx.random_regular_graph(3, 10, seed=0)],
    ids=str,
)
def test_mixing_keeps_the_mean_and_disagreement_falls_by_the_gap(graph):
    mixing = mixing_matrix(graph)
    assert np.allclose(mixing, mixing.T)
    assert np.allclose(mixing.sum(0), 1)
    assert (mixing >= -1e-12).all()
    rows = np.random.default_rng(0).normal(size=(len(mixing), 4))
    away = rows - rows.mean(0)
    after = mixing @ rows
    assert np.allclose(after.mean(0), rows.mean(0))
    assert (
        np.linalg.norm(after - rows.mean(0))
        <= (1 - spectral_gap(mixing)) * np.linalg.norm(away) + 1e-12
    )


def test_a_loop_at_a_node_is_no_neighbour():
    ring = nx.cycle_graph(5)
    looped = nx.Graph([*ring.edges, (2, 2)])
    np.testing.assert_array_equal(mixing_matrix(looped), mixing_matrix(ring))
    np.testing.assert_array_equal(
        mixing_matrix(nx.from_numpy_array(nx.to_numpy_array(ring))), mixing_matrix(ring)
    )


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            nx.DiGraph([(0, 1), (1, 0)]),
            "graph is a DiGraph and must be a networkx.Graph (neighbours exchange models once ",
        ),
        (
            nx.MultiGraph([(0, 1), (0, 1)]),
            "graph is a MultiGraph and must be a networkx.Graph (neighbours exchange models once",
        ),
        (
            np.ones((2, 2)),
            "graph is a ndarray and must be a networkx.Graph. Try nx.cycle_graph(10), or "
            "nx.from_numpy_arr",
        ),
        (
            nx.Graph([(0.0, 1.0)]),
            "the graph has the node 0.0, and nodes must be whole numbers from 0 to N - 1. Try "
            "nx.con",
        ),
        (
            nx.Graph([(0, 1, {"weight": 2.5})]),
            "edge (0, 1) has weight=2.5 and must have none (the mixing depends on the numb",
        ),
    ],
    ids=["directed", "multiple", "an array", "float nodes", "weights"],
)
def test_a_graph_that_says_more_than_neighbours_is_refused(graph, message):
    with pytest.raises(ValueError, match=r".") as error:
        mixing_matrix(graph)
    assert str(error.value).startswith(message)


def test_the_gap_of_a_ring_and_of_a_complete_graph():
    assert spectral_gap(mixing_matrix(nx.complete_graph(9))) == pytest.approx(1)
    ring = (1 + 2 * np.cos(2 * np.pi / 12)) / 3  # weights of a third each
    assert spectral_gap(mixing_matrix(nx.cycle_graph(12))) == pytest.approx(1 - ring)


@pytest.mark.slow
def test_gossip_on_a_ring_agrees_less_and_sends_less(study):
    longer = replace(study, rounds=12, local=Local(0.05, batch_size=8), sample=uniform(N))
    ring, full = gossip(longer, nx.cycle_graph(N)), gossip(longer, nx.complete_graph(N))
    assert ring.rounds["disagreement"].iloc[-1] > 100 * full.rounds["disagreement"].iloc[-1]
    assert ring.rounds["own_accuracy"].iloc[-1] < ring.rounds["accuracy"].iloc[-1]
    assert ring.rounds["bytes_up"].sum() * (N - 1) == 2 * full.rounds["bytes_up"].sum()
    assert gossip(longer, nx.cycle_graph(N)).w[0].equal(ring.w[0])


@pytest.mark.slow
def test_both_engines_gossip_alike(study):
    short = replace(study, rounds=2, sample=uniform(N))
    fast, slow = (
        gossip(short, nx.cycle_graph(N), backend=engine) for engine in (batched, sequential)
    )
    assert torch.allclose(fast.w[0], slow.w[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_split_training_is_whole_training(study, cut):
    crossing = CutTraffic()
    want, got = run(study), run(study, split_learning(cut, crossing))
    assert torch.allclose(got.w[0], want.w[0], atol=1e-5)
    assert got.rounds["accuracy"].tolist() == want.rounds["accuracy"].tolist()
    examples, width = (
        want.rounds["examples"].sum(),
        {1: 64, 2: 32, 3: 32}[cut],
    )  # flat pictures, or hidden units
    assert crossing.up == examples * (4 * width + 8)
    assert crossing.down == examples * 4 * width
    assert crossing.steps == want.rounds["steps"].sum()


@pytest.mark.slow
def test_split_training_of_a_network_with_convolutions(short):
    convolutional = replace(short, task=cnn(short.data(0)), rounds=1)
    whole = run(convolutional, sequential).w[0]
    for cut in (3, 8):
        assert torch.allclose(run(convolutional, split_learning(cut)).w[0], whole, atol=1e-5)


def test_layers_that_stand_in_the_model_twice_are_not_split(short):
    def twice():
        layer = nn.Linear(64, 64)
        return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(64, 10))

    with pytest.raises(
        ValueError, match="two layers of the model are the same, or share a parameter"
    ):
        run(replace(short, task=classification(twice)), split_learning(2))


@pytest.mark.slow
def test_halves_of_16_bits_cost_half(study):
    exact, rough = CutTraffic(), CutTraffic()
    want = run(study, split_learning(2, exact))
    got = run(study, split_learning(2, rough, dtype=torch.bfloat16))
    assert rough.down * 2 == exact.down
    assert not torch.equal(got.w[0], want.w[0])
    assert got.rounds["accuracy"].iloc[-1] == pytest.approx(
        want.rounds["accuracy"].iloc[-1], abs=0.05
    )


def test_what_cannot_be_is_refused(study):
    apart = nx.disjoint_union(nx.cycle_graph(25), nx.path_graph(5))
    around = replace(study, task=replace(study.task, model=Around))
    named = nx.relabel_nodes(nx.cycle_graph(3), {0: "a"})
    cut = {k: f"cut={k} must be from 1 to 3 (the model has 4 layers). Try cut=1" for k in (0, 4)}
    one_edge, everyone = np.zeros(N, int), replace(study, sample=uniform(N))
    leaving, asleep = draw_fleet(N, dropout=0.1), draw_fleet(N, hours=8)
    cases = [
        (
            lambda: gossip(study, apart),
            PIECES,
        ),
        (
            lambda: gossip(study, nx.cycle_graph(4)),
            "the graph has 4 nodes and must have one per client of the data, 30. Try "
            "nx.cycle_graph(30)",
        ),
        (lambda: gossip(study, named), "the graph has the nodes ["),
        (
            lambda: gossip(replace(study, upload=quantize(8)), nx.cycle_graph(N)),
            "upload is compressed, and neighbours average ",
        ),
        (
            lambda: hierarchical(study, [0, 1]),
            "edge_of has the shape [2] and must have [30], the number of an edge per client. Try ",
        ),
        (
            lambda: hierarchical(study, np.arange(N) * 2),
            "edge 1 has no clients, and edges must be numbered from 0, each with a client at "
            "least. Try",
        ),
        (
            lambda: hierarchical(study, np.arange(N) - 1),
            "edge_of has -1, and edges must be numbered from 0, each with a client at least. Try ",
        ),
        (
            lambda: hierarchical(study, np.zeros(N, int), period=0),
            "period=0 must be a whole number of at least 1",
        ),
        (
            lambda: hierarchical(study, np.zeros(N)),
            "edge_of is of type float64 and must be whole numbers. Try edge_of=",
        ),
        (
            lambda: hierarchical(study, one_edge, uplink=top_k),
            "uplink=top_k must be the result of a call. Try uplink=",
        ),
        (lambda: hierarchical(study, one_edge, uplink=count_sketch(50)), "uplink gives "),
        (
            lambda: hierarchical(study, one_edge, hop="3G"),
            "hop='3G' must be a Link, or None for one that takes no time",
        ),
        (
            lambda: hierarchical(study, one_edge, fleet=leaving),
            "fleet has hours, a trace or dropout, and must have none (",
        ),
        (
            lambda: gossip(everyone, nx.cycle_graph(N), fleet=asleep),
            "fleet has hours, a trace or dropout, and must have ",
        ),
        (
            lambda: hierarchical(replace(study, sample=uniform(20)), np.arange(N) // 10),
            "edge 0 with 10 clients: cohort_size",
        ),
        (
            lambda: split_learning(1, dtype=torch.int8),
            "dtype=torch.int8 must be a floating type of PyTorch (",
        ),
        (
            lambda: run(study, split_learning(True)),
            "cut=True must be from 1 to 3 (the model has 4 layers)",
        ),
        (lambda: run(study, split_learning(0)), cut[0]),
        (lambda: run(study, split_learning(4)), cut[4]),
        (
            lambda: run(around, split_learning(1)),
            "Around must be an nn.Sequential (split learning cuts between two layers). Try ",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=r".") as error:
            call()
        assert str(error.value).startswith(message), str(error.value)
