"""The parts of a round, for any loop over them: begin, train, receive, absorb, record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from torch import Tensor

from fedlab import params
from fedlab.checks import check_alike, check_examples, check_pair, check_test_parts, check_whole, is_number
from fedlab.client import Train, assign, plan, probe, stack
from fedlab.data.datasets import for_seed
from fedlab.evaluation import evaluate, evaluate_each
from fedlab.fit import check_fit
from fedlab.models.adapters import bases, check_bases
from fedlab.modules import check_layers
from fedlab.records import (
    Cohort,
    Experiment,
    FederatedDataset,
    Local,
    Phase,
    Result,
    Task,
    Terms,
    Updates,
    Work,
    repeated,
)
from fedlab.repeats import call
from fedlab.rng import generator, seeded
from fedlab.server.aggregate import MEANS
from fedlab.upload import ledger

_GENERATOR = 'cohort.generator("noise")'
Aggregate = Callable[[Tensor, Tensor, Cohort], Tensor]


class Diverged(ArithmeticError):  # noqa: N818 - the field's word
    """Training gave numbers that are not finite; ``result`` holds the history until then."""

    result: Result


@dataclass(eq=False)
class Run:
    """One experiment under one seed, on its way."""

    labels: dict[str, Any]
    experiment: Experiment
    seed: int
    data: FederatedDataset
    w: Tensor  # [d]
    state: Any  # the algorithm's
    links: dict[str, Any]  # what has travelled, see upload.ledger
    rounds: list[dict] = field(default_factory=list)
    clients: list[dict] = field(default_factory=list)


def initial(task: Task, seed: int, x: Tensor | None = None) -> Tensor:
    """The model that a seed starts from, ``[d]``; in the precision of the examples ``x``, where those are not integers, nor
    halved to be kept.
    """
    with seeded(seed, "init"):
        model = task.model()
    check_layers(model)
    w = params.flatten(model)
    w = w.float() if w.dtype.itemsize < 4 else w  # whose steps would be lost in rounding
    if x is None:
        return w
    whole = x.is_floating_point() and x.dtype.itemsize >= 4
    return w.to(x.device, x.dtype) if whole else w.to(x.device)


def dataset(experiment: Experiment, seed: int) -> FederatedDataset:
    """The experiment's data under a seed."""
    return for_seed(experiment.data, seed)


def tables(runs: Sequence[Run]) -> Result:
    """What the runs have recorded so far."""
    import pandas as pd

    names = runs[0].labels if runs else ()  # none where a run was stopped before it began
    labels = {name: [repeated(run.labels[name], len(run.rounds)) for run in runs] for name in names}
    rounds = pd.DataFrame([row for run in runs for row in run.rounds]).assign(**{n: _joined(labels[n]) for n in labels})
    rows = [row for run in runs for row in run.clients]
    clients = pd.DataFrame({name: _joined([row[name] for row in rows]) for name in rows[0]} if rows else None)
    own = [run.w.clone() if run.w._is_view() else run.w for run in runs]  # and not the matrix of all that run together
    return Result(own, rounds, clients)


def _joined(columns: list[np.ndarray]) -> Any:
    """Return columns one under the other; values of several kinds, such as labels, stay what they are."""
    import pandas as pd

    if len({column.dtype.kind for column in columns}) == 1 and columns[0].dtype != object:
        return np.concatenate(columns)
    return pd.Series(np.concatenate([column.astype(object) for column in columns]), dtype=object)


