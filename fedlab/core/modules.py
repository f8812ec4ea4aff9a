"""Checks of a module: runs can be repeated if it depends on seed, weights and example alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedlab.core.module_state import changes, equal, same_outputs, state
from fedlab.core.rng import seeded

_COPY = "lambda: copy.deepcopy(net)"

_DRAWS = "draws from PyTorch's global generator, so no run could be repeated"

_DROPOUT = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)


def check_model(model: Any) -> None:
    """Raise ValueError for a task's ``model`` that is no function, such as a module itself."""
    if isinstance(model, nn.Module) or not callable(model):
        raise ValueError(
            f"model={type(model).__name__} must be a function that builds a fresh module (every "
            f"run starts anew). Try {_COPY}"
        )


def check_layers(model: Any) -> None:
    """Raise ValueError for layers whose output depends on more than weights and example."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model() gave {type(model).__name__} and must give an nn.Module. "
            "Try lambda: MyModule()"
        )
    for name, layer in model.named_modules():
        place = f"{type(layer).__name__} at {name or 'the top'!r}"
        _check_batch_statistics(layer, place)
        _check_draws(layer, place)
        _check_weights(layer, place)
    _check_parameters(model)


def _check_batch_statistics(layer: nn.Module, place: str) -> None:
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (
        layer.training or layer.running_mean is None
    ):
        raise ValueError(
            f"{place} normalises by a client's batch: such statistics differ from client to client "
            "and do not average (Hsieh et al. 2020). Try nn.GroupNorm(2, channels), or its "
            "pretrained statistics as they are: layer.eval()"
        )


def _check_draws(layer: nn.Module, place: str) -> None:
    if isinstance(layer, nn.RReLU) and layer.lower != layer.upper:
        raise ValueError(f"{place} {_DRAWS}. Try nn.LeakyReLU")
    rate = "p" if isinstance(layer, nn.modules.dropout._DropoutNd) else "dropout"
    if isinstance(layer, _DROPOUT) and layer.training and getattr(layer, rate) > 0:
        raise ValueError(
            f"{place} {_DRAWS}: set {rate}={getattr(layer, rate):g} to 0. Try it without dropout"
        )


def _check_weights(layer: nn.Module, place: str) -> None:
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        lazy: Any = layer
        if lazy.has_uninitialized_params():
            raise ValueError(
                f"{place} has no shape until it sees an example, and must have one. Try the layer "
                "without Lazy, with its sizes"
            )
    trains = any(p.requires_grad for p in layer.parameters())
    if isinstance(layer, nn.DataParallel) or (isinstance(layer, torch.jit.ScriptModule) and trains):
        raise ValueError(
            f"{place} takes no weights from outside, and each client has its own. Try the module "
            "before torch.jit or nn.DataParallel, or requires_grad_(False)"
        )
    is_table = isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    if is_table and layer.max_norm is not None:
        raise ValueError(
            f"{place} has max_norm={layer.max_norm:g}, with which a forward pass changes the "
            "weights. Try without max_norm, and normalise its output: F.normalize(e(x), dim=-1)"
        )


def _check_parameters(model: nn.Module) -> None:
    """Raise ValueError for parameters that cannot be the numbers of a row."""
    places: dict[tuple, str] = {}
    model_name = type(model).__name__
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if p._backward_hooks or p._post_accumulate_grad_hooks:
            raise ValueError(
                f"the parameter {name!r} of {model_name} has a hook on its gradient, which would "
                "not be called: each client has weights of its own. Try Terms(mask=...), or "
                "requires_grad_(False)"
            )
        if p.is_complex():
            raise ValueError(
                f"the parameter {name!r} of {model_name} is of type {p.dtype} and must be real (as "
                "a row is). Try nn.Parameter(torch.view_as_real(z)), with torch.view_as_complex "
                "in forward"
            )
        if p.numel() and places.setdefault((p.device, p.data_ptr()), name) != name:
            raise ValueError(
                f"the parameters {places[p.device, p.data_ptr()]!r} and {name!r} of {model_name} "
                "lie in one place in memory, and would train as two. Try to tie them as one "
                "nn.Parameter: a.weight = b.weight"
            )


class Builds(NamedTuple):
    """The comparison of two builds of a model under one seed.

    Attributes:
        share: Whether they share modules or parameters: frozen ones, as of a pretrained network.
        differ: Whether they differ in an attribute, which may not matter.
    """

    share: bool
    differ: bool


def check_builds(model: nn.Module, again: nn.Module) -> Builds:
    """Compare two builds of a model under one seed.

    Raises:
        ValueError: If they are not equal, or share parameters that train.
    """
    name = type(model).__name__
    memory, other_memory = (
        {
            (p.device, p.untyped_storage().data_ptr())
            for p in build.parameters()
            if p.requires_grad and p.numel()
        }
        for build in (model, again)
    )
    if model is again or memory & other_memory:
        raise ValueError(
            f"model() gives the same {name}, or its weights, every time, so a run would start "
            f"where the last one ended. Try {_COPY}"
        )
    difference = next(_differences(model, again), None)
    if difference is not None:
        raise ValueError(
            f"{difference} of {name} is another one each time model() is called under one seed, so "
            "no run could be repeated. Try torch's functions in place of NumPy's, Python's random "
            "or the time"
        )
    objects = {id(value) for value in (*model.modules(), *model.parameters())}
    share = any(id(value) in objects for value in (*again.modules(), *again.parameters()))
    return Builds(share, next(changes(state(model), state(again)), None) is not None)


def _differences(model: nn.Module, again: nn.Module) -> Iterator[str]:
    """Name the layers, parameters and buffers in which two modules differ."""
    layers, others = (
        [f"{name} ({type(layer).__name__})" for name, layer in build.named_modules()]
        for build in (model, again)
    )
    if layers != others:
        yield "the list of layers"
    for kind in ("parameter", "buffer"):
        first, second = (dict(getattr(build, f"named_{kind}s")()) for build in (model, again))
        for name in first.keys() | second.keys():
            if name not in first or name not in second or not equal(first[name], second[name]):
                yield f"the {kind} {name!r}"


def check_forward(
    forward: Callable[[Tensor], Any],
    model: nn.Module,
    before: dict[str, Any],
    x: Tensor,
    others: Tensor,
) -> bool:
    """Raise ValueError if a pass draws, or differs after a pass over other examples.

    Args:
        forward: The pass.
        model: The module that it runs.
        before: State of the module before any pass.
        x: Examples.
        others: Other examples.

    Returns:
        True if a pass leaves a value in the model; later passes may not depend on it.
    """
    name = type(model).__name__
    with seeded(0, "forward") as draws:
        first = forward(x)
    after = state(model)
    buffers = dict(model.named_buffers())
    changed = next((path for path in changes(before, after) if path in buffers), None)
    with seeded(1, "forward"):
        forward(others)
    with seeded(2, "forward"):
        again = forward(x)
    changed = changed or next(changes(after, state(model)), None)
    drawn = draws.drawn or _randomly(draws.others)
    if drawn:
        raise ValueError(
            f"the forward pass of {name} draws random numbers ({drawn}), so no run could be "
            "repeated. Try it without: dropout 0, noise in the data"
        )
    if changed is not None:
        raise ValueError(
            f"the forward pass of {name} changes {changed!r}: examples and clients would depend on "
            "those before. Try nn.GroupNorm for running statistics, or to compute it anew in every "
            "pass"
        )
    if not same_outputs(first, again):
        raise ValueError(
            f"{name} gives other outputs for the same examples and weights when it is called "
            "again, so no run could be repeated. Try it without randomness and without state in "
            "forward"
        )
    return next(changes(before, after), None) is not None


def _randomly(calls: list[tuple[Any, tuple, dict]]) -> str | None:
    """Name the first call that draws, by the arguments that are its rate of dropout."""
    for func, args, kwargs in calls:
        names = [argument.name for argument in func._schema.arguments]
        options = dict(zip(names, args, strict=False)) | kwargs
        is_on = any(options.get(rate) for rate in ("p", "dropout_p", "dropout"))
        if is_on and options.get("train") is not False:
            return func._schema.name.removeprefix("aten::")
    return None
