"""Every loop reads the same settings as ``run``, or refuses them with a reason.

The loops are compared in a case where they coincide.
"""

from dataclasses import fields, replace
from functools import cache

import networkx as nx
import numpy as np
import pytest
import torch

from fedlab.client import batched
from fedlab.client.schedules import step_decay
from fedlab.core import Experiment, FederatedDataset, Local, Phase, Terms
from fedlab.engine import Diverged, run
from fedlab.engine.run import Interrupted
from fedlab.models import mlp
from fedlab.server import (
    by_availability,
    by_size,
    fedadam,
    fedavg,
    fedprox,
    heterofl,
    majority_vote,
    mean,
    mimelite,
    poisson,
    qfedavg,
    scaffold,
    uniform,
    weighted_mean,
)
from fedlab.study import local_only
from fedlab.system import (
    Fleet,
    fedbuff,
    gossip,
    hierarchical,
    simulate,
    split_learning,
    synchronous,
)
from fedlab.upload import error_feedback, quantize, top_k

N = 6
AT_ONCE = Fleet(
    **{name: np.full(N, np.inf) for name in ("flops", "up", "down", "memory", "battery", "leaves")},
    **{
        name: np.zeros(N)
        for name in ("watts", "latency", "jitter", "loss", "dropout", "online_from", "joins")
    },
    **{name: np.full(N, "") for name in ("device", "link")},
    online_for=np.full(N, 86400.0),
)


def made(rounds=3) -> Experiment:
    """Six clients with equally many examples all take part, so that all loops coincide."""
    draw = np.random.default_rng(0)
    x, y = (
        torch.from_numpy(draw.normal(size=(252, 12)).astype(np.float32)),
        torch.from_numpy(draw.integers(0, 3, 252)),
    )
    parts = [np.arange(i, 192, N) for i in range(N)]
    even = FederatedDataset(x[:192], y[:192], parts, (x[192:], y[192:]), "noise", ("a", "b", "c"))
    return Experiment(
        even, mlp(even, hidden=(8,)), Local(0.1, 8), fedavg(), weighted_mean, uniform(N), rounds
    )


STUDY = made()
LOOPS = {
    "by the clock": lambda study, **more: simulate(study, AT_ONCE, synchronous(N), **more),
    "a buffer of everyone": lambda study, **more: simulate(study, AT_ONCE, fedbuff(N, N), **more),
    "one edge": lambda study, **more: hierarchical(study, [0] * N, **more),
    "two edges": lambda study, **more: hierarchical(of_edges(study), [0, 0, 0, 1, 1, 1], **more),
    "gossip": lambda study, **more: gossip(study, nx.complete_graph(N), **more),
}


def of_edges(study):
    """Return the study with all clients of an edge in each cohort."""
    return replace(study, sample=poisson(1.0)) if study.sample is STUDY.sample else study


EDGES = {"one edge", "two edges"}
SLOTS, GOSSIP = {"a buffer of everyone"}, {"gossip"}
CLOCK = {"by the clock"} | SLOTS
EVERYWHERE = set(LOOPS)


EACH = [
    Local(0.1 / (1 + i), 4 + i, epochs=1 + i, momentum=0.1 * i, weight_decay=0.01 * i)
    for i in range(N)
]
STEPS = [Local(0.1, None if i % 2 else 5, steps=1 + i) for i in range(N)]
PULL = fedavg()._replace(
    local_objective=lambda state, cohort: Terms(
        h=torch.full((len(cohort.ids), STUDY_D), 0.01), mu=0.3, lr=0.5
    )
)
STUDY_D = sum(shape.numel() for shape in STUDY.task.shapes.values())
FIRST, *LAST = STUDY.task.shapes
MASK = torch.ones(STUDY_D)
MASK[:20] = 0


def halved(delta, weights, cohort):
    """Return the weighted mean, halved in even rounds."""
    return weighted_mean(delta, weights) / (2 - cohort.round % 2)


def with_terms(**terms):
    return fedavg()._replace(
        local_objective=lambda state, cohort: Terms(**terms), partial_updates=True
    )


