"""Folders that two runs want, and foreign files: the run's own numbers, or one line."""

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fedlab.core import Experiment, FederatedDataset, Local, generator
from fedlab.engine import run, storage, stream
from fedlab.engine.storage.locks import LOCK_FILE, lock_folder
from fedlab.models import logistic_regression
from fedlab.server import fedavg, scaffold, uniform, weighted_mean
from fedlab.upload import chain, error_feedback, identity, qsgd, top_k

REFUSALS = (ValueError, OSError)
STATE, WORDS = "state.safetensors", "experiment.json"


def dataset(scale=1.0, first=4):
    x = torch.from_numpy(generator(0, "tiny").standard_normal((12, 3), dtype=np.float32)) * scale
    y = torch.arange(12) % 2
    return FederatedDataset(
        x, y, [np.arange(first), np.arange(first, 8), np.arange(8, 12)], (x, y), "tiny", ("a", "b")
    )


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
    "data": [
        DATA,
        dataset(1.001),
        dataset(first=5),
        lambda seed: dataset(1 + seed / 7),
        lambda seed: dataset(1 + seed / 8),
    ],
    "algorithm": [fedavg(), fedavg(0.5), scaffold()],
    "upload": [identity(), top_k(0.4), error_feedback(chain(top_k(0.4), qsgd(3))), qsgd(3)],
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
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message
        assert len(message) < 600
        return False
    same(result, run(experiment, seeds=seeds))
    return True


def mixed(folder, first, second, draw):
    """Mix two folders: the words of one and the state of the other, or tensors of both."""
    shutil.copytree(first, folder)
    match draw.integers(3):
        case 0:
            shutil.copy(second / STATE, folder)
        case 1:
            shutil.copy(second / WORDS, folder)
        case 2:
            states = [opened(place / STATE) for place in (first, second)]
            (tensors, header), (foreign, _) = states
            alike = [
                n
                for n in tensors
                if n != "json" and n in foreign and foreign[n].shape == tensors[n].shape
            ]
            save_file(
                tensors | {n: foreign[n] for n in alike[: draw.integers(1, 4)]},
                folder / STATE,
                header,
            )
    return folder


def opened(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.parametrize("number", range(40))
def test_two_experiments_in_one_folder_come_to_their_own_numbers_or_are_refused(number, tmp_path):
    draw = generator(number, "hostile")
    (first, first_seeds), (second, second_seeds) = drawn(draw)
    steps = stream(first, seeds=first_seeds, checkpoint=tmp_path / "kept")
    for _ in range(draw.integers(1, 3)):
        next(steps)
    with pytest.raises(REFUSALS, match=r"in use by process \d+|belongs to another experiment"):
        run(second, seeds=second_seeds, checkpoint=tmp_path / "kept")
    steps.close()
    shutil.copytree(tmp_path / "kept", tmp_path / "early")
    own_numbers_or_one_line(second, second_seeds, tmp_path / "kept")
    assert own_numbers_or_one_line(second, second_seeds, tmp_path / "other")
    assert own_numbers_or_one_line(first, first_seeds, tmp_path / "one")
    for kind in ("early", "one"):
        folder = mixed(tmp_path / f"mixed {kind}", tmp_path / kind, tmp_path / "other", draw)
        own_numbers_or_one_line(first, first_seeds, folder)
        own_numbers_or_one_line(second, second_seeds, folder)
    shutil.copy(tmp_path / "early" / STATE, tmp_path / "one")
    assert own_numbers_or_one_line(first, first_seeds, tmp_path / "one"), (
        "an older state of its own is gone on with"
    )


AT_ONCE = """
import os, sys
sys.path.insert(0, sys.argv[2])
import test_hostile_folders as t
from pathlib import Path
from fedlab.engine import storage
from fedlab.core import generator

root = Path(sys.argv[1])
storage.checkpoint.SAVE_INTERVAL = 0
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
    assert not (root / f"{number}" / t.LOCK_FILE).exists()
print("fine")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_processes_that_begin_at_once(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", AT_ONCE, tmp_path, Path(__file__).parent],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert process.stdout == "fine\n", process.stderr


def test_a_folder_in_use_names_the_process_and_is_free_after_it(tmp_path):
    steps = stream(study(), checkpoint=tmp_path)
    next(steps)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    holder = rf"in use by process {os.getpid()} on .*, since 20.*"
    words = rf"{holder}\. Try another folder, or wait for that process or stop it$"
    for again in (study(), study(rounds=9)):
        with pytest.raises(BlockingIOError, match=words):
            run(again, checkpoint=tmp_path)
    steps.close()
    assert not (tmp_path / LOCK_FILE).exists()
    assert own_numbers_or_one_line(study(), [0], tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from fedlab.engine.storage.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    if os.fork() == 0:  # a child that lives on does not hold it
        signal.pause()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_claim_does_not_outlive_its_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True, process_group=0
    )
    try:
        assert process.stdout.readline() == "held\n"
        process.wait()
        assert (tmp_path / LOCK_FILE).exists(), "killed, it could not clear up"
        with lock_folder(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
        assert not (tmp_path / LOCK_FILE).exists()
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
    with lock_folder(tmp_path):
        same(run(study(), checkpoint=tmp_path), run(study()))
        with pytest.raises(BlockingIOError, match="in use"):
            run(study(rounds=4), checkpoint=tmp_path)


# Experiments that look alike


def scaled(by):
    """An aggregate: the mean times what the function gives."""
    return lambda updates, weights: by() * weighted_mean(updates, weights)


def holding(make, read=lambda held: held()):
    """Studies whose aggregate scales by a number that an object holds."""

    def of(value):
        held = make(value)
        return study(aggregate=scaled(lambda: read(held)))

    return of


def network(make):
    """Studies with a copy of a network that has the same weights each time."""

    def of(value):
        torch.manual_seed(0)
        net = make(value)
        return study(task=replace(TASK, model=lambda: copy.deepcopy(net)))

    return of


def huber(delta):
    loss = nn.HuberLoss(reduction="none", delta=delta)
    return study(task=replace(TASK, loss=lambda output, y: loss(output[:, 0], y.float())))


class Attending(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, int(2 * heads), batch_first=True)

    def forward(self, x):
        pair = torch.stack([self.first(x), 2 * self.first(x)], 1)
        return self.last(self.attention(pair, pair, pair, need_weights=False)[0].mean(1))


class Private(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.layer, self._by = nn.Linear(3, 2), by

    def forward(self, x):
        return self._by * self.layer(x)


class Moody(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.train(by == 1.0)

    def forward(self, x):
        return self.layer(x) if self.training else 2 * self.layer(x)


def hooked(kind):
    def make(by):
        net = nn.Sequential(nn.Linear(3, 2))
        if kind == "before":
            net.register_forward_pre_hook(lambda module, inputs: (by * inputs[0],))
        else:
            net.register_forward_hook(lambda module, inputs, output: by * output)
        return net

    return make


def bert(by):
    """Two networks of transformers whose text shows no heads."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 9}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    net = transformers.BertModel(
        transformers.BertConfig(**sizes, **rates, num_attention_heads=int(2 * by))
    )
    return study(
        aggregate=scaled(lambda: float(net(torch.arange(4)[None]).pooler_output.detach().sum()))
    )


