"""Patterns of overrides: regular expressions that cannot take forever.

Python's matcher tries every way in which a pattern could match. A pattern from a file must not have so many ways that
trying them hangs, so the ways are counted before the pattern is compiled, and one with too many is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import inf

from subopt.errors import OptionError

LONGEST = 4000
DEEPEST = 20

# How many ways a pattern may have. What is open-ended counts as _OPEN_ENDED ways, about the length of a long name:
# three of them are allowed and four are not. Four in a row would take seconds per name.
MOST_WAYS = 1e6
_OPEN_ENDED = 50.0

_GROUP_STARTS = re.compile(r"\?(?::|=|!|<=|<!|P<\w+>|i\)|i:)")
_BRACES = re.compile(r"\{(\d*)(,?)(\d*)\}")


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern.

    Raises:
        OptionError: It is no regular expression, is longer than `LONGEST` or deeper than `DEEPEST`, uses a group other
            than plain, named, looking or case-ignoring ones, or has more than `MOST_WAYS` ways to match.
    """
    if len(pattern) > LONGEST:
        raise OptionError(
            f"a pattern of {len(pattern)} characters is too long", f"{LONGEST} are allowed"
        )
    ways = _Ways(pattern).count()
    if ways > MOST_WAYS:
        raise OptionError(
            f"the pattern '{pattern[:60]}' could take for ever to match",
            "use at most three of * and +, and none on a group with choices of its own",
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise _not_a_pattern(pattern, str(error)) from None


def _not_a_pattern(pattern: str, why: str) -> OptionError:
    return OptionError(f"'{pattern[:60]}' is not a regular expression: {why}")


class _Ways:
    """Counts in how many ways the text of a pattern can be matched: an upper bound, by the grammar of `re`.

    Alternatives add up; what follows multiplies; `x?` is one way more; `x*` and `x+` are `_OPEN_ENDED` ways where x has
    one way, and without end where it has several: `(a+)+`, `(a|ab)*`.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def count(self) -> float:
        ways = self._alternatives(depth=0)
        if self._at < len(self._pattern):
            raise _not_a_pattern(self._pattern, "unbalanced parenthesis")
        return ways

    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _alternatives(self, depth: int) -> float:
        if depth > DEEPEST:
            raise _not_a_pattern(self._pattern, f"groups are more than {DEEPEST} deep")
        ways = self._sequence(depth)
        while self._next() == "|":
            self._at += 1
            ways += self._sequence(depth)
        return ways

    def _sequence(self, depth: int) -> float:
        ways = 1.0
        while self._next() not in {"", "|", ")"}:
            ways = min(ways * self._repeated(self._item(depth)), inf)
        return ways

    def _item(self, depth: int) -> float:
        first = self._next()
        self._at += 1
        if first == "\\":
            self._at += 1
        elif first == "[":
            self._skip_set()
        elif first == "(":
            return self._group(depth)
        return 1.0

    def _skip_set(self) -> None:
        end = re.compile(r"\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL).match(self._pattern, self._at)
        if end is None:
            raise _not_a_pattern(self._pattern, "unterminated character set")
        self._at = end.end()

    def _group(self, depth: int) -> float:
        if self._next() == "?":
            start = _GROUP_STARTS.match(self._pattern, self._at)
            if start is None:
                raise _not_a_pattern(self._pattern, "a group of a kind that overrides do not take")
            self._at = start.end()
            if start.group().endswith(")"):
                return 1.0
        ways = self._alternatives(depth + 1)
        if self._next() != ")":
            raise _not_a_pattern(self._pattern, "missing ), unterminated subpattern")
        self._at += 1
        return ways

    def _repeated(self, ways: float) -> float:
        least, most = self._quantifier()
        if most == 1:
            return ways + (1 - least)
        if ways == 1:
            return min(most - least, _OPEN_ENDED) + 1 if most != least else 1.0
        return inf if most == inf else _power(ways, most + (most != least))

    def _quantifier(self) -> tuple[float, float]:
        """Read what follows an item, and return how often at least and at most the item stands."""
        signs = {"*": (0.0, inf), "+": (1.0, inf), "?": (0.0, 1.0)}
        found = signs.get(self._next())
        if found is not None:
            self._at += 1
        elif (braces := _BRACES.match(self._pattern, self._at)) and braces.group() not in {
            "{}",
            "{,}",
        }:
            self._at = braces.end()
            low, comma, high = braces.groups()
            least = float(low or 0)
            found = (least, float(high) if high else (inf if comma else least))
        else:
            return 1.0, 1.0
        if self._next() in {"?", "+"}:  # lazy or possessive
            self._at += 1
        return found


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return inf
