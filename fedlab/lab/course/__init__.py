"""The course: its notebooks and their parameters, checks of the exercises, editions for a class.

Read ``curriculum`` first (a notebook is a ``Lesson``), then ``parameters``, then ``checks`` with ``trial`` below it.
"""

from fedlab.lab.course.computer import installed_version, preflight, usable_cores
from fedlab.lab.course.curriculum import (
    HEADING,
    ROOT,
    Lesson,
    cell_tags,
    course_table,
    list_lessons,
    load_notebook,
)
from fedlab.lab.course.map import course_map
from fedlab.lab.course.parameters import (
    Parameter,
    check_value,
    format_argument,
    format_value,
    list_options,
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
