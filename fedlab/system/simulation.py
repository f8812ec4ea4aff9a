"""Real training by a modelled clock: accuracy is real, seconds and joules are modelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlab.client import Train, batched
from fedlab.core import Experiment, Result
from fedlab.core.validate import check_seeds
from fedlab.engine import Diverged, Run, collect_result, evaluate
from fedlab.engine.lockstep import group_compatible
from fedlab.engine.run import run_to_end
from fedlab.engine.run_state import find_device
from fedlab.engine.scores import missing_scores
from fedlab.engine.start import start_run
from fedlab.engine.storage import Checkpoint
from fedlab.engine.storage.description import plain_value
from fedlab.engine.training import train
from fedlab.server import mean, uniform
from fedlab.system.clock import Clock
from fedlab.system.clock_checks import check_hours
from fedlab.system.clock_tables import SUMS
from fedlab.system.fleet import Fleet, resolve_fleet
from fedlab.system.policies import Policy
from fedlab.system.training_work import TrainingWork


def simulate(
    experiment: Experiment | Mapping[Any, Experiment],
    fleet: Fleet | Callable[[int], Fleet],
    policy: Policy | Mapping[Any, Policy],
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    *,
    hours: float = math.inf,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Result:
    """Train by the clock for ``experiment.rounds`` steps of the server, or for ``hours``.

    The settings mean the same as in ``run``; a round is a step of the server. The policy decides
    how many clients take part, and when. Without ``select`` it draws all clients with equal
    probability. So ``sample`` must be ``uniform``, whose number is not used. The clock starts at
    midnight.

    The tables are those of ``run`` with more columns. ``rounds`` has the ``seconds`` since the last
    step and the ``joules`` of all clients. It counts the updates ``used``, ``late`` and ``lost``,
    and has the mean ``staleness`` of the used ones. ``clients`` has one row each time that a client
    is sent out:

    - the times at which it ``began`` and ``ended``;
    - its seconds of ``fetching``, ``computing`` and ``sending``, and its ``joules``;
    - the ``version`` of its model, and the ``round`` in which it ended;
    - its ``outcome``: ``used``, ``late``, ``lost``, or ``flying`` at the end of the run;
    - the ``reason`` of a loss: ``dropout``, ``window`` (the client's hours or trace ended before
      its update had arrived), ``left``, or ``no step`` (no step fitted before the deadline).

    Accuracy is real, the clock is modelled.

    Args:
        experiment: The study, or one for each label of the policies.
        fleet: The clients' devices, or a function of the seed that returns them.
        policy: When models go out and steps are taken, or several policies by their labels. Each of
            these is run, and the tables have a column ``policy``.
        backend: Engine that trains.
        seeds: Number of seeds, or a list of them.
        hours: Hours after which the clock stops, above 0.
        checkpoint: Folder to keep the state in, as in ``run``. A killed or stopped simulation goes
            on from about a second before, to the same numbers.
        device: PyTorch's name of a device, or "auto".

    Returns:
        The tables, and the final models.

    Raises:
        ValueError: If settings do not fit each other; see ``stream_simulation``.
        Diverged: If numbers are no longer finite; its ``result`` holds the steps so far.
        Interrupted: On Ctrl-C, likewise.

    Example:
        >>> from fedlab.core import Local
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.server import fedavg, weighted_mean
        >>> from fedlab.system import draw_fleet, synchronous
        >>> digits = load("digits", 6)
        >>> parts = Local(0.1), fedavg(), weighted_mean, uniform(6)
        >>> study = Experiment(digits, mlp(digits), *parts, rounds=2)
        >>> simulate(study, draw_fleet(6), synchronous(4)).rounds["used"].tolist()
        [0, 4, 4]
    """
    steps = stream_simulation(
        experiment, fleet, policy, backend, seeds, hours=hours, checkpoint=checkpoint, device=device
    )
    hint = "" if checkpoint is None else "the same call continues from about there, and "
    return run_to_end(steps, unit="step", resume_hint=hint, count=sum)


def stream_simulation(
    experiment: Experiment | Mapping[Any, Experiment],
    fleet: Fleet | Callable[[int], Fleet],
    policy: Policy | Mapping[Any, Policy],
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    *,
    hours: float = math.inf,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Iterator[list[Run]]:
    """Yield the runs of ``simulate`` before any training, then whenever they have advanced.

    Clients that are out at the same time train together, those of all runs side by side.

    Args:
        experiment: The study, or one for each label of the policies.
        fleet: The clients' devices, or a function of the seed that returns them.
        policy: When models go out and steps are taken, or several policies by their labels.
        backend: Engine that trains.
        seeds: Number of seeds, or a list of them.
        hours: Hours after which the clock stops, above 0.
        checkpoint: Folder to keep the state in.
        device: PyTorch's name of a device, or "auto".

    Yields:
        The same list of runs each time.

    Raises:
        ValueError: If fleet and data have different numbers of clients, no client can meet the
            deadline, or no client is online any more. The experiment must have no budget, and
            ``uniform`` as sampler. A policy of several slots goes with neither a compressed
            download nor an algorithm with masks, which only rounds support.
        Diverged: If numbers are no longer finite; its ``result`` holds the steps so far.
    """
    check_hours(hours)
    seeds, on_device = check_seeds(seeds), find_device(device)
    policies = policy if isinstance(policy, Mapping) else {None: policy}
    simulated = []
    for label, (study, plan) in _pairs(experiment, policies).items():
        _check(study, plan)
        for seed in seeds:
            run = start_run({} if label is None else {"policy": label}, study, seed, on_device)
            devices = resolve_fleet(fleet, run)
            simulated.append(_SimulatedRun(run, devices, plan, backend, hours))
    runs = [each.run for each in simulated]
    with Checkpoint(checkpoint, runs, simulated) as keeper:
        yield runs
        active = [each for each in simulated if not each.clock.state.over]
        if not active:
            return
        try:
            while active := [each for each in active if each.advance()]:
                _train(active, backend)
                keeper.mark_round(keeper.round + 1)
                yield runs
        except Diverged as error:
            error.result = collect_result(runs)
            raise
        keeper.mark_round(keeper.round + 1, last=True)
        yield runs


class _SimulatedRun:
    """A run with its clock and its work."""

    def __init__(self, run: Run, fleet: Fleet, policy: Policy, backend: Train, hours: float):
        self.run, self.hours = run, hours
        self.work = TrainingWork(run, policy, backend)
        columns = [*run.labels, "seed", "round", *missing_scores(run.experiment.task)]
        columns += ["train_loss", "clients"]
        zeros = dict.fromkeys(("seconds", "used", "late", "lost", *SUMS, "staleness"), 0)
        run.rounds[0] = {name: run.rounds[0][name] for name in columns} | zeros
        labels = {**run.labels, "seed": run.seed}
        self.clock = Clock(fleet, policy, self.work, run.data.sizes, run.seed, labels)
        self.clock.rounds, self.clock.assignments = run.rounds, run.clients
        self._events = self.clock.events(run.experiment.rounds, hours * 3600)

    def advance(self) -> bool:
        """Go on until clients have to be trained; return False if the run ends before."""
        if "train" in self._events:
            return True
        self.clock.finish()
        last = self.run.rounds[-1]
        if math.isnan(last["loss"]):  # the hours ended between two evaluations
            last |= evaluate(self.run.experiment.task, self.run.w, self.run.data)
        return False

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        settings = {"fleet": self.clock.fleet, "policy": self.clock.policy, "hours": self.hours}
        return plain_value(settings | {"steps": self.run.experiment.rounds})

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"clock": self.clock.state_dict(), "work": self.work.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of ``state_dict``."""
        self.clock.load_state_dict(state["clock"])
        self.work.load_state_dict(state["work"])


