"""The real training, driven by the clock of ``events``: accuracy is real, seconds and joules are modelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.client import Train, batched
from fedlab.core import ClientTable, Cohort, Experiment, Result, Updates, generator
from fedlab.core.validate import check_seeds
from fedlab.engine import Diverged, Run, collect_result, evaluate
from fedlab.engine.dispatch import Dispatch, dispatch, select_clients
from fedlab.engine.lockstep import evaluate_runs, group_compatible, missing_scores
from fedlab.engine.rounds import aggregate_and_step, mean_loss, receive_updates, train
from fedlab.engine.run import run_to_end
from fedlab.engine.run_state import find_device, local_settings
from fedlab.engine.start import start_run
from fedlab.engine.storage import Checkpoint, client_tables
from fedlab.engine.storage.description import plain_value
from fedlab.server import mean, uniform
from fedlab.system.fleet import Fleet, resolve_fleet
from fedlab.system.operations import training_flops
from fedlab.system.events import SUMS, Clock, Flight, check_hours
from fedlab.system.policies import Policy, shares_of
from fedlab.upload import wire
from fedlab.upload.traffic import start_traffic, upload_updates


class Done(NamedTuple):
    """What a client will send."""

    start: Tensor  # [d], the model that it had
    update: Updates  # a row of them
    bytes_up: int
    examples: int  # that it has gone over
    memory: list[Tensor]  # of its upload before: rows of the client tables


class _Training:
    """The real work of one run: models go out, are trained when somebody waits for them, and come back as messages."""

    def __init__(self, run: Run, policy: Policy, backend: Train):
        self.run, self.policy, self.memory = run, policy, {}
        self.flops = training_flops(
            run.experiment.task, run.data.x, run.data.y, backend
        )  # an example
        self.dispatched: list[Dispatch] = []  # not trained yet
        self.row: dict[
            int, tuple[Dispatch, int, float]
        ] = {}  # of their clients, with the operations of an example
        self.done: dict[int, Done] = {}
        self.gone: set[tuple[int, int]] = (
            set()
        )  # of dispatches, by their place in memory, and a row

    def expected(self):
        run, experiment = self.run, self.run.experiment
        whole = int(wire.dense_sizes(tuple(experiment.task.shapes.items()), run.w.dtype).sum())
        first = Cohort(np.zeros(1, dtype=np.int64), 1, run.seed, run.data.num_clients)
        in_phases = sum(
            phase.epochs for phase in experiment.algorithm.local_objective(run.state, first).phases
        )
        visited = [
            n * (in_phases or one.epochs)
            if one.steps is None
            else one.steps * min(one.batch_size or n, n)
            for n, one in zip(
                run.data.sizes, local_settings(run, range(run.data.num_clients)), strict=True
            )
        ]
        return (
            experiment.algorithm.vectors_down * whole,
            self.flops * np.array(visited),
            self._bytes_up(),
        )

    def _bytes_up(self) -> int:
        """Of a message that says nothing in particular: what is coded has other lengths each time."""
        run, experiment = self.run, self.run.experiment
        noise = generator(run.seed, "a message").standard_normal((1, len(run.w)))
        nobody = Cohort(np.zeros(1, dtype=np.int64), 1, run.seed, run.data.num_clients)
        traffic = start_traffic(experiment, run.w, run.data.num_clients)
        _, up = upload_updates(
            experiment, traffic, torch.from_numpy(noise).to(run.w), nobody, np.ones(1, dtype=bool)
        )
        return int(up.sum())

    def send_out(self, ids, version):
        cohort = Cohort(np.array(ids), version + 1, self.run.seed, self.run.data.num_clients)
        (dispatched,) = dispatch([self.run], [cohort])
        self.dispatched.append(dispatched)
        each = np.full(len(ids), self.flops)  # of an example
        if dispatched.work.mask is not None:  # of a part of the model
            each = each * dispatched.work.mask.mean(1).numpy(force=True)[dispatched.work.origin]
        self.row |= {client: (dispatched, k, each[k]) for k, client in enumerate(ids)}
        flops = each * (dispatched.work.batches >= 0).sum((1, 2))
        return dispatched.bytes_down.sum(1).tolist(), flops.tolist()

    def shorten(self, client, flops):
        dispatched, k, example = self.row[client]
        each = (
            example * (dispatched.work.batches[k] >= 0).sum(1).cumsum()
        )  # [K], operations up to each step
        steps = int(np.searchsorted(each, flops, side="right"))
        dispatched.work.batches[k, steps:] = -1
        return float(each[min(steps, len(each)) - 1]) if steps else 0.0

    def lose(self, client):
        dispatched, k, _ = self.row[client]
        self.gone.add((id(dispatched), k))

    def is_done(self, client):
        return client in self.done

    def waiting(self) -> list[Dispatch]:
        """What there is to train."""
        kept = []
        for dispatched in self.dispatched:
            stays = np.array(
                [(id(dispatched), k) not in self.gone for k in range(len(dispatched.cohort.ids))]
            )
            kept += (
                [dispatched if stays.all() else select_clients(dispatched, stays)]
                if stays.any()
                else []
            )
        self.dispatched, self.row, self.gone = [], {}, set()
        return kept

    def trained(self, dispatched: Dispatch, updates: Updates) -> None:
        memory = [table[dispatched.cohort.ids] for table in self._memory()]
        updates, up = receive_updates(dispatched, updates)
        examples = (dispatched.work.batches >= 0).sum((1, 2))
        for k, (client, size, many) in enumerate(
            zip(dispatched.cohort.ids.tolist(), up.sum(1), examples, strict=True)
        ):
            update = Updates(*(column if column is None else column[k] for column in updates))
            self.done[client] = Done(
                dispatched.model, update, int(size), int(many), [rows[k] for rows in memory]
            )

    def _memory(self) -> list[ClientTable]:
        """What clients remember of their uploads."""
        return list(client_tables(self.run.traffic.upload_state))

    def sends(self, client):
        done = self.done[client]
        return done.bytes_up, done.update.loss.item()

    def end(self, flight):
        noted = {
            "num_examples": int(self.run.data.sizes[flight.client]),
            "examples": 0,
            "steps": 0,
            "loss": math.nan,
        }
        if (
            flight.outcome == "lost" and flight.ended < flight.began + flight.fetching
        ):  # it has to fetch the model whole
            traffic = self.run.traffic
            traffic.bytes_seen[flight.client] = -1
            traffic.mask_known[flight.client] = False
        done = (
            self.done.get(flight.client)
            if flight.outcome == "used"
            else self.done.pop(flight.client, None)
        )
        if done is None:  # nobody trained it
            return noted
        if flight.outcome in ("late", "lost"):  # worked in vain: it knows that nothing of it counts
            for table, row in zip(self._memory(), done.memory, strict=True):
                table[np.array([flight.client])] = row[None]
        return noted | {
            "examples": done.examples,
            "steps": int(done.update.steps),
            "loss": done.update.loss.item(),
        }

    def kept(self) -> dict[str, Any]:
        """What clients will send, in plain values; nothing may be waiting."""
        starts = {id(done.start): done.start for done in self.done.values()}
        at = {number: k for k, number in enumerate(starts)}
        rows = [
            [i, at[id(done.start)], *done[2:-1], [*done.update], done.memory]
            for i, done in self.done.items()
        ]
        return {"starts": [*starts.values()], "done": rows, "memory": self.memory}

    def resume(self, kept: dict[str, Any]) -> None:
        starts, self.memory = kept["starts"], kept["memory"]
        for i, at, size, examples, update, memory in kept["done"]:
            self.done[i] = Done(starts[at], Updates(*update), size, examples, memory)

    def step(self, used):
        run, now = self.run, self.run.rounds[-1]["round"]
        ended = [(flight, self.done.pop(flight.client)) for flight in used]
        came = [
            (flight, done) for flight, done in ended if done.update.steps > 0
        ]  # who holds nothing has no say
        if came:
            self._absorb(*zip(*came, strict=True), now)
        n, loss = (
            np.array([getattr(done.update, name).item() for _, done in came])
            for name in ("num_examples", "loss")
        )
        return evaluate_runs([run], now + 1)[0] | {
            "train_loss": mean_loss(loss, n),
            "clients": len(came),
        }

    def _absorb(self, used: Sequence[Flight], done: Sequence[Done], now: int) -> None:
        run, late = self.run, np.array([now - flight.version for flight in used])
        columns = zip(*(one.update for one in done), strict=True)
        updates = Updates(
            *(None if column[0] is None else torch.stack(column) for column in columns)
        )
        cohort = Cohort(
            np.array([flight.client for flight in used]), now + 1, run.seed, run.data.num_clients
        )

        def aggregate(delta, weights, cohort):
            old = torch.from_numpy(shares_of("discount", self.policy.discount, late)).to(delta)
            folded = run.experiment.apply_aggregate(
                delta * old[:, None] if late.any() else delta, weights, cohort
            )
            if self.policy.blend is None:
                return folded
            return self.policy.blend(
                folded, done[0].start, run.w, int(late[0]), used[0].slot, self.memory
            )

        run.w, run.state = aggregate_and_step(run, cohort, updates, aggregate)


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
    """Train by the clock: ``experiment.rounds`` steps of the server, or fewer if the ``hours`` are over before.

    The settings mean what they mean in ``run``; a round is a step of the server.  How many clients take part, and when, is
    the policy's choice, which draws everyone alike if it has no ``select``: so ``sample`` must be ``uniform``, whose number
    is not asked.  The clock starts at midnight.

    The tables are those of ``run``.  ``rounds`` has the ``seconds`` since the step before, the ``joules`` of all clients,
    how many were ``used``, ``late`` and ``lost``, and the mean ``staleness`` of those used.  ``clients`` has a row for each
    time that a client was sent out: when it ``began`` and ``ended``, seconds of ``fetching``, ``computing`` and
    ``sending``, ``joules``, its ``version`` of the model, the ``round`` in which it ended, and its ``outcome``: ``used``,
    ``late``, ``lost``, or ``flying`` at the end.  The ``reason`` of a loss is ``dropout``, ``window`` (its hours or its
    trace ended before its update was there), ``left``, or ``no step`` (none fitted before the deadline).  Accuracy is real,
    the clock modelled.

    ``checkpoint`` names a folder, as in ``run``: killed or stopped it goes on, with nothing changed, from where it stood
    about a second before, to the same numbers.

    Args:
        experiment: The study, or one for each label of the policies.
        fleet: The clients' devices, or a function of the seed for them.
        policy: When models go out and steps are taken, or several by their labels: each is run, and the tables have a
            column ``policy``.
        backend: Engine that trains.
        seeds: Their number, or a list of them.
        hours: When the clock stops, above 0.
        checkpoint: Folder to keep the state in.
        device: PyTorch's name of a device, or "auto".

    Returns:
        The tables, and the final models.

    Raises:
        ValueError: For what cannot be: see ``stream_simulation``.
        Diverged: If numbers are no longer finite; its ``result`` holds the steps so far.
        Interrupted: On Ctrl-C, likewise.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import mlp
        >>> from fedlab.core.experiment import Local
        >>> from fedlab.server import fedavg, weighted_mean
        >>> from fedlab.system.fleet import draw_fleet
        >>> from fedlab.system.policies import synchronous
        >>> digits = load("digits", 6)
        >>> parts = Local(0.1), fedavg(), weighted_mean, uniform(6)
        >>> study = Experiment(digits, mlp(digits), *parts, rounds=2)
        >>> simulate(study, draw_fleet(6), synchronous(4)).rounds["used"].tolist()
        [0, 4, 4]
    """
    steps = stream_simulation(
        experiment, fleet, policy, backend, seeds, hours=hours, checkpoint=checkpoint, device=device
    )
    again = "" if checkpoint is None else "the same again goes on from about there, and "
    return run_to_end(steps, unit="step", again=again, count=sum)


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
    """``simulate`` a piece at a time: yields the runs, first before any training, then whenever some have gone on.

    Clients that are out at the same time train together, those of all runs side by side.  Raises ValueError where fleet
    and data have different clients, a deadline cannot be met, nobody is there any more, or the experiment has a budget or a
    sampler other than ``uniform``; with a policy of several slots also for a compressed download or a model with masks, of
    which only rounds know.
    """
    check_hours(hours)
    seeds, where = check_seeds(seeds), find_device(device)
    policies = policy if isinstance(policy, Mapping) else {None: policy}
    everyone = []
    for label, (one, mine) in _pairs(experiment, policies).items():
        _check(one, mine)
        for seed in seeds:
            run = start_run({} if label is None else {"policy": label}, one, seed, where)
            everyone.append(_Going(run, resolve_fleet(fleet, run), mine, backend, hours))
    runs = [one.run for one in everyone]
    with Checkpoint(checkpoint, runs, everyone) as keeper:
        yield runs
        going = [one for one in everyone if not one.clock.over]
        if not going:
            return
        try:
            while going := [one for one in going if one.goes_on()]:
                _train(going, backend)
                keeper.mark_round(keeper.round + 1)
                yield runs
        except Diverged as error:
            error.result = collect_result(runs)
            raise
        keeper.mark_round(keeper.round + 1, last=True)
        yield runs


class _Going:
    """A run by the clock, on its way."""

    def __init__(self, run: Run, fleet: Fleet, policy: Policy, backend: Train, hours: float):
        self.run, self.work, self.hours = run, _Training(run, policy, backend), hours
        keep = [
            *run.labels,
            "seed",
            "round",
            *missing_scores(run.experiment.task),
            "train_loss",
            "clients",
        ]
        zeros = dict.fromkeys(("seconds", "used", "late", "lost", *SUMS, "staleness"), 0)
        run.rounds[0] = {name: run.rounds[0][name] for name in keep} | zeros
        self.clock = Clock(
            fleet, policy, self.work, run.data.sizes, run.seed, {**run.labels, "seed": run.seed}
        )
        self.clock.rounds, self.clock.flights = run.rounds, run.clients
        self._events = self.clock.events(run.experiment.rounds, hours * 3600)

    def goes_on(self) -> bool:
        """On to where something has to be trained; whether there is such a thing."""
        if "train" in self._events:
            return True
        self.clock.finish()
        last = self.run.rounds[-1]
        if math.isnan(last["loss"]):  # the hours were over between two evaluations
            last |= evaluate(self.run.experiment.task, self.run.w, self.run.data)
        return False

    def describe(self) -> dict[str, Any]:
        told = {"fleet": self.clock.fleet, "policy": self.clock.policy, "hours": self.hours}
        return plain_value(told | {"steps": self.run.experiment.rounds})

    def state_dict(self) -> dict[str, Any]:
        return {"clock": self.clock.kept(), "work": self.work.kept()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clock.resume(state["clock"])
        self.work.resume(state["work"])


def _train(going: list[_Going], backend: Train) -> None:
    works = {id(one.run): one.work for one in going}
    for group in group_compatible([one.run for one in going]):
        dispatched = [one for run in group for one in works[id(run)].waiting()]
        for one, updates in zip(
            dispatched, train(dispatched, backend) if dispatched else [], strict=True
        ):
            works[id(one.run)].trained(one, updates)


def _pairs(
    experiment: Experiment | Mapping, policies: Mapping
) -> dict[Any, tuple[Experiment, Policy]]:
    """The experiment and the policy of each label."""
    if not policies:
        raise ValueError("policy={} must have a policy at least. Try {'rounds': synchronous(5)}")
    for label, policy in policies.items():
        if not isinstance(policy, Policy):
            told = getattr(policy, "__name__", repr(policy))
            raise ValueError(
                f"policy={told} must be the result of a call. Try synchronous(5) or fedbuff(10, 5)"
            )
        if isinstance(experiment, Mapping) and label not in experiment:
            told = f"experiment has the labels {list(experiment)}, and must have those of policy, {list(policies)}"
            raise ValueError(f"{told}. Try one experiment for all")
    if isinstance(experiment, Mapping):
        return {label: (experiment[label], policy) for label, policy in policies.items()}
    return {label: (experiment, policy) for label, policy in policies.items()}


def _check(experiment: Experiment, policy: Policy) -> None:
    if experiment.budget is not None:
        raise ValueError(
            f"budget={experiment.budget!r}: a run by the clock ends by its rounds or hours: leave it out"
        )
    if getattr(experiment.sample, "__qualname__", "") != _UNIFORM:
        told = getattr(experiment.sample, "__qualname__", repr(experiment.sample)).split(".")[0]
        why = "by the clock the policy chooses who takes part"
        raise ValueError(
            f"sample={told} must be uniform ({why}). Try sample=uniform(5), and select= of the policy or a trace"
        )
    if policy.blend is not None:
        try:
            replace(experiment, aggregate=mean)  # any other than the weighted mean
        except ValueError as error:
            why = "its step builds on the weighted mean, and this policy blends that with other models"
            raise ValueError(
                f"the algorithm does not go with this policy ({why}). Try synchronous(5) or fedbuff(10, 5)"
            ) from error
    if policy.slots > 1:
        if not experiment.download.is_identity:
            raise ValueError(
                "download is compressed: of differences to a last broadcast only rounds know: use identity()"
            )
        if experiment.algorithm.partial_updates:
            raise ValueError(
                "the algorithm has masks, which go by rounds: use a synchronous policy"
            )


_UNIFORM = uniform(1).__qualname__
