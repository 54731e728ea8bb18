"""A mix of methods as plain data: which layers get which, and what that takes and promises."""

from __future__ import annotations

from dataclasses import dataclass

from subopt.optimizers import get_method

from ..plan.peaks import PeakAt
from ..reason import Reason
from ..schema import OptionValue, Override


class MixRemark(Reason):
    """What there is to say of a mix."""

    text: str


@dataclass(frozen=True, slots=True)
class MixedUse:
    """One method of a mix, with the layers it gets.

    Attributes:
        patterns: Patterns of the layers' names; empty for the main method, which gets what no override matches.
        method: Method id.
        options: Options that differ from the method's defaults.
        rank: Its rank, where its moments live in a subspace: directions, or a share of the short side.
        layers: Names of the layers.
        parameters: Numbers in them.
        state_bytes: Optimizer state.
        gain: What they add to the gain of the mix.
    """

    patterns: tuple[str, ...]
    method: str
    options: dict[str, OptionValue]
    rank: int | float | None
    layers: tuple[str, ...]
    parameters: int
    state_bytes: int
    gain: float


@dataclass(frozen=True, slots=True)
class Mixed:
    """A mix of methods that fits, as overrides of a recipe.

    Attributes:
        overrides: The overrides, for all but the main method.
        method: The main method.
        options: Its options that differ from the defaults.
        fallback: What trains the parameters that are no matrices, where it is not the main method's own choice.
        uses: Every method with its layers, the main one first.
        state_bytes: All optimizer state, exactly.
        fallback_bytes: The part of it for parameters that are no matrices.
        peak: The highest memory of a step.
        step_ms: Time of a training step; None where it was not measured.
        gain: The promise: a share of the loss measure, plain AdamW at equal time being 0.
        bound_gain: No assignment of methods to single layers promises more within the budget.
        best_single: The best promise of one method for all layers within the budget, and its id; None if none fits.
        sentences: The same in words.
    """

    overrides: tuple[Override, ...]
    method: str
    options: dict[str, OptionValue]
    fallback: str | None
    uses: tuple[MixedUse, ...]
    state_bytes: int
    fallback_bytes: int
    peak: PeakAt
    step_ms: float | None
    gain: float
    bound_gain: float
    best_single: tuple[float, str] | None = None
    sentences: tuple[str, ...] = ()

    @property
    def fallback_method(self) -> str:
        """What trains the parameters that are no matrices."""
        return self.fallback or get_method(self.method).fallback

    @property
    def peak_bytes(self) -> int:
        """The estimate of the peak."""
        return self.peak.bytes
