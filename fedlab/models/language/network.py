"""The module of a task: a transformer over token numbers or cached activations, and a head."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import vector_to_parameters
from torch.utils.checkpoint import checkpoint

from fedlab.models.adapters import Trainable
from fedlab.models.blocks import blocks
from fedlab.models.language.load import LanguageModel, base_network, num_positions


@dataclass(frozen=True, eq=False)
class ModelFactory:
    """A function that builds the module of a task; all its modules share the frozen weights.

    Attributes:
        model: The language model.
        trainable: The function that marks the parameters that train, such as ``lora(8)``.
        outputs: Number of classes; None: the model's own head for language modelling.
        gradient_checkpointing: Store only the input of each block, and recompute the block in the
            backward pass.
        head: Initial parameters of the head; None: random.
        row: Initial trainable parameters ``[d]``; None: as ``trainable`` makes them.
        start: First block of the module, whose cached input replaces token numbers. 0: the whole
            model. None: the head alone.
    """

    model: LanguageModel
    trainable: Trainable
    outputs: int | None
    gradient_checkpointing: bool = False
    head: Tensor | None = None
    row: Tensor | None = None
    start: int | None = 0

    def __call__(self) -> nn.Module:
        width = self.model.width
        if self.start is None:
            head = nn.Linear(width, self.outputs)
            return self._initialize(nn.Sequential(OrderedDict(head=head)))
        network = share_parameters(self.model.network)
        network = network if self.outputs is None else base_network(network)
        self.trainable(network)
        backbone = Backbone(network, self.model.kind, self.start, self.gradient_checkpointing)
        if self.outputs is None:
            return self._initialize(LMHead(backbone))
        return self._initialize(Classifier(backbone, width, self.outputs))

    def _initialize(self, module: nn.Module) -> nn.Module:
        """Write the initial parameters that were given into the module."""
        if self.head is not None:
            vector_to_parameters(self.head.cpu().clone(), module.head.parameters())
        if self.row is not None:
            trained = [p for p in module.parameters() if p.requires_grad]
            vector_to_parameters(self.row.cpu().to(trained[0].dtype, copy=True), trained)
        return module


class Backbone(nn.Module):
    """A transformer over token numbers, or over the cached input of one of its blocks.

    It reads token numbers ``[B, L]``, or activations ``[B, L, width + 1]`` whose last feature is
    1 for a token and 0 for padding. Padding beyond the longest text of a batch is not computed.
    """

    def __init__(self, network: nn.Module, kind: str, start: int, gradient_checkpointing: bool):
        super().__init__()
        self.network, self.kind = network, kind
        if start:
            drop_lower_blocks(network, start)
            first = next(blocks(network).children())
            first.register_forward_pre_hook(self._resume, with_kwargs=True)
        for block in blocks(network) if gradient_checkpointing else ():
            recompute_block(block)

    def forward(self, x: Tensor) -> tuple[Any, Tensor, int]:
        """Return the network's output, a mask of the tokens, and the length of a prompt."""
        arguments, is_token, prompt_length = self.inputs(x)
        return self.network(**arguments), is_token, prompt_length

    def inputs(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor, int]:
        """Return the network's arguments, a mask of the tokens, and the length of a prompt."""
        is_token = x[..., -1] > 0 if x.is_floating_point() else x >= 0
        longest = max(1, int(is_token.any(0).sum()))
        x, is_token = x[:, :longest], is_token[:, :longest]
        arguments = self._embeds(x) if x.is_floating_point() else {"input_ids": x.clamp(min=0)}
        prompt_length, attention_mask = 0, is_token
        if hasattr(self.network, "prompt"):
            prompt_length = self.network.prompt.num_embeddings
            arguments = self._with_prompt(arguments["input_ids"])
            attention_mask = F.pad(is_token, (prompt_length, 0), value=True)
        # One row per text, so that the tables of several clients can be stacked.
        family, positions = self.network.config.model_type, attention_mask.shape[1]
        if family in ("bert", "gpt2"):
            ids = torch.arange(positions, device=x.device)
            arguments["position_ids"] = ids.expand(len(x), -1)
        if family == "bert":
            arguments["token_type_ids"] = torch.zeros_like(arguments["position_ids"])
        return arguments | {"attention_mask": attention_mask.long()}, is_token, prompt_length

    def _embeds(self, x: Tensor) -> dict[str, Tensor]:
        """Return embeddings that the hook will replace by the cached input of the first block."""
        self.cached = x[..., :-1].to(self.network.dtype)
        width = self.network.get_input_embeddings().weight.shape[1]
        if width == self.cached.shape[-1]:
            return {"inputs_embeds": self.cached}
        return {"inputs_embeds": self.cached.new_zeros(*x.shape[:2], width)}

    def _with_prompt(self, token_ids: Tensor) -> dict[str, Tensor]:
        """Return embeddings of the prompt, followed by the embeddings of the texts."""
        length, longest = self.network.prompt.num_embeddings, token_ids.shape[1]
        limit = num_positions(self.network)
        if limit is not None and length + longest > limit:
            raise ValueError(
                f"prompt(length={length}) must fit before the texts (with {longest} tokens of a "
                f"text it exceeds the {limit} tokens of the model). Try "
                f"length={max(limit - length, 1)} for the texts, or a shorter prompt"
            )
        places = torch.arange(length, device=token_ids.device).expand(len(token_ids), -1)
        prompt = self.network.prompt(places)
        embedded = self.network.get_input_embeddings()(token_ids)
        return {"inputs_embeds": torch.cat([prompt.to(embedded), embedded], 1)}

    def _resume(self, block, args, kwargs):
        """Replace the input of the first block by the cached one."""
        if args:
            return (self.cached, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self.cached}


