"""The parts of a round, for any loop over them: begin, train, receive, absorb, record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from torch import Tensor

from fedlab import params
from fedlab.checks import check_alike, check_examples, check_pair
from fedlab.client import Train, assign, forward, plan, probe, stack
from fedlab.models.tabular import cross_entropy
from fedlab.records import Cohort, Experiment, FederatedDataset, Local, Result, Task, Updates, Work, repeated
from fedlab.rng import generator, seeded
from fedlab.upload import ledger

Aggregate = Callable[[Tensor, Tensor], Tensor]

EVALUATED_AT_ONCE = 2000  # examples, which bounds the memory that their activations take


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
    w = params.flatten(model)
    if x is None:
        return w
    whole = x.is_floating_point() and x.dtype.itemsize >= 4
    return w.to(x.device, x.dtype) if whole else w.to(x.device)


def dataset(experiment: Experiment, seed: int) -> FederatedDataset:
    """The experiment's data under a seed."""
    return experiment.data(seed) if callable(experiment.data) else experiment.data


def evaluate(task: Task, w: Tensor, data: FederatedDataset) -> dict[str, float]:
    """The mean loss and metrics of the model ``w [d]`` on the test set."""
    return evaluate_each(task, w[None], data)[0]


@torch.no_grad()
def evaluate_each(task: Task, rows: Tensor, data: FederatedDataset) -> list[dict[str, float]]:
    """Those of each of the models ``rows [v, d]``; small ones side by side."""
    scores = []
    for w in rows.split(max(1, EVALUATED_AT_ONCE // max(1, len(data.test[1])))):
        if (together := forward(task, w, data)) is not None:
            scores += _evaluate(task, together, w.shape[0], data)
        else:
            scores += [score for one in w for score in _evaluate(task, task.holding(one), 1, data)]
    return scores


def _evaluate(task: Task, models: Callable[[Tensor], Tensor], v: int, data: FederatedDataset) -> list[dict[str, float]]:
    """Of ``v`` models side by side, ``x [v * n, ...] -> [v * n, ...]``."""
    scores, n = {"loss": task.loss, **task.metrics}, len(data.test[1])
    totals = {name: np.zeros(v) for name in scores}
    for k in range(0, n, EVALUATED_AT_ONCE):
        x, y = (both[k : k + EVALUATED_AT_ONCE] for both in data.test)
        for piece in task.pieces(x):
            seen, labels = (some.expand(v, *some.shape).flatten(0, 1) for some in (x[piece], y[piece]))
            output = models(seen)
            for name, score in scores.items():
                totals[name] += score(output, labels).reshape(v, -1).sum(1).numpy(force=True)
    means = (totals[name] / n for name in scores)
    return [dict(zip(scores, each, strict=True)) for each in zip(*(mean.tolist() for mean in means), strict=True)]


def tables(runs: Sequence[Run]) -> Result:
    """What the runs have recorded so far."""
    import pandas as pd

    labels = {name: [repeated(run.labels[name], len(run.rounds)) for run in runs] for name in runs[0].labels}
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
    draw_cohort(experiment, data, seed, 1)  # a cohort that does not fit is refused before anything is trained
    _check_locals(experiment, data)
    data = _moved(data, device)
    w = initial(experiment.task, seed, data.x)
    _check_fit(experiment.task, w, data)
    links = ledger.begin(experiment, w, data.num_clients)
    run = Run(labels, experiment, seed, data, w, experiment.algorithm.init(w, data.num_clients), links)
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
    _SOUND.add(data)


@lru_cache(maxsize=8)
def _moved(data: FederatedDataset, device: torch.device) -> FederatedDataset:
    """The data on the device; the same copy for every run, so that they can train together."""
    return data.to(device)


def _check_locals(experiment: Experiment, data: FederatedDataset) -> None:
    local = experiment.local
    if not isinstance(local, Local) and len(local) != data.num_clients:
        raise ValueError(
            f"local has {len(local)} entries for {data.num_clients} clients: give one for everyone, or one a client"
        )


_FITTING: WeakKeyDictionary[Task, WeakSet[FederatedDataset]] = WeakKeyDictionary()


@torch.no_grad()
def _check_fit(task: Task, w: Tensor, data: FederatedDataset) -> None:
    """Model, loss and metrics on two examples: ValueError, with the shapes in it, where they do not go together.

    Each pair is looked at once, however many seeds and variants have it.
    """
    if data in _FITTING.setdefault(task, WeakSet()):
        return
    x, y = data.x[:2], data.y[:2]
    name = type(task.template(w)).__name__
    try:
        output = task.forward(w, x)
    except Exception as error:
        shape = f"examples of shape {list(x.shape[1:])} and type {x.dtype}"
        raise ValueError(f"the model {name} does not take {shape}: {_first_line(error)}") from error
    if task.loss is cross_entropy and output.dim() == 2 and not y.is_floating_point():
        _check_labels(output.shape[1], name, data)
    shapes = f"outputs {list(output.shape)} of {name} and labels {list(y.shape)} of type {y.dtype}"
    for what, score in {"loss": task.loss, **task.metrics}.items():
        try:
            each = score(output, y)
        except Exception as error:
            raise ValueError(f"the {what} does not take {shapes}: {_first_line(error)}") from error
        if each.shape != y.shape[:1]:
            told = f"the {what} of {shapes} has the shape {list(each.shape)}"
            raise ValueError(f"{told}: it gives one number an example, [B], with reduction='none' where PyTorch has that")
    _FITTING[task].add(data)


def _check_labels(outputs: int, name: str, data: FederatedDataset) -> None:
    for where, y in {"training": data.y, "test": data.test[1]}.items():
        low, high = y.min().item(), y.max().item()
        if low < 0 or high >= outputs:
            told = f"the {where} label {low if low < 0 else high} is out of range: the model {name} has {outputs} outputs"
            raise ValueError(f"{told}, for classes numbered from 0 to {outputs - 1}; give it more, or number them so")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def alike(runs: list[Run]) -> list[list[Run]]:
    """Runs that share a task, examples and an optimizer can train as rows of one matrix; fragile ones are by themselves."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        kind = id(run.experiment.task), id(run.data.x), id(run.data.y), local_of(run, [0])[0].optimizer
        groups.setdefault((*kind, id(run) if _is_fragile(run) else None), []).append(run)
    return list(groups.values())


def _is_fragile(run: Run) -> bool:
    """Return whether a last bit, which depends on how many rows a product has, may become a whole step.

    Transforms choose by such numbers, as top_k does and random levels do.  AdamW's first step has the size lr, however small
    the gradient is.
    """
    experiment = run.experiment
    chooses = not (experiment.upload.is_whole and experiment.download.is_whole)
    return chooses or local_of(run, [0])[0].optimizer == "adamw"


def local_of(run: Run, ids: Sequence[int]) -> list[Local]:
    """How each of these clients trains."""
    local = run.experiment.local
    return [local] * len(ids) if isinstance(local, Local) else [local[i] for i in ids]


def draw_cohort(experiment: Experiment, data: FederatedDataset, seed: int, t: int) -> Cohort:
    """Who takes part in round ``t``; ValueError where the sampler gives no cohort."""
    ids = np.asarray(experiment.sample(data.sizes, t, generator(seed, "cohort", t)))
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


def begin_rounds(runs: Sequence[Run], cohorts: Sequence[Cohort]) -> list[Begun]:
    """The models of runs that train together go out to their cohorts; all their batches are planned at once."""
    pairs, end, begun = list(zip(runs, cohorts, strict=True)), 0, []
    parts = [run.data.parts[i] for run, cohort in pairs for i in cohort.ids]
    local = [one for run, cohort in pairs for one in local_of(run, cohort.ids)]
    seeds = [run.seed for run, cohort in pairs for _ in cohort.ids]
    batches = _plan(parts, seeds, cohorts[0].round, local, len(runs[0].data.y))
    for run, cohort in pairs:
        here = slice(end, end := end + len(cohort.ids))
        begun.append(_begin(run, cohort, parts[here], local[here], batches[here]))
    return begun


def _begin(run: Run, cohort: Cohort, parts: list[np.ndarray], local: list[Local], batches: np.ndarray) -> Begun:
    """What the clients of a cohort are told, and what they fetch for it."""
    terms = run.experiment.algorithm.terms(run.state, cohort)
    if terms.mask is not None:
        terms = terms._replace(mask=terms.mask.to(run.w))
    shapes, m = run.experiment.task.shapes, len(cohort.ids)
    within = _without(shapes, terms.private, terms.mask, run.w)
    count = terms.fetched
    if count is None and terms.private:
        count = np.broadcast_to(torch.count_nonzero(within, -1).numpy(force=True), m)
    w, down = ledger.broadcast(run.experiment, run.links, run.w, cohort, terms.mask, count)
    sent = _without(shapes, terms.fixed, within, run.w)
    own = _without(shapes, terms.private, None, run.w)
    work = assign(w, parts, local, batches, terms, list(shapes))._replace(cohorts=(cohort,))
    return Begun(run, cohort, work, sent, own, w, down)


def some(begun: Begun, which: np.ndarray) -> Begun:
    """Those of the cohort for whom the mask ``which [m]`` is true: the others are never heard of again."""
    work = begun.work
    settings = ("origin", "batches", "num_examples", "lr", "mu", "momentum", "weight_decay")
    cohort = begun.cohort.some(which)
    mine = work._replace(
        h=None if work.h is None else work.h[torch.from_numpy(which)],
        cohorts=(cohort,),
        **{name: getattr(work, name)[which] for name in settings},
    )
    sent = begun.sent
    if sent is not None and sent.dim() == 2 and len(sent) > 1:
        sent = sent[torch.from_numpy(which)]
    return begun._replace(cohort=cohort, work=mine, sent=sent, down=begun.down[which])


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
    first = begun[0].run
    together = backend(first.experiment.task, first.data.x, first.data.y, _together([one.work for one in begun]))
    apart = _apart(together, [len(one.cohort.ids) for one in begun])
    for k, (run, cohort, _, _, _, w, _) in enumerate(begun):
        if run.experiment.algorithm.probe:
            parts = [run.data.parts[i] for i in cohort.ids]
            loss, gradient = probe(run.experiment.task, run.data.x, run.data.y, w, parts)
            apart[k] = apart[k]._replace(start_loss=loss, gradient=gradient)
    return apart


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
    run, cohort, _, sent, own, _, _ = begun
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


def absorb(run: Run, cohort: Cohort, updates: Updates, aggregate: Aggregate | None = None) -> tuple[Tensor, Any]:
    """Aggregate, step: the model ``[d]`` and the state that a cohort's rows lead to.

    By the experiment's aggregate, if no other is given.
    """
    algorithm = run.experiment.algorithm
    delta, weights = algorithm.rows(updates, cohort)
    mean = (aggregate or run.experiment.aggregate)(delta, weights)
    w, state = algorithm.step(run.w, run.state, cohort, updates, mean)
    if not math.isfinite(w.sum().item()):  # a sum is not where one of its terms is not
        _check_finite(delta.isfinite().all(1).numpy(force=True), run, cohort, "the update")
        told = f"the server's model is not finite after round {cohort.round} (seed {run.seed})"
        raise Diverged(f"{told}: take a smaller server learning rate; the history is kept in .result")
    return w, state


def _is_finite(rows: Tensor) -> np.ndarray:
    """Return which rows are finite, ``[m]``."""
    fine = rows.sum(1).isfinite()  # a sum is not where one of its terms is not, and is sooner had
    return (fine if fine.all() else rows.isfinite().all(1)).numpy(force=True)


def _check_finite(fine: np.ndarray, run: Run, cohort: Cohort, what: str) -> None:
    if not fine.all():
        client = cohort.ids[fine.argmin()]
        raise Diverged(
            f"{what} of client {client} is not finite in round {cohort.round} (seed {run.seed}, "
            f"lr={local_of(run, [client])[0].lr:g}): take a smaller learning rate; the history is kept in .result"
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
    return dict.fromkeys(("loss", *task.metrics), np.nan)


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
