"""Measure this computer and a training step, to compare them with a plan."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Task
from fedlab.system.devices import Device


def this_computer(seconds: float = 0.5) -> Device:
    """Measure the speed of this computer, with products of matrices in single precision.

    Training reaches from 0.6 to 1.1 times this speed.

    Example:
        >>> this_computer(0.01).basis
        'measured'
    """
    import psutil

    size = 1024
    a, b = torch.ones(size, size), torch.ones(size, size)
    a @ b
    times, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    teraflops = 2 * size**3 / float(np.median(times)) / 1e12
    memory = psutil.virtual_memory().total / 1e9
    watts = (math.nan,) * 3
    return Device(
        "this computer", teraflops, 0.6, 1.1, memory, *watts, 0, "measured", "a product of matrices"
    )


def measure(task: Task, w: Tensor, x: Tensor, y: Tensor, *, repeats: int = 5) -> dict[str, float]:
    """Measure a training step: its operations, the bytes kept for the backward pass, its time.

    PyTorch counts the operations of matrix products. Bytes kept are those of tensors that autograd
    saves and that are no parameters.

    Args:
        task: The model and its loss.
        w: Parameters ``[d]``.
        x: Examples ``[n, ...]``.
        y: Their labels ``[n, ...]``.
        repeats: Number of steps that are timed.

    Returns:
        ``operations``, ``bytes kept``, and ``seconds``, a median.
    """
    from torch.utils.flop_counter import FlopCounterMode

    saved, w = {}, w.clone().requires_grad_()
    parameters = {p.untyped_storage().data_ptr() for p in (*task.template(w).parameters(), w)}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step():
        torch.autograd.grad(task.loss(task.forward(w, x), y).mean(), w)

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
    ):
        step()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return {
        "operations": counter.get_total_flops(),
        "bytes kept": sum(saved.values()),
        "seconds": float(np.median(seconds)),
    }
