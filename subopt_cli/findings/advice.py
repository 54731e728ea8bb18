"""The words of an answer: the choice, what plain AdamW would do, how sure that is, and what is missing."""

from __future__ import annotations

from subopt.recipes.advice.reasons import (
    ActivationsFillMemory,
    BaselineChosen,
    BaselineDoesNotFit,
    BaselineFits,
    ChosenRate,
    DecidedBy,
    ExpectedGain,
    HowSure,
    LargeRival,
    LeanerOnly,
    LeanerRival,
    LessSure,
    MethodChosen,
    NeedsBatches,
    NeedsDataFiles,
    NoRival,
    NothingFits,
    NotInstalled,
    NotRaced,
    OtherBatchSize,
    OtherObjective,
    PredictedLayers,
    PublishedNear,
    RaceCutShort,
    RacedRival,
    RacedSeeds,
    RaceResult,
    Rival,
    RunnerUp,
    SmallestChange,
    UnknownQuality,
    UnsureRival,
)
from subopt.recipes.evidence.published import Certainty, load_evidence
from subopt.recipes.mixed.record import MixRemark
from subopt.recipes.ranking.row import Evidence
from subopt.recipes.reason import Reason

from ..text import plural
from ..units import format_bytes
from .evidence import evidence_type, gain_text, time_text
from .plan import options_text
from .words import described, fixed, words

__all__ = ["described", "evidence_text", "words"]

_DECIDED = {
    "raced": "the race on this model and data",
    "predicted": "the prediction from this model's gradients",
    "published": "the papers' numbers",
}
_HOW_NEAR = {
    Certainty.NEAR: "the same kind of model at about this size and batch",
    Certainty.MODERATE: "the same kind of model, its size and batch within ten times these",
    Certainty.FAR: "another kind of model, or a size or batch far from these",
}
_WOULD_SETTLE = "subopt race would settle it"
fixed({
    NoRival: "Of nothing else here is anything known: not raced, nor predicted, nor published.",
    RaceCutShort: "the race was cut short",
    NotRaced: "not raced on your model",
    NeedsDataFiles: "The profile's data was synthetic. For a language model profile again with --data 'texts/*.txt', "
    "or name the files in the recipe's data.files. For any other write a model.py whose build_model() returns this "
    "model and whose batches(batch_size) yields real data.",
})


def evidence_text(reason: Reason) -> str:
    """Return a line of a recipe's `why.evidence`: what a number is known by stands before it."""
    text = words(reason)
    return f"{evidence_type(reason)}: {text}" if isinstance(reason, Evidence) else text


# ---- the choice


@words.register
def _(promise: ExpectedGain) -> str:
    gain = gain_text(promise.gain, promise.measure)
    error = f"give or take {promise.error:.0%}"
    return f"{gain} than AdamW after equal time, {error}, at {time_text(promise.overhead)}"


@words.register
def _(promise: RaceResult) -> str:
    inside = "" if promise.counts else ", which is inside the spread of the seeds"
    return f"{gain_text(promise.gain, promise.measure)} than AdamW after equal time in the race{inside}"


@words.register
def _(promise: UnknownQuality) -> str:
    return f"nothing is known of its quality here, {time_text(promise.overhead)}"


def _memory(choice: BaselineChosen) -> str:
    peak, headroom = format_bytes(choice.peak_bytes), format_bytes(choice.headroom_bytes)
    return f"its peak is {peak} ({choice.phase} phase), {headroom} below what is usable"


@words.register
def _(choice: BaselineChosen) -> str:
    return f"Plain AdamW fits: {_memory(choice)}."


@words.register
def _(choice: MethodChosen) -> str:
    return f"{choice.method} is the choice: {words(choice.promise)}; {_memory(choice)}."


@words.register
def _(decided: DecidedBy) -> str:
    text = f"Decided by {_DECIDED[decided.evidence_type]}: {words(decided.evidence)}."
    others = ", ".join(f"{name} {gain:+.1%}" for name, gain in decided.others.items())
    return f"{text} Counted beside it: {others}." if others else text


def _name(method: str) -> str:
    return "plain AdamW" if method == load_evidence().baseline else method


@words.register
def _(second: RunnerUp) -> str:
    text = f"Next comes {_name(second.method)}, {second.behind:.1%} behind"
    if second.behind > second.error:
        return f"{text}."
    settle = "" if second.is_raced else f"; {_WOULD_SETTLE}"
    return f"{text}, less than the error of {second.error:.0%}: either may be better{settle}."


@words.register
def _(other: LessSure) -> str:
    return (
        f"{_name(other.method)} promises {other.more:.1%} more, but less surely; {_WOULD_SETTLE}."
    )


def _leaner(other: LeanerOnly | LeanerRival) -> str:
    options = options_text(other.options)
    return f"fits only with leaner options ({options}), with which it is another method"


