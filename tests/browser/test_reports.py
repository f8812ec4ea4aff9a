"""The reports in a browser that has no network: wide and narrow, light and dark, and printed."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fedlab.lab.course import list_lessons
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.render import render_page

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


SCREENS = {
    f"{scheme}_{width}": {"color_scheme": scheme, "viewport": {"width": width, "height": height}}
    for scheme in ("light", "dark")
    for width, height in ((1280, 800), (390, 844))
}
# Parts that end right of the window, and that no box around them lets the reader scroll to.
CUT = """() => [...document.querySelectorAll('body *')].filter((part) => {
  const beyond = part.checkVisibility() && part.getBoundingClientRect().right > innerWidth + 1;
  const scrolls = (box) => ['auto', 'scroll'].includes(getComputedStyle(box).overflowX);
  for (let box = part.parentElement; beyond && box; box = box.parentElement)
    if (scrolls(box)) return false;
  return beyond;
}).map((part) => part.outerHTML.slice(0, 200))"""
SHOWN = (
    "(css) => [...document.querySelectorAll(css)].filter((part) => part.checkVisibility()).length"
)


@pytest.fixture(params=SCREENS)
def page(request, browser):
    context = browser.new_context(offline=True, **SCREENS[request.param])
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    context.close()


def broken_images(page) -> list:
    broken = "i => !i.complete || !i.naturalWidth || !i.hasAttribute('alt')"
    return page.evaluate(
        f"[...document.images].filter({broken}).map(i => i.outerHTML.slice(0, 200))"
    )


def fits(page) -> bool:
    """Return whether the page has nothing to scroll to at its right, and nothing is cut there."""
    assert not page.evaluate(CUT)
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_index_leads_to_passing_reports(reports, page, screenshot, request):
    page.goto((reports / "index.html").as_uri())
    screenshot(page, f"reports_index_{request.node.callspec.params['page']}")
    for name in NAMES:
        assert page.locator(f"a[href='{name}/report.html']").count() >= 1
    assert page.get_by_text("pass", exact=True).count() == len(NAMES)
    assert not broken_images(page)
    assert fits(page)
    assert page.locator("article .answer").count() >= len(NAMES), "each card answers"
    assert not page.complaints
    assert all(url.startswith(("file:", "data:")) for url in page.asked)
    page.locator(f"a[href='{NAMES[0]}/report.html']").last.click()
    page.wait_for_url("**/report.html")


@pytest.mark.parametrize("name", NAMES)
def test_a_report_needs_nothing_but_itself(reports, page, name, screenshot, request):
    page.goto((reports / name / "report.html").as_uri())
    screenshot(page, f"{name}_report_{request.node.callspec.params['page']}")
    assert len(page.asked) == len([url for url in page.asked if url.startswith("data:")]) + 1, (
        "one file, no other"
    )
    assert not broken_images(page)
    assert fits(page)
    answered = page.locator("header .answer").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    assert answered.split("\n\n") == json.loads((reports / name / "run.json").read_text())["answer"]
    assert page.evaluate("[...document.images].every(i => i.alt)"), "each picture has its words"
    assert not page.complaints
    numbers = page.locator("details", has=page.locator("table.fedlab-numbers"))
    assert numbers.count() >= 2, "a table beside each picture of a panel"
    sizes = page.evaluate(
        "[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(sizes) >= 5
    assert min(sizes) > 5
    assert "$" not in page.locator("main").inner_text()
    source = page.locator("details pre").first
    assert not source.is_visible(), "code is folded"
    page.get_by_role("button", name="code").click()
    assert source.is_visible()
    metrics = json.loads((reports / name / "metrics.json").read_text())["metrics"]
    assert all(page.get_by_text(metric["name"]).count() for metric in metrics)


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_report_is_light_whole_and_without_buttons(reports, browser, name, tmp_path):
    # an A4 page without its margins is as wide as 680 pixels
    context = browser.new_context(
        offline=True, color_scheme="dark", viewport={"width": 680, "height": 1000}
    )
    page = context.new_page()
    page.goto((reports / name / "report.html").as_uri())
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(SHOWN, "#unfold, .nav a, main .code, main .output summary") == 0
    assert page.evaluate(SHOWN, "#numbers tr") >= 2, "folded numbers are printed"
    closed = ".text_cell_render details:not([open])"
    assert page.evaluate(SHOWN, closed) == 0, "answers and hints are printed"
    assert fits(page)
    scrolled = "[...document.querySelectorAll('main .output_html, main .formula, main pre')]"
    cut = page.evaluate(f"{scrolled}.filter(box => box.scrollWidth > innerWidth).length")
    assert cut == 0, "paper does not scroll"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert not page.evaluate(SHOWN, "#numbers tr")
    pages = page.pdf(path=tmp_path / "report.pdf", format="A4", prefer_css_page_size=True)
    assert pages.startswith(b"%PDF")
    context.close()


HOSTILE = """<script>document.title = 'run'</script><script src="ELSEWHERE/a.js"></script>
<img src=x alt=x onerror="document.title = 'run'"><img alt=x src="ELSEWHERE/a.png">
<iframe src="ELSEWHERE/frame" srcdoc="<script>parent.document.title = 'run'</script>"></iframe>
<META http-equiv="refresh" content="0;url=ELSEWHERE/refresh"><base href="ELSEWHERE/">
<link rel="stylesheet" href="ELSEWHERE/a.css"><link rel="prefetch" href="ELSEWHERE/b">
<style>@import "ELSEWHERE/b.css"; p { background: url("ELSEWHERE/b.png") }</style>
<svg onload="document.title = 'run'"><image href="ELSEWHERE/c.png"/>
<script>document.title = 'run'</script></svg>
<object data="ELSEWHERE/d"></object><video src="ELSEWHERE/e" autoplay></video>
<button autofocus onfocus="document.title = 'run'">go</button>
<a href="javascript:document.title = 'run'">a link</a>
<details open ontoggle="document.title = 'run'"><summary>x</summary></details></p></main></body>"""


@pytest.fixture
def elsewhere():
    """An address that notes what it is asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_what_a_notebook_puts_out_neither_runs_nor_loads(browser, tmp_path, elsewhere):
    address, asked = elsewhere
    hostile = HOSTILE.replace("ELSEWHERE", address)
    cells = [new_markdown_cell(hostile), new_code_cell("x", execution_count=1)]
    kinds = ("text/html", "image/svg+xml", "text/markdown")
    cells[1].outputs = [new_output("display_data", {kind: hostile}) for kind in kinds]
    (lesson, *_) = list_lessons()
    run = {
        "status": "pass",
        "finished": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "reason": "",
        "changed": {},
    }
    run |= {"parameters": {}, "versions": {}}
    path = tmp_path / "report.html"
    path.write_text(
        render_page(Report(lesson, {}, tmp_path), new_notebook(cells=cells), run, []),
        encoding="utf-8",
    )
    page = browser.new_page()
    page.goto(path.as_uri())
    page.get_by_text("a link").first.click()
    page.wait_for_timeout(500)
    assert page.url == path.as_uri()
    assert page.title() == lesson.title
    assert asked == []
    page.get_by_role("button", name="show all code").click()
    assert page.locator("details pre").first.is_visible(), "the page's own script runs"
    page.close()
