"""The fast engine: a cohort's models stand side by side along a client axis and take their steps together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedlab import params
from fedlab.records import Task, Updates, Work

# Layers without parameters that work on each number by itself: a client axis more changes nothing for them.
_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Identity)


def batched(task: Task, x: Tensor, y: Tensor, work: Work, *, chunk: int = 20) -> Updates:
    """The numbers of ``sequential``, to rounding, for a whole cohort at once.

    Rows are sorted by their steps, so that those still at work stand first, and are taken ``chunk`` at a time: their
    weights then stay in the processor's cache.  The model is an ``nn.Sequential`` of Flatten, Linear and activations;
    for another one TypeError says to use ``sequential``.
    """
    m, d = len(work.origin), work.start.shape[1]
    steps = (work.batches >= 0).any(2).sum(1)  # [m]
    delta, loss = work.start.new_empty(m, d), work.start.new_empty(m)
    for rows in torch.argsort(steps, descending=True, stable=True).split(chunk) if m else ():
        _train(task, x, y, work, rows, steps[rows], delta, loss)
    steps = steps.to(delta.dtype)
    return Updates(delta, work.num_examples, steps, work.lr * steps, loss)


def _train(task, x, y, work, rows, steps, delta, loss) -> None:
    """Train the clients ``rows``, most steps first, and write their lines of ``delta [m, d]`` and ``loss [m]``."""
    shapes = params.shapes(task.template)
    origin = work.origin[rows]
    start = {name: p.index_select(0, origin) for name, p in params.views(work.start, shapes).items()}
    w = {name: p.clone() for name, p in start.items()}  # [c, *shape]: the steps change it in place
    keep, pull = _pull(work, rows, shapes, start)
    batches = work.batches[rows]  # [c, K, B], a copy
    real = (batches >= 0).to(work.start.dtype)
    batches.clamp_(min=0)  # padding reads example 0, and weighs nothing
    labels = y[batches]
    share = real / real.sum(2, keepdim=True).clamp(min=1)  # a client's loss is the mean of its batch
    weight = share * work.lr[rows, None, None]  # with the learning rate in it, lr * gradient is what arrives at a layer
    losses = torch.zeros_like(share)
    anchor = torch.empty(0, requires_grad=True)  # without it the first layer, whose input wants no gradient, sees none
    layers, at_work = {}, 0
    for k, a in enumerate((steps[:, None] > torch.arange(int(steps[0]))).sum(0).tolist()):
        if a != at_work:
            layers, at_work = _first(a, w, keep, pull), a
        output = _forward(task.template, layers, anchor, x[batches[:a, k]])  # [a, B, ...]
        each = task.loss(output.flatten(0, 1), labels[:a, k].flatten())
        torch.dot(each, weight[:a, k].flatten()).backward()  # each.backward(weights) would first import sympy
        losses[:a, k] = each.detach().view(a, -1)
    for name, view in params.views(delta, shapes).items():
        view.index_copy_(0, rows, w[name].sub_(start[name]))
    loss.index_copy_(0, rows, (losses * share).sum((1, 2)) / steps)  # 0 / 0 is NaN: no step, no loss


def _first(a: int, w: dict[str, Tensor], keep: Tensor | None, pull: dict[str, Tensor] | None) -> dict[str, _Rows]:
    """The parameters of the first ``a`` clients, those still at work."""
    if pull is None:
        return {name: _Rows(p[:a], None, None) for name, p in w.items()}
    return {name: _Rows(p[:a], keep[:a], pull[name][:a]) for name, p in w.items()}


def _pull(work, rows, shapes, start):
    """What h and mu do in a step, ``w <- keep * w + pull - lr * g``: ``keep [c]``, ``pull {name: [c, ...]}``; or nothing."""
    lr, mu = work.lr[rows], work.mu[rows]
    if work.h is None and not mu.any():
        return None, None
    pull = {name: _over(lr * mu, p) * p for name, p in start.items()}
    if work.h is not None:
        for name, h in params.views(work.h[rows], shapes).items():
            pull[name] -= _over(lr, h) * h
    return 1 - lr * mu, pull


def _over(rows: Tensor, p: Tensor) -> Tensor:
    """One number a row, shaped to multiply ``p [c, ...]``."""
    return rows.view(-1, *[1] * (p.dim() - 1))


class _Rows(NamedTuple):
    """One parameter of the clients at work, and what pulls at it beside the gradient."""

    p: Tensor  # [a, *shape]
    keep: Tensor | None
    pull: Tensor | None

    def settle(self) -> Tensor:
        """The parameter, in place, after everything of the step but the gradient."""
        return self.p if self.pull is None else self.p.mul_(_over(self.keep, self.p)).add_(self.pull)


def _forward(model: nn.Module, layers: dict[str, _Rows], anchor: Tensor, x: Tensor) -> Tensor:
    """The model on ``x [a, B, ...]``, each client with its own rows."""
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"batched has no stacked form of {type(model).__name__}: run it with backend=sequential")
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            x = _Linear.apply(x, anchor, layers[f"{name}.weight"], layers.get(f"{name}.bias"))
        elif isinstance(layer, nn.Flatten) and layer.start_dim == 1 and layer.end_dim == -1:
            x = x.flatten(2)
        elif isinstance(layer, _ELEMENTWISE):
            x = layer(x)
        else:
            raise TypeError(f"batched has no stacked form of {type(layer).__name__}: run it with backend=sequential")
    return x


class _Linear(torch.autograd.Function):
    """``y = x Wᵀ + b`` for every client, whose backward takes the SGD step: the gradient of W is never stored."""

    @staticmethod
    def forward(ctx, x, anchor, weight, bias):
        ctx.x, ctx.weight, ctx.bias = x, weight, bias
        wt = weight.p.transpose(1, 2)  # [a, in, out]
        return x @ wt if bias is None else torch.baddbmm(bias.p[:, None], x, wt)

    @staticmethod
    def backward(ctx, grad):  # lr * dL/dy, [a, B, out]
        down = grad @ ctx.weight.p if ctx.needs_input_grad[0] else None  # with W as it was in the forward pass
        ctx.weight.settle().baddbmm_(grad.transpose(1, 2), ctx.x, alpha=-1)
        if ctx.bias is not None:
            ctx.bias.settle().sub_(grad.sum(1))
        return down, None, None, None
