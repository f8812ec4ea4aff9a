"""Live reports opened from a file, without a network: their controls move among their states."""

import json
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fedlab.lab.course import list_lessons
from fedlab.lab.plots import Picture
from fedlab.lab.report import live
from fedlab.lab.report.jobs import Report, select_reports
from fedlab.lab.report.live import unpack
from fedlab.lab.report.make import main
from fedlab.lab.report.render import render_page
from fedlab.lab.report.validate import PANEL
from fedlab.lab.widgets import Panel, choice, slider
from fedlab.lab.widgets.output import still_output

ROOT = Path(__file__).parents[2]
NUMBERS = ("00", "02", "04")
SETTING = "rounds=15"
SCREENS = {
    f"{scheme}_{width}": {"color_scheme": scheme, "viewport": {"width": width, "height": height}}
    for scheme in ("light", "dark")
    for width, height in ((1280, 800), (390, 844))
}
# The time from a move to the new figure, the next frame included.
TIMED = """([control, value]) => new Promise((resolve) => {
  const began = performance.now();
  control.value = value;
  control.dispatchEvent(new Event("input", {bubbles: true}));
  requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
})"""


@pytest.fixture(scope="session")
def live_reports():
    """Make three live reports in one command; return their folders by number."""
    command = [*NUMBERS, "--set", SETTING, "--live", "20", "--jobs", "2"]
    assert main(command, root=ROOT) == 0
    lessons = list_lessons(ROOT / "notebooks")
    reports = select_reports(list(NUMBERS), [SETTING], lessons, ROOT, live=20.0)
    return {report.lesson.number: report.folder for report in reports}


@pytest.fixture
def open_page(browser):
    """Return a function that opens a file in a browser without a network."""
    contexts = []

    def open_one(path, **how):
        context = browser.new_context(offline=True, **how)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda asked: page.asked.append(asked.url))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: page.complaints.append(said.text) if said.type == "error" else None,
        )
        page.goto(path.as_uri())
        return page

    yield open_one
    for context in contexts:
        context.close()


class LivePanel:
    """The ``k``-th live panel of a page, and the states that its report holds."""

    def __init__(self, page, record, k=0):
        self.page, self.box = page, page.locator(".fedlab-live").nth(k)
        self.axes = record["live"]["axes"]
        self.states = {tuple(state["at"]): state for state in unpack(record["live"]["packed"])}
        self.start = next(iter(self.states))
        self.box.locator(".fedlab-moves").wait_for(state="visible")

    def control(self, axis: int):
        return self.box.get_by_label(self.axes[axis]["name"], exact=True)

    @property
    def position(self) -> tuple[int, ...]:
        return tuple(int(self.control(k).input_value()) for k in range(len(self.axes)))

    @property
    def status(self) -> str:
        return self.box.locator(".fedlab-status").first.text_content()

    @property
    def note(self) -> str:
        return self.box.locator(".fedlab-note").text_content()

    def walk(self, axis: int) -> set[int]:
        """Move one control by keys over all its values; return those at which it stood."""
        seen, control = set(), self.control(axis)
        control.focus()
        control.press("Home")
        key = "ArrowDown" if control.evaluate("c => c.tagName") == "SELECT" else "ArrowRight"
        for _ in self.axes[axis]["words"]:
            self.check()
            seen.add(self.position[axis])
            control.press(key)
        return seen

    def check(self) -> None:
        """Check that status, figure and numbers are those of the position of the controls."""
        state = self.states[self.position]
        failed = "error" in state
        assert self.status.endswith(state["error"]) if failed else self.status == state["status"]
        shown = self.box.locator(".fedlab-shown")
        same = (
            "(box, html) => { const copy = document.createElement('div'); copy.innerHTML = html;"
            " const alt = (part) => part.querySelector('svg[role]')?.getAttribute('aria-label');"
            " const data = (part) => part.querySelector('figure > script')?.textContent;"
            " return alt(box) === alt(copy) && data(box) === data(copy); }"
        )
        assert shown.evaluate(same, state.get("figure", ""))
        values = [axis["words"][k] for axis, k in zip(self.axes, self.position, strict=True)]
        for axis, word in enumerate(values):
            assert self.control(axis).get_attribute("aria-valuetext") == word


