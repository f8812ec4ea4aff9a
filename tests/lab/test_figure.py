"""Pictures as parts of a page: what is drawn, where its points are, in both themes."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.ticker import MaxNLocator

from fedlab.lab import plots
from fedlab.lab.plots import figure_html
from fedlab.lab.plots.figure import dark_colour
from fedlab.lab.plots.picture import PICTURE
from fedlab.lab.plots.style import CLIENT_COLOURS
from fedlab.lab.widgets.pictures import numbers_html


def rising(slope, rounds=11, seeds=2):
    return [
        {"seed": s, "round": t, "accuracy": slope * t + 0.01 * s}
        for s in range(seeds)
        for t in range(rounds)
    ]


@pytest.fixture
def picture():
    earlier = {f"alpha={k}": rising(0.01 * k, rounds=5 + k) for k in range(1, 6)}
    return plots.curves(rising(0.09), earlier=earlier, x_max=20)


def shown_parts(picture):
    return parts(figure_html(picture))


def parts(html):
    """Return the SVG as a tree, the names' buttons and the points of the script."""
    svg = re.search(r"<svg role.*?</svg>(?=<div|</div>)", html, re.DOTALL)[0]
    svg = svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    points = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1]
    return ElementTree.fromstring(svg), re.findall(r"<button.*?</button>", html), json.loads(points)


def test_points_lie_on_the_drawn_curves(picture):
    svg, _, runs = parts(figure_html(picture))
    assert [run["name"] for run in runs] == [*(f"alpha={k}" for k in range(1, 6)), "now"]
    drawn = [part for part in svg.iter("g") if part.get("data-run") == "5"]
    (path,) = [p for part in drawn for p in part.iter("path") if "none" in (p.get("style") or "")]
    ends = np.array(re.findall(r"[-\d.]+", path.get("d")), dtype=float).reshape(-1, 2)
    points = np.array([point[:2] for point in runs[5]["points"]])
    np.testing.assert_allclose(points[[0, -1]], ends[[0, -1]], atol=0.2)
    assert runs[5]["points"][-1][2] == "round 10\naccuracy 0.905 (0.9 to 0.91)"


def test_every_run_has_its_own_colour_and_line(picture):
    looks = {(str(trace.colour), str(trace.line)) for trace in picture.traces}
    assert len(looks) == len({look[0] for look in looks}) == len(picture.traces) == 6


def test_names_are_buttons_at_the_ends_of_their_curves(picture):
    html = figure_html(picture)
    _, buttons, _ = parts(html)
    assert [re.search(r"<span>(.*?)</span>", button)[1] for button in buttons] == [
        *(f"alpha={k}" for k in range(1, 6)),
        "now",
    ]
    tops = [float(re.search(r"--place: ([\d.]+)%", button)[1]) for button in buttons]
    assert tops == sorted(tops, reverse=True), "from the lowest curve to the highest"
    assert 'aria-label="accuracy against round, 2 seeds' in html


def test_names_cannot_leave_their_place():
    rows = [{"seed": 0, "round": t, "accuracy": 0.5, "of": '</script><b a="'} for t in range(3)]
    html = figure_html(plots.curves(rows, hue="of"))
    assert "</script><b" not in html
    assert parts(html)[2][0]["name"] == '</script><b a="'


def test_a_picture_is_the_same_after_its_html(picture):
    before = picture.png()
    figure_html(picture)
    assert picture.png() == before
    assert figure_html(picture) == figure_html(picture)


