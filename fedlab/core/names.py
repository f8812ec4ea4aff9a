"""Lists of names in messages and descriptions."""

from __future__ import annotations

from collections.abc import Iterable


def quote_name(name: object) -> str:
    """Return a name for use in a list: in double quotes if it holds a comma.

    Example:
        >>> quote_name("laptop"), quote_name("phone, flagship")
        ('laptop', '"phone, flagship"')
    """
    return f'"{name}"' if "," in str(name) else str(name)


def join_names(names: Iterable) -> str:
    """Join names by commas, so that a name with a comma is not read as two.

    Example:
        >>> join_names(["laptop", "phone, flagship"])
        'laptop, "phone, flagship"'
    """
    return ", ".join(map(quote_name, names))
