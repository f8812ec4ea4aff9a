"""The program of a setting gives the same run; runs are kept, found again and compared."""

import re
import shutil
import socket
import subprocess
import sys
import time
import webbrowser
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pandas as pd
import pytest

from fedlab.engine import run, storage
from fedlab.lab.widgets import dashboard as dashboards
from fedlab.lab.widgets.composer import (
    ALGORITHMS,
    CONTROLS,
    MODELS,
    SAMPLERS,
    SPLITS,
    UPLOADS,
    compose,
    program,
)
from fedlab.lab.widgets.dashboard import Dashboard
from fedlab.lab.widgets.output import still_output
from fedlab.lab.widgets.serve import Server

ROOT = Path(__file__).parents[2]

DEFAULTS = {name: parameter.default for name, parameter in CONTROLS.items()}
TABLES = {
    "split": SPLITS,
    "model": MODELS,
    "algorithm": ALGORITHMS,
    "upload": UPLOADS,
    "sampler": SAMPLERS,
}
EVERY = [(name, value) for name, table in TABLES.items() for value in table]
EVERY += [("data_set", "breast_cancer"), ("optimizer", "adamw"), ("batch_size", 0)]


def setting(**changed):
    settings = DEFAULTS | {"rounds": 2, "clients": 20, "cohort": 5} | changed
    return {name: value for name, value in settings.items() if name != "seeds"}


@pytest.fixture
def page(tmp_path):
    dashboard = Dashboard(tmp_path / "kept")
    dashboard.move(rounds=3, clients=20, cohort=5)
    dashboard.restart()
    dashboard.wait()
    return dashboard


def settle(page):
    page._runner.worker.submit(int).result()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), EVERY)
def test_every_choice_can_be_run_and_its_program_gives_the_same(name, value):
    settings = setting(**{name: value})
    names: dict = {}
    exec(program(**settings, seeds=2), names)
    pd.testing.assert_frame_equal(names["result"].rounds, run(compose(**settings), seeds=2).rounds)
    assert names["result"].rounds["round"].max() == 2


@pytest.mark.slow
def test_moving_does_not_run_and_run_does(page):
    assert page.status.startswith("done  clients=20  cohort=5  rounds=3  round=3  accuracy="), (
        "only what was changed"
    )
    page.move(algorithm="SCAFFOLD")
    assert page.status == "waiting  clients=20  algorithm=SCAFFOLD  cohort=5  rounds=3  press Run"
    page.restart()
    page.wait()
    assert page.status.startswith("done  clients=20  algorithm=SCAFFOLD")
    assert page.call == program(**page.settings)


@pytest.mark.slow
def test_what_cannot_be_is_said_beside_its_control(page):
    page.move(optimizer="adamw", algorithm="FedNova")
    page.restart()
    with pytest.raises(ValueError, match="adamw"):
        page.wait()
    assert "adamw" in page._rows["optimizer"].complaint
    page.move(optimizer="sgd", algorithm="FedAvg", cohort=1000)
    page.restart()
    with pytest.raises(ValueError, match="1000"):
        page.wait()
    assert "must be at most 20" in page._rows["cohort"].complaint


NOT_READ = {
    "rounds": ["1001", "0", "-5", "", "2.5", "twenty", "1,000", "1e3"],
    "lr": ["0", "-0.1", "11", "", "fast", "0,1", "nan", "inf"],
    "alpha": ["1e9", "--1", "1.0.0"],
    "cohort": ["1001", " ", "10 clients"],
    "seeds": ["11", "one"],
}


def test_run_refuses_what_a_field_cannot_hold(page):
    before = page.settings
    for name, text in ((name, text) for name, texts in NOT_READ.items() for text in texts):
        page._rows[name]._field.value = text
        press(page, "Run")
        assert page.status == f"not run  {page._rows[name].complaint}"
        assert page.status.startswith(f"not run  {name}="), text
        assert page.settings == before
        press(page, "Code")
        assert f"{name}=" in page._export.widget.value, (
            "what is copied would not be what is in the fields"
        )
        assert 'role="alert"' in page._export.widget.value
        page._rows[name].move(before[name])
    press(page, "Run")
    page.wait()
    assert page.status.startswith("done  clients=20")


