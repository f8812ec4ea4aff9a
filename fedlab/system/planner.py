"""What federated fine-tuning of a large model costs, from its shapes: bytes, seconds, memory, energy, money.

Every figure has an interval and says what it rests on: "cited" (a paper's shapes, a published rate), "measured" on the
computer that this runs on, or "assumed".  What is computed from several has the weakest of their tags.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Task
from fedlab.core.validate import check_whole, is_number
from fedlab.system.devices import RADIO_WATTS, Device, Estimate, Link, exact
from fedlab.system.shapes import Model, models, saved_activations, shapes, targets_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Model", "models", "shapes"]  # of fedlab.system.shapes, for who plans

NF4_BITS = 4.127  # a parameter in QLoRA with double quantisation: 4 bits, and 0.127 for scales.  Dettmers et al. 2023
NF4_SINGLE_BITS = 4.5  # without: a scale of 32 bits for each 64 parameters
SEEDS, STEPS = 4096, 200  # FedKSeed: directions, and local steps of a round.  Qin et al. 2024
SCALAR = 4  # bytes
# Bytes of an optimiser's state for each trained parameter.  In 8 bits AdamW's two moments have scales of 32 bits, one for
# each block of 256 numbers in today's bitsandbytes, of 2,048 in Dettmers et al. 2022.
OPTIMISERS = {
    "AdamW": exact(8),
    "AdamW, 8 bits": Estimate(2 + 8 / 256, 2 + 8 / 2048, 2 + 8 / 256, "cited"),
    "SGD with momentum": exact(4),
    "SGD": exact(0),
}


class Method(NamedTuple):
    """How a model is fine-tuned: what travels and what the client holds, each a function of the model.

    ``flops`` are a parameter's operations a token: 6 with all gradients, 4 without those of frozen weights, 2 forward.
    """

    up: Callable[[Model], float]  # bytes
    down: Callable[[Model], float]
    trains: Callable[[Model], float]  # parameters with a gradient and an optimiser's state
    bits: float = (
        16  # of a weight on the client; with fewer than 16, embeddings, head and norms keep 16
    )
    flops: float = 4
    activations: str = (
        "q + v"  # "everything", or the adapters' targets; "" if nothing is kept for a way back
    )


def lora_parameters(model: Model, rank: int, targets: Sequence[str] | str | None = None) -> int:
    """Return the number of parameters of LoRA adapters.

    Args:
        model: The model.
        rank: The rank of each adapter.
        targets: Layers as peft's ``target_modules`` names them, "q + v", or None for all linear layers.

    """
    check_whole(1, rank=rank)
    return rank * sum(
        int(layer.count) * (layer.inputs + layer.outputs) for layer in targets_of(model, targets)
    )


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
    check_whole(1, rank=rank)
    if not (is_number(bits) and 1 <= bits <= 32):
        raise ValueError(
            f"bits={bits!r} must be those of a frozen weight, from 1 to 32. Try 16, 8, or qlora()"
        )
    targets = "all-linear" if everywhere else "q + v"

    def size(model):
        return lora_parameters(model, rank, targets)

    return Method(
        lambda model: 2 * size(model),
        lambda model: 2 * size(model),
        size,
        bits,
        activations=targets,
    )


def qlora(rank: int = 8, *, everywhere: bool = False) -> Method:
    """LoRA over weights of 4 bits, Dettmers et al. 2023: what travels is the same, what the client holds is not."""
    return lora(rank, everywhere=everywhere, bits=NF4_BITS)


def fedkseed(seeds: int = SEEDS, steps: int = STEPS) -> Method:
    """A scalar a seed, and a seed and a scalar for each of the steps; two forward passes, and nothing is kept.

    The paper's 18 kB are both ways together; here all of them go up, which is the slower way.
    """
    size = SCALAR * seeds + 2 * SCALAR * steps
    return Method(
        lambda model: size, lambda model: SCALAR * seeds, lambda model: 0, flops=4, activations=""
    )


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
    optimiser: str = "AdamW",
    price: float | None = None,
    currency: str = "EUR",
) -> pd.DataFrame:
    """A client's round, and the whole run: a row a figure, ``part, figure, value, low, high, unit, basis``.

    A round is one pass over ``examples`` texts of ``length`` tokens, ``batch`` at a time; ``per_round`` clients take part in
    each of ``rounds``.  With ``checkpoint`` only what comes into a block is kept, and computed again on the way back.
    ``optimiser`` is one of OPTIMISERS.  ``price`` is what a gigabyte that travels costs in ``currency``, by the reader's own
    tariff; the package knows none.
    """
    check_whole(
        1, examples=examples, length=length, batch=batch, rounds=rounds, per_round=per_round
    )
    if price is not None and not (is_number(price) and price >= 0):
        raise ValueError(
            f"price={price!r} must be at least 0: {currency} for a gigabyte that travels. Try your own tariff"
        )
    up, down = exact(method.up(model)), exact(method.down(model))
    seconds = {"sending": up / link.rate("up"), "fetching": down / link.rate("down")}
    parts = memory(
        model, method, batch * length, length, checkpoint=checkpoint, optimiser=optimiser
    )
    again = 4 / 3 if checkpoint and method.activations else 1
    seconds["computing"] = flops(model, method, examples * length, length) * again / device.speed
    radio = Estimate(RADIO_WATTS, RADIO_WATTS / 2, RADIO_WATTS * 2, "assumed")
    joules = (
        seconds["computing"] * device.power + (seconds["sending"] + seconds["fetching"]) * radio
    )
    all_bytes = (up + down) * rounds * per_round
    longest = seconds["sending"] + seconds["fetching"] + seconds["computing"]
    rows = [("bytes of a round", "up", up, "B"), ("bytes of a round", "down", down, "B")]
    rows += [("seconds of a round", name, one, "s") for name, one in seconds.items()]
    rows += [("memory", name, one, "B") for name, one in parts.items()]
    rows += [("memory", "in all", total(parts), "B"), ("energy of a round", "in all", joules, "J")]
    rows += [
        ("whole run", "bytes", all_bytes, "B"),
        ("whole run", "seconds", longest * rounds, "s"),
    ]
    rows += [("whole run", "energy", joules * rounds * per_round, "J")]
    if price is not None:
        rows += [("whole run", "money", all_bytes * exact(price / 1e9, "assumed"), currency)]
    return _table(rows)


def flops(model: Model, method: Method, tokens: int, length: int = 0) -> Estimate:
    """Operations on so many tokens: ``method.flops`` a parameter and token.  Kaplan et al. 2020, section 2.1.

    Attention over texts of ``length`` tokens is only in the upper end.  Of an encoder-decoder every token goes through both
    halves, which is too much where texts are long and answers short.  Of experts a token meets a few.
    """
    value = method.flops * model.computed * tokens
    attention = 2 * method.flops * length * model.heads * model.head_width * model.blocks * tokens
    return Estimate(value, 0.95 * value, 1.15 * value + attention, "cited")


def memory(
    model: Model,
    method: Method,
    tokens: int,
    length: int = 0,
    *,
    checkpoint: bool = False,
    optimiser: str = "AdamW",
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Estimate]:
    """Return the bytes that a client holds, by part.

    Training in mixed precision needs 16 to 18 bytes for each trained parameter of a model with weights of 16 bits (2): a
    copy in 32 bits (4), a gradient (2, or 4 as PyTorch's autocast has it), and the optimiser's state (8 for AdamW).  The
    first is ZeRO's count, Rajbhandari et al. 2020.  Adapters are held in 32 bits alone.

    Args:
        model: The model.
        method: How it is fine-tuned.  With fewer than 16 bits, the linear layers and experts have them, and embeddings,
            head and norms keep 16.  The upper end is peft's ``prepare_model_for_kbit_training``, which gives those 32,
            with NF4's scales not quantised again, and with experts in 16 bits, which bitsandbytes leaves alone.
        tokens: Tokens of a step, in all texts together.
        length: Tokens of a text, which matter where attention keeps its matrix; 0 leaves that out.
        checkpoint: Whether only what comes into a block is kept.
        optimiser: One of OPTIMISERS.
        dtype: The type of activations.

    Raises:
        ValueError: If the texts are longer than the model reads, or the optimiser is not known.

    """
    check_whole(1, tokens=tokens)
    check_whole(0, length=length)
    if model.positions and length > model.positions:
        told = (
            f"length={length} must be at most the {model.positions} tokens that {model.model} reads"
        )
        raise ValueError(f"{told}. Try length={model.positions}, or a model with more positions")
    if optimiser not in OPTIMISERS:
        raise ValueError(
            f"optimiser={optimiser!r} must be known. Try one of {', '.join(map(repr, OPTIMISERS))}"
        )
    trained, state = method.trains(model), OPTIMISERS[optimiser]
    if optimiser == "AdamW, 8 bits" and method.activations != "everything":
        state = state._replace(
            high=8.0
        )  # bitsandbytes leaves tensors below 4,096 numbers in 32 bits, as adapters may be
    parts = {"weights": _weights(model, method.bits)}
    if trained:
        parts["copy in 32 bits" if method.activations == "everything" else "adapters"] = exact(
            4 * trained
        )
        parts["gradients"] = Estimate(4 * trained, 2 * trained, 4 * trained, "cited")
        parts["optimiser"] = state * trained
    parts["activations"] = _activations(model, method, tokens, length, checkpoint, dtype)
    if model.head:  # in 16 bits, and once more in 32 with a gradient
        logits = (6.0 if method.activations else 2.0) * model.vocabulary * tokens
        parts["logits"] = Estimate(logits, logits / 3, 5 / 3 * logits, "assumed")
    return parts


def _weights(model: Model, bits: float) -> Estimate:
    """Bytes of weights, of which only those of linear layers and experts may have fewer than 16 bits."""
    if bits >= 16:
        return exact(model.parameters * bits / 8)
    rest = model.parameters - model.linear - model.experts
    value = (model.linear + model.experts) * bits / 8 + 2 * rest
    single = NF4_SINGLE_BITS if bits == NF4_BITS else bits
    return Estimate(value, value, model.linear * single / 8 + 2 * model.experts + 4 * rest, "cited")


def _activations(
    model: Model, method: Method, tokens: int, length: int, checkpoint: bool, dtype: torch.dtype
) -> Estimate:
    """Bytes that are kept for the way back, or that live in a block if there is none."""
    short, long = (
        saved_activations(model, method.activations or "everything", tokens, n, dtype)
        for n in (0, length)
    )
    if not method.activations:  # of what a block would keep, about half lives at once
        return Estimate(short.block / 2, short.block / 4, long.block, "assumed")
    inputs = model.blocks * model.width * dtype.itemsize * tokens
    few, many = (inputs + one.block if checkpoint else one.network for one in (short, long))
    return Estimate(many, 0.9 * few, 1.3 * many, "measured")


def split_activations(model: Model, tokens: int, bytes_each: int = 4) -> int:
    """Bytes that cross the cut of a model in split learning, one way, for so many tokens of a step."""
    return tokens * model.width * bytes_each


def total(parts: dict[str, Estimate]) -> Estimate:
    first, *others = parts.values()
    for one in others:
        first = first + one
    return first


def fits(parts: dict[str, Estimate], device: Device) -> str:
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
    return Device(
        "this computer", speed, 0.6, 1.1, room, *watts, 0, "measured", "a product of matrices"
    )


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

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
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


def _table(rows: list[tuple[str, str, Estimate, str]]) -> pd.DataFrame:
    import pandas as pd

    columns = ("part", "figure", "value", "low", "high", "unit", "basis")
    told = [
        (part, name, one.value, one.low, one.high, unit, one.basis)
        for part, name, one, unit in rows
    ]
    return pd.DataFrame(told, columns=columns)
