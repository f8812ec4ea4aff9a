"""Fleets from files and draws, hours in which clients are online, and costs of work."""

from functools import partial

import numpy as np
import pytest
import torch

from fedlab.client import zeroth_order
from fedlab.core import Experiment, Local
from fedlab.data import load
from fedlab.models import cnn, mlp, random_subspace
from fedlab.server import by_availability, fedavg, uniform, weighted_mean
from fedlab.system import (
    draw_fleet,
    read_fleet,
    read_trace,
    simulate,
    synchronous,
    training_flops,
)
from fedlab.system.devices import RADIO_WATTS, devices, links
from fedlab.system.trace import DAY

GOOD = (
    "device,gigaflops,watts,down_mbit,up_mbit,latency_ms,loss\n"
    "old,10,2,8,4,10,0.5\nnew,100,5,80,40,1,0\n"
)


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
    # 1 MB at 8 Mbit/s, or 1 MB/s, half of it lost: 2 s and 10 ms.
    # At 80 Mbit/s, or 10 MB/s: 0.1 s and 1 ms.
    assert fleet.fetching(both, np.array([1e6, 1e6])) == pytest.approx([2.010, 0.101])
    assert fleet.sending(both, np.array([1e6, 2e6])) == pytest.approx([4.010, 0.401])
    assert fleet.computing(both, np.array([5e9, 5e9])) == pytest.approx([0.5, 0.05])
    assert fleet.joules(both, np.array([0.5, 0.05]), np.array([1.0, 2.0])) == pytest.approx(
        [1 + RADIO_WATTS, 0.25 + 2 * RADIO_WATTS]
    )


def test_a_larger_model_takes_as_many_times_as_long(written):
    fleet = read_fleet(written(GOOD))
    same, both = fleet.slower(10), np.arange(2)
    assert same.computing(both, np.ones(2)) == pytest.approx(10 * fleet.computing(both, np.ones(2)))
    assert same.sending(both, np.array([1e6, 1e6])) == pytest.approx(
        fleet.sending(both, np.array([1e7, 1e7]))
    )
    texts = fleet.slower(1, computed=7)
    assert texts.computing(both, np.ones(2)) == pytest.approx(7 * fleet.computing(both, np.ones(2)))
    assert (texts.up == fleet.up).all()
    with pytest.raises(
        ValueError,
        match=r"^sent=0 must be a number above 0\. Try 1000, which makes 50 million parameters "
        r"of 50 thousand$",
    ):
        fleet.slower(0)


def test_a_file_gives_back_what_was_drawn(tmp_path):
    fleet = draw_fleet(50, seed=3, dropout=0.1, hours=8)
    fleet.table().to_csv(tmp_path / "fleet.csv", index=False)
    for name, drawn, loaded in zip(
        fleet._fields[:-1], fleet, read_fleet(tmp_path / "fleet.csv"), strict=False
    ):
        if drawn.dtype.kind == "U":
            assert (drawn == loaded).all(), name
        else:
            assert drawn == pytest.approx(loaded, rel=1e-12), name


def test_a_fleet_has_the_shares_and_the_intervals_it_was_asked_for():
    kinds, ways = (
        {"laptop": 0.5, "phone, entry level": 0.3, "server, NVIDIA T4": 0.2},
        {"home fibre": 1, "3G": 3},
    )
    fleet = draw_fleet(40, kinds, ways, seed=1, hours=6)
    assert {name: int((fleet.device == name).sum()) for name in kinds} == {
        name: 40 * share for name, share in kinds.items()
    }
    assert (fleet.link == "3G").sum() == 30
    for i in range(40):
        device, link = devices()[fleet.device[i]], links()[fleet.link[i]]
        assert device.speed.low <= fleet.flops[i] <= device.speed.high
        assert link.rate("up").low <= fleet.up[i] <= link.rate("up").high
        assert fleet.down[i] / fleet.up[i] == pytest.approx(link.down / link.up)
    mains = fleet.device == "server, NVIDIA T4"
    assert (fleet.online_for[mains] == DAY).all()
    assert (fleet.online_for[~mains] == 6 * 3600).all()
    assert np.isinf(fleet.battery[mains]).all()
    again = draw_fleet(40, kinds, ways, seed=1, hours=6)
    assert (fleet.flops == again.flops).all()
    assert (fleet.flops != draw_fleet(40, kinds, ways, seed=2).flops).any()
    alike = draw_fleet(40, kinds, ways, spread=False)
    assert len(np.unique(alike.flops)) == 3


