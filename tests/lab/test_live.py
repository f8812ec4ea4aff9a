"""Live reports: states within a budget, packed into the page, failures as a line."""

import json
import re
import threading
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fedlab.lab.course import list_lessons, load_notebook
from fedlab.lab.course.parameters import Parameter
from fedlab.lab.plots import Picture
from fedlab.lab.plots import picture as pictures
from fedlab.lab.report import execute, live, make, render, validate
from fedlab.lab.report.files import is_run
from fedlab.lab.report.jobs import Report, select_reports
from fedlab.lab.report.live import Allowance, pack, unpack
from fedlab.lab.report.make import main
from fedlab.lab.report.panels import panel_html
from fedlab.lab.report.validate import PANEL
from fedlab.lab.widgets import Panel, choice, slider, states
from fedlab.lab.widgets.grid import choose_grid, spread
from fedlab.lab.widgets.output import still_output

ALPHA = Parameter("alpha", "float", 1.0, limits=(0.01, 100.0), log=True)
SEEDS = Parameter("seeds", "int", 1, limits=(1, 10))
KIND = Parameter("kind", "str", "b", choices=("a", "b", "c"))


# -- the grid


def settings_of(grid):
    return [grid.settings(point) for point in grid.points]


def test_a_grid_over_the_first_two_controls_begins_with_the_default_and_the_comparison():
    controls = {"alpha": ALPHA, "kind": KIND, "seeds": SEEDS}
    grid = choose_grid(controls, {"alpha": 0.03}, affordable=1000)
    assert grid.axes == {"alpha": [0.01, 0.03, 0.2, 1.0, 5.0, 20.0, 100.0], "kind": ["a", "b", "c"]}
    first, second, *rest = settings_of(grid)
    assert (first, second) == ({"alpha": 1.0, "kind": "b"}, {"alpha": 0.03, "kind": "b"})
    assert len(grid.points) == 21 == len(set(grid.points))
    cross = [point for point in rest if point["alpha"] == 1.0 or point["kind"] == "b"]
    assert rest[: len(cross)] == cross, "each control alone, before both together"


@pytest.mark.parametrize("affordable", [0, 1, 2, 3, 5, 8, 13, 30, 47, 1000])
def test_a_grid_shrinks_to_what_the_time_allows(affordable):
    grid = choose_grid({"alpha": ALPHA, "seeds": SEEDS}, {"alpha": 0.03}, affordable)
    assert len(grid.points) <= affordable + 2
    assert {"alpha": 1.0, "seeds": 1}.items() >= settings_of(grid)[0].items()
    assert settings_of(grid)[1]["alpha"] == 0.03
    assert ("seeds" in grid.axes) == (affordable >= 2), "fewer values first, then one control"
    if affordable >= 47:
        assert len(grid.points) == 49


def test_a_comparison_outside_of_the_grid_is_a_state_of_its_own():
    grid = choose_grid({"alpha": ALPHA, "kind": KIND, "seeds": SEEDS}, {"seeds": 5}, affordable=30)
    assert grid.axes["seeds"] == [1, 5]
    assert settings_of(grid)[1] == {"alpha": 1.0, "kind": "b", "seeds": 5}
    assert sum(point["seeds"] == 5 for point in settings_of(grid)) == 1


def test_values_that_a_panel_declares_take_the_place_of_the_grid():
    declared = {"alpha": [0.1, 0.03], "seeds": [5, 1]}
    grid = choose_grid({"alpha": ALPHA, "seeds": SEEDS}, {"alpha": 0.03}, 0, declared)
    assert grid.axes == {"alpha": [0.03, 0.1, 1.0], "seeds": [1, 5]}
    assert len(grid.points) == 6


def test_numbers_are_spread_over_their_range_and_whole_ones_stay_whole():
    assert spread(SEEDS, 7, [1, 5]) == [1, 2, 5, 6, 7, 8, 10]
    cohort = Parameter("m", "int", 10, limits=(1, 100))
    assert spread(cohort, 7, [10]) == [1, 10, 34, 50, 67, 84, 100]
    assert all(type(value) is int for value in spread(cohort, 4, [10]))
    share = Parameter("share", "float", 0.5, limits=(0.0, 1.0))
    assert spread(share, 3, [0.5]) == [0.0, 0.5, 1.0]
    length = Parameter("length", "int", 256, limits=(16, 2048), log=True)
    assert spread(length, 7, [256])[:: len(spread(length, 7, [256])) - 1] == [16, 2048]
    assert spread(Parameter("n", "int", 2, limits=(2, 3)), 7, [2]) == [2, 3]
    assert spread(KIND, 2, ["b"]) == ["a", "b", "c"]


