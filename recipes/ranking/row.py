"""A row of the ranked table as plain data: one method, what it takes, and what is known of its quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from subopt.profilers.record.cost import BASELINE
from subopt.profilers.record.profile import MethodCost

from ..evidence.predicted import PredictedGain
from ..evidence.published import Published
from ..evidence.raced import RacedGain
from ..plan.budget import Fit
from ..plan.peaks import PeakAt
from ..prior.gains import PriorGain
from ..reason import Reason

Objective = Literal["quality", "speed", "memory"]
EvidenceType = Literal["raced", "prior", "predicted", "published"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one type of evidence says about a method's gain over the baseline; see `rule.expected_gain`.

    Attributes:
        evidence_type: How it is known.
        gain: As it was found, a share of the loss measure.
        expected: What is left of it by its certainty, the time of a step paid.
        weight: How much it counts beside the others.
        error: Its typical error, in the unit of the gain.
        decides_alone: Whether the others do not count beside it.
    """

    evidence_type: EvidenceType
    gain: float
    expected: float
    weight: float
    error: float
    decides_alone: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """The gain over the baseline at equal wall time, a share of the loss measure, with its typical error.

    `decided_by` is the type of evidence that weighs most; `estimates` has what each says, the most telling first.
    """

    gain: float
    error: float
    decided_by: EvidenceType
    estimates: tuple[Estimate, ...]


class TimeOverhead(Reason):
    """Time of a training step with a method, relative to one with the baseline.

    Attributes:
        share: 0.1 where a step takes a tenth longer; negative where it is shorter.
        source: `measured`, or `formula` where only FLOPs are known.
        optimizer_ms: Time of the optimizer's step; None where it was not measured.
    """

    share: float
    source: Literal["measured", "formula"]
    optimizer_ms: float | None = None


Evidence: TypeAlias = PeakAt | TimeOverhead | RacedGain | PriorGain | PredictedGain | Published


@dataclass(frozen=True, slots=True)
class Row:
    """One method of the ranked table.

    Attributes:
        method: Method id.
        cost: The profile's row: options, state bytes, FLOPs, time of the optimizer step.
        fit: Whether the peak fits the usable part of the budget.
        peak: The peak at the batch size asked about.
        headroom_bytes: Usable bytes minus the peak; negative where it does not fit.
        step_ms: Forward, backward and optimizer step together; None where it was not measured.
        overhead: Time relative to the baseline; None where it is unknown.
        raced: Its result of the profile's race; None where it did not take part.
        prior: The gain that comparisons of such runs lead to expect; None where there are none.
        predicted: The gain predicted from the profile's gradients; None where nothing measured speaks about it.
        published: The nearest published comparison with the baseline; None where there is none.
        waits: Whether it has to be raced before it may stand above the baseline.
        expected: The gain to expect from these together; None where there are none, and for the baseline.
        score: What it ranks by for quality (see `rule.score`); None where nothing is known.
        evidence: What the row rests on, of the above.
        reasons: What it lacks, and what else a person should know of it.
    """

    method: str
    cost: MethodCost
    fit: Fit
    peak: PeakAt
    headroom_bytes: int
    step_ms: float | None
    overhead: TimeOverhead | None
    raced: RacedGain | None
    prior: PriorGain | None
    predicted: PredictedGain | None
    published: Published | None
    waits: bool
    expected: Expected | None
    score: float | None
    evidence: tuple[Evidence, ...]
    reasons: tuple[Reason, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether it is the method that gains and overheads are measured against."""
        return self.method == BASELINE

    @property
    def is_raced(self) -> bool:
        """Whether a race at the settings of the question settles where it stands."""
        return self.raced is not None and self.raced.gain is not None and self.raced.settles

    @property
    def is_promising(self) -> bool:
        """Whether it is expected to be better than the baseline by more than the error of that expectation."""
        if self.score is None or self.expected is None or self.is_baseline:
            return False
        return self.score > 0 and (self.is_raced or self.score > self.expected.error)

    @property
    def is_recommendable(self) -> bool:
        """Whether it fits; where the profile has no activations, whether what it knows does."""
        is_open = self.peak.high_bytes is None and self.fit is Fit.MAYBE
        return self.fit is Fit.YES or (is_open and self.headroom_bytes >= 0)
