"""A page for every command, from the command itself and from its first run in the guide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from console_blocks import console_blocks
from tables import table

from subopt.app import app

EXIT_STATUSES = {
    0: "done",
    1: "your code raised, or subopt has a bug; `--debug` shows the traceback",
    2: "bad input: a word of the command line, a file, or a model that cannot be measured or trained",
    3: "it does not fit in the memory",
    4: "the training loss became NaN or infinite",
    130: "interrupted",
}
_BRACKETS = re.compile(r"\s*\[([^\[\]]*(?:default|required|x>=|<=x)[^\[\]]*)\]$")


def pages(root: Path) -> dict[str, str]:
    """Return the pages of all commands, in the order in which the command lists them, and their index."""
    group: Any = typer.main.get_command(app)
    parent = typer.Context(group, info_name="subopt")
    examples = _examples(root)
    made = {"commands/index.md": _index(group)}
    for name, command in group.commands.items():
        context = typer.Context(command, info_name=name, parent=parent)
        made[f"commands/{name}.md"] = _page(name, command, context, examples.get(name, []))
    return made


def _index(group: Any) -> str:
    rows = [
        (f"[`subopt {name}`]({name}.md)", command.get_short_help_str(limit=200))
        for name, command in group.commands.items()
    ]
    statuses = [(str(status), meaning) for status, meaning in EXIT_STATUSES.items()]
    return (
        f"# Commands\n\n{group.help}\n\n{table(('command', 'what it does'), rows)}\n"
        "Data goes to stdout and everything else to stderr. `--json`, where there is one, prints one JSON document on "
        "stdout and nothing else.\n\n"
        f"## Exit statuses\n\n{table(('status', 'meaning'), statuses, align='r')}"
    )


def _page(name: str, command: Any, context: Any, examples: list[str]) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"# subopt {name}", _prose(command.help), f"```text\nsubopt {name} {usage}\n```"]
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        rows = list(_rows(command, context, kind))
        if rows:
            parts.append(f"## {title}\n\n{table((kind, 'meaning', 'default; limits'), rows)}")
    if examples:
        parts.append("## Example\n\nFrom the [guide](../guide.md), with its output:")
        parts += [f"```console\n{example}\n```" for example in examples]
    parts.append("Exit statuses are [the same for all commands](index.md#exit-statuses).")
    return "\n\n".join(parts) + "\n"


def _rows(command: Any, context: Any, kind: str) -> Iterator[tuple[str, str, str]]:
    for parameter in command.get_params(context):
        found = parameter.get_help_record(context)
        if parameter.param_type_name != kind or found is None:
            continue
        declared, meaning = found
        bracket = _BRACKETS.search(meaning)
        limits = bracket[1].removeprefix("default: ") if bracket else ""
        yield f"`{declared}`", meaning[: bracket.start()] if bracket else meaning, limits


def _prose(text: str) -> str:
    """Return a docstring's paragraphs, each on a line."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _examples(root: Path) -> dict[str, list[str]]:
    """Return for each command its first run in the guide."""
    found: dict[str, list[str]] = {}
    for block in console_blocks((root / "docs" / "guide.md").read_text(encoding="utf-8")):
        for name in re.findall(r"^\$ subopt ([a-z]+)", block.text, re.MULTILINE):
            found.setdefault(name, [block.text])
    return found
