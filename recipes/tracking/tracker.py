"""What a tracker does, and the error of one whose package is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from subopt.errors import UsageError


class Tracker(Protocol):
    """What a tracker is asked to do. Its package is imported when it is made, and nothing is written before `begin`."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def begin(self, start_step: int, settings: Mapping[str, Any]) -> None:
        """Start, or go on after `start_step` steps; what was logged after those comes again."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take the numbers of one step."""

    def sync(self) -> None:
        """Write what was taken: there is a checkpoint of it."""

    def end(self) -> None:
        """Write everything and let go."""


def missing(package: str, install: str) -> UsageError:
    """Return the error of a tracker whose package is not installed."""
    return UsageError(
        f"tracking with {package} needs the package {package}, which is not installed",
        f"install it with: pip install {install}",
    )
