"""Trainable parts of a pretrained transformer: everything, a head, last layers or adapters.

Each function returns a function that takes the frozen ``network`` and makes a part of it
trainable. The LoRA variants inject the layers of peft, so that saved adapters load into peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fedlab.core.quiet import quiet
from fedlab.core.validate import check_whole, is_number
from fedlab.models.blocks import blocks, named_blocks, parameters_before, tied_names

Trainable = Callable[[nn.Module], None]
Targets = Sequence[str] | Literal["all-linear"] | None


def everything() -> Trainable:
    """Train all parameters: full fine-tuning."""
    return lambda network: _train(network.parameters())


def head_only() -> Trainable:
    """Train only the head of a classifier; the network stays frozen."""
    return lambda network: None


def last_layers(k: int) -> Trainable:
    """Train the last ``k`` blocks, and the layers after them.

    Raises:
        ValueError: When the function is applied to a network with fewer blocks.
    """
    check_whole(1, k=k)

    def fit(network):
        layers = blocks(network)
        _check_blocks("k", k, len(layers))
        names, parent = list(dict(network.named_parameters())), named_blocks(network)[0]
        prefix = f"{parent}.{len(layers) - k}."
        first = next(i for i, name in enumerate(names) if name.startswith(prefix))
        # OPT registers its last norm before its blocks.
        norms = [name for name in names[:first] if "norm" in name and not name.startswith(parent)]
        early = parameters_before(network, layers[len(layers) - k])
        parameters = (network.get_parameter(name) for name in (*norms, *names[first:]))
        _train(p for p in parameters if id(p) not in early)

    return fit


def lora(
    rank: int = 8,
    alpha: float | None = None,
    targets: Targets = None,
    last: int | None = None,
    base: bool = False,
) -> Trainable:
    """Train adapters: ``W x + (alpha / rank) B A x``.

    ``A [rank, in]`` is random at first and ``B [out, rank]`` zero. Hu et al. 2022.

    Args:
        rank: Rank of B A.
        alpha: Scale of B A. Default: twice the rank.
        targets: Last names of the layers to adapt, such as ``["query"]``. Default: peft's choice
            for the architecture, mostly query and value. ``"all-linear"``: all linear layers but
            the head for language modelling, as in peft.
        last: Number of blocks, counted from the last, that get adapters. Default: all.
        base: Make the adapted layers' own weights part of the row, for ``flora`` and ``fedex``,
            whose servers move them.

    Raises:
        ValueError: If ``alpha`` is not above 0. When the function is applied to a network: if the
            targets match no layer (the message lists the names), or the rank exceeds a layer's
            width.

    Example:
        >>> from fedlab.models import classifier, tiny
        >>> model = tiny("bert", ["abc"], width=16, depth=1, vocabulary=300)
        >>> task = classifier(model, 2, lora(4, targets=["query"]))
        >>> [tuple(shape) for name, shape in task.shapes.items() if "lora" in name]
        [(4, 16), (16, 4)]
    """
    _check(rank, alpha)

    def fit(network):
        for layer in _inject(network, rank, alpha, targets, last):
            if base:
                whole = layer.get_base_layer()
                if len(names := tied_names(network, whole.weight)) > 1:
                    raise ValueError(
                        f"lora(base=True) must not adapt {names[-1]} (its weight is {names[0]}, "
                        "too, and would move there). Try other targets"
                    )
                _train(whole.parameters(recurse=False))

    return fit


def ffa_lora(
    rank: int = 8, alpha: float | None = None, targets: Targets = None, last: int | None = None
) -> Trainable:
    """Train LoRA's B alone: with a fixed A, the mean of B A is A times the mean of B.

    FFA-LoRA, Sun et al. 2024.

    Args:
        rank: Rank of B A.
        alpha: Scale of B A. Default: twice the rank.
        targets: Last names of the layers to adapt. Default: as in ``lora``.
        last: Number of blocks, counted from the last, that get adapters. Default: all.
    """
    _check(rank, alpha)

    def fit(network):
        # peft makes A trainable when it injects the layer.
        for layer in _inject(network, rank, alpha, targets, last):
            layer.lora_A["default"].weight.requires_grad_(False)

    return fit


def lora_sb(
    rank: int = 8, alpha: float | None = None, targets: Targets = None, last: int | None = None
) -> Trainable:
    """Train a small matrix R between fixed factors: ``W x + (alpha / rank) B R A x``.

    ``R [rank, rank]`` is zero at first. ``A`` and ``B`` are orthonormal: the ``rank`` largest
    singular directions of W. Fed-SB, Singhal et al. 2025.

    Differs: Fed-SB takes the singular directions of a first gradient of the whole model. LoRA-XS
    (Balazy et al. 2024) takes the directions of W, with the singular values in B.

    Args:
        rank: Number of rows and columns of R.
        alpha: Scale of B R A. Default: twice the rank.
        targets: Last names of the layers to adapt. Default: as in ``lora``.
        last: Number of blocks, counted from the last, that get adapters. Default: all.
    """
    _check(rank, alpha)

    def fit(network):
        for layer in _inject(network, rank, alpha, targets, last):
            a, b = layer.lora_A["default"], layer.lora_B["default"]
            w = layer.get_base_layer().weight
            w = (w.mT if layer.fan_in_fan_out else w).detach().float()
            u, _, v = torch.linalg.svd(w, full_matrices=False)
            for p, singular in ((a.weight, v[:rank]), (b.weight, u[:, :rank])):
                p.requires_grad_(False).copy_(singular)
            layer.lora_A["default"] = SmallFactor(a, rank)

    return fit


def prompt(length: int = 10) -> Trainable:
    """Train vectors before the embeddings of each text.

    They start at the embeddings of randomly drawn tokens. Lester et al. 2021.

    Args:
        length: Number of vectors.
    """
    check_whole(1, length=length)

    def fit(network):
        words = network.get_input_embeddings().weight
        network.prompt = nn.Embedding(length, words.shape[1])
        with torch.no_grad():
            drawn = torch.empty(length, dtype=torch.int64).random_(len(words))
            network.prompt.weight.copy_(words[drawn])

    return fit


class SmallFactor(nn.Sequential):
    """The product ``R A x`` in the place where peft expects A."""

    def __init__(self, a: nn.Linear, rank: int):
        super().__init__(a, nn.Linear(rank, rank, bias=False, dtype=a.weight.dtype))
        nn.init.zeros_(self[1].weight)

    @property
    def weight(self) -> Tensor:
        """Return the weight of A."""
        return self[0].weight


def _check(rank: int, alpha: float | None) -> None:
    check_whole(1, rank=rank)
    if alpha is not None and not (is_number(alpha) and alpha > 0):
        raise ValueError(
            f"alpha={alpha!r} must be a number above 0 (it scales the adapter). Try alpha="
            f"{2 * rank}, twice the rank"
        )


def _check_blocks(name: str, count: int, available: int) -> None:
    if count > available:
        raise ValueError(
            f"{name}={count} must be at most {available} (the model has no more blocks). Try "
            f"{name}={available}"
        )


def _train(parameters: Iterable[nn.Parameter]) -> None:
    """Make parameters trainable, as copies: frozen ones are shared between models."""
    for p in parameters:
        if p.dtype.itemsize < 4:
            dtype = str(p.dtype).removeprefix("torch.")
            raise ValueError(
                f"layers must have 32 bits or more to train as a whole (the model has {dtype}). "
                "Try pretrained(name, dtype=torch.float32), or lora without base"
            )
        p.data = p.data.clone()
        p.requires_grad_()


def _inject(
    network: nn.Module, rank: int, alpha: float | None, targets: Targets, last: int | None
) -> list[nn.Module]:
    """Replace the target layers by LoRA layers of peft, the only ones that train."""
    with quiet():
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

    layers = _target_layers(network, targets, last)
    for name, layer in layers.items():
        if rank > min(layer.weight.shape):
            raise ValueError(
                f"rank={rank} must be at most {min(layer.weight.shape)} ({name} is "
                f"{layer.weight.shape[0]} x {layer.weight.shape[1]}). Try a smaller rank"
            )
    # GPT-2's layer is a Conv1D, whose weight is [in, out].
    transposed = {type(layer).__name__ == "Conv1D" for layer in layers.values()}
    if len(transposed) > 1:
        raise ValueError(
            f"targets={targets!r} must be layers of one kind (they are nn.Linear and Conv1D). Try "
            "one kind at a time"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=list(layers),
        fan_in_fan_out=transposed.pop(),
    )
    with warnings.catch_warnings():
        # save_adapter refuses adapters that cannot be merged.
        warnings.filterwarnings("ignore", ".*tie_word_embeddings")
        inject_adapter_in_model(config, network)
    adapted = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
    for layer in adapted:
        # Trained factors have full precision, whatever the base has.
        dtype = torch.promote_types(layer.get_base_layer().weight.dtype, torch.float32)
        layer.lora_A.to(dtype)
        layer.lora_B.to(dtype)
    return adapted


def _target_layers(network: nn.Module, targets: Targets, last: int | None) -> dict[str, nn.Module]:
    """Return the layers to adapt by their whole names."""
    linear = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
    }
    last_names = {_last_name(name) for name in linear}
    available = ", ".join(sorted(name for name in last_names if not name.isdigit()))
    targets = _target_names(network, targets, linear, available)
    unknown = sorted(set(targets) - last_names - set(linear))
    if unknown:
        raise ValueError(
            f"targets={list(targets)} must be names of linear layers ({unknown[0]!r} is none). "
            f"Try some of {available}"
        )
    prefixes = _last_prefixes(network, last)
    layers = {
        name: layer
        for name, layer in linear.items()
        if (name in targets or _last_name(name) in targets) and name.startswith(prefixes)
    }
    if not layers:
        raise ValueError(
            f"targets={list(targets)} must match a layer (last={last} leaves none). Try some of "
            f"{available}"
        )
    return layers


def _target_names(
    network: nn.Module, targets: Targets, linear: dict[str, nn.Module], available: str
) -> Sequence[str]:
    """Return the targets as a list of names."""
    with quiet():
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    if targets is None:
        family = network.config.model_type
        targets = USUAL.get(family)
        if targets is None:
            raise ValueError(
                f"targets=None must be a list of names for a {family} (peft has no usual ones). "
                f"Try some of {available}, or 'all-linear'"
            )
    if targets == "all-linear":
        head = network.get_output_embeddings()
        targets = [name for name, layer in linear.items() if layer is not head]
    if isinstance(targets, str):
        raise ValueError(
            f"targets={targets!r} must be a list of names (a text is one name). Try [{targets!r}]"
        )
    return targets


def _last_prefixes(network: nn.Module, last: int | None) -> tuple[str, ...]:
    """Return the beginnings of the names of layers in the last blocks."""
    if last is None:
        return ("",)
    check_whole(1, last=last)
    parent, layers = named_blocks(network)
    _check_blocks("last", last, len(layers))
    return tuple(f"{parent}.{i}." for i in range(len(layers)))[-last:]


def _last_name(name: str) -> str:
    return name.rpartition(".")[2]
