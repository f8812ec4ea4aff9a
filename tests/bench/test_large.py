"""The record of full-size runs is complete, and the script that writes it runs on little data."""

import large
import pandas as pd
import pytest

from fedlab.core import Local
from fedlab.models import head_only


@pytest.fixture(scope="module")
def ends():
    """The last round of every run, by what trains and its seed."""
    table = pd.read_csv(large.RECORD)
    assert list(table.columns) == large.COLUMNS
    last = table.groupby(["texts", "method", "seed"], as_index=False).last()
    return last.set_index(["texts", "method"])


def test_every_run_is_in_the_record(ends):
    for piece in large.PIECES:
        runs = ends.loc[[(piece.setting.texts, piece.method)]]
        assert runs["seed"].tolist() == list(range(piece.seeds))
        assert (runs["round"] == piece.rounds).all()
        recorded = set(runs[["clients", "alpha", "in_a_round"]].itertuples(index=False, name=None))
        assert recorded == {(piece.setting.clients, piece.setting.alpha, piece.each)}


def test_an_adapter_is_within_two_points_of_training_in_one_place_for_a_two_hundredth_of_the_bytes(
    ends,
):
    accuracy = ends["accuracy"].groupby(level=["texts", "method"]).mean()
    assert accuracy["docs", "LoRA, rank 8"] > accuracy["docs", "LoRA, rank 8, central"] - 0.02
    sent = ends["kB_up"].groupby(level=["texts", "method"]).first()
    rounds = {piece.method: piece.rounds for piece in large.PIECES if piece.setting == large.DOCS}
    each = {
        name: (sent["docs", name] - sent["docs", "head only"]) / rounds[name]
        for name in ("LoRA, rank 8", "everything")
    }
    assert each["LoRA, rank 8"] * 200 < each["everything"]


def test_banking77(ends):
    assert ends.loc[[("banking77", "head only")], "accuracy"].min() >= 0.91
    assert ends.loc[[("banking77", "LoRA, rank 8")], "accuracy"].mean() >= 0.92


@pytest.mark.slow
def test_a_small_piece_is_measured():
    setting = large.Setting("docs", 4, 1.0, 15)
    rows = large.measure(
        large.Piece("head only", setting, head_only(), Local(1.0, 10), 4, 2, every=2), 0
    )
    assert rows["round"].tolist() == [0, 2, 4]
    assert rows["kB_up"].is_monotonic_increasing
    assert rows["accuracy"].iloc[-1] > rows["accuracy"].iloc[0]
