"""The course: its notebooks, what each asks, needs and lets you change, and the computer that they run on."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import platform
import re
import textwrap
import tokenize
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.lab.plots import Picture


CHECKOUT = Path(__file__).resolve().parents[3]
ROOT = (
    CHECKOUT if (CHECKOUT / "notebooks").is_dir() else Path.cwd()
)  # an installed wheel has no notebooks

HEADING = re.compile(r"^#[ \t]+([^\s#].*?)[ \t]*#*[ \t]*$", re.MULTILINE)

_KINDS = {"int": int, "float": float, "str": str, "bool": bool}

_LIMITS = re.compile(r"\[([^\]]*(?: to |\|)[^\]]*)\]")


class Lesson(NamedTuple):
    """A notebook; ``after`` names those that it builds on."""

    name: str
    path: Path
    title: str
    question: str
    minutes: float
    after: tuple[str, ...]

    @property
    def number(self) -> str:
        return self.name.split("_")[0]


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


def notebooks(folder: Path | None = None) -> list[Lesson]:
    """The lessons in ``folder``, in the order of their numbers."""
    folder = Path(folder or ROOT / "notebooks")
    lessons = [_lesson(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    if not lessons:
        raise ValueError(f"{folder}: no notebook there is named like 01_topic.ipynb")
    names = [lesson.name for lesson in lessons]
    for at, lesson in enumerate(lessons):
        for name in set(lesson.after) - set(names[:at]):
            raise ValueError(
                f"{lesson.path}: fedlab.after names {name!r}, and no earlier notebook is called that"
            )
    return lessons


def _lesson(path: Path) -> Lesson:
    nb = load(path)
    about = nb.get("metadata", {}).get("fedlab", {})
    for key, kind in (("question", str), ("minutes", (int, float)), ("after", list)):
        if not isinstance(about.get(key), kind):
            raise ValueError(
                f"{path}: the notebook's metadata lacks fedlab.{key}, or it has the wrong type"
            )
    prose = "\n".join(cell["source"] for cell in nb["cells"] if cell["cell_type"] == "markdown")
    title = HEADING.search(prose)
    if not title:
        raise ValueError(f"{path}: no title; begin the first text cell with a line `# Title`")
    return Lesson(
        path.stem, path, title[1], about["question"], float(about["minutes"]), tuple(about["after"])
    )


def load(path: Path) -> dict[str, Any]:
    """The notebook as plain JSON with its sources joined: nbformat takes two seconds to import."""
    try:
        nb = json.loads(path.read_text(encoding="utf-8"))
        for cell in nb["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a notebook ({type(error).__name__}: {error})") from error
    return nb


def tags(cell: Mapping[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def parameters(path: Path) -> dict[str, Parameter]:
    """What the cell tagged ``parameters`` declares, each line as ``name: type = value  # [limits] what it is``.

    Limits are ``[1 to 100]``, ``[0 to 90, degrees]``, ``[0.01 to 10, log]`` or choices, ``[fast | full]``, which may go on
    in the comment below.
    """
    cells = load(path)["cells"]
    at = next((at for at, cell in enumerate(cells) if "parameters" in tags(cell)), None)
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
    return parameter._replace(default=checked(parameter, default, where))


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


def parse(parameter: Parameter, text: str, where: str) -> Any:
    """The value that ``text`` means under the parameter's annotation; a list is written ``1,2,3``, and ``"a, b",c``."""
    kind, many = _inner(parameter.kind), parameter.kind.startswith("list")
    try:
        values = [_read(piece, kind) for piece in (_pieces(text) if many else [text])]
    except ValueError:
        told = f"{parameter.name}={text!r} is not of type {parameter.kind}"
        raise ValueError(f"{where}: {told}; an example is {as_text(parameter.default)}") from None
    try:
        return checked(parameter, values if many else values[0], where)
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


def as_text(value: Any) -> str:
    """Return a value as ``parse`` reads it; a list has commas between its items, and quotes where an item needs them."""
    if not isinstance(value, list):
        return written(value)
    line, items = io.StringIO(), [written(item) for item in value]
    marks = any(mark in item for item in items for mark in "'[]")
    csv.writer(
        line, quoting=csv.QUOTE_ALL if marks else csv.QUOTE_MINIMAL, lineterminator=""
    ).writerow(items)
    return line.getvalue()


def written(value: Any) -> str:
    """A value as a reader would write it, ``100`` for ``100.0``, and none of it lost."""
    short = f"{value:.10g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def checked(parameter: Parameter, value: Any, where: str) -> Any:
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
                f"{where}: {name}={item!r} is not one of {known(item, parameter.choices)}"
            )
    return values if many else values[0]


