"""Measures over all test examples at once, for ``Task(measures={...})``.

A metric such as accuracy is a mean of one number per example.  An AUC is not: it compares examples with each other.  Each
function here takes the model's outputs and the labels as NumPy arrays and returns one number.  That number is NaN where the
labels leave it undefined, as at a client whose test examples are all of one class.

Outputs of a classifier are logits ``[n, classes]``; a score for class 1 may also be ``[n]`` or ``[n, 1]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedlab.core.validate import is_number

Measure = Callable[[np.ndarray, np.ndarray], float]


def auc(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return the area under the ROC curve, for several classes the mean of each against the rest.

    Args:
        outputs: Logits ``[n, classes]``, or scores of class 1 ``[n]``.
        y: Class numbers ``[n]``.

    Returns:
        A number from 0 to 1, where 0.5 is chance; NaN where a class has no example, or all have.

    Example:
        >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        0.75
    """
    from sklearn.metrics import roc_auc_score

    scores, y = _logits(outputs), _class_numbers(y, "auc")
    classes = range(1, 2) if scores.shape[1] == 2 else range(scores.shape[1])
    if any(not 0 < (y == k).sum() < len(y) for k in classes):
        return float("nan")
    if scores.shape[1] == 2:
        return float(roc_auc_score(y == 1, scores[:, 1] - scores[:, 0]))
    probabilities = _softmax(
        scores
    )  # a logit alone does not rank examples: its class competes with the others
    return float(np.mean([roc_auc_score(y == k, probabilities[:, k]) for k in classes]))


def balanced_accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return the mean over classes of the accuracy on each, of classes that have an example.

    Args:
        outputs: Logits ``[n, classes]``, or scores of class 1 ``[n]``, above 0 for class 1.
        y: Class numbers ``[n]``.

    Returns:
        A number from 0 to 1; NaN without examples.

    Example:
        >>> balanced_accuracy(np.array([-1.0, -1.0, -1.0, -1.0]), np.array([0, 0, 0, 1]))
        0.5
    """
    predicted, y = _logits(outputs).argmax(1), _class_numbers(y, "balanced_accuracy")
    return _mean([(predicted[y == k] == k).mean() for k in np.unique(y)])


def macro_f1(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return the mean over classes of F1 = 2 TP / (2 TP + FP + FN), of classes that occur or are predicted.

    Args:
        outputs: Logits ``[n, classes]``, or scores of class 1 ``[n]``, above 0 for class 1.
        y: Class numbers ``[n]``.

    Returns:
        A number from 0 to 1; NaN without examples.

    Example:
        >>> round(macro_f1(np.array([-1.0, 1.0, 1.0, 1.0]), np.array([0, 0, 1, 1])), 4)
        0.7333
    """
    from sklearn.metrics import f1_score

    if len(y) == 0:
        return float("nan")
    return float(
        f1_score(
            _class_numbers(y, "macro_f1"),
            _logits(outputs).argmax(1),
            average="macro",
            zero_division=0,
        )
    )


