"""A seed comes to the same numbers alone and among others."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from fedlab.client import batched
from fedlab.core import Experiment, Local
from fedlab.data import dirichlet, load
from fedlab.engine import run, run_all, variants
from fedlab.models import mlp
from fedlab.server import fedavg, majority_vote, scaffold, uniform, weighted_mean
from fedlab.upload import (
    accumulate,
    cast,
    chain,
    eden,
    error_feedback,
    identity,
    lazy,
    power_sgd,
    qsgd,
    quantize,
    random_k,
    scaled_sign,
    terngrad,
    top_k,
)

ADAMW = Local(0.01, 8, optimizer="adamw")
FRAGILE = {
    "top_k and levels": {"upload": error_feedback(chain(top_k(0.05), qsgd(5)))},
    "levels": {"upload": qsgd(5)},
    "terngrad": {"upload": terngrad()},
    "eden": {"upload": eden(1)},
    "sign": {"upload": error_feedback(scaled_sign())},
    "lazy": {"upload": lazy()},
    "accumulate": {"upload": accumulate(2, top_k(0.1))},
    "power_sgd": {"upload": error_feedback(power_sgd(1))},
    "random_k": {"upload": random_k(0.1)},
    "cast": {"upload": cast()},
    "download": {"download": quantize(8)},
    "votes": {"aggregate": majority_vote, "algorithm": fedavg(1e-3)},
    "median": {"aggregate": lambda delta, weights: delta.median(0).values},
    "nearest": {
        "aggregate": lambda delta, weights: delta[torch.cdist(delta, delta).sum(0).argmin()]
    },
    "adamw": {"local": ADAMW},
    "adamw and top_k": {"local": ADAMW, "upload": error_feedback(top_k(0.1))},
}


def of_seed(result, seed, names=("rounds", "clients")):
    tables = (getattr(result, name) for name in names)
    return [table[table["seed"] == seed].reset_index(drop=True) for table in tables]


@pytest.fixture(scope="module")
def wide() -> Experiment:
    """A model of 55,210 numbers, for which products of other sizes are soon rounded otherwise."""
    data = load("digits", 100, dirichlet(0.3))
    task = mlp(data, (200, 200))
    return Experiment(
        data, task, Local(0.1, 8), fedavg(), weighted_mean, uniform(10), rounds=7, eval_every=7
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAGILE)
def test_where_a_last_bit_may_become_a_step_company_changes_none(wide, name):
    """Not even a table's."""
    fragile = replace(wide, **FRAGILE[name])
    alone, among = run(fragile, seeds=[3]), run(fragile, seeds=[0, 3, 1])
    assert torch.equal(among.w[1], alone.w[0])
    for table, expected in zip(of_seed(among, 3), of_seed(alone, 3), strict=True):
        pd.testing.assert_frame_equal(table, expected, check_exact=True)


def test_neither_do_other_variants(wide):
    base = replace(wide, **FRAGILE["top_k and levels"])
    alone = run(base, seeds=[1])
    among = run_all(
        variants(base, upload={"a": identity(), "b": base.upload, "c": cast()}), batched, 2
    )
    assert torch.equal(among.w[3], alone.w[0])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [fedavg(), scaffold()])
def test_whole_rows_of_plain_sgd_agree_to_rounding(study, algorithm):
    study = replace(study, data=study.data(0), rounds=20, algorithm=algorithm)
    alone, among = run(study, seeds=[3]), run(study, seeds=5)
    torch.testing.assert_close(among.w[3], alone.w[0], atol=1e-6, rtol=0)
    (table,), (expected,) = of_seed(among, 3, ["rounds"]), of_seed(alone, 3, ["rounds"])
    assert table["accuracy"].tolist() == expected["accuracy"].tolist()
    assert table["bytes_up"].tolist() == expected["bytes_up"].tolist()
