"""A task: a model, its loss and its metrics, with the model's parameters as one row."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.core import params
from fedlab.core.modules import Builds, check_builds, check_layers, check_model
from fedlab.core.rng import seeded
from fedlab.core.validate import check_named_functions

MAX_PADS = 64  # tokens computed for padding: about the cost of a pass over another group of texts

MAX_TOKENS = 4096  # of a pass, which bounds the memory that its activations take

_COLUMNS = """
seed round loss train_loss clients client num_examples test_examples examples steps
bytes_up bytes_down up_header up_indices up_values down_header down_indices down_values
seconds joules used late lost staleness version began ended fetching computing sending outcome
reason edge edge_bytes_up edge_bytes_down own_accuracy disagreement note
"""

TABLE_COLUMNS = frozenset(_COLUMNS.split())  # of a result's tables; a metric has another name


@dataclass(frozen=True, eq=False)
class Task:
    """A model, its loss, and the numbers that are reported.

    Attributes:
        model: ``model()`` builds a fresh ``nn.Module``.
        loss: ``loss(output, y)`` returns one number per example, ``[B]``, never the mean.
        metrics: Functions like ``loss``; their means over the test set are reported by name.
        lengths: ``lengths(x)`` returns the number of tokens of each text, ``[B]``, if the model
            computes no more than the longest text of a batch needs.
        measures: Functions of NumPy arrays, outputs ``[n, ...]`` and labels ``[n]``, that return
            one number for all test examples together, such as an AUC (see
            ``fedlab.models.measures``).

    Example:
        >>> def squared_error(output, y):
        ...     return (output - y).square().sum(1)
        >>> task = Task(lambda: nn.Linear(3, 1), squared_error, {})
        >>> {name: tuple(shape) for name, shape in task.shapes.items()}
        {'weight': (1, 3), 'bias': (1,)}
        >>> task.forward(torch.tensor([1.0, 2.0, 3.0, 0.5]), torch.ones(1, 3))
        tensor([[6.5000]])
    """

    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
    lengths: Callable[[Tensor], Tensor] | None = None
    measures: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = field(default_factory=dict)

    _threads: threading.local = field(default_factory=threading.local, init=False, repr=False)

    def __post_init__(self):
        check_model(self.model)
        for kind, functions in {"metrics": self.metrics, "measures": self.measures}.items():
            check_named_functions(kind, functions, TABLE_COLUMNS)
        twice = sorted(set(self.metrics) & set(self.measures))
        if twice:
            raise ValueError(
                f"{twice[0]!r} must be a metric or a measure (a table has one column of a name). "
                "Try another name"
            )

    def __deepcopy__(self, memo: dict) -> Task:
        return self  # a module may hold a task, which never changes

    def length_groups(self, x: Tensor) -> list[Tensor | slice]:
        """Return the numbers of examples in groups to compute together.

        Without ``lengths`` that is one group.  Texts come in groups of about one length.  A group
        grows until its padding costs more than another pass, or its tokens take too much memory:
        so no batch is too large.
        """
        if self.lengths is None:
            return [slice(None)]
        lengths = self.lengths(x)
        order = lengths.argsort(descending=True, stable=True)
        groups: list[Tensor] = []
        first, pads = 0, 0
        descending = lengths[order].tolist()
        for k, length in enumerate(descending):
            pads += descending[first] - length
            if pads > MAX_PADS or (k - first + 1) * descending[first] > MAX_TOKENS:
                groups.append(order[first:k])
                first, pads = k, 0
        return [group for group in (*groups, order[first:]) if len(group)]

    def template(self, like: Tensor) -> nn.Module:
        """Return a shared model like ``like`` (device, precision), to call with other values.

        Each thread has its own: PyTorch swaps the parameters in and out again, and a panel trains
        beside the notebook's cells.
        """
        return self._template(like)[0]

    def template_with(self, w: Tensor) -> nn.Module:
        """Return the template with views of the row ``w [d]`` as parameters, until the next call.

        It is meant for passes without gradients.
        """
        model, trained = self._template(w)
        for p, values in zip(trained, params.views(w, self.shapes).values(), strict=True):
            p.data = values
        return model

    def module(self, w: Tensor) -> nn.Module:
        """Return a new model with the row ``w [d]``: to keep, save, time or train elsewhere."""
        # No copy of the template, in which a pass may have left tensors that cannot be copied.
        model, values = self._new(w), params.views(w.detach(), self.shapes)
        for name, p in model.named_parameters():
            p.data = values.get(name, p.data).clone()
        return model

    def with_fresh_templates(self) -> Task:
        """Return the task with separate templates, for a trial that may leave traces in them."""
        task = replace(self)
        task.__dict__.update(
            {name: self.__dict__[name] for name in ("builds", "shapes") if name in self.__dict__}
        )
        return task

    def _template(self, like: Tensor) -> tuple[nn.Module, list[nn.Parameter]]:
        """Return the template and its trainable parameters."""
        templates = self._threads.__dict__.setdefault("templates", {})
        kind = (like.device, like.dtype)
        if kind not in templates:
            model = self._new(like)
            templates[kind] = model, [p for p in model.parameters() if p.requires_grad]
        return templates[kind]

    def _new(self, like: Tensor) -> nn.Module:
        """Build a model like ``like``; the first model is compared with a second build."""
        model = self._built()
        if "builds" not in self.__dict__:
            check_layers(model)
            self.__dict__["builds"] = check_builds(model, self._built())
        if self.builds.share:  # the caller's frozen modules stay as they are
            model = copy.deepcopy(model)
        model.to(like.device)
        for p in (*model.parameters(), *model.buffers()):
            # Frozen parameters may be in half precision, and stay so.
            if p.is_floating_point() and (p.requires_grad or p.dtype.itemsize >= 4):
                p.data = p.data.to(like.dtype)
        for layer in model.modules():
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
                layer.sparse = False  # a row has dense gradients, which are equal
        return model

    def _built(self) -> nn.Module:
        with seeded(0, "template"):
            return self.model()

    @cached_property
    def builds(self) -> Builds:
        """Return the comparison of two builds of the model."""
        self.template(torch.empty(0))
        return self.__dict__["builds"]

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Return the name and shape of every trainable parameter, in the order of the row."""
        return params.shapes(self.template(torch.empty(0)))

    def forward(self, w: Tensor, x: Tensor) -> Tensor:
        """Return the output on ``x`` with the parameters ``w [d]``; differentiable in ``w``."""
        return params.call(self.template(w), params.views(w, self.shapes), x)


def once_per_task(function: Callable[..., Any]) -> Callable[..., Any]:
    """Cache a function of a task and further arguments, as long as the task is in use."""
    results: WeakKeyDictionary[Task, dict[tuple, Any]] = WeakKeyDictionary()

    @wraps(function)
    def lookup(task: Task, *args: Any) -> Any:
        known = results.setdefault(task, {})
        if args not in known:
            known[args] = function(task, *args)
        return known[args]

    return lookup
