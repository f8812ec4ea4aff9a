"""A federated algorithm as four functions, and the records that they exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from fedlab.core.rng import generator

if TYPE_CHECKING:
    from fedlab.core.experiment import Experiment, Local


class Phase(NamedTuple):
    """One phase of a client's round: for ``epochs``, with the tensors named in ``fixed`` left as they are.

    The optimiser starts anew in every phase.
    """

    fixed: Sequence[str] = ()
    epochs: int = 1


class Cohort(NamedTuple):
    """The context that every step of a round receives."""

    ids: np.ndarray  # [m] client numbers, ascending
    round: int  # from 1
    seed: int
    num_clients: int  # N
    size: int | None = None  # how many take part, where ``ids`` are only some of them

    @property
    def share(self) -> float:
        """Which share of all clients takes part in this round."""
        return (len(self.ids) if self.size is None else self.size) / self.num_clients

    def generator(self, *purpose: int | str) -> np.random.Generator:
        """Return the random numbers of this round for a ``purpose``: noise, ties, random groups."""
        return generator(self.seed, *purpose, self.round)

    def subset(self, which: np.ndarray) -> Cohort:
        """Those of the cohort, by number or by a mask ``[m]``."""
        return self._replace(
            ids=self.ids[which], size=len(self.ids) if self.size is None else self.size
        )


class Terms(NamedTuple):
    """The linear and proximal terms of the local objective ``F_i(w) + <h_i, w> + mu/2 ||w - z_i||^2``.

    ``z_i`` is the ``centre`` of client i; without one, the model that it starts from.  Ditto and FedAMP pull to a point
    that is not the start.  FedAvg has neither; FedProx has ``mu``; SCAFFOLD ``h_i = c - c_i``; FedDyn both.  ``lr``
    multiplies the clients' own.
    A ``mask`` says which parameters a client has: the others are 0 where it starts, and after each of its steps, and do not
    travel.  One for everyone is the server's choice, whose places clients have to be told; those of each client follow from
    what both sides know, such as the seed.

    Whole tensors of the row, by their names, may be ``fixed``: clients do not move them, and do not send them.  Or
    ``private``: what a client makes of them never leaves it, and the step that keeps it for the next time finds it in the
    updates.  ``start(w)`` is where each client begins, ``[m, d]``, in place of the server's model; ``fetched`` how many
    numbers each one needs for that, in place of all that are not private.

    ``phases`` follow each other within a round, each from where the one before ended: FedRep trains the head while the body
    is fixed, then the body while the head is.  Their epochs replace those of ``Local``.
    """

    h: Tensor | None = None  # [m, d]
    mu: float = 0.0
    lr: float = 1.0
    mask: Tensor | None = None  # [d] for everyone, or [m, d]; of 0 and 1
    fixed: Sequence[str] = ()
    private: Sequence[str] = ()
    start: Callable[[Tensor], Tensor] | None = None
    fetched: np.ndarray | None = None  # [m]
    centre: Tensor | None = None  # [m, d], or [d] for everyone
    phases: Sequence[Phase] = ()


class Work(NamedTuple):
    """What the clients of a cohort are to do, a row a client: all that an engine needs beside the data.

    ``start [v, d]`` holds the models in play (one a run that is trained in lockstep) and ``origin [m]`` says from which of
    them a row starts.  ``batches [m, K, B]`` are example numbers, step by step; -1 pads short batches and, at
    the end, rows with fewer steps.  ``mask [v, d]`` and ``fixed [v, tensors]``, where there are any, belong to the models as
    ``start`` does; the latter says which tensors of a row stay as they are.
    """

    start: Tensor
    origin: np.ndarray
    batches: np.ndarray
    num_examples: np.ndarray  # [m], n_i: what the clients hold
    lr: np.ndarray  # [m]
    mu: np.ndarray  # [m]
    momentum: np.ndarray  # [m]
    weight_decay: np.ndarray  # [m]
    h: Tensor | None = None  # [m, d]
    mask: Tensor | None = None  # [v, d]
    fixed: np.ndarray | None = None  # [v, tensors]
    cohorts: tuple[
        Cohort, ...
    ] = ()  # whose clients these are, in turn: the context of draws that an engine may make
    optimizer: str = "sgd"
    centre: Tensor | None = (
        None  # [m, d]: what the proximal term pulls to; None: where each client starts
    )


class Updates(NamedTuple):
    """What local training gave, a row a client."""

    delta: Tensor  # [m, d], w_i - w_t: the server adds
    num_examples: Tensor  # [m], n_i
    steps: Tensor  # [m]
    lr_sum: Tensor  # [m], how much of each gradient is in delta, summed over the steps: lr times steps for plain SGD
    loss: Tensor  # [m], mean over the local steps; NaN where there were none
    start_loss: Tensor | None = (
        None  # [m], F_i(w_t) on all that the client holds, where the algorithm needs the full gradient
    )
    gradient: Tensor | None = None  # [m, d], of F_i at w_t, likewise
    h: Tensor | None = (
        None  # [m, d], the linear term of Terms that each client trained with, if there was one
    )


class Algorithm(NamedTuple):
    """A federated algorithm in four functions, the paper's own lines.

    ``init(w, num_clients) -> state``, from the first model ``[d]``;
    ``local_objective(state, cohort) -> Terms``, before training;
    ``contributions(updates, cohort) -> (delta [m, d], weights [m])``, the rows and weights to aggregate;
    ``step(w, state, cohort, updates, mean) -> (w, state)``, what it does with the result.

    ``validate(local, experiment)`` raises ValueError, with the reason, for what the formula does not allow: some client's local
    training, the aggregate, the sampler.  ``needs_full_gradient`` asks for ``start_loss`` and ``gradient`` in the updates.
    ``vectors_up`` and ``vectors_down`` count the vectors of d numbers that each client of the cohort sends and fetches; all
    but the first travel uncompressed.  ``update_format`` is the format that an upload must produce.  ``partial_updates``
    says that only a part of the update travels, in some rounds at least: the terms have a mask, or fixed or private tensors.
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
