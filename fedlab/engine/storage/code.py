"""Descriptions of functions and classes: their code, and everything that it uses."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fedlab.engine.storage.checksums import checksum
from fedlab.engine.storage.provenance import is_installed, is_known, name_of

Describe = Callable[[Any], Any]  # a Describer, or another function of a value


def describe_call(function: Any, values: dict[str, Any]) -> Any:
    """Describe the call of a function by its name and values, or by its name alone."""
    return {name_of(function): values} if values else name_of(function)


def values_of_call(described: Any) -> dict[str, Any]:
    """Return the values within the description of a call."""
    return next(iter(described.values())) if isinstance(described, dict) else {}


def describe_function(function: FunctionType, describe: Describe) -> Any:
    """Describe a function by its captured variables, and the user's own also by its code."""
    captured = {name: describe(part) for name, part in captured_variables(function).items()}
    return describe_call(function, captured | _describe_code(function, describe))


def captured_variables(function: FunctionType) -> dict[str, Any]:
    """Return the variables that a closure has captured, by name."""
    captured = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # the cell is empty
            captured[name] = cell.cell_contents
    return captured


def describe_class(value: type, describe: Describe) -> Any:
    """Describe a class by its name; the user's own also by its members, bases and metaclass."""
    if is_known(value):
        return name_of(value)
    members = {
        name: describe(_underlying_function(part))
        for name, part in vars(value).items()
        if not _is_added_by_python(name, part)
    }
    bases = {base.__qualname__: describe(base) for base in value.__bases__ if not is_known(base)}
    metaclass = {} if is_known(type(value)) else {"metaclass": describe(type(value))}
    return describe_call(value, members | bases | metaclass)


def _is_added_by_python(name: str, part: Any) -> bool:
    """Return True for a member of a class that its author did not write."""
    return name in _ADDED or inspect.ismemberdescriptor(part) or inspect.isgetsetdescriptor(part)


_BY_PYTHON = """
__module__ __qualname__ __doc__ __dict__ __weakref__ __slots__ __slotnames__ __annotations__
__annotations_cache__ __annotate__ __annotate_func__ __conditional_annotations__ __classdictcell__
__firstlineno__ __static_attributes__ __type_params__ __orig_bases__ __parameters__ __match_args__
__dataclass_fields__ __dataclass_params__ __abstractmethods__ _abc_impl
"""

_ADDED = frozenset(_BY_PYTHON.split())


def _underlying_function(part: Any) -> Any:
    """Return the functions of a property, a class method or a static method."""
    if isinstance(part, property):
        return [part.fget, part.fset, part.fdel]
    if isinstance(part, functools.cached_property):
        return part.func
    return part.__func__ if isinstance(part, staticmethod | classmethod) else part


def _describe_code(function: FunctionType, describe: Describe) -> dict[str, Any]:
    """Describe the code, defaults, attributes and globals of a function of the user."""
    if is_known(function):
        return {}
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    values = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    values |= function.__kwdefaults__ or {}
    described = {name: describe(value) for name, value in values.items()}
    described |= {
        f"{function.__name__}.{name}": describe(part)
        for name, part in vars(function).items()
        if name != "__wrapped__"
    }
    used = _used_globals(function.__globals__, sorted(_global_names(code)), _attribute_names(code))
    for name, value in used.items():
        is_taken = name in described or name in code.co_freevars
        described[f"global {name}" if is_taken else name] = describe(value)
    return described | {"code": code_checksum(code)}


def _used_globals(
    space: Mapping[str, Any], names: list[str], attributes: list[str]
) -> dict[str, Any]:
    """Return the globals of these names.

    A module of the user is replaced by its members that the code may use: all whose name is among
    the attributes of the code.
    """
    used = {}
    for name in names:
        if name not in space:  # a builtin
            continue
        if not isinstance(space[name], ModuleType):
            used[name] = space[name]
        elif not is_installed(getattr(space[name], "__file__", None) or None):
            inner = [
                attribute
                for attribute in attributes
                if attribute in vars(space[name]) and attribute != name
            ]
            used |= {
                f"{name}.{key}": part
                for key, part in _used_globals(vars(space[name]), inner, attributes).items()
            }
    return used


def _attribute_names(code: CodeType) -> list[str]:
    inner = [
        name
        for part in code.co_consts
        if isinstance(part, CodeType)
        for name in _attribute_names(part)
    ]
    return sorted({*code.co_names, *inner})


def _global_names(code: CodeType) -> set[str]:
    inner = [_global_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }.union(*inner)


def code_checksum(code: CodeType) -> str:
    """Return the checksum of a function's instructions and constants."""
    return checksum(repr(_instructions(code)))


def _instructions(code: CodeType) -> tuple:
    """Return the code without names of variables and line numbers, which change nothing."""
    constants = [
        _instructions(c)
        if isinstance(c, CodeType)
        else sorted(map(repr, c))
        if isinstance(c, frozenset)
        else c
        for c in code.co_consts
    ]
    return code.co_code, code.co_names, code.co_exceptiontable, constants
