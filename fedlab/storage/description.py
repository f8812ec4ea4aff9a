"""An experiment in words: as plain values, to be read and to be compared."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import json
import marshal
import math
import re
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.data.datasets import for_seed
from fedlab.records import Experiment, FederatedDataset

LONG = 50  # entries, or thousands of characters, above which a checksum stands for all but the first
DEEP = 100  # of values in each other
MOST_PARTS = 10_000  # of objects of libraries, in one description


def describe(experiment: Experiment, seed: int = 0, *, data: FederatedDataset | None = None) -> dict[str, Any]:
    """An experiment as plain values: to be read, kept as JSON, and compared.

    A function that was made by another is told as the call that makes it, ``{"uniform": {"cohort_size": 10}}``.  One from
    outside this package also has a checksum of its code, its defaults, and all that it finds outside itself: numbers,
    tensors, tables, objects, and other functions and classes, with what these find.  Examples are told by their sizes and a
    checksum; where they are a function of the seed, those of ``seed`` (``data``, where they have been made).
    """
    tell = _Teller()
    told = {name: tell(value) for name, value in _named(experiment).items()}
    if callable(experiment.data):
        told["data"] = {"function": told["data"], "seed": seed} | plain(data or for_seed(experiment.data, seed))
    model = experiment.task.template(torch.empty(0))
    told["task"] |= {"parameters": sum(s.numel() for s in experiment.task.shapes.values()), "layers": checksum(_text(model))}
    return told


def plain(value: Any) -> Any:
    """Return the value as JSON knows it."""
    return _Teller()(value)


class _Teller:
    """Tells values as JSON knows them: each function and class from outside this package once, then by its name."""

    def __init__(self, inside: tuple = ()):
        self.inside = list(inside)  # values that this one stands in, since it may refer to them
        self.told: dict[int, Any] = {}  # functions and classes that were told, by id; held, so that no id comes twice
        self.parts = 0  # of objects of libraries that were told

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, str):
            return value if len(value) <= 1000 * LONG else {"length": len(value), "checksum": checksum(value)}
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        if isinstance(value, np.generic) and not isinstance(value, np.void):
            return self(value.item()) if not isinstance(value.item(), np.generic) else repr(value)
        if isinstance(value, Tensor | np.ndarray):
            return _array(value, self)
        if isinstance(value, FederatedDataset):
            return _dataset(value)
        if isinstance(value, bytes | bytearray):
            return {"bytes": len(value), "checksum": checksum(np.frombuffer(value, np.uint8))}
        if any(value is other for other in self.inside):
            return "itself"
        if len(self.inside) > DEEP:
            return _name(value)
        if isinstance(value, FunctionType | type) and not _is_known(value):
            if id(value) in self.told:
                return _name(value)
            self.told[id(value)] = value
        self.inside.append(value)
        try:
            return _compound(value, self)
        finally:
            self.inside.pop()

    def record(self, value: Any) -> dict[str, Any]:
        """The fields of a record, told as if nothing had been told before: to be compared."""
        tell = _Teller(self.inside)
        return {name: tell(part) for name, part in _named(value).items()}


def _compound(value: Any, tell: _Teller) -> Any:
    kind = type(value)
    if isinstance(value, type):
        return _class(value, tell)
    if _is_ours(kind) and (is_dataclass(value) or hasattr(value, "_fields")):
        return _record(value, tell)
    if kind in (list, tuple, dict) and len(value) > LONG:
        with suppress(ValueError):  # of anything but numbers and texts: those are told one by one
            return {"length": len(value), "checksum": checksum(np.frombuffer(marshal.dumps(value, 2), np.uint8))}
    if isinstance(value, Mapping) and _is_known(kind):
        told = str if all(isinstance(key, str) for key in value) else repr
        return _dict({_text(told(key)): tell(part) for key, part in value.items()})
    if kind in (set, frozenset):
        return _list(sorted(map(tell, value), key=json.dumps))
    if kind in (list, tuple):
        return _list([part if type(part) in (int, str, bool) else tell(part) for part in value])
    if isinstance(value, partial):
        return {_name(value.func): _parts(tell(value.func)) | {name: tell(part) for name, part in _given(value).items()}}
    if isinstance(value, MethodType):
        return {_name(value): {"self": tell(value.__self__), "function": tell(value.__func__)}}
    if isinstance(value, FunctionType):
        return _call(value, {name: tell(part) for name, part in _captured(value).items()} | _code(value, tell))
    if hasattr(value, "__wrapped__"):  # such as what functools.cache makes
        return {_name(kind): tell(value.__wrapped__)}
    return _object(value, tell)


def _record(value: Any, tell: _Teller) -> Any:
    """Fields by name; or the function of this package that makes this very tuple, with what it was called with."""
    values, makers, todo = {}, {}, [] if is_dataclass(value) else list(value)
    while todo:
        part = todo.pop()
        if isinstance(part, FunctionType) and _is_ours(part) and ".<locals>" in part.__qualname__:
            maker, found = part.__qualname__.split(".")[0], _captured(part)
            makers[maker] = part.__globals__.get(maker)
            todo += [other for name, other in found.items() if name not in values]
            values |= found
    told = tell.record(value) if makers else None
    for maker in sorted(makers, key=lambda name: name.startswith("_")):  # those with a public name first
        with suppress(Exception):  # whatever it objects to: then it was not made so
            call = inspect.signature(makers[maker]).bind_partial()
            call.arguments |= {name: values[name] for name in call.signature.parameters if name in values}
            if tell.record(makers[maker](*call.args, **call.kwargs)) == told:
                return _call(makers[maker], {name: tell(part) for name, part in call.arguments.items()})
    return {name: tell(part) for name, part in _named(value).items()}


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
    return told if len(told) <= LONG else {"length": len(told), "first": told[0], "checksum": checksum(json.dumps(told))}


def _dict(told: dict) -> dict:
    """A long one by its length."""
    return told if len(told) <= LONG else {"length": len(told), "checksum": checksum(json.dumps(told, sort_keys=True))}


def _array(value: Tensor | np.ndarray, tell: _Teller) -> dict[str, Any]:
    told = {"shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return told | {"values": tell(value.tolist())}
    if isinstance(value, np.ma.MaskedArray):
        told["mask"] = tell(np.ma.getmaskarray(value))
    with suppress(RuntimeError, NotImplementedError):  # of tensors that hold no numbers, such as those on "meta"
        told["checksum"] = checksum(value)
    return told


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


def _class(value: type, tell: _Teller) -> Any:
    """Of the user's own class, all that it holds and inherits, but for what Python adds."""
    if _is_known(value):
        return _name(value)
    members = {name: tell(_function(part)) for name, part in vars(value).items() if not _is_added(name, part)}
    bases = {base.__qualname__: tell(base) for base in value.__bases__ if not _is_known(base)}
    return _call(value, members | bases)


