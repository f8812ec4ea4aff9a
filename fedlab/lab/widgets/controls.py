"""What a reader may change, on a page: a field to type in, a slider beside it, and room for a complaint."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets

from fedlab.lab.course.parameters import Parameter, format_value, parse_value

WIDE = {"width": "auto"}  # a button as wide as its name

RED = "color: var(--jp-error-color1, #b3261e)"

_STYLE = {"description_width": "11em"}

# A kernel that runs cells cannot say that a reader waits, so the page does.  Each act of the reader sends a newer number,
# and the kernel writes that number back once it has served the act.
_WATCH = """
const box = this.closest('.fedlab-panel'), part = name => box.querySelector(name);
const lost = () => box.matches('.jupyter-widgets-disconnected');
let asked = 0, shown = null, said = '';
const look = () => {
  const line = part('.fedlab-status'), heard = part('.fedlab-heard');
  if (!line || !heard) return;
  if (line.textContent !== shown) said = line.textContent;
  shown = lost() ? 'lost  the kernel was restarted: run this cell again'
    : Number(heard.textContent) < asked ? 'waiting  for the kernel to answer' : said;
  if (line.textContent !== shown) line.textContent = shown;
};
const ask = () => setTimeout(() => {
  const field = part('.fedlab-asked input');
  if (!field || lost()) return;
  field.value = asked = Date.now();
  field.dispatchEvent(new Event('change', {bubbles: true}));
  setTimeout(look, 100);
});
const on = (kind, where, act) => box.addEventListener(kind, event => event.target.closest(where) && act());
on('change', ':not(.fedlab-asked) > :is(input, select)', ask);
on('click', 'button', ask);
on('keydown', '.noUi-handle', ask);
on('pointerdown', '.noUi-target', () => addEventListener('pointerup', ask, {once: true}));
const changes = {subtree: true, childList: true, attributes: true, attributeFilter: ['class']};
new MutationObserver(look).observe(box, changes);
"""


def slider(
    value: float, low: float, high: float, *, log: bool = False, unit: str = "", help: str = ""
) -> Parameter:
    """A number from ``low`` to ``high``, whole if all three are; ``log``: equal steps are equal factors."""
    if not low <= value <= high:
        raise ValueError(f"value={value} lies outside its limits {low} to {high}")
    if log and low <= 0:
        raise ValueError(f"low={low}: a logarithmic slider starts above 0")
    whole = all(isinstance(number, int) for number in (value, low, high))
    return Parameter(
        "", "int" if whole else "float", value, limits=(low, high), comment=help, unit=unit, log=log
    )


def choice(value: Any, options: Iterable, *, help: str = "") -> Parameter:
    """One of several options."""
    options = tuple(options)
    if value not in options:
        raise ValueError(f"value={value!r} is none of {options}")
    return Parameter("", type(value).__name__, value, choices=options, comment=help)


def button(name: str, help: str, act: Callable[[], None]) -> widgets.Button:
    """A button that does ``act()``."""
    one = widgets.Button(description=name, tooltip=help, layout=WIDE)
    one.on_click(lambda _: act())
    return one


def with_waiting(parts: Iterable[widgets.Widget]) -> widgets.VBox:
    """Return a column of widgets whose line ``.fedlab-status`` says "waiting" until the kernel serves its reader."""
    asked, heard = widgets.Text(continuous_update=False), widgets.HTML()
    asked.add_class("fedlab-asked")
    heard.add_class("fedlab-heard")
    widgets.dlink((asked, "value"), (heard, "value"))
    style = ".fedlab-asked, .fedlab-heard, .fedlab-watch { display: none }"
    style += " .fedlab-panel .jupyter-widgets-disconnected::before { content: none }"  # the line says it, once
    watch = widgets.HTML(f'<style onload="{html.escape(_WATCH)}">{style}</style>')
    watch.add_class("fedlab-watch")
    column = widgets.VBox([*parts, asked, heard, watch])
    column.add_class("fedlab-panel")
    return column


def serve_at_once(widget: widgets.Widget) -> None:
    """Let a widget, and all inside it, answer its reader while cells run.

    ipykernel 7.4 hands an act of the reader to the thread that wrote to the widget last.  A cell made the widget, so
    that thread is the one of the cells, and the first act would wait until the last cell has ended.
    """
    widget.comm._reply_subshell_for = None
    for child in getattr(widget, "children", ()):
        serve_at_once(child)


class Row:
    """One control.  ``value`` is always one that is allowed; what is typed and is not is complained of, beside the field.

    ``changed()`` is called after each new value, and not for one that was there before.
    """

    def __init__(self, parameter: Parameter, changed: Callable[[], None]):
        self.parameter, self.value, self._changed = parameter, parameter.default, changed
        self._complaint = widgets.HTML()
        self._lead, self._leading = None, True
        if parameter.choices:
            self._field = widgets.Dropdown(
                options=parameter.choices,
                value=self.value,
                description=parameter.name,
                style=_STYLE,
            )
            self._field.observe(lambda change: self._take(change["new"]), "value")
        else:  # a field for text: one for numbers would swallow without a word what is none
            layout = {"width": "19em"}
            self._field = widgets.Text(
                format_value(self.value),
                description=parameter.name,
                continuous_update=False,
                style=_STYLE,
                layout=layout,
            )
            self._field.observe(lambda change: self._read(change["new"]), "value")
            self._lead = _slider(parameter)
            self._lead.observe(lambda change: self._follow(change["new"]), "value")
        words = " ".join(filter(None, (parameter.unit, parameter.comment)))
        parts = [
            self._field,
            *([self._lead] if self._lead else []),
            widgets.Label(words),
            self._complaint,
        ]
        self.widget = widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center"})

    def narrow(self) -> None:
        """Take half a page: two controls stand side by side."""
        self.widget.layout.width = "44em"
        if self._lead:
            self._lead.layout.width = "9em"

    def move(self, value: Any) -> None:
        """Change it as a reader would."""
        self._field.value = value if self.parameter.choices else format_value(value)

    def complain(self, words: str = "") -> None:
        """Say beside the control what is wrong with it; nothing where all is well."""
        told = f'<span role="alert" style="{RED}">{html.escape(words)}</span>'
        self._complaint.value = told if words else ""

    def forgive(self) -> None:
        """Take back what was said, unless the field still holds what cannot be read."""
        if self.is_read:
            self.complain()

    @property
    def is_read(self) -> bool:
        """Whether the field holds the value; where it holds none, there is a complaint."""
        return bool(self.parameter.choices) or self._parsed(self._field.value) == self.value

    @property
    def complaint(self) -> str:
        return words_of(self._complaint)

    def _read(self, text: str) -> None:
        value = self._parsed(text)
        if value is not None:
            self._leading = False
            self._lead.value = value
            self._leading = True
            self._take(value)

    def _parsed(self, text: str) -> Any:
        """The value that is meant; where there is none, a complaint."""
        try:
            return parse_value(self.parameter, text, "")
        except ValueError as refused:
            self.complain(str(refused).removeprefix(": "))
            return None

    def _follow(self, value: float) -> None:
        if (
            not self._leading
        ):  # it has followed the field, and its rounding is no wish of the reader's
            return
        low, high = self.parameter.limits
        value = round(value) if self.parameter.kind == "int" else float(f"{value:.3g}")
        self._field.value = format_value(min(max(value, low), high))

    def _take(self, value: Any) -> None:
        self.complain()
        if value != self.value:
            self.value = value
            self._changed()


def _slider(parameter: Parameter) -> widgets.Widget:
    low, high = parameter.limits
    common = {"readout": False, "continuous_update": False, "layout": {"width": "16em"}}
    if parameter.log:
        limits = {"min": math.log10(low), "max": math.log10(high)}
        return widgets.FloatLogSlider(
            parameter.default, step=0.25 if high / low > 30 else 0.05, **limits, **common
        )
    if parameter.kind == "int":
        return widgets.IntSlider(parameter.default, min=low, max=high, **common)
    return widgets.FloatSlider(
        parameter.default, min=low, max=high, step=(high - low) / 100, **common
    )


def words_of(line: widgets.HTML) -> str:
    """What is said in a line of one element."""
    return html.unescape(line.value.split(">", 1)[-1].rsplit("<", 1)[0])
