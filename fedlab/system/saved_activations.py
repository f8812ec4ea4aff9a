"""Count the bytes that a training step saves for the backward pass, without numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from fedlab.core.quiet import quiet
from fedlab.system.shapes import Model, targets_of
from fedlab.system.transformer_config import one_line
from fedlab.system.transformer_network import (
    around_blocks,
    blocks_of,
    build_network,
    is_linear,
    without_numbers,
)

LENGTHS = (16, 32)  # tokens of the two texts that walk through a network


class SavedActivations(NamedTuple):
    """The bytes that a training step saves for the backward pass.

    Attributes:
        network: Bytes of the whole network.
        block: Bytes of the block that saves most.
    """

    network: float
    block: float


def saved_activations(
    model: Model, trained: Any, tokens: int, length: int = 0, dtype: torch.dtype = torch.bfloat16
) -> SavedActivations:
    """Return the bytes that a training step saves, without checkpointing and dropout.

    PyTorch walks forward through the network without numbers, with two short texts, and the tensors
    that autograd saves are added up. Each does not depend on the length of a text, grows with it,
    or grows with its square. Attention has a mask, as texts of unequal length need one. The input
    of the layer that writes words counts, its output does not.

    Args:
        model: The model.
        trained: "everything", or the ``targets`` that adapters sit on.
        tokens: Tokens of a step, in all texts together.
        length: Tokens of a text, which matter if attention saves its matrix.
        dtype: The type of weights and activations.

    Returns:
        Bytes of the network, and of the block that saves most.

    Raises:
        ValueError: If the network cannot be walked through in this way.
    """
    chosen = trained
    if trained != "everything":
        chosen = frozenset(layer.name for layer in targets_of(model, trained))
    key = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    coefficients = _coefficients(model, key, chosen, dtype)
    return SavedActivations(
        *(once + each * tokens + pair * tokens * length for once, each, pair in coefficients)
    )


@cache
def _coefficients(
    model: Model, key: str, chosen: Any, dtype: torch.dtype
) -> list[tuple[float, float, float]]:
    """Return bytes saved once, per token, and per pair of tokens, for network and block.

    ``key`` distinguishes configurations of equal shapes in the cache.
    """
    from torch._subclasses import FakeTensorMode

    with quiet(), FakeTensorMode():
        network = build_network(model.config, dtype, "cpu").eval()
        network.requires_grad_(chosen == "everything")
        if chosen != "everything":
            blocks = [block.named_modules() for block in blocks_of(network)]
            for modules in (around_blocks(network), *blocks):
                for path, module in modules:
                    if is_linear(module):
                        module.weight.requires_grad_(without_numbers(path) in chosen)
        try:
            walks = [_walk(network, length) for length in LENGTHS]
            parts = [_fit(near, far) for near, far in zip(*walks, strict=True)]
        except Exception as error:  # of whatever a network's code does with numbers
            raise ValueError(
                f"{model.model}: saved activations cannot be counted for {model.family} "
                f"({one_line(error)}). Try a method without a backward pass, such as FedKSeed"
            ) from error
    around, *blocks = parts
    return [
        tuple(map(sum, zip(around, *blocks, strict=True))),
        max(blocks, key=lambda block: block[1:]),
    ]


def _fit(near: Sequence[int], far: Sequence[int]) -> tuple[float, float, float]:
    """Return bytes by their growth with the length of a text: none, linear, square."""
    short, long = LENGTHS
    total, ratio = [0.0, 0.0, 0.0], long / short
    for small, large in zip(near, far, strict=True):
        if not small <= large <= small * ratio**2:
            raise ValueError(f"{small} bytes of {short} tokens become {large} of {long}")
        if large < small * ratio:  # a part does not depend on the length
            each, pair = (large - small) / (long - short), 0.0
        else:
            pair = (large - small * ratio) / (long**2 - long * short)
            each = small / short - pair * short
        term = (small - each * short - pair * short**2, each, pair)
        total = [a + b for a, b in zip(total, term, strict=True)]
    return tuple(total)


def _walk(network: nn.Module, length: int) -> list[list[int]]:
    """Return the bytes of each saved tensor, around the blocks and in each block.

    Only the first of several equal blocks is walked through.
    """
    lasting = {p.untyped_storage()._cdata for p in (*network.parameters(), *network.buffers())}
    saved: dict[int, Any] = {}  # storages by address
    seen: dict[tuple, tuple] = {}  # by kind of block: addresses and output
    blocks: list[list[int]] = []  # addresses of each block

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in lasting:
            # The storage is held, so that its address is not used again.
            saved.setdefault(storage._cdata, storage)
        return tensor

    forwards = [(block, block.forward) for block in blocks_of(network)]
    for block, forward in forwards:
        block.forward = _walk_once(_kind_of(block), forward, saved, seen, blocks)
    text = torch.zeros(1, length, dtype=torch.long)
    answer = {"decoder_input_ids": text} if network.config.is_encoder_decoder else {}
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(input_ids=text, use_cache=False, **answer)
    for block, forward in forwards:
        block.forward = forward
    within = {address for addresses, _ in seen.values() for address in addresses}
    around = [address for address in saved if address not in within]
    return [[saved[address].nbytes() for address in part] for part in (around, *blocks)]


def _kind_of(block: nn.Module) -> tuple:
    """Return a key that equal blocks share."""
    parameters = ((name, p.shape, p.requires_grad) for name, p in block.named_parameters())
    return type(block), tuple(parameters)


def _walk_once(
    kind: tuple, forward: Callable, saved: dict, seen: dict, blocks: list[list[int]]
) -> Callable:
    """Return a forward that repeats the output and the tensors of the first equal block."""

    def walk(*args, **kwargs):
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        key = kind, any(tensor.requires_grad for tensor in tensors)
        if key not in seen:
            before = len(saved)
            output = forward(*args, **kwargs)
            seen[key] = list(saved)[before:], output
        blocks.append(seen[key][0])
        return seen[key][1]

    return walk
