"""A model's weights as a safetensors file, tied weights stored once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from subopt.errors import FileFormatError
from subopt.optimizers import stored_bytes

from .disk import in_one_step

_ALIAS = "alias:"


def save_weights(
    state: Mapping[str, Any], path: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Write a model's state dict; a name that shares another's memory is noted, not stored again.

    The file appears complete or not at all. Its metadata holds `notes` too.

    Raises:
        FileFormatError: Something in the state is not a tensor.
    """
    kept: dict[tuple[object, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    metadata = {"format": "pt", **(notes or {})}
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise FileFormatError(
            f"the model keeps '{odd[0]}' in its state, which is not a tensor and cannot be saved",
            "leave get_extra_state out of the model, or register a buffer",
        )
    for name, value in state.items():
        tensor = value.detach()
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and identity in kept:
            metadata[_ALIAS + name] = kept[identity]
            continue
        kept[identity] = name
        # a copy where the tensor is a view: the file format stores whole, contiguous tensors
        is_view = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
        tensors[name] = (tensor.clone() if is_view else tensor).contiguous()
    with in_one_step(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata)
        partial.chmod(mode)  # what the user's umask says; safetensors makes it the owner's alone


def load_weights(model: nn.Module, path: Path) -> None:
    """Load what `save_weights` wrote.

    Raises:
        FileFormatError: The file is damaged, or its names or shapes are not this model's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}") from None
    for name, kept in metadata.items():
        if name.startswith(_ALIAS):
            if kept not in tensors:
                raise FileFormatError(f"{path} is damaged: it has no weights named {kept[:60]}")
            tensors[name.removeprefix(_ALIAS)] = tensors[kept]
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise FileFormatError(
            f"{path} does not fit this model: {first}",
            "the model was built differently when this was saved: check model.kwargs and the model file",
        ) from None


def all_finite(model: nn.Module) -> bool:
    """Return whether every floating-point parameter is finite. Waits for the device once."""
    flags = [torch.isfinite(p).all() for p in model.parameters() if p.is_floating_point()]
    return not flags or bool(torch.stack([flag.cpu() for flag in flags]).all())


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def actual_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the tensors an optimizer holds."""
    return sum(
        stored_bytes(value)
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
