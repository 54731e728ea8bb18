"""Which sections a report has, in reading order, and why one is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .answer import answer_parts
from .charts.diagonality import agreement_charts, diagonality_charts, off_diagonal_charts
from .charts.memory import memory_charts
from .charts.race import race_parts
from .charts.spectra import heat_map, spectra_charts
from .charts.structure import activation_charts, block_charts
from .charts.subspace import life_charts, life_tables, noise_charts
from .charts.time import decomposition_charts, step_charts
from .glossary import DEFINITIONS
from .parts import Glossary, Part, Section
from .summary import environment_parts, summary_parts
from .tables import decomposition_tables, memory_tables, method_tables, parameter_table, spent_table

if TYPE_CHECKING:
    from subopt.profilers.record.profile import Profile
    from subopt.recipes.advice.answer import Advice


_HEADINGS = {
    "answer": ("Answer", ""),
    "summary": ("Why", "What it rests on, in short."),
    "race": ("Race", "The methods against each other on this model, for equal time."),
    "spectra": ("Gradient spectra", "How few directions would do."),
    "layers": ("Layers and metrics", "Which layers differ from the others."),
    "diagonality": ("Diagonality", "Whether rotating the coordinates pays on this model."),
    "subspaces": (
        "Subspace life",
        "How often a basis must be found anew, and whether following it is better.",
    ),
    "noise": ("Gradient noise", "How far one batch can be trusted."),
    "blocks": ("Blocks and shared basis", "Whether a matrix for each neuron would see more."),
    "activations": ("Layer inputs", "What the gradients inherit from the activations."),
    "memory-use": ("Memory", "What fills it, and whether another optimizer would help."),
    "time": ("Time", "What decompositions cost here, against following a basis."),
    "method-table": ("Methods", ""),
    "role": ("Parameters", "What becomes of each parameter, and why."),
    "cost": ("The profile's own time", ""),
    "glossary": ("Glossary", ""),
    "environment": ("Environment and settings", ""),
}


def sections_of(profile: Profile, advice: Advice | None, next_step: str) -> list[Section]:
    """Return all sections; those the profile has no numbers for have no parts.

    Args:
        profile: What was measured.
        advice: The answer for the memory that training is to fit in; None where there is none.
        next_step: The command to go on with.
    """
    budget = None if advice is None else advice.budget
    usable_bytes = None if budget is None else budget.usable_bytes
    limits = {
        "budget_bytes": None if budget is None else budget.total_bytes,
        "usable_bytes": usable_bytes,
    }
    gradients = _why(profile, "gradients were not measured")
    deeper = _why(profile, "not measured", "at --detail quick")
    followed = _why(profile, "no training steps were taken to follow bases along (--steps)")
    untimed = _why(profile, "no time was measured")
    diagonality = [*diagonality_charts(profile), *off_diagonal_charts(profile)]
    timings: list[Part] = [*decomposition_charts(profile), *step_charts(profile)]
    parts_or_why: dict[str, tuple[Sequence[Part], str]] = {
        "answer": (
            answer_parts(profile, advice, next_step),
            "the profile holds too little for one",
        ),
        "summary": (summary_parts(profile, **limits), ""),
        "race": (race_parts(profile), "there was none: subopt race"),
        "spectra": (spectra_charts(profile), gradients),
        "layers": (heat_map(profile), gradients),
        "diagonality": ([*diagonality, *agreement_charts(profile)], deeper),
        "subspaces": ([*life_charts(profile), *life_tables(profile)], followed),
        "noise": (noise_charts(profile), deeper),
        "blocks": (block_charts(profile), deeper),
        "activations": (activation_charts(profile), deeper),
        "memory-use": (
            [*memory_charts(profile, **limits), *memory_tables(profile)],
            "no method was costed",
        ),
        "time": ([*timings, *decomposition_tables(profile)], untimed),
        "method-table": (method_tables(profile, usable_bytes), "no method was costed"),
        "role": (parameter_table(profile), "the model has none"),
        "cost": (spent_table(profile), "it was not recorded"),
        "glossary": ([Glossary(DEFINITIONS)], ""),
        "environment": (environment_parts(profile), ""),
    }
    return [
        Section(name, *_HEADINGS[name], parts, why) for name, (parts, why) in parts_or_why.items()
    ]


def _why(profile: Profile, reason: str, at_quick: str = "") -> str:
    if profile.settings.simulate:
        return "nothing was run (--simulate)"
    if profile.interrupted:
        return f"{reason}: the profile was interrupted"
    if at_quick and profile.settings.detail == "quick":
        return f"{reason} {at_quick}"
    return reason
