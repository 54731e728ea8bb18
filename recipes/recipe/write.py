"""Writing a recipe: YAML with a comment for every choice, which loads back as the same recipe."""

from __future__ import annotations

from typing import Any

import yaml

from ..schema import Recipe
from .yaml_source import Dumper

# What each key is for, in the reader's words. A key without an entry speaks for itself.
COMMENTS = {
    "schema_version": "version of this file's format",
    "model.target": "model file, relative to this recipe: path/model.py, or path/model.py:attribute",
    "model.kwargs": "arguments of build_model",
    "model.sha256": "the model file this was made for; a changed file is refused without --force",
    "data.batch_size": "examples per micro-batch: sets the activation memory",
    "data.accumulate": "micro-batches per optimizer step: more data per step for no memory",
    "data.files": "text, JSON Lines, Parquet or a data set, relative to this recipe; null: the model's own batches",
    "data.files.train": "files, or patterns such as texts/*.txt",
    "data.files.eval": "held-out files: never trained on",
    "data.files.held_out": "share of train that is held out where eval is empty",
    "data.files.format": "text, jsonl, parquet or dataset; null: by the files' names",
    "data.files.field": "where the text is in JSON Lines, Parquet or a data set",
    "data.files.tokenizer": "bytes, a tokenizer.json, the folder with one, or hf:NAME",
    "data.files.separator": "token between documents; null: the tokenizer's end of text",
    "data.files.sequence_length": "tokens of an example",
    "data.files.shuffle": "false: in the order of the files",
    "optimizer.method": "what trains the matrices; `subopt methods` lists them",
    "optimizer.lr": "peak learning rate of the matrices",
    "optimizer.weight_decay": "decoupled: weights shrink by lr x this each step",
    "optimizer.options": "what differs from the method's defaults",
    "optimizer.fallback": "trains embeddings, head, norms and biases; null: the method's own choice and its lr",
    "optimizer.overrides": "other settings for parameters by name; the first match wins",
    "schedule.name": "constant, cosine or linear",
    "schedule.warmup_steps": "steps over which the learning rate rises to its peak",
    "schedule.steps": "optimizer steps of the whole run",
    "schedule.final_ratio": "learning rate of the last step, as a share of the peak",
    "clip_norm": "longest gradient passed on, all parameters together; null: no clipping",
    "precision": "fp32, bf16 (weights too) or bf16-mixed (arithmetic only)",
    "recompute": "compute blocks again in the backward pass: less memory, a third more time",
    "fused_backward": "move each weight as its gradient comes, and free that: less memory",
    "compile": "torch.compile: faster steps after minutes of compiling; rounds differently",
    "eval.every": "held-out loss every so many steps; 0: only at the end",
    "eval.batches": "held-out batches of one evaluation",
    "checkpoint.every": "a checkpoint every so many steps; 0: only at the end",
    "checkpoint.keep": "newest checkpoints kept",
    "checkpoint.best": "keep the weights of the lowest held-out loss too, in best/",
    "seed": "initial weights, data order and dropout",
    "why": "what the choice rests on; training only compares its predictions with what happens",
}
_COMMENT_COLUMN = 34
_WIDEST_LINE = 110
_DOCUMENT_END = "\n...\n"


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as commented YAML.

    `parse_recipe(dump_recipe(recipe)) == recipe` for every valid recipe.
    """
    data = recipe.model_dump(mode="json")
    lines = ["# A training run of subopt. Train with: subopt train THIS_FILE"]
    for key, value in data.items():
        if isinstance(value, dict):
            lines.append("")
        lines += _entry(key, value, key)
    return "\n".join(lines) + "\n"


def _entry(key: str, value: Any, dotted: str, indent: str = "") -> list[str]:
    """One key: on one line where it is short, as a block below its comment where it is not.

    A section, and a mapping whose keys have comments of their own, are always a block.
    """
    if isinstance(value, dict) and (
        dotted == key or any(f"{dotted}.{inner}" in COMMENTS for inner in value)
    ):
        lines = [_with_comment(f"{indent}{key}:", dotted)]
        for inner, content in value.items():
            lines += _entry(inner, content, f"{dotted}.{inner}", f"{indent}  ")
        return lines
    # a bare scalar is a whole document to PyYAML, which ends it with "..."
    flat = f"{key}: {_yaml(value, flow=True).removesuffix(_DOCUMENT_END).rstrip()}"
    if len(indent) + len(flat) <= _WIDEST_LINE or not isinstance(value, dict | list):
        return [_with_comment(indent + flat, dotted)]
    block = _yaml(value, flow=False)
    return [
        _with_comment(f"{indent}{key}:", dotted),
        *(f"{indent}  {line}" for line in block.splitlines()),
    ]


def _yaml(value: Any, *, flow: bool) -> str:
    # PyYAML writes some line separators of Unicode bare and then cannot read them: escape all but plain text
    plain = all(character.isprintable() for character in _texts(value))
    return yaml.dump(
        value,
        Dumper=Dumper,
        default_flow_style=flow,
        sort_keys=False,
        allow_unicode=plain,
        width=2**30,
    )


def _texts(value: Any) -> str:
    """Return all the text in a value, keys included."""
    if isinstance(value, dict):
        return "".join(str(key) + _texts(inner) for key, inner in value.items())
    if isinstance(value, list):
        return "".join(map(_texts, value))
    return str(value)


def _with_comment(line: str, dotted: str) -> str:
    comment = COMMENTS.get(dotted)
    if comment is None:
        return line
    if len(line) < _COMMENT_COLUMN:
        return f"{line:<{_COMMENT_COLUMN}}# {comment}"
    indent = line[: len(line) - len(line.lstrip())]
    return f"{indent}# {comment}\n{line}"
