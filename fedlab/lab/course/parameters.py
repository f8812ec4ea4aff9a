"""Parameters of a notebook: their types, limits and choices, read from its parameters cell."""

from __future__ import annotations

import ast
import csv
import io
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedlab.lab.course.curriculum import cell_tags, load_notebook
from fedlab.lab.course.options import list_options

_KINDS = {"int": int, "float": float, "str": str, "bool": bool}

_LIMITS = re.compile(r"\[([^\]]*(?: to |\|)[^\]]*)\]")


class Parameter(NamedTuple):
    """A value that may be set from outside: in a notebook by a report, in a panel by its reader.

    Attributes:
        name: Name of the variable.
        kind: Type annotation: ``int``, ``float``, ``str``, ``bool``, or a list of one of them.
        default: The value that the notebook holds.
        limits: Lowest and highest value, or empty.
        choices: All possible values, or empty.
        comment: Explanation for the reader.
        unit: Unit of the value, such as ``degrees``.
        log: Equal steps of a slider are equal factors.
    """

    name: str
    kind: str
    default: Any
    limits: tuple = ()
    choices: tuple = ()
    comment: str = ""
    unit: str = ""
    log: bool = False


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Read the parameters that a notebook declares, by name.

    The cell tagged ``parameters`` declares one parameter per line, as
    ``name: type = value  # [limits] comment``. Limits are ``[1 to 100]``, ``[0 to 90, degrees]``
    or ``[0.01 to 10, log]``. Choices are ``[fast | full]``. Both may continue in the comment line
    below.

    Args:
        path: The notebook file.

    Returns:
        One ``Parameter`` per line; empty if no cell has the tag.

    Raises:
        ValueError: If a line declares no parameter, or a default lies outside its limits.

    Example:
        >>> from fedlab.lab.course import find_lesson
        >>> read_parameters(find_lesson("00").path)["alpha"].limits
        (0.01, 100.0)
    """
    cells = load_notebook(path)["cells"]
    tagged = (i for i, cell in enumerate(cells) if "parameters" in cell_tags(cell))
    position = next(tagged, None)
    if position is None:
        return {}
    source, place = cells[position]["source"], f"{path.name}, cell {position}"
    try:
        lines = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{place}: {error.msg}, line {error.lineno}") from error
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    parameters = [
        _read_parameter(line, _join_comment(comments, line.end_lineno), place) for line in lines
    ]
    return {parameter.name: parameter for parameter in parameters}


def _join_comment(comments: Mapping[int, str], line: int) -> str:
    """Return the comment of a line, with the lines below it until its brackets are closed."""
    words = comments.get(line, "")
    while words.count("[") > words.count("]") and (line := line + 1) in comments:
        words += " " + comments[line]
    return words


def _read_parameter(line: ast.stmt, comment: str, place: str) -> Parameter:
    targets = getattr(line, "targets", None) or [getattr(line, "target", None)]
    if not isinstance(targets[0], ast.Name):
        raise ValueError(
            f"{place}: {ast.unparse(line)!r} is no parameter; write each on a line of its own, "
            "`name: type = value  # what it is`"
        )
    name = targets[0].id
    kind = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else ""
    if _item_kind(kind) not in _KINDS:
        raise ValueError(
            f"{place}: {name} needs an annotation: {', '.join(_KINDS)}, or a list of one of them"
        )
    if not comment:
        raise ValueError(f"{place}: {name} needs a comment in the same line that says what it is")
    bounds = _LIMITS.match(comment)
    try:
        allowed = _read_limits(bounds[1], _item_kind(kind)) if bounds else {}
        default = ast.literal_eval(line.value)
    except (ValueError, TypeError, SyntaxError):
        raise ValueError(
            f"{place}: {name} needs a plain default, and limits like [1 to 10] or [a | b]"
        ) from None
    words = comment[bounds.end() if bounds else 0 :].strip()
    parameter = Parameter(name, kind, default, comment=words, **allowed)
    return parameter._replace(default=check_value(parameter, default, place))


def _item_kind(kind: str) -> str:
    return kind.removeprefix("list[").removesuffix("]")


def _read_limits(text: str, kind: str) -> dict[str, Any]:
    """Read ``1 to 10`` as limits, with ``log`` or a unit after a comma; ``a | b`` as choices."""
    if "|" in text:
        return {"choices": tuple(_convert(piece.strip(), kind) for piece in text.split("|"))}
    bounds, *words = (piece.strip() for piece in text.split(","))
    low, high = (_KINDS[kind](piece) for piece in bounds.split(" to "))
    log = "log" in words
    if kind not in ("int", "float") or low > high or (log and low <= 0):
        raise ValueError(text)
    unit = " ".join(word for word in words if word != "log")
    return {"limits": (low, high), "log": log, "unit": unit}


def _convert(text: str, kind: str) -> Any:
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return _KINDS[kind](text)


def parse_value(parameter: Parameter, text: str, place: str) -> Any:
    """Read a text as a value of a parameter.

    Args:
        parameter: Gives the type, the limits and the choices.
        text: For example ``0.1``; a list is written ``1,2,3``, or ``"a, b",c`` with quotes around
            an item that holds a comma.
        place: Start of the error's words, such as the notebook's name.

    Returns:
        The value, within the limits.

    Raises:
        ValueError: If the text has another type, or lies outside the limits.

    Example:
        >>> rates = Parameter("rates", "list[float]", [0.1], limits=(0.0, 10.0))
        >>> parse_value(rates, "0.5, 2", "00")
        [0.5, 2.0]
    """
    kind, is_list = _item_kind(parameter.kind), parameter.kind.startswith("list")
    try:
        values = [_convert(piece, kind) for piece in (_split_items(text) if is_list else [text])]
    except ValueError:
        raise ValueError(
            f"{place}: {parameter.name}={text!r} is not of type {parameter.kind}; "
            f"an example is {format_argument(parameter.default)}"
        ) from None
    try:
        return check_value(parameter, values if is_list else values[0], place)
    except ValueError as refused:
        commas = kind == "str" and is_list and any("," in name for name in parameter.choices)
        quote = "; put a name with a comma in double quotes" if commas else ""
        raise ValueError(f"{refused}{quote}") from None


def _split_items(text: str) -> list[str]:
    """Return the items of a list as they were typed, without their quotes."""
    text = re.sub(r"^\[(.*)\]$", r"\1", text.strip())
    quote = "'" if re.match(r"\s*'", text) else '"'
    try:
        (pieces,) = csv.reader([text], quotechar=quote, skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise ValueError(text) from error
    if not pieces:
        raise ValueError(text)
    return [piece.strip() for piece in pieces]


def format_argument(value: Any) -> str:
    """Write a value so that ``parse_value`` reads it back.

    Args:
        value: A value, or a list: commas then separate the items, and items that need quotes get
            them.

    Example:
        >>> format_argument([1.0, 0.5])
        '1,0.5'
        >>> format_argument(["label, strong", "iid"])
        '"label, strong",iid'
    """
    if not isinstance(value, list):
        return format_value(value)
    line, items = io.StringIO(), [format_value(item) for item in value]
    needs_quotes = any(mark in item for item in items for mark in "'[]")
    quoting = csv.QUOTE_ALL if needs_quotes else csv.QUOTE_MINIMAL
    csv.writer(line, quoting=quoting, lineterminator="").writerow(items)
    return line.getvalue()


def format_value(value: Any) -> str:
    """Write a value as a reader would, without losing a digit.

    Example:
        >>> format_value(100.0), format_value(1 / 3)
        ('100', '0.3333333333333333')
    """
    short = f"{value:.10g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def check_value(parameter: Parameter, value: Any, place: str) -> Any:
    """Return a value if it has a parameter's type and lies within its limits.

    Args:
        parameter: Gives the type, the limits and the choices.
        value: The value to check; a whole number will do for a float.
        place: Start of the error's words, such as the notebook's name.

    Raises:
        ValueError: If the value has another type, or lies outside the limits.

    Example:
        >>> alpha = Parameter("alpha", "float", 1.0, limits=(0.01, 100.0))
        >>> check_value(alpha, 3, "00")
        3.0
        >>> check_value(alpha, 1000.0, "00")
        Traceback (most recent call last):
        ValueError: 00: alpha=1000.0 lies outside 0.01 to 100.0; choose a value within
    """
    name, kind = parameter.name, _item_kind(parameter.kind)
    is_list = parameter.kind.startswith("list")
    values = value if is_list and isinstance(value, list) else [value]
    if kind == "float":
        values = [float(item) if type(item) is int else item for item in values]
    if is_list != isinstance(value, list) or any(type(item) is not _KINDS[kind] for item in values):
        raise ValueError(f"{place}: {name}={value!r} is not of type {parameter.kind}")
    for item in values:
        if parameter.limits and not parameter.limits[0] <= item <= parameter.limits[1]:
            low, high = parameter.limits
            raise ValueError(
                f"{place}: {name}={item!r} lies outside {low} to {high}; choose a value within"
            )
        if parameter.choices and item not in parameter.choices:
            options = list_options(item, parameter.choices)
            raise ValueError(f"{place}: {name}={item!r} is not one of {options}")
    return values if is_list else values[0]
