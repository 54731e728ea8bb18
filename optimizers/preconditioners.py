"""Preconditioners: rules that see a matrix as it lies in memory, and so live in the identity basis only.

Rows are output neurons and columns their inputs (in * kernel for a convolution).
"""

from __future__ import annotations

from .moments import MOMENTS
from .step_rule import StepRule

_RULES: tuple[StepRule, ...] = ()

PRECONDITIONERS = {rule.name: rule for rule in _RULES}

STEP_RULES: dict[str, StepRule] = {**MOMENTS, **PRECONDITIONERS}
