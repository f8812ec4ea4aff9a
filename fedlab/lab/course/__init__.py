"""The course: its notebooks and their parameters, checks of the exercises, editions for a class.

Read in this order:

- ``curriculum``: a notebook is a ``Lesson``, with a question and the notebooks that it builds on
- ``parameters``: the values that a reader may change, with their limits
- ``map`` and ``computer``: the course as a picture, and the computer that it runs on
- ``checks``: one file of checks per notebook. A check is a function decorated with
  ``trial.check``; it calls ``compare``, which tries an ``answer`` on several cases and turns its
  ``results`` into numbers. ``isolate`` runs all that in a process with limits, because an answer
  may do anything.
- ``editions``: notebooks for a class, with and without solutions

Example:
    >>> from fedlab.lab.course import find_lesson, parse_value, read_parameters
    >>> lesson = find_lesson("00")
    >>> lesson.title
    'Start here'
    >>> parse_value(read_parameters(lesson.path)["alpha"], "0.1", lesson.name)
    0.1
"""

from fedlab.lab.course.computer import installed_version, preflight, usable_cores
from fedlab.lab.course.curriculum import (
    HEADING,
    ROOT,
    Lesson,
    cell_tags,
    course_table,
    find_lesson,
    list_lessons,
    load_notebook,
)
from fedlab.lab.course.map import course_map
from fedlab.lab.course.options import list_options
from fedlab.lab.course.parameters import (
    Parameter,
    check_value,
    format_argument,
    format_value,
    parse_value,
    read_parameters,
)

__all__ = [
    "HEADING",
    "ROOT",
    "Lesson",
    "Parameter",
    "cell_tags",
    "check_value",
    "course_map",
    "course_table",
    "find_lesson",
    "format_argument",
    "format_value",
    "installed_version",
    "list_lessons",
    "list_options",
    "load_notebook",
    "parse_value",
    "preflight",
    "read_parameters",
    "usable_cores",
]
