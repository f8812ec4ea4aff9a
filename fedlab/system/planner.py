"""Plan federated fine-tuning of a large model: bytes, seconds, memory, energy, money.

Every figure follows from the model's shapes and has an interval and a basis: "cited" (a paper's
shapes, a published rate), "measured" on this computer, or "assumed". A figure computed from several
has the weakest basis of them. The methods stand in ``methods``, measurements in ``measurement``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedlab.core.validate import check_whole, is_number
from fedlab.system.devices import RADIO_WATTS, Device, Estimate, Link, exact
from fedlab.system.measurement import measure, this_computer
from fedlab.system.methods import (
    METHODS,
    NF4_BITS,
    NF4_SINGLE_BITS,
    Method,
    fedkseed,
    full,
    largest,
    lora,
    lora_parameters,
    qlora,
)
from fedlab.system.saved_activations import saved_activations
from fedlab.system.shapes import Model, models, shapes

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "METHODS",
    "NF4_BITS",
    "OPTIMISERS",
    "Method",
    "Model",
    "estimate",
    "fedkseed",
    "fits",
    "flops",
    "full",
    "largest",
    "lora",
    "lora_parameters",
    "measure",
    "memory",
    "models",
    "qlora",
    "shapes",
    "split_activations",
    "this_computer",
    "total",
]

# Bytes of an optimiser's state per trained parameter. AdamW's two moments in 8 bits have scales of
# 32 bits per block: of 256 numbers in today's bitsandbytes, of 2,048 in Dettmers et al. 2022.
OPTIMISERS = {
    "AdamW": exact(8),
    "AdamW, 8 bits": Estimate(2 + 8 / 256, 2 + 8 / 2048, 2 + 8 / 256, "cited"),
    "SGD with momentum": exact(4),
    "SGD": exact(0),
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
    """Estimate the costs of a client's round, and of the whole run.

    A round is one pass over the client's texts.

    Args:
        model: Shapes of the model.
        method: Method of fine-tuning, such as ``METHODS["LoRA r=8, q + v"]``.
        device: The client's device.
        link: The client's link.
        examples: Number of texts.
        length: Tokens of a text.
        batch: Texts per training step.
        rounds: Number of rounds.
        per_round: Clients that take part in each round.
        checkpoint: Save only the inputs of blocks, and compute them again on the way back.
        optimiser: One of OPTIMISERS.
        price: Price of a gigabyte that travels, by your own tariff; the package knows none.
        currency: Currency of the price.

    Returns:
        One row per figure: ``part, figure, value, low, high, unit, basis``.

    Raises:
        ValueError: If an argument is out of range, or texts are longer than the model reads.

    Example:
        >>> from fedlab.system.devices import devices, links
        >>> phone, fibre = devices()["phone, flagship"], links()["home fibre"]
        >>> table = estimate(models()["GPT-2"], lora(8), phone, fibre)  # doctest: +SKIP
    """
    check_whole(
        1, examples=examples, length=length, batch=batch, rounds=rounds, per_round=per_round
    )
    if price is not None and not (is_number(price) and price >= 0):
        raise ValueError(
            f"price={price!r} must be at least 0: {currency} for a gigabyte that travels. "
            "Try your own tariff"
        )
    up, down = exact(method.up(model)), exact(method.down(model))
    seconds = {"sending": up / link.rate("up"), "fetching": down / link.rate("down")}
    parts = memory(
        model, method, batch * length, length, checkpoint=checkpoint, optimiser=optimiser
    )
    recomputing = 4 / 3 if checkpoint and method.activations else 1
    operations = flops(model, method, examples * length, length)
    seconds["computing"] = operations * recomputing / device.speed
    radio = Estimate(RADIO_WATTS, RADIO_WATTS / 2, RADIO_WATTS * 2, "assumed")
    on_the_way = seconds["sending"] + seconds["fetching"]
    joules = seconds["computing"] * device.power + on_the_way * radio
    all_bytes = (up + down) * rounds * per_round
    rows = [("bytes of a round", "up", up, "B"), ("bytes of a round", "down", down, "B")]
    rows += [("seconds of a round", name, figure, "s") for name, figure in seconds.items()]
    rows += [("memory", name, figure, "B") for name, figure in parts.items()]
    rows += [("memory", "in all", total(parts), "B"), ("energy of a round", "in all", joules, "J")]
    rows += [
        ("whole run", "bytes", all_bytes, "B"),
        ("whole run", "seconds", (on_the_way + seconds["computing"]) * rounds, "s"),
        ("whole run", "energy", joules * rounds * per_round, "J"),
    ]
    if price is not None:
        rows += [("whole run", "money", all_bytes * exact(price / 1e9, "assumed"), currency)]
    return _table(rows)


def flops(model: Model, method: Method, tokens: int, length: int = 0) -> Estimate:
    """Estimate the operations on tokens: ``method.flops`` per parameter and token.

    Kaplan et al. 2020, section 2.1. A token is routed to a few of the experts. Every token of an
    encoder-decoder goes through both halves, which is too much if texts are long and answers short.

    Args:
        model: Shapes of the model.
        method: Method of fine-tuning.
        tokens: Number of tokens, in all texts together.
        length: Tokens of a text; attention over them is only in the upper end.

    Returns:
        Operations.
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
    """Estimate the bytes that a client holds, by part.

    Training in mixed precision needs 16 to 18 bytes per trained parameter of a model with weights
    of 16 bits (2): a copy in 32 bits (4), a gradient (2, or 4 as in PyTorch's autocast), and the
    optimiser's state (8 for AdamW). The first is ZeRO's count, Rajbhandari et al. 2020. Adapters
    are held in 32 bits alone.

    Args:
        model: Shapes of the model.
        method: Method of fine-tuning. With fewer than 16 bits, the linear layers and experts have
            them, and embeddings, head and norms keep 16. The upper end is peft's
            ``prepare_model_for_kbit_training``, which gives those 32. It also has NF4's scales not
            quantised again, and experts in 16 bits, which bitsandbytes does not compress.
        tokens: Tokens of a step, in all texts together.
        length: Tokens of a text, which matter if attention saves its matrix; 0 leaves that out.
        checkpoint: Save only the inputs of blocks.
        optimiser: One of OPTIMISERS.
        dtype: Type of activations.

    Returns:
        Bytes by part.

    Raises:
        ValueError: If the texts are longer than the model reads, or the optimiser is unknown.
    """
    check_whole(1, tokens=tokens)
    check_whole(0, length=length)
    if model.positions and length > model.positions:
        raise ValueError(
            f"length={length} must be at most the {model.positions} tokens that {model.model} "
            f"reads. Try length={model.positions}, or a model with more positions"
        )
    if optimiser not in OPTIMISERS:
        raise ValueError(
            f"optimiser={optimiser!r} must be known. Try one of {', '.join(map(repr, OPTIMISERS))}"
        )
    trained, state = method.trained_parameters(model), OPTIMISERS[optimiser]
    if optimiser == "AdamW, 8 bits" and method.activations != "everything":
        # bitsandbytes leaves tensors below 4,096 numbers in 32 bits, as adapters may be.
        state = state._replace(high=8.0)
    parts = {"weights": _weights(model, method.bits)}
    if trained:
        copy = "copy in 32 bits" if method.activations == "everything" else "adapters"
        parts[copy] = exact(4 * trained)
        parts["gradients"] = Estimate(4 * trained, 2 * trained, 4 * trained, "cited")
        parts["optimiser"] = state * trained
    parts["activations"] = _activations(model, method, tokens, length, checkpoint, dtype)
    if model.head:  # in 16 bits, and once more in 32 with a gradient
        logits = (6.0 if method.activations else 2.0) * model.vocabulary * tokens
        parts["logits"] = Estimate(logits, logits / 3, 5 / 3 * logits, "assumed")
    return parts


