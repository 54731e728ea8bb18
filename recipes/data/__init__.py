"""Training data from files: text, JSON Lines, Parquet, and Hugging Face data sets."""

from .batches import open_files
from .source import with_files

__all__ = ["open_files", "with_files"]
