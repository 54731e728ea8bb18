"""What the kind of run says about the choice: fine-tuning, small batches, and gradients that say little yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from subopt.profilers.record.profile import Profile

from ..evidence.start import EarlyDoubt, early_doubts
from ..prior.gains import is_small_batch
from ..prior.traits import Traits
from ..ranking.row import Row
from ..reason import Reason

# After so many more steps of warm-up, or three times those of now, gradients are looked at again.
LEAST_WARMUP_STEPS = 100
_MORE = 3


class FineTuning(Reason):
    """The run is fine-tuning, as was asked for or as the model's file loads weights, which changes what is expected."""

    is_asked: bool


class SmallBatch(Reason):
    """With so few tokens in a step no method has been seen to lead, and the cheapest state is as good as any."""

    tokens_per_step: int
    leanest: str
    accumulate: int


class TooEarly(Reason):
    """The gradients say little yet, so that nothing is predicted from them; more steps of warm-up may change that."""

    doubts: tuple[EarlyDoubt, ...]
    warmup_steps: int


def regime_remarks(
    profile: Profile, traits: Traits, rows: Sequence[Row], *, is_asked: bool, accumulate: int
) -> Iterator[Reason]:
    """Yield what the kind of run says, each in one sentence; nothing for an ordinary one."""
    if traits.fine_tunes:
        yield FineTuning(is_asked)
    tokens = traits.tokens_per_step
    as_good = [row for row in rows if row.is_baseline or (row.prior and row.prior.gain >= 0)]
    if tokens is not None and as_good and is_small_batch(traits):
        lean = min(as_good, key=lambda row: row.cost.state_bytes)
        yield SmallBatch(tokens, lean.method, accumulate)
    doubts = early_doubts(profile)
    if doubts:
        done = profile.settings.warmup_steps + profile.settings.steps
        yield TooEarly(doubts, max(LEAST_WARMUP_STEPS, _MORE * done))
