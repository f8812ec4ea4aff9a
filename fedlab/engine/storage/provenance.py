"""Origin of functions and classes: this package, an installed library, or the user.

A function of a library is described by its name, since the library's version fixes the rest. A
function of the user is described by its code and everything that it uses.
"""

from __future__ import annotations

import sys
import sysconfig
from types import FunctionType
from typing import Any

# Folders of Python and of installed packages.
_INSTALLED = tuple(
    path for kind, path in sysconfig.get_paths().items() if kind in ("stdlib", "purelib", "platlib")
)


def is_ours(thing: Any) -> bool:
    """Return True for functions, classes and objects of this package."""
    return (getattr(thing, "__module__", None) or "").split(".")[0] == "fedlab"


def is_known(thing: Any) -> bool:
    """Return True for things of this package or an installed one, False for the user's own."""
    if is_ours(thing):
        return True
    if isinstance(thing, FunctionType) and not thing.__code__.co_filename.startswith("<"):
        return is_installed(thing.__code__.co_filename)
    name = getattr(thing, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if isinstance(thing, type) and (module is None or not getattr(module, "__file__", None)):
        return name == "builtins" or name in sys.builtin_module_names
    return name != "__main__" and is_installed(getattr(module, "__file__", None) or "")


def is_installed(file: str | None) -> bool:
    """Return True for a file of Python or of an installed package; True without a file."""
    return file is None or file.startswith(_INSTALLED)


def name_of(thing: Any) -> str:
    """Return the name of a function or class, or of an object's class.

    An inner function of this package has the name of the outer one. Names of libraries begin with
    their module.
    """
    name = getattr(thing, "__qualname__", type(thing).__qualname__).replace(".<locals>", "")
    if is_ours(thing):
        return name.split(".")[0] if "<locals>" in thing.__qualname__ else name
    return f"{thing.__module__}.{name}" if is_known(thing) else name


def is_found_by_name(value: Any) -> bool:
    """Return True if a library's object lies in its module under its own name."""
    place: Any = sys.modules.get(str(getattr(value, "__module__", None)))
    for name in str(getattr(value, "__qualname__", "")).split("."):
        place = getattr(place, name, None)
    return place is value
