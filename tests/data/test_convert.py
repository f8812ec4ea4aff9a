"""Values of any kind as examples and labels; each remedy that an error names is applied."""

import logging
import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image
from torch import nn

from fedlab.client import batched, sequential
from fedlab.core import Experiment, Local
from fedlab.data import dirichlet, federate, iid, load, noise
from fedlab.data.convert import examples as convert
from fedlab.data.datasets import for_seed
from fedlab.engine import evaluate_clients, run
from fedlab.models import classification, mlp
from fedlab.server import fedavg, uniform, weighted_mean, with_examples

N = 240
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(N, 12)).astype(np.float32), np.arange(N) % 3
FRAME = pd.DataFrame(X, columns=[f"c{k}" for k in range(12)])
BYTES = DRAW.integers(0, 256, (N, 8, 6, 3), dtype=np.uint8)
MIXED = FRAME.assign(sick=Y > 0, town=np.array(["ulm", "bonn", "kiel"])[Y])


def both(data):
    """Sort training and test examples together."""
    rows = torch.cat([data.x, data.test[0]]).flatten(1)
    return rows[np.lexsort(rows.numpy().T)]


def same(data, x):
    return torch.equal(both(data), both(federate(torch.as_tensor(x), Y, clients=6)))


FEATURES = {
    "dummies beside numbers": lambda: (pd.get_dummies(MIXED), 16),
    "the same as an object array": lambda: (pd.get_dummies(MIXED).to_numpy(), 16),
    "booleans": lambda: (X > 0, 12),
    "nullable types": lambda: (
        pd.DataFrame(X > 0).astype("boolean").assign(n=pd.array(Y, dtype="Int64")),
        13,
    ),
    "nullable floats": lambda: (FRAME.astype("Float64"), 12),
    "an all-integer frame": lambda: (pd.DataFrame(np.stack([Y, Y + 1], 1)), 2),
    "sparse columns": lambda: (pd.DataFrame({"a": pd.arrays.SparseArray(Y % 2), "b": Y}), 2),
    "numbers as objects": lambda: (FRAME.astype(object), 12),
    "exact numbers": lambda: (pd.DataFrame({"a": [Decimal("1.5"), Fraction(1, 3)] * 120}), 1),
    "columns of one name": lambda: (pd.concat([FRAME, FRAME], axis=1), 24),
    "columns of two levels": lambda: (pd.concat({"a": FRAME}, axis=1), 12),
    "a sparse matrix": lambda: (scipy.sparse.csr_matrix(X), 12),
    "a sparse array of counts": lambda: (scipy.sparse.coo_array(np.stack([Y, Y], 1)), 2),
    "a sparse tensor": lambda: (torch.from_numpy(X).to_sparse(), 12),
    "a list of arrays": lambda: (list(X), 12),
    "a list of tensors": lambda: (list(torch.from_numpy(X)), 12),
    "an object array of arrays": lambda: (pd.Series(list(X)).to_numpy(), 12),
    "reversed rows": lambda: (X[::-1], 12),
    "a broadcast row": lambda: (np.broadcast_to(X[0], X.shape), 12),
    "big-endian numbers": lambda: (X.astype(">f8"), 12),
    "half precision": lambda: (X.astype(np.float16), 12),
    "bfloat16": lambda: (torch.from_numpy(X).bfloat16(), 12),
    "a tensor with a gradient": lambda: (torch.tensor(X, requires_grad=True), 12),
    "a masked array without a mask": lambda: (np.ma.array(X), 12),
    "turned pictures": lambda: (np.moveaxis(BYTES, 3, 1) / 255, 144),
}


@pytest.mark.parametrize("name", FEATURES)
def test_numbers_of_any_kind_are_float32_features_and_train(name):
    x, width = FEATURES[name]()
    data = federate(x, Y, clients=6)
    assert data.x.dtype == data.test[0].dtype == torch.float32
    assert data.x[0].numel() == width
    assert data.x.is_contiguous()
    experiment = Experiment(
        data, mlp(data, (4,)), Local(0.01, 8), fedavg(), weighted_mean, uniform(4), rounds=1
    )
    assert run(experiment).w[0].isfinite().all()


def test_values_are_those_of_the_caller():
    assert same(federate(FRAME, Y), X)
    assert same(federate(scipy.sparse.csc_matrix(X), Y), X)
    assert same(
        federate(pd.get_dummies(FRAME.assign(b=Y > 0)), Y), np.c_[X, Y > 0].astype(np.float32)
    )
    assert torch.equal(federate(X[::-1], Y[::-1], test=(X, Y)).x.flip(0), torch.from_numpy(X))
    turned = federate(BYTES.transpose(0, 3, 1, 2), Y, test=(BYTES.transpose(0, 3, 1, 2), Y))
    assert torch.equal(
        turned.x, torch.from_numpy(np.ascontiguousarray(BYTES.transpose(0, 3, 1, 2)))
    )


@pytest.mark.parametrize("kind", ["int16", "int32", "int64", "uint16"])
def test_whole_numbers_of_arrays_and_tensors_are_tokens(kind):
    data = federate(np.arange(N * 2, dtype=kind).reshape(N, 2), Y)
    assert data.x.dtype == torch.int64
    assert federate(torch.arange(N * 2).reshape(N, 2).int(), Y).x.dtype == torch.int64


def test_pictures_stay_bytes():
    images = [Image.fromarray(picture) for picture in BYTES]
    for x in (BYTES.transpose(0, 3, 1, 2), torch.from_numpy(BYTES).permute(0, 3, 1, 2), images):
        data = federate(x, Y)
        assert data.x.dtype == torch.uint8
        assert data.x.shape[1:] == (3, 8, 6)
        assert same(data, BYTES.transpose(0, 3, 1, 2))
    grey = federate([image.convert("L") for image in images], Y)
    assert grey.x.shape[1:] == (1, 8, 6)


@pytest.mark.parametrize("test", [0.2, (X, Y)])
def test_nothing_is_shared_with_the_caller(test):
    for x in (X.copy(), torch.from_numpy(X.copy()), pd.DataFrame(X.copy())):
        y = Y.copy()
        data = federate(x, y, test=test)
        values = x.numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
        before = values.copy()
        for tensor in (data.x, data.y, *data.test):
            tensor.zero_()
        np.testing.assert_array_equal(values, before)
        np.testing.assert_array_equal(y, Y)
    assert X.any()


