"""The user's model and data.

load, builder, arguments, user_code   find the file, run it, pick what builds the model
loaded                 a loaded model with its data and loss
hf_target, hf_config, hf_files, hf_tasks   Hugging Face architectures from their configuration
synthetic, batches, next_token, random_state   batches and losses
session                a target in the asked precision on the asked device
trained_parameters     which parameters are trained, and as what
activation_checkpointing   activations computed again in the backward pass
"""

from .load import load_target
from .loaded import LoadedTarget

__all__ = ["LoadedTarget", "load_target"]
