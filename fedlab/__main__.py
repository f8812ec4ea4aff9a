"""The command ``fedlab`` and its subcommands, also ``python -m fedlab``.

Example:
    $ fedlab report 00 --set alpha=0.1
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        module: Module whose ``main`` runs it, imported when it is called: papermill and
            transformers take seconds.
        purpose: What it does, for the list of subcommands.
        names: Explanation of its only arguments, a list of names; empty if it has none; None if
            ``main`` reads the command line itself.
    """

    module: str
    purpose: str
    names: str | None


COMMANDS = {
    "report": Command("fedlab.lab.report.make", "run notebooks and write their reports", None),
    "data": Command(
        "fedlab.data.cache",
        "list data sets, or fetch them by name",
        "a data set to fetch, such as mnist; without names, all sets are listed",
    ),
    "models": Command(
        "fedlab.models.language.fetch",
        "list pretrained models, or fetch them by name",
        "a model of the Hugging Face hub to fetch; without names, the models here are listed",
    ),
    "course": Command(
        "fedlab.lab.course.editions",
        "write the notebooks for a class, with and without solutions",
        "",
    ),
    "dashboard": Command(
        "fedlab.lab.widgets.serve",
        "serve one page to compose, run and compare experiments (options are Voila's)",
        None,
    ),
}


def usage() -> str:
    """Return the list of subcommands."""
    lines = [f"  fedlab {name:10} {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: fedlab COMMAND ...", "", *lines, "", "`fedlab COMMAND --help` says more."]
    )


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: Name of the subcommand and its arguments. Default: those of the command line.

    Returns:
        The exit status: 0 for success, 2 for wrong arguments, else that of the subcommand.

    Example:
        >>> main(["--help"])  # doctest: +ELLIPSIS
        usage: fedlab COMMAND ...
        ...
        0
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(
            f"fedlab: {name!r} must be one of {', '.join(COMMANDS)}. Try `fedlab --help`",
            file=sys.stderr,
        )
        return 2
    command = COMMANDS[name]
    if command.names is not None:
        arguments = _read_names(name, command, arguments)
    return import_module(command.module).main(arguments) or 0


def _read_names(name: str, command: Command, arguments: list[str]) -> list[str]:
    parser = argparse.ArgumentParser(f"fedlab {name}", description=f"{command.purpose}.")
    if command.names:
        parser.add_argument("names", nargs="*", metavar="NAME", help=command.names)
    return getattr(parser.parse_args(arguments), "names", [])


if __name__ == "__main__":
    sys.exit(main())
