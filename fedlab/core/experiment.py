"""An experiment: its settings, its budget and its result."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from fedlab.core.validate import check_function, check_whole, is_number, takes_cohort

if TYPE_CHECKING:
    import pandas as pd
from fedlab.core.algorithm import Algorithm, Cohort
from fedlab.core.dataset import FederatedDataset
from fedlab.core.message import Transform, identity
from fedlab.core.task import Task


@dataclass(frozen=True)
class Local:
    """Local training: batches of ``batch_size`` (None: all at once), for ``epochs``, or for just ``steps`` where given.

    ``optimizer="sgd"`` with ``momentum`` and ``weight_decay`` as in ``torch.optim.SGD`` (the decay is part of the gradient);
    ``"adamw"`` is Loshchilov & Hutter 2019 with the usual betas 0.9 and 0.999 (the decay is not).  Either starts anew
    in every round: a client keeps no optimiser state.

    ``schedule(round)`` multiplies ``lr``; rounds count from 1, and by the clock from the version of the model that a
    client was sent.  ``fedlab.client.schedules`` has ``warm_up``, ``cosine`` and ``step_decay``; None is a constant rate.
    """

    lr: float
    batch_size: int | None = 32
    epochs: int = 1
    steps: int | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Callable[[int], float] | None = None

    def __post_init__(self):
        if not (is_number(self.lr) and self.lr > 0):
            raise ValueError(f"lr={self.lr!r}: a learning rate is above 0 and finite; try 0.1")
        check_whole(1, epochs=self.epochs)
        given = {"batch_size": self.batch_size, "steps": self.steps}
        check_whole(1, **{name: value for name, value in given.items() if value is not None})
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer={self.optimizer!r}: there are 'sgd' and 'adamw'")
        if not (is_number(self.momentum) and 0 <= self.momentum < 1):
            raise ValueError(
                f"momentum={self.momentum!r}: it is at least 0 and below 1; the usual one is 0.9"
            )
        if self.optimizer == "adamw" and self.momentum:
            raise ValueError(
                f"momentum={self.momentum} with adamw, which has its own: leave it 0, or take optimizer='sgd'"
            )
        if not (is_number(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(
                f"weight_decay={self.weight_decay!r}: it is at least 0 and finite; try 1e-4"
            )
        if self.schedule is not None:
            check_function("Schedule", "cosine(100)", schedule=self.schedule)
            if self.at(1).lr != self.at(1).lr:
                raise ValueError(
                    "schedule(1) gives another factor when it is asked again, so no run could be repeated. "
                    "Try a function of the round alone, such as cosine(100)"
                )

    def at(self, round: int) -> Local:
        """Return these settings with the rate of ``round``, from 1, in ``lr``; itself where the rate is constant."""
        if self.schedule is None:
            return self
        factor = self.schedule(round)
        if not (is_number(factor) and factor > 0):
            raise ValueError(
                f"schedule({round})={factor!r} must be a finite number above 0 (it multiplies lr). Try cosine(100)"
            )
        return replace(self, lr=self.lr * float(factor), schedule=None)


class Budget(NamedTuple):
    """How much may travel: bytes, which ``direction`` ("up", "down" or, for both, ""), ``per_client`` or in all."""

    bytes: int
    direction: str
    per_client: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From words: "50 MB per client", "20 MB up per client", "3 GB in all"."""
        found = re.fullmatch(
            r"(\d+\.?\d*|\.\d+) *(B|[kMGT]B)(?: +(up|down))? +(per client|in all)", str(text)
        )
        if not found:
            told = "a number, B, kB, MB, GB or TB, perhaps up or down, and per client or in all"
            raise ValueError(f'budget={text!r}: it is {told}, such as "50 MB per client"')
        return cls(
            round(float(found[1]) * 1000 ** "BkMGT".index(found[2][0])),
            found[3] or "",
            found[4] == "per client",
        )


