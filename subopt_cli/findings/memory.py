"""What fills the memory of training, and what would save most of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import format_bytes
from .common import cost_of, leanest_method

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile


def peak_text(profile: Profile) -> str:
    """Return the peak of training with AdamW, the phase that sets it and how it is known."""
    adamw, memory = cost_of(profile, "adamw"), profile.memory
    phase = f"{adamw.peak.phase} phase, " if adamw and adamw.peak else ""
    if memory.peak_bytes is None:
        return "the peak is unknown: the passes were not followed"
    size, batch = format_bytes(memory.peak_bytes), profile.settings.batch_size
    return f"AdamW's peak of {size} at batch {batch} ({phase}{memory.source})"


def what_saves_most(profile: Profile) -> str | None:
    """Return the best change beside the optimizer and the leanest optimizer, what saves more first."""
    found = []
    best = max(profile.memory.savings, key=lambda saving: saving.bytes, default=None)
    if best is not None:
        found.append((best.bytes, f"{best.change}: -{format_bytes(best.bytes)}"))
    leanest = leanest_method(profile)
    if leanest is not None and leanest[1] > 0:
        method, size = leanest
        found.append((size, f"the leanest optimizer, {method}: -{format_bytes(size)}"))
    texts = [text for _, text in sorted(found, reverse=True)]
    return f"saves most: {'; '.join(texts)}" if texts else None
