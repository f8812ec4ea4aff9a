"""A clock for federated learning: who is sent out, and what arrives when.

A ``Clock`` sends models out and takes updates in, as a ``Policy`` says and a ``Fleet`` allows; what is computed and sent is
the business of its ``work``: real training (``simulation``), or only its sizes (``timetable``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import count
from numbers import Real
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from fedlab.core import generator
from fedlab.core.validate import check_whole
from fedlab.system.fleet import Fleet
from fedlab.system.policies import Policy
from fedlab.system.selection import ClientStats, tiers_of

if TYPE_CHECKING:
    import pandas as pd

COMPUTED, ARRIVED, LOST, DEADLINE, OPENS = range(5)
FIELDS = (
    "client",
    "version",
    "outcome",
    "reason",
    "began",
    "ended",
    "fetching",
    "computing",
    "sending",
    "bytes_down",
    "bytes_up",
    "noted",
)
CHANGING = (
    "now",
    "version",
    "over",
    "_last",
    "_rounds_in_slot",
    "_out",
    "_asked",
    "_in_vain",
    "_waiting",
    "_alarm",
)
LEARNED = ("seconds", "loss", "used", "last", "joules")  # of clients, as they take part
SUMS = (
    "examples",
    "steps",
    "bytes_up",
    "bytes_down",
    "joules",
)  # of a round, over all flights that ended in it
IN_VAIN = 200  # rounds of a slot, one after another, of which nothing came: then it never will


class Candidate(NamedTuple):
    """A client that may go out, with its luck: numbers one by one, as a look into an array for each would take longer."""

    client: int
    wait_down: float  # seconds before the first byte
    down: float  # bytes/s that arrive
    wait_up: float
    up: float
    speed: float  # FLOP/s
    dropout_point: float  # after which share of the work; infinite: never
    offline_at: float  # when it will not be there any more


@dataclass(slots=True, eq=False)
class Flight:
    """A client on its way with a model: from when it is sent out until its update is there.  Times are seconds."""

    client: int
    slot: int
    round_in_slot: int  # the slot's round
    version: int  # steps that the server had taken
    began: float
    wait_up: float
    up: float
    fetching: float
    computing: float
    bytes_down: int
    sending: float = 0.0  # not known before it is done
    bytes_up: int = 0
    ended: float = math.inf
    outcome: str = "flying"  # or used, late, lost
    reason: str = ""  # of a loss
    offline_at: float = math.inf  # when the client is not there any more
    noted: dict[str, float] | None = None  # by the work


class Work(Protocol):
    """What is computed and sent; a client is at one piece of work at a time."""

    def expected(self) -> tuple[float, np.ndarray, float]:
        """Of a usual round of each client: bytes down, operations ``[N]``, bytes up."""

    def send_out(self, ids: list[int], version: int) -> tuple[list[int], list[float]]:
        """The model goes out to clients (ascending); bytes down and operations of each."""

    def shorten(self, client: int, flops: float) -> float:
        """Let it do as many steps as fit into so many operations; how many it does then."""

    def lose(self, client: int) -> None:
        """It will never send what it was sent out for."""

    def is_done(self, client: int) -> bool:
        """Whether what it sends is known."""

    def sends(self, client: int) -> tuple[int, float]:
        """Bytes up, and the loss that it tells."""

    def end(self, flight: Flight) -> dict[str, float] | None:
        """The flight is over; what else there is to note of it."""

    def step(self, used: list[Flight]) -> dict[str, float]:
        """The server's step with these updates, ascending by client; what there is to note of it."""


