from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.data import contrast, dirichlet, iid, load
from fedlab.engine import run
from fedlab.lab import plots
from fedlab.server import fedavg
from fedlab.study import compare, quadratics, rounds_to, summary
from fedlab.system import draw_fleet, planner
from fedlab.system.devices import devices, links


@pytest.fixture(scope="module")
def result(short):
    return compare(short, algorithm={"FedAvg": fedavg(), "half steps": fedavg(0.5)}, seeds=3)


def test_line_is_the_mean_and_band_the_range(result):
    picture = plots.curves(result, hue="algorithm")
    axes = picture.axes[0]
    table = result.rounds[result.rounds["algorithm"] == "FedAvg"].groupby("round")["accuracy"]
    line = axes.lines[0]
    np.testing.assert_allclose(line.get_ydata(), table.mean())
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(table.max().max())
    assert band.min() == pytest.approx(table.min().min())
    assert line.get_color() == plots.COLOURS["FedAvg"]
    assert [trace.name for trace in picture.traces] == ["FedAvg", "half steps"]
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_none_has_a_line_of_its_own(result):
    table = result.rounds
    hue = table.columns[0]
    first = table[hue].iloc[0]
    nameless = table.assign(**{hue: table[hue].astype(object).mask(table[hue] == first, None)})
    drawn, wanted = (plots.curves(each, hue=hue).axes[0].lines for each in (nameless, table))
    assert len(drawn) == len(wanted) > 1
    for a, b in zip(drawn, wanted, strict=True):
        np.testing.assert_array_equal(a.get_ydata(), b.get_ydata())


def test_megabytes_add_up(result):
    rounds = result.rounds[result.rounds["algorithm"] == "FedAvg"]
    totals = {
        "megabytes": (rounds["bytes_up"] + rounds["bytes_down"]).sum() / 1e6,
        "examples": rounds["examples"].sum(),
    }
    for x, total in totals.items():
        axes = plots.curves(result, x=x, hue="algorithm").axes[0]
        assert axes.lines[0].get_xdata()[-1] == pytest.approx(total / 3)


def test_a_method_has_one_colour_everywhere(short):
    result = run(short, seeds=2)
    assert plots.curves(result).axes[0].lines[0].get_color() == plots.COLOURS["FedAvg"]
    named = result.rounds.assign(training="alone")
    assert (
        plots.curves(named, hue="training").axes[0].lines[0].get_color() == plots.COLOURS["alone"]
    )


def test_partition_bars_are_the_counts():
    data = load("digits", 60, dirichlet(0.05))
    picture = plots.partition(data)
    heights = np.array([bar.get_height() for bar in picture.axes[0].patches]).reshape(10, 60).T
    assert (heights == data.counts()).all()
    empty = int((data.sizes == 0).sum())
    sizes = f"{data.sizes.min()} to {data.sizes.max()}"
    assert picture.alt == f"60 clients hold {sizes} examples each; {empty} of them hold none"


def test_against_a_setting():
    table = pd.DataFrame(
        {
            "alpha": [0.1, 0.1, 10, 10],
            "seed": [0, 1, 0, 1],
            "accuracy": [0.2, 0.4, 0.8, 0.9],
            "who": "FedAvg",
        }
    )
    axes = plots.sweep(table, "alpha", "accuracy", hue="who").axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.3, 0.85])
    assert axes.get_xscale() == "log"


@pytest.mark.slow
def test_pictures_show_themselves_with_words(short):
    picture = plots.curves(run(short))
    data, about = picture._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert about["image/png"]["alt"] == data["text/plain"] == picture.alt
    assert "accuracy" in picture.alt
    assert picture.png() == picture.png(), "the same picture is the same bytes"


def growing(names, heights):
    """Return a table whose methods end at these heights."""
    curves = [
        pd.DataFrame(
            {
                "who": name,
                "seed": 0,
                "round": [0, 1],
                "accuracy": [0.1, y],
                "bytes_up": 0,
                "bytes_down": 0,
            }
        )
        for name, y in zip(names, heights, strict=True)
    ]
    return pd.concat(curves)


