"""Whether a training step fits a memory budget, what would make it fit, and how long it takes."""
