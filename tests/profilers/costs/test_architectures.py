"""The LLaMA shapes: element counts worked out by hand, and the role of each parameter."""

from __future__ import annotations

import pytest
import torch

from subopt.errors import UsageError
from subopt.profilers.costs.architectures import LLAMA_SIZES, llama_shapes


@pytest.mark.parametrize("size", LLAMA_SIZES)
def test_counts_of_a_decoder(size):
    hidden, intermediate, layers = LLAMA_SIZES[size]
    weights = llama_shapes(size)
    matrices = [weight for weight in weights if weight.role == "matrix"]
    assert len(matrices) == 7 * layers
    assert sum(weight.elements for weight in matrices) == layers * (
        4 * hidden**2 + 3 * hidden * intermediate
    )
    rest = sum(weight.elements for weight in weights if weight.role == "fallback")
    assert rest == 2 * 32_000 * hidden + (2 * layers + 1) * hidden
    assert len({weight.name for weight in weights}) == len(weights)


def test_the_largest_is_llama_7b():
    assert sum(weight.elements for weight in llama_shapes("7b")) == 6_738_415_616


def test_names_are_read_as_people_write_them():
    assert llama_shapes("LLaMA-60M") == llama_shapes("60m")
    assert {weight.dtype for weight in llama_shapes("60m", torch.bfloat16)} == {torch.bfloat16}


def test_an_unknown_size_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean '350m'") as caught:
        llama_shapes("llama-3500m")
    assert "llama-7b" in caught.value.hint
