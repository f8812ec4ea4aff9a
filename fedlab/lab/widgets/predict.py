"""Predict first: the reader draws the curve that they expect, and sees how far it was off."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets as widgets

from fedlab.lab.course.parameters import Parameter
from fedlab.lab.widgets.controls import WIDE, Row, button, words_of


class Prediction(NamedTuple):
    """What the reader is asked to expect: ``quantity``, as ``tell`` names it, from ``low`` to ``high``, when ``along`` is
    at each of ``at``; at the end, where there is none.
    """

    quantity: str
    low: float
    high: float
    along: str = ""
    at: tuple[float, ...] = ()
    log: bool = False


class PredictionControls:
    """The controls of a guess.  ``asked`` is whether the reader wants to guess; ``expected`` are the points of the curve."""

    def __init__(
        self,
        guess: Prediction,
        changed: Callable[[], None],
        train: Callable[[], None],
        turned: Callable[[], None],
    ):
        self._guess = guess
        middle = (guess.low * guess.high) ** 0.5 if guess.log else (guess.low + guess.high) / 2
        told = Parameter(
            "", "float", float(f"{middle:.3g}"), limits=(guess.low, guess.high), log=guess.log
        )
        names = [f"{guess.quantity} at {x:g}" for x in guess.at] or [guess.quantity]
        helps = [f"what you expect at {guess.along} {x:g}" for x in guess.at] or ["what you expect"]
        both = zip(names, helps, strict=True)
        self._rows = [Row(told._replace(name=name, comment=words), changed) for name, words in both]
        self._gap = widgets.HTML()
        self.train = button("Train", "train, and see how far you were off", train)
        words = "say what you expect before anything is trained"
        self.toggle = widgets.ToggleButton(description="Predict first", tooltip=words, layout=WIDE)
        inside = [*(row.widget for row in self._rows), widgets.HBox([self.train, self._gap])]
        self.widget = widgets.VBox(
            inside, layout={"display": "none", "border_left": "3px solid #999999"}
        )
        self.toggle.observe(lambda _: self._turn(turned), "value")

    def _turn(self, turned: Callable[[], None]) -> None:
        self.widget.layout.display = "" if self.asked else "none"
        self._gap.value = ""
        turned()

    @property
    def asked(self) -> bool:
        return self.toggle.value

    @property
    def refused(self) -> str:
        """The complaint about the first point that holds no number; nothing where all do, or nobody is asked."""
        return next((row.complaint for row in self._rows if self.asked and not row.is_read), "")

    @property
    def expected(self) -> dict[float, float]:
        """What is expected, by where along the curve."""
        return (
            {x: row.value for x, row in zip(self._guess.at, self._rows, strict=False)}
            if self.asked
            else {}
        )

    @property
    def gap(self) -> str:
        """How far off the guess was, in words."""
        return words_of(self._gap)

    def compare(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Say how far off the guess was for a run of which all this was told."""
        if not self.asked:
            return
        quantity, along = self._guess.quantity, self._guess.along
        by_x = {row[along]: row[quantity] for row in told} if along else {}
        found = [by_x.get(x) for x in self._guess.at] or [told[-1][quantity]]
        pairs = [
            (row.value, value)
            for row, value in zip(self._rows, found, strict=True)
            if value is not None
        ]
        if not pairs:
            words = "the run ended before any of your points"
        else:
            off = sum(guess - value for guess, value in pairs) / len(pairs)
            distance = sum(abs(guess - value) for guess, value in pairs) / len(pairs)
            side = "" if abs(off) < distance / 2 else ", too high" if off > 0 else ", too low"
            each = ", ".join(f"{guess:.3g} where it is {value:.3g}" for guess, value in pairs)
            words = f"You expected {each}: {distance:.2g} off on average{side}."
        self._gap.value = f'<span role="status">{html.escape(words)}</span>'
