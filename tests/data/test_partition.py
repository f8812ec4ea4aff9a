import re

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.core import generator
from fedlab.data import (
    classes_per_client,
    dirichlet,
    dirichlet_equal_sizes,
    iid,
    load,
    natural,
    quantity_dirichlet,
    quantity_lognormal,
    shards,
)
from fedlab.data.partition import class_numbers

Y = load("digits").y.numpy()
OWNER = generator(0, "owners").integers(120, size=len(Y))
SPLITS = {
    "iid": iid(),
    "dirichlet(0.01)": dirichlet(0.01),
    "dirichlet(1)": dirichlet(1.0),
    "dirichlet(1e6)": dirichlet(1e6),
    "dirichlet(1e-6)": dirichlet(1e-6),
    "dirichlet(0.1, min_examples=5)": dirichlet(0.1, min_examples=5),
    "dirichlet_equal_sizes(0.1)": dirichlet_equal_sizes(0.1),
    "dirichlet_equal_sizes(1e6)": dirichlet_equal_sizes(1e6),
    "dirichlet_equal_sizes(1e-300)": dirichlet_equal_sizes(1e-300),
    "shards(1)": shards(1),
    "shards(2)": shards(2),
    "classes_per_client(2)": classes_per_client(2),
    "classes_per_client(10)": classes_per_client(10),
    "quantity_lognormal(0)": quantity_lognormal(0),
    "quantity_lognormal(2)": quantity_lognormal(2),
    "quantity_lognormal(1e9)": quantity_lognormal(1e9),
    "quantity_dirichlet(0.1)": quantity_dirichlet(0.1),
    "quantity_dirichlet(1e-300)": quantity_dirichlet(1e-300),
    "natural": natural(OWNER),
}
PER_CLIENT = [dirichlet, dirichlet_equal_sizes]
BY_CLASS = [dirichlet(9.0), dirichlet_equal_sizes(1.0), shards(), classes_per_client(1)]
DIVIDES = [(name, n) for name in SPLITS for n in (1, 7, 100) if n == 100 or "client(2)" not in name]


def mixes(parts, y, classes) -> np.ndarray:
    """The share of each class at each client, ``[N, classes]``."""
    return np.stack([np.bincount(y[part], minlength=classes) / len(part) for part in parts])


@pytest.mark.parametrize(("name", "clients"), DIVIDES)
def test_disjoint_complete_and_deterministic(name, clients):
    split, y = SPLITS[name], Y.copy()
    parts = split(y, clients, generator(0, "split"))
    assert (y == Y).all()
    assert len(parts) == clients
    assert all(part.dtype == np.int64 for part in parts)
    assert (np.sort(np.concatenate(parts)) == np.arange(len(Y))).all()
    assert all((np.diff(part) > 0).all() for part in parts)
    again = split(Y, clients, generator(0, "split"))
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))
    if clients > 1:
        second = split(Y, clients, generator(1, "split"))
        assert any(len(a) != len(b) or (a != b).any() for a, b in zip(parts, second, strict=True))


@pytest.mark.parametrize(
    "name",
    [name for name in SPLITS if name not in ("shards(2)", "natural", "classes_per_client(10)")],
)
def test_as_many_clients_as_examples(name):
    y = np.repeat(np.arange(10), 3)
    split = classes_per_client(1) if "classes" in name else SPLITS[name]
    if "min_examples" in name:
        with pytest.raises(
            ValueError,
            match=(
                r"min_examples=5 must be at most 1 \(30 clients would need 150 of 30 training "
                r"examples\)\. Try min_examples=1"
            ),
        ):
            split(y, 30, generator(0))
        return
    sizes = [len(part) for part in split(y, 30, generator(0))]
    assert sum(sizes) == 30
    assert "dirichlet(" in name or set(sizes) == {1}


@pytest.mark.parametrize(
    "name",
    ["iid", "dirichlet_equal_sizes(0.1)", "dirichlet_equal_sizes(1e6)", "quantity_lognormal(0)"],
)
def test_sizes_differ_by_one_at_most(name):
    sizes = [len(part) for part in SPLITS[name](Y, 100, generator(0))]
    assert max(sizes) - min(sizes) == 1


