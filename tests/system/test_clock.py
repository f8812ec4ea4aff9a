"""The clock: cases worked by hand, and properties of any fleet."""

import numpy as np
import pytest

from fedlab.system import Fleet, Workload, draw_fleet, fastest, fedbuff, synchronous, timetable
from fedlab.system.policies import fedasync, tiered
from fedlab.system.trace import Trace


def fleet_of(flops, up, **more) -> Fleet:
    """Return clients with these rates, which fetch at 100 bytes/s with a latency of 0.5 s."""
    n = len(flops)
    columns = {
        "flops": flops,
        "up": up,
        "down": [100.0] * n,
        "latency": [0.5] * n,
        "watts": [10.0] * n,
    }
    columns |= {
        "memory": [np.inf] * n,
        "battery": [np.inf] * n,
        "online_for": [86400.0] * n,
        "leaves": [np.inf] * n,
    } | more
    zeros = dict.fromkeys(Fleet._fields[:-1], [0.0] * n)
    return Fleet(
        **{name: np.array(column, dtype=float) for name, column in (zeros | columns).items()}
    )


# 200 bytes down: 2.5 s.  1,000 operations: 1, 2, 10 s.  100 bytes up: 1.5, 1.5, 2.5 s.
THREE = fleet_of([1000, 500, 100], [100, 100, 50])
LOAD = Workload(200, np.full(3, 1000.0), 100)


def test_three_devices_in_rounds_to_the_millisecond():
    rounds, clients = timetable(THREE, synchronous(3), LOAD, 2)
    assert rounds["seconds"].tolist() == pytest.approx([15, 15], abs=1e-9)
    first = clients[clients["round"] == 1].set_index("client")
    assert first["ended"].tolist() == pytest.approx([5, 6, 15])
    assert first[["fetching", "computing", "sending"]].to_numpy().tolist() == [
        [2.5, 1, 1.5],
        [2.5, 2, 1.5],
        [2.5, 10, 2.5],
    ]
    assert first["joules"].tolist() == pytest.approx(
        [10 + 8, 20 + 8, 100 + 10]
    )  # 10 W computing, 2 W on the radio
    assert rounds["joules"].tolist() == pytest.approx([156, 156])


def test_three_devices_with_one_asked_too_many():
    rounds, clients = timetable(THREE, synchronous(2, over_selection=0.5), LOAD, 3)
    assert rounds["seconds"].tolist() == pytest.approx(
        [6, 6, 6]
    )  # the slow one is out until 15 s, and then again
    assert clients[clients["outcome"] == "late"][["client", "ended"]].to_numpy().tolist() == [
        [2, 15]
    ]
    assert rounds["used"].tolist() == [2, 2, 2]
    slow = clients[clients["client"] == 2]
    assert slow["began"].tolist() == [0]
    assert rounds["late"].tolist() == [0, 0, 1]


def test_a_deadline_ends_a_round_with_what_came():
    rounds, clients = timetable(THREE, synchronous(3, deadline=8), LOAD, 2)
    assert rounds["seconds"].tolist() == pytest.approx(
        [8, 6]
    )  # in the second, only the fast ones are not busy
    assert rounds["used"].tolist() == [2, 2]
    assert set(clients.loc[clients["outcome"] == "used", "client"]) == {0, 1}


def test_with_partial_work_nobody_is_late():
    rounds, clients = timetable(THREE, synchronous(3, deadline=8, partial=True), LOAD, 2)
    assert rounds["seconds"].tolist() == pytest.approx([8, 8])
    assert clients["outcome"].eq("used").all()
    assert clients[clients["client"] == 2]["computing"].tolist() == pytest.approx(
        [3, 3]
    )  # 8 - 2.5 - 2.5


def test_one_update_at_a_time_by_hand():
    rounds, clients = timetable(THREE, fedasync(3), LOAD, 4)
    # client 0 is done every 5 s, 1 every 6, 2 every 15
    assert rounds["seconds"].cumsum().tolist() == pytest.approx([5, 6, 10, 12])
    used = clients[clients["outcome"] == "used"]
    assert used["client"].tolist() == [0, 1, 0, 1]
    assert used["version"].tolist() == [0, 0, 1, 2]
    assert rounds["staleness"].tolist() == [0, 1, 1, 1]


def test_a_buffer_of_two_by_hand():
    rounds, clients = timetable(THREE, fedbuff(2, 2), LOAD, 2, seed=1)
    used = clients[clients["outcome"] == "used"]
    assert used.groupby("round").size().tolist() == [2, 2]
    assert (used.groupby("round")["ended"].max() == rounds["seconds"].cumsum().to_numpy()).all()


def test_tiers_keep_their_own_time():
    fleet = fleet_of([1000] * 3 + [100] * 3, [100] * 6)
    rounds, clients = timetable(fleet, tiered(2, 3), Workload(200, np.full(6, 1000.0), 100), 6)
    assert rounds["seconds"].cumsum().tolist() == pytest.approx(
        [5, 10, 14, 15, 20, 25]
    )  # 5, 10, ..., and 14, 28
    assert set(clients.loc[clients["round"] == 3, "client"]) == {3, 4, 5}


