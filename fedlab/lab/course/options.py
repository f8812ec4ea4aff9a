"""Error messages that list what is possible, and suggest what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def list_options(value: object, names: Iterable) -> str:
    """List the possible names for the end of an error, with a suggestion if one is close.

    Names that hold a comma get double quotes.

    Args:
        value: The name that was refused.
        names: The names that are possible.

    Example:
        >>> list_options("alpa", ["alpha", "rounds"])
        'alpha, rounds; did you mean alpha?'
        >>> list_options("tv", ["laptop", "phone, flagship"])
        'laptop, "phone, flagship"'
    """
    from fedlab.core.names import join_names, quote_name  # with torch, which takes a second

    names = [str(name) for name in names]
    close = get_close_matches(str(value), names, n=1, cutoff=0.5)
    return join_names(names) + (f"; did you mean {quote_name(close[0])}?" if close else "")
