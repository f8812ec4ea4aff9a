"""What federated fine-tuning of a large model costs, from its shapes: bytes, seconds, memory, energy, money.

Every figure has an interval and says what it rests on: "cited" (a paper's shapes, a published rate), "measured" on the
computer that this runs on, or "assumed".  What is computed from several has the weakest of their tags.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.checks import check_whole, is_number
from fedlab.records import Task
from fedlab.system.devices import RADIO, Device, Figure, Link, exactly, rows_of

if TYPE_CHECKING:
    import pandas as pd

NF4_BITS = 4.127  # a parameter in QLoRA with double quantisation: 4 bits, and 0.127 for scales.  Dettmers et al. 2023
SEEDS, STEPS = 4096, 200  # FedKSeed: directions, and local steps of a round.  Qin et al. 2024
SCALAR = 4  # bytes
WRITES = ("gpt2", "llama", "t5")  # families whose models end in a number for each word


class Model(NamedTuple):
    """The shapes of a transformer; a row of data/models.csv."""

    model: str
    family: str  # bert, gpt2, llama, t5 or cifg, an LSTM
    blocks: int  # of an encoder-decoder, of either half
    width: int
    heads: int
    kv_heads: int
    head_width: int
    feedforward: int
    vocabulary: int
    positions: int
    tied: bool
    parameters: int
    source: str

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear layers of a block, ``{name: (in, out)}``; of an encoder-decoder, those of both halves."""
        h, f, q, kv = self.width, self.feedforward, self.heads * self.head_width, self.kv_heads * self.head_width
        attention = {"q": (h, q), "k": (h, kv), "v": (h, kv), "o": (q, h)}
        if self.family == "gpt2":
            return {"c_attn": (h, 3 * h), "o": (h, h), "up": (h, f), "down": (f, h)}
        if self.family == "llama":
            return attention | {"gate": (h, f), "up": (h, f), "down": (f, h)}
        if self.family == "t5":
            decoder = {f"decoder {name}": shape for name, shape in (attention | {"up": (h, f), "down": (f, h)}).items()}
            cross = {f"cross {name}": shape for name, shape in attention.items()}
            return attention | {"up": (h, f), "down": (f, h)} | decoder | cross
        return attention | {"up": (h, f), "down": (f, h)}

    @property
    def counted(self) -> int:
        """All parameters, from the shapes."""
        h, f, v, layers = self.width, self.feedforward, self.vocabulary, self.linear if self.family != "cifg" else {}
        weights, biases = sum(i * o for i, o in layers.values()), sum(o for _, o in layers.values())
        if self.family == "cifg":  # tied embedding, three gates that see input, state and 1, a projection back
            return v * h + 3 * f * (h + h + 1) + f * h
        if self.family == "bert":  # two kinds of sentence, a norm after the embeddings, two in a block, a pooler
            return (v + self.positions + 2) * h + 2 * h + self.blocks * (weights + biases + 4 * h) + h * h + h
        if self.family == "gpt2":
            return (v + self.positions) * h + self.blocks * (weights + biases + 4 * h) + 2 * h
        if self.family == "t5":  # no biases; norms have a scale; 32 distances for every head, once in either half
            return v * h + self.blocks * (weights + 5 * h) + 2 * h + 2 * 32 * self.heads
        return v * h * (1 if self.tied else 2) + self.blocks * (weights + 2 * h) + h

    @property
    def computed(self) -> int:
        """The parameters that every token is multiplied with: not the tables of embeddings, but the layer that writes."""
        blocks = self.blocks * sum(i * o for i, o in self.linear.values())
        return blocks + self.vocabulary * self.width * (self.family in WRITES)


class Method(NamedTuple):
    """How a model is fine-tuned: what travels and what the client holds, each a function of the model.

    ``flops`` are a parameter's operations a token: 6 with all gradients, 4 without those of frozen weights, 2 forward.
    """

    up: Callable[[Model], float]  # bytes
    down: Callable[[Model], float]
    trains: Callable[[Model], float]  # parameters with a gradient and an optimiser's state
    bits: float = 16  # of a weight on the client
    flops: float = 4
    activations: str = "adapters"  # which of ACTIVATIONS; "" for none that is kept for a way back