class Clock:
    """The events of one run, in the order of their times; ``events`` stops where something has to be trained."""

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        work: Work,
        sizes: np.ndarray,
        seed: int,
        labels: dict | None = None,
    ):
        self.fleet, self.policy, self.work, self.seed, self.labels = (
            fleet,
            policy,
            work,
            seed,
            labels or {},
        )
        self.now, self.version, self.over, self._last = 0.0, 0, False, 0.0
        n = fleet.num_clients
        self.expected_down, flops, self.expected_up = work.expected()
        everyone = np.arange(n)
        ways = (
            fleet.fetching(everyone, self.expected_down),
            fleet.sending(everyone, self.expected_up),
        )
        expected = ways[0] + fleet.computing(everyone, flops) + ways[1]
        zeros, unknown = np.zeros(n), np.full(n, np.nan)
        self.known = ClientStats(
            sizes,
            expected,
            fleet.battery,
            unknown.copy(),
            unknown,
            zeros.copy(),
            zeros.copy(),
            zeros,
            1,
        )
        self._check(expected, ways)
        tier = tiers_of(expected, policy.slots) if policy.tiers else None
        self._pool = [
            everyone if tier is None else np.flatnonzero(tier == slot)
            for slot in range(policy.slots)
        ]
        self._flags = bytearray(n)  # who is out, or waits in the buffer; likewise
        self._busy = np.frombuffer(self._flags, dtype=bool)
        self._line: dict[int, list[Candidate]] = {}  # by pool; the next one last
        self._draws: dict[
            int, tuple
        ] = {}  # by pool: generators of this version, for whom and for their luck
        self._rounds_in_slot, self._out = (
            [0] * policy.slots,
            [0] * policy.slots,
        )  # of each slot: its round, who may still come in it
        self._asked, self._came = [0] * policy.slots, [[] for _ in range(policy.slots)]
        self._in_vain, self._waiting = [0] * policy.slots, list(range(policy.slots))
        self._heap: list[tuple[float, bool, int, int, Any]] = []
        self._number, self._alarm = count(), math.inf
        self._delivered: list[list[Flight]] = []
        self._ended: list[Flight] = []
        self.rounds: list[dict[str, float]] = []  # a row a step
        self.flights: list[dict[str, np.ndarray]] = []  # columns of those that ended by then

    def _check(self, expected: np.ndarray, ways: tuple[np.ndarray, np.ndarray]) -> None:
        policy, n = self.policy, len(expected)
        at_work = policy.size * (policy.slots if not policy.tiers else 1)
        room = n // policy.slots if policy.tiers else n
        if at_work > room:
            of = f"in a tier of {n} clients" if policy.tiers else "in the fleet"
            raise ValueError(
                f"{at_work} clients at work, and there are {room} {of}: take fewer, or a larger fleet"
            )
        if policy.slots > 1 and not policy.tiers and policy.buffer > n:
            raise ValueError(
                f"buffer={policy.buffer} is more than the {n} clients: it would never be full"
            )
        takes = np.where(
            self.known.sizes > 0, ways[0] + ways[1] if policy.partial else expected, np.inf
        )
        if policy.deadline < takes.min():
            i = int(takes.argmin())
            told = f"deadline={policy.deadline:g} s: nobody can meet it; client {i}, the fastest, takes {expected[i]:.3g} s"
            raise ValueError(f"{told}: take a longer one, a smaller model or fewer local steps")

    # -- to go on later

    def kept(self) -> dict[str, Any]:
        """How it stands, where ``events`` waits for training or is over; ``rounds`` and ``flights`` are not in it."""
        number = next(self._number)
        self._number = count(number)
        told = {name: getattr(self, name) for name in CHANGING}
        told |= {
            "number": number,
            "busy": self._busy.copy(),
            "known": [getattr(self.known, name) for name in LEARNED],
        }
        told["line"] = {
            pool: np.array(line).reshape(len(line), len(Candidate._fields))
            for pool, line in self._line.items()
        }
        told["draws"] = {
            pool: [draw.bit_generator.state for draw in draws]
            for pool, draws in self._draws.items()
        }
        told["heap"] = [
            [*rest, _row(what) if isinstance(what, Flight) else what] for *rest, what in self._heap
        ]
        told |= {
            "came": [_rows(came) for came in self._came],
            "delivered": [_rows(came) for came in self._delivered],
        }
        return told | {"ended": _rows(self._ended)}

    def resume(self, kept: dict[str, Any]) -> None:
        """Stand as it did then."""
        for name in CHANGING:
            setattr(self, name, kept[name])
        self._number, self._busy[:] = count(kept["number"]), kept["busy"]
        for name, values in zip(LEARNED, kept["known"], strict=True):
            getattr(self.known, name)[:] = values
        self._line = {
            pool: [Candidate(int(i), *rest) for i, *rest in line.tolist()]
            for pool, line in kept["line"].items()
        }
        self._draws = {pool: tuple(map(_drawing, states)) for pool, states in kept["draws"].items()}
        flies = (COMPUTED, ARRIVED, LOST)
        self._heap = [
            (*rest, kind, Flight(*what) if kind in flies else what)
            for *rest, kind, what in kept["heap"]
        ]
        self._came, self._delivered = (
            [[Flight(*row) for row in rows] for rows in kept[w]] for w in ("came", "delivered")
        )
        self._ended = [Flight(*row) for row in kept["ended"]]

    # -- the order of events

    def events(self, rounds: int, until: float = math.inf) -> Iterator[str]:
        """Runs for so many steps, or seconds; yields "train" where the work of flights is not done, "step" after a step."""
        heap = self._heap
        if not heap:  # nobody is on the way
            self._start()
        while self.version < rounds:
            if not heap:
                raise ValueError(
                    f"nobody is there after {self.now / 3600:.3g} hours and {self.version} steps, and nobody will be: "
                    "let clients leave later or stay longer, or take a longer trace"
                )
            time, _, _, kind, what = heap[0]
            if time > until:
                self.now = until
                return
            self.now = time
            if kind == COMPUTED and not self.work.is_done(what.client):
                yield "train"
            heapq.heappop(heap)
            if kind == ARRIVED:  # the most frequent
                self._arrive(what)
            elif kind == COMPUTED:
                self._send(what)
            elif kind == LOST:
                self._lose(what)
            elif kind == DEADLINE:
                slot, round_in_slot = what
                if self._rounds_in_slot[slot] == round_in_slot:
                    self._deliver(slot)
            else:
                self._alarm = math.inf
            if heap and heap[0][0] == time:
                continue  # before anything new begins
            while len(self._delivered) >= self.policy.buffer and self.version < rounds:
                self._step()
                yield "step"
            if self._waiting and self.version < rounds:
                self._start()

    def _push(self, time: float, kind: int, what: Any) -> None:
        behind = kind == DEADLINE  # who comes just then is in time
        heapq.heappush(self._heap, (time, behind, next(self._number), kind, what))

    # -- out

    def _start(self) -> None:
        """The free slots begin, as far as there are clients."""
        picked, waiting, empty = [], [], set()
        for slot in self._waiting:
            pool = slot if self.policy.tiers else 0
            mine = [] if pool in empty else self._pick(pool, slot)
            if mine:
                picked += [(one, slot) for one in mine]
                self._out[slot] = self._asked[slot] = len(mine)
                if self.policy.deadline < math.inf:
                    self._push(
                        self.now + self.policy.deadline,
                        DEADLINE,
                        (slot, self._rounds_in_slot[slot]),
                    )
            else:
                empty.add(pool)
                waiting.append(slot)
        self._waiting = waiting
        if picked:
            self._send_out(picked)
        if waiting:
            self._wait(empty)

    def _pick(self, pool: int, slot: int) -> list[Candidate]:
        """Clients for a slot; they are busy from now on."""
        chosen, line, flags, now = [], self._line.setdefault(pool, []), self._flags, self.now
        while len(chosen) < self.policy.size:
            if not line:
                line += self._choose(pool, slot)
                if not line:
                    break
            one = line.pop()
            client, offline_at = one[0], one[-1]
            if not flags[client] and (now < offline_at or self.fleet.is_online(client, now)):
                flags[client] = True
                chosen.append(one)
        return chosen

    def _choose(self, pool: int, slot: int) -> list[Candidate]:
        """Some of those who are here and idle, as the policy chooses, with their luck: a line, the last one first."""
        if pool not in self._draws:
            path = (
                (self.version + 1, pool) if pool else (self.version + 1,)
            )  # of one pool, the cohorts of ``run``
            self._draws[pool] = (
                generator(self.seed, "cohort", *path),
                generator(self.seed, "luck", *path),
            )
        cohorts, luck = self._draws[pool]
        ids = self._pool[slot]
        here = ids[~self._busy[ids] & self.fleet.is_online(ids, self.now)]
        if not len(here):
            return []
        wanted = self.policy.size * (1 if self.policy.tiers else self.policy.buffer)
        known = self.known._replace(round=self.version + 1)
        chosen = np.asarray(self.policy.select(here, wanted, known, cohorts))[::-1]
        _check_chosen(chosen, here)
        late, dropout_point = luck.exponential(size=(2, len(chosen))), luck.random((2, len(chosen)))
        at = np.where(
            dropout_point[0] < self.fleet.dropout[chosen], dropout_point[1], np.inf
        )  # after which share of the work it is dropout_point
        fleet = self.fleet.subset(chosen)
        waits, arrives = fleet.latency + late * fleet.jitter, 1 - fleet.loss
        offline_at = self.fleet.offline_at(chosen, self.now)
        ways = waits[0], fleet.down * arrives, waits[1], fleet.up * arrives
        columns = (column.tolist() for column in (chosen, *ways, fleet.flops, at, offline_at))
        return list(map(Candidate._make, zip(*columns, strict=True)))

    def _send_out(self, picked: list[tuple[Candidate, int]]) -> None:
        picked.sort()  # by client
        policy, now = self.policy, self.now
        bytes_down, flops = self.work.send_out([one.client for one, _ in picked], self.version)
        for (one, slot), size, mine in zip(picked, bytes_down, flops, strict=True):
            i, wait_down, down, wait_up, up, speed, dropout_point, offline_at = one
            fetching, not_one = wait_down + size / down, False
            if policy.partial and mine:
                left = policy.deadline - fetching - self.fleet.sending(i, self.expected_up)
                mine = self.work.shorten(i, max(left, 0) * (1 - 1e-9) * speed)  # sums are rounded
                not_one = not mine
            computing = mine / speed
            flight = Flight(
                i,
                slot,
                self._rounds_in_slot[slot],
                self.version,
                now,
                wait_up,
                up,
                fetching,
                computing,
                size,
            )
            done = now + fetching + computing
            flight.offline_at = (
                offline_at if offline_at > now else float(self.fleet.offline_at(i, now))
            )  # a day since it was chosen
            over, flight.reason = flight.offline_at, self._why_closed(flight)
            if dropout_point < math.inf and now + dropout_point * (fetching + computing) < over:
                over, flight.reason = now + dropout_point * (fetching + computing), "dropout"
            if not_one and now + policy.deadline < over:
                over, flight.reason = now + policy.deadline, "no step"
            if over < done or not_one:
                self.work.lose(i)
                self._push(over, LOST, flight)
            elif self.work.is_done(i):
                self._send(flight)
            else:
                self._push(done, COMPUTED, flight)

    def _wait(self, pools: set[int]) -> None:
        """A slot found nobody: look again when the next of its clients is there."""
        at = math.inf
        for pool in pools:
            ids = self._pool[pool]
            idle = ids[~self._busy[ids]]
            if len(idle):
                at = min(at, float(self.fleet.next_online(idle, self.now).min()))
        if self.now < at < self._alarm:
            self._alarm = at
            self._push(at, OPENS, None)

    # -- in

    def _send(self, flight: Flight) -> None:
        flight.bytes_up, loss = self.work.sends(flight.client)
        flight.sending = flight.wait_up + flight.bytes_up / flight.up
        arrives = flight.began + flight.fetching + flight.computing + flight.sending
        if flight.offline_at < arrives:
            flight.reason = self._why_closed(flight)
            self._push(max(flight.offline_at, self.now), LOST, flight)
            return
        if not math.isnan(loss):
            self.known.loss[flight.client] = loss
        heapq.heappush(self._heap, (arrives, False, next(self._number), ARRIVED, flight))

    def _why_closed(self, flight: Flight) -> str:
        """Why a client will not be there any more when it ``offline_at``."""
        return "left" if flight.offline_at == self.fleet.leaves[flight.client] else "window"

    def _arrive(self, flight: Flight) -> None:
        slot = flight.slot
        flight.ended = self.now
        if flight.round_in_slot != self._rounds_in_slot[slot]:
            self._flags[flight.client] = False
            self._end(flight, "late")
            return
        self._came[slot].append(flight)
        self._out[slot] -= 1
        if (
            len(self._came[slot]) >= min(self.policy.needed, self._asked[slot])
            or not self._out[slot]
        ):
            self._deliver(slot)

    def _lose(self, flight: Flight) -> None:
        slot = flight.slot
        self._flags[flight.client] = False
        self._end(flight, "lost")
        if flight.round_in_slot == self._rounds_in_slot[slot]:
            self._out[slot] -= 1
            if not self._out[slot]:
                self._deliver(slot)

    def _end(self, flight: Flight, outcome: str) -> None:
        flight.outcome = outcome
        flight.ended = min(flight.ended, self.now)
        flight.noted = self.work.end(flight)
        self._ended.append(flight)

    def _deliver(self, slot: int) -> None:
        """What came of a slot's round goes to the server, and the slot is free."""
        came, self._came[slot] = self._came[slot], []
        self._rounds_in_slot[slot] += 1
        self._waiting.append(slot)
        if came:
            self._delivered.append(came)
            self._in_vain[slot] = 0
            return
        self._in_vain[slot] += 1
        if self._in_vain[slot] > IN_VAIN:
            told = f"{IN_VAIN} rounds, one after another, of which nothing came by {self.now / 3600:.3g} hours"
            raise ValueError(
                f"{told}: take a longer deadline, fewer local steps, less dropout, or clients that stay longer"
            )

    def _step(self) -> None:
        taken, self._delivered = (
            self._delivered[: self.policy.buffer],
            self._delivered[self.policy.buffer :],
        )
        used = sorted(
            (flight for came in taken for flight in came), key=lambda flight: flight.client
        )
        for flight in used:
            self._flags[flight.client] = False
            self._end(flight, "used")
        noted, ended, self._ended = self.work.step(used), self._ended, []
        self.version, self._line, self._draws = self.version + 1, {}, {}
        self._record(ended, {"round": self.version} | noted, used)
        self._last = self.now

    # -- what is written down

    def _record(self, ended: list[Flight], noted: dict[str, float], used: list[Flight]) -> None:
        each, known = self._columns(ended), self.known
        np.add.at(known.joules, each["client"], each["joules"])
        known.last[each["client"]] = self.version
        known.used[[flight.client for flight in used]] += 1
        came = each["outcome"] != "lost"
        known.seconds[each["client"][came]] = (each["ended"] - each["began"])[came]
        self.flights.append(each)
        late = self.version - 1 - np.array([flight.version for flight in used])
        row = {**self.labels, "round": self.version, **noted, "seconds": self.now - self._last}
        row |= {
            outcome: int((each["outcome"] == outcome).sum()) for outcome in ("used", "late", "lost")
        }
        row |= {name: each[name].sum().item() for name in SUMS if name in each}
        self.rounds.append(row | {"staleness": float(late.mean())})

    def _columns(self, flights: list[Flight]) -> dict[str, np.ndarray]:
        """A number a flight in each, as far as it has come by now."""
        columns = dict(
            zip(FIELDS, zip(*map(attrgetter(*FIELDS), flights), strict=True), strict=True)
        )

        def column(name, kind=None):
            return np.array(columns[name], dtype=kind)

        each = {
            name: np.full(len(flights), value)
            for name, value in {**self.labels, "round": self.version}.items()
        }
        each |= {
            "client": column("client", int),
            "version": column("version", int),
            "outcome": column("outcome"),
        }
        each["reason"] = np.where(each["outcome"] == "lost", column("reason"), "")
        each |= {
            "began": column("began", float),
            "ended": np.minimum(column("ended", float), self.now),
        }
        left, shares = each["ended"] - each["began"], {}
        left[(each["outcome"] == "used") | (each["outcome"] == "late")] = (
            np.inf
        )  # all of it was done
        for took in (
            "fetching",
            "computing",
            "sending",
        ):  # one after another, as far as the time reached
            planned = column(took, float)
            each[took] = np.clip(planned, 0, left)
            left = left - each[took]
            shares[took] = np.divide(
                each[took], planned, out=np.ones(len(flights)), where=planned > 0
            )
        for way, took in (("down", "fetching"), ("up", "sending")):
            each[f"bytes_{way}"] = np.floor(
                column(f"bytes_{way}", float) * shares[took] + 1e-6
            ).astype(np.int64)
        each["joules"] = self.fleet.joules(
            each["client"], each["computing"], each["fetching"] + each["sending"]
        )
        return each | {
            name: np.array([flight.noted[name] for flight in flights])
            for name in flights[0].noted or ()
        }

    def finish(self) -> None:
        """Whoever is still on the way is written down as far as it has come, in the last round."""
        self.over = True
        flying = [what for *_, kind, what in self._heap if kind in (COMPUTED, ARRIVED, LOST)]
        flying += [flight for came in (*self._came, *self._delivered) for flight in came]
        for flight in sorted(flying, key=lambda flight: (flight.began, flight.client)):
            flight.noted = self.work.end(flight)
            self._ended.append(flight)
        still, self._ended = self._ended, []
        if not (still and self.version):
            return
        each, last = self._columns(still), self.rounds[-1]
        self.flights.append(each)
        last |= {name: last[name] + each[name].sum().item() for name in SUMS if name in each}
        last |= {
            outcome: last[outcome] + int((each["outcome"] == outcome).sum())
            for outcome in ("late", "lost")
        }


