"""The panel of the first notebook in JupyterLab, with both ways of running callbacks."""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driver import QUEUE, RUN, SET_SOURCE, PanelPage, run_cells

ROOT = Path(__file__).parents[2]
TO_PANEL = (2, 4, 5)
one_lab = pytest.mark.parametrize("lab", ["perCommTarget"], indirect=True)


@pytest.fixture
def panel(open_notebook):
    page = open_notebook("00_start_here")
    run_cells(page, TO_PANEL)
    panel = PanelPage(page)
    panel.until("^done")
    return panel


def test_the_panel_trains_again(open_notebook, pytestconfig, figure, screenshot):
    opened = time.monotonic()
    page = open_notebook("00_start_here")
    began = time.monotonic()
    page.evaluate("window.all = window.jupyterapp.commands.execute('notebook:run-all-cells'); 0")
    page.wait_for_selector(".fedlab-status")
    panel = PanelPage(page)
    panel.until(r"^(running .* round=|done)")
    end = time.monotonic()
    figure(
        f"first picture {end - opened:.1f} s after opening a notebook, "
        f"{end - began:.1f} s after running it"
    )
    first = panel.number("accuracy", r"^done .*alpha=1 .*clients_per_round=10 .*round=100")
    assert first > 0.8
    page.evaluate("window.all")  # until the last cell is done
    before = panel.pixels
    assert before is not None

    # The number field has its effect: one client per round learns less than ten.
    panel.put("clients_per_round", 1)
    assert panel.number("accuracy") < first
    assert panel.pixels != before

    # The slider by its keys.
    panel.key("clients_per_round")
    panel.until(r"^(running|done) .*clients_per_round=2 ")
    assert panel.field("clients_per_round").input_value() == "2"

    # Twenty keys in a row: the last one wins.
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    panel.until(r"^done .*clients_per_round=22 ")

    # Stop ends a run at once and leaves its picture.
    panel.type("clients_per_round", "100")
    panel.until(r"^running .*clients_per_round=100 .* round=")
    panel.button("Stop").click()
    stopped = panel.until(r"^stopped .*clients_per_round=100")
    assert int(re.search(r" round=(\d+)", stopped)[1]) < 100, "before its end"
    page.wait_for_timeout(1500)
    assert panel.status == stopped, "a stopped run stays stopped"

    # What was stopped runs again: by a key, and after a setting was pasted.
    running = r"^running .*clients_per_round={} .* round="
    panel.button("Run again").press("Enter")
    panel.until(running.format(100))
    panel.button("Stop").press("Space")
    panel.until(r"^stopped .*clients_per_round=100")
    line = panel.field("setting").input_value()
    for n in (98, 100):
        panel.type("setting", line.replace("round=100", f"round={n}"))
        panel.until(running.format(n))
        panel.button("Stop").click()
        panel.until(rf"^stopped .*clients_per_round={n}")

    # Moving on during a run cancels it.
    panel.type("clients_per_round", "99")
    panel.until(r"^running .*clients_per_round=99 ")
    panel.put("clients_per_round", 5)

    # Back to the default, which was seen before; without earlier runs it is the same picture again.
    assert panel.put("clients_per_round", 10).endswith("(seen before)")
    assert panel.pixels != before, "earlier runs are in the picture"
    screenshot(panel.box, "00_panel_with_earlier_runs")
    panel.button("Clear earlier runs").click()
    deadline = time.monotonic() + 10
    while panel.pixels != before and time.monotonic() < deadline:
        page.wait_for_timeout(30)
    assert panel.pixels == before
    assert panel.complaints == []


# The kernel's own status will not do: it is idle as soon as a control has been served.
BUSY = """window.jupyterapp.shell.currentWidget.content.widgets[7].node
  .querySelector('.jp-InputPrompt').textContent.includes('*')"""


def interrupt(page):
    page.evaluate("window.jupyterapp.commands.execute('kernelmenu:interrupt')")
    page.wait_for_function(f"!({BUSY})")