@pytest.mark.parametrize(
    "heights", [[0.5] * 6, [0.97] * 13, np.linspace(0, 0.1, 13), [0.1, 0.11, 0.5, 0.9, 0.91]]
)
def test_labels_do_not_touch_and_stay_at_their_lines(heights):
    heights = np.sort(heights)
    names = [f"m{k:02}" for k in range(len(heights))]
    picture = plots.curves(growing(names, heights), hue="who")
    labels = sorted((place, int(trace.name[-2:])) for trace, place in picture.name_places)
    places, lines = np.array([y for y, _ in labels]), [k for _, k in labels]
    assert sorted(lines) == list(range(len(heights)))
    assert (np.diff(heights[lines]) >= 0).all(), "from the lowest line to the highest"
    assert np.diff(places).min() > 0.06
    assert 0 <= places.min() <= places.max() <= 1
    far = np.diff(heights, prepend=-1, append=2)
    free = (far[1:] > 0.1) & (far[:-1] > 0.1)
    np.testing.assert_allclose(places[free], heights[free])


def test_names_stand_outside_of_a_plot_that_keeps_its_width():
    names = ["a", "a name that is so long that it takes a second line beside the plot"]
    widths, groups = set(), [names[:1], names, names * 4]
    for group in groups:
        labels = [f"{name}{k}" for k, name in enumerate(group)]
        picture = plots.curves(growing(labels, np.linspace(0.2, 0.8, len(labels))), hue="who")
        picture.png()
        widths.add(round(picture.axes[0].get_position().width, 3))
        right = picture.axes[0].get_window_extent().x1
        texts = [artist for artist in picture.name_artists if hasattr(artist, "get_text")]
        boxes = [text.get_window_extent() for text in texts]
        assert all(right < box.x0 < box.x1 <= picture.bbox.x1 for box in boxes)
        tops = sorted((box.y0, box.y1) for box in boxes)
        assert all(low[1] <= high[0] + 1 for low, high in pairwise(tops))
    assert len(widths) == 1


METHODS = [
    "FedSGD",
    "FedAvg",
    "FedAvgM",
    "FedAdagrad",
    "FedAdam",
    "FedYogi",
    "FedProx",
    "SCAFFOLD",
    "FedDyn",
    "FedNova",
]
METHODS += ["MimeLite", "FedExP", "q-FedAvg", "centralised", "alone"]


def test_methods_can_be_told_apart_and_look_alike_in_every_picture():
    names = [*METHODS, "mine", "another"]
    picture = plots.curves(growing(names, np.linspace(0.1, 0.9, len(names))), hue="who")
    axes = picture.axes[0]
    looks = {
        name: (line.get_color(), line.get_linestyle())
        for name, line in zip(names, axes.lines, strict=True)
    }
    assert len(set(looks.values())) == len(names)
    for few in (["FedYogi", "mine"], ["SCAFFOLD", "FedAvgM", "FedProx"], ["FedDyn"]):
        lines = plots.curves(growing(few, [0.5] * len(few)), hue="who").axes[0].lines
        for name, line in zip(few, lines, strict=True):
            assert name == "mine" or (line.get_color(), line.get_linestyle()) == looks[name]
    samples = {trace.name: trace.line for trace in picture.traces}
    assert samples == {name: line for name, (_, line) in looks.items()}


def test_bubbles_are_the_counts():
    data = load("digits", 30, dirichlet(0.05))
    picture = plots.client_bubbles(data)
    above, below = picture.axes
    assert [bar.get_height() for bar in above.patches] == data.sizes.tolist()
    bubbles = below.collections[0]
    drawn = np.zeros_like(data.counts(), dtype=float)
    drawn[tuple(bubbles.get_offsets().astype(int).T)] = bubbles.get_sizes()
    np.testing.assert_allclose(drawn / drawn.max(), data.counts() / data.counts().max())
    assert picture.alt.startswith("30 clients hold 0 to ")
    many = plots.client_bubbles(load("digits", 200, iid()))
    assert len(many.axes[0].patches) == 100
    assert many.alt.endswith("they are the first of 200")


