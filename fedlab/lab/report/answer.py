"""Answer of a notebook: one to three plain sentences, made from its own numbers.

``answer`` shows and stores the sentences. ``points``, ``percent`` and ``amount`` write numbers with
their intervals, and ``direction`` picks the words that the numbers support. So the sentences
change with the setting.

Example:
    >>> cost = [0.09, 0.12, 0.11]
    >>> verdict = direction(cost, "lowers accuracy", "raises accuracy", "decides nothing")
    >>> print(answer(f"Label skew {verdict}: it costs {points(cost)}."))
    Label skew lowers accuracy: it costs 11 points (7 to 14).
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ANSWER = "application/vnd.fedlab.answer+json"

MAX_SENTENCES = 3

_NO_NUMBER = re.compile(r"(?<!\w)(nan|[+-]?inf)(?!\w)", re.IGNORECASE)


@dataclass(frozen=True)
class PlainAnswer:
    """Sentences that answer a notebook's question.

    Attributes:
        sentences: One to three sentences.
    """

    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.sentences)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {
            ANSWER: {"sentences": list(self.sentences)},
            "text/plain": str(self),
            "text/html": f'<p class="fedlab-answer">{html.escape(str(self))}</p>',
        }


def answer(*sentences: str) -> PlainAnswer:
    """Declare the answer of a notebook; as a cell's last line it shows itself.

    The sentences head the report and its card on the index. A notebook declares one answer.

    Args:
        *sentences: One to three plain sentences, with numbers from ``points``, ``percent`` and
            ``amount``, so that they hold at every setting.

    Returns:
        The answer.

    Raises:
        ValueError: Without a sentence, with more than three, with an empty one, or with a number
            that is not finite.

    Example:
        >>> print(answer(f"Sending 5 bits a value saves {percent(0.84)} of the traffic."))
        Sending 5 bits a value saves 84 % of the traffic.
    """
    if not 1 <= len(sentences) <= MAX_SENTENCES:
        raise ValueError(
            f"sentences={len(sentences)} must be 1 to {MAX_SENTENCES} (they head the report). "
            "Try answer('Label skew costs 11 points.')"
        )
    for sentence in sentences:
        if not isinstance(sentence, str) or not sentence.strip():
            raise ValueError(
                f"sentence={sentence!r} must be text (it is read as the result). "
                "Try answer('Label skew costs 11 points.')"
            )
        if match := _NO_NUMBER.search(sentence):
            raise ValueError(
                f"sentence={sentence!r} must not hold {match[0]!r} (it is no number to report). "
                "Try a sentence without this number"
            )
    return PlainAnswer(tuple(" ".join(sentence.split()) for sentence in sentences))


def read_answer(executed: Mapping[str, Any]) -> list[str]:
    """Return the sentences of an executed notebook's answer, none without a well-formed one.

    Raises:
        ValueError: If the notebook declares more than one answer.
    """
    outputs = (output for cell in executed["cells"] for output in cell.get("outputs", ()))
    declared = [output["data"][ANSWER] for output in outputs if ANSWER in output.get("data", ())]
    if len(declared) > 1:
        raise ValueError(
            f"answer is declared {len(declared)} times and must be declared once. "
            f"Try one call with up to {MAX_SENTENCES} sentences"
        )
    sentences = declared[0].get("sentences") if declared and hasattr(declared[0], "get") else None
    return list(sentences) if is_answer(sentences) else []


def is_answer(sentences: Any) -> bool:
    """Return whether a value is a list of one to three texts.

    Example:
        >>> is_answer(["It costs 11 points."]), is_answer("It costs 11 points."), is_answer([])
        (True, False, False)
    """
    return (
        isinstance(sentences, list)
        and 1 <= len(sentences) <= MAX_SENTENCES
        and all(isinstance(sentence, str) and sentence.strip() for sentence in sentences)
    )


def points(values: float | Sequence[float]) -> str:
    """Write a difference of shares in percentage points, with its interval over seeds.

    Args:
        values: A difference, such as 0.11, or one per seed.

    Returns:
        The mean, and in brackets the 95 % interval of the mean if there are several values.

    Raises:
        ValueError: Without a value, or with one that is not finite.

    Example:
        >>> points([0.08, 0.13, 0.12]), points(0.042), points(-0.01)
        ('11 points (4 to 18)', '4.2 points', '-1 point')
    """
    mean, low, high = (100 * number for number in _mean_interval(values))
    shown = _write(mean, low, high, max_decimals=2)
    return _join(shown, "point" if shown[0] in ("1", "-1") else "points")


def percent(values: float | Sequence[float]) -> str:
    """Write a share in percent, with its interval over seeds.

    The interval of shares ends at 0 and at 100 %.

    Args:
        values: A share, such as 0.91, or one per seed.

    Returns:
        The mean, and in brackets the 95 % interval of the mean if there are several values.

    Raises:
        ValueError: Without a value, or with one that is not finite.

    Example:
        >>> percent([0.90, 0.91, 0.92]), percent(0.9974), percent(0.001)
        ('91 % (89 to 93)', '99.74 %', '0.1 %')
    """
    mean, low, high = (100 * number for number in _mean_interval(values))
    if all(0 <= value <= 1 for value in _listed(values)):
        low, high = max(0.0, low), min(100.0, high)
    # 99.74 must not become 100: near 100 the missing part sets the digits
    size = 100 - mean if 99 <= mean < 100 else mean
    return _join(_write(mean, low, high, max_decimals=4, size=size), "%")


def amount(values: float | Sequence[float], unit: str) -> str:
    """Write an amount with its unit, and its interval over seeds.

    Args:
        values: An amount, or one per seed.
        unit: Unit, such as "MB" or "rounds", "" for none.

    Returns:
        The mean, and in brackets the 95 % interval of the mean if there are several values.

    Raises:
        ValueError: Without a value, or with one that is not finite.

    Example:
        >>> amount([4.1, 4.2, 4.3], "MB"), amount(12345.6, "s"), amount(1234, "rounds")
        ('4.2 MB (4.0 to 4.4)', '12,300 s', '1,234 rounds')
    """
    return _join(_write(*_mean_interval(values), max_decimals=9), unit)


def direction(values: float | Sequence[float], up: str, down: str, level: str) -> str:
    """Return the phrase that the numbers support.

    Args:
        values: A difference, or one per seed. A single one counts by its sign.
        up: Phrase if the 95 % interval of the mean lies above 0.
        down: Phrase if it lies below 0.
        level: Phrase if it holds 0.

    Returns:
        One of the three phrases.

    Raises:
        ValueError: Without a value, or with one that is not finite.

    Example:
        >>> [direction(gap, "gains", "costs", "changes little") for gap in (0.1, [-0.1, 0.1])]
        ['gains', 'changes little']
    """
    _, low, high = _mean_interval(values)
    return up if low > 0 else down if high < 0 else level


def _listed(values: float | Sequence[float]) -> list[float]:
    try:
        return [float(value) for value in values]
    except TypeError:  # one number, of whatever library
        return [float(values)]


def _mean_interval(values: float | Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval, which has no width for a single value."""
    from fedlab.study.statistics import mean_interval  # pandas is slow to import

    numbers = _listed(values)
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"values={values} must be finite numbers, and at least one (they stand in a sentence). "
            "Try the values of runs that did not diverge"
        )
    return mean_interval(numbers) if len(numbers) > 1 else (numbers[0],) * 3


