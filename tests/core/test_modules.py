"""A model must be a function of seed and data; others are refused, in a line with the remedy."""

import copy
import gc
import itertools
import random
import time
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import nn
from torch.nn.utils import prune

from fedlab.client import assign, batched, plan, sequential
from fedlab.core import Experiment, Local, Task
from fedlab.data import federate
from fedlab.engine import evaluate, initial, run
from fedlab.models import classification
from fedlab.server import fedavg, uniform, weighted_mean

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(120, 12)).astype(np.float32), DRAW.integers(0, 3, 120)
TOKENS = DRAW.integers(0, 20, (120, 5))


def go(task, data=None, backend=batched, rounds=2, sample=None, **local):
    data = federate(X, Y, clients=6) if data is None else data
    local = Local(**{"lr": 0.1, "batch_size": 8} | local)
    study = Experiment(
        data, task, local, fedavg(), weighted_mean, sample or uniform(4), rounds=rounds
    )
    return run(study, backend, seeds=[7])


class Net(nn.Module):
    """Modules and values by name, and a forward that gets them all."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in copy.deepcopy(parts).items():
            setattr(self, name, part)
        self.passes = forward

    def forward(self, x):
        return self.passes(self, x)


def net(forward, **parts):
    """A task's model: the parts are the same under every seed."""
    return lambda: Net(forward, **parts)


LINEAR = nn.Linear(12, 3)


