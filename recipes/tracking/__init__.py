"""A run's scalars for TensorBoard, Weights & Biases and trackio."""
