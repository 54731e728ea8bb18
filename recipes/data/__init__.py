"""Training data from files: text, JSON Lines, Parquet, and Hugging Face data sets."""

from .source import with_files

__all__ = ["with_files"]
