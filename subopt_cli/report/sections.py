"""Which sections a report has, in reading order, and why one is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def sections_of(
    profile: Profile, *, budget_bytes: int | None, usable_bytes: int | None
) -> list[Section]:
    """Return all sections; those the profile has no numbers for have no parts.

    Args:
        profile: What was measured.
        budget_bytes: The memory that training is to fit in.
        usable_bytes: What a training run may fill of it.
    """
    limits = {"budget_bytes": budget_bytes, "usable_bytes": usable_bytes}
    return [
        Section("summary", "Summary", "", summary_parts(profile, **limits)),
        Section(
            "race",
            "Race",
            "The methods against each other on this model, for equal time.",
            race_parts(profile),
            "there was none: subopt race",
        ),
        *_gradient_sections(profile),
        *_structure_sections(profile),
        *_cost_sections(profile, budget_bytes, usable_bytes),
        Section(
            "role",
            "Parameters",
            "What becomes of each parameter, and why.",
            parameter_table(profile),
            "the model has none",
        ),
        Section("cost", "The profile's own time", "", spent_table(profile), "it was not recorded"),
        Section("glossary", "Glossary", "", [Glossary(DEFINITIONS)]),
        Section("environment", "Environment and settings", "", environment_parts(profile)),
    ]


def _gradient_sections(profile: Profile) -> list[Section]:
    """Return what the gradients of single batches and the bases followed over steps say."""
    gradients = _why(profile, "gradients were not measured")
    deeper = _why(profile, "not measured", "at --detail quick")
    followed = _why(profile, "no training steps were taken to follow bases along (--steps)")
    diagonality: list[Part] = [
        *diagonality_charts(profile),
        *off_diagonal_charts(profile),
        *agreement_charts(profile),
    ]
    life: list[Part] = [*life_charts(profile), *life_tables(profile)]
    return [
        Section(
            "spectra",
            "Gradient spectra",
            "How few directions would do.",
            spectra_charts(profile),
            gradients,
        ),
        Section(
            "layers",
            "Layers and metrics",
            "Which layers differ from the others.",
            heat_map(profile),
            gradients,
        ),
        Section(
            "diagonality",
            "Diagonality",
            "Whether rotating the coordinates pays on this model.",
            diagonality,
            deeper,
        ),
        Section(
            "subspaces",
            "Subspace life",
            "How often a basis must be found anew, and whether following it is better.",
            life,
            followed,
        ),
    ]


def _structure_sections(profile: Profile) -> list[Section]:
    """Return what noise, blocks and layer inputs say."""
    deeper = _why(profile, "not measured", "at --detail quick")
    return [
        Section(
            "noise",
            "Gradient noise",
            "How far one batch can be trusted.",
            noise_charts(profile),
            deeper,
        ),
        Section(
            "blocks",
            "Blocks and shared basis",
            "Whether a matrix for each neuron would see more.",
            block_charts(profile),
            deeper,
        ),
        Section(
            "activations",
            "Layer inputs",
            "What the gradients inherit from the activations.",
            activation_charts(profile),
            deeper,
        ),
    ]


def _cost_sections(
    profile: Profile, budget_bytes: int | None, usable_bytes: int | None
) -> list[Section]:
    """Return what the methods take: memory, time, and the table of them all."""
    limits = {"budget_bytes": budget_bytes, "usable_bytes": usable_bytes}
    memory: list[Part] = [*memory_charts(profile, **limits), *memory_tables(profile)]
    time: list[Part] = [
        *decomposition_charts(profile),
        *step_charts(profile),
        *decomposition_tables(profile),
    ]
    return [
        Section(
            "memory-use",
            "Memory",
            "What fills it, and whether another optimizer would help.",
            memory,
            "no method was costed",
        ),
        Section(
            "time",
            "Time",
            "What decompositions cost here, against following a basis.",
            time,
            _why(profile, "no time was measured"),
        ),
        Section(
            "method-table",
            "Methods",
            "",
            method_tables(profile, usable_bytes),
            "no method was costed",
        ),
    ]


def _why(profile: Profile, reason: str, at_quick: str = "") -> str:
    if profile.settings.simulate:
        return "nothing was run (--simulate)"
    if profile.interrupted:
        return f"{reason}: the profile was interrupted"
    if at_quick and profile.settings.detail == "quick":
        return f"{reason} {at_quick}"
    return reason