class Classifier(nn.Module):
    """A linear head on one vector per text."""

    def __init__(self, backbone: Backbone, width: int, outputs: int):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """Return the mean over a text's tokens ``[B, width]``; for a decoder, its last token.

        Only the last token of a decoder depends on the whole text.
        """
        output, is_token, prompt_length = self.backbone(x)
        hidden = output.last_hidden_state[:, prompt_length:].to(self.head.weight.dtype)
        if self.backbone.kind == "decoder":
            return hidden[torch.arange(len(hidden)), is_token.sum(1) - 1]
        share = is_token / is_token.sum(1, keepdim=True)
        return (share.to(hidden.dtype)[:, None] @ hidden)[:, 0]


class LMHead(nn.Module):
    """The logits ``[B, L, vocabulary]`` of the model's own head for language modelling.

    An encoder-decoder reads the first half of the columns, and its logits are for the second.
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        network = self.backbone.network
        if network.config.is_encoder_decoder:
            first, second = x.chunk(2, 1)
            start = torch.full_like(second[:, :1], decoder_start(network))
            shifted = torch.cat([start, second[:, :-1].clamp(min=0)], 1)
            logits = network(**self.backbone.inputs(first)[0], decoder_input_ids=shifted).logits
        else:
            output, _, prompt_length = self.backbone(x)
            logits = output.logits[:, prompt_length:]
        # A loss in half precision would be rounded to 1 %.
        return logits.float() if logits.dtype.itemsize < 4 else logits


def drop_lower_blocks(network: nn.Module, start: int) -> None:
    """Remove the blocks before ``start`` from a network; the others keep their names."""
    layers = blocks(network)
    first, resumed = layers[0], layers[start]
    for i in range(start):
        del layers._modules[str(i)]
    # The first block of T5 and its relatives holds the relative positions of all blocks.
    for name, module in first.named_modules():
        if getattr(module, "has_relative_attention_bias", False):
            successor = resumed.get_submodule(name)
            for table, child in module.named_children():
                if table.endswith("relative_attention_bias") and not hasattr(successor, table):
                    setattr(successor, table, child)
            successor.has_relative_attention_bias = True


def share_parameters(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters lie in the same memory."""
    alias = {id(p): nn.Parameter(p.data, requires_grad=False) for p in network.parameters()}
    return copy.deepcopy(network, alias)


def decoder_start(network: nn.Module) -> int | None:
    """Return the first token of an encoder-decoder's decoder, or None if no config names it."""
    configs = network.config, getattr(network, "generation_config", None)
    tokens = (getattr(config, "decoder_start_token_id", None) for config in configs)
    return next((token for token in tokens if token is not None), None)


def recompute_block(block: nn.Module) -> None:
    """Store only a block's input, and recompute the block in the backward pass.

    The recomputation uses the parameters of the forward pass.
    """

    def forward(*args, **kwargs):
        parameters = dict(block.named_parameters())

        def compute(*args, **kwargs):
            del block.forward
            try:
                return functional_call(block, parameters, args, kwargs)
            finally:
                block.forward = forward

        return checkpoint(compute, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    block.forward = forward
