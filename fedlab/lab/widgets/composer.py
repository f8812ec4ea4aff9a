"""Experiments of the dashboard, composed as the text of a program.

That text is what runs, so the program that is copied is the program that was seen.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Any

from fedlab import data, models, server, upload
from fedlab.core import Experiment
from fedlab.lab.course.parameters import Parameter
from fedlab.lab.widgets.controls import choice, slider

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
    "pruned FedAvg": (
        "pruned(fedavg(), task, cubic({sparsity}, start=1, end=max(2, 2 * {rounds} // 3)))"
    ),
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
    "clients": slider(100, 2, 1000, log=True, help="that share the data"),
    "split": choice("dirichlet", SPLITS, help="how the data are divided"),
    "alpha": slider(1.0, 0.01, 100.0, log=True, help="small: strong skew"),
    "pieces": slider(2, 1, 10, help="shards or classes per client"),
    "sigma": slider(1.0, 0.0, 3.0, help="of quantity_lognormal"),
    "model": choice("two hidden layers", MODELS),
    "width": slider(200, 4, 500, log=True, help="units of a hidden layer"),
    "optimizer": choice("sgd", ["sgd", "adamw"], help="of the clients"),
    "lr": slider(0.1, 0.0001, 10.0, log=True, help="step size of the clients"),
    "batch_size": slider(5, 0, 100, help="examples per step; 0: all"),
    "epochs": slider(1, 1, 20, help="passes over the data per round"),
    "algorithm": choice("FedAvg", ALGORITHMS),
    "server_lr": slider(0.1, 0.001, 10.0, log=True, help="of the server's optimiser"),
    "mu": slider(0.01, 0.0001, 10.0, log=True, help="of FedProx and FedDyn"),
    "sparsity": slider(0.9, 0.1, 0.99, help="at the end of pruned FedAvg"),
    "upload": choice("whole", UPLOADS, help="how updates are compressed"),
    "share": slider(0.01, 0.0001, 1.0, log=True, help="for top-k, random-k"),
    "bits": slider(4, 2, 8, help="per quantised number"),
    "rank": slider(4, 1, 64, log=True, help="of PowerSGD"),
    "sampler": choice("uniform", SAMPLERS, help="how a cohort is drawn"),
    "cohort": slider(10, 1, 1000, log=True, help="clients per round"),
    "rounds": slider(100, 1, 1000, log=True),
    "seeds": slider(1, 1, 10, help="runs side by side"),
}

TABLES = {
    "split": SPLITS,
    "model": MODELS,
    "algorithm": ALGORITHMS,
    "upload": UPLOADS,
    "sampler": SAMPLERS,
}

_PROGRAM = """\
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


def only_if() -> dict[str, dict[str, list[str]]]:
    """Return the choices at which each control does something, as ``Panel`` takes them.

    A control does nothing where neither the program nor the chosen call names it.

    Example:
        >>> only_if()["pieces"]
        {'split': ['shards', 'classes_per_client']}
    """
    always = _fields(_PROGRAM)
    conditions: dict[str, dict[str, list[str]]] = {}
    for name, table in TABLES.items():
        for control in CONTROLS:
            values = [value for value, call in table.items() if control in _fields(call)]
            if control not in always and 0 < len(values) < len(table):
                conditions.setdefault(control, {})[name] = values
    return conditions


def _fields(template: str) -> set[str]:
    return {field for _, field, *_ in Formatter().parse(template) if field}


def program(seeds: int = 1, **settings: Any) -> str:
    """Return the program of a setting; its last line runs the experiment.

    Args:
        seeds: Number of seeds.
        settings: A value for each of ``CONTROLS`` but ``seeds``.

    Example:
        >>> settings = {name: parameter.default for name, parameter in CONTROLS.items()}
        >>> print(program(**settings).splitlines()[-1])
        result = run(study, seeds=1)
    """
    return f"{_experiment(settings)}result = run(study, seeds={seeds})\n"


def compose(**settings: Any) -> Experiment:
    """Return the experiment of a setting, by running the text of its program.

    Args:
        settings: A value for each of ``CONTROLS`` but ``seeds``.

    Example:
        >>> settings = {name: parameter.default for name, parameter in CONTROLS.items()}
        >>> compose(**settings).rounds
        100
    """
    variables: dict[str, Any] = {}
    exec(_experiment(settings), variables)  # the text holds only our words and checked values
    return variables["study"]


def _experiment(settings: dict[str, Any]) -> str:
    """Return the program up to the experiment."""
    calls = {name: table[settings[name]].format(**settings) for name, table in TABLES.items()}
    calls["aggregate"] = "mean" if settings["sampler"] == "by_size" else "weighted_mean"
    used = {"load", *re.findall(r"\w+", " ".join(calls.values()))}
    imports = [
        f"from {module.__name__} import {', '.join(sorted(used & set(module.__all__)))}"
        for module in (data, models, server, upload)
    ]
    values = {**settings, **calls, "batch": settings["batch_size"] or None}
    return _PROGRAM.format(imports="\n".join(imports), **values)
