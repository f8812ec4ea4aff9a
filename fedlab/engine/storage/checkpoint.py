"""What a run needs to go on: its models, its state, its tables; all else comes from the seed."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fedlab.core import ClientTable, Task, label_column
from fedlab.engine.storage.description import checksum, describe_strictly, plain_value
from fedlab.engine.storage.files import (
    BESIDE,
    EXPERIMENT,
    as_json,
    claim,
    claimed,
    damaged,
    folder_path,
    maker,
    read_tensors,
    write_json,
    write_tensors,
)
from fedlab.upload.traffic import Traffic

FORMAT, STATE = "fedlab checkpoint 5", "state.safetensors"

START = "start"  # of the words of an experiment: the models that it begins with

SAVE_INTERVAL, SAVE_TIME_SHARE = (
    1.0,
    0.05,
)  # a save is due after a second, and saving takes no more than this share of the time

_log = logging.getLogger(__name__)


class Whole(NamedTuple):
    """How a run stood after a whole round, so that it can be put back."""

    w: Tensor
    state: Any  # of algorithm and traffic, a copy but for the tables
    rounds: int  # rows recorded
    clients: int
    written: list[tuple[ClientTable, list]]  # the tables, and what has been written over since


class Beside(Protocol):
    """What else a run needs to go on, where rounds are not all that there is."""

    def describe(self) -> dict[str, Any]:
        """What it was begun with, as plain values."""

    def state_dict(self) -> dict[str, Any]:
        """How it stands: tensors, arrays, numbers, texts and None, in tuples, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