@pytest.mark.parametrize(
    "kind", [np.array, torch.from_numpy, lambda x: x.tolist(), lambda x: x.astype(object)]
)
def test_whole_numbers_that_no_int64_holds_are_refused(kind):
    x = kind(LARGE)
    with pytest.raises(
        ValueError,
        match=(
            r"x.* must .* below .* holds 9223372036854775813\. "
            r"Try .*\(np\.array\(x.*, object\) % 2\*\*20\)\.astype"
        ),
    ):
        federate(x, Y)
    x = x.numpy() if isinstance(x, torch.Tensor) else x
    hashed = federate((np.array(x, object) % 2**20).astype(int), Y)
    assert hashed.x.unique().tolist() == [0, 1, 2, 5]
    assert federate(np.array(x, float), Y).x.dtype == torch.float32
    assert federate(LARGE % 2**20, Y).x.dtype == torch.int64


@pytest.mark.parametrize("kind", [np.array, list, pd.Series])
def test_owners_are_told_apart_beyond_int64(kind):
    owner = np.array([5, 2**63, 2**63 + 1], np.uint64)[Y]
    data = federate(
        X, Y, owner=kind(owner.tolist()) if kind is list else kind(owner), test=(X, Y, owner)
    )
    assert data.sizes.tolist() == [80, 80, 80]
    assert [data.test[1][part].unique().tolist() for part in data.test_parts] == [[0], [1], [2]]


def test_pictures_of_other_depths_are_real_numbers():
    grey = [Image.fromarray(picture[..., 0]) for picture in BYTES]
    for x, wanted in {
        "1": ([image.convert("1") for image in grey], [0, 1]),
        "I;16": (
            [Image.fromarray(picture[..., 0].astype(np.uint16) * 257) for picture in BYTES],
            range(0, 65_536, 257),
        ),
        "I": ([image.convert("I") for image in grey], range(256)),
    }.values():
        data = federate(x, Y)
        assert (data.x.dtype, data.x.shape[1:]) == (torch.float32, (1, 8, 6))
        assert set(data.x.unique().tolist()) <= set(wanted)
    for mode, channels in {"LA": 2, "RGBA": 4}.items():
        data = federate([image.convert(mode) for image in IMAGES], Y)
        assert (data.x.dtype, data.x.shape[1]) == (torch.uint8, channels)
    assert torch.equal(federate(pd.Series(IMAGES).to_numpy(), Y).x, federate(IMAGES, Y).x)


LABELS = {
    "texts": (np.array(list("cab"))[Y], ("a", "b", "c"), [2, 0, 1]),
    "a list of texts": (list("cab") * 80, ("a", "b", "c"), [2, 0, 1]),
    "texts as objects": (pd.Series(list("cab") * 80, dtype=object), ("a", "b", "c"), [2, 0, 1]),
    "bytes": (np.array([b"c", b"a", b"b"])[Y], ("a", "b", "c"), [2, 0, 1]),
    "booleans": (Y > 0, ("False", "True"), [0, 1, 1]),
    "nullable booleans": (pd.Series(Y > 0, dtype="boolean"), ("False", "True"), [0, 1, 1]),
    "categories, one unused": (
        pd.Series(
            pd.Categorical(np.array(["low", "mid", "high"])[Y], ["none", "low", "mid", "high"])
        ),
        ("low", "mid", "high"),
        [0, 1, 2],
    ),
    "reals": (Y.astype(float), ("0", "1", "2"), [0, 1, 2]),
    "0.0 and 1.0": ((Y > 0).astype(float), ("0", "1"), [0, 1, 1]),
    "nullable integers": (pd.Series(Y, dtype="Int64"), ("0", "1", "2"), [0, 1, 2]),
    "numbers as objects": (Y.astype(object), ("0", "1", "2"), [0, 1, 2]),
    "pandas' categories": (pd.Categorical(list("cab") * 80), ("a", "b", "c"), [2, 0, 1]),
    "an index": (pd.Index(Y), ("0", "1", "2"), [0, 1, 2]),
    "a frame of one column": (pd.DataFrame({"y": Y}), ("0", "1", "2"), [0, 1, 2]),
    "a column": (Y[:, None], ("0", "1", "2"), [0, 1, 2]),
    "a column of reals": (Y[:, None].astype(float), ("0", "1", "2"), [0, 1, 2]),
    "a gap": (Y * 2, ("0", "1", "2", "3", "4"), [0, 2, 4]),
    "small whole numbers": (Y.astype(np.uint8), ("0", "1", "2"), [0, 1, 2]),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_kind_are_class_numbers(name):
    y, classes, numbers = LABELS[name]
    data = federate(X, y, test=(X, y))
    assert data.classes == classes
    assert data.y.dtype == torch.int64
    assert data.y.tolist() == data.test[1].tolist() == numbers * 80


def test_labels_from_1_name_their_classes_and_it_says_so(caplog):
    data = federate(X, Y + 1, test=(X, Y + 1))
    assert data.classes == ("1", "2", "3")
    assert data.y.tolist() == Y.tolist()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "labels are 1 to 3 and none is 0: they name 3 classes, renumbered from 0. "
        "Try classes=() if they are numbers to predict"
    )
    assert federate(X, Y + 1, classes=()).y.unique().tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("y", "classes", "message"),
    [
        (
            Y + 1,
            "zabc",
            (
                r"no example is of class 0 \('z'\): labels are numbered from 0. "
                r"Try y - 1 if yours begin with 1"
            ),
        ),
        (Y * 0, None, "all labels are 0: with one class there is nothing to learn"),
        (["a"] * N, None, "all labels are a: with one class"),
    ],
)
def test_an_empty_class_0_and_a_single_class_are_told(caplog, y, classes, message):
    federate(X, y, classes=classes)
    (record,) = caplog.records
    assert re.match(message, record.getMessage())


def test_classes_without_an_example_are_told(caplog):
    assert federate(X, np.where(Y > 0, 4, 0)).classes == ("0", "1", "2", "3", "4")
    (record,) = caplog.records
    assert record.getMessage() == (
        "y has labels from 0 to 4, but no example of 3 of these classes (1, 2, 3). "
        "Try y = np.unique(y, return_inverse=True)[1], or classes=range(5) if these classes exist"
    )
    caplog.clear()
    assert federate(X, np.unique(np.where(Y > 0, 4, 0), return_inverse=True)[1]).classes == (
        "0",
        "1",
    )
    assert federate(X, np.where(Y > 0, 4, 0), classes=range(5)).classes == ("0", "1", "2", "3", "4")
    assert not caplog.records


