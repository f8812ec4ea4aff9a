"""What travels through fedlab, by name: settings, updates, messages, results.

Symbols: ``N`` clients, ``m`` of them in a cohort, ``d`` trainable parameters, ``K`` local steps, ``B`` examples a step.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fedlab import params
from fedlab.checks import check_function, check_named_functions, check_whole, is_number, takes_cohort
from fedlab.modules import Builds, check_builds, check_layers, check_model
from fedlab.rng import generator, seeded

if TYPE_CHECKING:
    import pandas as pd


MOST_PADS = 64  # tokens computed in vain: about what a pass over another group of texts costs more
MOST_TOKENS = 4096  # of a pass, which bounds the memory that its activations take


_COLUMNS = """
seed round loss train_loss clients client num_examples test_examples examples steps
bytes_up bytes_down up_header up_indices up_values down_header down_indices down_values
seconds joules used late lost staleness version began ended fetching computing sending fate reason
edge edge_bytes_up edge_bytes_down own_accuracy disagreement note
"""
TABLE_COLUMNS = frozenset(_COLUMNS.split())  # of the tables of a result, which no metric may overwrite


@dataclass(frozen=True, eq=False)
class FederatedDataset:
    """Examples, and which client holds which.

    ``x [n, ...]`` and ``y [n]`` hold every training example once; ``parts[i]`` numbers those of client ``i``.
    A client may be empty: it can be drawn into a cohort, and never weighs.  ``test`` is ``(x, y)`` that no client trains
    on.  ``test_parts[i]`` numbers the test examples of client ``i``, where they are known to be anyone's.  A client may
    have none, or test examples only: then it never trains.
    """

    x: Tensor
    y: Tensor
    parts: Sequence[np.ndarray]
    test: tuple[Tensor, Tensor]
    name: str = ""
    classes: tuple[str, ...] = ()
    test_parts: Sequence[np.ndarray] | None = None

    def __repr__(self) -> str:
        if not isinstance(self.x, Tensor) or not isinstance(self.test, tuple):
            return f"<FederatedDataset {self.name!r}, whose x and test are no tensors>"
        shape, test, n = list(self.x.shape[1:]), len(self.test[1]), self.sizes.tolist()
        held = f"{self.num_clients} clients with {min(n, default=0)} to {max(n, default=0)} of them"
        return f"<FederatedDataset {self.name!r}: {len(self.y)} examples of shape {shape}, {held}, and {test} to test>"

    @property
    def num_clients(self) -> int:
        return len(self.parts)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Examples of each client, ``[N]``."""
        return np.array([len(part) for part in self.parts])

    def double(self) -> FederatedDataset:
        """The same examples in double precision; what trains on them computes in it, too."""
        return replace(self, x=self.x.double(), test=(self.test[0].double(), self.test[1]))

    def to(self, device: torch.device) -> FederatedDataset:
        """The same examples on another device; itself where they lie there already."""
        if self.x.device == device:
            return self
        x, y = self.test
        return replace(self, x=self.x.to(device), y=self.y.to(device), test=(x.to(device), y.to(device)))

    def counts(self) -> np.ndarray:
        """How many examples of each class each client holds, ``[N, classes]``."""
        y = self.y.numpy(force=True)
        return np.stack([np.bincount(y[part], minlength=len(self.classes)) for part in self.parts])


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

    def pieces(self, x: Tensor) -> list[Tensor | slice]:
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

    def holding(self, w: Tensor) -> nn.Module:
        """The template with views of the row ``w [d]`` as parameters, until the next call: for passes without a gradient."""
        model, trained = self._template(w)
        for p, values in zip(trained, params.views(w, self.shapes).values(), strict=True):
            p.data = values
        return model

    def module(self, w: Tensor) -> nn.Module:
        """A model of its own with the row ``w [d]``: to be kept, saved, timed or trained elsewhere."""
        model, values = self._new(w), params.views(w.detach(), self.shapes)  # no copy of the template: a pass may have left
        for name, p in model.named_parameters():  # tensors in it that cannot be copied
            p.data = values.get(name, p.data).clone()
        return model

    def apart(self) -> Task:
        """Return the same task with templates of its own, for a trial that may leave traces in them."""
        task = replace(self)
        task.__dict__.update({name: self.__dict__[name] for name in ("builds", "shapes") if name in self.__dict__})
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
            if p.is_floating_point() and (p.requires_grad or p.dtype.itemsize >= 4):  # what is frozen may be halved
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


