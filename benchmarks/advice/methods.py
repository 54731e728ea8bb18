"""The methods of the runs: where the search for a rate begins, and the rate of what a method leaves alone."""

from dataclasses import dataclass

BASELINE = "adamw"
# Mantissas of the half-decade grid.
MANTISSAS = (1, 3)
LOWEST, HIGHEST = 1e-6, 1e2


@dataclass(frozen=True)
class Search:
    """How a method is tried.

    Attributes:
        start: The first rate. The search walks from there until both neighbours of the best are worse.
        fallback: AdamW's rate on embeddings, heads and vectors, as a multiple of the method's own. The method's usual
            rate and AdamW's stand in this ratio; a recipe that has one rate for a model needs no second search.
    """

    start: float
    fallback: float = 1.0


# In the order of running.
SEARCHES = {
    "adamw": Search(start=3e-3),
    "soap": Search(start=1e-2),
    "muon": Search(start=3e-2, fallback=0.3),
    "lion": Search(start=1e-3, fallback=3.0),
    "adafacdiag": Search(start=1e-2),
    "adadiag++": Search(start=1e-2),
    "adafactor": Search(start=1e-2),
    "galore": Search(start=3e-2, fallback=0.3),
}


def neighbour(lr: float, steps: int) -> float:
    """Return the rate so many half decades above (or below) one of the grid 1e-3, 3e-3, 1e-2, ..."""
    exponent = _half_decades(lr) + steps
    return float(f"{MANTISSAS[exponent % 2]}e{exponent // 2}")


def _half_decades(lr: float) -> int:
    mantissa, exponent = f"{lr:.0e}".split("e")
    return 2 * int(exponent) + MANTISSAS.index(int(mantissa))


def best_rate(losses: dict[float, float]) -> float | None:
    """Return the rate with the lowest finite loss, or None where there is none."""
    finite = {lr: loss for lr, loss in losses.items() if loss < float("inf")}
    return min(finite, key=lambda lr: finite[lr]) if finite else None


def next_rate(losses: dict[float, float], start: float) -> float | None:
    """Return the next rate to try, or None where both neighbours of the best are worse.

    Args:
        losses: Loss by the rates tried so far; infinite where a run diverged.
        start: The first rate.
    """
    if not losses:
        return start
    best = best_rate(losses)
    wanted = (
        [neighbour(min(losses), -1)] if best is None else [neighbour(best, 1), neighbour(best, -1)]
    )
    untried = [lr for lr in wanted if lr not in losses and LOWEST <= lr <= HIGHEST]
    return untried[0] if untried else None
