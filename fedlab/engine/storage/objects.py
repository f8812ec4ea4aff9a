"""Descriptions of objects: by attributes for the user's classes, by state for a library's."""

from __future__ import annotations

import functools
import gc
import inspect
import re
import weakref
from collections import deque
from collections.abc import Callable, ItemsView, KeysView, ValuesView
from types import BuiltinMethodType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fedlab.engine.storage.checksums import describe_array
from fedlab.engine.storage.code import code_checksum, values_of_call
from fedlab.engine.storage.provenance import is_found_by_name, is_known, name_of

if TYPE_CHECKING:
    from fedlab.engine.storage.description import Describer

# Objects of libraries in one description, above which it is incomplete.
MAX_OBJECTS = 10_000

# Fields of transformers' configurations that change no output.
VOLATILE = frozenset(("name_or_path", "_name_or_path", "_commit_hash", "transformers_version"))

NUMBERS = int, float, complex, str, bytes, bytearray, Tensor, np.ndarray

_CONTAINERS = *NUMBERS, list, tuple, set, frozenset, dict, deque

_VIEWS = memoryview, weakref.ref, KeysView, ValuesView, ItemsView

# Attributes that a decorator copies from the decorated function.
_COPIED_BY_DECORATORS = frozenset(functools.WRAPPER_ASSIGNMENTS)


def describe_object(value: Any, describer: Describer) -> Any:
    """Describe an object that is no value, container, record, function, class or network."""
    kind = type(value)
    if isinstance(value, BuiltinMethodType) and not isinstance(
        value.__self__, ModuleType | type | None
    ):
        return {name_of(value): describer(value.__self__)}
    if not is_known(kind):
        return {name_of(kind): _describe_users_object(value, describer)}
    if isinstance(
        value, np.ufunc
    ):  # one that is made from a Python function has no name of its own
        sources = [part for part in gc.get_referents(value) if isinstance(part, FunctionType)]
        return {name_of(kind): describer(sources)} if sources else name_of(value)
    if isinstance(value, ModuleType) or inspect.isroutine(value) or is_found_by_name(value):
        return name_of(value)
    if isinstance(value, CodeType):
        return {name_of(kind): code_checksum(value)}
    if isinstance(value, _VIEWS):
        return {name_of(kind): describer(_viewed(value))}
    return _describe_library_object(value, describer)


def _describe_users_object(value: Any, describer: Describer) -> dict[str, Any]:
    """Describe an object by its class, its attributes and its items, if it is a container."""
    items = {"items": _items(value, describer)} if isinstance(value, _CONTAINERS) else {}
    return (
        values_of_call(describer(type(value)))
        | {name: describer(part) for name, part in held_attributes(value).items()}
        | items
    )


def _describe_library_object(value: Any, describer: Describer) -> Any:
    """Describe an object of a library by the state that it is pickled with, or by its text."""
    kind = type(value)
    describer.num_objects += 1
    state = _pickled_state(value) if describer.num_objects <= MAX_OBJECTS else None
    if state:
        return {name_of(kind): describer(state)}
    if " at 0x" not in repr(value):
        return text_of(value)
    if state is None and kind.__module__ != "_thread":  # locks decide no numbers
        is_full = describer.num_objects > MAX_OBJECTS
        describer.gaps.add(
            f"more than {MAX_OBJECTS:,} objects"
            if is_full
            else f"a {name_of(kind)}, of which nothing is known"
        )
    return name_of(value)


def _viewed(view: Any) -> Any:
    """Return the object behind a weak reference, a memoryview or a view of a dict."""
    if type(view) is weakref.ref:
        return view()
    return np.asarray(view) if type(view) is memoryview else list(view)


def held_attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object in its dictionary and slots.

    Results of cached properties are left out, since they follow from the other attributes. A value
    stored under the name of a cached property is left out too, since it looks like its result.
    """
    members = [(name, part) for kind in type(value).__mro__ for name, part in vars(kind).items()]
    slots = [
        name for name, part in members if inspect.ismemberdescriptor(part) and hasattr(value, name)
    ]
    held = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
    cached = [name for name, part in members if isinstance(part, functools.cached_property)]
    return {
        name: part
        for name, part in held.items()
        if name not in cached and name not in _COPIED_BY_DECORATORS
    }


def _items(value: Any, describe: Callable[[Any], Any]) -> Any:
    """Describe an object as the Python, NumPy or PyTorch type that its class extends."""
    if isinstance(value, Tensor | np.ndarray):
        return describe_array(value, describe)
    for kind in (dict, set, frozenset, bytearray, list, tuple, deque):
        if isinstance(value, kind):
            return describe((list if kind is deque else kind)(value))
    kind = next(kind for kind in _CONTAINERS if isinstance(value, kind))
    return describe(list(kind.__getnewargs__(value)))


def _pickled_state(value: Any) -> list | None:
    """Return the parts that a library's object is pickled with; None if it cannot be pickled."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # such as of a lock or an open file
        return None
    if isinstance(reduced, str):
        return []
    state, listed, named = [*reduced[2:5], None, None, None][:3]
    arguments = [part for part in reduced[1] if part is not type(value)]
    if isinstance(state, dict) and type(value).__module__.startswith("transformers."):
        state = {name: part for name, part in state.items() if name not in VOLATILE}
    parts = (arguments, state, listed and list(listed), named and dict(named))
    return [part for part in parts if part]


def text_of(value: Any) -> str:
    """Return the text of an object without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
