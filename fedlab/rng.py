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
    words = np.frombuffer(_digest(seed, path), "<u4")  # those of the key, which NumPy would first take apart
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def key(seed: int, *path: int | str) -> int:
    """63 bits for the purpose ``path`` under ``seed``, which can travel: ``keyed`` makes the same draws of it elsewhere."""
    return _key(seed, path) >> 65


def keyed(key: int) -> np.random.Generator:
    """The generator that both ends of a wire have from a key."""
    return np.random.Generator(np.random.PCG64(int(key)))


class seeded(TorchDispatchMode):  # noqa: N801 - reads as a verb: `with seeded(3, "init"): model = build()`
    """Inside the block, PyTorch's draws come from a generator of our own; the global one stays as it is.

    For code that takes no ``generator`` argument, such as the constructors of ``nn.Linear``.  Only this thread is concerned.
    """

    def __init__(self, seed: int, *path: int | str):
        super().__init__()
        self._generator = torch.Generator().manual_seed(_key(seed, path) % 2**63)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler at our first draw, only to keep it off: more than a second

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        own = {"generator": self._generator} if _draws(func) else {}
        return func(*args, **((kwargs or {}) | own))


@cache
def _draws(func: torch._ops.OpOverload) -> bool:
    return any(argument.name == "generator" for argument in func._schema.arguments)


def _key(seed: int, path: tuple) -> int:
    return int.from_bytes(_digest(seed, path), "little")


def _digest(seed: int, path: tuple) -> bytes:
    return hashlib.blake2b(repr((int(seed), *path)).encode(), digest_size=16).digest()
