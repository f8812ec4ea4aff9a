"""Laws of every partition, sampler, aggregate, algorithm and transform; list new ones here."""

import copy
import inspect
import itertools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fedlab import data, server, upload
from fedlab.client import batched, sequential
from fedlab.core import (
    ClientTable,
    Cohort,
    Experiment,
    FederatedDataset,
    Local,
    Message,
    Task,
    Updates,
    generator,
    identity,
)
from fedlab.core.rng import seeded
from fedlab.data import dirichlet, load, partition
from fedlab.engine import run
from fedlab.models import classification, lora, mlp
from fedlab.models.compress import prune
from fedlab.server import (
    adapter_averaging,
    aggregate,
    aggregation_error,
    algorithms,
    distillation,
    fedavg,
    majority_vote,
    mean,
    partial_models,
    poisson,
    sampling,
    server_steps,
    uniform,
    weighted_mean,
)
from fedlab.system import draw_fleet, fedbuff, simulate, synchronous
from fedlab.upload import budget, feedback, quantizers, sketch, transforms, wire
from fedlab.upload.chains import send, within_mask

N, D = 12, 14
SIZES = np.array([4, 0, 9, 1, 3, 20, 2, 2, 0, 7, 1, 5])

PARTITIONS = {
    "iid": data.iid(),
    "dirichlet": data.dirichlet(0.2),
    "dirichlet_equal_sizes": data.dirichlet_equal_sizes(0.2),
    "shards": data.shards(2),
    "classes_per_client": data.classes_per_client(2),
    "quantity_lognormal": data.quantity_lognormal(1.0),
    "quantity_dirichlet": data.quantity_dirichlet(0.5),
    "natural": data.natural(np.arange(300) % 37),
}
SAMPLERS = {
    "uniform": server.uniform(3),
    "with_examples": server.with_examples(server.by_size(3)),
    "poisson": server.poisson(0.2),
    "by_size": server.by_size(3),
    "by_availability": server.by_availability(
        3, server.day_and_night(N, rounds_per_day=4, awake=0.6)
    ),
}
AGGREGATES = {"weighted_mean": weighted_mean, "mean": mean, "majority_vote": majority_vote}
MEANS = {"weighted_mean", "mean"}
ROBUST = {"majority_vote"}
PLAIN = {
    "fedavg": server.fedavg(),
    "fedsgd": server.fedsgd(),
    "fedavgm": server.fedavgm(),
    "fedadagrad": server.fedadagrad(),
    "fedadam": server.fedadam(),
    "fedyogi": server.fedyogi(),
    "fedprox": server.fedprox(0.1),
    "scaffold": server.scaffold(),
    "feddyn": server.feddyn(0.1),
    "fednova": server.fednova(),
    "mimelite": server.mimelite(),
    "fedexp": server.fedexp(),
    "qfedavg": server.qfedavg(),
}
RATES = (1.0, 0.6, 0.3)  # of the clients, in turn
OF_A_MODEL = {  # what has to know the layers
    "feddf": lambda task, n: server.feddf(
        task, EXAMPLES if task is SMALL else load("digits", 9).x[:40], steps=2
    ),
    "federated_dropout": lambda task, n: server.federated_dropout(task, 0.6),
    "fjord": lambda task, n: server.fjord(
        task, [RATES[i % 3] for i in range(n)], widths=(0.3, 0.6, 1)
    ),
    "heterofl": lambda task, n: server.heterofl(task, [RATES[i % 3] for i in range(n)]),
    "lottery_ticket": lambda task, n: upload.lottery_ticket(
        server.fedavgm(), task, every=2, times=2
    ),
    "pruned": lambda task, n: upload.pruned(
        server.scaffold(), task, upload.cubic(0.8, start=1, end=3)
    ),
}
OF_ADAPTERS = {  # what has to know the adapted layers
    "fedex": lambda task, n: server.fedex(task, [1 + i % RANK for i in range(n)]),
    "fedit": lambda task, n: server.fedit(),
    "fedsa": lambda task, n: server.fedsa(task),
    "flexlora": lambda task, n: server.flexlora(task, [1 + i % RANK for i in range(n)]),
    "flora": lambda task, n: server.flora(task),
    "hetlora": lambda task, n: server.hetlora(task, [1 + i % RANK for i in range(n)]),
    "rolora": lambda task, n: server.rolora(task),
    "with_aggregation_error": lambda task, n: server.with_aggregation_error(
        server.flora(task, [1 + i % RANK for i in range(n)]), task
    ),
}
RANK = 2


