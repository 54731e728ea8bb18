"""The words of what is known of a method: gains, time, learning rates, and what there is to doubt about them."""

from __future__ import annotations

from subopt.recipes.evidence import doubts, raced_settings, start
from subopt.recipes.evidence.predicted import PredictedGain
from subopt.recipes.evidence.published import Published, load_evidence
from subopt.recipes.evidence.raced import OtherSetting, RacedGain
from subopt.recipes.plan.peaks import PeakAt
from subopt.recipes.prior.gains import PriorGain
from subopt.recipes.prior.rates import BesideRate, FittedRate, HeavyDecay, RelatedRate
from subopt.recipes.ranking import reasons
from subopt.recipes.ranking.row import Evidence, TimeOverhead
from subopt.recipes.reason import Reason

from ..text import plural
from ..units import format_ms
from .words import filled, gain_text, register, words

_UNKNOWN_TIME = "an unknown time per step"
_PRIOR = "the usual one for this width, length and batch; the best may be {times:.0f} times higher or lower"
register({
    doubts.UntrainedGradients: "gradients of untrained weights",
    doubts.FewBatches: "{batches:batch|batches}",
    doubts.FewMatrices: "{coverage:.0%} of the matrices measured",
    doubts.SyntheticData: "synthetic data",
    doubts.InterruptedProfile: "an interrupted profile",
    doubts.EnergyBound: "the energy is a bound, of each gradient's own best basis",
    doubts.NotMeasured: "{option}: {value} not measured",
    reasons.IsBaseline: "every gain and overhead is against this method",
    reasons.NoPrediction: "nothing the profile measures of gradients speaks about it",
    reasons.NoComparison: "no published comparison with AdamW",
    reasons.NothingKnown: "so it ranks below the methods of which something is known",
    reasons.UnknownTime: _UNKNOWN_TIME,
    BesideRate: "{times:g} times the method's own rate, as in the runs behind that",
    HeavyDecay: "{weight_decay:g} takes {share:.1%} off the weights in every step at a rate of {lr:g}, against which "
    "little is learned: try {bearable:g} or less",
    OtherSetting: "the race had another {setting} ({value})",
    PriorGain: "{gain:lower {measure}} than AdamW, give or take {error:.0%} ({regime})",
    start.HighFirstLoss: "the first loss is {loss:.3g}, far above the {even_loss:.3g} of guessing evenly among "
    "{classes} classes (are the initial weights too large?)",
    start.OneDirection: "the gradients of {share:.0%} of the matrices have nearly one direction "
    "(stable rank {stable_rank:.2g})",
    start.SteepLoss: "the loss still falls steeply, from {first:.3g} to {last:.3g} in {steps:step}",
    raced_settings.RacedFallbackRate: "what the race on this model trained it with",
})


def evidence_type(found: Evidence) -> str:
    """Return how a number is known: raced, predicted, published, measured, simulated, or by a formula."""
    if isinstance(found, PeakAt | TimeOverhead):
        return found.source
    names: dict[type[Reason], str] = {
        RacedGain: "raced",
        PriorGain: "prior",
        PredictedGain: "predicted",
        Published: "published",
    }
    return names[type(found)]


def time_text(overhead: TimeOverhead | None) -> str:
    """Return a time overhead in words, such as `3% more time per step (measured)`."""
    if overhead is None:
        return _UNKNOWN_TIME
    return f"{_more_time(overhead)} ({'measured' if overhead.source == 'measured' else 'by FLOPs'})"


def _more_time(overhead: TimeOverhead) -> str:
    more = f"{abs(overhead.share):.0%} {'more' if overhead.share > 0 else 'less'}"
    return f"{'the same' if abs(overhead.share) < 0.005 else more} time per step"


@words.register
def _(rate: FittedRate) -> str:
    return filled(f"{_PRIOR} (fitted to {{tasks:task}})", rate, times=10**rate.decades_error)


@words.register
def _(rate: RelatedRate) -> str:
    times = 10**rate.decades_error
    return filled(f"{_PRIOR} (that of {{like}}: none of {{method}} is known)", rate, times=times)


@words.register
def _(rate: raced_settings.RacedRate) -> str:
    text = "the best of {trials:run} in the race on this model, {horizon_s:.3g} s of training each on {device}"
    if rate.share is not None:
        text = "the best of {trials:run} of this model, each {share:.0%} of the run or less, on {device}"
    return filled(text, rate)


@words.register
def _(overhead: TimeOverhead) -> str:
    step = "" if overhead.optimizer_ms is None else format_ms(overhead.optimizer_ms)
    return _more_time(overhead) + (step and f", optimizer step {step}")


@words.register
def _(found: RacedGain) -> str:
    entry = found.contestant
    if entry.verdict == "diverged":
        return f"it diverged {'with another seed' if entry.losses else 'at every rate tried'}"
    if not entry.losses:
        return "dropped from the race before it could be compared"
    losses = " / ".join(f"{loss:.4g}" for loss in entry.losses)
    text = f"{found.metric} {losses} after {found.horizon_s:.3g} s of steps at lr {entry.lr:g}"
    if entry.difference is not None:
        text += f"; {entry.difference:+.2g} against {found.baseline}"
        if entry.difference_spread is not None and len(entry.losses) > 1:
            text += f", its spread {entry.difference_spread:.2g}"
    if found.gain is not None and entry.verdict != "baseline":
        text = f"{gain_text(found.gain, found.measure)} in the race ({text})"
        if not found.counts:
            text += f", inside the spread of the seeds ({found.spread:.1%}): no difference"
    return "; ".join([text, *map(words, found.differs)])


@words.register
def _(found: PredictedGain) -> str:
    parts = []
    if found.decades is not None:
        where = "in one shared basis" if found.shares_basis else "in its basis"
        times = 10**found.decades
        parts.append(f"{times:,.{0 if times >= 10 else 1}f} times the diagonality {where}")
    if found.agreement is not None:
        parts.append(f"update agreement {found.agreement:+.2f}")
    if found.kept is not None:
        parts.append(f"{found.kept:.0%} of the gradient's energy kept")
    parts.append(f"mean of {plural(found.layers, 'layer')}")
    text = f"{gain_text(found.gain, found.measure)} ({', '.join(parts)})"
    return text + filled(", counted at {certainty:.0%}: {doubts}", found) * (found.certainty < 1)


@words.register
def _(found: Published) -> str:
    result, share = found.result, found.share
    text = (
        "{less:.1%} {lower} {measure} than {baseline}: {result.value:g} against {result.baseline_value:g}, "
        "{result.model}, {result.task} ({result.paper.authors} {result.paper.year}, {result.place})"
    )
    measure = f"error ({result.metric})" if result.better == "higher" else result.metric
    if result.better == "fewer":
        measure = f"perplexity, by {result.metric},"
    lower = "lower" if found.gain >= 0 else "higher"
    baseline = load_evidence().other_methods.get(result.baseline, "AdamW")
    text = filled(
        text, found, less=abs(found.gain), lower=lower, measure=measure, baseline=baseline
    )
    doubts = ["kind, size or batch differ"] * (found.certainty.value < 1)
    doubts += ["its authors' own"] * (not result.is_independent)
    return text + f", counted at {share:.0%}: {', '.join(doubts)}" * (share < 1)
