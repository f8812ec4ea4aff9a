"""What is learned: a model, its loss and its metrics."""

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

MOST_PADS = 64  # tokens computed in vain: about what a pass over another group of texts costs more

MOST_TOKENS = 4096  # of a pass, which bounds the memory that its activations take

_COLUMNS = """
seed round loss train_loss clients client num_examples test_examples examples steps
bytes_up bytes_down up_header up_indices up_values down_header down_indices down_values
seconds joules used late lost staleness version began ended fetching computing sending outcome reason
edge edge_bytes_up edge_bytes_down own_accuracy disagreement note
"""

TABLE_COLUMNS = frozenset(
    _COLUMNS.split()
)  # of the tables of a result, which no metric may overwrite


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned: a model, its loss, and what is reported.

    ``model()`` builds a fresh ``nn.Module``; ``loss(output, y)`` gives one number an example ``[B]``, never the mean;
    so does each of ``metrics``, whose mean over the test set is reported under its name.  Each of ``measures`` gives one
    number for all test examples together, from NumPy arrays of outputs ``[n, ...]`` and labels ``[n]``: an AUC, for
    example (see ``fedlab.models.measures``).  ``lengths(x)`` says of texts how many tokens each has, ``[B]``, where the
    model computes no more than the longest one of a batch needs.
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
                f"{twice[0]!r} must be a metric or a measure (a table has one column of a name). Try another name"
            )

    def __deepcopy__(self, memo: dict) -> Task:
        return self  # a module may hold a task, which says what is done and is nobody's to change

    def length_groups(self, x: Tensor) -> list[Tensor | slice]:
        """The numbers of the examples ``x`` in groups to compute together: all at once, or texts of about one length.

        A group grows until its pads, or its tokens, are more than another pass would cost: so there is no batch too large.
        """
        if self.lengths is None:
            return [slice(None)]
        lengths = self.lengths(x)
        order = lengths.argsort(descending=True, stable=True)
        groups, begun, pads = [], 0, 0
        each = lengths[order].tolist()
        for k, length in enumerate(each):
            pads += each[begun] - length
            if pads > MOST_PADS or (k - begun + 1) * each[begun] > MOST_TOKENS:
                groups.append(order[begun:k])
                begun, pads = k, 0
        return [group for group in (*groups, order[begun:]) if len(group)]

    def template(self, like: Tensor) -> nn.Module:
        """A model with the device and precision of ``like``, to be given other parameters by the call (see ``forward``).

        One a thread: PyTorch swaps the parameters in and out again, and a panel trains beside the notebook's own cells.
        """
        return self._template(like)[0]

    def template_with(self, w: Tensor) -> nn.Module:
        """The template with views of the row ``w [d]`` as parameters, until the next call: for passes without a gradient."""
        model, trained = self._template(w)
        for p, values in zip(trained, params.views(w, self.shapes).values(), strict=True):
            p.data = values
        return model

    def module(self, w: Tensor) -> nn.Module:
        """A model of its own with the row ``w [d]``: to be kept, saved, timed or trained elsewhere."""
        model, values = (
            self._new(w),
            params.views(w.detach(), self.shapes),
        )  # no copy of the template: a pass may have left
        for name, p in model.named_parameters():  # tensors in it that cannot be copied
            p.data = values.get(name, p.data).clone()
        return model

    def with_fresh_templates(self) -> Task:
        """Return the same task with templates of its own, for a trial that may leave traces in them."""
        task = replace(self)
        task.__dict__.update(
            {name: self.__dict__[name] for name in ("builds", "shapes") if name in self.__dict__}
        )
        return task

    def _template(self, like: Tensor) -> tuple[nn.Module, list[nn.Parameter]]:
        """The template, and those of its parameters that train."""
        here, kind = self._threads.__dict__.setdefault("templates", {}), (like.device, like.dtype)
        if kind not in here:
            model = self._new(like)
            here[kind] = model, [p for p in model.parameters() if p.requires_grad]
        return here[kind]

    def _new(self, like: Tensor) -> nn.Module:
        """Build a model with the device and precision of ``like``; the first one is compared with another."""
        model = self._built()
        if "builds" not in self.__dict__:
            check_layers(model)
            self.__dict__["builds"] = check_builds(model, self._built())
        if self.builds.share:  # what is frozen in the caller's own module: it stays as it is
            model = copy.deepcopy(model)
        model.to(like.device)
        for p in (*model.parameters(), *model.buffers()):
            if p.is_floating_point() and (
                p.requires_grad or p.dtype.itemsize >= 4
            ):  # what is frozen may be halved
                p.data = p.data.to(like.dtype)
        for layer in model.modules():
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
                layer.sparse = False  # a row has dense gradients, with the same numbers
        return model

    def _built(self) -> nn.Module:
        with seeded(0, "template"):
            return self.model()

    @cached_property
    def builds(self) -> Builds:
        """How two builds of the model go together, as the first template was compared with another."""
        self.template(torch.empty(0))
        return self.__dict__["builds"]

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Name and shape of every parameter that trains, in the order of the row."""
        return params.shapes(self.template(torch.empty(0)))

    def forward(self, w: Tensor, x: Tensor) -> Tensor:
        """The model's output on ``x`` with the row ``w [d]`` in place of its parameters; differentiable in ``w``."""
        return params.call(self.template(w), params.views(w, self.shapes), x)


def once_per_task(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function gives for a task and further arguments, as long as the task is in use."""
    results: WeakKeyDictionary[Task, dict[tuple, Any]] = WeakKeyDictionary()

    @wraps(function)
    def lookup(task: Task, *args: Any) -> Any:
        known = results.setdefault(task, {})
        if args not in known:
            known[args] = function(task, *args)
        return known[args]

    return lookup
