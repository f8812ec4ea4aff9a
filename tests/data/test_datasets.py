import hashlib
from pathlib import Path

import pytest
import sklearn.datasets
import torch

from fedlab.data import dirichlet, load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "train", "test", "shape", "classes"), [("digits", 1437, 360, (64,), 10), ("breast_cancer", 455, 114, (30,), 2)]
)
def test_bundled_sets(name, train, test, shape, classes):
    data = load(name)
    assert data.x.shape == (train, *shape)
    assert data.x.dtype == torch.float32
    assert data.test[0].shape == (test, *shape)
    assert len(data.classes) == classes
    assert set(data.y.tolist()) == set(data.test[1].tolist()) == set(range(classes))


def test_the_test_set_is_fixed_and_stratified():
    first, other = load("digits", 5, seed=0), load("digits", 50, dirichlet(0.1), seed=9)
    assert first.x is other.x
    counts = torch.bincount(first.test[1])
    assert counts.min() >= 35
    assert counts.max() <= 37
    # The split is part of every published number: it may not drift with a library's version.
    digest = hashlib.sha256(first.test[0].numpy().tobytes() + first.test[1].numpy().tobytes()).hexdigest()
    assert digest == "32d30dcf98ebce5636217b31aa2ffa7001e184b34133b7a690f0f41fa97b9bfd"


def test_values_are_scaled():
    digits, cancer = load("digits"), load("breast_cancer")
    assert digits.x.min() == 0
    assert digits.x.max() == 1
    torch.testing.assert_close(cancer.x.mean(0), torch.zeros(30), atol=1e-5, rtol=0)
    torch.testing.assert_close(cancer.x.std(0, correction=0), torch.ones(30), atol=1e-4, rtol=0)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no data set 'digts'.*digits, breast_cancer; did you mean 'digits'"):
        load("digts")


def test_counts_and_sizes_agree():
    data = load("digits", 40, dirichlet(0.05), seed=1)
    assert (data.counts().sum(1) == data.sizes).all()
    assert data.counts().sum() == len(data.y)
    assert (data.sizes == 0).any(), "this split is meant to leave somebody empty"


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_the_bundled_files_are_those_of_the_readme(name):
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    content = bunch.data.astype("float64").tobytes() + bunch.target.astype("int64").tobytes()
    line = next(line for line in (ROOT / "data" / "README.md").read_text().splitlines() if f"| `{name}` |" in line)
    assert hashlib.sha256(content).hexdigest() in line