def _check_chosen(chosen: np.ndarray, here: np.ndarray) -> None:
    """Raise ValueError for clients that a ``select`` must not choose."""
    if chosen.shape == (0,):
        return
    if chosen.ndim == 1 and chosen.dtype.kind in "iu" and len(chosen) == len(np.unique(chosen)):
        at = np.searchsorted(here, chosen)  # ``here`` ascends
        if (at < len(here)).all() and (here[at] == chosen).all():
            return
    told = f"select gave {chosen[::-1].tolist()!r:.80} and must give different clients of those that are here and idle"
    raise ValueError(f"{told}. Try here[...] of its first argument")


def check_hours(hours: float) -> None:
    """Raise ValueError for hours after which no clock can stop."""
    if not (isinstance(hours, Real) and not isinstance(hours, bool) and hours > 0):
        told = f"hours={hours!r} must be a number above 0, after which the clock stops"
        raise ValueError(f"{told}. Try hours=24, or leave it out for no end")


def _row(flight: Flight) -> list:
    return [getattr(flight, field.name) for field in fields(Flight)]


def _rows(flights: list[Flight]) -> list[list]:
    return [_row(flight) for flight in flights]


def _drawing(state: dict[str, Any]) -> np.random.Generator:
    """The generator that had come so far."""
    drawing = generator(0)
    drawing.bit_generator.state = state
    return drawing


