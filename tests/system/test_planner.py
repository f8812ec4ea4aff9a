from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.core import Experiment, Local
from fedlab.data import iid, load_texts
from fedlab.engine import initial, run
from fedlab.models import classifier, everything, lora, text_classification, tiny
from fedlab.server import fedavg, uniform, weighted_mean
from fedlab.system import planner
from fedlab.system.devices import BASES, Estimate, Link, devices, exact, links
from fedlab.system.planner import (
    METHODS,
    estimate,
    fits,
    lora_parameters,
    models,
    shapes,
)


def test_sizes_of_adapters():
    size = lambda name, *targets: lora_parameters(models()[name], 8, *targets)  # noqa: E731
    seven = models()["Llama 2 7B"]
    assert size("MiniLM-L6", ("query", "value")) == size("MiniLM-L6", "q + v") == 73_728
    assert size("GPT-2", ("c_attn",)) == size("GPT-2", "q + v") == 294_912
    assert size("Llama 2 7B", ("q_proj", "v_proj")) == size("Llama 2 7B", "q + v") == 4_194_304
    assert round(METHODS["LoRA r=8, q + v"].up(seven) / 1e6, 2) == 8.39
    assert round(METHODS["LoRA r=8, all linear"].up(seven) / 1e6, 2) == 39.98
    assert round(METHODS["full, bf16"].up(seven) / 1e9, 2) == 13.48
    assert round(planner.split_activations(seven, 8 * 512) / 1e6, 1) == 67.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "size", "median", "weak"),
    [
        ("full, bf16", "13.48 GB", "85 min", "6.0 h"),
        ("top 1 %", "404 MB", "153 s", "647 s"),
        ("LoRA r=8, all linear", "40.0 MB", "15 s", "64 s"),
        ("LoRA r=8, q + v", "8.39 MB", "3.2 s", "13 s"),
        ("FedKSeed", "18 kB", "0.01 s", "0.03 s"),
    ],
)
def test_what_7_billion_parameters_send(method, size, median, weak):
    """A published table, at 21.08 and at 5 Mbit/s."""
    up = METHODS[method].up(models()["Llama 2 7B"])
    divisor = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "s": 1, "min": 60, "h": 3600}
    pairs = [(size, up), (median, up * 8 / 21.08e6), (weak, up * 8 / 5e6)]
    for figure, value in pairs:
        number, unit = figure.split()
        digits = len(number.partition(".")[2])
        assert round(value / divisor[unit], digits) == float(number)
    frame = estimate(
        models()["Llama 2 7B"], METHODS[method], devices()["laptop"], links()["5G, world median"]
    )
    sending = frame[(frame["part"] == "seconds of a round") & (frame["figure"] == "sending")][
        "value"
    ].item()
    assert sending == pytest.approx(up * 8 / 21.08e6)


# Against measurements


@pytest.fixture(scope="module")
def docs():
    return load_texts("docs", 15)


