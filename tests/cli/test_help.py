"""Help is light: it imports nothing heavy, and every command and option has its words."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "pandas", "plotly", "pydantic", "accelerate", "numpy", "rich")
TYPERS_OWN = ("pydantic",)  # newer versions of Typer import it to read a command's arguments
COMMANDS = (
    "profile", "recommend", "lr", "race", "train", "report", "compare", "export", "methods", "schema", "doctor",
)  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["--help"], ()),
        (["--version"], ()),
        ([], TYPERS_OWN),
        (["profile", "--help"], TYPERS_OWN),
        (["train", "--help"], TYPERS_OWN),
    ],
)
def test_help_imports_nothing_heavy(words, allowed):
    heavy = [name for name in HEAVY if name not in allowed]
    code = (
        "import sys; from subopt.app import main\n"
        f"status = main({words!r})\n"
        f"print(status, [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_help_lists_every_command(subopt):
    ended = subopt("--help")
    assert ended.status == 0
    assert ended.err == ""
    assert [name for name in COMMANDS if f"\n  {name} " not in ended.out] == []


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_fits_the_terminal(subopt, monkeypatch, command, width):
    monkeypatch.setenv("COLUMNS", str(width))
    ended = subopt(command, "--help")
    assert ended.status == 0
    assert "--help" in ended.out
    # a word longer than the line, such as an option's list of choices, is not broken
    assert [line for line in ended.out.splitlines() if len(line) > width and " " in line[50:]] == []


@pytest.mark.process
def test_python_dash_m_runs_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "subopt", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith("subopt ")
