"""Parameters of a notebook: their types, limits and choices, read from its parameters cell."""

from __future__ import annotations

import ast
import csv
import io
import re
import tokenize
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    pass
from fedlab.lab.course.curriculum import cell_tags, load_notebook

_KINDS = {"int": int, "float": float, "str": str, "bool": bool}

_LIMITS = re.compile(r"\[([^\]]*(?: to |\|)[^\]]*)\]")


class Parameter(NamedTuple):
    """What may be set from outside: of a notebook by a report, and in a panel by its reader.

    ``limits`` is a pair of numbers or empty, and so are the ``choices``; ``log``: equal steps are equal factors.
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
    """What the cell tagged ``parameters`` declares, each line as ``name: type = value  # [limits] what it is``.

    Limits are ``[1 to 100]``, ``[0 to 90, degrees]``, ``[0.01 to 10, log]`` or choices, ``[fast | full]``, which may go on
    in the comment below.
    """
    cells = load_notebook(path)["cells"]
    at = next((at for at, cell in enumerate(cells) if "parameters" in cell_tags(cell)), None)
    if at is None:
        return {}
    source, where = cells[at]["source"], f"{path.name}, cell {at}"
    try:
        lines = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{where}: {error.msg}, line {error.lineno}") from error
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    found = [_parameter(line, _comment(comments, line.end_lineno), where) for line in lines]
    return {parameter.name: parameter for parameter in found}


def _comment(comments: Mapping[int, str], line: int) -> str:
    """The comment of a line, with the lines below it until its brackets are closed."""
    words = comments.get(line, "")
    while words.count("[") > words.count("]") and (line := line + 1) in comments:
        words += " " + comments[line]
    return words


def _parameter(line: ast.stmt, comment: str, where: str) -> Parameter:
    targets = getattr(line, "targets", None) or [getattr(line, "target", None)]
    if not isinstance(targets[0], ast.Name):
        told = f"{ast.unparse(line)!r} is no parameter"
        raise ValueError(
            f"{where}: {told}; write each on a line of its own, `name: type = value  # what it is`"
        )
    name, kind = (
        targets[0].id,
        ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else "",
    )
    if _inner(kind) not in _KINDS:
        raise ValueError(
            f"{where}: {name} needs an annotation: {', '.join(_KINDS)}, or a list of one of them"
        )
    if not comment:
        raise ValueError(f"{where}: {name} needs a comment in the same line that says what it is")
    bounds = _LIMITS.match(comment)
    try:
        within = _limits(bounds[1], _inner(kind)) if bounds else {}
        default = ast.literal_eval(line.value)
    except (ValueError, TypeError, SyntaxError):
        raise ValueError(
            f"{where}: {name} needs a plain default, and limits like [1 to 10] or [a | b]"
        ) from None
    parameter = Parameter(
        name, kind, default, comment=comment[bounds.end() if bounds else 0 :].strip(), **within
    )
    return parameter._replace(default=check_value(parameter, default, where))


def _inner(kind: str) -> str:
    return kind.removeprefix("list[").removesuffix("]")


def _limits(text: str, kind: str) -> dict[str, Any]:
    """``1 to 10`` as limits, with ``log`` or a unit after a comma; ``a | b`` as choices."""
    if "|" in text:
        return {"choices": tuple(_read(piece.strip(), kind) for piece in text.split("|"))}
    bounds, *more = (piece.strip() for piece in text.split(","))
    low, high = (_KINDS[kind](piece) for piece in bounds.split(" to "))
    log = "log" in more
    if kind not in ("int", "float") or low > high or (log and low <= 0):
        raise ValueError(text)
    return {
        "limits": (low, high),
        "log": log,
        "unit": " ".join(piece for piece in more if piece != "log"),
    }


def _read(text: str, kind: str) -> Any:
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return _KINDS[kind](text)


def parse_value(parameter: Parameter, text: str, where: str) -> Any:
    """The value that ``text`` means under the parameter's annotation; a list is written ``1,2,3``, and ``"a, b",c``."""
    kind, many = _inner(parameter.kind), parameter.kind.startswith("list")
    try:
        values = [_read(piece, kind) for piece in (_pieces(text) if many else [text])]
    except ValueError:
        told = f"{parameter.name}={text!r} is not of type {parameter.kind}"
        raise ValueError(
            f"{where}: {told}; an example is {format_argument(parameter.default)}"
        ) from None
    try:
        return check_value(parameter, values if many else values[0], where)
    except ValueError as refused:
        commas = kind == "str" and many and any("," in name for name in parameter.choices)
        quote = "; put a name with a comma in double quotes" if commas else ""
        raise ValueError(f"{refused}{quote}") from None


def _pieces(text: str) -> list[str]:
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
    """Return a value as ``parse`` reads it; a list has commas between its items, and quotes where an item needs them."""
    if not isinstance(value, list):
        return format_value(value)
    line, items = io.StringIO(), [format_value(item) for item in value]
    marks = any(mark in item for item in items for mark in "'[]")
    csv.writer(
        line, quoting=csv.QUOTE_ALL if marks else csv.QUOTE_MINIMAL, lineterminator=""
    ).writerow(items)
    return line.getvalue()


def format_value(value: Any) -> str:
    """A value as a reader would write it, ``100`` for ``100.0``, and none of it lost."""
    short = f"{value:.10g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def check_value(parameter: Parameter, value: Any, where: str) -> Any:
    """The value, if it has the parameter's type and lies within its limits; a whole number will do for a float."""
    name, kind, many = parameter.name, _inner(parameter.kind), parameter.kind.startswith("list")
    values = value if many and isinstance(value, list) else [value]
    if kind == "float":
        values = [float(item) if type(item) is int else item for item in values]
    if many != isinstance(value, list) or any(type(item) is not _KINDS[kind] for item in values):
        raise ValueError(f"{where}: {name}={value!r} is not of type {parameter.kind}")
    for item in values:
        if parameter.limits and not parameter.limits[0] <= item <= parameter.limits[1]:
            low, high = parameter.limits
            raise ValueError(
                f"{where}: {name}={item!r} lies outside {low} to {high}; choose a value within"
            )
        if parameter.choices and item not in parameter.choices:
            raise ValueError(
                f"{where}: {name}={item!r} is not one of {list_options(item, parameter.choices)}"
            )
    return values if many else values[0]


def list_options(value: Any, names: Iterable) -> str:
    """``a, b, c; did you mean b?``, for the end of an error."""
    names = [str(name) for name in names]
    close = get_close_matches(str(value), names, n=1, cutoff=0.5)
    return ", ".join(names) + (f"; did you mean {close[0]}?" if close else "")
