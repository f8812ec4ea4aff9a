"""The first half of a round: models and terms go out to the clients of a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.client import assign, plan, stack_plans
from fedlab.core import (
    Cohort,
    Local,
    Phase,
    Terms,
    Work,
)
from fedlab.core.validate import check_whole, is_number
from fedlab.engine.run_state import Run, local_settings
from fedlab.upload.traffic import broadcast


class Dispatch(NamedTuple):
    """What the clients of one run are to do in a round."""

    run: Run
    cohort: Cohort
    work: Work
    upload_mask: Tensor | None  # [d] or [1 or m, d], 1 for numbers that travel up; None: all
    shared_mask: Tensor | None  # [1, d], 0 for numbers that never leave a client
    model: Tensor  # [d], what the clients have of the model
    bytes_down: np.ndarray  # [m, 3], bytes that they fetched for it
    phases: PhasePlan | None = None  # of which the round consists, where it has several


def dispatch(runs: Sequence[Run], cohorts: Sequence[Cohort]) -> list[Dispatch]:
    """The models of runs that train together go out to their cohorts; all their batches are planned at once."""
    pairs, end, begun = list(zip(runs, cohorts, strict=True)), 0, []
    terms = [_terms(run, cohort) for run, cohort in pairs]
    parts = [run.data.parts[i] for run, cohort in pairs for i in cohort.ids]
    local = [
        settings
        for (run, cohort), phases in zip(pairs, (its.phases for its in terms), strict=True)
        for settings in with_epochs(local_settings(run, cohort.ids, cohort.round), phases)
    ]
    seeds = [run.seed for run, cohort in pairs for _ in cohort.ids]
    batches = _plan(parts, seeds, cohorts[0].round, local, len(runs[0].data.y))
    for (run, cohort), its in zip(pairs, terms, strict=True):
        here = slice(end, end := end + len(cohort.ids))
        begun.append(_begin(run, cohort, its, parts[here], local[here], batches[here]))
    return begun


def _terms(run: Run, cohort: Cohort) -> Terms:
    """Return the algorithm's terms for a cohort, checked, in the precision of the model."""
    terms = run.experiment.algorithm.local_objective(run.state, cohort)
    if not isinstance(terms, Terms):
        raise ValueError(
            f"the algorithm's terms gave {type(terms).__name__} and must give Terms. Try Terms()"
        )
    if not (is_number(terms.mu) and terms.mu >= 0):
        raise ValueError(
            f"mu={terms.mu!r} must be a number of at least 0 (a proximal term pulls back). Try 0.01"
        )
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
            raise ValueError(
                f"the algorithm's terms have {name} of shape {list(value.shape)}, which must be {wanted}"
            )
    if terms.mask is not None:
        if cohort.round == 1 and not ((terms.mask == 0) | (terms.mask == 1)).all():
            raise ValueError(
                "the algorithm's terms have a mask with other numbers than 0 and 1. Try mask.bool()"
            )
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
    run: Run,
    cohort: Cohort,
    terms: Terms,
    parts: list[np.ndarray],
    local: list[Local],
    batches: np.ndarray,
) -> Dispatch:
    """What the clients of a cohort are told, and what they fetch for it."""
    shapes, m = run.experiment.task.shapes, len(cohort.ids)
    within = _without(shapes, terms.private, terms.mask, run.w)
    count = terms.fetched
    if count is None and terms.private:
        count = np.broadcast_to(torch.count_nonzero(within, -1).numpy(force=True), m)
    w, down = broadcast(run.experiment, run.traffic, run.w, cohort, terms.mask, count)
    sent = _without(shapes, terms.fixed, within, run.w)
    own = _without(shapes, terms.private, None, run.w)
    work = assign(w, parts, local, batches, terms, list(shapes))._replace(cohorts=(cohort,))
    phases = _phases(terms, list(shapes), parts, local) if terms.phases else None
    return Dispatch(run, cohort, work, sent, own, w, down, phases)


class PhasePlan(NamedTuple):
    """Where the phases of each client end, in steps ``[m, P]``, and the tensors that each leaves ``[P, tensors]``."""

    ends: np.ndarray
    fixed: np.ndarray


def _phases(
    terms: Terms, names: list[str], parts: list[np.ndarray], local: list[Local]
) -> PhasePlan:
    fixed = [[*terms.fixed, *phase.fixed] for phase in terms.phases]
    unknown_names = [name for its in fixed for name in its if name not in names]
    if unknown_names:
        raise ValueError(
            f"a phase fixes {unknown_names[0]!r}, and the model has no such tensor. Try one of {', '.join(names[:6])}"
        )
    each = [
        -(-len(part) // (its.batch_size or max(1, len(part))))
        for part, its in zip(parts, local, strict=True)
    ]
    epochs = np.cumsum([phase.epochs for phase in terms.phases])
    return PhasePlan(
        np.outer(each, epochs), np.array([[name in its for name in names] for its in fixed])
    )


def select_clients(begun: Dispatch, which: np.ndarray) -> Dispatch:
    """Those of the cohort for whom the mask ``which [m]`` is true: the others are never heard of again."""
    work = begun.work
    settings = ("origin", "batches", "num_examples", "lr", "mu", "momentum", "weight_decay")
    cohort = begun.cohort.subset(which)
    mine = work._replace(
        h=None if work.h is None else work.h[torch.from_numpy(which)],
        centre=None if work.centre is None else work.centre[torch.from_numpy(which)],
        cohorts=(cohort,),
        **{name: getattr(work, name)[which] for name in settings},
    )
    sent = begun.upload_mask
    if sent is not None and sent.dim() == 2 and len(sent) > 1:
        sent = sent[torch.from_numpy(which)]
    phases = begun.phases and begun.phases._replace(ends=begun.phases.ends[which])
    return begun._replace(
        cohort=cohort,
        work=mine,
        upload_mask=sent,
        bytes_down=begun.bytes_down[which],
        phases=phases,
    )


def _without(
    shapes: Mapping[str, torch.Size], names: Sequence[str], mask: Tensor | None, like: Tensor
) -> Tensor | None:
    """The ``mask`` of what travels (None: all), without the tensors of these names: known to both sides, ``[1 or m, d]``."""
    if not names:
        return mask
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise ValueError(
            f"the algorithm names {unknown[0]!r}, and the model has no such tensor: give both the same task"
        )
    ones = [like.new_full((shape.numel(),), name not in names) for name, shape in shapes.items()]
    return torch.cat(ones)[None] * (1 if mask is None else mask)


def _plan(
    parts: list[np.ndarray], seeds: list[int], t: int, local: Sequence[Local], n: int
) -> np.ndarray:
    """The batches of clients that may differ in their batch sizes and epochs, ``[m, K, B]``."""
    if all(mine is local[0] for mine in local):
        return plan(parts, seeds, t, local[0] if local else Local(1.0), n)
    kinds: dict[tuple, list[int]] = {}
    for row, mine in enumerate(local):
        kinds.setdefault((mine.batch_size, mine.epochs, mine.steps), []).append(row)
    plans = [
        plan([parts[i] for i in rows], [seeds[i] for i in rows], t, local[rows[0]], n)
        for rows in kinds.values()
    ]
    return stack_plans(plans)[np.argsort(np.concatenate(list(kinds.values())))]
