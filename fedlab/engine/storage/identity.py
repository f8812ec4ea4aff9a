"""Identity of a checkpoint's experiments: described, and compared before a run continues."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fedlab.core import Task
from fedlab.engine.run_state import Run
from fedlab.engine.storage.checksums import checksum
from fedlab.engine.storage.description import describe_with_gaps, plain_value
from fedlab.engine.storage.files import to_json
from fedlab.engine.storage.folders import EXPERIMENT
from fedlab.engine.storage.tensors import damaged_state

START = "start"  # field of a description: checksums of the models that its runs start from


def describe_runs(
    runs: Sequence[Run], extras: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Describe every experiment of some runs, with its labels and seeds.

    Args:
        runs: Runs, those of one experiment one after another, seed by seed.
        extras: Further fields of each run's description.

    Returns:
        One description per experiment, with checksums of each seed's data and first model.

    Raises:
        ValueError: If an experiment holds an object that cannot be described.
    """
    seeds = list(dict.fromkeys(int(run.seed) for run in runs))
    described: list[dict[str, Any]] = []
    frozen: dict[int, str] = {}
    for run, extra in zip(runs, extras or [{}] * len(runs), strict=True):
        seed, task = str(run.seed), run.experiment.task
        if run.seed == seeds[0]:
            words = _describe_completely(run) | extra
            described.append({"labels": plain_value(run.labels), "seeds": seeds, **words})
            described[-1][START] = {}
        elif callable(run.experiment.data):
            data_checksum = plain_value(run.data)["checksum"]
            described[-1]["data"].setdefault("others", {})[seed] = data_checksum
        if id(task) not in frozen:
            frozen[id(task)] = _describe_frozen(task)
        described[-1][START][seed] = checksum(run.w, frozen[id(task)])
    return json.loads(to_json(described))  # so that it equals what is read back


def _describe_completely(run: Run) -> dict[str, Any]:
    """Describe a run's experiment; raise ValueError if the description has a gap."""
    words, gaps = describe_with_gaps(run.experiment, run.seed, data=run.data)
    if gaps:
        thing, field = next(iter(gaps.items()))
        raise ValueError(
            f"{field} must not hold {thing}: a checkpoint could not recognise it. Try an array, a "
            "short list or a function in its place, or run without a checkpoint"
        )
    return words


def _describe_frozen(task: Task) -> str:
    """Describe the numbers of a model that its row leaves out, such as frozen weights."""
    state = task.template(torch.empty(0)).state_dict()
    return json.dumps(
        {name: checksum(part) for name, part in state.items() if name not in task.shapes}
    )


def digest(described: list[dict[str, Any]]) -> str:
    """Return the digest that a state must bear: of everything that may not change."""
    fixed = [
        {name: value for name, value in words.items() if name not in ("rounds", START)}
        for words in described
    ]
    return checksum(json.dumps(fixed, sort_keys=True))


def check_same(
    saved: dict[str, Any], described: list[dict], made_by: dict[str, Any], folder: Path
) -> None:
    """Check that a folder belongs to the described experiments.

    Only ``rounds`` may differ, since a run can be made longer. The first model counts if the same
    machine and versions made it; its last bits may differ otherwise.

    Args:
        saved: Contents of the folder's ``experiment.json``.
        described: Descriptions of the experiments that are to run.
        made_by: Machine and versions of today.
        folder: The folder, for the error.

    Raises:
        ValueError: If another field differs; the error names the first one.
    """
    experiments = saved["experiments"]
    ignored = {"rounds": 0} | ({} if saved["made_by"] == made_by else {START: 0})
    for before, words in zip(experiments, described, strict=False):
        if not isinstance(before, dict):
            raise damaged_state(folder / EXPERIMENT, ValueError("an experiment has no fields"))
        difference = next(_differences(before | ignored, words | ignored), None)
        if difference:
            field, old, new = difference
            labels = ", ".join(f"{name}={label}" for name, label in words["labels"].items())
            labels = f" of {labels}" if labels else ""
            raise ValueError(
                f"{folder} belongs to another experiment: {field}{labels} is {_short(old)} there "
                f"and {_short(new)} here. Try another folder for this one"
            )
    if len(experiments) != len(described):
        raise ValueError(
            f"{folder} belongs to {len(experiments)} experiments, and here are {len(described)}. "
            "Try another folder for these"
        )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields that differ, with both values; a missing one is ``...``."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() & new.keys():
        for name in [*new, *(name for name in old if name not in new)]:
            yield from _differences(
                old.get(name, ...), new.get(name, ...), f"{path}.{name}" if path else name
            )
    elif _has_fields(old) and _has_fields(new) and len(old) == len(new):
        for i, (old_part, new_part) in enumerate(zip(old, new, strict=True)):
            yield from _differences(old_part, new_part, f"{path}.{i}")
    elif old != new or json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
        yield path, old, new  # the texts differ for 1 and 1.0, which are equal


def _has_fields(described: Any) -> bool:
    return isinstance(described, list) and any(isinstance(part, dict) for part in described)


def _short(value: Any) -> str:
    text = "missing" if value is ... else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_rounds(done: int, t: int, run: Run, folder: Path) -> None:
    """Check that a run can continue where the folder stands.

    Args:
        done: Last round of this run in the folder.
        t: Last round of the folder, which runs in lockstep share.
        run: The run with its new number of rounds.
        folder: The folder, for the error.

    Raises:
        ValueError: If a run of this length would not have stood there at round ``t``.
    """
    rounds = run.experiment.rounds
    if done > rounds:
        raise ValueError(
            f"rounds={rounds} must be at least {done}, where {folder} stands. Try rounds={done}, "
            "or another folder"
        )
    if done < min(rounds, t):
        raise ValueError(
            f"rounds={rounds} must be {done} as before: in {folder} this run ended at round {done} "
            f"while others went on to {t}. Try rounds={done}, or another folder"
        )
