"""Predict first: readers say what they expect, and then see how far they were off."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets as widgets

from fedlab.lab.course.parameters import Parameter
from fedlab.lab.widgets.controls import FITTING, ControlRow, button, text_of


class Prediction(NamedTuple):
    """A question to the reader of a panel: the value of a quantity, before anything is trained.

    Attributes:
        quantity: Name of the number, as the panel's ``tell`` names it.
        low: Lowest value that can be expected.
        high: Highest value that can be expected.
        along: Name of the number along the curve, such as ``round``.
        at: Values of ``along`` at which the quantity is asked for. Default: only at the end.
        log: Equal steps of the slider are equal factors.

    Example:
        >>> question = Prediction("accuracy", 0.0, 1.0, along="round", at=(10, 50, 100))
        >>> question.at
        (10, 50, 100)
    """

    quantity: str
    low: float
    high: float
    along: str = ""
    at: tuple[float, ...] = ()
    log: bool = False


class PredictionControls:
    """The controls of a prediction.

    Args:
        prediction: The question.
        changed: Called after each new expected value.
        train: Called when the reader presses Train.
        toggled: Called when the reader begins to predict, or stops.

    Attributes:
        widget: One row per point, and the button Train; shown while the reader predicts.
        toggle: The button "Predict first".
        train: The button "Train".
    """

    def __init__(
        self,
        prediction: Prediction,
        changed: Callable[[], None],
        train: Callable[[], None],
        toggled: Callable[[], None],
    ):
        self._prediction = prediction
        self._rows = [ControlRow(parameter, changed) for parameter in _parameters(prediction)]
        self._gap = widgets.HTML()
        self.train = button("Train", "train, and see how far you were off", train)
        self.toggle = widgets.ToggleButton(
            description="Predict first",
            tooltip="say what you expect before anything is trained",
            layout=FITTING,
        )
        rows = [*(row.widget for row in self._rows), widgets.HBox([self.train, self._gap])]
        layout = {"display": "none", "border_left": "3px solid #999999"}
        self.widget = widgets.VBox(rows, layout=layout)
        self.toggle.observe(lambda _: self._toggle(toggled), "value")

    def _toggle(self, toggled: Callable[[], None]) -> None:
        self.widget.layout.display = "" if self.asked else "none"
        self._gap.value = ""
        toggled()

    @property
    def asked(self) -> bool:
        """True while the reader wants to predict."""
        return self.toggle.value

    @property
    def refused(self) -> str:
        """The complaint about the first point without a number; empty if there is none."""
        return next((row.complaint for row in self._rows if self.asked and not row.is_read), "")

    @property
    def expected(self) -> dict[float, float]:
        """The expected values, by their place along the curve."""
        if not self.asked:
            return {}
        return {x: row.value for x, row in zip(self._prediction.at, self._rows, strict=False)}

    @property
    def gap(self) -> str:
        """The distance between prediction and result, in words."""
        return text_of(self._gap)

    def compare(self, readouts: Sequence[Mapping[str, Any]]) -> None:
        """Say how far the prediction was off.

        Args:
            readouts: The numbers that the panel's ``tell`` gave of each frame of the run.
        """
        if not self.asked:
            return
        quantity, along = self._prediction.quantity, self._prediction.along
        by_x = {row[along]: row[quantity] for row in readouts} if along else {}
        values = [by_x.get(x) for x in self._prediction.at] or [readouts[-1][quantity]]
        pairs = [
            (row.value, value)
            for row, value in zip(self._rows, values, strict=True)
            if value is not None
        ]
        self._gap.value = f'<span role="status">{html.escape(gap_in_words(pairs))}</span>'


def _parameters(prediction: Prediction) -> list[Parameter]:
    """Return one parameter per point of a prediction."""
    low, high = prediction.low, prediction.high
    middle = (low * high) ** 0.5 if prediction.log else (low + high) / 2
    default = float(f"{middle:.3g}")
    points = [
        (f"{prediction.quantity} at {x:g}", f"what you expect at {prediction.along} {x:g}")
        for x in prediction.at
    ]
    return [
        Parameter(name, "float", default, limits=(low, high), comment=words, log=prediction.log)
        for name, words in points or [(prediction.quantity, "what you expect")]
    ]


def gap_in_words(pairs: Sequence[tuple[float, float]]) -> str:
    """Say how far expected values were from the results.

    Args:
        pairs: An expected value and the result, for each point that the run reached.

    Example:
        >>> gap_in_words([(0.5, 0.8), (0.9, 0.95)])
        'You expected 0.5 where it is 0.8, 0.9 where it is 0.95: 0.17 off on average, too low.'
    """
    if not pairs:
        return "the run ended before any of your points"
    bias = sum(expected - value for expected, value in pairs) / len(pairs)
    distance = sum(abs(expected - value) for expected, value in pairs) / len(pairs)
    side = "" if abs(bias) < distance / 2 else ", too high" if bias > 0 else ", too low"
    points = ", ".join(f"{expected:.3g} where it is {value:.3g}" for expected, value in pairs)
    return f"You expected {points}: {distance:.2g} off on average{side}."
