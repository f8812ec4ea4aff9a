"""Grids of settings: the states of a panel that a live report computes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedlab.lab.course.parameters import Parameter

MOST_VALUES = 7  # values of a number over its range

Settings = dict[str, Any]


class Grid(NamedTuple):
    """Settings to compute.

    Attributes:
        axes: Values by control, for the controls that a reader can move.
        points: Position on each axis of the states, in the order in which they are computed: the
            default first, then the comparison, then what is next to the default.
    """

    axes: dict[str, list]
    points: list[tuple[int, ...]]

    def settings(self, point: Sequence[int]) -> Settings:
        """Return the values of the controls at a point."""
        return {name: self.axes[name][k] for name, k in zip(self.axes, point, strict=True)}


def spread(parameter: Parameter, count: int, needed: Sequence[Any]) -> list:
    """Return values of a control: all choices, or numbers over its range.

    Args:
        parameter: The control.
        count: Number of values of a number, at least those that are needed.
        needed: Values that are always among them. They take the place of the nearest ones.

    Example:
        >>> alpha = Parameter("alpha", "float", 1.0, limits=(0.01, 100.0), log=True)
        >>> spread(alpha, 7, [1.0, 0.03])
        [0.01, 0.03, 0.2, 1.0, 5.0, 20.0, 100.0]
        >>> spread(Parameter("seeds", "int", 1, limits=(1, 10)), 3, [1])
        [1, 6, 10]
    """
    if parameter.choices:
        return list(parameter.choices)
    values = _even_values(parameter, max(count, len(set(needed))))
    for value in dict.fromkeys(needed):
        free = [k for k, old in enumerate(values) if old not in needed]
        free = [k for k in free if 0 < k < len(values) - 1] or free  # the limits stay, if possible
        if value not in values and free:
            nearest = min(free, key=lambda k: abs(_place(parameter, values[k], value)))
            values[nearest] = value
    return sorted({*values, *needed})


def _even_values(parameter: Parameter, count: int) -> list:
    low, high = parameter.limits
    shares = [k / max(1, count - 1) for k in range(count)]
    if parameter.log:
        # one digit, so that a slider stops at 0.2 and not at 0.2154
        values = [float(f"{low * (high / low) ** share:.1g}") for share in shares]
    else:
        values = [float(f"{low + (high - low) * share:.2g}") for share in shares]
    if parameter.kind == "int":
        values = [round(value) for value in values]
    inner = (min(max(value, low), high) for value in values[1:-1])
    return sorted({low, *inner, high})


def _place(parameter: Parameter, value: float, from_value: float) -> float:
    """Return the distance of two values on the slider."""
    return value / from_value + from_value / value if parameter.log else value - from_value


def choose_grid(
    parameters: Mapping[str, Parameter],
    compare_with: Mapping[str, Any],
    affordable: int,
    declared: Mapping[str, Sequence] | None = None,
) -> Grid:
    """Return the settings of a panel that a live report computes.

    It is a grid over the first two controls. With little time the grid gets fewer values of each
    number, then one control. The default and the comparison belong to it in any case.

    Args:
        parameters: All controls by name, each with its default.
        compare_with: The setting beside the default, by the controls that differ.
        affordable: Number of states beside the default and the comparison.
        declared: Values by control that the panel asks for, in place of the first two controls.

    Example:
        >>> n = Parameter("n", "int", 5, limits=(1, 9))
        >>> grid = choose_grid({"n": n}, {"n": 2}, affordable=1)
        >>> grid.axes, [grid.settings(point)["n"] for point in grid.points]
        ({'n': [2, 5, 9]}, [5, 2, 9])
    """
    default = {name: parameter.default for name, parameter in parameters.items()}
    for values in _candidates(parameters, compare_with, declared):
        axes = _with_comparison(values, compare_with, parameters)
        points = _points(axes, values, compare_with, default)
        if declared or len(points) <= affordable + 2:
            return Grid(axes, points)
    return Grid(axes, points[: affordable + 2])  # of the last candidate: one control, few values


def _candidates(
    parameters: Mapping[str, Parameter],
    compare_with: Mapping[str, Any],
    declared: Mapping[str, Sequence] | None,
) -> Iterator[dict[str, list]]:
    """Yield the values of grids, from the finest to the coarsest."""

    def needed(name: str) -> list:
        default = parameters[name].default
        return list(dict.fromkeys([default, compare_with.get(name, default)]))

    if declared:
        yield {
            name: _in_order(parameters[name], {*values, *needed(name)})
            for name, values in declared.items()
        }
        return
    movable = [name for name in parameters if not parameters[name].kind.startswith("list")][:2]
    sizes = range(MOST_VALUES, 1, -1)
    pairs = [(n, m) for n in sizes for m in (n, n - 1) if m > 1]
    for counts in [*pairs, *((n,) for n in sizes)]:
        yield {
            name: spread(parameters[name], count, needed(name))
            for name, count in zip(movable, counts, strict=False)
        }


def _in_order(parameter: Parameter, values: set) -> list:
    return [value for value in parameter.choices or sorted(values) if value in values]


def _with_comparison(
    values: Mapping[str, list],
    compare_with: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
) -> dict[str, list]:
    """Return the values with an axis for each control of the comparison that has none."""
    beside = {
        name: _in_order(parameters[name], {parameters[name].default, value})
        for name, value in compare_with.items()
        if name not in values and value != parameters[name].default
    }
    return {**values, **beside}


def _points(
    axes: Mapping[str, list],
    values: Mapping[str, list],
    compare_with: Mapping[str, Any],
    default: Settings,
) -> list[tuple[int, ...]]:
    """Return the points of the grid, those beside the default before the rest."""
    start = tuple(axis.index(default[name]) for name, axis in axes.items())
    compared = default | dict(compare_with)
    second = tuple(axis.index(compared[name]) for name, axis in axes.items())
    ranges = [
        range(len(axis)) if name in values else [start[k]]
        for k, (name, axis) in enumerate(axes.items())
    ]

    def distance(point: tuple[int, ...]) -> tuple[int, int]:
        steps = [abs(a - b) for a, b in zip(point, start, strict=True)]
        return sum(step > 0 for step in steps), sum(steps)

    rest = sorted(set(itertools.product(*ranges)) - {start, second}, key=lambda p: (distance(p), p))
    return [start, second, *rest]
