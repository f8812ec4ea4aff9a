"""A run that was killed at any moment ends as one that was not; results load bit for bit."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fedlab import server
from fedlab.client import batched
from fedlab.core import Algorithm, ClientTable, Local, Result
from fedlab.data import dirichlet, load
from fedlab.engine import Diverged, collect_result, run, run_all, storage, stream, variants
from fedlab.engine.run import Interrupted
from fedlab.models import mlp
from fedlab.server import fedadam, fedavg, feddyn, fedprox, scaffold, uniform
from fedlab.study import compare
from fedlab.upload import (
    accumulate,
    chain,
    eden,
    error_feedback,
    lazy,
    lossless,
    power_sgd,
    quantize,
    top_k,
    top_k_within,
)

STATEFUL = {"SCAFFOLD": scaffold(), "FedAdam": fedadam(0.03), "FedDyn": feddyn(0.1)}


def same(a, b):
    pd.testing.assert_frame_equal(a.rounds, b.rounds, check_exact=True)
    pd.testing.assert_frame_equal(a.clients, b.clients, check_exact=True)
    assert all(torch.equal(u, v) for u, v in zip(a.w, b.w, strict=True))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def never(*args):
    raise AssertionError("nothing is to be trained here")


def interrupting(function, at):
    """The function, but for a KeyboardInterrupt right after its call number ``at``."""
    calls = 0

    def interrupted(*args, **settings):
        nonlocal calls
        calls += 1
        result = function(*args, **settings)
        if calls == at:
            raise KeyboardInterrupt
        return result

    return interrupted


@pytest.fixture
def rarely(monkeypatch):
    """No save is due but the ones before training and at the end, whatever ends the run."""
    monkeypatch.setattr(storage.checkpoint, "SAVE_INTERVAL", 1e9)


# Killed

KILLING = """
import os, random, signal, sys, time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from fedlab.engine import storage
from fedlab.client import batched
from fedlab.data import dirichlet, load
from fedlab.models import mlp
from fedlab.core import Experiment, Local
from fedlab.engine import run_all, variants
from fedlab.server import fedadam, feddyn, fedavg, scaffold, uniform, weighted_mean
from fedlab.upload import accumulate, chain, error_feedback, qsgd, quantize, top_k

storage.checkpoint.SAVE_INTERVAL, storage.checkpoint.SAVE_TIME_SHARE = 0, 1e9  # a save every round
root, draw, kills = Path(sys.argv[1]), random.Random(0), 0
split = partial(load, "digits", 30, dirichlet(0.05))
parts = Local(0.1, 8), fedavg(), weighted_mean, uniform(5)
upload = accumulate(2, error_feedback(chain(top_k(0.2), qsgd(6))))
base = Experiment(split, mlp(split(0), (32,)), *parts, rounds=20, eval_every=5,
                  upload=upload, download=quantize(8))
algorithms = {"SCAFFOLD": scaffold(), "FedAdam": fedadam(0.03), "FedDyn": feddyn(0.1)}
pairs = variants(base, algorithm=algorithms)


def alive(act):  # a process of its own; gives its number
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def keep(name, checkpoint, backend=batched):
    storage.save_result(run_all(pairs, backend, [0, 3], checkpoint=checkpoint), root / name)


def killing_itself(name, at, after):  # at call `at` of a function of the system, before or after it
    import shutil
    place = {"rmtree": shutil}.get(name, os)
    real, calls = getattr(place, name), [0]

    def function(*args, **settings):
        calls[0] += 1
        if calls[0] == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **settings)
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, name, function)
    keep("killed", root / "kept")


def telling(pipe):
    def backend(*args):
        os.write(pipe, b".")
        return batched(*args)

    return backend


