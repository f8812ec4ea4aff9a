"""Speed as ratios within one run: the package against a loop written by hand, on the same work.

The reference is what a person writes first in plain PyTorch: one model, one optimiser, one client after another.  Every pair
is timed in turn, several times; the median ratio is printed with its range.  Seconds depend on the machine, ratios hardly.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch
from torch import nn
from tqdm import tqdm

from fedlab.client import sequential
from fedlab.data import iid, load
from fedlab.models import mlp
from fedlab.records import Experiment, Local
from fedlab.rng import generator
from fedlab.run import run
from fedlab.server import fedavg, uniform, weighted_mean


def by_hand(study: Experiment, seeds: int) -> None:
    """FedAvg as a first attempt has it, with an evaluation a round."""
    data, local = study.data, study.local
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = study.task.model()
        current = {name: value.clone() for name, value in model.state_dict().items()}
        for t in range(1, study.rounds + 1):
            cohort = study.sample(data.num_clients, generator(seed, "cohort", t))
            n, mean = data.sizes[cohort].sum(), {name: torch.zeros_like(value) for name, value in current.items()}
            for i in cohort:
                model.load_state_dict(current)
                optimizer = torch.optim.SGD(model.parameters(), lr=local.lr)
                order = torch.from_numpy(data.parts[i])[torch.randperm(len(data.parts[i]))]
                for batch in order.split(local.batch_size):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(data.x[batch]), data.y[batch]).backward()
                    optimizer.step()
                for name, value in model.state_dict().items():
                    mean[name] += value * (len(order) / n)
            current = mean
            model.load_state_dict(current)
            with torch.no_grad():
                (model(data.test[0]).argmax(1) == data.test[1]).float().mean().item()


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print a line a piece of work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="how often each pair is timed (default: 5)")
    repeats = parser.parse_args().repeats
    data = load("digits", 100, iid())
    study = Experiment(data, mlp(data), Local(0.1, batch_size=5), fedavg(), weighted_mean, uniform(10), rounds=20)
    everyone = replace(study, sample=uniform(100), rounds=4)
    pieces = {
        "10 of 100 clients": (lambda: run(study), lambda: by_hand(study, 1)),
        "100 of 100 clients": (lambda: run(everyone), lambda: by_hand(everyone, 1)),
        "10 of 100 clients, 5 seeds": (lambda: run(study, seeds=5), lambda: by_hand(study, 5)),
        "10 of 100, readable engine": (lambda: run(study, sequential), lambda: by_hand(study, 1)),
    }
    print(f"digits, 2NN 64-200-200-10, batch 5; times faster than plain PyTorch, {torch.get_num_threads()} threads")
    for name, (ours, theirs) in pieces.items():
        ours(), theirs()  # warm up
        pairs = [(timed(ours), timed(theirs)) for _ in tqdm(range(repeats), desc=name, leave=False, delay=2)]
        ratios = [slow / fast for fast, slow in pairs]
        print(f"{name:28s} {statistics.median(ratios):5.1f}  ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
