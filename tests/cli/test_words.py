"""Every type of reason has words, and they have its numbers: another number, other words."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import subopt.recipes
from subopt.findings.advice import described, evidence_text, words
from subopt.findings.evidence import time_text
from subopt.optimizers import METHODS
from subopt.profilers.record.profile import Calibration, Ratios
from subopt.recipes.advice import reasons as advice
from subopt.recipes.advice import regimes
from subopt.recipes.advice.answer import FittingChange
from subopt.recipes.advice.calibrated import EarlierRuns, StepCorrection, earlier_runs
from subopt.recipes.evidence import doubts, start
from subopt.recipes.evidence.predicted import PredictedGain
from subopt.recipes.evidence.published import (
    Certainty,
    Published,
    load_evidence,
    published,
)
from subopt.recipes.evidence.raced import OtherSetting, RacedGain
from subopt.recipes.evidence.raced_settings import RacedFallbackRate, RacedRate
from subopt.recipes.plan import reasons as plan
from subopt.recipes.plan.budget import Budget
from subopt.recipes.plan.peaks import PeakAt
from subopt.recipes.prior.gains import PriorGain
from subopt.recipes.prior.rates import BesideRate, FittedRate, HeavyDecay, RelatedRate
from subopt.recipes.ranking import reasons as ranking
from subopt.recipes.ranking.row import TimeOverhead
from subopt.recipes.reason import Reason
from subopt.terminal.output import plain

from ..recipes.advice_profile import contestant

MIB = 2**20
EVIDENCE = load_evidence()
RESULT = next(r for r in EVIDENCE.results if r.method == "adadiag" and r.better == "lower")
OVERHEAD = TimeOverhead(0.2, "measured", 3.0)
GAIN = advice.ExpectedGain(0.08, 0.1, "loss", OVERHEAD)
RIVAL = ("soap", GAIN)
PEAK = PeakAt(8, 90 * MIB, 80 * MIB, 99 * MIB, "backward", (("backward", 90 * MIB),), "simulated")
PREDICTED = PredictedGain(
    0.09, "perplexity", 28, 0.4, 0.375, 1.1, 0.02, 0.75, False,
    (doubts.UntrainedGradients(), doubts.FewMatrices(0.4)),
)  # fmt: skip
RACED = RacedGain(
    contestant("soap", (1.98, 2.0)), 0.005, "loss", 0.01, False,
    (OtherSetting("precision", "bf16"),), "held-out loss", 30.0, "adamw",
)  # fmt: skip
PRIOR = PriorGain(0.15, 0.2, "small models", "perplexity")
HIGH = start.HighFirstLoss(63.7, 5.55, 256)
PUBLISHED = Published(RESULT, 0.077, Certainty.FAR)
CHANGE = FittingChange(
    "batch", "accumulate", "adamw", {"rank": 8}, 4, 2, True, True, 90 * MIB, 100 * MIB, True
)
SURE = advice.HowSure(
    "simulated", "measured", "cpu", True, 2, "medium",
    (advice.PredictedLayers(28), doubts.SyntheticData()),
)  # fmt: skip

EXAMPLES = [
    plan.LargestMicroBatch(12, 2, True),
    plan.SmallerMicroBatch(4, 2, True),
    plan.PartialBatchNorm(4, 8),
    plan.Recomputing(1 / 3),
    plan.FusedUpdates(),
    plan.LeanerOptions({"rank": 8}),
    Budget(24 * 2**30, 800 * MIB, 500 * MIB, 0.05, 700 * MIB),
    PEAK,
    ranking.LowRankLayers(3 * MIB),
    ranking.DoesNotFit(3 * MIB),
    ranking.MayNotFit(3 * MIB),
    ranking.IsBaseline(),
    ranking.NoPrediction(),
    ranking.NoComparison(),
    ranking.NothingKnown(),
    ranking.UnknownTime(),
    OVERHEAD,
    PREDICTED,
    RACED,
    PUBLISHED,
    OtherSetting("batch size", 64),
    doubts.UntrainedGradients(),
    doubts.FewBatches(2),
    doubts.FewMatrices(0.4),
    doubts.SyntheticData(),
    doubts.InterruptedProfile(),
    doubts.EnergyBound(),
    doubts.NotMeasured("moments", "adafactor"),
    PRIOR,
    FittedRate(8, 0.4),
    RelatedRate("block-adam", "adamw", 0.6),
    HeavyDecay(0.1, 0.1, 0.01, 0.02),
    HIGH,
    start.OneDirection(0.8, 1.1),
    start.SteepLoss(5.0, 3.0, 20),
    RacedRate(7, 30.0, "cpu"),
    RacedFallbackRate(),
    BesideRate(0.3),
    CHANGE,
    EarlierRuns("peak", 12, 0.97, 1.04),
    StepCorrection(1.5, 3),
    GAIN,
    advice.RaceResult(0.1, "loss", counts=True),
    advice.UnknownQuality(OVERHEAD),
    advice.BaselineChosen(90 * MIB, "backward", 10 * MIB),
    advice.MethodChosen(90 * MIB, "backward", 10 * MIB, *RIVAL),
    advice.DecidedBy("predicted", PREDICTED, {"published": 0.077}),
    advice.RunnerUp("soap", 0.03, 0.1, is_raced=False),
    advice.LessSure("soap", 0.03),
    advice.LeanerOnly("soap", 0.03, {"rank": 8}),
    advice.BaselineFits(90 * MIB),
    advice.BaselineFitsLeaner(90 * MIB, {"rank": 8}),
    advice.BaselineDoesNotFit(90 * MIB, 3 * MIB),
    advice.NoRival(),
    advice.Rival(*RIVAL),
    advice.RacedRival(*RIVAL),
    advice.WaitingRival(*RIVAL),
    advice.Comparisons("small models"),
    regimes.FineTuning(is_asked=True),
    regimes.SmallBatch(4096, "lion", 2),
    regimes.TooEarly((HIGH,), 100),
    advice.LeanerRival(*RIVAL, {"rank": 8}),
    advice.LargeRival(*RIVAL, 90 * MIB),
    advice.TightRival(*RIVAL, 90 * MIB),
    advice.OtherObjective(*RIVAL, "speed"),
    SURE,
    advice.RacedSeeds(2),
    advice.RaceCutShort(),
    advice.PredictedLayers(28),
    advice.PublishedNear(Certainty.NEAR),
    advice.NotRaced(),
    advice.NothingFits("adamw", 90 * MIB, "backward", 3 * MIB),
    advice.SmallestChange(CHANGE),
    advice.ActivationsFillMemory(900 * MIB, 90 * MIB, 700 * MIB, 8),
    advice.NotInstalled((("osd-8bit", "pip install x"),)),
    advice.NeedsBatches("model.py"),
    advice.NeedsDataFiles(),
    advice.ChosenRate("soap", 0.003, RacedRate(7, 30.0, "cpu")),
]  # fmt: skip
# Numbers of records that are more than a reason, which stand elsewhere on the screen.
UNSAID = {
    PeakAt: {"batch_size", "low_bytes", "high_bytes", "overhead_bytes"},
    FittingChange: {"budget_bytes"},
    PredictedGain: {"coverage"},
    advice.RunnerUp: {"behind"},  # beside two rounded gains their exact difference would not add up
}
ABSTRACT = {Reason, doubts.Doubt, start.EarlyDoubt, advice.Promise}


def reason_types() -> set[type[Reason]]:
    """All types of reasons, in whatever file of recipes/ they are."""
    names = [m.name for m in pkgutil.walk_packages(subopt.recipes.__path__, "subopt.recipes.")]
    rooms = tuple(
        f"subopt.recipes.{room}" for room in ("plan", "prior", "evidence", "ranking", "advice")
    )
    modules = [importlib.import_module(n) for n in names if n.startswith(rooms)]
    found = {item for module in modules for item in vars(module).values() if isinstance(item, type)}
    return {item for item in found if issubclass(item, Reason)}


def test_every_type_of_reason_has_an_example_here():
    assert {type(example) for example in EXAMPLES} == reason_types() - ABSTRACT


@pytest.mark.parametrize("reason", EXAMPLES, ids=lambda reason: type(reason).__name__)
def test_every_reason_has_words_with_its_numbers(reason):
    text = words(reason)
    assert text.strip() == text
    assert text
    assert not re.search(r"None|<|\{", text)
    for field in dataclasses.fields(reason):
        value = getattr(reason, field.name)
        if field.name in UNSAID.get(type(reason), ()):
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert words(replace(reason, **{field.name: value * 3})) != text, field.name
        elif isinstance(value, str):
            assert value in text or field.name in {
                "evidence_type", "kind", "measure", "memory_source", "option", "phase", "question",
                "setting", "source", "time_source", "what",
            }, field.name  # fmt: skip


def test_a_reason_without_words_is_an_error():
    with pytest.raises(TypeError, match="Doubt has no words"):
        words(doubts.Doubt())


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        (advice.MethodChosen(MIB, "step", MIB, *RIVAL), GAIN),
        (advice.Rival(*RIVAL), GAIN),
        (advice.DecidedBy("published", PUBLISHED, {}), PUBLISHED),
        (SURE, doubts.SyntheticData()),
        (PREDICTED, doubts.FewMatrices(0.4)),
        (RACED, OtherSetting("precision", "bf16")),
        (advice.SmallestChange(CHANGE), CHANGE),
        (advice.ChosenRate("soap", 0.003, FittedRate(8, 0.4)), FittedRate(8, 0.4)),
        (regimes.TooEarly((HIGH,), 100), HIGH),
    ],
)
def test_a_reason_says_what_it_is_made_of(reason, part):
    assert words(part) in words(reason)


def test_a_json_document_has_type_fields_and_text():
    document = plain({"found": [advice.RacedSeeds(2)], "peak": 3}, described)
    assert document == {
        "found": [{"seeds": 2, "type": "RacedSeeds", "text": "raced here with 2 seeds"}],
        "peak": 3,
    }


def test_the_answer_as_json_has_every_reason(subopt, profile):
    profile.save(Path("p.json"))
    ended = subopt("recommend", "--profile", "p.json", "--gpu-mem", "24G", "-o", "r.yaml", "--json")
    answer = json.loads(ended.out)
    assert answer["reasons"][-1]["type"] == "Budget"
    assert answer["reasons"][-1]["total_bytes"] == answer["budget"]["total_bytes"] == 24 * 2**30
    assert answer["sentences"] == [reason["text"] for reason in answer["reasons"]]
    assert "fits" in answer["sentences"][0] or "is the choice" in answer["sentences"][0]
    for row in answer["rows"]:
        found = [*row["evidence"], *row["reasons"]]
        assert row["evidence"][0]["bytes"] == row["peak"]["bytes"]
        assert all(item["type"] and item["text"] for item in found)
    recipe = yaml.safe_load(Path("r.yaml").read_text())
    assert f"simulated: {answer['chosen']['peak']['text']}" in recipe["why"]["evidence"]
    assert all(isinstance(line, str) for line in recipe["why"]["evidence"])


# ---- gains


def test_a_predicted_gain_has_its_means_and_its_doubts():
    assert words(PREDICTED) == (
        "9% lower perplexity (13 times the diagonality in its basis, update agreement +0.02, "
        "75% of the gradient's energy kept, mean of 28 layers), "
        "counted at 38%: gradients of untrained weights, 40% of the matrices measured"
    )
    shared = replace(PREDICTED, layers=1, certainty=1.0, shares_basis=True, kept=None)
    assert words(shared).endswith("in one shared basis, update agreement +0.02, mean of 1 layer)")
    assert evidence_text(PREDICTED).startswith("predicted: 9% lower")


def test_a_raced_gain_inside_the_spread_is_no_difference():
    assert words(RACED) == (
        "0.5% lower loss in the race (held-out loss 1.98 / 2 after 30 s of steps at lr 0.003; "
        "-0.01 against adamw, its spread 0.02), inside the spread of the seeds (1.0%): no difference; "
        "the race had another precision (bf16)"
    )
    gone = contestant("soap", (), verdict="diverged")
    assert words(replace(RACED, contestant=gone)) == "it diverged at every rate tried"
    later = contestant("soap", (1.9,), verdict="diverged")
    assert words(replace(RACED, contestant=later)) == "it diverged with another seed"
    early = contestant("soap", (), verdict="worse")
    assert words(replace(RACED, contestant=early)).startswith("dropped from the race")


def test_a_published_gain_cites_its_table():
    assert words(PUBLISHED) == (
        f"7.7% lower validation perplexity than AdamW: {RESULT.value:g} against {RESULT.baseline_value:g}, "
        f"{RESULT.model}, {RESULT.task} ({RESULT.paper.authors} {RESULT.paper.year}, {RESULT.place}), "
        "counted at 25%: kind, size or batch differ, its authors' own"
    )
    near = words(replace(PUBLISHED, certainty=Certainty.NEAR))
    assert near.endswith(f"{RESULT.place}), counted at 50%: its authors' own")
    others = replace(
        PUBLISHED, certainty=Certainty.NEAR, result=replace(RESULT, is_independent=True)
    )
    assert words(others).endswith(f"{RESULT.place})")


def test_a_published_gain_names_what_it_is_against_and_what_it_counts():
    galore = published("galore", 60_000_000, "language")
    assert "higher validation perplexity than Adam with Stable-SPAM" in words(galore)
    soap = published("soap", 130_000_000, "language")
    assert words(soap).startswith("4.9% lower perplexity, by tokens to the same loss, than AdamW")


def test_a_rate_says_how_far_off_it_may_be():
    assert words(FittedRate(8, 0.5)) == (
        "the usual one for this width, length and batch; the best may be 3 times higher or lower (fitted to 8 tasks)"
    )
    raced = words(RacedRate(7, 30.0, "cpu", 0.1))
    assert raced == "the best of 7 runs of this model, each 10% of the run or less, on cpu"


def test_a_small_batch_says_what_to_do_instead_of_accumulating():
    assert "accumulating" not in words(regimes.SmallBatch(4096, "lion", 1))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.32, "32% more time"), (-0.02, "2% less time"), (0.001, "the same time")],
)
def test_time_is_measured_or_by_flops(share, text):
    counted, measured = TimeOverhead(share, "formula"), TimeOverhead(share, "measured", 3.0)
    assert time_text(counted) == f"{text} per step (by FLOPs)"
    assert time_text(measured) == f"{text} per step (measured)"
    assert evidence_text(counted) == f"formula: {text} per step"
    assert evidence_text(measured) == f"measured: {text} per step, optimizer step 3 ms"


# ---- the answer


def test_a_tie_would_be_settled_by_a_race_and_a_clear_second_would_not():
    tie = advice.RunnerUp("adamw", 0.03, 0.1, is_raced=False)
    assert words(tie) == (
        "Next comes adamw, within the error of 10%: either may be better; "
        "subopt race would settle it."
    )
    assert words(replace(tie, is_raced=True)).endswith("either may be better.")
    assert words(replace(tie, behind=0.2)) == (
        "Next comes adamw, behind by more than the error of 10%."
    )


def test_the_budget_says_what_is_taken_off_it():
    whole = Budget(2**30, 0, 0)
    assert words(whole) == "The budget is 1 GiB, all of it usable."
    assert words(replace(whole, headroom=0.25, headroom_bytes=2**28)) == (
        "The budget is 1 GiB, of which 768 MiB are usable: 256 MiB (25%) stay free as headroom."
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "without --accumulate: adamw, 2 micro-batches of 4, recompute: true, fused_backward: true, rank: 8"),
        ({"question": "methods", "recompute": False}, "--methods adamw: adamw, 2 micro-batches of 4, fused"),
        ({"question": "batch_size", "accumulate": 1}, "--batch-size 4: adamw, batch size 4, recompute: true"),
        ({"question": "recompute"}, "--recompute auto: adamw"),
        ({"question": "fused_backward"}, "--fused-backward auto: adamw"),
        ({"question": "budget"}, "a budget of 100 MiB or more (adamw)"),
        ({"question": "budget", "counts_activations": False}, "(adamw, without activations: the profile"),
    ],
)  # fmt: skip
def test_a_change_names_the_option_to_give(changes, text):
    assert text in words(replace(CHANGE, **changes))


def test_what_is_not_installed_is_listed_by_command():
    missing = tuple((name, "pip install x") for name in sorted(METHODS)[:2])
    assert words(advice.NotInstalled((*missing, ("z", "pip install y")))) == (
        f"Not available here: {missing[0][0]}, {missing[1][0]} (pip install x); z (pip install y)."
    )


def test_earlier_runs_are_counted():
    one = Ratios(runs=1, median=1.0, least=1.0, largest=1.0)
    many = Ratios(runs=12, median=1.0, least=0.97, largest=1.04)
    assert [words(runs) for runs in earlier_runs(Calibration(peak=many, step_ms=one))] == [
        "12 earlier runs on this machine took 0.97 to 1.04 times the predicted peak.",
        "1 earlier run on this machine took 1.00 times the predicted step time.",
    ]
