"""What a race says about a method: its loss against plain AdamW's after equal time on the user's own model and data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from subopt.profilers.record.cost import BASELINE
from subopt.profilers.record.profile import Contestant, Profile, Race

from ..prior.traits import Measure, measure_of, model_kind
from ..reason import Reason

# Runs of one method differ by about this share of the loss measure where a race repeated none with other seeds.
UNKNOWN_SPREAD = 0.05
# Methods are not told apart before about this much of a run: at 5 % their losses often stand in another order
# than at the end.
TELLING_SHARE = 0.29


class OtherSetting(Reason):
    """A setting of the race that is not what is asked about now."""

    setting: Literal["model file", "precision", "batch size", "device"]
    value: str | int


class RacedGain(Reason):
    """A method's result of a race.

    Attributes:
        contestant: Its entry: the rate and options it raced with, its losses.
        gain: Its gain over the baseline after equal time, a share of the loss measure; None where it did not get so
            far. Time is in it.
        measure: The loss measure.
        spread: What runs with other seeds differ by, in the same unit; a smaller gain is no difference.
        counts: Whether the gain is larger than that.
        differs: What was different in the race from what is asked about now.
        metric: The loss that was compared.
        horizon_s: Seconds of training steps of each run.
        baseline: The method it was compared with.
        share: How much of the run was trained when it was decided; None for a race of short runs of their own.
    """

    contestant: Contestant
    gain: float | None
    measure: Measure
    spread: float
    counts: bool
    differs: tuple[OtherSetting, ...]
    metric: str
    horizon_s: float
    baseline: str
    share: float | None = None

    @property
    def settles(self) -> bool:
        """Whether it is of the question's settings and of enough of the run for one method to be told from another."""
        return not self.differs and (self.share is None or self.share >= TELLING_SHARE)

    @property
    def expected_gain(self) -> float:
        """The gain, or 0 where it lies within the spread of the seeds."""
        return self.gain if self.counts and self.gain is not None else 0.0


def gain_from_losses(loss: float, baseline_loss: float, kind: str | None) -> float | None:
    """Return the share of the baseline's loss measure that a method removes.

    1 - exp(loss - baseline) for language models, whose measure is the perplexity; 1 - loss / baseline for others, and
    None there where the baseline's loss is not positive.

    Args:
        loss: The method's loss; for a language model in nats per token.
        baseline_loss: The baseline's.
        kind: The model's kind as `model_kind` says it.
    """
    if not (math.isfinite(loss) and math.isfinite(baseline_loss)):
        return None
    if kind == "language":
        return 1 - math.exp(min(loss - baseline_loss, 700.0))
    share = loss / baseline_loss if baseline_loss > 0 else math.inf
    return 1 - share if math.isfinite(share) else None


def raced_gain(profile: Profile, method: str, batch_size: int) -> RacedGain | None:
    """Return what the profile's race says about a method for steps of `batch_size` examples.

    None where it took no part, or AdamW did not: a race among others, or of one method's rates, tells no gain over it.

    A difference inside the spread of the seeds counts as none. One seed has no spread: the widest of the race's other
    methods stands in, or 5 % where every method ran once.
    """
    race = profile.race
    entries = {} if race is None else {entry.method: entry for entry in race.contestants}
    if race is None or method not in entries or len(entries) < 2 or race.baseline != BASELINE:
        return None
    gain, spread, counts = _gain(entries[method], race, model_kind(profile))
    return RacedGain(
        contestant=entries[method],
        gain=gain,
        measure=measure_of(profile),
        spread=spread,
        counts=counts,
        differs=tuple(_differs(profile, race, batch_size)),
        metric=race.metric,
        horizon_s=race.horizon_seconds,
        baseline=race.baseline,
        share=race.share,
    )


def _gain(found: Contestant, race: Race, kind: str | None) -> tuple[float | None, float, bool]:
    """The gain, the spread of the seeds, and whether the gain counts."""
    if found.verdict == "diverged":
        return -1.0, 0.0, True
    if found.verdict == "baseline":
        return 0.0, 0.0, False
    losses = next((c.losses for c in race.contestants if c.method == race.baseline), [])
    pairs = list(zip(found.losses, losses, strict=False))
    difference = found.difference
    if difference is None and pairs:
        difference = sum(own - other for own, other in pairs) / len(pairs)
    if difference is None or not losses:
        return None, 0.0, False
    base = sum(losses) / len(losses)
    gain, spread = gain_from_losses(base + difference, base, kind), _spread(found, race, base, kind)
    is_clear = gain is not None and abs(gain) > spread
    is_alone = found.verdict == "one seed only"
    return gain, spread, found.verdict in {"better", "worse"} or (is_alone and is_clear)


def _spread(found: Contestant, race: Race, base: float, kind: str | None) -> float:
    """The spread of the difference over seeds as a share of the loss measure."""
    repeated = {
        c.method: c.difference_spread
        for c in race.contestants
        if len(c.losses) > 1 and c.difference_spread is not None
    }
    if not repeated:
        return UNKNOWN_SPREAD
    widest = repeated.get(found.method, max(repeated.values()))
    share = gain_from_losses(base - widest, base, kind)
    return UNKNOWN_SPREAD if share is None else share


def _differs(profile: Profile, race: Race, batch_size: int) -> Iterator[OtherSetting]:
    """Yield what was different in the race."""
    if race.target_sha256 != profile.target.sha256:
        yield OtherSetting("model file", (race.target_sha256 or "")[:8])
    if race.precision != profile.settings.dtype:
        yield OtherSetting("precision", race.precision)
    if race.batch_size * race.accumulate != batch_size:
        yield OtherSetting("batch size", race.batch_size * race.accumulate)
    if race.device.partition(":")[0] != profile.environment.device.partition(":")[0]:
        yield OtherSetting("device", race.device)
