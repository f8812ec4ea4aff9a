"""Speed as ratios within one run: ``make bench``, which writes reports/speed.json.

The systems of ``works.py`` take turns at its works. Each smaller piece runs against a first version
in plain PyTorch. Seconds depend on the machine, ratios hardly, so the median ratio counts.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import language
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from works import SYSTEMS, Given, given

from fedlab.client import assign, batched, plan, sequential
from fedlab.core import Cohort, Experiment, FederatedDataset, Local, Message, Task, Work, generator
from fedlab.data import iid, load
from fedlab.engine import initial, run, stream
from fedlab.models import cnn, logistic_regression, mlp
from fedlab.server import fedavg, heterofl, uniform, weighted_mean
from fedlab.system import Workload, draw_fleet, fedbuff, simulate, synchronous, timetable
from fedlab.upload import error_feedback, identity, one_shot, power_sgd, pruned, qsgd, top_k, wire

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORD = ROOT / "reports" / "speed.json"
WORKS = {
    "W1": "digits, 2NN, 10 of 100 clients",
    "W2": "digits, 2NN, 100 of 100 clients",
    "W3": "60,000 examples as large as MNIST's, 2NN, 10 of 100 clients",
    "W4": "200,000 examples, 2NN, 100 of 10,000 clients",
}
UPLOADS = {
    "top-k": ("top 1 % with error feedback", error_feedback(top_k(0.01))),
    "QSGD": ("QSGD at 8 bits", qsgd(8)),
    "PowerSGD": ("PowerSGD of rank 4 with error feedback", error_feedback(power_sgd(4))),
}
PACKED = {"whole": identity(), "8 bits": qsgd(8), "5 bits": qsgd(5), "top 1 %": top_k(0.01)}


def works(repeats: int) -> dict[str, dict]:
    """Run every work by every system; return ratios to the floor and to plain PyTorch."""
    results = {}
    for name, text in WORKS.items():
        took = [_by_turns(given(name, None)) for _ in tqdm(range(repeats), desc=name, leave=False)]
        floor, ours, plain = (
            [each[system] for each in took] for system in ("floor", "fedlab", "plain")
        )
        alone = [
            sys.executable,
            HERE / "works.py",
            "--work",
            name,
            "--system",
            "fedlab",
        ]  # whose memory is nobody else's
        line = json.loads(subprocess.run(alone, check=True, capture_output=True, text=True).stdout)
        results[name] = {
            "text": text,
            "of the floor": _ratios(ours, floor),
            "faster than plain": _ratios(plain, ours),
            "peak MB": line["peak_mb"],
        }
        _show(name, results[name])
    return results


def _by_turns(work: Given) -> dict[str, float]:
    """Seconds that each system takes for all rounds but the first, which pays for warming up.

    They take turns of a fifth of the work, since a machine has good and bad minutes.
    """
    systems = {name: system(work, False) for name, system in SYSTEMS.items()}
    took, turn = dict.fromkeys(systems, 0.0), -(-work.size.rounds // 5)
    for rounds in systems.values():
        next(rounds)
    for _ in range(5):
        for name, rounds in systems.items():
            took[name] += _timed(
                lambda rounds=rounds: [None for _ in itertools.islice(rounds, turn)]
            )
    return took


def pieces(repeats: int) -> dict[str, dict]:
    """Smaller pieces of work, each against another way of doing it."""
    data = load("digits", 100, iid())
    study = Experiment(
        data, mlp(data), Local(0.1, batch_size=5), fedavg(), weighted_mean, uniform(10), rounds=20
    )
    short, wide, w1 = replace(study, rounds=5), _wide(), replace(study, rounds=100)
    fleet, crowd = draw_fleet(100).slower(1000), draw_fleet(100_000, dropout=0.05)
    burden = Workload(1_000_000, np.full(100_000, 1e11), 1_000_000)
    pictures, rows = (
        _cohort(cnn, (1, 28, 28), np.full(20, 20)),
        _cohort(logistic_regression, (60,), _ragged(1000)),
    )

    def starting(module: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    pairs: dict[str, tuple[str, Callable, Callable]] = {  # the first's time over the second's
        "five seeds": (
            "W1 for 5 seeds in lockstep: times one seed",
            lambda: run(w1, seeds=5),
            lambda: run(w1),
        ),
        "CNN": (
            "McMahan's CNN, 20 clients of 20 pictures: times faster",
            _plain(*pictures),
            lambda: batched(*pictures),
        ),
        "logistic": (
            "logistic regression, 1,000 ragged clients: times faster",
            _plain(*rows),
            lambda: batched(*rows),
        ),
        "engines": (
            "`batched`, 10 of 100: times faster than `sequential`",
            lambda: run(short, sequential),
            lambda: run(short),
        ),
        "clock": (
            "rounds by the clock, 10 of 100 clients: times rounds",
            lambda: simulate(study, fleet, synchronous(10)),
            lambda: run(study),
        ),
        "FedBuff": (
            "as many updates by FedBuff, 20 clients at work: times rounds",
            lambda: simulate(study, fleet, fedbuff(20, 10)),
            lambda: run(study),
        ),
        "timetable": (
            "timetable of 100,000 clients, 20 rounds of 1,000 with 30 % more asked: "
            "times a heap of as many events",
            lambda: timetable(crowd, synchronous(1000, over_selection=0.3), burden, 20),
            _heap,
        ),
        "import": (
            "`import fedlab.engine.run`: times `import torch`",
            starting("fedlab.engine.run"),
            starting("torch"),
        ),
    }
    for name, (text, upload) in UPLOADS.items():
        text = (
            f"a round of W3 with 20 clients a round, uploads by {text}: times one with whole rows"
        )
        pairs[name] = text, partial(_rounds, replace(wide, upload=upload)), partial(_rounds, wide)
    rates = [(1.0, 0.5, 0.25)[i % 3] for i in range(wide.data.num_clients)]
    for name, (text, method) in {
        "pruned": ("90 % of the weights gone", pruned(fedavg(), wide.task, one_shot(0.9, round=1))),
        "HeteroFL": ("parts of the model by HeteroFL", heterofl(wide.task, rates)),
    }.items():
        text = f"a round of W3 with 20 clients a round, {text}: times one of whole models"
        pairs[name] = (
            text,
            partial(_rounds, replace(wide, algorithm=method)),
            partial(_rounds, wide),
        )
    pairs |= language.pairs()
    results = {}
    for name, (text, first_run, second_run) in pairs.items():
        first_run(), second_run()  # warm up
        both = [
            (_timed(first_run), _timed(second_run))
            for _ in tqdm(range(repeats), desc=name, leave=False, delay=2)
        ]
        results[name] = {"text": text, "ratio": _ratios(*zip(*both, strict=True))}
        _show(name, results[name])
    return results


def _heap() -> None:
    """As many events as the timetable has, which come to nothing."""
    draw, heap, clock = generator(0, "times"), [], 0.0
    for _ in range(20):
        for client, takes in enumerate(draw.random(1300).tolist()):
            heapq.heappush(heap, (clock + takes, client))
        while heap:
            clock, _ = heapq.heappop(heap)


def _wide() -> Experiment:
    """W3 with 20 clients a round."""
    work = given("W3", None)
    data = FederatedDataset(
        work.x, work.y, list(work.parts), work.test, "wide", tuple("0123456789")
    )
    local = Local(0.1, batch_size=work.size.batch_size)
    return Experiment(
        data,
        mlp(data, (200, 200)),
        local,
        fedavg(),
        weighted_mean,
        uniform(20),
        rounds=4,
        eval_every=4,
    )


def _rounds(study: Experiment) -> None:
    for _ in stream(study):
        pass


def packing(repeats: int) -> dict[str, dict]:
    """Return the MB of uncompressed updates, as large as W3's, that one thread packs per second."""
    shapes, threads = {"w": torch.Size((199_210,))}, torch.get_num_threads()
    row = torch.from_numpy(generator(0, "packed").standard_normal((1, 199_210), dtype=np.float32))
    results = {}
    torch.set_num_threads(1)
    for name, upload in PACKED.items():
        message, _ = upload.apply(
            Message(row, shapes), None, Cohort(np.zeros(1, dtype=int), 1, 0, 1)
        )
        round_trip = lambda message=message: wire.unpack(wire.pack(message), shapes)  # noqa: E731
        round_trip()
        rates = [row.nbytes / 1e6 / _timed(round_trip) for _ in range(4 * repeats)]
        results[name] = {
            "MB/s": [round(value) for value in (statistics.median(rates), min(rates), max(rates))]
        }
        _show(name, results[name] | {"text": "packed to bytes and back"})
    torch.set_num_threads(threads)
    return results


