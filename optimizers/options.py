"""Options: every part of a method describes its own, with default, allowed values and meaning, and checks them here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from subopt.errors import OptionError, suggestion

from .state import low_bit
from .state.layout import DTYPES

Options = Mapping[str, Any]

_DTYPE_IDS = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        default: Its value where nobody sets it.
        check: Whether a value is allowed.
        allowed: The allowed values, in words.
        meaning: What it does, with units.
        stored: The form in which an allowed value is kept.
    """

    default: Any
    check: Callable[[Any], bool]
    allowed: str
    meaning: str
    stored: Callable[[Any], Any] = lambda value: value

    def checked(self, name: str, value: Any) -> Any:
        """Return a value in the form in which it is kept.

        Raises:
            OptionError: It is not allowed.
        """
        if not self.check(value):
            raise OptionError(f"Invalid {name}: {value!r}; it must be {self.allowed}")
        return self.stored(value)


@dataclass(frozen=True)
class PartOptions:
    """The options of one part of a method: a basis, an update, a preconditioner, a low-rank integrator.

    A subclass is a frozen dataclass whose fields are made by the functions below.

    Raises:
        OptionError: A value that is not allowed, or a combination that means nothing.
    """

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            object.__setattr__(self, name, option.checked(name, getattr(self, name)))
        self.check()

    def check(self) -> None:
        """Refuse combinations that mean nothing."""


def options_of(part: type[PartOptions]) -> dict[str, Option]:
    """Return the options of a part by name."""
    if part not in _FOUND:  # mypy takes classes for not hashable by functools.cache
        _FOUND[part] = {one.name: one.metadata["option"] for one in fields(part)}
    return _FOUND[part]


_FOUND: dict[type[PartOptions], dict[str, Option]] = {}


def refuse_unknown(names: Iterable[str], known: Iterable[str], whose: str) -> None:
    """Refuse the first name that is not a known option.

    Raises:
        OptionError: There is one.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise OptionError(
                f"{whose} has no option '{name}'{suggestion(name, known)}",
                f"its options: {', '.join(known)}",
            )


def option(
    default: Any,
    check: Callable[[Any], bool],
    allowed: str,
    meaning: str,
    stored: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """Return the field of an option."""
    described = Option(default, check, allowed, meaning, stored)
    return field(default=default, metadata={"option": described})


def number(default: float | None, low: float, high: float, meaning: str) -> Any:
    """Return the field of a number; with the default None, None is allowed."""
    return option(
        default,
        lambda value: (default is None and value is None) or is_number(value, low, high),
        f"a number from {low:g} to {high:g}",
        meaning,
    )


def whole(default: int | None, low: int, meaning: str) -> Any:
    """Return the field of a whole number; with the default None, None is allowed."""
    return option(
        default,
        lambda value: (default is None and value is None) or is_whole(value, low),
        f"a whole number from {low}",
        meaning,
    )


def flag(default: bool, meaning: str) -> Any:
    """Return the field of a truth value."""
    return option(default, lambda value: isinstance(value, bool), "true or false", meaning)


def choice(default: str | None, choices: Iterable[str], meaning: str) -> Any:
    """Return the field of one name of several; with the default None, None is allowed."""
    choices = tuple(choices)
    return option(
        default,
        lambda value: value in choices or (default is None and value is None),
        "one of " + ", ".join(choices),
        meaning,
    )


def betas_field(first: float, second: float) -> Any:
    """Return the field of an update's two decays; None stands for its own."""
    own = (first, second)
    return option(
        own,
        lambda value: value is None or _is_betas(value),
        "two numbers from 0 to below 1",
        "decay of first and second moments",
        lambda value: own if value is None else tuple(value),
    )


def eps_field(default: float) -> Any:
    """Return the field of an update's smoothing constant; None stands for its own."""
    return option(
        default,
        lambda value: value is None or is_number(value, 0, 1),
        "a number from 0 to 1",
        "smoothing constant of the moments",
        lambda value: default if value is None else value,
    )


def rank_field(
    default: float | None = None,
    meaning: str = "directions kept; none means all; shares are of the inputs for shared-basis, of each side for "
    "sketchy",
    smallest: int = 1,
) -> Any:
    """Return the field of a rank: a count, a share of the short side, or None for full."""
    return option(
        default,
        lambda value: (
            value is None
            or is_whole(value, smallest)
            or (isinstance(value, float) and 0 < value <= 1)
        ),
        f"a whole number from {smallest}, or a share of the short side up to 1.0",
        meaning,
    )


def state_dtype_field() -> Any:
    """Return the field of the moments' dtype."""
    return _dtype(
        (*DTYPES, low_bit.STATE_DTYPE),
        "dtype of the moments; none: the parameter's; 8bit: blocks of codes, small tensors fp32",
    )


def basis_dtype_field() -> Any:
    """Return the field of the dtype of bases and of statistics that bases are made of."""
    return _dtype(tuple(DTYPES), "dtype of bases; none: fp32 (fp64 under fp64)")


def _dtype(choices: tuple[str, ...], meaning: str) -> Any:
    def known(value: Any) -> Any:
        return _DTYPE_IDS.get(value, str(value)) if isinstance(value, torch.dtype) else value

    return option(
        None,
        lambda value: value is None or known(value) in choices,
        "one of " + ", ".join(choices),
        meaning,
        known,
    )


def is_number(value: Any, low: float, high: float) -> bool:
    """Return whether a value is a finite number within bounds."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value) and low <= value <= high


def is_whole(value: Any, low: int) -> bool:
    """Return whether a value is a whole number and large enough."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_below_one(value: Any) -> bool:
    """Return whether a value is a number from 0 to below 1."""
    return is_number(value, 0, 1) and value < 1


def _is_betas(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return pair and all(map(is_below_one, value))


def _is_lr(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and float(value) >= 0
    return is_number(value, 0, math.inf)


@dataclass(frozen=True)
class CommonOptions(PartOptions):
    """What every parameter group has, whatever the method."""

    lr: float | Tensor = option(  # noqa: RUF009
        1e-3,
        _is_lr,
        "a number from 0; a Tensor lr must be 1-element",
        "learning rate",
        # The same memory, so that schedules still reach it.
        lambda value: value.reshape(()) if isinstance(value, Tensor) else value,
    )
    weight_decay: float = number(0.0, 0, 1e6, "decoupled weight decay per unit of lr")
    maximize: bool = flag(False, "ascend instead of descend")
