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
from fedlab.client.local import sequential, updates
from fedlab.models.tabular import cross_entropy
from fedlab.params import over
from fedlab.records import Task, Updates, Work
from fedlab.rng import seeded

LOW_RANK = 64  # examples of a client up to which a Linear's update is kept as its factors
IN_CACHE = 2_500_000  # weights of a chunk of clients: about what a processor's cache holds
LARGE = 3_000_000  # parameters of a model whose layers take a processor longer than what is done around them
AT_ONCE = 2000  # examples in a step of a chunk, which bounds the memory that activations take

WRITTEN_AT_ONCE = 10  # clients whose factors are multiplied: their rows are still in the cache when they are copied

aten = torch.ops.aten

Movers = dict[str, stacked.Step]
Advance = Callable[[Tensor, "Score"], None]  # (x [a * B, ...], score): one step of everyone at work
Form = Callable[[nn.Module, Movers], Advance]  # of a model for many clients


def batched(task: Task, x: Tensor, y: Tensor, work: Work, *, chunk: int | None = None) -> Updates:
    """The numbers of ``sequential``, to rounding, for a whole cohort at once.

    Rows are sorted by their steps, so that those still at work stand first, and taken about ``chunk`` at a time (default: as
    many as the processor's cache holds).  A model of Linear, Conv2d, Embedding, LayerNorm, GroupNorm and layers
    without parameters is stacked; for another ``vmap`` is tried; where that fails, ``sequential`` does it, with a warning.
    On a processor it has the texts of large language models, too.
    """
    form = _form(task, x, y, work.start) if len(work.origin) and not _is_alone(task, work.start) else None
    if form is None:
        return sequential(task, x, y, work)
    steps = (work.batches[:, :, 0] >= 0).sum(1)  # [m]
    order = np.argsort(-steps, kind="stable")
    model, blocks = partial(_Written, form), [order[:, None]]
    if _is_low_rank(form, task, x, work):
        model, blocks = _Factored, _side_by_side(order, work.origin)
    delta, loss = _empty(len(order), work.start), np.empty(len(order))
    tokens = 1 if task.lengths is None else x.shape[1]
    for block in blocks:
        for rows in np.array_split(block, max(1, round(block.size / (chunk or _chunk(model, work, tokens))))):
            _train(model, task, x, y, work, rows, steps[rows].max(1), delta, loss)
    return updates(work, delta, steps, loss)


def _is_alone(task: Task, like: Tensor) -> bool:
    """Whether clients have nothing to win from standing side by side: on a processor that one client's texts keep busy."""
    if task.lengths is None or like.is_cuda:
        return False
    return sum(p.numel() for p in task.template(like).parameters()) > LARGE


def _side_by_side(order: np.ndarray, origin: np.ndarray) -> list[np.ndarray]:
    """Rows by what they start from, ``[c, v]``: a column a start, most steps first; where columns differ, one by one."""
    columns = [order[origin[order] == start] for start in sorted(set(origin.tolist()))]
    if len({len(column) for column in columns}) == 1:
        return [np.stack(columns, 1)]
    return [column[:, None] for column in columns]


