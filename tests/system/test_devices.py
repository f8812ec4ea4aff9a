"""Fleets: what stands in a file, what is drawn, when clients are there, and what a piece of work takes."""

import numpy as np
import pytest
import torch

from fedlab.data import load
from fedlab.models.tabular import mlp
from fedlab.system.devices import DAY, RADIO, devices, draw_fleet, links, read_fleet, training_flops

GOOD = "device,gigaflops,watts,down_mbit,up_mbit,latency_ms,loss\nold,10,2,8,4,10,0.5\nnew,100,5,80,40,1,0\n"


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "mine.csv"
        path.write_text(text)
        return path

    return write


def test_seconds_and_joules_by_hand(written):
    fleet = read_fleet(written(GOOD))
    both = np.arange(2)
    # 1 MB: 8 Mbit/s are 1 MB/s, half of it lost: 2 s and 10 ms; 80 Mbit/s are 10 MB/s: 0.1 s and 1 ms
    assert fleet.fetching(both, np.array([1e6, 1e6])) == pytest.approx([2.010, 0.101])
    assert fleet.sending(both, np.array([1e6, 2e6])) == pytest.approx([4.010, 0.401])
    assert fleet.computing(both, np.array([5e9, 5e9])) == pytest.approx([0.5, 0.05])
    assert fleet.joules(both, np.array([0.5, 0.05]), np.array([1.0, 2.0])) == pytest.approx([1 + RADIO, 0.25 + 2 * RADIO])


def test_a_larger_model_takes_as_many_times_as_long(written):
    fleet = read_fleet(written(GOOD))
    same, both = fleet.slower(10), np.arange(2)
    assert same.computing(both, np.ones(2)) == pytest.approx(10 * fleet.computing(both, np.ones(2)))
    assert same.sending(both, np.array([1e6, 1e6])) == pytest.approx(fleet.sending(both, np.array([1e7, 1e7])))
    texts = fleet.slower(1, computed=7)
    assert texts.computing(both, np.ones(2)) == pytest.approx(7 * fleet.computing(both, np.ones(2)))
    assert (texts.up == fleet.up).all()
    with pytest.raises(ValueError, match=r"^sent=0: above 0; 1000 makes of 50 thousand parameters 50 million$"):
        fleet.slower(0)


def test_a_file_gives_back_what_was_drawn(tmp_path):
    fleet = draw_fleet(50, seed=3, dropout=0.1, hours=8)
    fleet.table().to_csv(tmp_path / "fleet.csv", index=False)
    for name, one, other in zip(fleet._fields, fleet, read_fleet(tmp_path / "fleet.csv"), strict=True):
        if one.dtype.kind == "U":
            assert (one == other).all(), name
        else:
            assert one == pytest.approx(other, rel=1e-12), name


def test_a_fleet_has_the_shares_and_the_intervals_it_was_asked_for():
    kinds, ways = {"laptop": 0.5, "phone, entry level": 0.3, "server, NVIDIA T4": 0.2}, {"home fibre": 1, "3G": 3}
    fleet = draw_fleet(40, kinds, ways, seed=1, hours=6)
    assert {name: int((fleet.device == name).sum()) for name in kinds} == {name: 40 * share for name, share in kinds.items()}
    assert (fleet.link == "3G").sum() == 30
    for i in range(40):
        device, link = devices()[fleet.device[i]], links()[fleet.link[i]]
        assert device.speed.low <= fleet.flops[i] <= device.speed.high
        assert link.rate("up").low <= fleet.up[i] <= link.rate("up").high
        assert fleet.down[i] / fleet.up[i] == pytest.approx(link.down / link.up)
    mains = fleet.device == "server, NVIDIA T4"
    assert (fleet.stays[mains] == DAY).all()
    assert (fleet.stays[~mains] == 6 * 3600).all()
    assert np.isinf(fleet.battery[mains]).all()
    again = draw_fleet(40, kinds, ways, seed=1, hours=6)
    assert (fleet.flops == again.flops).all()
    assert (fleet.flops != draw_fleet(40, kinds, ways, seed=2).flops).any()
    alike = draw_fleet(40, kinds, ways, spread=False)
    assert len(np.unique(alike.flops)) == 3


