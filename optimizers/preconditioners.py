"""Preconditioners: rules that see a matrix as it lies in memory, and so live in the identity basis only.

Rows are output neurons and columns their inputs (in * kernel for a convolution).
"""

from __future__ import annotations

from .block_adam import BlockAdam
from .moments import MOMENTS
from .preconditioned import Preconditioned
from .shampoo import Shampoo
from .shared_basis import SharedBasis
from .sketchy import Sketchy
from .step_rule import StepRule

_RULES: tuple[StepRule, ...] = (
    Preconditioned("shampoo", Shampoo()),
    Preconditioned("sketchy", Sketchy()),
    Preconditioned("shared-basis", SharedBasis(), eps=1e-12, smallest_rank=2),
    BlockAdam(),
)

PRECONDITIONERS = {rule.name: rule for rule in _RULES}

STEP_RULES: dict[str, StepRule] = {**MOMENTS, **PRECONDITIONERS}
