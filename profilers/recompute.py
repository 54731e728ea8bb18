"""The name under which exported scripts import recomputation."""

from .target.activation_checkpointing import recompute_blocks

__all__ = ["recompute_blocks"]
