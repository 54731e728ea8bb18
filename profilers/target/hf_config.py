"""Reading a Hugging Face config.json that somebody else wrote: data only, refused where it asks for more than that."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subopt.errors import TargetError, UsageError, suggestion

from .arguments import Scalar, convert_like

# The largest real ones name 20 000 classes and take 1.5 MB.
_MOST_BYTES = 2**24
# What counts modules or entries of a table: Python would make them one by one long before any memory ran out.
_LAYERS = re.compile(r"^(num|n)_\w*layers?$|^n_layer$|^depths?$")
_MOST_LAYERS = 2_000
_COUNTED = re.compile(r"layer|block|stage|expert|head|label|repeat|codebook|bucket")
_MOST_COUNTED = 10**6
_MOST_POSITIONS = 2**24
# Settings of how a model is run, not of what it is. Some name a kernel to be fetched and loaded as code, one a file of
# weights that nobody has looked at.
_LEFT_OUT = frozenset({
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    *("use_kernels", "quantization_config", "dtype", "torch_dtype", "_commit_hash"),
    "transformers_weights",
})
# What an override cannot change: which model it is, and what only the model's library may set.
_FIXED = frozenset({
    "architectures",
    "auto_map",
    "model_type",
    "transformers_version",
    "id2label",
    "label2id",
})


def read_config(file: Path) -> dict[str, Any]:
    """Return the content of a config.json, without what decides how rather than what is run.

    Raises:
        TargetError: It is no JSON object, names code of its own, or holds counts that no model has.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise TargetError(f"{file} is too large for a model's config", "name a config.json")
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_nan)
        if not isinstance(data, dict):
            raise TargetError(f"{file} is not a model's config: it holds no JSON object")
        _check(data, file)
        return dict(_cleaned(data))
    except OSError as error:
        raise TargetError(f"{file} cannot be read: {error.strerror}") from None
    except RecursionError:  # JSON may nest deeper than Python calls
        raise TargetError(f"{file} is nested too deeply for a model's config") from None
    except ValueError as error:
        raise TargetError(f"{file} is not valid JSON: {error}", "name a config.json") from None


def make_config(data: Mapping[str, Any], file: Path) -> Any:
    """Return transformers' own config object for the content of a config.json.

    Raises:
        TargetError: transformers does not know the model type, or refuses a value.
    """
    from transformers import CONFIG_MAPPING, __version__

    model_type = data.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        near = suggestion(model_type, CONFIG_MAPPING) if isinstance(model_type, str) else ""
        said = "no model_type" if model_type is None else f"model_type {str(model_type)[:60]!r}"
        raise TargetError(
            f"{file} has {said}, and transformers {__version__} knows no such model{near}",
            "correct it, or upgrade transformers if the model is newer",
        )
    content = copy.deepcopy(dict(data))
    del content["model_type"]
    try:
        return CONFIG_MAPPING[model_type].from_dict(content)
    except Exception as error:  # whatever a foreign config makes the library raise
        raise TargetError(
            f"{file} is not a config that transformers accepts: {in_short(error)}",
            "correct the value, or the key=value that changed it",
        ) from error


