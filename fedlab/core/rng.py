"""Randomness is data: every draw comes from a generator that is named by its purpose.

``generator(seed, "cohort", 7)`` is the same stream at any time, on any machine and in any order.
So two engines, a resumed run and a run among others see the same numbers.  No module of this
package touches a global generator.
"""

import hashlib
from functools import cache

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """Return a NumPy generator for a purpose under a seed, independent of all other purposes.

    Example:
        >>> draw = generator(0, "cohort", 7)
        >>> again = generator(0, "cohort", 7)
        >>> bool(draw.random() == again.random())
        True
        >>> bool(draw.random() == generator(0, "cohort", 8).random())
        False
    """
    words = np.frombuffer(_digest(seed, path), "<u4")  # NumPy would split an integer into these
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def key(seed: int, *path: int | str) -> int:
    """Return 63 bits for a purpose under a seed, from which ``keyed`` draws elsewhere.

    Example:
        >>> number = key(0, "rotation", 3)
        >>> bool(keyed(number).random() == keyed(number).random())
        True
    """
    return _key(seed, path) >> 65


def keyed(key: int) -> np.random.Generator:
    """Return the generator of a key, the same at both ends of a wire."""
    return np.random.Generator(np.random.PCG64(int(key)))


class seeded(TorchDispatchMode):  # noqa: N801 - reads as a verb: `with seeded(3, "init"): model = build()`
    """Inside the block, PyTorch draws from a separate generator; the global one is unchanged.

    It serves code that takes no ``generator``, such as the constructor of ``nn.Linear``.  A
    generator that the code passes is respected.  Only the current thread is affected.

    Attributes:
        drawn: Name of the first operator that drew, or None.
        others: Calls of operators that may draw, and take no generator.

    Example:
        >>> with seeded(3, "init"):
        ...     first = torch.rand(2)
        >>> with seeded(3, "init"):
        ...     second = torch.rand(2)
        >>> torch.equal(first, second)
        True
    """

    def __init__(self, seed: int, *path: int | str):
        super().__init__()
        self._seed = _key(seed, path) % 2**63
        self._generators: dict[str, torch.Generator] = {}
        self.drawn: str | None = None
        self.others: list[tuple] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else PyTorch imports its compiler at the first draw, only to turn it off: over a second.
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, drawing = kwargs or {}, _drawing(func)
        device = _device(args, kwargs) if drawing and kwargs.get("generator") is None else "meta"
        if device == "meta":  # no draw, or from a generator of the caller
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
    packet = func._overloadpacket  # the plain variant of torch.randn, say, takes no generator
    variants = (getattr(packet, name) for name in packet.overloads())
    wanted = sorted([*names, "generator"])
    return next(
        (v for v in variants if sorted(a.name for a in v._schema.arguments) == wanted), None
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
