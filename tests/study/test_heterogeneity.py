from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from fedlab.core import FederatedDataset
from fedlab.data import dirichlet, iid, load
from fedlab.engine import initial
from fedlab.models import logistic_regression, mlp
from fedlab.study import accuracy_by_group, class_counts, drift, heterogeneity, label_skew


def labels(*clients: list[int], classes: int = 3) -> FederatedDataset:
    """Return clients with these labels, and no features to learn from."""
    y = torch.tensor([label for held in clients for label in held], dtype=torch.long)
    parts = np.split(np.arange(len(y)), np.cumsum([len(held) for held in clients])[:-1])
    x = torch.zeros(len(y), 2)
    return FederatedDataset(x, y, parts, (x, y), "", tuple("abcdefghij"[:classes]))


def test_worked_by_hand():
    """The mix of all is 1/2, 1/4, 1/4; clients hold only a, half b and half c, and nothing."""
    data = labels([0, 0], [1, 2], [])
    rows = label_skew(data)
    assert rows["client"].tolist() == [0, 1, 2]
    assert rows["num_examples"].tolist() == [2, 2, 0]
    assert rows["classes"].tolist() == [1, 2, 0]
    np.testing.assert_allclose(rows["effective_classes"], [1, 2, np.nan])
    np.testing.assert_allclose(rows["total_variation"], [0.5, 0.5, np.nan])
    # H(3/4, 1/8, 1/8) - (0 + 3/2) / 2 and H(1/4, 3/8, 3/8) - (1 + 3/2) / 2
    by_hand = [0.75 * np.log2(4 / 3) + 0.25 * 3 - 0.75, 0.25 * 2 + 0.75 * np.log2(8 / 3) - 1.25]
    np.testing.assert_allclose(rows["jensen_shannon"], [*by_hand, np.nan])
    # a to b over half the way: 1/4, and to c over all of it: 1/4; the other way a quarter of each
    np.testing.assert_allclose(
        rows["earth_mover"], [0.25 * 0.5 + 0.25, 0.25 * 0.5 + 0.25 * 1, np.nan]
    )
    assert class_counts(data).to_dict("list") == {"a": [2, 0, 0], "b": [0, 1, 0], "c": [0, 1, 0]}


def test_distances_are_scipys():
    data = load("digits", 30, dirichlet(0.3), seed=1)
    rows, counts = label_skew(data), data.counts()
    whole, numbers = counts.sum(0) / counts.sum(), np.arange(10)
    for i in np.flatnonzero(data.sizes):
        p = counts[i] / counts[i].sum()
        assert rows.loc[i, "jensen_shannon"] == pytest.approx(jensenshannon(p, whole, base=2) ** 2)
        assert rows.loc[i, "earth_mover"] == pytest.approx(
            wasserstein_distance(numbers, numbers, p, whole) / 9
        )


@pytest.mark.parametrize("alpha", [0.01, 0.3, 100])
def test_bounds(alpha):
    data = load("digits", 40, dirichlet(alpha), seed=2)
    rows = label_skew(data).dropna()
    assert len(rows) == (data.sizes > 0).sum()
    assert rows["effective_classes"].between(1, rows["classes"] + 1e-9).all()
    for name in ("total_variation", "jensen_shannon", "earth_mover"):
        assert rows[name].between(0, 1).all()
    assert (rows["earth_mover"] <= rows["total_variation"]).all()
    assert (rows["total_variation"] ** 2 / 2 <= rows["jensen_shannon"] * np.log(2) + 1e-12).all(), (
        "Pinsker"
    )


def test_who_holds_the_same_mix_is_not_apart_and_who_shares_nothing_is_all_apart():
    same = label_skew(labels([0, 1, 2], [2, 1, 0, 0, 1, 2]))
    assert same["effective_classes"].tolist() == pytest.approx([3, 3])
    assert same[["total_variation", "jensen_shannon", "earth_mover"]].to_numpy() == pytest.approx(
        0, abs=1e-12
    )
    rare = label_skew(labels([0] * 9999, [2]))
    assert rare.loc[
        1, ["total_variation", "jensen_shannon", "earth_mover"]
    ].tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    assert rare["effective_classes"].tolist() == [1, 1]


def test_iid_lies_nearer_than_dirichlet():
    even, skewed = (
        label_skew(load("digits", 10, split)).mean() for split in (iid(), dirichlet(0.1))
    )
    for name in ("total_variation", "jensen_shannon", "earth_mover"):
        assert even[name] < 0.15
        assert skewed[name] > 2 * even[name]
    assert even["effective_classes"] > 9.5


def test_one_class_and_nobody():
    assert label_skew(labels([0], [0, 0], classes=1))["earth_mover"].tolist() == [0, 0]
    assert label_skew(labels([], [])).iloc[:, 3:].isna().all(axis=None)


def test_labels_out_of_range():
    for look in (label_skew, class_counts):
        with pytest.raises(
            ValueError, match=r"label 7 must be below 3 \(there are 3 classes, numbered from 0\)"
        ):
            look(labels([0, 7]))


def by_hand(task, w, data):
    """Return shares and gradients of the clients with examples."""
    gradients = []
    for part in data.parts:
        if len(part):
            at = w.clone().requires_grad_()
            task.loss(task.forward(at, data.x[part]), data.y[part]).mean().backward()
            gradients.append(at.grad)
    sizes = torch.tensor([len(part) for part in data.parts if len(part)], dtype=w.dtype)
    return sizes / sizes.sum(), torch.stack(gradients)