def test_the_first_move_is_answered_while_cells_run(open_notebook, request, figure, pytestconfig):
    page = open_notebook("00_start_here")
    page.evaluate(SET_SOURCE, [7, "import time\ntime.sleep(60)"])
    run_cells(page, [2, 4])
    subshells = request.node.callspec.params["lab"] == "perCommTarget"
    repeats = 10 if pytestconfig.getoption("--take-picture") else 2
    answered, served = [], []
    for _ in range(repeats):
        page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        page.evaluate(QUEUE, [5, 7])
        page.wait_for_selector(".fedlab-status")
        panel = PanelPage(page)
        panel.until(r"^(running .* round=|done)")
        panel.listen()
        panel.type("alpha", "0.3")
        panel.until("^waiting|alpha=0.3 ")
        answered.append(panel.seconds("^waiting|alpha=0.3 "))
        if subshells:
            panel.until(r"^(running|done) .*alpha=0.3 .* round=")
            served.append(panel.seconds(r"^(running|done) .*alpha=0.3 "))
            assert page.evaluate(BUSY)
        interrupt(page)
    medians = {
        name: round(statistics.median(each), 2)
        for name, each in {"answer": answered, "run": served}.items()
        if each
    }
    figure(
        f"first move while cells run, subshells {'on' if subshells else 'off'}, "
        f"medians of {repeats}: {medians} s"
    )


def test_what_waits_for_the_kernel_says_so(panel, request):
    page, subshells = panel.page, request.node.callspec.params["lab"] == "perCommTarget"
    page.evaluate(SET_SOURCE, [7, "import time\ntime.sleep(60)"])
    acts = [
        (lambda: panel.type("alpha", "0.4"), "^running .*alpha=0.4 "),
        (lambda: panel.key("seeds"), "^(running|done) .*alpha=0.4 .*seeds=2 "),
        (lambda: panel.button("Numbers").click(), "^(running|done) "),
        (lambda: panel.button("Predict first").click(), "^(running|done) "),
        (lambda: panel.key("alpha"), "^waiting  alpha=.* Then press Train"),
        (lambda: panel.button("Train").click(), "^running .*seeds=2 "),
        (lambda: panel.button("Stop").click(), "^stopped .*seeds=2 "),
    ]
    for act, after in acts:
        page.evaluate(QUEUE, [7])
        page.wait_for_function(BUSY)
        act()
        if subshells:
            panel.until(after)
            assert page.evaluate(BUSY), "the cell still runs"
        else:
            panel.until("^waiting  for the kernel to answer$")
            page.wait_for_timeout(200)
            assert panel.status == "waiting  for the kernel to answer"
        interrupt(page)
        panel.until(after)
    assert panel.box.locator("table.fedlab-numbers").count() == 1


@one_lab
def test_a_restart_of_the_kernel_is_said(panel, screenshot):
    page = panel.page
    page.evaluate(
        "window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart()"
    )
    panel.until("^lost  the kernel was restarted: run this cell again$")
    screenshot(panel.box, "00_panel_lost")
    run_cells(page, TO_PANEL)
    PanelPage(page).put("alpha", 0.3)


@one_lab
def test_a_saved_notebook_shows_the_last_picture_and_how_to_move_it(
    panel, open_notebook, screenshot
):
    panel.put("alpha", 0.1)
    page = panel.page
    left = page.locator(".fedlab-left")
    left.get_by_text("alpha=0.1 ").wait_for(state="attached")
    assert not left.is_visible(), "the panel itself is there"
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
    page = open_notebook("00_start_here")
    left = page.locator(".fedlab-left")
    left.wait_for()
    errors = page.get_by_text("model not found")
    errors.first.wait_for(state="attached")
    assert not any(error.is_visible() for error in errors.all())
    assert "accuracy ends at" in left.locator("img").get_attribute("alt")
    assert left.get_by_text("Run All Cells").is_visible()
    screenshot(page.locator(".jp-Cell:has(.fedlab-left)"), "00_panel_reopened")
    run_cells(page, TO_PANEL)
    PanelPage(page).until("^done")
    assert not page.locator(".fedlab-left").is_visible()