def with_adapters(shape: tuple[int, ...], base: bool = True) -> Task:
    """Build a frozen layer with an adapter of rank 2, W in the row or not, and a trained layer."""
    inputs, hidden, outputs = shape
    with seeded(0, "frozen"):
        frozen = nn.Sequential(
            nn.Linear(inputs, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, outputs, bias=inputs > 2),
        )

    def model():
        network = copy.deepcopy(frozen).requires_grad_(False)
        lora(RANK, targets=["0"], base=base)(network)
        network[2].requires_grad_(True)
        return network

    return classification(model)


TEN = load("digits", 10)
EXAMPLES = torch.linspace(-1, 1, 9)[:, None]
SMALL = FederatedDataset(
    EXAMPLES,
    torch.arange(9) % 2,
    [np.arange(9)],
    (EXAMPLES, torch.arange(9) % 2),
    classes=("a", "b"),
)
SMALL = mlp(SMALL, hidden=(3,))  # of D parameters
TINY = with_adapters((2, 2, 1))  # of D parameters, too
ALGORITHMS = PLAIN | {name: make(SMALL, N) for name, make in OF_A_MODEL.items()}
ALGORITHMS |= {name: make(TINY, N) for name, make in OF_ADAPTERS.items()}
WEIGHTED = {
    "fednova",
    "fedexp",
    "qfedavg",
    "feddf",
    "federated_dropout",
    "fjord",
    "heterofl",
}  # only by the weighted mean
WEIGHTED |= {"fedex", "flexlora", "flora", "hetlora", "with_aggregation_error"}
BY_EXAMPLES = {*ALGORITHMS} - {
    "scaffold",
    "feddyn",
    "mimelite",
    "qfedavg",
    "pruned",
}  # others count alike, or by the loss
PARTS = {
    "federated_dropout",
    "fjord",
    "heterofl",
    *OF_ADAPTERS,
}  # not all of a row moves in a round
PAIRS = [
    (name, fold)
    for name in ALGORITHMS
    for fold in AGGREGATES
    if fold == "weighted_mean" or name not in WEIGHTED
]
SHAPES = {
    "hidden.weight": (20, 30),
    "hidden.bias": (20,),
    "out.weight": (10, 20),
    "out.bias": (10,),
}
SHAPES = {name: torch.Size(shape) for name, shape in SHAPES.items()}
WIDTH = sum(shape.numel() for shape in SHAPES.values())
TRANSFORMS = {
    "cast": upload.cast(),
    "chain": upload.chain(upload.top_k(0.2), upload.rotate(), upload.qsgd(4), upload.lossless()),
    "count_sketch": upload.count_sketch(100),
    "eden": upload.eden(2),
    "lossless": upload.lossless(),
    "error_feedback": upload.error_feedback(upload.chain(upload.top_k(0.1), upload.qsgd(5))),
    "kmeans": upload.kmeans(3),
    "lazy": upload.lazy(upload.power_sgd(2)),
    "lloyd_max": upload.chain(upload.top_k(0.3), upload.lloyd_max(3)),
    "momentum": upload.chain(upload.momentum(), upload.error_feedback(upload.one_bit())),
    "one_bit": upload.one_bit(),
    "power_sgd": upload.error_feedback(upload.power_sgd(2)),
    "qsgd": upload.qsgd(3, norm="l2"),
    "quantize": upload.quantize(6, bucket=100),
    "random_k": upload.random_k(0.1),
    "rotate": upload.chain(upload.rotate(), upload.quantize(12)),
    "scaled_sign": upload.scaled_sign(),
    "sign": upload.sign(),
    "accumulate": upload.accumulate(2, upload.quantize(8)),
    "terngrad": upload.terngrad(),
    "threshold": upload.chain(upload.threshold(1.5), upload.qsgd(8, bucket=16)),
    "top_k": upload.top_k(0.01),
    "top_k_per_layer": upload.top_k_per_layer(0.1),
    "top_k_within": upload.error_feedback(upload.top_k_within("5 kB up per client", rounds=5)),
    "identity": identity(),
}
NOBODY = {"no cohort": [], "empty clients": [1, 8]}


