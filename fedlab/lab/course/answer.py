"""A learner's function, watched while it runs.

An answer is untrusted: it may never end, end the program, change its inputs, or return anything
at all.
"""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Any

import numpy as np

from fedlab.lab.course.results import WrongAnswer, numbers_of, shorten, value_in_words

PRINTS = 10_000  # characters shown of the prints of a check, and as many of its errors


class NotDone(Exception):  # noqa: N818
    """The answer is still the stub."""


class Answer:
    """A learner's function, watched while it runs.

    A call raises ``WrongAnswer`` if the function raises anything, returns nothing, or calls the
    package.

    Args:
        function: The learner's function; anything else becomes a ``WrongAnswer`` when it is called.
        uses: Modules and functions of the package that the answer may call.

    Attributes:
        lift_limit: Function that ends the limit of memory, if there is one. It is called before an
            error is put in words, because words take memory, too.

    Example:
        >>> Answer(lambda a, b: a + b)(1, 2)
        3
    """

    def __init__(self, function: Callable, uses: tuple[str, ...] = ()):
        self._function = function
        self._uses = (*uses, f"{__name__}.ShortStream")  # a print calls it
        self._spent, self._began = 0.0, None
        self.lift_limit: Callable[[], None] = lambda: None
        plain = inspect.unwrap(function.func if isinstance(function, partial) else function)
        method = plain if hasattr(plain, "__globals__") else vars(type(plain)).get("__call__")
        # The learner's lines are known by the globals of the notebook.
        self._globals = getattr(method, "__globals__", None)

    def __call__(self, *arguments: Any) -> Any:
        self._check_signature(arguments)
        value = self.run(self._function, *arguments)
        if value is None:
            raise WrongAnswer("your function returns nothing: did you forget `return`?")
        return value

    def numbers(self, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return a result as an array, watched like a call because a result may run code.

        Args:
            value: What the learner's function returned.
            shape: The shape that is asked for, if any.
        """
        return self.run(numbers_of, value, shape)

    def run(self, function: Callable, *arguments: Any) -> Any:
        """Call a function that runs code of the learner, and count its seconds.

        Args:
            function: The learner's function, or one that reads its result.
            arguments: Its arguments.

        Raises:
            WrongAnswer: If the code raises anything or calls the package.
            NotDone: If the code raises NotImplementedError without words, as a stub does.
        """
        calls: list[str] = []
        process = os.getpid()
        self._began = time.perf_counter()
        sys.setprofile(partial(self._note, calls))
        try:
            value = function(*arguments)
        except WrongAnswer:
            raise
        except BaseException as error:
            self.lift_limit()
            sys.setprofile(None)
            # NotImplementedError raised by PyTorch has words.
            if isinstance(error, NotImplementedError) and not error.args:
                raise NotDone from None
            raise self._wrong(error, function) from None
        finally:
            sys.setprofile(None)
            # The answer called os.fork(): its copy has no main thread, and would judge, too.
            if os.getpid() != process:
                os._exit(0)
            self._spent, self._began = self.seconds, None
        if calls:
            raise WrongAnswer(f"it calls `{calls[0]}` of the package: write it yourself")
        return value

    def _wrong(self, error: BaseException, function: Callable) -> WrongAnswer:
        line = self.line(traceback.walk_tb(error.__traceback__))
        raised = "it raises" if line or function is self._function else "reading its result raises"
        return WrongAnswer(f"{raised} {error_in_words(error)}{line}", error)

    @property
    def seconds(self) -> float:
        """The seconds that all calls have taken so far."""
        began = self._began
        return self._spent + (time.perf_counter() - began if began else 0.0)

    def _check_signature(self, arguments: tuple) -> None:
        if not callable(self._function):
            value = shorten(value_in_words(self._function))
            raise WrongAnswer(
                f"{value} is no function: give the function itself, without calling it"
            )
        try:
            signature = inspect.signature(self._function)
        except (TypeError, ValueError):  # some functions in C have no signature
            return
        try:
            signature.bind(*arguments)
        except TypeError as error:
            count = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
            raise WrongAnswer(
                f"it is called with {count} and takes {shorten(signature)} ({shorten(error)})"
            ) from None

    def _note(self, calls: list[str], frame: FrameType, event: str, _: Any) -> None:
        """Note a call of the package that a line of the learner makes."""
        if event != "call" or frame.f_back is None or frame.f_back.f_globals is not self._globals:
            return
        # The __init__ of a dataclass has no qualified name.
        is_init = frame.f_code.co_name == "__init__"
        name = type(frame.f_locals["self"]).__qualname__ if is_init else frame.f_code.co_qualname
        name = f"{frame.f_globals.get('__name__')}.{name}"
        if name.startswith("fedlab.") and not name.startswith(self._uses):
            calls.append(name)

    def line(self, frames: Iterable[tuple[FrameType, int]]) -> str:
        """Return the last line of the learner among the frames, in words.

        Args:
            frames: Pairs of a frame and a line number, outermost first.
        """
        places = [
            (frame.f_code, line)
            for frame, line in frames
            if line and frame.f_globals is self._globals
        ]
        if not places or self._globals is None:
            return ""
        code, line = places[-1]
        text = linecache.getline(code.co_filename, line).strip()
        return f" (line {line}, in {code.co_name}{f': `{shorten(text)}`' if text else ''})"


def error_in_words(error: BaseException) -> str:
    """Return the kind of an error and its message.

    Args:
        error: An error of the learner, whose message may raise when it is read.
    """
    try:
        words = " ".join(str(error)[:400].split())
    except BaseException:
        words = ""
    return f"{shorten(type(error).__name__)}{words and ': '}{shorten(words)}"


class ShortStream:
    """A stream of which the first ``PRINTS`` characters are shown."""

    def __init__(self, stream: Any):
        self._stream, self._room = stream, PRINTS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the characters that still fit; say once that the rest is not shown."""
        if self._room >= 0:
            self._stream.write(text[: self._room])
        if 0 <= self._room < len(text):
            self._stream.write(
                f"…\nThe rest is not shown: a check shows {PRINTS:,} characters of what an answer "
                "prints.\n"
            )
        self._room -= len(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write line by line."""
        for line in lines:
            self.write(line)
