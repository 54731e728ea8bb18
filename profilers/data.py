"""The name under which exported scripts import batches."""

from .target.batches import BatchStream

__all__ = ["BatchStream"]