def _chunk(model: Callable, work: Work, tokens: int) -> int:
    """How many clients to train side by side; of texts a step counts by their ``tokens`` at most."""
    batch_size = max(1, work.batches.shape[2]) * tokens
    if work.start.is_cuda:
        return max(4, 50 * AT_ONCE // batch_size)
    # fewer than 4 gain nothing, more than 200 neither; and factors are small
    fitting = 200 if model is _Factored else max(4, min(200, IN_CACHE // work.start.shape[1]))
    return max(1, min(fitting, AT_ONCE // batch_size))


def _empty(rows: int, like: Tensor) -> Tensor:
    """Memory for rows like ``like [v, d]``."""
    if like.is_cuda:
        return like.new_empty(rows, like.shape[1])
    # NumPy asks Linux for large pages, PyTorch for small ones, whose first touch costs more than training small models.
    return torch.from_numpy(np.empty((rows, like.shape[1]), dtype=like.numpy().dtype))


def _train(model, task, x, y, work, rows, steps, delta, loss) -> None:
    """Train the clients ``rows [c, v]``, most ``steps [c]`` first; fill in their ``delta`` and ``loss``."""
    at_work = np.arange(steps[0])[:, None] < steps  # [K, c]
    batches = work.batches[rows, : steps[0]].transpose(2, 0, 1, 3)  # [K, c, v, B]
    real = batches >= 0  # padding reads example 0, and weighs nothing
    share = real / real.sum(-1, keepdims=True).clip(1)  # a client's loss is the mean of its batch
    weight = share if work.optimizer == "adamw" else share * work.lr[rows, None]
    seen = torch.from_numpy(batches[at_work].clip(0).ravel()).to(x.device)  # by those at work, step after step
    weight = torch.from_numpy(weight[at_work].ravel()).to(work.start)
    columns = (seen, y.index_select(0, seen), weight, losses := torch.empty_like(weight))
    clients = at_work.sum(1) * rows.shape[1]
    sizes, models = (clients * batches.shape[3]).tolist(), model(task, work, rows)
    for a, seen, *score in zip(clients.tolist(), *(column.split_with_sizes(sizes) for column in columns), strict=True):
        models.advance(a, x.index_select(0, seen), Score(task.loss, *score))
    models.finish(params.views(delta, task.shapes), rows)
    each = np.zeros_like(share)
    each[at_work] = losses.numpy(force=True).reshape(-1, *share.shape[2:])
    taken = real.any(3).sum(0)  # [c, v], each one's own steps
    loss[rows] = np.where(taken > 0, (each * share).sum((0, 3)) / taken.clip(1), np.nan)


def _place(rows: np.ndarray) -> slice | np.ndarray:
    """Where ``rows`` lie: a slice, which is faster, where they follow each other."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows


class _Written:
    """Models side by side, each with all its parameters."""

    def __init__(self, form: Form, task: Task, work: Work, rows: np.ndarray):
        rows = rows.ravel()
        self.start, self.origin = params.views(work.start, task.shapes), work.origin[rows]
        fixed = np.zeros((len(rows), len(self.start)), bool) if work.fixed is None else work.fixed[self.origin]
        self.fixed = {name for name, column in zip(self.start, fixed.T, strict=True) if column.all()}
        self.w = {name: self._from(name) if name in self.fixed else self._from(name).clone() for name in self.start}
        self.masks = {} if work.mask is None else params.views(work.mask[self.origin], task.shapes)
        self.back = {  # of tensors that only some of these clients move, to whom they are not given back
            name: torch.from_numpy(column).to(work.start.device)
            for name, column in zip(self.start, fixed.T, strict=True)
            if column.any() and name not in self.fixed
        }
        moving = {name: p for name, p in self.w.items() if name not in self.fixed}
        self.movers = _steps(work, rows, moving, task.shapes)
        self.movers |= {name: stacked.Fixed(self.w[name]) for name in self.fixed}
        self.form, self.template, self.at_work = form, task.template(work.start), len(self.origin)
        self.step = form(self.template, self.movers)

    def advance(self, a: int, x: Tensor, score: Score) -> None:
        if a < self.at_work:
            self.movers, self.at_work = {name: _first(a, mover) for name, mover in self.movers.items()}, a
            self.step = self.form(self.template, self.movers)
        self.step(x, score)
        for name, mask in self.masks.items():
            self.w[name][:a].mul_(mask[:a])
        for name, stays in self.back.items():
            self.w[name][:a] = torch.where(over(stays[:a], self.w[name]), self._from(name)[:a], self.w[name][:a])

    def finish(self, delta: dict[str, Tensor], rows: np.ndarray) -> None:
        here = _place(rows.ravel())
        for name, view in delta.items():
            if name in self.fixed:
                view[here] = 0
            elif isinstance(here, slice):
                torch.sub(self.w[name], self._from(name), out=view[here])
            else:
                view[here] = self.w[name].sub_(self._from(name))

    def _from(self, name: str) -> Tensor:
        """What each client starts from, ``[c, *shape]``."""
        p = self.start[name]
        return p.expand(len(self.origin), *p.shape[1:]) if len(p) == 1 else p[self.origin]


class _Factored:
    """Models side by side of which only the differences from their start are kept, as factors."""

    def __init__(self, task: Task, work: Work, rows: np.ndarray):
        template, starts = task.template(work.start), rows.shape[1]
        start = work.start if starts == len(work.start) else work.start[work.origin[rows[0]]]
        start, (steps, batch_size) = params.views(start, task.shapes), work.batches.shape[1:]
        self.layers = [
            (leaf, stacked.LowRank(*leaf.weight_and_bias(start), rows.size, batch_size, steps)) for leaf in _leaves(template)
        ]
        self.step = _along(_line(template), {leaf.layer: layer for leaf, layer in self.layers})

    def advance(self, a: int, x: Tensor, score: Score) -> None:
        self.step(x, score)

    def finish(self, delta: dict[str, Tensor], rows: np.ndarray) -> None:
        v, most = rows.shape[1], WRITTEN_AT_ONCE
        for s, c in itertools.product(range(v), range(0, len(rows), most)):
            there, here = _place(rows[c : c + most, s]), slice(c * v + s, (c + most) * v, v)
            for leaf, layer in self.layers:
                layer.write(*leaf.weight_and_bias(delta), there, here)


def _is_low_rank(form: Form, task: Task, x: Tensor, work: Work) -> bool:
    """Whether this is plain SGD on few examples a client, from whole models of Linear layers that several of them share."""
    few = len(work.origin) >= 4 * len(work.start) and work.batches.shape[1] * work.batches.shape[2] <= LOW_RANK
    if not (few and form is _tape and _is_plain(work) and work.mask is None and work.fixed is None):
        return False
    model = task.template(work.start)
    rows = x.dim() == 2 or type(next(_line(model))) is nn.Flatten
    return rows and all(type(leaf.layer) is nn.Linear for leaf in _leaves(model))


class Score(NamedTuple):
    """The losses of a step's examples, and with which weights they count."""

    loss: Callable[[Tensor, Tensor], Tensor]
    y: Tensor  # [a * B, ...]
    weight: Tensor  # [a * B]
    losses: Tensor  # [a * B], filled in

    def total(self, output: Tensor) -> Tensor:
        """The weighted sum."""
        each = self.loss(output, self.y)
        self.losses.copy_(each.detach())
        return torch.dot(each, self.weight)  # each.backward(weight) would first import sympy

    def slope(self, output: Tensor) -> Tensor:
        """Its gradient at ``output [a * B, ...]``; that of cross-entropy by PyTorch's own kernels, without a tape."""
        if self.loss is not cross_entropy or output.dim() != 2:
            output = output.detach().requires_grad_()
            return torch.autograd.grad(self.total(output), output)[0]
        log_p = torch.log_softmax(output, 1)
        torch.gather(log_p, 1, self.y[:, None], out=self.losses[:, None]).neg_()
        unused = self.weight[:1]  # would be the sum of the weights, if the losses were averaged
        grad = aten.nll_loss_backward(self.weight, log_p, self.y, None, 0, -100, unused)
        return aten._log_softmax_backward_data(grad, log_p, 1, log_p.dtype)


def _steps(work: Work, rows: np.ndarray, w: dict[str, Tensor], shapes: dict) -> Movers:
    """How each parameter ``w`` of the clients ``rows``, which is still at its start, moves: the optimizer, with h and mu."""
    if _is_plain(work):
        return {name: stacked.Sgd(p, None, None) for name, p in w.items()}
    columns = (work.lr, work.mu, work.momentum, work.weight_decay)
    lr, mu, rho, decay = (torch.from_numpy(column[rows]).to(work.start) for column in columns)
    adamw = work.optimizer == "adamw"
    scale, fade = (torch.ones_like(lr), mu) if adamw else (lr, lr * (mu + decay))
    pulls: dict[str, Tensor | None] = dict.fromkeys(w)
    if mu.any():
        pulls = {name: -over(scale * mu, p) * p for name, p in w.items()}
    if work.h is not None:
        for name, h in params.views(work.h[_place(rows)], shapes).items():
            if name not in w:
                continue
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


def _is_plain(work: Work) -> bool:
    """Whether this is SGD and nothing else."""
    more = work.mu.any() or work.momentum.any() or work.weight_decay.any()
    return work.optimizer == "sgd" and work.h is None and not more


def _first(a: int, mover: stacked.Step) -> stacked.Step:
    """The same for the first ``a`` clients, those still at work."""
    return type(mover)(*(None if column is None else column[:a] for column in mover))


def _form(task: Task, x: Tensor, y: Tensor, like: Tensor) -> Form | None:
    """The fastest form of the model that is tried to be right; None where only ``sequential`` can run it."""
    if task not in _FORMS:
        with seeded(0, "form"):
            start = params.flatten(task.model()).to(like)
        _FORMS[task] = next((form for form in (_tape, _swapped, _mapped) if _is_right(form, task, x, y, start)), None)
        if _FORMS[task] is None and task.lengths is None:  # large models of texts are meant to train one after another
            name = type(task.template(like)).__name__
            warnings.warn(f"{name} has no form for many clients at once: they train one after another", stacklevel=3)
    return _FORMS[task]


_FORMS: WeakKeyDictionary[Task, Form | None] = WeakKeyDictionary()


def _is_right(form: Form, task: Task, x: Tensor, y: Tensor, start: Tensor) -> bool:
    """Whether one large step of two unlike clients, one with a short batch, comes out as from ``sequential``."""
    start = torch.stack([start, 1.1 * start])
    zeros, lr = np.zeros(2), 10.0
    picked = np.array([[[0, 1]], [[2, -1]]]).clip(max=len(x) - 1)
    work = Work(start, np.arange(2), picked, zeros, zeros + lr, zeros, zeros, zeros)
    w = {name: p.clone() for name, p in params.views(start, task.shapes).items()}
    movers = {name: stacked.Sgd(p, None, None) for name, p in w.items()}
    examples, weight = picked.clip(0).ravel(), start.new_tensor([lr / 2, lr / 2, lr, 0])
    try:
        form(task.template(start), movers)(x[examples], Score(task.loss, y[examples], weight, torch.empty_like(weight)))
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


def _along(layers: Iterable[nn.Module], trained: dict[nn.Module, stacked.Layer]) -> Advance:
    """Forward and backward by hand, since autograd costs as much as small layers do."""
    line = [trained.get(layer) or (stacked.ReLU() if type(layer) is nn.ReLU else stacked.Plain(layer)) for layer in layers]
    first = min(line.index(layer) for layer in trained.values())  # nothing wants a gradient before it

    def advance(x, score):
        trail = []
        for layer in line:
            x, saved = layer.forward(x)
            trail.append(saved)
        grad = score.slope(x)
        for k in range(len(line) - 1, first - 1, -1):
            grad = line[k].backward(trail[k], grad, k > first)

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
