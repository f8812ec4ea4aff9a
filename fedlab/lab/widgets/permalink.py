r"""The setting of a panel as one line, to be pasted into a message and into another panel.

``fedlab 0.1.0 00 train: alpha=0.1 clients_per_round=10 seeds=1`` names the version that made the
line, the lesson, the panel's training function, and every control. Values with spaces or other
signs are in double quotes: ``skew="feature: noise"``. In quotes, signs that a shell or a chat
would change are written as ``\u0024``, so a line survives both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fedlab.lab.course.parameters import Parameter, format_argument, parse_value

LONGEST = 4000  # characters; a line of the dashboard's 24 controls has 500

SHOWN = 60  # characters of a wrong line that its complaint repeats

# A shell replaces the first five in double quotes, and chats make the last of straight quotes.
_CHANGED = set('"\\$`!“”„')

_PLAIN = re.compile(r"[\w.+-]+", re.ASCII)
_HEAD = re.compile(r"fedlab (?P<version>\d[\w.+-]{0,39})(?: (?P<place>[^:=\"]*))?:")
_PAIR = re.compile(r"\s+(?P<name>\w+)=(?P<value>\"[^\"]*\"|[^\s\"]+)(?=\s|$)")


class Setting(NamedTuple):
    """A setting that was read from a line.

    Attributes:
        version: Version of the package that made the line.
        values: A value for each control; controls that the line leaves out are at their defaults.
    """

    version: str
    values: dict[str, Any]


def write_setting(version: str, place: str, settings: Mapping[str, Any]) -> str:
    """Return a setting as one line.

    Args:
        version: Version of the package.
        place: The lesson and the panel, such as ``00 train``; may be empty.
        settings: The values of all controls, by name.

    Example:
        >>> write_setting("0.1.0", "02 train", {"skew": "feature: noise", "strength": 0.5})
        'fedlab 0.1.0 02 train: skew="feature: noise" strength=0.5'
    """
    head = " ".join(filter(None, ("fedlab", version, place)))
    pairs = [f"{name}={_quote(format_argument(value))}" for name, value in settings.items()]
    return " ".join([f"{head}:", *pairs])


def read_setting(text: str, place: str, controls: Mapping[str, Parameter]) -> Setting:
    """Read a setting from a line, of this version of the package or of another.

    Args:
        text: The line.
        place: The lesson and the panel that the line has to name.
        controls: The controls of the panel, by name.

    Raises:
        ValueError: If the text is no such line, is of another panel, names something else than
            the panel's controls, or has a value that is impossible.

    Example:
        >>> controls = {"seeds": Parameter("seeds", "int", 1, limits=(1, 10))}
        >>> read_setting("fedlab 0.0.9 00 train: seeds=5", "00 train", controls)
        Setting(version='0.0.9', values={'seeds': 5})
        >>> read_setting("fedlab 0.1.0 00 train: seeds=11", "00 train", controls)
        Traceback (most recent call last):
        ValueError: setting: seeds=11 lies outside 1 to 10; choose a value within
    """
    if len(text) > LONGEST:
        raise ValueError(
            f"setting must be one line of at most {LONGEST} characters (this text has "
            f"{len(text)}). Try copying the line again"
        )
    line = re.sub("[“”„]", '"', text.strip().strip("`"))
    head = _HEAD.match(line)
    if not head:
        raise ValueError(
            f"setting={_cut(line)!r} must begin with fedlab, a version and a colon. Try the whole "
            "line of a panel"
        )
    if (head["place"] or "").strip() != place:
        raise ValueError(
            f"setting must be of this panel, {place or 'which has no lesson'} (the line is of "
            f"{_cut(head['place'] or '') or 'no lesson'}). Try the panel that it names"
        )
    values = {name: parameter.default for name, parameter in controls.items()}
    return Setting(head["version"], values | _read_values(line[head.end() :], controls))


def _read_values(text: str, controls: Mapping[str, Parameter]) -> dict[str, Any]:
    values = {}
    for name, word in _pairs(text):
        if name not in controls:
            raise ValueError(
                f"setting must name controls of this panel, and {_cut(name)!r} is none. Try "
                f"{', '.join(controls)}"
            )
        if name in values:
            raise ValueError(f"setting must give {name} once. Try leaving one out")
        try:
            values[name] = parse_value(controls[name], _unquote(word), "setting")
        except ValueError as error:
            raise ValueError(_cut(str(error), 3 * SHOWN)) from None
    return values


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and values as a line writes them."""
    place = 0
    while text[place:].strip():
        pair = _PAIR.match(text, place)
        if not pair:
            raise ValueError(
                f"setting must go on with name=value, and goes on with "
                f"{_cut(text[place:].strip())!r}. Try copying the line again"
            )
        yield pair["name"], pair["value"]
        place = pair.end()


def _quote(text: str) -> str:
    """Return a value as a line writes it: in double quotes unless it is plain."""
    if _PLAIN.fullmatch(text):
        return text
    signs = (
        sign if sign.isprintable() and sign not in _CHANGED else _escape(sign) for sign in text
    )
    return f'"{"".join(signs)}"'


def _escape(sign: str) -> str:
    """Return a sign as JSON would write it, with two escapes above the first 65,536."""
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[k : k + 2].hex()}" for k in range(0, len(units), 2))


def _unquote(word: str) -> str:
    if not word.startswith('"'):
        return word
    try:
        return json.loads(word, strict=False)
    except ValueError:
        raise ValueError(
            f"setting={_cut(word)} must have signs like \\u0024 after a backslash. Try copying "
            "the line again"
        ) from None


def _cut(text: str, length: int = SHOWN) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