BLAMED = [
    ("cohort", {"cohort": 200, "clients": 10, "width": 200}),
    ("cohort", {"cohort": 200, "clients": 10, "sampler": "poisson"}),
    ("cohort", {"cohort": 200, "clients": 10, "sampler": "by_size"}),
    ("clients", {"clients": 1000, "data_set": "breast_cancer"}),
    ("pieces", {"pieces": 10, "split": "shards", "clients": 1000}),
    ("pieces", {"pieces": 5, "split": "classes_per_client", "data_set": "breast_cancer"}),
    ("pieces", {"pieces": 1, "split": "classes_per_client", "clients": 5}),
    ("optimizer", {"optimizer": "adamw", "algorithm": "SCAFFOLD"}),
]


@pytest.mark.parametrize(("name", "changed"), BLAMED)
def test_an_error_stands_at_the_field_that_it_is_about(tmp_path, name, changed):
    page = Dashboard(tmp_path / "kept")
    page.move(**changed)
    press(page, "Run")
    with pytest.raises(ValueError, match="="):
        page.wait()
    assert [each for each, row in page._rows.items() if row.complaint] == [name]


@pytest.mark.slow
def test_what_was_stopped_can_be_run_again(page):
    page.move(rounds=1000)
    press(page, "Run")
    press(page, "Stop")
    assert page.status.startswith("stopped  clients=20")
    page.wait()
    page.move(rounds=4)
    page.move(rounds=1000)
    assert page.status.startswith("waiting")
    press(page, "Run")
    press(page, "Stop")
    press(page, "Run again")
    assert page.status.startswith("running  clients=20")
    page.stop()
    press(page, "Run")
    assert page.status.startswith("running  clients=20")
    page.stop()
    page.wait()


def press(page, name):
    bars = [part for part in page.widget.children[0].children if hasattr(part, "children")]
    buttons = [
        part for bar in bars for part in bar.children if getattr(part, "description", "") == name
    ]
    buttons[0].click()


@pytest.mark.slow
def test_runs_are_kept_found_and_compared(page):
    page._name.value = "plain"
    page._keep.click()
    assert "kept in kept/plain" in page._message.value
    saved = storage.load_result(page.folder / "plain")
    assert saved.rounds["round"].max() == 3
    page.move(algorithm="FedNova")
    page._name.value = "nova"
    page._keep.click()
    assert "press Run, and keep it then" in page._message.value, "what has not run cannot be kept"
    page.restart()
    page.wait()
    page._keep.click()
    again = Dashboard(page.folder)
    assert list(again._chosen.options) == ["nova", "plain"]
    again.move(rounds=3, clients=20, cohort=5)
    again.restart()
    again.wait()
    again._chosen.value = ("nova", "plain")
    settle(again)
    assert set(again.picture.table["run"]) == {"now", "nova", "plain"}
    last = again.picture.table.groupby("run")["accuracy"].last()
    assert last["now"] == last["plain"] == saved.final()["accuracy"].item()
    again._x.value, again._y.value = "megabytes", "loss"
    settle(again)
    assert list(again.picture.table.columns) == ["megabytes", "loss", "run"]
    spent = again.picture.table.groupby("run")["megabytes"]
    assert (spent.first() == 0).all(), "each run begins at nothing"
    bytes_sent = saved.rounds[["bytes_up", "bytes_down"]].to_numpy().sum()
    assert spent.last()["plain"] == spent.last()["now"] == pytest.approx(bytes_sent / 1e6)
    again._chosen.value = ("nova",)
    again._load.click()
    assert again.settings["algorithm"] == "FedNova"


def test_names_are_checked(page):
    for name, says in {
        "": "beginning with a letter",
        "../x": "letters",
        "a" * 61: "up to 60",
    }.items():
        page._name.value = name
        page._keep.click()
        assert says in page._message.value
    page._name.value = "same"
    page._keep.click()
    page._keep.click()
    assert "kept already" in page._message.value
    page._load.click()
    assert "no run is chosen" in page._message.value
    with pytest.raises(ValueError, match="name='now'"):
        page.keep("now")


