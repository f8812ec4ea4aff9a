"""One page for analysts: compose an experiment, run it, keep it under a name, and see up to eight side by side.

An experiment is composed as the text of a program, and that text is what runs: what is copied is what was seen.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd

from fedlab import data, models, server, upload
from fedlab.core import Experiment
from fedlab.engine import Run, collect_result, storage, stream
from fedlab.lab import plots
from fedlab.lab.course.curriculum import ROOT
from fedlab.lab.course.parameters import Parameter
from fedlab.lab.widgets.controls import button, choice, slider
from fedlab.lab.widgets.panel import Panel, Scene, latest, rounds_of

MOST = 8  # runs side by side

NOW = "now"  # what the run of the present controls is called

NAME = re.compile(r"[\w][\w .,=+-]{0,59}")  # a folder's name that no file system objects to

SPLITS = {
    "iid": "iid()",
    "dirichlet": "dirichlet({alpha})",
    "dirichlet_equal_sizes": "dirichlet_equal_sizes({alpha})",
    "shards": "shards({pieces})",
    "classes_per_client": "classes_per_client({pieces})",
    "quantity_lognormal": "quantity_lognormal({sigma})",
    "quantity_dirichlet": "quantity_dirichlet({alpha})",
}

MODELS = {
    "logistic regression": "logistic_regression(data(0))",
    "one hidden layer": "mlp(data(0), hidden=({width},))",
    "two hidden layers": "mlp(data(0), hidden=({width}, {width}))",
}

ALGORITHMS = {
    "FedAvg": "fedavg()",
    "FedAvgM": "fedavgm(server_lr={server_lr})",
    "FedAdam": "fedadam(server_lr={server_lr})",
    "FedYogi": "fedyogi(server_lr={server_lr})",
    "FedAdagrad": "fedadagrad(server_lr={server_lr})",
    "FedProx": "fedprox(mu={mu})",
    "SCAFFOLD": "scaffold()",
    "FedDyn": "feddyn(alpha={mu})",
    "FedNova": "fednova()",
    "FedExP": "fedexp()",
    "pruned FedAvg": "pruned(fedavg(), task, cubic({sparsity}, start=1, end=max(2, 2 * {rounds} // 3)))",
    "HeteroFL": "heterofl(task, [(1.0, 0.5, 0.25)[i % 3] for i in range({clients})])",
}

UPLOADS = {
    "whole": "identity()",
    "top-k": "error_feedback(top_k({share}))",
    "top-k, quantised": "error_feedback(chain(top_k({share}), qsgd({bits})))",
    "random-k": "error_feedback(random_k({share}, scale=1))",
    "QSGD": "qsgd({bits})",
    "EDEN": "eden({bits})",
    "PowerSGD": "error_feedback(power_sgd({rank}))",
    "sign": "error_feedback(scaled_sign())",
    "TernGrad": "chain(terngrad(), lossless())",
}

SAMPLERS = {
    "uniform": "uniform({cohort})",
    "by_size": "by_size({cohort})",
    "poisson": "poisson({cohort} / {clients})",
}

CONTROLS: dict[str, Parameter] = {
    "data_set": choice(
        "digits", ["digits", "breast_cancer", "mnist"], help="mnist: download it first"
    ),
    "clients": slider(100, 2, 1000, log=True, help="over which it is divided"),
    "split": choice("dirichlet", SPLITS, help="who holds what"),
    "alpha": slider(1.0, 0.01, 100.0, log=True, help="small: strong skew"),
    "pieces": slider(2, 1, 10, help="shards or classes a client"),
    "sigma": slider(1.0, 0.0, 3.0, help="of quantity_lognormal"),
    "model": choice("two hidden layers", MODELS),
    "width": slider(200, 4, 500, log=True, help="of a hidden layer"),
    "optimizer": choice("sgd", ["sgd", "adamw"], help="of the clients"),
    "lr": slider(0.1, 0.0001, 10.0, log=True, help="step size of the clients"),
    "batch_size": slider(5, 0, 100, help="examples a step; 0: all"),
    "epochs": slider(1, 1, 20, help="passes in a round"),
    "algorithm": choice("FedAvg", ALGORITHMS),
    "server_lr": slider(0.1, 0.001, 10.0, log=True, help="of the server's optimiser"),
    "mu": slider(0.01, 0.0001, 10.0, log=True, help="of FedProx and FedDyn"),
    "sparsity": slider(0.9, 0.1, 0.99, help="that pruned FedAvg ends with"),
    "upload": choice("whole", UPLOADS, help="how updates travel"),
    "share": slider(0.01, 0.0001, 1.0, log=True, help="for top-k, random-k"),
    "bits": slider(4, 2, 8, help="a quantised number"),
    "rank": slider(4, 1, 64, log=True, help="of PowerSGD"),
    "sampler": choice("uniform", SAMPLERS, help="who takes part"),
    "cohort": slider(10, 1, 1000, log=True, help="clients in a round"),
    "rounds": slider(100, 1, 1000, log=True),
    "seeds": slider(1, 1, 10, help="side by side"),
}

_TEXT = """\
from functools import partial

