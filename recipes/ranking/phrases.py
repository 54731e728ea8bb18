"""Phrases that the rows and the verdict share: gains, times, and what layers in another form save."""

from __future__ import annotations

from subopt.profilers.record.profile import Profile
from subopt.units import format_bytes

from ..evidence.published import Published
from ..evidence.traits import model_type
from .row import TimeOverhead


def low_rank_text(saved_bytes: int) -> str:
    """Say what layers in another form do to the weights' memory."""
    what = "less" if saved_bytes > 0 else "more"
    return (
        f"it trains low-rank layers in the place of the model's: {format_bytes(abs(saved_bytes))} {what} of weights at "
        "the largest ranks they may take"
    )


def gain_text(published: Published) -> str:
    """Return a published gain in words, such as `7.7% lower validation perplexity than AdamW`."""
    result = published.result
    what = result.metric if result.lower_is_better else f"error ({result.metric})"
    direction = "lower" if published.gain >= 0 else "higher"
    return f"{abs(published.gain):.1%} {direction} {what} than AdamW"


def share_text(gain: float, measure: str = "loss") -> str:
    """Return an expected gain in words, such as `5% lower loss`."""
    if abs(gain) < 0.0005:
        return f"the same {measure}"
    digits = 0 if abs(gain) >= 0.1 else 1
    return f"{abs(gain):.{digits}%} {'lower' if gain > 0 else 'higher'} {measure}"


def measure_of(profile: Profile) -> str:
    """Return what a gain is a share of: the perplexity of a language model, the loss of another."""
    return "perplexity" if model_type(profile) == "language" else "loss"


def overhead_text(overhead: TimeOverhead | None) -> str:
    """Return a time overhead in words."""
    if overhead is None:
        return "an unknown time per step"
    how = "measured here" if overhead.source == "measured here" else "by FLOPs"
    if abs(overhead.share) < 0.005:
        return f"the same time per step ({how})"
    more = "more" if overhead.share > 0 else "less"
    return f"{abs(overhead.share):.0%} {more} time per step ({how})"
