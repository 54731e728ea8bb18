"""The method table: one record per method. To add a method of known parts, add a record."""

from __future__ import annotations

from typing import Any

from subopt.errors import OptionError, suggestion

from .low_rank import DLRT_METHOD
from .method import ADAM, BAD_BETAS, BAD_PERIOD, Method, record
from .preconditioned import PRECONDITIONER_METHODS

_ADADIAG = (
    "Nguyen et al. 2025, Improving Adaptive Moment Optimization via Preconditioner Diagonalization"
)
_OSD = "Liang et al. 2024, Memory-Efficient LLM Training with Online Subspace Descent"
_GALORE = "Zhao et al. 2024, GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection"
_SOAP = "Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam"

_ADAFACTOR = (*ADAM, "clip_threshold")
_HFAC = (*_ADAFACTOR, "clip_momentum")
_PERIODIC = (
    "source",
    "period",
    "early_refresh",
    "stagger",
    "on_refresh",
    "solver",
    "scale",
    "basis_dtype",
    "rotations",
)
_LOW_RANK = (
    "moments",
    "rank",
    "scale",
    "basis_dtype",
    "rotations",
    "betas",
    "eps",
    "clip_threshold",
)

_ONLINE_PCA = (
    *_LOW_RANK, "clip_momentum", "state_dtype",
    "basis_optimizer", "basis_lr_ratio", "basis_lr_cap", "ortho_weight", "retract_every",
)  # fmt: skip

_BAD_REFRESH = ({"on_refresh": "forget"}, "Invalid on_refresh")
_BAD_ONLINE_PCA = (
    ({"rank": 0}, "Invalid rank"),
    ({"basis_optimizer": "lion"}, "Invalid basis_optimizer"),
    ({"ortho_weight": -1.0}, "Invalid ortho_weight"),
)

METHODS: dict[str, Method] = {}


def _add(name: str, summary: str, paper: str, section: str, **rest: Any) -> None:
    METHODS[name] = record(name, summary, paper, section, **rest)


def _unrotated(
    name: str, moments: str, summary: str, tunable: tuple[str, ...], **rest: Any
) -> None:
    options = {"basis": "identity", "moments": moments}
    _add(name, summary, options=options, tunable=tunable, **rest)


def _rotated(
    name: str, basis: str, moments: str, summary: str, tunable: tuple[str, ...], **rest: Any
) -> None:
    _add(
        name,
        summary,
        _ADADIAG,
        options={"basis": basis, "moments": moments},
        tunable=(*tunable, *_PERIODIC),
        capabilities=("refreshes",),
        test_inputs=(
            {},
            {"period": 3, "on_refresh": "rotate"},
            {"period": 3, "on_refresh": "reset", "early_refresh": False},
            {"period": 2, "source": "covariance", "stagger": True},
        ),
        error_inputs=(BAD_BETAS, BAD_PERIOD, _BAD_REFRESH),
        **rest,
    )


_unrotated(
    "adamw", "adam", "the usual baseline: two moments per weight", ADAM,
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
    "lion", "lion", "the sign of an interpolated momentum; one moment", ADAM,
    paper="Chen et al. 2023, Symbolic Discovery of Optimization Algorithms", section="algorithm 2",
    state_formula="mn",
)  # fmt: skip
_unrotated(
    "momentum", "momentum", "gradient descent with averaged gradients", ADAM,
    paper=_OSD, section="example 2.1", state_formula="mn",
)  # fmt: skip
_unrotated(
    "hfac", "hfac", "both moments factored into rows and columns", _HFAC,
    paper=_ADADIAG, section="algorithm 3 with P = I", state_formula="2(m + n)",
)  # fmt: skip

_add(
    "muon", "steps with all singular values alike, as torch.optim ships it",
    options={"update": "muon"}, tunable=("betas", "eps", "nesterov", "ns_steps", "adjust_lr"),
    paper="Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks",
    section="torch.optim.Muon", state_formula="mn",
    capabilities=("whitens",),
    test_inputs=({}, {"nesterov": False, "ns_steps": 3}, {"adjust_lr": "match_rms_adamw"}),
    error_inputs=(
        BAD_BETAS,
        ({"ns_steps": 100}, "Invalid ns_steps"),
        ({"adjust_lr": "none"}, "Invalid adjust_lr"),
        ({"state_dtype": "bf16"}, "no option 'state_dtype'"),
    ),
)  # fmt: skip
_add(
    "adafactor-torch", "Adafactor as torch.optim ships it: steps relative to the weights",
    options={"update": "adafactor-torch"}, tunable=("eps", "eps2", "beta2_decay", "clip_threshold"),
    paper="Shazeer and Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
    section="torch.optim.Adafactor", state_formula="m + n",
    capabilities=("waits_for_device",),
    test_inputs=({}, {"eps": 1e-8, "eps2": 1e-2, "beta2_decay": -0.5}),
    error_inputs=(
        ({"beta2_decay": 0.5}, "Invalid beta2_decay"),
        ({"eps2": -1.0}, "Invalid eps2"),
        ({"betas": (0.9, 0.99)}, "no option 'betas'"),
    ),
)  # fmt: skip

