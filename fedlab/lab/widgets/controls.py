"""Controls of a panel: a field to type in, a slider beside it, and room for a complaint."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets

from fedlab.lab.course.parameters import Parameter, format_value, parse_value

FITTING = {"width": "auto"}  # a button as wide as its name

RED = "color: var(--jp-error-color1, #b3261e)"

_STYLE = {"description_width": "11em"}


def slider(
    value: float, low: float, high: float, *, log: bool = False, unit: str = "", help: str = ""
) -> Parameter:
    """Describe a control for a number from ``low`` to ``high``.

    The number is whole if all three are.

    Args:
        value: The value at first.
        low: Lowest value.
        high: Highest value.
        log: Equal steps are equal factors; ``low`` is then above 0.
        unit: Unit of the value, shown beside the slider.
        help: Explanation, shown beside the slider.

    Raises:
        ValueError: If ``value`` lies outside the limits, or ``low`` is not above 0 with ``log``.

    Example:
        >>> slider(0.1, 0.001, 1.0, log=True).limits
        (0.001, 1.0)
        >>> slider(20, 1, 10)
        Traceback (most recent call last):
        ValueError: value=20 lies outside its limits 1 to 10; choose a value within
    """
    if not low <= value <= high:
        raise ValueError(
            f"value={value} lies outside its limits {low} to {high}; choose a value within"
        )
    if log and low <= 0:
        raise ValueError(
            f"low={low}: a logarithmic slider starts above 0. Try low={high / 1000:g}, or log=False"
        )
    is_whole = all(isinstance(number, int) for number in (value, low, high))
    kind = "int" if is_whole else "float"
    return Parameter("", kind, value, limits=(low, high), comment=help, unit=unit, log=log)


def choice(value: Any, options: Iterable, *, help: str = "") -> Parameter:
    """Describe a control for one of several options.

    Args:
        value: The option at first.
        options: All options.
        help: Explanation, shown beside the list.

    Raises:
        ValueError: If ``value`` is not one of the options.

    Example:
        >>> choice("sgd", ["sgd", "adamw"]).choices
        ('sgd', 'adamw')
    """
    options = tuple(options)
    if value not in options:
        raise ValueError(f"value={value!r} must be one of the options, and is none of {options}")
    return Parameter("", type(value).__name__, value, choices=options, comment=help)


def button(name: str, help: str, act: Callable[[], None]) -> widgets.Button:
    """Return a button that calls ``act()``.

    Args:
        name: The words on the button.
        help: Explanation, shown when the pointer rests on it.
        act: The function to call.
    """
    widget = widgets.Button(description=name, tooltip=help, layout=FITTING)
    widget.on_click(lambda _: act())
    return widget


class ControlRow:
    """One control in a row: field, slider, explanation, complaint.

    Args:
        parameter: Name, type, limits and explanation.
        changed: Called after each new value, and not for a value that was there before.

    Attributes:
        value: The last value that is allowed. Text that cannot be read gets a complaint instead.
        idle: The reason why the control does nothing at this setting; empty if it does something.
        widget: The row, to be displayed.
    """

    def __init__(self, parameter: Parameter, changed: Callable[[], None]):
        self.parameter, self.value = parameter, parameter.default
        self.idle = ""
        self._changed = changed
        self._complaint = widgets.HTML()
        self._slider: widgets.Widget | None = None
        self._slider_leads = True  # False while the slider follows the field
        self._field = self._make_list() if parameter.choices else self._make_field()
        self._words = " ".join(filter(None, (parameter.unit, parameter.comment)))
        self._help = widgets.Label(self._words)
        sliders = [self._slider] if self._slider else []
        parts = [self._field, *sliders, self._help, self._complaint]
        self.widget = widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center"})

    def _make_list(self) -> widgets.Dropdown:
        dropdown = widgets.Dropdown(
            options=self.parameter.choices,
            value=self.value,
            description=self.parameter.name,
            style=_STYLE,
        )
        dropdown.observe(lambda change: self._take(change["new"]), "value")
        return dropdown

    def _make_field(self) -> widgets.Text:
        # A field for text: a field for numbers would swallow other input without a word.
        field = widgets.Text(
            format_value(self.value),
            description=self.parameter.name,
            continuous_update=False,
            style=_STYLE,
            layout={"width": "19em"},
        )
        field.observe(lambda change: self._read(change["new"]), "value")
        self._slider = _make_slider(self.parameter)
        self._slider.observe(lambda change: self._follow(change["new"]), "value")
        return field

    def narrow(self) -> None:
        """Take half a page, so that two controls stand side by side."""
        self.widget.layout.width = "44em"
        if self._slider:
            self._slider.layout.width = "9em"
        self._help.layout = {"flex": "1 1 0", "min_width": "0", "height": "auto"}
        self._help.add_class("fedlab-words")  # two lines, if need be

    def move(self, value: Any) -> None:
        """Change the value as a reader would."""
        self._field.value = value if self.parameter.choices else format_value(value)

    def set_idle(self, reason: str) -> None:
        """Grey the control out and say why; without a reason, let it work again.

        Text that cannot be read gives way to the value: a greyed field cannot be mended.
        """
        self.idle = reason
        self._help.value = reason or self._words
        for widget in filter(None, (self._slider, self._field)):
            widget.disabled = bool(reason)
        if reason and not self.is_read:
            self.move(self.value)
            self.complain()

    def complain(self, words: str = "") -> None:
        """Say beside the control what is wrong with it; without words, say nothing."""
        alert = f'<span role="alert" style="{RED}">{html.escape(words)}</span>'
        self._complaint.value = alert if words else ""

    def forgive(self) -> None:
        """Take the complaint back, unless the field still holds text that cannot be read."""
        if self.is_read:
            self.complain()

    @property
    def is_read(self) -> bool:
        """True if the field holds the value; otherwise there is a complaint."""
        return bool(self.parameter.choices) or self._parse(self._field.value) == self.value

    @property
    def complaint(self) -> str:
        """The words of the complaint; empty if there is none."""
        return text_of(self._complaint)

    def _read(self, text: str) -> None:
        value = self._parse(text)
        if value is not None:
            self._slider_leads = False
            self._slider.value = value
            self._slider_leads = True
            self._take(value)

    def _parse(self, text: str) -> Any:
        """Return the value that a text means; if it means none, complain and return None."""
        try:
            return parse_value(self.parameter, text, "")
        except ValueError as refused:
            self.complain(str(refused).removeprefix(": "))
            return None

    def _follow(self, value: float) -> None:
        # A slider that followed the field has rounded its value, which is no wish of the reader.
        if not self._slider_leads:
            return
        low, high = self.parameter.limits
        value = round(value) if self.parameter.kind == "int" else float(f"{value:.3g}")
        self._field.value = format_value(min(max(value, low), high))

    def _take(self, value: Any) -> None:
        self.complain()
        if value != self.value:
            self.value = value
            self._changed()


def _make_slider(parameter: Parameter) -> widgets.Widget:
    low, high = parameter.limits
    common = {"readout": False, "continuous_update": False, "layout": {"width": "16em"}}
    if parameter.log:
        step = 0.25 if high / low > 30 else 0.05
        return widgets.FloatLogSlider(
            parameter.default, min=math.log10(low), max=math.log10(high), step=step, **common
        )
    if parameter.kind == "int":
        return widgets.IntSlider(parameter.default, min=low, max=high, **common)
    step = (high - low) / 100
    return widgets.FloatSlider(parameter.default, min=low, max=high, step=step, **common)


def text_of(line: widgets.HTML) -> str:
    """Return the text in a line that holds one element.

    Args:
        line: For example ``<span role="status">done</span>``.

    Example:
        >>> text_of(widgets.HTML("<span>1 &lt; 2</span>"))
        '1 < 2'
    """
    return html.unescape(line.value.split(">", 1)[-1].rsplit("<", 1)[0])
