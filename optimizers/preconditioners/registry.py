"""Preconditioners: rules that see a matrix as it lies in memory, and so live in the identity basis only.

Rows are output neurons and columns their inputs (in * kernel for a convolution).
"""

from __future__ import annotations

from ..updates.elementwise import MOMENTS
from ..updates.update import StepRule
from .block_adam import BlockAdam
from .preconditioned import Preconditioned
from .shampoo import Shampoo
from .shared_basis import SharedBasis
from .sketchy import Sketchy

_RULES: tuple[StepRule, ...] = (
    Preconditioned("shampoo", Shampoo()),
    Preconditioned("sketchy", Sketchy()),
    Preconditioned("shared-basis", SharedBasis(), eps=1e-12, smallest_rank=2),
    BlockAdam(),
)

PRECONDITIONERS = {rule.name: rule for rule in _RULES}

STEP_RULES: dict[str, StepRule] = {**MOMENTS, **PRECONDITIONERS}
