from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from fedlab.client import batched
from fedlab.core import Experiment, FederatedDataset, Local, generator
from fedlab.data import dirichlet, federate, iid, load
from fedlab.engine import Diverged, run
from fedlab.models import least_squares
from fedlab.server import fedadam, fedavg, fedavgm, fedprox, scaffold, uniform, weighted_mean
from fedlab.study import (
    compare,
    cumulative_cost,
    difference,
    hold_out_examples,
    rounds_to,
    summary,
    winner,
)


@pytest.fixture(scope="module")
def easy(short) -> Experiment:
    """Return a study of 10 equal clients, so that little is left to chance."""
    return replace(
        short, data=partial(load, "digits", 10, iid()), local=Local(0.1, batch_size=24, epochs=2)
    )


def table(curves, up=10, down=10):
    """Return a table of rounds from ``{variant: [one curve per seed]}``.

    ``up`` is the number of bytes per round, or a dict of it by variant.
    """
    rows = [
        {
            "algorithm": name,
            "seed": seed,
            "round": t,
            "loss": 1 - value,
            "accuracy": value,
            "examples": 5 * (t > 0),
        }
        | {
            "bytes_up": (up[name] if isinstance(up, dict) else up) * (t > 0),
            "bytes_down": down * (t > 0),
        }
        for name, seeds in curves.items()
        for seed, curve in enumerate(seeds)
        for t, value in enumerate(curve)
    ]
    return pd.DataFrame(rows)


def ends(**values):
    """Return curves of one round, from 0 to these values, one per seed."""
    return table({name: [[0.0, value] for value in seeds] for name, seeds in values.items()})


# -- the interval


def test_interval_by_hand():
    """Differences 0.01, 0.02, 0.06: mean 0.03, deviation sqrt(0.0007); t is 4.302653."""
    gap = difference(ends(a=[0.80, 0.82, 0.86], b=[0.79, 0.80, 0.80]), "a", "b")
    half = 4.302653 * 0.0007**0.5 / 3**0.5
    np.testing.assert_allclose(gap[2:5], [0.03, 0.03 - half, 0.03 + half], atol=1e-7)
    assert str(gap) == "a minus b is 0.03 (-0.0357 to 0.0957) over 3 seeds"
    assert not gap.clear


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_interval_is_that_of_scipy(confidence):
    a, b = generator(0, "test").normal(0.5, 0.1, (2, 7))
    gap = difference(ends(a=a, b=b), "a", "b", confidence=confidence)
    np.testing.assert_allclose(
        gap[3:5], stats.ttest_rel(a, b).confidence_interval(confidence), rtol=1e-9
    )
    assert gap[2:5] == tuple(
        -x
        for x in np.array(difference(ends(a=a, b=b), "b", "a", confidence=confidence)[2:5])[
            [0, 2, 1]
        ]
    )


def test_seeds_are_paired_in_whatever_order_they_come():
    """Every seed gains 0.01, while the seeds differ by much more."""
    both = ends(a=[0.21, 0.51, 0.91], b=[0.2, 0.5, 0.9])
    gap = difference(both.sample(frac=1, random_state=0).sort_values("round"), "a", "b")
    assert gap.low == pytest.approx(gap.high) == pytest.approx(0.01)


# -- the winner


def test_a_method_has_no_winner_over_itself_and_has_over_a_clearly_worse_one(easy):
    methods = {"FedAvg": fedavg(), "again": fedavg(), "hardly moves": fedavg(0.01)}
    result = compare(easy, seeds=3, algorithm=methods)
    assert difference(result, "FedAvg", "again")[2:5] == (0, 0, 0)
    verdict = winner(result)
    assert verdict.winner is None
    assert str(verdict) == (
        "no winner: FedAvg minus again is 0 (0 to 0) over 3 seeds "
        "in test accuracy of the global model after round 3"
    )
    two = result.rounds[result.rounds["algorithm"] != "again"]
    assert winner(two).winner == winner(two, "loss").winner == "FedAvg"
    assert winner(two).why.startswith("FedAvg wins: FedAvg minus hardly moves is 0.")