@pytest.mark.parametrize(
    "held", [2**26, 650 * 7, 1], ids=["at once", "seven at a time", "one at a time"]
)
def test_drift_is_that_of_autograd(monkeypatch, held):
    monkeypatch.setattr(heterogeneity, "GRADIENT_NUMBERS", held)
    data = load("digits", 30, dirichlet(0.05)).double()
    assert (data.sizes == 0).any()
    task = logistic_regression(data)
    w = initial(task, 0, data.x)
    p, g = by_hand(task, w, data)
    mean = p @ g
    result = drift(task, w, data)
    assert result.g_squared == pytest.approx((p @ ((g - mean) ** 2).sum(1)).item())
    assert result.b_squared == pytest.approx((p @ (g**2).sum(1) / (mean @ mean)).item())
    rows = result.clients
    assert rows["client"].tolist() == list(range(30))
    assert (rows["num_examples"] == data.sizes).all()
    empty = data.sizes == 0
    assert rows.loc[empty, ["loss", "gradient_norm", "distance", "cosine"]].isna().all(axis=None)
    np.testing.assert_allclose(rows.loc[~empty, "gradient_norm"], g.norm(dim=1))
    np.testing.assert_allclose(rows.loc[~empty, "distance"], (g - mean).norm(dim=1))
    np.testing.assert_allclose(rows.loc[~empty, "cosine"], torch.cosine_similarity(g, mean[None]))


def test_drift_keeps_its_laws():
    data = load("digits", 20, dirichlet(0.1))
    task = mlp(data, hidden=(32,))
    w = initial(task, 0)
    result = drift(task, w, data)
    alone = drift(task, w, replace(data, parts=[np.arange(len(data.y))]))
    norm = alone.clients["gradient_norm"][0]
    assert result.b_squared == pytest.approx(1 + result.g_squared / norm**2, rel=1e-4)
    assert result.clients["cosine"].abs().max() <= 1 + 1e-6
    assert (alone.g_squared, alone.b_squared) == pytest.approx((0, 1), abs=1e-6)
    assert alone.clients["cosine"][0] == pytest.approx(1)
    losses, shares = result.clients["loss"].fillna(0), data.sizes / data.sizes.sum()
    assert shares @ losses == pytest.approx(alone.clients["loss"][0], rel=1e-5)


def test_twins_do_not_drift_and_skew_does():
    data = load("digits", 2)
    task = logistic_regression(data)
    twins = drift(task, initial(task, 0), replace(data, parts=[np.arange(100), np.arange(100)]))
    assert twins.g_squared < 1e-12
    assert twins.clients["cosine"].tolist() == pytest.approx([1, 1])
    even, skewed = (
        drift(task, initial(task, 0), load("digits", 10, split))
        for split in (iid(), dirichlet(0.1))
    )
    assert skewed.g_squared > 5 * even.g_squared


def test_drift_of_a_flat_function_with_steep_parts_is_boundless():
    """Two clients have equal inputs and opposite labels: at the model 0 gradients cancel."""
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    data = FederatedDataset(
        x, torch.tensor([0, 1]), [np.array([0]), np.array([1])], (x, x), "", ("a", "b")
    )
    task = logistic_regression(data)
    result = drift(task, torch.zeros(6), data)
    # each gradient is plus and minus 1/2 at (1, 2) and the bias: norm² = 2 (1 + 4 + 1) / 4
    assert result.g_squared == pytest.approx(3)
    assert result.b_squared == np.inf


def test_drift_refuses():
    data = load("digits", 2)
    task = logistic_regression(data)
    w = initial(task, 0)
    with pytest.raises(ValueError, match=r"w has shape \[1, 650\] and must be one model"):
        drift(task, w[None], data)
    with pytest.raises(ValueError, match=r"the row has 649 values and the model 650"):
        drift(task, w[1:], data)
    with pytest.raises(ValueError, match=r"none of the 2 clients holds an example"):
        drift(task, w, replace(data, parts=[np.arange(0)] * 2))


def test_accuracy_of_a_group_is_that_on_its_classes():
    data = load("digits", 10, iid())
    y = data.y.numpy()
    parts = [np.flatnonzero(y == c) for c in range(10)]
    data, task = replace(data, parts=parts), mlp(data, hidden=(8,))
    w = initial(task, 0, data.x)
    x, labels = data.test
    right = (task.forward(w, x).argmax(1) == labels).numpy()
    each = np.array([right[labels.numpy() == c].mean() for c in range(10)])
    assert accuracy_by_group(task, w, data, range(10)).to_numpy() == pytest.approx(each)
    two = accuracy_by_group(task, w, data, ["a"] * 3 + ["b"] * 7)
    n = np.bincount(y)
    assert two["a"] == pytest.approx((n[:3] @ each[:3]) / n[:3].sum())
    assert two["b"] == pytest.approx((n[3:] @ each[3:]) / n[3:].sum())
    nobody = replace(data, parts=[*parts[:9], np.array([], dtype=int)])
    assert np.isnan(accuracy_by_group(task, w, nobody, range(10)).iloc[9])