@pytest.mark.slow
def test_another_run_of_the_same_name_is_another_run(page):
    page.keep("plain")
    page._chosen.value = ("plain",)
    settle(page)
    before = page.picture.table.query("run == 'plain'")["accuracy"].tolist()
    page._chosen.value = ()
    shutil.rmtree(page.folder / "plain")
    page.move(algorithm="FedAdam")
    page.restart()
    page.wait()
    page.keep("plain")
    page._chosen.value = ("plain",)
    settle(page)
    assert page.picture.table.query("run == 'plain'")["accuracy"].tolist() != before


@pytest.mark.slow
def test_what_is_kept_and_damaged_is_said(page):
    page.keep("plain")
    (page.folder / "plain" / "rounds.csv").write_text("no table")
    page._chosen.value = ("plain",)
    settle(page)
    assert "Traceback" in page._page.errors.value
    (page.folder / "plain" / "experiment.json").write_text('{"experiments": []}')
    page._load.click()
    assert "IndexError" in page._message.value


@pytest.mark.slow
def test_no_more_than_eight(page):
    for k in range(dashboards.MAX_RUNS):
        page.keep(f"run {k}")
    page._chosen.value = tuple(f"run {k}" for k in range(dashboards.MAX_RUNS - 1))
    settle(page)
    assert page.picture.table["run"].nunique() == dashboards.MAX_RUNS
    page._chosen.value = page._chosen.options
    assert "8 are side by side at most" in page._message.value


@pytest.mark.slow
def test_headless_it_shows_two_states(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDLAB_HEADLESS", "1")
    monkeypatch.setitem(dashboards.CONTROLS, "rounds", CONTROLS["rounds"]._replace(default=2))
    panel = Dashboard(tmp_path)
    bundle = still_output(panel, panel._compare_with)
    second, default = bundle["application/vnd.fedlab.panel+json"]["states"]
    assert second["settings"]["algorithm"] == "FedAdam"
    assert default["status"].startswith("done  all defaults  round=2")


@pytest.mark.slow
def test_only_this_computer_is_served_and_only_with_the_token(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "log"
    command = [sys.executable, "-m", "fedlab.lab.widgets.serve", "--no-browser", f"--port={port}"]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=errors, stderr=errors) as server,
    ):
        try:
            deadline = time.monotonic() + 60
            while not (token := re.search(r"token=(\w+)", log.read_text())):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)

            def ask(path: str, host: str) -> tuple[int, str, str]:
                with closing(HTTPConnection("127.0.0.1", port)) as asking:
                    asking.request("GET", path, headers={"Host": host})
                    answer = asking.getresponse()
                    answer.read()
                    policy = answer.getheader("Content-Security-Policy") or ""
                    return answer.status, answer.getheader("Location") or "", policy

            status, to, policy = ask("/", f"localhost:{port}")
            assert (status, to) == (302, "/login?next=%2F")
            assert policy.startswith("default-src 'self'")
            assert ask("/?token=wrong", f"127.0.0.1:{port}")[0] == 302
            for host in (
                "evil.example",
                f"evil.example:{port}",
                "localhost.evil.example",
                "10.0.0.1",
            ):
                assert ask(f"/?token={token[1]}", host)[0] == 403, host
            assert (
                ask("/api/kernels/0a1b2c3d-0000-0000-0000-000000000000", f"localhost:{port}")[0]
                == 403
            )
            assert "Kernel started" not in log.read_text()
        finally:
            server.terminate()


def test_the_page_that_is_opened_has_the_token(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    server = Server(connection_dir=str(tmp_path), port=1234)
    server.identity_provider = server.identity_provider_class(token="abc")
    server.launch_browser()
    assert 'url=http://localhost:1234/?token=abc"' in (tmp_path / "open.html").read_text()
    assert opened == [(tmp_path / "open.html").as_uri()]
    assert "abc" not in opened[0]