def test_a_winner_beats_every_other_one():
    clear, close = [0.80, 0.81, 0.82, 0.83], [0.81, 0.79, 0.83, 0.81]
    assert winner(ends(best=clear, worst=[0.1, 0.2, 0.1, 0.2])).winner == "best"
    verdict = winner(ends(worst=[0.1, 0.2, 0.1, 0.2], best=clear, close=close))
    assert verdict.winner is None
    assert "best minus close is" in verdict.why


def test_noise_seldom_wins():
    """At 95 %, two equal methods have a winner in 5 % of all studies; three have fewer."""
    draw = generator(0, "noise").normal
    studies = [
        ends(**dict(zip("abc"[: 2 + k % 2], draw(0.5, 0.1, (3, 5)), strict=False)))
        for k in range(60)
    ]
    wrong = [winner(study).winner is not None for study in studies]
    assert sum(wrong[::2]) <= 5
    assert sum(wrong[1::2]) <= 2


def test_of_a_loss_low_is_good():
    result = ends(high=[0.9, 0.91, 0.92], low=[0.1, 0.12, 0.11])
    assert winner(result, "accuracy").winner == winner(result, "loss").winner == "high"


# -- budgets


def test_an_equal_budget_cuts_the_longer_curve():
    """Method b sends 30 bytes per round and a 10: 2 rounds of b cost as much as 4 of a."""
    curves = {"a": [[0, 0.1, 0.2, 0.3, 0.4]] * 3, "b": [[0, 0.2, 0.4, 0.6, 0.8]] * 3}
    result = table(curves, up={"a": 10, "b": 30})
    assert difference(result, "b", "a").mean == pytest.approx(0.4)
    assert difference(result, "b", "a", at="megabytes").mean == pytest.approx(0.0)
    assert difference(result, "b", "a", at="bytes_up").mean == pytest.approx(-0.2)
    assert difference(result, "b", "a", at="examples").mean == pytest.approx(0.4)
    assert summary(result, at="bytes_up")["round"].tolist() == [4, 1]
    assert "at 40 bytes_up" in winner(result, at="bytes_up").why


@pytest.mark.slow
def test_equal_work_is_equal_visits_or_equal_steps(short):
    """With 5 epochs per round, clients visit in 2 rounds what they visit in 10 with one epoch."""
    data, local = (
        short.data(0),
        {f"E={epochs}": replace(short.local, epochs=epochs) for epochs in (1, 5)},
    )
    result = compare(replace(short, data=data, rounds=10, sample=uniform(30)), seeds=3, local=local)
    at_2, at_10 = (
        result.rounds[result.rounds["round"] == t].set_index(["local", "seed"])["accuracy"]
        for t in (2, 10)
    )
    gap = (at_2["E=5"] - at_10["E=1"]).mean()
    assert cumulative_cost(result.rounds, "examples")[10] == 10 * len(data.y)
    for at in ("examples", "steps"):
        assert summary(result, at=at)["round"].tolist() == [10, 2]
        assert difference(result, "E=5", "E=1", at=at).mean == pytest.approx(gap)
        assert f" at {cumulative_cost(result.rounds, at)[10]:.4g} {at}" in str(
            winner(result, at=at)
        )


def test_runs_of_different_lengths_are_compared_at_the_shortest():
    result = table({"short": [[0, 0.3]] * 3, "long": [[0, 0.2, 0.9]] * 3})
    assert difference(result, "long", "short").mean == pytest.approx(-0.1)


def test_the_last_evaluated_round_counts():
    result = table(
        {"a": [[0, 0.1, 0.2, 0.3]] * 3, "b": [[0, 0.5, 0.6, 0.7]] * 3},
        up={"a": 10, "b": 20},
        down=0,
    )
    result.loc[result["round"].isin([1]), ["accuracy", "loss"]] = np.nan
    at_30_bytes = summary(result, at="bytes_up")
    assert at_30_bytes["accuracy"].tolist() == pytest.approx([0.3, 0.0]), (
        "b's round 1 was not evaluated"
    )
    assert at_30_bytes["round"].tolist() == [3, 0]


