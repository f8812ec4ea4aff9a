"""Data sets that come inside scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np

from fedlab.core import generator
from fedlab.data.arrays import Arrays, to_arrays


@cache
def digits() -> Arrays:
    """Return 1,797 handwritten digits of 8 x 8 pixels in 0..1, in 10 classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, x_test, y, y_test = _fifth("digits", bunch.data / 16.0, bunch.target)
    return to_arrays(x, y, (x_test, y_test), tuple(map(str, bunch.target_names)), "digits")


@cache
def breast_cancer() -> Arrays:
    """Return 569 tumours with 30 measurements, standardised by the training set, in 2 classes."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    x, x_test, y, y_test = _fifth("breast_cancer", bunch.data, bunch.target)
    mean, deviation = x.mean(0), x.std(0)
    test = (x_test - mean) / deviation, y_test
    classes = tuple(map(str, bunch.target_names))
    return to_arrays((x - mean) / deviation, y, test, classes, "breast_cancer")


def _fifth(name: str, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return training x, test x, training y and test y; the tests are a stratified fifth."""
    from sklearn.model_selection import train_test_split

    seed = int(generator(0, name, "test").integers(2**31))
    return train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
