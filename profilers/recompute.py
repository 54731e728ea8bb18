"""The name under which scripts exported by earlier versions import recomputation."""

from .target.activation_checkpointing import recompute_blocks

__all__ = ["recompute_blocks"]
