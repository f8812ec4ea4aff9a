import copy
import sys
import tracemalloc
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fedlab.client import (
    assign,
    batched,
    batches,
    full_gradients,
    lowrank,
    lr_sum,
    optimizers,
    plan,
    sequential,
    shuffle_keys,
)
from fedlab.client.batch_plan import epochs_needed
from fedlab.client.lowrank import FactoredRows
from fedlab.client.method import full_method
from fedlab.client.trial import WorkKind
from fedlab.core import Local, Terms, generator, params, split_rows, weighted_sum
from fedlab.engine import initial
from fedlab.engine.lockstep import stack_work
from fedlab.models import classification, mlp
from fedlab.models.vision import convolutional, residual
from fedlab.server import weighted_mean

PARTS = [np.arange(0, 7), np.array([], dtype=int), np.arange(7, 8), np.arange(8, 31)]
LOCALS = [
    Local(0.1, batch_size=5),
    Local(0.1, batch_size=5, epochs=3),
    Local(0.1, batch_size=None, epochs=2),
    Local(0.1, batch_size=4, steps=7),
    Local(0.1, batch_size=100, epochs=2),
]


@pytest.mark.parametrize("local", LOCALS, ids=str)
def test_a_plan_is_everybodys_batches(local):
    whole = plan(PARTS, 3, 1, local, 31)
    draws = list(shuffle_keys(31, epochs_needed(np.array([1]), local), 3, 1))
    for row, part in zip(whole, PARTS, strict=True):
        planned = [step[step >= 0].tolist() for step in row]
        expected = [batch.tolist() for batch in batches(part, draws, local)]
        assert planned == expected + [[]] * (len(planned) - len(expected))


def test_shuffle_keys_are_one_draw_epoch_after_epoch():
    whole = generator(3, "batches", 1).random((4, 31), dtype=np.float32)
    assert np.array_equal(list(shuffle_keys(31, 4, 3, 1)), whole)


def test_a_tiny_client_that_takes_many_epochs_costs_no_more_than_its_steps():
    n, local = 20_000, Local(0.1, batch_size=10, steps=100)
    parts = [*np.split(np.arange(1800), 9), np.array([1900])]
    tracemalloc.start()
    whole = plan(parts, 0, 1, local, n)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert whole.shape == (10, 100, 10)
    assert (whole[9, :, 0] == 1900).all()
    assert peak < 10 * whole.nbytes, (
        "all that would be drawn for 100 epochs of everybody is a hundred times as much"
    )
    draws = list(shuffle_keys(n, 100, 0, 1))
    for row, part in zip(whole, parts, strict=True):
        assert [step[step >= 0].tolist() for step in row] == [
            batch.tolist() for batch in batches(part, draws, local)
        ]


@pytest.mark.parametrize("local", LOCALS[:3], ids=str)
def test_every_example_is_visited_once_an_epoch(local):
    for row, part in zip(plan(PARTS, 0, 1, local, 31), PARTS, strict=True):
        seen = np.sort(row[row >= 0])
        assert (seen == np.sort(np.tile(part, local.epochs))).all()


def test_a_clients_order_does_not_depend_on_who_else_takes_part():
    local = Local(0.1, batch_size=5, epochs=2)
    together, by_itself = plan(PARTS, 0, 4, local, 31), plan([PARTS[0]], 0, 4, local, 31)
    real = [step[step >= 0].tolist() for step in together[0] if (step >= 0).any()]
    assert real == [step[step >= 0].tolist() for step in by_itself[0]]
    assert (plan(PARTS, 0, 5, local, 31)[0] != together[0]).any()
    assert (plan(PARTS, 1, 4, local, 31)[0] != together[0]).any()


