"""Checks of notebook 08, Slow phones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.checks.cases import TRIES, named_cases, random_generator
from fedlab.lab.course.compare import compare
from fedlab.lab.course.trial import check

ROUND_SECONDS_SLIPS = {
    "it waits for everyone, and not for the first that are needed": (
        lambda s, needed, deadline: min(max(s), deadline)
    ),
    "it forgets the deadline": lambda s, needed, deadline: np.sort(s)[needed - 1],
    "it takes them in the order of their numbers; sort the seconds first": (
        lambda s, needed, deadline: min(s[needed - 1], deadline)
    ),
    "it adds the seconds up; clients work at the same time": (
        lambda s, needed, deadline: min(np.sort(s)[:needed].sum(), deadline)
    ),
    "it waits until the deadline though all needed updates have arrived": (
        lambda s, needed, deadline: deadline
    ),
    "it waits for one more than is needed: the first item of a list has the number 0": (
        lambda s, needed, deadline: min(np.sort(s)[min(needed, len(s) - 1)], deadline)
    ),
}


@check()
def round_seconds(answer: Answer) -> str:
    """Check ``answer(seconds [m], needed, deadline) -> seconds``, the length of a round.

    The round ends with the first ``needed`` updates, or at the deadline.
    """
    draw = random_generator()
    seconds = np.array([9.0, 2.0, 30.0, 4.0, 5.0])
    cases = [(seconds, 3, 60.0), (seconds, 5, 60.0), (seconds, 5, 10.0)]
    cases += [(seconds, 1, 60.0), (seconds, 4, 8.5)]
    cases += [
        (draw.uniform(2, 40, 6).round(1), needed, deadline)
        for needed, deadline in ((2, 99.0), (4, 99.0), (6, 20.0))
    ]
    cases = named_cases(("seconds", "needed", "deadline"), cases)

    def right(seconds: np.ndarray, needed: int, deadline: float) -> float:
        return min(np.sort(seconds)[needed - 1], deadline)

    return compare(answer, right, cases, ROUND_SECONDS_SLIPS)


def _table(outcomes: Mapping[int, list[str]]) -> pd.DataFrame:
    """Return one row per update, from the outcomes of each client's updates."""
    return pd.DataFrame(
        [
            {"client": client, "outcome": outcome}
            for client, words in outcomes.items()
            for outcome in words
        ]
    )


def _used(clients: pd.DataFrame) -> int:
    """Return the number of clients with an update that was used."""
    return clients.loc[clients["outcome"] == "used", "client"].nunique()


def _sent_out(clients: pd.DataFrame) -> int:
    """Return the number of clients that were sent out."""
    return clients["client"].nunique()


NEVER_USED_SLIPS = {
    "that is the share that was used; the others are asked for": (
        lambda clients, n: _used(clients) / n
    ),
    "that is the share never sent out; late and lost updates were not used either": (
        lambda clients, n: 1 - _sent_out(clients) / n
    ),
    "divide by all clients; some are not in the table": (
        lambda clients, n: 1 - _used(clients) / _sent_out(clients)
    ),
    "a client that was never sent out is not in the table, and was not used either": (
        lambda clients, n: (_sent_out(clients) - _used(clients)) / n
    ),
    "that counts updates; a client may have several": (
        lambda clients, n: 1 - (clients["outcome"] == "used").sum() / n
    ),
    "that is a number of clients and not a share": lambda clients, n: n - _used(clients),
}


@check()
def never_used(answer: Answer) -> str:
    """Check ``answer(clients, num_clients) -> share``, of clients whose updates were never used."""
    draw = random_generator()
    outcomes = {
        0: ["used"],
        1: ["used", "late"],
        2: ["late"],
        3: ["lost"],
        5: ["flying"],
        6: ["late", "late"],
        7: ["lost"],
    }
    cases = [(_table(outcomes), 10)]
    for k in range(TRIES):
        drawn = {
            client: list(draw.choice(["used", "late", "lost"], 2))
            for client in range(8, 20 + 2 * k)
        }
        shuffled = _table(outcomes | drawn).sample(frac=1, random_state=k, ignore_index=True)
        cases.append((shuffled, 25 + 4 * k))
    cases = named_cases(("clients", "num_clients"), cases)
    return compare(answer, lambda clients, n: 1 - _used(clients) / n, cases, NEVER_USED_SLIPS)
