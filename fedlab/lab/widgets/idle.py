"""Controls that do nothing at a setting, each with the reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fedlab.core.names import quote_name
from fedlab.lab.course.parameters import Parameter, check_value, format_value

Declared = Mapping[str, Mapping[str, Collection]]


class Conditions:
    """The conditions under which controls do something.

    Args:
        only_if: By the name of a control: the control that it depends on, and the list of values
            of that control at which it does something. If there are several such controls, all
            must fit.
        declared: All controls of the panel, by name.

    Raises:
        ValueError: If a name is no control, a value is impossible, or the controls that are
            depended on depend on others in turn.

    Example:
        >>> from fedlab.lab.widgets import choice, slider
        >>> declared = {"split": choice("iid", ["iid", "shards"]), "pieces": slider(2, 1, 10)}
        >>> conditions = Conditions({"pieces": {"split": ["shards"]}}, declared)
        >>> conditions.reasons({"split": "iid", "pieces": 3})
        {'pieces': 'only if split is shards'}
        >>> conditions.effective({"split": "iid", "pieces": 3})
        {'split': 'iid'}
    """

    def __init__(self, only_if: Declared, declared: Mapping[str, Parameter]):
        for name, wanted in only_if.items():
            _check_names(name, wanted, only_if, declared)
            for decider, values in wanted.items():
                _check_values(name, decider, values, declared[decider])
        self._only_if = only_if

    def reasons(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the controls that do nothing at a setting, each with the reason.

        Args:
            settings: The values of all controls, by name.
        """
        return {
            name: "only if " + " and ".join(f"{by} is {_words(wanted[by])}" for by in wanted)
            for name, wanted in self._only_if.items()
            if any(settings[by] not in values for by, values in wanted.items())
        }

    def effective(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a setting without the controls that do nothing: equal ones are one run.

        Args:
            settings: The values of all controls, by name.
        """
        idle = self.reasons(settings)
        return {name: value for name, value in settings.items() if name not in idle}


def _check_names(
    name: str, wanted: Mapping, only_if: Declared, declared: Mapping[str, Parameter]
) -> None:
    """Raise ValueError if a condition names something else than a control that always counts."""
    place = f"only_if={{{name!r}: ...}}"
    for control in (name, *wanted):
        if control not in declared:
            raise ValueError(
                f"{place} must name controls, and {control!r} is none. Try one of "
                f"{', '.join(declared)}"
            )
    if not wanted:
        raise ValueError(
            f"{place} must name a control that {name!r} depends on. Try leaving the condition out"
        )
    if nested := [control for control in wanted if control in only_if]:
        raise ValueError(
            f"{place} must depend on controls that always do something, and {nested[0]!r} has a "
            f"condition, too. Try the control that {nested[0]!r} depends on"
        )


def _check_values(name: str, decider: str, values: Collection, parameter: Parameter) -> None:
    """Raise ValueError unless a condition lists possible values of the deciding control."""
    place = f"only_if={{{name!r}: {{{decider!r}: {values!r}}}}}"
    if isinstance(values, str) or not values:
        raise ValueError(f"{place} must list values. Try [{parameter.default!r}]")
    for value in values:
        check_value(parameter._replace(name=decider), value, place)


def _words(values: Collection) -> str:
    """Return values as a reader would say them.

    Example:
        >>> _words(["a", "b, c", "d"])
        'a, "b, c" or d'
    """
    *first, last = (quote_name(format_value(value)) for value in values)
    return f"{', '.join(first)} or {last}" if first else last
