"""The words of what is known of a method: gains, time, learning rates, and what there is to doubt about them."""

from __future__ import annotations

from subopt.recipes.evidence.doubts import (
    EnergyBound,
    FewBatches,
    FewMatrices,
    InterruptedProfile,
    NotMeasured,
    SyntheticData,
    UntrainedGradients,
)
from subopt.recipes.evidence.predicted import PredictedGain
from subopt.recipes.evidence.published import (
    NearestRate,
    NoPublishedRate,
    Published,
    RelativeToNearest,
)
from subopt.recipes.evidence.published_file import PublishedRate
from subopt.recipes.evidence.raced import OtherSetting, RacedGain
from subopt.recipes.evidence.raced_settings import RacedFallbackRate, RacedRate
from subopt.recipes.plan.peaks import PeakAt
from subopt.recipes.ranking.reasons import (
    IsBaseline,
    NoComparison,
    NoPrediction,
    NothingKnown,
    UnknownTime,
)
from subopt.recipes.ranking.row import Evidence, TimeOverhead

from ..text import plural
from ..units import format_ms
from .words import fixed, words

_UNKNOWN_TIME = "an unknown time per step"
fixed({
    UntrainedGradients: "gradients of untrained weights",
    SyntheticData: "synthetic data",
    InterruptedProfile: "an interrupted profile",
    EnergyBound: "the energy is a bound, of each gradient's own best basis",
    IsBaseline: "every gain and overhead is against this method",
    NoPrediction: "nothing the profile measures of gradients speaks about it",
    NoComparison: "no published comparison with AdamW",
    NothingKnown: "so it ranks below the methods of which something is known",
    UnknownTime: _UNKNOWN_TIME,
    RacedFallbackRate: "what the race on this model trained it with",
})


def evidence_type(found: Evidence) -> str:
    """Return how a number is known: raced, predicted, published, measured, simulated, or by a formula."""
    if isinstance(found, PeakAt | TimeOverhead):
        return found.source
    return {RacedGain: "raced", PredictedGain: "predicted", Published: "published"}[type(found)]


def gain_text(gain: float, measure: str) -> str:
    """Return a gain in words, such as `5% lower loss`."""
    if abs(gain) < 0.0005:
        return f"the same {measure}"
    digits = 0 if abs(gain) >= 0.1 else 1
    return f"{abs(gain):.{digits}%} {'lower' if gain > 0 else 'higher'} {measure}"


def time_text(overhead: TimeOverhead | None) -> str:
    """Return a time overhead in words, such as `3% more time per step (measured)`."""
    if overhead is None:
        return _UNKNOWN_TIME
    how = "measured" if overhead.source == "measured" else "by FLOPs"
    if abs(overhead.share) < 0.005:
        return f"the same time per step ({how})"
    more = "more" if overhead.share > 0 else "less"
    return f"{abs(overhead.share):.0%} {more} time per step ({how})"


@words.register
def _(overhead: TimeOverhead) -> str:
    step = "" if overhead.optimizer_ms is None else format_ms(overhead.optimizer_ms)
    return time_text(overhead) + (step and f", optimizer step {step}")


# ---- gains


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
def _(setting: OtherSetting) -> str:
    where = {
        "model file": "of an earlier version of the model file",
        "precision": f"in {setting.value}",
        "batch size": f"at batch size {setting.value}",
        "device": f"on {setting.value}",
    }
    return f"the race was {where[setting.setting]}"


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
    if found.certainty == 1:
        return text
    return f"{text}, counted at {found.certainty:.0%}: {', '.join(map(words, found.doubts))}"


@words.register
def _(found: Published) -> str:
    result = found.result
    measure = result.metric if result.lower_is_better else f"error ({result.metric})"
    beside = "" if result.baseline_value is None else f" against {result.baseline_value:g}"
    text = (
        f"{abs(found.gain):.1%} {'lower' if found.gain >= 0 else 'higher'} {measure} than AdamW: {result.value:g}"
        f"{beside}, {result.model}, {result.task} ({result.paper.authors} {result.paper.year}, table {result.table})"
    )
    share = found.certainty.value
    return (
        text if share == 1 else f"{text}, counted at {share:.0%} because kind, size or batch differ"
    )


# ---- doubts


@words.register
def _(doubt: FewBatches) -> str:
    return plural(doubt.batches, "batch", "batches")


@words.register
def _(doubt: FewMatrices) -> str:
    return f"{doubt.coverage:.0%} of the matrices measured"


@words.register
def _(doubt: NotMeasured) -> str:
    what = "state in" if doubt.option == "state_dtype" else "steps by"
    return f"{what} {doubt.value} not measured"


# ---- learning rates


def _citation(rate: PublishedRate) -> str:
    return (
        f"the published one for the nearest setting, {rate.model} "
        f"({rate.paper.authors} {rate.paper.year}, {rate.place})"
    )


@words.register
def _(origin: NearestRate) -> str:
    return _citation(origin.rate)


@words.register
def _(origin: RelativeToNearest) -> str:
    base = f"{origin.factor:g} times AdamW's {origin.rate.lr:g}"
    return f"{base} ({origin.source}; {_citation(origin.rate)})"


@words.register
def _(origin: NoPublishedRate) -> str:
    models = "" if origin.model_type is None else f" on {origin.model_type} models"
    return (
        f"no learning rate is published for {origin.method}{models}; AdamW's as a starting point, try others "
        f"({_citation(origin.rate)})"
    )


@words.register
def _(origin: RacedRate) -> str:
    return (
        f"the best of {plural(origin.trials, 'run')} in the race on this model, {origin.horizon_s:.3g} s of training "
        f"each on {origin.device}"
    )
