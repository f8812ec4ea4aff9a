"""Check that a user's functions return the same result when they are called again.

A run could not be repeated, or resumed, if a function drew from a global random generator.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from fedlab.core.module_state import equal, same_outputs

_PASSED: WeakSet[Any] = WeakSet()  # functions, and the objects of bound methods


class Unrepeatable(ValueError):  # noqa: N818 - describes the function
    """A user's function returned another result when it was called again."""


def is_ours(function: Callable) -> bool:
    """Return whether a function belongs to this package, which draws from no global generator."""
    module = str(getattr(getattr(function, "func", function), "__module__", ""))
    return module.partition(".")[0] == "fedlab"


def check_repeatable(
    name: str,
    function: Callable,
    result: Any,
    again: Callable[[], Any],
    arrays: Callable[[Any], Iterable[Any]],
) -> None:
    """Call a user's function of the seed a second time, and compare the results.

    A function that has passed is not called again.

    Args:
        name: Name of the function's argument, for the error.
        function: The user's function.
        result: Its first result.
        again: Calls it again with the same seed.
        arrays: Returns the arrays and tensors of a result.

    Raises:
        Unrepeatable: If the second result differs from the first.
    """
    if _is_known(function):
        return
    first, second = list(arrays(result)), list(arrays(again()))
    if len(first) != len(second) or not all(map(_same_array, first, second)):
        raise Unrepeatable(
            f"{name} is a function that gives another result when it is called again with the same "
            "seed, so no run could be repeated. Try np.random.default_rng(seed), or a "
            "torch.Generator with that seed, for all that it draws"
        )
    _pass(function)


def call_repeatable(
    name: str,
    remedy: str,
    function: Callable,
    *arguments: Any,
    user_function: Callable | None = None,
    tensors: Callable[[Any], Any] = lambda result: result,
) -> Any:
    """Call a function, and return its result.

    A user's function that moves a global generator is called a second time, with copies of its
    arguments.  Other functions are called once, since they may record their arguments.

    Args:
        name: What the function is, for the error.
        remedy: What to try in place of a global generator.
        function: The function.
        arguments: Its arguments.
        user_function: The user's function that ``function`` calls, if it is another.
        tensors: Returns the tensors of a result that are compared.

    Raises:
        Unrepeatable: If the second result differs from the first.
    """
    user_function = user_function or function
    if _is_known(user_function):
        return function(*arguments)
    copies = None
    with suppress(Exception):  # some states cannot be copied
        copies = copy.deepcopy(arguments)
    before = _global_states()
    result = function(*arguments)
    if (
        copies is not None
        and _global_states() != before
        and not same_outputs(tensors(result), tensors(function(*copies)))
    ):
        raise Unrepeatable(
            f"{name} draws from a global generator and gives another result when it is called "
            f"again, so no run could be repeated. Try {remedy} for its random numbers"
        )
    _pass(user_function)
    return result


def _is_known(function: Callable) -> bool:
    with suppress(TypeError):  # some objects have no hash
        return is_ours(function) or getattr(function, "__self__", function) in _PASSED
    return False


def _pass(function: Callable) -> None:
    with suppress(TypeError):  # some objects have no hash, or allow no weak reference
        _PASSED.add(getattr(function, "__self__", function))


def _same_array(first: Any, second: Any) -> bool:
    return equal(first, second) if isinstance(first, Tensor) else np.array_equal(first, second)


def _global_states() -> tuple:
    """Return the states of Python's, NumPy's and PyTorch's global generators."""
    state: Any = np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return (
        random.getstate(),
        state[1].tobytes(),
        state[2],
        *(bytes(s.numpy()) for s in (torch.get_rng_state(), *devices)),
    )