def test_clients_are_there_in_their_window_every_day():
    fleet = draw_fleet(1, {"laptop": 1}, hours=4)._replace(online_from=np.array([23 * 3600.0]))
    client = np.array([0])
    online = [
        bool(fleet.is_online(client, hour * 3600.0)[0])
        for hour in (0, 2.99, 3, 12, 22.99, 23, 26, 28)
    ]
    assert online == [True, True, False, False, False, True, True, False]
    assert fleet.offline_at(client, 3600.0)[0] == 3 * 3600
    assert fleet.offline_at(client, 23.5 * 3600)[0] == 27 * 3600
    assert fleet.next_online(client, 12 * 3600.0)[0] == pytest.approx(23 * 3600, abs=1e-5)
    assert fleet.next_online(client, 3600.0)[0] == 3600
    leaving = fleet._replace(joins=np.array([7200.0]), leaves=np.array([20 * 3600.0]))
    assert not leaving.is_online(client, 3600.0)[0]
    assert leaving.next_online(client, 0.0)[0] == 7200
    assert leaving.offline_at(client, 7200.0)[0] == 3 * 3600
    assert np.isinf(leaving.next_online(client, 4 * 3600.0)[0])


def test_operations_are_those_of_three_products_a_layer():
    data = load("digits", 5)
    before = torch.get_rng_state()
    task = mlp(data, hidden=(32,))
    forward = 64 * 32 + 32 * 10
    backward = forward + 32 * 10  # of all weights and of the hidden layer, not of the pictures
    assert training_flops(task, data.x, data.y) == 2 * (forward + backward)
    assert training_flops(task, data.x[:3], data.y[:3]) == 2 * (forward + backward)
    assert torch.get_rng_state().equal(before)


def test_zeroth_order_goes_forward_twice_and_never_back():
    data = load("digits", 5)
    task = random_subspace(mlp(data, hidden=(32,)), 4)
    forward = 2 * (64 * 32 + 32 * 10)
    for backend in (zeroth_order, partial(zeroth_order, distance=0.01)):
        assert training_flops(task, data.x, data.y, backend) == 2 * forward