_add(
    "galore", "moments of the gradient's leading directions, refreshed by SVD", _GALORE, "algorithm 2",
    options={"basis": "one-sided", "moments": "adam", "rank": 0.25, "scale": 0.25},
    tunable=(
        *_LOW_RANK, "clip_momentum", "state_dtype",
        "source", "period", "early_refresh", "stagger", "on_refresh", "solver",
    ),
    state_formula="mr + 2nr",
    capabilities=("refreshes", "rank", "projects"),
    test_inputs=(
        {},
        {"moments": "lion", "period": 3},
        {"moments": "adafactor", "rank": 2, "period": 3},
        {"source": "momentum", "period": 3, "on_refresh": "rotate"},
        {"solver": "power", "period": 2, "stagger": True},
    ),
    error_inputs=(
        BAD_PERIOD,
        _BAD_REFRESH,
        ({"rank": 0}, "Invalid rank"),
        ({"rank": 1.5}, "Invalid rank"),
        ({"moments": "adafactor", "source": "momentum"}, "source 'momentum' needs"),
    ),
)  # fmt: skip
_add(
    "osd", "moments of a subspace that follows the gradient by online PCA", _OSD, "algorithm 1",
    options={"basis": "online-pca", "moments": "adam", "rank": 0.25},
    tunable=_ONLINE_PCA,
    state_formula="mr + 2nr + 2mr",
    capabilities=("rank", "projects"),
    test_inputs=(
        {},
        {"basis_optimizer": "sgd"},
        {"moments": "lion"},
        {"moments": "adafactor"},
        {"moments": "momentum"},
        {"moments": "sgd", "retract_every": 2},
    ),
    error_inputs=_BAD_ONLINE_PCA,
)  # fmt: skip
_add(
    "osd-two-sided", "moments of r x r coordinates: online PCA of both sides", _OSD, "section 4.3",
    options={"basis": "online-pca-two-sided", "moments": "adam", "rank": 0.25},
    tunable=_ONLINE_PCA,
    state_formula="2r^2 + (m + n)r + 2(m + n)r",
    capabilities=("rank", "projects"),
    test_inputs=(
        {},
        {"basis_optimizer": "sgd"},
        {"moments": "lion", "retract_every": 2},
        {"moments": "adafactor", "rank": 2},
        {"moments": "sgd"},
    ),
    error_inputs=_BAD_ONLINE_PCA,
)  # fmt: skip

# The same with moments in blocks of 8-bit codes (`low_bit`): the base optimizers of the papers' language models.
_add(
    "adamw-8bit", "AdamW with its moments in 8 bits: a quarter of the state",
    "Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization", "section 2",
    options={"basis": "identity", "moments": "adam", "state_dtype": "8bit"},
    tunable=("betas", "eps"),
    state_formula="2mn, codes of one byte",
)  # fmt: skip
for _name, _of, _summary, _formula in (
    (
        "galore-8bit",
        "galore",
        "GaLore with its moments in 8 bits",
        "mr + 2nr, the 2nr codes of one byte",
    ),
    (
        "osd-8bit",
        "osd",
        "Online Subspace Descent with all moments in 8 bits, those of its basis too",
        "mr + 2nr + 2mr, all but the first mr codes of one byte",
    ),
):
    _full = METHODS[_of]
    _add(
        _name, _summary, _full.paper, _full.section,
        options={**_full.options, "state_dtype": "8bit"},
        tunable=tuple(option for option in _full.tunable if option != "state_dtype"),
        state_formula=_formula,
        capabilities=tuple(_full.capabilities),
        test_inputs=_full.test_inputs,
        error_inputs=_full.error_inputs,
    )  # fmt: skip

_rotated(
    "adadiag", "one-sided", "adam", "Adam in the gradient's left singular basis", ADAM,
    section="algorithm 1, one-sided", state_formula="m^2 + 2mn",
)  # fmt: skip
_rotated(
    "adadiag++", "two-sided", "adam", "Adam in both singular bases", ADAM,
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


METHODS |= {method.name: method for method in PRECONDITIONER_METHODS}

for _name, _basis, _summary, _section, _formula in (
    ("soap", "two-sided", "Adam in Shampoo's eigenbases", "algorithm 3", "2mn + 2m^2 + 2n^2"),
    (
        "soap-one-sided",
        "one-sided",
        "SOAP on the short side only",
        "algorithm 3, one side",
        "2mn + 2m^2",
    ),
):
    _add(
        _name, _summary, _SOAP, _section,
        tunable=(
            "moments", *ADAM, "clip_threshold", "clip_momentum", "scale", "basis_dtype", "rotations",
            "period", "early_refresh", "stagger", "on_refresh", "second_moment_on_refresh", "solver", "covariance_beta",
            "use_current_gradient", "skip_first", "max_dim",
        ),
        options={
            "basis": _basis, "source": "covariance",
            # The authors' choices; early refreshes, which are ours, won by more than the spread of two seeds:
            # benchmarks/results/soap_choices_cpu_202611.md.
            "moments": "adam", "betas": (0.95, 0.95), "period": 10, "early_refresh": True, "solver": "power",
            "on_refresh": "rotate", "second_moment_on_refresh": "permute", "use_current_gradient": False,
            "skip_first": True, "max_dim": 10_000,
        },
        state_formula=_formula,
        capabilities=("refreshes",),
        test_inputs=(
            {"period": 2},
            {"period": 2, "use_current_gradient": True, "skip_first": False, "solver": "exact"},
            {"period": 2, "moments": "adafactor", "second_moment_on_refresh": "rotate"},
            {"period": 2, "moments": "lion", "on_refresh": "reset", "skip_first": False},
            {"period": 2, "max_dim": 8, "stagger": True, "second_moment_on_refresh": "keep"},
        ),
        error_inputs=(
            BAD_BETAS,
            BAD_PERIOD,
            _BAD_REFRESH,
            ({"solver": "svd"}, "Invalid solver"),
            ({"covariance_beta": 1.0}, "Invalid covariance_beta"),
            ({"max_dim": 0}, "Invalid max_dim"),
        ),
    )  # fmt: skip

METHODS[DLRT_METHOD.name] = DLRT_METHOD


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