def _is_added(name: str, part: Any) -> bool:
    """Whether Python puts it into a class, and not who writes that."""
    special = name == "_abc_impl" or (name.startswith("__") and not isinstance(_function(part), FunctionType))
    return special or inspect.ismemberdescriptor(part) or inspect.isgetsetdescriptor(part)


def _function(part: Any) -> Any:
    """The functions behind what a class makes of them."""
    if isinstance(part, property):
        return [part.fget, part.fset, part.fdel]
    if isinstance(part, functools.cached_property):
        return part.func
    return part.__func__ if isinstance(part, staticmethod | classmethod) else part


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


def _code(function: FunctionType, tell: _Teller) -> dict[str, Any]:
    """What else decides what the user's own function does; of one from a library its name says it."""
    if _is_known(function):
        return {}
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    given = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True)) | (function.__kwdefaults__ or {})
    told = {name: tell(value) for name, value in given.items()}
    told |= {f"{function.__name__}.{name}": tell(part) for name, part in vars(function).items() if name != "__wrapped__"}
    for name, value in _outside(function.__globals__, sorted(_globals(code)), _attributes(code)).items():
        told[f"global {name}" if name in told or name in code.co_freevars else name] = tell(value)
    return told | {"code": checksum(repr(_instructions(code)))}


def _outside(space: Mapping[str, Any], names: list[str], attributes: list[str]) -> dict[str, Any]:
    """The values of ``names``; in place of the user's own modules, those of their ``attributes`` that may be meant."""
    found = {}
    for name in names:
        if name not in space:  # Python's own
            continue
        if not isinstance(space[name], ModuleType):
            found[name] = space[name]
        elif not _is_installed(getattr(space[name], "__file__", None) or _INSTALLED[0]):
            inner = [attribute for attribute in attributes if attribute in vars(space[name]) and attribute != name]
            found |= {f"{name}.{key}": part for key, part in _outside(vars(space[name]), inner, attributes).items()}
    return found