def test_pictures_of_all_clients_have_the_same_shades():
    data = contrast(load("digits", 3, iid()), [1.0, 0.1, 4.0])
    axes = plots.sample_images(data, (2, 1), each=4).axes[0]
    shown = np.array([image.get_array() for image in axes.images]).reshape(2, 4, 8, 8)
    assert shown[0].std() > 10 * shown[1].std()
    assert (shown.min(), shown.max()) == (0, 1)
    said = {text.get_text() for text in axes.texts}
    assert {"client 2", "client 1", *(str(int(data.y[k])) for k in data.parts[2][:4])} <= said
    colours = replace(data, x=torch.rand(len(data.y), 3, 5, 7))
    assert plots.sample_images(colours, (0,)).axes[0].images[0].get_array().shape == (5, 7, 3)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"examples of shape \[30\] are no pictures"):
        plots.sample_images(load("breast_cancer", 4))
    data = load("digits", 60, dirichlet(0.05))
    with pytest.raises(ValueError, match=r"clients=\[.*\] must hold an example, and hold none"):
        plots.sample_images(data, np.flatnonzero(data.sizes == 0)[:2].tolist())


def test_differences_are_those_of_the_table(result):
    table = summary(result)
    table.loc["clear"] = table.loc["half steps"].replace(
        table["difference_low"]["half steps"], 0.01
    )
    table.loc["clear", ["difference", "difference_high"]] = 0.02, 0.03
    picture = plots.effect_sizes(table)
    axes = picture.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["FedAvg", "half steps", "clear"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    bars = [
        line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
    ]
    np.testing.assert_allclose([dot.get_xdata()[0] for dot in dots], table["difference"].fillna(0))
    limits = table[["difference_low", "difference_high"]].fillna(0)
    np.testing.assert_allclose([bar.get_xdata() for bar in bars], limits)
    unclear = not limits.loc["half steps"].pipe(lambda pair: pair.iloc[0] > 0 or pair.iloc[1] < 0)
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, unclear, False]
    assert dots[0].get_color() == plots.COLOURS["FedAvg"]
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines), "a line at zero"
    assert (
        "difference to FedAvg, after round 3; 3 paired seeds: FedAvg reference: 0." in picture.alt
    )
    assert "test accuracy of the global model" in axes.get_xlabel()
    with pytest.raises(
        ValueError, match=r"must have the difference to a reference\. Try fedlab\.study\.summary"
    ):
        plots.effect_sizes(result.final())


def test_small_differences_have_room_for_their_numbers(result):
    table = summary(result)
    table.loc["half steps", ["difference", "difference_low", "difference_high"]] = (
        -0.011,
        -0.02,
        -0.002,
    )
    picture = plots.effect_sizes(table)
    picture.png()
    words = [
        label.get_window_extent() for label in picture.axes[0].get_xticklabels() if label.get_text()
    ]
    assert len(words) > 2
    assert all(left.x1 < right.x0 for left, right in pairwise(words))


def drawn(picture):
    """Return the paths of the clients as they were drawn, ``[m, K + 1, 2]``."""
    return np.array(
        [
            line.get_xydata()
            for line in picture.axes[0].lines
            if line.get_linestyle() == "-" and len(line.get_xdata()) > 1
        ]
    )


def test_paths_in_two_dimensions_are_drawn_as_they_are():
    clients = quadratics(3, 2, seed=1)
    ways = clients.paths(np.array([2.0, -1.0]), 0.2, 10)
    picture = plots.paths(ways, loss=clients.value, marks={"optimum": clients.optimum})
    np.testing.assert_allclose(drawn(picture), ways)
    said = {text.get_text(): text.xy for text in picture.axes[0].texts}
    assert said.keys() == {"client 0", "client 1", "client 2", "start", "optimum"}
    np.testing.assert_allclose(said["optimum"], clients.optimum)
    x, y = said["client 1"]
    np.testing.assert_allclose([x, y], ways[1, -1])
    assert "10 local steps of 3 clients" in picture.alt