def _cohort(
    model: Callable, shape: tuple[int, ...], sizes: np.ndarray
) -> tuple[Task, Tensor, Tensor, Work]:
    """A round's work: clients with ``sizes`` random examples, batches of 10."""
    draw, n = generator(0, "bench"), int(sizes.sum())
    x, y = draw.normal(size=(n, *shape)).astype(np.float32), draw.integers(10, size=n)
    x, y, parts = (
        torch.from_numpy(x),
        torch.from_numpy(y),
        np.split(np.arange(n), np.cumsum(sizes)[:-1]),
    )
    data = FederatedDataset(x, y, parts, (x[:100], y[:100]), "bench", tuple("0123456789"))
    task, local = model(data), Local(0.05, batch_size=10)
    batches = plan(data.parts, 0, 1, local, n)
    return task, data.x, data.y, assign(initial(task, 0), data.parts, [local] * len(sizes), batches)


def _ragged(clients: int) -> np.ndarray:
    return np.floor(generator(0, "sizes").lognormal(2.5, 1, size=clients)).astype(int) + 1


def _plain(task: Task, x: Tensor, y: Tensor, work: Work) -> Callable[[], None]:
    """The same round as a first attempt has it."""

    def train():
        model = task.model()
        start = {name: p.clone() for name, p in model.state_dict().items()}
        for batches in torch.from_numpy(work.batches):
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), lr=float(work.lr[0]))
            for batch in batches:
                batch = batch[batch >= 0]
                if len(batch) == 0:
                    break
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()

    return train


