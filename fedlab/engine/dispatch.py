"""The first half of a round: a cohort is drawn, and the model and its work go out to it."""

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
    Experiment,
    FederatedDataset,
    Local,
    Phase,
    Terms,
    Work,
    generator,
)
from fedlab.core.validate import check_whole
from fedlab.engine.objective import checked_terms
from fedlab.engine.run_state import Run, local_settings
from fedlab.upload.traffic import broadcast


def draw_cohort(
    experiment: Experiment, data: FederatedDataset, seed: int, t: int, edge: int = 0
) -> Cohort:
    """Draw the clients that take part in a round.

    Args:
        experiment: Experiment with the sampler.
        data: Examples of all clients.
        seed: Seed of the run.
        t: Round, from 1.
        edge: Number of an edge server, which has draws of its own.

    Returns:
        The cohort, its client numbers in ascending order.

    Raises:
        ValueError: If the sampler does not return distinct client numbers ``[m]``.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.engine.factory import experiment
        >>> from fedlab.models import mlp
        >>> digits = load("digits", clients=100)
        >>> study = experiment(digits, mlp(digits), Local(0.1), cohort_size=5)
        >>> len(draw_cohort(study, digits, seed=0, t=1).ids)
        5
    """
    path = (t, edge) if edge else (t,)
    ids = np.asarray(experiment.sample(data.sizes, t, generator(seed, "cohort", *path)))
    ids = np.sort(ids) if ids.dtype.kind in "iu" else ids
    if fault := _fault(ids, data.num_clients):
        raise ValueError(
            f"sample gave {fault} in round {t}, and must give different clients [m] by whole "
            f"numbers from 0 to {data.num_clients - 1}. Try uniform(5), or an array of numbers"
        )
    return Cohort(ids.astype(np.int64), t, seed, data.num_clients)


def _fault(ids: np.ndarray, num_clients: int) -> str:
    """Describe the fault of sorted client numbers; empty if there is none."""
    if ids.shape == (0,):
        return ""
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        return f"numbers of shape {list(ids.shape)} and type {ids.dtype}"
    if ids[0] < 0 or ids[-1] >= num_clients:
        return f"client {ids[0] if ids[0] < 0 else ids[-1]}"
    is_repeated = ids[1:] == ids[:-1]
    return f"client {ids[1:][is_repeated][0]} twice" if is_repeated.any() else ""


class PhasePlan(NamedTuple):
    """Phases of a round whose clients train one part of the model after another.

    Attributes:
        ends: Step at which each phase of each client ends ``[m, P]``.
        fixed: True for tensors that a phase does not train ``[P, tensors]``.
    """

    ends: np.ndarray
    fixed: np.ndarray


class Dispatch(NamedTuple):
    """Everything that leaves the server of one run in a round.

    Attributes:
        run: Run whose model is sent.
        cohort: Clients that receive it.
        work: Local training of the cohort, one row per client.
        upload_mask: 1 for numbers that clients send back, ``[d]``, ``[1, d]`` or ``[m, d]``;
            None for all.
        shared_mask: 0 for numbers that never leave a client, ``[1, d]``; None if all are shared.
        model: Model ``[d]`` as the clients receive it.
        bytes_down: Bytes that each client fetches ``[m, 3]``.
        phases: Phases of the round; None for a single one.
    """

    run: Run
    cohort: Cohort
    work: Work
    upload_mask: Tensor | None
    shared_mask: Tensor | None
    model: Tensor
    bytes_down: np.ndarray
    phases: PhasePlan | None = None


def dispatch(runs: Sequence[Run], cohorts: Sequence[Cohort]) -> list[Dispatch]:
    """Send the models of runs to their cohorts, with the work that they are to do.

    The batches of all runs are planned at once.

    Args:
        runs: Runs that train together, see ``group_compatible``.
        cohorts: Cohort of each run, all of the same round.

    Returns:
        One dispatch per run.
    """
    pairs = list(zip(runs, cohorts, strict=True))
    terms = [checked_terms(run, cohort) for run, cohort in pairs]
    parts = [run.data.parts[i] for run, cohort in pairs for i in cohort.ids]
    local = [
        settings
        for (run, cohort), run_terms in zip(pairs, terms, strict=True)
        for settings in with_epochs(local_settings(run, cohort.ids, cohort.round), run_terms.phases)
    ]
    seeds = [run.seed for run, cohort in pairs for _ in cohort.ids]
    batches = _plan(parts, seeds, cohorts[0].round, local, len(runs[0].data.y))
    end, dispatches = 0, []
    for (run, cohort), run_terms in zip(pairs, terms, strict=True):
        rows = slice(end, end := end + len(cohort.ids))
        dispatches.append(
            _dispatch_run(run, cohort, run_terms, parts[rows], local[rows], batches[rows])
        )
    return dispatches