def records_of(folder) -> list[dict]:
    executed = json.loads((folder / "executed.ipynb").read_text(encoding="utf-8"))
    outputs = (output for cell in executed["cells"] for output in cell.get("outputs", ()))
    return [output["data"][PANEL] for output in outputs if PANEL in output.get("data", ())]


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_live_report_answers_its_controls(live_reports, open_page, number, screen, screenshot):
    path = live_reports[number] / "report.html"
    assert path.stat().st_size < live.MAX_FILE
    page = open_page(path, **SCREENS[screen])
    records = records_of(path.parent)
    assert page.locator(".fedlab-live").count() == len(records) >= 1
    for k, record in enumerate(records):
        for axis, about in enumerate(record["live"]["axes"]):
            page.reload()
            panel = LivePanel(page, record, k)
            assert panel.position == panel.start
            panel.check()
            if panel.control(axis).is_enabled():
                assert panel.walk(axis) == set(range(len(about["words"])))
        screenshot(panel.box, f"live_{number}_{k}_{screen}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.complaints
    assert {url for url in page.asked if not url.startswith("data:")} == {path.as_uri()}


def test_the_pointer_moves_a_slider_and_finds_the_points_of_the_new_figure(live_reports, open_page):
    page = open_page(live_reports["00"] / "report.html", viewport={"width": 1280, "height": 800})
    panel = LivePanel(page, records_of(live_reports["00"])[0])
    slider = panel.control(0)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.click(box["x"] + box["width"] - 3, middle)
    assert panel.position[0] == len(panel.axes[0]["words"]) - 1
    panel.check()
    page.mouse.move(box["x"] + box["width"] - 8, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 3, middle, steps=12)
    page.mouse.up()
    assert panel.position[0] == 0
    panel.check()
    drawing = panel.box.locator(".fedlab-shown svg[role=img]")
    drawing.scroll_into_view_if_needed()
    figure = json.loads(panel.box.locator(".fedlab-shown figure > script").text_content())
    x, y, words = figure[0]["points"][-3]
    box = drawing.bounding_box()
    scale = box["width"] / drawing.evaluate("svg => svg.viewBox.baseVal.width")
    page.mouse.move(box["x"] + scale * x + 1, box["y"] + scale * y + 1)
    assert words.split("\n")[0] in page.locator(".fedlab-tip").text_content()
    assert not page.complaints


def test_a_touch_moves_a_slider(live_reports, open_page):
    page = open_page(
        live_reports["00"] / "report.html", has_touch=True, viewport={"width": 390, "height": 844}
    )
    panel = LivePanel(page, records_of(live_reports["00"])[0])
    panel.control(0).scroll_into_view_if_needed()
    box = panel.control(0).bounding_box()
    page.touchscreen.tap(box["x"] + 4, box["y"] + box["height"] / 2)
    assert panel.position[0] == 0
    panel.check()


def test_a_move_takes_less_than_a_twentieth_of_a_second(live_reports, open_page, figure):
    for number in NUMBERS:
        page = open_page(live_reports[number] / "report.html")
        for k, record in enumerate(records_of(live_reports[number])):
            panel = LivePanel(page, record, k)
            control = panel.control(0).element_handle()
            moves = [j % len(panel.axes[0]["words"]) for j in range(11)]
            seconds = sorted(page.evaluate(TIMED, [control, str(j)]) / 1000 for j in moves)
            figure(f"live report {number}, panel {k}: a move takes {seconds[5]:.3f} s")
            assert seconds[5] < 0.15, "twice as much on a machine that does other work"


def test_without_scripts_the_default_and_the_comparison_are_there(live_reports, open_page):
    page = open_page(live_reports["04"] / "report.html", java_script_enabled=False)
    for k, record in enumerate(records_of(live_reports["04"])):
        box = page.locator(".fedlab-live").nth(k)
        assert not box.locator(".fedlab-moves").is_visible()
        assert box.locator("svg[role=img]").count() == 2
        second, default = record["states"]
        assert box.locator(".fedlab-status").all_text_contents() == [
            default["status"],
            second["status"],
        ]
        assert box.locator(".fedlab-compared").is_visible()


def count(n, kind):
    if n == 9:
        raise ValueError("n=9 must be below 9 <b>or so</b>")
    yield [n, kind]


def draw(scene, **settings):
    picture = Picture(f"frame {scene.frame}")
    picture.subplots().plot([0, scene.frame[0]])
    return picture


@pytest.fixture(params=[{}])
def small_page(request, tmp_path, monkeypatch):
    """Write a live report of one small panel: a state fails, and the comparison stands alone."""
    monkeypatch.setenv(live.VARIABLE, str(live.Allowance(60.0, 1, 4_000_000)))
    panel = Panel(
        count,
        draw,
        lambda frame: {"frame": frame[0]},
        compare_with={"kind": "z"},
        states={"n": [1, 5, 9]},
        n=slider(5, 1, 9),
        kind=choice("y", "xyz"),
        **request.param,
    )
    record = still_output(panel, {"kind": "z"})[PANEL]
    cell = new_code_cell("Panel(...)", execution_count=1)
    cell.outputs = [new_output("display_data", {PANEL: record})]
    run = {"status": "pass", "finished": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "reason": ""}
    run |= {"changed": {}, "parameters": {}, "versions": {}, "live": 60.0}
    lesson, *_ = list_lessons()
    notebook = new_notebook(cells=[new_markdown_cell("# A title"), cell])
    path = tmp_path / "report.html"
    path.write_text(
        render_page(Report(lesson, {}, tmp_path, 60.0), notebook, run, []), encoding="utf-8"
    )
    return path, record


def test_a_state_that_failed_is_a_line_and_the_page_goes_on(small_page, open_page, screenshot):
    path, record = small_page
    page = open_page(path)
    panel = LivePanel(page, record)
    panel.control(0).focus()
    panel.control(0).press("End")
    failure = "n = 9, kind = y failed when this report was made: ValueError: n=9 must be below 9"
    assert panel.status == f"{failure} <b>or so</b>", "text of an error is no HTML"
    assert not panel.box.locator(".fedlab-shown svg").count()
    screenshot(panel.box, "live_failed")
    panel.control(0).press("ArrowLeft")
    panel.check()
    assert panel.status.startswith("done  n=5")
    assert panel.box.locator(".fedlab-shown svg").count()
    assert not page.complaints


def test_a_state_that_was_not_computed_says_so(small_page, open_page):
    path, record = small_page
    panel = LivePanel(open_page(path), record)
    panel.control(1).select_option("z")
    panel.check()
    assert panel.note == ""
    panel.control(0).focus()
    panel.control(0).press("Home")
    assert panel.note == "n = 1, kind = z was not computed; moved to kind = y too."
    panel.check()
    assert panel.status.startswith("done  n=1  kind=y")
    panel.control(0).press("ArrowRight")
    assert panel.note == ""


@pytest.mark.parametrize("small_page", [{"only_if": {"n": {"kind": ["x", "y"]}}}], indirect=True)
def test_a_control_that_does_nothing_is_greyed_out_with_the_reason(small_page, open_page):
    path, record = small_page
    panel = LivePanel(open_page(path), record)
    why = panel.box.locator(".fedlab-why").first
    assert panel.control(0).is_enabled()
    assert why.text_content() == ""
    panel.control(1).select_option("z")
    assert panel.control(0).is_disabled()
    assert why.text_content() == "only if kind is x or y"
    panel.control(1).select_option("y")
    assert panel.control(0).is_enabled()


def test_paper_shows_the_present_state_and_the_comparison(small_page, open_page, screenshot):
    path, record = small_page
    page = open_page(path)
    panel = LivePanel(page, record)
    assert not panel.box.locator(".fedlab-compared").is_visible()
    page.emulate_media(media="print")
    assert panel.box.locator(".fedlab-compared").is_visible()
    assert not panel.control(0).is_visible()
    screenshot(panel.box, "live_paper")


def test_a_page_whose_states_cannot_be_read_stays_as_it_is(small_page, open_page):
    path, _ = small_page
    text = path.read_text(encoding="utf-8")
    head, packed = text.split("fedlab-states", 1)
    path.write_text(head + "fedlab-states" + packed.replace("H4sI", "AAAA", 1), encoding="utf-8")
    page = open_page(path)
    page.locator(".fedlab-note").wait_for(state="visible")
    assert "controls do not work in this browser" in page.locator(".fedlab-note").text_content()
    assert not page.locator(".fedlab-move").count()
    assert page.locator(".fedlab-compared").is_visible()
    assert not page.complaints
