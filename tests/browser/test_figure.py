"""Pictures under the pointer: on a page of their own, without JupyterLab."""

import pandas as pd
import pytest

from fedlab.lab import plots
from fedlab.lab.plots.figure import SCRIPT, STYLE, figure_html

PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<style>body {{ margin: 16px; background: light-dark(#fff, #14181d) }} {style}</style></head>
<body><div id="around" class="fedlab-panel">{figure}</div>
<div class="fedlab-link"><input value="a line"></div>
<button data-copy="a text">Copy</button> <span class="fedlab-said"></span>
<script type="module">{script}</script></body></html>"""
NAMES = ["alpha=0.1", "alpha=1, clients_per_round=10, seeds=5", "now"]


def rising(slope, rounds=31):
    return [{"seed": 0, "round": t, "accuracy": slope * t} for t in range(rounds)]


def picture(rounds=31):
    earlier = {NAMES[0]: rising(0.01), NAMES[1]: rising(0.02)}
    return plots.curves(rising(0.03, rounds), earlier=earlier, x_max=30)


@pytest.fixture(params=["light", "dark"])
def page(request, browser, tmp_path):
    context = browser.new_context(
        color_scheme=request.param, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    path = tmp_path / "page.html"
    html = PAGE.format(
        style=STYLE.read_text(), figure=figure_html(picture()), script=SCRIPT.read_text()
    )
    path.write_text(html, encoding="utf-8")
    page.goto(path.as_uri())
    yield page
    assert page.complaints == []
    context.close()


def place(page, at, height):
    """Return where a point of the axes is on the page; 0 to 1 from the left and from below."""
    box = page.locator(".fedlab-picture > div > svg").bounding_box()
    drawn = picture()
    drawn.png()
    axes = drawn.axes[0].get_position()
    across = (axes.x0 + at * axes.width) / (1 - drawn.names_share)
    up = axes.y0 + height * axes.height
    return box["x"] + box["width"] * across, box["y"] + box["height"] * (1 - up)


def opacity(page, run):
    parts = page.locator(f".fedlab-picture svg [data-run='{run}']")
    return {part.evaluate("e => getComputedStyle(e).opacity") for part in parts.all()}


def test_the_tip_tells_name_round_and_value(page, screenshot, request):
    page.mouse.move(*place(page, 0.5, 0.3))
    tip = page.locator(".fedlab-tip")
    assert tip.inner_text().splitlines() == [NAMES[1], "round 15", "accuracy 0.3", "click: pin"]
    assert page.locator(".fedlab-names .near").inner_text() == NAMES[1]
    screenshot(page, f"figure_tip_{request.node.callspec.params['page']}")
    page.mouse.move(*place(page, 0.1, 0.9))
    assert not tip.is_visible(), "nothing is near"
    page.mouse.move(*place(page, 1.0, 0.9))
    assert tip.inner_text().splitlines()[:2] == ["now", "round 30"]
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    assert page.locator(".fedlab-names .near").count() == 0


def test_a_bar_tells_wherever_the_pointer_is_on_it(page):
    parts = pd.DataFrame({"header": [900, 2], "values": [100, 998]}, ["first", "second"])
    drawn = figure_html(plots.stacked(parts, {"header": "#000000", "values": "#0072B2"}, "bytes"))
    page.evaluate("html => { document.getElementById('around').innerHTML = html; }", drawn)
    bars = page.locator(".fedlab-picture svg [data-run='0']")
    box = bars.first.bounding_box()
    page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + 2)
    tip = page.locator(".fedlab-tip").inner_text().splitlines()
    assert tip[:3] == ["header", "first", "bytes: 900"]


def test_a_tap_tells_and_pins(page):
    context = page.context.browser.new_context(
        has_touch=True, viewport={"width": 390, "height": 800}
    )
    phone = context.new_page()
    phone.goto(page.url)
    phone.touchscreen.tap(*place(phone, 0.5, 0.3))
    assert phone.locator(".fedlab-tip").inner_text().splitlines()[1:3] == [
        "round 15",
        "accuracy 0.3",
    ]
    assert opacity(phone, 0) == {"0.12"}
    context.close()


def test_a_name_shows_its_run_and_a_click_takes_it_out(page, screenshot, request):
    name = page.get_by_role("button", name=NAMES[0])
    name.hover()
    assert opacity(page, 0) == {"1"}
    assert opacity(page, 2) == {"0.12"}
    screenshot(page, f"figure_name_{request.node.callspec.params['page']}")
    name.click()
    curve = page.locator(".fedlab-picture svg [data-run='0']").first
    assert not curve.is_visible()
    assert name.get_attribute("aria-pressed") == "false"
    page.mouse.move(*place(page, 0.5, 0.15))
    assert page.locator(".fedlab-tip b:visible").count() == 0, "what is out does not answer"
    redraw(page, 25)
    assert not page.locator(".fedlab-picture svg [data-run='0']").first.is_visible()
    page.get_by_role("button", name=NAMES[0]).press("Enter")
    assert page.locator(".fedlab-picture svg [data-run='0']").first.is_visible()


def redraw(page, rounds):
    """Put a picture in the place of another, as a panel or a live report does."""
    page.evaluate(
        """html => {
          const around = document.getElementById('around');
          around.innerHTML = html;
          around.dispatchEvent(new Event('fedlab-shown', {bubbles: true}));
        }""",
        figure_html(picture(rounds)),
    )


def test_a_pinned_run_stays_while_the_picture_grows(page):
    spot = place(page, 0.5, 0.45)
    page.mouse.click(*spot)
    page.mouse.move(2, 2)
    assert (opacity(page, 2), opacity(page, 0)) == ({"1"}, {"0.12"})
    redraw(page, 20)
    assert (opacity(page, 2), opacity(page, 0)) == ({"1"}, {"0.12"})
    page.mouse.move(*spot)
    assert page.locator(".fedlab-tip").inner_text().endswith("click: let go")
    redraw(page, 31)
    assert page.locator(".fedlab-tip").is_visible(), "the pointer is still there"
    page.mouse.click(*spot)
    page.mouse.move(2, 2)
    assert opacity(page, 0) == {"1"}


def test_copy_copies_and_says_so(page):
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "a text"


CONTRAST = """element => {
  const shine = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255);
    const [r, g, b] = parts.map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const style = getComputedStyle(element), paper = getComputedStyle(document.body);
  const ink = element.tagName === 'text' ? style.fill : element.tagName === 'line'
    ? style.stroke : style.color;
  const both = [shine(ink), shine(paper.backgroundColor)];
  return (Math.max(...both) + .05) / (Math.min(...both) + .05);
}"""


def test_words_and_lines_can_be_read_in_both_themes(page):
    for element in page.locator(".fedlab-picture text, .fedlab-names span").all():
        assert element.evaluate(CONTRAST) >= 4.5, element.text_content()
    for line in page.locator(".fedlab-names line").all():
        assert line.evaluate(CONTRAST) >= 2.9


def test_a_phone_shows_the_plot_whole_and_the_names_below(page, screenshot, request):
    page.set_viewport_size({"width": 390, "height": 800})
    screenshot(page, f"figure_phone_{request.node.callspec.params['page']}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    svg = page.locator(".fedlab-picture > div > svg").bounding_box()
    assert svg["x"] + svg["width"] <= 390
    for name in page.locator(".fedlab-names button").all():
        assert name.bounding_box()["y"] >= svg["y"] + svg["height"] - 1


def test_hover_is_answered_at_once(page, figure):
    """Print a figure and assert nothing: a slow or busy machine is no fault of the script."""
    spots = [place(page, k / 20, 0.02 * 1.5 * k) for k in range(1, 11)]
    seconds = page.evaluate(
        """spots => spots.map(([x, y]) => {
          const began = performance.now(), under = document.elementFromPoint(x, y);
          const how = {bubbles: true, clientX: x, clientY: y};
          under.dispatchEvent(new PointerEvent('pointermove', how));
          document.querySelector('.fedlab-tip').getBoundingClientRect();
          return performance.now() - began;
        }).sort((a, b) => a - b)""",
        spots,
    )
    figure(f"hover, median of {len(spots)}: {seconds[len(spots) // 2]:.1f} ms")
