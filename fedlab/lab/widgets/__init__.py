"""Widgets of the notebooks: controls around a live picture, predict-first, export, and the dashboard."""

from importlib import import_module
from typing import Any

# Each name and its module, imported on first use: the dashboard's server needs neither PyTorch nor a panel.
MODULES = {
    "Dashboard": "dashboard",
    "Panel": "panel",
    "Prediction": "predict",
    "Scene": "panel",
    "choice": "controls",
    "latest": "panel",
    "rounds_of": "panel",
    "slider": "controls",
}

__all__ = sorted(MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
