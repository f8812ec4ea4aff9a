"""Descriptions of experiments: plain values, to be read, kept as JSON and compared.

A checkpoint compares descriptions to refuse the state of another experiment. They therefore hold
everything that decides a run's numbers: settings, the code of the user's functions, and all that
the code uses. Each kind of value has a module: ``code`` (functions and classes), ``objects``,
``networks`` (PyTorch modules), ``compounds`` (containers and records) and ``checksums``.
``provenance`` tells the user's functions from those of libraries.
"""

from __future__ import annotations

import math
from collections import Counter
from types import FunctionType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.core import Experiment, FederatedDataset
from fedlab.data.datasets import for_seed
from fedlab.engine.storage.checksums import (
    MAX_SHOWN,
    bytes_checksum,
    checksum,
    describe_array,
    describe_dataset,
)
from fedlab.engine.storage.compounds import describe_compound, fields_of
from fedlab.engine.storage.objects import NUMBERS, text_of
from fedlab.engine.storage.provenance import is_known, name_of

MAX_DEPTH = 100  # values within each other


def describe(
    experiment: Experiment, seed: int = 0, *, data: FederatedDataset | None = None
) -> dict[str, Any]:
    """Describe an experiment by plain values.

    A function that another one made is described by the call that makes it, such as
    ``{"uniform": {"cohort_size": 10}}``. A function of the user is described by a checksum of its
    code, its defaults, and everything that it uses: numbers, tensors, tables, objects, and other
    functions and classes, with all that these use. Examples are described by their sizes and a
    checksum.

    Args:
        experiment: The experiment.
        seed: Seed of the examples, if they are a function of the seed.
        data: The examples of that seed, if they have been made.

    Returns:
        A dict that JSON can hold.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.engine.factory import experiment
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=10)
        >>> words = describe(experiment(digits, mlp(digits), Local(lr=0.1), cohort_size=5))
        >>> words["sample"], words["algorithm"]
        ({'uniform': {'cohort_size': 5}}, {'fedavg': {'server_lr': 1.0}})
        >>> words["data"]["clients"], words["data"]["examples"]
        (10, 1437)
    """
    return describe_with_gaps(experiment, seed, data=data)[0]


def describe_with_gaps(
    experiment: Experiment, seed: int = 0, *, data: FederatedDataset | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Describe an experiment, and list the objects that cannot be described.

    Args:
        experiment: The experiment.
        seed: Seed of the examples, if they are a function of the seed.
        data: The examples of that seed, if they have been made.

    Returns:
        The description, and for each object that is not described the field that holds it.
    """
    describer = Describer()
    described: dict[str, Any] = {}
    gaps: dict[str, str] = {}
    for name, value in fields_of(experiment).items():
        described[name] = describer(value)
        gaps = dict.fromkeys(describer.gaps, name) | gaps
    if callable(experiment.data):
        described["data"] = {"function": described["data"], "seed": seed} | plain_value(
            data or for_seed(experiment.data, seed)
        )
    model = experiment.task.template(torch.empty(0))
    described["task"] |= {
        "parameters": sum(shape.numel() for shape in experiment.task.shapes.values()),
        "layers": checksum(text_of(model)),
    }
    return described, gaps


def plain_value(value: Any) -> Any:
    """Describe any value by values that JSON can hold.

    Example:
        >>> plain_value((1, float("inf"), None))
        [1, 'inf', None]
        >>> plain_value(np.zeros(3))["shape"]
        [3]
    """
    return Describer()(value)


class Describer:
    """Describes values; a function or class of the user once, then by its name.

    Attributes:
        parents: Values that contain the current one, since it may refer to them.
        seen: Functions and classes by id, each with its name for further mentions.
        names: Number of functions and classes of each name.
        num_objects: Number of objects of libraries so far.
        gaps: Objects that cannot be described, in words.
    """

    def __init__(self, parents: tuple | list = ()):
        self.parents = list(parents)
        self.seen: dict[int, tuple[Any, str]] = {}
        self.names: Counter[str] = Counter()
        self.num_objects = 0
        self.gaps: set[str] = set()

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if kind in (NoneType, bool, int):
            return value
        # A number, text or array of the user's own class behaves as that class says.
        if isinstance(value, NUMBERS) and kind not in _EXACT and not is_known(kind):
            return self.within(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, str):
            return _describe_text(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        if isinstance(value, np.generic) and not isinstance(value, np.void):
            return self(value.item()) if not isinstance(value.item(), np.generic) else repr(value)
        if isinstance(value, Tensor | np.ndarray):
            return describe_array(value, self)
        if isinstance(value, FederatedDataset):
            return describe_dataset(value)
        if isinstance(value, bytes | bytearray):
            return {"bytes": len(value), "checksum": bytes_checksum(value)}
        return self.within(value)

    def within(self, value: Any) -> Any:
        """Describe a value that may hold others, itself among them."""
        for i, parent in enumerate(reversed(self.parents)):
            if value is parent:
                return f"itself, {i} above" if i else "itself"
        if len(self.parents) > MAX_DEPTH:
            self.gaps.add(
                f"a {type(value).__qualname__} that stands in more than {MAX_DEPTH} others"
            )
            return name_of(value)
        if isinstance(value, FunctionType | type) and not is_known(value):
            if id(value) in self.seen:
                return self.seen[id(value)][1]
            name = name_of(value)
            self.names[name] += 1
            is_first = self.names[name] == 1
            self.seen[id(value)] = (
                value,
                name if is_first else f"{name}, number {self.names[name]}",
            )
        self.parents.append(value)
        try:
            return describe_compound(value, self)
        finally:
            self.parents.pop()

    def separately(self, value: Any) -> Any:
        """Describe a value as if no other had been described before."""
        describer = Describer(self.parents)
        described = describer(value)
        self.gaps |= describer.gaps
        return described

    def fields(self, value: Any) -> dict[str, Any]:
        """Describe the fields of a record as if nothing else had been, to compare it."""
        describer = Describer(self.parents)
        return {name: describer(part) for name, part in fields_of(value).items()}


# Types of numbers, texts and arrays that are no class of the user.
_EXACT = frozenset({*NUMBERS, nn.Parameter, np.float64})


def _describe_text(value: str) -> Any:
    """Return a text, or the length and checksum of one above 50,000 characters."""
    if len(value) <= 1000 * MAX_SHOWN:
        return value
    return {"length": len(value), "checksum": checksum(value)}
