"""The course as a picture: one box per notebook, arrows between them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from fedlab.lab.course.curriculum import Lesson, list_lessons

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes

    from fedlab.lab.plots import Picture


def course_map(folder: Path | None = None) -> Picture:
    """Draw the notebooks as boxes from left to right.

    An arrow points from a notebook to each notebook that builds on it.

    Args:
        folder: As for ``list_lessons``.
    """
    import networkx as nx

    from fedlab.lab.plots import Picture

    lessons = {lesson.name: lesson for lesson in list_lessons(folder)}
    graph = nx.DiGraph(
        (before, name) for name, lesson in lessons.items() for before in lesson.after
    )
    graph.add_nodes_from(lessons)
    graph = nx.transitive_reduction(graph)
    columns = _columns(graph)
    positions = {
        name: (x, (len(names) - 1) / 2 - y)
        for x, names in enumerate(columns)
        for y, name in enumerate(names)
    }
    edges = ", ".join(f"{lessons[a].number} to {lessons[b].number}" for a, b in sorted(graph.edges))
    picture = Picture(f"{len(lessons)} notebooks; arrows: {edges or 'none'}", _size(columns))
    axes = picture.subplots()
    half_height = max(map(len, columns)) / 2
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-half_height, half_height))
    axes.set_axis_off()
    for before, after in graph.edges:
        _arrow(axes, positions[before], positions[after])
    for name, lesson in lessons.items():
        _box(axes, positions[name], lesson)
    return picture


def _columns(graph: nx.DiGraph) -> list[list[str]]:
    """Return the names of each column, from left to right and from top to bottom.

    A notebook stands right of all notebooks that it builds on, and near their mean height, so
    that few arrows cross.
    """
    import networkx as nx

    columns, heights = [], {}
    for names in nx.topological_generations(graph):
        wanted = {
            name: [heights[before] for before in graph.predecessors(name)] or [0.0]
            for name in sorted(names)
        }
        columns.append(sorted(wanted, key=lambda name: sum(wanted[name]) / len(wanted[name])))
        heights |= {name: y - (len(names) - 1) / 2 for y, name in enumerate(columns[-1])}
    return columns


def _size(columns: list[list[str]]) -> tuple[float, float]:
    """Return width and height in inches."""
    return max(2.0, 1.95 * len(columns)), max(1.2, 0.85 * max(map(len, columns)))


def _box(axes: Axes, position: tuple[float, float], lesson: Lesson) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = position
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


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
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