def known(value: Any, names: Iterable) -> str:
    """``a, b, c; did you mean b?``, for the end of an error."""
    names = [str(name) for name in names]
    close = get_close_matches(str(value), names, n=1, cutoff=0.5)
    return ", ".join(names) + (f"; did you mean {close[0]}?" if close else "")


def course_table(folder: Path | None = None) -> pd.DataFrame:
    """A row a notebook."""
    import pandas as pd

    rows = [
        (one.number, one.title, one.question, f"{one.minutes:g}", ", ".join(one.after))
        for one in notebooks(folder)
    ]
    return pd.DataFrame(
        rows, columns=["number", "title", "question", "minutes to run", "after"]
    ).set_index("number")


def course_map(folder: Path | None = None) -> Picture:
    """The notebooks as boxes, from left to right; an arrow points from what comes first to what builds on it."""
    import networkx as nx

    from fedlab.lab.plots import Picture

    lessons = {lesson.name: lesson for lesson in notebooks(folder)}
    graph = nx.DiGraph(
        (before, name) for name, lesson in lessons.items() for before in lesson.after
    )
    graph.add_nodes_from(lessons)
    graph = nx.transitive_reduction(graph)
    columns = _columns(graph)
    place = {
        name: (x, (len(names) - 1) / 2 - y)
        for x, names in enumerate(columns)
        for y, name in enumerate(names)
    }
    edges = ", ".join(f"{lessons[a].number} to {lessons[b].number}" for a, b in sorted(graph.edges))
    picture = Picture(f"{len(lessons)} notebooks; arrows: {edges or 'none'}", _size(columns))
    axes = picture.subplots()
    axes.set(
        xlim=(-0.5, len(columns) - 0.5),
        ylim=(-max(map(len, columns)) / 2, max(map(len, columns)) / 2),
    )
    axes.set_axis_off()
    for before, after in graph.edges:
        _arrow(axes, place[before], place[after])
    for name, lesson in lessons.items():
        _box(axes, place[name], lesson)
    return picture


def _columns(graph) -> list[list[str]]:
    """A notebook stands right of all that it builds on, and near the middle of them, so that few arrows cross."""
    import networkx as nx

    columns, height = [], {}
    for names in nx.topological_generations(graph):
        wanted = {
            name: [height[before] for before in graph.predecessors(name)] or [0.0]
            for name in sorted(names)
        }
        columns.append(sorted(wanted, key=lambda name: sum(wanted[name]) / len(wanted[name])))
        height |= {name: y - (len(names) - 1) / 2 for y, name in enumerate(columns[-1])}
    return columns


def _size(columns: list[list[str]]) -> tuple[float, float]:
    return max(2.0, 1.95 * len(columns)), max(1.2, 0.85 * max(map(len, columns)))  # inches


def _box(axes, place: tuple[float, float], lesson: Lesson) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = place
    shape = FancyBboxPatch(
        (x - 0.4, y - 0.36),
        0.8,
        0.72,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor="#eef4fb",
        edgecolor="#0072B2",
    )
    axes.add_patch(shape)
    title = textwrap.fill(lesson.title, 21, max_lines=2, placeholder=" …")
    axes.text(x, y + 0.08, title, ha="center", va="center", fontsize=8.5, color="black")
    below = f"{lesson.number}  ·  {lesson.minutes:g} min to run"
    axes.text(x, y - 0.25, below, ha="center", va="center", fontsize=7, color="#444444")


def _arrow(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    from matplotlib.patches import FancyArrowPatch

    (x, y), (u, v) = start, end
    style = {
        "arrowstyle": "-|>",
        "mutation_scale": 10,
        "color": "#777777",
        "linewidth": 1.1,
        "zorder": 0.5,
    }
    axes.add_patch(FancyArrowPatch((x + 0.41, y), (u - 0.4, v), shrinkA=0, shrinkB=0, **style))


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
    rows += [(name.removesuffix("-workbench"), version(name)) for name in packages]
    rows += [
        ("processor cores usable", str(cores())),
        ("torch threads", str(torch.get_num_threads())),
        ("memory, GB", f"{memory.total / 1e9:.1f}"),
        ("memory available, GB", f"{memory.available / 1e9:.1f}"),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"),
    ]
    return pd.DataFrame(rows, columns=["what", "value"]).set_index("what")


def version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def cores() -> int:
    """Those this process may use, which a container or a batch system can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
