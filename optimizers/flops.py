"""What a part of an update costs in arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flops:
    """Work of a part: per ordinary step, per refresh, and an upper bound per step, a refresh every step included.

    For bases the bound is the one of Nguyen et al. 2025, section 3.4.
    """

    step: float
    refresh: float
    bound: float