# -- a panel with a budget


def count(n, kind):
    if n == 9 and kind == "z":
        raise ValueError("a sum that\noverflows")
    for k in range(3):
        yield [n, kind, k]


def draw(scene, **settings):
    assert not scene.earlier
    assert not scene.expected
    picture = Picture(f"frame {scene.frame}")
    picture.subplots().plot([0, scene.frame[0]])
    return picture


def make_panel(train=count, compare_with=None, **more):
    controls = {"n": slider(5, 1, 9), "kind": choice("y", "xyz")}
    return Panel(
        train, draw, lambda frame: {"k": frame[2]}, compare_with=compare_with or {"n": 2},
        **controls, **more,
    )  # fmt: skip


def live_of(panel, monkeypatch, seconds=60.0, panels=1, size=4_000_000):
    monkeypatch.setenv(live.VARIABLE, str(Allowance(seconds, panels, size)))
    record = still_output(panel, panel._compare_with)[PANEL]
    return record, record["live"], unpack(record["live"]["packed"])


def test_states_of_a_panel_are_computed_by_its_own_runner(monkeypatch):
    panel = make_panel()
    record, lived, rows = live_of(panel, monkeypatch)
    assert [axis["name"] for axis in lived["axes"]] == ["n", "kind"]
    assert lived["axes"][1]["values"] == ["x", "y", "z"]
    numbers = lived["axes"][0]["values"]
    assert {2, 5, 9} <= set(numbers)
    assert lived["states"] == len(rows) == 3 * len(numbers)
    assert (lived["failed"], lived["left_out"]) == (1, 0)
    for row in rows:
        n, kind = numbers[row["at"][0]], "xyz"[row["at"][1]]
        if "error" in row:
            assert (n, kind) == (9, "z")
            assert row["error"] == "ValueError: a sum that overflows"
            continue
        assert row["status"].startswith(f"done  n={n}  kind={kind}  k=2")
        assert f"frame [{n}, &#x27;{kind}&#x27;, 2]" in row["figure"]
    assert panel.settings == {"n": 5, "kind": "y"}, "cells that follow find the panel as it was"
    assert panel.status.startswith("done  n=5  kind=y")
    second, default = record["states"]
    assert second["settings"]["n"] == 2
    assert default["figure"] == rows[0]["figure"]
    assert "picture" not in default
    assert json.dumps(record), "JSON can hold it"


def test_states_tell_the_controls_that_do_nothing_there(monkeypatch):
    panel = make_panel(only_if={"n": {"kind": ["x", "y"]}})
    _, lived, rows = live_of(panel, monkeypatch)
    assert lived["left_out"] == 0
    for row in rows:
        is_idle = lived["axes"][1]["values"][row["at"][1]] == "z"
        assert row["idle"] == ({"n": "only if kind is x or y"} if is_idle else {})


def test_without_a_budget_no_state_is_computed(monkeypatch):
    monkeypatch.delenv(live.VARIABLE, raising=False)
    trained = []
    panel = make_panel(lambda n, kind: trained.append(n) or count(n, kind))
    assert "live" not in still_output(panel, panel._compare_with)[PANEL]
    assert sorted(set(trained)) == [2, 5]


def test_time_that_is_used_up_leaves_states_out(monkeypatch):
    def slow(n, kind):
        for k in range(200):
            if (n, kind) not in ((5, "y"), (2, "y")):
                time.sleep(0.02)  # each state but the first two takes 4 seconds or more
            yield [n, kind, k]

    # Declared states: how fine a grid is depends on the machine's speed.
    panel = make_panel(slow, states={"n": (2, 5, 9), "kind": ("x", "y", "z")})
    record, lived, rows = live_of(panel, monkeypatch, seconds=3.0)
    assert len(rows) >= 2
    assert lived["left_out"] > 0
    assert all(row["status"].startswith("done") for row in rows), "a stopped run is no state"
    places = [set(places) for places in zip(*(row["at"] for row in rows), strict=True)]
    assert places == [set(range(len(axis["words"]))) for axis in lived["axes"]], "no empty value"
    assert "more did not fit" in panel_html(record)


