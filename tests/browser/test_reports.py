"""The reports in a browser that has no network, light and dark."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(params=["light", "dark"])
def page(request, browser):
    context = browser.new_context(offline=True, color_scheme=request.param)
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    context.close()


def broken_images(page) -> list:
    broken = "i => !i.complete || !i.naturalWidth || !i.hasAttribute('alt')"
    return page.evaluate(f"[...document.images].filter({broken}).map(i => i.outerHTML.slice(0, 200))")


def test_the_index_leads_to_passing_reports(reports, page, screenshot, request):
    page.goto((reports / "index.html").as_uri())
    screenshot(page, f"reports_index_{request.node.callspec.params['page']}")
    for name in NAMES:
        assert page.locator(f"a[href='{name}/report.html']").count() >= 1
    assert page.get_by_text("pass", exact=True).count() == len(NAMES)
    assert not broken_images(page)
    assert not page.complaints
    assert all(url.startswith(("file:", "data:")) for url in page.asked)
    page.locator(f"a[href='{NAMES[0]}/report.html']").last.click()
    page.wait_for_url("**/report.html")


@pytest.mark.parametrize("name", NAMES)
def test_a_report_needs_nothing_but_itself(reports, page, name, screenshot, request):
    page.goto((reports / name / "report.html").as_uri())
    screenshot(page, f"{name}_report_{request.node.callspec.params['page']}")
    assert len(page.asked) == len([url for url in page.asked if url.startswith("data:")]) + 1, "one file, no other"
    assert not broken_images(page)
    assert page.evaluate("[...document.images].every(i => i.alt)"), "each picture has its words"
    assert not page.complaints
    numbers = page.locator("details", has=page.locator("table.fedlab-numbers"))
    assert numbers.count() >= 2, "a table beside each picture of a panel"
    sizes = page.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)")
    assert len(sizes) >= 5
    assert min(sizes) > 5
    assert "$" not in page.locator("main").inner_text()
    source = page.locator("details pre").first
    assert not source.is_visible(), "code is folded"
    page.get_by_role("button", name="code").click()
    assert source.is_visible()
    metrics = json.loads((reports / name / "metrics.json").read_text())["metrics"]
    assert all(page.get_by_text(metric["name"]).count() for metric in metrics)
