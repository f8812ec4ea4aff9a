"""Parts that the page of a report and the index of all reports share."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

FIGURES = Path(__file__).resolve().parents[1] / "plots"

TEMPLATES = Path(__file__).resolve().parent / "templates"


def script_hash(text: str) -> str:
    """Return a script's hash as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def format_duration(seconds: float) -> str:
    """Return a duration as short text.

    Example:
        >>> format_duration(35), format_duration(240), format_duration(3900)
        ('35 s', '4 min', '1 h 5 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
