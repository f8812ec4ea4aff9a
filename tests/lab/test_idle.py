"""Controls that do nothing at a setting are greyed out, and moving one there changes nothing."""

import json
from pathlib import Path

import pytest
from small_panel import count, make_panel

from fedlab.lab import widgets
from fedlab.lab.widgets.composer import CONTROLS, TABLES, only_if, program
from fedlab.lab.widgets.controls import choice, slider
from fedlab.lab.widgets.dashboard import Dashboard

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SPLIT = {"pieces": {"split": ["shards", "classes"]}}


def splits(trained=None, **extra):
    def train(n, split, pieces):
        if trained is not None:
            trained.append((n, split, pieces))
        yield from count(n)

    return make_panel(
        train,
        split=choice("iid", ["iid", "shards", "classes"]),
        pieces=slider(2, 1, 10, help="how many"),
        only_if=SPLIT,
        **extra,
    )


def test_a_control_that_does_nothing_is_greyed_out_with_the_reason():
    panel = splits()
    row = panel._rows["pieces"]
    assert row._help.value == row.idle == "only if split is shards or classes"
    assert row._field.disabled
    assert row._slider.disabled
    panel.move(split="shards")
    assert (row._help.value, row.idle) == ("how many", "")
    assert not row._field.disabled
    assert not row._slider.disabled
    panel.wait()


def test_settings_that_differ_in_nothing_that_counts_are_one_run():
    trained = []
    panel = splits(trained)
    panel.restart()
    panel.wait()
    panel.move(pieces=5)
    panel.wait()
    assert trained == [(5, "iid", 2)]
    assert panel.status == "done  n=5  split=iid  frame=4  half=2  (seen before)"
    assert panel.picture.alt == "frame 4, earlier [], expected {}"
    panel.move(split="shards")
    panel.wait()
    assert trained[-1] == (5, "shards", 5)
    assert panel.status.startswith("done  n=5  split=shards  pieces=5  ")
    assert panel.picture.alt == "frame 4, earlier [('split=iid', 4)], expected {}"
    assert panel.settings == {"n": 5, "split": "shards", "pieces": 5}


def test_all_controls_move_at_once():
    trained = []
    panel = splits(trained)
    panel.move(n=7, split="shards", pieces=4)
    panel.wait()
    assert trained == [(7, "shards", 4)]


def test_text_that_cannot_be_read_does_not_outlive_its_control():
    panel = splits()
    panel.move(split="shards")
    panel._rows["pieces"]._field.value = "many"
    assert panel.refused
    panel.move(split="iid")
    assert panel._rows["pieces"]._field.value == "2"
    assert panel.refused == ""
    panel.wait()


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"parts": {"split": ["shards"]}}, "must name controls, and 'parts' is none. Try one of n"),
        ({"pieces": {"parts": ["shards"]}}, "must name controls, and 'parts' is none"),
        ({"pieces": {}}, "must name a control that 'pieces' depends on"),
        ({"pieces": {"split": []}}, r"must list values. Try \['iid'\]"),
        ({"pieces": {"split": "shards"}}, r"must list values. Try \['iid'\]"),
        ({"pieces": {"split": ["shreds"]}}, "split='shreds' is not one of"),
        ({"pieces": {"n": [0]}}, "n=0 lies outside 1 to 10000"),
        ({"pieces": {"split": ["iid"]}, "n": {"pieces": [2]}}, "'pieces' has a condition, too"),
    ],
)
def test_conditions_are_checked(declared, says):
    kinds = {"split": choice("iid", ["iid", "shards"]), "pieces": slider(2, 1, 10)}
    with pytest.raises(ValueError, match=says):
        make_panel(only_if=declared, **kinds)


def test_a_setting_to_compare_with_has_to_count():
    with pytest.raises(ValueError, match="differs from it only in controls that do nothing"):
        splits(compare_with={"pieces": 3})


def other_values(parameter):
    """Return a few values of a control beside its default."""
    return [value for value in parameter.choices or parameter.limits if value != parameter.default]


def test_idle_controls_of_the_dashboard_are_the_ones_that_its_program_does_not_name(tmp_path):
    """Every control is checked at every choice of every list."""
    panel = Dashboard(tmp_path)
    defaults = {name: parameter.default for name, parameter in CONTROLS.items()}
    assert set(only_if()) == {
        *("alpha", "pieces", "sigma", "width", "server_lr", "mu"),
        *("sparsity", "share", "bits", "rank"),
    }
    for name, value in ((name, value) for name, table in TABLES.items() for value in table):
        settings = defaults | {name: value}
        counts = panel._page.effective(settings)
        for control in CONTROLS.keys() - {name}:
            same = {
                program(**settings | {control: moved}) == program(**settings)
                for moved in other_values(CONTROLS[control])
            }
            assert same == {control not in counts}, f"{control} at {name}={value}"


@pytest.mark.slow
def test_a_run_of_the_dashboard_is_kept_although_an_idle_control_was_moved(tmp_path):
    panel = Dashboard(tmp_path / "kept")
    panel.move(rounds=2, clients=20, cohort=5)
    panel.restart()
    panel.wait()
    panel.move(rank=9)
    panel.wait()
    assert panel.status.endswith("(seen before)")
    assert panel.keep("same") == "kept in kept/same"


def panels_of(name, names, last):
    """Run the cells that panel ``last`` of a notebook needs; return how each panel was made."""
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = {
        at: "".join(cell["source"]) for at, cell in enumerate(cells) if cell["cell_type"] == "code"
    }
    panels = [at for at, source in sources.items() if "\nPanel(" in source][: last + 1]
    wanted, chosen = set(), []
    for at in reversed([at for at in sources if at <= panels[-1]]):
        defined, used = names(sources[at])
        if at in panels or defined & wanted:
            chosen.append(sources[at])
            wanted = (wanted - defined) | used
    variables: dict = {}
    for source in chosen[::-1]:
        exec(source, variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "k"),
    [
        ("02_non_iid", 0),
        ("04_communication", 0),
        ("06_large_models", 0),
        ("07_billions", 0),
        ("08_devices", 0),
        ("09_async_incremental", 1),
    ],
)
def test_moving_an_idle_control_of_a_lesson_changes_nothing(name, k, names, monkeypatch):
    made = []

    class Recorded(widgets.panel.Panel):
        def __init__(self, *functions, **how):
            super().__init__(*functions, **how)
            made.append((self, how.get("only_if", {})))

    monkeypatch.setattr(widgets, "Panel", Recorded, raising=False)
    monkeypatch.chdir(NOTEBOOKS)
    panels_of(name, names, k)
    panel, conditions = made[-1]
    assert conditions
    functions = panel._runner.functions

    def outcome(settings):
        *_, frame = functions.train(**settings)
        return dict(functions.tell(frame))

    for control, wanted in conditions.items():
        ((decider, values),) = wanted.items()
        idle_at = [v for v in panel._rows[decider].parameter.choices if v not in values]
        assert idle_at
        for at in idle_at if k == 0 and name != "06_large_models" else idle_at[:1]:
            settings = panel.settings | {decider: at}
            assert control not in panel._page.effective(settings)
            before = outcome(settings)
            for value in other_values(panel._rows[control].parameter)[:2]:
                assert outcome(settings | {control: value}) == before
