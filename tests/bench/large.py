"""Fine-tuning MiniLM over many clients at full size: ``python tests/bench/large.py``.  Writes reports/large.json.

More than an hour on two cores, so it is no test.  Every piece is recorded when it is done; a second call goes on with those
that are missing, and ``--only NAME`` measures one anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from fedlab.baselines import centralised
from fedlab.data import dirichlet, load_texts
from fedlab.models import classifier, everything, head_only, keep_activations, lora, pretrained, topics, with_head
from fedlab.records import Experiment, FederatedDataset, Local
from fedlab.run import run
from fedlab.server import fedavg, uniform, weighted_mean

RECORD = Path(__file__).parents[2] / "reports" / "large.json"
SEEDS = 3


def study(name: str, clients: int, alpha: float, trains, local: Local, rounds: int, head: torch.Tensor | None = None):
    """A set of texts over clients that train this part of MiniLM, ten a round; the split is drawn anew for every seed."""
    texts, model = load_texts(name, 290 if name == "docs" else None), pretrained()
    task = classifier(model, texts.classes, trains)
    task = task if head is None else with_head(task, head)

    def data(seed: int) -> FederatedDataset:
        return keep_activations(task, topics(model, texts, clients, dirichlet(alpha), seed, length=64))[1]

    upper = keep_activations(task, topics(model, texts, clients, dirichlet(alpha), length=64))[0]
    parts = local, fedavg(), weighted_mean, uniform(10)
    return Experiment(data, upper, *parts, rounds=rounds, eval_every=rounds)


def ends(experiment: Experiment, seeds: int = SEEDS) -> dict:
    """Accuracy of each seed after the last round, seconds, and a client's bytes up in a round."""
    begun = time.perf_counter()
    result = run(experiment, seeds=seeds)
    trained = result.clients["steps"] > 0
    return {
        "accuracy": result.final()["accuracy"].round(4).tolist(),
        "rounds": experiment.rounds,
        "seconds": round(time.perf_counter() - begun, 1),
        "bytes up": int(result.clients.loc[trained, "bytes_up"].max()),
    }


def head(name: str, clients: int, alpha: float) -> dict:
    """The head alone, on features that are kept."""
    rounds = {"docs": 100, "banking77": 60}[name]
    return ends(study(name, clients, alpha, head_only(), Local(1.0, batch_size=10), rounds), 5)


def adapted(name: str, clients: int, alpha: float, rounds: int, *, central: bool = False) -> dict:
    """LoRA of rank 8 on the last two blocks, after the head was trained alone; or the same work on the pooled texts."""
    first = run(study(name, clients, alpha, head_only(), Local(1.0, batch_size=10), 60)).w[0]
    experiment = study(name, clients, alpha, lora(8, last=2), Local(0.1, batch_size=16), rounds, first)
    return ends(centralised(experiment) if central else experiment)


def whole_bytes() -> dict:
    """What a client would send of the whole model."""
    task = classifier(pretrained(), load_texts("docs").classes, everything())
    return {"bytes up": 4 * sum(shape.numel() for shape in task.shapes.values())}


DOCS, BANK = ("docs", 50, 0.1), ("banking77", 40, 0.5)
PIECES: dict[str, Callable[[], dict]] = {
    "whole model": whole_bytes,
    "docs, head": partial(head, *DOCS),
    "banking77, head": partial(head, *BANK),
    "docs, LoRA": partial(adapted, *DOCS, 20),
    "docs, LoRA, central": partial(adapted, *DOCS, 20, central=True),
    "banking77, LoRA": partial(adapted, *BANK, 20),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PIECES)
    only = parser.parse_args().only
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name, measure in PIECES.items():
        if only == name or (only is None and name not in record):
            record[name] = measure() | {"threads": torch.get_num_threads()}
            print(name, record[name], flush=True)
            RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