@words.register
def _(other: LeanerOnly) -> str:
    return f"{_name(other.method)} promises {other.more:.1%} more, but {_leaner(other)}."


@words.register
def _(adamw: BaselineFits) -> str:
    how = f"with {options_text(adamw.options)} only" if adamw.options else "too"
    return f"Plain AdamW would fit {how}, with a peak of {format_bytes(adamw.peak_bytes)}."


@words.register
def _(adamw: BaselineDoesNotFit) -> str:
    peak, excess = format_bytes(adamw.peak_bytes), format_bytes(adamw.excess_bytes)
    return f"Plain AdamW does not fit: its peak is {peak}, {excess} too much."


# ---- why no other method was chosen over plain AdamW


def _closest(rival: Rival) -> str:
    return f"{rival.method} comes closest, with {words(rival.promise)}"


def _promises(rival: Rival) -> str:
    return f"{rival.method} promises {words(rival.promise)}"


@words.register
def _(rival: Rival) -> str:
    return f"Nothing else is worth its cost here: {_closest(rival)}."


@words.register
def _(rival: RacedRival) -> str:
    return f"Nothing that was raced is better by more than the seeds differ: {_closest(rival)}."


@words.register
def _(rival: UnsureRival) -> str:
    return f"{_promises(rival)}: too little to choose it on; {_WOULD_SETTLE}."


@words.register
def _(rival: LeanerRival) -> str:
    return f"{_promises(rival)}, but {_leaner(rival)}."


@words.register
def _(rival: LargeRival) -> str:
    fits = "may not fit" if rival.may_fit else "does not fit"
    return f"{_promises(rival)}, but {fits}: its peak is {format_bytes(rival.peak_bytes)}."


@words.register
def _(rival: OtherObjective) -> str:
    return f"{_promises(rival)}, but {rival.objective} was asked for."


# ---- how sure the choice is


@words.register
def _(sure: HowSure) -> str:
    times = {
        "measured": f"times were measured on {sure.device}",
        "formula": "times are FLOP counts, not measurements",
        None: "times are unknown",
    }
    was = "memory was measured"
    parts = [was if sure.memory_source == "measured" else f"memory is {sure.memory_source}"]
    parts.append(times[sure.time_source])
    if sure.may_exceed_budget:
        parts.append("the peak's interval reaches beyond the budget")
    if sure.missing_parts:
        parts.append(f"the profile lacks {plural(sure.missing_parts, 'part')}")
    grounds = ", ".join(map(words, sure.grounds))
    return f"How sure: {', '.join(parts)}; quality is {sure.grade}: {grounds}."


@words.register
def _(ground: RacedSeeds) -> str:
    return f"raced here with {plural(ground.seeds, 'seed')}"


@words.register
def _(ground: PredictedLayers) -> str:
    return f"predicted from the gradients of {plural(ground.layers, 'layer')}"


@words.register
def _(ground: PublishedNear) -> str:
    return f"published for {_HOW_NEAR[ground.certainty]}"


# ---- what else there is to say


@words.register
def _(refusal: NothingFits) -> str:
    return (
        f"Nothing fits: {refusal.method} needs the least, {format_bytes(refusal.peak_bytes)} in the {refusal.phase} "
        f"phase, {format_bytes(refusal.excess_bytes)} too much."
    )


@words.register
def _(refusal: SmallestChange) -> str:
    return f"The smallest change that would fit: {words(refusal.change)}."


@words.register
def _(found: ActivationsFillMemory) -> str:
    peak = found.peak_bytes
    return (
        f"The optimizer is not what fills the memory: of AdamW's peak of {format_bytes(peak)}, its state is "
        f"{format_bytes(found.state_bytes)} ({found.state_bytes / peak:.0%}) and the activations "
        f"{format_bytes(found.activation_bytes)} ({found.activation_bytes / peak:.0%}) at batch size "
        f"{found.batch_size}. A smaller batch saves more than a leaner optimizer."
    )


@words.register
def _(found: NotInstalled) -> str:
    names: dict[str, list[str]] = {}
    for method, command in found.methods:
        names.setdefault(command, []).append(method)
    listed = "; ".join(f"{', '.join(methods)} ({command})" for command, methods in names.items())
    return f"Not available here: {listed}."


@words.register
def _(found: NeedsBatches) -> str:
    return (
        f"The profile's data was synthetic: before subopt train can run the recipe, {found.file} needs a "
        "batches(batch_size) function that yields real data."
    )


@words.register
def _(rate: ChosenRate) -> str:
    what = f"what {rate.method} leaves alone" if rate.is_fallback else rate.method
    return f"learning rate of {what} {rate.lr:g}: {words(rate.origin)}"


@words.register
def _(found: OtherBatchSize) -> str:
    return (
        f"that rate belongs to {found.rate_tokens:,} tokens per step and this run has {found.step_tokens:,}: "
        "a smaller batch often wants a smaller rate"
    )


@words.register
def _(remark: MixRemark) -> str:
    return remark.text
