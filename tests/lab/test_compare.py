"""B minus A over paired seeds, against a computation by hand; A is pinned and stays."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_panel import count, make_panel, soon

from fedlab.lab import plots
from fedlab.lab.widgets import latest, runner
from fedlab.lab.widgets.compare import Gaps, find_gaps, gaps_in_words
from fedlab.lab.widgets.controls import slider
from fedlab.lab.widgets.panel import Panel

DRAW = np.random.default_rng(7)


def table_of(seeds, rounds):
    """Return rows as ``rounds_of`` yields them, with random accuracies."""
    return [
        {"seed": seed, "round": t, "accuracy": float(DRAW.uniform()), "clients": 10}
        for seed in seeds
        for t in range(rounds)
    ]


def by_hand(b, a, seeds, t):
    """Return mean and interval of the paired differences at a round, with scipy."""
    ends = [{row["seed"]: row["accuracy"] for row in rows if row["round"] == t} for rows in (b, a)]
    gaps = [ends[0][seed] - ends[1][seed] for seed in seeds]
    paired = stats.ttest_rel([ends[0][s] for s in seeds], [ends[1][s] for s in seeds])
    interval = paired.confidence_interval(0.95)
    return np.mean(gaps), interval.low, interval.high


@pytest.mark.parametrize("as_frame", [list, pd.DataFrame])
def test_the_interval_is_that_of_paired_seeds_at_the_last_common_round(as_frame):
    a, b = table_of(range(7), 40), table_of([3, 1, 2, 5, 9], 25)
    gaps = find_gaps(as_frame(b), as_frame(a), lambda rows: latest(_rows(rows)))
    mean, low, high = by_hand(b, a, [1, 2, 3, 5], 24)
    assert (gaps.round, gaps.seeds) == (24, 4)
    assert set(gaps.by_name) == {"accuracy"}
    line = gaps_in_words(gaps, "seeds")
    assert 0.095 < (high - low) / 2 < 9.5, "two digits of the interval's half width are shown"
    digits = 2 if (high - low) / 2 < 0.995 else 1
    ends = [f"{number:+.{digits}f}".replace("-", "−") for number in (mean, low, high)]
    assert line == (
        f"B − A at round 24: accuracy {ends[0]} "
        f"(95 % interval {ends[1]} to {ends[2]}, 4 paired seeds)"
    )


def _rows(table):
    return table.to_dict("records") if isinstance(table, pd.DataFrame) else table


def test_several_numbers_have_their_intervals_and_numbers_that_are_none_are_left_out():
    def tell(rows):
        last = rows[-1]
        words = {"law": "holds", "broken": float("nan"), "yes": True}
        return {"round": last["round"], "accuracy": last["accuracy"], "kB": last["seed"]} | words

    a, b = table_of(range(3), 4), table_of(range(3), 9)
    line = gaps_in_words(find_gaps(b, a, tell))
    assert re.fullmatch(
        r"B − A at round 3: accuracy [+−][\d.]+ \(95 % interval [+−][\d.]+ to [+−][\d.]+\), "
        r"kB 0 \(95 % interval 0 to 0, 3 paired seeds\)",
        line,
    )


def test_with_few_seeds_there_is_no_interval_and_the_reason():
    single, two = table_of([0], 5), table_of([0, 1], 5)
    assert gaps_in_words(find_gaps(single, two, latest), "seeds").endswith(
        "(1 paired seed; an interval needs 3: set seeds to 3 or more, for A and for B)"
    )
    assert gaps_in_words(find_gaps(two, two, latest)) == (
        "B − A at round 4: accuracy 0 (2 paired seeds; an interval needs 3)"
    )


def test_frames_that_are_no_tables_of_seeds_are_told_whole_and_at_the_same_round():
    def tell(t):
        return {"round": t, "distance": t / 2}

    history = [tell(t) for t in range(10)]
    halves = find_gaps(4, 9, lambda t: {"distance": t / 2}, [{"distance": 0.5}])
    assert halves.by_name == {"distance": [-2.5]}
    assert find_gaps(4, 9, tell, history).by_name == {"distance": [0.0]}
    line = gaps_in_words(find_gaps(40, 9, tell, history))
    assert line == "B − A at round 40: A and B have no number in common"


def test_runs_without_a_common_round_or_seed_say_so():
    a = table_of([0], 3)
    later = [row | {"round": row["round"] + 5} for row in a]
    other_seed = [row | {"seed": 4} for row in a]
    for b, missing in ((later, "round"), (other_seed, "seed")):
        line = gaps_in_words(find_gaps(b, a, latest))
        assert line == f"B − A: A and B have no {missing} in common"


def test_equal_differences_have_no_digits_of_rounding():
    gaps = Gaps({"MB": [0.1, 0.30000000000000004 - 0.2, 0.1], "loss": [-0.0004, 0.02, 0.03]}, 3, 3)
    line = gaps_in_words(gaps)
    assert line.startswith("B − A at round 3: MB +0.1 (95 % interval +0.1 to +0.1), loss ")
    tiny = Gaps({"loss": [-0.0004, 0.0, 0.0003], "accuracy": [0.0, 0.0, 0.0]}, 3, 3)
    assert "−0.0 " not in gaps_in_words(tiny)
    assert "accuracy 0 (95 % interval 0 to 0, 3 paired seeds)" in gaps_in_words(tiny)


def test_a_run_outlives_an_unpinning_while_it_is_compared(monkeypatch):
    panel = ran(make_panel(count))
    panel.toggle_pin()

    def unpin_and_compare(*arguments):
        panel._runner.unpin()
        return find_gaps(*arguments)

    monkeypatch.setattr(runner, "find_gaps", unpin_and_compare)
    ran(panel, n=7)
    assert panel.status.startswith("done  n=7")
    assert panel.gap == "", "nothing is pinned any more"


def curves_panel(rounds=30, slow=False):
    def train(lr, seeds):
        rows = []
        for t in range(rounds):
            rows += [
                {"seed": s, "round": t, "accuracy": lr * t / rounds + 0.001 * s * lr}
                for s in range(seeds)
            ]
            if slow:
                time.sleep(0.02)
            yield list(rows)

    def draw(scene, **_):
        return plots.curves(scene.frame, earlier=scene.earlier)

    return Panel(
        train,
        draw,
        lambda rows: latest(sorted(rows, key=lambda row: row["round"])),
        compare_with={"lr": 0.2},
        lr=slider(0.5, 0.1, 1.0),
        seeds=slider(1, 1, 10),
    )


def ran(panel, **settings):
    panel.move(**settings)
    if not settings:
        panel.restart()
    panel.wait()
    return panel


def test_a_pinned_run_stays_in_the_picture_and_is_compared_with():
    panel = ran(curves_panel())
    panel._pin.click()
    assert panel._pin.description == "Unpin A"
    assert panel.gap == "A is pinned: move a control, and see B − A"
    ran(panel, lr=0.8)
    assert panel.gap == (
        "B − A at round 29: accuracy +0.29 "
        "(1 paired seed; an interval needs 3: set seeds to 3 or more, for A and for B)"
    )
    assert panel._runner._earlier_frames(panel.settings).keys() == {"A: lr=0.5"}
    for lr in (0.2, 0.3, 0.4, 0.6, 0.7, 0.9):
        ran(panel, lr=lr)
    assert next(iter(panel._runner._earlier_frames(panel.settings))) == "A: lr=0.5"
    panel.clear()
    panel._runner.worker.submit(int).result()
    assert panel._runner._earlier_frames(panel.settings).keys() == {"A: lr=0.5"}
    ran(panel, lr=0.5)
    assert panel.gap == "", "A itself is shown"
    ran(panel, lr=0.9)
    assert "accuracy +0.387" in panel.gap
    panel._pin.click()
    assert (panel._pin.description, panel.gap) == ("Pin A", "")
    assert "A: " not in str(panel._runner._earlier_frames(panel.settings).keys())


def test_over_seeds_the_difference_has_its_interval():
    panel = ran(curves_panel(), seeds=4)
    panel._pin.click()
    ran(panel, lr=0.9, seeds=5)
    assert re.fullmatch(
        r"B − A at round 29: accuracy \+0\.38727 "
        r"\(95 % interval \+0\.38644 to \+0\.38809, 4 paired seeds\)",
        panel.gap,
    )


def test_the_difference_is_live_and_a_run_that_has_not_ended_cannot_be_pinned():
    panel = ran(curves_panel(rounds=200))
    panel._pin.click()
    panel._runner.functions = panel._runner.functions._replace(
        train=curves_panel(rounds=200, slow=True)._runner.functions.train
    )
    panel.move(lr=0.9)
    soon(lambda: "B − A at round" in panel.gap)
    first = panel.gap
    soon(lambda: panel.gap != first)
    panel.stop()
    panel.wait()
    assert panel.gap.startswith("B − A at round ")
    panel._pin.click()
    assert panel._pin.description == "Pin A"
    panel._pin.click()
    assert "A must be a run that came to its end" in panel.gap
    assert panel._pin.description == "Pin A"


def test_a_difference_that_fails_is_said_and_does_not_end_the_run(monkeypatch):
    panel = make_panel(count)
    panel.restart()
    panel.wait()
    panel._pin.click()
    ran(panel, n=7)
    assert panel.gap == "B − A: frame +2, half +1"
    monkeypatch.setattr(runner, "find_gaps", lambda *_: {}["row"])
    ran(panel, n=8)
    assert panel.gap == "B − A could not be computed: KeyError: 'row'"
    assert panel.status.startswith("done  n=8")


def test_comparing_ten_seeds_of_200_rounds_is_quicker_than_drawing_them():
    a, b = table_of(range(10), 200), table_of(range(10), 200)

    def seconds(act):
        took = []
        for _ in range(5):
            began = time.perf_counter()
            act()
            took.append(time.perf_counter() - began)
        return min(took)

    compare = seconds(lambda: gaps_in_words(find_gaps(b, a, latest)))
    assert compare < seconds(lambda: plots.figure_html(plots.curves(b, earlier={"A": a})))
