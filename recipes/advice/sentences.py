"""The advice in words: budget, what fills the memory, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subopt.profilers.record.profile import Profile
from subopt.units import format_bytes

from ..plan.budget import Budget
from ..ranking.row import Row
from .answer import FittingChange

# Below this share of the peak, the optimizer's state is not what fills the memory.
_SMALL_STATE_SHARE = 0.25


def budget_sentence(budget: Budget) -> str:
    """Say how the budget was read and what of it tensors can use."""
    total, usable = format_bytes(budget.total_bytes), format_bytes(budget.usable_bytes)
    if usable == total:
        return f"The budget is {total}, all of it usable."
    gone = []
    if budget.context_bytes:
        gone.append(f"{format_bytes(budget.context_bytes)} go to the CUDA context")
        gone.append(f"{format_bytes(budget.reserve_bytes)} to the allocator's reserve")
    if budget.headroom_bytes:
        gone.append(f"{format_bytes(budget.headroom_bytes)} stay free as headroom")
    *most, last = gone
    listed = f"{', '.join(most)} and {last}" if most else last
    return f"The budget is {total}, of which {usable} are usable: {listed}."


def refusal_sentences(rows: Sequence[Row], changes: Sequence[FittingChange]) -> list[str]:
    """Say that nothing fits, by how much, and what the smallest change would be."""
    leanest = min(rows, key=lambda row: row.peak.bytes)
    return [
        f"Nothing fits: {leanest.method} needs the least, {format_bytes(leanest.peak.bytes)} in the "
        f"{leanest.peak.phase} phase, {format_bytes(max(-leanest.headroom_bytes, 0))} too much.",
        f"The smallest change that would fit: {changes[0].text}.",
    ]


def memory_sentence(profile: Profile) -> str | None:
    """Say what fills the memory where it is not the optimizer; None where it is, or where that is unknown."""
    memory = profile.memory
    peak, state, activations = (
        memory.peak_bytes,
        memory.optimizer_state_bytes,
        memory.activation_bytes,
    )
    if not peak or activations is None:
        return None
    if state >= _SMALL_STATE_SHARE * peak or activations <= state:
        return None
    return (
        f"The optimizer is not what fills the memory: of AdamW's peak of {format_bytes(peak)}, its state is "
        f"{format_bytes(state)} ({state / peak:.0%}) and the activations {format_bytes(activations)} "
        f"({activations / peak:.0%}) at batch size {profile.settings.batch_size}; a smaller batch saves more than "
        "a leaner optimizer."
    )


def unavailable_sentence(unavailable: Sequence[tuple[str, str]]) -> str | None:
    """Say which methods were left out because something is not installed; None where all can be used."""
    if not unavailable:
        return None
    commands = dict.fromkeys(command for _, command in unavailable)
    listed = [
        f"{', '.join(name for name, by in unavailable if by == command)} ({command})"
        for command in commands
    ]
    return f"Not available here: {'; '.join(listed)}."


def data_sentence(profile: Profile) -> str | None:
    """Say what the recipe still needs where the profile's data was made up; None where it was real."""
    if not profile.target.synthetic_data:
        return None
    if profile.target.is_hf:
        return (
            "The profile's data was synthetic. For a language model profile again with --data 'texts/*.txt', "
            "or name the files in the recipe's data.files; for any other write a model.py whose build_model() returns "
            "this model and whose batches(batch_size) yields real data."
        )
    return (
        f"The profile's data was synthetic: before subopt train can run the recipe, {model_file(profile)} needs a "
        "batches(batch_size) function that yields real data."
    )


def model_file(profile: Profile) -> str:
    """Return the name of the file or module that holds the model."""
    target = profile.target
    return target.spec if target.file is None else Path(target.file).name
