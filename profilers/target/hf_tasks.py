"""What a Hugging Face architecture is trained on, and random batches of that shape, made from the config alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subopt.errors import TargetError, UsageError

from .arguments import Scalar

DEFAULT_SEQUENCE_LENGTH = 256
DEFAULT_IMAGE_SIZE = 224
_MOST_BATCH_BYTES = 2**32


class Task(NamedTuple):
    """One way of training: the Auto class that builds the model with its loss, and what a batch of it is.

    Attributes:
        name: In words.
        auto_class: The class in transformers that builds a model for it.
        architectures: The table in transformers of its architecture by model type.
        token_inputs: The model's inputs that are the same tokens; none for a model of images.
    """

    name: str
    auto_class: str
    architectures: str
    token_inputs: tuple[str, ...]

    @property
    def argument(self) -> str:
        """Our own argument of such a target, beside `weights`."""
        return "sequence_length" if self.token_inputs else "image_size"

    def draws(self, config: Any, batch_size: int, given: Mapping[str, Any]) -> dict[str, Draw]:
        """Return what is drawn for each of the model's inputs."""
        if not self.token_inputs:
            return _images(config, batch_size, given["image_size"])
        text = _text_config(config, "the config")
        # A padding token stands for nothing: models mask it out, and count positions without it.
        shape = (batch_size, given["sequence_length"])
        return dict.fromkeys(self.token_inputs, Draw(shape, text.vocab_size, _pad_token(text)))


@dataclass(frozen=True)
class Draw:
    """One random tensor: integers below `bound` other than `never`, or normal numbers where there is no bound."""

    shape: tuple[int, ...]
    bound: int | None = None
    never: int | None = None

    def tensor(self) -> Tensor:
        """Return a fresh one from torch's global CPU generator."""
        if self.bound is None:
            return torch.randn(self.shape)
        if self.never is None or not 0 <= self.never < self.bound or self.bound < 2:
            return torch.randint(self.bound, self.shape)
        drawn = torch.randint(self.bound - 1, self.shape)
        return drawn + (drawn >= self.never)


def _images(config: Any, batch_size: int, size: Any) -> dict[str, Draw]:
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    channels = getattr(config, "num_channels", 3)
    # One label is a number to be predicted, and not a class.
    labels = Draw((batch_size,), config.num_labels if config.num_labels > 1 else None)
    return {"pixel_values": Draw((batch_size, channels, height, width)), "labels": labels}


_LANGUAGE = ("input_ids", "labels")
# Where the config names no architecture, the first that the model type has: an encoder can also be read as a causal
# model, and hardly ever is.
TASKS = (
    Task(
        "sequence to sequence model",
        "AutoModelForSeq2SeqLM",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        ("input_ids", "decoder_input_ids", "labels"),
    ),
    Task(
        "masked language model",
        "AutoModelForMaskedLM",
        "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
        _LANGUAGE,
    ),
    Task(
        "causal language model",
        "AutoModelForCausalLM",
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        _LANGUAGE,
    ),
    Task(
        "image classifier",
        "AutoModelForImageClassification",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        (),
    ),
)


def pick_task(config: Any, file: object) -> tuple[Task, str]:
    """Return what a config's model is trained on, and the name of its architecture.

    A config may name the bare model, which has no loss; then the first task its model type has is taken.

    Raises:
        TargetError: It names an architecture of another task, or its model type has none of these.
    """
    from transformers.models.auto import modeling_auto

    by_task: dict[str, tuple[str, ...]] = {}
    for task in TASKS:
        found = getattr(modeling_auto, task.architectures).get(config.model_type, ())
        by_task[task.name] = (found,) if isinstance(found, str) else tuple(found)
    listed = config.architectures
    listed = listed if isinstance(listed, (list, tuple)) else [listed]
    named = [name for name in listed if isinstance(name, str)]
    for task in TASKS:
        for name in named:
            if name in by_task[task.name]:
                return task, name
    bare = not named or all(name.endswith("Model") for name in named)
    for task in TASKS if bare else ():
        if by_task[task.name]:
            return task, by_task[task.name][0]
    what = f"architecture {named[0][:60]}" if named else f"model type {config.model_type}"
    known = ", ".join(task.name for task in TASKS)
    raise TargetError(
        f"{file}: its {what} is none of those that subopt makes data for: {known}",
        "write a model.py that builds it, with batches(batch_size)",
    )


def task_arguments(
    task: Task, config: Any, given: Mapping[str, Scalar], file: object
) -> dict[str, Any]:
    """Return our own arguments with what the config says where none was given.

    Raises:
        UsageError: A size the model cannot have.
    """
    if not task.token_inputs:
        size = getattr(config, "image_size", None) or given.get("image_size", DEFAULT_IMAGE_SIZE)
        for side in size if isinstance(size, (list, tuple)) else (size,):
            _size("image_size", side)
        return {"image_size": size}
    most = _most_positions(config, file)
    default = min(DEFAULT_SEQUENCE_LENGTH, most or DEFAULT_SEQUENCE_LENGTH)
    length = _size("sequence_length", given.get("sequence_length", default))
    if most is not None and length > most:
        raise UsageError(
            f"sequence_length={length} is more than the {most} positions that {file} gives the model",
            f"raise max_position_embeddings too, or stay at {most}",
        )
    return {"sequence_length": length}


def random_batches(
    task: Task, config: Any, batch_size: int, given: Mapping[str, Any]
) -> Iterator[dict[str, Tensor]]:
    """Yield random batches without end.

    Raises:
        TargetError: One would take more memory than any batch should.
    """
    draws = task.draws(config, batch_size, given)
    size = 8 * sum(math.prod(draw.shape) for draw in draws.values())
    if size > _MOST_BATCH_BYTES:
        raise TargetError(
            f"one synthetic batch of {batch_size} would take {size / 2**30:.0f} GiB",
            "lower --batch-size, sequence_length or the image size",
        )
    while True:
        yield {name: draw.tensor() for name, draw in draws.items()}


def _text_config(config: Any, file: object) -> Any:
    """Return what the config says of the part that reads text."""
    try:
        found = config.get_text_config()
    except ValueError:  # there are several
        found = None
    if found is None or isinstance(found, Mapping):
        raise TargetError(
            f"{file} describes no single part of the model that reads text",
            "write a model.py that builds it, with batches(batch_size)",
        )
    return found


def _most_positions(config: Any, file: object) -> int | None:
    """Return how long a sequence may be; None where nothing in the config limits it."""
    positions = getattr(_text_config(config, file), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    # RoBERTa's family counts from behind its padding token on, in a table that has all positions before it too.
    first = (_pad_token(config) or 0) + 1 if "roberta" in config.model_type else 0
    return max(1, positions - first)


def _pad_token(config: Any) -> int | None:
    token = getattr(config, "pad_token_id", None)
    return token if isinstance(token, int) and token >= 0 else None


def _size(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name}={value} is no size", "give a whole number from 1")
    return value
