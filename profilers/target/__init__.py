"""The user's model and data. Exported scripts import from here.

load, builder, arguments, user_code   find the file, run it, pick what builds the model
loaded                 a loaded model, and the data that trains it
training_data          batches and their loss: the user's, random, or of data files
hf_target, hf_config, hf_files, hf_tasks   Hugging Face architectures from their configuration
synthetic, batches, next_token, random_state   batches and losses
session                a target in the asked precision on the asked device
trained_parameters     which parameters are trained, and as what
activation_checkpointing   activations computed again in the backward pass
"""

from .activation_checkpointing import recompute_blocks
from .batches import BatchStream
from .load import load_target
from .loaded import LoadedTarget
from .training_data import TrainingData

__all__ = ["BatchStream", "LoadedTarget", "TrainingData", "load_target", "recompute_blocks"]
