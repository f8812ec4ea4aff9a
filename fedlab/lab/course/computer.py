"""The computer that the course runs on: versions, processors, memory."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def preflight() -> pd.DataFrame:
    """What this computer offers: versions, processors, memory.  No paths: a report is for others to read."""
    import pandas as pd
    import psutil
    import torch

    packages = (
        "fedlab-workbench",
        "torch",
        "transformers",
        "jupyterlab",
        "papermill",
        "ipywidgets",
    )
    memory = psutil.virtual_memory()
    rows = [("python", platform.python_version())]
    rows += [(name.removesuffix("-workbench"), installed_version(name)) for name in packages]
    rows += [
        ("processor cores usable", str(usable_cores())),
        ("torch threads", str(torch.get_num_threads())),
        ("memory, GB", f"{memory.total / 1e9:.1f}"),
        ("memory available, GB", f"{memory.available / 1e9:.1f}"),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"),
    ]
    return pd.DataFrame(rows, columns=["what", "value"]).set_index("what")


def installed_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def usable_cores() -> int:
    """Those this process may use, which a container or a batch system can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
