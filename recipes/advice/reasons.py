"""What an answer says: the chosen method and why, what plain AdamW would do, how sure that is, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from subopt.profilers.record.profile import Phase

from ..evidence.published import Certainty
from ..prior.traits import Measure
from ..ranking.row import EvidenceType, Objective, TimeOverhead
from ..reason import Reason

# ---- what a method promises


class Promise(Reason):
    """The base of all promises of quality."""


class ExpectedGain(Promise):
    """The gain over the baseline after equal time to expect from all evidence, its error, and the time of a step."""

    gain: float
    error: float
    measure: Measure
    overhead: TimeOverhead | None


class RaceResult(Promise):
    """The gain in a race at the settings of the question; one that does not count is inside the seeds' spread."""

    gain: float
    measure: Measure
    counts: bool


class UnknownQuality(Promise):
    """Nothing is known of the method's quality."""

    overhead: TimeOverhead | None


# ---- the choice


class BaselineChosen(Reason):
    """Plain AdamW is the choice."""

    peak_bytes: int
    phase: Phase
    headroom_bytes: int


class MethodChosen(BaselineChosen):
    """Another method is the choice."""

    method: str
    promise: Promise


class DecidedBy(Reason):
    """Which evidence decided the expected gain, and the gains by the other types that count beside it."""

    evidence_type: EvidenceType
    evidence: Reason
    others: Mapping[EvidenceType, float]


class RunnerUp(Reason):
    """The method that comes next, and the error of the distance; after a race another one would settle nothing."""

    method: str
    behind: float
    error: float
    is_raced: bool


class LessSure(Reason):
    """Another method promises more, but less surely."""

    method: str
    more: float


class LeanerOnly(LessSure):
    """Another method promises more, but fits with leaner options only."""

    options: Mapping[str, Any]


class BaselineFits(Reason):
    """Plain AdamW would fit too."""

    peak_bytes: int


class BaselineFitsLeaner(BaselineFits):
    """Plain AdamW would fit with leaner options."""

    options: Mapping[str, Any]


class BaselineDoesNotFit(Reason):
    """Plain AdamW does not fit."""

    peak_bytes: int
    excess_bytes: int


# ---- why no other method was chosen over plain AdamW


class NoRival(Reason):
    """Nothing is known of any other method."""


class Rival(Reason):
    """The best other method and its promise, which is not worth its cost."""

    method: str
    promise: Promise


class RacedRival(Rival):
    """No raced method is better by more than the seeds differ; this one comes closest."""


class WaitingRival(Rival):
    """The method promises more, but the start of training says too little to choose it without a race."""


class LeanerRival(Rival):
    """The method fits with leaner options only."""

    options: Mapping[str, Any]


class LargeRival(Rival):
    """The method does not fit."""

    peak_bytes: int


class TightRival(LargeRival):
    """The method may not fit: its interval reaches beyond the budget, or is open."""


class OtherObjective(Rival):
    """Quality was not what was asked for."""

    objective: Objective


# ---- how sure the choice is


class HowSure(Reason):
    """How the numbers are known, how far the promise of quality can be trusted, and what it rests on."""

    memory_source: Literal["measured", "simulated", "formula"]
    time_source: Literal["measured", "formula"] | None
    device: str
    may_exceed_budget: bool
    missing_parts: int
    confidence: Literal["high", "medium", "low"]
    grounds: tuple[Reason, ...]


class RacedSeeds(Reason):
    """The method was raced with so many seeds."""

    seeds: int


class RaceCutShort(Reason):
    """The race ended before its plan did."""


class Comparisons(Reason):
    """What to expect rests on comparisons of such runs."""

    regime: str


class PredictedLayers(Reason):
    """The gain was predicted from the gradients of so many layers."""

    layers: int


class PublishedNear(Reason):
    """A comparison is published for a setting so near."""

    certainty: Certainty


class NotRaced(Reason):
    """The method was not raced on this model, and nothing else is known of it."""


# ---- where nothing fits


class NothingFits(Reason):
    """The method that needs the least, and by how much that is too much."""

    method: str
    peak_bytes: int
    phase: Phase
    excess_bytes: int


class SmallestChange(Reason):
    """The first of the changes that would make training fit."""

    change: Reason


# ---- what else there is to say


class ActivationsFillMemory(Reason):
    """Of AdamW's peak, the activations are far more than the optimizer's state."""

    peak_bytes: int
    state_bytes: int
    activation_bytes: int
    batch_size: int


class NotInstalled(Reason):
    """Methods that need a package, each with the command that installs it."""

    methods: tuple[tuple[str, str], ...]


class NeedsBatches(Reason):
    """The profile's data was made up: the model's file needs a `batches` function before the recipe can be trained."""

    file: str


class NeedsDataFiles(Reason):
    """The profile's data was made up: a model of the Hugging Face hub needs files of data."""


class ChosenRate(Reason):
    """A recipe's learning rate, that of the method or of what it leaves alone, and where it comes from."""

    method: str
    lr: float
    origin: Reason
    is_fallback: bool = False
