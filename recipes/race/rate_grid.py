"""Learning rates half a decade apart: 0.001, 0.003, 0.01, 0.03, ..."""

from __future__ import annotations

import math

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
    position = 2 * math.log10(lr)
    nearest = round(position)
    if math.isclose(_on_the_grid(nearest), lr, rel_tol=1e-6):
        return _on_the_grid(nearest + count)
    return float(f"{lr * 10 ** (count / 2):.2g}")


def _on_the_grid(index: int) -> float:
    decade, is_three = divmod(index, 2)
    return float(f"{3 if is_three else 1}e{decade}")
