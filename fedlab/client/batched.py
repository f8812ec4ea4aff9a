"""The fast engine: a cohort's models stand side by side along a client axis and take their steps together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedlab import params
from fedlab.client import stacked
from fedlab.client.local import lr_sum, sequential
from fedlab.params import over
from fedlab.records import Task, Updates, Work

IN_CACHE = 2_500_000  # weights of a chunk of clients: about what a processor's cache holds
AT_ONCE = 2000  # examples in a step of a chunk, which bounds the memory that activations take

Movers = dict[str, stacked.Step]
Advance = Callable[[Tensor, Callable[[Tensor], Tensor]], None]  # (x [a * B, ...], score): one step of everyone at work
Form = Callable[[nn.Module, Movers], Advance]  # of a model for many clients; score(output) is the weighted sum of the losses


def batched(task: Task, x: Tensor, y: Tensor, work: Work, *, chunk: int | None = None) -> Updates:
    """The numbers of ``sequential``, to rounding, for a whole cohort at once.

    Rows are sorted by their steps, so that those still at work stand first, and are taken ``chunk`` at a time (default: as
    many as the processor's cache holds).  A model of Linear, Conv2d, Embedding, LayerNorm, GroupNorm and layers
    without parameters is stacked; for another ``vmap`` is tried; where that fails, ``sequential`` does it, with a warning.
    """
    if len(work.origin) == 0:
        return sequential(task, x, y, work)
    form = _form(task, x, y)
    if form is None:
        return sequential(task, x, y, work)
    steps = (work.batches >= 0).any(2).sum(1)  # [m]
    order = torch.argsort(steps, descending=True, stable=True)
    delta, loss = _empty(len(order), work.start), work.lr.new_empty(len(order))
    chunk, done = chunk or _chunk(work), 0
    for rows in order.split(chunk):
        here = slice(done, done := done + len(rows))
        _train(form, task, x, y, work, rows, steps[rows], delta[here], loss[here])
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


def _train(form, task, x, y, work, rows, steps, delta, loss) -> None:
    """Train the clients ``rows [c]``, most steps first, and fill in ``delta [c, d]`` and ``loss [c]``."""
    batches = work.batches[rows].to(x.device)  # [c, K, B], a copy
    rows = rows.to(x.device)
    start = work.start if len(work.start) == 1 else work.start[work.origin[rows]]  # [1 or c, d]
    shapes = params.shapes(task.template)
    w = {name: p.expand(len(rows), *p.shape[1:]).clone() for name, p in params.views(start, shapes).items()}
    movers = _steps(work, rows, w, start, shapes)
    real = (batches >= 0).to(work.start.dtype)
    batches.clamp_(min=0)  # padding reads example 0, and weighs nothing
    labels = y[batches]
    share = real / real.sum(2, keepdim=True).clamp(min=1)  # a client's loss is the mean of its batch
    weight = share if work.optimizer == "adamw" else share * work.lr[rows, None, None]
    losses, at_work, advance = torch.zeros_like(share), 0, None
    for k, a in enumerate((steps[:, None] > torch.arange(int(steps[0]))).sum(0).tolist()):
        if a != at_work:
            movers, at_work = {name: _first(a, mover) for name, mover in movers.items()}, a
            advance = form(task.template, movers)

        def score(output, k=k, a=a):
            each = task.loss(output, labels[:a, k].flatten(0, 1))
            losses[:a, k] = each.detach().view(a, -1)
            return torch.dot(each, weight[:a, k].flatten())  # each.backward(weight) would first import sympy

        advance(x.index_select(0, batches[:a, k].flatten()), score)
    for name, view in params.views(delta, shapes).items():
        torch.sub(w[name], params.views(start, shapes)[name], out=view)
    loss.copy_((losses * share).sum((1, 2)) / steps.to(loss.device))  # 0 / 0 is NaN: no step, no loss


def _steps(work: Work, rows: Tensor, w: dict[str, Tensor], start: Tensor, shapes: dict) -> dict[str, stacked.Step]:
    """How each parameter of the clients ``rows`` moves: the optimizer, with h and mu in it."""
    lr, mu, rho, decay = (column[rows] for column in (work.lr, work.mu, work.momentum, work.weight_decay))
    adamw = work.optimizer == "adamw"
    scale, fade = (torch.ones_like(lr), mu) if adamw else (lr, lr * (mu + decay))
    pulls: dict[str, Tensor | None] = dict.fromkeys(w)
    if mu.any():
        pulls = {name: -over(scale * mu, p) * p for name, p in params.views(start, shapes).items()}
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
    shapes, start = params.shapes(task.template), params.flatten(task.template).to(x.device)
    start = start.to(x.dtype) if x.is_floating_point() else start
    start = torch.stack([start, 1.1 * start])
    column, lr = start.new_zeros(2), 10.0
    picked = torch.tensor([[[0, 1]], [[2, -1]]]).clamp(max=len(x) - 1)
    work = Work(start, torch.arange(2, device=x.device), picked, column, column + lr, column, column, column)
    w = {name: p.clone() for name, p in params.views(start, shapes).items()}
    movers = {name: stacked.Sgd(p, None, None) for name, p in w.items()}
    examples, weight = picked.clamp(min=0).flatten().to(x.device), start.new_tensor([lr / 2, lr / 2, lr, 0])
    try:
        form(task.template, movers)(x[examples], lambda output: torch.dot(task.loss(output, y[examples]), weight))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, _NoForm):
        return False
    got = torch.cat([p.flatten(1) for p in w.values()], 1) - start
    want = sequential(task, x, y, work).delta
    return torch.allclose(got, want, atol=1e-6 + 1e-3 * want.abs().max().item(), rtol=0)


class _NoForm(Exception):  # noqa: N818 - never leaves this file
    """The model has something in it that this form does not know."""


def _leaves(model: nn.Module, movers: Movers) -> dict[str, tuple[nn.Module, stacked.Layer]]:
    """The layers whose parameters train, each with its stacked form; together they hold all that trains."""
    found = {}
    for name, layer in model.named_modules():
        mine = {key: movers.get(f"{name}.{key}") for key, _ in layer.named_parameters(recurse=False)}
        if any(mine.values()):
            if type(layer) not in stacked.STACKED or not all(mine.values()):
                raise _NoForm
            found[name] = layer, stacked.STACKED[type(layer)](layer, mine)
    return found


def _tape(model: nn.Module, movers: Movers) -> Advance:
    """For layers one after another: forward and backward by hand, since autograd costs as much as small layers do."""
    line, leaves = list(_line(model)), _leaves(model, movers)

    def advance(x, score):
        trail = []
        for name, layer in line:
            if name in leaves:
                mine, first = leaves[name][1], not trail
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
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(score(x), x)
        for back in reversed(trail):
            grad = back(grad)

    return advance


def _line(model: nn.Module, prefix: str = ""):
    """The layers of nested Sequentials, in order, with their names."""
    if not isinstance(model, nn.Sequential):
        raise _NoForm
    for key, layer in model.named_children():
        if isinstance(layer, nn.Sequential):
            yield from _line(layer, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", layer


def _swapped(model: nn.Module, movers: Movers) -> Advance:
    """For a model of any shape: its layers work stacked while its own forward runs, and autograd finds the way back."""
    leaves = _leaves(model, movers).values()
    anchor = torch.empty(0, requires_grad=True)  # without it the first layer, whose input wants no gradient, sees none

    def advance(x, score):
        for layer, mine in leaves:
            layer.forward = lambda x, mine=mine: _Stacked.apply(x, anchor, mine)
        try:
            score(model(x)).backward()
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
        gradients = torch.autograd.grad(score(output.flatten(0, 1)), list(p.values()))
        for mover, g in zip(movers.values(), gradients, strict=True):
            mover.step(lambda to, sign, g=g: to.add_(g, alpha=sign))

    return advance