def find_device(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except Exception as error:  # every backend has its own
        raise ValueError(f"device={name!r}: PyTorch has no such device here; take device='auto' or 'cpu'") from error


def begin(labels: dict, experiment: Experiment, seed: int, device: torch.device) -> Run:
    """A run before its first round."""
    return begin_all([(labels, experiment, seed)], device)[0]


def begin_all(what: Iterable[tuple[dict, Experiment, int]], device: torch.device) -> list[Run]:
    """Runs of these labels, experiments and seeds before their first round, models of one task evaluated side by side."""
    runs = [_new(*one, device) for one in what]
    for group in alike(runs):
        for run, scores in zip(group, scores_after(group, 0), strict=True):
            run.rounds[0].update(scores)
    return runs


def _new(labels: dict, experiment: Experiment, seed: int, device: torch.device) -> Run:
    data = dataset(experiment, seed)
    _check_data(data)
    cohort = draw_cohort(experiment, data, seed, 1)  # that does not fit is refused before anything is trained
    if not np.array_equal(cohort.ids, draw_cohort(experiment, data, seed, 1).ids):
        told = "sample gives another cohort when it is asked again for round 1, so no run could be repeated"
        raise ValueError(f"{told}. Try the generator that it is given for all draws, and keep nothing between rounds")
    _check_locals(experiment, data)
    data = _moved(data, device)
    w = initial(experiment.task, seed, data.x)
    check_fit(experiment.task, w, data)
    links = ledger.begin(experiment, w, data.num_clients)
    run = Run(labels, experiment, seed, data, w, experiment.algorithm.init(w, data.num_clients), links)
    if bases(experiment.task):
        check_bases(experiment.task, experiment.algorithm.terms(run.state, cohort).fixed)
    none = dict.fromkeys(("clients", "examples", "steps", "bytes_up", "bytes_down", *ledger.COLUMNS), 0)
    nobody = {"train_loss": np.nan, **none}
    run.rounds.append({**labels, "seed": seed, "round": 0, **unknown(experiment.task), **nobody})
    return run


_SOUND: WeakSet[FederatedDataset] = WeakSet()


def _check_data(data: FederatedDataset) -> None:
    """ValueError for data that cannot be trained on; each is looked at once, however many seeds and variants have it."""
    if not isinstance(data, FederatedDataset):
        raise ValueError(f"data is {type(data).__name__}: give a FederatedDataset, or a function of the seed for one")
    if data in _SOUND:
        return
    check_pair(data.test)
    check_examples("training", data.x, data.y, data.parts)
    check_examples("test", *data.test)
    check_alike(data.x, data.y, data.test)
    if data.test_parts is not None:
        check_test_parts(data.test_parts, data.num_clients, len(data.test[1]))
    _SOUND.add(data)


_MOVED: WeakKeyDictionary[FederatedDataset, dict[torch.device, FederatedDataset]] = WeakKeyDictionary()


def _moved(data: FederatedDataset, device: torch.device) -> FederatedDataset:
    """The data on the device; the same copy for every run, so that they can train together."""
    if data.x.device == device:
        return data
    copies = _MOVED.setdefault(data, {})
    if device not in copies:
        copies[device] = data.to(device)
    return copies[device]


def _check_locals(experiment: Experiment, data: FederatedDataset) -> None:
    local = experiment.local
    if not isinstance(local, Local) and len(local) != data.num_clients:
        raise ValueError(
            f"local has {len(local)} entries for {data.num_clients} clients: give one for everyone, or one a client"
        )


def alike(runs: list[Run]) -> list[list[Run]]:
    """Runs that share a task, examples and an optimizer can train as rows of one matrix; fragile ones are by themselves."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        kind = id(run.experiment.task), id(run.data.x), id(run.data.y), local_of(run, [0])[0].optimizer
        groups.setdefault((*kind, id(run) if _is_fragile(run) else None), []).append(run)
    return list(groups.values())


def _is_fragile(run: Run) -> bool:
    """Return whether a last bit, which depends on how many rows a product has, may become a whole step.

    Transforms choose by such numbers, as top_k does and random levels do, and so do votes and robust aggregates.  AdamW's
    first step has the size lr, however small the gradient is.
    """
    experiment = run.experiment
    is_lossy = not (experiment.upload.is_whole and experiment.download.is_whole)
    return is_lossy or experiment.aggregate not in MEANS or local_of(run, [0])[0].optimizer == "adamw"


def local_of(run: Run, ids: Sequence[int], t: int = 1) -> list[Local]:
    """Return the settings of each of these clients in round ``t``, from 1: those of one object stay one object."""
    local = run.experiment.local
    if isinstance(local, Local):
        return [local.at(t)] * len(ids)
    at_round = {id(local[i]): local[i].at(t) for i in ids}
    return [at_round[id(local[i])] for i in ids]


def draw_cohort(experiment: Experiment, data: FederatedDataset, seed: int, t: int, edge: int = 0) -> Cohort:
    """Who takes part in round ``t``, at each ``edge`` by draws of its own; ValueError where the sampler gives no cohort."""
    path = (t, edge) if edge else (t,)
    ids = np.asarray(experiment.sample(data.sizes, t, generator(seed, "cohort", *path)))
    ids = np.sort(ids) if ids.dtype.kind in "iu" else ids
    if wrong := _what_is_wrong(ids, data.num_clients):
        told = f"sample gave {wrong} in round {t}"
        raise ValueError(f"{told}: a cohort are different clients [m], by whole numbers from 0 to {data.num_clients - 1}")
    return Cohort(ids.astype(np.int64), t, seed, data.num_clients)


def _what_is_wrong(ids: np.ndarray, num_clients: int) -> str:
    """Of a cohort, sorted; nothing where all is well."""
    if ids.shape == (0,):
        return ""
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        return f"numbers of shape {list(ids.shape)} and type {ids.dtype}"
    if ids[0] < 0 or ids[-1] >= num_clients:
        return f"client {ids[0] if ids[0] < 0 else ids[-1]}"
    twice = ids[1:] == ids[:-1]
    return f"client {ids[1:][twice][0]} twice" if twice.any() else ""


class Begun(NamedTuple):
    """What the clients of one run are to do in a round."""

    run: Run
    cohort: Cohort
    work: Work
    sent: Tensor | None  # [d] or [1 or m, d], 1 for numbers that travel up; None: all
    own: Tensor | None  # [1, d], 0 for numbers that never leave a client
    w: Tensor  # [d], what the clients have of the model
    down: np.ndarray  # [m, 3], bytes that they fetched for it
    phases: Phased | None = None  # of which the round consists, where it has several


def begin_rounds(runs: Sequence[Run], cohorts: Sequence[Cohort]) -> list[Begun]:
    """The models of runs that train together go out to their cohorts; all their batches are planned at once."""
    pairs, end, begun = list(zip(runs, cohorts, strict=True)), 0, []
    terms = [_terms(run, cohort) for run, cohort in pairs]
    parts = [run.data.parts[i] for run, cohort in pairs for i in cohort.ids]
    local = [
        settings
        for (run, cohort), phases in zip(pairs, (its.phases for its in terms), strict=True)
        for settings in with_epochs(local_of(run, cohort.ids, cohort.round), phases)
    ]
    seeds = [run.seed for run, cohort in pairs for _ in cohort.ids]
    batches = _plan(parts, seeds, cohorts[0].round, local, len(runs[0].data.y))
    for (run, cohort), its in zip(pairs, terms, strict=True):
        here = slice(end, end := end + len(cohort.ids))
        begun.append(_begin(run, cohort, its, parts[here], local[here], batches[here]))
    return begun


def _terms(run: Run, cohort: Cohort) -> Terms:
    """Return the algorithm's terms for a cohort, checked, in the precision of the model."""
    terms = run.experiment.algorithm.terms(run.state, cohort)
    if not isinstance(terms, Terms):
        raise ValueError(f"the algorithm's terms gave {type(terms).__name__} and must give Terms. Try Terms()")
    if not (is_number(terms.mu) and terms.mu >= 0):
        raise ValueError(f"mu={terms.mu!r} must be a number of at least 0 (a proximal term pulls back). Try 0.01")
    if not (is_number(terms.lr) and terms.lr > 0):
        raise ValueError(
            f"the algorithm's terms have lr={terms.lr!r}, which must be above 0 (it multiplies the rate). Try 1"
        )
    m, d = len(cohort.ids), len(run.w)
    allowed = {"h": [(m, d)], "mask": [(d,), (m, d)], "centre": [(d,), (m, d)]}
    for name, shapes in allowed.items():
        value = getattr(terms, name)
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(
                f"the algorithm's terms have {name} as {type(value).__name__}, which must be a tensor. Try torch.as_tensor"
            )
        if value is not None and tuple(value.shape) not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"the algorithm's terms have {name} of shape {list(value.shape)}, which must be {wanted}")
    if terms.mask is not None:
        if cohort.round == 1 and not ((terms.mask == 0) | (terms.mask == 1)).all():
            raise ValueError("the algorithm's terms have a mask with other numbers than 0 and 1. Try mask.bool()")
        terms = terms._replace(mask=terms.mask.to(run.w))
    phases = tuple(terms.phases)
    if not all(isinstance(phase, Phase) for phase in phases):
        raise ValueError(
            f"the algorithm's terms have phases={phases!r}, which must be Phase records. Try Phase(fixed, epochs)"
        )
    terms = terms._replace(phases=phases)
    if terms.centre is not None:
        terms = terms._replace(centre=terms.centre.to(run.w).expand(m, d))
    return terms


