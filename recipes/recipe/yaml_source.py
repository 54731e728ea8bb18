"""YAML read as plain data with a line number for every key: the part of YAML a recipe needs and no more.

Anchors, tags and duplicate keys are refused rather than interpreted, and depth and size are limited, so a hostile
file costs nothing and a mistaken one is pointed at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from subopt.errors import FileFormatError, first_line

KeyPath = tuple[str | int, ...]

_LARGEST_BYTES = 1_000_000
_DEEPEST = 20
# Of a whole number: written as 59:59:59 and so on, one of megabits is read before its digits are counted.
_MOST_BITS = 128
# YAML 1.1 wants a dot in a number with an exponent, so PyYAML reads 1e-3 as text; YAML 1.2 and people do not
_EXPONENT_FLOAT = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader that also reads 1e-3 as a number."""


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, quoting exactly what `Loader` would misread."""


for _side in (Loader, Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT_FLOAT, list("-+0123456789"))


_LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")  # as YAML counts lines


@dataclass(frozen=True, slots=True)
class Source:
    """A YAML document as data, and where in the file each of its keys stands.

    Attributes:
        name: What to call the document in messages: the file's path.
        data: The document: dicts, lists and scalars.
        lines: Line (from 1) of each key path, such as ("schedule", "steps").
    """

    name: str
    data: Any
    lines: dict[KeyPath, int]

    def line_of(self, path: KeyPath) -> int:
        """Return the line of the key, or of its nearest parent that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def where(self, path: KeyPath) -> str:
        """Return "file:line: dotted.key" of the key."""
        line, dotted = f"{self.name}:{self.line_of(path)}", _dotted(path)
        return f"{line}: {dotted}" if dotted else line


def read_source(path: Path) -> Source:
    """Read a YAML file.

    Raises:
        FileFormatError: It cannot be read, is not YAML, or uses what a recipe has no use for.
    """
    try:
        size = path.stat().st_size
        if not (path.is_file() or path.is_dir()):  # a pipe or a device may give bytes for ever
            raise FileFormatError(f"{path} cannot be read: it is not a file")
        raw = b"" if size > _LARGEST_BYTES else path.read_bytes()
    except FileNotFoundError:
        raise FileFormatError(
            f"there is no recipe at {path}", "make one with: subopt recommend --gpu-mem auto"
        ) from None
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}") from None
    if size > _LARGEST_BYTES:
        raise FileFormatError(f"{path} is too large for a recipe: {size} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise FileFormatError(f"{path}:{line}: not UTF-8 text") from None
    return parse_source(text, str(path))


def parse_source(text: str, name: str) -> Source:
    """Return the data and the key lines of a YAML text.

    Raises:
        FileFormatError: As for `read_source`.
    """
    try:
        _refuse_exotic(text, name)
        node = yaml.compose(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise FileFormatError(f"{name}:{line}: {_explain(error, text, line)}") from None
    except yaml.YAMLError as error:
        raise FileFormatError(f"{name}: not YAML: {first_line(error)}") from None
    lines: dict[KeyPath, int] = {}
    data = None if node is None else _build(node, (), lines, name)
    return Source(name, data, lines)


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _refuse_exotic(text: str, name: str) -> None:
    depth = 0
    documents = 0
    for event in yaml.parse(text, Loader):
        where = f"{name}:{event.start_mark.line + 1}" if event.start_mark else name
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if documents > 1:
            raise FileFormatError(f"{where}: a second document; a recipe is one")
        if depth > _DEEPEST:
            raise FileFormatError(f"{where}: nested more than {_DEEPEST} levels deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise FileFormatError(f"{where}: anchors and aliases (& and *) are not supported")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise FileFormatError(f"{where}: tags such as !{tag.lstrip('!')} are not supported")


def _explain(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    at = "".join(_LINE_BREAK.split(text)[line - 1 : line])
    if "'\\t'" in str(error.problem) or at.startswith("\t"):
        return "a tab cannot indent YAML: use spaces"
    reasons = [part for part in (error.problem, error.context) if part]
    return "not YAML: " + ", ".join(reasons)


def _build(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, lines, name)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, i), lines, name) for i, item in enumerate(node.value)]
    constructor = yaml.constructor.SafeConstructor()
    try:
        value = constructor.construct_object(node)
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise ValueError("a number that nothing in a recipe can be")
        return value
    except (ValueError, OverflowError, yaml.YAMLError):
        where = f"{name}:{node.start_mark.line + 1}: {_dotted(path)}"
        raise FileFormatError(
            f"{where}: '{node.value[:40]}' is not a value; quote it if it is text"
        ) from None


def _build_mapping(
    node: yaml.MappingNode, path: KeyPath, lines: dict[KeyPath, int], name: str
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise FileFormatError(f"{name}:{line}: a key must be a word")
        key = key_node.value
        inner = (*path, key)
        if key in result:
            what = f"given twice; first on line {lines[inner]}"
            raise FileFormatError(f"{name}:{line}: {_dotted(inner)}: {what}")
        lines[inner] = line
        result[key] = _build(value_node, inner, lines, name)
    return result
