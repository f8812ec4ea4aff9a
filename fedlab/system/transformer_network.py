"""Build transformers' network for a configuration, and find its blocks and linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fedlab.system.transformer_config import one_line


def build_network(
    config: Any, dtype: torch.dtype = torch.bfloat16, device: str = "meta"
) -> nn.Module:
    """Build transformers' network; on "meta", its weights take no memory.

    Args:
        config: Configuration of transformers.
        dtype: Type of the weights.
        device: Device of the weights.

    Returns:
        The network, whose weights are not initialised.

    Raises:
        ValueError: If the configuration is no language model's.
    """
    from transformers.initialization import no_init_weights

    family, loader = config.model_type, _loader_of(config)
    try:
        with torch.device(device), no_init_weights():
            network = loader.from_config(config, dtype=dtype, trust_remote_code=False)
        network.tie_weights()
        return network
    except Exception as error:  # of any of transformers' models
        raise ValueError(
            f"{family}: transformers builds no network from this configuration: {one_line(error)}"
        ) from error


def _loader_of(config: Any) -> Any:
    """Return the class of transformers that builds a network with or without a head."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    family, published = config.model_type, (config.architectures or [""])[0]
    loader, endings = transformers.AutoModelForCausalLM, ("ForCausalLM", "LMHeadModel")
    if config.is_encoder_decoder:
        loader = transformers.AutoModelForSeq2SeqLM
        endings = ("ForConditionalGeneration", "LMHeadModel")
    elif family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        loader, endings = transformers.AutoModel, ("",)
    if published and published == auto.MODEL_MAPPING_NAMES.get(family):
        loader, endings = transformers.AutoModel, ("",)
    if published and not published.endswith(endings):
        raise ValueError(
            f"architectures=[{published!r}] must be a language model's ({family} is counted with a "
            "layer that writes words). Try without architectures"
        )
    return loader


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return the blocks of a network; an encoder-decoder has the encoder's first."""
    lists = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    outer = [name for name in lists if not any(name.startswith(f"{around}.") for around in lists)]
    return [block for name in outer for block in lists[name]]


def blocks_in_order(network: nn.Module) -> list[nn.Module]:
    """Return the blocks in the order in which a token goes through them."""
    config, blocks = network.config, blocks_of(network)
    wanted = config.num_hidden_layers
    if config.is_encoder_decoder:
        halves = network.get_encoder(), network.get_decoder()
        wanted = sum(len(blocks_of(half)) for half in halves)
    if config.model_type == "albert" and blocks:  # goes through each group of blocks several times
        return [blocks[k * len(blocks) // wanted] for k in range(wanted)]
    if len(blocks) != wanted or not blocks:
        raise ValueError(
            f"num_hidden_layers={wanted} must be the number of blocks in the network, and it has "
            f"{len(blocks)}. Try a model with at least one block, whose blocks stand in one list"
        )
    return blocks


def around_blocks(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules around the blocks, without a pooler and the layer that writes words."""
    inside = {module for block in blocks_of(network) for module in block.modules()}
    inside.add(network.get_output_embeddings())
    return [
        (path, module)
        for path, module in network.named_modules()
        if module not in inside and path.split(".")[0] != "pooler"
    ]


def is_linear(module: nn.Module) -> bool:
    """Return whether bitsandbytes and peft treat a module as a linear layer."""
    # Conv1D is GPT-2's linear layer, with its weights transposed.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def without_numbers(path: str) -> str:
    """Return the path of a module without the numbers of blocks.

    Example:
        >>> without_numbers("h.3.attn.c_attn")
        'h.attn.c_attn'
    """
    return ".".join(part for part in path.split(".") if not part.isdigit())


def last_part(name: str) -> str:
    """Return the last part of a dotted name.

    Example:
        >>> last_part("attn.c_attn")
        'c_attn'
    """
    return name.rpartition(".")[2]
