"""What a profile comes to, in three sentences for a person who has not read the papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..text import percent, shape_text
from ..units import format_bytes, format_ms
from .common import (
    cost_of,
    decomposed_and_followed,
    decompositions_by_shape,
    largest_content,
    leanest_method,
    parts_at_peak,
)
from .rank import rank_sentence
from .rotation import rotation_sentence

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile


def profile_summary(profile: Profile) -> list[str]:
    """Return up to three sentences: rank and period, rotation, memory and time; one without numbers is left out."""
    found = [rank_sentence(profile), rotation_sentence(profile), _memory(profile)]
    return [sentence for sentence in found if sentence]


def _memory(profile: Profile) -> str | None:
    filled = _what_fills(profile)
    clauses = [filled, *_what_frees(profile)] if filled else [_least_state(profile)]
    found = [clause for clause in (*clauses, _svd_against_pca(profile)) if clause]
    return f"Memory and time: {'; '.join(found)}." if found else None


def _what_fills(profile: Profile) -> str | None:
    memory, adamw = profile.memory, cost_of(profile, "adamw")
    if not memory.peak_bytes:
        return None
    phase = f"{adamw.peak.phase}, " if adamw and adamw.peak else ""
    name, size, is_state = _largest(profile)
    text = (
        f"the largest part of plain AdamW's {format_bytes(memory.peak_bytes)} peak ({phase}{memory.source}) is {name} "
        f"({percent(size / memory.peak_bytes)})"
    )
    if is_state:
        return text
    return f"{text}, optimizer state {percent(memory.optimizer_state_bytes / memory.peak_bytes)}"


def _largest(profile: Profile) -> tuple[str, int, bool]:
    """Return the largest thing alive at the peak, or where its contents are unknown the largest category.

    Returns:
        Its name, its bytes, and whether it is the optimizer's state.
    """
    content = largest_content(profile)
    if content is not None:
        return content.name, content.bytes, content.category == "state"
    memory = profile.memory
    parts = parts_at_peak(profile) or [
        ("parameters", memory.parameter_bytes),
        ("gradients", memory.gradient_bytes),
        ("optimizer state", memory.optimizer_state_bytes),
        ("activations", memory.activation_bytes or 0),
        ("temporaries", memory.temporary_bytes or 0),
    ]
    name, size = max(parts, key=lambda part: part[1])
    return name, size, name == "optimizer state"


def _what_frees(profile: Profile) -> list[str]:
    """Return the best saving and the most that another optimizer frees, the larger first."""
    found = []
    best = max(profile.memory.savings, key=lambda saving: saving.bytes, default=None)
    if best is not None:
        found.append((best.bytes, f"{best.change}: {format_bytes(best.bytes)} less"))
    leanest = leanest_method(profile)
    if leanest is not None and leanest[1] > 0:
        method, most = leanest
        found.append((most, f"another optimizer frees {format_bytes(most)} at most ({method})"))
    return [text for _, text in sorted(found, reverse=True)]


def _least_state(profile: Profile) -> str | None:
    adamw = cost_of(profile, "adamw")
    if adamw is None:
        return None
    least = min(profile.methods, key=lambda cost: cost.state_bytes)
    text = f"AdamW keeps {format_bytes(adamw.state_bytes)} of state"
    if least.state_bytes < adamw.state_bytes:
        text += f", {least.method} the least with {format_bytes(least.state_bytes)}"
    return text


def _svd_against_pca(profile: Profile) -> str | None:
    for shape, _, timings in decompositions_by_shape(profile):
        if found := decomposed_and_followed(timings):
            decomposed, followed = found
            return (
                f"bases of the {shape_text(shape)} layers cost {format_ms(decomposed.ms_per_training_step)} a step by "
                f"{decomposed.kernel} at its period, {format_ms(followed.ms_per_training_step)} by online PCA"
            )
    return None
