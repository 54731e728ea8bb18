"""What may train the parameters that are no matrices in a mix: the fallbacks of the methods there are.

Each method leaves embeddings, head, norms and biases to a variant of AdamW: whole, without its first moment, or in 8
bits. In a mix that is one more item of the knapsack. A variant with less state than the baseline's is worth as much
less as the weakest method that uses it, by the share of the parameters it trains: it is taken where memory asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from subopt.profilers.record.profile import Profile

from ..evidence.traits import trainable_parameters
from ..plan.method_options import parameter_dtype
from .choices import Measured
from .knapsack_bound import Choice


@dataclass(frozen=True, slots=True)
class FallbackKind:
    """One variant.

    Attributes:
        name: As a recipe's `fallback.method` names it.
        state_dtype: The dtype of its moments, which is the main method's; None for the weights' own.
        choice: What it takes and is worth.
    """

    name: str
    state_dtype: str | None
    choice: Choice


def fallback_kinds(profile: Profile, methods: Sequence[Measured]) -> list[FallbackKind]:
    """Return every variant that one of the methods uses, the baseline's first where it is among them."""
    by_kind: dict[tuple[str, str | None], list[Measured]] = {}
    for found in methods:
        by_kind.setdefault(kind_of(found), []).append(found)
    ordered = sorted(by_kind.values(), key=lambda users: not _has_baseline(users))
    return [_kind(profile, users) for users in ordered]


def kind_of(found: Measured) -> tuple[str, str | None]:
    """Return the fallback of a method's own and the dtype of its state, which the fallback shares."""
    method = found.candidate.method
    state_dtype: str | None = method.resolve(found.candidate.options).get("state_dtype")
    return method.fallback, state_dtype


def _has_baseline(users: Sequence[Measured]) -> bool:
    return any(found.candidate.row.is_baseline for found in users)


def _kind(profile: Profile, users: Sequence[Measured]) -> FallbackKind:
    name, state_dtype = kind_of(users[0])
    method, options = users[0].candidate.method, users[0].candidate.options
    shapes = [tuple(layer.shape) for layer in profile.layers if layer.role == "fallback"]
    dtype = parameter_dtype(profile)
    share = sum(math.prod(shape) for shape in shapes) / max(trainable_parameters(profile), 1)
    lowest = min(found.candidate.score for found in users)
    value = 0.0 if _has_baseline(users) else share * min(lowest, 0.0)
    size = sum(method.fallback_state_bytes(shape, dtype, options) for shape in shapes)
    limit = max(found.candidate.limit_bytes for found in users)
    return FallbackKind(name, state_dtype, Choice(size, value, limit))