@pytest.mark.slow
def test_dirichlet_proportions_have_the_distribution_of_the_paper():
    """The share of a class at one client is Beta(alpha, (N-1) alpha).

    Its mean is 1/N and its variance (N-1) / (N² (N alpha + 1)).
    """
    y, n, alpha = np.repeat(np.arange(2000), 1000), 4, 0.5
    shares = (
        np.stack([np.bincount(y[p], minlength=2000) for p in dirichlet(alpha)(y, n, generator(0))])
        / 1000
    )
    assert abs(shares.mean() - 1 / n) < 1e-9
    assert shares.var(axis=1).mean() == pytest.approx((n - 1) / (n**2 * (n * alpha + 1)), rel=0.05)


@pytest.mark.parametrize("alpha", [0.3, 3.0])
def test_dirichlet_mixes_of_equal_sizes_have_the_distribution_of_the_paper(alpha):
    """A share is Beta(alpha p, alpha (1-p)), seen through s draws.

    Its variance is p (1-p) (s + alpha) / s (1 + alpha).
    """
    prior, n, s = np.array([0.5, 0.3, 0.2]), 2000, 50
    y = np.repeat(np.arange(3), (prior * n * s).astype(int))
    shares = mixes(dirichlet_equal_sizes(alpha)(y, n, generator(0)), y, 3)
    np.testing.assert_allclose(shares.mean(0), prior, atol=1e-9)
    expected = prior * (1 - prior) * (s + alpha) / (s * (1 + alpha))
    np.testing.assert_allclose(shares.var(0), expected, rtol=0.1)


def test_dirichlet_mixes_of_equal_sizes_do_not_depend_on_the_clients_number():
    """The last clients find classes used up; their order is random.

    This shows if nearly every client has one class.
    """
    y = np.tile(np.arange(10), 6000)
    pure = mixes(dirichlet_equal_sizes(1e-6)(y, 1000, generator(0)), y, 10).max(1) == 1
    assert pure.mean() > 0.85
    assert abs(pure[:500].mean() - pure[500:].mean()) < 0.06


@pytest.mark.parametrize("split", [dirichlet, dirichlet_equal_sizes])
def test_alpha_orders_the_skew(split):
    def classes_held(alpha):
        return np.mean(
            [len(np.unique(Y[part])) for part in split(alpha)(Y, 20, generator(0)) if len(part)]
        )

    assert classes_held(0.05) < classes_held(0.5) < classes_held(50)


@pytest.mark.parametrize("per_client", [1, 2, 5])
def test_shards_hold_few_classes(per_client):
    """A shard is of one class: none of 10 classes of 600 examples crosses a border."""
    y = generator(0).permutation(np.repeat(np.arange(10), 600))
    parts = shards(per_client)(y, 100, generator(0))
    assert {len(part) for part in parts} == {60}
    held = np.array([len(np.unique(y[part])) for part in parts])
    assert held.max() == per_client
    if per_client == 2:  # 19 of the 199 other shards are of the class of the first
        assert (held == 1).mean() == pytest.approx(19 / 199, abs=0.08)


@pytest.mark.parametrize(
    "split", [iid(), *BY_CLASS, quantity_lognormal(0.5), quantity_dirichlet(9.0)]
)
def test_the_order_of_the_file_decides_nothing(split):
    parts = split(np.zeros(80, dtype=int), 4, generator(0))
    assert all(np.ptp(part) >= len(part) for part in parts), "nobody holds a run of neighbours"


def test_shards_that_do_not_divide_evenly():
    sizes = [
        len(part) for part in shards(3)(Y, 100, generator(0))
    ]  # 1,437 examples in 300 shards of 4 or 5
    assert min(sizes) >= 12
    assert max(sizes) <= 15


@pytest.mark.parametrize(
    ("k", "clients"), [(1, 10), (1, 57), (2, 5), (2, 100), (3, 4), (9, 20), (10, 1), (10, 100)]
)
def test_exactly_k_classes_shared_evenly_by_those_who_hold_them(k, clients):
    counts = np.stack(
        [
            np.bincount(Y[part], minlength=10)
            for part in classes_per_client(k)(Y, clients, generator(0))
        ]
    )
    assert ((counts > 0).sum(1) == k).all()
    for column in counts.T:
        assert np.ptp(column[column > 0]) <= 1


