"""Draw a text file as a terminal picture: python docs/picture.py TITLE OUTPUT.svg < text."""

import sys

from rich.console import Console
from rich.text import Text


def main() -> None:
    """Read the text from standard input, as the terminal showed it, and write the picture."""
    title, output = sys.argv[1:]
    console = Console(record=True, width=82, file=sys.stderr, force_terminal=True)
    console.print(Text.from_ansi(sys.stdin.read()), soft_wrap=True)
    console.save_svg(output, title=title)


if __name__ == "__main__":
    main()
