from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlab import params
from fedlab.client import batched, batches, plan, sequential, tickets
from fedlab.client.local import epochs_needed
from fedlab.models import logistic_regression
from fedlab.records import Local, Task, Work
from fedlab.run import initial

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
    draws = tickets(31, epochs_needed(np.array([1]), local), 3, 1)
    for row, part in zip(whole, PARTS, strict=True):
        mine = [step[step >= 0].tolist() for step in row]
        expected = [batch.tolist() for batch in batches(part, draws, local)]
        assert mine == expected + [[]] * (len(mine) - len(expected))


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


def test_nobody_and_nothing():
    assert plan([], 0, 1, Local(0.1), 31).shape[0] == 0
    assert plan([PARTS[1]], 0, 1, Local(0.1), 31).shape == (1, 0, 1)


@pytest.mark.parametrize(
    "bad", [{"lr": 0}, {"lr": -1}, {"lr": float("nan")}, {"batch_size": 0}, {"epochs": 0}, {"steps": 0.5}]
)
def test_local_refuses(bad):
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=rf"{name}={value}"):
        Local(**{"lr": 0.1, **bad})


def work_for(task, data, parts, local, h=None, mu=None, seeds=(0,)):
    m = len(parts)
    return Work(
        start=torch.stack([initial(task, seed) for seed in seeds]),
        origin=torch.arange(m) % len(seeds),
        batches=torch.from_numpy(plan(parts, 0, 1, local, len(data.y))),
        num_examples=torch.tensor([float(len(part)) for part in parts]),
        lr=torch.linspace(0.5, 1, m) * local.lr,
        h=h,
        mu=torch.zeros(m) if mu is None else mu,
    )


@pytest.mark.parametrize("model", ["mlp", "logistic"])
@pytest.mark.parametrize("local", LOCALS, ids=str)
@pytest.mark.parametrize("terms", ["none", "h", "mu", "both"])
def test_batched_equals_sequential(study, model, local, terms):
    """Over models, ragged and empty clients, rows' own learning rates and starts, linear and proximal terms.

    In double precision: rounding may flip a ReLU at zero, and that is not what this test is about.
    """
    data = study.data(0)
    data = replace(data, x=data.x.double())
    task = study.task if model == "mlp" else logistic_regression(data)
    parts = [*PARTS, *data.parts]
    d = len(initial(task, 0))
    draw = torch.Generator().manual_seed(0)
    h = 0.1 * torch.randn(len(parts), d, generator=draw, dtype=torch.double) if terms in ("h", "both") else None
    mu = torch.rand(len(parts), generator=draw) if terms in ("mu", "both") else None
    work = work_for(task, data, parts, local, h, mu, seeds=(0, 1, 2))
    work = work._replace(start=work.start.double())
    before = [column.clone() if torch.is_tensor(column) else column for column in work]
    slow, fast = sequential(task, data.x, data.y, work), batched(task, data.x, data.y, work, chunk=7)
    for name, a, b in zip(slow._fields, slow, fast, strict=True):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=0, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}")
    assert slow.delta[1].eq(0).all()
    assert slow.loss[1].isnan()
    assert slow.steps[1] == 0
    for was, now in zip(before, work, strict=True):
        assert was is now or torch.equal(was, now), "inputs are left as they were"


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
    loss = task.loss(params.forward(task.template, w, data.x), data.y).mean()
    (g,) = torch.autograd.grad(loss, w)
    updates = engine(task, data.x, data.y, work)
    torch.testing.assert_close(updates.delta[0], -work.lr[0] * g, atol=1e-6, rtol=0)
    torch.testing.assert_close(updates.loss[0], loss.detach())


@pytest.mark.parametrize("engine", [sequential, batched])
def test_the_terms_are_those_of_the_objective(study, engine):
    """One step from a displaced point would be needed to see mu: two full-batch steps, written out by hand."""
    data, task, part = study.data(0), study.task, np.arange(20)
    d = len(initial(task, 0))
    h, mu = 0.01 * torch.ones(1, d), torch.tensor([0.7])
    work = work_for(task, data, [part], Local(0.2, batch_size=None, epochs=2), h, mu)
    w_t = w = work.start[0]
    for _ in range(2):
        w = w.clone().requires_grad_()
        objective = task.loss(params.forward(task.template, w, data.x[part]), data.y[part]).mean()
        objective = objective + h[0] @ w + mu / 2 * ((w - w_t) ** 2).sum()
        (g,) = torch.autograd.grad(objective, w)
        w = (w - work.lr[0] * g).detach()
    torch.testing.assert_close(engine(task, data.x, data.y, work).delta[0], w - w_t, atol=1e-6, rtol=0)


def test_a_model_without_stacked_form_is_refused_with_the_way_out(study):
    data = study.data(0)
    task = Task(lambda: torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.LayerNorm(8)), study.task.loss, {})
    work = work_for(task, data, [PARTS[0]], Local(0.1))
    with pytest.raises(TypeError, match=r"no stacked form of LayerNorm: .*backend=sequential"):
        batched(task, data.x, data.y, work)