# Numbers kept for the way back, a token and block, as widths and as feed-forward widths: counted in PyTorch 2.13 without
# checkpointing (test_planner counts again, but for T5).  GPT-2's own GELU keeps five intermediate results.
ACTIVATIONS = {
    "everything": {"bert": (8, 2), "gpt2": (8, 5), "llama": (9, 4), "t5": (9, 2)},
    "adapters everywhere": {"bert": (8, 2), "gpt2": (8, 5), "llama": (7, 4), "t5": (8, 2)},
    "adapters": {"bert": (7, 1), "gpt2": (7, 4), "llama": (6, 3), "t5": (7, 1)},
}


def lora_parameters(model: Model, rank: int, targets: Sequence[str] | None = None) -> int:
    """Parameters of LoRA on these layers of every block; None: all linear ones."""
    check_whole(1, rank=rank)
    layers = model.linear
    unknown = sorted(set(targets or ()) - layers.keys())
    if unknown:
        raise ValueError(f"targets has {unknown[0]!r}: {model.model} has the layers {', '.join(layers)}")
    return model.blocks * rank * sum(i + o for name, (i, o) in layers.items() if targets is None or name in targets)


def usual_targets(model: Model) -> tuple[str, ...]:
    """Query and value, which peft adapts by itself; in GPT-2 one layer is query, key and value."""
    if model.family == "gpt2":
        return ("c_attn",)
    return tuple(name for name in model.linear if name.split()[-1] in ("q", "v"))


def full(bytes_each: int = 2) -> Method:
    """All weights, up and down."""
    size = lambda model: bytes_each * model.parameters  # noqa: E731
    return Method(size, size, lambda model: model.parameters, flops=6, activations="everything")


def largest(share: float = 0.01) -> Method:
    """The largest ``share`` of all changes, each with 2 bytes and a place of 4; down the whole model."""
    if not (is_number(share) and 0 < share <= 1):
        raise ValueError(f"share={share!r}: it is above 0 and at most 1; try 0.01")
    return full()._replace(up=lambda model: 6 * share * model.parameters)


def lora(rank: int = 8, *, everywhere: bool = False, bits: float = 16) -> Method:
    """Adapters of 2 bytes a number, on query and value or on all linear layers; ``bits`` of the frozen weights."""

    def size(model):
        return lora_parameters(model, rank, None if everywhere else usual_targets(model))

    kept = "adapters everywhere" if everywhere else "adapters"
    return Method(lambda model: 2 * size(model), lambda model: 2 * size(model), size, bits, activations=kept)


def qlora(rank: int = 8, *, everywhere: bool = False) -> Method:
    """LoRA over weights of 4 bits, Dettmers et al. 2023: what travels is the same, what the client holds is not."""
    return lora(rank, everywhere=everywhere, bits=NF4_BITS)


def fedkseed(seeds: int = SEEDS, steps: int = STEPS) -> Method:
    """A scalar a seed, and a seed and a scalar for each of the steps; two forward passes, and nothing is kept.

    The paper's 18 kB are both ways together; here all of them go up, which is the slower way.
    """
    size = SCALAR * seeds + 2 * SCALAR * steps
    return Method(lambda model: size, lambda model: SCALAR * seeds, lambda model: 0, flops=4, activations="")


METHODS: dict[str, Method] = {
    "full, bf16": full(),
    "top 1 %": largest(),
    "LoRA r=8, all linear": lora(everywhere=True),
    "LoRA r=8, q + v": lora(),
    "QLoRA r=8, q + v": qlora(),
    "FedKSeed": fedkseed(),
}


