"""Which parameters an optimizer treats as matrices, and why the others go to the fallback: decided here only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from .matrices import matrix_shape

_HEAD_NAME = re.compile(
    r"(^|\.)(lm_head|head|output|decoder|embed_out|logits|classifier|unembed\w*)$"
)

LayerKind: TypeAlias = Literal["linear", "conv"]


@dataclass(frozen=True)
class Treatment:
    """What becomes of one parameter.

    Attributes:
        name: Its first name in the model.
        shape: Its shape.
        kind: The class of the module that holds it, such as "Linear".
        layer_kind: "linear" or "conv" where it is the weight of a plain layer of torch, whose place another layer could
            take; None elsewhere.
        treatment: "matrix": the method; "fallback": the fallback optimizer; "frozen": nothing.
        reason: Why, in a few words.
        parameter: The parameter itself.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    layer_kind: LayerKind | None
    treatment: Literal["matrix", "fallback", "frozen"]
    reason: str
    parameter: Tensor


_PLAIN: dict[type[nn.Module], LayerKind] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv",
}


def treatments(model: nn.Module, exclude: Sequence[str] = ()) -> list[Treatment]:
    """Return the treatment of every parameter, shared ones once.

    A parameter gets the matrix treatment if both sides of its matrix view are at least 2, and it is neither an
    embedding, tied to one, nor the output head onto an embedding's vocabulary, and no exclude pattern matches its name.

    Args:
        model: Any module.
        exclude: Regular expressions searched in parameter names.
    """
    embeddings = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    embedded = {id(module.weight) for module in embeddings}
    heads = _heads(model, {(e.num_embeddings, e.embedding_dim) for e in embeddings})
    layers = _plain_layers(model)
    result = []
    for name, kind, parameter in _parameters(model):
        treatment, reason = _decide(name, parameter, embedded, heads, exclude)
        shape, layer_kind = tuple(parameter.shape), layers.get(id(parameter))
        result.append(Treatment(name, shape, kind, layer_kind, treatment, reason, parameter))
    return result


def _parameters(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}.{local}" if prefix else local, type(module).__name__, parameter


def _plain_layers(model: nn.Module) -> dict[int, LayerKind]:
    """Return the kind of layer by the id of its weight: exactly torch's own layers, held in one place of the model.

    A subclass may use its weight in a way that only it knows; a weight or a layer that two modules hold cannot change
    for one of them; and the model itself has no place that another layer could take.
    """
    modules = list(model.modules())
    places = Counter(id(child) for module in modules for child in module._modules.values())
    holders = Counter(
        id(parameter) for module in modules for parameter in module._parameters.values()
    )
    kinds: dict[int, LayerKind] = {}
    for module in modules:
        kind = _PLAIN.get(type(module))
        if kind is None or places[id(module)] != 1 or holders[id(module.weight)] != 1:
            continue
        if kind == "linear" or module.groups == 1:
            kinds[id(module.weight)] = kind
    return kinds


def _decide(
    name: str, parameter: Tensor, embedded: set[int], heads: set[int], exclude: Sequence[str]
) -> tuple[Literal["matrix", "fallback", "frozen"], str]:
    if not parameter.requires_grad:
        return "frozen", "does not require a gradient"
    if parameter.dim() < 2:
        return "fallback", "a vector" if parameter.dim() == 1 else "a scalar"
    if matrix_shape(parameter.shape)[0] < 2:
        return "fallback", "a matrix with one row or column"
    if id(parameter) in embedded:
        return "fallback", "an embedding, or tied to one"
    if id(parameter) in heads:
        return "fallback", "an output head onto the vocabulary"
    for pattern in exclude:
        if re.search(pattern, name):
            return "fallback", f"its name matches '{pattern}'"
    m, n = matrix_shape(parameter.shape)
    viewed = f", viewed as {parameter.shape[0]} x {m * n // parameter.shape[0]}"
    return "matrix", "a matrix" + (viewed if parameter.dim() > 2 else "")


def _heads(model: nn.Module, tables: set[tuple[int, int]]) -> set[int]:
    """Return the ids of the weights that map an embedding's width onto its vocabulary, or a padded one.

    Shape alone would also catch a square hidden layer as wide as a byte vocabulary, so a head must carry a head's
    usual name, or be the model's last linear layer and exactly as tall as the vocabulary.
    """
    linears = [(name, module) for name, module in model.named_modules() if _is_linear(module)]
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
