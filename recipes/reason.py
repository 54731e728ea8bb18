"""What a reason is: a record of why something was decided, or of what it rests on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """The base of all reasons: one type for each, with its numbers and no prose; `subopt.findings` has the words."""
