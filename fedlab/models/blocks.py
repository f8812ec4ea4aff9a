"""The blocks of a transformer, their inputs, and tied weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def blocks(network: nn.Module) -> nn.ModuleList:
    """Return the blocks of a transformer; of an encoder-decoder, the encoder's."""
    return named_blocks(network)[1]


def named_blocks(network: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name of the list of blocks, and the list.

    Example:
        >>> network = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
        >>> name, layers = named_blocks(network)
        >>> name, len(layers)
        ('layers', 2)
    """
    return next(
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList)
    )


class _Reached(Exception):  # noqa: N818 - no error
    """A pass has reached the block whose input is wanted."""


def block_input(block: nn.Module, run: Callable[[], Any]) -> Tensor:
    """Return the input of a block while its network runs; the pass stops at the block.

    Args:
        block: The block.
        run: A function that runs the network.
    """
    inputs = []

    def stop(block, args, kwargs):
        inputs.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    hook = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _Reached:
        pass
    finally:
        hook.remove()
    return inputs.pop()


def parameters_before(network: nn.Module, block: nn.Module) -> set[int]:
    """Return the ids of the parameters that a block's input depends on.

    The gradient's graph is searched, since a parameter may be registered anywhere.
    """
    token = torch.ones(1, 1, dtype=torch.int64, device=next(network.parameters()).device)
    frozen = [p for p in network.parameters() if p.is_floating_point() and not p.requires_grad]
    for p in frozen:
        p.requires_grad_()
    try:
        with torch.enable_grad():
            hidden = block_input(block, lambda: network(input_ids=token, attention_mask=token))
    finally:
        for p in frozen:
            p.requires_grad_(False)
    ids, visited = set(), set()
    nodes = [hidden.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in visited:
            visited.add(node)
            ids.add(id(getattr(node, "variable", None)))
            nodes += [before for before, _ in node.next_functions]
    return ids


def tied_names(network: nn.Module, p: nn.Parameter) -> list[str]:
    """Return all names of a parameter in a network: more than one if weights are tied.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> network[1].weight = network[0].weight
        >>> tied_names(network, network[0].weight)
        ['0.weight', '1.weight']
    """
    return [
        name for name, tensor in network.named_parameters(remove_duplicate=False) if tensor is p
    ]
