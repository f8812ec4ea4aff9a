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
    """The settings of local training.

    Attributes:
        lr: Learning rate, above 0.
        batch_size: Examples in a batch; None takes all examples of a client at once.
        epochs: Passes over a client's examples in a round.
        steps: Steps in a round, in place of ``epochs``.
        optimizer: ``"sgd"``, with ``momentum`` and ``weight_decay`` as in ``torch.optim.SGD`` (the
            decay is part of the gradient); or ``"adamw"``, Loshchilov & Hutter 2019 with the usual
            betas 0.9 and 0.999 (the decay is not).  Either starts anew in every round: a client
            keeps no optimizer state.
        momentum: Momentum of SGD, at least 0 and below 1.
        weight_decay: Weight decay, at least 0.
        schedule: ``schedule(round)`` multiplies ``lr``; None is a constant rate.  Rounds count
            from 1; by the clock, from the version of the model that a client received.  See
            ``warm_up``, ``cosine`` and ``step_decay`` in ``fedlab.client``.

    Example:
        >>> Local(0.1, batch_size=10).epochs
        1
        >>> Local(0.1, schedule=lambda round: 1 / round).at(4).lr
        0.025
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
            raise ValueError(f"lr={self.lr!r} must be finite and above 0. Try 0.1")
        check_whole(1, epochs=self.epochs)
        optional = {"batch_size": self.batch_size, "steps": self.steps}
        check_whole(1, **{name: value for name, value in optional.items() if value is not None})
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer={self.optimizer!r} must be 'sgd' or 'adamw'. Try 'sgd'")
        if not (is_number(self.momentum) and 0 <= self.momentum < 1):
            raise ValueError(
                f"momentum={self.momentum!r} must be at least 0 and below 1. Try 0.9, the usual one"
            )
        if self.optimizer == "adamw" and self.momentum:
            raise ValueError(
                f"momentum={self.momentum} must be 0 with adamw (it has its own). Try momentum=0, "
                "or optimizer='sgd'"
            )
        if not (is_number(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(
                f"weight_decay={self.weight_decay!r} must be finite and at least 0. Try 1e-4"
            )
        if self.schedule is not None:
            check_function("Schedule", "cosine(100)", schedule=self.schedule)
            if self.at(1).lr != self.at(1).lr:
                raise ValueError(
                    "schedule(1) must return the same factor when it is called again (else no run "
                    "could be repeated). Try a function of the round alone, such as cosine(100)"
                )

    def at(self, round: int) -> Local:
        """Return the settings with the rate of a round in ``lr``; itself for a constant rate."""
        if self.schedule is None:
            return self
        factor = self.schedule(round)
        if not (is_number(factor) and factor > 0):
            raise ValueError(
                f"schedule({round})={factor!r} must be a finite number above 0 (it multiplies lr). "
                "Try cosine(100)"
            )
        return replace(self, lr=self.lr * float(factor), schedule=None)


class Budget(NamedTuple):
    """A limit on the bytes that a run may send.

    Attributes:
        bytes: The limit.
        direction: ``"up"``, ``"down"``, or ``""`` for both together.
        per_client: Whether the limit holds for each client, or for all clients together.

    Example:
        >>> Budget.parse("50 MB per client")
        Budget(bytes=50000000, direction='', per_client=True)
        >>> Budget.parse("1.5 GB up in all")
        Budget(bytes=1500000000, direction='up', per_client=False)
    """

    bytes: int
    direction: str
    per_client: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget from words.

        Raises:
            ValueError: If the words are no budget.
        """
        words = re.fullmatch(
            r"(\d+\.?\d*|\.\d+) *(B|[kMGT]B)(?: +(up|down))? +(per client|in all)", str(text)
        )
        if not words:
            raise ValueError(
                f"budget={text!r} must be a number, then B, kB, MB, GB or TB, perhaps up or down, "
                'and per client or in all. Try "50 MB per client"'
            )
        return cls(
            round(float(words[1]) * 1000 ** "BkMGT".index(words[2][0])),
            words[3] or "",
            words[4] == "per client",
        )


