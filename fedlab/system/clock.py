"""A clock for federated learning: the events of a run, in the order of their times.

A ``Clock`` sends models out and takes updates in, as a ``Policy`` says and a ``Fleet`` allows. The
``work`` decides what is computed and sent. It is real training in ``simulation``, and only sizes in
``timetable``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedlab.core import generator
from fedlab.system.clock_checks import check_chosen, check_deadline, check_policy
from fedlab.system.clock_state import (
    ARRIVED,
    COMPUTED,
    DEADLINE,
    LOST,
    OF_ASSIGNMENTS,
    ONLINE,
    Assignment,
    Candidate,
    ClockState,
)
from fedlab.system.clock_tables import SUMS, columns_of
from fedlab.system.fleet import Fleet
from fedlab.system.policies import Policy
from fedlab.system.selection import ClientStats, tiers_of
from fedlab.system.work import ClientWork

# Fields of the client statistics that change.
_LEARNED = ("last_seconds", "last_loss", "times_used", "last_round", "joules_spent")
MAX_EMPTY_ROUNDS = 200  # of a slot in a row, after which no update will ever arrive


class Clock:
    """The events of one run; ``events`` stops where clients have to be trained.

    Args:
        fleet: The clients' devices and links.
        policy: When models go out and steps are taken.
        work: Work of the clients, real or modelled.
        sizes: Numbers of examples, ``[N]``.
        seed: Seed of cohorts and of random draws.
        labels: Further columns of both tables, the same in every row.

    Attributes:
        state: Everything that changes, but for the following.
        stats: Statistics of the clients, for selections.
        rounds: Rows of the table of rounds, one per step.
        assignments: Columns of the table of clients, one dict per step, for assignments that
            ended by then.
    """

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        work: ClientWork,
        sizes: np.ndarray,
        seed: int,
        labels: dict | None = None,
    ):
        self.fleet, self.policy = fleet, policy
        self.work, self.seed = work, seed
        self.labels = labels or {}
        n = fleet.num_clients
        everyone = np.arange(n)
        bytes_down, flops, self._expected_up = work.expected()
        fetching = fleet.fetching(everyone, bytes_down)
        sending = fleet.sending(everyone, self._expected_up)
        expected = fetching + fleet.computing(everyone, flops) + sending
        self.stats = ClientStats(
            sizes,
            expected,
            fleet.battery,
            last_seconds=np.full(n, np.nan),
            last_loss=np.full(n, np.nan),
            times_used=np.zeros(n),
            last_round=np.zeros(n),
            joules_spent=np.zeros(n),
            round=1,
        )
        check_policy(policy, n)
        check_deadline(policy, sizes, expected, fetching + sending)
        self._pools = [everyone] * policy.slots
        if policy.tiers:
            tier = tiers_of(expected, policy.slots)
            self._pools = [np.flatnonzero(tier == slot) for slot in range(policy.slots)]
        self.state = ClockState.begin(n, policy.slots)
        self.rounds: list[dict[str, float]] = []
        self.assignments: list[dict[str, np.ndarray]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the state where ``events`` waits for training or is over, without the tables."""
        stats = [getattr(self.stats, name) for name in _LEARNED]
        return self.state.to_plain() | {"stats": stats}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of ``state_dict``."""
        self.state = ClockState.from_plain(state)
        for name, values in zip(_LEARNED, state["stats"], strict=True):
            getattr(self.stats, name)[:] = values

    def events(self, rounds: int, until: float = math.inf) -> Iterator[str]:
        """Run until the server has taken ``rounds`` steps, or ``until`` seconds.

        Yields "train" where the work of assignments is not done, and "step" after a step.
        """
        state = self.state
        heap = state.heap
        if not heap:  # no client is out
            self._start_slots()
        while state.version < rounds:
            if not heap:
                raise ValueError(
                    f"no client is online after {state.time / 3600:.3g} hours and {state.version} "
                    "steps, and none will be. Try clients that leave later or stay longer, or a "
                    "longer trace"
                )
            time, _, _, kind, payload = heap[0]
            if time > until:
                state.time = until
                return
            state.time = time
            if kind == COMPUTED and not self.work.is_done(payload.client):
                yield "train"
            heapq.heappop(heap)
            if kind == ARRIVED:  # the most frequent
                self._arrive(payload)
            elif kind == COMPUTED:
                self._send(payload)
            elif kind == LOST:
                self._lose(payload)
            elif kind == DEADLINE:
                self._meet_deadline(*payload)
            else:
                state.wakeup = math.inf
            if heap and heap[0][0] == time:
                continue  # all events of one time come before anything new begins
            while len(state.delivered) >= self.policy.buffer and state.version < rounds:
                self._step()
                yield "step"
            if state.waiting and state.version < rounds:
                self._start_slots()

    def _push(self, time: float, kind: int, payload: Any) -> None:
        is_deadline = kind == DEADLINE  # an update that arrives at the deadline is in time
        event = time, is_deadline, next(self.state.number), kind, payload
        heapq.heappush(self.state.heap, event)

    # -- Clients are sent out

    def _start_slots(self) -> None:
        """Start the waiting slots for which clients are available."""
        state, deadline = self.state, self.policy.deadline
        picked, waiting = [], []
        empty: set[int] = set()  # pools without an available client
        for number in state.waiting:
            pool = number if self.policy.tiers else 0
            clients = [] if pool in empty else self._pick(pool, number)
            if clients:
                picked += [(candidate, number) for candidate in clients]
                slot = state.slots[number]
                slot.pending = slot.asked = len(clients)
                if deadline < math.inf:
                    self._push(state.time + deadline, DEADLINE, (number, slot.round))
            else:
                empty.add(pool)
                waiting.append(number)
        state.waiting = waiting
        if picked:
            self._send_out(picked)
        if waiting:
            self._wait(empty)

    def _pick(self, pool: int, slot: int) -> list[Candidate]:
        """Return candidates for a slot, and mark them as busy."""
        state, fleet = self.state, self.fleet
        time, flags = state.time, state.flags
        picked, queue = [], state.queues.setdefault(pool, [])
        while len(picked) < self.policy.size:
            if not queue:
                queue += self._choose(pool, slot)
                if not queue:
                    break
            candidate = queue.pop()
            client, offline_at = candidate[0], candidate[-1]
            if not flags[client] and (time < offline_at or fleet.is_online(client, time)):
                flags[client] = True
                picked.append(candidate)
        return picked

    def _choose(self, pool: int, slot: int) -> list[Candidate]:
        """Return clients that the policy chooses, with their draws, the first one last."""
        state = self.state
        if pool not in state.draws:
            # One pool has the path of ``run``, and so its cohorts.
            path = (state.version + 1, pool) if pool else (state.version + 1,)
            state.draws[pool] = (
                generator(self.seed, "cohort", *path),
                generator(self.seed, "luck", *path),
            )
        cohorts, luck = state.draws[pool]
        ids = self._pools[slot]
        available = ids[~state.busy[ids] & self.fleet.is_online(ids, state.time)]
        if not len(available):
            return []
        wanted = self.policy.size * (1 if self.policy.tiers else self.policy.buffer)
        stats = self.stats._replace(round=state.version + 1)
        chosen = np.asarray(self.policy.select(available, wanted, stats, cohorts))[::-1]
        check_chosen(chosen, available)
        return self._candidates(chosen, luck)

    def _candidates(self, chosen: np.ndarray, luck: np.random.Generator) -> list[Candidate]:
        """Return candidates with draws of jitter and dropout."""
        jitter = luck.exponential(size=(2, len(chosen)))
        dropout = luck.random((2, len(chosen)))  # whether, and at which share of the work
        dropout_point = np.where(dropout[0] < self.fleet.dropout[chosen], dropout[1], np.inf)
        fleet = self.fleet.subset(chosen)
        waits, arriving = fleet.latency + jitter * fleet.jitter, 1 - fleet.loss
        columns = (
            chosen,
            waits[0],
            fleet.down * arriving,
            waits[1],
            fleet.up * arriving,
            fleet.flops,
            dropout_point,
            self.fleet.offline_at(chosen, self.state.time),
        )
        return list(map(Candidate._make, zip(*(c.tolist() for c in columns), strict=True)))

    def _send_out(self, picked: list[tuple[Candidate, int]]) -> None:
        """Send the model to candidates, and plan the end of each assignment."""
        picked.sort()  # by client
        state, policy = self.state, self.policy
        time, slots = state.time, state.slots
        ids = [candidate.client for candidate, _ in picked]
        bytes_down, flops = self.work.send_out(ids, state.version)
        for (candidate, slot), size, operations in zip(picked, bytes_down, flops, strict=True):
            i, wait_down, down, wait_up, up, speed, dropout_point, offline_at = candidate
            fetching, no_step = wait_down + size / down, False
            if policy.partial and operations:
                left = policy.deadline - fetching - self.fleet.sending(i, self._expected_up)
                # A little less, as sums are rounded.
                operations = self.work.shorten(i, max(left, 0) * (1 - 1e-9) * speed)
                no_step = not operations
            computing = operations / speed
            assignment = Assignment(
                i,
                slot,
                slots[slot].round,
                state.version,
                time,
                wait_up,
                up,
                fetching,
                computing,
                size,
            )
            if offline_at <= time:  # a day has passed since it was chosen
                offline_at = float(self.fleet.offline_at(i, time))
            assignment.offline_at = offline_at
            self._plan_end(assignment, dropout_point, no_step)

    def _plan_end(self, assignment: Assignment, dropout_point: float, no_step: bool) -> None:
        """Push the event of a loss, or of the end of computing."""
        time = self.state.time
        busy = assignment.fetching + assignment.computing
        end, assignment.reason = assignment.offline_at, self._offline_reason(assignment)
        if dropout_point < math.inf and time + dropout_point * busy < end:
            end, assignment.reason = time + dropout_point * busy, "dropout"
        if no_step and time + self.policy.deadline < end:
            end, assignment.reason = time + self.policy.deadline, "no step"
        done = time + assignment.fetching + assignment.computing
        if end < done or no_step:
            self.work.lose(assignment.client)
            self._push(end, LOST, assignment)
        elif self.work.is_done(assignment.client):
            self._send(assignment)
        else:
            self._push(done, COMPUTED, assignment)

    def _wait(self, pools: set[int]) -> None:
        """Set the wakeup to the time at which a client of these pools comes online."""
        state, start = self.state, math.inf
        for pool in pools:
            ids = self._pools[pool]
            idle = ids[~state.busy[ids]]
            if len(idle):
                start = min(start, float(self.fleet.next_online(idle, state.time).min()))
        if state.time < start < state.wakeup:
            state.wakeup = start
            self._push(start, ONLINE, None)

    # -- Updates come in

    def _send(self, assignment: Assignment) -> None:
        """Push the arrival of an update, or its loss if the client goes offline before."""
        assignment.bytes_up, loss = self.work.sends(assignment.client)
        assignment.sending = assignment.wait_up + assignment.bytes_up / assignment.up
        arrives = assignment.began + assignment.fetching + assignment.computing + assignment.sending
        state = self.state
        if assignment.offline_at < arrives:
            assignment.reason = self._offline_reason(assignment)
            self._push(max(assignment.offline_at, state.time), LOST, assignment)
            return
        if not math.isnan(loss):
            self.stats.last_loss[assignment.client] = loss
        heapq.heappush(state.heap, (arrives, False, next(state.number), ARRIVED, assignment))

    def _offline_reason(self, assignment: Assignment) -> str:
        has_left = assignment.offline_at == self.fleet.leaves[assignment.client]
        return "left" if has_left else "window"

    def _arrive(self, assignment: Assignment) -> None:
        state = self.state
        slot = state.slots[assignment.slot]
        assignment.ended = state.time
        if assignment.round_in_slot != slot.round:
            state.flags[assignment.client] = False
            self._end(assignment, "late")
            return
        slot.arrived.append(assignment)
        slot.pending -= 1
        if len(slot.arrived) >= min(self.policy.needed, slot.asked) or not slot.pending:
            self._deliver(assignment.slot)

    def _lose(self, assignment: Assignment) -> None:
        slot = self.state.slots[assignment.slot]
        self.state.flags[assignment.client] = False
        self._end(assignment, "lost")
        if assignment.round_in_slot == slot.round:
            slot.pending -= 1
            if not slot.pending:
                self._deliver(assignment.slot)

    def _meet_deadline(self, slot: int, round: int) -> None:
        if self.state.slots[slot].round == round:
            self._deliver(slot)

    def _end(self, assignment: Assignment, outcome: str) -> None:
        assignment.outcome = outcome
        assignment.ended = min(assignment.ended, self.state.time)
        assignment.notes = self.work.end(assignment)
        self.state.ended.append(assignment)

    def _deliver(self, number: int) -> None:
        """Hand the updates of a slot's round to the server, and free the slot."""
        state, slot = self.state, self.state.slots[number]
        arrived, slot.arrived = slot.arrived, []
        slot.round += 1
        state.waiting.append(number)
        if arrived:
            state.delivered.append(arrived)
            slot.empty_rounds = 0
            return
        slot.empty_rounds += 1
        if slot.empty_rounds > MAX_EMPTY_ROUNDS:
            raise ValueError(
                f"{MAX_EMPTY_ROUNDS} rounds in a row have had no update by "
                f"{state.time / 3600:.3g} hours. Try a longer deadline, fewer local steps, less "
                "dropout, or clients that stay longer"
            )

    def _step(self) -> None:
        """Take the server's step with the deliveries of a buffer."""
        state, buffer = self.state, self.policy.buffer
        taken, state.delivered = state.delivered[:buffer], state.delivered[buffer:]
        used = [assignment for delivery in taken for assignment in delivery]
        used.sort(key=lambda assignment: assignment.client)
        for assignment in used:
            state.flags[assignment.client] = False
            self._end(assignment, "used")
        notes = self.work.step(used)
        ended, state.ended = state.ended, []
        state.version += 1
        state.queues, state.draws = {}, {}
        self._record(ended, {"round": state.version} | notes, used)
        state.last_step = state.time

    # -- Tables

    def _record(
        self, ended: list[Assignment], notes: dict[str, float], used: list[Assignment]
    ) -> None:
        """Add a row to the table of rounds, the ended assignments to that of clients."""
        state, stats = self.state, self.stats
        columns = self._columns(ended)
        ids, outcomes = columns["client"], columns["outcome"]
        np.add.at(stats.joules_spent, ids, columns["joules"])
        stats.last_round[ids] = state.version
        stats.times_used[[assignment.client for assignment in used]] += 1
        not_lost = outcomes != "lost"
        seconds = columns["ended"] - columns["began"]
        stats.last_seconds[ids[not_lost]] = seconds[not_lost]
        self.assignments.append(columns)
        staleness = state.version - 1 - np.array([assignment.version for assignment in used])
        row = {
            **self.labels,
            "round": state.version,
            **notes,
            "seconds": state.time - state.last_step,
        }
        row |= {name: int((outcomes == name).sum()) for name in ("used", "late", "lost")}
        row |= {name: columns[name].sum().item() for name in SUMS if name in columns}
        self.rounds.append(row | {"staleness": float(staleness.mean())})

    def _columns(self, assignments: list[Assignment]) -> dict[str, np.ndarray]:
        labels = {**self.labels, "round": self.state.version}
        return columns_of(assignments, labels, self.fleet, self.state.time)

    def finish(self) -> None:
        """Record the clients that are still out, as far as they have come, in the last round."""
        state = self.state
        state.over = True
        out = [payload for *_, kind, payload in state.heap if kind in OF_ASSIGNMENTS]
        out += [assignment for slot in state.slots for assignment in slot.arrived]
        out += [assignment for delivery in state.delivered for assignment in delivery]
        for assignment in sorted(out, key=lambda out: (out.began, out.client)):
            assignment.notes = self.work.end(assignment)
            state.ended.append(assignment)
        ended, state.ended = state.ended, []
        if not (ended and state.version):
            return
        columns, last = self._columns(ended), self.rounds[-1]
        self.assignments.append(columns)
        last |= {name: last[name] + columns[name].sum().item() for name in SUMS if name in columns}
        last |= {
            name: last[name] + int((columns["outcome"] == name).sum()) for name in ("late", "lost")
        }
