"""Every option that a method may have: default, allowed values, meaning. Checked here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subopt.errors import OptionError, suggestion

from .bases.precision import PRECISIONS
from .low_rank.integrator import INTEGRATORS
from .preconditioners.grafting import GRAFTS
from .preconditioners.registry import STEP_RULES
from .state import low_bit
from .state.layout import DTYPES
from .updates.elementwise import MOMENTS
from .updates.torch_builtin import TORCH_RULES, TorchRule
from .updates.update import StepRule

_DTYPE_IDS = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        default: Its value where a method does not set its own; None often means "the moments' own".
        check: Whether a value is allowed.
        allowed: The allowed values, in words.
        meaning: What it does, with units.
    """

    default: Any
    check: Callable[[Any], bool]
    allowed: str
    meaning: str


def _is_number(value: Any, low: float, high: float) -> bool:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value) and low <= value <= high


def _is_whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _number(default: float | None, low: float, high: float, meaning: str) -> Option:
    optional = default is None
    return Option(
        default,
        lambda value: (optional and value is None) or _is_number(value, low, high),
        f"a number from {low:g} to {high:g}",
        meaning,
    )


def _whole(default: int, low: int, meaning: str) -> Option:
    return Option(
        default, lambda value: _is_whole(value, low), f"a whole number from {low}", meaning
    )


def _flag(default: bool, meaning: str) -> Option:
    return Option(default, lambda value: isinstance(value, bool), "true or false", meaning)


def _choice(default: str | None, choices: tuple[str, ...], meaning: str) -> Option:
    def check(value: Any) -> bool:
        return value in choices or (default is None and value is None)

    return Option(default, check, "one of " + ", ".join(choices), meaning)


def _is_below_one(value: Any) -> bool:
    return _is_number(value, 0, 1) and value < 1


def _is_rank(value: Any) -> bool:
    return value is None or _is_whole(value, 1) or (isinstance(value, float) and 0 < value <= 1)


def _is_betas(value: Any) -> bool:
    if value is None:
        return True
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return pair and all(_is_below_one(beta) for beta in value)


