"""What of a pretrained transformer trains: everything, only the head, the last layers, or numbers put in between.

Each function gives one that takes the frozen ``network`` and makes that part of it trainable.  ``lora`` and what is akin
are peft's layers, injected into the network, so that what comes out loads into peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fedlab.core import Task, once_per_task
from fedlab.core.quiet import quiet
from fedlab.core.validate import check_whole, is_number

Trainable = Callable[[nn.Module], None]
Targets = Sequence[str] | Literal["all-linear"] | None


def everything() -> Trainable:
    """All parameters, as in fine-tuning before there were adapters."""
    return lambda network: _train(network.parameters())


def head_only() -> Trainable:
    """Nothing but the head that a classifier puts on top."""
    return lambda network: None


def last_layers(k: int) -> Trainable:
    """The last ``k`` blocks, and what follows them."""
    check_whole(1, k=k)

    def fit(network):
        layers = blocks(network)
        if k > len(layers):
            raise ValueError(f"k={k}: the model has {len(layers)} blocks; take as many at most")
        names, within = list(dict(network.named_parameters())), _blocks(network)[0]
        first = next(
            i for i, name in enumerate(names) if name.startswith(f"{within}.{len(layers) - k}.")
        )
        norms = [
            name for name in names[:first] if "norm" in name and not name.startswith(within)
        ]  # OPT's last one
        early = _read_before(network, layers[len(layers) - k])
        _train(
            p
            for name in (*norms, *names[first:])
            if id(p := network.get_parameter(name)) not in early
        )

    return fit


def lora(
    rank: int = 8,
    alpha: float | None = None,
    targets: Targets = None,
    last: int | None = None,
    base: bool = False,
) -> Trainable:
    """``W x + (alpha / rank) B A x`` with ``A [rank, in]`` random and ``B [out, rank]`` zero at first.  Hu et al. 2022.

    ``alpha`` is twice the rank where it is not given.  ``targets`` are the layers' last names, such as "query" (None:
    peft's choice for this architecture, mostly query and value; "all-linear": all but the head that guesses tokens, as in
    peft); only those of the ``last`` blocks, where that is given.
    With ``base`` the adapted layers' own weights are numbers of the row, too: for ``flora`` and ``fedex``, whose server
    moves them.
    Raises ValueError for targets that match nothing, which lists those that exist, and for a rank above a layer's width.
    """
    _check(rank, alpha)

    def fit(network):
        for layer in _inject(network, rank, alpha, targets, last):
            if base:
                whole = layer.get_base_layer()
                if len(names := tied_names(network, whole.weight)) > 1:
                    raise ValueError(
                        f"lora(base=True) must not adapt {names[-1]} (its weight is {names[0]}, too, and would move "
                        "there). Try other targets"
                    )
                _train(whole.parameters(recurse=False))

    return fit


def ffa_lora(
    rank: int = 8, alpha: float | None = None, targets: Targets = None, last: int | None = None
) -> Trainable:
    """LoRA whose A stays as it was drawn: the mean of B is then the mean of B A.  FFA-LoRA, Sun et al. 2024."""
    _check(rank, alpha)

    def fit(network):
        for layer in _inject(
            network, rank, alpha, targets, last
        ):  # peft lets A train until after it has been put in
            layer.lora_A["default"].weight.requires_grad_(False)

    return fit


def lora_sb(
    rank: int = 8, alpha: float | None = None, targets: Targets = None, last: int | None = None
) -> Trainable:
    """``W x + (alpha / rank) B R A x``, of which ``R [rank, rank]``, zero at first, trains.  Fed-SB, Singhal et al. 2025.

    ``A`` and ``B`` are the ``rank`` largest singular directions of W, and orthonormal.
    Differs: theirs are those of a first gradient of the whole model.  W's own are taken in LoRA-XS (Balazy et al. 2024),
    there with the singular values in B.
    """
    _check(rank, alpha)

    def fit(network):
        for layer in _inject(network, rank, alpha, targets, last):
            a, b, w = (
                layer.lora_A["default"],
                layer.lora_B["default"],
                layer.get_base_layer().weight,
            )
            u, _, v = torch.linalg.svd(
                (w.mT if layer.fan_in_fan_out else w).detach().float(), full_matrices=False
            )
            for p, directions in ((a.weight, v[:rank]), (b.weight, u[:, :rank])):
                p.requires_grad_(False).copy_(directions)
            layer.lora_A["default"] = Between(a, rank)

    return fit


def prompt(length: int = 10) -> Trainable:
    """``length`` vectors before the embeddings of a text, at first those of words drawn at random.  Lester et al. 2021."""
    check_whole(1, length=length)

    def fit(network):
        words = network.get_input_embeddings().weight
        network.prompt = nn.Embedding(length, words.shape[1])
        with torch.no_grad():
            network.prompt.weight.copy_(
                words[torch.empty(length, dtype=torch.int64).random_(len(words))]
            )

    return fit


class Between(nn.Sequential):
    """``R A x``, where peft expects A."""

    def __init__(self, a: nn.Linear, rank: int):
        super().__init__(a, nn.Linear(rank, rank, bias=False, dtype=a.weight.dtype))
        nn.init.zeros_(self[1].weight)

    @property
    def weight(self) -> Tensor:
        return self[0].weight


class AdaptedLayer(NamedTuple):
    """A layer with an adapter: what its tensors are called in the row, and what stands before B A."""

    layer: str
    a: str | None  # [rank, in]; None where it is frozen
    b: str  # [out, rank]
    base: str | None  # W, where it is in the row: [out, in], or [in, out] where transposed
    scale: float  # alpha / rank
    transposed: bool
    rank: int
    inputs: int
    outputs: int


@once_per_task
def adapted_layers(task: Task) -> tuple[AdaptedLayer, ...]:
    """The layers of a task whose B, and mostly A, are numbers of the row; ValueError where there is none."""
    found = []
    for name, layer in task.template(torch.empty(0)).named_modules():
        a, b, base = (
            f"{name}.{of}.weight" for of in ("lora_A.default", "lora_B.default", "base_layer")
        )
        if b in task.shapes:
            a, base = (one if one in task.shapes else None for one in (a, base))
            rank, inputs = layer.lora_A["default"].weight.shape
            outputs = task.shapes[b][0]
            found.append(
                AdaptedLayer(
                    name,
                    a,
                    b,
                    base,
                    layer.scaling["default"],
                    layer.fan_in_fan_out,
                    rank,
                    inputs,
                    outputs,
                )
            )
    if not found:
        raise ValueError(
            "the task has no adapters B A in the row: make it with trainable=lora(...)"
        )
    return tuple(found)


@once_per_task
def base_weights(task: Task) -> tuple[str, ...]:
    """Return the names of the adapted layers' own weights in the row: those of ``lora(base=True)``."""
    own = (
        f"{name}.base_layer.weight"
        for name, layer in task.template(torch.empty(0)).named_modules()
        if hasattr(layer, "lora_B")
    )
    return tuple(name for name in own if name in task.shapes)