def _weights(model: Model, bits: float) -> Estimate:
    """Return bytes of weights; only linear layers and experts may have fewer than 16 bits."""
    if bits >= 16:
        return exact(model.parameters * bits / 8)
    rest = model.parameters - model.linear - model.experts
    value = (model.linear + model.experts) * bits / 8 + 2 * rest
    single = NF4_SINGLE_BITS if bits == NF4_BITS else bits
    high = model.linear * single / 8 + 2 * model.experts + 4 * rest
    return Estimate(value, value, high, "cited")


def _activations(
    model: Model, method: Method, tokens: int, length: int, checkpoint: bool, dtype: torch.dtype
) -> Estimate:
    """Return bytes saved for the backward pass, or alive in a block if there is none."""
    short, long = (
        saved_activations(model, method.activations or "everything", tokens, n, dtype)
        for n in (0, length)
    )
    if not method.activations:  # about half of a block's saved bytes are alive at once
        return Estimate(short.block / 2, short.block / 4, long.block, "assumed")
    inputs = model.blocks * model.width * dtype.itemsize * tokens
    few, many = (inputs + each.block if checkpoint else each.network for each in (short, long))
    return Estimate(many, 0.9 * few, 1.3 * many, "measured")


def split_activations(model: Model, tokens: int, bytes_each: int = 4) -> int:
    """Return the bytes that cross the cut of split learning in one direction.

    Args:
        model: Shapes of the model.
        tokens: Tokens of a step.
        bytes_each: Bytes of a number.

    Returns:
        Bytes.
    """
    return tokens * model.width * bytes_each


def total(parts: dict[str, Estimate]) -> Estimate:
    """Return the sum of all parts.

    Example:
        >>> total({"weights": exact(2e9), "gradients": exact(1e9)}).value
        3000000000.0
    """
    first, *rest = parts.values()
    for part in rest:
        first = first + part
    return first


def fits(parts: dict[str, Estimate], device: Device) -> str:
    """Return whether memory suffices: "yes", "no", or "perhaps" if the interval has both.

    Example:
        >>> from fedlab.system.devices import devices
        >>> fits({"weights": exact(7e9)}, devices()["phone, flagship"])
        'no'
    """
    need, room = total(parts), device.memory * 1e9
    return "yes" if need.high <= room else "no" if need.low > room else "perhaps"


def _table(rows: list[tuple[str, str, Estimate, str]]) -> pd.DataFrame:
    import pandas as pd

    columns = ("part", "figure", "value", "low", "high", "unit", "basis")
    cells = [
        (part, name, figure.value, figure.low, figure.high, unit, figure.basis)
        for part, name, figure, unit in rows
    ]
    return pd.DataFrame(cells, columns=columns)
