"""Read the shapes of a transformer from its configuration.

transformers builds the network without memory for its weights, and its layers are counted. So there
is no formula per family of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from torch import nn

from fedlab.core.quiet import quiet
from fedlab.system.devices import TABLES
from fedlab.system.transformer_config import read_config
from fedlab.system.transformer_network import (
    around_blocks,
    blocks_in_order,
    build_network,
    is_linear,
    last_part,
    without_numbers,
)

# The layers of "q + v" by their names in transformers: separate ones, or one together with the key.
# fmt: off
QUERY_VALUE = (
    "q", "v", "q_proj", "v_proj", "query", "value", "query_proj", "value_proj", "q_lin", "v_lin",
)
# fmt: on
FUSED = ("c_attn", "qkv_proj", "query_key_value", "Wqkv")


class Layer(NamedTuple):
    """All linear layers of one name and shape.

    Attributes:
        name: Name within a block, as in transformers, without numbers.
        inputs: Number of inputs.
        outputs: Number of outputs.
        kind: "linear", "expert" or "router".
        count: Number of layers that hold weights.
        passes: Number of layers that a token goes through.
    """

    name: str
    inputs: int
    outputs: int
    kind: str
    count: float
    passes: float


class Block(NamedTuple):
    """The numbers of parameters of a block.

    Attributes:
        held: Parameters of the block; 0 if it repeats an earlier block.
        computed: Parameters that a token is multiplied with.
        linear: Weights of linear layers, which bitsandbytes stores in fewer bits.
        experts: Weights of experts.
    """

    held: int
    computed: float
    linear: int
    experts: int


@dataclass(frozen=True)
class Model:
    """The shapes of a transformer, made by ``shapes``.

    Attributes:
        model: Name of the model.
        family: transformers' ``model_type``.
        blocks: Number of blocks; those of an encoder-decoder are in both halves.
        width: Size of the hidden states.
        heads: Number of attention heads.
        head_width: Size of a head.
        vocabulary: Number of tokens of the vocabulary.
        positions: Largest number of tokens of a text; 0 without a limit.
        tied: The table of embeddings also writes the words.
        head: Parameters of the layer that writes words; 0 if there is none.
        parameters: Number of all parameters.
        source: Reference of the configuration.
        layers: Linear layers of all blocks, and those that fit the embeddings to them.
        stack: Blocks in order; an encoder-decoder has the encoder's first.
        config: transformers' configuration.
    """

    model: str
    family: str
    blocks: int
    width: int
    heads: int
    head_width: int
    vocabulary: int
    positions: int
    tied: bool
    head: int
    parameters: int
    source: str
    layers: tuple[Layer, ...] = field(repr=False)
    stack: tuple[Block, ...] = field(repr=False)
    config: Any = field(repr=False, compare=False)

    @property
    def computed(self) -> int:
        """Return the number of parameters that each token is multiplied with.

        The layer that writes words counts, tables of embeddings do not. Experts count as often as a
        token is routed to one.
        """
        in_layers = sum(layer.inputs * layer.outputs * layer.passes for layer in self.layers)
        return round(in_layers) + self.head

    @property
    def linear(self) -> int:
        """Return the number of weights of linear layers, which bitsandbytes compresses."""
        return sum(block.linear for block in self.stack)

    @property
    def experts(self) -> int:
        """Return the number of weights in all experts."""
        return sum(block.experts for block in self.stack)


def shapes(source: Any) -> Model:
    """Return the shapes of the model that a configuration describes.

    Encoders are counted as transformers' ``AutoModel`` builds them, without a layer that writes
    words. Decoders and encoder-decoders have that layer, unless ``architectures`` names the model
    without. A publisher's own code is never run.

    Args:
        source: Configuration of transformers, its dict, a ``config.json``, a folder with one,
            "minilm", or a name on the Hugging Face hub that ``python -m fedlab models NAME`` has
            fetched. Nothing is downloaded.

    Returns:
        The model, with as many ``parameters`` as transformers' own network.

    Raises:
        FileNotFoundError: If there is no such file, folder or fetched model.
        ValueError: If the configuration is no language model's, or has something that is not
            understood.

    Example:
        >>> shapes({"model_type": "gpt2", "tie_word_embeddings": False}).parameters
        163037184
    """
    config, untied = read_config(source)
    name = getattr(config, "_name_or_path", "") or config.model_type
    return _count(config, untied, name, "its configuration")


@cache
def models() -> Mapping[str, Model]:
    """Return the models of ``tables/models.json`` by name; each is counted at its first use.

    Example:
        >>> models()["GPT-2"].blocks
        12
    """
    return _Models(json.loads((TABLES / "models.json").read_text(encoding="utf-8")))


class _Models(Mapping):
    """Models by name, counted at their first use."""

    def __init__(self, rows: dict[str, dict]):
        self.rows, self.counted = rows, {}

    def __getitem__(self, name: str) -> Model:
        if name not in self.counted:
            row = self.rows[name]
            self.counted[name] = _count(*read_config(row["config"]), name, row["source"])
        return self.counted[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def targets_of(model: Model, targets: Any = None) -> tuple[Layer, ...]:
    """Return the linear layers that adapters sit on.

    Args:
        model: The model.
        targets: Names as in peft's ``target_modules``, such as ``["q_proj", "mlp.c_proj"]``;
            "q + v" for query and value, or the layer that holds both; "all-linear" or None for all.

    Returns:
        The layers.

    Raises:
        ValueError: If a name is no linear layer's.

    Example:
        >>> [layer.name for layer in targets_of(models()["GPT-2"], "q + v")]
        ['attn.c_attn']
    """
    linear = tuple(layer for layer in model.layers if layer.kind == "linear")
    names = ", ".join(dict.fromkeys(layer.name for layer in linear))
    if targets is None or targets == "all-linear":
        return linear
    if targets == "q + v":
        separate, fused = (
            tuple(layer for layer in linear if last_part(layer.name) in known)
            for known in (QUERY_VALUE, FUSED)
        )
        if not separate and not fused:
            raise ValueError(
                f"{model.model} has no query and value by a known name. Try targets among {names}"
            )
        return separate or fused
    if isinstance(targets, str) or not targets:
        raise ValueError(
            f"targets={targets!r} must be a list of names, or 'all-linear'. Try names among {names}"
        )
    for name in targets:
        kinds = {layer.kind for layer in model.layers if _is_called(layer, name)}
        if not kinds:
            raise ValueError(f"targets has {name!r}: {model.model} has the layers {names}")
        if kinds != {"linear"}:
            raise ValueError(
                f"targets has {name!r}: adapters sit on linear layers, not on experts and routers. "
                f"Try {names}"
            )
    return tuple(layer for layer in linear if any(_is_called(layer, name) for name in targets))


def _is_called(layer: Layer, name: str) -> bool:
    """Return whether a name of peft's ``target_modules`` means this layer."""
    return layer.name == name or layer.name.endswith(f".{name}")