@dataclass(frozen=True, eq=False)
class Experiment:
    """One study: who holds what, what is learned, and how.

    ``data`` is a dataset, or a function of the seed that returns one: then the split is drawn anew for every seed, and the
    band over seeds includes the luck of the split.  ``local`` is the same for everyone, or a sequence with one a client.
    ``sample(sizes [N], round, generator) -> ids`` draws a cohort; ``aggregate(delta, weights [m]) -> [d]`` folds its rows,
    or ``aggregate(delta, weights, cohort)`` where it needs the round or random numbers of its own.
    ``upload`` and ``download`` say how updates and models travel.  A ``budget``, such as "50 MB per client", ends a run
    before the first round in which a client (or everybody together) would send and fetch more than that.
    """

    data: FederatedDataset | Callable[[int], FederatedDataset]
    task: Task
    local: Local | Sequence[Local]
    algorithm: Algorithm
    aggregate: Callable[..., Tensor]
    sample: Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
    rounds: int = 100
    eval_every: int = 1
    upload: Transform = field(default_factory=identity)
    download: Transform = field(default_factory=identity)
    budget: str | None = None

    def __post_init__(self):
        check_whole(1, rounds=self.rounds, eval_every=self.eval_every)
        check_function("Sampler", "uniform(10)", sample=self.sample)
        check_function("Aggregate", "weighted_mean", aggregate=self.aggregate)
        self._aggregate_takes_cohort  # noqa: B018 - refuses other arguments at once
        for name, transform in {"upload": self.upload, "download": self.download}.items():
            if not isinstance(transform, Transform):
                told = getattr(transform, "__name__", repr(transform))
                raise ValueError(
                    f"{name}={told}: it is what a call gives, such as identity() or top_k(0.01)"
                )
        if self.download.no_download_reason:
            raise ValueError(
                f"download={self.download.apply.__qualname__.split('.')[0]}: {self.download.no_download_reason}"
            )
        if self.budget is not None:
            Budget.parse(self.budget)
        if not isinstance(self.algorithm, Algorithm):
            told = getattr(self.algorithm, "__name__", repr(self.algorithm))
            raise ValueError(f"algorithm={told}: it is what a call gives, such as fedavg()")
        if self.upload.update_format != self.algorithm.update_format:
            told = f"upload gives {self.upload.update_format}, and the algorithm takes {self.algorithm.update_format}"
            raise ValueError(
                f"{told}: fetchsgd goes with count_sketch of the same columns and depth, all others with rows"
            )
        if self.algorithm.partial_updates and not self.download.is_identity:
            told = f"download={self.download.apply.__qualname__.split('.')[0]}"
            raise ValueError(
                f"{told}: of a model with a mask clients fetch the numbers within it: use download=identity()"
            )
        if not isinstance(self.local, Local) and not (
            isinstance(self.local, Sequence)
            and self.local
            and all(isinstance(one, Local) for one in self.local)
        ):
            raise ValueError(
                f"local={self.local!r:.80} must be a Local, or a list with one per client. Try Local(lr=0.1)"
            )
        everyone = {self.local} if isinstance(self.local, Local) else set(self.local)
        for local in everyone:
            self.algorithm.validate(local, self)
        optimizers = {local.optimizer for local in everyone}
        if len(optimizers) != 1:
            raise ValueError(
                f"local has the optimizers {sorted(optimizers)}: all clients of an experiment have the same one"
            )

    @cached_property
    def _aggregate_takes_cohort(self) -> bool:
        return takes_cohort(self.aggregate)

    def apply_aggregate(self, delta: Tensor, weights: Tensor, cohort: Cohort) -> Tensor:
        """Return the aggregate ``[d]`` of rows ``[m, d]``; the cohort goes to an aggregate that takes it."""
        if self._aggregate_takes_cohort:
            return self.aggregate(delta, weights, cohort=cohort)
        return self.aggregate(delta, weights)


@dataclass(frozen=True, eq=False)
class Result:
    """What happened: the final models, and tables.

    ``rounds``: a row a round, from round 0 (before any training): ``seed, round``, the test ``loss`` and metrics (NaN where
    not evaluated), ``train_loss`` (mean over the cohort's clients, by weight), ``clients`` (that trained), and of the whole
    cohort in this round ``examples`` (visited, every epoch anew), ``steps``, ``bytes_up`` and ``bytes_down``, and of these
    ``up_header``, ``up_indices``, ``up_values``, ``down_header``, ``down_indices`` and ``down_values``.
    ``clients``: a row a client a round.  Columns named by ``compare`` come first in both.
    ``w[j]`` is the final model ``[d]`` of the j-th run, in the order of the tables.
    ``trials``, where ``compare`` was asked to ``tune``: a row a variant a candidate, its labels and values, ``accuracy`` and
    ``loss`` on the examples held out (mean over seeds; NaN where training diverged), and which one was ``chosen``.
    """

    w: list[Tensor]
    rounds: pd.DataFrame
    clients: pd.DataFrame = field(repr=False)
    trials: pd.DataFrame | None = field(default=None, repr=False)

    def final(self, column: str = "accuracy") -> pd.DataFrame:
        """The last evaluated round of every run: its labels and ``column``."""
        if self.rounds.empty:
            raise ValueError(
                "the result has no rounds: the runs were stopped before they began. Try run again"
            )
        labels = list(self.rounds.columns[: list(self.rounds.columns).index("round")])
        evaluated = self.rounds.dropna(
            subset=[column]
        )  # a label may be None, which a group would lose
        return evaluated.drop_duplicates(labels, keep="last")[
            [*labels, "round", column]
        ].reset_index(drop=True)


def label_column(label: Any, m: int) -> np.ndarray:
    """Return a label ``m`` times, ``[m]``: as an object where it is no number and no text."""
    if isinstance(label, bool | int | float | str | np.generic):
        return np.full(m, label)
    column = np.empty(m, dtype=object)
    column[:] = [label] * m
    return column
