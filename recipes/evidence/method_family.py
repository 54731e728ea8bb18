"""Which of a profile's measurements speak about a method: read off its composition, never off its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from subopt.optimizers import get_method
from subopt.optimizers.updates.basis import resolve_rank
from subopt.profilers.record.profile import MethodCost

from .published import load_evidence

Coordinates: TypeAlias = Literal["one_sided", "two_sided", "covariance"]


@dataclass(frozen=True, slots=True)
class Family:
    """What a method's composition says about which measurements concern it.

    Attributes:
        coordinates: The measured basis nearest to the one it steps in; None for the weights' own coordinates.
        source: What that basis is fitted to: `gradient`, `momentum` or `covariance`.
        period: Steps between two fits of it, 1 where every step makes its own; None where it is followed step by step.
        projected_sides: Sides on which only the gradient's part in a subspace moves the weights: 0, 1 or 2.
        rank: Directions of that subspace or of the shared basis, or a share of the side; None where it has none.
        shares_basis: Whether all output neurons keep their second moments in one basis of that rank.
        unmeasured: What else it does differently from the baseline that no profile measures: options with their values.
    """

    coordinates: Coordinates | None
    source: str
    period: int | None
    projected_sides: int
    rank: int | float | None
    shares_basis: bool
    unmeasured: tuple[tuple[str, str], ...]

    def directions_of(self, side: int) -> int:
        """Return the rank as a number of directions of a side of this length: all of them where it has none."""
        return resolve_rank(self.rank, side) or side


def family_of(cost: MethodCost) -> Family:
    """Return the family of a profile's row, with that row's options."""
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in cost.options.items()}
    return _family(cost.method, tuple(sorted(given.items())))


@lru_cache(maxsize=1024)
def _family(name: str, given: tuple[tuple[str, Any], ...]) -> Family:
    method = get_method(name)
    able = method.capabilities
    options = method.resolve({key: value for key, value in given if key in method.tunable})
    basis: str = options.get("basis", "identity")
    sides = 2 if basis.endswith("two-sided") else 1
    coordinates: Coordinates | None = None
    source: str = options.get("source", "gradient")
    if "whitens" in able:
        # Averaged statistics of rows and columns have the covariances' eigenbases. Without any, all singular values
        # alike is what Adam makes of a gradient in that gradient's own singular bases.
        source = "covariance" if "refreshes" in able else "gradient"
        coordinates = "covariance" if source == "covariance" else "two_sided"
    elif basis != "identity":
        two_sided: Coordinates = "covariance" if source == "covariance" else "two_sided"
        coordinates = two_sided if sides == 2 else "one_sided"
    follows = basis != "identity" and "refreshes" not in able
    return Family(
        coordinates=coordinates,
        source=source,
        period=None if follows else options["period"] if "refreshes" in able else 1,
        projected_sides=sides if "projects" in able else 0,
        rank=options["rank"] if "rank" in able else None,
        shares_basis="shares_basis" in able,
        unmeasured=_unmeasured(options),
    )


def _unmeasured(options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Name what differs from the baseline and leaves no trace in a profile: another step, and how it is stored."""
    usual = get_method(load_evidence().baseline).resolve()
    step = next(options[name] for name in ("moments", "integrator", "update") if name in options)
    found = {"moments": step, "state_dtype": options.get("state_dtype")}
    return tuple((name, value) for name, value in found.items() if value != usual[name])