def test_without_time_only_the_default_and_the_comparison_are_computed(monkeypatch):
    visited = []

    def noted(n, kind):
        visited.append((n, kind))
        yield [n, kind, 0]

    _, lived, rows = live_of(make_panel(noted), monkeypatch, seconds=1e-6)
    assert set(visited) == {(2, "y"), (5, "y")}
    assert lived["states"] == len(rows) == 2
    assert [axis["values"] for axis in lived["axes"]] == [[2, 5]]
    assert lived["fixed"] == {"kind": "y"}


def test_a_run_is_stopped_even_if_its_time_is_over_before_it_begins(monkeypatch):
    panel, begin = make_panel(slow_for_ever), Panel.move

    def late(self, **settings):
        time.sleep(0.2)
        begin(self, **settings)

    monkeypatch.setattr(Panel, "move", late)
    assert states._visit_in_time(panel, {"n": 7}, 0.01) is None
    assert panel.status.startswith("stopped")


def slow_for_ever(n, kind):
    while True:
        time.sleep(0.01)
        yield [n, kind, 0]


def test_equal_states_take_their_room_once(monkeypatch):
    def alike(n, kind):
        yield [n if n == 2 else 5, "y", 0]

    panel = Panel(
        alike,
        lambda scene, **_: Picture(f"frame {scene.frame}"),
        lambda frame: {"k": 0},
        compare_with={"n": 2},
        n=slider(5, 1, 9),
        kind=choice("y", "xyz"),
        states={"n": range(1, 10), "kind": "xyz"},
    )
    _, everything, rows = live_of(panel, monkeypatch, size=5_000)
    assert everything["left_out"] == 0
    assert len(rows) == 27


def test_room_that_is_used_up_leaves_states_out(monkeypatch):
    _, everything, _ = live_of(make_panel(), monkeypatch)
    _, lived, rows = live_of(make_panel(), monkeypatch, size=6 * 2500)
    assert 2 <= len(rows) < everything["states"]
    assert lived["size"] <= 6 * 2500


def test_panels_of_a_notebook_share_the_budget(monkeypatch):
    _, lived, _ = live_of(make_panel(), monkeypatch, seconds=60.0, panels=2)
    left = live.read_allowance()
    assert left.panels == 1
    assert left.seconds == pytest.approx(60 - lived["seconds"], abs=0.01)
    assert left.size == 4_000_000 - lived["size"]


def test_what_a_panel_declares_is_checked():
    assert make_panel(states={"n": (2, 5)}).states == {"n": [2, 5]}
    for wrong, words in [
        ({"m": [1]}, "name at least one of n, kind"),
        ({}, "name at least one of n, kind"),
        ({"n": [20]}, "states: n=20 lies outside 1 to 9"),
        ({"kind": ["q"]}, "states: kind='q' is not one of"),
        ({"n": []}, "states: n must have a value"),
    ]:
        with pytest.raises(ValueError, match=words):
            make_panel(states=wrong)


def test_declared_states_are_computed(monkeypatch):
    _, lived, rows = live_of(make_panel(states={"kind": ["x", "z"]}), monkeypatch)
    assert [axis["values"] for axis in lived["axes"]] == [["x", "y", "z"], [2, 5]]
    assert len(rows) == 4
    assert lived["fixed"] == {}


def test_a_panel_with_a_button_is_driven_too(monkeypatch):
    _, lived, rows = live_of(make_panel(hold="Train"), monkeypatch)
    assert lived["states"] == len(rows) > 10


def test_a_run_that_hears_no_stop_ends_the_states(monkeypatch):
    gate = threading.Event()

    def deaf(n, kind):
        if (n, kind) not in ((5, "y"), (2, "y")):
            gate.wait(1.0)
        yield [n, kind, 0]

    _, lived, rows = live_of(make_panel(deaf), monkeypatch, seconds=0.6)
    assert len(rows) == 2
    assert lived["seconds"] < 5


# -- packing


def test_equal_pictures_are_stored_once():
    rows = [
        {"at": [k], "status": f"done {k}", "figure": "x" * 50_000, "numbers": ""} for k in range(50)
    ]
    assert unpack(pack(rows)) == rows
    assert len(pack(rows)) < 2000


def test_an_allowance_reads_what_it_wrote_and_refuses_other_words(monkeypatch):
    allowance = Allowance(59.5, 3, 123)
    monkeypatch.setenv(live.VARIABLE, str(allowance))
    assert live.read_allowance() == allowance
    monkeypatch.setenv(live.VARIABLE, "much")
    with pytest.raises(ValueError, match="FEDLAB_LIVE='much' must be seconds, panels and bytes"):
        live.read_allowance()


