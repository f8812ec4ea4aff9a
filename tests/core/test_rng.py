import numpy as np
import torch
from torch import nn

from fedlab.core import generator
from fedlab.core.rng import seeded


def test_a_path_names_a_stream():
    draws = [
        generator(*path).random()
        for path in [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", 2)]
    ]
    assert len(set(draws)) == len(draws)
    assert generator(0, "a", 1).random() == draws[4]
    assert generator(np.int64(0), "a", 1).random() == draws[4]


def test_seeded_draws_the_same_and_leaves_the_global_generator_alone():
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    with seeded(3, "init"):
        first = nn.Linear(4, 4)
    with seeded(3, "init"):
        again = nn.Linear(4, 4)
    with seeded(4, "init"):
        second = nn.Linear(4, 4)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, second.weight)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_a_whole_run_leaves_the_global_generators_alone(short):
    from fedlab.engine import run

    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    run(short, seeds=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