def estimate(
    model: Model,
    method: Method,
    device: Device,
    link: Link,
    *,
    examples: int = 100,
    length: int = 512,
    batch: int = 8,
    rounds: int = 100,
    per_round: int = 10,
    checkpoint: bool = False,
    price: float | None = None,
) -> pd.DataFrame:
    """A client's round, and the whole run: a row a figure, ``part, figure, value, low, high, unit, basis``.

    A round is one pass over ``examples`` texts of ``length`` tokens, ``batch`` at a time; ``per_round`` clients take part in
    each of ``rounds``.  With ``checkpoint`` only what comes into a block is kept, and computed again on the way back.
    ``price`` is money for a gigabyte that travels.
    """
    check_whole(1, examples=examples, length=length, batch=batch, rounds=rounds, per_round=per_round)
    if model.family not in ACTIVATIONS["everything"]:
        raise ValueError(f"{model.model} is no transformer: of it only the parameters are counted")
    if price is not None and not (is_number(price) and price >= 0):
        raise ValueError(f"price={price!r}: money for a gigabyte, at least 0")
    up, down = exactly(method.up(model)), exactly(method.down(model))
    seconds = {"sending": up / link.rate("up"), "fetching": down / link.rate("down")}
    again = 4 / 3 if checkpoint and method.activations else 1
    seconds["computing"] = flops(model, method, examples * length, length) * again / device.speed
    radio = Figure(RADIO, RADIO / 2, RADIO * 2, "assumed")
    joules = seconds["computing"] * device.power + (seconds["sending"] + seconds["fetching"]) * radio
    parts = memory(model, method, batch * length, checkpoint=checkpoint)
    all_bytes = (up + down) * rounds * per_round
    longest = seconds["sending"] + seconds["fetching"] + seconds["computing"]
    rows = [("bytes of a round", "up", up, "B"), ("bytes of a round", "down", down, "B")]
    rows += [("seconds of a round", name, one, "s") for name, one in seconds.items()]
    rows += [("memory", name, one, "B") for name, one in parts.items()]
    rows += [("memory", "in all", total(parts), "B"), ("energy of a round", "in all", joules, "J")]
    rows += [("whole run", "bytes", all_bytes, "B"), ("whole run", "seconds", longest * rounds, "s")]
    rows += [("whole run", "energy", joules * rounds * per_round, "J")]
    rows += [] if price is None else [("whole run", "money", all_bytes * (price / 1e9), "")]
    return _table(rows)


def flops(model: Model, method: Method, tokens: int, length: int = 0) -> Figure:
    """Operations on so many tokens: ``method.flops`` a parameter and token.  Kaplan et al. 2020, section 2.1.

    Attention over texts of ``length`` tokens is only in the upper end.  Of an encoder-decoder every token goes through both
    halves, which is too much where texts are long and answers short.
    """
    value = method.flops * model.computed * tokens
    attention = 2 * method.flops * length * model.heads * model.head_width * model.blocks * tokens
    return Figure(value, 0.95 * value, 1.15 * value + attention, "cited")


def memory(model: Model, method: Method, tokens: int, *, checkpoint: bool = False) -> dict[str, Figure]:
    """Bytes on the client, by part, for a batch of so many ``tokens``: what AdamW needs is 12 bytes a trained parameter."""
    weights, trained = model.parameters * method.bits / 8, method.trains(model)
    parts = {"weights": exactly(weights), "gradients": exactly(4 * trained), "optimiser": exactly(8 * trained)}
    halves = 2 if model.family == "t5" else 1
    if not method.activations:
        kept = 4 * model.width + 3 * model.feedforward  # what is alive within a block
    elif checkpoint:
        kept = model.blocks * halves * model.width + _kept(model, method.activations)
    else:
        kept = model.blocks * halves * _kept(model, method.activations)
    value = 2.0 * kept * tokens
    parts["activations"] = Figure(value, 0.9 * value, 1.3 * value, "measured" if method.activations else "assumed")
    if model.family in WRITES:  # in 16 bits, and once more in 32 with a gradient
        logits = (6.0 if method.activations else 2.0) * model.vocabulary * tokens
        parts["logits"] = Figure(logits, logits / 3, 5 / 3 * logits, "assumed")
    return parts