def override(
    data: Mapping[str, Any],
    config: Any,
    given: Mapping[str, Scalar],
    file: Path,
    own: Mapping[str, Scalar | None],
) -> tuple[dict[str, Any], dict[str, Scalar]]:
    """Return a config's content with fields replaced, and the typed values of all that was given.

    A list with one entry per layer is cut or repeated where the number of layers changes.

    Args:
        data: The content of config.json.
        config: transformers' object of it, which knows the fields and their defaults.
        given: Field names and values, as text or typed.
        file: For messages.
        own: Our own arguments with their defaults, which are no fields of the config.

    Raises:
        UsageError: An unknown field, or a value of the wrong type.
    """
    names: Mapping[str, str] = getattr(config, "attribute_map", {})
    fields = {
        key for key in (*vars(config), *names, *data, "num_labels") if not key.startswith("_")
    }
    fields -= _FIXED | _LEFT_OUT
    changed, values = dict(data), {}
    for key, value in given.items():
        if key in own:
            values[key] = convert_like(file.name, key, str(value), own[key])
            continue
        if key not in fields:
            raise UsageError(
                f"{file.name} has no field '{key}'{suggestion(key, [*fields, *own])}",
                f"other than the fields of the config there are: {', '.join(own)}",
            )
        current = getattr(config, key, None)
        if isinstance(current, (list, tuple, dict)) or hasattr(current, "to_dict"):
            raise UsageError(
                f"'{key}' of {file.name} is no single value, so {key}=... cannot replace it",
                "change it in a copy of the file",
            )
        values[key] = convert_like(file.name, key, str(value), current)
        field = names.get(key, key)
        _check({field: values[key]}, file)  # before lists are made as long as it says
        if field == names.get("num_hidden_layers", "num_hidden_layers"):
            changed = _with_layers(changed, current, values[key])
        if key == "num_labels":
            changed = {k: v for k, v in changed.items() if k not in {"id2label", "label2id"}}
        changed.pop(key, None)  # so that no other spelling of the field remains
        changed[field] = values[key]
    _check(changed, file)
    return changed, values


def in_short(error: BaseException) -> str:
    """Return an error's type and the first lines of its text, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300]}".removesuffix(": ")


def _with_layers(data: dict[str, Any], before: Any, after: Scalar) -> dict[str, Any]:
    if not isinstance(before, int) or not isinstance(after, int) or before < 1:
        return data
    return {
        key: (value * (after // before + 1))[:after]
        if isinstance(value, list) and len(value) == before and key != "architectures"
        else value
        for key, value in data.items()
    }


def _check(data: Mapping[str, Any], file: Path) -> None:
    for key, value in _entries(data):
        if key == "auto_map" and value:
            raise TargetError(
                f"{file} needs code of its own (auto_map), which subopt never runs",
                "where transformers knows the model type itself, take auto_map out of a copy of the file",
            )
        if key == "use_pretrained_backbone" and value:
            raise TargetError(
                f"{file} wants weights of another model (use_pretrained_backbone)",
                "set it to false in a copy of the file",
            )
        if _is_of_another_library(key, value):
            raise TargetError(
                f"{file} has {key}={str(value)[:60]!r}: that part another library would load, from names in the config",
                "write a model.py that builds it, with batches(batch_size)",
            )
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            most = _most(key)
            if most is not None and abs(value) > most:
                raise TargetError(
                    f"{file} has {key}={_in_brief(value)}, which no model has: {most} at most",
                    "correct the number",
                )


def _is_of_another_library(key: str, value: Any) -> bool:
    """Whether a field hands over to timm, whose arguments may name a pickle to load, or names a model to be fetched."""
    if key == "model_type":
        return isinstance(value, str) and value.startswith("timm")
    return (key == "backbone" and isinstance(value, str)) or (key == "model_args" and bool(value))


def _in_brief(number: int | float) -> str:
    try:
        return f"{number:g}"
    except OverflowError:  # an integer beyond what a float holds
        return f"1e{len(str(abs(number))) - 1} or more"


def _most(key: str) -> int | None:
    """Return the largest number that a field may hold; None where only memory limits it."""
    if _LAYERS.search(key):
        return _MOST_LAYERS
    if "position" in key:
        return _MOST_POSITIONS
    return _MOST_COUNTED if _COUNTED.search(key) else None


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every (key, value) at any depth; the items of a list go under the list's key."""
    if isinstance(value, Mapping):
        for inner_key, inner in value.items():
            yield str(inner_key), inner
            yield from _entries(inner, str(inner_key))
    elif isinstance(value, list):
        for inner in value:
            yield key, inner
            yield from _entries(inner, key)


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(inner) for key, inner in value.items() if key not in _LEFT_OUT}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


def _no_nan(constant: str) -> float:
    if constant == "NaN":
        raise ValueError("NaN is no number")
    return float(constant)  # some state space models have an infinite limit