@one_lab
def test_a_pinned_run_stays_and_later_runs_are_compared_with_it(panel, screenshot):
    panel.put("seeds", 5)
    panel.button("Pin A").click()
    gap = panel.box.locator(".fedlab-gap")
    gap.get_by_text("A is pinned").wait_for()
    panel.type("alpha", "0.05")
    panel.until(r"^running .*alpha=0.05 .* round=\d")
    gap.get_by_text("B − A at round").wait_for()
    panel.until("^done")
    interval = r"accuracy −0\.\d+ \(95 % interval −0\.\d+ to [−+]0\.\d+, 5 paired seeds\)"
    gap.get_by_text(re.compile(rf"^B − A at round 100: {interval}$")).wait_for()
    names = panel.box.locator(".fedlab-names")
    names.get_by_text("A: alpha=1").wait_for()
    panel.put("clients_per_round", 20)
    panel.button("Clear earlier runs").click()
    names.get_by_text("seeds=1").wait_for(state="detached")
    names.get_by_text("A: alpha=1, clients_per_round=10").wait_for()
    screenshot(panel.box, "00_panel_pinned")
    panel.button("Unpin A").click()
    panel.button("Pin A").wait_for()
    assert panel.complaints == []


@one_lab
def test_results_are_seen_at_1280_by_720(open_notebook):
    page = open_notebook("00_start_here", viewport={"width": 1280, "height": 720})
    run_cells(page, TO_PANEL)
    panel = PanelPage(page)
    panel.until("^done")
    bar = panel.button("Code")
    bar.scroll_into_view_if_needed()
    for name, words in {"Copy": "copied", "Code": "in Python", "Save": "numbers.csv"}.items():
        panel.button(name).click()
        result = panel.box.get_by_text(words, exact=words == "copied").first
        result.wait_for()
        box, picture = result.bounding_box(), panel.drawing.bounding_box()
        assert box["y"] + box["height"] <= min(720, picture["y"]), name
        assert abs(box["y"] - bar.bounding_box()["y"]) < 150, "near its button"


@pytest.mark.slow
def test_what_cannot_be_is_said_beside_its_control(panel):
    said, pixels = panel.status, panel.pixels
    for text, words in {
        "many": "'many' is not of type int",
        "1000": "clients_per_round=1000 lies outside 1 to 100",
    }.items():
        panel.type("clients_per_round", text)
        panel.row("clients_per_round").locator("[role=alert]").get_by_text(words).wait_for()
        panel.until(f"^{re.escape(said)}$")
        assert panel.pixels == pixels, "the last good picture stays"
    panel.put("clients_per_round", 3)
    assert panel.complaints == []


SMALL = """
import time
from fedlab.lab.widgets import Panel, slider
from fedlab.lab.plots import Picture

def train(n):
    {train}

def draw(*_, **__):
    return Picture("nothing")

Panel(train, draw, lambda n: {{"frame": n}}, compare_with={{"n": 0}}, n=slider(1, 0, 3))
"""
FAILING = SMALL.format(
    train="""
    yield n
    if n > 1:
        raise RuntimeError(f"no more than one, and this is {n}")
"""
)
ENDLESS = SMALL.format(
    train="""
    while True:
        time.sleep(0.01)
        yield n
"""
)


def test_a_failing_callback_shows_its_traceback(open_notebook):
    page = open_notebook("00_start_here")
    page.evaluate(SET_SOURCE, [2, FAILING])
    run_cells(page, [2])
    panel = PanelPage(page)
    panel.until("^done  n=1")
    panel.type("n", "2")
    panel.until("^failed  n=2  RuntimeError: no more than one, and this is 2")
    assert "Traceback" in panel.box.locator("pre[role=alert]").text_content()
    panel.put("n", 0)
    assert panel.box.locator("[role=alert]").count() == 0