def giving(module, kind):
    """Return the public functions of a module whose annotation says that they return a ``kind``."""
    functions = inspect.getmembers(module, inspect.isfunction)
    defined = {
        name: f
        for name, f in functions
        if f.__module__ == module.__name__ and not name.startswith("_")
    }
    return {name for name, f in defined.items() if inspect.get_annotations(f).get("return") == kind}


def test_all_are_listed_here_and_exported():
    assert giving(partition, "Split") == set(PARTITIONS) <= set(data.__all__)
    assert giving(sampling, "Sampler") == set(SAMPLERS) <= set(server.__all__)
    assert giving(algorithms, "Algorithm") | giving(server_steps, "Algorithm") == set(PLAIN)
    of_a_model = set.union(
        *(giving(module, "Algorithm") for module in (partial_models, distillation, prune))
    )
    assert of_a_model == set(OF_A_MODEL)
    of_adapters = giving(adapter_averaging, "Algorithm") | giving(aggregation_error, "Algorithm")
    assert of_adapters == set(OF_ADAPTERS)
    assert set(ALGORITHMS) <= {*server.__all__, *upload.__all__}
    functions = inspect.getmembers(aggregate, inspect.isfunction)
    aggregates = {name for name, f in functions if f.__module__ == aggregate.__name__}
    assert aggregates == set(AGGREGATES) <= set(server.__all__)
    exported = set.union(
        *(
            giving(module, "Transform")
            for module in (budget, feedback, quantizers, sketch, transforms)
        )
    )
    assert exported | {"chain", "identity"} == set(TRANSFORMS) <= set(upload.__all__)


# Partitions


@pytest.mark.parametrize("name", PARTITIONS)
def test_partition(name):
    split, y = PARTITIONS[name], np.arange(300) // 30
    before = y.copy()
    parts = split(y, N, generator(0, "split"))
    assert (y == before).all(), "labels are left as they were"
    assert len(parts) == N
    assert (np.sort(np.concatenate(parts)) == np.arange(300)).all(), "disjoint and complete"
    assert all((np.diff(part) > 0).all() for part in parts), "ascending"
    again = split(y, N, generator(0, "split"))
    assert all((a == b).all() for a, b in zip(parts, again, strict=True)), "deterministic"
    second = split(y, N, generator(1, "split"))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(parts, second, strict=True)), (
        "the seed has a say"
    )
    with pytest.raises(ValueError, match=r"clients=301 must be at most 300 "):
        split(y, 301, generator(0))
    with pytest.raises(ValueError, match=r"clients=0"):
        split(y, 0, generator(0))


# Samplers


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler(name):
    sample, sizes = SAMPLERS[name], SIZES.copy()
    draws = {t: sample(sizes, t, generator(0, "cohort", t)) for t in range(1, 60)}
    assert (sizes == SIZES).all(), "sizes are left as they were"
    for t, ids in draws.items():
        assert ids.ndim == 1
        assert ids.dtype.kind == "i"
        assert (np.diff(ids) > 0).all(), "different clients, ascending"
        assert set(ids) <= set(range(N))
        assert (sample(SIZES, t, generator(0, "cohort", t)) == ids).all(), (
            "deterministic, in whatever order it is asked"
        )
    assert len({tuple(ids) for ids in draws.values()}) > 10
    assert len(set(np.concatenate(list(draws.values())))) >= (SIZES > 0).sum(), (
        "whoever holds something is drawn some time"
    )


# Aggregates


def fold_of(name):
    """Return the aggregate as loops call it, with the cohort where it takes one."""
    study, who = (
        Experiment(TEN, mlp(TEN), Local(0.1), fedavg(), AGGREGATES[name], uniform(3)),
        Cohort(np.arange(6), 1, 0, N),
    )
    return lambda delta, weights: study.apply_aggregate(delta, weights, who)


def test_an_aggregate_is_a_mean_or_robust():
    assert set(AGGREGATES) == MEANS | ROBUST
    assert not MEANS & ROBUST


