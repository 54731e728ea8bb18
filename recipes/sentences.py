"""The advice in words: what was chosen and why, what plain AdamW would do, what fills the memory, how sure this is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subopt.profilers.schema import Profile
from subopt.units import format_bytes

from .advice import Change, Objective, Row, TimeOverhead
from .budget import Budget, Fit
from .evidence import Certainty, Published, load_evidence

# Below this share of the peak, the optimizer's state is not what fills the memory.
_SMALL_STATE_SHARE = 0.25

_HOW_NEAR = {
    Certainty.NEAR: "the same kind of model at about this size and batch",
    Certainty.MODERATE: "the same kind of model, its size and batch within ten times these",
    Certainty.FAR: "another kind of model, or a size or batch far from these",
}


def budget_sentence(budget: Budget) -> str:
    """Say how the budget was read and what of it tensors can use."""
    total, usable = format_bytes(budget.total_bytes), format_bytes(budget.usable_bytes)
    if not budget.context_bytes:
        return f"The budget is {total}, all of it usable."
    return (
        f"The budget is {total}, of which {usable} are usable: {format_bytes(budget.context_bytes)} go to the CUDA "
        f"context and {format_bytes(budget.reserve_bytes)} to the allocator's reserve."
    )


def choice_sentences(chosen: Row, rows: Sequence[Row], objective: Objective) -> list[str]:
    """Say what was chosen and what that means for plain AdamW."""
    baseline = load_evidence().baseline
    memory = (
        f"its peak is {format_bytes(chosen.peak.bytes)} ({chosen.peak.phase} phase), "
        f"{format_bytes(chosen.headroom_bytes)} below what is usable"
    )
    adamw = next((row for row in rows if row.method == baseline), None)
    if chosen.method == baseline:
        said = [f"Plain AdamW fits: {memory}."]
        better = [row for row in rows if (row.score or 0.0) > 0]
        if better:
            return [*said, _would_be_better(better[0], objective)]
        return [*said, _nothing_worth_it(rows, baseline)]
    said = [f"{chosen.method} is the choice: {_worth(chosen)}; {memory}."]
    if chosen.cost.weight_bytes_saved:
        text = low_rank_text(chosen.cost.weight_bytes_saved)
        said.append(
            f"{text[0].upper()}{text[1:]}; the weights a run leaves behind are dense again."
        )
    if adamw is not None and adamw.is_recommendable:
        said.append(f"Plain AdamW would fit too, with a peak of {format_bytes(adamw.peak.bytes)}.")
    elif adamw is not None:
        said.append(
            f"Plain AdamW does not fit: its peak is {format_bytes(adamw.peak.bytes)}, "
            f"{format_bytes(-adamw.headroom_bytes)} too much."
        )
    return said


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


def certainty_sentence(profile: Profile, row: Row) -> str:
    """Say what the choice rests on and what weakens it."""
    time = {
        "measured here": f"times were measured on {profile.environment.device}",
        "formula": "times are FLOP counts, not measurements",
    }
    known = [
        "memory was measured" if row.peak.source == "measured" else f"memory is {row.peak.source}",
        time[row.overhead.source] if row.overhead is not None else "times are unknown",
    ]
    if row.published is not None and row.method != load_evidence().baseline:
        known.append(f"the gain is published for {_HOW_NEAR[row.published.certainty]}")
    else:
        known.append("quality was not measured on your model")
    if row.fit is Fit.MAYBE:
        known.append("the peak's interval reaches beyond the budget")
    if profile.target.synthetic_data:
        known.append("the data was synthetic")
    if profile.missing:
        known.append("parts of the profile are missing")
    return f"How sure: {', '.join(known)}."


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
            "The profile's data was synthetic, and subopt train has no other for this target: for a real run write a "
            "model.py whose build_model() returns this model and whose batches(batch_size) yields real data."
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


def overhead_text(overhead: TimeOverhead | None) -> str:
    """Return a time overhead in words."""
    if overhead is None:
        return "an unknown time per step"
    how = "measured here" if overhead.source == "measured here" else "by FLOPs"
    if abs(overhead.share) < 0.005:
        return f"the same time per step ({how})"
    more = "more" if overhead.share > 0 else "less"
    return f"{abs(overhead.share):.0%} {more} time per step ({how})"


def _worth(row: Row) -> str:
    if row.published is None:
        return f"no published comparison with AdamW, {overhead_text(row.overhead)}"
    return f"{gain_text(row.published)} in the nearest published setting for {overhead_text(row.overhead)}"


def _would_be_better(row: Row, objective: Objective) -> str:
    if row.fit is Fit.YES:
        return (
            f"{row.method} promises better quality ({_worth(row)}), but {objective} was asked for."
        )
    return f"{row.method} promises more ({_worth(row)}), but may not fit: its peak is {format_bytes(row.peak.bytes)}."


def _nothing_worth_it(rows: Sequence[Row], baseline: str) -> str:
    scored = [row for row in rows if row.score is not None and row.method != baseline]
    if not scored:
        return "Nothing else here has a published comparison with it."
    best = max(scored, key=lambda row: row.score or 0.0)
    return f"Nothing else is worth its cost here: {best.method} comes closest, with {_worth(best)}."
