"""The fast engine: a cohort's models stand side by side along a client axis and take their steps together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from fedlab.client import layers as stacked
from fedlab.client import lowrank
from fedlab.client.sequential import sequential, updates
from fedlab.core import FederatedDataset, Task, Updates, Work, generator, params
from fedlab.core.modules import TableLookups
from fedlab.core.params import per_row
from fedlab.models.tabular import cross_entropy, log_softmax

IN_CACHE = 2_500_000  # weights of a chunk of clients: about what a processor's cache holds
LARGE = 3_000_000  # parameters of a model whose layers take a processor longer than what is done around them
HUGE = 50_000_000  # parameters of a model of which there is no copy in double precision
LOOKED_AT = (
    4096  # examples among which unusual ones are looked for: of 256 numbers, fewer of larger ones
)
AT_ONCE = 2000  # examples in a step of a chunk, which bounds the memory that activations take

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
    way = _way(task, x, y, work) if len(work.origin) and not _is_alone(task, work.start) else None
    if way is None:
        _tell_once(task, work)
        return sequential(task, x, y, work)
    return _side_by_side(way, task, x, y, work, chunk)


def _side_by_side(
    way: Way, task: Task, x: Tensor, y: Tensor, work: Work, chunk: int | None = None
) -> Updates:
    """Train a cohort in one of the ways in which clients stand side by side."""
    steps = (work.batches[:, :, 0] >= 0).sum(1)  # [m]
    order = np.argsort(-steps, kind="stable")
    if way.factored:
        delta = lowrank.FactoredRows(
            torch.from_numpy(work.num_examples).to(work.start), task.shapes
        )
        model, blocks = partial(lowrank.Models, delta), lowrank.side_by_side(order, work.origin)
    else:
        delta = params.empty_rows(len(order), work.start)
        model, blocks = partial(_Written, way.form, params.views(delta, task.shapes)), [order[None]]
    loss, tokens = np.empty(len(order)), 1 if task.lengths is None else x.shape[1]
    for block in blocks:
        pieces = max(1, round(block.size / (chunk or _chunk(way.factored, work, tokens))))
        for rows in np.array_split(block, pieces, axis=1) if pieces > 1 else [block]:
            _train(model, task, x, y, work, rows, steps[rows], loss)
    return updates(work, delta, steps, loss)


def batched_forward(
    task: Task, w: Tensor, data: FederatedDataset
) -> Callable[[Tensor], Tensor] | None:
    """Small models ``w [v, d]`` side by side, for passes without a gradient: ``x [v * n, ...] -> [v * n, ...]``.

    Of Linear layers, that is; None where there are others.
    """
    if not lowrank.is_linear(task.template(w), data.x) or not _is_known(
        _FACTORED, task, data.x, data.y, w
    ):
        return None
    models = lowrank.line_from(task, w, 1)

    def outputs(x):
        with torch.inference_mode(models.by_hand):
            return models.forward(x)[0]

    return outputs


def _is_alone(task: Task, like: Tensor) -> bool:
    """Whether clients have nothing to win from standing side by side: on a processor that one client's texts keep busy."""
    if task.lengths is None or like.is_cuda:
        return False
    return sum(p.numel() for p in task.template(like).parameters()) > LARGE


