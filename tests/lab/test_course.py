"""Notebooks declare their question, prerequisites and parameters; mistakes are named."""

import json
import sys

import pytest

from fedlab.lab.course import (
    course_map,
    course_table,
    find_lesson,
    list_lessons,
    list_options,
    parse_value,
    preflight,
    read_parameters,
)
from fedlab.system import draw_fleet
from fedlab.system.devices import client_devices


def lesson(path, title="A title", parameters="", **about):
    about = {"question": "Why?", "minutes": 2, "after": []} | about
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["Before.\n", f"# {title}\n", "After."]}
    ]
    if parameters:
        cells.append(
            {
                "cell_type": "code",
                "metadata": {"tags": ["parameters"]},
                "outputs": [],
                "execution_count": None,
                "source": parameters,
            }
        )
    about = {key: value for key, value in about.items() if value is not None}
    nb = {"cells": cells, "metadata": {"fedlab": about}, "nbformat": 4, "nbformat_minor": 4}
    path.write_text(json.dumps(nb), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    lesson(tmp_path / "01_second.ipynb", "The second", after=["00_first"], minutes=1.5)
    lesson(tmp_path / "00_first.ipynb", "The first  ##", question="What?")
    lesson(tmp_path / "notes.ipynb")
    return tmp_path


def test_lessons_in_order(folder):
    first, second = list_lessons(folder)
    assert (first.name, first.number, first.title, first.question, first.minutes, first.after) == (
        "00_first",
        "00",
        "The first",
        "What?",
        2,
        (),
    )
    assert (second.title, second.minutes, second.after) == ("The second", 1.5, ("00_first",))
    assert second.path == folder / "01_second.ipynb"


def test_the_projects_own_course_can_be_read():
    lessons = list_lessons()
    assert [item.number for item in lessons] == sorted({item.number for item in lessons})
    assert all(read_parameters(item.path) for item in lessons)


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "06"])
def test_five_clients_are_enough_where_data_are_divided(number):
    lesson = next(item for item in list_lessons() if item.number == number)
    assert parse_value(read_parameters(lesson.path)["clients"], "5", "") == 5
    assert "min(clients_per_round, clients)" in lesson.path.read_text(), (
        "of five clients ten cannot take part"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("question", None), ("minutes", "two"), ("after", "00_first"), ("question", 3)],
)
def test_missing_metadata_is_named(folder, key, value):
    lesson(folder / "02_third.ipynb", **{key: value})
    with pytest.raises(ValueError, match=rf"02_third.ipynb.*fedlab\.{key}"):
        list_lessons(folder)


@pytest.mark.parametrize("after", ["02_third", "03_later", "nowhere"])
def test_prerequisites_come_before(folder, after):
    lesson(folder / "02_third.ipynb", after=[after])
    lesson(folder / "03_later.ipynb")
    with pytest.raises(ValueError, match=rf"02_third.ipynb.*'{after}'"):
        list_lessons(folder)


def test_what_is_no_notebook_is_named(folder):
    (folder / "02_third.ipynb").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"02_third\.ipynb: not a notebook"):
        list_lessons(folder)
    lesson(folder / "02_third.ipynb", title="")
    with pytest.raises(ValueError, match=r"02_third\.ipynb: no title"):
        list_lessons(folder)


def test_an_empty_folder_is_no_course(tmp_path):
    with pytest.raises(ValueError, match="no notebook there"):
        list_lessons(tmp_path)


def test_table(folder):
    table = course_table(folder)
    assert list(table.reset_index().columns) == [
        "number",
        "title",
        "question",
        "minutes to run",
        "after",
    ]
    assert list(table.loc["01"]) == ["The second", "Why?", "1.5", "00_first"]


@pytest.mark.parametrize("count", [1, 2, 17])
def test_map_has_a_box_a_notebook_and_no_shortcut(tmp_path, count):
    names = [f"{n:02d}_n" for n in range(count)]
    for n, name in enumerate(names):
        lesson(
            tmp_path / f"{name}.ipynb", f"Number {n}", after=names[max(0, n - 2) : n]
        )  # from the last two: one is a shortcut
    picture = course_map(tmp_path)
    words = [text.get_text() for text in picture.axes[0].texts]
    arrows = [
        patch for patch in picture.axes[0].patches if type(patch).__name__ == "FancyArrowPatch"
    ]
    assert [f"Number {n}" in words for n in range(count)] == [True] * count
    assert len(arrows) == count - 1
    assert picture.png(dpi=30).startswith(b"\x89PNG")


def test_map_boxes_do_not_overlap(tmp_path):
    for n in range(9):
        lesson(tmp_path / f"{n:02d}_n.ipynb", after=["00_n"] if n else [])
    picture = course_map(tmp_path)
    picture.draw_without_rendering()
    boxes = [
        p.get_window_extent()
        for p in picture.axes[0].patches
        if type(p).__name__ == "FancyBboxPatch"
    ]
    assert len(boxes) == 9
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_preflight_tells_this_machine():
    table = preflight()["value"]
    assert table["python"] == ".".join(map(str, sys.version_info[:3]))
    assert sys.prefix not in " ".join(table), "nothing that names who runs it"
    assert int(table["processor cores usable"]) >= 1
    assert 0 < float(table["memory available, GB"]) <= float(table["memory, GB"])
    assert {
        "torch",
        "transformers",
        "jupyterlab",
        "papermill",
        "ipywidgets",
        "fedlab",
        "GPU",
        "torch threads",
    } <= set(table.index)