# -- the page


def lived_notebook(monkeypatch):
    record, _, rows = live_of(make_panel(), monkeypatch)
    cell = new_code_cell("Panel(...)", execution_count=1)
    cell.outputs = [new_output("display_data", {PANEL: record, "text/html": "<p>as it was</p>"})]
    return new_notebook(cells=[new_markdown_cell("# A title"), cell]), rows


RUN = {"status": "pass", "finished": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "reason": ""}
RUN |= {"changed": {}, "parameters": {}, "versions": {}, "live": 60.0}


def render_live(tmp_path, notebook):
    lesson, *_ = list_lessons()
    return render.render_page(Report(lesson, {}, tmp_path, 60.0), notebook, RUN, [])


def test_a_page_shows_panels_from_their_states(monkeypatch, tmp_path):
    notebook, _ = lived_notebook(monkeypatch)
    page = render_live(tmp_path, notebook)
    assert "as it was" not in page
    assert page.count('class="fedlab-picture"') == 2, "the default and the comparison"
    assert "moved to n = 2:" in page
    assert "21 settings were computed when this report was made." in page
    assert re.search(r'<input aria-label="n"[^>]* type="range"', page)
    assert '<select aria-label="kind">' in page
    assert page.count("'sha256-") == 3, "the figure's script, the live one, the page's"
    assert page.index("done  n=5") < page.index("done  n=2"), "the default first"
    del notebook.cells[1].outputs[0].data[PANEL]["live"]
    plain = render_live(tmp_path, notebook)
    assert "fedlab-moves" not in plain.split("<main", 1)[1]
    assert plain.count("'sha256-") == 2
    for state in notebook.cells[1].outputs[0].data[PANEL]["states"]:
        del state["figure"]
    assert "as it was" in render_live(tmp_path, notebook), "a notebook of an earlier version"


