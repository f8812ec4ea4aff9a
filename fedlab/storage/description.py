"""An experiment in words: as plain values, to be read and to be compared."""

from __future__ import annotations

import dis
import hashlib
import inspect
import json
import math
import sysconfig
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.data.datasets import for_seed
from fedlab.records import Experiment, FederatedDataset

Tell = Callable[[Any], Any]  # a value as plain ones


def describe(experiment: Experiment, seed: int = 0, *, data: FederatedDataset | None = None) -> dict[str, Any]:
    """An experiment as plain values: to be read, kept as JSON, and compared.

    A function that was made by another is told as the call that makes it, ``{"uniform": {"cohort_size": 10}}``.  One from
    outside this package also has a checksum of its code, its defaults and the numbers, texts and own functions that it
    finds outside itself.  Examples are told by their sizes and a checksum; where they are a function of the seed, those of
    ``seed`` (``data``, where they have been made).
    """
    told = {name: plain(value) for name, value in _named(experiment).items()}
    if callable(experiment.data):
        told["data"] = {"function": told["data"], "seed": seed} | plain(data or for_seed(experiment.data, seed))
    model = experiment.task.template(torch.empty(0))
    told["task"] |= {"parameters": sum(s.numel() for s in experiment.task.shapes.values()), "layers": checksum(str(model))}
    return told


def plain(value: Any, inside: tuple = ()) -> Any:
    """What JSON knows.  ``inside`` is what it stands in, since a function may refer to itself."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Tensor | np.ndarray):
        return {"shape": list(value.shape), "dtype": str(value.dtype), "checksum": checksum(value)}
    if isinstance(value, FederatedDataset):
        return _dataset(value)
    if any(value is other for other in inside):
        return "itself"
    return _compound(value, lambda part: plain(part, (*inside, value)))


def _compound(value: Any, tell: Tell) -> Any:
    if isinstance(value, type):
        return _class(value, tell)
    if isinstance(value, Mapping):
        return {str(key): tell(part) for key, part in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(tell, value), key=json.dumps)
    if _is_ours(type(value)) and (is_dataclass(value) or hasattr(value, "_fields")):
        return _record(value, tell)
    if type(value) in (list, tuple):
        return _list([tell(part) for part in value])
    if isinstance(value, partial):
        return {_name(value.func): _parts(tell(value.func)) | {name: tell(part) for name, part in _given(value).items()}}
    if isinstance(value, MethodType):
        return {_name(value): {"self": tell(value.__self__), "function": tell(value.__func__)}}
    if isinstance(value, FunctionType):
        return _call(value, {name: tell(part) for name, part in _captured(value).items()} | _code(value, tell))
    return _object(value, tell)


def _record(value: Any, tell: Tell) -> Any:
    """Fields by name; or the function of this package that makes this very tuple, with what it was called with."""
    told = {name: tell(part) for name, part in _named(value).items()}
    values, makers, todo = {}, {}, [] if is_dataclass(value) else list(value)
    while todo:
        part = todo.pop()
        if isinstance(part, FunctionType) and _is_ours(part) and ".<locals>" in part.__qualname__:
            maker, found = part.__qualname__.split(".")[0], _captured(part)
            makers[maker] = part.__globals__.get(maker)
            todo += [other for name, other in found.items() if name not in values]
            values |= found
    for maker in sorted(makers, key=lambda name: name.startswith("_")):  # those with a public name first
        with suppress(Exception):  # whatever it objects to: then it was not made so
            call = inspect.signature(makers[maker]).bind_partial()
            call.arguments |= {name: values[name] for name in call.signature.parameters if name in values}
            if {name: tell(part) for name, part in _named(makers[maker](*call.args, **call.kwargs)).items()} == told:
                return _call(makers[maker], {name: tell(part) for name, part in call.arguments.items()})
    return told


def _named(record: Any) -> dict[str, Any]:
    """The fields of a dataclass or a named tuple."""
    if is_dataclass(record):
        return {
            field.name: getattr(record, field.name)
            for field in fields(record)
            if field.init and field.metadata.get("told", True)
        }
    return record._asdict()


def _list(told: list) -> list | dict:
    """A long one by its length and first entry."""
    return told if len(told) <= 50 else {"length": len(told), "first": told[0], "checksum": checksum(json.dumps(told))}


def _call(function: Any, values: dict[str, Any]) -> Any:
    return {_name(function): values} if values else _name(function)


def _parts(told: Any) -> dict[str, Any]:
    """The values of a call that was told."""
    return next(iter(told.values())) if isinstance(told, dict) else {}


def _given(call: partial) -> dict[str, Any]:
    try:
        return inspect.signature(call.func).bind_partial(*call.args, **call.keywords).arguments
    except ValueError:  # some functions written in C tell nothing of themselves
        return {"args": call.args, **call.keywords}


def _class(value: type, tell: Tell) -> Any:
    methods = {name: tell(part) for name, part in vars(value).items() if isinstance(part, FunctionType)}
    return _call(value, {"code": checksum(json.dumps(methods))} if methods and not _is_known(value) else {})


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__).replace(".<locals>", "")
    if _is_ours(function):
        return name.split(".")[0] if "<locals>" in function.__qualname__ else name
    return f"{function.__module__}.{name}" if _is_known(function) else name


def _captured(function: FunctionType) -> dict[str, Any]:
    """What a function has taken along from where it was made."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a cell that is empty
            found[name] = cell.cell_contents
    return found