def test_paths_in_a_plane_of_many_dimensions_keep_their_shape():
    """In a plane of seven dimensions, distances stay, and the loss is asked for in the plane."""
    clients = quadratics(4, 2, seed=2)
    flat = clients.paths(np.zeros(2), 0.2, 6)
    plane = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 2)))[0].T  # [2, 7]
    start, asked = np.arange(7.0), []

    def loss(points):
        asked.append(points)
        return ((points - start) ** 2).sum(1)

    picture = plots.paths(
        start + flat @ plane,
        loss=loss,
        marks={"optimum": start + clients.optimum @ plane},
        names="abcd",
    )
    got = drawn(picture)
    apart = lambda ways: np.linalg.norm(ways[:, None] - ways[None], axis=-1)  # noqa: E731
    np.testing.assert_allclose(apart(got), apart(flat), atol=1e-9)
    (points,) = asked
    away = points - start
    np.testing.assert_allclose(away @ plane.T @ plane, away, atol=1e-9)
    mark = next(text.xy for text in picture.axes[0].texts if text.get_text() == "optimum")
    assert np.linalg.norm(mark) == pytest.approx(np.linalg.norm(clients.optimum))
    assert "100%" in picture.axes[0].get_title(loc="left")


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 1, 5)])
def test_paths_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[clients, steps \+ 1, d\] from one start"):
        plots.paths(np.zeros(shape))
    with pytest.raises(ValueError, match="from one start"):
        plots.paths(np.random.default_rng(0).normal(size=(3, 5, 2)))


@pytest.mark.slow
def test_every_picture_renders_with_words_and_labels(result):
    data, clients = load("digits", 5, iid()), quadratics(3, 2)
    ways = clients.paths(np.zeros(2), 0.1, 5)
    made = [
        plots.client_bubbles(data),
        plots.effect_sizes(summary(result)),
        plots.paths(ways, loss=clients.value),
    ]
    for picture in [*made, plots.sample_images(data)]:
        assert picture.png(50).startswith(b"\x89PNG")
        assert len(picture.alt) > 30
    for picture in made:
        assert picture.axes[-1].get_xlabel()


def test_a_frontier_is_what_nothing_cheaper_reaches():
    rows = [
        {
            "family": family,
            "upload": name,
            "seed": seed,
            "kB": kb + seed,
            "accuracy": accuracy + 0.01 * seed,
        }
        for family, name, kb, accuracy in (
            ("a", "a1", 1, 0.5),
            ("a", "a2", 10, 0.9),
            ("b", "b1", 4, 0.3),
            ("b", "b2", 100, 0.8),
        )
        for seed in (0, 1)
    ]
    picture = plots.frontier(pd.DataFrame(rows), "kB", "accuracy", "family", "upload", "kilobytes")
    axes = picture.axes[0]
    step, a, b = axes.get_lines()
    assert step.get_ydata().tolist() == pytest.approx([0.505, 0.505, 0.905, 0.905])
    assert a.get_xdata().tolist() == [1.5, 10.5]
    assert b.get_ydata().tolist() == pytest.approx([0.305, 0.805])
    assert axes.get_xlabel() == "kilobytes"
    assert "a2: 0.905 for 10.5" in picture.alt
    assert picture.table["highest"].tolist() == pytest.approx([0.51, 0.91, 0.31, 0.81])
    spreads = [
        segment[:, 1].tolist() for lines in axes.collections for segment in lines.get_segments()
    ]
    assert spreads[0] == pytest.approx([0.5, 0.51])


