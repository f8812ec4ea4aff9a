"""Checkpoints: runs that continue where they were killed, to the same numbers.

A folder holds ``experiment.json`` (descriptions of the experiments) and ``state.safetensors``
(models, states and tables of the runs). Everything else follows from the seeds.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from fedlab.core import ClientTable, label_column
from fedlab.engine.run_state import Run
from fedlab.engine.storage.files import TEMPORARY, environment, write_json
from fedlab.engine.storage.folders import EXPERIMENT, folder_path, read_description
from fedlab.engine.storage.identity import check_rounds, check_same, describe_runs, digest
from fedlab.engine.storage.locks import lock_folder
from fedlab.engine.storage.packing import client_tables, pack, pack_run, unpack_run
from fedlab.engine.storage.tensors import damaged_state, read_tensors, write_tensors
from fedlab.upload.traffic import Traffic

FORMAT, STATE = "fedlab checkpoint 5", "state.safetensors"

# A save is due after this many seconds, and takes at most this share of the time.
SAVE_INTERVAL, SAVE_TIME_SHARE = 1.0, 0.05

_log = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """A run after a complete round, so that it can be put back.

    Attributes:
        w: Copy of the model.
        state: Copy of the algorithm's state and the traffic, without the client tables.
        num_rounds: Number of rows of the table of rounds.
        num_clients: Number of entries of the table of clients.
        journals: Client tables, with the rows that were overwritten since.
    """

    w: Tensor
    state: Any
    num_rounds: int
    num_clients: int
    journals: list[tuple[ClientTable, list]]


class ExtraState(Protocol):
    """State beside a run that a checkpoint keeps, such as a simulated clock."""

    def describe(self) -> dict[str, Any]:
        """Return the settings that must be the same when the run continues, as plain values."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: numbers, texts, arrays and tensors, in tuples, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""