GOOD = """\
alpha: float = 1  # [0.01 to 1000] how even
rounds: int = 10  # [1 to 100] how many
scale: str = "fast"  # [fast | full] how long
tied: bool = True  # [true | False] whether weights are tied
angle: int = 60  # [0 to 90, degrees] between the valleys
rate: float = 0.1  # [0.001 to 10, log, m/s] step size, set with rate=1
# a line of its own
kind: str = "b"  # [a | b
# | c d] of which
rates: list[float] = [0.1, 1]  # [0 to 10] what is tried
note: str = "a [b] c"  # a row [m, d] of words
"""


def test_parameters_are_read(tmp_path):
    parameters = read_parameters(lesson(tmp_path / "00_a.ipynb", parameters=GOOD))
    assert list(parameters) == [
        "alpha",
        "rounds",
        "scale",
        "tied",
        "angle",
        "rate",
        "kind",
        "rates",
        "note",
    ]
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "alpha": 1.0, "rounds": 10, "scale": "fast", "tied": True, "angle": 60, "rate": 0.1,
        "kind": "b", "rates": [0.1, 1.0], "note": "a [b] c",
    }  # fmt: skip
    assert type(parameters["alpha"].default) is float
    assert parameters["alpha"].limits == (0.01, 1000)
    assert parameters["scale"].choices == ("fast", "full")
    assert parameters["tied"].choices == (True, False)
    assert (parameters["angle"].unit, parameters["angle"].log, parameters["angle"].comment) == (
        "degrees",
        False,
        "between the valleys",
    )
    assert (parameters["rate"].limits, parameters["rate"].unit, parameters["rate"].log) == (
        (0.001, 10.0),
        "m/s",
        True,
    )
    assert (parameters["kind"].choices, parameters["kind"].comment) == (
        ("a", "b", "c d"),
        "of which",
    )
    assert (parameters["scale"].comment, parameters["note"].comment) == (
        "how long",
        "a row [m, d] of words",
    )
    assert read_parameters(lesson(tmp_path / "00_b.ipynb")) == {}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("alpha = 1.0  # how even", "alpha needs an annotation"),
        ("alpha: dict = {}  # how even", "alpha needs an annotation"),
        ("alpha: float = 1.0", "alpha needs a comment"),
        ("alpha: float | None = None  # how even", "alpha needs an annotation"),
        ("alpha: float  # how even", "plain default"),
        ("print('hello')  # how even", "'hello.*is no parameter"),
        ("alpha: float = -1.0  # [-2 to 2, log] how even", "limits like"),
        ("alpha: int = 1.5  # how even", "alpha=1.5 is not of type int"),
        ("alpha: int = True  # how even", "alpha=True is not of type int"),
        ("alpha: float = 1.0 + x  # how even", "plain default"),
        ("alpha: float = 5.0  # [6 to 9] how even", "lies outside 6.0 to 9.0"),
        ("alpha: float = 5.0  # [9 to 6] how even", "limits like"),
        ("alpha: str = 'b'  # [a to c] how even", "limits like"),
        ('alpha: str = "slow"  # [fast | full] how long', "'slow' is not one of fast, full"),
        ("alpha: float = = 1", "invalid syntax"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_mistakes_in_parameters_are_named(tmp_path, line, says):
    with pytest.raises(ValueError, match=says) as refused:
        read_parameters(lesson(tmp_path / "00_a.ipynb", parameters=f"# first\n{line}\n"))
    assert "00_a.ipynb, cell 1" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("alpha", "3", 3.0), ("alpha", "1e-2", 0.01), ("rounds", "100", 100),
        ("scale", "full", "full"), ("tied", "False", False), ("tied", "true", True),
        ("rates", "1,2.5", [1.0, 2.5]), ("rates", "[3]", [3.0]),
    ],
)  # fmt: skip
def test_values_are_parsed_by_annotation(tmp_path, name, text, value):
    parsed = parse_value(
        read_parameters(lesson(tmp_path / "00_a.ipynb", parameters=GOOD))[name], text, "00_a"
    )
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("alpha", "x", "alpha='x' is not of type float"),
        ("alpha", "nan", "lies outside"),
        ("rounds", "1.5", "not of type int"),
        ("rounds", "0", "rounds=0 lies outside 1 to 100"),
        ("scale", "ful", "did you mean full"),
        ("tied", "1", "not of type bool"),
        ("rates", "1,20", "20.0 lies outside 0.0 to 10.0"),
        ("rates", "1;2", "not of type list"),
    ],
)
def test_bad_values_are_named(tmp_path, name, text, says):
    parameter = read_parameters(lesson(tmp_path / "00_a.ipynb", parameters=GOOD))[name]
    with pytest.raises(ValueError, match=says) as refused:
        parse_value(parameter, text, "00_a")
    assert str(refused.value).startswith("00_a: ")


def test_known_suggests():
    assert list_options("alpa", ["alpha", "rounds"]) == "alpha, rounds; did you mean alpha?"
    assert list_options("zzz", ["alpha"]) == "alpha"
    quoted = 'laptop, "phone, flagship"; did you mean "phone, flagship"?'
    assert list_options("flagship phone", ["laptop", "phone, flagship"]) == quoted


@pytest.mark.parametrize("number", ["07", "10"])
def test_lessons_offer_the_devices_of_the_tables(number):
    parameter = read_parameters(find_lesson(number).path)["device"]
    assert parameter.choices == tuple(client_devices())
    with pytest.raises(ValueError, match='"phone, entry level", "phone, mid-range"') as refused:
        parse_value(parameter, "flagship phone", number)
    assert str(refused.value).endswith('did you mean "phone, flagship"?')


def test_a_fleet_is_of_the_devices_that_lessons_offer():
    assert set(draw_fleet(40).device) < set(client_devices())
