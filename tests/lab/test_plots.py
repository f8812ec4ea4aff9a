import numpy as np
import pandas as pd
import pytest

from fedlab.comparison import compare
from fedlab.data import dirichlet, load
from fedlab.lab import plots
from fedlab.run import run
from fedlab.server import fedavg


@pytest.fixture(scope="module")
def result(short):
    return compare(short, algorithm={"FedAvg": fedavg(), "half steps": fedavg(0.5)}, seeds=3)


def test_line_is_the_mean_and_band_the_range(result):
    axes = plots.curves(result, hue="algorithm").axes[0]
    table = result.rounds[result.rounds["algorithm"] == "FedAvg"].groupby("round")["accuracy"]
    line = axes.lines[0]
    np.testing.assert_allclose(line.get_ydata(), table.mean())
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(table.max().max())
    assert band.min() == pytest.approx(table.min().min())
    assert line.get_color() == plots.COLOURS["FedAvg"]
    assert {"FedAvg", "half steps"} <= {text.get_text() for text in axes.texts}
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_megabytes_add_up(result):
    axes = plots.curves(result, x="megabytes", hue="algorithm").axes[0]
    rounds = result.rounds[result.rounds["algorithm"] == "FedAvg"]
    total = (rounds["bytes_up"] + rounds["bytes_down"]).sum() / 3 / 1e6
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(total)


def test_a_method_has_one_colour_everywhere(short):
    result = run(short, seeds=2)
    assert plots.curves(result).axes[0].lines[0].get_color() == plots.COLOURS["FedAvg"]
    named = result.rounds.assign(training="alone")
    assert plots.curves(named, hue="training").axes[0].lines[0].get_color() == plots.COLOURS["alone"]


def test_partition_bars_are_the_counts():
    data = load("digits", 60, dirichlet(0.05))
    picture = plots.partition(data)
    heights = np.array([bar.get_height() for bar in picture.axes[0].patches]).reshape(10, 60).T
    assert (heights == data.counts()).all()
    empty = int((data.sizes == 0).sum())
    assert (
        picture.alt == f"60 clients hold {data.sizes.min()} to {data.sizes.max()} examples each; {empty} of them hold none"
    )


def test_against_a_setting():
    table = pd.DataFrame(
        {"alpha": [0.1, 0.1, 10, 10], "seed": [0, 1, 0, 1], "accuracy": [0.2, 0.4, 0.8, 0.9], "who": "FedAvg"}
    )
    axes = plots.against(table, "alpha", "accuracy", hue="who").axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.3, 0.85])
    assert axes.get_xscale() == "log"


def test_pictures_show_themselves_with_words(short):
    picture = plots.curves(run(short))
    data, about = picture._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert about["image/png"]["alt"] == data["text/plain"] == picture.alt
    assert "accuracy" in picture.alt
    assert picture.png() == picture.png(), "the same picture is the same bytes"


def test_labels_do_not_touch():
    many = pd.concat([pd.DataFrame({"who": f"m{k}", "seed": 0, "round": [0, 1], "accuracy": 0.5}) for k in range(6)])
    many = many.assign(bytes_up=0, bytes_down=0)[["who", "seed", "round", "accuracy", "bytes_up", "bytes_down"]]
    axes = plots.curves(many, hue="who").axes[0]
    heights = sorted(text.xy[1] for text in axes.texts)
    assert min(np.diff(heights)) > 0.06