def test_spent_adds_up_run_by_run(short):
    rounds = compare(short, seeds=2, algorithm={"FedAvg": fedavg(), "SCAFFOLD": scaffold()}).rounds
    budgets = {
        "megabytes": ["bytes_up", "bytes_down"],
        **{name: [name] for name in ("bytes_up", "examples", "steps")},
    }
    for at, columns in budgets.items():
        last = cumulative_cost(rounds, at)[rounds["round"] == 3]
        total = rounds.groupby(["algorithm", "seed"], sort=False)[columns].sum().sum(axis=1)
        np.testing.assert_allclose(last, total / (1e6 if at == "megabytes" else 1))
    assert cumulative_cost(rounds, "round").equals(rounds["round"])


# -- rounds to a target


@pytest.mark.parametrize(
    ("target", "rounds"),
    [(0.6, 2.5), (0.5, 1.0), (0.3, 0.5), (0.1, 0.0), (0.05, 0.0), (0.7, 3.0), (0.71, np.nan)],
)
def test_rounds_to_a_target_by_hand(target, rounds):
    """The best so far is 0.1, 0.5, 0.5, 0.7: it reaches 0.6 halfway between rounds 2 and 3."""
    reached = rounds_to(table({"a": [[0.1, 0.5, 0.4, 0.7, 0.6]]}), target)
    assert reached.to_dict("list") == {
        "algorithm": ["a"],
        "seed": [0],
        "rounds": [pytest.approx(rounds, nan_ok=True)],
    }


def test_rounds_to_a_target_between_evaluated_rounds_and_for_a_loss():
    result = table({"a": [[0.0, 0.9, 0.9, 0.9, 0.4]], "b": [[0.0, 0.9, 0.9, 0.9, 0.1]]})
    result.loc[~result["round"].isin([0, 4]), ["accuracy", "loss"]] = np.nan
    assert rounds_to(result, 0.2)["rounds"].tolist() == pytest.approx([2.0, np.nan], nan_ok=True)
    assert rounds_to(result, 0.8, "loss")["rounds"].tolist() == pytest.approx(
        [2.0, np.nan], nan_ok=True
    )


def test_rounds_to_a_target_of_runs_without_a_label(short):
    result = run(short, seeds=2)
    target = result.rounds.loc[result.rounds["round"] == 3, "accuracy"].min()
    reached = rounds_to(result, target)
    assert list(reached.columns) == ["seed", "rounds"]
    assert reached["rounds"].between(0, 3).all()


# -- the summary


def test_summary_by_hand():
    curves = {
        "a": [[0, 0.2, 0.1], [0, 0.4, 0.2], [0, 0.6, 0.3]],
        "b": [[0, 0.1, 0.2], [0, 0.1, 0.3], [0, 0.1, 0.7]],
    }
    got = summary(table(curves))
    assert got.index.tolist() == ["a", "b"]
    assert got.index.name == "algorithm"
    assert got.loc["a", ["accuracy", "low", "high"]].tolist() == pytest.approx([0.2, 0.1, 0.3])
    assert got.loc["a", ["round", "best", "best_round", "seeds"]].tolist() == pytest.approx(
        [2, 0.4, 1, 3]
    )
    assert got.loc["a", ["difference", "difference_low", "difference_high"]].isna().all()
    columns = ["difference", "difference_low", "difference_high"]
    assert tuple(got.loc["b", columns]) == pytest.approx(difference(table(curves), "b", "a")[2:5])
    assert tuple(summary(table(curves), against="b").loc["a", columns]) == pytest.approx(
        difference(table(curves), "a", "b")[2:5]
    )
    assert summary(table(curves), "loss").loc["a", "best"] == pytest.approx(0.6)


