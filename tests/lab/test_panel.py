import base64
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from small_panel import count, draw, make_panel, soon

from fedlab.lab.widgets import export, output, runner
from fedlab.lab.widgets import panel as panels
from fedlab.lab.widgets.controls import choice, format_value, slider
from fedlab.lab.widgets.panel import Panel
from fedlab.lab.widgets.predict import Prediction


@pytest.fixture
def shown(monkeypatch):
    """Collect the outputs that panels put on the page."""
    bundles = []

    class Handle:
        def update(self, bundle, raw):
            bundles[-1] = bundle

    def display(bundle, raw, **how):
        bundles.append(bundle)
        return Handle() if how else None

    monkeypatch.setattr(panels, "display", display)
    return bundles


@pytest.mark.slow
def test_default_and_other_setting_as_pictures(monkeypatch, shown):
    monkeypatch.setenv("FEDLAB_HEADLESS", "1")
    trained = []
    make_panel(lambda n: trained.append(n) or count(n))._ipython_display_()
    (bundle,) = shown
    second, default = bundle["application/vnd.fedlab.panel+json"]["states"]
    assert second["settings"] == {"n": 2}
    assert second["status"].startswith("done  n=2  frame=1")
    assert default["settings"] == {"n": 5}
    assert default["status"].startswith("done  n=5  frame=4")
    assert second["image"] != default["image"]
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert 'alt="frame 4, earlier [], expected {}"' in bundle["text/html"], "by itself"
    assert bundle["text/html"].count("<table") == 2, "numbers beside each picture"
    assert "moved to n=2" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert trained == [2, 5], "each state is trained once"


def test_what_training_raises_is_raised_where_nobody_looks(monkeypatch, shown):
    monkeypatch.setenv("FEDLAB_HEADLESS", "1")
    with pytest.raises(ZeroDivisionError):
        make_panel(lambda n: iter([1 / 0]))._ipython_display_()
    assert shown == []


