"""How long the leading subspace of each layer's gradients lasts, along a real training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subopt.optimizers import matrix_shape
from subopt.optimizers.matrices import as_matrix

from ..record.layer import SubspaceLife
from ..timing.stopwatch import Stopwatch
from .layer import FollowedLayer
from .schedule import Size, plan_within


@dataclass(frozen=True)
class SubspaceRun:
    """What a run showed.

    Attributes:
        lives: By layer, then by what the basis is of.
        stale: By layer, then by how many training steps before the end of the run: a full basis of that gradient,
            m x m, float32, on the CPU.
        missing: A line for each thing that was left out, with the reason.
    """

    lives: dict[str, dict[str, SubspaceLife]]
    stale: dict[str, dict[int, Tensor]]
    missing: list[str]


def follow_subspaces(
    model: nn.Module,
    ranks: Mapping[str, int],
    step: Callable[[], None],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    cap_bytes: int,
    watch: Stopwatch,
    on_step: Callable[[int, int], None],
) -> SubspaceRun:
    """Train for a while, and measure what bases fitted on the way keep of later gradients.

    At a few steps t a basis P of the r leading left singular vectors is fitted to G_t ("gradient"), to the optimizer's
    `exp_avg` after its step t, which is the average a method with that source decomposes ("momentum"; an average of
    the same decay is kept here where the optimizer has none), and to the average of G G^T up to G_t, of SOAP's decay
    ("covariance"). Then, as means over the fits,

        frozen[d] = ||P^T G_{t+d}||^2 / ||G_{t+d}||^2,   d = 1, 2, 5, 10, 20, ...

    `tracked` is the same for the gradient's basis moved at every step by the update of the method `osd` (its code, its
    defaults, this run's learning rate), judged on a gradient before it is moved by it: energy in the span of the
    basis, which that update leaves slightly off orthonormal. `own` and `is_noise` are of the gradients judged at
    d = 1: noise is a basis that keeps at most 3 standard deviations more than a uniformly random one would
    (`random_variance`). `period` is `supported_period` of the frozen curve.

    Args:
        model: The model, trained by this.
        ranks: The layers to follow, by parameter name, and the rank r of each.
        step: Leaves one new batch's gradients in the model.
        optimizer: Trains it; called here once after each `step()`.
        steps: Training steps, at least 2 for any curve.
        cap_bytes: Most that may be held beyond the training itself, in CPU memory: see `plan_within`.
        watch: Told what all but `step()` took, the optimizer's steps included, under "subspaces".
        on_step: Called as `on_step(done, steps)` before each step and after the last.

    Memory: at most `cap_bytes` held; transient, one layer's working set (see `FollowedLayer`).
    """
    layers: dict[str, FollowedLayer] = {}
    missing: list[str] = []
    parameters = dict(model.named_parameters(remove_duplicate=False))
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for index in range(steps):
        on_step(index, steps)
        step()
        with watch.span("subspaces"), torch.no_grad():
            optimizer.step()
            if index == 0:
                # Not earlier: the optimizer's state shows only now which layers have a momentum.
                chosen = {name: parameters[name] for name in ranks}
                plan = plan_within(_sizes(chosen, ranks, optimizer), steps, cap_bytes)
                layers = {name: FollowedLayer(size, plan.when) for name, size in plan.sizes.items()}
                missing += plan.missing
            for name, layer in layers.items():
                parameter = parameters[name]
                gradient = parameter.grad
                if gradient is not None and not gradient.is_sparse:
                    group = groups.get(id(parameter), optimizer.defaults)
                    layer.observe(
                        index, as_matrix(gradient), _momentum(parameter, optimizer), group
                    )
    on_step(steps, steps)
    lives = {name: layer.result() for name, layer in layers.items()}
    return SubspaceRun(
        lives={name: life for name, life in lives.items() if life},
        stale={name: layer.stale for name, layer in layers.items() if layer.stale},
        missing=missing,
    )


def _sizes(
    chosen: Mapping[str, Tensor], ranks: Mapping[str, int], optimizer: torch.optim.Optimizer
) -> dict[str, Size]:
    sizes = {}
    for name, parameter in chosen.items():
        m, n = matrix_shape(parameter.shape)
        sizes[name] = Size(m, n, min(ranks[name], m), _momentum(parameter, optimizer) is None)
    return sizes


def _momentum(parameter: Tensor, optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Return the optimizer's average of a parameter's gradients as a matrix, or None where it keeps none of it.

    One in other coordinates (a projected one) or in codes is of no use here.
    """
    average: object = optimizer.state.get(parameter, {}).get("exp_avg")
    # Ours keeps a convolution's as a matrix of outputs x all else.
    shapes = (tuple(parameter.shape), matrix_shape(parameter.shape, short_first=False))
    if type(average) is not Tensor or tuple(average.shape) not in shapes:
        return None
    return as_matrix(average) if average.is_floating_point() else None