@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregate(name):
    fold, draw = fold_of(name), torch.Generator().manual_seed(0)
    delta, weights = (
        torch.randn(6, D, generator=draw, dtype=torch.double),
        torch.tensor([3.0, 0, 1, 5, 2, 2]).double(),
    )
    before = delta.clone(), weights.clone()
    result = fold(delta, weights)
    assert result.shape == (D,)
    assert result.dtype == delta.dtype
    assert torch.equal(delta, before[0])
    assert torch.equal(weights, before[1])
    assert torch.equal(fold(delta, weights), result), "deterministic, given the round and the seed"
    order = torch.randperm(6, generator=draw)
    torch.testing.assert_close(
        fold(delta[order], weights[order]), result, msg="the order of clients does not matter"
    )
    torch.testing.assert_close(
        fold(delta, 7 * weights), result, msg="only the weights' proportions matter"
    )
    delta[1] = 1e9
    assert torch.equal(fold(delta, weights), result), "a client of weight 0 has no say"
    for nothing in (fold(delta[:0], weights[:0]), fold(delta, 0 * weights)):
        assert torch.equal(nothing, torch.zeros(D, dtype=torch.double))


@pytest.mark.parametrize("name", sorted(MEANS))
def test_a_mean_is_linear(name):
    fold, draw = fold_of(name), torch.Generator().manual_seed(1)
    weights = torch.tensor([3.0, 0, 1, 5, 2, 2]).double()
    first, second = torch.randn(2, 6, D, generator=draw, dtype=torch.double)
    torch.testing.assert_close(
        fold(first + 3 * second, weights), fold(first, weights) + 3 * fold(second, weights)
    )
    torch.testing.assert_close(
        fold(first[:1].expand(6, -1), weights), first[0], msg="clients that agree are followed"
    )


@pytest.mark.parametrize("name", sorted(ROBUST))
def test_a_robust_rule_bounds_what_a_minority_does(name):
    """The result is the same and finite, however large the rows of two clients of six are."""
    fold, draw = fold_of(name), torch.Generator().manual_seed(2)
    delta, weights = torch.randn(6, D, generator=draw, dtype=torch.double), torch.ones(6).double()
    results = []
    for size in (1e2, 1e6, 1e12):
        attacked = delta.clone()
        attacked[:2] = size * torch.randn(
            2, D, generator=torch.Generator().manual_seed(3), dtype=torch.double
        )
        results.append(fold(attacked, weights))
        assert (results[-1].abs() <= delta[2:].abs().max().clamp(min=1)).all()
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[1], results[2])


# Algorithms


def cohort(ids, t=1):
    return Cohort(np.array(ids, dtype=int), t, 0, N)


def trained(ids, t=1):
    """Draw updates of clients ``ids`` of the sizes above: no steps of clients without examples."""
    draw = generator(0, "updates", t)
    everyone = torch.from_numpy(draw.normal(size=(2, N, D)))
    loss = torch.from_numpy(draw.uniform(0.5, 2, size=N))
    n = torch.from_numpy(SIZES).double()
    busy = (n > 0)[:, None]
    missing = torch.full_like(loss, torch.nan)
    delta, gradient = everyone[0] * busy, everyone[1] * busy
    columns = (
        delta,
        n,
        2 * n,
        0.2 * n,
        loss.where(n > 0, missing),
        loss.where(n > 0, missing),
        gradient,
    )
    return Updates(*(column[list(ids)].clone() for column in columns))


def having(name, experiment, **parts):
    """Return the experiment with the algorithm of that name, and with adapters if it needs them."""
    data = experiment.data(0) if callable(experiment.data) else experiment.data
    if name in OF_ADAPTERS:
        task = with_adapters((64, 6, 10), base=name in ("fedex", "flora", "with_aggregation_error"))
        return replace(
            experiment,
            task=task,
            **{"algorithm": OF_ADAPTERS[name](task, data.num_clients)} | parts,
        )
    method = (
        OF_A_MODEL[name](experiment.task, data.num_clients)
        if name in OF_A_MODEL
        else ALGORITHMS[name]
    )
    return replace(experiment, **{"algorithm": method} | parts)


def rounds(method, chosen, fold=weighted_mean):
    """Return w and the state after rounds in which the clients of each list took part."""
    w = torch.linspace(-1, 1, D, dtype=torch.double)
    state = method.init(w, N)
    for t, ids in enumerate(chosen, 1):
        who, updates = cohort(ids, t), trained(ids, t)
        method.local_objective(state, who)
        w, state = method.step(w, state, who, updates, fold(*method.contributions(updates, who)))
    return w, state


def numbers(state):
    """Return a state as tensors, to compare."""
    if state is None:
        return []
    if isinstance(state, ClientTable):
        return [state[np.arange(N)]]
    if isinstance(state, np.ndarray):
        return [torch.from_numpy(state.copy())]
    return (
        [state.clone()]
        if torch.is_tensor(state)
        else [tensor for part in state for tensor in numbers(part)]
    )


