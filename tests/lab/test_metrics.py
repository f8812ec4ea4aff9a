"""A recorded number is read back from the notebook, and checked against its limits."""

import json
import math

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fedlab.lab.report.metrics import MIME, find_changes, format_number, read_metrics, record
from fedlab.lab.report.validate import drop_expectations


def executed(*recorded):
    outputs = [
        {"output_type": "display_data", "data": metric._repr_mimebundle_()} for metric in recorded
    ]
    stream = {"output_type": "stream", "name": "stdout", "text": "noise"}
    return {
        "cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": [stream, *outputs]}]
    }


def test_says_mean_range_and_verdict():
    metric = record("accuracy at round 100", [0.88, 0.893, 0.885], expected=(0.85, 1))
    assert (
        str(metric)
        == "accuracy at round 100: 0.886 (0.880 to 0.893 over 3 seeds), expected 0.85 to 1: holds"
    )
    assert (
        str(record("loss", 2.0, unit="nats", expected=(0, 1)))
        == "loss: 2 nats, expected 0 to 1: does not hold"
    )
    assert str(record("size", 6_738_415_616)) == "size: 6,738,415,616"


def test_file_form_is_json_with_six_digits():
    entry = record(
        "a", [1 / 3, 2 / 3], unit="s", expected=(0, 1), tolerance=0.1, headline=True
    ).as_dict()
    assert entry == json.loads(json.dumps(entry, allow_nan=False))
    assert entry["mean"] == 0.5
    assert entry["values"] == [0.333333, 0.666667]
    assert (entry["low"], entry["high"], entry["sd"]) == (0.333333, 0.666667, 0.235702)
    assert (
        entry["seeds"],
        entry["expected"],
        entry["tolerance"],
        entry["headline"],
        entry["pass"],
    ) == (
        2,
        [0, 1],
        0.1,
        True,
        True,
    )


def test_whole_numbers_stay_exact():
    assert (
        record("d", 6_738_415_616, expected=(6_738_415_616, 6_738_415_616)).as_dict()["mean"]
        == 6_738_415_616
    )


@pytest.mark.parametrize("values", [math.nan, [0.9, math.nan], math.inf])
@pytest.mark.parametrize("expected", [None, (0, 1), (-math.inf, math.inf)])
def test_no_number_never_passes(values, expected):
    metric = record("a", values, expected=expected)
    assert not metric.holds
    json.dumps(metric.as_dict() | {"expected": None}, allow_nan=False)
    assert "not a number" in str(metric)


def test_judged_before_rounding():
    assert not record("a", 0.99999999, expected=(1, 2)).holds


@pytest.mark.parametrize(
    ("value", "tolerance"), [(0.5, 0.02), (-0.5, 0.02), (100.0, 2.0), (math.nan, 0.02)]
)
def test_default_tolerance(value, tolerance):
    assert record("a", value).tolerance == tolerance


def test_takes_what_libraries_give():
    import numpy as np
    import pandas as pd
    import torch

    for values in (
        np.array([1.0, 2.0]),
        pd.Series([1.0, 2.0], index=[7, 9]),
        torch.tensor([1.0, 2.0]),
        (1, 2),
    ):
        assert record("a", values).values == (1.0, 2.0)
    for value in (np.float64(3), torch.tensor(3.0), 3):
        assert record("a", value).values == (3.0,)


@pytest.mark.parametrize(
    ("name", "values", "more", "says"),
    [
        ("", 1.0, {}, "must be a name and"),
        ("a", [], {}, "at least one value"),
        ("a", 1.0, {"expected": (2, 1)}, "lower limit"),
        ("a", 1.0, {"tolerance": -1}, "tolerance=-1"),
        ("a", 1.0, {"tolerance": math.nan}, "tolerance=nan"),
    ],
)
def test_refuses(name, values, more, says):
    with pytest.raises(ValueError, match=says):
        record(name, values, **more)


def test_read_in_order_and_no_name_twice():
    a, b = record("a", 1.0), record("b", 2.0)
    assert [metric["name"] for metric in read_metrics(executed(b, a))] == ["b", "a"]
    assert read_metrics({"cells": []}) == []
    with pytest.raises(ValueError, match="'a' is recorded 2 times"):
        read_metrics(executed(a, b, a))


def test_moved_beyond_tolerance():
    before = [record("a", 0.5).as_dict(), record("b", 1.0).as_dict()]
    assert find_changes(before, [record("a", 0.52).as_dict(), record("b", 1.0).as_dict()]) == []
    (line,) = find_changes(before, [record("a", 0.53).as_dict(), record("b", 1.0).as_dict()])
    assert line == "'a' has moved: committed 0.5, now 0.53, tolerance 0.02"
    assert find_changes(before, before[:1]) == ["'b' is committed and no longer recorded"]
    assert find_changes(before[:1], before) == ["'b' is recorded and not committed"]
    assert find_changes(before[:1], [record("a", math.nan).as_dict()]) == [
        "'a' has moved: committed 0.5, now None, tolerance 0.02"
    ]


def test_a_metric_of_another_setting_has_nothing_expected_of_it():
    cell = new_code_cell(
        "x",
        outputs=[
            new_output("display_data", record("a", 0.5, expected=(0.8, 1))._repr_mimebundle_())
        ],
    )
    drop_expectations(new_notebook(cells=[cell]))
    data = cell.outputs[0].data
    assert (data[MIME]["expected"], data[MIME]["pass"]) == (None, None)
    assert data["text/plain"] == "a: 0.500"
    assert "0.8" not in data["text/html"]


def test_page_escapes_names():
    assert "<script>" not in record("<script>", 1.0)._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.8800001, "0.880"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (1e-9, "1.00e-09"),
        (-0.05, "-0.0500"),
        (None, "not a number"),
    ],
)
def test_numbers_for_people(value, text):
    assert format_number(value) == text