{imports}
from fedlab.core import Experiment, Local
from fedlab.engine import run

data = partial(load, "{data_set}", {clients}, {split})  # a function of the seed
task = {model}
study = Experiment(
    data=data,
    task=task,
    local=Local(lr={lr}, batch_size={batch}, epochs={epochs}, optimizer="{optimizer}"),
    algorithm={algorithm},
    aggregate={aggregate},
    sample={sampler},
    rounds={rounds},
    upload={upload},
)
"""


def program(seeds: int = 1, **settings: Any) -> str:
    """The program that a setting stands for; it ends with the run."""
    return f"{_experiment(settings)}result = run(study, seeds={seeds})\n"


def compose(**settings: Any) -> Experiment:
    """The experiment that a setting stands for: that of its program."""
    names: dict[str, Any] = {}
    exec(_experiment(settings), names)  # of our own words and of numbers
    return names["study"]


def _experiment(settings: dict[str, Any]) -> str:
    parts = {
        "split": SPLITS,
        "model": MODELS,
        "algorithm": ALGORITHMS,
        "upload": UPLOADS,
        "sampler": SAMPLERS,
    }
    said = {name: table[settings[name]].format(**settings) for name, table in parts.items()}
    said["aggregate"] = "mean" if settings["sampler"] == "by_size" else "weighted_mean"
    used = {"load", *re.findall(r"\w+", " ".join(said.values()))}
    imports = [
        f"from {module.__name__} import {', '.join(sorted(used & set(module.__all__)))}"
        for module in (data, models, server, upload)
    ]
    return _TEXT.format(
        imports="\n".join(imports), **{**settings, **said, "batch": settings["batch_size"] or None}
    )


class Dashboard(Panel):
    """The page.  What is kept lies in ``folder``, a folder a name, as ``storage.save_result`` writes it."""

    def __init__(self, folder: Path = ROOT / "reports" / "kept"):
        self.folder = folder
        self._runs: dict[tuple, list[Run]] = {}  # by setting, to be kept
        super().__init__(
            self._go,
            self._beside,
            latest,
            other={"algorithm": "FedAdam"},
            hold="Run",
            code=program,
            **CONTROLS,
        )
        self._along = widgets.Dropdown(
            options=["round", "megabytes", "examples", "steps"], description="along"
        )
        self._of = widgets.Dropdown(options=["accuracy", "loss"], description="of")
        self._name = widgets.Text(
            description="name", placeholder="of this run", continuous_update=False
        )
        self._keep = button(
            "Keep", "keep this run under the name", lambda: self._try(self.keep, self._name.value)
        )
        self._load = button(
            "Load", "set the controls as they were", lambda: self._try(self.load, *self._kept.value)
        )
        self._kept = widgets.SelectMultiple(
            description="beside", rows=5, options=self.kept, layout={"width": "30em"}
        )
        self._told = widgets.HTML()
        self._kept.observe(lambda change: self._try(self.choose, *change["new"]), "value")
        for axis in (self._along, self._of):
            axis.observe(lambda _: self.redraw(), "value")
        rows = [[self._along, self._of], [self._name, self._keep], [self._kept, self._load]]
        boxes = [widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows]
        self.widget = widgets.VBox([self.widget, *boxes, self._told])

    @property
    def kept(self) -> list[str]:
        """The names of the runs that are kept."""
        return sorted(path.parent.name for path in self.folder.glob("*/experiment.json"))

    def keep(self, name: str) -> str:
        """Keep what is shown, under a name that is not taken: models, tables, and the setting."""
        if not NAME.fullmatch(name):
            raise ValueError(
                f"name={name!r}: give up to 60 letters, digits and spaces, beginning with a letter or a digit"
            )
        if name == NOW:
            raise ValueError(
                f"name={name!r}: that is what the run of the present controls is called; choose another name"
            )
        if name in self.kept:
            raise ValueError(f"a run called {name!r} is kept already: choose another name")
        settings = self._shown[0] if self._shown else {}
        runs = self._runs.get(tuple(settings.items()))
        if not runs or not self.status.startswith("done"):
            raise ValueError("no run has come to its end: press Run, and keep it then")
        storage.save_result(
            collect_result(runs), self.folder / name, [(settings, runs[0].experiment)]
        )
        chosen = self._kept.value
        self._kept.options = self.kept
        self._kept.value = chosen
        return f"kept in {self.folder.name}/{name}"

    def choose(self, *names: str) -> str:
        """Draw these kept runs beside the present one."""
        if len(names) >= MOST:
            raise ValueError(
                f"{len(names)} runs beside this one: {MOST} are side by side at most, so choose {MOST - 1}"
            )
        self.redraw()
        return ""

    def load(self, *names: str) -> str:
        """Set the controls as they were for the first of these."""
        if not names:
            raise ValueError("no run is chosen: choose one in the list beside")
        told = json.loads((self.folder / names[0] / "experiment.json").read_text(encoding="utf-8"))
        settings = told["experiments"][0]["labels"]
        self.move(**{name: value for name, value in settings.items() if name in CONTROLS})
        return f"the controls are as they were for {names[0]}"

    def _try(self, act, *given: str) -> None:
        try:
            words, role = act(*given), "status"
        except (ValueError, OSError) as error:
            words, role = str(error), "alert"
        except Exception as error:  # what a callback raises would be nowhere on the page
            words, role = f"{type(error).__name__}: {error}", "alert"
        self._told.value = f'<span role="{role}">{html.escape(words)}</span>'

    def _go(self, seeds: int, **settings: Any) -> Iterator[list[dict]]:
        for runs in stream(compose(**settings), seeds=seeds):
            self._runs[(*settings.items(), ("seeds", seeds))] = runs
            yield from rounds_of([runs])

    def _beside(self, shown: Scene, **settings: Any) -> plots.Picture:
        now = pd.DataFrame(shown.frame)
        others = {
            name: _rounds(self.folder / name, _changed(self.folder / name))
            for name in self._kept.value[: MOST - 1]
        }
        along, longest = (
            self._along.value,
            max([settings["rounds"], *(t["round"].max() for t in others.values())]),
        )
        table = pd.concat({NOW: now, **others}, names=["run"]).reset_index(level=0)
        earlier = (
            {}
            if others
            else {
                words: [{"run": NOW, **row} for row in rows]
                for words, rows in shown.earlier.items()
            }
        )
        x_max = longest if along == "round" else None
        return plots.curves(
            table, x=along, y=self._of.value, hue="run", x_max=x_max, earlier=earlier
        )


@lru_cache(maxsize=64)
def _rounds(folder: Path, changed: int) -> pd.DataFrame:
    return storage.load_result(folder).rounds


def _changed(folder: Path) -> int:
    """When a kept run was written: another of the same name is another run."""
    return (folder / "experiment.json").stat().st_mtime_ns