def same(a, b, **tolerance):
    for first, second in zip(numbers(a), numbers(b), strict=True):
        torch.testing.assert_close(first, second, **tolerance)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_shapes(name):
    method, ids = ALGORITHMS[name], [0, 1, 5, 9]
    w, state = rounds(method, [[0, 2, 8]])
    who, updates = cohort(ids, 2), trained(ids, 2)
    terms = method.local_objective(state, who)
    assert terms.h is None or (terms.h.shape == (4, D) and terms.h.isfinite().all())
    assert terms.mu >= 0 < terms.lr
    assert terms.mask is None or terms.mask.shape in ((D,), (4, D))
    delta, weights = method.contributions(updates, who)
    assert delta.shape == (4, D)
    assert weights.shape == (4,)
    assert delta.isfinite().all()
    assert (weights >= 0).all()
    assert weights[1] == 0, "client 1 holds nothing"
    new, _ = method.step(w, state, who, updates, weighted_mean(delta, weights))
    assert new.shape == (D,)
    assert new.dtype == torch.double
    assert new.isfinite().all()
    assert (new != w).any() if name in PARTS else (new != w).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_is_deterministic_and_keeps_nothing_to_itself(name):
    """A second run by the same object is the same, also after a run that was left unfinished."""
    chosen = [[0, 2, 3], [2, 5, 8], [0, 9]]
    first, state = rounds(ALGORITHMS[name], chosen)
    rounds(ALGORITHMS[name], [[4, 5, 6]])
    again, same_state = rounds(ALGORITHMS[name], chosen)
    assert torch.equal(first, again)
    same(state, same_state, atol=0, rtol=0)


@pytest.mark.parametrize(("name", "fold"), PAIRS)
def test_the_order_of_clients_does_not_matter(name, fold):
    a = rounds(ALGORITHMS[name], [[0, 2, 3, 5], [2, 5, 8, 9]], AGGREGATES[fold])
    b = rounds(ALGORITHMS[name], [[5, 0, 3, 2], [9, 8, 2, 5]], AGGREGATES[fold])
    torch.testing.assert_close(a[0], b[0], atol=1e-12, rtol=0)
    same(a[1], b[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "fold"), PAIRS)
