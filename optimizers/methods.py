"""The method table: one record per method. To add a cell of the composition, add a record."""

from __future__ import annotations

from typing import Any

from subopt.errors import OptionError, suggestion

from .table import Method

_ADADIAG = (
    "Nguyen et al. 2025, Improving Adaptive Moment Optimization via Preconditioner Diagonalization"
)
_OSD = "Liang et al. 2024, Memory-Efficient LLM Training with Online Subspace Descent"
_GALORE = "Zhao et al. 2024, GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection"

_DTYPES = ("state_dtype",)
_ADAM = ("betas", "eps", *_DTYPES)
_ADAFACTOR = ("betas", "eps", "clip_threshold", *_DTYPES)
_HFAC = ("betas", "eps", "clip_threshold", "clip_momentum", *_DTYPES)
_PERIODIC = ("source", "period", "early_refresh", "on_refresh", "scale", "basis_dtype")
_LOW_RANK = ("moments", "rank", "scale", "basis_dtype", "betas", "eps", "clip_threshold")

_BAD_BETAS = ({"betas": (1.0, 0.999)}, "Invalid betas")
_BAD_PERIOD = ({"period": 0}, "Invalid period")
_BAD_REFRESH = ({"on_refresh": "forget"}, "Invalid on_refresh")

METHODS: dict[str, Method] = {}


def _add(name: str, summary: str, paper: str, section: str, **rest: Any) -> None:
    rest.setdefault("error_inputs", (_BAD_BETAS,))
    rest.setdefault("test_inputs", ({},))
    rest["capabilities"] = frozenset({"bf16_parameters", "closure", *rest.get("capabilities", ())})
    METHODS[name] = Method(name=name, summary=summary, paper=paper, section=section, **rest)


def _unrotated(
    name: str, moments: str, summary: str, tunable: tuple[str, ...], **rest: Any
) -> None:
    _add(name, summary, fixed={"basis": "identity", "moments": moments}, tunable=tunable, **rest)


def _rotated(
    name: str, basis: str, moments: str, summary: str, tunable: tuple[str, ...], **rest: Any
) -> None:
    _add(
        name,
        summary,
        _ADADIAG,
        fixed={"basis": basis, "moments": moments},
        tunable=(*tunable, *_PERIODIC),
        capabilities=("refreshes",),
        test_inputs=(
            {},
            {"period": 3, "on_refresh": "rotate"},
            {"period": 3, "on_refresh": "reset", "early_refresh": False},
            {"period": 2, "source": "covariance"},
        ),
        error_inputs=(_BAD_BETAS, _BAD_PERIOD, _BAD_REFRESH),
        **rest,
    )


_unrotated(
    "adamw", "adam", "the usual baseline: two moments per weight", _ADAM,
    paper="Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization", section="algorithm 2",
    state_formula="2mn",
)  # fmt: skip
_unrotated(
    "adafactor", "adafactor", "second moment as a row times a column, with momentum", _ADAFACTOR,
    paper=_ADADIAG, section="algorithm 2 with P = I", state_formula="mn + m + n",
)  # fmt: skip
_unrotated(
    "adafactor-nomom", "adafactor-nomom", "Adafactor without momentum: almost no state", _ADAFACTOR,
    paper=_ADADIAG, section="algorithm 2 with P = I, no momentum", state_formula="m + n",
    fallback="adamw-nomom",
)  # fmt: skip
_unrotated(
    "lion", "lion", "the sign of an interpolated momentum; one moment", _ADAM,
    paper="Chen et al. 2023, Symbolic Discovery of Optimization Algorithms", section="algorithm 2",
    state_formula="mn",
)  # fmt: skip
_unrotated(
    "momentum", "momentum", "gradient descent with averaged gradients", _ADAM,
    paper=_OSD, section="example 2.1", state_formula="mn",
)  # fmt: skip
_unrotated(
    "hfac", "hfac", "both moments factored into rows and columns", _HFAC,
    paper=_ADADIAG, section="algorithm 3 with P = I", state_formula="2(m + n)",
)  # fmt: skip