def test_clients_are_there_in_their_window_every_day():
    fleet = draw_fleet(1, {"laptop": 1}, hours=4)._replace(opens=np.array([23 * 3600.0]))
    one = np.array([0])
    there = [bool(fleet.there(one, hour * 3600.0)[0]) for hour in (0, 2.99, 3, 12, 22.99, 23, 26, 28)]
    assert there == [True, True, False, False, False, True, True, False]
    assert fleet.closes(one, 3600.0)[0] == 3 * 3600
    assert fleet.closes(one, 23.5 * 3600)[0] == 27 * 3600
    assert fleet.next_there(one, 12 * 3600.0)[0] == pytest.approx(23 * 3600, abs=1e-5)
    assert fleet.next_there(one, 3600.0)[0] == 3600
    leaving = fleet._replace(joins=np.array([7200.0]), leaves=np.array([20 * 3600.0]))
    assert not leaving.there(one, 3600.0)[0]
    assert leaving.next_there(one, 0.0)[0] == 7200
    assert leaving.closes(one, 7200.0)[0] == 3 * 3600
    assert np.isinf(leaving.next_there(one, 4 * 3600.0)[0])


def test_operations_are_those_of_three_products_a_layer():
    data = load("digits", 5)
    before = torch.get_rng_state()
    task = mlp(data, hidden=(32,))
    forward = 64 * 32 + 32 * 10
    backward = forward + 32 * 10  # of all weights, and of the hidden layer; nobody asks for that of the pictures
    assert training_flops(task, data.x, data.y) == 2 * (forward + backward)
    assert training_flops(task, data.x[:3], data.y[:3]) == 2 * (forward + backward)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "gigaflops,watts,down_mbit\n1,2,3\n",
            "mine.csv has no column up_mbit: it needs gigaflops, watts, down_mbit, ",
        ),
        (GOOD.replace("loss", "los"), "mine.csv has a column 'los': there may be gigaflops, "),
        (
            GOOD.replace("100", "-3"),
            "mine.csv, row 3 (client 1): gigaflops=-3: it is above 0, what training ",
        ),
        (
            GOOD.replace("4,10,0.5", "0,10,0.5"),
            "mine.csv, row 2 (client 0): up_mbit=0: it is above 0 Mbit/s; leave out ",
        ),
        (GOOD.replace("80,40", "80,"), "mine.csv, row 3 (client 1): up_mbit=nothing: it is above 0 Mbit/s; "),
        (GOOD.replace("0.5", "1"), "mine.csv, row 2 (client 0): loss=1: it is a share from 0 to below 1"),
        (GOOD.replace("100", "fast"), "mine.csv, row 3 (client 1): gigaflops=fast: it is above 0, "),
        (GOOD.split("\n")[0] + "\n", "mine.csv has no rows: give one a client"),
        (
            "gigaflops,watts,down_mbit,up_mbit,joins_hour,leaves_hour\n1,1,1,1,5,4\n",
            "mine.csv, row 2 (client 0): leaves_hour=4 and joins_hour=5: who leaves has joined before",
        ),
    ],
)
def test_what_cannot_be_is_named_with_row_value_and_remedy(written, text, told):
    with pytest.raises(ValueError, match=r"^mine\.csv") as error:
        read_fleet(written(text))
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_clients": 0}, "num_clients=0: it is a whole number of at least 1"),
        ({"kinds": {"abacus": 1}}, "device 'abacus': data/ has wearable or hub, "),
        ({"ways": {"3G": -1}}, "'3G' has the share -1: shares are at least 0, and one is above 0"),
        ({"ways": {"3G": 0}}, "'link' has the share 0: shares are at least 0, and one is above 0"),
        ({"dropout": 1}, "dropout=1: a probability from 0 to below 1; try 0.1"),
        ({"hours": 25}, "hours=25: of a day, above 0 and at most 24; try 8"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(wrong, told):
    with pytest.raises(ValueError, match=r".") as error:
        draw_fleet(**{"num_clients": 10} | wrong)
    assert str(error.value).startswith(told)