def kolmogorov_smirnov(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return the largest gap between the score distributions of two classes, as banks report KS.

    Args:
        outputs: Logits ``[n, 2]``, or scores of class 1 ``[n]``.
        y: Labels 0 and 1, ``[n]``.

    Returns:
        A number from 0 to 1; NaN where a class has no example.

    Raises:
        ValueError: If there are more than two classes.

    Example:
        >>> kolmogorov_smirnov(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        0.5
    """
    from scipy.stats import ks_2samp

    scores = _score_of_class_1(outputs, "kolmogorov_smirnov")
    positive = _class_numbers(y, "kolmogorov_smirnov") == 1
    if positive.all() or not positive.any():
        return float("nan")
    return float(ks_2samp(scores[positive], scores[~positive], method="asymp").statistic)


def expected_cost(costs: Sequence[Sequence[float]]) -> Measure:
    """Return a measure: the mean cost of the predicted classes.

    Args:
        costs: ``costs[i][j]`` is what predicting class j costs where class i is true, ``[classes, classes]``.  German
            credit's are ``[[0, 1], [5, 0]]``.

    Returns:
        A function of outputs and labels that predicts the class of the highest logit, and averages its cost.

    Raises:
        ValueError: If ``costs`` is not a square table of finite numbers.

    Example:
        >>> measure = expected_cost([[0, 1], [5, 0]])
        >>> measure(np.array([-1.0, -1.0, 1.0, 1.0]), np.array([0, 1, 0, 1]))
        1.5
    """
    table = np.asarray(costs, dtype=float)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not np.isfinite(table).all():
        raise ValueError(
            f"costs={costs!r} must be a square table [true][predicted] of finite numbers. Try [[0, 1], [5, 0]]"
        )

    def measure(outputs, y):
        return _mean(table[_class_numbers(y, "expected_cost"), _logits(outputs).argmax(1)])

    return measure


def calibration_in_the_large(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return the mean predicted probability of class 1, minus the share of examples that have it.

    Args:
        outputs: Logits ``[n, 2]``, or the log-odds of class 1 ``[n]``.
        y: Labels 0 and 1, ``[n]``.

    Returns:
        A number from -1 to 1: above 0 the model promises too much; NaN without examples.

    Raises:
        ValueError: If there are more than two classes.

    Example:
        >>> calibration_in_the_large(np.array([0.0, 0.0]), np.array([1, 1]))
        -0.5
    """
    log_odds = _score_of_class_1(outputs, "calibration_in_the_large")
    positive = _class_numbers(y, "calibration_in_the_large") == 1
    return _mean(
        (1 + np.tanh(log_odds / 2)) / 2 - positive
    )  # the logistic function, which does not overflow


def concordance(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return Harrell's c-index: of pairs whose order is known, the share that the risks order alike.

    Args:
        outputs: Risks ``[n]`` or ``[n, 1]``: higher means an earlier event.
        y: Times ``[n, 2]`` with a column of 1 where the event was seen and 0 where it was censored; or times ``[n]``, all
            seen.

    Returns:
        A number from 0 to 1, where 0.5 is chance and equal risks count half; NaN where no pair has an order.

    Example:
        >>> concordance(np.array([3.0, 2.0, 1.0]), np.array([[1, 1], [2, 0], [3, 1]]))
        1.0

    References: Harrell et al. 1982.
    """
    risk = np.asarray(outputs, dtype=float)
    if risk.size != len(y):
        raise ValueError(
            f"concordance takes one risk an example, [{len(y)}], and got {list(risk.shape)}. Try outputs[:, 0]"
        )
    risk = risk.reshape(len(y))
    time, seen = (y, np.ones(len(y))) if y.ndim == 1 else y.T
    before = (time[:, None] < time) & (
        seen[:, None] > 0
    )  # [n, n]: i had its event while j was still without one
    tied_in_time = (
        (time[:, None] == time) & (seen[:, None] > 0) & (seen == 0)
    )  # j left at that moment, so it lived longer
    comparable = before | tied_in_time
    gap = risk[:, None] - risk
    return _mean(((gap > 0) + (gap == 0) / 2)[comparable])


def check_measured(name: str, value: object, where: str = "the test set") -> float:
    """Return what a measure gave as a float; raise ValueError where it is not one number."""
    number = value.item() if hasattr(value, "item") and getattr(value, "size", 2) == 1 else value
    if not is_number(number) and not (isinstance(number, float) and np.isnan(number)):
        kind = (
            f"{type(value).__name__} of shape {list(np.shape(value))}"
            if np.ndim(value)
            else repr(value)
        )
        raise ValueError(
            f"measure {name!r} gave {kind} on {where}: it must be one number (NaN where it is undefined). "
            "Try a metric for one number per example"
        )
    return float(number)


def _class_numbers(y: np.ndarray, name: str) -> np.ndarray:
    """Return labels as whole numbers; raise ValueError where they are none."""
    y = np.asarray(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y  # as binary losses have them
    numbers = (
        y.astype(int, copy=False)
        if y.ndim == 1 and (y.dtype.kind in "iub" or np.isfinite(y).all())
        else None
    )
    if numbers is None or (numbers != y).any():
        told = f"{name} takes class numbers [n] as labels, and got shape {list(y.shape)} and type {y.dtype}"
        raise ValueError(
            f"{told}. Try y.argmax(1) for one-hot labels, or a measure for real targets"
        )
    return numbers


def _logits(outputs: np.ndarray) -> np.ndarray:
    """Return outputs as ``[n, classes]``; of a single score, those of two classes."""
    scores = np.asarray(outputs, dtype=float)
    if scores.ndim == 1 or scores.shape[1] == 1:
        scores = scores.reshape(-1, 1)
        return np.concatenate([np.zeros_like(scores), scores], 1)
    return scores


def _score_of_class_1(outputs: np.ndarray, name: str) -> np.ndarray:
    scores = _logits(outputs)
    if scores.shape[1] != 2:
        raise ValueError(
            f"{name} must have two classes, and the model has {scores.shape[1]} outputs. Try auc or macro_f1"
        )
    return scores[:, 1] - scores[:, 0]


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
