"""Trained rows as files of peft and transformers: adapters, and whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedlab.core import Task, params
from fedlab.core.quiet import quiet
from fedlab.core.rng import seeded
from fedlab.models.adapted_layers import AdaptedLayer, lora_layers
from fedlab.models.blocks import tied_names
from fedlab.models.language.load import LOCAL_ONLY, base_network, no_progress_bars
from fedlab.models.language.network import ModelFactory, share_parameters

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"

NO_ADAPTERS = (
    "save_adapter must have a task with adapters (this one has none). Try a task of lora(8), or "
    "save_model"
)


class Factors(NamedTuple):
    """The adapter of one layer, as peft saves it.

    Attributes:
        a: ``[rank, in]``, scaled by alpha / rank.
        b: ``[out, rank]``.
        transposed: The layer's own weight is ``[in, out]``, as in GPT-2.
    """

    a: Tensor
    b: Tensor
    transposed: bool


def save_adapter(task: Task, w: Tensor, folder: str | Path) -> None:
    """Save the adapters of a row in the format of peft, and a classifier's head beside them.

    ``peft.PeftModel.from_pretrained(base, folder)`` loads them over the published model, and
    merges them. If a server has moved a layer's own weight, the change becomes part of its
    adapter, whose rank is then the layer's. Adapters of ``ffa_lora`` and ``lora_sb`` are saved as
    plain LoRA: ``load_adapter`` reads them into a task of ``lora``.

    Args:
        task: A task whose model has adapters.
        w: Trained row ``[d]``, such as ``result.w[0]``.
        folder: Folder of the files; a head is saved as ``head.safetensors``.

    Raises:
        ValueError: If the task has no adapters, ``w`` is not finite or no row of the task, a bias
            has moved, or an adapted weight is tied to another one.
    """
    with quiet():
        from peft import LoraConfig, get_peft_model

    factory = task.model
    if not isinstance(factory, ModelFactory) or factory.start is None:
        raise ValueError(NO_ADAPTERS)
    module, network = task.module(_finite_row(task, w)), share_parameters(factory.model.network)
    adapters = _all_factors(factory, module, network)
    if not adapters:
        raise ValueError(NO_ADAPTERS)
    ranks = {name: len(factors.a) for name, factors in adapters.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        target_modules=list(adapters),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        fan_in_fan_out=next(iter(adapters.values())).transposed,
    )
    with quiet():
        saved = get_peft_model(network, config)
        for name, factors in adapters.items():
            layer = saved.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.data = factors.a
            layer.lora_B["default"].weight.data = factors.b
        # The embeddings are those of the published model.
        saved.save_pretrained(folder, save_embedding_layers=False)
    if hasattr(module, "head"):
        _save_head(module, folder)


def save_model(task: Task, w: Tensor, folder: str | Path) -> None:
    """Save a row as a whole model of transformers, with merged adapters and its tokenizer.

    ``pretrained(folder)`` reads it, and so does transformers. A classifier's head is saved beside
    it, in ``head.safetensors``. Tied weights that no longer agree are saved one by one.

    Args:
        task: A task of ``classifier`` or ``language_modelling``.
        w: Trained row ``[d]``, such as ``result.w[0]``.
        folder: Folder of the files; existing files are replaced.

    Raises:
        ValueError: If the task has a prompt, which no model of transformers holds, or the model
            cannot be saved untied; if ``w`` is not finite or no row of the task.

    Example:
        >>> import tempfile
        >>> from fedlab.models import language_modelling, lora, pretrained, tiny
        >>> model = tiny("gpt2", ["To be, or not to be."] * 9, vocabulary=300)
        >>> task = language_modelling(model, lora(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(task, params.flatten(task.model()), folder)  # or result.w[0]
        ...     pretrained(folder).kind
        'decoder'
    """
    factory = task.model
    if not isinstance(factory, ModelFactory) or factory.start != 0:
        raise ValueError(
            "save_model must have a task of a whole language model. Try classifier(...) or "
            "language_modelling(...)"
        )
    module = task.module(_finite_row(task, w))
    part, network = module.backbone.network, share_parameters(factory.model.network)
    if hasattr(part, "prompt"):
        raise ValueError(
            "save_model must not have a prompt (no model of transformers holds one). Try lora()"
        )
    _merge_adapters(part)
    name = _backbone_prefix(factory).removesuffix(".")
    if name:
        network.set_submodule(name, part)
    else:
        network = part
    if _tied_differ(factory.model.network, network):
        _untie(network)
    network.config.use_cache = True
    with quiet(), no_progress_bars():
        network.save_pretrained(folder)
        factory.model.tokenizer.save_pretrained(folder)
    _check_saved(network, folder)
    if factory.outputs is not None:
        _save_head(module, folder)


def load_adapter(task: Task, folder: str | Path) -> Tensor:
    """Return a row that starts with a saved adapter, of ``save_adapter`` or of peft.

    Args:
        task: A task of ``lora`` on the same model, with the same targets and at least the saved
            ranks.
        folder: Folder with ``adapter_config.json``, ``adapter_model.safetensors`` and, for a
            classifier, ``head.safetensors``.

    Returns:
        The row ``[d]``: ``starting_at(task, load_adapter(task, folder))`` continues training.

    Raises:
        FileNotFoundError: If the folder holds no adapter.
        ValueError: If the adapter has other layers, a larger rank, or a kind that the task cannot
            hold.

    Example:
        >>> import tempfile
        >>> from fedlab.models import language_modelling, lora, starting_at, tiny
        >>> model = tiny("gpt2", ["To be, or not to be."] * 9, vocabulary=300)
        >>> task = language_modelling(model, lora(2))
        >>> w = params.flatten(task.model())  # or result.w[0]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_adapter(task, w, folder)
        ...     again = starting_at(task, load_adapter(task, folder))
        >>> torch.allclose(params.flatten(again.model()), w)
        True
    """
    from safetensors.torch import load_file

    folder, factory = Path(folder), task.model
    if not isinstance(factory, ModelFactory) or factory.start != 0:
        raise ValueError(
            "load_adapter must have a task of lora on a whole language model. Try "
            "classifier(model, classes, lora(8))"
        )
    config = _read_config(folder, has_head=factory.outputs is not None)
    if not any(".lora_A." in name and name.endswith(".default.weight") for name in task.shapes):
        raise ValueError(
            "load_adapter must have a task of lora, whose A and B both train (a saved adapter "
            "brings both, and in this task one is frozen or absent). Try lora(rank), which reads "
            "adapters of ffa_lora and lora_sb, too"
        )
    with seeded(0, "init"):
        saved, w = load_file(folder / WEIGHTS_FILE), params.flatten(task.model())
    views = params.views(w, task.shapes)
    for layer in lora_layers(task):
        name = _backbone_prefix(factory) + layer.layer.removeprefix("backbone.network.")
        a, b = (saved.pop(f"base_model.model.{name}.lora_{k}.weight", None) for k in "AB")
        _check_factors(folder, layer, name, a, b)
        a = a * (_peft_scale(config, name) / layer.scale)
        views[layer.b].zero_()
        views[layer.a][: len(a)], views[layer.b][:, : len(a)] = a, b
    if saved:
        raise ValueError(
            f"folder={str(folder)!r} must have adapters of the task's layers alone (it has one of "
            f"{next(iter(saved))}, too). Try the targets that it was saved with"
        )
    if factory.outputs is not None:
        _load_head(folder, views)
    return w


def _finite_row(task: Task, w: Any) -> Tensor:
    """Return the row in the processor's memory after checking its size and numbers."""
    size = sum(shape.numel() for shape in task.shapes.values())
    if not isinstance(w, Tensor) or w.shape != (size,):
        kind = f"a tensor {list(w.shape)}" if isinstance(w, Tensor) else f"a {type(w).__name__}"
        raise ValueError(
            f"w must be a row of the task's {size:,} numbers, a tensor (it is {kind}). Try "
            "result.w[0]"
        )
    if not w.isfinite().all():
        count = int((~w.isfinite()).sum())
        raise ValueError(
            f"w must be finite, and {count:,} of its {size:,} numbers are not. Try a row of an "
            "earlier round"
        )
    return w.cpu()


def _all_factors(
    factory: ModelFactory, module: nn.Module, network: nn.Module
) -> dict[str, Factors]:
    """Return the adapter of each adapted layer, by the layer's name in the published network."""
    with quiet():
        from peft.tuners.lora import LoraLayer

    prefix, adapters = _backbone_prefix(factory), {}
    published = dict(network.named_modules())
    for name, layer in module.backbone.network.named_modules():
        name = prefix + name
        if isinstance(layer, LoraLayer):
            _check_layer(layer, name, published[name], network)
            a, b = _scaled_factors(layer)
            moved = (layer.get_base_layer().weight - published[name].weight).float()
            if moved.any():
                product = b @ a + (moved.mT if layer.fan_in_fan_out else moved)
                u, s, v = torch.linalg.svd(product.detach(), full_matrices=False)
                a, b = s[:, None] * v, u
            adapters[name] = Factors(a, b, layer.fan_in_fan_out)
    return adapters


def _check_layer(layer: Any, name: str, published: nn.Module, network: nn.Module) -> None:
    """Check that peft can hold the change of an adapted layer."""
    bias = getattr(layer.get_base_layer(), "bias", None)
    if bias is not None and not torch.equal(bias, published.bias):
        raise ValueError(
            f"save_adapter must find the published biases (the bias of {name} has moved, and an "
            "adapter has no place for it). Try save_model"
        )
    if len(names := tied_names(network, published.weight)) > 1:
        raise ValueError(
            f"save_adapter must not have an adapter of {name} (its weight is {names[0]}, too, and "
            "merged the adapter would change both). Try save_model, which unties them, or other "
            "targets"
        )


def _scaled_factors(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A and B of a LoRA layer, with its scale in A."""
    a, b = layer.lora_A["default"], layer.lora_B["default"].weight
    a = a[1].weight @ a[0].weight if isinstance(a, nn.Sequential) else a.weight
    return (a * layer.scaling["default"]).detach(), b.detach()


def _merge_adapters(network: nn.Module) -> None:
    """Replace each adapted layer by a plain one with W + B A as its weight."""
    with quiet():
        from peft.tuners.lora import LoraLayer

    for name, layer in list(network.named_modules()):
        if isinstance(layer, LoraLayer):
            base, (a, b) = layer.get_base_layer(), _scaled_factors(layer)
            change = (b @ a).mT if layer.fan_in_fan_out else b @ a
            merged = (base.weight + change).detach().to(base.weight.dtype)
            base.weight = nn.Parameter(merged, requires_grad=False)
            network.set_submodule(name, base)


def _backbone_prefix(factory: ModelFactory) -> str:
    """Return the name of the backbone in the published network and a dot, or nothing."""
    network = factory.model.network
    part = network if factory.outputs is None else base_network(network)
    name = next(name for name, module in network.named_modules() if module is part)
    return f"{name}." if name else ""


def _tied_differ(published: nn.Module, network: nn.Module) -> bool:
    """Return whether parameters that are tied in the published network differ in this one."""
    first: dict[int, Tensor] = {}
    trained = dict(network.named_parameters(remove_duplicate=False))
    for name, p in published.named_parameters(remove_duplicate=False):
        if not torch.equal(first.setdefault(id(p), trained[name]), trained[name]):
            return True
    return False


def _untie(network: nn.Module) -> None:
    """Give each module a parameter of its own in place of a tied one."""
    network.config.tie_word_embeddings = False
    seen: set[int] = set()
    for name, p in list(network.named_parameters(remove_duplicate=False)):
        if id(p) in seen:
            parent, _, attribute = name.rpartition(".")
            copied = nn.Parameter(p.data.clone(), requires_grad=False)
            setattr(network.get_submodule(parent), attribute, copied)
        seen.add(id(p))


def _check_saved(network: nn.Module, folder: str | Path) -> None:
    """Check that the saved model is read as it is."""
    with quiet(), no_progress_bars():
        again = type(network).from_pretrained(folder, dtype=network.dtype, **LOCAL_ONLY)
    read = dict(again.named_parameters(remove_duplicate=False))
    for name, p in network.named_parameters(remove_duplicate=False):
        if not torch.equal(read[name], p):
            raise ValueError(
                f"{name} must be read as it was saved, and is not (the architecture ties it to "
                "another tensor). Try targets that leave tied weights alone"
            )


def _save_head(module: nn.Module, folder: str | Path) -> None:
    from safetensors.torch import save_file

    head = {name: p.detach().contiguous() for name, p in module.head.named_parameters()}
    save_file(head, Path(folder) / HEAD_FILE)


def _load_head(folder: Path, views: dict[str, Tensor]) -> None:
    """Copy a saved head into the views of a row."""
    from safetensors.torch import load_file

    for name, p in load_file(folder / HEAD_FILE).items():
        view = views[f"head.{name}"]
        if view.shape != p.shape:
            raise ValueError(
                f"folder={str(folder)!r} must have a head of {view.shape[0]} classes, as the task "
                f"(it has {p.shape[0]}). Try classifier(model, {p.shape[0]}, ...)"
            )
        view.copy_(p)


def _read_config(folder: Path, has_head: bool) -> Any:
    """Return peft's config of a plain LoRA after checking that its files are there."""
    with quiet():
        from peft import LoraConfig

    files = [CONFIG_FILE, WEIGHTS_FILE, *([HEAD_FILE] if has_head else [])]
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise FileNotFoundError(
            f"folder={str(folder)!r} must hold {absent[0]}. Try the folder that save_adapter wrote"
        )
    config = LoraConfig.from_pretrained(str(folder))
    extras = ("use_dora", "modules_to_save", "lora_bias")
    extras = [name for name in extras if getattr(config, name, None)]
    extras += ["bias"] if config.bias != "none" else []
    if config.peft_type != "LORA" or extras:
        raise ValueError(
            f"folder={str(folder)!r} must hold plain LoRA (its config has "
            f"{', '.join(extras) or config.peft_type}). Try peft"
        )
    return config


def _check_factors(
    folder: Path, layer: AdaptedLayer, name: str, a: Tensor | None, b: Tensor | None
) -> None:
    """Check that the saved factors of a layer fit the task's."""
    if a is None or b is None:
        raise ValueError(
            f"folder={str(folder)!r} must have an adapter of {name} (the task adapts "
            "it). Try the same targets and last"
        )
    rank, saved = len(a), (b.shape[0], a.shape[1])
    shapes = a.shape[1:] == (layer.inputs,) and b.shape[:1] == (layer.outputs,)
    if rank > layer.rank or not shapes:
        raise ValueError(
            f"folder={str(folder)!r} must have at most rank {layer.rank} for a layer of "
            f"{layer.outputs} x {layer.inputs}, as the task (it has rank {rank} for {saved[0]} x "
            f"{saved[1]}). Try lora({rank}) on the same model"
        )


def _peft_scale(config: Any, name: str) -> float:
    """Return the factor of B A in peft, by the layer's own settings or the settings of all."""
    r = _setting(config.rank_pattern, name, config.r)
    alpha = _setting(config.alpha_pattern, name, config.lora_alpha)
    return alpha / (r**0.5 if config.use_rslora else r)


def _setting(pattern: dict[str, int], name: str, default: int) -> int:
    """Return peft's setting of a layer, found by its whole name or its last names."""
    matches = (v for key, v in pattern.items() if name == key or name.endswith(f".{key}"))
    return next(matches, default)
