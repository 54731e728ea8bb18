"""The advice in words: budget, what fills the memory, what is missing, and phrases that rows and verdict share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subopt.profilers.schema import Profile
from subopt.units import format_bytes

from .advice import Change, Row, TimeOverhead
from .budget import Budget
from .evidence import Published
from .traits import model_kind

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


def refusal_sentences(rows: Sequence[Row], changes: Sequence[Change]) -> list[str]:
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


def low_rank_text(saved_bytes: int) -> str:
    """Say what layers in another form do to the weights' memory."""
    what = "less" if saved_bytes > 0 else "more"
    return (
        f"it trains low-rank layers in the place of the model's: {format_bytes(abs(saved_bytes))} {what} of weights at "
        "the largest ranks they may take"
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
    return "perplexity" if model_kind(profile) == "language" else "loss"


def overhead_text(overhead: TimeOverhead | None) -> str:
    """Return a time overhead in words."""
    if overhead is None:
        return "an unknown time per step"
    how = "measured here" if overhead.source == "measured here" else "by FLOPs"
    if abs(overhead.share) < 0.005:
        return f"the same time per step ({how})"
    more = "more" if overhead.share > 0 else "less"
    return f"{abs(overhead.share):.0%} {more} time per step ({how})"
