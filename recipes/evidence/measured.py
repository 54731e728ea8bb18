"""What a profile's gradients say about a method: the loss it can be expected to save, or to cost, over plain AdamW.

    gain = 0.08 * min(decades, 2) + 0.10 * agreement - 0.40 * (1 - kept)

averaged over the trained matrices by their size, in shares of the loss measure, after equally many steps. `decades` is
how many times ten more of the second moment's norm the method's basis puts on the diagonal, `agreement` what the cosine
with the full preconditioner's step gains in it, `kept` the gradient energy inside the method's subspace (see
`layer_reading`). `docs/advice.md` says where the constants come from and how far off they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from subopt.profilers.record.profile import Layer, MethodCost, Profile

from .layer_reading import LayerReading, read_layer
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

# Shares of a measured gain to expect. Gradients of untrained weights are nearly of rank one, and made-up data has none
# of the real one's structure: half. Little data, or a difference that was not measured: three quarters. A judgement.
UNTRAINED = 0.5
LITTLE = 0.75
FEW_BATCHES = 4
MOST = 0.5


def layer_gain(layer: Layer, cost: MethodCost, profile: Profile) -> float | None:
    """Return the expected gain of a method on one layer over plain AdamW after equally many steps.

    Args:
        layer: The layer.
        cost: The method's row of the profile, or another row with its options.
        profile: The profile the layer is of.

    Returns:
        A share of the loss measure, positive where the method is better; None where the method leaves the layer alone
        or nothing that was measured speaks about it. Time is not in it.
    """
    if profile.settings.simulate:
        return None
    reading = read_layer(layer, cost)
    return None if reading is None else gain_of(reading)


def gain_of(reading: LayerReading) -> float | None:
    """Return the rule's value for one reading; None where nothing speaks."""
    if not reading.speaks:
        return None
    lost = 1 - reading.kept if reading.kept is not None else 0.0
    return (
        DIAGONALITY_WORTH * min(reading.decades or 0.0, MOST_DECADES)
        + AGREEMENT_WORTH * (reading.agreement or 0.0)
        - ENERGY_WORTH * lost
    )


@dataclass(frozen=True, slots=True)
class MeasuredGain:
    """What the measured gradients say about a method on a whole model.

    Attributes:
        gain: Expected gain over the baseline after equally many steps, a share of the loss measure.
        layers: Matrices it rests on.
        coverage: Their share of the matrices that the method trains, by size.
        certainty: Share of the gain to expect.
        text: The numbers behind it.
        doubts: Why the certainty is not higher, in words.
    """

    gain: float
    layers: int
    coverage: float
    certainty: float
    text: str
    doubts: tuple[str, ...]

    @property
    def expected_gain(self) -> float:
        """The gain shrunk towards zero by what there is to doubt."""
        return self.gain * self.certainty


def measured_gain(profile: Profile, cost: MethodCost) -> MeasuredGain | None:
    """Return what the profile's gradients say about a method; None where nothing measured speaks about it.

    Layers count by their size, and their order does not matter.

    Args:
        profile: The profile.
        cost: The method's row in it.
    """
    if profile.settings.simulate or cost.method == load_evidence().baseline:
        return None
    weighed, trained = [], 0
    for layer in sorted(profile.layers, key=lambda layer: layer.name):
        reading = read_layer(layer, cost)
        if reading is None:
            continue
        trained += math.prod(layer.shape)
        gain = gain_of(reading)
        if gain is not None and math.isfinite(gain):
            weighed.append((math.prod(layer.shape), reading, gain))
    measured = sum(size for size, _, _ in weighed)
    if not measured:
        return None
    coverage = measured / trained
    readings = [(size, reading) for size, reading, _ in weighed]
    doubts = _doubts(profile, cost, coverage, readings)
    return MeasuredGain(
        gain=sum(size * gain for size, _, gain in weighed) / measured,
        layers=len(weighed),
        coverage=coverage,
        certainty=math.prod(share for _, share in doubts),
        text=_text(cost, readings),
        doubts=tuple(text for text, _ in doubts),
    )


def _doubts(
    profile: Profile,
    cost: MethodCost,
    coverage: float,
    readings: Sequence[tuple[int, LayerReading]],
) -> list[tuple[str, float]]:
    """What weakens a measured gain, and the share of it that each leaves."""
    settings, found = profile.settings, []
    if settings.steps + settings.warmup_steps == 0:
        found.append(("gradients of untrained weights", UNTRAINED))
    if settings.batches < FEW_BATCHES:
        found.append((f"{settings.batches} batch{'' if settings.batches == 1 else 'es'}", LITTLE))
    if coverage < MOST:
        found.append((f"{coverage:.0%} of the matrices measured", LITTLE))
    if profile.target.synthetic_data:
        found.append(("synthetic data", UNTRAINED))
    if profile.interrupted:
        found.append(("an interrupted profile", LITTLE))
    if any(reading.is_bound for _, reading in readings):
        found.append(("the energy is a bound, of each gradient's own best basis", LITTLE))
    found += [(f"{what} not measured", LITTLE) for what in family_of(cost).unmeasured]
    return found


def _text(cost: MethodCost, readings: Sequence[tuple[int, LayerReading]]) -> str:
    """The means over the layers, in words."""
    family, parts = family_of(cost), []
    decades = _mean([(size, reading.decades) for size, reading in readings])
    agreement = _mean([(size, reading.agreement) for size, reading in readings])
    kept = _mean([(size, reading.kept) for size, reading in readings])
    if decades is not None:
        where = "in one shared basis" if family.shares_basis else "in its basis"
        times = 10**decades
        parts.append(f"{times:,.{0 if times >= 10 else 1}f} times the diagonality {where}")
    if agreement is not None:
        parts.append(f"update agreement {agreement:+.2f}")
    if kept is not None:
        parts.append(f"{kept:.0%} of the gradient's energy kept")
    plural = "" if len(readings) == 1 else "s"
    return f"{', '.join(parts)}, mean of {len(readings)} layer{plural}"


def _mean(values: Sequence[tuple[int, float | None]]) -> float | None:
    """The mean of the known values by weight."""
    known = [(size, value) for size, value in values if value is not None]
    total = sum(size for size, _ in known)
    return sum(size * value for size, value in known) / total if total else None