CENTRED = fedavg()._replace(
    local_objective=lambda state, cohort: Terms(centre=torch.ones(STUDY_D), mu=0.5)
)
PHASED = fedavg()._replace(
    local_objective=lambda state, cohort: Terms(phases=(Phase([FIRST], 1), Phase(LAST, 2)))
)
HALFWAY = fedavg()._replace(
    local_objective=lambda state, cohort: Terms(start=lambda w: 0.5 * w.repeat(len(cohort.ids), 1))
)


# Each setting, and the loops that refuse it with the beginning of the reason. The others agree
# with ``run``.
SETTINGS = {
    "local: a list": ({"local": EACH}, {}),
    "local: a list of steps": ({"local": STEPS}, {}),
    "local: a rate by round": ({"local": Local(0.2, 8, schedule=step_decay(2, factor=0.1))}, {}),
    "local: rates by round": (
        {"local": [replace(local, schedule=lambda t: 1 / t) for local in STEPS]},
        {},
    ),
    "local: AdamW": ({"local": Local(0.01, 8, optimizer="adamw", weight_decay=0.1)}, {}),
    "algorithm: server_lr": ({"algorithm": fedavg(0.5)}, {}),
    "algorithm: mu": ({"algorithm": fedprox(1.0)}, {}),
    "algorithm: h, mu and lr": ({"algorithm": PULL}, {}),
    "algorithm: centre": ({"algorithm": CENTRED}, {}),
    "algorithm: phases": ({"algorithm": PHASED}, {}),
    "algorithm: with a state": (
        {"algorithm": fedadam()},
        {"two edges": None} | dict.fromkeys(GOSSIP, "algorithm=_adaptive"),
    ),
    "algorithm: control variates": (
        {"algorithm": scaffold()},
        {"two edges": None} | dict.fromkeys(GOSSIP, "algorithm=scaffold must be"),
    ),
    "algorithm: probe": (
        {"algorithm": qfedavg()},
        {"two edges": None}
        | dict.fromkeys(GOSSIP, "algorithm=qfedavg must be one whose step is that of fedavg"),
    ),
    "algorithm: two rows": (
        {"algorithm": mimelite()},
        {"two edges": None} | dict.fromkeys(GOSSIP, "algorithm=mimelite must be"),
    ),
    "algorithm: widths": (
        {"algorithm": heterofl(STUDY.task, [0.5, 1.0] * 3)},
        dict.fromkeys(EDGES, "algorithm has masks or private parts (")
        | dict.fromkeys(SLOTS, "the algorithm has masks, which change by rounds")
        | dict.fromkeys(GOSSIP, "algorithm has masks or private parts ("),
    ),
    **{
        f"algorithm: {name}": (
            {"algorithm": with_terms(**terms)},
            dict.fromkeys(EDGES, "algorithm has masks or private parts (")
            | dict.fromkeys(SLOTS, "the algorithm has masks, which change by rounds")
            | dict.fromkeys(GOSSIP, "algorithm has masks or private parts ("),
        )
        for name, terms in {
            "mask": {"mask": MASK},
            "fixed": {"fixed": [FIRST]},
            "private": {"private": [FIRST]},
        }.items()
    },
    "algorithm: start": (
        {"algorithm": HALFWAY},
        dict.fromkeys(GOSSIP, "the algorithm says where clients start"),
    ),
    "aggregate: alike": ({"aggregate": mean}, {}),
    "aggregate: with the cohort": ({"aggregate": halved}, {}),
    "aggregate: a vote": (
        {"aggregate": majority_vote, "algorithm": fedavg(0.01)},
        {"two edges": None},
    ),
    "sample: by size": (
        {"sample": by_size(2), "aggregate": mean},
        {"two edges": None}
        | dict.fromkeys(CLOCK, "sample=by_size must be uniform (")
        | dict.fromkeys(GOSSIP, "sample takes 2 of 6 clients in round 1, without client "),
    ),
    "sample: everyone": (
        {"sample": poisson(1.0)},
        dict.fromkeys(CLOCK, "sample=poisson must be uniform ("),
    ),
    "sample: who is there": (
        {"sample": by_availability(6, np.array([1.0, 0, 1, 1, 1, 1]))},
        {"two edges": "edge 0 with 3 clients: present must have 3 probabilities"}
        | dict.fromkeys(CLOCK, "sample=by_availability must be uniform (")
        | dict.fromkeys(
            GOSSIP,
            "sample takes 5 of 6 clients in round 1, without client 1, and must take everyone",
        ),
    ),
    "eval_every": ({"eval_every": 2}, {}),
    "rounds": ({"rounds": 5}, {}),
    "upload": (
        {"upload": error_feedback(top_k(0.1))},
        {"two edges": None}
        | dict.fromkeys(GOSSIP, "upload is compressed, and neighbours average whole models"),
    ),
    "download": (
        {"download": quantize(4)},
        {"two edges": None}
        | dict.fromkeys(
            SLOTS, "download must be identity() with this policy (only rounds have a last broadcast"
        )
        | dict.fromkeys(GOSSIP, "download is compressed, and neighbours average whole models"),
    ),
    "data: a function": (
        {"data": lambda seed: replace(STUDY.data, parts=STUDY.data.parts[::-1])},
        {},
    ),
    "task": ({"task": mlp(STUDY.data, hidden=(4, 4))}, {}),
    "task: measures": (
        {"task": replace(STUDY.task, measures={"mean": lambda output, y: float(output.mean())})},
        {},
    ),
}
BUDGETS = ("9 kB per client", "5 kB up per client", "30 kB in all")