def _train(active: list[_SimulatedRun], backend: Train) -> None:
    works = {id(each.run): each.work for each in active}
    for group in group_compatible([each.run for each in active]):
        dispatched = [sent for run in group for sent in works[id(run)].take_untrained()]
        trained = train(dispatched, backend) if dispatched else []
        for sent, updates in zip(dispatched, trained, strict=True):
            works[id(sent.run)].add_trained(sent, updates)


def _pairs(
    experiment: Experiment | Mapping, policies: Mapping
) -> dict[Any, tuple[Experiment, Policy]]:
    """Return the experiment and the policy of each label."""
    if not policies:
        raise ValueError("policy={} must have a policy at least. Try {'rounds': synchronous(5)}")
    for label, policy in policies.items():
        if not isinstance(policy, Policy):
            name = getattr(policy, "__name__", repr(policy))
            raise ValueError(
                f"policy={name} must be the result of a call. Try synchronous(5) or fedbuff(10, 5)"
            )
        if isinstance(experiment, Mapping) and label not in experiment:
            raise ValueError(
                f"experiment has the labels {list(experiment)}, and must have those of policy, "
                f"{list(policies)}. Try one experiment for all"
            )
    if isinstance(experiment, Mapping):
        return {label: (experiment[label], policy) for label, policy in policies.items()}
    return {label: (experiment, policy) for label, policy in policies.items()}


def _check(experiment: Experiment, policy: Policy) -> None:
    """Raise ValueError for settings that a clock or this policy does not support."""
    if experiment.budget is not None:
        raise ValueError(
            f"budget={experiment.budget!r} must be None (a simulation ends by its rounds or "
            "hours). Try hours=24"
        )
    if getattr(experiment.sample, "__qualname__", "") != _UNIFORM:
        name = getattr(experiment.sample, "__qualname__", repr(experiment.sample)).split(".")[0]
        raise ValueError(
            f"sample={name} must be uniform (the policy chooses the clients by the clock). "
            "Try sample=uniform(5), and select= of the policy or a trace"
        )
    if policy.blend is not None:
        try:
            replace(experiment, aggregate=mean)  # any aggregate but the weighted mean
        except ValueError as error:
            reason = "its step needs the weighted mean, and this policy blends that with models"
            raise ValueError(
                f"the algorithm does not go with this policy ({reason}). "
                "Try synchronous(5) or fedbuff(10, 5)"
            ) from error
    if policy.slots > 1:
        if not experiment.download.is_identity:
            raise ValueError(
                "download must be identity() with this policy (only rounds have a last broadcast "
                "to compress differences to). Try download=identity(), or synchronous(5)"
            )
        if experiment.algorithm.partial_updates:
            raise ValueError(
                "the algorithm has masks, which change by rounds. Try synchronous(5) as policy"
            )


_UNIFORM = uniform(1).__qualname__