class Drawn(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.w = nn.Parameter(draw().float() / 9)

    def forward(self, x):
        return x @ self.w


DRAWS = {
    "randn": lambda: torch.randn(12, 3),
    "rand": lambda: torch.rand(12, 3),
    "randint": lambda: torch.randint(9, (12, 3)),
    "randint from": lambda: torch.randint(1, 9, (12, 3)),
    "randperm": lambda: torch.randperm(36).view(12, 3),
    "randn_like": lambda: torch.randn_like(torch.ones(12, 3)),
    "rand_like": lambda: torch.rand_like(torch.ones(12, 3)),
    "randint_like": lambda: torch.randint_like(torch.ones(12, 3), 1, 9),
    "normal": lambda: torch.normal(0.0, 1.0, (12, 3)),
    "out": lambda: torch.randn(12, 3, out=torch.empty(12, 3)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_weights_that_a_constructor_draws_come_from_the_seed(draw):
    before, tasks = (
        torch.random.get_rng_state(),
        [classification(lambda: Drawn(draw)) for _ in range(2)],
    )
    first, again = (initial(task, 7) for task in tasks)
    assert torch.equal(first, again)
    assert not torch.equal(first, initial(tasks[0], 8))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_runs_of_such_a_model_are_equal_bit_for_bit():
    first, again = (go(classification(lambda: Drawn(DRAWS["randn"]))) for _ in range(2))
    assert torch.equal(first.w[0], again.w[0])
    assert first.rounds["loss"].tolist() == again.rounds["loss"].tolist()


def test_a_generator_that_a_constructor_brings_is_its_own():
    task = classification(
        lambda: Drawn(lambda: torch.randn(12, 3, generator=torch.Generator().manual_seed(3)))
    )
    assert torch.equal(initial(task, 0), initial(task, 1))


def one_place():
    a, b = nn.Linear(12, 3), nn.Linear(12, 3)
    b.weight = nn.Parameter(a.weight.data)
    return nn.Sequential(a, b)


def running_mean(net, x):
    net.mean = 0.9 * net.mean + 0.1 * x.detach().mean(0)
    return net.a(x - net.mean)


def counted(net, x):
    net.n["passes"] += 1
    return net.a(x)


def recorded(net, x):
    net.seen.append(len(x))
    return net.a(x)


def fitted(net, x):
    """Scaled by whatever examples come first."""
    if net.scale is None:
        net.scale = x.detach().std(0)
    return net.a(x / net.scale)


SHARED = torch.Generator()
LINEAR, BASE = nn.Linear(12, 3), nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
GATE = nn.Parameter(torch.zeros(1))
COPY = r"Try lambda: copy.deepcopy\(net\)"
REFUSED = {
    "NumPy": (
        lambda: Drawn(lambda: torch.from_numpy(np.random.randn(12, 3))),
        "parameter 'w' of Drawn is another one",
    ),
    "random": (
        lambda: Drawn(lambda: torch.full((12, 3), random.random())),
        "parameter 'w' of Drawn is another one",
    ),
    "time": (
        lambda: Drawn(lambda: torch.full((12, 3), time.perf_counter_ns() % 1e6)),
        "'w' of Drawn is another one",
    ),
    "shared generator": (
        lambda: Drawn(lambda: torch.randn(12, 3, generator=SHARED)),
        "is another one each time",
    ),
    "attribute": (
        lambda: Net(lambda s, x: s.a(x) * s.b, a=LINEAR, b=random.random()),
        "two builds of Net .* other outputs",
    ),
    "module": (BASE, f"model=Sequential must be a function .* {COPY}"),
    "same module": (lambda: BASE, f"gives the same Sequential, .* {COPY}"),
    "same weights": (lambda: nn.Sequential(BASE, nn.Identity()), f"or its weights, .* {COPY}"),
    "no module": (lambda: 3, r"model\(\) gave int and must give an nn.Module"),
    "frozen": (
        lambda: nn.Linear(12, 3).requires_grad_(False),
        "Linear must have a parameter that trains, .* Try net.head.requires_grad_",
    ),
    "lazy": (lambda: nn.LazyLinear(3), "LazyLinear at 'the top' has no shape"),
    "complex": (
        net(lambda s, x: x, p=nn.Parameter(torch.ones(3) + 0j)),
        "'p' of Net is of type torch.complex64",
    ),
    "one place": (one_place, "'0.weight' and '1.weight' of Sequential"),
    "max_norm": (
        net(lambda s, x: x, e=nn.Embedding(9, 6, max_norm=1.0)),
        "Embedding at 'e' has max_norm=1,",
    ),
    "F.dropout": (
        net(lambda s, x: s.a(F.dropout(x, 0.001)), a=LINEAR),
        r"forward pass of Net draws .*\(bernoulli_\)",
    ),
    "noise": (
        net(lambda s, x: s.a(x + s.g * torch.randn_like(x)), a=LINEAR, g=GATE),
        r"draws .*\(randn_like\)",
    ),
    "noise of NumPy": (
        net(lambda s, x: s.a(x + np.random.randn()), a=LINEAR),
        "gives other outputs for the same",
    ),
    "LSTM": (
        net(lambda s, x: x, r=nn.LSTM(3, 5, 2, dropout=0.3)),
        "LSTM at 'r' draws .*: set dropout=0.3 to 0",
    ),
    "attention": (
        net(lambda s, x: x, r=nn.MultiheadAttention(4, 2, dropout=0.2)),
        "at 'r' draws .*: set dropout=0.2",
    ),
    "F.attention": (
        net(
            lambda s, x: s.a(
                F.scaled_dot_product_attention(*[x[:, None]] * 3, dropout_p=0.3)[:, 0]
            ),
            a=LINEAR,
        ),
        "forward pass of Net draws random numbers",
    ),
    "RReLU": (
        lambda: nn.Sequential(nn.Linear(12, 3), nn.RReLU()),
        "RReLU at '1' draws .* Try nn.LeakyReLU",
    ),
    "F.rrelu": (
        net(lambda s, x: F.rrelu(s.a(x), training=True), a=LINEAR),
        "forward pass of Net draws random numbers",
    ),
    "spectral norm": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(12, 3)),
        "changes 'parametrizations",
    ),
    "InstanceNorm": (
        lambda: nn.Sequential(
            nn.Linear(12, 3),
            nn.Unflatten(1, (3, 1)),
            nn.InstanceNorm1d(1, track_running_stats=True),
        ),
        "does not take|changes",
    ),
    "running mean": (net(running_mean, a=LINEAR, mean=torch.zeros(12)), "changes 'mean'"),
    "counter": (net(counted, a=LINEAR, n={"passes": 0}), "changes 'n.passes'"),
    "list": (net(recorded, a=LINEAR, seen=[]), "changes 'seen'"),
    "fitted to the first examples": (
        net(fitted, a=LINEAR, scale=None),
        "two builds of Net .* other outputs",
    ),
    "detached": (
        net(lambda s, x: s.a(x).detach(), a=LINEAR),
        "does not depend on anything that trains",
    ),
}


@pytest.mark.filterwarnings("ignore:.*one after another")
@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_repeated_is_refused_before_training(name):
    model, words = REFUSED[name]
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=words) as error:
        go(classification(model))
    assert "\n" not in str(error.value)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_module_of_the_callers_is_refused_when_the_task_is_made():
    for model in (BASE, lambda: BASE):
        with pytest.raises(ValueError, match=COPY):
            classification(model)
    start = copy.deepcopy(BASE.state_dict())
    first, again = (go(classification(lambda: copy.deepcopy(BASE))) for _ in range(2))
    assert torch.equal(first.w[0], again.w[0])
    assert all(torch.equal(p, start[name]) for name, p in BASE.state_dict().items())


