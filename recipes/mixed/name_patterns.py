"""From names of parameters to a pattern that matches them and no other: short where the names are alike.

The role of a parameter is its name with every layer number left open: `blocks.#.attn.q.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from subopt.errors import OptionError
from subopt.optimizers.name_patterns import compile_pattern

_ANY = r"\d+"


def role_of(name: str) -> str:
    """Return a name with `#` in the place of every part that is a number."""
    return ".".join("#" if part.isdecimal() else part for part in name.split("."))


def patterns_for(names: Collection[str], others: Iterable[str]) -> list[str]:
    """Return patterns that match all of these names and none of the others; one where it is not too long.

    Args:
        names: At least one name, each once.
        others: Names that must not match.
    """
    foreign = {role_of(other) for other in others}
    by_role: dict[str, list[str]] = {}
    for name in names:
        by_role.setdefault(role_of(name), []).append(name)
    templates = [
        template
        for role, found in by_role.items()
        for template in _templates(role, found, is_alone=role not in foreign)
    ]
    return _merged(templates)


def _templates(role: str, names: Sequence[str], *, is_alone: bool) -> list[tuple[str, ...]]:
    """Return the parts of patterns for names of one role: any number, a list of numbers, or name by name."""
    rows = [name.split(".") for name in names]
    parts = role.split(".")
    if is_alone:
        return [tuple(_ANY if part == "#" else re.escape(part) for part in parts)]
    varying = [i for i in range(len(parts)) if len({row[i] for row in rows}) > 1]
    if len(varying) != 1:
        return [tuple(map(re.escape, row)) for row in rows]
    numbers = sorted({row[varying[0]] for row in rows}, key=lambda text: (int(text), text))
    return [
        tuple(
            f"(?:{'|'.join(numbers)})" if i == varying[0] else re.escape(part)
            for i, part in enumerate(rows[0])
        )
    ]


def _merged(templates: list[tuple[str, ...]]) -> list[str]:
    pattern = _joined(templates)
    try:
        compile_pattern(pattern)
    except OptionError:
        if len(templates) == 1:
            raise
        half = len(templates) // 2
        return _merged(templates[:half]) + _merged(templates[half:])
    return [pattern]


def _joined(templates: Sequence[tuple[str, ...]]) -> str:
    """Return one anchored pattern: what all have in common in front and behind is written once."""
    shortest = min(map(len, templates))
    front = _common(templates, range(shortest - 1))
    back = _common(templates, range(-1, front - shortest, -1))
    middle = _alternatives([parts[front : len(parts) - back] for parts in templates])
    first = templates[0]
    return "^" + r"\.".join([*first[:front], middle, *first[len(first) - back :]]) + "$"


def _alternatives(templates: Sequence[tuple[str, ...]]) -> str:
    """Return a pattern for any of these; those that begin alike are written together."""
    if len(templates) == 1:
        return r"\.".join(templates[0])
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for parts in templates:
        by_first.setdefault(parts[0], []).append(parts[1:])
    found = []
    for first, rests in by_first.items():
        if () in rests:  # one ends where another goes on
            found += [r"\.".join((first, *rest)) for rest in rests]
        else:
            found.append(rf"{first}\.{_alternatives(rests)}")
    return found[0] if len(found) == 1 else f"(?:{'|'.join(found)})"


def _common(templates: Sequence[tuple[str, ...]], places: Iterable[int]) -> int:
    """Return at how many of these places, from the first on, all have the same part."""
    count = 0
    for place in places:
        if len({parts[place] for parts in templates}) > 1:
            break
        count += 1
    return count
