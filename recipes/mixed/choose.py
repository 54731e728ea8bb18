"""A recipe of several methods: each layer the one that promises most, together within the memory budget.

Like layers (the same role and shape) share one method or two (`mixed_groups`). The promise of a mix is the sum of what
its layers promise (`mixed_choices`): that gains of layers add up is assumed, not measured. A race of the recipe shows
whether it holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from subopt.optimizers import shown_name
from subopt.profilers.record.profile import Profile

from ..evidence.published import load_evidence
from ..evidence.raced_settings import known_rate
from ..plan.peaks import PeakAt
from ..ranking.row import Row
from ..schema import Override
from .choices import Measured
from .fallback import FallbackKind, kind_of
from .knapsack import leanest, pack
from .knapsack_bound import upper_bound
from .name_patterns import patterns_for
from .problem import Problem, Solution, problem_of, solved
from .record import Mixed, MixedUse
from .sentences import mixed_sentences

# More methods than this make a recipe that nobody can read, or tell apart from chance.
MOST_METHODS = 3


def choose_mixed(profile: Profile, rows: Sequence[Row], usable_bytes: int) -> Mixed | None:
    """Choose a method, and a rank where it has one, for every matrix, so that the promises add up to the most.

    A multiple-choice knapsack, solved for groups of like layers, each with one method or two, and bounded from above
    for single layers. Time has its price in the values: a method's share of the step's time costs what the ranking
    says, in proportion to the FLOPs of its layers. Where that takes more than `MOST_METHODS` methods, those that can
    best be spared are left out, one after the other.

    Args:
        profile: The profile.
        rows: The methods to choose from, at the batch size in question; those that do not fit alone may still fit in
            part. Methods of which nothing is known are left out.
        usable_bytes: What tensors can use of the budget.

    Returns:
        The mix; None where none fits. `leanest_bytes` says what would be needed.
    """
    problem = problem_of(profile, rows, usable_bytes)
    found = None if problem is None else solved(problem)
    if problem is None or found is None:
        return None
    bound = upper_bound(problem.single_items())
    singles = [_single(problem, method) for method in range(len(problem.methods))]
    while len(found.used) > MOST_METHODS:
        fewer = [solved(found.problem.without(method)) for method in sorted(found.used)]
        simpler = [solution for solution in fewer if solution is not None]
        if not simpler:
            break
        found = max(simpler, key=lambda solution: solution.value)
    mixed = replace(
        _described(found, -math.inf if bound is None else bound),
        best_single=_best([single for single in singles if single is not None]),
    )
    return replace(mixed, sentences=mixed_sentences(mixed))


def leanest_bytes(profile: Profile, rows: Sequence[Row], usable_bytes: int) -> int | None:
    """Return what has to be usable for the leanest of all mixes; None without matrices or known methods."""
    problem = problem_of(profile, rows, usable_bytes)
    if problem is None:
        return None
    items = problem.items()
    needs = []
    for limit in {choice.limit_bytes for choices in items for choice in choices}:
        allowed = [[c for c in choices if c.limit_bytes >= limit] for choices in items]
        if all(allowed):
            held = sum(
                choices[i].bytes for choices, i in zip(allowed, leanest(allowed), strict=True)
            )
            needs.append(usable_bytes - limit + held)
    return min(needs)


def _described(solution: Solution, bound: float) -> Mixed:
    """Return the mix that these methods of the layers make."""
    problem, kind = solution.problem, solution.kind
    by_method: dict[int, list[int]] = {}
    for layer, pick in enumerate(solution.assigned):
        by_method.setdefault(pick, []).append(layer)
    main = _main(problem, by_method, kind)
    uses = [_use(problem, pick, layers, main) for pick, layers in by_method.items()]
    if main not in by_method:
        uses.append(_use(problem, main, [], main))
    uses.sort(key=lambda use: (bool(use.patterns), -use.parameters))
    method, total = problem.methods[main], sum(use.state_bytes for use in uses) + kind.choice.bytes
    gain = sum(use.gain for use in uses) + kind.choice.value
    return Mixed(
        overrides=tuple(override for use in uses for override in _overrides(problem.profile, use)),
        method=method.candidate.row.method,
        options=method.candidate.options,
        fallback=None if kind_of(method)[0] == kind.name else kind.name,
        uses=tuple(uses),
        state_bytes=total,
        fallback_bytes=kind.choice.bytes,
        peak=_peak([problem.methods[pick] for pick in by_method], total),
        step_ms=_step_ms(problem, by_method),
        gain=gain,
        bound_gain=max(gain, bound),
    )


def _main(problem: Problem, by_method: Mapping[int, Sequence[int]], kind: FallbackKind) -> int:
    """Return the method with the most parameters of those whose state has the fallback's dtype, which it shares.

    Where none that is used has it, another of the methods is named: all matrices then have overrides.
    """
    suited = [i for i, m in enumerate(problem.methods) if kind_of(m)[1] == kind.state_dtype]
    sizes = {
        pick: sum(math.prod(problem.layers[layer].shape) for layer in layers)
        for pick, layers in by_method.items()
    }
    return max(
        suited, key=lambda i: (sizes.get(i, 0), problem.methods[i].candidate.row.is_baseline)
    )


def _use(problem: Problem, pick: int, layers: Sequence[int], main: int) -> MixedUse:
    found = problem.methods[pick]
    names = [shown_name(problem.layers[layer].name) for layer in layers]
    others = {shown_name(layer.name) for layer in problem.profile.layers} - set(names)
    return MixedUse(
        patterns=() if pick == main else tuple(patterns_for(names, others)),
        method=found.candidate.row.method,
        options=found.candidate.options,
        rank=found.candidate.rank,
        layers=tuple(names),
        parameters=sum(math.prod(problem.layers[layer].shape) for layer in layers),
        state_bytes=sum(found.bytes[layer] for layer in layers),
        gain=sum(found.values[layer] for layer in layers),
    )


def _overrides(profile: Profile, use: MixedUse) -> list[Override]:
    """The overrides of a method that is not the main one."""
    rate = known_rate(profile, use.method)
    return [
        Override(
            pattern=pattern,
            method=use.method,
            lr=rate.lr,
            weight_decay=rate.weight_decay or 0.0,
            options=use.options,
        )
        for pattern in use.patterns
    ]


def _best(singles: Sequence[tuple[float, str]]) -> tuple[float, str] | None:
    """Return the one that promises most, of equals plain AdamW."""
    baseline = load_evidence().baseline
    return max(singles, key=lambda one: (round(one[0], 9), one[1] == baseline), default=None)


def _single(problem: Problem, pick: int) -> tuple[float, str] | None:
    """The promise of one method for all layers, with the fallback that suits it best."""
    method = problem.methods[pick]
    everything = [method.choice(range(len(problem.layers)))]
    packing = pack([everything, problem.fallbacks()])
    return None if packing is None else (packing.value, method.candidate.row.method)


def _peak(used: Sequence[Measured], state_bytes: int) -> PeakAt:
    """The highest of the peaks that the methods have alone, each with the state of the mix in the place of its own.

    Temporaries come and go parameter by parameter, so no step of the mix takes more than the worst of its methods.
    """
    peaks = [
        found.candidate.row.peak.shifted(
            state_bytes - found.candidate.row.cost.state_bytes + found.candidate.extra_bytes
        )
        for found in used
    ]
    return max(peaks, key=lambda peak: peak.bytes + peak.overhead_bytes)


def _step_ms(problem: Problem, by_method: Mapping[int, Sequence[int]]) -> float | None:
    """Forward and backward pass, and every method's optimizer step by its layers' share of the FLOPs."""
    row = problem.methods[0].candidate.row
    if row.step_ms is None or row.cost.step_ms is None:
        return None
    total = row.step_ms - row.cost.step_ms
    for pick, layers in by_method.items():
        step_ms = problem.methods[pick].step_ms
        if step_ms is None:
            return None
        total += sum(step_ms[layer] for layer in layers)
    return total
