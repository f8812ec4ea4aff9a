"""Scenes: the frames of a training run, from which a picture is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from fedlab.core.names import quote_name

if TYPE_CHECKING:
    from fedlab.engine import Run

LAST = 10  # rounds in the mean of the status line: a single round may be an outlier


class Scene(NamedTuple):
    """The data from which a picture of a panel is drawn.

    Attributes:
        frame: The newest frame of the run.
        earlier: The last frames of earlier runs, by the settings that differ.
        expected: The values that the reader expects, by their place along the curve.

    Example:
        >>> Scene([{"round": 0, "accuracy": 0.1}]).earlier
        {}
    """

    frame: Any
    earlier: Mapping[str, Any] = {}
    expected: Mapping[float, float] = {}


def rounds_of(stream: Iterable[list[Run]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rounds of all runs so far, as rows that ``plots.curves`` draws.

    Args:
        stream: The runs of all seeds after each round, as ``engine.stream`` yields them.

    Example:
        >>> import fedlab as fl
        >>> digits = fl.load("digits", 10)
        >>> study = fl.experiment(digits, fl.mlp(digits), fl.Local(lr=0.1), rounds=1)
        >>> [len(rows) for rows in rounds_of(fl.stream(study))]
        [1, 2]
    """
    for runs in stream:
        yield [row for run in runs for row in run.rounds]


def latest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the last round of a frame and its accuracy, the mean over all seeds.

    Args:
        rows: A frame of ``rounds_of``.

    Example:
        >>> latest([{"round": 1, "accuracy": 0.5}, {"round": 1, "accuracy": 0.75}])
        {'round': 1, 'accuracy': 0.625}
    """
    last = rows[-1]["round"]
    accuracy = fmean(row["accuracy"] for row in rows if row["round"] == last)
    return {"round": last, "accuracy": accuracy}


def settings_in_words(settings: Mapping[str, Any], between: str = "  ") -> str:
    """Return settings as ``name=value``, numbers with three digits, commas in quotes.

    Args:
        settings: Values by name.
        between: Text between two settings.

    Example:
        >>> settings_in_words({"alpha": 0.12345, "rounds": 100}, ", ")
        'alpha=0.123, rounds=100'
        >>> settings_in_words({"device": "phone, flagship"})
        'device="phone, flagship"'
    """
    return between.join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={quote_name(value)}"
        for name, value in settings.items()
    )


def readout_in_words(readouts: Sequence[Mapping[str, Any]]) -> str:
    """Return the last numbers of a run, and the mean of its last ten rounds.

    The mean is left out if the run has fewer rounds or skips some, and for numbers that did not
    change.

    Args:
        readouts: The numbers that a panel's ``tell`` gave of each frame.

    Example:
        >>> readout_in_words([{"round": t, "accuracy": 0.9 - (t == 12)} for t in range(13)])
        'round=12  accuracy=-0.1  mean of last ten: accuracy=0.8'
    """
    last = readouts[-LAST:]
    words = settings_in_words(last[-1])
    rounds = [readout.get("round") for readout in last]
    if len(last) < LAST or not all(isinstance(each, int) for each in rounds):
        return words
    if rounds != list(range(rounds[0], rounds[0] + LAST)):
        return words
    means = {}
    for name, value in last[-1].items():
        numbers = [readout.get(name) for readout in last]
        are_numbers = all(isinstance(number, float) and math.isfinite(number) for number in numbers)
        if name != "round" and are_numbers and any(number != value for number in numbers):
            means[name] = fmean(numbers)
    return f"{words}  mean of last ten: {settings_in_words(means, ', ')}" if means else words