# Without delay, a buffer of all clients is a round of all clients, so it is not tested again
# unless it reads other settings.
SHORTER = [
    (name, loop)
    for name, (_, elsewhere) in SETTINGS.items()
    for loop in LOOPS
    if loop not in SLOTS
    or loop in elsewhere
    or name in ("local: a list", "algorithm: control variates")
]


@pytest.mark.parametrize(("name", "loop"), SHORTER)
def test_a_setting_is_that_of_run_or_refused(name, loop):
    setting, elsewhere = SETTINGS[name]
    varied = replace(STUDY, **setting)
    if refused := elsewhere.get(loop):
        with pytest.raises(ValueError, match=r".") as error:
            LOOPS[loop](varied)
        assert str(error.value).startswith(refused)
        assert "\n" not in str(error.value)
        return
    got, want = LOOPS[loop](varied), as_rounds(name)
    columns = [
        "round",
        "train_loss",
        "clients",
        "examples",
        "steps",
        *({"bytes_down"} if loop == "one edge" else ()),
    ]
    if (
        loop in elsewhere
    ):  # an edge for itself: no longer the same numbers, but the setting matters there, too
        assert not torch.allclose(got.w[0], LOOPS[loop](STUDY).w[0], atol=1e-6)
        return
    assert torch.allclose(got.w[0], want.w[0], atol=2e-6)
    for score in ("loss", *varied.task.metrics, *varied.task.measures):
        assert got.rounds[score].tolist() == pytest.approx(
            want.rounds[score].tolist(), nan_ok=True, abs=1e-5
        )
    for column in columns if loop not in GOSSIP or name != "sample: by size" else ():
        assert got.rounds[column].tolist() == pytest.approx(
            want.rounds[column].tolist(), nan_ok=True, rel=1e-4
        ), column
    for column in ("client", "steps", "examples", "num_examples"):
        assert got.clients[column].tolist() == want.clients[column].tolist(), column


@cache
def as_rounds(name):
    return run(replace(STUDY, **SETTINGS[name][0]))


def test_every_field_of_an_experiment_is_in_the_table():
    named = {name.split(":")[0] for name in SETTINGS} | {"budget"}
    assert named == {field.name for field in fields(Experiment)}


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_ends_edges_as_rounds_and_by_the_clock_it_is_refused(budget):
    limited = replace(STUDY, budget=budget, rounds=20, eval_every=20)
    want = run(limited)
    assert 0 < want.rounds["round"].iloc[-1] < 20
    got = LOOPS["one edge"](limited)
    for column in ("round", "bytes_up", "bytes_down"):
        assert got.rounds[column].tolist() == want.rounds[column].tolist()
    assert got.rounds["loss"].iloc[-1] == pytest.approx(want.rounds["loss"].iloc[-1], abs=1e-5)
    assert torch.allclose(got.w[0], want.w[0], atol=1e-6)
    two = LOOPS["two edges"](limited)
    assert two.rounds[["round", "bytes_up"]].equals(got.rounds[["round", "bytes_up"]])
    seldom = hierarchical(of_edges(limited), [0, 0, 0, 1, 1, 1], period=2).rounds
    assert seldom["round"].iloc[-1] == want.rounds["round"].iloc[-1] // 2
    assert seldom["loss"].notna().iloc[-1]
    for loop in CLOCK:
        with pytest.raises(
            ValueError,
            match=r"^budget='.*' must be None \(a simulation ends by its rounds or hours\)\. "
            r"Try hours=24$",
        ):
            LOOPS[loop](limited)


