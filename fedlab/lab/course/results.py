"""Results of answers as numbers, and numbers in words."""

from __future__ import annotations

import numbers
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy import asarray  # bound at import: an answer may replace the function in NumPy

SHORT = 8  # larger arrays are described by their shape

LONG = 200  # characters shown of a text that an answer brought, such as its error


class WrongAnswer(Exception):  # noqa: N818
    """A mistake in an answer.

    Args:
        words: The mistake in words.
        error: What the answer raised, if that is the mistake.
    """

    def __init__(self, words: str, error: BaseException | None = None):
        super().__init__(words)
        self.error = error


def shorten(value: Any) -> str:
    """Return the first ``LONG`` characters of a value as text.

    Example:
        >>> len(shorten("x" * 1000))
        201
    """
    text = str(value)
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def numbers_of(value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a result as an array of floats.

    Args:
        value: A number, an array, a tensor, or a list of them.
        shape: The shape that is asked for; without it, any shape will do.

    Raises:
        WrongAnswer: If the result is no numbers, or has another shape.

    Example:
        >>> numbers_of([1, 2], (2,))
        array([1., 2.])
    """
    asked = (
        "numbers are" if shape is None else f"an array {list(shape)} is" if shape else "a number is"
    )
    if isinstance(value, str):
        remedy = ": leave the quotes out" if _is_number(value) else ""
        raise WrongAnswer(
            f"it gives the text {shorten(repr(value))}, and {asked} asked for{remedy}"
        )
    array = _as_array(value)
    if array.dtype.kind not in "iuf":
        kind = f"a result of type {shorten(type(value).__name__)}"
        if isinstance(value, list | tuple | np.ndarray):
            kind += " that is not numbers in rows of equal length"
        kind = {"b": "truth values", "c": "complex numbers"}.get(array.dtype.kind, kind)
        raise WrongAnswer(f"it gives {kind}, and {asked} asked for")
    if shape is not None and array.shape != shape:
        size = f"an array of shape {list(array.shape)}" if array.shape else "a single number"
        raise WrongAnswer(f"it gives {size}, and {asked} asked for")
    return array.astype(float)


def _as_array(value: Any) -> np.ndarray:
    """Return a value as an array; its type is ``object`` if it cannot be one."""
    try:
        if (
            isinstance(value, list | tuple)
            and value
            and all(isinstance(part, torch.Tensor) for part in value)
        ):
            value = torch.stack(list(value))
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().to_dense()
            value = value.double() if value.is_floating_point() else value  # NumPy has no bfloat16
        array = asarray(value)
        if isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool):
            array = asarray(float(value))
        return array
    except (TypeError, ValueError, RuntimeError):
        return asarray(None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def value_in_words(value: Any, exact: bool = False) -> str:
    """Return a value in a few words.

    Args:
        value: A number, an array or a list; anything else is described by its type.
        exact: Show all digits. Without it, numbers have four.

    Example:
        >>> value_in_words(4416800), value_in_words([1 / 3, 2]), value_in_words(np.zeros((3, 3)))
        ('4,416,800', '[0.3333, 2]', '[3, 3]')
    """
    if isinstance(value, float | int | np.number) or (
        isinstance(value, np.ndarray) and value.ndim == 0
    ):
        number = float(value) + 0.0  # not -0
        whole = number == int(number if np.isfinite(number) else 0)
        return f"{number:,.10g}" if exact or whole else f"{number:.4g}"
    if isinstance(value, np.ndarray | torch.Tensor):
        array = asarray(value)
        if array.size > SHORT:
            return str(list(array.shape))
        return value_in_words(array.tolist(), exact)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_in_words(part, exact) for part in value) + "]"
    return f"({type(value).__name__})"
