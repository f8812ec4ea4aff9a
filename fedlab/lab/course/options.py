"""Error messages that list what is possible, and suggest what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def list_options(value: object, names: Iterable) -> str:
    """List the possible names for the end of an error, with a suggestion if one is close.

    Args:
        value: The name that was refused.
        names: The names that are possible.

    Example:
        >>> list_options("alpa", ["alpha", "rounds"])
        'alpha, rounds; did you mean alpha?'
    """
    names = [str(name) for name in names]
    close = get_close_matches(str(value), names, n=1, cutoff=0.5)
    return ", ".join(names) + (f"; did you mean {close[0]}?" if close else "")
