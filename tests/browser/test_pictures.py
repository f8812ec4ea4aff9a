"""The README's pictures: `make readme` takes them, and other runs leave them alone."""

import io
import time
from collections.abc import Callable

import pytest
from driver import PanelPage, run_cells
from PIL import Image
from test_panel import ROOT, TO_PANEL, one_lab

COLOURS = 64
WIDTH = 900  # pixels
MOST_SECONDS, SECONDS_AT_END = 0.25, 1.2  # that one frame is shown


def small(png: bytes) -> Image.Image:
    """Return a picture at the README's width, with few colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.LANCZOS)
    return image.quantize(COLOURS, dither=Image.Dither.NONE)


def film(panel: PanelPage, moves: list[Callable[[], None]]) -> list[tuple[bytes, float]]:
    """Return screenshots of a panel while it is moved, each with its seconds on the screen."""
    frames = []
    for move in moves:
        move()
        while True:
            began = time.monotonic()
            png = panel.box.screenshot()
            if panel.status.startswith("done"):
                frames.append((png, SECONDS_AT_END))
                break
            frames.append((png, min(time.monotonic() - began, MOST_SECONDS)))
    return frames


@one_lab
@pytest.mark.picture
def test_a_film_of_the_panel(open_notebook):
    page = open_notebook("00_start_here")
    run_cells(page, TO_PANEL)
    panel = PanelPage(page)
    panel.until("^done")
    panel.put("seeds", 5)
    values = (0.2, 0.05, 10)
    moves = [lambda value=value: panel.type("alpha", str(value)) for value in values]
    frames = film(panel, moves)
    pictures = [small(png) for png, _ in frames]
    pictures[0].save(
        ROOT / "reports" / "panel.gif",
        save_all=True,
        append_images=pictures[1:],
        duration=[round(1000 * seconds) for _, seconds in frames],
        loop=0,
        optimize=True,
    )
    panel.put("alpha", 1)
    panel.box.screenshot(path=ROOT / "reports" / "panel.png")


@one_lab
@pytest.mark.picture
def test_a_picture_of_the_dashboard(open_notebook):
    page = open_notebook("dashboard", viewport={"width": 1600, "height": 1400})
    run_cells(page, [0, 1])
    panel = PanelPage(page)
    panel.until("^done")
    panel.button("Run").click()
    panel.until("^done")
    small(panel.box.screenshot()).save(ROOT / "reports" / "dashboard.png", optimize=True)
