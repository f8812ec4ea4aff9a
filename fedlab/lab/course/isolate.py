"""Judge an answer in a process or a thread of its own, within limits of time and memory."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import psutil
import torch

from fedlab.lab.course.answer import Answer, NotDone, ShortStream, error_in_words
from fedlab.lab.course.results import WrongAnswer

LIMIT = 10.0  # seconds that an answer may take, over all cases of a check

KILL = 30.0  # seconds until a process is killed that does not even react to LIMIT

MEMORY = 4 << 30  # bytes that an answer may take in a process of its own

FindMistake = Callable[[Answer], str]  # returns the mistake in words, or nothing

Outcome = tuple[str, str]  # "right", "wrong" or "not done", and the words

_PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends


def judge(find_mistake: FindMistake, answer: Answer) -> Outcome:
    """Judge an answer in a process of its own where possible, else in a thread.

    Args:
        find_mistake: Tries the answer, and returns its mistake in words.
        answer: The learner's function.

    Returns:
        The state, ``right``, ``wrong`` or ``not done``, and the words.
    """
    return (in_process if can_fork() else in_thread)(find_mistake, answer)


def can_fork() -> bool:
    """Return whether a copy of this process can compute gradients.

    It cannot after PyTorch has seen a GPU.
    """
    return sys.platform == "linux" and not torch.cuda.is_available()


def in_process(find_mistake: FindMistake, answer: Answer) -> Outcome:
    """Judge in a copy of this process, which may end or hang without harm to this one.

    Args:
        find_mistake: Tries the answer, and returns its mistake in words.
        answer: The learner's function.
    """
    context = multiprocessing.get_context("fork")
    verdict, sender = context.Pipe(duplex=False)
    work = context.Process(
        target=_judge_alone, args=(find_mistake, answer, sender, os.getpid()), daemon=True
    )
    with warnings.catch_warnings():
        # Python warns of threads and fork. The copy computes in one thread, so it waits for none.
        warnings.simplefilter("ignore", DeprecationWarning)
        work.start()
    sender.close()
    try:
        if verdict.poll(KILL):
            return verdict.recv()
        return (
            "wrong",
            f"it does not end: {KILL:g} s were not enough, and one call in it cannot be "
            "interrupted",
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


def _judge_alone(
    find_mistake: FindMistake, answer: Answer, sender: Connection, parent: int
) -> None:
    """Judge in this copy of the process, and send the outcome to its parent."""
    process = parent

    def end_with_parent() -> None:
        nonlocal process
        parent, process = process, os.getpid()
        ctypes.pythonapi.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)

    end_with_parent()
    gc.freeze()  # collecting the parent's objects would write to each, and so copy its memory
    os.register_at_fork(after_in_child=end_with_parent)  # for processes that an answer starts
    # A daemon may start no processes, and an answer may.
    multiprocessing.current_process().daemon = False
    answer.lift_limit = _limit_memory()
    outcome = in_thread(find_mistake, answer, _is_at_limit)
    answer.lift_limit()
    sys.stdout.flush()  # before the outcome: then this process is killed
    sys.stderr.flush()
    sender.send(outcome)


def _limit_memory() -> Callable[[], None]:
    """Let this process take ``MEMORY`` bytes more, and return a function that ends the limit.

    The limit holds for data and not for addresses, because PyTorch reserves many addresses that
    it never uses.
    """
    import resource  # only Unix has it

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


def in_thread(
    find_mistake: FindMistake,
    answer: Answer,
    is_at_limit: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Judge in a thread, which is given up when the answer has taken ``LIMIT`` seconds.

    Args:
        find_mistake: Tries the answer, and returns its mistake in words.
        answer: The learner's function.
        is_at_limit: Returns whether the process has taken all memory that it may take.
    """
    clear_pending_exceptions()
    outcomes: list[Outcome] = []

    def work() -> None:
        # In a copy of a process PyTorch would wait for threads that were not copied.
        torch.set_num_threads(1)
        outcomes.append(_outcome(find_mistake, answer))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    with (
        contextlib.redirect_stdout(ShortStream(sys.stdout)),
        contextlib.redirect_stderr(ShortStream(sys.stderr)),
    ):
        thread.start()
        try:
            while thread.is_alive() and answer.seconds < LIMIT:
                thread.join(0.1)
                # At the limit, small objects still fit into holes of the heap, at five failed
                # system calls each: the answer would crawl on without an error.
                if is_at_limit():
                    send_exception(thread.ident, MemoryError)
            frame = sys._current_frames().get(thread.ident)
        finally:
            if thread.is_alive():  # it took too long, or the reader has interrupted this cell
                send_exception(thread.ident, SystemExit)
                clear_pending_exceptions()
    if outcomes:
        return outcomes[0]
    line = answer.line(reversed(list(traceback.walk_stack(frame)))) if frame else ""
    return "wrong", f"it does not end: {LIMIT:g} s were not enough{line}"


def _outcome(find_mistake: FindMistake, answer: Answer) -> Outcome:
    try:
        words = find_mistake(answer)
    except NotDone:
        return "not done", "Not done yet. Replace `raise NotImplementedError` by your answer."
    except WrongAnswer as wrong:
        words = str(wrong)
    except Exception as error:
        words = f"its result cannot be read ({error_in_words(error)})"
    return ("wrong", words) if words else ("right", "Right.")


class _Cleared(BaseException):
    """An exception that a thread sends to itself."""


def send_exception(thread: int, kind: type[BaseException]) -> None:
    """Let a thread raise an exception when it next runs.

    Args:
        thread: Identifier of the thread.
        kind: Class of the exception.
    """
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def clear_pending_exceptions() -> None:
    """Clear the interpreter's flag that an exception is pending for some thread.

    A thread that sleeps, or that a fork has left behind, does not clear it. In Python 3.11 every
    profiled function then spins forever at its entry. A thread clears the flag when it takes an
    exception of its own. Exceptions that are still pending arrive all the same.
    """
    try:
        send_exception(threading.get_ident(), _Cleared)
        while True:
            pass
    except _Cleared:
        pass