def test_operations_are_those_that_pytorch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    data = load("digits", 5)
    task = cnn(data)
    w = torch.zeros(sum(shape.numel() for shape in task.shapes.values()), requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(task.loss(task.forward(w, data.x[:32]), data.y[:32]).mean(), w)
    assert training_flops(task, data.x, data.y) == counter.get_total_flops() / 32


def test_the_index_that_pandas_writes_is_no_column(tmp_path):
    fleet = draw_fleet(4)
    fleet.table().to_csv(tmp_path / "mine.csv")
    np.testing.assert_allclose(read_fleet(tmp_path / "mine.csv").flops, fleet.flops)
    (tmp_path / "strange.csv").write_text(",gigaflops,watts,down_mbit,up_mbit\n7,1,1,1,1\n")
    with pytest.raises(ValueError, match=r"^strange\.csv has a column ''"):
        read_fleet(tmp_path / "strange.csv")


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^path='.*none\.csv' must be a file, and there is none\. "
    ):
        read_fleet(tmp_path / "none.csv")
    with pytest.raises(
        ValueError, match=r"^path='.*' must be a CSV file, and it is a folder\. Try"
    ):
        read_fleet(tmp_path)
    for wrong in (None, 3):
        for read in (read_fleet, lambda path: read_trace(path, 1)):
            with pytest.raises(
                ValueError, match=r"^path=.* must be the path of a CSV file\. Try 'mine\.csv'"
            ):
                read(wrong)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("gigaflops", "inf", r"gigaflops=inf must be above 0 GFLOP/s and finite"),
        (
            "gigaflops",
            '"1,500"',
            r"gigaflops=1,500 must be .*\. Try 1500 if '1,500' has a mark between thousands$",
        ),
        ("watts", '"2,5"', r"watts=2,5 must be .*\. Try 2\.5, with a point$"),
        ("from_hour", "03:30", r"from_hour=03:30 must be .*\. Try 3\.5, in hours$"),
        ("loss", "5%", r"loss=5% must be .*\. Try 0\.05, a share$"),
    ],
)
def test_numbers_in_another_writing_have_their_remedy(written, column, cell, message):
    names = ["gigaflops", "watts", "down_mbit", "up_mbit", "from_hour", "loss"]
    row = [
        cell if name == column else "0" if name in ("from_hour", "loss") else "1" for name in names
    ]
    with pytest.raises(ValueError, match=message):
        read_fleet(written(f"{','.join(names)}\n{','.join(row)}\n"))


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        GOOD.replace(",", ";").replace("0.5", "0,5"),
        GOOD.replace(",", " , "),
        "\ufeff" + GOOD.replace("\n", "\r\n"),
        GOOD.replace("device,gigaflops,watts,down_mbit", " Device,GIGAFLOPS, Watts ,Down Mbit"),
        GOOD.replace("\n", ",,\n").replace("new", "\nnew"),
        GOOD.replace("old", '"old"'),
    ],
    ids=[
        "semicolons",
        "tabs",
        "decimal comma",
        "spaces",
        "BOM",
        "capitals",
        "empty cells and lines",
        "quotes",
    ],
)
def test_a_file_is_read_as_people_write_it(written, text):
    want, got = read_fleet(written(GOOD)), read_fleet(written(text))
    for name, expected, column in zip(want._fields[:-1], want, got, strict=False):
        assert (expected == column).all(), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "mine.csv is empty, and its first line must name the columns. Try "
            "gigaflops,watts,down_mbit,up_mbit",
        ),
        (" \n\n", "mine.csv is empty, and its first line must name "),
        (
            "gigaflops,watts,down_mbit\n1,2,3\n",
            "mine.csv has no column up_mbit and must have gigaflops, watts, down_mbit, "
            "up_mbit. Try a first line with these",
        ),
        (GOOD.replace("loss", "los"), "mine.csv has a column 'los', and may have gigaflops, "),
        (
            GOOD.replace("latency_ms", "loss"),
            "mine.csv has the column loss twice, and must have it once",
        ),
        (
            GOOD.replace("100", "-3"),
            "mine.csv, line 3 (client 1): gigaflops=-3 must be above 0 GFLOP/s and finite, ",
        ),
        (
            GOOD.replace("4,10,0.5", "0,10,0.5"),
            "mine.csv, line 2 (client 0): up_mbit=0 must be above 0 Mbit/s and finite; ",
        ),
        (
            GOOD.replace("80,40", "80,"),
            "mine.csv, line 3 (client 1): up_mbit=nothing must be above 0 Mbit/s and ",
        ),
        (
            GOOD.replace("0.5", "1"),
            "mine.csv, line 2 (client 0): loss=1 must be a share from 0 to below 1",
        ),
        (
            GOOD.replace("\nnew,100", "\n\n\nnew,fast"),
            "mine.csv, line 5 (client 1): gigaflops=fast must be above 0 ",
        ),
        (GOOD.replace("0.5", '"0,5"'), "mine.csv, line 2 (client 0): loss=0,5 must be a share "),
        (
            GOOD.replace("0.5", "0,5"),
            "mine.csv, line 2: it has 8 cells and must have 7, one per column. Try a point in ",
        ),
        (
            GOOD.replace("40,1,0", "40,1"),
            "mine.csv, line 3: it has 6 cells and must have 7, one per column",
        ),
        (
            GOOD.replace(",", ";").replace("0.5", "0,5").replace("100", "1.5"),
            "mine.csv, line 3: gigaflops=1.5 must have the decimal mark of line 2. Try 1.5 in both",
        ),
        (
            GOOD.split("\n")[0] + "\n",
            "mine.csv has no rows under its first line, and must have some. Try a line per client",
        ),
        (
            "gigaflops,watts,down_mbit,up_mbit,joins_hour,leaves_hour\n1,1,1,1,5,4\n",
            "mine.csv, line 2 (client 0): leaves_hour=4 must be more than joins_hour=5 (a "
            "client joins before it leaves)",
        ),
    ],
)
def test_what_cannot_be_is_named_with_line_column_and_remedy(written, text, message):
    with pytest.raises(ValueError, match=r"^mine\.csv") as error:
        read_fleet(written(text))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(GOOD.replace("old", "größer").encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"^mine\.csv must be text in UTF-8, and its byte \d+ is not\. Try "
    ):
        read_fleet(path)


TRACE = "client,from,to\n1,500,900\n0,0,100\n1,100,200\n0,100,250\n2,,\n"


def test_a_trace_says_when_clients_are_there(written):
    trace, three = read_trace(written(TRACE), 3), np.arange(3)
    assert [
        trace.is_online(three, seconds).tolist() for seconds in (0, 99, 100, 249.9, 250, 600, 900)
    ] == [
        [True, False, False],
        [True, False, False],
        [True, True, False],
        [True, False, False],
        [False, False, False],
        [False, True, False],
        [False, False, False],
    ]
    assert trace.offline_at(three[:2], 100).tolist() == [250, 200]  # windows that touch are one
    assert trace.next_online(three, 50).tolist() == [50, 100, np.inf]
    assert trace.next_online(three, 200).tolist() == [200, 500, np.inf]
    forever = read_trace(written("client;from;to\n0;0,5;inf\n"), 1)
    assert forever.next_online(np.array([0]), 0)[0] == 0.5
    assert np.isinf(forever.offline_at(np.array([0]), 1e9)[0])


