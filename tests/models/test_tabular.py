import torch

from fedlab.data import load
from fedlab.models import logistic_regression, mlp
from fedlab.models.tabular import accuracy, cross_entropy, perceptron
from fedlab.run import initial


def test_sizes_that_must_come_out_exactly():
    assert sum(p.numel() for p in perceptron((784, 200, 200, 10)).parameters()) == 199_210  # the 2NN on MNIST
    digits, cancer = load("digits"), load("breast_cancer")
    assert len(initial(mlp(digits), 0)) == 64 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10
    assert len(initial(logistic_regression(cancer), 0)) == 30 * 2 + 2


def test_losses_and_metrics_are_per_example():
    output, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0])
    assert accuracy(output, y).tolist() == [1.0, 0.0]
    expected = torch.log(1 + torch.exp(torch.tensor([-2.0, 3.0])))
    torch.testing.assert_close(cross_entropy(output, y), expected)


def test_pictures_are_flattened():
    assert perceptron((12, 3))(torch.zeros(5, 3, 4)).shape == (5, 3)
