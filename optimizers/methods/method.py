"""The record of a method: everything the rest of subopt knows about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..composition import known_options, part_names, resolved, update_for
from ..optimizer import Composed
from ..options import Option, options_of, refuse_unknown
from ..parameters import LayerType
from ..state import low_bit
from ..state.layout import Dtypes, layout_bytes
from ..updates.basis import refreshes_due
from ..updates.elementwise import MOMENTS, MomentOptions
from .transient import transient_bytes

# What every parameter's storage depends on, whatever optimizer it is left to.
_SHARED_WITH_FALLBACK = ("state_dtype",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One optimizer method: the parts that make it up and their options, and what follows from them.

    A method that puts layers of its own in the place of the model's overrides `replace`, `optimizer`,
    `dense_state_dict` and the counts: for such a method the shape of a weight is that of the dense weight it replaces,
    and what is counted is the replacement at the largest rank the options allow.

    Attributes:
        name: Its id.
        summary: What it does, in a line.
        paper: Where it is from.
        section: The place in that paper.
        options: Its parts (`basis` and `moments`, or `update`), and where it differs from their own defaults.
        tunable: The names of the options a user may set.
        fallback: "adamw" or "adamw-nomom": what trains the parameters it leaves alone.
        state_formula: Elements kept for an m x n matrix, as the paper writes it.
        capabilities: What it can do or needs, as data. "refreshes": some steps decompose a matrix; "rank": it has one;
            "projects": that rank is of the gradient's subspace in which its moments live; "bf16_parameters",
            "closure": it takes them; "needs_closure": its step evaluates the loss more than once; "waits_for_device":
            its every step reads numbers off the device; "whitens": its step evens out rows and columns, as one in both
            eigenbases does; "shares_basis": its rank is of one basis for the second moments of all output neurons.
        layers: The types of layers it puts its own in the place of; the weights of others go to its fallback. Empty
            for a method that leaves the model's layers alone.
        test_inputs: Valid options that tests try.
        error_inputs: Invalid options and a pattern of the message they give.
    """

    name: str
    summary: str
    paper: str
    section: str
    options: Mapping[str, Any]
    tunable: tuple[str, ...]
    fallback: str = "adamw"
    state_formula: str = ""
    capabilities: frozenset[str] = frozenset()
    layers: frozenset[LayerType] = frozenset()
    test_inputs: tuple[Mapping[str, Any], ...] = ()
    error_inputs: tuple[tuple[Mapping[str, Any], str], ...] = ()

    @property
    def fixed(self) -> dict[str, Any]:
        """The options that make it this method and that a user may not set."""
        return {name: value for name, value in self.options.items() if name not in self.tunable}

    @property
    def settable(self) -> dict[str, Option]:
        """Every tunable option, as the part that has it describes it."""
        # Where a user chooses the moments, the options of any of them may be set.
        chosen = MOMENTS if "moments" in self.tunable else ()
        known: dict[str, Option] = {}
        for moments in chosen:
            known |= known_options(part_names({"moments": moments}, self.options))
        known |= known_options(part_names(self.options, {}))
        return {name: known[name] for name in self.tunable}

    @property
    def defaults(self) -> dict[str, Any]:
        """Every tunable option with its default."""
        own = self.resolve()
        return {name: own.get(name, option.default) for name, option in self.settable.items()}

    def resolve(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the complete options of the method's parts: their defaults, this method's, the user's.

        An option of other moments than the chosen ones is checked and left out.

        Raises:
            OptionError: An option this method does not have, or a value out of range.
        """
        options = options or {}
        refuse_unknown(options, self.tunable, f"method '{self.name}'")
        known = known_options(part_names(options, self.options))
        for name in options.keys() - known.keys():
            self.settable[name].checked(name, options[name])
        own = {name: value for name, value in options.items() if name in known}
        return resolved({**self.fixed, **own}, self.options)

    def among(self, wishes: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the wished options that it has, so that one set of wishes serves every method.

        A wished rank is one of the gradient's subspace: a sketch, a shared basis or a layer has another rank.
        """
        foreign = set() if "projects" in self.capabilities else {"rank"}
        return {
            name: wishes[name] for name in wishes if name in self.tunable and name not in foreign
        }

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
        own = self.resolve(options)
        shared = {name: own[name] for name in _SHARED_WITH_FALLBACK if name in own}
        return resolved({"moments": FALLBACKS[method or self.fallback], **shared})

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

    def weight_bytes(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> int:
        """Return the bytes in which a weight of this shape is held while this method trains it."""
        del options
        return prod(shape) * dtype.itemsize

    def step_flops(self, shape: Sequence[int], options: Mapping[str, Any] | None = None) -> float:
        """Return FLOPs per step for one parameter: projection, lift, moments, and a refresh over its period."""
        update, own = update_for(self.resolve(options), shape)
        found = update.flops(shape, own)
        return found.step + found.refresh / own["period"] if found.refresh else found.step

    def bound_flops(self, shape: Sequence[int], options: Mapping[str, Any] | None = None) -> float:
        """Return the upper bound on FLOPs beyond the un-rotated method's (Nguyen et al. 2025, section 3.4)."""
        update, own = update_for(self.resolve(options), shape)
        return update.flops(shape, own).bound

    def refreshes_by(self, step: int, options: Mapping[str, Any] | None = None) -> int:
        """Return in how many of the steps 1, 2, ..., `step` each basis is fitted or refreshed; 0 without refreshes.

        The first step fits every basis. A basis that moves after the step (`use_current_gradient` false) is refreshed
        in the step before the one that uses it; a first step that moves nothing (`skip_first`) delays all by one.
        With `stagger` the refreshes of different parameters are in different steps of a period.
        """
        if "refreshes" not in self.capabilities or step < 1:
            return 0
        own = self.defaults | dict(options or {})
        early = own.get("early_refresh", False) and not own.get("stagger", False)
        shift = int(not own.get("use_current_gradient", True)) - int(own.get("skip_first", False))
        due = partial(refreshes_due, period=own["period"], early=early)
        return 1 + due(step + shift)

    def refreshes_in(self, step: int, options: Mapping[str, Any] | None = None) -> bool:
        """Return whether step 1, 2, ... fits or refreshes a basis."""
        return self.refreshes_by(step, options) > self.refreshes_by(step - 1, options)

    def missing_extra(self, options: Mapping[str, Any] | None = None) -> str | None:
        """Return the extra of subopt that this method needs with these options and that is not installed, or None."""
        needs_low_bit = low_bit.is_asked_for(self.resolve(options))
        return low_bit.EXTRA if needs_low_bit and not low_bit.is_installed() else None

    def accepts(self, layer_type: LayerType | None) -> bool:
        """Return whether it trains the matrix of a layer of this type; others go to its fallback."""
        return not self.layers or layer_type in self.layers

    def replace(
        self, model: nn.Module, settings: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, list[tuple[str, Tensor]]]:
        """Replace, in place, the layers that hold the named weights, where the method does that.

        Args:
            model: The model.
            settings: For each weight's name the resolved options it is trained with.

        Returns:
            For each weight that is no more, its successors with their names.
        """
        del model, settings
        return {}

    def optimizer(self, groups: list[dict[str, Any]], model: nn.Module) -> Composed:
        """Return the optimizer of these parameter groups of the model."""
        del model
        return Composed(groups)

    def dense_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's state with the names and shapes it had before any layer was replaced."""
        return model.state_dict()


FALLBACKS = {"adamw": "adam", "adamw-nomom": "adam-nomom"}
FALLBACK_OPTIONS = tuple(options_of(MomentOptions))


def _state_bytes(
    shape: Sequence[int], dtype: torch.dtype, options: Mapping[str, Any], counters: bool
) -> int:
    update, own = update_for(options, shape)
    return layout_bytes(update.layout(shape, own), Dtypes.under(dtype, options), counters=counters)


ADAM = ("betas", "eps", "state_dtype")
BAD_BETAS = ({"betas": (1.0, 0.999)}, "Invalid betas")
BAD_PERIOD = ({"period": 0}, "Invalid period")


def record(name: str, summary: str, paper: str, section: str, **rest: Any) -> Method:
    """Return a record whose tests try at least the defaults, and at least refuse betas of 1."""
    rest.setdefault("error_inputs", (BAD_BETAS,))
    rest.setdefault("test_inputs", ({},))
    rest["capabilities"] = frozenset({"bf16_parameters", "closure", *rest.get("capabilities", ())})
    return Method(name=name, summary=summary, paper=paper, section=section, **rest)
