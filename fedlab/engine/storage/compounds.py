"""Descriptions of values that hold others: containers, records, calls and objects."""

from __future__ import annotations

import inspect
import json
import marshal
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType, NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedlab.engine.storage.checksums import (
    MAX_SHOWN,
    bytes_checksum,
    shorten_dict,
    shorten_list,
)
from fedlab.engine.storage.code import (
    captured_variables,
    describe_call,
    describe_class,
    describe_function,
    values_of_call,
)
from fedlab.engine.storage.networks import describe_module, describe_program
from fedlab.engine.storage.objects import describe_object, held_attributes
from fedlab.engine.storage.provenance import is_known, is_ours, name_of

if TYPE_CHECKING:
    from fedlab.engine.storage.description import Describer


def describe_compound(value: Any, describer: Describer) -> Any:
    """Describe a value that may hold others."""
    kind = type(value)
    if isinstance(value, type):
        return describe_class(value, describer)
    if is_ours(kind) and (is_dataclass(value) or hasattr(value, "_fields")):
        return _describe_record(value, describer)
    if kind in (list, tuple, dict, set, frozenset) or (
        isinstance(value, Mapping) and is_known(kind) and kind is not defaultdict
    ):
        return _describe_container(value, describer)
    if kind is partial:
        return {
            name_of(value.func): values_of_call(describer(value.func))
            | {name: describer(part) for name, part in _arguments(value).items()}
        }
    if isinstance(value, MethodType):
        return {
            name_of(value): {
                "self": describer(value.__self__),
                "function": describer(value.__func__),
            }
        }
    if isinstance(value, FunctionType):
        return describe_function(value, describer)
    if hasattr(value, "__wrapped__") and is_known(kind):  # such as a result of functools.cache
        parts = {"__wrapped__": value.__wrapped__} | held_attributes(value)
        return {name_of(kind): {name: describer(part) for name, part in parts.items()}}
    if isinstance(value, nn.Module):
        return {name_of(kind): describe_module(value, describer)}
    if isinstance(value, torch.jit.ScriptFunction) and is_known(kind):
        return {name_of(kind): describe_program(value, describer)}
    return describe_object(value, describer)


def _describe_container(value: Any, describer: Describer) -> Any:
    """Describe a list, tuple, set or mapping; a long one of plain values by its checksum."""
    kind = type(value)
    if kind in (list, tuple, dict) and len(value) > MAX_SHOWN:
        with suppress(TypeError, ValueError):  # other values are described one by one
            json.dumps(value)  # which, unlike marshal, takes no array for its bytes
            return {"length": len(value), "checksum": bytes_checksum(marshal.dumps(value, 2))}
    if isinstance(value, Mapping):
        return _describe_mapping(value, describer)
    if kind in (set, frozenset):  # their order differs from process to process
        return shorten_list(sorted((describer.separately(part) for part in value), key=json.dumps))
    return shorten_list(
        [part if type(part) in (int, str, bool) else describer(part) for part in value]
    )


def _describe_mapping(value: Mapping, describer: Describer) -> Any:
    """Describe a mapping by the texts of its keys, or as pairs if these could be equal."""
    if all(type(key) is str for key in value):
        return shorten_dict({key: describer(part) for key, part in value.items()})
    named = {
        repr(key): part
        for key, part in value.items()
        if type(key) in (str, int, float, bool, NoneType)
    }
    if len(named) == len(value):
        return shorten_dict({name: describer(part) for name, part in named.items()})
    pairs = [[describer(key), describer(part)] for key, part in value.items()]
    return {"pairs": shorten_list(pairs)}


def _describe_record(value: Any, describer: Describer) -> Any:
    """Describe a record by its fields, or by the call of this package that makes an equal one.

    A maker is found through the inner functions of a tuple: each bears the name of the function
    that defined it, and holds the values that this one was called with.
    """
    values, makers = {}, {}
    todo = [] if is_dataclass(value) else list(value)
    while todo:
        part = todo.pop()
        if isinstance(part, FunctionType) and is_ours(part) and ".<locals>" in part.__qualname__:
            maker, captured = part.__qualname__.split(".")[0], captured_variables(part)
            makers[maker] = part.__globals__.get(maker)
            todo += [inner for name, inner in captured.items() if name not in values]
            values |= captured
    described = describer.fields(value) if makers else None
    for maker in sorted(makers, key=lambda name: name.startswith("_")):  # public ones first
        with suppress(Exception):  # whatever it objects to: the record was not made so
            call = inspect.signature(makers[maker]).bind_partial()
            call.arguments |= {
                name: values[name] for name in call.signature.parameters if name in values
            }
            if describer.fields(makers[maker](*call.args, **call.kwargs)) == described:
                return describe_call(
                    makers[maker], {name: describer(part) for name, part in call.arguments.items()}
                )
    return {name: describer(part) for name, part in fields_of(value).items()}


def fields_of(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass or a named tuple.

    Fields with ``metadata={"described": False}`` are left out.
    """
    if is_dataclass(record):
        return {
            field.name: getattr(record, field.name)
            for field in fields(record)
            if field.init and field.metadata.get("described", True)
        }
    return record._asdict()


def _arguments(call: partial) -> dict[str, Any]:
    """Return the arguments of a partial call by name."""
    try:
        return inspect.signature(call.func).bind_partial(*call.args, **call.keywords).arguments
    except ValueError:  # a function written in C may have no signature
        return {"args": call.args, **call.keywords}
