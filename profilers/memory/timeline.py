"""Every storage of a forward and backward pass in the order in which they came and went.

A change to the training step, such as computing the loss in pieces, leaves the order and makes some storages smaller.
Going through the timeline with the changed sizes gives the highest instant after the change, which may be another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from subopt.optimizers.state.storage_tracker import Stored

from ..record.base import Phase
from .module_scopes import PassScopes, module_of

# Owner of the batch's own tensors; no module has such a name.
BATCH = "(batch)"

Weigh = Callable[[Stored], float]


class Timeline:
    """The storages of one forward and backward pass.

    Attributes:
        events: (+1 or -1, storage) in order; parameters and batch come first.
        backward_start: Index of the first event of the backward pass.
        passes: What ran in the forward pass.
        batch_size: Examples in the batch, by the first dimension of its first tensor.
        blocks: Names of the modules that repeat one after another, such as a transformer's layers; empty if none do.
        parameter_sizes: The bytes that single parameters have.
        float32_products: Names of the linear and convolution layers with float32 weights.
        product_weight_bytes: Their weights.
        piece_bytes: What computing the loss in pieces needs beside them: gradients by the head's weight, of one
            piece, and by its whole input.
    """

    def __init__(
        self,
        model: nn.Module,
        events: Sequence[tuple[int, Stored]],
        backward_start: int,
        passes: PassScopes,
        batch: Any,
    ) -> None:
        self.events, self.backward_start, self.passes = events, backward_start, passes
        tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
        self.batch_size = tensors[0].shape[0] if tensors else 1
        self.blocks = _repeated_blocks(model)
        self.parameter_sizes = {p.numel() * p.element_size() for p in model.parameters()}
        products = {
            name: module.weight.nbytes
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, _ConvNd)) and module.weight.dtype == torch.float32
        }
        self.float32_products = frozenset(products)
        self.product_weight_bytes = sum(products.values())
        self.piece_bytes = _beside_pieces(model, passes)
        self._blocks_by_name: dict[str, int | None] = {}

    @property
    def has_float32_products(self) -> bool:
        """Whether there are products that autocast would compute in a shorter format."""
        made = {s.scope for _, s in self.events[: self.backward_start] if s.element_bytes == 4}
        return not made.isdisjoint(self.float32_products)

    def is_logits(self, stored: Stored) -> bool:
        """Whether a storage is the head's output, or one as large that the loss or its gradient is made of."""
        if stored.category not in {"activation", "temporary"} or self.is_new_gradient(stored):
            return False
        is_there = stored.scope == self.passes.head or self.passes.is_loss(stored.scope)
        # as large: in a format of half the width, or without the last position
        return is_there and 2.3 * stored.bytes >= self.passes.head_output_bytes > 0

    def is_new_gradient(self, stored: Stored) -> bool:
        """Whether a storage is probably a parameter's gradient on its way: made in the backward pass, of its size."""
        return stored.category == "temporary" and stored.bytes in self.parameter_sizes

    def block_of(self, name: str) -> int | None:
        """Return which of the blocks a module is in, by its name; None for one outside."""
        if name not in self._blocks_by_name:
            inside = (
                index
                for index, block in enumerate(self.blocks)
                if name == block or name.startswith(block + ".")
            )
            self._blocks_by_name[name] = next(inside, None)
        return self._blocks_by_name[name]

    def block_of_made(self, stored: Stored) -> int | None:
        """Return the block that made an activation or temporary; None for gradients and what is made elsewhere."""
        if stored.category not in {"activation", "temporary"} or self.is_new_gradient(stored):
            return None
        return self.block_of(module_of(stored.scope))

    def highest(self, phase: Phase) -> Counter[Stored]:
        """Return what is alive at the highest instant of the forward or the backward pass: how many of each."""
        alive: Counter[Stored] = Counter()
        total = most = 0
        best: Counter[Stored] | None = None
        is_higher = False
        for index, (sign, stored) in enumerate(self.events):
            if phase == "backward" and index == self.backward_start:
                most, is_higher = total, True  # what the forward pass has left
            if is_higher and sign < 0:
                best, is_higher = +alive, False  # a copy only where the total begins to fall
            alive[stored] += sign
            total += sign * stored.bytes
            is_in = (index >= self.backward_start) == (phase == "backward")
            if is_in and total > most:
                most, is_higher = total, True
            if phase == "forward" and index + 1 == self.backward_start:
                break
        return +alive if is_higher or best is None else best

    def peak_bytes(self, weigh: Weigh) -> int:
        """Return the highest total of both passes if every storage took `weigh(storage)` times its bytes."""
        weights: dict[Stored, float] = {}
        total = most = 0.0
        for sign, stored in self.events:
            if stored not in weights:
                weights[stored] = weigh(stored) * stored.bytes
            total += sign * weights[stored]
            most = max(most, total)
        return round(most)


def _beside_pieces(model: nn.Module, passes: PassScopes) -> int:
    weight = getattr(model.get_submodule(passes.head), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return 0
    return weight.nbytes + passes.head_output_bytes * weight[0].numel() // weight.shape[0]


def _repeated_blocks(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the children of the list of modules with the most parameters, if they are of one type."""
    best: tuple[str, ...] = ()
    most = 0
    for name, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        children = list(module.named_children())
        if len(children) < 2 or len({type(child) for _, child in children}) > 1:
            continue
        size = sum(p.numel() for p in module.parameters())
        has_parts = any(True for _ in children[0][1].children())
        if has_parts and size > most:
            most = size
            best = tuple(f"{name}.{child}" if name else child for child, _ in children)
    return best