def _timed(piece: Callable) -> float:
    began = time.perf_counter()
    piece()
    return time.perf_counter() - began


def _ratios(first_times, others) -> list[float]:
    """Median, lowest and highest."""
    each = [a / b for a, b in zip(first_times, others, strict=True)]
    return [round(value, 2) for value in (statistics.median(each), min(each), max(each))]


def _show(name: str, figures: dict) -> None:
    print(
        f"{name:12s}",
        "  ".join(f"{key} {_told(value)}" for key, value in figures.items() if key != "text"),
        figures["text"],
        sep="  ",
    )


def _told(value) -> str:
    return (
        f"{value[0]:.2g} ({value[1]:.2g} to {value[2]:.2g})"
        if isinstance(value, list)
        else f"{value:.0f}"
    )


def main() -> None:
    """Measure, print a line a piece, write the record."""
    import psutil

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="how often each is timed (default: 5, about 9 minutes)",
    )
    repeats = parser.parse_args().repeats
    threads, memory = torch.get_num_threads(), psutil.virtual_memory().total / 1e9
    machine = f"{threads} threads and {memory:.0f} GB, PyTorch {torch.__version__.split('+')[0]}"
    record = {
        "machine": machine,
        "repeats": repeats,
        "works": works(repeats),
        "pieces": pieces(repeats),
    }
    record["packing"] = packing(repeats)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
