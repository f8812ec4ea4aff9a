"""A federated algorithm as four functions, and the records that they exchange.

A round passes through them in this order::

    state --local_objective--> Terms --assign--> Work --engine--> Updates
                                                                     | contributions
    (w, state) <--step-- mean [d] <--aggregate-- delta [m, d], weights [m]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from fedlab.core.rng import generator

if TYPE_CHECKING:
    from fedlab.core.experiment import Experiment, Local


class Phase(NamedTuple):
    """One phase of a client's round.  The optimizer starts anew in every phase.

    Attributes:
        fixed: Names of tensors that do not train in this phase.
        epochs: Length of the phase.
    """

    fixed: Sequence[str] = ()
    epochs: int = 1


class Cohort(NamedTuple):
    """The context that every step of a round receives.

    Attributes:
        ids: Client numbers, ascending, ``[m]``.
        round: Round, from 1.
        seed: Seed of the run.
        num_clients: Number N of all clients.
        size: Clients that take part, if ``ids`` are a subset of them.

    Example:
        >>> cohort = Cohort(np.array([2, 5, 7]), round=1, seed=0, num_clients=10)
        >>> cohort.subset(np.array([True, False, True])).ids
        array([2, 7])
        >>> cohort.share
        0.3
    """

    ids: np.ndarray
    round: int
    seed: int
    num_clients: int
    size: int | None = None

    @property
    def share(self) -> float:
        """Return the share of all clients that takes part in this round."""
        return (len(self.ids) if self.size is None else self.size) / self.num_clients

    def generator(self, *purpose: int | str) -> np.random.Generator:
        """Return the random numbers of this round for a purpose: noise, ties, random groups."""
        return generator(self.seed, *purpose, self.round)

    def subset(self, selected: np.ndarray) -> Cohort:
        """Keep the clients selected by place or by a mask ``[m]``; ``share`` stays the same."""
        return self._replace(
            ids=self.ids[selected], size=len(self.ids) if self.size is None else self.size
        )


class Terms(NamedTuple):
    """The terms of the local objective ``F_i(w) + <h_i, w> + mu/2 ||w - z_i||^2``.

    FedAvg has none of them, FedProx has ``mu``, SCAFFOLD ``h_i = c - c_i``, FedDyn both.

    Attributes:
        h: Linear terms, ``[m, d]``.
        mu: Weight of the proximal term.
        lr: Factor of the clients' learning rates.
        mask: Parameters that a client has, 0 or 1.  The others are 0 at its start and after each
            of its steps, and are not sent.  The server chooses a shared mask ``[d]``, so its
            positions are sent.  Masks per client ``[m, d]`` follow from the seed or other shared
            knowledge, so only values are sent.
        fixed: Names of tensors that clients neither train nor send.
        private: Names of tensors that clients train and never send.  ``Algorithm.step`` finds
            them in the updates and stores them for the client's next round.
        start: Function from the server's model ``[d]`` to the models ``[m, d]`` that clients start
            from (default: the server's model).
        fetched: Numbers that each client downloads for its start, ``[m]`` (default: all that are
            not private).
        centre: Points ``z_i`` that the proximal term pulls to, ``[m, d]`` or a shared ``[d]``
            (default: each client's start).  In Ditto and FedAMP they differ from the start.
        phases: Phases of a round, each from the end of the one before.  FedRep trains the head
            with the body fixed, then the body with the head fixed.  Their epochs replace those of
            ``Local``.
    """

    h: Tensor | None = None
    mu: float = 0.0
    lr: float = 1.0
    mask: Tensor | None = None
    fixed: Sequence[str] = ()
    private: Sequence[str] = ()
    start: Callable[[Tensor], Tensor] | None = None
    fetched: np.ndarray | None = None
    centre: Tensor | None = None
    phases: Sequence[Phase] = ()


class Work(NamedTuple):
    """The work of a cohort, one row per client: with the data, all that an engine needs.

    Attributes:
        start: Models that clients start from, ``[v, d]``: one per run that trains in lockstep, or
            one per client.
        origin: The model that each client starts from, ``[m]``.
        batches: Example numbers of each step, ``[m, K, B]``.  -1 pads short batches, and clients
            with fewer steps.
        num_examples: Examples n_i of each client, ``[m]``.
        lr: Learning rates, ``[m]``.
        mu: Weights of the proximal terms, ``[m]``.
        momentum: Momentum, ``[m]``.
        weight_decay: Weight decay, ``[m]``.
        h: Linear terms, ``[m, d]``.
        mask: Masks of the models in ``start``, ``[v, d]``.
        fixed: Which tensors of these models do not train, ``[v, tensors]``.
        cohorts: The cohorts of these clients, in order, for an engine that draws random numbers.
        optimizer: ``"sgd"`` or ``"adamw"``.
        centre: Points that the proximal terms pull to, ``[m, d]`` (default: the start).
    """

    start: Tensor
    origin: np.ndarray
    batches: np.ndarray
    num_examples: np.ndarray
    lr: np.ndarray
    mu: np.ndarray
    momentum: np.ndarray
    weight_decay: np.ndarray
    h: Tensor | None = None
    mask: Tensor | None = None
    fixed: np.ndarray | None = None
    cohorts: tuple[Cohort, ...] = ()
    optimizer: str = "sgd"
    centre: Tensor | None = None


class Updates(NamedTuple):
    """The results of local training, one row per client.

    Attributes:
        delta: Updates ``w_i - w_t``, ``[m, d]``: the server adds their mean.
        num_examples: Examples n_i of each client, ``[m]``.
        steps: Steps that each client took, ``[m]``.
        lr_sum: Weight of a constant gradient in each update, ``[m]``: lr times steps for plain
            SGD (see ``fedlab.client.lr_sum``).
        loss: Mean loss over the local steps, ``[m]``; NaN without steps.
        start_loss: Loss ``F_i(w_t)`` over all examples of a client, ``[m]``, if the algorithm
            needs the full gradient.
        gradient: Gradient of ``F_i`` at ``w_t``, ``[m, d]``, likewise.
        h: Linear terms that the clients trained with, ``[m, d]``, if there were any.
    """

    delta: Tensor
    num_examples: Tensor
    steps: Tensor
    lr_sum: Tensor
    loss: Tensor
    start_loss: Tensor | None = None
    gradient: Tensor | None = None
    h: Tensor | None = None


class Algorithm(NamedTuple):
    """A federated algorithm in four functions, which are the paper's own lines.

    Attributes:
        init: ``(w [d], num_clients) -> state``, from the first model.
        local_objective: ``(state, cohort) -> Terms``, before training.
        contributions: ``(updates, cohort) -> (delta [m, d], weights [m])``, for the aggregate.
        step: ``(w, state, cohort, updates, mean) -> (w, state)``, from the aggregate.
        validate: ``(local, experiment)`` raises ValueError, with the reason, if the formula does
            not allow a client's local training, the aggregate or the sampler.
        needs_full_gradient: Whether the updates must have ``start_loss`` and ``gradient``.
        vectors_up: Vectors of d numbers that each client sends.  All but the first travel
            uncompressed.
        vectors_down: Vectors of d numbers that each client downloads, likewise.
        update_format: Format that the upload must produce.
        partial_updates: Whether, in some rounds at least, only a part of the update travels: the
            terms have a mask, or fixed or private tensors.

    Example:
        >>> from fedlab.core import Algorithm, Terms
        >>> fedavg = Algorithm(
        ...     init=lambda w, num_clients: None,
        ...     local_objective=lambda state, cohort: Terms(),
        ...     contributions=lambda updates, cohort: (updates.delta, updates.num_examples),
        ...     step=lambda w, state, cohort, updates, mean: (w + mean, state),
        ... )
        >>> fedavg.vectors_up
        1
    """

    init: Callable[[Tensor, int], Any]
    local_objective: Callable[[Any, Cohort], Terms]
    contributions: Callable[[Updates, Cohort], tuple[Tensor, Tensor]]
    step: Callable[[Tensor, Any, Cohort, Updates, Tensor], tuple[Tensor, Any]]
    validate: Callable[[Local, Experiment], None] = lambda local, experiment: None
    needs_full_gradient: bool = False
    vectors_up: int = 1
    vectors_down: int = 1
    update_format: str = "rows"
    partial_updates: bool = False