# -- without training


class Workload(NamedTuple):
    """The same piece of work for every client, each time: bytes, and operations of each ``[N]``."""

    bytes_down: int
    flops: np.ndarray
    bytes_up: int


class _Sizes:
    """Work of which only the sizes are known."""

    def __init__(self, load: Workload):
        self.load, self.flops = load, load.flops.tolist()

    def expected(self):
        return self.load

    def send_out(self, ids, version):
        return [self.load.bytes_down] * len(ids), [self.flops[i] for i in ids]

    def shorten(self, client, flops):
        return min(flops, self.flops[client])

    def lose(self, client):
        pass

    def is_done(self, client):
        return True

    def sends(self, client):
        return self.load.bytes_up, math.nan

    def end(self, flight):
        return None

    def step(self, used):
        return {}


def timetable(
    fleet: Fleet,
    policy: Policy,
    load: Workload,
    rounds: int,
    seed: int = 0,
    *,
    hours: float = math.inf,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What would happen, without training anything: the tables ``rounds`` and ``clients`` of ``simulate``, less scores."""
    import pandas as pd

    check_whole(1, rounds=rounds)
    check_hours(hours)
    if np.shape(load.flops) != (fleet.num_clients,):
        told = f"load has operations of shape {list(np.shape(load.flops))} and must have [{fleet.num_clients}]"
        raise ValueError(
            f"{told}, one per client of the fleet. Try np.full({fleet.num_clients}, 1e9)"
        )
    clock = Clock(fleet, policy, _Sizes(load), np.ones(fleet.num_clients), seed)
    for _ in clock.events(rounds, hours * 3600):
        pass
    clock.finish()
    names = list(clock.flights[0])  # of a million flights no column should be there twice
    flights = {name: np.concatenate([each.pop(name) for each in clock.flights]) for name in names}
    return pd.DataFrame(clock.rounds), pd.DataFrame(flights)
