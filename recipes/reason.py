"""What a reason is: a record of why something was decided, or of what it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import dataclass_transform


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True)
class Reason:
    """The base of all reasons: one type for each, with its numbers and no prose; `subopt.findings` has the words."""

    def __init_subclass__(cls) -> None:
        """Make every type of reason a frozen dataclass."""
        dataclass(frozen=True)(cls)
