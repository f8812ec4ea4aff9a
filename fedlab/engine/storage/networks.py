"""Descriptions of PyTorch modules and of programs of ``torch.jit``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from fedlab.engine.storage.checksums import checksum, shorten_dict
from fedlab.engine.storage.code import values_of_call
from fedlab.engine.storage.objects import VOLATILE, held_attributes, text_of
from fedlab.engine.storage.provenance import is_known

Describe = Callable[[Any], Any]

_HOOKS = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"

_MODULE_FIELDS = frozenset(vars(nn.Module()))

# Fields of known layers that are left out; the last ones are written by transformers.
_LEFT_OUT = (
    _MODULE_FIELDS | VOLATILE | {"warnings_issued", "max_seq_len_cached", "_is_hf_initialized"}
)


def describe_module(model: nn.Module, describe: Describe) -> dict[str, Any]:
    """Describe a module by its layers, its numbers, and the settings of each layer."""
    state = {
        name: checksum(part) for name, part in [*model.named_parameters(), *model.named_buffers()]
    }
    shared = {}  # objects that several layers hold, such as a network's configuration
    settings = {
        name or "model": _describe_layer(layer, describe, shared)
        for name, layer in model.named_modules()
    }
    described = {"layers": checksum(text_of(model)), "state": checksum(json.dumps(state))}
    return described | {
        "settings": shorten_dict({name: part for name, part in settings.items() if part})
    }


def _describe_layer(layer: nn.Module, describe: Describe, shared: dict[int, Any]) -> dict[str, Any]:
    """Describe a layer beyond its numbers and inner layers; the user's own also by its class."""
    if isinstance(layer, torch.jit.ScriptModule):
        return describe_program(layer, describe)
    described = {}
    fields, left_out = vars(layer), _LEFT_OUT
    if not is_known(type(layer)):
        fields, left_out = held_attributes(layer), _MODULE_FIELDS
        described |= values_of_call(describe(type(layer)))
    if not layer.training:
        described["training"] = False
    for name in _HOOKS:
        if hooks := fields.get(name):  # their keys count all hooks of the process
            with_kwargs = fields.get(f"{name}_with_kwargs", ())
            described[name] = describe([(hook, key in with_kwargs) for key, hook in hooks.items()])
    for name, part in fields.items():
        if name in left_out:
            continue
        if name != "config":
            described[name] = describe(part)
            continue
        if id(part) not in shared:
            shared[id(part)] = describe(part)
        described[name] = shared[id(part)]
    return described


_SOURCE_PLACES = re.compile(r"___torch_mangle_\d+\.?|\[warn_id=\d+\]|(?m: # \S+:\d+:\d+$)")


def describe_program(value: Any, describe: Describe) -> dict[str, Any]:
    """Describe a function or module of ``torch.jit``: its graph, tensors and attributes.

    The places in source files that the graph names are left out.
    """
    described = {}
    with suppress(AttributeError, RuntimeError):  # a module without forward
        graph = value.inlined_graph
        constants = [
            node for node in graph.findAllNodes("prim::Constant") if node.hasAttribute("value")
        ]
        # The text of a graph leaves out the numbers of its tensors.
        tensors = [node.output().toIValue() for node in constants if node.kindOf("value") == "t"]
        described = {
            "graph": checksum(_SOURCE_PLACES.sub("", str(graph))),
            "tensors": describe(tensors),
        }
    names = (
        value._concrete_type.get_attributes()
        if isinstance(value, torch.jit.RecursiveScriptModule)
        else ()
    )
    return described | {
        name: describe(getattr(value, name)) for name in names if not name.startswith("_is_full")
    }
