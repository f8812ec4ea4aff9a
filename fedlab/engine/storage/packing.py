"""Packing of runs: their state as JSON, with its numbers as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.core import ClientTable
from fedlab.engine.run_state import Run
from fedlab.upload.traffic import Traffic


def client_tables(state: Any) -> Iterator[ClientTable]:
    """Yield the tables with one row per client in the state of an algorithm or a transform."""
    if isinstance(state, ClientTable):
        yield state
    elif isinstance(state, Traffic):
        yield from client_tables(vars(state))
    elif isinstance(state, list | tuple | dict):
        for part in state.values() if isinstance(state, dict) else state:
            yield from client_tables(part)


def pack_run(run: Run, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Pack a run without its labels and seed, which the experiment knows.

    Args:
        run: The run.
        name: Prefix of its tensors' names.
        tensors: Tensors by name; those of the run are added.

    Returns:
        Values that JSON can hold.
    """
    known = {*run.labels, "seed"}
    columns = [column for column in (run.clients[0] if run.clients else ()) if column not in known]
    clients = {column: np.concatenate([rows[column] for rows in run.clients]) for column in columns}
    return {
        "w": pack(run.w, f"{name}w", tensors),
        "state": pack(run.state, f"{name}state", tensors),
        "traffic": pack(vars(run.traffic), f"{name}traffic", tensors),
        "rounds": [
            {column: value for column, value in row.items() if column not in known}
            for row in run.rounds
        ],
        "clients": {
            column: pack(values, f"{name}clients.{column}", tensors)
            for column, values in clients.items()
        },
    }


def unpack_run(
    run: Run, packed: dict[str, Any], tensors: dict[str, Tensor], *, has_extra: bool
) -> dict[str, Any]:
    """Unpack a run to the devices that it has today.

    Args:
        run: The run before its first round, to which the packed one must fit.
        packed: Values that ``pack_run`` returned, with an ``extra`` state if there is one.
        tensors: Tensors by name.
        has_extra: True if the packed run has an extra state.

    Returns:
        The model, states, traffic and tables by name.

    Raises:
        ValueError: If it does not fit, or its tables hold anything but numbers.
    """
    # Tensors on the CPU of a run on a GPU stay there.
    places = {packed["w"]["device"]: run.w.device}
    unpacked = {name: unpack(packed[name], tensors, places) for name in ("w", "state", "traffic")}
    shape = list(unpacked["w"].shape)
    if shape != list(run.w.shape) or unpacked["w"].dtype != run.w.dtype:
        raise ValueError(f"its model has {shape} numbers, and the task's {list(run.w.shape)}")
    if unpacked["traffic"].keys() != vars(run.traffic).keys():
        raise ValueError("its traffic has other fields")
    unpacked["rounds"] = [{**run.labels, "seed": run.seed} | row for row in packed["rounds"]]
    types = {type(value) for row in packed["rounds"] for value in row.values()}
    if not all(type(row["round"]) is int for row in packed["rounds"]) or types - {int, float}:
        raise ValueError("its rounds are no numbers")
    unpacked["clients"] = {
        name: unpack(column, tensors, places) for name, column in packed["clients"].items()
    }
    if len({len(column) for column in unpacked["clients"].values()}) > 1:
        raise ValueError("its columns differ in length")
    unpacked["extra"] = unpack(packed["extra"], tensors, places) if has_extra else None
    return unpacked


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Pack a state as JSON.

    Args:
        value: Tensors, arrays, client tables, numbers, texts and None, in tuples, lists and dicts.
        name: Name of its tensor, or their prefix.
        tensors: Tensors by name; those of the state are added.

    Returns:
        Values that JSON can hold.

    Raises:
        TypeError: If the state holds anything else.

    Example:
        >>> tensors = {}
        >>> pack({"step": 3, "mean": torch.zeros(2)}, "state", tensors)
        {'dict': [['step', 3], ['mean', {'tensor': 'state.mean', 'device': 'cpu'}]]}
        >>> unpack(_, tensors, {})
        {'step': 3, 'mean': tensor([0., 0.])}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        # A copy: no two tensors of a file may share memory.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name, "device": value.device.type}
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return {"texts": value.tolist()}
    if isinstance(value, np.ndarray | np.generic):
        tensors[name] = torch.from_numpy(np.array(value, order="C"))
        return {"array": name}
    if isinstance(value, ClientTable):
        tensors[f"{name}.place"], rows = value.contents
        tensors[f"{name}.rows"] = rows.cpu()
        return {"table": name, "device": rows.device.type}
    if type(value) in (list, tuple):
        parts = [pack(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]
        return {type(value).__name__: parts}
    if type(value) is dict and all(type(key) in (str, int) for key in value):
        items = [[key, pack(part, f"{name}.{key}", tensors)] for key, part in value.items()]
        return {"dict": items}
    raise TypeError(
        f"a state holds a {type(value).__name__}, which no checkpoint can keep. Try tensors, "
        "arrays, numbers, texts, None and ClientTable, in tuples, lists and dicts, or run without "
        "a checkpoint"
    )


def unpack(packed: Any, tensors: dict[str, Tensor], places: dict[str, torch.device]) -> Any:
    """Unpack a state.

    Args:
        packed: Values that ``pack`` returned.
        tensors: Tensors by name.
        places: Device of today for each type of device at the time of packing; else the CPU.

    Returns:
        The state.
    """
    if not isinstance(packed, dict):
        return packed
    kind, content = next(iter(packed.items()))
    if kind == "tensor":
        return tensors[content].to(places.get(packed["device"], "cpu"))
    if kind == "texts":
        return np.array(content)
    if kind == "array":
        return tensors[content].numpy()[()]
    if kind == "table":
        rows = tensors[f"{content}.rows"].to(places.get(packed["device"], "cpu"))
        return ClientTable.from_contents(tensors[f"{content}.place"], rows)
    if kind == "dict":
        return {key: unpack(part, tensors, places) for key, part in content}
    return {"list": list, "tuple": tuple}[kind](unpack(part, tensors, places) for part in content)