def died(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


assert died(alive(lambda: keep("whole", None))) == 0
# During a save, at each of its steps: of the first ones and of one in the middle.
for name in ("mkdir", "fsync", "replace", "rmtree"):
    for at, after in ((1, False), (3, True)):
        assert died(alive(lambda: killing_itself(name, at, after))) == -signal.SIGKILL
        kills += 1
# At random moments, but some rounds further on each time.
while True:
    read, write = os.pipe()
    pid = alive(lambda: keep("killed", root / "kept", telling(write)))
    os.close(write)
    # A round trains six runs, each by itself.
    told = sum(len(os.read(read, 1)) for _ in range(6 * draw.randint(1, 3)))
    time.sleep(draw.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    code = died(pid)
    os.close(read)
    if code == 0 or told == 0:
        break
    kills += 1
assert died(alive(lambda: keep("killed", root / "kept"))) == 0
print(kills, "kills")
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(tmp_path):
    script = tmp_path / "killing.py"
    script.write_text(KILLING)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, script, tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[0]) >= 10
    whole, killed = (
        storage.load_result(tmp_path / "whole"),
        storage.load_result(tmp_path / "killed"),
    )
    same(whole, killed)
    assert whole.clients["round"].max() == 20
    assert whole.rounds["algorithm"].unique().tolist() == list(STATEFUL)
    assert contents(tmp_path / "kept").keys() == {"experiment.json", "state.safetensors"}, (
        "nothing half written is left"
    )


def test_a_kill_right_after_the_last_save_leaves_nothing_for_long(short, tmp_path):
    """The run is over, so that no later one writes to its folder; reading it clears the rest."""
    folder = tmp_path / "kept"
    whole = run(short, checkpoint=folder)
    beside = folder / f".fedlab.state.safetensors.{2**22 + 1}"  # of a process that is gone
    beside.mkdir()
    (beside / "state.safetensors").write_bytes(b"half")
    (folder / ".fedlab.claim").write_text("{}")
    same(run(short, never, checkpoint=folder), whole)
    assert contents(folder).keys() == {"experiment.json", "state.safetensors"}


# Interrupted


@pytest.mark.parametrize("at", [1, 2, 7, 11, 12])
@pytest.mark.parametrize("where", ["training", "recording"])
def test_ctrl_c_leaves_the_last_whole_round(short, tmp_path, monkeypatch, rarely, where, at):
    """Three algorithms under two seeds each: some are a round ahead of the others when it comes."""
    pairs = variants(
        short,
        algorithm=STATEFUL,
        local={"a": short.local, "b": replace(short.local, optimizer="sgd", lr=0.2)},
    )
    whole = run_all(pairs, batched, [0])
    with monkeypatch.context() as patch:
        if where == "recording":
            patch.setattr(
                sys.modules["fedlab.engine.run"],
                "record_round",
                interrupting(sys.modules["fedlab.engine.run"].record_round, at),
            )
            backend = batched
        else:
            backend = interrupting(batched, min(at, 3))
        with pytest.raises(
            Interrupted, match=r"stopped after round \d; the same call continues from there"
        ) as caught:
            run_all(pairs, backend, [0], checkpoint=tmp_path)
    stopped = caught.value.result
    done = stopped.rounds["round"].max()
    assert done == (at - 1) // 6 if where == "recording" else done == min(at, 3) - 1
    before = whole.rounds[whole.rounds["round"] <= done].reset_index(drop=True)
    if done:
        pd.testing.assert_frame_equal(
            stopped.rounds.drop(columns="train_loss"), before.drop(columns="train_loss")
        )
    trained = []

    def counting(*args):
        trained.append(1)
        return batched(*args)

    same(run_all(pairs, counting, [0], checkpoint=tmp_path), whole)
    assert len(trained) == 3 - done, "whole rounds are not done again"


def in_place() -> Algorithm:
    """Momentum that writes over its own tensors, counts in an array, and holds all kinds."""

    def init(w, num_clients):
        return {
            "v": [torch.zeros_like(w)],
            3: (np.zeros(2), None, True, "text", np.float64(0.1), 2.5, {"x": ClientTable(w, 3)}),
        }

    def step(w, state, cohort, updates, mean):
        state["v"][0].mul_(0.5).add_(mean)
        state[3][0][1] += state[3][5] * state[3][4]
        table = state[3][6]["x"]
        table[np.array([1])] = table[np.array([1])] + state["v"][0] * state[3][0][1]
        return w.add_(state["v"][0] + 0.1 * table[np.array([1])][0]), state

    return fedavg()._replace(init=init, step=step)


def test_a_state_of_any_kind_that_is_written_in_place(short, tmp_path, monkeypatch, rarely):
    study = replace(short, algorithm=in_place(), rounds=6)
    whole = run(study)
    for at in (1, 1, 3):
        with monkeypatch.context() as patch:
            patch.setattr(
                sys.modules["fedlab.engine.run"],
                "record_round",
                interrupting(sys.modules["fedlab.engine.run"].record_round, at),
            )
            with pytest.raises(Interrupted):
                run(study, checkpoint=tmp_path)
    same(run(study, checkpoint=tmp_path), whole)


def test_a_stream_that_is_left_is_kept(study, tmp_path, rarely):
    steps = stream(study, seeds=2, checkpoint=tmp_path)
    for _ in range(4):
        next(steps)
    steps.close()
    steps = stream(study, seeds=2, checkpoint=tmp_path)
    runs = next(steps)
    assert [run.rounds[-1]["round"] for run in runs] == [3, 3]
    same(collect_result(runs), run(replace(study, rounds=3), seeds=2))


def test_a_run_that_its_budget_ended_stays_so(study, tmp_path, rarely):
    """And it was evaluated where it ended; the one without a budget goes on."""
    pairs = variants(
        replace(study, eval_every=100), budget={"small": "25 kB up per client", "none": None}
    )
    whole = run_all(pairs, batched, [0])
    last = whole.rounds.groupby("budget")["round"].max()
    assert 1 < last["small"] < last["none"] == 10
    assert whole.rounds.groupby("budget")["loss"].last().notna().all()
    steps = stream(pairs, checkpoint=tmp_path)
    for _ in range(9):
        next(steps)
    steps.close()
    same(run_all(pairs, batched, [0], checkpoint=tmp_path), whole)
    same(run_all(pairs, batched, [0], checkpoint=tmp_path), whole)


def test_divergence_keeps_the_last_good_round(short, tmp_path, rarely):
    """Started again, it says the same."""
    wild = replace(short, local=Local(lr=1e30, batch_size=8))
    messages = []
    for _ in range(2):
        with pytest.raises(Diverged) as caught:
            run(wild, checkpoint=tmp_path)
        messages.append((str(caught.value), caught.value.result.rounds.to_csv()))
    assert messages[0] == messages[1]


def test_finished_is_loaded_without_training(short, tmp_path):
    first = run(short, seeds=2, checkpoint=tmp_path)
    was = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    same(first, run(short, seeds=2))
    again = run(short, never, seeds=2, checkpoint=tmp_path)
    same(again, first)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == was, (
        "nothing is written"
    )
    assert all(w.data_ptr() % 64 == 0 for w in again.w), (
        "where PyTorch's own lie: the last bit of a sum may depend on it"
    )


def test_numbers_of_another_machine_are_warned_of(short, tmp_path, monkeypatch, caplog, rarely):
    next(stream(short, checkpoint=tmp_path))
    run(short, checkpoint=tmp_path)
    assert not caplog.messages
    elsewhere = tmp_path / "elsewhere"
    next(stream(short, checkpoint=elsewhere))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    run(short, checkpoint=elsewhere)
    assert "to rounding, not to the bit" in caplog.text


# Longer than it was


@pytest.mark.parametrize("eval_every", [1, 2, 4])
@pytest.mark.parametrize(("before", "after"), [(3, 8), (4, 5)])
def test_a_longer_run_is_one_that_was_long_from_the_start(
    short, tmp_path, before, after, eval_every
):
    study = replace(short, algorithm=scaffold(), eval_every=eval_every)
    run(replace(study, rounds=before), seeds=2, checkpoint=tmp_path)
    long = replace(study, rounds=after)
    same(run(long, seeds=2, checkpoint=tmp_path), run(long, seeds=2))
    assert (
        json.loads((tmp_path / "experiment.json").read_text())["experiments"][0]["rounds"] == after
    )


@pytest.mark.parametrize("after", [3, 5])
def test_a_shorter_run_is_one_that_was_short_from_the_start(study, tmp_path, after, rarely):
    study = replace(study, eval_every=4)
    steps = stream(study, checkpoint=tmp_path)
    for _ in range(4):
        next(steps)
    steps.close()
    same(run(replace(study, rounds=after), checkpoint=tmp_path), run(replace(study, rounds=after)))


def test_a_variant_that_ended_before_the_others_stays_so(short, tmp_path):
    run_all(variants(short, rounds={"short": 2, "long": 4}), batched, 1, checkpoint=tmp_path)
    longer = variants(short, rounds={"short": 2, "long": 6})
    same(run_all(longer, batched, 1, checkpoint=tmp_path), run_all(longer, batched, 1))
    with pytest.raises(
        ValueError,
        match=r"rounds=5 must be 2 as before: in .* ended at round 2 while others went on to 6\. "
        r"Try rounds=2",
    ):
        run_all(variants(short, rounds={"short": 5, "long": 7}), batched, 1, checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r"rounds=1 must be at least 2, where .* stands\. Try rounds=2"
    ):
        run_all(variants(short, rounds={"short": 1, "long": 6}), batched, 1, checkpoint=tmp_path)


# Wrong inputs

OTHERS = {
    "lr": (
        lambda s: replace(s, local=replace(s.local, lr=0.2)),
        r"local\.lr is 0\.1 there and 0\.2 here",
    ),
    "algorithm": (
        lambda s: replace(s, algorithm=fedprox(0.1)),
        r'algorithm is {"fedavg".* there and {"fedprox": {"mu": 0\.1}} here',
    ),
    "argument": (
        lambda s: replace(s, algorithm=fedavg(0.5)),
        r"algorithm\.fedavg\.server_lr is 1\.0 there and 0\.5 here",
    ),
    "cohort": (
        lambda s: replace(s, sample=uniform(4)),
        r"sample\.uniform\.cohort_size is 5 there and 4 here",
    ),
    "own function": (
        lambda s: replace(s, sample=lambda *_: np.arange(5)),
        r"sample is .*uniform.* there and .*code.* here",
    ),
    "aggregate": (
        lambda s: replace(s, aggregate=server.mean),
        r'aggregate is "weighted_mean" there and "mean" here',
    ),
    "split": (
        lambda s: replace(s, data=partial(load, "digits", 30, dirichlet(0.06))),
        r"data\.function\.load\.split.*alpha is 0",
    ),
    "examples": (
        lambda s: replace(s, data=lambda seed: s.data(seed + 1)),
        r"data\.function is .*load.* there and .* here",
    ),
    "model": (
        lambda s: replace(s, task=mlp(s.data(0), (33,))),
        r"task\.model\.perceptron\.widths is \[64, 32, 10\] there and",
    ),
    "eval_every": (lambda s: replace(s, eval_every=2), r"eval_every is 1 there and 2 here"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_experiment(short, tmp_path, name):
    change, message = OTHERS[name]
    run(short, checkpoint=tmp_path)
    was = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"belongs to another experiment: {message}") as caught:
        run(change(short), never, checkpoint=tmp_path)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == was


def test_a_checkpoint_of_other_seeds_or_variants(short, tmp_path):
    pairs = variants(short, algorithm={"a": fedavg(), "b": fedavg(0.5)})
    run_all(pairs, batched, 2, checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r"seeds of algorithm=a is \[0, 1\] there and \[0, 1, 2\] here"
    ):
        run_all(pairs, never, 3, checkpoint=tmp_path)
    changed = variants(short, algorithm={"a": fedavg(), "b": fedavg(0.4)})
    with pytest.raises(
        ValueError, match=r"algorithm\.fedavg\.server_lr of algorithm=b is 0\.5 there and 0\.4 here"
    ):
        run_all(changed, never, 2, checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r'labels.algorithm of algorithm=c is "b" there and "c" here'
    ):
        run_all(
            variants(short, algorithm={"a": fedavg(), "c": fedavg(0.5)}),
            never,
            2,
            checkpoint=tmp_path,
        )
    with pytest.raises(ValueError, match=r"belongs to 2 experiments, and here are 3"):
        run_all([*pairs, ({"algorithm": "c"}, short)], never, 2, checkpoint=tmp_path)


def torn(name, keep):
    def damage(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:keep])

    return damage


def without(field):
    def damage(folder):
        path = folder / "experiment.json"
        words = json.loads(path.read_text())
        del words[field]
        path.write_text(json.dumps(words))

    return damage


def flipped(folder):
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "state cut to nothing": (
        torn("state.safetensors", 0),
        r"state\.safetensors is damaged \(.*\)\. Try to move .* away, which starts anew",
    ),
    "state cut in its header": (torn("state.safetensors", 60), r"state\.safetensors is damaged"),
    "state cut by a byte": (torn("state.safetensors", -1), r"state\.safetensors is damaged"),
    "a bit of the state": (flipped, r"state\.safetensors is damaged \(its checksum is another\)"),
    "words cut to nothing": (torn("experiment.json", 0), r"experiment\.json is damaged"),
    "words cut": (torn("experiment.json", -20), r"experiment\.json is damaged"),
    "no experiments": (
        without("experiments"),
        r"experiment\.json is damaged \(it has no 'experiments'\)\. Try to move .* away, or "
        r"another folder",
    ),
    "no maker": (without("made_by"), r"experiment\.json is damaged \(it has no 'made_by'\)"),
    "no words": (
        lambda folder: (folder / "experiment.json").unlink(),
        r"holds something else \(state\.safetensors\)",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint(short, tmp_path, name):
    damage, message = DAMAGE[name]
    run(short, checkpoint=tmp_path)
    damage(tmp_path)
    was = contents(tmp_path)
    with pytest.raises((ValueError, FileExistsError), match=message) as caught:
        run(short, never, checkpoint=tmp_path)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == was


FOREIGN = {
    "notes": (
        {"notes.txt": b"mine", "b": b"", "c": b"", "d": b""},
        FileExistsError,
        r"holds something else \(b, c, d, \.\.\.\)",
    ),
    "other json": (
        {"experiment.json": b'{"mine": 1}'},
        FileExistsError,
        r"holds something else \(experiment\.json\)",
    ),
    "a list": ({"experiment.json": b"[1]"}, FileExistsError, r"holds something else"),
    "no text": ({"experiment.json": b"\xff\xfe"}, ValueError, r"experiment\.json is damaged"),
    "newer": (
        {"experiment.json": b'{"format": "fedlab checkpoint 9"}'},
        ValueError,
        r"holds a 'fedlab checkpoint 9', not a",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_of_something_else(short, tmp_path, name):
    files, kind, message = FOREIGN[name]
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(kind, match=message):
        run(short, never, checkpoint=tmp_path)
    with pytest.raises(FileExistsError, match=r"holds something else"):
        storage.save_result(run(short), tmp_path)
    assert contents(tmp_path) == files


@contextmanager
def unprivileged():
    """Root may write everywhere: be somebody else."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_folder_that_cannot_be_written(short, tmp_path):
    result = run(short)
    (tmp_path / "file").write_text("mine")
    for folder, kind, message in (
        (tmp_path / "file", NotADirectoryError, "must be a folder, and is a file"),
        (tmp_path / "file" / "below", NotADirectoryError, "cannot be written"),
    ):
        for use in (
            lambda f=folder: run(short, never, checkpoint=f),
            lambda f=folder: storage.save_result(result, f),
        ):
            with pytest.raises(kind, match=message):
                use()
    with tempfile.TemporaryDirectory() as locked:
        Path(locked).chmod(0o555)
        with unprivileged():
            for use in (
                lambda: run(short, never, checkpoint=locked),
                lambda: storage.save_result(result, locked),
            ):
                with pytest.raises(
                    PermissionError,
                    match=r"cannot be written \(Permission denied\)\. Try a folder that can be",
                ):
                    use()
        assert not contents(Path(locked))


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_what_is_finished_is_read_from_a_folder_that_cannot_be_written(short):
    with tempfile.TemporaryDirectory() as locked:
        result = run(short, checkpoint=locked)
        Path(locked).chmod(0o555)
        with unprivileged():
            same(run(short, never, checkpoint=locked), result)
            with pytest.raises(
                PermissionError,
                match=r"cannot be written \(Permission denied\)\. Try a folder that can be",
            ):
                run(replace(short, rounds=4), never, checkpoint=locked)
        Path(locked, "state.safetensors").chmod(0o000)
        with (
            unprivileged(),
            pytest.raises(PermissionError, match=r"state\.safetensors cannot be read"),
        ):
            run(short, never, checkpoint=locked)
        Path(locked).chmod(0o755)


def test_a_full_disk_leaves_the_older_state(short, tmp_path):
    """Here: files may not grow beyond 10 kB."""
    resource = pytest.importorskip("resource")
    run(replace(short, rounds=1), checkpoint=tmp_path)
    was, limits = contents(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"state\.safetensors.*|cannot be written") as caught:
            run(replace(short, rounds=3), checkpoint=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path)["state.safetensors"] == was["state.safetensors"]
    same(run(replace(short, rounds=3), checkpoint=tmp_path), run(replace(short, rounds=3)))


def test_a_state_that_cannot_be_kept_is_refused_before_training(short, tmp_path):
    method = fedavg()._replace(init=lambda w, n: (torch.Generator(),))
    with pytest.raises(
        TypeError,
        match=r"state holds a Generator, which no checkpoint can keep\. Try tensors",
    ):
        run(replace(short, algorithm=method), never, checkpoint=tmp_path)


# In words


def test_an_experiment_in_words(short):
    words = storage.describe(short)
    checksums = words["data"].pop("checksum"), words["task"].pop("layers")
    assert all(len(checksum) == 32 for checksum in checksums)
    assert words == {
        "data": {
            "function": {
                "load": {
                    "name": "digits",
                    "clients": 30,
                    "split": {"dirichlet": {"alpha": 0.05, "min_examples": 0}},
                }
            },
            "seed": 0,
            "name": "digits",
            "clients": 30,
            "examples": 1437,
            "test_examples": 360,
            "shape": [64],
            "classes": 10,
        },
        "task": {
            "model": {"perceptron": {"widths": [64, 32, 10]}},
            "loss": "cross_entropy",
            "metrics": {"accuracy": "accuracy"},
            "lengths": None,
            "measures": {},
            "parameters": 64 * 32 + 32 + 32 * 10 + 10,
        },
        "local": vars(short.local),
        "algorithm": {"fedavg": {"server_lr": 1.0}},
        "aggregate": "weighted_mean",
        "sample": {"uniform": {"cohort_size": 5}},
        "rounds": 3,
        "eval_every": 1,
        "upload": "identity",
        "download": "identity",
        "budget": None,
    }
    assert json.loads(json.dumps(words, allow_nan=False)) == words


ALGORITHMS = {
    "fedsgd": (server.fedsgd(0.5), {"fedsgd": {"server_lr": 0.5}}),
    "fedavgm": (server.fedavgm(0.5), {"fedavgm": {"beta": 0.5, "server_lr": 1.0}}),
    "fedadam": (
        fedadam(0.3),
        {"fedadam": {"server_lr": 0.3, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}},
    ),
    "fedadagrad": (
        server.fedadagrad(),
        {"fedadagrad": {"server_lr": 0.1, "beta1": 0.0, "tau": 1e-3}},
    ),
    "fedprox": (fedprox(0.1), {"fedprox": {"mu": 0.1}}),
    "scaffold": (scaffold(), {"scaffold": {"server_lr": 1.0}}),
    "fednova": (server.fednova(), "fednova"),
    "qfedavg": (server.qfedavg(2.0), {"qfedavg": {"q": 2.0}}),
}


_TOP_K = {"top_k": {"fraction": 0.05}}
_PACED = {"budget": "1 MB up per client", "rounds": 9, "growth": 1.0}
TRANSFORMS = {
    "chain": (
        error_feedback(chain(top_k(0.05), quantize(8))),
        {
            "error_feedback": {
                "transform": {
                    "chain": {"transforms": [_TOP_K, {"quantize": {"bits": 8, "bucket": None}}]}
                }
            }
        },
    ),
    "lazy": (
        accumulate(2, lazy()),
        {
            "accumulate": {
                "every": 2,
                "transform": {"lazy": {"transform": "identity", "threshold": 0.3}},
            }
        },
    ),
    "eden": (eden(2), {"chain": {"transforms": ["rotate", {"lloyd_max": {"bits": 2}}]}}),
    "lossless": (lossless(), "lossless"),
    "power_sgd": (power_sgd(3), {"power_sgd": {"rank": 3}}),
    "paced": (top_k_within("1 MB up per client", rounds=9), {"top_k_within": _PACED}),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_in_words(short, name):
    transform, words = TRANSFORMS[name]
    assert storage.describe(replace(short, upload=transform))["upload"] == words


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_is_told_as_the_call_that_makes_it(short, name):
    method, words = ALGORITHMS[name]
    assert (
        storage.describe(replace(short, algorithm=method, local=Local(0.1, None)))["algorithm"]
        == words
    )


def test_an_algorithm_that_no_call_makes_is_told_by_its_functions(short):
    words = storage.describe(
        replace(short, algorithm=fedavg(0.5)._replace(contributions=scaffold().contributions))
    )["algorithm"]
    assert words["step"] == {"fedavg": {"server_lr": 0.5}}
    assert words["contributions"] == "weigh_equally"


FACTOR = 2


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(64, width)

    def forward(self, x):
        return FACTOR * self.layer(x)


class Fixed:
    def __init__(self, ids):
        self.ids = ids

    def __call__(self, sizes, round, generator):
        return self.ids


def chosen(k, power=1):
    return lambda sizes, t, generator: np.sort(np.argsort(sizes)[:k] ** power)


def scripted(text):
    """What a notebook's cell would define."""
    space = {"__name__": "__main__", "np": np, "nn": nn}
    exec(text, space)
    return space["f"]


PLACES = itertools.count()
SAME = {
    "closures": lambda: chosen(5),
    "objects": lambda: Fixed(np.arange(5)),
    "comments and places": lambda: scripted(
        os.linesep * next(PLACES) + f"f = lambda s, t, g: s[:3]  # {next(PLACES)}"
    ),
    "sets": lambda: scripted("def f(s, t, g):\n return s if t in {'a', 'b', 'c', 'd'} else 1"),
    "recursion": lambda: scripted("def f(n, *a):\n return f(n - 1) if n else 0"),
    "modules": lambda: scripted("layer = nn.ReLU()\nf = lambda *a: layer"),
    "partial": lambda: partial(chosen, 3),
    "methods": lambda: Fixed([1]).__call__,
}


@pytest.mark.parametrize("name", SAME)
def test_alike_is_told_alike(short, name):
    first, second = (
        storage.describe(replace(short, sample=SAME[name]()))["sample"] for _ in range(2)
    )
    assert first == second
    assert " at 0x" not in json.dumps(first)


DIFFERENT = {
    "captured": (chosen(5), chosen(6)),
    "defaults": (scripted("f = lambda s, t, g, a=1: a"), scripted("f = lambda s, t, g, a=2: a")),
    "constants": (scripted("f = lambda s, t, g: 1"), scripted("f = lambda s, t, g: 2")),
    "inner constants": (
        scripted("f = lambda s: lambda t: 1"),
        scripted("f = lambda s: lambda t: 2"),
    ),
    "names": (scripted("f = lambda s, t, g: s.a"), scripted("f = lambda s, t, g: s.b")),
    "globals": (scripted("A = 1\nf = lambda s, t, g: A"), scripted("A = 2\nf = lambda s, t, g: A")),
    "inner globals": (
        scripted("A = 1\nf = lambda: lambda: A"),
        scripted("A = 2\nf = lambda: lambda: A"),
    ),
    "own helpers": (
        scripted("h = lambda: 1\nf = lambda *a: h()"),
        scripted("h = lambda: 2\nf = lambda *a: h()"),
    ),
    "objects": (Fixed(np.arange(5)), Fixed(np.arange(4))),
    "arguments": (partial(chosen, 3), partial(chosen, 3, power=2)),
    "of a library": (np.sort, np.argsort),
    "numbers": (partial(chosen, float("nan")), partial(chosen, float("inf"))),
}


HELD = """
import collections, dataclasses, functools, itertools, operator
import pandas as pd, scipy.sparse, torch

class Slots:
    __slots__ = ("value", "__private")
    def __init__(self): self.value, self.__private = 1, [2]
    def __call__(self, *a): return self.value

class Plain:
    rate = 0.1
    table = {"a": [1, 2]}
    def __init__(self): self.part = Slots()
    def read(self, *a): return self.part
    @staticmethod
    def still(): return LIST
    @property
    def shown(self): return ARRAY

class Child(Plain): pass
class Items(list): pass
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.inner = 2.0, nn.Linear(2, 2)
        for p in self.inner.parameters(): p.data.fill_(1)

@dataclasses.dataclass
class Record:
    value: object

Pair = collections.namedtuple("Pair", "a b")
T, ARRAY, LIST = torch.arange(3.0), np.arange(4), [1, [2, 3]]
DICT, SET = {1: {"x": [1]}, "1": 2}, {1, 2}
FRAME = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", None]})
SPARSE, SERIES = scipy.sparse.eye(3).tocsr(), pd.Series([1, 2])
SLOTS, PLAIN, CHILD, ITEMS, LAYER = Slots(), Plain(), Child(), Items([1]), Layer()
RECORD, PAIR = Record([1]), Pair(1, [2])
DEQUE, COUNTS = collections.deque([1]), collections.Counter("aab")
OBJECTS, LONG = np.array([1, "a", None], object), list(range(1000))
DRAWS, WORDS = np.random.default_rng(0), b"abc"
NESTED = (1, {"deep": [{"deeper": (T, [Record(SLOTS)])}]})
ALIAS = np.sort
def helper(x, y=[1]): return inner(x) + T.sum()
def inner(x): return LIST
@functools.cache
def cached(): return LIST
@functools.wraps(inner)
def wrapped(*a): return inner(*a)
helper.alpha = [1]
def deco(g):
    kept = [1]
    return lambda *a: (g(*a), kept)
decorated = deco(inner)
f = lambda s, t, g: [{names}]
"""

CHANGES = {  # what a study uses, and a change of it that its code does not show
    "T": "T[1] = 5",
    "ARRAY": "ARRAY[0] = 7",
    "LIST": "LIST[1][0] = 9",
    "DICT": "DICT['1'] = 3",
    "DICT.get": "DICT[1]['x'].append(2)",
    "SET": "SET.add(5)",
    "FRAME": "FRAME.loc[0, 'b'] = 'y'",
    "SERIES": "SERIES[0] = 9",
    "SPARSE": "SPARSE.data[0] = 9",
    "SLOTS": "SLOTS.value = 2",
    "SLOTS()": "SLOTS._Slots__private.append(1)",
    "PLAIN": "PLAIN.part.value = 5",
    "PLAIN.read": "PLAIN.part = 3",
    "Plain": "Plain.rate = 0.2",
    "Plain()": "Plain.table['a'].append(3)",
    "Plain.still": "LIST.append(1)",
    "CHILD": "Plain.rate = 0.2",
    "CHILD.shown": "ARRAY[1] = 3",
    "ITEMS": "ITEMS.append(2)",
    "LAYER": "LAYER.scale = 3.0",
    "LAYER.inner": "LAYER.inner.weight.data[0, 0] = 9",
    "RECORD": "RECORD.value.append(2)",
    "PAIR": "PAIR.b.append(2)",
    "DEQUE": "DEQUE.append(2)",
    "COUNTS": "COUNTS['a'] = 5",
    "OBJECTS": "OBJECTS[1] = 'b'",
    "LONG": "LONG[500] = -1",
    "DRAWS": "DRAWS.random()",
    "WORDS": "WORDS = b'abd'",
    "NESTED": "SLOTS.value = 7",
    "ALIAS": "ALIAS = np.argsort",
    "helper()": "LIST[0] = 5",
    "helper": "helper.__defaults__[0].append(2)",
    "helper.alpha": "helper.alpha.append(2)",
    "cached": "LIST[0] = 5",
    "wrapped": "LIST[0] = 5",
    "decorated": "decorated.__closure__[1].cell_contents.append(3)",
    "[h for h in [helper]]": "T[0] = 1",
    "functools.partial(helper, 1)": "LIST[0] = 4",
    "(lambda: SLOTS)": "SLOTS.value = 4",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_anything_that_a_function_uses_is_told(name):
    """And nothing else is: what is told twice, or in another process, is the same."""
    space = {"__name__": "__main__", "np": np, "nn": nn}
    exec(HELD.replace("{names}", name), space)
    before = storage.description.plain_value(space["f"])
    assert before == storage.description.plain_value(space["f"])
    again = {"__name__": "__main__", "np": np, "nn": nn}
    exec(HELD.replace("{names}", name), again)
    assert before == storage.description.plain_value(again["f"])
    exec(CHANGES[name], space)
    assert before != storage.description.plain_value(space["f"])
    assert " at 0x" not in json.dumps(before)


def test_a_constant_of_the_users_own_module_is_told(tmp_path, monkeypatch):
    (tmp_path / "my_study_parts.py").write_text("RATE = [1]\ndef pick(s):\n return s[:RATE[0]]\n")
    monkeypatch.syspath_prepend(tmp_path)
    f = scripted("import my_study_parts as mine\nf = lambda s, t, g: mine.pick(s)")
    before = storage.description.plain_value(f)
    sys.modules.pop("my_study_parts").RATE[0] = 2
    assert storage.description.plain_value(f) != before
    assert "RATE" in json.dumps(before)


def test_what_refers_to_itself_or_has_many_ways_is_told_in_short():
    f = scripted(
        "loop = []\nloop.append(loop)\nclass A: pass\na = A(); a.me = a; a.all = [a, loop]\n"
        + "def f0(): return a, loop, f0\n"
        + "".join(
            f"def f{i}(): return f{i - 1}(), f{i - 1}, g{i}\ndef g{i}(): return f{i - 1}\n"
            for i in range(1, 30)
        )
        + "f = f29"
    )
    assert len(json.dumps(storage.description.plain_value(f))) < 20_000


def test_a_checkpoint_whose_study_uses_something_else_now_is_refused_by_its_name(short, tmp_path):
    space = {"__name__": "__main__", "np": np}
    exec("IDS = np.arange(5)\nf = lambda s, t, g: IDS", space)
    study = replace(short, sample=space["f"])
    run(study, checkpoint=tmp_path)
    space["IDS"][4] = 7
    with pytest.raises(
        ValueError,
        match=r"sample\.<lambda>\.IDS\.checksum is .* there and .* here\. Try another folder",
    ):
        run(study, never, checkpoint=tmp_path)


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_is_told_differently(short, name):
    first, second = (storage.describe(replace(short, sample=f))["sample"] for f in DIFFERENT[name])
    assert first != second


def test_data_and_models_are_told_by_what_is_in_them(short, monkeypatch):
    data = short.data(0)
    words = storage.describe(replace(short, data=data))["data"]
    changes = {
        "x": data.x + 1e-7 * (torch.arange(64) == 40),
        "y": torch.roll(data.y, 1),
        "parts": [*data.parts[1:], data.parts[0]],
        "test": (data.test[0], data.test[1].flip(0)),
        "classes": tuple("abcdefghij"),
    }
    for name, value in changes.items():
        assert (
            storage.describe(replace(short, data=replace(data, **{name: value})))["data"] != words
        ), name
    assert storage.describe(replace(short, data=replace(data, x=data.x.clone())))["data"] == words
    assert (
        storage.describe(short, 1)["data"]["checksum"]
        != storage.describe(short, 0)["data"]["checksum"]
    )
    task = replace(short.task, model=lambda: Net(10))
    before = storage.describe(replace(short, task=task))["task"]
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)
    after = storage.describe(replace(short, task=task))["task"]
    assert before["model"] != after["model"]
    assert before["layers"] == after["layers"]


def test_many_locals_are_told_in_short(short):
    words = storage.describe(replace(short, local=[Local(0.1)] * 99 + [Local(0.2)]))["local"]
    assert words["length"] == 100
    assert words["first"]["lr"] == 0.1
    assert words != storage.describe(replace(short, local=[Local(0.1)] * 100))["local"]


# Tables of clients


def test_a_client_table_takes_back_what_was_written():
    draw = np.random.default_rng(0)
    table, shadow = ClientTable(torch.zeros(4), 20), np.zeros((20, 4), np.float32)
    for _ in range(30):
        table.journal = journal = []
        before, held = shadow.copy(), len(table.contents[1])
        for _ in range(draw.integers(4)):
            ids = np.sort(draw.choice(20, draw.integers(5), replace=False))
            rows = draw.normal(size=(len(ids), 4)).astype(np.float32)
            table[ids], shadow[ids] = torch.from_numpy(rows), rows
        assert (table[np.arange(20)].numpy() == shadow).all()
        if draw.random() < 0.5:
            table.undo(journal)
            shadow = before
            assert len(table.contents[1]) == held
            assert (table[np.arange(20)].numpy() == shadow).all()
    again = ClientTable.from_contents(*(part.clone() for part in table.contents))
    assert torch.equal(again[np.arange(20)], table[np.arange(20)])
    again[np.arange(20)] = torch.ones(20, 4)
    assert torch.equal(again[np.arange(20)], torch.ones(20, 4))
    assert not torch.equal(table[np.arange(20)], torch.ones(20, 4))


# Results


def test_a_result_comes_back(short, tmp_path):
    labels = ["plain", "", "NA", 'q"u,o\n te', "ünï", "1"]
    pairs = variants(
        replace(short, eval_every=2),
        algorithm={name: fedavg() for name in labels},
        rounds={2: 2, 3: 3},
    )
    result = run_all(pairs, batched, [5])
    storage.save_result(result, tmp_path / "new" / "folder", pairs)
    back = storage.load_result(tmp_path / "new" / "folder")
    same(back, result)
    assert all(w.data_ptr() % 64 == 0 for w in back.w), "where PyTorch's own lie"
    pd.testing.assert_frame_equal(back.final(), result.final())
    words = json.loads((tmp_path / "new" / "folder" / "experiment.json").read_text())
    assert [described["labels"]["algorithm"] for described in words["experiments"]] == [
        name for name in labels for _ in "23"
    ]
    assert words["experiments"][0]["algorithm"] == {"fedavg": {"server_lr": 1.0}}
    storage.save_result(result, tmp_path / "new" / "folder", pairs)  # the same again is no harm
    was = contents(tmp_path / "new" / "folder")
    changed = replace(result, w=[w + 1 for w in result.w])
    with pytest.raises(
        FileExistsError,
        match=r"holds something else \(clients\.csv, experiment\.json, rounds\.csv, \.\.\.\)",
    ):
        storage.save_result(changed, tmp_path / "new" / "folder", pairs)
    assert contents(tmp_path / "new" / "folder") == was


def test_a_comparison_comes_back_with_its_trials(short, tmp_path):
    """With a candidate that diverged, and an argument that only one of the algorithms has."""
    grid = {"lr": (0.1, 1e30), "server_lr": (0.01, 0.1)}
    result = compare(short, seeds=2, algorithm={"FedAvg": fedavg(), "FedAdam": fedadam}, tune=grid)
    assert result.trials["accuracy"].isna().any()
    storage.save_result(result, tmp_path / "kept")
    back = storage.load_result(tmp_path / "kept")
    same(back, result)
    pd.testing.assert_frame_equal(back.trials, result.trials, check_exact=True)
    storage.save_result(replace(result, trials=None), tmp_path / "untuned")
    assert storage.load_result(tmp_path / "untuned").trials is None


KINDS = {
    "numbers": [0.1, 1 / 3, 1e-320],
    "whole": [1, 2, 3],
    "truth": [True, False, True],
    "mixed": [0.5, "", None],
    "more": ["1", 1, 1.0],
    "none": [None, None, None],
    "texts or none": ["a", None, ""],
    "truth or none": [True, None, False],
    "tuples": [(1, 2), (1, (None, "x")), ()],
    "tuples of all kinds": [(True, 1.5), None, "(1, 2)"],
    "texts like others": ["None", "1.0", "nan"],
}


@pytest.mark.parametrize("name", KINDS)
def test_labels_of_any_kind_come_back(tmp_path, name):
    table = pd.DataFrame({"label": KINDS[name], "seed": [0, 1, 2], "loss": [np.nan, np.inf, -0.0]})
    storage.save_result(Result([torch.zeros(2)], table, table[:0]), tmp_path / "kept")
    back = storage.load_result(tmp_path / "kept").rounds
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    assert list(map(type, back["label"])) == list(map(type, table["label"]))
    assert list(map(repr, back["label"])) == list(map(repr, table["label"]))
    assert np.signbit(back["loss"].iloc[2])


LABELS = [
    [None, "a"],
    [None, 1],
    [None],
    [(1, 2), (3,)],
    [(1, 2, 3, 4, 5), "x"],
    [True, None],
    [True, 1.5],
    ["a", 1],
    [0.5, 2.5],
]


@pytest.mark.parametrize("labels", LABELS)
def test_runs_with_labels_of_any_kind_are_kept_and_come_back(short, tmp_path, labels):
    pairs = variants(
        replace(short, rounds=1, data=short.data(0)),
        algorithm={label: fedavg() for label in labels},
    )
    result = run_all(pairs, batched, [0], checkpoint=tmp_path / "checkpoint")
    same(run_all(pairs, never, [0], checkpoint=tmp_path / "checkpoint"), result)
    storage.save_result(result, tmp_path / "kept")
    back = storage.load_result(tmp_path / "kept")
    same(back, result)
    for table in (result, back):
        assert list(map(repr, table.final()["algorithm"])) == list(map(repr, labels))
        assert list(map(repr, table.clients["algorithm"][::5])) == list(map(repr, labels))


@pytest.mark.parametrize(("kind", "bits"), [("float32", "uint32"), ("float64", "uint64")])
def test_every_bit_of_numbers_comes_back(tmp_path, kind, bits):
    values = np.random.default_rng(0).integers(0, np.iinfo(bits).max, 20_000, dtype=bits).view(kind)
    table = pd.DataFrame({"seed": 0, "loss": values[~np.isnan(values)]})
    w = [torch.from_numpy(values.copy()), torch.ones(3, dtype=torch.bfloat16)]
    storage.save_result(Result(w, table, table), tmp_path / "kept")
    back = storage.load_result(tmp_path / "kept")
    for frame in (back.rounds, back.clients):
        assert (frame["loss"].to_numpy().view(bits) == table["loss"].to_numpy().view(bits)).all()
    assert (back.w[0].numpy().view(bits) == values.view(bits)).all()
    assert torch.equal(back.w[1], w[1])


def test_a_history_without_a_round_comes_back(short, tmp_path):
    nothing = collect_result(next(stream(short)))
    storage.save_result(nothing, tmp_path / "kept")
    same(storage.load_result(tmp_path / "kept"), nothing)


def test_wrong_folders_for_results(short, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"holds no result\. Try save_result\(result, folder\), which makes one",
    ):
        storage.load_result(tmp_path / "nowhere")
    result = run(short, checkpoint=tmp_path / "kept")
    was = contents(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"holds a 'fedlab checkpoint 5', not a 'fedlab result 2'"):
        storage.load_result(tmp_path / "kept")
    with pytest.raises(FileExistsError, match=r"holds something else"):
        storage.save_result(result, tmp_path / "kept")
    assert contents(tmp_path / "kept") == was
    storage.save_result(result, tmp_path / "saved", short)
    with pytest.raises(ValueError, match=r"holds a 'fedlab result 2', not a 'fedlab checkpoint 5'"):
        run(short, never, checkpoint=tmp_path / "saved")
    with pytest.raises(ValueError, match=r"the label \(1, b'2'\) has no place in a CSV"):
        storage.save_result(
            replace(result, rounds=result.rounds.assign(label=[(1, b"2")] * 4)), tmp_path / "other"
        )
    with pytest.raises(
        ValueError, match=r"the column 'label' of type datetime64.* has no place in a CSV"
    ):
        storage.save_result(
            replace(result, rounds=result.rounds.assign(label=pd.Timestamp(0))), tmp_path / "other"
        )
    for name in ("w.safetensors", "rounds.csv", "clients.csv"):
        whole = (tmp_path / "saved" / name).read_bytes()
        (tmp_path / "saved" / name).write_bytes(whole[:-7])
        with pytest.raises(
            ValueError, match=rf"{name} is not as it was saved: damaged, changed or gone"
        ):
            storage.load_result(tmp_path / "saved")
        (tmp_path / "saved" / name).write_bytes(whole)
    (tmp_path / "saved" / "rounds.csv").unlink()
    with pytest.raises(ValueError, match=r"rounds\.csv is not as it was saved"):
        storage.load_result(tmp_path / "saved")
    without("checksums")(tmp_path / "saved")
    with pytest.raises(
        ValueError, match=r"experiment\.json is damaged \(it has no 'checksums'\)\. Try to move"
    ):
        storage.load_result(tmp_path / "saved")
