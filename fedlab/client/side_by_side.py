"""Training of a cohort whose models stand side by side along a client axis."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.client import lowrank
from fedlab.client.optimizers import Fixed, first_clients, make_optimizers
from fedlab.client.sequential import make_updates
from fedlab.client.steps import Score, StepBuilder
from fedlab.core import Task, Updates, Work, params
from fedlab.core.params import per_row

CACHE_WEIGHTS = 2_500_000  # weights of a chunk of clients that fit in a processor's cache
STEP_EXAMPLES = 2000  # examples in a step of a chunk, which bounds the memory of activations


class Method(NamedTuple):
    """A way in which a cohort trains side by side.

    Attributes:
        build: Builder of the step (see ``fedlab.client.steps``).
        factored: Whether updates are kept as factors (see ``fedlab.client.lowrank``).
    """

    build: StepBuilder
    factored: bool = False


def train_side_by_side(
    method: Method, task: Task, x: Tensor, y: Tensor, work: Work, chunk: int | None = None
) -> Updates:
    """Train a cohort by a method.

    Args:
        method: Way of training.
        task: Model and loss.
        x: Examples of all clients, ``[n, ...]``.
        y: Their labels, ``[n]``.
        work: The work of the cohort.
        chunk: Clients trained at a time (default: as many as the processor's cache holds).
    """
    steps = (work.batches[:, :, 0] >= 0).sum(1)  # [m]
    order = np.argsort(-steps, kind="stable")
    models: partial
    if method.factored:
        num_examples = torch.from_numpy(work.num_examples).to(work.start)
        factored = lowrank.FactoredRows(num_examples, task.shapes)
        delta: Tensor = factored
        models = partial(lowrank.FactoredModels, factored)
        blocks = lowrank.group_by_start(order, work.origin)
    else:
        delta = params.empty_rows(len(order), work.start)
        models = partial(FullModels, method.build, params.views(delta, task.shapes))
        blocks = [order[None]]
    loss, tokens = np.empty(len(order)), 1 if task.lengths is None else x.shape[1]
    for block in blocks:
        count = max(1, round(block.size / (chunk or _chunk_size(method.factored, work, tokens))))
        for rows in np.array_split(block, count, axis=1) if count > 1 else [block]:
            _train(models, task, x, y, work, rows, steps[rows], loss)
    return make_updates(work, delta, steps, loss)


def _chunk_size(factored: bool, work: Work, tokens: int) -> int:
    """Return how many clients to train at a time; an example of text counts ``tokens``."""
    batch_size = max(1, work.batches.shape[2]) * tokens
    if work.start.is_cuda:
        return max(4, 50 * STEP_EXAMPLES // batch_size)
    # Fewer than 4 clients gain nothing, more than 200 gain no more; and factors are small.
    fitting = 200 if factored else max(4, min(200, CACHE_WEIGHTS // work.start.shape[1]))
    return max(1, min(fitting, STEP_EXAMPLES // batch_size))


def _train(
    make_models: partial,
    task: Task,
    x: Tensor,
    y: Tensor,
    work: Work,
    rows: np.ndarray,
    steps: np.ndarray,
    loss: np.ndarray,
) -> None:
    """Train the clients ``rows [v, c]``, the longest work first, and fill in their ``loss``."""
    visits = _Visits(work, rows, steps)
    examples = torch.from_numpy(visits.examples.ravel()).to(x.device)
    weight = torch.from_numpy(visits.weights.ravel()).to(work.start)
    columns = (y.index_select(0, examples), weight, losses := torch.empty_like(weight))
    sizes = (visits.clients * work.batches.shape[2]).tolist()
    models = make_models(task, work, rows)
    inputs: Iterable[Tensor]
    if len(examples) <= STEP_EXAMPLES:
        inputs = params.as_numbers(x.index_select(0, examples), work.start).split_with_sizes(sizes)
    else:
        inputs = (
            params.as_numbers(x.index_select(0, step), work.start)
            for step in examples.split_with_sizes(sizes)
        )
    with torch.inference_mode(models.manual_backward):
        for active, batch, *score in zip(
            visits.clients.tolist(),
            inputs,
            *(column.split_with_sizes(sizes) for column in columns),
            strict=True,
        ):
            models.advance(active, batch, Score(task.loss, *score))
        models.finish()
    loss[rows] = visits.mean_losses(losses.numpy(force=True), steps)


class _Visits:
    """The examples that a chunk of clients visits, step after step.

    Attributes:
        clients: Clients at work in each step, ``[K]``.
        examples: Numbers of the examples, ``[n, B]``: a row per client and step.
        weights: Their weights in the step's loss, times the learning rate for SGD, ``[n, B]``.
    """

    def __init__(self, work: Work, rows: np.ndarray, steps: np.ndarray):
        num_steps = steps.max(0)  # [c]
        batches = work.batches[rows, : num_steps[0]].transpose(2, 0, 1, 3)  # [K, v, c, B]
        working = np.arange(num_steps[0])[:, None] < num_steps  # [K, c]
        self.clients = len(rows) * working.sum(1)
        self.shape = batches.shape[:3]
        self.at_work: Any = ... if working.all() else np.broadcast_to(working[:, None], self.shape)
        examples = batches[self.at_work].reshape(-1, batches.shape[3])
        self.real = examples >= 0
        # A pad reads an example of its client, with weight 0.
        self.examples = np.where(self.real, examples, np.maximum(examples[:, :1], 0))
        # The loss of a client is the mean over its batch.
        self.shares = self.real / np.maximum(self.real.sum(1, keepdims=True), 1)
        self.weights = self.shares
        if work.optimizer != "adamw":
            rates = np.broadcast_to(work.lr[rows], self.shape)[self.at_work]
            self.weights = self.shares * rates.reshape(-1, 1)

    def mean_losses(self, losses: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the mean loss over the steps of each client, ``[v, c]``; NaN without steps."""
        by_step = np.zeros(self.shape)
        counted = np.where(self.real, losses.reshape(self.shares.shape), 0) * self.shares
        by_step[self.at_work] = counted.sum(1).reshape(by_step[self.at_work].shape)
        return np.where(steps > 0, by_step.sum(0) / np.maximum(steps, 1), np.nan)


class FullModels:
    """Models side by side, each with all its parameters."""

    manual_backward = False

    def __init__(
        self,
        build: StepBuilder,
        updates: dict[str, Tensor],
        task: Task,
        work: Work,
        rows: np.ndarray,
    ):
        rows = rows.ravel()
        self.updates, self.rows = updates, params.as_slice(rows)
        self.start, self.origin = params.views(work.start, task.shapes), work.origin[rows]
        fixed = (
            np.zeros((len(rows), len(self.start)), bool)
            if work.fixed is None
            else work.fixed[self.origin]
        )
        columns = dict(zip(self.start, fixed.T, strict=True))
        self.fixed = {name for name, column in columns.items() if column.all()}
        self.w = {
            name: self._start_of(name) if name in self.fixed else self._start_of(name).clone()
            for name in self.start
        }
        masks = {} if work.mask is None else params.views(work.mask[self.origin], task.shapes)
        self.masks = {name: mask for name, mask in masks.items() if name not in self.fixed}
        self.fixed_for = {  # tensors that only some of these clients train, and the other clients
            name: torch.from_numpy(column).to(work.start.device)
            for name, column in columns.items()
            if column.any() and name not in self.fixed
        }
        trained = {name: p for name, p in self.w.items() if name not in self.fixed}
        self.optimizers = make_optimizers(work, rows, trained, task.shapes)
        self.optimizers |= {name: Fixed(self.w[name]) for name in self.fixed}
        self.build, self.template = build, task.template(work.start)
        self.active = len(self.origin)
        self.take_step = build(self.template, self.optimizers)

    def advance(self, active: int, x: Tensor, score: Score) -> None:
        """Take one step with the clients still at work.

        Args:
            active: How many there are; the others are done.
            x: Their examples, ``[active * B, ...]``.
            score: Losses and weights of these examples.
        """
        if active < self.active:
            self.active = active
            self.optimizers = {
                name: first_clients(active, optimizer)
                for name, optimizer in self.optimizers.items()
            }
            self.take_step = self.build(self.template, self.optimizers)
        self.take_step(x, score)
        for name, mask in self.masks.items():
            self.w[name][:active].mul_(mask[:active])
        for name, is_fixed in self.fixed_for.items():
            moved, start = self.w[name][:active], self._start_of(name)[:active]
            is_fixed = per_row(is_fixed[:active], self.w[name])
            self.w[name][:active] = torch.where(is_fixed, start, moved)

    def finish(self) -> None:
        """Write the updates of all clients."""
        for name, view in self.updates.items():
            if name in self.fixed:
                view[self.rows] = 0
            elif isinstance(self.rows, slice):
                torch.sub(self.w[name], self._start_of(name), out=view[self.rows])
            else:
                view[self.rows] = self.w[name].sub_(self._start_of(name))

    def _start_of(self, name: str) -> Tensor:
        """Return the parameter that each client starts from, ``[c, *shape]``."""
        p = self.start[name]
        return p.expand(len(self.origin), *p.shape[1:]) if len(p) == 1 else p[self.origin]
