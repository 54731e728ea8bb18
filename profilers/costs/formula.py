"""What every method costs on a model, from its shapes: exact state bytes, temporaries, FLOPs.

The numbers are sums of what each `Method` of the table says about one parameter; nothing about a method is known
here. FLOPs are per optimizer step beyond the model's own forward and backward pass, which take 6 B m n for a linear
layer of shape m x n and B tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from subopt.optimizers import METHODS, Method, get_method

from ..record.profile import MethodCost
from .architectures import WeightShape

# Notes that belong beside a row when the table is compared with the published one (Nguyen et al. 2025, table 4).
PUBLISHED_TABLE_REMARKS = {
    "galore": (
        "from its formula mr + 2nr at r = m/4; the row printed in the paper does not follow from that formula"
    )
}


def weights_of(parameter_roles: Iterable[Any]) -> list[WeightShape]:
    """Return the shapes behind `subopt.optimizers.parameter_roles(model)`."""
    return [
        WeightShape(item.name, tuple(item.shape), item.role, item.parameter.dtype, item.layer_type)
        for item in parameter_roles
    ]


def state_bytes(
    weights: Iterable[WeightShape],
    method: Method,
    options: Mapping[str, Any] | None = None,
    *,
    as_published: bool = False,
) -> int:
    """Return the bytes a method keeps between two steps for all the weights: equal to the real optimizer's.

    Args:
        weights: The parameters; frozen ones cost nothing.
        method: The method's record.
        options: Options that differ from the method's defaults.
        as_published: Count as the papers do: every number in the parameters' dtype where the options name no other,
            and no step counters.
    """
    options = options or {}
    as_numbers = as_published and method.resolve(options).get("state_dtype") is None
    total = 0
    for weight in weights:
        if weight.role == "frozen":
            continue
        count = method.state_bytes if _is_treated(weight, method) else method.fallback_state_bytes
        if as_numbers:
            # Under float64 every number of the state has the same size, which turns bytes into a count of numbers.
            numbers = count(weight.shape, torch.float64, options, counters=False) // 8
            total += numbers * weight.dtype.itemsize
        else:
            total += count(weight.shape, weight.dtype, options, counters=not as_published)
    return total


def unusable(method: Method, weights: Iterable[WeightShape]) -> str | None:
    """Return why a method cannot train these weights here, in a few words, or None where it can."""
    extra = method.missing_extra()
    if extra is not None:
        return f"not installed, pip install 'subopt[{extra}]'"
    if method.layers and not any(_is_treated(weight, method) for weight in weights):
        return "the model has no plain torch layer that it could replace"
    return None


def weight_bytes_saved(
    weights: Iterable[WeightShape], method: Method, options: Mapping[str, Any] | None = None
) -> int:
    """Return how many bytes less the weights take than in the model as it was given; negative if they take more."""
    return sum(
        weight.elements * weight.dtype.itemsize
        - method.weight_bytes(weight.shape, weight.dtype, options)
        for weight in weights
        if _is_treated(weight, method)
    )


def _is_treated(weight: WeightShape, method: Method) -> bool:
    """Whether the method itself trains it."""
    return weight.role == "matrix" and method.accepts(weight.layer_type)


def forward_backward_flops(
    weights: Iterable[WeightShape], tokens: int, positions: Mapping[str, int] | None = None
) -> float:
    """Return 6 B m n summed over the matrices, for B tokens: the yardstick of the relative overhead.

    Attention scores, embedding and head are left out, so a share of it is an upper bound of the share of the whole
    step.

    Args:
        weights: The parameters.
        tokens: B where nothing better is known; for a convolution it should be output pixels, not examples.
        positions: B of single parameters, by name, where it is known.
    """
    positions = positions or {}
    return sum(
        6.0 * positions.get(weight.name, tokens) * weight.elements
        for weight in weights
        if weight.role == "matrix"
    )


def method_cost(
    weights: Sequence[WeightShape],
    method: Method,
    options: Mapping[str, Any] | None = None,
    *,
    tokens: int | None = None,
    as_published: bool = False,
) -> MethodCost:
    """Return one row of the method table, see `method_costs`, with the method's defaults but for these options.

    Without `tokens` there is no relative overhead.
    """
    options = options or {}
    trained = [weight for weight in weights if weight.role != "frozen"]
    treated = [weight for weight in trained if _is_treated(weight, method)]
    others = [weight for weight in trained if not _is_treated(weight, method)]
    temporaries = [
        *(method.transient_bytes(w.shape, w.dtype, options) for w in treated),
        *(method.fallback_transient_bytes(w.shape, w.dtype, options) for w in others),
    ]
    cost = MethodCost(
        method=method.name,
        options=_recorded(method, options),
        state_bytes=state_bytes(weights, method, options, as_published=as_published),
        transient_bytes=max(temporaries, default=0),
        weight_bytes_saved=weight_bytes_saved(weights, method, options),
        step_flops=sum(method.step_flops(weight.shape, options) for weight in treated),
        bound_flops=sum(method.bound_flops(weight.shape, options) for weight in treated),
    )
    return relative_to(forward_backward_flops(weights, tokens), cost) if tokens else cost


def relative_to(whole_flops: float, cost: MethodCost) -> MethodCost:
    """Return a row with its FLOPs and their bound as shares of a forward and backward pass.

    relative = step / whole,  bound_relative = bound / whole.

    Args:
        whole_flops: FLOPs of a forward and backward pass; 0, where no matrix is trained, gives no shares.
        cost: The row; one of a method that evaluates the loss itself gets no shares, for its FLOPs leave those
            evaluations out.
    """
    if not whole_flops or "needs_closure" in get_method(cost.method).capabilities:
        return cost
    shares = {
        "relative_flops": cost.step_flops / whole_flops,
        "bound_relative": cost.bound_flops / whole_flops,
    }
    return cost.model_copy(update=shares)


def method_costs(
    weights: Sequence[WeightShape],
    methods: Iterable[str] | None = None,
    wishes: Mapping[str, Any] | None = None,
    *,
    tokens: int | None = None,
    as_published: bool = False,
) -> list[MethodCost]:
    """Return the method table for a model: every method of the table, or the named ones.

    Args:
        weights: The model's parameters, from `weights_of` or `llama_shapes`.
        methods: Method ids; None means all.
        wishes: Options for the methods that have them, such as `{"rank": 128}`.
        tokens: B, the tokens of one optimizer step.
        as_published: Count state as the papers do, see `state_bytes`.

    Raises:
        OptionError: An unknown method, or a value out of range.
    """
    rows = []
    for name in METHODS if methods is None else methods:
        method = get_method(name)
        options = method.among(wishes or {})
        rows.append(method_cost(weights, method, options, tokens=tokens, as_published=as_published))
    return rows


def _recorded(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option a user may set, with its value, as the profile file holds it."""
    values = method.defaults | method.resolve(options)
    return {
        key: list(value) if isinstance(value := values[key], tuple) else value
        for key in method.tunable
    }
