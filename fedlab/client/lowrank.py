"""Few steps of plain SGD on Linear layers change them by matrices of low rank: clients are kept as those factors.

After r examples a client has ``W_i = W - G_iᵀ X_i``: ``X_i [r, in]`` are the inputs that the layer saw, ``G_i [r, out]`` the
gradients, with lr, that came back.  So nobody writes ``W_i`` down, and the mean of the updates is one product of factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fedlab.client import layers as stacked
from fedlab.core import Task, Work, params
from fedlab.models.tabular import cross_entropy

MOST = 64  # examples of a client up to which its updates are kept as factors
NARROW, TALL = 16, 250  # columns below, and rows from which on, a product is sooner had turned
LARGE = 4_000_000  # multiplications that are worth all threads
WRITTEN_AT_ONCE = 10  # clients whose factors are multiplied: their rows are still in the cache when they are copied


def suits(task: Task, x: Tensor, work: Work) -> bool:
    """Whether several clients share each start, see few examples, and the model is a line of Linear layers."""
    few = (
        len(work.origin) >= 4 * len(work.start)
        and work.batches.shape[1] * work.batches.shape[2] <= MOST
    )
    return (
        few and work.mask is None and work.fixed is None and is_linear(task.template(work.start), x)
    )


def is_linear(model: nn.Module, x: Tensor) -> bool:
    """Whether all that trains in a line of layers are Linear ones, which see an example ``x [n, ...]`` as one row."""
    try:
        first, trained = stacked.line(model)[0], stacked.leaves(model)
    except stacked.NoForm:
        return False
    return (x.dim() == 2 or type(first) is stacked.Flatten) and all(
        type(leaf.layer) is nn.Linear for leaf in trained
    )


def side_by_side(order: np.ndarray, origin: np.ndarray) -> list[np.ndarray]:
    """Clients by what they start from, ``[v, c]``: a row a start, in ``order``; where rows differ in length, one by one."""
    rows, many = order[np.argsort(origin[order], kind="stable")], np.bincount(origin)
    many = many[many > 0]
    if (many == many[0]).all():
        return [rows.reshape(len(many), -1)]
    return [row[None] for row in np.split(rows, many.cumsum()[:-1])]


class Models:
    """Models side by side, those of a start after each other, of which only the factors are kept."""

    def __init__(self, into: FactoredRows, task: Task, work: Work, rows: np.ndarray):
        start = (
            work.start if len(rows) == work.start.shape[0] else work.start[work.origin[rows[:, 0]]]
        )
        self.into, self.rows, self.leaves = into, rows, stacked.leaves(task.template(start))
        self.line = line_from(task, start, work.batches.shape[2])
        self.examples = (work.batches[rows, :, 0] >= 0).sum(-1) * work.batches.shape[
            2
        ]  # [v, c], with pads
        self.by_hand = (
            self.line.by_hand and task.loss is cross_entropy
        )  # and PyTorch need not get ready for autograd

    def advance(self, a: int, x: Tensor, score: Any) -> None:
        if a < self.rows.size:
            self._leave(a // len(self.rows))
        self.line.advance(x, score)

    def finish(self) -> None:
        self._leave(0)

    def _leave(self, stay: int) -> None:
        """All but the first ``stay`` clients of each start are done; before the first step that is who has nothing to do."""
        done, self.rows = self.rows[:, stay:], self.rows[:, :stay]
        idle, self.examples = self.examples[:, stay:], self.examples[:, :stay]
        factors = [
            (names, self.line.trained[layer].leave(len(done), stay, idle))
            for layer, names in self.leaves
        ]
        if factors[0][1] is not None:
            spans = list(zip(done.min(1).tolist(), done.max(1).tolist(), strict=True))
            self.into.parts.append(Part(done, spans, [(names, *both) for names, both in factors]))


def line_from(task: Task, w: Tensor, batch_size: int) -> stacked.Line:
    """Models ``w [v, d]`` to start from."""
    template = task.template(w)
    return stacked.Line(
        template,
        {layer: LowRank(*its, batch_size) for layer, its in _weights(task, template, w).items()},
    )


def _weights(
    task: Task, template: nn.Module, w: Tensor
) -> dict[nn.Module, tuple[Tensor, Tensor, Tensor | None]]:
    """Of each layer the weight, its transpose and the bias, as views; once, where what was evaluated is then trained on."""
    place, last = (w.data_ptr(), w.shape, w.stride()), _LAST.get(template)
    if last is None or last[0] != place:
        views, its = params.views(w if w.shape[0] > 1 else w[0], task.shapes), {}
        for layer, names in stacked.leaves(template):
            weight, bias = (
                views[names["weight"]],
                views[names["bias"]].unsqueeze(-2) if "bias" in names else None,
            )
            its[layer] = weight, weight.mT, bias
        last = _LAST[template] = place, its
    return last[1]


_LAST: WeakKeyDictionary[nn.Module, tuple] = (
    WeakKeyDictionary()
)  # views keep a row where it is: the place tells it


class LowRank:
    """A Linear as its factors: ``x W_iᵀ = x Wᵀ - (x X_iᵀ) G_i``, one product for everyone and two thin ones.

    (``stacked.Linear`` reads every ``W_i`` twice a step and writes it once.)  All start from one ``W [out, in]``, or equally
    many clients from each of ``W [v, out, in]``.
    """

    def __init__(self, weight: Tensor, across: Tensor, bias: Tensor | None, batch_size: int):
        self.batch_size, self.weight, self.across, self.bias = batch_size, weight, across, bias
        self.x = self.g = None  # X [v * a, r, in] and G [v * a, r, out] of those at work

    def forward(self, x):  # [v * a * B, in]
        y, rows = self._shared(x, self.across, self.bias), x.view(-1, self.batch_size, x.shape[1])
        if self.x is not None:
            alike = torch.baddbmm(self.one, rows, self.x.mT)  # [v * a, B, r]
            y.view(rows.shape[0], self.batch_size, -1).baddbmm_(alike, self.g, alpha=-1)
        return y, rows

    def backward(self, rows, grad, wanted):
        g, down = (
            grad.view(rows.shape[0], self.batch_size, -1),
            self._shared(grad, self.weight) if wanted else None,
        )
        if self.x is None:
            self.x, self.g = rows, g
            self.one = rows.new_full(
                (), self.bias is not None
            )  # a bias is the weight of an input that is 1
        else:
            if wanted:
                down.view_as(rows).baddbmm_(torch.bmm(g, self.g.mT), self.x, alpha=-1)
            self.x, self.g = torch.cat((self.x, rows), 1), torch.cat((self.g, g), 1)
        return down

    def leave(self, starts: int, stay: int, examples: np.ndarray) -> tuple[Tensor, Tensor] | None:
        """The factors ``[v, c, r, ...]``, if any, of all but the first ``stay`` clients of each start, who are forgotten.

        They are 0 beyond the ``examples [v, c]`` of a client, which was idle while its neighbours of other starts worked.
        """
        if self.x is None:
            return None
        x, g = (each.view(starts, -1, *each.shape[1:]) for each in (self.x, self.g))
        if stay:
            self.x, self.g = x[:, :stay].flatten(0, 1), g[:, :stay].flatten(0, 1)
        x, g = x[:, stay:], g[:, stay:]
        if (examples < x.shape[2]).any():  # zeros times what is not finite would not be 0
            idle = torch.from_numpy(np.arange(x.shape[2]) >= examples[..., None]).to(x.device)[
                ..., None
            ]
            x, g = x.masked_fill(idle, 0), g.masked_fill(idle, 0)
        return x, g

    def _shared(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x [v * a * B, n]`` times the weight ``[n, k]`` of everyone's start, or of each one's, ``[v, n, k]``."""
        if weight.dim() == 2:
            return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)
        x = x.view(weight.shape[0], -1, x.shape[1])
        return (torch.bmm(x, weight) if bias is None else _affine(x, weight, bias)).flatten(0, 1)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W + b`` of each start: ``[v, n, k]``, ``[v, k, m]`` and ``[v, 1, m]`` to ``[v, n, m]``."""
    (v, n, k), m = x.shape, weight.shape[2]
    if m < NARROW and n >= TALL:
        return torch.baddbmm(bias.mT, weight.mT, x.mT).mT
    even = v - v % torch.get_num_threads()
    if n * k * m < LARGE or even == v or x.is_cuda:
        return torch.baddbmm(bias, x, weight)
    y = x.new_empty(
        v, n, m
    )  # a thread takes whole products: those that are left when all have as many are done by all
    torch.baddbmm(bias[:even], x[:even], weight[:even], out=y[:even])
    for i in range(even, v):
        torch.addmm(bias[i], x[i], weight[i], out=y[i])
    return y


class Part(NamedTuple):
    """The factors of some rows, equally many of each of v starts."""

    rows: np.ndarray  # [v, c], which ones
    spans: list[tuple[int, int]]  # of each start the lowest of its rows, and the highest
    factors: list[
        tuple[dict[str, str], Tensor, Tensor]
    ]  # of layers: parameters' names, X [s, c, r, in], G [s, c, r, out]
    first: int = 0  # of the v starts among s

    @property
    def layers(self) -> list[tuple[dict[str, str], Tensor, Tensor]]:
        """Those of the v starts only."""
        v = len(self.rows)
        if v == len(self.factors[0][1]):
            return self.factors
        return [
            (names, x.narrow(0, self.first, v), g.narrow(0, self.first, v))
            for names, x, g in self.factors
        ]


class FactoredRows(Tensor):
    """Rows ``[m, d]`` as their factors; to PyTorch a matrix, written out when more is asked of it than ``p @ rows``.

    ``n [m]`` are the examples of each, which is how rows are mostly weighed.
    """

    @staticmethod
    def __new__(cls, n: Tensor, shapes: Mapping[str, torch.Size]):
        d = sum(shape.numel() for shape in shapes.values())
        return Tensor._make_wrapper_subclass(cls, (len(n), d), dtype=n.dtype, device=n.device)

    def __init__(self, n: Tensor, shapes: Mapping[str, torch.Size]):
        self.n, self.shapes, self.parts, self.rows = n, shapes, [], None
        self.whole: tuple[FactoredRows, int] | None = (
            None  # of which these are the rows of one start
        )
        self.shares: Tensor | None = None  # [v, m / v], of each start's examples
        self.sums: dict[int, Tensor] | None = None  # of each start, by its shares

    @classmethod
    def __torch_function__(cls, func: Callable, types, args=(), kwargs=None):
        if func in _KNOWN:
            return super().__torch_function__(func, types, args, kwargs)
        if (
            func in (torch.matmul, Tensor.matmul, Tensor.__matmul__)
            and type(args[0]) is Tensor
            and args[0].dim() == 1
        ):
            if args[1].rows is None:
                return args[1].weighed(args[0])
        elif func is Tensor.__getitem__ and type(args[1]) is slice and args[0].rows is None:
            return args[0].some(args[1])
        elif func is Tensor.split_with_sizes and args[0].rows is None:
            return [
                args[0].some(slice(end - size, end))
                for size, end in zip(args[1], accumulate(args[1]), strict=True)
            ]
        return cls.__torch_dispatch__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types, args=(), kwargs=None):
        args, kwargs = tree_map(
            lambda a: a.written() if isinstance(a, cls) else a, (args, kwargs or {})
        )
        return func(*args, **kwargs)

    def weighed(self, p: Tensor) -> Tensor:
        """``sum_i p_i rows_i [d]``; by size, as it mostly is, with those of the other starts at once."""
        if self.whole is not None and self.whole[0].rows is None:
            every, s = self.whole
            if every.shares is None:
                n = every.n.view(-1, len(self.n))
                every.shares = n / n.sum(1, keepdim=True)
            if torch.equal(p, every.shares[s]):
                if every.sums is None:
                    every.sums = dict(enumerate(every.each(every.shares.view(-1))))
                if s in every.sums:  # to be given away once: it is then the asker's own
                    return every.sums.pop(s)
        sums = self.each(p)
        return sums[0] if len(sums) == 1 else sums.sum(0)

    def each(self, p: Tensor) -> Tensor:
        """Those sums for the rows of each start, ``[v, d]``: of a layer ``-(p G)ᵀ X``, all examples one under the other."""
        if not self.parts:
            return p.new_zeros(1, self.shape[1])
        where, sums = [torch.from_numpy(part.rows).to(p.device) for part in self.parts], {}
        shares = [-p.take(rows).view(*rows.shape, 1, 1) for rows in where]
        for layer in zip(*(part.layers for part in self.parts), strict=True):
            names, x = layer[0][0], _under([x for _, x, _ in layer])
            g = _under([share * g for share, (_, _, g) in zip(shares, layer, strict=True)])
            sums[names["weight"]] = torch.bmm(g.mT, x).flatten(1)
            if "bias" in names:
                sums[names["bias"]] = g.sum(1)
        return torch.cat([sums[name] for name in self.shapes], 1)

    def some(self, here: slice) -> Tensor:
        """The rows ``here``, as factors unless a start has rows within and without."""
        m = self.n.shape[0]
        a, b, step = here.indices(m)
        if (a, b, step) == (0, m, 1):
            return self
        fewer, starts = FactoredRows(self.n[here], self.shapes), set()
        for part in self.parts:
            touched = [s for s, (low, high) in enumerate(part.spans) if low < b and high >= a]
            if not touched:
                continue
            some = slice(touched[0], touched[-1] + 1)
            spans = [(low - a, high - a) for low, high in part.spans[some]]
            if step != 1 or any(low < 0 or high >= b - a for low, high in spans):
                return self.written()[here]
            fewer.parts.append(
                Part(part.rows[some] - a, spans, part.factors, part.first + touched[0])
            )
            starts.update(touched)
        if len(starts) == 1 and len(self.parts[0].rows) * (b - a) == m:
            fewer.whole = self, starts.pop()
        return fewer

    def written(self) -> Tensor:
        """All of them, ``[m, d]``; from then on these are the rows."""
        if self.rows is None:
            self.rows = params.empty_rows(self.shape[0], self)
            self._write(params.views(self.rows, self.shapes))
            self.parts = []
        return self.rows

    def _write(self, into: dict[str, Tensor]) -> None:
        idle = np.ones(self.shape[0], bool)
        for part in self.parts:
            rows = part.rows.ravel()
            idle[rows] = False
            for k in range(0, len(rows), WRITTEN_AT_ONCE):
                some = slice(k, k + WRITTEN_AT_ONCE)
                there = params.as_slice(rows[some])
                for names, x, g in part.layers:
                    x, minus = x.flatten(0, 1)[some], -g.flatten(0, 1)[some]
                    into[names["weight"]][there] = torch.bmm(minus.mT, x)
                    if "bias" in names:
                        into[names["bias"]][there] = minus.sum(1)
        for view in into.values():
            view[torch.from_numpy(idle)] = 0


# What is asked of rows that are not written yet, and stay so.
_KNOWN = {
    Tensor.shape.__get__,
    Tensor.dtype.__get__,
    Tensor.device.__get__,
    Tensor.is_cuda.__get__,
    Tensor.__len__,
}


def _under(parts: list[Tensor]) -> Tensor:
    """``[v, c, r, n]`` of each part, all rows of a start one under the other, ``[v, .., n]``."""
    return (
        parts[0].flatten(1, 2)
        if len(parts) == 1
        else torch.cat([part.flatten(1, 2) for part in parts], 1)
    )
