"""Three ways to take one step of many models that keep all their parameters.

A builder takes a template and the optimizers of its parameters, and returns a function that takes
one step of all clients at work.  The first one that can train the model is used:

- ``layer_by_layer``: a sequence of layers, forward and backward by hand;
- ``swapped_layers``: a model of any structure whose trainable layers can be stacked;
- ``mapped``: any other model, by ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map

from fedlab.client.optimizers import Gathered, Optimizers
from fedlab.client.sequence import LayerSequence, sequence, trainable_layers
from fedlab.core import params
from fedlab.models.tabular import cross_entropy, log_softmax


class Score(NamedTuple):
    """The losses of the examples in a step, and their weights.

    Attributes:
        loss: Loss per example, as in ``Task``.
        y: Labels, ``[a * B, ...]``.
        weight: Weight of each loss, ``[a * B]``: 0 for padding.
        losses: Filled in with the losses, ``[a * B]``.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    y: Tensor
    weight: Tensor
    losses: Tensor

    def total(self, output: Tensor) -> Tensor:
        """Return the weighted sum of the losses."""
        losses = self.loss(output, self.y)
        self.losses.copy_(losses.detach())
        # The equal losses.backward(weight) would first import sympy.
        return torch.dot(losses.to(self.weight.dtype), self.weight)

    def gradient(self, output: Tensor) -> Tensor:
        """Return the gradient of ``total`` at ``output [a * B, ...]``.

        Cross-entropy does without autograd.
        """
        if self.loss is not cross_entropy or output.dim() != 2:
            output = output.detach().requires_grad_()
            return torch.autograd.grad(self.total(output), output)[0]
        y, weight = self.y.unsqueeze(1), self.weight.unsqueeze(1)
        log_p = log_softmax(output)
        torch.gather(log_p, 1, y, out=self.losses.unsqueeze(1)).neg_()
        return log_p.exp_().mul_(weight).scatter_add_(1, y, -weight)  # weight (softmax - one_hot)


TakeStep = Callable[[Tensor, Score], None]  # one step of all clients at work, x [a * B, ...]
StepBuilder = Callable[[nn.Module, Optimizers], TakeStep]


def layer_by_layer(model: nn.Module, optimizers: Optimizers) -> TakeStep:
    """Return the step of a sequence of layers, without autograd."""
    layers = {each.layer: each.stacked(optimizers) for each in trainable_layers(model)}
    return LayerSequence(model, layers).advance


def swapped_layers(model: nn.Module, optimizers: Optimizers) -> TakeStep:
    """Return the step of a model of any structure, whose layers are replaced by stacked ones.

    The model's own forward runs, and autograd finds the way back.
    """
    gathered = {name: Gathered(optimizer) for name, optimizer in optimizers.items()}
    layers = [(each, each.stacked(gathered)) for each in trainable_layers(model)]
    # Without it autograd would skip the first layer, whose input needs no gradient.
    anchor = torch.empty(0, requires_grad=True)

    def read(trainable, layer, x):
        for name in trainable.names.values():
            gathered[name].reads += 1
        return _Stacked.apply(x, anchor, layer)

    def take_step(x, score):
        for trainable, layer in layers:
            trainable.layer.forward = partial(read, trainable, layer)
        try:
            score.total(model(x)).backward()
        finally:
            for trainable, _ in layers:
                del trainable.layer.forward
        for optimizer in gathered.values():
            optimizer.finish()

    return take_step


class _Stacked(torch.autograd.Function):
    """A stacked layer as autograd sees it."""

    @staticmethod
    def forward(ctx, x, anchor, layer):
        ctx.layer = layer
        y, ctx.saved = layer.forward(x)
        return y

    @staticmethod
    def backward(ctx, grad):
        return ctx.layer.backward(ctx.saved, grad, ctx.needs_input_grad[0]), None, None


def mapped(model: nn.Module, optimizers: Optimizers) -> TakeStep:
    """Return the step of a model that ``vmap`` can map: one gradient of the summed losses."""
    forward = vmap(partial(params.call, model))

    def take_step(x, score):
        p = {name: optimizer.p.detach().requires_grad_() for name, optimizer in optimizers.items()}
        clients = len(next(iter(p.values())))
        output = tree_map(
            lambda tensor: tensor.flatten(0, 1), forward(p, x.unflatten(0, (clients, -1)))
        )
        gradients = torch.autograd.grad(
            score.total(output), list(p.values()), materialize_grads=True
        )
        for optimizer, g in zip(optimizers.values(), gradients, strict=True):
            optimizer.step(lambda to, sign, g=g: to.add_(g, alpha=sign))

    return take_step


# In the order of trial.  A value raises Unsupported for a model that its builder cannot train.
REQUIREMENTS: dict[StepBuilder, Callable[[nn.Module], object]] = {
    layer_by_layer: sequence,
    swapped_layers: trainable_layers,
    mapped: lambda model: None,
}
