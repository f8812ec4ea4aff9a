"""Main numbers of a notebook: recorded in a cell, read back after it ran."""

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
    """A named number with one value per seed.

    Attributes:
        name: Name, unique in its notebook.
        values: One value per seed.
        unit: Unit of the values, "" for none.
        expected: Lower and upper limit of the mean, None for no limits.
        tolerance: Distance by which the mean may move from the committed one.
        headline: True for the number that heads the report of a notebook without an answer.
    """

    name: str
    values: tuple[float, ...]
    unit: str
    expected: tuple[float, float] | None
    tolerance: float
    headline: bool

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def holds(self) -> bool:
        """True if the mean is finite and within the expected limits."""
        low, high = self.expected or (-math.inf, math.inf)
        return math.isfinite(self.mean) and low <= self.mean <= high

    def as_dict(self) -> dict[str, Any]:
        """Return the form for files: numbers to 6 significant digits, None if not finite."""
        spread = len(self.values) > 1 and math.isfinite(self.mean)
        return {
            "name": self.name,
            "unit": self.unit,
            "mean": _rounded(self.mean),
            "low": _rounded(min(self.values)),
            "high": _rounded(max(self.values)),
            "sd": _rounded(statistics.stdev(self.values) if spread else math.nan),
            "seeds": len(self.values),
            "values": [_rounded(value) for value in self.values],
            "expected": [float(limit) for limit in self.expected] if self.expected else None,
            "tolerance": self.tolerance,
            "headline": self.headline,
            "pass": self.holds,
        }

    def __str__(self) -> str:
        return describe_metric(self.as_dict())

    def _repr_mimebundle_(self, include=None, exclude=None):
        return mime_bundle(self.as_dict())


def record(
    name: str,
    values: float | Sequence[float],
    *,
    unit: str = "",
    expected: tuple[float, float] | None = None,
    tolerance: float | None = None,
    headline: bool = False,
) -> Metric:
    """Record a number for the report; as a cell's last line it shows itself.

    Args:
        name: Name, unique in its notebook.
        values: A number, or one per seed.
        unit: Unit of the values.
        expected: Lower and upper limit of the mean under the notebook's default parameters.
        tolerance: Distance by which the mean may move from the committed one. Default: 0.02, and
            2 % of a mean beyond 1.
        headline: True for the number that heads the report of a notebook without an answer.

    Returns:
        The metric. A mean that is not finite never passes.

    Raises:
        ValueError: Without a name or a value, for limits in the wrong order, or a negative
            tolerance.

    Example:
        >>> print(record("accuracy", [0.88, 0.893, 0.885], expected=(0.85, 1)))
        accuracy: 0.886 (0.880 to 0.893 over 3 seeds), expected 0.85 to 1: holds
    """
    try:
        values = tuple(float(value) for value in values)
    except TypeError:  # one number, of whatever library
        values = (float(values),)
    if not name or not values:
        raise ValueError(
            f"name={name!r}, values={values} must be a name and at least one value. "
            "Try record('accuracy', [0.9, 0.91])"
        )
    if expected is not None and not expected[0] <= expected[1]:
        raise ValueError(
            f"expected={expected} of {name!r} must have its lower limit first. "
            f"Try {tuple(expected)[::-1]}"
        )
    if tolerance is None:
        mean = statistics.fmean(values)
        tolerance = _rounded(0.02 * max(1.0, abs(mean))) if math.isfinite(mean) else 0.02
    if not tolerance >= 0:
        raise ValueError(
            f"tolerance={tolerance} of {name!r} must be at least 0 (it is a distance). Try 0.02"
        )
    return Metric(name, values, unit, expected and tuple(expected), float(tolerance), headline)


