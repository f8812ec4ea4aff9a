"""The fast engine: a cohort's models stand side by side along a client axis and take their steps together."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedlab import params
from fedlab.client import stacked
from fedlab.client.local import lr_sum, sequential
from fedlab.models.tabular import cross_entropy
from fedlab.params import over
from fedlab.records import Task, Updates, Work

LOW_RANK = 64  # examples of a client up to which a Linear's update is kept as its factors
IN_CACHE = 2_500_000  # weights of a chunk of clients: about what a processor's cache holds
AT_ONCE = 2000  # examples in a step of a chunk, which bounds the memory that activations take

Movers = dict[str, stacked.Step]
Advance = Callable[[Tensor, "Score"], None]  # (x [a * B, ...], score): one step of everyone at work
Form = Callable[[nn.Module, Movers], Advance]  # of a model for many clients


def batched(task: Task, x: Tensor, y: Tensor, work: Work, *, chunk: int | None = None) -> Updates:
    """The numbers of ``sequential``, to rounding, for a whole cohort at once.

    Rows are sorted by their steps, so that those still at work stand first, and are taken ``chunk`` at a time (default: as
    many as the processor's cache holds).  A model of Linear, Conv2d, Embedding, LayerNorm, GroupNorm and layers
    without parameters is stacked; for another ``vmap`` is tried; where that fails, ``sequential`` does it, with a warning.
    """
    form = _form(task, x, y) if len(work.origin) else None
    if form is None:
        return sequential(task, x, y, work)
    steps = (work.batches >= 0).any(2).sum(1)  # [m]
    order, groups = torch.argsort(steps, descending=True, stable=True), [len(steps)]
    delta, loss = _empty(len(order), work.start), work.lr.new_empty(len(order))
    model = partial(_Written, form)
    if _is_low_rank(form, task, x, work):
        origin = work.origin.cpu()[order]
        model, order, groups = _Factored, order[torch.argsort(origin, stable=True)], torch.bincount(origin).tolist()
    chunk, done = chunk or _chunk(work), 0
    for rows in itertools.chain.from_iterable(group.split(chunk) for group in order.split(groups) if len(group)):
        here = slice(done, done := done + len(rows))
        _train(model, task, x, y, work, rows, steps[rows], delta[here], loss[here])
    steps = steps.to(work.lr)
    if not torch.equal(order, torch.arange(len(order))):
        back = torch.argsort(order).to(delta.device)
        delta, loss = delta[back], loss[back]
    return Updates(delta, work.num_examples, steps, lr_sum(work, steps), loss)


def _chunk(work: Work) -> int:
    """How many clients to train side by side."""
    batch_size = max(1, work.batches.shape[2])
    if work.start.is_cuda:
        return max(4, 50 * AT_ONCE // batch_size)
    fitting = max(4, min(200, IN_CACHE // work.start.shape[1]))  # fewer than 4 gain nothing, more than 200 neither
    return max(1, min(fitting, AT_ONCE // batch_size))


def _empty(rows: int, like: Tensor) -> Tensor:
    """Memory for rows like ``like [v, d]``."""
    if like.is_cuda:
        return like.new_empty(rows, like.shape[1])
    # NumPy asks Linux for large pages, PyTorch for small ones, whose first touch costs more than training small models.
    return torch.from_numpy(np.empty((rows, like.shape[1]), dtype=like.numpy().dtype))


def _train(model, task, x, y, work, rows, steps, delta, loss) -> None:
    """Train the clients ``rows [c]``, most steps first, and fill in ``delta [c, d]`` and ``loss [c]``."""
    batches = work.batches[rows].to(x.device)  # [c, K, B], a copy
    rows = rows.to(x.device)
    models = model(task, work, rows)
    real = (batches >= 0).to(work.start.dtype)
    batches.clamp_(min=0)  # padding reads example 0, and weighs nothing
    labels = y[batches]
    share = real / real.sum(2, keepdim=True).clamp(min=1)  # a client's loss is the mean of its batch
    weight = share if work.optimizer == "adamw" else share * work.lr[rows, None, None]
    losses = torch.zeros_like(share)
    for k, a in enumerate((steps[:, None] > torch.arange(int(steps[0]))).sum(0).tolist()):  # a clients are at work
        score = Score(task.loss, labels[:a, k].flatten(0, 1), weight[:a, k].flatten(), losses[:a, k])
        models.advance(a, x.index_select(0, batches[:a, k].flatten()), score)
    models.finish(params.views(delta, task.shapes))
    loss.copy_((losses * share).sum((1, 2)) / steps.to(loss.device))  # 0 / 0 is NaN: no step, no loss


class _Written:
    """Models side by side, each with all its parameters."""

    def __init__(self, form: Form, task: Task, work: Work, rows: Tensor):
        self.start = params.views(work.start if len(work.start) == 1 else work.start[work.origin[rows]], task.shapes)
        self.w = {name: p.expand(len(rows), *p.shape[1:]).clone() for name, p in self.start.items()}
        self.movers = _steps(work, rows, self.w, self.start, task.shapes)
        self.form, self.task, self.at_work = form, task, 0

    def advance(self, a: int, x: Tensor, score: Score) -> None:
        if a != self.at_work:
            self.movers, self.at_work = {name: _first(a, mover) for name, mover in self.movers.items()}, a
            self.step = self.form(self.task.template, self.movers)
        self.step(x, score)

    def finish(self, delta: dict[str, Tensor]) -> None:
        for name, view in delta.items():
            torch.sub(self.w[name], self.start[name], out=view)


class _Factored:
    """Models side by side that share their start, and of which only the differences are kept, as factors."""

    def __init__(self, task: Task, work: Work, rows: Tensor):
        start, (steps, batch_size) = params.views(work.start[work.origin[rows[0]]], task.shapes), work.batches.shape[1:]
        self.layers = [
            (leaf, stacked.LowRank(*leaf.weight_and_bias(start), len(rows), batch_size, steps))
            for leaf in _leaves(task.template)
        ]
        self.step = _along(_line(task.template), {leaf.layer: layer for leaf, layer in self.layers})

    def advance(self, a: int, x: Tensor, score: Score) -> None:
        self.step(x, score)

    def finish(self, delta: dict[str, Tensor]) -> None:
        for leaf, layer in self.layers:
            layer.write(*leaf.weight_and_bias(delta))


def _is_low_rank(form: Form, task: Task, x: Tensor, work: Work) -> bool:
    """Whether this is plain SGD on few examples a client, from models of Linear layers that several of them share."""
    plain = work.h is None and work.optimizer == "sgd"
    plain = plain and not any(column.any() for column in (work.mu, work.momentum, work.weight_decay))
    few = len(work.origin) >= 4 * len(work.start) and work.batches.shape[1] * work.batches.shape[2] <= LOW_RANK
    if not (plain and few and form is _tape and all(type(leaf.layer) is nn.Linear for leaf in _leaves(task.template))):
        return False
    return x.dim() == 2 or type(next(_line(task.template))) is nn.Flatten


class Score(NamedTuple):
    """The losses of a step's examples, and with which weights they count."""

    loss: Callable[[Tensor, Tensor], Tensor]
    y: Tensor  # [a * B, ...]
    weight: Tensor  # [a * B]
    losses: Tensor  # [a, B], filled in

    def total(self, output: Tensor) -> Tensor:
        """The weighted sum."""
        each = self.loss(output, self.y)
        self.losses.copy_(each.detach().view_as(self.losses))
        return torch.dot(each, self.weight)  # each.backward(weight) would first import sympy

    def slope(self, output: Tensor) -> Tensor:
        """Its gradient at ``output [a * B, ...]``; that of cross-entropy, softmax less one-hot, faster than autograd."""
        if self.loss is not cross_entropy or output.dim() != 2:
            output = output.detach().requires_grad_()
            return torch.autograd.grad(self.total(output), output)[0]
        label, log_p = self.y[:, None], torch.log_softmax(output, 1)
        self.losses.copy_(log_p.gather(1, label).neg_().view_as(self.losses))
        return log_p.exp_().scatter_add_(1, label, -torch.ones_like(label, dtype=log_p.dtype)).mul_(self.weight[:, None])


def _steps(work: Work, rows: Tensor, w: dict[str, Tensor], start: dict[str, Tensor], shapes: dict) -> Movers:
    """How each parameter of the clients ``rows`` moves: the optimizer, with h and mu in it."""
    lr, mu, rho, decay = (column[rows] for column in (work.lr, work.mu, work.momentum, work.weight_decay))
    adamw = work.optimizer == "adamw"
    scale, fade = (torch.ones_like(lr), mu) if adamw else (lr, lr * (mu + decay))
    pulls: dict[str, Tensor | None] = dict.fromkeys(w)
    if mu.any():
        pulls = {name: -over(scale * mu, p) * p for name, p in start.items()}
    if work.h is not None:
        for name, h in params.views(work.h[rows], shapes).items():
            pull = over(scale, h) * h
            pulls[name] = pull if pulls[name] is None else pulls[name] + pull
    fade = fade if fade.any() else None
    zeros = torch.zeros_like
    if adamw:
        state = lambda p: (zeros(p), zeros(p), zeros(lr), lr, decay)  # noqa: E731
        return {name: stacked.AdamW(p, fade, pulls[name], *state(p)) for name, p in w.items()}
    if rho.any():
        return {name: stacked.Momentum(p, fade, pulls[name], zeros(p), rho) for name, p in w.items()}
    return {name: stacked.Sgd(p, fade, pulls[name]) for name, p in w.items()}


def _first(a: int, mover: stacked.Step) -> stacked.Step:
    """The same for the first ``a`` clients, those still at work."""
    return type(mover)(*(None if column is None else column[:a] for column in mover))


def _form(task: Task, x: Tensor, y: Tensor) -> Form | None:
    """The fastest form of the model that is tried to be right; None where only ``sequential`` can run it."""
    if task not in _FORMS:
        _FORMS[task] = next((form for form in (_tape, _swapped, _mapped) if _is_right(form, task, x, y)), None)
        if _FORMS[task] is None:
            name = type(task.template).__name__
            warnings.warn(f"{name} has no form for many clients at once: they train one after another", stacklevel=3)
    return _FORMS[task]


_FORMS: WeakKeyDictionary[Task, Form | None] = WeakKeyDictionary()


def _is_right(form: Form, task: Task, x: Tensor, y: Tensor) -> bool:
    """Whether one large step of two unlike clients, one with a short batch, comes out as from ``sequential``."""
    shapes, start = task.shapes, params.flatten(task.template).to(x.device)
    start = start.to(x.dtype) if x.is_floating_point() else start
    start = torch.stack([start, 1.1 * start])
    column, lr = start.new_zeros(2), 10.0
    picked = torch.tensor([[[0, 1]], [[2, -1]]]).clamp(max=len(x) - 1)
    work = Work(start, torch.arange(2, device=x.device), picked, column, column + lr, column, column, column)
    w = {name: p.clone() for name, p in params.views(start, shapes).items()}
    movers = {name: stacked.Sgd(p, None, None) for name, p in w.items()}
    examples, weight = picked.clamp(min=0).flatten().to(x.device), start.new_tensor([lr / 2, lr / 2, lr, 0])
    try:
        form(task.template, movers)(x[examples], Score(task.loss, y[examples], weight, weight.new_zeros(2, 2)))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, _NoForm):
        return False
    got = torch.cat([p.flatten(1) for p in w.values()], 1) - start
    want = sequential(task, x, y, work).delta
    return torch.allclose(got, want, atol=1e-6 + 1e-3 * want.abs().max().item(), rtol=0)


