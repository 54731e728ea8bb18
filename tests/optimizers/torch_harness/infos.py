"""Every bundled method, described the way PyTorch's own optimizer tests describe an optimizer.

A record of the method table is all there is to a description: a new record is tested without another line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
)

from subopt.errors import OptionError
from subopt.optimizers import Composed
from subopt.optimizers.methods.method import Method
from subopt.optimizers.state import low_bit

from .catalogue import DRIVEN, identifier
from .problems import SHAPES

# What PyTorch's optimizers may have several of, and the two flags that go with them.
IMPLEMENTATIONS = ("foreach", "fused", "differentiable")
FLAGS = (*IMPLEMENTATIONS, "capturable")


def constructor(method: Method) -> Callable[..., Composed]:
    """Return what stands for the method's optimizer class: it is called with parameters and options."""

    def construct(
        params: Any,
        *,
        lr: Any = 1e-3,
        weight_decay: Any = 0.0,
        maximize: Any = False,
        **options: Any,
    ) -> Composed:
        common = {"lr": lr, "weight_decay": weight_decay, "maximize": maximize}
        return Composed(params, **common, **method.resolve(options))

    construct.__name__ = identifier(method.name)
    return construct


def _inputs(method: Method) -> Callable[..., list[OptimizerInput]]:
    def settings() -> Iterator[tuple[str, dict[str, Any]]]:
        yield "default", {}
        yield "non-default lr", {"lr": 0.01}
        yield "tensor lr", {"lr": torch.tensor(0.001)}
        yield "weight decay", {"weight_decay": 0.1}
        yield "maximize", {"maximize": True}
        yield "weight decay and maximize", {"weight_decay": 0.1, "maximize": True}
        if "betas" in method.tunable:
            yield "other betas", {"betas": [0.8, 0.9]}
        yield from ((str(options), dict(options)) for options in method.test_inputs if options)

    def inputs(device: Any, dtype: Any = None) -> list[OptimizerInput]:
        return [OptimizerInput(None, kwargs, desc) for desc, kwargs in settings()]

    return inputs


def _error_inputs(method: Method) -> Callable[..., list[ErrorOptimizerInput]]:
    refused = [
        ({"lr": -1.0}, "Invalid lr"),
        ({"lr": "fast"}, "Invalid lr"),
        ({"weight_decay": -1.0}, "Invalid weight_decay"),
        ({"maximize": 1}, "Invalid maximize"),
        *(
            ({flag: True}, f"no option '{flag}'")
            for flag in FLAGS
            if flag not in method.capabilities
        ),
        *method.error_inputs,
    ]

    def error_inputs(device: Any, dtype: Any) -> list[ErrorOptimizerInput]:
        complex_weight = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.complex64, device=device))
        sparse_weight = torch.nn.Parameter(torch.ones(2, 3, device=device, dtype=dtype))
        sparse_weight.grad = torch.ones(2, 3, device=device, dtype=dtype).to_sparse()
        return [
            *get_error_inputs_for_all_optims(device, dtype),
            *(
                ErrorOptimizerInput(
                    OptimizerInput(None, dict(kwargs), f"refused: {kwargs}"),
                    error_type=OptionError,
                    error_regex=pattern,
                )
                for kwargs, pattern in refused
            ),
            ErrorOptimizerInput(
                OptimizerInput([complex_weight], {}, "complex parameter"),
                error_regex="complex parameters are not supported",
            ),
            ErrorOptimizerInput(
                OptimizerInput([sparse_weight], {}, "sparse gradient"),
                error_on=OptimizerErrorEnum.STEP_ERROR,
                error_regex="sparse gradients are not supported",
            ),
        ]

    return error_inputs


SCHEDULERS = (
    [lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5)],
    [lambda o: lr_scheduler.MultiStepLR(o, milestones=[1, 3])],
    [lambda o: lr_scheduler.ConstantLR(o, factor=0.4, total_iters=2)],
    [lambda o: lr_scheduler.LinearLR(o, start_factor=0.4, total_iters=3)],
    [lambda o: lr_scheduler.PolynomialLR(o, power=0.9, total_iters=3)],
    [lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=4)],
    [lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2)],
    [lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step)],
    [lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9)],
    # These two also drive the first of the betas.
    [lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.01, total_steps=8)],
    [lambda o: lr_scheduler.CyclicLR(o, base_lr=1e-4, max_lr=0.01, step_size_up=2)],
    [lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=10.0)],
    [lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=2)],
    [
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.ConstantLR(o, factor=0.1), lr_scheduler.ExponentialLR(o, gamma=0.9)],
            milestones=[2],
        )
    ],
    [
        lambda o: lr_scheduler.ChainedScheduler([
            lr_scheduler.ConstantLR(o, factor=0.1, total_iters=2),
            lr_scheduler.ExponentialLR(o, gamma=0.9),
        ])
    ],
    [
        lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=10.0),
    ],
)


def info(method: Method) -> OptimizerInfo:
    """Return a method's description; what it can do is read from its record's capabilities."""
    able = method.capabilities
    return OptimizerInfo(
        constructor(method),
        optim_inputs_func=_inputs(method),
        optim_error_inputs_func=_error_inputs(method),
        scheduler_inputs=SCHEDULERS,
        supported_impls=tuple(flag for flag in IMPLEMENTATIONS if flag in able),
        not_og_supported_flags=(),
        has_capturable_arg="capturable" in able,
        supports_sparse="sparse" in able,
        supports_complex="complex" in able,
        step_requires_closure="needs_closure" in able,
    )


INFOS = [info(method) for method in DRIVEN.values()]
BY_IDENTIFIER = {identifier(name): method for name, method in DRIVEN.items()}


def inputs(optim_info: OptimizerInfo, device: Any) -> list[OptimizerInput]:
    """Return the settings to try an optimizer with."""
    return optim_info.optim_inputs_func(device=device)


def is_low_bit(optim_info: OptimizerInfo) -> bool:
    """Return whether the method keeps its moments in 8-bit blocks."""
    fixed = BY_IDENTIFIER[optim_info.name].fixed
    return fixed.get("state_dtype") == low_bit.STATE_DTYPE


def shapes(optim_info: OptimizerInfo) -> tuple[tuple[int, ...], ...]:
    """Return shapes of a matrix and a vector; one of a matrix whose moments are large enough for 8-bit blocks."""
    return ((64, 256), (5,)) if is_low_bit(optim_info) else SHAPES


def smooth(optim_info: OptimizerInfo) -> dict[str, float]:
    """Return an eps above rounding noise, where it can be chosen: for runs that may round differently.

    A full basis fitted to the gradient it projects makes most of the projection zero but for rounding, and
    Adam with a small eps makes whole steps of that.
    """
    tunable = BY_IDENTIFIER[optim_info.name].tunable
    return {"eps": 1e-2} if "eps" in tunable else {}
