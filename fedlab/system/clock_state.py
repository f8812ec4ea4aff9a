"""State of a clock: assignments, slots and events, as plain values for a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from fedlab.core import generator

COMPUTED, ARRIVED, LOST, DEADLINE, ONLINE = range(5)  # kinds of events
OF_ASSIGNMENTS = (COMPUTED, ARRIVED, LOST)  # kinds of events that carry an assignment


class Candidate(NamedTuple):
    """A client that may be sent out, with its random draws.

    Numbers one by one: a look into an array for each would take longer.

    Attributes:
        client: Number of the client.
        wait_down: Seconds before the first byte of the download.
        down: Bytes/s of the download that arrive.
        wait_up: Seconds before the first byte of the upload.
        up: Bytes/s of the upload that arrive.
        speed: FLOP/s.
        dropout_point: Share of the work after which it drops out; infinite for never.
        offline_at: Time at which it goes offline.
    """

    client: int
    wait_down: float
    down: float
    wait_up: float
    up: float
    speed: float
    dropout_point: float
    offline_at: float


@dataclass(slots=True, eq=False)
class Assignment:
    """A client with a model, from when it is sent out until its update has arrived.

    Attributes:
        client: Number of the client.
        slot: Number of the slot that sent it out.
        round_in_slot: Round of the slot.
        version: Steps that the server had taken.
        began: Time at which it was sent out, in seconds like all times.
        wait_up: Seconds before the first byte of the upload.
        up: Bytes/s of the upload that arrive.
        fetching: Seconds of the download.
        computing: Seconds of the training.
        bytes_down: Size of the download.
        sending: Seconds of the upload, unknown before the update is.
        bytes_up: Size of the upload, likewise.
        ended: Time at which it ended.
        outcome: One of "flying", "used", "late" and "lost".
        reason: Reason of a loss.
        offline_at: Time at which the client goes offline.
        notes: Further columns, from the work.
    """

    client: int
    slot: int
    round_in_slot: int
    version: int
    began: float
    wait_up: float
    up: float
    fetching: float
    computing: float
    bytes_down: int
    sending: float = 0.0
    bytes_up: int = 0
    ended: float = math.inf
    outcome: str = "flying"
    reason: str = ""
    offline_at: float = math.inf
    notes: dict[str, float] | None = None


@dataclass(slots=True, eq=False)
class Slot:
    """A slot of a policy: it sends clients out, and delivers their updates together.

    Attributes:
        round: Number of its rounds so far.
        asked: Clients that were sent out in this round.
        pending: Clients that may still deliver in this round.
        empty_rounds: Rounds in a row of which no update arrived.
        arrived: Assignments of this round whose updates have arrived.
    """

    round: int = 0
    asked: int = 0
    pending: int = 0
    empty_rounds: int = 0
    arrived: list[Assignment] = field(default_factory=list)


_PLAIN = ("time", "version", "over", "last_step", "waiting", "wakeup")


@dataclass(slots=True, eq=False)
class ClockState:
    """Everything that changes as a clock runs, but for its tables and client statistics.

    Attributes:
        slots: The policy's slots.
        waiting: Numbers of the slots that have no clients, in the order in which they wait.
        flags: One byte per client: 1 if it is out, or its update waits in the buffer.
        busy: The same bytes as an array of bool, ``[N]``.
        time: Seconds since the start.
        version: Steps that the server has taken.
        over: The run has ended.
        last_step: Time of the server's last step.
        wakeup: Time of the next event at which a client comes online.
        heap: Events (time, is a deadline, number, kind, payload).
        number: Counter of events, which orders those of one time.
        queues: Candidates of each pool of clients, the next one last.
        draws: Generators of each pool for this version: of cohorts, and of random draws.
        delivered: Deliveries that wait for the server's step.
        ended: Assignments that ended since the last step.
    """

    slots: list[Slot]
    waiting: list[int]
    flags: bytearray
    busy: np.ndarray = field(init=False)
    time: float = 0.0
    version: int = 0
    over: bool = False
    last_step: float = 0.0
    wakeup: float = math.inf
    heap: list[tuple[float, bool, int, int, Any]] = field(default_factory=list)
    number: count = field(default_factory=count)
    queues: dict[int, list[Candidate]] = field(default_factory=dict)
    draws: dict[int, tuple] = field(default_factory=dict)
    delivered: list[list[Assignment]] = field(default_factory=list)
    ended: list[Assignment] = field(default_factory=list)

    def __post_init__(self):
        self.busy = np.frombuffer(self.flags, dtype=bool)

    @classmethod
    def begin(cls, num_clients: int, num_slots: int) -> ClockState:
        """Return the state at the start, in which all slots wait."""
        slots = [Slot() for _ in range(num_slots)]
        return cls(slots, list(range(num_slots)), bytearray(num_clients))

    def to_plain(self) -> dict[str, Any]:
        """Return the state as plain values."""
        number = next(self.number)
        self.number = count(number)
        plain = {name: getattr(self, name) for name in _PLAIN}
        plain |= {"number": number, "busy": self.busy.copy()}
        plain["slots"] = [
            [slot.round, slot.asked, slot.pending, slot.empty_rounds, _rows(slot.arrived)]
            for slot in self.slots
        ]
        plain["queues"] = {
            pool: np.array(queue).reshape(len(queue), len(Candidate._fields))
            for pool, queue in self.queues.items()
        }
        plain["draws"] = {
            pool: [draw.bit_generator.state for draw in draws] for pool, draws in self.draws.items()
        }
        plain["heap"] = [
            [*event, _row(payload) if isinstance(payload, Assignment) else payload]
            for *event, payload in self.heap
        ]
        plain["delivered"] = [_rows(delivery) for delivery in self.delivered]
        return plain | {"ended": _rows(self.ended)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ClockState:
        """Return the state that ``to_plain`` has written."""
        slots = [Slot(*numbers, _assignments(rows)) for *numbers, rows in plain["slots"]]
        state = cls(slots, plain["waiting"], bytearray(plain["busy"].tobytes()))
        for name in _PLAIN:
            setattr(state, name, plain[name])
        state.number = count(plain["number"])
        state.queues = {
            pool: [Candidate(int(client), *rest) for client, *rest in queue.tolist()]
            for pool, queue in plain["queues"].items()
        }
        state.draws = {
            pool: tuple(map(_generator_at, draws)) for pool, draws in plain["draws"].items()
        }
        state.heap = [
            (*event, kind, Assignment(*payload) if kind in OF_ASSIGNMENTS else payload)
            for *event, kind, payload in plain["heap"]
        ]
        state.delivered = [_assignments(rows) for rows in plain["delivered"]]
        state.ended = _assignments(plain["ended"])
        return state


def _row(assignment: Assignment) -> list:
    return [getattr(assignment, field.name) for field in fields(Assignment)]


def _rows(assignments: list[Assignment]) -> list[list]:
    return [_row(assignment) for assignment in assignments]


def _assignments(rows: list[list]) -> list[Assignment]:
    return [Assignment(*row) for row in rows]


def _generator_at(state: dict[str, Any]) -> np.random.Generator:
    """Return a generator in a given state."""
    draws = generator(0)
    draws.bit_generator.state = state
    return draws