def test_who_closes_is_lost_and_found_again_the_next_day():
    fleet = fleet_of([100, 1000], [100, 100], online_from=[0, 3600], online_for=[10, 3600])
    rounds, clients = timetable(fleet, synchronous(1), Workload(200, np.full(2, 1000.0), 100), 2)
    first = clients.iloc[0]
    assert (first["client"], first["outcome"], first["ended"]) == (0, "lost", 10)
    assert first["computing"] == pytest.approx(7.5)
    assert rounds["seconds"].iloc[0] == pytest.approx(3605)
    assert clients.iloc[1][["client", "outcome"]].tolist() == [1, "used"]


def test_who_has_left_is_never_asked():
    fleet = fleet_of(
        [1000] * 4, [100] * 4, leaves=[12, np.inf, np.inf, np.inf], joins=[0, 0, 0, 20]
    )
    _, clients = timetable(fleet, synchronous(2), Workload(200, np.full(4, 1000.0), 100), 20)
    assert clients.loc[clients["client"] == 0, "ended"].max() <= 12
    assert clients.loc[clients["client"] == 3, "began"].min() >= 20


def test_a_loss_has_its_reason():
    """Each fetches for 2.5 s, computes for 1 s and sends for 1.5 s; the third computes for 10 s."""
    more = {
        "dropout": [0, 0, 0.999, 0],
        "online_for": [4.5, 86400, 86400, 86400],
        "leaves": [np.inf, 3, np.inf, np.inf],
    }
    gone = fleet_of([1000, 1000, 100, 1000], [100] * 4, **more)
    _, clients = timetable(gone, synchronous(4), LOAD._replace(flops=np.full(4, 1000.0)), 1)
    assert clients.loc[clients["outcome"] == "used", "client"].tolist() == [3]
    first = clients.set_index("client").loc[[0, 1, 2]]
    assert first["reason"].tolist() == ["window", "left", "dropout"]
    assert first["ended"].tolist()[:2] == pytest.approx([4.5, 3])
    assert first["sending"].tolist() == pytest.approx([1, 0, 0])  # of 1.5 s, so that it was cut off
    assert first["bytes_up"].tolist() == [66, 0, 0]
    _, late = timetable(THREE, synchronous(3, deadline=7), LOAD, 3)
    assert set(zip(late["outcome"], late["reason"], strict=True)) == {("used", ""), ("late", "")}


@pytest.mark.slow
def test_nobody_is_out_when_its_trace_says_that_it_is_not_there():
    outcomes, n = set(), 12
    load = Workload(200, np.full(n, 1000.0), 100)
    for seed in range(20):
        draw = np.random.default_rng(seed)
        edges = np.sort(draw.uniform(0, 3000, (n, 40)), axis=1).round(1)
        trace = Trace(edges[:, ::2], edges[:, 1::2])
        fleet = fleet_of(draw.choice([1000, 100], n), [100] * n, dropout=[0.1] * n).with_trace(
            trace
        )
        for policy in (synchronous(4), fedbuff(5, 2)):
            rounds, clients = timetable(fleet, policy, load, 12, seed)
            assert clients.equals(timetable(fleet, policy, load, 12, seed)[1])
            assert len(rounds) == 12
            outcomes |= set(zip(clients["outcome"], clients["reason"], strict=True))
            for i, outcome, reason, began, ended in clients[
                ["client", "outcome", "reason", "began", "ended"]
            ].itertuples(index=False):
                assert trace.is_online(np.array([i]), began)[0]
                offline_at = trace.offline_at(np.array([i]), began)[0]
                assert ended <= offline_at + 1e-9
                if (outcome, reason) == ("lost", "window"):
                    assert ended == pytest.approx(offline_at)
    assert outcomes >= {("used", ""), ("lost", "window"), ("lost", "dropout")}


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (
            lambda online, wanted, known, draw: [7],
            "select gave [7] and must give different clients of those that are online and "
            "idle. Try ",
        ),
        (
            lambda online, wanted, known, draw: online[[0, 0]],
            "select gave [0, 0] and must give different clients",
        ),
        (
            lambda online, wanted, known, draw: [0.5],
            "select gave [0.5] and must give different clients",
        ),
    ],
)
def test_a_select_that_chooses_what_is_not_there_is_refused(select, message):
    with pytest.raises(ValueError, match=r".") as error:
        timetable(THREE, synchronous(2, select=select), LOAD, 3)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("hours", [0, -1, float("nan"), True, "1", None])
def test_hours_that_cannot_be_are_refused(hours):
    with pytest.raises(
        ValueError,
        match=r"^hours=.* must be a number above 0, after which the clock stops\. Try "
        r"hours=24, or ",
    ):
        timetable(THREE, synchronous(3), LOAD, 2, hours=hours)