def schedules(last):
    fast, slow = (lambda t: 1.0), (lambda t: 0.1)
    return study(
        local=[
            Local(0.1, 2, schedule=schedule)
            for schedule in (fast, slow, fast if last == 1.0 else slow)
        ]
    )


class Wrapping:
    """A callable object that looks like a function."""

    def __init__(self, by):
        functools.update_wrapper(self, weighted_mean)
        self.by = by

    def __call__(self, updates, weights):
        return self.by * weighted_mean(updates, weights)


class Fetched:
    """A descriptor that is called in place of a method."""

    def __init__(self, by):
        self.by = by

    def __get__(self, owner, kind=None):
        return lambda: self.by


def described(by):
    class Held:
        __call__ = Fetched(by)

    return Held()


def of_a_metaclass(number):
    class Meta(type):
        by = number

    class Held(metaclass=Meta):
        pass

    return Held


class Call(functools.partial):
    def __call__(self):
        return self.by


class Number(float):
    def __call__(self):
        return self.by


class Row(np.ndarray):
    def __call__(self):
        return self.by


def with_by(made, by):
    made.by = by
    return made


class Key:
    pass


ALIKE = {
    "a loss module": lambda v: study(
        task=replace(TASK, loss=nn.CrossEntropyLoss(reduction="none", label_smoothing=1 - v)),
        rounds=2,
    ),
    "a loss module in a closure": huber,
    "heads of attention": network(Attending),
    "heads of a network of transformers": bert,
    "a private attribute": network(Private),
    "a layer in eval()": network(Moody),
    "a hook": network(hooked("after")),
    "a hook before": network(hooked("before")),
    "which of two functions of one name": schedules,
    "an object that wraps a function": lambda v: study(aggregate=Wrapping(v)),
    "a cached function's attribute": holding(
        lambda v: with_by(functools.cache(lambda: 1.0), v), lambda held: held() * held.by
    ),
    "a descriptor": holding(described),
    "a metaclass": holding(of_a_metaclass, lambda held: type(held).by),
    "a partial of one's own class": holding(lambda v: with_by(Call(float), v)),
    "a number of one's own class": holding(lambda v: with_by(Number(1), v)),
    "an array of one's own class": holding(lambda v: with_by(np.ones(1).view(Row), v)),
    "a ufunc": holding(
        lambda v: np.frompyfunc(lambda x: v * x, 1, 1), lambda held: float(held(1.0))
    ),
    "np.vectorize": holding(lambda v: np.vectorize(lambda x: v * x), lambda held: float(held(1.0))),
    "a script": holding(
        lambda v: torch.jit.script(nn.Threshold(10.0, v)), lambda held: float(held(torch.ones(1)))
    ),
    "a trace": holding(
        lambda v: torch.jit.trace(lambda x: x * torch.full((99,), v), torch.ones(1)),
        lambda held: float(held(torch.ones(1))[0]),
    ),
    "a view of memory": holding(lambda v: memoryview(np.array([v])), lambda held: held[0]),
    "a view of keys": holding(lambda v: {v: 1}.keys(), lambda held: next(iter(held))),
    "a default": holding(lambda v: defaultdict(lambda: v), lambda held: held["x"]),
    "keys that read alike": holding(
        lambda v: {Key(): v, Key(): 1.0}, lambda held: next(iter(held.values()))
    ),
    "shapes in a long list": holding(
        lambda v: [np.ones((2, 3) if v == 1.0 else (3, 2))] * 60, lambda held: float(len(held[0]))
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALIKE)
def test_what_differs_where_no_text_shows_it_is_another_experiment(name, tmp_path):
    of = ALIKE[name]
    run(replace(of(1.0), rounds=2), checkpoint=tmp_path)
    same(run(of(1.0), checkpoint=tmp_path), run(of(1.0)))
    with pytest.raises(ValueError, match="belongs to another experiment: ") as caught:
        run(of(0.5), checkpoint=tmp_path)
    assert "\n" not in str(caught.value)


def test_an_object_that_tells_nothing_of_itself_is_refused_in_a_checkpoint_only(tmp_path):
    unclear = holding(lambda v: (v for _ in range(10_000)), next)(1.0)
    run(unclear)
    with pytest.raises(
        ValueError,
        match=r"must not hold a builtins\.generator, of which nothing is known.*Try an array",
    ):
        run(unclear, checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())
    deep = functools.reduce(lambda inner, _: [inner], range(150), 1.0)
    with pytest.raises(
        ValueError, match=r"aggregate must not hold a list that stands in more than 100 others"
    ):
        run(holding(lambda v: deep, lambda held: 1.0)(1.0), checkpoint=tmp_path)
    locked = holding(lambda v: (threading.Lock(), object(), v), lambda held: held[2])
    run(locked(1.0), checkpoint=tmp_path)
    same(run(locked(1.0), checkpoint=tmp_path), run(locked(1.0)))


def test_a_whole_number_in_place_of_a_fraction_is_named(tmp_path):
    run(study(local=Local(1, 2), rounds=2), checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r"belongs to another experiment: local\.lr is 1 there and 1\.0 here"
    ):
        run(study(local=Local(1.0, 2)), checkpoint=tmp_path)


def test_the_one_that_differs_in_a_list_is_named(tmp_path):
    run(study(local=[Local(0.1), Local(0.2), Local(0.3)]), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"local\.1\.lr is 0\.2 there and 0\.25 here"):
        run(study(local=[Local(0.1), Local(0.25), Local(0.3)]), checkpoint=tmp_path)


NAMES = {
    "a null character": (
        "a\0b",
        r"checkpoint='a\\x00b' cannot be the name of a folder \(it has a null character\)\. Try",
    ),
    "a number": (
        5,
        r"checkpoint=5 must be a text or a Path, the name of a folder\. Try "
        r"checkpoint='results/first'",
    ),
    "bytes": (b"kept", r"checkpoint=b'kept' must be a text or a Path"),
    "a long name": (
        "x" * 300,
        r"checkpoint='xxx.* must have at most 255 bytes in a name and 4,000 "
        r"in all \(it has 300 and",
    ),
    "a long path": (
        "/".join(["x" * 99] * 99),
        r"4,000 in all \(it has 99 and 9,801\)\. Try a shorter name",
    ),
    "half a character": ("\ud800", r"cannot be the name of a folder \('utf-8' codec"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_folder_can_have(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, message = NAMES[name]
    with pytest.raises(ValueError, match=message) as caught:
        run(study(), checkpoint=folder)
    assert "\n" not in str(caught.value)
    for use in (lambda: storage.save_result(None, folder), lambda: storage.load_result(folder)):
        with pytest.raises(ValueError, match=message.replace("checkpoint", "folder")):
            use()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["12345678901234567890", "²", "x"])
def test_a_hidden_folder_of_no_process_of_ours_is_left_alone(number, tmp_path):
    (tmp_path / f".fedlab.state.{number}").mkdir()
    same(run(study(), checkpoint=tmp_path), run(study()))
    assert (tmp_path / f".fedlab.state.{number}").exists()
