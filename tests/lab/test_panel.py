import os
import subprocess
import sys
import threading
import time

import pytest

from fedlab.lab import panel as panels
from fedlab.lab.panel import Panel, choice, slider
from fedlab.lab.plots import Picture


def draw(frame, **settings):
    picture = Picture(f"frame {frame}")
    picture.subplots().plot([0, frame])
    return picture


def count(n, speed="fast"):
    for k in range(n):
        if speed == "slow":
            time.sleep(0.02)
        yield k


def panel(train=count, other=None, **extra):
    return Panel(train, draw, lambda frame: f"frame={frame}", other=other or {"n": 2}, n=slider(5, 1, 10_000), **extra)


@pytest.fixture
def shown(monkeypatch):
    """What panels have put on the page."""
    bundles = []
    monkeypatch.setattr(panels, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def test_default_and_other_setting_as_pictures(monkeypatch, shown):
    monkeypatch.setenv("FEDLAB_HEADLESS", "1")
    trained = []
    panel(lambda n: trained.append(n) or count(n))._ipython_display_()
    (bundle,) = shown
    other, default = bundle["application/vnd.fedlab.panel+json"]["states"]
    assert other["settings"] == {"n": 2}
    assert other["status"].startswith("done  n=2  frame=1")
    assert default["settings"] == {"n": 5}
    assert default["status"].startswith("done  n=5  frame=4")
    assert other["image"] != default["image"]
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert 'alt="frame 4"' in bundle["text/html"]
    assert "moved to n = 2" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert trained == [2, 5], "each state is trained once"


def test_what_training_raises_is_raised_where_nobody_looks(monkeypatch, shown):
    monkeypatch.setenv("FEDLAB_HEADLESS", "1")
    with pytest.raises(ZeroDivisionError):
        panel(lambda n: iter([1 / 0]))._ipython_display_()
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

    one = panel(blocked)
    one._ipython_display_()
    (bundle,) = shown
    assert "image/png" not in bundle
    assert seen == [1], "on the page before it trains"
    assert one.status == "running  n=5"
    gate.set()
    one.wait()
    assert one.status.startswith("done  n=5")


def test_in_a_front_end_the_first_short_run_has_the_processor_to_itself(monkeypatch, shown):
    monkeypatch.delenv("FEDLAB_HEADLESS", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    monkeypatch.setattr(panels, "PATIENCE", 60)
    one = panel()
    one._ipython_display_()
    assert one.status.startswith("done  n=5  frame=4"), "the next cell begins after the run"
    failing = panel(lambda n: iter([1 / 0]))
    failing._ipython_display_()
    assert failing.status.startswith("failed  n=5  ZeroDivisionError"), "shown in the panel; the cell itself is well"


def test_a_run_leaves_one_thread_to_the_page_and_cells_keep_theirs():
    """In a process of its own, as PyTorch settles a thread's count when that thread first computes."""
    code = """
import torch
from fedlab.lab.panel import Panel, slider
from fedlab.lab.plots import Picture

seen = []
def train(n):
    seen.append(torch.get_num_threads())
    yield n

one = Panel(train, lambda frame, **_: Picture("nothing"), str, other={"n": 0}, n=slider(1, 0, 3))
one.restart()
one.wait()
print(*seen, torch.get_num_threads())
"""

    def ask(threads, code):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return [int(word) for word in done.stdout.split()]

    for threads in ("1", "2"):
        (alone,) = ask(threads, "import torch; print(torch.get_num_threads())")
        assert ask(threads, code) == [max(1, alone - 1), alone]


def test_the_last_setting_wins():
    begun = []

    def slow(n):
        begun.append(n)
        yield from count(200, "slow")

    one = panel(slow)
    one.restart()
    while not begun:
        time.sleep(0.005)
    for n in range(10, 30):
        one.move(n=n)
    started = time.perf_counter()
    one.move(n=3)
    one._train = count
    one.wait()
    assert one.status.startswith("done  n=3  frame=2")
    assert len(begun) <= 2, "settings passed over on the way are never trained"
    assert time.perf_counter() - started < 3


def test_stop_keeps_the_picture():
    one = panel(lambda n: count(n, "slow"))
    one.move(n=5000)
    while "frame=" not in one.status:
        time.sleep(0.01)
    picture = one._image.value
    one.stop()
    one.wait()
    assert one.status.startswith("stopped  n=5000  frame=")
    assert one._image.value[:8] == picture[:8]
    assert one._stop.disabled


def test_errors_are_shown_and_raised():
    def failing(n):
        yield 0
        raise ValueError(f"{n} is too many")

    one = panel(failing)
    one.restart()
    with pytest.raises(ValueError, match="5 is too many"):
        one.wait()
    assert one.status == "failed  n=5  ValueError: 5 is too many"
    assert "Traceback" in one._errors.value
    one._train = count
    one.move(n=4)
    one.wait()
    assert one.status.startswith("done  n=4")
    assert one._errors.value == ""


def test_field_and_slider_follow_each_other():
    one = panel(
        alpha=slider(1.0, 0.01, 100.0, log=True), kind=choice("a", ["a", "b"]), train=lambda n, alpha, kind: count(n)
    )
    row = one.widget.children[1].children
    field, lead = row[0], row[1]
    field.value = 0.25
    assert lead.value == pytest.approx(0.25)
    lead.value = 10.0
    assert field.value == pytest.approx(10)
    field.value = 1e9
    assert field.value == 100, "held within the limits"
    assert one.settings == {"n": 5, "alpha": 100.0, "kind": "a"}
    assert field.description == "alpha", "the field's accessible name"
    one.wait()


def test_controls_are_checked():
    with pytest.raises(ValueError, match="value=11 lies outside its limits 1 to 10"):
        slider(11, 1, 10)
    with pytest.raises(ValueError, match="low=0: a logarithmic slider starts above 0"):
        slider(1, 0, 10, log=True)
    with pytest.raises(ValueError, match="none of"):
        choice("c", ["a", "b"])
    with pytest.raises(ValueError, match="set at least one of n"):
        panel(other={"m": 1})
    with pytest.raises(ValueError, match="stands there already"):
        panel(other={"n": 5})
