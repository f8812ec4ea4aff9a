"""An experiment in words: as plain values, to be read and to be compared."""

from __future__ import annotations

import dis
import functools
import gc
import hashlib
import inspect
import json
import marshal
import math
import re
import sys
import sysconfig
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlab.core import Experiment, FederatedDataset
from fedlab.data.datasets import for_seed

LONG = (
    50  # entries, or thousands of characters, above which a checksum stands for all but the first
)

DEEP = 100  # of values in each other

MOST_PARTS = 10_000  # of objects of libraries, in one description


def describe(
    experiment: Experiment, seed: int = 0, *, data: FederatedDataset | None = None
) -> dict[str, Any]:
    """An experiment as plain values: to be read, kept as JSON, and compared.

    A function that was made by another is told as the call that makes it, ``{"uniform": {"cohort_size": 10}}``.  One from
    outside this package also has a checksum of its code, its defaults, and all that it finds outside itself: numbers,
    tensors, tables, objects, and other functions and classes, with what these find.  Examples are told by their sizes and a
    checksum; where they are a function of the seed, those of ``seed`` (``data``, where they have been made).
    """
    return describe_strictly(experiment, seed, data=data)[0]


def describe_strictly(
    experiment: Experiment, seed: int = 0, *, data: FederatedDataset | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what ``describe`` does, and the objects that it could tell nothing of, each with its field."""
    tell, told, untold = _Teller(), {}, {}
    for name, value in _named(experiment).items():
        told[name] = tell(value)
        untold = dict.fromkeys(tell.untold, name) | untold
    if callable(experiment.data):
        told["data"] = {"function": told["data"], "seed": seed} | plain_value(
            data or for_seed(experiment.data, seed)
        )
    model = experiment.task.template(torch.empty(0))
    told["task"] |= {
        "parameters": sum(s.numel() for s in experiment.task.shapes.values()),
        "layers": checksum(_text(model)),
    }
    return told, untold


def plain_value(value: Any) -> Any:
    """Return the value as JSON knows it."""
    return _Teller()(value)


class _Teller:
    """Tells values as JSON knows them: each function and class from outside this package once, then by its name."""

    def __init__(self, inside: tuple = ()):
        self.inside = list(inside)  # values that this one stands in, since it may refer to them
        self.told: dict[
            int, tuple[Any, str]
        ] = {}  # functions and classes by id, each with the name of further mentions
        self.names: Counter[str] = Counter()  # of these
        self.parts = 0  # of objects of libraries that were told
        self.untold: set[str] = set()  # what is not told, in words

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if kind in (NoneType, bool, int):
            return value
        if isinstance(value, _NUMBERS) and kind not in _EXACT and not _is_known(kind):
            return self.within(
                value
            )  # a number, a text or an array of the user's own class does as that says
        if isinstance(value, int):
            return int(value)
        if isinstance(value, str):
            return (
                value
                if len(value) <= 1000 * LONG
                else {"length": len(value), "checksum": checksum(value)}
            )
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
        return self.within(value)

    def within(self, value: Any) -> Any:
        """A value that may hold others, and stand in itself."""
        for i, other in enumerate(reversed(self.inside)):
            if value is other:
                return f"itself, {i} above" if i else "itself"
        if len(self.inside) > DEEP:
            self.untold.add(f"a {type(value).__qualname__} that stands in more than {DEEP} others")
            return _name(value)
        if isinstance(value, FunctionType | type) and not _is_known(value):
            if id(value) in self.told:
                return self.told[id(value)][1]
            name = _name(value)
            self.names[name] += 1
            self.told[id(value)] = (
                value,
                name if self.names[name] == 1 else f"{name}, number {self.names[name]}",
            )
        self.inside.append(value)
        try:
            return _compound(value, self)
        finally:
            self.inside.pop()

    def alone(self, value: Any) -> Any:
        """The value, told as if nothing had been told before."""
        tell = _Teller(self.inside)
        told = tell(value)
        self.untold |= tell.untold
        return told

    def record(self, value: Any) -> dict[str, Any]:
        """The fields of a record, told as if nothing had been told before: to be compared."""
        tell = _Teller(self.inside)
        return {name: tell(part) for name, part in _named(value).items()}


_NUMBERS = int, float, complex, str, bytes, bytearray, Tensor, np.ndarray

_EXACT = frozenset({*_NUMBERS, nn.Parameter, np.float64})


def _compound(value: Any, tell: _Teller) -> Any:
    kind = type(value)
    if isinstance(value, type):
        return _class(value, tell)
    if _is_ours(kind) and (is_dataclass(value) or hasattr(value, "_fields")):
        return _record(value, tell)
    if kind in (list, tuple, dict) and len(value) > LONG:
        with suppress(
            TypeError, ValueError
        ):  # of anything but numbers and texts: those are told one by one
            json.dumps(value)  # which, unlike marshal, takes no array for its bytes
            return {
                "length": len(value),
                "checksum": checksum(np.frombuffer(marshal.dumps(value, 2), np.uint8)),
            }
    if isinstance(value, Mapping) and _is_known(kind) and kind is not defaultdict:
        return _mapping(value, tell)
    if kind in (set, frozenset):  # each part as if alone: their order is another in every process
        return _list(sorted((tell.alone(part) for part in value), key=json.dumps))
    if kind in (list, tuple):
        return _list([part if type(part) in (int, str, bool) else tell(part) for part in value])
    if kind is partial:
        return {
            _name(value.func): _parts(tell(value.func))
            | {name: tell(part) for name, part in _given(value).items()}
        }
    if isinstance(value, MethodType):
        return {_name(value): {"self": tell(value.__self__), "function": tell(value.__func__)}}
    if isinstance(value, FunctionType):
        return _call(
            value,
            {name: tell(part) for name, part in _captured(value).items()} | _code(value, tell),
        )
    if hasattr(value, "__wrapped__") and _is_known(kind):  # such as what functools.cache makes
        return {
            _name(kind): {
                name: tell(part)
                for name, part in ({"__wrapped__": value.__wrapped__} | _held(value)).items()
            }
        }
    return _object(value, tell)


_WRAPPER = frozenset(
    functools.WRAPPER_ASSIGNMENTS
)  # of what a decorator copies, all but the function itself


def _mapping(value: Mapping, tell: _Teller) -> Any:
    """By its keys, where these are their texts; else as pairs, since the texts of objects may be alike."""
    if all(type(key) is str for key in value):
        return _dict({key: tell(part) for key, part in value.items()})
    named = {
        repr(key): part
        for key, part in value.items()
        if type(key) in (str, int, float, bool, NoneType)
    }
    if len(named) == len(value):
        return _dict({name: tell(part) for name, part in named.items()})
    return {"pairs": _list([[tell(key), tell(part)] for key, part in value.items()])}


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
    for maker in sorted(
        makers, key=lambda name: name.startswith("_")
    ):  # those with a public name first
        with suppress(Exception):  # whatever it objects to: then it was not made so
            call = inspect.signature(makers[maker]).bind_partial()
            call.arguments |= {
                name: values[name] for name in call.signature.parameters if name in values
            }
            if tell.record(makers[maker](*call.args, **call.kwargs)) == told:
                return _call(
                    makers[maker], {name: tell(part) for name, part in call.arguments.items()}
                )
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
    return (
        told
        if len(told) <= LONG
        else {"length": len(told), "first": told[0], "checksum": checksum(json.dumps(told))}
    )


def _dict(told: dict) -> dict:
    """A long one by its length."""
    return (
        told
        if len(told) <= LONG
        else {"length": len(told), "checksum": checksum(json.dumps(told, sort_keys=True))}
    )


def _array(value: Tensor | np.ndarray, tell: _Teller) -> dict[str, Any]:
    told = {"shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return told | {"values": tell(value.tolist())}
    if isinstance(value, np.ma.MaskedArray):
        told["mask"] = tell(np.ma.getmaskarray(value))
    with suppress(
        RuntimeError, NotImplementedError
    ):  # of tensors that hold no numbers, such as those on "meta"
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
    members = {
        name: tell(_function(part))
        for name, part in vars(value).items()
        if not _is_added(name, part)
    }
    bases = {base.__qualname__: tell(base) for base in value.__bases__ if not _is_known(base)}
    made_by = {} if _is_known(type(value)) else {"metaclass": tell(type(value))}
    return _call(value, members | bases | made_by)


def _is_added(name: str, part: Any) -> bool:
    """Whether Python puts it into a class, and not who writes that."""
    return name in _ADDED or inspect.ismemberdescriptor(part) or inspect.isgetsetdescriptor(part)


_BY_PYTHON = """
__module__ __qualname__ __doc__ __dict__ __weakref__ __slots__ __slotnames__ __annotations__ __annotations_cache__
__annotate__ __annotate_func__ __conditional_annotations__ __classdictcell__ __firstlineno__ __static_attributes__
__type_params__ __orig_bases__ __parameters__ __match_args__ __dataclass_fields__ __dataclass_params__
__abstractmethods__ _abc_impl
"""

_ADDED = frozenset(_BY_PYTHON.split())


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
    given = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True)) | (
        function.__kwdefaults__ or {}
    )
    told = {name: tell(value) for name, value in given.items()}
    told |= {
        f"{function.__name__}.{name}": tell(part)
        for name, part in vars(function).items()
        if name != "__wrapped__"
    }
    for name, value in _outside(
        function.__globals__, sorted(_globals(code)), _attributes(code)
    ).items():
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
            inner = [
                attribute
                for attribute in attributes
                if attribute in vars(space[name]) and attribute != name
            ]
            found |= {
                f"{name}.{key}": part
                for key, part in _outside(vars(space[name]), inner, attributes).items()
            }
    return found


def _attributes(code: CodeType) -> list[str]:
    inner = [
        name for part in code.co_consts if isinstance(part, CodeType) for name in _attributes(part)
    ]
    return sorted({*code.co_names, *inner})


def _globals(code: CodeType) -> set[str]:
    inner = [_globals(part) for part in code.co_consts if isinstance(part, CodeType)]
    return {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }.union(*inner)


def _instructions(code: CodeType) -> tuple:
    """A function's code without the names and line numbers that change nothing."""
    consts = [
        _instructions(c)
        if isinstance(c, CodeType)
        else sorted(map(repr, c))
        if isinstance(c, frozenset)
        else c
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


_INSTALLED = tuple(
    path for kind, path in sysconfig.get_paths().items() if kind in ("stdlib", "purelib", "platlib")
)


def _object(value: Any, tell: _Teller) -> Any:
    """Whatever else a function may hold: a module by its numbers, an object by what is in it."""
    kind = type(value)
    if isinstance(value, nn.Module):
        return {_name(kind): _module(value, tell)}
    if isinstance(value, BuiltinMethodType) and not isinstance(
        value.__self__, ModuleType | type | None
    ):
        return {_name(value): tell(value.__self__)}
    if not _is_known(kind):
        items = {"items": _items(value, tell)} if isinstance(value, _HOLDERS) else {}
        return {
            _name(kind): _parts(tell(kind))
            | {name: tell(part) for name, part in _held(value).items()}
            | items
        }
    if isinstance(value, torch.jit.ScriptFunction):
        return {_name(kind): _program(value, tell)}
    if isinstance(
        value, np.ufunc
    ):  # NumPy's own have their names; a function of Python's is found nowhere else
        made_of = [part for part in gc.get_referents(value) if isinstance(part, FunctionType)]
        return {_name(kind): tell(made_of)} if made_of else _name(value)
    if isinstance(value, ModuleType) or inspect.isroutine(value) or _is_named(value):
        return _name(value)
    if isinstance(value, CodeType):
        return {_name(kind): checksum(repr(_instructions(value)))}
    if isinstance(value, _VIEWS):
        seen = (
            value()
            if kind is weakref.ref
            else np.asarray(value)
            if kind is memoryview
            else list(value)
        )
        return {_name(kind): tell(seen)}
    tell.parts += 1
    held = _pickled(value) if tell.parts <= MOST_PARTS else None
    if held:
        return {_name(kind): tell(held)}
    if " at 0x" not in repr(value):
        return _text(value)
    if held is None and kind.__module__ != "_thread":  # locks decide no numbers
        is_full = tell.parts > MOST_PARTS
        tell.untold.add(
            f"more than {MOST_PARTS:,} objects"
            if is_full
            else f"a {_name(kind)}, of which nothing is told"
        )
    return _name(value)


_HOLDERS = *_NUMBERS, list, tuple, set, frozenset, dict, deque

_VIEWS = memoryview, weakref.ref, KeysView, ValuesView, ItemsView


def _is_named(value: Any) -> bool:
    """Whether a library's object is what its name stands for there, so that the name tells it."""
    place: Any = sys.modules.get(str(getattr(value, "__module__", None)))
    for name in str(getattr(value, "__qualname__", "")).split("."):
        place = getattr(place, name, None)
    return place is value


def _module(model: nn.Module, tell: _Teller) -> dict[str, Any]:
    """Its layers and numbers, and what else the layers hold."""
    state = {
        name: checksum(part) for name, part in [*model.named_parameters(), *model.named_buffers()]
    }
    shared = {}  # what several layers hold, such as their network's settings
    settings = {
        name or "model": _settings(layer, tell, shared) for name, layer in model.named_modules()
    }
    told = {"layers": checksum(_text(model)), "state": checksum(json.dumps(state))}
    return told | {"settings": _dict({name: held for name, held in settings.items() if held})}


def _settings(layer: nn.Module, tell: _Teller, shared: dict[int, Any]) -> dict[str, Any]:
    """What a layer holds beside its numbers and layers; of the user's own layers also what their class does."""
    if isinstance(layer, torch.jit.ScriptModule):
        return _program(layer, tell)
    is_known, told = _is_known(type(layer)), {}
    held, left_out = (vars(layer), _NOTED) if is_known else (_held(layer), _INNER)
    if not is_known:
        told |= _parts(tell(type(layer)))
    if not layer.training:
        told["training"] = False
    for name in _HOOKS:
        if hooks := held.get(name):  # their keys count all hooks of the process
            keyed = held.get(f"{name}_with_kwargs", ())
            told[name] = tell([(hook, key in keyed) for key, hook in hooks.items()])
    for name, part in held.items():
        if name in left_out:
            continue
        if name != "config":
            told[name] = tell(part)
            continue
        if id(part) not in shared:
            shared[id(part)] = tell(part)
        told[name] = shared[id(part)]
    return told


_HOOKS = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"

_INNER = frozenset(vars(nn.Module()))

_VOLATILE = frozenset(("name_or_path", "_name_or_path", "_commit_hash", "transformers_version"))

_NOTED = (
    _INNER | _VOLATILE | {"warnings_issued", "max_seq_len_cached", "_is_hf_initialized"}
)  # transformers in its layers


def _program(value: Any, tell: _Teller) -> dict[str, Any]:
    """A function or module of ``torch.jit``: its graph without places in files, its tensors, a module's attributes."""
    told = {}
    with suppress(AttributeError, RuntimeError):  # of a module that has no forward
        graph = value.inlined_graph
        constants = [
            node for node in graph.findAllNodes("prim::Constant") if node.hasAttribute("value")
        ]
        tensors = [
            node.output().toIValue() for node in constants if node.kindOf("value") == "t"
        ]  # not in the text
        told = {"graph": checksum(_PLACES.sub("", str(graph))), "tensors": tell(tensors)}
    named = (
        value._concrete_type.get_attributes()
        if isinstance(value, torch.jit.RecursiveScriptModule)
        else ()
    )
    return told | {
        name: tell(getattr(value, name)) for name in named if not name.startswith("_is_full")
    }


_PLACES = re.compile(r"___torch_mangle_\d+\.?|\[warn_id=\d+\]|(?m: # \S+:\d+:\d+$)")


def _held(value: Any) -> dict[str, Any]:
    """What is in an object's dictionary and slots, but for what its class remembers having computed.

    A value that was put in the place of a cached property cannot be told from what the property remembers: it is left out.
    """
    members = [(name, part) for kind in type(value).__mro__ for name, part in vars(kind).items()]
    slots = [
        name for name, part in members if inspect.ismemberdescriptor(part) and hasattr(value, name)
    ]
    held = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
    cached = [name for name, part in members if isinstance(part, functools.cached_property)]
    return {
        name: part for name, part in held.items() if name not in cached and name not in _WRAPPER
    }


def _items(value: Any, tell: _Teller) -> Any:
    """What an object of the user's own class is as one of Python's, of NumPy's or of PyTorch's."""
    if isinstance(value, Tensor | np.ndarray):
        return _array(value, tell)
    for kind in (dict, set, frozenset, bytearray, list, tuple, deque):
        if isinstance(value, kind):
            return tell((list if kind is deque else kind)(value))
    kind = next(kind for kind in _HOLDERS if isinstance(value, kind))
    return tell(list(kind.__getnewargs__(value)))


def _pickled(value: Any) -> list | None:
    """What a library's object is put together from again; None where it does not say."""
    try:
        made = value.__reduce_ex__(4)
    except Exception:  # such as of a lock or an open file
        return None
    if isinstance(made, str):
        return []
    _, arguments, *more = (*made, None, None, None)
    arguments = [part for part in arguments if part is not type(value)]
    state, listed, named = more[:3]
    if isinstance(state, dict) and type(value).__module__.startswith("transformers."):
        state = {name: part for name, part in state.items() if name not in _VOLATILE}
    return [
        part for part in (arguments, state, listed and list(listed), named and dict(named)) if part
    ]


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
            value = (
                value.detach().to_dense() if value.layout is not torch.strided else value.detach()
            )
            value = (
                value.cpu()
                .resolve_conj()
                .resolve_neg()
                .contiguous()
                .reshape(-1)
                .view(torch.uint8)
                .numpy()
            )
        elif value.dtype.hasobject:
            value = repr(value.tolist()).encode()
        else:
            value = (
                np.ascontiguousarray(value).tobytes()
                if value.dtype.kind in "mMUSV"
                else np.ascontiguousarray(value)
            )
        digest.update(value)
    return digest.hexdigest()[:32]