def test_summary_keeps_the_order_and_looks_for_the_best_where_all_seeds_have_been():
    """Seed 0 of z sends half as much, so it gets one round further within the budget."""
    result = table({"z": [[0, 0.2, 0.9], [0, 0.3, 0.3], [0, 0.1, 0.1]], "a": [[0, 0.4, 0.4]] * 3})
    result.loc[(result["algorithm"] == "z") & (result["seed"] == 0), "bytes_up"] //= 2
    got = summary(result, at="bytes_up")
    assert got.index.tolist() == ["z", "a"]
    assert got.loc["z", ["accuracy", "best", "best_round"]].tolist() == pytest.approx(
        [1.3 / 3, 0.2, 1]
    )


def test_several_fields_name_a_variant_together(short):
    result = compare(
        short, seeds=3, algorithm={"FedAvg": fedavg(), "FedProx": fedprox(1.0)}, rounds={1: 1, 2: 2}
    )
    got = summary(result)
    assert got.index.tolist() == ["FedAvg, 1", "FedAvg, 2", "FedProx, 1", "FedProx, 2"]
    assert got.index.name == "algorithm, rounds"
    assert (got["round"] == 1).all()
    assert difference(result, "FedAvg, 2", "FedAvg, 1")[2:5] == (0, 0, 0)


# -- examples held out


def test_none_is_a_label_like_others(short):
    """Since pandas drops missing labels from groups, None lost its rows in sums."""
    named = compare(
        short, local={None: short.local, "twice": replace(short.local, epochs=2)}, seeds=3
    ).rounds
    words = named.assign(local=named["local"].map({None: "None", "twice": "twice"}))
    assert (
        cumulative_cost(named, "examples").tolist() == cumulative_cost(words, "examples").tolist()
    )
    assert len(rounds_to(named, 0.1)) == 6
    pd.testing.assert_frame_equal(summary(named, at="examples"), summary(words, at="examples"))
    assert difference(named, None, "twice") == difference(words, "None", "twice")
    assert str(winner(named)) == str(winner(words))


def test_labels_of_any_kind_are_told_by_their_texts(short):
    local, longer = short.local, replace(short.local, epochs=2)
    kinds = compare(short, local={("a", 1): local, 3: longer}, seeds=3).rounds
    words = kinds.assign(local=kinds["local"].map({("a", 1): "('a', 1)", 3: "3"}))
    pd.testing.assert_frame_equal(summary(kinds), summary(words))
    assert summary(kinds)["difference"].isna().tolist() == [True, False], (
        "the first is the one that others are held against"
    )
    assert difference(kinds, ("a", 1), 3) == difference(words, "('a', 1)", "3")
    pd.testing.assert_frame_equal(summary(kinds, against=3), summary(words, against="3"))


@pytest.mark.parametrize("labels", [(None, "None"), (1, "1")])
def test_labels_that_read_alike_are_refused(short, labels):
    with pytest.raises(ValueError, match=r"the labels .* of local must differ as texts"):
        compare(short, local=dict.fromkeys(labels, short.local))


