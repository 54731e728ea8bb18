"""Run the commands of the guide and write their outputs into it: `python docs/guide_outputs.py`, half an hour.

In a folder of its own with a copy of the examples, as somebody who follows the guide would. A comment before a block
names the parts of the output that are kept, by how their first lines begin: `<!-- shows: In short -->`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "site"))

from console_blocks import Block, console_blocks  # noqa: E402

GUIDE = DOCS / "guide.md"
COLUMNS = 96
_SHOWS = re.compile(r"<!-- shows: (.*) -->\n```console\n\Z")


def main() -> None:
    """Renew the outputs of the guide."""
    page = GUIDE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(DOCS.parent / "examples", folder / "examples")
        for block in reversed([*_with_outputs(page, folder)]):
            old, new = block
            page = page[: old.start] + new + page[old.start + len(old.text) :]
    GUIDE.write_text(page, encoding="utf-8")


def _with_outputs(page: str, folder: Path) -> list[tuple[Block, str]]:
    renewed = []
    for block in console_blocks(page):
        shows = _SHOWS.search(page[: block.start])
        wanted = tuple(part.strip() for part in shows[1].split(";")) if shows else ()
        lines = []
        for command in block.commands:
            sys.stderr.write(f"$ {command}\n")
            lines += [f"$ {command}", *shown(run(command, folder), wanted)]
        renewed.append((block, "\n".join(lines)))
    return renewed


def environment(folder: Path) -> dict[str, str]:
    """Return the environment a command of the page runs in: this Python's `subopt`, and no file outside the folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": path,
        "COLUMNS": str(COLUMNS),
        "NO_COLOR": "1",
        "SUBOPT_STATE": str(folder / "state"),
    }


def run(command: str, folder: Path) -> str:
    """Run a command of the page and return what the terminal would show.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 141}:  # 141: the rest of a pipe had read enough
        raise SystemExit(f"{command}\n{done.stdout}\nended with status {done.returncode}")
    return done.stdout.replace(f"{folder}/", "")


def shown(output: str, wanted: tuple[str, ...]) -> list[str]:
    """Return an output's lines, or those of its wanted parts with `...` for what is left out."""
    if not wanted:
        return [line.rstrip() for line in output.splitlines()]
    lines: list[str] = []
    for part in output.strip("\n").split("\n\n"):
        if any(part.startswith(start) or f"\n{start}" in part for start in wanted):
            lines += [line.rstrip() for line in part.splitlines()]
        elif lines[-1:] != ["..."]:
            lines.append("...")
    return lines


if __name__ == "__main__":
    main()