def once_a_task(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function gives for a task and further arguments, as long as the task is in use."""
    results: WeakKeyDictionary[Task, dict[tuple, Any]] = WeakKeyDictionary()

    @wraps(function)
    def lookup(task: Task, *args: Any) -> Any:
        known = results.setdefault(task, {})
        if args not in known:
            known[args] = function(task, *args)
        return known[args]

    return lookup


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
            raise ValueError(f"momentum={self.momentum!r}: it is at least 0 and below 1; the usual one is 0.9")
        if self.optimizer == "adamw" and self.momentum:
            raise ValueError(f"momentum={self.momentum} with adamw, which has its own: leave it 0, or take optimizer='sgd'")
        if not (is_number(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay={self.weight_decay!r}: it is at least 0 and finite; try 1e-4")
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

    def some(self, which: np.ndarray) -> Cohort:
        """Those of the cohort, by number or by a mask ``[m]``."""
        return self._replace(ids=self.ids[which], size=len(self.ids) if self.size is None else self.size)


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
    cohorts: tuple[Cohort, ...] = ()  # whose clients these are, in turn: the context of draws that an engine may make
    optimizer: str = "sgd"
    centre: Tensor | None = None  # [m, d]: what the proximal term pulls to; None: where each client starts


class Updates(NamedTuple):
    """What local training gave, a row a client."""

    delta: Tensor  # [m, d], w_i - w_t: the server adds
    num_examples: Tensor  # [m], n_i
    steps: Tensor  # [m]
    lr_sum: Tensor  # [m], how much of each gradient is in delta, summed over the steps: lr times steps for plain SGD
    loss: Tensor  # [m], mean over the local steps; NaN where there were none
    start_loss: Tensor | None = None  # [m], F_i(w_t) on all that the client holds, where the algorithm asks for a probe
    gradient: Tensor | None = None  # [m, d], of F_i at w_t, likewise
    h: Tensor | None = None  # [m, d], the linear term of Terms that each client trained with, if there was one


@dataclass(frozen=True, eq=False)
class Message:
    """A cohort's rows on their way: the numbers that are left to send, and the forms that make rows of them again.

    ``values [m, k]`` are whole rows ``[m, d]`` as long as there are no ``forms``.  ``shapes`` are those of the row's
    tensors.  A ``mask`` of 0 and 1, equally many in each row, says outside of which the rows are 0, as both sides know.
    """

    values: Tensor
    shapes: Mapping[str, torch.Size]
    forms: tuple[Any, ...] = ()  # of fedlab.upload.forms, first to last
    mask: Tensor | None = None  # [1, d] or [m, d]

    @cached_property
    def delta(self) -> Tensor:
        """The rows as the receiver has them, ``[m, d]``."""
        rows = self.values
        for form in reversed(self.forms):
            rows = form.open(rows)
        return rows

    def allowed(self, rows: Tensor) -> Tensor:
        """Rows ``[m, d]``, such as what a client remembers, as far as they may be sent: 0 outside the mask."""
        return rows if self.mask is None else rows * self.mask

    def now(self, values: Tensor, *form: Any) -> Message:
        """After one more step: what it left to send, and the form that undoes it."""
        return replace(self, values=values, forms=(*self.forms, *form))


class Transform(NamedTuple):
    """What becomes of rows between a client and the server, as a pair of functions.

    ``init(w [d], shapes, num_clients) -> state``;
    ``apply(message, state, cohort) -> (message, state)``, of a row a client of the cohort, at least one.

    ``place`` says where in a chain its first and last step belong (see ``fedlab.upload.chain``).  ``gives`` is what the
    server gets: rows, or what an algorithm of the same ``takes`` can open.  ``no_feedback`` and ``no_download`` are reasons,
    if there are any, why it must not stand inside ``error_feedback`` or on the way down.
    """

    init: Callable[[Tensor, Mapping[str, torch.Size], int], Any]
    apply: Callable[[Message, Any, Cohort], tuple[Message, Any]]
    place: tuple[int, int]
    gives: str = "rows"
    no_feedback: str = ""
    no_download: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is ``whole()``, with which nothing has to be done."""
        return self.apply.__qualname__ == _WHOLE


def whole() -> Transform:
    """Rows as they are, in full precision."""

    def apply(message, state, cohort):
        return message, state

    return Transform(lambda w, shapes, num_clients: None, apply, (0, 0))


_WHOLE = whole().apply.__qualname__


class ClientTable:
    """A row ``[d]`` for each of ``num_clients`` clients: zeros until it is written, and no memory before that.

    ``table[ids]`` reads rows ``[m, d]`` (a copy), ``table[ids] = rows`` writes them.  Where ``journal`` is a list, each
    write first notes there what it replaces, and ``undo(journal)`` takes them back.
    """

    def __init__(self, like: Tensor, num_clients: int):
        self._place = torch.full((num_clients,), -1)  # [N], where a client's row lies
        self._rows = like.new_zeros(0, len(like))  # [capacity, d], doubled when full
        self.journal: list[tuple[Tensor, Tensor, Tensor]] | None = None

    @classmethod
    def of(cls, place: Tensor, rows: Tensor) -> ClientTable:
        """The table whose ``held`` this is."""
        table = cls(rows.new_empty(rows.shape[1]), 0)
        table._place, table._rows = place, rows
        return table

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """Where each client's row lies ``[N]``, -1 for none, and the rows that were written: no copies."""
        return self._place, self._rows[: self._used()]

    def __getitem__(self, ids: np.ndarray) -> Tensor:
        place = self._place[ids]
        if not len(self._rows):
            return self._rows.new_zeros(len(place), self._rows.shape[1])
        rows = self._rows[place.clamp(min=0)]
        rows[place < 0] = 0
        return rows

    def __setitem__(self, ids: np.ndarray, rows: Tensor) -> None:
        ids = torch.as_tensor(ids)
        if self.journal is not None:
            self.journal.append((ids, self._place[ids], self[ids]))
        new = ids[self._place[ids] < 0]
        used = self._used()
        self._place[new] = torch.arange(used, used + len(new))
        if used + len(new) > len(self._rows):
            larger = self._rows.new_zeros(min(2 * (used + len(new)), len(self._place)), self._rows.shape[1])
            larger[:used] = self._rows[:used]
            self._rows = larger
        self._rows[self._place[ids]] = rows

    def undo(self, journal: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        for ids, place, rows in reversed(journal):
            held = place >= 0
            self._rows[place[held]] = rows[held]
            self._place[ids] = place

    def _used(self) -> int:
        return int(self._place.max()) + 1 if len(self._place) else 0


class Algorithm(NamedTuple):
    """A federated algorithm in four functions, the paper's own lines.

    ``init(w, num_clients) -> state``, from the first model ``[d]``;
    ``terms(state, cohort) -> Terms``, before training;
    ``rows(updates, cohort) -> (delta [m, d], weights [m])``, what it hands to the aggregate;
    ``step(w, state, cohort, updates, mean) -> (w, state)``, what it does with the result.

    ``suits(local, experiment)`` raises ValueError, with the reason, for what the formula does not allow: some client's local
    training, the aggregate, the sampler.  ``probe`` asks for ``start_loss`` and ``gradient`` in the updates. ``sends`` and
    ``receives`` count the rows of d numbers that go up from a client of the cohort and down to it; all but the first travel
    whole.  ``takes`` is what an upload must give.  ``has_masks`` says that of the row only a part travels, in some rounds at
    least: its terms have a mask, or tensors that are fixed or private.
    """

    init: Callable[[Tensor, int], Any]
    terms: Callable[[Any, Cohort], Terms]
    rows: Callable[[Updates, Cohort], tuple[Tensor, Tensor]]
    step: Callable[[Tensor, Any, Cohort, Updates, Tensor], tuple[Tensor, Any]]
    suits: Callable[[Local, Experiment], None] = lambda local, experiment: None
    probe: bool = False
    sends: int = 1
    receives: int = 1
    takes: str = "rows"
    has_masks: bool = False


class Budget(NamedTuple):
    """How much may travel: bytes, which ``way`` ("up", "down" or, for both, ""), for ``each`` client or in all."""

    bytes: int
    way: str
    each: bool

    @classmethod
    def of(cls, text: str) -> Budget:
        """From words: "50 MB per client", "20 MB up per client", "3 GB in all"."""
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+) *(B|[kMGT]B)(?: +(up|down))? +(per client|in all)", str(text))
        if not found:
            told = "a number, B, kB, MB, GB or TB, perhaps up or down, and per client or in all"
            raise ValueError(f'budget={text!r}: it is {told}, such as "50 MB per client"')
        return cls(round(float(found[1]) * 1000 ** "BkMGT".index(found[2][0])), found[3] or "", found[4] == "per client")


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
    upload: Transform = field(default_factory=whole)
    download: Transform = field(default_factory=whole)
    budget: str | None = None

    def __post_init__(self):
        check_whole(1, rounds=self.rounds, eval_every=self.eval_every)
        check_function("Sampler", "uniform(10)", sample=self.sample)
        check_function("Aggregate", "weighted_mean", aggregate=self.aggregate)
        self._aggregate_takes_cohort  # noqa: B018 - refuses other arguments at once
        for name, transform in {"upload": self.upload, "download": self.download}.items():
            if not isinstance(transform, Transform):
                told = getattr(transform, "__name__", repr(transform))
                raise ValueError(f"{name}={told}: it is what a call gives, such as whole() or top_k(0.01)")
        if self.download.no_download:
            raise ValueError(f"download={self.download.apply.__qualname__.split('.')[0]}: {self.download.no_download}")
        if self.budget is not None:
            Budget.of(self.budget)
        if not isinstance(self.algorithm, Algorithm):
            told = getattr(self.algorithm, "__name__", repr(self.algorithm))
            raise ValueError(f"algorithm={told}: it is what a call gives, such as fedavg()")
        if self.upload.gives != self.algorithm.takes:
            told = f"upload gives {self.upload.gives}, and the algorithm takes {self.algorithm.takes}"
            raise ValueError(f"{told}: fetchsgd goes with count_sketch of the same columns and depth, all others with rows")
        if self.algorithm.has_masks and not self.download.is_whole:
            told = f"download={self.download.apply.__qualname__.split('.')[0]}"
            raise ValueError(f"{told}: of a model with a mask clients fetch the numbers within it: use download=whole()")
        if not isinstance(self.local, Local) and not (
            isinstance(self.local, Sequence) and self.local and all(isinstance(one, Local) for one in self.local)
        ):
            raise ValueError(f"local={self.local!r:.80} must be a Local, or a list with one per client. Try Local(lr=0.1)")
        everyone = {self.local} if isinstance(self.local, Local) else set(self.local)
        for local in everyone:
            self.algorithm.suits(local, self)
        optimizers = {local.optimizer for local in everyone}
        if len(optimizers) != 1:
            raise ValueError(
                f"local has the optimizers {sorted(optimizers)}: all clients of an experiment have the same one"
            )

    @cached_property
    def _aggregate_takes_cohort(self) -> bool:
        return takes_cohort(self.aggregate)

    def fold(self, delta: Tensor, weights: Tensor, cohort: Cohort) -> Tensor:
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
            raise ValueError("the result has no rounds: the runs were stopped before they began. Try run again")
        labels = list(self.rounds.columns[: list(self.rounds.columns).index("round")])
        evaluated = self.rounds.dropna(subset=[column])  # a label may be None, which a group would lose
        return evaluated.drop_duplicates(labels, keep="last")[[*labels, "round", column]].reset_index(drop=True)


def repeated(label: Any, m: int) -> np.ndarray:
    """Return a label ``m`` times, ``[m]``: as an object where it is no number and no text."""
    if isinstance(label, bool | int | float | str | np.generic):
        return np.full(m, label)
    column = np.empty(m, dtype=object)
    column[:] = [label] * m
    return column
