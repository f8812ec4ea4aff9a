"""Randomness is data: every draw comes from a generator named by what it is for.

``generator(seed, "cohort", 7)`` is the same stream whenever, wherever and in whatever order it is asked for, so two engines,
a resumed run and a run among others see the same numbers.  Nothing here or elsewhere touches a global generator.
"""

import hashlib
from functools import cache

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """A NumPy generator for the purpose ``path`` under ``seed``; other purposes and seeds are independent of it."""
    words = np.frombuffer(
        _digest(seed, path), "<u4"
    )  # those of the key, which NumPy would first take apart
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def key(seed: int, *path: int | str) -> int:
    """63 bits for the purpose ``path`` under ``seed``, which can travel: ``keyed`` makes the same draws of it elsewhere."""
    return _key(seed, path) >> 65


def keyed(key: int) -> np.random.Generator:
    """The generator that both ends of a wire have from a key."""
    return np.random.Generator(np.random.PCG64(int(key)))


class seeded(TorchDispatchMode):  # noqa: N801 - reads as a verb: `with seeded(3, "init"): model = build()`
    """Inside the block, PyTorch's draws come from a generator of our own; the global one stays as it is.

    For code that takes no ``generator``, such as the constructors of ``nn.Linear``, and for ``torch.randn`` in them.
    A generator that the code passes itself is respected.  Only this thread is concerned.
    """

    def __init__(self, seed: int, *path: int | str):
        super().__init__()
        self._seed, self._generators = _key(seed, path) % 2**63, {}
        self.drawn: str | None = None  # the first operator that drew
        self.others: list[tuple] = []  # calls of operators that may draw, and take no generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler at our first draw, only to keep it off: more than a second

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, drawing = kwargs or {}, _drawing(func)
        device = _device(args, kwargs) if drawing and kwargs.get("generator") is None else "meta"
        if device == "meta":  # nothing is drawn, or from a generator of the caller's
            if drawing is None and torch.Tag.nondeterministic_seeded in func.tags:
                self.others.append((func, args, kwargs))
            return func(*args, **kwargs)
        self.drawn = self.drawn or func._schema.name.removeprefix("aten::")
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return drawing(*args, **kwargs | {"generator": self._generators[device]})


@cache
def _drawing(func: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """Return the variant of an operator that takes a generator; None if there is none."""
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return func
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return None
    packet = (
        func._overloadpacket
    )  # of torch.randn and its like the plain variant takes no generator
    variants = (getattr(packet, name) for name in packet.overloads())
    wanted = sorted([*names, "generator"])
    return next(
        (each for each in variants if sorted(a.name for a in each._schema.arguments) == wanted),
        None,
    )


def _device(args: tuple, kwargs: dict) -> str:
    """Return the type of the device on which an operator draws."""
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
    device = kwargs.get("device") or next(
        (tensor.device for tensor in tensors), torch.get_default_device()
    )
    return torch.device(device).type


def _key(seed: int, path: tuple) -> int:
    return int.from_bytes(_digest(seed, path), "little")


def _digest(seed: int, path: tuple) -> bytes:
    return hashlib.blake2b(repr((int(seed), *path)).encode(), digest_size=16).digest()
