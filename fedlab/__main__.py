"""The command ``fedlab`` and its subcommands, also ``python -m fedlab``.

Example:
    $ fedlab report 00 --set alpha=0.1
"""

from __future__ import annotations

import sys
from importlib import import_module

# Each subcommand is imported when it is called: papermill and transformers take seconds.
COMMANDS = {
    "report": ("fedlab.lab.report.make", "run notebooks and write their reports"),
    "data": ("fedlab.data.cache", "list data sets, or fetch them by name"),
    "models": ("fedlab.models.language.fetch", "list pretrained models, or fetch them by name"),
    "course": (
        "fedlab.lab.course.editions",
        "write the notebooks for a class, with and without solutions",
    ),
    "dashboard": (
        "fedlab.lab.widgets.serve",
        "serve one page to compose, run and compare experiments",
    ),
}


def usage() -> str:
    """Return the list of subcommands."""
    lines = [f"  fedlab {name:10} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        ["usage: fedlab COMMAND ...", "", *lines, "", "`fedlab COMMAND --help` says more."]
    )


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: Name of the subcommand and its arguments. Default: those of the command line.

    Returns:
        The exit status: 0 for success, 2 for an unknown subcommand, else that of the subcommand.

    Example:
        >>> main(["--help"])  # doctest: +ELLIPSIS
        usage: fedlab COMMAND ...
        ...
        0
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(
            f"fedlab: {name!r} must be one of {', '.join(COMMANDS)}. Try `fedlab --help`",
            file=sys.stderr,
        )
        return 2
    return import_module(COMMANDS[name][0]).main(rest) or 0


if __name__ == "__main__":
    sys.exit(main())