@pytest.mark.parametrize("nobody", NOBODY)
def test_a_round_in_which_nobody_trains_changes_nothing(name, nobody, fold):
    method, ids = ALGORITHMS[name], NOBODY[nobody]
    for before in ([], [[0, 2, 3], [2, 5]]):
        w, state = rounds(method, before, AGGREGATES[fold])
        was, who, updates = numbers(state), cohort(ids, 3), trained(ids, 3)
        method.local_objective(state, who)
        new, new_state = method.step(
            w, state, who, updates, AGGREGATES[fold](*method.contributions(updates, who))
        )
        assert torch.equal(new, w)
        assert all(torch.equal(a, b) for a, b in zip(numbers(new_state), was, strict=True))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_who_took_no_step_has_no_say(name):
    a = rounds(ALGORITHMS[name], [[0, 1, 2, 8], [1, 2, 5]])
    b = rounds(ALGORITHMS[name], [[0, 2], [2, 5]])
    torch.testing.assert_close(a[0], b[0], atol=1e-9, rtol=0)
    same(a[1], b[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_inputs_are_left_as_they_were(name):
    method, ids = ALGORITHMS[name], [0, 1, 5, 9]
    w, state = rounds(method, [[0, 2, 3]])
    who, updates, was = cohort(ids, 2), trained(ids, 2), numbers(state)
    method.local_objective(state, who)
    rows = method.contributions(updates, who)
    assert all(torch.equal(a, b) for a, b in zip(numbers(state), was, strict=True)), (
        "only a step writes the state"
    )
    folded, before = weighted_mean(*rows), w.clone()
    copy_of_rows = folded.clone()
    method.step(w, state, who, updates, folded)
    assert torch.equal(w, before)
    assert torch.equal(folded, copy_of_rows)
    assert who.ids.tolist() == ids
    for column, fresh in zip(updates, trained(ids, 2), strict=True):
        assert column is fresh or torch.equal(column.nan_to_num(-1), fresh.nan_to_num(-1))


# Transforms


def rows_of(ids, t=1, dtype=torch.float32):
    """Draw updates with heavy tails, so that some numbers stand out."""
    draws = [generator(0, "rows", t, int(i)).standard_normal(WIDTH) ** 3 for i in ids]
    return torch.from_numpy(np.array(draws).reshape(len(draws), WIDTH)).to(dtype)


def sent(transform, chosen, dtype=torch.float32):
    """Return the messages of rounds in which each list of clients took part, and the last state."""
    state, messages = transform.init(rows_of([0], dtype=dtype)[0], SHAPES, N), []
    for t, ids in enumerate(chosen, 1):
        message, state = transform.apply(
            Message(rows_of(ids, t, dtype), SHAPES), state, cohort(ids, t)
        )
        messages.append(message)
    return messages, state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_gives_rows_that_equal_those_read_from_real_bytes_of_the_length_that_was_counted(
    name, dtype
):
    messages, _ = sent(TRANSFORMS[name], [[0, 1, 5, 9], [1, 2, 5], [5]], dtype)
    width = 500 if name == "count_sketch" else WIDTH
    for message, m in zip(messages, (4, 3, 1), strict=True):
        assert message.delta.shape == (m, width)
        assert message.delta.dtype == dtype
        assert message.delta.isfinite().all()
        packed = [wire.pack(message, i) for i in range(m)]
        assert wire.sizes(message).shape == (m, 3)
        assert wire.sizes(message).sum(1).tolist() == list(map(len, packed))
        assert torch.equal(wire.round_trip(message), message.delta), "to the bit"


@pytest.mark.parametrize("each", [False, True], ids=["one mask", "a mask a client"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_of_rows_with_a_mask(name, each):
    """Numbers outside a mask do not travel, and come out as 0."""
    transform, ids = TRANSFORMS[name], [0, 1, 5, 9]
    drawn = (
        np.argsort([generator(0, "mask", i if each else 0).random(WIDTH) for i in ids]) < WIDTH // 4
    )
    mask = torch.from_numpy(drawn).float()[: None if each else 1]
    state, sizes = transform.init(rows_of([0])[0], SHAPES, N), []
    for t in (1, 2):
        message = Message(rows_of(ids, t) * mask, SHAPES, mask=mask)
        message, state = send(transform, message, state, cohort(ids, t))
        message = within_mask(message)
        assert wire.sizes(message).sum(1).tolist() == [len(wire.pack(message, i)) for i in range(4)]
        assert torch.equal(wire.round_trip(message), message.delta), "to the bit"
        if name not in (
            "count_sketch",
            "lazy",
            "power_sgd",
        ):  # whose numbers are no weights, or mixtures of them
            assert (message.delta * (1 - mask) == 0).all()
            assert (message.delta != 0).any() or (name, t) == ("accumulate", 1)
        sizes.append(wire.sizes(message).sum())
    whole_rows = ("count_sketch", "lazy", "power_sgd", "terngrad", "top_k_per_layer")
    (*_, dense), _ = sent(transform, [ids, ids])
    assert (sizes[1] < 0.8 * wire.sizes(dense).sum()) or name in (
        *whole_rows,
        "top_k_within",
        "threshold",
    )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_is_deterministic_and_leaves_its_input_alone(name):
    chosen = [[0, 2, 3], [2, 5, 8], [0, 9], [2, 3]]
    first, state = sent(TRANSFORMS[name], chosen)
    sent(TRANSFORMS[name], [[4, 5, 6]])
    again, second = sent(TRANSFORMS[name], chosen)
    for message, two in zip(first, again, strict=True):
        assert torch.equal(message.delta, two.delta)
    same(state, second, atol=0, rtol=0)
    x = rows_of([0, 2])
    TRANSFORMS[name].apply(
        Message(x, SHAPES), TRANSFORMS[name].init(x[0], SHAPES, N), cohort([0, 2])
    )
    assert torch.equal(x, rows_of([0, 2]))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_a_client_sends_does_not_depend_on_who_else_takes_part(name):
    (_, together), _ = sent(TRANSFORMS[name], [[0, 2, 3], [2, 3, 5]])
    (_, turned), _ = sent(TRANSFORMS[name], [[3, 0, 2], [5, 2, 3]])
    torch.testing.assert_close(turned.delta, together.delta[[2, 0, 1]], atol=2e-5, rtol=1e-5)
    if name == "top_k_within":  # which divides by the share that takes part
        return
    (_, alone), _ = sent(TRANSFORMS[name], [[2], [2]])
    torch.testing.assert_close(alone.delta[0], together.delta[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_nothing_to_send_is_sent_as_nothing(name):
    """Zeros come out finite, and as zeros unless a transform has one bit and no level 0."""
    transform, zeros = TRANSFORMS[name], torch.zeros(2, WIDTH)
    message, _ = transform.apply(
        Message(zeros, SHAPES), transform.init(zeros[0], SHAPES, N), cohort([3, 4])
    )
    assert message.delta.isfinite().all()
    assert torch.equal(message.delta, message.delta * 0) or name == "sign"
    assert torch.equal(wire.round_trip(message), message.delta)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_in_the_loop(sparse, name):
    """With empty cohorts and clients, numbers are finite, runs repeat, and traffic adds up."""
    if name == "count_sketch":
        algorithm = upload.fetchsgd(20, columns=100)
    else:
        algorithm = server.fedavg(0.01 if name == "sign" else 1.0)
    study = replace(sparse, upload=TRANSFORMS[name], algorithm=algorithm)
    once, again = (run(study) for _ in range(2))
    assert once.w[0].isfinite().all()
    assert torch.equal(once.w[0], again.w[0])
    pd.testing.assert_frame_equal(once.clients, again.clients)
    for table in (once.rounds, once.clients):
        for way in ("up", "down"):
            assert (
                table[[f"{way}_{part}" for part in wire.PARTS]].sum(axis=1) == table[f"bytes_{way}"]
            ).all()
    idle = once.clients["steps"] == 0
    assert idle.any()
    assert (once.clients.loc[idle, "bytes_up"] == 0).all()
    assert (once.clients.loc[~idle, "bytes_up"] > 0).all()
    each = once.clients.groupby("round")[["bytes_up", "bytes_down"]].sum()
    assert (once.rounds.set_index("round").loc[each.index, ["bytes_up", "bytes_down"]] == each).all(
        axis=None
    )


@pytest.fixture(scope="module")
def sparse():
    """Digits over 30 clients, some without examples, and cohorts of which some are empty."""
    digits = load("digits", 30, dirichlet(0.05))
    parts = Local(0.1, None, steps=1), fedavg(), weighted_mean, poisson(0.02)
    return Experiment(digits, mlp(digits, hidden=(8,)), *parts, rounds=8, eval_every=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_in_the_loop(sparse, name):
    """With empty cohorts and clients, numbers are finite, and a second run has the same."""
    once, again = (run(having(name, sparse)) for _ in range(2))
    assert (once.rounds["clients"].iloc[1:] == 0).any()
    assert once.w[0].isfinite().all()
    assert torch.equal(once.w[0], again.w[0])
    pd.testing.assert_frame_equal(once.rounds, again.rounds)


PHONES = draw_fleet(30, seed=0, dropout=0.1).slower(1000)
AT_ONCE = PHONES._replace(
    **{name: np.full(30, np.inf) for name in ("flops", "up", "down")},
    **{name: np.zeros(30) for name in ("latency", "jitter", "dropout")},
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_by_the_clock(sparse, name):
    """Rounds without delay are those of ``run``; others take late updates, or are refused."""
    varied = having(name, sparse, sample=uniform(4), rounds=3, eval_every=3)
    want, got = run(varied), simulate(varied, AT_ONCE, synchronous(4))
    torch.testing.assert_close(got.w[0], want.w[0], atol=1e-6, rtol=0)
    assert got.clients["bytes_up"].sum() == want.clients["bytes_up"].sum()
    if varied.algorithm.partial_updates:
        with pytest.raises(
            ValueError,
            match=r"^the algorithm has masks, which .* by rounds\. Try synchronous\(5\) as policy$",
        ):
            simulate(varied, PHONES, fedbuff(8, 3))
        return
    late = simulate(replace(varied, rounds=8), PHONES, fedbuff(8, 3))
    assert late.w[0].isfinite().all()
    assert late.rounds["staleness"].max() > 0
    assert len(late.rounds) == 9
    assert (late.rounds["used"].iloc[1:] == 3).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_by_the_clock(sparse, name):
    algorithm = (
        upload.fetchsgd(20, columns=100)
        if name == "count_sketch"
        else fedavg(0.01 if name == "sign" else 1.0)
    )
    varied = replace(
        sparse,
        upload=TRANSFORMS[name],
        algorithm=algorithm,
        sample=uniform(4),
        rounds=3,
        eval_every=3,
    )
    want, got = run(varied), simulate(varied, AT_ONCE, synchronous(4))
    torch.testing.assert_close(got.w[0], want.w[0], atol=1e-6, rtol=0)
    assert got.rounds["bytes_up"].tolist() == want.rounds["bytes_up"].tolist()
    late = simulate(replace(varied, rounds=8), PHONES, fedbuff(8, 3))
    assert late.w[0].isfinite().all()
    assert late.rounds["bytes_up"].sum() == late.clients["bytes_up"].sum() > 0


@pytest.fixture(scope="module")
def dozen():
    digits = load("digits", N, dirichlet(0.05))
    parts = Local(0.1, None, steps=1), fedavg(), weighted_mean, poisson(0.2)
    return Experiment(digits, mlp(digits, hidden=(8,)), *parts, rounds=2, eval_every=2)


def pairwise(*axes: Iterable[str]) -> list:
    """Return all combinations; those that add no new pair of values are slow.

    The first combinations are chosen greedily: each covers the most pairs not covered before.
    """
    combinations = list(itertools.product(*axes))
    pairs = [set(itertools.combinations(enumerate(c), 2)) for c in combinations]
    missing, chosen = set().union(*pairs), set()
    while missing:
        best = max(range(len(pairs)), key=lambda k: len(pairs[k] & missing))
        chosen.add(best)
        missing -= pairs[best]
    return [
        pytest.param(*c, marks=() if k in chosen else pytest.mark.slow)
        for k, c in enumerate(combinations)
    ]


@pytest.mark.parametrize(("name", "fold", "sampler"), pairwise(ALGORITHMS, AGGREGATES, SAMPLERS))
def test_what_goes_together_runs_and_what_does_not_says_why(dozen, name, fold, sampler):
    parts = {"aggregate": AGGREGATES[fold], "sample": SAMPLERS[sampler]}
    if fold != "weighted_mean" and name in WEIGHTED:
        reason = f"aggregate={fold} must be weighted_mean .*Try aggregate=weighted_mean"
    elif (
        sampler in ("by_size", "with_examples") and fold == "weighted_mean" and name in BY_EXAMPLES
    ):
        remedy = r"sample=uniform\(K\)" if name in WEIGHTED else "aggregate=mean"
        reason = f"sample=by_size must not go with aggregate=weighted_mean .*Try {remedy}"
    else:
        assert run(having(name, dozen, **parts)).w[0].isfinite().all()
        return
    with pytest.raises(ValueError, match=f"^{reason}$"):
        having(name, dozen, **parts)


OPTIMIZERS = {
    "sgd": {},
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.01},
}
REFUSED = {"momentum": {"fedsgd", "scaffold", "mimelite", "pruned"}}
REFUSED["adamw"] = REFUSED["momentum"] | {"fednova", "qfedavg"}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(name, optimizer, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
        for i, name in enumerate(ALGORITHMS)
        for j, optimizer in enumerate(OPTIMIZERS)
    ],
)
def test_both_engines_give_the_same(study, name, optimizer):
    """Ragged clients, some empty, two seeds; in double precision, rounding flips no ReLU."""
    local = (
        Local(0.1, batch_size=None, steps=1) if name == "fedsgd" else replace(study.local, lr=0.05)
    )
    parts = {"local": replace(local, **OPTIMIZERS[optimizer]), "rounds": 2}
    if name in REFUSED.get(optimizer, ()):
        with pytest.raises(
            ValueError, match=f"{'momentum' if optimizer == 'momentum' else 'adamw'}.*Try "
        ):
            having(name, study, **parts)
        return
    experiment = having(
        name, study, data=lambda seed: load("digits", 30, dirichlet(0.05), seed).double(), **parts
    )
    fast, slow = (run(experiment, backend, seeds=2) for backend in (batched, sequential))
    for first, second in zip(fast.w, slow.w, strict=True):
        torch.testing.assert_close(first, second, atol=1e-8, rtol=0)
    pd.testing.assert_frame_equal(fast.rounds, slow.rounds, atol=1e-8, rtol=0)
    pd.testing.assert_frame_equal(fast.clients, slow.clients, atol=1e-8, rtol=0)
