import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import nn

from fedlab.data import federate, load
from fedlab.engine import initial
from fedlab.models import classification, least_squares, logistic_regression, mlp
from fedlab.models.tabular import (
    TRANSPOSED_FROM,
    VECTOR_WIDTH,
    accuracy,
    cross_entropy,
    half_squared_error,
    log_softmax,
    perceptron,
)


def test_sizes_that_must_come_out_exactly():
    assert (
        sum(p.numel() for p in perceptron((784, 200, 200, 10)).parameters()) == 199_210
    )  # the 2NN on MNIST
    digits, cancer = load("digits"), load("breast_cancer")
    assert len(initial(mlp(digits), 0)) == 64 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10
    assert len(initial(logistic_regression(cancer), 0)) == 30 * 2 + 2


def test_losses_and_metrics_are_per_example():
    output, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0])
    assert accuracy(output, y).tolist() == [1.0, 0.0]
    expected = torch.log(1 + torch.exp(torch.tensor([-2.0, 3.0])))
    torch.testing.assert_close(cross_entropy(output, y), expected)
    assert half_squared_error(torch.tensor([[2.0], [0.0]]), torch.tensor([-1.0, 0.5])).tolist() == [
        4.5,
        0.125,
    ]


@pytest.mark.parametrize("classes", [2, 10, VECTOR_WIDTH])
@pytest.mark.parametrize("n", [3, TRANSPOSED_FROM])
def test_cross_entropy_of_few_and_of_many_is_pytorchs(n, classes):
    output = 5 * torch.randn(n, classes, generator=torch.Generator().manual_seed(0))
    y, weight = torch.arange(n) % classes, torch.linspace(0, 1, n)
    log_p = output.double().softmax(1).log()
    torch.testing.assert_close(log_softmax(output).double(), log_p, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        cross_entropy(output, y), F.cross_entropy(output, y, reduction="none")
    )
    ours, theirs = (output.clone().requires_grad_() for _ in range(2))
    cross_entropy(ours, y).backward(weight)
    F.cross_entropy(theirs, y, reduction="none").backward(weight)
    torch.testing.assert_close(ours.grad, theirs.grad)
    with pytest.raises(IndexError, match="out of bounds"):
        cross_entropy(output, y + classes)


def test_pictures_are_flattened():
    assert perceptron((12, 3))(torch.zeros(5, 3, 4)).shape == (5, 3)


def test_the_mean_loss_of_least_squares_is_quadratic():
    """The gradient is ``A (w - w*)`` with A = XᵀX/n: 0 at the solution, and linear around it."""
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64) + x[:, 0] ** 2
    data = federate(x, y, clients=2, test=(x, y))
    task = least_squares(data)
    assert task.metrics == {}

    def gradient(w):
        w = w.requires_grad_()
        return torch.autograd.grad(task.loss(task.forward(w, x), y).mean(), w)[0]

    task.template(torch.empty(0, dtype=torch.double))
    best = torch.linalg.lstsq(x, y).solution
    step = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert gradient(best).abs().max() < 1e-12
    torch.testing.assert_close(gradient(best + step), x.T @ x @ step / 50)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.LazyBatchNorm1d()])
def test_batch_norm_is_refused_with_the_reason(norm):
    message = (
        rf"{type(norm).__name__} at '0.1' normalises by a client's batch: .* do not average "
        r".*GroupNorm\(2, channels\)"
    )
    with pytest.raises(ValueError, match=message):
        classification(lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 4), norm)))


def test_dropout_is_refused_where_it_does_anything():
    with pytest.raises(ValueError, match=r"Dropout at '1' draws from .* set p=0.5 to 0"):
        classification(lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)))
    classification(lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0)))


def test_other_norms_are_welcome_and_the_global_generator_stays():
    before = torch.get_rng_state()
    task = classification(
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4)
        )
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(task.template(torch.empty(0))[0], nn.Linear)


def test_what_does_not_train_has_the_precision_of_the_run():
    """Frozen layers and buffers, which no row holds, follow the row's precision and device."""

    def model():
        first = nn.Linear(4, 4).requires_grad_(False)
        nn.init.eye_(first.weight)
        nn.init.constant_(first.bias, 0.5)
        return nn.Sequential(first, nn.ReLU(), nn.Linear(4, 3))

    task, w, x = (
        classification(model),
        torch.randn(15, dtype=torch.double),
        torch.randn(5, 4, dtype=torch.double),
    )
    expected = torch.relu(x + 0.5) @ w[:12].view(3, 4).T + w[12:]
    torch.testing.assert_close(task.forward(w, x), expected)
    torch.testing.assert_close(task.template_with(w)(x).detach(), expected)
    assert task.forward(w.float(), x.float()).dtype == torch.float32
