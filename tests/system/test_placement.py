"""Placements by hand, and the best against all others."""

import numpy as np
import pytest

from fedlab.engine import initial
from fedlab.models import mlp
from fedlab.system import pieces_of, pieces_of_layers, placements
from fedlab.system.devices import devices, links
from fedlab.system.placement import Piece
from fedlab.system.planner import models

PHONE = devices()["phone, flagship"]._replace(
    teraflops=1e-9, watts=3.0, memory=1e-6
)  # 1,000 FLOP/s, 1,000 bytes
BOX = devices()["edge box, Jetson Orin Nano"]._replace(teraflops=1e-8, memory=1.0)
LINE = links()["home fibre"]._replace(down=8e-4, up=8e-4, latency=500.0, loss=0.0)  # 100 bytes/s
PIECES = [Piece("a", 1000, 50, 100), Piece("b", 20_000, 400, 100), Piece("c", 1000, 10, 2000)]


def test_three_pieces_in_two_places_by_hand():
    table = placements(PIECES, [PHONE, BOX], [LINE], bytes_in=300)
    seconds = dict(zip(table["cuts"], table["seconds"], strict=True))
    # up: 0.5 s and the bytes; the answer of 10 bytes comes down in 0.6 s
    assert seconds == pytest.approx(
        {(0,): 3.5 + 2.2 + 0.6, (1,): 1 + 1 + 2.1 + 0.6, (2,): 21 + 4.5 + 0.1 + 0.6, (3,): 22}
    )
    assert table["cuts"].iloc[0] == (1,)
    assert table["fits"].tolist() == [True, True, True, False], "the phone cannot hold c"
    best = table.iloc[0]
    assert best[["at 0", "to 1", "at 1", "back"]].tolist() == pytest.approx([1, 1, 2.1, 0.6])
    legs = ["at 0", "to 1", "at 1", "back"]
    assert list(table.columns) == ["cuts", "seconds", *legs, "joules", "fits"], (
        "in the order of time"
    )
    assert table[legs].sum(axis=1).tolist() == pytest.approx(table["seconds"].tolist())
    assert best["joules"] == pytest.approx(3 * 1 + 2 * 1.6)


def test_three_places_and_a_place_that_is_passed_through():
    cloud = BOX._replace(teraflops=1e-6)
    table = placements(
        PIECES, [PHONE, BOX, cloud], [LINE, LINE._replace(latency=10.0)], bytes_in=300
    )
    assert len(table) == 10  # two cuts with three pieces between
    through = table[[cuts == (0, 0) for cuts in table["cuts"]]].iloc[0]
    legs = ["at 0", "to 1", "at 1", "to 2", "at 2", "back"]
    assert through[legs].tolist() == pytest.approx([0, 3.5, 0, 3.01, 22_000 / 1e6, 0.6 + 0.11])
    local = table[[cuts == (3, 3) for cuts in table["cuts"]]].iloc[0]
    assert local[legs].tolist() == pytest.approx([22, 0, 0, 0, 0, 0])
    near = table[[cuts == (1, 3) for cuts in table["cuts"]]].iloc[0]
    assert near[legs].tolist() == pytest.approx([1, 1, 2.1, 0, 0, 0.6]), "the cloud is not asked"


def test_pieces_of_a_transformer_are_its_parameters():
    seven = models()["Llama 2 7B"]
    pieces = pieces_of(seven, tokens=100)
    assert len(pieces) == 34
    assert sum(piece.bytes_held for piece in pieces) == 2 * seven.parameters
    assert sum(piece.flops for piece in pieces[1:-1]) == pytest.approx(
        2 * 100 * (seven.computed - 32000 * 4096)
    )
    assert pieces[5].bytes_out == 2 * 4096 * 100


def test_pieces_of_layers_are_counted(study):
    data = study.data(0)
    task = mlp(data, hidden=(32,))
    pieces = pieces_of_layers(task, initial(task, 0), data.x[:3])
    assert [piece.name for piece in pieces] == ["0 Flatten", "1 Linear", "2 ReLU", "3 Linear"]
    assert [piece.flops for piece in pieces] == [0, 2 * 3 * 64 * 32, 0, 2 * 3 * 32 * 10]
    assert [piece.bytes_out for piece in pieces] == [4 * 3 * 64, 4 * 3 * 32, 4 * 3 * 32, 4 * 3 * 10]
    assert sum(piece.bytes_held for piece in pieces) == 4 * len(initial(task, 0))


def test_the_best_is_the_best_of_all():
    draw = np.random.default_rng(0)
    pieces = [Piece(str(k), *draw.uniform(1, 1e4, 2), 1) for k in range(6)]
    table = placements(pieces, [PHONE, BOX], [LINE], bytes_in=1000)
    assert table["seconds"].iloc[0] == table["seconds"].min()
    assert len(table) == 7


def test_what_cannot_be_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^2 places must have 1 links, one from each to the next, and there are 0\.",
    ):
        placements(PIECES, [PHONE, BOX], [], bytes_in=1)
    with pytest.raises(
        ValueError, match=r"^pieces=\[\] must have a piece at least\. Try pieces_of"
    ):
        placements([], [PHONE], [], bytes_in=1)
