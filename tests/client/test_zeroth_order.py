from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlab.client import assign, plan, zeroth_order
from fedlab.core import Cohort, Experiment, Local
from fedlab.data import load
from fedlab.engine import initial, run
from fedlab.models import least_squares, logistic_regression, random_subspace
from fedlab.models.random_subspace import RandomSubspace
from fedlab.server import fedavg, fedprox, uniform, weighted_mean


@pytest.fixture(scope="module")
def digits():
    return load("digits", 10)


def test_the_model_moves_along_directions_that_seeds_give(digits):
    task = random_subspace(logistic_regression(digits), 6)
    model = task.template(torch.zeros(6))
    z = torch.stack([model.direction(k) for k in range(6)])
    assert z.shape == (6, 650)
    assert abs(z.mean()) < 0.1
    assert abs(z.std() - 1) < 0.1
    a = torch.tensor([1.0, 0, -2, 0, 0, 0.5])
    torch.testing.assert_close(model.point(a), model.w_0 + a @ z, atol=1e-5, rtol=1e-5)
    assert model.point(a) is model.point(a.clone()), "kept until another one is asked for"
    assert torch.equal(initial(task, 0), initial(task, 1))
    second_seed = random_subspace(logistic_regression(digits), 6, seed=1).template(torch.zeros(6))
    assert not torch.equal(second_seed.direction(0), z[0])


def test_a_step_is_the_derivative_along_its_direction(digits):
    """The difference quotient of a quadratic is exact, and equals autograd's derivative."""
    data = replace(digits, y=digits.y.double(), classes=()).double()
    task = random_subspace(least_squares(data), 5)
    a = torch.linspace(-1, 1, 5, dtype=torch.double)
    work = assign(a, [data.parts[0]], [Local(0.1, None, steps=1)], data.parts[0].reshape(1, 1, -1))
    moved = zeroth_order(task, data.x, data.y, work).delta[0]
    assert (moved != 0).sum() == 1, "one direction a step"
    at = a.clone().requires_grad_()
    loss = task.loss(task.forward(at, data.x[data.parts[0]]), data.y[data.parts[0]]).mean()
    (gradient,) = torch.autograd.grad(loss, at)
    k = int(moved.nonzero())
    torch.testing.assert_close(moved[k], -0.1 * gradient[k], rtol=1e-6, atol=0)


def test_every_step_draws_its_own_direction(digits):
    task = random_subspace(logistic_regression(digits), 64)
    local = Local(1e-3, batch_size=5)
    batches = plan(list(digits.parts), 0, 1, local, len(digits.y))
    work = assign(initial(task, 0), list(digits.parts), [local] * 10, batches)
    first, again = (zeroth_order(task, digits.x, digits.y, work) for _ in range(2))
    assert torch.equal(first.delta, again.delta)
    assert (first.steps == 29).all()
    second = zeroth_order(
        task, digits.x, digits.y, work._replace(cohorts=(Cohort(np.arange(10), 2, 0, 10),))
    )
    assert ((second.delta != 0) != (first.delta != 0)).any(1).all(), (
        "the same batches in another round, other directions"
    )
    used = (first.delta != 0).sum(1)
    assert used.min() > 15
    assert (used <= 29).all()


@pytest.mark.slow
def test_fedkseed_learns_from_kilobytes(digits):
    """Whatever the model's size: what goes up is a number a direction."""
    task = random_subspace(logistic_regression(digits), 200)
    local = Local(0.03, batch_size=32, epochs=5)
    study = Experiment(
        digits, task, local, fedavg(), weighted_mean, uniform(5), rounds=20, eval_every=20
    )
    result = run(study, zeroth_order)
    assert result.rounds["accuracy"].iloc[-1] > result.rounds["accuracy"].iloc[0] + 0.3
    assert (result.clients["up_values"] == 4 * 200).all()
    assert (result.clients["bytes_up"] < 4 * 200 + 200).all()


def test_what_does_not_go_together_says_why(digits):
    plain, task = logistic_regression(digits), random_subspace(logistic_regression(digits), 4)
    study = Experiment(digits, plain, Local(0.1), fedavg(), weighted_mean, uniform(2), rounds=1)
    with pytest.raises(
        ValueError, match=r"no directions, and zeroth_order needs them\. Try the task"
    ):
        run(study, zeroth_order)
    for parts in (
        {"local": Local(0.1, momentum=0.5)},
        {"local": Local(0.1, optimizer="adamw")},
        {"algorithm": fedprox(0.1)},
    ):
        with pytest.raises(ValueError, match="zeroth_order takes plain SGD steps"):
            run(replace(study, task=task, **parts), zeroth_order)
    with pytest.raises(ValueError, match="num=0"):
        random_subspace(plain, 0)


def test_a_model_along_directions_can_be_kept_and_run(digits):
    task = random_subspace(logistic_regression(digits), 4)
    module = task.module(torch.ones(4))
    assert isinstance(module, RandomSubspace)
    assert module(digits.x[:3]).shape == (3, 10)
