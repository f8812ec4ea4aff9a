"""A panel as a reader meets it: labels, keys, status line and picture."""

import re

PIXELS = """svg => {
  const marks = [svg.innerHTML, svg.closest('figure').querySelector('script').textContent];
  return [...marks.join()].reduce((h, c) => (31 * h + c.codePointAt(0)) | 0, 7);
}"""
LAST_POINT = """svg => {
  const runs = JSON.parse(svg.closest('figure').querySelector('script').textContent);
  const point = runs.flatMap(run => run.points).at(-1), place = svg.createSVGPoint();
  if (!point) return null;
  svg.scrollIntoView({block: 'center'});
  [place.x, place.y] = point;
  const {x, y} = place.matrixTransform(svg.getScreenCTM());
  return [x, y];
}"""
RUN = """async cells => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  for (const at of cells) {
    notebook.activeCellIndex = at;
    await window.jupyterapp.commands.execute('notebook:run-cell');
  }
}"""
QUEUE = """cells => cells.forEach(at => {
  window.jupyterapp.shell.currentWidget.content.activeCellIndex = at;
  window.jupyterapp.commands.execute('notebook:run-cell');
})"""
# The page itself waits and keeps the time: polling it would take processor time from the run.
LISTEN = """box => {
  let began = 0;
  const touched = () => { began = performance.now(); box.heard = []; };
  for (const kind of ['keydown', 'pointerdown']) box.addEventListener(kind, touched, true);
  const status = () => box.querySelector('.fedlab-status').textContent;
  const note = () => box.heard?.push([(performance.now() - began) / 1000, status()]);
  new MutationObserver(note).observe(box, {subtree: true, childList: true});
}"""
UNTIL = """(box, [pattern, seconds]) => new Promise(resolve => {
  const said = () => box.querySelector('.fedlab-status').textContent;
  const end = () => { clearTimeout(late); changes.disconnect(); resolve(said()); };
  const look = () => new RegExp(pattern).test(said()) && end();
  const late = setTimeout(end, 1000 * seconds);
  const changes = new MutationObserver(look);
  changes.observe(box, {subtree: true, childList: true});
  look();
})"""
SET_SOURCE = """([at, source]) => {
  window.jupyterapp.shell.currentWidget.content.widgets[at].model.sharedModel.setSource(source);
}"""


def run_cells(page, cells) -> None:
    """Run the cells with these numbers, one after another."""
    page.evaluate(RUN, list(cells))


class PanelPage:
    """The ``k``-th panel of a page; ``driven`` holds the names of the widgets that were used."""

    def __init__(self, page, k: int = 0):
        self.page = page
        self.box = page.locator(".jp-OutputArea-output:has(.fedlab-status)").nth(k)
        self.driven: set[str] = set()

    @property
    def status(self) -> str:
        return self.box.locator(".fedlab-status").text_content()

    @property
    def complaints(self) -> list[str]:
        return self.box.locator("span[role=alert]").all_text_contents()

    @property
    def drawing(self):
        return self.box.locator(".fedlab-picture > div > svg")

    @property
    def alt(self) -> str:
        return self.drawing.get_attribute("aria-label")

    @property
    def pixels(self) -> int:
        return self.drawing.evaluate(PIXELS)

    def until(self, pattern: str, seconds: float = 60) -> str:
        """Wait for a status line that fits a pattern, and return it."""
        said = self.box.evaluate(UNTIL, [pattern, seconds])
        assert re.search(pattern, said), f"waited for {pattern!r}, and the panel says {said!r}"
        return said

    def listen(self) -> None:
        """Let the page note every status line with its time from now on."""
        self.box.evaluate(LISTEN)

    def seconds(self, pattern: str) -> float:
        """Return the seconds from the last key or click to a status line that fits the pattern."""
        heard = self.box.evaluate("box => box.heard")
        return next(seconds for seconds, said in heard if re.search(pattern, said))

    def number(self, name: str, pattern: str = "^done") -> float:
        """Return the number ``name`` of the status line, once the line fits the pattern."""
        return float(re.search(rf"{re.escape(name)}=([-\d.e+]+)", self.until(pattern))[1])

    def field(self, name: str):
        return self.box.get_by_label(name, exact=True)

    def put(self, name: str, value) -> str:
        """Type or choose a value; return the status line once the run with it is done."""
        self.driven.add(name)
        value = f"{value:g}" if isinstance(value, float) else str(value)
        if self.field(name).evaluate("field => field.tagName") == "SELECT":
            self.field(name).select_option(value)
        else:
            self.field(name).fill(value)
            self.field(name).press("Enter")
        return self.until(rf'^done .*\b{name}="?{re.escape(value)}"? ')  # a comma is quoted

    def type(self, name: str, text: str) -> None:
        """Type without waiting for anything."""
        self.driven.add(name)
        self.field(name).fill(text)
        self.field(name).press("Enter")

    def choose(self, name: str, value: str) -> None:
        """Choose from a list without waiting for anything."""
        self.driven.add(name)
        self.field(name).select_option(value)

    def row(self, name: str):
        return self.box.locator(".widget-hbox:has(> .widget-text)").filter(
            has=self.page.get_by_label(name, exact=True)
        )

    def key(self, name: str, key: str = "ArrowRight") -> None:
        """Press a key on the slider of ``name``."""
        self.driven.add(f"slider of {name}")
        handle = self.row(name).locator(".noUi-handle[role=slider]")
        handle.focus()
        handle.press(key)

    def button(self, name: str):
        self.driven.add(name)
        return self.box.get_by_role("button", name=name, exact=True)

    def point(self) -> str:
        """Move the pointer to the last point of the picture; return what the tip says."""
        self.driven.add("points of the picture")
        x, y = self.drawing.evaluate(LAST_POINT)
        self.page.mouse.move(x - 1, y)
        self.page.mouse.move(x, y)
        tip = self.page.locator(".fedlab-tip")
        tip.wait_for()
        return tip.inner_text()

    def take_out(self) -> None:
        """Point at the first name of the picture, take its part out by a click, and put it back."""
        self.driven.add("names of the picture")
        name = self.box.locator(".fedlab-names button").first
        part = self.drawing.locator(f"[data-run='{name.get_attribute('data-run')}']").first
        name.hover()
        self.box.locator(".fedlab-picture.lit").wait_for()
        name.click()
        part.wait_for(state="hidden")
        name.click()
        part.wait_for(state="visible")

    def widgets(self) -> set[str]:
        """Return the names of all widgets: fields, lists, sliders, buttons, the picture."""
        fields = (
            self.box.locator(".widget-text:not(.fedlab-asked), .widget-dropdown, .widget-select")
            .locator("label")
            .all_text_contents()
        )
        led = self.box.locator(".widget-hbox:has(> .widget-text):has(.noUi-handle)").locator(
            ".widget-text label"
        )
        return {
            *fields,
            *(f"slider of {name}" for name in led.all_text_contents()),
            *self.box.locator("button.jupyter-button").all_text_contents(),
            *(["points of the picture"] * bool(self.drawing.evaluate(LAST_POINT))),
            *(["names of the picture"] * bool(self.box.locator(".fedlab-names button").count())),
        }