def test_validation_takes_a_share_of_every_client(study):
    data = study.data(0)
    held = hold_out_examples(data, 0.25, seed=3)
    away = data.sizes - held.sizes
    assert (abs(away - 0.25 * data.sizes) < 1).all()
    assert ((held.sizes > 0) == (data.sizes > 0)).all(), "whoever holds something keeps something"
    for part, remaining in zip(data.parts, held.parts, strict=True):
        assert set(remaining) <= set(part)
        assert (np.diff(remaining) > 0).all()
    gone = np.setdiff1d(np.arange(len(data.y)), np.concatenate(held.parts))
    assert torch.equal(held.test[0], data.x[gone])
    assert torch.equal(held.test[1], data.y[gone])
    assert held.x is data.x
    again, second_seed = (
        hold_out_examples(data, 0.25, seed=3),
        hold_out_examples(data, 0.25, seed=4),
    )
    assert all(np.array_equal(a, b) for a, b in zip(held.parts, again.parts, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(held.parts, second_seed.parts, strict=True))


def test_validation_of_small_clients_takes_the_share_on_average():
    x = torch.zeros(3000, 1)
    data = FederatedDataset(
        x, x[:, 0].long(), np.split(np.arange(3000), 1000), (x[:1], x[:1, 0].long()), classes=("0",)
    )
    assert len(hold_out_examples(data, 0.2).test[1]) / 3000 == pytest.approx(0.2, abs=0.03)


# -- tuning


def test_tuning_finds_the_rate(easy):
    """The grid has a rate too slow, a good one in the middle, and one that diverges."""
    slow = replace(easy, local=replace(easy.local, lr=1e-4))
    result = compare(
        slow,
        seeds=2,
        algorithm={"FedAvg": fedavg(), "again": fedavg()},
        tune={"lr": (1e-4, 0.2, 1e30)},
    )
    assert result.trials.columns.tolist() == ["algorithm", "lr", "accuracy", "loss", "chosen"]
    assert result.trials["chosen"].tolist() == [False, True, False] * 2
    assert (
        result.trials.loc[result.trials["lr"] == 1e30, ["accuracy", "loss"]].isna().all(axis=None)
    ), "out"
    for table in (result.rounds, result.clients):
        assert table.columns[:4].tolist() == ["algorithm", "lr", "note", "seed"]
        assert (table["lr"] == 0.2).all()
        assert (table["note"] == "").all()
    fixed = run(replace(easy, local=replace(easy.local, lr=0.2)), seeds=2)
    torch.testing.assert_close(result.w, fixed.w * 2, atol=1e-6, rtol=0)
    assert compare(easy, algorithm={"FedAvg": fedavg()}).trials is None


def test_the_best_of_the_trials_is_chosen_and_its_place_in_the_grid_told(easy):
    result = compare(
        easy,
        seeds=3,
        algorithm={"FedAvg": fedavg()},
        tune={"lr": (0.02, 0.05, 0.1), "momentum": (0.0, 0.2)},
    )
    trials = result.trials
    assert len(trials) == 6
    assert trials.loc[trials["chosen"], "accuracy"].tolist() == [trials["accuracy"].max()]
    assert trials.loc[trials["chosen"], ["lr", "momentum"]].to_numpy().tolist() == [[0.1, 0.2]]
    got = summary(result).loc["FedAvg"]
    assert got[["lr", "momentum"]].tolist() == [0.1, 0.2]
    assert got["note"] == "lr=0.1 is the highest tried; momentum=0.2 is the highest tried"


def test_beyond_zero_there_is_nothing_to_try(easy):
    result = compare(easy, seeds=1, tune={"weight_decay": (0.0, 10.0)})
    assert (result.rounds[["weight_decay", "note"]] == [0.0, ""]).all(axis=None)


@pytest.mark.slow
def test_tuning_sees_no_test_set_and_no_seed_of_the_comparison(short):
    """A test set of nonsense changes no score, and no example that scores a candidate trains it."""
    asked, trained = [], {}

    def data(seed):
        asked.append(seed)
        return short.data(seed)

    def blind(seed):
        x, y = short.data(seed).test
        return replace(short.data(seed), test=(0 * x, 9 - y))

    def watched(task, x, y, work):
        if len(work.start) == 3:  # the comparison has two seeds
            for seed, row in zip(work.origin.tolist(), work.batches, strict=True):
                trained.setdefault((1000, 1002, 1003)[seed], set()).update(row[row >= 0].tolist())
        return batched(task, x, y, work)

    how = {"algorithm": {"FedAvg": fedavg()}, "tune": {"lr": (0.02, 0.1)}}
    seen = compare(replace(short, data=data), watched, [0, 1001], **how)
    assert asked == [1000, 1000, 1002, 1003, 0, 1001], (
        "twice for the first seed: whether it can be repeated"
    )
    for seed, examples in trained.items():
        held = hold_out_examples(short.data(seed), seed=seed)
        assert examples
        assert examples <= set(np.concatenate(held.parts).tolist())
        assert len(held.test[1]) + held.sizes.sum() == len(held.y)
    pd.testing.assert_frame_equal(
        seen.trials, compare(replace(short, data=blind), seeds=[0, 1001], **how).trials
    )


@pytest.mark.slow
def test_arguments_of_an_algorithm_are_tuned_where_it_is_a_function(easy):
    grid = {"lr": (0.05, 0.1), "server_lr": (1e-5, 0.1)}
    methods = {"FedAvg": fedavg(), "FedAdam": fedadam, "coarse": partial(fedadam, tau=0.1)}
    result = compare(easy, seeds=2, algorithm=methods, tune=grid)
    assert result.trials["algorithm"].value_counts().to_dict() == {
        "FedAvg": 2,
        "FedAdam": 4,
        "coarse": 4,
    }
    chosen = result.trials[result.trials["chosen"]].set_index("algorithm")
    assert chosen["server_lr"].to_dict() == {"FedAvg": "", "FedAdam": 0.1, "coarse": 0.1}
    local = replace(easy.local, lr=chosen.loc["FedAdam", "lr"])
    alone = run(replace(easy, local=local, algorithm=fedadam(server_lr=0.1)), seeds=2)
    torch.testing.assert_close(result.w[2:4], alone.w, atol=1e-6, rtol=0)
    untuned = compare(easy, algorithm={"FedAdam": fedadam})
    assert torch.equal(untuned.w[0], run(replace(easy, algorithm=fedadam())).w[0])


def test_clients_with_their_own_work_are_tuned_together(short):
    local = [Local(0.1, batch_size=8, epochs=1 + i % 3) for i in range(30)]
    result = compare(replace(short, local=local), tune={"lr": (1e-4, 0.1)})
    assert result.rounds["lr"].unique().tolist() == [0.1]
    torch.testing.assert_close(
        result.w[0], run(replace(short, local=local)).w[0], atol=1e-6, rtol=0
    )


def test_without_an_accuracy_the_loss_decides():
    x = generator(0, "test").normal(size=(300, 3))
    data = federate(x, x @ [1.0, -2.0, 0.5], clients=6)
    study = Experiment(
        data, least_squares(data), Local(0.1), fedavg(), weighted_mean, uniform(6), rounds=5
    )
    result = compare(
        study,
        seeds=3,
        algorithm={"FedAvg": fedavg(), "FedAvgM": fedavgm()},
        tune={"lr": (1e-4, 0.3)},
    )
    assert result.trials.columns.tolist() == ["algorithm", "lr", "loss", "chosen"]
    assert result.rounds["lr"].unique().tolist() == [0.3]


@pytest.mark.slow
def test_tuning_goes_on_where_it_was_killed(short, tmp_path):
    """The second comparison trains nothing: all results come from the folders."""

    def never(*_):
        raise AssertionError("trained again")

    how = {
        "algorithm": {"FedAvg": fedavg()},
        "tune": {"lr": (0.05, 0.1)},
        "checkpoint": tmp_path / "study",
    }
    first, again = compare(short, **how), compare(short, never, **how)
    pd.testing.assert_frame_equal(first.trials, again.trials)
    pd.testing.assert_frame_equal(first.rounds, again.rounds)


def test_what_does_not_go_together_is_refused_before_anything_is_tuned(short):
    """FedAvg, which comes first, takes momentum; SCAFFOLD does not."""

    def never(*_):
        raise AssertionError("trained")

    methods = {"FedAvg": fedavg(), "SCAFFOLD": scaffold()}
    with pytest.raises(ValueError, match=r"momentum=0\.9 must be 0 \(SCAFFOLD's control variate"):
        compare(short, never, algorithm=methods, tune={"momentum": (0.0, 0.9)})


def test_every_candidate_may_diverge(short):
    with pytest.raises(ValueError, match=r"every candidate diverged\. Try smaller values"):
        compare(short, algorithm={"FedAvg": fedavg()}, tune={"lr": (1e30, 1e31)})
    with pytest.raises(Diverged):
        compare(short, local={"wild": Local(1e30, batch_size=8)})


# -- wrong inputs

GOOD = ends(a=[0.1, 0.2, 0.3], b=[0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: difference(ends(a=[0.1, 0.2], b=[0.2, 0.3]), "a", "b"),
            "seeds=2 must be at least 3",
        ),
        (lambda: winner(ends(a=[0.1], b=[0.2])), "seeds=1 must be at least 3"),
        (lambda: summary(ends(a=[0.1, 0.2], b=[0.2, 0.3])), "seeds=2 must be at least 3"),
        (lambda: difference(GOOD, "a", "c"), "no variant 'c' was run. Try one of a, b"),
        (lambda: summary(GOOD, against="c"), "no variant 'c' was run. Try one of a, b"),
        (
            lambda: difference(GOOD, "a", "b", column="precision"),
            "column='precision' must be in the table of rounds. Try one of .*accuracy",
        ),
        (
            lambda: difference(GOOD, "a", "b", at="dollars"),
            "at='dollars' must be a cost of runs. Try round, examples, steps, megabytes, bytes_up "
            "or bytes_down, and by the clock hours or kilojoules$",
        ),
        (
            lambda: difference(GOOD, "a", "b", confidence=95),
            "confidence=95 must be above 0 and below 1",
        ),
        (
            lambda: summary(table({"a": [[0, 1]], "b": [[0, 1]]}, up=0), at="bytes_up"),
            "at='bytes_up' must cost every run something, and one spends 0",
        ),
        (lambda: winner(ends(a=[0.1, 0.2, 0.3])), "a is the only variant"),
        (
            lambda: winner(GOOD.drop(columns="algorithm")),
            r"its runs bear no label\). Try compare\(",
        ),
        (
            lambda: winner(GOOD[(GOOD["seed"] > 0) | (GOOD["algorithm"] == "a")]),
            r"b lacks the seeds \[0\] \(differences are paired\)",
        ),
        (
            lambda: rounds_to(GOOD, 0.5, "precision"),
            "column='precision' must be in the table of rounds. Try",
        ),
    ],
)
def test_what_says_nothing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "must be a dict of values by name"),
        (("lr", [0.1, 0.2]), "must be a dict of values by name"),
        ({"lr": 0.1}, "lr=0.1 must be a list of two values or more"),
        ({"lr": [0.1, 0.1]}, "must be a list of two values or more"),
        ({"optimizer": "sgd"}, "must be a list of two values or more"),
        (
            {"steps": [1, 2]},
            "tune='steps' must be one of lr, momentum, .*steps and batch_size are the work",
        ),
        ({"server_lr": [0.1, 1]}, "tune='server_lr' must .* given as a function, such as fedadam"),
        ({"lr": [0.0, 0.1]}, "lr=0.0 must be finite and above 0"),
    ],
)
def test_what_cannot_be_tuned_is_refused(short, grid, message):
    with pytest.raises((ValueError, TypeError), match=message):
        compare(short, algorithm={"FedAvg": fedavg()}, tune=grid)


def test_tuning_writes_nothing_where_the_checkpoint_is_no_folder(short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="checkpoint=5 must be a text or a Path"):
        compare(short, algorithm={"FedAvg": fedavg()}, tune={"lr": [0.1, 0.2]}, checkpoint=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0, 1, -0.1, 2])
def test_a_share_lies_between_0_and_1(study, share):
    with pytest.raises(
        ValueError, match=f"share={share} must be above 0 and below 1 .*of each client's examples"
    ):
        hold_out_examples(study.data(0), share)


def test_clients_of_one_example_have_nothing_to_hold_out():
    data = load("digits", 1437, dirichlet(1.0, min_examples=1))
    with pytest.raises(ValueError, match=r"share=0.2 of clients with 1 to 1 examples is nothing"):
        hold_out_examples(data)