@one_lab
def test_an_interrupt_of_the_cell_stops_the_run(open_notebook):
    page = open_notebook("00_start_here")
    page.evaluate(
        SET_SOURCE,
        [2, "import fedlab.lab.widgets.panel\nfedlab.lab.widgets.panel.PATIENCE = 60\n" + ENDLESS],
    )
    page.evaluate(f"cells => {{ ({RUN})(cells) }}", [2])  # and do not wait for them
    panel = PanelPage(page)
    panel.until("^running  n=1  frame=1")
    page.evaluate("window.jupyterapp.commands.execute('kernelmenu:interrupt')")
    panel.until("^stopped  n=1")
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.status"
        " === 'idle'"
    )
    panel.type("n", "0")
    panel.until("^running  n=0  frame=0")
    panel.button("Stop").click()
    panel.until("^stopped  n=0")


@one_lab
def test_a_reload_finds_the_panel_again(panel):
    panel.put("alpha", 0.1)
    page = panel.page
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1000)
    page.reload()
    page.wait_for_selector(".fedlab-status")
    again = PanelPage(page)
    assert again.field("alpha").input_value() == "0.1"
    again.put("clients_per_round", 7)


FIND = """words => window.jupyterapp.shell.currentWidget.content.widgets
  .findIndex(cell => cell.model.sharedModel.source.includes(words))"""


@one_lab
def test_a_report_is_made_in_the_background_and_linked(panel):
    panel.put("alpha", 0.1)
    panel.button("Make report").click()
    link = panel.box.get_by_role("link", name="Start here, its report")
    link.wait_for(timeout=180_000)
    panel.put("seeds", 2)  # the panel is free meanwhile
    with panel.page.context.expect_page() as opened:
        link.click()
    page = opened.value
    page.wait_for_load_state()
    assert page.locator("h1").text_content() == "Start here"
    assert page.get_by_text("alpha = 0.1 instead of 1.0").count() == 1
    assert page.get_by_text("not judged", exact=True).count() == 1
    page.get_by_role("link", name="all reports").click()
    page.get_by_role("heading", name="Reports").wait_for()
    page.get_by_role("link", name="Start here").last.click()
    page.get_by_role("heading", name="Start here").wait_for()
    page.close()


@one_lab
def test_an_exercise_done_wrongly_then_rightly(open_notebook, screenshot):
    page = open_notebook("00_start_here")
    assert page.get_by_text("w + sizes / sizes.sum() @ deltas").count() == 0, (
        "the solution is folded"
    )
    at = page.evaluate(FIND, "def server_step(")
    answers = {
        None: "Not done yet",
        "w + deltas.mean(0)": "Not yet: every client counts the same; weigh client i by n_i / n",
        "w + sizes / sizes.sum() @ deltas": "Right",
    }
    run_cells(page, [at - 2])
    for answer, says in answers.items():
        if answer:
            page.evaluate(
                SET_SOURCE, [at, f"def server_step(w, deltas, sizes):\n    return {answer}"]
            )
        run_cells(page, [at, at + 1])
        page.locator(".fedlab-check", has_text=says).wait_for()
    screenshot(page, "00_exercise")


CONTRAST = """element => {
  const shine = colour => {
    const parts = colour.match(/[\\d.]+/g).map(v => v / 255);
    const [r, g, b] = parts.map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  let under = element;
  const behind = () => getComputedStyle(under).backgroundColor;
  while (behind().match(/, 0\\)|transparent/)) under = under.parentElement;
  const both = [shine(getComputedStyle(element).color), shine(behind())];
  return (Math.max(...both) + .05) / (Math.min(...both) + .05);
}"""