def _attributes(code: CodeType) -> list[str]:
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _attributes(part)]
    return sorted({*code.co_names, *inner})


def _globals(code: CodeType) -> set[str]:
    inner = [_globals(part) for part in code.co_consts if isinstance(part, CodeType)]
    return {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}.union(*inner)


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
    if isinstance(thing, FunctionType) and not thing.__code__.co_filename.startswith("<"):
        return _is_installed(thing.__code__.co_filename)
    name = getattr(thing, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if isinstance(thing, type) and (module is None or not getattr(module, "__file__", None)):
        return name == "builtins" or name in sys.builtin_module_names
    return name != "__main__" and _is_installed(getattr(module, "__file__", None) or "")


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED)


_INSTALLED = tuple(path for kind, path in sysconfig.get_paths().items() if kind in ("stdlib", "purelib", "platlib"))


def _object(value: Any, tell: _Teller) -> Any:
    """Whatever else a function may hold: a module by its numbers, an object by what is in it."""
    kind = type(value)
    if isinstance(value, nn.Module):
        return {_name(kind): _module(value, tell)}
    if isinstance(value, BuiltinMethodType) and not isinstance(value.__self__, ModuleType | type | None):
        return {_name(value): tell(value.__self__)}
    if isinstance(value, ModuleType) or hasattr(value, "__qualname__"):
        return _name(value)
    if not _is_known(kind):
        items = {"items": tell(_items(value))} if isinstance(value, list | tuple | set | frozenset | dict) else {}
        return {_name(kind): _parts(tell(kind)) | {name: tell(part) for name, part in _held(value).items()} | items}
    tell.parts += 1
    held = _pickled(value) if tell.parts <= MOST_PARTS else []
    return {_name(kind): tell(held)} if held else _text(value) if " at 0x" not in repr(value) else _name(value)


def _module(model: nn.Module, tell: _Teller) -> dict[str, Any]:
    """Its layers and numbers; of the user's own layers what else they hold."""
    state = {name: checksum(part) for name, part in [*model.named_parameters(), *model.named_buffers()]}
    told = {"layers": checksum(_text(model)), "state": checksum(json.dumps(state))}
    for name, layer in model.named_modules():
        if not _is_known(type(layer)):
            held = {k: tell(part) for k, part in vars(layer).items() if not k.startswith("_") and k != "training"}
            told[name or "model"] = _parts(tell(type(layer))) | held
    return told


def _held(value: Any) -> dict[str, Any]:
    """What is in an object's dictionary and slots, but for what its class remembers having computed."""
    members = [(name, part) for kind in type(value).__mro__ for name, part in vars(kind).items()]
    slots = [name for name, part in members if inspect.ismemberdescriptor(part) and hasattr(value, name)]
    held = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
    cached = [name for name, part in members if isinstance(part, functools.cached_property)]
    return {name: part for name, part in held.items() if name not in cached}


def _items(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else set(value) if isinstance(value, set | frozenset) else list(value)


def _pickled(value: Any) -> list:
    """What a library's object is put together from again; nothing where it does not say."""
    try:
        made = value.__reduce_ex__(4)
    except Exception:  # such as of a lock or an open file
        return []
    if isinstance(made, str):
        return []
    _, arguments, *more = (*made, None, None, None)
    arguments = [part for part in arguments if part is not type(value)]
    state, listed, named = more[:3]
    return [part for part in (arguments, state, listed and list(listed), named and dict(named)) if part]


def _text(value: Any) -> str:
    """What it says of itself, without places in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


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
            digest.update(value.encode(errors="surrogatepass"))
            continue
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        if isinstance(value, Tensor):
            value = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
            value = value.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
        elif value.dtype.hasobject:
            value = repr(value.tolist()).encode()
        else:
            value = np.ascontiguousarray(value).tobytes() if value.dtype.kind in "mMUSV" else np.ascontiguousarray(value)
        digest.update(value)
    return digest.hexdigest()[:32]