def test_categories_of_which_training_lacks_one_keep_their_order():
    y = pd.Series(pd.Categorical(np.array(["lo", "hi"])[Y % 2], ["lo", "mid", "hi"]))
    test = y.where(y == "hi", "mid")
    assert federate(X, y, test=(X, test)).classes == ("lo", "mid", "hi")


def test_names_give_texts_their_order():
    data = federate(X, np.array(list("cab"))[Y], classes="cab")
    assert data.classes == ("c", "a", "b")
    assert federate(X, Y.astype(float), classes=range(3)).classes == ("0", "1", "2")


def test_targets_of_a_regression_stay_numbers():
    ages = 20 + np.arange(N) % 58
    for y in (ages.astype(float), Y / 7, np.where(Y > 0, 1.0, -1.0), ages / 1.0 * 1000):
        data = federate(X, y, test=(X, y))
        assert data.classes == ()
        torch.testing.assert_close(data.y, torch.from_numpy(y).float())
    for y in (ages, Y, np.arange(N) * 3240, Y > 0, pd.Series(ages, dtype="Int64")):
        data = federate(X, y, classes=(), test=(X, y))
        assert data.y.dtype == torch.float32
        assert data.y.tolist() == [float(value) for value in y]
    assert federate(X, np.c_[Y, Y] / 2).y.shape == (192, 2)