SIZES = {"small": (64, 2), "wider": (128, 2), "deeper": (64, 6)}
NAMES = {
    "bert": ["query", "key", "value", "dense"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", NAMES)
def test_adapters_weigh_what_was_planned(docs, kind, size):
    """The bytes that a run has sent are those of the formula, of the head and of tensor names."""
    width, depth = SIZES[size]
    model = tiny(kind, docs.texts, width=width, depth=depth, vocabulary=400)
    for targets, chosen in ((None, "q + v"), (NAMES[kind], None)):
        task = classifier(model, 14, lora(4, targets=targets))
        sent = run(study_of(model, docs, task)).clients["up_values"]
        assert set(sent) == {
            4 * (lora_parameters(shapes(model.network.config), 4, chosen) + 14 * (width + 1))
        }


def study_of(model, docs, task):
    data = text_classification(model, docs, 4, iid(), length=12)
    return Experiment(
        data, task, Local(0.1, batch_size=8, steps=1), fedavg(), weighted_mean, uniform(2), rounds=1
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("method", ["full, bf16", "LoRA r=8, all linear", "LoRA r=8, q + v"])
def test_operations_and_activations_are_within_their_intervals(docs, kind, size, method):
    """PyTorch counts the operations of a step; the saved bytes are those of autograd."""
    width, depth = SIZES[size]
    model = tiny(kind, docs.texts, width=width, depth=depth, vocabulary=400)
    row, trains = (
        shapes(model.network.config),
        everything() if method.startswith("full") else lora(4, targets=NAMES[kind]),
    )
    trains = lora(4) if method.endswith("q + v") else trains
    task = classifier(model, 14, trains)
    x = torch.from_numpy(np.arange(8 * 32).reshape(8, 32) % 300 + 5)
    seen = planner.measure(task, initial(task, 0), x, torch.zeros(8, dtype=torch.int64), repeats=1)
    planned = planner.flops(
        replace(row, head=0), METHODS[method], x.numel()
    )  # a classifier writes no words
    assert planned.low <= seen["operations"] <= planned.high
    held = planner.memory(row, METHODS[method], x.numel(), 32, dtype=torch.float32)
    assert held["activations"].low <= seen["bytes kept"] <= held["activations"].high


def test_this_computer_is_measured():
    computer = planner.this_computer(0.05)
    assert computer.basis == "measured"
    assert 0.001 < computer.teraflops < 1000


# Figures


def test_intervals_and_tags():
    a, b = Estimate(4, 2, 8, "measured"), Estimate(2, 1, 4, "assumed")
    assert a * b == Estimate(8, 2, 32, "assumed")
    assert a / b == Estimate(2, 0.5, 8, "assumed")
    assert a + b == Estimate(6, 3, 12, "assumed")
    assert a * 3 == Estimate(12, 6, 24, "cited")
    assert exact(5) == Estimate(5, 5, 5, "cited")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["BERT-base", "T5-base", "GPT-2", "Llama 2 70B"])
def test_estimates_are_whole(name, method):
    parts = models()[name], METHODS[method], devices()["phone, flagship"], links()["home fibre"]
    frame = estimate(*parts, price=5)
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["high"]).all()
    assert set(frame["basis"]) <= set(BASES)
    value = frame.set_index(["part", "figure"])["value"]
    memory = value["memory"]
    assert memory["in all"] == pytest.approx(memory.drop("in all").sum())
    bytes_all = 1000 * (value["bytes of a round", "up"] + value["bytes of a round", "down"])
    assert value["whole run", "bytes"] == pytest.approx(bytes_all)
    assert value["whole run", "money"] == pytest.approx(bytes_all * 5e-9)
    assert value["whole run", "seconds"] == pytest.approx(100 * value["seconds of a round"].sum())
    lean = estimate(*parts, checkpoint=True).set_index(["part", "figure"])["value"]
    assert lean["memory", "activations"] <= memory["activations"]
    pd.testing.assert_frame_equal(estimate(*parts, price=5), frame)


def test_what_fits():
    seven, phone = models()["Llama 2 7B"], devices()["phone, flagship"]
    verdicts = {
        name: fits(planner.memory(seven, method, 512, checkpoint=True), phone)
        for name, method in METHODS.items()
    }
    assert verdicts["full, bf16"] == verdicts["LoRA r=8, q + v"] == "no"
    assert verdicts["QLoRA r=8, q + v"] == "yes"
    assert fits({"all": Estimate(6e9, 5e9, 7e9, "assumed")}, phone) == "perhaps"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: lora_parameters(m, 0), "rank=0 must be a whole number of at least 1. Try 1"),
        (
            lambda m: lora_parameters(m, 8, ["query"]),
            "targets has 'query': Llama 2 7B has the layers self_attn.q_proj, .*",
        ),
        (lambda m: planner.largest(0), "share=0 must be above 0 and at most 1. Try 0.01"),
        (
            lambda m: estimate(m, METHODS["FedKSeed"], *here(), batch=0),
            "batch=0 must be a whole number of at least 1. Try 1",
        ),
        (
            lambda m: estimate(m, METHODS["FedKSeed"], *here(), price=-1),
            "price=-1 must be at least 0: EUR for .*",
        ),
        (
            lambda m: estimate(m, METHODS["FedKSeed"], *here(), length=5000),
            "length=5000 must be at most the 4096 tokens .*",
        ),
        (
            lambda m: estimate(m, METHODS["FedKSeed"], *here(), optimiser="Adam"),
            "optimiser='Adam' must be known. Try .*",
        ),
        (
            lambda m: lora_parameters(m, 8, []),
            "targets=\\[\\] must be a list of names, or 'all-linear'. Try .*",
        ),
        (
            lambda m: lora_parameters(m, 8, "q_proj"),
            "targets='q_proj' must be a list of names, or 'all-linear'. Try .*",
        ),
        (
            lambda m: planner.lora(bits=0),
            "bits=0 must be those of a frozen weight, from 1 to 32. Try .*",
        ),
        (lambda m: planner.lora(0), "rank=0 must be a whole number of at least 1. Try 1"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(models()["Llama 2 7B"])


def here():
    return devices()["laptop"], links()["home fibre"]


@pytest.mark.slow
def test_every_row_says_where_it_is_from():
    for table in (models(), devices(), links()):
        assert all(row.source for row in table.values())
    assert all(row.basis in BASES for row in (*devices().values(), *links().values()))
    assert isinstance(links()["home fibre"], Link)