# -- From a network to its shapes


def _count(config: Any, untied: bool, name: str, source: str) -> Model:
    """Count the layers of a network, and refuse layers that are not understood."""
    with quiet():
        network = build_network(config)
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise ValueError(
            f"{config.model_type}: num_attention_heads={heads!r} must be one number. "
            "Try a model of which each block has attention"
        )
    layers, stack = _layers_and_blocks(network, config)
    output, table = network.get_output_embeddings(), network.get_input_embeddings()
    head = 0 if output is None else output.weight.numel()
    return Model(
        model=name,
        family=config.model_type,
        blocks=len(stack),
        width=config.hidden_size,
        heads=heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        positions=_positions(network, config),
        tied=output is not None and output.weight is table.weight and not untied,
        head=head,
        parameters=sum(p.numel() for p in network.parameters()) + head * untied,
        source=source,
        layers=layers,
        stack=stack,
        config=config,
    )


def _layers_and_blocks(
    network: nn.Module, config: Any
) -> tuple[tuple[Layer, ...], tuple[Block, ...]]:
    """Return the linear layers of a network, and the blocks in the order of a token."""
    order, stack = blocks_in_order(network), []
    seen: set[nn.Module] = set()
    layers = {layer[:4]: layer for layer in _layers(around_blocks(network), config)}
    in_full_precision = network._keep_in_fp32_modules or ()  # bitsandbytes leaves these as they are
    for block in order:
        is_new, sizes = block not in seen, {"linear": 0, "expert": 0, "router": 0}
        inside = _layers(block.named_modules(), config)
        for layer in inside:
            known = layers.get(layer[:4], layer._replace(count=0, passes=0))
            count, passes = known.count + layer.count * is_new, known.passes + layer.passes
            layers[layer[:4]] = layer._replace(count=count, passes=passes)
            if is_new and last_part(layer.name) not in in_full_precision:
                sizes[layer.kind] += layer.inputs * layer.outputs * layer.count
        held = sum(p.numel() for p in block.parameters()) if is_new else 0
        computed = sum(layer.inputs * layer.outputs * layer.passes for layer in inside)
        stack.append(Block(held, computed, sizes["linear"], sizes["expert"]))
        seen.add(block)
    return tuple(layers.values()), tuple(stack)


def _layers(modules: Iterable[tuple[str, nn.Module]], config: Any) -> list[Layer]:
    """Return the matrices of named modules that tokens are multiplied with."""
    layers = []
    for path, module in modules:
        name = without_numbers(path)
        num_experts = getattr(module, "num_experts", None)
        for key, p in module.named_parameters(recurse=False):
            if p.dim() == 1 or isinstance(module, nn.Embedding):
                continue
            outputs, inputs = p.shape[-2:]
            if is_linear(module) and "experts" not in path.split("."):
                ends = (inputs, outputs) if isinstance(module, nn.Linear) else (outputs, inputs)
                layers.append(Layer(name, *ends, "linear", 1, 1))
            elif p.dim() == 3 and len(p) == num_experts:
                passes = _experts_per_token(config)
                layers.append(Layer(f"{name}.{key}", inputs, outputs, "expert", len(p), passes))
            elif "bias" in key and len(p) == num_experts:
                continue
            elif last_part(name) in ("gate", "router") and inputs == config.hidden_size:
                layers.append(Layer(name, inputs, outputs, "router", 1, 1))
            else:
                raise ValueError(
                    f"{config.model_type}: {type(module).__name__}.{key} {tuple(p.shape)} must be "
                    "of a layer that is known: an embedding, linear layer, norm or expert. "
                    "Try a model of these"
                )
    return layers


def _experts_per_token(config: Any) -> int:
    """Return the number of experts that a token is routed to."""
    number = getattr(config, "num_experts_per_tok", None)
    if not isinstance(number, int):
        raise ValueError(
            f"{config.model_type}: num_experts_per_tok={number!r} must be the number of experts "
            "that a token is routed to. Try a configuration that has it"
        )
    return number


def _positions(network: nn.Module, config: Any) -> int:
    """Return the largest length of a text: rows of a table of positions, or that of training."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Embedding) and ("position" in path or path.endswith("wpe")):
            if module.padding_idx is None:
                return module.num_embeddings - getattr(module, "offset", 0)
            return module.num_embeddings - (module.padding_idx + 1)
    return max(getattr(config, "max_position_embeddings", None) or 0, 0)