def test_a_frozen_module_of_the_callers_is_shared_and_stays_as_it_is():
    base = copy.deepcopy(BASE).requires_grad_(False)
    task, start = (
        classification(lambda: nn.Sequential(base, nn.Linear(3, 3))),
        copy.deepcopy(base.state_dict()),
    )
    data = federate(X, Y, clients=6)
    exact = go(task, data.double()).w[0]
    torch.testing.assert_close(go(task, data).w[0].double(), exact, atol=1e-5, rtol=0)
    assert all(torch.equal(p, start[name]) for name, p in base.state_dict().items())
    assert {p.dtype for p in base.parameters()} == {torch.float32}


numbers = itertools.count()


class Numbered(nn.Linear):
    def __init__(self):
        super().__init__(12, 3)
        self.number = next(numbers)

    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


def constant(net, x):
    """Made in the first pass, and the same for all."""
    if net.places is None:
        net.places = torch.arange(12.0).to(x)
    return net.a(x + net.places)


def kept(net, x):
    net.hidden = net.a(x).tanh()
    return net.b(net.hidden)


def hooked():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would have everybody take the other one
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(12, 8)), nn.ReLU(), nn.Linear(8, 3))


def pruned():
    return nn.Sequential(
        prune.l1_unstructured(nn.Linear(12, 8), "weight", 0.5), nn.ReLU(), nn.Linear(8, 3)
    )


def two_names():
    net = Net(lambda s, x: s.c(s.b(s.a(x).tanh()).tanh()), a=nn.Linear(12, 12), c=nn.Linear(12, 3))
    net.b = net.a
    return net


def tied():
    net = Net(
        lambda s, x: s.head(s.out(s.e((3 * x.abs()).long().clamp(max=11)).mean(1))),
        e=nn.Embedding(12, 12), out=nn.Linear(12, 12, bias=False), head=nn.Linear(12, 3),
    )  # fmt: skip
    net.out.weight = net.e.weight
    return net


def words(**kinds):
    return net(
        lambda s, x: s.h(s.e((3 * x.abs()).long().clamp(max=8)).mean(1)),
        e=nn.Embedding(9, 6, **kinds),
        h=nn.Linear(6, 3),
    )