@one_lab
def test_dark_theme_and_200_per_cent(open_notebook, screenshot):
    page = open_notebook(
        "00_start_here", viewport={"width": 640, "height": 500}, device_scale_factor=2
    )
    page.evaluate(
        "window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    page.evaluate("window.jupyterapp.shell.collapseLeft()")
    run_cells(page, TO_PANEL)
    panel = PanelPage(page)
    panel.until("^done")
    panel.button("Numbers").click()
    panel.button("Code").click()  # before a field holds what cannot be copied
    panel.box.locator("code").first.wait_for()
    panel.button("Predict first").click()
    panel.type("alpha", "none")
    words = ".fedlab-status, label, span[role=alert], td, code, .widget-label"
    for element in panel.box.locator(words).all():
        assert element.evaluate(CONTRAST) >= 4.5, element.text_content()
    right = panel.box.bounding_box()["x"] + panel.box.bounding_box()["width"]
    for element in panel.box.locator("input, button, .noUi-target, img").all():
        if element.is_visible():
            assert element.bounding_box()["x"] + element.bounding_box()["width"] <= right + 1, (
                element.evaluate("e => e.outerHTML")
            )
    screenshot(panel.box, "00_panel_dark_200_per_cent")


DRAWN = """
import time
from IPython.display import display
from fedlab.lab import plots
from fedlab.lab.widgets.view import PictureView
view = PictureView()
display(view)
rows = [{"seed": s, "round": t, "accuracy": t / 100} for s in range(5) for t in range(101)]
for _ in range(12):
    time.sleep(0.3)
    began = time.time()
    picture = plots.curves(rows, earlier={f"alpha={k}": rows for k in range(5)})
    picture.alt = f"began {began}"
    view.show(picture)
"""
ARRIVED = """() => {
  const seen = new Map();
  const look = () => {
    for (const svg of document.querySelectorAll("svg[aria-label^='began ']")) {
      const began = Number(svg.ariaLabel.split(' ')[1]);
      if (!seen.has(began)) seen.set(began, Date.now() / 1000 - began);
    }
  };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true});
  window.arrived = () => [...seen.values()];
}"""


def draw_and_send(page) -> list[float]:
    """Return the seconds from the start of a drawing until it is on the page, once per picture."""
    page.evaluate(ARRIVED)
    page.evaluate(SET_SOURCE, [7, DRAWN])
    run_cells(page, [7])
    page.wait_for_function("window.arrived().length >= 12")
    return page.evaluate("window.arrived()")[2:]


@one_lab
def test_speed(panel, figure, pytestconfig):
    """Print figures and assert nothing: a slow or busy machine is no fault of the panel."""
    first, whole, five, cancelled = [], [], [], []
    panel.listen()
    pictured = pytestconfig.getoption("--take-picture")
    repeats = 10 if pictured else 2
    for k in range(repeats):
        panel.put("alpha", 2 + k)
        first.append(panel.seconds(rf"^(running|done) .*alpha={2 + k} .* round="))
        whole.append(panel.seconds(rf"^done .*alpha={2 + k} "))
    for k in range(repeats):
        panel.type("alpha", f"{20 + k}")
        panel.until(rf"^running .*alpha={20 + k} .* round=")
        panel.button("Stop").click()
        panel.until("^stopped")
        cancelled.append(panel.seconds("^stopped"))
    panel.put("seeds", 5)
    for k in range(repeats):
        panel.put("alpha", 40 + k)
        five.append(panel.seconds(rf"^done .*alpha={40 + k} "))
    timings = {
        "first picture": first,
        "100 rounds": whole,
        "100 rounds of five seeds": five,
        "stop": cancelled,
        "a picture drawn and sent": draw_and_send(panel.page),
    }
    medians = {name: round(statistics.median(seconds), 2) for name, seconds in timings.items()}
    figure(f"panel of 00, seconds from the key to what is said, medians of {repeats}: {medians}")
    if pictured:  # beside what the machine can do, for the README
        floor = [
            sys.executable,
            ROOT / "tests" / "bench" / "works.py",
            "--work",
            "W1",
            "--system",
            "floor",
        ]
        done = subprocess.run(floor, capture_output=True, text=True, check=True)
        record = {
            "seconds": medians,
            "floor": round(100 * json.loads(done.stdout)["s_per_round"], 2),
        }
        (ROOT / "reports" / "panel.json").write_text(json.dumps(record, indent=1) + "\n")
