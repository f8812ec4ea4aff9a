"""The structure of a model: its trainable layers, and whether its layers form a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from fedlab.client.layers import STACKED, Flatten, ReLU, StackedLayer, Untrained
from fedlab.client.optimizers import Gathered, Optimizer


class Unsupported(Exception):  # noqa: N818 - never leaves this folder
    """The model has a layer, or a structure, that a method cannot train."""


class TrainableLayer(NamedTuple):
    """A layer whose parameters train, and their names in the model by their names in the layer."""

    layer: nn.Module
    names: dict[str, str]

    def stacked(self, optimizers: dict[str, Optimizer] | dict[str, Gathered]) -> StackedLayer:
        """Return the layer for many clients, with their parameters."""
        by_key = {key: optimizers[name] for key, name in self.names.items()}
        return STACKED[type(self.layer)](self.layer, by_key)


def _once_per_model(function: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
    """Cache the results of ``function`` as long as their models are in use."""
    results: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()

    def lookup(model):
        if type(model) in STACKED:  # its result holds the model itself, and would keep it for ever
            return function(model)
        try:
            return results[model]
        except KeyError:
            return results.setdefault(model, function(model))

    return lookup


@_once_per_model
def trainable_layers(model: nn.Module) -> list[TrainableLayer]:
    """Return the layers that hold what trains; raise Unsupported if one cannot be stacked."""
    names = {p: name for name, p in model.named_parameters()}  # tied parameters have one name
    layers = []
    for layer in model.modules():
        parameters = dict(layer.named_parameters(recurse=False, remove_duplicate=False))
        if any(p.requires_grad for p in parameters.values()):
            if not _can_stack(layer, parameters):
                raise Unsupported
            layers.append(TrainableLayer(layer, {key: names[p] for key, p in parameters.items()}))
    return layers


def _can_stack(layer: nn.Module, parameters: dict[str, nn.Parameter]) -> bool:
    """Return whether a layer computes exactly what its stacked form does."""
    if (
        type(layer) not in STACKED
        or _is_altered(layer)
        or not all(p.requires_grad for p in parameters.values())
    ):
        return False
    if isinstance(layer, nn.Embedding) and (layer.scale_grad_by_freq or layer.max_norm is not None):
        return False
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return False
    return "weight" in parameters and parameters.keys() <= {"weight", "bias"}


def _is_altered(layer: nn.Module) -> bool:
    """Return whether code runs before, after or in place of the forward of the layer's class."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(layer)


@_once_per_model
def sequence(model: nn.Module) -> list[nn.Module | ReLU | Flatten | Untrained]:
    """Return the layers of nested Sequentials in order; raise Unsupported for other models.

    Trainable layers are PyTorch's own modules, the others stand ready for ``LayerSequence``.
    """
    trainable = trainable_layers(model)
    trained = {layer for layer, _ in trainable}
    order = _in_order(model)
    names = [name for _, layer_names in trainable for name in layer_names.values()]
    if len(set(names)) < len(names) or sum(layer in trained for layer in order) != len(trained):
        raise Unsupported  # a parameter that is read twice needs the sum of its gradients
    layers: list[nn.Module | ReLU | Flatten | Untrained] = []
    for layer in order:
        if type(layer) is nn.ReLU and not _is_altered(layer):
            # A trainable layer saves its input and not its output, which may be overwritten.
            layers.append(ReLU(in_place=bool(layers) and isinstance(layers[-1], nn.Module)))
        elif layer in trained:
            layers.append(layer)
        elif type(layer) is nn.Flatten and not _is_altered(layer):
            layers.append(Flatten(layer))
        else:
            layers.append(Untrained(layer))
    return layers


def is_plain(model: nn.Module) -> bool:
    """Return whether a model is a sequence of PyTorch's own layers, unaltered.

    None of them looks at the values of other examples in a batch.
    """
    try:
        sequence(model)
    except Unsupported:
        return False
    return all(
        type(layer).__module__.startswith("torch.nn.") and not _is_altered(layer)
        for layer in model.modules()
    )


def _in_order(model: nn.Module) -> list[nn.Module]:
    if not _is_sequential(model) or _is_altered(model):
        raise Unsupported
    layers: list[nn.Module] = []
    for layer in model:
        layers += _in_order(layer) if _is_sequential(layer) else [layer]
    return layers


def _is_sequential(model: nn.Module) -> TypeGuard[nn.Sequential]:
    return isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward


class LayerSequence:
    """Layers one after another, with a manual backward pass.

    Autograd costs as much as small layers do.

    Args:
        model: A model whose layers form a ``sequence``.
        trained: Layers with the parameters of many clients, by the layer of ``model``.
    """

    def __init__(self, model: nn.Module, trained: dict[nn.Module, Any]):
        layers = sequence(model)
        self.trained, self.layers = trained, [trained.get(layer, layer) for layer in layers]
        self.manual_backward = all(type(layer) is not Untrained for layer in layers)
        # No gradient is wanted before the first layer that trains.
        self.first = min(k for k, layer in enumerate(layers) if layer in trained)

    def forward(self, x: Tensor) -> tuple[Tensor, list]:
        """Return the output, and what each layer saved for the backward pass."""
        saved = []
        for layer in self.layers:
            x, tensors = layer.forward(x)
            saved.append(tensors)
        return x, saved

    def advance(self, x: Tensor, score: Any) -> None:
        """Take one step with all clients at work."""
        output, saved = self.forward(x)
        grad = score.gradient(output)
        for k in range(len(self.layers) - 1, self.first - 1, -1):
            grad = self.layers[k].backward(saved[k], grad, k > self.first)
