"""From advice to a recipe: every choice filled in, with what it rests on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from subopt.profilers.record.profile import Profile

from ..data.paths import relative
from ..evidence.raced_settings import KnownRate, fallback_rate, known_rate
from ..plan.method_options import changed_options
from ..ranking.row import Row
from ..reason import Reason
from ..schema import Checkpoint, Data, Evaluation, Fallback, Model, Optimizer, Recipe, Schedule, Why
from .answer import Advice
from .calibrated import step_correction
from .reasons import ChosenRate, NeedsBatches, NeedsDataFiles

# Warm-up over a tenth of the run, then cosine down to a tenth: Nguyen et al. 2025, appendix D. Gradients clipped at
# norm 1: Liang et al. 2024, appendix A.1.
WARMUP_SHARE = 0.1
FINAL_RATIO = 0.1
CLIP_NORM = 1.0

# A run is evaluated and saved this many times.
_PARTS = 5


def to_recipe(
    advice: Advice,
    profile: Profile,
    *,
    recipe_path: Path,
    evidence: Sequence[str] = (),
) -> Recipe:
    """Return the recipe that trains with the chosen method. The same arguments give the same recipe.

    The learning rate is the one that won the race on this model, else the prior's; what the method leaves alone is
    trained by a variant of AdamW and gets the race's rate for that, else AdamW's. The weight decay is one that the rate
    can bear.

    Args:
        advice: The advice; something was chosen.
        profile: The profile it was given for.
        recipe_path: Where the recipe will be written: the model file is named relative to its folder.
        evidence: What `recipe_reasons` says, in words, for the file's `why.evidence`.

    Raises:
        DoesNotFitError: Nothing was chosen.
    """
    row, plan = advice.require_chosen()
    traits, steps = advice.traits, advice.traits.steps
    rate = known_rate(profile, row.method, traits)
    fallback = fallback_rate(profile, row.method, traits)
    files = profile.target.files
    return Recipe(
        model=Model(
            target=relative_target(profile, recipe_path),
            kwargs=dict(profile.target.kwargs),
            sha256=profile.target.sha256,
        ),
        data=Data(
            batch_size=plan.batch_size,
            accumulate=plan.accumulate,
            files=None if files is None else relative(files, recipe_path.resolve().parent),
        ),
        optimizer=Optimizer(
            method=row.method,
            lr=rate.lr,
            weight_decay=rate.weight_decay,
            options=changed_options(row.cost),
            fallback=_fallback(fallback, rate),
        ),
        schedule=Schedule(
            name="cosine",
            warmup_steps=int(steps * WARMUP_SHARE),
            steps=steps,
            final_ratio=FINAL_RATIO,
        ),
        # Its gradients are gone before their norm is known.
        clip_norm=None if plan.fused_backward else CLIP_NORM,
        precision=profile.settings.dtype,
        recompute=plan.recompute,
        fused_backward=plan.fused_backward,
        eval=Evaluation(every=steps // _PARTS),
        checkpoint=Checkpoint(every=steps // _PARTS),
        seed=profile.settings.seed,
        why=_why(advice, profile, row, evidence),
    )


def recipe_reasons(advice: Advice, profile: Profile) -> Iterator[Reason]:
    """Yield what a recipe's choices rest on: evidence, what of the plan was solved for, learning rates, and doubts."""
    row, _ = advice.require_chosen()
    yield from row.evidence
    yield from advice.plan_reasons
    correction = step_correction(profile)
    if correction is not None and row.step_ms is not None:
        yield correction
    rate = known_rate(profile, row.method, advice.traits)
    yield ChosenRate(row.method, rate.lr, rate.reason)
    fallback = fallback_rate(profile, row.method, advice.traits)
    if fallback is not None:
        yield ChosenRate(row.method, fallback.lr, fallback.reason, is_fallback=True)
    yield from needs_data(profile)


def needs_data(profile: Profile) -> Iterator[Reason]:
    """Yield what a recipe still needs where the profile's data was made up."""
    target = profile.target
    if target.synthetic_data and target.is_hf:
        yield NeedsDataFiles()
    elif target.synthetic_data:
        yield NeedsBatches(target.spec if target.file is None else Path(target.file).name)


def _fallback(found: KnownRate | None, main: KnownRate) -> Fallback:
    """Return what trains the parameters that the method leaves alone; a decay of its own where it differs."""
    if found is None:
        return Fallback()
    decay = None if found.weight_decay == main.weight_decay else found.weight_decay
    return Fallback(lr=found.lr, weight_decay=decay)


def relative_target(profile: Profile, recipe_path: Path) -> str:
    """Return the profile's target as it reads from the recipe's folder: `../model.py` or `../model.py:attr`.

    What is from the Hugging Face hub keeps its name, `hf:ORG/NAME`; a config of one's own reads `hf:../config.json`.
    """
    target = profile.target
    if target.file is None:
        return target.spec
    if target.is_hf:
        # The hub's cache keeps what it holds in folders of this name.
        is_cached = any(part.startswith("models--") for part in Path(target.file).parts)
        return target.spec if is_cached else f"hf:{_relative(target.file, recipe_path)}"
    _, colon, attribute = target.spec.rpartition(":")
    suffix = f":{attribute}" if colon and attribute.isidentifier() else ""
    return _relative(target.file, recipe_path) + suffix


def _relative(file: str, recipe_path: Path) -> str:
    return Path(os.path.relpath(Path(file).resolve(), recipe_path.resolve().parent)).as_posix()


def profile_sha256(profile: Profile) -> str:
    """Return the hash of the file that `Profile.save` writes for this profile."""
    return hashlib.sha256((profile.model_dump_json(indent=1) + "\n").encode()).hexdigest()


def _why(advice: Advice, profile: Profile, row: Row, evidence: Sequence[str]) -> Why:
    gpu = profile.environment.gpu
    correction = step_correction(profile)
    factor = None if row.step_ms is None or correction is None else correction.factor
    return Why(
        profile_sha256=profile_sha256(profile),
        device=profile.environment.device if gpu is None else gpu.name,
        budget_bytes=advice.budget.total_bytes,
        predicted_state_bytes=row.cost.state_bytes,
        predicted_peak_bytes=row.peak.bytes,
        predicted_step_ms=None if row.step_ms is None else row.step_ms * (factor or 1.0),
        step_factor=factor,
        evidence=list(evidence),
    )
