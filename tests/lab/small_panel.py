"""A panel that counts, for the tests of panels."""

import time

import pandas as pd

from fedlab.lab.plots import Picture
from fedlab.lab.widgets.controls import slider
from fedlab.lab.widgets.panel import Panel


def draw(scene, **settings):
    earlier, expected = list(scene.earlier.items()), dict(scene.expected)
    alt = f"frame {scene.frame}, earlier {earlier}, expected {expected}"
    picture = Picture(alt, table=pd.DataFrame({"frame": range(30), "value": scene.frame}))
    picture.subplots().plot([0, scene.frame])
    return picture


def count(n, speed="fast"):
    for k in range(n):
        if speed == "slow":
            time.sleep(0.02)
        yield k


def tell(frame):
    return {"frame": frame, "half": frame / 2}


def make_panel(train=count, compare_with=None, **extra):
    return Panel(
        train,
        draw,
        tell,
        compare_with=compare_with or {"n": 2},
        n=slider(5, 1, 10_000, unit="frames", help="how many"),
        **extra,
    )


def soon(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
