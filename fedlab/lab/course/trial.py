"""Try an answer to an exercise on several cases, and say in one line what is wrong with it.

An answer is untrusted: it may never end, end the program, change its inputs, or give anything at all.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import ctypes
import dataclasses
import html
import importlib
import inspect
import linecache
import multiprocessing
import numbers
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial, wraps
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from numpy import (  # bound here: an answer may replace those of the modules
    allclose,
    array_equal,
    asarray,
)
from torch import equal

from fedlab.lab.report.validate import CHECK

LIMIT = 10.0  # seconds that an answer may take, over all cases of a check

KILL = (
    30.0  # seconds until a process is ended that cannot even be asked how long its answer has taken
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # an answer may compute in float32

MEMORY = 4 << 30  # bytes that an answer may take in a process of its own

PRINTS = 10_000  # characters shown of the prints of a check, and as many of its errors

SHORT = 8  # arrays of more numbers are told by their shape

LONG = 200  # characters of a piece of a verdict that an answer brought, such as its error

_SIGNS = {
    "right": "\N{CHECK MARK}",
    "wrong": "\N{BALLOT X}",
    "not done": "\N{BLACK RIGHT-POINTING TRIANGLE}",
}


class Wrong(Exception):  # noqa: N818
    """A mistake in an answer, in words; ``error`` is what the answer raised, if that is the mistake."""

    def __init__(self, words: str, error: BaseException | None = None):
        super().__init__(words)
        self.error = error


class NotDone(Exception):  # noqa: N818
    """The answer is still the stub."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check found; as a cell's last line it shows itself."""

    exercise: str
    state: str  # right, wrong, or not done
    words: str

    def __str__(self) -> str:
        return f"{_SIGNS[self.state]} {self.words}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        page = f'<p class="fedlab-check" role="status">{html.escape(str(self))}</p>'
        return {CHECK: vars(self), "text/plain": str(self), "text/html": page}


