"""Cases on which the checks try an answer."""

from __future__ import annotations

from typing import Any

import numpy as np

TRIES = 3  # random cases, beside those that are known to be hard


def random_generator() -> np.random.Generator:
    """Return a generator with an unpredictable seed, so that no answer can be learned by heart."""
    return np.random.default_rng()


def named_cases(names: tuple[str, ...], cases: list[tuple]) -> list[dict[str, Any]]:
    """Return each case as arguments by name.

    Args:
        names: Names of the arguments.
        cases: The arguments of each call, in the same order.

    Example:
        >>> named_cases(("size", "rate"), [(10, 2), (20, 5)])
        [{'size': 10, 'rate': 2}, {'size': 20, 'rate': 5}]
    """
    return [dict(zip(names, case, strict=True)) for case in cases]
