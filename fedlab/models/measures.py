"""Measures over all test examples at once, for ``Task(measures={...})``.

A metric such as accuracy is a mean of one number per example. An AUC is not: it compares examples
with each other. Each measure takes the model's outputs and the labels as NumPy arrays and returns
one number. The number is NaN if the labels leave it undefined, for example for a client whose test
examples all have the same class.

Outputs of a classifier are logits ``[n, classes]``; a score of class 1 may also be ``[n]`` or
``[n, 1]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedlab.core.validate import is_number

Measure = Callable[[np.ndarray, np.ndarray], float]


def auc(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return the area under the ROC curve; of several classes, the mean of one against the rest.

    Args:
        outputs: Logits ``[n, classes]``, or scores of class 1 ``[n]``.
        y: Class numbers ``[n]``.

    Returns:
        A number from 0 to 1; 0.5 is chance. NaN if a class has no example, or all examples.

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
    # A logit alone does not rank examples: its class competes with the others.
    probabilities = _softmax(scores)
    return float(np.mean([roc_auc_score(y == k, probabilities[:, k]) for k in classes]))


def balanced_accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return the mean of the accuracy per class, over classes that have an example.

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
    """Return the mean of F1 = 2 TP / (2 TP + FP + FN) over classes.

    The mean is over classes that occur or are predicted.

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
    """Return the largest gap between the score distributions of two classes: the KS of banks.

    Args:
        outputs: Logits ``[n, 2]``, or scores of class 1 ``[n]``.
        y: Labels 0 and 1, ``[n]``.

    Returns:
        A number from 0 to 1; NaN if a class has no example.

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
    """Return the measure of the mean cost of the predicted classes.

    Args:
        costs: Table ``[classes, classes]``: ``costs[i][j]`` is the cost of predicting class j for
            an example of class i. German credit has ``[[0, 1], [5, 0]]``.

    Returns:
        A function of outputs and labels, which predicts the class of the highest logit and returns
        the mean cost.

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
            f"costs={costs!r} must be a square table [true][predicted] of finite numbers. Try "
            "[[0, 1], [5, 0]]"
        )

    def measure(outputs, y):
        return _mean(table[_class_numbers(y, "expected_cost"), _logits(outputs).argmax(1)])

    return measure


def calibration_in_the_large(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return the mean predicted probability of class 1 minus the share of its examples.

    Args:
        outputs: Logits ``[n, 2]``, or the log-odds of class 1 ``[n]``.
        y: Labels 0 and 1, ``[n]``.

    Returns:
        A number from -1 to 1, above 0 if the model predicts class 1 too often; NaN without
        examples.

    Raises:
        ValueError: If there are more than two classes.

    Example:
        >>> calibration_in_the_large(np.array([0.0, 0.0]), np.array([1, 1]))
        -0.5
    """
    log_odds = _score_of_class_1(outputs, "calibration_in_the_large")
    positive = _class_numbers(y, "calibration_in_the_large") == 1
    # This form of the logistic function does not overflow.
    return _mean((1 + np.tanh(log_odds / 2)) / 2 - positive)


def concordance(outputs: np.ndarray, y: np.ndarray) -> float:
    """Return Harrell's c-index: the share of comparable pairs that the risks order correctly.

    A pair is comparable if it is known which event came first. Equal risks count half.

    Args:
        outputs: Risks ``[n]`` or ``[n, 1]``: higher means an earlier event.
        y: Times with a second column that is 1 for an observed event and 0 for a censored one,
            ``[n, 2]``; or times ``[n]`` of observed events.

    Returns:
        A number from 0 to 1; 0.5 is chance. NaN if no pair is comparable.

    Raises:
        ValueError: If there is not one risk per example.

    Example:
        >>> concordance(np.array([3.0, 2.0, 1.0]), np.array([[1, 1], [2, 0], [3, 1]]))
        1.0

    References: Harrell et al. 1982.
    """
    risk = np.asarray(outputs, dtype=float)
    if risk.size != len(y):
        raise ValueError(
            f"outputs must be one risk per example, [{len(y)}] (their shape is "
            f"{list(risk.shape)}). Try outputs[:, 0]"
        )
    risk = risk.reshape(len(y))
    time, observed = (y, np.ones(len(y))) if y.ndim == 1 else y.T
    # before [n, n]: example i had its event while j had none yet.
    before = (time[:, None] < time) & (observed[:, None] > 0)
    # If j was censored at the moment of i's event, it lived longer.
    tied_in_time = (time[:, None] == time) & (observed[:, None] > 0) & (observed == 0)
    comparable = before | tied_in_time
    gap = risk[:, None] - risk
    return _mean(((gap > 0) + (gap == 0) / 2)[comparable])


def check_measured(name: str, value: object, where: str = "the test set") -> float:
    """Return the result of a measure as a float, after checking that it is one number.

    Args:
        name: Name of the measure.
        value: Its result.
        where: The examples, in messages.

    Raises:
        ValueError: If it is not one number; NaN is one.

    Example:
        >>> check_measured("auc", np.float32(0.5))
        0.5
    """
    number = value.item() if hasattr(value, "item") and getattr(value, "size", 2) == 1 else value
    if not is_number(number) and not (isinstance(number, float) and np.isnan(number)):
        kind = (
            f"{type(value).__name__} of shape {list(np.shape(value))}"
            if np.ndim(value)
            else repr(value)
        )
        raise ValueError(
            f"measure {name!r} must give one number, NaN if undefined (on {where} it gave "
            f"{kind}). Try a metric for one number per example"
        )
    return float(number)


def _class_numbers(y: np.ndarray, name: str) -> np.ndarray:
    """Return labels as whole numbers, after checking that they are."""
    y = np.asarray(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y  # labels of binary losses
    numbers = (
        y.astype(int, copy=False)
        if y.ndim == 1 and (y.dtype.kind in "iub" or np.isfinite(y).all())
        else None
    )
    if numbers is None or (numbers != y).any():
        raise ValueError(
            f"labels of {name} must be class numbers [n] (their shape is {list(y.shape)} and their "
            f"type {y.dtype}). Try y.argmax(1) for one-hot labels, or a measure for real targets"
        )
    return numbers


def _logits(outputs: np.ndarray) -> np.ndarray:
    """Return outputs as ``[n, classes]``; a single score becomes logits of two classes."""
    scores = np.asarray(outputs, dtype=float)
    if scores.ndim == 1 or scores.shape[1] == 1:
        scores = scores.reshape(-1, 1)
        return np.concatenate([np.zeros_like(scores), scores], 1)
    return scores


def _score_of_class_1(outputs: np.ndarray, name: str) -> np.ndarray:
    scores = _logits(outputs)
    if scores.shape[1] != 2:
        raise ValueError(
            f"{name} must have two classes (the model has {scores.shape[1]} outputs). Try auc or "
            "macro_f1"
        )
    return scores[:, 1] - scores[:, 0]


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
