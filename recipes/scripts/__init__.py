"""A recipe as a training script: `write` puts it together from `bodies`."""
