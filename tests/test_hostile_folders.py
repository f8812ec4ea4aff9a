"""Folders that two runs want, and files that are not what they should be: own numbers, or one line."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fedlab.models import logistic_regression
from fedlab.records import Experiment, FederatedDataset, Local
from fedlab.rng import generator
from fedlab.run import run, stream
from fedlab.server import fedavg, scaffold, uniform, weighted_mean
from fedlab.storage.files import CLAIM, claim
from fedlab.upload import chain, error_feedback, qsgd, top_k, whole

REFUSALS = (ValueError, OSError)
STATE, WORDS = "state.safetensors", "experiment.json"


def dataset(scale=1.0, first=4):
    x = torch.from_numpy(generator(0, "tiny").standard_normal((12, 3), dtype=np.float32)) * scale
    y = torch.arange(12) % 2
    return FederatedDataset(x, y, [np.arange(first), np.arange(first, 8), np.arange(8, 12)], (x, y), "tiny", ("a", "b"))


DATA = dataset()
TASK = logistic_regression(DATA)


def chosen(ids):
    space = {"np": np, "__name__": "__main__"}
    exec(f"IDS = np.array({ids})\ndef pick(sizes, t, generator):\n return IDS\n", space)
    return space["pick"]


def study(**fields):
    base = Experiment(DATA, TASK, Local(0.1, 2), fedavg(), weighted_mean, uniform(2), rounds=3)
    return replace(base, **fields)


FIELDS = {
    "local": [Local(0.1, 2), Local(0.2, 2), Local(0.1, 3), Local(0.1, 2, epochs=2)],
    "data": [DATA, dataset(1.001), dataset(first=5), lambda seed: dataset(1 + seed / 7), lambda seed: dataset(1 + seed / 8)],
    "algorithm": [fedavg(), fedavg(0.5), scaffold()],
    "upload": [whole(), top_k(0.4), error_feedback(chain(top_k(0.4), qsgd(3))), qsgd(3)],
    "sample": [uniform(2), uniform(3), chosen([0, 1]), chosen([0, 2])],
    "rounds": [3, 2, 5],
    "seeds": [[0], [1], [0, 1], [1, 0]],
}


def drawn(draw):
    """Two experiments with their seeds, which differ in one to three fields."""
    first = {name: draw.integers(len(values)) for name, values in FIELDS.items()}
    second = dict(first)
    for name in draw.choice(list(FIELDS), draw.integers(1, 4), replace=False):
        second[name] = (first[name] + draw.integers(1, len(FIELDS[name]))) % len(FIELDS[name])
    pairs = []
    for places in (first, second):
        fields = {name: FIELDS[name][place] for name, place in places.items()}
        seeds = fields.pop("seeds")
        pairs.append((study(**fields), seeds))
    return pairs


def same(a, b):
    assert all(torch.equal(u, v) for u, v in zip(a.w, b.w, strict=True))
    pd.testing.assert_frame_equal(a.rounds, b.rounds, check_exact=True)
    pd.testing.assert_frame_equal(a.clients, b.clients, check_exact=True)


def own_numbers_or_one_line(experiment, seeds, folder):
    """Whether it ran: then to its own numbers."""
    try:
        result = run(experiment, seeds=seeds, checkpoint=folder)
    except REFUSALS as error:
        told = str(error)
    else:
        told = ""
    if told:
        assert "\n" not in told
        assert len(told) < 600
        return False
    same(result, run(experiment, seeds=seeds))
    return True


def mixed(folder, one, other, draw):
    """A folder with files of both: the words of one and the state of the other, or tensors of both."""
    shutil.copytree(one, folder)
    match draw.integers(3):
        case 0:
            shutil.copy(other / STATE, folder)
        case 1:
            shutil.copy(other / WORDS, folder)
        case 2:
            states = [opened(place / STATE) for place in (one, other)]
            (tensors, header), (foreign, _) = states
            alike = [n for n in tensors if n != "told" and n in foreign and foreign[n].shape == tensors[n].shape]
            save_file(tensors | {n: foreign[n] for n in alike[: draw.integers(1, 4)]}, folder / STATE, header)
    return folder


def opened(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("number", range(40))
def test_two_experiments_in_one_folder_come_to_their_own_numbers_or_are_refused(number, tmp_path):
    draw = generator(number, "hostile")
    (one, its), (other, others) = drawn(draw)
    steps = stream(one, seeds=its, checkpoint=tmp_path / "kept")
    for _ in range(draw.integers(1, 3)):
        next(steps)
    with pytest.raises(REFUSALS, match=r"in use by process \d+|belongs to another experiment"):
        run(other, seeds=others, checkpoint=tmp_path / "kept")
    steps.close()
    shutil.copytree(tmp_path / "kept", tmp_path / "early")
    own_numbers_or_one_line(other, others, tmp_path / "kept")
    assert own_numbers_or_one_line(other, others, tmp_path / "other")
    assert own_numbers_or_one_line(one, its, tmp_path / "one")
    for kind in ("early", "one"):
        folder = mixed(tmp_path / f"mixed {kind}", tmp_path / kind, tmp_path / "other", draw)
        own_numbers_or_one_line(one, its, folder)
        own_numbers_or_one_line(other, others, folder)
    shutil.copy(tmp_path / "early" / STATE, tmp_path / "one")
    assert own_numbers_or_one_line(one, its, tmp_path / "one"), "an older state of its own is gone on with"


AT_ONCE = """
import os, sys
sys.path.insert(0, sys.argv[2])
import test_hostile_folders as t
from pathlib import Path
from fedlab import storage
from fedlab.rng import generator

