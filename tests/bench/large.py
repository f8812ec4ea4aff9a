"""Fine-tuning MiniLM over many clients at full size: ``make large``.  Writes data/fine_tuning.csv.

It takes more than an hour on two cores, so no test runs it. Every finished run is recorded, and a
second call goes on with the missing ones. ``--only PART`` takes the runs whose name contains PART,
so that two processes can share the work.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch

from fedlab.core import Algorithm, Experiment, Local, Result
from fedlab.data import dirichlet, load_texts
from fedlab.data.text import Texts
from fedlab.engine import run
from fedlab.models import (
    adapters,
    cache_activations,
    classifier,
    pretrained,
    text_classification,
    with_head,
)
from fedlab.server import fedadam, fedavg, uniform, weighted_mean
from fedlab.study import centralised

RECORD = Path(__file__).parents[2] / "data" / "fine_tuning.csv"
KEY = ["texts", "method", "seed"]
COLUMNS = [
    "texts",
    "clients",
    "alpha",
    "method",
    "in_a_round",
    "seed",
    "round",
    "accuracy",
    "kB_up",
    "seconds",
]


@dataclass(frozen=True)
class Setting:
    """Texts over clients."""

    texts: str
    clients: int
    alpha: float
    per_class: int | None = None


FEDAVG = fedavg()
DOCS, BANK = Setting("docs", 50, 0.1, 290), Setting("banking77", 40, 0.5)


@dataclass(frozen=True)
class Piece:
    """One method. All but "head only" start after 60 rounds of the head, whose bytes count."""

    method: str
    setting: Setting
    trains: adapters.Trains
    local: Local
    rounds: int
    each: int  # clients that take part in a round
    every: int = 1  # rounds between two tests
    algorithm: Algorithm = FEDAVG
    central: bool = False
    seeds: int = 3


adam = partial(fedadam, tau=1e-5)  # small: an adapter's gradients are
HEAD = {
    where: Piece("head only", where, adapters.head_only(), Local(1.0, 10), 60, 10, 5, seeds=5)
    for where in (DOCS, BANK)
}
ONE = Local(1.0, 16, steps=1)  # what the server's Adam gets is then the gradient of a batch
PIECES = [
    *HEAD.values(),
    Piece("LoRA, rank 8", BANK, adapters.lora(8, last=2), Local(0.1, 16), 10, 10),
    Piece("LoRA, rank 8", DOCS, adapters.lora(8, last=2), ONE, 20, 50, 4, adam(0.003)),
    Piece("LoRA, rank 8, FedAvg", DOCS, adapters.lora(8, last=2), Local(0.03, 8), 4, 50),
    Piece(
        "LoRA, rank 8, central", DOCS, adapters.lora(8, last=2), Local(0.1, 16), 4, 50, central=True
    ),
    Piece("LoRA, rank 2", DOCS, adapters.lora(2, last=2), ONE, 12, 50, 4, adam(0.003)),
    Piece("LoRA, rank 32", DOCS, adapters.lora(32, last=2), ONE, 12, 50, 4, adam(0.003)),
    Piece("last two blocks", DOCS, adapters.last_layers(2), ONE, 12, 50, 4, adam(0.0003)),
    Piece("everything", DOCS, adapters.everything(), ONE, 8, 50, 4, adam(0.0001), seeds=1),
]


@cache
def texts_of(setting: Setting) -> Texts:
    return load_texts(setting.texts, setting.per_class)


def study(piece: Piece, seed: int, head: torch.Tensor | None = None) -> Experiment:
    """Run a piece on the split of this seed, from a random head or from the given one."""
    setting, model, texts = piece.setting, pretrained(), texts_of(piece.setting)
    task = classifier(model, texts.classes, piece.trains)
    task = task if head is None else with_head(task, head)
    whole = text_classification(
        model, texts, setting.clients, dirichlet(setting.alpha), seed, length=64
    )
    upper, data = cache_activations(task, whole)
    parts = piece.local, piece.algorithm, weighted_mean, uniform(piece.each)
    experiment = Experiment(data, upper, *parts, rounds=piece.rounds, eval_every=piece.every)
    return centralised(experiment) if piece.central else experiment


def measure(piece: Piece, seed: int) -> pd.DataFrame:
    """Return accuracy, mean kilobytes sent and seconds after every tested round."""
    setting = piece.setting
    probed = None if piece.method == "head only" else run(study(HEAD[setting], seed), seeds=[seed])
    experiment = study(piece, seed, None if probed is None else probed.w[0])
    begun = time.perf_counter()
    result = run(experiment, seeds=[seed])
    took = time.perf_counter() - begun
    sent = _sent(result, setting) + (0 if probed is None else _sent(probed, setting).iloc[-1])
    sent = float("nan") if piece.central else sent.round(1)
    rows = result.rounds.assign(kB_up=sent).dropna(subset="accuracy")[
        ["seed", "round", "accuracy", "kB_up"]
    ]
    rows["accuracy"] = rows["accuracy"].round(4)
    labels = {
        "texts": setting.texts,
        "clients": setting.clients,
        "alpha": setting.alpha,
        "method": piece.method,
    }
    return rows.assign(**labels, in_a_round=piece.each, seconds=round(took, 1))[COLUMNS]


def _sent(result: Result, setting: Setting) -> pd.Series:
    """The kilobytes that a client has sent up to each round, on average over all."""
    return result.rounds["bytes_up"].cumsum() / setting.clients / 1e3


def recorded() -> pd.DataFrame:
    return pd.read_csv(RECORD) if RECORD.exists() else pd.DataFrame(columns=KEY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default="", metavar="PART", help="of texts and method, such as 'docs: LoRA'"
    )
    only = parser.parse_args().only
    chosen = [item for item in PIECES if only in f"{item.setting.texts}: {item.method}"]
    for piece, seed in ((item, seed) for item in chosen for seed in range(item.seeds)):
        done = recorded()[KEY].itertuples(index=False, name=None)
        if (piece.setting.texts, piece.method, seed) in set(done):
            continue
        rows = measure(piece, seed)
        print(rows.iloc[-1].to_dict(), flush=True)
        table = pd.concat(
            [known for known in (recorded(), rows) if len(known)]
        )  # another process may have added its own
        table.sort_values([*KEY, "round"]).to_csv(RECORD, index=False)


if __name__ == "__main__":
    main()