@pytest.mark.parametrize("local", LOCALS, ids=str)
def test_cohorts_of_several_seeds_are_planned_as_one(local):
    others = [np.arange(12), np.arange(12, 31)]
    together = plan(
        [*PARTS, *others, *PARTS], [3] * len(PARTS) + [9, 9] + [3] * len(PARTS), 1, local, 31
    )
    apart = [
        *plan(PARTS, 3, 1, local, 31),
        *plan(others, 9, 1, local, 31),
        *plan(PARTS, 3, 1, local, 31),
    ]
    assert np.array_equal(plan(others, np.int64(9), 1, local, 31), plan(others, 9, 1, local, 31))
    visits = lambda row: [step[step >= 0].tolist() for step in row if (step >= 0).any()]  # noqa: E731
    assert list(map(visits, together)) == list(map(visits, apart))


def test_nobody_and_nothing():
    assert plan([], 0, 1, Local(0.1), 31).shape[0] == 0
    assert plan([PARTS[1]], 0, 1, Local(0.1), 31).shape == (1, 0, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0},
        {"lr": -1},
        {"lr": float("nan")},
        {"batch_size": 0},
        {"epochs": 0},
        {"steps": 0.5},
        {"momentum": 1},
        {"momentum": -0.1},
        {"weight_decay": -1},
        {"optimizer": "adam"},
    ],
)
def test_local_refuses(bad):
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        Local(**{"lr": 0.1, **bad})


def work_for(task, data, parts, local, *, h=None, mu=None, seeds=(0,)):
    """Clients with their own learning rates, and their own of several starts."""
    m, start = len(parts), torch.stack([initial(task, seed, data.x) for seed in seeds])
    work = assign(start[0], parts, [local] * m, plan(parts, 0, 1, local, len(data.y)))
    return work._replace(
        start=start,
        origin=np.arange(m) % len(seeds),
        lr=np.linspace(0.5, 1, m) * local.lr,
        h=h,
        mu=work.mu if mu is None else mu,
    )