def _chunk(factored: bool, work: Work, tokens: int) -> int:
    """How many clients to train side by side; of texts a step counts by their ``tokens`` at most."""
    batch_size = max(1, work.batches.shape[2]) * tokens
    if work.start.is_cuda:
        return max(4, 50 * AT_ONCE // batch_size)
    # fewer than 4 gain nothing, more than 200 neither; and factors are small
    fitting = 200 if factored else max(4, min(200, IN_CACHE // work.start.shape[1]))
    return max(1, min(fitting, AT_ONCE // batch_size))


def _train(model, task, x, y, work, rows, steps, loss) -> None:
    """Train the clients ``rows [v, c]`` for their ``steps [v, c]``, most first; fill in their updates and ``loss``."""
    most = steps.max(0)  # [c]
    batches = work.batches[rows, : most[0]].transpose(2, 0, 1, 3)  # [K, v, c, B]
    working = np.arange(most[0])[:, None] < most  # [K, c]
    at_work = ... if working.all() else np.broadcast_to(working[:, None], batches.shape[:3])
    examples = batches[at_work].reshape(-1, batches.shape[3])  # [n, B], step after step
    real = examples >= 0
    examples = np.where(
        real, examples, np.maximum(examples[:, :1], 0)
    )  # pads read what their client does, and weigh nothing
    share = real / np.maximum(
        real.sum(1, keepdims=True), 1
    )  # a client's loss is the mean of its batch
    rate = (
        1
        if work.optimizer == "adamw"
        else np.broadcast_to(work.lr[rows], batches.shape[:3])[at_work].reshape(-1, 1)
    )
    seen = torch.from_numpy(examples.ravel()).to(x.device)
    weight = torch.from_numpy((share * rate).ravel()).to(work.start)
    columns = (y.index_select(0, seen), weight, losses := torch.empty_like(weight))
    clients = len(rows) * working.sum(1)  # [K]
    sizes, models = (clients * batches.shape[3]).tolist(), model(task, work, rows)
    if len(seen) <= AT_ONCE:
        inputs = params.as_numbers(x.index_select(0, seen), work.start).split_with_sizes(sizes)
    else:
        inputs = (
            params.as_numbers(x.index_select(0, some), work.start)
            for some in seen.split_with_sizes(sizes)
        )
    with torch.inference_mode(models.by_hand):
        for a, some, *score in zip(
            clients.tolist(),
            inputs,
            *(each.split_with_sizes(sizes) for each in columns),
            strict=True,
        ):
            models.advance(a, some, Score(task.loss, *score))
        models.finish()
    each = np.zeros(batches.shape[:3])
    counted = np.where(real, losses.numpy(force=True).reshape(share.shape), 0) * share
    each[at_work] = counted.sum(1).reshape(each[at_work].shape)
    loss[rows] = np.where(steps > 0, each.sum(0) / np.maximum(steps, 1), np.nan)


class _Written:
    """Models side by side, each with all its parameters."""

    by_hand = False

    def __init__(
        self, form: Form, into: dict[str, Tensor], task: Task, work: Work, rows: np.ndarray
    ):
        rows = rows.ravel()
        self.into, self.rows = into, params.as_slice(rows)
        self.start, self.origin = params.views(work.start, task.shapes), work.origin[rows]
        fixed = (
            np.zeros((len(rows), len(self.start)), bool)
            if work.fixed is None
            else work.fixed[self.origin]
        )
        self.fixed = {
            name for name, column in zip(self.start, fixed.T, strict=True) if column.all()
        }
        self.w = {
            name: self._from(name) if name in self.fixed else self._from(name).clone()
            for name in self.start
        }
        masks = {} if work.mask is None else params.views(work.mask[self.origin], task.shapes)
        self.masks = {name: mask for name, mask in masks.items() if name not in self.fixed}
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
            self.movers, self.at_work = (
                {name: _first(a, mover) for name, mover in self.movers.items()},
                a,
            )
            self.step = self.form(self.template, self.movers)
        self.step(x, score)
        for name, mask in self.masks.items():
            self.w[name][:a].mul_(mask[:a])
        for name, stays in self.back.items():
            self.w[name][:a] = torch.where(
                per_row(stays[:a], self.w[name]), self._from(name)[:a], self.w[name][:a]
            )

    def finish(self) -> None:
        for name, view in self.into.items():
            if name in self.fixed:
                view[self.rows] = 0
            elif isinstance(self.rows, slice):
                torch.sub(self.w[name], self._from(name), out=view[self.rows])
            else:
                view[self.rows] = self.w[name].sub_(self._from(name))

    def _from(self, name: str) -> Tensor:
        """What each client starts from, ``[c, *shape]``."""
        p = self.start[name]
        return p.expand(len(self.origin), *p.shape[1:]) if len(p) == 1 else p[self.origin]


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
        return torch.dot(
            each.to(self.weight.dtype), self.weight
        )  # each.backward(weight) would first import sympy

    def slope(self, output: Tensor) -> Tensor:
        """Its gradient at ``output [a * B, ...]``; that of cross-entropy without a tape."""
        if self.loss is not cross_entropy or output.dim() != 2:
            output = output.detach().requires_grad_()
            return torch.autograd.grad(self.total(output), output)[0]
        log_p, y, weight = log_softmax(output), self.y.unsqueeze(1), self.weight.unsqueeze(1)
        torch.gather(log_p, 1, y, out=self.losses.unsqueeze(1)).neg_()
        return log_p.exp_().mul_(weight).scatter_add_(1, y, -weight)  # weight (softmax - one_hot)


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
        centre = (
            w if work.centre is None else params.views(work.centre[params.as_slice(rows)], shapes)
        )
        pulls = {name: -per_row(scale * mu, p) * centre[name] for name, p in w.items()}
    if work.h is not None:
        for name, h in params.views(work.h[params.as_slice(rows)], shapes).items():
            if name not in w:
                continue
            pull = per_row(scale, h) * h
            pulls[name] = pull if pulls[name] is None else pulls[name] + pull
    fade = fade if fade.any() else None
    zeros = torch.zeros_like
    if adamw:
        state = lambda p: (zeros(p), zeros(p), zeros(lr), lr, decay)  # noqa: E731
        return {name: stacked.AdamW(p, fade, pulls[name], *state(p)) for name, p in w.items()}
    if rho.any():
        return {
            name: stacked.Momentum(p, fade, pulls[name], zeros(p), rho) for name, p in w.items()
        }
    return {name: stacked.Sgd(p, fade, pulls[name]) for name, p in w.items()}


def _is_plain(work: Work) -> bool:
    """Whether this is SGD and nothing else."""
    more = work.mu.any() or work.momentum.any() or work.weight_decay.any()
    return work.optimizer == "sgd" and work.h is None and not more


def _first(a: int, mover: stacked.Step) -> stacked.Step:
    """The same for the first ``a`` clients, those still at work."""
    return type(mover)(*(None if column is None else column[:a] for column in mover))


class Way(NamedTuple):
    """How clients stand side by side."""

    form: Form
    factored: bool = False


class Kind(NamedTuple):
    """What of a cohort's work its engine has to get right, whatever the numbers are."""

    optimizer: str = "sgd"
    momentum: bool = False
    weight_decay: bool = False
    mu: bool = False
    h: bool = False
    mask: bool = False
    fixed: bool = False

    @classmethod
    def of(cls, work: Work) -> Kind:
        switches = (work.momentum.any(), work.weight_decay.any(), work.mu.any())
        terms = (work.h, work.mask, work.fixed)
        return cls(work.optimizer, *map(bool, switches), *(term is not None for term in terms))


def _way(task: Task, x: Tensor, y: Tensor, work: Work) -> Way | None:
    """The fastest way that is tried to be right for this work; None where only ``sequential`` can do it."""
    kind = Kind.of(work)
    if (
        kind == Kind()
        and lowrank.suits(task, x, work)
        and _is_known(_FACTORED, task, x, y, work.start)
    ):
        return _FACTORED
    form = _form(task, x, y, work.start, kind)
    return None if form is None else Way(form)


def _form(task: Task, x: Tensor, y: Tensor, like: Tensor, kind: Kind | None = None) -> Form | None:
    return next(
        (
            form
            for form in (_tape, _swapped, _mapped)
            if _is_known(Way(form), task, x, y, like, kind)
        ),
        None,
    )


def _is_known(
    way: Way, task: Task, x: Tensor, y: Tensor, like: Tensor, kind: Kind | None = None
) -> bool:
    """Whether the way is right for the task and this kind of work; it is tried once."""
    if not _is_separate(task, x, y, like):
        return False
    tried = _TRIED.setdefault(task, {})
    key = way, kind or Kind(), like.device
    if key not in tried:
        tried[key] = _is_right(way, task, x, y, like, key[1])
    return tried[key]


_TRIED: WeakKeyDictionary[Task, dict[tuple, bool]] = WeakKeyDictionary()


def _is_separate(task: Task, x: Tensor, y: Tensor, like: Tensor) -> bool:
    """Whether examples know nothing of those beside them; tried once for a task and data, which may hide or show it.

    Texts with ``lengths`` are padded to the longest of a batch, and not tried.
    """
    if task.lengths is not None or (
        task.loss is cross_entropy and stacked.is_plain(task.template(like))
    ):
        return True
    tried = _SEPARATE.setdefault(task, WeakTensorKeyDictionary())
    if x not in tried:
        tried[x] = _keeps_apart(task, x, y, like)
    return tried[x]


_SEPARATE: WeakKeyDictionary[Task, WeakTensorKeyDictionary] = WeakKeyDictionary()


@torch.no_grad()
def _keeps_apart(task: Task, x: Tensor, y: Tensor, like: Tensor) -> bool:
    """Whether unlike examples have the same outputs and losses together, in halves and alone."""
    task, w, few = task.with_fresh_templates(), like.reshape(-1, like.shape[-1])[0], _unlike(x)
    n = len(few)
    companies = [[k] for k in range(n)] + [list(range(k, n, 2)) for k in range(2)]
    for exact in (True, False) if len(w) <= HUGE else (False,):
        at = w.double() if exact else w
        some = params.as_numbers(x[few], at)
        some = some.to(at.dtype) if some.is_floating_point() else some

        def scores(rows, at=at, some=some):
            output = task.forward(at, some[rows])
            leaves = tree_leaves((output, task.loss(output, y[few[rows]])))
            return [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]

        try:
            together = scores(list(range(n)))
        except Exception:  # whatever the model has against it: the trial will tell
            continue
        near = 1e-6 if exact else 1e-4  # some norms compute in single precision, whatever comes in
        return all(_are_alike(together, rows, n, scores, near) for rows in companies)
    return True


def _are_alike(
    together: list[Tensor], rows: list[int], n: int, scores: Callable, near: float
) -> bool:
    """Whether some of ``n`` examples have by themselves what they have ``together``."""
    try:
        apart = scores(rows)
    except Exception:  # and so it would train no such batch
        return True
    if len(apart) != len(together):
        return False
    for a, b in zip(together, apart, strict=True):
        bound = near * a.double().abs().nan_to_num(0, 0, 0).max().item() if a.numel() else 0
        a = a[rows] if a.dim() and len(a) == n else a
        if a.numel() != b.numel():
            return False
        if not torch.allclose(
            a.double(), b.reshape(a.shape).double(), rtol=0, atol=bound, equal_nan=True
        ):
            return False
    return True


def _unlike(x: Tensor) -> Tensor:
    """Return the numbers of about 16 examples ``x``: with the largest and smallest values, and usual ones."""
    count = min(len(x), max(64, LOOKED_AT * 256 // max(256, x[0].numel())))
    among = torch.linspace(0, len(x) - 1, count).long().to(x.device)
    rows = x[among].reshape(count, -1).float()
    off = rows - rows.mean(0)
    sides = [
        rows.amax(1),
        rows.amin(1),
        (off / off.square().mean(0).sqrt().clamp(min=1e-9)).abs().amax(1),
    ]
    picked = [0, count // 3, 2 * count // 3, count - 1]
    for side in sides:
        order = side.argsort(stable=True)
        picked += [*order[:2].tolist(), *order[-2:].tolist()]
    return among[sorted(set(picked))]


def _tell_once(task: Task, work: Work) -> None:
    """Warn that clients train one after another, unless they are meant to: those of large models of texts."""
    if len(work.origin) and task.lengths is None and task not in _TOLD:
        _TOLD.add(task)
        name = type(task.template(work.start)).__name__
        warnings.warn(
            f"{name} has no form for many clients at once: they train one after another",
            stacklevel=3,
        )


_TOLD: WeakSet[Task] = WeakSet()


@torch.enable_grad()  # also from within an evaluation
def _is_right(
    way: Way, task: Task, x: Tensor, y: Tensor, like: Tensor, kind: Kind | None = None
) -> bool:
    """Whether a few steps of unlike clients, with short batches and fewer steps, come out as from ``sequential``.

    The trial has a template of its own.  It is in double precision, in which a wrong step cannot be taken for rounding;
    that of a large model, whose copies would take too much room, is not: where its weights are read is watched.
    """
    model, kind = task.template(like), kind or Kind()
    try:
        _NEEDS[way.form](model)
    except stacked.NoForm:
        return False
    if way.form is _mapped and _has_unmapped_tables(task, x, like):
        return False
    large = sum(p.numel() for p in model.parameters()) > LARGE
    task = task.with_fresh_templates()  # whatever a trial leaves in a template, nobody reads it
    if way.form is not _mapped and _reads_beside(task.template(like), x, like):
        return False
    agree = None if large else _agree(way, task, x, y, like.double(), kind)
    return bool(_agree(way, task, x, y, like, kind) if agree is None else agree)


def _has_unmapped_tables(task: Task, x: Tensor, like: Tensor) -> bool:
    """Whether a table has a gradient that ``vmap`` does not know: the trial's examples may not show it."""
    try:
        with TableLookups() as tables:
            task.forward(
                like.reshape(-1, like.shape[-1])[0], params.as_numbers(x[_usual(x, 2)], like)
            )
    except Exception:  # whatever the model has against it: the trial will tell
        return False
    return tables.unmapped


def _reads_beside(model: nn.Module, x: Tensor, like: Tensor) -> bool:
    """Whether a pass reads a weight outside the layer that holds it, where a stacked form gives it no gradient."""
    reads = _Reads(model)
    for layer in reads.layers:
        layer.forward = partial(reads.within, layer.forward)
    try:
        with reads:
            model(params.as_numbers(x[_usual(x, 2)], like))
    except Exception:  # whatever the model has against it: the trial will tell
        return False
    finally:
        for layer in reads.layers:
            del layer.forward
    return reads.beside


class _Reads(TorchFunctionMode):
    """Note inside the block whether a function outside the layers that train reads what trains."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = list(dict.fromkeys(leaf.layer for leaf in stacked.leaves(model)))
        self.trained = {id(p) for p in model.parameters() if p.requires_grad}
        self.inside, self.beside = 0, False

    def within(self, forward: Callable, *args, **kwargs) -> Tensor:
        self.inside += 1
        try:
            return forward(*args, **kwargs)
        finally:
            self.inside -= 1

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        if not self.inside and any(
            id(each) in self.trained for each in tree_leaves((args, kwargs))
        ):
            values = name in _VALUES or any(
                isinstance(each, Tensor) for each in tree_leaves(result)
            )
            form = (
                name.startswith("new_") or name.endswith("_like") or name == "type_as"
            )  # reads its type alone
            self.beside |= (
                values and not form and not (name == "to" and id(args[0]) not in self.trained)
            )
        return result


_VALUES = {"item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__"}


def _agree(way: Way, task: Task, x: Tensor, y: Tensor, like: Tensor, kind: Kind) -> bool | None:
    """Whether the way gives what ``sequential`` gives in the precision of ``like``; None if that cannot compute in it."""
    exact = like.dtype == torch.double
    work, few = _small_work(task, like, kind, exact), _usual(x, 7)
    x, y = params.as_numbers(x[few], like), y[few]
    x = x.to(like.dtype) if exact and x.is_floating_point() else x
    try:
        want = sequential(task, x, y, work)
    except Exception:  # whatever the model has against it
        return None
    if not want.delta.isfinite().all():
        return None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "error", message="There is a performance drop"
            )  # vmap would loop over clients, too
            got = _side_by_side(way, task, x, y, work)
    except Exception:  # whatever PyTorch or the model has against it
        return False
    if any(
        _is_wrapped(value)
        for layer in task.template(like).modules()
        for value in vars(layer).values()
    ):
        return False  # vmap's tensors have got out: the model keeps what it computes
    # Norms of language models compute in single precision even here, and AdamW makes steps of what rounding leaves of a
    # gradient of 0.
    near = (1e-6, 1e-12) if exact else (1e-3, 1e-6)
    return all(
        torch.allclose(a, b, rtol=0, atol=near[0] * b.abs().max().item() + near[1])
        for a, b in ((got.delta + 0, want.delta), (got.loss, want.loss))
    )


def _is_wrapped(value: object) -> bool:
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)


def _usual(x: Tensor, k: int) -> Tensor:
    """The numbers of k examples that are neither empty nor so large that all else is rounding beside them."""
    some = torch.linspace(0, len(x) - 1, min(len(x), 64)).long().to(x.device)
    largest = x[some].reshape(len(some), -1).double().abs().amax(1).nan_to_num(torch.inf)
    middle = torch.linspace(len(some) // 4, 3 * len(some) // 4, k).long().clamp(max=len(some) - 1)
    return some[largest.argsort(stable=True)[middle.to(x.device)]]


def _small_work(task: Task, like: Tensor, kind: Kind, exact: bool) -> Work:
    """The work of four clients with two models near ``like [.., d]``, of its kind, on seven examples."""
    draw, d, ones = generator(0, "trial"), like.shape[-1], np.ones(4)
    normal = lambda *shape: torch.from_numpy(draw.standard_normal(shape, dtype="float32")).to(like)  # noqa: E731
    start = like.reshape(-1, d)[0] + 0.02 * normal(2, d)
    none = [-1, -1, -1]  # a pad among three shows whether a model mixes the examples of a batch
    batches = np.array(
        [
            [[0, 1, 2], [3, 4, -1], [5, 6, -1]],
            [[5, 6, -1], [1, 3, 4], none],
            [[3, 2, 6], [0, 5, -1], none],
            [[4, 0, -1], none, none],
        ]
    )
    adamw = (
        kind.optimizer == "adamw" and exact
    )  # else it would make whole steps of what rounding leaves of a gradient of 0
    momentum = kind.momentum or (kind.optimizer == "adamw" and not exact)
    mask = torch.from_numpy(draw.random((2, d)) < 0.7).to(like) if kind.mask else None
    fixed = draw.random((2, len(task.shapes))) < 0.4 if kind.fixed else None
    lr = np.array([1.0, 0.7, 0.4, 0.9]) * (0.01 if adamw else 0.1 if exact else 1.0)
    return Work(
        start if mask is None else start * mask, np.array([0, 1, 0, 1]), batches, 2 * ones, lr, 0.3 * kind.mu * ones,
        0.9 * momentum * ones, 0.2 * kind.weight_decay * ones, 0.01 * normal(4, d) if kind.h else None, mask, fixed,
        optimizer="adamw" if adamw else "sgd",
    )  # fmt: skip


def _tape(model: nn.Module, movers: Movers) -> Advance:
    """For layers one after another."""
    return stacked.Line(
        model, {leaf.layer: leaf.stacked(movers) for leaf in stacked.leaves(model)}
    ).advance


def _swapped(model: nn.Module, movers: Movers) -> Advance:
    """For a model of any shape: its layers work stacked while its own forward runs, and autograd finds the way back."""
    movers = {name: stacked.Gathered(mover) for name, mover in movers.items()}
    leaves = [(leaf, leaf.stacked(movers)) for leaf in stacked.leaves(model)]
    anchor = torch.empty(
        0, requires_grad=True
    )  # without it the first layer, whose input wants no gradient, sees none

    def read(leaf, layer, x):
        for name in leaf.names.values():
            movers[name].reads += 1
        return _Stacked.apply(x, anchor, layer)

    def advance(x, score):
        for leaf, layer in leaves:
            leaf.layer.forward = partial(read, leaf, layer)
        try:
            score.total(model(x)).backward()
        finally:
            for leaf, _ in leaves:
                del leaf.layer.forward
        for mover in movers.values():
            mover.finish()

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
    together = vmap(partial(params.call, model))

    def advance(x, score):
        p = {name: mover.p.detach().requires_grad_() for name, mover in movers.items()}
        clients = len(next(iter(p.values())))
        output = tree_map(
            lambda each: each.flatten(0, 1), together(p, x.unflatten(0, (clients, -1)))
        )
        gradients = torch.autograd.grad(
            score.total(output), list(p.values()), materialize_grads=True
        )
        for mover, g in zip(movers.values(), gradients, strict=True):
            mover.step(lambda to, sign, g=g: to.add_(g, alpha=sign))

    return advance


_NEEDS = {_tape: stacked.line, _swapped: stacked.leaves, _mapped: lambda model: None}
_FACTORED = Way(_tape, factored=True)
