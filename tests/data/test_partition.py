import numpy as np
import pytest

from fedlab.data import dirichlet, iid, load
from fedlab.rng import generator

Y = load("digits").y.numpy()
SPLITS = {
    "iid": iid(),
    "dirichlet(0.01)": dirichlet(0.01),
    "dirichlet(1)": dirichlet(1.0),
    "dirichlet(1e6)": dirichlet(1e6),
    "dirichlet(1e-6)": dirichlet(1e-6),
    "dirichlet(0.1, min_examples=5)": dirichlet(0.1, min_examples=5),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("clients", [1, 7, 100])
def test_disjoint_complete_and_deterministic(split, clients):
    parts = split(Y, clients, generator(0, "split"))
    assert len(parts) == clients
    assert (np.sort(np.concatenate(parts)) == np.arange(len(Y))).all()
    assert all((np.diff(part) > 0).all() for part in parts)
    again = split(Y, clients, generator(0, "split"))
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))
    if clients > 1:
        other = split(Y, clients, generator(1, "split"))
        assert any(len(a) != len(b) or (a != b).any() for a, b in zip(parts, other, strict=True))


def test_iid_sizes_differ_by_one_at_most():
    sizes = [len(part) for part in iid()(Y, 100, generator(0))]
    assert max(sizes) - min(sizes) <= 1


def test_dirichlet_proportions_have_the_distribution_of_the_paper():
    """The share of a class at one client is Beta(alpha, (N-1) alpha): mean 1/N, variance (N-1) / (N² (N alpha + 1))."""
    y, n, alpha = np.repeat(np.arange(2000), 1000), 4, 0.5
    shares = np.stack([np.bincount(y[p], minlength=2000) for p in dirichlet(alpha)(y, n, generator(0))]) / 1000
    assert abs(shares.mean() - 1 / n) < 1e-9
    assert shares.var(axis=1).mean() == pytest.approx((n - 1) / (n**2 * (n * alpha + 1)), rel=0.05)


def test_alpha_orders_the_skew():
    def classes_held(alpha):
        return np.mean([len(np.unique(Y[part])) for part in dirichlet(alpha)(Y, 20, generator(0)) if len(part)])

    assert classes_held(0.05) < classes_held(0.5) < classes_held(50)


def test_min_examples_holds_where_drawing_again_would_never_end():
    sizes = [len(part) for part in dirichlet(0.01, min_examples=10)(Y, 100, generator(0))]
    assert min(sizes) == 10


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_alpha_must_be_above_zero(alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha}: .* above 0; try"):
        dirichlet(alpha)


@pytest.mark.parametrize("split", [iid(), dirichlet(1.0)])
def test_more_clients_than_examples(split):
    with pytest.raises(ValueError, match=r"clients=2000 is more than the 1437 training examples: take fewer"):
        load("digits", 2000, split)
    with pytest.raises(ValueError, match=r"clients=0"):
        load("digits", 0, split)


def test_min_examples_that_cannot_be_met():
    with pytest.raises(ValueError, match=r"min_examples=20 for 100 clients asks for 2000 of 1437.*at most 14"):
        load("digits", 100, dirichlet(1.0, min_examples=20))
