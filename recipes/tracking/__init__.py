"""A run's scalars for TensorBoard, Weights & Biases and trackio: `listener` hands them over, `trackers` lists them."""
