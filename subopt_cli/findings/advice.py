"""The words of an answer: the choice, what plain AdamW would do, how sure that is, and what is missing."""

from __future__ import annotations

from subopt.recipes.advice import reasons, regimes
from subopt.recipes.evidence.published import Certainty
from subopt.recipes.ranking.row import Evidence
from subopt.recipes.reason import Reason

from . import plan  # noqa: F401, its texts are registered
from .evidence import evidence_type, time_text
from .words import described, filled, register, words

__all__ = ["described", "evidence_text", "words"]

_DECIDED = {
    "raced": "the race on this model and data",
    "prior": "what is known of such runs",
    "predicted": "the prediction from this model's gradients",
    "published": "the papers' numbers",
}
_HOW_NEAR = {
    Certainty.NEAR: "the same kind of model at about this size and batch",
    Certainty.MODERATE: "the same kind of model, its size and batch within ten times these",
    Certainty.FAR: "another kind of model, or a size or batch far from these",
}
_TIMES = {
    "measured": "times were measured on {device}",
    "formula": "times are FLOP counts, not measurements",
    None: "times are unknown",
}
_WOULD_SETTLE = "subopt race would settle it"
_MEMORY = (
    "its peak is {peak_bytes:bytes} ({phase} phase), {headroom_bytes:bytes} below what is usable."
)
_LEANER = "fits only with leaner options ({options}), with which it is another method."
_CLOSEST = "{method} comes closest, with {promise}."
register({
    reasons.BaselineChosen: f"Plain AdamW fits: {_MEMORY}",
    reasons.MethodChosen: f"{{method}} is the choice: {{promise}}; {_MEMORY}",
    reasons.LessSure: f"{{method}} promises {{more:.1%}} more, but less surely; {_WOULD_SETTLE}.",
    reasons.LeanerOnly: f"{{method}} promises {{more:.1%}} more, but {_LEANER}",
    reasons.BaselineFits: "Plain AdamW would fit too, with a peak of {peak_bytes:bytes}.",
    reasons.BaselineFitsLeaner: "Plain AdamW would fit with {options} only, with a peak of {peak_bytes:bytes}.",
    reasons.BaselineDoesNotFit: "Plain AdamW does not fit: its peak is {peak_bytes:bytes}, {excess_bytes:bytes} too "
    "much.",
    reasons.NoRival: "Of nothing else here is anything known: not raced, nor predicted, nor published.",
    regimes.FineTuning: "This is fine-tuning{is_asked:|, for the model loads weights (--no-fine-tune if it is not)}: "
    "AdamW is hard to beat from weights that Adam trained, and the learning rate is lower.",
    regimes.TooEarly: "The gradients say little yet, and nothing is predicted from them: {doubts}. A profile after "
    "more steps may tell: subopt profile --warmup-steps {warmup_steps}.",
    reasons.Rival: f"Nothing else is worth its cost here: {_CLOSEST}",
    reasons.RacedRival: f"Nothing that was raced is better by more than the seeds differ: {_CLOSEST}",
    reasons.WaitingRival: f"{{method}} promises {{promise}}, but it is too early to say; {_WOULD_SETTLE}.",
    reasons.LeanerRival: f"{{method}} promises {{promise}}, but {_LEANER}",
    reasons.LargeRival: "{method} promises {promise}, but does not fit: its peak is {peak_bytes:bytes}.",
    reasons.TightRival: "{method} promises {promise}, but may not fit: its peak is {peak_bytes:bytes}.",
    reasons.OtherObjective: "{method} promises {promise}, but {objective} was asked for.",
    reasons.RaceResult: "{gain:lower {measure}} than AdamW after equal time in the race"
    "{counts:|, which is inside the spread of the seeds}",
    reasons.RacedSeeds: "raced here with {seeds:seed}",
    reasons.RaceCutShort: "the race was cut short",
    reasons.Comparisons: "comparisons of such runs ({regime})",
    reasons.PredictedLayers: "predicted from the gradients of {layers:layer}",
    reasons.NotRaced: "not raced on your model",
    reasons.NothingFits: "Nothing fits: {method} needs the least, {peak_bytes:bytes} in the {phase} phase, "
    "{excess_bytes:bytes} too much.",
    reasons.SmallestChange: "The smallest change that would fit: {change}.",
    reasons.ActivationsFillMemory: "The optimizer is not what fills the memory: of AdamW's peak of {peak_bytes:bytes}, "
    "its state is {state_bytes:bytes} and the activations {activation_bytes:bytes} at batch size {batch_size}. A "
    "smaller batch saves more than a leaner optimizer.",
    reasons.NeedsBatches: "The profile's data was synthetic: before subopt train can run the recipe, {file} needs a "
    "batches(batch_size) function that yields real data.",
    reasons.NeedsDataFiles: "The profile's data was synthetic. For a language model profile again with --data "
    "'texts/*.txt', or name the files in the recipe's data.files. For any other write a model.py whose build_model() "
    "returns this model and whose batches(batch_size) yields real data.",
    reasons.ChosenRate: "learning rate of {is_fallback:what {method} leaves alone|{method}} {lr:g}: {origin}",
})