def with_epochs(local: Sequence[Local], phases: Sequence[Phase]) -> list[Local]:
    """Return the settings with the epochs of all ``phases``, where there are any."""
    if not phases:
        return list(local)
    for phase in phases:
        check_whole(1, epochs=phase.epochs)
    epochs, changed = sum(phase.epochs for phase in phases), {}
    for settings in local:
        if settings.steps is not None:
            raise ValueError(
                f"Local(steps={settings.steps}) must be left out: the algorithm's phases count epochs. "
                "Try Local without steps"
            )
        changed[id(settings)] = replace(settings, epochs=epochs)
    return [changed[id(settings)] for settings in local]


def _begin(
    run: Run, cohort: Cohort, terms: Terms, parts: list[np.ndarray], local: list[Local], batches: np.ndarray
) -> Begun:
    """What the clients of a cohort are told, and what they fetch for it."""
    shapes, m = run.experiment.task.shapes, len(cohort.ids)
    within = _without(shapes, terms.private, terms.mask, run.w)
    count = terms.fetched
    if count is None and terms.private:
        count = np.broadcast_to(torch.count_nonzero(within, -1).numpy(force=True), m)
    w, down = ledger.broadcast(run.experiment, run.links, run.w, cohort, terms.mask, count)
    sent = _without(shapes, terms.fixed, within, run.w)
    own = _without(shapes, terms.private, None, run.w)
    work = assign(w, parts, local, batches, terms, list(shapes))._replace(cohorts=(cohort,))
    phases = _phases(terms, list(shapes), parts, local) if terms.phases else None
    return Begun(run, cohort, work, sent, own, w, down, phases)