def test_classes_of_one_client_each_go_round():
    held = np.array([Y[part][0] for part in classes_per_client(1)(Y, 57, generator(0))])
    assert set(np.bincount(held)) == {5, 6}


def test_lognormal_sizes_have_the_spread_asked_for():
    y = np.zeros(10**6, dtype=int)
    logs = np.log([len(part) for part in quantity_lognormal(0.7)(y, 1000, generator(0))])
    assert logs.std() == pytest.approx(0.7, rel=0.05)
    assert abs(np.mean((logs - logs.mean()) ** 3)) / 0.7**3 < 0.3, "log sizes are symmetric"


def test_dirichlet_sizes_have_the_spread_asked_for():
    """A client's share is Beta(alpha, (N-1) alpha)."""
    n, alpha = 1000, 2.0
    sizes = np.array(
        [
            len(part)
            for part in quantity_dirichlet(alpha)(np.zeros(10**6, dtype=int), n, generator(0))
        ]
    )
    assert (sizes / 1e6).var() == pytest.approx((n - 1) / (n**2 * (n * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("split", [quantity_lognormal(2), quantity_dirichlet(0.2)])
def test_skewed_sizes_leave_the_labels_iid(split):
    y = np.tile(np.arange(10), 6000)
    parts = [part for part in split(y, 50, generator(0)) if len(part) > 500]
    assert len(parts) > 5
    sizes = np.array([len(part) for part in parts])
    z = (mixes(parts, y, 10) - 0.1) / np.sqrt(0.09 / sizes)[:, None]
    assert z.std() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(
    "split", [dirichlet(0.01, 10), quantity_lognormal(3, 10), quantity_dirichlet(0.01, 10)]
)
def test_min_examples_holds_where_drawing_again_would_never_end(split):
    sizes = [len(part) for part in split(Y, 100, generator(0))]
    assert min(sizes) == 10


def test_natural_clients_are_the_owners():
    owner = np.array(["Oslo", "Bergen", "Oslo", "Alta", "Alta", "Bergen", "Oslo"])
    parts = natural(owner)(np.zeros(7), 3, generator(0))
    assert [part.tolist() for part in parts] == [[3, 4], [1, 5], [0, 2, 6]]


def test_natural_owners_are_merged_whole():
    parts = natural(OWNER)(Y, 50, generator(0))
    owners = [set(OWNER[part]) for part in parts]
    assert sorted(len(who) for who in owners) == [2] * 30 + [3] * 20
    assert len(set.union(*owners)) == sum(len(who) for who in owners), (
        "an owner's examples stay together"
    )


@pytest.mark.parametrize(
    "split", [iid(), quantity_lognormal(1), quantity_dirichlet(1.0), natural(np.arange(30) % 3)]
)
def test_splits_that_need_no_classes_take_labels_of_any_kind(split):
    for y in (np.linspace(-1, 1, 30), np.zeros((30, 5), dtype=int)):
        assert sum(len(part) for part in split(y, 3, generator(0))) == 30


@pytest.mark.parametrize("split", BY_CLASS)
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            np.linspace(0, 1, 30),
            r"labels must be whole class numbers .* shape \(30,\) and type float64",
        ),
        (
            np.zeros((30, 5), dtype=int),
            r"labels must be whole class numbers .* shape \(30, 5\) and type int64",
        ),
        (
            np.arange(30) - 1,
            (
                r"label -1 must be at least 0 \(the first class\)\. Try np\.unique\(y, "
                r"return_inverse=True\)\[1\], which numbers any labels"
            ),
        ),
    ],
)
def test_labels_that_are_no_class_numbers(split, y, message):
    with pytest.raises(ValueError, match=message):
        split(y, 3, generator(0))


def test_class_numbers_know_how_many_there_are():
    assert class_numbers([0, 9], 10).tolist() == [0, 9]
    with pytest.raises(
        ValueError,
        match=(
            r"label 10 must be below 10 \(there are 10 classes, numbered from 0\)\. Try "
            r"np\.unique\(y, return_inverse=True\)\[1\], which numbers any labels"
        ),
    ):
        class_numbers([0, 10], 10)


