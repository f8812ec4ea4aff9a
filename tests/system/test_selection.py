"""Selections: properties of all of them, and the purpose of each."""

import numpy as np
import pytest

from fedlab.system import Workload, draw_fleet, fair, fastest, oort, synchronous, timetable
from fedlab.system.selection import (
    ClientStats,
    at_random,
    energy_aware,
    power_of_choice,
    tiers_of,
    tifl,
)

EVERY = {
    "at random": at_random,
    "fastest": fastest(0.5),
    "TiFL": tifl(4),
    "power of choice": power_of_choice(8),
    "Oort": oort(),
    "energy-aware": energy_aware,
    "fair": fair,
}


def stats_of(n=20, **more):
    draw = np.random.default_rng(0)
    columns = {
        "sizes": draw.integers(1, 50, n).astype(float),
        "expected_seconds": draw.uniform(1, 100, n),
    }
    columns |= {
        "battery": np.full(n, 1e5),
        "last_seconds": draw.uniform(1, 100, n),
        "last_loss": draw.uniform(0, 3, n),
    }
    columns |= {
        "times_used": draw.integers(0, 5, n).astype(float),
        "last_round": draw.integers(0, 5, n).astype(float),
    }
    columns |= {"joules_spent": draw.uniform(0, 1e4, n), "round": 6} | more
    columns["last_loss"] = np.where(columns["last_round"] > 0, columns["last_loss"], np.nan)
    return ClientStats(**columns)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("available", [np.arange(20), np.array([3, 7, 11])], ids=len)
@pytest.mark.parametrize("wanted", [1, 5])
def test_chosen_are_different_clients_that_are_here(name, available, wanted):
    stats = stats_of()
    before = [np.copy(column) for column in stats]
    ids = EVERY[name](available, wanted, stats, np.random.default_rng(1))
    again = EVERY[name](available, wanted, stats, np.random.default_rng(1))
    assert ids.tolist() == again.tolist()
    assert 0 < len(ids) <= min(wanted, len(available))
    assert len(set(ids.tolist())) == len(ids)
    assert set(ids.tolist()) <= set(available.tolist())
    for column, was in zip(stats, before, strict=True):
        assert np.array_equal(column, was, equal_nan=True)


def test_a_tier_takes_about_as_long():
    stats = stats_of()
    tier = tiers_of(stats.expected_seconds, 4)
    assert np.bincount(tier).tolist() == [5, 5, 5, 5]
    assert all(
        stats.expected_seconds[tier == k].max() < stats.expected_seconds[tier == k + 1].min()
        for k in range(3)
    )
    seen = set()
    for seed in range(30):
        chosen = set(tier[tifl(4)(np.arange(20), 5, stats, np.random.default_rng(seed))].tolist())
        assert len(chosen) == 1
        seen |= chosen
    assert seen == {0, 1, 2, 3}


def test_power_of_choice_takes_the_largest_losses_and_whom_it_does_not_know_first():
    stats = stats_of(last_round=np.where(np.arange(20) < 18, 1.0, 0.0))
    everyone = power_of_choice(20)(np.arange(20), 4, stats, np.random.default_rng(0))
    assert set(everyone[:2].tolist()) == {18, 19}
    assert everyone[2:].tolist() == np.argsort(-np.nan_to_num(stats.last_loss))[:2].tolist()


def test_oort_prefers_who_has_much_to_learn_and_is_quick():
    ones = np.ones(20)
    slow, lossy = np.arange(20) < 10, np.arange(20) % 2 == 0
    took = np.where(slow, 200.0, 10.0)
    same = {"sizes": ones, "last_round": ones}
    same |= {"expected_seconds": took, "last_seconds": took}
    chosen = np.zeros(20)
    for seed in range(300):
        ids = oort(explore=0)(
            np.arange(20),
            5,
            stats_of(**same, last_loss=np.where(lossy, 2.0, 0.5)),
            np.random.default_rng(seed),
        )
        chosen[ids] += 1
    assert chosen[lossy & ~slow].sum() == chosen.sum(), (
        "of those quick and lossy there are as many as are wanted"
    )
    new = stats_of(**same | {"last_round": np.where(np.arange(20) < 15, 1.0, 0.0)}, last_loss=ones)
    cohorts = [
        oort(explore=0.4)(np.arange(20), 5, new, np.random.default_rng(s)) for s in range(20)
    ]
    assert all((ids >= 15).sum() == 2 for ids in cohorts), "two of five are explored"


def test_fair_and_energy_aware_even_out():
    fleet = draw_fleet(20, seed=0)
    load = Workload(1000, np.full(20, 1e10), 1000)

    def spread(select):
        _, clients = timetable(fleet, synchronous(5, select=select), load, 40)
        times = clients["client"].value_counts().reindex(range(20), fill_value=0)
        joules = clients.groupby("client")["joules"].sum().reindex(range(20), fill_value=0)
        return times.max() - times.min(), (joules / fleet.battery).max()

    assert spread(fair)[0] == 0
    assert spread(at_random)[0] > 2
    assert spread(energy_aware)[1] < 0.7 * spread(at_random)[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fastest(2), "share=2 must be a share from 0 to 1. Try share=0.5"),
        (lambda: tifl(1), "tiers=1 must be a whole number of at least 2. Try 2"),
        (lambda: power_of_choice(0), "candidates=0 must be a whole number of at least 1. Try 1"),
        (lambda: oort(explore=-1), "explore=-1 must be a share from 0 to 1. Try explore=0.5"),
        (
            lambda: oort(penalty=-1),
            "penalty=-1 must be an exponent of at least 0. Try 2, as the paper",
        ),
    ],
)
def test_a_choice_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=r".") as error:
        make()
    assert str(error.value) == message