def _kept(model: Model, which: str) -> float:
    """Numbers that a block keeps of a token."""
    widths, wide = ACTIVATIONS[which][model.family]
    return widths * model.width + wide * model.feedforward


def split_activations(model: Model, tokens: int, bytes_each: int = 4) -> int:
    """Bytes that cross the cut of a model in split learning, one way, for so many tokens of a step."""
    return tokens * model.width * bytes_each


def total(parts: dict[str, Figure]) -> Figure:
    first, *others = parts.values()
    for one in others:
        first = first + one
    return first


def fits(parts: dict[str, Figure], device: Device) -> str:
    """Whether memory suffices: "yes", "perhaps" where the interval says both, "no"."""
    need, room = total(parts), device.memory * 1e9
    return "yes" if need.high <= room else "no" if need.low > room else "perhaps"


def this_computer(seconds: float = 0.5) -> Device:
    """Here: the speed of a product of matrices in single precision, measured; a third less to a tenth more for training."""
    import psutil

    size = 1024
    a, b = torch.ones(size, size), torch.ones(size, size)
    a @ b
    times, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    speed = 2 * size**3 / float(np.median(times)) / 1e12
    room = psutil.virtual_memory().total / 1e9
    watts = (math.nan,) * 3
    return Device("this computer", speed, 0.6, 1.1, room, *watts, 0, "measured", "a product of matrices")


def shapes(config: Any) -> Model:
    """The row of another model, from its configuration in transformers; ValueError for a family that is not known here."""
    family = {"roberta": "bert", "mistral": "llama"}.get(config.model_type, config.model_type)
    if family not in ACTIVATIONS["everything"]:
        told = f"{config.model_type}: the planner knows {', '.join(ACTIVATIONS['everything'])}"
        raise ValueError(f"{told}, and what has their shapes; write a Model of your own")
    heads, width = config.num_attention_heads, config.hidden_size
    inner = {"gpt2": "n_inner", "t5": "d_ff"}.get(family, "intermediate_size")
    row = Model(
        getattr(config, "_name_or_path", "") or config.model_type,
        family,
        config.num_hidden_layers,
        width,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or width // heads,
        getattr(config, inner) or 4 * width,
        config.vocab_size,
        getattr(config, "max_position_embeddings", 0),
        bool(getattr(config, "tie_word_embeddings", True)),
        0,
        "its configuration",
    )
    return row._replace(parameters=row.counted)


def measure(task: Task, w: Tensor, x: Tensor, y: Tensor, *, repeats: int = 5) -> dict[str, float]:
    """A training step on ``x``, ``y`` as it really is: its ``operations``, the ``bytes kept`` for the way back, ``seconds``.

    PyTorch counts the operations of matrix products; kept is what autograd saved and is no parameter; seconds are a median.
    """
    from torch.utils.flop_counter import FlopCounterMode

    kept, w = {}, w.clone().requires_grad_()
    own = {p.untyped_storage().data_ptr() for p in (*task.template(w).parameters(), w)}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step():
        torch.autograd.grad(task.loss(task.forward(w, x), y).mean(), w)

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        step()
        took.append(time.perf_counter() - begun)
    return {
        "operations": counter.get_total_flops(),
        "bytes kept": sum(kept.values()),
        "seconds": float(np.median(took)),
    }


@cache
def models() -> dict[str, Model]:
    """Those of data/models.csv, by name."""
    return {row["model"]: Model(**row) for row in rows_of("models.csv", Model)}


def _table(rows: list[tuple[str, str, Figure, str]]) -> pd.DataFrame:
    import pandas as pd

    columns = ("part", "figure", "value", "low", "high", "unit", "basis")
    told = [(part, name, one.value, one.low, one.high, unit, one.basis) for part, name, one, unit in rows]
    return pd.DataFrame(told, columns=columns)