def with_epochs(local: Sequence[Local], phases: Sequence[Phase]) -> list[Local]:
    """Return local settings with the epochs of all phases, if there are any.

    Raises:
        ValueError: If the settings count steps, which phases cannot divide.
    """
    if not phases:
        return list(local)
    for phase in phases:
        check_whole(1, epochs=phase.epochs)
    epochs = sum(phase.epochs for phase in phases)
    changed = {}  # one object per distinct setting, so that equal clients are planned together
    for settings in local:
        if settings.steps is not None:
            raise ValueError(
                f"Local(steps={settings.steps}) must be left out: the algorithm's phases count "
                "epochs. Try Local without steps"
            )
        changed[id(settings)] = replace(settings, epochs=epochs)
    return [changed[id(settings)] for settings in local]


def _dispatch_run(
    run: Run,
    cohort: Cohort,
    terms: Terms,
    parts: list[np.ndarray],
    local: list[Local],
    batches: np.ndarray,
) -> Dispatch:
    """Send one run's model to its cohort."""
    shapes, m = run.experiment.task.shapes, len(cohort.ids)
    without_private = _mask_without(shapes, terms.private, terms.mask, run.w)
    count = terms.fetched
    if count is None and terms.private:
        count = np.broadcast_to(torch.count_nonzero(without_private, -1).numpy(force=True), m)
    model, bytes_down = broadcast(run.experiment, run.traffic, run.w, cohort, terms.mask, count)
    work = assign(model, parts, local, batches, terms, list(shapes))._replace(cohorts=(cohort,))
    return Dispatch(
        run,
        cohort,
        work,
        upload_mask=_mask_without(shapes, terms.fixed, without_private, run.w),
        shared_mask=_mask_without(shapes, terms.private, None, run.w),
        model=model,
        bytes_down=bytes_down,
        phases=_phase_plan(terms, list(shapes), parts, local) if terms.phases else None,
    )


def _phase_plan(
    terms: Terms, names: list[str], parts: list[np.ndarray], local: list[Local]
) -> PhasePlan:
    fixed = [[*terms.fixed, *phase.fixed] for phase in terms.phases]
    unknown = [name for phase_fixed in fixed for name in phase_fixed if name not in names]
    if unknown:
        raise ValueError(
            f"a phase fixes {unknown[0]!r}, and the model has no such tensor. "
            f"Try one of {', '.join(names[:6])}"
        )
    steps_per_epoch = [
        -(-len(part) // (settings.batch_size or max(1, len(part))))
        for part, settings in zip(parts, local, strict=True)
    ]
    epochs = np.cumsum([phase.epochs for phase in terms.phases])
    return PhasePlan(
        np.outer(steps_per_epoch, epochs),
        np.array([[name in phase_fixed for name in names] for phase_fixed in fixed]),
    )


def select_clients(dispatched: Dispatch, which: np.ndarray) -> Dispatch:
    """Keep the clients selected by the mask ``which [m]``; the others dropped out."""
    work, phases = dispatched.work, dispatched.phases
    rows = torch.from_numpy(which)
    settings = ("origin", "batches", "num_examples", "lr", "mu", "momentum", "weight_decay")
    cohort = dispatched.cohort.subset(which)
    selected_work = work._replace(
        h=None if work.h is None else work.h[rows],
        centre=None if work.centre is None else work.centre[rows],
        cohorts=(cohort,),
        **{name: getattr(work, name)[which] for name in settings},
    )
    upload_mask = dispatched.upload_mask
    if upload_mask is not None and upload_mask.dim() == 2 and len(upload_mask) > 1:
        upload_mask = upload_mask[rows]
    return dispatched._replace(
        cohort=cohort,
        work=selected_work,
        upload_mask=upload_mask,
        bytes_down=dispatched.bytes_down[which],
        phases=phases and phases._replace(ends=phases.ends[which]),
    )


def _mask_without(
    shapes: Mapping[str, torch.Size], names: Sequence[str], mask: Tensor | None, like: Tensor
) -> Tensor | None:
    """Remove the named tensors from a mask (None: all numbers), ``[1 or m, d]``."""
    if not names:
        return mask
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise ValueError(
            f"the algorithm names {unknown[0]!r}, and the model has no such tensor. "
            "Try the same task for both"
        )
    ones = [like.new_full((shape.numel(),), name not in names) for name, shape in shapes.items()]
    return torch.cat(ones)[None] * (1 if mask is None else mask)


def _plan(
    parts: list[np.ndarray], seeds: list[int], t: int, local: Sequence[Local], n: int
) -> np.ndarray:
    """Plan the batches ``[m, K, B]`` of clients that may differ in batch size and epochs."""
    if all(settings is local[0] for settings in local):
        return plan(parts, seeds, t, local[0] if local else Local(1.0), n)
    kinds: dict[tuple, list[int]] = {}
    for row, settings in enumerate(local):
        kinds.setdefault((settings.batch_size, settings.epochs, settings.steps), []).append(row)
    plans = [
        plan([parts[i] for i in rows], [seeds[i] for i in rows], t, local[rows[0]], n)
        for rows in kinds.values()
    ]
    return stack_plans(plans)[np.argsort(np.concatenate(list(kinds.values())))]
