"""Numbers that a notebook stands for: recorded where they are computed, read back from the executed notebook."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIME = "application/vnd.fedlab.metric+json"


@dataclass(frozen=True)
class Metric:
    """A number with a name, one value a seed.  ``expected`` bounds the mean; ``tolerance`` is how far it may drift."""

    name: str
    values: tuple[float, ...]
    unit: str
    expected: tuple[float, float] | None
    tolerance: float
    headline: bool

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def holds(self) -> bool:
        """Whether the mean is a number, and within what is expected of it."""
        low, high = self.expected or (-math.inf, math.inf)
        return math.isfinite(self.mean) and low <= self.mean <= high

    def as_dict(self) -> dict[str, Any]:
        """What goes into files: numbers to 6 significant digits, ``None`` for what is no finite number."""
        sd = (
            statistics.stdev(self.values)
            if len(self.values) > 1 and math.isfinite(self.mean)
            else math.nan
        )
        return {
            "name": self.name,
            "unit": self.unit,
            "mean": _rounded(self.mean),
            "low": _rounded(min(self.values)),
            "high": _rounded(max(self.values)),
            "sd": _rounded(sd),
            "seeds": len(self.values),
            "values": [_rounded(value) for value in self.values],
            "expected": [float(limit) for limit in self.expected] if self.expected else None,
            "tolerance": self.tolerance,
            "headline": self.headline,
            "pass": self.holds,
        }

    def __str__(self) -> str:
        return in_words(self.as_dict())

    def _repr_mimebundle_(self, include=None, exclude=None):
        return bundle(self.as_dict())


def record(
    name: str,
    values: float | Sequence[float],
    *,
    unit: str = "",
    expected: tuple[float, float] | None = None,
    tolerance: float | None = None,
    headline: bool = False,
) -> Metric:
    """Note a number, or one a seed, for the report; as a cell's last line it shows itself.

    ``expected`` bounds the mean under the notebook's default parameters.  ``tolerance`` is how far the mean may move from
    the committed one: 0.02 if nothing is said, and 2 % of a mean beyond 1.  What is not a number never passes.
    """
    try:
        values = tuple(float(value) for value in values)
    except TypeError:  # one number, of whatever library
        values = (float(values),)
    if not name or not values:
        raise ValueError(
            f"name={name!r}, values={values}: a metric needs a name and at least one value"
        )
    if expected is not None and not expected[0] <= expected[1]:
        raise ValueError(f"expected={expected} of {name!r}: the lower limit comes first")
    if tolerance is None:
        mean = statistics.fmean(values)
        tolerance = _rounded(0.02 * max(1.0, abs(mean))) if math.isfinite(mean) else 0.02
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} of {name!r}: it is a distance, 0 or more")
    return Metric(name, values, unit, expected and tuple(expected), float(tolerance), headline)


def read(executed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of an executed notebook, in the order of its cells.  Two of one name are an error."""
    outputs = (output for cell in executed["cells"] for output in cell.get("outputs", ()))
    found = [dict(output["data"][MIME]) for output in outputs if MIME in output.get("data", ())]
    names = [metric["name"] for metric in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"metric {twice[0]!r} is recorded {names.count(twice[0])} times: give each a name of its own"
        )
    return found


def moved(committed: Iterable[Mapping], now: Iterable[Mapping]) -> list[str]:
    """A line for each metric that is new, missing, or further from the committed one than its tolerance."""
    before, after = ({metric["name"]: metric for metric in metrics} for metrics in (committed, now))
    lines = [
        f"{name!r} is committed and no longer recorded" for name in before if name not in after
    ]
    for name, metric in after.items():
        if name not in before:
            lines.append(f"{name!r} is recorded and not committed")
        elif not _close(before[name]["mean"], metric["mean"], metric["tolerance"]):
            told = f"committed {before[name]['mean']}, now {metric['mean']}, tolerance {metric['tolerance']:g}"
            lines.append(f"{name!r} has moved: {told}")
    return lines


def bundle(metric: Mapping[str, Any]) -> dict[str, Any]:
    """What a notebook stores of a metric."""
    words = in_words(metric)
    return {
        MIME: dict(metric),
        "text/plain": words,
        "text/html": f'<p class="fedlab-metric">{html.escape(words)}</p>',
    }


def in_words(metric: Mapping[str, Any]) -> str:
    """``accuracy: 0.886 (0.880 to 0.893 over 5 seeds), expected 0.85 to 1: holds``."""
    text = f"{metric['name']}: {number(metric['mean'])} {metric['unit']}".rstrip()
    if metric["seeds"] > 1:
        text += (
            f" ({number(metric['low'])} to {number(metric['high'])} over {metric['seeds']} seeds)"
        )
    if metric["expected"]:
        verdict = "holds" if metric["pass"] else "does not hold"
        return f"{text}, expected {limits(metric['expected'])}: {verdict}"
    return text


def number(value: float | None) -> str:
    """Three significant digits, whole numbers whole."""
    if value is None:
        return "not a number"
    if float(value).is_integer():
        return f"{value:,.0f}"
    size = math.floor(math.log10(abs(value)))
    return f"{value:.2e}" if size < -4 else f"{value:,.{max(0, 2 - size)}f}"


def limits(expected: Sequence[float]) -> str:
    low, high = (
        f"{limit:,.0f}" if float(limit).is_integer() else f"{limit:g}" for limit in expected
    )
    return low if low == high else f"{low} to {high}"


def _rounded(value: float) -> float | None:
    """Whole numbers stay exact: a count of parameters is one."""
    if not math.isfinite(value):
        return None
    return value if float(value).is_integer() else float(f"{value:.6g}")


def _close(before: float | None, now: float | None, tolerance: float) -> bool:
    if before is None or now is None:
        return False
    return abs(now - before) <= tolerance + 1e-6 * abs(before)  # both were rounded to 6 digits