def evidence_text(reason: Reason) -> str:
    """Return a line of a recipe's `why.evidence`: what a number is known by stands before it."""
    text = words(reason)
    return f"{evidence_type(reason)}: {text}" if isinstance(reason, Evidence) else text


@words.register
def _(promise: reasons.ExpectedGain | reasons.UnknownQuality) -> str:
    known = (
        "{gain:lower {measure}} than AdamW after equal time, give or take {error:.0%}, at {time}"
    )
    unknown = "nothing is known of its quality here, {time}"
    text = known if isinstance(promise, reasons.ExpectedGain) else unknown
    return filled(text, promise, time=time_text(promise.overhead))


@words.register
def _(decided: reasons.DecidedBy) -> str:
    text = f"Decided by {_DECIDED[decided.evidence_type]}: {words(decided.evidence)}."
    others = ", ".join(f"{name} {gain:+.1%}" for name, gain in decided.others.items())
    return f"{text} Counted too: {others}." if others else text


@words.register
def _(second: reasons.RunnerUp) -> str:
    if second.behind > second.error:
        return filled("Next comes {method}, behind by more than the error of {error:.0%}.", second)
    text = "Next comes {method}, within the error of {error:.0%}: either may be better"
    return filled(f"{text}{{is_raced:|; {_WOULD_SETTLE}}}.", second)


@words.register
def _(sure: reasons.HowSure) -> str:
    was = "was" if sure.memory_source == "measured" else "is"
    reach = "{may_exceed_budget:, the peak's interval reaches beyond the budget|}"
    lacks = ", the profile lacks {missing_parts:part}" if sure.missing_parts else ""
    known = f"memory {was} {{memory_source}}, {_TIMES[sure.time_source]}{reach}{lacks}"
    return filled(
        f"How sure: {known}; confidence in the choice is {{confidence}}: {{grounds}}.", sure
    )


@words.register
def _(ground: reasons.PublishedNear) -> str:
    return f"published for {_HOW_NEAR[ground.certainty]}"


@words.register
def _(small: regimes.SmallBatch) -> str:
    text = (
        "With {tokens_per_step:,} tokens in a step no method has been seen to lead: the cheapest state "
        "({leanest}) is as good"
    )
    if small.accumulate > 1:
        text += ", and on one device smaller steps are better than accumulating {accumulate} micro-batches"
    return filled(f"{text}.", small)


@words.register
def _(found: reasons.NotInstalled) -> str:
    names: dict[str, list[str]] = {}
    for method, command in found.methods:
        names.setdefault(command, []).append(method)
    listed = "; ".join(f"{', '.join(methods)} ({command})" for command, methods in names.items())
    return f"Not available here: {listed}."
