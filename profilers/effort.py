"""What each level of detail spends: the training steps it follows, and its share of time for everything it times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Detail = Literal["quick", "standard", "full"]

# Seconds that timing the methods may take even where the model's own passes are over in an instant.
_LEAST_TIMING_S = 15.0


@dataclass(frozen=True)
class Effort:
    """How much one level of detail measures.

    Attributes:
        steps: Training steps over which subspaces are followed, where the user names no number.
        refreshes: Timed refreshes of every method; 0 times no method and no decomposition.
        timing_s: Most seconds for timing all methods' steps, the baseline's beside them included.
        shape_s: Most seconds for timing the decompositions of one shape.
        repeat_s: Seconds of these after which they are repeated no more than they must be.
    """

    steps: int
    refreshes: int
    timing_s: float
    shape_s: float
    repeat_s: float

    def timing_budget_s(self, passes_s: float) -> float:
        """Return the seconds for timing all methods, given those that forward and backward passes have taken.

        On a small model timing would otherwise outlast everything else that is measured.
        """
        return min(self.timing_s, max(_LEAST_TIMING_S, passes_s))


EFFORTS: dict[Detail, Effort] = {
    "quick": Effort(steps=0, refreshes=0, timing_s=0.0, shape_s=0.0, repeat_s=0.0),
    "standard": Effort(steps=20, refreshes=2, timing_s=30.0, shape_s=10.0, repeat_s=0.5),
    "full": Effort(steps=100, refreshes=6, timing_s=600.0, shape_s=60.0, repeat_s=60.0),
}


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: Its name.
        done: Pieces of work that are done.
        total: Pieces in all.
        item: What is being worked on now: a method, a layer, a shape.
    """

    stage: str
    done: int
    total: int
    item: str = ""


OnProgress = Callable[[Progress], None]
