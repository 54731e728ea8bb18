"""Which parameters an optimizer treats as matrices, and why the others go to the fallback: decided here only."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .matrices import matrix_shape

_HEAD_NAME = re.compile(
    r"(^|\.)(lm_head|head|output|decoder|embed_out|logits|classifier|unembed\w*)$"
)

LayerType: TypeAlias = Literal["linear", "conv"]


@dataclass(frozen=True)
class ParameterRole:
    """What becomes of one parameter.

    Attributes:
        name: Its first name in the model.
        shape: Its shape.
        module_type: The class of the module that holds it, such as "Linear".
        layer_type: "linear" or "conv" where it is the weight of a plain layer of torch, whose place another layer could
            take; None elsewhere.
        role: "matrix": the method; "fallback": the fallback optimizer; "frozen": nothing.
        reason: Why, in a few words.
        parameter: The parameter itself.
        inputs_first: Whether its first dimension is the layer's inputs and not, as in `nn.Linear`, its outputs.
    """

    name: str
    shape: tuple[int, ...]
    module_type: str
    layer_type: LayerType | None
    role: Literal["matrix", "fallback", "frozen"]
    reason: str
    parameter: Tensor
    inputs_first: bool = False

    @property
    def shown_name(self) -> str:
        """The name in the model as its author wrote it: without what `torch.compile` puts in front."""
        return shown_name(self.name)


def shown_name(name: str) -> str:
    """Return a parameter's name without the wrappers that `torch.compile` puts around modules."""
    return name.replace("_orig_mod.", "")


_PLAIN: dict[type[nn.Module], LayerType] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv",
}


def parameter_roles(model: nn.Module, exclude: Sequence[str] = ()) -> list[ParameterRole]:
    """Return the role of every parameter, shared ones once.

    A parameter is a matrix if both sides of its matrix view are at least 2, and it is neither an
    embedding, tied to one, nor the output head onto an embedding's vocabulary, and no exclude pattern matches its name.

    Args:
        model: Any module.
        exclude: Regular expressions searched in parameter names, as `shown_name` gives them.
    """
    known = _Known(model)
    result = []
    for name, module, parameter in _parameters(model):
        role, reason = _decide(name, module, parameter, known, exclude)
        result.append(
            ParameterRole(
                name=name,
                shape=tuple(parameter.shape),
                module_type=type(module).__name__,
                layer_type=known.layers.get(id(parameter)),
                role=role,
                reason=reason,
                parameter=parameter,
                inputs_first=_has_inputs_first(module),
            )
        )
    return result


class _Known:
    """What has to be seen of the whole model to judge one parameter.

    Attributes:
        embedded: The ids of embedding tables.
        heads: The ids of output heads onto their vocabularies.
        layers: The type of plain layer by the id of its weight.
        names: All names of a parameter, by its id.
    """

    def __init__(self, model: nn.Module) -> None:
        embeddings = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
        self.embedded = {id(module.weight) for module in embeddings}
        self.heads = _heads(model, {(e.num_embeddings, e.embedding_dim) for e in embeddings})
        self.layers = _plain_layers(model)
        self.names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.names.setdefault(id(parameter), []).append(shown_name(name))


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}.{local}" if prefix else local, module, parameter


def _plain_layers(model: nn.Module) -> dict[int, LayerType]:
    """Return the layer type by the id of its weight: exactly torch's own layers, in one place of the model.

    A subclass may use its weight in a way that only it knows; a weight or a layer that two modules hold cannot change
    for one of them; and the model itself has no place that another layer could take.
    """
    modules = list(model.modules())
    places = Counter(id(child) for module in modules for child in module._modules.values())
    holders = Counter(
        id(parameter) for module in modules for parameter in module._parameters.values()
    )
    layer_types: dict[int, LayerType] = {}
    for module in modules:
        layer_type = _PLAIN.get(type(module))
        if layer_type is None or places[id(module)] != 1 or holders[id(module.weight)] != 1:
            continue
        if layer_type == "linear" or module.groups == 1:
            layer_types[id(module.weight)] = layer_type
    return layer_types


def _decide(
    name: str, module: nn.Module, parameter: Tensor, known: _Known, exclude: Sequence[str]
) -> tuple[Literal["matrix", "fallback", "frozen"], str]:
    if not parameter.requires_grad:
        return "frozen", "does not require a gradient"
    if parameter.dim() < 2:
        return "fallback", "a vector" if parameter.dim() == 1 else "a scalar"
    if matrix_shape(parameter.shape)[0] < 2:
        viewed = "" if parameter.dim() == 2 else "viewed as "
        return "fallback", f"{viewed}a matrix with one row or column"
    names = known.names[id(parameter)]
    if id(parameter) in known.embedded:
        tied = f", tied to {names[1]}" if len(names) > 1 else ""
        return "fallback", f"an embedding{tied}"
    if id(parameter) in known.heads:
        return "fallback", "an output head onto the vocabulary"
    for pattern in exclude:
        if re.search(pattern, shown_name(name)):
            return "fallback", f"its name matches '{pattern}'"
    shared = f", shared with {names[1]}" if len(names) > 1 else ""
    return "matrix", _matrix_reason(module, parameter) + shared


def _matrix_reason(module: nn.Module, parameter: Tensor) -> str:
    """Say which matrix a parameter is, or how it becomes one."""
    first, *others = parameter.shape
    order = ", inputs first" if _has_inputs_first(module) else ""
    if parameter.dim() == 2:
        return f"a matrix{order}"
    view = f"{first} x {math.prod(others)}"
    if isinstance(module, _ConvNd):
        return f"a convolution, viewed as {view}{order}"
    if parameter.dim() == 3:
        return f"{first} matrices of {others[0]} x {others[1]}, viewed as one of {view}"
    return f"a {parameter.dim()}-D parameter, viewed as a matrix of {view}"


def _has_inputs_first(module: nn.Module) -> bool:
    """Whether a layer's weight is inputs x outputs: transposed convolutions, and the `Conv1D` layers of GPT-2."""
    if isinstance(module, _ConvNd):
        return module.transposed
    # Known by name, since transformers need not be installed, and is slow to import.
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def _heads(model: nn.Module, tables: set[tuple[int, int]]) -> set[int]:
    """Return the ids of the weights that map an embedding's width onto its vocabulary, or a padded one.

    Shape alone would also catch a square hidden layer as wide as a byte vocabulary, so a head must carry a head's
    usual name, or be the model's last linear layer and exactly as tall as the vocabulary.
    """
    modules = ((shown_name(name), module) for name, module in model.named_modules())
    linears = [(name, module) for name, module in modules if _is_linear(module)]
    heads = set()
    for name, module in linears:
        tall, wide = module.weight.shape
        if _HEAD_NAME.search(name) and any(tall >= v and wide == d for v, d in tables):
            heads.add(id(module.weight))
    if linears and tuple(linears[-1][1].weight.shape) in tables:
        heads.add(id(linears[-1][1].weight))
    return heads


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) and isinstance(weight, Tensor)
