"""Draw what the terminal showed as a picture: python docs/picture.py TITLE OUTPUT.svg [SECTION ...] < text.

With sections named, by how their headings begin, the picture is of those alone.
"""

import sys

from rich.console import Console
from rich.text import Text


def main() -> None:
    """Read the text from standard input, as the terminal showed it, and write the picture."""
    title, output, *sections = sys.argv[1:]
    parts = sys.stdin.read().strip("\n").split("\n\n")
    kept = [part for part in parts if not sections or starts_with(part, sections)]
    console = Console(record=True, width=82, file=sys.stderr, force_terminal=True)
    console.print(Text.from_ansi("\n\n".join(kept)), soft_wrap=True)
    console.save_svg(output, title=title)


def starts_with(part: str, sections: list[str]) -> bool:
    """Return whether a part of the report is one of the sections, colours aside."""
    return Text.from_ansi(part).plain.startswith(tuple(sections))


if __name__ == "__main__":
    main()