IMAGES = [Image.fromarray(picture) for picture in BYTES]
LARGE = np.stack([Y, np.where(Y, 2**63 + 5, 1)], 1).astype(np.uint64)
TARGETS = np.stack([Y > 0, Y > 1], 1)
MISSING = FRAME.assign(a=pd.array([1, None] * 120, dtype="Int64"), b=[True, None] * 120)
MARKED = FRAME.assign(a=["1", "?"] * 120)
TIMES = FRAME.assign(when=pd.to_datetime(["2020-01-01", "2021-05-05"] * 120))
BEYOND = X.astype(float) * 1e39
TASKS = pd.get_dummies(pd.Series(np.array(list("cab"))[Y]))
WRONG = {
    "a column of texts": (
        lambda: federate(MIXED, Y),
        (
            r"x\['town'\]\[0\]='ulm' must be a number \(all features are\)\. Try "
            r"tabular\(frame, label=\.\.\.\), which encodes texts, or pd\.get_dummies\(x, "
            r"dtype=float\)"
        ),
        lambda: federate(pd.get_dummies(MIXED, dtype=float), Y),
    ),
    "a categorical column": (
        lambda: federate(MIXED.astype({"town": "category"}), Y),
        (
            r"column 'town' of x must hold numbers, and it is categorical, such as "
            r"'ulm'\. Try tabular\(frame, label=\.\.\.\), which encodes it, or "
            r"pd\.get_dummies\(x, dtype=float\)"
        ),
        lambda: federate(pd.get_dummies(MIXED.astype({"town": "category"}), dtype=float), Y),
    ),
    "cells that mean nothing": (
        lambda: federate(MARKED, Y),
        (
            r"x\['a'\]\[1\]='\?' must be a number \(all features are\)\. Try "
            r"tabular\(frame, label=\.\.\.\), which fills missing values, or x\['a'\] = "
            r"pd\.to_numeric\(x\['a'\], errors='coerce'\) and fill it"
        ),
        lambda: federate(MARKED.assign(a=pd.to_numeric(MARKED["a"], errors="coerce")).fillna(0), Y),
    ),
    "numbers as texts": (
        lambda: federate(FRAME.assign(a=["1", "2"] * 120), Y),
        (
            r"x\['a'\]\[0\]='1' must be a number \(all features are\)\. Try x\['a'\] = "
            r"pd\.to_numeric\(x\['a'\]\)"
        ),
        lambda: federate(FRAME.assign(a=pd.to_numeric(pd.Series(["1", "2"] * 120))), Y),
    ),
    "an array of texts": (
        lambda: federate(MARKED.to_numpy(), Y),
        (
            r"x\[0, 12\]='1' must be a number \(all features are\)\. Try "
            r"pd\.DataFrame\(x\)\.apply\(pd\.to_numeric, errors='coerce'\), and fill "
            r"missing values"
        ),
        lambda: federate(
            pd.DataFrame(MARKED.to_numpy()).apply(pd.to_numeric, errors="coerce").fillna(0), Y
        ),
    ),
    "missing values of nullable types": (
        lambda: federate(MISSING, Y),
        (
            r"column 'a' of x must have a value at row 1 \(120 of 240 have none\)\. Try "
            r"tabular\(frame, label=\.\.\.\), which fills missing values, or "
            r"x\.astype\(float\)\.fillna\(x\.astype\(float\)\.mean\(\)\)"
        ),
        lambda: federate(MISSING.astype(float).fillna(MISSING.astype(float).mean()), Y),
    ),
    "times": (
        lambda: federate(TIMES, Y),
        (
            r"column 'when' of x must hold numbers, and it holds times\. Try x\['when'\] "
            r"= \(x\['when'\] - x\['when'\]\.min\(\)\) / pd\.Timedelta\('1D'\)"
        ),
        lambda: federate(
            TIMES.assign(when=(TIMES["when"] - TIMES["when"].min()) / pd.Timedelta("1D")), Y
        ),
    ),
    "an array of times": (
        lambda: federate(TIMES[["when"]].to_numpy(), Y),
        (
            r"x must hold numbers, and it holds times \(datetime64.*\)\. Try \(x - "
            r"x\.min\(\)\) / np\.timedelta64\(1, 'D'\)"
        ),
        lambda: federate(
            (TIMES[["when"]].to_numpy() - TIMES["when"].to_numpy().min()) / np.timedelta64(1, "D"),
            Y,
        ),
    ),
    "a Series": (
        lambda: federate(FRAME["c0"], Y),
        r"x must be an array .*, and it is a Series of 240 values\. Try pd\.DataFrame\(x\)",
        lambda: [federate(pd.DataFrame(x), Y) for x in (FRAME["c0"], pd.array(Y))],
    ),
    "a Series of pictures": (
        lambda: federate(pd.Series(IMAGES), Y),
        r"x must be an array .*, and it is a Series of 240 values\. Try list\(x\)",
        lambda: federate(list(pd.Series(IMAGES)), Y),
    ),
    "a Series of arrays": (
        lambda: federate(pd.Series(list(X)), Y),
        r"x must be an array .*, and it is a Series of 240 values\. Try list\(x\)",
        lambda: federate(list(pd.Series(list(X))), Y),
    ),
    "pictures of a palette": (
        lambda: federate([image.convert("P") for image in IMAGES], Y),
        (
            r"x must hold pictures of grey, or of red, green and blue \(mode 'P' holds "
            r"numbers of a palette's colours\)\. Try \[image\.convert\('RGB'\) for image "
            r"in x\]"
        ),
        lambda: federate([image.convert("P").convert("RGB") for image in IMAGES], Y),
    ),
    "pictures of inks": (
        lambda: federate([image.convert("CMYK") for image in IMAGES], Y),
        (
            r"x must hold pictures of grey, or of red, green and blue \(mode 'CMYK' holds "
            r"other numbers\)\. Try \[image\.convert\('RGB'\) for image in x\]"
        ),
        lambda: federate([image.convert("CMYK").convert("RGB") for image in IMAGES], Y),
    ),
    "complex numbers": (
        lambda: federate(X + 1j, Y),
        (
            r"x must hold real numbers, and it holds complex numbers\. Try "
            r"np\.concatenate\(\[x\.real, x\.imag\], 1\), or np\.abs\(x\)"
        ),
        lambda: federate(np.concatenate([(X + 1j).real, (X + 1j).imag], 1), Y),
    ),
    "fields": (
        lambda: federate(np.zeros(N, [("a", "f4"), ("b", "i4")]), Y),
        (
            r"x must be an array of numbers, and it has the fields \('a', 'b'\)\. Try "
            r"pd\.DataFrame\(x\)"
        ),
        lambda: federate(pd.DataFrame(np.zeros(N, [("a", "f4"), ("b", "i4")])), Y),
    ),
    "beyond single precision": (
        lambda: federate(BEYOND, Y),
        (
            r"x\[0, 2\]=6\.4\d*e\+38 must be below 3\.4e\+38 \(where float32 ends\)\. Try "
            r"standardising: \(x - x\.mean\(0\)\) / x\.std\(0\)"
        ),
        lambda: federate((BEYOND - BEYOND.mean(0)) / BEYOND.std(0), Y),
    ),
    "a set of PyTorch's": (
        lambda: federate(
            torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), Y
        ),
        (
            r"x must be an array of examples, and it is a TensorDataset\. Try "
            r"torch\.stack\(\[x for x, _ in x\]\), \[y for _, y in x\]"
        ),
        lambda: federate(torch.stack(list(torch.from_numpy(X))), list(torch.from_numpy(Y))),
    ),
    "pictures of two kinds": (
        lambda: federate([Image.new("L", (8, 6)), Image.new("RGB", (8, 8))] * 120, Y),
        (
            r"x must hold pictures of one mode and size \(there are \('L', \(8, 6\)\) and "
            r"\('RGB', \(8, 8\)\)\)\. Try \[image\.convert\('RGB'\)\.resize\(\(32, 32\)\) "
            r"for image in x\]"
        ),
        lambda: federate([Image.new("L", (8, 6)).convert("RGB").resize((32, 32))] * N, Y),
    ),
    "rows of two lengths": (
        lambda: federate([X[0], X[1][:5]] * 120, Y),
        (
            r"x must hold examples of one shape \(example 0 has \[12\], and example 1 "
            r"\[5\]\)\. Try resizing pictures, or padding rows to the longest"
        ),
        None,
    ),
    "objects of two shapes": (
        lambda: federate(pd.Series([X[0], X[1][:5]] * 120).to_numpy(), Y),
        (
            r"x must hold examples of one shape \(example 0 has \[12\], and example 1 "
            r"\[5\]\)\. Try resizing pictures, or padding rows to the longest"
        ),
        None,
    ),
    "a number without end": (
        lambda: federate(np.array([[10**400]] * N, dtype=object), Y),
        r"x\[0, 0\]=1.* must be a number \(all features are\)\. Try smaller numbers",
        None,
    ),
    "a tensor of one number": (
        lambda: federate(torch.tensor(1.0), torch.tensor(1)),
        r"x must be \[n, \.\.\.\], and it is a single number\. Try x\[None\]",
        None,
    ),
    "a target beyond single precision": (
        lambda: federate(X, np.where(Y, 0.5, 1e300)),
        (
            r"y\[0\]=1e\+300 must be below 3\.4e\+38 \(where float32 ends\)\. Try "
            r"standardising: \(y - y\.mean\(0\)\) / y\.std\(0\)"
        ),
        None,
    ),
    "a seed in words": (
        lambda: federate(X, Y, seed="a"),
        r"seed='a' must be a whole number\. Try seed=0",
        None,
    ),
    "a seed with a fraction": (
        lambda: federate(X, Y, seed=0.5),
        r"seed=0\.5 must be a whole number",
        None,
    ),
    "no seed": (lambda: load("digits", seed=None), r"seed=None must be a whole number", None),
    "a mask": (
        lambda: federate(np.ma.masked_less(X, 0), Y),
        "training example 0 has non-finite features .* is nan",
        None,
    ),
    "a column of lists": (
        lambda: federate(FRAME.assign(a=[[1]] * N), Y),
        (
            r"x\['a'\]\[0\]=\[1\] must be a number \(all features are\)\. Try "
            r"x\.drop\(columns=\['a'\]\), or numbers in its place"
        ),
        None,
    ),
    "no column": (
        lambda: federate(FRAME[[]], Y),
        (
            r"training examples of shape \[240, 0\] must have a feature\. Try x with one "
            r"column or more"
        ),
        None,
    ),
    "no row": (
        lambda: federate(FRAME.iloc[:0], []),
        "0 training examples and 0 labels must be equally many",
        None,
    ),
    "a dict": (
        lambda: federate({"x": X}, Y),
        (
            r"x must be an array \[n, \.\.\.\], a tensor or a frame, and it is a dict\. "
            r"Try np\.array\(\.\.\.\) of the examples"
        ),
        None,
    ),
    "columns of another order": (
        lambda: federate(FRAME, Y, test=(FRAME[FRAME.columns[::-1]], Y)),
        (
            r"the columns of the test frame must be in the order of x\. Try "
            r"test=\(x_test\[x\.columns\], y_test\)"
        ),
        lambda: federate(FRAME, Y, test=(FRAME[FRAME.columns[::-1]][FRAME.columns], Y)),
    ),
    "fewer columns": (
        lambda: federate(FRAME, Y, test=(FRAME[["c0"]], Y)),
        (
            r"the test frame must have the columns of x \(it lacks 'c1'\)\. Try the same "
            r"table for both"
        ),
        None,
    ),
    "another index": (
        lambda: federate(FRAME.iloc[::-1], pd.Series(Y)),
        (
            r"y must have the index of x \(their indexes differ, so their rows do not "
            r"belong together\)\. Try y\.loc\[x\.index\], or y\.to_numpy\(\) if the order "
            r"is right"
        ),
        lambda: federate(FRAME.iloc[::-1], pd.Series(Y).loc[FRAME.index[::-1]]),
    ),
    "another index of owners": (
        lambda: federate(FRAME, Y, owner=pd.Series(Y).iloc[::-1]),
        (
            r"owner must have the index of x \(their indexes differ, so their rows do not "
            r"belong together\)\. Try owner\.loc\[x\.index\], or owner\.to_numpy\(\) if "
            r"the order is right"
        ),
        lambda: federate(FRAME, Y, owner=pd.Series(Y).iloc[::-1].loc[FRAME.index]),
    ),
    "reals from 1": (
        lambda: federate(X, Y + 1.0),
        (
            r"labels 1 to 3 of y must be declared \(they may be classes or numbers\)\. "
            r"Try classes=\(\) if they are numbers to predict, or y = np\.unique\(y, "
            r"return_inverse=True\)\[1\] if they are classes"
        ),
        lambda: [
            federate(X, Y + 1.0, classes=()),
            federate(X, np.unique(Y + 1.0, return_inverse=True)[1]),
        ],
    ),
    "ages": (
        lambda: federate(X, 20 + Y),
        (
            r"y must hold class numbers from 0, and its labels are 3 whole numbers from "
            r"20 to 22\. Try classes=\(\) if they are numbers to predict, or y = "
            r"np\.unique\(y, return_inverse=True\)\[1\] if they are classes"
        ),
        lambda: federate(X, 20 + Y, classes=()),
    ),
    "775,581 classes": (
        lambda: federate(X, np.where(Y, 775_580, 0)),
        (
            r"y must hold class numbers, and labels up to 775580 would make 775,581 "
            r"classes for 240 examples\. Try classes=\(\) if they are numbers to predict, "
            r"or y = np\.unique\(y, return_inverse=True\)\[1\] if they are classes"
        ),
        lambda: federate(X, np.where(Y, 775_580, 0), classes=()),
    ),
    "ranks": (
        lambda: federate(X, np.arange(N)),
        "labels up to 239 would make 240 classes for 240 examples",
        None,
    ),
    "ranks from 1": (
        lambda: federate(X, 1 + np.arange(N)),
        "labels up to 240 would make 241 classes",
        None,
    ),
    "minus one": (
        lambda: federate(X, np.where(Y, 1, -1)),
        (
            r"label -1 must be at least 0 \(the first class\)\. Try np\.unique\(y, "
            r"return_inverse=True\)\[1\], which numbers any labels"
        ),
        lambda: federate(X, np.unique(np.where(Y, 1, -1), return_inverse=True)[1]),
    ),
    "one-hot rows": (
        lambda: federate(X, np.eye(3, dtype=int)[Y]),
        (
            r"y: labels must be whole class numbers \[n\] \(they have the shape \(240, "
            r"3\) and type int64: one-hot rows\)\. Try y\.argmax\(1\), or classes=\(\) "
            r"for targets"
        ),
        lambda: federate(X, np.eye(3, dtype=int)[Y].argmax(1)),
    ),
    "one-hot rows of reals": (
        lambda: federate(X, np.eye(3)[Y]),
        (
            r"y: labels must be whole class numbers \[n\] \(they have the shape \(240, "
            r"3\) and type float64: one-hot rows\)\. Try y\.argmax\(1\), or classes=\(\) "
            r"for targets"
        ),
        lambda: [federate(X, np.eye(3)[Y].argmax(1)), federate(X, np.eye(3)[Y], classes=())],
    ),
    "several targets": (
        lambda: federate(X, TARGETS.astype(int)),
        (
            r"labels must be .* shape \(240, 2\) .* "
            r"Try classes=\(\) if each example has several targets"
        ),
        lambda: federate(X, TARGETS.astype(int), classes=()),
    ),
    "several targets of booleans": (
        lambda: federate(X, TARGETS),
        (
            r"labels must be .* shape \(240, 2\) .* "
            r"Try classes=\(\) if each example has several targets"
        ),
        lambda: federate(X, TARGETS, classes=()),
    ),
    "a label that no int64 holds": (
        lambda: federate(X, LARGE[:, 1].tolist()),
        (
            r"y must .* below .* holds 9223372036854775813\. "
            r"Try np\.unique\(np\.array\(y, dtype=object\), return_inverse"
        ),
        lambda: federate(
            X, np.unique(np.array(LARGE[:, 1].tolist(), dtype=object), return_inverse=True)[1]
        ),
    ),
    "a named label that no int64 holds": (
        lambda: federate(X, pd.Series(LARGE[:, 1]), classes="ab"),
        (
            r"label 9223372036854775813 must be below 2 \(there are 2 classes, numbered "
            r"from 0\)\. Try np\.unique\(y, return_inverse=True\)\[1\], which numbers any "
            r"labels"
        ),
        None,
    ),
    "one-hot columns": (
        lambda: federate(X, TASKS),
        (
            r"y must be one column of labels, and it has 3 columns of 0 and 1, one for "
            r"each class\. Try y\.idxmax\(axis=1\)"
        ),
        lambda: federate(X, TASKS.idxmax(axis=1)),
    ),
    "a label None": (
        lambda: federate(X, [None, *["a", "b"] * 119, "a"]),
        (
            r"y\[0\]=None must be a label \(1 of 240 examples have none\)\. Try leaving "
            r"these rows out"
        ),
        None,
    ),
    "a label NaN": (
        lambda: federate(X, pd.Series(Y).where(Y > 0)),
        (
            r"y\[0\]=nan must be a label \(80 of 240 examples have none\)\. Try leaving "
            r"these rows out"
        ),
        None,
    ),
    "a label NA": (
        lambda: federate(X, pd.Series(Y, dtype="Int64").mask(Y == 1)),
        (
            r"y\[1\]=<NA> must be a label \(80 of 240 examples have none\)\. Try leaving "
            r"these rows out"
        ),
        None,
    ),
    "a masked label": (
        lambda: federate(X, np.ma.masked_equal(Y, 1)),
        (
            r"y\[1\]=masked must be a label \(80 of 240 examples have none\)\. Try "
            r"leaving these rows out"
        ),
        None,
    ),
    "labels of two types": (
        lambda: federate(X, np.array([1, "a"] * 120, dtype=object)),
        (
            r"y must hold labels of one type \(there are several: int, str\)\. Try "
            r"\[str\(label\) for label in y\]"
        ),
        lambda: federate(X, [str(label) for label in [1, "a"] * 120]),
    ),
    "dates as labels": (
        lambda: federate(X, pd.Series(pd.to_datetime(["2020", "2021"] * 120))),
        (
            r"y must hold numbers or texts, and its labels are of type Timestamp\. Try "
            r"\[str\(label\) for label in y\]"
        ),
        lambda: federate(X, [str(label) for label in pd.to_datetime(["2020", "2021"] * 120)]),
    ),
    "texts here and numbers there": (
        lambda: federate(X, Y, test=(X, np.array(list("cab"))[Y])),
        (
            r"y must hold labels of one kind \(there are texts, such as 'c', and "
            r"numbers\)\. Try y\.astype\(str\) for both"
        ),
        None,
    ),
    "texts as targets": (
        lambda: federate(X, list("cab") * 80, classes=()),
        (
            r"y must hold numbers to predict with classes=\(\), and its labels are texts, "
            r"such as 'c'\. Try classes=None"
        ),
        None,
    ),
    "a label that no name has": (
        lambda: federate(X, list("cab") * 80, classes="ca"),
        (
            r"y\[2\]='b' must be one of the classes c, a\. Try classes=None, or its name "
            r"among classes"
        ),
        None,
    ),
    "a real label among named classes": (
        lambda: federate(X, Y / 2, classes="abc"),
        (
            r"y: label 0\.5 must be a class number, because 3 classes are named\. Try "
            r"classes=\(\)"
        ),
        lambda: federate(X, Y / 2, classes=()),
    ),
    "names by number": (
        lambda: federate(X, Y, classes={0: "a", 1: "b", 2: "c"}),
        (
            r"classes must list names by number, and it is a dict of 3\. Try "
            r"list\(classes\.values\(\)\)"
        ),
        lambda: federate(X, Y, classes=list({0: "a", 1: "b", 2: "c"}.values())),
    ),
    "a number of names": (
        lambda: federate(X, Y, classes=3),
        r"classes=3 must be the names of the classes\. Try classes=range\(3\)",
        lambda: federate(X, Y, classes=range(3)),
    ),
    "a list of dicts": (
        lambda: federate(FRAME.to_dict("records"), Y),
        r"x\[0\]=.* must be a number \(all features are\)\. Try pd\.DataFrame\(x\)",
        lambda: federate(pd.DataFrame(FRAME.to_dict("records")), Y),
    ),
    "a skew of bytes": (
        lambda: noise(federate(BYTES.transpose(0, 3, 1, 2), Y), 0.1),
        (
            r"examples of type torch\.uint8 must be real numbers for this skew, such as "
            r"pixels or measurements\. Try federate\(x / 255, \.\.\.\) for pictures in "
            r"bytes"
        ),
        lambda: noise(federate(BYTES.transpose(0, 3, 1, 2) / 255, Y), 0.1),
    ),
    "a name twice": (
        lambda: federate(X, Y, classes="aab"),
        r"classes must differ \('a' is listed twice\)\. Try a name of its own for each",
        None,
    ),
    "a column's name for labels": (
        lambda: federate(FRAME, "c0"),
        r"y='c0' must be one label per example, not one text\. Try y=frame\['c0'\]",
        lambda: federate(FRAME, FRAME["c0"]),
    ),
    "one label": (
        lambda: federate(X, 3),
        r"y must be \[n\], one label per example, and it is a int\. Try a list of labels",
        None,
    ),
    "labels of two lengths": (
        lambda: federate(X, [[1], [1, 2]] * 120),
        (
            r"y must hold one label per example \(they have different lengths\)\. Try "
            r"\[label\[0\] for label in y\]"
        ),
        None,
    ),
    "an owner NaN": (
        lambda: federate(X, Y, owner=np.where(Y, Y, np.nan)),
        (
            r"owner\[0\]=nan must be a name \(80 of 240 examples have none\)\. Try "
            r"leaving these rows out, or a name for them such as 'unknown'"
        ),
        lambda: federate(X, Y, owner=pd.Series(np.where(Y, Y, np.nan)).map(str)),
    ),
    "an owner None": (
        lambda: federate(X, Y, owner=[None, "a"] * 120),
        (
            r"owner\[0\]=None must be a name \(120 of 240 examples have none\)\. Try "
            r"leaving these rows out, or a name for them such as 'unknown'"
        ),
        None,
    ),
    "an owner NA": (
        lambda: federate(X, Y, owner=pd.array([1, None] * 120, dtype="Int64")),
        (
            r"owner\[1\]=<NA> must be a name \(120 of 240 examples have none\)\. Try "
            r"leaving these rows out, or a name for them such as 'unknown'"
        ),
        None,
    ),
    "owners of two types": (
        lambda: federate(X, Y, owner=np.array([1, "a"] * 120, dtype=object)),
        (
            r"owner must hold names of one type \(there are several: int, str\)\. Try "
            r"owner=\[str\(name\) for name in owner\]"
        ),
        lambda: federate(X, Y, owner=[str(name) for name in [1, "a"] * 120]),
    ),
    "a column's name for owners": (
        lambda: federate(FRAME, Y, owner="c0"),
        (
            r"owner='c0' must be one name per example, not one text\. Try "
            r"owner=frame\['c0'\], or tabular\(frame, label=\.\.\., owner='c0'\)"
        ),
        lambda: federate(FRAME, Y, owner=np.round(FRAME["c0"]), clients=2),
    ),
    "a mask for a part": (
        lambda: federate(
            X, Y, split=lambda y, n, draw: [np.arange(len(y)) % n == i for i in range(n)]
        ),
        (
            r"parts\[0\] is of shape \(192,\) and type bool .* "
            r"Try np\.flatnonzero\(mask\)"
        ),
        lambda: federate(
            X,
            Y,
            split=lambda y, n, draw: [np.flatnonzero(np.arange(len(y)) % n == i) for i in range(n)],
        ),
    ),
    "a seed for a split": (
        lambda: load("digits", 10, 3),
        (
            r"split=3 must be a split, not a number \(the seed comes after it\)\. Try "
            r"split=iid\(\), or seed=3 by name"
        ),
        lambda: [load("digits", 10, iid()), load("digits", 10, seed=3)],
    ),
    "seed 0 for a split": (
        lambda: load("digits", 10, 0),
        (
            r"split=0 must be a split, not a number \(the seed comes after it\)\. Try "
            r"split=iid\(\), or seed=0 by name"
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_work_says_what_does(name):
    act, message, remedy = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
    if remedy is not None:
        remedy()


def test_a_wide_sparse_matrix_is_not_made_dense(monkeypatch):
    wide = scipy.sparse.csr_matrix((N, 10**9))
    place, value = torch.zeros((2, 1), dtype=torch.int64), torch.ones(1)
    for x in (wide, torch.sparse_coo_tensor(place, value, (N, 10**9), check_invariants=True)):
        with pytest.raises(
            ValueError,
            match=(
                r"x must fit into memory \(it is sparse of the shape \[240, 1000000000\]: "
                r"dense it takes 960\.0 GB, and .* GB are free\)\. Try fewer columns "
                r"\(max_features= of a vectorizer\), or "
                r"sklearn\.decomposition\.TruncatedSVD\(100\)\.fit_transform\(x\)"
            ),
        ):
            federate(x, Y)
    monkeypatch.setattr(convert, "MAX_SHARE_OF_MEMORY", 1e-9)
    from sklearn.decomposition import TruncatedSVD

    x = scipy.sparse.random(N, 300, 0.05, "csr", random_state=0)
    with pytest.raises(ValueError, match="dense it takes"):
        federate(x, Y)
    assert federate(TruncatedSVD(100).fit_transform(x), Y).x.shape[1] == 100


def test_channels_that_stand_last_are_told(caplog):
    federate(BYTES, Y)
    assert [record.getMessage() for record in caplog.records] == [
        "examples of the shape [8, 6, 3] look like pictures with their channels last; "
        "models of pictures take [channels, height, width]. "
        "Try x.transpose(0, 3, 1, 2) of the array"
    ]
    caplog.clear()
    federate(BYTES.transpose(0, 3, 1, 2), Y)
    assert not caplog.records


def test_matrices_are_arrays():
    with pytest.warns(PendingDeprecationWarning):
        assert same(federate(np.asmatrix(X), Y), X)


OWNERS = {
    "texts": np.array(["c", "a", "b"])[Y],
    "a Series": pd.Series(np.array(["c", "a", "b"], dtype=object)[Y]),
    "categories": pd.Categorical(np.array(["c", "a", "b"])[Y], categories=list("zabc")),
    "a tensor": torch.from_numpy(Y + 1) % 4,
    "a frame": pd.DataFrame({"owner": np.array(["c", "a", "b"])[Y]}),
    "reals": np.array([3.0, 1.0, 2.0])[Y],
    "nullable": pd.array(np.array([3, 1, 2])[Y], dtype="Int64"),
    "stamps": pd.Series(pd.to_datetime(["2022", "2020", "2021"]))[Y].reset_index(drop=True),
}


@pytest.mark.parametrize("name", OWNERS)
def test_each_test_example_is_somebodys(name):
    """The test set is a fifth of each owner's examples, and belongs to the owner's client."""
    data = federate(X, Y, owner=OWNERS[name], test=0.2)
    assert data.sizes.tolist() == [64, 64, 64]
    order = [0, 1, 2] if name == "a tensor" else [1, 2, 0]
    for part, test_part, label in zip(data.parts, data.test_parts, order, strict=True):
        assert set(data.y[part].tolist()) == set(data.test[1][test_part].tolist()) == {label}
        assert (np.diff(test_part) > 0).all()
    assert sorted(np.concatenate(data.test_parts)) == list(range(48))


def test_owners_that_are_merged_bring_their_test_examples():
    owner = np.arange(N) % 24
    x = np.c_[owner, X].astype(np.float32)
    data = federate(x, Y, owner=owner, clients=5, seed=3)
    for part, test_part in zip(data.parts, data.test_parts, strict=True):
        assert set(data.x[part, 0].tolist()) == set(data.test[0][test_part, 0].tolist())
    assert sum(map(len, data.test_parts)) == len(data.test[1])
    assert federate(X, Y, owner=owner, test=(X, Y)).test_parts is None
    assert federate(X, Y, clients=5).test_parts is None


def test_a_test_set_may_bring_its_owners():
    owner = np.array(["c", "a", "b"])[Y]
    data = federate(X, Y, owner=owner, test=(X[:8], Y[:8], owner[:8]))
    assert [part.tolist() for part in data.test_parts] == [[1, 4, 7], [2, 5], [0, 3, 6]]
    with pytest.raises(
        ValueError,
        match=r"owners of test examples must also have .* has 0, and the training set has 'a'",
    ):
        federate(X, Y, owner=owner, test=(X[:8], Y[:8], Y[:8]))
    with pytest.raises(
        ValueError,
        match=(
            r"owner must hold one name per example \(7 names for 8 examples\)\. Try one "
            r"name for each row of x"
        ),
    ):
        federate(X, Y, owner=owner, test=(X[:8], Y[:8], owner[:7]))
    with pytest.raises(ValueError, match="test is a tuple of 3 and must be a pair"):
        federate(X, Y, test=(X[:8], Y[:8], owner[:8]))


def test_owners_of_tests_only_are_clients_that_never_train_and_it_says_so(caplog):
    owner = np.array(["c", "a", "d"])[Y]
    test = (X[:8], Y[:8], [*owner[:6], "b", "b"])
    data = federate(X, Y, owner=owner, test=test)
    assert data.sizes.tolist() == [80, 0, 80, 80]
    assert [part.tolist() for part in data.test_parts] == [[1, 4], [6, 7], [0, 3], [2, 5]]
    (record,) = caplog.records
    assert record.getMessage() == (
        "owners with test examples only ('b') are clients that never train. "
        "Try the training owners' names if these are misspelled, or "
        "sample=with_examples(uniform(3)) if they are held out"
    )
    caplog.clear()
    for clients in (2, 3):
        fewer = federate(X, Y, owner=owner, clients=clients, test=test)
        assert (fewer.num_clients, sum(map(len, fewer.test_parts))) == (clients, 6)
    assert "('b') are no clients. " in caplog.records[0].getMessage()
    study = Experiment(
        data,
        mlp(data, (4,)),
        Local(0.1, 8),
        fedavg(),
        weighted_mean,
        with_examples(uniform(3)),
        rounds=1,
    )
    assert len(evaluate_clients(study.task, run(study).w[0], data)) == 4
    with pytest.raises(
        ValueError,
        match=r"test set has 'z', and .*, or a test set without owners, such as test=\(x, y\)",
    ):
        federate(X, Y, owner=owner, test=(X[:8], Y[:8], ["z"] * 8))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_an_owner_of_one_example_trains_on_it(share):
    data = federate(X, Y, owner=np.r_[np.zeros(N - 1, int), 7], test=share)
    assert data.sizes[1] == 1
    assert [len(part) for part in data.test_parts] == [len(data.test[1]), 0]


def test_a_seed_never_lands_in_another_argument():
    assert [federate(X, Y, seed=seed).parts[0].tolist() for seed in (1, 2)] == [
        for_seed(partial(federate, X, Y), seed).parts[0].tolist() for seed in (1, 2)
    ]
    for data in (
        partial(load, "digits"),
        partial(load, "digits", 10),
        partial(load, "digits", clients=10),
    ):
        made = [for_seed(data, seed) for seed in (5, 6)]
        assert [version.num_clients for version in made] == [10, 10]
        assert (
            made[0].parts[0].tolist()
            == load("digits", seed=5).parts[0].tolist()
            != made[1].parts[0].tolist()
        )
    split = dirichlet(0.1)
    by_place = for_seed(partial(load, "digits", 10, split), 4)
    assert (
        by_place.sizes.tolist()
        == for_seed(lambda seed: load("digits", 10, split, seed), 4).sizes.tolist()
    )
    with pytest.raises(
        ValueError,
        match=(
            r"data must be a function of the seed, and seed=3 is set already\. Try "
            r"leaving it out, or calling the function: data=load\(\.\.\.\)"
        ),
    ):
        for_seed(partial(load, "digits", 10, seed=3), 4)
    with pytest.raises(ZeroDivisionError):
        for_seed(partial(lambda n, seed: n // seed, 1), 0)


def test_a_study_whose_data_is_a_partial_runs_for_two_seeds():
    data = federate(X, Y, clients=6)
    study = Experiment(
        partial(federate, X, Y, clients=6),
        mlp(data, (4,)),
        Local(0.1, 8),
        fedavg(),
        weighted_mean,
        uniform(4),
        rounds=1,
    )
    result, by_hand = (
        run(study, seeds=2),
        replace(study, data=lambda seed: federate(X, Y, clients=6, seed=seed)),
    )
    assert torch.equal(result.w[1], run(by_hand, seeds=2).w[1])


def test_a_split_may_give_lists():
    for kind in (list, tuple, lambda part: np.array(part, dtype=np.uint8)):
        data = federate(
            X,
            Y,
            clients=3,
            split=lambda y, n, draw, kind=kind: [kind(range(i, len(y), n)) for i in range(n)],
        )
        assert data.sizes.tolist() == [64, 64, 64]
        assert all(part.dtype == np.int64 for part in data.parts)


def test_an_own_model_of_tokens_trains():
    task = classification(
        lambda: torch.nn.Sequential(
            torch.nn.Embedding(20, 4), torch.nn.Flatten(), torch.nn.Linear(8, 3)
        )
    )
    data = federate(np.arange(N * 2).reshape(N, 2) % 20, Y, clients=6)
    assert (
        run(Experiment(data, task, Local(0.1, 8), fedavg(), weighted_mean, uniform(4), rounds=1))
        .w[0]
        .isfinite()
        .all()
    )


PICTURES = {
    "mlp": lambda data: mlp(data, (5,)),
    "cnn": lambda data: classification(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    ),
    "a norm first": lambda data: classification(
        lambda: nn.Sequential(nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(144, 3))
    ),
    "a model of one's own": lambda data: classification(Own),
}


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 144 * 3).view(144, 3) / 255)

    def forward(self, x):
        return x.flatten(1) @ self.weight


@pytest.mark.parametrize("backend", [batched, sequential])
@pytest.mark.parametrize("name", PICTURES)
def test_bytes_train_as_the_same_real_numbers(name, backend):
    x = BYTES.transpose(0, 3, 1, 2)
    results = []
    for values in (x, x.astype(np.float32)):
        data = federate(values, Y, clients=6)
        study = Experiment(
            data,
            PICTURES[name](data),
            Local(1e-5, 8),
            fedavg(),
            weighted_mean,
            uniform(4),
            rounds=2,
        )
        results.append(run(study, backend))
    assert torch.equal(results[0].w[0], results[1].w[0])
    pd.testing.assert_frame_equal(results[0].rounds, results[1].rounds)


def test_tokens_and_features_in_place_of_each_other_are_told():
    tokens, table = (
        np.arange(N * 2).reshape(N, 2) % 20,
        pd.DataFrame(np.arange(N * 2).reshape(N, 2) % 20),
    )
    lookup = classification(
        lambda: nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(8, 3))
    )

    def study(x, task=None):
        data = federate(x, Y, clients=6)
        task = task or mlp(data, (4,))
        return run(
            Experiment(data, task, Local(0.01, 8), fedavg(), weighted_mean, uniform(4), rounds=1)
        )

    with pytest.raises(
        ValueError, match=r"type torch\.int64 \(whole .*\)\. Try x\.astype\(float\), for features"
    ):
        study(tokens)
    study(tokens.astype(float))
    with pytest.raises(
        ValueError, match=r"type torch\.float32 \(it looks .*\)\. Try x\.astype\(int\), for tokens"
    ):
        study(table, lookup)
    study(table.to_numpy().astype(int), lookup)


def test_one_class_numbered_from_1_and_bare_categoricals():
    x = np.random.default_rng(0).normal(size=(30, 2))
    data = federate(x, np.ones(30, int), clients=3)
    assert data.classes == ("1",)
    assert data.y.tolist() == [0] * len(data.y)
    labels = pd.Categorical(["a", "b"] * 15)
    assert federate(pd.DataFrame(x), labels, clients=3).classes == ("a", "b")