class Checkpoint:
    """Keeps the runs of ``fedlab.engine.run`` in a folder, so that they go on where they stood when they were killed.

    Used in a ``with`` block, which begins where the folder's runs stood (``round``) and on whose end, whatever its cause,
    the runs are put back to their last whole round and saved.  Of no folder (None) it keeps nothing.  With something
    ``beside`` each run they begin again where they were last saved.

    While anything is left to train, the folder is this process's alone.  The state names the experiments that it belongs to,
    so another one's, copied there or written by another process, is never gone on with.

    Raises ValueError for a damaged checkpoint or one of another experiment, FileExistsError for a folder that holds
    something else, BlockingIOError for one that is in use, OSError for one that cannot be written; then nothing in it has
    been changed.
    """

    def __init__(
        self, folder: str | Path | None, runs: Sequence[Any], beside: Sequence[Beside] = ()
    ):
        self.round, self._beside = 0, beside
        self._folder, self._runs = None if folder is None else folder_path(checkpoint=folder), runs
        self._whole: tuple[int, list[Whole]] = 0, []
        self._saved, self._next = -1, 0.0  # the round of the last save; when another one is due
        self._claim = ExitStack()  # held until the end

    def __enter__(self) -> Checkpoint:
        if self._folder is not None:
            told = _told(self._runs, self._beside)
            self._experiment, self._made_by = (
                _digest(told),
                maker() | {"device": self._runs[0].w.device.type},
            )
            with self._claim:  # given back where anything is refused
                self._begin(told)
                self._claim = self._claim.pop_all()
            self.mark_round(self.round)
        return self

    def _begin(self, told: list[dict[str, Any]]) -> None:
        """Put the runs to where they stood; where they have to go on, make the folder ours before anything is trained."""
        seen, (words, state) = self._seen(), self._read(told)
        is_over = state is not None and self._is_over(state)
        if not is_over:
            self._still_ours = self._claim.enter_context(claim(self._folder))
            if self._seen() != seen:  # another process has been here since
                words, state = self._read(told)
        if state is not None:
            self._restore(state)
        if is_over:
            self._tidy()
            return
        made_by = self._made_by
        if words is not None and words["made_by"] != made_by:
            _log.warning(
                f"{self._folder} was begun with {words['made_by']} and goes on with {made_by}: "
                "its numbers will agree with those of one go to rounding, not to the bit"
            )
        if words is None or words["experiments"] != told:  # new, or longer than it was
            write_json(
                self._folder / EXPERIMENT,
                {"format": FORMAT, "made_by": made_by, "experiments": told},
            )

    def _tidy(self) -> None:
        """Clear away what a kill right after the last save has left; where that cannot be, it does no harm."""
        if any(self._folder.glob(f"{BESIDE}*")):
            with suppress(OSError), claim(self._folder):
                pass

    def _seen(self) -> list[tuple[int, ...]]:
        """What changes when another process writes here."""
        paths = [self._folder / name for name in (EXPERIMENT, STATE)]
        return [
            (s.st_ino, s.st_mtime_ns, s.st_size)
            for s in (path.stat() for path in paths if path.exists())
        ]

    def _read(
        self, told: list[dict[str, Any]]
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """What was begun here, and how it stands; both are checked, and nothing is changed."""
        words = claimed(self._folder, FORMAT, made_by=dict, experiments=list)
        if words is None:
            return None, None
        _check_same(words, told, self._made_by, self._folder)
        path = self._folder / STATE
        if not (path.exists() or path.is_symlink()):  # killed before anything was trained
            return words, None
        tensors, state, experiment = read_tensors(path)
        if experiment != self._experiment:
            raise ValueError(
                f"{path} is the state of another experiment than {EXPERIMENT} beside it tells: it was copied there, or "
                "another program wrote it; give another folder, or delete both files to begin anew"
            )
        try:
            runs = [
                self._unpacked(run, kept, tensors)
                for run, kept in zip(self._runs, state["runs"], strict=True)
            ]
            state = {"round": state["round"], "is_last": state["is_last"], "runs": runs}
            if type(state["round"]) is not int or state["round"] < 0:
                raise ValueError(f"it stands at the round {state['round']!r}")
        except (
            Exception
        ) as error:  # of whatever kind: a state that others wrote may have anything in it
            raise damaged(path, error) from error
        if not self._beside:
            for run, kept in zip(self._runs, runs, strict=True):
                done = kept["rounds"][-1]["round"]
                _check_rounds(
                    done,
                    done if kept["traffic"]["budget_exhausted"] else state["round"],
                    run,
                    self._folder,
                )
        return words, state

    def _unpacked(
        self, run: Any, kept: dict[str, Any], tensors: dict[str, Tensor]
    ) -> dict[str, Any]:
        """A run as it was packed, on the devices of today."""
        places = {kept["w"]["device"]: run.w.device}  # what a GPU's run has on the CPU stays there
        told = {name: _unpack(kept[name], tensors, places) for name in ("w", "state", "traffic")}
        if told["w"].shape != run.w.shape or told["w"].dtype != run.w.dtype:
            raise ValueError(
                f"a model of {list(told['w'].shape)} numbers, and here it has {list(run.w.shape)}"
            )
        if told["traffic"].keys() != vars(run.traffic).keys():
            raise ValueError("its traffic has other fields")
        told["rounds"] = [{**run.labels, "seed": run.seed} | row for row in kept["rounds"]]
        values = [value for row in kept["rounds"] for value in row.values()]
        if not all(type(row["round"]) is int for row in kept["rounds"]) or {
            type(value) for value in values
        } - {int, float}:
            raise ValueError("its rounds are no numbers")
        told["clients"] = {
            name: _unpack(column, tensors, places) for name, column in kept["clients"].items()
        }
        if len({len(column) for column in told["clients"].values()}) > 1:
            raise ValueError("its columns differ in length")
        return told | {"beside": _unpack(kept["beside"], tensors, places) if self._beside else None}

    def _is_over(self, state: dict[str, Any]) -> bool:
        if self._beside:
            return state["is_last"]
        return all(run.experiment.rounds <= state["round"] for run in self._runs)

    def mark_round(self, t: int, *, last: bool = False) -> None:
        """Round ``t`` is whole: save it where that is due, as it is of the ``last``."""
        self.round = t
        if self._folder is None:
            return
        if not self._beside:
            self._whole = t, list(map(_whole, self._runs))
        if t > self._saved and (last or time.monotonic() >= self._next):
            self._save(last=last)

    def __exit__(self, kind, error, trace) -> None:
        with self._claim:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if (
            self._folder is None or self._beside or isinstance(error, OSError)
        ):  # a full disk, perhaps
            return
        self.round, whole = self._whole
        for run, before in zip(self._runs, whole, strict=True):
            for table, written in before.written:
                table.undo(written)
                table.journal = None
            run.w, (run.state, run.traffic) = before.w, before.state
            del run.rounds[before.rounds :], run.clients[before.clients :]
        if self._saved < self.round:
            self._save()

    def _save(self, *, last: bool = False) -> None:
        began, tensors = time.monotonic(), {}
        runs = [_pack_run(run, f"{i}.", tensors) for i, run in enumerate(self._runs)]
        for i, other in enumerate(self._beside):
            runs[i]["beside"] = _pack(other.state_dict(), f"{i}.beside", tensors)
        self._still_ours()
        state = {"round": self.round, "is_last": last, "runs": runs}
        write_tensors(self._folder / STATE, state, tensors, self._experiment)
        now = time.monotonic()
        self._saved, self._next = (
            self.round,
            now + max(SAVE_INTERVAL, (now - began) / SAVE_TIME_SHARE),
        )

    def _restore(self, state: dict[str, Any]) -> None:
        for i, (run, kept) in enumerate(zip(self._runs, state["runs"], strict=True)):
            run.w, run.state = kept["w"], kept["state"]
            run.traffic = Traffic(**kept["traffic"])
            run.rounds[:] = kept["rounds"]
            m = len(kept["clients"].get("round", ()))
            same = {
                name: label_column(value, m)
                for name, value in {**run.labels, "seed": run.seed}.items()
            }
            run.clients[:] = [same | kept["clients"]] if kept["clients"] else []
            if self._beside:
                self._beside[i].load_state_dict(kept["beside"])
        self.round = self._saved = state["round"]


def _told(runs: Sequence[Any], beside: Sequence[Beside]) -> list[dict[str, Any]]:
    """Every experiment with its labels and seeds, in words; the data and the first model of each seed by checksums."""
    seeds, told, frozen = list(dict.fromkeys(int(run.seed) for run in runs)), [], {}
    for run, other in zip(
        runs, [other.describe() for other in beside] or [{}] * len(runs), strict=True
    ):
        seed, experiment = str(run.seed), run.experiment
        if run.seed == seeds[0]:
            words, untold = describe_strictly(experiment, run.seed, data=run.data)
            if untold:
                what, field = next(iter(untold.items()))
                raise ValueError(
                    f"{field} must not hold {what}: a checkpoint could not know it again. "
                    "Try an array, a short list or a function in its place, or run without a checkpoint"
                )
            words |= other
            told.append({"labels": plain_value(run.labels), "seeds": seeds, **words, START: {}})
        elif callable(experiment.data):
            told[-1]["data"].setdefault("others", {})[seed] = plain_value(run.data)["checksum"]
        if id(experiment.task) not in frozen:
            frozen[id(experiment.task)] = _frozen(experiment.task)
        told[-1][START][seed] = checksum(run.w, frozen[id(experiment.task)])
    return json.loads(as_json(told))  # so that it equals what is read back


def _frozen(task: Task) -> str:
    """What a model has beside its row, such as weights that do not train."""
    state = task.template(torch.empty(0)).state_dict()
    return json.dumps(
        {name: checksum(part) for name, part in state.items() if name not in task.shapes}
    )


def _digest(told: list[dict[str, Any]]) -> str:
    """What a state must belong to: all that may not differ where it is gone on with."""
    fixed = [
        {name: value for name, value in words.items() if name not in ("rounds", START)}
        for words in told
    ]
    return checksum(json.dumps(fixed, sort_keys=True))


def _check_same(
    words: dict[str, Any], told: list[dict], made_by: dict[str, Any], folder: Path
) -> None:
    """ValueError, with the first field that differs.  Only ``rounds`` may: a run can be made longer.

    The first model counts where the same machine and versions make it: elsewhere its last bits may be others.
    """
    kept, free = (
        words["experiments"],
        {"rounds": 0} | ({} if words["made_by"] == made_by else {START: 0}),
    )
    for there, here in zip(kept, told, strict=False):
        if not isinstance(there, dict):
            raise damaged(folder / EXPERIMENT, ValueError("an experiment is told by fields"))
        found = next(_differences(there | free, here | free), None)
        if found:
            field, was, now = found
            labels = ", ".join(f"{name}={label}" for name, label in here["labels"].items())
            differs = f"{field}{f' of {labels}' if labels else ''} is {_short(was)} there and {_short(now)} here"
            raise ValueError(
                f"{folder} belongs to another experiment: {differs}; give this one another folder"
            )
    if len(kept) != len(told):
        raise ValueError(
            f"{folder} belongs to {len(kept)} experiments, and here are {len(told)}; give these another folder"
        )


def _differences(there: Any, here: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, dict) and isinstance(here, dict) and there.keys() & here.keys():
        for name in [*here, *(name for name in there if name not in here)]:
            yield from _differences(
                there.get(name, ...), here.get(name, ...), f"{path}.{name}" if path else name
            )
    elif _is_of_parts(there) and _is_of_parts(here) and len(there) == len(here):
        for i, (was, now) in enumerate(zip(there, here, strict=True)):
            yield from _differences(was, now, f"{path}.{i}")
    elif there != here or json.dumps(there, sort_keys=True) != json.dumps(
        here, sort_keys=True
    ):  # 1 is no 1.0
        yield path, there, here


def _is_of_parts(told: Any) -> bool:
    return isinstance(told, list) and any(isinstance(part, dict) for part in told)


def _short(value: Any) -> str:
    text = "missing" if value is ... else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_rounds(done: int, t: int, run: Any, folder: Path) -> None:
    """Whether a run of this length would have come by here, too, at the side of the others."""
    rounds = run.experiment.rounds
    if done > rounds:
        raise ValueError(
            f"rounds={rounds}, and {folder} stands at round {done}: take at least as many, or another folder"
        )
    if done < min(rounds, t):
        raise ValueError(
            f"rounds={rounds}, and in {folder} this run ended at round {done} while others went on to {t}: "
            f"keep rounds={done} for it, or take another folder"
        )


def _whole(run: Any) -> Whole:
    written, memo = [], {}
    for table in client_tables((run.state, run.traffic)):
        table.journal = []
        written.append((table, table.journal))
        memo[id(table)] = table
    return Whole(
        run.w.clone(),
        copy.deepcopy((run.state, run.traffic), memo),
        len(run.rounds),
        len(run.clients),
        written,
    )


def client_tables(state: Any) -> Iterator[ClientTable]:
    """The tables in the state of an algorithm or a transform."""
    if isinstance(state, ClientTable):
        yield state
    elif isinstance(state, Traffic):
        yield from client_tables(vars(state))
    elif isinstance(state, list | tuple | dict):
        for part in state.values() if isinstance(state, dict) else state:
            yield from client_tables(part)


def _pack_run(run: Any, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A run without its labels and seed, which come from elsewhere."""
    known = {*run.labels, "seed"}
    columns = [column for column in (run.clients[0] if run.clients else ()) if column not in known]
    clients = {column: np.concatenate([rows[column] for rows in run.clients]) for column in columns}
    return {
        "w": _pack(run.w, f"{name}w", tensors),
        "state": _pack(run.state, f"{name}state", tensors),
        "traffic": _pack(vars(run.traffic), f"{name}traffic", tensors),
        "rounds": [
            {column: value for column, value in row.items() if column not in known}
            for row in run.rounds
        ],
        "clients": {
            column: _pack(values, f"{name}clients.{column}", tensors)
            for column, values in clients.items()
        },
    }


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON, its numbers in ``tensors``."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        tensors[name] = (
            value.detach().cpu().clone(memory_format=torch.contiguous_format)
        )  # no two may share memory
        return {"tensor": name, "device": value.device.type}
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return {"texts": value.tolist()}
    if isinstance(value, np.ndarray | np.generic):
        tensors[name] = torch.from_numpy(np.array(value, order="C"))
        return {"array": name}
    if isinstance(value, ClientTable):
        tensors[f"{name}.place"], rows = value.contents
        tensors[f"{name}.rows"] = rows.cpu()
        return {"table": name, "device": rows.device.type}
    if type(value) in (list, tuple):
        return {
            type(value).__name__: [
                _pack(part, f"{name}.{i}", tensors) for i, part in enumerate(value)
            ]
        }
    if type(value) is dict and all(type(key) in (str, int) for key in value):
        return {
            "dict": [[key, _pack(part, f"{name}.{key}", tensors)] for key, part in value.items()]
        }
    raise TypeError(
        f"a state holds a {type(value).__name__}, which no checkpoint can keep: make it of tensors, arrays, "
        "numbers, texts, None and ClientTable, in tuples, lists and dicts, or run without a checkpoint"
    )


def _unpack(told: Any, tensors: dict[str, Tensor], places: dict[str, torch.device]) -> Any:
    """What was packed, on the devices that are now in the places of those then."""
    if not isinstance(told, dict):
        return told
    kind, content = next(iter(told.items()))
    if kind == "tensor":
        return tensors[content].to(places.get(told["device"], "cpu"))
    if kind == "texts":
        return np.array(content)
    if kind == "array":
        return tensors[content].numpy()[()]
    if kind == "table":
        rows = tensors[f"{content}.rows"].to(places.get(told["device"], "cpu"))
        return ClientTable.from_contents(tensors[f"{content}.place"], rows)
    if kind == "dict":
        return {key: _unpack(part, tensors, places) for key, part in content}
    return {"list": list, "tuple": tuple}[kind](_unpack(part, tensors, places) for part in content)
