"""From a page's text as it lies in the repository to the text as the site has it.

Pages are written so that they read well in the repository too: links are relative to the file. What a page includes
is a comment there, `<!-- include: ../CONTRIBUTING.md#how-to-add-a-method -->`, and so invisible.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

COPIES = "repository/"  # where the site keeps files of the repository

_INCLUDE = re.compile(r"^<!-- include: (\S+?)(?:#(\S+))? -->$", re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCED = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}


class BadInclude(Exception):
    """A page includes or links to something that is not there."""


class Sources:
    """Finishes pages.

    Args:
        root: The repository.
        docs: The folder of the pages in it.
    """

    def __init__(self, root: Path, docs: Path) -> None:
        self._root, self._docs = root, docs
        self._linked: dict[str, str] = {}  # place in the site: path in the repository

    def linked_files(self, texts: Mapping[str, str]) -> dict[str, str]:
        """Return the files of the repository that pages link to, and those link to in turn, by place in the site."""
        for name, text in texts.items():
            self.finished(text, name)
        copies: dict[str, str] = {}
        while missing := self._linked.keys() - copies.keys():
            for name in sorted(missing):
                path = self._root / self._linked[name]
                copies[name] = _as_page(path, self._linked[name])
                if name.endswith(".md"):
                    self.finished(copies[name], name)
        return copies

    def finished(self, text: str, name: str) -> str:
        """Return a page's text with its includes filled in and its links leading to places in the site.

        Raises:
            BadInclude: It includes what is not there, or links to a file that the repository does not have.
        """
        path = self._docs / name
        if name in self._linked:
            path = self._root / self._linked[name]
        text = self._with_links(text, path, name)
        return _INCLUDE.sub(lambda found: self._included(found, path, name), text)

    def _included(self, found: re.Match[str], path: Path, name: str) -> str:
        source = path.parent / found[1]
        if not source.is_file():
            raise BadInclude(f"{name} includes {found[1]}, which does not exist")
        text = source.read_text(encoding="utf-8")
        if found[2]:
            text = section(text, found[2], f"{name} includes {found[1]}#{found[2]}")
        else:
            text = re.sub(r"\A# .*\n", "", text)
        above = _HEADING.findall(_blanked(found.string[: found.start()]))
        below = len(above[-1][0]) + 1 if above else 2
        return self._with_links(_lowered(text, below), source, name).strip()

    def _with_links(self, text: str, path: Path, name: str) -> str:
        def lead(found: re.Match[str]) -> str:
            target = self._place(found[2], path, name)
            return f"{found[1]}{target}{found[3] or ''}{found[4]}"

        pieces, end = [], 0
        for code in _FENCED.finditer(text):
            pieces += [_LINK.sub(lead, text[end : code.start()]), code[0]]
            end = code.end()
        return "".join([*pieces, _LINK.sub(lead, text[end:])])

    def _place(self, target: str, path: Path, name: str) -> str:
        if re.match(r"[a-z]+:", target):
            return target
        folder = posixpath.dirname(name)
        meant = Path(os.path.normpath(path.parent / target))
        if not meant.is_relative_to(self._root):
            raise BadInclude(f"{name} links to {target}, which is outside the repository")
        if meant.is_relative_to(self._docs):
            place = meant.relative_to(self._docs).as_posix()
        else:
            relative = meant.relative_to(self._root).as_posix()
            if not meant.is_file():
                raise BadInclude(f"{name} links to {relative}, which is no file of the repository")
            suffix = "" if meant.suffix in {".md", ".jsonl", ".json", ".svg", ".png"} else ".md"
            place = f"{COPIES}{relative}{suffix}"
            self._linked[place] = relative
        return posixpath.relpath(place, folder or ".")


def section(text: str, anchor: str, what: str) -> str:
    """Return the section of a Markdown text whose heading has that anchor, heading included, to the next of its level.

    Raises:
        BadInclude: There is none.
    """
    headings = list(_HEADING.finditer(_blanked(text)))
    for index, heading in enumerate(headings):
        if slug(heading[2]) == anchor:
            later = (h.start() for h in headings[index + 1 :] if len(h[1]) <= len(heading[1]))
            return text[heading.start() : next(later, len(text))]
    raise BadInclude(f"{what}: there is no such heading")


def slug(heading: str) -> str:
    """Return the anchor that a heading gets, in the site and on the usual hosts alike."""
    words = re.sub(r"[^\w\s-]", "", heading.replace("`", "").strip().lower())
    return re.sub(r"[\s]+", "-", words)


def _blanked(text: str) -> str:
    """Return a text of the same length whose code blocks are blank."""
    return _FENCED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _lowered(text: str, level: int) -> str:
    """Return a text whose highest headings are of a level, and the others as much lower."""
    headings = list(_HEADING.finditer(_blanked(text)))
    highest = min((len(heading[1]) for heading in headings), default=level)
    for heading in reversed(headings):
        marks = "#" * (len(heading[1]) - highest + level)
        text = f"{text[: heading.start()]}{marks} {heading[2]}{text[heading.end() :]}"
    return text


def _as_page(path: Path, name: str) -> str:
    """Return a file of the repository as the site shows it: Markdown and data as they are, code as a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in {".md", ".jsonl", ".json", ".svg"}:
        return text
    fence = "````"
    return f"# {name}\n\n{fence}{_LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"