POLICIES = {
    "rounds": lambda n: synchronous(max(1, n // 3)),
    "over-selection": lambda n: synchronous(max(1, n // 3), over_selection=0.5),
    "deadline": lambda n: synchronous(max(1, n // 3), deadline=60.0),
    "FedBuff": lambda n: fedbuff(max(1, n // 2), max(1, n // 4)),
    "FedAsync": lambda n: fedasync(max(1, n // 2)),
    "tiers": lambda n: tiered(2, max(1, n // 4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_no_update_is_lost_or_counted_twice_in_a_thousand_fleets(name):
    many = 1000 // len(POLICIES) + 1
    outcomes = set()
    for seed in range(many):
        draw = np.random.default_rng((many, seed))
        n = int(draw.integers(4, 14))
        hours = float(draw.choice([2, 12, 24]))
        fleet = draw_fleet(n, seed=seed, dropout=float(draw.choice([0, 0.3, 0.6])), hours=hours)
        fleet = fleet._replace(flops=fleet.flops * draw.choice([1, 0.05], n))
        load, steps = (
            Workload(
                int(draw.integers(1, 10**6)),
                draw.uniform(1e9, 1e11, n),
                int(draw.integers(1, 10**6)),
            ),
            6,
        )
        policy = POLICIES[name](n)
        rounds, clients = timetable(fleet, policy, load, steps, seed)
        outcomes |= set(clients["outcome"])
        assert len(rounds) == steps
        assert (rounds["seconds"] >= 0).all()
        for column in ("bytes_up", "bytes_down", "joules"):
            assert rounds[column].sum() == pytest.approx(clients[column].sum(), rel=1e-12)
        for outcome in ("used", "late", "lost"):
            assert rounds[outcome].sum() == (clients["outcome"] == outcome).sum()
        used = clients[clients["outcome"] == "used"]
        assert not used.duplicated(["client", "version"]).any()
        assert (used["bytes_up"] == load.bytes_up).all()
        assert (used["version"] < used["round"]).all()
        assert rounds["seconds"].sum() >= used["ended"].max() - 1e-6
        time = clients[["fetching", "computing", "sending"]].sum(axis=1)
        assert time.to_numpy() == pytest.approx(
            (clients["ended"] - clients["began"]).to_numpy(), abs=1e-6
        )
        for _, rows in clients.sort_values("began").groupby("client"):
            assert (rows["began"].to_numpy()[1:] >= rows["ended"].to_numpy()[:-1] - 1e-9).all(), (
                "in two places at once"
            )
        online = [
            fleet.is_online(np.array([i]), t)[0]
            for i, t in zip(clients["client"], clients["began"], strict=True)
        ]
        assert all(online)
    assert "used" in outcomes


def test_the_same_seed_gives_the_same_table():
    fleet = draw_fleet(30, seed=0, dropout=0.2)
    load = Workload(1000, np.full(30, 1e10), 1000)
    first, second, third = (
        timetable(fleet, fedbuff(10, 5), load, 10, seed)[1] for seed in (0, 0, 1)
    )
    assert first.equals(second)
    assert not first.equals(third)


@pytest.mark.slow
def test_a_hundred_thousand_clients():
    """A thousand rounds of a hundred clients; `make bench` has rounds of a thousand."""
    n = 100_000
    fleet = draw_fleet(n, seed=0, dropout=0.05, hours=10)
    rounds, clients = timetable(
        fleet, synchronous(100, over_selection=0.3), Workload(10**6, np.full(n, 1e11), 10**6), 1000
    )
    assert rounds["used"].eq(100).all()
    assert len(clients) == 130_000


@pytest.mark.parametrize(
    ("fleet", "policy", "message"),
    [
        (
            THREE,
            synchronous(4),
            "4 clients must be at work, and there are 3 in the fleet. Try fewer clients, or a "
            "larger",
        ),
        (
            THREE,
            synchronous(3, over_selection=0.3),
            "4 clients must be at work, and there are 3 in the fleet. ",
        ),
        (
            THREE,
            fedbuff(2, 4),
            "buffer=4 must be at most the 3 clients (it would never be full). Try buffer=1",
        ),
        (
            THREE,
            tiered(2, 2),
            "2 clients must be at work, and there are 1 in a tier of 3 clients. ",
        ),
        (
            THREE,
            synchronous(2, deadline=4.9),
            "deadline=4.9 must be longer (client 0, the fastest, takes 5 s). Try a longer one, a ",
        ),
        (
            THREE._replace(leaves=np.full(3, 3.0)),
            synchronous(1),
            "no client is online after 0.000833 hours and 0 steps, and none will be. Try "
            "clients that ",
        ),
        (
            THREE._replace(online_for=np.full(3, 3.0)),
            synchronous(1),
            "200 rounds in a row have had no update by ",
        ),
    ],
)
def test_what_cannot_end_is_refused(fleet, policy, message):
    with pytest.raises(ValueError, match=r".") as error:
        timetable(fleet, policy, LOAD, 3)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_fastest_are_asked_and_nobody_else():
    fleet = fleet_of([1000, 500, 100, 50], [100] * 4)
    _, clients = timetable(
        fleet, synchronous(2, select=fastest(0.5)), Workload(200, np.full(4, 1000.0), 100), 5
    )
    assert set(clients["client"]) == {0, 1}