@pytest.mark.parametrize(
    "graph", [nx.complete_graph(N), nx.cycle_graph(N)], ids=["complete", "ring"]
)
def test_a_budget_ends_gossip_before_a_client_sends_more(graph):
    each = gossip(STUDY, graph).clients
    size, num_rounds = int(each["bytes_up"].iloc[0]), 3
    limited = replace(
        STUDY, rounds=20, eval_every=20, budget=f"{num_rounds * size + 10} B up per client"
    )
    got = gossip(limited, graph)
    assert got.rounds["round"].tolist() == [0, 1, 2, 3]
    assert got.rounds["loss"].notna().tolist() == [True, False, False, True]
    assert torch.equal(got.w[0], gossip(replace(STUDY, rounds=3), graph).w[0])


@pytest.mark.parametrize("loop", LOOPS)
def test_divergence_names_the_client_and_keeps_the_history(loop):
    wild = [Local(1e30 if i == 4 else 0.1, 8, steps=5) for i in range(N)]
    for diverging in (replace(STUDY, local=wild), replace(STUDY, local=Local(1e9, 8), rounds=30)):
        with pytest.raises(Diverged, match=r"not finite .*kept in \.result$") as error:
            LOOPS[loop](diverging, seeds=2)
        if diverging.rounds == 3:
            assert "client 4" in str(error.value)
            assert "lr=1e+30" in str(error.value)
        assert set(error.value.result.rounds["seed"]) == {0, 1}
        assert len(error.value.result.w) == 2


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_keeps_the_rounds_so_far(loop):
    calls = []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batched(*args)

    with pytest.raises(
        Interrupted, match=r"^stopped after (round|step) 2; \.result of this error holds the "
    ) as error:
        LOOPS[loop](replace(STUDY, rounds=6), backend=stopped)
    got = error.value.result
    assert got.rounds["round"].tolist() == [0, 1, 2]
    assert torch.equal(got.w[0], LOOPS[loop](replace(STUDY, rounds=2)).w[0])
    assert set(got.clients["round"]) == {1, 2}


@pytest.mark.parametrize("loop", [*LOOPS.values(), local_only], ids=[*LOOPS, "local_only"])
def test_ctrl_c_before_the_first_round_leaves_an_empty_result(loop):
    def stopped(seed):
        raise KeyboardInterrupt

    message = r"^stopped before the first (round|step); \.result of this error is empty$"
    with pytest.raises(Interrupted, match=message) as error:
        loop(replace(STUDY, data=stopped))
    assert (
        len(error.value.result.rounds)
        == len(error.value.result.clients)
        == len(error.value.result.w)
        == 0
    )


@pytest.mark.parametrize("loop", LOOPS)
def test_seeds_are_numbers_or_a_list(loop):
    single_round = replace(STUDY, rounds=1)
    assert LOOPS[loop](single_round, seeds=np.int64(2)).rounds["seed"].unique().tolist() == [0, 1]
    assert LOOPS[loop](single_round, seeds=np.array([5, 3])).rounds["seed"].unique().tolist() == [
        5,
        3,
    ]
    for wrong in (0, [], [0.5, 0.7], [0, 0], True, "3"):
        with pytest.raises(ValueError, match=r"^seeds"):
            LOOPS[loop](single_round, seeds=wrong)


def test_split_learning_reads_what_any_engine_reads():
    varied = replace(
        STUDY,
        local=EACH,
        algorithm=PULL,
        upload=top_k(0.5),
        download=quantize(8),
        budget="20 kB per client",
    )
    want, got = run(varied), run(varied, split_learning(2))
    assert torch.allclose(got.w[0], want.w[0], atol=1e-6)
    assert got.rounds["bytes_up"].tolist() == want.rounds["bytes_up"].tolist()
