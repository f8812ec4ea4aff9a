"""The first notebook's panel as a reader meets it: in JupyterLab, with keys, in both ways of running callbacks."""

import re
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

PIXELS = """() => {
  const image = document.querySelector('.jp-OutputArea-output img.widget-image');
  if (!image || !image.naturalWidth) return null;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const pen = canvas.getContext('2d');
  pen.drawImage(image, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.height).data.reduce((h, b) => (31 * h + b) | 0, 7);
}"""


def status(page) -> str:
    return page.locator(".jp-OutputArea-output [role=status]").text_content()


def until(page, pattern: str, seconds: float = 60) -> str:
    """Wait for a status line; gives it."""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, said := status(page)):
        assert time.monotonic() < deadline, f"waited for {pattern!r}, and the panel says {said!r}"
        page.wait_for_timeout(30)
    return said


def accuracy(said: str) -> float:
    return float(re.search(r"accuracy=([\d.]+)", said)[1])


def field(page, name: str):
    return page.get_by_label(name, exact=True)


def put(page, name: str, value) -> None:
    field(page, name).fill(str(value))
    field(page, name).press("Enter")


def run_to_panel(page) -> None:
    """Run the notebook from its start until the panel stands; the cells after it are still to come."""
    page.evaluate("window.all = window.jupyterapp.commands.execute('notebook:run-all-cells'); 0")
    page.wait_for_selector(".jp-OutputArea-output [role=status]")


def test_the_panel_trains_again(open_notebook, pytestconfig):
    opened = time.monotonic()
    page = open_notebook("00_start_here")
    began = time.monotonic()
    run_to_panel(page)
    until(page, r"^(running .* round=|done)")
    now = time.monotonic()
    print(f"\nfirst picture {now - opened:.1f} s after opening the notebook, {now - began:.1f} s after running it")
    first = until(page, r"^done .*alpha=1 .*clients_per_round=10 .*round=100")
    print(f"first run ended {time.monotonic() - began:.1f} s after running it")
    assert accuracy(first) > 0.8
    page.evaluate("window.all")  # until the last cell is done
    before = page.evaluate(PIXELS)
    assert before is not None

    # The number field, and what its value means: one client a round learns less than ten.
    put(page, "clients_per_round", 1)
    fewer = until(page, r"^done .*clients_per_round=1 ")
    assert accuracy(fewer) < accuracy(first)
    assert page.evaluate(PIXELS) != before

    # The slider by its keys.
    handles = page.locator(".jp-OutputArea-output .noUi-handle[role=slider]")
    handles.nth(1).focus()
    page.keyboard.press("ArrowRight")
    until(page, r"^(running|done) .*clients_per_round=2 ")
    assert field(page, "clients_per_round").input_value() == "2"

    # Twenty keys in a row: the last one wins.
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    until(page, r"^done .*clients_per_round=22 ")

    # Stop ends a run at once and leaves its picture.
    put(page, "clients_per_round", 100)
    until(page, r"^running .*clients_per_round=100 .*round=")
    began = time.monotonic()
    page.get_by_role("button", name="Stop").click()
    stopped = until(page, r"^stopped .*clients_per_round=100")
    took = time.monotonic() - began
    print(f"stopped within {took:.2f} s")
    assert took < 1
    page.wait_for_timeout(1500)
    assert status(page) == stopped, "a stopped run stays stopped"

    # Moving on during a run cancels it.
    put(page, "clients_per_round", 99)
    until(page, r"^running .*clients_per_round=99 ")
    put(page, "clients_per_round", 5)
    until(page, r"^done .*clients_per_round=5 ")

    # Back to the default: the same setting gives the same picture.
    put(page, "clients_per_round", 10)
    until(page, r"^done .*clients_per_round=10 ")
    assert page.evaluate(PIXELS) == before
    if pytestconfig.getoption("--take-picture"):
        page.locator(".jp-OutputArea-output:has(img.widget-image)").screenshot(path=ROOT / "reports" / "panel.png")

    assert page.locator(".jp-OutputArea-output [role=alert]").count() == 0


def test_every_control_has_a_name_and_the_picture_words(open_notebook):
    page = open_notebook("00_start_here")
    run_to_panel(page)
    until(page, r"^done ")
    for name in ("alpha", "clients_per_round"):
        assert field(page, name).count() == 1


FAILING = """
from fedlab.lab.panel import Panel, slider
from fedlab.lab.plots import Picture

def train(n):
    yield n
    if n > 1:
        raise RuntimeError(f"no more than one, and this is {n}")

Panel(train, lambda frame, **_: Picture("nothing"), str, other={"n": 0}, n=slider(1, 0, 3))
"""


def test_a_failing_callback_shows_its_traceback(open_notebook):
    page = open_notebook("00_start_here")
    page.evaluate(
        """code => {
          const cell = window.jupyterapp.shell.currentWidget.content.widgets.find(c => c.model.type === 'code');
          cell.model.sharedModel.setSource(code);
          const notebook = window.jupyterapp.shell.currentWidget.content;
          notebook.activeCellIndex = notebook.widgets.indexOf(cell);
          return window.jupyterapp.commands.execute('notebook:run-cell');
        }""",
        FAILING,
    )
    until(page, r"^done  n=1")
    put(page, "n", 2)
    until(page, r"^failed  n=2  RuntimeError: no more than one, and this is 2")
    assert "Traceback" in page.locator(".jp-OutputArea-output [role=alert]").text_content()
    put(page, "n", 0)
    until(page, r"^done  n=0")
    assert page.locator(".jp-OutputArea-output [role=alert]").count() == 0