root = Path(sys.argv[1])
storage.checkpoint.EVERY = 0
for number in range(8):
    pairs = t.drawn(generator(number, "at once"))
    pids = []
    for name, (study, seeds) in zip("ab", pairs):
        pids.append(os.fork())
        if not pids[-1]:
            try:
                t.own_numbers_or_one_line(study, seeds, root / f"{number}")
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0], number
    ran = [t.own_numbers_or_one_line(study, seeds, root / f"{number}") for study, seeds in pairs]
    assert any(ran)
    assert not (root / f"{number}" / t.CLAIM).exists()
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_processes_that_begin_at_once(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", AT_ONCE, tmp_path, Path(__file__).parent],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert told.stdout == "fine\n", told.stderr


def test_a_folder_in_use_names_the_process_and_is_free_after_it(tmp_path):
    steps = stream(study(), checkpoint=tmp_path)
    next(steps)
    assert json.loads((tmp_path / CLAIM).read_text())["process"] == os.getpid()
    words = rf"in use by process {os.getpid()} on .*, since 20.*: wait for it, stop it, or give another folder$"
    for again in (study(), study(rounds=9)):
        with pytest.raises(BlockingIOError, match=words):
            run(again, checkpoint=tmp_path)
    steps.close()
    assert not (tmp_path / CLAIM).exists()
    assert own_numbers_or_one_line(study(), [0], tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from fedlab.storage.files import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    if os.fork() == 0:  # a child that lives on does not hold it
        signal.pause()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_claim_does_not_outlive_its_process(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert process.stdout.readline() == "held\n"
        process.wait()
        assert (tmp_path / CLAIM).exists(), "killed, it could not clear up"
        with claim(tmp_path):
            assert json.loads((tmp_path / CLAIM).read_text())["process"] == os.getpid()
        assert not (tmp_path / CLAIM).exists()
    finally:
        os.killpg(process.pid, 9)
        process.stdout.close()


def test_a_folder_that_is_made_anew_while_it_is_in_use(tmp_path):
    folder = tmp_path / "kept"
    steps = stream(study(), checkpoint=folder)
    next(steps)
    shutil.rmtree(folder)
    run(study(local=Local(0.3, 2)), checkpoint=folder)
    was = (folder / STATE).read_bytes()
    with pytest.raises(FileNotFoundError, match="was moved or deleted while it was in use"):
        list(steps)
    assert (folder / STATE).read_bytes() == was


def test_names_with_spaces_and_links(tmp_path):
    folder = tmp_path / "a folder, größer 数"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    steps = stream(study(), checkpoint=tmp_path / "link")
    next(steps)
    with pytest.raises(BlockingIOError, match="in use"):
        run(study(), checkpoint=folder)
    steps.close()
    assert own_numbers_or_one_line(study(), [0], folder)
    assert own_numbers_or_one_line(study(), [0], tmp_path / "link")


def test_a_finished_run_is_read_by_many_at_once(tmp_path):
    run(study(), checkpoint=tmp_path)
    with claim(tmp_path):
        same(run(study(), checkpoint=tmp_path), run(study()))
        with pytest.raises(BlockingIOError, match="in use"):
            run(study(rounds=4), checkpoint=tmp_path)
