"""What travels through fedlab, by name: settings, updates, messages, results.

Symbols: ``N`` clients, ``m`` of them in a cohort, ``d`` trainable parameters, ``K`` local steps, ``B`` examples a step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from fedlab.rng import seeded

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class FederatedDataset:
    """Examples, and which client holds which.

    ``x [n, ...]`` and ``y [n]`` hold every training example once; ``parts[i]`` numbers those of client ``i``.
    A client may be empty: it can be drawn into a cohort, and never weighs.  ``test`` is ``(x, y)`` that no client holds.
    """

    x: Tensor
    y: Tensor
    parts: Sequence[np.ndarray]
    test: tuple[Tensor, Tensor]
    name: str = ""
    classes: tuple[str, ...] = ()

    @property
    def num_clients(self) -> int:
        return len(self.parts)

    @property
    def sizes(self) -> np.ndarray:
        """Examples of each client, ``[N]``."""
        return np.array([len(part) for part in self.parts])

    def double(self) -> FederatedDataset:
        """The same examples in double precision; what trains on them computes in it, too."""
        return replace(self, x=self.x.double(), test=(self.test[0].double(), self.test[1]))

    def counts(self) -> np.ndarray:
        """How many examples of each class each client holds, ``[N, classes]``."""
        y = self.y.numpy()
        return np.stack([np.bincount(y[part], minlength=len(self.classes)) for part in self.parts])


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned: a model, its loss, and what is reported.

    ``model()`` builds a fresh ``nn.Module``; ``loss(output, y)`` gives one number an example ``[B]``, never the mean;
    so does each of ``metrics``, whose mean over the test set is reported under its name.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]]

    _threads: threading.local = field(default_factory=threading.local, init=False, repr=False)

    @property
    def template(self) -> nn.Module:
        """A model to be given other parameters by the call (see ``params.forward``).

        One a thread: PyTorch swaps the parameters in and out again, and a panel trains beside the notebook's own cells.
        """
        if not hasattr(self._threads, "template"):
            with seeded(0, "template"):
                self._threads.template = self.model()
        return self._threads.template


@dataclass(frozen=True)
class Local:
    """Local training: plain SGD at ``lr``, batches of ``batch_size`` (None: all at once), ``epochs`` or just ``steps``."""

    lr: float
    batch_size: int | None = 32
    epochs: int = 1
    steps: int | None = None

    def __post_init__(self):
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr}: a learning rate is above 0; try 0.1")
        for name in ("batch_size", "epochs", "steps"):
            value = getattr(self, name)
            if value is None and name != "epochs":
                continue
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name}={value!r}: it is a whole number of at least 1")


class Cohort(NamedTuple):
    """The context that every step of a round receives."""

    ids: np.ndarray  # [m] client numbers, ascending
    round: int  # from 1
    seed: int
    num_clients: int  # N


class Terms(NamedTuple):
    """The linear and proximal terms of the local objective ``F_i(w) + <h_i, w> + mu/2 ||w - w_t||^2``.

    FedAvg has neither; FedProx has ``mu``; SCAFFOLD ``h_i = c - c_i``; FedDyn both.
    """

    h: Tensor | None = None  # [m, d]
    mu: float = 0.0


class Work(NamedTuple):
    """What the clients of a cohort are to do, a row a client: all that an engine needs beside the data.

    ``start [v, d]`` holds the models in play (one a run that is trained in lockstep) and ``origin [m]`` says from which of
    them a row starts.  ``batches [m, K, B]`` are example numbers, step by step; -1 pads short batches and, at
    the end, rows with fewer steps.
    """

    start: Tensor
    origin: Tensor
    batches: Tensor
    num_examples: Tensor  # [m], n_i: what the clients hold
    lr: Tensor  # [m]
    h: Tensor | None  # [m, d]
    mu: Tensor  # [m]


class Updates(NamedTuple):
    """What local training gave, a row a client."""

    delta: Tensor  # [m, d], w_i - w_t: the server adds
    num_examples: Tensor  # [m], n_i
    steps: Tensor  # [m]
    lr_sum: Tensor  # [m], learning rate times steps
    loss: Tensor  # [m], mean over the local steps; NaN where there were none


class Message(NamedTuple):
    """The rows as the server decodes them, and what each cost on the wire."""

    delta: Tensor  # [m, d]
    bits: Tensor  # [m]


class Algorithm(NamedTuple):
    """A federated algorithm in four functions, the paper's own lines.

    ``init(d, num_clients) -> state``;
    ``terms(state, cohort) -> Terms``, before training;
    ``rows(updates, cohort) -> (delta [m, d], weights [m])``, what it hands to the aggregate;
    ``step(w, state, cohort, updates, mean) -> (w, state)``, what it does with the result.
    """

    init: Callable[[int, int], Any]
    terms: Callable[[Any, Cohort], Terms]
    rows: Callable[[Updates, Cohort], tuple[Tensor, Tensor]]
    step: Callable[[Tensor, Any, Cohort, Updates, Tensor], tuple[Tensor, Any]]


@dataclass(frozen=True, eq=False)
class Experiment:
    """One study: who holds what, what is learned, and how.

    ``data`` is a dataset, or a function of the seed that returns one: then the split is drawn anew for every seed, and the
    band over seeds includes the luck of the split.  ``sample(num_clients, generator) -> ids`` draws a cohort;
    ``aggregate(delta [m, d], weights [m]) -> [d]`` folds the rows.
    """

    data: FederatedDataset | Callable[[int], FederatedDataset]
    task: Task
    local: Local
    algorithm: Algorithm
    aggregate: Callable[[Tensor, Tensor], Tensor]
    sample: Callable[[int, np.random.Generator], np.ndarray]
    rounds: int = 100
    eval_every: int = 1

    def __post_init__(self):
        for name in ("rounds", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it is at least 1")


@dataclass(frozen=True, eq=False)
class Result:
    """What happened: the final models and two tables.

    ``rounds``: a row a round, from round 0 (before any training): ``seed, round``, the test ``loss`` and metrics (NaN where
    not evaluated), ``train_loss`` (mean over the cohort's clients, by weight), ``clients`` (that trained), ``examples``
    they visited, ``bytes_up`` and ``bytes_down`` (of the whole cohort in this round).
    ``clients``: a row a client a round.  Columns named by ``compare`` come first in both.
    ``w[j]`` is the final model ``[d]`` of the j-th run, in the order of the tables.
    """

    w: list[Tensor]
    rounds: pd.DataFrame
    clients: pd.DataFrame = field(repr=False)

    def final(self, column: str = "accuracy") -> pd.DataFrame:
        """The last evaluated round of every run: its labels and ``column``."""
        labels = list(self.rounds.columns[: list(self.rounds.columns).index("round")])
        evaluated = self.rounds.dropna(subset=[column])
        return evaluated.groupby(labels, sort=False, as_index=False)[["round", column]].last()
