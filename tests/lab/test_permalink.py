"""A setting survives as one line; a line that cannot be taken changes nothing and says why."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_panel import count, make_panel, soon

import fedlab
from fedlab.lab.course import Parameter, read_parameters
from fedlab.lab.course.curriculum import find_lesson
from fedlab.lab.widgets.controls import choice
from fedlab.lab.widgets.dashboard import Dashboard
from fedlab.lab.widgets.permalink import LONGEST, read_setting, write_setting

VERSION = fedlab.__version__
NAMES = st.from_regex(r"[a-z_][a-z_0-9]{0,15}", fullmatch=True)
NUMBERS = st.floats(-1e300, 1e300)


@st.composite
def controls_and_values(draw):
    """Draw controls of all kinds, and an allowed value for each."""
    controls, values = {}, {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=6, unique=True)):
        kind = draw(st.sampled_from(["int", "float", "str", "bool", "list[str]", "list[float]"]))
        options = {
            "int": st.integers(-(10**9), 10**9),
            "float": NUMBERS,
            "str": st.text(max_size=20),
            "bool": st.booleans(),
            "list[str]": st.lists(st.sampled_from(["a", "b, c", "d e"]), min_size=1, max_size=3),
            "list[float]": st.lists(NUMBERS, min_size=1, max_size=3),
        }
        values[name] = draw(options[kind])
        choices = tuple(draw(st.lists(options["str"], max_size=3))) if kind == "str" else ()
        allowed = (values[name], *choices) if kind == "str" else ()
        controls[name] = Parameter(name, kind, values[name], choices=allowed)
    return controls, values


@given(controls_and_values(), st.sampled_from(["", "00 train", "dashboard"]))
def test_what_is_written_is_read_back(drawn, place):
    controls, values = drawn
    line = write_setting("0.1.0", place, values)
    assert "\n" not in line
    assert line.isprintable()
    assert read_setting(line, place, controls) == ("0.1.0", values)
    curly = re.sub('"', "”", f"  `{line}` \n")
    assert read_setting(curly, place, controls) == ("0.1.0", values), "as a chat passes it on"
    assert not set("$`!") & set(line), "a shell would change them"


def complaint(line, controls):
    try:
        read_setting(line, "00 train", controls)
    except ValueError as error:
        return str(error)
    return ""


@given(st.text(max_size=200))
def test_any_text_is_a_setting_or_a_complaint_of_one_short_line(text):
    controls = {"alpha": Parameter("alpha", "float", 1.0, limits=(0.1, 10.0))}
    for line in (text, f"fedlab 0.1.0 00 train:{text}", f'fedlab 0.1.0 00 train: alpha="{text}"'):
        assert len(complaint(line, controls)) < 300


WRONG = {
    "": "must begin with fedlab, a version and a colon",
    "hello": "setting='hello' must begin with fedlab",
    "fedlab 0.1.0 02 divide: alpha=1": r"of this panel, 00 train \(the line is of 02 divide\)",
    "fedlab 0.1.0: alpha=1": "the line is of no lesson",
    "fedlab 0.1.0 00 train: beta=1": "'beta' is none. Try alpha, kind",
    "fedlab 0.1.0 00 train: alpha=1 alpha=2": "must give alpha once",
    "fedlab 0.1.0 00 train: alpha=0": r"alpha=0.0 lies outside 0.1 to 10.0",
    "fedlab 0.1.0 00 train: alpha=many": "alpha='many' is not of type float",
    "fedlab 0.1.0 00 train: alpha=nan": "alpha=nan lies outside",
    "fedlab 0.1.0 00 train: kind=c": "kind='c' is not one of",
    "fedlab 0.1.0 00 train: alpha": "goes on with 'alpha'",
    "fedlab 0.1.0 00 train: alpha=1, kind=a": "alpha='1,' is not of type float",
    'fedlab 0.1.0 00 train: kind="a': "goes on with 'kind=",
    'fedlab 0.1.0 00 train: kind="\\x"': "must have signs like",
    "fedlab 0.1.0 00 train: " + "alpha=1 " * 1300: f"at most {LONGEST} characters",
    "x" * 3000: r"setting='x{59}…' must begin",
}


@pytest.mark.parametrize("line", WRONG, ids=range(len(WRONG)))
def test_a_line_that_cannot_be_taken_says_why(line):
    controls = {
        "alpha": Parameter("alpha", "float", 1.0, limits=(0.1, 10.0)),
        "kind": Parameter("kind", "str", "a", choices=("a", "b")),
    }
    with pytest.raises(ValueError, match=WRONG[line]):
        read_setting(line, "00 train", controls)


def test_controls_that_a_line_leaves_out_are_at_their_defaults():
    controls = {"n": Parameter("n", "int", 5, limits=(1, 9))}
    assert read_setting("fedlab 0.1.0:", "", controls).values == {"n": 5}


def test_every_setting_of_every_lesson_can_be_a_line():
    for number in (f"{n:02}" for n in range(11)):
        parameters = read_parameters(find_lesson(number).path)
        for k in (0, -1):
            values = {
                name: (parameter.choices or parameter.limits)[k]
                for name, parameter in parameters.items()
                if parameter.choices or parameter.limits
            }
            line = write_setting("0.1.0", number, values)
            assert len(line) < 1000
            assert read_setting(line, number, parameters).values.items() >= values.items()


def two_controls(trained):
    def train(n, kind):
        trained.append((n, kind))
        yield from count(n)

    return make_panel(train, kind=choice("a", ["a", "b c"]))


def test_the_field_shows_the_present_setting_and_a_pasted_line_moves_all_controls_at_once():
    trained = []
    panel = two_controls(trained)
    field = panel._link._field
    assert field.value == panel.link == f"fedlab {VERSION} train: n=5 kind=a"
    field.value = f'fedlab {VERSION} train: n=7 kind="b c"'
    panel.wait()
    assert trained == [(7, "b c")], "one run"
    assert panel.settings == {"n": 7, "kind": "b c"}
    assert panel._link.remark == ""
    panel.move(n=6)
    panel.wait()
    assert field.value == f'fedlab {VERSION} train: n=6 kind="b c"'


def test_a_line_of_another_version_is_taken_if_all_of_it_is_possible():
    panel = two_controls([])
    panel._link._field.value = "fedlab 0.0.1 train: n=7"
    panel.wait()
    assert panel.settings == {"n": 7, "kind": "a"}
    assert panel._link.remark == f"taken as it is: fedlab 0.0.1 made it, and this is {VERSION}"
    assert panel._link._field.value == panel.link
    panel._link._field.value = "fedlab 0.0.1 train: n=8 kind=c"
    assert "kind='c' is not one of" in panel._link.remark
    assert panel.settings == {"n": 7, "kind": "a"}


@pytest.mark.parametrize("line", ["rubbish", "x" * 10_240, f"fedlab {VERSION} train: n=8 m=1"])
def test_a_line_that_cannot_be_taken_loses_nothing(line):
    trained = []
    panel = two_controls(trained)
    panel.restart()
    panel.wait()
    status = panel.status
    panel._link._field.value = line
    assert 'role="alert"' in panel._link._remark.value
    assert panel._link._field.value == line, "it can be mended"
    assert (panel.settings, panel.status, trained) == ({"n": 5, "kind": "a"}, status, [(5, "a")])
    panel.move(n=6)
    panel.wait()
    assert panel._link.remark == ""
    assert panel._link._field.value == panel.link


def test_a_line_mends_a_field_that_cannot_be_read():
    panel = two_controls([])
    panel._rows["n"]._field.value = "many"
    panel._link._field.value = f"fedlab {VERSION} train: n=5 kind=a  "
    assert panel.refused == ""
    assert panel._rows["n"]._field.value == "5"


def test_a_line_names_its_lesson_and_panel(tmp_path):
    panel = Dashboard(tmp_path)
    assert panel.link.startswith(f"fedlab {VERSION} dashboard: data_set=digits clients=100 ")
    assert 'model="two hidden layers"' in panel.link
    assert len(panel.link) < 600
    panel._link._field.value = panel.link.replace("FedAvg", "FedAdam").replace("bits=4", "bits=5")
    assert panel.status == "waiting  algorithm=FedAdam  press Run", "bits do nothing"
    panel._link._field.value = f"fedlab {VERSION} 00 train: alpha=1"
    assert "must be of this panel, dashboard (the line is of 00 train)" in panel._link.remark


@pytest.mark.slow
def test_what_was_stopped_is_run_again_after_a_line():
    panel = make_panel(lambda n: count(n, "slow" if n > 100 else "fast"))
    stop = panel._page.stop
    for n in (5000, 4000):
        panel._link._field.value = panel.link.replace(f"n={panel.settings['n']}", f"n={n}")
        soon(lambda: "frame=" in panel.status)
        stop.click()
        assert panel.status.startswith(f"stopped  n={n}")
        assert (stop.description, stop.disabled) == ("Run again", False)
    stop.click()
    soon(lambda: panel.status.startswith("running  n=4000  frame="))
    stop.click()
    panel._link._field.value = panel.link.replace("n=4000", "n=5")
    panel.wait()
    assert panel.status.startswith("done  n=5")
    panel._link._field.value = panel.link.replace("n=5", "n=4000")
    assert panel.status.startswith("running  n=4000")
    stop.click()
    panel.wait()
