"""The LLaMA shapes of the papers' language-model experiments: memory tables from shapes alone, no weights needed.

A decoder block holds seven linear matrices (query, key, value, output; gate, up, down) and two norms. Embedding and
head have a vocabulary of 32000 and are not tied. The matrices get the method; embedding, head and
norms go to its fallback, as `subopt.optimizers.parameter_roles` decides for a live model.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from subopt.errors import UsageError, suggestion

VOCABULARY = 32_000

# hidden width, feed-forward width, layers. The first four follow from the printed digits of Nguyen et al. 2025,
# table 4; the last is LLaMA 7B.
LLAMA_SIZES: dict[str, tuple[int, int, int]] = {
    "60m": (512, 1376, 8),
    "130m": (768, 2048, 12),
    "350m": (1024, 2736, 24),
    "1b": (2048, 5461, 24),
    "7b": (4096, 11008, 32),
}


class WeightShape(NamedTuple):
    """One parameter, as far as costs depend on it."""

    name: str
    shape: tuple[int, ...]
    role: Literal["matrix", "fallback", "frozen"]
    dtype: torch.dtype = torch.float32
    layer_type: Literal["linear", "conv"] | None = "linear"

    @property
    def elements(self) -> int:
        """Number of entries."""
        return torch.Size(self.shape).numel()


def llama_shapes(size: str, dtype: torch.dtype = torch.float32) -> list[WeightShape]:
    """Return every parameter of a LLaMA model of the named size.

    Args:
        size: `60m`, `130m`, `350m`, `1b` or `7b`, with or without a leading `llama-`, in either case.
        dtype: The parameters' dtype.

    Returns:
        Name, shape and role of each parameter, in the order of the forward pass.

    Raises:
        UsageError: The size is not one of these.
    """
    key = size.lower().removeprefix("llama-")
    if key not in LLAMA_SIZES:
        raise UsageError(
            f"there is no architecture '{size}'{suggestion(key, LLAMA_SIZES)}",
            "known: " + ", ".join(f"llama-{name}" for name in LLAMA_SIZES),
        )
    hidden, intermediate, layers = LLAMA_SIZES[key]
    embedding = WeightShape("embed_tokens.weight", (VOCABULARY, hidden), "fallback", dtype)
    head = WeightShape("lm_head.weight", (VOCABULARY, hidden), "fallback", dtype)
    norm = WeightShape("norm.weight", (hidden,), "fallback", dtype)
    blocks = [
        weight
        for layer in range(layers)
        for weight in _block(f"layers.{layer}.", hidden, intermediate, dtype)
    ]
    return [embedding, *blocks, norm, head]


def _block(prefix: str, hidden: int, intermediate: int, dtype: torch.dtype) -> list[WeightShape]:
    matrices = {f"self_attn.{letter}_proj.weight": (hidden, hidden) for letter in "qkvo"}
    matrices["mlp.gate_proj.weight"] = (intermediate, hidden)
    matrices["mlp.up_proj.weight"] = (intermediate, hidden)
    matrices["mlp.down_proj.weight"] = (hidden, intermediate)
    norms = ("input_layernorm.weight", "post_attention_layernorm.weight")
    return [
        *(WeightShape(prefix + name, shape, "matrix", dtype) for name, shape in matrices.items()),
        *(WeightShape(prefix + name, (hidden,), "fallback", dtype) for name in norms),
    ]