def read_metrics(executed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the metrics of an executed notebook, in the order of its cells.

    Raises:
        ValueError: If two metrics have the same name.
    """
    outputs = (output for cell in executed["cells"] for output in cell.get("outputs", ()))
    metrics = [dict(output["data"][MIME]) for output in outputs if MIME in output.get("data", ())]
    names = [metric["name"] for metric in metrics]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"metric {repeated[0]!r} is recorded {names.count(repeated[0])} times and must be "
            "recorded once. Try another name"
        )
    return metrics


def find_changes(committed: Iterable[Mapping], current: Iterable[Mapping]) -> list[str]:
    """Describe each metric that is new, missing, or beyond its tolerance of the committed one."""
    before, after = (
        {metric["name"]: metric for metric in metrics} for metrics in (committed, current)
    )
    lines = [
        f"{name!r} is committed and no longer recorded" for name in before if name not in after
    ]
    for name, metric in after.items():
        if name not in before:
            lines.append(f"{name!r} is recorded and not committed")
        elif not _close(before[name]["mean"], metric["mean"], metric["tolerance"]):
            lines.append(
                f"{name!r} has moved: committed {before[name]['mean']}, now {metric['mean']}, "
                f"tolerance {metric['tolerance']:g}"
            )
    return lines


def mime_bundle(metric: Mapping[str, Any]) -> dict[str, Any]:
    """Return a metric as a notebook stores it: as data, text and HTML."""
    text = describe_metric(metric)
    return {
        MIME: dict(metric),
        "text/plain": text,
        "text/html": f'<p class="fedlab-metric">{html.escape(text)}</p>',
    }


def describe_metric(metric: Mapping[str, Any]) -> str:
    """Return a metric as a line of text, with its range and its expected limits."""
    mean, low, high = format_range(metric)
    text = f"{metric['name']}: {mean} {metric['unit']}".rstrip()
    if metric["seeds"] > 1:
        text += f" ({low} to {high} over {metric['seeds']} seeds)"
    if metric["expected"]:
        verdict = "holds" if metric["pass"] else "does not hold"
        return f"{text}, expected {format_limits(metric['expected'])}: {verdict}"
    return text


def format_number(value: float | None) -> str:
    """Return a number with three significant digits; whole numbers stay whole.

    Example:
        >>> format_number(0.8800001), format_number(12345.0), format_number(None)
        ('0.880', '12,345', 'not a number')
    """
    if value is None:
        return "not a number"
    if float(value).is_integer():
        return f"{value:,.0f}"
    size = math.floor(math.log10(abs(value)))
    return f"{value:.2e}" if size < -4 else f"{value:,.{max(0, 2 - size)}f}"


def format_range(metric: Mapping[str, Any]) -> list[str]:
    """Return the mean, the low and the high of a metric as texts with equal decimals.

    Example:
        >>> format_range({"mean": -0.00167, "low": -0.0139, "high": 0.0167})
        ['-0.0017', '-0.0139', '0.0167']
    """
    values = [metric[name] for name in ("mean", "low", "high")]
    longest = "" if None in values else format_number(max(values, key=abs))
    if not longest or "e" in longest or all(float(value).is_integer() for value in values):
        return [format_number(value) for value in values]
    if float(max(values, key=abs)).is_integer():  # 2 of 1.5 to 2 is 2.00
        decimals = max(0, 3 - len(longest.lstrip("-")))
    else:
        decimals = len(longest.partition(".")[2])
    return [f"{value:,.{decimals}f}" for value in values]


def format_limits(expected: Sequence[float]) -> str:
    """Return two limits as text.

    Example:
        >>> format_limits((0.85, 1.0))
        '0.85 to 1'
    """
    low, high = (
        f"{limit:,.0f}" if float(limit).is_integer() else f"{limit:g}" for limit in expected
    )
    return low if low == high else f"{low} to {high}"


def _rounded(value: float) -> float | None:
    """Round to 6 digits; whole numbers stay exact, such as a count of parameters."""
    if not math.isfinite(value):
        return None
    return value if float(value).is_integer() else float(f"{value:.6g}")


def _close(before: float | None, after: float | None, tolerance: float) -> bool:
    if before is None or after is None:
        return False
    return abs(after - before) <= tolerance + 1e-6 * abs(before)  # both were rounded to 6 digits