def check_base_weights(task: Task, fixed: Sequence[str]) -> None:
    """Raise ValueError if clients would move the weights that adapters stand beside: not all of them are ``fixed``."""
    moved = sorted(set(base_weights(task)) - set(fixed))
    if moved:
        raise ValueError(
            f"lora(base=True) must go with flora or fedex (only their servers move {moved[0]} and the like; under another "
            "algorithm clients would train and send them). Try lora() without base"
        )


def lora_layers(task: Task) -> tuple[AdaptedLayer, ...]:
    """Likewise where A and B train; ValueError where A is frozen."""
    if any(one.a is None for one in adapted_layers(task)):
        raise ValueError(
            "the task's A is frozen, and its server needs only fedavg(); or make it with trainable=lora(...)"
        )
    return adapted_layers(task)


def blocks(network: nn.Module) -> nn.ModuleList:
    """The transformer's blocks; of an encoder-decoder, the encoder's."""
    return _blocks(network)[1]


class _Reached(Exception):  # noqa: N818 - no error
    """The pass has come to the block whose input is asked for."""


def block_input(block: nn.Module, read: Callable[[], Any]) -> Tensor:
    """Return what comes into a block when ``read()`` runs its network, which stops there."""
    seen = []

    def reached(block, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    hook = block.register_forward_pre_hook(reached, with_kwargs=True)
    try:
        read()
    except _Reached:
        pass
    finally:
        hook.remove()
    return seen.pop()


def _read_before(network: nn.Module, block: nn.Module) -> set[int]:
    """Return the ids of the parameters that a block's input depends on, wherever they are registered."""
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
    early, seen, steps = set(), set(), [hidden.grad_fn]
    while steps:
        step = steps.pop()
        if step is not None and step not in seen:
            seen.add(step)
            early.add(id(getattr(step, "variable", None)))
            steps += [before for before, _ in step.next_functions]
    return early


def tied_names(network: nn.Module, p: nn.Parameter) -> list[str]:
    """Return all names under which the network has this parameter: more than one where weights are tied."""
    return [name for name, other in network.named_parameters(remove_duplicate=False) if other is p]


def _blocks(network: nn.Module) -> tuple[str, nn.ModuleList]:
    found = (
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList)
    )
    return next(found)