OPTIMIZERS = {
    "sgd": {},
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.01},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("terms", ["none", "h", "mu", "both"])
@pytest.mark.parametrize(
    "local", LOCALS, ids=["one epoch", "three", "full batch", "steps", "large batches"]
)
def test_batched_equals_sequential(study, local, terms, optimizer):
    """The engines agree for ragged and empty clients, different rates and starts, and all terms.

    In double precision: rounding may flip a ReLU at zero, and that is not what this test is about.
    """
    data, task, local = study.data(0).double(), study.task, replace(local, **optimizer)
    parts = [*PARTS, *data.parts[:12]]
    d = len(initial(task, 0))
    draw = torch.Generator().manual_seed(0)
    h = (
        0.1 * torch.randn(len(parts), d, generator=draw, dtype=torch.double)
        if terms in ("h", "both")
        else None
    )
    mu = (
        torch.rand(len(parts), generator=draw, dtype=torch.double).numpy()
        if terms in ("mu", "both")
        else None
    )
    check(task, data, work_for(task, data, parts, local, h=h, mu=mu, seeds=(0, 1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("masks", ["one", "a row a client", "of two runs"])
def test_masked_parameters_stay_0_in_both_engines(study, masks, optimizer):
    data, task, local = (
        study.data(0).double(),
        study.task,
        replace(Local(0.1, batch_size=5, epochs=2), **optimizer),
    )
    parts, w = [*PARTS, *data.parts[:8]], initial(task, 0, data.x)
    draw = torch.Generator().manual_seed(0)
    mask = (torch.rand(1 if masks == "one" else len(parts), len(w), generator=draw) < 0.6).double()
    work = assign(
        w,
        parts,
        [local] * len(parts),
        plan(parts, 0, 1, local, len(data.y)),
        Terms(mu=0.3, mask=mask),
    )
    if masks == "of two runs":
        work = stack_work(
            [work, assign(w, parts, [local] * len(parts), work.batches, Terms(mu=0.3))]
        )
    check(task, data, work)
    updates = sequential(task, data.x, data.y, work)
    assert torch.equal(work.start, w * work.mask)
    assert (updates.delta[: len(parts)] * (1 - mask) == 0).all()
    assert (updates.delta[: len(parts)][3:] != 0).any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_network_without_some_units_trains_as_the_smaller_one(study, optimizer):
    """Where a unit's weights and bias are 0, in and out, a ReLU gives 0 and passes nothing back."""
    data, local = study.data(0).double(), replace(Local(0.1, batch_size=5, epochs=2), **optimizer)
    large, small = (mlp(data, hidden=(32, 16))), mlp(data, hidden=(20, 5))
    sizes = {"1": (20, 64), "3": (5, 20), "5": (10, 5)}  # rows and columns of each layer

    def cut(row):
        views = params.views(row, large.shapes)
        return [
            views[f"{k}.{kind}"][..., :m, :n] if kind == "weight" else views[f"{k}.{kind}"][..., :m]
            for k, (m, n) in sizes.items()
            for kind in ("weight", "bias")
        ]

    w = initial(large, 0, data.x)
    mask = torch.zeros_like(w)
    for piece in cut(mask):
        piece.fill_(1)
    parts, start = data.parts[8:14], torch.cat([piece.flatten() for piece in cut(w)])
    batches = plan(parts, 0, 1, local, len(data.y))
    whole, part = (
        sequential(
            task, data.x, data.y, assign(start, parts, [local] * 6, batches, Terms(mask=only))
        )
        for task, start, only in ((large, w, mask[None]), (small, start, None))
    )
    rows = torch.cat([piece.flatten(1) for piece in cut(whole.delta)], 1)
    torch.testing.assert_close(rows, part.delta, atol=1e-10, rtol=0)
    torch.testing.assert_close(whole.loss, part.loss, equal_nan=True)


def check(task, data, work, atol=1e-6):
    before = copy.deepcopy(work)
    slow, fast = (
        sequential(task, data.x, data.y, work),
        batched(task, data.x, data.y, work, chunk=7),
    )
    for name, a, b in zip(slow._fields, slow, fast, strict=True):
        if a is None:
            assert b is None
            continue
        torch.testing.assert_close(
            b, a, atol=atol, rtol=0, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )
    empty = [i for i, row in enumerate(work.batches) if (row < 0).all()]
    assert slow.delta[empty].eq(0).all()
    assert slow.loss[empty].isnan().all()
    assert slow.steps[empty].eq(0).all()
    for was, after in zip(before, work, strict=True):
        assert np.array_equal(was, after), "inputs stay as they were"


class Residual(nn.Module):
    """Not a Sequential, and a layer whose input is used twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3, padding="same"))
        self.norm, self.conv = (
            nn.GroupNorm(2, 6),
            nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False),
        )
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv(self.norm(x).relu())
        return self.head(x.mean((2, 3)))


class Words(nn.Module):
    """Pixels as words: an embedding with a padding word, layer norms over one and two axes."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(17, 6, padding_idx=0)
        self.norm, self.norm2 = nn.LayerNorm(6), nn.LayerNorm((64, 6), bias=False)
        self.linear, self.head = nn.Linear(6, 6), nn.Linear(6, 10)

    def forward(self, x):
        x = self.norm(self.embed((x * 16).long()))
        return self.head(self.norm2(torch.tanh(self.linear(x))).mean(1))


class Scale(nn.Module):
    """A parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(64)), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x * self.scale)


class Tied(nn.Module):
    """The same layer three times in a pass."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.layer(self.layer(self.layer(x).relu()).relu()))


class Stubborn(nn.Module):
    """A pass that depends on the numbers: vmap cannot."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(1)), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x * self.scale if self.scale.item() > 0 else x)


def frozen():
    model = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
    model[0].requires_grad_(False)
    return model


MODELS = {
    "logistic": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "layer_by_layer"),
    "nested": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(64, 9, bias=False), nn.GELU()),
            nn.Linear(9, 10),
        ),
        "layer_by_layer",
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 2, bias=False, dilation=1),
            nn.Flatten(),
            nn.LayerNorm(6),
            nn.Linear(6, 10),
        ),
        "layer_by_layer",
    ),
    "McMahan's": (lambda: convolutional((64,), 10), "layer_by_layer"),
    "ResNet-8": (lambda: residual((64,), 10, width=4, blocks=1), "swapped_layers"),
    "frozen": (frozen, "layer_by_layer"),
    "bare": (lambda: nn.Linear(64, 10), "swapped_layers"),
    "residual": (Residual, "swapped_layers"),
    "words": (Words, "swapped_layers"),
    "own parameter": (Scale, "mapped"),
    "tied": (Tied, "swapped_layers"),
    "batch mean": (lambda: nn.Sequential(nn.Linear(64, 10), Centred()), None),
    "stubborn": (Stubborn, None),
}  # fmt: skip


class Centred(nn.Module):
    """Mixes the examples of a batch."""

    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_its_fastest_form_and_all_give_the_same(study, name, optimizer):
    model, form = MODELS[name]
    data = study.data(0).double()
    task = classification(lambda: model().double())
    method = full_method(task, data.x, data.y, initial(task, 0, data.x))
    assert (method and method.build.__name__) == form
    with nullcontext() if form else pytest.warns(UserWarning, match="they train one after another"):
        batched(task, data.x, data.y, work_for(task, data, PARTS, Local(0.1)))
    d, parts = len(initial(task, 0)), [*PARTS, *data.parts[:6]]
    h = 0.01 * torch.randn(
        len(parts), d, generator=torch.Generator().manual_seed(0), dtype=torch.double
    )
    mu = np.linspace(0, 1, len(parts))
    local = replace(Local(0.1, batch_size=5, epochs=2), **optimizer)
    check(task, data, work_for(task, data, parts, local, h=h, mu=mu, seeds=(0, 1)))


@pytest.mark.parametrize("name", ["logistic", "nested"])
@pytest.mark.parametrize("starts", ["one", "as many clients each", "uneven"])
@pytest.mark.parametrize(
    "local",
    [Local(0.1, batch_size=3, epochs=2), Local(0.1, batch_size=None)],
    ids=["few", "full batch"],
)
def test_few_examples_are_kept_as_factors(study, name, starts, local, monkeypatch):
    """The update of a Linear layer, kept as factors of low rank, is the same to rounding."""
    data = study.data(0).double()
    task, parts = (
        classification(lambda: MODELS[name][0]().double()),
        [*PARTS[:3], *np.split(np.arange(8, 38), 3)],
    )
    work = work_for(
        task, data, [*parts, *parts], local, seeds=(0,) if starts == "one" else (0, 1, 2)
    )
    if starts == "uneven":
        work = work._replace(origin=work.origin.clip(1))  # nobody starts from the first
    check(task, data, work, atol=1e-12)
    factored = batched(task, data.x, data.y, work).delta
    assert type(factored) is FactoredRows
    monkeypatch.setattr(lowrank, "MAX_EXAMPLES", 0)
    written = batched(task, data.x, data.y, work).delta
    assert type(written) is torch.Tensor
    same = partial(torch.testing.assert_close, atol=1e-12, rtol=0)
    p = torch.rand(len(written), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    for low, high in ((0, 12), (0, 6), (6, 12), (2, 9), (4, 4)):  # the rows of a start, and others
        monkeypatch.undo()
        factored = batched(task, data.x, data.y, work).delta
        sizes = [low, high - low, len(written) - high]
        blocks = split_rows(factored, sizes)
        for k, block in enumerate(written.split_with_sizes(sizes)):
            weights = p.split_with_sizes(sizes)[k]
            same(weighted_sum(weights, blocks[k]), weights @ block)
            same(weights @ blocks[k], weights @ block)  # the operator
            same(torch.matmul(weights, blocks[k]), weights @ block)  # the dense rows
    same(p[:12:5] @ factored[:12:5], p[:12:5] @ written[:12:5])
    same(factored[6:].sum(1), written[6:].sum(1))
    same(factored.clone(), written)


def test_runs_in_lockstep_have_their_means_by_size_from_one_product(study, monkeypatch):
    data, task, asked = (
        study.data(0).double(),
        classification(lambda: MODELS["nested"][0]().double()),
        [],
    )
    parts = [
        np.arange(60)[a:b] for a, b in ((0, 3), (3, 20), (20, 21), (21, 29), (29, 29))
    ]  # who leave one by one
    work = work_for(task, data, 3 * parts, Local(0.1, batch_size=3), seeds=(0, 1, 2))
    n, each = torch.from_numpy(work.num_examples).view(3, 5), FactoredRows.weighted_sums
    same = partial(torch.testing.assert_close, atol=1e-12, rtol=0)
    monkeypatch.setattr(
        FactoredRows, "weighted_sums", lambda rows, p: asked.append(len(p)) or each(rows, p)
    )
    for origin in (np.repeat([0, 1, 2], 5), np.repeat([2, 0, 1], 5)):
        work = work._replace(origin=origin)
        right = batched(task, data.x, data.y, work).delta.dense().view(3, 5, -1)
        rows = batched(task, data.x, data.y, work).delta
        by_size = [(n[s] / n[s].sum()) @ right[s] for s in range(3)]
        runs = split_rows(rows, [5, 5, 5])
        asked.clear()
        same(weighted_mean(runs[2], torch.ones_like(n[2])), right[2].mean(0))
        for s in (1, 0, 2):
            same(weighted_mean(runs[s], n[s]), by_size[s])
        assert asked == [5, 15]
        weighted_mean(
            runs[1], n[1]
        ).zero_()  # what was given away is not given again, and is nobody else's
        same(weighted_mean(runs[1], n[1]), by_size[1])
        assert asked == [5, 15, 5, 5]

        rows = batched(task, data.x, data.y, work).delta
        last = split_rows(split_rows(rows, [5, 10])[1], [5, 5])[1]
        assert type(last) is FactoredRows
        same(weighted_mean(last, torch.ones_like(n[2])), right[2].mean(0))
        runs = split_rows(rows, [5, 5, 5])
        same(rows.sum(0), right.sum((0, 1)))  # writes them; the slices have what they had
        for s in range(3):
            same(weighted_mean(runs[s], n[s]), by_size[s])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("v", [1, 2, 5])
@pytest.mark.parametrize(("n", "k", "m"), [(7, 6, 5), (lowrank.TALL, 6, 5), (400, 100, 101)])
def test_products_are_the_same_whatever_blas_is_best_at(v, n, k, m, threads, monkeypatch):
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    x, w, b = draw(v, n, k), draw(v, m * k + 3)[:, 3:].view(v, m, k).mT, draw(v, 1, m)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.testing.assert_close(lowrank.affine(x, w, b), torch.einsum("vnk,vkm->vnm", x, w) + b)


def test_factors_are_written_for_whoever_wants_more_than_their_weighted_sum(study, monkeypatch):
    data, task = study.data(0), classification(MODELS["nested"][0])
    work = work_for(task, data, np.split(np.arange(60), 6), Local(0.1, batch_size=5))
    rows, p = batched(task, data.x, data.y, work).delta, torch.full((6,), 1 / 6)
    monkeypatch.setattr(FactoredRows, "dense", lambda rows: pytest.fail("written"))
    assert (len(rows), rows.shape, rows.dtype) == (6, (6, len(work.start[0])), torch.float32)
    mean = weighted_mean(rows, torch.ones(6))
    assert torch.equal(p @ rows, mean)
    monkeypatch.undo()
    torch.testing.assert_close(mean, rows.mean(0), atol=1e-7, rtol=1e-5)
    for use in (
        lambda r: 2 * r,
        lambda r: r - 1,
        lambda r: r[3],
        lambda r: r @ mean,
        lambda r: r[torch.tensor([5, 0])],
        lambda r: torch.cat([r, r]),
        lambda r: torch.stack(list(r)),
        lambda r: p.repeat(2, 1) @ r,
    ):
        assert type(use(rows)) is torch.Tensor
        torch.testing.assert_close(use(rows), use(rows.dense()))
    np.testing.assert_array_equal(rows.numpy(), rows.dense().numpy())
    torch.testing.assert_close(weighted_mean(rows.mul_(2), torch.ones(6)), 2 * mean)


@pytest.mark.parametrize("name", ["logistic", "cnn", "residual", "words"])
def test_in_single_precision_to_rounding(study, name):
    data, task = study.data(0), classification(MODELS[name][0])
    check(
        task,
        data,
        work_for(task, data, [*PARTS, *data.parts[:6]], Local(0.05, batch_size=5)),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("local", "reference"),
    [
        (Local(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (
            Local(0.1, momentum=0.9, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        ),
        (
            Local(0.1, optimizer="adamw", weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
        ),
    ],
    ids=OPTIMIZERS,
)
def test_optimizers_are_pytorchs(study, local, reference):
    data, local, part = study.data(0).double(), replace(local, batch_size=5), np.arange(23)
    task = study.task
    work = work_for(task, data, [part], local)._replace(lr=np.array([local.lr]))
    w = work.start[0].clone().requires_grad_()
    optimizer = reference([w])
    for batch in work.batches[0]:
        batch = batch[batch >= 0]
        optimizer.zero_grad()
        task.loss(task.forward(w, data.x[batch]), data.y[batch]).mean().backward()
        optimizer.step()
    torch.testing.assert_close(
        sequential(task, data.x, data.y, work).delta[0], w.detach() - work.start[0]
    )


@pytest.mark.parametrize(
    "local", [Local(0.1), Local(0.1, momentum=0.9), Local(0.1, momentum=0.5)], ids=str
)
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_lr_sum_is_the_weight_of_a_constant_gradient(study, local, mu):
    """With two constant gradients h, updates differ by -lr_sum times the difference of h."""
    data, task, parts = (
        study.data(0).double(),
        classification(lambda: nn.Linear(64, 10)),
        [np.arange(3), np.arange(30)],
    )
    flat = replace(
        data, x=torch.zeros_like(data.x)
    )  # the weights of the layer then see nothing but h
    local = replace(local, batch_size=4)
    h = torch.ones(2, len(initial(task, 0)), dtype=torch.double)
    with_h, without = (
        work_for(task, flat, parts, local, h=h * c, mu=np.full(2, mu)) for c in (1, 0)
    )
    a, b = (sequential(task, flat.x, flat.y, work) for work in (with_h, without))
    torch.testing.assert_close((b.delta - a.delta)[:, 0], a.lr_sum)
    if not mu:
        rho, tau = local.momentum, a.steps.numpy()
        np.testing.assert_allclose(
            a.lr_sum, with_h.lr * (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
        )
    decayed = with_h._replace(weight_decay=torch.full((2,), 0.3, dtype=torch.double))
    np.testing.assert_allclose(
        lr_sum(decayed, a.steps.numpy()), a.lr_sum, err_msg="the decay is part of the gradient"
    )


def test_a_probe_is_loss_and_gradient_of_all_that_a_client_holds(study, monkeypatch):
    data, task = study.data(0), study.task
    w = initial(task, 0)
    monkeypatch.setattr(sys.modules["fedlab.client.sequential"], "PROBED_AT_ONCE", 10)
    loss, gradient = full_gradients(task, data.x, data.y, w, PARTS)
    for i, part in enumerate(PARTS):
        if len(part) == 0:
            assert loss[i].isnan()
            assert gradient[i].eq(0).all()
            continue
        at = w.clone().requires_grad_()
        mean = task.loss(task.forward(at, data.x[part]), data.y[part]).mean()
        torch.testing.assert_close(loss[i], mean.detach())
        torch.testing.assert_close(gradient[i], torch.autograd.grad(mean, at)[0])


@pytest.mark.parametrize("name", ["logistic", "nested", "cnn", "residual", "own parameter"])
@pytest.mark.parametrize(
    "local", [Local(0.1, batch_size=3), Local(0.1, batch_size=5, epochs=2)], ids=["few", "more"]
)
def test_pads_read_no_example_of_another_client(study, name, local):
    """Example 0, which no client holds, is non-finite; clients end at different steps."""
    data, task = study.data(0).double(), classification(lambda: MODELS[name][0]().double())
    data.x[0] = torch.inf
    parts = [np.arange(*ends) for ends in ((1, 8), (8, 8), (8, 9), (9, 20), (20, 22), (22, 22))]
    work = work_for(task, data, parts, local, seeds=(0, 1, 2))
    check(task, data, work, atol=1e-10)
    assert sequential(task, data.x, data.y, work).delta.isfinite().all()
    mean = weighted_mean(
        batched(task, data.x, data.y, work).delta, torch.from_numpy(work.num_examples)
    )
    assert mean.isfinite().all()


def test_the_form_is_tried_with_what_the_experiment_uses(study, monkeypatch):
    """A form whose second step is wrong where there is momentum is taken without it only."""
    data, task = study.data(0).double(), study.task
    step = optimizers.Momentum.step
    monkeypatch.setattr(
        optimizers.Momentum, "step", lambda mover, add: (step(mover, add), step(mover, add))
    )
    plain, kinds = (
        task.with_fresh_templates(),
        [
            WorkKind(),
            WorkKind(momentum=True),
            WorkKind("adamw"),
            WorkKind(mu=True, h=True),
        ],
    )
    w = initial(plain, 0, data.x)
    forms = [full_method(plain, data.x, data.y, w, kind) for kind in kinds]
    assert [form is not None for form in forms] == [True, False, True, True]


def test_a_trial_is_made_once_for_a_kind_of_work(study, monkeypatch):
    module, data, task = (
        sys.modules["fedlab.client.method"],
        study.data(0),
        study.task.with_fresh_templates(),
    )
    tried, right = [], module.passes_trial
    monkeypatch.setattr(
        module, "passes_trial", lambda *args: tried.append(args[-1]) or right(*args)
    )
    for local in (
        Local(0.1),
        Local(0.2),
        Local(0.1, momentum=0.9),
        Local(0.1, momentum=0.5, batch_size=7),
    ):
        batched(task, data.x, data.y, work_for(task, data, PARTS, local))
    assert tried == [WorkKind(), WorkKind(momentum=True)]


@pytest.mark.parametrize("engine", [sequential, batched])
def test_an_empty_cohort(study, engine):
    data, task = study.data(0), study.task
    updates = engine(task, data.x, data.y, work_for(task, data, [], Local(0.1)))
    assert updates.delta.shape == (0, len(initial(task, 0)))


@pytest.mark.parametrize("engine", [sequential, batched])
def test_one_full_batch_step_is_a_gradient_step(study, engine):
    data, task = study.data(0), study.task
    work = work_for(task, data, [np.arange(len(data.y))], Local(0.1, batch_size=None))
    w = work.start[0].clone().requires_grad_()
    loss = task.loss(task.forward(w, data.x), data.y).mean()
    (g,) = torch.autograd.grad(loss, w)
    updates = engine(task, data.x, data.y, work)
    torch.testing.assert_close(updates.delta[0], -work.lr[0] * g, atol=1e-6, rtol=0)
    torch.testing.assert_close(updates.loss[0], loss.detach())


@pytest.mark.parametrize("engine", [sequential, batched])
def test_the_terms_are_those_of_the_objective(study, engine):
    """Two full-batch steps by hand: mu has no effect in the first step."""
    data, task, part = study.data(0), study.task, np.arange(20)
    d = len(initial(task, 0))
    h, mu = 0.01 * torch.ones(1, d), np.array([0.7])
    work = work_for(task, data, [part], Local(0.2, batch_size=None, epochs=2), h=h, mu=mu)
    w_t = w = work.start[0]
    for _ in range(2):
        w = w.clone().requires_grad_()
        objective = task.loss(task.forward(w, data.x[part]), data.y[part]).mean()
        objective = objective + h[0] @ w + mu[0] / 2 * ((w - w_t) ** 2).sum()
        (g,) = torch.autograd.grad(objective, w)
        w = (w - work.lr[0] * g).detach()
    torch.testing.assert_close(
        engine(task, data.x, data.y, work).delta[0], w - w_t, atol=1e-6, rtol=0
    )
