"""The computer that the course runs on: versions, processors, memory."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = (
    "fedlab-workbench",
    "torch",
    "transformers",
    "jupyterlab",
    "papermill",
    "ipywidgets",
)


def preflight() -> pd.DataFrame:
    """Return a table of this computer: versions, processors, memory.

    The table holds no paths, because reports are for others to read.

    Example:
        >>> preflight().loc["GPU", "value"]  # doctest: +SKIP
        'none'
    """
    import pandas as pd
    import psutil
    import torch

    memory = psutil.virtual_memory()
    rows = [("python", platform.python_version())]
    rows += [(name.removesuffix("-workbench"), installed_version(name)) for name in PACKAGES]
    rows += [
        ("processor cores usable", str(usable_cores())),
        ("torch threads", str(torch.get_num_threads())),
        ("memory, GB", f"{memory.total / 1e9:.1f}"),
        ("memory available, GB", f"{memory.available / 1e9:.1f}"),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"),
    ]
    return pd.DataFrame(rows, columns=["what", "value"]).set_index("what")


def installed_version(distribution: str) -> str:
    """Return the version of an installed package.

    Args:
        distribution: Name on PyPI.

    Example:
        >>> installed_version("no-such-package")
        'not installed'
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def usable_cores() -> int:
    """Return the number of processor cores that this process may use.

    A container or a batch system can allow fewer than the computer has.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