@pytest.mark.parametrize("split", BY_CLASS[:3])
def test_class_numbers_may_have_gaps(split):
    y = np.repeat([3, 70], 15)
    assert sum(len(part) for part in split(y, 3, generator(0))) == 30


@pytest.mark.parametrize("split", [dirichlet, dirichlet_equal_sizes, quantity_dirichlet])
@pytest.mark.parametrize(
    "alpha", [0, -1, float("nan"), float("inf"), 1e308, "0.1", None, [], {0.1}]
)
def test_alpha_must_be_above_zero(split, alpha):
    with pytest.raises(
        ValueError,
        match=rf"alpha={re.escape(repr(alpha))} must be one number above 0 and up to .*\. Try 0\.1",
    ):
        split(alpha)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: dirichlet(1.0, min_examples=-1),
            r"min_examples=-1 must be a whole number of at least 0",
        ),
        (
            lambda: dirichlet(1.0, min_examples=0.5),
            r"min_examples=0.5 must be a whole number of at least 0",
        ),
        (lambda: shards(0), r"per_client=0 must be a whole number of at least 1"),
        (lambda: shards(1.5), r"per_client=1.5"),
        (lambda: classes_per_client(0), r"k=0 must be a whole number of at least 1"),
        (
            lambda: quantity_lognormal(-1),
            (
                r"sigma=-1 must be one number from 0 to 1e\+09 \(it is a standard deviation "
                r"of log sizes\)\. Try sigma=1"
            ),
        ),
        (lambda: quantity_lognormal(float("nan")), r"sigma=nan"),
        (
            lambda: quantity_lognormal(float("inf")),
            (
                r"sigma=inf must be one number from 0 to 1e\+09 \(it is a standard deviation "
                r"of log sizes\)\. Try sigma=1"
            ),
        ),
        (
            lambda: quantity_lognormal("1"),
            (
                r"sigma='1' must be one number from 0 to 1e\+09 \(it is a standard deviation "
                r"of log sizes\)\. Try sigma=1"
            ),
        ),
        (
            lambda: dirichlet(1.0, min_examples=float("inf")),
            r"min_examples=inf must be a whole number of at least 0",
        ),
        (lambda: quantity_lognormal(1, min_examples=-2), r"min_examples=-2"),
        (
            lambda: natural(np.zeros((3, 2))),
            (
                r"owner of shape \(3, 2\) must be \[n\], one name or number per example\. Try "
                r"one column of it"
            ),
        ),
    ],
)
def test_impossible_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_more_clients_than_examples(split):
    with pytest.raises(
        ValueError,
        match=(
            r"clients=2000 must be at most 1437 \(there are no more training examples\)\. "
            r"Try clients=1437"
        ),
    ):
        split(Y, 2000, generator(0))
    for clients in (0, -1, 2.5):
        with pytest.raises(
            ValueError, match=rf"clients={clients} must be a whole number of at least 1"
        ):
            split(Y, clients, generator(0))


@pytest.mark.parametrize(
    ("split", "clients", "message"),
    [
        (
            dirichlet(1.0, min_examples=20),
            100,
            (
                r"min_examples=20 must be at most 14 \(100 clients would need 2000 of 1437 "
                r"training examples\)\. Try min_examples=14"
            ),
        ),
        (
            quantity_dirichlet(1.0, min_examples=20),
            100,
            (
                r"min_examples=20 must be at most 14 \(100 clients would need 2000 of 1437 "
                r"training examples\)\. Try min_examples=14"
            ),
        ),
        (
            shards(20),
            100,
            (
                r"per_client=20 must be at most 14 \(100 clients would need 2000 of 1437 "
                r"training examples\)\. Try per_client=14"
            ),
        ),
        (
            classes_per_client(2),
            4,
            (
                r"k=2 must be from 3 to 10 \(otherwise 4 clients cannot hold k of 10 classes "
                r"each so that every class has a client\)\. Try k=3"
            ),
        ),
        (
            classes_per_client(11),
            100,
            (
                r"k=11 must be from 1 to 10 \(otherwise 100 clients cannot hold k of 10 "
                r"classes each so that every class has a client\)\. Try k=10"
            ),
        ),
        (
            classes_per_client(10),
            150,
            (
                r"class 0 must have an example for each of its 150 clients, and it has 142\. "
                r"Try fewer clients than 150, or a k below 10"
            ),
        ),
        (
            natural(OWNER),
            121,
            (
                r"clients=121 must be at most 120 \(there are no more owners\)\. Try "
                r"clients=120, or another split"
            ),
        ),
        (
            natural(OWNER[1:]),
            7,
            (
                r"owner must hold one name per example \(1436 names for 1437 training "
                r"examples\)\. Try federate\(x, y, owner=owner\), which holds out a test set"
            ),
        ),
    ],
)
def test_what_cannot_be_met(split, clients, message):
    with pytest.raises(ValueError, match=message):
        split(Y, clients, generator(0))


