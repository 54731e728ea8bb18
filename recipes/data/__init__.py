"""Training data from files: text, JSON Lines, Parquet, and Hugging Face data sets."""