def test_both_themes(picture):
    html = figure_html(picture)
    colours = re.findall(r"(?:fill|stroke): (#[0-9a-f]{6}); (?:fill|stroke): light-dark", html)
    assert len(colours) == len(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", html))
    assert "#ffffff;" not in html, "the paper is that of the page"
    assert dark_colour("#ffffff") < "#202020" < "#d0d0d0" < dark_colour("#000000")
    assert dark_colour("#0072b2") != "#0072b2"


def test_a_picture_drawn_by_hand_answers_the_pointer_by_its_labels():
    picture = plots.Picture("by hand")
    axes = plots.style_axes(picture.subplots(), "step", "loss")
    axes.plot([1, 2], [3, 4], label="measured")
    axes.plot([1, 2], [3, 4])
    axes.bar([1, 2], [2, 4], label="bars")
    *_, runs = parts(figure_html(picture))
    assert [(run["name"], len(run["points"])) for run in runs] == [("measured", 2), ("bars", 2)]
    assert runs[0]["points"][1][2] == "step: 2\nloss: 4"


def test_a_bar_tells_its_length_and_its_row():
    table = pd.DataFrame(
        {"header": [40, 40], "indices": [0, 9], "values": [1000, 91]}, ["dense", "top 1 %"]
    )
    *_, runs = shown_parts(plots.bytes_by_part(table))
    texts = {run["name"]: [point[2] for point in run["points"]] for run in runs}
    assert texts["header"] == [
        "dense\nbytes of one message: 40",
        "top 1 %\nbytes of one message: 40",
    ]
    assert texts["values"][0] == "dense\nbytes of one message: 1,000"
    (bars,) = shown_parts(plots.bars(pd.DataFrame({"kB": [4500.0, 8.0]}, index=["all", "few"])))[2]
    assert [point[2] for point in bars["points"]] == ["all\n4,500", "few\n8"]


@pytest.mark.parametrize(("draw", "text"), [("bar", "x: 2\ny: 7"), ("barh", "x: 7\ny: 2")])
def test_a_bar_drawn_by_hand_tells_its_length(draw, text):
    picture = plots.Picture("bars")
    axes = plots.style_axes(picture.subplots(), "x", "y")
    start = "left" if draw == "barh" else "bottom"
    getattr(axes, draw)([1, 2], [3, 7], label="upper", **{start: [10, 20]})
    (run,) = shown_parts(picture)[2]
    assert run["points"][1][2] == text


def test_every_labelled_kind_of_drawing_can_be_shown():
    picture = plots.Picture("by hand")
    axes = picture.subplots()
    axes.errorbar([1, 2], [3, 4], yerr=0.5, label="errors")
    axes.stem([1, 2], [1, 2], label="stems")
    axes.axhline(2.5, label="a level")
    axes.fill_between([1, 2], [1, 1], [2, 2], label="a band")
    counts = {run["name"]: len(run["points"]) for run in shown_parts(picture)[2]}
    assert counts == {"errors": 2, "stems": 2, "a level": 0, "a band": 0}
    words = plots.Picture("words and days")
    above, below = words.subplots(2, 1)
    above.plot(["a", "b"], [1, 2], label="words")
    below.plot(np.array(["2026-01-01", "2026-01-02"], "datetime64[D]"), [1, 2], label="days")
    svg, _, runs = shown_parts(words)
    width = float(svg.get("viewBox").split()[2])
    assert all(0 < point[0] < width for run in runs for point in run["points"])
    assert [len(run["points"]) for run in runs] == [2, 2]


def test_an_earlier_run_of_several_curves_has_one_name_and_looks_like_no_present_one():
    rows = [row | {"of": name} for name in ("iid", "skewed") for row in rising(0.05)]
    earlier = {f"alpha={k}": rows for k in range(6)}
    picture = plots.curves(rows, hue="of", earlier=earlier)
    names = [trace.name for trace, _ in picture.name_places]
    assert sorted(names) == sorted([*earlier, "iid", "skewed"])
    looks = [(trace.colour, str(trace.line)) for trace in picture.traces]
    assert len(set(looks)) == len(looks) == 14
    before = [trace for trace in picture.traces if trace.name in earlier]
    assert all(trace.line != "-" for trace in before)
    every_method = {*plots.COLOURS.values(), *CLIENT_COLOURS}
    assert not {trace.colour for trace in before} & every_method


def test_what_is_not_finite_has_no_point():
    picture = plots.Picture("with a gap")
    picture.subplots().plot([1, 2, 3], [1, np.nan, 2], label="line")
    assert len(parts(figure_html(picture))[2][0]["points"]) == 2


def test_numbers_have_a_column_per_run(picture):
    html = numbers_html(picture)
    names = [f"alpha={k}" for k in range(1, 6)]
    assert re.findall("<th>(.*?)</th>", html) == ["round", "now", *names]
    rows = np.array(re.findall("<td>(.*?)</td>", html)).reshape(-1, 7)
    assert rows[:, 0].tolist() == [str(t) for t in range(11)]
    assert rows[:, 1].astype(float) == pytest.approx(0.09 * np.arange(11) + 0.005, rel=1e-3)
    assert (rows[:, 2] != "–").tolist() == [True] * 6 + [False] * 5


def test_runs_at_hours_of_their_own_have_a_column_of_them():
    rows = [{"seed": 0, "round": t, "accuracy": 0.1 * t, "seconds": 3600.0} for t in range(4)]
    numbers = plots.curves(rows, x="hours", earlier={"before": rows[:2]}).numbers
    assert list(numbers) == ["now: hours", "now", "before: hours", "before"]
    assert numbers["before"].count() == 2


@pytest.mark.parametrize("rounds", [2, 3, 7, 40])
def test_ticks_of_counted_things_are_whole(rounds):
    axes = plots.curves(rising(0.01, rounds=rounds)).axes[0]
    assert isinstance(axes.xaxis.get_major_locator(), MaxNLocator)
    ticks = axes.get_xticks()
    assert np.array_equal(ticks, ticks.round())


def test_a_report_takes_the_live_picture(picture, monkeypatch):
    monkeypatch.delenv("FEDLAB_HEADLESS", raising=False)
    assert PICTURE not in picture._repr_mimebundle_()[0]
    monkeypatch.setenv("FEDLAB_HEADLESS", "1")
    assert picture._repr_mimebundle_()[0][PICTURE]["figure"] == figure_html(picture)
