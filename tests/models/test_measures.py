"""Measures over all examples: like hand-worked numbers and libraries, NaN if undefined."""

import numpy as np
import pytest

from fedlab.models import auc, balanced_accuracy
from fedlab.models.measures import (
    calibration_in_the_large,
    check_measured,
    concordance,
    expected_cost,
    kolmogorov_smirnov,
    macro_f1,
)

SCORES, LABELS = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])


def two_logits(score):
    return np.stack([-score / 2, score / 2], 1)


@pytest.mark.parametrize(
    "outputs", [SCORES, SCORES[:, None], two_logits(SCORES)], ids=["n", "n1", "n2"]
)
def test_two_classes_by_hand(outputs):
    assert auc(outputs, LABELS) == 0.75  # of four pairs one is in the wrong order
    assert kolmogorov_smirnov(outputs, LABELS) == 0.5
    shifted = outputs - 0.38 if outputs.shape[-1] != 2 else two_logits(SCORES - 0.38)
    assert balanced_accuracy(shifted, LABELS) == 0.5
    assert macro_f1(shifted, LABELS) == 0.5
    assert expected_cost([[0, 1], [5, 0]])(shifted, LABELS) == (1 + 5) / 4
    p = 1 / (1 + np.exp(-SCORES))
    assert calibration_in_the_large(outputs, LABELS) == pytest.approx(p.mean() - 0.5)


def test_several_classes_are_each_against_the_rest():
    outputs = np.log([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.3, 0.1, 0.6]])
    y = np.array([0, 1, 1, 2])
    # Classes 0 and 2 are ranked above all others; both examples of class 1 are above the others'
    # 0.2 and 0.1.
    assert auc(outputs, y) == 1
    assert (
        auc(outputs - outputs.min(1, keepdims=True), y) == 1
    )  # logits are known up to a constant per example
    assert balanced_accuracy(outputs, y) == pytest.approx((1 + 0.5 + 1) / 3)
    with pytest.raises(ValueError, match=r"must have two classes \(the model has 3 outputs\)"):
        kolmogorov_smirnov(outputs, y)


def test_concordance_is_harrells():
    time = np.array([[5, 1], [3, 0], [2, 1], [4, 1]])  # the second was censored at 3
    risk = np.array([1.0, 9.0, 3.0, 3.0])
    # Known orders: (2 before 0), (2 before 1), (2 before 3), (3 before 0).
    # Their risks: right, wrong, tied, right.
    assert concordance(risk, time) == (1 + 0 + 0.5 + 1) / 4
    assert concordance(-risk[:, None], time) == (0 + 1 + 0.5 + 0) / 4
    assert concordance(np.array([2.0, 1.0]), np.array([1.0, 2.0])) == 1
    assert (
        concordance(np.array([2.0, 1.0]), np.array([[1, 1], [1, 0]])) == 1
    )  # who left at that moment lived longer


@pytest.mark.parametrize("measure", [auc, kolmogorov_smirnov])
def test_one_class_leaves_a_rank_undefined(measure):
    assert np.isnan(measure(SCORES, np.zeros(4, int)))
    assert np.isnan(measure(SCORES[:0], LABELS[:0]))


def test_nobody_is_undefined():
    none = np.empty((0, 2)), np.empty(0, int)
    for measure in (
        balanced_accuracy,
        macro_f1,
        calibration_in_the_large,
        expected_cost([[0, 1], [5, 0]]),
    ):
        assert np.isnan(measure(*none)), measure
    assert np.isnan(concordance(np.empty(0), np.empty((0, 2))))
    assert np.isnan(
        concordance(np.ones(2), np.array([[1, 0], [2, 0]]))
    )  # all censored: no order is known


def test_large_scores_do_not_overflow():
    far = np.array([1e5, -1e5])
    assert calibration_in_the_large(far, np.array([1, 0])) == 0
    assert auc(np.array([[1e4, 0, -1e4], [0, 1e4, 0], [-1e4, 0, 1e4]]), np.arange(3)) == 1


@pytest.mark.parametrize("costs", [[0, 1], [[0, 1]], [[0, np.nan], [5, 0]]])
def test_costs_are_a_square_table(costs):
    with pytest.raises(ValueError, match="must be a square table"):
        expected_cost(costs)


@pytest.mark.parametrize("value", [None, "0.7", np.ones(2), [0.5, 0.5], True.__class__])
def test_what_a_measure_gives_is_one_number(value):
    with pytest.raises(ValueError, match="must give one number"):
        check_measured("f1", value)
    assert check_measured("f1", np.float32(0.5)) == check_measured("f1", np.array([0.5])) == 0.5
    assert np.isnan(check_measured("f1", np.nan))


@pytest.mark.parametrize(
    "labels", [np.eye(4)[:, :2], np.array([0.5, 1, 0, 1]), np.array([np.nan, 1, 0, 1])]
)
@pytest.mark.parametrize(
    "measure",
    [
        auc,
        balanced_accuracy,
        macro_f1,
        kolmogorov_smirnov,
        calibration_in_the_large,
        expected_cost([[0, 1], [5, 0]]),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(measure, labels):
    """Without the check, one-hot labels give an AUC of NaN, and real targets an accuracy of 0."""
    with pytest.raises(ValueError, match=r"must be class numbers \[n\] \(their shape is"):
        measure(SCORES, labels)
    assert measure(SCORES, LABELS.astype(float)[:, None]) == measure(SCORES, LABELS), (
        "as binary losses have them"
    )


def test_risks_are_one_an_example():
    with pytest.raises(
        ValueError, match=r"one risk per example, \[4\] \(their shape is \[4, 2\]\). Try outputs"
    ):
        concordance(two_logits(SCORES), np.arange(4))
