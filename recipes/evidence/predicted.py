"""The gain predicted from a profile's gradients: the loss a method should save, or cost, over plain AdamW.

    gain = 0.08 * min(decades, 2) + 0.10 * agreement - 0.40 * (1 - kept)

averaged over the trained matrices by their size, in shares of the loss measure, after equally many steps. `decades` is
how many times ten more of the second moment's norm the method's basis puts on the diagonal, `agreement` what the cosine
with the full preconditioner's step gains in it, `kept` the gradient energy inside the method's subspace (see
`layer_findings`). The constants start from published pairs, named beside them;
`docs/advice.md` says how far off the formula is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from subopt.profilers.record.profile import Layer, MethodCost, Profile

from ..prior.traits import Measure, measure_of
from ..reason import Reason
from .doubts import Doubt, doubts_of
from .layer_findings import LayerFindings, layer_findings
from .method_family import family_of
from .published import load_evidence

# Ten times the diagonality. AdaDiag takes away 7.7 to 11.4 % of Adam's perplexity (Nguyen et al. 2025, table 2); on a
# LLaMA's gradients its basis is worth some 1.1 decades. Beyond two decades no more gain was seen: Muon's and SOAP's
# bases have up to four.
DIAGONALITY_WORTH = 0.08
MOST_DECADES = 2.0
# A cosine of 1 with the full preconditioner's step instead of 0.
AGREEMENT_WORTH = 0.10
# All of the gradient's energy. Liang et al. 2024, table 1: a quarter of the directions costs 6 to 21 % at 1B.
ENERGY_WORTH = 0.40


def layer_gain(layer: Layer, cost: MethodCost, profile: Profile) -> float | None:
    """Return the expected gain of a method on one layer over plain AdamW after equally many steps.

    Returns:
        A share of the loss measure, positive where the method is better; None where the method leaves the layer alone
        or nothing that was measured speaks about it. Time is not in it.
    """
    if profile.settings.simulate:
        return None
    found = layer_findings(layer, cost)
    return None if found is None else gain_of(found)


def gain_of(found: LayerFindings) -> float | None:
    """Return the formula's value for one layer; None where nothing speaks."""
    if not found.speaks:
        return None
    lost = 1 - found.kept if found.kept is not None else 0.0
    return (
        DIAGONALITY_WORTH * min(found.decades or 0.0, MOST_DECADES)
        + AGREEMENT_WORTH * (found.agreement or 0.0)
        - ENERGY_WORTH * lost
    )


class PredictedGain(Reason):
    """The gain predicted for a method from the gradients of a whole model, with the means over its matrices.

    Attributes:
        gain: Expected gain over the baseline after equally many steps, a share of the loss measure.
        measure: The loss measure.
        layers: Matrices it rests on.
        coverage: Their share of the matrices that the method trains, by size.
        certainty: Share of the gain to expect.
        decades: log10 of D in the method's basis over D in the weights' own coordinates; None where it is unknown.
        agreement: What its cosine with the full preconditioner's step gains; None where it is unknown.
        kept: Share of the gradient's energy in its subspace; None where it is unknown, or all directions move.
        shares_basis: Whether all output neurons have one basis.
        doubts: Why the certainty is not higher.
    """

    gain: float
    measure: Measure
    layers: int
    coverage: float
    certainty: float
    decades: float | None
    agreement: float | None
    kept: float | None
    shares_basis: bool
    doubts: tuple[Doubt, ...]


def predicted_gain(profile: Profile, cost: MethodCost) -> PredictedGain | None:
    """Return the gain predicted from the profile's gradients; None where nothing measured speaks about a method.

    Layers count by their size, and their order does not matter.
    """
    if profile.settings.simulate or cost.method == load_evidence().baseline:
        return None
    weighed, trained = [], 0
    for layer in sorted(profile.layers, key=lambda layer: layer.name):
        found = layer_findings(layer, cost)
        if found is None:
            continue
        trained += math.prod(layer.shape)
        gain = gain_of(found)
        if gain is not None and math.isfinite(gain):
            weighed.append((math.prod(layer.shape), found, gain))
    measured = sum(size for size, _, _ in weighed)
    if not measured:
        return None
    coverage = measured / trained
    is_bound = any(found.is_bound for _, found, _ in weighed)
    doubts = tuple(doubts_of(profile, cost, coverage, is_bound=is_bound))
    return PredictedGain(
        gain=sum(size * gain for size, _, gain in weighed) / measured,
        measure=measure_of(profile),
        layers=len(weighed),
        coverage=coverage,
        certainty=math.prod(doubt.certainty for doubt in doubts),
        decades=_mean([(size, found.decades) for size, found, _ in weighed]),
        agreement=_mean([(size, found.agreement) for size, found, _ in weighed]),
        kept=_mean([(size, found.kept) for size, found, _ in weighed]),
        shares_basis=family_of(cost).shares_basis,
        doubts=doubts,
    )


def _mean(values: Sequence[tuple[int, float | None]]) -> float | None:
    """The mean of the known values by weight."""
    known = [(size, value) for size, value in values if value is not None]
    total = sum(size for size, _ in known)
    return sum(size * value for size, value in known) / total if total else None
