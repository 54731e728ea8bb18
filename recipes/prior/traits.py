"""What a model and its run are in the terms that a prior knows: kind, size, width, depth, batch, length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from torch import nn

from subopt.optimizers import parameter_roles
from subopt.profilers.record.profile import Profile

from ..schedule import DEFAULT_STEPS

Kind: TypeAlias = Literal["language", "vision"]
Measure: TypeAlias = Literal["perplexity", "loss"]

CONV_DIMENSIONS = 4  # out, in, height, width


@dataclass(frozen=True)
class Traits:
    """A model and its run.

    Attributes:
        kind: `vision` for a model with 2-d convolutions, `language` for another with an embedding, else None.
        parameters: Trained parameters, shared ones once.
        width: Geometric mean of the trained matrices' fan-in, by their size: exp(sum s log f / sum s), with s the
            elements of a matrix and f its inputs (in * kernel of a convolution). Of all parameters of two dimensions
            and more where there are no matrices, and 1 where there is nothing. The good rate of Adam goes by it.
        depth: Trained matrices, one behind the other or not.
        tokens_per_step: Tokens of an optimizer step; None where the data is not counted in tokens.
        steps: Optimizer steps of the run.
        fine_tunes: Whether the weights come from an earlier training.
    """

    kind: Kind | None
    parameters: int
    width: float
    depth: int
    tokens_per_step: int | None
    steps: int = DEFAULT_STEPS
    fine_tunes: bool = False

    @property
    def measure(self) -> Measure:
        """What a gain is a share of: the perplexity of a language model, the loss of another."""
        return "perplexity" if self.kind == "language" else "loss"


class _Parameter(Protocol):
    """What a profile's layer and a model's parameter both say."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def role(self) -> str: ...


def traits_of_profile(
    profile: Profile,
    *,
    examples_per_step: int | None = None,
    steps: int = DEFAULT_STEPS,
    fine_tunes: bool | None = None,
) -> Traits:
    """Return the traits of a profiled model and a run of it.

    Args:
        profile: The profile. Where nobody said, a model that loads its weights is fine-tuned.
        examples_per_step: Examples of an optimizer step; by default the profile's batch.
        steps: Optimizer steps of the run.
        fine_tunes: Whether it is fine-tuning; None where nobody said.
    """
    examples = profile.settings.batch_size if examples_per_step is None else examples_per_step
    return Traits(
        kind=model_kind(profile),
        parameters=trainable_parameters(profile),
        width=_width(profile.layers),
        depth=_depth(profile.layers),
        tokens_per_step=tokens_per_step(profile, examples),
        steps=steps,
        fine_tunes=profile.target.loads_weights if fine_tunes is None else fine_tunes,
    )


def traits_of_model(
    model: nn.Module,
    *,
    tokens_per_step: int | None = None,
    steps: int = DEFAULT_STEPS,
    fine_tunes: bool = False,
) -> Traits:
    """Return the traits of a built model and a run of it, the same that its profile would give."""
    found = parameter_roles(model)
    embeds = any(isinstance(module, nn.Embedding) for module in model.modules())
    trained = [item for item in found if item.role != "frozen"]
    return Traits(
        kind=_kind(embeds, [item.shape for item in found]),
        parameters=sum(math.prod(item.shape) for item in trained),
        width=_width(found),
        depth=_depth(found),
        tokens_per_step=tokens_per_step,
        steps=steps,
        fine_tunes=fine_tunes,
    )


def model_kind(profile: Profile) -> Kind | None:
    """Return `vision` for a model with 2-d convolutions, `language` for another with an embedding, else None."""
    embeds = any(layer.module_type == "Embedding" for layer in profile.layers)
    return _kind(embeds, [layer.shape for layer in profile.layers])


def measure_of(profile: Profile) -> Measure:
    """Return what a gain is a share of: the perplexity of a language model, the loss of another."""
    return "perplexity" if model_kind(profile) == "language" else "loss"


def tokens_per_step(profile: Profile, examples: int) -> int | None:
    """Return the tokens of so many examples, from the profile's own batches; None where it did not count."""
    tokens = profile.settings.tokens_per_batch
    return None if tokens is None else round(tokens * examples / profile.settings.batch_size)


def trainable_parameters(profile: Profile) -> int:
    """Return the number of trained parameters, shared ones once."""
    return sum(math.prod(layer.shape) for layer in profile.layers if layer.role != "frozen")


def _kind(embeds: bool, shapes: Iterable[Sequence[int]]) -> Kind | None:
    if any(len(shape) == CONV_DIMENSIONS for shape in shapes):
        return "vision"  # an embedding beside them is often one of positions
    return "language" if embeds else None


def _depth(found: Iterable[_Parameter]) -> int:
    return sum(item.role == "matrix" for item in found)


def _width(found: Iterable[_Parameter]) -> float:
    trained = [item for item in found if item.role != "frozen" and len(item.shape) > 1]
    matrices = [item for item in trained if item.role == "matrix"] or trained
    sizes = [(math.prod(item.shape), math.prod(item.shape[1:])) for item in matrices]
    total = sum(size for size, _ in sizes)
    if not total:
        return 1.0
    return math.exp(sum(size * math.log(fan_in) for size, fan_in in sizes if size) / total)
