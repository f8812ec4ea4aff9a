"""Data sets by name.  The bundled ones need no network: they come inside scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fedlab.data.partition import Split, iid
from fedlab.records import FederatedDataset
from fedlab.rng import generator


def load(name: str, clients: int = 10, split: Split | None = None, seed: int = 0) -> FederatedDataset:
    """A data set, divided over ``clients`` by ``split`` (default ``iid()``) under ``seed``.

    ``digits``: 1,797 handwritten digits of 8 x 8 pixels in 0..1, 10 classes.  ``breast_cancer``: 569 tumours with 30
    measurements, standardised by the training set, 2 classes.  A fifth, stratified, is the test set: always the same one.
    Tensors of one data set are shared between calls: treat them as read-only.
    """
    if name not in _SOURCES:
        close = get_close_matches(name, _SOURCES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no data set {name!r}: there are {', '.join(_SOURCES)}{hint}")
    x, y, test, classes = _arrays(name)
    parts = (split or iid())(y.numpy(), clients, generator(seed, "split"))
    return FederatedDataset(x, y, parts, test, name, classes)


@cache
def _arrays(name: str) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[str, ...]]:
    """Training x, y, the test pair and the class names; read once a process."""
    from sklearn.model_selection import train_test_split

    x, y, classes = _SOURCES[name]()
    fixed = int(generator(0, name, "test").integers(2**31))
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=fixed)
    if name == "breast_cancer":
        mean, sd = x.mean(0), x.std(0)
        x, x_test = (x - mean) / sd, (x_test - mean) / sd
    as_x, as_y = lambda a: torch.from_numpy(a.astype(np.float32)), lambda a: torch.from_numpy(a.astype(np.int64))
    return as_x(x), as_y(y), (as_x(x_test), as_y(y_test)), classes


def _digits():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data / 16.0, bunch.target, tuple(str(c) for c in bunch.target_names)


def _breast_cancer():
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return bunch.data, bunch.target, tuple(str(c) for c in bunch.target_names)


_SOURCES: dict[str, Callable] = {"digits": _digits, "breast_cancer": _breast_cancer}
