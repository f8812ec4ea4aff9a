"""One page for analysts: compose an experiment, run it, keep it, and compare up to eight runs."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd

from fedlab.engine import Run, collect_result, storage, stream
from fedlab.lab import plots
from fedlab.lab.course.curriculum import ROOT
from fedlab.lab.widgets.composer import CONTROLS, compose, only_if, program
from fedlab.lab.widgets.controls import button
from fedlab.lab.widgets.panel import Panel
from fedlab.lab.widgets.runner import PINNED
from fedlab.lab.widgets.scene import Scene, latest, rounds_of

MAX_RUNS = 8  # runs side by side

CURRENT = "now"  # name of the run at the present controls

NAME = re.compile(r"[\w][\w .,=+-]{0,59}")  # a folder's name that every file system accepts


class Dashboard(Panel):
    """A panel of everything: data, model, training, algorithm, compression, cohort.

    Runs are kept in one folder each, as ``storage.save_result`` writes it, and stand beside the
    present run in the picture.

    Args:
        folder: Folder of the kept runs.
    """

    def __init__(self, folder: Path = ROOT / "reports" / "kept"):
        self.folder = folder
        self._runs: dict[tuple, list[Run]] = {}  # by setting, to be kept
        super().__init__(
            self._train_rounds,
            self._draw_beside,
            latest,
            compare_with={"algorithm": "FedAdam"},
            hold="Run",
            code=program,
            only_if=only_if(),
            **CONTROLS,
        )
        self._x = widgets.Dropdown(
            options=["round", "megabytes", "examples", "steps"], description="along"
        )
        self._y = widgets.Dropdown(options=["accuracy", "loss"], description="of")
        self._name = widgets.Text(
            description="name", placeholder="of this run", continuous_update=False
        )
        self._keep = button(
            "Keep", "keep this run under the name", lambda: self._try(self.keep, self._name.value)
        )
        self._load = button(
            "Load",
            "set the controls as they were",
            lambda: self._try(self.load, *self._chosen.value),
        )
        self._chosen = widgets.SelectMultiple(
            description="beside", rows=5, options=self.kept_names, layout={"width": "30em"}
        )
        self._message = widgets.HTML()
        self._chosen.observe(lambda change: self._try(self.choose, *change["new"]), "value")
        for axis in (self._x, self._y):
            axis.observe(lambda _: self.redraw(), "value")
        rows = [[self._x, self._y], [self._name, self._keep], [self._chosen, self._load]]
        boxes = [widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows]
        self.widget = widgets.VBox([self.widget, *boxes, self._message])

    @property
    def place(self) -> str:
        """The name of this page in a line that holds a setting."""
        return "dashboard"

    @property
    def kept_names(self) -> list[str]:
        """The names of the kept runs, in alphabetical order."""
        return sorted(path.parent.name for path in self.folder.glob("*/experiment.json"))

    def keep(self, name: str) -> str:
        """Keep the run that is shown: its models, tables and setting.

        Args:
            name: A name that no kept run has.

        Returns:
            A message for the reader.

        Raises:
            ValueError: If the name is taken or cannot be a folder's, or no run has ended.
        """
        if not NAME.fullmatch(name):
            raise ValueError(
                f"name={name!r}: give up to 60 letters, digits and spaces, beginning with a "
                "letter or a digit"
            )
        if name == CURRENT:
            raise ValueError(
                f"name={name!r}: that is the name of the run at the present controls; choose "
                "another name"
            )
        if name in self.kept_names:
            raise ValueError(f"a run called {name!r} is kept already: choose another name")
        settings = self.shown_settings
        runs = self._runs.get(self._key(settings))
        if not runs or not self.status.startswith("done"):
            raise ValueError("no run has come to its end: press Run, and keep it then")
        storage.save_result(
            collect_result(runs), self.folder / name, [(settings, runs[0].experiment)]
        )
        chosen = self._chosen.value
        self._chosen.options = self.kept_names
        self._chosen.value = chosen
        return f"kept in {self.folder.name}/{name}"

    def choose(self, *names: str) -> str:
        """Draw kept runs beside the present one.

        Args:
            names: Names of kept runs, at most ``MAX_RUNS - 1``.

        Raises:
            ValueError: If there are more.
        """
        if len(names) >= MAX_RUNS:
            raise ValueError(
                f"{len(names)} runs beside this one: {MAX_RUNS} are side by side at most, so "
                f"choose {MAX_RUNS - 1}"
            )
        self.redraw()
        return ""

    def load(self, *names: str) -> str:
        """Set the controls as they were for the first of the named runs.

        Args:
            names: Names of kept runs.

        Returns:
            A message for the reader.

        Raises:
            ValueError: If there is no name.
        """
        if not names:
            raise ValueError("no run is chosen: choose one in the list beside")
        path = self.folder / names[0] / "experiment.json"
        description = json.loads(path.read_text(encoding="utf-8"))
        settings = description["experiments"][0]["labels"]
        self.move(**{name: value for name, value in settings.items() if name in CONTROLS})
        return f"the controls are as they were for {names[0]}"

    def _try(self, act: Callable[..., str], *names: str) -> None:
        try:
            words, role = act(*names), "status"
        except (ValueError, OSError) as error:
            words, role = str(error), "alert"
        except Exception as error:  # an error of a callback would be nowhere on the page
            words, role = f"{type(error).__name__}: {error}", "alert"
        self._message.value = f'<span role="{role}">{html.escape(words)}</span>'

    def _train_rounds(self, seeds: int, **settings: Any) -> Iterator[list[dict]]:
        key = self._key({**settings, "seeds": seeds})
        for runs in stream(compose(**settings), seeds=seeds):
            self._runs[key] = runs
            yield from rounds_of([runs])

    def _key(self, settings: Mapping[str, Any]) -> tuple:
        """Return the name of a run: controls that do nothing are not part of it."""
        return tuple(sorted(self._page.effective(settings).items()))

    def _draw_beside(self, scene: Scene, **settings: Any) -> plots.Picture:
        """Draw the present run and the pinned one; with chosen runs, no other earlier ones."""
        chosen = {
            name: _rounds(self.folder / name, _time_written(self.folder / name))
            for name in self._chosen.value[: MAX_RUNS - 1]
        }
        tables = {CURRENT: pd.DataFrame(scene.frame), **chosen}
        table = pd.concat(tables, names=["run"]).reset_index(level=0)
        earlier = {
            words: [{"run": CURRENT, **row} for row in rows]
            for words, rows in scene.earlier.items()
            if not chosen or words.startswith(PINNED)
        }
        x, x_max = self._x.value, None
        if x == "round":
            x_max = max([settings["rounds"], *(t["round"].max() for t in chosen.values())])
        return plots.curves(table, x=x, y=self._y.value, hue="run", x_max=x_max, earlier=earlier)


@lru_cache(maxsize=64)
def _rounds(folder: Path, time_written: int) -> pd.DataFrame:
    return storage.load_result(folder).rounds


def _time_written(folder: Path) -> int:
    """Return when a run was kept: a later run of the same name is another run."""
    return (folder / "experiment.json").stat().st_mtime_ns