def _check(rank: int, alpha: float | None) -> None:
    check_whole(1, rank=rank)
    if alpha is not None and not (is_number(alpha) and alpha > 0):
        raise ValueError(f"alpha={alpha!r}: it is above 0; the usual one is twice the rank")


def _train(parameters) -> None:
    """These train from now on, as copies: what is frozen is shared between models."""
    for p in parameters:
        if p.dtype.itemsize < 4:
            told = f"layers of a model in {str(p.dtype).removeprefix('torch.')} do not train as a whole"
            raise ValueError(f"{told}: load it with dtype=torch.float32, or take lora without base")
        p.data = p.data.clone()
        p.requires_grad_()


def _inject(
    network: nn.Module, rank: int, alpha: float | None, targets, last: int | None
) -> list[nn.Module]:
    """Peft's LoRA layers in the place of the targets; they alone train."""
    with quiet():
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

    names = _targets(network, targets, last)
    for name, layer in names.items():
        if rank > min(layer.weight.shape):
            told = f"{name} is {layer.weight.shape[0]} x {layer.weight.shape[1]}"
            raise ValueError(f"rank={rank}: {told}; a rank is at most the smaller of both")
    other = {
        type(layer).__name__ == "Conv1D" for layer in names.values()
    }  # GPT-2's layer, whose weight is [in, out]
    if len(other) > 1:
        raise ValueError(
            f"targets={targets!r} are of two kinds, nn.Linear and Conv1D: take those of one kind"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=list(names),
        fan_in_fan_out=other.pop(),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*tie_word_embeddings"
        )  # what cannot be merged, save_adapter refuses
        inject_adapter_in_model(config, network)
    layers = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        for factor in (
            layer.lora_A,
            layer.lora_B,
        ):  # what trains is in full precision, whatever the base has
            factor.to(torch.promote_types(layer.get_base_layer().weight.dtype, torch.float32))
    return layers


def _targets(network: nn.Module, targets: Targets, last: int | None) -> dict[str, nn.Module]:
    """The layers to adapt, by their whole names."""
    with quiet():
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    linear = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
    }
    exist = sorted(
        {name.rpartition(".")[2] for name in linear if not name.rpartition(".")[2].isdigit()}
    )
    if targets is None:
        targets = USUAL.get(network.config.model_type)
        if targets is None:
            raise ValueError(
                f"targets=None: peft has no usual ones for {network.config.model_type!r}; take from {exist}, or 'all-linear'"
            )
    if targets == "all-linear":
        head = network.get_output_embeddings()
        targets = [name for name, layer in linear.items() if layer is not head]
    if isinstance(targets, str):
        raise ValueError(f"targets={targets!r}: it is a list of names, such as [{targets!r}]")
    nowhere = sorted(set(targets) - {name.rpartition(".")[2] for name in linear} - set(linear))
    if nowhere:
        raise ValueError(
            f"targets has {nowhere[0]!r}, and no layer is called so: there are {', '.join(exist)}"
        )
    within = [""]
    if last is not None:
        check_whole(1, last=last)
        where, layers = _blocks(network)
        if last > len(layers):
            raise ValueError(
                f"last={last}: the model has {len(layers)} blocks; take as many at most"
            )
        within = [f"{where}.{i}." for i in range(len(layers))][-last:]
    found = {
        name: layer
        for name, layer in linear.items()
        if (name in targets or name.rpartition(".")[2] in targets)
        and name.startswith(tuple(within))
    }
    if not found:
        raise ValueError(
            f"targets={list(targets)} match nothing there (last={last}): there are {', '.join(exist)}"
        )
    return found
