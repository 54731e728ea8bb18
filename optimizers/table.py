"""The record of a method: everything the rest of subopt knows about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from subopt.errors import OptionError, suggestion

from .cell import rule_of
from .options import OPTIONS, RULES, validated
from .slots import Dtypes, layout_bytes
from .transient import transient_bytes

# What every parameter's storage depends on, whatever optimizer it is left to.
_SHARED_WITH_FALLBACK = ("state_dtype",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One optimizer method: a cell of the composition with its options, and what follows from them.

    Attributes:
        name: Its id.
        summary: What it does, in a line.
        paper: Where it is from.
        section: The place in that paper.
        fixed: The options that make it this method.
        tunable: The names of the options a user may set.
        preset: Defaults of tunable options that differ from the general ones.
        fallback: "adamw" or "adamw-nomom": what trains the parameters it leaves alone.
        state_formula: Elements kept for an m x n matrix, as the paper writes it.
        capabilities: What it can do, as data: "refreshes", "rank", "bf16_parameters", "closure".
        test_inputs: Valid options that tests try.
        error_inputs: Invalid options and a pattern of the message they give.
    """

    name: str
    summary: str
    paper: str
    section: str
    fixed: Mapping[str, Any]
    tunable: tuple[str, ...]
    preset: Mapping[str, Any] = field(default_factory=dict)
    fallback: str = "adamw"
    state_formula: str = ""
    capabilities: frozenset[str] = frozenset()
    test_inputs: tuple[Mapping[str, Any], ...] = ()
    error_inputs: tuple[tuple[Mapping[str, Any], str], ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """Every tunable option with its default."""
        moments = RULES[self.preset.get("moments", self.fixed.get("moments", "adam"))]
        own = {"betas": moments.betas, "eps": moments.eps}
        general = {name: OPTIONS[name].default for name in self.tunable}
        return general | {key: own[key] for key in own if key in general} | dict(self.preset)

    def resolve(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the complete options of the composed optimizer: general, this method's, the user's.

        Raises:
            OptionError: An option this method does not have, or a value out of range.
        """
        options = options or {}
        for name in options:
            if name not in self.tunable:
                raise OptionError(
                    f"method '{self.name}' has no option '{name}'{suggestion(name, self.tunable)}",
                    f"its options: {', '.join(self.tunable)}",
                )
        general = {name: option.default for name, option in OPTIONS.items()}
        return validated({**general, **self.fixed, **self.preset, **options})

    def state_bytes(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
        *,
        counters: bool = True,
    ) -> int:
        """Return the exact optimizer-state bytes of one parameter under this method.

        Args:
            shape: The parameter's shape.
            dtype: The parameter's dtype.
            options: The user's options.
            counters: Whether to count step counters; the papers do not.
        """
        return _state_bytes(shape, dtype, self.resolve(options), counters)

    def fallback_state_bytes(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
        *,
        counters: bool = True,
    ) -> int:
        """Return the same for a parameter that this method leaves to its fallback."""
        return _state_bytes(shape, dtype, self.fallback_options(options), counters)

    def fallback_options(
        self, options: Mapping[str, Any] | None = None, method: str | None = None
    ) -> dict[str, Any]:
        """Return the composed optimizer's options for this method's fallback, or for the named one."""
        resolved = self.resolve(options)
        shared = {name: resolved[name] for name in _SHARED_WITH_FALLBACK}
        return validated(
            {name: option.default for name, option in OPTIONS.items()}
            | {"moments": FALLBACKS[method or self.fallback]}
            | shared
        )

    def fallback_transient_bytes(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> int:
        """Return the peak bytes of temporaries while the fallback updates a parameter of this shape."""
        return transient_bytes(shape, dtype, self.fallback_options(options))

    def transient_bytes(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> int:
        """Return the peak bytes of temporaries while one parameter of this shape is updated, refresh included."""
        return transient_bytes(shape, dtype, self.resolve(options))

    def step_flops(self, shape: Sequence[int], options: Mapping[str, Any] | None = None) -> float:
        """Return FLOPs per step for one parameter: projection, lift, moments, and a refresh over its period."""
        return rule_of(self.resolve(options), shape).step_flops(shape)

    def bound_flops(self, shape: Sequence[int], options: Mapping[str, Any] | None = None) -> float:
        """Return the upper bound on FLOPs beyond the un-rotated method's (Nguyen et al. 2025, section 3.4)."""
        return rule_of(self.resolve(options), shape).bound_flops(shape)


FALLBACKS = {"adamw": "adam", "adamw-nomom": "adam-nomom"}
FALLBACK_OPTIONS = ("betas", "eps", "state_dtype")


def _state_bytes(
    shape: Sequence[int], dtype: torch.dtype, options: Mapping[str, Any], counters: bool
) -> int:
    dtypes = Dtypes.of(dtype, options["state_dtype"], options["basis_dtype"])
    return layout_bytes(rule_of(options, shape).layout(shape), dtypes, counters=counters)