class _NoForm(Exception):  # noqa: N818 - never leaves this file
    """The model has something in it that this form does not know."""


class _Leaf(NamedTuple):
    """A layer whose parameters train."""

    layer: nn.Module
    names: dict[str, str]  # what its parameters are called in the model, by what it calls them

    def stacked(self, movers: Movers) -> stacked.Layer:
        mine = {key: movers[name] for key, name in self.names.items()}
        return stacked.STACKED[type(self.layer)](self.layer, mine)

    def weight_and_bias(self, views: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        return views[self.names["weight"]], views.get(self.names.get("bias"))


def _leaves(model: nn.Module) -> list[_Leaf]:
    """The layers that hold all that trains, each one that can be stacked."""
    if model not in _LEAVES:
        leaves = []
        for name, layer in model.named_modules():
            own = dict(layer.named_parameters(recurse=False))
            if any(p.requires_grad for p in own.values()):
                if type(layer) not in stacked.STACKED or not all(p.requires_grad for p in own.values()):
                    raise _NoForm
                leaves.append(_Leaf(layer, {key: f"{name}.{key}" if name else key for key in own}))
        _LEAVES[model] = leaves
    return _LEAVES[model]


_LEAVES: WeakKeyDictionary[nn.Module, list[_Leaf]] = WeakKeyDictionary()


def _tape(model: nn.Module, movers: Movers) -> Advance:
    """For layers one after another."""
    return _along(_line(model), {leaf.layer: leaf.stacked(movers) for leaf in _leaves(model)})


def _along(layers: Iterable[nn.Module], stacked: dict[nn.Module, stacked.Layer]) -> Advance:
    """Forward and backward by hand, since autograd costs as much as small layers do."""
    line = [(layer, stacked.get(layer)) for layer in layers]

    def advance(x, score):
        trail = []
        for layer, mine in line:
            if mine is not None:
                first = not trail
                x, saved = mine.forward(x)
                trail.append(lambda grad, mine=mine, saved=saved, first=first: mine.backward(saved, grad, not first))
            elif not trail:  # nothing to train before it
                x = layer(x)
            elif type(layer) is nn.ReLU:
                x = x.relu()
                trail.append(lambda grad, y=x: torch.ops.aten.threshold_backward(grad, y, 0))
            else:
                before = x.detach().requires_grad_()
                after = layer(before)
                x = after.detach()
                trail.append(lambda grad, y=after, x=before: torch.autograd.grad(y, x, grad)[0])
        grad = score.slope(x)
        for back in reversed(trail):
            grad = back(grad)

    return advance


def _line(model: nn.Module):
    """The layers of nested Sequentials, in order."""
    if not isinstance(model, nn.Sequential):
        raise _NoForm
    for layer in model.children():
        if isinstance(layer, nn.Sequential):
            yield from _line(layer)
        else:
            yield layer


def _swapped(model: nn.Module, movers: Movers) -> Advance:
    """For a model of any shape: its layers work stacked while its own forward runs, and autograd finds the way back."""
    leaves = [(leaf.layer, leaf.stacked(movers)) for leaf in _leaves(model)]
    anchor = torch.empty(0, requires_grad=True)  # without it the first layer, whose input wants no gradient, sees none

    def advance(x, score):
        for layer, mine in leaves:
            layer.forward = lambda x, mine=mine: _Stacked.apply(x, anchor, mine)
        try:
            score.total(model(x)).backward()
        finally:
            for layer, _ in leaves:
                del layer.forward

    return advance


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


def _mapped(model: nn.Module, movers: Movers) -> Advance:
    """For whatever PyTorch can map over: the forward pass by ``vmap``, one gradient of the summed losses."""
    together = vmap(lambda p, x: functional_call(model, p, (x,)))

    def advance(x, score):
        p = {name: mover.p.detach().requires_grad_() for name, mover in movers.items()}
        clients = len(next(iter(p.values())))
        output = together(p, x.unflatten(0, (clients, -1)))
        gradients = torch.autograd.grad(score.total(output.flatten(0, 1)), list(p.values()))
        for mover, g in zip(movers.values(), gradients, strict=True):
            mover.step(lambda to, sign, g=g: to.add_(g, alpha=sign))

    return advance