def test_a_fleet_follows_a_trace(written):
    fleet = draw_fleet(3).with_trace(read_trace(written(TRACE), 3))
    three = np.arange(3)
    assert fleet.is_online(three, 150).tolist() == [True, True, False]
    assert fleet.offline_at(three[:2], 150).tolist() == [250, 200]
    assert fleet.subset(three[1:]).next_online(np.arange(2), 300).tolist() == [500, np.inf]
    assert fleet.slower(2).trace is fleet.trace
    for wrong, message in (
        (
            draw_fleet(4),
            "the trace has 3 clients and the fleet 4, and both must have the same. Try "
            "read_trace(path, 4)",
        ),
        (
            draw_fleet(3, hours=8),
            "the fleet must have no hours of its own (a trace takes the place of hours of the "
            "day, ",
        ),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            wrong.with_trace(fleet.trace)
        assert str(error.value).startswith(message)


def test_a_trace_is_a_rhythm_of_rounds(written):
    present = read_trace(written("client,from,to\n0,0,43200\n1,43200,86400\n2,,\n"), 3).in_rounds(
        rounds_per_day=4
    )
    assert [present(t).tolist() for t in range(1, 6)] == [
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]
    sample, draw = by_availability(2, present), np.random.default_rng(0)
    assert [sample(np.ones(3), t, draw).tolist() for t in (1, 3, 5)] == [[0], [1], []]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "client,from\n0,1\n",
            "mine.csv has no column to and must have client, from, to. Try a first line with these",
        ),
        (
            TRACE.replace("500", "150"),
            "mine.csv, line 2: from=150 must be at least 200 (it overlaps the window of line 4)",
        ),
        (
            TRACE.replace("900", "400"),
            "mine.csv, line 2: to=400 must be more than from=500, in seconds; add 86400 after ",
        ),
        (TRACE.replace("900", ""), "mine.csv, line 2: to=nothing must be more than from=500"),
        (
            TRACE.replace("500", "-5"),
            "mine.csv, line 2: from=-5 must be at least 0 seconds after the start; leave from ",
        ),
        (TRACE.replace("500", ""), "mine.csv, line 2: from=nothing must be at least 0 seconds"),
        (
            TRACE.replace("2,,", "3,,"),
            "mine.csv, line 6: client=3 must be a whole number from 0 to 2, the number of a ",
        ),
        (
            TRACE.replace("2,,", "1.5,,"),
            "mine.csv, line 6: client=1.5 must be a whole number from 0 to 2",
        ),
        (
            TRACE.replace("2,,", "me,,"),
            "mine.csv, line 6: client=me must be a whole number from 0 to 2",
        ),
        (
            TRACE.replace("2,,\n", ""),
            "mine.csv has no line for client 2, and must have one for each of 3 clients. Try the ",
        ),
    ],
)
def test_a_trace_that_cannot_be_is_refused_with_its_line(written, text, message):
    with pytest.raises(ValueError, match=r"^mine\.csv") as error:
        read_trace(written(text), 3)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_clients": 0}, "num_clients=0 must be a whole number of at least 1"),
        (
            {"device_shares": {"abacus": 1}},
            "device 'abacus' must be in the table. Try wearable or hub, ",
        ),
        (
            {"link_shares": {"3G": -1}},
            "'3G' has the share -1, and shares must be at least 0, one of them above 0. Try {'5G, ",
        ),
        (
            {"link_shares": {"3G": 0}},
            "'link' has the share 0, and shares must be at least 0, one of them above 0. Try "
            "{'5G, ",
        ),
        ({"dropout": 1}, "dropout=1 must be a probability from 0 to below 1. Try dropout=0.1"),
        ({"hours": 25}, "hours=25 must be above 0 and at most 24 (of a day). Try hours=8"),
        ({"hours": True}, "hours=True must be above 0 and at most 24 (of a day). Try hours=8"),
        ({"hours": float("nan")}, "hours=nan must be above 0"),
        (
            {"dropout": False},
            "dropout=False must be a probability from 0 to below 1. Try dropout=0.1",
        ),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=r".") as error:
        draw_fleet(**{"num_clients": 10} | wrong)
    assert str(error.value).startswith(message)


def test_a_fleet_that_is_another_one_when_it_is_asked_again_is_refused():
    data = load("digits", 10)
    study = Experiment(
        data, mlp(data, hidden=()), Local(0.1), fedavg(), weighted_mean, uniform(3), rounds=1
    )
    with pytest.raises(
        ValueError,
        match="fleet is a function that gives another result when it is called again with",
    ):
        simulate(study, lambda seed: draw_fleet(10, seed=np.random.randint(10**6)), synchronous(3))