@pytest.mark.parametrize("split", PER_CLIENT)
@pytest.mark.parametrize("alpha", [0.05, 0.5, 30.0])
def test_equal_alphas_of_clients_give_the_split_of_the_one_number(split, alpha):
    parts = [split(a)(Y, 20, generator(0)) for a in (alpha, [alpha] * 20, np.full(20, alpha))]
    for second in parts[1:]:
        assert all((a == b).all() for a, b in zip(parts[0], second, strict=True))


@pytest.mark.slow
def test_alphas_of_clients_have_the_moments_of_dirichlet():
    """Shares by Dir(a_1 .. a_N) with the sum A have the mean m_i = a_i / A.

    Their variance is m_i (1 - m_i) / (A + 1).
    """
    y, alpha = np.repeat(np.arange(2000), 1000), np.array([0.1, 0.5, 1.0, 4.0])
    shares = (
        np.stack([np.bincount(y[p], minlength=2000) for p in dirichlet(alpha)(y, 4, generator(0))])
        / 1000
    )
    mean = alpha / alpha.sum()
    np.testing.assert_allclose(
        shares.mean(1), mean, atol=4 * (mean * (1 - mean) / 2000 / 6.6).max() ** 0.5
    )
    np.testing.assert_allclose(shares.var(1), mean * (1 - mean) / (alpha.sum() + 1), rtol=0.15)


def test_alphas_of_clients_give_each_its_own_skew_at_equal_sizes():
    """A share is Beta(a_i p, a_i (1 - p)), seen through s draws, in any order of clients."""
    n, s, prior = 600, 50, np.array([0.5, 0.3, 0.2])
    y = np.repeat(np.arange(3), (prior * n * s).astype(int))
    alpha = np.tile([0.3, 3.0, 300.0], n // 3)
    parts = dirichlet_equal_sizes(alpha)(y, n, generator(0))
    assert {len(part) for part in parts} == {s}
    held = mixes(parts, y, 3)
    for a in (0.3, 3.0, 300.0):
        expected = prior * (1 - prior) * (s + a) / (s * (1 + a))
        np.testing.assert_allclose(held[alpha == a].var(0), expected, rtol=0.3)


@pytest.mark.parametrize("split", PER_CLIENT)
def test_alphas_of_clients_divide_everything(split):
    for alpha in (
        torch.ones(7),
        pd.Series([0.1] * 7),
        range(1, 8),
        np.geomspace(1e-300, 1e6, 7),
        [1e-6, 1e-5, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6],
    ):
        parts = split(alpha)(Y, 7, generator(0))
        assert (np.sort(np.concatenate(parts)) == np.arange(len(Y))).all()


@pytest.mark.parametrize("split", PER_CLIENT)
def test_wrong_alphas_of_clients_are_told(split):
    with pytest.raises(
        ValueError,
        match=(
            r"alpha must be one number for all clients, or one per client \(3 numbers for "
            r"4 clients\)\. Try alpha=0\.1"
        ),
    ):
        split([0.1, 0.2, 0.3])(Y, 4, generator(0))
    for wrong in (0, -1.0, float("nan"), "0.1"):
        with pytest.raises(
            ValueError,
            match=rf"alpha\[1\]={re.escape(repr(wrong))} must be one number above 0 .* Dirichlet",
        ):
            split([0.1, wrong])
    with pytest.raises(
        ValueError,
        match=r"alpha=.* must be one number for all clients\. Try dirichlet, .* one per client",
    ):
        quantity_dirichlet([0.1, 0.2])
