"""Hand-built profiles of a LLaMA: its costs from the method table, its peaks from parts that are known by hand."""

from __future__ import annotations

from subopt.profilers.costs.architectures import llama_shapes
from subopt.profilers.costs.formula import method_costs
from subopt.profilers.record.profile import (
    BatchPoint,
    Environment,
    Layer,
    Memory,
    Peak,
    PhasePeaks,
    Profile,
    Settings,
    Target,
)

MIB, GIB = 2**20, 2**30
SHAPES = llama_shapes("60m")
ENVIRONMENT = Environment(
    subopt="0", torch="2", python="3", platform="Linux", device="cpu", threads=2
)


def weight_bytes(shapes):
    return sum(shape.elements * 4 for shape in shapes)


WEIGHTS = weight_bytes(SHAPES)


def layers(shapes):
    return [
        Layer(
            name=shape.name,
            shape=list(shape.shape),
            kind="Embedding" if "embed" in shape.name else "Linear",
            role=shape.role,
            reason="",
        )
        for shape in shapes
    ]


def peak_of(cost, weights, activation_bytes, *, source="simulated", margin=0.0):
    """A method's peak in the two passes and the step; `margin` is its error on either side."""
    held = weights + cost.state_bytes
    phases = {
        "forward": held + activation_bytes,
        "backward": held + weights + activation_bytes,
        "step": held + weights + cost.transient_bytes,
    }
    phase = max(phases, key=phases.get)
    top = phases[phase]
    return Peak(
        bytes=top,
        low_bytes=top - int(margin * top),
        high_bytes=top + int(margin * top),
        phase=phase,
        by_phase=PhasePeaks(**phases),
        source=source,
    )


def point(size, *, example_bytes, recomputed):
    """The passes at a batch size; blocks computed again leave a tenth of the activations."""
    activations = size * example_bytes // (10 if recomputed else 1)
    return BatchPoint(
        batch_size=size,
        recomputed=recomputed,
        forward_bytes=activations,
        backward_bytes=activations + WEIGHTS,
        without_gradients_bytes=activations,
        update_bytes=activations // 4,
        retained_bytes=0,
    )


def known_passes(methods, *, example_bytes, sizes, sizes_recomputed, **changes):
    """A LLaMA of 60M parameters at batch size 8 whose passes were followed at these sizes."""

    def points(followed, recomputed):
        return [
            point(size, example_bytes=example_bytes, recomputed=recomputed) for size in followed
        ]

    def finished(cost):
        return cost.model_copy(update={"peak": peak_of(cost, WEIGHTS, 8 * example_bytes)})

    return Profile(
        target=Target(spec="model.py", picked="function build_model", sha256="ab" * 32),
        environment=ENVIRONMENT,
        settings=Settings(batch_size=8, batches=1, tokens_per_batch=131_072),
        layers=layers(SHAPES),
        memory=Memory(
            parameter_bytes=WEIGHTS,
            gradient_bytes=WEIGHTS,
            activation_bytes=8 * example_bytes,
            optimizer_state_bytes=0,
            source="simulated",
            by_batch=[*points(sizes, recomputed=False), *points(sizes_recomputed, recomputed=True)],
        ),
        methods=[finished(cost) for cost in method_costs(SHAPES, methods)],
        **changes,
    )
