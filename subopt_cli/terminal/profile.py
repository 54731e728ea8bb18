"""The first screen of `subopt profile`: the model, the answer, the best methods, what fills the memory, warnings."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from ..findings.answer import answer_of, regime_texts
from ..findings.rank import spread_line
from ..findings.rotation import rotation_line
from ..text import count, plural
from .advice import METHODS_SHOWN, methods_block
from .answer import answer_block, heading, memory_block
from .details.profile import data_line, device_line, model_name

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice


def profile_screen(profile: Profile, advice: Advice | None, command: str) -> list[RenderableType]:
    """Return the blocks of a profile, the verdict right below what it is of.

    Args:
        profile: What was found out.
        advice: The advice for this machine's memory; None where the profile is too little for it.
        command: The command that gives the same advice and writes the recipe.
    """
    parts: list[RenderableType] = [
        Group(heading("MODEL", _model(profile)), heading("DATA", _data(profile)))
    ]
    if advice is not None:
        answer = answer_of(advice, profile, f"{command}   (writes recipe.yaml)")
        parts += [answer_block(answer), methods_block(advice, METHODS_SHOWN, f"{command} --all")]
    return [*parts, memory_block(profile), Group(*_remarks(profile, advice))]


def _remarks(profile: Profile, advice: Advice | None) -> Iterator[RenderableType]:
    """Yield what the gradients say in a line, warnings, and where there is more."""
    gradients = [line for line in (spread_line(profile), rotation_line(profile)) if line]
    if gradients:
        yield heading("GRADIENTS", "; ".join(gradients))
    warnings = [*_warnings(profile), *([] if advice is None else regime_texts(advice))]
    if warnings:
        yield heading("LOOK OUT", " ".join(warnings))
    yield heading("MORE", "--details, or subopt report")


def _model(profile: Profile) -> str:
    matrices = [prod(layer.shape) for layer in profile.layers if layer.role == "matrix"]
    numbers = sum(prod(layer.shape) for layer in profile.layers)
    return (
        f"{model_name(profile)}, {count(numbers)} parameters, {count(sum(matrices))} of them in "
        f"{plural(len(matrices), 'matrix', 'matrices')}"
    )


def _data(profile: Profile) -> str:
    return f"{data_line(profile)}; {device_line(profile)}"


def _warnings(profile: Profile) -> Iterator[str]:
    if profile.interrupted:
        yield "The profile was interrupted: it holds what was complete by then."
    if profile.missing:
        more = f"; {len(profile.missing) - 1} more" if len(profile.missing) > 1 else ""
        yield f"Missing: {profile.missing[0].partition(': ')[0]}{more} (why: --details)."
