"""The parts of a method, by name: a basis with moments in it, or the update of a whole matrix; and their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from subopt.errors import OptionError

from .bases.online_pca import OnlinePCA
from .bases.periodic import Periodic
from .low_rank.integrator import LowRankOptions
from .matrices import matrix_shape
from .options import Option, Options, PartOptions, choice, options_of, refuse_unknown
from .preconditioners.registry import PRECONDITIONERS
from .updates.basis import IDENTITY, OUT_OF_REACH, Basis
from .updates.elementwise import MOMENTS
from .updates.torch_builtin import TORCH_UPDATES
from .updates.update import Update

BASES: dict[str, Basis] = {
    "identity": IDENTITY,
    "one-sided": Periodic(sides=1),
    "two-sided": Periodic(sides=2),
    "online-pca": OnlinePCA(),
    "online-pca-two-sided": OnlinePCA(sides=2),
}
# What is not a factor of a low-rank layer but in its group gets Adam.
_LOW_RANK = replace(MOMENTS["adam"], name="low-rank", options=LowRankOptions, vector="low-rank")
UPDATES: dict[str, Update] = {**PRECONDITIONERS, **TORCH_UPDATES, _LOW_RANK.name: _LOW_RANK}


@dataclass(frozen=True)
class CompositionOptions(PartOptions):
    """The parts of a composition."""

    basis: str = choice("identity", BASES, "in which coordinates the step is taken")
    moments: str = choice("adam", MOMENTS, "what step those coordinates get")


@dataclass(frozen=True)
class WholeOptions(PartOptions):
    """The one part of a method that steps whole matrices."""

    update: str = choice("shampoo", UPDATES, "what step a matrix gets")


_NAMES = options_of(CompositionOptions) | options_of(WholeOptions)
_PARTS: tuple[Basis | Update, ...] = (*BASES.values(), *MOMENTS.values(), *UPDATES.values())
OPTION_NAMES = frozenset(_NAMES).union(*(options_of(part.options) for part in _PARTS))


def part_names(given: Options, base: Options) -> dict[str, str]:
    """Return which parts options name, beside those that a base names: `update`, or `basis` and `moments`.

    Raises:
        OptionError: There is no such part.
    """
    is_composition = "basis" in given or "moments" in given
    if "update" in given or ("update" in base and not is_composition):
        return vars(WholeOptions({**base, **given}["update"]))
    both = {**base, **given}
    named = {name: both[name] for name in ("basis", "moments") if name in both}
    return vars(CompositionOptions(**named))


def parts_of(names: Mapping[str, str]) -> dict[str, type[PartOptions]]:
    """Return the options of the named parts."""
    tables: dict[str, Mapping[str, Any]] = {"basis": BASES, "moments": MOMENTS, "update": UPDATES}
    return {part: tables[part][name].options for part, name in names.items()}


def known_options(names: Mapping[str, str]) -> dict[str, Option]:
    """Return what options the named parts have."""
    known = {name: _NAMES[name] for name in names}
    for part in parts_of(names).values():
        known |= options_of(part)
    return known


def resolved(given: Options, base: Options | None = None) -> dict[str, Any]:
    """Return the complete options of the parts that are named, and no others.

    Args:
        given: Names of parts, and options of these.
        base: Other ones, complete or not. What `given` leaves out comes from here where the part is the same, and is
            the part's own default elsewhere.

    Raises:
        OptionError: A part that there is not, an option that its parts do not have, a value out of range, or a
            combination that means nothing.
    """
    base = base or {}
    names = part_names(given, base)
    refuse_unknown(given, known_options(names), _described(names))
    result: dict[str, Any] = dict(names)
    for part, described in parts_of(names).items():
        sources = (base, given) if base.get(part) == names[part] else (given,)
        values = {
            name: one[name] for one in sources for name in options_of(described) if name in one
        }
        result |= vars(described(**values))
    _check_together(result)
    return result


def _described(names: Mapping[str, str]) -> str:
    return " with ".join(f"{part} '{name}'" for part, name in names.items())


def _check_together(options: Options) -> None:
    """Refuse a basis and moments that do not go together."""
    if options.get("source") == "momentum" and not MOMENTS[options["moments"]].averages_gradient:
        raise OptionError(
            f"source 'momentum' needs an average of gradients, which moments '{options['moments']}' does not keep",
            "use source gradient or covariance",
        )


_COMPOSED: dict[tuple[str, str], Update] = {
    (basis, moments): replace(MOMENTS[moments], basis=BASES[basis])
    for basis in BASES
    for moments in MOMENTS
}
_UNREACHED = {name: replace(moments, basis=OUT_OF_REACH) for name, moments in MOMENTS.items()}


def update_for(options: Options, shape: Sequence[int]) -> tuple[Update, Options]:
    """Return the update that options mean for a tensor of this shape, and the options that it reads there.

    Tensors that are not matrices (a side below 2) have no basis; what needs rows and columns gives way to its `vector`
    moments, with those' own eps. A matrix that the basis does not reach keeps its own coordinates.
    """
    matrix = matrix_shape(shape)
    is_matrix = matrix[0] >= 2
    if "update" in options:
        update = UPDATES[options["update"]]
        coordinates: Mapping[str, Update] = MOMENTS
    else:
        basis, moments = options["basis"], options["moments"]
        if is_matrix and BASES[basis].reaches(matrix, options):
            return _COMPOSED[basis, moments], options
        coordinates = MOMENTS if basis == "identity" else _UNREACHED
        update = coordinates[moments]
    if is_matrix or update.vector == update.name:
        return update, options
    return coordinates[update.vector], {**options, **update.vector_options}
