"""Learning rates half a decade apart: 0.001, 0.003, 0.01, 0.03, ..."""

from __future__ import annotations

import math

from ..prior.rates import on_grid

# That a recipe takes, and that moves anything.
LOWEST, HIGHEST = 1e-9, 100.0


def within(lr: float) -> float:
    """Return the rate, or the nearest that a recipe takes."""
    return min(max(lr, LOWEST), HIGHEST)


def half_decades_from(lr: float, count: int) -> float:
    """Return the rate that is `count` half decades above `lr`; below it where `count` is negative.

    From a rate whose first digit is 1 or 3, and that has no other, all rates are such; any other is multiplied by
    sqrt(10) and rounded to two digits.
    """
    away = lr * 10 ** (count / 2)
    return on_grid(away) if math.isclose(on_grid(lr), lr, rel_tol=1e-6) else float(f"{away:.2g}")
