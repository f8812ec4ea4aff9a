"""Functions of the user's give the same again: what they draw elsewhere could not be repeated, nor gone on with."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import numpy as np
import torch

from fedlab.modules import same_outputs

_PASSED: WeakSet[Any] = WeakSet()  # functions, and the objects of bound methods, that gave the same again


class Unrepeatable(ValueError):  # noqa: N818 - what the function is
    """A function of the user's gave something else when it was asked again."""


def is_ours(function: Callable) -> bool:
    """Return whether a function is this package's, which draws from no generator but those that it is given."""
    return str(getattr(getattr(function, "func", function), "__module__", "")).partition(".")[0] == "fedlab"


def check_once(function: Callable, check: Callable[[], None]) -> None:
    """Run a ``check`` of a function of the user's, unless it has passed one."""
    if not _is_known(function):
        check()
        _pass(function)


def ask(
    what: str,
    remedy: str,
    function: Callable,
    *given: Any,
    judged: Callable | None = None,
    seen: Callable[[Any], Any] = lambda made: made,
) -> Any:
    """Return what a function makes of what it is ``given``.

    Where it moves a global generator it is asked again, about copies: others may collect what they are called with.

    Args:
        what: Its name, for the error.
        remedy: What to try in place of its draws.
        function: What is called.
        given: Its arguments.
        judged: The user's function in it, if that is another one.
        seen: Takes the tensors to compare from what it made.

    Raises:
        Unrepeatable: If it gives something else when it is asked again.
    """
    judged = judged or function
    if _is_known(judged):
        return function(*given)
    copies = None
    with suppress(Exception):  # not everything can be copied
        copies = copy.deepcopy(given)
    before = _global_states()
    made = function(*given)
    if copies is not None and _global_states() != before and not same_outputs(seen(made), seen(function(*copies))):
        raise Unrepeatable(
            f"{what} draws from a global generator and gives something else when it is asked again, so no run could be "
            f"repeated. Try {remedy} for what it draws"
        )
    _pass(judged)
    return made


def _is_known(function: Callable) -> bool:
    with suppress(TypeError):  # some objects have no hash
        return is_ours(function) or getattr(function, "__self__", function) in _PASSED
    return False


def _pass(function: Callable) -> None:
    with suppress(TypeError):  # nor can all be referred to weakly
        _PASSED.add(getattr(function, "__self__", function))


def _global_states() -> tuple:
    """Return the states of Python's, NumPy's and PyTorch's global generators."""
    _, numbers, place, *_ = np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), numbers.tobytes(), place, *(bytes(s.numpy()) for s in (torch.get_rng_state(), *devices))
