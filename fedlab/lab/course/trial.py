"""Checks of exercises: try an answer, and say in one line what is wrong with it."""

from __future__ import annotations

import dataclasses
import html
import importlib
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch

from fedlab.lab.course.answer import Answer
from fedlab.lab.course.isolate import FindMistake, judge
from fedlab.lab.report.validate import CHECK

_SIGNS = {
    "right": "\N{CHECK MARK}",
    "wrong": "\N{BALLOT X}",
    "not done": "\N{BLACK RIGHT-POINTING TRIANGLE}",
}


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The result of a check; as the last line of a cell it shows itself.

    Attributes:
        exercise: Name of the exercise.
        state: ``right``, ``wrong`` or ``not done``.
        words: One line for the learner.

    Example:
        >>> print(CheckResult("server_step", "right", "Right."))
        ✓ Right.
    """

    exercise: str
    state: str
    words: str

    def __str__(self) -> str:
        return f"{_SIGNS[self.state]} {self.words}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        page = f'<p class="fedlab-check" role="status">{html.escape(str(self))}</p>'
        return {CHECK: vars(self), "text/plain": str(self), "text/html": page}


def check(
    *uses: str, loads: Sequence[str] = ()
) -> Callable[[FindMistake], Callable[[Any], CheckResult]]:
    """Make a check of a function that returns the mistake in an answer, or nothing.

    Args:
        uses: Modules and functions of the package that an answer may call.
        loads: Modules to load first: each process of a check would load them anew.

    Returns:
        A decorator. The check takes any answer and always returns a ``CheckResult``, within about
        ``isolate.LIMIT`` seconds.

    Example:
        >>> @check()
        ... def double(answer):
        ...     return "" if answer(3) == 6 else "that is not twice the number"
        >>> print(double(lambda number: number**2))
        ✗ Not yet: that is not twice the number.
    """

    def decorate(find_mistake: FindMistake) -> Callable[[Any], CheckResult]:
        @wraps(find_mistake)
        def checked(answer: Any) -> CheckResult:
            for module in loads:
                importlib.import_module(module)
            # Asking fixes the number of this thread: else PyTorch would give it the trial's.
            torch.get_num_threads()
            state, words = judge(find_mistake, Answer(answer, uses))
            if state == "wrong":
                words = f"Not yet: {words}{'' if words.endswith(('.', '?', '!')) else '.'}"
            return CheckResult(find_mistake.__name__, state, words)

        return checked

    return decorate