@dataclass(frozen=True, eq=False)
class Experiment:
    """One study: the data, the task and the settings of federated training.

    Attributes:
        data: A dataset, or a function of the seed that returns one.  Such a function draws the
            split anew for every seed, so that the band over seeds includes the luck of the split.
        task: Model, loss and metrics.
        local: Local training: of all clients, or a sequence with the settings of each client.
        algorithm: The federated algorithm.
        aggregate: ``(delta [m, d], weights [m]) -> [d]``; or ``(delta, weights, cohort)``, if it
            needs the round or random numbers.
        sample: ``(sizes [N], round, generator) -> ids``, which draws a cohort.
        rounds: Rounds of training.
        eval_every: Rounds from one evaluation to the next; the last round is always evaluated.
        upload: Compression of the updates.
        download: Compression of the models.
        budget: A limit such as ``"50 MB per client"`` (see ``Budget``).  A run ends before the
            first round in which a client, or all clients together, would exceed it.
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
        self._aggregate_takes_cohort  # noqa: B018 - raises at once for other arguments
        self._check_transforms()
        if self.budget is not None:
            Budget.parse(self.budget)
        if not isinstance(self.algorithm, Algorithm):
            raise ValueError(
                f"algorithm={_name(self.algorithm)} must be the result of a call. Try fedavg()"
            )
        self._check_formats()
        self._check_local()

    def _check_transforms(self) -> None:
        for name, transform in {"upload": self.upload, "download": self.download}.items():
            if not isinstance(transform, Transform):
                raise ValueError(
                    f"{name}={_name(transform)} must be the result of a call. Try identity() or "
                    "top_k(0.01)"
                )
        if self.download.no_download_reason:
            raise ValueError(
                f"download={_transform_name(self.download)}: {self.download.no_download_reason}"
            )

    def _check_formats(self) -> None:
        """Raise ValueError unless the algorithm can read the upload and the download."""
        if self.upload.update_format != self.algorithm.update_format:
            raise ValueError(
                f"upload produces {self.upload.update_format} and must produce "
                f"{self.algorithm.update_format} (the algorithm reads no other format). Try "
                "fetchsgd with count_sketch of the same columns and depth, others with rows"
            )
        if self.algorithm.partial_updates and not self.download.is_identity:
            raise ValueError(
                f"download={_transform_name(self.download)} must be identity() (clients fetch only "
                "the numbers within their mask). Try download=identity()"
            )

    def _check_local(self) -> None:
        if not isinstance(self.local, Local) and not (
            isinstance(self.local, Sequence)
            and self.local
            and all(isinstance(local, Local) for local in self.local)
        ):
            raise ValueError(
                f"local={self.local!r:.80} must be a Local, or a list with one per client. "
                "Try Local(lr=0.1)"
            )
        settings = {self.local} if isinstance(self.local, Local) else set(self.local)
        for local in settings:
            self.algorithm.validate(local, self)
        optimizers = {local.optimizer for local in settings}
        if len(optimizers) != 1:
            raise ValueError(
                f"local has the optimizers {sorted(optimizers)} and must have one (all clients of "
                "an experiment share it). Try optimizer='sgd' for all"
            )

    @cached_property
    def _aggregate_takes_cohort(self) -> bool:
        return takes_cohort(self.aggregate)

    def apply_aggregate(self, delta: Tensor, weights: Tensor, cohort: Cohort) -> Tensor:
        """Return the aggregate ``[d]`` of rows, with the cohort if the aggregate takes it.

        Args:
            delta: Rows, ``[m, d]``.
            weights: Weights of the clients, ``[m]``.
            cohort: The cohort of this round.
        """
        if self._aggregate_takes_cohort:
            return self.aggregate(delta, weights, cohort=cohort)
        return self.aggregate(delta, weights)


@dataclass(frozen=True, eq=False)
class Result:
    """The final models of the runs, and tables of every round.

    Columns named by ``compare`` come first in ``rounds`` and ``clients``.

    Attributes:
        w: The final model ``[d]`` of each run, in the order of the tables.
        rounds: One row per round, from round 0 (before any training): ``seed`` and ``round``; the
            test ``loss`` and metrics (NaN where not evaluated); ``train_loss`` (mean over the
            clients of the cohort, by weight); and ``clients`` (that trained).  Then, of the whole
            cohort in this round, ``examples`` (visited, counted anew in every epoch), ``steps``,
            ``bytes_up`` and ``bytes_down``, with their parts ``up_header``, ``up_indices``,
            ``up_values``, ``down_header``, ``down_indices`` and ``down_values``.
        clients: One row per client and round.
        trials: If ``compare`` was asked to ``tune``, one row per variant and candidate: its labels
            and values, ``accuracy`` and ``loss`` on the examples held out (mean over seeds; NaN if
            training diverged), and whether it was ``chosen``.
    """

    w: list[Tensor]
    rounds: pd.DataFrame
    clients: pd.DataFrame = field(repr=False)
    trials: pd.DataFrame | None = field(default=None, repr=False)

    def final(self, column: str = "accuracy") -> pd.DataFrame:
        """Return the last evaluated round of every run: its labels and ``column``.

        Raises:
            ValueError: If the result has no rounds.
        """
        if self.rounds.empty:
            raise ValueError(
                "the result has no rounds (the runs were stopped before they began). Try run again"
            )
        labels = list(self.rounds.columns[: list(self.rounds.columns).index("round")])
        # A label may be None, which groupby would drop.
        evaluated = self.rounds.dropna(subset=[column])
        return evaluated.drop_duplicates(labels, keep="last")[
            [*labels, "round", column]
        ].reset_index(drop=True)


def label_column(label: Any, m: int) -> np.ndarray:
    """Return a label ``m`` times, ``[m]``: as an object if it is no number and no text.

    Example:
        >>> label_column("iid", 2).tolist(), label_column(None, 2).tolist()
        (['iid', 'iid'], [None, None])
    """
    if isinstance(label, bool | int | float | str | np.generic):
        return np.full(m, label)
    column = np.empty(m, dtype=object)
    column[:] = [label] * m
    return column


def _name(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)


def _transform_name(transform: Transform) -> str:
    return transform.apply.__qualname__.split(".")[0]