def _write(
    mean: float, low: float, high: float, max_decimals: int, size: float | None = None
) -> list[str]:
    """Return mean, low and high with equal decimals: two significant digits of the mean.

    An interval leaves out digits that it makes worthless: 4.2 with 1 to 8 is 4.
    """
    if low == high and mean.is_integer():  # a count
        return [f"{mean:,.0f}"] * 3
    digits = _decimals(mean if size is None else size)
    if high > low:  # of an interval's half the first digit counts, and the second of 1.x and 2.x
        digits = min(digits, _decimals(2 * (high - low)))
    # beyond a thousand three digits are read, not all: 12,345.6 is 12,300
    decimals = min(max(digits, 0), max_decimals) if digits > -2 else digits + 1
    numbers = [round(number, decimals) + 0.0 for number in (mean, low, high)]  # no "-0"
    texts = [f"{number:,.{max(decimals, 0)}f}" for number in numbers]
    while "." in texts[0] and all(text[-1] in "0." for text in texts):
        texts = [text[:-1] for text in texts]
    return texts


def _decimals(number: float) -> int:
    """Return the decimals of two significant digits, negative from 100."""
    number = float(f"{abs(number):.1e}")  # 9.96 becomes 10
    return 1 - math.floor(math.log10(number)) if number else 0


def _join(shown: list[str], unit: str) -> str:
    mean, low, high = shown
    text = f"{mean} {unit}".rstrip()
    return text if low == high else f"{text} ({low} to {high})"