def test_bytes_by_part_add_up():
    parts = pd.DataFrame(
        {"header": [40, 50], "indices": [0, 30], "values": [1000, 200]}, index=["dense", "sparse"]
    )
    picture = plots.bytes_by_part(parts, "one message")
    bars = picture.axes[0].patches
    assert [bar.get_width() for bar in bars] == [40, 50, 0, 30, 1000, 200]
    assert [bar.get_x() for bar in bars] == [0, 0, 40, 50, 40, 80], (
        "each begins where the one before ends"
    )
    assert [text.get_text() for text in picture.axes[0].texts] == ["1,040", "280"]
    assert picture.alt == "dense 1,040 bytes; sparse 280 bytes"


def test_bars_have_an_axis_a_column_and_their_numbers_beside_them():
    table = pd.DataFrame({"kB": [4500.0, 528.25], "ms": [8.578, 0.0912]}, index=["whole", "zeros"])
    picture = plots.bars(table, "measured")
    assert [axes.get_xlabel() for axes in picture.axes] == ["kB", "ms"]
    assert [[bar.get_width() for bar in axes.patches] for axes in picture.axes] == [
        [4500, 528.25],
        [8.578, 0.0912],
    ]
    assert [[text.get_text() for text in axes.texts] for axes in picture.axes] == [
        ["4,500", "528"],
        ["8.58", "0.0912"],
    ]
    assert [label.get_text() for label in picture.axes[0].get_yticklabels()] == ["whole", "zeros"]
    assert picture.alt == "whole: kB 4,500, ms 8.58; zeros: kB 528, ms 0.0912"


def test_weights_that_are_0_are_white():
    p = torch.tensor([[1.0, 0, -2], [0, 0, 0.5]])
    picture = plots.weights({"first": p, "conv": torch.ones(4, 3, 2, 2)}, "half")
    first, conv = (axes.images[0].get_array() for axes in picture.axes)
    assert first.mask.tolist() == [[False, True, False], [True, True, False]]
    assert first.compressed().tolist() == [1, 2, 0.5]
    assert conv.shape == (4, 12)
    assert picture.table["left"].tolist() == [3, 48]
    assert picture.alt == "half; left: 50 % of first, 100 % of conv"
    before = {f"run {i}": {"first": p * 0, "conv": torch.ones(4, 3, 2, 2)} for i in range(3)}
    picture = plots.weights({"first": p, "conv": torch.ones(4, 3, 2, 2)}, "half", before)
    assert [text.get_text() for axes in picture.axes for text in axes.texts if text.get_text()] == [
        "run 2",
        "run 1",
    ]
    assert picture.table["left"].tolist() == [3, 48, 0, 48, 0, 48]


def test_a_single_point_is_seen():
    row = {"seed": 0, "round": 0, "accuracy": 0.5}
    (line, *_) = plots.curves([row], x_max=10).axes[0].lines
    assert line.get_marker() == "o"
    (line, *_) = plots.curves([row, {**row, "round": 1}], x_max=10).axes[0].lines
    assert line.get_marker() == ""


@pytest.mark.slow
def test_estimates_stand_at_their_values_with_their_intervals():
    models, kinds, ways = planner.models(), devices(), links()
    parts = (
        models["Llama 3.2 1B"],
        planner.METHODS["LoRA r=8, q + v"],
        kinds["laptop"],
        ways["home fibre"],
    )
    frame = planner.estimate(*parts)
    picture = plots.cost_estimates(
        frame, 12, "a plan", {"before": planner.estimate(*parts, length=64)}
    )
    memory, sizes, seconds = picture.axes
    held = frame[frame["part"] == "memory"]
    spans = [
        line.get_xdata()
        for line in memory.lines
        if len(line.get_xdata()) == 2 and line.get_linewidth() == 5
    ]
    np.testing.assert_allclose(spans, held[["low", "high"]] / 1e9)
    assert memory.get_title() == "the device has 12 GB"
    assert "rings: before" in picture.get_suptitle()
    colours = {
        row.figure: plots.BASES[row.basis]
        for row in frame[frame["part"] == "seconds of a round"].itertuples()
    }
    drawn = [line.get_color() for line in seconds.lines if line.get_linewidth() == 5]
    assert drawn == list(colours.values())
    assert [label.get_text() for label in sizes.get_yticklabels()] == ["up", "down"]
    assert "memory, weights 2.47e+09 B" in picture.alt