def _is_lr(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and float(value) >= 0
    return _is_number(value, 0, math.inf)


_BASES = ("identity", "one-sided", "two-sided", "online-pca", "online-pca-two-sided")

RULES: dict[str, StepRule | TorchRule] = {**STEP_RULES, **TORCH_RULES}

OPTIONS: dict[str, Option] = {
    "basis": _choice("identity", _BASES, "in which coordinates the step is taken"),
    "moments": _choice("adam", tuple(RULES), "what step those coordinates get"),
    "betas": Option(
        None, _is_betas, "two numbers from 0 to below 1", "decay of first and second moments"
    ),
    "eps": _number(None, 0, 1, "smoothing constant of the moments"),
    "rank": Option(
        None,
        _is_rank,
        "a whole number from 1, or a share of the short side up to 1.0",
        "directions kept; none means all; shares are of the inputs for shared-basis, of each side for sketchy",
    ),
    "scale": _number(1.0, 0, 1e6, "factor on the lifted step"),
    "source": _choice(
        "gradient", ("gradient", "momentum", "covariance"), "what the basis is computed from"
    ),
    "period": _whole(200, 1, "steps between refreshes of the basis (T)"),
    "early_refresh": _flag(True, "also refresh at steps 2, 4, 8, ... below the period"),
    "stagger": _flag(
        False, "parameters take turns within a period to refresh; none refreshes early then"
    ),
    "rotations": _choice(
        "full",
        PRECISIONS,
        "precision of products with bases; reduced: TF32 on CUDA and bfloat16 on a CPU, off by some 3e-4 and 2e-3",
    ),
    "on_refresh": _choice(
        "keep", ("keep", "rotate", "reset"), "what becomes of the moments when the basis changes"
    ),
    "second_moment_on_refresh": _choice(
        None,
        ("keep", "permute", "rotate"),
        "the same for second moments; permute: they follow the old vectors' new ranks by energy",
    ),
    "solver": _choice(
        "exact",
        ("exact", "power"),
        "a basis anew at each refresh, or power steps from the old one: one, or as many as a low rank needs",
    ),
    "covariance_beta": Option(
        None,
        lambda value: value is None or _is_below_one(value),
        "a number from 0 to below 1",
        "decay of averaged covariances; none: the second moments'",
    ),
    "use_current_gradient": _flag(
        True, "averaged covariances take in a gradient before it is preconditioned, not after"
    ),
    "skip_first": _flag(False, "the gradient that fits the first basis moves nothing"),
    "max_dim": Option(
        None,
        lambda value: value is None or _is_whole(value, 1),
        "a whole number from 1",
        "longest side that gets a basis; none: any",
    ),
    "basis_optimizer": _choice("adam", ("adam", "sgd"), "what moves an online-PCA basis"),
    "basis_lr_ratio": _number(5.0, 0, 1e6, "learning rate of the basis, as a multiple of lr"),
    "ortho_weight": _number(0.1, 0, 1e6, "weight of the orthonormality term (lambda)"),
    "retract_every": _whole(0, 0, "steps between QR retractions of an online-PCA basis; 0: never"),
    "clip_threshold": _number(1.0, 1e-12, math.inf, "largest RMS of Adafactor's normalised step"),
    "clip_momentum": _flag(False, "clip Hfac's momentum terms too"),
    "block_size": _whole(512, 1, "largest side of a preconditioner's blocks"),
    "start_step": _whole(1, 1, "first preconditioned step; before it the graft's own steps"),
    "graft": _choice("rmsprop-normalized", GRAFTS, "whose step length a preconditioned step gets"),
    "accumulation": _choice(
        "ema", ("ema", "sum"), "whether a preconditioner averages its statistics or adds them up"
    ),
    "nesterov": _flag(True, "Muon: orthogonalise the momentum as it will be at the next step"),
    "ns_steps": Option(
        5,
        lambda value: _is_whole(value, 1) and value < 100,
        "a whole number from 1 to 99",
        "Muon: Newton-Schulz steps",
    ),
    "adjust_lr": _choice(
        "original",
        ("original", "match_rms_adamw"),
        "Muon: factor on lr by shape; match_rms_adamw makes steps of AdamW's size",
    ),
    "beta2_decay": _number(
        -0.8, -1e6, 0, "torch's Adafactor: exponent of the step count in 1 - beta2"
    ),
    "eps2": _number(
        1e-3, 0, 1e6, "torch's Adafactor: smallest RMS of a parameter that its steps are scaled by"
    ),
    "state_dtype": _choice(
        None,
        (*DTYPES, low_bit.STATE_DTYPE),
        "dtype of the moments; none: the parameter's; 8bit: blocks of codes, small tensors fp32",
    ),
    "basis_dtype": _choice(None, tuple(DTYPES), "dtype of bases; none: fp32 (fp64 under fp64)"),
    "max_rank": Option(
        None,
        _is_rank,
        "a whole number from 1, or a share of the short side up to 1.0",
        "largest rank of a low-rank layer; none: where its factors are as large as the dense weight",
    ),
    "rank_mode": _choice(
        "adaptive",
        ("adaptive", "fixed", "frozen"),
        "low-rank layers: ranks adapt, or stay, or the bases stay too and only the cores S train",
    ),
    "tau": _number(0.1, 0, 1e6, "tolerance of the truncation that ends a low-rank layer's step"),
    "truncation": _choice(
        "relative",
        ("relative", "absolute"),
        "whether tau is a share of the norm of S or a norm itself",
    ),
    "integrator": _choice("adam", tuple(INTEGRATORS), "what steps the factors of low-rank layers"),
    "nesterov_weight": _number(
        0.0, 0, 1e6, "lambda of unified momentum, up to 1 / (1 - mu): 0 heavy ball, 1 Nesterov"
    ),
    "settle_steps": _whole(
        0, 0, "steps without a change of any rank after which only the cores train; 0: never"
    ),
}

_COMMON: dict[str, Option] = {
    "lr": Option(1e-3, _is_lr, "a number from 0; a Tensor lr must be 1-element", "learning rate"),
    "weight_decay": _number(0.0, 0, 1e6, "decoupled weight decay per unit of lr"),
    "maximize": _flag(False, "ascend instead of descend"),
}


def validated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with dtypes as ids and the moments' own betas and eps filled in.

    Raises:
        OptionError: An unknown option, a value out of range, or a combination that means nothing.
    """
    known = OPTIONS | _COMMON
    result = dict(options)
    for name, value in options.items():
        if name not in known:
            raise OptionError(f"unknown option '{name}'{suggestion(name, known)}")
        if isinstance(value, torch.dtype) and name.endswith("_dtype"):
            result[name] = _DTYPE_IDS.get(value, str(value))
        if not known[name].check(result[name]):
            raise OptionError(f"Invalid {name}: {value!r}; it must be {known[name].allowed}")
    if isinstance(result.get("lr"), Tensor):
        result["lr"] = result["lr"].reshape(())  # the same memory, so that schedules still reach it
    name = result.get("moments", "adam")
    rule = RULES[name]
    if result.get("betas") is None:
        result["betas"] = rule.betas
    result["betas"] = tuple(result["betas"])
    if result.get("eps") is None:
        result["eps"] = rule.eps
    if result.get("nesterov_weight", 0) * (1 - result["betas"][0]) > 1:
        raise OptionError(
            f"Invalid nesterov_weight: {result['nesterov_weight']}; with momentum {result['betas'][0]} "
            f"it is at most 1 / (1 - momentum) = {1 / (1 - result['betas'][0]):g}"
        )
    if result.get("basis", "identity") != "identity" and name not in MOMENTS:
        raise OptionError(
            f"moments '{name}' work in the weights' own coordinates only",
            f"in a basis take one of {', '.join(MOMENTS)}",
        )
    if result.get("rank") in range(1, getattr(rule, "smallest_rank", 1)):
        raise OptionError(f"Invalid rank: {result['rank']}; moments '{name}' need at least 2")
    if name in TORCH_RULES and result.get("state_dtype") is not None:
        raise OptionError(
            f"moments '{name}' keep their state in the parameter's dtype, as torch does"
        )
    if result.get("source") == "momentum" and not getattr(rule, "averages_gradient", False):
        raise OptionError(
            f"source 'momentum' needs an average of gradients, which moments '{name}' does not keep",
            "use source gradient or covariance",
        )
    if result.get("stagger"):
        result["early_refresh"] = False  # at which every parameter would refresh at once
    _check_source(result)
    return result


def _check_source(options: Mapping[str, Any]) -> None:
    """Refuse options that only averaged covariances give a meaning."""
    if options.get("source") == "covariance":
        return
    if options.get("solver") == "power" and options.get("basis") == "two-sided":
        raise OptionError(
            "solver power needs a basis of averaged covariances, or of one side",
            "use source covariance, a one-sided basis, or solver exact",
        )
    for name, value in (
        ("use_current_gradient", False),
        ("second_moment_on_refresh", "permute"),
    ):
        if options.get(name) == value:
            raise OptionError(
                f"{name} {str(value).lower()} needs a basis of averaged covariances",
                "use source covariance",
            )