def _code(function: FunctionType, tell: Tell) -> dict[str, Any]:
    """What else decides what the user's own function does; of one from a library its name says it."""
    if _is_known(function):
        return {}
    defaults = {
        name: tell(parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }
    around = {name: function.__globals__.get(name) for name in sorted(_globals(function.__code__))}
    own = {
        name: tell(value)
        for name, value in around.items()
        if isinstance(value, bool | int | float | str) or (isinstance(value, FunctionType | type) and not _is_known(value))
    }
    return defaults | own | {"code": checksum(repr(_instructions(function.__code__)))}


def _globals(code: CodeType) -> set[str]:
    inner = [_globals(part) for part in code.co_consts if isinstance(part, CodeType)]
    return {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}.union(*inner)


def _instructions(code: CodeType) -> tuple:
    """A function's code without the names and line numbers that change nothing."""
    consts = [
        _instructions(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else c
        for c in code.co_consts
    ]
    return code.co_code, code.co_names, code.co_exceptiontable, consts


def _is_ours(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").split(".")[0] == "fedlab"


def _is_known(thing: Any) -> bool:
    """Whether it comes from this package or an installed one, and not from whoever uses them."""
    if _is_ours(thing):
        return True
    if isinstance(thing, FunctionType):
        return thing.__code__.co_filename.startswith(_INSTALLED)
    file = getattr(inspect.getmodule(thing), "__file__", None) or ""
    return getattr(thing, "__module__", None) != "__main__" and file.startswith(_INSTALLED)


_INSTALLED = tuple(path for kind, path in sysconfig.get_paths().items() if kind in ("stdlib", "purelib", "platlib"))


def _object(value: Any, tell: Tell) -> Any:
    """Whatever else a function may hold: a module by its numbers, the user's own object by what is in it."""
    if isinstance(value, nn.Module):
        state = {name: checksum(part) for name, part in value.state_dict().items()}
        return {_name(type(value)): {"layers": checksum(str(value)), "state": checksum(json.dumps(state))}}
    kind, parts = type(value), value._asdict() if hasattr(value, "_fields") else getattr(value, "__dict__", None)
    if parts is None or _is_known(kind) or hasattr(value, "__qualname__"):
        return _name(value) if " at 0x" in repr(value) else repr(value)
    return {_name(kind): _parts(tell(kind)) | {name: tell(part) for name, part in parts.items()}}


def _dataset(data: FederatedDataset) -> dict[str, Any]:
    sizes, parts = data.sizes, np.concatenate([np.empty(0, int), *data.parts])
    return {
        "name": data.name,
        "clients": data.num_clients,
        "examples": len(data.y),
        "test_examples": len(data.test[1]),
        "shape": list(data.x.shape[1:]),
        "classes": len(data.classes),
        "checksum": checksum(data.x, data.y, *data.test, sizes, parts, json.dumps(data.classes)),
    }


def checksum(*values: Tensor | np.ndarray | str) -> str:
    """The first half of the SHA-256 of numbers, their kinds and shapes, or of texts."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, str):
            digest.update(value.encode())
            continue
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        elif value.dtype.hasobject:
            value = repr(value.tolist()).encode()
        digest.update(np.ascontiguousarray(value))
    return digest.hexdigest()[:32]