def test_agreement_is_on_the_line():
    table = pd.DataFrame(
        {"what": "bytes", "method": ["a", "b"], "planned": [10.0, 300.0], "measured": [10.0, 200.0]}
    )
    picture = plots.planned_vs_measured(table, "method")
    assert "bytes: off by 50 % at most" in picture.alt
    (axes,) = picture.axes
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points] == [(10, 10), (200, 300)]


def test_who_did_what_when():
    rows = [
        {
            "client": 3,
            "began": 0,
            "fetching": 1,
            "computing": 2,
            "sending": 1,
            "ended": 4,
            "outcome": "used",
        },
        {
            "client": 1,
            "began": 0,
            "fetching": 1,
            "computing": 4,
            "sending": 1,
            "ended": 6,
            "outcome": "used",
        },
        {
            "client": 2,
            "began": 0,
            "fetching": 1,
            "computing": 8,
            "sending": 1,
            "ended": 10,
            "outcome": "late",
        },
        {
            "client": 3,
            "began": 6,
            "fetching": 1,
            "computing": 1,
            "sending": 0,
            "ended": 8,
            "outcome": "lost",
        },
    ]
    picture = plots.gantt(pd.DataFrame(rows), [6, 12], names=list("abcd"))
    axes = picture.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["d  3", "b  1", "c  2"]
    assert axes.get_xlabel() == "seconds by the clock (modelled)"
    assert {text.get_text() for text in axes.texts} == {"late", "lost"}
    bars = [
        (bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in axes.patches
    ]
    assert (0, 4, 2) in [tuple(np.round(bar, 9)) for bar in bars], (
        "client 3 waits from 4 to the step at 6"
    )
    assert sum(width for _, _, width in bars) == pytest.approx(4 + 6 + 10 + 2 + 2 + 0)
    assert "2 used, 1 late, 1 lost" in picture.alt
    hours = plots.gantt(pd.DataFrame(rows).assign(ended=[9e3] * 4))
    assert hours.axes[0].get_xlabel() == "hours by the clock (modelled)"


def test_a_fleet_has_a_dot_a_client():
    devices = draw_fleet(20, {"laptop": 0.5, "phone, flagship": 0.5}, seed=0)
    picture = plots.fleet(devices, "some")
    dots = {trace.name: len(trace.x) for trace in picture.traces}
    assert dots == {"laptop": 10, "phone, flagship": 10}
    assert picture.axes[0].get_xscale() == "log"
    assert picture.alt.startswith('10 "phone, flagship", 10 laptop; ')


def test_a_fleet_lists_its_devices_in_the_order_of_the_tables():
    picture = plots.fleet(draw_fleet(40))
    names = [trace.name for trace in picture.traces]
    assert names == ["phone, entry level", "phone, mid-range", "phone, flagship"]


def test_hours_and_kilojoules_are_axes():
    rows = [
        {
            "seed": 0,
            "round": t,
            "accuracy": 0.1 * t,
            "loss": 1.0,
            "seconds": 1800 * (t > 0),
            "joules": 500.0 * (t > 0),
        }
        for t in range(5)
    ]
    line = plots.curves(pd.DataFrame(rows), "hours").axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [0, 0.5, 1, 1.5, 2]
    picture = plots.curves(pd.DataFrame(rows), "kilojoules")
    assert picture.axes[0].get_lines()[0].get_xdata().tolist() == [0, 0.5, 1, 1.5, 2]
    assert picture.axes[0].get_xlabel() == "kilojoules, all clients (modelled)"
    assert rounds_to(pd.DataFrame(rows), 0.25, at="hours")["hours"].tolist() == pytest.approx(
        [1.25]
    )
