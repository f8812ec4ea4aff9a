"""The dashboard as an analyst uses it: compose, run, keep, compare, load; every widget."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driver import PanelPage, run_cells
from playwright.sync_api import expect

from fedlab.lab.widgets.composer import CONTROLS, only_if


@pytest.mark.parametrize("lab", ["perCommTarget"], indirect=True)
def test_the_dashboard(open_notebook, screenshot):
    page = open_notebook("dashboard", viewport={"width": 1600, "height": 1500})
    run_cells(page, [1])
    panel = PanelPage(page)
    panel.until("^done  all defaults")
    panel.type("rounds", "20")
    panel.until("^waiting .*rounds=20")
    panel.button("Run").click()
    plain = panel.number("accuracy", "^done  rounds=20 ")
    panel.type("name", "plain")
    panel.button("Keep").click()
    panel.box.get_by_text("kept in kept/plain").wait_for()

    # Another method, beside the first.
    panel.choose("algorithm", "FedAdam")
    panel.type("server_lr", "0.03")
    panel.until("^waiting .*server_lr=0.03")
    panel.button("Run").click()
    adam = panel.number("accuracy", "^done  algorithm=FedAdam  server_lr=0.03  rounds=20 ")
    assert adam > plain, "twenty rounds are few, and FedAdam is ahead"
    panel.choose("beside", "plain")
    panel.box.locator("svg[aria-label*='plain ends at']").wait_for()
    panel.choose("along", "megabytes")
    panel.box.locator("svg[aria-label*='against megabytes']").wait_for()
    panel.choose("of", "loss")
    panel.box.locator("svg[aria-label*='loss against']").wait_for()
    screenshot(panel.box, "dashboard_two_runs")
    panel.button("Load").click()
    panel.until("^done  rounds=20 .*seen before")

    # The first run is pinned, and the second one is compared with it.
    panel.button("Pin A").click()
    panel.box.get_by_text("A is pinned").wait_for()
    panel.choose("algorithm", "FedAdam")
    panel.type("server_lr", "0.03")
    panel.until("^done  algorithm=FedAdam  server_lr=0.03  rounds=20 .*seen before")
    gap = panel.box.locator(".fedlab-gap")
    gap.get_by_text(
        re.compile(r"^B − A at round 20: accuracy \+0\.\d+ .*set seeds to 3")
    ).wait_for()
    screenshot(panel.box, "dashboard_pinned")
    panel.button("Unpin A").click()
    panel.choose("algorithm", "FedAvg")

    # An impossible setting is explained beside its control.
    panel.type("cohort", "500")
    panel.until("^waiting .*cohort=500")
    panel.button("Run").click()
    panel.row("cohort").get_by_text("must be at most 100").wait_for()
    panel.type("cohort", "10")

    # A long run can be stopped.
    panel.type("rounds", "1000")
    panel.until("^waiting .*rounds=1000")
    panel.button("Run").click()
    panel.until("^running .*round=")
    panel.button("Stop").click()
    panel.until("^stopped")

    # All other widgets.
    panel.type("rounds", "5")
    for name, parameter in CONTROLS.items():
        if parameter.choices:
            panel.choose(name, str(parameter.choices[-1]))
            panel.choose(name, str(parameter.default))
        else:
            conditions = only_if().get(name, {}).items()
            needed = {by: at for by, at in conditions if CONTROLS[by].default not in at}
            for decider, values in needed.items():
                panel.row(name).get_by_text(f"only if {decider} is").wait_for()
                panel.choose(decider, values[0])
                expect(panel.field(name)).to_be_enabled()
            was = panel.field(name).input_value()
            panel.key(
                name, "ArrowRight" if parameter.default < parameter.limits[1] else "ArrowLeft"
            )
            moved = [panel.field(name).element_handle(), was]
            page.wait_for_function("([field, was]) => field.value !== was", arg=moved)
            default = f"{parameter.default:g}"
            panel.type(name, default)
            for decider in needed:
                panel.choose(decider, str(CONTROLS[decider].default))
    panel.until("^done  all defaults .*seen before")
    panel.button("Numbers").click()
    panel.box.locator("table.fedlab-numbers").wait_for()
    panel.button("Code").click()
    program = panel.box.locator("code").first.text_content()
    assert "study = Experiment(" in program
    names: dict = {}
    exec(program.replace("rounds=100", "rounds=1"), names)
    assert names["result"].rounds["round"].max() == 1
    panel.button("Copy").click()
    panel.box.get_by_text("copied", exact=True).first.wait_for()
    line = page.evaluate("navigator.clipboard.readText()")
    assert re.match(r"fedlab [\w.]+ dashboard: data_set=digits clients=100 ", line)
    panel.type("setting", line.replace("rounds=100", "rounds=7").replace("FedAvg", "FedAdam"))
    panel.until("^waiting  algorithm=FedAdam  rounds=7  press Run")
    panel.type("setting", line)
    panel.until("^done  all defaults .*seen before")
    panel.button("Save").click()
    with page.expect_download() as download:
        panel.box.get_by_role("link", name="numbers.csv").click()
    assert re.match(r"megabytes,loss,run\n", Path(download.value.path()).read_text())
    assert panel.point()
    panel.take_out()
    panel.button("Clear earlier runs").click()
    assert panel.driven >= panel.widgets(), f"no test drives {panel.widgets() - panel.driven}"


def test_voila_serves_it_without_code(browser, tmp_path, screenshot):
    root = Path(__file__).parents[2]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fedlab.lab.widgets.serve", "--no-browser", f"--port={port}"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("FEDLAB_HEADLESS", "JPY_SESSION_NAME")
    }
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            address = printed(tmp_path / "log")
            page = browser.new_page(viewport={"width": 1400, "height": 1400})
            heard: list[str] = []
            page.on("response", lambda response: heard.append(response.url))
            page.goto(address, timeout=60_000)
            panel = PanelPage(page)
            panel.until("^done  all defaults")
            panel.type("rounds", "10")
            panel.until("^waiting  rounds=10")
            panel.button("Run").click()
            panel.until("^done  rounds=10 ")
            panel.type("rounds", "1001")
            panel.button("Run").click()
            panel.until("^not run  rounds=1001 lies outside 1 to 1000")
            assert page.get_by_text("from fedlab").count() == 0
            local = (f"http://localhost:{port}/", f"blob:http://localhost:{port}/", "data:")
            assert [url for url in heard if not url.startswith(local)] == [], (
                "nothing comes from elsewhere"
            )
            screenshot(page, "dashboard_voila")
            page.reload()
            panel.until("^done  all defaults")
            stranger = browser.new_page()
            stranger.goto(f"http://localhost:{port}/")
            assert "/login" in stranger.url, "without the token there is no kernel"
            stranger.close()
            page.close()
        finally:
            server.terminate()


def printed(log: Path) -> str:
    """Return the address that the server prints, with its token."""
    for _ in range(240):
        if address := re.search(r"http://localhost:\d+/\?token=\w+", log.read_text()):
            return address[0]
        time.sleep(0.25)
    raise RuntimeError(f"voila did not start:\n{log.read_text()[-2000:]}")
