"""Updates of Linear layers kept as factors of low rank.

After r examples, plain SGD has changed a client's Linear layer by a matrix of rank at most r:
``W_i = W - G_iᵀ X_i``.  ``X_i [r, in]`` are the inputs that the layer saw, and ``G_i [r, out]``
the output gradients, times the learning rate.  So ``W_i`` is never written out, and the weighted
sum of all updates is one product of factors::

              one W [out, in] for all clients of a start
        .................................................
    client 1           client 2          ...    client m
    X_1 [r, in]        X_2 [r, in]              X_m [r, in]     a step appends B rows
    G_1 [r, out]       G_2 [r, out]             G_m [r, out]    to both factors
        '------------------'----------.-------------'
                                      | weighted_sum(p)
                                      v
        - [p_1 G_1 ... p_m G_m]ᵀ [X_1 ... X_m]                  one product, [out, in]

``FactoredRows`` are these updates as rows ``[m, d]`` (see ``fedlab.core.lazy_rows``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.client.layers import Flatten
from fedlab.client.sequence import LayerSequence, Unsupported, sequence, trainable_layers
from fedlab.core import Task, Work, params
from fedlab.core.lazy_rows import LazyRows
from fedlab.models.tabular import cross_entropy

MAX_EXAMPLES = 64  # per client: beyond it, factors are larger than what they save
NARROW, TALL = 16, 250  # below 16 columns and from 250 rows on, the transposed product is faster
LARGE = 4_000_000  # multiplications in one product that are worth all threads
DENSE_AT_ONCE = 10  # clients written out together: their rows still lie in the cache when copied


def suits(task: Task, x: Tensor, work: Work) -> bool:
    """Return whether factors pay: many clients per start, few examples, only Linear layers.

    Args:
        task: Model and loss.
        x: Examples of all clients, ``[n, ...]``.
        work: The work of the cohort.
    """
    is_small = (
        len(work.origin) >= 4 * len(work.start)
        and work.batches.shape[1] * work.batches.shape[2] <= MAX_EXAMPLES
    )
    is_unmasked = work.mask is None and work.fixed is None
    return is_small and is_unmasked and is_linear(task.template(work.start), x)


def is_linear(model: nn.Module, x: Tensor) -> bool:
    """Return whether a sequence trains Linear layers only, each example ``x [n, ...]`` one row."""
    try:
        first, trained = sequence(model)[0], trainable_layers(model)
    except Unsupported:
        return False
    return (x.dim() == 2 or type(first) is Flatten) and all(
        type(trainable.layer) is nn.Linear for trainable in trained
    )


def group_by_start(order: np.ndarray, origin: np.ndarray) -> list[np.ndarray]:
    """Return blocks ``[v, c]`` of clients, one row per start, each in ``order``.

    One block holds all starts if they have equally many clients; else each start is a block.
    """
    rows = order[np.argsort(origin[order], kind="stable")]
    counts = np.bincount(origin)
    counts = counts[counts > 0]
    if (counts == counts[0]).all():
        return [rows.reshape(len(counts), -1)]
    return [row[None] for row in np.split(rows, counts.cumsum()[:-1])]


class FactoredModels:
    """Models side by side, grouped by start, of which only the factors are kept."""

    def __init__(self, updates: FactoredRows, task: Task, work: Work, rows: np.ndarray):
        start = (
            work.start if len(rows) == work.start.shape[0] else work.start[work.origin[rows[:, 0]]]
        )
        batch_size = work.batches.shape[2]
        self.updates, self.rows = updates, rows
        self.trainable = trainable_layers(task.template(start))
        self.sequence = factored_sequence(task, start, batch_size)
        self.examples = (work.batches[rows, :, 0] >= 0).sum(-1) * batch_size  # [v, c], with pads
        # PyTorch need not get ready for autograd.
        self.manual_backward = self.sequence.manual_backward and task.loss is cross_entropy

    def advance(self, active: int, x: Tensor, score: Any) -> None:
        """Take one step with the clients still at work.

        Args:
            active: How many there are; the others are done.
            x: Their examples, ``[active * B, ...]``.
            score: Losses and weights of these examples.
        """
        if active < self.rows.size:
            self._retire(active // len(self.rows))
        self.sequence.advance(x, score)

    def finish(self) -> None:
        """Keep the factors of all clients that are left."""
        self._retire(0)

    def _retire(self, stay: int) -> None:
        """Keep the factors of all but the first ``stay`` clients of each start.

        Before the first step these are the clients without examples, which have no factors.
        """
        done, self.rows = self.rows[:, stay:], self.rows[:, :stay]
        examples, self.examples = self.examples[:, stay:], self.examples[:, :stay]
        factors = [
            (names, self.sequence.trained[layer].retire(len(done), stay, examples))
            for layer, names in self.trainable
        ]
        if factors[0][1] is not None:
            row_ranges = list(zip(done.min(1).tolist(), done.max(1).tolist(), strict=True))
            blocks = [(names, *pair) for names, pair in factors]
            self.updates.blocks.append(FactorBlock(done, row_ranges, blocks))


def factored_sequence(task: Task, w: Tensor, batch_size: int) -> LayerSequence:
    """Return models that start from rows and hold their changes as factors.

    Args:
        task: Model and loss.
        w: The starts, ``[v, d]``.
        batch_size: Examples of each client in a step, with pads.
    """
    template = task.template(w)
    weights = _weights(task, template, w)
    layers = {layer: FactoredLinear(*tensors, batch_size) for layer, tensors in weights.items()}
    return LayerSequence(template, layers)


def _weights(
    task: Task, template: nn.Module, w: Tensor
) -> dict[nn.Module, tuple[Tensor, Tensor, Tensor | None]]:
    """Return views of the weight, its transpose and the bias of each layer.

    They are kept until other rows are asked for: a model is evaluated and then trained.
    """
    place = (w.data_ptr(), w.shape, w.stride())
    last = _LAST_WEIGHTS.get(template)
    if last is None or last[0] != place:
        views = params.views(w if w.shape[0] > 1 else w[0], task.shapes)
        weights = {}
        for layer, names in trainable_layers(template):
            weight = views[names["weight"]]
            bias = views[names["bias"]].unsqueeze(-2) if "bias" in names else None
            weights[layer] = weight, weight.mT, bias
        last = _LAST_WEIGHTS[template] = place, weights
    return last[1]


# The views keep the row alive, so its place in memory identifies it.
_LAST_WEIGHTS: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()


class FactoredLinear:
    """A Linear as its factors: ``x W_iᵀ = x Wᵀ - (x X_iᵀ) G_i``.

    That is one product for all clients and two thin ones for each; ``layers.Linear`` reads every
    ``W_i`` twice a step and writes it once.  All clients start from one ``W [out, in]``, or
    equally many from each of ``W [v, out, in]``.
    """

    def __init__(self, weight: Tensor, weight_t: Tensor, bias: Tensor | None, batch_size: int):
        self.batch_size, self.bias = batch_size, bias
        self.weight, self.weight_t = weight, weight_t
        self.x: Tensor | None = None  # X [v * a, r, in] of the clients at work
        self.g: Tensor | None = None  # G [v * a, r, out]

    def forward(self, x):  # [v * a * B, in]
        y, rows = self._start(x, self.weight_t, self.bias), x.view(-1, self.batch_size, x.shape[1])
        if self.x is not None:
            inner = torch.baddbmm(self.one, rows, self.x.mT)  # [v * a, B, r]
            y.view(rows.shape[0], self.batch_size, -1).baddbmm_(inner, self.g, alpha=-1)
        return y, rows

    def backward(self, rows, grad, wanted):
        """Append to the factors, and return the gradient of the input.

        Args:
            rows: Inputs as rows of each client, from the forward pass.
            grad: Gradient of the output.
            wanted: Whether the gradient of the input is wanted.
        """
        g = grad.view(rows.shape[0], self.batch_size, -1)
        grad_input = self._start(grad, self.weight) if wanted else None
        if self.x is None:
            self.x, self.g = rows, g
            # A bias is the weight of an input that is always 1.
            self.one = rows.new_full((), self.bias is not None)
        else:
            if wanted:
                grad_input.view_as(rows).baddbmm_(torch.bmm(g, self.g.mT), self.x, alpha=-1)
            self.x, self.g = torch.cat((self.x, rows), 1), torch.cat((self.g, g), 1)
        return grad_input

    def retire(self, starts: int, stay: int, examples: np.ndarray) -> tuple[Tensor, Tensor] | None:
        """Return the factors of all but the first ``stay`` clients of each start, and drop them.

        Args:
            starts: Number v of models that clients start from.
            stay: Clients of each start that go on.
            examples: Examples, with pads, of each client that leaves, ``[v, c]``.

        Returns:
            ``X`` and ``G [v, c, r, ...]``, or None before the first step.  They are 0 beyond the
            examples of a client, which was idle while clients of other starts worked.
        """
        if self.x is None or self.g is None:
            return None
        x, g = (factor.view(starts, -1, *factor.shape[1:]) for factor in (self.x, self.g))
        if stay:
            self.x, self.g = x[:, :stay].flatten(0, 1), g[:, :stay].flatten(0, 1)
        x, g = x[:, stay:], g[:, stay:]
        if (examples < x.shape[2]).any():  # zeros times non-finite values would not be 0
            idle = torch.from_numpy(np.arange(x.shape[2]) >= examples[..., None])
            idle = idle.to(x.device)[..., None]
            x, g = x.masked_fill(idle, 0), g.masked_fill(idle, 0)
        return x, g

    def _start(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply ``x [v * a * B, n]`` by the shared weight ``[n, k]``, or by ``[v, n, k]``."""
        if weight.dim() == 2:
            return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)
        x = x.view(weight.shape[0], -1, x.shape[1])
        return (torch.bmm(x, weight) if bias is None else affine(x, weight, bias)).flatten(0, 1)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``x W + b`` of each start, ``[v, n, m]``, by the product that is fastest.

    Args:
        x: Inputs ``[v, n, k]``.
        weight: Weights ``[v, k, m]``.
        bias: Biases ``[v, 1, m]``.
    """
    (v, n, k), m = x.shape, weight.shape[2]
    if m < NARROW and n >= TALL:
        return torch.baddbmm(bias.mT, weight.mT, x.mT).mT
    even = v - v % torch.get_num_threads()
    if n * k * m < LARGE or even == v or x.is_cuda:
        return torch.baddbmm(bias, x, weight)
    # A thread takes whole products; all threads share each product that is left over.
    y = x.new_empty(v, n, m)
    torch.baddbmm(bias[:even], x[:even], weight[:even], out=y[:even])
    for i in range(even, v):
        torch.addmm(bias[i], x[i], weight[i], out=y[i])
    return y


class FactorBlock(NamedTuple):
    """The factors of equally many clients of each of v starts.

    Attributes:
        rows: Rows of the clients in the matrix, ``[v, c]``.
        row_ranges: The lowest and highest of these rows, for each start.
        factors: Parameter names, ``X [s, c, r, in]`` and ``G [s, c, r, out]`` of each layer, for
            s starts of which v belong to this block.
        offset: Place of the first of the v starts among the s.
    """

    rows: np.ndarray
    row_ranges: list[tuple[int, int]]
    factors: list[tuple[dict[str, str], Tensor, Tensor]]
    offset: int = 0

    @property
    def layers(self) -> list[tuple[dict[str, str], Tensor, Tensor]]:
        """Return the factors of the v starts alone."""
        v = len(self.rows)
        if v == len(self.factors[0][1]):
            return self.factors
        return [
            (names, x.narrow(0, self.offset, v), g.narrow(0, self.offset, v))
            for names, x, g in self.factors
        ]


class FactoredRows(LazyRows):
    """Updates ``[m, d]`` as their factors; PyTorch sees a matrix, written out when it is read.

    Args:
        num_examples: Examples of each client, ``[m]``: the usual weights.
        shapes: Names and shapes of the tensors of a row.
    """

    @staticmethod
    def __new__(cls, num_examples: Tensor, shapes: Mapping[str, torch.Size]):
        d = sum(shape.numel() for shape in shapes.values())
        size, kind = (len(num_examples), d), num_examples.dtype
        return Tensor._make_wrapper_subclass(cls, size, dtype=kind, device=num_examples.device)

    def __init__(self, num_examples: Tensor, shapes: Mapping[str, torch.Size]):
        self.num_examples, self.shapes = num_examples, shapes
        self.blocks: list[FactorBlock] = []
        self.matrix: Tensor | None = None  # [m, d], once written out
        self.parent: tuple[FactoredRows, int] | None = None  # and the start whose rows these are
        self.size_weights: Tensor | None = None  # [v, m / v], by examples within each start
        self.sums_by_size: dict[int, Tensor] | None = None  # of each start, by size_weights

    def weighted_sum(self, p: Tensor) -> Tensor:
        """Return ``sum_i p_i rows_i [d]`` for weights ``p [m]``.

        Weights by examples are the usual ones.  The sums of all starts then come from one product,
        when the first of the runs that train in lockstep asks for its own.
        """
        if self.matrix is not None:
            return p @ self.matrix
        if self.parent is not None and self.parent[0].matrix is None:
            parent, start = self.parent
            if parent.size_weights is None:
                n = parent.num_examples.view(-1, len(self.num_examples))
                parent.size_weights = n / n.sum(1, keepdim=True)
            if torch.equal(p, parent.size_weights[start]):
                if parent.sums_by_size is None:
                    sums = parent.weighted_sums(parent.size_weights.view(-1))
                    parent.sums_by_size = dict(enumerate(sums))
                if start in parent.sums_by_size:  # given away once: the caller may write to it
                    return parent.sums_by_size.pop(start)
        sums = self.weighted_sums(p)
        return sums[0] if len(sums) == 1 else sums.sum(0)

    def weighted_sums(self, p: Tensor) -> Tensor:
        """Return the weighted sum of the rows of each start, ``[v, d]``, for weights ``p [m]``.

        For a layer it is ``-(p G)ᵀ X``, with the examples of all clients one under the other.
        """
        if not self.blocks:
            return p.new_zeros(1, self.shape[1])
        places = [torch.from_numpy(block.rows).to(p.device) for block in self.blocks]
        weights = [-p.take(rows).view(*rows.shape, 1, 1) for rows in places]
        sums = {}
        for layer in zip(*(block.layers for block in self.blocks), strict=True):
            names, x = layer[0][0], _concatenate([x for _, x, _ in layer])
            g = _concatenate([weight * g for weight, (_, _, g) in zip(weights, layer, strict=True)])
            sums[names["weight"]] = torch.bmm(g.mT, x).flatten(1)
            if "bias" in names:
                sums[names["bias"]] = g.sum(1)
        return torch.cat([sums[name] for name in self.shapes], 1)

    def split_rows(self, sizes: Sequence[int]) -> Sequence[Tensor]:
        """Return consecutive blocks of rows with these sizes.

        A block keeps its factors, unless a start has clients inside and outside of it.
        """
        ends = accumulate(sizes)
        return [self._range(end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def _range(self, low: int, high: int) -> Tensor:
        """Return the rows from ``low`` to before ``high``."""
        if self.matrix is not None:
            return self.matrix[low:high]
        m = self.num_examples.shape[0]
        if (low, high) == (0, m):
            return self
        part = FactoredRows(self.num_examples[low:high], self.shapes)
        starts: set[int] = set()
        for block in self.blocks:
            touched = [s for s, (a, b) in enumerate(block.row_ranges) if a < high and b >= low]
            if not touched:
                continue
            within = slice(touched[0], touched[-1] + 1)
            row_ranges = [(a - low, b - low) for a, b in block.row_ranges[within]]
            if any(a < 0 or b >= high - low for a, b in row_ranges):
                return self.dense()[low:high]
            offset = block.offset + touched[0]
            rows = block.rows[within] - low
            part.blocks.append(FactorBlock(rows, row_ranges, block.factors, offset))
            starts.update(touched)
        if len(starts) == 1 and len(self.blocks[0].rows) * (high - low) == m:
            part.parent = self, starts.pop()
        return part

    def dense(self) -> Tensor:
        """Write the rows out once, ``[m, d]``; from then on the matrix takes the factors' place."""
        if self.matrix is None:
            like = self.num_examples.new_empty(0, self.shape[1])
            self.matrix = params.empty_rows(self.shape[0], like)
            self._write(params.views(self.matrix, self.shapes))
            self.blocks = []
        return self.matrix

    def _write(self, views: dict[str, Tensor]) -> None:
        idle = np.ones(self.shape[0], bool)
        for block in self.blocks:
            rows = block.rows.ravel()
            idle[rows] = False
            for k in range(0, len(rows), DENSE_AT_ONCE):
                chunk = slice(k, k + DENSE_AT_ONCE)
                place = params.as_slice(rows[chunk])
                for names, x, g in block.layers:
                    x, minus_g = x.flatten(0, 1)[chunk], -g.flatten(0, 1)[chunk]
                    views[names["weight"]][place] = torch.bmm(minus_g.mT, x)
                    if "bias" in names:
                        views[names["bias"]][place] = minus_g.sum(1)
        for view in views.values():
            view[torch.from_numpy(idle)] = 0


def _concatenate(factors: list[Tensor]) -> Tensor:
    """Return factors ``[v, c, r, n]`` of several blocks as rows of each start, ``[v, .., n]``."""
    if len(factors) == 1:
        return factors[0].flatten(1, 2)
    return torch.cat([factor.flatten(1, 2) for factor in factors], 1)