class Checkpoint:
    """Folder in which runs are kept, so that they continue after the process was killed.

    It is a context manager. At its start the runs are set to where the folder's runs stood
    (``round``). At its end, whatever the cause, they are put back to their last complete round and
    saved. While there is anything left to train, the folder belongs to this process alone. A state
    names the experiments that it belongs to, so that the state of another experiment is refused,
    however it came into the folder.

    Args:
        folder: The folder; None keeps nothing.
        runs: Runs before their first round, changed in place.
        extras: Further state of each run. With it, runs that end early are not put back: they
            continue from their last save.

    Raises:
        ValueError: On entry, if the checkpoint is damaged or of another experiment.
        FileExistsError: On entry, if the folder holds something else.
        BlockingIOError: On entry, if another process uses the folder.
        OSError: If the folder cannot be written. An error on entry leaves it as it was.
    """

    def __init__(
        self, folder: str | Path | None, runs: Sequence[Run], extras: Sequence[ExtraState] = ()
    ):
        self.round = 0
        self._runs, self._extras = runs, extras
        self._folder = None if folder is None else folder_path(checkpoint=folder)
        self._snapshots: tuple[int, list[Snapshot]] = 0, []
        self._saved = -1  # round of the last save
        self._next_save = 0.0  # time at which the next one is due
        self._lock = ExitStack()  # held until the end

    def __enter__(self) -> Checkpoint:
        if self._folder is not None:
            described = describe_runs(self._runs, [extra.describe() for extra in self._extras])
            self._experiment = digest(described)
            self._made_by = environment() | {"device": self._runs[0].w.device.type}
            with self._lock:  # released if anything is refused
                self._begin(described)
                self._lock = self._lock.pop_all()
            self.mark_round(self.round)
        return self

    def _begin(self, described: list[dict[str, Any]]) -> None:
        """Restore the runs, and lock the folder before anything is trained."""
        stamps, (saved, state) = self._file_stamps(), self._read(described)
        is_over = state is not None and self._is_over(state)
        if not is_over:
            self._check_lock = self._lock.enter_context(lock_folder(self._folder))
            if self._file_stamps() != stamps:  # another process has written since
                saved, state = self._read(described)
        if state is not None:
            self._restore(state)
        if is_over:
            self._tidy()
            return
        if saved is not None and saved["made_by"] != self._made_by:
            _log.warning(
                "%s was begun with %s and continues with %s: its numbers will agree with those of "
                "one run to rounding, not to the bit",
                self._folder,
                saved["made_by"],
                self._made_by,
            )
        if saved is None or saved["experiments"] != described:  # new, or longer than before
            words = {"format": FORMAT, "made_by": self._made_by, "experiments": described}
            write_json(self._folder / EXPERIMENT, words)

    def _tidy(self) -> None:
        """Remove unfinished files of a kill right after the last save; they do no harm."""
        if any(self._folder.glob(f"{TEMPORARY}*")):
            with suppress(OSError), lock_folder(self._folder):
                pass

    def _file_stamps(self) -> list[tuple[int, ...]]:
        """Return inode, time and size of the files, which change when another process writes."""
        paths = [self._folder / name for name in (EXPERIMENT, STATE)]
        stats = [path.stat() for path in paths if path.exists()]
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]

    def _read(
        self, described: list[dict[str, Any]]
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Read and check the description and the state of the folder; None if there is none."""
        saved = read_description(self._folder, FORMAT, made_by=dict, experiments=list)
        if saved is None:
            return None, None
        check_same(saved, described, self._made_by, self._folder)
        path = self._folder / STATE
        if not (path.exists() or path.is_symlink()):  # killed before anything was trained
            return saved, None
        tensors, state, experiment = read_tensors(path)
        if experiment != self._experiment:
            raise ValueError(
                f"{path} is the state of another experiment than {EXPERIMENT} beside it describes: "
                "it was copied there, or another program wrote it. Try another folder, or delete "
                "both files to start anew"
            )
        try:
            state = self._unpack(state, tensors)
        except Exception as error:  # a state of another program may hold anything
            raise damaged_state(path, error) from error
        if not self._extras:
            for run, unpacked in zip(self._runs, state["runs"], strict=True):
                done = unpacked["rounds"][-1]["round"]
                is_ended = unpacked["traffic"]["budget_exhausted"]
                check_rounds(done, done if is_ended else state["round"], run, self._folder)
        return saved, state

    def _unpack(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Unpack and check the state of all runs."""
        runs = [
            unpack_run(run, packed, tensors, has_extra=bool(self._extras))
            for run, packed in zip(self._runs, state["runs"], strict=True)
        ]
        state = {"round": state["round"], "is_last": state["is_last"], "runs": runs}
        if type(state["round"]) is not int or state["round"] < 0:
            raise ValueError(f"it stands at the round {state['round']!r}")
        return state

    def _is_over(self, state: dict[str, Any]) -> bool:
        if self._extras:
            return state["is_last"]
        return all(run.experiment.rounds <= state["round"] for run in self._runs)

    def mark_round(self, t: int, *, last: bool = False) -> None:
        """Mark round ``t`` as complete, and save it if a save is due or it is the ``last``."""
        self.round = t
        if self._folder is None:
            return
        if not self._extras:
            self._snapshots = t, list(map(_snapshot, self._runs))
        if t > self._saved and (last or time.monotonic() >= self._next_save):
            self._save(last=last)

    def __exit__(self, kind, error, trace) -> None:
        with self._lock:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Put the runs back to their last complete round, and save them."""
        # An OSError may be a full disk, on which nothing can be saved.
        if self._folder is None or self._extras or isinstance(error, OSError):
            return
        self.round, snapshots = self._snapshots
        for run, snapshot in zip(self._runs, snapshots, strict=True):
            for table, journal in snapshot.journals:
                table.undo(journal)
                table.journal = None
            run.w = snapshot.w
            run.state, run.traffic = snapshot.state
            del run.rounds[snapshot.num_rounds :], run.clients[snapshot.num_clients :]
        if self._saved < self.round:
            self._save()

    def _save(self, *, last: bool = False) -> None:
        """Write the state of all runs."""
        start, tensors = time.monotonic(), {}
        runs = [pack_run(run, f"{i}.", tensors) for i, run in enumerate(self._runs)]
        for i, extra in enumerate(self._extras):
            runs[i]["extra"] = pack(extra.state_dict(), f"{i}.extra", tensors)
        self._check_lock()
        state = {"round": self.round, "is_last": last, "runs": runs}
        write_tensors(self._folder / STATE, state, tensors, self._experiment)
        end = time.monotonic()
        self._saved = self.round
        self._next_save = end + max(SAVE_INTERVAL, (end - start) / SAVE_TIME_SHARE)

    def _restore(self, state: dict[str, Any]) -> None:
        """Set the runs to a state."""
        for i, (run, unpacked) in enumerate(zip(self._runs, state["runs"], strict=True)):
            run.w, run.state = unpacked["w"], unpacked["state"]
            run.traffic = Traffic(**unpacked["traffic"])
            run.rounds[:] = unpacked["rounds"]
            m = len(unpacked["clients"].get("round", ()))
            same = {
                name: label_column(value, m)
                for name, value in {**run.labels, "seed": run.seed}.items()
            }
            run.clients[:] = [same | unpacked["clients"]] if unpacked["clients"] else []
            if self._extras:
                self._extras[i].load_state_dict(unpacked["extra"])
        self.round = self._saved = state["round"]


def _snapshot(run: Run) -> Snapshot:
    """Copy the state of a run; client tables get a journal instead, which takes less memory."""
    journals, memo = [], {}
    for table in client_tables((run.state, run.traffic)):
        table.journal = []
        journals.append((table, table.journal))
        memo[id(table)] = table
    state = copy.deepcopy((run.state, run.traffic), memo)
    return Snapshot(run.w.clone(), state, len(run.rounds), len(run.clients), journals)
