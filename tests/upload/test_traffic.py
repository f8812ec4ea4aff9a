"""Bytes that each client sends and fetches, compressed models on the way down, and budgets."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.client import batched
from fedlab.core import Budget, Message
from fedlab.data import iid, load
from fedlab.engine import Diverged, run, stream
from fedlab.server import mimelite, scaffold
from fedlab.study import compare
from fedlab.upload import (
    accumulate,
    chain,
    error_feedback,
    identity,
    lazy,
    momentum,
    one_bit,
    qsgd,
    quantize,
    random_k,
    rate_within,
    sign,
    top_k,
    top_k_within,
    wire,
)

PARTS = [f"{way}_{part}" for way in ("up", "down") for part in wire.PARTS]


@pytest.fixture
def served(study):
    """20 clients of which 5 take part, none of them empty."""
    return replace(study, data=load("digits", 20, iid()), rounds=12, eval_every=12)


def test_whole_models_travel_both_ways_with_a_header(served):
    result, d = run(served), len(run(replace(served, rounds=1)).w[0])
    size = wire.dense_sizes(tuple(served.task.shapes.items()), torch.float32)
    assert size.tolist() == [size[0], 0, 4 * d]
    assert 0 < size[0] < 600
    assert (result.clients[PARTS] == [*size, *size]).all(axis=None)
    both = run(replace(served, algorithm=scaffold())).clients
    assert (both[PARTS] == [*size, *(2 * size)]).all(axis=None), "SCAFFOLD's c travels down, too"


def really(transform, lengths):
    """The same with every message packed to bytes, whose lengths are noted, and read back."""

    def apply(message, state, cohort):
        message, state = transform.apply(message, state, cohort)
        lengths.extend(len(wire.pack(message, i)) for i in range(len(cohort.ids)))
        return Message(wire.round_trip(message), message.shapes), state

    return transform._replace(apply=apply)


@pytest.mark.slow
def test_a_run_over_real_bytes_is_the_same_to_the_bit_and_the_byte(served):
    up, down = [], []
    study = replace(served, upload=error_feedback(chain(top_k(0.1), qsgd(6))), download=quantize(8))
    plain, packed = (
        run(study),
        run(replace(study, upload=really(study.upload, up), download=really(study.download, down))),
    )
    assert torch.equal(plain.w[0], packed.w[0])
    assert up == plain.clients["bytes_up"].tolist()
    one_each = plain.clients[plain.clients["round"] > 1].groupby("round")["bytes_down"].min()
    assert one_each.isin([*down, *np.cumsum(down)]).all()


# Down


def test_a_compressed_model_has_its_error_fed_back(served):
    """The server sends C(w - model): clients stay as near to w as one difference is large."""
    sent = served.rounds
    runs = list(stream(replace(served, download=quantize(4))))[-1]
    run_, first = runs[0], run(replace(served, rounds=1)).w[0]
    gap, moved = (run_.w - run_.traffic.client_model).norm(), (run_.w - first).norm()
    assert 0 < gap < moved, f"after {sent} rounds"
    exact = run(replace(served, download=quantize(16))).final()["accuracy"].iloc[0]
    coarse = run(replace(served, download=quantize(4))).final()["accuracy"].iloc[0]
    assert abs(exact - coarse) < 0.1


def test_who_missed_rounds_fetches_all_differences_or_the_model_whole_whatever_is_less(served):
    study = replace(served, download=quantize(8), rounds=40, eval_every=40)
    clients = run(study).clients
    size = wire.dense_sizes(tuple(study.task.shapes.items()), torch.float32).sum()
    by_round = clients[clients["round"] > 1].groupby("round")["bytes_down"].min()
    smallest = by_round.min()
    assert 0.24 * size < smallest < 0.3 * size, "8 bits of 32"
    seen, checked = {}, 0
    for _, row in clients.iterrows():
        last = seen.get(row["client"])
        want = size if last is None else min(size, smallest * (row["round"] - last))
        assert row["bytes_down"] == want
        checked += want not in (size, smallest)
        seen[row["client"]] = row["round"]
    assert checked > 10, "of two or three differences"
    assert (
        clients[["down_header", "down_indices", "down_values"]].sum(axis=1) == clients["bytes_down"]
    ).all()


@pytest.mark.parametrize(
    "upload",
    [error_feedback(top_k(0.1)), momentum(), lazy(), accumulate(2), chain(momentum(), one_bit())],
)
def test_what_remembers_a_client_does_not_go_down(served, upload):
    with pytest.raises(
        ValueError,
        match=r"^download=\w+: the server sends the differences that clients lack of its model",
    ):
        replace(served, download=upload)


@pytest.mark.parametrize("download", [random_k(0.1), chain(random_k(0.1), qsgd(8)), sign()])
def test_what_would_overshoot_does_not_go_down(served, download):
    with pytest.raises(
        ValueError,
        match=r"^download=\w+: "
        r"(its numbers are 10 times too large|every number of the model would)",
    ):
        replace(served, download=download)


@pytest.mark.parametrize("upload", [sign(), lazy(), error_feedback(top_k(0.1))])
def test_a_client_that_blew_up_is_seen_whatever_it_sends(served, upload):
    """The loss was finite before the last step, and compression would hide the NaN after it."""

    def backend(task, x, y, work):
        updates = batched(task, x, y, work)
        updates.delta[1, 7] = torch.nan
        return updates

    with pytest.raises(Diverged, match=r"the update of client \d+ is not finite in round 1"):
        run(replace(served, upload=upload), backend)


@pytest.mark.parametrize("name", ["upload", "download"])
def test_a_function_is_not_what_it_gives(served, name):
    with pytest.raises(
        ValueError, match=rf"^{name}=top_k must be the result of a call. Try identity.. or top_k"
    ):
        replace(served, **{name: top_k})


# Budgets


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("50 MB per client", Budget(50_000_000, "", True)),
        ("1.5 kB up per client", Budget(1500, "up", True)),
        ("2GB down in all", Budget(2_000_000_000, "down", False)),
        ("7 B in all", Budget(7, "", False)),
        (".5 TB up in all", Budget(500_000_000_000, "up", False)),
    ],
)
def test_budgets_in_words(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "50",
        "50 MB",
        "MB per client",
        "5 MiB in all",
        "-5 MB in all",
        "5 MB sideways in all",
        50,
        "1.2.3 MB in all",
    ],
)
def test_a_budget_that_says_too_little_is_refused(served, text):
    with pytest.raises(
        ValueError, match=r'must be a number, then B, kB, .* Try "50 MB per client"'
    ):
        replace(served, budget=text)


@pytest.mark.parametrize(
    "budget",
    [
        "60 kB per client",
        "40 kB up per client",
        "45 kB down per client",
        "900 kB in all",
        "400 kB up in all",
    ],
)
def test_a_budget_ends_a_run_before_it_is_overspent_and_not_sooner(served, budget):
    ways = {"up": ["bytes_up"], "down": ["bytes_down"]}
    parsed, columns = (
        Budget.parse(budget),
        ways.get(Budget.parse(budget).direction, ["bytes_up", "bytes_down"]),
    )
    free, held = run(served), run(replace(served, budget=budget))

    def most(clients):
        spent = clients.groupby("client")[columns].sum().sum(axis=1)
        return spent.max() if parsed.per_client else spent.sum()

    end = held.rounds["round"].max()
    assert 1 <= end < 12
    assert most(held.clients) <= parsed.bytes < most(free.clients[free.clients["round"] <= end + 1])
    pd.testing.assert_frame_equal(held.clients, free.clients[free.clients["round"] <= end])
    assert held.rounds["accuracy"].notna().iloc[-1], "evaluated where it ended"
    assert torch.equal(held.w[0], run(replace(served, rounds=int(end))).w[0])


def test_runs_of_one_table_end_each_at_its_own_time(served):
    uploads = {"whole": identity(), "8 bits": quantize(8), "1 %": error_feedback(top_k(0.01))}
    result = compare(replace(served, budget="40 kB up per client"), upload=uploads, seeds=2)
    last = result.rounds.groupby(["upload", "seed"])["round"].max().unstack()
    assert (last.loc["whole"] < 12).all()
    assert (last.loc[["8 bits", "1 %"]] == 12).all(axis=None)


def test_a_budget_that_is_too_small_for_one_round_leaves_the_first_model(served):
    result = run(replace(served, budget="1 kB per client"))
    assert result.rounds["round"].tolist() == [0]
    assert len(result.clients) == 0


@pytest.mark.parametrize("budget", ["30 kB up per client", "200 kB up in all", "75 kB per client"])
def test_the_rate_that_a_budget_buys_is_the_largest_one_that_lasts(served, budget):
    make = lambda rate: error_feedback(top_k(rate))  # noqa: E731
    rates = [round(0.01 * k, 2) for k in range(1, 101)]
    rate = rate_within(budget, served, make, rates=rates)
    assert 0.01 < rate < 1
    assert run(replace(served, upload=make(rate), budget=budget)).rounds["round"].max() == 12
    richer = run(replace(served, upload=make(round(rate + 0.06, 2)), budget=budget))
    assert richer.rounds["round"].max() < 12, "much more would not have lasted"


def test_a_rate_counts_all_that_goes_up_and_the_largest_message(served):
    plain = rate_within("60 kB up per client", served, top_k)
    assert (
        rate_within("60 kB up per client", served, lambda rate: accumulate(2, top_k(rate))) == plain
    )
    assert rate_within("60 kB up per client", replace(served, algorithm=mimelite()), top_k) < plain


def test_a_budget_that_buys_nothing_says_what_it_takes(served):
    with pytest.raises(
        ValueError,
        match=r"budget='1 kB per client' must be at least 0.\d+ MB .the smallest rate "
        r"0.0001 takes that",
    ):
        rate_within("1 kB per client", served, top_k)


@pytest.mark.parametrize("growth", [0.8, 1.0, 1.25])
def test_a_budget_is_spent_over_the_rounds_and_never_overspent(served, growth):
    study = replace(served, rounds=30, eval_every=30)
    upload = error_feedback(top_k_within("20 kB up per client", rounds=30, growth=growth))
    clients = run(replace(study, upload=upload, budget="20 kB up per client")).clients
    assert clients["round"].max() == 30
    spent = clients.groupby("client")["bytes_up"].sum()
    assert (spent <= 20_000).all()
    assert spent.mean() > {0.8: 18_000, 1.0: 15_000, 1.25: 9_000}[growth]
    early, late = (
        clients.loc[half, "bytes_up"].mean()
        for half in (clients["round"] <= 10, clients["round"] > 20)
    )
    assert {0.8: early > 2 * late, 1.0: 0.4 < early / late < 2.5, 1.25: late > 2 * early}[growth]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"budget": "5 MB per client", "rounds": 3},
            'must be "... up per client" .it divides what one client sends.',
        ),
        ({"budget": "5 MB up in all", "rounds": 3}, 'must be "... up per client"'),
        ({"budget": "much", "rounds": 3}, "budget='much'"),
        ({"budget": "5 MB up per client", "rounds": 0}, "rounds=0"),
        (
            {"budget": "5 MB up per client", "rounds": 3, "growth": 0},
            "growth=0 must be above 0. Try 1",
        ),
    ],
)
def test_what_cannot_be_spent_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        top_k_within(**arguments)
