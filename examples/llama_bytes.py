"""A LLaMA-style decoder that learns the bytes of the Python standard library's own source.

Real data that is on every machine with Python: no download, no tokeniser, a vocabulary of 256.

    subopt profile examples/llama_bytes.py
    subopt profile examples/llama_bytes.py size=60m vocabulary=32000 --simulate

The block is the one the memory-efficient-optimizer papers train: RMSNorm before attention and
before the feed-forward part, rotary positions, SwiGLU, an output head that is not tied to the
embedding, no biases, and seven separate matrices per block (q, k, v, o, gate, up, down).
The corpus follows the Python version it runs under, so losses compare within one version only.
"""

import functools
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTEXT = 256  # bytes that a batch lets the model see, as in the papers
BYTE_VALUES = 256
EVAL_WINDOWS = 256  # 65,536 predicted bytes
HELD_OUT_EVERY = 10  # every tenth file is never trained on
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class Size(NamedTuple):
    """Widths of one model: hidden and intermediate in features, then heads and layers."""

    hidden: int
    intermediate: int
    heads: int
    layers: int


# All but `tiny` are the pre-training sizes of the GaLore and AdaDiag papers.
SIZES = {
    "tiny": Size(192, 512, 6, 4),
    "60m": Size(512, 1376, 8, 8),
    "130m": Size(768, 2048, 12, 12),
    "350m": Size(1024, 2736, 16, 24),
    "1b": Size(2048, 5461, 32, 24),
}


def rotary_table(length: int, head_width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each of shape (length, head_width / 2).

    Made anew in each forward pass, in float32: a cached table would be rounded by `.to(bfloat16)`
    and would have to be stored in checkpoints or rebuilt after loading.
    """
    exponents = torch.arange(0, head_width, 2, device=like.device, dtype=torch.float32) / head_width
    positions = torch.arange(length, device=like.device, dtype=torch.float32)
    angles = torch.outer(positions, 10_000.0**-exponents)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn feature pairs (i, i + half) of x, shape (batch, heads, length, head_width)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.q_proj = nn.Linear(size.hidden, size.hidden, bias=False)
        self.k_proj = nn.Linear(size.hidden, size.hidden, bias=False)
        self.v_proj = nn.Linear(size.hidden, size.hidden, bias=False)
        self.o_proj = nn.Linear(size.hidden, size.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Mix positions of x, shape (batch, length, hidden)."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True
        )
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.up_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.down_proj = nn.Linear(size.intermediate, size.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix features of x, shape (batch, length, hidden)."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class Block(nn.Module):
    """One decoder layer: attention, then the feed-forward part, each added to its input."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(size.hidden, eps=1e-6)
        self.attention = Attention(size)
        self.feed_forward_norm = nn.RMSNorm(size.hidden, eps=1e-6)
        self.feed_forward = FeedForward(size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Refine x, shape (batch, length, hidden)."""
        x = x + self.attention(self.attention_norm(x), cos, sin)
        output: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return output


class Llama(nn.Module):
    """The decoder: tokens (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, size: Size, context: int, vocabulary: int) -> None:
        super().__init__()
        self.context = context
        self.head_width = size.hidden // size.heads
        self.embed_tokens = nn.Embedding(vocabulary, size.hidden)
        self.layers = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.hidden, eps=1e-6)
        self.lm_head = nn.Linear(size.hidden, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)  # LLaMA's

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the successor of every token of int64 `tokens`."""
        x = self.embed_tokens(tokens)
        cos, sin = rotary_table(tokens.shape[1], self.head_width, like=x)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


def build_model(size: str = "tiny", context: int = CONTEXT, vocabulary: int = BYTE_VALUES) -> Llama:
    """Build the decoder with fresh weights.

    Args:
        size: `tiny` (1.9M parameters), or the papers' `60m`, `130m`, `350m`, `1b`.
        context: Bytes the model sees at once, at most 256, the length of the batches.
        vocabulary: Rows of the embedding and the head: 256 for bytes, 32000 in the papers.

    Raises:
        ValueError: An unknown size, or a context or vocabulary that the data does not fit.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}")
    if not 1 <= context <= CONTEXT:
        raise ValueError(f"context must be between 1 and {CONTEXT}, got {context}")
    if vocabulary < BYTE_VALUES:
        raise ValueError(f"vocabulary must hold all {BYTE_VALUES} byte values, got {vocabulary}")
    return Llama(SIZES[size], context, vocabulary)


def loss(model: Llama, batch: Tensor | dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the next byte, in nats. A shorter context sees the batch's start.

    Batches of `data.files` are dicts, in which the labels are the same tokens.
    """
    tokens = batch["input_ids"] if isinstance(batch, dict) else batch
    window = tokens[:, : model.context + 1]
    logits = model(window[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), window[:, 1:].flatten())


@functools.cache
def corpus_files() -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """List the standard library's source files for training and, apart, those held out.

    Raises:
        FileNotFoundError: This Python ships without its library's source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        path
        for path in root.rglob("*.py")
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts)
        and not path.name.startswith("_sysconfigdata")  # how this machine was built, not source
    )
    if len(files) < HELD_OUT_EVERY:
        raise FileNotFoundError(f"no Python source found under {root}: nothing to train on")
    training = tuple(path for i, path in enumerate(files) if i % HELD_OUT_EVERY)
    return training, tuple(files[::HELD_OUT_EVERY])


@functools.cache
def corpus(held_out: bool) -> np.ndarray:
    """All bytes of the training files, or of the held-out ones, as one uint8 vector."""
    files = corpus_files()[int(held_out)]
    return np.frombuffer(b"".join(path.read_bytes() for path in files), dtype=np.uint8)


def windows(text: np.ndarray, starts: np.ndarray) -> Tensor:
    """Cut windows of CONTEXT + 1 bytes, int64, shape (len(starts), CONTEXT + 1)."""
    return torch.from_numpy(text[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int64))


class RandomWindows:
    """Endless training batches that can be saved and continued.

    Batch k depends on the seed and k alone, so the state is two integers.
    """

    def __init__(self, batch_size: int, seed: int) -> None:
        self.text = corpus(held_out=False)
        self.batch_size = batch_size
        self.seed = seed
        self.position = 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        generator = np.random.default_rng((self.seed, self.position))
        starts = generator.integers(0, len(self.text) - CONTEXT, self.batch_size)
        self.position += 1
        return windows(self.text, starts)

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs to continue with the next batch."""
        return {"seed": self.seed, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken."""
        self.seed, self.position = int(state["seed"]), int(state["position"])


def batches(batch_size: int) -> RandomWindows:
    """Random windows of the training files; the order follows torch's seed at the time of the call.

    Returns:
        Endless batches, int64, shape (batch_size, 257).
    """
    return RandomWindows(batch_size, seed=int(torch.randint(2**31, ()).item()))


def eval_batches(batch_size: int) -> Iterator[Tensor]:
    """256 windows spread evenly over the held-out files, the same at every call.

    Yields:
        int64, shape (batch_size, 257); the last one may be smaller.
    """
    text = corpus(held_out=True)
    starts = np.linspace(0, len(text) - CONTEXT - 1, EVAL_WINDOWS).astype(np.int64)
    for first in range(0, EVAL_WINDOWS, batch_size):
        yield windows(text, starts[first : first + batch_size])