def test_in_a_front_end_the_panel_stands_first_and_a_long_run_holds_nothing_up(monkeypatch, shown):
    monkeypatch.delenv("FEDLAB_HEADLESS", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    monkeypatch.setattr(panels, "PATIENCE", 0.05)
    gate, seen = threading.Event(), []

    def blocked(n):
        seen.append(len(shown))
        gate.wait(10)
        yield n

    panel = make_panel(blocked)
    panel._ipython_display_()
    bundle, left = shown
    assert "image/png" not in bundle
    assert seen == [2], "on the page before it trains"
    assert panel.status == "running  n=5"
    assert "<img" not in left["text/html"]
    gate.set()
    panel.wait()
    assert panel.status.startswith("done  n=5")


def test_a_saved_notebook_keeps_the_last_picture(monkeypatch, shown):
    monkeypatch.delenv("FEDLAB_HEADLESS", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    panel = make_panel(lambda n: count(n, "slow" if n > 9 else "fast"))
    panel._ipython_display_()
    panel.move(n=7)
    panel.wait()
    assert 'alt="frame 6, earlier' in shown[-1]["text/html"]
    assert "done  n=7  frame=6" in shown[-1]["text/html"]
    assert output.LEFT in shown[-1]["text/html"]
    panel.move(n=5000)
    soon(lambda: "frame=" in panel.status)
    panel.stop()
    panel.wait()
    assert "stopped  n=5000  frame=" in shown[-1]["text/html"]
    assert len(shown) == 2, "it is replaced, not repeated"


def test_in_a_front_end_the_first_short_run_has_the_processor_to_itself(monkeypatch, shown):
    monkeypatch.delenv("FEDLAB_HEADLESS", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    monkeypatch.setattr(panels, "PATIENCE", 60)
    panel = make_panel()
    panel._ipython_display_()
    assert panel.status.startswith("done  n=5  frame=4"), "the next cell begins after the run"
    failing = make_panel(lambda n: iter([1 / 0]))
    failing._ipython_display_()
    assert failing.status.startswith("failed  n=5  ZeroDivisionError"), (
        "shown in the panel; the cell itself is well"
    )


@pytest.mark.slow
def test_a_run_takes_one_thread_and_cells_keep_theirs():
    """PyTorch fixes the number of threads when a thread first computes: test in a new process."""
    code = """
import torch
from fedlab.lab.widgets.controls import slider
from fedlab.lab.widgets.panel import Panel
from fedlab.lab.plots import Picture

seen = []
def train(n):
    seen.append(torch.get_num_threads())
    yield n

def draw(*_, **__):
    return Picture("nothing")

one = Panel(train, draw, lambda n: {"n": n}, compare_with={"n": 0}, n=slider(1, 0, 3))
one.restart()
one.wait()
print(*seen, torch.get_num_threads())
"""

    for threads in (1, 2):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["1", str(threads)]


def test_the_last_setting_wins():
    begun, gate = [], threading.Event()

    def gated(n):
        begun.append(n)
        gate.wait(30)
        yield from count(n)

    panel = make_panel(gated)
    panel.restart()
    soon(lambda: begun)
    for n in (*range(10, 30), 3):
        panel.move(n=n)
    gate.set()
    panel.wait()
    assert panel.status.startswith("done  n=3  frame=2")
    assert begun == [5, 3], "settings passed over on the way are never trained"


def test_stop_keeps_the_picture():
    panel = make_panel(lambda n: count(n, "slow"))
    panel.move(n=5000)
    soon(lambda: "frame=" in panel.status)
    panel.stop()
    panel.stop()
    panel.wait()
    assert panel.status.startswith("stopped  n=5000  frame=")
    assert 'aria-label="frame ' in panel._page.image.html
    said = panel.status
    panel.stop()
    assert panel.status == said, "once is enough"


@pytest.mark.slow
def test_what_was_stopped_can_be_run_again():
    gate = threading.Event()

    def train(n):
        for k in range(3):
            yield k + 1
            gate.wait()

    panel = make_panel(train)
    panel.move(n=7)
    soon(lambda: "frame=" in panel.status)
    assert panel._page.stop.description == "Stop"
    panel._page.stop.click()
    assert panel.status.startswith("stopped  n=7")
    assert (panel._page.stop.description, panel._page.stop.disabled) == ("Run again", False)
    gate.set()
    panel._page.stop.click()
    panel.wait()
    assert panel.status.startswith("done  n=7  frame=3")
    assert (panel._page.stop.description, panel._page.stop.disabled) == ("Stop", True)


def test_an_interrupt_of_the_cell_stops_the_run(monkeypatch, shown):
    monkeypatch.delenv("FEDLAB_HEADLESS", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")

    def interrupted(*_):
        raise KeyboardInterrupt

    panel = make_panel(lambda n: count(10_000, "slow"))
    with monkeypatch.context() as patch:
        patch.setattr(panels, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            panel._ipython_display_()
    panel.wait()
    assert panel.status.startswith("stopped  n=5")


def test_errors_are_shown_and_raised():
    def failing(n):
        yield 0
        raise RuntimeError("no more")

    panel = make_panel(failing)
    panel.restart()
    with pytest.raises(RuntimeError, match="no more"):
        panel.wait()
    assert panel.status == "failed  n=5  RuntimeError: no more"
    assert "Traceback" in panel._page.errors.value
    panel._runner.functions = panel._runner.functions._replace(train=count)
    panel.move(n=4)
    panel.wait()
    assert panel.status.startswith("done  n=4")
    assert panel._page.errors.value == ""


@pytest.mark.slow
@pytest.mark.parametrize("words", ["n=7 is too many", "cohort_size=7 is more than there are"])
def test_a_setting_that_cannot_run_is_said_beside_its_control(words):
    def refusing(n, m):
        if n == 7:
            raise ValueError(words)
        yield from count(n)

    panel = make_panel(refusing, m=slider(1, 0, 9))
    panel.restart()
    panel.wait()
    image = panel._page.image.html
    panel.move(n=7)
    with pytest.raises(ValueError, match="7"):
        panel.wait()
    assert panel._rows["n"].complaint == words
    assert panel._rows["m"].complaint == ""
    assert panel._page.errors.value == "", "no traceback for what the reader can mend"
    assert panel._page.image.html == image, "the last good picture stays"
    panel.move(n=6)
    panel.wait()
    assert panel._rows["n"].complaint == ""


def test_a_run_that_gives_nothing_is_said():
    panel = make_panel(lambda n: iter(()))
    panel.restart()
    with pytest.raises(ValueError, match="nothing to draw"):
        panel.wait()


@pytest.mark.slow
def test_field_and_slider_follow_each_other():
    panel = make_panel(
        alpha=slider(1.0, 0.01, 100.0, log=True),
        kind=choice("a", ["a", "b"]),
        train=lambda n, alpha, kind: count(n),
    )
    row = panel._rows["alpha"]
    row._field.value = "0.123456"
    assert row._slider.value == pytest.approx(0.123456)
    assert row._field.value == "0.123456", "what was typed stays"
    row._slider.value = 10.0
    assert row._field.value == "10"
    row._slider.value = 10**0.25
    assert panel.settings == {"n": 5, "alpha": 1.78, "kind": "a"}, (
        "a slider gives numbers that can be written down"
    )
    whole = panel._rows["n"]
    whole._slider.value = 7
    assert (whole._field.value, panel.settings["n"]) == ("7", 7)
    assert row._field.description == "alpha", "the field's accessible name"
    panel.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("abc", "'abc' is not of type int"),
        ("0", "n=0 lies outside 1 to 10000"),
        ("", "''"),
        ("2.5", "not of type int"),
    ],
)
def test_what_is_typed_and_cannot_be_is_said_beside_the_field(text, says):
    panel = make_panel()
    panel.restart()
    panel.wait()
    said, image = panel.status, panel._page.image.html
    panel._rows["n"]._field.value = text
    panel.wait()
    assert says in panel._rows["n"].complaint
    assert (panel.settings, panel.status, panel._page.image.html) == ({"n": 5}, said, image), (
        "all else stays"
    )
    panel.restart()
    panel.wait()
    assert says in panel._rows["n"].complaint, "as long as it stands there"
    panel.move(n=6)
    panel.wait()
    assert panel._rows["n"].complaint == ""


def test_a_logarithmic_slider_of_whole_numbers_gives_whole_numbers():
    panel = make_panel(m=slider(10, 1, 500, log=True), train=lambda n, m: count(n))
    row = panel._rows["m"]
    row._slider.value = 17.78
    assert panel.settings["m"] == 18
    panel.wait()


@pytest.mark.slow
def test_earlier_runs_stay_and_can_be_cleared():
    panel = make_panel()
    panel.restart()
    panel.wait()
    panel.move(n=7)
    panel.wait()
    assert panel.picture.alt == "frame 6, earlier [('n=5', 4)], expected {}"
    for n in range(10, 20):
        panel.move(n=n)
        panel.wait()
    assert panel.picture.alt.count("n=") == runner.GHOSTS
    panel.clear()
    panel._runner.worker.submit(int).result()
    assert panel.picture.alt == "frame 18, earlier [], expected {}"


def test_a_setting_seen_before_appears_at_once():
    trained = []
    panel = make_panel(lambda n: trained.append(n) or count(n))
    for n in (4, 6, 4):
        panel.move(n=n)
        panel.wait()
    assert trained == [4, 6]
    assert panel.status == "done  n=4  frame=3  half=1.5  (seen before)"
    assert panel.picture.alt == "frame 3, earlier [('n=6', 5)], expected {}"


def test_the_status_tells_the_last_round_and_the_mean_of_the_last_ten():
    curve = {t: 0.9 if t < 19 else 0.4 for t in range(20)}

    def train(n):
        yield from range(n)

    def tell(t):
        return {"round": t, "accuracy": curve[t], "loss": 1.0, "law": "holds", "nan": float("nan")}

    def said(rounds, read_out):
        panel = Panel(train, draw, read_out, compare_with={"n": 1}, n=slider(rounds, 1, 20))
        panel.restart()
        panel.wait()
        return panel.status.split("  ")[1:-1]

    last = ["loss=1", "law=holds", "nan=nan"]
    mean = ["mean of last ten: accuracy=0.85"]
    assert said(20, tell) == ["n=20", "round=19", "accuracy=0.4", *last, *mean]
    assert said(9, tell) == ["n=9", "round=8", "accuracy=0.9", *last], "too few rounds"
    every_second = said(20, lambda t: tell(t) | {"round": 2 * t})
    assert every_second == ["n=20", "round=38", "accuracy=0.4", *last], "rounds are missing"
    assert said(20, lambda t: {"accuracy": curve[t]}) == ["n=20", "accuracy=0.4"]


def test_a_stopped_run_is_not_kept_as_if_it_were_whole():
    gate = threading.Event()

    def gated(n):
        yield 0
        gate.wait(10)
        yield 1

    panel = make_panel(gated)
    panel.move(n=6)
    soon(lambda: "frame=0" in panel.status)
    panel.stop()
    gate.set()
    panel.wait()
    assert not panel._runner.finished


@pytest.mark.slow
def test_predict_first():
    trained = []
    prediction = Prediction("half", 0.0, 4.0, along="frame", at=(2, 4, 99))
    panel = make_panel(lambda n: trained.append(n) or count(n), predict=prediction)
    assert panel._prediction.widget.layout.display == "none"
    panel.restart()
    panel.wait()
    panel._prediction.toggle.value = True
    assert panel._prediction.widget.layout.display == ""
    panel.move(n=8)
    panel._runner.worker.submit(int).result()
    assert trained == [5], "nothing is trained before the reader has said what to expect"
    assert panel.status == "waiting  n=8  what do you expect? Then press Train."
    panel._prediction._rows[0].move(2.0)
    panel._runner.worker.submit(int).result()
    assert panel.picture.alt.endswith("expected {2: 2.0, 4: 2.0, 99: 2.0}")
    panel._prediction.train.click()
    panel.wait()
    assert trained == [5, 8]
    assert panel.status.startswith("done  n=8")
    assert (
        panel._prediction.gap
        == "You expected 2 where it is 1, 2 where it is 2: 0.5 off on average, too high."
    )
    panel.move(n=5)
    panel.wait()
    assert panel.status.endswith("(seen before)"), "what has been seen needs no guess"
    panel._prediction.toggle.value = False
    panel._runner.worker.submit(int).result()
    assert panel.picture.alt.endswith("expected {}")
    panel._prediction.toggle.value = True
    panel.move(n=9)
    assert panel.status.startswith("waiting  n=9")
    panel._prediction.toggle.value = False
    panel.wait()
    assert panel.status.startswith("done  n=9"), (
        "what was waited for is trained when the reader no longer guesses"
    )


def test_a_guess_of_the_end_alone():
    panel = make_panel(predict=Prediction("half", 0.1, 10.0, log=True))
    panel._prediction.toggle.value = True
    panel.restart()
    panel.wait()
    assert panel._prediction.gap == "You expected 1 where it is 2: 1 off on average, too low."
    assert panel._prediction._rows[0].parameter.name == "half"


@pytest.mark.slow
def test_what_cannot_be_read_is_not_trained_copied_or_guessed():
    trained = []
    panel = make_panel(
        lambda n: trained.append(n) or count(n), predict=Prediction("half", 0.0, 4.0)
    )
    panel._prediction.toggle.value = True
    for text in ("10001", "-3", "", "many", "7,5", "1e3", "nan"):
        panel._rows["n"]._field.value = text
        panel._prediction.train.click()
        assert panel.status.startswith(
            f"not run  n={text!r}" if text != "10001" and text != "-3" else f"not run  n={text} "
        )
        for name in ("Code",):
            next(each for each in panel._export.buttons if each.description == name).click()
        assert 'role="alert"' in panel._export.widget.value
        assert "n=" in panel._rows["n"].complaint
    panel._rows["n"]._field.value = "7"
    panel._prediction._rows[0]._field.value = "half"
    panel._prediction.train.click()
    assert panel.status.startswith("not run  half='half' is not of type float")
    assert trained == []
    panel._prediction._rows[0]._field.value = "3"
    panel._prediction.train.click()
    panel.wait()
    assert trained == [7]


def test_numbers_beside_the_picture():
    panel = make_panel()
    panel.restart()
    panel.wait()
    assert panel._page.numbers.value == ""
    panel._page.table.value = True
    assert 10 < panel._page.numbers.value.count("<tr") <= 13, (
        "a few rows, from the first to the last"
    )
    assert "<td>29</td>" in panel._page.numbers.value


def test_what_is_copied_and_saved():
    panel = make_panel()
    panel.restart()
    panel.wait()
    copy, save = panel._export.buttons
    copy.click()
    assert "*_, last = count(n=5)" in panel._export.widget.value
    save.click()
    links = panel._export.widget.value
    csv = base64.b64decode(re.search(r'numbers.csv" href="data:text/csv;base64,([^"]+)', links)[1])
    assert csv.splitlines()[:2] == [b"frame,value", b"0,4"]
    assert base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", links)[1]).startswith(
        b"\x89PNG"
    )
    svg = base64.b64decode(re.search(r'data:image/svg\+xml;base64,([^"]+)', links)[1])
    assert b"<svg" in svg


def test_results_of_buttons_stand_above_the_picture_and_are_copied_by_the_page():
    panel = of_lesson(alpha=1.0, clients_per_round=10)
    parts = list(panel.widget.children)
    bar = next(
        k for k, part in enumerate(parts) if panel._page.stop in getattr(part, "children", ())
    )
    results = [panel._link.widget, panel._export.widget, panel._page._status]
    assert parts[bar + 1 : bar + 4] == results
    panel._export.buttons[0].click()
    copies = re.findall(r'data-copy="([^"]*)"', panel._export.widget.value)
    assert copies == [panel.call, panel.command]
    panel.move(alpha=0.5)
    panel.wait()
    assert "alpha=0.5" in panel._export.widget.value, "the code is that of the present setting"
    assert panel._export.widget.value.count('class="fedlab-said" role="status"') == 2


def alphas(alpha, clients_per_round):
    yield alpha


def of_lesson(**controls):
    return Panel(
        alphas,
        draw,
        lambda frame: {"alpha": frame},
        lesson="00",
        compare_with={"alpha": 0.5},
        **controls,
    )


def test_a_lesson_says_what_its_controls_may_be_and_any_setting_can_be_a_report():
    panel = of_lesson(alpha=1.0, clients_per_round=10)
    row = panel._rows["alpha"]
    assert (row.parameter.limits, row.parameter.log) == ((0.01, 100.0), True)
    assert "few classes" in row.parameter.comment
    assert panel.command == "python -m fedlab report 00"
    panel.move(alpha=0.25, clients_per_round=20)
    panel.wait()
    assert panel.command == "python -m fedlab report 00 --set alpha=0.25 --set clients_per_round=20"
    assert panel.call == "*_, last = alphas(alpha=0.25, clients_per_round=20)"
    assert [button.description for button in panel._export.buttons] == [
        "Code",
        "Save",
        "Make report",
    ]


def test_other_parameters_of_the_notebook_are_part_of_the_command(monkeypatch):
    shell = type(
        "Shell",
        (),
        {"user_ns": {"rounds": 30, "scale": "fast", "seeds": "not a number", "alpha": 7.0}},
    )
    monkeypatch.setattr(export, "get_ipython", lambda: shell)
    assert (
        export.report_command("00", {"alpha": 1.0}) == "python -m fedlab report 00 --set rounds=30"
    )
    assert export.report_command("02", {"skew": "feature: noise"}).endswith(
        "--set 'skew=feature: noise'"
    )


@pytest.mark.slow
def test_the_command_makes_the_report(monkeypatch, tmp_path):
    """A package of the test stands in for the real one, whose command line other tests cover."""
    folder = tmp_path / "fedlab"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(
        "import pathlib, sys, time\nprint('1 to run, about 1 s', flush=True)\n"
        "while not pathlib.Path('go').exists():\n"
        "    time.sleep(0.01)\n"
        "if 'alpha=0.25' not in ' '.join(sys.argv):\n"
        "    sys.exit('report: alpha is not as it was asked for')\n"
    )
    monkeypatch.setattr(export, "ROOT", tmp_path)
    panel = of_lesson(alpha=1.0, clients_per_round=10)
    for alpha, says in {
        0.25: "files/reports/00_start_here--alpha%3D0.25/report.html?",
        0.5: "not as it was asked for",
    }.items():
        panel.move(alpha=alpha)
        panel.wait()
        (tmp_path / "go").unlink(missing_ok=True)
        panel._export.report()
        assert panel._export._report.description == "Cancel report"
        (tmp_path / "go").touch()
        panel._export.making.join()
        assert says in panel._export.widget.value
        assert panel._export._report.description == "Make report"
    (folder / "__main__.py").write_text("import time\ntime.sleep(60)\n")
    panel._export.report()
    time.sleep(0.5)
    began = time.perf_counter()
    panel._export.report()
    panel._export.making.join()
    assert time.perf_counter() - began < 10, "a second press gives it up"
    assert "given up" in panel._export.widget.value


def test_controls_are_checked():
    with pytest.raises(ValueError, match="value=11 lies outside its limits 1 to 10"):
        slider(11, 1, 10)
    with pytest.raises(ValueError, match="low=0: a logarithmic slider starts above 0"):
        slider(1, 0, 10, log=True)
    with pytest.raises(ValueError, match="none of"):
        choice("c", ["a", "b"])
    with pytest.raises(ValueError, match="set at least one of n"):
        make_panel(compare_with={"m": 1})
    with pytest.raises(ValueError, match="this is the default"):
        make_panel(compare_with={"n": 5})
    with pytest.raises(ValueError, match="n=20000 lies outside 1 to 10000"):
        make_panel(compare_with={"n": 20_000})
    with pytest.raises(ValueError, match="no lesson is given"):
        make_panel(m=3)
    with pytest.raises(ValueError, match="beta: lesson 00 has no parameter of that name"):
        of_lesson(alpha=1.0, beta=slider(1, 0, 3))
    with pytest.raises(ValueError, match="lesson 00 has no parameter of that name"):
        of_lesson(alpha=1.0, beta=2)
    with pytest.raises(ValueError, match=r"alpha=1000.0 lies outside 0.01 to 100.0"):
        of_lesson(alpha=1000.0)
    with pytest.raises(ValueError, match="no lesson '77'; there are 00, 01"):
        export.find_lesson("77")


def test_nothing_of_a_number_is_lost_on_the_way_to_the_report(monkeypatch):
    assert format_value(100.0) == "100"
    for value in (1 / 3, 0.1 + 0.2, 12345678901.5):
        assert float(format_value(value)) == value
    shell = type(
        "Shell", (), {"user_ns": {"learning_rate": 1}}
    )  # a whole number will do for a float
    monkeypatch.setattr(export, "get_ipython", lambda: shell)
    assert export.changed_parameters("02", {}) == {"learning_rate": 1.0}


def test_a_picture_that_fails_is_said_and_the_last_one_stays():
    panel = make_panel()
    panel.restart()
    panel.wait()
    image, shown = panel._page.image.html, panel._runner.shown
    panel._runner.functions = panel._runner.functions._replace(draw=lambda *_, **__: 1 / 0)
    panel.clear()
    soon(lambda: "ZeroDivisionError" in panel._page.errors.value)
    panel.move(n=4)
    with pytest.raises(ZeroDivisionError):
        panel.wait()
    assert (panel._page.image.html, panel._runner.shown) == (image, shown)


def test_an_error_that_happens_to_name_a_number_comes_with_its_traceback():
    def failing(n):
        raise ValueError("too many values to unpack (expected 2)")
        yield

    panel = make_panel(failing)
    panel.move(n=2)
    with pytest.raises(ValueError, match="unpack"):
        panel.wait()
    assert "Traceback" in panel._page.errors.value
    assert panel._rows["n"].complaint == ""


def test_what_a_button_raises_is_said(monkeypatch):
    panel = of_lesson(alpha=1.0, clients_per_round=10)
    panel.restart()
    panel.wait()

    def broken(number):
        raise ValueError("alpha needs a comment")

    monkeypatch.setattr(export, "find_lesson", broken)
    for button in panel._export.buttons:
        panel._export.widget.value = ""
        button.click()
        assert ("alpha needs a comment" in panel._export.widget.value) == (
            button.description != "Save"
        )


def test_a_report_that_cannot_begin_is_said_and_leaves_nothing(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(export.subprocess, "Popen", refused)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    panel = of_lesson(alpha=1.0, clients_per_round=10)
    panel._export.report()
    assert "no report: no more processes" in panel._export.widget.value
    assert not list(tmp_path.iterdir())


def test_who_waits_for_a_guess_and_gives_it_up_is_trained_even_if_the_first_run_goes_on():
    gate = threading.Event()

    def gated(n):
        gate.wait(30)
        yield from count(n)

    panel = make_panel(gated, predict=Prediction("half", 0, 10))
    panel.restart()
    panel._prediction.toggle.value = True
    panel.move(n=3)
    assert panel.status.startswith("waiting  n=3")
    panel._prediction.toggle.value = False
    gate.set()
    panel.wait()
    assert panel.status.startswith("done  n=3")
