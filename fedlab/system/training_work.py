"""Real training as the work of a clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.client import Train
from fedlab.core import ClientTable, Cohort, Updates, generator
from fedlab.engine import Run
from fedlab.engine.dispatch import Dispatch, dispatch, select_clients
from fedlab.engine.rounds import aggregate_and_step, mean_loss, receive_updates
from fedlab.engine.run_state import local_settings
from fedlab.engine.scores import evaluate_runs
from fedlab.engine.storage import client_tables
from fedlab.system.clock_state import Assignment
from fedlab.system.operations import training_flops
from fedlab.system.policies import Policy, staleness_factors
from fedlab.system.work import Workload
from fedlab.upload import wire
from fedlab.upload.traffic import start_traffic, upload_updates


class TrainedUpdate(NamedTuple):
    """An update that a client will send.

    Attributes:
        start: Model ``[d]`` that the client began with.
        update: One row of updates.
        bytes_up: Size of its message.
        examples: Examples that it has visited.
        memory: The client's rows of the upload's tables, before this upload.
    """

    start: Tensor
    update: Updates
    bytes_up: int
    examples: int
    memory: list[Tensor]


class TrainingWork:
    """The real work of one run, trained only when the clock needs the first of its updates.

    Attributes:
        flops: Operations of a training step per example.
        dispatched: Dispatches that are not trained yet.
        rows: For each of their clients: its dispatch, its row, and its operations per example.
        lost: Rows of dispatches (by ``id``) that need no training.
        trained: Updates that are known, by client.
        memory: Memory of the policy's ``blend``.
    """

    def __init__(self, run: Run, policy: Policy, backend: Train):
        self.run, self.policy = run, policy
        self.flops = training_flops(run.experiment.task, run.data.x, run.data.y, backend)
        self.dispatched: list[Dispatch] = []
        self.rows: dict[int, tuple[Dispatch, int, float]] = {}
        self.lost: set[tuple[int, int]] = set()
        self.trained: dict[int, TrainedUpdate] = {}
        self.memory: dict[str, Any] = {}

    def expected(self) -> Workload:
        """Return the costs of a usual round."""
        run, experiment = self.run, self.run.experiment
        n = run.data.num_clients
        dense = int(wire.dense_sizes(tuple(experiment.task.shapes.items()), run.w.dtype).sum())
        objective = experiment.algorithm.local_objective(run.state, self._first_client())
        epochs_of_phases = sum(phase.epochs for phase in objective.phases)
        visited = [
            size * (epochs_of_phases or local.epochs)
            if local.steps is None
            else local.steps * min(local.batch_size or size, size)
            for size, local in zip(run.data.sizes, local_settings(run, range(n)), strict=True)
        ]
        return Workload(
            experiment.algorithm.vectors_down * dense,
            self.flops * np.array(visited),
            self._expected_bytes_up(),
        )

    def _first_client(self) -> Cohort:
        run = self.run
        return Cohort(np.zeros(1, dtype=np.int64), 1, run.seed, run.data.num_clients)

    def _expected_bytes_up(self) -> int:
        """Return the size of a message of noise, as coded messages differ in length each time."""
        run, experiment = self.run, self.run.experiment
        noise = generator(run.seed, "a message").standard_normal((1, len(run.w)))
        traffic = start_traffic(experiment, run.w, run.data.num_clients)
        delta = torch.from_numpy(noise).to(run.w)
        sends = np.ones(1, dtype=bool)
        _, up = upload_updates(experiment, traffic, delta, self._first_client(), sends)
        return int(up.sum())

    def send_out(self, ids: list[int], version: int) -> tuple[list[int], list[float]]:
        """Send the model to clients (ascending); return bytes down and operations of each."""
        cohort = Cohort(np.array(ids), version + 1, self.run.seed, self.run.data.num_clients)
        (sent,) = dispatch([self.run], [cohort])
        self.dispatched.append(sent)
        per_example = np.full(len(ids), self.flops)
        if sent.work.mask is not None:  # clients train a part of the model
            per_example = per_example * sent.work.mask.mean(1).numpy(force=True)[sent.work.origin]
        self.rows |= {client: (sent, k, per_example[k]) for k, client in enumerate(ids)}
        flops = per_example * (sent.work.batches >= 0).sum((1, 2))
        return sent.bytes_down.sum(1).tolist(), flops.tolist()

    def shorten(self, client: int, flops: float) -> float:
        """Limit a client to the steps that fit into ``flops``; return the operations of these."""
        sent, k, per_example = self.rows[client]
        # Operations up to each step, [K].
        cumulative = per_example * (sent.work.batches[k] >= 0).sum(1).cumsum()
        steps = int(np.searchsorted(cumulative, flops, side="right"))
        sent.work.batches[k, steps:] = -1
        return float(cumulative[min(steps, len(cumulative)) - 1]) if steps else 0.0

    def lose(self, client: int) -> None:
        """Drop a client's work, which will never be sent."""
        sent, k, _ = self.rows[client]
        self.lost.add((id(sent), k))

    def is_done(self, client: int) -> bool:
        """Return whether the client's update is known."""
        return client in self.trained

    def take_untrained(self) -> list[Dispatch]:
        """Return the dispatches to train, without lost clients, and forget them."""
        untrained = []
        for sent in self.dispatched:
            is_needed = [(id(sent), k) not in self.lost for k in range(len(sent.cohort.ids))]
            if all(is_needed):
                untrained.append(sent)
            elif any(is_needed):
                untrained.append(select_clients(sent, np.array(is_needed)))
        self.dispatched, self.rows = [], {}
        self.lost = set()
        return untrained

    def add_trained(self, sent: Dispatch, updates: Updates) -> None:
        """Add the updates of a dispatch, which pass through the upload."""
        memory = [table[sent.cohort.ids] for table in self._memory_tables()]
        updates, up = receive_updates(sent, updates)
        examples = (sent.work.batches >= 0).sum((1, 2))
        for k, client in enumerate(sent.cohort.ids.tolist()):
            self.trained[client] = TrainedUpdate(
                sent.model,
                Updates(*(column if column is None else column[k] for column in updates)),
                int(up[k].sum()),
                int(examples[k]),
                [rows[k] for rows in memory],
            )

    def _memory_tables(self) -> list[ClientTable]:
        """Return the tables that clients keep for their uploads."""
        return list(client_tables(self.run.traffic.upload_state))

    def sends(self, client: int) -> tuple[int, float]:
        """Return bytes up, and the loss that the client reports."""
        trained = self.trained[client]
        return trained.bytes_up, trained.update.loss.item()

    def end(self, assignment: Assignment) -> dict[str, float]:
        """End an assignment; return further columns of its row."""
        client, outcome = assignment.client, assignment.outcome
        columns = {
            "num_examples": int(self.run.data.sizes[client]),
            "examples": 0,
            "steps": 0,
            "loss": math.nan,
        }
        if outcome == "lost" and assignment.ended < assignment.began + assignment.fetching:
            traffic = self.run.traffic  # the client has to fetch the whole model again
            traffic.bytes_seen[client] = -1
            traffic.mask_known[client] = False
        known = self.trained.get(client) if outcome == "used" else self.trained.pop(client, None)
        if known is None:  # it was not trained
            return columns
        if outcome in ("late", "lost"):  # the client knows, and restores its memory
            for table, row in zip(self._memory_tables(), known.memory, strict=True):
                table[np.array([client])] = row[None]
        return columns | {
            "examples": known.examples,
            "steps": int(known.update.steps),
            "loss": known.update.loss.item(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the known updates as plain values; no dispatch may be untrained."""
        starts = {id(known.start): known.start for known in self.trained.values()}
        position = {number: k for k, number in enumerate(starts)}
        rows = [
            [client, position[id(known.start)], *known[2:-1], [*known.update], known.memory]
            for client, known in self.trained.items()
        ]
        return {"starts": [*starts.values()], "done": rows, "memory": self.memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of ``state_dict``."""
        starts, self.memory = state["starts"], state["memory"]
        for client, k, size, examples, update, memory in state["done"]:
            self.trained[client] = TrainedUpdate(
                starts[k], Updates(*update), size, examples, memory
            )

    def step(self, used: list[Assignment]) -> dict[str, float]:
        """Take the server's step with these updates, ascending by client; return columns."""
        run, version = self.run, self.run.rounds[-1]["round"]
        ended = [(assignment, self.trained.pop(assignment.client)) for assignment in used]
        # Clients without examples get weight 0.
        pairs = [(assignment, known) for assignment, known in ended if known.update.steps > 0]
        if pairs:
            self._aggregate(*zip(*pairs, strict=True), version)
        n, loss = (
            np.array([getattr(known.update, name).item() for _, known in pairs])
            for name in ("num_examples", "loss")
        )
        return evaluate_runs([run], version + 1)[0] | {
            "train_loss": mean_loss(loss, n),
            "clients": len(pairs),
        }

    def _aggregate(
        self, used: Sequence[Assignment], trained: Sequence[TrainedUpdate], version: int
    ) -> None:
        run, policy = self.run, self.policy
        staleness = np.array([version - assignment.version for assignment in used])
        columns = zip(*(known.update for known in trained), strict=True)
        updates = Updates(
            *(None if column[0] is None else torch.stack(column) for column in columns)
        )
        ids = np.array([assignment.client for assignment in used])
        cohort = Cohort(ids, version + 1, run.seed, run.data.num_clients)

        def aggregate(delta, weights, cohort):
            factors = staleness_factors("discount", policy.discount, staleness)
            factors = torch.from_numpy(factors).to(delta)
            delta = delta * factors[:, None] if staleness.any() else delta
            mean = run.experiment.apply_aggregate(delta, weights, cohort)
            if policy.blend is None:
                return mean
            start, slot = trained[0].start, used[0].slot
            return policy.blend(mean, start, run.w, int(staleness[0]), slot, self.memory)

        run.w, run.state = aggregate_and_step(run, cohort, updates, aggregate)