class Phased(NamedTuple):
    """Where the phases of each client end, in steps ``[m, P]``, and the tensors that each leaves ``[P, tensors]``."""

    ends: np.ndarray
    fixed: np.ndarray


def _phases(terms: Terms, names: list[str], parts: list[np.ndarray], local: list[Local]) -> Phased:
    fixed = [[*terms.fixed, *phase.fixed] for phase in terms.phases]
    unknown_names = [name for its in fixed for name in its if name not in names]
    if unknown_names:
        raise ValueError(
            f"a phase fixes {unknown_names[0]!r}, and the model has no such tensor. Try one of {', '.join(names[:6])}"
        )
    each = [-(-len(part) // (its.batch_size or max(1, len(part)))) for part, its in zip(parts, local, strict=True)]
    epochs = np.cumsum([phase.epochs for phase in terms.phases])
    return Phased(np.outer(each, epochs), np.array([[name in its for name in names] for its in fixed]))


def some(begun: Begun, which: np.ndarray) -> Begun:
    """Those of the cohort for whom the mask ``which [m]`` is true: the others are never heard of again."""
    work = begun.work
    settings = ("origin", "batches", "num_examples", "lr", "mu", "momentum", "weight_decay")
    cohort = begun.cohort.some(which)
    mine = work._replace(
        h=None if work.h is None else work.h[torch.from_numpy(which)],
        centre=None if work.centre is None else work.centre[torch.from_numpy(which)],
        cohorts=(cohort,),
        **{name: getattr(work, name)[which] for name in settings},
    )
    sent = begun.sent
    if sent is not None and sent.dim() == 2 and len(sent) > 1:
        sent = sent[torch.from_numpy(which)]
    phases = begun.phases and begun.phases._replace(ends=begun.phases.ends[which])
    return begun._replace(cohort=cohort, work=mine, sent=sent, down=begun.down[which], phases=phases)


def _without(shapes: Mapping[str, torch.Size], names: Sequence[str], mask: Tensor | None, like: Tensor) -> Tensor | None:
    """The ``mask`` of what travels (None: all), without the tensors of these names: known to both sides, ``[1 or m, d]``."""
    if not names:
        return mask
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise ValueError(f"the algorithm names {unknown[0]!r}, and the model has no such tensor: give both the same task")
    ones = [like.new_full((shape.numel(),), name not in names) for name, shape in shapes.items()]
    return torch.cat(ones)[None] * (1 if mask is None else mask)


def _plan(parts: list[np.ndarray], seeds: list[int], t: int, local: Sequence[Local], n: int) -> np.ndarray:
    """The batches of clients that may differ in their batch sizes and epochs, ``[m, K, B]``."""
    if all(mine is local[0] for mine in local):
        return plan(parts, seeds, t, local[0] if local else Local(1.0), n)
    kinds: dict[tuple, list[int]] = {}
    for row, mine in enumerate(local):
        kinds.setdefault((mine.batch_size, mine.epochs, mine.steps), []).append(row)
    plans = [plan([parts[i] for i in rows], [seeds[i] for i in rows], t, local[rows[0]], n) for rows in kinds.values()]
    return stack(plans)[np.argsort(np.concatenate(list(kinds.values())))]


def _together(works: list[Work]) -> Work:
    """The work of several runs as rows of one matrix, one under the other."""
    if len(works) == 1:
        return works[0]
    settings = ("num_examples", "lr", "mu", "momentum", "weight_decay")
    before = np.cumsum([0] + [len(work.start) for work in works])
    return works[0]._replace(
        start=params.together([work.start for work in works]),
        origin=np.concatenate([work.origin + i for work, i in zip(works, before, strict=False)]),
        batches=stack([work.batches for work in works]),
        h=_linear(works),
        centre=_centres(works),
        mask=_masks(works),
        fixed=_fixed(works),
        cohorts=tuple(cohort for work in works for cohort in work.cohorts),
        **{name: np.concatenate([getattr(work, name) for work in works]) for name in settings},
    )


def _linear(works: list[Work]) -> Tensor | None:
    """The linear terms of all runs, zeros where a run has none; None, and nothing allocated, where no run has any."""
    if all(work.h is None for work in works):
        return None
    return torch.cat([work.start.expand(len(work.lr), -1) * 0 if work.h is None else work.h for work in works])


def _centres(works: list[Work]) -> Tensor | None:
    """Likewise of what the proximal terms pull to: where a run has no such points, its starts."""
    if all(work.centre is None for work in works):
        return None
    return torch.cat([work.start[work.origin] if work.centre is None else work.centre for work in works])


def _masks(works: list[Work]) -> Tensor | None:
    """Likewise of the masks, where ones have no effect."""
    if all(work.mask is None for work in works):
        return None
    return torch.cat([torch.ones_like(work.start) if work.mask is None else work.mask for work in works])


def _fixed(works: list[Work]) -> np.ndarray | None:
    """Likewise of the tensors that stay."""
    fixed = [work.fixed for work in works]
    width = next((one.shape[1] for one in fixed if one is not None), None)
    if width is None:
        return None
    return np.concatenate([np.zeros((len(work.start), width), bool) if work.fixed is None else work.fixed for work in works])


def train(begun: Sequence[Begun], backend: Train) -> list[Updates]:
    """Local training of runs that share a task, examples and an optimizer, as rows of one matrix; what each has of it."""
    apart: list[Updates] = [None] * len(begun)  # type: ignore[list-item]
    for phased in (False, True):
        group = [k for k, one in enumerate(begun) if (one.phases is not None) == phased]
        train_group = _train_phases if phased else _train_together
        for k, updates in zip(group, train_group([begun[k] for k in group], backend) if group else [], strict=True):
            apart[k] = updates
    for k, (run, cohort, work, _, _, w, *_) in enumerate(begun):
        apart[k] = apart[k]._replace(h=work.h)
        if run.experiment.algorithm.probe:
            parts = [run.data.parts[i] for i in cohort.ids]
            loss, gradient = probe(run.experiment.task, run.data.x, run.data.y, w, parts)
            apart[k] = apart[k]._replace(start_loss=loss, gradient=gradient)
    return apart


def _train_together(begun: Sequence[Begun], backend: Train) -> list[Updates]:
    first = begun[0].run
    together = backend(first.experiment.task, first.data.x, first.data.y, _together([one.work for one in begun]))
    return _apart(together, [len(one.cohort.ids) for one in begun])


def _train_phases(begun: Sequence[Begun], backend: Train) -> list[Updates]:
    """Train phase after phase, each from where the one before ended; ``loss`` is the mean over the steps of all."""
    works = [one.work for one in begun]
    sums = [
        Updates(torch.zeros_like(work.start[work.origin]), *torch.zeros(4, len(work.lr)).to(work.start)) for work in works
    ]
    for p in range(max(one.phases.ends.shape[1] for one in begun)):
        group = [k for k, one in enumerate(begun) if p < one.phases.ends.shape[1]]
        stage = [begun[k]._replace(work=_phase(begun[k], p, sums[k].delta)) for k in group]
        for k, updates in zip(group, _train_together(stage, backend), strict=True):
            before, steps = sums[k], updates.steps
            sums[k] = Updates(
                before.delta + updates.delta,
                updates.num_examples,
                before.steps + steps,
                before.lr_sum + updates.lr_sum,
                before.loss + torch.where(steps > 0, updates.loss * steps, 0),
            )
    return [updates._replace(loss=updates.loss / updates.steps) for updates in sums]  # NaN where there were no steps


def _phase(begun: Begun, p: int, moved: Tensor) -> Work:
    """Return the work of phase ``p``, for clients that have ``moved [m, d]`` from their start in those before."""
    work, (ends, fixed) = begun.work, begun.phases
    low = ends[:, p - 1] if p else np.zeros(len(ends), int)
    step = low[:, None] + np.arange((ends[:, p] - low).max(initial=0))  # [m, K of this phase]
    inside = step < np.minimum(ends[:, p], work.batches.shape[1])[:, None]
    batches = work.batches[np.arange(len(ends))[:, None], np.where(inside, step, 0)] if step.size else work.batches[:, :0]
    start = work.start[work.origin]
    return work._replace(
        start=start + moved,
        origin=np.arange(len(ends)),
        batches=np.where(inside[:, :, None], batches, -1),
        centre=start if work.centre is None and work.mu.any() else work.centre,  # of the round, and not of the phase
        mask=None if work.mask is None else work.mask[work.origin],
        fixed=np.tile(fixed[p], (len(ends), 1)),
    )


def _apart(updates: Updates, sizes: list[int]) -> list[Updates]:
    """Those of runs with so many clients each."""
    if len(sizes) == 1:
        return [updates]
    columns = ([None] * len(sizes) if column is None else column.split_with_sizes(sizes) for column in updates)
    return [Updates(*own) for own in zip(*columns, strict=True)]


def receive(begun: Begun, updates: Updates) -> tuple[Updates, np.ndarray]:
    """The updates as the server has them, who sees nothing else, and what came up the wire, ``[m, 3]``.

    What is a client's own is still in them, for the step to put by until that client takes part again.
    """
    run, cohort, _, sent, own, *_ = begun
    trained = updates.steps.numpy(force=True) > 0
    _check_finite(np.isfinite(updates.loss.numpy(force=True)) | ~trained, run, cohort, "the training loss")
    if not run.experiment.upload.is_whole:  # which may hide it
        _check_finite(_is_finite(updates.delta) | ~trained, run, cohort, "the update")
    shared = updates.delta if own is None else updates.delta * own
    delta, up = ledger.receive(run.experiment, run.links, shared, cohort, trained, sent)
    if not run.experiment.upload.is_whole:  # which may overflow
        _check_finite(_is_finite(delta), run, cohort, "what the upload makes of the update")
    if own is not None:
        delta = torch.where(own > 0, delta, updates.delta)
    return updates._replace(delta=delta), up


def train_apart(
    runs: Sequence[Run], cohorts: Sequence[Cohort], rows: Sequence[Tensor], backend: Train
) -> list[tuple[Begun, Updates]]:
    """Train the clients of each cohort from models of their own, ``rows [m, d]``, where no server has one for all."""
    begun = []
    for one, start in zip(begin_rounds(runs, cohorts), rows, strict=True):
        if len(one.work.start) > 1:
            told = "the algorithm says where clients start, and here each must start from its own model"
            raise ValueError(f"{told}. Try fedavg()")
        begun.append(one._replace(work=one.work._replace(start=start, origin=np.arange(len(start)))))
    return [(one, receive(one, updates)[0]) for one, updates in zip(begun, train(begun, backend), strict=True)]


def is_paid(begun: Begun, up: np.ndarray) -> bool:
    """Whether the budget has room for the round; else the run is over, and what was its last round has to be evaluated."""
    run = begun.run
    if ledger.spend(run.experiment, run.links, begun.cohort, up, begun.down):
        return True
    if np.isnan(run.rounds[-1]["loss"]):
        run.rounds[-1].update(evaluate(run.experiment.task, run.w, run.data))
    return False


def absorb(run: Run, cohort: Cohort, updates: Updates, aggregate: Aggregate | None = None) -> tuple[Tensor, Any]:
    """Aggregate, step: the model ``[d]`` and the state that a cohort's rows lead to.

    By the experiment's aggregate, if no other is given.
    """
    algorithm = run.experiment.algorithm
    delta, weights = call("the algorithm's rows", _GENERATOR, algorithm.rows, updates, cohort)
    _check_shape("the algorithm's rows", delta, tuple(updates.delta.shape), run.w)
    _check_shape("the algorithm's weights", weights, (len(cohort.ids),), run.w)
    if (weights < 0).any():
        client, weight = cohort.ids[int(weights.argmin())], weights.min().item()
        raise ValueError(f"client {client} has the weight {weight:g} in the algorithm's rows, which must be at least 0")
    mean = fold(run, delta, weights, cohort, aggregate)
    w, state = call("the algorithm's step", _GENERATOR, algorithm.step, run.w, run.state, cohort, updates, mean)
    _check_shape("the algorithm's step", w, (len(run.w),), run.w)
    if not math.isfinite(w.sum().item()):  # a sum is not where one of its terms is not
        _check_finite(delta.isfinite().all(1).numpy(force=True), run, cohort, "the update")
        check_model(w, run, cohort.round)
    return w, state


def fold(run: Run, delta: Tensor, weights: Tensor, cohort: Cohort, aggregate: Aggregate | None = None) -> Tensor:
    """Return the aggregate ``[d]`` of rows ``[m, d]``, checked: by the experiment's, if no other is given."""
    user_function = run.experiment.aggregate
    name = f"aggregate={_name(user_function)}"
    combine = aggregate or run.experiment.fold
    mean = call(name, _GENERATOR, combine, delta, weights, cohort, user_function=user_function)
    _check_shape(name, mean, (delta.shape[1],), run.w)
    return mean


def _check_shape(what: str, value: Any, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise ValueError unless ``what`` gave a tensor of this shape and of the type of ``like``."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} gave {type(value).__name__} and must give a tensor {list(shape)}. Try torch.as_tensor")
    if value.shape != shape:
        raise ValueError(f"{what} gave the shape {list(value.shape)} and must give {list(shape)}")
    if value.dtype != like.dtype:
        raise ValueError(f"{what} gave {value.dtype} and must give {like.dtype}, as the model has. Try .to(delta)")


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)


def _is_finite(rows: Tensor) -> np.ndarray:
    """Return which rows are finite, ``[m]``."""
    fine = rows.sum(1).isfinite()  # a sum is not where one of its terms is not, and is sooner had
    return (fine if fine.all() else rows.isfinite().all(1)).numpy(force=True)


def check_model(w: Tensor, run: Run, t: int) -> None:
    """Raise Diverged if the server's model ``w [d]`` is not finite after round ``t``."""
    if not math.isfinite(w.sum().item()):  # a sum is not where one of its terms is not
        told = f"the server's model is not finite after round {t} (seed {run.seed})"
        raise Diverged(f"{told}: take a smaller server learning rate; the history is kept in .result")


def _check_finite(fine: np.ndarray, run: Run, cohort: Cohort, what: str) -> None:
    if not fine.all():
        client = cohort.ids[fine.argmin()]
        raise Diverged(
            f"{what} of client {client} is not finite in round {cohort.round} (seed {run.seed}, lr="
            f"{local_of(run, [client], cohort.round)[0].lr:g}): take a smaller learning rate; the history is kept in .result"
        )


def settle(run: Run) -> None:
    """Evaluations as they are in a run of this length: one that was shorter evaluated where it ended."""
    last = run.rounds[-1]
    for row in run.rounds[:-1] if run.links["over"] else run.rounds:
        if not due(run.experiment, row["round"]):
            row.update(unknown(run.experiment.task))
    if due(run.experiment, last["round"]) and np.isnan(last["loss"]):
        last.update(evaluate(run.experiment.task, run.w, run.data))


def due(experiment: Experiment, t: int) -> bool:
    """Whether the model is evaluated after round ``t``."""
    return t % experiment.eval_every == 0 or t == experiment.rounds


def unknown(task: Task) -> dict[str, float]:
    """In place of scores where nothing was evaluated."""
    return dict.fromkeys(("loss", *task.metrics, *task.measures), np.nan)


def scores_after(runs: Sequence[Run], t: int) -> list[dict[str, float]]:
    """Those of the models after round ``t``, or NaN where they are not evaluated; of runs of one task.

    What is evaluated side by side stays there: the next round need not put it together again.
    """
    scores, tests = [unknown(run.experiment.task) for run in runs], {}
    for k, run in enumerate(runs):
        if due(run.experiment, t):
            tests.setdefault(id(run.data.test[0]), []).append(k)
    for some in tests.values():
        first = runs[some[0]]
        rows = params.together([runs[k].w for k in some])
        for k, row, told in zip(some, rows, evaluate_each(first.experiment.task, rows, first.data), strict=True):
            runs[k].w, scores[k] = row if len(some) > 1 else first.w, told
    return scores


def mean_loss(loss: np.ndarray, weights: np.ndarray) -> float:
    """The mean training loss of clients ``[m]``, by their weights; NaN of nobody."""
    return float(loss @ weights / weights.sum()) if len(weights) else np.nan


def record(begun: Begun, updates: Updates, up: np.ndarray) -> tuple[dict, dict]:
    """The row of a round, its scores still unknown, and columns for each client in it; ``up [m, 3]`` came up."""
    run, cohort, work, *_ = begun
    t, m = cohort.round, len(cohort.ids)
    n, steps, loss = (column.numpy(force=True) for column in (updates.num_examples, updates.steps, updates.loss))
    trained = steps > 0
    names = ("examples", "steps", "bytes_up", "bytes_down", *ledger.COLUMNS)
    counted = np.empty((len(names), m), dtype=int)
    counted[0], counted[1], counted[2], counted[3] = (work.batches >= 0).sum((1, 2)), steps, up.sum(1), begun.down.sum(1)
    counted[4:7], counted[7:] = up.T, begun.down.T
    same = {**run.labels, "seed": run.seed, "round": t}
    row = (
        same
        | unknown(run.experiment.task)
        | {"train_loss": mean_loss(loss[trained], n[trained]), "clients": int(trained.sum())}
        | dict(zip(names, counted.sum(1).tolist(), strict=True))
    )
    columns = (
        {name: repeated(value, m) for name, value in same.items()}
        | {"client": cohort.ids, "num_examples": n.astype(int), "loss": loss}
        | dict(zip(names, counted, strict=True))
    )
    return row, columns


def commit(run: Run, after: tuple[Tensor, Any], told: tuple[dict, dict]) -> None:
    """What a round made of a run: ``absorb`` says what it has ``after`` it, ``record`` what is ``told`` of it."""
    run.w, run.state = after
    run.rounds.append(told[0])
    run.clients.append(told[1])