TRAINED = {  # and whether clients can stand side by side
    "numbered": (Numbered, True),
    "constant": (net(constant, a=LINEAR, places=None), True),
    "kept": (net(kept, a=nn.Linear(12, 8), b=nn.Linear(8, 3)), True),
    "kept by vmap": (
        net(lambda s, x: kept(s, x) + s.p, a=nn.Linear(12, 8), b=nn.Linear(8, 3), p=GATE),
        False,
    ),
    "weight norm": (hooked, False),
    "weight norm, parametrized": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(12, 8)), nn.ReLU(), nn.Linear(8, 3)
        ),
        False,
    ),
    "pruned": (pruned, False),
    "two names": (two_names, True),
    "tied": (tied, True),
    "a number": (net(lambda s, x: s.a(x) * s.p, a=LINEAR, p=nn.Parameter(torch.tensor(1.5))), True),
    "frequency": (words(scale_grad_by_freq=True), False),
    "sparse": (words(sparse=True), True),
    "unused": (net(lambda s, x: s.a(x), a=LINEAR, b=nn.Linear(2, 2)), True),
    "line of its own": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 3)), nn.Linear(3, 2), nn.Flatten(), nn.Linear(8, 3)
        ),
        True,
    ),
    "LSTM": (
        net(
            lambda s, x: s.h(s.r(x.view(-1, 4, 3))[0][:, -1]),
            r=nn.LSTM(3, 5, batch_first=True),
            h=nn.Linear(5, 3),
        ),
        False,
    ),
    "float32 inside": (
        net(lambda s, x: s.a(x) + torch.ones(len(x), 3, dtype=torch.float32), a=LINEAR),
        True,
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_trained_by_the_engine_that_can(name):
    model, side_by_side = TRAINED[name]
    task, data = classification(model), federate(X, Y, clients=6).double()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        fast = go(task, data, batched, momentum=0.9, weight_decay=0.1)
        go(task, data, batched, momentum=0.9, weight_decay=0.1)
    warned = [str(each.message) for each in warned if "one after another" in str(each.message)]
    assert len(warned) == (not side_by_side), "said once"
    slow = go(task, data, sequential, momentum=0.9, weight_decay=0.1)
    torch.testing.assert_close(fast.w[0], slow.w[0], atol=1e-10, rtol=0)
    module, classifier = task.module(slow.w[0]), classification(model)
    with torch.no_grad():
        torch.testing.assert_close(module(data.x), task.forward(slow.w[0], data.x))
    assert evaluate(task, slow.w[0], data) == evaluate(classifier, slow.w[0], data), (
        "the template is as it was"
    )


def one_in_nine(value):
    """Examples of which few are unlike the others."""
    x = X / np.abs(X).max()
    x[::9, :4] = 100 * np.abs(x[::9, :4]) if value is None else value
    return federate(x, Y, clients=6)


COMPANY = {
    "bytes": (None, lambda s, x: s.a(x / 255 if x.max() > 1 else x)),
    "largest": (None, lambda s, x: s.a(x / x.abs().max().clamp(min=10))),
    "missing": (-999, lambda s, x: s.a(torch.where(x < -99, x.clamp(min=-99).mean(0) / 99, x))),
    "alone": (0, lambda s, x: s.a(x if len(x) > 1 else x / 2)),
    "many": (0, lambda s, x: s.a(x if len(x) < 7 else x / 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("name", COMPANY)
def test_examples_that_change_what_their_batch_computes_are_met_as_in_the_readable_engine(
    name, momentum
):
    value, passes = COMPANY[name]
    task, data = classification(net(passes, a=LINEAR)), one_in_nine(value)
    for width in (5, 8):
        slow = go(task, data, sequential, momentum=momentum, batch_size=width)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            fast = go(task, data, batched, momentum=momentum, batch_size=width)
        assert any("one after another" in str(each.message) for each in warned) == (width == 5), (
            "said once"
        )
        torch.testing.assert_close(fast.w[0], slow.w[0], atol=1e-6, rtol=0)


def test_the_same_task_stands_side_by_side_on_data_that_show_no_company():
    task = classification(net(COMPANY["bytes"][1], a=LINEAR))
    usual, rare = federate(X / 9, Y, clients=6), one_in_nine(None)
    go(task, usual)  # no warning, which would be an error
    with pytest.warns(UserWarning, match="one after another"):
        fast = go(task, rare)
    torch.testing.assert_close(fast.w[0], go(task, rare, sequential).w[0], atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:.*one after another")
def test_runs_in_lockstep_do_not_mix_in_a_batch():
    model = lambda: nn.Sequential(Net(COMPANY["bytes"][1], a=nn.Identity()), nn.Linear(12, 3))  # noqa: E731
    local = Local(0.1, batch_size=8)
    study = Experiment(
        one_in_nine(None),
        classification(model),
        local,
        fedavg(),
        weighted_mean,
        uniform(4),
        rounds=2,
    )
    together = run(study, batched, seeds=3)
    for seed in range(3):
        alone = run(study, sequential, seeds=[seed])
        torch.testing.assert_close(together.w[seed], alone.w[0], atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:.*one after another")
def test_a_loss_that_looks_at_its_batch_is_met_as_in_the_readable_engine():
    def loss(output, y):
        each = F.cross_entropy(output, y, reduction="none")
        return each / each.detach().max().clamp(min=4)

    task, data = Task(lambda: nn.Linear(12, 3), loss, {}), one_in_nine(None)
    torch.testing.assert_close(
        go(task, data).w[0], go(task, data, sequential).w[0], atol=1e-6, rtol=0
    )


def penalised(s, x):
    penalty = sum(layer.weight.square().sum() for layer in (s.a, s.b, s.c))
    return s.c(s.b(s.a(x).relu()).relu()), penalty.expand(len(x))


@pytest.mark.slow
def test_a_small_term_of_a_large_models_weights_is_not_dropped():
    """Each weight moves by 2e-5 of itself, far less than the cross-entropy moves the largest."""
    wide = {"a": nn.Linear(12, 1750), "b": nn.Linear(1750, 1750), "c": nn.Linear(1750, 3)}
    task = Task(
        net(penalised, **wide),
        lambda o, y: F.cross_entropy(o[0], y, reduction="none") + 1e-5 * o[1],
        {},
    )
    once = {"rounds": 1, "sample": uniform(2), "steps": 1, "lr": 1.0}
    fast, slow = (go(task, backend=engine, **once).w[0] for engine in (batched, sequential))
    torch.testing.assert_close(fast, slow, atol=5e-7, rtol=0)


def test_a_module_with_two_names_trains_as_in_plain_pytorch():
    task, data = classification(two_names), federate(X, Y, clients=1).double()
    module = task.module(initial(task, 7, data.x))
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    local = Local(0.1, batch_size=8, momentum=0.9)
    for batch in torch.from_numpy(plan(list(data.parts), 7, 1, local, len(data.y))[0]):
        batch = batch[batch >= 0]
        optimizer.zero_grad()
        F.cross_entropy(module(data.x[batch]), data.y[batch]).backward()
        optimizer.step()
    whole = go(task, data, sequential, rounds=1, sample=uniform(1), momentum=0.9).w[0]
    torch.testing.assert_close(
        whole, torch.cat([p.detach().flatten() for p in module.parameters()])
    )


def pairs(output, y):
    return F.cross_entropy(output[0], y, reduction="none")


@pytest.mark.parametrize(
    "extra", [{}, {"p": nn.Parameter(torch.ones(1))}], ids=["stacked", "mapped"]
)
def test_outputs_that_are_no_tensor(extra):
    model = net(lambda s, x: (s.a(x) * (s.p if extra else 1), x), a=LINEAR, **extra)
    data = federate(X, Y, clients=6).double()
    fast, slow = (
        go(Task(model, pairs, {"again": pairs}), data, backend) for backend in (batched, sequential)
    )
    torch.testing.assert_close(fast.w[0], slow.w[0], atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match=r"the loss does not take outputs \(tuple\) of Net"):
        go(classification(model), data)


class Counting:
    n = 0

    def __call__(self, output, y):
        self.n += 1
        return F.cross_entropy(output, y, reduction="none") * self.n


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (
            lambda output, y: F.cross_entropy(
                output + torch.randn_like(output), y, reduction="none"
            ),
            "is another one when",
        ),
        (Counting(), "is another one when it is asked again"),
        (
            lambda output, y: F.cross_entropy(output, y, reduction="none")[:, None],
            r"has the shape \[2, 1\]",
        ),
        (lambda output, y: 0.5, "gave float and must give a tensor"),
    ],
    ids=["draws", "counts", "shape", "number"],
)
def test_a_loss_is_a_function(loss, words):
    with pytest.raises(ValueError, match=words):
        go(Task(lambda: nn.Linear(12, 3), loss, {}))


def test_a_loss_in_double_precision_trains_side_by_side():
    task = Task(
        lambda: nn.Linear(12, 3), lambda o, y: F.cross_entropy(o.double(), y, reduction="none"), {}
    )
    torch.testing.assert_close(go(task).w[0], go(task, backend=sequential).w[0], atol=1e-6, rtol=0)


READERS = {
    "x": net(lambda s, x: s.h(s.e(x).mean(1)), e=nn.Embedding(20, 6), h=nn.Linear(6, 3)),
    "columns": net(
        lambda s, x: s.h(s.e(x[:, :2]).mean(1) + s.e(x[:, 2:]).mean(1)),
        e=nn.Embedding(20, 6),
        h=nn.Linear(6, 3),
    ),
    "function": net(
        lambda s, x: s.h(F.embedding(x, s.e.weight).mean(1)),
        e=nn.Embedding(20, 6),
        h=nn.Linear(6, 3),
    ),
    "bag": net(lambda s, x: s.h(s.e(x)), e=nn.EmbeddingBag(20, 6), h=nn.Linear(6, 3)),
    "late": net(
        lambda s, x: s.h(s.h.weight.sum() * s.e(x).mean(1) + s.e(x + 0).mean(1)),
        e=nn.Embedding(20, 6),
        h=nn.Linear(6, 3),
    ),
}


@pytest.mark.filterwarnings("ignore:.*one after another")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("token", [20, -1])
@pytest.mark.parametrize("where", ["training", "test"])
def test_tokens_that_a_table_does_not_have_are_refused_before_training(reader, token, where):
    data, task = federate(TOKENS, Y, clients=6), classification(READERS[reader])
    go(task, data)
    example = data.parts[2][3]
    x, test = data.x.clone(), data.test[0].clone()
    (x if where == "training" else test)[example if where == "training" else 3, 1] = token
    holder = (
        f"training example {example}, which client 2 holds,"
        if where == "training"
        else "test example 3"
    )
    remedy = r"nn.Embedding\(21, ...\)" if token == 20 else r"x \+ 1 with padding_idx=0"
    with pytest.raises(
        ValueError,
        match=f"{holder} has the token {token}, and the table 'e' of Net has rows 0 to 19. "
        f"Try {remedy}",
    ):
        go(task, replace(data, x=x, test=(test, data.test[1])))


TABLE = nn.Parameter(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)))
INDEXED = {
    "indexed": lambda s, x: s.h(s.t[x].mean(1)),
    "selected": lambda s, x: s.h(s.t.index_select(0, x.flatten()).view(*x.shape, 6).mean(1)),
    "gathered": lambda s, x: s.h(
        s.t.gather(0, x.reshape(-1, 1).expand(-1, 6)).view(*x.shape, 6).mean(1)
    ),
}


@pytest.mark.filterwarnings("ignore:.*one after another")
@pytest.mark.parametrize("reader", INDEXED)
@pytest.mark.parametrize("where", ["training", "test"])
def test_tokens_that_an_indexed_table_does_not_have_are_refused_before_training(reader, where):
    data, task = (
        federate(TOKENS, Y, clients=6),
        classification(net(INDEXED[reader], t=TABLE, h=nn.Linear(6, 3))),
    )
    go(task, data)
    example = data.parts[2][3]
    x, test = data.x.clone(), data.test[0].clone()
    (x if where == "training" else test)[example if where == "training" else 3, 1] = 20
    holder = (
        f"training example {example}, which client 2 holds,"
        if where == "training"
        else "test example 3"
    )
    with pytest.raises(
        ValueError, match=f"{holder} has the token 20, and .* rows 0 to 19. Try a table of 21 rows"
    ):
        go(task, replace(data, x=x, test=(test, data.test[1])))


@pytest.mark.parametrize("token", [20, -1])
def test_no_client_reads_anothers_table(token):
    data, task = federate(TOKENS, Y, clients=6), classification(READERS["x"])
    x, local = data.x.clone(), Local(0.1, 8)
    x[data.parts[2][3], 1] = token
    work = assign(
        initial(task, 0), list(data.parts), [local] * 6, plan(list(data.parts), 0, 1, local, len(x))
    )
    for engine in (sequential, batched):
        with pytest.raises(IndexError):
            engine(task, x, data.y, work)


@pytest.mark.slow
def test_a_data_set_is_given_back():
    tasks = [
        classification(lambda: nn.Linear(12, 3)),
        classification(tied),
        classification(lambda: copy.deepcopy(BASE)),
    ]
    alive = []
    for task in tasks:
        for backend in (batched, sequential):
            data = federate(X, Y, clients=6)
            alive += [weakref.ref(data), weakref.ref(data.x), weakref.ref(data.test[0])]
            go(task, data, backend)
            go(task, lambda seed: federate(X, Y, clients=6, seed=seed), backend)
    alive += [weakref.ref(task), weakref.ref(task.template(data.x))]
    del data, task, tasks
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_layers_that_are_set_to_evaluate_are_functions_of_their_input():
    """Both engines leave the statistics of a pretrained body alone, and dropout off."""
    body = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Dropout(0.5))
    body(torch.from_numpy(X) * 3 + 1)  # statistics of other data
    task = classification(net(lambda m, x: m.head(m.body(x)), body=body.eval(), head=LINEAR))
    data = federate(X, Y, clients=6).double()
    slow, fast = go(task, data, sequential), go(task, data)
    torch.testing.assert_close(fast.w[0], slow.w[0], atol=1e-8, rtol=0)
    model = task.template_with(fast.w[0])
    alone = torch.cat([model(row[None]) for row in data.x])
    torch.testing.assert_close(model(data.x), alone)


@pytest.mark.parametrize("backend", [batched, sequential])
def test_a_model_without_place_for_a_single_example_is_refused(backend):
    """The last batch of an epoch may have one example, whose batch axis squeeze() removes."""
    with pytest.raises(
        ValueError,
        match=r"for 2 examples, and for a single one it .*Try flatten\(1\), or squeeze\(-1\)",
    ):
        go(classification(net(lambda m, x: m.l(x).squeeze(), l=LINEAR)), backend=backend)


@pytest.mark.parametrize("wrap", [torch.jit.script, nn.DataParallel])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wrapped_module_is_refused_by_name(wrap):
    with pytest.raises(ValueError, match=r"takes no weights from outside.*Try the module before"):
        classification(lambda: wrap(nn.Linear(12, 3)))


def test_a_model_is_evaluated_in_the_precision_of_the_examples():
    task, data = classification(lambda: copy.deepcopy(LINEAR)), federate(X, Y, clients=6)
    w = initial(task, 0)
    assert evaluate(task, w, data.double()) == evaluate(task, w.double(), data.double())


@pytest.mark.parametrize(
    "register", [nn.Parameter.register_hook, nn.Parameter.register_post_accumulate_grad_hook]
)
def test_a_hook_on_a_gradient_is_refused(register):
    """Clients' weights stand in the place of the parameter, so that both engines went past it."""

    def model():
        layer = nn.Linear(12, 3)
        register(layer.weight, lambda g: None)
        return layer

    with pytest.raises(
        ValueError, match="the parameter 'weight' of Linear has a hook on its gradient"
    ):
        classification(model)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_frozen_program_of_torch_jit_trains_with_its_head():
    body = torch.jit.trace(nn.Linear(12, 12).requires_grad_(False), torch.zeros(2, 12))
    task = classification(lambda: nn.Sequential(copy.deepcopy(body), nn.Linear(12, 3)))
    assert go(task).w[0].numel() == 39


def test_outputs_may_have_time_first():
    """As those of recurrent networks and CTC: [steps, B, classes]."""
    model = net(lambda m, x: m.l(x.unflatten(1, (4, 3))).transpose(0, 1), l=nn.Linear(3, 3))
    task = Task(model, lambda output, y: F.cross_entropy(output.mean(0), y, reduction="none"), {})
    assert np.isfinite(go(task, backend=sequential).rounds["train_loss"].iloc[-1])
