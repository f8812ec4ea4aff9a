"""JupyterLab on a copy of the notebooks, and Chromium to look at it.

Without Chromium the browser tests are left out.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
]
KERNEL_IS_IDLE = (
    "window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status"
    " === 'idle'"
)
SETTINGS = {"subshells": "perCommTarget", "main thread": "disabled"}


def chromium() -> str | None:
    paths = (
        shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
    )
    return next(filter(None, paths), None)


def pytest_collection_modifyitems(config, items):
    if chromium() is None:
        in_browser = [item for item in items if Path(__file__).parent in item.path.parents]
        config.hook.pytest_deselected(items=in_browser)
        items[:] = [item for item in items if item not in in_browser]


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports("passed"):
        for kind, line in report.user_properties:
            if kind == "figure":
                terminalreporter.write_line(line)
    if chromium() is None:
        how = "install it and run again (Debian: apt install chromium fonts-dejavu-core)"
        terminalreporter.write_line(f"no Chromium: browser tests are left out; {how}")


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium(), args=[*FLAGS, "--disable-sync"]
        )
        yield browser
        browser.close()


@pytest.fixture
def figure(record_property):
    """Report a figure at the end of the tests."""
    return partial(record_property, "figure")


@pytest.fixture(scope="session", params=SETTINGS.values(), ids=SETTINGS)
def lab(request, tmp_path_factory):
    """Start a JupyterLab and yield its address.

    Its widget callbacks run in a thread of their own, or in the kernel's main thread. JupyterLab
    runs in a copy of the repository, because it saves notebooks by itself and panels make reports.
    """
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "fedlab", "data", "requirements.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    overrides = folder / "settings"
    overrides.mkdir()
    (overrides / "overrides.json").write_text(
        json.dumps(
            {
                "@jupyterlab/apputils-extension:kernels-settings": {
                    "commsOverSubshells": request.param
                },
                "@jupyterlab/notebook-extension:tracker": {
                    "windowingMode": "none"
                },  # every cell stays on the page
                "@jupyterlab/apputils-extension:notification": {
                    "fetchNews": "false",
                    "checkForUpdates": False,
                },
            }
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ip=127.0.0.1",
        ),
        *(
            "--IdentityProvider.token=",
            "--ServerApp.port_retries=0",
            "--LabApp.expose_app_in_browser=True",
        ),
        *(f"--LabApp.app_settings_dir={overrides}", f"--ServerApp.root_dir={folder}"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "FEDLAB_HEADLESS"}
    environment |= {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    environment |= {"PYTHONPATH": str(folder)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api/status", server, folder / "log")
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.25)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture
def open_notebook(lab, browser):
    """Return a function that opens a notebook and returns its page when its kernel is idle."""
    contexts = []

    def open_one(name: str, **how):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **how})
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset")
        page.wait_for_function(KERNEL_IS_IDLE)
        return page

    yield open_one
    for context in contexts:
        context.pages[0].evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
        context.close()


@pytest.fixture
def screenshot():
    """Keep a picture of a page, or of a part of it, to be looked at."""
    folder = ROOT / "reports" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)

    def take(element, name: str) -> None:
        element.screenshot(path=folder / f"{name}.png")

    return take
