"""The command ``fedlab`` and its subcommands."""

import subprocess
import sys

import pytest

from fedlab import __main__ as command


def test_without_a_subcommand_it_lists_them(capsys):
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"fedlab {name}" in shown for name in command.COMMANDS)


def test_an_unknown_subcommand_is_refused_with_the_names(capsys):
    assert command.main(["reports"]) == 2
    error = capsys.readouterr().err
    assert "'reports' must be one of report, data, models, course, dashboard" in error


@pytest.mark.parametrize("name", ["data", "models", "course", "report"])
def test_help_does_nothing_else(name, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([name, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_an_option_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["course", "--nonsense"])
    assert end.value.code == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data", "models"])
def test_listing_is_a_subcommand(name, capsys):
    assert command.main([name]) == 0
    assert capsys.readouterr().out


def test_python_m_fedlab_is_the_same():
    shown = subprocess.run(
        [sys.executable, "-m", "fedlab", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "fedlab report" in shown
