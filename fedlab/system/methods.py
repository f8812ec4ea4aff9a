"""Methods of fine-tuning a large model: bytes on the way, and numbers that train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedlab.core.validate import check_whole, is_number
from fedlab.system.shapes import Model, targets_of

# Bits of a parameter in QLoRA with double quantisation: 4, and 0.127 for scales.
# Dettmers et al. 2023.
NF4_BITS = 4.127
NF4_SINGLE_BITS = 4.5  # without double quantisation: a scale of 32 bits per 64 parameters
SEEDS, STEPS = 4096, 200  # FedKSeed: directions, and local steps of a round. Qin et al. 2024
SCALAR = 4  # bytes


class Method(NamedTuple):
    """A method of fine-tuning; its sizes are functions of the model.

    Attributes:
        up: Bytes of an upload.
        down: Bytes of a download.
        trained_parameters: Parameters with a gradient and an optimiser's state.
        bits: Bits of a weight on the client. With fewer than 16, embeddings, head and norms keep
            16.
        flops: Operations per parameter and token: 6 with all gradients, 4 without those of frozen
            weights, 2 for a forward pass.
        activations: Layers whose inputs are saved for the backward pass: "everything", or the
            adapters' targets; "" without a backward pass.
    """

    up: Callable[[Model], float]
    down: Callable[[Model], float]
    trained_parameters: Callable[[Model], float]
    bits: float = 16
    flops: float = 4
    activations: str = "q + v"


def lora_parameters(model: Model, rank: int, targets: Sequence[str] | str | None = None) -> int:
    """Return the number of parameters of LoRA adapters.

    Args:
        model: The model.
        rank: The rank of each adapter.
        targets: Layers as peft's ``target_modules`` names them, "q + v", or None for all linear
            layers.

    Returns:
        The number of parameters.
    """
    check_whole(1, rank=rank)
    return rank * sum(
        int(layer.count) * (layer.inputs + layer.outputs) for layer in targets_of(model, targets)
    )


def full(bytes_each: int = 2) -> Method:
    """Return the method that trains and sends all weights."""

    def size(model):
        return bytes_each * model.parameters

    return Method(size, size, lambda model: model.parameters, flops=6, activations="everything")


def largest(share: float = 0.01) -> Method:
    """Return full training whose upload is the largest ``share`` of all changes.

    Each change has 2 bytes, and a position of 4. The download is the whole model.
    """
    if not (is_number(share) and 0 < share <= 1):
        raise ValueError(f"share={share!r} must be above 0 and at most 1. Try 0.01")
    return full()._replace(up=lambda model: 6 * share * model.parameters)


def lora(rank: int = 8, *, everywhere: bool = False, bits: float = 16) -> Method:
    """Return LoRA with adapters of 2 bytes per number.

    Args:
        rank: The rank of each adapter.
        everywhere: Adapters on all linear layers, not only on query and value.
        bits: Bits of a frozen weight, from 1 to 32.

    Returns:
        The method.

    Example:
        >>> lora(8, everywhere=True).activations, qlora().bits
        ('all-linear', 4.127)
    """
    check_whole(1, rank=rank)
    if not (is_number(bits) and 1 <= bits <= 32):
        raise ValueError(
            f"bits={bits!r} must be those of a frozen weight, from 1 to 32. Try 16, 8, or qlora()"
        )
    targets = "all-linear" if everywhere else "q + v"

    def size(model):
        return lora_parameters(model, rank, targets)

    def num_bytes(model):
        return 2 * size(model)

    return Method(num_bytes, num_bytes, size, bits, activations=targets)


def qlora(rank: int = 8, *, everywhere: bool = False) -> Method:
    """Return LoRA over weights of 4 bits (Dettmers et al. 2023).

    Messages are the same as with LoRA; the client needs less memory.
    """
    return lora(rank, everywhere=everywhere, bits=NF4_BITS)


def fedkseed(seeds: int = SEEDS, steps: int = STEPS) -> Method:
    """Return FedKSeed: a scalar per seed down; up also a seed and a scalar per step.

    It has two forward passes and no backward pass, so no activations are saved. The paper's 18 kB
    are both directions together; here all of them go up, which is the slower direction.

    Example:
        >>> fedkseed().up(None)
        17984
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
