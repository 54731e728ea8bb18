"""LLaMA from transformers, from a config alone: for following large models under fake tensors.

    subopt profile benchmarks/models/llama_hf.py size=7b --simulate --batch-size 1

Random weights; needs `transformers`. Sizes as published with Llama 2 (Touvron et al. 2023), attention by torch's own
scaled dot product.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

# hidden, intermediate, layers, heads, key-value heads
SIZES = {
    "tiny": (64, 172, 2, 4, 4),
    "1b": (2048, 5461, 24, 32, 32),
    "7b": (4096, 11008, 32, 32, 32),
    "70b": (8192, 28672, 80, 64, 8),
}
VOCABULARY = 32000


def build_model(size: str = "7b", vocabulary: int = VOCABULARY) -> nn.Module:
    """A causal language model with an untied head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, intermediate, layers, heads, kv_heads = SIZES[size]
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=4096,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )


def batches(batch_size: int, length: int = 2048, vocabulary: int = VOCABULARY) -> Iterator[Tensor]:
    """Made-up token numbers."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(vocabulary, (batch_size, length), generator=generator)


def loss(model: Any, tokens: Tensor) -> Tensor:
    """Next-token cross-entropy, as transformers computes it."""
    result: Tensor = model(input_ids=tokens, labels=tokens).loss
    return result