class Answer:
    """A learner's function, watched while it runs.

    A call raises ``Wrong`` if the function raises anything, gives nothing, or calls the package.
    ``uses`` names the modules and functions of the package that it may call.
    """

    def __init__(self, function: Callable, uses: tuple[str, ...] = ()):
        self._function, self._uses = function, (*uses, f"{__name__}._Brief")  # which a print calls
        self._spent, self._began = 0.0, None
        self.lift_limit: Callable[[], None] = lambda: (
            None
        )  # where memory has a limit: the verdict takes some, too
        plain = inspect.unwrap(function.func if isinstance(function, partial) else function)
        method = plain if hasattr(plain, "__globals__") else vars(type(plain)).get("__call__")
        self._globals = getattr(
            method, "__globals__", None
        )  # those of the notebook: by them its lines are known

    def __call__(self, *arguments: Any) -> Any:
        self._check_signature(arguments)
        value = self.run(self._function, *arguments)
        if value is None:
            raise Wrong("your function returns nothing: did you forget `return`?")
        return value

    def numbers(self, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return a result as ``numbers_of`` does: a result may have code of its own, which is watched like a call."""
        return self.run(numbers_of, value, shape)

    def run(self, function: Callable, *arguments: Any) -> Any:
        """Call a function that runs code of the learner's: it takes of the answer's time, and an error is the answer's."""
        calls: list[str] = []
        process = os.getpid()
        self._began = time.perf_counter()
        sys.setprofile(partial(self._note, calls))
        try:
            value = function(*arguments)
        except Wrong:
            raise
        except BaseException as error:
            self.lift_limit()
            sys.setprofile(None)
            if isinstance(error, NotImplementedError) and not error.args:  # PyTorch's has words
                raise NotDone from None
            line = self.line(traceback.walk_tb(error.__traceback__))
            raised = (
                "it raises" if line or function is self._function else "reading its result raises"
            )
            raise Wrong(f"{raised} {_error_in_words(error)}{line}", error) from None
        finally:
            sys.setprofile(None)
            if (
                os.getpid() != process
            ):  # the answer called os.fork(): its copy would judge, too, and has no main thread
                os._exit(0)
            self._spent, self._began = self.seconds, None
        if calls:
            raise Wrong(f"it calls `{calls[0]}` of the package: write it yourself")
        return value

    @property
    def seconds(self) -> float:
        """What all calls have taken until now."""
        began = self._began
        return self._spent + (time.perf_counter() - began if began else 0.0)

    def _check_signature(self, arguments: tuple) -> None:
        if not callable(self._function):
            raise Wrong(
                f"{cut(_told(self._function))} is no function: give the function itself, without calling it"
            )
        try:
            signature = inspect.signature(self._function)
        except (TypeError, ValueError):  # of some functions in C nothing is known
            return
        try:
            signature.bind(*arguments)
        except TypeError as error:
            count = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
            raise Wrong(
                f"it is called with {count} and takes {cut(signature)} ({cut(error)})"
            ) from None

    def _note(self, calls: list[str], frame: FrameType, event: str, _: Any) -> None:
        """Note a call of the package from a line of the learner's own."""
        if event != "call" or frame.f_back is None or frame.f_back.f_globals is not self._globals:
            return
        made = frame.f_code.co_name == "__init__"  # a data class's has no name of its own
        name = type(frame.f_locals["self"]).__qualname__ if made else frame.f_code.co_qualname
        name = f"{frame.f_globals.get('__name__')}.{name}"
        if name.startswith("fedlab.") and not name.startswith(self._uses):
            calls.append(name)

    def line(self, frames: Iterable[tuple[FrameType, int]]) -> str:
        """The last of the frames that is the learner's own, in words."""
        places = [
            (frame.f_code, line)
            for frame, line in frames
            if line and frame.f_globals is self._globals
        ]
        if not places or self._globals is None:
            return ""
        code, line = places[-1]
        text = linecache.getline(code.co_filename, line).strip()
        return f" (line {line}, in {code.co_name}{f': `{cut(text)}`' if text else ''})"


def cut(piece: Any) -> str:
    """Return the first ``LONG`` characters of what is to stand in a verdict."""
    text = str(piece)
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def _error_in_words(error: BaseException) -> str:
    """Return the kind of an error and its message, which an error of the learner's may fail to give."""
    try:
        words = " ".join(str(error)[: 2 * LONG].split())
    except BaseException:
        words = ""
    return f"{cut(type(error).__name__)}{words and ': '}{cut(words)}"


def check(
    *uses: str, loads: Sequence[str] = ()
) -> Callable[[Callable[[Answer], str]], Callable[[Any], Verdict]]:
    """Make a check of a function that says what is wrong with an answer, or nothing.

    Args:
        uses: Modules and functions of the package that an answer may call.
        loads: Modules to load first: each process of a check would load them anew.

    Returns:
        A decorator.  The check takes any answer and always returns a ``Verdict``, within about ``LIMIT``.

    """

    def decorate(judge: Callable[[Answer], str]) -> Callable[[Any], Verdict]:
        @wraps(judge)
        def checked(answer: Any) -> Verdict:
            for module in loads:
                importlib.import_module(module)
            torch.get_num_threads()  # fixes the count of this thread, which else would get that of the trial's
            tried = Answer(answer, uses)
            state, words = (_in_a_process if _can_fork() else _in_a_thread)(judge, tried)
            if state == "wrong":
                words = f"Not yet: {words}{'' if words.endswith(('.', '?', '!')) else '.'}"
            return Verdict(judge.__name__, state, words)

        return checked

    return decorate


def _can_fork() -> bool:
    """Whether a copy of this process can compute: where PyTorch has seen a GPU, its copy has no gradients."""
    return sys.platform == "linux" and not torch.cuda.is_available()


def _in_a_process(judge: Callable[[Answer], str], answer: Answer) -> tuple[str, str]:
    """Judge in a copy of this process: what ends it, or never comes back from C, leaves this one alone."""
    context = multiprocessing.get_context("fork")
    verdict, sender = context.Pipe(duplex=False)
    process = os.getpid()

    def end_with_parent() -> None:
        nonlocal process
        parent, process = process, os.getpid()
        ctypes.pythonapi.prctl(
            1, signal.SIGKILL
        )  # 1, PR_SET_PDEATHSIG: Linux kills it, however its parent ends
        if os.getppid() != parent:  # which has ended before
            os._exit(1)

    def judge_alone() -> None:
        end_with_parent()
        os.register_at_fork(
            after_in_child=end_with_parent
        )  # so do the processes that an answer starts
        multiprocessing.current_process().daemon = (
            False  # for this process itself: a daemon may start no others
        )
        answer.lift_limit = _limit_memory()
        outcome = _in_a_thread(judge, answer, _is_at_limit)
        answer.lift_limit()
        sys.stdout.flush()  # before the verdict: then this process is killed
        sys.stderr.flush()
        sender.send(outcome)

    work = context.Process(target=judge_alone, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # threads and fork: one thread computes, so none is waited for
        work.start()
    sender.close()
    try:
        if verdict.poll(KILL):
            return verdict.recv()
        return (
            "wrong",
            f"it does not end: {KILL:g} s were not enough, and one call in it cannot be interrupted",
        )
    except EOFError:
        work.join()
        return (
            "wrong",
            f"it ends the whole program (exit code {work.exitcode}): let it return its result",
        )
    finally:
        work.kill()
        work.join()
        verdict.close()


def _limit_memory() -> Callable[[], None]:
    """Let this process take ``MEMORY`` bytes more, and return a function that ends the limit.

    The limit holds for data and not for addresses: PyTorch reserves many addresses that it never writes to.
    """
    import resource  # Linux has it

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = psutil.Process().memory_info().data + MEMORY
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return partial(resource.setrlimit, resource.RLIMIT_DATA, (soft, hard))


def _is_at_limit() -> bool:
    """Return whether this process has less than 1 MB left of the memory that it may take."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        return (
            limit != resource.RLIM_INFINITY and psutil.Process().memory_info().data > limit - 2**20
        )
    except MemoryError:
        return True


class _Brief:
    """A stream of which the first ``PRINTS`` characters are shown."""

    def __init__(self, stream: Any):
        self._stream, self._room = stream, PRINTS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._room >= 0:
            self._stream.write(text[: self._room])
        if 0 <= self._room < len(text):
            self._stream.write(
                f"…\nThe rest is not shown: a check shows {PRINTS:,} characters of what an answer prints.\n"
            )
        self._room -= len(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


def _in_a_thread(
    judge: Callable[[Answer], str], answer: Answer, is_at_limit: Callable[[], bool] = lambda: False
) -> tuple[str, str]:
    """Judge in a thread of its own, which is given up when the answer has taken ``LIMIT`` seconds."""
    _settle()
    verdicts: list[tuple[str, str]] = []

    def work() -> None:
        torch.set_num_threads(
            1
        )  # in a copy of a process PyTorch would wait for threads that were not copied
        verdicts.append(_judged(judge, answer))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    with (
        contextlib.redirect_stdout(_Brief(sys.stdout)),
        contextlib.redirect_stderr(_Brief(sys.stderr)),
    ):
        thread.start()
        try:
            while thread.is_alive() and answer.seconds < LIMIT:
                thread.join(0.1)
                if is_at_limit():  # small objects still find holes in the heap, after five failed system calls each
                    _send(thread.ident, MemoryError)
            frame = sys._current_frames().get(thread.ident)
        finally:
            if thread.is_alive():  # it took too long, or the reader has interrupted this cell
                _send(thread.ident, SystemExit)
                _settle()
    if verdicts:
        return verdicts[0]
    line = answer.line(reversed(list(traceback.walk_stack(frame)))) if frame else ""
    return "wrong", f"it does not end: {LIMIT:g} s were not enough{line}"


class _Settled(BaseException):
    """Sent by a thread to itself."""


def _send(thread: int, kind: type[BaseException]) -> None:
    """Let a thread raise an exception when it next runs."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _settle() -> None:
    """Clear the interpreter's note that an exception is under way to some thread.

    A thread that sleeps, or that a fork has left behind, does not clear it.  In Python 3.11 every function that is profiled
    then spins at its entry for ever.  A thread clears the note when it takes an exception of its own; what is under way
    still arrives.
    """
    try:
        _send(threading.get_ident(), _Settled)
        while True:
            pass
    except _Settled:
        pass


def _judged(judge: Callable[[Answer], str], answer: Answer) -> tuple[str, str]:
    try:
        words = judge(answer)
    except NotDone:
        return "not done", "Not done yet. Replace `raise NotImplementedError` by your answer."
    except Wrong as wrong:
        words = str(wrong)
    except Exception as error:
        words = f"its result cannot be read ({_error_in_words(error)})"
    return ("wrong", words) if words else ("right", "Right.")


# -- Comparing
def compare(
    answer: Answer,
    right: Callable,
    cases: Iterable[Mapping[str, Any]],
    slips: Mapping[str, Callable] | None = None,
    *,
    exact: bool = False,
    differs: Callable[[np.ndarray, np.ndarray], str] | None = None,
    part: Callable[[Any], Any] = lambda result: result,
) -> str:
    """Return what is wrong with an answer, or nothing.

    Args:
        answer: The learner's function.
        right: The right function.
        cases: The arguments of each call, by name and in order.
        slips: Wrong functions of the same arguments, by the words that name their mistake.
        exact: Whether results are counts, in which no digit may differ.
        differs: Says of a wrong and a right result how they differ, if not by their values.
        part: Takes of the answer's result the part that is compared; all of it if left out.

    Returns:
        The words of the first slip that gives the answer's result in every case, or a case in which it is wrong.

    """
    cases = list(cases)
    rights, values = [], []
    for case in cases:
        rights.append(numbers_of(right(*copy.deepcopy(list(case.values())))))
        arguments = copy.deepcopy(dict(case))
        values.append(
            answer.numbers(answer.run(part, answer(*arguments.values())), rights[-1].shape)
        )
        for name, value in arguments.items():
            if not _same(value, case[name]):
                raise Wrong(
                    f"it changes its argument `{name}`, which others still need: compute a new one"
                )
    close = partial(allclose, rtol=1e-9, atol=0) if exact else partial(allclose, **CLOSE)
    bad = [
        k
        for k, (value, wanted) in enumerate(zip(values, rights, strict=True))
        if not close(value, wanted)
    ]
    if not bad:
        return ""
    with np.errstate(all="ignore"):
        for words, slip in (slips or {}).items():
            results = (numbers_of(slip(*copy.deepcopy(list(case.values())))) for case in cases)
            if all(
                v.shape == w.shape and close(v, w, equal_nan=True)
                for v, w in zip(values, results, strict=True)
            ):
                return words
    value, wanted, case = values[bad[0]], rights[bad[0]], cases[bad[0]]
    if differs:
        return differs(value, wanted)
    setting = ", ".join(f"{name}={_told(given)}" for name, given in case.items())
    if value.size > SHORT:
        return f"for {setting} its largest difference from what is asked for is {np.abs(value - wanted).max():.3g}"
    return f"for {setting} it gives {_told(value, exact)}, and {_told(wanted, exact)} is asked for"


def numbers_of(value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a result as an array of floats; raise ``Wrong`` if it is no numbers, or of another shape."""
    asked = (
        "numbers are" if shape is None else f"an array {list(shape)} is" if shape else "a number is"
    )
    if isinstance(value, str):
        remedy = ": leave the quotes out" if _is_number(value) else ""
        raise Wrong(f"it gives the text {cut(repr(value))}, and {asked} asked for{remedy}")
    try:
        if (
            isinstance(value, list | tuple)
            and value
            and all(isinstance(part, torch.Tensor) for part in value)
        ):
            value = torch.stack(list(value))
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().to_dense()
            value = value.double() if value.is_floating_point() else value  # NumPy has no bfloat16
        array = asarray(value)
        if isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool):
            array = asarray(float(value))
    except (TypeError, ValueError, RuntimeError):
        array = asarray(None)
    if array.dtype.kind not in "iuf":
        kind = f"a result of type {cut(type(value).__name__)}"
        kind += " that is not all numbers, in rows of one length" * isinstance(
            value, list | tuple | np.ndarray
        )
        kind = {"b": "truth values", "c": "complex numbers"}.get(array.dtype.kind, kind)
        raise Wrong(f"it gives {kind}, and {asked} asked for")
    if shape is not None and array.shape != shape:
        size = f"an array of shape {list(array.shape)}" if array.shape else "a single number"
        raise Wrong(f"it gives {size}, and {asked} asked for")
    return array.astype(float)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _same(a: Any, b: Any) -> bool:
    """Whether an argument is still what it was."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and equal(a, b)
    if isinstance(a, np.ndarray):
        return array_equal(a, b)
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if dataclasses.is_dataclass(a):
        return all(
            _same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)
        )
    return not isinstance(a, int | float) or a == b


def _told(value: Any, exact: bool = False) -> str:
    """A value in a few words."""
    if isinstance(value, float | int | np.number) or (
        isinstance(value, np.ndarray) and value.ndim == 0
    ):
        number = float(value) + 0.0  # not -0
        return (
            f"{number:,.10g}"
            if exact or number == int(number if np.isfinite(number) else 0)
            else f"{number:.4g}"
        )
    if isinstance(value, np.ndarray | torch.Tensor):
        array = asarray(value)
        return str(list(array.shape)) if array.size > SHORT else _told(array.tolist(), exact)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_told(part, exact) for part in value) + "]"
    return f"({type(value).__name__})"