_add(
    "galore", "moments of the gradient's leading directions, refreshed by SVD", _GALORE, "algorithm 2",
    fixed={"basis": "one-sided"},
    tunable=(*_LOW_RANK, "clip_momentum", "state_dtype", "source", "period", "early_refresh", "on_refresh"),
    preset={"moments": "adam", "rank": 0.25, "scale": 0.25},
    state_formula="mr + 2nr",
    capabilities=("refreshes", "rank"),
    test_inputs=(
        {},
        {"moments": "lion", "period": 3},
        {"moments": "adafactor", "rank": 2, "period": 3},
        {"source": "momentum", "period": 3, "on_refresh": "rotate"},
    ),
    error_inputs=(
        _BAD_PERIOD,
        _BAD_REFRESH,
        ({"rank": 0}, "Invalid rank"),
        ({"rank": 1.5}, "Invalid rank"),
        ({"moments": "adafactor", "source": "momentum"}, "source 'momentum' needs"),
    ),
)  # fmt: skip
_add(
    "osd", "moments of a subspace that follows the gradient by online PCA", _OSD, "algorithm 1",
    fixed={"basis": "online-pca"},
    tunable=(
        *_LOW_RANK, "clip_momentum", "state_dtype",
        "basis_optimizer", "basis_lr_ratio", "ortho_weight", "retract_every",
    ),
    preset={"moments": "adam", "rank": 0.25},
    state_formula="mr + 2nr + 2mr",
    capabilities=("rank",),
    test_inputs=(
        {},
        {"basis_optimizer": "sgd"},
        {"moments": "lion"},
        {"moments": "adafactor"},
        {"moments": "momentum"},
        {"moments": "sgd", "retract_every": 2},
    ),
    error_inputs=(
        ({"rank": 0}, "Invalid rank"),
        ({"basis_optimizer": "lion"}, "Invalid basis_optimizer"),
        ({"ortho_weight": -1.0}, "Invalid ortho_weight"),
    ),
)  # fmt: skip

_rotated(
    "adadiag", "one-sided", "adam", "Adam in the gradient's left singular basis", _ADAM,
    section="algorithm 1, one-sided", state_formula="m^2 + 2mn",
)  # fmt: skip
_rotated(
    "adadiag++", "two-sided", "adam", "Adam in both singular bases", _ADAM,
    section="algorithm 1, two-sided", state_formula="m^2 + n^2 + 2mn",
)  # fmt: skip
_rotated(
    "adafacdiag", "one-sided", "adafactor", "Adafactor in the left singular basis", _ADAFACTOR,
    section="algorithm 2", state_formula="m^2 + mn + m + n",
)  # fmt: skip
_rotated(
    "adafacdiag-nomom", "one-sided", "adafactor-nomom", "AdafacDiag without momentum", _ADAFACTOR,
    section="algorithm 2, no momentum", state_formula="m^2 + m + n", fallback="adamw-nomom",
)  # fmt: skip
_rotated(
    "adafacdiag++", "two-sided", "adafactor", "Adafactor in both singular bases", _ADAFACTOR,
    section="algorithm 2, two-sided", state_formula="m^2 + n^2 + mn + m + n",
)  # fmt: skip
_rotated(
    "adafacdiag++-nomom", "two-sided", "adafactor-nomom", "AdafacDiag++ without momentum", _ADAFACTOR,
    section="algorithm 2, two-sided, no momentum", state_formula="m^2 + n^2 + m + n",
    fallback="adamw-nomom",
)  # fmt: skip
_rotated(
    "hfacdiag", "one-sided", "hfac", "Hfac in the left singular basis", _HFAC,
    section="algorithm 3", state_formula="m^2 + 2(m + n)",
)  # fmt: skip


def get_method(name: str) -> Method:
    """Return a method by id.

    Raises:
        OptionError: There is no such method.
    """
    if name not in METHODS:
        raise OptionError(
            f"unknown method '{name}'{suggestion(name, METHODS)}",
            f"methods: {', '.join(METHODS)}",
        )
    return METHODS[name]