def test_a_page_that_is_too_heavy_loses_its_farthest_states(monkeypatch, tmp_path):
    notebook, rows = lived_notebook(monkeypatch)
    whole = len(render_live(tmp_path, notebook).encode())
    packed = notebook.cells[1].outputs[0].data[PANEL]["live"]["packed"]
    monkeypatch.setattr(render, "MAX_FILE", whole - len(packed) // 3)
    page = render_live(tmp_path, notebook)
    assert len(page.encode()) <= whole - len(packed) // 3
    states_left = unpack(re.search(r'class="fedlab-states"[^>]*>([^<]*)<', page)[1])
    assert [state["status"] for state in states_left] == [
        row["status"] for row in rows[: len(states_left)]
    ]
    assert len(states_left) < len(rows)
    assert "did not fit into its time or size" in page
    monkeypatch.setattr(render, "MAX_FILE", 10)
    assert render_live(tmp_path, notebook), "a page that cannot be lighter is shown as it is"


def test_the_name_of_a_picture_is_the_same_in_plots_and_in_reports():
    assert validate.PICTURE == pictures.PICTURE


# -- the command


def write(root, name="00_first", code="2"):
    folder = root / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = new_code_cell(
        "alpha: float = 1.0  # [0.01 to 1000] how even", metadata={"tags": ["parameters"]}
    )
    about = {"question": "Why?", "minutes": 0.1, "after": []}
    spec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    cells = [new_markdown_cell("# The first"), parameters, new_code_cell(code)]
    metadata = {"fedlab": about, "kernelspec": spec}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb")


@pytest.fixture
def play(monkeypatch):
    """Replace the kernel: each run is noted, and a live one reports the costs of a panel."""
    played = []

    def stand_in(report, progress, limit):
        played.append((report.slug, report.live))
        notebook = nbformat.from_dict(load_notebook(report.lesson.path))
        costs = {"states": 9, "failed": 0, "left_out": 1, "seconds": 12.4, "size": 1000}
        both = [{"status": "done  n=1", "image": image, "settings": {"n": 1}} for image in "ab"]
        record = {"states": both} | ({"live": costs} if report.live else {})
        notebook.cells[-1].outputs = [
            new_output("display_data", {PANEL: record, "text/plain": "x"})
        ]
        return notebook, ""

    monkeypatch.setattr(execute, "execute_notebook", stand_in)
    monkeypatch.setattr(make, "JOBS", 1)
    return played


def test_a_live_report_is_a_report_of_its_own(tmp_path, play, capsys):
    write(tmp_path, code="Panel(train, draw, tell)")
    assert main([], root=tmp_path) == 0
    assert main(["00", "--live"], root=tmp_path) == 0
    first = capsys.readouterr().out
    assert "00_first--live: 1 panel, at most 60 s more; at most 6 MB" in first
    assert play == [("00_first", 0.0), ("00_first--live", 60.0)]
    run = json.loads((tmp_path / "reports" / "00_first--live" / "run.json").read_text())
    assert run["live"] == 60.0
    assert run["panels"][0]["seconds"] == 12.4
    assert main(["00", "--live"], root=tmp_path) == 0
    assert len(play) == 2, "a second run runs nothing"
    assert main(["00", "--live", "30"], root=tmp_path) == 0
    assert play[2:] == [("00_first--live", 30.0)], "another budget runs again"
    before = "00_first--live: 1 panel, at most 30 s more; at most 6 MB (with 60 s: 12 s and 0.0 MB)"
    assert before in capsys.readouterr().out
    assert main(["00", "--live", "30", "--force"], root=tmp_path) == 0
    before = "00_first--live: 1 panel, at most 30 s more (last time 12 s); about 0.0 MB"
    assert before in capsys.readouterr().out
    index = (tmp_path / "reports" / "index.html").read_text()
    assert index.count("<article>") == 2
    assert index.count('class="chip live"') == 1
    assert [card.count('class="chip pass"') for card in index.split("<article>")[1:]] == [1, 1]
    assert not (tmp_path / "reports" / "metrics" / "00_first--live.json").exists()


def test_a_live_report_of_another_setting(tmp_path, play):
    write(tmp_path)
    assert main(["00", "--set", "alpha=0.1", "--live", "20"], root=tmp_path) == 0
    assert play == [("00_first--alpha=0.1,live", 20.0)]
    lessons = list_lessons(tmp_path / "notebooks")
    (plain,) = select_reports(["00"], ["alpha=0.1"], lessons, tmp_path)
    assert plain.slug == "00_first--alpha=0.1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["00", "--live", "0"], "--live 0 must be a number of seconds above 0. Try --live 60"),
        (["00", "--live", "-5"], "--live"),
        (
            ["00", "--live", "x"],
            "--live x must be a number of seconds above 0. Try report x",
        ),
        (["--live", "00"], "--live 00 must be a number of seconds above 0. Try report 00 --live"),
        (["00", "--live", "nan"], "--live nan must be a number of seconds"),
        (["00", "--live", "inf"], "--live inf must be a number of seconds"),
        (["00", "--live", "--check"], "--check compares numbers of plain reports"),
    ],
)
def test_a_wrong_budget_is_refused_in_a_line(tmp_path, play, capsys, arguments, words):
    write(tmp_path)
    assert main(arguments, root=tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"report: {words}")
    assert play == []


@pytest.mark.parametrize("wrong", [{"live": "60"}, {"live": -1}, {"panels": 5}, {"panels": [{}]}])
def test_a_malformed_run_is_no_run(wrong):
    run = {"key": "", "page_key": "", "status": "pass", "reason": "", "finished": "", "seconds": 1}
    run |= {"parameters": {}, "changed": {}, "versions": {}, "files": {}, "headline": None}
    assert is_run(run)
    assert is_run(run | {"live": 60.0, "panels": [{"seconds": 1.0}]})
    assert not is_run(run | wrong)


def test_help_tells_the_budget(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "shared by its panels (default: 60)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_kernel_gets_its_budget_and_no_plain_report_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv(live.VARIABLE, "1 1 1")
    write(tmp_path, code="import os\nprint(os.environ.get('FEDLAB_LIVE'))\n# Panel(\n# Panel(")
    assert main(["00", "--live", "7.5"], root=tmp_path) == 0
    assert main(["00"], root=tmp_path) == 0
    for slug, said in [("00_first--live", "7.5 2 4000000\n"), ("00_first", "None\n")]:
        executed = nbformat.read(tmp_path / "reports" / slug / "executed.ipynb", as_version=4)
        assert executed.cells[-1].outputs[0].text == said


def test_the_dearest_state_tells_how_fine_a_grid_fits(monkeypatch):
    def grows(n, kind):
        for k in range(n):
            time.sleep(0.03)
            yield [n, kind, k]

    _, lived, _ = live_of(make_panel(grows), monkeypatch, seconds=4.0)
    assert lived["states"] >= 2
    assert lived["seconds"] < 6
    assert states.PROBE < 0.5
